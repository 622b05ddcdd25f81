"""The tokens of a model that generates text: the bytes of each, those that begin and end texts."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.generation import Generation
from backends.prompts import checked
from backends.transformers.tokens import Tokenizer

_SPACE = "\u2581"
"""Stands for a space in the pieces of SentencePiece and its kin."""
_FRAMING = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Vocabulary:
    """What a tokenizer knows, token by token."""

    def __init__(self, tokenizer: Tokenizer, network_size: int, config: Any, generation_config: Any) -> None:
        """`network_size` is how many tokens the network tells apart, some of which may not exist."""
        self._inner = inner = tokenizer.inner
        self.vocab_size = min(network_size, len(inner))
        self.bos = -1 if inner.bos_token_id is None else int(inner.bos_token_id)
        self.eos = -1 if inner.eos_token_id is None else int(inner.eos_token_id)
        self.wants_bos = self.bos >= 0 and inner("a")["input_ids"][:1] == [self.bos]
        self._ends = _ends(self.eos, config, generation_config)
        self._added = {int(token): added for token, added in inner.added_tokens_decoder.items()}
        self._kind = _kind(inner)
        self._bytes = _byte_characters() if self._kind == "bytes" else {}
        self._pieces: dict[tuple[int, bool], bytes] = {}

    @property
    def end_tokens(self) -> NDArray[np.int32]:
        """All tokens that end an answer."""
        return np.array(sorted(token for token in self._ends if token < self.vocab_size), np.int32)

    @property
    def special_tokens(self) -> list[int]:
        """Those whose text is left out of an answer, as a rule."""
        return [token for token, added in self._added.items() if added.special and token < self.vocab_size]

    @property
    def framing_tokens(self) -> list[int]:
        """Those that begin and end texts, or stand for nothing; no answer has their text."""
        ids = (getattr(self._inner, f"{name}_token_id", None) for name in _FRAMING)
        return [int(token) for token in ids if token is not None and 0 <= token < self.vocab_size]

    def ends(self, token: int) -> bool:
        """Whether `token` ends an answer."""
        return token in self._ends

    def tokenize(self, text: str) -> list[int]:
        """The tokens of `text`, in which special tokens are read as such, without one that begins a prompt."""
        tokens: list[int] = self._inner(text, add_special_tokens=False, verbose=False)["input_ids"]
        return tokens

    def prompt_of(self, request: Generation) -> list[int]:
        """The whole prompt in tokens, however long it is. Raises `InvalidInput`."""
        if not isinstance(request.prompt, str):
            return self.begun(checked(request.prompt, self.vocab_size), not request.prompt)
        tokens = checked(self.tokenize(request.prompt), self.vocab_size)
        return self.begun(tokens, (request.add_bos and self.wants_bos) or not tokens)

    def begun(self, tokens: list[int], wanted: bool) -> list[int]:
        """Tokens behind the one that begins a text, if that is `wanted` and there is one."""
        return [self.bos, *tokens] if wanted and self.bos >= 0 and tokens[:1] != [self.bos] else tokens

    def text(self, token: int) -> str:
        """The text of one token; nothing for -1, which stands for a token that the model does not have."""
        return self.token_bytes(token, True).decode("utf-8", "replace") if token >= 0 else ""

    def token_bytes(self, token: int, special: bool) -> bytes:
        """The text of one token; of a special one nothing, unless `special`."""
        known = self._pieces.get((token, special))
        if known is None:
            known = self._pieces[token, special] = self._read(token, special)
        return known

    @functools.cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token."""
        return max(1, *(len(self.token_bytes(token, True)) for token in range(self.vocab_size)))

    def _read(self, token: int, special: bool) -> bytes:
        added = self._added.get(token)
        if added is not None:
            return b"" if added.special and not special else str(added.content).encode()
        piece = self._inner.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if self._kind == "bytes":
            return b"".join(self._bytes.get(c, c.encode()) for c in piece)
        if self._kind == "pieces":
            if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                return bytes([int(piece[3:5], 16)])
            return str(piece).replace(_SPACE, " ").encode()
        return self._behind_another(token).encode()

    def _behind_another(self, token: int) -> str:
        """The text that a token adds to another, for ways of putting tokens together that are not known here."""
        one = self._inner.decode([self._anchor], clean_up_tokenization_spaces=False)
        two = self._inner.decode([self._anchor, token], clean_up_tokenization_spaces=False)
        return str(two[len(one) :])

    @functools.cached_property
    def _anchor(self) -> int:
        return int(self.tokenize("a")[-1])


def _ends(eos: int, config: Any, generation_config: Any) -> frozenset[int]:
    """The tokens that end an answer, by all that a folder says of them."""
    found = {eos} if eos >= 0 else set()
    for source in (config, generation_config):
        value = getattr(source, "eos_token_id", None)
        found |= {int(v) for v in (value if isinstance(value, list | tuple) else [value]) if v is not None}
    return frozenset(token for token in found if token >= 0)


def _kind(inner: Any) -> str:
    """How the text of a token is told from its piece: ``bytes`` (GPT-2's), ``pieces`` (SentencePiece's), ``other``."""
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return "other"
    names = _names(json.loads(backend.decoder.__getstate__()))
    if "ByteLevel" in names:
        return "bytes"
    return "pieces" if names & {"ByteFallback", "Metaspace", "Replace"} and "WordPiece" not in names else "other"


def _names(decoder: dict[str, Any]) -> set[str]:
    """The types of a decoder and its parts."""
    inner = [_names(part) for part in decoder.get("decoders", ())]
    return {str(decoder.get("type"))}.union(*inner)


def _byte_characters() -> dict[str, bytes]:
    """GPT-2's characters for all bytes: those that can be printed are themselves, the rest is what follows 255."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    characters = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}
    return {character: bytes([byte]) for character, byte in characters.items()}
