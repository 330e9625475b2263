"""Small data on disk, and nothing of the user's: no cache, no Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
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
        usual: dict[str, Any] = {
            "input_column": None,
            "label_column": None,
            "max_rows": None,
            "validation_fraction": 0.2,
            "bad_rows": "skip",
            "lone_labels": "error",
            "known_labels": None,
            "seed": 0,
        }
        sources = (
            data if isinstance(data, Sources) else load(data if not isinstance(data, Path) else str(data), kind=kind)
        )
        return splits.prepare(sources, kind=kind, **{**usual, **options})

    return call
