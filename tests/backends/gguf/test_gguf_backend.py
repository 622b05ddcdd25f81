"""Tests of the GGUF backend with a real model: answers, batching, caching, limits, and how things end."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator

import msgspec
import pytest

from backends.base import BackendError, InvalidInput, InvalidOption, OutOfMemory
from backends.generation import Generation, Sampling
from backends.gguf import GgufBackend, scheduler
from backends.gguf.model import Model
from backends.gguf.options import GgufOptions, SamplingDefaults
from tests import models_gguf
from tests.backends.gguf.generating import (
    CPU,
    GREEDY,
    SMALL,
    Answer,
    Loaded,
    ask,
    chat,
    finish,
    greedy,
    load,
    run,
    step,
)
from tests.models_gguf import smollm2


@pytest.fixture(scope="module")
def backend() -> Iterator[Loaded]:
    backend = load()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Loaded]:
    """Without cached prefixes and guesses."""
    backend = load(prefix_cache=False, speculation="off", sequences=16)
    yield backend
    backend.close()


# --- what it says of itself -----------------------------------------------------------------------------------------


def test_the_model_is_recognised() -> None:
    assert GgufBackend.sniff(smollm2()).confidence == 1


def test_what_loading_finds_out() -> None:
    backend = GgufBackend()
    info = backend.load(smollm2(), CPU, GgufOptions(**SMALL))
    assert info.task == "chat"
    assert info.streams
    assert not info.batchable
    assert info.generation is not None
    assert info.generation.context_length == 512
    assert info.generation.sequences == 4
    assert info.generation.eos == "<|im_end|>"
    assert info.generation.quantization == "Q4_1"
    assert info.generation.architecture == "llama"
    assert info.generation.parameters == 134_515_008
    assert "im_start" in (info.generation.chat_template or "")
    assert info.runtime.startswith("llama.cpp (")
    assert any("weights 97 MB" in note for note in info.notes)
    assert backend.threads == 1
    backend.close()


def test_memory_is_what_is_held(backend: Loaded) -> None:
    cells = 4 * 512 * 30 * 3 * (64 + 64) * 2
    assert 96_000_000 + cells < backend.memory() < 96_000_000 + cells + 80_000_000


def test_after_close_nothing_is_held() -> None:
    backend = load()
    backend.close()
    assert backend.memory() == 0
    backend.close()


def test_the_example_is_two_tokens(backend: Loaded) -> None:
    answer = ask(backend, backend.example())
    assert answer.tokens == 2
    assert answer.finish == "length"


def test_tokens_and_text(backend: Loaded) -> None:
    text = "Hello, wörld! 日本 👍"
    assert backend.model.detokenize(backend.model.tokenize(text)) == text
    assert backend.model.tokenize("<|im_start|>") == [1]
    assert len(backend.model.tokenize("<|im_start|>", special=False)) > 1


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("The capital of France is", " Paris"),
        ("The capital of Italy is", " Rome"),
        ("1, 2, 3, 4, 5, 6,", " 7, 8, 9"),
        (chat("What is 2+2? Answer with just the number."), "2 + 2 = 4"),
    ],
)
def test_known_answers(backend: Loaded, prompt: str, text: str) -> None:
    assert ask(backend, greedy(prompt, 12)).text.startswith(text)


def test_the_model_ends_its_answer_itself(backend: Loaded) -> None:
    answer = ask(backend, greedy(chat("What is 2+2? Answer with just the number."), 40))
    assert answer.text == "2 + 2 = 4"
    assert answer.finish == "stop"
    assert answer.stop_text is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == answer.tokens == 8


def test_ignore_eos_goes_on(backend: Loaded) -> None:
    answer = ask(backend, greedy(chat("What is 2+2? Answer with just the number."), 20, ignore_eos=True))
    assert answer.text.startswith("2 + 2 = 4")
    assert answer.tokens == 20
    assert answer.finish == "length"


def test_special_tokens_show_only_when_kept(backend: Loaded) -> None:
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>"
    bias = Sampling(temperature=0, logit_bias={1: 100.0})
    assert ask(backend, Generation(prompt=prompt, sampling=bias, max_tokens=2)).text == ""
    kept = ask(backend, Generation(prompt=prompt, sampling=bias, max_tokens=2, keep_special=True))
    assert kept.text == "<|im_start|><|im_start|>"


def test_a_prompt_of_tokens_is_used_as_it_is(backend: Loaded) -> None:
    tokens = tuple(backend.model.tokenize("The capital of France is"))
    assert ask(backend, Generation(prompt=tokens, sampling=GREEDY, max_tokens=1)).text == " Paris"


def test_text_is_never_part_of_a_character(backend: Loaded) -> None:
    answer = ask(backend, greedy("Repeat: 👍🏽 日本 👍🏽 日本 👍🏽 日本 👍🏽", 24))
    assert "\ufffd" not in answer.text
    assert "日本" in answer.text


# --- stops ----------------------------------------------------------------------------------------------------------


def test_a_stop_text_across_tokens(backend: Loaded) -> None:
    whole = ask(backend, greedy("1, 2, 3, 4, 5, 6,", 12)).text
    answer = ask(backend, greedy("1, 2, 3, 4, 5, 6,", 12, stop=("8, 9",)))
    assert answer.text == whole[: whole.index("8, 9")]
    assert answer.finish == "stop"
    assert answer.stop_text == "8, 9"


def test_a_stop_token_gives_no_text(backend: Loaded) -> None:
    (nine,) = backend.model.tokenize("9")
    answer = ask(backend, greedy("1, 2, 3, 4, 5, 6,", 20, stop_tokens=(nine,)))
    assert answer.text == " 7, 8, "
    assert answer.finish == "stop"
    assert answer.stop_text is None


# --- sampling -------------------------------------------------------------------------------------------------------


def story(seed: int | None, **sampling: float) -> Generation:
    return Generation(
        prompt="Once upon a time", sampling=Sampling(seed=seed, temperature=1.0, **sampling), max_tokens=16
    )


def test_the_same_seed_gives_the_same_answer(backend: Loaded) -> None:
    first = ask(backend, story(7)).text
    assert ask(backend, story(7)).text == first
    assert ask(backend, story(8)).text != first


def test_without_a_seed_each_answer_is_different(backend: Loaded) -> None:
    assert len({ask(backend, story(None)).text for _ in range(3)}) > 1


def test_a_seed_gives_the_same_answer_whatever_else_runs(plain: Loaded) -> None:
    alone = {seed: ask(plain, story(seed)).text for seed in range(12)}
    together = run(plain, {seed: story(seed) for seed in range(12)})
    assert {seed: together[seed, 0].text for seed in range(12)} == alone


@pytest.mark.parametrize("sampling", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}])
def test_a_narrow_choice_is_greedy(backend: Loaded, sampling: dict[str, float]) -> None:
    assert ask(backend, story(3, **sampling)).text == ask(backend, greedy("Once upon a time", 16)).text


def test_a_sampler_takes_the_best_k_among_all_tokens(backend: Loaded) -> None:
    """Looking only at likely tokens first changes nothing: with everything kept the draws still follow the logits."""
    texts = {ask(backend, story(seed, top_k=0, top_p=1.0, min_p=0.0)).text for seed in range(3)}
    assert len(texts) == 3


def test_a_temperature_near_zero_is_greedy(backend: Loaded) -> None:
    request = Generation(prompt="Once upon a time", sampling=Sampling(temperature=1e-30), max_tokens=8)
    assert ask(backend, request).text == ask(backend, greedy("Once upon a time", 8)).text


def test_when_all_tokens_are_banned_the_answer_ends(backend: Loaded) -> None:
    bias = dict.fromkeys(range(49152), -math.inf)
    answer = ask(backend, Generation(prompt="x", sampling=Sampling(temperature=0, logit_bias=bias), max_tokens=3))
    assert (answer.text, answer.tokens, answer.finish) == ("", 0, "stop")


def test_logits_that_are_no_numbers_fail_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load()
    assert backend._pools is not None
    (context,) = backend._pools.open
    real = context.rows
    monkeypatch.setattr(context, "rows", lambda first, count: [row * math.nan for row in real(first, count)])
    for sampling in (GREEDY, Sampling(seed=1)):
        answer = ask(backend, Generation(prompt="x", sampling=sampling, max_tokens=3))
        assert answer.error is not None
        assert "not a number" in answer.error.message
    backend.close()


def test_penalties_end_repetition(backend: Loaded) -> None:
    prompt = "a b c a b c a b c a b c a b c"
    loop = ask(backend, greedy(prompt, 12)).text
    assert loop == " c" * 12
    penalised = Sampling(temperature=0, repeat_penalty=2.0)
    assert ask(backend, Generation(prompt=prompt, sampling=penalised, max_tokens=12)).text != loop
    presence = Sampling(temperature=0, presence_penalty=20.0)
    assert not ask(backend, Generation(prompt=prompt, sampling=presence, max_tokens=1)).text.startswith(" c")
    nothing = Sampling(temperature=0, repeat_penalty=2.0, repeat_last_n=0)
    assert ask(backend, Generation(prompt=prompt, sampling=nothing, max_tokens=12)).text == loop


def test_logit_bias(backend: Loaded) -> None:
    (rome,) = backend.model.tokenize(" Rome")
    (paris,) = backend.model.tokenize(" Paris")
    wanted = Sampling(temperature=0, logit_bias={rome: 100.0})
    assert ask(backend, Generation(prompt="The capital of France is", sampling=wanted, max_tokens=1)).text == " Rome"
    banned = Sampling(temperature=0, logit_bias={paris: -100.0})
    assert ask(backend, Generation(prompt="The capital of France is", sampling=banned, max_tokens=1)).text != " Paris"


def test_the_model_s_options_are_the_defaults_of_sampling() -> None:
    backend = load(sampling=SamplingDefaults(temperature=0))
    answer = ask(backend, Generation(prompt="The capital of France is", max_tokens=1))
    assert answer.text == " Paris"
    backend.close()


# --- logprobs -------------------------------------------------------------------------------------------------------


def test_logprobs_are_those_of_a_distribution(backend: Loaded) -> None:
    answer = ask(backend, greedy("The capital of France is", 4, logprobs=5))
    assert len(answer.logprobs) == 4
    assert b"".join(each.text for each in answer.logprobs).decode() == answer.text
    for each in answer.logprobs:
        assert [top.logprob for top in each.top] == sorted((top.logprob for top in each.top), reverse=True)
        assert each.top[0].token == each.token
        assert each.top[0].logprob == each.logprob
        assert sum(math.exp(top.logprob) for top in each.top) <= 1


def test_logprobs_of_all_tokens_sum_to_one(backend: Loaded) -> None:
    answer = ask(backend, greedy("The capital of France is", 1, logprobs=49152))
    assert len(answer.logprobs[0].top) == 49152
    assert sum(math.exp(top.logprob) for top in answer.logprobs[0].top) == pytest.approx(1, abs=1e-5)


def test_logprobs_are_those_before_bias_and_temperature(backend: Loaded) -> None:
    (rome,) = backend.model.tokenize(" Rome")
    before = ask(backend, greedy("The capital of France is", 1, logprobs=20)).logprobs[0]
    biased = Sampling(temperature=0, logit_bias={rome: 100.0})
    request = Generation(prompt="The capital of France is", sampling=biased, max_tokens=1, logprobs=20)
    after = ask(backend, request).logprobs[0]
    assert after.token == rome
    assert after.logprob < before.logprob
    assert after.top == before.top


def test_logprobs_of_a_stop_text_are_not_reported(backend: Loaded) -> None:
    answer = ask(backend, greedy("1, 2, 3, 4, 5, 6,", 12, stop=("8, 9",), logprobs=0))
    assert b"".join(each.text for each in answer.logprobs).decode() == answer.text == " 7, "
    assert all(each.top == () for each in answer.logprobs)


# --- grammars -------------------------------------------------------------------------------------------------------

YES_OR_NO = 'root ::= "yes" | "no"'
JSON = r"""
root ::= "{" ws "\"name\":" ws string "," ws "\"age\":" ws number "}"
string ::= "\"" [a-zA-Z ]{1,12} "\""
number ::= [1-9] [0-9]{0,2}
ws ::= " "?
"""


def test_a_grammar_is_followed(backend: Loaded) -> None:
    answer = ask(backend, greedy("Is the sky blue?", 10, grammar=YES_OR_NO))
    assert answer.text in ("yes", "no")
    assert answer.finish == "stop"


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1), Sampling(seed=2, top_k=0, min_p=0.0, top_p=1.0)])
def test_a_grammar_of_json_is_followed(backend: Loaded, sampling: Sampling) -> None:
    request = Generation(prompt="Describe a person in JSON: ", sampling=sampling, max_tokens=60, grammar=JSON)
    answer = ask(backend, request)
    person = json.loads(answer.text)
    assert set(person) == {"name", "age"}
    assert answer.finish == "stop"


def test_several_grammars_at_once(backend: Loaded) -> None:
    answers = run(backend, {i: greedy("Hi", 8, grammar=f'root ::= "{i}{i}{i}"') for i in range(4)})
    assert [answers[i, 0].text for i in range(4)] == ["000", "111", "222", "333"]


def test_a_grammar_that_cannot_go_on_ends_the_answer(backend: Loaded) -> None:
    answer = ask(backend, greedy("Hi", 8, grammar='root ::= "a"', ignore_eos=True))
    assert answer.text == "a"
    assert answer.finish == "stop"


@pytest.mark.parametrize("grammar", ["root ::= (", "start ::= 'x'", "root ::= missing", 'root ::= root "a"'])
def test_an_invalid_grammar_is_refused(backend: Loaded, grammar: str) -> None:
    with pytest.raises(InvalidInput) as e:
        backend.add(1, greedy("Hi", 8, grammar=grammar))
    assert e.value.field == "grammar"
    assert not backend.busy


# --- several choices ------------------------------------------------------------------------------------------------


def test_choices_have_seeds_that_count_on(backend: Loaded) -> None:
    answers = run(backend, {1: Generation(**{**_fields(story(5)), "choices": 3})})
    assert [answers[1, i].text for i in range(3)] == [ask(backend, story(5 + i)).text for i in range(3)]


def test_greedy_choices_are_equal_and_share_the_prompt(backend: Loaded) -> None:
    answers = run(backend, {1: greedy("The capital of France is", 4, choices=3)})
    assert len({answers[1, i].text for i in range(3)}) == 1
    assert {answers[1, i].cached for i in range(3)} == {answers[1, 0].cached}


def test_more_choices_than_slots(backend: Loaded) -> None:
    answers = run(backend, {1: greedy("The capital of France is", 3, choices=7)})
    assert len(answers) == 7
    assert {answer.text for answer in answers.values()} == {answers[1, 0].text}


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(backend: Loaded) -> None:
    with pytest.raises(InvalidInput, match=r"601 tokens.*511.*512") as e:
        backend.add(1, Generation(prompt=(5,) * 601))
    assert e.value.field == "prompt"


def test_a_prompt_of_megabytes_is_not_made_tokens_of(plain: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = plain.model.longest_token
    assert longest == max(len(plain.model.token_bytes(i, True)) for i in range(plain.model.vocab_size))
    made: list[int] = []
    tokenize = Model.tokenize
    monkeypatch.setattr(Model, "tokenize", lambda self, text: made.append(len(text)) or tokenize(self, text))
    with pytest.raises(InvalidInput, match=r"5,000,000 bytes.*tokens or more.*512") as e:
        plain.add(1, greedy("word " * 1_000_000))
    assert e.value.field == "prompt"
    assert made == []
    ends = "word " * 1_000_000 + "1, 2, 3, 4, 5, 6,"
    answer = ask(plain, greedy(ends, 4, truncate=True))
    assert made == [512 * longest]
    rest = tuple(plain.model.tokenize(ends[-5000:])[-508:])
    assert answer.text == ask(plain, Generation(prompt=rest, sampling=GREEDY, max_tokens=4)).text


def test_truncation_drops_the_beginning(plain: Loaded) -> None:
    long = "word " * 600 + "1, 2, 3, 4, 5, 6,"
    answer = ask(plain, greedy(long, 4, truncate=True))
    rest = tuple(plain.model.tokenize(long)[-508:])
    assert answer.text == ask(plain, Generation(prompt=rest, sampling=GREEDY, max_tokens=4)).text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 508


def test_truncation_leaves_room_for_an_answer(backend: Loaded) -> None:
    answer = ask(backend, Generation(prompt=(5,) * 900, sampling=GREEDY, truncate=True, ignore_eos=True))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 384
    assert answer.tokens == 128


def test_truncation_does_nothing_to_a_prompt_that_fits(backend: Loaded) -> None:
    answer = ask(backend, greedy("The capital of France is", 1, truncate=True))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5


def test_the_context_ends_an_answer(backend: Loaded) -> None:
    answer = ask(backend, Generation(prompt=(5,) * 505, sampling=GREEDY, ignore_eos=True))
    assert answer.tokens == 7
    assert answer.finish == "length"


def test_the_longest_prompt_has_an_answer_of_one_token(backend: Loaded) -> None:
    answer = ask(backend, Generation(prompt=(5,) * 511, sampling=GREEDY, ignore_eos=True, max_tokens=9))
    assert answer.tokens == 1


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Generation(prompt=(49152,)), "prompt"),
        (Generation(prompt=(-1,)), "prompt"),
        (Generation(prompt="x", max_tokens=0), "max_tokens"),
        (Generation(prompt="x", choices=0), "n"),
        (Generation(prompt="x", stop=("",)), "stop"),
        (Generation(prompt="x", stop_tokens=(-1,)), "stop_tokens"),
        (Generation(prompt="x", logprobs=-1), "logprobs"),
        (Generation(prompt="x", suffix="y"), "suffix"),
        (Generation(prompt="x", images=(b"",)), "images"),
        (Generation(prompt="x", adapters={"pirate": 1.0}), "adapters"),
        (Generation(prompt="x", sampling=Sampling(temperature=-1)), "temperature"),
        (Generation(prompt="x", sampling=Sampling(temperature=math.nan)), "temperature"),
        (Generation(prompt="x", sampling=Sampling(top_p=1.5)), "top_p"),
        (Generation(prompt="x", sampling=Sampling(top_k=-1)), "top_k"),
        (Generation(prompt="x", sampling=Sampling(repeat_penalty=0)), "repeat_penalty"),
        (Generation(prompt="x", sampling=Sampling(logit_bias={-1: 1.0})), "logit_bias"),
        (Generation(prompt="x", sampling=Sampling(logit_bias={1: math.nan})), "logit_bias"),
        (Generation(prompt="x", sampling=Sampling(logit_bias={1: math.inf})), "logit_bias"),
    ],
)
def test_what_cannot_be_served_is_refused(backend: Loaded, request_: Generation, field: str) -> None:
    with pytest.raises(InvalidInput) as e:
        backend.add(1, request_)
    assert e.value.field == field
    assert not backend.busy


@pytest.mark.parametrize("seed", [0, -1, 2**32 - 1, 2**64, -(2**70)])
def test_any_whole_number_is_a_seed(backend: Loaded, seed: int) -> None:
    request = Generation(prompt="Once", sampling=Sampling(seed=seed), max_tokens=3)
    assert ask(backend, request).text == ask(backend, request).text


def test_an_empty_prompt_begins_with_the_model_s_own_token(backend: Loaded) -> None:
    answer = ask(backend, greedy("", 2))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 1


# --- many at once ---------------------------------------------------------------------------------------------------


def mixed(count: int) -> dict[int, Generation]:
    """Requests of all lengths, short enough to be alike to the last bit whatever else runs."""
    chance = random.Random(1)
    words = ("sun", "moon", "river", "stone", "bird", "king", "queen", "market", "winter", "song", "garden")
    requests = {}
    for i in range(count):
        text = " ".join(chance.choices(words, k=chance.choice((3, 8, 20, 80))))
        prompt = chat(f"Write about {text}.") if i % 2 else text
        requests[i] = greedy(prompt, chance.randint(4, 12), ignore_eos=bool(i % 3))
    return requests


def test_64_mixed_requests_at_once_are_answered_as_alone(plain: Loaded) -> None:
    requests = mixed(64)
    together = run(plain, requests)
    alone = {i: ask(plain, request) for i, request in requests.items()}
    assert {i: together[i, 0].text for i in requests} == {i: answer.text for i, answer in alone.items()}


def test_logits_are_the_same_to_the_last_bit_whatever_else_runs(plain: Loaded) -> None:
    requests = {i: Generation(**{**_fields(r), "logprobs": 3}) for i, r in mixed(16).items()}
    together = run(plain, requests)
    for i, request in requests.items():
        assert ask(plain, request).logprobs == together[i, 0].logprobs


def test_requests_join_while_others_run(backend: Loaded) -> None:
    answers: dict[tuple[int, int], Answer] = {}
    backend.add(1, greedy("1, 2, 3, 4, 5, 6,", 24))
    for _ in range(5):
        step(backend, answers)
    assert answers[1, 0].tokens >= 5
    backend.add(2, greedy("The capital of France is", 2))
    finish(backend, answers)
    assert answers[2, 0].text.startswith(" Paris")
    assert answers[1, 0].text.startswith(" 7, 8, 9, 10")


def test_a_long_prompt_does_not_hold_up_the_others() -> None:
    backend = load(batch_tokens=160, speculation="off")
    answers: dict[tuple[int, int], Answer] = {}
    backend.add(1, greedy("1, 2, 3, 4, 5, 6,", 40))
    step(backend, answers)
    backend.add(2, Generation(prompt=tuple(range(100, 500)), sampling=GREEDY, max_tokens=1))
    while (2, 0) not in answers:
        before = answers[1, 0].tokens
        for _ in range(2):  # in turn
            step(backend, answers)
        assert answers[1, 0].tokens == before + 1
    assert answers[1, 0].tokens >= 5
    backend.close()


@pytest.mark.parametrize(("seconds", "first"), [(0.0, 1), (3600.0, 3)])
def test_the_first_token_of_a_prompt_waits_for_short_prompts_only(
    backend: Loaded, monkeypatch: pytest.MonkeyPatch, seconds: float, first: int
) -> None:
    monkeypatch.setattr(scheduler, "_PROMPTS_SECONDS", seconds)
    answers: dict[tuple[int, int], Answer] = {}
    for i in range(3):
        backend.add(i, greedy(f"Write {i} things:", 5, ignore_eos=True))
    step(backend, answers)
    assert sorted(answers) == [(i, 0) for i in range(first)]
    finish(backend, answers)
    assert [answers[i, 0].tokens for i in range(3)] == [5, 5, 5]


# --- cancelling -----------------------------------------------------------------------------------------------------


def test_a_cancelled_request_leaves_its_slot_to_the_next_step(backend: Loaded) -> None:
    answers: dict[tuple[int, int], Answer] = {}
    for i in range(5):
        backend.add(i, greedy(f"Write {i} things:", 30, ignore_eos=True))
    for _ in range(12):
        step(backend, answers)
    assert sorted(answers) == [(i, 0) for i in range(4)], "four slots"
    backend.cancel(2)
    for _ in range(2):  # in turn
        step(backend, answers)
    assert (4, 0) in answers
    for i in range(5):
        backend.cancel(i)
    assert not backend.busy
    assert backend.step() == []


def test_what_is_cancelled_gives_no_more_pieces(backend: Loaded) -> None:
    answers: dict[tuple[int, int], Answer] = {}
    backend.add(1, greedy("a b c d", 30, choices=2, ignore_eos=True))
    backend.add(2, greedy("1, 2, 3, 4, 5, 6,", 6))
    while (1, 0) not in answers:
        step(backend, answers)
    backend.cancel(1)
    backend.cancel(1)
    backend.cancel(77)
    before = answers[1, 0].tokens
    finish(backend, answers)
    assert answers[1, 0].tokens == before
    assert answers[2, 0].text.startswith(" 7, 8")


def test_a_waiting_request_can_be_cancelled(backend: Loaded) -> None:
    for i in range(6):
        backend.add(i, greedy("x", 2))
    backend.cancel(5)
    assert set(finish(backend)) == {(i, 0) for i in range(5)}


# --- cached prefixes ------------------------------------------------------------------------------------------------

SYSTEM = "You are a helpful assistant that answers in one word and never says anything that is not asked for. " * 4


def test_a_shared_beginning_is_computed_once() -> None:
    backend = load()
    first = ask(backend, greedy(SYSTEM + "The capital of France is", 3))
    second = ask(backend, greedy(SYSTEM + "The capital of Italy is", 3))
    shared = len(backend.model.tokenize(SYSTEM))
    assert first.cached == 0
    assert shared - 2 <= second.cached <= shared + 4
    again = ask(backend, greedy(SYSTEM + "The capital of Italy is", 3))
    assert again.usage is not None
    assert again.cached == again.usage.prompt_tokens - 1
    assert again.text == second.text
    backend.close()


def test_a_conversation_goes_on_from_where_it_was() -> None:
    backend = load()
    prompt = chat("Name three colours, please, and say which of them you like best.")
    first = ask(backend, greedy(prompt, 12, ignore_eos=True))
    more = prompt + first.text + "<|im_end|>\n<|im_start|>user\nAnd the next?<|im_end|>\n<|im_start|>assistant\n"
    second = ask(backend, greedy(more, 4))
    assert second.cached >= len(backend.model.tokenize(prompt)) + 10
    backend.close()


def test_a_running_sequence_shares_its_beginning() -> None:
    backend = load(speculation="off")
    answers: dict[tuple[int, int], Answer] = {}
    backend.add(1, greedy(SYSTEM + "Count to ten:", 30, ignore_eos=True))
    while (1, 0) not in answers:
        step(backend, answers)
    backend.add(2, greedy(SYSTEM + "The capital of France is", 2))
    finish(backend, answers)
    assert answers[2, 0].cached >= len(backend.model.tokenize(SYSTEM)) - 2
    backend.close()


def test_prompts_that_come_at_once_compute_their_common_beginning_once() -> None:
    backend = load()
    answers = run(backend, {i: greedy(SYSTEM + f"The number {i} is", 2) for i in range(4)})
    cached = [answers[i, 0].cached for i in range(4)]
    assert cached[0] == 0
    assert min(cached[1:]) >= len(backend.model.tokenize(SYSTEM)) - 2
    backend.close()


def test_without_a_cache_nothing_is_shared(plain: Loaded) -> None:
    for _ in range(2):
        assert ask(plain, greedy(SYSTEM, 1)).cached == 0


def test_cached_prefixes_stay_within_their_memory() -> None:
    backend = load(prefix_cache_mb=12)
    before = backend.memory()
    for i in range(4):
        ask(backend, Generation(prompt=tuple(range(1000 * i + 500, 1000 * i + 700)), sampling=GREEDY, max_tokens=1))
    assert before < backend.memory() <= before + 12_000_000
    backend.close()


# --- guessing -------------------------------------------------------------------------------------------------------


def test_guessing_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many guesses as possible, and none, for greedy answers, drawn ones, and such that follow a grammar."""
    requests = {
        1: greedy("a b c d a b c d a b c d a b", 40, ignore_eos=True),
        2: greedy(chat("Say: hello hello hello hello hello hello"), 30, logprobs=2),
        3: Generation(prompt="x y z x y z x y z x y", sampling=Sampling(seed=4, temperature=0.7), max_tokens=40),
        4: greedy("1, 2, 3, 1, 2, 3, 1, 2, 3,", 24, grammar='root ::= (" " [0-9] ",")+', stop=("3, 1, 2, 3, 1, 2",)),
    }
    plain = load(speculation="off", prefix_cache=False)
    expected = {(i, 0): ask(plain, request) for i, request in requests.items()}
    plain.close()
    monkeypatch.setattr("backends.gguf.scheduler.plan", lambda _costs, _odds, limit, _seconds: min(6, limit))
    guessing = load(prefix_cache=False)
    answers = {(i, 0): ask(guessing, request) for i, request in requests.items()}
    guessing.close()
    for key, answer in answers.items():
        assert answer.text == expected[key].text
        assert answer.finish == expected[key].finish
        assert [t.token for t in answer.logprobs] == [t.token for t in expected[key].logprobs]
        assert answer.tokens == expected[key].tokens
    assert answers[1, 0].usage is not None
    assert answers[1, 0].usage.accepted_tokens > 10
    assert len(answers[1, 0].pieces) < len(expected[1, 0].pieces)


def test_a_draft_model_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = {1: greedy("The capital of France is", 12), 2: greedy(chat("Tell me about the sea."), 24)}
    plain = load(speculation="off", prefix_cache=False)
    expected = {(i, 0): ask(plain, request) for i, request in prompts.items()}
    plain.close()
    monkeypatch.setattr("backends.gguf.scheduler.plan", lambda _costs, _odds, limit, _seconds: min(4, limit))
    drafting = load(draft_model=str(smollm2()), prefix_cache=False)
    answers = {(i, 0): ask(drafting, request) for i, request in prompts.items()}
    drafting.close()
    assert {k: a.text for k, a in answers.items()} == {k: a.text for k, a in expected.items()}
    usage = answers[2, 0].usage
    assert usage is not None
    assert usage.accepted_tokens >= 0.9 * usage.draft_tokens > 10, "the model guesses itself right"


def test_a_draft_model_counts_in_the_memory() -> None:
    alone, both = load(speculation="off"), load(draft_model=str(smollm2()))
    assert any("weights 97 MB" in note for note in alone.info.notes)
    assert any("weights 193 MB" in note for note in both.info.notes)
    assert both.memory() > 1.8 * alone.memory()
    alone.close()
    both.close()


def test_a_draft_model_with_another_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidOption, match="another vocabulary") as e:
        load(draft_model=str(models_gguf.llama()))
    assert e.value.field == "config.draft_model"


# --- sequences of several lengths -----------------------------------------------------------------------------------


def test_a_sequence_that_outgrows_its_slot_goes_on_in_a_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.gguf.backend._SHORT", 256)
    request = Generation(prompt=tuple(range(500, 720)), sampling=GREEDY, max_tokens=45, ignore_eos=True)
    backend = load(sequences=4, long_sequences=1, speculation="off", prefix_cache=False)
    answers = run(backend, dict.fromkeys(range(2), request))
    backend.close()
    one = load(sequences=4, long_sequences=4, speculation="off", prefix_cache=False)
    expected = run(one, dict.fromkeys(range(2), request))
    one.close()
    for i in range(2):
        assert answers[i, 0].tokens == 45
        assert answers[i, 0].text == expected[i, 0].text


def test_a_choice_that_outgrew_its_slot_is_not_begun_anew_with_those_that_come_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backends.gguf.backend._SHORT", 256)
    request = Generation(prompt=tuple(range(500, 720)), sampling=GREEDY, max_tokens=45, ignore_eos=True, choices=3)
    backend = load(sequences=2, long_sequences=1, speculation="off", prefix_cache=False)
    answers = run(backend, {1: request})
    expected = ask(backend, msgspec.structs.replace(request, choices=1))
    backend.close()
    for choice in range(3):
        assert answers[1, choice].tokens == 45
        assert answers[1, choice].text == expected.text


def test_a_cached_prefix_serves_slots_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.gguf.backend._SHORT", 256)
    backend = load(sequences=4, long_sequences=1)
    common = tuple(range(500, 700))
    short = ask(backend, Generation(prompt=common, sampling=GREEDY, max_tokens=2))
    long = ask(backend, Generation(prompt=(*common, *range(800, 900)), sampling=GREEDY, max_tokens=2))
    again = ask(backend, Generation(prompt=common, sampling=GREEDY, max_tokens=2))
    backend.close()
    assert (short.cached, long.cached, again.cached) == (0, 200, 199)
    assert again.text == short.text


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_failed_call_fails_its_requests_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load()
    assert backend._pools is not None
    (context,) = backend._pools.open
    backend.add(1, greedy("1, 2, 3", 8))
    backend.add(2, greedy("4, 5, 6", 8))
    answers: dict[tuple[int, int], Answer] = {}
    while len(answers) < 2:
        step(backend, answers)
    context._tokens[:] = 0
    monkeypatch.setattr(context, "_api", Failing(context._api))
    step(backend, answers)
    monkeypatch.undo()
    for i in (1, 2):
        assert isinstance(answers[i, 0].error, BackendError)
    assert not backend.busy
    assert ask(backend, greedy("The capital of France is", 1)).text == " Paris"
    backend.close()


class Failing:
    """llama.cpp whose decode calls fail, as they do when memory runs out on a GPU."""

    def __init__(self, api: object) -> None:
        self._api = api

    def __getattr__(self, name: str) -> object:
        return getattr(self._api, name)

    def llama_decode(self, *_: object) -> int:
        return -3


def test_a_model_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(OutOfMemory, match=r"weights 97 MB.*keys and values"):
        load(max_context_length=2**24, sequences=1)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"sequences": 0}, "config.sequences"),
        ({"long_sequences": 0}, "config.long_sequences"),
        ({"batch_tokens": 1}, "config.batch_tokens"),
        ({"threads": 0}, "config.threads"),
        ({"max_context_length": 1}, "config.max_context_length"),
        ({"speculation": "draft"}, "config.speculation"),
        ({"speculation": "off", "draft_model": "x.gguf"}, "config.draft_model"),
        ({"kv_type": "q8_0", "flash_attention": "off"}, "config.kv_type"),
        ({"tensor_split": (-1.0,)}, "config.tensor_split"),
        ({"tensor_split": (0.5, 0.5)}, "config.tensor_split"),
        ({"sampling": SamplingDefaults(temperature=-1)}, "config.sampling.temperature"),
        ({"chat_template": "no-such-file.jinja"}, "config.chat_template"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidOption) as e:
        load(**options)
    assert e.value.field == field


@pytest.mark.parametrize("kv_type", ["q8_0", "bf16"])
def test_other_types_of_keys_and_values(kv_type: str) -> None:
    backend = load(kv_type=kv_type)
    assert ask(backend, greedy("The capital of France is", 1)).text == " Paris"
    backend.close()


def test_a_chat_template_of_one_s_own(tmp_path: object) -> None:
    backend = GgufBackend()
    info = backend.load(smollm2(), CPU, GgufOptions(**SMALL, chat_template="{{ messages[0].content }}"))
    backend.close()
    assert info.generation is not None
    assert info.generation.chat_template == "{{ messages[0].content }}"


def _fields(request: Generation) -> dict[str, object]:
    return {name: getattr(request, name) for name in request.__struct_fields__}
