"""The files of a new plugin: a package that passes its own test and can be registered as it is."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
import sys
from pathlib import Path

from engine.errors import Conflict, InsufficientStorage
from unimodel_cli.errors import UsageError

PLUGIN = '''"""A model for UniModel. Register it with: unimodel register {name} ./{module}.py:{cls} --trust"""

from typing import Any

from unimodel.plugins import BasePlugin, InvalidInput, ModelConfig


class {cls}(BasePlugin):
    """Counts words. Put your own model here."""

    options = {{"lowercase": True}}
    """Options with their defaults, set with: unimodel register ... --set lowercase=false"""

    example = {{"input": "one fish two fish"}}
    """A request that the model accepts. It is tried when the model is loaded."""

    def load_model(self, config: ModelConfig) -> None:
        """Called once. Load weights here, from files beside this one: config.folder / "weights.bin"."""
        self.lowercase = config.lowercase

    def predict(self, input_data: dict[str, Any]) -> dict[str, Any]:
        """Answers one request: its JSON body in, a dict out."""
        text = input_data.get("input")
        if not isinstance(text, str):
            raise InvalidInput("input must be a text", field="input")
        counts: dict[str, int] = {{}}
        for word in (text.lower() if self.lowercase else text).split():
            counts[word] = counts.get(word, 0) + 1
        return {{"output": counts}}

    # Define predict_batch(self, inputs) as well to be given the requests of several callers together.
'''

TEST = """import pytest
from {module} import {cls}

from unimodel.plugins import InvalidInput, ModelConfig


@pytest.fixture
def plugin(tmp_path):
    plugin = {cls}()
    plugin.load_model(ModelConfig(path=tmp_path, options={cls}.options))
    return plugin


def test_answers_its_example(plugin):
    assert plugin.predict(plugin.example) == {{"output": {{"one": 1, "fish": 2, "two": 1}}}}


def test_refuses_what_is_no_text(plugin):
    with pytest.raises(InvalidInput):
        plugin.predict({{"input": 3}})
"""

PYPROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "0.1.0"
description = "A model for UniModel."
requires-python = ">=3.11"
dependencies = ["unimodel"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."unimodel.plugins"]
{name} = "{module}:{cls}"

[tool.setuptools]
py-modules = ["{module}"]

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]
"""

README = """# {name}

A model for [UniModel](https://github.com/turtacn/unimodel), written in Python.

```
unimodel plugin test ./{module}.py:{cls}    # what the server expects of it
python -m pytest                            # its own test, which needs pytest
unimodel start
unimodel register {name} ./{module}.py:{cls} --trust
unimodel predict {name} 'one fish two fish'
```

Installed (`pip install .` in the server's environment), it is registered by its name:

```
unimodel register {name} {name} --trust
```

While you change it, `unimodel serve --dev` serves every version that you save.
"""

FILES = {
    "{module}.py": PLUGIN,
    "tests/test_{module}.py": TEST,
    "pyproject.toml": PYPROJECT,
    "README.md": README,
}


SENTENCE = "one fish two fish"
"""What the plugin is asked."""


def create(name: str, folder: Path) -> list[Path]:
    """Writes a new plugin into `folder`, which must be new or empty, and returns its files.

    Raises `UsageError` for a name that cannot be one, `Conflict` and `InsufficientStorage`.
    """
    words = names(name)
    written: list[Path] = []
    try:
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise Conflict(f"{folder} exists already; choose another folder with --dir.")
        for path, text in FILES.items():
            file = folder / path.format(**words)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x") as new:
                written.append(file)
                new.write(text.format(**words))
    except OSError as e:
        for file in written:
            file.unlink(missing_ok=True)
        raise InsufficientStorage(f"Cannot write into {folder}: {e.strerror}.") from None
    return written


def next_steps(name: str, folder: Path) -> list[str]:
    """The commands that try a new plugin, one after the other."""
    words = names(name)
    target = shlex.quote(f"{folder / words['module']}.py:{words['cls']}")
    return [
        f"unimodel plugin test {target}",
        f"unimodel register {name} {target} --trust",
        f"unimodel predict {name} '{SENTENCE}'",
    ]


def names(name: str) -> dict[str, str]:
    """The names of the model, its module and its class, from that of the plugin. Raises `UsageError`."""
    module = re.sub(r"[.-]+", "_", name).lower()
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,62}[A-Za-z0-9]", name) or keyword.iskeyword(module):
        raise UsageError(
            f"{name!r} cannot be a plugin's name: use 2 to 64 letters, digits, '-' and '_', begin with a letter, "
            "and take no word of Python's own.",
            field="name",
        )
    if module in sys.stdlib_module_names or module == "tests" or importlib.util.find_spec(module):
        raise UsageError(
            f"{name!r} cannot be a plugin's name: Python has a module {module!r} already, which it would hide.",
            field="name",
        )
    return {"name": name, "module": module, "cls": "".join(part.capitalize() for part in module.split("_"))}
