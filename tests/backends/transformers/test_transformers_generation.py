"""Tests of generating text with Hugging Face folders: real answers, many at once, all that a request may ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import BackendError, Device, InvalidInput, InvalidOption, OutOfMemory
from backends.generation import Generation, Piece, Sampling
from backends.transformers import prompt_queue, scheduler
from backends.transformers.backend import SamplingOptions, TransformersBackend, TransformersGenerationOptions
from tests import models_transformers
from tests.models_transformers import decoder, edit

pytest.importorskip("transformers")

CPU = Device("cpu", threads=1)
GREEDY = Sampling(temperature=0)
PROMPTS = ["The capital of France is", "1, 2, 3, 4, 5, 6,", "Once upon a time there was a small dog that", "The"]


def load(path: Path, **options: Any) -> TransformersBackend:
    backend = TransformersBackend()
    backend.info = backend.load(path, CPU, TransformersGenerationOptions(**options))  # type: ignore[attr-defined]
    return backend


@pytest.fixture(scope="module")
def smollm2() -> Iterator[TransformersBackend]:
    backend = load(models_transformers.smollm2())
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder(tmp_path_factory.mktemp("tiny") / "m")


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> TransformersBackend:
    """Remembers nothing from one test to the next."""
    return load(tiny_folder, prefix_cache=False)


def run(backend: TransformersBackend, *requests: Generation, every: int = 0) -> list[list[Piece]]:
    """The pieces of each request. `every` so many steps another one joins; all at once when 0."""
    pieces: list[list[Piece]] = [[] for _ in requests]
    waiting = list(enumerate(requests))
    steps = 0
    while waiting or backend.busy:
        while waiting and (not every or steps % every == 0 or not backend.busy):
            backend.add(*waiting.pop(0))
            if every:
                break
        for piece in backend.step():
            pieces[piece.id].append(piece)
        steps += 1
    return pieces


def texts(pieces: Sequence[Sequence[Piece]]) -> list[str]:
    return ["".join(piece.text for piece in own) for own in pieces]


def ask(backend: TransformersBackend, prompt: str = "The dog", **fields: Any) -> str:
    return texts(run(backend, Generation(prompt=prompt, **{"sampling": GREEDY, "max_tokens": 8, **fields})))[0]


def generated(folder: Path, prompt: str, count: int) -> str:
    """The greedy answer by the library's own `generate`."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt")
    found = model.generate(**inputs, max_new_tokens=count, do_sample=False)
    return str(tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


# --- a real model ---------------------------------------------------------------------------------------------------


def test_known_answers(smollm2: TransformersBackend) -> None:
    answers = texts(run(smollm2, *(Generation(prompt=p, sampling=GREEDY, max_tokens=6) for p in PROMPTS[:2])))
    assert answers[0].startswith(" Paris")
    assert answers[1].startswith(" 7, 8")
    assert answers == [generated(models_transformers.smollm2(), prompt, 6) for prompt in PROMPTS[:2]]


def test_what_is_known_of_it(smollm2: TransformersBackend) -> None:
    info = smollm2.info  # type: ignore[attr-defined]
    assert (info.task, info.streams, info.generation.context_length) == ("chat", True, 8192)
    assert (info.generation.bos, info.generation.eos) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>assistant" in info.generation.chat_template
    assert (info.generation.parameters, info.generation.architecture) == (134_515_008, "llama")
    assert smollm2.tokenize("Hello world") == smollm2.tokenize("Hello world", add_bos=False)
    assert smollm2.count(Generation(prompt="The capital of France is")) == 5


# --- many at once ---------------------------------------------------------------------------------------------------

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "MistralForCausalLM": {"sliding_window": 8},
    "Qwen3ForCausalLM": {},
    "Gemma2ForCausalLM": {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "BloomForCausalLM": {"n_layer": 2, "n_head": 4, "seq_length": 256},
    "OPTForCausalLM": {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.5},
    "MambaForCausalLM": {"state_size": 8},
}
"""Of them Mistral and Gemma look back on few tokens, Bloom weighs by distance, and Mamba has no keys and values."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_in_company_are_those_that_the_library_gives_alone(architecture: str, tmp_path: Path) -> None:
    folder = decoder(tmp_path / "m", architecture, **ARCHITECTURES[architecture])
    backend = load(folder)
    notes = backend.info.notes  # type: ignore[attr-defined]
    assert any("one after the other" in note for note in notes) == (architecture == "MambaForCausalLM")
    prompts = [*PROMPTS, "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 2]
    requests = [
        Generation(prompt=prompt, sampling=GREEDY, max_tokens=6 + 7 * i % 11) for i, prompt in enumerate(prompts)
    ]
    expected = [generated(folder, prompt, 6 + 7 * i % 11) for i, prompt in enumerate(prompts)]
    assert texts(run(backend, *requests)) == expected
    assert texts(run(backend, *requests, every=3)) == expected


def test_long_prompts_come_in_parts_and_hold_nobody_up(
    tiny: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a b c d e f g h " * 12
    expected = ask(tiny, long)
    monkeypatch.setattr(prompt_queue, "_LEAST", 4)
    monkeypatch.setattr(scheduler, "_PROMPT_SECONDS", 0.0)
    tiny.add(0, Generation(prompt="The", sampling=GREEDY, max_tokens=40, ignore_eos=True))
    tiny.step()
    tiny.add(1, Generation(prompt=long, sampling=GREEDY, max_tokens=8))
    tokens, answer, before = 0, "", 0
    while tiny.busy:
        for piece in tiny.step():
            tokens += piece.tokens if piece.id == 0 else 0
            answer += piece.text if piece.id == 1 else ""
            before = before or (tokens if piece.id == 1 else 0)
    assert answer == expected
    assert before > 20  # tokens that the short one got before the long one had its first


def test_what_outgrows_its_room_is_computed_again(tiny_folder: Path, tiny: TransformersBackend) -> None:
    requests = [Generation(prompt=prompt, sampling=GREEDY, max_tokens=60, ignore_eos=True) for prompt in PROMPTS]
    expected = texts(run(tiny, *requests))
    narrow = load(tiny_folder, cache_tokens=150, max_context_length=128, prefix_cache=False)
    assert texts(run(narrow, *requests)) == expected
    assert narrow.memory() == tiny.memory()  # nothing is held when nothing runs


def test_choices(tiny: TransformersBackend) -> None:
    request = Generation(prompt="The", sampling=Sampling(temperature=1, seed=7), max_tokens=8, choices=3)
    (pieces,) = run(tiny, request)
    answers = ["".join(p.text for p in pieces if p.choice == i) for i in range(3)]
    assert len(set(answers)) == 3
    for i in range(3):
        sampling = Sampling(temperature=1, seed=7 + i)
        assert ask(tiny, "The", sampling=sampling) == answers[i]
    ends = [p for p in pieces if p.finish is not None]
    assert {p.choice for p in ends} == {0, 1, 2}
    assert all(p.usage is not None and p.usage.prompt_tokens == 1 for p in ends)


def test_more_choices_than_sequences(tiny_folder: Path) -> None:
    backend = load(tiny_folder, sequences=2)
    (pieces,) = run(backend, Generation(prompt="The", sampling=GREEDY, max_tokens=4, choices=5, ignore_eos=True))
    answers = ["".join(p.text for p in pieces if p.choice == i) for i in range(5)]
    assert len(set(answers)) == 1


def test_cancelling(tiny: TransformersBackend) -> None:
    expected = ask(tiny, "The dog", max_tokens=20)
    for i in range(3):
        tiny.add(i, Generation(prompt="The dog", sampling=GREEDY, max_tokens=20))
    answer = ""
    for step in range(30):
        answer += "".join(piece.text for piece in tiny.step() if piece.id == 1)
        if step == 4:
            tiny.cancel(0)
            tiny.cancel(2)
            tiny.cancel(2)
    assert answer == expected
    assert not tiny.busy


def test_a_failure_ends_those_who_were_computed_and_nobody_else(
    tiny: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny._loaded
    compute, calls = network.compute, []

    def fail_once(**inputs: Any) -> Any:
        calls.append(inputs["input_ids"].shape)
        if len(calls) == 4:
            raise BackendError("It broke.")
        return compute(**inputs)

    monkeypatch.setattr(network, "compute", fail_once)
    pieces = run(tiny, *(Generation(prompt=p, sampling=GREEDY, max_tokens=5) for p in PROMPTS[:3]))
    errors = [own[-1].error for own in pieces]
    assert all(error is not None and error.message == "It broke." for error in errors)
    assert ask(tiny)


def test_prompts_that_wait_are_computed_in_one_call(tiny: TransformersBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(tiny)  # now it is known how long a call takes
    network, shapes = tiny._loaded, []
    compute = network.compute

    def note(**inputs: Any) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return compute(**inputs)

    monkeypatch.setattr(network, "compute", note)
    run(tiny, *(Generation(prompt=p, sampling=GREEDY, max_tokens=3, ignore_eos=True) for p in PROMPTS))
    assert shapes == [(4, len(tiny.tokenize(PROMPTS[1]))), (4, 1), (4, 1)]


def test_of_prompts_in_one_call_only_those_at_fault_fail(
    tiny: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [ask(tiny, prompt) for prompt in PROMPTS]
    network, (bad,) = tiny._loaded, tiny.tokenize(" France", add_bos=False)
    compute, rows = network.compute, []

    def fail_on_one(**inputs: Any) -> Any:
        tokens = inputs["input_ids"]
        if tokens.shape[1] > 1 and (tokens == bad).any():
            rows.append(len(tokens))
            raise BackendError("It broke.")
        return compute(**inputs)

    monkeypatch.setattr(network, "compute", fail_on_one)
    pieces = run(tiny, *(Generation(prompt=p, sampling=GREEDY, max_tokens=8) for p in PROMPTS))
    assert rows == [4, 1]
    assert [piece.error is not None for piece in pieces[0]] == [True]
    assert texts(pieces)[1:] == expected[1:]


# --- what a request may ask for -------------------------------------------------------------------------------------


def test_seeds_do_not_depend_on_company(tiny: TransformersBackend) -> None:
    sampling = Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, seed=3)
    alone = ask(tiny, sampling=sampling, max_tokens=20)
    others = [
        Generation(prompt=p, sampling=Sampling(temperature=1, seed=i), max_tokens=30) for i, p in enumerate(PROMPTS)
    ]
    own = Generation(prompt="The dog", sampling=sampling, max_tokens=20)
    assert texts(run(tiny, *others, own, every=2))[-1] == alone
    assert ask(tiny, sampling=Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, seed=4), max_tokens=20) != alone
    unseeded = Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0)
    assert ask(tiny, sampling=unseeded, max_tokens=20) != ask(tiny, sampling=unseeded, max_tokens=20)


def test_stops(smollm2: TransformersBackend) -> None:
    (pieces,) = run(smollm2, Generation(prompt=PROMPTS[1], sampling=GREEDY, max_tokens=20, stop=("8, 9", "zzz")))
    assert texts([pieces]) == [" 7, "]
    assert (pieces[-1].finish, pieces[-1].stop_text) == ("stop", "8, 9")
    (comma,) = smollm2.tokenize(",", add_bos=False)
    (pieces,) = run(smollm2, Generation(prompt=PROMPTS[1], sampling=GREEDY, max_tokens=20, stop_tokens=(comma,)))
    assert (texts([pieces]), pieces[-1].finish, pieces[-1].stop_text) == ([" 7"], "stop", None)


def test_the_end_of_an_answer(smollm2: TransformersBackend) -> None:
    prompt = "<|im_start|>user\nWhat is 2+2? Answer with just the number.<|im_end|>\n<|im_start|>assistant\n"
    request = Generation(prompt=prompt, sampling=GREEDY, max_tokens=30)
    (pieces,) = run(smollm2, request)
    assert texts([pieces]) == ["2 + 2 = 4"]
    assert pieces[-1].finish == "stop"
    usage = pieces[-1].usage
    assert usage is not None
    assert (usage.completion_tokens, usage.prompt_seconds > 0, usage.generation_seconds > 0) == (8, True, True)
    on = ask(smollm2, prompt, ignore_eos=True, max_tokens=14)
    assert on.startswith("2 + 2 = 4")
    assert len(on) > 10


def test_log_probabilities(tiny: TransformersBackend, tiny_folder: Path) -> None:
    import torch
    import transformers

    (pieces,) = run(tiny, Generation(prompt="The dog", sampling=GREEDY, max_tokens=5, logprobs=3, ignore_eos=True))
    found = [each for piece in pieces for each in piece.logprobs]
    assert len(found) == 5
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    tokens = [*tiny.tokenize("The dog"), *(each.token for each in found)]
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()
    for i, each in enumerate(found, len(tokens) - 6):
        assert each.logprob == pytest.approx(expected[i, each.token], abs=1e-4)
        assert [top.token for top in each.top] == np.argsort(-expected[i])[:3].tolist()
        assert each.top[0].logprob == each.logprob
    assert b"".join(each.text for each in found).decode(errors="replace") == texts([pieces])[0]


def test_bias_and_penalties(tiny: TransformersBackend) -> None:
    word = tiny.tokenize(" cat")[0]
    assert ask(tiny, sampling=Sampling(temperature=0, logit_bias={word: 1000}), max_tokens=3) == " cat" * 3
    once = Sampling(temperature=0, logit_bias={word: 30}, repeat_penalty=1.0, presence_penalty=100, repeat_last_n=-1)
    assert ask(tiny, sampling=once, max_tokens=6).count(" cat") == 1


@pytest.mark.parametrize("text", ["naïve café – 東京 🙂👩‍👩‍👧 end", "tabs\tand\nlines", "  two  spaces"])
def test_text_is_streamed_in_whole_characters(text: str, tiny: TransformersBackend) -> None:
    """Each token of a text is forced in its turn, so that characters are cut between tokens."""
    tokens = tiny.tokenize(text, add_bos=False)
    request = Generation(prompt="The", sampling=GREEDY, max_tokens=len(tokens))
    tiny.add(0, request)
    sequence = tiny._schedule._requests[0].sequences[0]
    turns = iter(tokens)
    sequence._sampler.choose = lambda *_: next(turns)  # type: ignore[method-assign]
    pieces = []
    while tiny.busy:
        pieces += tiny.step()
    assert texts([pieces]) == [text]
    assert not any("\ufffd" in piece.text for piece in pieces)


def test_special_tokens(tiny: TransformersBackend) -> None:
    (special,) = tiny.tokenize("<|im_start|>", add_bos=False)
    sampling = Sampling(temperature=0, logit_bias={special: 1000})
    assert ask(tiny, sampling=sampling, max_tokens=2) == ""
    assert ask(tiny, sampling=sampling, max_tokens=2, keep_special=True) == "<|im_start|>" * 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"images": (np.zeros((2, 2, 3), np.uint8),)}, "images"),
        ({"suffix": "end"}, "suffix"),
        ({"adapters": {"a": 1.0}}, "adapters"),
        ({"prompt": (49152,)}, "prompt"),
        ({"prompt": "a " * 300}, "prompt"),
        ({"choices": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ("",)}, "stop"),
        ({"sampling": Sampling(temperature=-1)}, "temperature"),
        ({"sampling": Sampling(logit_bias={-1: 1.0})}, "logit_bias"),
    ],
)
def test_what_cannot_be_served_names_the_field(fields: dict[str, Any], field: str, tiny: TransformersBackend) -> None:
    with pytest.raises(InvalidInput) as caught:
        tiny.add(0, Generation(**{"prompt": "a", **fields}))
    assert caught.value.field == field
    assert caught.value.message.endswith(".")
    assert not tiny.busy


def test_prompts_that_are_too_long_are_cut_if_asked(tiny: TransformersBackend) -> None:
    (pieces,) = run(tiny, Generation(prompt="a " * 300, truncate=True, sampling=GREEDY, max_tokens=4))
    usage = pieces[-1].usage
    assert usage is not None
    assert usage.prompt_tokens == 252
    assert (
        ask(tiny, "a b")
        == texts(run(tiny, Generation(prompt=tuple(tiny.tokenize("a b")), sampling=GREEDY, max_tokens=8)))[0]
    )


# --- options --------------------------------------------------------------------------------------------------------


def test_the_folders_own_defaults(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "m")
    edit(
        folder / "generation_config.json",
        do_sample=True,
        temperature=0.6,
        top_k=7,
        repetition_penalty=1.1,
        eos_token_id=[2, 5],
    )
    backend = load(folder, sampling=SamplingOptions(top_k=9))
    defaults = backend._defaults
    assert (defaults.temperature, defaults.top_k, defaults.repeat_penalty) == (0.6, 9, 1.1)
    assert (defaults.repeat_last_n, defaults.top_p) == (-1, 0.95)
    assert backend._vocabulary.end_tokens.tolist() == [2, 5]
    edit(folder / "generation_config.json", do_sample=False)
    assert load(folder)._defaults.temperature == 0
    edit(folder / "generation_config.json", temperature=-3, do_sample=True)
    with pytest.raises(InvalidOption, match="temperature must be from 0 to 100"):
        load(folder)


def test_templates(tiny_folder: Path, tmp_path: Path) -> None:
    info = load(tiny_folder).info  # type: ignore[attr-defined]
    assert info.task == "completion"
    assert "no chat template" in info.notes[0]
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages }}")
    for given in (str(file), "{{ messages }}"):
        info = load(tiny_folder, chat_template=given).info  # type: ignore[attr-defined]
        assert (info.task, info.generation.chat_template) == ("chat", "{{ messages }}")
    with pytest.raises(InvalidOption, match="neither Jinja nor the path"):
        load(tiny_folder, chat_template="missing.jinja")


@pytest.mark.parametrize(
    "options", [{"sequences": 0}, {"sequences": 1000}, {"max_context_length": 300}, {"cache_tokens": 1}, {"threads": 0}]
)
def test_options_out_of_range(options: dict[str, Any], tiny_folder: Path) -> None:
    with pytest.raises(InvalidOption, match=f"Option {next(iter(options))} must be at"):
        load(tiny_folder, **options)


def test_room_for_keys_and_values_counts(tiny_folder: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"in float32, [\d,]+ MB of them for what is remembered of texts"):
        load(tiny_folder, cache_tokens=10**12)


# --- what prompts have in common ------------------------------------------------------------------------------------

SHARED = "a b c d e f g h i j k l m n o p q r s t u v w x y z "


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_common_beginning_is_computed_once(architecture: str, tmp_path: Path) -> None:
    """Answers are those without a cache, in turn, together and after a conversation that went on."""
    folder = decoder(tmp_path / "m", architecture, **ARCHITECTURES[architecture])
    plain, caching = load(folder, prefix_cache=False), load(folder)
    prompts = [SHARED, SHARED + "The dog", SHARED + "The cat sat", SHARED * 2, SHARED[:30], "The", SHARED + "The dog"]
    requests = [Generation(prompt=prompt, sampling=GREEDY, max_tokens=12, choices=2) for prompt in prompts]
    conversation = Generation(prompt=SHARED + texts(run(plain, requests[0]))[0] + " and", sampling=GREEDY, max_tokens=9)
    expected = [run(plain, request)[0] for request in (*requests, conversation)]
    for found in (
        [run(caching, request)[0] for request in (*requests, conversation)],
        run(load(folder), *requests, conversation),
        run(load(folder), *requests, conversation, every=2),
    ):
        assert [by_choice(pieces) for pieces in found] == [by_choice(pieces) for pieces in expected]
        cached = [max(cached_tokens(pieces)) for pieces in found]
        assert (max(cached) > 20) == (architecture != "MambaForCausalLM")
    assert all(max(cached_tokens(pieces)) == 0 for pieces in expected)


def by_choice(pieces: Sequence[Piece]) -> list[str]:
    return ["".join(piece.text for piece in pieces if piece.choice == choice) for choice in (0, 1)]


def cached_tokens(pieces: Sequence[Piece]) -> list[int]:
    return [piece.usage.cached_tokens for piece in pieces if piece.usage is not None]


def test_requests_that_come_together_share_what_the_first_computes(tiny_folder: Path) -> None:
    backend = load(tiny_folder)
    requests = [Generation(prompt=f"{SHARED}{n}", sampling=GREEDY, max_tokens=4) for n in range(4)]
    shared = len(backend.tokenize(SHARED))
    cached = [cached_tokens(pieces)[0] for pieces in run(backend, *requests)]
    assert cached[0] == 0
    assert all(shared - 1 <= count <= shared + 1 for count in cached[1:])


def test_what_was_computed_for_a_cancelled_request_serves_others(tiny_folder: Path) -> None:
    backend = load(tiny_folder)
    backend.add(0, Generation(prompt=SHARED, sampling=GREEDY, max_tokens=100, ignore_eos=True))
    for _ in range(3):
        backend.step()
    backend.cancel(0)
    assert not backend.busy
    (pieces,) = run(backend, Generation(prompt=SHARED + "The", sampling=GREEDY, max_tokens=2))
    assert cached_tokens(pieces)[0] >= len(backend.tokenize(SHARED)) - 1


def test_prefixes_stay_within_their_memory(tiny_folder: Path) -> None:
    backend = load(tiny_folder, prefix_cache_mb=1)
    cache = backend._cache
    assert cache is not None
    sizes, before = [], backend.memory()
    for n in range(60):
        ask(backend, f"{n} " * 60, max_tokens=2)
        sizes.append(cache.size)
    assert 0 < max(sizes) <= 1_000_000
    assert len(cache) < 60
    assert backend.memory() - before <= 1_000_000
    backend.close()
    assert backend.memory() == 0


def test_a_sequence_that_made_room_goes_on_where_it_was(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load(tiny_folder, max_context_length=128, cache_tokens=128)
    requests = [
        Generation(prompt=p, sampling=GREEDY, max_tokens=60, ignore_eos=True) for p in (SHARED, "The dog sat on")
    ]
    alone = [texts(run(load(tiny_folder, prefix_cache=False), request))[0] for request in requests]
    assert texts(run(backend, *requests)) == alone
