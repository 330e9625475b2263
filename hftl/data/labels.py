"""Label columns as ids and names, in one order for all splits: one label a row, or any number of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import ClassLabel, Dataset, List, Value
from numpy.typing import NDArray
from torch.nn.functional import one_hot

from hftl.data.columns import is_label, item_of, type_name
from hftl.data.sampling import Hot, Ids, rarest
from hftl.errors import HftlError

MISSING = -1
FLAGS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}
HIDDEN_FLAGS = ("", "-1", "-1.0", "nan")
"""Of rows that say nothing about a label: blank, or -1 as in test sets whose labels are hidden."""


@dataclass(frozen=True)
class LabelColumn:
    """One split's labels, one a row: ``codes`` into ``names``, MISSING where there is none."""

    codes: Ids
    names: tuple[str, ...]
    ordered: bool
    """Whether the order of the names was given (a ClassLabel) rather than found."""

    @property
    def missing(self) -> Hot:
        """Which rows say nothing, shape [rows]."""
        return np.asarray(self.codes == MISSING)

    def take(self, rows: Ids) -> LabelColumn:
        """These rows alone."""
        return replace(self, codes=self.codes[rows])

    def without(self, rows: Hot) -> LabelColumn:
        """The same with nothing said where ``rows``, shape [rows], is true."""
        return replace(self, codes=np.where(rows, MISSING, self.codes))

    def used(self) -> set[str]:
        """Names that some row has."""
        return {self.names[code] for code in np.unique(self.codes) if code != MISSING}

    def encode(self, labels: tuple[str, ...]) -> Ids:
        """Ids into ``labels``, shape [rows]; MISSING stays."""
        table = np.array([*_places(self.names, labels), MISSING], dtype=np.int64)
        return table[self.codes]  # MISSING is -1: the last entry

    strata = encode
    """What samples keep in proportion, shape [rows]."""

    def as_sets(self) -> LabelSets:
        """The same as sets of one label each."""
        has = np.zeros((len(self.codes), len(self.names)), dtype=bool)
        there = np.flatnonzero(~self.missing)
        has[there, self.codes[there]] = True
        return LabelSets(has, self.missing, self.names, self.ordered)


@dataclass(frozen=True)
class LabelSets:
    """One split's labels, any number a row (none is an answer, too): a byte for each row and name."""

    has: Hot
    """Which row has which of ``names``, shape [rows, names]."""
    missing: Hot
    """Which rows say nothing, not even that they have none; shape [rows]."""
    names: tuple[str, ...]
    ordered: bool
    """Whether the order of the names was given rather than found."""
    targets: NDArray[np.float32] | None = None
    """What training wants of each, from 0 to 1, of the shape of ``has``; None: 1 where a row has it."""

    def take(self, rows: Ids) -> LabelSets:
        """These rows alone."""
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, has=self.has[rows], missing=self.missing[rows], targets=targets)

    def without(self, rows: Hot) -> LabelSets:
        """The same with nothing said where ``rows``, shape [rows], is true."""
        return replace(self, missing=self.missing | rows)

    def used(self) -> set[str]:
        """Names that some row has."""
        return {self.names[code] for code in np.flatnonzero(self.has[~self.missing].any(axis=0))}

    def encode(self, labels: tuple[str, ...]) -> Hot:
        """Multi-hot over ``labels``, shape [rows, labels]."""
        return self._over(labels, self.has)

    def soft(self, labels: tuple[str, ...]) -> NDArray[np.float32] | None:
        """The targets over ``labels``, shape [rows, labels]."""
        return None if self.targets is None else self._over(labels, self.targets)

    def _over(self, labels: tuple[str, ...], values: NDArray[Any]) -> NDArray[Any]:
        places = _places(self.names, labels)
        there = [code for code, place in enumerate(places) if place != MISSING]
        found = np.zeros((len(values), len(labels)), dtype=values.dtype)
        found[:, [places[code] for code in there]] = values[:, there]
        return found

    def as_sets(self) -> LabelSets:
        """Itself."""
        return self

    def emptied(self, rows: Hot) -> LabelSets:
        """The same with no label where ``rows``, shape [rows], is true."""
        without = ~rows[:, None]
        targets = None if self.targets is None else self.targets * without
        return replace(self, has=self.has & without, missing=self.missing & ~rows, targets=targets)

    def strata(self, labels: tuple[str, ...]) -> Ids:
        """What samples keep in proportion: the rarest label of each row, see ``rarest``; shape [rows]."""
        return rarest(self.encode(labels))


Labels: TypeAlias = LabelColumn | LabelSets


def _places(names: tuple[str, ...], labels: tuple[str, ...]) -> list[int]:
    place = {name: number for number, name in enumerate(labels)}
    return [place.get(name, MISSING) for name in names]


def read_labels(dataset: Dataset, column: str, separator: str | None = None) -> Labels:
    """A column of strings, integers, booleans or class labels, or of lists of them, as codes and names.

    Strings stay exactly as they are; blank ones are missing, and so is -1 in a ClassLabel (a hidden label). An empty
    list is a row without any label, null a row that says nothing.

    Args:
        dataset: one split.
        column: its labels.
        separator: what stands between the labels of a cell; then blanks around each do not count, and a blank cell
            is a row without any label.

    Raises:
        HftlError: numbers with a fraction, ids that the ClassLabel has no name for, multi-hot lists, or cells that
            cannot be split.
    """
    feature, values = dataset.features[column], _values(dataset, column)
    if separator is not None:
        feature, values = List(Value("string")), _split(values, separator, column, type_name(feature))
    if (item := item_of(feature)) is None:
        return _read_column(values, feature, column)
    flat = pc.list_flatten(values)
    items = _read_column(flat if separator is None else pc.utf8_trim_whitespace(flat), item, column)
    there = items.codes != MISSING
    has = np.zeros((len(values), len(items.names)), dtype=bool)
    has[pc.list_parent_indices(values).to_numpy()[there], items.codes[there]] = True
    if has.sum() < there.sum() and {name.lower() for name in items.used()} <= FLAGS.keys():
        raise HftlError(
            f"label column '{column}' holds lists of 0 and 1 (multi-hot): the labels have no names; give lists of the "
            "labels' names, or a column of 0 and 1 for each with --task.label-columns"
        )
    return LabelSets(has, values.is_null().to_numpy(), items.names, items.ordered)


def read_flags(dataset: Dataset, columns: Sequence[str]) -> LabelSets:
    """Columns of 0 and 1 (or false and true), one for each label and named like it, in the order given.

    A row with a blank, a null or a -1 among them says nothing: what is hidden in test sets looks like this.

    Raises:
        HftlError: another value; column and row are named.
    """
    flags = np.stack([_read_flags(dataset, column) for column in columns], axis=1)
    return LabelSets(flags == 1, (flags == MISSING).any(axis=1), tuple(columns), ordered=True)


def read_targets(dataset: Dataset) -> NDArray[Any]:
    """The ``label`` column of a split: ids, shape [rows], or multi-hot, bool of shape [rows, labels]."""
    values = np.asarray(dataset.select_columns(["label"]).with_format("numpy")[:]["label"])
    feature = dataset.features["label"]
    return values if item_of(feature) is None else values.reshape(len(dataset), feature.length)


def order_labels(splits: Mapping[str, Labels]) -> tuple[str, ...]:
    """All labels in their fixed order: the one given (a ClassLabel's), else sorted (whole numbers by value).

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


def _values(dataset: Dataset, column: str) -> pa.ChunkedArray:
    return dataset.with_format("arrow").select_columns([column])[:][column]


def _read_column(values: pa.ChunkedArray, feature: Any, column: str) -> LabelColumn:
    """Single labels, their blank ones missing."""
    if isinstance(feature, ClassLabel):
        codes = pc.fill_null(values, MISSING).to_numpy().astype(np.int64)
        if len(codes) and int(codes.max()) >= len(feature.names):
            raise HftlError(
                f"label column '{column}' holds {codes.max()}, but has only {len(feature.names)} names; mend the set"
            )
        return LabelColumn(np.maximum(codes, MISSING), tuple(feature.names), ordered=True)
    if pa.types.is_floating(values.type):
        values = _whole_numbers(values, column)
    codes, found = _encoded(values)
    names = tuple(map(str, found))
    codes[np.isin(codes, [code for code, name in enumerate(names) if not name.strip()])] = MISSING
    return LabelColumn(codes, names, ordered=False)


def _read_flags(dataset: Dataset, column: str) -> Ids:
    """1, 0 or MISSING, shape [rows]."""
    if not is_label(dataset.features[column]):
        raise HftlError(
            f"label column '{column}' is {type_name(dataset.features[column])}; each of --task.label-columns has to "
            "say 0 or 1, or false or true"
        )
    codes, found = _encoded(_values(dataset, column))
    meant = np.full(len(found) + 1, MISSING, dtype=np.int64)
    for code, value in enumerate(found):
        text = str(value).strip().lower()
        if text not in FLAGS and text not in HIDDEN_FLAGS:
            row = int(np.flatnonzero(codes == code)[0])
            raise HftlError(
                f"label column '{column}' holds {value!r} in row {row}; each of --task.label-columns has to say 0 or "
                "1, or false or true"
            )
        meant[code] = FLAGS.get(text, MISSING)
    return meant[codes]  # MISSING is -1: the last entry


def _encoded(values: pa.ChunkedArray) -> tuple[Ids, list[Any]]:
    """Codes into the different values, MISSING where null; and these values."""
    if pa.types.is_null(values.type):
        values = values.cast(pa.string())
    encoded = pc.dictionary_encode(values).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no rows at all
        return np.empty(0, dtype=np.int64), []
    return pc.fill_null(encoded.indices, MISSING).to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _split(values: pa.ChunkedArray, separator: str, column: str, kind: str) -> pa.ChunkedArray:
    """The labels of each cell as a list of strings; blank ones stay for the reading to leave out."""
    types = pa.types
    if not any(is_kind(values.type) for is_kind in (types.is_string, types.is_large_string, types.is_integer)):
        raise HftlError(
            f"label column '{column}' is {kind}: --task.label-separator splits text alone; leave it out, or name "
            "another column"
        )
    return pc.split_pattern(pc.fill_null(values.cast(pa.large_string()), ""), separator)


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


# -- in batches ------------------------------------------------------------------------------------------------------


def targets_of(rows: dict[str, Any]) -> torch.Tensor | None:
    """What the loss compares with: ids, int64 of shape (rows,), or float of shape (rows, labels).

    Of rows with any number of labels, multi-hot; or the targets in ``soft``, where some labels count less.
    """
    if "label" not in rows:
        return None
    targets = torch.tensor(rows.get("soft", rows["label"]))
    return targets if targets.ndim == 1 else targets.float()


def shares_of(rows: dict[str, Any], dataset: Dataset) -> torch.Tensor:
    """Targets of training rows as float32 of shape (rows, labels): zeros, and a one for each label of the row."""
    targets = targets_of(rows)
    assert targets is not None  # training rows have them
    return (one_hot(targets, dataset.features["label"].num_classes) if targets.ndim == 1 else targets).float()
