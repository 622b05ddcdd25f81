"""What an OCR pipeline needs beside its three networks: finding lines on a map of where text is, and spelling them."""

import base64
import binascii
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from unimodel.plugins import BasePlugin, InvalidInput, ModelConfig

HEIGHT = 48
"""Of a line, as the recogniser takes it."""


def picture(text: object) -> Image.Image:
    """An image that came as base64."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(str(text), validate=True)))
        return image.convert("RGB")
    except (binascii.Error, ValueError, OSError) as e:
        raise InvalidInput(f"input must be an image: {e}", field="input") from None


def pixels(image: Image.Image) -> np.ndarray:
    """[3, height, width], blue first, from -1 to 1."""
    rgb = np.asarray(image, np.float32) / 127.5 - 1
    return np.ascontiguousarray(rgb[:, :, ::-1].transpose(2, 0, 1))


class Page(BasePlugin):
    """An image as the detector takes it: sides that are multiples of 32."""

    options = {"longest_side": 960}

    def load_model(self, config: ModelConfig) -> None:
        self.longest_side = config.options["longest_side"]

    def predict(self, input_data: dict) -> dict:
        image = picture(input_data.get("input"))
        factor = min(1.0, self.longest_side / max(image.size))
        size = [max(32, round(side * factor / 32) * 32) for side in image.size]
        scale = [full / part for full, part in zip(image.size, size, strict=True)]
        return {"pixels": pixels(image.resize(size)), "scale": scale}


class Cut(BasePlugin):
    """The lines of an image, by the detector's map: rows of text one below the other."""

    options = {"least": 0.3, "margin": 0.8}

    def load_model(self, config: ModelConfig) -> None:
        self.least = config.options["least"]
        self.margin = config.options["margin"]

    def predict(self, input_data: dict) -> dict:
        image = picture(input_data["image"])
        x_scale, y_scale = input_data["scale"]
        there = np.asarray(input_data["map"], np.float32).squeeze() > self.least
        lines = []
        for top, bottom in runs(there.any(axis=1)):
            columns = there[top:bottom].any(axis=0).nonzero()[0]
            more = self.margin * (bottom - top)  # the map shows the middle of a line alone
            box = (
                max(0, int((columns[0] - more) * x_scale)),
                max(0, int((top - more) * y_scale)),
                min(image.width, math.ceil((columns[-1] + more) * x_scale)),
                min(image.height, math.ceil((bottom + more) * y_scale)),
            )
            line = image.crop(box)
            width = max(8, round(line.width * HEIGHT / line.height))
            lines.append(
                {
                    "box": box,
                    "pixels": pixels(line.resize((width, HEIGHT))),
                    "upright": pixels(line.resize((192, HEIGHT))),
                }
            )
        return {"output": lines}


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Where flags are set without a gap: begin and end of each run that is more than two long."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True) if end - begin > 2]


class Spell(BasePlugin):
    """Texts from the recogniser's scores: the likeliest character of each column, without repetitions and blanks."""

    options = {"characters": "characters.txt"}

    def load_model(self, config: ModelConfig) -> None:
        known = Path(config.options["characters"]).read_text("utf-8").split("\n")
        self.characters = ["", *known, " "]

    def predict(self, input_data: dict) -> dict:
        lines = zip(input_data["scores"], input_data["turned"], input_data["boxes"], strict=True)
        return {"output": [self.line(np.asarray(scores), turned, box) for scores, turned, box in lines]}

    def line(self, scores: np.ndarray, turned: list[float], box: list[int]) -> dict:
        """One line; `turned` are the scores of upright and upside down."""
        best = scores.argmax(axis=1)
        new = np.concatenate(([True], best[1:] != best[:-1])) & (best != 0)
        text = "".join(self.characters[i] for i in best[new])
        certain = float(scores.max(axis=1)[new].mean()) if new.any() else 0.0
        return {"text": text, "score": round(certain, 4), "upside_down": turned[1] > 0.9, "box": box}
