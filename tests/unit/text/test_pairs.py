"""Splits whose rows are pairs of texts, and rows that stand in them twice."""

import PIL.Image as Pillow
from datasets import Dataset

from hftl.data.splits import BadRow

# -- pairs of texts --------------------------------------------------------------------------------------------------


def claims(count: int = 20, **more: list[object]) -> Dataset:
    rows = {"premise": [f"p {number}" for number in range(count)], "hypothesis": [f"h {n}" for n in range(count)]}
    return Dataset.from_dict({**rows, "label": ["yes", "no"] * (count // 2), **more})


def test_pairs_are_found_and_it_is_said(prepare):
    splits = prepare({"train": claims(), "validation": claims(4)}, pairs=None)
    assert splits.train.column_names == ["text", "pair", "label", "row"]
    assert splits.validation[1] == {"text": "p 1", "pair": "h 1", "label": 0, "row": 1}
    (note,) = splits.notes
    assert "'premise' and 'hypothesis'" in note
    assert "--task.text-column" in note
    single = prepare({"train": claims(), "validation": claims(4)}, pairs=None, input_column="premise")
    assert single.train.column_names == ["text", "label", "row"]
    assert single.notes == ()
    named = prepare(claims(), pairs=None, input_column="hypothesis", pair_column="premise")
    assert named.train[0]["text"].startswith("h")
    assert named.train[0]["pair"].startswith("p")


def test_pairs_in_every_split(prepare, one_line_error):
    with one_line_error("validation", "no column 'hypothesis'", "train has"):
        prepare({"train": claims(), "validation": claims(4).remove_columns("hypothesis")}, pairs=None)


def test_rows_with_half_a_pair_are_skipped_and_listed(prepare):
    rows = Dataset.from_dict(
        {"text1": ["a", " ", "c d", None, "e"], "text2": ["1", "2", "\t", None, "5"], "label": list("xyxyy")}
    )
    splits = prepare({"train": rows, "validation": rows.select([0, 4])}, pairs=None)
    assert splits.train["row"][:] == [0, 4]
    assert [(bad.row, bad.name, bad.reason) for bad in splits.bad_rows] == [
        (1, " ||| 2", "no text"),
        (2, "c d ||| ", "no second text"),
        (3, " ||| ", "no text"),
    ]


# -- the same row twice ----------------------------------------------------------------------------------------------


def labelled(*texts: str) -> Dataset:
    """Rows with the labels a and b in turn."""
    return Dataset.from_dict({"text": list(texts), "label": (["a", "b"] * len(texts))[: len(texts)]})


LEAKY = {
    "train": labelled("one", "two", "Same  text", "four", "five", "same text"),
    "validation": labelled("other", "SAME text\n"),
    "test": labelled("another", "four"),
}


def test_rows_that_train_shares_with_another_split(prepare, one_line_error):
    noted = prepare(LEAKY, leaks="note")
    assert len(noted.train) == 6
    mend = "--task.leaks drop takes such rows out of train"
    assert noted.notes[:2] == (
        f"validation: 1 row is also in train; first: row 1 = train row 2: 'SAME text'; {mend}",
        f"test: 1 row is also in train; first: row 1 = train row 3: 'four'; {mend}",
    )
    with one_line_error("validation: 1 row is also in train", "--task.leaks drop"):
        prepare(LEAKY, leaks="error")
    dropped = prepare(LEAKY, leaks="drop")
    assert dropped.train["row"][:] == [0, 1, 4]
    assert dropped.validation["row"][:] == [0, 1]
    assert dropped.bad_rows == (
        BadRow("train", 2, "Same text", "also in validation"),
        BadRow("train", 3, "four", "also in test"),
        BadRow("train", 5, "same text", "also in validation"),
    )
    assert dropped.notes == ("train: 3 rows skipped; first row 2: Same text: also in validation",)
    assert prepare({**LEAKY, "train": labelled("x", "y"), "test": labelled("z", "w")}, leaks="error").notes == ()


def test_rows_that_the_cut_split_shares_with_train(prepare):
    rows = labelled(*(f"text {number // 4 * 2 + number % 2}" for number in range(40)))  # each twice, its label too
    (_, note) = prepare(rows, leaks="note").notes
    assert note.startswith("validation: ")
    assert "also in train" in note
    dropped = prepare(rows, leaks="drop")
    assert not {*dropped.train["text"]} & {*dropped.validation["text"]}
    assert len(dropped.validation) == 8
    assert len(dropped.train) + 8 + len(dropped.bad_rows) == 40


def test_all_of_train_or_of_a_label_leaks(prepare, one_line_error):
    with one_line_error("train: none of its rows", "row 0: one: also in test"):
        prepare({"train": labelled("one", "two"), "test": labelled("one", "two")}, leaks="drop")
    with one_line_error("test has the label 'b'", "train lacks"):
        rows = {"train": labelled("one", "two", "three"), "test": labelled("four", "two")}
        prepare(rows, leaks="drop", known_labels=("a", "b"))


def test_the_same_text_with_another_label_is_noted(prepare):
    rows = labelled("one", "two", "ONE", "One", "three", "four", "two", "two")
    (note,) = prepare({"train": rows, "validation": labelled("x", "y")}, leaks="note").notes
    assert note == (
        "train: 2 rows have the input of an earlier row, but another label; first: row 3 is 'b', row 0 is 'a': 'one'"
    )


def test_a_pair_is_the_same_where_both_texts_are(prepare):
    rows = Dataset.from_dict({"text1": ["a", "a", "b c"], "text2": ["x", "y", "z"], "label": ["n", "m", "n"]})
    other = Dataset.from_dict({"text1": ["A", "b", "a"], "text2": ["X ", "c z", "w"], "label": ["n", "m", "n"]})
    (_, note) = prepare({"train": rows, "validation": other}, pairs=None, leaks="note").notes
    assert "validation: 1 row is also in train; first: row 0 = train row 0: 'A ||| X'" in note


def test_an_image_is_the_same_under_another_name_and_in_another_format(prepare, make_images, tmp_path):
    make_images(tmp_path / "train", ant=3, bee=3)
    make_images(tmp_path / "test", extension=".jpg", ant=5, bee=4)
    Pillow.open(tmp_path / "train" / "ant" / "ant1.png").save(tmp_path / "test" / "ant" / "x.bmp")
    (tmp_path / "train" / "bee" / "copy.jpg").write_bytes((tmp_path / "test" / "bee" / "bee0.jpg").read_bytes())
    splits = prepare(tmp_path, "image", leaks="drop")
    assert [(bad.split, bad.reason) for bad in splits.bad_rows] == [("train", "also in test")] * 2
    names = [bad.name.rpartition("/")[2] for bad in splits.bad_rows]
    assert names == ["ant1.png", "copy.jpg"]
    make_images(tmp_path / "alone", ant=3, bee=3)
    assert prepare(tmp_path / "alone", "image", leaks="error").bad_rows == ()
