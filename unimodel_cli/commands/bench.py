"""`unimodel bench`: latency and throughput of a served model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import InsufficientStorage, MissingRuntime
from unimodel_cli.command import ModelName, Session, command
from unimodel_cli.errors import UsageError
from unimodel_cli.inputs import KINDS, As

if TYPE_CHECKING:
    from engine.schema import ModelView
    from unimodel_cli.bench import Level, Measured, Target
    from unimodel_cli.bench_text import TextLevel

DEFAULT_TOKENS = 64


def add(app: typer.Typer) -> None:
    """Puts the command on the command line."""
    command(
        app,
        "bench",
        examples=[
            "unimodel bench resnet",
            "unimodel bench resnet --concurrency 1,8,32 --duration 10 --plot out.png",
            "unimodel bench resnet --input cat.jpg --json",
            "unimodel bench smol --max-tokens 100 -c 1,4,16",
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
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of a model that generates text; each is new by default.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of a model that generates text: length of an answer [64].")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curves (.png, .svg or .pdf).")] = None,
) -> None:
    """Measure a model's latency and throughput under load.

    It is measured over HTTP, as clients see it. Each of N connections sends its next request when its last one is
    answered. Requests that the server refuses (429) are counted apart from errors. Of a model that generates text, the
    answers are streamed: it is tokens a second, the time to the first token (TTFT), and between tokens (ITL).
    """
    levels = _levels(concurrency)
    if plot is not None:
        _need_matplotlib()
    from unimodel_cli.client import loaded_view

    with session.out.waiting(f"Loading {name}"):
        view = loaded_view(session.client, name)
    measured: Sequence[Level | TextLevel]
    if view.generation is not None:
        if given is not None or kind is not None:
            raise UsageError(f"{view.name} generates text: say what to ask with --prompt, not with --input.")
        measured = _bench_text(session, view, name, levels, duration, prompt, max_tokens or DEFAULT_TOKENS, plot)
    else:
        if prompt is not None or max_tokens is not None:
            raise UsageError(f"{view.name} does not generate text, which --prompt and --max-tokens are for.")
        measured = _bench_whole(session, view, levels, duration, given, kind, plot)
    if session.json:
        session.out.json({"model": view.name, "version": view.version, "levels": [m.to_json() for m in measured]})
        return
    _warn_if_busy(session, measured)
    if plot is not None:
        session.out.note(f"The curves are in {plot}.")


def _bench_whole(
    session: Session,
    view: ModelView,
    levels: list[int],
    duration: float,
    given: str | None,
    kind: As | None,
    plot: Path | None,
) -> list[Level]:
    """A model whose answers come at once."""
    from unimodel_cli import bench

    target = _target(session, view, given, kind)
    results = []
    for n in levels:
        with session.out.waiting(f"Measuring {target.model}@{target.version} with {n} in flight for {duration:g} s"):
            results.append(bench.measure(target, n, duration))
    if plot is not None:
        _draw(lambda title, path: bench.plot(results, title, path), view, plot)
    if not session.json:
        _print(session, results)
    return results


def _bench_text(
    session: Session,
    view: ModelView,
    name: str,
    levels: list[int],
    duration: float,
    prompt: str | None,
    max_tokens: int,
    plot: Path | None,
) -> list[TextLevel]:
    """A model that generates text."""
    from unimodel_cli import bench_text

    target = bench_text.TextTarget(
        session.client, session.api_key, name, view.version, view.task == "chat", prompt, max_tokens
    )
    with session.out.waiting("Trying one request"):  # what does not fit is an error and no result
        for _ in session.client.events(
            target.path, next(target.bodies()), {"content-type": "application/json"}, timeout=None
        ):
            pass
    results = []
    for n in levels:
        with session.out.waiting(f"Measuring {view.name}@{view.version} with {n} in flight for {duration:g} s"):
            results.append(bench_text.measure(target, n, duration))
    if plot is not None:
        _draw(lambda title, path: bench_text.plot(results, title, path), view, plot)
    if not session.json:
        _print_text(session, results)
    return results


def _target(session: Session, view: ModelView, given: str | None, kind: As | None) -> Target:
    """The model and the request, which is tried once, so that an input that does not fit is an error and no result."""
    import msgspec

    from unimodel_cli import inputs
    from unimodel_cli.bench import Target
    from unimodel_cli.client import model_path

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


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _print(session: Session, results: list[Level]) -> None:
    session.out.table(
        ["IN FLIGHT", "REQ/S", "P50 MS", "P90 MS", "P99 MS", "MAX MS", "REFUSED", "ERRORS", "ROWS/BATCH"],
        [
            [
                r.concurrency,
                f"{r.throughput:.1f}",
                *(_ms(r.percentile(p)) for p in (50, 90, 99, 100)),
                r.refused,
                r.errors,
                "-" if r.rows_per_batch is None else f"{r.rows_per_batch:.1f}",
            ]
            for r in results
        ],
        empty="Nothing was measured.",
    )


def _print_text(session: Session, results: list[TextLevel]) -> None:
    from unimodel_cli.bench import percentile_ms

    times = ["TTFT P50 MS", "TTFT P99 MS", "ITL P50 MS", "ITL P99 MS"]
    session.out.table(
        ["IN FLIGHT", "TOK/S", "WITH PROMPTS", "REQ/S", *times, "REFUSED", "ERRORS"],
        [
            [
                r.concurrency,
                f"{r.output_rate:.1f}",
                f"{r.total_rate:.1f}",
                f"{r.throughput:.2f}",
                *(_ms(percentile_ms(values, p)) for values in (r.first, r.between) for p in (50, 99)),
                r.refused,
                r.errors,
            ]
            for r in results
        ],
        empty="Nothing was measured.",
    )


def _warn_if_busy(session: Session, results: Sequence[Measured]) -> None:
    from unimodel_cli.bench import BUSY_CLIENT

    busiest = max(r.client_cpu for r in results)
    if busiest > BUSY_CLIENT:
        session.out.note(
            f"The load generator used {busiest:.0%} of a core, so it may have been the limit. "
            "Measure with several at once, or from another machine."
        )


def _draw(plot: Callable[[str, str], None], view: ModelView, path: Path) -> None:
    try:
        plot(f"{view.name}@{view.version}", str(path))
    except OSError as e:
        raise InsufficientStorage(f"Cannot write {path}: {e.strerror}.") from None
    except ValueError as e:  # an extension that matplotlib does not know
        raise UsageError(f"Cannot draw {path}: {str(e).splitlines()[0]}.") from None


def _need_matplotlib() -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise MissingRuntime("matplotlib is not installed. Install it with: pip install 'unimodel[plot]'")
