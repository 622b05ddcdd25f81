"""EfficientNet-Lite0 as TorchScript and as an exported program, from the weights and the code of two packages.

Both take any number of images: ``inputs`` f32 [batch, 3, 224, 224], logits [batch, 1000]. Labels and preprocessing
are extra files in them, where UniModel finds them.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

from scripts import efficientnet_onnx


def write(weights: bytes, names: bytes, package: zipfile.ZipFile, folder: Path) -> None:
    """Writes ``model.pt`` and ``model.pt2`` into `folder`. `package` is the wheel that has the model's code."""
    import torch

    model = build(weights, package)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    extra = {
        "labels.json": json.dumps(efficientnet_onnx.short_labels(json.loads(names))),
        "unimodel.preprocess.json": json.dumps(efficientnet_onnx.PREPROCESS),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and the code was written for an older PyTorch
        torch.jit.save(torch.jit.trace(model, images), folder / "model.pt", _extra_files=extra)
        batch = {"inputs": {0: torch.export.Dim("batch", max=64)}}
        program = torch.export.export(model, (images,), dynamic_shapes=batch)
        torch.export.save(program, folder / "model.pt2", extra_files=extra)


def build(weights: bytes, package: zipfile.ZipFile) -> Any:
    """The model as a module, ready to compute."""
    import torch

    assert package.filename is not None
    sys.path.insert(0, package.filename)  # Python imports from a zip file as it is
    try:
        code = importlib.import_module("efficientnet_lite_pytorch")
    finally:
        sys.path.remove(package.filename)
    model = code.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    return model.eval()
