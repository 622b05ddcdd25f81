"""All routes: the native ones, and those of the dialects."""

from __future__ import annotations

from engine import operations
from engine.api import anthropic, ollama, openai, pull
from engine.api.dialect import Dialect
from engine.operations import Operation

DIALECTS: tuple[Dialect, ...] = (openai.DIALECT, ollama.DIALECT, anthropic.DIALECT, pull.DIALECT)

OPERATIONS: tuple[Operation, ...] = (*operations.OPERATIONS, *(o for d in DIALECTS for o in d.operations))
"""What the server answers, and ``/openapi.json`` describes."""
