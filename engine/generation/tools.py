"""The ways in which models write calls of tools, and the choice of the one that a chat template means.

`engine.generation.calls` reads them; `ToolFormat.write` and the grammars write them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from engine.transport.generation import ToolCall


@dataclass(frozen=True)
class ToolFormat:
    """How calls look. All of them together are ``begin + call + between + call + … + end``."""

    name: str
    begin: str
    call: str
    """One call; `NAME` and `ARGUMENTS` stand for its parts."""
    between: str
    end: str
    openers: tuple[str, ...]
    """What shows, in an answer, that calls follow; `begin` starts with one of them unless the format is `bare`."""
    style: Literal["json", "xml", "glm", "harmony"] = "json"
    """How arguments are written: as a JSON object, between marks of two kinds, or in a channel of their own."""
    head: str = ""
    """Of formats whose name stands before the object of arguments: a regular expression of all that precedes it, with
    the name as its group. In other formats, name and arguments are members of an object."""
    tail: tuple[str, ...] = ()
    """Marks that may follow, in this order, a call or a list of calls."""
    separators: str = ""
    """Characters of which one may stand between calls, where they are not in a list."""
    bare: bool = False
    """Whether an answer may also begin with a call right away, without an opener."""

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        return self.begin + self.between.join(map(self._call, calls)) + self.end

    def _call(self, call: ToolCall) -> str:
        if self.style in ("xml", "glm"):
            arguments = "".join(
                self.parameter(name, value if isinstance(value, str) else msgspec.json.encode(value).decode())
                for name, value in msgspec.json.decode(call.arguments).items()
            )
        else:
            arguments = call.arguments
        before, after = self.call.split("ARGUMENTS")
        return before.replace("NAME", call.name) + arguments + after

    def parameter(self, name: str, value: str) -> str:
        """An argument, in the formats that have no JSON around them."""
        if self.style == "glm":
            return f"<arg_key>{name}</arg_key>\n<arg_value>{value}</arg_value>\n"
        return f"<parameter={name}>\n{value}\n</parameter>\n"


_ARGUMENTS_OBJECT = '{"name": "NAME", "arguments": ARGUMENTS}'

HERMES = ToolFormat(
    name="hermes",
    begin="<tool_call>\n",
    call=_ARGUMENTS_OBJECT,
    between="\n</tool_call>\n<tool_call>\n",
    end="\n</tool_call>",
    openers=("<tool_call>",),
    tail=("</tool_call>",),
)
LLAMA = ToolFormat(
    name="llama",
    begin="",
    call='{"name": "NAME", "parameters": ARGUMENTS}',
    between="; ",
    end="",
    openers=("<|python_tag|>",),
    separators=";,",
    bare=True,
)
MISTRAL = ToolFormat(
    name="mistral",
    begin="[TOOL_CALLS][",
    call=_ARGUMENTS_OBJECT,
    between=", ",
    end="]",
    openers=("[TOOL_CALLS]",),
    head=r"\s*([\w.:/-]+)\s*(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\])?\s*(?=\{)",
)
MISTRAL_ARGS = ToolFormat(
    name="mistral-args",
    begin="[TOOL_CALLS]",
    call="NAME[ARGS]ARGUMENTS",
    between="[TOOL_CALLS]",
    end="",
    openers=MISTRAL.openers,
    head=MISTRAL.head,
)
DEEPSEEK = ToolFormat(
    name="deepseek",
    begin="<｜tool▁calls▁begin｜>",
    call="<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```<｜tool▁call▁end｜>",
    between="\n",
    end="<｜tool▁calls▁end｜>",
    openers=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    head=r"\s*(?:<｜tool▁call▁begin｜>)?\s*function<｜tool▁sep｜>\s*([\w.:/-]+)\s*(?:```json)?\s*(?=\{)",
    tail=("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
)
DEEPSEEK_PLAIN = ToolFormat(
    name="deepseek-plain",
    begin="<｜tool▁calls▁begin｜>",
    call="<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜>",
    between="",
    end="<｜tool▁calls▁end｜>",
    openers=DEEPSEEK.openers,
    head=r"\s*(?:<｜tool▁call▁begin｜>)?\s*([\w.:/-]+)\s*<｜tool▁sep｜>\s*(?=\{)",
    tail=DEEPSEEK.tail,
)
KIMI = ToolFormat(
    name="kimi",
    begin="<|tool_calls_section_begin|>",
    call="<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>ARGUMENTS<|tool_call_end|>",
    between="",
    end="<|tool_calls_section_end|>",
    openers=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    head=r"\s*(?:<\|tool_call_begin\|>)?\s*(?:functions\.)?([\w./-]+?)(?::\d+)?\s*<\|tool_call_argument_begin\|>\s*(?=\{)",
    tail=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
)
GRANITE = ToolFormat(
    name="granite",
    begin="<|tool_call|>[",
    call=_ARGUMENTS_OBJECT,
    between=", ",
    end="]",
    openers=("<|tool_call|>", "<tool_call>"),
    tail=("</tool_call>",),
)
PHI = ToolFormat(
    name="phi",
    begin="<|tool_call|>[",
    call=_ARGUMENTS_OBJECT,
    between=", ",
    end="]<|/tool_call|>",
    openers=("<|tool_call|>",),
    tail=("<|/tool_call|>",),
)
COMMAND_R = ToolFormat(
    name="command-r",
    begin="<|START_ACTION|>[\n",
    call='    {"tool_call_id": "0", "tool_name": "NAME", "parameters": ARGUMENTS}',
    between=",\n",
    end="\n]<|END_ACTION|>",
    openers=("<|START_ACTION|>",),
    tail=("<|END_ACTION|>",),
)
NEMOTRON = ToolFormat(
    name="nemotron",
    begin="<TOOLCALL>[",
    call=_ARGUMENTS_OBJECT,
    between=", ",
    end="]</TOOLCALL>",
    openers=("<TOOLCALL>",),
    tail=("</TOOLCALL>",),
)
APRIEL = ToolFormat(
    name="apriel",
    begin="<tool_calls>[",
    call=_ARGUMENTS_OBJECT,
    between=", ",
    end="]</tool_calls>",
    openers=("<tool_calls>",),
    tail=("</tool_calls>",),
)
QWEN_XML = ToolFormat(
    name="qwen-xml",
    begin="<tool_call>\n",
    call="<function=NAME>\nARGUMENTS</function>",
    between="\n</tool_call>\n<tool_call>\n",
    end="\n</tool_call>",
    openers=("<tool_call>", "<function="),
    style="xml",
    tail=("</tool_call>",),
)
SEED = ToolFormat(
    name="seed",
    begin="<seed:tool_call>\n",
    call=QWEN_XML.call,
    between="\n</seed:tool_call>\n<seed:tool_call>\n",
    end="\n</seed:tool_call>",
    openers=("<seed:tool_call>", "<function="),
    style="xml",
    tail=("</seed:tool_call>",),
)
GLM = ToolFormat(
    name="glm",
    begin="<tool_call>",
    call="NAME\nARGUMENTS",
    between="</tool_call>\n<tool_call>",
    end="</tool_call>",
    openers=("<tool_call>",),
    style="glm",
)
HARMONY = ToolFormat(
    name="harmony",
    begin="<|channel|>commentary to=functions.",
    call="NAME <|constrain|>json<|message|>ARGUMENTS<|call|>",
    between="<|start|>assistant<|channel|>commentary to=functions.",
    end="",
    openers=("<|channel|>commentary",),
    style="harmony",
)

_DETECTION: tuple[tuple[ToolFormat, Callable[[str], bool]], ...] = (
    (HARMONY, lambda t: "<|channel|>" in t and "commentary" in t),
    (DEEPSEEK, lambda t: "<｜tool▁calls▁begin｜>" in t and "```json" in t),
    (DEEPSEEK_PLAIN, lambda t: "<｜tool▁calls▁begin｜>" in t),
    (KIMI, lambda t: "<|tool_call_argument_begin|>" in t),
    (MISTRAL_ARGS, lambda t: "[TOOL_CALLS]" in t and "[ARGS]" in t),
    (MISTRAL, lambda t: "[TOOL_CALLS]" in t),
    (COMMAND_R, lambda t: "<|START_ACTION|>" in t),
    (GLM, lambda t: "<arg_key>" in t),
    (SEED, lambda t: "<seed:tool_call>" in t),
    (QWEN_XML, lambda t: "<function=" in t and "<parameter=" in t),
    (PHI, lambda t: "<|/tool_call|>" in t or ("<|tool|>" in t and "<|/tool|>" in t)),
    (GRANITE, lambda t: "<|tool_call|>" in t),
    (NEMOTRON, lambda t: "<TOOLCALL>" in t),
    (APRIEL, lambda t: "<tool_calls>[" in t),
    (HERMES, lambda t: "<tool_call>" in t and "<invoke" not in t),
    (LLAMA, lambda t: '"parameters"' in t and "<|start_header_id|>" in t and "<function=" not in t),
)

TOOL_FORMATS = tuple(form for form, _ in _DETECTION)


def tool_format(template: str) -> ToolFormat | None:
    """The format that a chat template teaches its model, told by its marks; `None` when it has none of them."""
    return next((form for form, knows in _DETECTION if knows(template)), None)


def schema_of(parameters: dict[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object even where the tool does not say so."""
    return parameters if "type" in parameters or "$ref" in parameters else {"type": "object", **parameters}
