"""Segmentation over real HTTP and on the command line, with a real model."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image
from serving import Server, checked

from tests import models, models_tensorflow, models_torch

DARK = (10, 10, 10)
STRIPES = {"blue": (0, 0, 255), "white": (255, 255, 255), "red": (255, 0, 0)}


@pytest.fixture(scope="module")
def served(server: Server) -> Server:
    server.register("cutout", models.u2netp(), task="image-segmentation", config={"labels": ["thing"]})
    return server


def jpeg(name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(file, "JPEG", quality=95)
    return file.getvalue()


def mask(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_an_image_is_answered_with_its_mask(served: Server) -> None:
    address = "/v1/models/cutout:predict"
    sent = jpeg("coffee")
    (cup,) = checked(served.http.post(address, content=sent, headers={"content-type": "image/jpeg"}), 200)["output"]
    assert (cup["label"], cup["index"]) == ("thing", 0)
    assert cup["score"] > 0.95
    shown = mask(base64.b64decode(cup["mask"]))
    assert shown.shape == (400, 600)
    assert cup["share"] == pytest.approx(shown.mean(), abs=1e-6)
    assert shown[200, 300]
    assert not shown[10, 590]
    body = {"input": base64.b64encode(sent).decode(), "parameters": {"mask_threshold": 1}}
    assert served.predict("cutout", body)["output"] == []
    refused = served.http.post(address, json={**body, "parameters": {"mask_threshold": 2}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "parameters.mask_threshold")


def test_tensors_stay_tensors(served: Server) -> None:
    """Who asks for arrays gets the model's own outputs."""
    file = io.BytesIO()
    np.save(file, np.zeros((1, 3, 320, 320), np.float32))
    headers = {"content-type": "application/x-npy", "accept": "application/x-npy", "x-tensor-output": "1959"}
    response = served.http.post("/v1/models/cutout:predict", content=file.getvalue(), headers=headers)
    assert response.status_code == 200
    array = np.load(io.BytesIO(response.content))
    assert (array.shape, array.dtype) == ((1, 1, 320, 320), np.float32)


def test_masks_are_written_to_files(served: Server, tmp_path: Path) -> None:
    (tmp_path / "cup.jpg").write_bytes(jpeg("coffee"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("UNIMODEL_")}
    environment |= {"UNIMODEL_HOST": served.url, "NO_COLOR": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "unimodel"), "predict", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    done = run("cutout", "cup.jpg", "--masks", "masks")
    assert done.returncode == 0, done.stderr
    (cup,) = json.loads(done.stdout)
    assert cup["mask"] == "masks/cup-1-thing.png"
    assert mask((tmp_path / cup["mask"]).read_bytes()).shape == (400, 600)
    assert run("cutout", "cup.jpg", "--masks", "masks", "--stream").returncode == 2
    served.register("cats", models.efficientnet())
    refused = run("cats", "cup.jpg", "--masks", "masks")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "The answer has no masks" in refused.stderr


def test_registration_says_what_else_it_may_be(served: Server) -> None:
    served.register("unknown", models.u2netp())
    found = {f["subject"]: f for f in served.get("/v1/models/unknown")["findings"]}
    assert (found["task"]["value"], found["task"]["sure"]) == ("tensor", "guess")
    assert found["task"]["option"] == "--task image-segmentation"


def flag(height: int, width: int) -> Any:
    """Three stripes, blue, white and red, between dark ones: uint8 [height, width, 3]."""
    picture = np.full((height, width, 3), DARK, np.uint8)
    for i, colour in enumerate(STRIPES.values()):
        picture[height // 4 : height * 3 // 4, width * i // 4 : width * (i + 1) // 4] = colour
    return picture


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda: models_torch.path("colours.pt2"), id="exported program"),
        pytest.param(lambda: models_tensorflow.path("colours"), id="saved model"),
        pytest.param(lambda: models_tensorflow.path("colours.keras"), id="keras file"),
    ],
)
def test_maps_of_scores_in_other_formats(server: Server, source: Callable[[], Path], request: Any) -> None:
    name = request.node.callspec.id.replace(" ", "-")
    preprocess = {"mean": [0], "std": [255], "size": [96, 128], "interpolation": "nearest"}
    server.register(name, source(), trust=True, config={"labels": list(models.COLOURS), "preprocess": preprocess})
    info = server.get(f"/v1/models/{name}")
    assert info["task"] == "image-segmentation"
    pictures = []
    for size in ((96, 128), (192, 256), (48, 64)):
        file = io.BytesIO()
        Image.fromarray(flag(*size)).save(file, "PNG")
        pictures.append(base64.b64encode(file.getvalue()).decode())
    answers = server.predict(name, {"input": pictures})["output"]
    for (height, width), found in zip(((96, 128), (192, 256), (48, 64)), answers, strict=True):
        assert found[0]["label"] == "dark"
        assert {each["label"] for each in found} == {"dark", *STRIPES}
        expected = flag(height, width)
        for each in found:
            wanted = (expected == STRIPES.get(each["label"], DARK)).all(axis=2)
            shown = mask(base64.b64decode(each["mask"]))
            assert shown.shape == (height, width)
            assert np.mean(shown != wanted) < (0.001 if (height, width) == (96, 128) else 0.02)
            assert each["score"] > 0.99 if (height, width) == (96, 128) else each["score"] > 0.9
    with ThreadPoolExecutor(6) as pool:
        alone = list(pool.map(lambda picture: server.predict(name, {"input": picture})["output"], pictures * 4))
    for one, together in zip(alone, answers * 4, strict=True):
        assert [(each["label"], each["mask"]) for each in one] == [(each["label"], each["mask"]) for each in together]
    refused = server.predict(name, {"input": [pictures[0], pictures[1][:40]]}, status=400)["error"]
    assert refused["param"] == "input[1]"
