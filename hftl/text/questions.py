"""Questions on texts with their answers: what names or holds them, as splits of one shape."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value

from hftl.data.checks import BadRow, settle, skip_notes
from hftl.data.columns import find_column
from hftl.data.kinds import Kind, Role
from hftl.data.parts import Part, cut_by_group, left, sampled, with_digests, with_rows, without_leaks
from hftl.data.sampling import Ids
from hftl.data.sources import Sources
from hftl.data.splits import Rules, Splits
from hftl.errors import HftlError
from hftl.text.columns import text_digests, text_name
from hftl.text.squad import squad_rows

QUESTION = Role("question", "strings", ("question", "query"), by_type=False)
CONTEXT = Role("context", "strings", ("context", "passage", "paragraph", "document", "text"), by_type=False)
ANSWERS = Role("answers", "anything", ("answers", "answer"), by_type=False)
ROLES = (QUESTION, CONTEXT, ANSWERS)
"""With two or three columns of texts, what is left over says nothing: they are found by name alone."""
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
Why = Callable[[Sequence[str]], list[str | None]]
"""Why each of these questions is too long for the model; None where it is not."""


@dataclass(frozen=True, kw_only=True)
class _Questions(Part):
    """A split of questions: its ``data`` have the columns of ``FEATURES``."""

    has_answer: Ids
    """1 of each row in ``data`` that has an answer, 0 of the others."""
    groups: list[str]
    """What belongs together where a split is cut: rows of one article, or of one context."""


def prepare(sources: Sources, choice: Choice, rules: Rules, max_rows: int | None, seed: int, why: Why) -> Splits:
    """Splits with the columns question, context, answers (``text`` and ``answer_start``; none: it has no answer), row.

    A validation split is cut from train by whole contexts (or articles, where there is a column ``title``). Of
    ``bad_rows``, answers are listed as well that cannot be used although their questions have others.

    Args:
        sources: what ``sources.load`` gave.
        choice: the user's choice for each column, else found by name.
        rules: what to do with rows that are not as they should be.
        max_rows: at most so many rows of every source split; those with and without an answer in their proportions.
        seed: of samples, and of a validation split that is cut.
        why: see there.

    Raises:
        HftlError: anything that the user has to decide or mend, named.
    """
    notes = list(sources.notes)
    parts, bad, wrong = list[_Questions](), list[BadRow](), list[BadRow]()
    for name, data in with_rows(sources, notes):
        columns = _columns(name, data, choice, notes)
        if columns is None:
            continue
        part, unusable, others = _read(name, data, columns)
        if max_rows is not None:
            part = sampled(part, part.has_answer[part.keep], max_rows, seed, notes)
        part, too_long = _fitting(part, why)
        parts.append(part)
        bad += [*unusable, *too_long]
        wrong += others
    settle(left(parts), [*bad, *wrong], rules.bad_rows)
    notes += [*skip_notes(bad), *_answer_notes(wrong)]
    _hidden(parts, notes)
    if rules.leaks is not None:
        parts[0], leaked = without_leaks([with_digests(part) for part in parts], rules.leaks, notes)
        bad += leaked
    whole = len(parts) > 1 and parts[1].name == "validation"
    if not whole:
        groups = np.array(parts[0].groups, dtype=object)[parts[0].keep]
        parts[:1] = cut_by_group(parts[0], groups, rules.validation_fraction, seed, notes, "context")
    for part in parts:
        has = part.has_answer[part.keep]
        if len(has) and not has.all():
            notes.append(f"{part.name}: {int((1 - has).sum()):,} of {len(has):,} questions have no answer")
    done = {part.name: part.data.select(part.keep) for part in parts}
    cut = not whole and rules.validation_fraction > 0
    return Splits(done["train"], done["validation"], done.get("test"), (), (*bad, *wrong), tuple(notes), cut)


def rows_of(data: Dataset, columns: Choice) -> list[tuple[str, str]]:
    """Questions and contexts of a table, whether it has answers or not."""
    question = find_column(data, QUESTION, columns[0], ())
    context = find_column(data, CONTEXT, columns[1], (question,))
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
                wrong.append(f"the answer {text_name(text)!r} is not in its context")
                continue
        elif context[start : start + len(text)] != text or start < 0:
            there = context[max(start, 0) : max(start, 0) + len(text)]
            wrong.append(f"the answer {text_name(text)!r} is not at {start} of its context, {text_name(there)!r} is")
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


def _columns(name: str, data: Dataset, choice: Choice, notes: list[str]) -> list[str] | None:
    """Those of questions, contexts and answers; None: a test split without answers."""
    found: list[str] = []
    for role, named in zip(ROLES, choice, strict=True):
        try:
            found.append(find_column(data, role, named, found))
        except HftlError as error:
            if name == "test" and role is ANSWERS:
                notes.append(f"test: left out, it has no answers ({error})")
                return None
            raise HftlError(f"{name}: {error}") from None
    return found


def _read(name: str, data: Dataset, columns: Sequence[str]) -> tuple[_Questions, list[BadRow], list[BadRow]]:
    """The rows of a split, those that cannot be used, and answers that cannot although their questions have others."""
    questions, contexts = (_texts(data, column) for column in columns[:2])
    bad, wrong, keep = list[BadRow](), list[BadRow](), list[int]()
    answers: list[list[Answer]] = [[] for _ in questions]
    impossible = data.with_format(None)["is_impossible"][:] if "is_impossible" in data.column_names else None
    for row, cell in enumerate(_cells(data, columns[2])):
        question, context, others = questions[row], contexts[row], list[str]()
        reason = "" if question.strip() and context.strip() else "no context" if question.strip() else "no question"
        try:
            good, others = answers_of(cell, context)
            if impossible is not None and _is_true(impossible[row]) and good:
                reason = reason or "is_impossible is true, and there is an answer"
        except (ValueError, TypeError) as error:
            good, reason = [], reason or f"its answers cannot be read ({error})"
        if others and not good:
            reason = reason or others[0]
        if reason:
            bad.append(BadRow(name, row, text_name(question), reason))
            continue
        wrong += [BadRow(name, row, text_name(question), each) for each in others]
        keep.append(row)
        answers[row] = good
    table = {"question": questions, "context": contexts, "answers": list(map(_as_squad, answers))}
    rows = Dataset(pa.table({**table, "row": range(len(data))}, schema=FEATURES.arrow_schema))
    has_answer = np.array([len(found) > 0 for found in answers], dtype=np.int64)
    part = _Questions(
        name,
        rows,
        ("question", "context"),
        QUESTIONS,
        np.array(keep, dtype=np.int64),
        has_answer=has_answer,
        groups=_groups(data, contexts),
    )
    return part, bad, wrong


def _cells(data: Dataset, column: str) -> list[Any]:
    """What each row says of its answers; a column ``answer_start`` beside it counts where cells are plain texts."""
    cells: list[Any] = data.with_format(None)[column][:]
    if "answer_start" not in data.column_names or column == "answer_start":
        return cells
    starts = data.with_format(None)["answer_start"][:]
    if not all(not cell or isinstance(cell if isinstance(cell, str) else cell[0], str) for cell in cells):
        return cells
    return [{"text": cell, "answer_start": start} if cell else cell for cell, start in zip(cells, starts, strict=True)]


def _groups(data: Dataset, contexts: list[str]) -> list[str]:
    """What each row belongs to: its article, or its context."""
    titles = _texts(data, "title") if "title" in data.column_names else []
    if len(set(titles)) < 2:  # one title over all says nothing
        return contexts
    return [title or context for title, context in zip(titles, contexts, strict=True)]


def _as_squad(found: list[Answer]) -> dict[str, Any]:
    return {"text": [text for text, _ in found], "answer_start": [start for _, start in found]}


def _is_true(value: Any) -> bool:
    """What a cell of ``is_impossible`` says, whatever wrote it.

    Raises:
        ValueError: it says neither yes nor no.
    """
    said = str(value).strip().lower()
    if said not in ("true", "1", "1.0", "false", "0", "0.0", "", "none", "nan"):
        raise ValueError(f"is_impossible is {value!r}, which is neither true nor false")
    return said in ("true", "1", "1.0")


def _hidden(parts: list[_Questions], notes: list[str]) -> None:
    """Leave out a test split none of whose questions has an answer, where train's have: they are kept back."""
    last, train = parts[-1], parts[0]
    if last.name == "test" and not last.has_answer[last.keep].any() and train.has_answer[train.keep].any():
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


def _fitting(part: _Questions, why: Why) -> tuple[_Questions, list[BadRow]]:
    """The part less its questions that leave no room for a context, and these."""
    rows = part.keep.tolist()
    reasons = dict(zip(rows, why(part.data.select(part.keep)["question"][:]), strict=True))
    bad = [BadRow(part.name, row, part.name_of(row), reason) for row, reason in reasons.items() if reason]
    return replace(part, keep=np.setdiff1d(part.keep, [row.row for row in bad])), bad


def _texts(data: Dataset, column: str) -> list[str]:
    return [value or "" for value in data.with_format(None)[column][:]]


QUESTIONS = Kind(QUESTION, lambda question, _: text_name(question), digests=text_digests, nested=squad_rows)
