"""What every peer computes with: the same model file, the same threads, the same image preprocessing.

Runs in the peers' own environments, so it imports only NumPy, and onnxruntime, joblib or Pillow where they are needed.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)

PART = 4
"""Texts of like length that are padded and computed together: fastest of 4, 8 and 32 for batches of 32."""

TEXT_WAIT = 0.02
"""Seconds for which a batch of texts is gathered: little beside its compute, enough for the clients just answered."""


@dataclass(frozen=True)
class Served:
    """One model behind one route, for one kind of input: ``json`` rows, ``binary`` rows, or a base64 ``image``."""

    text: str
    """The command line's form of it: ``name:kind:shape:max_batch_size:path``, the shape as ``3x224x224`` or ``-1``."""

    @property
    def _parts(self) -> list[str]:
        return self.text.split(":", 4)

    @property
    def kind(self) -> str:
        return self._parts[1]

    @property
    def route(self) -> str:
        """Its name in URLs, such as ``resnet50-image``."""
        return f"{self._parts[0]}-{self.kind}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row; -1 is free."""
        return tuple(map(int, self._parts[2].split("x")))

    @property
    def max_batch_size(self) -> int:
        return int(self._parts[3])

    @property
    def path(self) -> str:
        return self._parts[4]

    def row(self, data: bytes) -> Array:
        """One row of a binary body."""
        return np.frombuffer(data, np.float32).reshape(self.shape)


def arguments() -> argparse.Namespace:
    """The command line that every peer's script has; `serve` is a list of `Served`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--serve", action="append", required=True, type=Served, metavar="NAME:KIND:SHAPE:BATCH:PATH")
    args, _ = parser.parse_known_args()
    return args


class Model:
    """A loaded model. `predict` maps float32 rows [N, …] to float32 rows [N, …]."""

    def __init__(self, path: str, threads: int) -> None:
        if Path(path).is_dir():  # texts, in the place of rows
            self.predict = Embedder(path, threads).predict
        elif path.endswith(".joblib"):
            import joblib

            self._pipeline = joblib.load(path)
            self.predict = self._predict_sklearn
        else:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self._input = self._session.get_inputs()[0].name
            self.predict = self._predict_onnx

    def _predict_onnx(self, rows: Array) -> Array:
        output: Array = self._session.run(None, {self._input: rows})[0]
        return output

    def _predict_sklearn(self, rows: Array) -> Array:
        output: Array = self._pipeline.predict_proba(rows)
        return output


class Embedder:
    """A Hugging Face folder that embeds texts, with transformers: tokens, encoder, mean, length 1."""

    def __init__(self, path: str, threads: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(threads)
        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModel.from_pretrained(path, local_files_only=True).eval()

    def predict(self, texts: Sequence[str]) -> Array:
        """Vectors [texts, size]. Texts are sorted, and computed in parts, as sentence-transformers does."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [order[i : i + PART] for i in range(0, len(order), PART)]
        found: Array = np.concatenate([self._part([texts[i] for i in part]) for part in parts])
        return found[np.argsort(order)]

    def _part(self, texts: list[str]) -> Array:
        with self._torch.inference_mode():
            tokens = self._tokenizer(texts, padding=True, return_tensors="pt")
            states = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1)
            means = (states * mask).sum(1) / mask.sum(1)
            vectors: Array = self._torch.nn.functional.normalize(means, dim=1).numpy()
            return vectors


def decode_image(encoded: str | bytes) -> Array:
    """A base64 JPEG as [3, 224, 224] float32: short side to 256, centre crop, normalised."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    width, height = image.size
    scale = 256 / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(2, 0, 1))


def top_5(scores: Array) -> list[dict[str, Any]]:
    """The best five classes of one row of scores, best first."""
    best = np.argsort(scores)[:-6:-1]
    return [{"index": int(i), "score": float(scores[i])} for i in best]
