"""The loop: what trains, what stays, what is kept, what lies in the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import IMAGE_FAMILIES, TEXT_FAMILIES
from quick_runs import quick, states
from safetensors.torch import load_file

from hftl import HftlError, Phase, Trainer, strategies
from hftl.features import source
from hftl.image.examples import ImageExamples
from hftl.model.layers import digest
from hftl.recipe import defaults
from hftl.records import Evaluated, PhaseEnded, PhaseStarted, Record, RunEnded, RunStarted, StepTaken
from hftl.tasks import ImageClassification, TextClassification

TinyModel = Callable[[str], Path]


def make_up_scores(monkeypatch: pytest.MonkeyPatch, accuracies: list[float], error: float = 0.0) -> None:
    """What evaluations say, one after the other, and the standard error of the difference of any two."""
    made_up = iter(accuracies)
    monkeypatch.setattr(ImageClassification, "score", lambda *_: {"accuracy": next(made_up), "loss": 1.0})
    monkeypatch.setattr("hftl.choice.error_of_difference", lambda *_: error)


@pytest.mark.parametrize("family", [*IMAGE_FAMILIES, *TEXT_FAMILIES])
def test_each_phase_moves_exactly_what_it_declares(
    family: str, tiny_model: TinyModel, photos: Path, reviews: Path, tmp_path: Path
) -> None:
    """Parameters and buffers, bit for bit: what is frozen stays, what is declared moves."""
    task = ImageClassification(str(photos)) if family in IMAGE_FAMILIES else TextClassification(str(reviews))
    phases = (Phase("head", 1, 1e-2), Phase(1, 1, 1e-2, weight_decay=0.5), Phase("all", 1, 1e-2))
    trainer = Trainer(quick(task, tiny_model(family), tmp_path / "run", phases=phases))
    before: dict[str, torch.Tensor] = {}
    for record in trainer.run():
        if isinstance(record, PhaseStarted):
            before = states(trainer)
            unfrozen = trainer.ready.groups.unfrozen(trainer.ready.recipe.phases[record.phase].unfreeze)
            group_of = trainer.ready.groups.group_of_parameter()
            declared = {name for name, group in group_of.items() if group in unfrozen}
        if isinstance(record, PhaseEnded):
            after = states(trainer)
            moved = {name for name in before if not torch.equal(before[name], after[name])}
            with_gradient = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
            assert with_gradient == declared
            assert moved <= declared, "something frozen moved"
            # A weight without gradient (dead ReLUs of a tiny random network) may stay; whole groups must not.
            assert {group_of[name] for name in moved} == {group_of[name] for name in declared}
    passes = 2 if family in TEXT_FAMILIES else 1  # the reviews have no validation split: the second is on all rows
    ended = json.loads((tmp_path / "run" / "metrics.json").read_text())["phases"]
    assert [(phase["phase"], phase["refit"]) for phase in ended] == [(n, n > 2) for n in range(3 * passes)]


def test_two_runs_are_bit_equal_and_a_second_seed_is_not(tiny_model: TinyModel, reviews: Path, tmp_path: Path) -> None:
    def fit(name: str, seed: int) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        recipe = quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / name, seed=seed)
        Trainer(recipe).fit(display=False)
        history = [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        timely = ("seconds", "folder", "computed")
        timeless = [{k: v for k, v in line.items() if k not in timely} for line in history]
        return load_file(tmp_path / name / "model" / "model.safetensors"), timeless

    first, history = fit("a", 0)
    second, same_history = fit("b", 0)
    other, _ = fit("c", 1)
    assert history == same_history
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("accumulation", [2, 3, 8])
def test_accumulation_changes_nothing_but_the_order_of_sums(
    accumulation: int, tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    """Also where the last step is smaller than the rest and pieces are uneven."""

    def fit(name: str, pieces: int) -> list[float]:
        task = TextClassification(str(reviews), label_smoothing=0.1)
        phases = (Phase("all", 2, 1e-3),)
        settings = {"phases": phases, "accumulation": pieces, "head_dropout": 0.0, "refit": False}
        recipe = quick(task, tiny_model("roberta"), tmp_path / name, **settings)
        trainer = Trainer(recipe)
        losses = []
        for record in trainer.run():
            if isinstance(record, PhaseStarted):  # what dropout draws depends on the shape of the batch
                for part in trainer.model.modules():
                    if isinstance(part, torch.nn.Dropout):
                        part.p = 0.0
            if isinstance(record, StepTaken) and record.loss is not None:
                losses.append(record.loss)
        return losses

    whole, pieces = fit("whole", 1), fit("pieces", accumulation)
    assert len(whole) == 12
    np.testing.assert_allclose(whole, pieces, rtol=2e-4)


def test_random_views_and_mixed_labels_are_for_phases_that_train_blocks(
    tiny_model: TinyModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never for the head alone, nor to validate or test."""
    read: list[tuple[int, bool]] = []
    get = ImageExamples.__getitems__

    def spy(examples: ImageExamples, rows: list[int]) -> Any:
        batch = get(examples, rows)
        if batch.targets is not None and len(rows) > 3:  # not those on trial
            read.append((len(examples), batch.targets.is_floating_point()))
        return batch

    monkeypatch.setattr(ImageExamples, "__getitems__", spy)
    task = ImageClassification(str(photos), mixup=0.2, cutmix=1.0, rand_augment=2, erasing=0.5)
    phases = (Phase("head", 1, 1e-2), Phase("neck", 1, 1e-2), Phase(1, 2, 1e-2), Phase("all", 1, 1e-2))
    recipe = quick(task, tiny_model("vit"), tmp_path / "run", phases=phases)
    losses = [record.loss for record in Trainer(recipe).run() if isinstance(record, StepTaken)]
    assert len(losses) == 15
    assert np.isfinite(np.array(losses, dtype=float)).all()
    picture, *to_train = [mixed for rows, mixed in read if rows == 24]
    assert picture
    assert to_train[-9:] == [True] * 9
    assert not any(to_train[:-9])  # features are of plain images
    assert not any(mixed for rows, mixed in read if rows == 9)


def test_the_best_epoch_is_restored_and_the_best_phase_is_saved(
    tiny_model: TinyModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With scores made up: phase 0 is best at epoch 1, phase 1 never gets there."""
    make_up_scores(monkeypatch, [0.3, 0.8, 0.5, 0.7, 0.6, 0.0])
    phases = (Phase("head", 3, 1e-2), Phase("all", 2, 1e-2, head_scale=1.0))
    trainer = Trainer(quick(ImageClassification(str(photos)), tiny_model("resnet"), tmp_path / "run", phases=phases))
    at_epoch: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    ended: list[PhaseEnded] = []
    for record in trainer.run():
        if isinstance(record, Evaluated) and record.split == "validation":
            at_epoch[record.phase or 0, record.epoch or 0] = states(trainer)
        if isinstance(record, PhaseStarted) and record.phase == 1:
            start = states(trainer)
            assert all(torch.equal(start[name], at_epoch[0, 1][name]) for name in start)
        if isinstance(record, PhaseEnded):
            ended.append(record)
    assert [(phase.best_epoch, phase.scores["accuracy"]) for phase in ended] == [(1, 0.8), (0, 0.7)]
    assert isinstance(record, RunEnded)
    assert (record.best_phase, record.best_epoch) == (0, 1)
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], at_epoch[0, 1][name]) for name in saved)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_is_later_is_kept_unless_it_is_worse_by_more_than_the_rows_can_tell(
    tiny_model: TinyModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a phase the later epoch, of a run the later phase."""
    make_up_scores(monkeypatch, [0.8, 0.5, 0.75, 0.7, 0.78, 0.73, 0.0], error=0.04)
    phases = (Phase("head", 4, 1e-2), Phase("all", 2, 1e-2))
    recipe = quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=phases)
    records = list(Trainer(recipe).run())
    kept = [record.best for record in records if isinstance(record, Evaluated) and record.split == "validation"]
    assert kept == [True, False, True, False, True, True]
    ended = [record for record in records if isinstance(record, PhaseEnded)]
    assert [(phase.best_epoch, phase.scores["accuracy"]) for phase in ended] == [(2, 0.75), (1, 0.73)]
    assert isinstance(records[-1], RunEnded)
    assert (records[-1].best_phase, records[-1].best_epoch) == (1, 1)
    assert records[-1].scores["validation"]["accuracy"] == 0.73


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (None, 6)])
def test_early_stopping_waits_as_long_as_it_is_told(
    patience: int | None,
    epochs: int,
    tiny_model: TinyModel,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_up_scores(monkeypatch, [0.3, 0.8, 0.5, 0.7, 0.6, 0.4, 0.0])
    phases = (Phase("head", 6, 1e-2, patience=patience),)
    trainer = Trainer(quick(ImageClassification(str(photos)), tiny_model("resnet"), tmp_path / "run", phases=phases))
    records = list(trainer.run())
    assert sum(isinstance(record, Evaluated) and record.split == "validation" for record in records) == epochs
    (ended,) = (record for record in records if isinstance(record, PhaseEnded))
    assert ended.stopped_early == (epochs < 6)


def test_batch_norm_keeps_its_statistics_unless_told_otherwise(
    tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    def moved_buffers(name: str, batch_norm: Any) -> set[str]:
        phases = (Phase(2, 1, 1e-3, batch_norm=batch_norm),)
        trainer = Trainer(quick(ImageClassification(str(photos)), tiny_model("resnet"), tmp_path / name, phases=phases))
        before: dict[str, torch.Tensor] = {}
        for record in trainer.run():
            if isinstance(record, PhaseStarted):
                before = {n: b.clone() for n, b in trainer.model.named_buffers()}
        return {n for n, b in trainer.model.named_buffers() if not torch.equal(before[n], b)}

    assert moved_buffers("keep", "keep") == set()
    updated = moved_buffers("update", "update")
    assert updated
    assert all("stages.2" in name or "stages.3" in name for name in updated), "a frozen BatchNorm moved"


def test_a_single_row_is_no_statistics(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    """Of one value a channel BatchNorm cannot compute any: that step has the running ones, and leaves them."""
    phases = (Phase("all", 1, 1e-3, batch_norm="update"),)
    task = ImageClassification(str(photos), max_rows=17)
    trainer = Trainer(quick(task, tiny_model("mobilenet_v1"), tmp_path / "run", phases=phases, batch_size=8))
    rows, seen = [], []
    for record in trainer.run():
        if isinstance(record, StepTaken):
            rows.append(record.rows)
            seen.append(digest(dict(trainer.model.named_buffers())))
    assert rows == [8, 8, 1]
    assert seen[0] != seen[1] == seen[2]


def test_a_head_whose_features_find_no_room_in_the_second_pass_is_trained_in_steps(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more of them than in the first, in which they were solved."""

    def open_source(ready: Any, *rest: Any) -> Any:
        store = replace(ready.recipe.store, use=ready.first is None, dir=str(tmp_path / "store"))
        return source.open_source(replace(ready, recipe=replace(ready.recipe, store=store)), *rest)

    monkeypatch.setattr("hftl.trainer.open_source", open_source)
    phases = (Phase("head"),)
    trainer = Trainer(quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / "run", phases=phases))
    begun: dict[str, torch.Tensor] = {}
    ended: list[PhaseEnded] = []
    for record in trainer.run():
        if isinstance(record, PhaseStarted):
            begun = states(trainer)
        if isinstance(record, PhaseEnded):
            ended.append(record)
    assert [(phase.refit, phase.best_epoch) for phase in ended] == [(False, None), (True, defaults.HEAD_EPOCHS - 1)]
    moved = {name for name, tensor in states(trainer).items() if not torch.equal(begun[name], tensor)}
    assert moved == set(trainer.ready.groups.parameters["head"])


def test_a_killed_run_leaves_a_whole_checkpoint(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    phases = (Phase("head", 1, 1e-2), Phase("all", 2, 1e-3))
    trainer = Trainer(quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=phases))
    folder = tmp_path / "run" / "checkpoints" / "last"
    for record in trainer.run():
        if isinstance(record, Evaluated) and record.phase == 0 and record.split == "validation":
            assert set(load_file(folder / "start.safetensors")) == set(trainer.model.state_dict())
            assert set(load_file(folder / "model.safetensors")) == {"classifier.weight", "classifier.bias"}
        if isinstance(record, StepTaken) and (record.phase, record.epoch) == (1, 1):
            break
    state = json.loads((folder / "state.json").read_text())
    assert state["progress"] == {"phase": 1, "epoch": 1, "step": 0}
    assert [state["choice"][which]["phase"] for which in ("top", "kept")] == [0, 0]
    assert [state["phase_choice"][which]["phase"] for which in ("top", "kept")] == [1, 1]
    assert state["phase_choice"]["waiting"] == 0
    assert [phase["phase"] for phase in state["phases"]] == [0]
    assert set(state["random"]) == {"python", "numpy"}
    assert set(load_file(folder / "model.safetensors")) == set(trainer.model.state_dict())
    begun = load_file(folder / "start.safetensors")
    assert not torch.equal(begun["classifier.weight"], trainer.model.state_dict()["classifier.weight"])
    moments = load_file(folder / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in moments} == {name for name, _ in trainer.model.named_parameters()}
    assert not list((tmp_path / "run").rglob("*.part"))
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_the_run_folder_holds_everything(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    ended = Trainer(
        quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=strategies.gradual())
    ).fit(display=False)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "README.md",
        "curves.png",
        "environment.json",
        "history.jsonl",
        "metrics.json",
        "model",
        "recipe.yaml",
        "views.png",
    }
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"] == ended.scores["test"]
    assert [phase["unfreeze"] for phase in metrics["phases"]] == ["head", "0.25", "0.5", "all"]
    kinds = [json.loads(line)["record"] for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert kinds[0] == "RunStarted"
    assert kinds[-1] == "RunEnded"


def test_a_recipe_read_from_the_run_folder_gives_the_same_run(
    tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    from hftl import tasks
    from hftl.recipe.recipe import read_yaml

    Trainer(quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "a")).fit(display=False)
    again = replace(read_yaml(tmp_path / "a" / "recipe.yaml", tasks.find), output_dir=str(tmp_path / "b"))
    Trainer(again).fit(display=False)
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_objects_can_be_handed_in_and_are_recorded_by_fingerprint(tiny_model: TinyModel, tmp_path: Path) -> None:
    from datasets import Dataset

    rows = Dataset.from_dict({"text": [f"{w} film" for w in ("good", "bad")] * 20, "label": ["pos", "neg"] * 20})
    trainer = Trainer(quick(TextClassification(rows), tiny_model("bert"), tmp_path / "run", refit=False))
    trainer.fit(display=False)
    assert rows._fingerprint in (tmp_path / "run" / "recipe.yaml").read_text()
    assert trainer.evaluate("validation") == json.loads((tmp_path / "run" / "metrics.json").read_text())["validation"]


def test_bad_rows_are_listed_in_the_run_folder(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(photos, tmp_path / "photos")
    whole = (tmp_path / "photos" / "train" / "red" / "0.png").read_bytes()
    (tmp_path / "photos" / "train" / "red" / "0.png").write_bytes(whole[: len(whole) // 2])
    task = ImageClassification(str(tmp_path / "photos"))
    records = list(Trainer(quick(task, tiny_model("vit"), tmp_path / "run")).run())
    listed = (tmp_path / "run" / "bad_rows.csv").read_text().splitlines()
    assert len(listed) == 2
    assert "0.png" in listed[1]
    assert isinstance(records[0], RunStarted)
    assert records[0].rows["train"] == 23
    with pytest.raises(HftlError, match=r"0\.png"):
        Trainer(
            quick(ImageClassification(str(tmp_path / "photos"), bad_rows="error"), tiny_model("vit"), tmp_path / "x")
        ).fit()
    assert not (tmp_path / "x").exists(), "nothing is written before the data are known to be good"


class TestPretrained:
    """The strategy without training."""

    def test_scores_the_models_own_head_by_the_names_of_labels(
        self, tiny_model: TinyModel, photos: Path, tmp_path: Path
    ) -> None:
        """The head of a finished run, its classes in another order than the data's, scores as it did there."""
        first = Trainer(quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "a")).fit(display=False)
        config = json.loads((tmp_path / "a" / "model" / "config.json").read_text())
        weights = tmp_path / "a" / "model" / "model.safetensors"
        order = [2, 0, 1]
        tensors = load_file(weights)
        for name in ("classifier.weight", "classifier.bias"):
            tensors[name] = tensors[name][order].contiguous()
        from safetensors.torch import save_file

        save_file(tensors, weights, metadata={"format": "pt"})
        names = [config["id2label"][str(index)].upper() for index in order]
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["label2id"] = {name: index for index, name in enumerate(names)}
        (tmp_path / "a" / "model" / "config.json").write_text(json.dumps(config))
        label_map = {name.upper(): name for name in ("red", "green", "blue")}
        task = ImageClassification(str(photos), label_map=label_map)
        recipe = quick(task, tmp_path / "a" / "model", tmp_path / "b", phases=strategies.pretrained())
        again = Trainer(recipe).fit(display=False).scores
        for split, scores in first.scores.items():
            assert again[split] == pytest.approx(scores, abs=1e-9)

    def test_wants_the_labels_to_match(self, tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
        recipe = quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=())
        with pytest.raises(HftlError, match=r"'blue'.*'LABEL_0'") as caught:
            Trainer(recipe).fit()
        assert "\n" not in str(caught.value)


def test_of_equal_scores_the_lowest_loss_is_best(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    phases = (Phase("head", 4, 1e-6, warmup=0.0, schedule="constant"),)  # too slow to change an answer
    records: list[Record] = []
    recipe = quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=phases)
    ended = Trainer(recipe).fit(records.append, display=False)
    epochs = [record for record in records if isinstance(record, Evaluated) and record.split == "validation"]
    assert len({record.scores["accuracy"] for record in epochs}) == 1
    losses = [record.scores["loss"] for record in epochs]
    assert losses.index(min(losses)) > 0
    assert ended.best_epoch == losses.index(min(losses))


class TestErrors:
    """One line, naming the thing and the mend; nothing lost."""

    def test_nan_stops_the_run(self, tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
        phases = (Phase("all", 2, 1e30, warmup=0.0, schedule="constant"),)
        task = ImageClassification(str(photos))
        with pytest.raises(HftlError, match=r"the loss is .* lower the learning rate"):
            Trainer(quick(task, tiny_model("vit"), tmp_path / "run", phases=phases, clip_norm=None)).fit(display=False)

    def test_a_folder_that_is_not_empty_is_refused(self, tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.txt").write_text("mine")
        with pytest.raises(HftlError, match="not empty"):
            Trainer(quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run")).fit()
        assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"

    def test_an_unknown_score_to_choose_by(self, tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
        recipe = quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", best_by="acuracy")
        with pytest.raises(HftlError, match=r"acuracy.*accuracy, macro_f1, loss"):
            Trainer(recipe).fit()
        assert not (tmp_path / "run").exists(), "or the mended command would be refused"

    def test_more_blocks_than_there_are(self, tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
        recipe = quick(
            ImageClassification(str(photos)),
            tiny_model("vit"),
            tmp_path / "run",
            phases=(Phase("head", 1), Phase(9, 1)),
        )
        with pytest.raises(HftlError, match="9 blocks of a model that has 4"):
            Trainer(recipe).fit()
        assert not (tmp_path / "run").exists()

    def test_a_model_that_does_not_take_the_images(self, tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
        task = ImageClassification(str(photos), image_size=48)
        with pytest.raises(HftlError, match=r"does not take .*48") as caught:
            Trainer(quick(task, tiny_model("vit"), tmp_path / "run")).fit()
        assert "\n" not in str(caught.value)

    def test_evaluate_before_fit(self, tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
        with pytest.raises(HftlError, match=r"fit\(\)"):
            Trainer(quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run")).evaluate()


def test_who_reads_the_records_computes_as_ever(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    """That an evaluation needs no gradient does not leak out of the stream."""
    recipe = quick(
        ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=(Phase("head", 1, 1e-2),)
    )
    for _ in Trainer(recipe).run():
        assert torch.is_grad_enabled()
        assert torch.is_grad_enabled()


def test_records_arrive_in_order(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    phases = (Phase("head", 2, 1e-2), Phase("all", 1, 1e-3))
    kinds: list[type[Record]] = []
    for record in Trainer(
        quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=phases)
    ).run():
        if not kinds or kinds[-1] is not type(record):
            kinds.append(type(record))
    names = [kind.__name__ for kind in kinds if not kind.__name__.endswith("Progress")]
    epoch = ["StepTaken", "Evaluated"]
    assert names == [
        "RunStarted",
        "PhaseStarted",
        "FeaturesReady",
        *epoch,
        *epoch,
        "PhaseEnded",
        "PhaseStarted",
        *epoch,
        "PhaseEnded",
        "Evaluated",
        "RunEnded",
    ]


def test_a_score_that_is_no_number_is_never_the_best(
    tiny_model: TinyModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_up_scores(monkeypatch, [float("nan"), 0.2, 0.1, 0.0])
    phases = (Phase("head", 3, 1e-2),)
    ended = Trainer(quick(ImageClassification(str(photos)), tiny_model("resnet"), tmp_path / "run", phases=phases)).fit(
        display=False
    )
    assert (ended.best_epoch, ended.scores["validation"]["accuracy"]) == (1, 0.2)


def test_a_random_neck_is_trained_or_spoken_of(tiny_model: TinyModel, reviews: Path, tmp_path: Path) -> None:
    """A BERT saved without its pooler."""
    import transformers

    folder = tmp_path / "without_pooler"
    transformers.BertModel.from_pretrained(tiny_model("bert"), add_pooling_layer=False).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_model("bert")).save_pretrained(folder)

    def begin(name: str, **settings: Any) -> tuple[RunStarted, PhaseStarted]:
        records = Trainer(quick(TextClassification(str(reviews)), folder, tmp_path / name, **settings)).run()
        started, phase = next(records), next(records)
        assert isinstance(started, RunStarted)
        assert isinstance(phase, PhaseStarted)
        return started, phase

    started, phase = begin("auto")
    assert phase.unfreeze == "neck"
    assert not any("random" in note for note in started.notes)
    started, phase = begin("head", phases=(Phase("head", 1),))
    assert phase.unfreeze == "head"
    assert any("phase 0" in note and "random" in note for note in started.notes)
