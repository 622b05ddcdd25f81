"""Texts of very different lengths, the same in every run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SHORTEST, LONGEST = 8, 256
"""Tokens of the texts, the two special ones among them."""


def ragged(folder: Path, count: int) -> list[str]:
    """Texts of words that are one token each, in random order; any length is as likely as its double.

    So there are as many of 8 to 16 tokens as of 128 to 256: questions, titles, sentences and paragraphs.
    """
    vocabulary = (folder / "vocab.txt").read_text("utf-8").split()
    words = [word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2]
    rng = np.random.default_rng(8)
    lengths = np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST), count)).round().astype(int) - 2
    lengths[:2] = SHORTEST - 2, LONGEST - 2
    rng.shuffle(lengths)
    return [" ".join(rng.choice(words, length)) for length in lengths.tolist()]
