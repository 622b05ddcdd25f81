"""Texts as tokens, by the tokenizer of a Hugging Face folder."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import BackendError, InvalidInput, InvalidOption, ModelFileError, Tensors
from backends.transformers import joining
from backends.transformers.folder import Folder
from backends.transformers.library import Library, Network, from_folder, reason

Ids = NDArray[np.int64]

_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json", "source.spm")
"""Names of files, one of which a folder needs: the library makes do with an empty vocabulary."""
_CALL_TOKENS = {"cpu": 2048, "cuda": 65536}
"""Of a call, padding included."""
_CALL_COST = {"cpu": 48, "cuda": 512}
"""What a call costs beside its tokens, in tokens: padding for less than that is cheaper than another call."""


@dataclass(frozen=True)
class Encoded:
    """A text, or a pair of them, as a model takes it."""

    ids: list[int]
    types: list[int] | None
    """Which of the two texts each token is of, for models that want to know."""
    offsets: list[tuple[int, int]] | None
    """The characters of each token."""
    sequences: list[int | None] | None
    """Which of the two texts each token is of; `None` for special ones."""
    words: list[int | None] | None
    """Which word of its text each token is of; `None` for special ones."""

    def __len__(self) -> int:
        return len(self.ids)


class Tokenizer:
    """The tokenizer of a folder."""

    def __init__(self, library: Library, folder: Folder, *, trusted: bool) -> None:
        """Raises `ModelFileError`."""
        if not any(file for pattern in _VOCABULARIES for file in folder.path.glob(pattern)):
            raise ModelFileError(f"{folder.name} has no tokenizer: neither tokenizer.json nor a vocabulary is there.")
        try:
            self.inner = from_folder(library.transformers.AutoTokenizer, folder.path, trusted)
            self._names = set(self.inner.model_input_names)
            self.inner("A text.")
        except BackendError:
            raise
        except BaseException as e:  # what its Rust part finds to be impossible is no Exception
            if isinstance(e, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            raise ModelFileError(f"The tokenizer of {folder.name} cannot be loaded: {reason(e)}") from e
        self.pad = int(self.inner.pad_token_id) if self.inner.pad_token_id is not None else 0
        self._lock = threading.Lock()
        """How texts are cut is a setting of the library's tokenizer, which each call sets anew."""

    def check_places(self, folder: Folder) -> None:
        """Raises `ModelFileError` if it cannot tell where in a text a token is."""
        if not self.inner.is_fast:
            raise ModelFileError(f"The tokenizer of {folder.name} cannot tell where in a text its tokens are.")

    @property
    def longest(self) -> int | None:
        """Tokens of the longest text, if the folder says; a tokenizer that does not know has a huge number."""
        length = self.inner.model_max_length
        return int(length) if length is not None and length < 1 << 24 else None

    def encode(self, text: str, pair: str | None = None, *, limit: int | None = None, places: bool = False) -> Encoded:
        """The tokens of a text or a pair, special ones among them; cut to `limit`, at the end of the last text.

        `places` adds where in the text each token is.
        """
        arguments: dict[str, Any] = {"return_offsets_mapping": True} if places else {}
        if limit is not None:
            arguments |= {"truncation": "only_second" if pair is not None else True, "max_length": limit}
        with self._lock:
            found = self.inner(text, pair, verbose=False, **arguments)
        return Encoded(
            found["input_ids"],
            found.get("token_type_ids") if "token_type_ids" in self._names else None,
            found["offset_mapping"] if places else None,
            found.sequence_ids(0) if places else None,
            found.word_ids(0) if places else None,
        )

    def features(self, rows: Sequence[Encoded], network: Network) -> dict[str, Any]:
        """The tensors for some rows, shorter ones padded at their end."""
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self.pad, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        types = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row.ids
            mask[i, : len(row)] = 1
            if row.types is not None:
                types[i, : len(row)] = row.types
        named = {"input_ids": ids, "attention_mask": mask}
        if rows[0].types is not None:
            named["token_type_ids"] = types
        return {name: network.torch.from_numpy(array).to(network.device) for name, array in named.items()}

    def joined(self, rows: Sequence[Encoded], first: int, network: Network) -> dict[str, Any]:
        """What the network takes for some rows as one sequence, without padding. The position of the first token of
        each is `first`."""
        named = {
            "input_ids": [token for row in rows for token in row.ids],
            "position_ids": [position for row in rows for position in range(first, first + len(row))],
        }
        if rows[0].types is not None:
            named["token_type_ids"] = [kind for row in rows for kind in row.types or ()]
        tensors = {name: network.torch.tensor([values], device=network.device) for name, values in named.items()}
        return {**tensors, "text_lengths": list(map(len, rows))}


class Reader:
    """Texts as tokens of bounded length, and the batches that they are computed in."""

    def __init__(self, tokenizer: Tokenizer, network: Network, length: int, truncate: bool) -> None:
        self.tokenizer = tokenizer
        self.length = length
        """Tokens of the longest text."""
        self._network = network
        self._truncate = truncate
        self._first = _first_position(network)
        self._joins = False
        """Whether texts are computed in one sequence."""
        self._pads = True
        """Whether texts are padded to be computed together."""

    def encode(
        self, text: str, name: str, truncate: bool | None, *, pair: str | None = None, places: bool = False
    ) -> Encoded:
        """The tokens of a text; `name` is what errors call it. Raises `InvalidInput` for one that is too long."""
        found = self.tokenizer.encode(text, pair, places=places)
        if not found.ids:
            raise InvalidInput(f"{name} is empty.", field="input")
        if len(found) <= self.length:
            return found
        if not (self._truncate if truncate is None else truncate):
            raise InvalidInput(
                f"{name} has {len(found)} tokens; the model takes at most {self.length}. "
                "Shorten it, ask for it to be cut (truncate), or register the model with --set truncate=true.",
                field="input",
            )
        if pair is not None and len(found) - len(self.tokenizer.encode(pair)) >= self.length - 1:
            raise InvalidInput(
                f"{name} has {len(found)} tokens; the model takes at most {self.length}, and so many are left if its "
                "last part is cut. Shorten its first part.",
                field="input",
            )
        return self.tokenizer.encode(text, pair, limit=self.length, places=places)

    def settle(self, predict: Callable[[Tensors], Tensors], example: Tensors, *, join: bool) -> None:
        """Finds out how texts can be computed together, such that `predict` answers as for each alone: joined, if
        outputs for each token are all that is needed; else padded; else they are not.

        On a GPU, where many small calls are slow, they are not joined. In 16 bits answers cannot be compared.
        """
        network = self._network
        if network.dtype != "float32":
            return
        try:
            trial = joining.Trial(predict, example)
        except BackendError:  # texts that are very short are all that it takes
            return
        if join and network.device.type == "cpu" and joining.can_try(network.model):
            joining.attend_by_text(network.model)
            self._joins = True
            if trial.passes():
                return
            joining.attend_as_before(network.model)
            self._joins = False
        self._pads = trial.passes()

    def compute(self, rows: Sequence[Encoded], *names: str) -> Iterator[tuple[list[int], Any, list[Any]]]:
        """What the network makes of some rows: which of them were computed together, which of their tokens are their
        own [rows, tokens], and the outputs of these names.

        In a joined sequence only outputs for each token are those of a text.
        """
        network, lengths = self._network, [len(row) for row in rows]
        if self._joins:
            for group in joining.groups(lengths):
                outputs = network.compute(**self.tokenizer.joined([rows[i] for i in group], self._first, network))
                for i, own in zip(group, joining.places([lengths[i] for i in group]), strict=True):
                    mask = network.torch.ones((1, lengths[i]), dtype=network.torch.int64)
                    yield [i], mask, [getattr(outputs, name)[:, own] for name in names]
            return
        kind = network.device.type
        cost = _CALL_COST[kind] if self._pads else 0
        for group in groups(lengths, _CALL_TOKENS[kind], cost):
            features = self.tokenizer.features([rows[i] for i in group], network)
            outputs = network.compute(**features)
            yield group, features["attention_mask"], [getattr(outputs, name) for name in names]


def groups(lengths: Sequence[int], most: int, cost: int) -> list[list[int]]:
    """Indices of rows by like length, with at most `most` tokens in a group unless it is a lone row.

    Of all ways to cut the sorted rows, the one with the fewest tokens, padding included, where a group costs as much as
    `cost` tokens beside its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    least, begin = [0], [0]  # for the first rows, so many: what they cost, and where their last group begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        least.append(least[end - 1] + longest + cost)
        begin.append(end - 1)
        padding, bearable = 0, cost * (1 + math.log(end))  # if a group has more, some cut of it costs less
        for start in range(end - 2, -1, -1):
            tokens = (end - start) * longest
            padding += longest - lengths[order[start]]
            if tokens > most or padding > bearable:
                break
            if least[start] + tokens + cost < least[end]:
                least[end], begin[end] = least[start] + tokens + cost, start
    found, end = [], len(order)
    while end:
        found.append(order[begin[end] : end])
        end = begin[end]
    return found[::-1]


def length_of(network: Network, tokenizer: Tokenizer, wanted: int | None, usual: int | None = None) -> int:
    """Tokens of the longest text: as `wanted`, as is `usual`, or as the folder says. Raises `InvalidOption`."""
    most = _positions(network)
    if wanted is not None and most is not None and wanted > most:
        raise InvalidOption(
            f"Option max_context_length must be at most {most}, for which the model was trained; got {wanted}.",
            field="config.max_context_length",
        )
    known = [n for n in (most, tokenizer.longest if usual is None else usual) if n]
    return wanted or min(known, default=512)


def _positions(network: Network) -> int | None:
    """How many positions a model knows."""
    most = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    for table in _counted_from_padding(network):
        most = min(most or table.num_embeddings, table.num_embeddings - table.padding_idx - 1)
    return int(most) if isinstance(most, int) and most > 0 else None


def _first_position(network: Network) -> int:
    """The number of the first position of a text."""
    return max((int(table.padding_idx) + 1 for table in _counted_from_padding(network)), default=0)


def _counted_from_padding(network: Network) -> Iterator[Any]:
    """Tables of positions that begin to count behind the number of their padding token."""
    for name, module in network.model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            yield module
