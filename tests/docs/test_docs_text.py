"""What the documents say: it parses, it exists, and nothing that exists is missing."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import subprocess
import tomllib
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from document_parts import DOCUMENTS, ROOT, Block, anchors, blocks, commands, inline_code, links, prose
from typer.main import get_command

from backends import base, discovery
from benchmarks import machine, report
from benchmarks.harness import OURS, Metric, Options, Study
from engine.api.anthropic.bodies import AnthropicRequest
from engine.api.native_generation import GenerateBody
from engine.api.native_transcription import TranscribeBody, TranscribeParameters
from engine.api.ollama import bodies as ollama
from engine.api.ollama.options import LOADING
from engine.api.ollama.options import Options as OllamaOptions
from engine.api.openai.audio import TranscriptionForm
from engine.api.openai.chat_request import ChatCompletionRequest
from engine.api.openai.completions import CompletionRequest
from engine.api.openai.embeddings import EmbeddingRequest
from engine.api.openai.rerank import RerankRequest
from engine.api.openai.response_request import ResponseRequest
from engine.api.routes import OPERATIONS
from engine.errors import BY_CODE, ExitCode
from engine.settings import OTHER_ENV, TABLE, load
from engine.telemetry.metrics import Metrics
from scripts import generate_docs
from scripts.docs import command_line, options, results
from unimodel_cli.main import build

LANGUAGES = {"bash", "sh", "json", "yaml", "toml", "ini", "nginx", "python", "text"}
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
CLI = get_command(build())
EVERYTHING = "\n".join(d.read_text() for d in DOCUMENTS)


# --- the documents parse --------------------------------------------------------------------------------------------


@each_document
def test_the_generated_parts_are_fresh(document: Path) -> None:
    assert document.read_text() == generate_docs.refreshed(document.read_text()), "run: make docs"


def test_every_generated_part_is_used() -> None:
    assert [name for name in generate_docs.SECTIONS if f"<!-- generated: {name} -->" not in EVERYTHING] == []


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in links(document):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), path
        assert target.is_relative_to(ROOT), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@each_document
def test_blocks_are_what_they_say(document: Path) -> None:
    for block in blocks(document):
        assert block.language in LANGUAGES, block
        if block.language == "json":
            json.loads(block.code)
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.code), dict), block
        elif block.language == "toml":
            tomllib.loads(block.code)
        elif block.language == "ini":
            parser = configparser.ConfigParser()
            parser.read_string(block.code)
            assert parser.sections(), block
        elif block.language == "python":
            ast.parse(block.code)
        elif block.language in ("bash", "sh"):
            subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)


@each_document
def test_settings_files_in_the_documents_load(document: Path, tmp_path: Path) -> None:
    for block in blocks(document, "yaml"):
        if block.code.startswith(("server:", "engine:", "gpu:", "monitoring:")):
            file = tmp_path / "unimodel.yaml"
            file.write_text(block.code)
            load(file, environ={})


def test_benchmark_results_become_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that was met, one that was missed, one that was not measured, and a system that is missing."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert "No results" in results.benchmarks()
    study = Study("compute", "W2: compute", missing={"triton": "it did not start"}, notes=["two threads"])
    study.versions |= {"unimodel": {"python": "3.11.7", "unimodel": "0.1.0"}, "mosec": {"mosec": "0.9.8", "numpy": "2"}}
    for name, ours, theirs in (("binary throughput", 96.0, 100.0), ("image throughput", 90.0, 100.0)):
        study.samples[Metric(name, "images/s")] = {OURS: [ours], "bare onnxruntime": [theirs]}
    document = report.as_json(study, Options(rounds=3), 60.0, dict(machine.describe()))
    (tmp_path / "compute.json").write_text(json.dumps(document))
    text = results.benchmarks()
    assert "3 rounds" in text
    assert "Versions: unimodel 0.1.0, mosec 0.9.8." in text
    assert "| binary throughput >= 0.95 x bare onnxruntime | 0.96 (0.96 – 0.96) | met by 1% |" in text
    assert "| image throughput >= 0.95 x bare onnxruntime | 0.90 (0.90 – 0.90) | missed by 5% |" in text
    assert "| not measured |  |" in text
    assert "| binary throughput | 96.00 | 100.00 (0.96 ×) |" in text
    assert "Not measured: triton: it did not start" in text
    assert "- two threads" in text


# --- what they name exists ------------------------------------------------------------------------------------------


@each_document
def test_commands_parse(document: Path) -> None:
    """Every `unimodel …` in a shell block and in inline code, down to the names and values of its options."""
    for block in blocks(document, "bash", "sh"):
        for line in commands(block.code):
            for call in calls_in(line):
                parse(call, line)
    for code in inline_code(document):
        if re.match(r"unimodel [a-z]", code) and "`" not in code:
            parse_names(shlex.split(code)[1:], code)


def calls_in(line: str) -> list[list[str]]:
    """The arguments of each call of unimodel in a line of shell."""
    found = []
    for part in re.findall(r"\$\(([^()]*)\)|<\(([^()]*)\)", line):
        found += calls_in("".join(part))
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>()")
    lexer.whitespace_split = True
    call: list[str] | None = None
    words = iter(lexer)
    for word in words:
        if set(word) <= set("|;&()"):
            call = None
        elif set(word) <= set("<>"):
            next(words)
        elif call is not None:
            call.append(word)
        elif Path(word).name == "unimodel":
            call = []
            found.append(call)
    return found


def parse(arguments: list[str], where: str) -> None:
    """Parses a call as the command line would, without running it. A usage error fails the test."""
    command, context = CLI, CLI.make_context("unimodel", list(arguments), resilient_parsing=not arguments)
    while hasattr(command, "commands"):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        assert rest, where
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None and not command.hidden, where
        context = command.make_context(name, rest, parent=context)


def parse_names(words: list[str], where: str) -> None:
    """Checks the command and the flags of a call that is not written out whole, such as ``unimodel show NAME``."""
    command: Any = CLI
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, where
        command, words = command.commands[words[0]], words[1:]
    flags = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    assert {word for word in words if word.startswith("-") and word != "-"} <= flags, where


@each_document
def test_inline_code_names_what_exists(document: Path) -> None:
    flags = {name for _, c in command_line.commands() for p in c.params for name in p.opts}
    others = {"--version", "--help", "--quick", "--parts"}
    families = {family.name for family in all_metrics()} | {f"{f.name}_total" for f in all_metrics()}
    packages = {f.name for f in ROOT.iterdir() if (f / "__init__.py").exists()}
    for code in inline_code(document):
        if re.fullmatch(r"--[\w-]+( .*)?", code):
            assert code.split()[0] in flags | others, code
        if re.fullmatch(r"(server|engine|gpu|monitoring)\.(?!lock|json)[a-z_]+", code):
            assert code in TABLE or (ROOT / code.replace(".", "/")).is_dir(), code
        if re.fullmatch(r"UNIMODEL_[A-Z_]+", code) and code not in ("UNIMODEL_", "UNIMODEL_BENCH_CACHE"):
            assert code in {row.env for row in TABLE.values()} | set(OTHER_ENV), code
        if re.fullmatch(r"unimodel_\w+", code) and code not in packages:
            assert code in families, code
        if re.fullmatch(r"[\w./-]+\.(py|sh|yaml|toml|txt|md)", code) and "/" in code:
            known = [ROOT / code, ROOT / "engine" / code, ROOT / "docs" / code]
            assert any(p.exists() for p in known) or code.startswith("word-count/"), code
        if code.startswith("make "):
            assert code.split()[1] in targets(), code


@each_document
def test_routes_exist(document: Path) -> None:
    paths = [re.sub(r"\\{\w+\\}", r"[^/:\\s]+", re.escape(o.path)) for o in OPERATIONS]
    for found in re.findall(r"(?:127\.0\.0\.1:8000|`(?:GET|POST|PUT|DELETE) )(/[\w./:{}-]*)", document.read_text()):
        assert found == "/v1" or any(re.fullmatch(path, found) for path in paths), found


def test_the_contents_of_the_make_and_shell_files() -> None:
    for target in targets():
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
    for file, shell in ((".ci/run", "bash"), ("scripts/make_venv.sh", "sh")):
        subprocess.run([shell, "-n", ROOT / file], check=True)
        assert (ROOT / file).stat().st_mode & 0o111, file


def targets() -> list[str]:
    """What `make` can make."""
    (line,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return str(line).split()


# --- what exists is named -------------------------------------------------------------------------------------------


def all_metrics() -> list[Any]:
    metrics = Metrics("")
    metrics.model("name", 1)
    metrics.worker("cpu")
    return list(metrics.collect())


def test_everything_is_documented() -> None:
    settings = [name for row in TABLE.values() for name in (row.key, row.flag, row.env)]
    words = [" ".join(path) for path, _ in command_line.commands()]
    flags = [
        name
        for path, command in command_line.commands()
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.hidden
        for name in parameter.opts
    ]
    routes = [f"{o.method} {o.path}" for o in OPERATIONS]
    headers = [p.name for o in OPERATIONS for p in o.parameters if p.location == "header"]
    metrics = [family.name for family in all_metrics()]
    kinds = [f"`{name}`" for name in (*typing.get_args(base.Task), *discovery.available())]
    targets_of_make = [f"make {name}" for name in ("quickstart", "test", "bench", "docs")]
    wanted = [*settings, *OTHER_ENV, *words, *flags, *routes, *headers, *BY_CODE, *metrics, *kinds, *targets_of_make]
    assert [name for name in dict.fromkeys(wanted) if name not in EVERYTHING] == []


STRUCTS = {
    name: o
    for name, cls in discovery.available().items()
    if issubclass(o := cls.Options, msgspec.Struct) and o.__struct_fields__
}


@pytest.mark.parametrize("name", STRUCTS)
def test_every_backend_has_the_table_of_its_options(name: str) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    mark = "boosting" if name in ("xgboost", "lightgbm", "catboost") else name
    (table,) = re.findall(rf"^<!-- generated: {mark}-options -->\n(.*?)^<!-- end -->", text, re.DOTALL | re.MULTILINE)
    assert table.strip() == options.options_of(STRUCTS[name])()


@pytest.mark.parametrize(
    ("heading", "bodies"),
    [
        ("Generated text", [GenerateBody]),
        ("Speech", [TranscribeBody, TranscribeParameters]),
        (
            "OpenAI",
            [
                ChatCompletionRequest,
                CompletionRequest,
                ResponseRequest,
                EmbeddingRequest,
                RerankRequest,
                TranscriptionForm,
            ],
        ),
        ("Anthropic", [AnthropicRequest]),
        (
            "Ollama",
            [
                *(ollama.OllamaGenerateRequest, ollama.OllamaChatRequest, ollama.OllamaEmbedRequest),
                *(ollama.OllamaEmbeddingsRequest, ollama.OllamaCreateRequest, ollama.OllamaPullRequest, OllamaOptions),
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_field_of_a_request_is_named_in_its_part(heading: str, bodies: list[type[msgspec.Struct]]) -> None:
    """What is honoured, what does nothing, and what is refused."""
    text = (ROOT / "docs" / "api.md").read_text()
    (part,) = re.findall(rf"^## {heading}\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", part, flags=re.DOTALL)))
    fields = {f.encode_name for body in bodies for f in msgspec.structs.fields(body)}
    if heading == "Ollama":
        fields |= set(LOADING)
    assert sorted(fields - named) == []


def test_every_option_stands_in_the_section_of_its_command() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text()
    sections = dict(re.findall(r"^## (unimodel .*?)\n(.*?)(?=^## |^<!-- end -->)", reference, re.DOTALL | re.MULTILINE))
    flags = {row.flag for row in TABLE.values()}
    for path, command in command_line.commands():
        section = sections[" ".join(path)]
        for parameter in command.params:
            name = parameter.opts[0]
            if parameter.param_type_name == "option" and not parameter.hidden and name not in flags:
                assert f"`{name}" in section, f"{' '.join(path)} {name}"


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_explained(code: ExitCode) -> None:
    assert f"| {int(code)} | {command_line.EXIT_MEANINGS[code]} |" in (ROOT / "README.md").read_text()


def test_every_package_has_its_line() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    folders = [
        f.parent.relative_to(ROOT)
        for top in ("unimodel", "engine", "backends")
        for f in (ROOT / top).rglob("__init__.py")
    ]
    assert [name for f in folders if f"`{(name := '.'.join(f.parts))}`" not in text] == []


# --- the files beside them ------------------------------------------------------------------------------------------


def test_the_default_file_holds_the_defaults() -> None:
    _, values = load(ROOT / "config" / "default.yaml", environ={})
    given = {key: p for key, p in values.items() if p.source != "default"}
    assert {key: p.value for key, p in given.items()} == {key: TABLE[key].default for key in given}
    assert list(given) == [
        "server.host", "server.port", "server.grpc_port",
        "engine.max_models", "engine.default_batch_size", "engine.max_batch_wait_ms",
        "gpu.device_ids", "gpu.memory_fraction", "gpu.enable_pooling",
        "monitoring.prometheus_port", "monitoring.log_level",
    ]  # fmt: skip


def test_a_missing_python_or_venv_is_told_with_the_fix(tmp_path: Path) -> None:
    def make_venv(python: str) -> str:
        command = ["sh", "scripts/make_venv.sh", tmp_path / "venv"]
        done = subprocess.run(command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHON": python}, capture_output=True)
        assert done.returncode == 1
        return done.stderr.decode()

    assert "3.11 or newer" in make_venv("/bin/false")
    without_venv = tmp_path / "python"
    without_venv.write_text('#!/bin/sh\ncase "$2" in *venv*) exit 1;; *print*) echo python3.11;; esac\n')
    without_venv.chmod(0o755)
    assert "apt-get install -y python3.11-venv" in make_venv(str(without_venv))
    assert not (tmp_path / "venv").exists()


def test_a_block_of_each_kind_is_there() -> None:
    """Guards the guards: were the blocks not found, the tests above would pass on nothing."""
    found: list[Block] = [b for d in DOCUMENTS for b in blocks(d)]
    assert {b.language for b in found} == LANGUAGES
    assert sum(len(calls_in(line)) for b in found for line in commands(b.code) if b.language in ("bash", "sh")) > 60
    assert calls_in("UNIMODEL_HOME=x unimodel list | head; cat a | .venv/bin/unimodel predict m - > out") == [
        ["list"],
        ["predict", "m", "-"],
    ]
    with pytest.raises(Exception, match="No such option"):
        parse(["predict", "iris", "--sideways"], "")
    assert "unimodel" in prose(ROOT / "README.md")


def test_every_backend_has_hostile_files_and_their_tests_exist() -> None:
    rows = re.findall(r"^\| (`.+?) \|(.+)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    listed = [name for names, _ in rows for name in re.findall(r"`([^`]+)`", names)]
    ours = [name for name, backend in discovery.available().items() if backend.__module__.startswith("backends.")]
    assert sorted(listed) == sorted(ours)
    code = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    tests = {test for _, cells in rows for test in re.findall(r"`(test_\w+)`", cells)}
    assert not {test for test in tests if f"def {test}(" not in code}
