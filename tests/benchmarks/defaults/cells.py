"""Small sets that nobody tuned for: which they are, and their rows as every contender reads them."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""
FASHION_NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True)
class Cell:
    """A set at a number of rows. All contenders get the same rows, and images and texts of the same size."""

    source: str
    kind: str
    """image, text, audio or question."""
    per_class: int
    """Training rows of each class; of questions, all of them."""
    test: int
    """At most so many rows are tested on."""
    size: int
    """Pixels, tokens or milliseconds of a row."""

    @property
    def name(self) -> str:
        unit = "in all" if self.kind == "question" else "a class"
        return f"{self.source}, {self.per_class} {unit}"


CELLS = (
    Cell("film reviews", "text", 10, 600, 128),
    Cell("film reviews", "text", 100, 600, 128),
    Cell("film reviews", "text", 400, 600, 128),
    Cell("questions by article", "text", 10, 400, 64),
    Cell("IMDb", "text", 30, 300, 96),
    Cell("CIFAR-10", "image", 10, 400, 96),
    Cell("CIFAR-10", "image", 30, 400, 96),
    Cell("ants and bees", "image", 10, 153, 128),
    Cell("ants and bees", "image", 30, 153, 128),
    Cell("digits", "image", 10, 500, 96),
    Cell("digits", "image", 30, 500, 96),
    Cell("Fashion-MNIST", "image", 10, 400, 96),
    Cell("spoken digits", "audio", 10, 500, 975),
    Cell("spoken digits", "audio", 30, 500, 975),
    Cell("birds", "audio", 15, 100, 5000),
    Cell("SQuAD", "question", 60, 60, 160),
)


def model_of(kind: str, shared: Path) -> Path:
    """The pretrained model that every contender starts from."""
    names = {"image": "mobilenet_v2_1.0_224", "audio": "yamnet_mobilenet_v1"}
    return shared / "models" / names.get(kind, "minilm_l6_bert_fp16")


def provide(cell: Cell, seed: int, shared: Path, samples: Path, work: Path) -> Path:
    """The folder of the cell's rows, splits train and test, written where it is not there.

    Raises:
        FileNotFoundError: the source is not on this machine.
    """
    folder = work / "rows" / f"{cell.name}-{cell.test}-{seed}".replace(" ", "-")
    if folder.is_dir():
        return folder
    from datasets import DatasetDict

    if cell.kind == "question":
        splits = _questions(cell, seed, shared)
    else:
        train, test = _SOURCES[cell.source](shared, samples)
        if test is None:  # rows of both are drawn from one
            order = np.random.default_rng(seed).permutation(len(train))
            train, test = train.select(order[cell.test :]), train.select(order[: cell.test])
        splits = {"train": _chosen(train, cell.per_class, seed), "test": _sample(test, cell.test)}
    draft = folder.with_name(f".{folder.name}-{os.getpid()}")
    DatasetDict(splits).save_to_disk(str(draft))
    draft.rename(folder)
    return folder


def _chosen(rows: Any, per_class: int, seed: int) -> Any:
    """So many rows of each class, in random order."""
    rng, labels = np.random.default_rng(seed), np.array(rows["label"])
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    chosen = [rng.choice(each, min(per_class, len(each)), replace=False) for each in classes]
    return rows.select(rng.permutation(np.concatenate(chosen))).flatten_indices()


def _sample(rows: Any, count: int) -> Any:
    """Always the same rows, so that seeds differ in what is trained on alone."""
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return rows.select(order).flatten_indices()


def _table(path: Path) -> Any:
    from datasets import Dataset

    if not path.is_file():
        raise FileNotFoundError(path)
    return Dataset.from_parquet(str(path)) if path.suffix == ".parquet" else Dataset.from_csv(str(path))


def _labelled(rows: dict[str, list[Any]], names: list[str], kind: str) -> Any:
    """Columns of the kind's name and label, of classes."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    features = Features({kind: Image() if kind == "image" else Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict(rows, features=features)


def _texts(train: Path, test: Path) -> tuple[Any, Any]:
    tables = [_table(path) for path in (train, test)]
    names = sorted(map(str, set(tables[0]["label"])))
    return tuple(  # type: ignore[return-value]
        _labelled({"text": list(t["text"]), "label": [names.index(str(x)) for x in t["label"]]}, names, "text")
        for t in tables
    )


def _by_article(shared: Path, _: Path) -> tuple[Any, None]:
    """Which article a question is about: the twelve with the most."""
    import json
    from collections import Counter

    document = json.loads((shared / "data/squad_v2/train.json").read_text(encoding="utf-8"))
    asked = [
        (question["question"], article["title"])
        for article in document["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    names = [title for title, _ in Counter(title for _, title in asked).most_common(12)]
    kept = [(text, names.index(title)) for text, title in asked if title in names]
    return _labelled({"text": [text for text, _ in kept], "label": [label for _, label in kept]}, names, "text"), None


def _folders(train: Path, test: Path) -> tuple[Any, Any]:
    """Photos in folders, one a class."""
    if not train.is_dir():
        raise FileNotFoundError(train)
    names = sorted(folder.name for folder in train.iterdir() if folder.is_dir())
    found = []
    for split in (train, test):
        files = [(str(file), index) for index, name in enumerate(names) for file in sorted((split / name).iterdir())]
        found.append(_labelled({"image": [f for f, _ in files], "label": [i for _, i in files]}, names, "image"))
    return found[0], found[1]


def _cifar10(shared: Path, _: Path) -> tuple[Any, Any]:
    tables = [_table(shared / f"data/cifar10/{split}.parquet") for split in ("train", "test")]
    names = sorted(set(tables[0]["label"]))
    train, test = (
        _labelled({"image": list(t["image"]), "label": [names.index(x) for x in t["label"]]}, names, "image")
        for t in tables
    )
    return train, test


def _fashion(_: Path, __: Path) -> tuple[Any, Any]:
    from PIL import Image

    def read(split: str) -> Any:
        images, labels = (FASHION / f"{split}-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1"))
        pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
        known = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
        few = {"image": [Image.fromarray(each) for each in pixels[:5000]], "label": known[:5000].tolist()}
        return _labelled(few, list(FASHION_NAMES), "image")

    return read("train"), read("t10k")


def _spoken(shared: Path, _: Path) -> tuple[Any, Any]:
    """Spoken digits; speakers of the test are not among those to train."""

    def read(split: str) -> Any:
        files = sorted((shared / "data/fsdd" / split).rglob("*.wav"))
        if not files:
            raise FileNotFoundError(shared / "data/fsdd")
        labels = [int(file.name[0]) for file in files]
        return _labelled({"audio": list(map(str, files)), "label": labels}, list("0123456789"), "audio")

    return read("train"), read("test")


def _birds(shared: Path, _: Path) -> tuple[Any, None]:
    folder = shared / "data/birds/train_audio"
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    names = sorted(species.name for species in folder.iterdir())
    files = [(str(file), index) for index, name in enumerate(names) for file in sorted((folder / name).iterdir())]
    return _labelled({"audio": [f for f, _ in files], "label": [i for _, i in files]}, names, "audio"), None


def _questions(cell: Cell, seed: int, shared: Path) -> dict[str, Any]:
    from hftl.tasks import QuestionAnswering

    task = QuestionAnswering(str(shared / "data/squad_v2"), max_length=cell.size, doc_stride=64)
    splits = task.load_data(0, str(model_of("question", shared)), False, False)
    chosen = {"train": (splits.train, cell.per_class, seed), "test": (splits.validation, cell.test, 0)}
    chosen = {name: (rows.filter(_answered), count, of) for name, (rows, count, of) in chosen.items()}
    return {
        name: rows.shuffle(seed=of).select(range(count)).flatten_indices().remove_columns("row")
        for name, (rows, count, of) in chosen.items()
    }


def _answered(row: dict[str, Any]) -> bool:
    """SQuAD 2.0 has questions without an answer too: to give none to all would be half right."""
    return bool(row["answers"]["text"])


_SOURCES: dict[str, Callable[[Path, Path], tuple[Any, Any]]] = {
    "film reviews": lambda _, samples: _texts(
        samples / "data/movie-reviews/train.csv", samples / "data/movie-reviews/test.csv"
    ),
    "IMDb": lambda shared, _: _texts(shared / "data/imdb/train.parquet", shared / "data/imdb/validation.parquet"),
    "questions by article": _by_article,
    "CIFAR-10": _cifar10,
    "ants and bees": lambda shared, _: _folders(
        shared / "data/hymenoptera/train", shared / "data/hymenoptera/validation"
    ),
    "digits": lambda _, samples: _folders(samples / "data/digits/train", samples / "data/digits/test"),
    "Fashion-MNIST": _fashion,
    "spoken digits": _spoken,
    "birds": _birds,
}
