from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hftl.data.columns import find_column, find_texts

ONE: dict[str, Any] = {
    "string": "a", "int64": 1, "float64": 0.5, "bool": True, "binary": b"1", "class": 0,
    "image": {"bytes": b"", "path": "a.png"}, "list": [1], "lists": [[1]], "file": "x/a.JPG", "date32": None,
}  # fmt: skip
TYPES: dict[str, Any] = {"class": ClassLabel(names=["x"]), "image": Image(decode=False), "list": List(Value("int64")),
                         "lists": List(List(Value("int64"))), "file": Value("string")}  # fmt: skip


def table(**columns: str) -> Dataset:
    """One row; columns by their types."""
    features = Features({name: TYPES.get(kind) or Value(kind) for name, kind in columns.items()})
    return Dataset.from_dict({name: [ONE[kind]] for name, kind in columns.items()}, features=features)


@pytest.mark.parametrize(
    ("role", "columns", "expected"),
    [
        ("text", {"id": "string", "Text": "string"}, "Text"),
        ("text", {"title": "string", "content": "string", "text": "int64"}, "content"),
        ("text", {"comment_body": "string", "stars": "int64"}, "comment_body"),
        ("text", {"text ": "string", "label": "string"}, "text "),
        ("image", {"path": "file", "image": "image"}, "image"),
        ("image", {"img": "image", "label": "class"}, "img"),
        ("image", {"scan": "binary", "label": "class"}, "scan"),
        ("image", {"file_name": "file", "text": "string"}, "file_name"),
        ("image", {"where": "file", "label": "string"}, "where"),
        ("image", {"path": "string", "scan": "file"}, "scan"),
        ("label", {"text": "string", "target": "string", "Label": "int64"}, "Label"),
        ("label", {"text": "string", "y": "bool"}, "y"),
        ("label", {"text": "string", "stars": "int64", "id": "int64"}, "stars"),
        ("label", {"a": "string", "b": "class", "c": "int64"}, "b"),
        ("label", {"score": "float64", "kind": "string"}, "kind"),
        ("label", {"label": "float64"}, "label"),
        ("label", {"label": "date32", "kind": "string"}, "kind"),
        ("label", {"labels": "list", "kind": "string"}, "labels"),
    ],
)
def test_found_by_name_then_by_type(role, columns, expected):
    assert find_column(table(**columns), role, None, ["text"] if role == "label" else []) == expected


def test_a_struct_of_bytes_is_an_image():
    rows = Dataset.from_dict({"pic": [{"bytes": b"1", "path": None}], "meta": [{"n": 1}]})
    assert find_column(rows, "image", None, []) == "pic"


@pytest.mark.parametrize(
    ("role", "columns", "words"),
    [
        (
            "text",
            {"a": "string", "b": "string"},
            ["could be 'a' or 'b'", "a (string), b (string)", "--task.text-column"],
        ),
        ("text", {"n": "int64"}, ["no text column", "n (int64)", "--task.text-column"]),
        ("image", {"n": "string", "c": "class"}, ["no image column", "c (class label)", "--task.image-column"]),
        ("label", {"fine": "class", "coarse": "class"}, ["'fine' or 'coarse'", "--task.label-column"]),
        ("label", {"id": "int64", "x": "float64"}, ["no label column", "id (int64)", "--task.label-column"]),
        ("label", {"toxic": "int64", "threat": "int64"}, ["'toxic' or 'threat'", "--task.label-columns"]),
        ("label", {"tags": "list"}, ["no label column", "tags (list)"]),  # lists may be anything
        ("label", {"labels": "lists"}, ["no label column", "labels (list)"]),
    ],
)
def test_none_or_several(role, columns, words, one_line_error):
    with one_line_error(*words):
        find_column(table(**columns), role, None, [])


def test_named(one_line_error):
    rows = table(text="string", body="string", scan="string", score="float64", day="date32", tags="list")
    assert find_column(rows, "text", "body", []) == "body"
    assert find_column(rows, "image", "scan", []) == "scan"  # paths without an ending
    assert find_column(rows, "label", "score", []) == "score"
    with one_line_error("no column 'words'", "text (string)", "--task.text-column"):
        find_column(rows, "text", "words", [])
    with one_line_error("'score' is float64, no text", "--task.text-column"):
        find_column(rows, "text", "score", [])
    with one_line_error("'day' is date32, no label", "--task.label-column"):
        find_column(rows, "label", "day", [])
    assert find_column(rows, "label", "tags", []) == "tags"


GLUE = {"sentence2": "string", "Sentence1": "string", "idx": "int64"}


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"premise": "string", "hypothesis": "string"}, {}, ("premise", "hypothesis")),
        (GLUE, {}, ("Sentence1", "sentence2")),
        ({"question": "string", "sentence": "string", "label": "string"}, {}, ("question", "sentence")),
        ({"text": "string", "sentence1": "string"}, {}, ("text", None)),
        ({"text": "string", "query": "int64", "document": "string"}, {}, ("text", None)),
        (GLUE, {"text": "sentence2"}, ("sentence2", None)),  # named alone: one text a row
        (GLUE, {"text": "Sentence1"}, ("Sentence1", None)),
        (GLUE, {"text": "Sentence1", "pairs": True}, ("Sentence1", "sentence2")),
        (GLUE, {"pair": "sentence2"}, ("Sentence1", "sentence2")),
        (GLUE, {"text": "sentence2", "pair": "Sentence1"}, ("sentence2", "Sentence1")),
        ({"a": "string", "b": "string", "n": "int64"}, {"pair": "a"}, ("b", "a")),
        ({"text": "string", "premise": "string", "hypothesis": "string"}, {"pairs": False}, ("text", None)),
        ({"question": "string", "passage": "string", "text": "string"}, {"taken": ["passage"]}, ("text", None)),
    ],
)
def test_one_text_or_a_pair(columns, options, expected):
    usual: dict[str, Any] = {"text": None, "pair": None, "pairs": None, "taken": []}
    assert find_texts(table(**columns), **{**usual, **options}) == expected


def test_pairs_that_are_not_there(one_line_error):
    rows = table(body="string", other="string", n="int64")
    with one_line_error("no column 'second'", "other (string)", "--task.pair-column"):
        find_texts(rows, None, "second", None, [])
    with one_line_error("'n' is int64", "--task.pair-column"):
        find_texts(rows, None, "n", None, [])
    with one_line_error("no known pair", "other (string)", "--task.pair-column"):
        find_texts(rows, "body", None, True, [])
