"""What flows between the steps of a pipeline."""

from __future__ import annotations

import numpy as np

from engine.api.pipeline_values import Media, plain

MEDIA = Media(b"abc", "image/png")


def test_media_are_base64_wherever_they_stand_and_tensors_stay_where_they_can() -> None:
    tensor = np.ones((1, 2))
    value = {"a": [MEDIA, {"b": tensor}], "c": MEDIA, "d": 5}
    assert plain(value) == {"a": ["YWJj", {"b": [[1.0, 1.0]]}], "c": "YWJj", "d": 5}
    kept = plain(value, keep_tensors=True)
    assert kept["a"][1]["b"] is tensor
    assert (kept["a"][0], kept["c"], kept["d"]) == ("YWJj", "YWJj", 5)
