"""The model that is checked, and what a check is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from backends.base import Backend, Device, InvalidInput, ModelInfo, StepBackend, TensorBackend, ValueBackend
from engine import model_options

_MOST_STEPS = 10_000


class Broken(Exception):
    """The model does not keep to the contract. The message says in a sentence what came, and what to change."""


@dataclass(eq=False)
class Model:
    """A model, loaded, and how to load it again."""

    kind: type[Backend]
    path: str
    config: dict[str, Any] = field(default_factory=dict)
    """Options, as at registration."""
    body: dict[str, Any] | None = None
    """What a model that takes JSON values is asked, in place of its example."""
    device: Device = Device("cpu", threads=2)
    trusted: bool = False
    _loaded: tuple[Any, ModelInfo] | None = None

    def load(self, **more: Any) -> tuple[Any, ModelInfo]:
        """Another instance of it and what loading found, with `more` options. Raises what the backend raises."""
        backend = self.kind()
        backend.trusted = self.trusted
        _, options = model_options.split({**self.config, **more}, self.kind.Options)
        return backend, backend.load(Path(self.path), self.device, options)

    def use(self, backend: Backend, info: ModelInfo) -> None:
        """Takes an instance that was loaded elsewhere."""
        self._loaded = backend, info

    @property
    def loaded(self) -> tuple[Any, ModelInfo]:
        """The instance that is checked, and what loading found."""
        self._loaded = self._loaded or self.load()
        return self._loaded

    def example(self) -> dict[str, Any]:
        """The body that a model of JSON values is asked. Raises `Broken` when none is known."""
        backend, _ = self.loaded
        body: dict[str, Any] | None = self.body if self.body is not None else backend.example()
        if body is None:
            raise Broken(
                "It declares no example, so it can neither be tried here nor at load. Give its class one, such as "
                'example = {"input": "hello"}, or this test a request with --body.'
            )
        return body

    def ask(self, backend: Any) -> None:
        """Has an instance answer its example. Raises what it raises."""
        if isinstance(backend, TensorBackend):
            backend.predict(backend.example())
        elif isinstance(backend, ValueBackend):
            (result,) = backend.predict_values([self.example()])
            if isinstance(result, Exception):
                raise result
        elif isinstance(backend, StepBackend):
            backend.add(1, backend.example())
            for piece in pieces_of(backend):
                if piece.error is not None:
                    raise piece.error


class Check(NamedTuple):
    """One promise."""

    name: str
    kind: type
    """The backends that it binds."""
    run: Callable[[Model], str | None]
    """Raises `Broken`. Returns advice, when there is something to be said though nothing is broken."""


def pieces_of(backend: StepBackend[Any, Any]) -> list[Any]:
    """The pieces of all steps until nothing is under way."""
    pieces: list[Any] = []
    for _ in range(_MOST_STEPS):
        if not backend.busy:
            return pieces
        if backend.wait(1.0):
            pieces += backend.step()
    raise Broken(f"It is still busy after {_MOST_STEPS} steps; an example must be short, and end.")


def told(error: BaseException) -> str:
    """An exception in a line, without a full stop at its end."""
    text = str(error).strip().split("\n")[0][:300].rstrip(".")
    if isinstance(error, InvalidInput):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
