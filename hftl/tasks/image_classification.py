"""Image classification: photos to labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hftl.errors import HftlError
from hftl.quiet import quiet_transformers
from hftl.tasks._classification import Classification, targets_of

if TYPE_CHECKING:
    from datasets import Dataset

    from hftl.data.batches import Batch, Frequencies
    from hftl.data.splits import BadRow


@dataclass(frozen=True)
class ImageClassification(Classification):
    """Photos in folders (one a class), or in a table as paths or bytes."""

    name: ClassVar[str] = "image-classification"
    kind: ClassVar[Literal["image", "text"]] = "image"
    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    head_lr: ClassVar[float] = 3e-3
    lr: ClassVar[float] = 1e-4

    image_column: str | None = None
    """Column of the images; unset, found by name and type."""
    image_size: int | None = None
    """Height and width in pixels of what the model sees; unset, the checkpoint's own. Convolutional models take
    others, and smaller is faster."""
    augment: Literal["crop-flip", "crop", "none"] = "crop-flip"
    """Random views while blocks train: a random resized crop, mirrored or not. Head-only phases see plain images."""
    crop_area: float = 0.35
    """Smallest part of an image's area that a random crop shows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None and self.image_size < 8:
            raise HftlError(f"image_size: {self.image_size} is too small; use at least 8 pixels")
        if not 0 < self.crop_area <= 1:
            raise HftlError(f"crop_area: {self.crop_area} is out of range; it must be above 0 and at most 1")

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
        if self.image_size is not None:
            resize(processor, self.image_size)
        return processor

    def examples(self, dataset: Dataset, processor: Any, augment: bool) -> ImageExamples:
        """See ``Task``."""
        return ImageExamples(
            dataset,
            processor,
            view_size(processor),
            self.crop_area if augment and self.augment != "none" else None,
            flip=self.augment == "crop-flip",
            frequencies=self.frequencies(dataset),
        )

    def read_inputs(self, inputs: Sequence[Any]) -> tuple[Dataset, list[BadRow]]:
        """Images as objects, files, folders of files, or a table with a column of images."""
        import numpy as np
        from datasets import Dataset

        from hftl.data import checks, images

        found = [value for item in inputs for value in self._images(item)]
        if not found:
            raise HftlError(f"no image to predict in {', '.join(map(str, inputs))}")
        columns = {"name": list(map(images.image_name, found)), "image": list(map(images.as_stored, found))}
        dataset = Dataset.from_dict(columns)
        bad = checks.unreadable_images(dataset, "image", np.arange(len(found)), "inputs")
        if len(bad) == len(found):
            raise HftlError(f"no image to predict: {bad[0].name}: {bad[0].reason}")
        return dataset.select(np.setdiff1d(np.arange(len(found)), [row.row for row in bad])), bad

    def _images(self, item: Any) -> list[Any]:
        from datasets import Image

        from hftl.data import columns, images, sources

        if not isinstance(item, str | Path):
            return [item]
        path = Path(item).expanduser()
        if path.is_dir():
            return sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in images.IMAGE_EXTENSIONS)
        if path.suffix.lower() in sources.TABLE_EXTENSIONS and path.is_file():
            table = sources.load(str(path), kind="image").splits["train"]
            column = columns.find_column(table, "image", self.image_column, ())
            return [*table.cast_column(column, Image(decode=False))[column]]
        return [str(path)]


@dataclass(frozen=True)
class ImageExamples:
    """Rows of images as batches of ``pixel_values``, shape (rows, channels, height, width).

    With ``crop_area`` each is a random view, a pure function of ``seed`` and the row; without, what the processor
    makes of the whole image, as in ``pipeline``.
    """

    dataset: Dataset
    processor: Any
    size: tuple[int, int]
    crop_area: float | None
    flip: bool
    seed: tuple[int, ...] = ()
    lengths: None = None
    frequencies: Frequencies | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def at(self, seed: Sequence[int]) -> ImageExamples:
        """See ``Examples``."""
        return replace(self, seed=tuple(seed))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """See ``Examples``."""
        import torch

        from hftl.data.batches import Batch
        from hftl.data.images import read_image

        rows = self.dataset[indices]
        images = [read_image(value) for value in rows["image"]]
        if self.crop_area is None:
            inputs = self.processor(images, return_tensors="pt")
        else:
            views = [self._view(image, row) for image, row in zip(images, indices, strict=True)]
            inputs = self.processor(views, do_resize=False, do_center_crop=False, return_tensors="pt")
        return Batch({"pixel_values": inputs["pixel_values"]}, targets_of(rows), torch.tensor(indices))

    def _view(self, image: Any, row: int) -> Any:
        import numpy as np

        from hftl.data.augment import random_flip, random_resized_crop

        rng = np.random.default_rng([*self.seed, row])
        view = random_resized_crop(image, self.size, rng, self.crop_area or 1.0)
        return random_flip(view, rng) if self.flip else view


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
