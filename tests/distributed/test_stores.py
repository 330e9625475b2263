"""Stores filled by two processes beside those filled by one: the same features, found by both."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hftl
from hftl.features import store
from hftl.features.store import Array

SCRIPT = Path(__file__).with_name("stores_on_each.py")
RUNS = {"images": 4, "texts": 4, "one batch": 64, "all rows": 8}
"""And rows in the batches with which their stores are filled."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory, photos, reviews, tiny_model):
    """By how many processes ran, 1 or 2: what each of them saw, and the folder."""
    data = [str(path) for path in (photos, reviews, *map(tiny_model, ("vit", "gpt2")))]
    one, two = (tmp_path_factory.mktemp(f"stores-{processes}") for processes in (1, 2))
    runs = runpy.run_path(str(SCRIPT))["runs"]
    alone = {"filled": runs(one / "filled", one / "stores", *data)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, str(SCRIPT), str(two), str(one / "stores"), *data]
    paths = {"PYTHONPATH": str(Path(hftl.__file__).parents[1]), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    alone["found"] = runs(one / "found", two / "stores", *data)
    together = [json.loads((two / f"seen-{rank}.json").read_text()) for rank in range(2)]
    return {1: ([alone], one), 2: (together, two)}


def of(seen, processes, run):
    """The stores of a run, by split."""
    size, ragged = RUNS[run], run == "texts"
    return {
        found.declaration.about["split"]: found
        for found in store.stores(seen[processes][1] / "stores")
        if found.declaration.made_of["batch"] == size and ("positions" in found.declaration.columns) == ragged
    }


def passes(run, splits):
    """What each pass of a run has to compute: the second one nothing, for the first one has stored all its rows."""
    return [splits, []] if run == "all rows" else [splits]


@pytest.mark.parametrize("run", RUNS)
def test_each_process_fills_its_shard_and_the_names_are_those_of_a_single_one(run, seen):
    alone, together = of(seen, 1, run), of(seen, 2, run)
    splits = ["train", "validation", *([] if run == "texts" else ["test"])]
    assert sorted(alone) == sorted(together) == sorted(splits)
    for split in splits:
        assert alone[split].path.name == together[split].path.name
        assert [len(found[split].declaration.shards) for found in (alone, together)] == [1, 2]
    assert [saw["filled"][run]["computed"] for saws, _ in seen.values() for saw in saws] == [passes(run, splits)] * 3


@pytest.mark.parametrize("run", RUNS)
def test_features_of_a_row_do_not_depend_on_how_many_processes_there_were(run, seen):
    """To the last bit: the batches are the same."""
    rows = {"train": 48 if run == "texts" else 24, "validation": 12 if run == "texts" else 9, "test": 9}
    for split, alone in of(seen, 1, run).items():
        together = of(seen, 2, run)[split]
        batch, count = alone.declaration.made_of["batch"], rows[split]
        order = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
        place = np.argsort([row for share in (order[0::2], order[1::2]) for rows_of in share for row in rows_of])
        for name in alone.declaration.columns:
            one, two = (Array([found], name) for found in (alone, together))
            if name == "features" and run == "texts":
                lengths = [Array([f], "positions").take(np.arange(count)) for f in (alone, together)]
                starts = [(length.cumsum(0) - length).numpy() for length in lengths]
                expected = one.cut(starts[0], lengths[0].numpy())
                assert torch.equal(two.cut(starts[1][place], lengths[1].numpy()[place]), expected)
            else:
                assert torch.equal(two.take(place), one.take(np.arange(count))), name


@pytest.mark.parametrize("run", RUNS)
def test_what_the_others_filled_is_found(run, seen):
    assert [saw["found"][run]["computed"] for saws, _ in seen.values() for saw in saws] == [passes(run, [])] * 3


@pytest.mark.parametrize("run", RUNS)
def test_processes_agree_and_score_as_one_does_whoever_filled_the_stores(run, seen):
    (alone,), (first, second) = seen[1][0], seen[2][0]
    for how in ("filled", "found"):
        assert not any(saw[how][run]["notes"] for saw in (alone, first, second))
        assert first[how][run]["own"] == second[how][run]["own"] == first["filled"][run]["own"]
        assert alone[how][run]["own"] == alone["filled"][run]["own"]  # the very same features
        assert first[how][run]["scores"] == second[how][run]["scores"]
        for split, scores in alone[how][run]["scores"].items():
            assert first[how][run]["scores"][split] == pytest.approx(scores, rel=1e-3)


def test_more_processes_than_batches(seen):
    """One of them writes nothing, and what the other wrote is a store."""
    found = of(seen, 2, "one batch")["train"]
    assert found.declaration.shards == [{"features": 24, "targets": 24}, {"features": 0, "targets": 0}]
    assert not store.shard_path(found.path, "features", 1).exists()


def test_where_one_process_cannot_write_none_stores(seen):
    (first, second), _ = seen[2]
    for saw in (first["full"], second["full"]):
        assert saw["computed"] == []
        (note,) = saw["notes"]
        assert "No space left" in note
        assert "\n" not in note
        assert saw["left"] == []
    assert first["full"]["own"] == second["full"]["own"]
