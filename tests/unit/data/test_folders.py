from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from input_kinds import KINDS

from hftl.data.sources import load


def write(path: Path, text: str = "text,label\na,b\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def labels_of(folder: Path, kind: str = "image") -> dict[str, list[str]]:
    return {name: split["label"][:] for name, split in load(str(folder), kind=KINDS[kind]).splits.items()}


def test_class_folders(tmp_path, make_images):
    make_images(tmp_path, **{"Käfer": 2, "ant hill": 1})
    (tmp_path / "Käfer" / "deeper").mkdir()
    (tmp_path / "Käfer" / "Käfer0.png").rename(tmp_path / "Käfer" / "deeper" / "z.PNG")
    for junk in (".hidden.png", "__MACOSX/a.png", "Käfer/._a.png", "Käfer/Thumbs.db", ".git/x/a.png"):
        write(tmp_path / junk, "junk")
    found = load(str(tmp_path), kind=KINDS["image"])
    assert found.notes == ()
    assert found.splits["train"]["label"][:] == ["Käfer", "Käfer", "ant hill"]
    assert [Path(path).name for path in found.splits["train"]["image"]] == ["Käfer1.png", "z.PNG", "ant hill0.png"]


def test_order_does_not_depend_on_the_file_system(tmp_path, make_images, monkeypatch):
    make_images(tmp_path, b=3, a=3)
    first = load(str(tmp_path), kind=KINDS["image"]).splits["train"]["image"][:]
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(listing(self))))
    assert load(str(tmp_path), kind=KINDS["image"]).splits["train"]["image"][:] == first == sorted(first)


def test_other_files_in_class_folders_are_noted(tmp_path, make_images):
    make_images(tmp_path, ant=1, bee=1)
    write(tmp_path / "ant" / "notes.txt")
    write(tmp_path / "README.md")
    (note,) = load(str(tmp_path), kind=KINDS["image"]).notes
    assert "2 files" in note
    assert "notes.txt" in note


@pytest.mark.parametrize(("train", "validation", "test"), [("train", "val", "test"), ("Training", "dev", "eval")])
def test_splits_above_class_folders(train, validation, test, tmp_path, make_images):
    for number, split in enumerate((test, validation, train), 1):
        make_images(tmp_path / split, ant=number, bee=1)
    assert labels_of(tmp_path) == {
        "train": ["ant"] * 3 + ["bee"],
        "validation": ["ant"] * 2 + ["bee"],
        "test": ["ant", "bee"],
    }


def test_a_folder_that_is_no_split_is_left_out_with_a_note(tmp_path, make_images):
    make_images(tmp_path / "train", ant=1, bee=1)
    make_images(tmp_path / "extra", ant=1)
    make_images(tmp_path, test=2)
    found = load(str(tmp_path), kind=KINDS["image"])
    assert list(found.splits) == ["train"]
    assert [note.split("/")[0] for note in found.notes] == ["extra", "test"]


def test_classes_that_are_called_like_splits(tmp_path, make_images):
    make_images(tmp_path, car=1, train=1, test=1)
    assert labels_of(tmp_path) == {"train": ["car", "test", "train"]}


def test_texts_in_class_folders(tmp_path):
    write(tmp_path / "pos" / "1.txt", "\ufeffgood\nfilm")
    write(tmp_path / "neg" / "1.txt", "schlecht")
    train = load(str(tmp_path), kind=KINDS["text"]).splits["train"]
    assert list(train) == [{"text": "schlecht", "label": "neg"}, {"text": "good\nfilm", "label": "pos"}]


def test_data_files_by_split(tmp_path):
    write(tmp_path / "imdb_train.csv")
    write(tmp_path / "dev.jsonl", '{"text": "a", "label": "b"}\n')
    pq.write_table(pa.table({"text": ["a"], "label": ["b"]}), tmp_path / "test.parquet")
    write(tmp_path / "extra.csv")
    write(tmp_path / "README.md")
    write(tmp_path / "dataset_infos.json")
    found = load(str(tmp_path), kind=KINDS["text"])
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 1, "validation": 1, "test": 1}
    assert found.notes == ("extra.csv: left out, it is not named by a split",)


@pytest.mark.parametrize("inside", [".", "data"])
def test_shards_are_put_together_in_order(inside, tmp_path):
    (tmp_path / inside).mkdir(exist_ok=True)
    for number in (1, 0):
        table = pa.table({"text": [f"shard {number}"], "label": ["b"]})
        pq.write_table(table, tmp_path / inside / f"train-0000{number}-of-00002.parquet")
    assert load(str(tmp_path), kind=KINDS["text"]).splits["train"]["text"][:] == ["shard 0", "shard 1"]


def test_a_single_file_and_folders_of_files(tmp_path):
    write(tmp_path / "one" / "reviews.csv")
    assert labels_of(tmp_path / "one", "text") == {"train": ["b"]}
    for split in ("train", "test"):
        write(tmp_path / "two" / split / "part-0.csv")
        write(tmp_path / "two" / split / "part-1.csv")
    assert labels_of(tmp_path / "two", "text") == {"train": ["b", "b"], "test": ["b", "b"]}


@pytest.mark.parametrize("images", ["train/images", "train"])
def test_a_table_that_names_images_beside_it(images, tmp_path, make_images):
    make_images(tmp_path / images, x=2)
    place = "images/x" if images != "train" else "x"
    write(tmp_path / "train" / "metadata.csv", f"file_name,label\n{place}/x1.png,ant\n{place}/x0.png,bee\n")
    train = load(str(tmp_path), kind=KINDS["image"]).splits["train"]
    assert train["label"][:] == ["ant", "bee"]
    assert train["file_name"][0] == str(tmp_path / "train" / place / "x1.png")


def test_a_table_beside_its_images_and_no_splits(tmp_path, make_images):
    make_images(tmp_path, images=2)
    write(tmp_path / "labels.csv", "file,label\nimages/images0.png,ant\nimages/images1.png,bee\n")
    assert labels_of(tmp_path) == {"train": ["ant", "bee"]}


def test_saved_sets(tmp_path):
    rows = Dataset.from_dict({"text": ["a"], "label": ["b"]})
    DatasetDict({"train": rows, "val": rows}).save_to_disk(tmp_path / "dict")
    rows.save_to_disk(tmp_path / "single")
    assert labels_of(tmp_path / "dict", "text") == {"train": ["b"], "validation": ["b"]}
    assert labels_of(tmp_path / "single", "text") == {"train": ["b"]}


def test_a_damaged_saved_set(tmp_path, one_line_error):
    write(tmp_path / "state.json", "{}")
    write(tmp_path / "dataset_info.json", "{}")
    with one_line_error(str(tmp_path), "save it again"):
        load(str(tmp_path), kind=KINDS["text"])


def test_nothing_usable(tmp_path, make_images, one_line_error):
    def fails(*words: str, kind: str = "image") -> None:
        with one_line_error(*words):
            load(str(folder), kind=KINDS[kind])

    (folder := tmp_path / "empty").mkdir()
    fails(str(folder), "one sub-folder a class")

    make_images(tmp_path, flat=1)
    folder = tmp_path / "flat"
    fails(str(folder), "directly", "one sub-folder a class")

    make_images(folder := tmp_path / "flat_splits", train=1, test=1)
    fails("no class folders in test, train")

    make_images(folder := tmp_path / "hollow", ant=1, bee=0)
    fails(str(folder / "bee"), "no images", "remove it")

    make_images(folder := tmp_path / "images_for_text", ant=1, bee=1)
    fails(str(folder), "no .txt files", "ant/", kind="text")

    make_images((folder := tmp_path / "no_train") / "val", ant=1)
    make_images(folder / "test", ant=1)
    fails(str(folder), "no train split", "test, validation")

    make_images((folder := tmp_path / "twins") / "val", ant=1)
    make_images(folder / "valid", ant=1)
    make_images(folder / "train", ant=1)
    fails("val and valid", "keep one")

    write((folder := tmp_path / "choice") / "a.csv")
    write(folder / "b.csv")
    fails("a.csv, b.csv", "name one", kind="text")

    write((folder := tmp_path / "doubled") / "train.csv")
    write(folder / "train_clean.csv")
    fails("train.csv, train_clean.csv", "keep one", kind="text")

    write((folder := tmp_path / "unlike") / "train-0.csv")
    write(folder / "train-1.csv", "text,label\na,1\n")
    fails("train", "different columns", kind="text")

    (folder := tmp_path / "latin" / "pos").mkdir(parents=True)
    (folder / "1.txt").write_bytes("schön".encode("latin-1"))
    folder = folder.parent
    fails("1.txt", "UTF-8", kind="text")
