"""Which store a run finds: that of the very same features, and no other."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from quick_runs import quick
from safetensors.torch import load_file, save_file
from stored_runs import computed_first

from hftl import Phase
from hftl.features import plan
from hftl.image.examples import ImageExamples
from hftl.recipe.recipe import Recipe
from hftl.tasks import ImageClassification, TextClassification

ALL = {"photos": ["train", "validation", "test"], "texts": ["train", "validation"]}


@dataclass(frozen=True)
class Base:
    """A model, data and stores of its features, each a copy of the test's own."""

    root: Path
    recipe: Recipe[Any]

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def computed(self, recipe: Recipe[Any] | None = None, **views: Any) -> list[str]:
        return computed_first(recipe or self.recipe, self.root / "stores", **views)

    def task(self, **options: Any) -> Recipe[Any]:
        return replace(self.recipe, task=replace(self.recipe.task, **options))


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path], photos: Path, reviews: Path
) -> dict[str, Base]:
    """Of photos and a ResNet, of texts and a BERT."""
    found = {}
    for kind, family in (("photos", "resnet"), ("texts", "bert")):
        root = tmp_path_factory.mktemp(kind)
        shutil.copytree(tiny_model(family), root / "model")
        if kind == "photos":
            for photo in photos.rglob("*.png"):  # files whose size does not depend on what they show
                copy = (root / "data" / photo.relative_to(photos)).with_suffix(".bmp")
                copy.parent.mkdir(parents=True, exist_ok=True)
                Image.open(photo).save(copy)
            task: Any = ImageClassification(str(root / "data"))
        else:
            (root / "data").mkdir()
            lines = reviews.read_text().splitlines()
            (root / "data" / "train.csv").write_text("\n".join(lines[:41]) + "\n")
            (root / "data" / "validation.csv").write_text("\n".join([lines[0], *lines[41:]]) + "\n")
            task = TextClassification(str(root / "data"), max_length=16)
        recipe = quick(task, root / "model", root / "run", phases=(Phase("head", 1, 1e-2),), eval_batch_size=16)
        found[kind] = Base(root, recipe)
        assert found[kind].computed() == ALL[kind]
        assert found[kind].computed() == []
    return found


@pytest.fixture
def base(filled: dict[str, Base], tmp_path: Path) -> Iterator[Callable[[str], Base]]:
    def copy(kind: str) -> Base:
        gc.freeze()
        shutil.copytree(filled[kind].root, tmp_path / kind, ignore=shutil.ignore_patterns("run*"))
        task = replace(filled[kind].recipe.task, data=str(tmp_path / kind / "data"))
        recipe = replace(filled[kind].recipe, task=task, model=str(tmp_path / kind / "model"))
        return Base(tmp_path / kind, recipe)

    yield copy
    torch.set_float32_matmul_precision("highest")


# -- what finds them -------------------------------------------------------------------------------------------------

SAME: dict[str, tuple[str, Callable[[Base], Recipe[Any]]]] = {
    "moved photos, moved model": ("photos", lambda base: base.recipe),
    "moved texts": ("texts", lambda base: base.recipe),
    "seed": ("photos", lambda base: replace(base.recipe, seed=5)),
    "learning rate and epochs": ("photos", lambda base: replace(base.recipe, phases=(Phase("head", 7, 0.5),))),
    "batches": ("texts", lambda base: replace(base.recipe, batch_size=5, accumulation=2)),
    "dropout of the head": ("texts", lambda base: replace(base.recipe, head_dropout=0.5)),
    "loss": ("photos", lambda base: base.task(loss="focal", balance="weights", label_smoothing=0.1)),
    "sampler": ("texts", lambda base: base.task(balance="sampler")),
    "views of deep phases": ("photos", lambda base: base.task(mixup=0.2, augment="crop")),
    "another head in the checkpoint": ("photos", lambda base: with_tensor(base, "classifier.1.bias")),
}


@pytest.mark.parametrize("case", SAME)
def test_what_does_not_count_finds_them(case: str, base: Callable[[str], Base]) -> None:
    kind, change = SAME[case]
    own = base(kind)
    assert own.computed(change(own)) == []


# -- what does not ---------------------------------------------------------------------------------------------------


def with_tensor(base: Base, name: str) -> Recipe[Any]:
    """One number of a tensor of the checkpoint moves by one unit in its last place."""
    tensors = load_file(base.model / "model.safetensors")
    flat = tensors[name].reshape(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))
    save_file(tensors, base.model / "model.safetensors", {"format": "pt"})
    return base.recipe


def with_setting(base: Base, file: str, **settings: Any) -> Recipe[Any]:
    path = base.model / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return base.recipe


def with_photo(base: Base, split: str) -> Recipe[Any]:
    """One number of one pixel is another; name, size and time of the file are the same."""
    photo = base.data / split / "red" / "1.bmp"
    before = photo.stat()
    with photo.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (photo.stat().st_size, photo.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    return base.recipe


def with_line(base: Base, split: str, change: Callable[[str, str], str]) -> Recipe[Any]:
    path = base.data / f"{split}.csv"
    header, first, *rest = path.read_text().splitlines()
    text, _, label = first.rpartition(",")
    path.write_text("\n".join([header, change(text, label), *rest]) + "\n")
    return base.recipe


def with_renamed_label(base: Base) -> Recipe[Any]:
    for split in ("train", "validation", "test"):
        (base.data / split / "red").rename(base.data / split / "a-red")
    return base.recipe


def with_matmul(base: Base) -> Recipe[Any]:
    torch.set_float32_matmul_precision("high")
    return base.recipe


BLOCK = "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"
STATISTIC = "resnet.embedder.embedder.normalization.running_mean"
EMBEDDING = "embeddings.word_embeddings.weight"

OTHER: dict[str, tuple[str, list[str], Callable[[Base], Recipe[Any]]]] = {
    "a frozen weight": ("photos", ALL["photos"], lambda base: with_tensor(base, BLOCK)),
    "a frozen buffer": ("photos", ALL["photos"], lambda base: with_tensor(base, STATISTIC)),
    "a frozen embedding": ("texts", ALL["texts"], lambda base: with_tensor(base, EMBEDDING)),
    "a pixel": ("photos", ["train"], lambda base: with_photo(base, "train")),
    "a pixel of the test split": ("photos", ["test"], lambda base: with_photo(base, "test")),
    "a word": ("texts", ["train"], lambda base: with_line(base, "train", lambda text, label: f"film {text},{label}")),
    "a label": (
        "texts",
        ["validation"],
        lambda base: with_line(
            base, "validation", lambda text, label: f"{text},{'positive' if label == 'negative' else 'negative'}"
        ),
    ),
    "the order of labels": ("photos", ALL["photos"], with_renamed_label),
    "fewer rows": ("photos", ["train"], lambda base: base.task(max_rows=20)),
    "size of images": ("photos", ALL["photos"], lambda base: base.task(image_size=40)),
    "length of texts": ("texts", ALL["texts"], lambda base: base.task(max_length=12)),
    "truncation": ("texts", ALL["texts"], lambda base: base.task(truncation="tail")),
    "precision": ("photos", ALL["photos"], lambda base: replace(base.recipe, precision="bf16")),
    "precision of products": ("texts", ALL["texts"], with_matmul),
    "batches that are filled": ("photos", ALL["photos"], lambda base: replace(base.recipe, eval_batch_size=8)),
    "colours of the processor": (
        "photos",
        ALL["photos"],
        lambda base: with_setting(base, "preprocessor_config.json", image_mean=[0.5, 0.5, 0.4999]),
    ),
    "side of the padding": (
        "texts",
        ALL["texts"],
        lambda base: with_setting(base, "tokenizer_config.json", padding_side="left"),
    ),
    "token of the padding": (
        "texts",
        ALL["texts"],
        lambda base: with_setting(base, "tokenizer_config.json", pad_token="[SEP]"),
    ),
    "a setting of the model": (
        "texts",
        ALL["texts"],
        lambda base: with_setting(base, "config.json", layer_norm_eps=1.1e-12),
    ),
    "depth of the cut": (
        "texts",
        ALL["texts"],
        lambda base: replace(base.recipe, phases=(Phase("neck", 1, 1e-2),)),
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_what_counts_does_not_find_them(case: str, base: Callable[[str], Base]) -> None:
    """And what it leaves as it was is still found."""
    kind, computed, change = OTHER[case]
    own = base(kind)
    assert own.computed(change(own)) == computed


def test_random_views_are_of_a_seed_and_of_their_options(base: Callable[[str], Base]) -> None:
    own = base("photos")
    assert own.computed(views=2) == ["train"]
    assert own.computed(views=2) == []
    assert own.computed(replace(own.recipe, seed=1), views=2) == ["train"]
    assert own.computed(own.task(mixup=0.2), views=2) == ["train"]
    assert own.computed(own.task(crop_area=0.5), views=2) == ["train"]
    assert own.computed(own.task(augment="none"), views=2) == []  # they are not random then


@pytest.mark.parametrize("package", plan.VERSIONS)
def test_another_version_of_a_package_does_not_find_them(
    package: str, base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, version = base("texts"), plan.importlib.metadata.version
    monkeypatch.setattr(plan.importlib.metadata, "version", lambda name: "0.0.1" if name == package else version(name))
    assert own.computed() == ALL["texts"]


def test_pillow_counts_for_images_alone(base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    version = plan.importlib.metadata.version
    monkeypatch.setattr(plan.importlib.metadata, "version", lambda name: "0.0.1" if name == "pillow" else version(name))
    assert base("photos").computed() == ALL["photos"]
    assert base("texts").computed() == []


def test_another_way_to_compute_attention_does_not_find_them(base: Callable[[str], Base]) -> None:
    def eager(trainer: Any) -> None:
        trainer.model.set_attn_implementation("eager")

    own = base("texts")
    assert computed_first(own.recipe, own.root / "stores", prepare=eager) == ALL["texts"]
    assert own.computed() == []


def test_a_package_that_is_not_installed_is_no_error(
    base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As hftl itself, where it is used from a folder of sources."""
    version = plan.importlib.metadata.version

    def lost(name: str) -> str:
        if name == "hftl":
            raise plan.importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(plan.importlib.metadata, "version", lost)
    assert base("texts").computed() == ALL["texts"]


def made_by(degrees: float) -> type[ImageClassification]:
    """A task whose examples are of turned images; somebody changed its code if ``degrees`` are others."""

    @dataclass(frozen=True)
    class Turned(ImageExamples):
        def __getitems__(self, indices: Any) -> Any:
            batch = super().__getitems__(indices)
            return replace(
                batch, inputs={name: tensor.rot90(int(degrees / 90), (2, 3)) for name, tensor in batch.inputs.items()}
            )

    @dataclass(frozen=True)
    class Task(ImageClassification):
        def examples(self, dataset: Any, processor: Any, augment: bool) -> Any:
            plain = super().examples(dataset, processor, augment)
            return Turned(**{each.name: getattr(plain, each.name) for each in fields(plain)})

    return Task


def test_those_of_another_class_or_of_other_code_are_not_taken(base: Callable[[str], Base]) -> None:
    photos = base("photos")
    options = {each.name: getattr(photos.recipe.task, each.name) for each in fields(photos.recipe.task)}
    for degrees in (90, 180):
        turned = replace(photos.recipe, task=made_by(degrees)(**options))
        assert photos.computed(turned) == ALL["photos"], "not the parent's, nor those of the code before"
        assert photos.computed(turned) == []
    assert photos.computed(replace(photos.recipe, task=made_by(90)(**options))) == [], "the same code again"
    assert photos.computed() == []
