"""``python -m benchmarks NAME``: runs one workload, or ``all``, and writes its table, JSON and plot.

Exit code 0 when it ran, whether its bars were met or missed; 1 when the run broke; 2 for a bad command line.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import llm_servers, models, report, servers
from benchmarks.harness import Options, Study
from benchmarks.workloads import cold_start, compute, families, large_tensors, llm, memory, neighbours, overhead, ragged

WORKLOADS: dict[str, Callable[[Options], Study]] = {
    "overhead": overhead.run,
    "compute": compute.run,
    "ragged": ragged.run,
    "large-tensors": large_tensors.run,
    "llm": llm.run,
    "cold-start": cold_start.run,
    "memory": memory.run,
    "neighbours": neighbours.run,
    "families": families.run,
}

NAMES = tuple(dict.fromkeys(servers.NAMES + llm_servers.NAMES))

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Runs what the command line asks for. Returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args()
    only = frozenset(arguments.systems.split(",")) if arguments.systems else None
    if unknown := sorted((only or frozenset()) - set(NAMES)):
        parser.error(f"no system is named {', '.join(unknown)}; they are {', '.join(NAMES)}")
    options = Options(
        rounds=arguments.rounds or (1 if arguments.quick else 3),
        scale=0.3 if arguments.quick else 1.0,
        only=only,
        parts=frozenset(arguments.parts.split(",")) if arguments.parts else None,
        quick=arguments.quick,
    )
    # A smoke run must not replace the results of a full one.
    folder = arguments.output or (models.cache() / "quick" if arguments.quick else RESULTS)
    names = list(WORKLOADS) if arguments.name == "all" else [arguments.name]
    broken = [name for name in names if not _run(name, options, folder)]
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _run(name: str, options: Options, folder: Path) -> bool:
    """Runs one workload and reports it; returns whether it ran."""
    print(f"{name}: {options.rounds} round(s)", file=sys.stderr)
    where, begin = report.machine_before(), time.perf_counter()
    try:
        study = WORKLOADS[name](options)
    except Exception:
        traceback.print_exc()
        return False
    seconds = time.perf_counter() - begin
    data, picture = report.write(study, options, seconds, where, folder)
    print(report.as_text(study))
    print(f"  {seconds:.0f} s; wrote {data} and {picture}", flush=True)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures UniModel against its peers.")
    parser.add_argument("name", choices=[*WORKLOADS, "all"], help="the workload")
    parser.add_argument("--quick", action="store_true", help="one short round: proves that it runs, measures little")
    parser.add_argument("--rounds", type=int, help="rounds of A B A B …, at least 3 for a result [3]")
    parser.add_argument("--systems", help="comma-separated names of the systems to run [all]")
    parser.add_argument("--parts", help="comma-separated names of the families to run, in the workload families [all]")
    parser.add_argument("--output", type=Path, help=f"folder of the results [{RESULTS}]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
