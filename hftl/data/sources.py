"""Whatever names or holds labelled rows, as splits with their usual names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import datasets
from datasets import Dataset, DatasetDict

from hftl import hub
from hftl.data import streams
from hftl.data.files import TABLE_EXTENSIONS, read_file
from hftl.data.folders import SPLIT_NAMES, read_folder, read_shards
from hftl.data.kinds import Kind
from hftl.data.streams import Stream
from hftl.data.wanted import Wanted
from hftl.errors import HftlError, one_line
from hftl.quiet import quiet_datasets

__all__ = ["TABLE_EXTENSIONS", "Data", "Sources", "load"]

T = TypeVar("T")
Data: TypeAlias = str | Dataset | DatasetDict | Mapping[str, Dataset]


@dataclass(frozen=True)
class Sources:
    """Splits as they were found, columns and all."""

    splits: dict[str, Dataset]
    """By name: train, and where there are any validation and test."""
    notes: tuple[str, ...] = ()
    """What was left out, a line each."""
    sampled: bool = False
    """Whether they are samples that know nothing of labels."""


def load(data: Data, *, kind: Kind, subset: str | None = None, streaming: Wanted | None = None) -> Sources:
    """Splits of a folder, a file, a saved or Hub set, or objects.

    Args:
        data: a path, a name on the Hub, a ``Dataset`` (all of it train) or splits by their names.
        kind: what the rows are about: which files count in a folder of class folders, say.
        subset: the configuration of a Hub set that has several.
        streaming: read data files and Hub sets as streams, and keep only this of them.

    Raises:
        HftlError: it is not there, cannot be read, or has no train split.
    """
    if not isinstance(data, str | os.PathLike):
        return _unstreamed(*_named_splits(data, "the data handed in"), streaming)
    name = os.fspath(data)
    if not name.strip():
        raise HftlError("no data named; give --task.data a folder, a file, or a name on the Hub")
    path = Path(name).expanduser()
    if not path.exists():
        if _looks_like_a_path(name):
            raise HftlError(f"{name}: no such file or folder; check the path (it starts at {Path.cwd()})")
        if streaming is not None:
            return _streamed(
                streams.of_builder(_from_hub(name, subset, datasets.load_dataset_builder)), name, streaming
            )
        return Sources(*_named_splits(_from_hub(name, subset, datasets.load_dataset), name))
    if subset is not None:
        raise HftlError(f"--task.subset {subset}: only a set on the Hub has subsets, and {name} is local; leave it out")
    if path.is_file():
        if path.suffix.lower() not in TABLE_EXTENSIONS:
            known = ", ".join(TABLE_EXTENSIONS)
            raise HftlError(
                f"{name}: the ending {path.suffix or '(none)'} is none of {known}; convert it to one of them"
            )
        if streaming is not None:
            return _streamed({"train": streams.of_files([path], kind)}, name, streaming)
        return Sources({"train": read_file(path, kind)})
    saved = _from_disk(path)
    if saved is not None:
        return _unstreamed(*_named_splits(saved, name), streaming)
    found, notes = read_folder(path, kind, read_shards if streaming is None else streams.of_files)
    if streaming is not None and all(isinstance(split, streams.Stream) for split in found.values()):
        return _streamed(found, name, streaming, notes)
    splits, left_out = _named_splits(found, name)
    return _unstreamed(splits, (*notes, *left_out), streaming)


def _streamed(found: Mapping[str, Stream], origin: str, wanted: Wanted, notes: Sequence[str] = ()) -> Sources:
    """What is wanted of streams; a split that is not used is not even opened."""
    chosen, left_out = _usual_names(found, origin)
    kept, more = streams.keep(chosen, wanted)
    unused = [f"{name}: left out; the splits used are train, validation and test" for name in left_out]
    return Sources(kept, (*notes, *unused, *more), sampled=wanted.max_rows is not None)


def _unstreamed(splits: dict[str, Dataset], notes: Sequence[str], wanted: Wanted | None) -> Sources:
    told = ["streaming: these data are no data files to stream; they are read as always"] if wanted else []
    return Sources(splits, (*notes, *told))


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((os.sep, ".", "~")) or name.endswith((os.sep, *TABLE_EXTENSIONS)) or name.count("/") > 1


def _named_splits(data: Any, origin: str) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """Splits under their usual names; others are left out with a note."""
    if isinstance(data, Dataset):
        data = {"train": data}
    if not isinstance(data, Mapping) or not all(isinstance(split, Dataset) for split in data.values()):
        kind = next((type(split).__name__ for split in data.values() if not isinstance(split, Dataset)), None) if (
            isinstance(data, Mapping)) else type(data).__name__  # fmt: skip
        raise HftlError(f"{origin}: it is {kind}; hand in a datasets.Dataset, or a dict of them by split")
    chosen, left_out = _usual_names(data, origin)
    return chosen, tuple(
        f"{name}: left out ({len(data[name]):,} rows); the splits used are train, validation and test"
        for name in left_out
    )


def _usual_names(data: Mapping[str, T], origin: str) -> tuple[dict[str, T], list[str]]:
    """Splits under their usual names, train first, and the names of the others."""
    splits: dict[str, T] = {}
    left_out = []
    for name, split in data.items():
        usual = SPLIT_NAMES.get(str(name).lower())
        if usual is None:
            left_out.append(str(name))
        elif usual in splits:
            raise HftlError(
                f"{origin}: two of its splits ({', '.join(map(str, data))}) are both {usual}; keep one of them"
            )
        else:
            splits[usual] = split
    if "train" not in splits:
        raise HftlError(f"{origin}: no train split among {', '.join(map(str, data)) or 'none'}; name one of them train")
    return {name: splits[name] for name in ("train", "validation", "test") if name in splits}, left_out


def _from_disk(path: Path) -> Any:
    """What ``save_to_disk`` wrote there, or None where it is another kind of folder."""
    if not (path / "dataset_dict.json").is_file() and not (path / "state.json").is_file():
        return None
    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise HftlError(f"{path}: the saved set cannot be read ({one_line(error)}); save it again") from None


def _from_hub(name: str, subset: str | None, ask: Callable[..., Any]) -> Any:
    """What a function of ``datasets`` gives for a name on the Hub."""
    neither = f"{name}: no such local file or folder, and no data set that the Hub gives"
    built_copy = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
    if not built_copy.exists() and not hub.worth_asking("datasets", name):
        raise HftlError(f"{neither} (no connection to it); check the path, or connect")
    try:
        with quiet_datasets():
            return ask(name, subset)
    except ValueError as error:
        if subsets := re.search(r"(?:available configs|Available): \[(.*?)\]", str(error), re.DOTALL):
            listed = subsets[1].replace("'", "")
            wanted = "several subsets" if subset is None else f"no subset '{subset}'"
            raise HftlError(f"{name}: it has {wanted}; choose one with --task.subset: {listed}") from None
        raise HftlError(f"{neither} ({one_line(error)}); check the name") from None
    except RuntimeError as error:
        raise HftlError(
            f"{name}: {one_line(error)}; use a set of parquet, csv or json files, or download them"
        ) from None
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise HftlError(f"{neither} ({one_line(error)}); check the name, the connection, and your access") from None
