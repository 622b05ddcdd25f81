"""Guards the shape of the house: who may import whom, what a light import must not load, no circles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("unimodel", "unimodel_cli", "engine", "backends")
CONTRACTS = ("engine.errors", "engine.kit.answers", "engine.schema", "engine.settings", "engine.subtitles")
"""What a client may know of the server."""

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "unimodel": ("unimodel", *CONTRACTS),
    "unimodel.plugins": (),
    "unimodel_cli": ("unimodel_cli", *CONTRACTS),
    "engine": (
        "engine",
        "backends.base",
        "backends.discovery",
        "backends.generation",
        "backends.pipeline",
        "backends.transcription",
    ),
    "engine.errors": (),
    "engine.schema": (),
    "engine.settings": ("engine.errors",),
    "engine.subtitles": (),
    "engine.codec": ("backends.base",),
    "engine.types": ("backends.base", "engine.codec"),
    "engine.kit": (
        "engine",
        "backends.base",
        "backends.discovery",
        "backends.generation",
        "backends.python",
        "backends.transcription",
    ),
    "engine.kit.answers": ("engine.schema",),
    "engine.model_options": ("engine.errors", "engine.settings"),
    "backends": (
        "backends.answers",
        "backends.archives",
        "backends.base",
        "backends.builds",
        "backends.categories",
        "backends.chatter",
        "backends.generation",
        "backends.labels",
        "backends.mel",
        "backends.prefix_cache",
        "backends.probing",
        "backends.prompts",
        "backends.pytorch",
        "backends.rehearsal",
        "backends.resources",
        "backends.sampling",
        "backends.recordings",
        "backends.speech",
        "backends.text",
        "backends.transcription",
    ),
    "backends.base": (),
    "backends.answers": ("backends.generation", "backends.sampling", "backends.text"),
    "backends.archives": ("backends.base",),
    "backends.builds": ("backends.base",),
    "backends.categories": (),
    "backends.chatter": (),
    "backends.generation": ("backends.base",),
    "backends.labels": (),
    "backends.mel": ("backends.base",),
    "backends.prefix_cache": (),
    "backends.probing": ("backends.base",),
    "backends.prompts": ("backends.base", "backends.generation"),
    "backends.pytorch": ("backends.base", "backends.builds"),
    "backends.rehearsal": ("backends.base",),
    "backends.sampling": ("backends.base", "backends.generation"),
    "backends.recordings": ("backends.base", "backends.transcription"),
    "backends.speech": ("backends.base", "backends.transcription"),
    "backends.text": (),
    "backends.transcription": ("backends.base",),
    "backends.python": ("backends.base", "backends.python", "unimodel.plugins"),
    "backends.engines": (
        "backends.answers",
        "backends.base",
        "backends.engines",
        "backends.generation",
        "backends.prompts",
        "backends.resources",
        "backends.sampling",
        "backends.transformers",  # both engines serve what lies in Hugging Face folders: weights, tokenizers, templates
    ),
}
"""Package or module to the only parts of this repository that it may import. The longest prefix counts."""

EDGES = ("engine.__main__", "engine.api", "engine.app", "engine.core", "engine.server", "engine.views")
"""The upper floors of the engine, which the lower ones do not know."""

LOWER = (
    "engine.audio",
    "engine.generation",
    "engine.hub",
    "engine.registry",
    "engine.scheduling",
    "engine.tasks",
    "engine.telemetry",
    "engine.transport",
    "engine.worker",
)

HEAVY = {
    "PIL", "ai_edge_litert", "av", "catboost", "ctranslate2", "faster_whisper", "huggingface_hub", "joblib", "keras",
    "lightgbm", "llama_cpp", "matplotlib", "onnx", "onnxruntime", "pandas", "safetensors", "scipy", "sklearn", "skops",
    "tensorflow", "tensorrt_llm", "tokenizers", "torch", "transformers", "vllm", "xgboost",
    "_pywhispercpp", "pywhispercpp",
    "opentelemetry", "requests",
}  # fmt: skip
"""Imported only inside functions, when a model, or a setting, needs them."""


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(f): f for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(file.read_text()) for name, file in FILES.items()}


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The modules that import statements name; ``from engine import codec`` names ``engine.codec``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in FILES else str(node.module)


def at_import_time(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: no function bodies, nothing for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import_time(node)


def within(module: str, parts: tuple[str, ...]) -> bool:
    return any(module == part or module.startswith(f"{part}.") for part in parts)


def rule_for(module: str) -> tuple[str, ...]:
    *_, longest = sorted((key for key in MAY_IMPORT if within(module, (key,))), key=len)
    allowed = MAY_IMPORT[longest]
    if longest == "backends" and module.count("."):  # a backend may be a package of its own
        allowed = (*allowed, ".".join(module.split(".")[:2]))
    return allowed


@pytest.mark.parametrize("module", FILES)
def test_imports_run_one_way(module: str) -> None:
    ours = {name for name in imports(ast.walk(TREES[module])) if name.partition(".")[0] in PACKAGES}
    allowed = rule_for(module)
    assert {name for name in ours if not within(name, allowed) and name != "engine"} == set()
    if within(module, LOWER):
        assert {name for name in ours if within(name, EDGES)} == set()


@pytest.mark.parametrize("module", FILES)
def test_heavy_imports_wait_for_a_model(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports(at_import_time(TREES[module]))}
    assert roots & HEAVY == set()


def test_imports_make_no_circle() -> None:
    graph = {name: set(imports(at_import_time(tree))) & FILES.keys() - {name} for name, tree in TREES.items()}
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}


@pytest.mark.parametrize("module", FILES)
def test_nothing_prints_by_itself(module: str) -> None:
    """Answers of the command line go through its output module; the server and its workers log."""
    calls = [n for n in ast.walk(TREES[module]) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
    assert [c.lineno for c in calls if not any(k.arg == "file" for k in c.keywords)] == []


@pytest.mark.parametrize("module", FILES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(TREES[module]) or not TREES[module].body


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("unimodel_cli.main", {"numpy", "starlette", "uvicorn", "prometheus_client", "sqlite3", *HEAVY}),
        *((module, {"numpy", "yaml", "httpx", "typer", "rich", *HEAVY}) for module in CONTRACTS),
        ("unimodel.plugins", {"numpy", "httpx", "starlette", *HEAVY}),
        ("engine.worker.main", {"starlette", "uvicorn", "prometheus_client", "sqlite3", "httpx", *HEAVY}),
        ("engine.server", {"httpx", "typer", "rich", *HEAVY}),
    ],
)
def test_a_light_import_stays_light(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & unwanted == set()
