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


def scores(value: Any) -> list[tuple[str, float]] | None:
    """Labels and scores, best first, if `value` is the answer of a classifier for one input."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and {"label", "score"} <= v.keys() for v in value):
        return [(str(v["label"]), v["score"]) for v in value]
    if isinstance(value, dict) and value.keys() == {"label", "probabilities"}:
        pairs = [(str(label), p) for label, p in value["probabilities"].items()]
        return sorted(pairs, key=lambda pair: -pair[1])
    return None


def labels_table(pairs: list[tuple[str, float]]) -> RenderableType:
    """The answer of a classifier for one input."""
    from unimodel_cli.output import table

    return table(["LABEL", "SCORE"], [[label, f"{score:.4f}"] for label, score in pairs])
