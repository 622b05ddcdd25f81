"""Hugging Face folders that classify texts, pairs, tokens or images, fill gaps, or find answers, objects or regions:
each kind with a head of its own."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from backends.base import BackendError, Device, ModelFileError, ModelInfo, TensorBackend, Tensors
from backends.transformers import folder as folders
from backends.transformers import weights
from backends.transformers.detect_head import DetectHead
from backends.transformers.folder import Folder
from backends.transformers.folder_backend import FolderBackend
from backends.transformers.heads import ClassHead, ClassifyOptions, Head, RankHead
from backends.transformers.image_head import ImageHead
from backends.transformers.library import Network
from backends.transformers.segment_head import RegionHead, SegmentHead
from backends.transformers.token_heads import AnswerHead, EntityHead, GapHead

_HEADS: dict[str, type[Head]] = {
    head.task: head
    for head in (ClassHead, RankHead, EntityHead, GapHead, AnswerHead, ImageHead, DetectHead, SegmentHead)
}


class TransformersClassifyBackend(FolderBackend, TensorBackend):
    """Owns a network and its head, which says what goes in and comes out."""

    name = "transformers-classify"
    summary = (
        "models in Hugging Face folders that classify texts, words or images, rank, fill gaps, find answers, objects "
        "or regions"
    )
    Options: ClassVar[type[msgspec.Struct]] = ClassifyOptions

    _head: Head | None = None

    def load(self, path: Path, device: Device, options: ClassifyOptions) -> ModelInfo:
        """Loads the model. See `Backend.load` for the errors."""
        options.check()
        folder = folders.read(path)
        head_class = _HEADS[folders.check_task(folder, *_HEADS)]
        if head_class is SegmentHead and not folder.architecture.endswith("ForSemanticSegmentation"):
            head_class = RegionHead
        found = weights.find(folder)
        network = Network(folder, found, head_class.loader, device, options, trusted=self.trusted)
        head = head_class(folder, network, options, trusted=self.trusted)
        self._network, self._head = network, head
        self.threads = network.threads if device.kind == "cpu" else 0
        self._try(folder)
        network.pack(lambda: head.predict(head.example()))
        head.settle()
        self.parallel = network.parallel
        return ModelInfo(
            task=head.task,
            inputs=head.inputs,
            outputs=head.outputs,
            optional=head.optional,
            labels=head.labels,
            runtime=network.library.version,
            device=str(device),
            metadata={
                "architecture": folder.architecture or folder.model_type,
                "parameters": str(found.parameters),
                "dtype": network.dtype,
                **head.metadata,
            },
            notes=head.notes,
        )

    def example(self) -> Tensors:
        """The head's."""
        return self._loaded.example()

    def predict(self, batch: Tensors) -> Tensors:
        """Computes a batch. Raises `InvalidInput` for a text that is empty or too long."""
        return self._predict(batch)

    def predict_on_one_thread(self, batch: Tensors) -> Tensors:
        """As `predict`, on the thread that calls."""
        return self._predict(batch, threads=1)

    def memory(self) -> int:
        """Bytes of the weights."""
        return self._network.nbytes if self._network is not None else 0

    def close(self) -> None:
        """Lets go of the weights."""
        if self._network is not None:
            self._network.close()
        self._network = self._head = None

    def _predict(self, batch: Tensors, threads: int | None = None) -> Tensors:
        head = self._loaded
        head.network.use_threads(threads)
        return head.predict(batch)

    def _try(self, folder: Folder) -> None:
        """Raises `ModelFileError` where the parts of the folder do not fit each other."""
        try:
            self.predict(self.example())
        except (BackendError, RuntimeError, AttributeError, IndexError) as e:
            raise ModelFileError(f"{folder.name} does not compute a plain example: {e}") from e

    @property
    def _loaded(self) -> Head:
        assert self._head is not None, "load comes first"
        return self._head
