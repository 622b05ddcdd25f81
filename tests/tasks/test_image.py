"""The image task: real pictures through a real model, and every way in which an image can come or be wrong."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw

from backends.base import Device, InvalidInput, InvalidOption, ModelFileError, ModelInfo, TensorSpec
from backends.onnx import OnnxBackend, OnnxOptions
from engine import tasks
from engine.model_options import ModelOptions, PreprocessOptions
from engine.tasks import pixels
from engine.tasks.base import Parameters
from engine.tasks.image import ImageClassificationTask
from engine.tasks.preprocess import METADATA_KEY, resolve
from tests.models import efficientnet

RAW = PreprocessOptions(mean=(0.0,), std=(1.0,), resize=8)
"""Pixels as they are, the whole of a square image."""


def info(shape: tuple[int | str, ...] = ("batch", 3, 8, 8), dtype: str = "float32", **changes: Any) -> ModelInfo:
    base = ModelInfo(
        task="image-classification",
        inputs=(TensorSpec("image", dtype, shape),),
        outputs=(TensorSpec("scores", "float32", (shape[0], 4)),),
    )
    return msgspec.structs.replace(base, **changes)


def task(shape: tuple[int | str, ...] = ("batch", 3, 8, 8), dtype: str = "float32", **options: Any) -> Any:
    changes = {k: options.pop(k) for k in ("labels_found", "metadata") if k in options}
    if "labels_found" in changes:
        changes["labels"] = changes.pop("labels_found")
    options.setdefault("preprocess", RAW)
    return tasks.create("image-classification", info(shape, dtype, **changes), ModelOptions(**options))


def picture(width: int = 8, height: int = 8, mode: str = "RGB") -> Image.Image:
    """A picture whose corners all differ."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    rgb = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), np.full_like(x, 60)], axis=-1)
    return Image.fromarray(rgb.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(t: Any, data: bytes) -> np.ndarray[Any, Any]:
    """The one row, as [height, width, channels]."""
    row = t.decode("input", b64(data)).tensors["image"][0]
    return np.asarray(row.transpose(1, 2, 0) if t.preprocess.nchw else row)


def sure(t: Any, subject: str) -> str:
    """How sure the task is of one part of its preprocessing."""
    (found,) = (f.sure for f in t.findings if f.subject == subject)
    return str(found)


# --- the real thing -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> tuple[OnnxBackend, ImageClassificationTask]:
    backend = OnnxBackend()
    found = backend.load(efficientnet(), Device("cpu", threads=2), OnnxOptions())
    created = tasks.create(found.task, found, ModelOptions())
    assert isinstance(created, ImageClassificationTask)
    return backend, created


def classify(served: tuple[OnnxBackend, ImageClassificationTask], data: bytes, top_k: int) -> Any:
    backend, image_task = served
    tensors, single, _ = image_task.decode("input", b64(data))
    return image_task.encode("input", backend.predict(tensors), single, Parameters(top_k=top_k))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_real_pictures(served: tuple[OnnxBackend, ImageClassificationTask], kind: str) -> None:
    from skimage import data

    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    cats = classify(served, encoded(Image.fromarray(data.chelsea()), kind, **options), 3)
    assert {c["index"] for c in cats} == {282, 285, 281}
    assert {c["label"] for c in cats} == {"tiger cat", "Egyptian cat", "tabby"}
    coffee = classify(served, encoded(Image.fromarray(data.coffee()), kind, **options), 1)
    assert coffee[0]["label"] == "espresso"
    assert coffee[0]["index"] == 967
    assert coffee[0]["score"] == pytest.approx(0.95, abs=0.01)


def test_cutting_out_of_a_scaled_image_is_the_same_as_scaling_then_cutting() -> None:
    """The usual pipeline in two steps, which published accuracies were measured with."""
    from skimage import data

    source = Image.fromarray(data.chelsea())
    scale = 256 / min(source.size)
    scaled = source.resize((round(source.width * scale), round(source.height * scale)), Image.Resampling.BICUBIC)
    left, top = round((scaled.width - 224) / 2), round((scaled.height - 224) / 2)
    expected = np.asarray(scaled.crop((left, top, left + 224, top + 224))).astype(int)
    geometry = pixels.Geometry(224, 224, 256, "bicubic", "RGB")
    got = pixels.decode(encoded(source), geometry, "input").astype(int)
    assert np.abs(got - expected).max() <= 1


def test_large_jpeg_is_decoded_to_a_fraction_of_its_size_with_the_same_answer(
    served: tuple[OnnxBackend, ImageClassificationTask],
) -> None:
    from skimage import data

    large = Image.fromarray(data.coffee()).resize((3000, 2000), Image.Resampling.BICUBIC)
    best = classify(served, encoded(large, "JPEG", quality=95), 1)[0]
    assert best["index"] == 967
    assert best["score"] == pytest.approx(0.95, abs=0.03)


def test_example_is_a_request_that_works(served: tuple[OnnxBackend, ImageClassificationTask]) -> None:
    backend, image_task = served
    tensors, single, _ = image_task.decode("input", image_task.example(backend.example()))
    assert single
    assert len(image_task.encode("input", backend.predict(tensors), single, Parameters())) == 5


# --- formats and modes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    data = encoded(picture(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decoded(task(), data), np.asarray(picture()))


def test_first_frame_of_an_animation() -> None:
    data = encoded(picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    np.testing.assert_array_equal(decoded(task(), data), np.asarray(picture()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_camera_orientation(kind: str, orientation: int) -> None:
    """What Pillow's own (full-size) correction shows is what the model sees."""
    from PIL import ImageOps

    upright = Image.new("RGB", (48, 32), "white")
    ImageDraw.Draw(upright).rectangle((0, 0, 20, 10), "black")
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(upright, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB").resize((24, 24))
    t = task(("batch", 3, 24, 24), preprocess=PreprocessOptions(mean=(0.0,), std=(1.0,), crop=False))
    assert np.abs(decoded(t, data) - np.asarray(expected)).mean() < 6


def test_transparency_shows_white() -> None:
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(64).reshape(8, 8) < 32, 0, 255).astype(np.uint8)))
    pixels_ = decoded(task(), encoded(image))
    assert pixels_[:4].min() == 255
    np.testing.assert_array_equal(pixels_[4:], np.asarray(picture())[4:])
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decoded(task(), encoded(palette, transparency=1)).min() == 255
    assert decoded(task(), encoded(palette)).max() == 30


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P", "LA"])
def test_other_modes_become_rgb(mode: str) -> None:
    grey = Image.new("L", (8, 8), 255).convert(mode)
    assert decoded(task(), encoded(grey, "TIFF" if mode == "CMYK" else "PNG")).tolist() == [[[255] * 3] * 8] * 8


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels_ = decoded(task(), encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(pixels_[..., 0], values >> 8)
    np.testing.assert_array_equal(pixels_[..., 2], values >> 8)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(InvalidInput, match="floating-point"):
        decoded(task(), encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"))


# --- how an image may come ------------------------------------------------------------------------------------------


def test_forms_of_a_request() -> None:
    t, image = task(), b64(encoded(picture()))
    expected = np.asarray(picture(), np.float32).transpose(2, 0, 1)
    for form, value, rows, single in (
        ("input", image, 1, True),
        ("input", f"data:image/png;base64,{image}", 1, True),
        ("input", {"b64": image}, 1, True),
        ("input", {"image": image}, 1, True),
        ("input", [image], 1, False),
        ("input", {"image": [image, image]}, 2, False),
        ("instances", [image, {"b64": image}, {"image": image}, {"image": {"b64": image}}], 4, False),
        ("inputs", [image, image], 2, False),
        ("inputs", image, 1, False),
    ):
        got = t.decode(form, value)
        assert got.single is single
        assert got.tensors["image"].shape == (rows, 3, 8, 8)
        assert got.tensors["image"].flags.c_contiguous
        np.testing.assert_array_equal(got.tensors["image"][rows - 1], expected)


def test_base64_with_lines_or_of_urls() -> None:
    data = encoded(picture(64, 64), "JPEG")
    plain = task().decode("input", b64(data)).tensors["image"]
    for text in (base64.encodebytes(data).decode(), base64.urlsafe_b64encode(data).decode()):
        np.testing.assert_array_equal(task().decode("input", text).tensors["image"], plain)


def test_tensors_are_taken_too() -> None:
    row = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)
    single = task().decode("input", row.tolist())
    assert single.single
    np.testing.assert_array_equal(single.tensors["image"][0], row)
    assert task().decode("instances", [row.tolist(), row.tolist()]).tensors["image"].shape == (2, 3, 8, 8)
    with pytest.raises(InvalidInput, match=r"must have shape \[batch, 3, 8, 8\]"):
        task().decode("input", [[1.0, 2.0]])


def test_raw_body() -> None:
    tensors, single, _ = task().decode_bytes(memoryview(encoded(picture())), "image/png")
    assert single
    np.testing.assert_array_equal(tensors["image"][0].transpose(1, 2, 0), np.asarray(picture()))
    with pytest.raises(InvalidInput, match="audio/wav"):
        task().decode_bytes(memoryview(b"RIFF"), "audio/wav")


# --- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ("cat.jpg", "input", "is not base64"),
        ("https://example.org/cat.jpg", "input", "addresses and paths are not fetched"),
        ("", "input", "is empty"),
        ("data:image/png,abc", "input", "without ';base64,'"),
        (b64(b"hello, world"), "input", "is not an image of a known format"),
        (b64(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "input", "is not an image of a known format"),
        (["", ""], "input[0]", "is empty"),
        ([b64(encoded(picture())), [1, 2]], "input[1]", "must be an image in base64, as the first is; got a list"),
        ([b64(encoded(picture())), b64(b"junk")], "input[1]", "is not an image"),
        ({"image": [b64(encoded(picture())), "§"]}, "input.image[1]", "is not base64"),
        ({"photo": b64(encoded(picture()))}, "input", "must have exactly the inputs 'image'; got 'photo'"),
        (None, "input", "got null"),
    ],
)
def test_errors_name_the_image(value: Any, field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        task().decode("input", value)
    assert message in caught.value.message
    assert caught.value.field == field


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_and_damaged_images(kind: str) -> None:
    """A damaged image is an error that names it, or decodes (some damage cannot be seen); never anything else."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InvalidInput, match="input is"):
        task().decode("input", b64(data[: len(data) // 2]))
    refused = 0
    for i in range(0, len(data), max(1, len(data) // 150)):
        broken = bytearray(data)
        broken[i] ^= 0x55
        try:
            task().decode("input", b64(bytes(broken)))
        except InvalidInput as e:
            refused += 1
            assert e.field == "input"
    assert refused > 0


def test_gigantic_image_is_refused_before_it_is_decoded() -> None:
    bomb = bytearray(encoded(Image.new("1", (8, 8))))
    import struct
    import zlib

    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    with pytest.raises(InvalidInput, match="more than 89478485 pixels"):
        task().decode("input", b64(bytes(bomb)))
    bomb[16:24] = struct.pack(">II", 10_000, 10_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    with pytest.raises(InvalidInput, match="more than 89478485 pixels"):
        task().decode("input", b64(bytes(bomb)))


def test_model_that_takes_one_image_at_a_time() -> None:
    t, image = task((1, 3, 8, 8)), b64(encoded(picture()))
    assert t.decode("input", image).tensors["image"].shape == (1, 3, 8, 8)
    with pytest.raises(InvalidInput, match="takes exactly one image in a request; got 2"):
        t.decode("input", [image, image])


# --- preprocessing --------------------------------------------------------------------------------------------------


def test_imagenet_is_the_guess_and_is_told() -> None:
    t = task(preprocess=PreprocessOptions(resize=8))
    pixels_ = decoded(t, encoded(Image.new("RGB", (8, 8), (255, 0, 128))))
    expected = (np.array([255, 0, 128]) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(pixels_[0, 0], expected, rtol=1e-5)
    assert sure(t, "pixel values") == "guess"
    assert task().notes == ()


def test_metadata_is_obeyed_and_options_win() -> None:
    metadata = {METADATA_KEY: '{"resize": 10, "mean": [10, 20, 30], "std": [2, 2, 2], "interpolation": "nearest"}'}
    t = task(metadata=metadata, preprocess=PreprocessOptions())
    assert (t.preprocess.geometry.resize, t.preprocess.geometry.interpolation) == (10, "nearest")
    np.testing.assert_allclose(t.preprocess.shift.ravel(), [-5, -10, -15])
    assert t.notes == ()
    t = task(metadata=metadata, preprocess=PreprocessOptions(resize=9, std=(5.0,), interpolation="lanczos"))
    assert (t.preprocess.geometry.resize, t.preprocess.geometry.interpolation) == (9, "lanczos")
    np.testing.assert_allclose(t.preprocess.shift.ravel(), [-2, -4, -6])


@pytest.mark.parametrize("text", ["{", '{"sise": 8}', '{"size": "big"}', "[1]"])
def test_bad_metadata(text: str) -> None:
    with pytest.raises(ModelFileError, match=r"unimodel\.preprocess is not valid"):
        task(metadata={METADATA_KEY: text})


def test_ultralytics_classifiers_take_zero_to_one() -> None:
    t = task(metadata={"author": "Ultralytics"}, preprocess=PreprocessOptions(resize=8))
    assert decoded(t, encoded(Image.new("RGB", (8, 8), "white"))).max() == pytest.approx(1)
    assert t.notes == ()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [("n", 3, 8, 8), ("n", 8, 8, 3)])
def test_layouts_and_dtypes(shape: tuple[int | str, ...], dtype: str) -> None:
    t = task(shape, dtype)
    tensor = t.decode("input", b64(encoded(picture()))).tensors["image"]
    assert tensor.dtype == dtype
    assert tensor.shape == (1, *shape[1:])
    np.testing.assert_array_equal(decoded(t, encoded(picture())), np.asarray(picture()))


def test_uint8_pixels_go_in_as_they_are() -> None:
    t = task(("n", 8, 8, 3), "uint8", preprocess=PreprocessOptions(resize=8))
    np.testing.assert_array_equal(decoded(t, encoded(picture())), np.asarray(picture()))
    assert t.notes == ()
    with pytest.raises(InvalidOption, match="uint8 pixels as they are"):
        task(("n", 8, 8, 3), "uint8", preprocess=PreprocessOptions(mean=(1.0,)))


def test_grey_and_bgr() -> None:
    grey = decoded(task(("n", 1, 8, 8)), encoded(picture()))
    np.testing.assert_array_equal(grey[..., 0], np.asarray(picture().convert("L")))
    bgr = PreprocessOptions(mean=(1.0, 2.0, 3.0), std=(1.0,), resize=8, color="bgr")
    reversed_ = decoded(task(preprocess=bgr), encoded(picture()))
    np.testing.assert_array_equal(reversed_, np.asarray(picture())[..., ::-1] - np.array([1.0, 2.0, 3.0]))
    guessed = task(preprocess=PreprocessOptions(color="bgr")).preprocess
    assert (
        guessed.scale.ravel().tolist() == task(preprocess=PreprocessOptions()).preprocess.scale.ravel().tolist()[::-1]
    )


def test_free_size_and_whole_image() -> None:
    t = task(("n", 3, "h", "w"), preprocess=PreprocessOptions(mean=(0.0,), std=(1.0,)))
    assert t.decode("input", b64(encoded(picture()))).tensors["image"].shape == (1, 3, 224, 224)
    assert sure(t, "image size") == "guess"
    options = PreprocessOptions(mean=(0.0,), std=(1.0,), size=(4, 6), crop=False)
    t = task(("n", 3, "h", "w"), preprocess=options)
    assert t.decode("input", b64(encoded(picture(30, 10)))).tensors["image"].shape == (1, 3, 4, 6)
    assert t.notes == ()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 9)])
def test_images_of_odd_sizes(size: tuple[int, int]) -> None:
    assert decoded(task(), encoded(picture(*size))).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"size": 9}, "size", "is [9, 9], but the model takes [8, 8]"),
        ({"size": 0}, "size", "must be at least 1"),
        ({"resize": 7}, "resize", "must be at least the size that is cut out, 8; got 7"),
        ({"resize": 9, "crop": False}, "resize", "has no meaning"),
        ({"interpolation": "cubic"}, "interpolation", "must be one of nearest, bilinear"),
        ({"color": "hsv"}, "color", "must be rgb or bgr"),
        ({"layout": "hwc"}, "layout", "must be nchw or nhwc"),
        ({"layout": "nhwc"}, "layout", "makes 8 channels"),
        ({"mean": (1.0, 2.0)}, "mean", "must have 1 value or 3"),
        ({"std": (0.0,)}, "std", "must not be 0"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        resolve(info().inputs[0], PreprocessOptions(**options), {})
    assert message in caught.value.message
    assert caught.value.field == f"config.preprocess.{field}"


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": (TensorSpec("x", "float32", ("n", 4)),)},
        {"inputs": (TensorSpec("x", "int64", ("n", 3, 8, 8)),)},
        {"outputs": (TensorSpec("a", "float32", ("n", 4)), TensorSpec("b", "float32", ("n", 4)))},
    ],
)
def test_models_that_classify_no_images(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="task image-classification needs") as caught:
        tasks.create("image-classification", info(**changes), ModelOptions())
    assert caught.value.field == "task"


# --- answers --------------------------------------------------------------------------------------------------------

SCORES = np.array([[0.0, 3.0, 1.0, 2.0], [5.0, 0.0, 0.0, 0.0]], np.float32)


def answer(t: Any, scores: Any, form: str = "input", single: bool = True, **parameters: Any) -> Any:
    return t.encode(form, {"scores": np.asarray(scores, np.float32)}, single, Parameters(**parameters))


def test_logits_become_probabilities_and_probabilities_stay() -> None:
    best = answer(task(), SCORES[:1])
    assert [c["index"] for c in best] == [1, 3, 2, 0]
    assert sum(c["score"] for c in best) == pytest.approx(1)
    assert best[0]["score"] == pytest.approx(np.exp(3) / np.exp([0, 3, 1, 2]).sum())
    kept = answer(task(), [[0.1, 0.2, 0.3, 0.4]])
    assert [c["score"] for c in kept] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert answer(task(softmax=False), SCORES[:1])[0]["score"] == 3
    assert answer(task(softmax=True), [[0.1, 0.2, 0.3, 0.4]])[0]["score"] < 0.3


def test_answer_forms_and_top_k() -> None:
    t = task(top_k=2)
    assert [c["index"] for c in answer(t, SCORES[:1])] == [1, 3]
    assert [[c["index"] for c in row] for row in answer(t, SCORES, single=False)] == [[1, 3], [0, 1]]
    assert [[c["index"] for c in row] for row in answer(t, SCORES[:1], "instances", top_k=1)] == [[1]]
    assert len(answer(t, SCORES[:1], top_k=99)) == 4
    with pytest.raises(InvalidInput, match="top_k must be at least 1"):
        answer(t, SCORES[:1], top_k=0)


def test_scores_of_shape_one_by_one_and_half_precision() -> None:
    half = SCORES.astype(np.float16).reshape(2, 4, 1, 1)
    rows = task().encode("input", {"scores": half}, False, Parameters())
    assert rows[0][0]["score"] == pytest.approx(np.exp(3) / np.exp([0, 3, 1, 2]).sum(), rel=1e-3)


def test_scores_that_are_no_numbers_rank_last() -> None:
    rows = answer(task(softmax=False), [[np.nan, 3, np.inf, 2]])
    assert [c["index"] for c in rows] == [2, 1, 3, 0]
    assert [c["index"] for c in answer(task(), [[np.nan] * 4])] == [0, 1, 2, 3]


def test_labels(tmp_path: Path) -> None:
    names = ("ant", "bee", "cat", "dog")
    assert answer(task(labels_found=names), SCORES[:1])[0]["label"] == "bee"
    assert answer(task(labels=names), SCORES[:1])[0]["label"] == "bee"
    assert answer(task(), SCORES[:1])[0]["label"] == "1"
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(names) + "\n")
    assert answer(task(labels=str(file)), SCORES[:1])[1]["label"] == "dog"
    file.write_text("ant\nbee\n")
    with pytest.raises(InvalidOption, match="holds 2 labels, but the model has 4 classes"):
        task(labels=str(file))


def test_nothing_is_no_image(served: tuple[OnnxBackend, ImageClassificationTask]) -> None:
    with pytest.raises(InvalidInput, match=r"input must be an image in base64, or a list of them; got null\."):
        served[1].decode("input", None)


def test_many_classes_that_do_not_exclude_each_other_are_no_logits() -> None:
    """A tagger's scores are from 0 to 1 each, which logits of so many classes are not."""
    for classes, kept in ((40, True), (3, False)):
        info = ModelInfo(
            task="image-classification",
            inputs=(TensorSpec("x", "float32", ("batch", 3, 8, 8)),),
            outputs=(TensorSpec("y", "float32", ("batch", classes)),),
        )
        task = ImageClassificationTask(info, ModelOptions())
        scores = np.full((1, classes), 0.01, np.float32)
        scores[0, 1:3] = 0.9
        (best, *_) = task.encode("instances", {"y": scores}, False, Parameters())[0]
        assert (best["score"] == pytest.approx(0.9)) == kept
