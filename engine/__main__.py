"""``python -m engine``: the server process, in the foreground. ``unimodel serve`` and ``unimodel start`` run it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from engine import settings as settings_module
from engine.errors import ExitCode, InvalidOption, UniModelError
from engine.settings import TABLE


def main() -> int:
    """Parses the flags and serves. Returns the exit code."""
    arguments = _parser().parse_args()
    flags = {key: getattr(arguments, key) for key in TABLE}
    try:
        settings, config = settings_module.load(arguments.config, flags)
        from engine import server  # late: a bad flag should not wait for the imports

        server.run(settings, config, arguments.home, sys.stderr)
    except UniModelError as e:
        sys.stderr.write(f"error: {e.code}: {e.message}\n")
        return ExitCode.USAGE if isinstance(e, InvalidOption) else ExitCode.FAILED
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description="The UniModel server.", allow_abbrev=False)
    home = os.environ.get("UNIMODEL_HOME") or "~/.unimodel"
    parser.add_argument("--home", type=_path, default=_path(home), help="folder of the registry and the logs")
    parser.add_argument("--config", type=_path, help="YAML file of settings")
    for row in TABLE.values():
        help_text = f"{row.help} [{row.type_name}; default {row.default}]".replace("%", "%%")
        parser.add_argument(row.flag, dest=row.key, metavar=row.key.upper(), help=help_text)
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


if __name__ == "__main__":
    sys.exit(main())
