"""The tasks by name. Each is imported when a model of it is loaded."""

from __future__ import annotations

import importlib

from backends.base import ModelInfo
from engine.errors import InvalidOption
from engine.model_options import DetectionOptions, ModelOptions, SegmentationOptions
from engine.settings import nearest
from engine.tasks.base import TensorTask

TASKS: dict[str, str] = {
    "tensor": "engine.tasks.base:TensorTask",
    "image-classification": "engine.tasks.image:ImageClassificationTask",
    "object-detection": "engine.tasks.detection:ObjectDetectionTask",
    "image-segmentation": "engine.tasks.segmentation:ImageSegmentationTask",
    "tabular": "engine.tasks.tabular:TabularTask",
    "text-classification": "engine.tasks.text:TextTask",
    "token-classification": "engine.tasks.entities:TokenTask",
    "fill-mask": "engine.tasks.gaps:FillMaskTask",
    "question-answering": "engine.tasks.questions:QuestionTask",
    "embedding": "engine.tasks.embedding:EmbeddingTask",
    "rerank": "engine.tasks.rerank:RerankTask",
    "custom": "engine.tasks.base:TensorTask",
}
"""Task name to ``module:Class``. A ``custom`` model (a plugin) decodes its own bodies."""


def recognise(info: ModelInfo, options: ModelOptions) -> str:
    """The task of a loaded model, unless the user chooses one: its backend's, or what its tensors plainly are for."""
    if info.task != "tensor":
        return info.task
    images = any(len(spec.shape) == 4 or (len(spec.shape) == 3 and spec.batch_axis is None) for spec in info.inputs)
    return _of_image(info, options) if images else info.task


def _of_image(info: ModelInfo, options: ModelOptions) -> str:
    """The task of a model that may look at images."""
    from engine.tasks import layouts, segment_layouts
    from engine.tasks.image import with_batch

    info = with_batch(info)
    if all(len(spec.shape) != 4 for spec in info.inputs):
        return info.task
    if options.segmentation != SegmentationOptions() or segment_layouts.METADATA_KEY in info.metadata:
        return "image-segmentation"
    labelled = len(info.labels) if info.labels is not None else None
    if segment_layouts.instances(info, options.detection, labelled) is not None:
        return "image-segmentation"
    if options.detection != DetectionOptions() or layouts.METADATA_KEY in info.metadata:
        return "object-detection"
    if layouts.recognise(info, labelled) is not None:
        return "object-detection"
    return "image-segmentation" if segment_layouts.recognise(info, labelled) is not None else info.task


def create(name: str, info: ModelInfo, options: ModelOptions) -> TensorTask:
    """The task of a loaded model. Raises `InvalidOption` for an unknown name or one that does not fit the model."""
    if name not in TASKS:
        raise InvalidOption(
            f"Unknown task {name!r}; choose one of {', '.join(TASKS)}.{nearest(name, TASKS)}", field="task"
        )
    module, _, attribute = TASKS[name].partition(":")
    task: TensorTask = getattr(importlib.import_module(module), attribute)(info, options)
    return task
