"""Recordings with further labels, and recordings without any call, from the csv to the scores."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Audio, ClassLabel, Dataset, Features, List, Value
from sklearn.metrics import average_precision_score, roc_auc_score
from sound_files import RATE, noise, soundfile

from hftl import Phase, Predictor, Recipe, Trainer, metrics
from hftl.data.labels import shares_of, targets_of
from hftl.data.splits import Splits
from hftl.tasks import AudioClassification
from hftl.wording import score_names

TONES = {"crow": 300, "jay": 1200, "owl": 3000}


def write_sound(path: Path, *tones: int, seed: int, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(RATE * seconds)) / RATE
    wave = noise(RATE, seconds, seed=seed)[:, 0] * 0.1 + sum(0.3 * np.sin(2 * np.pi * tone * time) for tone in tones)
    soundfile.write(path, wave, RATE)


def write_birds(root: Path, rows: list[tuple[str, str]], background: int = 0) -> Path:
    """A folder as BirdCLEF has it: a row for each primary label and cell of secondary ones; background aside."""
    with (root / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["primary_label", "secondary_labels", "filename", "rating"])
        for number, (label, cell) in enumerate(rows):
            name = f"{label}/XC{number}.wav"
            heard = [tone for bird, tone in TONES.items() if bird == label or bird in cell]
            write_sound(root / "train_audio" / name, *heard, seed=number)
            writer.writerow([label, cell, name, 4.5])
    write_background(root / "background", background)
    return root


def write_background(folder: Path, count: int, seconds: float = 0.5) -> None:
    for number in range(count):
        write_sound(folder / f"noise{number}.wav", seed=1000 + number, seconds=seconds)


ROWS = [
    ("crow", "['jay']"),
    ("crow", "[]"),
    ("jay", "[]"),
    ("jay", '["crow", "owl"]'),
    ("owl", ""),
    ("owl", "['wren']"),
]


def split(folder: Any, seed: int = 0, model: str = "", keep_head: bool = False, **options: Any) -> Splits:
    return AudioClassification(str(folder), **options).load_data(seed, model, keep_head, False)


def by_file(splits: Splits, column: str) -> dict[str, list[float]]:
    """What each file of train and validation has in the column, by the file's name."""
    rows = [row for part in (splits.train, splits.validation) for row in part]
    return {Path(row["audio"]).name: row[column] for row in rows}


# -- secondary labels ------------------------------------------------------------------------------------------------


def test_secondary_labels_are_soft_targets_and_whole_labels(tmp_path: Path) -> None:
    splits = split(write_birds(tmp_path, ROWS))
    assert splits.labels == ("crow", "jay", "owl")
    assert splits.train.features["label"] == List(Value("bool"), length=3)
    assert splits.train.features["soft"] == List(Value("float32"), length=3)
    assert by_file(splits, "label") == {
        "XC0.wav": [True, True, False],
        "XC1.wav": [True, False, False],
        "XC2.wav": [False, True, False],
        "XC3.wav": [True, True, True],
        "XC4.wav": [False, False, True],
        "XC5.wav": [False, False, True],
    }
    soft = by_file(splits, "soft")
    assert (soft["XC0.wav"], soft["XC3.wav"], soft["XC5.wav"]) == ([1, 0.5, 0], [0.5, 1, 0.5], [0, 0, 1])
    assert any("2 rows have labels in 'secondary_labels'" in note and "targets of 0.5" in note for note in splits.notes)
    assert any("left out the label 'wren'" in note for note in splits.notes)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_their_weight(weight: float, tmp_path: Path) -> None:
    splits = split(write_birds(tmp_path, ROWS), secondary_weight=weight)
    assert ("soft" in splits.train.column_names) == (weight < 1)
    targets = by_file(splits, "soft" if weight < 1 else "label")
    assert targets["XC0.wav"] == [1, weight, 0]


def test_without_weight_they_are_not_there(tmp_path: Path) -> None:
    splits = split(write_birds(tmp_path, ROWS), secondary_weight=0.0)
    assert splits.train.column_names == ["audio", "label", "row", "digest", "seconds"]
    assert by_file(splits, "label") == {f"XC{number}.wav": number // 2 for number in range(6)}
    assert not any("secondary" in note for note in splits.notes)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("jay owl", [1, 0.5, 0.5]),
        ("jay; owl", [1, 0.5, 0.5]),
        (" owl ", [1, 0, 0.5]),
        ("['']", [1, 0, 0]),
        ("['crow']", [1, 0, 0]),
        ("[]", [1, 0, 0]),
        ("", [1, 0, 0]),
    ],
)
def test_cells(cell: str, expected: list[float], tmp_path: Path) -> None:
    splits = split(write_birds(tmp_path, [("crow", cell), ("crow", ""), *ROWS[2:]]))
    assert by_file(splits, "soft")["XC0.wav"] == expected


def recordings(folder: Path, **columns: list[Any]) -> Dataset:
    """Rows with a sound each, in memory."""
    count = len(next(iter(columns.values())))
    for number in range(count):
        write_sound(folder / f"{number}.wav", 500, seed=number)
    return Dataset.from_dict({"audio": [str(folder / f"{number}.wav") for number in range(count)], **columns})


def test_names_of_several_words_and_lists(tmp_path: Path) -> None:
    labels = ["House Finch", "Blue Jay"] * 3
    for cells in (["Blue Jay", None] * 3, ["Blue Jay; Emu", ""] * 3, [["Blue Jay"], []] * 3):
        data = recordings(tmp_path, bird=labels, also=cells)
        options = {"label_column": "bird", "secondary_column": "also"}
        splits = AudioClassification(data, **options).load_data(0, "", False, False)  # type: ignore[arg-type]
        assert splits.labels == ("Blue Jay", "House Finch")
        assert {tuple(row) for row in splits.train["soft"]} == {(0.5, 1), (1, 0)}


def test_a_label_that_train_has_as_a_secondary_one_alone_is_none(tmp_path: Path) -> None:
    """Also where another split has it: what counts are the primary labels of train."""
    train = recordings(tmp_path / "a", primary_label=["crow", "jay"] * 2, secondary_labels=["owl", "crow"] * 2)
    other = recordings(tmp_path / "b", primary_label=["crow", "jay"], secondary_labels=["jay", "owl"])
    data = {"train": train, "validation": other}
    splits = AudioClassification(data).load_data(0, "", False, False)  # type: ignore[arg-type]
    assert splits.labels == ("crow", "jay")
    assert splits.validation["label"][:] == [[True, True], [False, True]]
    assert splits.train["soft"][:2] == [[1, 0], [0.5, 1]]
    (note,) = (note for note in splits.notes if "left out" in note)
    assert "'owl'" in note


def test_a_class_label_may_have_names_that_nobody_has(tmp_path: Path) -> None:
    data = recordings(tmp_path, primary_label=["crow", "jay"] * 2, secondary_labels=["owl", "crow"] * 2)
    data = data.cast_column("primary_label", ClassLabel(names=["owl", "jay", "crow"]))
    splits = AudioClassification(data).load_data(0, "", False, False)  # type: ignore[arg-type]
    assert splits.labels == ("owl", "jay", "crow")
    assert {tuple(row) for row in splits.train["soft"]} == {(0, 0, 1), (0, 1, 0.5)}


def test_what_cannot_be_read(tmp_path: Path, one_line_error: Callable[..., Any]) -> None:
    folder = write_birds(tmp_path, [*ROWS, ("crow", "[jay")])
    with one_line_error("train row 6", "'secondary_labels'", "'[jay'", "['a', 'b']"):
        split(folder)
    with one_line_error("train: no column 'others'", "rating", "--task.secondary-column"):
        split(folder, secondary_column="others")
    with one_line_error("secondary_weight: 1.5"):
        AudioClassification("a", secondary_weight=1.5)


def test_streamed_rows_are_the_same(tmp_path: Path) -> None:
    folder = write_birds(tmp_path, ROWS)
    assert by_file(split(folder, streaming=True), "soft") == by_file(split(folder), "soft")


def test_targets_of_training(tmp_path: Path) -> None:
    splits = split(write_birds(tmp_path, ROWS))
    rows = splits.train[:]
    assert torch.equal(targets_of(rows), torch.tensor(rows["soft"]))  # type: ignore[arg-type]
    assert torch.equal(shares_of(rows, splits.train), torch.tensor(rows["soft"]))
    assert 0.5 in {value for row in rows["soft"] for value in row}


# -- background ------------------------------------------------------------------------------------------------------


def calm(rows: Dataset) -> list[str]:
    """Names of the recordings without any label."""
    return [Path(row["audio"]).name for row in rows if not any(row["label"])]


def test_background_is_rows_without_a_label_in_every_split(tmp_path: Path) -> None:
    folder = write_birds(tmp_path, [(bird, "[]") for bird in TONES for _ in range(10)], background=10)
    splits = split(folder, background=str(folder / "background"), secondary_weight=0.0)
    assert splits.train.features["label"] == List(Value("bool"), length=3)
    assert (len(calm(splits.train)), len(calm(splits.validation))) == (8, 2)
    assert sorted(calm(splits.train) + calm(splits.validation)) == sorted(f"noise{number}.wav" for number in range(10))
    assert any("10 recordings are rows without any label" in note for note in splits.notes)
    again = split(folder, background=str(folder / "background"), secondary_weight=0.0)
    assert calm(again.validation) == calm(splits.validation)
    found = {tuple(calm(split(folder, seed, background=str(folder / "background")).validation)) for seed in range(5)}
    assert len(found) > 1


def test_background_beside_soft_targets(tmp_path: Path) -> None:
    folder = write_birds(tmp_path, ROWS, background=2)
    soft = by_file(split(folder, background=str(folder / "background")), "soft")
    assert soft["noise0.wav"] == soft["noise1.wav"] == [0, 0, 0]
    assert soft["XC3.wav"] == [0.5, 1, 0.5]


@pytest.mark.parametrize("encoded", [False, True])
def test_splits_of_their_own_share_it(encoded: bool, tmp_path: Path) -> None:
    data = {name: recordings(tmp_path / name, label=["crow", "jay"]) for name in ("train", "validation", "test")}
    if encoded:
        data = {name: rows.cast_column("audio", Audio()) for name, rows in data.items()}
    write_background(tmp_path / "background", 10)
    task = AudioClassification(data, background=str(tmp_path / "background"))  # type: ignore[arg-type]
    splits = task.load_data(0, "", False, False)
    assert {name: sum(not any(label) for label in rows["label"]) for name, rows in splits.named().items()} == {
        "train": 8,
        "validation": 2,
        "test": 0,
    }
    assert splits.labels == ("crow", "jay")


def test_background_that_lies_among_the_class_folders(tmp_path: Path) -> None:
    for number in range(12):
        write_sound(tmp_path / ("crow", "jay")[number % 2] / f"{number}.wav", 400, seed=number)
    write_background(tmp_path / "background", 5)
    as_class = split(tmp_path)
    assert as_class.labels == ("background", "crow", "jay")
    assert any("background is not taken for recordings without any call" in note for note in as_class.notes)
    splits = split(tmp_path, background=str(tmp_path / "background"))
    assert splits.labels == ("crow", "jay")
    assert len(splits.train) + len(splits.validation) == 17
    assert len(calm(splits.train)) + len(calm(splits.validation)) == 5


def test_one_note_where_it_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    folder = write_birds(tmp_path / "with", ROWS, background=2)
    for data in (folder, folder / "train.csv", folder / "train_audio"):
        splits = split(data)
        (note,) = (note for note in splits.notes if "background" in note)
        assert f"--task.background {folder / 'background'}" in note
        assert len(splits.train) + len(splits.validation) == 6
    assert not any("background" in note for note in split(write_birds(tmp_path, ROWS)).notes)
    (tmp_path / "background").mkdir()  # nothing to hear in it
    assert not any("background" in note for note in split(tmp_path).notes)


def test_bad_background(tmp_path: Path, one_line_error: Callable[..., Any]) -> None:
    folder = write_birds(tmp_path, ROWS, background=3)
    (folder / "background" / "noise1.wav").write_bytes(b"no sound")
    splits = split(folder, background=str(folder / "background"))
    assert [Path(row.name).name for row in splits.bad_rows] == ["noise1.wav"]
    with one_line_error("--task.background", "train_audio/none", "no sound files"):
        split(folder, background=str(folder / "train_audio" / "none"))
    with one_line_error("--task.background", "train_audio: all rows of train are in it"):
        split(folder, background=str(folder / "train_audio"))


def test_without_its_csv_its_folders_are_no_classes(tmp_path: Path, one_line_error: Callable[..., Any]) -> None:
    folder = write_birds(tmp_path, ROWS, background=3)
    (folder / "train.csv").unlink()
    with one_line_error("it has train_audio/ as for BirdCLEF, and no train.csv", str(folder / "train_audio")):
        split(folder)
    assert split(folder / "train_audio").labels == ("crow", "jay", "owl")


# -- scores ----------------------------------------------------------------------------------------------------------

HOT = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1]], dtype=bool)
CHANCES = np.array([[0.9, 0.4, 0.1, 0.5], [0.1, 0.3, 0.2, 0.5], [0.6, 0.6, 0.9, 0.5], [0.7, 0.2, 0.3, 0.5]])


def test_macro_auc_skips_labels_that_none_or_all_have() -> None:
    expected = np.mean([roc_auc_score(HOT[:, label], CHANCES[:, label]) for label in (0, 1)])
    assert expected < 1
    assert metrics.score(["roc_auc"], HOT, HOT, CHANCES) == pytest.approx({"roc_auc": expected})
    assert np.isnan(metrics.score(["roc_auc"], HOT, HOT[:, 2:], CHANCES[:, 2:])["roc_auc"])
    assert np.isnan(metrics.score(["roc_auc"], HOT, HOT, CHANCES * np.nan)["roc_auc"])


def logits_of(chances: list[list[float]]) -> np.ndarray:
    values = np.array(chances)
    return np.log(values / (1 - values)).astype(np.float32)


def test_false_alarms_are_of_windows_and_scores_of_recordings() -> None:
    """Three recordings of 2, 1 and 3 windows of a second, the first and last without a call."""
    features = Features({"label": List(Value("bool"), length=2), "seconds": Value("float64")})
    hot = [[False, False], [True, False], [False, False]]
    rows = Dataset.from_dict({"label": hot, "seconds": [2.0, 1.0, 3.0]}, features=features)
    chances = [[0.9, 0.7], [0.1, 0.2], [0.8, 0.9], [0.6, 0.1], [0.2, 0.1], [0.1, 0.1]]
    settings = {"problem_type": "multi_label_classification", "thresholds": [0.5, 0.7 - 1e-6]}
    task = AudioClassification("a", seconds=1.0)
    scores = task.score({"logits": logits_of(chances)}, rows, {**settings, "id2label": {0: "crow", 1: "jay"}})
    assert list(scores) == ["mAP", "roc_auc", "micro_f1", "macro_f1", "loss", "false_alarms_per_hour", "AP/crow"]
    assert scores["false_alarms_per_hour"] == pytest.approx(3 * 3600 / 5)
    joined = [0.5, 0.8, 0.3]
    assert scores["AP/crow"] == pytest.approx(average_precision_score([0, 1, 0], joined))
    assert scores["roc_auc"] == 1
    assert score_names([scores]) == ["mAP", "roc_auc", "micro_f1", "macro_f1", "false_alarms_per_hour", "loss"]

    called = rows.select([1])
    scores = task.score({"logits": logits_of(chances[2:3])}, called, settings)
    assert not any(name.startswith(("false", "AP/")) for name in scores)


def test_false_alarms_depend_neither_on_overlap_nor_on_how_short_recordings_are() -> None:
    """A label is given to each window: in an hour there are 720 windows of 5 s."""
    features = Features({"label": List(Value("bool"), length=1), "seconds": Value("float64")})
    settings = {"problem_type": "multi_label_classification", "thresholds": [0.5]}
    for seconds, overlap, windows, expected in ((60.0, 0.0, 12, 720), (60.0, 0.5, 23, 1440), (1.0, 0.0, 1, 720)):
        rows = Dataset.from_dict({"label": [[False]], "seconds": [seconds]}, features=features)
        task = AudioClassification("a", seconds=5.0, overlap=overlap)
        scores = task.score({"logits": logits_of([[0.9]] * windows)}, rows, settings)
        assert scores["false_alarms_per_hour"] == pytest.approx(expected)


def test_windows_have_thresholds_of_their_own() -> None:
    """Each call is in one of four windows: the mean is low, and so is its threshold, which calm windows reach too."""
    rng = np.random.default_rng(0)
    features = Features({"label": List(Value("bool"), length=1), "seconds": Value("float64")})
    called = np.arange(40) % 2 == 0
    rows = Dataset.from_dict({"label": called[:, None].tolist(), "seconds": [4.0] * 40}, features=features)
    chances = rng.uniform(0.01, 0.3, (40, 4))
    chances[called, 0] = rng.uniform(0.7, 0.99, called.sum())
    outputs = {"logits": logits_of(chances.reshape(-1, 1).tolist())}
    task = AudioClassification("a", seconds=1.0)
    settings = task.tune(outputs, rows)
    (of_recordings,), (of_windows,) = settings["thresholds"], settings["window_thresholds"]
    assert of_recordings < 0.35
    assert 0.35 < of_windows < 0.7
    assert task.score(outputs, rows, settings)["false_alarms_per_hour"] == 0
    given = task.predicted(chances.reshape(-1, 1), settings, None)
    assert (given.reshape(40, 4) == called[:, None] * [True, False, False, False]).all()
    before = {name: value for name, value in settings.items() if name != "window_thresholds"}
    assert task.predicted(chances.reshape(-1, 1), before, None).sum() > given.sum(), "a run from before has one of each"


# -- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(bird, "['jay']" if bird == "crow" and number % 3 == 0 else "[]") for bird in TONES for number in range(8)]
    return write_birds(tmp_path_factory.mktemp("birds"), rows, background=8)


@pytest.fixture(scope="module")
def run(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer[Any]:
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(10, 8), conv_kernel=(10, 8), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        classifier_proj_size=8, feat_extract_norm="layer",
    )  # fmt: skip
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(folder / "model")
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "model")
    task = AudioClassification(str(birds), background=str(birds / "background"), seconds=0.25)
    phases = (Phase("head", 1, 1e-2), Phase("all", 2, 3e-3))
    trainer: Trainer[Any] = Trainer(
        Recipe(task, str(folder / "model"), phases, str(folder / "run"), batch_size=8, precision="fp32", refit=False)
    )
    trainer.fit(display=False)
    return trainer


def test_what_a_run_reports(run: Trainer[Any], birds: Path, tmp_path: Path) -> None:
    folder = Path(str(run.recipe.output_dir))
    scores = json.loads((folder / "metrics.json").read_text())["validation"]
    assert {"mAP", "roc_auc", "false_alarms_per_hour", "AP/crow", "AP/jay", "AP/owl"} <= scores.keys()
    assert scores["mAP"] == pytest.approx(np.mean([scores[f"AP/{bird}"] for bird in TONES]))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "AP/" not in card
    assert f"owl {scores['AP/owl']:.3f}" in card.partition("Average precision on validation")[2]
    predictor = Predictor(folder)
    assert predictor.evaluate() == pytest.approx(scores, abs=1e-5)
    assert not any("not taken for" in note for note in predictor.notes)

    # Class folders alone: the model gives any number of labels, so that rows have any number.
    write_sound(tmp_path / "crow" / "x.wav", TONES["crow"], seed=7)
    write_sound(tmp_path / "owl" / "x.wav", TONES["owl"], seed=8)
    other = predictor.evaluate(data=str(tmp_path))
    assert {"mAP", "AP/crow", "AP/owl"} <= other.keys()
    assert "false_alarms_per_hour" not in other


def test_features_of_another_weight_are_others(birds: Path, run: Trainer[Any]) -> None:
    digests = set()
    for weight in (0.5, 0.25):
        task = dataclasses.replace(run.recipe.task, secondary_weight=weight)
        digests.add(task.examples(task.load_data(0, "", False, False).train, run.ready.processor, False).digest)
    assert len(digests) == 2


def test_the_best_epoch_has_the_fewest_false_alarms_if_these_choose(run: Trainer[Any]) -> None:
    chooser: Trainer[Any] = Trainer(dataclasses.replace(run.recipe, best_by="false_alarms_per_hour"))
    scores = [{"false_alarms_per_hour": value, "loss": 1.0} for value in (30.0, 10.0, 20.0)]
    assert max(scores, key=chooser._worth) is scores[1]
