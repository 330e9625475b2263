from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features
from hypothesis import given
from hypothesis import strategies as st

from hftl.data.labels import check_labels, order_labels, quoted, read_labels, sort_names


def read(values: list[object], kind: pa.DataType | None = None):
    return read_labels(Dataset(pa.table({"label": pa.array(values, kind)})), "label")


def names_of(values: list[object], kind: pa.DataType | None = None) -> list[str | None]:
    column = read(values, kind)
    return [None if code < 0 else column.names[code] for code in column.codes]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["b", "a", None, "", " ", "NA", "b "], None, ["b", "a", None, None, None, "NA", "b "]),
        (["b", "a"], pa.large_string(), ["b", "a"]),
        ([10, 9, None, -1], None, ["10", "9", None, "-1"]),
        ([3], pa.uint8(), ["3"]),
        ([1.0, None, 2.0, float("nan")], None, ["1", None, "2", None]),
        ([True, None, False], None, ["True", None, "False"]),
        ([None, None], None, [None, None]),
        ([], pa.string(), []),
    ],
)
def test_values_become_names(values, kind, expected):
    assert names_of(values, kind) == expected


def test_class_labels_keep_their_order():
    features = Features({"label": ClassLabel(names=["zebra", "ant", "unused"])})
    column = read_labels(Dataset.from_dict({"label": [1, 0, None, -1]}, features=features), "label")
    assert column.codes.tolist() == [1, 0, -1, -1]
    assert order_labels({"train": column}) == ("zebra", "ant", "unused")


def test_a_class_label_without_enough_names(one_line_error):
    rows = Dataset(pa.table({"label": [0, 5]})).cast_column("label", ClassLabel(names=list("abcdef")))
    rows._info.features["label"] = ClassLabel(names=["a", "b"])
    with one_line_error("'label'", "5", "2 names"):
        read_labels(rows, "label")


def test_rows_that_were_selected_are_read_in_their_order():
    rows = Dataset.from_dict({"label": ["a", "b", "c", "d"]}).select([3, 1])
    column = read_labels(rows, "label")
    assert [column.names[code] for code in column.codes] == ["d", "b"]


def test_numbers_to_predict_are_no_classes(one_line_error):
    with one_line_error("'label'", "0.37", "regression", "--task.label-column"):
        read([1.0, 0.37])


def test_order(one_line_error):
    assert order_labels({"train": read(["b", "ä", "a"]), "test": read(["Z"])}) == ("Z", "a", "b", "ä")
    assert order_labels({"train": read([10, 9, 100])}) == ("9", "10", "100")
    assert order_labels({"train": read(["10", "9"])}) == ("9", "10")
    assert order_labels({"train": read([True, False])}) == ("False", "True")

    def declared(*names: str):
        return read_labels(
            Dataset.from_dict({"label": [0]}, features=Features({"label": ClassLabel(names=names)})), "label"
        )

    assert order_labels({"train": declared("b", "a"), "test": declared("a", "b")}) == ("b", "a")
    with one_line_error("train and test", "'c'"):
        order_labels({"train": declared("b", "a"), "test": declared("b", "a", "c")})


def test_ids_follow_the_names():
    assert read(["b", "a", None]).encode(("a", "x", "b")).tolist() == [2, 0, -1]


@given(st.lists(st.integers(-50, 50)))
def test_whole_numbers_sort_by_value(numbers):
    assert sort_names(str(number) for number in numbers) == [str(number) for number in sorted(numbers)]


def test_labels_that_not_all_splits_have(one_line_error):
    a, ab = {"a"}, {"a", "b"}
    assert check_labels({"train": ab, "test": ab}, ["test"], "error") == []
    assert check_labels({"train": ab}, [], "error") == []
    with one_line_error("test has the label 'b'", "train lacks"):
        check_labels({"train": a, "test": ab}, ["test"], "keep")
    with one_line_error("train alone has the label 'b'", "validation and test", "--task.lone-labels keep"):
        check_labels({"train": ab, "validation": a, "test": a}, ["validation", "test"], "error")
    assert check_labels({"train": ab, "test": a}, ["test"], "keep") == ["test: no row has the label 'b'"]
    # Not alone: one other split has it.
    assert len(check_labels({"train": ab, "validation": ab, "test": a}, ["validation", "test"], "error")) == 1


def test_names_in_messages_stay_on_one_line():
    assert quoted(["a\nb"]) == "the label 'a\\nb'"
    assert quoted(list("abcde")) == "the labels 'a', 'b', 'c' and 2 more"


def test_missing_is_the_last_entry_of_no_names():
    column = read([None])
    assert column.encode(("a",)).tolist() == [-1]
    assert column.used() == set()
    assert column.codes.dtype == np.int64
