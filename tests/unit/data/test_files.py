from __future__ import annotations

import json
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from input_kinds import KINDS

from hftl.data.files import read_file


def rows(path: Path, kind: str = "text") -> list[dict[str, object]]:
    return list(read_file(path, KINDS[kind]))


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_csv_keeps_what_is_written(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\n"two\nlines, one cell",NA\nnull,None\nnan,007\n"say ""hi""",true\n')
    assert rows(path) == [
        {"text": "two\nlines, one cell", "label": "NA"},
        {"text": "null", "label": "None"},
        {"text": "nan", "label": "007"},
        {"text": 'say "hi"', "label": "true"},
    ]


def test_csv_columns_of_numbers_are_numbers(tmp_path):
    path = write(tmp_path / "a.csv", "n,f,s\n10,0.5,1\n-9,1,01\n,,2\n")
    dataset = read_file(path, KINDS["text"])
    assert dataset["n"][:] == [10, -9, None]
    assert dataset["f"][:] == [0.5, 1.0, None]
    assert dataset["s"][:] == ["1", "01", "2"]


def test_csv_a_late_name_among_integers_is_no_error(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + "a,1\n" * 20_000 + "b,unknown\n")
    assert rows(path)[-1] == {"text": "b", "label": "unknown"}


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "\ufefftext,label\nä,ö\n"), ("a.csv", "text;label\nä;ö\n"), ("a.tsv", "text\tlabel\nä\tö\n"),
     ("a.CSV", "text,label\r\nä,ö\r\n"), ("data[1]*.csv", "text,label\nä,ö")],
)  # fmt: skip
def test_csv_dialects(name, text, tmp_path):
    assert rows(write(tmp_path / name, text)) == [{"text": "ä", "label": "ö"}]


def test_csv_a_short_row_has_missing_values(tmp_path):
    assert rows(write(tmp_path / "a.csv", "text,label\na\nb,c\n"))[0] == {"text": "a", "label": None}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "text,label\na,b\na,b,c\n", ["line 3", "quoted"]),
        ("a.csv", "text,label\na,b,c\na,b,c\n", ["quoted"]),
        ("a.csv", 'text,label\n"a,b\n', ["quoted"]),
        ("a.csv", "", ["empty"]),
        ("a.csv", "text,label\n", ["no rows"]),
        ("a.json", "[]", ["no rows"]),
        ("a.json", '[{"text": "a"},\n{"text": ]', ["line 2", "JSON"]),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', ["line 2", "JSON"]),
        ("a.jsonl", '{"text": "a"}\n3\n', ["entry 1", "object"]),
        ("a.json", '{\n"text": ["a"]\n}', ["line 1", "list of objects"]),
        ("a.jsonl", '{"label": 1}\n{"label": "one"}\n', ["'label' mixes", "int (entry 0)", "str (entry 1)"]),
        ("a.jsonl", '{"text": "\\ud800"}\n', ["'text'", "surrogate"]),
        ("a.parquet", "PAR1 no it is not", ["parquet"]),
    ],
)
def test_broken_files(name, text, words, tmp_path, one_line_error):
    path = write(tmp_path / name, text)
    with one_line_error(str(path), *words):
        read_file(path, KINDS["text"])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl"])
def test_other_encodings(name, tmp_path, one_line_error):
    text = '{"text": "schön"}\n' if "json" in name else "text,label\nschön,gut\n"
    path = write(tmp_path / name, text, "latin-1")
    with one_line_error(str(path), "UTF-8"):
        read_file(path, KINDS["text"])


def test_json_as_a_list_and_as_lines(tmp_path):
    expected = [{"text": "a\u2028b", "label": 1, "extra": None}, {"text": "c", "label": 2, "extra": "ü"}]
    given = [{"text": "a\u2028b", "label": 1}, expected[1]]
    assert rows(write(tmp_path / "a.json", json.dumps(given, indent=1, ensure_ascii=False))) == expected
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in given)
    assert rows(write(tmp_path / "b.jsonl", lines + "\n\n")) == expected
    assert rows(write(tmp_path / "c.json", "\ufeff" + lines)) == expected


def test_json_nested_extras_of_changing_shape_stay_as_text(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a", "meta": {"n": 1}}\n{"text": "b", "meta": [1, 2]}\n')
    assert [row["meta"] for row in rows(path)] == ['{"n": 1}', "[1, 2]"]


def test_parquet(tmp_path):
    path = tmp_path / "train [1].parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, 2]}), path)
    assert rows(path) == [{"text": "a", "label": 1}, {"text": "b", "label": 2}]


def test_parquet_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "a.parquet"
    for text in ("first", "second one"):
        pq.write_table(pa.table({"text": [text]}), path)
        assert rows(path) == [{"text": text}]


def test_parquet_with_categories_of_pandas(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": pd.Categorical(["x", "y", "x"])})
    frame.to_parquet(tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", KINDS["text"])["label"][:] == ["x", "y", "x"]


def test_parquet_keeps_class_labels(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])})
    Dataset.from_dict({"text": ["x"], "label": [1]}, features=features).to_parquet(tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", KINDS["text"]).features["label"].names == ["z", "a"]


def test_no_bar_and_no_log_lines_off_a_terminal(tmp_path, capfd):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    read_file(tmp_path / "a.parquet", KINDS["text"])
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_paths_to_images_start_at_the_file(tmp_path, monkeypatch):
    (tmp_path / "set" / "pictures").mkdir(parents=True)
    (tmp_path / "set" / "pictures" / "a.jpg").touch()
    (tmp_path / "here.jpg").touch()
    monkeypatch.chdir(tmp_path)
    path = write(
        tmp_path / "set" / "a.csv", f"image,label\npictures/a.jpg,x\n{tmp_path}/b.jpg,x\nhere.jpg,x\ngone.jpg,x\n,x\n"
    )
    found = read_file(path, KINDS["image"])["image"][:]
    assert found[:2] == [str(tmp_path / "set" / "pictures" / "a.jpg"), f"{tmp_path}/b.jpg"]
    assert found[2:] == ["here.jpg", str(tmp_path / "set" / "gone.jpg"), None]
