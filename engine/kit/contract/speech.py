"""Checks of models that write down speech."""

from __future__ import annotations

from backends.transcription import TranscriptionBackend
from engine.kit.contract.model import Broken, Check, Model, pieces_of, told


def its_example_is_written_down(model: Model) -> None:
    """The first piece tells of the recording, and the last one ends it; then nothing is under way."""
    backend, info = model.loaded
    if info.transcription is None:
        raise Broken("load() must return a ModelInfo with transcription.")
    if info.transcription.sequences < 1 or not info.transcription.languages:
        raise Broken("TranscriptionInfo must have at least one sequence, and one language.")
    for number in (1, 2):
        backend.add(number, backend.example())
    pieces = pieces_of(backend)
    for number in (1, 2):
        own = [piece for piece in pieces if piece.id == number]
        error = next((piece.error for piece in own if piece.error is not None), None)
        if error is not None:
            raise Broken(f"It does not write down its example: {told(error)}.")
        if not own or not own[-1].ended or sum(piece.ended for piece in own) != 1:
            raise Broken(
                f"A recording must end with its last piece, once; of {len(own)} pieces none or several end it."
            )
        if own[0].recording is None or sum(piece.recording is not None for piece in own) != 1:
            raise Broken("The first piece of a recording, and no other, must tell what is known of it.")


CHECKS = (Check("its example is written down", TranscriptionBackend, its_example_is_written_down),)
