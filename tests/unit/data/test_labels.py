from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from hftl.data.labels import (
    LabelSets,
    check_labels,
    order_labels,
    quoted,
    read_flags,
    read_labels,
    read_targets,
    sort_names,
)


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


# -- any number of labels a row --------------------------------------------------------------------------------------


def sets_of(column: LabelSets) -> list[set[str] | None]:
    """The names that each row has; None where it says nothing."""
    return [
        None if missing else {column.names[code] for code in np.flatnonzero(row)}
        for row, missing in zip(column.has, column.missing, strict=True)
    ]


LISTS = pa.list_(pa.string())


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([["b", "a"], [], None, ["a"]], None, [{"a", "b"}, set(), None, {"a"}]),
        ([["a", " ", None, "a"], [""]], None, [{"a"}, set()]),
        ([[10, 9], [9]], None, [{"9", "10"}, {"9"}]),
        ([[1.0, float("nan")], []], None, [{"1"}, set()]),
        ([["a"], None], pa.large_list(pa.string()), [{"a"}, None]),
        ([["a", "b"], None, ["b", "a"]], pa.list_(pa.string(), 2), [{"a", "b"}, None, {"a", "b"}]),
        ([[], []], None, [set(), set()]),
        ([], LISTS, []),
        ([[0, 1], [1], []], None, [{"0", "1"}, {"1"}, set()]),  # ids, not multi-hot: none of them twice
    ],
)
def test_lists_become_sets_of_names(values, kind, expected):
    assert sets_of(read(values, kind)) == expected


def test_lists_in_several_pieces():
    table = pa.table({"label": pa.chunked_array([[["a"], None, []], [["b", "a"]]], LISTS)})
    assert sets_of(read_labels(Dataset(table), "label")) == [{"a"}, None, set(), {"a", "b"}]
    assert sets_of(read_labels(Dataset(table).select([3, 0]), "label")) == [{"a", "b"}, {"a"}]


def test_lists_of_class_labels_keep_their_order():
    features = Features({"label": List(ClassLabel(names=["zebra", "ant", "unused"]))})
    column = read_labels(Dataset.from_dict({"label": [[1, 0], [-1], []]}, features=features), "label")
    assert sets_of(column) == [{"zebra", "ant"}, set(), set()]
    assert order_labels({"train": column}) == ("zebra", "ant", "unused")


def test_multi_hot_lists_have_no_names(one_line_error):
    with one_line_error("'label'", "multi-hot", "--task.label-columns"):
        read([[0, 1, 0], [0, 0, 0]])
    with one_line_error("'label'", "multi-hot"):
        read([[1.0, 0.0, 0.0]])


def test_cells_are_split_and_blank_ones_are_empty(one_line_error):
    rows = Dataset(pa.table({"label": ["a | b c", "", None, "a|a|", "2"], "day": pa.array([0] * 5, pa.date32())}))
    assert sets_of(read_labels(rows, "label", "|")) == [{"a", "b c"}, set(), set(), {"a"}, {"2"}]
    assert sets_of(read_labels(Dataset.from_dict({"label": [2, 10]}), "label", ",")) == [{"2"}, {"10"}]
    with one_line_error("'day' is date32", "--task.label-separator"):
        read_labels(rows, "day", "|")


@pytest.mark.parametrize(
    "yes_no",
    [
        pa.array([1, 0, None, -1]),
        pa.array([1.0, 0.0, float("nan"), None]),
        pa.array([True, False, None, None]),
        pa.array(["TRUE", "false", "", "-1"]),
        pa.array([" 1", "0.0", " ", None]),
    ],
)
def test_columns_of_yes_and_no(yes_no):
    rows = Dataset(pa.table({"b": yes_no, "a": [0, 0, 0, 1]}))
    column = read_flags(rows, ["b", "a"])
    assert sets_of(column) == [{"b"}, set(), None, None]
    assert order_labels({"train": column}) == ("b", "a")  # as given


def test_what_is_no_yes_or_no(one_line_error):
    rows = Dataset(pa.table({"a": [0, 1, 2, 3], "b": [[1]] * 4}))
    with one_line_error("'a' holds 2 in row 2", "--task.label-columns"):
        read_flags(rows, ["a"])
    with one_line_error("'b' is list", "--task.label-columns"):
        read_flags(rows, ["b"])


def test_multi_hot_rows_follow_the_names():
    column = read([["b", "a"], [], ["b"]])
    assert column.encode(("a", "x", "b")).tolist() == [[True, False, True], [False] * 3, [False, False, True]]
    assert column.encode(("b",)).tolist() == [[True], [False], [True]]
    assert column.strata(("a", "x", "b")).tolist() == [0, -1, 2]
    assert column.take(np.array([1, 2])).used() == {"b"}
    assert column.without(np.array([True, False, False])).used() == {"b"}


def test_targets_are_read_as_they_were_written():
    features = Features({"label": List(Value("bool"), length=2)})
    rows = Dataset.from_dict({"label": [[True, False], [False, False]]}, features=features)
    assert read_targets(rows).tolist() == [[True, False], [False, False]]
    assert read_targets(rows.select([])).shape == (0, 2)
    assert read_targets(Dataset.from_dict({"label": [2, 0]})).tolist() == [2, 0]
