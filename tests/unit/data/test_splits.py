from __future__ import annotations

import csv
import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from input_kinds import KINDS
from PIL import Image as Pillow

from hftl.data.checks import BadRow, write_bad_rows
from hftl.data.splits import Splits


def texts(labels: list[object], **more: list[object]) -> Dataset:
    return Dataset.from_dict({"text": [f"text {number}" for number in range(len(labels))], "label": labels, **more})


def names_of(splits: Splits, split: str) -> list[str]:
    return [splits.labels[label] for label in splits.named()[split]["label"]]


TWENTY = texts(["a", "b"] * 10)
FOUR = texts(["a", "b"] * 2)


def test_the_shape_of_the_result(prepare):
    splits = prepare({"train": TWENTY, "validation": FOUR, "test": FOUR})
    assert list(splits.named()) == ["train", "validation", "test"]
    for split in splits.named().values():
        assert split.column_names == ["text", "label", "row"]
        assert split.features["label"] == ClassLabel(num_classes=len(splits.labels))
        assert split.features["row"] == Value("int64")
    assert splits.labels == ("a", "b")
    assert splits.train[3] == {"text": "text 3", "label": 1, "row": 3}
    assert splits.notes == ()
    assert splits.bad_rows == ()


def test_columns_of_other_names_and_roles(prepare):
    rows = Dataset.from_dict(
        {"row": ["x", "y"] * 4, "label": [1.5] * 8, "kind": ["a", "b"] * 4, "text": list(range(8))}
    )
    splits = prepare(rows, input_column="row", label_column="kind")
    assert splits.train.column_names == ["text", "label", "row"]
    assert set(splits.train["text"]) == {"x", "y"}


def test_columns_found_by_type_are_noted(prepare):
    splits = prepare(Dataset.from_dict({"words": ["x", "y"] * 4, "mood": [0, 1] * 4}))
    assert "'words' is taken for the text" in splits.notes[0]
    assert "--task.label-column" in splits.notes[1]
    named = prepare(Dataset.from_dict({"words": ["x", "y"] * 4, "mood": ["a", "b"] * 4}), label_column="mood")
    assert not any("mood" in note for note in named.notes)


def test_the_same_columns_in_every_split(prepare, one_line_error):
    with one_line_error("validation", "no column 'text'", "train has"):
        prepare({"train": TWENTY, "validation": FOUR.rename_column("text", "body")})
    with one_line_error("train: no label column", "--task.label-column"):
        prepare(TWENTY.remove_columns("label"))
    with one_line_error("validation: column 'text' is int64"):
        prepare({"train": TWENTY, "validation": Dataset.from_dict({"text": [1], "label": ["a"]})})


def test_a_validation_split_is_cut_from_train(prepare):
    rows = texts(["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["lone"])
    splits = prepare({"train": rows, "test": rows})
    assert sorted(names_of(splits, "validation")) == ["a"] * 12 + ["b"] * 6 + ["c"] * 2
    assert "lone" in names_of(splits, "train")
    assert sorted([*splits.train["row"], *splits.validation["row"]]) == list(range(100))
    assert len(splits.test) == 100
    (note,) = splits.notes
    assert "20 of train's 100 rows" in note
    assert "seed 0" in note
    assert "1 of the labels has too few rows" in note


def test_the_seed_alone_decides_the_cut(prepare):
    first, again, other = (prepare(texts(["a", "b"] * 50), seed=seed).validation["row"][:] for seed in (0, 0, 1))
    assert first == again != other
    assert len(prepare(texts(["a", "b"] * 50), validation_fraction=0.5).validation) == 50


def test_nothing_to_cut(prepare, one_line_error):
    with one_line_error("no label has two rows", "label column"):
        prepare(texts(["a", "b", "c"]))


def test_max_rows_of_every_split(prepare):
    rows = texts(["a"] * 70 + ["b"] * 30)
    splits = prepare({"train": rows, "validation": rows, "test": FOUR}, max_rows=10)
    assert sorted(names_of(splits, "train")) == ["a"] * 7 + ["b"] * 3
    assert len(splits.validation) == 10
    assert len(splits.test) == 4
    assert [note.split(":")[0] for note in splits.notes] == ["train", "validation"]
    assert all("10 of 100 rows" in note for note in splits.notes)
    assert splits.train["text"][:] == [f"text {row}" for row in splits.train["row"]]


def test_max_rows_for_fewer_rows_than_labels(prepare, one_line_error):
    with one_line_error("--task.max-rows 4", "5 labels", "10 or more"):
        prepare(texts(list("abcde") * 5), max_rows=4)


def test_rows_without_text_or_label_are_skipped_and_listed(prepare, one_line_error, tmp_path):
    rows = Dataset.from_dict(
        {
            "text": ["fine", None, " \n\u00a0", "with\nline " + "x" * 80, "fine", "ok"],
            "label": ["a", "a", "b", None, "b", "a"],
        }
    )
    splits = prepare({"train": rows, "validation": FOUR})
    assert splits.train["row"][:] == [0, 4, 5]
    assert splits.bad_rows == (
        BadRow("train", 1, "", "no text"),
        BadRow("train", 2, "", "no text"),
        BadRow("train", 3, "with line " + "x" * 50, "no label"),
    )
    assert splits.notes == ("train: 3 rows skipped; first row 1: (blank): no text",)
    write_bad_rows(tmp_path / "bad.csv", splits.bad_rows)
    with (tmp_path / "bad.csv").open(encoding="utf-8") as file:
        assert list(csv.reader(file))[:2] == [["split", "row", "name", "reason"], ["train", "1", "", "no text"]]
    with one_line_error("train row 1", "no text", "2 more bad rows", "--task.bad-rows skip"):
        prepare({"train": rows, "validation": FOUR}, bad_rows="error")


def test_a_split_of_bad_rows_alone(prepare, one_line_error):
    with one_line_error("validation: none of its rows", "row 0", "no label"):
        prepare({"train": TWENTY, "validation": texts([None, ""])})


def test_hidden_or_missing_test_labels(prepare):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    train = Dataset.from_dict({"text": ["x", "y"] * 5, "label": [0, 1] * 5}, features=features)
    hidden = Dataset.from_dict({"text": ["x"], "label": [-1]}, features=features)
    for test in (hidden, hidden.remove_columns("label"), hidden.select([])):
        splits = prepare({"train": train, "test": test})
        assert splits.test is None
        assert "test: left out" in splits.notes[0]
        assert splits.labels == ("no", "yes")


def test_an_empty_train_split(prepare, one_line_error):
    with one_line_error("train", "no rows"):
        prepare({"train": FOUR.select([])})


def test_labels_of_one_split_only(prepare, one_line_error):
    with one_line_error("validation has the label 'c'", "train lacks"):
        prepare({"train": TWENTY, "validation": texts(["a", "b", "c"])})
    with one_line_error("train alone has the label 'b'", "--task.lone-labels keep"):
        prepare({"train": TWENTY, "validation": texts(["a"])})
    splits = prepare({"train": TWENTY, "validation": texts(["a"])}, lone_labels="keep")
    assert splits.labels == ("a", "b")
    assert splits.notes == ("validation: no row has the label 'b'",)


def test_a_sample_is_checked_as_the_whole_set_is(prepare, one_line_error):
    with one_line_error("validation has the label 'rare'"):
        prepare({"train": TWENTY, "validation": texts(["a", "b"] * 50 + ["rare"])}, max_rows=4)


def test_one_label(prepare, one_line_error):
    with one_line_error("the label 'a'", "two labels"):
        prepare(texts(["a"] * 4))
    assert prepare(texts(["a"] * 4), known_labels=("b", "a")).labels == ("b", "a")


def test_the_same_ids_in_splits_of_other_types(prepare):
    splits = prepare({"train": texts([10, 9] * 3), "validation": texts(["9", "10"]), "test": texts([9.0, 10.0])})
    assert splits.labels == ("9", "10")
    assert [splits.named()[name]["label"][:2] for name in ("train", "validation", "test")] == [[1, 0], [0, 1], [0, 1]]


def test_known_labels_give_the_order(prepare, one_line_error):
    assert prepare(TWENTY, known_labels=("b", "x", "a")).train["label"][0] == 2
    with one_line_error("the label 'a'", "'POS'", "--task.label-map"):
        prepare(TWENTY, known_labels=("POS", "b"))


def test_declared_labels_without_rows_and_near_twins_are_noted(prepare):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "No ", "yes"])})
    rows = Dataset.from_dict({"text": ["x", "y"] * 5, "label": [0, 1] * 5}, features=features)
    notes = prepare(rows).notes
    assert "'no' and 'No '" in notes[0]
    assert "no row has the label 'yes'" in notes[1]


def test_unicode_labels_and_a_csv(prepare, tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "x,Käfer 🐞\ny,蚂蚁\n" * 5, encoding="utf-8")
    assert prepare(tmp_path / "a.csv").labels == ("Käfer 🐞", "蚂蚁")


def test_selected_and_formatted_objects(prepare):
    parts = texts(["a", "b"] * 20).train_test_split(0.25, seed=3)
    splits = prepare(DatasetDict({"train": parts["train"].with_format("numpy"), "test": parts["test"]}))
    expected = parts["train"].with_format(None)
    for row in splits.train:
        assert expected[row["row"]]["text"] == row["text"]
        assert expected[row["row"]]["label"] == splits.labels[row["label"]]


def test_the_same_data_give_the_same_fingerprint(prepare):
    first, again = (prepare({"train": TWENTY}, seed=1) for _ in range(2))
    assert first.train._fingerprint == again.train._fingerprint


@pytest.fixture
def pictures(tmp_path, make_images):
    """Two classes of six images, one each cut short, and one that is no image."""
    make_images(tmp_path / "pictures", extension=".jpg", ant=6, bee=6)
    short = tmp_path / "pictures" / "ant" / "ant0.jpg"
    short.write_bytes(short.read_bytes()[:-80])
    (tmp_path / "pictures" / "bee" / "bee5.jpg").write_text("<html>")
    return tmp_path / "pictures"


def test_unreadable_images_are_skipped_and_listed(prepare, pictures, one_line_error, capfd):
    splits = prepare(pictures, "image")
    assert splits.labels == ("ant", "bee")
    assert [(bad.row, bad.name) for bad in splits.bad_rows] == [
        (0, str(pictures / "ant" / "ant0.jpg")),
        (11, str(pictures / "bee" / "bee5.jpg")),
    ]
    assert "truncated" in splits.bad_rows[0].reason
    assert len(splits.train) + len(splits.validation) == 10
    assert "2 rows skipped" in splits.notes[0]
    assert splits.train[0]["image"].endswith(".jpg")
    assert capfd.readouterr() == ("", "")
    with one_line_error("ant0.jpg", "truncated", "1 more", "--task.bad-rows skip"):
        prepare(pictures, "image", bad_rows="error")


def test_max_rows_leaves_other_images_unopened(prepare, pictures, monkeypatch):
    from hftl.data.kinds import Examined

    opened = []
    watched = dataclasses.replace(KINDS["image"], examine=lambda value: opened.append(value) or Examined(None, 0))
    monkeypatch.setitem(KINDS, "image", watched)
    prepare(pictures, "image", max_rows=6)
    assert len(opened) == 6


def test_no_image_can_be_read(prepare, tmp_path, one_line_error):
    (tmp_path / "a.csv").write_text("file,label\na.jpg,x\nb.jpg,y\n")
    with one_line_error("train: none of its rows", "a.jpg", "no such file"):
        prepare(tmp_path / "a.csv", "image")


def test_a_label_of_bad_rows_alone(prepare, pictures, make_images, one_line_error):
    for path in (pictures / "ant").iterdir():
        path.write_text("no")
    with one_line_error("all 5 usable rows of train have the label 'bee'", "two labels"):
        prepare(pictures, "image")
    make_images(pictures, wasp=4)
    assert any("no row has the label 'ant'" in note for note in prepare(pictures, "image").notes)
    rows = Dataset.from_dict({"text": ["x", "y", "x", "y", " "], "label": ["a", "b", "a", "b", "c"]})
    assert prepare(rows).labels == ("a", "b")


def test_a_label_lost_by_skipping(prepare, pictures, make_images, one_line_error):
    for number in range(6):
        (pictures / "ant" / f"ant{number}.jpg").write_text("no")
    with one_line_error("test has the label 'ant'", "train lacks"):
        make_images(pictures.parent / "good", ant=1, bee=1)
        rows = {
            "train": Dataset.from_dict(
                {"image": sorted(map(str, pictures.rglob("*.jpg"))), "label": ["ant"] * 6 + ["bee"] * 6}
            ),
            "test": Dataset.from_dict(
                {"image": sorted(map(str, pictures.parent.rglob("good/*/*"))), "label": ["ant", "bee"]}
            ),
        }
        prepare(rows, "image")


def encoded(pictures) -> list[bytes]:
    return [path.read_bytes() for path in sorted(pictures.rglob("*.jpg"))]


@pytest.mark.parametrize("form", ["struct", "binary", "feature", "decoded"])
def test_images_as_bytes(form, prepare, pictures):
    data, labels = encoded(pictures)[1:11], ["ant"] * 5 + ["bee"] * 5
    if form == "binary":
        pq.write_table(pa.table({"img": data, "label": labels}), pictures.parent / "train.parquet")
        source = pictures.parent / "train.parquet"
    else:
        source = Dataset.from_dict({"image": [{"bytes": one, "path": None} for one in data], "label": labels})
        if form != "struct":
            source = source.cast_column("image", Image(decode=form == "decoded"))
    splits = prepare(source, "image")
    assert splits.bad_rows == ()
    row = splits.train[0]
    assert row["image"] == {"bytes": data[row["row"]], "path": None}


def test_images_in_memory(prepare):
    images = [Pillow.new("RGB", (8, 8), (number, 0, 0)) for number in range(10)]
    splits = prepare(Dataset.from_dict({"image": images, "label": ["a", "b"] * 5}), "image")
    assert len(splits.train) == 8
    assert splits.train[0]["image"]["bytes"].startswith(b"\x89PNG")


def test_a_missing_image(prepare):
    image = {"bytes": encoded_png(), "path": None}
    rows = Dataset.from_dict({"image": [image, None, image, image, image, image], "label": ["a", "b"] * 3})
    assert prepare(rows, "image").bad_rows == (BadRow("train", 1, "no image", "no image"),)


def encoded_png() -> bytes:
    import io

    buffer = io.BytesIO()
    Pillow.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def test_names_in_two_unicode_forms_are_noted(prepare):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    splits = prepare(texts([composed, decomposed, "x"] * 4))
    assert splits.labels == (decomposed, composed, "x")
    assert f"labels: '{decomposed}' and '{composed}' differ only in the Unicode form" in splits.notes[0]
    assert "differ only in capitals" in prepare(texts(["a", "A"] * 4)).notes[0]
