"""Plugins that take their worker down with them, or hang."""

import os
import time

from unimodel.plugins import BasePlugin, ModelConfig


class AbortOnLoad(BasePlugin):
    def load_model(self, config: ModelConfig) -> None:
        os.abort()

    def predict(self, input_data: dict) -> dict:
        return {}


class AbortOnRequest(BasePlugin):
    """Aborts on ``{"input": "abort"}``, exits on ``"exit"``, raises on ``"raise"``, sleeps on a number of seconds."""

    def load_model(self, config: ModelConfig) -> None:
        pass

    def predict(self, input_data: dict) -> dict:
        wish = input_data.get("input")
        if wish == "abort":
            os.abort()
        if wish == "exit":
            os._exit(3)
        if wish == "raise":
            raise RuntimeError("as it was told")
        if isinstance(wish, int | float):
            time.sleep(wish)
        return {"output": wish, "pid": os.getpid()}
