"""What recordings of calls have beside a label each: labels of what else is heard, and recordings without any call."""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value, concatenate_datasets

from hftl.audio.sounds import SOUND_EXTENSIONS, as_stored
from hftl.data.columns import item_of
from hftl.data.labels import Labels, LabelSets, quoted, read_labels
from hftl.errors import HftlError

PRIMARY, SECONDARY = "primary_label", "secondary_labels"
"""The columns of BirdCLEF and of other sets made of xeno-canto."""
BACKGROUND = "background"
VALIDATION_SHARE = 0.2
"""Of background recordings, where the data have a validation split of their own."""


@dataclass(frozen=True)
class Calls:
    """What to make of them."""

    secondary_column: str | None = None
    """Column of the further labels; unset, ``secondary_labels`` beside a label column ``primary_label``."""
    secondary_weight: float = 0.5
    """Their targets in training; 0: they are not even read."""
    background: str | None = None
    """A folder of recordings without any call."""
    unused: str | None = None
    """One that is there, and not asked for."""
    sets: bool = False
    """Whether rows have any number of labels even where nothing in the data says so."""

    def columns(self, dataset: Dataset, label_column: str | None) -> list[str]:
        """See ``Beside``."""
        found = self.find_secondary(dataset, label_column)
        return [found] if found else []

    def find_secondary(self, dataset: Dataset, label_column: str | None) -> str | None:
        """The column of the further labels; None where there is none.

        Raises:
            HftlError: the one named is not there.
        """
        named, there = self.secondary_column, dataset.features
        if named is not None and named not in there:
            raise HftlError(f"no column '{named}'; name one of {', '.join(there)} with --task.secondary-column")
        if not self.secondary_weight:
            return None
        return named or (SECONDARY if label_column == PRIMARY and SECONDARY in there else None)

    def added(
        self,
        rows: Mapping[str, Dataset],
        labels: Mapping[str, Labels],
        column: str,
        label_column: str | None,
        known: Collection[str] | None,
        seed: int,
        notes: list[str],
    ) -> dict[str, tuple[Dataset, Labels]]:
        """Rows and labels of each split with secondary labels and background; then rows have any number of labels.

        Args:
            rows: by split, train first.
            labels: likewise.
            column: that of the recordings.
            label_column: that of the labels, where there is one.
            known: the labels of a head that is kept.
            seed: of how background is shared out.
            notes: what is decided is added.
        """
        if self.unused is not None:
            notes.append(
                f"background: {self.unused} is not taken for recordings without any call; --task.background "
                f"{self.unused} makes them rows without a label"
            )
        try:
            secondary = self.find_secondary(rows["train"], label_column)
        except HftlError as error:
            raise HftlError(f"train: {error}") from None
        if not (secondary or self.background is not None or self.sets):
            return {split: (rows[split], labels[split]) for split in rows}
        sets = {split: each.as_sets() for split, each in labels.items()}
        if secondary:
            sets = add_secondary(sets, rows, secondary, self.secondary_weight, known, notes)
        if self.background is None:
            return {split: (rows[split], sets[split]) for split in rows}
        files = sound_files(self.background, "--task.background")
        notes.append(f"background: {len(files):,} recordings are rows without any label")
        # Of a folder of class folders the background may be one, and so be among the rows already.
        there = {split: _real_paths(data, column) for split, data in rows.items()}
        inside = {split: np.isin(there[split], files) for split in rows}
        if inside["train"].all():
            raise HftlError(
                f"--task.background {self.background}: all rows of train are in it, and would have no label; name "
                "the folder of recordings without calls"
            )
        shares = shared_out(sorted(set(files).difference(*there.values())), rows, seed)
        return {
            split: add_rows(data, column, sets[split].emptied(inside[split]), shares.get(split, []))
            for split, data in rows.items()
        }


def add_secondary(
    labels: Mapping[str, LabelSets],
    rows: Mapping[str, Dataset],
    column: str,
    weight: float,
    known: Collection[str] | None,
    notes: list[str],
) -> dict[str, LabelSets]:
    """The labels of each split (train first) with those of a column: labels like others, but as targets of ``weight``.

    Only those that some training row has as its primary label (or that are ``known``) are kept: of the others nobody
    asks, and few recordings would teach them.

    Args:
        labels: the primary ones, by split.
        rows: the splits.
        column: cells are lists, lists as Python or JSON write them, or labels between blanks or semicolons.
        weight: above 0, at most 1.
        known: the labels of a head that is kept.
        notes: what is decided is added.

    Raises:
        HftlError: a cell cannot be read; split and row are named.
    """
    kept = next(iter(labels.values())).used() if known is None else set(known)
    found, left_out = {}, set()
    for split, sets in labels.items():
        names = (*sets.names, *sorted(kept - set(sets.names)))
        has = sets.encode(names)
        more = np.zeros_like(has)
        if column in rows[split].features:
            secondary = _read(rows[split], column, kept, split)
            more = secondary.encode(names) & np.isin(names, [*kept]) & ~has
            left_out |= secondary.used() - kept
            notes.append(
                f"{split}: {more.any(axis=1).sum():,} rows have labels in '{column}' as well; in training such are "
                f"targets of {weight:g} (--task.secondary-weight)"
            )
        targets = None if weight == 1 else np.where(more, weight, has).astype(np.float32)
        found[split] = LabelSets(has | more, sets.missing, names, sets.ordered, targets)
    if left_out:
        whose = "no row of train has as its label" if known is None else "the model's head does not know"
        notes.append(f"{column}: left out {quoted(sorted(left_out))}, which {whose}")
    return found


def _read(dataset: Dataset, column: str, known: Collection[str], split: str) -> LabelSets:
    if item_of(dataset.features[column]) is None:
        cells = dataset.select_columns([column]).with_format(None)[:][column]
        lists = [_labels_in(cell, known, f"{split} row {row}: '{column}'") for row, cell in enumerate(cells)]
        dataset = Dataset.from_dict({column: lists}, features=Features({column: List(Value("string"))}))
    return read_labels(dataset, column).as_sets()


def _labels_in(cell: Any, known: Collection[str], place: str) -> list[str]:
    text = "" if cell is None else str(cell).strip()
    if text in known:  # it may have blanks in it
        return [text]
    if text.startswith("["):  # a Python or JSON list of strings or numbers: both are Python
        try:
            return [str(label).strip() for label in ast.literal_eval(text)]
        except (ValueError, SyntaxError):
            raise HftlError(
                f"{place} holds {text[:60]!r}, which is no list; write it as ['a', 'b'], or without brackets as a; b"
            ) from None
    separator = next((mark for mark in ";," if mark in text), None)
    return [label.strip() for label in text.split(separator)]


def background_beside(data: Any) -> str | None:
    """A folder called ``background``, with recordings, in the folder of the data or beside them."""
    path = Path(data).expanduser() if isinstance(data, str) else Path()
    if not isinstance(data, str) or not path.exists():
        return None
    beside = (folder / BACKGROUND for folder in (path, path.parent) if (folder / BACKGROUND).is_dir())
    return next((str(folder) for folder in beside if any(recordings_in(folder))), None)


def sound_files(folder: str, option: str) -> list[str]:
    """The recordings in a folder and the folders in it: their real paths, sorted.

    Raises:
        HftlError: there is none; the ``option`` that names the folder is named.
    """
    if not folder.strip():
        raise HftlError(f"{option}: it is blank; name a folder of recordings, or leave it out")
    files = sorted(map(os.path.realpath, recordings_in(Path(folder).expanduser())))
    if not files:
        raise HftlError(f"{option} {folder}: no sound files in it; name a folder of recordings")
    return files


def recordings_in(folder: Path) -> Iterator[Path]:
    """The sound files in a folder and the folders in it; not the hidden ones, which some systems put beside each."""
    return (
        file for file in folder.rglob("*") if file.suffix.lower() in SOUND_EXTENSIONS and not file.name.startswith(".")
    )


def shared_out(files: list[str], splits: Collection[str], seed: int) -> dict[str, list[str]]:
    """Background recordings by split, seeded: to train and validation, or all to train if validation is cut from it."""
    count = round(VALIDATION_SHARE * len(files)) if "validation" in splits else 0
    order = np.random.default_rng(seed).permutation(len(files))
    shares = {"validation": order[:count], "train": order[count:]}
    return {split: [files[place] for place in sorted(shares[split].tolist())] for split in shares if split in splits}


def _real_paths(dataset: Dataset, column: str) -> list[str]:
    """Of the recordings; blank where they are no files."""
    if not isinstance(dataset.features[column], Value):
        return [""] * len(dataset)
    return [os.path.realpath(path) if path else "" for path in dataset.select_columns([column])[:][column]]


def add_rows(dataset: Dataset, column: str, labels: LabelSets, files: list[str]) -> tuple[Dataset, Labels]:
    """The rows and their labels, and after them a row without any label for each of the files."""
    if not files:
        return dataset, labels
    feature = dataset.features[column]
    values = files if isinstance(feature, Value) else [as_stored(file) for file in files]
    # As a table: to make a column of Audio from Python values, ``datasets`` wants torchcodec.
    rows = Dataset(pa.table({column: values}, schema=Features({column: feature}).arrow_schema))
    targets = labels.targets
    return concatenate_datasets([dataset.select_columns([column]), rows]), replace(
        labels,
        has=np.pad(labels.has, ((0, len(files)), (0, 0))),
        missing=np.pad(labels.missing, (0, len(files))),
        targets=None if targets is None else np.pad(targets, ((0, len(files)), (0, 0))),
    )
