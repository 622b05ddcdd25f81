"""Tests of calls that compute several prompts: the numbers are those that the library gives for each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import Device
from backends.generation import Generation
from backends.sampling import Logits
from backends.transformers import cache
from backends.transformers.backend import TransformersBackend, TransformersGenerationOptions
from backends.transformers.decoder import Decoder
from backends.transformers.sequences import Part, Request, Sequence
from tests.backends.transformers.test_transformers_generation import ARCHITECTURES
from tests.models_transformers import decoder

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

MASKED = [architecture for architecture in ARCHITECTURES if architecture != "MambaForCausalLM"]
LENGTHS = (23, 4, 1, 40, 17)


class Runs:
    """A loaded model, sequences of random tokens, and what the library computes of one alone."""

    def __init__(self, folder: Path) -> None:
        self.backend = TransformersBackend()
        self.backend.load(folder, Device("cpu", threads=1), TransformersGenerationOptions(prefix_cache=False))
        self._random = np.random.default_rng(5)

    @property
    def decoder(self) -> Decoder:
        assert self.backend._decoder is not None
        return self.backend._decoder

    def sequence(self, length: int, stored: int = 0) -> Sequence:
        """One of which so many tokens are computed."""
        prompt = self._random.integers(10, 40_000, length).tolist()
        make: Any = lambda choice: None  # noqa: E731 - nothing is chosen here
        request = Request(0, Generation(prompt=tuple(prompt)), prompt, length + 9, make)
        sequence = Sequence(request, 0, self.backend._vocabulary)
        if stored:
            self.decoder.compute_prompt(sequence, stored)
        return sequence

    def alone(self, sequence: Sequence, length: int) -> Logits:
        """The logits after so many tokens, without anything of what is tested."""
        tokens = torch.from_numpy(sequence.tokens[:length].astype(np.int64))[None]
        found: Logits = self.backend._loaded.model(input_ids=tokens).logits[0, -1, : self.decoder._vocab_size].numpy()
        return found


@pytest.fixture(scope="module", params=MASKED)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    name: str = request.param
    return Runs(decoder(tmp_path_factory.mktemp("decoder") / "m", name, **ARCHITECTURES[name]))


@pytest.mark.parametrize(
    "stored",
    [(0, 0, 0, 0, 0), (20, 0, 0, 12, 9), (22, 3, 0, 39, 16), (3, 1, 0, 0, 0)],
    ids=["whole", "some begun", "one token each", "little begun"],
)
def test_prompts_side_by_side_are_computed_as_alone(runs: Runs, stored: tuple[int, ...]) -> None:
    with torch.inference_mode():
        sequences = [runs.sequence(*sizes) for sizes in zip(LENGTHS, stored, strict=True)]
        found = runs.decoder.compute_prompts([Part(each, each.pending) for each in sequences])
        for sequence, logits in zip(sequences, found, strict=True):
            np.testing.assert_allclose(logits, runs.alone(sequence, sequence.count), rtol=1e-3, atol=1e-3)
            assert sequence.pending == 0
            assert cache.state_of(sequence.cache).layers[0][0].shape[2] == sequence.count
            runs.decoder.join(sequence)
        for sequence in sequences:
            sequence._buffer[sequence.count] = 77
            sequence.count += 1
        for sequence, logits in runs.decoder.decode():
            np.testing.assert_allclose(logits, runs.alone(sequence, sequence.count), rtol=1e-3, atol=1e-3)
        for sequence in sequences:
            runs.decoder.leave(sequence)


def test_part_of_a_prompt_beside_a_whole_one(runs: Runs) -> None:
    with torch.inference_mode():
        long, short = runs.sequence(40, 8), runs.sequence(6)
        runs.decoder.compute_prompts([Part(long, 10), Part(short, 6)])
        assert (long.stored, short.stored) == (18, 6)
        np.testing.assert_allclose(runs.decoder.compute_prompt(long, 22), runs.alone(long, 40), rtol=1e-3, atol=1e-3)


def test_a_call_that_fails_leaves_everything_as_it_was(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        sequences = [runs.sequence(30, 11), runs.sequence(9)]
        parts = [Part(each, each.pending) for each in sequences]
        with monkeypatch.context() as patch:
            patch.setattr(cache, "of_row", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                runs.decoder.compute_prompts(parts)
        assert [each.stored for each in sequences] == [11, 0]
        found = [runs.decoder.compute_prompts([part])[0] for part in parts]
        for sequence, logits in zip(sequences, found, strict=True):
            np.testing.assert_allclose(logits, runs.alone(sequence, sequence.count), rtol=1e-3, atol=1e-3)
