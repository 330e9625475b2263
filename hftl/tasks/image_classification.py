"""Image classification: photos to labels."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hftl.errors import HftlError
from hftl.quiet import quiet_transformers
from hftl.tasks.parts.classification import Classification, shares_of, targets_of

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from numpy.random import Generator
    from PIL.Image import Image

    from hftl.data.batches import Batch, Frequencies
    from hftl.data.splits import BadRow
    from hftl.image.views import Pixels
    from hftl.model.heads import Loaded


IMAGE_VERSION = 1
"""To be raised whenever ``ImageExamples`` makes something else of the same images: features made before are not taken
then."""


@dataclass(frozen=True)
class ImageClassification(Classification):
    """Photos in folders (one a class), or in a table as paths or bytes."""

    name: ClassVar[str] = "image-classification"
    kind: ClassVar[Literal["image", "audio", "text"]] = "image"
    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    head_lr: ClassVar[float] = 3e-3
    lr: ClassVar[float] = 1e-4

    image_column: str | None = None
    """Column of the images; unset, found by name and type."""
    image_size: int | None = None
    """Height and width in pixels of what the model sees; unset, the checkpoint's own. Convolutional models take
    others, and smaller is faster."""
    augment: Literal["crop", "crop-flip", "none"] = "crop"
    """Random views while blocks train: a random resized crop, with crop-flip mirrored or not, which digits and signs do
    not bear. Head-only phases see plain images, whatever this and the options below say, unless --store.views asks for
    more than one view."""
    crop_area: float = 0.35
    """Smallest part of an image's area that a random crop shows."""
    rand_augment: int = 0
    """Random operations on a view, such as to rotate or solarize it (RandAugment, Cubuk et al. 2020); 2 is usual."""
    magnitude: float | None = None
    """Strength of these operations, 0 to 10; unset, drawn for each: with one operation this is TrivialAugment (Müller
    and Hutter 2021)."""
    erasing: float = 0.0
    """Share of the views in which noise hides a random rectangle (random erasing, Zhong et al. 2020); 0.25 is usual."""
    mixup: float = 0.0
    """Blend each view, and its label, with another row's, in shares from Beta(a, a) with this a (Zhang et al. 2018);
    0.2 is usual. It reads two images a row."""
    cutmix: float = 0.0
    """Paste a part of another row's view into each, labels by area, from Beta(a, a) with this a (Yun et al. 2019); 1
    is usual. With mixup on as well, each row has one of the two at random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None and self.image_size < 8:
            raise HftlError(f"image_size: {self.image_size} is too small; use at least 8 pixels")
        if not 0 < self.crop_area <= 1:
            raise HftlError(f"crop_area: {self.crop_area} is out of range; it must be above 0 and at most 1")
        for name, value, most in (
            ("rand_augment", self.rand_augment, math.inf),
            ("magnitude", self.magnitude or 0.0, 10),
            ("erasing", self.erasing, 1),
            ("mixup", self.mixup, math.inf),
            ("cutmix", self.cutmix, math.inf),
        ):
            if not (math.isfinite(value) and 0 <= value <= most):
                upper = "" if most == math.inf else f" and at most {most}"
                raise HftlError(f"{name}: {value} is out of range; it must be at least 0{upper}")
        if self.magnitude is not None and not self.rand_augment:
            raise HftlError("magnitude: it is that of the operations of rand_augment, which is 0; set that to 2, say")

    def _load_processor(self, model: str, trust_remote_code: bool) -> Any:
        """The checkpoint's image processor.

        Raises:
            HftlError: the checkpoint has none.
        """
        from transformers import AutoImageProcessor

        try:
            with quiet_transformers():  # it warns that torchvision is not there, which nothing here needs
                processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, ImportError) as error:
            raise HftlError(
                f"--model {model}: no image processor loads from it (preprocessor_config.json); save the one it was "
                f"trained with beside it ({str(error).splitlines()[0]})"
            ) from None
        if type(processor).__name__ == "TimmWrapperImageProcessor":
            processor = portable(processor)
        if self.image_size is not None:
            resize(processor, self.image_size)
        return processor

    def _suited(self, loaded: Loaded, processor: Any) -> Loaded:
        """A timm model's configuration says that the processor saved beside it counts, not timm's own."""
        if loaded.model.config.model_type == "timm_wrapper":
            loaded.model.config.image_processor_type = processor.to_dict()["image_processor_type"]
        return loaded

    def examples(self, dataset: Dataset, processor: Any, augment: bool) -> ImageExamples:
        """See ``Task``."""
        frequencies = self.frequencies(dataset)
        return ImageExamples(dataset, processor, view_size(processor), self, augment, frequencies=frequencies)

    def read_inputs(
        self,
        inputs: Sequence[Any],
        processor: Any,  # noqa: ARG002
    ) -> tuple[Dataset, list[BadRow]]:
        """Images as objects, files, folders of files, or a table with a column of images."""
        import numpy as np
        from datasets import Dataset

        from hftl.data import checks
        from hftl.image import reading

        found = [value for item in inputs for value in self._images(item)]
        if not found:
            raise HftlError(f"no image to predict in {', '.join(map(str, inputs))}")
        columns = {"name": list(map(reading.image_name, found)), "image": list(map(reading.as_stored, found))}
        dataset = Dataset.from_dict(columns)
        bad, _ = checks.examine(dataset, "image", np.arange(len(found)), "inputs", "image")
        if len(bad) == len(found):
            raise HftlError(f"no image to predict: {bad[0].name}: {bad[0].reason}")
        return dataset.select(np.setdiff1d(np.arange(len(found)), [row.row for row in bad])), bad

    def _images(self, item: Any) -> list[Any]:
        from datasets import Image

        from hftl.data import columns, sources
        from hftl.image import reading

        if not isinstance(item, str | Path):
            return [item]
        path = Path(item).expanduser()
        if path.is_dir():
            return sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in reading.IMAGE_EXTENSIONS)
        if path.suffix.lower() in sources.TABLE_EXTENSIONS and path.is_file():
            table = sources.load(str(path), kind="image").splits["train"]
            column = columns.find_column(table, "image", self.image_column, ())
            return [*table.cast_column(column, Image(decode=False))[column]]
        return [str(path)]


@dataclass(frozen=True)
class ImageExamples:
    """Rows of images as batches of ``pixel_values``, shape (rows, channels, height, width).

    With ``augment`` each is what the options of ``task`` make of it, a pure function of ``seed`` and the row; without,
    what the processor makes of the whole image, as in ``pipeline``. Targets are label ids, of shape (rows,), or the
    shares of all classes where rows are mixed, of shape (rows, classes).

    Decoded images are not kept. MobileNetV2 at 224 px takes 18 ms for a training row (bfloat16, 2 cores of AMD EPYC);
    decoding a photo of hymenoptera takes 0.42, reading its 0.26 MB of pixels from a cache 0.07 (one of CIFAR-10: 0.09
    and 0.03). Medians of three passes over 200 rows.
    """

    dataset: Dataset
    processor: Any
    size: tuple[int, int]
    task: ImageClassification
    augment: bool
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
        task = self.task
        varied = task.augment != "none" or task.rand_augment or task.erasing or task.mixup or task.cutmix
        return self.augment and bool(varied)

    @functools.cached_property
    def digest(self) -> str:
        """See ``Examples``. That of an image is of what it shows, so a file may move, and may not change."""
        from importlib.metadata import version

        from hftl.data.digests import table_digest

        task = self.task
        options = (
            task.augment,
            task.crop_area,
            task.rand_augment,
            task.magnitude,
            task.erasing,
            task.mixup,
            task.cutmix,
        )
        return table_digest(
            self.dataset,
            ["digest", "label"],
            IMAGE_VERSION,
            {name: version(name) for name in ("pillow", "transformers")},
            type(self.processor).__name__,
            self.processor.to_json_string(),
            (options, self.seed) if self.augment else None,
        )

    def at(self, seed: Sequence[int]) -> ImageExamples:
        """See ``Examples``."""
        return replace(self, seed=tuple(seed))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """See ``Examples``."""
        import numpy as np
        import torch

        from hftl.data.batches import Batch
        from hftl.image.reading import read_image

        rows = self.dataset[indices]
        if not self.augment:
            images = [read_image(value) for value in rows["image"]]
            pixels = self.processor(images, return_tensors="pt")["pixel_values"]
            return Batch({"pixel_values": pixels}, targets_of(rows), torch.tensor(indices))
        # One generator a row: what a row becomes must not depend on those beside it.
        rngs = [np.random.default_rng([*self.seed, row]) for row in indices]
        views, targets = self._views(rows["image"], rngs), targets_of(rows)
        if self.task.mixup or self.task.cutmix:
            views, targets = self._mixed(views, shares_of(rows, self.dataset), rngs)
        return Batch({"pixel_values": torch.from_numpy(views)}, targets, torch.tensor(indices))

    def picture(self) -> Image:
        """The rows as the model gets them: up to 32 from first to last, in one picture."""
        import numpy as np
        from PIL import Image

        from hftl.image.views import contact_sheet

        rows = np.linspace(0, len(self) - 1, min(len(self), 32)).round().astype(int).tolist()
        blank = [Image.new("RGB", self.size[::-1], colour) for colour in ("black", "white")]
        plain = self.processor(blank, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
        black, white = plain.mean(dim=(2, 3)).numpy()
        return contact_sheet(self.__getitems__(rows).inputs["pixel_values"].numpy(), black, white)

    def _views(self, values: Sequence[Any], rngs: Sequence[Generator]) -> Pixels:
        """A random view of each image, shape (rows, channels, height, width)."""
        import numpy as np

        from hftl.image.reading import read_image
        from hftl.image.views import rand_augment, random_erasing, random_flip, random_resized_crop

        task, views = self.task, []
        for value, rng in zip(values, rngs, strict=True):
            view = read_image(value)
            if task.augment != "none":
                view = random_resized_crop(view, self.size, rng, task.crop_area)
            if task.augment == "crop-flip":
                view = random_flip(view, rng)
            views.append(rand_augment(view, rng, task.rand_augment, task.magnitude))
        as_cropped = {} if task.augment == "none" else {"do_resize": False, "do_center_crop": False}
        pixels = self.processor(views, **as_cropped, return_tensors="pt")["pixel_values"].numpy()
        return np.stack([random_erasing(view, rng, task.erasing) for view, rng in zip(pixels, rngs, strict=True)])

    def _mixed(self, views: Pixels, targets: torch.Tensor, rngs: Sequence[Generator]) -> tuple[Pixels, torch.Tensor]:
        """The views, and their targets of shape (rows, classes), mixed with those of random rows of the whole set."""
        import numpy as np
        import torch

        from hftl.image.views import mix

        partners = self.dataset[[int(rng.integers(len(self))) for rng in rngs]]
        others = self._views(partners["image"], rngs)
        triples = zip(views, others, rngs, strict=True)
        mixed = [mix(view, other, rng, self.task.mixup, self.task.cutmix) for view, other, rng in triples]
        kept = torch.tensor([share for _, share in mixed])[:, None]
        targets = kept * targets + (1 - kept) * shares_of(partners, self.dataset)
        return np.stack([mixture for mixture, _ in mixed]), targets


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
