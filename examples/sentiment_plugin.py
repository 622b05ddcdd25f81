"""A model in 20 lines: the mood of a sentence, by counting words. Register it as ./sentiment_plugin.py --trust"""

import re

from unimodel.plugins import BasePlugin, InvalidInput, ModelConfig

GOOD = {"amazing", "awesome", "best", "delicious", "easy", "excellent", "fast", "fun", "good", "great", "love", "nice"}
BAD = {"awful", "bad", "boring", "broken", "disgusting", "hate", "horrible", "poor", "sad", "slow", "terrible", "worst"}
NEGATIONS = {"not", "no", "never", "hardly", "isn't", "wasn't", "don't", "doesn't", "didn't", "can't", "won't"}


class SentimentPlugin(BasePlugin):
    options = {"neutral_below": 0.2}
    example = {"input": "The food was great, but the service was not good and painfully slow."}

    def load_model(self, config: ModelConfig) -> None:
        self.neutral_below = config.options["neutral_below"]

    def predict(self, input_data: dict) -> dict:
        text = input_data.get("input")
        if not isinstance(text, str):
            raise InvalidInput("input must be a sentence", field="input")
        words = re.findall(r"[\w']+", text.lower())
        moods = []
        for previous, word in zip(["", *words], words, strict=False):
            mood = (word in GOOD) - (word in BAD)
            if mood:
                moods.append(-mood if previous in NEGATIONS else mood)
        score = sum(moods) / len(moods) if moods else 0.0
        label = "neutral" if abs(score) < self.neutral_below else "positive" if score > 0 else "negative"
        return {"output": {"label": label, "score": round(score, 3)}}
