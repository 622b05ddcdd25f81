"""Models of TensorFlow and TensorFlow Lite on one real server, beside each other and beside one of another runtime."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from serving import Server, checked, doubler

from tests import models
from tests.models_tensorflow import IRIS, images, path

C = '#include <stdio.h>\n\nint main(void) {\n    printf("hi\\n");\n    return 0;\n}\n'
SQL = "SELECT name, COUNT(*) FROM users LEFT JOIN orders ON users.id = orders.user GROUP BY name;\n"


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.rint(pixels[:, :, 0] * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_models_of_tensorflow(server: Server, tmp_path: Path) -> None:
    server.register("double", doubler(tmp_path / "double.onnx"))
    view = server.register("guess", models.guesslang())
    assert view["backend"] == "tensorflow"
    assert view["batching"]["enabled"]
    best, other = server.predict("guess", {"input": [C, SQL], "parameters": {"top_k": 1}})["output"]
    assert (best[0]["label"], other[0]["label"]) == ("c", "sql")
    text = server.http.post("/v1/models/guess:predict", content=SQL, headers={"content-type": "text/plain"})
    assert checked(text, 200)["output"][0]["label"] == "sql"

    server.register("raw", models.guesslang(), config={"signature": "predict"})
    answer = server.predict("raw", {"inputs": {"content": [C]}})["outputs"]
    assert answer["classes"] == [["c"]]

    pixels, labels = images()
    preprocess = {"mean": [0], "std": [255], "crop": False, "interpolation": "nearest"}
    for name in ("digits", "digits.tflite"):
        own = name.replace(".", "-")
        server.register(own, path(name), config={"preprocess": preprocess})
        for i in (0, 100, 500):
            body = png(pixels[i])
            url = f"/v1/models/{own}:predict"
            found = checked(server.http.post(url, content=body, headers={"content-type": "image/png"}), 200)["output"]
            assert found[0]["index"] == labels[i]
    assert server.predict("double", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]

    expected = np.load(path("digits.npy"))

    def ask(i: int) -> None:
        for name in ("digits", "digits-tflite"):
            url = f"{server.url}/v1/models/{name}:predict"
            answer = httpx.post(url, json={"instances": [pixels[i].tolist()], "parameters": {"top_k": 10}}, timeout=60)
            scores = {each["index"]: each["score"] for each in answer.json()["predictions"][0]}
            np.testing.assert_allclose([scores[n] for n in range(10)], expected[i], rtol=1e-3, atol=1e-4)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(64)))
    assert "absl" not in server.log.read_text()


def test_files_that_may_not_be_served(server: Server, tmp_path: Path) -> None:
    for name, file, config in (
        ("code", path("lambda.keras"), {}),
        ("old", path("lambda.h5"), {}),
        ("reader", path("hostile"), {"signature": "reads"}),
    ):
        error = server.register(name, file, 403, config=config)["error"]
        assert error["code"] == "untrusted_model"
        assert "--trust" in error["message"]
    assert server.register("code", path("lambda.keras"), trust=True)["backend"] == "tensorflow"
    file = tmp_path / "cut.tflite"
    file.write_bytes(path("digits.tflite").read_bytes()[:3000])
    assert server.register("cut", file, 422)["error"]["code"] == "model_file_error"
    assert (
        server.register("odd", path("module"), 400, config={"signature": "x"})["error"]["param"] == "config.signature"
    )


def test_features_and_ragged_rows_of_requests(server: Server) -> None:
    view = server.register("iris", path("estimator"))
    assert [each["name"] for each in view["inputs"]] == ["counts", *IRIS, "tags"]
    setosa = dict(zip(IRIS, (1.4, 0.2, 5.1, 3.5), strict=True))
    virginica = dict(zip(IRIS, (6.0, 2.5, 6.3, 3.3), strict=True))
    more = {"counts": [1, 2], "tags": ["a", "b"]}
    url = "/v1/models/iris:predict"
    body = {"instances": [{**setosa, **more}, {**virginica, **more}]}
    rows = checked(server.http.post(url, json=body), 200)["predictions"]
    best = [row["classes"][int(np.argmax(row["scores"]))] for row in rows]
    assert best == ["setosa", "virginica"]
    wrong = checked(server.http.post(url, json={"instances": [{**setosa, **more, "tags": [1]}]}), 400)
    assert "tags" in wrong["error"]["message"]

    view = server.register("sums", path("ragged"))
    assert not view["batching"]["dynamic_padding"]
    for words in ([[1, 2, 3]], [[1, 2], [3, 4]], [[]]):
        inputs = {"words": words, "factor": [2] * len(words)}
        assert server.predict("sums", {"inputs": inputs})["outputs"] == [2 * sum(row) for row in words]
