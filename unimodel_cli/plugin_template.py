"""The files of a new plugin: a package that passes its own test and can be registered as it is."""

from __future__ import annotations

import keyword
import re
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
python -m pytest                                          # its own test, without a server
unimodel start
unimodel register {name} ./{module}.py:{cls} --trust
unimodel predict {name} 'one fish two fish'
```

Installed (`pip install .` in the server's environment), it is registered by its name:

```
unimodel register {name} {name} --trust
```
"""

FILES = {
    "{module}.py": PLUGIN,
    "tests/test_{module}.py": TEST,
    "pyproject.toml": PYPROJECT,
    "README.md": README,
}


def create(name: str, folder: Path) -> list[Path]:
    """Writes a new plugin into `folder`, which must be new or empty, and returns its files.

    Raises `UsageError` for a name that cannot be one, `Conflict` and `InsufficientStorage`.
    """
    words = names(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} exists already; choose another folder with --dir.")
    written = []
    try:
        for path, text in FILES.items():
            file = folder / path.format(**words)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.format(**words))
            written.append(file)
    except OSError as e:
        raise InsufficientStorage(f"Cannot write into {folder}: {e.strerror}.") from None
    return written


def names(name: str) -> dict[str, str]:
    """The names of the model, its module and its class, from that of the plugin."""
    module = re.sub(r"[.-]+", "_", name).lower()
    if (
        not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]", name)
        or keyword.iskeyword(module)
        or module == "unimodel"
    ):
        raise UsageError(
            f"{name!r} cannot be a plugin's name: use letters, digits, '-' and '_', begin with a letter, "
            "and take no word of Python's own.",
            field="name",
        )
    return {"name": name, "module": module, "cls": "".join(part.capitalize() for part in module.split("_"))}
