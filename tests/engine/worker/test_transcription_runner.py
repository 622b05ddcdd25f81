"""Transcriptions through the worker's runner, from the server's messages to the server's deltas."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import Device, InvalidInput, Match, ModelInfo, TranscriptionInfo
from backends.transcription import Piece, Recording, Segment, Transcription, TranscriptionBackend
from engine import audio
from engine.transport.channel import Channel
from engine.transport.messages import CancelStream, StartStream, StepDone, StreamEnd, decode_batch_up
from engine.transport.transcription import TranscribeRequest, TranscriptDelta, decode_deltas, encode_request
from engine.worker.gate import Gate, ModelGate
from engine.worker.transcription_runner import TranscriptionRunner

ABOUT = Recording(duration=1.0, language="en", language_probability=1.0)
ONE, TWO = Segment(start=0.0, end=0.5, text=" One."), Segment(start=0.5, end=1.0, text=" Two.")


class Scripted(TranscriptionBackend):
    """Gives out, step by step, the pieces that a test put in."""

    name = "scripted"
    summary = "for tests"

    def __init__(self) -> None:
        self.requests: dict[int, Transcription] = {}
        self.steps: deque[list[Piece]] = deque()

    @classmethod
    def sniff(cls, path: Path) -> Match:
        return Match(0.0)

    def load(self, path: Path, device: Device, options: Any) -> ModelInfo:
        return ModelInfo(task="transcription", transcription=TranscriptionInfo(sequences=4, languages=("en",)))

    def example(self) -> Transcription:
        return Transcription(audio=lambda: audio.Audio(audio.silence(), 1.0, audio.AudioBudget(1.0)).samples())

    def add(self, request_id: int, request: Transcription) -> None:
        if request.language == "xx":
            raise InvalidInput("No such language.", field="language")
        self.requests[request_id] = request

    def wait(self, seconds: float) -> bool:
        return bool(self.steps)

    def step(self) -> list[Piece]:
        return self.steps.popleft()

    def cancel(self, request_id: int) -> None:
        self.requests.pop(request_id, None)

    @property
    def busy(self) -> bool:
        return bool(self.requests)


class Bench:
    """A runner, and the server's end of its channel."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.backend = Scripted()
        self.server = Channel(ours)
        self.worker = Channel(theirs)
        self.runner = TranscriptionRunner(self.backend, 10.0, self.worker, ModelGate(Gate(1)))

    def start(self, number: int, **request: Any) -> None:
        body = encode_request(TranscribeRequest(**{"audio": audio.silence(), **request}))
        self.runner.start(StartStream(number, f"r{number}", body))

    def step(self, *pieces: Piece) -> None:
        self.backend.steps.append(list(pieces))
        self.runner.step()

    def receive(self) -> StepDone | StreamEnd:
        message = decode_batch_up(self.server.receive() or b"")
        assert isinstance(message, StepDone | StreamEnd)
        return message

    def deltas(self) -> list[TranscriptDelta]:
        message = self.receive()
        assert isinstance(message, StepDone)
        (chunk,) = message.chunks
        return decode_deltas(chunk.data)

    @property
    def silent(self) -> bool:
        return self.server.receive(block=False) is None


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench()
    yield one
    one.server.close()
    one.worker.close()


def test_segments_come_as_they_are_there(bench: Bench) -> None:
    bench.start(1, stream=True, words=True, prompt="p")
    asked = bench.backend.requests[1]
    assert (asked.words, asked.prompt, asked.task) == (True, "p", "transcribe")
    assert len(asked.audio()) == 1600
    bench.step(Piece(id=1, recording=ABOUT))
    assert bench.deltas() == [TranscriptDelta(recording=ABOUT)]
    bench.step(Piece(id=1, segments=(ONE,)), Piece(id=1, segments=(TWO,)))
    assert bench.deltas() == [TranscriptDelta(segments=[ONE]), TranscriptDelta(segments=[TWO])]
    bench.step(Piece(id=1, ended=True))
    end = bench.receive()
    assert isinstance(end, StepDone)
    assert (end.ends, end.chunks) == ([StreamEnd(1)], [])


def test_a_whole_answer_is_one_delta_after_word_that_it_has_begun(bench: Bench) -> None:
    bench.start(1)
    bench.step(Piece(id=1, recording=ABOUT))
    begun = bench.receive()
    assert isinstance(begun, StepDone)
    assert [chunk.data for chunk in begun.chunks] == [b""]
    bench.step(Piece(id=1, segments=(ONE,)))
    assert bench.silent
    bench.step(Piece(id=1, segments=(TWO,)), Piece(id=1, ended=True))
    (whole,) = bench.deltas()
    assert whole == TranscriptDelta(recording=ABOUT, segments=[ONE, TWO])
    assert whole.text == " One. Two."


def test_nothing_is_computed_while_recordings_are_decoded(bench: Bench) -> None:
    bench.start(1)
    bench.runner.step()
    assert bench.receive() == StepDone([], []), "a sign that it does not hang"
    assert bench.runner.busy


def test_errors_end_one_request(bench: Bench) -> None:
    bench.start(1, language="xx")
    refused = bench.receive()
    assert isinstance(refused, StreamEnd)
    assert refused.error is not None
    assert (refused.error.code, refused.error.field) == ("invalid_input", "language")
    bench.start(2)
    bench.start(3, stream=True)
    bench.step(
        Piece(id=2, recording=ABOUT),
        Piece(id=2, error=InvalidInput("Damaged.", field="input")),
        Piece(id=3, segments=(ONE,)),
    )
    done = bench.receive()
    assert isinstance(done, StepDone)
    (end,) = done.ends
    assert (end.id, end.error and end.error.message) == (2, "Damaged.")
    assert [chunk.id for chunk in done.chunks] == [3]
    assert bench.backend.requests.keys() == {3}


def test_a_cancelled_request_lets_go_of_its_recording(bench: Bench) -> None:
    bench.start(1)
    decode = bench.backend.requests[1].audio
    bench.runner.cancel(CancelStream(1))
    assert bench.receive() == StreamEnd(1)
    assert bench.backend.requests == {}
    with pytest.raises(InvalidInput, match="not wanted any more"):
        decode()
    bench.runner.cancel(CancelStream(1))
    bench.step(Piece(id=1, segments=(ONE,)))
    assert bench.silent


def test_a_recording_that_is_too_long_is_refused(bench: Bench) -> None:
    import numpy as np

    from tests import models_speech

    bench.start(1, audio=models_speech.wav(np.zeros(11 * 16_000, np.int16)))
    with pytest.raises(InvalidInput, match=r"11\.0 s or longer; max_audio_s allows 10 s"):
        bench.backend.requests[1].audio()


def test_other_processes_that_are_silent_are_told_from_ones_that_live(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "out_of_process", True)
    bench.start(1)
    bench.runner.step()
    assert bench.server.receive(block=False) is None
    bench.step()
    assert bench.receive() == StepDone([], [])
