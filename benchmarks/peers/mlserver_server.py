"""Starts MLServer on a model repository made for the models to serve: adaptive batching on, inference in the server's
own process (``parallel_workers`` 0: with one model a core, its worker pool only adds a hop)."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from compute import TEXT_WAIT, Served, arguments


def main() -> None:
    args = arguments()
    home = Path(tempfile.mkdtemp(prefix="bench-mlserver-"))
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": args.port,
        "grpc_port": _free_port(),
        "metrics_endpoint": None,
        "metrics_dir": str(home / "metrics"),
        "environments_dir": str(home / "environments"),
        "parallel_workers": 0,
        "gzip_enabled": False,
        "logging_settings": {"version": 1, "disable_existing_loggers": True},
    }
    (home / "settings.json").write_text(json.dumps(settings))
    served: Served
    for served in args.serve:
        folder = home / served.route
        folder.mkdir()
        sklearn = served.path.endswith(".joblib")
        extra = {"threads": args.threads, "served": served.text}
        model = {
            "name": served.route,
            "implementation": "mlserver_sklearn.SKLearnModel" if sklearn else "mlserver_runtime.OnnxRuntime",
            "max_batch_size": served.max_batch_size,
            "max_batch_time": TEXT_WAIT if served.kind == "text" else 0.001,
            "parameters": {"uri": served.path, "extra": {"predict_fn": "predict_proba"} if sklearn else extra},
        }
        (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.execv(sys.executable, [sys.executable, "-c", "from mlserver.cli import main; main()", "start", str(home)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
