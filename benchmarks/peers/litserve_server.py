"""LitServe: one LitAPI a model, batching on, its fast queue, no OpenAPI, warnings only."""

from typing import Annotated, Any

import litserve as ls
import numpy as np
from compute import TEXT_WAIT, Model, Served, arguments, decode_image, top_5
from fastapi import Body, Request, Response


class JsonRows(ls.LitAPI):  # type: ignore[misc]
    """{"input": [[…]]} -> {"output": [[…]]}"""

    def __init__(self, served: Served, threads: int) -> None:
        self.served, self.threads = served, threads
        wait = TEXT_WAIT if served.kind == "text" else 0.001
        super().__init__(max_batch_size=served.max_batch_size, batch_timeout=wait, api_path=f"/{served.route}")

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        self.model = Model(self.served.path, self.threads)

    def decode_request(self, request: Request) -> Any:
        return np.array(request["input"][0], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        return inputs[0][None] if len(inputs) == 1 else np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self.model.predict(x)

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output: Any) -> Any:
        return {"output": [output.tolist()]}


class BinaryRow(JsonRows):
    """One row as raw float32 -> one row as raw float32."""

    def decode_request(self, request: Annotated[bytes, Body()]) -> Any:
        return self.served.row(request)

    def encode_response(self, output: Any) -> Any:
        return Response(output.tobytes(), media_type="application/octet-stream")


class ImageJson(JsonRows):
    """{"input": base64 JPEG} -> {"output": the best five classes}"""

    def decode_request(self, request: Request) -> Any:
        return decode_image(request["input"])

    def encode_response(self, output: Any) -> Any:
        return {"output": top_5(output)}


class TextJson(JsonRows):
    """{"input": text} -> {"output": [[…]]}"""

    def decode_request(self, request: Request) -> Any:
        return request["input"]

    def batch(self, inputs: list[Any]) -> Any:
        return inputs


APIS = {"json": JsonRows, "binary": BinaryRow, "image": ImageJson, "text": TextJson}


def main() -> None:
    args = arguments()
    apis = [APIS[served.kind](served, args.threads) for served in args.serve]
    server = ls.LitServer(
        apis, accelerator="cpu", workers_per_device=1, timeout=120, fast_queue=True, disable_openapi_url=True
    )
    # Its HTTP side is what limits it: a second API server helps, a second inference worker does not.
    server.run(
        host="127.0.0.1",
        port=args.port,
        num_api_servers=2,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
