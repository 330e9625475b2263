"""Image processors: what a model sees of an image, and how large."""

from __future__ import annotations

import math
from typing import Any

from hftl.errors import HftlError


def portable(processor: Any) -> Any:
    """A timm model's processor as one of ``transformers``, which can be resized, leaves views alone, and is saved.

    It gives the same but for rounding, and a shift of one pixel where an odd number of them is cut off.

    Raises:
        HftlError: timm evaluates this model on images with borders, which no processor makes.
    """
    from transformers import BitImageProcessor
    from transformers.image_utils import PILImageResampling

    data = processor.data_config
    _, height, width = data["input_size"]
    mode = data.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise HftlError(f"timm's crop_mode {mode!r} is not supported; save another image processor beside the model")
    whole = {"height": math.floor(height / data["crop_pct"]), "width": math.floor(width / data["crop_pct"])}
    return BitImageProcessor(
        size=whole if mode == "squash" else {"shortest_edge": min(whole.values())},
        crop_size={"height": height, "width": width},
        resample=PILImageResampling[data["interpolation"].upper()],
        image_mean=list(data["mean"]),
        image_std=list(data["std"]),
    )


def resize(processor: Any, size: int) -> None:
    """Have the processor give square images of this size, what it cuts off at the edges in proportion."""
    if processor.do_center_crop:
        edge = processor.size.get("shortest_edge") or min(processor.size["height"], processor.size["width"])
        crop = min(processor.crop_size["height"], processor.crop_size["width"])
        processor.size = {"shortest_edge": round(size * edge / crop)}
        processor.crop_size = {"height": size, "width": size}
    elif processor.size.get("shortest_edge"):  # ConvNeXT's, which ResNets have too
        processor.size = {"shortest_edge": size}
    else:
        processor.size = {"height": size, "width": size}


def view_size(processor: Any) -> tuple[int, int]:
    """Height and width of what the processor gives the model, found by giving it two blank images.

    Raises:
        HftlError: the size depends on the image's shape, so that images could not be stacked to a batch.
    """
    from PIL import Image

    shapes = {
        tuple(processor(Image.new("RGB", size), return_tensors="pt")["pixel_values"].shape[-2:])
        for size in ((256, 256), (384, 256))
    }
    if len(shapes) > 1:
        raise HftlError(
            "the model's image processor keeps the shape of each image, so they do not stack to a batch; "
            "set do_center_crop and crop_size in its preprocessor_config.json"
        )
    height, width = shapes.pop()
    return int(height), int(width)
