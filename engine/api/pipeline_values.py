"""What flows between the steps of a pipeline, as the input of a model and as its answer.

A value is JSON, or has tensors (NumPy's arrays) and `Media` in it. A tensor is handed on as it is: from the slot of one
model's answer to that of the next one's question, never as text.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from backends.base import BackendError
from engine import codec
from engine.api.predict_body import SMALL_JSON, estimated_rows, rows_of, translated
from engine.errors import InvalidInput
from engine.transport.messages import Loaded
from engine.transport.values import decode_values, encode_values
from engine.types import Answer, BytesInput, Input, JsonAnswer, JsonInput, TensorInput, ValuesAnswer, ValuesInput


@dataclass(frozen=True, slots=True)
class Media:
    """A raw request body, such as a JPEG file."""

    data: bytes
    content_type: str


def plain(value: Any, *, keep_tensors: bool = False) -> Any:
    """A value as JSON has it: media are base64, and tensors are lists unless they are kept."""
    if isinstance(value, np.ndarray):
        return value if keep_tensors else value.tolist()
    if isinstance(value, Media):
        return base64.b64encode(value.data).decode()
    if isinstance(value, dict):
        return {key: plain(each, keep_tensors=keep_tensors) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each, keep_tensors=keep_tensors) for each in value]
    return value


def elements(value: Any, where: str) -> list[Any]:
    """The elements of a list, or of a tensor along its first axis. Raises `InvalidInput` for anything else."""
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim):
        return list(value)
    kind = "an array" if isinstance(value, np.ndarray) else "media" if isinstance(value, Media) else None
    raise InvalidInput(f"{where} must be a list; got {kind or codec.kind_of(value)}.", field="input")


def is_true(value: Any) -> bool:
    """As JMESPath sees it: false, null, and what is empty are false; numbers are true, 0 too."""
    if isinstance(value, np.ndarray):
        return value.size > 0
    return value is not None and value is not False and value not in ("", [], {})


def to_input(value: Any, parameters: dict[str, Any], loaded: Loaded, max_rows: int) -> tuple[Input, bytes]:
    """The input of a model, and its undecoded ``parameters``. Raises `InvalidInput`."""
    if loaded.accepts_values:  # a plugin, whose parameters are beside its input
        body = value if isinstance(value, dict) else {"input": value}
        return _to_values({**body, **parameters}), b""
    encoded = _encoded(parameters) if parameters else b""
    if isinstance(value, Media):
        return BytesInput(value.data, value.content_type), encoded
    if _has_tensors(value):
        return _as_tensors(value, loaded), encoded
    data = _encoded(value)
    if loaded.plain_answers and len(data) <= SMALL_JSON:
        return _as_tensors(value, loaded), encoded
    return JsonInput(data, "input", estimated_rows(data, max_rows)), encoded


def wants_tensors(source: Input, loaded: Loaded) -> bool:
    """Whether the answer to this input is best had as tensors."""
    return (
        isinstance(source, TensorInput)
        and loaded.plain_answers
        and all(spec.dtype != "string" and spec.batch_axis == 0 for spec in loaded.info.outputs)
    )


def of_answer(answer: Answer, source: Input) -> Any:
    """The result of a step: what ``output`` would be in the answer to a request, with tensors as they are."""
    if isinstance(answer, ValuesAnswer):
        return decode_values(answer.data)
    if isinstance(answer, JsonAnswer):
        return msgspec.json.decode(answer.data)
    single = isinstance(source, TensorInput) and source.single
    values = {name: array[0] if single else array for name, array in answer.tensors.items()}
    return next(iter(values.values())) if len(values) == 1 else values


def _to_values(body: dict[str, Any]) -> ValuesInput:
    """The body of a request to a plugin. Media in it become base64, as in JSON; tensors stay tensors."""
    try:
        return ValuesInput(encode_values(plain(body, keep_tensors=True)))
    except (OverflowError, RecursionError, TypeError) as e:
        raise InvalidInput(f"A value cannot be handed on: {e}.", field="input") from None


def _as_tensors(value: Any, loaded: Loaded) -> TensorInput:
    try:
        tensors, single, _ = codec.decode("input", value, loaded.info.inputs)
    except BackendError as e:
        raise translated(e) from None
    return TensorInput(tensors, rows_of(tensors, loaded.info), "input", single)


def _has_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return any(isinstance(each, np.ndarray) for each in value.values())
    return isinstance(value, np.ndarray)


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(plain(value))
    except (OverflowError, RecursionError, TypeError) as e:
        raise InvalidInput(f"A value cannot be written as JSON: {e}.", field="input") from None
