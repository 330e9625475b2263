"""Recordings to lay under others, such as wind and traffic."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset

from hftl.audio import calls
from hftl.audio.recordings import RECORDINGS
from hftl.data import checks
from hftl.data.checks import BadRow
from hftl.errors import HftlError

NAMED = 3
"""Recordings that cannot be used are named in a note: so many of them."""


@dataclass(frozen=True)
class Noises:
    """Those of a folder that can be used."""

    recordings: tuple[dict[str, Any], ...] = ()
    """Of each ``audio`` (its path), ``seconds``, and the ``digest`` of how it sounds; by their paths."""
    notes: tuple[str, ...] = ()
    """Which are left out."""


def read(folder: str, option: str) -> Noises:
    """The recordings in a folder and the folders in it; all are decoded, once in a process unless they change.

    Args:
        folder: where they are.
        option: that names it in messages.

    Raises:
        HftlError: there is none, or none that can be used.
    """
    files = calls.sound_files(folder, option)
    recordings, bad = _examined(tuple((file, *_stamp(file)) for file in files))
    if not recordings:
        raise HftlError(
            f"{option} {folder}: none of its recordings can be used; first {bad[0].name}: {bad[0].reason}; mend them, "
            "or name another folder"
        )
    if not bad:
        return Noises(recordings)
    root = os.path.realpath(os.path.expanduser(folder))
    named = ", ".join(f"{os.path.relpath(row.name, root)} ({row.reason})" for row in bad[:NAMED])
    more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    return Noises(recordings, (f"{option} {folder}: {len(bad):,} of {len(files):,} left out: {named}{more}",))


@lru_cache(maxsize=8)
def _examined(files: tuple[tuple[str, int, int], ...]) -> tuple[tuple[dict[str, Any], ...], tuple[BadRow, ...]]:
    """Those that can be used, and those that cannot; of each its path and ``_stamp``."""
    paths = [path for path, *_ in files]
    rows = Dataset.from_dict({"audio": paths})
    bad, examined = checks.examine(rows, "audio", np.arange(len(paths)), "noise", RECORDINGS)
    found = zip(paths, examined, strict=True)
    good = ({"audio": path, "seconds": each.seconds, "digest": each.digest} for path, each in found if not each.reason)
    return tuple(good), tuple(bad)


def _stamp(file: str) -> tuple[int, int]:
    """Time and size, which are others when it has changed; zeros where it is not there (a link may lead nowhere)."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
