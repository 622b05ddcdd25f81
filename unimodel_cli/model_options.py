"""What the user says of a model at registration, as the server wants it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from unimodel_cli.client import is_loopback
from unimodel_cli.errors import UsageError

_WORDS = ("on", "off", "yes", "no")
"""What PyYAML reads as a boolean, while options such as ``speculation=off`` mean the word."""

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def server_path(path: str, url: str) -> str:
    """`path` as the server finds it: absolute if it is a path on this machine, else as it is.

    ``file.py:Class`` keeps its class; ``package.module:Class`` and the name of an installed plugin stay as they are.
    """
    file, colon, name = path.rpartition(":")
    for local, suffix in ((path, ""), (file, f":{name}")):
        if local and Path(local).expanduser().exists():
            return _absolute(local) + suffix
    is_import = bool(_IMPORT_PATH.fullmatch(path)) and not file.endswith(".py")
    is_name = "/" not in path and "." not in path
    if is_import or is_name or not is_loopback(url):
        return path
    return f"{_absolute(file)}:{name}" if colon and file.endswith(".py") else _absolute(path)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def nested(settings: list[str]) -> dict[str, Any]:
    """``["a.b=1", "c=x"]`` as ``{"a": {"b": 1}, "c": "x"}``. Values are read as YAML. Raises `UsageError`."""
    tree: dict[str, Any] = {}
    for setting in settings:
        key, value = key_value(setting, "--set")
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise UsageError(f"--set {setting}: {parent!r} already has a value, so it cannot have parts.")
        if isinstance(branch.get(leaf), dict):
            raise UsageError(f"--set {setting}: parts of {leaf!r} were set before.")
        branch[leaf] = _as_server_finds(value, always=key == "python")
    return tree


def _as_server_finds(value: Any, *, always: bool) -> Any:
    """A path on this machine, such as that of a list of labels, as absolute; any other value as it is.

    A text is one if there is such a file, or `always`.
    """
    if not isinstance(value, str):
        return value
    path = Path(value).expanduser()
    if always or (("/" in value or "." in value) and path.is_file()):
        return _absolute(value)
    return value


def text_of_file(path: str, option: str) -> str:
    """What a text file holds. Raises `UsageError`, which names `option`."""
    try:
        return Path(path).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{option} {path}: cannot read the file: {reason}.") from None


def key_value(setting: str, option: str) -> tuple[str, Any]:
    """``key=value`` with the value read as YAML. Raises `UsageError`, which names `option`."""
    import yaml

    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise UsageError(f"{option} {setting}: expected KEY=VALUE, such as batching.max_batch_size=64.")
    if text in _WORDS:
        return key, text
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"{option} {setting}: the value is not valid YAML; quote it if it is text.") from None
