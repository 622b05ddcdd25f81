"""What ``python -m engine.kit`` answers, as plain structs, which the command line reads. Imports no runtime."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.schema import BackendView


class PluginView(msgspec.Struct, kw_only=True):
    """A plugin that an installed package offers by name."""

    name: str
    package: str
    """The installed package that it comes from, and its version."""
    target: str
    """Its module and class."""
    summary: str = ""
    """What its class says of itself."""
    batches: bool = False
    """Whether it takes the requests of several callers together."""
    streams: bool = False
    options: list[str] | None = None
    """Their names; none when it takes any."""
    problem: str | None = None
    """Why it cannot be used."""


class PluginList(msgspec.Struct, kw_only=True):
    """What is installed beside the built-in backends."""

    plugins: list[PluginView]
    backends: list[BackendView]
    """Those of others, and any that cannot be used."""


class CheckView(msgspec.Struct, kw_only=True):
    """One check of a model by ``unimodel plugin test``."""

    name: str
    state: Literal["running", "ok", "fail"]
    message: str | None = None
    """Of one that failed, what came and what to change; of another, what is worth knowing."""
    seconds: float = 0.0
