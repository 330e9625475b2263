"""Splits on their way to being trained on: which rows are still in, and what every task does with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hftl.data.checks import BadRow, settle, skip_notes
from hftl.data.kinds import Digests, Kind
from hftl.data.leaks import Leaks, Seen, find_leaks
from hftl.data.sampling import Ids, groups_of, stratified
from hftl.data.sources import Sources
from hftl.errors import HftlError


@dataclass(frozen=True)
class Part:
    """One split."""

    name: str
    data: Dataset
    """As in the source, the input column decoded no further than bytes or path."""
    columns: tuple[str, ...]
    """Those of the input."""
    kind: Kind
    keep: Ids
    """Rows that are still in."""
    digests: Digests | None = None
    """Of the inputs of all rows in ``data`` that are still in."""

    def name_of(self, row: int) -> str:
        """What to call a row in a message."""
        values = self.data.select_columns([*self.columns])[row]
        return self.kind.name_of(*(values[column] for column in self.columns))

    def seen(self) -> Seen:
        """The rows by what they show."""
        digests = np.zeros(0, dtype=np.uint64) if self.digests is None else self.digests[self.keep]
        return Seen(self.name, self.keep, digests, self.name_of)


P = TypeVar("P", bound=Part)


def with_rows(sources: Sources, notes: list[str]) -> Iterator[tuple[str, Dataset]]:
    """The splits that have any rows, by name; the others are left out with a note.

    Raises:
        HftlError: train has none.
    """
    for name, data in sources.splits.items():
        if len(data):
            yield name, data
        elif name == "train":
            raise HftlError("train: it has no rows; name data that has some")
        else:
            notes.append(f"{name}: left out, it has no rows")


def left(parts: Sequence[Part]) -> dict[str, int]:
    """How many rows of each split are still in."""
    return {part.name: len(part.keep) for part in parts}


def sampled(part: P, strata: Ids, size: int, seed: int, notes: list[str]) -> P:
    """At most ``size`` of the rows, those of each stratum in proportion; ``strata`` is of the rows that are in."""
    if len(strata) <= size:
        return part
    notes.append(f"{part.name}: {size:,} of {len(strata):,} rows (max-rows; stratified, seed {seed})")
    return replace(part, keep=part.keep[stratified(strata, size, seed)])


def with_digests(part: P) -> P:
    """The part with a digest of every row; what was looked at has one since then."""
    if part.kind.digests is None:
        return part
    digests = np.zeros(len(part.data), dtype=np.uint64)
    digests[part.keep] = part.kind.digests(part.data, part.columns, part.keep)
    return replace(part, digests=digests)


def without_leaks(parts: Sequence[P], choice: Leaks, notes: list[str]) -> tuple[P, list[BadRow]]:
    """Train, less its rows that another split has as well where they are to be dropped; what is dropped."""
    dropped, said = find_leaks(parts[0].seen(), [part.seen() for part in parts[1:]], choice)
    train = replace(parts[0], keep=np.setdiff1d(parts[0].keep, [row.row for row in dropped]))
    settle(left([train]), dropped, "skip")
    notes += [*said, *skip_notes(dropped)]
    return train, dropped


def cut_off(train: P, chosen: Ids) -> list[P]:
    """Train and validation, which gets the ``chosen`` of the rows that are in, by their places."""
    validation = replace(train, name="validation", keep=train.keep[chosen])
    return [replace(train, keep=np.delete(train.keep, chosen)), validation]


def cut_by_group(train: P, groups: NDArray[Any], fraction: float, seed: int, notes: list[str], what: str) -> list[P]:
    """Train and a validation split of whole groups, of which ``groups`` names that of each row that is in.

    Args:
        train: the rows.
        groups: the group of each row that is in, shape (rows,).
        fraction: about this share of the rows is cut off; 0, none of them.
        seed: which groups.
        notes: what is decided is added.
        what: a group, as messages call it.

    Raises:
        HftlError: there is only one group.
    """
    chosen = groups_of(groups, fraction, seed)
    if len(chosen) == len(groups) > 0:
        raise HftlError(f"train: all its rows are of one {what}, so no validation split can be cut; add others")
    if fraction:
        notes.append(
            f"validation: {len(chosen):,} of train's {len(groups):,} rows (there was none; no {what} is in both, "
            f"seed {seed})"
        )
    return cut_off(train, chosen)
