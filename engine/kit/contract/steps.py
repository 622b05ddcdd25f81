"""Checks of models that answer step by step."""

from __future__ import annotations

from backends.base import StepBackend
from engine.kit.contract.model import Broken, Check, Model, pieces_of


def a_cancelled_request_is_gone(model: Model) -> None:
    """No piece follows, and cancelling what is not there is no error."""
    backend, _ = model.loaded
    backend.add(2, backend.example())
    if backend.wait(1.0):
        backend.step()
    backend.cancel(2)
    backend.cancel(2)
    backend.cancel(3)
    if any(piece.id == 2 for piece in pieces_of(backend)):
        raise Broken("A piece came for a request that was cancelled.")


CHECKS = (Check("a cancelled request is gone", StepBackend, a_cancelled_request_is_gone),)
