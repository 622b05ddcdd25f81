"""Which files of a repository are a model: what a pull brings, and what it leaves there.

A repository may have one model in several forms, and in each form several sizes. In the order of preference::

    GGUF            one file, or its pieces, and the projector beside it with which it sees images
    ONNX            one file, and those with its weights that are named after it
    CTranslate2     a folder with model.bin and a vocabulary
    safetensors     a folder with config.json, in the layout of Transformers
    PyTorch         the same, with pickled weights; never where the folder has safetensors

Of a folder come the weights of its form, its configuration and its tokenizer, and nothing else: no weights of other
frameworks, no pictures, no README.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import PurePosixPath

from engine.errors import InvalidRequest, ModelFileError

MOST_LISTED = 30
"""File names in a message."""

FORMS = ("GGUF", "ONNX", "CTranslate2", "safetensors", "PyTorch")

QUANTIZATIONS = (
    *("Q4_K_M", "Q4_K_S", "Q4_K_L", "Q4_K_XL", "IQ4_NL", "IQ4_XS", "Q4_1", "Q4_0", "MXFP4"),
    *("Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M", "BF16", "F16", "F32"),
)
"""Which one of several GGUF files is pulled, best first: small, and close to the original."""

PRECISIONS = ("F16", "BF16", "Q8_0", "F32")
"""Which one of several projectors comes along, best first."""

_PROJECTOR = re.compile(r"(^|[/._-])mmproj", re.IGNORECASE)
"""The part of a vision model that turns images into tokens: a GGUF file, but no model."""
_PIECE = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")
_SAFETENSORS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.safetensors")
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_VOCABULARY = ("vocabulary.*", "*_vocabulary.*")
_WITH_WEIGHTS = (
    *("*.json", "*.model", "*.jinja", "*.tiktoken", "*.py"),
    *("*vocab*.txt", "merges.txt", "[0-9]*_*/config.json", "[0-9]*_*/*.safetensors"),
)
"""What a model in the layout of Transformers needs beside its weights; the last two are parts of those that embed."""
_NEVER = ("*.index.json", "trainer_state.json", "*_results.json")
"""Of these, what no serving needs. The index of the weights that are pulled is kept."""


@dataclass(frozen=True)
class Model:
    """One model of a repository, in one form."""

    form: str
    files: tuple[str, ...]
    """Names in the repository; the first one names the model."""
    folder: str | None = None
    """The folder that is the model, ``""`` for the repository itself; `None` when it is the first file."""
    weights: tuple[str, ...] = field(default=(), compare=False)
    """Those of the files by which it is named, too."""

    def place(self, name: str) -> PurePosixPath:
        """Where one of the files belongs: beside the first one, or in the folder of the model."""
        path = PurePosixPath(name)
        return PurePosixPath(path.name) if self.folder is None else path.relative_to(self.folder)


def choose(repo: str, names: Sequence[str], wanted: str | None) -> tuple[Model, str]:
    """What to pull, and if there was a choice, what else there is and why it is not that.

    `wanted` is the name of a file, or a part of it that tells it from others. Raises `InvalidRequest` that lists what
    could be meant.
    """
    names = [n for n in names if not PurePosixPath(n).is_absolute() and ".." not in PurePosixPath(n).parts]
    models = list(_models(names))
    if wanted in names:
        named = next((m for m in models if wanted in m.weights), Model("", (wanted,)))
        return _whole(repo, names, named), ""
    tag = _tag(re.escape(wanted or ""))
    fitting = [m for m in models if tag.search(m.files[0])] if wanted else models
    if not models:
        raise InvalidRequest(
            f"{repo} has no {f'file {wanted!r}' if wanted else 'model in the forms ' + ', '.join(FORMS)}. "
            f"A file of another kind is pulled by its name, hf:{repo}:FILE.",
            field="source",
            details={"files": names[:MOST_LISTED]},
        )
    listed = [m.files[0] for m in fitting or models]
    more = f" and {len(listed) - MOST_LISTED} more" if len(listed) > MOST_LISTED else ""
    offer = f"{', '.join(listed[:MOST_LISTED])}{more}"
    form = min((m.form for m in fitting), key=FORMS.index, default="")
    found = _best(form, [m for m in fitting if m.form == form]) if fitting else None
    if found is None:
        problem = f"has no file {wanted!r}" if not fitting else "has several models"
        raise InvalidRequest(
            f"{repo} {problem}; name one of them, as in hf:{repo}:{listed[0]}: {offer}.",
            field="source",
            details={"files": listed},
        )
    model, reason = found
    note = ""
    if len(fitting) > 1:
        note = f"{repo} has {offer}. Pulling {model.files[0]}, {reason}; another one is pulled by hf:{repo}:FILE."
    return _whole(repo, names, model), note


def _models(names: Sequence[str]) -> Iterator[Model]:
    """All that there are."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(_folder(name), []).append(name)
    yield from _single(names, folders)
    whole: set[str] = set()
    for folder in sorted(folders, key=lambda f: f.count("/") + bool(f)):
        for model in _in_folder(names, folder, folders[folder]):
            if model.files[0] not in whole:  # else a part of the one in the folder above
                whole.update(model.files)
                yield model


def _single(names: Sequence[str], folders: dict[str, list[str]]) -> Iterator[Model]:
    """Those that are one file, or its pieces."""
    for name in names:
        if name.lower().endswith(".gguf") and not _PROJECTOR.search(name):
            piece = _PIECE.search(name)
            if piece is None or int(piece[1]) == 1:
                yield Model("GGUF", (name, *_projector(folders[_folder(name)])), weights=_pieces(name))
        elif name.lower().endswith(".onnx"):
            data = [n for n in folders[_folder(name)] if n.startswith((f"{name}_data", f"{name}.data"))]
            yield Model("ONNX", (name, *data), weights=(name,))


def _projector(files: Sequence[str]) -> list[str]:
    """The projector among the files beside a model; none when they could be of several models."""
    found = [n for n in files if n.lower().endswith(".gguf") and _PROJECTOR.search(n)]
    precision = _tag("|".join(PRECISIONS))
    if len({precision.sub("", n) for n in found}) != 1:
        return []
    return [next((n for p in PRECISIONS for n in found if _tag(p).search(n)), found[0])]


def _tag(pattern: str) -> re.Pattern[str]:
    """Finds a word of a name, such as ``Q4_K_M``."""
    return re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})(?!\w)", re.IGNORECASE)


def _in_folder(names: Sequence[str], folder: str, files: list[str]) -> Iterator[Model]:
    """Those that a folder is."""
    bases = {PurePosixPath(n).name: n for n in files}
    if "config.json" not in bases:
        return
    if "model.bin" in bases and any(fnmatch(b, v) for b in bases for v in _VOCABULARY):
        yield _of_folder("CTranslate2", names, folder, [bases["model.bin"]], _VOCABULARY)
    tensors = [n for b, n in bases.items() if b.endswith(".safetensors") and not b.startswith("adapter_")]
    weights = [n for n in tensors if _SAFETENSORS.fullmatch(PurePosixPath(n).name)] or tensors
    if weights:
        yield _of_folder("safetensors", names, folder, weights)
    elif weights := [n for b, n in bases.items() if _PICKLED.fullmatch(b)]:
        yield _of_folder("PyTorch", names, folder, weights)


def _of_folder(form: str, names: Sequence[str], folder: str, weights: list[str], more: tuple[str, ...] = ()) -> Model:
    """The model that a folder is: its weights, then what they need."""
    suffix = PurePosixPath(weights[0]).suffix
    depth = len(PurePosixPath(folder).parts)
    wanted = []
    for name in names:
        path = PurePosixPath(name)
        inner = PurePosixPath(*path.parts[depth:])
        inside = path.parts[:depth] == PurePosixPath(folder).parts and name not in weights
        patterns = [p for p in (*_WITH_WEIGHTS, *more) if p.count("/") == len(inner.parts) - 1]
        if not inside or not any(fnmatch(str(inner), p) for p in patterns):
            continue
        if name.endswith(f"{suffix}.index.json") or not any(fnmatch(path.name, p) for p in _NEVER):
            wanted.append(name)
    return Model(form, (*sorted(weights), *wanted), folder, weights=tuple(weights))


def _best(form: str, models: list[Model]) -> tuple[Model, str] | None:
    """The one that is meant when nothing more is said, and why; `None` when it could be any."""
    others = "the other forms come after it"
    if len(models) == 1:
        return models[0], others
    if form == "GGUF":
        for quantization in QUANTIZATIONS:
            fitting = [m for m in models if _tag(quantization).search(m.files[0])]
            if fitting:
                better = quantization == QUANTIZATIONS[0]
                reason = f"as {quantization} is " + ("small and close to the original" if better else "next to Q4_K_M")
                return (fitting[0], reason) if len(fitting) == 1 else None
        return None
    if form == "ONNX":
        plain = [m for m in models if PurePosixPath(m.files[0]).name == "model.onnx"]
        plain.sort(key=lambda m: m.files[0].count("/"))
        return (plain[0], "which has the name of the model itself") if plain else None
    top = [m for m in models if not m.folder]
    return (top[0], "as the others lie in folders below it") if top else None


def _whole(repo: str, names: Sequence[str], model: Model) -> Model:
    """The model with all of its pieces. Raises `ModelFileError` when the repository lacks one."""
    pieces = _pieces(model.files[0])
    missing = [p for p in pieces if p not in names]
    if missing:
        raise ModelFileError(f"{repo} lacks {missing[0]}, without which {model.files[0]} is not whole.", field="source")
    return Model(model.form, (*pieces, *model.files[1:]), model.folder, model.weights)


def _pieces(name: str) -> tuple[str, ...]:
    """All pieces of the GGUF file that a file is a piece of; that alone when it is none."""
    piece = _PIECE.search(name)
    if piece is None:
        return (name,)
    return tuple(_PIECE.sub(f"-{i:05}-of-{piece[2]}", name) for i in range(1, int(piece[2]) + 1))


def _folder(name: str) -> str:
    """The folder that a file lies in; ``""`` for the repository itself."""
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else parent
