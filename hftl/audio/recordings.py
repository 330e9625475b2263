"""Recordings as a kind of input: their columns, files and folders."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from datasets import Audio

from hftl.audio.segments import check_whole
from hftl.audio.sounds import SOUND_EXTENSIONS, examine, sound_name
from hftl.data.kinds import Kind, Role
from hftl.errors import HftlError

BIRDCLEF = "train_audio"
"""The folder in which BirdCLEF has its recordings, named in a train.csv."""


def check_folder(folder: Path, classes: Collection[Path]) -> None:
    """That the sub-folders of a folder may be classes.

    Raises:
        HftlError: they are laid out as for BirdCLEF, where a table names the classes, and there is none.
    """
    if folder / BIRDCLEF in classes:
        raise HftlError(
            f"{folder}: it has {BIRDCLEF}{os.sep} as for BirdCLEF, and no train.csv, which names the recordings; put "
            f"it there, or name {folder / BIRDCLEF}, where each sub-folder is a class"
        )


AUDIO = Role(
    "audio",
    "files",
    ("audio", "sound", "recording", "speech", "clip", "wav", "path", "audio_path", "file", "filename", "file_name",
     "filepath", "file_path"),
    extensions=SOUND_EXTENSIONS,
    encoded=Audio,
)  # fmt: skip
RECORDINGS = Kind(
    AUDIO,
    sound_name,
    files="sound files",
    rows="recordings",
    extensions=SOUND_EXTENSIONS,
    buffer=1_000,
    lasts=True,
    examine=examine,
    check_folder=check_folder,
    check_rows=check_whole,
)
