"""Predictions in every form, over real HTTP, on real models."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import helper
from serving import FLOAT, Server, checked, doubler, onnx_model, plugin

from tests import models, models_boosting, models_sklearn, models_speech

CATS = {281, 282, 285}


@pytest.fixture(scope="module")
def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("models")
    server.register("double", doubler(folder / "double.onnx"))
    server.register("obedient", plugin(folder), trust=True)
    server.register("cats", models.efficientnet())
    server.register("faces", models.yolo())
    return server


def picture(name: str, kind: str = "JPEG") -> bytes:
    import skimage.data
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(file, kind, quality=95)
    return file.getvalue()


def batches(server: Server, name: str) -> float:
    """How many batches of a model were computed."""
    text = server.http.get("/metrics").text
    line = next(x for x in text.splitlines() if x.startswith(f'unimodel_batch_rows_count{{model="{name}"'))
    return float(line.split()[-1])


def test_objects_are_found_in_images(served: Server) -> None:
    sent = picture("astronaut")
    address = "/v1/models/faces:predict"
    (face,) = checked(served.http.post(address, content=sent, headers={"content-type": "image/jpeg"}), 200)["output"]
    assert face["label"] == "FACE_FEMALE"
    np.testing.assert_allclose(list(face["box"].values()), [173, 83, 274, 180], atol=4)
    encoded = [base64.b64encode(each).decode() for each in (sent, picture("coffee"), sent)]
    body = {"input": encoded, "parameters": {"threshold": 0.5, "top_k": 1}}
    assert served.predict("faces", body)["output"] == [[face], [], [face]]
    refused = served.http.post(address, json={"input": encoded, "parameters": {"threshold": 7}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "parameters.threshold")


def test_what_was_found_at_registration_is_told(served: Server) -> None:
    def told(name: str) -> dict[str, tuple[str, str, str]]:
        view = served.get(f"/v1/models/{name}")
        return {f["subject"]: (f["value"], f["sure"], f["option"]) for f in view["findings"]}

    found = told("cats")
    assert found["backend"] == ("onnx", "certain", "--backend NAME")
    assert found["task"] == ("image-classification", "likely", "--task tensor")
    assert found["batching"] == ("on, along axis 0", "certain", "--set batching.max_batch_size=1")
    assert found["image fit"] == ("short side to 256, centre cut out", "certain", "--set preprocess.crop=false")
    options = {"preprocess": {"crop": False, "color": "bgr"}, "softmax": True, "batching": {"max_batch_size": 1}}
    served.register("squeezed", models.efficientnet(), config=options, task="image-classification", backend="onnx")
    found = told("squeezed")
    assert {subject: value for subject, (value, sure, _) in found.items() if sure == "given"} == {
        "backend": "onnx",
        "task": "image-classification",
        "batching": "off",
        "image fit": "whole, squeezed",
        "colours": "blue, green, red",
        "softmax": "yes",
    }


def test_the_forms_of_a_json_prediction(served: Server) -> None:
    row, doubled = [1.0, 2.0, 3.0, 4.5], [2.0, 4.0, 6.0, 9.0]
    assert served.predict("double", {"input": [row, row]}) == {
        "model": "double",
        "version": 1,
        "output": [doubled, doubled],
    }
    assert served.predict("double", {"input": row})["output"] == doubled
    assert served.predict("double", {"instances": [row]})["predictions"] == [doubled]
    assert served.predict("double", {"instances": [{"x": row}]})["predictions"] == [doubled]
    assert served.predict("double", {"inputs": {"x": [row]}})["outputs"] == [doubled]
    assert served.predict("double", {"inputs": [row]})["outputs"] == [doubled]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b'{"input": [[1, 2, 3]]}', "invalid_input", "input"),
        (b'{"input": [[1, 2, 3, "x"]]}', "invalid_input", "input"),
        (b'{"input": [[1, 2, 3, 1e39]]}', "invalid_input", "input"),
        (b'{"input": [[1, 2, 3, 4], [1]]}', "invalid_input", "input"),
        (b'{"input": {"z": [[1, 2, 3, 4]]}}', "invalid_input", "input"),
        (b'{"input": [[1, 2, 3, NaN]]}', "invalid_json", None),
        (b'{"input": [[1, 2, 3', "invalid_json", None),
        (b"", "invalid_json", None),
        (b"[1]", "invalid_input", None),
        (b"{}", "invalid_input", "input"),
        (b'{"input": [1, 2, 3, 4], "instances": [[1, 2, 3, 4]]}', "invalid_input", "input"),
        (b'{"input": [1, 2, 3, 4], "colour": 1}', "invalid_input", "colour"),
        (b'{"input": [1, 2, 3, 4], "parameters": {"top": 1}}', "invalid_input", "parameters"),
        (b'{"input": [1, 2, 3, 4], "parameters": {"top_k": 1}}', "invalid_input", "parameters.top_k"),
        (b'{"input": [1, 2, 3, 4], "stream": true}', "invalid_request", "stream"),
        (b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json", None),
    ],
)
def test_bad_json_names_the_field(served: Server, body: bytes, code: str, field: str | None) -> None:
    error = checked(served.http.post("/v1/models/double:predict", content=body), 400)["error"]
    assert error["code"] == code
    assert error["param"] == field


def test_binary_tensors(served: Server) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    url = "/v1/models/double:predict"
    raw = {"content-type": "application/octet-stream", "x-tensor-dtype": "float32", "x-tensor-shape": "3,4"}
    answer = served.http.post(url, content=rows.tobytes(), headers={**raw, "accept": "application/octet-stream"})
    assert (answer.headers["x-tensor-shape"], answer.headers["x-tensor-dtype"]) == ("3,4", "float32")
    assert np.array_equal(np.frombuffer(answer.content, np.float32).reshape(3, 4), rows * 2)

    file = io.BytesIO()
    np.save(file, rows)
    npy = {"content-type": "application/x-npy", "accept": "application/x-npy"}
    answer = served.http.post(url, content=file.getvalue(), headers=npy)
    assert np.array_equal(np.load(io.BytesIO(answer.content)), rows * 2)

    answer = served.http.post(url, content=rows.tobytes(), headers=raw)
    assert answer.json()["output"] == (rows * 2).tolist()

    for change, field in (
        ({"x-tensor-dtype": "float64"}, "x-tensor-dtype"),
        ({"x-tensor-dtype": "nonsense"}, "x-tensor-dtype"),
        ({"x-tensor-shape": "3,5"}, "body"),
        ({"x-tensor-shape": "3,-4"}, "x-tensor-shape"),
        ({"x-tensor-name": "z"}, "x-tensor-name"),
    ):
        error = checked(served.http.post(url, content=rows.tobytes(), headers={**raw, **change}), 400)["error"]
        assert error["param"] == field
    error = checked(served.http.post(url, content=b"x", headers={"content-type": "text/csv"}), 415)["error"]
    assert error["code"] == "unsupported_media_type"


def test_a_large_tensor_goes_in_and_out_whole(server: Server, tmp_path: Path) -> None:
    path = onnx_model(
        tmp_path / "same.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": (FLOAT, ["batch", "n"])},
        {"y": (FLOAT, ["batch", "n"])},
    )
    server.register("same", path)
    tensor = np.random.default_rng(0).random((1, 6_000_000), np.float32)
    headers = {
        "content-type": "application/octet-stream",
        "accept": "application/octet-stream",
        "x-tensor-dtype": "float32",
        "x-tensor-shape": "1,6000000",
    }
    for _ in range(3):  # the connection goes on after a body that bypassed the parser
        answer = server.http.post("/v1/models/same:predict", content=tensor.tobytes(), headers=headers)
        assert answer.content == tensor.tobytes()
    assert len(server.predict("same", {"input": tensor[:, :100_000].tolist()})["output"][0]) == 100_000


def test_images(served: Server) -> None:
    cat = picture("chelsea")
    answer = served.http.post("/v1/models/cats:predict", content=cat, headers={"content-type": "image/jpeg"}).json()
    assert {c["index"] for c in answer["output"][:3]} == CATS
    coffee = picture("coffee", "PNG")
    answer = served.http.post("/v1/models/cats:predict", content=coffee, headers={"content-type": "image/png"}).json()
    assert answer["output"][0]["index"] == 967
    several = [base64.b64encode(picture(n)).decode() for n in ("coffee", "chelsea")]
    coffee, again = served.predict("cats", {"input": several, "parameters": {"top_k": 3}})["output"]
    assert coffee[0]["index"] == 967
    assert coffee[0]["score"] > 0.9
    assert {c["index"] for c in again} == CATS
    error = served.predict("cats", {"input": base64.b64encode(cat[:100]).decode()}, 400)["error"]
    assert (error["code"], error["param"]) == ("invalid_input", "input")


def test_answers_are_batched_and_never_swapped(served: Server) -> None:
    requests, calls = served.status("double")["requests"], batches(served, "double")

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with httpx.Client(base_url=served.url) as http:
            for _ in range(40):
                rows = rng.integers(0, 1000, (int(rng.integers(1, 5)), 4)).tolist()
                answer = http.post("/v1/models/double:predict", json={"input": rows}).json()
                assert answer["output"] == [[2 * x for x in row] for row in rows]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))
    assert served.status("double")["requests"] - requests == 640
    assert batches(served, "double") - calls < 500, "many came together"


def test_a_poisoned_row_takes_no_other_along(server: Server, tmp_path: Path) -> None:
    """Gather fails on an index that is out of range; its neighbours in the batch are answered."""
    from onnx import TensorProto

    table = helper.make_tensor("table", FLOAT, [3], [10.0, 20.0, 30.0])
    path = onnx_model(
        tmp_path / "lookup.onnx",
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        {"i": (TensorProto.INT64, ["batch", 1])},
        {"y": (FLOAT, ["batch", 1])},
        (table,),
    )
    server.register("lookup", path)

    def ask(i: int) -> tuple[int, httpx.Response]:
        return i, httpx.post(f"{server.url}/v1/models/lookup:predict", json={"input": [[i]]})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, [0, 1, 2, 9] * 16))
    for i, answer in answers:
        if i == 9:
            assert answer.status_code in (400, 500)
        else:
            assert answer.json()["output"] == [[10.0 * (i + 1)]]


def test_rows_of_different_lengths(server: Server, tmp_path: Path) -> None:
    """A sum does not mind zeros, so it is padded; a mean does, so the self-check refuses it."""
    for name, operator in (("sum", "ReduceSum"), ("mean", "ReduceMean")):
        axes = helper.make_tensor("axes", 7, [1], [1])
        node = (
            helper.make_node(operator, ["x", "axes"], ["y"], keepdims=1)
            if operator == "ReduceSum"
            else helper.make_node(operator, ["x"], ["y"], axes=[1], keepdims=1)
        )
        path = onnx_model(
            tmp_path / f"{name}.onnx",
            [node],
            {"x": (FLOAT, ["batch", "length"])},
            {"y": (FLOAT, ["batch", 1])},
            (axes,) if operator == "ReduceSum" else (),
        )
        server.register(name, path, config={"batching": {"padding": {"x": {"buckets": [8, 16]}}}})
    assert server.status("sum")["batching"]["dynamic_padding"]
    refused = server.status("mean")["batching"]
    assert not refused["dynamic_padding"]
    assert "padding changes the result" in refused["padding_reason"]

    def ask(n: int) -> None:
        row = [float(n)] * n
        with httpx.Client(base_url=server.url) as http:
            assert http.post("/v1/models/sum:predict", json={"input": [row]}).json()["output"] == [[float(n * n)]]
            assert http.post("/v1/models/mean:predict", json={"input": [row]}).json()["output"] == [[float(n)]]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, list(range(1, 21)) * 6))
    assert batches(server, "sum") < 120, "some came together"


def test_models_that_cannot_be_batched_say_why(server: Server, tmp_path: Path) -> None:
    server.register("fixed", doubler(tmp_path / "fixed.onnx", batch=1))
    view = server.get("/v1/models/fixed")
    assert not view["batching"]["enabled"]
    assert view["batching"]["reason"]
    assert server.predict("fixed", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]

    # each row's result depends on the whole batch: the self-check must find that out
    path = onnx_model(
        tmp_path / "normalised.onnx",
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "m"], ["y"]),
        ],
        {"x": (FLOAT, ["batch", 4])},
        {"y": (FLOAT, ["batch", 4])},
    )
    server.register("normalised", path)
    batching = server.get("/v1/models/normalised")["batching"]
    assert not batching["enabled"]
    assert "differs from the same row computed alone" in batching["reason"]
    assert "unbatched" in server.log.read_text()


def test_several_inputs_and_outputs_are_batched_by_name(server: Server, tmp_path: Path) -> None:
    path = onnx_model(
        tmp_path / "two.onnx",
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        {"a": (FLOAT, ["batch", 2]), "b": (FLOAT, ["batch", 2])},
        {"sum": (FLOAT, ["batch", 2]), "difference": (FLOAT, ["batch", 2])},
    )
    server.register("two", path)

    def ask(n: int) -> None:
        a, b = [float(n), 1.0], [2.0, float(n)]
        right = {"sum": [n + 2.0, n + 1.0], "difference": [n - 2.0, 1.0 - n]}
        with httpx.Client(base_url=server.url) as http:
            for body, key in (({"input": {"a": a, "b": b}}, "output"), ({"inputs": {"b": [b], "a": [a]}}, "outputs")):
                answer = http.post("/v1/models/two:predict", json=body).json()[key]
                assert answer == (right if key == "output" else {k: [v] for k, v in right.items()})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(160)))
    error = server.predict("two", {"input": {"a": [1, 2]}}, 400)["error"]
    assert "'b'" in error["message"]


def test_stateful_and_integer_models(server: Server) -> None:
    server.register("silero", models.silero())
    assert not server.get("/v1/models/silero")["batching"]["enabled"]
    inputs = {"input": np.zeros((1, 512)).tolist(), "state": np.zeros((2, 1, 128)).tolist(), "sr": 16000}
    outputs = server.predict("silero", {"inputs": inputs})["outputs"]
    assert outputs["output"][0][0] < 0.05, "silence is no speech"
    state, heard = inputs["state"], []
    windows = np.lib.stride_tricks.sliding_window_view(models_speech.sound("0930"), 64 + 512)[::512]  # they overlap
    for window in windows.tolist():
        outputs = server.predict("silero", {"inputs": {"input": [window], "state": state, "sr": 16000}})["outputs"]
        state = outputs["stateN"]
        heard.append(outputs["output"][0][0])
    assert max(heard) > 0.99
    server.register("magika", models.magika())
    kinds = json.loads(models.model("magika", "config.json").read_text())["target_labels_space"]
    query = b"SELECT name, count(*) FROM users WHERE age > 30 GROUP BY name ORDER BY 2 DESC;\n" * 3
    padding = [256] * (1024 - len(query))
    scores = server.predict("magika", {"input": [*query, *padding, *padding, *query]})["output"]
    assert kinds[int(np.argmax(scores))] == "sql"


@pytest.mark.parametrize(
    ("backend", "file"),
    [
        ("xgboost", lambda: models_boosting.path("xgboost_iris")),
        ("xgboost", lambda: models_boosting.path("xgboost_iris", ".json")),
        ("lightgbm", lambda: models_boosting.path("lightgbm_iris")),
        ("catboost", lambda: models_boosting.path("catboost_iris")),
        ("sklearn", lambda: models_sklearn.path("iris", ".skops")),
    ],
)
def test_flowers_by_their_measures(server: Server, backend: str, file: Callable[[], Path]) -> None:
    """None of these files runs code, so none needs trust."""
    assert server.register("flower", file())["backend"] == backend
    rows = [[5.1, 3.5, 1.4, 0.2], [6.4, 3.2, 4.5, 1.5], [6.3, 3.3, 6.0, 2.5]]
    answers = server.predict("flower", {"input": rows})["output"]
    names = ("0", "1", "2") if backend != "catboost" else ("setosa", "versicolor", "virginica")
    assert tuple(str(answer["label"]) for answer in answers) == names
    assert all(answer["probabilities"][name] > 0.6 for answer, name in zip(answers, names, strict=True))
    checked(server.http.delete("/v1/models/flower"), 200)


def test_tables_and_texts(server: Server) -> None:
    server.register("iris", models_sklearn.path("iris"), trust=True)
    answer = server.predict("iris", {"input": [5.1, 3.5, 1.4, 0.2]})["output"]
    assert max(answer["probabilities"].values()) > 0.9
    assert server.predict("iris", {"input": [[5.1, 3.5, 1.4, 0.2]] * 2})["output"] == [answer, answer]
    server.register("profanity", models_sklearn.path("profanity"), trust=True)
    polite, rude = server.predict("profanity", {"input": ["have a nice day", "you are an idiot"]})["output"]
    assert (polite[0]["index"], rude[0]["index"]) == (0, 1)


def test_plugins(served: Server) -> None:
    assert served.predict("obedient", {"input": {"any": ["thing", None]}})["output"] == {"any": ["thing", None]}
    error = served.predict("obedient", {"input": {"raise": "oops"}}, 500)["error"]
    assert error["code"] == "model_error"
    assert "oops" in error["message"]
    error = served.predict("obedient", {"input": {"refuse": "not today"}}, 400)["error"]
    assert (error["message"], error["param"]) == ("not today", "input.refuse")


def test_request_ids(served: Server) -> None:
    answer = served.http.post(
        "/v1/models/double:predict", json={"input": [1, 2, 3, 4]}, headers={"x-request-id": "mine-1"}
    )
    assert answer.headers["x-request-id"] == "mine-1"
    bad = served.http.get("/v1/models/nothing", headers={"x-request-id": "x" * 200})
    assert bad.headers["x-request-id"] != "x" * 200


def test_large_images_share_batches(served: Server) -> None:
    """Their JSON is decoded in the worker; the server must still see that each is one row."""
    image = base64.b64encode(picture("chelsea")).decode()
    assert len(image) > 32 * 1024
    before = batches(served, "cats")

    def ask(_: int) -> int:
        answer = httpx.post(f"{served.url}/v1/models/cats:predict", json={"input": image}, timeout=60).json()
        return int(answer["output"][0]["index"])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(32))) <= CATS
    assert batches(served, "cats") - before < 32


def test_a_binary_answer_of_a_model_that_also_answers_strings(server: Server) -> None:
    server.register("flowers", models_sklearn.path("iris"), trust=True)
    row = np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)
    headers = {
        "content-type": "application/octet-stream",
        "accept": "application/octet-stream",
        "x-tensor-dtype": "float32",
        "x-tensor-shape": "1,4",
        "x-tensor-output": "probabilities",
    }
    answer = server.http.post("/v1/models/flowers:predict", content=row.tobytes(), headers=headers)
    assert answer.headers["x-tensor-shape"] == "1,3"
    assert np.frombuffer(answer.content, answer.headers["x-tensor-dtype"]).sum() == pytest.approx(1)


def test_a_text_as_the_raw_body(server: Server) -> None:
    server.register("polite", models_sklearn.path("profanity"), trust=True)
    answer = server.http.post(
        "/v1/models/polite:predict", content="have a nice day", headers={"content-type": "text/plain"}
    )
    assert checked(answer, 200)["output"][0]["index"] == 0
