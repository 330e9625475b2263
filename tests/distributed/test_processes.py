"""Two processes beside one: the same run up to the order of sums, one folder, equal parameters everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from zoo import MELS

import hftl

SCRIPT = Path(__file__).with_name("runs_on_each.py")
ROOT = Path(hftl.__file__).parents[1]
SOUNDS = ("ast", "wav2vec2-layer-norm", "hubert", "wavlm", "data2vec-audio", "whisper", *MELS)
RUNS = ("all rows", "phases", "questions", "solved", "sounds", "statistics", "texts", *SOUNDS)
PHASES = {"phases": 4, "statistics": 1}
HEAD_EPOCHS = 2


@pytest.fixture(scope="module")
def seen(tmp_path_factory, photos, reviews, squad, calls, tiny_model):
    """What each process saw, of one (key 1) and of two (key 2), and the folder."""
    data = [
        str(path) for path in (photos, reviews, squad, calls, *map(tiny_model, ("vit", "resnet", "bert", "wav2vec2")))
    ]
    data += [f"{family}={tiny_model(family)}" for family in SOUNDS]
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    found = {}
    for processes in (1, 2):
        out = tmp_path_factory.mktemp(f"processes-{processes}")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        launcher = launcher if processes == 2 else []
        command = [sys.executable, *launcher, str(SCRIPT), str(out), *data]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        ranks = [json.loads((out / f"seen-{rank}.json").read_text()) for rank in range(processes)]
        found[processes] = (ranks, out)
    return found


def test_two_processes_were_started(seen):
    assert [run["phases"]["processes"] for run in seen[1][0]] == [1]
    assert [run["phases"]["processes"] for run in seen[2][0]] == [2, 2]


@pytest.mark.parametrize("run", RUNS)
def test_all_processes_hold_equal_parameters_after_every_phase(run, seen):
    (first, second), _ = seen[2]
    assert len(first[run]["own"]) == PHASES.get(run, 2)
    assert first[run]["own"] == second[run]["own"] == first[run]["told"] == second[run]["told"]
    assert len(set(first[run]["own"])) == len(first[run]["own"])  # every phase has changed something


@pytest.mark.parametrize("run", RUNS)
def test_all_processes_tell_the_same(run, seen):
    (first, second), _ = seen[2]
    for what in ("scores", "losses", "norms", "rows", "again"):
        assert first[run][what] == second[run][what], what


def test_two_processes_train_as_one_does_up_to_the_order_of_sums(seen):
    """With accumulation, uneven pieces, and a step of a single row, which leaves one process without any."""
    (one,), _ = seen[1]
    (two, _), _ = seen[2]
    assert one["phases"]["rows"] == two["phases"]["rows"] == [11, 11, 1] * 5
    torch.testing.assert_close(one["phases"]["losses"], two["phases"]["losses"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(one["phases"]["norms"], two["phases"]["norms"], rtol=1e-2, atol=1e-4)
    for alone, together in zip(one["phases"]["scores"], two["phases"]["scores"], strict=True):
        assert together["accuracy"] == alone["accuracy"]
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-3)
    assert one["phases"]["own"] != two["phases"]["own"]  # else the two were not two


def test_a_solved_head_is_that_of_a_single_process_to_the_last_bit_also_on_all_rows(seen):
    """One process solves it for all, on features that do not depend on how many there are."""
    (one,), _ = seen[1]
    (two, other), _ = seen[2]
    assert one["solved"]["losses"] == two["solved"]["losses"] == []  # no step was taken
    assert [bool(scores) for scores in one["solved"]["scores"]] == [True, False]  # the second pass has none to validate
    assert one["solved"]["own"] == two["solved"]["own"] == other["solved"]["own"]
    assert one["solved"]["scores"][0] == pytest.approx(two["solved"]["scores"][0], abs=1e-6)


def test_statistics_of_a_second_pass_are_those_of_the_rows_of_all_processes(seen):
    """Nothing else moves in it; the first layer's are then those of a single process, but for the order of sums."""
    (one,), _ = seen[1]
    (two, other), _ = seen[2]
    assert one["all rows"]["rows"] == two["all rows"]["rows"] == [8, 8, 7, *[8] * 4]
    assert two["all rows"]["statistics"] == other["all rows"]["statistics"]
    assert two["all rows"]["statistics"][0] == pytest.approx(one["all rows"]["statistics"][0], rel=1e-4, abs=1e-6)


def test_every_row_is_evaluated_once_and_scores_are_those_of_a_single_process(seen):
    """9 rows to validate, in batches of 2, over 2 processes."""
    from hftl import Predictor

    (two, _), out = seen[2]
    assert max(two["phases"]["done"]) == 9
    alone = Predictor(out / "texts")
    assert two["evaluated"] == pytest.approx(alone.evaluate("validation"), abs=1e-6)
    answers = alone(["good film", "awful plot", "the scene"])
    assert two["answers"] == pytest.approx([answer["score"] for answer in answers], abs=1e-6)


def test_questions_are_answered_as_by_a_single_process(seen, squad):
    from hftl import Predictor

    (two, other), out = seen[2]
    alone = Predictor(out / "questions")
    assert two["asked"] == other["asked"]
    assert len(two["asked"]) == 12
    for found, own in zip(two["asked"], alone(str(squad / "validation.jsonl")), strict=True):
        assert found.pop("scores") == pytest.approx(own.pop("scores"), abs=1e-6)
        assert found == {**own, "score": pytest.approx(own["score"], abs=1e-6)}


def test_recordings_are_scored_over_all_windows_as_by_a_single_process(seen, calls):
    """9 recordings in 11 windows; what dropout draws in training differs from process to process."""
    from hftl import Predictor

    (one,), _ = seen[1]
    (two, other), out = seen[2]
    assert two["sounds"]["rows"] == one["sounds"]["rows"] == [8, 8, 2] * 3
    assert two["heard"] == other["heard"]
    assert max(two["sounds"]["done"]) == 11
    alone = Predictor(out / "sounds")
    assert two["heard"] == pytest.approx([a["score"] for a in alone(str(calls / "validation"))], abs=1e-6)
    assert two["sounds"]["again"] == pytest.approx(alone.evaluate("validation"), abs=1e-5)
    head, head_alone = two["sounds"]["scores"][0], one["sounds"]["scores"][0]  # nothing is random in it
    assert head["loss"] == pytest.approx(head_alone["loss"], rel=1e-3)


@pytest.mark.parametrize("family", SOUNDS)
def test_a_new_head_on_models_of_sound_is_that_of_a_single_process(family, seen):
    """In the second phase dropout and masks in time differ from process to process."""
    (one,), _ = seen[1]
    (two, _), _ = seen[2]
    assert two[family]["rows"] == one[family]["rows"]
    head = len(one[family]["losses"]) * HEAD_EPOCHS // (HEAD_EPOCHS + 1)
    torch.testing.assert_close(two[family]["losses"][:head], one[family]["losses"][:head], rtol=1e-3, atol=1e-5)
    assert two[family]["scores"][0]["loss"] == pytest.approx(one[family]["scores"][0]["loss"], rel=1e-3)


@pytest.mark.parametrize("run", RUNS)
def test_one_process_writes(run, seen):
    _, out = seen[2]
    lines = [json.loads(line)["record"] for line in (out / run / "history.jsonl").read_text().splitlines()]
    assert lines.count("RunStarted") == lines.count("RunEnded") == 1
    assert sorted(path.name for path in out.iterdir()) == sorted(["seen-0.json", "seen-1.json", *RUNS])
    assert not [path for path in (out / run).rglob("*") if path.name.endswith(".part")]
    assert not (out / run / "checkpoints").exists()


def test_an_error_of_one_process_is_everybody_s(seen):
    assert [run["error"] for run in seen[2][0]] == ["said by process 0"] * 2


def test_values_are_gathered_by_rank_and_averaged(seen):
    assert [run["gathered"] for run in seen[2][0]] == [[{"rank": 0}, {"rank": 1}]] * 2
    assert [run["mean"] for run in seen[2][0]] == [[0.5, 0.5]] * 2
