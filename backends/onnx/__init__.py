"""ONNX models with onnxruntime, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from backends import builds, labels
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
    TensorBackend,
    Tensors,
)
from backends.onnx import errors, file
from backends.onnx.file import Kind
from backends.onnx.types import dtype_of
from backends.probing import Input, Signature, image_classes, looks_like_images, probe
from backends.resources import cpu_threads, resident_bytes, spreads_rows

_SHOWN_CLASSES = 100
_REMEDY = "pip uninstall -y onnxruntime && pip install 'unimodel[gpu]'"
"""Both packages are one module, so one must go before the other comes."""
_CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]'"


class OnnxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of an ONNX model."""

    threads: int | None = None
    """CPU threads for one call; all of the worker's when not given, and never more."""
    graph_optimization: Literal["all", "extended", "basic", "off"] = "all"
    """How much onnxruntime rewrites the graph when it loads it."""
    spread_rows: bool | None = None
    """Whether the rows of a batch may be spread over the threads, for which the model is held in memory twice; if not
    given, a model of at most 1 GiB whose rows take more than a millisecond."""
    dims: dict[str, int] = {}
    """Sizes of free dimensions for the example row, for a model that does not run on the ones that are tried."""


class OnnxBackend(TensorBackend):
    """Owns one session of onnxruntime."""

    name = "onnx"
    summary = "ONNX models (.onnx, .ort)"
    package = "onnxruntime"
    extra = "onnx"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    Options = OnnxOptions

    _session: Any = None
    _one_thread: Any = None
    """A session that computes on the thread that calls it."""

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By the structure of the file; its extension alone is a guess, and tells of truncated files."""
        named = path.suffix.lower() in file.SUFFIXES
        try:
            if not path.is_file():
                return NO_MATCH
            kind = file.look(path)
        except OSError:
            return Match(0.5) if named else NO_MATCH
        if kind in (Kind.ONNX, Kind.ORT):
            return Match(1.0 if named else 0.9)
        if kind is Kind.TRUNCATED:
            return Match(0.6 if named else 0.4)
        return Match(0.5) if named else NO_MATCH

    @classmethod
    def parts(cls, source: Path) -> tuple[Path, ...]:
        """The model and the files of its weights, where these are not in it."""
        try:
            weights = file.external_weights(source)
        except (OSError, ValueError):  # what is not there, or empty, has none
            return ()
        return (source, *weights) if weights else ()

    @classmethod
    def build(cls) -> Build:
        """By the provider for CUDA, which is a library of its own."""
        folder = builds.folder("onnxruntime") / "capi"
        if not (folder / "libonnxruntime_providers_cuda.so").is_file():
            return Build(("cpu",), remedy=_REMEDY)
        version = builds.constant(folder / "build_and_package_info.py", "cuda_version")
        return Build(("cpu", "cuda"), cuda=version or "")

    def load(self, path: Path, device: Device, options: OnnxOptions) -> ModelInfo:
        """Opens the session and finds the signature by running it. See `Backend.load` for the errors."""
        onnxruntime = _runtime()
        before = resident_bytes()
        kind = _look(path)
        threads = cpu_threads(device, options.threads)
        self.threads = threads if device.kind == "cpu" else 0
        try:
            self._session = _open(onnxruntime, path, kind, device, options, threads)
            meta = self._session.get_modelmeta()
            metadata = {k: v for k, v in meta.custom_metadata_map.items() if v}
            inputs = [(i.name, i.type, list(i.shape)) for i in self._session.get_inputs()]
            outputs = [(o.name, o.type, list(o.shape)) for o in self._session.get_outputs()]
        except BackendError:
            raise
        except Exception as e:
            raise errors.of_file(e, path, kind) from None
        tensors = [Input(name, dtype_of("Input", onnx_type, name), shape) for name, onnx_type, shape in inputs]
        self._output_names = [name for name, _, _ in outputs]
        self._sequences: dict[str, np.ndarray[Any, Any]] = {}  # and what each is when it has no tensor
        self._read = {name: reader for name, kind, _ in outputs if (reader := self._reader(kind, name)) is not None}
        self._classes: dict[str, tuple[str, ...]] = {}
        signature = probe(tensors, self.predict, options.dims, [(name, shape) for name, _, shape in outputs])
        self._example = signature.example
        size = sum(each.stat().st_size for each in self.parts(path) or (path,))
        self._memory = max(size, resident_bytes() - before if device.kind == "cpu" else 0)
        if self._sequences and signature.unbatched_reason is None:
            signature.unbatched_reason = (
                f"The output {min(self._sequences)!r} is a sequence of tensors, whose shapes may differ between rows."
            )
        batches = self.threads > 1 and signature.unbatched_reason is None
        if batches and spreads_rows(options.spread_rows, self._memory, lambda: self.predict(signature.example)):
            self._one_thread = _open(onnxruntime, path, kind, device, options, 1)
            self._memory *= 2
            self.parallel = True
        return self._info(signature, metadata, meta.producer_name, device, onnxruntime.__version__)

    def example(self) -> Tensors:
        """The made-up row on which the model was found to run."""
        return dict(self._example)

    def predict(self, batch: Tensors) -> Tensors:
        """Computes a batch. Raises `InvalidInput` when the model refuses the shapes or values, `OutOfMemory`."""
        return self._run(self._session, batch)

    def predict_on_one_thread(self, batch: Tensors) -> Tensors:
        """As `predict`, in the session of one thread."""
        return self._run(self._one_thread, batch)

    def _run(self, session: Any, batch: Tensors) -> Tensors:
        try:
            values = session.run(self._output_names, batch)
        except Exception as e:
            raise errors.of_run(e) from None
        answer = dict(zip(self._output_names, values, strict=True))
        for name, read in self._read.items():
            answer[name] = read(name, answer[name])
        return answer

    def memory(self) -> int:
        """The growth of the process while the model was loaded and tried, at least the size of its files."""
        return self._memory

    def close(self) -> None:
        """Frees the sessions, and with them the weights and the arenas."""
        self._session = self._one_thread = None

    def _reader(self, onnx_type: str, name: str) -> Callable[[str, Any], np.ndarray[Any, Any]] | None:
        """What makes an array of an output that is none. Raises `ModelFileError` for types that cannot be served."""
        if onnx_type in ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))"):
            return self._table
        sequence = re.fullmatch(r"seq\((tensor\(\w+\))\)", onnx_type)
        dtype = dtype_of("Output", sequence[1] if sequence else onnx_type, name)
        if sequence is None:
            return None
        self._sequences[name] = np.empty(0, object if dtype == "string" else dtype)
        return self._stacked

    def _stacked(self, name: str, tensors: list[Any]) -> np.ndarray[Any, Any]:
        """A sequence of tensors of one shape as an array, whose first axis is the sequence."""
        arrays = [np.asarray(tensor) for tensor in tensors]
        if not arrays:
            return self._sequences[name]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise BackendError(
                f"The output {name!r} is a sequence of tensors of different shapes, here {list(shapes[0])} and "
                f"{list(shapes[-1])}, which is no array; give one row in a request, or export the model with tensors "
                "that are padded to one shape."
            )
        stacked = np.stack(arrays)
        self._sequences[name] = stacked[:0]
        return stacked

    def _table(self, name: str, rows: list[dict[Any, float]]) -> np.ndarray[Any, Any]:
        """Scores by class, one dict a row (scikit-learn's ZipMap), as an array [rows, classes]."""
        self._classes.setdefault(name, tuple(map(str, rows[0])))
        return np.array([list(row.values()) for row in rows], dtype=np.float32)

    def _info(
        self, found: Signature, metadata: dict[str, str], producer: str, device: Device, version: str
    ) -> ModelInfo:
        image = image_classes(found.inputs, found.outputs)
        names: tuple[str, ...] | None = next(iter(self._classes.values()), None)
        notes: list[str] = []
        if image is not None:
            names, label_note = labels.find(metadata, image)
            notes = [label_note] if label_note else []
        elif names is None:
            names = labels.named(metadata)
        metadata = labels.others(metadata)
        notes += [f"The columns of {name!r} are the classes {_listed(each)}." for name, each in self._classes.items()]
        return ModelInfo(
            task="tensor" if image is None else "image-classification",
            inputs=found.inputs,
            outputs=found.outputs,
            batchable=found.unbatched_reason is None,
            unbatched_reason=found.unbatched_reason,
            labels=names,
            runtime=f"onnxruntime {version}",
            device=str(device),
            metadata={"producer": producer, **metadata} if producer else metadata,
            findings=() if image is None else (looks_like_images(image),),
            notes=tuple(notes),
        )


# --- the session ----------------------------------------------------------------------------------------------------


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingRuntime("onnxruntime", "onnx") from None
    return onnxruntime


def _open(onnxruntime: Any, path: Path, kind: Kind, device: Device, options: OnnxOptions, threads: int) -> Any:
    """A session on `device` that computes with so many CPU threads.

    Raises `MissingRuntime`, or what `errors.of_file` makes of onnxruntime's exceptions.
    """
    config = onnxruntime.SessionOptions()
    config.log_severity_level = 4  # what matters is raised; the rest would clutter the server's log
    config.intra_op_num_threads = threads
    config.inter_op_num_threads = 1
    _limit_spinning(config, onnxruntime.__version__)
    config.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel,
        {
            "all": "ORT_ENABLE_ALL",
            "extended": "ORT_ENABLE_EXTENDED",
            "basic": "ORT_ENABLE_BASIC",
            "off": "ORT_DISABLE_ALL",
        }[options.graph_optimization],
    )
    if kind is Kind.ORT:
        config.add_session_config_entry("session.load_model_format", "ORT")
    providers = _providers(onnxruntime, device)
    try:
        session = onnxruntime.InferenceSession(str(path), config, providers=providers, enable_fallback=0)
    except Exception as e:
        raise errors.of_file(e, path, kind) from None
    if device.kind == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise InvalidOption(
            "onnxruntime could not start its CUDA provider, for want of CUDA or cuDNN in the versions that it was "
            f"built for. Register the model with --set device=cpu, or install them: {_CUDA}",
            field="config.device",
        )
    return session


def _limit_spinning(config: Any, version: str) -> None:
    """Lets pool threads sleep soon after they run out of work.

    Left alone, they spin for tens of milliseconds after each call, on cores that the server or another model needs.
    Twenty microseconds bridge the gaps between the operators of one call, which is what spinning is good for. The pool
    that onnxruntime shares between sessions cannot be told so from Python, hence a pool for each session: its threads
    are runnable only while that session computes.
    """
    if tuple(int(part) for part in version.split(".")[:2]) >= (1, 26):
        config.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    else:
        config.add_session_config_entry("session.intra_op.allow_spinning", "0")


def _look(path: Path) -> Kind:
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; give the path of the .onnx file in it.")
    try:
        if path.stat().st_size == 0:
            raise ModelFileError(f"{path} is empty.")
        return file.look(path)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist.") from None
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read: {e.strerror}.") from None


def _providers(onnxruntime: Any, device: Device) -> list[Any]:
    if device.kind == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise builds.no_gpu("onnxruntime", _REMEDY)
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip put them
    cuda: dict[str, Any] = {
        "device_id": device.index,
        "arena_extend_strategy": "kSameAsRequested",
        # the default tries every algorithm anew for each new batch size
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if device.memory_bytes is not None:
        cuda["gpu_mem_limit"] = device.memory_bytes
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


# --- what the model is for ------------------------------------------------------------------------------------------


def _listed(classes: tuple[str, ...]) -> str:
    """The names of classes, as many as are read."""
    more = f" and {len(classes) - _SHOWN_CLASSES} more" if len(classes) > _SHOWN_CLASSES else ""
    return ", ".join(classes[:_SHOWN_CLASSES]) + more
