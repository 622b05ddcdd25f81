"""Hugging Face folders that segment images, and images that keep their shapes, against the library itself.

The weights are random, made so that answers are not trivial: no package ships trained ones.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from backends.base import PIXEL_MASK, BackendError, Device, InvalidInput, ModelFileError, ModelInfo
from backends.transformers import folder as folders
from backends.transformers.classify import TransformersClassifyBackend
from backends.transformers.heads import ClassifyOptions
from backends.transformers.library import Network
from backends.transformers.preparation import whole
from engine import tasks
from engine.model_options import ModelOptions, PreprocessOptions
from engine.tasks.base import Parameters, TensorTask
from engine.tasks.pixels import Free, _shaped

Build = Callable[[Path], Path]
LABELS = {0: "cat", 1: "dog", 2: "car"}
SHAPED = {"size": {"shortest_edge": 96, "longest_edge": 160}}


def load(folder: Path) -> tuple[TransformersClassifyBackend, ModelInfo]:
    backend = TransformersClassifyBackend()
    return backend, backend.load(folder, Device("cpu", threads=2), ClassifyOptions())


def image(name: str, *size: int) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)()).resize(size)


def png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def mask(region: dict[str, Any]) -> Any:
    """bool [height, width] of a region of an answer."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(region["mask"]))))


def answer(backend: TransformersClassifyBackend, task: TensorTask, value: Any, **parameters: Any) -> Any:
    decoded = task.decode("input", value)
    outputs = backend.predict(decoded.tensors)
    return task.answer("input", outputs, decoded.single, Parameters(**parameters), decoded.origin)


# --- small networks -------------------------------------------------------------------------------------------------


def segformer(folder: Path) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=32, id2label=LABELS,
    )  # fmt: skip
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        model.decode_head.classifier.weight.normal_(0, 1)
    model.save_pretrained(folder)
    transformers.SegformerImageProcessorPil(size={"height": 128, "width": 128}).save_pretrained(folder)
    return folder


def _resnet() -> Any:
    import transformers

    stages = ["stage1", "stage2", "stage3", "stage4"]
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=stages
    )


def _swin() -> Any:
    import transformers

    return transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def _detr(width: int, **more: Any) -> Any:
    import transformers

    return transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=_resnet(), backbone=None, d_model=width, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=8, decoder_attention_heads=8, encoder_ffn_dim=32, decoder_ffn_dim=32,
        num_queries=8, **more,
    )  # fmt: skip


def detr(folder: Path) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.DetrForObjectDetection(_detr(64, id2label=LABELS)).eval()
    _spread(model.class_labels_classifier, model.model.query_position_embeddings, model.bbox_predictor)
    model.save_pretrained(folder)
    transformers.DetrImageProcessorPil(**SHAPED).save_pretrained(folder)
    return folder


def detr_regions(folder: Path) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.DetrForSegmentation(_detr(64, id2label=LABELS)).eval()
    _spread(model.detr.class_labels_classifier, model.detr.model.query_position_embeddings, model.bbox_attention)
    model.save_pretrained(folder)
    transformers.DetrImageProcessorPil(**SHAPED).save_pretrained(folder)
    return folder


def mask2former(folder: Path) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(
        backbone_config=_swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=8, id2label=LABELS,
    )  # fmt: skip
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    decoder = model.model.transformer_module
    _spread(model.class_predictor, decoder.queries_embedder, decoder.queries_features)
    model.save_pretrained(folder)
    transformers.Mask2FormerImageProcessorPil(**SHAPED).save_pretrained(folder)
    return folder


def maskformer(folder: Path) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.MaskFormerConfig(
        backbone_config=_swin(), decoder_config=_detr(32), fpn_feature_size=32, mask_feature_size=32, id2label=LABELS
    )
    model = transformers.MaskFormerForInstanceSegmentation(config).eval()
    _spread(model.class_predictor, model.model.transformer_module.queries_embedder, model.mask_embedder)
    model.save_pretrained(folder)
    transformers.MaskFormerImageProcessorPil(**SHAPED).save_pretrained(folder)
    return folder


def _spread(classes: Any, queries: Any, *others: Any) -> None:
    """Makes weights so large that queries differ, and are sure of their classes."""
    import torch

    with torch.no_grad():
        classes.weight.normal_(0, 3)
        classes.bias[-1] = -10  # few are none
        for module, width in ((queries, 10), *((other, 0.3) for other in others)):
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, width)


# --- regions --------------------------------------------------------------------------------------------------------


def test_each_pixel_has_the_class_that_the_library_gives_it(tmp_path: Path) -> None:
    import torch
    import transformers

    folder = segformer(tmp_path / "segformer")
    backend, info = load(folder)
    assert (info.task, info.labels) == ("image-segmentation", ("cat", "dog", "car"))
    assert info.outputs[0].shape == ("batch", 3, 32, 32)
    picture = image("astronaut", 200, 140)
    found = answer(backend, tasks.create(info.task, info, ModelOptions()), png(picture))
    expected = transformers.pipeline("image-segmentation", model=str(folder), device="cpu")(picture)
    masks = {each["label"]: np.asarray(each["mask"]) > 0 for each in expected}
    assert {each["label"] for each in found} == masks.keys() == {"cat", "dog", "car"}
    for each in found:
        assert np.mean(mask(each) != masks[each["label"]]) < 1e-4
        assert each["share"] == pytest.approx(masks[each["label"]].mean(), abs=1e-4)
    assert [each["share"] for each in found] == sorted((each["share"] for each in found), reverse=True)
    # what the score is: the mean, over the region, of the probability of its class
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**processor(picture, return_tensors="pt")).logits
    large = torch.nn.functional.interpolate(logits, size=(140, 200), mode="bilinear", align_corners=False)[0]
    likely = large.softmax(0).numpy()
    for each in found:
        assert each["score"] == pytest.approx(likely[each["index"]][masks[each["label"]]].mean(), abs=1e-3)


@pytest.mark.parametrize("build", [detr_regions, mask2former, maskformer])
def test_regions_are_those_of_the_library(build: Build, tmp_path: Path) -> None:
    import transformers

    folder = build(tmp_path / "regions")
    backend, info = load(folder)
    task = tasks.create(info.task, info, ModelOptions())
    assert {f.subject: f.value for f in task.findings}["least score"] == "0.9"
    picture = image("astronaut", 200, 150 if build is not detr_regions else 140)
    found = answer(backend, task, png(picture), threshold=0.3)
    pipeline = transformers.pipeline("image-segmentation", model=str(folder), device="cpu")
    expected = pipeline(picture, threshold=0.3)
    assert len(found) == len(expected) >= 2
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    for wanted in expected:
        theirs = np.asarray(wanted["mask"]) > 0
        each = max(found, key=lambda one: np.mean(mask(one) == theirs))
        assert np.mean(mask(each) != theirs) < 1e-3
        assert (each["label"], each["score"]) == (wanted["label"], pytest.approx(wanted["score"], abs=1e-4))
        rows, columns = np.flatnonzero(mask(each).any(axis=1)), np.flatnonzero(mask(each).any(axis=0))
        corners = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert list(each["box"].values()) == corners
    assert answer(backend, task, png(picture), threshold=0.3, top_k=1) == found[:1]
    assert answer(backend, task, png(picture), threshold=1.0) == []


@pytest.mark.parametrize(
    "architecture",
    ["OneFormerForUniversalSegmentation", "EomtForUniversalSegmentation", "RfDetrForInstanceSegmentation"],
)
def test_other_ways_to_segment_are_refused(architecture: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": "other"}))
    with pytest.raises(ModelFileError, match="cuts pictures into regions in a way of its own; that is not served"):
        folders.check_task(folders.read(tmp_path), "image-segmentation")


# --- images that keep their shapes ----------------------------------------------------------------------------------


def test_images_of_several_shapes_are_detected_as_by_the_library(tmp_path: Path) -> None:
    """In one request they are padded, with a mask; alone they are as they are."""
    import torch
    import transformers

    folder = detr(tmp_path / "detr")
    backend, info = load(folder)
    assert info.inputs[0].shape == ("batch", 3, "height", "width")
    assert info.optional == (PIXEL_MASK,)
    task = tasks.create(info.task, info, ModelOptions())
    told = {f.subject: (f.value, f.sure) for f in task.findings}
    assert told["image size"] == ("short side 96, long side at most 160", "certain")
    assert told["image fit"] == ("whole, in its own shape", "certain")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.DetrForObjectDetection.from_pretrained(folder)

    def expected(*pictures: Image.Image) -> list[dict[str, Any]]:
        inputs = processor(list(pictures), return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        sizes = [picture.size[::-1] for picture in pictures]
        return processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)

    wide, high = image("astronaut", 200, 140), image("coffee", 100, 130)
    decoded = task.decode("input", [png(wide), png(high)])
    theirs = processor([wide, high], return_tensors="pt")
    np.testing.assert_allclose(decoded.tensors["pixel_values"], theirs["pixel_values"], atol=1e-5)
    np.testing.assert_array_equal(decoded.tensors["pixel_mask"], theirs["pixel_mask"])
    for pictures in ((wide,), (high,), (wide, high), (wide, wide)):
        answers = answer(backend, task, [png(each) for each in pictures], threshold=0.0)
        for picture, found, wanted in zip(pictures, answers, expected(*pictures), strict=True):
            order = np.argsort(-wanted["scores"].numpy(), kind="stable")
            scores = [each["score"] for each in found]
            np.testing.assert_allclose(scores, wanted["scores"].numpy()[order], atol=1e-5)
            boxes = wanted["boxes"].numpy()[order].clip(0, np.tile(picture.size, 2))
            assert np.ptp(boxes, axis=0).max() > 5  # they are not all the same
            np.testing.assert_allclose([list(each["box"].values()) for each in found], boxes, atol=0.02)


def test_a_size_of_the_users_squeezes(tmp_path: Path) -> None:
    folder = detr(tmp_path / "detr")
    _, info = load(folder)
    task = tasks.create(info.task, info, ModelOptions(preprocess=PreprocessOptions(size=64)))
    decoded = task.decode("input", [png(image("astronaut", 200, 140)), png(image("coffee", 100, 130))])
    assert {name: array.shape for name, array in decoded.tensors.items()} == {"pixel_values": (2, 3, 64, 64)}


def test_without_a_mask_only_images_of_one_shape_go_together(tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[96, 160],
        patch_size=16, num_detection_tokens=10, id2label=LABELS,
    )  # fmt: skip
    folder = tmp_path / "yolos"
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    processor = transformers.YolosImageProcessorPil(**SHAPED)
    processor.save_pretrained(folder)
    backend, info = load(folder)
    assert info.optional == ()
    task = tasks.create(info.task, info, ModelOptions())
    wide, high = image("astronaut", 200, 140), image("coffee", 100, 130)
    for picture in (wide, high):
        pixels = task.decode("input", png(picture)).tensors["pixel_values"]
        np.testing.assert_allclose(pixels, processor(picture, return_tensors="pt")["pixel_values"], atol=1e-5)
    assert len(answer(backend, task, [png(wide), png(wide)], threshold=0.0)) == 2
    with pytest.raises(InvalidInput, match="The images of one request must have one shape"):
        task.decode("input", [png(wide), png(high)])


@pytest.mark.parametrize("multiple", [1, 32])
def test_sizes_are_those_of_the_library(multiple: int) -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio

    rng = np.random.default_rng(0)
    sizes = [*rng.integers(1, 3000, (2000, 2)).tolist(), [800, 800], [800, 1333], [1333, 800], [1, 9000]]
    for width, height in sizes:
        rows, columns = get_size_with_aspect_ratio((height, width), 800, 1333)
        rows, columns = (max(1, -(-side // multiple)) * multiple for side in (rows, columns))
        assert _shaped((width, height), 800, Free(1333, multiple, up=multiple > 1)) == (columns, rows)


def test_yolos_rounds_down() -> None:
    from transformers.models.yolos.image_processing_pil_yolos import get_size_with_aspect_ratio_yolos

    for width, height in np.random.default_rng(0).integers(50, 3000, (2000, 2)).tolist():
        rows, columns = get_size_with_aspect_ratio_yolos((height, width), 800, 1333)
        if min(rows, columns) > 0:  # the library has no picture of a very thin image
            assert _shaped((width, height), 800, Free(1333, 16)) == (columns, rows)


def mobilenet(folder: Path, **processor: Any) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(depth_multiplier=0.25, output_stride=8, id2label=LABELS)
    model = transformers.MobileNetV2ForSemanticSegmentation(config).eval()
    with torch.no_grad():
        model.segmentation_head.classifier.convolution.weight.normal_(0, 1)
    model.save_pretrained(folder)
    transformers.MobileNetV2ImageProcessorPil(**processor).save_pretrained(folder)
    return folder


CUT = {"size": {"shortest_edge": 110}, "crop_size": {"height": 96, "width": 96}}


def test_what_the_library_cuts_off_is_cut_off_and_masks_lie_where_the_rest_was(tmp_path: Path) -> None:
    import torch
    import transformers

    folder = mobilenet(tmp_path / "mobilenet", **CUT)
    backend, info = load(folder)
    assert info.inputs[0].shape == ("batch", 3, 96, 96)
    assert any("Only the middle of an image is looked at" in note for note in info.notes)
    task = tasks.create(info.task, info, ModelOptions())
    picture = image("astronaut", 300, 220)
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"]
    decoded = task.decode("input", png(picture))
    difference = np.abs(decoded.tensors["pixel_values"] - pixels.numpy())
    assert difference.mean() < 0.01  # the library rounds to whole numbers between scaling and cutting
    found = answer(backend, task, png(picture))
    model = transformers.MobileNetV2ForSemanticSegmentation.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.from_numpy(decoded.tensors["pixel_values"])).logits
    side, left, top = 96 * 2, (300 - 96 * 2) // 2, (220 - 96 * 2) // 2  # the short side of 220 became 110
    inner = torch.nn.functional.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
    expected = np.full((220, 300), -1)
    expected[top : top + side, left : left + side] = inner[0].argmax(0).numpy()
    assert {each["index"] for each in found} == set(np.unique(expected)) - {-1}
    assert len(found) >= 2
    for each in found:
        assert np.mean(mask(each) != (expected == each["index"])) < 2e-3
    assert sum(each["share"] for each in found) == pytest.approx(side * side / (300 * 220), abs=1e-3)
    squeezed = tasks.create(info.task, info, ModelOptions(preprocess=PreprocessOptions(crop=False)))
    assert sum(each["share"] for each in answer(backend, squeezed, png(picture))) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [({"size": {"shortest_edge": 96}, "do_center_crop": False}, (96, 130)), ({"do_resize": False}, (102, 139))],
)
def test_images_keep_their_shapes_where_the_library_leaves_them(
    settings: dict[str, Any], shape: tuple[int, int], tmp_path: Path
) -> None:
    import transformers

    folder = mobilenet(tmp_path / "mobilenet", **{"do_center_crop": False, **settings})
    backend, info = load(folder)
    assert info.inputs[0].shape == ("batch", 3, "height", "width")
    assert info.outputs[0].shape == ("batch", 3, "map_height", "map_width")
    task = tasks.create(info.task, info, ModelOptions())
    picture = image("astronaut", 139, 102)
    pixels = task.decode("input", png(picture)).tensors["pixel_values"]
    assert pixels.shape == (1, 3, *shape)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    np.testing.assert_allclose(pixels, processor(picture, return_tensors="pt")["pixel_values"], atol=1e-5)
    found = answer(backend, task, png(picture))
    expected = transformers.pipeline("image-segmentation", model=str(folder), device="cpu")(picture)
    masks = {each["label"]: np.asarray(each["mask"]) > 0 for each in expected}
    assert {each["label"] for each in found} == masks.keys()
    for each in found:
        assert np.mean(mask(each) != masks[each["label"]]) < 1e-3


def test_a_network_of_one_size_gets_its_images_squeezed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Network.compute

    def of_squares(self: Network, **inputs: Any) -> Any:
        if inputs["pixel_values"].shape[2] != inputs["pixel_values"].shape[3]:
            raise BackendError("The network takes squares.")
        return compute(self, **inputs)

    monkeypatch.setattr(Network, "compute", of_squares)
    _, info = load(mobilenet(tmp_path / "mobilenet", size={"shortest_edge": 96}, do_center_crop=False))
    assert info.inputs[0].shape == ("batch", 3, 96, 96)
    assert "Images are squeezed into a square, where the library would leave their shape." in info.notes
    assert tasks.create(info.task, info, ModelOptions())


@pytest.mark.parametrize("problem", ["multi_label_classification", "single_label_classification", "regression"])
def test_scores_of_classes_are_those_of_the_library(problem: str, tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        id2label=LABELS, problem_type=problem,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(0, 1)
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    backend, info = load(tmp_path)
    task = tasks.create(info.task, info, ModelOptions())
    picture = image("astronaut", 32, 32)
    found = answer(backend, task, png(picture))
    expected = transformers.pipeline("image-classification", model=str(tmp_path), device="cpu")(picture)
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in expected], abs=1e-4)
    assert {f.subject: f.value for f in task.findings}["softmax"] == "no"


def test_what_processors_say_of_cutting() -> None:
    def said(**settings: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
        return whole(type("Processor", (), settings)())

    chosen, notes = said(size={"shortest_edge": 40}, crop_size=32, do_center_crop=True)
    assert (chosen["size"], chosen["crop"], chosen["resize"]) == ((32, 32), True, 40)
    assert len(notes) == 1
    chosen, notes = said(size={"shortest_edge": 24}, crop_size=32, do_center_crop=True)
    assert (chosen["resize"], notes[0]) == (
        32,
        "Images are scaled to what is cut out, where the library would add black borders.",
    )
    _, notes = said(size={"height": 32, "width": 32}, keep_aspect_ratio=True)
    assert notes == ("Images are squeezed, where the library would leave their shape.",)
