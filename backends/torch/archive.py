"""What a look into a file of PyTorch tells, without PyTorch: which kind it is, whether it is whole, what it would run.

All of its files are zip archives with one folder inside; the members of that folder tell the kinds apart. PyTorch's own
reader believes what an archive says of itself and compares no check sums, and a damaged program can end the process. So
an archive is only given to it when every member is where the directory says and has the content that was written.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from backends.archives import DAMAGE
from backends.base import ModelFileError

SUFFIXES = (".pt", ".pth", ".pt2", ".jit", ".ptl", ".torchscript")

_OLD_FORMAT = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20"
"""How a file of ``torch.save`` begins since before it wrote archives: a pickled number."""
_ZIP = b"PK\x03\x04"
_MAX_MEMBERS = 100_000
"""Each weight is a member, and each class of a program two."""
_MAX_COMPRESSED = 256 << 20
"""Bytes that all compressed members may have together when unpacked. Only code is compressed, and it is short."""
_MAX_EXTRA = 1 << 20
"""Bytes of an extra file that is read: labels or a description, not data."""
_HEADER = struct.Struct("<4s22xHH")
"""Of a member: its mark, and how long its name and the extra field are, which follow."""


class Kind(Enum):
    """What a file is."""

    TORCHSCRIPT = "a TorchScript program"
    EXPORTED = "an exported program"
    COMPILED = "an AOTInductor package"
    WEIGHTS = "weights or a pickled object"
    TRUNCATED = "begins like an archive of PyTorch, and has no end"
    FOREIGN = "something else"


@dataclass(slots=True)
class Archive:
    """The members of a file, by their names in its one folder."""

    kind: Kind
    members: dict[str, zipfile.ZipInfo] = field(default_factory=dict)

    def models(self) -> list[str]:
        """The names of the programs in an exported or compiled file."""
        pattern = r"data/aotinductor/([^/]+)/.+" if self.kind is Kind.COMPILED else r"models/(.+)\.json"
        found = (re.fullmatch(pattern, name) for name in self.members)
        return sorted({match[1] for match in found if match is not None})


def look(path: Path) -> Archive:
    """What kind of file `path` is, by its directory. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        head = file.read(len(_OLD_FORMAT))
    if head == _OLD_FORMAT:
        return Archive(Kind.WEIGHTS)
    if not head.startswith(_ZIP):
        return Archive(Kind.FOREIGN)
    try:
        with zipfile.ZipFile(path) as opened:
            infos = opened.infolist()
    except DAMAGE:
        return Archive(Kind.TRUNCATED)
    members = {info.filename.partition("/")[2]: info for info in infos}
    return Archive(_kind(members), members)


def _kind(members: dict[str, zipfile.ZipInfo]) -> Kind:
    if any(name.startswith("data/aotinductor/") for name in members):
        return Kind.COMPILED
    if "serialized_exported_program.json" in members or any(name.startswith("models/") for name in members):
        return Kind.EXPORTED
    if "data.pkl" in members:
        program = "constants.pkl" in members and any(name.startswith("code/") for name in members)
        return Kind.TORCHSCRIPT if program else Kind.WEIGHTS
    return Kind.FOREIGN


# --- whether it is whole --------------------------------------------------------------------------------------------


def check(path: Path) -> Archive:
    """As `look`, after reading everything once. Raises `ModelFileError` for anything but a whole program."""
    try:
        size = path.stat().st_size if path.is_file() else None
        found = look(path) if size is not None else None
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read: {e.strerror}.") from None
    if found is None:
        problem = "is a folder; give the path of the file in it" if path.is_dir() else "does not exist"
        raise ModelFileError(f"{path} {problem}.")
    if size == 0:
        raise ModelFileError(f"{path} is empty.")
    if found.kind is Kind.TRUNCATED:
        raise ModelFileError(f"{path} is truncated or corrupt: the end of its archive is missing. Copy it again.")
    if found.kind is Kind.WEIGHTS:
        raise ModelFileError(
            f"{path.name} has weights only, or a pickled Python object, and no program that computes with them. Load "
            "it in Python into the class that it belongs to, and save that with torch.export.save or torch.jit.save."
        )
    if found.kind is Kind.FOREIGN:
        raise ModelFileError(f"{path} is not a TorchScript file, an exported program or an AOTInductor package.")
    try:
        with zipfile.ZipFile(path) as opened:
            _check_directory(opened, size or 0)
            for info in opened.infolist():
                with opened.open(info) as stream:
                    while stream.read(1 << 20):  # compares the check sum at the end
                        pass
    except DAMAGE as e:
        raise ModelFileError(f"{path.name} is corrupt: {_sentence(e)} Copy it again.") from None
    return found


def _check_directory(opened: zipfile.ZipFile, size: int) -> None:
    """Raises `zipfile.BadZipFile` unless PyTorch's reader would find what Python's does, and no more than `size`."""
    infos = opened.infolist()
    if opened.comment:
        raise zipfile.BadZipFile("bytes follow its end")
    names = [info.filename for info in infos]
    if len(infos) > _MAX_MEMBERS:
        raise zipfile.BadZipFile(f"it has {len(infos)} members, more than {_MAX_MEMBERS}")
    if len({name.lower() for name in names}) != len(names):
        raise zipfile.BadZipFile("two of its members have one name")
    if len({name.partition("/")[0] for name in names}) != 1:
        raise zipfile.BadZipFile("its members are not in one folder")
    for info in infos:
        _check_member(info)
    if sum(info.file_size for info in infos if info.compress_type) > _MAX_COMPRESSED:
        raise zipfile.BadZipFile(f"its members would unpack to more than {_MAX_COMPRESSED >> 20} MiB")
    end = 0
    for info in sorted(infos, key=lambda each: each.header_offset):
        if info.header_offset < end:
            raise zipfile.BadZipFile(f"{info.filename!r} overlaps another member")
        end = _end(opened, info)
    if end > size:
        raise zipfile.BadZipFile("its members reach beyond its end")


def _check_member(info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or ".." in parts or "" in parts[:-1]:
        raise zipfile.BadZipFile(f"{name!r} is not a name that a member may have")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise zipfile.BadZipFile(f"{name!r} is encrypted or compressed in an unusual way")
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        raise zipfile.BadZipFile(f"{name!r} has two sizes")


def _end(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Where a member ends in the file."""
    file = opened.fp
    assert file is not None
    file.seek(info.header_offset)
    mark, name, extra = _HEADER.unpack(file.read(_HEADER.size))
    if mark != _ZIP:
        raise zipfile.BadZipFile(f"{info.filename!r} does not begin where the directory says")
    return int(info.header_offset + _HEADER.size + name + extra + info.compress_size)


def _sentence(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if text.endswith(".") else f"{text}."


# --- what it would run ----------------------------------------------------------------------------------------------

_REACHING = re.compile(
    rb"\b(?:save|from_file|rpc_async|rpc_sync|rpc_remote|PythonOp|IgnoredPythonOp"
    rb"|debugprims|c10d|_c10d_functional|_c10d_functional_autograd|symm_mem|dist_rpc|dist_c10d)\b"
    rb"|\bgetattr\b(?!\(\w+, \"\w+\"\))"
)
"""Names in TorchScript code that reach beyond the model: they write and read files, speak to other machines, or call
Python. An operator can only be used where its name is written, or given to `getattr` as a text, of which PyTorch itself
writes but the plainest kind; another might hide a name behind escapes."""


def runs_code(path: Path, found: Archive) -> str | None:
    """Why loading the file can run code of its author, in a sentence; `None` when it cannot. Raises `OSError`."""
    if found.kind is Kind.COMPILED:
        return f"{path.name} is an AOTInductor package: it holds machine code, which its author chose."
    if found.kind is Kind.EXPORTED:
        return (
            f"{path.name} is an exported program: PyTorch unpickles and evaluates parts of it, which can run any code."
        )
    if found.kind is not Kind.TORCHSCRIPT:
        return None
    try:
        for name, source in _sources(path, found):
            reaches = reaching(source)
            if reaches is not None:
                return f"{path.name} is a TorchScript program that uses {reaches!r} (in {name}), which can reach files."
    except DAMAGE:
        return f"The code of {path.name} cannot be read, so it is not known what it does."
    return None


def reaching(source: bytes) -> str | None:
    """The first name in TorchScript code that reaches beyond the model."""
    match = _REACHING.search(source)
    return match[0].decode() if match is not None else None


def _sources(path: Path, found: Archive) -> Iterator[tuple[str, bytes]]:
    """The members that are code, by name."""
    with zipfile.ZipFile(path) as opened:
        left = _MAX_COMPRESSED
        for name, info in found.members.items():
            if name.lower().endswith(".py"):
                left -= info.file_size
                if left < 0:
                    raise zipfile.BadZipFile("more code than is read")
                yield name, opened.read(info)


# --- what else is in it ---------------------------------------------------------------------------------------------


def texts(path: Path, found: Archive) -> dict[str, str]:
    """The short texts among the extra files, by name without their suffix: where labels are kept."""
    found_texts = {}
    with zipfile.ZipFile(path) as opened:
        for name, info in found.members.items():
            match = re.fullmatch(r"extra/([^/]+?)(?:\.txt|\.json)?", name)
            if match is not None and info.file_size <= _MAX_EXTRA:
                try:
                    found_texts[match[1]] = opened.read(info).decode()
                except UnicodeDecodeError:
                    continue
    return found_texts


def read(path: Path, found: Archive, folder: str, suffix: str) -> str | None:
    """The text of the first member in `folder` whose name ends so; `None` without one."""
    with zipfile.ZipFile(path) as opened:
        for name, info in found.members.items():
            if name.startswith(folder) and name.endswith(suffix):
                return opened.read(info).decode(errors="replace")
    return None
