"""A run applied to inputs; its folder loads without hftl and says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from hftl import HftlError, Phase, Predictor, Recipe, Trainer
from hftl.predictor import SEEN
from hftl.tasks import ImageClassification, TextClassification

TinyModel = Callable[[str], Path]
PHASES = (Phase("head", 1, 1e-2), Phase("all", 1, 1e-3))


@pytest.fixture(scope="module")
def image_run(tiny_model: TinyModel, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "run"
    task = ImageClassification(str(photos))
    recipe = Recipe(task, str(tiny_model("resnet")), PHASES, str(folder), batch_size=8, precision="fp32")
    Trainer(recipe).fit(display=False)
    return folder


@pytest.fixture(scope="module")
def text_run(tiny_model: TinyModel, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "run"
    task = TextClassification(str(reviews), max_length=16, truncation="tail")
    recipe = Recipe(task, str(tiny_model("bert")), PHASES, str(folder), batch_size=8, precision="fp32", refit=False)
    Trainer(recipe).fit(display=False)
    return folder


WITHOUT_HFTL = """
import json, sys
sys.modules["torchaudio"] = None  # where it is installed, transformers alone trips over it beside a CPU torch
from transformers import pipeline
answers = pipeline(sys.argv[1], model=sys.argv[2])(json.loads(sys.argv[3]), top_k=None, **json.loads(sys.argv[4]))
assert not any(name.startswith("hftl") for name in sys.modules)
print(json.dumps([{answer["label"]: answer["score"] for answer in row} for row in answers]))
"""


def pipeline_scores(task: str, model: Path, inputs: list[str], **options: Any) -> list[dict[str, float]]:
    """What ``transformers`` alone says, in a process that has never heard of hftl."""
    arguments = [task, str(model), json.dumps(inputs), json.dumps(options)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HFTL, *arguments], capture_output=True, text=True, check=True, cwd=model
    )
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_pipeline_without_hftl_says_the_same_of_images(image_run: Path, photos: Path) -> None:
    files = [str(path) for path in sorted(photos.rglob("test/*/*.png"))]
    ours = [answer["scores"] for answer in Predictor(image_run)(files)]
    for mine, theirs in zip(ours, pipeline_scores("image-classification", image_run / "model", files), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_a_pipeline_without_hftl_says_the_same_of_texts(text_run: Path) -> None:
    texts = ["a good film", "bad plot and awful actor " * 9, "the scene was great"]
    ours = [answer["scores"] for answer in Predictor(text_run)(texts)]
    theirs = pipeline_scores("text-classification", text_run / "model", texts, truncation=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=1e-5)  # we pad three texts to one batch, it runs them one by one


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluate_gives_the_scores_of_the_run(split: str, image_run: Path) -> None:
    scores = Predictor(image_run).evaluate(split)
    assert scores == pytest.approx(json.loads((image_run / "metrics.json").read_text())[split], abs=1e-6)


def test_a_validation_split_that_was_cut_is_cut_again_the_same(text_run: Path) -> None:
    predictor = Predictor(text_run)
    scores = predictor.evaluate()
    assert scores == pytest.approx(json.loads((text_run / "metrics.json").read_text())["validation"], abs=1e-6)
    assert SEEN not in predictor.notes


def test_a_model_that_was_trained_on_all_rows_says_so_of_those_that_validated_it(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    task, phases = TextClassification(str(reviews)), (Phase("head"),)
    recipe = Recipe(task, str(tiny_model("bert")), phases, str(tmp_path / "run"), precision="fp32")
    ended = Trainer(recipe).fit(display=False)
    assert ended.refit
    predictor = Predictor(tmp_path / "run")
    scores = predictor.evaluate()
    assert SEEN in predictor.notes
    assert scores != pytest.approx(ended.scores["validation"], abs=1e-6)  # those are of the model before that
    predictor.evaluate(data=str(reviews))
    assert SEEN not in predictor.notes


def test_evaluate_other_data_scores_all_rows(text_run: Path, tmp_path: Path) -> None:
    predictor = Predictor(text_run)
    texts = ["good film", "awful film", "great plot", "bad actor", "poor scene"]
    labels = ["positive", "negative", "positive", "negative", "negative"]
    answers = predictor(texts)
    expected = np.mean([answer["label"] == label for answer, label in zip(answers, labels, strict=True)])
    rows = Dataset.from_dict({"text": texts, "label": labels})
    assert predictor.evaluate(data=rows)["accuracy"] == pytest.approx(expected)
    rows.to_csv(tmp_path / "other.csv")
    assert predictor.evaluate(data=str(tmp_path / "other.csv"))["accuracy"] == pytest.approx(expected)


def test_evaluate_other_data_forgets_what_was_said_of_the_own(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    """Neither its max_rows nor a cut: every row counts, if there is but one of a label."""
    task = TextClassification(str(reviews), max_rows=20)
    recipe = Recipe(task, str(tiny_model("bert")), PHASES[:1], str(tmp_path / "run"), batch_size=8, precision="fp32")
    Trainer(recipe).fit(display=False)
    predictor = Predictor(tmp_path / "run")
    seen: list[int] = []
    for count in (2, 50):
        rows = Dataset.from_dict({"text": ["good film"] * count, "label": (["positive", "negative"] * count)[:count]})
        progress = predictor.evaluating(None, rows)
        seen.append(max(told.rows for told in progress))
    assert seen == [2, 50]


def test_a_run_on_a_stream_is_evaluated_on_the_same_sample(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
    rows = Dataset.from_csv(str(reviews), cache_dir=str(tmp_path / "csv"))
    for number in range(3):
        rows.shard(3, number).to_parquet(tmp_path / "data" / f"train-0000{number}-of-00003.parquet")
    task = TextClassification(str(tmp_path / "data"), streaming=True, max_rows=30)
    recipe = Recipe(
        task, str(tiny_model("bert")), PHASES[:1], str(tmp_path / "run"), batch_size=8, precision="fp32", refit=False
    )
    Trainer(recipe).fit(display=False)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "hftl").iterdir()}
    predictor = Predictor(tmp_path / "run")
    scores = predictor.evaluate()
    assert scores == pytest.approx(json.loads((tmp_path / "run" / "metrics.json").read_text())["validation"], abs=1e-6)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "hftl").iterdir()} == kept
    assert any("30 rows of a stream" in note for note in predictor.notes)
    whole = predictor.evaluate(data=str(tmp_path / "data"))  # all 60
    assert whole == pytest.approx(predictor.evaluate(data=rows), abs=1e-6)


class TestInputs:
    """Everything a person may hand in."""

    def test_files_folders_objects_and_tables_of_images(self, image_run: Path, photos: Path, tmp_path: Path) -> None:
        predictor = Predictor(image_run)
        file = photos / "test" / "red" / "0.png"
        (tmp_path / "table.csv").write_text(f"photo\n{file}\n")
        rows = Dataset.from_dict({"image": [{"bytes": file.read_bytes(), "path": None}]})
        rows.to_parquet(tmp_path / "table.parquet")
        ways = [str(file), Image.open(file), str(tmp_path / "table.csv"), str(tmp_path / "table.parquet")]
        scores = [predictor(way)[0]["score"] for way in ways]
        assert scores == pytest.approx([scores[0]] * 4, abs=1e-6)
        assert len(predictor(str(photos / "test"))) == 9
        assert [answer["name"] for answer in predictor([str(photos / "test" / "red")])] == [
            str(photos / "test" / "red" / f"{number}.png") for number in range(3)
        ]

    def test_texts_files_and_tables(self, text_run: Path, tmp_path: Path) -> None:
        predictor = Predictor(text_run)
        (tmp_path / "review.txt").write_text("a good film")
        (tmp_path / "table.csv").write_text("text\na good film\nNA\n")
        direct = predictor("a good film")[0]["score"]
        assert predictor(str(tmp_path / "review.txt"))[0]["score"] == pytest.approx(direct, abs=1e-6)
        table = predictor(str(tmp_path / "table.csv"))
        assert [answer["name"] for answer in table] == [f"{tmp_path / 'table.csv'}:{row}" for row in (0, 1)]
        assert table[0]["score"] == pytest.approx(direct, abs=1e-6)

    def test_the_order_is_that_of_the_inputs(self, text_run: Path) -> None:
        texts = ["film " * count for count in (3, 1, 9, 2, 7)]
        assert [answer["name"] for answer in Predictor(text_run)(texts)] == texts

    @pytest.mark.parametrize("text", ["good film " * 40, "很" * 90, "~~~ great film", "~nobody is here", "a\0b"])
    def test_any_text_is_a_text(self, text: str, text_run: Path) -> None:
        assert Predictor(text_run)(text)[0]["name"] == text

    def test_a_bad_image_is_left_out_and_named(self, image_run: Path, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"not an image")
        predictor = Predictor(image_run)
        answers = predictor([str(photos / "test" / "red" / "0.png"), str(tmp_path / "broken.jpg")])
        assert len(answers) == 1
        assert [Path(row.name).name for row in predictor.bad_rows] == ["broken.jpg"]
        with pytest.raises(HftlError, match=r"broken\.jpg"):
            predictor(str(tmp_path / "broken.jpg"))

    @pytest.mark.parametrize("missing", ["nowhere.jpg", "nowhere.csv"])
    def test_a_missing_file_is_named(self, missing: str, image_run: Path) -> None:
        with pytest.raises(HftlError, match=missing):
            Predictor(image_run)(missing)

    def test_a_missing_table_is_not_taken_for_a_text(self, text_run: Path) -> None:
        with pytest.raises(HftlError, match=r"nowhere\.csv"):
            Predictor(text_run)("nowhere.csv")


def test_probabilities_sum_to_one_and_are_sorted(image_run: Path, photos: Path) -> None:
    for answer in Predictor(image_run)([str(photos / "test")]):
        scores = list(answer["scores"].values())
        assert sum(scores) == pytest.approx(1)
        assert scores == sorted(scores, reverse=True)
        assert answer["score"] == scores[0]


def test_what_is_no_run_is_named(tmp_path: Path, image_run: Path) -> None:
    with pytest.raises(HftlError, match="no run lies there"):
        Predictor(tmp_path)
    (tmp_path / "recipe.yaml").write_text((image_run / "recipe.yaml").read_text())
    with pytest.raises(HftlError, match="has not ended"):
        Predictor(tmp_path)
    with pytest.raises(HftlError, match="no such split"):
        Predictor(image_run).evaluate("tset")
