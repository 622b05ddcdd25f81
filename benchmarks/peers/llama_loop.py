"""The least that llama.cpp can take: prompts and greedy decoding in one process, all sequences in one batch a step.

Nothing is served: no HTTP, no text, no slots. Reads ``[{"prompts": [...], "sequences": 8, "tokens": 128}, ...]`` from
stdin, and prints a line with ``{"tokens_per_second": ...}`` for each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as api
import numpy as np

Tokens = np.ndarray[Any, np.dtype[np.int32]]


def main() -> None:
    """Measures each task."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    silent = api.llama_log_callback(lambda *_: None)
    api.llama_log_set(silent, None)
    api.llama_backend_init()
    model = api.llama_model_load_from_file(arguments.model.encode(), api.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp cannot load {arguments.model}")
    for task in json.load(sys.stdin):
        prompts = [tokenize(model, prompt) for prompt in task["prompts"]]
        loop = Loop(model, task["sequences"], max(map(len, prompts)) + task["tokens"], arguments.threads)
        loop.run(prompts[: task["sequences"]], 2)  # warm-up
        waves = [prompts[i : i + task["sequences"]] for i in range(0, len(prompts), task["sequences"])]
        begin = time.perf_counter()
        for wave in waves:
            loop.run(wave, task["tokens"])
        speed = len(prompts) * task["tokens"] / (time.perf_counter() - begin)
        loop.close()
        print(json.dumps({"tokens_per_second": speed}), flush=True)


def tokenize(model: Any, text: str) -> Tokens:
    """The tokens of a prompt, special ones as such."""
    data = text.encode()
    tokens = (api.llama_token * (len(data) + 8))()
    count = api.llama_tokenize(api.llama_model_get_vocab(model), data, len(data), tokens, len(tokens), False, True)
    return np.array(tokens[:count], np.int32)


class Loop:
    """A context for so many sequences of at most `length` tokens."""

    def __init__(self, model: Any, sequences: int, length: int, threads: int) -> None:
        params = api.llama_context_default_params()
        params.n_seq_max = sequences
        params.n_ctx = sequences * ((length + 255) // 256 * 256)
        params.n_batch = max(2048, params.n_ctx)
        params.n_threads = params.n_threads_batch = threads
        self._context = api.llama_init_from_model(model, params)
        self._vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self._batch = api.llama_batch_init(params.n_batch, 0, 1)
        arrays = (self._batch.token, self._batch.pos, self._batch.logits, self._batch.n_seq_id)
        self._token, self._pos, self._wanted, counts = (np.ctypeslib.as_array(a, (params.n_batch,)) for a in arrays)
        counts[:] = 1

    def close(self) -> None:
        """Frees it."""
        api.llama_batch_free(self._batch)
        api.llama_free(self._context)

    def run(self, prompts: Sequence[Tokens], tokens: int) -> None:
        """Generates `tokens` tokens after each prompt."""
        api.llama_memory_clear(api.llama_get_memory(self._context), False)
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        ends = lengths.cumsum()
        count = int(ends[-1])
        self._token[:count] = np.concatenate(prompts)
        self._pos[:count] = np.concatenate([np.arange(length) for length in lengths])
        self._own([sequence for sequence, length in enumerate(lengths) for _ in range(length)])
        self._wanted[:count] = False
        self._wanted[ends - 1] = True
        following = self._decode(count, (ends - 1).tolist())
        self._own(range(len(prompts)))
        self._wanted[: len(prompts)] = True
        for step in range(tokens - 1):
            self._token[: len(prompts)] = following
            self._pos[: len(prompts)] = lengths + step
            following = self._decode(len(prompts), range(len(prompts)))

    def _own(self, sequences: Sequence[int]) -> None:
        """Says which sequence each token of the batch is of."""
        for place, sequence in enumerate(sequences):
            self._batch.seq_id[place][0] = sequence

    def _decode(self, count: int, places: Sequence[int]) -> Tokens:
        """The likeliest token after each of the places in the batch."""
        self._batch.n_tokens = count
        if code := api.llama_decode(self._context, self._batch):
            sys.exit(f"llama_decode gave {code}")
        rows = (np.ctypeslib.as_array(api.llama_get_logits_ith(self._context, p), (self._vocab,)) for p in places)
        return np.array([row.argmax() for row in rows], np.int32)


if __name__ == "__main__":
    main()
