"""What the tasks share whose models read texts."""

from __future__ import annotations

from backends.base import InvalidInput, InvalidOption, ModelInfo, TensorSpec


def only_input(info: ModelInfo, task: str) -> TensorSpec:
    """The model's one input, a list of strings. Raises `InvalidOption`, which names the task, for another signature."""
    if len(info.inputs) != 1 or info.inputs[0].dtype != "string" or len(info.inputs[0].shape) != 1:
        raise InvalidOption(
            f"The task {task} needs a model with one input, a list of strings; this one has another.", field="task"
        )
    return info.inputs[0]


def decode_text(data: memoryview, content_type: str) -> str:
    """A ``text/plain`` body. Raises `InvalidInput`."""
    if content_type.partition(";")[0].strip().lower() != "text/plain":
        raise InvalidInput(f"This model takes text; it cannot decode a body of type {content_type}.", field="input")
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise InvalidInput("The body is not UTF-8 text.", field="input") from None
