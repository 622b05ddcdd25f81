"""Pulling from the Hugging Face hub, against a stand-in of its HTTP API (`tests.hub_stand_in`)."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine import hub, hub_download
from engine.errors import (
    InsufficientStorage,
    InvalidRequest,
    MissingRuntime,
    ModelFileError,
    NotFound,
    Overloaded,
    Unavailable,
    UniModelError,
)
from engine.schema import Progress
from tests.hub_stand_in import COMMIT, Hub, Repo, serving

pytest.importorskip("huggingface_hub")

BIG = os.urandom(3 << 20)
REPOS = {
    "org/one": Repo({"README.md": b"# One", "one-Q4_K_M.gguf": BIG}, small=frozenset({"README.md"})),
    "org/several": Repo({f"m-{q}.gguf": q.encode() * 9 for q in ("Q4_K_S", "Q4_K_M", "Q8_0", "BF16", "F16")}),
    "org/vision": Repo({"v-Q8_0.gguf": b"model", "mmproj-v-f16.gguf": b"projector"}),
    "org/split": Repo({f"big/m-0000{i}-of-00003.gguf": b"piece %d" % i for i in (1, 2, 3)}),
    "org/torn": Repo({"m-00001-of-00002.gguf": b"piece"}),
    "org/many": Repo({f"{'m' * 60}-{i}.gguf": b"m" for i in range(1500)}),
    "org/unclear": Repo({"small.gguf": b"s", "large.gguf": b"l"}),
    "org/folder": Repo(
        {
            "README.md": b"# Folder",
            "config.json": b"{}",
            "tokenizer.json": b'{"a": 1}',
            "model-00001-of-00002.safetensors": BIG,
            "model-00002-of-00002.safetensors": b"weights",
            "model.safetensors.index.json": b"{}",
            "pytorch_model.bin": b"the same, pickled",
            "original/params.json": b"{}",
            "1_Pooling/config.json": b'{"mean": true}',
            "extra.txt": b"extra",
        },
        small=frozenset({"README.md", "config.json", "tokenizer.json", "1_Pooling/config.json", "extra.txt"}),
    ),
    "org/onnx": Repo(
        {"onnx/model.onnx": b"graph", "onnx/model.onnx_data": b"weights"}, small=frozenset({"onnx/model.onnx"})
    ),
    "org/text": Repo({"README.md": b"# Text"}),
    "org/gated": Repo({"g.gguf": b"secret"}, gated=True),
    "org/liar": Repo({"l.gguf": b"the truth"}, lies={"l.gguf": b"it is not"}),
    "org/short": Repo({"s.gguf": b"the truth"}, lies={"s.gguf": b"the truth and much more"}),
    "org/huge": Repo({"h.gguf": b"h"}, sizes={"h.gguf": 1 << 60}),
}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub, as the environment names it. No token of this machine's user is read."""
    with serving(REPOS) as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield stand_in


async def pulled(source: str, home: Path) -> list[Progress]:
    """All progress of a pull that succeeds."""
    steps = [step async for step in hub.Hub(home / "models").pull(source)]
    assert steps[-1].status == "success"
    return steps


async def failure(source: str, home: Path) -> UniModelError:
    """The error of a pull that fails."""
    with pytest.raises(UniModelError) as caught:
        async for _ in hub.Hub(home / "models").pull(source):
            pass
    return caught.value


def path_of(steps: list[Progress]) -> Path:
    assert steps[-1].path is not None
    return Path(steps[-1].path)


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        ("hf:org/repo", ("org/repo", None, None)),
        ("hf:org/repo:m.gguf", ("org/repo", "m.gguf", None)),
        ("hf:org/repo:a/b.gguf@refs/pr/1", ("org/repo", "a/b.gguf", "refs/pr/1")),
        ("hf:Org/Re.po-1@v2", ("Org/Re.po-1", None, "v2")),
        ("hf.co/org/repo:Q4_K_M", ("org/repo", "Q4_K_M", None)),
        ("https://huggingface.co/org/repo/", ("org/repo", None, None)),
    ],
)
def test_a_source(source: str, parsed: tuple[str, str | None, str | None]) -> None:
    assert hub.parse(source) == hub_download.Source(*parsed)


@pytest.mark.parametrize(
    "source",
    ["", "org/repo", "hf:repo", "hf:a/b/c", "hf:../x", "hf:a/..", "hf:a/b:", "ollama:m", f"hf:a/b:{'x' * 200_000}"],
    ids=range(9),
)
def test_what_is_no_source(source: str) -> None:
    with pytest.raises(InvalidRequest, match="hf:ORG/REPO"):
        hub.parse(source)


async def test_the_one_model_of_a_repository_is_downloaded_and_checked(stand_in: Hub, tmp_path: Path) -> None:
    steps = await pulled("hf:org/one", tmp_path)
    path = path_of(steps)
    assert path.read_bytes() == BIG
    assert path.name == "one-Q4_K_M.gguf"
    assert path.is_relative_to(tmp_path / "models" / "org" / "one")
    digest = hashlib.sha256(BIG).hexdigest()
    assert steps[-1].digest == f"sha256:{digest}"
    assert path.parent.name == digest[:12]
    assert (steps[-1].completed, steps[-1].total) == (len(BIG), len(BIG))
    assert steps[0].status == "resolving"
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == [path.name]


async def test_what_is_there_is_checked_and_not_downloaded_again(stand_in: Hub, tmp_path: Path) -> None:
    first = path_of(await pulled("hf:org/one", tmp_path))
    assert path_of(await pulled(f"hf:org/one:one-Q4_K_M.gguf@{COMMIT}", tmp_path)) == first
    assert len(stand_in.ranges) == 1
    first.write_bytes(BIG[:-1] + b"?")
    await pulled("hf:org/one@main", tmp_path)
    assert first.read_bytes() == BIG


async def test_a_download_that_breaks_off_goes_on_where_it_ended(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.break_after = [1 << 20, 1 << 20]
    assert path_of(await pulled("hf:org/one", tmp_path)).read_bytes() == BIG
    assert stand_in.ranges[0] is None
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in stand_in.ranges[1:] if r]
    assert len(starts) == 2 and 0 < starts[0] < starts[1] < len(BIG)


async def test_a_pull_that_is_ended_goes_on_when_it_is_asked_for_again(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.hold_after = 1 << 20
    async with aclosing(hub.Hub(tmp_path / "models").pull("hf:org/one")) as steps:
        async for step in steps:
            if step.status == "downloading" and step.completed:
                break
    assert stand_in.held.is_set()
    partial = next((tmp_path / "models").rglob("*.partial"))
    assert 0 < partial.stat().st_size < len(BIG)
    stand_in.hold_after = None
    assert path_of(await pulled("hf:org/one", tmp_path)).read_bytes() == BIG
    assert stand_in.ranges == [None, f"bytes={partial_size(stand_in)}-"]
    assert not partial.exists()


def partial_size(stand_in: Hub, request: int = -1) -> int:
    """Where a request went on."""
    last = stand_in.ranges[request]
    assert last is not None
    return int(last.removeprefix("bytes=").rstrip("-"))


async def test_more_pulls_than_there_are_places_are_refused(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MOST_PULLS", 1)
    downloads = hub.Hub(tmp_path / "models")

    async def statuses() -> list[str]:
        return [step.status async for step in downloads.pull("hf:org/one")]

    stand_in.hold_after = 1 << 20
    first = asyncio.create_task(statuses())
    await asyncio.to_thread(stand_in.held.wait)
    with pytest.raises(Overloaded, match="No more than 1 models are downloaded at once") as caught:
        await statuses()
    assert caught.value.retry_after
    stand_in.go.set()
    assert (await first)[-1] == (await statuses())[-1] == "success"


async def test_a_hub_without_ranges_is_asked_for_everything(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.serves_ranges = False
    stand_in.break_after = [1 << 20]
    assert path_of(await pulled("hf:org/one", tmp_path)).read_bytes() == BIG


async def test_two_pulls_of_one_file_download_it_once(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.hold_after = 1 << 20
    first = asyncio.create_task(pulled("hf:org/one", tmp_path))
    await asyncio.to_thread(stand_in.held.wait)
    waits = asyncio.Event()

    async def watch() -> list[Progress]:
        steps = []
        async for step in hub.Hub(tmp_path / "models").pull("hf:org/one"):
            steps.append(step)
            if step.status == "downloading":
                waits.set()
        return steps

    second = asyncio.create_task(watch())
    await waits.wait()
    stand_in.go.set()
    assert path_of(await first) == path_of(await second)
    assert stand_in.ranges == [None]


@pytest.mark.parametrize("repo", ["org/liar", "org/short"])
async def test_a_file_with_another_digest_is_removed(stand_in: Hub, tmp_path: Path, repo: str) -> None:
    error = await failure(f"hf:{repo}", tmp_path)
    assert isinstance(error, ModelFileError)
    assert "digest" in error.message
    assert [p for p in (tmp_path / "models").rglob("*") if p.is_file() and not p.name.startswith(".")] == []


async def test_of_several_models_one_is_pulled_and_it_says_why(stand_in: Hub, tmp_path: Path) -> None:
    steps = await pulled("hf:org/several", tmp_path)
    assert path_of(steps).name == "m-Q4_K_M.gguf"
    notes = [step.note for step in steps if step.note]
    assert len(notes) == 1
    assert "m-Q4_K_S.gguf, m-Q4_K_M.gguf, m-Q8_0.gguf" in notes[0]
    assert "Pulling m-Q4_K_M.gguf, as Q4_K_M is small and close to the original" in notes[0]
    assert not any(step.note for step in await pulled("hf:org/several:Q8_0", tmp_path))


async def test_several_models_that_could_be_meant_are_listed(stand_in: Hub, tmp_path: Path) -> None:
    error = await failure("hf:org/unclear", tmp_path)
    assert isinstance(error, InvalidRequest)
    assert "hf:org/unclear:small.gguf" in error.message
    assert error.details["files"] == ["small.gguf", "large.gguf"]
    missing = await failure("hf:org/several:Q5_K_M", tmp_path)
    assert isinstance(missing, InvalidRequest)
    assert "m-Q8_0.gguf" in missing.message
    many = await failure("hf:org/many", tmp_path)
    assert isinstance(many, InvalidRequest)
    assert len(many.details["files"]) == 1500


@pytest.mark.parametrize("digest", ["", "../../../../up", "0" * 41, "g" * 64, "0" * 40 + "\n"])
@pytest.mark.parametrize("large", [True, False])
def test_a_digest_that_is_none_names_no_folder(digest: str, large: bool) -> None:
    sibling = SimpleNamespace(rfilename="m.gguf", size=1, blob_id=digest, lfs=None)
    if large:
        sibling.lfs = SimpleNamespace(size=1, sha256=digest)
    with pytest.raises(Unavailable, match=r"digest of m\.gguf"):
        hub_download._remote_file(sibling, "http://hub/m.gguf")


@pytest.mark.parametrize(
    ("wanted", "file"), [("Q4_K_M", "m-Q4_K_M.gguf"), ("q8_0", "m-Q8_0.gguf"), ("F16", "m-F16.gguf")]
)
async def test_a_part_of_the_name_is_enough(stand_in: Hub, tmp_path: Path, wanted: str, file: str) -> None:
    assert path_of(await pulled(f"hf:org/several:{wanted}", tmp_path)).name == file


async def test_a_projector_is_no_model_and_comes_with_one(stand_in: Hub, tmp_path: Path) -> None:
    path = path_of(await pulled("hf:org/vision", tmp_path))
    assert path.name == "v-Q8_0.gguf"
    assert path.with_name("mmproj-v-f16.gguf").read_bytes() == b"projector"
    assert path_of(await pulled("hf:org/vision:mmproj-v-f16.gguf", tmp_path)).read_bytes() == b"projector"


async def test_a_split_model_comes_whole(stand_in: Hub, tmp_path: Path) -> None:
    path = path_of(await pulled("hf:org/split", tmp_path))
    assert path.name == "m-00001-of-00003.gguf"
    pieces = sorted(p for p in path.parent.iterdir() if p.suffix == ".gguf")
    assert [p.read_bytes() for p in pieces] == [b"piece 1", b"piece 2", b"piece 3"]
    assert isinstance(await failure("hf:org/torn", tmp_path), ModelFileError)


FOLDER = [
    "1_Pooling/config.json",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
]


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


async def test_a_folder_comes_with_what_serving_needs(stand_in: Hub, tmp_path: Path) -> None:
    steps = await pulled("hf:org/folder", tmp_path)
    path = path_of(steps)
    assert path.parent == tmp_path / "models" / "org" / "folder"
    assert files_in(path) == FOLDER
    repo = REPOS["org/folder"].files
    assert all((path / name).read_bytes() == repo[name] for name in FOLDER)
    whole = sum(len(repo[name]) for name in FOLDER)
    done = [step.model_completed for step in steps[1:]]
    assert done == sorted(done), "the progress is over all files"
    assert (done[-1], steps[-1].model_total) == (whole, whole)
    assert path_of(await pulled("hf:org/folder:safetensors", tmp_path)) == path
    assert len(stand_in.ranges) == 3, "what is there is not downloaded again"


async def test_a_folder_that_breaks_off_goes_on_with_the_file_where_it_ended(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.hold_after = 1 << 20
    async with aclosing(hub.Hub(tmp_path / "models").pull("hf:org/folder")) as steps:
        async for step in steps:
            if step.status == "downloading" and step.completed >= 1 << 19:
                break
    stand_in.hold_after = None
    assert files_in(path_of(await pulled("hf:org/folder", tmp_path))) == FOLDER
    assert partial_size(stand_in, 1) > 0


async def test_a_file_of_a_folder_with_another_digest_is_removed(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies = {"model-00002-of-00002.safetensors": b"WEIGHTS"}
    monkeypatch.setattr(REPOS["org/folder"], "lies", lies)
    error = await failure("hf:org/folder", tmp_path)
    assert isinstance(error, ModelFileError)
    assert "model-00002-of-00002.safetensors" in error.message
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
    await pulled("hf:org/folder", tmp_path)
    assert stand_in.ranges.count(None) == len(stand_in.ranges) == 4, "the file that was right is kept"


async def test_two_folders_of_one_repository_are_kept_apart(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = path_of(await pulled("hf:org/folder", tmp_path))
    monkeypatch.setitem(REPOS["org/folder"].files, "config.json", b'{"newer": 1}')
    second = path_of(await pulled("hf:org/folder", tmp_path))
    assert first != second
    assert (first / "config.json").read_bytes() == b"{}"
    assert (second / "config.json").read_bytes() == b'{"newer": 1}'


async def test_an_onnx_model_comes_with_its_weights(stand_in: Hub, tmp_path: Path) -> None:
    path = path_of(await pulled("hf:org/onnx", tmp_path))
    assert path.read_bytes() == b"graph"
    assert (path.parent / "model.onnx_data").read_bytes() == b"weights"


async def test_other_files_are_pulled_by_name(stand_in: Hub, tmp_path: Path) -> None:
    error = await failure("hf:org/text", tmp_path)
    assert isinstance(error, InvalidRequest)
    assert "no model in the forms GGUF, ONNX" in error.message
    assert path_of(await pulled("hf:org/folder:extra.txt", tmp_path)).read_bytes() == b"extra"


async def test_what_is_not_there(stand_in: Hub, tmp_path: Path) -> None:
    assert isinstance(await failure("hf:org/none", tmp_path), NotFound)
    assert isinstance(await failure("hf:org/one@other", tmp_path), NotFound)
    gated = await failure("hf:org/gated", tmp_path)
    assert isinstance(gated, InvalidRequest)
    assert "HF_TOKEN" in gated.message and f"{stand_in.url}/org/gated" in gated.message


async def test_the_token_goes_to_the_hub_alone(stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.token = "hf_secret"
    assert "HF_TOKEN" in (await failure("hf:org/one", tmp_path)).message
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    stand_in.authorized.clear()
    await pulled("hf:org/one", tmp_path)
    assert set(stand_in.authorized) == {("api", True), ("cdn", False)}


async def test_a_file_that_does_not_fit_is_not_begun(stand_in: Hub, tmp_path: Path) -> None:
    error = await failure("hf:org/huge", tmp_path)
    assert isinstance(error, InsufficientStorage)
    assert "MiB free" in error.message
    assert stand_in.ranges == []


async def test_a_home_that_cannot_be_written(stand_in: Hub, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    assert isinstance(await failure("hf:org/one", tmp_path), InsufficientStorage)


async def test_no_hub_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    error = await failure("hf:org/one", tmp_path)
    assert isinstance(error, Unavailable)
    assert "http://127.0.0.1:9" in error.message


async def test_without_the_package_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = await failure("hf:org/one", tmp_path)
    assert isinstance(error, MissingRuntime)
    assert "pip install 'unimodel[hub]'" in error.message
