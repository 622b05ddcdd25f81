"""Heads that cut images into regions: by a map of scores for each class, or by a map for each region."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from backends.base import Tensors, TensorSpec
from backends.transformers.image_head import PixelHead

_THRESHOLD = 0.9
"""Least score of a region, which is that of the library's pipeline."""
_FINER = (384, 384)
"""To which Mask2Former's maps are enlarged before anything is made of them."""


class SegmentHead(PixelHead):
    """Output ``logits`` f32 [batch, classes, height, width], of maps smaller than the image."""

    task = "image-segmentation"
    loader = "AutoModelForSemanticSegmentation"

    def prepare(self) -> None:
        """Reads the labels and the preprocessing, and finds how large the maps are."""
        self.labels = self.folder.labels
        free = self.sees_whole(self.processor())
        self.metadata["unimodel.segmentation"] = json.dumps({"output": "logits", "channels": "first"})
        _, classes, *plane = self.predict(self.example())["logits"].shape
        size = ("map_height", "map_width") if free else plane
        self.outputs = (TensorSpec("logits", "float32", ("batch", classes, *size)),)

    def predict(self, batch: Tensors) -> Tensors:
        return {"logits": self.compute(batch).logits.float().cpu().numpy()}


class RegionHead(PixelHead):
    """Outputs, of each of the regions that a network proposes: ``masks`` f32 [batch, regions, height, width], the
    probabilities of its pixels; ``scores`` f32 and ``labels`` i64 [batch, regions], -1 for one that is none.
    """

    task = "image-segmentation"
    loader = "AutoModelForUniversalSegmentation"

    def prepare(self) -> None:
        """Reads the labels and the preprocessing, and finds how many regions an image may have."""
        self.labels = self.folder.labels
        free = self.sees_whole(self.processor())
        self.metadata["unimodel.segmentation"] = json.dumps({"threshold": _THRESHOLD})
        _, count, *plane = self.predict(self.example())["masks"].shape
        size = ("map_height", "map_width") if free else plane
        self.outputs = (
            TensorSpec("masks", "float32", ("batch", count, *size)),
            TensorSpec("scores", "float32", ("batch", count)),
            TensorSpec("labels", "int64", ("batch", count)),
        )

    def predict(self, batch: Tensors) -> Tensors:
        outputs = self.compute(batch)
        classes, masks = self._of(outputs)
        scores, labels = classes.float().softmax(dim=-1).max(dim=-1)
        labels = labels.masked_fill(labels == classes.shape[-1] - 1, -1)  # the last class stands for none
        found = {"masks": masks.float().sigmoid(), "scores": scores, "labels": labels}
        return {name: np.ascontiguousarray(values.cpu().numpy()) for name, values in found.items()}

    def _of(self, outputs: Any) -> tuple[Any, Any]:
        """The scores of the classes of each region, and its map, as logits."""
        if hasattr(outputs, "pred_masks"):  # DETR
            return outputs.logits, outputs.pred_masks
        masks = outputs.masks_queries_logits
        if self.folder.model_type == "mask2former":
            resize = self.network.torch.nn.functional.interpolate
            masks = resize(masks.float(), size=_FINER, mode="bilinear", align_corners=False)
        return outputs.class_queries_logits, masks
