"""Bodies of ``multipart/form-data``: HTML's way of sending files beside fields, which OpenAI's audio routes take."""

from __future__ import annotations

import typing
from typing import TypeVar

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from engine.errors import InvalidInput, InvalidRequest, UnsupportedMediaType

T = TypeVar("T", bound=msgspec.Struct)

FORM = "multipart/form-data"

_MAX_PARTS = 100
_MAX_FIELD = 1 << 20
"""Bytes of a part that is no file."""


def decode_form(kind: type[T], body: bytes | bytearray, content_type: str | None) -> T:
    """The form as a struct: fields of type `bytes` are files, ones whose name ends with ``[]`` may come several times.

    Raises `UnsupportedMediaType`, `InvalidRequest` when it is no form, or `InvalidInput` that names the field.
    """
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    values: dict[str, str | list[str]] = {}
    files: dict[str, bytes] = {}
    for name, data in _parts(bytes(body), _boundary(content_type)):
        field = fields.get(name)
        if name in files or (name in values and not name.endswith("[]")):
            raise InvalidInput(f"The field {name[:80]} is there twice.", field=name[:80])
        if field is not None and bytes in (field.type, *typing.get_args(field.type)):
            files[name] = data
        elif len(data) > _MAX_FIELD:
            raise InvalidInput(f"The field {name[:80]} has more than {_MAX_FIELD >> 20} MiB.", field=name[:80])
        elif name.endswith("[]"):
            several = values.setdefault(name, [])
            assert isinstance(several, list)
            several.append(_text(name, data))
        else:
            values[name] = _text(name, data)
    return _struct(kind, values, files)


def _struct(kind: type[T], values: dict[str, str | list[str]], files: dict[str, bytes]) -> T:
    """Numbers and truth values are texts in a form. A text that is empty counts as not given."""
    given = {name: value for name, value in values.items() if value != ""}
    try:
        return msgspec.convert({**given, **files}, kind, strict=False)
    except msgspec.ValidationError as e:
        text, _, where = str(e).partition(" - at `$.")
        place = where.rstrip("`") or (text.split("`")[1] if "`" in text else "")
        raise InvalidInput(f"{place}: {text[0].lower()}{text[1:]}.", field=place or None) from None


def _boundary(content_type: str | None) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != FORM.encode():
        got = (content_type or "nothing")[:60]
        raise UnsupportedMediaType(f"This route takes {FORM}; got {got!r}.", field="content-type")
    if not options.get(b"boundary"):
        raise InvalidRequest("The header content-type has no boundary.", field="content-type")
    return options[b"boundary"]


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"The field {name[:80]} is no text in UTF-8.", field=name[:80]) from None


class _Collector:
    """Takes the events of the parser, and has the parts in the end."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, bytes]] = []
        self._headers: dict[str, str] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._pieces: list[memoryview] = []
        self.ended = False

    def begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise InvalidRequest(f"The form has more than {_MAX_PARTS} parts.", field="body")
        self._headers, self._pieces = {}, []

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._name.clear()
        self._value.clear()

    def data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(memoryview(data)[start:end])

    def end_part(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        name = options.get(b"name")
        if name is None:
            raise InvalidRequest("The form has a part without a name.", field="body")
        self.parts.append((name.decode("utf-8", "replace"), b"".join(self._pieces)))

    def end(self) -> None:
        self.ended = True


def _parts(body: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    found = _Collector()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": found.begin,
                "on_header_field": found.header_field,
                "on_header_value": found.header_value,
                "on_header_end": found.header_end,
                "on_part_data": found.data,
                "on_part_end": found.end_part,
                "on_end": found.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as e:
        raise InvalidRequest(f"The body is no {FORM}: {str(e)[:200]}.", field="body") from None
    if not found.ended:
        raise InvalidRequest(f"The {FORM} ends before its last part does.", field="body")
    return found.parts
