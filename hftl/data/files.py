"""One data file (csv, tsv, json, jsonl, parquet) as a ``Dataset``."""

from __future__ import annotations

import glob
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value

from hftl.data.columns import holds_paths
from hftl.data.kinds import Kind
from hftl.errors import HftlError, one_line
from hftl.quiet import quiet_datasets

# pandas' own reading would make 7 of "007" and True of "true": labels stay as they are written.
NUMBER = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?)?"

TABLE_EXTENSIONS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def read_file(path: Path, kind: Kind) -> Dataset:
    """The rows of a data file, its columns as they are; paths of inputs in it start at its folder.

    csv and json are read here and not through ``load_dataset``: that one guesses a column's type from the first rows
    alone (integers, then a name: an error), takes labels such as "NA" for missing, and keeps a copy on disk.

    Raises:
        HftlError: it cannot be read, or has no rows; the file is named, and the line where one is known.
    """
    extension = path.suffix.lower()
    if path.stat().st_size == 0:
        raise HftlError(f"{path}: the file is empty; name one that has rows")
    try:
        if extension in (".csv", ".tsv"):
            dataset = _read_csv(path, "\t" if extension == ".tsv" else None)
        elif extension in (".json", ".jsonl"):
            dataset = _read_json(path, kind)
        else:
            dataset = _read_parquet(path)
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    except OSError as error:
        raise HftlError(f"{error.filename or path}: {error.strerror or one_line(error)}; make it readable") from None
    if not len(dataset):
        raise HftlError(f"{path}: it has no rows; name a file that has some")
    return with_whole_paths(dataset, path.parent, kind)


def not_utf8(path: Path, error: UnicodeDecodeError) -> HftlError:
    """The error for a file of another encoding."""
    return HftlError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8")


def _read_csv(path: Path, separator: str | None) -> Dataset:
    separator = separator or separator_of(path)
    try:
        with warnings.catch_warnings():
            # index_col=False: a row with one value too many must not turn the first column into an index.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, sep=separator, encoding="utf-8", index_col=False, dtype=str, keep_default_na=False, na_values=[""]
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning) as error:
        reason = one_line(error).removeprefix("Error tokenizing data. C error: ")
        raise HftlError(
            f"{path}: {reason}; each row needs one value a column, values with '{separator}' quoted"
        ) from None
    for name in frame.columns:
        there = frame[name].dropna()
        if len(there) and there.str.fullmatch(NUMBER).all():
            frame[name] = pd.to_numeric(frame[name], dtype_backend="numpy_nullable")
    return Dataset.from_pandas(frame, preserve_index=False)


def separator_of(path: Path) -> str:
    """The separator of a csv file: comma, semicolon or tab, whichever its first line has most of."""
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    return max(",;\t", key=header.count)


def with_numbers(dataset: Dataset) -> Dataset:
    """Columns of strings that are numbers throughout as numbers, as ``read_file`` gives those of a csv file."""
    for name in [name for name, feature in dataset.features.items() if feature == Value("string")]:
        column = dataset.data.column(name)
        if column.null_count < len(column) and all(_all_numbers(chunk) for chunk in column.chunks):
            numbers = pd.to_numeric(column.to_pandas(), dtype_backend="numpy_nullable")
            dataset = _with_column(dataset, name, pa.array(numbers))
    return dataset


def _all_numbers(chunk: pa.StringArray) -> bool:
    return bool(pc.all(pc.fill_null(pc.match_substring_regex(chunk, f"^(?:{NUMBER})$"), True)).as_py())


def _read_json(path: Path, kind: Kind) -> Dataset:
    text = path.read_text(encoding="utf-8-sig")
    expected = "it must be a list of objects, or one object a line"
    whole = text.lstrip().startswith("[")
    rows: list[Any] = []
    if kind.nested is not None and not whole and (nested := _nested(kind.nested, text, path)) is not None:
        text, rows = "", nested
    # Not splitlines(): JSON strings may hold line separators of Unicode as they are.
    for number, part in enumerate([text] if whole else text.split("\n"), 1):
        try:
            rows += json.loads(part) if whole else [json.loads(part)] if part.strip() else []
        except json.JSONDecodeError as error:
            line = error.lineno if whole else number
            raise HftlError(f"{path}: line {line} is no valid JSON ({error.msg}); {expected}") from None
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise HftlError(f"{path}: entry {number} is no object; {expected}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Dataset(pa.table({name: _column([row.get(name) for row in rows], name, path) for name in names}))


def _nested(read: Callable[[Any, Path], list[Any] | None], text: str, path: Path) -> list[Any] | None:
    """The rows that ``read`` finds in a document; None where it is no document, or of another form."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        return None
    return read(document, path)


def _column(values: list[Any], name: str, path: Path) -> pa.Array:
    try:
        return pa.array(values)
    except UnicodeEncodeError:
        raise HftlError(
            f"{path}: '{name}' holds half a character (a lone surrogate); write the file as UTF-8"
        ) from None
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        first: dict[str, int] = {}
        for number, value in enumerate(values):
            if value is not None:
                first.setdefault(type(value).__name__, number)
        if set(first) & {"dict", "list"}:
            # Nested extras of changing shape are neither input nor label: kept as text, so that nothing is lost.
            return pa.array([None if value is None else json.dumps(value) for value in values])
        found = ", ".join(f"{kind} (entry {number})" for kind, number in first.items())
        raise HftlError(f"{path}: '{name}' mixes types: {found}; make it one type throughout") from None


def _read_parquet(path: Path) -> Dataset:
    try:
        with quiet_datasets():
            # Through ``datasets``: its memory-mapped copy keeps sets of images out of memory. The name is no pattern.
            dataset: Dataset = datasets.load_dataset("parquet", data_files=glob.escape(str(path)), split="train")
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowInvalid, ValueError) as error:
        raise HftlError(f"{path}: no readable parquet ({one_line(error.__cause__ or error)}); write it again") from None
    return dataset


def with_whole_paths(dataset: Dataset, folder: Path, kind: Kind) -> Dataset:
    """Columns of paths of inputs as seen from the folder, or from the one folder in it where they lie."""
    extensions = kind.role.extensions
    for name in [name for name in dataset.column_names if holds_paths(dataset, name, extensions)]:
        values = dataset.data.column(name).to_pylist()
        start = _start_of([value for value in values if value], folder)
        whole = [value and _whole_path(value, start) for value in values]
        if whole != values:
            dataset = _with_column(dataset, name, whole)
    return dataset


def _with_column(dataset: Dataset, name: str, values: Any) -> Dataset:
    """The rows with other values in a column, which comes last; a table without any column would have no rows."""
    return dataset.rename_column(name, f"{name} before").add_column(name, values).remove_columns(f"{name} before")


def _start_of(values: list[str], folder: Path) -> Path:
    """Where relative paths begin: the folder, or where none of them is there, its only sub-folder that has any."""
    relative = [value for value in values if "://" not in value and not Path(value).is_absolute()]
    if not relative or any((folder / value).exists() or Path(value).exists() for value in relative):
        return folder
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    having = [path for path in folders if any((path / value).exists() for value in relative)]
    return having[0] if len(having) == 1 else folder


def _whole_path(value: str, folder: Path) -> str:
    """The path seen from the file's folder, or as it is where only that exists."""
    whole = folder / value  # an absolute value stays as it is
    return value if "://" in value or (not whole.exists() and Path(value).exists()) else str(whole)
