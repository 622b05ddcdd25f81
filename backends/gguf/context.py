"""What llama.cpp computes with: one context, one batch that is filled again for each call, and the logits it gives.

Everything here is llama.cpp's own doing, wrapped so that the rest needs no pointers. All arrays are made once.

Each sequence has cells of its own for its keys and values (``kv_unified`` is off). Cells that all share would take less
memory, but then the attention of each token goes over the cells of all sequences: measured on the CPU with a model of
135 million weights, that was 8 % slower for 8 sequences of 200 tokens, and 30 % for 16. And so the cells of a sequence
lie in the order of its tokens, whatever the others do, which makes its logits the same to the last bit.
"""

from __future__ import annotations

import ctypes
import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import BackendError, OutOfMemory
from backends.gguf.images import Image
from backends.gguf.model import Model
from backends.gguf.types import TENSOR_TYPES

Tokens = NDArray[np.int32]
TYPE_NUMBERS = {kind.name.lower(): number for number, kind in TENSOR_TYPES.items()}
"""llama.cpp's numbers of the types of tensors, of which the bindings name only some."""

_ADDRESS_OF = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
"""A function of a context that gives an address, which is quicker to use than a pointer."""
_BYTES = ctypes.POINTER(ctypes.c_uint8)
_CELLS_STEP = 256
_MOST_SEQUENCES = 256
"""llama.cpp's limit."""
_COUNT_AT = 8
"""Where a saved state has the number of sequences."""


class DecodeError(BackendError):
    """A decode call failed; the sequences in it must be cleared."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a context is made."""

    sequences: int
    """How many it has room for."""
    length: int
    """Tokens of each."""
    batch_tokens: int
    """Most tokens of one decode call."""
    outputs: int
    """Most tokens of one decode call for which logits are wanted."""
    threads: int
    kv_type: str = "f16"
    flash_attention: str = "auto"
    rope_freq_base: float = 0.0
    """0 is the model's own."""
    rope_freq_scale: float = 0.0

    @property
    def cells(self) -> int:
        """Tokens whose keys and values it has room for. llama.cpp rounds the length up."""
        return self.sequences * -(-self.length // _CELLS_STEP) * _CELLS_STEP


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A copy of the keys and values of one sequence, for any context of the same model."""

    data: NDArray[np.uint8]
    """As llama.cpp writes it for a context of one sequence, and then enough zeros for any number of sequences."""
    sequences: int | None
    """Of the only contexts that it can be put in; `None` if it does not matter."""

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.data.nbytes


class Context:
    """The keys and values of the sequences, and the batch.

    A call is made so: `begin`, `add` for each sequence in turn, `decode`, then `logits` for each row. Tokens of an
    image have calls of their own, with `add_image`.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model = model
        self._api = api = model.api
        self.settings = settings
        model.library.forget_errors()
        before = model.library.allocated
        self._handle: Any = api.llama_init_from_model(model.handle, _params(api, settings))
        if not self._handle:
            raise OutOfMemory(f"llama.cpp cannot set up the model: {model.library.last_error or 'it gives no reason.'}")
        self.held = model.library.allocated - before
        """Bytes that it takes."""
        self._memory = api.llama_get_memory(self._handle)
        self._get_logits = ctypes.cast(api.llama_get_logits, _ADDRESS_OF)
        self._group: Hashable = ()
        self._free = list(range(settings.sequences))
        self.size = 0
        """Tokens in the batch."""
        n = settings.batch_tokens
        self._tokens = np.zeros(n, np.int32)
        self._positions = np.zeros(n, np.int32)
        self._sequences = np.zeros(n, np.int32)
        self._outputs = np.zeros(n, np.int8)
        self._ones = np.ones(n, np.int32)
        self._pointers = np.arange(n, dtype=np.uint64) * 4 + self._sequences.ctypes.data
        self._batch = _batch(api, self._tokens, self._positions, self._ones, self._pointers, self._outputs)
        self._image: Image | None = None
        """Whose tokens the batch has, instead of those of text."""
        self._vectors: Any = None
        self._image_positions = self._positions
        self._rows = 0
        self._logits: list[NDArray[np.float32]] = []
        """Views of the rows, made once: a view made in each step takes longer than all else that is done with it."""
        self._address = 0

    # --- one call -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Empties the batch."""
        self.size = 0
        self._rows = 0
        self._image = None

    def add(self, tokens: Tokens, position: int, sequence: int, outputs: int) -> int:
        """Puts `tokens` of a sequence in the batch, from `position` on; logits are wanted for the last `outputs`.

        The number of the first of those rows.
        """
        begin, end = self.size, self.size + len(tokens)
        self._tokens[begin:end] = tokens
        self._positions[begin:end] = np.arange(position, position + len(tokens), dtype=np.int32)
        self._sequences[begin:end] = sequence
        self._outputs[begin:end] = 0
        self._outputs[end - outputs : end] = 1
        self.size = end
        row = self._rows
        self._rows += outputs
        return row

    def add_one(self, token: int, position: int, sequence: int) -> int:
        """As `add`, for one token whose logits are wanted: by far the commonest case, and so a quicker way."""
        at, row = self.size, self._rows
        self._tokens[at] = token
        self._positions[at] = position
        self._sequences[at] = sequence
        self._outputs[at] = 1
        self.size = at + 1
        self._rows = row + 1
        return row

    def add_image(self, image: Image, begin: int, count: int, sequence: int, outputs: int) -> int:
        """Makes the batch `count` of an image's tokens, from the one at `begin` on; logits are wanted for the last
        `outputs`.

        The number of the first of those rows.
        """
        assert image.vectors is not None, "it is encoded first"
        self._image = image
        self._vectors = np.ascontiguousarray(image.vectors[begin : begin + count])
        self._image_positions = np.ascontiguousarray(image.positions[:, begin : begin + count])
        self._sequences[:count] = sequence
        self._outputs[:count] = 0
        self._outputs[count - outputs : count] = 1
        self.size = count
        self._rows = outputs
        return 0

    def decode(self) -> None:
        """Computes the batch. Raises `DecodeError`."""
        self._model.library.forget_errors()
        status = self._decode_text() if self._image is None else self._decode_image(self._image)
        if status:
            reason = self._model.library.last_error or f"llama.cpp returned {status}."
            raise DecodeError(f"The model could not compute this step: {reason}")
        if self._rows:
            pointer = self._get_logits(self._handle)
            if pointer != self._address or self._rows > len(self._logits):
                rows = max(self._rows, self.settings.sequences)  # the least that llama.cpp allocates
                raw = (ctypes.c_float * (rows * self._model.vocab_size)).from_address(pointer)
                self._logits = list(np.ndarray((rows, self._model.vocab_size), np.float32, memoryview(raw)))
                self._address = pointer

    def _decode_text(self) -> int:
        self._batch.n_tokens = self.size
        return int(self._api.llama_decode(self._handle, self._batch))

    def _decode_image(self, image: Image) -> int:
        batch = _batch(self._api, None, self._image_positions, self._ones, self._pointers, self._outputs)
        batch.embd = self._vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        batch.n_tokens = self.size
        if image.whole:
            self._api.llama_set_causal_attn(self._handle, False)
        try:
            return int(self._api.llama_decode(self._handle, batch))
        finally:
            if image.whole:
                self._api.llama_set_causal_attn(self._handle, True)

    def logits(self, row: int) -> NDArray[np.float32]:
        """The logits of a row of the last call. Valid, and free to be changed, until the next one."""
        return self._logits[row]

    def rows(self, first: int, count: int) -> list[NDArray[np.float32]]:
        """As `logits`, for several rows."""
        return self._logits[first : first + count]

    # --- what it remembers --------------------------------------------------------------------------------------------

    def take_slot(self) -> int:
        """The lowest free slot; -1 when there is none. Neighbours compute together, so low ones are used first."""
        return heapq.heappop(self._free) if self._free else -1

    def free_slot(self, slot: int) -> None:
        """Forgets the sequence in a slot."""
        self.cut(slot, 0)
        heapq.heappush(self._free, slot)

    @property
    def free_slots(self) -> int:
        """How many there are."""
        return len(self._free)

    def cut(self, slot: int, position: int) -> None:
        """Forgets what a sequence has from a position on. Where there are no images, it is a number of tokens."""
        self._api.llama_memory_seq_rm(self._memory, slot, position, -1)

    def save(self, slot: int) -> State | None:
        """A copy of what is remembered of a sequence; `None` when there is no memory for it."""
        try:
            data = self._saved(slot)
            if self._model.movable is None and self._free:
                self._model.movable = self._is_movable(slot)
        except MemoryError:
            return None
        state = _portable(data, slot, self.settings.sequences) if self._model.movable else None
        return state or State(data, self.settings.sequences)

    def _saved(self, slot: int) -> NDArray[np.uint8]:
        """What llama.cpp writes of a sequence, and zeros."""
        size = int(self._api.llama_state_seq_get_size(self._handle, slot))
        data = np.empty(size + 4 * _MOST_SEQUENCES, np.uint8)
        written = self._api.llama_state_seq_get_data(self._handle, data.ctypes.data_as(_BYTES), size, slot)
        data[written:] = 0
        return data

    def _is_movable(self, slot: int) -> bool:
        """Whether states of this model are as `_portable` takes them to be: one comes through a move as it was.

        Those of some models have several parts. Only the number of the slot may be another one afterwards.
        """
        other = self._free[0]
        before = _portable(self._saved(slot), slot, self.settings.sequences)
        if before is None or not self.restore(other, before):
            return False
        after = _portable(self._saved(other), other, self.settings.sequences)
        self.cut(other, 0)
        size = len(before.data) - 4 * _MOST_SEQUENCES  # from there on, there are only zeros
        if after is None or len(after.data) < size:
            return False
        old, new = before.data[:size], after.data[:size]
        changed = old != new
        return bool((old[changed] == slot).all() and (new[changed] == other).all())

    def restore(self, slot: int, state: State) -> bool:
        """Puts what `save` gave into an empty slot. Whether that worked."""
        data = state.data
        if state.sequences is None:
            data[_COUNT_AT : _COUNT_AT + 4] = np.array([self.settings.sequences], "<u4").view(np.uint8)
        elif state.sequences != self.settings.sequences:
            return False
        if self._api.llama_state_seq_set_data(self._handle, data.ctypes.data_as(_BYTES), data.size, slot):
            return True
        self.cut(slot, 0)
        return False

    def use(self, group: tuple[tuple[str, float], ...]) -> None:
        """Applies LoRA adapters, by name and strength, from the next call on."""
        if group == self._group:
            return
        adapters = (self._api.llama_adapter_lora_p_ctypes * max(1, len(group)))()
        scales = (ctypes.c_float * max(1, len(group)))()
        for i, (name, strength) in enumerate(group):
            adapters[i] = self._model.adapter(name)
            scales[i] = strength
        if self._api.llama_set_adapters_lora(self._handle, adapters, len(group), scales):
            raise BackendError(f"The adapters {', '.join(name for name, _ in group)} cannot be applied.")
        self._group = group

    def close(self) -> None:
        """Frees it. The model must still be there."""
        handle, self._handle = self._handle, None
        if handle:
            self._api.llama_free(handle)


def _portable(data: NDArray[np.uint8], slot: int, sequences: int) -> State | None:
    """`data` without what depends on the slot and on the number of slots; `None` if it looks unfamiliar.

    llama.cpp writes a magic number, the slot, the number of slots, and for each slot the number of its cells, followed
    by them if there are any. Here that is one slot. The head moves up to the only one that is not empty, and the empty
    ones after it are zeros like those at the end.
    """
    head = data[: _COUNT_AT + 4 + 4 * sequences].view("<u4")
    counts = head[3 : 3 + slot + 1]
    if len(head) < 4 or head[2] != sequences or counts[:-1].any() or not counts[-1]:
        return None
    begin = 4 * slot
    data[begin : begin + _COUNT_AT + 4] = data[: _COUNT_AT + 4].copy()
    return State(data[begin:], None)


def _params(api: Any, settings: Settings) -> Any:
    params = api.llama_context_default_params()
    params.n_ctx = settings.cells
    params.n_batch = params.n_ubatch = settings.batch_tokens
    params.n_seq_max = settings.sequences
    params.n_outputs_max = params.n_outputs_max_per_seq = min(settings.outputs, settings.batch_tokens)
    params.n_threads = params.n_threads_batch = settings.threads
    params.type_k = params.type_v = TYPE_NUMBERS[settings.kv_type]
    choice = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[settings.flash_attention]
    params.flash_attn_type = getattr(api, f"LLAMA_FLASH_ATTN_TYPE_{choice}")
    params.rope_freq_base = settings.rope_freq_base
    params.rope_freq_scale = settings.rope_freq_scale
    params.kv_unified = False
    params.no_perf = True
    return params


def _batch(api: Any, tokens: Any, positions: Any, counts: Any, sequences: Any, outputs: Any) -> Any:
    """llama.cpp's batch over our arrays; `tokens` may be `None`, for one of vectors."""
    int32, int8 = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
    batch = api.llama_batch()
    if tokens is not None:
        batch.token = tokens.ctypes.data_as(int32)
    batch.pos = positions.ctypes.data_as(int32)
    batch.n_seq_id = counts.ctypes.data_as(int32)
    batch.seq_id = sequences.ctypes.data_as(ctypes.POINTER(int32))
    batch.logits = outputs.ctypes.data_as(int8)
    return batch
