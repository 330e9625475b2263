"""Questions from whatever holds them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from input_kinds import KINDS

from hftl.data import sources
from hftl.data.splits import Rules, Splits
from hftl.text import questions

CONTEXT = "Ada Lovelace wrote the first program in 1843. Ada was a countess."
ROWS: list[dict[str, Any]] = [
    {"question": "Who wrote it?", "context": CONTEXT, "answers": {"text": ["Ada Lovelace"], "answer_start": [0]}},
    {"question": "When?", "context": CONTEXT, "answers": {"text": ["1843", "in 1843"], "answer_start": [40, 37]}},
    {"question": "Where?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
]
EXPECTED = [row["answers"] for row in ROWS]


def read(data: Any, **options: Any) -> Splits:
    columns, max_rows = options.pop("columns", (None, None, None)), options.pop("max_rows", None)
    seed, why = options.pop("seed", 0), options.pop("too_long", lambda texts: [None] * len(texts))
    rules = Rules(**{"validation_fraction": 0.0, **options})
    found = sources.load(data if isinstance(data, datasets.Dataset | dict) else str(data), kind=KINDS["question"])
    return questions.prepare(found, columns, rules, max_rows, seed, why)


def squad(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows as SQuAD's files have them."""
    paragraphs = []
    for number, row in enumerate(rows):
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        asked = {"question": row["question"], "id": str(number), "answers": answers, "is_impossible": not answers}
        paragraphs.append({"context": row["context"], "qas": [asked]})
    return {"version": "v2.0", "data": [{"title": "Ada", "paragraphs": paragraphs}]}


def as_csv(path: Path, cells: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "context", "answers"])
        writer.writerows([row["question"], row["context"], cell] for row, cell in zip(ROWS, cells, strict=True))
    return path


def test_a_file_of_squad(tmp_path: Path) -> None:
    for name, rows in (("train", ROWS), ("dev", ROWS[:1])):
        (tmp_path / f"{name}.json").write_text(json.dumps(squad(rows), indent=1))
    found = read(tmp_path)
    assert list(found.train["answers"]) == EXPECTED
    assert found.validation["question"][:] == ["Who wrote it?"]
    assert found.labels == ()
    assert "train: 1 of 3 questions have no answer" in found.notes


@pytest.mark.parametrize("extension", ["jsonl", "parquet", "objects"])
def test_tables_in_the_hub_s_form(extension: str, tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS)
    path = tmp_path / f"train.{extension}"
    if extension == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif extension == "parquet":
        data.to_parquet(str(path))
    assert list(read(data if extension == "objects" else path).train["answers"]) == EXPECTED


def test_cells_of_csv_files(tmp_path: Path) -> None:
    written = [json.dumps(answers) for answers in EXPECTED]
    assert list(read(as_csv(tmp_path / "json.csv", written)).train["answers"]) == EXPECTED
    written = [str(answers) for answers in EXPECTED]
    assert list(read(as_csv(tmp_path / "python.csv", written)).train["answers"]) == EXPECTED
    by_pandas = "{'text': array(['1843'], dtype=object), 'answer_start': array([40], dtype=int32)}"
    found = read(as_csv(tmp_path / "pandas.csv", [by_pandas.replace("1843", "Ada").replace("40", "46"), by_pandas, ""]))
    assert [answers["answer_start"] for answers in found.train["answers"]] == [[46], [40], []]
    found = read(as_csv(tmp_path / "plain.csv", ["countess", "1843", ""]))
    assert [answers["answer_start"] for answers in found.train["answers"]] == [[CONTEXT.index("countess")], [40], []]


def test_an_answer_that_is_not_where_it_should_be_is_named(one_line_error: Any) -> None:
    rows = [
        {**ROWS[0], "answers": {"text": ["Ada Lovelace"], "answer_start": [1]}},
        {**ROWS[1], "answers": {"text": ["1843", "1843"], "answer_start": [40, -3]}},
        {**ROWS[0], "question": " "},
        ROWS[2],
    ]
    found = read(datasets.Dataset.from_list(rows))
    assert found.train["row"][:] == [1, 3]
    assert found.train[0]["answers"] == {"text": ["1843"], "answer_start": [40]}
    assert [(bad.row, bad.reason) for bad in found.bad_rows] == [
        (0, "the answer 'Ada Lovelace' is not at 1 of its context, 'da Lovelace' is"),
        (2, "no question"),
        (1, "the answer '1843' is not at -3 of its context, 'Ada' is"),
    ]
    assert any("2 rows skipped" in note for note in found.notes)
    assert any("1 answer left out" in note for note in found.notes)
    with one_line_error("train row 0", "Ada Lovelace", "--task.bad-rows skip"):
        read(datasets.Dataset.from_list(rows), bad_rows="error")
    with one_line_error("train", "none of its rows can be used"):
        read(datasets.Dataset.from_list(rows[:1]))


@pytest.mark.parametrize(("yes", "no"), [(True, False), ("True", "False"), ("1", "0"), (1.0, 0.0), (True, None)])
def test_an_impossible_question_has_no_answer(yes: Any, no: Any) -> None:
    told = [no, yes, yes]
    data = datasets.Dataset.from_list([{**r, "is_impossible": each} for r, each in zip(ROWS, told, strict=True)])
    found = read(data)
    assert [len(answers["text"]) for answers in found.train["answers"]] == [1, 0]
    (bad,) = found.bad_rows
    assert (bad.row, bad.reason) == (1, "is_impossible is true, and there is an answer")


def test_answers_and_where_they_start_in_columns_of_their_own(tmp_path: Path) -> None:
    lines = ["question,context,answer,answer_start"]
    lines += [f'{q},"{CONTEXT}",{cell}' for q, cell in (("Who?", "Ada,46"), ("When?", "1843,40.0"), ("Where?", ","))]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    assert list(read(tmp_path / "train.csv").train["answers"]) == [
        {"text": ["Ada"], "answer_start": [46]},
        {"text": ["1843"], "answer_start": [40]},
        {"text": [], "answer_start": []},
    ]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ({"text": "1843", "answer_start": 40.0}, [("1843", 40)]),
        ({"text": [None, "1843"], "answer_start": [0, 40]}, [("1843", 40)]),
        (1843, [("1843", 40)]),
        ('"Ada"', [("Ada", 0)]),
        (["Ada", "countess"], [("Ada", 0), ("countess", CONTEXT.index("countess"))]),
        (None, []),
    ],
)
def test_what_a_cell_may_hold(cell: Any, expected: list[tuple[str, int]]) -> None:
    assert questions.answers_of(cell, CONTEXT) == (expected, [])


def test_cells_that_hold_something_else() -> None:
    for cell, said in (({"answer": "Ada"}, "text is missing"), ({"text": "Ada", "answer_start": 0.5}, "whole number")):
        (tmp,) = read(datasets.Dataset.from_list([{**ROWS[0], "answers": cell}, {**ROWS[0], "answers": None}])).bad_rows
        assert said in tmp.reason


def test_a_test_split_without_answers_is_left_out() -> None:
    train = datasets.Dataset.from_list(ROWS)
    for test in (train.remove_columns("answers"), train.select([2])):
        found = read({"train": train, "validation": train, "test": test})
        assert found.test is None
        assert any(note.startswith("test: left out") for note in found.notes)


def test_one_title_over_everything_does_not_keep_a_split_from_being_cut() -> None:
    for title in ("Ada", None):
        rows = [{**ROWS[0], "context": f"{CONTEXT} {number}", "title": title} for number in range(10)]
        assert len(read(datasets.Dataset.from_list(rows), validation_fraction=0.2).validation) == 2


def test_leaks_that_leave_nothing_are_one_line(one_line_error: Any) -> None:
    data = {"train": datasets.Dataset.from_list(ROWS), "validation": datasets.Dataset.from_list(ROWS)}
    with one_line_error("train", "none of its rows can be used", "also in validation"):
        read(data, leaks="drop")


def test_no_context_is_in_both_splits_where_one_is_cut() -> None:
    rows = [{**ROWS[0], "context": f"{CONTEXT} {number // 3}", "question": f"Who? {number}"} for number in range(30)]
    data = datasets.Dataset.from_list(rows)
    found = read(data, validation_fraction=0.2)
    assert len(found.validation) == 6
    assert not set(found.train["context"]) & set(found.validation["context"])
    assert found.validation["row"][:] == read(data, validation_fraction=0.2).validation["row"][:]
    assert found.validation["row"][:] != read(data, validation_fraction=0.2, seed=1).validation["row"][:]


def test_samples_keep_the_share_of_unanswered_questions() -> None:
    rows = [{**ROWS[number % 3], "question": f"Who? {number}"} for number in range(60)]
    found = read(datasets.Dataset.from_list(rows), max_rows=12)
    assert sum(not answers["text"] for answers in found.train["answers"]) == 4


def test_leaks_are_by_question_and_context() -> None:
    other = {**ROWS[0], "context": f"{CONTEXT} More."}
    data = {"train": datasets.Dataset.from_list(ROWS), "validation": datasets.Dataset.from_list([ROWS[1], other])}
    assert any("1 row is also in train" in note for note in read(data, leaks="note").notes)
    assert read(data, leaks="drop").train["row"][:] == [0, 2]


def test_mistakes_are_one_line(tmp_path: Path, one_line_error: Any) -> None:
    with one_line_error("no question column found", "--task.question-column"):
        read(datasets.Dataset.from_list([{"a": 1, "context": "x", "answers": "y"}]))
    with one_line_error("no answers column found", "--task.answers-column"):
        read(datasets.Dataset.from_list([{"question": "a", "context": "x"}]))
    (tmp_path / "train.json").write_text(json.dumps({"data": [{"paragraphs": [{"qas": [{}]}]}]}))
    with one_line_error("train.json", "not as SQuAD has it", "context"):
        read(tmp_path / "train.json")
    (tmp_path / "empty").mkdir()
    with one_line_error("empty", ".json"):
        read(tmp_path / "empty")
