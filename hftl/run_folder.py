"""The run folder: what lies where in it, and who may write there."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hftl.data.files import TABLE_EXTENSIONS
from hftl.errors import HftlError
from hftl.recipe.recipe import Recipe
from hftl.records import EvaluationProgress, FeaturesProgress, Record, StepTaken, as_plain

PACKAGES = ("hftl", "torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "numpy", "pillow")


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Everything that is known of a run lies in here."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions, platform, device."""
        return self.path / "environment.json"

    @property
    def history(self) -> Path:
        """One record a line."""
        return self.path / "history.jsonl"

    @property
    def metrics(self) -> Path:
        """The scores of the saved model and of each phase."""
        return self.path / "metrics.json"

    @property
    def bad_rows(self) -> Path:
        """The rows that were skipped, and why; absent where none was."""
        return self.path / "bad_rows.csv"

    @property
    def views(self) -> Path:
        """A picture of some training rows as the model gets them; absent where there is no such, or no augmentation."""
        return self.path / "views.png"

    @property
    def checkpoints(self) -> Path:
        """What a killed run goes on from; removed when the run ends."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """An ordinary ``save_pretrained`` folder."""
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        """An ordinary peft folder: what a run that ended in adapters leaves instead of ``model/``."""
        return self.path / "adapter"

    @property
    def result(self) -> Path | None:
        """What the run has left of these two; None before it has ended."""
        return next((folder for folder in (self.model, self.adapter) if folder.is_dir()), None)

    def log(self, record: Record) -> None:
        """Append the record to the history; progress that repeats many times a second is left out."""
        if isinstance(record, EvaluationProgress | FeaturesProgress) or (
            isinstance(record, StepTaken) and record.loss is None
        ):
            return
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(as_plain(record), ensure_ascii=False) + "\n")


def choose(recipe: Recipe[Any]) -> Path:
    """Where the run goes: ``output_dir``, or the first free ``runs/<data>-<model>-<n>``.

    Raises:
        HftlError: the folder is there and not empty, or is a file.
    """
    if recipe.output_dir is None:
        data = recipe.task.data if isinstance(recipe.task.data, str) else "data"
        stem = f"{_slug(data)}-{_slug(recipe.model)}"
        number = 0
        while (path := Path("runs") / f"{stem}-{number}").exists():
            number += 1
        return path
    path = Path(recipe.output_dir).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise HftlError(f"--output-dir {path}: it is there and not empty; name another, or remove it first")
    return path


def create(path: Path) -> RunFolder:
    """Make the folder.

    Raises:
        HftlError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "history.jsonl").touch()
    except OSError as error:
        raise HftlError(f"--output-dir {path}: {error.strerror}; name a folder that can be written to") from None
    return RunFolder(path)


def environment(device: str, precision: str) -> dict[str, str]:
    """What the run was computed with, as flat text."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "precision": precision,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **versions,
    }


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: under another name first, then renamed."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _slug(name: str) -> str:
    path = Path(name).expanduser()
    stem = path.stem if path.suffix in TABLE_EXTENSIONS else path.name
    return re.sub(r"[^\w.-]+", "-", stem or "data")
