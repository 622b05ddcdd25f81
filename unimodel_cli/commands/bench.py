"""`unimodel bench`: latency and throughput of a served model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import InsufficientStorage, MissingRuntime
from unimodel_cli.command import ModelName, Session, command
from unimodel_cli.errors import UsageError
from unimodel_cli.inputs import KINDS, As

if TYPE_CHECKING:
    from unimodel_cli.bench import Level, Target


def add(app: typer.Typer) -> None:
    """Puts the command on the command line."""
    command(
        app,
        "bench",
        examples=[
            "unimodel bench resnet",
            "unimodel bench resnet --concurrency 1,8,32 --duration 10 --plot out.png",
            "unimodel bench resnet --input cat.jpg --json",
        ],
    )(bench)


def bench(
    session: Session,
    name: ModelName,
    concurrency: Annotated[
        str, typer.Option("--concurrency", "-c", metavar="N,…", help="Requests in flight, one level after another.")
    ] = "1,8,32",
    duration: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Of each level, after a warm-up.")] = 5.0,
    given: Annotated[
        str | None, typer.Option("--input", metavar="INPUT", help="What to send; the model's own example by default.")
    ] = None,
    kind: Annotated[As | None, typer.Option("--as", metavar=KINDS, help="What --input is, if not clear.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curves (.png, .svg or .pdf).")] = None,
) -> None:
    """Measure a model's latency and throughput under load.

    It is measured over HTTP, as clients see it. Each of N connections sends its next request when its last one is
    answered. Requests that the server refuses (429) are counted apart from errors.
    """
    levels = _levels(concurrency)
    if plot is not None:
        _need_matplotlib()
    target = _target(session, name, given, kind)
    from unimodel_cli.bench import measure

    results = []
    for n in levels:
        with session.out.waiting(f"Measuring {target.model}@{target.version} with {n} in flight for {duration:g} s"):
            results.append(measure(target, n, duration))
    if plot is not None:
        _plot(results, target, plot)
    if session.json:
        document = {"model": target.model, "version": target.version, "levels": [r.to_json() for r in results]}
        session.out.json(document)
    else:
        _print(session, results)
        if plot is not None:
            session.out.note(f"The curves are in {plot}.")


def _target(session: Session, name: str, given: str | None, kind: As | None) -> Target:
    """The model and the request, which is tried once, so that an input that does not fit is an error and no result."""
    import msgspec

    from unimodel_cli import inputs
    from unimodel_cli.bench import Target
    from unimodel_cli.client import loaded_view, model_path

    with session.out.waiting(f"Loading {name}"):
        view = loaded_view(session.client, name)
    if given is not None:
        body = inputs.body([inputs.read(given, kind)], {}, {}, False, lambda: view.task == "custom")
    elif view.example is not None:
        body = inputs.Body(msgspec.json.encode(view.example), "application/json")
    else:
        raise UsageError(f"{view.name} gives no example; say what to send with --input.")
    path = f"{model_path(f'{view.name}@{view.version}')}:predict"
    session.client.send("POST", path, body.content, {"content-type": body.content_type}, timeout=None)
    return Target(session.client, session.api_key, path, view.name, view.version, body.content, body.content_type)


def _levels(text: str) -> list[int]:
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or min(levels) < 1 or max(levels) > 10_000:
        raise UsageError(f"--concurrency must be whole numbers from 1 to 10000, such as 1,8,32; got {text!r}.")
    return levels


def _print(session: Session, results: list[Level]) -> None:
    from unimodel_cli.bench import BUSY_CLIENT

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    session.out.table(
        ["IN FLIGHT", "REQ/S", "P50 MS", "P90 MS", "P99 MS", "MAX MS", "REFUSED", "ERRORS", "ROWS/BATCH"],
        [
            [
                r.concurrency,
                f"{r.throughput:.1f}",
                *(ms(r.percentile(p)) for p in (50, 90, 99, 100)),
                r.refused,
                r.errors,
                "-" if r.rows_per_batch is None else f"{r.rows_per_batch:.1f}",
            ]
            for r in results
        ],
        empty="Nothing was measured.",
    )
    busiest = max(r.client_cpu for r in results)
    if busiest > BUSY_CLIENT:
        session.out.note(
            f"The load generator used {busiest:.0%} of a core, so it may have been the limit. "
            "Measure with several at once, or from another machine."
        )


def _plot(results: list[Level], target: Target, path: Path) -> None:
    from unimodel_cli import bench

    try:
        bench.plot(results, f"{target.model}@{target.version}", str(path))
    except OSError as e:
        raise InsufficientStorage(f"Cannot write {path}: {e.strerror}.") from None
    except ValueError as e:  # an extension that matplotlib does not know
        raise UsageError(f"Cannot draw {path}: {str(e).splitlines()[0]}.") from None


def _need_matplotlib() -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise MissingRuntime("matplotlib is not installed. Install it with: pip install 'unimodel[plot]'")
