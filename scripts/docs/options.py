"""What the documents say of settings, variables and the options of models."""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from engine.settings import OTHER_ENV, TABLE, Setting
from scripts.docs.markdown import code, prose, table, value

VARIABLES = {
    "UNIMODEL_HOST": "Server that the command line talks to, such as `http://10.0.0.5:8000`.",
    "UNIMODEL_API_KEY": "Bearer token that the command line sends, for a proxy that wants one.",
    "UNIMODEL_HOME": "Folder of the registry, the log and the lock; the default is `~/.unimodel`.",
    "UNIMODEL_CONFIG": "File of settings, when no `--config` is given.",
    "UNIMODEL_DEBUG": "Set to anything, the command line shows the trace of an unexpected error.",
    "UNIMODEL_TEST_MODELS": "Where the tests and the quickstart keep the models that they fetch.",
    "UNIMODEL_WHEELS": "Where `make` keeps the llama.cpp that it compiles; the default is `~/.cache/unimodel/wheels`.",
}


def settings() -> str:
    """Every setting."""
    rows = (
        [
            *(code(row.key), _allowed(row), value(row.default)),
            "<br>".join(map(code, (row.flag, row.env, *row.other_envs))),
            row.help,
        ]
        for row in TABLE.values()
    )
    return table(["setting", "type", "default", "flag, variable", "meaning"], rows)


def _allowed(row: Setting) -> str:
    """The values of a setting: its type and its limits."""
    if row.choices:
        return ", ".join(map(code, row.choices))
    limits = ""
    if row.minimum is not None:
        limits = f" from {row.minimum:.15g}" + (f" to {row.maximum:.15g}" if row.maximum is not None else "")
    kind, comma, unset = row.type_name.partition(", ")
    return f"{kind}{limits}{comma}{unset}"


def variables() -> str:
    """The variables of the environment that are no settings."""
    return table(["variable", "meaning"], ([code(name), VARIABLES[name]] for name in OTHER_ENV))


def options_of(cls: type[msgspec.Struct]) -> Callable[[], str]:
    """What makes the table of the options in a class: those of every model, or of one backend."""
    return lambda: table(["option", "type", "default", "meaning"], _options(cls))


def _options(cls: type[msgspec.Struct], prefix: str = "") -> Iterator[list[str]]:
    """A row for each option, parts of options below each other."""
    docs = field_docs(cls)
    for f in msgspec.structs.fields(cls):
        by_name = typing.get_origin(f.type) is dict
        inner = typing.get_args(f.type)[1] if by_name else f.type
        name = f"{prefix}{f.name}{'.NAME' if by_name else ''}"
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from _options(inner, f"{name}.")
        else:
            default = None if f.default is msgspec.NODEFAULT else f.default
            yield [code(name), type_name(inner), value(default), prose(docs.get(f.name))]


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a struct and of those that it extends, which Python itself drops."""
    docs = {}
    for base in reversed([c for c in cls.__mro__ if issubclass(c, msgspec.Struct) and c is not msgspec.Struct]):
        (body,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(body, ast.ClassDef)
        for field, doc in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                docs[ast.unparse(field.target)] = str(doc.value.value)
    return docs


def type_name(kind: Any, plural: str = "") -> str:
    """A type for people; `plural` is the ending of its words."""
    words = {int: "integer", float: "number", bool: "true or false", str: "text"}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(type_name(each, plural) for each in inner if each is not type(None)))
    if origin is typing.Literal:
        return ", ".join(map(str, inner))
    if origin is tuple and Ellipsis not in inner:
        return f"{len(inner)} {type_name(inner[0], 's')}"
    if origin in (tuple, list):
        return f"list of {type_name(inner[0], 's')}"
    return "record" if origin is dict else words[kind] + plural
