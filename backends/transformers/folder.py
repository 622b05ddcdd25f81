"""What a Hugging Face folder says of itself, and which backend serves it. Reads JSON files, imports no runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from backends.base import NO_MATCH, Match, ModelFileError

CONFIG = "config.json"
_MOST_BYTES = 8 << 20
"""Of a JSON file: names of twenty thousand classes take two megabytes."""
_WITH_CODE = (CONFIG, "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
"""Files whose ``auto_map`` names classes in Python files of the folder."""

_HEADS = {
    "ForCausalLM": "generation",
    "LMHeadModel": "generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
    "ForQuestionAnswering": "question-answering",
    "ForQuestionAnsweringSimple": "question-answering",
    "ForImageClassification": "image-classification",
    "ForImageClassificationWithTeacher": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForCTC": "transcription",
    "ForSemanticSegmentation": "image-segmentation",
    "Mask2FormerForUniversalSegmentation": "image-segmentation",
    "MaskFormerForInstanceSegmentation": "image-segmentation",
    "DetrForSegmentation": "image-segmentation",
}
"""How the name of an architecture ends, and what it is for. A bare ``…Model`` that reads text embeds."""

_OF_TEXTS = ("OwlViT", "Owlv2", "GroundingDino", "OmDetTurbo")
"""How architectures begin that find what a text names: they need more than the image."""

_OF_SPEECH = (
    "Canary", "CohereAsr", "FunAsrNano", "GraniteSpeech", "KyutaiSpeechToText", "Moonshine", "OmniASRForConditional",
    "Qwen3ASR", "SeamlessM4TForSpeechTo", "Speech2Text", "SpeechEncoderDecoder", "VibeVoiceAsr", "Voxtral",
)  # fmt: skip
"""How architectures begin that write down speech in ways of their own."""

_NOT_SERVED = {
    "ForSpeechSeq2Seq": "writes down speech, though neither as Whisper does nor by CTC",
    "ForSpeechToText": "writes down speech, though neither as Whisper does nor by CTC",
    "ForConditionalGeneration": "makes a text of another input, such as a text to translate, a picture or speech",
    "ForAudioClassification": "classifies sound",
    "ForUniversalSegmentation": "cuts pictures into regions in a way of its own",
    "ForInstanceSegmentation": "cuts pictures into regions in a way of its own",
    "ForDepthEstimation": "estimates depth in pictures",
    "ForMultipleChoice": "chooses among answers",
    "ForNextSentencePrediction": "says whether a sentence follows another",
    "ForPreTraining": "was saved in the middle of its training",
    "ForTextToSpeech": "speaks",
    "ForVideoClassification": "classifies videos",
}
SERVED = (
    "models that generate text (…ForCausalLM), embed (…Model, or sentence-transformers' folders), classify texts, "
    "words or images (…ForSequenceClassification, …ForTokenClassification, …ForImageClassification), rank (one label), "
    "fill gaps (…ForMaskedLM), find answers (…ForQuestionAnswering), objects in images (…ForObjectDetection) and "
    "regions (…ForSemanticSegmentation, Mask2Former, MaskFormer, DETR), or write down speech "
    "(WhisperForConditionalGeneration, …ForCTC)"
)


@dataclass(frozen=True)
class Folder:
    """A folder with a ``config.json``."""

    path: Path
    config: dict[str, Any]
    modules: tuple[dict[str, Any], ...] | None
    """Those of sentence-transformers, where the folder has a list of them."""

    @property
    def name(self) -> str:
        """For messages."""
        return self.path.resolve().name

    @property
    def architecture(self) -> str:
        """Such as ``BertModel``; empty where the file does not say."""
        names = self.config.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    @property
    def model_type(self) -> str:
        """Such as ``bert``."""
        return str(self.config.get("model_type") or "")

    @property
    def task(self) -> str | None:
        """What the model is for, of those that are served; `None` for others."""
        if self.model_type == "whisper":
            return "transcription" if self.architecture == "WhisperForConditionalGeneration" else None
        if self.modules is not None:
            return "embedding"
        if self.architecture.startswith(_OF_TEXTS):
            return None
        for ending, task in _HEADS.items():
            if self.architecture.endswith(ending):
                return "rerank" if task == "text-classification" and self._ranks else task
        reads_text = "vocab_size" in self.config and not {"is_encoder_decoder", "feat_extract_norm"} & self._set
        embeds = reads_text and self.architecture.endswith(("Model", "EncoderModel"))
        return "embedding" if embeds or self.architecture.endswith("T5EncoderModel") else None

    @property
    def _ranks(self) -> bool:
        """Whether a model with one label scores texts for a query, unless it was trained to tell a number of a text."""
        ranks = "sentence_transformers" in self.config or "sbert_ce_default_activation_function" in self.config
        return len(self.labels) == 1 and (ranks or self.config.get("problem_type") != "regression")

    @property
    def _set(self) -> set[str]:
        """The keys of the file that have a value."""
        return {key for key, value in self.config.items() if value}

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the classes, in their order; made up as the library does where the file has none."""
        given = self.config.get("id2label")
        if not isinstance(given, dict) or not given:
            count = self.config.get("num_labels", 2)
            return tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) and 0 < count < 1 << 20 else 2))
        try:
            by_index = {int(key): str(name) for key, name in given.items()}
        except ValueError:
            raise ModelFileError(f"{self.name} is corrupt: the keys of id2label in {CONFIG} are no numbers.") from None
        if sorted(by_index) != list(range(len(by_index))):
            raise ModelFileError(f"{self.name} is corrupt: id2label in {CONFIG} leaves out a class.")
        return tuple(by_index[i] for i in range(len(by_index)))

    def read(self, name: str) -> dict[str, Any]:
        """Another JSON object of the folder; empty where there is no such file. Raises `ModelFileError`."""
        file = self.path / name
        return _object(file) if file.is_file() else {}

    def inside(self, name: str) -> Path:
        """The path of a file or folder that a file names, below this one. Raises `ModelFileError` for any other."""
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\0" in name:
            raise ModelFileError(f"{self.name} refers to {name!r}, which is not in it.")
        return self.path / parts


def read(path: Path) -> Folder:
    """A Hugging Face folder. Raises `ModelFileError` where there is none, or its files make no sense."""
    if not path.exists():
        raise ModelFileError(f"There is no folder {path}.")
    if not path.is_dir():
        raise ModelFileError(f"{path} is a file; give the folder with {CONFIG}, the weights and the tokenizer.")
    if not (path / CONFIG).is_file():
        raise ModelFileError(f"{path} has no {CONFIG}, so it is no Hugging Face folder.")
    modules = path / "modules.json"
    return Folder(path, _object(path / CONFIG), _modules(modules) if modules.is_file() else None)


def check_task(folder: Folder, *tasks: str) -> str:
    """What the model is for, one of `tasks`. Raises `ModelFileError` that says what it is instead."""
    task = folder.task
    if task in tasks:
        return str(task)
    if task is not None:
        raise ModelFileError(
            f"{folder.name} has the architecture {folder.architecture or folder.model_type}, which is for {task}; "
            f"register it with --backend {BACKENDS[task]}."
        )
    raise ModelFileError(
        f"{folder.name} has the architecture {folder.architecture or folder.model_type or 'unknown'}, "
        f"{_purpose(folder)}. Served are {SERVED}."
    )


BACKENDS = {
    "generation": "transformers",
    "embedding": "transformers-embedding",
    "rerank": "transformers-classify",
    "transcription": "transformers-speech",
    **{task: "transformers-classify" for task in _HEADS.values() if task not in ("generation", "transcription")},
}
"""The backend for each task."""


def sniff(path: Path, backend: str) -> Match:
    """A match for a Hugging Face folder that is this backend's."""
    try:
        if not path.is_dir() or not (path / CONFIG).is_file() or not _has_weights(path):
            return NO_MATCH
        folder = read(path)
        task = folder.task
    except (OSError, ValueError):
        return NO_MATCH
    except ModelFileError:  # the backend for generating models says what is wrong
        return Match(0.6 if backend == "transformers" else 0.1)
    if task is None:  # so does it of what is not served, unless another backend knows the folder
        known = bool(folder.architecture) and backend == "transformers"
        return Match(0.5, _runs_code(folder)) if known else NO_MATCH
    if BACKENDS[task] != backend:
        return NO_MATCH
    return Match(0.95, _runs_code(folder), None if task == "generation" else task)


def pickled(path: Path) -> bool:
    """Whether a folder has its weights as pickles alone."""
    return not any(path.glob("*.safetensors")) and any(path.glob("pytorch_model*.bin"))


def has_code(folder: Folder) -> bool:
    """Whether the folder brings Python code of its own."""
    return any(folder.read(name).get("auto_map") for name in _WITH_CODE)


def _has_weights(path: Path) -> bool:
    return any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin"))


def _runs_code(folder: Folder) -> str | None:
    try:
        if has_code(folder):
            return f"{folder.name} brings Python code of its own (auto_map), which runs when it is loaded."
    except ModelFileError:  # loading says what is wrong, before it runs anything
        return None
    if pickled(folder.path):
        return (
            f"The weights in {folder.name} are pickles (pytorch_model.bin): loading them runs whatever code their "
            "author put in. The same model in safetensors needs no trust."
        )
    return None


def _purpose(folder: Folder) -> str:
    if folder.architecture.startswith(_OF_SPEECH):
        return "which writes down speech, though neither as Whisper does nor by CTC; that is not served"
    if folder.architecture.startswith(_OF_TEXTS):
        return "which finds in a picture what a text names; that is not served"
    purpose = next((why for end, why in _NOT_SERVED.items() if folder.architecture.endswith(end)), None)
    return f"which {purpose}; that is not served" if purpose else "which is not one that is served"


def _object(file: Path) -> dict[str, Any]:
    value = _json(file)
    if not isinstance(value, dict):
        raise ModelFileError(f"{file} is corrupt: it holds no JSON object.")
    return value


def _modules(file: Path) -> tuple[dict[str, Any], ...]:
    value = _json(file)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ModelFileError(f"{file} is corrupt: it holds no list of modules.")
    return tuple(value)


def _json(file: Path) -> Any:
    try:
        size = file.stat().st_size
        if size > _MOST_BYTES:
            raise ModelFileError(f"{file} has {size:,} bytes; more than {_MOST_BYTES:,} are not read.")
        return json.loads(file.read_bytes())
    except OSError as e:
        raise ModelFileError(f"{file} cannot be read: {e.strerror}.") from None
    except (ValueError, RecursionError):
        raise ModelFileError(f"{file} is truncated or corrupt: it is not JSON.") from None
