"""A folder as splits: data files named by split, or one sub-folder a class."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset, concatenate_datasets

from hftl.data.files import TABLE_EXTENSIONS, read_file
from hftl.data.kinds import Kind
from hftl.errors import HftlError, one_line

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
SHARD = re.compile(r"(\d+)-of-(\d+)")
Reader: TypeAlias = Callable[[list[Path], Kind], Any]
"""What makes a split of the data files that hold it."""
IGNORED = frozenset({"__macosx", "thumbs.db", "desktop.ini", "dataset_info.json", "dataset_infos.json"})


def read_shards(paths: list[Path], kind: Kind) -> Dataset:
    """The rows of files that belong together.

    Raises:
        HftlError: one cannot be read, or they have different columns.
    """
    parts = [read_file(path, kind) for path in paths]
    try:
        return concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    except ValueError as error:
        raise HftlError(f"{paths[0]} and the files after it have different columns: {one_line(error)}") from None


def read_folder(folder: Path, kind: Kind, read: Reader = read_shards) -> tuple[dict[str, Any], list[str]]:
    """Splits found in a folder, as ``read`` gives those that are data files, and notes on what was left out.

    Tried in this order: data files named by split; sub-folders named by split; all of it train. The rows of a folder
    are one sub-folder a class, or a data file (that may name images in sub-folders). Everything is read in sorted
    order, whatever the file system's.

    Raises:
        HftlError: nothing usable is there, or more than one reading of it.
    """
    files, folders = _tables_and_folders(folder)
    if by_split := _files_by_split(files):
        notes = [f"{path.name}: left out, it is not named by a split" for path in files if _split_of(path.stem) is None]
        notes += [note for split, paths in by_split.items() for note in _missing_shards(paths, split)]
        return {split: read(paths, kind) for split, paths in by_split.items()}, notes
    if split_folders := _split_folders(folders, kind):
        left_out = [path.name for path in folders if path not in split_folders]
        notes = [f"{name}/: left out, it is no split with class folders or a data file" for name in left_out]
        found: dict[str, Any] = {}
        for path, split in split_folders.items():
            found[split], more = _read_rows(path, kind, read)
            notes += more
        return found, notes
    if [path.name for path in folders] == ["data"] and not files:  # a clone of a Hub set
        return read_folder(folders[0], kind, read)
    rows, notes = _read_rows(folder, kind, read)
    return {"train": rows}, notes


def _read_rows(folder: Path, kind: Kind, read: Reader) -> tuple[Any, list[str]]:
    """All rows of a folder that has no splits in it."""
    files, folders = _tables_and_folders(folder)
    classes = [path for path in folders if any(_is_input(file, kind) for file in _walk(path))]
    if len(files) == 1 and (len(classes) < 2 or files[0].stem.lower() == "metadata"):
        return read(files, kind), []
    if classes:
        return _read_classes(folder, folders, kind)
    if files and _are_shards(files):
        return read(files, kind), _missing_shards(files, folder.name)
    raise _nothing_found(folder, files, folders, kind)


def _tables_and_folders(folder: Path) -> tuple[list[Path], list[Path]]:
    children = _visible(folder)
    files = [path for path in children if path.suffix.lower() in TABLE_EXTENSIONS and path.is_file()]
    return files, [path for path in children if path.is_dir()]


def _visible(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in IGNORED
    )


def _split_of(name: str) -> str | None:
    """The split that a file name speaks of: train-00000-of-00002, imdb_test."""
    found = {SPLIT_NAMES[token] for token in re.split(r"[^a-z]+", name.lower()) if token in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _files_by_split(files: list[Path]) -> dict[str, list[Path]]:
    by_split: dict[str, list[Path]] = {}
    for path in files:
        if (split := _split_of(path.stem)) is not None:
            by_split.setdefault(split, []).append(path)
    for split, paths in by_split.items():
        if not _are_shards(paths):
            names = ", ".join(path.name for path in paths)
            raise HftlError(f"{paths[0].parent}: more than one file for {split}: {names}; keep one, or name a file")
    return by_split


def _are_shards(paths: list[Path]) -> bool:
    """Whether the names differ in their numbers alone: train.csv beside train_clean.csv is a question, not a union.

    The Hub puts a number and a digest into each: train-00000-of-00002-6ab1f02c9d3e4f57.parquet.
    """
    return len({re.sub(r"\d+", "#", re.sub(r"(-of-\d+)-[0-9a-f]{16}\b", r"\1", path.name)) for path in paths}) == 1


def _missing_shards(paths: list[Path], split: str) -> list[str]:
    """A note where the names say that there should be more files."""
    numbers = {(int(found[1]), int(found[2])) for path in paths if (found := SHARD.search(path.name))}
    count = max((of for _, of in numbers), default=0)
    return [f"{split}: {len(numbers)} of its {count} files are there"] if len(numbers) < count else []


def _split_folders(folders: list[Path], kind: Kind) -> dict[Path, str]:
    """Sub-folders that are splits: named so, and holding classes or a data file rather than a class's own files."""
    found = {}
    for path in folders:
        if (split := SPLIT_NAMES.get(path.name.lower())) is not None:
            tables, inner = _tables_and_folders(path)
            if tables or (inner and not any(_is_input(child, kind) for child in _visible(path))):
                found[path] = split
    if "train" not in found.values() and len(found) < len(folders):
        if all(path.name.lower() in SPLIT_NAMES for path in folders):
            flat = ", ".join(path.name for path in folders if path not in found)
            raise HftlError(
                f"{folders[0].parent}: no class folders in {flat}; put {kind.files} into one sub-folder a class"
            )
        return {}  # a class may be called "test" or "dev"
    for split in set(found.values()):
        if len(twins := [path.name for path in found if found[path] == split]) > 1:
            raise HftlError(f"{folders[0].parent}: {' and '.join(twins)} are both {split}; keep one of them")
    return found


def _read_classes(folder: Path, classes: list[Path], kind: Kind) -> tuple[Dataset, list[str]]:
    """Rows of class folders, a class after the other, files sorted by their path."""
    if kind.check_folder is not None:
        kind.check_folder(folder, classes)
    inputs: list[str] = []
    labels: list[str] = []
    others: list[str] = []
    for path in classes:
        before = len(inputs)
        for file in _walk(path):
            (inputs if _is_input(file, kind) else others).append(str(file))
        if len(inputs) == before:
            raise HftlError(f"{path}: no {kind.files} in this class folder; fill it or remove it")
        labels += [path.name] * (len(inputs) - before)
    others += [str(path) for path in _visible(folder) if path.is_file()]
    notes = []
    if others:
        count = "1 file that is" if len(others) == 1 else f"{len(others):,} files that are"
        notes.append(f"{folder.name}: {count} no {kind.files} left out, {others[0]} first")
    if kind.read is not None:
        inputs = [kind.read(path) for path in inputs]
    return Dataset.from_dict({kind.role.name: inputs, "label": labels}), notes


def _walk(folder: Path) -> Iterator[Path]:
    """All visible files under a folder, depth first, sorted by name."""
    for path in _visible(folder):
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _is_input(path: Path, kind: Kind) -> bool:
    return path.suffix.lower() in kind.extensions


def _nothing_found(folder: Path, files: list[Path], folders: list[Path], kind: Kind) -> HftlError:
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:8])
        return HftlError(f"{folder}: which file is it? {names}; name one, or call them train, validation, test")
    if any(_is_input(path, kind) for path in _visible(folder)):
        return HftlError(f"{folder}: {kind.files} lie in it directly; put them into one sub-folder a class")
    if not kind.extensions:
        return HftlError(f"{folder}: no {', '.join(TABLE_EXTENSIONS)} file in it; name one, or a folder of such")
    names = ", ".join(path.name + os.sep for path in folders[:5])
    return HftlError(
        f"{folder}: no {kind.files} in sub-folders{f' ({names})' if names else ''} and no "
        f"{', '.join(TABLE_EXTENSIONS)} file; it needs one sub-folder a class, or data files named by split"
    )
