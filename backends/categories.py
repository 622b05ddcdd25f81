"""The categories that XGBoost's models keep of the data frames that they were trained on."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

_DTYPES = {9: "int8", 10: "uint8", 11: "int16", 13: "int32", 15: "int64"}
"""How XGBoost's files number the types of arrays. The unsigned types between, XGBoost 3.2 writes and cannot read."""


class Categories(NamedTuple):
    """Those of one column, in their order."""

    values: list[Any]
    dtype: str
    """NumPy's name of their type; ``object`` for texts."""


def of_xgboost(booster: Any) -> dict[int, Categories]:
    """The categories by the places of their columns, where the model has them: since XGBoost 3.1.

    Of texts beyond ASCII there are no values: XGBoost 3.2 counts their characters, not bytes, and cuts them wrongly.
    """
    if "c" not in (booster.feature_types or ()):
        return {}
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    columns = model.get("gbtree", model).get("model", {}).get("cats", {}).get("enc", [])
    kinds = booster.feature_types
    return {i: _categories(column) for i, column in enumerate(columns) if kinds[i] == "c" and column["values"]}


def _categories(column: dict[str, Any]) -> Categories:
    """Numbers, or the bytes of texts that stand one behind the other."""
    values: list[Any] = column["values"]
    if "offsets" not in column:
        return Categories(values, _DTYPES.get(column.get("type", 0), "int64"))
    if not all(0 <= value < 128 for value in values):
        return Categories([], "object")
    text = bytes(values).decode("ascii")
    return Categories([text[begin:end] for begin, end in itertools.pairwise(column["offsets"])], "object")
