"""Images as batches of pixels, plain and as random views."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from datasets import Dataset
from numpy.random import Generator
from PIL import Image

from hftl.data.batches import Batch, Frequencies
from hftl.data.digests import table_digest
from hftl.data.labels import shares_of, targets_of
from hftl.image.reading import read_image
from hftl.image.views import (
    Pixels,
    contact_sheet,
    mix,
    rand_augment,
    random_erasing,
    random_flip,
    random_resized_crop,
)

IMAGE_VERSION = 1
"""To be raised whenever ``ImageExamples`` makes something else of the same images: features made before are not taken
then."""


@dataclass(frozen=True)
class ViewOptions:
    """How random views differ; see the options of these names of ``ImageClassification``."""

    augment: Literal["crop", "crop-flip", "none"] = "crop"
    crop_area: float = 0.35
    rand_augment: int = 0
    magnitude: float | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def varied(self) -> bool:
        """Whether they differ at all."""
        others = (self.rand_augment, self.erasing, self.mixup, self.cutmix)
        return self.augment != "none" or any(others)


@dataclass(frozen=True)
class ImageExamples:
    """Rows of images as batches of ``pixel_values``, shape (rows, channels, height, width).

    With ``options`` each is a random view of it, a pure function of ``seed`` and the row; without,
    what the processor makes of the whole image, as in ``pipeline``. Targets are label ids, of shape (rows,), or the
    shares of all classes where rows are mixed, of shape (rows, classes).

    Decoded images are not kept. MobileNetV2 at 224 px takes 18 ms for a training row (bfloat16, 2 cores of AMD EPYC);
    decoding a photo of hymenoptera takes 0.42, reading its 0.26 MB of pixels from a cache 0.07 (one of CIFAR-10: 0.09
    and 0.03). Medians of three passes over 200 rows.
    """

    dataset: Dataset
    processor: Any
    size: tuple[int, int]
    options: ViewOptions | None
    """Of random views; None: the whole images."""
    seed: tuple[int, ...] = ()
    lengths: None = None
    owners: None = None
    frequencies: Frequencies | None = None
    notes: tuple[str, ...] = ()
    read_ahead: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def random(self) -> bool:
        """See ``Examples``."""
        return self.options is not None and self.options.varied

    @functools.cached_property
    def digest(self) -> str:
        """See ``Examples``. That of an image is of what it shows, so a file may move, and may not change."""
        return table_digest(
            self.dataset,
            ["digest", "label"],
            IMAGE_VERSION,
            {name: importlib.metadata.version(name) for name in ("pillow", "transformers")},
            type(self.processor).__name__,
            self.processor.to_json_string(),
            (astuple(self.options), self.seed) if self.options else None,
        )

    def at(self, seed: Sequence[int]) -> ImageExamples:
        """See ``Examples``."""
        return replace(self, seed=tuple(seed))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """See ``Examples``."""
        rows = self.dataset[indices]
        if self.options is None:
            images = [read_image(value) for value in rows["image"]]
            pixels = self.processor(images, return_tensors="pt")["pixel_values"]
            return Batch({"pixel_values": pixels}, targets_of(rows), torch.tensor(indices))
        # One generator a row: what a row becomes must not depend on those beside it.
        rngs = [np.random.default_rng([*self.seed, row]) for row in indices]
        views, targets = self._views(self.options, rows["image"], rngs), targets_of(rows)
        if self.options.mixup or self.options.cutmix:
            views, targets = self._mixed(self.options, views, shares_of(rows, self.dataset), rngs)
        return Batch({"pixel_values": torch.from_numpy(views)}, targets, torch.tensor(indices))

    def picture(self) -> Image.Image:
        """The rows as the model gets them: up to 32 from first to last, in one picture."""
        rows = np.linspace(0, len(self) - 1, min(len(self), 32)).round().astype(int).tolist()
        blank = [Image.new("RGB", self.size[::-1], colour) for colour in ("black", "white")]
        plain = self.processor(blank, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
        black, white = plain.mean(dim=(2, 3)).numpy()
        return contact_sheet(self.__getitems__(rows).inputs["pixel_values"].numpy(), black, white)

    def _views(self, options: ViewOptions, values: Sequence[Any], rngs: Sequence[Generator]) -> Pixels:
        """A random view of each image, shape (rows, channels, height, width)."""
        views = []
        for value, rng in zip(values, rngs, strict=True):
            view = read_image(value)
            if options.augment != "none":
                view = random_resized_crop(view, self.size, rng, options.crop_area)
            if options.augment == "crop-flip":
                view = random_flip(view, rng)
            views.append(rand_augment(view, rng, options.rand_augment, options.magnitude))
        as_cropped = {} if options.augment == "none" else {"do_resize": False, "do_center_crop": False}
        pixels = self.processor(views, **as_cropped, return_tensors="pt")["pixel_values"].numpy()
        return np.stack([random_erasing(view, rng, options.erasing) for view, rng in zip(pixels, rngs, strict=True)])

    def _mixed(
        self, options: ViewOptions, views: Pixels, targets: torch.Tensor, rngs: Sequence[Generator]
    ) -> tuple[Pixels, torch.Tensor]:
        """The views, and their targets of shape (rows, classes), mixed with those of random rows of the whole set."""
        partners = self.dataset[[int(rng.integers(len(self))) for rng in rngs]]
        others = self._views(options, partners["image"], rngs)
        triples = zip(views, others, rngs, strict=True)
        mixed = [mix(view, other, rng, options.mixup, options.cutmix) for view, other, rng in triples]
        kept = torch.tensor([share for _, share in mixed])[:, None]
        targets = kept * targets + (1 - kept) * shares_of(partners, self.dataset)
        return np.stack([mixture for mixture, _ in mixed]), targets
