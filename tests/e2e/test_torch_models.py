"""PyTorch's own files, registered and called on a real server as a user does it."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from serving import Server

from tests import models_torch

CATS = {281, 282, 285}
ESPRESSO = 967


def picture(name: str, path: Path) -> Path:
    Image.fromarray(getattr(skimage.data, name)()).save(path, "JPEG", quality=95)
    return path


def command(server: Server, folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command of the command line, and a check of its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "unimodel_cli", *words],
        env={**os.environ, "UNIMODEL_HOME": str(server.home), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize(
    ("name", "source", "flags"),
    [("effnet.pt", models_torch.efficientnet, ()), ("effnet.pt2", models_torch.efficientnet_exported, ("--trust",))],
)
def test_an_image_classifier_by_the_command_line(
    server: Server, tmp_path: Path, name: str, source: object, flags: tuple[str, ...]
) -> None:
    assert callable(source)
    (tmp_path / name).write_bytes(source().read_bytes())
    registered = command(server, tmp_path, "register", "eff", f"./{name}", *flags).stdout
    assert "image-classification on torch" in registered
    for image, classes in (("chelsea", CATS), ("coffee", {ESPRESSO})):
        picture(image, tmp_path / f"{image}.jpg")
        answer = command(server, tmp_path, "predict", "eff", f"{image}.jpg", "--json").stdout
        best = json.loads(answer)["output"][0]
        assert best["index"] in classes
    assert best["label"] == "espresso"
    assert best["score"] > 0.9


def test_images_of_many_clients_are_batched(server: Server, tmp_path: Path) -> None:
    server.register("many", models_torch.efficientnet())
    images = {name: picture(name, tmp_path / name).read_bytes() for name in ("chelsea", "coffee")}

    def ask(name: str) -> int:
        answer = server.http.post(
            "/v1/models/many:predict", content=images[name], headers={"content-type": "image/jpeg"}
        )
        return int(answer.json()["output"][0]["index"])

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, ["chelsea", "coffee"] * 6))
    assert all(index in CATS for index in found[::2])
    assert set(found[1::2]) == {ESPRESSO}


def test_what_runs_code_needs_trust(server: Server) -> None:
    for name, why in (("dense.pt2", "unpickles"), ("compiled.pt2", "machine code")):
        refused = server.register("code", models_torch.path(name), status=403)["error"]
        assert refused["code"] == "untrusted_model"
        assert why in refused["message"]
        server.register("code", models_torch.path(name), trust=True)
        flower = models_torch.flowers()[0][100].tolist()
        assert int(np.argmax(server.predict("code", {"input": flower})["output"])) == 2


def test_requests_to_a_model_that_remembers_do_not_see_each_other(server: Server) -> None:
    server.register("vad", models_torch.silero())
    loud = np.sin(np.arange(512) / 5).tolist()
    bodies = [{"input": {"x": samples, "sr": 16000}} for samples in ([0.0] * 512, loud)] * 8
    alone = [server.predict("vad", body)["output"] for body in bodies[:2]]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda body: server.predict("vad", body)["output"], bodies))
    assert together == alone * 8
    short = server.predict("vad", {"input": {"x": [0.0] * 400, "sr": 16000}}, status=400)["error"]
    assert short["message"] == "The model refused its input: Input audio chunk is too short."


def test_texts_of_different_lengths_share_a_batch(server: Server) -> None:
    """The padding is hidden by the mask, so it changes nothing, and the server found that out."""
    server.register("words", models_torch.path("words.pt"))
    assert server.get("/v1/models/words")["batching"]["dynamic_padding"]
    bodies = []
    for length in range(3, 27):
        ids, _ = models_torch.sentences(length, count=1)
        bodies.append({"input": {"ids": ids[0].tolist(), "mask": [1] * length}})
    alone = [server.predict("words", body)["output"] for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: server.predict("words", body)["output"], bodies))
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_a_detector_that_takes_a_list_of_images(server: Server, tmp_path: Path) -> None:
    (tmp_path / "colours.pt").write_bytes(models_torch.path("colours.pt").read_bytes())
    registered = command(server, tmp_path, "register", "colours", "./colours.pt").stdout
    assert "object-detection on torch" in registered
    assert "each its own" in registered
    boxes = {"red": (3, 4, 50, 60), "blue": (70, 5, 90, 20)}
    scenes = [models_torch.colours(70 + 10 * i, 100, **dict(list(boxes.items())[:i])) for i in range(3)]
    for i, scene in enumerate(scenes):
        Image.fromarray(scene).save(tmp_path / f"{i}.png")
    images = [base64.b64encode((tmp_path / f"{i}.png").read_bytes()).decode() for i in range(3)]
    together = server.predict("colours", {"input": images})["output"]
    with ThreadPoolExecutor(6) as pool:
        alone = list(pool.map(lambda image: server.predict("colours", {"input": image})["output"], images * 4))
    assert alone == together * 4
    found = [{each["label"]: tuple(each["box"].values()) for each in one} for one in together]
    assert found == [{}, {"red": boxes["red"]}, boxes]
    answer = command(server, tmp_path, "predict", "colours", "2.png", "--json").stdout
    assert json.loads(answer)["output"] == together[2]
    wrong = server.predict("colours", {"input": [images[0], "bm8gaW1hZ2U="]}, status=400)["error"]
    assert wrong["param"] == "input[1]"


def test_damaged_and_foreign_files_leave_the_server_up(server: Server, tmp_path: Path) -> None:
    whole = models_torch.path("pixels.jit").read_bytes()
    files = {"cut.pt": whole[: len(whole) // 2], "noise.pt": os.urandom(5000), "changed.pt": bytearray(whole)}
    files["changed.pt"][len(whole) // 3] ^= 255
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in ("data.pkl", "constants.pkl", "code/model.py", "version"):
            bomb.writestr(f"bomb/{name}", bytes(100 << 20))
    files["bomb.pt"] = buffer.getvalue()
    workers = server.worker_pids()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        error = server.register("damaged", tmp_path / name, status=422)["error"]
        assert error["code"] == "model_file_error"
        assert name in error["message"]
    assert server.worker_pids() == workers
