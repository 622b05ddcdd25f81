"""Tests of engine.api.openai: the table of operations fits its handlers, its document and its errors."""

from __future__ import annotations

import json

import openapi_spec_validator
import pytest

from engine.api.http import encode_json
from engine.api.openai import DIALECT
from engine.errors import InvalidInput, ModelError, ModelNotFound, Overloaded, UniModelError
from engine.openapi import document


def test_the_routes() -> None:
    assert {(o.method, o.path) for o in DIALECT.operations} == {
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/rerank"),
        ("POST", "/v1/audio/transcriptions"),
        ("POST", "/v1/audio/translations"),
    }
    assert {o.operation_id for o in DIALECT.operations} == DIALECT.handlers.keys()


def test_the_document_is_valid_openapi() -> None:
    described = document("1.2.3", DIALECT.operations)
    openapi_spec_validator.OpenAPIV31SpecValidator(described).validate()
    schemas = described["components"]["schemas"]
    assert all(schema["description"] for schema in schemas.values())
    assert schemas["ChatCompletionRequest"]["additionalProperties"] is False
    assert {"text/event-stream", "application/json"} == described["paths"]["/v1/responses"]["post"]["responses"]["200"][
        "content"
    ].keys()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidInput("m", field="f"), "invalid_request_error"),
        (ModelNotFound("m"), "not_found_error"),
        (Overloaded("m"), "overloaded_error"),
        (ModelError("m"), "server_error"),
    ],
)
def test_errors_have_openais_shape(error: UniModelError, kind: str) -> None:
    event = DIALECT.error_event(error, "r1").decode()
    assert event.startswith("data: ")
    assert event.endswith("\n\n")
    assert event[6:-2].encode() == encode_json(DIALECT.error_body(error, "r1"))
    detail = json.loads(event[6:])["error"]
    assert (detail["message"], detail["type"], detail["code"]) == ("m", kind, error.code)
    assert detail["param"] == error.field
