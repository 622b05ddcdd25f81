"""Damaged projectors: each is refused with a sentence, or works; none ends the process that loads it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from backends.base import BackendError
from backends.gguf.projector_file import read_header
from tests import models_gguf, models_mmproj
from tests.backends.gguf.test_gguf_fuzz import ROOT, damages, flipped, head

CASES = 24


def test_no_damaged_projector_ends_the_process(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    whole = models_mmproj.projector("mlp", 64)
    chance = random.Random("projector")
    cases = [("whole", whole.read_bytes()), *chance.sample(list(damages(whole, chance)), 400)]
    names, models = [], []
    for name, data in cases:
        folder = tmp_path / str(len(names))
        folder.mkdir(exist_ok=True)
        projector = folder / "mmproj.gguf"
        projector.write_bytes(data)
        try:
            read_header(projector)
        except BackendError as e:
            assert e.message.endswith(".")
            continue
        (folder / "model.gguf").symlink_to(models_gguf.llama())
        names.append(name)
        models.append(folder / "model.gguf")
        if len(names) == CASES:
            break
    assert len(names) == CASES
    done = subprocess.run(
        [sys.executable, "-m", "tests.gguf_loads"],
        cwd=ROOT,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        input="".join(f"gguf\t{path}\n" for path in models),
        capture_output=True,
        text=True,
        check=True,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name: outcome for name, outcome in zip(names, outcomes, strict=True) if outcome != [0, "ok"]} == {}


def test_cut_and_flipped_headers_raise_nothing_else(tmp_path: Path) -> None:
    whole = models_mmproj.projector("mlp", 64)
    header, _ = head(whole)
    chance = random.Random(1)
    path, refused = tmp_path / "mmproj.gguf", 0
    for case in range(200):
        data = whole.read_bytes()[: chance.randrange(len(header))] if case % 4 == 0 else flipped(header, chance)
        path.write_bytes(data if case % 4 == 0 else data + whole.read_bytes()[len(header) :])
        try:
            read_header(path)
        except BackendError as e:
            assert e.message.endswith(".")
            assert e.field == "config.mmproj"
            refused += 1
    assert refused > 50
