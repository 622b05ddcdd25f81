"""NVIDIA Triton through pytriton: its C++ HTTP front end and dynamic batcher, the model in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from compute import Model, Served, arguments, decode_image
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def infer_function(served: Served, threads: int) -> Callable[..., Any]:
    """Batched rows, or batched base64 images, to one output."""
    model = Model(served.path, threads)

    @batch  # type: ignore[misc]
    def infer(input: Any) -> dict[str, Any]:
        if served.kind == "image":
            input = np.stack([decode_image(encoded) for encoded in input[:, 0]])
        return {"output": model.predict(input).astype(np.float32, copy=False)}

    return infer


def main() -> None:
    args = arguments()
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=args.port,
        http_thread_count=8,
        allow_grpc=False,
        allow_metrics=False,
    )
    with Triton(config=config, workspace=Path(tempfile.mkdtemp(), "workspace")) as triton:
        served: Served
        for served in args.serve:
            triton.bind(
                model_name=served.route,
                infer_func=infer_function(served, args.threads),
                inputs=[Tensor(name="input", dtype=bytes, shape=(1,))]
                if served.kind == "image"
                else [Tensor(name="input", dtype=np.float32, shape=served.shape)],
                outputs=[Tensor(name="output", dtype=np.float32, shape=(-1,))],
                config=ModelConfig(
                    max_batch_size=served.max_batch_size,
                    batcher=DynamicBatcher(max_queue_delay_microseconds=0),
                ),
            )
        triton.serve()


if __name__ == "__main__":
    main()
