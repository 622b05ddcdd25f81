"""`unimodel bench` of a model that generates text."""

import json

import pytest

from unimodel_cli.bench_text import Arrivals, TextLevel, Usage


def test_the_tokens_of_a_real_model_are_measured(served, smol, tmp_path):
    plot = tmp_path / "curve.png"
    flags = ["-c", "1,3", "--duration", "0.5", "--max-tokens", "8"]
    measured = served.json("bench", smol, *flags, "--plot", plot)
    assert (measured["model"], [level["concurrency"] for level in measured["levels"]]) == (smol, [1, 3])
    for level in measured["levels"]:
        assert level["requests"] >= level["concurrency"]
        assert (level["errors"], level["refused"]) == (0, 0)
        assert level["output_tokens"] == 8 * level["requests"]
        assert level["prompt_tokens"] > level["cached_tokens"]
        assert level["total_tokens_per_second"] >= level["output_tokens_per_second"] > 0
        for times in ("first_token_ms", "inter_token_ms"):
            assert level[times]["p50"] <= level[times]["p99"]
        assert level["first_token_ms"]["p50"] <= level["latency_ms"]["p50"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    table = served.ok("bench", smol, *flags, "--prompt", "Hello").splitlines()
    assert table[0].split()[:3] == ["IN", "FLIGHT", "TOK/S"]
    assert len(table) == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--input", "Hello"], 2),
        (["--as", "text"], 2),
        (["--max-tokens", "0"], 2),
        (["--prompt", "word " * 5000], 1),
    ],
)
def test_text_that_cannot_be_measured(served, smol, arguments, code):
    assert served("bench", smol, *arguments, "--duration", "0.1").returncode == code
    assert served("bench", f"{smol}@1", *arguments, "--duration", "0.1").returncode == code


def test_flags_of_text_are_for_text(served):
    assert served.error("bench", "double", "--prompt", "Hello")[0] == 2
    assert served.error("bench", "double", "--max-tokens", "5")[0] == 2


def test_tokens_that_came_too_late_are_no_throughput():
    level = TextLevel(1, window=10.0, seconds=12.0, ended_in_window=1)
    arrivals = Arrivals()
    arrivals.times = [2.0, 5.0, 9.0, 11.0]
    arrivals.usage = Usage(prompt_tokens=30, completion_tokens=8)
    level.record(sent=1.0, ended=11.5, end=10.0, arrivals=arrivals)
    level.sort()
    assert (level.output_tokens, level.prompt_tokens) == (8, 30)
    assert (level.output_rate, level.total_rate) == (0.6, 3.6)
    assert (level.first, level.between, level.latencies) == ([1.0], [2.0, 3.0, 4.0], [10.5])
    level.record(sent=1.0, ended=2.0, end=10.0, arrivals=Arrivals())
    assert level.errors == 1


def test_when_no_answer_came_in_time_the_whole_time_counts():
    level = TextLevel(1, window=1.0, seconds=4.0)
    arrivals = Arrivals()
    arrivals.times = [3.0, 4.0]
    arrivals.usage = Usage(prompt_tokens=30, completion_tokens=2)
    level.record(sent=0.0, ended=4.0, end=1.0, arrivals=arrivals)
    assert (level.output_rate, level.total_rate) == (0.5, 8.0)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_answers_are_read_however_they_are_cut(cut):
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"reasoning_content": "Hm"}}]},
        {"choices": [{"delta": {"content": "Ünï"}}]},
        {"choices": [{"text": "more"}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}},
    ]
    stream = "".join(f"data: {json.dumps(e, ensure_ascii=False)}\n\n" for e in events).encode() + b"data: [DONE]\n\n"
    arrivals = Arrivals()
    for i in range(0, len(stream), cut):
        arrivals.add(stream[i : i + cut])
    assert len(arrivals.times) == 3
    assert arrivals.usage == Usage(prompt_tokens=5, completion_tokens=3)
