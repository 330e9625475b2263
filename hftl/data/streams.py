"""Splits read as streams, of which only what is used is kept: a memory-mapped file a split, found again next time.

Memory stays the same however large the data are, and with ``max_rows`` no more of them is fetched than it takes.
"""

from __future__ import annotations

import glob
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetBuilder, Features, IterableDataset, Value
from datasets.arrow_writer import ArrowWriter
from datasets.table import embed_table_storage

from hftl.data.files import separator_of, with_numbers, with_whole_paths
from hftl.data.kinds import Kind
from hftl.data.progress import progress
from hftl.data.wanted import Wanted
from hftl.errors import HftlError, one_line
from hftl.quiet import quiet_datasets

KEPT_VERSION = 1
"""To be raised whenever other rows or columns are kept: files written before are not taken then."""
BATCH = 1_000
"""Rows read and written at a time."""
FEW_FILES = 64
"""Of fewer files the parts (row groups of parquet) are shuffled too; to ask each of more for its parts is slow."""


@dataclass(frozen=True)
class Stream:
    """A split that can be read row after row."""

    files: tuple[str, ...]
    """What it is read from, each with what changes when the file does."""
    open: Callable[[], IterableDataset]
    finish: Callable[[Dataset], Dataset] = lambda dataset: dataset
    """What is left to do once its rows are kept."""


def of_files(paths: list[Path], kind: Kind) -> Stream:
    """Local files of one format, one after the other."""

    def finish(dataset: Dataset) -> Dataset:
        plain = with_numbers(dataset) if paths[0].suffix.lower() in (".csv", ".tsv") else dataset
        return with_whole_paths(plain, paths[0].parent, kind)

    return Stream(tuple(_identity(str(path)) for path in paths), partial(_open_files, paths), finish)


def of_builder(builder: DatasetBuilder) -> dict[str, Stream]:
    """The splits of a set on the Hub; its files' addresses name the revision."""
    return {
        str(split): Stream(tuple(map(_identity, files)), partial(builder.as_streaming_dataset, split=str(split)))
        for split, files in (builder.config.data_files or {}).items()
    }


def keep(streams: Mapping[str, Stream], wanted: Wanted) -> tuple[dict[str, Dataset], list[str]]:
    """The splits as memory-mapped data sets of the wanted columns and rows, and notes on what they are.

    Each is written to the cache folder of ``datasets`` once, under a name made of all that determines it. With
    ``max_rows`` the files, and rows within a buffer, are shuffled by the seed first.

    Args:
        streams: by split, the one that has all wanted columns (train) first.
        wanted: what to keep.

    Raises:
        HftlError: what cannot be read, or columns that are not there.
    """
    kept: dict[str, Dataset] = {}
    notes = []
    columns: list[str] = []
    for split, stream in streams.items():
        with _one_line_errors(split):
            columns = columns or wanted.columns(_first_rows(stream.open()))
            path = _place(stream, columns, wanted)
            if not path.exists():
                _write(split, stream, columns, wanted, path)
        rows = Dataset.from_file(str(path))
        kept[split] = stream.finish(rows)
        if len(rows) == wanted.max_rows:
            notes.append(
                f"{split}: {len(rows):,} rows of a stream (max-rows; its files, and rows in a buffer of "
                f"{wanted.kind.buffer:,}, shuffled by seed {wanted.seed}; not stratified)"
            )
    return kept, notes


def _place(stream: Stream, columns: list[str], wanted: Wanted) -> Path:
    """Where the rows are kept: a name made of everything that decides which they are."""
    sample = () if wanted.max_rows is None else (wanted.max_rows, wanted.seed, wanted.kind.buffer)
    key = repr((KEPT_VERSION, stream.files, columns, sample))
    return Path(datasets.config.HF_DATASETS_CACHE) / "hftl" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"


def _write(split: str, stream: Stream, columns: list[str], wanted: Wanted, path: Path) -> None:
    """Read the stream into the file; what is interrupted leaves none."""
    rows = stream.open()
    names = rows.column_names or _first_rows(rows).column_names
    rows = rows.select_columns([name for name in columns if name in names])
    if wanted.max_rows is not None:
        rows = rows.reshard() if rows.num_shards < FEW_FILES else rows
        rows = rows.shuffle(seed=wanted.seed, buffer_size=wanted.kind.buffer).take(wanted.max_rows)
    remote = any("://" in file for file in stream.files)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    try:
        with (
            progress(f"reading {split}", wanted.max_rows) as advance,
            ArrowWriter(features=rows.features, path=str(unfinished)) as writer,
        ):
            for table in rows.with_format("arrow").iter(batch_size=BATCH):
                writer.write_table(embed_table_storage(table) if remote else table)
                advance(len(table))
            writer.finalize()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _one_line_errors(split: str) -> Iterator[None]:
    """What goes wrong in a library becomes one line that names the split."""
    try:
        with quiet_datasets(), warnings.catch_warnings():
            # As in files: a row with one value too many must not turn the first column into an index.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except HftlError as error:
        raise HftlError(f"{split}: {error}") from None
    except Exception as error:  # readers and connections raise what they like
        raise HftlError(
            f"{split}: reading a stream failed ({one_line(error)}); mend the files, or leave out --task.streaming"
        ) from error


def _first_rows(rows: IterableDataset) -> Dataset:
    """Enough rows to tell the columns by.

    Raises:
        HftlError: there are none.
    """
    table: pa.Table | None = next(iter(rows.with_format("arrow").iter(batch_size=100)), None)
    if table is None:
        raise HftlError("it has no rows; name data that has some")
    return Dataset(table, info=datasets.DatasetInfo(features=rows.features))


def _open_files(paths: list[Path]) -> IterableDataset:
    extension = paths[0].suffix.lower()
    names = [glob.escape(str(path)) for path in paths]
    options: dict[str, Any] = {"split": "train", "streaming": True}
    if extension == ".parquet":
        return datasets.load_dataset("parquet", data_files=names, **options)
    if extension in (".json", ".jsonl"):
        return datasets.load_dataset("json", data_files=names, **options)
    separator = "\t" if extension == ".tsv" else separator_of(paths[0])
    header = pd.read_csv(paths[0], sep=separator, encoding="utf-8", index_col=False, nrows=0)
    text = Features({name: Value("string") for name in header.columns})
    # As in files: values stay as they are written.
    reading = {"sep": separator, "encoding": "utf-8", "index_col": False, "keep_default_na": False, "na_values": [""]}
    return datasets.load_dataset("csv", data_files=names, features=text, **reading, **options)


def _identity(file: str) -> str:
    """The file's name with its size and time, or the address, which names its revision."""
    if not os.path.isfile(file):
        return file
    found = os.stat(file)
    return f"{os.path.abspath(file)} {found.st_size} {found.st_mtime_ns}"
