"""Tests of plugins: what a path names, loading, errors that point at the author's line, batches, streams."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import BackendError, Device, InvalidInput, InvalidOption, ModelFileError, ModelInfo
from backends.python import PythonBackend, split_target
from engine.transport.values import encode_json
from unimodel.plugins import BasePlugin, ModelConfig

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins"

SEED = """
# Example: Custom model plugin
from unimodel.plugins import BasePlugin, ModelConfig

class CustomModelPlugin(BasePlugin):
    def load_model(self, config: ModelConfig) -> None:
        # Your model loading logic
        pass
    
    def predict(self, input_data: dict) -> dict:
        # Your prediction logic
        return {"output": "prediction_result"}
"""  # noqa: W293 - word for word as it was published

HEADER = "from unimodel.plugins import BasePlugin, InvalidInput, ModelConfig\n"


def plugin(body: str, *, load: str = "pass") -> str:
    """Source of a plugin whose class body is `body`."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"{HEADER}class My(BasePlugin):\n    def load_model(self, config):\n        {load}\n{lines}\n"


def load(path: Path | str, **options: Any) -> tuple[PythonBackend, ModelInfo]:
    backend = PythonBackend()
    return backend, backend.load(Path(path), Device("cpu", threads=3), options)


def write(file: Path, source: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    return file


def refused(path: Path | str, **options: Any) -> BackendError:
    with pytest.raises(BackendError) as caught:
        load(path, **options)
    return caught.value


# --- what a path names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.py:My", ("a.py", "My")),
        ("/x/a.py:My", ("/x/a.py", "My")),
        ("pkg.mod:My", ("pkg.mod", "My")),
        ("a.py", ("a.py", None)),
        ("folder", ("folder", None)),
        ("a.py:", ("a.py:", None)),
        (":My", (":My", None)),
        ("a.py:not-a-name", ("a.py:not-a-name", None)),
        ("a.py:class", ("a.py:class", None)),
        ("a:b:My", ("a:b", "My")),
        ("", ("", None)),
        ("a" * 5000 + ":My", ("a" * 5000, "My")),
    ],
)
def test_split_target(path: str, expected: tuple[str, str | None]) -> None:
    assert split_target(path) == expected


def test_a_colon_in_a_files_name_does_not_split_it(tmp_path: Path) -> None:
    file = write(tmp_path / "odd:name", SEED)
    assert split_target(str(file)) == (str(file), None)


def test_the_seeds_example_works_word_for_word(tmp_path: Path) -> None:
    file = write(tmp_path / "custom.py", SEED)
    assert PythonBackend.sniff(file).confidence == 0.9
    backend, info = load(f"{file}:CustomModelPlugin")
    assert backend.predict_values([{"input": "x"}]) == [{"output": "prediction_result"}]
    assert backend.example() is None
    assert info.task == "custom"
    assert not info.batchable
    assert info.unbatched_reason == "CustomModelPlugin does not define predict_batch."
    assert not info.streams


def test_the_source_is_what_the_digest_covers(tmp_path: Path) -> None:
    file = write(tmp_path / "custom.py", SEED)
    write(tmp_path / "pkg" / "__init__.py", SEED)
    assert PythonBackend.source(f"{file}:CustomModelPlugin") == file
    assert PythonBackend.source(str(file)) == file
    assert PythonBackend.source(f"{tmp_path / 'pkg'}:CustomModelPlugin") == tmp_path / "pkg"
    assert PythonBackend.source("json.decoder:JSONDecoder") == Path("json.decoder:JSONDecoder")
    assert PythonBackend.source("nothing.py:My") == Path("nothing.py:My")


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "custom.py", SEED)
    monkeypatch.chdir(tmp_path)
    backend, _ = load("custom.py")
    monkeypatch.chdir("/")
    assert backend.predict_values([{}]) == [{"output": "prediction_result"}]


def test_a_package_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my_model"
    write(folder / "net.py", "WEIGHT = 7\n")
    write(folder / "__init__.py", "from .net import WEIGHT\n" + plugin("def predict(self, i): return {'w': WEIGHT}"))
    assert PythonBackend.sniff(folder).confidence == 0.9
    for path in (str(folder), f"{folder}:My"):
        assert load(path)[0].predict_values([{}]) == [{"w": 7}]
    assert load(folder)[0]._loaded is not None


def test_a_folder_that_is_no_package(tmp_path: Path) -> None:
    write(tmp_path / "plugin.py", SEED)
    assert PythonBackend.sniff(tmp_path).confidence == 0
    assert "is not a plugin: there is no such" in refused(tmp_path).message


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with a plugin in a module of its own, installed for this test."""
    site = tmp_path / "site"
    write(site / "installed_plugin" / "models.py", plugin("def predict(self, i): return {'from': 'module'}"))
    write(site / "installed_plugin" / "__init__.py", "raise RuntimeError('sniffing must not import this')\n")
    meta = site / "installed_plugin-1.0.dist-info"
    write(meta / "METADATA", "Metadata-Version: 2.1\nName: installed-plugin\nVersion: 1.0\n")
    write(meta / "entry_points.txt", "[unimodel.plugins]\nmoody = installed_plugin.models:My\n")
    monkeypatch.syspath_prepend(site)
    return site


def test_an_installed_module_and_an_entry_point(installed: Path) -> None:
    module, entry = Path("installed_plugin.models:My"), Path("moody")
    assert PythonBackend.sniff(module).confidence == 0.9
    assert PythonBackend.sniff(entry).confidence == 1.0
    assert "moody" in str(PythonBackend.sniff(entry).runs_code)
    (installed / "installed_plugin" / "__init__.py").write_text("")
    try:
        for path in (module, entry):
            backend, _ = load(path)
            assert backend.predict_values([{}]) == [{"from": "module"}]
            assert backend._import.path == installed / "installed_plugin" / "models.py"
    finally:
        for name in [name for name in sys.modules if name.startswith("installed_plugin")]:
            del sys.modules[name]


@pytest.mark.parametrize("path", ["nothing", "nothing.py", "nothing.py:My", "no.such.module:My", "json", "x" * 5000])
def test_names_of_nothing(path: str) -> None:
    assert PythonBackend.sniff(Path(path)).confidence == 0
    assert "is not a plugin: there is no such" in refused(path).message


def test_sniffing_runs_no_code_and_says_that_loading_does(tmp_path: Path) -> None:
    file = write(tmp_path / "evil.py", f"{SEED}\nraise SystemExit('ran')")
    match = PythonBackend.sniff(Path(f"{file}:CustomModelPlugin"))
    assert match.runs_code == f"A plugin is Python code: loading it runs {file}."
    assert match.task == "custom"


@pytest.mark.parametrize(
    ("name", "content", "confidence"),
    [
        ("a.py", b"print('hello')", 0.5),
        ("a.txt", SEED.encode(), 0.9),
        ("a.txt", b"BasePlugin", 0.0),
        ("a.onnx", b"\0import BasePlugin", 0.0),
        ("a.bin", b"", 0.0),
    ],
)
def test_confidence(tmp_path: Path, name: str, content: bytes, confidence: float) -> None:
    (tmp_path / name).write_bytes(content)
    assert PythonBackend.sniff(tmp_path / name).confidence == confidence


# --- the class ------------------------------------------------------------------------------------------------------


def test_a_class_called_plugin_wins(tmp_path: Path) -> None:
    source = plugin("def predict(self, i): return {}")
    file = write(tmp_path / "two.py", source + "class Plugin(My):\n    def predict(self, i): return {'plugin': 1}\n")
    assert load(file)[0].predict_values([{}]) == [{"plugin": 1}]


def test_several_plugins_must_be_told_apart(tmp_path: Path) -> None:
    file = write(tmp_path / "two.py", plugin("def predict(self, i): return {}") + "class Other(My): pass\n")
    assert refused(file).message == f"two.py holds 2 plugins; say which one: {file}:My or {file}:Other."


def test_an_imported_plugin_counts_when_it_is_the_only_one(tmp_path: Path) -> None:
    write(tmp_path / "base_of.py", plugin("def predict(self, i): return {'a': 1}"))
    file = write(tmp_path / "model.py", "from base_of import My\n")
    assert load(file)[0].predict_values([{}]) == [{"a": 1}]
    write(file, "from base_of import My\nclass Mine(My):\n    def predict(self, i): return {'a': 2}\n")
    assert load(file)[0].predict_values([{}]) == [{"a": 2}]


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (SEED, "CustomModelPlugn", "has no class 'CustomModelPlugn'. Did you mean 'CustomModelPlugin'?"),
        (SEED, "Zzz", "has no class 'Zzz'. It has the plugins CustomModelPlugin."),
        ("x = 1\n", None, "holds no plugin: write a class that subclasses unimodel.plugins.BasePlugin"),
        ("class A:\n    pass\n", "A", "A is not a plugin; let it subclass unimodel.plugins.BasePlugin."),
        ("A = 3\n", "A", "3 is not a plugin"),
        (f"{HEADER}class A(BasePlugin): pass\n", None, "class A does not define load_model and predict."),
        (plugin("async def predict(self, i): return {}"), None, "My.predict is async; make it a plain function."),
    ],
)
def test_no_usable_class(tmp_path: Path, source: str, name: str | None, message: str) -> None:
    file = write(tmp_path / "p.py", source)
    error = refused(f"{file}:{name}" if name else file)
    assert isinstance(error, ModelFileError)
    assert message in error.message


# --- errors of the author -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            f"{HEADER}import no_such_module_xyz\n",
            "p.py cannot be imported: line 2: it needs the Python module 'no_such_module_xyz', which is not installed "
            "beside the server.",
        ),
        (f"{HEADER}class A(:\n", "p.py cannot be imported: line 2: invalid syntax."),
        (f"{HEADER}\n\n1 / 0\n", "p.py cannot be imported: line 4: ZeroDivisionError: division by zero."),
        ("import sys\nsys.exit(2)\n", "p.py cannot be imported: line 2: SystemExit: 2."),
        (
            plugin("def predict(self, i): return {}", load="raise OSError('no weights')"),
            "My.load_model failed: line 4: OSError: no weights.",
        ),
        (
            plugin("def __init__(self): self.x\ndef predict(self, i): return {}"),
            "My.load_model failed: line 5: AttributeError: 'My' object has no attribute 'x'.",
        ),
        (
            plugin("def predict(self, i): return {}", load="config.missing"),
            "My.load_model failed: line 4: AttributeError: there is no option 'missing'; the options are: none.",
        ),
    ],
)
def test_errors_while_loading_name_the_line(tmp_path: Path, source: str, message: str) -> None:
    before = set(sys.modules)
    assert refused(write(tmp_path / "p.py", source)).message == message
    assert set(sys.modules) == before
    assert str(tmp_path) not in sys.path


def test_a_syntax_error_in_a_sibling_names_its_file(tmp_path: Path) -> None:
    write(tmp_path / "helper.py", "\ndef\n")
    file = write(tmp_path / "p.py", f"{HEADER}import helper\n")
    assert refused(file).message == "p.py cannot be imported: helper.py line 2: invalid syntax."


def test_invalid_input_from_load_model_is_a_bad_option(tmp_path: Path) -> None:
    file = write(
        tmp_path / "p.py", plugin("def predict(self, i): return {}", load="raise InvalidInput('too big', 'size')")
    )
    error = refused(file, size=3)
    assert isinstance(error, InvalidOption)
    assert (error.message, error.field) == ("My: too big", "config.size")


# --- several plugins in one process ---------------------------------------------------------------------------------


def test_plugins_and_siblings_of_the_same_names_do_not_clash(tmp_path: Path) -> None:
    source = plugin(
        "def predict(self, i):\n    import helper\n    return {'top': WHO, 'late': self.late, 'now': helper.WHO}",
        load="from helper import WHO as late; self.late = late",
    )
    backends = {}
    for who in ("a", "b"):
        write(tmp_path / who / "helper.py", f"WHO = {who!r}\n")
        backends[who] = load(write(tmp_path / who / "model.py", f"from helper import WHO\n{source}"))[0]
    for who, backend in backends.items():
        (result,) = backend.predict_values([{}])
        assert isinstance(result, dict)
        assert (result["top"], result["late"]) == (who, who)
    backends["b"].close()
    assert backends["a"].predict_values([{}]) == [{"top": "a", "late": "a", "now": "a"}]
    backends["a"].close()
    assert "helper" not in sys.modules
    assert not any(str(tmp_path) in entry for entry in sys.path)


def test_an_edited_plugin_and_its_siblings_are_loaded_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "model.py", f"from helper import N\n{plugin('def predict(self, i): return {1: N + 10}')}")
    for n in (1, 2):  # the same second and the same length, so that a cached .pyc would look fresh
        write(tmp_path / "helper.py", f"N = {n}\n").touch()
        write(file, file.read_text().replace("+ 10", "+ 20" if n == 2 else "+ 10"))
        backend, _ = load(file)
        (result,) = backend.predict_values([{}])
        assert isinstance(result, dict)
        assert result["1"] - 10 * n == n
        backend.close()


def test_modules_of_the_server_are_not_a_plugins_to_forget(tmp_path: Path) -> None:
    file = write(tmp_path / "model.py", f"import json, backends.base\n{SEED}")
    backend, _ = load(file)
    backend.close()
    assert "backends.base" in sys.modules
    assert "json" in sys.modules


def test_a_sibling_first_imported_while_predicting_is_explained(tmp_path: Path) -> None:
    write(tmp_path / "late_helper.py", "N = 1\n")
    file = write(tmp_path / "model.py", plugin("def predict(self, i):\n    import late_helper\n    return {}"))
    (error,) = load(file)[0].predict_values([{}])
    assert isinstance(error, BackendError)
    assert "My imports 'late_helper' while it predicts; import it at the top of its file" in error.message


def test_plugins_load_from_several_threads(tmp_path: Path) -> None:
    results: dict[int, Any] = {}

    def run(i: int) -> None:
        write(tmp_path / str(i) / "shared_name.py", f"N = {i}\n")
        body = plugin("def predict(self, _): return {1: shared_name.N}")
        source = f"import time\nimport shared_name\ntime.sleep(0.01)\n{body}"
        results[i] = load(write(tmp_path / str(i) / "m.py", source))[0].predict_values([{}])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: [{"1": i}] for i in range(8)}


# --- options --------------------------------------------------------------------------------------------------------


def test_any_option_reaches_a_plugin_that_declares_none(tmp_path: Path) -> None:
    body = (
        "def predict(self, i):\n    c = self.c\n"
        "    return {'o': dict(c.options), 'a': c.alpha, 'd': c.device, 't': c.threads}"
    )
    file = write(tmp_path / "p.py", plugin(body, load="self.c = config"))
    backend, info = load(file, alpha=1, nested={"b": [2]})
    assert backend.predict_values([{}]) == [
        {"o": {"alpha": 1, "nested": {"b": [2]}}, "a": 1, "d": "cpu", "t": 3},
    ]
    assert "alpha, nested were passed to the plugin unchecked" in info.notes[0]


def test_declared_options_are_checked_and_have_defaults(tmp_path: Path) -> None:
    body = (
        "options = {'threshold': 0.5, 'words': [], 'weights': None}\ndef predict(self, i): return dict(self.c.options)"
    )
    file = write(tmp_path / "p.py", plugin(body, load="self.c = config"))
    backend, info = load(file, threshold=1)
    assert backend.predict_values([{}]) == [{"threshold": 1, "words": [], "weights": None}]
    assert not info.notes
    error = refused(file, treshold=1)
    assert isinstance(error, InvalidOption)
    assert (error.message, error.field) == (
        "My has no option 'treshold'. Did you mean 'threshold'?",
        "config.treshold",
    )
    assert refused(file, threshold="high").message == (
        "Option threshold of My must be a number, such as 0.5; got 'high'."
    )


def test_declared_names_without_defaults(tmp_path: Path) -> None:
    body = "options = {'alpha'}\ndef predict(self, i): return dict(self.c.options)"
    file = write(tmp_path / "p.py", plugin(body, load="self.c = config"))
    assert load(file, alpha="x")[0].predict_values([{}]) == [{"alpha": "x"}]
    assert refused(file, zzz=1).message == "My has no option 'zzz'. It has: alpha."


def test_the_folder_of_a_plugin_holds_its_weights(tmp_path: Path) -> None:
    write(tmp_path / "weights.txt", "42")
    body = "def predict(self, i): return {'w': self.w}"
    file = write(tmp_path / "p.py", plugin(body, load="self.w = (config.folder / 'weights.txt').read_text()"))
    assert load(file)[0].predict_values([{}]) == [{"w": "42"}]
    config = ModelConfig(path=tmp_path)
    assert config.folder == tmp_path


# --- answers --------------------------------------------------------------------------------------------------------


def predict(tmp_path: Path, expression: str) -> Any:
    file = write(
        tmp_path / "p.py", "import numpy as np, datetime\n" + plugin(f"def predict(self, i): return {expression}")
    )
    return load(file)[0].predict_values([{}])[0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("{'a': np.arange(3), 'b': [np.float32(0.5)]}", {"a": [0, 1, 2], "b": [0.5]}),
        ("{'a': np.array(['x', 'y']), 'b': np.bool_(True)}", {"a": ["x", "y"], "b": True}),
        ("{'a': {'d': np.int64(1)}, 'b': np.eye(2)}", {"a": {"d": 1}, "b": [[1, 0], [0, 1]]}),
        ("{1: (1, 2), 'when': datetime.date(2020, 1, 2)}", {"1": (1, 2), "when": "2020-01-02"}),
        ("{}", {}),
    ],
)
def test_answers_become_json(tmp_path: Path, expression: str, expected: Any) -> None:
    assert json.loads(encode_json(predict(tmp_path, expression))) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("None", "My.predict must give a dict; got NoneType."),
        ("[1]", "My.predict must give a dict; got list."),
        ("np.zeros(2)", "My.predict must give a dict; got numpy.ndarray."),
        ("{'a': object()}", "My.predict gave a value that JSON cannot hold: a object."),
        ("{'a': self}", "My.predict gave a value that JSON cannot hold: a "),
        ("{(1, 2): 3}", "My.predict gave a value that JSON cannot hold: "),
        ("(lambda d: d.update(d=d) or d)({})", "My.predict gave a dict that contains itself, or nests too deeply."),
    ],
)
def test_answers_that_are_no_json_name_the_type(tmp_path: Path, expression: str, message: str) -> None:
    error = predict(tmp_path, expression)
    assert isinstance(error, BackendError)
    assert error.message.startswith(message)


def test_each_request_has_its_own_error() -> None:
    backend, _ = load(PLUGINS / "faulty.py:AbortOnRequest")
    results = backend.predict_values([{"input": "a"}, {"input": "raise"}, {"input": "b"}])
    assert isinstance(results[1], RuntimeError)
    assert str(results[1]) == "as it was told"
    assert [r["output"] for r in (results[0], results[2]) if isinstance(r, dict)] == ["a", "b"]


def test_invalid_input_is_the_clients_error() -> None:
    backend, _ = load(ROOT / "examples" / "sentiment_plugin.py")
    (error,) = backend.predict_values([{"input": 3}])
    assert isinstance(error, InvalidInput)
    assert (error.message, error.field) == ("input must be a sentence", "input")


@pytest.mark.parametrize("error", ["asyncio.CancelledError('gone')", "KeyboardInterrupt", "GeneratorExit"])
def test_no_exception_takes_the_worker_down(tmp_path: Path, error: str) -> None:
    source = plugin(
        f"""def predict(self, i): raise {error}
def stream(self, i):
    yield {{}}
    raise {error}"""
    )
    backend, _ = load(write(tmp_path / "p.py", f"import asyncio\n{source}"))
    (fault,) = backend.predict_values([{}])
    name = error.partition("(")[0].rpartition(".")[2]
    assert isinstance(fault, BackendError)
    assert f": {name}" in fault.message
    if name != "GeneratorExit":
        with pytest.raises(BackendError, match=name):
            list(backend.stream({}))


def test_sys_exit_does_not_take_the_worker_down(tmp_path: Path) -> None:
    error = predict(tmp_path, "__import__('sys').exit(1)")
    assert isinstance(error, BackendError)
    assert error.message == "My called sys.exit() while it predicted."


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_is_computed_together() -> None:
    backend, info = load(PLUGINS / "echo.py:BatchEcho", prefix=">")
    assert info.batchable
    assert info.unbatched_reason is None
    assert backend.predict_values([{"input": "a"}, {"input": "b"}]) == [
        {"output": ">a", "together": 2},
        {"output": ">b", "together": 2},
    ]


def test_poison_fails_alone() -> None:
    backend, _ = load(PLUGINS / "echo.py:BatchEcho")
    first, poison, last = backend.predict_values([{"input": "a"}, {"input": "poison"}, {"input": "b"}])
    assert (first, last) == ({"output": "a", "together": 1}, {"output": "b", "together": 1})
    assert isinstance(poison, InvalidInput)
    (alone,) = backend.predict_values([{"input": "poison"}])
    assert isinstance(alone, InvalidInput)


def test_a_batch_that_spoils_its_inputs_before_it_fails(tmp_path: Path) -> None:
    body = (
        "def predict(self, i): return {'x': i['x'] + 0}\n"
        "def predict_batch(self, inputs): return [{'x': i.pop('x') + 0} for i in inputs]"
    )
    backend, _ = load(write(tmp_path / "p.py", plugin(body)))
    first, second = backend.predict_values([{"x": 1}, {"x": "poison"}])
    assert first == {"x": 1}
    assert isinstance(second, TypeError)


@pytest.mark.parametrize(("returned", "got"), [("[{}]", "1 results"), ("{}", "a dict"), ("None", "a NoneType")])
def test_a_batch_of_the_wrong_length_fails_every_request(tmp_path: Path, returned: str, got: str) -> None:
    body = f"def predict(self, i): return {{}}\ndef predict_batch(self, inputs): return {returned}"
    errors = load(write(tmp_path / "p.py", plugin(body)))[0].predict_values([{}, {}])
    assert [str(error) for error in errors] == [
        f"My.predict_batch must return a list of 2 dicts, one a request; got {got}."
    ] * 2


def test_one_bad_answer_in_a_batch(tmp_path: Path) -> None:
    body = "def predict(self, i): return {}\ndef predict_batch(self, inputs): return [{'a': 1}, None]"
    good, bad = load(write(tmp_path / "p.py", plugin(body)))[0].predict_values([{}, {}])
    assert good == {"a": 1}
    assert str(bad) == "My.predict_batch must give a dict; got NoneType."


# --- streams, examples, the end -------------------------------------------------------------------------------------


def test_a_stream() -> None:
    backend, info = load(PLUGINS / "echo.py:StreamEcho")
    assert info.streams
    assert list(backend.stream({"input": "a b"})) == [{"output": "a"}, {"output": "b"}]
    chunks = backend.stream({"input": "a stop b"})
    assert next(chunks) == {"output": "a"}
    with pytest.raises(InvalidInput, match="stop is not allowed"):
        next(chunks)


def test_a_stream_that_is_left_runs_its_clean_up(tmp_path: Path) -> None:
    body = (
        "def predict(self, i): return {}\n"
        "def stream(self, i):\n    try:\n        while True: yield {'x': np.int64(1)}\n    finally: i['closed'] = True"
    )
    backend, _ = load(write(tmp_path / "p.py", "import numpy as np\n" + plugin(body)))
    request: dict[str, Any] = {}
    chunks = backend.stream(request)
    assert next(chunks) == {"x": 1}
    chunks.close()  # type: ignore[attr-defined]
    assert request == {"closed": True}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("yield 3", "My.stream must give a dict; got int."),
        ("return {'a': 1}", "My.stream must give a dict; got str."),
        ("return None", "'NoneType' object is not iterable"),
    ],
)
def test_a_stream_of_something_else(tmp_path: Path, body: str, message: str) -> None:
    file = write(tmp_path / "p.py", plugin(f"def predict(self, i): return {{}}\ndef stream(self, i): {body}"))
    with pytest.raises((BackendError, TypeError), match=message):
        list(load(file)[0].stream({}))


def test_an_example_by_attribute_and_by_method(tmp_path: Path) -> None:
    source = "def predict(self, i): return {}\n"
    for text in ("example = {'input': 'hi'}", "def example(self): return {'input': 'hi'}"):
        assert load(write(tmp_path / "p.py", plugin(source + text)))[0].example() == {"input": "hi"}
    backend, _ = load(write(tmp_path / "p.py", plugin(source + "example = 'hi'")))
    with pytest.raises(BackendError, match=r"My\.example must give a dict; got str"):
        backend.example()
    backend, _ = load(write(tmp_path / "p.py", plugin(source + "def example(self): return 1 / 0")))
    with pytest.raises(ModelFileError, match=r"My\.example failed: line 6: ZeroDivisionError"):
        backend.example()


def test_close_is_called_once(tmp_path: Path) -> None:
    body = "def predict(self, i): return {}\ndef close(self): (self.c.folder / 'closed').touch(exist_ok=False)"
    backend, _ = load(write(tmp_path / "p.py", plugin(body, load="self.c = config")))
    backend.close()
    assert (tmp_path / "closed").exists()
    backend.close()


def test_the_public_api_needs_no_numpy() -> None:
    code = "import sys, unimodel.plugins; print(sorted({'numpy', 'msgspec', 'backends', 'engine'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.strip() == "[]"


def test_a_base_plugin_can_be_used_without_a_server() -> None:
    class Doubler(BasePlugin):
        def load_model(self, config: ModelConfig) -> None:
            self.factor = config.options.get("factor", 2)

        def predict(self, input_data: dict[str, Any]) -> dict[str, Any]:
            return {"output": input_data["input"] * self.factor}

    plugin = Doubler()
    plugin.load_model(ModelConfig(path=Path(__file__)))
    assert plugin.predict_batch([{"input": 1}, {"input": 2}]) == [{"output": 2}, {"output": 4}]
    assert list(plugin.stream({"input": 3})) == [{"output": 6}]
    plugin.close()


def test_arrays_of_numbers_stay_what_they_are_for_who_can_take_them(tmp_path: Path) -> None:
    answer = predict(tmp_path, "{'a': np.arange(3, dtype=np.int8), 'b': [{'c': np.eye(2)}], 'd': (np.array(['x']), 1)}")
    assert answer["a"].dtype == np.int8
    np.testing.assert_array_equal(answer["b"][0]["c"], np.eye(2))
    assert answer["d"] == [["x"], 1]
