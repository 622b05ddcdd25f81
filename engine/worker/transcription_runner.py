"""Transcriptions by one model. Recordings are decoded in the worker, off the model's thread, when the backend asks."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.transcription import Piece, Transcription, TranscriptionBackend
from engine.audio import Audio, AudioBudget
from engine.transport.channel import Channel
from engine.transport.messages import StartStream
from engine.transport.transcription import TranscriptDelta, decode_request
from engine.worker.gate import ModelGate
from engine.worker.step_runner import OpenRequest, StepRunner


@dataclass(slots=True, kw_only=True)
class _Request(OpenRequest):
    """One request on its way."""

    audio: Audio
    whole: TranscriptDelta = field(default_factory=TranscriptDelta)
    """What has come of an answer that is sent whole."""

    def close(self) -> None:
        self.audio.close()


class TranscriptionRunner(StepRunner[_Request, Piece]):
    """Owns the requests whose recordings one model is writing down."""

    def __init__(self, backend: TranscriptionBackend, longest: float, channel: Channel, gate: ModelGate) -> None:
        super().__init__(backend, channel, gate)
        self._backend = backend
        self._longest = longest
        self._budget = AudioBudget(longest)

    def _begin(self, message: StartStream) -> _Request:
        asked = decode_request(message.body)
        audio = Audio(asked.audio, self._longest, self._budget)
        request = Transcription(
            audio=audio.samples,
            language=asked.language,
            task=asked.task,
            prompt=asked.prompt,
            hotwords=asked.hotwords,
            temperature=asked.temperature,
            words=asked.words,
            vad=asked.vad,
            beam_size=asked.beam_size,
            condition_on_previous_text=asked.condition_on_previous_text,
        )
        self._backend.add(message.id, request)
        return _Request(request_id=message.request_id, streamed=asked.stream, audio=audio)

    def _take(self, request: _Request, piece: Piece) -> None:
        delta = TranscriptDelta(recording=piece.recording, segments=list(piece.segments))
        if piece.ended:
            request.left = 0
        if not request.streamed:
            request.whole.add(delta)
            if piece.ended:
                request.deltas.append(request.whole)
        elif delta.recording is not None or delta.segments:
            request.deltas.append(delta)
