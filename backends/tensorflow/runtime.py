"""TensorFlow itself: imported without its chatter, and told what of the machine it may use.

Its pools of threads and its share of a GPU belong to the process, and are fixed when it first computes.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any

from backends import builds, chatter
from backends.base import Build, Device, InvalidOption, MissingRuntime, ModelFileError
from backends.resources import cpu_threads

_REMEDY = "pip uninstall -y tensorflow-cpu && pip install 'tensorflow[and-cuda]'"
_CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d{2}\S* +\d+ [\w./-]+:\d+\]")


def tensorflow(device: Device, threads: int | None) -> tuple[Any, int]:
    """TensorFlow, ready for `device`, and the CPU threads of its pool.

    Raises `MissingRuntime`, and `InvalidOption` when it has a pool of another size than `threads`.
    """
    tf = _import()
    if device.kind == "cuda":
        _use_gpu(tf, device)
    else:
        _use_no_gpu(tf)
    return tf, _set_threads(tf, device, threads)


def build() -> Build:
    """What the installed TensorFlow was built for. Whether it finds CUDA's libraries, it tells when it starts."""
    info = builds.constant(builds.folder("tensorflow") / "python/platform/build_info.py", "build_info") or ""
    if "('is_cuda_build', False)" in info:
        return Build(("cpu",), remedy=_REMEDY)
    return Build(("cpu",), ("cuda",))


def keras() -> Any:
    """Keras, on TensorFlow. Raises `MissingRuntime`, and `ModelFileError` when it runs on something else already."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        import keras
    except ImportError:
        raise MissingRuntime("keras", "tensorflow") from None
    if keras.backend.backend() != "tensorflow":
        raise ModelFileError(
            f"Keras runs on {keras.backend.backend()} in this process, and Keras files are served on TensorFlow: unset "
            "KERAS_BACKEND, or give the model a process of its own with --set isolated=true."
        )
    return keras


def _import() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters is raised; the rest would clutter the log
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # a limit on memory does not exist beside the option
    try:
        if "tensorflow" in sys.modules:
            import tensorflow as tf
        else:
            with chatter.without(_CHATTER):
                import tensorflow as tf
            for name in ("tensorflow", "absl"):
                logging.getLogger(name).setLevel(logging.ERROR)
    except ImportError:
        raise MissingRuntime("tensorflow", "tensorflow") from None
    return tf


def _set_threads(tf: Any, device: Device, wanted: int | None) -> int:
    threads = cpu_threads(device, wanted)
    config = tf.config.threading
    present = config.get_intra_op_parallelism_threads()
    if not present:
        try:
            config.set_intra_op_parallelism_threads(threads)
            config.set_inter_op_parallelism_threads(threads)
            return threads
        except RuntimeError:  # something else in this process has computed with TensorFlow, with all cores
            present = device.threads
    if wanted is not None and present != threads:
        raise InvalidOption(
            f"TensorFlow has {present} threads in this process, for all its models. For {threads}, give the model a "
            "process of its own with --set isolated=true.",
            field="config.threads",
        )
    return int(present)


def _use_no_gpu(tf: Any) -> None:
    if tf.config.list_physical_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")


def _use_gpu(tf: Any, device: Device) -> None:
    """Lets TensorFlow see one GPU, and take memory as it needs it, up to the worker's bound."""
    gpus = tf.config.list_physical_devices("GPU")
    if device.index >= len(gpus):
        if not tf.test.is_built_with_cuda():
            raise builds.no_gpu("TensorFlow", _REMEDY)
        raise InvalidOption(
            f"TensorFlow finds no GPU {device.index} that it can use, for want of CUDA or cuDNN or of a newer driver. "
            "Register the model with --set device=cpu, or install them: pip install 'tensorflow[and-cuda]'",
            field="config.device",
        )
    gpu = gpus[device.index]
    try:
        tf.config.set_visible_devices([gpu], "GPU")
        if device.memory_bytes is not None:
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=device.memory_bytes >> 20)
            tf.config.set_logical_device_configuration(gpu, [limit])
    except RuntimeError:  # it has computed already, with what its first model set: a worker has one device
        return
