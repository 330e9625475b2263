"""Random views of training images."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def random_resized_crop(
    image: Image.Image,
    size: tuple[int, int],
    rng: np.random.Generator,
    min_area: float,
) -> Image.Image:
    """A random part of the image, of at least ``min_area`` of its area, resized to ``size`` (height, width).

    Source: Szegedy et al. 2015, "Going Deeper with Convolutions"; aspect ratios from 3/4 to 4/3, log-uniform.
    """
    width, height = image.size
    for _ in range(10):
        area = rng.uniform(min_area, 1.0) * width * height
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            break
    else:  # no such part fits a very long image: the largest centred square
        w = h = float(min(width, height))
        left, top = (width - w) / 2, (height - h) / 2
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))


def random_flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image or its mirror image, evenly."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image
