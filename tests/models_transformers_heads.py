"""Heads trained here, in seconds, so that their answers mean something: on top of MiniLM, and two small networks.

A model is trained once and kept in the cache of the fetched ones, under the version of the library.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests import models
from tests.models_transformers import TOKENIZER, edit, minilm, save

REVISION = 1
"""Raise it when a builder changes, so that models in the cache are trained anew."""

TOPICS = {
    "food": (
        "I baked bread with butter", "The soup needs more salt", "We ate pasta with tomato sauce", "She fries an egg",
        "This cheese tastes wonderful", "He grilled fish for dinner", "The cake is sweet",
        "Peel the potatoes and boil them",
    ),
    "weather": (
        "It will rain all day", "The sun is shining", "A storm is coming from the west", "Snow covered the hills",
        "It is cold and windy today", "The fog is thick this morning", "Clouds hide the sky", "A hot and humid night",
    ),
    "sport": (
        "The team won the match", "She ran a marathon", "He scored a goal in the last minute",
        "The coach trains swimmers", "They lost the tennis final", "The cyclists race uphill",
        "A penalty in the second half", "He lifts heavy weights",
    ),
}  # fmt: skip
PEOPLE = ("Anna Schmidt", "Peter", "Maria Rossi", "John Smith", "Olga", "David Brown")
PLACES = ("Berlin", "Paris", "New York", "Madrid", "Tokyo", "Rome")
FRAMES = ("{} lives in {}.", "Yesterday {} went to {}.", "My friend {} was born in {} long ago.", "{} likes {}.")
CAPITALS = {
    "france": "paris",
    "italy": "rome",
    "spain": "madrid",
    "japan": "tokyo",
    "germany": "berlin",
    "egypt": "cairo",
}
THINGS = ("fox", "key", "book", "train", "cat", "money")
WHERE = ("in the forest", "under the table", "on the old shelf", "at the station", "behind the door", "in a box")


def path(name: str) -> Path:
    """The folder of a model, trained now unless it is in the cache."""
    return models.built(f"transformers-{version('transformers')}-{REVISION}", name, BUILDERS[name], folder=True)


def _load(architecture: str, **config: Any) -> tuple[Any, Any]:
    """MiniLM with a head that knows nothing yet, and its tokenizer."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = getattr(transformers, architecture).from_pretrained(minilm(), dtype=torch.float32, **config)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(minilm())


def _finish(model: Any, folder: Path) -> None:
    save(model, folder)
    for name in TOKENIZER:
        shutil.copyfile(minilm() / name, folder / name)


def _set_linear(layer: Any, features: Any, classes: Any) -> None:
    """Makes a linear layer tell the classes apart."""
    import torch
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=500, C=10).fit(features, classes)
    weights, bias = fitted.coef_, fitted.intercept_
    if len(weights) == 1:
        weights, bias = np.r_[-weights / 2, weights / 2], np.r_[-bias / 2, bias / 2]
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.copy_(torch.from_numpy(bias))


def topics(folder: Path) -> None:
    """A text → what it is about."""
    import torch

    names = list(TOPICS)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    model, tokenizer = _load("BertForSequenceClassification", num_labels=len(names), **labels)
    texts = [(text, i) for i, name in enumerate(names) for text in TOPICS[name]]
    with torch.inference_mode():
        inputs = tokenizer([text for text, _ in texts], return_tensors="pt", padding=True)
        features = model.bert(**inputs).pooler_output.numpy()
    _set_linear(model.classifier, features, [i for _, i in texts])
    _finish(model, folder)


def ranker(folder: Path) -> None:
    """A query and a text → one number, by a head that knows nothing."""
    model, _ = _load("BertForSequenceClassification", num_labels=1)
    _finish(model, folder)


def names(folder: Path) -> None:
    """A text → people and places in it."""
    import torch

    kinds = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    labels = {"id2label": dict(enumerate(kinds)), "label2id": {name: i for i, name in enumerate(kinds)}}
    model, tokenizer = _load("BertForTokenClassification", num_labels=len(kinds), **labels)
    features, classes = [], []
    for frame in FRAMES:
        for person in PEOPLE:
            for place in PLACES:
                text = frame.format(person, place)
                encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
                offsets = encoded.pop("offset_mapping")[0].tolist()
                with torch.inference_mode():
                    features += list(model.bert(**encoded).last_hidden_state[0].numpy())
                spans = {1: _span(text, person), 3: _span(text, place)}
                for begin, end in offsets:
                    kind = next((k for k, (a, b) in spans.items() if a <= begin < end <= b), 0)
                    classes.append(kind and kind + (begin > spans[kind][0]))
    _set_linear(model.classifier, np.array(features), classes)
    _finish(model, folder)


def _span(text: str, part: str) -> tuple[int, int]:
    return text.index(part), text.index(part) + len(part)


def answers(folder: Path) -> None:
    """A question and a context → where something is."""
    import torch

    model, tokenizer = _load("BertForQuestionAnswering")
    features, classes = [], []
    for thing in THINGS:
        for place in WHERE:
            context = f"The {thing} is {place} since yesterday."
            encoded = tokenizer(f"Where is the {thing}?", context, return_tensors="pt", return_offsets_mapping=True)
            offsets, types = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids(0)
            with torch.inference_mode():
                features += list(model.bert(**encoded).last_hidden_state[0].numpy())
            begin, end = _span(context, place)
            classes += [
                (kind == 1 and a == begin, kind == 1 and b == end) for (a, b), kind in zip(offsets, types, strict=True)
            ]
    for i in range(2):
        layer = torch.nn.Linear(features[0].shape[0], 2)
        _set_linear(layer, np.array(features), [each[i] for each in classes])
        with torch.no_grad():
            model.qa_outputs.weight[i] = layer.weight[1]
            model.qa_outputs.bias[i] = layer.bias[1]
    _finish(model, folder)


def capitals(folder: Path) -> None:
    """A text with gaps → the words that belong there, of a few sentences that it knows by heart."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = transformers.BertConfig(vocab_size=30522, max_position_embeddings=64, hidden_dropout_prob=0.0, **sizes)
    model = transformers.BertForMaskedLM(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    texts = [f"the capital of {country} is {city}." for country, city in CAPITALS.items()]
    whole = tokenizer(texts, return_tensors="pt")
    gaps = [i for i in (4, 6) if whole["input_ids"].shape[1] > i]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(120):
        inputs = whole["input_ids"].clone()
        place = gaps[step % len(gaps)]
        inputs[:, place] = tokenizer.mask_token_id
        labels = torch.full_like(inputs, -100)
        labels[:, place] = whole["input_ids"][:, place]
        loss = model(input_ids=inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _finish(model.eval(), folder)
    edit(folder / "tokenizer_config.json", model_max_length=64)


def digits(folder: Path) -> None:
    """A picture of 8 × 8 pixels → the digit on it."""
    import torch
    import transformers
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    images, kinds = load_digits(return_X_y=True)
    config = transformers.ViTConfig(
        image_size=8, patch_size=2, num_channels=3, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, num_labels=10, id2label={i: f"digit {i}" for i in range(10)}, hidden_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    processor = transformers.ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.4] * 3, image_std=[0.3] * 3
    )
    pixels = torch.from_numpy((images.reshape(-1, 1, 8, 8) / 16 - 0.4) / 0.3).float().expand(-1, 3, -1, -1)
    targets = torch.from_numpy(kinds)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(700):
        rows = torch.randint(0, 1500, (64,), generator=torch.Generator().manual_seed(step))
        loss = model(pixel_values=pixels[rows], labels=targets[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save(model.eval(), folder)
    processor.save_pretrained(folder)


BUILDERS: dict[str, Callable[[Path], None]] = {
    "topics": topics,
    "ranker": ranker,
    "names": names,
    "answers": answers,
    "capitals": capitals,
    "digits": digits,
}
