"""TensorFlow Lite models (``.tflite``) with LiteRT, on the CPU."""

from __future__ import annotations

from backends.tflite.backend import TfliteBackend, TfliteOptions

__all__ = ["TfliteBackend", "TfliteOptions"]
