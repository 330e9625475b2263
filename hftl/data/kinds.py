"""What a kind of input is: how its columns and files are recognised, read and looked at. Each modality has its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasets import Dataset

    from hftl.data.sampling import Ids

Digests: TypeAlias = NDArray[np.uint64]
"""64 bits for each row's input: equal where the input is the same (by chance once in 2^64 pairs of rows)."""


class Examined(NamedTuple):
    """An input that has been looked at, all of it."""

    reason: str | None
    """Why training could not use it, in a few words; None where it can."""
    digest: int
    """64 bits of what it holds, the same for the same content; 0 where it is unreadable."""
    seconds: float = 0.0
    """How long it lasts, where it does."""


def digest64(*parts: bytes) -> int:
    """64 bits that stand for the bytes."""
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Role:
    """What a column is for."""

    name: str
    """In messages, in the option that names the column (``--task.<name>-column``), and in the result."""
    holds: Literal["strings", "files", "labels", "anything"]
    """Files are paths of them, their bytes, or both."""
    usual_names: tuple[str, ...] = ()
    """In lower case; the first of them that fits is the column."""
    by_type: bool = True
    """Whether the only column of its type is the column where none has a usual name."""
    extensions: frozenset[str] = frozenset()
    """Of files: their endings in lower case, with the dot."""
    encoded: Any = None
    """Of files: the feature of ``datasets`` that holds them."""


@dataclass(frozen=True)
class Kind:
    """What the rows are about. What is None does not apply."""

    role: Role
    """Of the input column."""
    name_of: Callable[..., str]
    """What to call a row in a message, from the values of its input columns: its file, or the beginning of a text."""
    files: str = "files"
    """How files of it are called in messages."""
    rows: str = "rows"
    """How rows of it are called beside a progress bar."""
    extensions: frozenset[str] = frozenset()
    """Of the files that count in class folders, in lower case, with the dot; none: there are no class folders."""
    buffer: int = 10_000
    """Rows of a stream among which a sample is shuffled; so many are in memory together, and are read beyond those that
    are kept."""
    lasts: bool = False
    """Whether each input lasts for some seconds."""
    read: Callable[[str], str] | None = None
    """What a row holds of a file, where it is not the file's path."""
    examine: Callable[[Any], Examined] | None = None
    """Looks at one input, all of it."""
    blanks: Callable[[Dataset, Sequence[str]], NDArray[Any]] | None = None
    """Why rows hold nothing in these columns, shape (rows,): a few words, or the empty string where they do."""
    digests: Callable[[Dataset, Sequence[str], Ids], Digests] | None = None
    """Of these columns of these rows, shape (rows,), where ``examine`` does not give them."""
    check_folder: Callable[[Path, Collection[Path]], None] | None = None
    """Refuses a folder and its sub-folders whose names are no classes."""
    check_rows: Callable[[Mapping[str, Dataset], str], None] | None = None
    """Refuses splits, by what to call them, whose rows are no whole inputs in this column."""
    nested: Callable[[Any, Path], list[Any] | None] | None = None
    """The rows of a JSON document of a form of its own; None where it is of another."""
