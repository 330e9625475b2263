"""Tiny models, data and the place of the shared folder, for all tests."""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image
from zoo import IMAGE, SOUND_RATE, WORDS, asked, auto_class, write_model

from hftl.audio.backend import mend_torchaudio

mend_torchaudio()  # before a test imports transformers, and that torchaudio
# Caches and feature stores of the tests are their own, and go when they end.
_home = tempfile.TemporaryDirectory(prefix="hftl-tests-", ignore_cleanup_errors=True)
os.environ["HF_HOME"] = _home.name
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run; no deadline, for no test asserts times.
hypothesis.settings.register_profile("hftl", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("hftl")

SHARED = Path(os.environ.get("HFTL_SHARED", Path(__file__).parents[2] / "shared"))

IMAGE_FAMILIES = ("vit", "resnet", "mobilenet_v1", "mobilenet_v2", "efficientnet")
TEXT_FAMILIES = ("bert", "distilbert", "roberta")
"""The families that most tests go through; ``test_walk.py`` walks all of the zoo."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the shared models and data where they are not."""
    if not (SHARED / "models").is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=f"needs the shared models and data, and {SHARED} has none"))


@pytest.fixture(scope="session", autouse=True)
def _quick_collections() -> None:
    """Every run collects garbage several times; what is imported by now will never be any."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared real models and data."""
    return SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny models with random weights, by family; written once, with their processors."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            write_model(family, made[family])
        return made[family]

    return make


@pytest.fixture(scope="session")
def load_tiny(tiny_model: Callable[[str], Path]) -> Callable[..., Any]:
    """Loads the tiny model of a family with a head for new labels, as a task does: what ``heads.load`` returns."""
    import torch

    from hftl.model import heads

    def load(
        family: str,
        labels: tuple[str, ...] = ("a", "b", "c"),
        *,
        folder: Path | None = None,
        seed: int = 0,
        keep_head: bool = False,
        head_dropout: float = 0.1,
    ) -> Any:
        source = str(folder or tiny_model(family))  # to write it may draw random numbers
        torch.manual_seed(seed)
        return heads.load(auto_class(family), source, labels, keep_head, head_dropout, False)

    return load


@pytest.fixture
def tiny_inputs() -> Callable[..., dict[str, Any]]:
    """Two random rows that the tiny model of a family takes."""
    import torch

    def make(family: str, rows: int = 2) -> dict[str, Any]:
        drawn = torch.Generator().manual_seed(0)
        if family in IMAGE:
            return {"pixel_values": torch.randn(rows, 3, 32, 32, generator=drawn)}
        ids = torch.randint(4, 20, (rows, 7), generator=drawn)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return make


@pytest.fixture
def one_line_error() -> Callable[..., Any]:
    """Checks that a block raises an HftlError of one line that has all the given words in it."""
    from hftl.errors import HftlError

    @contextmanager
    def check(*words: str) -> Iterator[None]:
        with pytest.raises(HftlError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        assert [word for word in words if word not in message] == [], message

    return check


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small photos of three classes that differ in colour: 24 to train, 9 to validate, 9 to test."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 3), ("test", 3)):
        for channel, label in enumerate(("red", "green", "blue")):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (40, 48, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short calls of three birds that differ in pitch: 18 to train, 9 to validate, 9 to test.

    Each lasts 0.2 to 0.3 s, but for one of those to validate, which lasts 0.9 s.
    """
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("torchaudio")
    root, rng = tmp_path_factory.mktemp("calls"), np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 3), ("test", 3)):
        for pitch, label in ((400, "owl"), (1200, "tit"), (2800, "wren")):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                long = (split, label, number) == ("validation", "tit", 1)
                times = np.arange(7200 if long else int(rng.integers(1600, 2400))) / SOUND_RATE
                wave = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.05 * rng.normal(size=len(times))
                soundfile.write(root / split / label / f"{number}.wav", wave, SOUND_RATE)
    return root


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv of 60 short texts of very different lengths; no validation split."""
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    rng = np.random.default_rng(0)
    lines = ["text,label"]
    for number in range(60):
        label = ("negative", "positive")[number % 2]
        chosen = rng.choice(WORDS.split()[6:], rng.integers(2, 40)).tolist()
        chosen.insert(
            int(rng.integers(0, len(chosen))), rng.choice(["good", "great"] if number % 2 else ["bad", "awful"])
        )
        lines.append(f"{' '.join(chosen)},{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of questions on random words: 24 to train, 12 to validate, a quarter without an answer."""
    folder = tmp_path_factory.mktemp("squad")
    for split, count, seed in (("train", 24, 0), ("validation", 12, 1)):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, asked(count, seed))))
    return folder
