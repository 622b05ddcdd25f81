"""The prompts of the LLM workload, and its bars."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import llm_servers, prompts
from benchmarks.bars import BARS
from benchmarks.harness import Options
from benchmarks.peers import llama_loop
from benchmarks.prompts import Conversation
from benchmarks.workloads.llm import ONE_BY_ONE, POINTS, SHARES_AT


@pytest.mark.parametrize(
    ("make", "least", "most"), [(prompts.distinct, 58, 70), (prompts.shared, 500, 560), (prompts.repetitive, 160, 200)]
)
def test_prompts_have_the_size_that_they_say(make: Callable[[int], Conversation], least: int, most: int) -> None:
    params = llama_loop.api.llama_model_default_params()
    params.vocab_only = True
    model = llama_loop.api.llama_model_load_from_file(str(llm_servers.model()).encode(), params)
    sizes = [len(llama_loop.tokenize(model, prompts.chatml(c))) for c in prompts.several(make, 0, 50)]
    llama_loop.api.llama_model_free(model)
    assert least <= min(sizes) <= max(sizes) <= most


def test_prompts_differ_from_the_first_words_on() -> None:
    first = [c[1]["content"][:25] for c in prompts.several(prompts.distinct, 0, 200)]
    assert len(set(first)) == 200


def test_shared_prompts_share_what_comes_first() -> None:
    conversations = prompts.several(prompts.shared, 0, 50)
    assert len({c[0]["content"] for c in conversations}) == 1
    assert len({c[1]["content"] for c in conversations}) == 50


def test_no_prompt_comes_twice() -> None:
    asked = [prompts.chatml(c) for point in POINTS for c in point.conversations(Options())]
    assert len(set(asked)) == len(asked)


def test_every_client_has_something_to_ask() -> None:
    for point in POINTS:
        count = len(point.conversations(Options(scale=0.1)))
        assert count >= point.clients
        assert count % point.clients == 0


def test_bars_are_on_what_is_measured() -> None:
    measured = {f"{p.name} {what}" for p in POINTS for what in ("throughput", "TTFT p50", "inter-token p50")}
    measured |= {f"c={clients} Python of a step" for clients in SHARES_AT}
    bars = [bar for bar in BARS if bar.workload == "llm"]
    assert {bar.metric for bar in bars} <= measured
    assert {bar.against for bar in bars} <= {None, *llm_servers.NAMES}
    alone = [bar.metric.removesuffix(" throughput") for bar in bars if bar.against == "llama-cpp-python"]
    assert alone and set(alone) <= set(ONE_BY_ONE)


def test_the_bare_loop_decodes(tmp_path: Path) -> None:
    speeds = llm_servers.LOOP.speeds({n: prompts.several(prompts.distinct, 0, 2) for n in (1, 2)}, 4, 1)
    assert list(speeds) == [1, 2]
    assert min(speeds.values()) > 0


def test_the_python_of_a_step_is_measured() -> None:
    shares = llm_servers.step_shares([1, 2], 1, steps=3)
    assert list(shares) == [1, 2]
    assert all(0 < share < 100 for share in shares.values())


def test_the_command_line_knows_the_systems() -> None:
    command = [sys.executable, "-m", "benchmarks", "llm", "--systems", "nobody"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 2
    assert "llama-server+ngram" in done.stderr
