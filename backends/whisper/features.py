"""faster-whisper's extractor of features, such that long recordings need little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import mel


def extractor(mels: int) -> Any:
    """A `faster_whisper.feature_extractor.FeatureExtractor` that needs little memory."""
    from faster_whisper.feature_extractor import FeatureExtractor

    class Extractor(FeatureExtractor):  # type: ignore[misc]  # the library has no types
        def __call__(self, waveform: NDArray[np.float32], padding: int = 160, chunk_length: int | None = None) -> Any:
            moments = (len(waveform) + padding) // self.hop_length
            if chunk_length is not None or moments <= mel.BLOCK:
                return super().__call__(waveform, padding=padding, chunk_length=chunk_length)
            return mel.in_blocks(waveform, padding, moments, self.mel_filters)

    return Extractor(feature_size=mels)
