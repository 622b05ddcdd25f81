"""For all tests: runtimes in the test process itself wait for their threads as they do in a worker."""

from __future__ import annotations

import os

from engine.worker.supervisor import SPINS

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read once, when the first runtime loads GNU OpenMP
