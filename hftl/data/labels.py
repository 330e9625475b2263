"""Label columns as ids and names, in one order for all splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from hftl.data.sampling import Ids
from hftl.errors import HftlError

MISSING = -1


@dataclass(frozen=True)
class LabelColumn:
    """One split's labels: ``codes`` into ``names``, MISSING where there is none."""

    codes: Ids
    names: tuple[str, ...]
    ordered: bool
    """Whether the order of the names was given (a ClassLabel) rather than found."""

    def to_ids(self, labels: tuple[str, ...]) -> Ids:
        """Ids into ``labels``, shape [rows]; MISSING stays."""
        place = {name: number for number, name in enumerate(labels)}
        table = np.array([*(place.get(name, MISSING) for name in self.names), MISSING], dtype=np.int64)
        return table[self.codes]  # MISSING is -1: the last entry

    def used(self) -> set[str]:
        """Names that some row has."""
        return {self.names[code] for code in np.unique(self.codes) if code != MISSING}


def read_labels(dataset: Dataset, column: str) -> LabelColumn:
    """A column of strings, integers, booleans or class labels as codes and names.

    Strings stay exactly as they are; blank ones are missing, and so is -1 in a ClassLabel (a hidden label).

    Raises:
        HftlError: numbers with a fraction, or ids that the ClassLabel has no name for.
    """
    feature = dataset.features[column]
    values = dataset.with_format("arrow").select_columns([column])[:][column]
    if isinstance(feature, ClassLabel):
        codes = pc.fill_null(values, MISSING).to_numpy().astype(np.int64)
        if len(codes) and int(codes.max()) >= len(feature.names):
            raise HftlError(
                f"label column '{column}' holds {codes.max()}, but has only {len(feature.names)} names; mend the set"
            )
        return LabelColumn(np.maximum(codes, MISSING), tuple(feature.names), ordered=True)
    if pa.types.is_floating(values.type):
        values = _whole_numbers(values, column)
    if pa.types.is_null(values.type):
        values = values.cast(pa.string())
    encoded = pc.dictionary_encode(values).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no rows at all
        return LabelColumn(np.empty(0, dtype=np.int64), (), ordered=False)
    names = [str(value) for value in encoded.dictionary.to_pylist()]
    codes = pc.fill_null(encoded.indices, MISSING).to_numpy().astype(np.int64)
    blank = [code for code, name in enumerate(names) if not name.strip()]
    codes[np.isin(codes, blank)] = MISSING
    return LabelColumn(codes, tuple(names), ordered=False)


def order_labels(splits: Mapping[str, LabelColumn]) -> tuple[str, ...]:
    """All labels in their fixed order: a ClassLabel's own, else sorted (whole numbers by value).

    Raises:
        HftlError: two splits' ClassLabels have different names.
    """
    given = [(split, column.names) for split, column in splits.items() if column.ordered]
    for split, names in given[1:]:
        if set(names) != set(given[0][1]):
            odd = min(set(names) ^ set(given[0][1]))
            raise HftlError(
                f"{given[0][0]} and {split} declare different labels ('{odd}' in one only); give them the same"
            )
    first = given[0][1] if given else ()
    return (*first, *sort_names(set().union(*(column.used() for column in splits.values())) - set(first)))


def sort_names(names: Iterable[str]) -> list[str]:
    """Sorted by code point, or by value where all are whole numbers ("10" after "9")."""
    names = list(names)
    if all(name.isascii() and name.removeprefix("-").isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def check_labels(used: Mapping[str, set[str]], given: Iterable[str], lone: str, sampled: bool = False) -> list[str]:
    """Notes on labels that not every split has.

    Args:
        used: labels with rows, by split; train among them.
        given: splits that the user gave, apart from train.
        lone: "error" or "keep" labels that train alone has.
        sampled: whether the splits are samples, in which chance decides what labels there are.

    Raises:
        HftlError: a label that train lacks, or that train alone has (unless kept).
    """
    given = list(given)
    for split in given:
        if extra := sort_names(used[split] - used["train"]):
            mend = "raise --task.max-rows" if sampled else f"add such rows to train, or mend {split}"
            raise HftlError(f"{split} has {quoted(extra)}, which train lacks: {mend}")
    elsewhere = set().union(*(used[split] for split in given))
    if given and lone == "error" and not sampled and (alone := sort_names(used["train"] - elsewhere)):
        others = " and ".join(given)
        raise HftlError(
            f"train alone has {quoted(alone)}: add such rows to {others}, or accept it with --task.lone-labels keep"
        )
    missing = {split: sort_names(used["train"] - used[split]) for split in given}
    return [f"{split}: no row has {quoted(names)}" for split, names in missing.items() if names]


def quoted(names: list[str], limit: int = 3) -> str:
    """The first few names as a person reads them."""
    listed = ", ".join(repr(name) for name in names[:limit])
    rest = len(names) - limit
    return f"the label{'s' if len(names) > 1 else ''} {listed}" + (f" and {rest} more" if rest > 0 else "")


def _whole_numbers(values: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    """Floats that are whole numbers (as csv readers give integers beside gaps) as integers; NaN as missing."""
    numbers = values.to_numpy().astype(np.float64)
    there = np.isfinite(numbers)
    if (odd := numbers[there & (numbers != np.round(numbers))]).size:
        raise HftlError(
            f"label column '{column}' holds numbers such as {odd[0]:g}: that is something to predict as a number "
            "(regression), not classes; name a column of classes with --task.label-column"
        )
    return pa.chunked_array([pa.array(np.where(there, numbers, 0).astype(np.int64), mask=~there)])
