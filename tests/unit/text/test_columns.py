from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, Features, Value

from hftl.text.columns import find_texts

ONE: dict[str, Any] = {"string": "a", "int64": 1}


def table(**columns: str) -> Dataset:
    """One row; columns by their types."""
    features = Features({name: Value(kind) for name, kind in columns.items()})
    return Dataset.from_dict({name: [ONE[kind]] for name, kind in columns.items()}, features=features)


GLUE = {"sentence2": "string", "Sentence1": "string", "idx": "int64"}


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"premise": "string", "hypothesis": "string"}, {}, ("premise", "hypothesis")),
        (GLUE, {}, ("Sentence1", "sentence2")),
        ({"question": "string", "sentence": "string", "label": "string"}, {}, ("question", "sentence")),
        ({"text": "string", "sentence1": "string"}, {}, ("text",)),
        ({"text": "string", "query": "int64", "document": "string"}, {}, ("text",)),
        (GLUE, {"text": "sentence2"}, ("sentence2",)),  # named alone: one text a row
        (GLUE, {"text": "Sentence1"}, ("Sentence1",)),
        (GLUE, {"text": "Sentence1", "pairs": True}, ("Sentence1", "sentence2")),
        (GLUE, {"pair": "sentence2"}, ("Sentence1", "sentence2")),
        (GLUE, {"text": "sentence2", "pair": "Sentence1"}, ("sentence2", "Sentence1")),
        ({"a": "string", "b": "string", "n": "int64"}, {"pair": "a"}, ("b", "a")),
        ({"text": "string", "premise": "string", "hypothesis": "string"}, {"pairs": False}, ("text",)),
        ({"question": "string", "passage": "string", "text": "string"}, {"taken": ["passage"]}, ("text",)),
    ],
)
def test_one_text_or_a_pair(columns, options, expected):
    usual: dict[str, Any] = {"text": None, "pair": None, "pairs": None, "taken": ()}
    assert tuple(find_texts(table(**columns), **{**usual, **options})) == expected


def test_pairs_that_are_not_there(one_line_error):
    rows = table(body="string", other="string", n="int64")
    with one_line_error("no column 'second'", "other (string)", "--task.pair-column"):
        find_texts(rows, (), text=None, pair="second", pairs=None)
    with one_line_error("'n' is int64", "--task.pair-column"):
        find_texts(rows, (), text=None, pair="n", pairs=None)
    with one_line_error("no known pair", "other (string)", "--task.pair-column"):
        find_texts(rows, (), text="body", pair=None, pairs=True)
