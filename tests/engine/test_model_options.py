"""Tests of engine.model_options: what a user may set on a model, and what the errors say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import NoOptions
from engine.errors import InvalidOption
from engine.model_options import ModelOptions, PaddingOptions, split


class RuntimeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    graph_level: int = 3
    providers: tuple[str, ...] = ()


class NeedsPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    vocabulary: str


def refused(config: dict[str, Any], backend: type[msgspec.Struct] = RuntimeOptions) -> InvalidOption:
    with pytest.raises(InvalidOption) as e:
        split(config, backend)
    return e.value


def test_nothing_set_is_the_defaults() -> None:
    assert split({}, NoOptions) == (ModelOptions(), NoOptions())


def test_integers_that_cannot_go_to_a_worker_are_refused() -> None:
    error = refused({"graph_level": 10**30})
    assert "64 bits" in error.message
    assert error.field == "config.graph_level"


def test_options_go_to_the_engine_or_the_backend() -> None:
    own, rest = split(
        {
            "batching": {"max_batch_size": 64, "padding": {"ids": {"value": 1, "buckets": [16, 32]}}},
            "labels": ["cat", "dog"],
            "graph_level": 1,
            "providers": ["cpu"],
        },
        RuntimeOptions,
    )
    assert own.batching.max_batch_size == 64
    assert own.batching.padding == {"ids": PaddingOptions(1.0, (16, 32))}
    assert own.labels == ("cat", "dog")
    assert rest == RuntimeOptions(1, ("cpu",))


@pytest.mark.parametrize(
    ("config", "message", "field"),
    [
        ({"batchin": {}}, "Unknown model option 'batchin'. Did you mean 'batching'?", "config.batchin"),
        (
            {"batching": {"max_batchsize": 1}},
            "Unknown model option 'batching.max_batchsize'. Did you mean 'batching.max_batch_size'?",
            "config.batching.max_batchsize",
        ),
        (
            {"batching": {"padding": {"ids": {"valu": 1}}}},
            "Unknown model option 'batching.padding[...].valu'. Did you mean 'batching.padding[...].value'?",
            "config.batching.padding[...].valu",
        ),
        ({"graf_level": 1}, "Unknown model option 'graf_level'. Did you mean 'graph_level'?", "config.graf_level"),
        ({"zzzzzzzz": 1}, "Unknown model option 'zzzzzzzz'.", "config.zzzzzzzz"),
        ({"top_k": "five"}, "Model option top_k: expected `int`, got `str`.", "config.top_k"),
        ({"top_k": 0}, "Model option top_k must be at least 1; got 0.", "config.top_k"),
        ({"batching": 3}, "Model option batching: expected `object`, got `int`.", "config.batching"),
        (
            {"batching": {"max_batch_size": 0}},
            "Model option batching.max_batch_size must be at least 1; got 0.",
            "config.batching.max_batch_size",
        ),
        (
            {"queue": {"max_wait_ms": -0.5}},
            "Model option queue.max_wait_ms must be at least 0; got -0.5.",
            "config.queue.max_wait_ms",
        ),
        ({"graph_level": "x"}, "Model option graph_level: expected `int`, got `str`.", "config.graph_level"),
    ],
)
def test_what_is_wrong_is_named(config: dict[str, Any], message: str, field: str) -> None:
    error = refused(config)
    assert (error.message, error.field) == (message, field)


def test_an_option_that_the_backend_needs_is_named() -> None:
    error = refused({}, NeedsPath)
    assert error.message == "Model options: object missing required field `vocabulary`."
    assert error.field == "config"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OPTION_NAMES = st.sampled_from([*ModelOptions.__struct_fields__, *RuntimeOptions.__struct_fields__])


@given(st.dictionaries(OPTION_NAMES | st.text(max_size=8), JSON, max_size=3))
def test_any_config_is_taken_or_refused_with_a_sentence(config: dict[str, Any]) -> None:
    try:
        own, _ = split(config, RuntimeOptions)
    except InvalidOption as e:
        assert e.message.startswith(("Unknown model option ", "Model option "))
        assert e.field is not None
        assert e.field.startswith("config.")
    else:
        assert config.keys() <= {*ModelOptions.__struct_fields__, *RuntimeOptions.__struct_fields__}
        assert msgspec.convert(msgspec.to_builtins(own), ModelOptions) == own


@pytest.mark.parametrize(
    ("given", "expected"),
    [(1000, 1000), ("1000", 1000), ("512MiB", 512 << 20), ("2 GiB", 2 << 30), ("1.5KiB", 1536), ("3B", 3)],
)
def test_sizes(given: int | str, expected: int) -> None:
    assert split({"isolated": True, "memory_limit": given}, RuntimeOptions)[0].memory_bytes == expected


@pytest.mark.parametrize("given", [0, -1, "", "2GB", "2G", "GiB", "1e9", "0MiB", "9" * 400, "two GiB"])
def test_what_is_no_size(given: int | str) -> None:
    error = refused({"isolated": True, "memory_limit": given})
    assert "a size such as 512MiB or 2GiB; got" in error.message
    assert error.field == "config.memory_limit"


@pytest.mark.parametrize(("name", "value"), [("memory_limit", "1GiB"), ("python", "/venv")])
def test_options_of_isolated_models_alone(name: str, value: str) -> None:
    error = refused({name: value})
    assert error.message == f"Model option {name} is for a model with a process of its own; set isolated=true, too."
    assert error.field == f"config.{name}"
