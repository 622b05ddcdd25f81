"""What a model is *for*. A task turns request bodies into the model's tensors, and its tensors into an answer.

Tasks run in the worker, beside the model, so that decoding an image never stalls the server's loop.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np

from backends.base import TRUNCATE, Finding, InvalidInput, ModelInfo, Tensors
from engine import codec
from engine.codec import Decoded, Form
from engine.model_options import ModelOptions


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``parameters`` object of a request. `TensorTask.takes` says which of them mean something to a model."""

    top_k: int | None = None
    """How many of the best classes an answer has."""
    dimensions: int | None = None
    """How many of the leading elements of an embedding an answer has."""
    top_n: int | None = None
    """How many of the best documents an answer has."""
    usage: bool | None = None
    """Whether an answer tells how many tokens the texts have."""
    truncate: bool | None = None
    """Whether a text that is too long is cut, instead of being an error."""
    threshold: float | None = None
    """Least score of a box, or of a region, in an answer."""
    mask_threshold: float | None = None
    """Least probability of a pixel of a mask."""


TOKENS = "tokens"
"""The name of the output that holds how many tokens each row has."""


def counts_tokens(info: ModelInfo) -> bool:
    """Whether a model tells how many tokens its texts have."""
    return any(s.name == TOKENS and s.dtype.startswith("int") and len(s.shape) == 1 for s in info.outputs)


class TensorTask:
    """Raw tensors in, raw tensors out. Base of the other tasks.

    `decode` and `decode_bytes` raise `InvalidInput`; every returned tensor has its batch axis.
    """

    name: ClassVar[str] = "tensor"
    decodes_in_parallel: ClassVar[bool] = False
    """Whether `decode` and `decode_bytes` spend their time outside the interpreter's lock, as image decoders do."""
    takes: frozenset[str] = frozenset()
    """The names of the `Parameters` that mean something to this task, or to this model."""
    counts_tokens: bool = False
    """Whether the output `TOKENS` tells how many tokens of prompts each row has."""
    plain_answers: bool = True
    """Whether an answer is the output tensors themselves, so that the server may encode it without this task."""

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        self.info = info
        self.options = options
        self.findings: tuple[Finding, ...] = ()
        """What the task found out or guessed about this model, and how to override it."""
        self.notes: tuple[str, ...] = ()
        """What else a user should know, in sentences."""
        if TRUNCATE in info.optional:
            self.takes |= {TRUNCATE.name}

    def check(self, parameters: Parameters) -> None:
        """Raises `InvalidInput` for a parameter that means nothing to this model."""
        for name in parameters.__struct_fields__:
            if getattr(parameters, name) is not None and name not in self.takes:
                raise InvalidInput(f"{name} means nothing to a model of this task.", field=f"parameters.{name}")

    def complete(self, tensors: Tensors, rows: int, parameters: Parameters) -> Tensors:
        """The tensors of a request, with the optional ones that its parameters stand for."""
        if parameters.truncate is None:
            return tensors
        return {**tensors, TRUNCATE.name: np.full(rows, parameters.truncate)}

    def decode(self, form: Form, value: Any) -> Decoded:
        """A parsed JSON value as tensors."""
        return codec.decode(form, value, self.info.inputs)

    def decode_json(self, form: Form, data: bytes | memoryview) -> Decoded:
        """JSON as tensors. Raises `msgspec.DecodeError` or `RecursionError` for what is none, too."""
        return self.decode(form, msgspec.json.decode(data))

    def decode_bytes(self, data: memoryview, content_type: str) -> Decoded:  # noqa: ARG002
        """A raw request body, such as a JPEG file, as tensors."""
        raise InvalidInput(f"This model takes tensors; it cannot decode a body of type {content_type}.", field="input")

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:  # noqa: ARG002
        """The JSON value of the answer, for the rows of one request."""
        return codec.encode(form, outputs, single, self.info.outputs)

    def answer(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters, origin: Any) -> Any:  # noqa: ARG002
        """As `encode`, for a request of which `decode` gave an `origin`, or `None`."""
        return self.encode(form, outputs, single, parameters)

    def answer_json(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters, origin: Any) -> bytes:
        """As `answer`, in JSON."""
        return msgspec.json.encode(self.answer(form, outputs, single, parameters, origin))

    def example(self, row: Tensors) -> Any:
        """A value for ``input`` that this model accepts, shown to users; `row` is the backend's example."""
        values = {s.name: row[s.name].tolist() for s in self.info.inputs}
        return next(iter(values.values())) if len(values) == 1 else values
