"""Runs a model that generates text: prompts, and the next token of many sequences in one call."""

from __future__ import annotations

import inspect
from collections.abc import Sequence as Several
from typing import Any

import numpy as np

from backends.base import Tensors
from backends.sampling import Logits
from backends.transformers import cache
from backends.transformers.cache import Batch, State
from backends.transformers.library import Network
from backends.transformers.sequences import Part, Sequence

_EXAMPLE = 8
"""Tokens of the example by which changes of a model are judged."""


class Decoder:
    """Owns the batch of sequences that generate, and knows what the model's `forward` takes.

    To be used in inference mode.
    """

    def __init__(self, network: Network, vocab_size: int) -> None:
        self._network = network
        self._vocab_size = vocab_size
        self._torch = network.torch
        self._takes = set(inspect.signature(network.model.forward).parameters)
        self._cache_name = "cache" if "cache" in self._takes else "past_key_values"
        self.batches, layers = cache.shape_of(network.library, network.config)
        """Whether sequences are computed side by side."""
        self._batch = Batch(network.library, layers)
        self._rows: list[Sequence] = []

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values in the batch."""
        return self._batch.nbytes

    def answer(self) -> Tensors:
        """The logits of a few tokens, which tell whether the model computes what it did before."""
        step = max(1, self._vocab_size // _EXAMPLE)
        tokens = self._torch.arange(0, self._vocab_size, step, device=self._network.device)[None, :_EXAMPLE]
        return {"logits": self._network.compute(input_ids=tokens, use_cache=False).logits.float().cpu().numpy()}

    def compute_prompt(self, sequence: Sequence, count: int) -> Logits:
        """Computes the next `count` pending tokens of a sequence, and returns the logits after the last of them."""
        if sequence.cache is None:
            sequence.cache = cache.of_prompt(self._network.library, self._network.config, joins=self.batches)
        begin, end = sequence.stored, sequence.stored + count
        torch, device = self._torch, self._network.device
        logits = self._compute(
            input_ids=torch.from_numpy(sequence.tokens[begin:end].astype(np.int64)).to(device)[None],
            attention_mask=torch.ones(1, end, dtype=torch.long, device=device) if self.batches else None,
            position_ids=torch.arange(begin, end, device=device)[None],
            cache=sequence.cache,
        )
        sequence.stored = end
        last: Logits = logits[0]
        return last

    def compute_prompts(self, parts: Several[Part]) -> list[Logits]:
        """Computes pending tokens of sequences in one call, and returns the logits after the last ones, in that order.

        A call has as many tokens of each. Where fewer are pending, those before are computed anew: so each sequence is
        without a gap, and what is before its beginning is all that has to be filled up.
        """
        if len(parts) == 1:
            return [self.compute_prompt(*parts[0])]
        library, config, device = self._network.library, self._network.config, self._network.device
        width = max(part.length for part in parts)
        ends = [part.sequence.stored + part.length for part in parts]
        begins = [max(0, end - width) for end in ends]
        tokens = np.zeros((len(parts), width), np.int64)
        for row, part in enumerate(parts):
            new = part.sequence.tokens[begins[row] : ends[row]]
            tokens[row, width - len(new) :] = new
        positions, mask = cache.places(self._torch, ends, width, device)
        joint = cache.side_by_side(library, config, [part.sequence.cache for part in parts], begins)
        logits = self._compute(
            input_ids=self._torch.from_numpy(tokens).to(device),
            attention_mask=mask,
            position_ids=positions,
            cache=joint,
        )
        own = [cache.of_row(library, config, joint, row, end) for row, end in enumerate(ends)]
        for row, part in enumerate(parts):
            part.sequence.cache, part.sequence.stored = own[row], ends[row]
        return list(logits)

    def share(self, prompt: Any, stored: int, follower: Sequence) -> None:
        """Gives a sequence the cache of another with the same prompt, of which so many tokens are computed."""
        follower.cache = prompt if self.batches else cache.copied(prompt)  # what joins the batch is copied there
        follower.stored = stored

    def nbytes_of(self, sequence: Sequence) -> int:
        """Bytes of the keys and values that are computed for a sequence."""
        if sequence.row >= 0:
            return self._batch.token_bytes * sequence.stored
        return 0 if sequence.cache is None else cache.state_of(sequence.cache).nbytes

    def state(self, sequence: Sequence) -> State:
        """The keys and values that are computed for a sequence, some of which are."""
        return self._batch.state(sequence.row) if sequence.row >= 0 else cache.state_of(sequence.cache)

    def restore(self, sequence: Sequence, state: State, length: int) -> None:
        """Gives a sequence the keys and values of its first `length` tokens, which a state begins with."""
        sequence.cache = cache.of_state(self._network.library, self._network.config, state, length)
        sequence.restored(length)

    def join(self, sequence: Sequence) -> None:
        """Takes a sequence whose prompt is computed into the batch."""
        if self.batches:
            self._batch.join(sequence.cache, sequence.stored)
            sequence.cache, sequence.row = None, len(self._rows)
        self._rows.append(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Drops what was computed for a sequence."""
        if sequence in self._rows:
            if self.batches:
                last = self._rows.pop()
                self._batch.leave(sequence.row)
                if last is not sequence:
                    self._rows[sequence.row], last.row = last, sequence.row
            else:
                self._rows.remove(sequence)
        sequence.expel()

    def decode(self) -> list[tuple[Sequence, Logits]]:
        """Computes the last token of each sequence in the batch; the logits after it."""
        if not self.batches:
            return [(sequence, self.compute_prompt(sequence, 1)) for sequence in self._rows]
        torch, device = self._torch, self._network.device
        positions, mask = self._batch.begin_step(device)
        tokens = np.array([[sequence.tokens[-1]] for sequence in self._rows], np.int64)
        logits = self._compute(
            input_ids=torch.from_numpy(tokens).to(device),
            attention_mask=mask,
            position_ids=positions,
            cache=self._batch.cache,
        )
        self._batch.end_step()
        for sequence in self._rows:
            sequence.stored += 1
        return list(zip(self._rows, logits, strict=True))

    @property
    def rows(self) -> Several[Sequence]:
        """The sequences in the batch."""
        return self._rows

    def _compute(self, *, position_ids: Any, cache: Any, **inputs: Any) -> Logits:
        """The logits after the last token of each row, in the memory of this process."""
        inputs[self._cache_name] = cache
        if "position_ids" in self._takes:
            inputs["position_ids"] = position_ids
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        self._network.use_threads()
        found = self._network.compute(**inputs, use_cache=True).logits[:, -1, : self._vocab_size]
        logits: Logits = found.float().cpu().numpy().copy()
        return logits
