"""Chat templates: from a conversation to the prompt of a model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateSyntaxError

from backends.generation import IMAGE
from engine.errors import InvalidInput, InvalidOption
from engine.generation.reasoning import reasoning_format
from engine.generation.sandbox import Refusal, Sandbox, TooMuchWork
from engine.generation.tools import HERMES, ToolFormat, tool_format
from engine.transport.generation import ImagePart, Message, TextPart, Tool, ToolCall

Entry = dict[str, Any]
"""A message as templates expect it."""

_OPTION = "config.chat_template"
_PROBE = "qzprobe"
_SENTINEL = "\ue000continue\ue000"
"""Marks where an open message ends. Of the private use area: no user's text has it by chance."""
_OURS = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt, with one `IMAGE` in it for each of the images."""

    text: str
    images: tuple[bytes, ...]


class ChatTemplate:
    """A chat template in Jinja, as models bring it in their files.

    What it can show is found by trying. What it cannot is written in another way, so that any chat model can be used in
    any way:

    - Tools are described in the system message, with the request to call them in the form that the template shows
      calls in, or, where it knows none that we can read, as ``<tool_call>{…}</tool_call>``.
    - Calls in the conversation become text of that form, and what tools returned, messages of the user.
    - A system message goes before the first message of the user.
    - The role ``developer`` becomes ``system``.
    - Images become `IMAGE`, the backend's mark, wherever they are.
    """

    def __init__(self, source: str, bos: str, eos: str, sandbox: Sandbox | None = None) -> None:
        """Raises `InvalidOption` when the template cannot even show a plain question."""
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = (sandbox or Sandbox()).compiled(source)
        except TemplateSyntaxError as e:
            raise InvalidOption(
                f"The chat template has a mistake in line {e.lineno}: {e.message}", field=_OPTION
            ) from None
        except Exception as e:
            raise InvalidOption(f"The chat template cannot be used: {e}", field=_OPTION) from None
        self.supports_tools = self._tools_in_message = False
        self._typed = False
        """Whether content must be a list of parts."""
        self._none: dict[str, Any] = {"tools": None}
        """What the template gets when there are no tools."""
        self._find_form()
        self.supports_system = self._shows([{"role": "system", "content": _PROBE}, {"role": "user", "content": "Hi"}])
        self._developer = "developer" if "'developer'" in source or '"developer"' in source else "system"
        known = tool_format(source)
        self.tool_format = known or HERMES
        """How the model is to write calls."""
        self.supports_tools = known is not None and self._probe_tools()
        self._string_arguments = self._short_ids = False
        self._no_content: str | None = ""
        """What stands for the content of a message that only has calls."""
        self._calls = known is not None and self._probe_calls()
        self._results = known is not None and self._probe_results()
        self.reasoning = reasoning_format(source)
        """How the model marks what it thinks; `None` when it does not think."""

    @property
    def thinks(self) -> bool:
        """Whether the model may think before it answers."""
        return self.reasoning is not None

    def render(
        self, messages: list[Message], tools: list[Tool], options: dict[str, Any], continue_message: bool
    ) -> Rendered:
        """The prompt for the next message of the assistant, or for the rest of the last one.

        `options` are further variables of the template. Raises `InvalidInput` when the template does not take this
        conversation.
        """
        reserved = sorted(_OURS & options.keys())
        if reserved:
            raise InvalidInput(
                f"The template option {reserved[0]!r} is set by the request itself; leave it out.",
                field=f"template_options.{reserved[0]}",
            )
        images: list[bytes] = []
        entries = self._entries(messages, tools, images)
        if continue_message:
            self._leave_open(messages, entries)
        try:
            text = self._run(entries, tools, options, add_generation_prompt=not continue_message)
        except Refusal as e:
            raise InvalidInput(f"The model's chat template refuses this conversation: {e}", field="messages") from None
        except TooMuchWork as e:
            raise InvalidInput(f"The model's chat template fails: {e}.", field="messages") from None
        except Exception as e:
            raise InvalidInput(
                f"The model's chat template cannot show this conversation ({type(e).__name__}: {str(e)[:300]}).",
                field="template_options" if options else "messages",
            ) from None
        if continue_message:
            text, found, _ = text.rpartition(_SENTINEL)
            if not found:
                raise InvalidInput(
                    "The model's chat template does not show the last message, so the model cannot continue it.",
                    field="messages",
                )
        if text.count(IMAGE) != len(images):
            raise InvalidInput(
                "The model's chat template does not show every image of this conversation once, or its text holds the "
                f"reserved mark {IMAGE}.",
                field="messages",
            )
        return Rendered(text, tuple(images))

    # --- what the template is given ---

    def _run(self, entries: list[Entry], tools: list[Tool], options: dict[str, Any], **flags: bool) -> str:
        described = [_described(tool) for tool in tools] if self.supports_tools and not self._tools_in_message else []
        if self._typed:
            entries = [{**e, "content": [{"type": "text", "text": e["content"] or ""}]} for e in entries]
        with_tools = {"tools": described} if described else self._none
        return self._template({**self._tokens, **options, **with_tools, "messages": entries, **flags})

    def _entries(self, messages: list[Message], tools: list[Tool], images: list[bytes]) -> list[Entry]:
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        entries = [self._entry(message, names, images) for message in messages]
        if tools and not self.supports_tools:
            _add_to_system(entries, _description(tools, self.tool_format))
        elif tools and self._tools_in_message:
            _add_to_system(entries, "")["tools"] = json.dumps([_described(tool)["function"] for tool in tools])
        if not self.supports_system and entries and entries[0]["role"] == "system":
            system = entries.pop(0)["content"]
            first = next((e for e in entries if e["role"] == "user"), None)
            if first is None:
                entries.insert(0, {"role": "user", "content": system})
            else:
                first["content"] = f"{system}\n\n{first['content']}"
        return entries

    def _entry(self, message: Message, names: dict[str, str], images: list[bytes]) -> Entry:
        entry: Entry = {"role": message.role, "content": _text_of(message.content, images)}
        if message.name is not None:
            entry["name"] = message.name
        if message.role == "developer":
            entry["role"] = self._developer
        elif message.role == "assistant":
            if message.reasoning:
                entry["reasoning_content"] = entry["thinking"] = message.reasoning
            if message.tool_calls and self._calls:
                entry["tool_calls"] = [self._call(call) for call in message.tool_calls]
                entry["content"] = entry["content"] or self._no_content
            elif message.tool_calls:
                calls = [
                    ToolCall(id=call.id, name=call.name, arguments=json.dumps(_arguments(call), ensure_ascii=False))
                    for call in message.tool_calls
                ]
                parts = [entry["content"], self.tool_format.write(calls)]
                entry["content"] = "\n".join(part for part in parts if part)
        elif message.role == "tool":
            name = message.name or names.get(message.tool_call_id or "", "")
            if self._results:
                entry |= {"name": name, "tool_call_id": self._id(message.tool_call_id or "")}
            else:
                entry = {"role": "user", "content": f"<tool_response>\n{entry['content']}\n</tool_response>"}
        return entry

    def _call(self, call: ToolCall) -> Entry:
        arguments = _arguments(call)
        function = {"name": call.name, "arguments": json.dumps(arguments) if self._string_arguments else arguments}
        return {"type": "function", "id": self._id(call.id), "function": function}

    def _id(self, call_id: str) -> str:
        """An id as the template takes it: some want nine letters or digits exactly."""
        if self._short_ids and not (len(call_id) == 9 and call_id.isalnum()):
            return hashlib.sha256(call_id.encode()).hexdigest()[:9]
        return call_id

    def _leave_open(self, messages: list[Message], entries: list[Entry]) -> None:
        last = messages[-1] if messages else None
        if last is None or last.role != "assistant" or last.tool_calls:
            raise InvalidInput(
                "Only a message of the assistant, without calls of tools, can be continued, and it must be the last.",
                field="messages",
            )
        entries[-1]["content"] += _SENTINEL

    # --- what it is found to know ---

    def _find_form(self) -> None:
        """Finds how the template takes a plain question."""
        failures = []
        for self._typed in (False, True):
            for self._none in ({"tools": None}, {}):
                try:
                    text = self._run([{"role": "user", "content": _PROBE}], [], {}, add_generation_prompt=True)
                except Exception as e:
                    failures.append(str(e) or type(e).__name__)
                else:
                    if _PROBE in text:
                        return
                    failures.append("it leaves out the content")
        raise InvalidOption(f"The chat template cannot show a question: {failures[0]}", field=_OPTION)

    def _shows(self, entries: list[Entry], tools: list[Tool] | None = None) -> bool:
        try:
            return _PROBE in self._run(entries, tools or [], {}, add_generation_prompt=True)
        except Exception:
            return False

    def _probe_tools(self) -> bool:
        tool = Tool(name=_PROBE, description="d", parameters={"type": "object", "properties": {}})
        self.supports_tools = True  # so that the template gets them
        if self._shows([{"role": "user", "content": "Hi"}], tools=[tool]):
            return True
        described = json.dumps([_described(tool)["function"]])
        system = {"role": "system", "content": "", "tools": described}
        self._tools_in_message = self._shows([system, {"role": "user", "content": "Hi"}])
        return self._tools_in_message

    def _probe_calls(self) -> bool:
        """Whether calls in a conversation are shown, having found how the template wants them."""
        for self._short_ids, self._string_arguments in ((False, False), (False, True), (True, False), (True, True)):
            for self._no_content in (None, ""):
                if self._shows_call():
                    return True
        self._short_ids = self._string_arguments = False
        return False

    def _shows_call(self) -> bool:
        arguments = json.dumps({"place": f"{_PROBE}2"})
        call = self._call(ToolCall(id="call_abcdefghi", name=_PROBE, arguments=arguments))
        assistant = {"role": "assistant", "content": self._no_content, "tool_calls": [call]}
        result = {"role": "tool", "content": "x", "name": _PROBE, "tool_call_id": call["id"]}
        entries: list[Entry] = [{"role": "user", "content": "Hi"}, assistant, result]
        try:
            text = self._run(entries, [], {}, add_generation_prompt=True)
        except Exception:
            return False
        return _PROBE in text and f"{_PROBE}2" in text and "None" not in text

    def _probe_results(self) -> bool:
        call = self._call(ToolCall(id="call_abcdefghi", name="lookup", arguments="{}"))
        calling = {"content": self._no_content, "tool_calls": [call]} if self._calls else {"content": "Wait."}
        result = {"role": "tool", "content": _PROBE, "name": "lookup", "tool_call_id": call["id"]}
        return self._shows([{"role": "user", "content": "Hi"}, {"role": "assistant", **calling}, result])


def _text_of(content: str | list[TextPart | ImagePart], images: list[bytes]) -> str:
    """Content as one text, in which each image, which is added to `images`, has its mark."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        if isinstance(part, ImagePart):
            images.append(part.data)
            texts.append(IMAGE)
        else:
            texts.append(part.text)
    return "".join(texts)


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidInput(
            f"The arguments of the call of {call.name!r} are not a JSON object: {call.arguments[:100]!r}.",
            field="messages",
        )
    return arguments


def _described(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _description(tools: list[Tool], form: ToolFormat) -> str:
    """Tools in words, for a model whose template knows none."""
    functions = "\n".join(json.dumps(_described(tool)["function"], ensure_ascii=False) for tool in tools)
    example = form.write([ToolCall(id="", name="function_name", arguments='{"argument": "value"}')])
    return (
        "You can call functions. Each of these lines describes one; its parameters are a JSON Schema:\n"
        f"{functions}\n"
        "To call a function, answer in exactly this form, with its name and its arguments:\n"
        f"{example}\n"
        "What it returns will come in the next message."
    )


def _add_to_system(entries: list[Entry], text: str) -> Entry:
    """The system message, with `text` added to it."""
    if not entries or entries[0]["role"] != "system":
        entries.insert(0, {"role": "system", "content": ""})
    entries[0]["content"] = "\n\n".join(part for part in (entries[0]["content"], text) if part)
    return entries[0]
