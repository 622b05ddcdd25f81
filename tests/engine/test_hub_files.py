"""Which files of a repository are pulled, by lists of files as they are found on the hub."""

from __future__ import annotations

import pytest

from engine.errors import InvalidRequest, ModelFileError
from engine.hub_files import choose

SENTENCES = [
    *(".gitattributes", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"),
    *("2_Dense/pytorch_model.bin", "README.md", "config.json", "config_sentence_transformers.json"),
    *("model.safetensors", "modules.json", "onnx/model.onnx", "onnx/model_O2.onnx", "onnx/model_qint8_avx512.onnx"),
    *("openvino/openvino_model.bin", "openvino/openvino_model.xml", "pytorch_model.bin", "rust_model.ot"),
    *("sentence_bert_config.json", "special_tokens_map.json", "tf_model.h5", "tokenizer.json", "tokenizer_config.json"),
    *("train_script.py", "vocab.txt"),
]
LLAMA = [
    *("LICENSE", "README.md", "USE_POLICY.md", "config.json", "generation_config.json", "tokenizer.model"),
    *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
    *("consolidated.safetensors", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"),
    *("original/consolidated.00.pth", "original/params.json", "original/tokenizer.model", "tokenizer.json"),
    *("chat_template.jinja", "trainer_state.json", "eval_results.json", "figure.png"),
]
WHISPER = ["README.md", "config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"]
QUANTIZED = ["m-Q2_K.gguf", "m-Q5_K_M.gguf", "m-Q8_0.gguf", "mmproj-m.gguf"]


def chosen(names: list[str], wanted: str | None = None) -> tuple[tuple[str, ...], str | None]:
    model, _ = choose("org/repo", names, wanted)
    return model.files, model.folder


def test_a_folder_of_safetensors_without_duplicates_and_other_frameworks() -> None:
    files, folder = chosen(LLAMA)
    assert folder == ""
    assert set(files) == {
        *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja"),
    }
    assert files[:2] == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_a_model_that_embeds_comes_with_its_further_layers() -> None:
    files, folder = chosen(SENTENCES, "safetensors")
    assert folder == ""
    assert {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "modules.json"} <= set(files)
    assert not any(f.startswith(("onnx/", "openvino/")) or f.endswith((".bin", ".h5", ".ot", ".md")) for f in files)


def test_onnx_comes_before_safetensors_and_says_so() -> None:
    model, note = choose("org/repo", SENTENCES, None)
    assert model.files == ("onnx/model.onnx",)
    assert model.folder is None
    assert "model.safetensors" in note and "hf:org/repo:FILE" in note
    assert "2_Dense" not in note, "a layer is no model"


@pytest.mark.parametrize("wanted", ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"])
def test_a_weight_file_stands_for_its_folder(wanted: str) -> None:
    assert chosen(LLAMA, wanted) == chosen(LLAMA)


def test_any_other_file_stands_for_itself() -> None:
    assert chosen(LLAMA, "original/params.json") == (("original/params.json",), None)
    assert chosen(LLAMA, "pytorch_model-00001-of-00001.bin") == (("pytorch_model-00001-of-00001.bin",), None)
    assert chosen(QUANTIZED, "mmproj-m.gguf") == (("mmproj-m.gguf",), None)


def test_a_folder_of_ctranslate2() -> None:
    assert chosen(WHISPER) == (
        ("model.bin", "config.json", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"),
        "",
    )


def test_pickled_weights_are_better_than_none() -> None:
    names = ["config.json", "pytorch_model.bin", "tf_model.h5", "vocab.txt", "README.md"]
    assert chosen(names) == (("pytorch_model.bin", "config.json", "vocab.txt"), "")


def test_a_folder_below_the_repository() -> None:
    names = ["README.md", "v2/config.json", "v2/model.safetensors", "v2/merges.txt", "v1/notes.txt"]
    model, _ = choose("org/repo", names, None)
    assert (model.files, model.folder) == (("v2/model.safetensors", "v2/config.json", "v2/merges.txt"), "v2")
    assert [str(model.place(f)) for f in model.files] == ["model.safetensors", "config.json", "merges.txt"]


def test_the_nearest_to_the_preferred_quantization() -> None:
    model, note = choose("org/repo", QUANTIZED, None)
    assert model.files == ("m-Q5_K_M.gguf", "mmproj-m.gguf")
    assert "as Q5_K_M is next to Q4_K_M" in note
    assert "mmproj" not in note


@pytest.mark.parametrize(
    ("names", "lead"),
    [
        (["a.onnx", "b.onnx"], "a.onnx"),
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf", "c.gguf"], "a-Q4_K_M.gguf"),
        (["x/config.json", "x/model.safetensors", "y/config.json", "y/model.safetensors"], "x/model.safetensors"),
    ],
)
def test_what_could_be_any_is_listed(names: list[str], lead: str) -> None:
    with pytest.raises(InvalidRequest, match=f"has several models; name one of them, as in hf:org/repo:{lead}: "):
        choose("org/repo", names, None)


@pytest.mark.parametrize(
    ("projectors", "expected"),
    [
        (["mmproj-m-F32.gguf", "mmproj-m-BF16.gguf"], ("mmproj-m-BF16.gguf",)),
        (["m-mmproj-f16.gguf", "m-mmproj-q8_0.gguf"], ("m-mmproj-f16.gguf",)),
        (["mmproj-a-F16.gguf", "mmproj-b-F16.gguf"], ()),
        (["other/mmproj-m.gguf"], ()),
    ],
)
def test_one_projector_comes_with_a_model(projectors: list[str], expected: tuple[str, ...]) -> None:
    assert chosen(["m.gguf", *projectors]) == (("m.gguf", *expected), None)
    assert chosen(["m.gguf", *projectors], "m.gguf") == (("m.gguf", *expected), None)
    assert chosen(["m.gguf", *projectors], projectors[0]) == ((projectors[0],), None)


def test_pieces_come_together_or_not_at_all() -> None:
    pieces = [f"q/m-Q4_K_M-0000{i}-of-00002.gguf" for i in (1, 2)]
    assert chosen([*pieces, "m-Q8_0.gguf"]) == (tuple(pieces), None)
    assert chosen(pieces, pieces[1]) == (tuple(pieces), None)
    with pytest.raises(ModelFileError, match=f"lacks {pieces[1]}"):
        choose("org/repo", pieces[:1], None)


def test_onnx_weights_beside_the_graph() -> None:
    names = ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1", "onnx/model_fp16.onnx_data"]
    assert chosen(names) == (tuple(names[:3]), None)


def test_names_that_lead_out_of_the_folder_are_no_files() -> None:
    with pytest.raises(InvalidRequest):
        choose("org/repo", ["../../m.gguf", "/etc/m.gguf"], None)
    assert chosen(["config.json", "model.safetensors", "../x.json", "a/../../y.json"])[0] == (
        "model.safetensors",
        "config.json",
    )


@pytest.mark.parametrize("names", [[], ["README.md"], ["adapter_config.json", "adapter_model.safetensors"]])
def test_no_model(names: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="has no model in the forms GGUF, ONNX, CTranslate2, safetensors, PyTorch"):
        choose("org/repo", names, None)
