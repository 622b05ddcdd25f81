"""Names of models as Ollama's clients write them.

``NAME`` and ``NAME:latest`` are the serving version of a model or alias, ``NAME:3`` and ``NAME@3`` are version 3 of it,
and ``hf.co/ORG/REPO`` or ``hf.co/ORG/REPO:FILE`` is what a pull of that registered.
"""

from __future__ import annotations

import re

from engine.errors import InvalidRequest, ModelNotFound
from engine.registry import check_name, split_version

LATEST = "latest"

_HUB = re.compile(r"(?:https?://)?(?:hf\.co|huggingface\.co)/([^/:@]+)/([^/:@]+)(?::(.+))?")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_UNUSABLE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 128


def parse(given: str) -> tuple[str, int | None]:
    """The registered name, and the version if one is named. Raises `ModelNotFound` for any other tag."""
    hub = _HUB.fullmatch(given)
    if hub is not None:
        return _hub_name(hub), None
    name, colon, tag = given.partition(":")
    if not colon or tag == LATEST:
        return split_version(name)
    if _VERSION.fullmatch(tag):
        return name, int(tag)
    raise ModelNotFound(
        f"No model {given[:140]!r} is registered: after the colon comes '{LATEST}', or the number of a version.",
        field="model",
    )


def new(given: str, field: str) -> str:
    """The name that a new model gets. Raises `InvalidRequest` when it has a tag of its own, or can be no name."""
    name, colon, tag = given.partition(":")
    if colon and tag != LATEST:
        raise InvalidRequest(
            f"Versions are numbered by themselves; leave the tag out of {given[:140]!r}, or write ':{LATEST}'.",
            field=field,
        )
    try:
        return check_name(name)
    except InvalidRequest as e:
        e.field = field
        raise


def display(name: str) -> str:
    """A registered name as Ollama's clients show it."""
    return f"{name}:{LATEST}"


def hub_source(given: str) -> str | None:
    """What `engine.hub` is asked for; `None` when the name has no hub."""
    return given.removesuffix(f":{LATEST}") if _HUB.fullmatch(given) else None


def _hub_name(hub: re.Match[str]) -> str:
    owner, repository, file = hub.groups()
    parts = [owner, repository, *([file.removesuffix(".gguf")] if file and file != LATEST else [])]
    return _UNUSABLE.sub("-", "-".join(parts)).lstrip("._-")[:_LONGEST]
