"""The weights and the vocabulary of one GGUF file."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import Device, ModelFileError
from backends.gguf.library import Library, filled, text_of
from backends.gguf.options import GgufOptions

Tokens = NDArray[np.int32]


class Model:
    """A loaded file. Owns the weights, and the LoRA adapters on top of them.

    Raises `ModelFileError` when llama.cpp does not take the file.
    """

    def __init__(self, library: Library, path: Path, device: Device, options: GgufOptions) -> None:
        self.library = library
        self.api = library.api
        self._handle: Any = None
        self._adapters: dict[str, Any] = {}
        params, self._kept = _params(self.api, device, options)
        library.forget_errors()
        before = library.allocated
        self._handle = self.api.llama_model_load_from_file(str(path).encode(), params)
        if not self._handle:
            raise ModelFileError(f"llama.cpp cannot load {path.name}: {library.last_error or 'it does not say why.'}")
        self.held = library.allocated - before
        """Bytes that the weights take."""
        self.vocab = self.api.llama_model_get_vocab(self._handle)
        self.vocab_size = int(self.api.llama_vocab_n_tokens(self.vocab))
        if not self.vocab_size or self.api.llama_vocab_type(self.vocab) == self.api.LLAMA_VOCAB_TYPE_NONE:
            self.close()
            raise ModelFileError(f"{path.name} has no vocabulary, so it cannot generate text.")
        self.trained_context = int(self.api.llama_model_n_ctx_train(self._handle))
        self.bos = int(self.api.llama_vocab_bos(self.vocab))
        self.eos = int(self.api.llama_vocab_eos(self.vocab))
        self.wants_bos = bool(self.api.llama_vocab_get_add_bos(self.vocab)) and self.bos >= 0
        self._pieces: tuple[list[bytes | None], list[bytes | None]] = (
            [None] * self.vocab_size,
            [None] * self.vocab_size,
        )
        """The text of each token that was needed yet, without special ones and with them."""
        self.movable: bool | None = None
        """Whether what is remembered of a sequence can move to a slot of another context; `None` until it was tried."""
        self._known_ends: dict[int, bool] = {}

    @property
    def handle(self) -> Any:
        """For the functions of llama.cpp."""
        return self._handle

    @property
    def cuttable(self) -> bool:
        """Whether what it remembers of a sequence can be cut back to a shorter one."""
        recurrent = self.api.llama_model_is_recurrent(self._handle) or self.api.llama_model_is_hybrid(self._handle)
        return not recurrent

    @property
    def reads_only(self) -> bool:
        """Whether it is none of those that go on with a text token by token."""
        api = self.api
        return bool(
            api.llama_model_has_encoder(self._handle)
            or not api.llama_model_has_decoder(self._handle)
            or api.llama_model_is_diffusion(self._handle)
        )

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        return int(self.api.llama_model_n_params(self._handle))

    @property
    def quantization(self) -> str:
        """Such as ``Q4_1``."""
        return text_of(self.api.llama_ftype_name(self.api.llama_model_ftype(self._handle))).removeprefix("all ")

    @property
    def description(self) -> str:
        """Such as ``llama 256M Q4_1``, in llama.cpp's words."""
        return (filled(functools.partial(self.api.llama_model_desc, self._handle)) or b"").decode("utf-8", "replace")

    def metadata(self, key: str) -> str | None:
        """The value of a key of the file, as text; `None` when it is not there."""
        value = filled(functools.partial(self.api.llama_model_meta_val_str, self._handle, key.encode()))
        return None if value is None else value.decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        """In Jinja; `None` when the file has none."""
        return text_of(self.api.llama_model_chat_template(self._handle, None)) or None

    @property
    def infill(self) -> tuple[int, int, int] | None:
        """The tokens that begin the text before a gap, after it, and in it; `None` when it does not know them."""
        pre, suf, mid = (int(getattr(self.api, f"llama_vocab_fim_{n}")(self.vocab)) for n in ("pre", "suf", "mid"))
        return (pre, suf, mid) if min(pre, suf, mid) >= 0 else None

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of `text`, without one that begins a prompt."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        tokens = np.empty(size, np.int32)
        pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        count = self.api.llama_tokenize(self.vocab, data, len(data), pointer, size, False, special)
        if count < 0:
            tokens = np.empty(-count, np.int32)
            pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            count = self.api.llama_tokenize(self.vocab, data, len(data), pointer, -count, False, special)
        result: list[int] = tokens[:count].tolist()
        return result

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special ones among it."""
        return b"".join(self.token_bytes(token, True) for token in tokens).decode("utf-8", "replace")

    def token_bytes(self, token: int, special: bool) -> bytes:
        """The text of one token; of a special one nothing, unless `special`."""
        known = self._pieces[special][token]
        if known is not None:
            return known
        call = self.api.llama_token_to_piece
        piece = filled(lambda buffer, size: call(self.vocab, token, buffer, size, 0, special), 64) or b""
        self._pieces[special][token] = piece
        return piece

    @functools.cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token."""
        return max(len(self.token_bytes(token, True)) for token in range(self.vocab_size))

    def text(self, token: int) -> str:
        """The text of one token; nothing for -1, which stands for a token that the model does not have."""
        return self.token_bytes(token, True).decode("utf-8", "replace") if token >= 0 else ""

    def ends(self, token: int) -> bool:
        """Whether `token` ends an answer."""
        known = self._known_ends.get(token)
        if known is None:
            known = self._known_ends[token] = bool(self.api.llama_vocab_is_eog(self.vocab, token))
        return known

    @functools.cached_property
    def end_tokens(self) -> Tokens:
        """All tokens that end an answer."""
        is_end = self.api.llama_vocab_is_eog
        return np.array([t for t in range(self.vocab_size) if is_end(self.vocab, t)], np.int32)

    def load_adapter(self, name: str, path: Path) -> None:
        """Loads a LoRA adapter. Raises `ModelFileError`."""
        self.library.forget_errors()
        adapter = self.api.llama_adapter_lora_init(self._handle, str(path).encode())
        if not adapter:
            reason = self.library.last_error or "llama.cpp does not say why."
            raise ModelFileError(f"LoRA adapter {name!r} ({path.name}) does not fit this model: {reason}")
        self._adapters[name] = adapter

    def adapter(self, name: str) -> Any:
        """A loaded adapter, for the functions of llama.cpp."""
        return self._adapters[name]

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the loaded adapters."""
        return tuple(self._adapters)

    def close(self) -> None:
        """Frees the weights and the adapters."""
        handle, self._handle = self._handle, None
        self._adapters.clear()  # they go with the model
        if handle:
            self.api.llama_model_free(handle)


def _params(api: Any, device: Device, options: GgufOptions) -> tuple[Any, Any]:
    """llama.cpp's parameters, and the memory that they point to."""
    params = api.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers if device.kind == "cuda" else 0
    params.split_mode = getattr(api, f"LLAMA_SPLIT_MODE_{options.split_mode.upper()}")
    params.main_gpu = device.index if options.main_gpu is None else options.main_gpu
    modes = {
        (False, False): api.LLAMA_LOAD_MODE_NONE,
        (True, False): api.LLAMA_LOAD_MODE_MMAP,
        (False, True): api.LLAMA_LOAD_MODE_MLOCK,
        (True, True): api.LLAMA_LOAD_MODE_MMAP_MLOCK,
    }
    params.load_mode = modes[options.mmap, options.mlock]
    shares = None
    if options.tensor_split:
        shares = (ctypes.c_float * api.LLAMA_MAX_DEVICES)(*options.tensor_split)
        params.tensor_split = shares
    return params, shares
