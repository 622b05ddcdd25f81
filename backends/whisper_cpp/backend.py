"""Serves a Whisper model in whisper.cpp's format."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

from backends import speech
from backends.base import (
    NO_MATCH,
    BackendError,
    Device,
    InvalidInput,
    Match,
    MissingRuntime,
    ModelFileError,
    ModelInfo,
    TranscriptionInfo,
)
from backends.resources import cpu_threads
from backends.transcription import SAMPLE_RATE, Piece, Transcription, TranscriptionBackend
from backends.whisper_cpp import file
from backends.whisper_cpp.listener import Listener, Runtime

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


class WhisperCppBackend(TranscriptionBackend):
    """Owns one model of whisper.cpp, and the recordings that it transcribes."""

    name = "whisper-cpp"
    summary = "Whisper models in whisper.cpp's format: ggml-….bin"
    package = "pywhispercpp"
    extra = "whisper-cpp"
    Options: ClassVar[type[msgspec.Struct]] = WhisperCppOptions

    _runtime: Runtime | None = None
    _options: WhisperCppOptions
    _info: TranscriptionInfo
    _memory = 0

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: dict[int, Listener | None] = {}
        """By request, the one whose turn is next first; `None` for a recording that is being decoded."""
        self._failed: list[Piece] = []
        """Of recordings that could not be decoded."""

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
        self._options = options
        self._runtime = _open(path, self.threads)
        self._memory = path.stat().st_size
        module, several = self._runtime.module, self._runtime.multilingual
        known = tuple(str(module.whisper_lang_str(i)) for i in range(module.whisper_lang_max_id() + 1))
        languages = known if several else ("en",)
        self._info = TranscriptionInfo(sequences=options.recordings, languages=languages, translates=several)
        return ModelInfo(
            task="transcription",
            streams=True,
            transcription=self._info,
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
        with self._changed:
            self._under_way.clear()
        if self._runtime is not None:
            self._runtime.module.whisper_free(self._runtime.context)
            self._runtime = None

    # --- requests ----------------------------------------------------------------------------------------------------

    def add(self, request_id: int, request: Transcription) -> None:
        assert self._runtime is not None
        tokens = self._runtime.vocabulary.tokens
        speech.check(request, self._info, lambda text: len(tokens(text)))
        if request.vad:
            raise InvalidInput(
                "whisper.cpp cannot cut out what is no speech here; leave vad out, or serve CTranslate2's format.",
                field="vad",
            )
        self._under_way[request_id] = None
        threading.Thread(
            target=self._decode, args=(request_id, request), name=f"recording {request_id}", daemon=True
        ).start()

    def _decode(self, request_id: int, request: Transcription) -> None:
        listener, error = None, None
        try:
            samples = request.audio()
            if not len(samples):
                raise InvalidInput("The recording is empty.", field="input")
            if self._runtime is not None:
                listener = Listener(self._runtime, samples, request, self._options.beam_size)
        except Exception as e:
            error = e
        with self._changed:
            if request_id not in self._under_way:
                return  # it was cancelled
            if error is not None:
                del self._under_way[request_id]
                self._failed.append(Piece(id=request_id, error=error))
            else:
                self._under_way[request_id] = listener
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._failed or any(self._under_way.values()), seconds))

    def step(self) -> list[Piece]:
        with self._changed:
            pieces, self._failed = self._failed, []
            request_id = next((number for number, listener in self._under_way.items() if listener is not None), None)
            if request_id is None:
                return pieces
            listener = self._under_way.pop(request_id)
            assert listener is not None
            self._under_way[request_id] = listener  # after those of all others
        try:
            piece = self._window(request_id, listener)
        except Exception as e:
            piece = Piece(id=request_id, error=e if isinstance(e, BackendError) else BackendError(str(e)))
        if piece.ended or piece.error is not None:
            self._under_way.pop(request_id, None)
        return [*pieces, piece]

    def _window(self, request_id: int, listener: Listener) -> Piece:
        recording = listener.recording() if listener.begins else None
        segments = listener.window() if not listener.ended else ()
        return Piece(id=request_id, recording=recording, segments=segments, ended=listener.ended)

    def cancel(self, request_id: int) -> None:
        with self._changed:
            self._under_way.pop(request_id, None)
            self._failed = [piece for piece in self._failed if piece.id != request_id]

    @property
    def busy(self) -> bool:
        with self._changed:
            return bool(self._under_way or self._failed)


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
