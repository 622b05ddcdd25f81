"""Tests of engine.openapi: the document is valid, complete, and describes what the structs really encode to."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import msgspec
import openapi_spec_validator
import pytest

from engine import errors, schema
from engine.api import pull
from engine.openapi import document
from engine.operations import OPERATIONS, Operation

DOCUMENT = document("1.2.3")
RESPONSES = {
    (o.operation_id, status): response
    for o in OPERATIONS
    for status, response in DOCUMENT["paths"][o.path][o.method.lower()]["responses"].items()
}


def validate(value: Any, kind: str) -> None:
    """Raises unless `value` fits the document's schema of `kind`."""
    jsonschema.validate(
        value,
        {"$ref": f"#/components/schemas/{kind}", "components": DOCUMENT["components"]},
        cls=jsonschema.Draft202012Validator,
    )


def conforms(body: msgspec.Struct) -> None:
    """Raises unless `body`, encoded, fits the document's schema of it."""
    validate(msgspec.json.decode(msgspec.json.encode(body)), type(body).__name__)


def test_the_document_is_valid_openapi() -> None:
    openapi_spec_validator.OpenAPIV31SpecValidator(DOCUMENT).validate()
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert msgspec.json.decode(msgspec.json.encode(DOCUMENT)) == DOCUMENT


def test_the_table_is_the_api() -> None:
    of_a_model = {
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/status"),
        ("POST", ":predict"),
        ("POST", ":load"),
        ("POST", ":unload"),
    }
    prefixes = ("/v1/models/{name}", "/v1/models/{name}/versions/{version}")
    assert {(o.method, o.path) for o in OPERATIONS} == {
        ("GET", "/v1/models"),
        ("POST", "/v1/models"),
        *((method, prefix + suffix) for prefix in prefixes for method, suffix in of_a_model),
        ("GET", "/v1/aliases"),
        ("PUT", "/v1/aliases/{alias}"),
        ("DELETE", "/v1/aliases/{alias}"),
        ("GET", "/v1/status"),
        ("GET", "/v1/config"),
        ("GET", "/v1/backends"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
    }


def test_operations_are_unique() -> None:
    assert len({o.operation_id for o in OPERATIONS}) == len(OPERATIONS)
    assert len({(o.method, o.path) for o in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.operation_id)
def test_every_operation_says_what_can_go_wrong(operation: Operation) -> None:
    for error in (*operation.errors, errors.InternalError):
        response = RESPONSES[operation.operation_id, str(error.status)]
        assert f"`{error.code}`" in response["description"]
        assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}


def test_every_error_that_a_server_answers_is_documented() -> None:
    not_on_an_operation = {
        errors.UniModelError,
        errors.NotFound,  # no such route
        errors.MethodNotAllowed,
        errors.Cancelled,  # nobody is there to read it
        errors.ServerUnreachable,
    }
    documented = {error for o in OPERATIONS for error in o.errors} | {errors.InternalError}
    assert documented == set(errors.BY_CODE.values()) - not_on_an_operation


def test_every_struct_is_documented_with_its_fields_docstrings() -> None:
    structs = {n: v for n, v in vars(schema).items() if isinstance(v, type) and issubclass(v, msgspec.Struct)}
    schemas = document("1.2.3", (*OPERATIONS, *pull.DIALECT.operations))["components"]["schemas"]
    assert schemas.keys() == structs.keys()
    assert all(body["description"] for body in schemas.values())
    assert schemas["RegisterRequest"]["properties"]["trust"]["description"] == (
        "Allows formats that run code when loaded (pickle, plugins)."
    )
    assert schemas["StatusView"]["properties"]["last_used"]["description"] == "Seconds since the epoch."


def test_an_overload_says_when_to_come_back() -> None:
    assert "Retry-After" in RESPONSES["predict_model", "429"]["headers"]
    assert all("x-request-id" in response["headers"] for response in RESPONSES.values())


def test_readiness_answers_503_with_its_own_body() -> None:
    schema_of = RESPONSES["get_readiness", "503"]["content"]["application/json"]["schema"]
    assert schema_of == {"$ref": "#/components/schemas/Health"}


def test_prediction_takes_and_gives_more_than_json() -> None:
    described = DOCUMENT["paths"]["/v1/models/{name}:predict"]["post"]
    assert described["requestBody"]["content"].keys() == {
        "application/json",
        "application/octet-stream",
        "application/x-npy",
        "image/*",
        "audio/*",
    }
    assert RESPONSES["predict_model", "200"]["content"].keys() == {
        "application/json",
        "application/octet-stream",
        "application/x-npy",
        "text/event-stream",
    }
    names = {p["name"] for p in described["parameters"]}
    assert {"name", "x-request-timeout-ms", "x-request-priority", "x-tensor-dtype", "x-tensor-shape"} <= names


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.operation_id)
def test_path_parameters_are_declared(operation: Operation) -> None:
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]
    declared = {p["name"] for p in described["parameters"] if p["in"] == "path"}
    assert declared == set(re.findall(r"{(\w+)}", operation.path)) == set(operation.path_parameters)


def test_bodies_fit_their_schemas() -> None:
    batching = schema.BatchingView(
        enabled=False, reason="it has state", max_batch_size=1, max_batch_wait_ms=0.5, dynamic_padding=False
    )
    conforms(
        schema.ModelList(
            data=[
                schema.ModelView(
                    id="m",
                    created=1,
                    name="m",
                    version=1,
                    versions=[1],
                    aliases=[],
                    backend="onnx",
                    task="tensor",
                    state="ready",
                    path="/m",
                    sha256="ab",
                    size_bytes=1,
                    config={"top_k": 3},
                    trusted=False,
                    runtime="r",
                    device="cpu",
                    inputs=[schema.TensorView(name="x", dtype="float32", shape=["batch", 3], batch_axis=0)],
                    outputs=[],
                    labels=0,
                    streams=False,
                    batching=batching,
                    notes=[],
                    example=[[1.0]],
                )
            ]
        )
    )
    conforms(schema.ErrorBody(error=schema.ErrorDetail(code="internal", message="m", type="server_error")))
    conforms(schema.PredictRequest(input=[[1, 2]], parameters={"top_k": 2}))
    conforms(schema.PredictResponse(model="m", version=1, output=None))
    conforms(schema.RegisterRequest(name="m", model_path="/m"))
    with pytest.raises(jsonschema.ValidationError, match="'name' is a required property"):
        validate({"model_path": "/m"}, "RegisterRequest")
