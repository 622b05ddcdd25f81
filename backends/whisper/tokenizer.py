"""The tokenizer of a Whisper model: its ``tokenizer.json``, or one that is made of its vocabulary.

faster-whisper would download the one that is missing. The vocabulary has all there is to know: the tokens of a
byte-pair encoding are numbered in the order in which they were merged, so each is the merge of the two parts that the
tokens before it leave of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.base import ModelFileError
from backends.whisper import file

END = "<|endoftext|>"
"""The first token that is no text; all after it are none either."""
_NEEDED = (END, "<|startoftranscript|>", "<|startofprev|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>")
_LONGEST = 256
"""Characters of a token; more than any has, as their merges take time."""


def load(folder: Path, tokens: int) -> Any:
    """The `tokenizers.Tokenizer` of a model with so many tokens. Raises `ModelFileError`."""
    vocabulary = file.vocabulary(folder)
    if len(vocabulary) != tokens:
        raise ModelFileError(f"{folder} has a vocabulary of {len(vocabulary)} tokens, and weights for {tokens}.")
    path = folder / file.TOKENIZER
    found = _read(path) if path.is_file() else build(vocabulary, str(folder))
    numbers = found.get_vocab(with_added_tokens=True)
    if max(numbers.values(), default=0) >= tokens:
        raise ModelFileError(f"{path} has more tokens than the model, which has {tokens}.")
    missing = [token for token in _NEEDED if token not in numbers]
    if missing:
        raise ModelFileError(f"{folder} has no token {missing[0]}, so it is no Whisper model.")
    at = numbers[END]
    if any(number >= at and vocabulary[number] != token for token, number in numbers.items()):
        raise ModelFileError(f"{path} does not belong to the vocabulary beside it: their special tokens differ.")
    return found


def languages(tokenizer: Any, known: list[str]) -> tuple[str, ...]:
    """The codes of the languages that a tokenizer has, among the `known` ones."""
    return tuple(code for code in known if tokenizer.token_to_id(f"<|{code}|>") is not None)


def _read(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as e:  # the library raises nothing more specific
        raise ModelFileError(f"{path} is no tokenizer: {str(e)[:100]}.") from None


def build(vocabulary: list[str], name: str) -> Any:
    """The tokenizer of a vocabulary. Raises `ModelFileError`."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    if END not in vocabulary:
        raise ModelFileError(f"{name} has no token {END}, so it is no Whisper model.")
    end = vocabulary.index(END)
    ranks = {token: rank for rank, token in enumerate(vocabulary[:end])}
    if any(len(token) > _LONGEST for token in ranks):
        raise ModelFileError(f"{name} has a vocabulary with a token of more than {_LONGEST} characters.")
    tokenizer = Tokenizer(BPE(vocab=ranks, merges=list(_merges(ranks))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in vocabulary[end:]])
    return tokenizer


def _merges(ranks: dict[str, int]) -> Iterator[tuple[str, str]]:
    """The pairs that were merged, in their order."""
    for token, rank in ranks.items():
        parts = list(token)
        while len(parts) > 2:
            at = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            if ranks.get(parts[at] + parts[at + 1], rank) >= rank:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2 and parts[0] in ranks and parts[1] in ranks:
            yield parts[0], parts[1]
