"""Recordings in every form that sources have, and those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Dataset, DatasetDict
from PIL import Image
from sound_files import RATE, encoded, noise

from hftl.data.checks import BadRow


@pytest.fixture
def make_sounds() -> Callable[..., None]:
    """Writes class folders: make_sounds(folder, owl=3, tit=2); no two of all its sounds are alike."""
    made = [0]

    def make(folder: Path, **counts: int) -> None:
        for label, count in counts.items():
            (folder / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (folder / label / f"{label}{number}.wav").write_bytes(sound(made[0]))
                made[0] += 1

    return make


def sound(seed: int) -> bytes:
    """A tenth of a second and a bit more for each seed."""
    return encoded(noise(RATE, 0.1 + seed / 1000, seed=seed))


def heard(splits: Any) -> list[Any]:
    """The sounds of train and validation in the order of the source."""
    rows = sorted((row["row"], row["audio"]) for part in (splits.train, splits.validation) for row in part)
    return [audio for _, audio in rows]


def test_a_folder_per_class(prepare, make_sounds, tmp_path):
    make_sounds(tmp_path / "birds", owl=6, tit=4)
    (tmp_path / "birds" / "owl" / "notes.txt").write_text("no sound")
    splits = prepare(tmp_path / "birds", "audio")
    assert splits.labels == ("owl", "tit")
    assert splits.train.column_names == ["audio", "label", "row", "digest", "seconds"]
    assert (len(splits.train), len(splits.validation)) == (8, 2)
    assert heard(splits) == sorted(str(path) for path in (tmp_path / "birds").rglob("*.wav"))
    assert "1 file that is no sound files left out" in splits.notes[0]
    order = np.argsort(splits.train["row"])
    assert np.diff(np.array(splits.train["seconds"])[order]).min() >= 0.001 - 1e-9
    assert len(set(splits.train["digest"])) == 8


def test_split_folders(prepare, make_sounds, tmp_path):
    for split, count in (("train", 4), ("valid", 2), ("test", 1)):
        make_sounds(tmp_path / "birds" / split, owl=count, tit=count)
    splits = prepare(tmp_path / "birds", "audio", leaks="note")
    assert [len(split) for split in splits.named().values()] == [8, 4, 2]
    assert splits.notes == ()


@pytest.mark.parametrize("column", ["path", "filename", "audio", "wav"])
def test_a_csv_of_paths_that_start_at_its_folder(column, prepare, make_sounds, tmp_path, monkeypatch):
    make_sounds(tmp_path / "birds" / "wavs", owl=4, tit=4)
    files = sorted((tmp_path / "birds" / "wavs").rglob("*.wav"))
    lines = [f"{path.relative_to(tmp_path / 'birds')},{path.parent.name}" for path in files]
    (tmp_path / "birds" / "train.csv").write_text("\n".join([f"{column},species", *lines]))
    monkeypatch.chdir("/")
    for source in (tmp_path / "birds" / "train.csv", tmp_path / "birds"):
        splits = prepare(source, "audio")
        assert (splits.bad_rows, splits.labels) == ((), ("owl", "tit"))
        assert heard(splits) == [str(path) for path in files]


@pytest.mark.parametrize("split_folders", [False, True])
def test_a_metadata_csv_as_of_an_audiofolder(split_folders, prepare, tmp_path):
    for number, split in enumerate(("train", "test")):
        folder = tmp_path / "birds" / (split if split_folders else "")
        folder.mkdir(parents=True, exist_ok=True)
        for row in range(6):
            (folder / f"{row}.wav").write_bytes(sound(10 * number + row))
        lines = [f"{row}.wav,{'owl' if row % 2 else 'tit'}" for row in range(6)]
        (folder / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    splits = prepare(tmp_path / "birds", "audio", leaks="note")
    assert splits.bad_rows == ()
    assert (splits.test is not None) == split_folders
    folder = tmp_path / "birds" / ("train" if split_folders else "")
    assert heard(splits) == [str(folder / f"{row}.wav") for row in range(6)]


@pytest.fixture
def birdclef(tmp_path, make_sounds):
    """train.csv with paths that start at train_audio/, beside other folders and tables."""
    folder = tmp_path / "birdclef"
    make_sounds(folder / "train_audio", owl1=4, tit1=4)
    (folder / "train_soundscapes").mkdir()
    (folder / "train_soundscapes" / "H02.wav").write_bytes(sound(99))
    (folder / "sample_submission.csv").write_text("row_id,owl1,tit1\nx,0.5,0.5\n")
    files = sorted((folder / "train_audio").rglob("*.wav"))
    lines = [f"{path.parent.name},[''],song,Aves,{path.parent.name}/{path.name}" for path in files]
    (folder / "train.csv").write_text("\n".join(["primary_label,secondary_labels,type,class,filename", *lines]))
    return folder


def test_paths_that_lie_in_the_one_folder_beside_the_csv(prepare, birdclef):
    splits = prepare(birdclef, "audio")
    assert (splits.labels, splits.bad_rows) == (("owl1", "tit1"), ())
    assert heard(splits) == sorted(map(str, (birdclef / "train_audio").rglob("*.wav")))
    (birdclef / "train_audio" / "owl1" / "owl11.wav").unlink()
    (bad,) = prepare(birdclef, "audio").bad_rows  # a few may be missing: where they should be is known
    assert (bad.name, bad.reason) == (str(birdclef / "train_audio" / "owl1" / "owl11.wav"), "no such file")


def test_paths_that_lie_in_two_folders_or_none_start_at_the_csv(prepare, birdclef, one_line_error):
    (birdclef / "copies" / "owl1").mkdir(parents=True)
    (birdclef / "copies" / "owl1" / "owl10.wav").write_bytes(sound(0))
    with one_line_error("train: none of its rows", str(birdclef / "owl1" / "owl10.wav"), "no such file"):
        prepare(birdclef, "audio")


def test_paths_beside_the_csv_are_not_looked_for_in_its_folders(prepare, birdclef):
    (birdclef / "owl1").mkdir()
    (birdclef / "owl1" / "owl10.wav").write_bytes(sound(0))
    (birdclef / "tit1").mkdir()
    for number in range(2):
        (birdclef / "tit1" / f"tit1{number}.wav").write_bytes(sound(50 + number))
    splits = prepare(birdclef / "train.csv", "audio")
    assert len(splits.bad_rows) == 5
    assert {Path(path).parents[1] for path in heard(splits)} == {birdclef}


def test_images_are_found_in_the_one_folder_too_and_a_column_may_stand_alone(prepare, make_images, tmp_path):
    from hftl.data.files import read_file
    from hftl.image.reading import IMAGES

    make_images(tmp_path / "images", ant=3, bee=3)
    files = sorted((tmp_path / "images").rglob("*.png"))
    names = [str(path.relative_to(tmp_path / "images")) for path in files]
    (tmp_path / "all.csv").write_text("\n".join(["image,label", *(f"{name},{name[:3]}" for name in names)]))
    assert heard_images(prepare(tmp_path / "all.csv", "image")) == [str(path) for path in files]
    (tmp_path / "alone.csv").write_text("\n".join(["image", *names]))
    assert read_file(tmp_path / "alone.csv", IMAGES)["image"][:] == [str(path) for path in files]


def heard_images(splits: Any) -> list[str]:
    return sorted(path for part in (splits.train, splits.validation) for path in part["image"])


@pytest.mark.parametrize("form", ["parquet", "parquet of structs", "saved", "undecoded", "decoded"])
def test_sounds_as_bytes(form, prepare, tmp_path):
    data, labels = [sound(number) for number in range(10)], ["owl", "tit"] * 5
    structs = [{"bytes": one, "path": f"{number}.wav"} for number, one in enumerate(data)]
    rows: Any = Dataset.from_dict({"audio": structs, "label": labels})
    if form == "parquet":
        pq.write_table(pa.table({"sound": data, "label": labels}), tmp_path / "train.parquet")
        rows = tmp_path / "train.parquet"
    elif form == "parquet of structs":
        rows.cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "train.parquet")
        rows = tmp_path / "train.parquet"
    elif form == "saved":
        DatasetDict({"train": rows.cast_column("audio", Audio())}).save_to_disk(tmp_path / "saved")
        rows = tmp_path / "saved"
    else:
        rows = rows.cast_column("audio", Audio(decode=form == "decoded"))
    splits = prepare(rows, "audio")
    assert splits.bad_rows == ()
    assert [each["bytes"] for each in heard(splits)] == data
    assert max(splits.train["seconds"]) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("bad_rows", ["skip", "error"])
def test_sounds_that_cannot_be_used_are_skipped_and_listed(bad_rows, prepare, make_sounds, tmp_path, one_line_error):
    make_sounds(tmp_path, owl=6, tit=6)
    owl, good = tmp_path / "owl", sound(3)
    (owl / "owl0.wav").write_bytes(good[: len(good) // 2])
    (owl / "owl1.wav").write_bytes(encoded(np.zeros((0, 1), dtype=np.float32)))
    (owl / "owl2.wav").write_bytes(encoded(np.zeros((RATE, 1), dtype=np.float32)))
    (owl / "owl3.wav").write_text("<html>")
    (owl / "owl4.wav").unlink()
    (owl / "owl4.wav").symlink_to(tmp_path / "gone.wav")
    if bad_rows == "error":
        with one_line_error("train row 0", "owl0.wav", "cut off", "4 more", "--task.bad-rows skip"):
            prepare(tmp_path, "audio", bad_rows="error")
        return
    Image.new("RGB", (4, 4)).save(tmp_path / "tit" / "tit0.wav", "PNG")
    splits = prepare(tmp_path, "audio")
    assert [(bad.row, Path(bad.name).name) for bad in splits.bad_rows] == [
        *((row, f"owl{row}.wav") for row in range(5)),
        (6, "tit0.wav"),
    ]
    reasons = ["cut off", "empty", "silent", "not a sound", "no such file", "not a sound"]
    assert [word for word, bad in zip(reasons, splits.bad_rows, strict=True) if word not in bad.reason] == []
    assert len(splits.train) + len(splits.validation) == 6
    assert "train: 6 rows skipped; first row 0" in splits.notes[0]


def test_a_missing_sound(prepare):
    sounds = [{"bytes": sound(number), "path": None} for number in range(6)]
    rows = Dataset.from_dict({"audio": [sounds[0], None, *sounds[2:]], "label": ["owl", "tit"] * 3})
    assert prepare(rows, "audio").bad_rows == (BadRow("train", 1, "no sound", "no sound"),)


def test_the_same_sound_in_two_files_and_splits_is_a_leak(prepare, make_sounds, tmp_path):
    """As wav and as flac, under two names."""
    make_sounds(tmp_path / "train", owl=4, tit=4)
    make_sounds(tmp_path / "test", owl=2, tit=2)
    exact = np.random.default_rng(0).integers(-2000, 2000, 1600).astype(np.int16)  # either rounds in its own way
    (tmp_path / "train" / "owl" / "a.wav").write_bytes(encoded(exact))
    (tmp_path / "test" / "owl" / "b.flac").write_bytes(encoded(exact, form="FLAC"))
    noted = prepare(tmp_path, "audio", leaks="note")
    (note,) = [note for note in noted.notes if "b.flac" in note]
    assert note.startswith("test: 1 row is also in train")
    dropped = prepare(tmp_path, "audio", leaks="drop")
    assert [Path(bad.name).name for bad in dropped.bad_rows] == ["a.wav"]
    assert len(dropped.train) + len(dropped.validation) == len(noted.train) + len(noted.validation) - 1


# -- rows that are parts of recordings -------------------------------------------------------------------------------


def table_of_parts(folder: Path, header: str, cells: list[str], each: int = 2) -> Path:
    """A csv of six recordings, ``each`` rows for each of them; ``cells`` are those of a row and of the next."""
    folder.mkdir(exist_ok=True)
    lines = []
    for number in range(6):
        (folder / f"{number}.wav").write_bytes(sound(number))
        lines += [f"{number}.wav,{cells[row % 2]},{'owl' if number % 2 else 'tit'}" for row in range(each)]
    (folder / "train.csv").write_text("\n".join([header, *lines]))
    return folder / "train.csv"


@pytest.mark.parametrize(
    ("begin", "end"),
    [("start", "end"), ("start_time", "end_time"), ("Begin Time (s)", "End Time (s)"), ("onset", "offset")],
)
def test_parts_of_recordings_are_refused(begin, end, prepare, tmp_path, one_line_error):
    header = f"filename,{begin},{end},label"
    with one_line_error("train: rows are parts of recordings", f"columns '{begin}', '{end}'", "files of their own"):
        prepare(table_of_parts(tmp_path / "a", header, ["0,0.05", "0.05,0.1"]), "audio")
    splits = prepare(table_of_parts(tmp_path / "b", header, ["0,0.05"], each=1), "audio")
    assert len(splits.train) + len(splits.validation) == 6


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("filename,start,label", ["0", "1"]),  # nothing says where it ends
        ("filename,started,ended,label", ["0,1", "1,2"]),
        ("filename,start,end,label", ["a,b", "c,d"]),
        ("filename,start,end,label", [",", "0,0.05"]),  # the whole recording, and one part of it
    ],
)
def test_the_same_recording_in_two_rows_is_no_part_of_it_otherwise(header, cells, prepare, tmp_path):
    splits = prepare(table_of_parts(tmp_path / "a", header, cells), "audio", leaks="note")
    assert len(splits.train) + len(splits.validation) == 12


def test_parts_in_different_splits_and_as_bytes_are_refused(prepare, tmp_path, one_line_error):
    data = [sound(number) for number in range(6)]
    columns = {"label": ["owl", "tit"] * 3, "start": [0.0] * 6, "end": [1] * 6}
    structs = [{"bytes": one, "path": "a.wav"} for one in data]
    train = Dataset.from_dict({"audio": structs, **columns})
    splits = prepare(train, "audio")  # of one name, but not the same
    assert len(splits.train) + len(splits.validation) == 6
    for audio in ([{**each, "path": "b.wav"} for each in structs], data):
        pq.write_table(pa.table({"audio": audio, **columns}), tmp_path / "test.parquet")
        pq.write_table(pa.table({"audio": structs, **columns}), tmp_path / "train.parquet")
        with one_line_error("test: rows are parts of recordings", "columns 'start', 'end'"):
            prepare(tmp_path, "audio")
