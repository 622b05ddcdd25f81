"""Serves a Whisper model in CTranslate2's format."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from backends import builds, mel, speech
from backends.base import (
    NO_MATCH,
    BackendError,
    Build,
    Device,
    InvalidOption,
    Match,
    MissingRuntime,
    ModelFileError,
    ModelInfo,
    OutOfMemory,
    TranscriptionInfo,
)
from backends.transcription import SAMPLE_RATE, Piece, Transcription, TranscriptionBackend
from backends.whisper import features, file, tokenizer
from backends.whisper.rounds import Rounds
from backends.whisper.transcriber import transcribe


class WhisperOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of Whisper models."""

    compute_type: str | None = None
    """What it computes with, one of CTranslate2's types, such as `int8`, `int8_float16`, `float16` or `float32`; when
    not given, `int8` on the CPU, and on a GPU what the file has."""
    threads: int | None = None
    """CPU threads of one call; all of the worker's when not given, and never more."""
    batch_windows: int = 8
    """Recordings that are transcribed at once, each with a window of 30 seconds in a step; more wait."""
    beam_size: int = 5
    """Texts that are followed at once, where a request does not say; 1 is fastest."""
    vad: bool = False
    """Whether what is no speech is cut out of recordings first, where a request does not say."""


class WhisperBackend(TranscriptionBackend):
    """Owns one model of faster-whisper, and the recordings that it transcribes."""

    name = "whisper"
    summary = "Whisper models in CTranslate2's format: a folder with config.json, model.bin and a vocabulary"
    package = "faster_whisper"
    extra = "audio"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    Options: ClassVar[type[msgspec.Struct]] = WhisperOptions

    _whisper: Any = None
    _rounds: Rounds
    _options: WhisperOptions
    _info: TranscriptionInfo
    _memory = 0

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By the head of the weights; such a folder may also have a model that translates, or generates text."""
        try:
            confidence = file.is_whisper(path)
        except (OSError, ValueError):
            return NO_MATCH
        return Match(confidence, task="transcription") if confidence else NO_MATCH

    @classmethod
    def build(cls) -> Build:
        """By what CTranslate2's library opens: cuBLAS, if it was built for CUDA, when it first needs it."""
        folder = builds.folder("ctranslate2")
        libraries = [*folder.glob("*.so*"), *(folder.parent / "ctranslate2.libs").glob("libctranslate2*")]
        if any(builds.mentions(path, b"libcublas") for path in libraries):
            return Build(("cpu",), ("cuda",))
        return Build(("cpu",))

    def load(self, path: Path, device: Device, options: WhisperOptions) -> ModelInfo:
        """Checks the folder, and opens it without any network. See `Backend.load` for the errors."""
        _check_options(options)
        shape = file.check(path)
        mel.check(file.preprocessor(path), shape.mels, str(path / file.PREPROCESSOR))
        faster_whisper = _runtime()
        self._options = options
        self.threads = min(options.threads or device.threads, device.threads) if device.kind == "cpu" else 0
        texts = tokenizer.load(path, shape.tokens)
        self._whisper = _open(path, texts, device, _compute_type(options, device), self.threads)
        self._whisper.feature_extractor = features.extractor(shape.mels)
        self._rounds = Rounds(self._whisper.model)
        self._memory = (path / file.WEIGHTS).stat().st_size
        several = self._whisper.model.is_multilingual
        languages = tokenizer.languages(texts, list(self._whisper.supported_languages)) if several else ("en",)
        self._info = TranscriptionInfo(sequences=options.batch_windows, languages=languages, translates=several)
        return ModelInfo(
            task="transcription",
            streams=True,
            transcription=self._info,
            runtime=f"faster-whisper {faster_whisper.__version__}",
            device=str(device),
            metadata={"compute_type": str(self._whisper.model.compute_type)},
        )

    def example(self) -> Transcription:
        """A second of silence."""
        return Transcription(audio=lambda: np.zeros(SAMPLE_RATE, np.float32), language="en", temperature=0.0)

    def memory(self) -> int:
        return self._memory

    def close(self) -> None:
        if self._whisper is not None:
            self._rounds.stop()
            self._whisper.model.unload_model()
            self._whisper = None

    # --- requests ----------------------------------------------------------------------------------------------------

    def add(self, request_id: int, request: Transcription) -> None:
        speech.check(request, self._info, self._tokens)
        options = self._options
        self._rounds.start(
            request_id, lambda seat: transcribe(self._whisper, seat, request, options.beam_size, options.vad)
        )

    def wait(self, seconds: float) -> bool:
        return self._rounds.wait(seconds)

    def step(self) -> list[Piece]:
        return self._rounds.step()

    def cancel(self, request_id: int) -> None:
        self._rounds.cancel(request_id)

    @property
    def busy(self) -> bool:
        return self._rounds.busy

    def _tokens(self, text: str) -> int:
        return len(self._whisper.hf_tokenizer.encode(text, add_special_tokens=False).ids)


# --- loading --------------------------------------------------------------------------------------------------------


def _check_options(options: WhisperOptions) -> None:
    speech.check_option("threads", options.threads, 4096)
    speech.check_option("batch_windows", options.batch_windows, 256)
    speech.check_option("beam_size", options.beam_size, speech.MOST_BEAMS)


def _runtime() -> Any:
    try:
        import faster_whisper
    except ImportError:
        raise MissingRuntime("faster-whisper", "audio") from None
    return faster_whisper


def _compute_type(options: WhisperOptions, device: Device) -> str:
    """What to compute with. Raises `InvalidOption` for what the device cannot."""
    import ctranslate2

    wanted = options.compute_type or ("int8" if device.kind == "cpu" else "default")
    try:
        can = sorted(ctranslate2.get_supported_compute_types(device.kind, device.index))
    except (RuntimeError, ValueError) as e:
        raise InvalidOption(f"CTranslate2 cannot use the device {device}: {e}.", field="config.device") from None
    if wanted not in (*can, "default", "auto"):
        raise InvalidOption(
            f"{device} cannot compute with {wanted[:40]!r}, but with {', '.join(can)}.", field="config.compute_type"
        )
    return wanted


def _open(path: Path, texts: Any, device: Device, compute_type: str, threads: int) -> Any:
    """The model of a checked folder, with the tokenizer `texts`. Raises `ModelFileError`, `OutOfMemory`."""
    from faster_whisper import WhisperModel

    with ExitStack() as temporary:
        folder = path
        if not (path / file.TOKENIZER).is_file():  # else the library would download one
            folder = Path(temporary.enter_context(tempfile.TemporaryDirectory(prefix="unimodel-whisper-")))
            for other in _files(path):
                (folder / other.name).symlink_to(other.resolve())
            texts.save(str(folder / file.TOKENIZER))
        try:
            return WhisperModel(
                str(folder),
                device=device.kind,
                device_index=device.index,
                compute_type=compute_type,
                cpu_threads=threads,
                local_files_only=True,
            )
        except BackendError:
            raise
        except MemoryError:
            raise OutOfMemory("There is not enough memory for the model.") from None
        except Exception as e:  # the runtime's own are RuntimeError and ValueError
            if "out of memory" in str(e):
                raise OutOfMemory(f"{device} has not enough memory for the model.") from None
            raise ModelFileError(f"CTranslate2 cannot load {path}: {str(e)[:300]}.") from None


def _files(path: Path) -> Iterator[Path]:
    names = (file.CONFIG, file.WEIGHTS, file.PREPROCESSOR, *file.VOCABULARIES)
    return (path / name for name in names if (path / name).is_file())
