"""How each kind of server is asked for a prediction, and how its answer is read.

A prediction of one row exists in four kinds: ``json`` (the row as JSON numbers), ``binary`` (the row as raw float32,
wherever the server can take that), ``image`` (a base64 JPEG in JSON; the answer is the best class) and ``text`` (a text
in JSON; the answer is its vector).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.models import Array, Model, jpeg_base64
from benchmarks.peers import compute

Kind = Literal["json", "binary", "image", "text"]
Headers = Mapping[str, str]
"""Header names are lower case."""

JSON = {"content-type": "application/json"}
OCTETS = {"content-type": "application/octet-stream"}


@dataclass(frozen=True)
class Served:
    """One model that a server must serve, for one kind of input."""

    model: Model
    kind: Kind
    max_batch_size: int = 32
    text: str = ""
    """The input of the kind ``text``."""

    @property
    def route(self) -> str:
        """Its name at the peers, which serve each kind by a route of its own."""
        return f"{self.model.name}-{self.kind}"


@dataclass(frozen=True)
class Call:
    """One HTTP POST and how to read its answer: the output row, or the index of the best class of an image."""

    path: str
    headers: Headers
    body: bytes
    read: Callable[[bytes, Headers], Array]


def expected(served: Served) -> Array:
    """The answer that every server must give, computed in this process: shape (…,) float32, or the best class (1,)."""
    if served.kind == "text":
        return expected_vectors([served])[0]
    model = compute.Model(str(served.model.path), threads=1)
    if served.kind == "image":
        scores = model.predict(compute.decode_image(jpeg_base64())[None])[0]
        return np.array([scores.argmax()])
    return np.asarray(model.predict(served.model.row())[0], np.float32)


def expected_vectors(served: Sequence[Served]) -> Array:
    """The same for many texts of one model, each computed alone."""
    model = compute.Embedder(str(served[0].model.path), threads=1)
    return np.concatenate([model.predict([each.text]) for each in served])


def _json_row(model: Model, flat: bool = False) -> bytes:
    """The row as JSON: nested lists, or one `flat` list as the Open Inference Protocol likes it."""
    row = model.row()[0].astype(np.float64).round(3)
    return _dump((row.ravel() if flat else row).tolist())


def unimodel(served: Served) -> Call:
    """UniModel's native API."""
    path = f"/v1/models/{served.model.name}:predict"
    if served.kind == "image":
        return Call(path, JSON, _dump({"input": jpeg_base64()}), lambda b, _: _best(json.loads(b)["output"]))
    if served.kind == "text":
        return Call(path, JSON, _dump({"input": served.text}), lambda b, _: np.float32(json.loads(b)["output"]))
    if served.kind == "json":
        body = b'{"input": [%s]}' % _json_row(served.model)
        return Call(path, JSON, body, lambda b, _: _unimodel_row(json.loads(b)))
    row = served.model.row()
    headers = {
        **OCTETS,
        "accept": "application/octet-stream",
        "x-tensor-dtype": "float32",
        "x-tensor-shape": ",".join(map(str, row.shape)),
    }
    return Call(path, headers, row.tobytes(), _raw)


def unimodel_texts(model: Model, texts: Sequence[str]) -> Call:
    """Many texts in one request to UniModel's native API; the answer is a matrix."""
    path = f"/v1/models/{model.name}:predict"
    return Call(path, JSON, _dump({"input": texts}), lambda b, _: np.float32(json.loads(b)["output"]))


def openai_texts(model: Model, texts: Sequence[str]) -> Call:
    """The same as OpenAI's clients ask, which want vectors in base64."""
    body = {"model": model.name, "input": texts, "encoding_format": "base64"}
    return Call("/v1/embeddings", JSON, _dump(body), lambda b, _: _openai_vectors(json.loads(b)))


def plain(served: Served) -> Call:
    """The peers whose request format is the author's: the bodies of UniModel's API, without headers for raw rows."""
    path = f"/{served.route}"
    if served.kind == "image":
        return Call(path, JSON, _dump({"input": jpeg_base64()}), lambda b, _: _best(json.loads(b)["output"]))
    if served.kind == "text":
        return Call(path, JSON, _dump({"input": served.text}), lambda b, _: _row(json.loads(b)["output"]))
    if served.kind == "json":
        body = b'{"input": [%s]}' % _json_row(served.model)
        return Call(path, JSON, body, lambda b, _: _row(json.loads(b)["output"]))
    return Call(path, OCTETS, served.model.row().tobytes(), _raw)


def triton(served: Served) -> Call:
    """The Open Inference Protocol with Triton's extension for binary tensors."""
    path = f"/v2/models/{served.route}/infer"
    if served.kind == "image":
        tensor: dict[str, Any] = {"name": "input", "shape": [1, 1], "datatype": "BYTES", "data": [jpeg_base64()]}
        return Call(path, JSON, _dump({"inputs": [tensor]}), _v2_best)
    if served.kind == "json":
        return Call(path, JSON, _v2_numbers(served), _v2_row)
    row = served.model.row()
    tensor = {
        "name": "input",
        "shape": row.shape,
        "datatype": "FP32",
        "parameters": {"binary_data_size": row.nbytes},
    }
    head = _dump({"inputs": [tensor], "outputs": [{"name": "output", "parameters": {"binary_data": True}}]})
    headers = {**OCTETS, "inference-header-content-length": str(len(head))}
    return Call(path, headers, head + row.tobytes(), _triton_raw)


def mlserver(served: Served) -> Call:
    """The Open Inference Protocol; MLServer has no raw tensors over REST, so bytes travel in its base64 codec."""
    path = f"/v2/models/{served.route}/infer"
    if served.kind == "json":
        return Call(path, JSON, _v2_numbers(served), _v2_row)
    if served.kind == "text":
        tensor: dict[str, Any] = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [served.text]}
        return Call(path, JSON, _dump({"inputs": [tensor]}), _v2_row)
    image = served.kind == "image"
    data = jpeg_base64() if image else base64.b64encode(served.model.row().tobytes()).decode()
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [data]}
    return Call(path, JSON, _dump({"inputs": [tensor]}), _v2_best if image else _v2_row)


def echo(served: Served) -> Call:
    """The bare echo gets what UniModel gets. It computes nothing, so its answer is read as the expected one."""
    call = unimodel(served)
    return Call("/", JSON, call.body, lambda *_: expected(served))


def floor(served: Served) -> Call:
    """Raw bytes, at any path."""
    return Call("/", OCTETS, served.model.row().tobytes(), _raw)


def unread(_: bytes, __: Headers) -> Array:
    """For answers that nobody looks at."""
    return np.empty(0)


def _v2_numbers(served: Served) -> bytes:
    shape = ",".join(map(str, (1, *served.model.shape)))
    head = b'{"inputs":[{"name":"input","shape":[%s],"datatype":"FP32","data":' % shape.encode()
    return head + _json_row(served.model, flat=True) + b"}]}"


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _row(batch: Any) -> Array:
    return np.asarray(batch[0], np.float32).ravel()


def _best(answers: Any) -> Array:
    if isinstance(answers[0], list):  # a batch of one image
        answers = answers[0]
    return np.array([answers[0]["index"]])


def _unimodel_row(body: dict[str, Any]) -> Array:
    first = body["output"][0]
    if isinstance(first, dict):  # a classifier of tables: its label and the probability of each class
        first = list(first["probabilities"].values())
    return _row([first])


def _openai_vectors(body: dict[str, Any]) -> Array:
    return np.stack([np.frombuffer(base64.b64decode(each["embedding"]), np.float32) for each in body["data"]])


def _raw(body: bytes, _headers: Headers) -> Array:
    return np.frombuffer(body, np.float32)


def _v2_row(body: bytes, _headers: Headers) -> Array:
    return np.asarray(json.loads(body)["outputs"][0]["data"], np.float32)


def _v2_best(body: bytes, headers: Headers) -> Array:
    return np.array([_v2_row(body, headers).argmax()])


def _triton_raw(body: bytes, headers: Headers) -> Array:
    return np.frombuffer(body[int(headers["inference-header-content-length"]) :], np.float32)
