"""Real pretrained models on real data: better than a baseline that the same test computes, by a margin.

``hftl samples`` makes what the first three need (``make test`` calls it); the others use the shared models and data.
"""

from __future__ import annotations

import csv
import importlib
import inspect
import json
import pydoc_data.topics
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from datasets import Dataset

from hftl import Phase, Predictor, Recipe, Store, Trainer, strategies
from hftl.image.reading import read_image
from hftl.predictor import drain, outputs_of
from hftl.records import Evaluated, FeaturesReady, PhaseEnded
from hftl.tasks import ImageClassification, QuestionAnswering, TextClassification
from hftl.text.squad import normalised_answer, squad_scores

if TYPE_CHECKING:
    pass

SAMPLES = Path(__file__).parents[2] / "samples"
needs_samples = pytest.mark.skipif(
    not (SAMPLES / "SOURCES.md").exists(), reason=f"needs the samples, and {SAMPLES} has none: run hftl samples"
)


def phase_scores(recipe: Recipe[Any]) -> tuple[Trainer[Any], list[float]]:
    """Run it; the best validation accuracy of each phase (which ends only if what was frozen is bit-equal)."""
    trainer = Trainer(recipe)
    return trainer, [r.scores["accuracy"] for r in trainer.run() if isinstance(r, PhaseEnded) and not r.refit]


def bag_of_words(train: Dataset, other: Dataset) -> float:
    """Accuracy on ``other`` of logistic regression on word counts."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    baseline = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    baseline.fit(list(train["text"]), train["label"])
    return float(baseline.score(list(other["text"]), other["label"]))


def raw_pixels(train: Dataset, other: Dataset) -> float:
    """Accuracy on ``other`` of logistic regression on the pixels of 16 x 16 thumbnails."""
    from sklearn.linear_model import LogisticRegression

    def pixels(rows: Dataset) -> np.ndarray:
        return np.stack([np.asarray(read_image(v).resize((16, 16))).ravel() / 255 for v in rows["image"]])

    baseline = LogisticRegression(max_iter=1000).fit(pixels(train), train["label"])
    return float(baseline.score(pixels(other), other["label"]))


@needs_samples
def test_reviews_beat_a_bag_of_words(tmp_path: Path) -> None:
    task = TextClassification(str(SAMPLES / "data" / "movie-reviews"), max_rows=800, max_length=64)
    phases = strategies.lp_ft(head_epochs=2, epochs=2, lr=1e-4)
    recipe = Recipe(task, str(SAMPLES / "models" / "minilm-l6"), phases, str(tmp_path / "run"))
    trainer, (frozen, unfrozen) = phase_scores(recipe)
    splits = (trainer.ready.first or trainer.ready).splits
    assert max(frozen, unfrozen) > bag_of_words(splits.train, splits.validation) + 0.04
    assert min(frozen, unfrozen) > trainer.ready.majority()["accuracy"] + 0.1
    assert Predictor(tmp_path / "run")("A masterpiece, moving and beautifully acted.")[0]["label"] == "positive"


def paragraphs(*texts: str | None) -> Iterator[str]:
    """Those of one to three sentences in plain words."""
    for block in re.split(r"\n\s*\n", "\n\n".join(filter(None, texts))):
        line = " ".join(block.split())
        if 40 <= len(line) <= 300 and re.fullmatch(r"[A-Z][\w ,.'()\"-]+\.", line):
            yield line


def topics(common: int, rare: int, held_out: int) -> dict[str, Dataset]:
    """News of three topics as AG News has them: films, ``common`` times, and Python's language and its mathematics,
    ``rare`` times each; ``held_out`` of each to validate on."""
    with (SAMPLES / "data" / "movie-reviews" / "train.csv").open(encoding="utf-8") as file:
        films = [row["text"] for row in csv.DictReader(file)]
    modules = map(importlib.import_module, ("decimal", "fractions", "math", "random", "statistics"))
    documented = [value for module in modules for _, value in sorted(vars(module).items()) if callable(value)]
    sources = {
        "film": films,
        "language": paragraphs(*pydoc_data.topics.topics.values()),
        "mathematics": paragraphs(*map(inspect.getdoc, documented)),
    }
    splits: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for topic, found in sources.items():
        texts = np.random.default_rng(0).permutation(list(dict.fromkeys(found))).tolist()
        rows = [{"text": text, "label": topic} for text in texts]
        splits["validation"] += rows[:held_out]
        splits["train"] += rows[held_out:][: common if topic == "film" else rare]
        assert len(texts) >= held_out + rare
    return {name: Dataset.from_list(rows) for name, rows in splits.items()}


@needs_samples
def test_balancing_a_skewed_set_beats_not_balancing_it(tmp_path: Path) -> None:
    """Fifty to one, validated on as many of each: what is not balanced answers with the commonest topic."""
    data = topics(common=400, rare=8, held_out=30)
    found = {}
    for name, options in {
        "none": {},
        "weights": {"balance": "weights"},
        "sampler": {"balance": "sampler"},
        "logit adjustment": {"logit_adjustment": 1.0},
    }.items():
        task = TextClassification(data, max_length=24, **options)  # type: ignore[arg-type]
        recipe = Recipe(
            task,
            str(SAMPLES / "models" / "minilm-l6"),
            (Phase("neck", 2, 3e-3),),
            str(tmp_path / name),
            precision="fp32",
            batch_size=32,
        )
        trainer = Trainer(recipe)
        found[name] = trainer.fit(display=False).scores["validation"]["macro_f1"]
        said = any("400 rows have 'film', 8 have" in note for note in trainer.ready.splits.notes)
        assert said == (name == "none")
    none = found.pop("none")
    assert min(found.values()) > none + 0.25, (none, found)


@needs_samples
def test_digits_unfrozen_beat_frozen_beat_the_majority(tmp_path: Path) -> None:
    task = ImageClassification(str(SAMPLES / "data" / "digits"), image_size=64, augment="none", max_rows=300)
    phases = (Phase("head", 3, 3e-3), Phase("all", 3, 1e-3, layer_decay=0.9))
    recipe = Recipe(task, str(SAMPLES / "models" / "efficientnet-lite0"), phases, str(tmp_path / "run"))
    trainer, (frozen, unfrozen) = phase_scores(recipe)
    assert frozen > trainer.ready.majority()["accuracy"] + 0.3
    assert unfrozen > frozen + 0.05
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["accuracy"] > frozen


@pytest.mark.shared
def test_cifar10_gradually_beats_its_pixels(shared: Path, tmp_path: Path) -> None:
    task = ImageClassification(str(shared / "data" / "cifar10"), max_rows=400, image_size=128)
    recipe = Recipe(task, str(shared / "models" / "mobilenet_v2_1.0_224"), strategies.gradual(), str(tmp_path / "run"))
    trainer, scores = phase_scores(recipe)
    splits = (trainer.ready.first or trainer.ready).splits
    assert len(scores) == 4
    assert max(scores) > raw_pixels(splits.train, splits.validation) + 0.15


@pytest.mark.shared
def test_hymenoptera_frozen_features_suffice(shared: Path, tmp_path: Path) -> None:
    task = ImageClassification(str(shared / "data" / "hymenoptera"))
    recipe = Recipe(
        task, str(shared / "models" / "mobilenet_v2_1.0_224"), strategies.linear_probe(2), str(tmp_path / "run")
    )
    trainer, (frozen,) = phase_scores(recipe)
    splits = (trainer.ready.first or trainer.ready).splits
    assert frozen > raw_pixels(splits.train, splits.validation) + 0.15


@pytest.mark.shared
def test_imagenet_labels_score_ants_and_bees_without_training(shared: Path, tmp_path: Path) -> None:
    """The pretrained head, its labels matched by name: nobody has trained on these photos."""
    label_map = {"ant, emmet, pismire": "ants", "bee": "bees"}
    task = ImageClassification(str(shared / "data" / "hymenoptera"), label_map=label_map)
    recipe = Recipe(
        task, str(shared / "models" / "mobilenet_v2_1.0_224"), strategies.pretrained(), str(tmp_path / "run")
    )
    trainer = Trainer(recipe)
    (evaluated,) = (record for record in trainer.run() if isinstance(record, Evaluated))
    assert evaluated.scores["accuracy"] > trainer.ready.majority()["accuracy"] + 0.15


@pytest.mark.shared
def test_imdb_with_an_fp16_checkpoint(shared: Path, tmp_path: Path) -> None:
    task = TextClassification(str(shared / "data" / "imdb"), max_rows=300, max_length=128, truncation="head+tail")
    phases = strategies.lp_ft(head_epochs=3, epochs=1)
    recipe = Recipe(task, str(shared / "models" / "minilm_l6_bert_fp16"), phases, str(tmp_path / "run"))
    trainer, scores = phase_scores(recipe)
    assert max(scores) > trainer.ready.majority()["accuracy"] + 0.1
    assert all(parameter.dtype.itemsize == 4 for parameter in trainer.model.parameters())


def logits(trainer: Trainer[Any], batch_size: int) -> np.ndarray:
    """Of the validation rows, shape (rows, classes), as the run evaluates them at the moment."""
    recipe = replace(trainer.recipe, eval_batch_size=batch_size)
    rows = trainer.source.examples("validation")
    outputs = drain(outputs_of(trainer.source.model, rows, recipe, trainer.runtime, "validation"))
    return np.asarray(outputs["logits"])


@pytest.mark.shared
@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-5), ("bf16", 2e-2)])
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_stored_features_give_the_logits_of_any_batch_to_rounding(
    kind: str, precision: str, apart: float, shared: Path, tmp_path: Path
) -> None:
    task, model = {
        "images": (ImageClassification(str(shared / "data" / "hymenoptera"), max_rows=96), "mobilenet_v2_1.0_224"),
        "texts": (TextClassification(str(shared / "data" / "imdb"), max_rows=96), "minilm_l6_bert_fp16"),
    }[kind]
    phases = strategies.linear_probe(3)
    recipe = Recipe(task, str(shared / "models" / model), phases, str(tmp_path / "run"), precision=precision)
    trainer: Trainer[Any] = Trainer(replace(recipe, store=Store(dir=str(tmp_path / "store"))))
    records = []
    for record in trainer.run():
        records.append(type(record))
        if isinstance(record, PhaseEnded):
            stored = logits(trainer, 32)
    assert FeaturesReady in records
    computed = logits(trainer, 7)
    assert np.abs(stored - computed).max() <= apart * max(1, np.abs(computed).max())


def likeliest_sentence(question: str, context: str) -> str:
    """The sentence that has most of the question's words, of those with equally many the shortest."""
    asked = set(normalised_answer(question).split())
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", context) if part]
    return max(sentences, key=lambda part: (len(asked & set(normalised_answer(part).split())), -len(part)))


@pytest.mark.shared
def test_questions_are_answered_better_than_by_the_likeliest_sentence(shared: Path, tmp_path: Path) -> None:
    """On those that have an answer: to learn when there is none takes longer."""
    for split in ("train", "validation"):
        document = json.loads((shared / "data" / "squad_v2" / f"{split}.json").read_text(encoding="utf-8"))
        for paragraph in (paragraph for article in document["data"] for paragraph in article["paragraphs"]):
            paragraph["qas"] = [each for each in paragraph["qas"] if not each["is_impossible"]]
        (tmp_path / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")
    task = QuestionAnswering(str(tmp_path), max_length=192)
    model = str(shared / "models" / "minilm_l6_bert_fp16")
    phases = (Phase("all", 2, 2e-4),)
    trainer = Trainer(Recipe(task, model, phases, str(tmp_path / "run"), batch_size=16))
    scores = trainer.fit(display=False).scores["validation"]
    rows = trainer.ready.splits.validation
    sentences = [likeliest_sentence(*pair) for pair in zip(rows["question"], rows["context"], strict=True)]
    baseline = squad_scores(sentences, [answers["text"] for answers in rows["answers"]])
    assert 0.1 < baseline["f1"] < scores["f1"] - 0.05
    assert Predictor(tmp_path / "run").evaluate("validation") == pytest.approx(scores)
