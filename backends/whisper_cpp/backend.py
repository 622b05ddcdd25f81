"""Serves a Whisper model in whisper.cpp's format."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

from backends import speech
from backends.base import (
    NO_MATCH,
    Device,
    Match,
    MissingRuntime,
    ModelFileError,
    ModelInfo,
    TranscriptionInfo,
)
from backends.recordings import ListeningBackend, Recordings
from backends.resources import cpu_threads
from backends.transcription import SAMPLE_RATE, Transcription
from backends.whisper_cpp import file
from backends.whisper_cpp.listener import Runtime, WhisperCppListener

_ERROR = 4
"""The level of whisper.cpp's messages of errors."""


class WhisperCppOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of Whisper models in whisper.cpp's format."""

    threads: int | None = None
    """CPU threads of one call; all of the worker's when not given, and never more."""
    recordings: int = 4
    """Recordings that are transcribed at once, a window of 30 seconds of each in turn; more wait."""
    beam_size: int = 5
    """Texts that are followed at once, where a request does not say; 1 is fastest."""


class WhisperCppBackend(ListeningBackend):
    """Owns one model of whisper.cpp, and the recordings that it transcribes."""

    name = "whisper-cpp"
    summary = "Whisper models in whisper.cpp's format: ggml-….bin"
    package = "pywhispercpp"
    extra = "whisper-cpp"
    Options: ClassVar[type[msgspec.Struct]] = WhisperCppOptions

    _runtime: Runtime | None = None
    _memory = 0

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By the head of the file."""
        try:
            return Match(0.95, task="transcription") if file.is_whisper(path) else NO_MATCH
        except OSError:
            return NO_MATCH

    def load(self, path: Path, device: Device, options: WhisperCppOptions) -> ModelInfo:
        """Checks the file, and opens it. See `Backend.load` for the errors."""
        speech.check_option("recordings", options.recordings, 256)
        speech.check_option("beam_size", options.beam_size, speech.MOST_BEAMS)
        self.threads = cpu_threads(device, options.threads)
        shape = file.check(path)
        self._runtime = _open(path, self.threads)
        self._memory = path.stat().st_size
        module, several = self._runtime.module, self._runtime.multilingual
        known = tuple(str(module.whisper_lang_str(i)) for i in range(module.whisper_lang_max_id() + 1))
        languages = known if several else ("en",)
        info = TranscriptionInfo(sequences=options.recordings, languages=languages, translates=several)
        self._recordings = Recordings(WhisperCppListener(self._runtime, info, options.beam_size))
        return ModelInfo(
            task="transcription",
            streams=True,
            transcription=info,
            runtime=f"whisper.cpp, pywhispercpp {_version()}",
            device=str(device),
            metadata={"quantization": shape.quantization},
        )

    def example(self) -> Transcription:
        """A second of silence."""
        return Transcription(audio=lambda: np.zeros(SAMPLE_RATE, np.float32), language="en", temperature=0.0)

    def memory(self) -> int:
        return self._memory

    def close(self) -> None:
        super().close()
        if self._runtime is not None:
            self._runtime.module.whisper_free(self._runtime.context)
            self._runtime = None


# --- loading --------------------------------------------------------------------------------------------------------


def _open(path: Path, threads: int) -> Runtime:
    """The model of a checked file. Raises `ModelFileError`, `MissingRuntime`."""
    try:
        import _pywhispercpp as module
    except ImportError:
        raise MissingRuntime("pywhispercpp", "whisper-cpp") from None
    errors: list[str] = []
    module.whisper_log_set(lambda level, text, *_: errors.append(text.strip()) if level == _ERROR else None)
    atexit.register(module.whisper_log_set, None)  # the interpreter that it would be called in is gone then
    settings = module.whisper_context_default_params()
    settings.use_gpu = False
    try:
        context = module.whisper_init_from_file_with_params(str(path), settings)
    except RuntimeError as e:
        errors.append(str(e))
    if errors:  # the context says nothing of that, and must not be touched
        raise ModelFileError(f"whisper.cpp cannot load {path}: {errors[0][:300].rstrip('.')}.")
    module.whisper_log_set(lambda *_: None)
    return Runtime(module, context, threads)


def _version() -> str:
    from importlib.metadata import version

    return version("pywhispercpp")
