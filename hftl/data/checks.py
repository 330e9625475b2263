"""Looking at every image before training starts."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from datasets import Dataset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hftl.data.images import image_name, why_unreadable
from hftl.data.sampling import Ids
from hftl.quiet import on_terminal

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


def skip_notes(bad: list[BadRow]) -> list[str]:
    """A line for each split that lost rows, with its first."""
    notes = []
    for split in dict.fromkeys(row.split for row in bad):
        rows = [row for row in bad if row.split == split]
        count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
        notes.append(
            f"{split}: {count} skipped; first row {rows[0].row}: {rows[0].name or '(blank)'}: {rows[0].reason}"
        )
    return notes


def unreadable_images(data: Dataset, column: str, rows: Ids, split: str) -> list[BadRow]:
    """The rows whose image cannot be decoded; a progress bar shows on a terminal alone."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bad = []
    inputs = data.select_columns([column])
    with (
        Progress(*columns, console=console, transient=True, disable=not on_terminal()) as progress,
        ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool,
    ):
        bar = progress.add_task(f"checking {split} images", total=len(rows))
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            values = inputs[chunk][column]
            reasons = pool.map(why_unreadable, values)
            bad += [
                BadRow(split, int(row), image_name(value), reason)
                for row, value, reason in zip(chunk, values, reasons, strict=True)
                if reason is not None
            ]
            progress.advance(bar, len(chunk))
    return bad
