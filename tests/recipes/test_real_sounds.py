"""Real models on real recordings: better than a baseline that the same test computes, by a margin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from datasets import Dataset

from hftl import Predictor, Recipe, Trainer, metrics, strategies
from hftl.audio.scores import false_alarms_per_hour
from hftl.data.labels import read_targets
from hftl.tasks import AudioClassification
from hftl.tasks.parts.thresholds import tuned_thresholds

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def mean_log_mel(rows: Dataset, seconds: float | None) -> tuple[np.ndarray, np.ndarray]:
    """The mean over time of 64 log-mel bands, of the recordings or of all their windows; and whose each is."""
    from torchaudio.transforms import MelSpectrogram

    from hftl.audio import clips, sounds

    parts = clips.cut(rows["seconds"][:], seconds or 1e9, 0.0)
    mel = MelSpectrogram(16000, n_fft=1024, hop_length=512, n_mels=64)
    waves = (
        torch.from_numpy(sounds.read_sound(rows[int(row)]["audio"], 16000, float(start), seconds))
        for row, start in zip(parts.recording, parts.start, strict=True)
    )
    return np.stack([(mel(wave) + 1e-6).log().mean(dim=1).numpy() for wave in waves]), parts.recording


def of_mean_log_mel(train: Dataset) -> Pipeline:
    """A logistic regression for each label on the mean log-mel of a recording."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    baseline = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(max_iter=1000)))
    return baseline.fit(mean_log_mel(train, None)[0], read_targets(train))


def scores_of(baseline: Pipeline, rows: Dataset, seconds: float) -> dict[str, float]:
    """Of recordings, with thresholds tuned on them; but false alarms are those of windows."""
    labels = read_targets(rows)
    found = baseline.predict_proba(mean_log_mel(rows, None)[0])
    thresholds = tuned_thresholds(found, labels)
    calm = rows.select(np.flatnonzero(~labels.any(axis=1)))
    given = baseline.predict_proba(mean_log_mel(calm, seconds)[0]) >= thresholds
    scores = metrics.score(("mAP", "roc_auc"), found >= thresholds, labels, found)
    return {**scores, "false_alarms_per_hour": false_alarms_per_hour(given, sum(calm["seconds"][:]))}


def soundscape(rows: Dataset, path: Path) -> np.ndarray:
    """Write all recordings that last 10 s, 10 s of background before each; the label of each 5 s, -1 for background."""
    import soundfile

    from hftl.audio import sounds

    labels, seconds = read_targets(rows), np.asarray(rows["seconds"][:])
    calls = np.random.default_rng(0).permutation(np.flatnonzero(labels.any(axis=1) & (seconds >= 10)))
    calm = np.flatnonzero(~labels.any(axis=1))
    parts = list[tuple[int, float]]()
    for number, call in enumerate(calls):
        parts += [(calm[2 * number % len(calm)], 5.0), (calm[(2 * number + 1) % len(calm)], 5.0), (call, 10.0)]
    waves = [sounds.read_sound(rows[int(row)]["audio"], 16000, 0.0, length) for row, length in parts]
    soundfile.write(path, np.concatenate(waves), 16000)
    return np.concatenate([[-1, -1, label, label] for label in labels[calls].argmax(axis=1)])


@pytest.mark.shared
def test_birds_are_told_and_found_better_than_by_their_mean_log_mel(shared: Path, tmp_path: Path) -> None:
    birds = shared / "data" / "birds"
    task = AudioClassification(str(birds), background=str(birds / "background"), seconds=5.0)
    model, phases = str(shared / "models" / "yamnet_mobilenet_v1"), strategies.linear_probe()
    trainer = Trainer(Recipe(task, model, phases, str(tmp_path / "run"), precision="fp32", refit=False))
    scores = trainer.fit(display=False).scores["validation"]
    held_out = trainer.ready.splits.validation
    baseline = of_mean_log_mel(trainer.ready.splits.train)
    reached = scores_of(baseline, held_out, 5.0)
    assert scores["roc_auc"] > reached["roc_auc"] + 0.1
    assert scores["mAP"] > reached["mAP"] + 0.15
    assert scores["false_alarms_per_hour"] < reached["false_alarms_per_hour"]
    assert reached["roc_auc"] > 0.6
    predictor = Predictor(tmp_path / "run")
    assert predictor.evaluate() == pytest.approx(scores, abs=1e-4)

    # The same recordings, one after the other in a single one: what is heard when?
    path = tmp_path / "day.flac"
    truth = soundscape(held_out, path)
    (heard,) = predictor.detect(str(path))
    assert heard.starts == pytest.approx(5.0 * np.arange(len(truth)))
    there = truth[:, None] == np.arange(len(heard.labels))
    whole = Dataset.from_dict({"audio": [str(path)], "seconds": [heard.seconds]})
    others = baseline.predict_proba(mean_log_mel(whole, 5.0)[0])
    assert (
        metrics.score(("roc_auc",), others >= 0.5, there, others)["roc_auc"] + 0.1
        < (metrics.score(("roc_auc",), heard.predicted, there, heard.probabilities)["roc_auc"])
    )
    found = heard.detections()
    calls = [(heard.labels[truth[window]], 5.0 * window) for window in np.flatnonzero(truth >= 0)[::2]]
    hits = [any(d.label == label and d.start < start + 10 and d.end > start for d in found) for label, start in calls]
    assert np.mean(hits) > 0.7
    assert heard.predicted[truth < 0].any(axis=1).mean() < 0.3


DIGITS = {
    "yamnet_mobilenet_v1": ({}, strategies.lp_ft(lr=3e-4)),
    "mobilenet_v2_1.0_224": ({"seconds": 1.0}, strategies.full()),
}


@pytest.mark.shared
@pytest.mark.parametrize("model", DIGITS)
def test_digits_of_unknown_speakers_are_told_better_than_by_their_mean_log_mel(
    model: str, shared: Path, tmp_path: Path
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    options, phases = DIGITS[model]
    task = AudioClassification(str(shared / "data" / "fsdd"), **options)
    trainer = Trainer(Recipe(task, str(shared / "models" / model), phases, str(tmp_path / "run")))
    scores = trainer.fit(display=False).scores
    splits = trainer.ready.splits
    assert splits.test is not None
    baseline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    baseline.fit(mean_log_mel(splits.train, None)[0], read_targets(splits.train))
    others = {"validation": splits.validation, "test": splits.test}  # a speaker each
    reached = [baseline.score(mean_log_mel(rows, None)[0], read_targets(rows)) for rows in others.values()]
    assert 0.1 < np.mean(reached) < np.mean([scores[split]["accuracy"] for split in others]) - 0.1
