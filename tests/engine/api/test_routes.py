"""The tables of all dialects together: nothing clashes, nothing lacks a handler, and the document is valid."""

from __future__ import annotations

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from engine import openapi, operations
from engine.api.dialect import Dialect
from engine.api.routes import DIALECTS, OPERATIONS


def test_no_two_operations_clash() -> None:
    assert len({o.operation_id for o in OPERATIONS}) == len(OPERATIONS)
    assert len({(o.method, o.path) for o in OPERATIONS}) == len(OPERATIONS)
    assert set(operations.OPERATIONS) < set(OPERATIONS)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_every_operation_of_a_dialect_has_its_handler(dialect: Dialect) -> None:
    assert {o.operation_id for o in dialect.operations} == set(dialect.handlers)


def test_the_document_of_all_is_valid() -> None:
    document = openapi.document("1.0", OPERATIONS)
    OpenAPIV31SpecValidator(document).validate()
    assert {p for o in OPERATIONS for p in [o.path]} == set(document["paths"])
