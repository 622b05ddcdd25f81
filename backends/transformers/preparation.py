"""How an image becomes the input of a network: the library's ``preprocessor_config.json`` as the engine's options."""

from __future__ import annotations

from typing import Any

_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By their number in Pillow."""
_LONG = 8
"""Times their short side to which long images are bounded that the library does not bound."""
_MIDDLE = (
    "Only the middle of an image is looked at, as the folder's processor cuts it out; nothing is found in the rest. "
    "For whole images, squeezed: --set preprocess.crop=false."
)
_OF_ANY_SHAPE = ("crop", "longest", "keep_size", "multiple", "multiple_up")
_PATCH = 16
"""Of YOLOS, whose sides are multiples of it; its processor has no setting for that."""


def preprocessing(processor: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The engine's options of preprocessing that do as an image processor of the library, and what they do not."""
    notes: tuple[str, ...] = ()

    def get(name: str) -> Any:
        return getattr(processor, name, None)

    size = _size(get("size"))
    chosen: dict[str, Any] = {"size": size, "crop": False}
    if get("do_center_crop"):
        chosen = {"size": _size(get("crop_size")) or size, "crop": True, "resize": min(size)}
        if isinstance(_entry(get("size"), "shortest_edge"), type(None)) and size[0] != size[1]:
            notes = ("Images are scaled by their short side, where the library would squeeze them.",)
        if max(chosen["size"]) > chosen["resize"]:
            notes = (*notes, "Images are scaled to what is cut out, where the library would add black borders.")
        chosen["resize"] = max(chosen["resize"], *chosen["size"])
    elif get("crop_pct") and min(size) < 384:  # ConvNeXT's way
        chosen |= {"crop": True, "resize": int(min(size) / get("crop_pct"))}
    elif _entry(get("size"), "shortest_edge") is not None and not get("crop_pct"):
        chosen |= {"crop": True, "resize": min(size)}
        notes = ("Images are cut to a square, where the library would leave their shape.",)
    interpolation = get("resample")
    if interpolation is not None and 0 <= int(interpolation) < len(_INTERPOLATIONS):
        chosen["interpolation"] = _INTERPOLATIONS[int(interpolation)]
    factor = float(get("rescale_factor") or 1 / 255) if get("do_rescale") is not False else 1.0
    mean, std = ((0.0,), (1.0,)) if not get("do_normalize") else (get("image_mean"), get("image_std"))
    chosen["mean"] = [float(value) / factor for value in _several(mean)]
    chosen["std"] = [float(value) / factor for value in _several(std)]
    if get("do_flip_channel_order"):
        chosen["color"] = "bgr"
    return chosen, notes


def whole(processor: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """As `preprocessing`, of images in which things are to be found, each where it is. They keep their shapes where the
    library lets them; what it cuts off is cut off."""
    chosen, notes = preprocessing(processor)
    if getattr(processor, "do_center_crop", None):
        return chosen, (*notes, _MIDDLE)
    if getattr(processor, "do_resize", None) is False:
        chosen.pop("resize", None)
        return {**chosen, "crop": None, "keep_size": True}, ()
    short, longest = (_entry(getattr(processor, "size", None), name) for name in ("shortest_edge", "longest_edge"))
    if chosen.pop("crop"):
        chosen.pop("resize", None)
        notes = ()
    if not short:
        if getattr(processor, "keep_aspect_ratio", None):
            notes = (*notes, "Images are squeezed, where the library would leave their shape.")
        return {**chosen, "crop": False}, notes
    divisor = getattr(processor, "size_divisor", None)
    if divisor:
        chosen |= {"multiple": int(divisor), "multiple_up": True}
    elif type(processor).__name__.startswith("Yolos"):
        chosen["multiple"] = _PATCH
    chosen["size"] = (int(short), int(short))
    longest = int(longest) if longest else _LONG * int(short)
    return {**chosen, "crop": None, "longest": max(longest, int(short))}, notes


def squeezed(chosen: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What `whole` gives, for a network that takes images of one size only."""
    kept = {name: value for name, value in chosen.items() if name not in _OF_ANY_SHAPE}
    return {**kept, "crop": False}, ("Images are squeezed into a square, where the library would leave their shape.",)


def _several(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (float(value),)


def _entry(size: Any, name: str) -> Any:
    try:
        return size[name]
    except (KeyError, TypeError, AttributeError, IndexError):
        return getattr(size, name, None)


def _size(size: Any) -> tuple[int, int]:
    """Height and width of a size as the library writes it."""
    if isinstance(size, int):
        return size, size
    edge = _entry(size, "shortest_edge")
    if edge is not None:
        return int(edge), int(edge)
    height, width = _entry(size, "height"), _entry(size, "width")
    return (int(height), int(width)) if height and width else (224, 224)
