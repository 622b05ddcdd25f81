"""Whisper in whisper.cpp's format: the texts of real clips, several at once; and files that are not what they say."""

from __future__ import annotations

import difflib
import random
import struct
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import Device, InvalidOption, ModelFileError, ModelInfo
from backends.discovery import choose
from backends.transcription import SAMPLE_RATE, Transcription
from backends.whisper_cpp import WhisperCppBackend, file
from backends.whisper_cpp.backend import WhisperCppOptions
from backends.whisper_cpp.words import Token, Vocabulary, words
from tests import models_speech
from tests.hearing import each_request_has_its_own_error, hear, is_refused, run
from tests.models_speech import TEXTS
from tests.models_whisper_cpp import whisper_cpp


def load(path: Path, **options: Any) -> tuple[WhisperCppBackend, ModelInfo]:
    backend = WhisperCppBackend()
    return backend, backend.load(path, Device("cpu", threads=2), WhisperCppOptions(**options))


@pytest.fixture(scope="module")
def whisper() -> Iterator[WhisperCppBackend]:
    backend, _ = load(whisper_cpp(), beam_size=1)
    yield backend
    backend.close()


# --- text -----------------------------------------------------------------------------------------------------------


def test_clips_are_written_down_several_at_once(whisper: WhisperCppBackend) -> None:
    """As the same weights are heard with CTranslate2."""
    requests = [Transcription(audio=lambda name=name: models_speech.sound(name), words=True) for name in TEXTS]
    for name, heard in zip(TEXTS, run(whisper, requests), strict=True):
        assert heard.text == TEXTS[name]
        assert heard.recording is not None
        assert heard.recording.duration == len(models_speech.samples(name)) / SAMPLE_RATE
        assert (heard.recording.language, heard.recording.language_probability) == ("en", 1.0)
        (segment,) = heard.segments
        assert segment.words is not None
        assert "".join(word.word for word in segment.words) == segment.text
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= heard.recording.duration
        assert all(0.2 < word.probability <= 1 for word in segment.words)
        assert -1 < segment.avg_logprob < 0


def test_a_long_recording_takes_several_windows_in_turn_with_others(whisper: WhisperCppBackend) -> None:
    sound = models_speech.long_recording().astype(np.float32) / 32768.0
    whisper.add(1, Transcription(audio=lambda: sound))
    whisper.add(2, Transcription(audio=lambda: models_speech.sound("0930")))
    pieces = []
    while whisper.busy:
        if whisper.wait(1.0):
            pieces += whisper.step()
    ends = [piece.id for piece in pieces if piece.ended]
    assert ends == [2, 1]  # the short one did not wait for all of the long one
    segments = [segment for piece in pieces if piece.id == 1 for segment in piece.segments]
    assert sum(piece.id == 1 for piece in pieces) >= 4
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts)
    assert all(a.end <= b.start + 0.01 for a, b in pairwise(segments))
    said = "".join(segment.text for segment in segments).split()
    once = (
        f"{TEXTS['0870']} He was not an ill-disposed young man. Unless to be rather cold-hearted and rather selfish, "
        f"is to be ill-disposed. {TEXTS['0920']} {TEXTS['0930']}"
    )
    assert difflib.SequenceMatcher(None, said, once.split() * 4, autojunk=False).ratio() > 0.95


def test_silence_has_no_text(whisper: WhisperCppBackend) -> None:
    assert hear(whisper, np.zeros(2 * SAMPLE_RATE, np.float32)).text == ""
    assert hear(whisper, np.zeros(10, np.float32)).text == ""


def test_what_cannot_be_decoded_fails_alone(whisper: WhisperCppBackend) -> None:
    each_request_has_its_own_error(whisper)


def test_beams_and_a_prompt(whisper: WhisperCppBackend) -> None:
    sound = models_speech.sound("0930")
    assert hear(whisper, sound, beam_size=3, temperature=0.0).text == TEXTS["0930"]
    quiet = hear(whisper, sound, prompt="he might even have been made amiable", temperature=0.0).text
    assert quiet.lower().rstrip(".") == TEXTS["0930"].lower().rstrip(".")
    assert hear(whisper, sound, prompt=" him" * 223, hotwords=" her" * 64, temperature=0.0).ended


def test_a_cancelled_recording_leaves_nothing_behind(whisper: WhisperCppBackend) -> None:
    decoding, go_on = threading.Event(), threading.Event()

    def slow() -> Any:
        decoding.set()
        go_on.wait(60)
        return models_speech.sound("0930")

    whisper.add(1, Transcription(audio=slow))
    assert decoding.wait(60)
    assert whisper.busy
    assert not whisper.wait(0)
    whisper.cancel(1)
    whisper.cancel(99)
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("recording"):
            thread.join(60)
    assert not whisper.busy
    assert not whisper.wait(0)


@pytest.mark.parametrize(
    ("wishes", "field", "says"),
    [
        ({"language": "de"}, "language", "This model knows English alone; got 'de'"),
        ({"task": "translate"}, "task", "there is nothing to translate"),
        ({"vad": True}, "vad", "leave vad out"),
        ({"prompt": "Dashwood " * 200}, "prompt", "prompt may have 223 tokens; these are"),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    whisper: WhisperCppBackend, wishes: dict[str, Any], field: str, says: str
) -> None:
    is_refused(whisper, wishes, field, says)


# --- words and tokens -----------------------------------------------------------------------------------------------


def test_tokens_of_a_text() -> None:
    vocabulary = Vocabulary([b" h", b" he", b"he", b"l", b"lo", b"'s", b"\xc3", b"\xa9", b"1", b" "])
    assert vocabulary.tokens(" hello") == [1, 3, 4]  # the longest that begins it
    assert vocabulary.tokens("he's1é") == [2, 5, 8, 6, 7]
    assert vocabulary.tokens("?") == []


def test_words_of_tokens() -> None:
    def token(text: bytes, at: float) -> Token:
        return Token(text, at, at + 1, 0.5)

    spaced = words([token(b" am", 0), token(b"iable", 1), token(b" man", 2), token(b".", 3)], "en")
    assert [(word.word, word.start, word.end) for word in spaced] == [(" amiable", 0, 2), (" man.", 2, 4)]
    cut = "你好".encode()
    unspaced = words([token(cut[:2], 0), token(cut[2:3], 1), token(cut[3:], 2)], "zh")
    assert [(word.word, word.start, word.end) for word in unspaced] == [("你", 0, 2), ("好", 2, 3)]


# --- loading --------------------------------------------------------------------------------------------------------


def test_what_loading_tells() -> None:
    backend, info = load(whisper_cpp(), recordings=3)
    assert choose(whisper_cpp())[0] is WhisperCppBackend
    assert info.task == "transcription"
    assert info.transcription is not None
    assert (info.transcription.languages, info.transcription.translates) == (("en",), False)
    assert info.sequences == 3
    assert info.runtime.startswith("whisper.cpp, pywhispercpp ")
    assert info.metadata == {"quantization": "F16"}
    assert backend.memory() == whisper_cpp().stat().st_size
    backend.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "threads must be at least 1; got 0"),
        ({"recordings": 0}, "recordings is from 1 to 256; got 0"),
        ({"beam_size": 100}, "beam_size is from 1 to 32; got 100"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        load(whisper_cpp(), **options)


@pytest.fixture(scope="module")
def data() -> bytes:
    return whisper_cpp().read_bytes()


def check(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    file.check(path)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.0005, 0.01, 0.5, 0.999999])
def test_a_truncated_file_is_a_clear_error(share: float, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelFileError, match="is corrupt"):
        check(tmp_path, data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        (0, 1 << 30, "1073741824 tokens"),
        (0, 51865, "token_embedding.* should be"),
        (1, 1 << 20, "not those of a Whisper model"),
        (2, 768, "not those of a Whisper model"),
        (3, 0, "0 heads do not divide"),
        (4, 1 << 20, "1048576 layers in its encoder, and has 4"),
        (5, 1 << 28, "positional_embedding.* should be"),
        (8, 3, "3 layers in its decoder, and has 4"),
        (9, 64, "not those of a Whisper model"),
    ],
)
def test_settings_that_do_not_go_with_the_weights(
    setting: int, value: int, says: str, tmp_path: Path, data: bytes
) -> None:
    at = 4 + 4 * setting
    with pytest.raises(ModelFileError, match=says):
        check(tmp_path, data[:at] + struct.pack("<i", value) + data[at + 4 :])


def test_random_damage_of_the_structure_is_refused_or_harmless(tmp_path: Path, data: bytes) -> None:
    """What passes the check has the same structure, so that the runtime finds what it looks for."""
    seed = random.Random(5)
    shape = file.check(whisper_cpp())
    refused = 0
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(3):
            at = seed.randrange(48) if seed.random() < 0.5 else seed.randrange(64_000, 600_000)
            damaged[at] ^= 1 << seed.randrange(8)
        try:
            check(tmp_path, bytes(damaged))
        except ModelFileError:
            refused += 1
        else:
            assert (
                struct.unpack("<10i", damaged[4:44])[:10]
                == tuple(getattr(shape, n) for n in shape.__struct_fields__)[:10]
            )
    assert refused > 10


def test_a_file_that_lacks_a_weight_is_refused_by_the_runtime(tmp_path: Path, data: bytes) -> None:
    name = b"encoder.ln_post.bias"
    path = tmp_path / "model.bin"
    path.write_bytes(data.replace(name, b"encoder.ln_post.bias"[::-1], 1))
    with pytest.raises(ModelFileError, match=r"whisper\.cpp cannot load"):
        load(path)


def test_other_files_are_not_taken_for_one(tmp_path: Path) -> None:
    llama = tmp_path / "ggml-model.bin"
    llama.write_bytes(file.MAGIC + struct.pack("<11i", 32000, 4096, 256, 32, 32, 128, 1, 0, 0, 0, 0))
    for path in (llama, tmp_path, tmp_path / "missing.bin", models_speech.whisper()):
        assert WhisperCppBackend.sniff(path).confidence == 0
