"""What the tests of generated text share: tools, and an answer read in pieces of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from engine.generation.output import OutputParser, Parsed
from engine.transport.generation import Tool, ToolCall

WEATHER = Tool(
    name="get_weather",
    description="The weather of a day.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "units": {"enum": ["metric", "us"]}},
        "required": ["city"],
    },
)
ADD = Tool(name="add", parameters={"properties": {"numbers": {"type": "array", "items": {"type": "number"}}}})
TOOLS = [WEATHER, ADD]


def numbered() -> Callable[[], str]:
    """Makes ids that tests can foretell."""
    numbers = count()
    return lambda: f"id{next(numbers)}"


def pieces(text: str, size: int) -> Iterable[str]:
    """`text` in pieces of so many characters."""
    return (text[at : at + size] for at in range(0, len(text), size))


def put_together(parsed: Iterable[Parsed]) -> tuple[str, str, list[ToolCall]]:
    """The content, the reasoning and the calls of a whole answer."""
    content = reasoning = ""
    calls: list[ToolCall] = []
    for part in parsed:
        content += part.content
        reasoning += part.reasoning
        for delta in part.tool_calls:
            if delta.id is not None:
                assert delta.index == len(calls)
                assert delta.name is not None
                calls.append(ToolCall(id=delta.id, name=delta.name, arguments=""))
            calls[delta.index].arguments += delta.arguments
    return content, reasoning, calls


def read(parser: OutputParser, text: str, size: int) -> tuple[str, str, list[ToolCall]]:
    """What a parser makes of an answer that comes in pieces."""
    content, reasoning, calls = put_together([*(parser.feed(piece) for piece in pieces(text, size)), parser.finish()])
    assert parser.called == bool(calls)
    return content, reasoning, calls
