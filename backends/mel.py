"""What a Whisper model hears of a recording: the energies of its mel bands, a hundred times a second.

The libraries' own extractors take the spectrum of the whole recording at once, for which an hour needs several GiB.
This one gives the same features, and takes a minute after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import ModelFileError

FIXED = {"sampling_rate": 16_000, "hop_length": 160, "n_fft": 400, "chunk_length": 30}
"""What all models have in common; ``feature_size``, how many bands there are, differs."""
BLOCK = 6000
"""Moments whose spectra are computed at once."""


def check(settings: dict[str, Any], mels: int, name: str) -> None:
    """Raises `ModelFileError` for a preprocessor that is no Whisper's, or of a model with other features."""
    for key, value in {**FIXED, "feature_size": mels}.items():
        if settings.get(key, value) != value:
            raise ModelFileError(f"{name} has {key} {str(settings[key])[:20]}; this model needs {value}.")


def in_blocks(
    waveform: NDArray[np.float32], padding: int, moments: int, filters: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The features of so many moments of a recording, behind which there are `padding` zeros; `filters` are the mel
    bands [bands, frequencies]."""
    n_fft, hop = FIXED["n_fft"], FIXED["hop_length"]
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    features = np.empty((len(filters), moments), np.float32)
    for begin in range(0, moments, BLOCK):
        end = min(begin + BLOCK, moments)
        start, stop = begin * hop - n_fft // 2, (end - 1) * hop + n_fft // 2  # a moment is in the middle of its window
        sound = _around(waveform, padding, start, stop)
        frames = np.lib.stride_tricks.sliding_window_view(sound, n_fft)[::hop]
        power = np.abs(np.fft.rfft(frames * window).astype(np.complex64)) ** 2
        features[:, begin:end] = np.log10(np.clip(filters @ power.T, a_min=1e-10, a_max=None))
    np.maximum(features, features.max() - 8.0, out=features)
    features += 4.0
    features /= 4.0
    return features


def _around(waveform: NDArray[np.float32], padding: int, start: int, stop: int) -> NDArray[np.float32]:
    """The samples ``[start, stop)`` of a recording with `padding` zeros behind it, which is mirrored at both ends."""
    total = len(waveform) + padding
    left, right = max(0, -start), max(0, stop - total)
    inside = waveform[start + left : stop - right]
    zeros = stop - right - (start + left) - len(inside)
    sound = np.pad(inside, (0, zeros)) if zeros else inside
    return np.pad(sound, (left, right), mode="reflect") if left or right else sound
