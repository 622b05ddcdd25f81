"""The head that finds objects in images. What its network's outputs mean is the library's affair, as its boxes tell."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from backends.base import ModelFileError, Tensors, TensorSpec
from backends.transformers.image_head import PROCESSOR, PixelHead, preprocessing

_THRESHOLD = 0.5
"""Least score of a box, which is the library's own choice."""


class DetectHead(PixelHead):
    """Outputs, the best boxes of each image: ``boxes`` f32 [batch, boxes, 4] (left, top, right and bottom as fractions
    of its sides), ``scores`` f32 and ``labels`` i64 [batch, boxes].
    """

    task = "object-detection"
    loader = "AutoModelForObjectDetection"

    def prepare(self) -> None:
        """Reads the labels and the preprocessing, and finds how many boxes an image has."""
        config = self.network.config
        self.labels = self.folder.labels
        if not (self.folder.path / PROCESSOR).is_file():
            raise ModelFileError(f"{self.folder.name} has no {PROCESSOR}, which tells how images are prepared.")
        self._processor = self.processor()
        chosen, notes = preprocessing(self._processor)
        if chosen.pop("crop"):  # an object at the border is to be found, too
            chosen.pop("resize", None)
            notes = ("Images are squeezed into a square, where the library would leave their shape.",)
        self.notes = notes
        height, width = chosen["size"]
        self.takes(int(getattr(config, "num_channels", 3)), int(height), int(width))
        self.metadata = {
            "unimodel.preprocess": json.dumps({**chosen, "crop": False}),
            "unimodel.detection": json.dumps({"fractions": True, "threshold": _THRESHOLD}),
        }
        count = len(self.predict(self.example())["scores"][0])
        self.outputs = (
            TensorSpec("boxes", "float32", ("batch", count, 4)),
            TensorSpec("scores", "float32", ("batch", count)),
            TensorSpec("labels", "int64", ("batch", count)),
        )

    def predict(self, batch: Tensors) -> Tensors:
        outputs = self.compute(batch)
        outputs.logits, outputs.pred_boxes = outputs.logits.float().cpu(), outputs.pred_boxes.float().cpu()
        found = self._processor.post_process_object_detection(outputs, threshold=-1.0)
        rows = [
            (each["boxes"].numpy(), each["scores"].numpy().astype(np.float32), each["labels"].numpy().astype(np.int64))
            for each in found
        ]
        boxes, scores, labels = (np.stack(parts) for parts in zip(*rows, strict=True))
        return {"boxes": boxes.astype(np.float32), "scores": scores, "labels": labels}

    def processor(self) -> Any:
        processor = super().processor()
        if not hasattr(processor, "post_process_object_detection"):
            raise ModelFileError(
                f"The image processor of {self.folder.name}, {type(processor).__name__}, is not for finding objects."
            )
        return processor
