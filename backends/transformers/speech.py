"""Hugging Face folders that write down speech: Whisper's, and those with a letter for each moment (CTC)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

from backends import speech
from backends.base import BackendError, Device, ModelFileError, ModelInfo
from backends.recordings import Listener, ListeningBackend, Recordings
from backends.transcription import SAMPLE_RATE, Transcription
from backends.transformers import ctc_listener, weights, whisper_listener
from backends.transformers import folder as folders
from backends.transformers.ctc_listener import CtcListener
from backends.transformers.folder import Folder
from backends.transformers.folder_backend import FolderBackend
from backends.transformers.library import Network, dtype_of
from backends.transformers.options import TransformersOptions
from backends.transformers.weights import Weights
from backends.transformers.whisper_listener import WhisperListener

_MOST_WINDOWS = 256


class SpeechOptions(TransformersOptions, frozen=True, forbid_unknown_fields=True):
    """The options of a Hugging Face folder that writes down speech."""

    batch_windows: int = 8
    """Recordings that are transcribed at once, each with a window of 30 seconds in a step; more wait."""
    beam_size: int = 1
    """Texts that a Whisper model follows at once, where a request does not say; 1 is fastest."""
    language: str | None = None
    """What is spoken, as a code such as `en`, where a request does not say. A Whisper model finds it out; one with a
    letter for each moment (CTC) does not know what language it was trained on."""

    def check(self) -> None:
        """Raises `InvalidOption` for a value that is out of range."""
        super().check()
        speech.check_option("batch_windows", self.batch_windows, _MOST_WINDOWS)
        speech.check_option("beam_size", self.beam_size, speech.MOST_BEAMS)


class TransformersSpeechBackend(FolderBackend, ListeningBackend):
    """Owns a model that listens, and the recordings that it writes down."""

    name = "transformers-speech"
    summary = "models in Hugging Face folders that write down speech: Whisper, and wav2vec2, HuBERT and the like (CTC)"
    Options: ClassVar[type[msgspec.Struct]] = SpeechOptions

    def load(self, path: Path, device: Device, options: SpeechOptions) -> ModelInfo:
        """Loads the model. See `Backend.load` for the errors."""
        options.check()
        folder = folders.read(path)
        folders.check_task(folder, "transcription")
        found = weights.find(folder)
        is_whisper = folder.model_type == "whisper"
        loader = whisper_listener.LOADER if is_whisper else ctc_listener.LOADER
        more = _working_bytes(folder, found, device, options)
        network = Network(folder, found, loader, device, options, trusted=self.trusted, more_bytes=more)
        self._network = network
        listener: Listener
        if is_whisper:
            listener = WhisperListener(
                folder,
                network,
                options.batch_windows,
                options.beam_size,
                trusted=self.trusted,
                language=options.language,
            )
        else:
            listener = CtcListener(
                folder, network, options.batch_windows, trusted=self.trusted, language=options.language
            )
        self.threads = network.threads if device.kind == "cpu" else 0
        _try(listener, self.example(), folder)
        self._recordings = Recordings(listener)
        return ModelInfo(
            task="transcription",
            streams=True,
            transcription=listener.info,
            runtime=network.library.version,
            device=str(device),
            metadata={
                "architecture": folder.architecture or folder.model_type,
                "parameters": str(found.parameters),
                "dtype": network.dtype,
            },
            findings=listener.findings,
            notes=listener.notes,
        )

    def example(self) -> Transcription:
        """A second of silence."""
        return Transcription(audio=lambda: np.zeros(SAMPLE_RATE, np.float32), temperature=0.0)

    def memory(self) -> int:
        """Bytes of the weights."""
        return self._network.nbytes if self._network is not None else 0

    def close(self) -> None:
        """Lets go of the recordings and the weights."""
        super().close()
        if self._network is not None:
            self._network.close()
            self._network = None


def _try(listener: Listener, request: Transcription, folder: Folder) -> None:
    """Raises `ModelFileError` where the parts of the folder do not fit each other."""
    try:
        listener.advance([listener.begin(request, request.audio())])
    except (BackendError, RuntimeError, AttributeError, IndexError, KeyError, TypeError, ValueError) as e:
        raise ModelFileError(f"{folder.name} does not hear a second of silence: {e}") from e


def _working_bytes(folder: Folder, found: Weights, device: Device, options: SpeechOptions) -> int:
    """About what it takes to compute all windows at once, beside the weights; 0 where ``config.json`` does not tell."""
    size = 4 if dtype_of(options, found, device) == "float32" else 2

    def told(name: str) -> int:
        value = folder.config.get(name)
        value = value[0] if isinstance(value, list) and value else value
        return value if type(value) is int and value > 0 else 0

    if folder.model_type == "whisper":  # keys and values of the window, and of the text, in each layer
        positions = told("max_source_positions") + told("max_target_positions")
        return (
            options.batch_windows * options.beam_size * told("decoder_layers") * 2 * positions * told("d_model") * size
        )
    moments = ctc_listener.CHUNK_SECONDS * SAMPLE_RATE // max(1, told("conv_stride"))
    return options.batch_windows * 2 * moments * told("conv_dim") * size  # the first layer has the most of them
