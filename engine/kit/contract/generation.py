"""Checks of models that generate text."""

from __future__ import annotations

from backends.generation import GenerationBackend
from engine.kit.contract.model import Broken, Check, Model, pieces_of, told


def its_example_is_answered(model: Model) -> None:
    """An answer ends once, and tells what it cost; then nothing is under way."""
    backend, info = model.loaded
    if info.generation is None:
        raise Broken("load() must return a ModelInfo with generation.")
    backend.add(1, backend.example())
    pieces = pieces_of(backend)
    if any(piece.id != 1 for piece in pieces):
        raise Broken(f"Pieces bear the ids {sorted({piece.id for piece in pieces})}, and only request 1 was added.")
    ends = [piece for piece in pieces if piece.finish or piece.error]
    if len(ends) != 1 or ends[0] is not pieces[-1]:
        raise Broken(f"An answer must end with its last piece, once; of {len(pieces)} pieces {len(ends)} end it.")
    if ends[0].error is not None:
        raise Broken(f"It does not answer its example: {told(ends[0].error)}")
    if ends[0].usage is None:
        raise Broken("The last piece of an answer must have usage.")


def a_prompt_is_counted_as_it_is_tokenized(model: Model) -> None:
    """The engine refuses by `count` what is too long."""
    backend, _ = model.loaded
    counted = backend.count(backend.example())
    if not isinstance(counted, int) or counted < 1:
        raise Broken(f"count() must tell how many tokens the prompt of the example has; got {counted!r}.")
    tokens = backend.tokenize("hello")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise Broken(f"tokenize() must return a list of integers; got {tokens!r}.")


CHECKS = (
    Check("its example is answered", GenerationBackend, its_example_is_answered),
    Check("a prompt is counted as it is tokenized", GenerationBackend, a_prompt_is_counted_as_it_is_tokenized),
)
