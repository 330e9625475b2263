"""Rows read as streams: the same data as ever, kept once, in constant memory."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from input_kinds import KINDS, wanted_of

import hftl
from hftl.data import sources, streams
from hftl.data.sources import Sources, load
from hftl.data.streams import Stream, keep
from hftl.data.wanted import Wanted


def wanted(kind: Any = "text", **options: Any) -> Wanted:
    return wanted_of(kind, **{"pairs": None, **options})


def streamed(path: Path, kind: Any = "text", **options: Any) -> Sources:
    return load(str(path), kind=KINDS[kind], streaming=wanted(kind, **options))


def table(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table(
        {
            "id": list(numbers),
            "text": [f"text {number}" for number in numbers],
            "label": [f"label {number % 2}" for number in numbers],
        }
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache for each test, and no wait of 5 s for threads to end, as ``datasets`` has it after each sample."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "hftl"


@pytest.fixture
def hub_layout(tmp_path) -> Path:
    """A clone of a Hub set: 3 shards of 10 rows to train, one of 4 to test, in row groups of 5."""
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    for number in range(3):
        name = f"train-0000{number}-of-00003-{0xABCDEF0123456789 + number:016x}.parquet"
        pq.write_table(table(10 * number, 10), folder / name, row_group_size=5)
    pq.write_table(table(100, 4), folder / "test-00000-of-00001-0123456789abcdef.parquet")
    return tmp_path / "set"


# -- the same data ---------------------------------------------------------------------------------------------------


def test_shards_of_a_cloned_set(hub_layout, cache):
    plain, stream = load(str(hub_layout), kind=KINDS["text"]), streamed(hub_layout)
    assert list(stream.splits) == list(plain.splits) == ["train", "test"]
    for name, rows in stream.splits.items():
        assert rows.column_names == ["text", "label"]
        assert rows[:] == plain.splits[name].select_columns(["text", "label"])[:]
        assert [Path(file["filename"]).parent for file in rows.cache_files] == [cache]  # memory-mapped
    assert stream.notes == plain.notes == ()
    assert not stream.sampled


def test_shards_that_are_not_there_are_noted(hub_layout):
    next((hub_layout / "data").glob("train-00001*")).unlink()
    for found in (load(str(hub_layout), kind=KINDS["text"]), streamed(hub_layout)):
        assert found.notes == ("train: 2 of its 3 files are there",)


CSV = 'text,label,n\n"two\nlines, one cell",NA,1\nnull,007,2\n"say ""hi""",true,\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("a.csv", "\ufeff" + CSV.replace(",", ";")),
        ("a.tsv", "text\tlabel\nä\t10\nb\t9\n"),
        ("a.csv", "text,label\n1,1.0\n2,2.0\n3x,\n"),
        ("a.jsonl", '{"text": "a\u2028b", "label": 1}\n{"text": "c", "label": 2, "extra": "ü"}\n'),
        ("a.json", json.dumps([{"text": "a", "label": "x"}, {"text": None, "label": "y"}])),
    ],
)
def test_text_files(name, content, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    plain, stream = load(str(tmp_path / name), kind=KINDS["text"]), streamed(tmp_path / name)
    assert stream.splits["train"][:] == plain.splits["train"].select_columns(["text", "label"])[:]


def test_a_csv_whose_values_come_late(tmp_path):
    """Readers look at some thousand rows at a time: neither gaps nor other kinds of values may change a column."""
    rows = ["a,,1"] * 12_000 + ["b,x,?"]
    (tmp_path / "a.csv").write_text("text,note,label\n" + "\n".join(rows))
    (tmp_path / "b.csv").write_text("text,note,label\n" + "\n".join(["c,1,2"]))
    for name in ("a", "b"):
        stream = streamed(tmp_path / f"{name}.csv").splits["train"]
        plain = load(str(tmp_path / f"{name}.csv"), kind=KINDS["text"]).splits["train"]
        assert stream["label"][:] == plain["label"][:]
    named = streamed(tmp_path / "a.csv", label_column="note").splits["train"]
    assert named["note"][-2:] == [None, "x"]


def test_class_labels_and_hidden_ones(tmp_path, prepare):
    features = Features({"label": ClassLabel(names=["z", "a"]), "text": Value("string"), "more": Value("string")})
    for split, labels in (("train", [0, 1] * 4), ("test", [-1, -1])):
        rows = {"text": list("abcdefgh")[: len(labels)], "label": labels, "more": ["m"] * len(labels)}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    stream = streamed(tmp_path)
    assert stream.splits["train"].features == Features({name: features[name] for name in ("text", "label")})
    splits = prepare(stream)
    assert splits.labels == ("z", "a")
    assert splits.test is None


def test_a_test_split_without_labels_is_left_out(hub_layout, prepare):
    (file,) = (hub_layout / "data").glob("test*")
    pq.write_table(pq.read_table(file).drop(["label"]), file)
    assert prepare(streamed(hub_layout)).notes[0] == "test: left out, it has no label column 'label'"


def test_pairs(tmp_path):
    pq.write_table(pa.table({"premise": ["a"], "idx": [1], "hypothesis": ["b"], "label": [0]}), tmp_path / "a.parquet")
    assert streamed(tmp_path / "a.parquet").splits["train"][0] == {"premise": "a", "hypothesis": "b", "label": 0}
    one = streamed(tmp_path / "a.parquet", input_column="hypothesis")
    assert one.splits["train"].column_names == ["hypothesis", "label"]


def test_images_as_bytes_and_as_paths(tmp_path, make_images, prepare):
    make_images(tmp_path / "pictures", ant=4, bee=4)
    files = sorted((tmp_path / "pictures").rglob("*.png"))
    labels = [file.parent.name for file in files]
    paths = [str(file.relative_to(tmp_path)) for file in files]
    (tmp_path / "table.csv").write_text(
        "file,label\n" + "".join(f"{p},{n}\n" for p, n in zip(paths, labels, strict=True))
    )
    plain, stream = (found.splits["train"]["file"][:] for found in (
        load(str(tmp_path / "table.csv"), kind=KINDS["image"]), streamed(tmp_path / "table.csv", "image")))  # fmt: skip
    assert stream == plain == [str(tmp_path / path) for path in paths]
    encoded = [{"bytes": file.read_bytes(), "path": None} for file in files]
    rows = Dataset.from_dict({"image": encoded, "label": labels}).cast_column("image", datasets.Image())
    rows.to_parquet(tmp_path / "set" / "train-0.parquet")
    splits = prepare(streamed(tmp_path / "set", "image"), "image")
    assert splits.bad_rows == ()
    assert splits.train[0]["image"] == encoded[splits.train[0]["row"]]
    assert isinstance(splits.train.features["image"], datasets.Image)


# -- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_is_drawn_by_the_seed(hub_layout, prepare):
    first, again, other = (streamed(hub_layout, max_rows=8, seed=seed) for seed in (1, 1, 2))
    texts = [found.splits["train"]["text"][:] for found in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    everything = {f"text {number}" for number in range(30)}
    assert all(len({*found} & everything) == 8 for found in texts)
    assert first.sampled
    (note,) = first.notes  # test has fewer rows: no sample
    assert "train: 8 rows of a stream" in note
    assert "not stratified" in note
    assert len(first.splits["test"]) == 4
    assert len(prepare(first, max_rows=8).train) + len(prepare(first, max_rows=8).validation) == 8


def test_a_sample_has_rows_of_many_files(tmp_path):
    """Of rows that are sorted by label, the first ones would be no sample."""
    for number in range(20):
        labels = ["a" if number < 10 else "b"] * 50
        pq.write_table(pa.table({"text": [f"{number}"] * 50, "label": labels}), tmp_path / f"train-{number}.parquet")
    found = streamed(tmp_path, max_rows=60).splits["train"]
    assert len({*found["text"]}) >= 8
    assert {*found["label"]} == {"a", "b"}


def test_no_more_is_read_than_a_sample_takes():
    read = []

    def rows(shards: list[int]) -> Iterator[dict[str, Any]]:
        for shard in shards:
            for row in range(1_000):
                read.append((shard, row))
                yield {"text": f"{shard} {row}", "label": row % 2}

    many = Stream(("x",), lambda: IterableDataset.from_generator(rows, gen_kwargs={"shards": list(range(100))}))
    few = dataclasses.replace(KINDS["text"], buffer=200)
    kept, _ = keep({"train": many}, dataclasses.replace(wanted(max_rows=50), kind=few))
    assert len(kept["train"]) == 50
    assert len({shard for shard, _ in read}) <= 12
    assert len(read) < 2_000  # of 100,000


def test_labels_that_chance_left_out(tmp_path, prepare, one_line_error):
    labels = {"train": ["a", "b"] * 4, "validation": ["a", "b", "c", "c"]}
    for split, names in labels.items():
        pq.write_table(pa.table({"text": names, "label": names}), tmp_path / f"{split}.parquet")
    with one_line_error("validation has the label 'c'", "raise --task.max-rows"):
        prepare(streamed(tmp_path, max_rows=8))
    with one_line_error("validation has the label 'c'", "add such rows"):
        prepare(streamed(tmp_path))
    pq.write_table(pa.table({"text": ["x"] * 3, "label": ["a"] * 3}), tmp_path / "train.parquet")
    with one_line_error("all 3 usable rows", "raise --task.max-rows"):
        prepare(streamed(tmp_path / "train.parquet", max_rows=3))


# -- kept once -------------------------------------------------------------------------------------------------------


def kept_files(cache: Path) -> set[tuple[str, int]]:
    return {(path.name, path.stat().st_mtime_ns) for path in cache.iterdir()}


def test_a_second_run_finds_what_the_first_kept(hub_layout, cache):
    first = streamed(hub_layout)
    before = kept_files(cache)
    assert len(before) == 2
    again = streamed(hub_layout, seed=5, label_column="label", pairs=False)  # the same columns; no sample, no seed
    assert kept_files(cache) == before
    assert again.splits["train"]._fingerprint == first.splits["train"]._fingerprint  # so tokens are found as well


def test_what_is_kept_depends_on_everything_that_determines_it(hub_layout, cache):
    (file,) = (hub_layout / "data").glob("test*")
    counts = []
    for change in (
        {}, {"label_column": "id"}, {"max_rows": 2}, {"max_rows": 3}, {"max_rows": 3, "seed": 1}, "time", "rows"
    ):  # fmt: skip
        if change == "time":
            os.utime(file, ns=(1, 1))
        if change == "rows":
            pq.write_table(table(0, 5), file)
        found = streamed(hub_layout, **(change if isinstance(change, dict) else {}))
        counts.append(len(list(cache.iterdir())))
    assert counts == [2, 4, 6, 8, 10, 11, 12]
    assert len(found.splits["test"]) == 5


def test_an_interrupted_write_leaves_nothing_that_is_read(hub_layout, cache, monkeypatch):
    write = streams.ArrowWriter.write_table

    def killed(self: Any, table: pa.Table) -> None:
        write(self, table)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(streams.ArrowWriter, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            streamed(hub_layout)
    assert list(cache.iterdir()) == []
    (cache / "0.1.unfinished").write_bytes(b"of a process that was killed")
    assert len(streamed(hub_layout).splits["train"]) == 30


# -- what is not a stream, and what is broken -----------------------------------------------------------------------


def test_what_cannot_be_streamed_is_read_as_always(tmp_path, make_images):
    make_images(tmp_path / "pictures", ant=2, bee=2)
    rows = Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})
    rows.save_to_disk(str(tmp_path / "saved"))
    for data, kind in ((str(tmp_path / "pictures"), "image"), (str(tmp_path / "saved"), "text"), (rows, "text")):
        found = load(data, kind=KINDS[kind], streaming=wanted(kind))
        assert "no data files to stream" in found.notes[-1]
        assert len(found.splits["train"]) in (2, 4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "text,label\na,b\na,b,c\n"),
        ("train.csv", "text,label\na,b,c\na,b,c\n"),
        ("train.csv", ""),
        ("train.csv", "text,label\n"),
        ("train.csv", "text,label\nsch\udcf6n,gut\n"),
        ("train.jsonl", '{"text": "a"}\n{"text": \n'),
        ("train.parquet", "PAR1 no it is not"),
        ("train.csv", "note,other\na,b\n"),
    ],
)
def test_broken_files(name, content, tmp_path, one_line_error):
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with one_line_error("train: "):
        streamed(tmp_path / name)


def test_shards_of_different_columns(tmp_path, one_line_error):
    pq.write_table(table(0, 3).drop(["label"]), tmp_path / "train-0.parquet")
    pq.write_table(table(3, 3), tmp_path / "train-1.parquet")
    with one_line_error("train: "):
        streamed(tmp_path, label_column="label")
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "train-0.parquet")
    with one_line_error("train: ", "--task.streaming"):
        streamed(tmp_path)


# -- the Hub ---------------------------------------------------------------------------------------------------------


def test_a_hub_set_is_streamed_by_the_same_way(hub_layout, monkeypatch, cache):
    asked = []

    def builder(name: str, subset: str | None) -> Any:
        asked.append((name, subset))
        files = {split: str(hub_layout / "data" / f"{split}*") for split in ("train", "test")}
        return datasets.load_dataset_builder("parquet", data_files={**files, "unsupervised": files["train"]})

    load_builder = datasets.load_dataset_builder
    monkeypatch.setattr(sources.hub, "worth_asking", lambda kind, name: True)
    monkeypatch.setattr(sources.datasets, "load_dataset_builder", lambda *names: stand_in(*names))

    def stand_in(*names: Any) -> Any:
        monkeypatch.setattr(sources.datasets, "load_dataset_builder", load_builder)
        return builder(*names)

    found = load("someone/set", kind=KINDS["text"], subset="plain", streaming=wanted())
    assert asked == [("someone/set", "plain")]
    assert found.notes == ("unsupervised: left out; the splits used are train, validation and test",)
    assert found.splits["train"][:] == streamed(hub_layout).splits["train"][:]
    assert len(kept_files(cache)) == 2  # the same files, the same rows: found again, and the third split not read


def test_images_that_lie_on_the_hub_are_kept_with_their_bytes(tmp_path, make_images):
    make_images(tmp_path / "pictures" / "train", ant=3, bee=3)
    builder = datasets.load_dataset_builder("imagefolder", data_dir=str(tmp_path / "pictures"))
    remote = Stream(("hf://datasets/someone/set@0/ant0.png",), streams.of_builder(builder)["train"].open)
    kept, _ = keep({"train": remote}, wanted("image"))
    rows = kept["train"].cast_column("image", datasets.Image(decode=False))
    assert kept["train"].features["label"].names == ["ant", "bee"]
    files = sorted((tmp_path / "pictures").rglob("*.png"))
    assert [row["bytes"] for row in rows["image"]] == [file.read_bytes() for file in files]


# -- memory ----------------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from hftl.data.sources import load
from hftl.data.wanted import Wanted
from hftl.text.columns import TEXTS
import datasets.config, pathlib
datasets.config.HF_DATASETS_CACHE = pathlib.Path(sys.argv[2])
wanted = Wanted(TEXTS)
found = load(sys.argv[1], kind=TEXTS, streaming=wanted).splits["train"]
print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_megabytes(folder: Path, cache: Path) -> int:
    """Most resident memory of a process that reads the folder as a stream."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), str(cache)],
        capture_output=True, text=True, check=True, cwd=Path(hftl.__file__).parents[1],
    )  # fmt: skip
    rows, megabytes = map(int, done.stdout.split()[-2:])
    assert rows == 500 * len(list(folder.iterdir()))
    return megabytes


def test_memory_does_not_grow_with_the_data(tmp_path):
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(97, 123, 10_000))) for _ in range(500)]  # 5 MB a shard
    for folder, shards in (("few", 4), ("many", 40)):
        (tmp_path / folder).mkdir()
        for number in range(shards):
            rows = pa.table({"text": [f"{number} {text}" for text in texts], "label": [0, 1] * 250})
            pq.write_table(rows, tmp_path / folder / f"train-{number}.parquet", compression="none")
    few, many = (peak_megabytes(tmp_path / folder, tmp_path / "cache") for folder in ("few", "many"))
    assert many - few < 90  # of 180 MB more data


def test_checking_texts_takes_little_memory(tmp_path, prepare):
    """What is mapped from disk stays there: no column of texts is copied as a whole."""
    text = "word " * 2_000
    for number in range(20):
        rows = pa.table({"text": [f"{number} {row} {text}" for row in range(500)], "label": [0, 1] * 250})
        pq.write_table(rows, tmp_path / f"train-{number}.parquet")
    found = streamed(tmp_path)
    pool = pa.default_memory_pool()
    before = pool.max_memory()  # of the life of the process: of reading the stream, at least
    prepare(found, leaks="note")
    assert pool.max_memory() - before < 30_000_000  # of 100 MB of texts
