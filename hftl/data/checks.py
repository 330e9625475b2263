"""Looking at every row before training starts."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from datasets import Dataset

from hftl.data.kinds import Examined, Kind
from hftl.data.progress import progress
from hftl.data.sampling import Ids
from hftl.errors import HftlError

CHUNK = 256
"""Rows read at a time: their encoded bytes are in memory together."""


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


def examine(data: Dataset, column: str, rows: Ids, split: str, kind: Kind) -> tuple[list[BadRow], list[Examined]]:
    """Those of the rows whose input cannot be used, and what was found of each; a terminal shows a bar."""
    bad: list[BadRow] = []
    examined: list[Examined] = []
    assert kind.examine is not None, "asked of kinds that are looked at"
    inputs = data.select_columns([column])
    with progress(f"checking {split} {kind.rows}", len(rows)) as advance, ThreadPoolExecutor(_threads()) as pool:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            values = inputs[chunk][column]
            for row, value, found in zip(chunk.tolist(), values, pool.map(kind.examine, values), strict=True):
                examined.append(found)
                if found.reason is not None:
                    bad.append(BadRow(split, row, kind.name_of(value), found.reason))
            advance(len(chunk))
    return bad, examined


def _threads() -> int:
    return min(os.cpu_count() or 1, 16)
