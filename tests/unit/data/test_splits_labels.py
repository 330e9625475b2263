"""Splits whose rows have any number of labels."""

from datasets import Dataset, List, Value

from hftl.data.splits import Splits


def texts(labels: list[object]) -> Dataset:
    return Dataset.from_dict({"text": [f"text {number}" for number in range(len(labels))], "label": labels})


# -- any number of labels a row --------------------------------------------------------------------------------------

TAGGED = texts([["a", "b"], ["b"], []] * 6)


def sets_of(splits: Splits, split: str) -> list[set[str]]:
    return [
        {label for label, has in zip(splits.labels, row, strict=True) if has} for row in splits.named()[split]["label"]
    ]


def test_lists_of_labels_become_multi_hot(prepare):
    splits = prepare({"train": TAGGED, "test": TAGGED})
    for split in splits.named().values():
        assert split.column_names == ["text", "label", "row"]
        assert split.features["label"] == List(Value("bool"), length=2)
    assert sets_of(splits, "test") == [{"a", "b"}, {"b"}, set()] * 6
    assert len(splits.train) + len(splits.validation) == 18  # a row without any label is a row
    assert splits.bad_rows == ()
    assert "any number a row" in splits.notes[-1]
    assert prepare({"train": TAGGED}).train._fingerprint == splits.train._fingerprint


def test_a_cut_keeps_the_proportions_of_the_rarest_labels(prepare):
    rows = texts([["common"]] * 60 + [["common", "rare"]] * 10 + [["lone", "common"]] + [[]] * 29)
    splits = prepare(rows)
    found = sets_of(splits, "validation")
    assert [found.count(labels) for labels in ({"common"}, {"common", "rare"}, set())] == [12, 2, 6]
    assert {"lone", "common"} in sets_of(splits, "train")
    assert "1 of the labels has too few rows" in splits.notes[0]


def test_no_label_loses_its_last_row_to_validation(prepare):
    """Where a label is never the rarest of its rows, its stratum cannot see to that."""
    rows = texts([["a", "z"], ["b", "z"], ["a"], ["b"]])
    for seed in range(20):
        splits = prepare(rows, seed=seed, validation_fraction=0.5)
        assert {"a", "b", "z"} == set().union(*sets_of(splits, "train"))


def test_columns_of_labels(prepare, one_line_error):
    rows = Dataset.from_dict(
        {"toxic": [1, 0] * 5, "text": ["x"] * 10, "threat": [0, 0, None, 0, 1] * 2, "id": [0] * 10}
    )
    splits = prepare({"train": rows, "test": rows}, label_columns=("toxic", "threat"))
    assert splits.labels == ("toxic", "threat")
    assert sets_of(splits, "test")[:3] == [{"toxic"}, set(), set()]
    assert [(bad.split, bad.row, bad.reason) for bad in splits.bad_rows] == [
        (split, row, "no label") for split in ("train", "test") for row in (2, 7)
    ]
    with one_line_error("train: no column 'insult'", "toxic, text, threat, id", "--task.label-columns"):
        prepare(rows, label_columns=("toxic", "insult"))
    with one_line_error("validation: label column 'toxic' holds 3 in row 0"):
        odd = Dataset.from_dict({"toxic": [3], "text": ["x"], "threat": [0]})
        prepare({"train": rows, "validation": odd}, label_columns=("toxic", "threat"))
    hidden = Dataset.from_dict({"text": ["x"], "toxic": [-1], "threat": [-1]})
    for test in (hidden, hidden.remove_columns("toxic")):
        notes = prepare({"train": rows, "test": test}, label_columns=("toxic", "threat")).notes
        assert any("test: left out" in note for note in notes)


def test_cells_with_several_labels(prepare, tmp_path):
    (tmp_path / "a.csv").write_text("text,labels\n" + "x,red|big\ny,big\nz,\n" * 4, encoding="utf-8")
    splits = prepare(tmp_path / "a.csv", label_separator="|")
    assert splits.labels == ("big", "red")
    assert splits.bad_rows == ()


def test_labels_that_a_sample_loses_are_named(prepare):
    rows = texts([["a", "z"], ["b", "z"], ["a"], ["b"]] * 3)
    notes = [prepare({"train": rows, "validation": rows}, max_rows=2, seed=seed).notes[0] for seed in range(10)]
    assert any("2 of 12 rows" in note and "none of them has the label 'z'" in note for note in notes)
    assert not all("none of them" in note for note in notes)


def test_sets_of_labels_are_checked_as_single_ones_are(prepare, one_line_error):
    with one_line_error("validation has the label 'c'", "train lacks"):
        prepare({"train": TAGGED, "validation": texts([["a", "b", "c"]])})
    with one_line_error("train alone has the label 'a'", "--task.lone-labels keep"):
        prepare({"train": TAGGED, "validation": texts([["b"], []])})
    with one_line_error("train: no row has any label"):
        prepare(texts([[], []]).cast_column("label", List(Value("string"))))
    with one_line_error("validation: 'label' holds lists in train and one label a row in validation"):
        prepare({"train": TAGGED, "validation": texts(["a", "b"])})
    with one_line_error("the label 'b'", "--task.label-map"):
        prepare(TAGGED, known_labels=("a", "x"))
    assert prepare(TAGGED, known_labels=("b", "x", "a")).train.features["label"].length == 3
    assert sorted(map(sorted, sets_of(prepare({"train": TAGGED, "test": TAGGED}, max_rows=6), "test"))) == [
        [], [], ["a", "b"], ["a", "b"], ["b"], ["b"]
    ]  # fmt: skip
