"""Looking at every row before training starts."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hftl.audio import sounds
from hftl.data.examined import Examined, digest64
from hftl.data.progress import progress
from hftl.data.sampling import Ids
from hftl.errors import HftlError
from hftl.image import reading

CHUNK = 256
"""Rows read at a time: their encoded bytes are in memory together."""
Media: TypeAlias = Literal["image", "audio"]
LOOKS: dict[Media, tuple[Callable[[Any], Examined], Callable[[Any], str], str]] = {
    "image": (reading.examine, reading.image_name, "images"),
    "audio": (sounds.examine, sounds.sound_name, "recordings"),
}
"""Of each kind of file: what looks at one, what to call it, and several."""
Digests: TypeAlias = NDArray[np.uint64]
"""64 bits for each row's input: equal where the input is the same (by chance once in 2^64 pairs of rows)."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used."""

    split: str
    row: int
    """Its number in the source split, from 0."""
    name: str
    """Its path, or the beginning of its text."""
    reason: str


def write_bad_rows(path: Path, rows: Iterable[BadRow]) -> None:
    """The list of rows as a csv file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(BadRow))
        writer.writerows(astuple(row) for row in rows)


def settle(left: Mapping[str, int], bad: Sequence[BadRow], choice: str) -> None:
    """Stop where bad rows are to be errors (``choice`` is "error"), or where none is ``left`` of a split.

    Args:
        left: how many rows of each split can be used, by its name.
        bad: the rows that cannot.
        choice: "skip" or "error".

    Raises:
        HftlError: the first bad row, or the first of the split that has nothing else.
    """
    if bad and choice == "error":
        more = f" (and {len(bad) - 1:,} more bad rows)" if len(bad) > 1 else ""
        raise HftlError(f"{_row(bad[0])}{more}; mend them, or skip them with --task.bad-rows skip")
    for split, rows in left.items():
        if not rows:
            first = next(row for row in bad if row.split == split)
            raise HftlError(
                f"{split}: none of its rows can be used; {_row(first).removeprefix(f'{split} ')}; mend the data, or "
                "name other columns"
            )


def _row(bad: BadRow) -> str:
    return f"{bad.split} row {bad.row}: {bad.name or '(blank)'}: {bad.reason}"


def skip_notes(bad: list[BadRow]) -> list[str]:
    """A line for each split that lost rows, with its first."""
    notes = []
    for split in dict.fromkeys(row.split for row in bad):
        rows = [row for row in bad if row.split == split]
        count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
        notes.append(f"{split}: {count} skipped; first {_row(rows[0]).removeprefix(f'{split} ')}")
    return notes


def examine(data: Dataset, column: str, rows: Ids, split: str, kind: Media) -> tuple[list[BadRow], list[Examined]]:
    """Those of the rows whose image or sound cannot be used, and what was found of each; a terminal shows a bar."""
    bad: list[BadRow] = []
    examined: list[Examined] = []
    look, name_of, plural = LOOKS[kind]
    inputs = data.select_columns([column])
    with progress(f"checking {split} {plural}", len(rows)) as advance, ThreadPoolExecutor(_threads()) as pool:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            values = inputs[chunk][column]
            for row, value, found in zip(chunk.tolist(), values, pool.map(look, values), strict=True):
                examined.append(found)
                if found.reason is not None:
                    bad.append(BadRow(split, row, name_of(value), found.reason))
            advance(len(chunk))
    return bad, examined


def text_digests(data: Dataset, columns: list[str], rows: Ids) -> Digests:
    """Digests of the texts in these rows, shape (rows,): the same where they differ in case or white space alone."""
    digests = np.zeros(len(rows), dtype=np.uint64)
    inputs = data.select_columns(columns)
    for start in range(0, len(rows), CHUNK):
        chunk = inputs[rows[start : start + CHUNK]]
        for place, texts in enumerate(zip(*(chunk[column] for column in columns), strict=True), start):
            plain = (" ".join(text.split()).casefold() for text in texts)
            digests[place] = digest64("\0".join(plain).encode("utf-8", "surrogatepass"))
    return digests


def _threads() -> int:
    return min(os.cpu_count() or 1, 16)
