import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hftl.errors import HftlError
from hftl.records import Evaluated, PhaseEnded, PhaseStarted, Record, RunEnded, RunStarted, StepTaken, as_plain
from hftl.report import curves

PER_EPOCH = 10


def started(**changes: object) -> RunStarted:
    loaded = {"tensors": 3, "parameters": 9, "new": [], "dropped": []}
    plain = {"folder": "runs/a", "task": "image-classification", "model": "google/a$b$c", "device": "cpu"}
    plain |= {"precision": "fp32", "processes": 1, "batch_size": 8, "seed": 0, "rows": {"train": 80, "validation": 20}}
    plain |= {"labels": ["a", "b"], "notes": [], "loaded": loaded, "majority": {"accuracy": 0.5, "macro_f1": 0.33}}
    return RunStarted(**{**plain, **changes})


def scores(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "macro_f1": accuracy - 0.1, "loss": 1 - accuracy}


def phase(number: int, unfreeze: str, accuracies: list[float], epochs: int | None = None) -> list[Record]:
    """A phase of so many epochs at most, which ended after those that have an accuracy."""
    records: list[Record] = [PhaseStarted(number, unfreeze, epochs or len(accuracies), PER_EPOCH, 1e-3, [])]
    for epoch, accuracy in enumerate(accuracies):
        steps = range(epoch * PER_EPOCH + 4, (epoch + 1) * PER_EPOCH, 5)
        records += [StepTaken(number, epoch, step, 8, 1e-3, 1.5 - accuracy, 1.0) for step in steps]
        records.append(Evaluated(number, epoch, "validation", scores(accuracy), True, 1.0))
    best = int(np.argmax(accuracies))
    return [*records, PhaseEnded(number, best, scores(accuracies[best]), False, 3, 9.0)]


def run() -> list[Record]:
    """Two phases; the second ended after two of five epochs and its first epoch was saved."""
    ended = RunEnded(1, 0, {"validation": scores(0.9), "test": scores(0.85)}, "runs/a", 30.0)
    tested = Evaluated(1, 0, "test", scores(0.85), False, 1.0)
    return [started(), *phase(0, "head", [0.6, 0.7, 0.8]), *phase(1, "0.25", [0.9, 0.88], epochs=5), tested, ended]


def plain(records: list[Record]) -> list[dict]:
    return [json.loads(json.dumps(as_plain(record))) for record in records]


def drawn(axes) -> dict[str, list[tuple[float, float]]]:
    """The points under each entry of a legend."""
    return {
        line.get_label(): [(float(x), round(float(y), 6)) for x, y in zip(*line.get_data(), strict=True)]
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def write(folder: Path, records: list[Record]) -> None:
    lines = (json.dumps(as_plain(record)) + "\n" for record in records)
    (folder / "history.jsonl").write_text("".join(lines), encoding="utf-8")


def test_the_picture_is_drawn_from_the_history_alone(tmp_path):
    write(tmp_path, run())
    path = curves.draw(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["curves.png", "history.jsonl"]
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", (1800, 1240))
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_phases_lie_side_by_side_and_an_early_end_is_shorter():
    assert curves.spans_of(plain(run())) == [curves.Span(0, "head", 0, 10, 30), curves.Span(1, "0.25", 30, 10, 50)]


def test_losses_and_phases_are_where_they_belong():
    above, _ = curves.picture(plain(run())).axes
    assert drawn(above)["training"] == [(5, 0.9), (10, 0.9), (15, 0.8), (20, 0.8), (25, 0.7), (30, 0.7)]
    assert drawn(above)["validation"] == [(10, 0.4), (20, 0.3), (30, 0.2), (40, 0.1), (50, 0.12)]
    assert [text.get_text() for text in above.texts] == ["phase 0: head", "phase 1: 0.25"]
    assert [line.get_xdata()[0] for line in above.lines if list(line.get_ydata()) == [0, 1]] == [30]  # the boundary
    assert above.get_xlim() == (0, 50)


def test_scores_have_their_best_and_the_saved_model_marked():
    _, below = curves.picture(plain(run())).axes
    found = drawn(below)
    assert found["accuracy"] == [(10, 0.6), (20, 0.7), (30, 0.8)]
    assert found["macro_f1"] == [(10, 0.5), (20, 0.6), (30, 0.7)]
    assert found["kept of its phase"] == [(30, 0.8)]
    assert found["saved model"] == [(40, 0.9)]
    assert [y for _, y in found["majority"]] == [0.5, 0.5]
    assert "loss" not in found


def test_the_title_names_the_model_and_its_scores_and_holds_no_formula():
    title = curves.picture(plain(run())).get_suptitle()
    assert title == "google/a\\$b\\$c · image-classification\nvalidation accuracy 0.900 · test accuracy 0.850"


def test_without_its_end_the_saved_model_is_that_of_the_test_scores_or_unmarked():
    unended = plain(run())[:-1]
    assert drawn(curves.picture(unended).axes[1])["saved model"] == [(40, 0.9)]
    untested = drawn(curves.picture(unended[:-1]).axes[1])
    assert "saved model" not in untested
    assert untested["kept of its phase"] == [(30, 0.8), (40, 0.9)]


def test_a_pretrained_model_has_bars_of_its_scores():
    ended = RunEnded(None, None, {"validation": scores(0.7)}, "runs/a", 3.0)
    figure = curves.picture(plain([started(), Evaluated(None, None, "validation", scores(0.7), True, 1.0), ended]))
    (axes,) = figure.axes
    assert sorted(round(bar.get_height(), 6) for bar in axes.patches) == [0.33, 0.5, 0.6, 0.7]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["accuracy", "macro_f1"]


def test_a_phase_of_one_epoch_with_one_loss_is_seen():
    records = [r for r in phase(0, "all", [0.6]) if not isinstance(r, StepTaken) or r.step == 4]
    above, below = curves.picture(plain([started(), *records])).axes
    assert drawn(above)["training"] == [(5, 0.9)]
    assert [line.get_marker() for line in above.lines if line.get_label() == "training"] == ["o"]
    assert drawn(below)["accuracy"] == [(10, 0.6)]


@pytest.mark.parametrize("kept", ["validation", "nothing"])
def test_missing_losses_leave_no_entry(tmp_path, kept):
    records = [
        r for r in run() if not isinstance(r, StepTaken) and (kept == "validation" or not isinstance(r, Evaluated))
    ]
    write(tmp_path, records)
    assert curves.draw(tmp_path).exists()
    above, _ = curves.picture(plain(records)).axes
    assert [*drawn(above)] == (["validation"] if kept == "validation" else [])


def test_a_step_without_loss_is_left_out():
    records = plain(run())
    next(r for r in records if r["record"] == "StepTaken")["loss"] = None
    assert drawn(curves.picture(records).axes[0])["training"][0] == (10, 0.9)


def test_a_narrow_phase_has_its_label_on_two_lines():
    records = [started(), *phase(0, "head", [0.1] * 9), *phase(1, "all", [0.2])]
    above, _ = curves.picture(plain(records)).axes
    assert [text.get_text() for text in above.texts] == ["phase 0: head", "phase 1:\nall"]


def test_a_label_may_hold_any_separator_and_a_history_nothing(tmp_path):
    record = as_plain(started(labels=["a\u2028b", "c\x85d"]))
    (tmp_path / "history.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    assert curves.read_history(tmp_path) == [record]
    (tmp_path / "history.jsonl").write_text("")
    assert curves.read_history(tmp_path) == []


def test_no_history_or_a_broken_line_is_named(tmp_path):
    with pytest.raises(HftlError, match=r"history\.jsonl: No such file"):
        curves.draw(tmp_path)
    for line in ("{", "3", "{}"):
        (tmp_path / "history.jsonl").write_text('{"record": "RunStarted"}\n' + line)
        with pytest.raises(HftlError, match=r"history\.jsonl: line 2 is no record"):
            curves.read_history(tmp_path)


def test_drawing_leaves_no_global_state_and_importing_is_light():
    code = (
        "import sys, hftl.report.curves as c; light = 'matplotlib' not in sys.modules; c.picture([]); "
        "print(light, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"]
