"""A model on one screen: what `unimodel show` and `unimodel register` print for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.schema import ModelView, TensorView
from unimodel_cli.calls import calls, first_call
from unimodel_cli.output import Cell, count, duration, fields, size, table

if TYPE_CHECKING:
    from rich.console import RenderableType


def registered(view: ModelView) -> list[RenderableType]:
    """The answer to a registration: what it is, what was guessed, and what to do next."""
    from rich.text import Text

    return [
        Text(f"Registered {view.name}@{view.version}: {view.task} on {view.backend}."),
        *([fields(_generation(view))] if view.generation else []),
        *([fields(_transcription(view))] if view.transcription else []),
        Text(""),
        *_signature(view),
        *_findings(view),
        *_notes(view),
        *([Text(f"Try it:   {call}")] if (call := first_call(view)) else []),
        Text(f"More:     unimodel show {view.name}"),
    ]


def card(view: ModelView, url: str) -> list[RenderableType]:
    """Everything about a model, and how to call it."""
    from rich.text import Text

    return [
        fields(
            [
                ("Model", f"{view.name}@{view.version}"),
                ("State", view.state + (f": {view.error}" if view.error else "")),
                ("Reload", f"its changed files cannot be loaded: {view.reload_error}" if view.reload_error else None),
                ("Task", view.task + (f" ({view.labels} labels)" if view.labels else "")),
                ("Backend", f"{view.backend} ({view.runtime})" if view.runtime else view.backend),
                ("Device", view.device),
                ("File", f"{view.path} ({size(view.size_bytes)})"),
                ("SHA-256", view.sha256),
                ("Versions", ", ".join(str(v) for v in view.versions)),
                ("Aliases", ", ".join(view.aliases)),
                ("Options", _flat(view.config)),
                ("Streams", "yes" if view.streams else None),
                ("Batching", _batching(view) if not _answers_in_steps(view) else None),
                ("Padding", _padding(view)),
                *_generation(view),
                *_transcription(view),
                ("Registered", f"{duration(_age(view.created))} ago"),
            ]
        ),
        Text(""),
        *_signature(view),
        *_findings(view),
        *_notes(view),
        *(line for title, call in calls(view, url) for line in (Text(title, style="bold"), Text(call), Text(""))),
    ]


def _generation(view: ModelView) -> list[tuple[str, Cell]]:
    """What is to be said of a model that generates text."""
    info = view.generation
    if info is None:
        return []
    template = "no, so it completes text" if not info.chat_template else "yes"
    if info.chat_template and view.task != "chat":
        template = "not used: it is registered to complete text"
    return [
        ("Architecture", info.architecture),
        ("Parameters", count(info.parameters) if info.parameters else None),
        ("Quantization", info.quantization),
        ("Context", f"{info.context_length} tokens"),
        ("Sequences", f"{info.sequences} at once"),
        ("Chat template", template),
        ("Images", "yes" if info.images else None),
        ("Infill", "yes" if info.infill else None),
        ("Adapters", ", ".join(info.adapters)),
    ]


def _transcription(view: ModelView) -> list[tuple[str, Cell]]:
    """What is to be said of a model that writes down speech."""
    info = view.transcription
    if info is None:
        return []
    several = len(info.languages) > 1
    return [
        ("Languages", f"{len(info.languages)}, the spoken one is recognised" if several else info.languages[0]),
        ("Translates", "yes, to English" if info.translates else "no"),
        ("Recordings", f"{info.sequences} at once"),
    ]


def _answers_in_steps(view: ModelView) -> bool:
    """Whether it forms no batches of requests that wait."""
    return view.generation is not None or view.transcription is not None


def _signature(view: ModelView) -> list[RenderableType]:
    from rich.text import Text

    rows = [_tensor_row("in", t) for t in view.inputs] + [_tensor_row("out", t) for t in view.outputs]
    return [table(["", "TENSOR", "DTYPE", "SHAPE", "BATCH AXIS"], rows), Text("")] if rows else []


def _tensor_row(direction: str, tensor: TensorView) -> list[str | int | None]:
    shape = "[" + ", ".join(str(d) for d in tensor.shape) + "]"
    axis = "none" if tensor.batch_axis is None else str(tensor.batch_axis)
    return [direction, tensor.name, tensor.dtype, shape, axis]


def _findings(view: ModelView) -> list[RenderableType]:
    """What was found out, how sure it is, and how to have it otherwise."""
    from rich.text import Text

    if not view.findings:
        return []
    rows = [("FOUND", "VALUE", "SURE", "FROM", "CHANGE WITH")]
    rows += [(f.subject, f.value, f.sure, f.source, f.option) for f in view.findings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [Text(lines[0], style="bold"), *map(Text, lines[1:]), Text("")]  # lines stay whole, for flags to be copied


def _notes(view: ModelView) -> list[RenderableType]:
    from rich.text import Text

    notes = list(view.notes)
    if not view.batching.enabled and view.batching.reason and not _answers_in_steps(view):
        notes.append(f"Served unbatched: {view.batching.reason}")
    return [*(Text(f"Note: {note}") for note in notes), *([Text("")] if notes else [])]


def _batching(view: ModelView) -> str:
    b = view.batching
    if not b.enabled:
        return "off"
    return f"up to {b.max_batch_size} rows, waits at most {b.max_batch_wait_ms:g} ms"


def _padding(view: ModelView) -> str | None:
    b = view.batching
    if not b.enabled or _answers_in_steps(view):
        return None
    return (
        "rows of different lengths are padded"
        if b.dynamic_padding
        else f"off: {b.padding_reason}"
        if b.padding_reason
        else None
    )


def _flat(config: dict[str, object], prefix: str = "") -> str:
    parts = []
    for key, value in config.items():
        if isinstance(value, dict):
            parts.append(_flat(value, f"{prefix}{key}."))
        else:
            parts.append(f"{prefix}{key}={value}")
    return ", ".join(p for p in parts if p)


def _age(created: int) -> float:
    import time

    return max(0.0, time.time() - created)
