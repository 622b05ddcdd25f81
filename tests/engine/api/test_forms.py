"""Forms: what clients send as ``multipart/form-data``, and what is none."""

from __future__ import annotations

import random
from typing import Annotated, Literal

import httpx
import msgspec
import pytest
from msgspec import Meta

from engine.api.forms import decode_form
from engine.errors import InvalidInput, InvalidRequest, UniModelError, UnsupportedMediaType


class Form(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    file: Annotated[bytes, Meta(max_length=1 << 30)]
    name: str = "nobody"
    count: int | None = None
    share: float | None = None
    yes: bool = False
    kinds: list[Literal["a", "b"]] = msgspec.field(name="kinds[]", default_factory=list)


TYPE = "multipart/form-data; boundary=xyz"


def body(*parts: tuple[str, bytes], end: bytes = b"--xyz--\r\n") -> bytes:
    return b"".join(b"--xyz\r\nContent-Disposition: %s\r\n\r\n%s\r\n" % (d.encode(), c) for d, c in parts) + end


def field(name: str, content: bytes = b"1") -> tuple[str, bytes]:
    return f'form-data; name="{name}"', content


def test_what_httpx_sends() -> None:
    data = {"name": "Zoë", "count": "3", "share": "0.5", "yes": "true", "kinds[]": ["a", "b"]}
    file = random.Random(0).randbytes(100_000) + b"\r\n--xy\r\n-"
    request = httpx.Request("POST", "http://x", data=data, files={"file": ('ä "b".wav', file, "audio/wav")})
    form = decode_form(Form, request.read(), request.headers["content-type"])
    assert form == Form(file=file, name="Zoë", count=3, share=0.5, yes=True, kinds=["a", "b"])


def test_an_empty_field_is_as_none() -> None:
    assert decode_form(Form, body(field("file", b"x"), field("count", b""), field("name", b"")), TYPE) == Form(
        file=b"x"
    )


def test_a_file_needs_no_filename_and_may_be_empty() -> None:
    assert decode_form(Form, bytearray(body(field("file", b""))), TYPE).file == b""


@pytest.mark.parametrize(
    ("parts", "says", "name"),
    [
        ([], "missing required field `file`", "file"),
        ([field("file"), field("nope")], "unknown field `nope`", "nope"),
        ([field("file"), field("count", b"many")], "expected `int | null`, got `str`", "count"),
        ([field("file"), field("yes", b"maybe")], "expected `bool`", "yes"),
        ([field("file"), field("kinds[]", b"c")], "invalid enum value 'c'", "kinds[][0]"),
        ([field("file"), field("file")], "file is there twice", "file"),
        ([field("file"), field("name"), field("name")], "name is there twice", "name"),
        ([field("file"), field("name", b"\xff")], "name is no text in UTF-8", "name"),
        ([field("file"), field("name", b"x" * (2 << 20))], "name has more than 1 MiB", "name"),
        ([("form-data", b"x")], "a part without a name", "body"),
        ([field("file")] + [field("kinds[]", b"a")] * 100, "more than 100 parts", "body"),
    ],
)
def test_fields_that_are_wrong(parts: list[tuple[str, bytes]], says: str, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_form(Form, body(*parts), TYPE)
    assert says in caught.value.message
    assert caught.value.field == name


def test_bodies_that_are_no_form() -> None:
    for content_type in (None, "application/json", "multipart/mixed; boundary=xyz"):
        with pytest.raises(UnsupportedMediaType, match="takes multipart/form-data"):
            decode_form(Form, b"", content_type)
    with pytest.raises(InvalidRequest, match="has no boundary"):
        decode_form(Form, b"", "multipart/form-data")
    whole = body(field("file", b"x" * 50))
    for cut in (0, 3, 20, len(whole) - 20):
        with pytest.raises(InvalidRequest):
            decode_form(Form, whole[:cut], TYPE)


def test_damage_is_an_error_and_nothing_else() -> None:
    pick = random.Random(0)
    whole = body(field("file", b"x" * 50), field("name", b"n"), field("kinds[]", b"a"))
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[pick.randrange(len(whole))] = pick.randrange(256)
        try:
            decode_form(Form, damaged, TYPE)
        except UniModelError as e:
            assert isinstance(e, InvalidInput | InvalidRequest)
