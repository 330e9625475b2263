import os
import subprocess
import sys
import textwrap
from pathlib import Path

import evaluate
import numpy as np
import pytest

from hftl import metrics
from hftl.errors import HftlError

PREDICTIONS = np.array([0, 0, 1, 2, 2, 3])
REFERENCES = np.array([0, 1, 1, 2, 2, 2])
# By hand: 4 of 6 right; F1 of 0, 1, 2, 3 is 2/3, 2/3, 4/5 and 0 (label 3 is predicted but never occurs).
ACCURACY, MACRO_F1 = 4 / 6, (2 / 3 + 2 / 3 + 4 / 5 + 0) / 4


def write_metric(folder: Path, name: str, returns: str) -> str:
    """A metric module as a user writes it; ``returns`` is the expression of its result."""
    path = folder / f"{name}.py"
    path.write_text(
        textwrap.dedent(f"""
        import datasets
        import evaluate
        import numpy as np


        class Custom(evaluate.Metric):
            def _info(self):
                ids = datasets.Value("int64")
                features = datasets.Features({{"predictions": ids, "references": ids}})
                return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

            def _compute(self, predictions, references):
                return {returns}
        """)
    )
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def _modules_away_from_home(tmp_path_factory):
    """Give evaluate, which copies a local metric in order to import it, a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


def test_own_metrics_agree_with_hand_computed_values():
    found = metrics.score(["accuracy", "macro_f1"], PREDICTIONS, REFERENCES)
    assert found == pytest.approx({"accuracy": ACCURACY, "macro_f1": MACRO_F1})


def test_a_label_that_never_occurs_does_not_count():
    # Only 0 and 5 occur: 1 to 4 have no F1 to average.
    assert metrics.score(["macro_f1"], np.array([0, 5]), np.array([0, 5])) == {"macro_f1": 1.0}


def test_batches_add_up_and_compute_empties():
    metric = metrics.load("accuracy")
    assert isinstance(metric, evaluate.Metric)
    metric.add_batch(predictions=PREDICTIONS[:4], references=REFERENCES[:4])
    metric.add_batch(predictions=PREDICTIONS[4:], references=REFERENCES[4:])
    assert metric.compute() == pytest.approx({"accuracy": ACCURACY})
    assert metric.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}


def test_every_load_is_a_fresh_metric():
    metrics.load("accuracy").add_batch(predictions=[0], references=[1])
    assert metrics.load("accuracy").compute(predictions=[1], references=[1]) == {"accuracy": 1.0}


def test_own_metrics_write_nothing(tmp_path):
    code = (
        "import numpy as np; from hftl import metrics; metrics.score(['accuracy', 'macro_f1'], *np.ones((2, 3), int))"
    )
    home = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    subprocess.run([sys.executable, "-c", code], check=True, env={**home, "HOME": str(tmp_path)}, timeout=120)
    written = [
        path.name for path in tmp_path.rglob("*") if path.suffix in {".arrow", ".lock"} or "metrics" in path.parts
    ]
    assert written == []


def test_metric_from_a_file_with_one_number_goes_by_its_name(tmp_path):
    path = write_metric(
        tmp_path, "errors_made", "{'errors': np.float32(np.sum(np.not_equal(predictions, references)))}"
    )
    assert metrics.score([path], PREDICTIONS, REFERENCES) == {path: 2.0}


def test_metric_from_a_folder(tmp_path):
    folder = tmp_path / "halves"
    folder.mkdir()
    write_metric(folder, "halves", "{'half': 0.5}")
    assert metrics.score([str(folder)], PREDICTIONS, REFERENCES) == {str(folder): 0.5}


def test_several_numbers_go_by_name_and_key_and_arrays_are_dropped(tmp_path):
    path = write_metric(tmp_path, "several", "{'a': 0.25, 'b': 3, 'each': np.zeros(4), 'name': 'x', 'sure': True}")
    assert metrics.score([path, "accuracy"], PREDICTIONS, REFERENCES) == pytest.approx(
        {f"{path}/a": 0.25, f"{path}/b": 3.0, "accuracy": ACCURACY}
    )


def test_a_metric_without_any_number_is_named(tmp_path):
    path = write_metric(tmp_path, "matrix", "{'confusion_matrix': np.eye(2)}")
    with pytest.raises(HftlError, match=r"matrix\.py': it gives no number, only confusion_matrix") as caught:
        metrics.score([path], PREDICTIONS, REFERENCES)
    assert "\n" not in str(caught.value)


def test_a_metric_that_does_not_fit_is_named(tmp_path):
    path = write_metric(
        tmp_path, "binary_f1", "__import__('sklearn.metrics').metrics.f1_score(references, predictions)"
    )
    with pytest.raises(HftlError, match=r"binary_f1\.py': Target is multiclass .*; name one that") as caught:
        metrics.score([path], PREDICTIONS, REFERENCES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [ConnectionError("no\nnetwork"), FileNotFoundError(), ImportError("needs rouge_score")]
)
def test_what_cannot_be_loaded_is_one_line_with_the_mend(monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(evaluate, "load", fail)
    with pytest.raises(HftlError) as caught:
        metrics.load("rouge")
    line = str(caught.value)
    assert line.startswith("metric 'rouge': ")
    assert "name accuracy or macro_f1" in line
    assert "\n" not in line


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(HftlError, match=r"metric './nowhere\.py': "):
        metrics.load("./nowhere.py")
    broken = tmp_path / "broken.py"
    broken.write_text("def (:")
    with pytest.raises(HftlError, match=r"broken\.py': invalid syntax"):
        metrics.load(str(broken))


# -- any number of labels a row --------------------------------------------------------------------------------------

HOT = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=bool)
GIVEN = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
CHANCES = np.array([[0.9, 0.1, 0.2, 0.1], [0.8, 0.2, 0.3, 0.1], [0.7, 0.9, 0.1, 0.1]])


def test_metrics_of_several_labels_agree_with_hand_computed_values():
    # By hand: label 0 has F1 2*2/(2*2+1) and average precision (1 + 2/3) / 2, label 2 has 0 and 1/2; label 1 is given
    # and never there, so that it has F1 0 and no average precision; label 3 does not occur.
    names = ["mAP", "micro_f1", "macro_f1", "accuracy"]
    expected = {"mAP": (5 / 6 + 1 / 2) / 2, "micro_f1": 4 / 7, "macro_f1": (4 / 5) / 3, "accuracy": 0.0}
    assert metrics.score(names, GIVEN, HOT, CHANCES) == pytest.approx(expected)
    assert metrics.score(["accuracy"], HOT, HOT, CHANCES) == {"accuracy": 1.0}


def test_one_label_alone_is_multi_label_too():
    right, given, chances = HOT[:, :1], GIVEN[:, :1], CHANCES[:, :1]
    expected = {"mAP": 5 / 6, "micro_f1": 4 / 5, "macro_f1": 4 / 5, "accuracy": 2 / 3}
    assert metrics.score([*expected], given, right, chances) == pytest.approx(expected)


def test_average_precision_of_nothing_is_no_number():
    nothing = np.zeros_like(HOT)
    for right, chances in ((nothing, CHANCES), (HOT, np.full_like(CHANCES, np.nan))):
        assert np.isnan(metrics.score(["mAP"], GIVEN, right, chances)["mAP"])
    assert metrics.score(["micro_f1", "macro_f1"], nothing, nothing, CHANCES) == {"micro_f1": 0.0, "macro_f1": 0.0}


def test_a_metric_of_ones_own_for_several_labels(tmp_path):
    path = Path(write_metric(tmp_path, "hamming", "{'right': np.mean(np.equal(predictions, references))}"))
    path.write_text(path.read_text().replace('datasets.Value("int64")', 'datasets.List(datasets.Value("int64"))'))
    assert metrics.score([str(path)], GIVEN, HOT, CHANCES) == {str(path): pytest.approx(9 / 12)}


def test_metrics_that_are_for_the_other_kind_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "load", lambda *args, **options: (_ for _ in ()).throw(FileNotFoundError("no mAP")))
    with pytest.raises(HftlError, match="metric 'mAP': no mAP; name accuracy or macro_f1 or micro_f1, or a local"):
        metrics.score(["mAP"], PREDICTIONS, REFERENCES)
    monkeypatch.undo()
    path = write_metric(tmp_path, "single", "{'a': 1.0}")
    with pytest.raises(HftlError, match=r"single\.py': .*; name one that compares rows of several labels") as caught:
        metrics.score([path], GIVEN, HOT, CHANCES)
    assert "\n" not in str(caught.value)
