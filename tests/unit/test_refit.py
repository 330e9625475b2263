"""The second pass: the same phases for as many epochs, on all rows."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from quick_runs import quick, states
from safetensors.torch import load_file
from zoo import MELS

from hftl import HftlError, Phase, Predictor, Recipe, Trainer, tasks
from hftl.errors import NotStoredError
from hftl.features import source
from hftl.recipe.recipe import Store, read_yaml
from hftl.recipe.schedule import factor
from hftl.records import Evaluated, FeaturesReady, HeadSolved, PhaseEnded, PhaseStarted, Record, RunEnded, StepTaken
from hftl.tasks import AudioClassification, ImageClassification, QuestionAnswering, TextClassification
from hftl.tasks.audio_classification import Mel

TinyModel = Callable[[str], Path]
HEAD_THEN_ALL = (Phase("head", 2, 1e-2), Phase("all", 2, 1e-3))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.report.curves.draw", lambda folder: None)  # slow, and none of this file's business


@dataclass(frozen=True)
class Ran:
    trainer: Trainer[Any]
    records: list[Record]
    at_start: list[dict[str, torch.Tensor]]
    """The model as each phase began with it."""

    def of(self, kind: Any, refit: bool | None = None) -> list[Any]:
        """Records of a kind: all, or those of the first or of the second pass."""
        first = len(self.trainer.recipe.phases)
        found = [record for record in self.records if isinstance(record, kind)]
        return found if refit is None else [record for record in found if (record.phase >= first) == refit]

    @property
    def ended(self) -> RunEnded:
        ended = self.records[-1]
        assert isinstance(ended, RunEnded)
        return ended

    @property
    def digest(self) -> str:
        found: str = self.of(PhaseEnded)[-1].digest
        return found

    @property
    def folder(self) -> Path:
        return Path(self.ended.folder)

    @property
    def saved(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model" / "model.safetensors")

    @property
    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text())
        return found


def run(recipe: Recipe[Any]) -> Ran:
    ran = Ran(Trainer(recipe), [], [])
    for record in ran.trainer.run():
        ran.records.append(record)
        if isinstance(record, PhaseStarted):
            ran.at_start.append(states(ran.trainer))
    return ran


@pytest.fixture
def fit(tiny_model: TinyModel, reviews: Path, tmp_path: Path) -> Callable[..., Ran]:
    """Runs on the reviews, which have no validation split: of 60 rows 12 are cut."""

    def made(name: str, family: str = "bert", **settings: Any) -> Ran:
        return run(quick(TextClassification(str(reviews)), tiny_model(family), tmp_path / name, **settings))

    return made


@pytest.fixture(scope="module")
def whole(tiny_model: TinyModel, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run of ``HEAD_THEN_ALL``, for all who only look at it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return run(quick(TextClassification(str(reviews)), tiny_model("bert"), folder, phases=HEAD_THEN_ALL))


def scored(monkeypatch: pytest.MonkeyPatch, *accuracies: float) -> None:
    """Let evaluations have these scores, on as many rows as it takes for the best to be kept."""
    made_up = iter(accuracies)
    monkeypatch.setattr(TextClassification, "score", lambda *_: {"accuracy": next(made_up), "loss": 1.0})
    monkeypatch.setattr(TextClassification, "correctness", lambda *_: np.ones(12))


# -- on which rows ---------------------------------------------------------------------------------------------------


def test_where_validation_was_cut_the_saved_model_is_trained_on_all_rows(whole: Ran, reviews: Path) -> None:
    ran = whole
    for refit, rows in ((False, 48), (True, 60)):
        assert {started.steps_per_epoch for started in ran.of(PhaseStarted, refit)} == {math.ceil(rows / 8)}
        assert [started.refit for started in ran.of(PhaseStarted, refit)] == [refit, refit]
        epochs = {(step.phase, step.epoch) for step in ran.of(StepTaken, refit)}
        assert sum(step.rows for step in ran.of(StepTaken, refit)) == rows * len(epochs)
    lines = [line.rpartition(",")[0] for line in reviews.read_text().splitlines()[1:]]
    assert sorted(ran.trainer.ready.splits.train["text"]) == sorted(lines)
    assert ran.ended.refit
    last = ran.of(PhaseEnded)[-1]
    assert last.refit
    trained = ran.trainer.model.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in ran.saved.items())


def test_a_head_that_is_solved_again_is_that_of_all_rows(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    """Beside a run whose train split has all of these rows to begin with."""
    shutil.copytree(photos, tmp_path / "both")
    for path in (photos / "validation").rglob("*.png"):
        shutil.copy(path, tmp_path / "both" / "train" / path.parent.name / f"validation-{path.name}")

    def fit(name: str, data: Path, refit: bool, penalty: float = 0.1) -> Ran:
        phases = (Phase("head", penalty=penalty),)
        task = ImageClassification(str(data))
        return run(quick(task, tiny_model("vit"), tmp_path / name, phases=phases, refit=refit))

    again, part = fit("again", photos, True), fit("part", photos, False)
    # It stands beside the mean over the rows, and there are more of them.
    whole = fit("whole", tmp_path / "both", False, penalty=0.1 * 24 / 33)
    assert [solved.rows for solved in again.of(HeadSolved)] == [24, 33]
    assert [solved.rows for solved in whole.of(HeadSolved)] == [33]
    assert not again.of(StepTaken)
    for name in ("classifier.weight", "classifier.bias"):
        torch.testing.assert_close(again.saved[name], whole.saved[name], rtol=1e-2, atol=1e-3)
        assert not torch.allclose(again.saved[name], part.saved[name], rtol=1e-2, atol=1e-3)


def test_on_stored_features_it_is_the_same_as_without(fit: Callable[..., Ran]) -> None:
    """The rows of two stores, one after the other: nothing is computed again for them."""
    phases = (Phase("head", 2, 1e-2),)
    stored, plain = fit("a", phases=phases), fit("b", phases=phases, store=Store(use=False))
    ready = stored.of(FeaturesReady)
    assert len(ready) == 2
    assert ready[1].computed == []
    assert not plain.of(FeaturesReady)
    assert [(step.phase, step.rows) for step in stored.of(StepTaken)] == [
        (step.phase, step.rows) for step in plain.of(StepTaken)
    ]
    for name, tensor in stored.saved.items():
        torch.testing.assert_close(tensor, plain.saved[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("refit", "happens"), [(None, False), (False, False), (True, True)])
def test_where_validation_was_given_only_who_asks_for_it_gets_it(
    refit: bool | None, happens: bool, tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    recipe = quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "a", refit=refit)
    ran = run(replace(recipe, phases=(Phase("head", 1, 1e-2),)))
    assert len(ran.of(PhaseEnded)) == 1 + happens
    assert ran.ended.refit == ran.metrics["best"]["refit"] == happens
    assert yaml.safe_load((ran.folder / "recipe.yaml").read_text())["refit"] == happens
    assert ran.trainer.evaluate("test") == ran.ended.scores["test"] == ran.metrics["test"]


def test_who_turns_it_off_gets_the_model_that_was_validated(whole: Ran, fit: Callable[..., Ran]) -> None:
    on, off = whole, fit("off", phases=HEAD_THEN_ALL, refit=False)
    assert not any(started.refit for started in off.of(PhaseStarted))
    assert [ended.digest for ended in off.of(PhaseEnded)] == [ended.digest for ended in on.of(PhaseEnded, False)]
    assert off.metrics["validation"] == on.metrics["validation"]
    assert off.trainer.evaluate("validation") == off.metrics["validation"]
    assert (on.metrics["best"]["refit"], off.metrics["best"]["refit"]) == (True, False)
    assert not all(torch.equal(tensor, off.saved[name]) for name, tensor in on.saved.items())


# -- the same phases -------------------------------------------------------------------------------------------------


def test_it_begins_with_the_model_that_the_run_began_with(whole: Ran) -> None:
    before, between, after = whole.at_start[:3]
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not all(torch.equal(tensor, between[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("scores", "best", "repeated"),
    [
        ((0.3, 0.9, 0.2, 0.5, 0.4), (0, 1), [(2, 2)]),  # the head's second epoch; all layers add nothing
        ((0.3, 0.6, 0.2, 0.9, 0.4), (1, 0), [(2, 2), (3, 1)]),
        ((0.7, 0.6, 0.2, 0.8, 0.9), (1, 1), [(2, 1), (3, 2)]),
    ],
)
def test_the_chosen_phases_are_repeated_for_the_chosen_epochs(
    scores: tuple[float, ...],
    best: tuple[int, int],
    repeated: list[tuple[int, int]],
    fit: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored(monkeypatch, *scores)
    phases = (Phase("head", 3, 1e-2), Phase("all", 2, 1e-3))
    ran = fit("a", phases=phases)
    assert (ran.ended.best_phase, ran.ended.best_epoch) == best
    steps = ran.of(StepTaken, True)
    assert {(step.phase, step.epoch) for step in steps} == {
        (phase, epoch) for phase, epochs in repeated for epoch in range(epochs)
    }
    lengths = dict(repeated)
    for step in steps:  # the learning rate comes down to the end of what is repeated
        phase = phases[step.phase - 2]
        assert phase.lr is not None
        assert step.lr == pytest.approx(phase.lr * factor(phase, step.step, lengths[step.phase] * math.ceil(60 / 8)))
    for started in ran.of(PhaseStarted, True):
        first = ran.of(PhaseStarted)[started.phase - 2]
        assert (started.unfreeze, started.lr, started.groups) == (first.unfreeze, first.lr, first.groups)


def test_a_solved_head_is_solved_again_and_blocks_train_from_there(fit: Callable[..., Ran]) -> None:
    ran = fit("a", phases=(Phase("head"), Phase("all", 1, 1e-3)))
    assert [(solved.phase, solved.rows) for solved in ran.of(HeadSolved)] == [(0, 48), (2, 60)]
    assert {(step.phase, step.epoch) for step in ran.of(StepTaken)} == {(1, 0), (3, 0)}
    assert [ended.best_epoch for ended in ran.of(PhaseEnded)] == [None, 0, None, 0]


def test_of_a_head_of_two_layers_that_was_best_as_it_was_solved_no_step_is_repeated(
    fit: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.5, 0.9, 0.3, 0.4)  # of rows that were left out, solved, two epochs
    ran = fit("a", "roberta", phases=(Phase("head", 2, 1e-3, solver="lbfgs"),))
    assert (ran.ended.best_phase, ran.ended.best_epoch) == (0, None)
    assert ran.of(StepTaken, False)
    assert not ran.of(StepTaken, True)
    assert len(ran.of(HeadSolved, True)) == 1


def test_what_is_frozen_stays_bit_for_bit(
    fit: Callable[..., Ran], tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.5, 0.6, 0.9)  # of rows that were left out, solved, the epoch
    checkpoint = load_file(tiny_model("bert") / "model.safetensors")
    ran = fit("a", phases=(Phase("head"), Phase(1, 1, 1e-2)))
    saved = {name.removeprefix("bert."): tensor for name, tensor in ran.saved.items()}
    moved = {name for name, tensor in checkpoint.items() if not torch.equal(tensor, saved[name])}
    assert {name for name in checkpoint if name.startswith("encoder.layer.3.")} <= moved
    assert {name for name in moved if not name.startswith(("encoder.layer.3.", "pooler."))} == set()
    assert ran.of(PhaseEnded)[-1].frozen_tensors == ran.of(PhaseEnded)[1].frozen_tensors > 0


def test_patience_ends_the_first_pass_alone(fit: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch, 0.5, 0.6, 0.7, 0.3)
    ran = fit("a", phases=(Phase("head", 9, 1e-2, patience=1),))
    assert {step.epoch for step in ran.of(StepTaken, False)} == {0, 1, 2, 3}
    assert {step.epoch for step in ran.of(StepTaken, True)} == {0, 1, 2}
    assert [ended.stopped_early for ended in ran.of(PhaseEnded)] == [True, False]


def test_a_head_whose_features_do_not_fit_any_more_is_trained_in_steps(
    fit: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pass has solved it: there is no epoch that was best."""
    plan_of = source.plan_of

    def full(ready: Any, *arguments: Any) -> Any:
        if ready.first:
            raise NotStoredError("there is no room")
        return plan_of(ready, *arguments)

    monkeypatch.setattr(source, "plan_of", full)
    ran = fit("a", phases=(Phase("head", 2, 1e-2, solver="lbfgs"),))
    assert not ran.of(StepTaken, False)
    assert {step.epoch for step in ran.of(StepTaken, True)} == {0, 1}
    assert not torch.equal(ran.saved["classifier.weight"], ran.at_start[0]["classifier.weight"])


# -- what is said and kept -------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_rows_that_it_had_not_seen(whole: Ran) -> None:
    ran = whole
    assert not [record for record in ran.of(Evaluated) if (record.phase or 0) >= 2]
    chosen = [
        record
        for record in ran.of(Evaluated)
        if (record.phase, record.epoch) == (ran.ended.best_phase, ran.ended.best_epoch)
    ]
    (best,) = chosen
    assert ran.metrics["validation"] == ran.ended.scores["validation"] == best.scores
    assert ran.metrics["best"] == {
        "phase": best.phase,
        "epoch": best.epoch,
        "refit": True,
        "error": ran.ended.error,
    }
    assert [(phase["phase"], phase["refit"], bool(phase["scores"])) for phase in ran.metrics["phases"]] == [
        (number, number >= 2, number < 2) for number in range(2 + (ran.ended.best_phase or 0) + 1)
    ]


def test_a_repeated_run_and_one_from_its_own_recipe_are_the_same(fit: Callable[..., Ran], tmp_path: Path) -> None:
    first = fit("a", phases=(Phase("head"), Phase("all", 1, 1e-3)))
    again = fit("b", phases=(Phase("head"), Phase("all", 1, 1e-3)))
    declared = read_yaml(first.folder / "recipe.yaml", tasks.find)
    solved, again_solved = first.of(HeadSolved)
    assert [phase.penalty for phase in declared.phases] == [solved.penalty, None]
    assert declared.phases[0].temperature == solved.temperature == again_solved.temperature
    assert again_solved.penalty == pytest.approx(solved.penalty * 48 / 60)
    third = run(replace(declared, output_dir=str(tmp_path / "c")))
    digests = [[ended.digest for ended in ran.of(PhaseEnded)] for ran in (first, again, third)]
    assert len(digests[0]) == 4
    assert digests[0] == digests[1] == digests[2]
    assert all(torch.equal(tensor, third.saved[name]) for name, tensor in first.saved.items())


def test_what_was_kept_for_it_goes_when_the_run_ends(whole: Ran) -> None:
    assert not (whole.folder / "checkpoints").exists()
    assert (whole.folder / "model").is_dir()


# -- every kind of run -----------------------------------------------------------------------------------------------


def test_without_phases_there_is_nothing_to_repeat(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(HftlError, match="refit: there are no phases"):
        quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "a", phases=(), refit=True)


def test_adapters_of_the_second_pass_are_what_is_kept(fit: Callable[..., Ran]) -> None:
    phases = (Phase("head", 1, 1e-2), Phase("all", 2, 1e-2, train="lora"))
    on, off = fit("on", phases=phases), fit("off", phases=phases, refit=False)
    assert (on.ended.best_phase, on.ended.saved, off.ended.saved) == (1, "adapter", "adapter")
    kept, first = (load_file(ran.folder / "adapter" / "adapter_model.safetensors") for ran in (on, off))
    assert kept.keys() == first.keys()
    assert not all(torch.equal(tensor, first[name]) for name, tensor in kept.items())
    rows = ["good film", "awful plot and a bad actor", "the scene was great"]
    batch = on.trainer.ready.processor(rows, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = torch.softmax(on.trainer.model.eval()(**batch).logits, dim=1)
    answers = Predictor(on.folder)(rows)
    labels = on.trainer.ready.splits.labels
    found = torch.tensor([[answer["scores"][label] for label in labels] for answer in answers])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["questions", "sounds", "views", "any number of labels", "sampler"])
def test_every_kind_of_rows_can_be_trained_on_once_more(
    kind: str, tiny_model: TinyModel, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    family, head, more = "bert", Phase("head"), {}
    if kind == "questions":
        head = Phase("head", 1, 1e-2)
        task: Any = QuestionAnswering(str(request.getfixturevalue("squad")), max_length=48)
    elif kind == "sounds":
        family = "mel-resnet"
        data = str(request.getfixturevalue("calls"))
        task = AudioClassification(data, seconds=0.1, mel=Mel(**MELS[family][1]), balance="weights")
    elif kind == "views":
        family, more = "vit", {"store": Store(views=2)}
        task = ImageClassification(str(request.getfixturevalue("photos")))
    else:
        lines = ["text,label"]
        for line in request.getfixturevalue("reviews").read_text().splitlines()[1:]:
            text = line.rpartition(",")[0]
            lines.append(f"{text},{'|'.join(tag for tag in ('good', 'awful', 'film') if tag in text.split())}")
        (tmp_path / "tagged.csv").write_text("\n".join(lines) + "\n")
        balance: Any = "sampler" if kind == "sampler" else "none"
        task = TextClassification(str(tmp_path / "tagged.csv"), label_separator="|", balance=balance)
    ran = run(quick(task, tiny_model(family), tmp_path / "run", phases=(head,), refit=True, **more))
    assert ran.ended.refit
    first, second = (len(ready.examples("train")) for ready in (ran.trainer.ready.first, ran.trainer.ready))
    assert second == first + len(ran.trainer.ready.first.examples("validation"))
    solved, views = [record.rows for record in ran.of(HeadSolved)], 2 if kind == "views" else 1
    assert solved == ([] if kind == "questions" else [views * first, views * second])
    assert [ended.refit for ended in ran.of(PhaseEnded)] == [False, True]
    assert all(torch.isfinite(tensor).all() for tensor in ran.saved.values() if tensor.is_floating_point())


@pytest.mark.parametrize("asked", [None, True])
def test_many_rows_are_not_trained_on_again_unless_asked_and_it_is_said(
    asked: bool | None, fit: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hftl.recipe.defaults.MANY_ROWS", 47)
    ran = fit("a", phases=(Phase("head", 1, 1e-2),), refit=asked)
    assert ran.ended.refit == bool(asked)
    said = [note for note in ran.records[0].notes if "not trained once more on all 60 rows" in note]  # type: ignore[union-attr]
    assert len(said) == (asked is None)
