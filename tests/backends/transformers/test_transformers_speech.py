"""Folders that write down speech: real text of real clips, the same as the library's own pipeline, and bad folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import BackendError, Device, InvalidInput, InvalidOption, ModelFileError, ModelInfo, OutOfMemory
from backends.discovery import choose
from backends.transcription import SAMPLE_RATE, Transcription
from backends.transformers import ctc_listener
from backends.transformers.ctc_listener import Chunk, Spoken, chunks, sentences
from backends.transformers.speech import SpeechOptions, TransformersSpeechBackend
from backends.transformers.whisper_windows import TEMPERATURES, Cut, Draft, WhisperHearing, cut
from tests import models_speech, models_transformers_speech
from tests.hearing import Heard, each_request_has_its_own_error, hear, run
from tests.models_speech import TEXTS
from tests.models_transformers import copied, edit
from tests.models_transformers_speech import LEARNED, ctc_folder

CPU = Device("cpu", threads=2)
Sound = np.ndarray[Any, Any]


def load(path: Path, device: Device = CPU, **options: Any) -> tuple[TransformersSpeechBackend, ModelInfo]:
    backend = TransformersSpeechBackend()
    return backend, backend.load(path, device, SpeechOptions(**options))


@pytest.fixture(scope="module")
def whisper() -> Iterator[TransformersSpeechBackend]:
    backend, _ = load(models_transformers_speech.whisper())
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def ctc() -> Iterator[TransformersSpeechBackend]:
    backend, _ = load(models_transformers_speech.ctc())
    yield backend
    backend.close()


def words_of(heard: Heard) -> list[tuple[str, float, float]]:
    return [(word.word, word.start, word.end) for segment in heard.segments for word in segment.words or ()]


@cache
def pipeline(folder: Path) -> Any:
    """The library's own, which computes with the same numbers."""
    import torch
    import transformers

    return transformers.pipeline("automatic-speech-recognition", model=str(folder), dtype=torch.float32)


def as_pipeline(answer: dict[str, Any], name: str = "text") -> list[tuple[str, float, float]]:
    return [(c[name], float(c["timestamp"][0]), float(c["timestamp"][1])) for c in answer["chunks"]]


def close(got: Sequence[tuple[str, float, float]], want: Sequence[tuple[str, float, float]]) -> None:
    assert [text for text, _, _ in got] == [text for text, _, _ in want]
    for (_, *ours), (_, *theirs) in zip(got, want, strict=True):
        assert ours == pytest.approx(theirs, abs=0.011)


def long_sound(seconds: int) -> Sound:
    return (models_speech.long_recording()[: seconds * SAMPLE_RATE] / 32768.0).astype(np.float32)


# --- Whisper: text --------------------------------------------------------------------------------------------------


def test_what_loading_found_out() -> None:
    backend, info = load(models_transformers_speech.whisper())
    assert choose(models_transformers_speech.whisper())[0] is TransformersSpeechBackend
    assert info.transcription is not None
    assert (info.transcription.languages, info.transcription.translates) == (("en",), False)
    assert info.metadata["architecture"] == "WhisperForConditionalGeneration"
    assert 37e6 < int(info.metadata["parameters"]) < 38e6
    assert backend.memory() > 37e6 * 4
    backend.close()


def test_clips_at_once_are_each_heard_as_the_pipeline_hears_them(whisper: TransformersSpeechBackend) -> None:
    """The text is that of faster-whisper, too, which `TEXTS` were heard with; segments and words are the pipeline's."""
    requests = [Transcription(audio=lambda n=name: models_speech.sound(n), words=True) for name in TEXTS]
    peer = pipeline(models_transformers_speech.whisper())
    for name, heard in zip(TEXTS, run(whisper, requests), strict=True):
        assert heard.text == TEXTS[name]
        assert heard.recording is not None
        assert heard.recording.duration == len(models_speech.samples(name)) / SAMPLE_RATE
        assert (heard.recording.language, heard.recording.language_probability) == ("en", 1.0)
        said = peer(models_speech.sound(name), return_timestamps="word", generate_kwargs={"num_beams": 1})
        close(words_of(heard), as_pipeline(said))
        assert all(0 < w.probability <= 1 for segment in heard.segments for w in segment.words or ())
        (only,) = heard.segments
        assert (only.start, only.temperature, only.seek) == (0.0, 0.0, 0)
        assert 0 < only.end <= heard.recording.duration
        assert -1 < only.avg_logprob < 0
        assert only.no_speech_prob < 0.1


def test_a_long_recording_is_heard_as_the_library_hears_it(whisper: TransformersSpeechBackend) -> None:
    sound = long_sound(40)
    wishes: dict[str, Any] = {"num_beams": 1, "condition_on_prev_tokens": True, "temperature": 0.0}
    want = pipeline(models_transformers_speech.whisper())(sound, return_timestamps=True, generate_kwargs=wishes)
    heard = hear(whisper, sound, temperature=0.0)
    assert heard.text == want["text"].strip()
    close([(s.text, s.start, s.end) for s in heard.segments], as_pipeline(want))
    assert heard.segments[-1].seek > 0


def test_features_of_a_long_recording_are_the_library_s(whisper: TransformersSpeechBackend) -> None:
    listener: Any = whisper._recordings._listener  # type: ignore[union-attr]
    sound = long_sound(70)
    want = listener._extractor(
        sound, sampling_rate=SAMPLE_RATE, truncation=False, padding="longest", return_tensors="np"
    ).input_features[0]
    got = listener._features(sound)
    assert got.shape == want.shape == (80, 7000)
    assert np.abs(got - want).max() < 1e-3
    assert listener._features(sound[:SAMPLE_RATE]).shape == (80, 3000)


def test_more_beams(whisper: TransformersSpeechBackend) -> None:
    sound = models_speech.sound("0930")
    want = pipeline(models_transformers_speech.whisper())(
        sound, return_timestamps=True, generate_kwargs={"num_beams": 3}
    )
    heard = hear(whisper, sound, beam_size=3)
    close([(s.text, s.start, s.end) for s in heard.segments], as_pipeline(want))


def test_a_prompt_gives_names_and_style(whisper: TransformersSpeechBackend) -> None:
    sound = models_speech.sound("0870")
    calls = written(whisper)
    assert "Dashwood" in hear(whisper, sound, prompt="Mr. Dashwood", hotwords="leisure").text
    tokens = whisper._recordings._listener._network.tokens  # type: ignore[union-attr,attr-defined]
    texts = whisper._recordings._listener._texts  # type: ignore[union-attr,attr-defined]
    (prompt,) = calls[0]["prompts"]
    assert prompt[0] == tokens.previous
    assert texts.decode(prompt[1:-1]) == " leisure Mr. Dashwood"
    assert prompt[-1] == tokens.start


def written(backend: TransformersSpeechBackend) -> list[dict[str, Any]]:
    """The calls of the decoder from now on."""
    network = backend._recordings._listener._network  # type: ignore[union-attr,attr-defined]
    calls: list[dict[str, Any]] = []
    write = type(network).write

    def noted(encoded: Any, prompts: Any, languages: Any, temperature: float, beams: int) -> Any:
        calls.append({"prompts": prompts, "temperature": temperature, "beams": beams, "languages": languages})
        return write(network, encoded, prompts, languages, temperature, beams)

    network.write = noted
    return calls


def test_recordings_that_go_together_share_calls(whisper: TransformersSpeechBackend) -> None:
    calls = written(whisper)
    sounds = [models_speech.sound(name) for name in ("0930", "goforward")]
    hearings = [Transcription(audio=lambda s=s: s, temperature=0.0) for s in sounds]
    listener = whisper._recordings._listener  # type: ignore[union-attr]
    begun = [listener.begin(request, request.audio()) for request in hearings]
    listener.advance(begun)
    assert [len(call["prompts"]) for call in calls] == [2]
    texts = ["".join(s.text for s in one.segments).strip() for one in begun]
    assert texts == [TEXTS["0930"], TEXTS["goforward"]]


def test_unlikely_text_is_tried_again_at_a_higher_temperature(whisper: TransformersSpeechBackend) -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, 2 * SAMPLE_RATE).astype(np.float32)
    calls = written(whisper)
    hear(whisper, noise)
    tried = [call["temperature"] for call in calls]
    assert tried == list(TEMPERATURES[: len(tried)])
    calls.clear()
    hear(whisper, noise, temperature=0.0)
    assert [call["temperature"] for call in calls] == [0.0]


@pytest.mark.parametrize("length", [1, 100, 1600, 30 * SAMPLE_RATE + 1])
def test_any_length_has_an_end(whisper: TransformersSpeechBackend, ctc: TransformersSpeechBackend, length: int) -> None:
    for backend in (whisper, ctc):
        heard = hear(backend, np.zeros(length, np.float32), temperature=0.0)
        assert heard.recording is not None
        assert heard.recording.duration == length / SAMPLE_RATE


def test_each_request_has_its_own_error(whisper: TransformersSpeechBackend) -> None:
    each_request_has_its_own_error(whisper)


def test_the_one_at_fault_fails_alone(whisper: TransformersSpeechBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    network = whisper._recordings._listener._network  # type: ignore[union-attr,attr-defined]
    encode = type(network).encode

    def short_of_memory(windows: Any) -> Any:
        if any(np.isnan(window).any() for window in windows):
            raise OutOfMemory("There is no memory left.")
        return encode(network, windows)

    monkeypatch.setattr(network, "encode", short_of_memory)
    bad, sound = np.full(SAMPLE_RATE, np.nan, np.float32), models_speech.sound("0930")
    failed, good = run(whisper, [Transcription(audio=lambda s=s: s, temperature=0.0) for s in (bad, sound)])
    assert isinstance(failed.error, OutOfMemory)
    assert good.text == TEXTS["0930"]


def test_what_is_cancelled_ends(whisper: TransformersSpeechBackend) -> None:
    whisper.add(7, Transcription(audio=lambda: long_sound(40)))
    assert whisper.wait(60)
    whisper.cancel(7)
    whisper.cancel(7)
    assert not whisper.busy
    assert whisper.step() == []


@pytest.mark.parametrize(
    ("wishes", "field", "says"),
    [
        ({"language": "de"}, "language", "knows English alone; got 'de'"),
        ({"task": "translate"}, "task", "nothing to translate"),
        ({"temperature": 2.0}, "temperature", "from 0 to 1; got 2"),
        ({"beam_size": 0}, "beam_size", "from 1 to 32; got 0"),
        ({"vad": True}, "vad", "does not cut out what is no speech"),
        ({"prompt": "word " * 300}, "prompt", "may have 223 tokens; these are 300"),
        ({"hotwords": "word " * 65}, "hotwords", "may have 64 tokens; these are 65"),
    ],
)
def test_wishes_that_are_refused(
    whisper: TransformersSpeechBackend, wishes: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        whisper.add(1, Transcription(audio=lambda: np.zeros(1, np.float32), **wishes))
    assert caught.value.field == field
    assert not whisper.busy


# --- Whisper: other folders -----------------------------------------------------------------------------------------


def test_several_languages(tmp_path: Path) -> None:
    """Tokens of languages are in the vocabulary of tiny.en too; it was not trained on them, but it computes them."""
    folder = copied(models_transformers_speech.whisper(), tmp_path / "several")
    numbers = {f"<|{code}|>": 50258 + i for i, code in enumerate(("en", "zh", "de"))}
    tasks = {"transcribe": 50358, "translate": 50357}
    edit(folder / "generation_config.json", is_multilingual=True, lang_to_id=numbers, task_to_id=tasks)
    backend, info = load(folder)
    assert info.transcription is not None
    assert info.transcription.translates
    assert len(info.transcription.languages) > 90
    sound = models_speech.sound("0930")
    wishes: list[dict[str, Any]] = [
        {"language": "en"},
        {"language": "de", "task": "translate"},
        {"language": "de"},
        {},
    ]
    calls = written(backend)
    requests = [Transcription(audio=lambda: sound, temperature=0.0, **wish) for wish in wishes]
    *given, found = run(backend, requests)
    for wish, heard in zip(wishes, given, strict=False):
        own = {"task": "transcribe", **wish, "num_beams": 1}
        assert heard.text == pipeline(folder)(sound, return_timestamps=True, generate_kwargs=own)["text"].strip()
        assert heard.recording is not None
        assert heard.recording.language == wish["language"]
    assert found.recording is not None
    assert found.recording.language in info.transcription.languages
    assert 0 < found.recording.language_probability < 1
    assert any(len(set(call["languages"])) > 1 for call in calls) or len(calls) == len(wishes)
    with pytest.raises(InvalidInput, match=r"got 'eng'\. Did you mean 'en'"):
        backend.add(9, Transcription(audio=lambda: sound, language="eng"))
    backend.close()
    backend, _ = load(folder, language="de")
    assert hear(backend, sound, temperature=0.0).text == given[2].text
    with pytest.raises(InvalidOption, match="Option language must be one that the model knows"):
        load(folder, language="tlh")


def test_without_heads_that_align_words_are_refused(tmp_path: Path) -> None:
    folder = copied(models_transformers_speech.whisper(), tmp_path / "m")
    (folder / "generation_config.json").unlink()
    backend, _ = load(folder)
    with pytest.raises(InvalidInput, match=r"generation_config\.json of this model has no alignment_heads") as caught:
        backend.add(1, Transcription(audio=lambda: np.zeros(1, np.float32), words=True))
    assert caught.value.field == "words"
    assert hear(backend, models_speech.sound("0930")).text == TEXTS["0930"]


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("generation_config.json", {"alignment_heads": [[9, 0]]}, "alignment_heads .* must be pairs"),
        ("generation_config.json", {"alignment_heads": [1]}, "alignment_heads .* must be pairs"),
        ("generation_config.json", {"suppress_tokens": [60_000]}, "suppress_tokens .* are no tokens of the model"),
        ("preprocessor_config.json", {"feature_size": 128}, "has feature_size 128; this model needs 80"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "has sampling_rate 8000"),
        ("config.json", {"max_source_positions": 750}, None),
        ("config.json", {"vocab_size": 100}, None),
        ("config.json", {"num_mel_bins": 128}, None),
    ],
)
def test_parts_that_do_not_belong_together(
    file: str, changes: dict[str, Any], says: str | None, tmp_path: Path
) -> None:
    folder = copied(models_transformers_speech.whisper(), tmp_path / "m")
    edit(folder / file, **changes)
    with pytest.raises(ModelFileError, match=says) as caught:
        load(folder)
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize("made", [models_transformers_speech.whisper, models_transformers_speech.ctc])
def test_without_a_file_that_is_needed(made: Callable[[], Path], tmp_path: Path) -> None:
    for i, (file, says) in enumerate(
        (
            ("preprocessor_config.json", "has no preprocessor_config.json, which says how the model hears sound"),
            ("tokenizer.json" if made is models_transformers_speech.whisper else "vocab.json", "has no tokenizer"),
        )
    ):
        folder = copied(made(), tmp_path / str(i))
        (folder / file).unlink()
        with pytest.raises(ModelFileError, match=says):
            load(folder)


def test_options_that_are_refused() -> None:
    for options in ({"batch_windows": 0}, {"batch_windows": 257}, {"beam_size": 0}, {"beam_size": 33}, {"threads": 0}):
        with pytest.raises(InvalidOption) as caught:
            load(models_transformers_speech.whisper(), **options)
        assert caught.value.field == f"config.{next(iter(options))}"


def test_a_model_that_does_not_fit_is_refused_before_it_is_read() -> None:
    with pytest.raises(OutOfMemory, match=r"needs .* and 200 MB are left"):
        load(models_transformers_speech.whisper(), Device("cpu", memory_bytes=200_000_000))


# --- windows --------------------------------------------------------------------------------------------------------


def test_a_window_is_cut_where_two_times_follow_each_other() -> None:
    a, b = 1, 2  # words; times are from 100 on

    def at(*tokens: int) -> tuple[list[Cut], int]:
        return cut(tokens, 100, 3000)

    assert at(100, a, 200) == ([Cut(0, 3, 0.0, 2.0)], 3000)
    assert at(100, a, 200, 200, b, 300) == ([Cut(0, 3, 0.0, 2.0), Cut(3, 6, 2.0, 4.0)], 3000)
    assert at(100, a, 200, 200, b) == ([Cut(0, 3, 0.0, 2.0)], 200)
    assert at(100, a, 200, 210) == ([Cut(0, 3, 0.0, 2.0)], 200)
    assert at(a, b) == ([Cut(0, 2, 0.0, 30.0)], 3000)
    assert at() == ([Cut(0, 0, 0.0, 30.0)], 3000)
    assert cut((100, a, 1700, 1700), 100, 500)[1] == 500
    assert at(100, 100)[1] == 3000  # it always goes on


def test_what_was_said_before_is_kept_unless_it_was_guessed() -> None:
    def hearing(**wishes: Any) -> WhisperHearing:
        request = Transcription(audio=lambda: np.zeros(0, np.float32), **wishes)
        return WhisperHearing(request, np.zeros((80, 6500), np.float32), 6500, [1, 2], [9], 1, 65.0)

    one = hearing()
    assert one.before() == [9, 1, 2]
    one.move(3000, [3])
    assert one.before() == [9, 1, 2, 3]
    assert one.window().shape == (80, 3000)
    one.move(3000, range(300))
    assert len(one.before()) == 222
    assert one.window_moments == 500
    assert one.window().shape == (80, 3000)
    one.move(500, ())
    assert one.ended
    alone = hearing(condition_on_previous_text=False)
    alone.move(3000, [3])
    assert alone.before() == [9]
    guessed = hearing()
    unlikely = Draft([], "a", -2.0, 0.0)
    assert all(guessed.retries(unlikely) for _ in TEMPERATURES[1:])
    assert guessed.temperature == 1.0
    assert not guessed.retries(unlikely)
    guessed.move(3000, [3])
    assert guessed.before() == [9]
    assert guessed.temperature == 0.0


def test_which_texts_are_tried_again() -> None:
    assert not Draft([], "A plain sentence.", -0.3, 0.0).unlikely
    assert Draft([], "so " * 100, -0.3, 0.0).unlikely
    assert Draft([], "A plain sentence.", -1.3, 0.0).unlikely
    assert Draft([], "A plain sentence.", -1.3, 0.9).silent
    assert not Draft([], "A plain sentence.", -1.3, 0.9).unlikely


# --- CTC ------------------------------------------------------------------------------------------------------------


def test_letters_are_heard_as_the_pipeline_hears_them(ctc: TransformersSpeechBackend) -> None:
    requests = [Transcription(audio=lambda n=name: models_speech.sound(n), words=True) for name in LEARNED]
    for name, heard in zip(LEARNED, run(ctc, requests), strict=True):
        assert heard.text == LEARNED[name]
        want = pipeline(models_transformers_speech.ctc())(models_speech.sound(name), return_timestamps="word")
        assert want["text"] == heard.text
        close(words_of(heard), [(f" {text}", *times) for text, *times in as_pipeline(want)])
        assert all(w.probability > 0.8 for s in heard.segments for w in s.words or ())
        assert all(-0.5 < s.avg_logprob <= 0 for s in heard.segments)


def test_a_long_recording_is_heard_in_chunks_as_the_pipeline_hears_it(ctc: TransformersSpeechBackend) -> None:
    sound = long_sound(75)
    want = pipeline(models_transformers_speech.ctc())(sound, chunk_length_s=30, return_timestamps="word")
    heard = hear(ctc, sound, words=True)
    assert heard.text.split() == want["text"].split()
    close(words_of(heard), [(f" {text}", *times) for text, *times in as_pipeline(want)])
    times = [time for segment in heard.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert all(segment.end - segment.start <= 9 for segment in heard.segments)
    assert len(heard.segments) > 8


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("HubertForCTC", {}),
        pytest.param(
            "WavLMForCTC",
            {},
            marks=pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning"),
        ),
        ("Wav2Vec2ForCTC", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    ],
)
def test_other_families(architecture: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Random letters, the same as the pipeline's; together with others of other lengths, too."""
    ctc_folder(tmp_path, architecture, **settings)
    backend, _ = load(tmp_path)
    sounds = [models_speech.sound(name) for name in ("0930", "goforward", "0930", "0920")]
    for sound, heard in zip(sounds, run(backend, [Transcription(audio=lambda s=s: s) for s in sounds]), strict=True):
        want = pipeline(tmp_path)(sound)["text"]
        assert want
        assert heard.text.split() == want.split()


def test_lengths_that_are_computed_together(ctc: TransformersSpeechBackend, tmp_path: Path) -> None:
    listener: Any = ctc._recordings._listener  # type: ignore[union-attr]
    assert listener._groups([5, 7, 5, 6]) == [[0, 2], [3], [1]]  # this one is not told what is padding
    ctc_folder(tmp_path, feat_extract_norm="layer")
    masked: Any = load(tmp_path, batch_windows=3)[0]._recordings._listener  # type: ignore[union-attr]
    assert masked._groups([5, 7, 5, 6]) == [[0, 2, 3], [1]]


@pytest.mark.parametrize(
    ("wishes", "field", "says"),
    [
        ({"language": "en"}, "language", "does not say which language it knows; got 'en'.*--set language=CODE"),
        ({"task": "translate"}, "task", "This model knows no translations"),
        ({"prompt": "Mr."}, "prompt", "prompt means nothing to it"),
        ({"hotwords": "Mr."}, "hotwords", "hotwords means nothing to it"),
        ({"temperature": 0.5}, "temperature", "temperature means nothing to it"),
        ({"vad": True}, "vad", "vad means nothing to it"),
        ({"beam_size": 5}, "beam_size", "beam_size means nothing to it"),
    ],
)
def test_wishes_that_a_model_of_letters_refuses(
    ctc: TransformersSpeechBackend, wishes: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        ctc.add(1, Transcription(audio=lambda: np.zeros(1, np.float32), **wishes))
    assert caught.value.field == field


def test_a_language_that_is_told() -> None:
    backend, info = load(models_transformers_speech.ctc(), language="en")
    assert info.transcription is not None
    assert info.transcription.languages == ("en",)
    heard = hear(backend, models_speech.sound("goforward"), language="en", temperature=0.0, beam_size=1)
    assert heard.text == LEARNED["goforward"]
    with pytest.raises(InvalidInput, match="knows English alone; got 'de'"):
        backend.add(1, Transcription(audio=lambda: np.zeros(1, np.float32), language="de"))


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("preprocessor_config.json", {"sampling_rate": 8000}, "has the sampling_rate 8000; 16000 is served"),
        ("config.json", {"conv_stride": [5, 2, 2, 2, 2, 2, 0]}, None),
        ("config.json", {"vocab_size": 7}, None),
    ],
)
def test_parts_of_a_model_of_letters_that_do_not_fit(
    file: str, changes: dict[str, Any], says: str | None, tmp_path: Path
) -> None:
    folder = copied(models_transformers_speech.ctc(), tmp_path / "m")
    edit(folder / file, **changes)
    with pytest.raises(ModelFileError, match=says) as caught:
        load(folder)
    assert caught.value.message.endswith(".")


def test_weights_that_are_truncated(tmp_path: Path) -> None:
    folder = copied(models_transformers_speech.ctc(), tmp_path / "m")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(weights[:-9])
    with pytest.raises(ModelFileError, match="is truncated"):
        load(folder)


def test_pickled_weights_need_trust(tmp_path: Path) -> None:
    folder = copied(models_transformers_speech.ctc(), tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BackendError, match="are pickles") as caught:
        load(folder)
    assert caught.value.code == "untrusted_model"


def test_chunks_overlap() -> None:
    rate = SAMPLE_RATE
    assert list(chunks(100, 320)) == [Chunk(0, 100, 0, 0)]
    assert list(chunks(30 * rate, 320)) == [Chunk(0, 30 * rate, 0, 0)]
    assert list(chunks(45 * rate, 320)) == [
        Chunk(0, 30 * rate, 0, 5 * rate),
        Chunk(20 * rate, 45 * rate, 5 * rate, 0),
    ]
    hear_once = [(c.begin + c.left, c.end - c.right) for c in chunks(200 * rate, 320)]
    assert [begin for begin, _ in hear_once[1:]] == [end for _, end in hear_once[:-1]]


def test_sentences_end_at_pauses_and_when_they_are_long() -> None:
    words = [Spoken("a", 0, 10), Spoken("b", 20, 30), Spoken("c", 70, 80)]
    assert sentences(words, 50.0) == [words[:2], words[2:]]
    many = [Spoken("w", i * 50, i * 50 + 40) for i in range(20)]
    assert [len(one) for one in sentences(many, 50.0)] == [8, 8, 4]
    assert sentences([], 50.0) == []
    assert ctc_listener.CHUNK_SECONDS == 30


def test_a_tokenizer_that_cannot_tell_when_words_were_said(tmp_path: Path) -> None:
    folder = copied(models_transformers_speech.ctc(), tmp_path / "m")
    (folder / "vocab.json").unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes((models_transformers_speech.whisper() / name).read_bytes())
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "WhisperTokenizer"
    with pytest.raises(ModelFileError, match="cannot tell when words were said"):
        load(folder)
