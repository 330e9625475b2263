from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.defaults import bench
from benchmarks.defaults.cells import CELLS, _chosen, _labelled
from benchmarks.defaults.table import Found, markdown, summary

MACHINE = {"cpu": "one", "versions": {"torch": "2"}}


def document(*runs: tuple[str, str, int, float, float]) -> dict[str, Any]:
    found = {
        f"{cell} / {contender} / {seed}": {
            "cell": cell,
            "contender": contender,
            "seed": seed,
            "inputs": "before",
            "score": score,
            "seconds": seconds,
            "curve": [[1.0, 0.5], [3.0, 0.8], [5.0, 0.9]],
        }
        for cell, contender, seed, score, seconds in runs
    }
    return {"machine": MACHINE, "runs": found}


def test_the_table_has_medians_ranges_and_the_part_of_trainers_time() -> None:
    found = document(
        *(("digits", "hftl", seed, score, 10.0) for seed, score in enumerate((0.9, 0.8, 0.95))),
        ("digits", "Trainer", 0, 0.75, 6.0),
        ("digits", "logistic regression", 0, 0.7, 1.0),
        ("digits", "hftl before", 0, 0.92, 8.0),
    )
    text = markdown(found)
    assert "| digits | 0.900 (0.800-0.950), 10 s | 0.920 (0.920-0.920), 8 s | 0.750 (0.750-0.750), 6 s |" in text
    assert text.count("50 % of its time") == 1
    assert summary(Found(found)) == [
        "- hftl above the better of Trainer and logistic regression: +15.0 points on average (+15.0 to +15.0, 1 cells)",
        "- hftl above hftl at ba7eeb7: -2.0 points on average (-2.0 to -2.0, 1 cells)",
    ]


def test_a_score_that_was_never_reached_has_no_time() -> None:
    found = Found(document(("digits", "hftl", 0, 0.9, 10.0), ("digits", "Trainer", 0, 0.95, 6.0)))
    assert found.reached("digits") is None


def asked(tmp_path: Path, **changed: Any) -> argparse.Namespace:
    names = "|".join(bench.CONTENDERS)
    settings = {"only": "digits, 10", "contenders": names, "seeds": 2, "set": [], "shared": tmp_path}
    return argparse.Namespace(**{**settings, "samples": tmp_path, "work": tmp_path, **changed})


def test_what_the_peers_scored_is_kept_and_what_hftl_scored_before_a_change_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "provide", lambda *_: tmp_path)
    planned = dict(bench._planned(asked(tmp_path), {"runs": {}}))
    assert len(planned) == 2 * 2 * len(bench.CONTENDERS)  # spoken digits are digits too
    runs = {key: {**job["of"], "score": 1.0} for key, job in planned.items()}
    assert not [key for key, _ in bench._planned(asked(tmp_path), {"runs": dict(runs)}) if key not in runs]
    monkeypatch.setattr(bench, "_digest", lambda folder: "changed" if folder.name == "hftl" else "")
    kept = {
        "runs": {
            key: {**run, "inputs": run["inputs"] if "hftl" in run["contender"] else ""} for key, run in runs.items()
        }
    }
    again = [key for key, _ in bench._planned(asked(tmp_path), kept) if key not in kept["runs"]]
    assert {key.split(" / ")[1] for key in again} == {"hftl", "hftl, linear-probe"}


def test_a_source_that_is_not_there_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bench._planned(asked(tmp_path, only="digits, 10 a"), {"runs": {}})) == []
    assert "left out" in capsys.readouterr().out


def test_rows_are_as_many_of_each_class_and_others_for_another_seed() -> None:
    rows = _labelled({"text": list(map(str, range(40))), "label": [n % 4 for n in range(40)]}, list("abcd"), "text")
    one, again, other = (_chosen(rows, 3, seed) for seed in (0, 0, 1))
    assert sorted(one["label"]) == sorted([0, 1, 2, 3] * 3)
    assert list(one["text"]) == list(again["text"]) != list(other["text"])


def test_there_are_cells_of_every_kind_and_jobs_are_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(CELLS) >= 12
    assert {cell.kind for cell in CELLS} == {"image", "text", "audio", "question"}
    monkeypatch.setattr(bench, "provide", lambda *_: tmp_path)
    for _, job in bench._planned(asked(tmp_path, only="", seeds=1), {"runs": {}}):
        assert json.loads(json.dumps(job)) == job
