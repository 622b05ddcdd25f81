"""From the vectors of a text's tokens to one vector of the text, as sentence-transformers describes it in a folder.

Its file ``modules.json`` lists what follows one after the other: the model, how tokens are pooled, layers of weights,
normalization. A folder without the file is pooled by the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.base import ModelFileError
from backends.transformers.folder import Folder, pickled
from backends.transformers.library import Library, UntrustedFolder
from backends.transformers.weights import read_header

Vectors = NDArray[np.float32]
Mode = Literal["cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken"]

_MODES: dict[str, Mode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""In the order in which their vectors are joined, where a folder has several."""
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")


@dataclass(frozen=True)
class Dense:
    """A layer of weights."""

    weight: Any
    bias: Any
    activation: Any


@dataclass(frozen=True)
class Pooling:
    """What a folder says of it."""

    modes: tuple[Mode, ...] = ("mean",)
    layers: tuple[str, ...] = ()
    """Folders of the layers that follow."""
    normalize: bool = False
    prompt_counts: bool = True
    """Whether the tokens of a prompt before each text count."""
    guessed: bool = False
    model_folder: str = ""
    """Where in the folder the model itself is."""


def find(folder: Folder) -> Pooling:
    """How the folder wants its tokens pooled. Raises `ModelFileError` for what is not served."""
    if folder.modules is None:
        return Pooling(guessed=True)
    modes: tuple[Mode, ...] | None = None
    layers: list[str] = []
    normalize, counts, model_folder = False, True, ""
    for position, module in enumerate(folder.modules):
        kind, place = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        folder.inside(place)
        if position == 0 and kind == "Transformer":
            model_folder = place
        elif kind == "Pooling" and modes is None:
            settings = folder.read(f"{place}/config.json")
            modes, counts = _modes(folder, settings), settings.get("include_prompt") is not False
        elif kind == "Dense" and modes is not None:
            layers.append(place)
        elif kind == "Normalize" and position == len(folder.modules) - 1:
            normalize = True
        elif kind != "Dropout":
            raise ModelFileError(
                f"{folder.name} has the module {kind or 'without a type'} of sentence-transformers at place "
                f"{position + 1}; served are Transformer, Pooling, Dense and Normalize, in this order."
            )
    if modes is None:
        raise ModelFileError(f"{folder.name} does not say how tokens are pooled: modules.json has no Pooling.")
    return Pooling(modes, tuple(layers), normalize, counts, model_folder=model_folder)


def _modes(folder: Folder, settings: dict[str, Any]) -> tuple[Mode, ...]:
    named = settings.get("pooling_mode")
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    known = set(_MODES.values())
    if names and not set(names) <= known:
        raise ModelFileError(f"{folder.name} pools its tokens by {names}; served are {', '.join(sorted(known))}.")
    modes = tuple(mode for key, mode in _MODES.items() if settings.get(key) is True or mode in names)
    if not modes:
        raise ModelFileError(f"{folder.name} does not say how tokens are pooled: its Pooling has no known mode.")
    return modes


@dataclass
class Head:
    """Pools, and computes the layers that follow. `torch` is the module."""

    library: Library
    modes: tuple[Mode, ...]
    normalize: bool
    layers: list[Dense] = field(default_factory=list)

    def load(self, folder: Folder, pooling: Pooling, like: Any, *, trusted: bool) -> None:
        """Reads the layers, to the device and type of the tensor `like`. Raises `ModelFileError`."""
        self.layers = [_dense(self.library, folder, name, like, trusted) for name in pooling.layers]

    @property
    def nbytes(self) -> int:
        """Bytes of the layers."""
        tensors = [t for layer in self.layers for t in (layer.weight, layer.bias) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    def compute(self, states: Any, mask: Any) -> Vectors:
        """Vectors of texts [texts, size], from `states` of tokens [texts, tokens, size]; `mask` tells which count."""
        torch = self.library.torch
        with torch.inference_mode():
            pooled = torch.cat([_pool(torch, mode, states, mask) for mode in self.modes], dim=1)
            for layer in self.layers:
                pooled = layer.activation(torch.nn.functional.linear(pooled, layer.weight, layer.bias))
            pooled = pooled.float()
            if self.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=1)
            vectors: Vectors = pooled.cpu().numpy()
            return vectors


def _pool(torch: Any, mode: Mode, states: Any, mask: Any) -> Any:
    """One vector for each text."""
    counted = mask.unsqueeze(-1).to(states.dtype)
    if mode == "cls":  # the first token that counts, as texts are padded at their end
        first = mask.argmax(dim=1)
        return states[torch.arange(len(states), device=states.device), first]
    if mode == "lasttoken":
        last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
        return states[torch.arange(len(states), device=states.device), last]
    if mode == "max":
        return states.masked_fill(counted == 0, -torch.inf).max(dim=1).values
    if mode == "weightedmean":  # a token weighs as much as its place in the text
        counted = counted * torch.arange(1, states.shape[1] + 1, device=states.device).to(states.dtype)[None, :, None]
    total = counted.sum(dim=1).clamp(min=1e-9)
    summed = (states * counted).sum(dim=1)
    return summed / (total.sqrt() if mode == "mean_sqrt_len" else total)


def _dense(library: Library, folder: Folder, name: str, like: Any, trusted: bool) -> Dense:
    torch = library.torch
    settings = folder.read(f"{name}/config.json")
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise ModelFileError(f"{folder.name} has a layer with {activation}; served are {', '.join(_ACTIVATIONS)}.")
    tensors = _tensors(library, folder, name, trusted)
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if weight is None or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise ModelFileError(f"{folder.name} is corrupt: {name} has no weights of a linear layer.")
    place = {"device": like.device, "dtype": like.dtype}
    return Dense(weight.to(**place), None if bias is None else bias.to(**place), getattr(torch.nn, activation)())


def _tensors(library: Library, folder: Folder, name: str, trusted: bool) -> dict[str, Any]:
    place = folder.inside(name)
    file = place / "model.safetensors"
    if file.is_file():
        import safetensors.torch

        read_header(file)
        found: dict[str, Any] = safetensors.torch.load_file(file)
        return found
    if not pickled(place):
        raise ModelFileError(f"{folder.name} is incomplete: {name} has no weights.")
    if not trusted:
        raise UntrustedFolder(
            f"The weights in {folder.name}/{name} are pickles, which can run code. If you trust their author, register "
            "the model with --trust."
        )
    loaded: dict[str, Any] = library.torch.load(place / "pytorch_model.bin", weights_only=True, map_location="cpu")
    return loaded
