"""Sources to splits of one shape: columns found, labels checked, bad rows out, validation cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, List, Value
from numpy.typing import NDArray

from hftl.data.checks import BadRow, examine, settle, skip_notes, write_bad_rows
from hftl.data.columns import LABEL, find_column, undecoded
from hftl.data.kinds import Role
from hftl.data.labels import Labels, LabelSets, check_labels, order_labels, quoted, read_flags, read_labels
from hftl.data.leaks import Leaks, find_contradictions
from hftl.data.parts import Part, cut_off, left, sampled, with_digests, with_rows, without_leaks
from hftl.data.sampling import Ids, spare, stratified
from hftl.data.sources import Sources
from hftl.data.wanted import Labelling, Wanted
from hftl.errors import HftlError
from hftl.quiet import quiet_datasets

__all__ = ["BadRow", "Rules", "Splits", "prepare", "stratified", "write_bad_rows"]

T = TypeVar("T")


@dataclass(frozen=True)
class Splits:
    """Checked data, ready to train on.

    Columns: the input, named by its role (and ``pair``, where each row has two; and ``seconds``, where it lasts);
    label; row (its number in the source). ``label`` is a ClassLabel, or where rows have any number of labels multi-hot
    lists as long as ``labels`` (of bool); where training wants less of some labels, ``soft`` has its targets (of
    float32).
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    labels: tuple[str, ...]
    """Names by id."""
    bad_rows: tuple[BadRow, ...]
    """What was skipped."""
    notes: tuple[str, ...]
    """What was decided, a line each."""
    cut: bool = False
    """Whether the validation rows were taken from train, as the data have no such split."""

    def named(self) -> dict[str, Dataset]:
        """The splits that are there."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}

    def of(self, name: str) -> Dataset:
        """The split of that name.

        Raises:
            HftlError: there is none.
        """
        there = self.named()
        if name not in there:
            raise HftlError(f"--split {name}: the data have no such split; there are {', '.join(there)}")
        return there[name]


@dataclass(frozen=True)
class Rules:
    """What to do with rows and labels that are not as they should be."""

    validation_fraction: float = 0.2
    """Share of train that becomes validation where there is none; 0, none of it."""
    bad_rows: Literal["skip", "error"] = "skip"
    """Rows that cannot be read or have no label: skipped and listed, or an error."""
    lone_labels: Literal["error", "keep"] = "error"
    """A label that train alone has, although there are other splits."""
    known_labels: tuple[str, ...] | None = None
    """The order of a head that is kept; the data's labels must be among them."""
    leaks: Leaks | None = None
    """Rows of train that another split has as well; None, not even looked for."""


@dataclass(frozen=True, kw_only=True)
class _Labelled(Part):
    """A split whose rows have labels."""

    labels: Labels
    """Of all rows in ``data``."""
    seconds: NDArray[np.float64] | None = None
    """How long each of the rows lasts that are still in."""

    def names_kept(self) -> set[str]:
        return self.labels.take(self.keep).used()

    def strata(self, labels: tuple[str, ...]) -> Ids:
        return self.labels.take(self.keep).strata(labels)


def prepare(sources: Sources, wanted: Wanted, rules: Rules) -> Splits:
    """Splits of one shape from sources of any.

    Args:
        sources: what ``load`` gave.
        wanted: which columns and rows.
        rules: what to do with those that are not as they should be.

    Raises:
        HftlError: anything that the user has to decide or mend, named.
    """
    notes, known = list(sources.notes), rules.known_labels
    parts, label_column = _read_parts(sources, wanted, notes)
    if wanted.beside is not None:
        parts = _with_beside(parts, wanted, label_column, known, notes)
    bad = []
    for number, part in enumerate(parts):
        parts[number], found = _without_blanks(part)
        bad += found
    settle(left(parts), bad, rules.bad_rows)
    labels = _all_labels(parts, known, notes)
    given = [part.name for part in parts[1:]]
    notes += _checked(parts, given, rules.lone_labels, known, sources.sampled)

    if wanted.max_rows is not None:
        parts = [_sampled(part, labels, wanted.max_rows, wanted.seed, notes) for part in parts]
    if wanted.kind.examine is not None:
        unreadable = []
        for number, part in enumerate(parts):
            parts[number], found = _without_unreadable(part)
            unreadable += found
        settle(left(parts), unreadable, rules.bad_rows)
        bad += unreadable
        # Skipping may have taken a label's last row from train; a sample need not have every label elsewhere.
        _checked(parts, given, "keep", known, sources.sampled)
    notes += skip_notes(bad)
    if rules.leaks is not None:
        parts = [with_digests(part) for part in parts]
        parts[0], leaked = without_leaks(parts, rules.leaks, notes)
        bad += leaked
        _checked(parts, given, "keep", known, sources.sampled)
        notes += _contradictions(parts[0])
    if known is None and (unused := [name for name in labels if not any(name in p.names_kept() for p in parts)]):
        notes.append(f"labels: no row has {quoted(unused)}; the head gets an output all the same")

    if "validation" not in given:
        parts[:1] = _cut(parts[0], labels, rules.validation_fraction, wanted.seed, notes)
        if rules.leaks is not None:
            parts[0], leaked = without_leaks(parts[:2], rules.leaks, notes)
            bad += leaked
            _checked(parts, given, "keep", known, sources.sampled)
    if isinstance(parts[0].labels, LabelSets):
        notes.append(_on_sets(parts[0].labels.take(parts[0].keep)))
    with quiet_datasets():
        done = {part.name: _finished(part, labels) for part in parts}
    cut = "validation" not in given and rules.validation_fraction > 0
    return Splits(done["train"], done["validation"], done.get("test"), labels, tuple(bad), tuple(notes), cut)


# -- columns ---------------------------------------------------------------------------------------------------------


def _read_parts(sources: Sources, wanted: Wanted, notes: list[str]) -> tuple[list[_Labelled], str | None]:
    """Each split with its columns found (train's hold for all) and its labels read, train first; the label column."""
    train = sources.splits["train"]
    inputs, label_column = _found_columns(train, wanted, notes)
    labelling = replace(wanted.labelling, column=label_column)
    targets = labelling.columns or (str(label_column),)
    parts: list[_Labelled] = []
    for name, data in with_rows(sources, notes):
        if name == "test" and targets[0] not in data.features:
            notes.append(f"test: left out, it has no label column '{targets[0]}'")
            continue
        for column in (*inputs, *targets):
            if column not in data.features:
                raise HftlError(f"{name}: it has no column '{column}', which train has; give it the same columns")
        for column, role in inputs.items():
            _of_split(name, find_column, data, role, column, ())
        labels = _of_split(name, _read_labels, data, labelling, [*inputs])
        if parts and type(labels) is not type(parts[0].labels):
            lists, single = (name, "train") if isinstance(labels, LabelSets) else ("train", name)
            raise HftlError(
                f"{name}: '{label_column}' holds lists in {lists} and one label a row in {single}; make both lists"
            )
        if name == "test" and not labels.used():
            notes.append("test: left out, its labels are hidden (no row has one; -1 counts as none)")
            continue
        first, role = next(iter(inputs.items()))
        data = undecoded(data.with_format(None), first, role)
        parts.append(_Labelled(name, data, (*inputs,), wanted.kind, np.arange(len(data)), labels=labels))
    if wanted.kind.check_rows is not None:
        wanted.kind.check_rows({part.name: part.data for part in parts}, parts[0].columns[0])
    return parts, label_column


def _found_columns(train: Dataset, wanted: Wanted, notes: list[str]) -> tuple[dict[str, Role], str | None]:
    """The input columns and their roles, and the label column, where there is one; what was guessed is noted."""
    inputs: dict[str, Role] = _of_split("train", wanted.inputs, train)
    label_column, guessed = wanted.labelling.column, dict[str, Role]()
    if len(inputs) == 1:
        guessed = dict(inputs)
    elif wanted.named[-1] is None:
        (first, role), second = next(iter(inputs.items())), [*inputs][-1]
        notes.append(
            f"columns: each row is the pair of '{first}' and '{second}'; --task.{role.name}-column names a single "
            f"{role.name}"
        )
    if strange := [column for column in wanted.labelling.columns if column not in train.features]:
        there = ", ".join(train.features)
        raise HftlError(f"train: no column '{strange[0]}'; name some of {there} with --task.label-columns")
    if not wanted.labelling.columns:
        label_column = _of_split("train", find_column, train, LABEL, label_column, [*inputs])
        guessed[label_column] = LABEL
    named = {*wanted.named, wanted.labelling.column}
    for column, role in guessed.items():
        if column not in named and column.strip().lower() not in role.usual_names:
            notes.append(
                f"columns: '{column}' is taken for the {role.name}, by its type; --task.{role.name}-column names "
                "another"
            )
    return inputs, label_column


def _read_labels(data: Dataset, labelling: Labelling, inputs: Collection[str]) -> Labels:
    if labelling.columns:
        return read_flags(data, labelling.columns)
    column = find_column(data, LABEL, labelling.column, inputs)
    return read_labels(data, column, labelling.separator)


def _of_split(split: str, function: Callable[..., T], *arguments: Any) -> T:
    """What the function gives; its errors say which split they are about."""
    try:
        return function(*arguments)
    except HftlError as error:
        raise HftlError(f"{split}: {error}") from None


def _with_beside(
    parts: list[_Labelled],
    wanted: Wanted,
    label_column: str | None,
    known: tuple[str, ...] | None,
    notes: list[str],
) -> list[_Labelled]:
    """The parts with what their rows have beside a label each."""
    assert wanted.beside is not None
    rows, labels = {part.name: part.data for part in parts}, {part.name: part.labels for part in parts}
    found = wanted.beside.added(rows, labels, parts[0].columns[0], label_column, known, wanted.seed, notes)
    return [
        replace(part, data=data, labels=more, keep=np.arange(len(data)))
        for part, (data, more) in zip(parts, found.values(), strict=True)
    ]


# -- labels ----------------------------------------------------------------------------------------------------------


def _all_labels(parts: list[_Labelled], known: tuple[str, ...] | None, notes: list[str]) -> tuple[str, ...]:
    labels = order_labels({part.name: part.labels for part in parts})
    if known is not None:
        used = set().union(*(part.labels.used() for part in parts))
        if strange := [name for name in labels if name in used and name not in known]:
            raise HftlError(
                f"the data has {quoted(strange)}, which the model's head does not know: it has {quoted(list(known))}; "
                "name them alike with --task.label-map, or train a new head"
            )
        if twice := [name for name in labels if name in used and known.count(name) > 1]:
            raise HftlError(
                f"the model's head has {quoted(twice)} more than once, so the data's rows fit none; train a new head"
            )
        return known
    folded: dict[str, str] = {}
    for name in labels:
        twin = folded.setdefault(" ".join(unicodedata.normalize("NFC", name).casefold().split()), name)
        if twin != name:
            form = "the Unicode form of their letters" if _same_letters(twin, name) else "capitals or spaces"
            notes.append(f"labels: '{twin}' and '{name}' differ only in {form}, and count as two")
    return labels


def _same_letters(one: str, other: str) -> bool:
    """Whether they are the same but for composed or decomposed accents."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def _checked(
    parts: list[_Labelled], given: list[str], lone: str, known: tuple[str, ...] | None, sampled: bool
) -> list[str]:
    """Notes on labels that not every split has; what cannot be trained or scored raises."""
    used = {part.name: part.names_kept() for part in parts}
    notes = check_labels(used, given, lone, sampled)
    if known is not None:
        return notes
    if isinstance(parts[0].labels, LabelSets):
        if not used["train"]:
            raise HftlError("train: no row has any label; add rows that have one")
    elif len(used["train"]) < 2:
        raise HftlError(
            f"all {len(parts[0].keep):,} usable rows of train have {quoted(sorted(used['train']))}: to classify takes "
            f"two labels; {'raise --task.max-rows' if sampled else 'add rows of another'}"
        )
    return notes


def _on_sets(train: LabelSets) -> str:
    several, none = (train.has.sum(axis=1) > 1).sum(), (~train.has.any(axis=1)).sum()
    return f"labels: any number a row; of train's {len(train.has):,} rows {several:,} have several, {none:,} have none"


def _contradictions(train: _Labelled) -> list[str]:
    labels = train.labels
    encoded = labels.encode(labels.names)

    def label_of(row: int) -> str:
        codes = np.flatnonzero(encoded[row]) if isinstance(labels, LabelSets) else [encoded[row]]
        return ", ".join(labels.names[code] for code in codes)

    return find_contradictions(train.seen(), encoded[train.keep], label_of)


# -- rows ------------------------------------------------------------------------------------------------------------


def _without_blanks(part: _Labelled) -> tuple[_Labelled, list[BadRow]]:
    """The part less its rows without a label or with a blank input."""
    reasons = np.where(part.labels.missing, "no label", "").astype(object)
    if part.kind.blanks is not None:
        blank = part.kind.blanks(part.data, part.columns)
        reasons = np.where(blank != "", blank, reasons)
    bad = [BadRow(part.name, row, part.name_of(row), reasons[row]) for row in np.flatnonzero(reasons != "").tolist()]
    # What is skipped must not bring in a label of its own.
    labels = part.labels.without(np.asarray(reasons != "", dtype=bool))
    return replace(part, labels=labels, keep=np.flatnonzero(~labels.missing)), bad


def _without_unreadable(part: _Labelled) -> tuple[_Labelled, list[BadRow]]:
    bad, found = examine(part.data, part.columns[0], part.keep, part.name, part.kind)
    digests, seconds = np.zeros(len(part.data), dtype=np.uint64), np.zeros(len(part.data))
    digests[part.keep], seconds[part.keep] = [each.digest for each in found], [each.seconds for each in found]
    keep = np.setdiff1d(part.keep, [row.row for row in bad])
    return replace(part, keep=keep, digests=digests, seconds=seconds), bad


def _sampled(part: _Labelled, labels: tuple[str, ...], size: int, seed: int, notes: list[str]) -> _Labelled:
    strata = part.strata(labels)
    if part.name == "train" and size < min(classes := len(np.unique(strata)), len(strata)):
        raise HftlError(f"--task.max-rows {size}: fewer rows than the {classes} labels; use {2 * classes} or more")
    sample = sampled(part, strata, size, seed, notes)
    if lost := sorted(part.names_kept() - sample.names_kept()):
        notes[-1] += f"; none of them has {quoted(lost)}"
    return sample


def _cut(train: _Labelled, labels: tuple[str, ...], fraction: float, seed: int, notes: list[str]) -> list[_Labelled]:
    """Train and the validation split taken from it; no label loses its last row in train."""
    if not fraction:
        return cut_off(train, np.empty(0, dtype=np.int64))
    strata = train.strata(labels)
    chosen = stratified(strata, max(1, round(fraction * len(strata))), seed, leave_one=True)
    if isinstance(train.labels, LabelSets):
        chosen = spare(train.labels.take(train.keep).has, chosen)
    if not len(chosen):
        raise HftlError(
            "train: no label has two rows, so no validation split can be cut; add rows, or name another label column"
        )
    remaining, validation = cut_off(train, chosen)
    note = f"validation: {len(chosen):,} of train's {len(strata):,} rows (there was none; stratified, seed {seed})"
    if absent := len(train.names_kept()) - len(validation.names_kept()):
        note += f"; {absent} of the labels {'has' if absent == 1 else 'have'} too few rows to be in it"
    notes.append(note)
    return [remaining, validation]


def _with_lists(data: Dataset, name: str, values: NDArray[Any], kind: str) -> Dataset:
    """With a column of lists of one length; values of shape (rows, length)."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return data.add_column(name, lists, feature=List(Value(kind), length=values.shape[1]))


def _finished(part: _Labelled, labels: tuple[str, ...]) -> Dataset:
    """The kept rows: input (and the second of a pair), label, row; a digest and the seconds of what has them."""
    data, kind = part.data.select_columns([*part.columns]), part.kind
    names = {
        column: name for column, name in zip(part.columns, (kind.role.name, "pair"), strict=False) if column != name
    }
    if names:
        data = data.rename_columns(names)
    # Columns are added before rows are chosen: added to a selection they would copy every image.
    encoded = part.labels.encode(labels)
    if isinstance(part.labels, LabelSets):
        data = _with_lists(data, "label", encoded, "bool")
        if (soft := part.labels.soft(labels)) is not None:
            data = _with_lists(data, "soft", soft, "float32")
    else:
        classes = ClassLabel(num_classes=len(labels))  # without the names, for those of a kept head need not be unique
        data = data.add_column("label", encoded, feature=classes)
    data = data.add_column("row", np.arange(len(data)))
    if part.digests is not None and kind.examine is not None:
        data = data.add_column("digest", part.digests)
    if part.seconds is not None and kind.lasts:
        data = data.add_column("seconds", part.seconds)
    return data.select(part.keep)
