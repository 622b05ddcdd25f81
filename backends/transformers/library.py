"""PyTorch and Transformers: imported when a model needs them, offline, and their errors as ours."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from backends.base import BackendError, Device, MissingRuntime, ModelFileError, OutOfMemory, Tensors
from backends.pytorch import bound_memory, check_device, limit_threads
from backends.resources import cpu_threads
from backends.transformers import packing
from backends.transformers.folder import Folder, has_code, pickled
from backends.transformers.options import TransformersOptions
from backends.transformers.weights import Weights, check_room, room

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|bad_alloc", re.IGNORECASE)
_NEEDLESS = re.compile(r"(^|\.)pooler\.|position_ids$")
"""Weights that may be missing: nothing is made of them here."""
_STRETCHING = ("dynamic", "longrope")
"""Kinds of rotary positions that a model adapts while it computes."""


class UntrustedFolder(BackendError):
    """Loading the folder would run code from it, which the user has not allowed."""

    code = "untrusted_model"


class Library(NamedTuple):
    """The two modules."""

    torch: Any
    transformers: Any

    @property
    def version(self) -> str:
        """Of both."""
        return f"transformers {self.transformers.__version__}, torch {self.torch.__version__}"


def library() -> Library:
    """Imports both. Nothing is ever fetched from the network: a model is served from its folder alone."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the worker gives each model its share of the cores
    for package in ("torch", "transformers"):
        try:
            __import__(package)
        except ImportError:
            raise MissingRuntime(package, "transformers") from None
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return Library(torch, transformers)


class Network:
    """A model of the library on its device, ready to compute."""

    def __init__(
        self,
        folder: Folder,
        weights: Weights,
        loader: str,
        device: Device,
        options: TransformersOptions,
        *,
        trusted: bool,
        more_bytes: int = 0,
    ) -> None:
        """`loader` is the name of a class of the library, such as ``AutoModel``; `more_bytes` will be taken beside it.

        Raises `ModelFileError`, `UntrustedFolder`, `InvalidOption`, `OutOfMemory` or `MissingRuntime`.
        """
        check_trust(folder, trusted)
        self.library = library()
        self.torch = torch = self.library.torch
        check_device(torch, device)
        bound_memory(torch, device)
        self.threads = cpu_threads(device, options.threads)
        self.use_threads()
        self.device = torch.device(str(device))
        self._place = device
        self._own_code = has_code(folder)
        self._packed_bytes = 0
        self._more_bytes = more_bytes
        self.dtype = dtype_of(options, weights, device)
        if weights.elements:
            check_room(folder, weights, self.dtype, device, more_bytes)
        try:
            self.model, missing = _load(self.library, loader, folder, self.dtype, trusted)
            self.model.to(self.device)
        except Exception as e:
            raise of_load(e, folder) from e
        if missing:
            raise ModelFileError(
                f"{folder.name} lacks weights that {type(self.model).__name__} needs: {', '.join(missing[:3])}"
                f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}."
            )

    @property
    def config(self) -> Any:
        """The library's view of ``config.json``."""
        return self.model.config

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        tensors = {t.data_ptr(): t for t in (*self.model.parameters(), *self.model.buffers())}
        return self._packed_bytes + sum(int(t.numel() * t.element_size()) for t in tensors.values())

    @property
    def parallel(self) -> bool:
        """Whether several threads may compute with it at once: on the CPU, where that keeps no core waiting, and if no
        call changes it, as those do that stretch their positions to the longest text."""
        stretched = any(
            kind in str(getattr(module, "rope_type", "")) for module in self.model.modules() for kind in _STRETCHING
        )
        return self.device.type == "cpu" and self.threads > 1 and not stretched and not self._own_code

    def pack(self, answer: Callable[[], Tensors]) -> None:
        """Lays the weights of linear layers out for the processor, if there is room; `answer` computes an example."""
        if self.device.type != "cpu":
            return
        layers = packing.linear_layers(self.torch, self.model)
        size, left = packing.nbytes(layers), room(self._place)
        if (left is None or size + self._more_bytes < left) and packing.pack(self.torch, layers, answer):
            self._packed_bytes = size

    def close(self) -> None:
        """Lets go of the weights, and of the memory of the GPU that PyTorch keeps for the next ones."""
        self.model = None
        if self.device.type == "cuda":
            self.torch.cuda.empty_cache()

    def use_threads(self, count: int | None = None) -> None:
        """The calling thread computes with so many threads from now on; with all of the model's if not given."""
        limit_threads(self.torch, count or self.threads)

    def compute(self, **inputs: Any) -> Any:
        """The outputs for tensors on the model's device. Raises `OutOfMemory` or `BackendError`."""
        try:
            with self.torch.inference_mode():
                return self.model(**inputs)
        except Exception as e:
            raise of_run(e) from e


def check_trust(folder: Folder, trusted: bool) -> None:
    """Raises `UntrustedFolder` if loading runs code that the user has not allowed."""
    if trusted:
        return
    if has_code(folder):
        raise UntrustedFolder(
            f"{folder.name} brings Python code of its own (auto_map). If you trust its author, register it with "
            "--trust."
        )
    if pickled(folder.path):
        raise UntrustedFolder(
            f"The weights in {folder.name} are pickles (pytorch_model.bin), which can run code. If you trust their "
            "author, register it with --trust; better, convert them to safetensors."
        )


def from_folder(cls: Any, folder: Path, trusted: bool, **arguments: Any) -> Any:
    """``cls.from_pretrained`` of a folder, without network, and with the folder's own code if that is allowed."""
    return cls.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trusted, **arguments)


def dtype_of(options: TransformersOptions, weights: Weights, device: Device) -> str:
    """The type to compute in, by PyTorch's name."""
    if options.dtype != "auto":
        return options.dtype
    stored = weights.dtype or "float32"
    stored = "float32" if stored == "float64" else stored
    if device.kind != "cpu":
        return stored
    left = room(device)
    return stored if left is not None and weights.nbytes("float32") > left else "float32"


def _load(library: Library, loader: str, folder: Folder, dtype: str, trusted: bool) -> tuple[Any, list[str]]:
    """The model, and the names of weights that it needs and the folder lacks."""
    arguments: dict[str, Any] = {
        "dtype": getattr(library.torch, dtype),
        "use_safetensors": not (trusted and pickled(folder.path)),
        "output_loading_info": True,
    }
    cls = getattr(library.transformers, loader)
    try:  # what the file says of it is not followed: it could name a kernel that is to be fetched
        model, report = from_folder(cls, folder.path, trusted, attn_implementation="sdpa", **arguments)
    except (ValueError, ImportError) as e:
        if "scaled_dot_product_attention" not in str(e):
            raise
        model, report = from_folder(cls, folder.path, trusted, attn_implementation="eager", **arguments)
    model.eval()
    return model, sorted(name for name in report["missing_keys"] if not _NEEDLESS.search(name))


# --- errors ---------------------------------------------------------------------------------------------------------


def of_load(error: Exception, folder: Folder) -> BackendError:
    """What went wrong while a model was loaded."""
    if isinstance(error, BackendError):
        return error
    if is_memory(error):
        return OutOfMemory(f"{folder.name} does not fit the memory of the device: {reason(error)}")
    if isinstance(error, ImportError):
        return ModelFileError(f"{folder.name} needs more than is installed: {reason(error)}")
    if isinstance(error, ValueError) and "does not recognize this architecture" in str(error):
        return ModelFileError(
            f"{folder.name} is of the type {folder.model_type!r}, which the installed transformers does not know; "
            "a newer one may."
        )
    return ModelFileError(f"transformers cannot load {folder.name}: {reason(error)}")


def of_run(error: Exception) -> BackendError:
    """What went wrong while a model computed."""
    if isinstance(error, BackendError):
        return error
    if is_memory(error):
        return OutOfMemory(f"The model ran out of memory: {reason(error)}")
    return BackendError(f"The model failed: {reason(error)}")


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def reason(error: BaseException) -> str:
    """The first line of a message, at most 300 characters, ending in a full stop."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    line = line if len(line) <= 300 else f"{line[:299]}…"
    return line if line.endswith((".", "…")) else f"{line}."
