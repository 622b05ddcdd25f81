"""Tests of engine.errors: the table of codes is complete, coherent and drawn in the docstring."""

from __future__ import annotations

import re

import pytest

from backends import base
from engine import errors
from engine.errors import BY_CODE, ExitCode, UniModelError, from_code

CLASSES = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, UniModelError)]

GRPC = {
    "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
}  # fmt: skip


def test_every_class_has_a_code_of_its_own() -> None:
    assert set(BY_CODE.values()) == set(CLASSES) - {UniModelError}
    assert BY_CODE["internal"] is errors.InternalError


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_is_documented_and_translates(cls: type[UniModelError]) -> None:
    assert cls.__doc__
    assert 400 <= cls.status < 600
    assert cls.grpc_status in GRPC
    assert isinstance(cls.exit_code, ExitCode)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", cls.code)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"^[ │├└─]*(\w+) +([a-z_]+) +(\d{3}|–)", errors.__doc__ or "", re.MULTILINE)
    assert {(name, code) for name, code, _ in drawn} == {
        (c.__name__, c.code) for c in CLASSES if c is not UniModelError
    }
    for name, _, status in drawn:
        assert status in (str(getattr(errors, name).status), "–")


def test_a_code_comes_back_as_its_class() -> None:
    error = from_code("overloaded", "Full.", field="f", retry_after=2.5, details={"queued": 3})
    assert type(error) is errors.Overloaded
    assert (str(error), error.message, error.field, error.retry_after) == ("Full.", "Full.", "f", 2.5)
    assert error.details == {"queued": 3}


def test_a_code_from_a_newer_server_is_still_an_error() -> None:
    assert type(from_code("not_yet_invented", "What?")) is errors.InternalError


def test_backends_use_codes_of_the_table() -> None:
    kinds = [v for v in vars(base).values() if isinstance(v, type) and issubclass(v, base.BackendError)]
    assert len(kinds) == 7
    for kind in kinds:
        assert BY_CODE[kind.code].__name__ in (kind.__name__, "ModelError", "InsufficientMemory", "UntrustedModel")


def test_exit_codes_are_distinct_for_what_scripts_tell_apart() -> None:
    exits = {errors.ServerUnreachable: 3, errors.ModelNotFound: 4, errors.Overloaded: 5, errors.DeadlineExceeded: 6}
    assert {cls: int(cls.exit_code) for cls in exits} == exits
