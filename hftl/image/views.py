"""Random views of training images, and mixtures of two of them.

Everything random comes from the generator that is handed in, so who makes it of (seed, row) gets a pure function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

Pixels: TypeAlias = npt.NDArray[np.float32]
"""One image as the model takes it, of shape (channels, height, width), or several, with a first dimension for them."""

GREY = (128, 128, 128)
"""What fills the corners that a rotated or shifted image leaves empty."""
LARGEST_MAGNITUDE = 10.0


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


# -- operations ------------------------------------------------------------------------------------------------------


def _affine(image: Image.Image, *coefficients: float) -> Image.Image:
    """The image whose pixel (x, y) is that at (ax + by + c, dx + ey + f) of the given one."""
    transform = Image.Transform.AFFINE
    return image.transform(image.size, transform, coefficients, Image.Resampling.BILINEAR, fillcolor=GREY)


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    "solarize": lambda image, strength: ImageOps.solarize(image, round(256 * (1 - abs(strength)))),
    "color": lambda image, strength: ImageEnhance.Color(image).enhance(1 + 0.9 * strength),
    "contrast": lambda image, strength: ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength),
    "brightness": lambda image, strength: ImageEnhance.Brightness(image).enhance(1 + 0.9 * strength),
    "sharpness": lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength),
    "rotate": lambda image, strength: image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=GREY),
    "shear_x": lambda image, strength: _affine(image, 1, 0.3 * strength, -0.15 * strength * image.height, 0, 1, 0),
    "shear_y": lambda image, strength: _affine(image, 1, 0, 0, 0.3 * strength, 1, -0.15 * strength * image.width),
    "translate_x": lambda image, strength: _affine(image, 1, 0, 0.45 * strength * image.width, 0, 1, 0),
    "translate_y": lambda image, strength: _affine(image, 1, 0, 0, 0, 1, 0.45 * strength * image.height),
}
"""The 14 operations of RandAugment on an RGB image, by a strength from -1 to 1 (its sign only matters to some)."""


def rand_augment(image: Image.Image, rng: np.random.Generator, operations: int, magnitude: float | None) -> Image.Image:
    """The RGB image after so many random operations, each of ``magnitude`` (0 to 10) in a random direction.

    Without ``magnitude`` each operation draws its own.
    Source: Cubuk et al. 2020, "RandAugment", with the ranges of its operations (sheared about the centre, not a
    corner). One operation without magnitude is TrivialAugment in RandAugment's ranges, Müller and Hutter 2021.
    """
    for _ in range(operations):
        operation = OPERATIONS[str(rng.choice([*OPERATIONS]))]
        drawn = rng.uniform(0, LARGEST_MAGNITUDE) if magnitude is None else magnitude
        image = operation(image, float(rng.choice([-1, 1])) * drawn / LARGEST_MAGNITUDE)
    return image


# -- on what the model takes -----------------------------------------------------------------------------------------


def random_erasing(pixels: Pixels, rng: np.random.Generator, probability: float) -> Pixels:
    """The image, with that probability a random rectangle of it overwritten with normal noise, each value its own.

    The rectangle has 0.02 to 0.33 of the area, and is 0.3 to 3.3 times as high as wide (log-uniform), but no higher or
    wider than the image.
    Source: Zhong et al. 2020, "Random Erasing Data Augmentation".
    """
    if rng.random() >= probability:
        return pixels
    channels, height, width = pixels.shape
    area = rng.uniform(0.02, 0.33) * height * width
    ratio = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
    h = max(1, min(round(math.sqrt(area * ratio)), height))
    w = max(1, min(round(math.sqrt(area / ratio)), width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    erased = pixels.copy()
    erased[:, top : top + h, left : left + w] = rng.standard_normal((channels, h, w), dtype=np.float32)
    return erased


def mix(pixels: Pixels, other: Pixels, rng: np.random.Generator, mixup: float, cutmix: float) -> tuple[Pixels, float]:
    """A mixture of two images, and the share that the first has in it: mixup, or CutMix, or where both are on either.

    ``mixup`` and ``cutmix`` are the parameters of Beta(a, a), from which the share is drawn; 0 is off.
    """
    if mixup and (not cutmix or rng.random() < 0.5):
        share = rng.beta(mixup, mixup)
        return blend(pixels, other, share), share
    return cut_and_paste(pixels, other, rng, rng.beta(cutmix, cutmix))


def blend(pixels: Pixels, other: Pixels, share: float) -> Pixels:
    """Both images over each other. Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"."""
    return np.asarray(share * pixels + (1 - share) * other, dtype=np.float32)


def cut_and_paste(pixels: Pixels, other: Pixels, rng: np.random.Generator, share: float) -> tuple[Pixels, float]:
    """The first image with a rectangle of the other at the same place, and the share of the area that it keeps.

    The rectangle has the image's proportions and 1 - ``share`` of its area, less what lies outside: its centre is
    anywhere in the image. Source: Yun et al. 2019, "CutMix".
    """
    _, height, width = pixels.shape
    h, w = (math.sqrt(1 - share) * side for side in (height, width))
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = (min(max(round(edge), 0), height) for edge in (y - h / 2, y + h / 2))
    left, right = (min(max(round(edge), 0), width) for edge in (x - w / 2, x + w / 2))
    pasted = pixels.copy()
    pasted[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)


# -- for people ------------------------------------------------------------------------------------------------------


def contact_sheet(views: Pixels, black: Pixels, white: Pixels, columns: int = 8) -> Image.Image:
    """One picture of many views, shape (views, 3, height, width), ``columns`` beside each other.

    ``black`` and ``white``, of shape (3,), are the values that these colours have in the views.
    """
    low, high = black[:, None, None], white[:, None, None]
    colours = np.rint(255 * (views - low) / (high - low)).clip(0, 255).astype(np.uint8)
    count, channels, height, width = views.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * columns, channels, height, width), 255, dtype=np.uint8)
    sheet[:count] = colours
    grid = sheet.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return Image.fromarray(grid.reshape(rows * height, columns * width, channels))
