"""Models that are made of uploaded files."""

from __future__ import annotations

import pytest

from engine.api.ollama.creation import _adapters
from engine.errors import InvalidInput


def test_adapters_are_named_after_their_files() -> None:
    assert _adapters(["one.gguf", "more/two.gguf"]) == {"one": "one.gguf", "two": "more/two.gguf"}


def test_no_adapter_takes_the_name_of_another() -> None:
    with pytest.raises(InvalidInput, match=r"a/x\.gguf and b/x\.bin have one name") as e:
        _adapters(["a/x.gguf", "y.gguf", "b/x.bin"])
    assert e.value.field == "adapters"
