"""`unimodel predict`, `show` and `register` with a model that generates text."""

import json

import pytest

from tests.cli.conftest import model_view
from tests.cli.terminal import Terminal
from unimodel_cli.answers import value_of
from unimodel_cli.calls import calls, first_call
from unimodel_cli.output import count

GREEDY = ["--temperature", "0", "--max-tokens", "8"]
QUESTION = "What is artificial intelligence?"


def test_text_is_predicted_whole_and_streamed_alike(served, smol):
    answer = served.json("predict", smol, QUESTION, *GREEDY)
    assert (answer["model"], answer["version"]) == (smol, 1)
    assert answer["usage"]["completion_tokens"] <= 8
    text = answer["output"]
    assert "rtificial intelligence" in text
    assert "Paris" in served.ok("predict", smol, "The capital of France is", *GREEDY, "--params", "raw=true")
    assert served.ok("predict", smol, QUESTION, *GREEDY) == json.dumps(text) + "\n"
    assert served.ok("predict", smol, QUESTION, *GREEDY, "--raw") == text + "\n"
    assert served.ok("predict", smol, QUESTION, *GREEDY, "--stream") == text + "\n"
    assert served.ok("predict", f"{smol}@1", QUESTION, *GREEDY, "--stream") == text + "\n"
    pieces = [
        json.loads(line) for line in served.ok("predict", smol, QUESTION, *GREEDY, "--stream", "--json").splitlines()
    ]
    assert "".join(piece["output"] for piece in pieces) == text
    assert pieces[-1]["finish_reason"] == answer["finish_reason"]
    assert served.ok("predict", smol, "-", "--stream", *GREEDY, input=QUESTION) == text + "\n"


def test_text_streams_at_a_terminal_by_itself(served, smol):
    text = served.json("predict", smol, QUESTION, *GREEDY)["output"]
    with Terminal(served, "predict", smol, QUESTION, *GREEDY) as t:
        assert t.end() == 0
        assert t.rest.replace("\r\n", "\n") == text + "\n"


def test_flags_and_parameters_are_keys_of_the_request(served, smol):
    seeded = ["--seed", "7", "--max-tokens", "6", "--params", "top_k=40"]
    assert served.ok("predict", smol, "Hi", *seeded) == served.ok("predict", smol, "Hi", *seeded)
    assert len(served.json("predict", smol, "Hi", *GREEDY, "--stop", "e")["output"]) < 40
    code, error = served.error("predict", smol, "Hi", "--params", "top_q=1")
    assert code == 1
    assert "top_q" in error["message"]
    schema = (
        '{"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"], "additionalProperties": false}'
    )
    said = served.json("predict", smol, "Hi", "--system", "Be brief.", "--json-schema", schema)["output"]
    assert list(json.loads(said)) == ["n"]


def test_a_number_is_text_for_it(served, smol):
    assert served.json("predict", smol, "42", *GREEDY)["output"]


def test_what_does_not_fit_is_named(served, smol):
    code, error = served.error("predict", smol, '["several", "texts"]')
    assert (code, error["param"]) == (1, "input[0]")
    assert error["message"] == "input[0]: expected `object`, got `str`."
    code, error = served.error("predict", smol, "several", "texts")
    assert code == 2
    assert error["message"].endswith("answers one text at a time; put it in quotes, or use --jsonl for many.")


def test_the_status_of_a_model_that_generates_has_no_batches(served, smol):
    row = next(line for line in served.ok("status").splitlines() if line.startswith(f"{smol}@1"))
    assert row.split()[-2:] == ["-", "-"]


def test_flags_of_generation_are_for_models_that_generate(served):
    assert served.error("predict", "double", "[1, 2, 3]", "--max-tokens", "3")[0] == 2
    assert served.error("predict", "double", "--jsonl", "--seed", "3")[0] == 2
    assert "max_tokens=3" in served.ok("predict", "parrot", '{"input": "hi"}', "--max-tokens", "3")


def test_the_card_says_what_it_can(served, smol):
    page = served.ok("show", smol)
    for word in ("llama", "134.5 M", "Q4_1", "2048 tokens", "at once", "Chat template", "unimodel chat smol", "openai"):
        assert word in page, word
    view = served.json("show", smol)["generation"]
    assert (view["chat_template"], view["context_length"]) == (True, 2048)


@pytest.mark.parametrize(
    ("template", "task", "says"),
    [(True, "chat", "yes"), (False, "completion", "no, so it completes text"), (True, "completion", "not used")],
)
def test_the_card_says_whether_it_chats(cli, stand_in, template, task, says):
    server = stand_in(None, task=task, generation=GENERATION | {"chat_template": template})
    page = cli.ok("show", "m", "--host", server.url).splitlines()
    assert next(line for line in page if line.startswith("Chat template")).split("  ")[-1].startswith(says)


GENERATION = {
    "context_length": 512, "sequences": 4, "chat_template": False, "images": False, "infill": False, "adapters": [],
    "parameters": 0, "quantization": "", "architecture": "llama",
}  # fmt: skip


@pytest.mark.parametrize(("chats", "verb"), [(True, "chat"), (False, "predict")])
def test_the_example_calls_fit_the_model(chats, verb):
    import msgspec

    from engine.schema import ModelView

    task = "chat" if chats else "completion"
    view = msgspec.convert(model_view(task=task, generation=GENERATION), ModelView)
    assert first_call(view).startswith(f"unimodel {verb} m ")
    python = dict(calls(view, "http://x"))["Python"]
    compile(python, "example", "exec")
    assert ("chat.completions" in python) == chats
    embeds = msgspec.convert(model_view(task="embedding"), ModelView)
    assert first_call(embeds).startswith("unimodel embed m ")


def test_the_text_of_an_answer_is_its_value():
    whole = {"model": "m", "version": 1, "output": "Hi", "finish_reason": "stop", "usage": {"prompt_tokens": 1}}
    assert value_of(whole) == "Hi"
    assert value_of({"output": "", "reasoning": "Hm"}) == ""
    assert value_of({"model": "m", "version": 1, "output": "Hi", "usage": 1}) == {"output": "Hi", "usage": 1}


@pytest.mark.parametrize(
    ("n", "shown"), [(0, "0"), (999, "999"), (1500, "1.5 K"), (134_515_008, "134.5 M"), (7e9, "7.0 B")]
)
def test_large_numbers(n, shown):
    assert count(n) == shown
