import numpy as np

from hftl.data.leaks import Seen, find_contradictions, find_leaks


def seen(split: str, digests: list[int], first_row: int = 0) -> Seen:
    rows = np.arange(first_row, first_row + len(digests))
    return Seen(split, rows, np.array(digests, dtype=np.uint64), lambda row: f"{split} {row}")


def test_each_row_of_train_is_dropped_once():
    train = seen("train", [7, 8, 7, 9])
    dropped, notes = find_leaks(train, [seen("validation", [7, 5]), seen("test", [7, 9])], "drop")
    assert [(row.row, row.name, row.reason) for row in dropped] == [
        (0, "train 0", "also in validation"),
        (2, "train 2", "also in validation"),
        (3, "train 3", "also in test"),
    ]
    assert notes == []


def test_the_first_of_many_is_named_by_its_number_in_the_source():
    (note,) = find_leaks(seen("train", [1, 2, 3], 10), [seen("test", [0, 3, 2, 3], 100)], "note")[1]
    assert note.startswith("test: 3 rows are also in train; first: row 101 = train row 12: 'test 101'; ")


def test_contradictions_of_sets_of_labels():
    train = seen("train", [4, 5, 4, 5], 10)
    labels = np.array([[1, 0], [1, 1], [1, 0], [0, 1]], dtype=bool)
    (note,) = find_contradictions(train, labels, lambda row: f"label {row}")
    assert "1 row has the input of an earlier row" in note
    assert "row 13 is 'label 13', row 11 is 'label 11': 'train 11'" in note
    assert find_contradictions(train, labels[[0, 1, 0, 1]], str) == []
