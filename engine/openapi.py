"""The OpenAPI 3.1 document of a table of operations."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from engine import errors as e
from engine import schema as s
from engine.operations import JSON, OPERATIONS, ErrorType, Operation, Parameter

_PATH_PARAMETERS = {
    "name": Parameter("name", "path", "string", "Name of a model, or an alias."),
    "version": Parameter("version", "path", "integer", "Version of the model, counted from 1."),
    "alias": Parameter("alias", "path", "string", "Name of the alias."),
    "digest": Parameter("digest", "path", "string", "sha256: and the 64 hexadecimal digits of a file's SHA-256."),
}

_ALWAYS = (
    Parameter(
        "x-request-id",
        "header",
        "string",
        "Names this request in the answer and the logs; up to 128 printable characters.",
    ),
    Parameter("traceparent", "header", "string", "The caller's span (W3C Trace Context), where requests are traced."),
)
"""Headers of any request."""


def document(version: str, operations: Sequence[Operation] = OPERATIONS) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `operations`, for a server of that `version`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "UniModel",
            "version": version,
            "summary": "A universal model server.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(o.tag for o in operations)],
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "headers": {
                "x-request-id": {
                    "description": "The request's own x-request-id, or a new one.",
                    "schema": {"type": "string"},
                },
                "Retry-After": {
                    "description": "Seconds after which a retry makes sense.",
                    "schema": {"type": "integer", "minimum": 1},
                },
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.operation_id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [_parameter(p) for p in _parameters(operation)],
        "responses": dict(_responses(operation)),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.request or operation.form or operation.request_media:
        media = {JSON: _ref(operation.request)} if operation.request else {}
        media |= {"multipart/form-data": _ref(operation.form)} if operation.form else {}
        media |= {kind: {} for kind in operation.request_media}
        described["requestBody"] = {"required": True, "content": media}
    return described


def _parameters(operation: Operation) -> Iterator[Parameter]:
    for name in operation.path_parameters:
        yield _PATH_PARAMETERS[name]
    yield from operation.parameters
    yield from _ALWAYS


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.location,
        "required": parameter.location == "path",
        "description": parameter.description,
        "schema": {"type": parameter.type},
    }


def _responses(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    content = {JSON: _ref(operation.response)} if operation.response else {}
    if operation.response and operation.alternative:
        content[JSON] = {"schema": {"anyOf": [_ref(b)["schema"] for b in (operation.response, operation.alternative)]}}
    content |= {kind: {} for kind in operation.response_media}
    yield str(operation.status), _response(operation.summary, content)
    for status, body, description in operation.also:
        yield str(status), _response(description, {JSON: _ref(body)})
    by_status: dict[int, list[ErrorType]] = {}
    kinds: list[ErrorType] = [*operation.errors, e.InternalError]
    for error in dict.fromkeys(kinds):
        by_status.setdefault(error.status, []).append(error)
    for status, group in sorted(by_status.items()):
        description = "\n\n".join(f"`{error.code}`: {_text(error.__doc__)}" for error in group)
        response = _response(description, {JSON: _ref(s.ErrorBody)})
        if status in (e.Overloaded.status, e.Unavailable.status):
            response["headers"]["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
        yield str(status), response


def _response(description: str, content: dict[str, Any]) -> dict[str, Any]:
    headers = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}
    return {"description": description, "headers": headers, "content": content}


def _ref(body: type[msgspec.Struct]) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}


def _bodies(o: Operation) -> list[type[msgspec.Struct]]:
    return [b for b in (o.request, o.form, o.response, o.alternative, s.ErrorBody) if b]


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """The bodies as JSON Schema, with the docstrings of their fields."""
    bodies = {body.__name__: body for o in operations for body in _bodies(o)}
    ordered = [bodies[name] for name in sorted(bodies)]
    _, schemas = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    docs = _field_docs()
    for name, body in schemas.items():
        body["description"] = _text(body.get("description"))
        for field, properties in body.get("properties", {}).items():
            if (name, field) in docs:
                properties["description"] = docs[name, field]
    return schemas


def _field_docs() -> dict[tuple[str, str], str]:
    """The docstrings below the fields of `engine.schema`'s structs, by (class, field); Python itself drops them."""
    docs = {}
    for cls in ast.parse(inspect.getsource(s)).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        for field, doc in zip(cls.body, cls.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                docs[cls.name, field.target.id] = _text(doc.value.value)
    return docs


def _text(docstring: Any) -> str:
    """A docstring as Markdown."""
    return inspect.cleandoc(docstring or "").replace("``", "`")
