"""Names of models as Ollama's clients write them."""

from __future__ import annotations

import pytest

from engine.api.ollama import names
from engine.errors import InvalidRequest, ModelNotFound
from engine.registry import check_name


@pytest.mark.parametrize(
    ("given", "name", "version"),
    [
        ("chat", "chat", None),
        ("chat:latest", "chat", None),
        ("chat:3", "chat", 3),
        ("chat@3", "chat", 3),
        ("chat@3:latest", "chat", 3),
        ("hf.co/acme/Tiny-GGUF", "acme-Tiny-GGUF", None),
        ("hf.co/acme/Tiny-GGUF:latest", "acme-Tiny-GGUF", None),
        ("hf.co/acme/Tiny-GGUF:Q4_K_M", "acme-Tiny-GGUF-Q4_K_M", None),
        ("https://huggingface.co/acme/Tiny:sub dir/tiny.gguf", "acme-Tiny-sub-dir-tiny", None),
    ],
)
def test_a_name_is_a_registered_name_and_perhaps_a_version(given: str, name: str, version: int | None) -> None:
    assert names.parse(given) == (name, version)
    assert check_name(name) == name


@pytest.mark.parametrize("given", ["chat:", "chat:7b", "chat:0", "chat:-1", "chat:03", "a:b:1"])
def test_other_tags_name_nothing(given: str) -> None:
    with pytest.raises(ModelNotFound, match="after the colon"):
        names.parse(given)


def test_the_name_of_a_long_repository_can_be_registered() -> None:
    name, _ = names.parse(f"hf.co/acme/{'x' * 200}:Q4")
    assert check_name(name) == name


def test_a_new_model_has_no_tag_of_its_own() -> None:
    assert names.new("chat", "model") == names.new("chat:latest", "model") == "chat"
    with pytest.raises(InvalidRequest, match="leave the tag out") as e:
        names.new("chat:2", "destination")
    assert e.value.field == "destination"


@pytest.mark.parametrize("given", ["", "../up", "/tmp/x", "acme/chat", "a\0b", "x" * 129, "chat@2", ".hidden:latest"])
def test_a_new_model_has_a_name_that_can_be_registered(given: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be a name") as e:
        names.new(given, "model")
    assert e.value.field == "model"


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ("chat", None),
        ("acme/chat", None),
        ("hf.co/acme/tiny", "hf.co/acme/tiny"),
        ("hf.co/acme/tiny:latest", "hf.co/acme/tiny"),
        ("hf.co/acme/tiny:Q4_0", "hf.co/acme/tiny:Q4_0"),
    ],
)
def test_what_a_hub_is_asked_for(given: str, source: str | None) -> None:
    assert names.hub_source(given) == source
