"""Writes the parts of the documents that come from the code.

    python -m scripts.generate_docs [--check]

A document marks such a part, and everything between the two lines is replaced::

    <!-- generated: settings -->
    <!-- end -->

`SECTIONS` says what each name stands for. With ``--check`` nothing is written, and the exit code is 1 when a document
is not what would be written.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from backends.boosting.backend import BoostingOptions
from backends.engines.tensorrt_llm import TensorRtLlmOptions
from backends.engines.vllm import VllmOptions
from backends.gguf.embedding import EmbeddingOptions
from backends.gguf.options import GgufOptions
from backends.gguf.rerank import RerankOptions
from backends.onnx import OnnxOptions
from backends.sklearn.backend import SklearnOptions
from backends.tensorflow import TensorFlowOptions
from backends.tflite import TfliteOptions
from backends.torch.options import TorchOptions
from backends.transformers.backend import TransformersGenerationOptions
from backends.transformers.embedding import TransformersEmbeddingOptions
from backends.transformers.heads import ClassifyOptions
from backends.transformers.speech import SpeechOptions
from backends.whisper.backend import WhisperOptions
from backends.whisper_cpp.backend import WhisperCppOptions
from engine import errors, openapi
from engine.api.routes import OPERATIONS
from engine.errors import ExitCode
from engine.model_options import ModelOptions
from engine.settings import OTHER_ENV, TABLE, Setting
from engine.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_SECTION = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def documents() -> list[Path]:
    """The documents that may have generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def refreshed(text: str) -> str:
    """A document with its generated parts anew. Raises `KeyError` for a part that nothing generates."""
    return _SECTION.sub(lambda m: f"{m[1]}{SECTIONS[m[2]]().strip()}\n{m[3]}", text)


def main() -> int:
    """Writes, or checks, every document. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the documents.")
    parser.add_argument("--check", action="store_true", help="only say which documents are stale")
    check = parser.parse_args().check
    stale = [file for file in documents() if file.read_text() != refreshed(file.read_text())]
    for file in stale:
        print(f"{file.relative_to(ROOT)} {'is stale; run: make docs' if check else 'written'}", file=sys.stderr)
        if not check:
            file.write_text(refreshed(file.read_text()))
    return 1 if check and stale else 0


# --- Markdown -------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").strip() for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """Text in backticks; nothing stays nothing."""
    return f"`{text}`" if text else ""


def prose(docstring: str | None) -> str:
    """A docstring as one line of Markdown."""
    return " ".join(inspect.cleandoc(docstring or "").replace("``", "`").split())


def value(default: Any) -> str:
    """A default as one writes it in YAML; an absent one is nothing."""
    return "" if default in (None, (), {}) else code(json.dumps(default, ensure_ascii=False).strip('"'))


# --- the command line -----------------------------------------------------------------------------------------------

EXIT_MEANINGS = {
    ExitCode.OK: "It is done.",
    ExitCode.FAILED: "It failed; the message says why.",
    ExitCode.USAGE: "The command, a flag or a setting is wrong. Nothing was tried.",
    ExitCode.UNREACHABLE: "No server answers.",
    ExitCode.NOT_FOUND: "There is no such model, version, alias or log.",
    ExitCode.OVERLOADED: "The model's queue is full; try again later.",
    ExitCode.TIMED_OUT: "The deadline passed.",
}


def exit_codes() -> str:
    """What each exit code means."""
    return table(["exit code", "meaning"], ([str(int(c)), EXIT_MEANINGS[c]] for c in ExitCode))


def commands(command: Any = None, path: tuple[str, ...] = ("unimodel",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that a user may type, as (words, command), in the order of the help; groups aside."""
    from typer.main import get_command

    from unimodel_cli.main import build

    command = command or get_command(build())
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
    for name, child in (children or {}).items():
        if not child.hidden:
            yield from commands(child, (*path, name))


def command_list() -> str:
    """One line a command."""
    rows = ([code(" ".join(path)), f"{first_sentence(command.help)}."] for path, command in commands())
    return table(["command", "what it does"], rows)


def first_sentence(text: str) -> str:
    """Of a help text, without its full stop."""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


COMMON = ("--json", "--host", "--api-key", "--home")


def cli() -> str:
    """The reference of every command: usage, arguments, options, examples."""
    return "\n\n".join(_command(path, command) for path, command in commands())


def _command(path: tuple[str, ...], command: Any) -> str:
    flags = {row.flag for row in TABLE.values()}
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    is_setting = {"--max-models", "--config"} <= {name for p in options for name in p.opts}
    own = [p for p in options if p.opts[0] not in COMMON and not (is_setting and p.opts[0] in flags)]
    common = [code(p.opts[0]) for p in options if p.opts[0] in COMMON and not (is_setting and p.opts[0] == "--host")]
    usage = " ".join([*path, *(_argument(p) for p in arguments), "[OPTIONS]"])
    blocks = [f"## {' '.join(path)}", inspect.cleandoc(command.help), f"```text\n{usage}\n```"]
    rows = [[code(_argument(p)), _help(p)] for p in arguments] + [[_names(p), _help(p)] for p in own]
    if rows:
        blocks.append(table(["argument or option", ""], rows))
    settings = ", and [a flag for every setting](configuration.md#settings)" if is_setting else ""
    blocks.append(f"It also takes {', '.join(common)}{settings}.")
    examples = [line.strip() for line in command.epilog.splitlines() if line.startswith("  ")]
    blocks.append("```sh\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(blocks)


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name)
    name = f"{name}..." if parameter.nargs == -1 and not name.endswith("...") else name
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _names(parameter: Any) -> str:
    names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    metavar = "" if parameter.is_flag else f" {parameter.metavar or parameter.type.name.upper()}"
    return code(names + metavar)


def _help(parameter: Any) -> str:
    default = parameter.default
    shown = isinstance(default, int | float | str | Path) and default not in ("", 0)
    return prose(parameter.help) + (f" [default: {default}]" if shown else "")


# --- settings and model options -------------------------------------------------------------------------------------

VARIABLES = {
    "UNIMODEL_HOST": "Server that the command line talks to, such as `http://10.0.0.5:8000`.",
    "UNIMODEL_API_KEY": "Bearer token that the command line sends, for a proxy that wants one.",
    "UNIMODEL_HOME": "Folder of the registry, the log and the lock; the default is `~/.unimodel`.",
    "UNIMODEL_CONFIG": "File of settings, when no `--config` is given.",
    "UNIMODEL_DEBUG": "Set to anything, the command line shows the trace of an unexpected error.",
    "UNIMODEL_TEST_MODELS": "Where the tests and the quickstart keep the models that they fetch.",
    "UNIMODEL_WHEELS": "Where `make` keeps the llama.cpp that it compiles; the default is `~/.cache/unimodel/wheels`.",
}


def settings() -> str:
    """Every setting."""
    rows = (
        [code(row.key), _allowed(row), value(row.default), f"{code(row.flag)}<br>{code(row.env)}", row.help]
        for row in TABLE.values()
    )
    return table(["setting", "type", "default", "flag, variable", "meaning"], rows)


def _allowed(row: Setting) -> str:
    """The values of a setting: its type and its limits."""
    if row.choices:
        return ", ".join(map(code, row.choices))
    limits = ""
    if row.minimum is not None:
        limits = f" from {row.minimum:.15g}" + (f" to {row.maximum:.15g}" if row.maximum is not None else "")
    kind, comma, unset = row.type_name.partition(", ")
    return f"{kind}{limits}{comma}{unset}"


def variables() -> str:
    """The variables of the environment that are no settings."""
    return table(["variable", "meaning"], ([code(name), VARIABLES[name]] for name in OTHER_ENV))


def options_of(cls: type[msgspec.Struct]) -> Callable[[], str]:
    """What makes the table of the options in a class: those of every model, or of one backend."""
    return lambda: table(["option", "type", "default", "meaning"], _options(cls))


def _options(cls: type[msgspec.Struct], prefix: str = "") -> Iterator[list[str]]:
    """A row for each option, parts of options below each other."""
    docs = field_docs(cls)
    for f in msgspec.structs.fields(cls):
        by_name = typing.get_origin(f.type) is dict
        inner = typing.get_args(f.type)[1] if by_name else f.type
        name = f"{prefix}{f.name}{'.NAME' if by_name else ''}"
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from _options(inner, f"{name}.")
        else:
            default = None if f.default is msgspec.NODEFAULT else f.default
            yield [code(name), type_name(inner), value(default), prose(docs.get(f.name))]


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a struct and of those that it extends, which Python itself drops."""
    docs = {}
    for base in reversed([c for c in cls.__mro__ if issubclass(c, msgspec.Struct) and c is not msgspec.Struct]):
        (body,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(body, ast.ClassDef)
        for field, doc in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                docs[ast.unparse(field.target)] = str(doc.value.value)
    return docs


def type_name(kind: Any, plural: str = "") -> str:
    """A type for people; `plural` is the ending of its words."""
    words = {int: "integer", float: "number", bool: "true or false", str: "text"}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(type_name(each, plural) for each in inner if each is not type(None)))
    if origin is typing.Literal:
        return ", ".join(map(str, inner))
    if origin is tuple and Ellipsis not in inner:
        return f"{len(inner)} {type_name(inner[0], 's')}"
    if origin in (tuple, list):
        return f"list of {type_name(inner[0], 's')}"
    return "record" if origin is dict else words[kind] + plural


# --- the API --------------------------------------------------------------------------------------------------------


NATIVE = ("models", "prediction", "aliases", "server")
"""Tags of the operations that are no other server's."""


def routes_of(*tags: str) -> Callable[[], str]:
    """What makes the table of the routes with these tags: what they take and what they answer."""

    def rows() -> Iterator[list[str]]:
        for o in OPERATIONS:
            if o.tag in tags:
                query = "".join(f" [?{p.name}=]" for p in o.parameters if p.location == "query")
                takes, answers = _body(o.request or o.form, o.request_media), _body(o.response, o.response_media)
                yield [code(f"{o.method} {o.path}") + query, takes, answers, o.summary]

    return lambda: table(["route", "takes", "answers", "what it does"], rows())


def _body(body: type | None, media: Sequence[str]) -> str:
    """The name of a JSON body, or the media type of another."""
    return code(body.__name__ if body is not None else next(iter(media), ""))


def headers() -> str:
    """The headers that requests may have, each as the first operation that has it describes it."""
    found: dict[str, str] = {}
    for methods in openapi.document("", OPERATIONS)["paths"].values():
        for parameter in (p for operation in methods.values() for p in operation["parameters"]):
            if parameter["in"] == "header":
                found.setdefault(parameter["name"], parameter["description"])
    return table(["request header", "meaning"], ([code(name), meaning] for name, meaning in found.items()))


def error_codes() -> str:
    """Every error: its code, status and exit code. One never comes over HTTP: the client's own."""
    rows = []
    for name, cls in sorted(errors.BY_CODE.items(), key=lambda item: (item[1].status, item[0])):
        status = "–" if cls is errors.ServerUnreachable else str(cls.status)
        rows.append([code(name), status, str(int(cls.exit_code)), prose(cls.__doc__)])
    return table(["code", "status", "exit code", "meaning"], rows)


def metrics() -> str:
    """Every metric that the server has of its own."""
    found = Metrics("")
    found.model("name", 1)
    found.worker("cpu")
    rows = []
    for family in found.collect():
        labels = {label: None for sample in family.samples for label in sample.labels if label != "le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append([code(name), family.type, ", ".join(map(code, labels)), family.documentation])
    return table(["metric", "type", "labels", "meaning"], rows)


# --- benchmarks -----------------------------------------------------------------------------------------------------


def benchmarks() -> str:
    """The results that are committed."""
    files = sorted(RESULTS.glob("*.json"))
    if not files:
        return "No results are committed yet: `make bench` writes them to `benchmarks/results/`, and the tables here."
    return "\n\n".join(_study(json.loads(file.read_text()), file) for file in files)


def _study(study: dict[str, Any], file: Path) -> str:
    machine = study["machine"]
    blocks = [
        f"### {study['title']}",
        f"`python -m benchmarks {study['workload']}`, {study['date'][:10]}, {study['rounds']} rounds; "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}. "
        f"{_versions(study['versions'])}",
    ]
    if study["bars"]:
        rows = ([bar["bar"], _spread(bar["measured"]), _verdict(bar)] for bar in study["bars"])
        blocks.append(table(["bar", "measured: median (least – greatest)", ""], rows))
    for unit in dict.fromkeys(m["unit"] for m in study["metrics"]):
        blocks.append(_measured(study, unit))
    blocks += [f"- Not measured: {name}: {reason}" for name, reason in study["missing"].items()]
    blocks += [f"- {note}" for note in study["notes"]]
    if file.with_suffix(".png").exists():
        blocks.append(f"![{study['title']}](../benchmarks/results/{file.stem}.png)")
    return "\n\n".join(blocks)


def _versions(of_systems: dict[str, dict[str, str]]) -> str:
    """The version of each system: that of the first package in its list, which is its own. A bound has none."""
    own = ([f"{n} {v}" for n, v in packages.items() if n != "python"][:1] for packages in of_systems.values())
    names = (name for first in own for name in first)
    return f"Versions: {', '.join(dict.fromkeys(names))}." if of_systems else ""


def _measured(study: dict[str, Any], unit: str) -> str:
    """The medians of all metrics in one unit, a system a column."""
    chosen = [m for m in study["metrics"] if m["unit"] == unit]
    systems = list(dict.fromkeys(system for m in chosen for system in m["systems"]))
    rows = ([m["name"], *(_median(m["systems"].get(system)) for system in systems)] for m in chosen)
    return table([f"median, {unit}", *systems], rows)


def _median(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    ratio = row.get("unimodel_ratio")
    return f"{row['median']:,.2f}" + (f" ({ratio['of_medians']:.2f} ×)" if ratio else "")


def _spread(got: dict[str, float] | None) -> str:
    return f"{got['median']:.2f} ({got['least']:.2f} – {got['greatest']:.2f})" if got else "not measured"


def _verdict(bar: dict[str, Any]) -> str:
    if bar["met"] is None:
        return ""
    text = f"{'met' if bar['met'] else 'missed'} by {abs(bar['margin']):.0%}"
    return f"{text}: {bar['reason']}" if "reason" in bar else text


SECTIONS: dict[str, Callable[[], str]] = {
    "commands": command_list,
    "exit-codes": exit_codes,
    "cli": cli,
    "settings": settings,
    "variables": variables,
    "model-options": options_of(ModelOptions),
    "onnx-options": options_of(OnnxOptions),
    "gguf-options": options_of(GgufOptions),
    "gguf-embedding-options": options_of(EmbeddingOptions),
    "gguf-rerank-options": options_of(RerankOptions),
    "sklearn-options": options_of(SklearnOptions),
    "torch-options": options_of(TorchOptions),
    "transformers-options": options_of(TransformersGenerationOptions),
    "transformers-classify-options": options_of(ClassifyOptions),
    "transformers-embedding-options": options_of(TransformersEmbeddingOptions),
    "transformers-speech-options": options_of(SpeechOptions),
    "vllm-options": options_of(VllmOptions),
    "tensorrt_llm-options": options_of(TensorRtLlmOptions),
    "boosting-options": options_of(BoostingOptions),
    "tensorflow-options": options_of(TensorFlowOptions),
    "tflite-options": options_of(TfliteOptions),
    "whisper-options": options_of(WhisperOptions),
    "whisper-cpp-options": options_of(WhisperCppOptions),
    "routes": routes_of(*NATIVE),
    "openai-routes": routes_of("openai"),
    "ollama-routes": routes_of("ollama"),
    "anthropic-routes": routes_of("anthropic"),
    "headers": headers,
    "errors": error_codes,
    "metrics": metrics,
    "benchmarks": benchmarks,
}
"""What can stand between the marks, by name."""


if __name__ == "__main__":
    raise SystemExit(main())
