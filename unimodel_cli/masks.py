"""The masks of an answer as files, for `unimodel predict --masks`."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from engine.errors import InsufficientStorage
from unimodel_cli.answers import scores, scores_of_several
from unimodel_cli.errors import UsageError

_LONGEST = 60
"""Characters of a label in the name of a file."""


def write(value: Any, inputs: list[str], folder: Path) -> None:
    """Writes each mask in `value` as ``INPUT-N-LABEL.png``, and puts the file's path in its place.

    `inputs` are the arguments that the answers belong to. Raises `UsageError` for an answer without masks.
    """
    several = [found] if (found := scores(value)) is not None else scores_of_several(value)
    if value in ([], [[]]):
        return
    if several is None or not all("mask" in region for found in several for region in found):
        raise UsageError("The answer has no masks; --masks is for models that segment images.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for i, found in enumerate(several):
            stem = Path(inputs[i]).stem if i < len(inputs) and inputs[i] != "-" else "input"
            if len({Path(each).stem for each in inputs}) < len(inputs):
                stem = f"{stem}-{i + 1}"
            for n, region in enumerate(found, 1):
                label = re.sub(r"[^\w-]+", "_", str(region["label"]))[:_LONGEST]
                path = folder / f"{stem}-{n}-{label}.png"
                path.write_bytes(base64.b64decode(region["mask"]))
                region["mask"] = str(path)
    except OSError as e:
        raise InsufficientStorage(f"Cannot write masks to {folder}: {e.strerror}.") from None
