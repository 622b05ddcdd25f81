"""The flags of the commands that ask a model for text: how it is to answer."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from unimodel_cli.errors import UsageError

MaxTokens = Annotated[int | None, typer.Option(metavar="N", min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[
    float | None, typer.Option(metavar="X", min=0, help="How much chance there is; 0 takes the likeliest.")
]
TopP = Annotated[
    float | None, typer.Option("--top-p", metavar="X", min=0, max=1, help="Choose among the likeliest of this share.")
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="The same seed gives the same answer.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Text that ends the answer; repeatable.")]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="System message: how the model is to behave.")]
Schema = Annotated[
    str | None, typer.Option(metavar="FILE", help="JSON Schema that the answer must fit: a file, or the schema itself.")
]

PARAMETERS = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for name, annotation in (
        ("max_tokens", MaxTokens),
        ("temperature", Temperature),
        ("top_p", TopP),
        ("seed", Seed),
        ("stop", Stop),
        ("system", System),
        ("json_schema", Schema),
    )
]
"""For `unimodel_cli.command.command`. The functions take their values as keywords, `None` for what was not given."""


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The values of the flags that were given, by the names that the native API has for them. Raises `UsageError`."""
    chosen = {name: value for name, value in values.items() if value not in (None, [])}
    if "json_schema" in chosen:
        chosen["json_schema"] = read_schema(chosen["json_schema"])
    return chosen


def flag(name: str) -> str:
    """The flag of a parameter, for messages."""
    return "--" + name.replace("_", "-")


def read_schema(argument: str) -> Any:
    """A JSON Schema from a file, or from the argument itself. Raises `UsageError`."""
    text = argument
    if not argument.lstrip().startswith("{"):
        try:
            text = Path(argument).expanduser().read_text()
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "it is not text"
            raise UsageError(f"--json-schema: cannot read {argument}: {reason}.") from None
    try:
        schema = json.loads(text)
    except ValueError as e:
        raise UsageError(f"--json-schema: {argument[:80]} is not valid JSON: {e}.") from None
    if not isinstance(schema, dict):
        raise UsageError("--json-schema: a schema is a JSON object.")
    return schema
