"""Serve any Python code as a model: subclass `BasePlugin` and register ``my_plugin.py:MyPlugin``.

A plugin is loaded once for each worker, and called from one thread at a time. This module depends on nothing but the
standard library, so that a plugin can be imported and tested without a server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["BasePlugin", "InvalidInput", "ModelConfig"]


class InvalidInput(ValueError):
    """The request is wrong: its caller gets status 400 with `message`. Any other exception is the model's fault (500).

    `field` names the part of the request at fault, such as ``input.age``.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


@dataclass(frozen=True)
class ModelConfig:
    """What a plugin is loaded with. An option is ``config.options["name"]``, or in short ``config.name``."""

    path: Path
    """The file or package folder that the plugin was loaded from."""
    device: str = "cpu"
    """Where the model is to run: ``cpu`` or ``cuda:N``."""
    threads: int = 1
    """CPU threads that the models of this worker may keep busy together."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options given at registration, over the defaults that the plugin declares."""

    @property
    def folder(self) -> Path:
        """The folder that holds the plugin's code, and so the place for its weights."""
        return self.path if self.path.is_dir() else self.path.parent

    def __getattr__(self, name: str) -> Any:
        options = self.__dict__.get("options", {})
        if name in options:
            return options[name]
        known = ", ".join(sorted(options)) or "none"
        raise AttributeError(f"there is no option {name!r}; the options are: {known}")


class BasePlugin(ABC):
    """A model written in Python. `load_model` and `predict` are required, the rest is optional."""

    options: ClassVar[Mapping[str, Any] | Collection[str] | None] = None
    """The plugin's options: names with their defaults, or names alone. Declared, an unknown option is an error;
    left at `None`, any option is passed on unchecked."""

    example: Any = None
    """A body that `predict` accepts, as a dict or a method that returns one. Drives the warm-up and the docs."""

    @abstractmethod
    def load_model(self, config: ModelConfig) -> None:
        """Makes the model ready. Called once, before anything else. An exception fails the load."""

    @abstractmethod
    def predict(self, input_data: dict[str, Any]) -> dict[str, Any]:
        """Answers one request. `input_data` is its JSON body; so is the answer, in which arrays become lists."""

    def predict_batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers several requests at once, in order. Override it to be given the requests of several callers together.

        When it raises, the requests are computed one by one, so that only the one at fault fails.
        """
        return [self.predict(input_data) for input_data in inputs]

    def stream(self, input_data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Answers one request in pieces. Override it to serve requests with ``"stream": true``."""
        yield self.predict(input_data)

    def close(self) -> None:  # noqa: B027 - optional
        """Frees what the garbage collector does not. Called once, when the model is unloaded."""
