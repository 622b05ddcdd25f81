"""The projector of a model that sees: llama.cpp's library for it (mtmd), from pixels to what the model takes."""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import BackendError, InvalidInput, InvalidOption, ModelFileError
from backends.generation import IMAGE, Pixels
from backends.gguf.images import Image, Vectors, key_of
from backends.gguf.library import Library

_POSITION_ROWS = 4
"""Of a model with M-RoPE: time, height, width, and one that is not used."""


class Projector:
    """A loaded projector. Owns llama.cpp's context of it; the model that it is for must live longer.

    Raises `ModelFileError` when llama.cpp does not take the file, or not with this model. A file that is damaged may
    end the process: see `backends.gguf.rehearsal`.
    """

    def __init__(self, library: Library, path: Path, model: Any, *, threads: int, gpu: bool) -> None:
        self._api = api = bindings()
        self._library = library
        self._width = int(library.api.llama_model_n_embd_inp(model))
        self._handle: Any = None
        library.listen_to(api.mtmd_log_set)
        library.forget_errors()
        before = library.allocated
        params = api.mtmd_context_params_default()
        params.use_gpu = gpu
        params.print_timings = False
        params.n_threads = threads
        params.media_marker = IMAGE.encode()
        self._handle = api.mtmd_init_from_file(str(path).encode(), model, params)
        if not self._handle:
            raise ModelFileError(
                f"llama.cpp cannot use the projector {path.name} with this model: {self._reason}", field="config.mmproj"
            )
        self.held = path.stat().st_size + library.allocated - before
        """Bytes of the weights, and of what the computation needs."""
        self._grid = bool(api.mtmd_decode_use_mrope(self._handle))
        if not api.mtmd_support_vision(self._handle):
            self.close()
            raise ModelFileError(f"The projector {path.name} takes no images.", field="config.mmproj")

    def tokens(
        self, text: str, pictures: Sequence[Pixels], before: Sequence[int] = ()
    ) -> tuple[list[int], list[Image]]:
        """The tokens of a prompt that follow those `before` it, and the images among them.

        The text has an `IMAGE` for each of `pictures`, which are RGB. Raises `InvalidInput`.
        """
        chunks = self._chunks(text, pictures)
        try:
            return self._read(chunks, list(before))
        finally:
            self._api.mtmd_input_chunks_free(chunks)

    def close(self) -> None:
        """Frees it."""
        handle, self._handle = self._handle, None
        if handle:
            self._api.mtmd_free(handle)

    def _chunks(self, text: str, pictures: Sequence[Pixels]) -> Any:
        """What llama.cpp cuts a prompt into."""
        api = self._api
        data = text.encode("utf-8", "replace")
        asked = api.mtmd_input_text(data, len(data), False, True)
        chunks = api.mtmd_input_chunks_init()
        bitmaps = [self._bitmap(pixels) for pixels in pictures]
        self._library.forget_errors()
        try:
            pointers = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
            status = api.mtmd_tokenize(self._handle, chunks, ctypes.byref(asked), pointers, len(bitmaps))
        finally:
            for bitmap in bitmaps:
                api.mtmd_bitmap_free(bitmap)
        if status:
            api.mtmd_input_chunks_free(chunks)
            raise InvalidInput(f"An image is not as the model's projector takes it: {self._reason}", field="images")
        return chunks

    def _bitmap(self, pixels: Pixels) -> Any:
        """A copy of an image on llama.cpp's side, named by what is in it."""
        height, width, _ = pixels.shape
        pixels = np.ascontiguousarray(pixels)
        pointer = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = self._api.mtmd_bitmap_init(width, height, pointer)
        self._api.mtmd_bitmap_set_id(bitmap, key_of(pixels).encode())
        return bitmap

    def _read(self, chunks: Any, tokens: list[int]) -> tuple[list[int], list[Image]]:
        api = self._api
        images: list[Image] = []
        at = len(tokens)
        for i in range(api.mtmd_input_chunks_size(chunks)):
            chunk = api.mtmd_input_chunks_get(chunks, i)
            if api.mtmd_input_chunk_get_type(chunk) == api.MTMD_INPUT_CHUNK_TYPE_TEXT:
                tokens += self._text(chunk)
            else:
                images.append(self._image(chunk, len(tokens), at, len(images)))
                tokens += images[-1].stand_ins.tolist()
            at += int(api.mtmd_input_chunk_get_n_pos(chunk))
        return tokens, images

    def _text(self, chunk: Any) -> list[int]:
        size = ctypes.c_size_t()
        pointer = self._api.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(size))
        tokens = [int(pointer[i]) for i in range(size.value)]
        if min(tokens, default=0) < 0:
            raise InvalidInput(
                "The model's vocabulary lacks tokens that its projector puts around images: the two do not belong "
                "together.",
                field="images",
            )
        return tokens

    def _image(self, chunk: Any, begin: int, at: int, number: int) -> Image:
        api = self._api
        own = _Chunk(api, chunk)
        size = int(api.mtmd_input_chunk_get_n_tokens(chunk))
        name = api.mtmd_input_chunk_get_id(chunk) or b""
        return Image(
            begin,
            self._positions(chunk, size, at),
            int(api.mtmd_input_chunk_get_n_pos(chunk)),
            key=b"%s %d %d" % (name, number, size),  # the tiles of an image have its name
            whole=bool(api.mtmd_decode_use_non_causal(self._handle, chunk)),
            encode=partial(self._encode, own, size),
        )

    def _positions(self, chunk: Any, size: int, at: int) -> NDArray[np.int32]:
        if not self._grid:
            return np.arange(at, at + size, dtype=np.int32)[None]
        api = self._api
        places = (api.mtmd_decoder_pos * size)()
        api.mtmd_helper_image_get_decoder_pos(api.mtmd_input_chunk_get_tokens_image(chunk), at, places)
        rows = np.frombuffer(places, np.uint32).reshape(size, _POSITION_ROWS).astype(np.int32)
        return np.ascontiguousarray(rows[:, (0, 2, 1, 3)].T)  # they come as time, x, y

    def _encode(self, chunk: _Chunk, size: int) -> Vectors:
        self._library.forget_errors()
        if self._api.mtmd_encode_chunk(self._handle, chunk.handle):
            raise BackendError(f"An image could not be encoded: {self._reason}")
        pointer = self._api.mtmd_get_output_embd(self._handle)
        return np.ctypeslib.as_array(pointer, (size, self._width)).copy()

    @property
    def _reason(self) -> str:
        return " ".join((self._library.last_error or "It does not say why.").split())


class _Chunk:
    """A copy of what llama.cpp made of an image or a tile; freed with this object."""

    def __init__(self, api: Any, chunk: Any) -> None:
        self.handle = api.mtmd_input_chunk_copy(chunk)
        weakref.finalize(self, api.mtmd_input_chunk_free, self.handle).atexit = False


def bindings() -> Any:
    """The functions of mtmd. Raises `InvalidOption` when llama.cpp was built without it."""
    try:
        return importlib.import_module("llama_cpp.mtmd_cpp")
    except (ImportError, OSError, RuntimeError) as e:
        raise InvalidOption(
            "The installed llama-cpp-python was built without mtmd, so that its models see no images. Install another "
            "build of it, or leave the projector out with mmproj=off.",
            field="config.mmproj",
        ) from e
