"""What makes up for labels that are not equally common: weights, sampling, focal loss, logit adjustment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value

from hftl import Phase, Recipe, Trainer
from hftl.data.batches import Batch
from hftl.tasks import ImageClassification, TextClassification
from hftl.tasks.parts.losses import binary_cross_entropy, class_weights, cross_entropy, log_prior, positive_weights

LABELS = [0] * 6 + [1] * 3 + [3]  # and none of 2
ROWS = Dataset.from_dict({"label": LABELS, "text": ["x"] * 10})
COUNTS = np.array([6, 3, 0, 1])
LOGITS = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor(LABELS)
MIXED = 0.3 * torch.nn.functional.one_hot(IDS, 4) + 0.7 * torch.nn.functional.one_hot(IDS.flip(0), 4)

HOT = np.array([[1, 0, 0]] * 6 + [[1, 1, 0]] * 2 + [[0, 0, 1]] + [[0, 0, 0]], dtype=bool)
SETS = Dataset.from_dict(
    {"label": HOT.tolist(), "text": ["x"] * 10},
    features=Features({"label": List(Value("bool"), length=3), "text": Value("string")}),
)


def loss_of(task: TextClassification, rows: Dataset, targets: torch.Tensor) -> torch.Tensor:
    logits = LOGITS[:, : int(targets.max()) + 1 if targets.ndim == 1 else targets.shape[1]]
    return task.objective(rows)(SimpleNamespace(logits=logits), Batch({}, targets, torch.arange(10)))


def task(**options: Any) -> TextClassification:
    return TextClassification(data="a", **options)


@pytest.mark.parametrize("targets", [IDS, MIXED])
def test_single_labels(targets):
    weights, prior = torch.tensor(class_weights(COUNTS)).float(), torch.tensor(log_prior(COUNTS)).float()
    for options, logits, given in (
        ({}, LOGITS, {}),
        ({"balance": "sampler"}, LOGITS, {}),  # which rows there are is not the loss's business
        ({"balance": "weights", "label_smoothing": 0.1}, LOGITS, {"weights": weights, "smoothing": 0.1}),
        ({"loss": "focal", "focal_gamma": 1.5}, LOGITS, {"gamma": 1.5}),
        ({"logit_adjustment": 0.5}, LOGITS + 0.5 * prior, {}),
    ):
        expected = cross_entropy(logits, targets, **given)
        torch.testing.assert_close(loss_of(task(**options), ROWS, targets), expected)


def test_any_number_of_labels(one_line_error):
    targets = torch.from_numpy(HOT).float()
    weights = torch.tensor(positive_weights(np.array([8, 2, 1]), 10)).float()
    for options, given in (
        ({"balance": "weights"}, {"weights": weights}),
        ({"loss": "focal", "label_smoothing": 0.2}, {"gamma": 2.0, "smoothing": 0.2}),
    ):
        expected = binary_cross_entropy(LOGITS[:, :3], targets, **given)
        torch.testing.assert_close(loss_of(task(**options), SETS, targets), expected)
    with one_line_error("logit_adjustment", "one label a row", "--task.balance"):
        task(logit_adjustment=1.0).objective(SETS)


def test_scores_stay_plain():
    outputs = {"logits": LOGITS.numpy()}
    plain = task().score(outputs, ROWS, {})
    for options in ({"balance": "weights"}, {"loss": "focal"}, {"logit_adjustment": 1.0}):
        assert task(**options).score(outputs, ROWS, {}) == plain


def test_rows_are_drawn_by_how_rare_their_label_is():
    assert task().frequencies(ROWS) is None
    assert task(balance="weights").frequencies(ROWS) is None
    drawn = task(balance="sampler")
    np.testing.assert_allclose(drawn.frequencies(ROWS), [1 / 6] * 6 + [1 / 3] * 3 + [1])
    np.testing.assert_allclose(drawn.frequencies(SETS), [1 / 8] * 6 + [1 / 2] * 2 + [1, 1])
    assert drawn.frequencies(ROWS.remove_columns("label")) is None  # to predict


@pytest.mark.parametrize(("family", "kind"), [("bert", TextClassification), ("vit", ImageClassification)])
def test_training_draws_rare_rows_more_often(
    family: str, kind: Any, tiny_model: Callable[[str], Path], photos: Path, tmp_path: Path
) -> None:
    files = sorted(map(str, photos.rglob("train/*/*.png")))[:20]
    column = {"text": ["a good film"] * 20} if kind is TextClassification else {"image": files}
    rows = Dataset.from_dict({**column, "label": ["often"] * 17 + ["rare"] * 3})
    seen: dict[str, list[int]] = {}
    for balance in ("none", "sampler"):
        folder = tmp_path / balance
        task = kind({"train": rows, "validation": rows}, balance=balance)
        recipe = Recipe(task, str(tiny_model(family)), (Phase("head", 5),), str(folder), batch_size=10)
        trainer = Trainer(recipe)
        records = trainer.run()
        next(records)
        loss, targets = trainer.ready.loss, seen.setdefault(balance, [])

        def watched(outputs: Any, batch: Batch, loss: Any = loss, targets: list[int] = targets) -> torch.Tensor:
            targets += batch.targets.tolist() if len(batch) == 10 else []  # a few are on trial as a phase begins
            return loss(outputs, batch)

        object.__setattr__(trainer.ready, "loss", watched)
        list(records)
    assert len(seen["none"]) == len(seen["sampler"]) == 100  # an epoch stays as long as it was
    assert sum(seen["none"]) == 15
    assert 35 <= sum(seen["sampler"]) <= 65  # half of a hundred, three standard deviations to either side


def test_uneven_labels_are_noted(tiny_model, tmp_path):
    model = str(tiny_model("bert"))
    (tmp_path / "a.csv").write_text("text,label\n" + "x,common\n" * 40 + "y,rare\n" * 4 + "z,other\n" * 20)

    def notes(**options: Any) -> list[str]:
        task = TextClassification(str(tmp_path / "a.csv"), validation_fraction=0.25, **options)
        return [note for note in task.load_data(0, model, False, False).notes if "balance" in note]

    (note,) = notes()
    assert note.startswith("train: 30 rows have 'common', 3 have 'rare'; --task.balance weights (or sampler)")
    assert notes(balance="weights") == notes(logit_adjustment=1.0) == []
    (tmp_path / "a.csv").write_text("text,label\n" + "x,common\n" * 39 + "y,rare\n" * 5)
    assert notes() == []  # 29 to 4


def test_uneven_sets_of_labels_are_noted(tiny_model):
    rows = Dataset.from_dict({"text": ["x"] * 60, "labels": [["a"]] * 44 + [["a", "b"]] * 4 + [[]] * 12})
    found = TextClassification({"train": rows, "validation": rows}).load_data(0, "m", False, False).notes
    assert any(note.startswith("train: 48 rows have 'a', 4 have 'b'; --task.balance") for note in found)
