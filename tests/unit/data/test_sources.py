from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict
from input_kinds import KINDS

from hftl.data import sources
from hftl.data.sources import load

ROWS = Dataset.from_dict({"text": ["a"], "label": ["b"]})


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the Hub: gives or raises what it is set to, and remembers what it was asked for."""
    asked = []

    def set_answer(answer):
        def load_dataset(name, subset=None):
            asked.append((name, subset))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(sources.hub, "worth_asking", lambda kind, name: True)
        return asked

    return set_answer


def test_objects(one_line_error):
    assert load(ROWS, kind=KINDS["text"]).splits == {"train": ROWS}
    assert list(load({"test": ROWS, "dev": ROWS, "train": ROWS}, kind=KINDS["text"]).splits) == [
        "train",
        "validation",
        "test",
    ]
    assert list(load(DatasetDict({"train": ROWS}), kind=KINDS["text"]).splits) == ["train"]
    with one_line_error("no train split", "test"):
        load({"test": ROWS}, kind=KINDS["text"])
    with one_line_error("val, dev", "both validation"):
        load({"train": ROWS, "val": ROWS, "dev": ROWS}, kind=KINDS["text"])
    with one_line_error("IterableDataset", "datasets.Dataset"):
        load(ROWS.to_iterable_dataset(), kind=KINDS["text"])
    with one_line_error("list", "datasets.Dataset"):
        load({"train": [1, 2]}, kind=KINDS["text"])


def test_other_splits_are_left_out_with_a_note():
    found = load({"train": ROWS, "unsupervised": ROWS}, kind=KINDS["text"])
    assert list(found.splits) == ["train"]
    assert "unsupervised" in found.notes[0]


@pytest.mark.parametrize(
    "name", ["./pets", "/no/pets", "~/no-such-pets", "pets/", "pets.csv", "data/a/pets", "../pets"]
)
def test_a_path_that_is_not_there(name, one_line_error):
    with one_line_error(name, "no such file or folder"):
        load(name, kind=KINDS["image"])


def test_paths_that_are_no_data(tmp_path, one_line_error):
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with one_line_error("a.xlsx", ".xlsx", ".csv", "convert"):
        load(str(tmp_path / "a.xlsx"), kind=KINDS["text"])
    with one_line_error("--task.data"):
        load("", kind=KINDS["text"])
    with one_line_error("--task.subset cola", "leave it out"):
        load(str(tmp_path), kind=KINDS["text"], subset="cola")


def test_a_path_object_and_a_home_folder(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load(Path(tmp_path / "a.csv"), kind=KINDS["text"]).splits["train"]) == 1  # type: ignore[arg-type]
    assert len(load("~/a.csv", kind=KINDS["text"]).splits["train"]) == 1


def test_a_hub_set(hub):
    asked = hub(DatasetDict({"train": ROWS, "test": ROWS, "unsupervised": ROWS}))
    found = load("imdb", kind=KINDS["text"], subset="plain_text")
    assert list(found.splits) == ["train", "test"]
    assert "unsupervised" in found.notes[0]
    assert asked == [("imdb", "plain_text")]


def test_a_hub_set_of_several_subsets(hub, one_line_error):
    hub(
        ValueError("Config name is missing.\nPlease pick one among the available configs: ['cola', 'sst2']\nExample: x")
    )
    with one_line_error("nyu-mll/glue", "several subsets", "--task.subset", "cola, sst2"):
        load("nyu-mll/glue", kind=KINDS["text"])
    hub(ValueError("BuilderConfig 'colour' not found. Available: ['cola', 'sst2']"))
    with one_line_error("no subset 'colour'", "--task.subset", "cola, sst2"):
        load("nyu-mll/glue", kind=KINDS["text"], subset="colour")


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("Dataset 'imbd' doesn't exist on the Hub\nor cannot be accessed."),
        ConnectionError("Couldn't reach 'imbd' on the Hub\n(LocalEntryNotFoundError)"),
        FileNotFoundError("nothing"),
        ValueError("odd\nvalue"),
    ],
)
def test_no_such_set_or_no_hub(error, hub, one_line_error):
    hub(error)
    with one_line_error("imbd", "no such local file or folder", "the Hub", "check the name"):
        load("imbd", kind=KINDS["text"])


def test_a_hub_set_that_is_a_script(hub, one_line_error):
    hub(RuntimeError("Dataset scripts are no longer supported, but found superb.py"))
    with one_line_error("superb", "scripts are no longer supported", "parquet"):
        load("superb", kind=KINDS["text"])


def test_without_a_connection_it_says_so_at_once(monkeypatch, tmp_path, one_line_error):
    def unreachable(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(sources.hub.urllib.request, "getproxies", dict)
    monkeypatch.setattr(sources.hub.socket, "getaddrinfo", unreachable)
    with one_line_error("imdb-of-nobody", "no such local file", "no connection"):
        load("imdb-of-nobody", kind=KINDS["text"])
    (tmp_path / "someone___cached").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: DatasetDict({"train": ROWS}))
    assert list(load("someone/cached", kind=KINDS["text"]).splits) == ["train"]
