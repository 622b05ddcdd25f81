"""Parts of requests and answers that several dialects have alike."""

from __future__ import annotations

import base64

import pytest

from engine.api.parts import crossing, decode_image, sentence
from engine.errors import InvalidInput, ModelNotFound, UniModelError


def test_an_image_is_behind_base64() -> None:
    assert decode_image(base64.b64encode(b"\x89PNG").decode(), "image") == b"\x89PNG"


@pytest.mark.parametrize("text", ["", "=", "a", "ab c", "ä", "data:image/png;base64,AAAA"])
def test_other_texts_are_no_images(text: str) -> None:
    with pytest.raises(InvalidInput) as e:
        decode_image(text, "images[0]")
    assert e.value.field == "images[0]"


def test_json_crosses_to_a_worker_unless_an_integer_is_too_long() -> None:
    value = {"a": [1, 2**64 - 1, -(2**63), 1.5, "x", None]}
    assert crossing(value, "schema") is value
    for too_long in (2**64, -(2**63) - 1):
        with pytest.raises(InvalidInput, match="64 bits") as e:
            crossing({"a": [too_long]}, "schema")
        assert e.value.field == "schema"


def test_json_that_is_too_deep_for_a_worker_is_refused() -> None:
    deep: object = 1
    for _ in range(2000):
        deep = {"a": deep}
    with pytest.raises(InvalidInput, match="nested too deeply") as e:
        crossing(deep, "schema")
    assert e.value.field == "schema"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidInput("Expected `int`."), "Expected `int`."),
        (InvalidInput("Expected `int`.", field="options.seed"), "options.seed: Expected `int`."),
        (InvalidInput("seed is bad.", field="options.seed"), "seed is bad."),
        (ModelNotFound("No model 'x'.", field="name"), "No model 'x'."),
    ],
)
def test_a_sentence_names_the_place_of_the_fault(error: UniModelError, text: str) -> None:
    assert sentence(error) == text
