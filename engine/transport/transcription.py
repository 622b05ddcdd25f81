"""Transcriptions on their way between the server and a worker: what every dialect asks for, and what comes back.

The dialects translate to `TranscribeRequest` and from `TranscriptDelta`; the worker decodes the recording. Both cross
the process as MessagePack, inside `StartStream` and `Chunk`, as those of `engine.transport.generation` do.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from backends.transcription import Recording, Segment


class TranscribeRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One recording that is to be written down. The fields are those of `backends.transcription.Transcription`."""

    audio: bytes
    """An encoded file."""
    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str = ""
    hotwords: str = ""
    temperature: float | None = None
    words: bool = False
    vad: bool | None = None
    beam_size: int | None = None
    condition_on_previous_text: bool = True
    stream: bool = False
    """Whether segments come as they are there; else all of them at once."""


class TranscriptDelta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """More of one transcription; all of one, when they are put together."""

    recording: Recording | None = None
    """In the first."""
    segments: list[Segment] = []

    def add(self, more: TranscriptDelta) -> None:
        """Puts what follows behind it."""
        self.recording = more.recording or self.recording
        self.segments = [*self.segments, *more.segments]

    @property
    def text(self) -> str:
        """Of all segments."""
        return "".join(segment.text for segment in self.segments)


encode_request = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(TranscribeRequest).decode
decode_deltas = msgspec.msgpack.Decoder(list[TranscriptDelta]).decode
