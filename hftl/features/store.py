"""Feature stores on disk: one folder each, memory-mapped, complete or not there at all.

A store holds arrays, ``features`` and ``targets`` (and of ragged features ``positions``: how many each row has), in one
shard for each process that filled it: raw numbers, rows one after the other. ``store.json`` says what they are, and is
written last, before the folder gets its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import psutil
import torch

from hftl.errors import NotStoredError
from hftl.wording import size_text

FORMAT = 1
"""To be raised whenever stores are written in another way, or features are computed in another way."""
DECLARATION = "store.json"
SPARE = 10**9
"""Bytes of the disk that a store leaves free."""

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One array of a store: numbers of ``dtype``, of ``shape`` for each row (or, of ragged features, each position)."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Column:
        """That of a batch, whose first axis is the rows."""
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape[1:]))

    @property
    def size(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape, dtype=np.int64)) * int(getattr(torch, self.dtype).itemsize)


@dataclass(frozen=True)
class Declaration:
    """What ``store.json`` says of a store."""

    columns: dict[str, Column]
    shards: list[dict[str, int]]
    """For each shard, the entries of each of its arrays: rows, or positions."""
    made_of: dict[str, Any]
    """All that determines the content; the name of the folder is its digest."""
    about: dict[str, Any]
    """What people call it: model, data, split."""
    format: int = FORMAT


@dataclass(frozen=True)
class Found:
    """A store in the folder of stores."""

    path: Path
    declaration: Declaration
    bytes: int
    used: float
    """When it was last opened: seconds since 1970."""


def key_of(made_of: Mapping[str, Any]) -> str:
    """The name of the store that is made of this; equal names mean equal content."""
    return hashlib.sha256(json.dumps({**made_of, "format": FORMAT}, sort_keys=True).encode()).hexdigest()[:20]


def default_folder() -> Path:
    """``hftl/features`` in the cache folder of Hugging Face."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hftl" / "features"


# -- reading ---------------------------------------------------------------------------------------------------------


class Array:
    """One array of some stores over all their shards, memory-mapped: only what is taken is read."""

    def __init__(self, stores: Sequence[Found], name: str) -> None:
        self._parts = [part for found in stores for part in _mapped(found, name)]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def take(self, places: Places) -> torch.Tensor:
        """Copies of the entries at these places, counted over all shards; shape (places, …)."""
        if len(self._parts) == 1:
            return self._parts[0][torch.from_numpy(places)]
        part = np.searchsorted(self._ends, places, side="right")
        taken = self._parts[0].new_empty(len(places), *self._parts[0].shape[1:])
        for number in np.unique(part):
            here = part == number
            start = self._ends[number] - len(self._parts[number])
            taken[torch.from_numpy(here)] = self._parts[number][torch.from_numpy(places[here] - start)]
        return taken

    def cut(self, starts: Places, lengths: Places) -> torch.Tensor:
        """Copies of the entries from each start on, so many of them, one after the other; shape (sum of lengths, …)."""
        part = np.searchsorted(self._ends[:-1], starts, side="right")  # nothing at all may be cut from the very end
        first = starts - self._ends[part] + [len(self._parts[number]) for number in part]
        ends = zip(part.tolist(), first.tolist(), (first + lengths).tolist(), strict=True)
        return torch.cat([self._parts[number][start:end] for number, start, end in ends])


def _mapped(found: Found, name: str) -> list[torch.Tensor]:
    """The array in each shard of a store, shape (entries, …)."""
    column, entries = found.declaration.columns[name], [shard[name] for shard in found.declaration.shards]
    dtype: torch.dtype = getattr(torch, column.dtype)
    numbers = int(np.prod(column.shape, dtype=np.int64))
    return [
        torch.from_file(str(shard_path(found.path, name, number)), False, count * numbers, dtype=dtype).view(
            count, *column.shape
        )
        if count
        else torch.empty(0, *column.shape, dtype=dtype)
        for number, count in enumerate(entries)
    ]


def shard_path(store: Path, name: str, number: int) -> Path:
    """The file of one array in one shard."""
    return store / f"{name}-{number:04}.bin"


def find(folder: Path, key: str) -> Found | None:
    """The store of that name, complete and as large as it says; else None."""
    path = folder / key
    try:
        plain = json.loads((path / DECLARATION).read_text(encoding="utf-8"))
        columns = {name: Column(c["dtype"], tuple(c["shape"])) for name, c in plain["columns"].items()}
        declaration = replace(Declaration(**plain), columns=columns)
        sizes = {
            shard_path(path, name, number): count * columns[name].size
            for number, shard in enumerate(declaration.shards)
            for name, count in shard.items()
            if count  # a process that had no batch has written no file
        }
        whole = all(file.stat().st_size == size and os.access(file, os.R_OK) for file, size in sizes.items())
        used = (path / DECLARATION).stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever lies there, it is none
    return Found(path, declaration, sum(sizes.values()), used) if whole and declaration.format == FORMAT else None


def mark_used(found: Found) -> None:
    """Note that it is in use, so that others go before it where room is needed."""
    try:
        os.utime(found.path / DECLARATION)
    except OSError:  # of somebody else, whose stores may be read
        return


def stores(folder: Path) -> list[Found]:
    """All complete stores in the folder, the last used first."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    found = [store for name in names if not name.startswith(".") and (store := find(folder, name)) is not None]
    return sorted(found, key=lambda store: -store.used)


def remove(found: Found) -> None:
    """Delete the store; a run that reads it goes on with what it holds open."""
    shutil.rmtree(found.path)


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """What goes wrong on disk inside is a reason not to store.

    Raises:
        NotStoredError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise NotStoredError(f"{folder}: {error.strerror or error}; name another with --store.dir") from None


# -- writing ---------------------------------------------------------------------------------------------------------


class Shard:
    """One process's share of a store, written batch by batch: nothing of it stays in memory."""

    def __init__(self, draft: Path, number: int) -> None:
        self._draft, self._number = draft, number
        self._files: dict[str, Any] = {}
        self.columns: dict[str, Column] = {}
        self.entries: dict[str, int] = {}

    def append(self, arrays: Mapping[str, torch.Tensor]) -> None:
        """Write the entries of one batch to the end of each array.

        Raises:
            OSError: they cannot be written.
            NotStoredError: they are not like those of the batches before.
        """
        for name, tensor in arrays.items():
            if name not in self._files:
                self._files[name] = shard_path(self._draft, name, self._number).open("wb")
                self.columns[name], self.entries[name] = Column.of(tensor), 0
            if Column.of(tensor) != self.columns[name]:
                raise NotStoredError(f"the {name} of one batch are of another shape than those of another")
            plain = tensor.detach().cpu().contiguous()
            self._files[name].write(plain.reshape(-1).view(torch.uint8).numpy().data)
            self._files[name].flush()  # else a full disk would be noticed as late as when the file is closed
            self.entries[name] += len(tensor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()


def start_draft(folder: Path, key: str) -> Path:
    """A folder to fill, under a name that no reader looks at; what killed processes left of theirs is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob(f".*@{socket.gethostname()}@*.part"):
        process = other.name.removesuffix(".part").rpartition("@")[2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(other, ignore_errors=True)
    draft = folder / f".{key}@{socket.gethostname()}@{os.getpid()}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    return draft


def finish(draft: Path, declaration: Declaration) -> None:
    """Give the filled draft its name: from now on it is a store, unless another run has just made the same."""
    (draft / DECLARATION).write_text(json.dumps(asdict(declaration), indent=1), encoding="utf-8")
    path = draft.parent / key_of(declaration.made_of)
    try:
        draft.rename(path)
    except OSError:  # something is there already
        if find(path.parent, path.name) is None:
            shutil.rmtree(path, ignore_errors=True)
            draft.rename(path)


def room_for(folder: Path, wanted: int, most: int, keep: Collection[str]) -> list[Found]:
    """The stores that have to go for ``wanted`` bytes more to fit: those that have not been used for longest.

    Args:
        folder: that of the stores.
        wanted: bytes of what is to be stored.
        most: bytes that the folder may hold.
        keep: names of stores that stay.

    Raises:
        NotStoredError: they do not fit into ``most``, or on the disk, whatever goes.
    """
    there = stores(folder)
    kept = sum(store.bytes for store in there if store.path.name in keep)
    old = [store for store in there if store.path.name not in keep]
    held, free = sum(store.bytes for store in old), _free(folder)
    if kept + wanted > most:
        raise NotStoredError(f"they would take {size_text(kept + wanted)}, and --store.max-gb allows {size_text(most)}")
    if wanted > free + held:
        raise NotStoredError(
            f"they would take {size_text(wanted)}, and the disk of {folder} has {size_text(max(free, 0))} to spare"
        )
    removed: list[Found] = []
    while old and (kept + held + wanted > most or wanted > free):
        last = old.pop()
        held, free = held - last.bytes, free + last.bytes
        removed.append(last)
    return removed


def _free(folder: Path) -> int:
    """Bytes that may still be written on the disk of the folder."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free - SPARE
