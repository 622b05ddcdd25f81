"""Where the real models lie that tests use; each is fetched into the cache when it is first asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts import fetch_models

COLOURS = ("dark", "red", "green", "blue", "white")
COLOUR_SCORES = (
    ((-20.0, -20.0, -20.0), (20.0, -20.0, -20.0), (-20.0, 20.0, -20.0), (-20.0, -20.0, 20.0), (20.0, 20.0, 20.0)),
    (10.0, 0.0, 0.0, 0.0, -40.0),
)
"""Weights of red, green and blue, from 0 to 1, for each of the colours, and what is added."""


def model(name: str, file: str) -> Path:
    """A file of a model in `scripts/models.py`, such as ``model("magika", "model.onnx")``."""
    return fetch_models.fetch(name) / file


def built(cache: str, name: str, build: Callable[[Path], object], *, folder: bool = False) -> Path:
    """A model that tests make, now unless it is in a folder of the cache. `build` writes a file, or into a `folder`.

    Other processes see all of it or nothing.
    """
    home = fetch_models.cache_folder() / cache
    made = home / name
    if not made.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as temporary:
            unfinished = Path(temporary) / name
            if folder:
                unfinished.mkdir()
            build(unfinished)
            if not (folder and made.exists()):  # another process may have been quicker
                unfinished.replace(made)
    return made


def efficientnet() -> Path:
    """Image classifier, ONNX: ``image`` f32 [batch, 3, 224, 224] → ``logits`` [batch, 1000], with labels."""
    return model("efficientnet", "model.onnx")


def yolo() -> Path:
    """Object detector, ONNX: ``images`` f32 [batch, 3, h, w] → ``output0`` [batch, 22, boxes], with metadata."""
    return model("yolo", "model.onnx")


def u2netp() -> Path:
    """What stands out in a picture, ONNX: f32 [1, 3, 320, 320] → ``1959`` and six more [1, 1, 320, 320]."""
    return model("u2netp", "model.onnx")


def selfie() -> Path:
    """Which pixels show a person, TensorFlow Lite: f32 [batch, 256, 256, 3] of 0 to 1 → [batch, 256, 256, 1]."""
    return model("selfie", "model.tflite")


def silero() -> Path:
    """Voice detector, ONNX: ``input`` [batch, 512], ``state`` [2, batch, 128], ``sr`` → ``output`` [batch, 1]."""
    return model("silero", "silero_vad.onnx")


def magika() -> Path:
    """File types, ONNX: ``bytes`` i32 [batch, 2048] → ``target_label`` [batch, 214]."""
    return model("magika", "model.onnx")


def profanity() -> tuple[Path, Path]:
    """Text classifier of scikit-learn: the model and the vectorizer before it, both joblib."""
    return model("profanity", "model.joblib"), model("profanity", "vectorizer.joblib")


def guesslang() -> Path:
    """The language of source code, SavedModel: ``inputs`` string [batch] → ``classes``, ``scores`` [batch, 54]."""
    return model("guesslang", "model")
