"""Recordings of every kind to samples, within bounds, and whatever is no recording to an error."""

from __future__ import annotations

import io
import random
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import InvalidInput
from backends.transcription import SAMPLE_RATE
from engine import audio
from engine.audio import Audio, AudioBudget
from tests import models_speech


def samples(data: bytes, longest: float = 60.0) -> np.ndarray[Any, Any]:
    return Audio(data, longest, AudioBudget(longest)).samples()


def refusal(data: bytes, longest: float = 60.0) -> str:
    with pytest.raises(InvalidInput) as caught:
        samples(data, longest)
    assert caught.value.field == "input"
    assert caught.value.message.endswith(".")
    return caught.value.message


@pytest.mark.parametrize("kind", models_speech.KINDS)
def test_every_kind_is_decoded_as_faster_whisper_does(kind: str) -> None:
    from faster_whisper import decode_audio

    data = models_speech.encoded("0930", kind)
    got = samples(data)
    assert got.dtype == np.float32
    assert len(got) == pytest.approx(len(models_speech.samples("0930")), abs=0.1 * SAMPLE_RATE)
    assert 0.1 < np.abs(got).max() <= 1
    np.testing.assert_array_equal(got, decode_audio(io.BytesIO(data)))


def test_a_recording_that_needs_no_change_is_kept_as_it_is() -> None:
    np.testing.assert_array_equal(samples(models_speech.clip("0930")), models_speech.sound("0930"))


def test_silence_is_a_recording() -> None:
    assert len(samples(audio.silence())) == SAMPLE_RATE // 10


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"nothing that sounds" * 100,
        b"RIFF" + b"\0" * 100,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
        b"%PDF-1.7\n" + bytes(range(256)) * 10,
        b'<?xml version="1.0"?><MPD></MPD>',
    ],
)
def test_what_is_no_recording(data: bytes) -> None:
    assert "cannot be decoded" in refusal(data)


def test_lists_of_other_files_are_not_followed(tmp_path: Path) -> None:
    """FFmpeg would open what they name."""
    target = tmp_path / "target.wav"
    target.write_bytes(models_speech.wav(np.zeros(SAMPLE_RATE, np.int16)))
    for text in (f"#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n", f"ffconcat version 1.0\nfile '{target}'\n"):
        assert "cannot be decoded" in refusal(text.encode())


def test_a_file_without_sound() -> None:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream: Any = out.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 16
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert refusal(file.getvalue()) == "The file has no sound."


def test_a_recording_that_is_too_long_is_refused_while_it_is_decoded() -> None:
    """A small file can hold much silence."""
    minute = np.zeros(60 * SAMPLE_RATE, np.int16)
    for kind, bytes_a_minute in (("flac", 50_000), ("mp3", 500_000)):
        data = models_speech.encode([minute] * 3, kind)
        assert len(data) < 3 * bytes_a_minute
        says = re.fullmatch(r"The recording lasts ([\d.]+) s or longer; max_audio_s allows 70 s.*", refusal(data, 70.0))
        assert says is not None
        assert 70 < float(says[1]) < 110


def test_a_head_that_does_not_know_how_long_it_will_be() -> None:
    """As that of a WAV file which is written while it is recorded."""
    wav = bytearray(models_speech.clip("0930"))
    wav[40:44] = b"\xff\xff\xff\xff"
    assert len(samples(bytes(wav))) == len(models_speech.samples("0930"))


def test_few_samples_a_second_do_not_become_many() -> None:
    assert "1 samples a second; at least 1000" in refusal(models_speech.wav(np.zeros(100_000, np.int16), rate=1))


def test_the_format_may_change_on_the_way() -> None:
    """A chained stream: what follows has another rate and other channels."""
    first, second = models_speech.encoded("0930", "ogg"), models_speech.encoded("0930", "ogg")
    assert len(samples(first + second)) >= len(samples(first))


def test_damaged_files_are_errors_or_recordings_and_nothing_else() -> None:
    pick = random.Random(0)
    ends = {"ok": 0, "refused": 0}
    for _ in range(200):
        data = bytearray(models_speech.encoded("0930", pick.choice([*models_speech.KINDS])))
        match pick.randrange(5):
            case 0:
                del data[pick.randrange(len(data)) :]
            case 1:
                for _ in range(pick.choice((1, 30, 300))):
                    data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
            case 2:
                for _ in range(pick.choice((1, 3, 10))):
                    data[pick.randrange(300)] = pick.randrange(256)
            case 3:
                at = pick.randrange(len(data))
                del data[at : at + pick.randrange(1, 5000)]
            case _:
                at = pick.randrange(len(data))
                data[at:at] = pick.randbytes(pick.randrange(1, 2000))
        try:
            assert len(samples(bytes(data))) <= 60 * SAMPLE_RATE
            ends["ok"] += 1
        except InvalidInput as e:
            assert e.field == "input"
            ends["refused"] += 1
    assert min(ends.values()) > 20, ends


# --- what recordings hold together ----------------------------------------------------------------------------------


class Holder(threading.Thread):
    """Holds seconds of a budget on a thread of its own."""

    def __init__(self, budget: AudioBudget, seconds: float) -> None:
        super().__init__(daemon=True)
        self.audio = Audio(b"", 100.0, budget)
        self._hold = lambda: budget.hold(self.audio, seconds)
        self.held = threading.Event()
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._hold()
            self.held.set()
        except InvalidInput as e:
            self.error = e


def test_recordings_wait_for_room_and_the_first_never_does() -> None:
    budget = AudioBudget(100.0)
    first = Holder(budget, 60.0)
    assert first.held.wait(10)
    second = Holder(budget, 60.0)
    assert not second.held.wait(0.2)
    budget.hold(first.audio, 30.0)  # its further blocks are not kept waiting by the one that waits
    budget.hold(first.audio, 30.0)
    first.audio.close()
    assert second.held.wait(10)
    second.audio.close()


def test_one_that_is_not_wanted_any_more_does_not_wait() -> None:
    budget = AudioBudget(100.0)
    first = Holder(budget, 100.0)
    assert first.held.wait(10)
    second = Holder(budget, 1.0)
    assert not second.held.wait(0.2)
    second.audio.close()
    second.join(10)
    assert str(second.error) == "The recording is not wanted any more."
    first.audio.close()


def test_a_closed_recording_is_decoded_no_further() -> None:
    data = models_speech.wav(np.zeros(120 * SAMPLE_RATE, np.int16))
    one = Audio(data, 200.0, AudioBudget(200.0))
    one.close()
    with pytest.raises(InvalidInput, match="not wanted any more"):
        one.samples()
