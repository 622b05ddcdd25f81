"""Ollama's options as the engine's sampling."""

from __future__ import annotations

from typing import Any

import pytest

from backends.generation import Sampling
from engine.api.ollama import options
from engine.errors import InvalidInput
from engine.transport.generation import GenerateRequest

CONTEXT = 2048


def applied(given: dict[str, Any] | None) -> GenerateRequest:
    request = GenerateRequest(prompt="hello")
    options.apply(options.read(given), request, CONTEXT)
    return request


def test_without_options_all_is_left_to_the_model() -> None:
    for given in (None, {}, {"temperature": None, "num_gpu": None}):
        assert applied(given) == GenerateRequest(prompt="hello")


def test_every_way_of_choosing_tokens_is_passed_on() -> None:
    given = {
        "temperature": 0,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.7,
        "repeat_penalty": 1.2,
        "repeat_last_n": 33,
        "presence_penalty": 1.5,
        "frequency_penalty": -1.0,
        "seed": 42,
    }
    assert set(given) == set(options.SAMPLING)
    assert applied(given).sampling == Sampling(**given)


def test_a_seed_of_minus_one_is_none() -> None:
    assert applied({"seed": -1}).sampling.seed is None


@pytest.mark.parametrize(("given", "limit"), [(7, 7), (-1, None), (-2, None)])
def test_num_predict_bounds_the_answer(given: int, limit: int | None) -> None:
    assert applied({"num_predict": given}).max_tokens == limit


@pytest.mark.parametrize(("given", "stop"), [("\n", ["\n"]), (["a", "b"], ["a", "b"]), ([], [])])
def test_stop_is_a_text_or_several(given: Any, stop: list[str]) -> None:
    assert applied({"stop": given}).stop == stop


@pytest.mark.parametrize("given", [1, 512, CONTEXT])
def test_a_context_that_the_model_has_is_accepted(given: int) -> None:
    assert applied({"num_ctx": given}) == GenerateRequest(prompt="hello")


def test_mirostat_can_only_be_off() -> None:
    assert applied({"mirostat": 0}) == GenerateRequest(prompt="hello")


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"num_ctx": CONTEXT + 1}, "num_ctx", "2049.*2048.*max_context_length"),
        ({"num_predict": 0}, "num_predict", "at least 1"),
        ({"num_predict": -3}, "num_predict", ">= -2"),
        ({"stop": ""}, "stop", "not be empty"),
        ({"stop": ["a", ""]}, "stop", "not be empty"),
        ({"stop": 3}, "stop", "expected `str | array`"),
        ({"temperature": -1}, "temperature", ">= 0"),
        ({"temperature": "hot"}, "temperature", "expected `float"),
        ({"top_p": 1.5}, "top_p", "<= 1"),
        ({"mirostat": 1}, "mirostat", "<= 0"),
        ({"mirostat_tau": 5.0}, "mirostat_tau", "not supported"),
        ({"num_keep": 4}, "num_keep", "not supported"),
        ({"num_gpu": 1}, "num_gpu", "unimodel register --set gpu_layers"),
        ({"num_thread": 1}, "num_thread", "unimodel register --set threads"),
        ({"use_mmap": True}, "use_mmap", "unimodel register --set mmap"),
        ({"temprature": 1}, "temprature", "Did you mean 'temperature'"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_names_the_option(given: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as e:
        applied(given)
    assert e.value.field == f"options.{field}"
    assert field in e.value.message


def test_the_options_of_loading_are_those_of_the_backend() -> None:
    from backends.gguf.options import GgufOptions

    names = set(GgufOptions.__struct_fields__)
    assert {*options.LOADING.values(), "max_context_length", "sampling", "chat_template", "lora"} <= names
