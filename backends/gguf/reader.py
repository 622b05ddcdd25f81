"""Reads a GGUF file forward, never beyond its end."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from backends.base import ModelFileError
from backends.gguf.types import SCALARS

LENGTH = struct.Struct("<Q")
MAX_TEXT = 64 << 20
"""Bytes of one key or text. The longest real ones are chat templates, of some 100 KB."""
_U32 = 4
_BYTE_TOKEN = 6
"""The type of a token that stands for one byte."""
_WINDOW = 1 << 20


class Reader:
    """Reads forward through a window of the file. Raises `ModelFileError` where the file ends too early."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name
        self.size = file.seek(0, 2)
        self._start = 0
        self._window = b""
        self.position = 0
        self.has_all_bytes = False
        self.has_byte_tokens = False

    def need(self, count: int) -> None:
        """Raises unless `count` bytes are left."""
        missing = self.position + count - self.size
        if missing > 0:
            raise self.truncated(missing, "at least ")

    def truncated(self, missing: int, about: str = "") -> ModelFileError:
        count = "1 byte is" if missing == 1 else f"{missing} bytes are"
        return ModelFileError(f"{self.name} is truncated: {about}{count} missing at its end. Download it again.")

    def corrupt(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.name} is corrupt: {what}. Download it again.")

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which the caller holds to be few."""
        self.need(count)
        begin = self.position - self._start
        if begin + count > len(self._window):
            self._fill(count)
            begin = 0
        self.position += count
        return self._window[begin : begin + count]

    def skip(self, count: int) -> None:
        self.need(count)
        self.position += count

    def number(self, form: struct.Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def u32(self) -> int:
        return int(self.number(SCALARS[_U32].form))

    def u64(self) -> int:
        return int(self.number(LENGTH))

    def text(self, what: str, limit: int = MAX_TEXT) -> bytes:
        """A string. `what` says which, should it be longer than `limit`."""
        length = self.u64()
        self.need(length)
        if length > limit:
            raise self.corrupt(f"{what} is {length} bytes long; at most {limit} make sense")
        return self.take(length)

    def skip_texts(self, count: int) -> None:
        """Goes over `count` strings, looking only at their lengths."""
        unpack, head = LENGTH.unpack_from, LENGTH.size
        self.need(count * head)
        while count:
            self._fill(head)
            window, last, at = self._window, len(self._window) - head, 0
            while count and at <= last:
                at += head + unpack(window, at)[0]
                count -= 1
            self.skip(at)
            self.need(count * head)

    def vocabulary(self, count: int) -> None:
        """Goes over `count` tokens. They must differ up to their first null character, but for those that are empty
        then: llama.cpp aborts on a token that is there twice."""
        unpack, head = LENGTH.unpack_from, LENGTH.size
        self.need(count * head)
        seen: set[bytes] = set()
        empty, left, room = 0, count, head
        add = seen.add
        while left:
            self.need(room)
            self._fill(room)
            window, at = self._window, 0
            while left and at + head <= len(window):
                length = unpack(window, at)[0]
                end = at + head + length
                if end > len(window):
                    break
                if length:
                    add(window[at + head : end])
                else:
                    empty += 1
                at, left = end, left - 1
            self.skip(at)
            room = head
            if left and at + head <= len(window):  # the next string reaches beyond the window
                if length > MAX_TEXT:
                    raise self.corrupt(f"a text is {length} bytes long; at most {MAX_TEXT} make sense")
                room = head + length
        if len(seen) + empty == count and 0 in b"".join(seen):
            cut = [text.partition(b"\0")[0] for text in seen]
            seen, empty = set(filter(None, cut)), empty + cut.count(b"")
        if len(seen) + empty != count:
            raise self.corrupt("a token is in its vocabulary twice")
        self.has_all_bytes = all(b"<0x%02X>" % b in seen or bytes((b,)) in seen for b in range(256))

    def token_types(self, count: int) -> None:
        """Goes over the types of `count` tokens."""
        self.has_byte_tokens = _BYTE_TOKEN in memoryview(self.take(4 * count)).cast("i")

    def _fill(self, count: int) -> None:
        """Moves the window to the position, with at least `count` bytes if the file has them."""
        self.file.seek(self.position)
        self._start, self._window = self.position, self.file.read(max(count, _WINDOW))
        if len(self._window) < count:  # it shrank while it was read
            raise self.truncated(count - len(self._window), "at least ")
