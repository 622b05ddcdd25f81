"""TensorFlow's SavedModel folders, and Keras' files, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

from backends.tensorflow.backend import TensorFlowBackend, TensorFlowOptions

__all__ = ["TensorFlowBackend", "TensorFlowOptions"]
