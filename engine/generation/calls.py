"""Reads calls of tools out of the text that a model writes, while it comes."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.generation.reader import NotACall, Reader, Reading
from engine.generation.reasoning import ends_with_part_of
from engine.generation.tools import ToolFormat, schema_of
from engine.transport.generation import Tool, ToolCallDelta


def new_call_id() -> str:
    """A fresh id for a call, of the form that OpenAI gives."""
    return "call_" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(24))


_KEY = r'"((?:[^"\\]|\\.)*)"'
_FIRST_KEY = re.compile(rf"\{{\s*{_KEY}")
_NAME = re.compile(rf'\{{\s*(?:"(?:id|tool_call_id|type)"\s*:\s*{_KEY}\s*,\s*)?"(?:name|tool_name)"\s*:\s*{_KEY}')
_HEAD = re.compile(rf'{_NAME.pattern}\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)')
_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_KEYS = frozenset({*_NAMES, *_ARGUMENTS, "id", "tool_call_id", "type", "function"})
_LONGEST_HEAD = 400
"""Characters before the arguments of a call, beyond which it is taken for text."""

_MARKS = {
    "xml": (
        re.compile(r"\s*(?:<function=)?([^<>\n]+)>"),
        re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL),
        re.compile(r"\s*</function>"),
    ),
    "glm": (
        re.compile(r"\s*([\w.:/-]+)\s*(?=<)"),
        re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL),
        re.compile(r"\s*</tool_call>"),
    ),
}
"""By style: the beginning of a call, an argument, and the end of a call."""


class CallParser(Reader):
    """Reads one answer.

    `whole` makes each call come in one piece, and only when its arguments are a JSON object. Otherwise arguments come
    as they are written; then a call that the end of the answer cuts off stays as incomplete as the model left it.
    """

    def __init__(self, form: ToolFormat, tools: Sequence[Tool], whole: bool, new_id: Callable[[], str]) -> None:
        self._form = form
        self._tools = {tool.name: tool for tool in tools}
        self._whole = whole
        self._new_id = new_id
        self._opener = re.compile("|".join(map(re.escape, form.openers)))
        self._head = re.compile(form.head)
        self._calls = 0
        super().__init__()

    # --- the answer ---

    def _answer(self) -> Reading[None]:
        yield
        if self._form.bare:
            yield from self._space()
            if self._text[self._at :].startswith("{"):
                self._retry = self._at + 1
                yield from self._attempt()
            self._at = 0
        while (yield from self._find_opener()):
            self._retry = self._at
            yield from self._attempt()

    def _find_opener(self) -> Reading[bool]:
        """Gives out text up to an opener and the white space before it, and stops behind it; false at the end."""
        while True:
            found = self._opener.search(self._text)
            if found is not None:
                kept = found.start()
            elif self._ended:
                kept = len(self._text)
            else:
                kept = len(self._text) - max(ends_with_part_of(self._text, o) for o in self._form.openers)
            if found is not None or not self._ended:
                kept = len(self._text[:kept].rstrip())
            self._give(kept)
            if found is not None:
                self._at = found.end() - kept
                return True
            if self._ended:
                return False
            yield

    def _attempt(self) -> Reading[None]:
        """Reads calls. What follows the last complete one, if it is none, remains to be read as text."""
        try:
            yield from self._one_or_more()
        except NotACall:
            self._give(self._retry)

    def _one_or_more(self) -> Reading[None]:
        yield from self._space()
        mark = self._text[self._at : self._at + 1]
        if mark == "[":
            yield from self._list()
        elif mark == "{":
            yield from self._json_call()
            while self._form.separators and (yield from self._separated()):
                self._commit()
                yield from self._json_call()
        elif self._form.style in _MARKS:
            yield from self._marked_call(*_MARKS[self._form.style])
        elif self._form.head:
            yield from self._named_call()
        else:
            raise NotACall
        for mark in self._form.tail:
            yield from self._skip(mark)
        yield from self._space()
        self._commit()

    def _list(self) -> Reading[None]:
        mark = ","
        while mark == ",":
            self._at += 1
            yield from self._space()
            yield from self._json_call()
            yield from self._space()
            mark = self._text[self._at : self._at + 1]
        if mark == "]":
            self._at += 1

    def _separated(self) -> Reading[bool]:
        """Whether another call follows, after a separator."""
        self._commit()
        yield from self._space()
        if self._text[self._at : self._at + 1] in tuple(self._form.separators):
            self._at += 1
            yield from self._space()
        if self._text[self._at : self._at + 1] == "{":
            return True
        self._at = 0
        return False

    # --- one call ---

    def _json_call(self) -> Reading[None]:
        """A call as an object with its name and arguments."""
        begin = self._at
        if not self._text[begin:].startswith("{"):
            raise NotACall
        reading = self._object()
        while not (head := _HEAD.match(self._text, begin)):
            self._check_beginning(begin)
            try:
                next(reading)
            except StopIteration as done:
                self._emit(*_parts_of(done.value))
                return
            yield
        self._at = head.end()
        yield from self._arguments(_unquoted(head[2]))
        yield from self._rest_of_object()
        self._commit()

    def _check_beginning(self, begin: int) -> None:
        """Raises `NotACall` as soon as an object shows that it is none."""
        key = _FIRST_KEY.match(self._text, begin)
        name = _NAME.match(self._text, begin)
        if (key and key[1] not in _KEYS) or (name and _unquoted(name[2]) not in self._tools):
            raise NotACall

    def _rest_of_object(self) -> Reading[None]:
        """What follows the arguments, up to the end of the object around them. Some models forget that."""
        yield from self._space()
        mark = self._text[self._at : self._at + 1]
        if mark == "}":
            self._at += 1
        elif mark == ",":
            try:
                yield from self._object(depth=1)
            except NotACall:
                self._at = len(self._text)

    def _named_call(self) -> Reading[None]:
        """A call as a name that an object of arguments follows."""
        head = yield from self._match(self._head, _LONGEST_HEAD)
        self._at = head.end()
        yield from self._arguments(head[1])

    def _arguments(self, name: str) -> Reading[None]:
        """The object of arguments that is next."""
        if name not in self._tools:
            raise NotACall
        if self._whole:
            self._emit(name, (yield from self._object()))
            return
        index = self._calls
        self._start(name, "")
        yield from self._object(lambda text: self._events.append(ToolCallDelta(index=index, arguments=text)))

    def _marked_call(self, first: re.Pattern[str], argument: re.Pattern[str], last: re.Pattern[str]) -> Reading[None]:
        """A call whose arguments stand between marks, not in JSON. It comes as a whole."""
        head = yield from self._match(first, _LONGEST_HEAD)
        name = head[1].strip()
        if name not in self._tools:
            raise NotACall
        declared = schema_of(self._tools[name].parameters).get("properties")
        properties = declared if isinstance(declared, dict) else {}
        arguments: dict[str, Any] = {}
        self._at = seen = head.end()
        while True:
            if (
                not self._ended and "</" not in self._text[seen:]
            ):  # keeps long arguments from being matched at each step
                seen = max(seen, len(self._text) - 1)
                yield
                continue
            seen = max(self._at, len(self._text) - 1)
            if found := argument.match(self._text, self._at):
                arguments[found[1].strip()] = _read_value(found[2], properties.get(found[1].strip()))
                self._at = seen = found.end()
            elif end := last.match(self._text, self._at):
                break
            elif self._ended:
                raise NotACall
            else:
                yield
        self._at = end.end()
        self._start(name, msgspec.json.encode(arguments).decode())

    def _emit(self, name: str, arguments: str) -> None:
        """A call that is there as a whole."""
        if name not in self._tools:
            raise NotACall
        try:
            msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            raise NotACall from None
        self._start(name, arguments)

    def _start(self, name: str, arguments: str) -> None:
        call = ToolCallDelta(index=self._calls, id=self._new_id(), name=name, arguments=arguments)
        self._events.append(call)
        self._calls += 1
        self._commit()


def _unquoted(inner: str) -> str:
    """The text of a JSON string without its quotes; no name of a tool where that is not JSON."""
    try:
        text: str = msgspec.json.decode(f'"{inner}"', type=str)
    except msgspec.DecodeError:
        return ""
    return text


def _parts_of(text: str) -> tuple[str, str]:
    """The name and the arguments of a call that is a JSON object. Raises `NotACall`."""
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        if "function" in members:
            members = msgspec.json.decode(members["function"], type=dict[str, msgspec.Raw])
        name = msgspec.json.decode(next(members[key] for key in _NAMES if key in members), type=str)
        arguments = bytes(next((members[key] for key in _ARGUMENTS if key in members), b"{}"))
        if arguments.startswith(b'"'):  # JSON in a JSON string
            return name, msgspec.json.decode(arguments, type=str)
        return name, "{}" if arguments == b"null" else arguments.decode()
    except (msgspec.DecodeError, StopIteration, RecursionError):
        raise NotACall from None


def _read_value(text: str, schema: Any) -> Any:
    """An argument that was written without quotes: a string where its schema says so, else JSON where it is that."""
    kinds = schema.get("type") if isinstance(schema, dict) else None
    if kinds == "string":
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
