"""What every backend keeps to, over real models of each. A new backend adds its models to `TENSORS` or `VALUES`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from backends.base import (
    Backend,
    Device,
    InvalidOption,
    ModelFileError,
    ModelInfo,
    TensorBackend,
    Tensors,
    TensorSpec,
    ValueBackend,
)
from backends.discovery import available, choose
from engine import model_options
from engine.errors import UniModelError
from tests import models, models_boosting, models_gguf, models_sklearn

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins"

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
}

PLUGIN_FILES: dict[str, Callable[[], Path]] = {"python example": lambda: ROOT / "examples" / "sentiment_plugin.py"}

VALUES: dict[str, Callable[[], Path]] = {
    **PLUGIN_FILES,
    "python echo": lambda: Path(f"{PLUGINS / 'echo.py'}:Echo"),
    "python batches": lambda: Path(f"{PLUGINS / 'echo.py'}:BatchEcho"),
    "python streams": lambda: Path(f"{PLUGINS / 'echo.py'}:StreamEcho"),
}

ALL = TENSORS | VALUES
FILES = TENSORS | PLUGIN_FILES


def backend_of(case: str) -> type[Backend]:
    return available()[case.partition(" ")[0]]


def load(case: str) -> tuple[Any, ModelInfo]:
    backend = backend_of(case)()
    _, options = model_options.split({}, backend.Options)
    return backend, backend.load(ALL[case](), Device("cpu", threads=2), options)


@cache
def loaded(case: str) -> tuple[Any, ModelInfo]:
    return load(case)


def check(spec: TensorSpec, array: np.ndarray[Any, Any]) -> None:
    """`array` is what `spec` says."""
    if spec.dtype == "string":
        assert array.dtype == object
        assert all(isinstance(text, str) for text in array.flat)
    else:
        assert array.dtype == np.dtype(spec.dtype)
    assert len(array.shape) == len(spec.shape)
    for got, want in zip(array.shape, spec.shape, strict=True):
        assert isinstance(want, str) or got == want


def repeated(info: ModelInfo, row: Tensors, count: int) -> Tensors:
    """A batch of `count` rows, each the same."""
    return {
        s.name: row[s.name] if s.batch_axis is None else np.concatenate([row[s.name]] * count, axis=s.batch_axis)
        for s in info.inputs
    }


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
    for case in FILES:
        data = FILES[case]().read_bytes()
        contents += [data[:1], data[:7], data[:100], data[: len(data) // 2], data[:-1], data[100:5000]]
    for suffix in ("", ".onnx", ".joblib", ".pkl", ".skops", ".py", ".txt", ".ubj", ".cbm"):
        for i, content in enumerate(contents):
            file = tmp_path / f"{i}{suffix}"
            file.write_bytes(content)
            assert 0 <= backend.sniff(file).confidence <= 1
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
            backend.load(file, Device("cpu"), options)
        assert file.name in caught.value.message
        assert caught.value.message.endswith(".")


@pytest.mark.parametrize("name", available())
def test_a_missing_file_is_a_clear_error(name: str, tmp_path: Path) -> None:
    backend = available()[name]()
    _, options = model_options.split({}, backend.Options)
    with pytest.raises(ModelFileError, match=r"missing\.bin"):
        backend.load(tmp_path / "missing.bin", Device("cpu"), options)


# --- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ALL)
def test_what_loading_found_is_consistent(case: str) -> None:
    backend, info = loaded(case)
    assert info.device == "cpu"
    assert info.runtime
    assert info.batchable == (info.unbatched_reason is None)
    for specs in (info.inputs, info.outputs):
        assert len({spec.name for spec in specs}) == len(specs)
    if isinstance(backend, TensorBackend):
        assert info.inputs
        assert info.outputs
        for spec in (*info.inputs, *info.outputs):
            assert spec.batch_axis is None or spec.batch_axis < len(spec.shape)
            if info.batchable and spec.batch_axis is not None:
                assert isinstance(spec.shape[spec.batch_axis], str)
    assert msgspec.json.decode(msgspec.json.encode(info), type=ModelInfo) == info


@pytest.mark.parametrize("case", ALL)
def test_memory_is_a_number_of_bytes(case: str) -> None:
    assert 0 <= loaded(case)[0].memory() < 1 << 30


@pytest.mark.parametrize("case", ALL)
def test_close_can_be_called_twice_and_another_load_follows(case: str) -> None:
    for _ in range(2):
        backend, _ = load(case)
        backend.close()
        backend.close()


@pytest.mark.parametrize("name", [name for name, backend in available().items() if backend.Options is not dict])
def test_an_unknown_option_is_an_error(name: str) -> None:
    with pytest.raises(UniModelError, match="no_such_option") as caught:
        model_options.split({"no_such_option": 1}, available()[name].Options)
    assert caught.value.code == InvalidOption.code


# --- tensors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", TENSORS)
def test_the_example_fits_the_signature_and_is_one_row(case: str) -> None:
    backend, info = loaded(case)
    row = backend.example()
    assert row.keys() == {spec.name for spec in info.inputs}
    for spec in info.inputs:
        check(spec, row[spec.name])
        assert spec.batch_axis is None or row[spec.name].shape[spec.batch_axis] == 1


@pytest.mark.parametrize("case", TENSORS)
def test_the_answer_fits_the_signature(case: str) -> None:
    backend, info = loaded(case)
    result = backend.predict(backend.example())
    assert list(result) == [spec.name for spec in info.outputs]
    for spec in info.outputs:
        check(spec, result[spec.name])
        assert spec.batch_axis is None or result[spec.name].shape[spec.batch_axis] == 1


@pytest.mark.parametrize("case", TENSORS)
def test_rows_in_a_batch_are_answered_as_alone(case: str) -> None:
    backend, info = loaded(case)
    if not info.batchable:
        assert info.unbatched_reason
        return
    row = backend.example()
    alone = backend.predict(row)
    together = backend.predict(repeated(info, row, 3))
    for spec in info.outputs:
        if spec.batch_axis is None:
            continue
        for one in np.split(together[spec.name], 3, axis=spec.batch_axis):
            if spec.dtype.startswith("float"):
                np.testing.assert_allclose(one, alone[spec.name], rtol=1e-3, atol=1e-4)
            else:
                np.testing.assert_array_equal(one, alone[spec.name])


@pytest.mark.parametrize("case", TENSORS)
def test_answers_are_the_models_own_memory(case: str) -> None:
    """The inputs may be a view of memory that is reused for the next batch: they are neither kept nor changed."""
    backend, info = loaded(case)
    batch = repeated(info, backend.example(), 1)
    before = {name: array.copy() for name, array in batch.items()}
    first = backend.predict(batch)
    kept = {name: array.copy() for name, array in first.items()}
    for name, array in batch.items():
        np.testing.assert_array_equal(array, before[name])
        if array.dtype != object:
            array[...] = 0
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VALUES)
def test_the_example_is_a_body_that_is_answered(case: str) -> None:
    backend, info = loaded(case)
    assert isinstance(backend, ValueBackend)
    body = backend.example()
    results = backend.predict_values([body] * 3)
    assert len(results) == 3
    for result in results:
        assert isinstance(result, dict)
        assert msgspec.json.decode(msgspec.json.encode(result)) == result
    assert info.streams == ("streams" in case)
    if info.streams:
        chunks = list(backend.stream(body))
        assert chunks
        assert all(isinstance(chunk, dict) for chunk in chunks)


@pytest.mark.parametrize("case", VALUES)
def test_a_bad_body_fails_alone(case: str) -> None:
    backend, _ = loaded(case)
    good, bad = backend.predict_values([backend.example(), {}])
    assert isinstance(good, dict)
    assert isinstance(bad, Exception)
