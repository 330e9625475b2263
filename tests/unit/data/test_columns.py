from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from input_kinds import ROLES

from hftl.data.columns import find_column

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
    assert find_column(table(**columns), ROLES[role], None, ["text"] if role == "label" else []) == expected


def test_a_struct_of_bytes_is_an_image():
    rows = Dataset.from_dict({"pic": [{"bytes": b"1", "path": None}], "meta": [{"n": 1}]})
    assert find_column(rows, ROLES["image"], None, []) == "pic"


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
        find_column(table(**columns), ROLES[role], None, [])


def test_named(one_line_error):
    rows = table(text="string", body="string", scan="string", score="float64", day="date32", tags="list")
    assert find_column(rows, ROLES["text"], "body", []) == "body"
    assert find_column(rows, ROLES["image"], "scan", []) == "scan"  # paths without an ending
    assert find_column(rows, ROLES["label"], "score", []) == "score"
    with one_line_error("no column 'words'", "text (string)", "--task.text-column"):
        find_column(rows, ROLES["text"], "words", [])
    with one_line_error("'score' is float64, no text", "--task.text-column"):
        find_column(rows, ROLES["text"], "score", [])
    with one_line_error("'day' is date32, no label", "--task.label-column"):
        find_column(rows, ROLES["label"], "day", [])
    assert find_column(rows, ROLES["label"], "tags", []) == "tags"
