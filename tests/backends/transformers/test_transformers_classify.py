"""Tests of Hugging Face folders that classify, rank, fill gaps and find answers: they answer as the library does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backends.base import Device, InvalidInput, InvalidOption, ModelFileError, ModelInfo, Tensors
from backends.transformers.classify import TransformersClassifyBackend
from backends.transformers.heads import ClassifyOptions
from backends.transformers.preparation import preprocessing
from engine import tasks
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters
from tests import models_transformers_heads as trained
from tests.models_transformers import bert, copied, edit

pytest.importorskip("transformers")

CPU = Device("cpu", threads=1)


def load(folder: Path, **options: Any) -> tuple[TransformersClassifyBackend, ModelInfo]:
    backend = TransformersClassifyBackend()
    return backend, backend.load(folder, CPU, ClassifyOptions(**options))


@cache
def loaded(name: str, **options: Any) -> tuple[TransformersClassifyBackend, ModelInfo]:
    return load(trained.path(name), **options)


def ask(name: str, value: Any, **parameters: Any) -> Any:
    """The answer of the model, through the engine's task."""
    backend, info = loaded(name)
    task = tasks.create(info.task, info, ModelOptions())
    decoded = task.decode("input", value)
    rows = len(next(iter(decoded.tensors.values())))
    chosen = Parameters(**parameters)
    outputs = backend.predict(task.complete(decoded.tensors, rows, chosen))
    return task.encode("input", outputs, decoded.single, chosen)


@cache
def pipeline(name: str, task: str, **options: Any) -> Any:
    """The library's own way to serve the folder."""
    import transformers

    return transformers.pipeline(task, model=str(trained.path(name)), device="cpu", **options)


def strings(**columns: list[str]) -> Tensors:
    return {name: np.array(texts, dtype=object) for name, texts in columns.items()}


# --- texts ----------------------------------------------------------------------------------------------------------


def test_topics_of_texts() -> None:
    texts = ["Fry the onions in oil", "Heavy rain and thunder", "She won the race and the medal " * 3, "Soup"]
    answers = ask("topics", texts)
    assert [answer[0]["label"] for answer in answers] == ["food", "weather", "sport", "food"]
    expected = pipeline("topics", "text-classification", top_k=None)(texts)
    for answer, wanted in zip(answers, expected, strict=True):
        assert [each["label"] for each in answer] == [each["label"] for each in wanted]
        assert [each["score"] for each in answer] == pytest.approx([each["score"] for each in wanted], abs=1e-5)
    assert ask("topics", texts[0], top_k=1) == [pytest.approx(answers[0][0])]
    info = loaded("topics")[1]
    assert (info.task, info.labels) == ("text-classification", ("food", "weather", "sport"))


def test_classes_that_do_not_exclude_each_other(tmp_path: Path) -> None:
    import transformers

    folder = copied(trained.path("topics"), tmp_path / "m", problem_type="multi_label_classification")
    backend, info = load(folder)
    row = backend.predict(strings(text=["Fry the onions"]))["probabilities"][0]
    expected = transformers.pipeline("text-classification", model=str(folder), top_k=None)(["Fry the onions"])[0]
    by_label = {each["label"]: each["score"] for each in expected}
    assert row.tolist() == pytest.approx([by_label[label] for label in info.labels or ()], abs=1e-5)
    assert "do not sum to 1" in info.notes[0]


def test_numbers_instead_of_classes_stay_as_they_are(tmp_path: Path) -> None:
    import transformers

    folder = copied(trained.path("topics"), tmp_path / "m", problem_type="regression")
    backend, info = load(folder)
    task = tasks.create(info.task, info, ModelOptions())
    decoded = task.decode("input", "Fry the onions")
    (answer,) = task.encode("instances", backend.predict(decoded.tensors), False, Parameters(top_k=3))
    (expected,) = transformers.pipeline("text-classification", model=str(folder), top_k=None)(["Fry the onions"])
    assert [each["label"] for each in answer] == [each["label"] for each in expected]
    assert [each["score"] for each in answer] == pytest.approx([each["score"] for each in expected], abs=1e-4)
    assert not 0 <= answer[-1]["score"] <= 1
    assert "no probabilities" in info.notes[0]


def test_ranking_is_a_sigmoid_unless_the_folder_says_otherwise(tmp_path: Path) -> None:
    import torch
    import transformers

    folder = trained.path("ranker")
    backend, info = loaded("ranker")
    assert (info.task, [spec.name for spec in info.inputs]) == ("rerank", ["query", "text"])
    pairs = strings(query=["capital of France", "a"], text=["Paris is the capital of France. " * 4, "b"])
    answer = backend.predict(pairs)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        inputs = tokenizer(pairs["query"].tolist(), pairs["text"].tolist(), return_tensors="pt", padding=True)
        logits = model(**inputs).logits[:, 0]
    assert answer["score"] == pytest.approx(logits.sigmoid().numpy(), abs=1e-5)
    assert answer["tokens"].tolist() == inputs["attention_mask"].sum(1).tolist()
    raw = copied(folder, tmp_path / "m", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    assert load(raw)[0].predict(pairs)["score"] == pytest.approx(logits.numpy(), abs=1e-5)
    best = ask("ranker", {"query": "capital of France", "documents": ["a", "Paris"]})
    assert {each["index"] for each in best} == {0, 1}


def test_one_number_of_a_text_is_no_ranking(tmp_path: Path) -> None:
    import transformers

    folder = copied(trained.path("ranker"), tmp_path / "m", problem_type="regression")
    backend, info = load(folder)
    assert (info.task, info.labels) == ("text-classification", ("LABEL_0",))
    scores = backend.predict(strings(text=["Paris is the capital of France."]))["scores"]
    (expected,) = transformers.pipeline("text-classification", model=str(folder))(["Paris is the capital of France."])
    assert scores.tolist() == [[pytest.approx(expected["score"], abs=1e-5)]]
    own = copied(folder, tmp_path / "own", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    assert load(own)[1].task == "rerank"


def test_pairs_that_are_too_long_lose_the_end_of_the_text() -> None:
    backend, _ = loaded("ranker", max_context_length=16)
    long = strings(query=["a b c"], text=["x " * 50])
    with pytest.raises(InvalidInput, match=r"^The pair of query and text has 56 tokens; the model takes at most 16"):
        backend.predict(long)
    cut = backend.predict({**long, "truncate": np.array([True])})
    assert cut["tokens"].tolist() == [16]
    with pytest.raises(InvalidInput, match="Shorten its first part"):
        backend.predict({**strings(query=["a " * 50], text=["x"]), "truncate": np.array([True])})


# --- tokens ---------------------------------------------------------------------------------------------------------

NAMES = ["Laura Miller lives in London.", "Yesterday Frank Zappa went to Buenos Aires.", "Nobody was there."]


def test_names_in_texts() -> None:
    answers = ask("names", NAMES)
    assert [(e["label"], e["word"]) for e in answers[0]] == [("PER", "Laura Miller"), ("LOC", "London")]
    for text, answer in zip(NAMES, answers, strict=True):
        expected = pipeline("names", "token-classification", aggregation_strategy="simple")(text)
        assert [(e["label"], e["start"], e["end"]) for e in answer] == [
            (e["entity_group"], e["start"], e["end"]) for e in expected
        ]
        assert [e["score"] for e in answer] == pytest.approx([e["score"] for e in expected], abs=1e-4)
        assert all(text[e["start"] : e["end"]] == e["word"] for e in answer)


@pytest.mark.parametrize("aggregation", ["none", "first", "average", "max"])
def test_other_ways_to_join_tokens(aggregation: str) -> None:
    backend, _ = loaded("names", aggregation=aggregation)
    text = "Wolfgang Schäuble moved to Gelsenkirchen."
    answer = backend.predict(strings(text=[text]))
    expected = pipeline("names", "token-classification", aggregation_strategy=aggregation)(text)
    assert list(zip(answer["start"][0].tolist(), answer["end"][0].tolist(), strict=True)) == [
        (e["start"], e["end"]) for e in expected
    ]
    assert answer["score"][0].tolist() == pytest.approx([e["score"] for e in expected], abs=1e-4)
    assert answer["label"][0].tolist() == [e.get("entity_group", e.get("entity")) for e in expected]


def test_gaps() -> None:
    texts = ["the capital of france is [MASK].", "the capital of [MASK] is rome.", "the [MASK] of [MASK] is cairo."]
    answers = ask("capitals", texts, top_k=3)
    assert answers[0][0][0]["word"] == "paris"
    assert answers[1][0][0]["word"] == "italy"
    assert [len(answer) for answer in answers] == [1, 1, 2]
    fill = pipeline("capitals", "fill-mask", top_k=3)
    for answer, expected in zip(answers, (fill(text) for text in texts), strict=True):
        expected = expected if isinstance(expected[0], list) else [expected]
        for gap, wanted in zip(answer, expected, strict=True):
            assert [each["index"] for each in gap] == [each["token"] for each in wanted]
            assert [each["score"] for each in gap] == pytest.approx([each["score"] for each in wanted], abs=1e-4)
    with pytest.raises(InvalidInput, match=r"The text has no gap; mark one with \[MASK\]\."):
        ask("capitals", "no gap")
    with pytest.raises(InvalidInput, match="top_k must be from 1 to 20"):
        ask("capitals", texts[0], top_k=21)


def test_answers_to_questions() -> None:
    context = "Some say that nothing is lost. The wallet is under the chair since Monday. Others do not care."
    answer = ask("answers", {"question": "Where is the wallet?", "context": context})
    assert answer["answer"] == "under the chair"
    assert context[answer["start"] : answer["end"]] == answer["answer"]
    several = ask("answers", [{"question": "Where is the wallet?", "context": context}] * 2)
    assert [each["answer"] for each in several] == [answer["answer"]] * 2


def test_a_long_context_is_read_through_windows() -> None:
    filler = "Nothing of interest happened on that day, and so it went on. " * 60
    context = filler + "The wallet is under the chair since Monday. " + filler
    backend, _ = loaded("answers")
    outputs = backend.predict(strings(question=["Where is the wallet?"], context=[context]))
    assert outputs["answer"].tolist() == ["under the chair"]
    assert context[outputs["start"][0] : outputs["end"][0]] == "under the chair"
    assert outputs["tokens"][0] > 1500
    with pytest.raises(InvalidInput, match="The question takes up"):
        backend.predict(strings(question=["where " * 500], context=["here"]))
    with pytest.raises(InvalidInput, match="The context is empty"):
        backend.predict(strings(question=["where"], context=[" "]))


def test_batches_do_not_change_answers() -> None:
    texts = [f"{text} {'Then nothing.' * (i % 5)}" for i in range(4) for text in NAMES]
    backend, _ = loaded("names")
    together = backend.predict(strings(text=texts))
    for i, text in enumerate(texts):
        alone = backend.predict(strings(text=[text]))
        count = alone["label"].shape[1]
        assert together["label"][i, :count].tolist() == alone["label"][0].tolist()
        assert not any(together["label"][i, count:])
        assert together["score"][i, :count] == pytest.approx(alone["score"][0], abs=1e-4)


# --- images ---------------------------------------------------------------------------------------------------------


def png(digit: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray((digit * 255 / 16).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_digits() -> None:
    from sklearn.datasets import load_digits

    backend, info = loaded("digits")
    task = tasks.create(info.task, info, ModelOptions())
    images, kinds = load_digits(return_X_y=True)
    classify = pipeline("digits", "image-classification", top_k=10)
    right = 0
    for pixels, kind in zip(images[1500:1530], kinds[1500:1530], strict=True):
        data = png(pixels.reshape(8, 8))
        decoded = task.decode_bytes(memoryview(data), "image/png")
        answer: Any = task.encode("input", backend.predict(decoded.tensors), True, Parameters(top_k=10))
        expected = {each["label"]: each["score"] for each in classify(Image.open(io.BytesIO(data)))}
        assert {each["label"]: each["score"] for each in answer} == pytest.approx(expected, abs=1e-3)
        right += answer[0]["label"] == f"digit {kind}"
    assert right >= 26
    assert info.inputs[0].shape == ("batch", 3, 8, 8)
    assert task.notes == ()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"height": 8, "width": 6}}, {"size": (8, 6), "crop": False}),
        (
            {
                "size": {"shortest_edge": 9},
                "do_center_crop": True,
                "crop_size": {"height": 8, "width": 8},
                "resample": 3,
            },
            {"size": (8, 8), "crop": True, "resize": 9, "interpolation": "bicubic"},
        ),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, {"size": (224, 224), "crop": True, "resize": 256}),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, {"size": (384, 384), "crop": False}),
        (
            {"size": 8, "do_normalize": True, "image_mean": [0.5], "image_std": [0.25]},
            {"mean": [127.5], "std": [63.75]},
        ),
        ({"size": 8, "do_rescale": False, "do_normalize": False}, {"mean": [0.0], "std": [1.0]}),
        ({"size": 8, "do_flip_channel_order": True}, {"color": "bgr"}),
    ],
)
def test_how_images_are_prepared(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    processor = type("Processor", (), {"rescale_factor": 1 / 255, **settings})()
    chosen, notes = preprocessing(processor)
    for key, value in expected.items():
        assert chosen[key] == (pytest.approx(value) if key in ("mean", "std") else value)
    assert notes == ()


# --- objects in images ----------------------------------------------------------------------------------------------


def yolos(folder: Path) -> Path:
    """A small detector of random weights, whose boxes and classes differ."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.YolosForObjectDetection(
        transformers.YolosConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[64, 64],
            patch_size=8, num_detection_tokens=10, initializer_range=0.5, id2label={0: "cat", 1: "dog", 2: "car"},
        )
    )  # fmt: skip
    with torch.no_grad():
        model.vit.embeddings.detection_tokens.normal_(0, 2)
    model.save_pretrained(folder)
    transformers.YolosImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def rt_detr(folder: Path) -> Path:
    """Another of random weights, whose classes have no "none" among them."""
    import torch
    import transformers

    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=32, encoder_in_channels=[16, 16, 16], encoder_ffn_dim=32,
        encoder_attention_heads=2, d_model=32, num_queries=10, decoder_in_channels=[32, 32, 32], decoder_ffn_dim=32,
        decoder_layers=2, decoder_attention_heads=2, num_denoising=0, id2label={0: "cat", 1: "dog", 2: "car"},
    )  # fmt: skip
    transformers.RTDetrForObjectDetection(config).eval().save_pretrained(folder)
    transformers.RTDetrImageProcessorPil(size={"height": 128, "width": 128}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("build", [yolos, rt_detr])
def test_objects_are_found_where_the_library_finds_them(build: Callable[[Path], Path], tmp_path: Path) -> None:
    import skimage.data
    import transformers

    folder = build(tmp_path / "detector")
    backend, info = load(folder)
    assert (info.task, info.labels) == ("object-detection", ("cat", "dog", "car"))
    task = tasks.create(info.task, info, ModelOptions())
    image = Image.fromarray(skimage.data.astronaut()).resize((100, 70))
    file = io.BytesIO()
    image.save(file, "PNG")
    decoded = task.decode_bytes(memoryview(file.getvalue()), "image/png")
    outputs = backend.predict(decoded.tensors)
    answer = task.answer("input", outputs, True, Parameters(threshold=0.0), decoded.origin)
    expected = transformers.pipeline("object-detection", model=str(folder), device="cpu")(image, threshold=0.0)
    assert len({each["label"] for each in expected}) > 1 or build is rt_detr
    assert len(answer) == len(expected) == 10
    for each, wanted in zip(answer, sorted(expected, key=lambda one: -one["score"]), strict=True):
        assert (each["label"], each["score"]) == (wanted["label"], pytest.approx(wanted["score"], abs=1e-3))
        corners = np.clip(list(wanted["box"].values()), 0, [100, 70, 100, 70])
        np.testing.assert_allclose(list(each["box"].values()), corners, atol=2)
    assert all(each["score"] >= 0.5 for each in task.answer("input", outputs, True, Parameters(), decoded.origin))


def test_a_detector_needs_its_processor(tmp_path: Path) -> None:
    folder = yolos(tmp_path / "yolos")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelFileError, match=r"yolos has no preprocessor_config\.json, which tells how images"):
        load(folder)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_folders_whose_parts_do_not_fit(tmp_path: Path) -> None:
    labels = copied(trained.path("topics"), tmp_path / "labels")
    (labels / "config.json").unlink()
    config = json.loads((trained.path("topics") / "config.json").read_text())
    (labels / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(ModelFileError):
        load(labels)
    headless = bert(tmp_path / "headless")
    edit(headless / "config.json", architectures=["BertForTokenClassification"])
    with pytest.raises(ModelFileError, match=r"lacks weights that BertForTokenClassification needs: classifier\.bias"):
        load(headless)
    damaged = copied(trained.path("digits"), tmp_path / "damaged")
    (damaged / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelFileError):
        load(damaged)


def test_options_out_of_range() -> None:
    with pytest.raises(InvalidOption, match="Option candidates must be at least 1"):
        load(trained.path("capitals"), candidates=0)
