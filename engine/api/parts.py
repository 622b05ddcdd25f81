"""Parts of requests and answers that several dialects have alike: images in base64, JSON for a worker, sentences."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

import msgspec

from engine.errors import InvalidInput, InvalidRequest, UniModelError

T = TypeVar("T")


def decode_image(text: str, field: str) -> bytes:
    """The encoded image behind base64. Raises `InvalidInput`."""
    return decode_base64(text, field, "image")


def decode_base64(text: str, field: str, what: str) -> bytes:
    """The file behind base64, such as an ``image``. Raises `InvalidInput`."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(
            f"The {what} is not valid base64; send the bytes of its file so encoded.", field=field
        ) from None
    if not data:
        raise InvalidInput(f"The {what} is empty.", field=field)
    return data


def encoded_in(text: str) -> str:
    """The base64 of a file, which may be given as a ``data:`` URL."""
    return text.partition(",")[2] if text.startswith("data:") else text


def crossing(value: T, field: str) -> T:
    """A JSON value, if it can cross to a worker. Raises `InvalidInput` for one too deep, and integers nothing holds."""
    try:
        msgspec.msgpack.encode(value)
    except OverflowError:
        raise InvalidInput(f"{field} has an integer of more than 64 bits.", field=field) from None
    except RecursionError:
        raise InvalidInput(f"{field} is nested too deeply.", field=field) from None
    return value


def sentence(error: UniModelError) -> str:
    """What an error says, with the place of the fault, for clients that are told no more."""
    field = error.field
    if field is None or not isinstance(error, InvalidRequest) or field.rpartition(".")[2] in error.message:
        return error.message
    return f"{field}: {error.message}"
