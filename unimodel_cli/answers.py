"""How an answer of a model is shown: to people as a table of labels where it is one, to programs as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100
"""Longer JSON is broken into one line an item."""

ABOUT = ("model", "version")
"""Keys of an answer that are about it, not of it."""


def value_of(answer: dict[str, Any]) -> Any:
    """What the model answered: ``output`` (or ``predictions``, ``outputs``) alone, or a plugin's own keys."""
    rest = {k: v for k, v in answer.items() if k not in ABOUT}
    if is_generated(rest):
        return rest["output"]
    return next(iter(rest.values())) if len(rest) == 1 else rest


def is_generated(answer: dict[str, Any]) -> bool:
    """Whether it is generated text, or a streamed piece of it."""
    return isinstance(answer.get("output"), str) and ("finish_reason" in answer or "reasoning" in answer)


def text_of(value: Any, raw: bool) -> str:
    """`value` as JSON, or with `raw` strings without their quotes, one a line."""
    if raw and isinstance(value, str):
        return value
    if raw and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return "\n".join(value)
    return json.dumps(value, ensure_ascii=False)


def for_people(value: Any) -> str:
    """JSON that is broken into lines at its first level when it is long."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= WIDTH or not isinstance(value, list | dict):
        return text
    if isinstance(value, list):
        items = [json.dumps(v, ensure_ascii=False) for v in value]
        return "[\n" + ",\n".join(f"  {item}" for item in items) + "\n]"
    pairs = [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items()]
    return "{\n" + ",\n".join(pairs) + "\n}"


def scores(value: Any) -> list[dict[str, Any]] | None:
    """What has a label and a score each, if `value` is the answer of a model that labels one input."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and {"label", "score"} <= v.keys() for v in value):
        return value
    if isinstance(value, dict) and value.keys() == {"label", "probabilities"}:
        found = [{"label": label, "score": p} for label, p in value["probabilities"].items()]
        return sorted(found, key=lambda each: -each["score"])
    return None


def scores_of_several(value: Any) -> list[list[dict[str, Any]]] | None:
    """As `scores`, if `value` is the answer for several inputs, in some of which nothing may have been found."""
    if not isinstance(value, list) or not any(isinstance(v, list | dict) and v for v in value):
        return None
    each = [[] if v == [] else scores(v) for v in value]
    return None if any(found is None for found in each) else [found or [] for found in each]


def labels_table(found: list[dict[str, Any]], *, masks: bool = False) -> RenderableType:
    """The answer of a model that labels one input; of one that finds something in it, what and where, too. `masks` is
    whether each names the file of its mask."""
    from unimodel_cli.output import table

    columns = [name for name in ("word", "start", "end") if all(name in each for each in found)]
    rows = [
        [str(each["label"]), "" if each["score"] is None else f"{each['score']:.4f}", *(each[name] for name in columns)]
        for each in found
    ]
    head = ["LABEL", "SCORE", *(name.upper() for name in columns)]
    if all("share" in each for each in found):
        head.append("SHARE")
        rows = [[*row, f"{each['share']:.1%}"] for row, each in zip(rows, found, strict=True)]
    if all(isinstance(each.get("box"), dict) for each in found):
        head.append("BOX (LEFT, TOP, RIGHT, BOTTOM)")
        boxes = (", ".join(f"{side:g}" for side in each["box"].values()) for each in found)
        rows = [[*row, box] for row, box in zip(rows, boxes, strict=True)]
    if masks:
        head.append("MASK")
        rows = [[*row, each["mask"]] for row, each in zip(rows, found, strict=True)]
    return table(head, rows)
