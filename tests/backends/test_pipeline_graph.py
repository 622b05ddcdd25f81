"""Pipelines as files: what is understood, and what is wrong with those that are not."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import jmespath
import numpy as np
import pytest
from jmespath.exceptions import JMESPathError

from backends.base import Device, ModelFileError, NoOptions
from backends.pipeline import PipelineBackend
from backends.pipeline.expressions import Expression
from backends.pipeline.graph import MOST_BYTES, Graph, read

CHAIN = """
steps:
  detect: {model: det}
  cut: {model: cutter, input: {image: input, map: detect, threshold: 0.3}}
  recognise: {model: rec, each: cut.pieces, input: item, when: item.wide}
  count: {model: counter@2, input: "length(cut.pieces)", parameters: {top_k: 3}}
output: {text: "recognise[*].text", count: count}
"""


class Seen(dict[str, Any]):
    """Remembers what it was asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.looked_up: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.looked_up.add(key)
        return super().get(key, default)


def graph(tmp_path: Path, text: str) -> Graph:
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    return read(file)


def test_steps_come_behind_those_that_they_need(tmp_path: Path) -> None:
    found = graph(tmp_path, CHAIN)
    assert [step.name for step in found.steps][:2] == ["detect", "cut"]
    by_name = {step.name: step for step in found.steps}
    assert by_name["detect"].needs == set()
    assert by_name["cut"].needs == {"detect"}
    assert by_name["recognise"].needs == {"cut"}
    assert by_name["count"].needs == {"cut"}
    assert by_name["count"].parameters == {"top_k": 3}
    assert sorted(found.models) == ["counter@2", "cutter", "det", "rec"]


def test_a_constant_stays_what_it_is(tmp_path: Path) -> None:
    cut = {step.name: step for step in graph(tmp_path, CHAIN).steps}["cut"].input
    assert isinstance(cut, dict)
    assert cut["threshold"] == 0.3
    assert isinstance(cut["image"], Expression)


def test_the_output_is_the_last_step_when_there_is_one(tmp_path: Path) -> None:
    found = graph(tmp_path, "steps: {a: {model: m}, b: {model: n, input: a}}")
    assert isinstance(found.output, Expression)
    assert found.output.text == "b"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps: {}", "1 to 100 steps"),
        ("steps: {a: {}}", "required field `model`"),
        ("steps: {a: {model: m, modle: n}}", "unknown field `modle`"),
        ("steps: {a: {model: m}}\nbeside: 1", "unknown field `beside`"),
        ("steps: {input: {model: m}}", "cannot be the name of a step"),
        ("steps: {'a b': {model: m}}", "cannot be the name of a step"),
        ("steps: {a: {model: m, input: b}}", "'b' is neither input, parameters nor a step"),
        ("steps: {a: {model: m, input: item}}", "only a step with each: has it"),
        ("steps: {a: {model: m, each: item}}", "only a step with each: has it"),
        ("steps: {a: {model: m, input: 'b['}}", "is not JMESPath"),
        ("steps: {a: {model: m, input: '@'}}", "@ is everything at once"),
        ("steps: {a: {model: m, input: {x: [1, {y: b}]}}}", r"steps.a.input: 'b' is neither"),
        ("steps: {a: {model: m, input: a}}", "wait for one another: a → a"),
        ("steps: {a: {model: m, input: b}, b: {model: m, input: a}}", "wait for one another"),
        ("steps: {a: {model: m}, b: {model: m}}", r"several steps \(a, b\)"),
        ("steps: {a: {model: m}}\noutput: c", "output: 'c' is neither"),
        ("steps: [", "not valid YAML"),
        ("steps: &s {a: {model: m}}\nexample: *s", "aliases"),
        ("- 1", "not a pipeline"),
        (f"steps: {{a: {{model: m, input: '{'x' * 5000}'}}}}", "the most are 4096"),
        (f"steps: {{a: {{model: m, input: '{'[' * 4000}'}}}}", "is not JMESPath"),
        ("a: " + "[" * 5000, "not valid YAML"),
        ("steps: {" + ", ".join(f"s{i}: {{model: m}}" for i in range(101)) + "}", "1 to 100 steps"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ModelFileError, match=problem) as caught:
        graph(tmp_path, text)
    assert caught.value.message.endswith(".")


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"steps:\n\xff\xfe")
    with pytest.raises(ModelFileError, match="not valid YAML"):
        read(file)
    file.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(ModelFileError, match="larger than 1 MiB"):
        read(file)


@pytest.mark.parametrize(
    ("text", "roots"),
    [
        ("a", {"a"}),
        ("a.b.c[0].d", {"a"}),
        ("a[?b > `1`].c | [0]", {"a"}),
        ("[a, b.c]", {"a", "b"}),
        ("{x: a.y, z: b}", {"a", "b"}),
        ("a.* | length(@)", {"a"}),
        ("max_by(a, &b)", {"a"}),
        ("a == b && !c", {"a", "b", "c"}),
        ("join(', ', a[].b)", {"a"}),
        ("'a'", set()),
    ],
)
def test_the_roots_of_an_expression_are_what_it_is_about(text: str, roots: set[str]) -> None:
    assert Expression(text).roots == roots
    scope = Seen({name: {"b": [1], "y": "z"} for name in "abc"})
    with contextlib.suppress(JMESPathError):  # it may want a list where it finds an object
        jmespath.compile(text).search(scope)
    assert scope.looked_up <= roots


def test_a_place_is_handed_on_as_it_is_and_all_else_as_json() -> None:
    tensor = np.ones((2, 2))
    scope = {"a": {"b": tensor}}
    plain_calls: list[Any] = []

    def plain(value: Any) -> Any:
        plain_calls.append(value)
        return {"b": tensor.tolist()}

    assert Expression("a.b").of(scope, plain) is tensor
    assert Expression("a.c.d").of(scope, plain) is None
    assert not plain_calls
    assert Expression("length(a.b)").of(scope, plain) == 2
    with pytest.raises(ValueError, match="length"):
        Expression("length(a)").of({"a": 1}, lambda value: value)


def test_cut_and_flipped_files_are_refused_or_read(tmp_path: Path) -> None:
    data = CHAIN.encode()
    chance = random.Random(0)
    file = tmp_path / "damaged.yaml"
    refused = 0
    for case in range(300):
        damaged = bytearray(data if case % 3 else data[: chance.randrange(len(data))])
        if case % 3:
            damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        try:
            read(file)
        except ModelFileError as e:
            refused += 1
            assert file.name in e.message
            assert e.message.endswith(".")
    assert refused > 100


def test_the_backend_reads_the_file_and_runs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "ocr.yaml"
    file.write_text(CHAIN)
    match = PipelineBackend.sniff(file)
    assert match.confidence == 0.9
    assert match.runs_code is None
    info = PipelineBackend().load(file, Device("cpu"), NoOptions())
    assert info.task == "pipeline"
    assert not info.batchable
    file.write_text("server: {port: 1}")
    assert PipelineBackend.sniff(file).confidence == 0
