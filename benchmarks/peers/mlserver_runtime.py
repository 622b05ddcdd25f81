"""MLServer has a scikit-learn runtime, and none for ONNX or this version of transformers: this is one in its manner.

It has no raw tensors over REST, so binary rows come as one BYTES element in base64, its codec for bytes.
"""

from __future__ import annotations

import base64

import numpy as np
from compute import Model, Served, decode_image
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):  # type: ignore[misc]
    """V2 requests with one input of N rows -> one float32 output."""

    async def load(self) -> bool:
        self._served = Served(self.settings.parameters.extra["served"])
        self._model = Model(self._served.path, self.settings.parameters.extra["threads"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        if self._served.kind == "json":
            rows = NumpyCodec.decode_input(tensor)
        elif self._served.kind == "text":
            rows = list(tensor.data)
        elif self._served.kind == "image":
            rows = np.stack([decode_image(encoded) for encoded in tensor.data])
        else:
            rows = np.stack([self._served.row(base64.b64decode(data)) for data in tensor.data])
        output = NumpyCodec.encode_output("output", self._model.predict(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
