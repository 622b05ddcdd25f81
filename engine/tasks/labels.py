"""Scores of classes → labelled answers. The one place that ranks, for every task that classifies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Finding, InvalidInput, InvalidOption

Array = np.ndarray[Any, Any]

_SHOWN = 24
"""Characters of a label on the screen of a registration."""


def ranked(scores: Array, labels: Sequence[str] | None, top_k: int) -> list[dict[str, Any]]:
    """The `top_k` best classes of one row of `scores` [classes], best first: ``{"label", "index", "score"}``.

    A class without a label is called by its index. Ties keep the order of the classes; NaN comes last. More than
    there are classes is all of them. Raises `InvalidInput` when `top_k` is less than 1.
    """
    if top_k < 1:
        raise InvalidInput(f"top_k must be at least 1; got {top_k}.", field="parameters.top_k")
    best = (-scores).argsort(kind="stable")[:top_k]
    indices: list[int] = best.tolist()
    values: list[float] = scores[best].tolist()
    return [{"label": name_of(i, labels), "index": i, "score": score} for i, score in zip(indices, values, strict=True)]


def name_of(index: int, labels: Sequence[str] | None) -> str:
    """The label of a class; its index for one without."""
    return labels[index] if labels is not None and 0 <= index < len(labels) else str(index)


def softmax(logits: Array, axis: int = -1) -> Array:
    """`logits` as probabilities along `axis`, in the same floating-point dtype; safe for large values."""
    exps = np.exp(logits - logits.max(axis=axis, keepdims=True))
    probabilities: Array = exps / exps.sum(axis=axis, keepdims=True)
    return probabilities


def probabilities(scores: Array, apply_softmax: bool | None) -> Array:
    """`scores` [batch, classes] as probabilities. `None` finds out, row by row, whether they are logits: numbers that
    are negative or do not sum to 1 are."""
    if apply_softmax is not None:
        return softmax(scores) if apply_softmax else scores
    logits = (scores < 0).any(axis=1) | ~np.isclose(scores.sum(axis=1), 1, atol=1e-2)
    return np.where(logits[:, None], softmax(scores), scores) if logits.any() else scores


def load_labels(
    option: str | tuple[str, ...] | None, found: tuple[str, ...] | None, classes: int | None
) -> tuple[str, ...] | None:
    """The labels in force for a model of `classes` classes: the user's `option`, else those `found` in the model.

    The option is the names themselves, or the path of a text file with one a line. Raises `InvalidOption` when the
    file cannot be read or the count is not `classes`, if that is known. Labels found in the model that do not fit it
    are not used.
    """
    if option is None:
        return found if found is not None and classes in (None, len(found)) else None
    labels = _read(option) if isinstance(option, str) else option
    if classes not in (None, len(labels)):
        source = f"{option} holds" if isinstance(option, str) else "labels has"
        raise InvalidOption(
            f"{source} {len(labels)} labels, but the model has {classes} classes; give one label for each class.",
            field="config.labels",
        )
    return labels


def told(found: Sequence[str] | None, option: str | tuple[str, ...] | None, classes: int | None) -> Finding:
    """What is shown of the labels in force."""
    names = "--set labels=FILE"
    if found:
        short = [name if len(name) <= _SHOWN else name[:_SHOWN] + "…" for name in found[:2]]
        value = f"{len(found)}: {', '.join(short)}{', …' if len(found) > 2 else ''}"
        if option is not None:
            return Finding("labels", value, "given", "your options", names)
        return Finding("labels", value, "certain", "its files", names)
    numbers = "none, so classes are called by number" + (f" (0 to {classes - 1})" if classes else "")
    return Finding("labels", numbers, "certain", "the model has none that fit", names)


def _read(path: str) -> tuple[str, ...]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as e:
        raise InvalidOption(f"Cannot read the labels file {path}: {e.strerror}.", field="config.labels") from None
    except UnicodeDecodeError:
        raise InvalidOption(
            f"The labels file {path} is not UTF-8 text with one label a line.", field="config.labels"
        ) from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())
