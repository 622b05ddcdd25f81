"""Tests of recognising Hugging Face folders, and of those that are damaged, hostile, or for something else."""

from __future__ import annotations

import json
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import Backend, BackendError, Device, ModelFileError
from backends.discovery import available, choose
from backends.transformers import folder as folders
from backends.transformers import weights
from backends.transformers.embedding import TransformersEmbeddingBackend, TransformersEmbeddingOptions
from backends.transformers.folder import Folder
from tests import models_transformers
from tests.models_transformers import TOKENIZER, as_sentence_transformer, bert, copied, edit

pytest.importorskip("transformers")

CPU = Device("cpu", threads=1)
MINE = [name for name in available() if name.startswith("transformers")]


def load(folder: Path, *, trusted: bool = False) -> TransformersEmbeddingBackend:
    backend = TransformersEmbeddingBackend()
    backend.trusted = trusted
    backend.load(folder, CPU, TransformersEmbeddingOptions())
    return backend


def minimal(folder: Path, config: Any, *, weights: str = "model.safetensors", **files: str) -> Path:
    """A folder that looks like a model, with nothing in it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / weights).touch()
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return folder


# --- what it is for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "generation"),
        ({"architectures": ["GPT2LMHeadModel"]}, "generation"),
        ({"architectures": ["BertModel"], "vocab_size": 9}, "embedding"),
        ({"architectures": ["T5EncoderModel"], "is_encoder_decoder": True}, "embedding"),
        ({"architectures": ["BertForSequenceClassification"]}, "text-classification"),
        ({"architectures": ["BertForTokenClassification"]}, "token-classification"),
        ({"architectures": ["BertForMaskedLM"]}, "fill-mask"),
        ({"architectures": ["BertForQuestionAnswering"]}, "question-answering"),
        ({"architectures": ["ViTForImageClassification"]}, "image-classification"),
        ({"architectures": ["ViTModel"], "image_size": 9}, None),
        ({"architectures": ["Wav2Vec2Model"], "vocab_size": 9, "feat_extract_norm": "group"}, None),
        ({"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}, "transcription"),
        ({"architectures": ["WhisperForAudioClassification"], "model_type": "whisper"}, None),
        ({"architectures": ["HubertForCTC"], "vocab_size": 9, "feat_extract_norm": "group"}, "transcription"),
        ({"architectures": []}, None),
        ({}, None),
    ],
)
def test_what_a_folder_is_for(config: dict[str, Any], task: str | None, tmp_path: Path) -> None:
    folder = minimal(tmp_path / "m", config)
    assert folders.read(folder).task == task
    found = {name for name in MINE if available()[name].sniff(folder).confidence > 0.5}
    expected = folders.BACKENDS[task] if task is not None else None
    assert found == ({expected} & set(MINE) if expected else set())
    (folder / "modules.json").write_text("[]")
    assert folders.read(folder).task == (task if config.get("model_type") == "whisper" else "embedding")


def test_labels(tmp_path: Path) -> None:
    assert Folder(tmp_path, {"id2label": {"1": "b", "0": "a"}}, None).labels == ("a", "b")
    assert Folder(tmp_path, {"num_labels": 3}, None).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    for wrong in ({"a": "x"}, {"0": "a", "2": "b"}):
        with pytest.raises(ModelFileError, match="is corrupt"):
            Folder(tmp_path, {"id2label": wrong}, None).labels  # noqa: B018


def test_what_is_not_served_says_what_it_is(tmp_path: Path) -> None:
    for architecture, sentence in (
        (
            "OwlViTForObjectDetection",
            "finds in a picture what a text names; that is not served. Served are models that",
        ),
        ("OddThing", "has the architecture OddThing, which is not one that is served"),
        ("BertForMaskedLM", "which is for fill-mask; register it with --backend transformers-classify."),
    ):
        with pytest.raises(ModelFileError, match=sentence):
            load(minimal(tmp_path / architecture, {"architectures": [architecture]}))
    whisper = {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}
    with pytest.raises(ModelFileError, match="is for transcription; register it with --backend transformers-speech"):
        load(minimal(tmp_path / "whisper", whisper))
    for other in ("MoonshineForConditionalGeneration", "SeamlessM4TForSpeechToText", "SpeechEncoderDecoderModel"):
        with pytest.raises(ModelFileError, match="writes down speech, though neither as Whisper does nor by CTC"):
            load(minimal(tmp_path / other, {"architectures": [other]}))


# --- trust ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config", "tokenizer_config"])
def test_code_in_the_folder_needs_trust(file: str, tmp_path: Path) -> None:
    folder = bert(tmp_path / "m")
    marker = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    classes = {"AutoModel": "code.Model", "AutoConfig": "code.Config", "AutoTokenizer": ["code.Tokenizer", None]}
    edit(folder / f"{file}.json", auto_map=classes)
    match = TransformersEmbeddingBackend.sniff(folder)
    assert match.runs_code == "m brings Python code of its own (auto_map), which runs when it is loaded."
    with pytest.raises(BackendError, match="register it with --trust") as caught:
        load(folder)
    assert caught.value.code == "untrusted_model"
    assert not marker.exists()


def test_pickled_weights_need_trust(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = as_sentence_transformer(bert(tmp_path / "m"), ("Pooling", {"pooling_mode_mean_tokens": True}))
    expected = load(folder).predict({"text": np.array(["a cat"], dtype=object)})["embedding"]
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert TransformersEmbeddingBackend.sniff(folder).runs_code is None  # the safe ones are read
    (folder / "model.safetensors").unlink()
    assert "are pickles" in str(TransformersEmbeddingBackend.sniff(folder).runs_code)
    with pytest.raises(BackendError, match="are pickles") as caught:
        load(folder)
    assert caught.value.code == "untrusted_model"
    backend = load(folder, trusted=True)
    assert backend.predict({"text": np.array(["a cat"], dtype=object)})["embedding"] == pytest.approx(expected)


def test_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = bert(tmp_path / "m")
    edit(folder / "config.json", _name_or_path="bert-base-uncased", attn_implementation="kernels-community/flash-attn2")
    load(folder)
    for name in TOKENIZER:
        (folder / name).unlink()
    with pytest.raises(ModelFileError, match="m has no tokenizer"):
        load(folder)


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder with every kind of file."""
    folder = bert(tmp_path_factory.mktemp("whole") / "m")
    return as_sentence_transformer(folder, ("Pooling", {"pooling_mode_mean_tokens": True}), ("Normalize", {}))


def sniff_all(folder: Path) -> None:
    for name in MINE:
        assert 0 <= available()[name].sniff(folder).confidence <= 1


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"]
)
def test_a_truncated_file(name: str, whole: Path, tmp_path: Path) -> None:
    for i, part in enumerate((0, 1, 20, 0.4, 0.9)):
        folder = tmp_path / f"cut{i}"
        shutil.copytree(whole, folder)
        data = (whole / name).read_bytes()
        (folder / name).write_bytes(data[: int(part * len(data)) if isinstance(part, float) else part])
        sniff_all(folder)
        with pytest.raises(ModelFileError) as caught:
            load(folder)
        assert caught.value.message.endswith((".", "…"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_flipped_bits_never_do_more_than_fail(name: str, whole: Path, tmp_path: Path) -> None:
    """A flipped bit may leave a model that computes something else. What it must not do is escape as another error."""
    random = np.random.default_rng(len(name))
    data = bytearray((whole / name).read_bytes())
    head = min(len(data), 3000)
    for i in range(12):
        folder = tmp_path / f"flip{i}"
        shutil.copytree(whole, folder)
        changed = bytearray(data)
        changed[int(random.integers(head))] ^= 1 << int(random.integers(8))
        (folder / name).write_bytes(changed)
        sniff_all(folder)
        try:
            load(folder)
        except BackendError as e:
            assert e.message.endswith((".", "…"))


def header(entries: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is truncated"),
        (b"\x01", "is truncated"),
        (header({"a": ENTRY}, b"12345678", length=1 << 60), "its header is longer than the file"),
        (header(b"[1]"), "no list of tensors"),
        (header(b"{" * 3000), "its header is not JSON"),
        (header({}), "holds no tensors"),
        (header({"a": ENTRY}), "ends before the tensor 'a' does"),
        (header({"a": {**ENTRY, "shape": [3]}}, b"12345678"), "its entry for 'a' makes no sense"),
        (header({"a": {**ENTRY, "dtype": "F7"}}, b"12345678"), "its entry for 'a' makes no sense"),
        (header({"a": {**ENTRY, "shape": [-2]}}, b"12345678"), "its entry for 'a' makes no sense"),
        (header({"a": {**ENTRY, "shape": [2.0]}}, b"12345678"), "its entry for 'a' makes no sense"),
        (header({"a": {**ENTRY, "data_offsets": [0]}}, b"12345678"), "its entry for 'a' makes no sense"),
        (header({"a": 1}, b"12345678"), "its entry for 'a' makes no sense"),
    ],
)
def test_headers_that_make_no_sense(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        weights.read_header(file)


def test_a_gigantic_header_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 1 << 30))
        stream.truncate((1 << 30) + 100)  # takes no room
    with pytest.raises(ModelFileError, match=r"header of 1,073,741,824 bytes; more than 16,777,216 are not read\."):
        weights.read_header(file)


def test_weights_in_parts(whole: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(whole, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: file for file, own in parts.items() for n in own}}))
    example = {"text": np.array(["a cat"], dtype=object)}
    assert load(folder).predict(example)["embedding"] == pytest.approx(load(whole).predict(example)["embedding"])
    (folder / "b.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"m is incomplete: b\.safetensors is missing"):
        load(folder)
    index.write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    with pytest.raises(ModelFileError, match=r"refers to '../../secret.safetensors', which is not in it"):
        load(folder)


def test_weights_that_are_missing_are_not_made_up(whole: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(whole, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"], tensors["pooler.dense.weight"]  # the pooler is not used
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"m lacks weights that BertModel needs: encoder\.layer\.1\.output\.dense"):
        load(folder)


@pytest.mark.parametrize("path", ["../outside", "/etc", "1_Pooling/../../outside"])
def test_modules_stay_in_the_folder(path: str, whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelFileError, match="which is not in it"):
        load(folder)


def test_other_things_that_make_no_sense(whole: Path, tmp_path: Path) -> None:
    for i, (name, text, message) in enumerate(
        (
            ("config.json", "[]", "holds no JSON object"),
            ("config.json", "{" * 100_000, "is not JSON"),
            ("config.json", json.dumps({"architectures": ["XModel"], "model_type": "x", "vocab_size": 3}), "newer one"),
            ("config.json", " " * (9 << 20), "bytes; more than 8,388,608 are not read"),
            ("modules.json", "{}", "no list of modules"),
            ("modules.json", "[]", "does not say how tokens are pooled"),
            ("1_Pooling/config.json", "{}", "no known mode"),
            ("tokenizer.json", '{"model": {"type": "BPE"}}', "tokenizer of"),
        )
    ):
        folder = copied(whole, tmp_path / f"m{i}")
        (folder / name).unlink()
        (folder / name).write_text(text)
        sniff_all(folder)
        with pytest.raises(ModelFileError, match=message):
            load(folder)
    sparse = copied(whole, tmp_path / "sparse")
    as_sentence_transformer(sparse, ("SpladePooling", {}))
    with pytest.raises(ModelFileError, match="has the module SpladePooling"):
        load(sparse)


def test_files_and_empty_folders(tmp_path: Path) -> None:
    file = models_transformers.minilm() / "model.safetensors"
    with pytest.raises(ModelFileError, match="give the folder"):
        load(file)
    with pytest.raises(ModelFileError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"], "vocab_size": 9}')
    with pytest.raises(ModelFileError, match="has no weights"):
        load(tmp_path)


def test_a_folder_of_links_is_a_folder(tmp_path: Path) -> None:
    """So are those of the hub's cache."""
    link = tmp_path / "snapshot"
    link.symlink_to(models_transformers.minilm())
    backend: type[Backend]
    backend, match = choose(link)
    assert (backend.name, match.task) == ("transformers-embedding", "embedding")
    load(link).close()
