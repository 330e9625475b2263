"""The same input twice: in train and in a split that is to judge it, or in train with different labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hftl.data.checks import BadRow
from hftl.data.kinds import Digests
from hftl.data.sampling import Ids
from hftl.errors import HftlError

Leaks: TypeAlias = Literal["note", "drop", "error"]


@dataclass(frozen=True)
class Seen:
    """The rows of one split, by what they show."""

    split: str
    rows: Ids
    """Their numbers in the source, shape (rows,)."""
    digests: Digests
    """Of their inputs, shape (rows,)."""
    name_of: Callable[[int], str]
    """What to call the row of a number."""


def find_leaks(train: Seen, others: Sequence[Seen], choice: Leaks) -> tuple[list[BadRow], list[str]]:
    """Rows of train that another split has as well: those to drop, or notes that count them and name the first.

    Raises:
        HftlError: there are some, and they are to be an error.
    """
    dropped: dict[int, BadRow] = {}
    notes = []
    for other in others:
        leaked = train.rows[np.isin(train.digests, other.digests)]
        twins = np.flatnonzero(np.isin(other.digests, train.digests))
        if not len(twins):
            continue
        if choice == "drop":
            found = (BadRow(train.split, row, train.name_of(row), f"also in {other.split}") for row in leaked.tolist())
            dropped = {**{row.row: row for row in found}, **dropped}
            continue
        first, count = int(twins[0]), len(twins)
        row, twin = int(other.rows[first]), int(train.rows[np.argmax(train.digests == other.digests[first])])
        counted = "1 row is" if count == 1 else f"{count:,} rows are"
        said = (
            f"{other.split}: {counted} also in {train.split}; first: row {row} = {train.split} row {twin}: "
            f"{other.name_of(row)!r}; --task.leaks drop takes such rows out of {train.split}"
        )
        if choice == "error":
            raise HftlError(said)
        notes.append(said)
    return sorted(dropped.values(), key=lambda bad: bad.row), notes


def find_contradictions(train: Seen, labels: NDArray[Any], label_of: Callable[[int], str]) -> list[str]:
    """A note where rows have the same input and different labels.

    Args:
        train: the rows.
        labels: of each row, shape (rows,), or (rows, labels) where a row has any number of them.
        label_of: what to call the label of the row of a number.
    """
    _, first, group = np.unique(train.digests, return_index=True, return_inverse=True)
    earlier = first[group]
    odd = np.flatnonzero((labels != labels[earlier]).reshape(len(labels), -1).any(axis=1))
    if not len(odd):
        return []
    row, twin = int(train.rows[odd[0]]), int(train.rows[earlier[odd[0]]])
    count = "1 row has" if len(odd) == 1 else f"{len(odd):,} rows have"
    return [
        f"{train.split}: {count} the input of an earlier row, but another label; first: row {row} is "
        f"{label_of(row)!r}, row {twin} is {label_of(twin)!r}: {train.name_of(twin)!r}"
    ]
