"""Sources to splits of one shape: columns found, labels checked, bad rows out, validation cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, List, Value
from numpy.typing import NDArray

from hftl.audio.calls import Calls
from hftl.audio.segments import check_whole
from hftl.data.checks import (
    LOOKS,
    BadRow,
    Digests,
    Media,
    examine,
    settle,
    skip_notes,
    text_digests,
    write_bad_rows,
)
from hftl.data.columns import USUAL_NAMES, Role, find_column, find_texts, undecoded
from hftl.data.files import Kind
from hftl.data.labels import Labels, LabelSets, check_labels, order_labels, quoted, read_flags, read_labels
from hftl.data.leaks import Leaks, Seen, find_contradictions, find_leaks
from hftl.data.sampling import Ids, spare, stratified
from hftl.data.sources import Sources
from hftl.errors import HftlError
from hftl.quiet import quiet_datasets

__all__ = ["BadRow", "Splits", "prepare", "stratified", "write_bad_rows"]


@dataclass(frozen=True)
class Splits:
    """Checked data, ready to train on.

    Columns: image, or audio and seconds, or text (and pair, where each row has two texts); label; row (its number in
    the source). ``label`` is a ClassLabel, or where rows have any number of labels multi-hot lists as long as
    ``labels`` (of bool); where training wants less of some labels, ``soft`` has its targets (of float32).
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
class _Part:
    """One split on its way."""

    name: str
    data: Dataset
    """As in the source, the input column decoded no further than bytes or path."""
    column: str
    """The input column."""
    labels: Labels
    keep: Ids
    """Rows that are still in."""
    pair: str | None = None
    """The column of the second texts."""
    digests: Digests | None = None
    """Of the inputs of all rows in ``data`` that are still in."""
    seconds: NDArray[np.float64] | None = None
    """How long each of them lasts."""

    @property
    def columns(self) -> list[str]:
        """Those of the input."""
        return [self.column] if self.pair is None else [self.column, self.pair]

    def names_kept(self) -> set[str]:
        return self.labels.take(self.keep).used()


def prepare(
    sources: Sources,
    *,
    kind: Kind,
    input_column: str | None,
    label_column: str | None,
    max_rows: int | None,
    validation_fraction: float,
    bad_rows: Literal["skip", "error"],
    lone_labels: Literal["error", "keep"],
    known_labels: tuple[str, ...] | None,
    seed: int,
    pair_column: str | None = None,
    pairs: bool | None = False,
    leaks: Leaks | None = None,
    label_columns: tuple[str, ...] = (),
    label_separator: str | None = None,
    calls: Calls | None = None,
) -> Splits:
    """Splits of one shape from sources of any.

    Args:
        sources: what ``load`` gave.
        kind: the input column's role, and its name in the result.
        input_column: the user's choice, else found by name and type.
        label_column: likewise; where it holds lists, rows have any number of labels.
        max_rows: at most so many rows of every source split, stratified; what is left out is not even opened.
        validation_fraction: share of train that becomes validation where there is none; 0, none of it.
        bad_rows: "skip" and list what cannot be read or has no label, or "error".
        lone_labels: what to do with a label that train alone has, although the user gave other splits.
        known_labels: the order of a kept head; the data's labels must be among them.
        seed: of the samples.
        pair_column: the column of the second texts, where each row has two; see ``find_texts``.
        pairs: whether each row has two texts; None, as the columns tell.
        leaks: what to do with rows of train that another split has as well; None, not even look.
        label_columns: instead of ``label_column``, columns of 0 and 1, one a label.
        label_separator: what stands between several labels in a cell of ``label_column``.
        calls: what recordings have beside a label.

    Raises:
        HftlError: anything that the user has to decide or mend, named.
    """
    notes = list(sources.notes)
    labelling = label_column, label_columns, label_separator
    parts, label_column = _read_parts(sources, kind, (input_column, pair_column, pairs), labelling, notes)
    if calls is not None:
        parts = _with_calls(parts, calls, label_column, known_labels, seed, notes)
    bad = []
    for number, part in enumerate(parts):
        parts[number], found = _without_blanks(part, kind)
        bad += found
    settle(_left(parts), bad, bad_rows)
    labels = _all_labels(parts, known_labels, notes)
    given = [part.name for part in parts[1:]]
    notes += _checked(parts, given, lone_labels, known_labels, sources.sampled)

    if max_rows is not None:
        parts = [_sampled(part, labels, max_rows, seed, notes) for part in parts]
    if kind in LOOKS:
        unreadable = []
        for number, part in enumerate(parts):
            parts[number], found = _without_unreadable(part, kind)
            unreadable += found
        settle(_left(parts), unreadable, bad_rows)
        bad += unreadable
        # Skipping may have taken a label's last row from train; a sample need not have every label elsewhere.
        _checked(parts, given, "keep", known_labels, sources.sampled)
    notes += skip_notes(bad)
    if leaks is not None:
        parts = [_with_digests(part, kind) for part in parts]
        parts[0], leaked = _without_leaks(parts, kind, leaks, notes)
        bad += leaked
        _checked(parts, given, "keep", known_labels, sources.sampled)
        notes += _contradictions(parts[0], kind)
    if known_labels is None and (unused := [name for name in labels if not any(name in p.names_kept() for p in parts)]):
        notes.append(f"labels: no row has {quoted(unused)}; the head gets an output all the same")

    if "validation" not in given:
        parts[:1] = _cut(parts[0], labels, validation_fraction, seed, notes)
        if leaks is not None:
            parts[0], leaked = _without_leaks(parts[:2], kind, leaks, notes)
            bad += leaked
            _checked(parts, given, "keep", known_labels, sources.sampled)
    if isinstance(parts[0].labels, LabelSets):
        notes.append(_on_sets(parts[0].labels.take(parts[0].keep)))
    with quiet_datasets():
        done = {part.name: _finished(part, labels, kind) for part in parts}
    cut = "validation" not in given and validation_fraction > 0
    return Splits(done["train"], done["validation"], done.get("test"), labels, tuple(bad), tuple(notes), cut)


def _read_parts(
    sources: Sources,
    kind: Kind,
    inputs: tuple[str | None, str | None, bool | None],
    labelling: tuple[str | None, tuple[str, ...], str | None],
    notes: list[str],
) -> tuple[list[_Part], str | None]:
    """Each split with its columns found (train's hold for all) and its labels read, train first; the label column."""
    train = sources.splits["train"]
    label_column, label_columns, label_separator = labelling
    taken = [label_column] if label_column else list(label_columns)
    named: dict[Role, str | None] = {kind: inputs[0], "label": label_column}
    input_column, pair = _found_inputs(train, kind, inputs, taken, "train")
    found: dict[Role, str] = {} if pair else {kind: input_column}
    if not label_columns:
        others = [input_column, *([pair] if pair else [])]
        found["label"] = label_column = _found(train, "label", label_column, others, "train")
    if pair and inputs[1] is None:
        notes.append(
            f"columns: each row is the pair of '{input_column}' and '{pair}'; --task.text-column names a single text"
        )
    for role, column in found.items():
        if named[role] is None and column.strip().lower() not in USUAL_NAMES[role]:
            notes.append(
                f"columns: '{column}' is taken for the {role}, by its type; --task.{role}-column names another"
            )
    targets = label_columns or (found["label"],)
    if strange := [column for column in targets if column not in train.features]:
        there = ", ".join(train.features)
        raise HftlError(f"train: no column '{strange[0]}'; name some of {there} with --task.label-columns")
    parts: list[_Part] = []
    for name, data in sources.splits.items():
        if not len(data):
            if name == "train":
                raise HftlError("train: it has no rows; name data that has some")
            notes.append(f"{name}: left out, it has no rows")
            continue
        if name == "test" and targets[0] not in data.features:
            notes.append(f"test: left out, it has no label column '{targets[0]}'")
            continue
        for column in (input_column, *targets, *([pair] if pair else [])):
            if column not in data.features:
                raise HftlError(f"{name}: it has no column '{column}', which train has; give it the same columns")
        _found_inputs(data, kind, (input_column, pair, pair is not None), taken, name)
        if label_columns:
            labels: Labels = _prefixed(name, read_flags, data, label_columns)
        else:
            _found(data, "label", label_column, [input_column], name)
            labels = _prefixed(name, read_labels, data, label_column, label_separator)
        if parts and type(labels) is not type(parts[0].labels):
            lists, single = (name, "train") if isinstance(labels, LabelSets) else ("train", name)
            raise HftlError(
                f"{name}: '{label_column}' holds lists in {lists} and one label a row in {single}; make both lists"
            )
        if name == "test" and not labels.used():
            notes.append("test: left out, its labels are hidden (no row has one; -1 counts as none)")
            continue
        data = undecoded(data.with_format(None), input_column, kind)
        parts.append(_Part(name, data, input_column, labels, np.arange(len(data)), pair))
    if kind == "audio":
        check_whole({part.name: part.data for part in parts}, input_column)
    return parts, label_column


def _with_calls(
    parts: list[_Part],
    calls: Calls,
    label_column: str | None,
    known: tuple[str, ...] | None,
    seed: int,
    notes: list[str],
) -> list[_Part]:
    """The parts with secondary labels and background recordings."""
    rows, labels = {part.name: part.data for part in parts}, {part.name: part.labels for part in parts}
    found = calls.added(rows, labels, parts[0].column, label_column, known, seed, notes)
    return [
        replace(part, data=data, labels=more, keep=np.arange(len(data)))
        for part, (data, more) in zip(parts, found.values(), strict=True)
    ]


def _found_inputs(
    data: Dataset, kind: Kind, choice: tuple[str | None, str | None, bool | None], taken: list[str], split: str
) -> tuple[str, str | None]:
    """The column of the input, and that of the second texts."""
    if kind != "text":
        return _found(data, kind, choice[0], taken, split), None
    found: tuple[str, str | None] = _prefixed(split, find_texts, data, *choice, taken)
    return found


def _found(data: Dataset, role: Role, named: str | None, taken: Iterable[str], split: str) -> str:
    found: str = _prefixed(split, find_column, data, role, named, list(taken))
    return found


def _prefixed(split: str, function: Any, *arguments: Any) -> Any:
    """What the function gives; its errors say which split they are about."""
    try:
        return function(*arguments)
    except HftlError as error:
        raise HftlError(f"{split}: {error}") from None


def _all_labels(parts: list[_Part], known: tuple[str, ...] | None, notes: list[str]) -> tuple[str, ...]:
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
    parts: list[_Part], given: list[str], lone: str, known: tuple[str, ...] | None, sampled: bool
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


def _without_blanks(part: _Part, kind: Kind) -> tuple[_Part, list[BadRow]]:
    """The part less its rows without a label or with blank text."""
    reasons = np.where(part.labels.missing, "no label", "").astype(object)
    if kind == "text":
        for column, reason in reversed([*zip(part.columns, ("no text", "no second text"), strict=False)]):
            reasons[_blank(part.data, column)] = reason
    bad = [
        BadRow(part.name, row, _name(part, row, kind), reasons[row]) for row in np.flatnonzero(reasons != "").tolist()
    ]
    # What is skipped must not bring in a label of its own.
    labels = part.labels.without(np.asarray(reasons != "", dtype=bool))
    return replace(part, labels=labels, keep=np.flatnonzero(~labels.missing)), bad


def _blank(data: Dataset, column: str) -> NDArray[np.bool_]:
    """Where the text is missing or all white space, shape (rows,); read a chunk at a time, for it may be large."""
    text = data.with_format("arrow").select_columns([column])[:][column]
    # Trimmed as Python does: a no-break space alone is blank, too.
    chunks = (pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(chunk)), 0) for chunk in text.chunks)
    return np.concatenate([pc.fill_null(chunk, True).to_numpy(zero_copy_only=False) for chunk in chunks])


def _name(part: _Part, row: int, kind: Kind) -> str:
    """What to call a row in a message: its file, or the beginning of its text."""
    values = part.data.select_columns(part.columns)[row]
    if kind in LOOKS:
        return LOOKS[kind][1](values[part.column])
    texts = (" ".join((values[column] or "").split()) for column in part.columns)
    return " ||| ".join(text[: 60 // len(part.columns)] for text in texts) if part.pair else next(texts)[:60]


def _without_unreadable(part: _Part, kind: Media) -> tuple[_Part, list[BadRow]]:
    bad, found = examine(part.data, part.column, part.keep, part.name, kind)
    digests, seconds = np.zeros(len(part.data), dtype=np.uint64), np.zeros(len(part.data))
    digests[part.keep], seconds[part.keep] = [each.digest for each in found], [each.seconds for each in found]
    keep = np.setdiff1d(part.keep, [row.row for row in bad])
    return replace(part, keep=keep, digests=digests, seconds=seconds), bad


def _with_digests(part: _Part, kind: Kind) -> _Part:
    """The part with a digest of every text; images and sounds have theirs since they were looked at."""
    if kind in LOOKS:
        return part
    digests = np.zeros(len(part.data), dtype=np.uint64)
    digests[part.keep] = text_digests(part.data, part.columns, part.keep)
    return replace(part, digests=digests)


def _seen(part: _Part, kind: Kind) -> Seen:
    assert part.digests is not None
    return Seen(part.name, part.keep, part.digests[part.keep], lambda row: _name(part, row, kind))


def _without_leaks(parts: list[_Part], kind: Kind, choice: Leaks, notes: list[str]) -> tuple[_Part, list[BadRow]]:
    """Train, less its rows that another split has as well where they are to be dropped; what is dropped."""
    dropped, said = find_leaks(_seen(parts[0], kind), [_seen(part, kind) for part in parts[1:]], choice)
    train = replace(parts[0], keep=np.setdiff1d(parts[0].keep, [row.row for row in dropped]))
    settle(_left([train]), dropped, "skip")
    notes += [*said, *skip_notes(dropped)]
    return train, dropped


def _contradictions(train: _Part, kind: Kind) -> list[str]:
    labels = train.labels
    encoded = labels.encode(labels.names)

    def label_of(row: int) -> str:
        codes = np.flatnonzero(encoded[row]) if isinstance(labels, LabelSets) else [encoded[row]]
        return ", ".join(labels.names[code] for code in codes)

    return find_contradictions(_seen(train, kind), encoded[train.keep], label_of)


def _left(parts: list[_Part]) -> dict[str, int]:
    return {part.name: len(part.keep) for part in parts}


def _sampled(part: _Part, labels: tuple[str, ...], size: int, seed: int, notes: list[str]) -> _Part:
    ids = part.labels.take(part.keep).strata(labels)
    if len(ids) <= size:
        return part
    if part.name == "train" and size < (classes := len(np.unique(ids))):
        raise HftlError(f"--task.max-rows {size}: fewer rows than the {classes} labels; use {2 * classes} or more")
    sample = replace(part, keep=part.keep[stratified(ids, size, seed)])
    note = f"{part.name}: {size:,} of {len(ids):,} rows (max-rows; stratified, seed {seed})"
    if lost := sorted(part.names_kept() - sample.names_kept()):
        note += f"; none of them has {quoted(lost)}"
    notes.append(note)
    return sample


def _cut(train: _Part, labels: tuple[str, ...], fraction: float, seed: int, notes: list[str]) -> list[_Part]:
    """Train and the validation split taken from it; no label loses its last row in train."""
    if not fraction:
        return [train, replace(train, name="validation", keep=train.keep[:0])]
    ids = train.labels.take(train.keep).strata(labels)
    chosen = stratified(ids, max(1, round(fraction * len(ids))), seed, leave_one=True)
    if isinstance(train.labels, LabelSets):
        chosen = spare(train.labels.take(train.keep).has, chosen)
    if not len(chosen):
        raise HftlError(
            "train: no label has two rows, so no validation split can be cut; add rows, or name another label column"
        )
    validation = replace(train, name="validation", keep=train.keep[chosen])
    note = f"validation: {len(chosen):,} of train's {len(ids):,} rows (there was none; stratified, seed {seed})"
    if absent := len(train.names_kept()) - len(validation.names_kept()):
        note += f"; {absent} of the labels {'has' if absent == 1 else 'have'} too few rows to be in it"
    notes.append(note)
    return [replace(train, keep=np.delete(train.keep, chosen)), validation]


def _with_lists(data: Dataset, name: str, values: NDArray[Any], kind: str) -> Dataset:
    """With a column of lists of one length; values of shape (rows, length)."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return data.add_column(name, lists, feature=List(Value(kind), length=values.shape[1]))


def _finished(part: _Part, labels: tuple[str, ...], kind: Kind) -> Dataset:
    """The kept rows: input (of texts, the second as well), label, row; of files a digest, of sounds their seconds."""
    data = part.data.select_columns(part.columns)
    names = {column: name for column, name in zip(part.columns, (kind, "pair"), strict=False) if column != name}
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
    if part.digests is not None and kind in LOOKS:
        data = data.add_column("digest", part.digests)
    if part.seconds is not None and kind == "audio":
        data = data.add_column("seconds", part.seconds)
    return data.select(part.keep)
