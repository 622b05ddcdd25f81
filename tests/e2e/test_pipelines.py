"""Pipelines on a real server: chains, branches, lists, nested ones, and the ways in which they fail."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw, ImageFont
from prometheus_client.parser import text_string_to_metric_families
from serving import PLUGIN, Server, checked, wait_until

from tests import models, models_gguf, models_sklearn

ROOT = Path(__file__).parents[2]
CAT = (ROOT / "examples" / "cat.jpg").read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def serving(server: Server, files: Path) -> Server:
    (files / "model.py").write_text(PLUGIN)
    server.register("cats", models.efficientnet())
    server.register("magika", models.magika())
    server.register("iris", models_sklearn.path("iris"), trust=True)
    server.register("echo", f"{files / 'model.py'}:Model", trust=True)
    return server


def pipeline(server: Server, files: Path, name: str, text: str, status: int = 201) -> dict[str, Any]:
    file = files / f"{name}.yaml"
    file.write_text(text)
    return server.register(name, file, status=status)


def test_it_is_found_listed_and_shown(serving: Server, files: Path) -> None:
    text = "steps: {a: {model: iris}, b: {model: echo, input: a}}\nexample: [5.1, 3.5, 1.4, 0.2]"
    view = pipeline(serving, files, "shown", text)
    assert view["example"] == {"input": [5.1, 3.5, 1.4, 0.2]}
    assert serving.predict("shown", view["example"])["output"]["output"] is None
    assert (view["backend"], view["task"], view["state"]) == ("pipeline", "pipeline", "ready")
    assert view["notes"] == ["It calls iris, echo."]
    assert serving.get("/v1/models/shown/status")["state"] == "ready"
    assert "shown" in [m["name"] for m in serving.get("/v1/models")["data"]]


def test_a_chain_hands_results_on(serving: Server, files: Path) -> None:
    alone = serving.predict("iris", {"input": [5.1, 3.5, 1.4, 0.2]})["output"]
    pipeline(
        serving, files, "chain", "steps: {a: {model: iris}, b: {model: echo, input: {input: a}}}\noutput: b.output"
    )
    answer = serving.predict("chain", {"input": [5.1, 3.5, 1.4, 0.2]})
    assert answer == {"model": "chain", "version": 1, "output": alone}


def test_an_image_goes_to_each_step_that_wants_it(serving: Server, files: Path) -> None:
    text = """
steps:
  what: {model: cats, parameters: {top_k: 1}}
  seen: {model: echo, input: {input: input, best: "what[0].label"}}
output: {best: "what[0].label", image: seen.output}
"""
    pipeline(serving, files, "looks", text)
    raw = checked(
        serving.http.post("/v1/models/looks:predict", content=CAT, headers={"content-type": "image/jpeg"}), 200
    )
    encoded = base64.b64encode(CAT).decode()
    assert raw["output"]["image"] == encoded
    alone = serving.predict("cats", {"input": encoded, "parameters": {"top_k": 1}})["output"]
    assert raw["output"]["best"] == alone[0]["label"]
    assert serving.predict("looks", {"input": encoded})["output"] == raw["output"]


def test_tensors_are_handed_on_as_they_are(serving: Server, files: Path) -> None:
    """And are lists for an expression that does more than name them."""
    pipeline(serving, files, "scores", "steps: {a: {model: magika}}\noutput: {first: a, count: 'length(a)'}")
    row = [i % 257 for i in range(2048)]
    alone = serving.predict("magika", {"input": row})["output"]
    answer = serving.predict("scores", {"input": row})["output"]
    assert answer["count"] == 214
    assert answer["first"] == pytest.approx(alone, abs=1e-6)


def test_a_list_is_computed_in_batches_and_keeps_its_order(serving: Server, files: Path) -> None:
    text = """
steps:
  rows: {model: iris, each: input, input: item}
  told: {model: echo, each: rows, input: {input: {label: item.label, index: index}}, when: "index != `1`"}
output: told[*].output
"""
    pipeline(serving, files, "many", text)
    rows = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]] * 100
    labels = [a["label"] for a in serving.predict("iris", {"instances": rows})["predictions"]]
    answer = serving.predict("many", {"input": rows})["output"]
    wanted = [{"label": label, "index": i} for i, label in enumerate(labels) if i != 1]
    assert [told for told in answer if told is not None] == wanted
    assert serving.get("/v1/models/iris/status")["mean_batch_rows"] > 1


def test_a_branch_is_taken_when_its_condition_holds(serving: Server, files: Path) -> None:
    text = """
steps:
  kind: {model: iris}
  setosa: {model: echo, when: "kind.label == `0`", input: {input: 'setosa'}}
  other: {model: echo, when: "kind.label != `0`", input: {input: 'other'}}
output: {name: "setosa.output || other.output"}
"""
    text = text.replace("'setosa'", "\"'setosa'\"").replace("'other'", "\"'other'\"")
    pipeline(serving, files, "branch", text)
    first = serving.predict("iris", {"input": [5.1, 3.5, 1.4, 0.2]})["output"]["label"]
    names = {
        serving.predict("branch", {"input": row})["output"]["name"]
        for row in ([5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3])
    }
    assert names == ({"setosa", "other"} if first in (0, "0") else {"other"})


def test_pipelines_can_be_within_one_another_but_not_within_themselves(serving: Server, files: Path) -> None:
    pipeline(serving, files, "inner", "steps: {a: {model: iris}}\noutput: a.label")
    pipeline(serving, files, "outer", "steps: {a: {model: inner}, b: {model: inner}}", status=422)
    pipeline(serving, files, "outer", "steps: {a: {model: inner}, b: {model: inner}}\noutput: {x: a, y: b}")
    answer = serving.predict("outer", {"instances": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]})["predictions"]
    assert all(each["x"] == each["y"] for each in answer)
    refused = pipeline(serving, files, "inner", "steps: {a: {model: outer}}", status=400)
    assert "would call itself: inner → outer → inner" in refused["error"]["message"]
    missing = pipeline(serving, files, "lost", "steps: {a: {model: nobody}}", status=404)
    assert "nobody" in missing["error"]["message"]


def test_the_step_that_fails_is_named_and_the_status_is_its_own(serving: Server, files: Path) -> None:
    pipeline(serving, files, "fails", "steps: {a: {model: iris}, b: {model: echo, input: {input: a}}}")
    error = serving.predict("fails", {"input": ["x"]}, status=400)["error"]
    assert error["message"].startswith("Step 'a' (iris): ")
    pipeline(serving, files, "raises", "steps: {a: {model: echo, input: {input: input.input}}}")
    error = serving.predict("raises", {"input": {"input": {"raise": "no"}}}, status=500)["error"]
    assert error["message"].startswith("Step 'a' (echo): ")
    error = serving.predict("raises", {"input": {"input": {"refuse": "not so"}}}, status=400)["error"]
    assert "not so" in error["message"]
    each = pipeline(serving, files, "each", "steps: {a: {model: iris, each: input, input: item}}")
    assert each["version"] == 1
    assert "must be a list" in serving.predict("each", {"input": 5}, status=400)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": [1, 2, 3, 4], "stream": True}, 400, "does not stream"),
        ({"inputs": [1, 2, 3, 4]}, 400, "exactly one of"),
        ({}, 400, "exactly one of"),
        ({"input": 1, "beside": 2}, 400, "beside"),
        ({"input": 1, "parameters": 5}, 400, "parameters must be an object"),
    ],
)
def test_a_bad_body_is_told(serving: Server, files: Path, body: Any, status: int, words: str) -> None:
    pipeline(serving, files, "plain", "steps: {a: {model: iris}}")
    assert words in serving.predict("plain", body, status=status)["error"]["message"]


def test_other_dialects_say_how_it_is_called(serving: Server, files: Path) -> None:
    pipeline(serving, files, "plain", "steps: {a: {model: iris}}")
    chat = {"model": "plain", "messages": [{"role": "user", "content": "hello"}]}
    error = checked(serving.http.post("/v1/chat/completions", json=chat), 400)["error"]
    assert "is a pipeline" in error["message"]
    refused = serving.register("plain", files / "plain.yaml", status=400, config={"deadline_ms": 5})
    assert "has no options" in refused["error"]["message"]


def test_a_deadline_ends_it_and_so_does_a_client_that_leaves(serving: Server, files: Path) -> None:
    log = files / "log"
    pipeline(serving, files, "slow", "steps: {a: {model: echo}, b: {model: echo, input: {input: a.output}}}")
    slow = {"input": {"input": {"sleep": 0.6, "log": str(log)}}}
    error = serving.predict("slow", slow, status=504, x_request_timeout_ms="300")["error"]
    assert error["code"] == "deadline_exceeded"
    with pytest.raises(httpx.ReadTimeout):
        serving.http.post("/v1/models/slow:predict", json=slow, timeout=0.2)
    wait_until(lambda: counted(serving, "slow", "cancelled") == 1)
    assert counted(serving, "slow", "deadline_exceeded") == 1
    time.sleep(1.5)  # in which a second step would have been computed
    assert len(log.read_text().splitlines()) == 2  # the first step of each


def counted(server: Server, model: str, outcome: str) -> float:
    """How many requests ended so, by the metrics."""
    families = {f.name: f for f in text_string_to_metric_families(server.http.get("/metrics").text)}
    wanted = {"model": model, "outcome": outcome}
    samples = families["unimodel_requests"].samples
    return sum(s.value for s in samples if wanted.items() <= s.labels.items())


def test_a_file_that_changed_is_noticed_after_a_restart(
    start: Callable[..., Server], files: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    server = start(home=home)
    server.register("iris", models_sklearn.path("iris"), trust=True)
    file = tmp_path / "p.yaml"
    file.write_text("steps: {a: {model: iris}}")
    server.register("p", file)
    before = server.predict("p", {"input": [5.1, 3.5, 1.4, 0.2]})
    server.__exit__()
    again = start(home=home)
    assert again.predict("p", {"input": [5.1, 3.5, 1.4, 0.2]}) == before
    again.__exit__()
    file.write_text("steps: {b: {model: iris}}")
    changed = start(home=home)
    error = changed.predict("p", {"input": [5.1, 3.5, 1.4, 0.2]}, status=503)["error"]
    assert "has changed since it was registered" in error["message"]


def test_a_stop_lets_a_pipeline_end(start: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(PLUGIN)
    server = start()
    server.register("echo", f"{tmp_path / 'model.py'}:Model", trust=True)
    log = tmp_path / "log"
    text = "steps: {a: {model: echo}, b: {model: echo, input: {input: a.output}}}\noutput: b.output"
    pipeline(server, tmp_path, "slow", text)
    answers: list[int] = []
    body = {"input": {"input": {"sleep": 0.7, "log": str(log)}}}
    thread = threading.Thread(
        target=lambda: answers.append(server.http.post("/v1/models/slow:predict", json=body).status_code)
    )
    thread.start()
    wait_until(log.exists)
    assert server.process is not None
    server.process.terminate()
    thread.join()
    assert answers == [200]
    assert len(log.read_text().splitlines()) == 2


def test_a_language_model_can_be_a_step(serving: Server, files: Path) -> None:
    serving.register("chat", models_gguf.smollm2())
    text = """
steps:
  say:
    model: chat
    input: "join(' ', ['The capital of', input, 'is'])"
    parameters: {raw: true, max_tokens: 1, temperature: 0}
  told: {model: echo, input: {input: say}}
output: told.output
"""
    pipeline(serving, files, "capital", text)
    assert serving.predict("capital", {"input": "France"})["output"] == " Paris"
    error = serving.predict("capital", {"input": 5}, status=400)["error"]
    assert error["message"].startswith("Step 'say' (chat): ")


def test_the_ocr_example_reads_an_image(serving: Server, tmp_path: Path) -> None:
    example = ROOT / "examples" / "ocr"
    serving.register("ocr-detect", models.model("ocr", "detect.onnx"))
    serving.register("ocr-turned", models.model("ocr", "turned.onnx"), task="tensor")
    serving.register("ocr-recognise", models.model("ocr", "recognise.onnx"))
    characters = str(models.model("ocr", "characters.txt"))
    for name, plugin, config in (
        ("page", "Page", {}),
        ("cut", "Cut", {}),
        ("spell", "Spell", {"characters": characters}),
    ):
        serving.register(f"ocr-{name}", f"{example / 'lines.py'}:{plugin}", trust=True, config=config)
    serving.register("ocr", example / "ocr.yaml")
    image = Image.new("RGB", (320, 128), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(28)
    draw.text((20, 15), "Invoice 73915", "black", font)
    draw.text((20, 75), "Total 42.50", "black", font)
    data = io.BytesIO()
    image.save(data, "PNG")
    headers = {"content-type": "image/png"}
    answer = checked(serving.http.post("/v1/models/ocr:predict", content=data.getvalue(), headers=headers), 200)
    assert [line["text"] for line in answer["output"]] == ["Invoice 73915", "Total 42.50"]
    assert not any(line["upside_down"] for line in answer["output"])
