"""Whisper: the text that faster-whisper writes, of many recordings at once; and folders that are not what they say."""

from __future__ import annotations

import json
import random
import shutil
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import Device, InvalidOption, ModelFileError, ModelInfo
from backends.discovery import choose
from backends.transcription import SAMPLE_RATE, Transcription
from backends.whisper import WhisperBackend, features, file, tokenizer
from backends.whisper.backend import WhisperOptions
from tests import models_speech
from tests.hearing import Heard, each_request_has_its_own_error, hear, is_refused, run
from tests.models_speech import TEXTS

CPU = Device("cpu", threads=2)


def load(path: Path, device: Device = CPU, **options: Any) -> tuple[WhisperBackend, ModelInfo]:
    backend = WhisperBackend()
    return backend, backend.load(path, device, WhisperOptions(**options))


@pytest.fixture(scope="module")
def whisper() -> Iterator[WhisperBackend]:
    backend, _ = load(models_speech.whisper())
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def original() -> Any:
    """faster-whisper itself, computing with the same numbers."""
    from faster_whisper import WhisperModel

    return WhisperModel(str(models_speech.whisper()), device="cpu", compute_type="int8", cpu_threads=2)


def same(heard: Heard, segments: Sequence[Any]) -> None:
    """What was heard is what faster-whisper's own segments say."""
    assert [(s.text, list(s.tokens)) for s in heard.segments] == [(s.text, s.tokens) for s in segments]
    for got, want in zip(heard.segments, segments, strict=True):
        assert (got.start, got.end, got.seek, got.temperature) == (want.start, want.end, want.seek, want.temperature)
        assert got.avg_logprob == pytest.approx(want.avg_logprob, abs=1e-3)
        assert got.no_speech_prob == pytest.approx(want.no_speech_prob, abs=1e-3)
        assert got.compression_ratio == pytest.approx(want.compression_ratio)
        words = None if want.words is None else [(w.word, w.start, w.end) for w in want.words]
        assert (None if got.words is None else [(w.word, w.start, w.end) for w in got.words]) == words


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_a_clip_is_written_down(whisper: WhisperBackend, name: str) -> None:
    heard = hear(whisper, models_speech.sound(name))
    assert heard.text == TEXTS[name]
    assert heard.recording is not None
    assert heard.recording.duration == len(models_speech.samples(name)) / SAMPLE_RATE
    assert (heard.recording.language, heard.recording.language_probability) == ("en", 1.0)


def test_many_recordings_at_once_are_each_heard_as_faster_whisper_hears_it_alone(
    whisper: WhisperBackend, original: Any
) -> None:
    """Short ones, one of four windows whose texts go on with each other, with words and without."""
    long = models_speech.long_recording().astype(np.float32) / 32768.0
    assert len(long) > 90 * SAMPLE_RATE
    sounds = [
        long,
        models_speech.sound("0870"),
        long[: 50 * SAMPLE_RATE],
        models_speech.sound("0930"),
        models_speech.sound("0880"),
    ]
    wishes: list[dict[str, Any]] = [
        {"words": True},
        {},
        {},
        {"words": True},
        {"prompt": "Mr. Dashwood", "beam_size": 1},
    ]
    requests = [Transcription(audio=lambda s=s: s, **w) for s, w in zip(sounds, wishes, strict=True)]
    calls = counted(whisper)
    for heard, sound, wish in zip(run(whisper, requests), sounds, wishes, strict=True):
        own = {"initial_prompt": wish.get("prompt"), "word_timestamps": bool(wish.get("words"))}
        segments, _ = original.transcribe(sound, beam_size=wish.get("beam_size", 5), **own)
        same(heard, list(segments))
    assert max(calls["encode"]) > 1  # they did share calls
    assert len(calls["generate"]) < sum(calls["generate"])


def counted(backend: WhisperBackend) -> dict[str, list[int]]:
    """The windows of each call of the model from now on, by method."""
    from backends.whisper import rounds

    calls: dict[str, list[int]] = {name: [] for name in rounds._ANSWERS}
    compute = backend._rounds._compute

    def noted(together: Sequence[Any]) -> None:
        calls[together[0].method].append(len(together))
        compute(together)

    backend._rounds._compute = noted  # type: ignore[method-assign]
    return calls


def test_what_is_no_speech_is_cut_out(whisper: WhisperBackend, original: Any) -> None:
    silence = np.zeros(5 * SAMPLE_RATE, np.float32)
    sound = np.concatenate([silence, models_speech.sound("0930"), silence, silence])
    heard = hear(whisper, sound, vad=True, words=True)
    assert heard.text == TEXTS["0930"]
    assert 4.5 < heard.segments[0].start < 6
    segments, _ = original.transcribe(sound, vad_filter=True, word_timestamps=True)
    same(heard, list(segments))
    nothing = hear(whisper, np.zeros(3 * SAMPLE_RATE, np.float32), vad=True)
    assert nothing.text == ""
    assert nothing.recording is not None
    assert nothing.recording.duration == 3.0


def test_a_temperature_is_kept(whisper: WhisperBackend) -> None:
    heard = hear(whisper, models_speech.sound("0930"), temperature=0.4)
    assert {segment.temperature for segment in heard.segments} == {0.4}


def test_unlikely_text_is_tried_again_at_a_higher_temperature(whisper: WhisperBackend) -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, 4 * SAMPLE_RATE).astype(np.float32)
    calls = counted(whisper)
    hear(whisper, noise)
    tried = len(calls["generate"])
    assert tried > 1
    calls["generate"].clear()
    hear(whisper, noise, temperature=0.0)
    assert len(calls["generate"]) == 1


@pytest.mark.parametrize("length", [1, 100, 1600, 30 * SAMPLE_RATE, 30 * SAMPLE_RATE + 1])
def test_any_length_has_an_end(whisper: WhisperBackend, length: int) -> None:
    heard = hear(whisper, np.zeros(length, np.float32), temperature=0.0)
    assert heard.recording is not None
    assert heard.recording.duration == length / SAMPLE_RATE


def test_each_request_has_its_own_error(whisper: WhisperBackend) -> None:
    each_request_has_its_own_error(whisper)


def test_a_cancelled_recording_leaves_nothing_behind(whisper: WhisperBackend) -> None:
    before = threading.active_count()
    sound = models_speech.sound("0930")
    decoding, go_on = threading.Event(), threading.Event()

    def slow() -> Any:
        decoding.set()
        go_on.wait(60)
        return sound

    whisper.add(1, Transcription(audio=slow))
    whisper.add(2, Transcription(audio=lambda: sound))
    whisper.add(3, Transcription(audio=lambda: sound))
    assert decoding.wait(60)
    while not whisper.wait(1.0):
        pass
    whisper.step()  # both that are decoded have been encoded
    for number in (1, 2, 99):
        whisper.cancel(number)
    pieces = []
    while whisper.busy:
        if whisper.wait(1.0):
            pieces += whisper.step()
    assert {piece.id for piece in pieces} == {3}
    assert pieces[-1].ended
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("recording"):
            thread.join(60)
    assert threading.active_count() <= before
    assert not whisper.wait(0)


@pytest.mark.parametrize(
    ("wishes", "field", "says"),
    [
        ({"language": "de"}, "language", "This model knows English alone; got 'de'"),
        ({"language": "xx"}, "language", "got 'xx'"),
        ({"task": "translate"}, "task", "there is nothing to translate"),
        ({"temperature": 1.5}, "temperature", "from 0 to 1; got 1.5"),
        ({"temperature": float("nan")}, "temperature", "from 0 to 1; got nan"),
        ({"beam_size": 0}, "beam_size", "from 1 to 32; got 0"),
        ({"prompt": "Dashwood " * 200}, "prompt", "prompt may have 223 tokens; these are"),
        ({"hotwords": "Dashwood " * 50}, "hotwords", "hotwords may have 64 tokens; these are"),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    whisper: WhisperBackend, wishes: dict[str, Any], field: str, says: str
) -> None:
    is_refused(whisper, wishes, field, says)


def test_a_prompt_and_hotwords_of_the_greatest_lengths_leave_room_for_the_text(whisper: WhisperBackend) -> None:
    heard = hear(whisper, models_speech.sound("0930"), prompt=" him" * 223, hotwords=" her" * 64, temperature=0.0)
    assert heard.ended


def test_many_languages(whisper: WhisperBackend) -> None:
    """The part that needs no model of several languages, of which there is none here."""
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    texts = tokenizer.load(models_speech.whisper(), 51864)
    found = tokenizer.languages(texts, [*_LANGUAGE_CODES, "nowhere"])
    assert {"en", "de", "zh"} <= set(found)
    assert "nowhere" not in found


# --- loading --------------------------------------------------------------------------------------------------------


def test_what_loading_tells() -> None:
    backend, info = load(models_speech.whisper(), batch_windows=3)
    assert choose(models_speech.whisper())[0] is WhisperBackend
    assert info.task == "transcription"
    assert info.transcription is not None
    assert (info.transcription.languages, info.transcription.translates) == (("en",), False)
    assert info.sequences == 3
    assert info.runtime.startswith("faster-whisper ")
    assert info.metadata == {"compute_type": "int8_float32"}
    backend.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"compute_type": "int3"}, "cannot compute with 'int3', but with float32, "),
        ({"threads": 0}, "threads is from 1 to 4096; got 0"),
        ({"batch_windows": 0}, "batch_windows is from 1 to 256; got 0"),
        ({"beam_size": 100}, "beam_size is from 1 to 32; got 100"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        load(models_speech.whisper(), **options)


def test_float32() -> None:
    backend, info = load(models_speech.whisper(), compute_type="float32")
    assert info.metadata == {"compute_type": "float32"}
    assert hear(backend, models_speech.sound("0930")).text == TEXTS["0930"]
    backend.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder whose files may be replaced."""
    copy = tmp_path / "model"
    copy.mkdir()
    for source in models_speech.whisper().iterdir():
        (copy / source.name).symlink_to(source)
    return copy


def replace(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("vocabulary", file.VOCABULARIES)
def test_without_a_tokenizer_one_is_made_of_the_vocabulary(
    folder: Path, vocabulary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either of its layouts, and without asking any network for one."""
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the network"))
    tokens = (folder / "vocabulary.txt").read_text().removesuffix("\n").split("\n")
    (folder / "tokenizer.json").unlink()
    (folder / "vocabulary.txt").unlink()
    text = json.dumps(tokens) if vocabulary.endswith(".json") else "\n".join(tokens) + "\n"
    (folder / vocabulary).write_text(text)
    backend, _ = load(folder)
    heard = hear(backend, models_speech.sound("0870"), words=True)
    assert heard.text == TEXTS["0870"]
    assert heard.segments[0].words is not None
    assert not (folder / "tokenizer.json").exists()
    backend.close()


def test_a_made_tokenizer_is_the_models_own() -> None:
    from tokenizers import Tokenizer

    folder = models_speech.whisper()
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made = tokenizer.build(file.vocabulary(folder), "it")
    merges = [json.loads(each.to_str())["model"]["merges"] for each in (own, made)]
    assert merges[0] == merges[1]
    pick = random.Random(0)
    parts = ("the ", "a", "ß", "日本", "🙂", " ", "\n", "'s", "1", "Mr. ", "Dash", "wood", "-", "É", "\t", "<|en|>")
    for _ in range(300):
        text = "".join(pick.choices(parts, k=pick.randrange(1, 20)))
        ids = own.encode(text, add_special_tokens=False).ids
        assert made.encode(text, add_special_tokens=False).ids == ids
        assert made.decode(ids) == own.decode(ids)


@pytest.mark.parametrize("length", [1, 160, 161, 959_999, 960_000, 960_001, 1_930_077])
def test_features_in_blocks_are_those_of_the_whole(length: int) -> None:
    from faster_whisper.feature_extractor import FeatureExtractor

    sound = np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32)
    want, got = FeatureExtractor()(sound), features.extractor(80)(sound)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, atol=1e-6)


# --- folders that are not what they say -----------------------------------------------------------------------------


def test_the_weights_alone_lead_to_their_folder(folder: Path) -> None:
    assert choose(folder / "model.bin")[0] is WhisperBackend
    with pytest.raises(ModelFileError, match=r"is not a folder .*: give its folder, ") as caught:
        load(folder / "model.bin")
    assert caught.value.message.endswith(f"{folder}.")


def test_what_is_missing_is_named(folder: Path) -> None:
    for name, says in (
        ("vocabulary.txt", r"has no vocabulary\.json or vocabulary\.txt"),
        ("model.bin", r"has no model\.bin"),
        ("config.json", r"has no config\.json"),
    ):
        (folder / name).unlink()
        with pytest.raises(ModelFileError, match=says):
            load(folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelFileError, match="is not a folder"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("config.json", b"{", r"config\.json is not valid JSON"),
        ("config.json", b"[1]", r"config\.json is not a JSON object"),
        ("config.json", b"\xff\xfe", r"config\.json is not text in UTF-8"),
        ("config.json", b"[" * 100_000, r"config\.json is not valid JSON"),
        ("config.json", b'{"suppress_ids": [99999999]}', "suppress_ids must be numbers of the model's 51864 tokens"),
        ("config.json", b'{"lang_ids": "all"}', "lang_ids must be numbers"),
        ("config.json", b'{"alignment_heads": [[0, 6]]}', "one of 4 layers and one of 6 heads"),
        ("config.json", b'{"alignment_heads": [[4, 0]]}', "one of 4 layers and one of 6 heads"),
        ("config.json", b'{"alignment_heads": [3]}', "alignment_heads must be pairs"),
        ("vocabulary.txt", b"a\nb\n", "a vocabulary of 2 tokens, and weights for 51864"),
        ("vocabulary.json", b'{"a": 1}', "is not a list of tokens"),
        ("tokenizer.json", b'{"version": "1.0"', r"tokenizer\.json is no tokenizer"),
        ("tokenizer.json", b'{"model": {"type": "WordLevel", "vocab": {"a": 1}, "unk_token": "a"}}', "has no token"),
        ("preprocessor_config.json", b'{"feature_size": 128}', "has feature_size 128; this model needs 80"),
        ("preprocessor_config.json", b'{"hop_length": 1}', "has hop_length 1; this model needs 160"),
    ],
)  # fmt: skip
def test_a_broken_small_file_is_named(folder: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(ModelFileError, match=says) as caught:
        load(replace(folder, name, data))
    assert caught.value.message.endswith(".")


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    found = json.loads((folder / "tokenizer.json").read_text())
    for token in found["added_tokens"]:
        token["content"] = token["content"].replace("<|de|>", "<|xx|>")
    with pytest.raises(ModelFileError, match="their special tokens differ"):
        load(replace(folder, "tokenizer.json", json.dumps(found).encode()))
    found["model"]["vocab"]["more"] = 99_999
    with pytest.raises(ModelFileError, match="has more tokens than the model, which has 51864"):
        load(replace(folder, "tokenizer.json", json.dumps(found).encode()))


def test_a_folder_of_another_kind_is_not_recognised(folder: Path, tmp_path: Path) -> None:
    data = (folder / "model.bin").read_bytes()[:5000]
    assert WhisperBackend.sniff(replace(folder, "model.bin", data)).confidence == 1.0
    assert WhisperBackend.sniff(replace(folder, "model.bin", data[6:])).confidence == 0.6
    replace(folder, "config.json", b"{}")
    assert WhisperBackend.sniff(folder).confidence == 0.0
    translator = data.replace(b"WhisperSpec\0", b"Transformer\0")
    assert WhisperBackend.sniff(replace(folder, "model.bin", translator)).confidence == 0.0
    with pytest.raises(ModelFileError, match="it is a 'Transformer', not a WhisperSpec"):
        load(folder)


class Weights:
    """The structure of a `model.bin`, without the values of its large weights."""

    def __init__(self) -> None:
        self.weights: dict[str, tuple[tuple[int, ...], int, bytes | None]] = {}
        width, tokens = 8, 20
        for part in ("encoder", "decoder"):
            self.add(f"{part}/num_heads", (), 2, struct.pack("<h", 2))
            self.add(f"{part}/layer_norm/gamma", (width,))
            self.add(f"{part}/layer_0/self_attention/linear_0/weight", (3 * width, width))
            self.add(f"{part}/layer_0/self_attention/linear_1/weight", (width, width))
            self.add(f"{part}/layer_0/ffn/linear_0/weight", (4 * width, width), 1)
            self.add(f"{part}/layer_0/ffn/linear_0/weight_scale", (4 * width,))
            self.add(f"{part}/layer_0/ffn/linear_1/weight", (width, 4 * width))
        self.add("encoder/conv1/weight", (width, 5, 3))
        self.add("encoder/position_encodings/encodings", (1500, width))
        self.add("decoder/embeddings/weight", (tokens, width))
        self.add("decoder/layer_0/attention/linear_1/weight", (2 * width, width))
        self.add("decoder/alignment_layer", (), 2, struct.pack("<h", -1))

    def add(self, name: str, dims: tuple[int, ...], kind: int = 0, data: bytes | None = None) -> Weights:
        self.weights[name] = dims, kind, data
        return self

    def write(self, path: Path) -> Path:
        def text(value: str) -> bytes:
            return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

        body = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(self.weights))
        for name, (dims, kind, data) in self.weights.items():
            size = int(np.prod(dims)) * (4, 1, 2)[kind]
            body += text(name) + struct.pack(f"<B{len(dims)}I", len(dims), *dims) + struct.pack("<BI", kind, size)
            body += bytes(size) if data is None else data
        body += struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text("{}")
        (path / "model.bin").write_bytes(body)
        return path


def test_the_shapes_of_weights_are_read(tmp_path: Path) -> None:
    assert file.check(Weights().write(tmp_path / "m")) == file.Shape(tokens=20, mels=5)
    assert file.check(models_speech.whisper()) == file.Shape(tokens=51864, mels=80)


@pytest.mark.parametrize(
    ("name", "dims", "kind", "data", "says"),
    [
        ("decoder/layer_norm/gamma", (9,), 0, None, r"has the shape \[9\], which does not fit a width of 8"),
        ("encoder/layer_0/ffn/linear_1/weight", (8, 8, 8), 0, None, r"should be \['width', 'hidden'\]"),
        ("encoder/layer_0/self_attention/linear_0/weight", (23, 8), 0, None, "three widths of 8"),
        ("decoder/layer_0/attention/linear_1/weight", (8, 8), 0, None, "two widths of 8"),
        ("encoder/position_encodings/encodings", (100, 8), 0, None, "a 1500 of 1500"),
        ("decoder/layer_0/ffn/linear_0/weight_scale", (31,), 0, None, r"\[31\], and its weight \[32\] rows"),
        ("encoder/num_heads", (), 2, struct.pack("<h", 0), "0 heads of the encoder"),
        ("decoder/num_heads", (), 2, struct.pack("<h", 3), "3 heads of the decoder do not divide a width of 8"),
        ("decoder/alignment_layer", (), 2, struct.pack("<h", 5), "from a layer that it has not"),
        ("decoder/alignment_heads", (), 2, struct.pack("<h", 9), "from heads that it has not"),
        ("encoder/conv1/weight", (0, 5, 3), 0, None, "which does not fit"),
    ],
)
def test_weights_that_do_not_go_together(
    tmp_path: Path, name: str, dims: tuple[int, ...], kind: int, data: bytes | None, says: str
) -> None:
    """CTranslate2 would compute with them, and read and write beyond their ends."""
    with pytest.raises(ModelFileError, match=says):
        file.check(Weights().add(name, dims, kind, data).write(tmp_path / "m"))


def test_weights_that_are_incomplete(tmp_path: Path) -> None:
    weights = Weights()
    del weights.weights["encoder/conv1/weight"]
    with pytest.raises(ModelFileError, match="it has no weight that tells its mels"):
        file.check(weights.write(tmp_path / "m"))


def test_no_damage_to_the_structure_gets_past_the_check(tmp_path: Path) -> None:
    """A flipped bit is found, or has changed nothing but a name or a small value; never anything else than an error."""
    path = Weights().write(tmp_path / "m")
    data = (path / "model.bin").read_bytes()
    pick = random.Random(0)
    found = 0
    for _ in range(3000):
        damaged = bytearray(data)
        damaged[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
        (path / "model.bin").write_bytes(damaged)
        try:
            file.check(path)
        except ModelFileError as e:
            found += 1
            assert e.message.endswith(".")
    for length in range(0, len(data), 97):
        (path / "model.bin").write_bytes(data[:length])
        with pytest.raises(ModelFileError, match=r"it ends too early|has no weight|not one from"):
            file.check(path)
    (path / "model.bin").write_bytes(data + b"\0")
    with pytest.raises(ModelFileError, match="1 bytes follow after its end"):
        file.check(path)
    assert found > 10


def test_a_size_that_leads_beyond_the_weight_is_refused(folder: Path) -> None:
    """CTranslate2 would copy as many bytes as the file says into memory that has room for the shape alone."""
    data = bytearray((folder / "model.bin").read_bytes()[:200_000])
    at = data.index(b"decoder/embeddings/weight\0") + len(b"decoder/embeddings/weight\0") + 1 + 8 + 1
    (size,) = struct.unpack_from("<I", data, at)
    assert size == 51864 * 384 * 2
    struct.pack_into("<I", data, at, size + 4096)
    with pytest.raises(ModelFileError, match="is said to have 39835648 bytes"):
        load(replace(folder, "model.bin", bytes(data)))
