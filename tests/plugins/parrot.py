"""A plugin to chat with, whose answers can be known beforehand."""

from collections.abc import Iterator
from itertools import count

from unimodel.plugins import BasePlugin, InvalidInput, ModelConfig


class Parrot(BasePlugin):
    """Says what it heard, how many messages it got, and what it was told beside them.

    Of the words it hears, `forever` makes it go on until its listener leaves, and `sigh` makes it fail midway.
    """

    example = {"input": "hello"}

    def load_model(self, config: ModelConfig) -> None:
        """Nothing to load."""

    def predict(self, input_data: dict) -> dict:
        return {"output": "".join(self.words(input_data))}

    def stream(self, input_data: dict) -> Iterator[dict]:
        for word in self.words(input_data):
            yield {"output": word}

    def words(self, body: dict) -> Iterator[str]:
        messages = body.get("messages", [])
        yield f"[{len(messages)}]"
        for message in messages:
            if message["role"] == "system":
                yield f" ({message['content']})"
            elif isinstance(message["content"], list):
                yield from (f" <{p['image_url']['url'][:22]}>" for p in message["content"] if p["type"] == "image_url")
        for name in ("temperature", "max_tokens", "top_p", "top_k", "seed", "stop"):
            if name in body:
                yield f" {name}={body[name]}"
        for word in body["input"].split(" "):
            yield f" {word}"
            if word == "sigh":
                raise InvalidInput("sigh is not allowed", field="input")
            if word == "forever":
                yield from (f" {i}" for i in count())
