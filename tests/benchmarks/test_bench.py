from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import bench, contenders
from benchmarks.material import provide_data
from benchmarks.plan import Job, Rows, Scale, Source, Sources, chosen_workers, jobs
from benchmarks.table import Found, markdown, reported, targets
from datasets import load_from_disk

IMAGES = Source("photos", "image", "model", "data", 32)
HEAD = {
    "command": "bench",
    "seed": 0,
    "quick": False,
    "repetitions": 3,
    "notes": [],
    "machine": {"best_precision": "bf16", "cpu": "one", "cores": 2, "gpu": "", "commit": "abc", "versions": {}},
}


def document(*measured: tuple[Job, list[dict[str, Any]]]) -> dict[str, Any]:
    entries = {job.key: {"job": asdict(job), "repetitions": results} for job, results in measured}
    return {**HEAD, "measurements": json.loads(json.dumps(entries))}


def probe(contender: str, *seconds: float, **settings: Any) -> tuple[Job, list[dict[str, Any]]]:
    job = Job("probe-images", contender, "hftl", IMAGES, epochs=10, **{"measured_epochs": 10, **settings})
    epochs = {"epoch_seconds": [5.0, 3.0], "accuracies": [0.1, 0.9]}
    return job, [{"seconds": each, "phase_seconds": each + 1, **epochs} for each in seconds]


def test_what_was_not_run_counts_as_so_many_times_the_last_epoch() -> None:
    rows = {"rows": Rows(1024, 256), "measured_rows": Rows(256, 64)}
    job, (result,) = probe("Trainer", 8.5, measured_epochs=2, **rows)
    assert reported(job, result) == 8.5 + 38 * 3.0
    assert reported(*((whole := probe("hftl", 8.5))[0], whole[1][0])) == 8.5


def test_the_table_has_medians_and_says_what_is_met_and_what_is_missed() -> None:
    found = document(probe("Trainer", 90.0, 70.0, 80.0), probe("hftl", 9.0, 11.0, 10.0), probe("script", 9.0, 8.0, 9.5))
    met = {target.claim: (target.figure, target.met) for target in targets(Found(found))}
    assert met == {
        "photos, fp32: Trainer's time / hftl's": (8.0, True),
        "photos, fp32: hftl's time / the script's": (pytest.approx(10 / 9), False),
    }
    text = markdown(found)
    assert "| fp32 | 80.0, 0.900 | 9.0, 0.900 | 10.0, 0.900 |" in text
    assert "| 1.111x | **missed** |" in text
    assert "†" not in text


def test_the_table_says_what_was_run_once_or_in_part() -> None:
    rows = {"rows": Rows(1024, 256), "measured_rows": Rows(256, 64)}
    text = markdown(document(probe("Trainer", 8.5, measured_epochs=2, repetitions=1, **rows), probe("hftl", 9.0)))
    assert "| fp32 | 122.5*† | 9.0, 0.900 |" in text
    assert "2 epochs of 256 training and 64 evaluation rows; what is left counts as 38 times the last" in text
    assert "†: one run." in text


def test_a_second_call_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    once, twice, never = probe("hftl", 1.0), probe("script", 1.0, 1.0), probe("bound")
    planned = [once[0], twice[0], replace(never[0], repetitions=1)]
    todo = [job.contender for job in bench.missing(planned, document(once, twice))]
    assert todo == ["bound", "hftl", "hftl", "script"]
    assert [*bench.missing([twice[0]], document(probe("script", 1.0, 1.0, 1.0)))] == []


def test_a_measurement_of_other_settings_is_done_again() -> None:
    there = document(probe("hftl", 1.0, 1.0, 1.0))
    changed = replace(probe("hftl")[0], epochs=5)
    assert len([*bench.missing([changed], there)]) == 3


def test_a_file_of_another_seed_is_not_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    out.write_text(json.dumps({**document(), "seed": 1}))
    with pytest.raises(SystemExit, match="seed 1, and now it is 0"):
        bench.opened(out, HEAD, fresh=False)
    assert bench.opened(out, HEAD, fresh=True) == document()


def test_a_result_is_on_disk_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bench.json"
    seen: list[int] = []

    def run(job: Job, work: Path) -> dict[str, Any]:
        written = json.loads(out.read_text())["measurements"] if out.is_file() else {}
        seen.append(sum(len(entry["repetitions"]) for entry in written.values()))
        return {"error": "it broke"} if job.contender == "script" else {**probe("", 1.0)[1][0], "process_seconds": 2.0}

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr(bench, "provide_data", lambda job, work: "")
    found = {**HEAD, "repetitions": 1, "measurements": {}}
    bench.measure([probe(name)[0] for name in ("hftl", "script", "bound")], found, out, tmp_path, say=lambda _: None)
    assert seen == [0, 1, 1]
    assert [job.contender for job in bench.missing([probe("script")[0]], found)] == ["script"]
    assert "- probe-images / photos / script / fp32: it broke" in markdown({**found, "machine": HEAD["machine"]})


def test_every_measurement_has_a_name_of_its_own_and_workers_are_chosen_by_trying() -> None:
    texts = Source("reviews", "text", "model", "data", 256)
    sources = Sources((IMAGES,), (texts,), (replace(texts, name="short"),))
    planned = jobs(("probe-images", "probe-text", "full-images", "full-text"), sources, Scale(), "bf16")
    assert len({job.key for job in planned}) == len(planned)
    tried = {(job.source.kind, job.workers): job for job in planned if job.group == "workers"}
    results = {("image", 0): 4.0, ("image", 2): 3.0, ("text", 0): 1.0, ("text", 2): 2.0}
    found = document(*((tried[key], [{"epoch_seconds": [seconds]}]) for key, seconds in results.items()))
    assert (chosen_workers(found, "image"), chosen_workers(found, "text")) == (2, 0)


def contend(job: Job, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a contender's own process would leave in its folder."""
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    monkeypatch.setattr(sys, "argv", ["contenders", str(folder)])
    contenders.main()
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


@pytest.mark.parametrize("way", ["script", "hftl", "bound", "trainer"])
def test_a_contender_is_run_as_the_job_in_its_folder_says(
    way: Any, photos: Path, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(24, 12)
    source = Source("photos", "image", str(tiny_model("vit")), str(photos), 32)
    job = Job("probe-images", "", way, source, rows=rows, measured_rows=rows, epochs=2, measured_epochs=2)
    job = replace(job, data=provide_data(job, tmp_path), well_set_up=way == "trainer")
    found = contend(job, tmp_path, monkeypatch)
    assert len(found.get("accuracies", [])) == len(found.get("epoch_seconds", [])) == (0 if way == "bound" else 2)
    assert all(
        accuracy in [pytest.approx(right / 12) for right in range(13)] for accuracy in found.get("accuracies", [])
    )
    assert found["seconds"] >= sum(found.get("epoch_seconds", []))


@pytest.mark.parametrize("way", ["hftl", "trainer"])
def test_recordings_are_heard_in_both_ways(
    way: Any, calls: Path, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(24, 9)
    source = Source("calls", "audio", str(tiny_model("mel-mobilenet_v1")), str(calls), 300)
    job = Job("probe-audio", "", way, source, rows=rows, measured_rows=rows, epochs=2, measured_epochs=2)
    job = replace(job, data=provide_data(job, tmp_path))
    found = contend(job, tmp_path, monkeypatch)
    assert len(found["accuracies"]) == len(found["epoch_seconds"]) == 2
    assert all(score in [pytest.approx(right / 9) for right in range(10)] for score in found["accuracies"])


@pytest.mark.parametrize("way", ["hftl", "trainer"])
def test_questions_are_answered_in_both_ways(
    way: Any, squad: Path, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(16, 8)
    source = Source("squad", "question", str(tiny_model("bert")), str(squad), 32)
    job = Job("questions", "", way, source, rows=rows, measured_rows=rows, unfreeze="all", batch=8)
    job = replace(job, data=provide_data(job, tmp_path))
    found = contend(job, tmp_path, monkeypatch)
    (score,) = found["accuracies"]
    answers = load_from_disk(job.data)["validation"]["answers"][:]
    assert sum(not each["text"] for each in answers) / 8 <= score <= 1  # the threshold may always say: none
    assert len(found["epoch_seconds"]) == 1
