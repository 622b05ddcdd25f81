"""mosec: one worker process and one route a model, its dynamic batching on.

By default JSON is decoded and encoded by mosec's own `Worker.deserialize` and `serialize`; with ``--msgspec`` these are
overridden by a faster codec, which mosec allows and does not ship.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
import numpy as np
from compute import TEXT_WAIT, Model, Served, arguments, decode_image, top_5
from mosec import Server, Worker


class JsonRows(Worker):  # type: ignore[misc]
    """{"input": [[…]]} -> {"output": [[…]]}"""

    def __init__(self) -> None:
        super().__init__()
        self.served = Served(os.environ["BENCH_SERVED"])
        self.model = Model(self.served.path, int(os.environ["BENCH_THREADS"]))

    def forward(self, data: list[Any]) -> list[Any]:
        rows = np.array([body["input"][0] for body in data], np.float32)
        return [{"output": [row]} for row in self.model.predict(rows).tolist()]


class FastJsonRows(JsonRows):
    """The same with msgspec."""

    def deserialize(self, data: bytes) -> Any:
        return msgspec.json.decode(data)

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)


class BinaryRow(JsonRows):
    """One row as raw float32 -> one row as raw float32."""

    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> Any:
        return self.served.row(data)

    def serialize(self, data: Any) -> bytes:
        return bytes(data)

    def forward(self, data: list[Any]) -> list[Any]:
        rows = data[0][None] if len(data) == 1 else np.stack(data)  # a batch of one needs no copy
        return [row.data for row in self.model.predict(rows)]


class ImageJson(JsonRows):
    """{"input": base64 JPEG} -> {"output": the best five classes}"""

    def forward(self, data: list[Any]) -> list[Any]:
        images = np.stack([decode_image(body["input"]) for body in data])
        return [{"output": top_5(row)} for row in self.model.predict(images)]


class TextJson(JsonRows):
    """{"input": text} -> {"output": [[…]]}"""

    def forward(self, data: list[Any]) -> list[Any]:
        return [{"output": [row]} for row in self.model.predict([body["input"] for body in data]).tolist()]


class FastTextJson(TextJson, FastJsonRows):
    """The same with msgspec."""


def main() -> None:
    args = arguments()
    fast = "--msgspec" in sys.argv
    workers = {
        "json": FastJsonRows if fast else JsonRows,
        "binary": BinaryRow,
        "image": ImageJson,
        "text": FastTextJson if fast else TextJson,
    }
    server = Server()
    served: Served
    for served in args.serve:
        server.append_worker(
            workers[served.kind],
            max_batch_size=served.max_batch_size,
            # 1 is its least; a longer one only helps where batches rarely fill
            max_wait_time=int(TEXT_WAIT * 1000) if served.kind == "text" else 1,
            timeout=120,
            env=[{"BENCH_SERVED": served.text, "BENCH_THREADS": str(args.threads)}],
            route=f"/{served.route}",
        )
    server.run()


if __name__ == "__main__":
    main()
