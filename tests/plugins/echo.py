"""Plugins that answer at once: the smallest one, and one that batches and streams."""

from collections.abc import Iterator

from unimodel.plugins import BasePlugin, InvalidInput, ModelConfig


class Echo(BasePlugin):
    """Answers with its input."""

    example = {"input": "hello"}

    def load_model(self, config: ModelConfig) -> None:
        self.prefix = config.options.get("prefix", "")

    def predict(self, input_data: dict) -> dict:
        return {"output": f"{self.prefix}{input_data['input']}"}


class BatchEcho(Echo):
    """Also says how many requests were computed together; the word `poison` fails, alone or in company."""

    options = {"prefix": ""}

    def predict(self, input_data: dict) -> dict:
        return self.predict_batch([input_data])[0]

    def predict_batch(self, inputs: list[dict]) -> list[dict]:
        if any(body["input"] == "poison" for body in inputs):
            raise InvalidInput("poison is not allowed", field="input")
        return [{"output": f"{self.prefix}{body['input']}", "together": len(inputs)} for body in inputs]


class StreamEcho(Echo):
    """Streams its input word by word; the word `stop` fails midway."""

    def stream(self, input_data: dict) -> Iterator[dict]:
        for word in input_data["input"].split():
            if word == "stop":
                raise InvalidInput("stop is not allowed", field="input")
            yield {"output": word}
