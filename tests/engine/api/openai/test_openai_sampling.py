"""Tests of engine.api.openai.sampling: shared fields to the engine's request."""

from __future__ import annotations

from typing import Any

import pytest

from backends.generation import Sampling
from engine.api.openai.sampling import (
    SamplingFields,
    choose_format,
    fill_sampling,
    json_format,
    template_options,
)
from engine.errors import InvalidInput
from engine.transport.generation import Format, GenerateRequest


def filled(**fields: Any) -> GenerateRequest:
    request = GenerateRequest(prompt="p")
    fill_sampling(request, SamplingFields(**fields))
    return request


def test_nothing_given_is_the_models_default() -> None:
    assert filled() == GenerateRequest(prompt="p")


def test_every_field_arrives() -> None:
    request = filled(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        typical_p=0.8,
        repetition_penalty=1.1,
        repeat_last_n=64,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        logit_bias={"5": -100, "17": 2.5},
        seed=-3,
        stop=["a", "b"],
        stop_token_ids=[7],
        ignore_eos=True,
        truncate=True,
        adapters={"style": 0.5},
    )
    assert request == GenerateRequest(
        prompt="p",
        sampling=Sampling(
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            min_p=0.05,
            typical_p=0.8,
            repeat_penalty=1.1,
            repeat_last_n=64,
            presence_penalty=0.1,
            frequency_penalty=-0.2,
            logit_bias={5: -100, 17: 2.5},
            seed=-3,
        ),
        stop=["a", "b"],
        stop_tokens=[7],
        ignore_eos=True,
        truncate=True,
        adapters={"style": 0.5},
    )


def test_names_of_other_servers() -> None:
    assert filled(top_k=-1).sampling.top_k == 0
    assert filled(repeat_penalty=1.2).sampling.repeat_penalty == 1.2
    assert filled(stop="end").stop == ["end"]
    with pytest.raises(InvalidInput, match="two names"):
        filled(repeat_penalty=1.2, repetition_penalty=1.2)


@pytest.mark.parametrize("key", ["", "-1", "x", "1.5", "²", str(2**31)])
def test_a_bias_is_for_a_token(key: str) -> None:
    with pytest.raises(InvalidInput, match="numbers of tokens") as error:
        filled(logit_bias={key: 1})
    assert error.value.field == "logit_bias"


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="empty") as error:
        filled(stop=["a", ""])
    assert error.value.field == "stop"


def test_an_answer_has_one_format() -> None:
    schema = Format(kind="json_schema", json_schema={"type": "object"})
    assert choose_format(SamplingFields(), None, "f") == Format()
    assert choose_format(SamplingFields(), schema, "f") is schema
    assert choose_format(SamplingFields(grammar="root ::= x"), None, "f") == Format(kind="grammar", source="root ::= x")
    assert choose_format(SamplingFields(regex="a+"), Format(), "f") == Format(kind="regex", source="a+")
    with pytest.raises(InvalidInput, match="f and grammar") as error:
        choose_format(SamplingFields(grammar="x"), schema, "f")
    assert error.value.field == "grammar"


def test_a_schema_must_be_able_to_cross() -> None:
    assert json_format(None, "s") == Format(kind="json_object")
    assert json_format(False, "s") == Format(kind="json_schema", json_schema=False)
    with pytest.raises(InvalidInput, match="64 bits") as error:
        json_format({"maximum": 10**30}, "response_format.schema")
    assert error.value.field == "response_format.schema"


def test_the_template_hears_of_the_effort() -> None:
    assert template_options(None, None) == {}
    assert template_options({"x": 1}, "high") == {"x": 1, "reasoning_effort": "high"}
    assert template_options(None, "none") == {"reasoning_effort": "none", "enable_thinking": False}
    assert template_options({"enable_thinking": True}, "none")["enable_thinking"] is True
    with pytest.raises(InvalidInput, match="twice") as error:
        template_options({"reasoning_effort": "low"}, "high", "reasoning.effort")
    assert error.value.field == "reasoning.effort"
