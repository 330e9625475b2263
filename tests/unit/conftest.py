"""Small data on disk, and nothing of the user's: no cache, no Hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from input_kinds import KINDS, wanted_of
from PIL import Image

from hftl.data import splits
from hftl.data.sources import Sources, load


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built copies of parquet files go to a folder of the test session."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets_cache")


@pytest.fixture
def make_images() -> Callable[..., None]:
    """Writes class folders: make_images(folder, ants=3, bees=2)."""

    def make(folder: Path, extension: str = ".png", **counts: int) -> None:
        rng = np.random.default_rng(0)
        for label, count in counts.items():
            (folder / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / label / f"{label}{number}{extension}")

    return make


@pytest.fixture
def prepare() -> Callable[..., splits.Splits]:
    """``prepare`` with its usual options; data may be anything that ``load`` takes."""

    def call(data: Any, kind: Any = "text", **options: Any) -> splits.Splits:
        place = str(data) if isinstance(data, Path) else data
        sources = data if isinstance(data, Sources) else load(place, kind=KINDS[kind])
        names = {field.name for field in dataclasses.fields(splits.Rules)}
        rules = {name: value for name, value in options.items() if name in names}
        wanted = wanted_of(kind, **{name: value for name, value in options.items() if name not in names})
        return splits.prepare(sources, wanted, splits.Rules(**rules))

    return call
