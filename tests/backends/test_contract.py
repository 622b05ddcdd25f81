"""What every backend keeps to, over real models of each. A new backend adds its models to `TENSORS`, `VALUES`,
`GENERATION`, `SPEECH` or `GRAPHS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from backends.base import Backend, Device, InvalidInput, ModelFileError
from backends.discovery import available, choose
from engine import model_options
from engine.kit import contract
from tests import (
    models,
    models_boosting,
    models_gguf,
    models_sklearn,
    models_speech,
    models_tensorflow,
    models_torch,
    models_transformers,
    models_transformers_heads,
    models_transformers_speech,
    models_whisper_cpp,
)

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins"
CPU = Device("cpu", threads=2)
"""As in the backends' own tests: TensorFlow keeps the threads of the first model in a process for all others."""

TENSORS: dict[str, Callable[[], Path]] = {
    "onnx efficientnet": models.efficientnet,
    "onnx silero": models.silero,
    "onnx magika": models.magika,
    **{f"sklearn {name}": partial(models_sklearn.path, name) for name in models_sklearn.BUILDERS},
    "sklearn iris skops": partial(models_sklearn.path, "iris", ".skops"),
    **{f"{name.replace('_', ' ', 1)}": partial(models_boosting.path, name) for name in models_boosting.BUILDERS},
    "xgboost iris json": partial(models_boosting.path, "xgboost_iris", ".json"),
    "gguf-embedding minilm": models_gguf.minilm,
    "gguf-rerank tiny": models_gguf.reranker,
    "torch efficientnet": models_torch.efficientnet,
    "torch efficientnet exported": models_torch.efficientnet_exported,
    "torch silero": models_torch.silero,
    **{f"torch {name}": partial(models_torch.path, name) for name in models_torch.BUILDERS if name != "fixed.pt"},
    **{
        f"tensorflow {name}": partial(models_tensorflow.path, name)
        for name in ("digits.keras", "digits.h5", "several.keras", "words.keras")
    },
    **{
        f"tflite {name}": partial(models_tensorflow.path, f"{name}.tflite")
        for name in ("digits", "digits_int8", "digits_uint8", "several", "look", "free", "one", "lstm")
    },
}

FOLDERS: dict[str, Callable[[], Path]] = {
    "tensorflow guesslang": models.guesslang,
    **{
        f"tensorflow {name}": partial(models_tensorflow.path, name)
        for name in ("digits", "texts", "module", "tf1_odd", "tf1_words", "estimator", "pipeline", "ragged")
    },
    **{
        f"transformers-classify {name}": partial(models_transformers_heads.path, name)
        for name in ("capitals", "digits")
    },
}

SUFFIXES = (
    "", ".onnx", ".joblib", ".pkl", ".skops", ".py", ".txt", ".ubj", ".cbm", ".pt", ".pt2", ".keras", ".h5", ".tflite",
    ".gguf", ".yaml",
)  # fmt: skip
LARGE_FOLDERS: dict[str, Callable[[], Path]] = {
    "transformers-embedding minilm": models_transformers.minilm,
    **{
        f"transformers-classify {name}": partial(models_transformers_heads.path, name)
        for name in ("topics", "ranker", "names", "answers")
    },
}
"""What damaged ones give is tested with their backend, on small ones."""

NEEDED = ("saved_model.pb", "variables.", "config.json", "model.safetensors")
"""How the files in such folders are named without which there is no model."""

PLUGIN_FILES: dict[str, Callable[[], Path]] = {"python example": lambda: ROOT / "examples" / "sentiment_plugin.py"}

VALUES: dict[str, Callable[[], Path]] = {
    **PLUGIN_FILES,
    "python echo": lambda: Path(f"{PLUGINS / 'echo.py'}:Echo"),
    "python batches": lambda: Path(f"{PLUGINS / 'echo.py'}:BatchEcho"),
    "python streams": lambda: Path(f"{PLUGINS / 'echo.py'}:StreamEcho"),
}

SPEECH_FOLDERS: dict[str, Callable[[], Path]] = {
    "whisper tiny": models_speech.whisper,
    "transformers-speech whisper": models_transformers_speech.whisper,
    "transformers-speech ctc": models_transformers_speech.ctc,
}
SPEECH = SPEECH_FOLDERS | {"whisper-cpp tiny": models_whisper_cpp.whisper_cpp}

GENERATION_FILES: dict[str, Callable[[], Path]] = {"gguf llama": models_gguf.llama}
GENERATION_FOLDERS: dict[str, Callable[[], Path]] = {"transformers llama": models_transformers.llama}
GENERATION = GENERATION_FILES | GENERATION_FOLDERS

GRAPHS: dict[str, Callable[[], Path]] = {"pipeline ocr": lambda: ROOT / "examples" / "ocr" / "ocr.yaml"}
"""The server runs them, so they answer nothing by themselves; `tests/e2e/test_pipelines.py` asks them."""

ENGINES = {
    "vllm": "It serves the folders of transformers, when it is named; test_vllm.py and test_vllm_server.py ask it.",
    "tensorrt_llm": "It computes on GPUs alone; test_trt_folder.py has what is to be known without one.",
}
"""Backends without a model here, and why."""

FILES = TENSORS | PLUGIN_FILES | GENERATION_FILES
TENSORS = TENSORS | FOLDERS | LARGE_FOLDERS
FOLDERS = FOLDERS | GENERATION_FOLDERS
STEPS = SPEECH | GENERATION
ALL = TENSORS | VALUES | STEPS | GRAPHS


def backend_of(case: str) -> type[Backend]:
    return available()[case.partition(" ")[0]]


@cache
def model(case: str) -> contract.Model:
    """A loaded model, for the checks that ``unimodel plugin test`` runs on anybody's."""
    return contract.Model(backend_of(case), str(ALL[case]()))


def test_no_backend_is_left_out() -> None:
    ours = {name for name, backend in available().items() if backend.__module__.startswith("backends.")}
    checked = {backend_of(case).name for case in ALL}
    assert ours == checked | ENGINES.keys()
    assert not checked & ENGINES.keys()


# --- recognising ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ALL)
def test_it_recognises_its_own_model_and_no_other_backend_is_as_sure(case: str) -> None:
    found, match = choose(ALL[case]())
    assert found is backend_of(case)
    assert 0.5 <= match.confidence <= 1


@pytest.mark.parametrize("name", available())
def test_sniffing_anything_raises_nothing(name: str, tmp_path: Path) -> None:
    backend = available()[name]
    contents = [b"", b"\0", b"\x80", b"PK\x03\x04", b"\x78\x9c", b"\xff" * 5000, bytes(range(256)) * 20, b"import x\n"]
    for case in FILES | GRAPHS:
        data = ALL[case]().read_bytes()
        contents += [data[:1], data[:7], data[:100], data[: len(data) // 2], data[:-1], data[100:5000]]
    for i, content in enumerate(contents):
        file = tmp_path / str(i)
        file.write_bytes(content)
        for suffix in SUFFIXES:
            file = file.rename(file.with_suffix(suffix))
            assert 0 <= backend.sniff(file).confidence <= 1
        file.unlink()  # all of them together would fill a disk
    for odd in (tmp_path, tmp_path / "missing", Path("x" * 5000), Path("a\0b"), Path(), Path("no.module:Class")):
        assert 0 <= backend.sniff(odd).confidence <= 1


@pytest.mark.parametrize("case", FILES)
def test_a_truncated_file_is_a_clear_error(case: str, tmp_path: Path) -> None:
    source = FILES[case]()
    data = source.read_bytes()
    for length in (0, 1, 20, len(data) // 3, len(data) - 20):
        file = tmp_path / f"cut{source.suffix}"
        file.write_bytes(data[:length])
        backend = backend_of(case)()
        _, options = model_options.split({}, backend.Options)
        with pytest.raises(ModelFileError) as caught:
            backend.load(file, CPU, options)
        assert file.name in caught.value.message
        assert caught.value.message.endswith(".")


@pytest.mark.parametrize("case", FOLDERS)
def test_a_truncated_file_in_a_folder_is_a_clear_error(case: str, tmp_path: Path) -> None:
    source = FOLDERS[case]()
    files = [file for file in source.rglob("*") if file.name.startswith(NEEDED)]
    assert files
    for file in files:
        data = file.read_bytes()
        for length in {0, 1, len(data) // 3, max(0, len(data) - 20)} - {len(data)}:
            folder = shutil.copytree(source, tmp_path / f"{file.name}-{length}")
            (folder / file.relative_to(source)).write_bytes(data[:length])
            backend = backend_of(case)()
            _, options = model_options.split({}, backend.Options)
            with pytest.raises(ModelFileError) as caught:
                backend.load(folder, CPU, options)
            assert folder.name in caught.value.message
            assert caught.value.message.endswith(".")


@pytest.mark.parametrize("name", available())
def test_a_missing_file_is_a_clear_error(name: str, tmp_path: Path) -> None:
    backend = available()[name]()
    _, options = model_options.split({}, backend.Options)
    with pytest.raises(ModelFileError, match=r"missing\.bin"):
        backend.load(tmp_path / "missing.bin", CPU, options)


# --- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ALL)
def test_what_loading_found_is_consistent(case: str) -> None:
    contract.every.what_loading_found_is_consistent(model(case))
    assert model(case).loaded[1].device == "cpu"


@pytest.mark.parametrize("case", ALL)
def test_memory_is_a_number_of_bytes(case: str) -> None:
    contract.every.memory_is_a_number_of_bytes(model(case))
    assert model(case).loaded[0].memory() < 1 << 30


@pytest.mark.parametrize("case", ALL)
def test_it_loads_twice_and_closes_twice(case: str) -> None:
    contract.every.it_loads_twice_and_closes_twice(model(case))


@pytest.mark.parametrize("name", [name for name, backend in available().items() if backend.Options is not dict])
def test_an_unknown_option_is_an_error(name: str) -> None:
    contract.every.an_unknown_option_is_an_error(contract.Model(available()[name], ""))


# --- tensors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", TENSORS)
def test_the_example_fits_the_signature_and_is_one_row(case: str) -> None:
    contract.tensors.the_example_is_one_row_of_the_signature(model(case))


@pytest.mark.parametrize("case", TENSORS)
def test_the_answer_fits_the_signature(case: str) -> None:
    contract.tensors.the_answer_is_one_row_of_the_signature(model(case))


@pytest.mark.parametrize("case", TENSORS)
def test_rows_in_a_batch_are_answered_as_alone(case: str) -> None:
    contract.tensors.rows_in_a_batch_are_answered_as_alone(model(case))


@pytest.mark.parametrize("case", TENSORS)
def test_answers_are_the_models_own_memory(case: str) -> None:
    contract.tensors.answers_are_the_models_own_memory(model(case))


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VALUES)
def test_the_example_is_a_body_that_is_answered(case: str) -> None:
    contract.values.the_example_is_answered(model(case))


@pytest.mark.parametrize("case", VALUES)
def test_a_batch_is_answered_as_one_by_one(case: str) -> None:
    if case == "python batches":  # this one tells how many were computed together
        with pytest.raises(contract.Broken, match="together is 6 instead of 1"):
            contract.values.a_batch_is_answered_as_one_by_one(model(case))
    else:
        contract.values.a_batch_is_answered_as_one_by_one(model(case))


@pytest.mark.parametrize("case", VALUES)
def test_a_stream_gives_objects_and_can_be_left(case: str) -> None:
    contract.values.a_stream_gives_objects_and_can_be_left(model(case))
    assert model(case).loaded[1].streams == ("streams" in case)


@pytest.mark.parametrize("case", VALUES)
def test_a_bad_body_fails_alone(case: str) -> None:
    advice = contract.values.a_bad_body_fails_alone(model(case))
    _, bad = model(case).loaded[0].predict_values([model(case).example(), {}])
    assert isinstance(bad, Exception)
    assert (advice is None) == isinstance(bad, InvalidInput)


# --- steps, generation, speech --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", STEPS)
def test_a_cancelled_request_is_gone(case: str) -> None:
    contract.steps.a_cancelled_request_is_gone(model(case))


@pytest.mark.parametrize("case", GENERATION)
def test_the_example_is_answered_to_its_end(case: str) -> None:
    contract.generation.its_example_is_answered(model(case))


@pytest.mark.parametrize("case", GENERATION)
def test_a_prompt_is_counted_as_it_is_tokenized(case: str) -> None:
    contract.generation.a_prompt_is_counted_as_it_is_tokenized(model(case))


@pytest.mark.parametrize("case", SPEECH)
def test_the_example_is_written_down(case: str) -> None:
    contract.speech.its_example_is_written_down(model(case))


@pytest.mark.parametrize("case", SPEECH_FOLDERS)
def test_truncated_files_of_a_folder_are_clear_errors(case: str, tmp_path: Path) -> None:
    source = ALL[case]()
    for name in (file.name for file in source.iterdir()):
        data = (source / name).read_bytes()
        for i, length in enumerate((0, 1, len(data) // 3, len(data) - 20)):
            folder = tmp_path / f"{name}-{i}"
            folder.mkdir()
            for other in source.iterdir():
                (folder / other.name).symlink_to(other)
            (folder / name).unlink()
            (folder / name).write_bytes(data[:length])
            backend = backend_of(case)()
            _, options = model_options.split({}, backend.Options)
            with pytest.raises(ModelFileError) as caught:
                backend.load(folder, CPU, options)
            assert folder.name in caught.value.message
            assert caught.value.message.endswith(".")
            (folder / name).unlink()
