"""A model that streams: it goes on from a word, by what followed which word in a few sentences."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from unimodel.plugins import BasePlugin, InvalidInput, ModelConfig

SENTENCES = """
the river runs down to the sea and the sea runs up to the shore
the wind comes over the hill and the hill keeps the wind from the door
a boat on the river waits for the wind and a light on the shore waits for the boat
"""


class BabblePlugin(BasePlugin):
    options = {"words": 12}
    example = {"input": "the river", "seed": 1}

    def load_model(self, config: ModelConfig) -> None:
        self.words = config.words
        self.after: dict[str, list[str]] = {}
        for one, other in pairwise(SENTENCES.split()):
            self.after.setdefault(one, []).append(other)

    def predict(self, input_data: dict) -> dict:
        return {"output": "".join(chunk["output"] for chunk in self.stream(input_data))}

    def stream(self, input_data: dict) -> Iterator[dict]:
        text = input_data.get("input")
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput("input must be a text", field="input")
        random = Random(input_data.get("seed"))  # noqa: S311 - no secret depends on it
        word = text.lower().split()[-1]
        for _ in range(self.words):
            word = random.choice(self.after.get(word) or sorted(self.after))
            yield {"output": f" {word}"}
