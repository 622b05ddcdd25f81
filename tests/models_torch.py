"""Real models of PyTorch: a fetched classifier and voice detector, and small ones trained for what those do not show.

A model is trained once and kept in the cache of the fetched ones, under PyTorch's version.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits, load_iris
from torch import Tensor, nn
from torch.export import Dim

from tests import models

REVISION = 1
"""Raise it when a builder changes, so that models in the cache are trained anew."""


def efficientnet() -> Path:
    """Image classifier, TorchScript: ``inputs`` [batch, 3, h, w] → [batch, 1000], with labels."""
    return models.model("efficientnet-torch", "model.pt")


def efficientnet_exported() -> Path:
    """The same as an exported program, for up to 64 images of 224 × 224."""
    return models.model("efficientnet-torch", "model.pt2")


def silero() -> Path:
    """Voice detector, TorchScript: ``x`` [batch, 512] and the number ``sr`` → [batch, 1]; it remembers."""
    return models.model("silero", "silero_vad.jit")


# --- modules and their training -------------------------------------------------------------------------------------


def train(module: nn.Module, inputs: tuple[Tensor, ...], target: Tensor, steps: int = 150) -> nn.Module:
    """Fits a classifier whose first output are logits."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        result = module(*inputs)
        logits = result["logits"] if isinstance(result, dict) else result[0] if isinstance(result, tuple) else result
        nn.functional.cross_entropy(logits, target).backward()
        optimizer.step()
    return module.eval()


def flowers() -> tuple[Tensor, Tensor]:
    """150 × 4 measures, and which of three kinds each flower is."""
    features, kinds = load_iris(return_X_y=True)
    return torch.tensor(features, dtype=torch.float32), torch.tensor(kinds)


def digits() -> tuple[Tensor, Tensor]:
    """1797 pictures [1, 8, 8] of values 0 to 1, and which digit each shows."""
    pixels, numbers = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(numbers)


def sentences(length: int = 12, count: int = 400) -> tuple[Tensor, Tensor]:
    """Rows of numbers below 50, and whether most of each are above 24."""
    words = torch.randint(0, 50, (count, length), generator=torch.Generator().manual_seed(1))
    return words, ((words > 24).float().mean(1) > 0.5).long()


class Dense(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


class FixedRows(nn.Module):
    """Takes exactly four flowers."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = Dense()

    def forward(self, flowers: Tensor) -> Tensor:
        return self.dense(flowers.reshape(4, 4))


class TwoAndTwo(nn.Module):
    """Two inputs, and two outputs without names."""

    def __init__(self) -> None:
        super().__init__()
        self.sepal, self.petal = nn.Linear(2, 8), nn.Linear(2, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, sepal: Tensor, petal: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(torch.relu(self.sepal(sepal) + self.petal(petal)))
        return logits, logits.softmax(1)


class Named(nn.Module):
    """A dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = Dense()

    def forward(self, flowers: Tensor) -> dict[str, Tensor]:
        logits = self.dense(flowers)
        return {"logits": logits, "kind": logits.argmax(1)}


class Words(nn.Module):
    """Numbers of words of any count, padded with what the mask hides."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(torch.float32).unsqueeze(-1)
        return self.head((self.words(ids) * weights).sum(1) / weights.sum(1).clamp(min=1))


class ColourFinder(nn.Module):
    """Pictures of different sizes in a list, as torchvision's detectors take them: finds what is bright in a colour."""

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        found: list[dict[str, Tensor]] = []
        for image in images:
            assert image.dim() == 3, "an image has three dimensions"
            bright = image > 0.5
            kept = torch.nonzero(bright.flatten(1).any(1)).flatten()
            boxes, scores = torch.zeros(len(kept), 4), torch.zeros(len(kept))
            for i in range(len(kept)):
                colour = int(kept[i])
                rows = torch.nonzero(bright[colour].any(1)).flatten()
                columns = torch.nonzero(bright[colour].any(0)).flatten()
                boxes[i] = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).to(torch.float32)
                scores[i] = image[colour][bright[colour]].mean()
            found.append({"boxes": boxes, "labels": kept + 1, "scores": scores})
        losses: dict[str, Tensor] = {}
        return losses, found


class ColourMap(nn.Module):
    """Scores, for each pixel, of being dark, red, green, blue or white."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(3, 5, 1)
        weights, bias = models.COLOUR_SCORES
        self.scores.weight.data = torch.tensor(weights).reshape(5, 3, 1, 1)
        self.scores.bias.data = torch.tensor(bias)

    def forward(self, picture: Tensor) -> Tensor:
        return self.scores(picture)


def _colour_map(path: Path) -> None:
    sizes = {0: Dim("batch", max=8), 2: Dim("height", min=8, max=512), 3: Dim("width", min=8, max=512)}
    program = torch.export.export(ColourMap().eval(), (torch.zeros(2, 3, 32, 48),), dynamic_shapes=(sizes,))
    torch.export.save(program, path, extra_files={"labels": ",".join(models.COLOURS)})


def _colours(path: Path) -> None:
    torch.jit.save(torch.jit.script(ColourFinder().eval()), path, {"labels": "background,red,green,blue"})


def colours(height: int, width: int, **boxes: tuple[int, int, int, int]) -> np.ndarray[Any, Any]:
    """A dark picture with a bright box (left, top, right, bottom) in each of some colours: uint8 [height, width, 3]."""
    picture = np.full((height, width, 3), 25, np.uint8)
    for colour, (left, top, right, bottom) in boxes.items():
        picture[top:bottom, left:right, ("red", "green", "blue").index(colour)] = 255
    return picture


class Pixels(nn.Module):
    """Pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, picture: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_max_pool2d(self.layers(picture), 4).flatten(1))


class Recurrent(nn.Module):
    """A sequence and the state before it → logits and the state after it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, rows: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, (h, c) = self.lstm(rows, (h, c))
        return self.head(states[:, -1]), h, c


class Remembering(nn.Module):
    """The mean of all rows that it ever saw, in an attribute and in a buffer, and no way to forget them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.total = torch.zeros(4)
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, rows: Tensor) -> Tensor:
        self.calls += 1
        self.count += rows.size(0)
        self.total = self.total + rows.sum(0)
        return self.scale * self.total / self.count + self.calls


class Nested(nn.Module):
    """Its inputs lie in a dict, and there is a constant among them."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = Dense()

    def forward(self, flower: dict[str, Tensor], double: bool) -> dict[str, Tensor]:
        logits = self.dense(torch.cat([flower["sepal"], flower["petal"]], 1))
        return {"logits": logits * 2 if double else logits}


class Counting(nn.Module):
    """Adds how often it was called, which it writes into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = Dense()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, flowers: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.dense(flowers) + self.calls


@cache
def module(name: str) -> nn.Module:
    """A trained module by its name."""
    torch.manual_seed(0)
    x, kinds = flowers()
    pictures, numbers = digits()
    if name in ("dense", "noisy", "nested", "counting"):
        trained = train(Dense(), (x,), kinds)
        if name == "noisy":
            return nn.Sequential(nn.Dropout(0.9), trained).train()
        made = {"nested": Nested, "counting": Counting}.get(name)
        if made is None:
            return trained
        whole = made()
        whole.dense = trained
        return whole.eval()
    if name == "fixed":
        whole = FixedRows()
        whole.dense = module("dense")
        return whole.eval()
    if name == "several":
        return train(TwoAndTwo(), (x[:, :2], x[:, 2:]), kinds)
    if name == "named":
        return train(Named(), (x,), kinds)
    if name == "words":
        ids, answers = sentences()
        return train(Words(), (ids, torch.ones_like(ids)), answers)
    if name == "pixels":
        return train(Pixels(), (pictures[:600],), numbers[:600], 60)
    if name == "recurrent":
        state = torch.zeros(1, 600, 16)
        return train(Recurrent(), (pictures[:600, 0], state, state), numbers[:600], 100)
    assert name == "remembering"
    return Remembering().eval()


# --- files ----------------------------------------------------------------------------------------------------------


def _script(name: str, **extra: str) -> Callable[[Path], None]:
    return lambda path: torch.jit.save(torch.jit.script(module(name)), path, _extra_files=extra)


def _trace(name: str, *inputs: Tensor) -> Callable[[Path], None]:
    return lambda path: torch.jit.save(torch.jit.trace(module(name), inputs), path)


def _export(name: str, inputs: tuple[Any, ...], shapes: Any) -> Callable[[Path], None]:
    return lambda path: torch.export.save(torch.export.export(module(name), inputs, dynamic_shapes=shapes), path)


def _compile(path: Path) -> None:
    program = torch.export.export(
        module("dense"), (flowers()[0][:3],), dynamic_shapes=({0: Dim("batch", min=2, max=16)},)
    )
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


_ROWS = {0: Dim("batch", max=16)}

BUILDERS: dict[str, Callable[[Path], None]] = {
    "dense.pt": _script("dense"),
    "noisy.pt": _script("noisy"),
    "fixed.pt": _trace("fixed", torch.zeros(4, 4)),
    "several.pt": _trace("several", torch.zeros(3, 2), torch.zeros(3, 2)),
    "named.pt": _script("named"),
    "words.pt": _script("words"),
    "pixels.jit": _script("pixels"),
    "colours.pt": _colours,
    "recurrent.pt": _script("recurrent"),
    "remembering.pt": _script("remembering"),
    "dense.pt2": _export("dense", (torch.zeros(3, 4),), ({0: Dim("batch", min=2, max=16)},)),
    "colours.pt2": _colour_map,
    "words.pt2": _export(
        "words",
        (torch.zeros(3, 7, dtype=torch.int64), torch.ones(3, 7, dtype=torch.int64)),
        ({0: Dim("batch"), 1: Dim("words", max=64)},) * 2,
    ),
    "nested.pt2": _export(
        "nested",
        ({"sepal": torch.zeros(3, 2), "petal": torch.zeros(3, 2)}, True),
        ({"sepal": _ROWS, "petal": _ROWS}, None),
    ),
    "counting.pt2": _export("counting", (torch.zeros(3, 4),), ({0: Dim("batch")},)),
    "compiled.pt2": _compile,
}
"""By the file's name. The last one needs a compiler for C++, and minutes on a slow machine."""


def path(name: str) -> Path:
    """The file of a model, made now unless it is in the cache."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and says so at every step
        return models.built(f"torch-{torch.__version__}-{REVISION}", name, BUILDERS[name])


def numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """As an array."""
    array: np.ndarray[Any, Any] = tensor.detach().numpy()
    return array
