"""Questions on texts with their answers: what names or holds them, as splits of one shape."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value

from hftl.data.checks import BadRow, settle, skip_notes, text_digests
from hftl.data.columns import find_column
from hftl.data.leaks import Leaks, Seen, find_leaks
from hftl.data.sampling import Ids, stratified
from hftl.data.sources import Sources
from hftl.data.splits import Splits
from hftl.errors import HftlError
from hftl.quiet import quiet_datasets

COLUMNS = ("question", "context", "answers")
FEATURES = Features(
    {
        "question": Value("large_string"),
        "context": Value("large_string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
        "row": Value("int64"),
    }
)
NUMPY_ARRAY = re.compile(r"array\((\[.*?\])(?:,\s*dtype=[\w<>']+)?\)", re.DOTALL)
"""What is left of arrays in csv files that pandas wrote."""

Answer = tuple[str, int]
"""A text, and the character of the context at which it starts."""
Choice = tuple[str | None, str | None, str | None]
"""The user's columns of questions, contexts and answers."""
TooLong = Callable[[Sequence[str]], list[str | None]]
"""Why each of these questions is too long for the model; None where it is not."""


@dataclass(frozen=True)
class _Part:
    """One split on its way."""

    name: str
    questions: list[str]
    contexts: list[str]
    answers: list[list[Answer]]
    rows: Ids
    """Numbers in the source."""
    groups: list[str]
    """What belongs together where a split is cut: rows of one article, or of one context."""
    bad: list[BadRow] = field(default_factory=list)
    """Rows that cannot be used."""
    wrong: list[BadRow] = field(default_factory=list)
    """Answers that cannot be used, of rows that have others."""

    def take(self, places: Ids) -> _Part:
        chosen = places.tolist()
        columns: dict[str, Any] = {
            name: [getattr(self, name)[place] for place in chosen]
            for name in ("questions", "contexts", "answers", "groups")
        }
        return replace(self, **columns, rows=self.rows[places])

    def has_answer(self) -> Ids:
        return np.array([len(found) > 0 for found in self.answers], dtype=np.int64)

    def name_of(self, row: int) -> str:
        return _name(self.questions[int(np.searchsorted(self.rows, row))])


def prepare(
    sources: Sources,
    *,
    columns: Choice,
    max_rows: int | None,
    validation_fraction: float,
    bad_rows: Literal["skip", "error"],
    leaks: Leaks | None,
    seed: int,
    too_long: TooLong,
) -> Splits:
    """Splits with the columns question, context, answers (``text`` and ``answer_start``; none: it has no answer), row.

    Args:
        sources: what ``sources.load`` gave.
        columns: the user's choice for each, else found by name.
        max_rows: at most so many rows of every source split; those with and without an answer in their proportions.
        validation_fraction: share of train that becomes validation where there is none, whole contexts (or articles,
            where there is a column ``title``) at a time; 0, none of it.
        bad_rows: "skip" and list what cannot be used, or "error".
        leaks: what to do with rows of train that another split has as well; None, not even look.
        seed: of the samples.
        too_long: see there.

    Raises:
        HftlError: anything that the user has to decide or mend, named.
    """
    notes = list(sources.notes)
    parts = []
    for name, data in sources.splits.items():
        if not len(data):
            if name == "train":
                raise HftlError("train: it has no rows; name data that has some")
            notes.append(f"{name}: left out, it has no rows")
            continue
        part = _read(name, data, columns, notes)
        if part is None:
            continue
        if max_rows is not None and len(part.rows) > max_rows:
            notes.append(f"{name}: {max_rows:,} of {len(part.rows):,} rows (max-rows; stratified, seed {seed})")
            part = part.take(stratified(part.has_answer(), max_rows, seed))
        parts.append(_fitting(part, too_long))
    bad = [row for part in parts for row in part.bad]
    wrong = [answer for part in parts for answer in part.wrong]
    settle(_left(parts), [*bad, *wrong], bad_rows)
    notes += [*skip_notes(bad), *_answer_notes(wrong)]
    _hidden(parts, notes)
    if leaks is not None:
        parts[0], leaked = _without_leaks(parts, leaks, notes)
        bad += leaked
        settle(_left(parts), leaked, "skip")
    cut = validation_fraction > 0 and (len(parts) < 2 or parts[1].name != "validation")
    if len(parts) < 2 or parts[1].name != "validation":
        parts[:1] = _cut(parts[0], validation_fraction, seed, notes)
    for part in parts:
        has = part.has_answer()
        if len(has) and not has.all():
            notes.append(f"{part.name}: {int((1 - has).sum()):,} of {len(has):,} questions have no answer")
    with quiet_datasets():
        done = {part.name: _finished(part) for part in parts}
    return Splits(done["train"], done["validation"], done.get("test"), (), (*bad, *wrong), tuple(notes), cut)


def rows_of(data: Dataset, columns: Choice) -> list[tuple[str, str]]:
    """Questions and contexts of a table, whether it has answers or not."""
    question = find_column(data, "question", columns[0], ())
    context = find_column(data, "context", columns[1], (question,))
    return [*zip(_texts(data, question), _texts(data, context), strict=True)]


def answers_of(value: Any, context: str) -> tuple[list[Answer], list[str]]:
    """The answers that a cell holds, and why others cannot be used.

    Cells are as SQuAD has them on the Hub (``{"text": […], "answer_start": […]}``) or in its files (a list of
    ``{"text": …, "answer_start": …}``), the same as a string, a plain text or a list of such; empty: no answer. A text
    without a place is looked up in the context.
    """
    good: list[Answer] = []
    wrong: list[str] = []
    for text, start in _pairs(value):
        if start is None:
            if text not in context and text.startswith('"'):  # as json writes it
                text = _unquoted(text)
            start = context.find(text)
            if start < 0:
                wrong.append(f"the answer {_name(text)!r} is not in its context")
                continue
        elif context[start : start + len(text)] != text or start < 0:
            there = context[max(start, 0) : max(start, 0) + len(text)]
            wrong.append(f"the answer {_name(text)!r} is not at {start} of its context, {_name(there)!r} is")
            continue
        good.append((text, start))
    return good, wrong


def _pairs(value: Any) -> Iterator[tuple[str, int | None]]:
    """Texts and where they start, as the cell has them.

    Raises:
        ValueError: it is nothing of the kind.
    """
    if isinstance(value, str):
        value = _parsed(value)
    if value is None or value == "":
        return
    if isinstance(value, str | int | float):
        yield str(value), None
    elif isinstance(value, dict):
        if value and "text" not in value:
            raise ValueError(f"text is missing among {', '.join(map(str, value))}")
        texts, starts = (_listed(value.get(name)) for name in ("text", "answer_start"))
        starts = starts or [None] * len(texts)
        if len(texts) != len(starts):
            raise ValueError(f"{len(texts)} answers and {len(starts)} places")
        for text, start in zip(texts, starts, strict=True):
            if text is not None and str(text).strip():
                yield str(text), _place(start)
    elif isinstance(value, list):
        for each in value:
            yield from _pairs(each)
    else:
        raise ValueError(f"answers of type {type(value).__name__}")


def _listed(value: Any) -> list[Any]:
    return [] if value is None else [*value] if isinstance(value, list | tuple) else [value]


def _place(value: Any) -> int | None:
    """Where an answer starts, whatever wrote it: 40, 40.0, "40"; None where it is not said."""
    if value is None or value == "" or value != value:  # pandas fills gaps with NaN
        return None
    number = float(value)
    if number != int(number):
        raise ValueError(f"answer_start {value} is no whole number")
    return int(number)


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def _parsed(cell: str) -> Any:
    """What a cell of a csv file says: JSON, the same as Python or pandas writes it, or else a plain text."""
    stripped = cell.strip()
    if not stripped.startswith(("{", "[")):
        return stripped
    for read in (json.loads, lambda text: ast.literal_eval(NUMPY_ARRAY.sub(r"\1", text))):
        try:
            return read(stripped)
        except (ValueError, SyntaxError):
            continue
    return stripped  # an answer may well begin with a bracket


def _read(name: str, data: Dataset, columns: Choice, notes: list[str]) -> _Part | None:
    """The rows of a split that are whole, and those that are not; None: a test split without answers."""
    found: list[str] = []
    for role, choice in zip(COLUMNS, columns, strict=True):
        try:
            found.append(find_column(data, role, choice, found))  # type: ignore[arg-type]  # each of them is a role
        except HftlError as error:
            if name == "test" and role == "answers":
                notes.append(f"test: left out, it has no answers ({error})")
                return None
            raise HftlError(f"{name}: {error}") from None
    plain = data.with_format(None)
    questions, contexts = (_texts(data, column) for column in found[:2])
    cells = plain[found[2]][:]
    if "answer_start" in data.column_names and found[2] != "answer_start":
        starts = plain["answer_start"][:]
        flat = (not cell or isinstance(cell if isinstance(cell, str) else cell[0], str) for cell in cells)
        if all(flat):
            cells = [
                {"text": cell, "answer_start": start} if cell else cell
                for cell, start in zip(cells, starts, strict=True)
            ]
    impossible = plain["is_impossible"][:] if "is_impossible" in data.column_names else [None] * len(data)
    titles = _texts(data, "title") if "title" in data.column_names else [""] * len(data)
    if len(set(titles)) < 2:  # one title over all says nothing
        titles = contexts
    bad, wrong, kept, answers = [], [], [], []
    for row, (question, context, cell) in enumerate(zip(questions, contexts, cells, strict=True)):
        good: list[Answer] = []
        others: list[str] = []
        reason = "" if question.strip() and context.strip() else "no context" if question.strip() else "no question"
        try:
            good, others = answers_of(cell, context)
            if _is_true(impossible[row]) and good:
                reason = reason or "is_impossible is true, and there is an answer"
        except (ValueError, TypeError) as error:
            reason = reason or f"its answers cannot be read ({error})"
        if others and not good:
            reason = reason or others[0]
        if reason:
            bad.append(BadRow(name, row, _name(question), reason))
            continue
        wrong += [BadRow(name, row, _name(question), each) for each in others]
        kept.append(row)
        answers.append(good)
    groups = [title or context for title, context in zip(titles, contexts, strict=True)]
    part = _Part(name, questions, contexts, [], np.arange(len(data)), groups)
    whole = replace(part, answers=[[]] * len(data)).take(np.array(kept, dtype=np.int64))
    return replace(whole, answers=answers, bad=bad, wrong=wrong)


def _is_true(value: Any) -> bool:
    """What a cell of ``is_impossible`` says, whatever wrote it.

    Raises:
        ValueError: it says neither yes nor no.
    """
    said = str(value).strip().lower()
    if said not in ("true", "1", "1.0", "false", "0", "0.0", "", "none", "nan"):
        raise ValueError(f"is_impossible is {value!r}, which is neither true nor false")
    return said in ("true", "1", "1.0")


def _hidden(parts: list[_Part], notes: list[str]) -> None:
    """Leave out a test split none of whose questions has an answer, where train's have: they are kept back."""
    if parts[-1].name == "test" and not parts[-1].has_answer().any() and parts[0].has_answer().any():
        del parts[-1]
        notes.append("test: left out, none of its questions has an answer")


def _answer_notes(wrong: list[BadRow]) -> list[str]:
    """A line for each split some of whose answers are not used, with the first."""
    notes = []
    for split in dict.fromkeys(answer.split for answer in wrong):
        those = [answer for answer in wrong if answer.split == split]
        count = "1 answer" if len(those) == 1 else f"{len(those):,} answers"
        first = f"first row {those[0].row}: {those[0].name}: {those[0].reason}"
        notes.append(f"{split}: {count} left out, their questions have others; {first}")
    return notes


def _fitting(part: _Part, too_long: TooLong) -> _Part:
    """The part less its questions that leave no room for a context."""
    reasons = too_long(part.questions)
    bad = [
        BadRow(part.name, int(part.rows[place]), _name(part.questions[place]), reason)
        for place, reason in enumerate(reasons)
        if reason
    ]
    keep = np.array([place for place, reason in enumerate(reasons) if not reason], dtype=np.int64)
    return replace(part.take(keep), bad=[*part.bad, *bad])


def _texts(data: Dataset, column: str) -> list[str]:
    return [value or "" for value in data.with_format(None)[column][:]]


def _name(text: str) -> str:
    return " ".join(text.split())[:60]


def _left(parts: list[_Part]) -> dict[str, int]:
    return {part.name: len(part.rows) for part in parts}


def _without_leaks(parts: list[_Part], choice: Leaks, notes: list[str]) -> tuple[_Part, list[BadRow]]:
    """Train, less its rows that another split has as well where they are to be dropped; what is dropped."""
    dropped, said = find_leaks(_seen(parts[0]), [_seen(part) for part in parts[1:]], choice)
    notes += [*said, *skip_notes(dropped)]
    gone = np.isin(parts[0].rows, [row.row for row in dropped])
    return parts[0].take(np.flatnonzero(~gone)), dropped


def _seen(part: _Part) -> Seen:
    texts = Dataset.from_dict({"question": part.questions, "context": part.contexts})
    digests = text_digests(texts, ["question", "context"], np.arange(len(texts)))
    return Seen(part.name, part.rows, digests, part.name_of)


def _cut(train: _Part, fraction: float, seed: int, notes: list[str]) -> list[_Part]:
    """Train and the validation split taken from it, whole contexts or articles at a time."""
    if not fraction:
        return [train, replace(train.take(np.arange(0)), name="validation")]
    codes = {name: code for code, name in enumerate(dict.fromkeys(train.groups))}
    group = np.array([codes[name] for name in train.groups])
    sizes = np.bincount(group)
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    taken, left = [], fraction * len(group)
    for each in shuffled.tolist():
        if sizes[each] <= left:  # an article may be larger than all that is wanted
            taken.append(each)
            left -= sizes[each]
    taken = taken or [int(sizes.argmin())]
    if len(taken) == len(shuffled):
        raise HftlError("train: all its questions are on one context, so no validation split can be cut; add others")
    chosen = np.isin(group, taken)
    notes.append(
        f"validation: {int(chosen.sum()):,} of train's {len(group):,} rows (there was none; no context is in both, "
        f"seed {seed})"
    )
    validation = replace(train.take(np.flatnonzero(chosen)), name="validation")
    return [train.take(np.flatnonzero(~chosen)), validation]


def _finished(part: _Part) -> Dataset:
    answers = [
        {"text": [text for text, _ in found], "answer_start": [start for _, start in found]} for found in part.answers
    ]
    columns = {"question": part.questions, "context": part.contexts, "answers": answers, "row": part.rows}
    return Dataset(pa.table(columns, schema=FEATURES.arrow_schema))
