"""Rows with any number of labels, from the data to the saved model, its pipeline and its card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WORDS
from datasets import Dataset, Features, List, Value
from sklearn.metrics import average_precision_score, f1_score
from transformers import pipeline

from hftl import HftlError, Phase, Predictor, Recipe, Trainer
from hftl.cli import main
from hftl.data.batches import Batch
from hftl.records import Evaluated
from hftl.tasks import ImageClassification, TextClassification

TinyModel = Callable[[str], Path]
TAGS = ("awful", "film", "good")


# -- the task's own part ---------------------------------------------------------------------------------------------

HOT = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
LOGITS = np.array([[2.0, 1, -1], [-1, 0, 3], [1, 1, 1], [0.5, -2, 0], [-3, -4, -5]], dtype=np.float32)
SETTINGS = {"problem_type": "multi_label_classification", "thresholds": [0.6, 0.3, 0.9]}


def rows_of(hot: np.ndarray) -> Dataset:
    """Rows as the data layer gives them."""
    features = Features({"label": List(Value("bool"), length=hot.shape[1])})
    return Dataset.from_dict({"label": hot.tolist()}, features=features)


TASK = TextClassification(data="a")


def test_the_loss_of_a_row_is_the_mean_over_its_labels():
    batch = Batch({}, torch.from_numpy(HOT).float(), torch.arange(5))
    loss = TASK.objective(rows_of(HOT))(SimpleNamespace(logits=torch.from_numpy(LOGITS).bfloat16()), batch)
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss, -np.log(np.where(HOT, p, 1 - p)).mean(axis=1), rtol=1e-5)


def test_scores_of_a_split():
    scores = TASK.score({"logits": LOGITS}, rows_of(HOT), SETTINGS)
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    given = p >= [0.6, 0.3, 0.9]
    assert list(scores) == ["mAP", "micro_f1", "macro_f1", "loss"]
    # The last label: no row has it, so that it has no average precision; it is given, so that its F1 is 0.
    assert scores["mAP"] == pytest.approx(np.mean([average_precision_score(HOT[:, i], LOGITS[:, i]) for i in (0, 1)]))
    assert scores["micro_f1"] == pytest.approx(f1_score(HOT.ravel(), given.ravel()))
    assert scores["macro_f1"] == pytest.approx(f1_score(HOT, given, average="macro", zero_division=0))
    assert scores["loss"] == pytest.approx(-np.log(np.where(HOT, p, 1 - p)).mean())


def test_thresholds_are_tuned_on_validation_and_go_into_the_configuration():
    settings = TASK.tune({"logits": LOGITS}, rows_of(HOT))
    assert settings["problem_type"] == "multi_label_classification"
    assert len(settings["thresholds"]) == 3
    assert json.loads(json.dumps(settings)) == settings
    tuned = TASK.score({"logits": LOGITS}, rows_of(HOT), settings)
    plain = TASK.score({"logits": LOGITS}, rows_of(HOT), {**settings, "thresholds": [0.5] * 3})
    assert tuned["micro_f1"] > plain["micro_f1"]
    assert tuned["mAP"] == plain["mAP"]


def test_the_majority_answers_with_the_commonest_labels():
    scores = TASK.majority(rows_of(HOT), rows_of(HOT[:3]))
    given = np.tile([True, True, False], (3, 1))  # 6 of 10 right, where one label alone has 4 of 5 and misses 2
    assert (
        scores
        == pytest.approx(
            {
                "mAP": np.mean([1 / 3, 2 / 3]),  # of a constant: the share of the rows
                "micro_f1": f1_score(HOT[:3], given, average="micro"),
                "macro_f1": f1_score(HOT[:3, :2], given[:, :2], average="macro"),
            }
        )
    )


def test_answers_are_the_labels_that_reach_their_thresholds():
    first, _, _, _, last = TASK.answers({"logits": LOGITS}, rows_of(HOT), ("a", "b", "c"), SETTINGS)
    assert list(first) == ["labels", "label", "score", "scores"]
    assert (first["labels"], first["label"]) == (["a", "b"], "a")
    assert first["scores"] == pytest.approx({"a": 0.880797, "b": 0.731059, "c": 0.268941}, abs=1e-6)
    assert list(first["scores"]) == ["a", "b", "c"]
    assert last["labels"] == []
    assert last["label"] == "a"


def test_data_of_the_other_kind(one_line_error):
    with one_line_error("any number of labels a row", "the model gives one"):
        TASK.score({"logits": LOGITS}, rows_of(HOT), {})
    with one_line_error("one label a row", "the model gives any number"):
        TASK.score({"logits": LOGITS}, Dataset.from_dict({"label": [0] * 5}), SETTINGS)


# -- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts and the tags that stand in them, as json; a third of them have none."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("tagged")
    for split, count in (("train", 400), ("validation", 60), ("test", 60)):
        rows = []
        for _ in range(count):
            words = rng.choice(sorted(set(WORDS.split()) - set(TAGS)), 2).tolist()
            tags = [tag for tag in TAGS if rng.random() < 0.3]
            rows.append({"text": " ".join(rng.permutation(words + tags)), "labels": tags})
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def text_run(tiny_model: TinyModel, tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer[Any]:
    recipe = Recipe(
        TextClassification(str(tagged), max_length=16),
        str(tiny_model("bert")),
        (Phase("head", 1, 3e-3), Phase("all", 4, 3e-3, schedule="constant")),
        str(tmp_path_factory.mktemp("runs") / "text"),
        batch_size=8,
        precision="fp32",
    )
    trainer = Trainer(recipe)
    trainer.fit(display=False)
    return trainer


@pytest.fixture(scope="module")
def image_run(tiny_model: TinyModel, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    files = [(path, path.parent.name) for path in sorted(photos.rglob("train/*/*.png"))]
    lines = [f"{path},{int(color == 'red')},{int(color != 'blue')}" for path, color in files]
    (folder / "photos.csv").write_text("\n".join(["file,red,warm", *lines]))
    task = ImageClassification(str(folder / "photos.csv"), label_columns=("red", "warm"))
    phases = (Phase("head", 1, 1e-2), Phase("all", 1, 1e-3))
    recipe = Recipe(task, str(tiny_model("vit")), phases, str(folder / "run"), batch_size=8, precision="fp32")
    Trainer(recipe).fit(display=False)
    return folder / "run"


def folder_of(trainer: Trainer[Any]) -> Path:
    return Path(str(trainer.recipe.output_dir))


def test_tags_are_learnt(text_run: Trainer[Any]) -> None:
    majority, scores = text_run.ready.majority(), json.loads((folder_of(text_run) / "metrics.json").read_text())["test"]
    for name in ("mAP", "micro_f1", "macro_f1"):
        assert scores[name] > majority[name] + 0.1


def test_the_saved_model_says_what_it_is(text_run: Trainer[Any]) -> None:
    config = json.loads((folder_of(text_run) / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {str(index): tag for index, tag in enumerate(TAGS)}
    assert text_run.best is not None
    assert config["thresholds"] == text_run.best.settings["thresholds"]
    assert len(config["thresholds"]) == 3


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluate_gives_the_scores_of_the_run(split: str, text_run: Trainer[Any]) -> None:
    expected = json.loads((folder_of(text_run) / "metrics.json").read_text())[split]
    assert Predictor(folder_of(text_run)).evaluate(split) == pytest.approx(expected, abs=1e-6)
    assert text_run.evaluate(split) == pytest.approx(expected, abs=1e-6)


def runs_and_inputs(text_run: Trainer[Any], image_run: Path, photos: Path) -> list[tuple[str, Path, list[str]]]:
    texts = ["a good film", "awful", "the plot was not good"]
    files = [str(path) for path in sorted(photos.rglob("test/*/*.png"))]
    return [("text-classification", folder_of(text_run), texts), ("image-classification", image_run, files)]


def test_a_pipeline_gives_the_same_probabilities(text_run: Trainer[Any], image_run: Path, photos: Path) -> None:
    for task, run, inputs in runs_and_inputs(text_run, image_run, photos):
        answer = pipeline(task, model=str(run / "model"))
        for theirs, ours in zip(answer(inputs, top_k=3), Predictor(run)(inputs), strict=True):
            assert ours["scores"] == pytest.approx({each["label"]: each["score"] for each in theirs}, abs=1e-5)
            assert sum(ours["scores"].values()) != pytest.approx(1, abs=1e-3)


def test_the_cards_example_gives_the_labels(
    text_run: Trainer[Any],
    image_run: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _, run, inputs in runs_and_inputs(text_run, image_run, photos):
        monkeypatch.chdir(run)
        card = Path("README.md").read_text(encoding="utf-8")
        (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        for given, answer in zip(inputs, Predictor(run)(inputs), strict=True):
            code, asked = re.subn("a text of any length|photo.jpg", given, snippet)
            capsys.readouterr()
            exec(code, {})  # what the card tells people to type
            assert (asked, capsys.readouterr().out) == (1, f"{answer['labels']}\n")
        config = json.loads(Path("model/config.json").read_text())
        assert "(multi-label)" in card
        for label, threshold in zip(config["id2label"].values(), config["thresholds"], strict=True):
            assert f"{label} {threshold:.3f}" in card
        assert card.index("mAP") < card.index("micro")


def test_the_pretrained_head_is_kept(text_run: Trainer[Any], tagged: Path, tmp_path: Path) -> None:
    task, model = TextClassification(str(tagged), max_length=16), str(folder_of(text_run) / "model")
    trainer = Trainer(Recipe(task, model, (), str(tmp_path / "run"), precision="fp32"))
    scores = trainer.fit(display=False).scores
    expected = json.loads((folder_of(text_run) / "metrics.json").read_text())
    assert scores["test"] == pytest.approx(expected["test"], abs=1e-6)


def test_a_new_head_for_single_labels_forgets_them(text_run: Trainer[Any], reviews: Path, tmp_path: Path) -> None:
    model = str(folder_of(text_run) / "model")
    recipe = Recipe(TextClassification(str(reviews)), model, (Phase("head", 1, 1e-2),), str(tmp_path / "run"))
    Trainer(recipe).fit(display=False)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    assert "thresholds" not in config
    (answer,) = Predictor(tmp_path / "run")("a good film")
    assert sum(answer["scores"].values()) == pytest.approx(1)
    assert "labels" not in answer


def test_other_data_are_scored_with_the_thresholds_of_the_run(text_run: Trainer[Any], tmp_path: Path) -> None:
    predictor = Predictor(folder_of(text_run))
    texts, tags = ["a good film", "the plot", "awful it is"], [["film", "good"], [], ["awful"]]
    rows = [{"text": text, "labels": labels} for text, labels in zip(texts, tags, strict=True)]
    (tmp_path / "other.json").write_text(json.dumps(rows))
    answers = predictor(str(tmp_path / "other.json"))
    pairs = [
        {(row, label) for row, labels in enumerate(sets) for label in labels} for sets in (tags, given_in(answers))
    ]
    expected = 2 * len(pairs[0] & pairs[1]) / (len(pairs[0]) + len(pairs[1]))
    assert predictor.evaluate(data=str(tmp_path / "other.json"))["micro_f1"] == pytest.approx(expected)
    with pytest.raises(HftlError, match="one label a row"):
        predictor.evaluate(data=Dataset.from_dict({"text": ["x", "y"], "label": ["good", "film"]}))


def given_in(answers: list[dict[str, Any]]) -> list[list[str]]:
    return [answer["labels"] for answer in answers]


def test_people_see_the_labels_that_are_given(
    text_run: Trainer[Any], tagged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by the environment: rich looks at what that was when it was imported.
    monkeypatch.setattr("rich.console.Console._environ", {"COLUMNS": "250"})
    run = folder_of(text_run)
    answers = Predictor(run)([row["text"] for row in json.loads((tagged / "test.json").read_text())])
    several = next(answer for answer in answers if len(answer["labels"]) == 2)
    none = next(answer for answer in answers if not answer["labels"])
    main(["predict", str(run), several["name"], none["name"]])
    _, first, second = (re.split("  +", line.strip()) for line in capsys.readouterr().out.splitlines())
    (left,) = set(TAGS) - set(several["labels"])
    reached = ", ".join(f"{several['scores'][label]:.3f}" for label in several["labels"])
    assert first == [several["name"], ", ".join(several["labels"]), reached, f"{left} {several['scores'][left]:.3f}"]
    best = ", ".join(f"{label} {score:.3f}" for label, score in none["scores"].items())
    assert second == [none["name"], "\u2013", "\u2013", best]
    main(["predict", str(run), several["name"], "--json", "--top", "1"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["labels"] == several["labels"]
    assert list(answer["scores"]) == [answer["label"]]
    main(["evaluate", str(run), "--split", "test", "--json"])
    assert list(json.loads(capsys.readouterr().out)) == ["mAP", "micro_f1", "macro_f1", "loss"]


def test_every_validation_has_its_own_thresholds(tiny_model: TinyModel, tagged: Path, tmp_path: Path) -> None:
    """The test split is scored with those of the best one."""
    task = TextClassification(str(tagged), metrics=("macro_f1", "accuracy"))
    trainer = Trainer(
        Recipe(task, str(tiny_model("bert")), (Phase("all", 3, 3e-3),), str(tmp_path / "run"), precision="fp32")
    )
    evaluated = [record for record in trainer.run() if isinstance(record, Evaluated)]
    *epochs, test = evaluated
    assert len({tuple(record.settings["thresholds"]) for record in epochs}) == 3
    assert [*test.scores] == ["macro_f1", "accuracy", "loss"]
    assert trainer.best is not None
    assert trainer.best.scores["macro_f1"] == max(record.scores["macro_f1"] for record in epochs)
    assert trainer.evaluate("test") == pytest.approx(test.scores, abs=1e-6)
