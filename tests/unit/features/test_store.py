"""Stores on disk: complete or not there, read as numpy would, the least used of them gone first."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hftl.errors import NotStoredError
from hftl.features import store
from hftl.features.examples import filling_order
from hftl.features.store import Array, Column, Declaration, Shard

VALUES = torch.arange(12, dtype=torch.float32).reshape(6, 2)


def write(folder: Path, name: str, shards: Sequence[torch.Tensor] = (VALUES,), used: float | None = None) -> str:
    """A store with one array, ``features``; its key."""
    draft = store.start_draft(folder, name)
    entries, columns = [], {"features": Column.of(shards[0])}
    for number, values in enumerate(shards):
        with Shard(draft, number) as shard:
            if len(values):
                shard.append({"features": values})
        entries.append({"features": len(values)})
    store.finish(draft, Declaration(columns, entries, {"name": name}, {}))
    key = store.key_of({"name": name})
    if used is not None:
        os.utime(folder / key / store.DECLARATION, (used, used))
    return key


def read(folder: Path, key: str, places: Sequence[int]) -> torch.Tensor:
    found = store.find(folder, key)
    assert found is not None
    return Array([found], "features").take(np.asarray(places))


# -- reading ---------------------------------------------------------------------------------------------------------

layouts = st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_what_is_written_is_read(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    values = (torch.randn(6, *shape) * 100).to(dtype)
    key = write(tmp_path, "a", [values[:2], values[2:2], values[2:]])
    assert torch.equal(read(tmp_path, key, range(6)), values)
    assert read(tmp_path, key, [5]).dtype == dtype


@given(layout=layouts, drawn=st.data())
def test_entries_are_taken_and_cut_as_numpy_would_whatever_the_shards(layout: list[int], drawn: st.DataObject) -> None:
    entries = sum(layout)
    values = torch.arange(entries * 3).reshape(entries, 3)
    with tempfile.TemporaryDirectory() as folder:
        key = write(Path(folder), "a", values.split(layout))
        found = store.find(Path(folder), key)
        assert found is not None
        array = Array([found], "features")
        places = np.array(drawn.draw(st.lists(st.integers(0, entries - 1), max_size=9)), dtype=np.int64)
        assert torch.equal(array.take(places), values[torch.from_numpy(places)])
        # Stretches that lie in one shard each, as the positions of a row do; a row may have none.
        ends = np.cumsum(layout)
        inside = [(drawn.draw(st.integers(0, size)), end - size, size) for end, size in zip(ends, layout, strict=True)]
        starts = np.array([first + begin for begin, first, _ in inside])
        lengths = np.array([drawn.draw(st.integers(0, size - begin)) for begin, _, size in inside])
        order = np.array(drawn.draw(st.permutations(range(len(inside)))))
        stretches = zip(starts[order], lengths[order], strict=True)
        expected = torch.cat([values[start : start + length] for start, length in stretches])
        assert torch.equal(array.cut(starts[order], lengths[order]), expected)


def test_what_is_taken_is_a_copy(tmp_path: Path) -> None:
    """Some models work on their inputs in place."""
    key = write(tmp_path, "a", [VALUES])
    found = store.find(tmp_path, key)
    assert found is not None
    array = Array([found], "features")
    array.take(np.arange(6)).zero_()
    array.cut(np.array([0]), np.array([6])).zero_()
    assert torch.equal(array.take(np.arange(6)), VALUES)
    assert torch.equal(read(tmp_path, key, range(6)), VALUES)


@given(
    rows=st.integers(1, 200), size=st.integers(1, 20), processes=st.integers(1, 9), seed=st.none() | st.integers(0, 99)
)
def test_a_store_is_filled_with_every_row_once_in_batches_of_a_single_process(
    rows: int, size: int, processes: int, seed: int | None
) -> None:
    class Rows(SimpleNamespace):
        def __len__(self) -> int:
            return rows

    lengths = None if seed is None else np.random.default_rng(seed).integers(1, 50, rows)
    examples: Any = Rows(lengths=lengths)
    shares = filling_order(examples, size, processes)
    assert len(shares) == processes
    assert sorted(np.concatenate([batch for share in shares for batch in share]).tolist()) == list(range(rows))
    alone = {tuple(batch.tolist()) for batch in filling_order(examples, size, 1)[0]}
    assert {tuple(batch.tolist()) for share in shares for batch in share} == alone


# -- what is no store ------------------------------------------------------------------------------------------------


def change(path: Path, **changes: Any) -> None:
    file = path / store.DECLARATION
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


DAMAGES = {
    "truncated shard": lambda path: os.truncate(path / "features-0000.bin", 40),
    "longer shard": lambda path: os.truncate(path / "features-0000.bin", 52),
    "missing shard": lambda path: (path / "features-0001.bin").unlink(),
    "shard that is a folder": lambda path: [
        (path / "features-0001.bin").unlink(),
        (path / "features-0001.bin").mkdir(),
    ],
    "no declaration": lambda path: (path / store.DECLARATION).unlink(),
    "empty declaration": lambda path: (path / store.DECLARATION).write_text(""),
    "half a declaration": lambda path: os.truncate(path / store.DECLARATION, 60),
    "a declaration that is no text": lambda path: (path / store.DECLARATION).write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: (path / store.DECLARATION).write_text("[]"),
    "another format": lambda path: change(path, format=store.FORMAT + 1),
    "a field more": lambda path: change(path, checksum=1),
    "columns as a list": lambda path: change(path, columns=["features"]),
    "shards of another kind": lambda path: change(path, shards=[["features", 6]]),
    "an unknown dtype": lambda path: change(path, columns={"features": {"dtype": "float33", "shape": [2]}}),
    "an undeclared array": lambda path: change(path, shards=[{"targets": 3}]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_no_store_and_makes_way_for_one(damage: str, tmp_path: Path) -> None:
    shards = [VALUES[:3], VALUES[3:]]
    key = write(tmp_path, "a", shards)
    DAMAGES[damage](tmp_path / key)
    assert store.find(tmp_path, key) is None
    assert store.stores(tmp_path) == []
    assert write(tmp_path, "a", shards) == key
    assert torch.equal(read(tmp_path, key, range(6)), VALUES)
    assert [path.name for path in tmp_path.iterdir()] == [key]


def test_a_shard_that_may_not_be_read_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = write(tmp_path, "a")
    access = os.access  # the tests may run as root, who may read everything
    monkeypatch.setattr(store.os, "access", lambda path, mode: path.suffix != ".bin" and access(path, mode))
    assert store.find(tmp_path, key) is None


def test_a_process_that_had_nothing_to_write_has_no_file_and_the_store_is_one(tmp_path: Path) -> None:
    key = write(tmp_path, "a", [VALUES, VALUES[:0], VALUES[:0]])
    assert sorted(path.name for path in (tmp_path / key).iterdir()) == ["features-0000.bin", "store.json"]
    assert torch.equal(read(tmp_path, key, [5, 0]), VALUES[[5, 0]])


def test_no_store_lies_in_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "nowhere", tmp_path / "file", tmp_path / "file" / "below"):
        assert store.find(folder, "a") is None
        assert store.stores(folder) == []


# -- writing ---------------------------------------------------------------------------------------------------------


def test_a_draft_is_no_store_and_of_a_process_that_is_gone_it_goes(tmp_path: Path) -> None:
    own, host = store.start_draft(tmp_path, "a"), store.socket.gethostname()
    (own / store.DECLARATION).write_text("{}")
    assert store.stores(tmp_path) == []
    gone, elsewhere, alive = (f".b@{host}@{2**22 + 1}.part", ".b@elsewhere@1.part", f".b@{host}@{os.getppid()}.part")
    for name in (gone, elsewhere, alive):
        (tmp_path / name).mkdir()
    store.start_draft(tmp_path, "c")
    assert {path.name for path in tmp_path.iterdir()} == {own.name, elsewhere, alive, f".c@{host}@{os.getpid()}.part"}


def test_a_name_that_no_draft_has_is_left_alone(tmp_path: Path) -> None:
    for name in (".download.part", ".a@b.part", f".a@{store.socket.gethostname()}@c.part"):
        (tmp_path / name).mkdir()
    store.start_draft(tmp_path, "c")
    assert len([*tmp_path.iterdir()]) == 4


def test_of_two_runs_that_make_the_same_store_the_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads it goes on reading; and the other finds it."""
    monkeypatch.setattr(store.os, "getpid", os.getppid)
    slow = store.start_draft(tmp_path, "a")
    monkeypatch.undo()
    key = write(tmp_path, "a")
    first = store.find(tmp_path, key)
    assert slow.is_dir()
    with Shard(slow, 0) as shard:
        shard.append({"features": VALUES})
    made = (tmp_path / key / "features-0000.bin").stat().st_ino
    store.finish(slow, first.declaration)
    assert (tmp_path / key / "features-0000.bin").stat().st_ino == made
    assert torch.equal(read(tmp_path, key, range(6)), VALUES)


def test_a_full_disk_is_noticed_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the file is closed: a few bytes would wait in memory until then."""
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is Linux's")
    monkeypatch.setattr(store, "shard_path", lambda *_: Path("/dev/full"))
    shard = Shard(tmp_path, 0)
    with pytest.raises(OSError, match="No space left"):
        shard.append({"features": VALUES})


def test_batches_of_unlike_shape_are_not_stored(tmp_path: Path) -> None:
    with Shard(tmp_path, 0) as shard:
        shard.append({"features": VALUES})
        for other in (VALUES[:, :1], VALUES.double()):
            with pytest.raises(NotStoredError, match="features"):
                shard.append({"features": other})


# -- room ------------------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    old, kept, newer, new = (write(tmp_path, name, used=1000.0 + n) for n, name in enumerate("abcd"))
    assert [found.path.name for found in store.stores(tmp_path)] == [new, newer, kept, old]
    assert store.room_for(tmp_path, 48, 5 * 48, {kept}) == []
    removed = store.room_for(tmp_path, 2 * 48, 4 * 48, {old})
    assert [found.path.name for found in removed] == [kept, newer]
    for found in removed:
        store.remove(found)
    assert {path.name for path in tmp_path.iterdir()} == {old, new}


def test_to_be_used_is_noted(tmp_path: Path) -> None:
    old, new = (write(tmp_path, name, used=1000.0 + n) for n, name in enumerate("ab"))
    store.mark_used(store.find(tmp_path, old))
    assert [found.path.name for found in store.stores(tmp_path)] == [old, new]


def test_what_does_not_fit_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, other = write(tmp_path, "a"), write(tmp_path, "b")
    with pytest.raises(NotStoredError, match=r"12\.0 GB.*--store\.max-gb allows 10\.0 GB"):
        store.room_for(tmp_path, 12 * 10**9, 10**10, {kept})
    with pytest.raises(NotStoredError, match="max-gb"):  # what stays counts, too
        store.room_for(tmp_path, 60, 100, {kept})
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=store.SPARE + 10))
    with pytest.raises(NotStoredError, match=r"disk of .* 0\.0 kB to spare"):
        store.room_for(tmp_path, 60, 10**10, {kept})
    assert {found.path.name for found in store.stores(tmp_path)} == {kept, other}
    assert [found.path.name for found in store.room_for(tmp_path, 58, 10**10, {kept})] == [other]
