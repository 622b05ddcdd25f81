"""Servers are started and ended whole; models are written once and answer as they should."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks import models
from benchmarks.peers import compute
from benchmarks.processes import Process, StartFailed, free_port, resident_mb

PARENT_OF_A_STUBBORN_CHILD = """
import signal, subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child])
print("started", flush=True)
time.sleep(60)
"""


def test_stop_ends_children_that_ignore_a_polite_request(tmp_path: Path) -> None:
    process = Process([sys.executable, "-c", PARENT_OF_A_STUBBORN_CHILD], tmp_path / "log.txt")
    while len(process.family()) < 2:
        process.check_alive()
        time.sleep(0.01)
    family = process.family()
    assert resident_mb(family) > resident_mb(family[:1]) > 1
    process.stop()
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    process = Process([sys.executable, "-c", "raise SystemExit('no such model')"], tmp_path / "log.txt")
    try:
        with pytest.raises(StartFailed, match=r"exit code 1: no such model"):
            process.wait_ready(free_port(), "/")
    finally:
        process.stop()


def test_the_onnx_and_the_sklearn_model_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMODEL_BENCH_CACHE", str(tmp_path))
    onnx, sklearn = models.iris_onnx(), models.iris_sklearn()
    assert onnx.path.parent == tmp_path / "models"
    rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)
    ours, theirs = (compute.Model(str(m.path), 1).predict(rows) for m in (onnx, sklearn))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_served_reads_what_the_harness_writes() -> None:
    served = compute.Served("resnet50:binary:3x2x2:8:/a:b/resnet50.onnx")
    assert (served.kind, served.route, served.shape) == ("binary", "resnet50-binary", (3, 2, 2))
    assert (served.max_batch_size, served.path) == (8, "/a:b/resnet50.onnx")
    assert served.row(np.zeros(12, np.float32).tobytes()).shape == (3, 2, 2)


def test_images_are_decoded_to_the_classifier_s_input() -> None:
    pixels = compute.decode_image(models.jpeg_base64())
    assert pixels.shape == (3, 224, 224)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
