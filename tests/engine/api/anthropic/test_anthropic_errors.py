"""Errors as Anthropic's clients read them."""

from __future__ import annotations

import json

import msgspec
import pytest

from engine import errors
from engine.api.anthropic import DIALECT
from engine.errors import UniModelError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidInput("Bad."), "invalid_request_error"),
        (errors.ModelFileError("Bad."), "invalid_request_error"),
        (errors.BodyTooLarge("Bad."), "request_too_large"),
        (errors.ModelNotFound("Bad."), "not_found_error"),
        (errors.Overloaded("Bad."), "rate_limit_error"),
        (errors.ServerStopping("Bad."), "overloaded_error"),
        (errors.DeadlineExceeded("Bad."), "timeout_error"),
        (errors.ModelError("Bad."), "api_error"),
        (errors.InternalError("Bad."), "api_error"),
    ],
)
def test_an_error_has_its_kind(error: UniModelError, kind: str) -> None:
    expected = {"type": "error", "error": {"type": kind, "message": "Bad."}, "request_id": "r1"}
    assert json.loads(msgspec.json.encode(DIALECT.error_body(error, "r1"))) == expected
    first, second, *rest = DIALECT.error_event(error, "r1").decode().split("\n")
    assert first == "event: error"
    assert json.loads(second.removeprefix("data: ")) == expected
    assert rest == ["", ""]
