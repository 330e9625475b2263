"""Image classification: photos to labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hftl.errors import HftlError
from hftl.quiet import quiet_transformers
from hftl.tasks.parts.classification import Classification

if TYPE_CHECKING:
    from datasets import Dataset

    from hftl.data.splits import BadRow
    from hftl.data.wanted import Labelling, Wanted
    from hftl.image.examples import ImageExamples
    from hftl.model.heads import Loaded


@dataclass(frozen=True)
class ImageClassification(Classification):
    """Photos in folders (one a class), or in a table as paths or bytes."""

    name: ClassVar[str] = "image-classification"
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

    def _wanted(self, labelling: Labelling, seed: int, head: Any) -> Wanted:  # noqa: ARG002
        """Images."""
        from hftl.data.wanted import Wanted
        from hftl.image.reading import IMAGES

        return Wanted(IMAGES, (self.image_column,), labelling=labelling, max_rows=self.max_rows, seed=seed)

    def _load_processor(self, model: str, trust_remote_code: bool) -> Any:
        """The checkpoint's image processor.

        Raises:
            HftlError: the checkpoint has none.
        """
        from transformers import AutoImageProcessor

        from hftl.image.processors import portable, resize

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
        from hftl.image.examples import ImageExamples, ViewOptions
        from hftl.image.processors import view_size

        options = ViewOptions(
            self.augment, self.crop_area, self.rand_augment, self.magnitude, self.erasing, self.mixup, self.cutmix
        )
        return ImageExamples(
            dataset,
            processor,
            view_size(processor),
            options if augment else None,
            frequencies=self.frequencies(dataset),
        )

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
        bad, _ = checks.examine(dataset, "image", np.arange(len(found)), "inputs", reading.IMAGES)
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
            table = sources.load(str(path), kind=reading.IMAGES).splits["train"]
            column = columns.find_column(table, reading.IMAGE, self.image_column, ())
            return [*table.cast_column(column, Image(decode=False))[column]]
        return [str(path)]
