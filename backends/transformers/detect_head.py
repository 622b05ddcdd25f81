"""The head that finds objects in images. What its network's outputs mean is the library's affair, as its boxes tell."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from backends.base import ModelFileError, Tensors, TensorSpec
from backends.transformers.image_head import PixelHead

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
        self.labels = self.folder.labels
        self._processor = self.processor()
        free = self.sees_whole(self._processor)
        self.metadata["unimodel.detection"] = json.dumps({"fractions": True, "threshold": _THRESHOLD})
        found = len(self.predict(self.example())["scores"][0])
        count: int | str = "boxes" if free else found  # of images of any size there may be any number
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
