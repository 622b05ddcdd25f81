"""GGUF models that make one row of numbers of a text: what those that embed and those that rank have in common.

A decode call takes several texts side by side, each as a sequence of its own; llama.cpp pools the tokens of each. The
whole of a text must be in one call, and in one piece of it: pooling knows nothing of earlier calls. So a call has room
for the longest text.

Where the last token alone speaks for a text, and has seen all the others because the model is causal, those others come
in a call of their own that asks for nothing. That spares most of the work of models that also generate: llama.cpp
computes the likelihoods of the next token for each token that it pools.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends import resources
from backends.base import (
    TRUNCATE,
    BackendError,
    Build,
    Device,
    InvalidOption,
    ModelFileError,
    OutOfMemory,
    TensorBackend,
    Tensors,
)
from backends.gguf import file, memory
from backends.gguf.context import Settings
from backends.gguf.file import Header
from backends.gguf.library import Library, build, check_device, library
from backends.gguf.model import Model
from backends.gguf.options import GgufOptions
from backends.gguf.types import ENCODERS, VOCABULARY

Tokens = NDArray[np.int32]
Rows = NDArray[np.float32]

_CALL_TOKENS = {"cpu": 256, "cuda": 2048}
"""Texts are put side by side up to this many tokens. On a CPU, more measured slower by the token: attention is computed
between all tokens of a call, and discarded between texts."""
_CALL_TEXTS = 64
_ROOM_STEP = 256
"""A call has room for a multiple of this many tokens: llama.cpp aborts where the texts cannot share the room evenly."""
_DEFAULT_CONTEXT = 8192
_DEFAULT_WIDE_CONTEXT = 2048
"""Where the likelihoods of the next token are computed for all tokens: they take the memory."""
_MEAN = 1
_PIECE = 512
"""Tokens that llama.cpp computes at once where it may cut a call into pieces."""


class PooledOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options that embedding and ranking models have in common."""

    threads: int | None = None
    """CPU threads; the worker's share of the cores when not given."""
    gpu_layers: int = -1
    """Layers that are computed on the GPU; -1 is all. Without effect on the CPU."""
    max_context_length: int | None = None
    """Tokens of the longest text; as many as the model was trained for when not given, up to 8192, or 2048 where a
    model that generates is pooled by anything but its last token."""
    truncate: bool = False
    """Whether a text that is too long loses its end, instead of being an error."""
    mmap: bool = True
    """Whether the file's pages are used where they are, instead of being copied."""

    def check(self) -> None:
        """Raises `InvalidOption` for a value that is out of range."""
        for name, low in (("threads", 1), ("gpu_layers", -1), ("max_context_length", 8)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise InvalidOption(f"Option {name} must be at least {low}; got {value}.", field=f"config.{name}")


class PooledModel:
    """A loaded model and its context. Raises `ModelFileError`, `InvalidOption` or `OutOfMemory`."""

    def __init__(self, path: Path, header: Header, device: Device, options: PooledOptions, pooling: str) -> None:
        options.check()
        self.library: Library = library()
        self._api = api = self.library.api
        check_device(api, device)
        _check_width(header)
        ranks_by_last = pooling == "rank" and header.own("classifier.pooling_type") != _MEAN
        self._by_tails = is_causal(header) and (pooling == "last" or ranks_by_last)
        wide = is_causal(header) and not self._by_tails
        self.length = _length(header, options, _DEFAULT_WIDE_CONTEXT if wide else _DEFAULT_CONTEXT)
        self.threads = options.threads or device.threads
        self._call_tokens = _CALL_TOKENS[device.kind]
        self._room = -(-max(self.length, self._call_tokens) // _ROOM_STEP) * _ROOM_STEP
        piece = min(_PIECE, self._room) if self._by_tails else self._room
        outputs = self._room if wide else _CALL_TEXTS
        self._bytes = _check_memory(header, self._room, piece, outputs, device)
        self._handle: Any = None
        self.model = Model(self.library, path, device, GgufOptions(gpu_layers=options.gpu_layers, mmap=options.mmap))
        try:
            self._encodes = bool(api.llama_model_has_encoder(self.model.handle))
            if self._encodes and api.llama_model_has_decoder(self.model.handle):
                raise ModelFileError(f"{path.name} makes a text of another; it cannot make numbers of one.")
            _check_special_tokens(self.model, path)
            self._call_texts = _CALL_TEXTS if self.model.cuttable else 1  # llama.cpp cuts others to equal lengths
            self._open(pooling, piece)
        except BaseException:
            self.close()
            raise
        count = api.llama_model_n_cls_out if pooling == "rank" else api.llama_model_n_embd_out
        self.width = int(count(self.model.handle))

    def _open(self, pooling: str, piece: int) -> None:
        api = self._api
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = self._room
        params.n_ubatch = piece
        params.n_outputs_max = self._call_texts if self._by_tails else 0  # 0 is all
        params.n_seq_max = self._call_texts
        params.n_threads = params.n_threads_batch = self.threads
        params.embeddings = True
        params.pooling_type = getattr(api, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
        params.kv_unified = True
        params.no_perf = True
        self.library.forget_errors()
        self._handle = api.llama_init_from_model(self.model.handle, params)
        if not self._handle:
            raise OutOfMemory(f"llama.cpp cannot set up the model: {self.library.last_error or 'it gives no reason.'}")
        self._memory = api.llama_get_memory(self._handle)
        self._batch = api.llama_batch_init(self._room, 0, 1)

    def tokenize(self, text: str, *, special: bool = False, complete: bool = True) -> Tokens:
        """The tokens of a text. `complete` adds those that begin and end one; `special` reads special tokens in it."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        while True:
            tokens = np.empty(size, np.int32)
            pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            count = self._api.llama_tokenize(self.model.vocab, data, len(data), pointer, size, complete, special)
            if count >= 0:
                return tokens[:count]
            size = -count

    def compute(self, texts: Sequence[Tokens]) -> Rows:
        """A row for each text, [texts, width]. Each has 1 to `length` tokens."""
        rows = np.empty((len(texts), self.width), np.float32)
        for group in self._groups(texts):
            self._call([texts[i] for i in group])
            for sequence, i in enumerate(group):
                pointer = self._api.llama_get_embeddings_seq(self._handle, sequence)
                if not pointer:
                    raise BackendError("llama.cpp gave no result for a text.")
                rows[i] = np.ctypeslib.as_array(pointer, (self.width,))
        return rows

    def _groups(self, texts: Sequence[Tokens]) -> Iterator[list[int]]:
        """Which texts are computed together: those of like length."""
        group: list[int] = []
        tokens = 0
        for i in sorted(range(len(texts)), key=lambda i: len(texts[i])):
            size = len(texts[i])
            if group and (tokens + size > self._call_tokens or len(group) == self._call_texts):
                yield group
                group, tokens = [], 0
            group.append(i)
            tokens += size
        if group:
            yield group

    def _call(self, texts: Sequence[Tokens]) -> None:
        """Computes texts side by side, a sequence for each."""
        if self._memory:
            self._api.llama_memory_clear(self._memory, False)
        if not self._by_tails:
            self._decode([(sequence, 0, text) for sequence, text in enumerate(texts)])
            return
        heads = [(sequence, 0, text[:-1]) for sequence, text in enumerate(texts) if len(text) > 1]
        if heads:
            self._api.llama_set_embeddings(self._handle, False)
            self._decode(heads, pooled=False)
            self._api.llama_set_embeddings(self._handle, True)
        self._decode([(sequence, len(text) - 1, text[-1:]) for sequence, text in enumerate(texts)])

    def _decode(self, parts: Sequence[tuple[int, int, Tokens]], *, pooled: bool = True) -> None:
        """One call, of sequences from a position on."""
        total = sum(len(tokens) for _, _, tokens in parts)
        batch = self._batch
        batch.n_tokens = total
        as_array = np.ctypeslib.as_array
        as_array(batch.token, (total,))[:] = np.concatenate([tokens for _, _, tokens in parts])
        positions = [np.arange(begin, begin + len(tokens), dtype=np.int32) for _, begin, tokens in parts]
        as_array(batch.pos, (total,))[:] = np.concatenate(positions)
        as_array(batch.n_seq_id, (total,))[:] = 1
        as_array(batch.logits, (total,))[:] = pooled
        at = 0
        for sequence, _, tokens in parts:
            for i in range(at, at + len(tokens)):
                batch.seq_id[i][0] = sequence
            at += len(tokens)
        self.library.forget_errors()
        call = self._api.llama_encode if self._encodes else self._api.llama_decode
        status = call(self._handle, batch)
        if status:
            reason = self.library.last_error or f"llama.cpp returned {status}."
            raise BackendError(f"The model could not compute its texts: {reason}")

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, at its fullest."""
        return self._bytes

    def close(self) -> None:
        """Frees it."""
        handle, self._handle = self._handle, None
        if handle:
            self._api.llama_batch_free(self._batch)
            self._api.llama_free(handle)
        self.model.close()


class PooledBackend(TensorBackend):
    """Base of the two backends: owns a `PooledModel`."""

    package = "llama_cpp"
    extra = "gguf"
    devices = ("cpu", "cuda")

    _loaded: PooledModel | None = None
    _truncate = False

    @classmethod
    def build(cls) -> Build:
        """By the libraries of llama.cpp."""
        return build()

    @classmethod
    def parts(cls, source: Path) -> tuple[Path, ...]:
        """By the names of the files."""
        return file.parts(source)

    @property
    def loaded(self) -> PooledModel:
        """The model, after `load`."""
        assert self._loaded is not None
        return self._loaded

    def truncates(self, batch: Tensors) -> list[bool]:
        """Of each text, whether it is cut if it is too long: as its request says, or else the option."""
        wishes = batch.get(TRUNCATE.name)
        rows = len(next(iter(batch.values())))
        return [self._truncate] * rows if wishes is None else wishes.tolist()

    def memory(self) -> int:
        """Bytes of the weights, and of what computing takes at most."""
        return self.loaded.nbytes

    def close(self) -> None:
        """Frees the context and the weights."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def runtime(self) -> str:
        """Name and version of what computes."""
        return f"llama-cpp-python {self.loaded.library.version}"

    def metadata(self, header: Header) -> dict[str, str]:
        """What is worth knowing of the file."""
        model = self.loaded.model
        return {
            "architecture": header.architecture,
            "parameters": str(model.parameters),
            "quantization": model.quantization,
            "context_length": str(self.loaded.length),
        }


def is_causal(header: Header) -> bool:
    """Whether a token of this model sees only those before it."""
    causal = header.own("attention.causal")
    return bool(causal) if causal is not None else header.architecture not in ENCODERS


def _check_width(header: Header) -> None:
    """Raises `ModelFileError` if the model claims to make vectors of a width that nothing in it has."""
    width = header.own("embedding_length_out")
    if not width or width == header.own("embedding_length"):
        return
    if not any(width in t.shape for t in header.tensors if t.name.startswith(("dense_", "cls.", "output."))):
        raise ModelFileError(f"{header.path.name} is corrupt: nothing in it makes vectors of {width} elements.")


def _check_special_tokens(model: Model, path: Path) -> None:
    """Raises `ModelFileError` if a token is missing that begins, parts or ends texts: llama.cpp aborts without it."""
    api, vocab = model.api, model.vocab
    always = api.llama_vocab_type(vocab) == api.LLAMA_VOCAB_TYPE_WPM
    for name, added in (("bos", always), ("eos", False), ("sep", always)):
        token = getattr(api, f"llama_vocab_{name}")(vocab)
        if token < 0 and (added or getattr(api, f"llama_vocab_get_add_{name}")(vocab)):
            raise ModelFileError(f"{path.name} is corrupt: its vocabulary lacks the special token {name!r}.")


def _length(header: Header, options: PooledOptions, default: int) -> int:
    """Tokens of the longest text."""
    trained = header.own("context_length")
    if not trained:
        raise ModelFileError(f"{header.path.name} does not say how long its texts may be (context_length).")
    if options.max_context_length is None:
        return min(int(trained), default)
    if options.max_context_length > trained:
        raise InvalidOption(
            f"Option max_context_length must be at most {trained}, for which the model was trained; "
            f"got {options.max_context_length}.",
            field="config.max_context_length",
        )
    return options.max_context_length


def _check_memory(header: Header, room: int, piece: int, outputs: int, device: Device) -> int:
    """Bytes that the model takes. Raises `OutOfMemory` if they are not there."""
    settings = Settings(sequences=1, length=room, batch_tokens=piece, outputs=outputs, threads=1, flash_attention="off")
    need = memory.need(header, [settings], header.length(VOCABULARY) or 0, 0)
    left = resources.available() if device.kind == "cpu" else device.memory_bytes
    if left is not None and need.total > left:
        raise OutOfMemory(
            f"{header.path.name} needs {need.total / 1e6:,.0f} MB ({need}), and {left / 1e6:,.0f} MB are left. "
            "A smaller max_context_length needs less."
        )
    return need.total
