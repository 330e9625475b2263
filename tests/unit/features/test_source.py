"""Runs on stored features beside runs that compute everything: the same but for rounding, or not stored."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import quick_runs
import torch
from stored_runs import Ran, assert_bit_equal, assert_close, run
from torch import nn
from zoo import IMAGE

import hftl
from hftl import Phase, Predictor, Recipe, strategies
from hftl.features import store
from hftl.features.examples import StoredExamples
from hftl.records import HeadSolved
from hftl.tasks import ImageClassification, TextClassification

TinyModel = Callable[[str], Path]
HEAD = (Phase("head", 2, 1e-2),)
NECK = (Phase("neck", 2, 1e-2),)
SOLVED = (Phase("head"),)


def quick(task: Any, model: Path, folder: Path, **settings: Any) -> Recipe[Any]:
    """A quick run of a single pass, whatever the data are split into; the second one has tests of its own."""
    return quick_runs.quick(task, model, folder, **{"refit": False, **settings})


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory, reviews: Path) -> Path:
    """The reviews with any number of labels each."""
    path = tmp_path_factory.mktemp("tagged") / "tagged.csv"
    lines = ["text,label"]
    for line in reviews.read_text().splitlines()[1:]:
        text = line.rpartition(",")[0]
        lines.append(f"{text},{'|'.join(tag for tag in ('good', 'awful', 'film') if tag in text.split())}")
    path.write_text("\n".join(lines) + "\n")
    return path


# -- runs on and off -------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    # family, data, options of the task, options of the recipe
    "image": ("vit", "photos", {}, {"phases": HEAD}),
    "text": ("bert", "reviews", {}, {"phases": HEAD}),
    "accumulation": ("resnet", "photos", {}, {"phases": HEAD, "accumulation": 2}),
    "workers": ("bert", "reviews", {}, {"phases": HEAD, "workers": 1}),
    "weights": ("vit", "photos", {"balance": "weights"}, {"phases": HEAD}),
    "sampler": ("bert", "reviews", {"balance": "sampler"}, {"phases": HEAD}),
    "focal": ("vit", "photos", {"loss": "focal", "label_smoothing": 0.1}, {"phases": HEAD}),
    "ema": ("vit", "photos", {}, {"phases": HEAD, "ema": 0.9}),
    "patience": ("bert", "reviews", {}, {"phases": (Phase("head", 9, 0.0, patience=1),)}),
    "multi-label": ("bert", "tagged", {"label_separator": "|"}, {"phases": NECK}),
    "multi-label weights": ("bert", "tagged", {"label_separator": "|", "balance": "weights"}, {"phases": HEAD}),
    "linear-probe": ("convnextv2", "photos", {}, {"phases": strategies.linear_probe(2)}),
    "lp-ft": ("bert", "reviews", {}, {"phases": strategies.lp_ft(2, 1)}),
    "gradual": ("vit", "photos", {}, {"phases": strategies.gradual(1, 1)}),
    "lora": ("vit", "photos", {}, {"phases": strategies.lora(1, 1)}),
    "neck of tokens": ("vit", "photos", {}, {"phases": NECK}),
    "neck of words": ("gpt2", "reviews", {}, {"phases": NECK, "accumulation": 2}),
    "words": ("llama", "reviews", {}, {"phases": HEAD}),
    "neck before a mean of words": ("modernbert", "reviews", {}, {"phases": NECK}),
    "batch norm": ("efficientnet", "photos", {}, {"phases": (Phase("neck", 2, 1e-2, batch_norm="update"),)}),
    "batch norm kept": ("mobilenet_v2", "photos", {}, {"phases": NECK}),
    "rows of one length": ("gpt2", "uneven", {}, {"phases": NECK}),
    "rows of one length, pooled": ("bert", "uneven", {}, {"phases": NECK}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_on_stored_features_is_the_run_without(
    case: str, tiny_model: Callable[[str], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """To rounding: features are computed in other batches than those trained on."""
    family, data, options, settings = CASES[case]
    kind = ImageClassification if family in IMAGE else TextClassification
    task = kind(str(request.getfixturevalue(data)), **options)
    settings = {"eval_batch_size": 16, **settings}

    def once(name: str, use: bool) -> Ran:
        return run(quick(task, tiny_model(family), tmp_path / name, **settings), tmp_path / "stores", use)

    plain, stored = once("plain", False), once("stored", True)
    head_only = [number for number, phase in enumerate(settings["phases"]) if phase.head_only]
    assert (plain.stored, plain.notes, stored.notes) == ([], [], [])
    assert [record.phase for record in stored.stored] == head_only
    assert_close(plain, stored)


# -- what comes after ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "gpt2"])
def test_a_second_run_finds_everything_and_is_the_same_to_the_last_bit(
    family: str, tiny_model: TinyModel, photos: Path, reviews: Path, tmp_path: Path
) -> None:
    task = ImageClassification(str(photos)) if family in IMAGE else TextClassification(str(reviews))

    def once(name: str) -> Ran:
        return run(quick(task, tiny_model(family), tmp_path / name, phases=HEAD), tmp_path / "stores")

    first, second = once("first"), once("second")
    splits = ["train", "validation", *(["test"] if family in IMAGE else [])]
    assert (first.computed, second.computed) == ([splits], [[]])
    assert_bit_equal(first, second)
    found = store.stores(tmp_path / "stores")
    assert len(found) == len(splits)
    assert sum(each.bytes for each in found) > first.stored[0].bytes > 0  # targets and positions on top


def test_after_the_run_the_model_itself_gives_the_scores_of_the_run(
    tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    done = run(quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=HEAD), tmp_path)
    assert [name for name, module in done.trainer.model.named_modules() if "forward" in vars(module) and name] == []
    for split in ("validation", "test"):
        assert done.trainer.evaluate(split) == pytest.approx(done.scores[split], abs=1e-5)
        assert Predictor(tmp_path / "run").evaluate(split) == pytest.approx(done.scores[split], abs=1e-5)


def test_a_head_phase_after_a_deep_one_has_stores_of_its_own(
    tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    phases = (Phase("head", 1, 1e-2), Phase(1, 1, 1e-3), Phase("head", 1, 1e-2))
    task = ImageClassification(str(photos))
    plain, stored = (
        run(quick(task, tiny_model("vit"), tmp_path / str(use), phases=phases), tmp_path / "stores", use)
        for use in (False, True)
    )
    assert_close(plain, stored)
    assert stored.computed == [["train", "validation"], ["train", "validation", "test"]]
    assert len(store.stores(tmp_path / "stores")) == 5


def test_views_are_stored_each_with_its_mixed_targets(
    tiny_model: TinyModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ImageClassification(str(photos), mixup=0.2, cutmix=1.0, erasing=0.25, rand_augment=1)
    phases = (Phase("head", 4, 1e-2),)

    def once(name: str, use: bool) -> Ran:
        return run(quick(task, tiny_model("vit"), tmp_path / name, phases=phases), tmp_path / "stores", use, views=3)

    read: list[tuple[str, torch.Tensor]] = []
    batch_of = StoredExamples.__getitems__

    def watched(self: StoredExamples, rows: Any) -> Any:
        batch = batch_of(self, rows)
        read.append((self.digest, batch.targets))
        return batch

    plain = once("plain", False)
    monkeypatch.setattr(StoredExamples, "__getitems__", watched)
    stored = once("stored", True)
    assert_close(plain, stored)
    assert stored.stored[0].views == 3
    assert stored.stored[0].rows == {"train": 72, "validation": 9, "test": 9}
    trained = [(digest, targets) for digest, targets in read if targets.ndim == 2]
    epochs = [digest for digest, _ in trained[::3]]
    assert len({*epochs}) == 3
    assert epochs[3] == epochs[0]  # epoch 3 sees view 0 again
    assert any(0 < share < 1 for _, targets in trained for share in targets.flatten().tolist())
    again = run(
        quick(task, tiny_model("vit"), tmp_path / "two", phases=phases), tmp_path / "stores", views=2
    )  # fewer views are among them
    assert again.computed == [[]]


def test_rows_without_random_views_have_one_store(tiny_model: TinyModel, reviews: Path, tmp_path: Path) -> None:
    task = TextClassification(str(reviews))
    done = run(quick(task, tiny_model("bert"), tmp_path / "run", phases=HEAD), tmp_path / "stores", views=3)
    assert done.stored[0].rows["train"] == 48
    assert any("no random views" in note for note in done.records[0].notes)


# -- where features cannot be stored ---------------------------------------------------------------------------------


def changed(kind: Any, base: str, forward: Any, *modules: tuple[str, Callable[[], Any]]) -> Any:
    """A task whose model has other modules or parameters, and another way from the backbone to the logits."""
    import transformers

    def suited(self: Any, loaded: Any, processor: Any) -> Any:
        loaded = kind._suited(self, loaded, processor)
        torch.manual_seed(0)
        for name, make in modules:
            setattr(loaded.model, name, make())
        loaded.model.__class__ = type(base, (getattr(transformers, base),), {"forward": forward})
        return loaded

    return type(kind.__name__, (kind,), {"_suited": suited})


def hidden(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    return model.bert(input_ids=ids, attention_mask=mask, output_hidden_states=True)


def answer(logits: torch.Tensor) -> Any:
    from transformers.modeling_outputs import SequenceClassifierOutput

    return SequenceClassifierOutput(logits=logits)


def weighted_sum(self: Any, input_ids: Any, attention_mask: Any) -> Any:
    states = torch.stack(hidden(self, input_ids, attention_mask).hidden_states)
    return answer(self.classifier((states.mean(dim=2) * self.shares.softmax(0)[:, None, None]).sum(dim=0)))


def two_outputs(self: Any, input_ids: Any, attention_mask: Any) -> Any:
    found = hidden(self, input_ids, attention_mask)
    return answer(self.classifier(found.pooler_output) + self.other(found.last_hidden_state[:, 0]))


def pooled_alone(self: Any, input_ids: Any, attention_mask: Any) -> Any:
    return answer(self.classifier(hidden(self, input_ids, attention_mask).pooler_output))


def mean_with_padding(self: Any, input_ids: Any, attention_mask: Any) -> Any:
    return answer(self.classifier(hidden(self, input_ids, attention_mask).last_hidden_state).mean(dim=1))


def by_the_batch(self: Any, input_ids: Any, attention_mask: Any) -> Any:
    pooled = hidden(self, input_ids, attention_mask).pooler_output
    return answer(self.classifier((pooled - pooled.mean(dim=0)) / pooled.std(dim=0, correction=0).clamp(min=1e-3)))


class Dropped(nn.Module):
    """Trained, with a dropout that is no module in front of all it calls."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.linear = p, nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spared = torch.rand(len(x), 1) >= self.p if self.training else 1.0
        out: torch.Tensor = self.linear(x * spared)
        return out


REFUSED: dict[str, Any] = {
    "weights of a weighted sum": changed(
        TextClassification,
        "BertForSequenceClassification",
        weighted_sum,
        ("shares", lambda: nn.Parameter(torch.zeros(5))),
    ),
    "two outputs of the backbone": changed(
        TextClassification, "BertForSequenceClassification", two_outputs, ("other", lambda: nn.Linear(16, 2))
    ),
    "a dropout that is no module": changed(
        TextClassification, "BertForSequenceClassification", pooled_alone, ("classifier", lambda: Dropped(0.5))
    ),
    "one so rare that it spares most batches": changed(
        TextClassification, "BertForSequenceClassification", pooled_alone, ("classifier", lambda: Dropped(1e-4))
    ),
    "a mean over the padding": changed(TextClassification, "BertForSequenceClassification", mean_with_padding),
    "statistics of the batch": changed(TextClassification, "BertForSequenceClassification", by_the_batch),
}


def assert_fell_back(stored: Ran, plain: Ran, folder: Path, *words: str) -> None:
    """With one line, without a trace on disk, and to the last bit as without a store."""
    assert stored.stored == []
    assert len(stored.notes) == 1
    assert "\n" not in stored.notes[0]
    assert [word for word in ("features are not stored", *words) if word not in stored.notes[0]] == [], stored.notes
    assert not folder.is_dir() or [*folder.iterdir()] == []
    assert_bit_equal(stored, plain)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_replayed_exactly_is_computed(
    case: str, tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    task = REFUSED[case](str(reviews))
    stored, plain = (
        run(quick(task, tiny_model("bert"), tmp_path / str(use), phases=HEAD[:1]), tmp_path / "stores", use)
        for use in (True, False)
    )
    assert_fell_back(stored, plain, tmp_path / "stores")


def pixels_again(self: Any, pixel_values: Any) -> Any:
    pooled = self.vit(pixel_values=pixel_values).last_hidden_state[:, 0]
    return answer(self.classifier(pooled) + self.colour(pixel_values.mean(dim=(2, 3))))


def test_a_head_that_looks_at_the_inputs_again_is_given_them(
    tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    """Those of the view that the features are of."""
    task = changed(ImageClassification, "ViTForImageClassification", pixels_again, ("colour", lambda: nn.Linear(3, 3)))(
        str(photos)
    )
    stored, plain = (
        run(quick(task, tiny_model("vit"), tmp_path / str(use), phases=HEAD), tmp_path / "stores", use, views=2)
        for use in (True, False)
    )
    assert (len(stored.stored), stored.notes) == (1, [])
    assert_close(stored, plain)


def counted(self: Any, input_ids: Any, attention_mask: Any) -> Any:
    pooled = hidden(self, input_ids, attention_mask).pooler_output
    return answer(self.classifier(pooled) * attention_mask.sum(dim=1, keepdim=True))


def test_a_head_whose_logits_are_scaled_behind_its_linear_layer_is_not_solved(
    tiny_model: TinyModel, uneven: Path, tmp_path: Path
) -> None:
    """A bias of zero, as that of a new head, would not show it."""
    task = changed(TextClassification, "BertForSequenceClassification", counted)(str(uneven))
    done = run(quick(task, tiny_model("bert"), tmp_path / "run", phases=SOLVED), tmp_path / "stores")
    assert not any(isinstance(record, HeadSolved) for record in done.records)
    assert len(done.batches) > 0


def test_where_features_cannot_be_stored_a_head_is_trained_in_steps_and_records_say_both(
    tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    recipe = quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=SOLVED)
    done = run(recipe, tmp_path / "stores", max_gb=1e-6)
    assert ["not stored" in note for note in done.notes] == [True, False]
    assert "the head trains in steps" in done.notes[1]
    off = run(replace(recipe, output_dir=str(tmp_path / "off")), tmp_path / "stores", use=False)
    assert off.notes == []
    assert_bit_equal(done, off)


def test_what_only_another_split_shows_is_seen(tiny_model: TinyModel, uneven: Path, tmp_path: Path) -> None:
    """Of training rows that all have one length, any row's mask would do."""
    task = changed(TextClassification, "BertForSequenceClassification", counted)(str(uneven))
    stored, plain = (
        run(quick(task, tiny_model("bert"), tmp_path / str(use), phases=HEAD), tmp_path / "stores", use)
        for use in (True, False)
    )
    assert_close(stored, plain)


# -- disks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plainly(tiny_model: TinyModel, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The run of the tests below, without any store."""
    folder = tmp_path_factory.mktemp("plainly")
    return run(quick(TextClassification(str(reviews)), tiny_model("bert"), folder / "run", phases=HEAD), folder, False)


def test_a_full_disk_leaves_nothing_behind(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = store.Shard.append, []

    def full(self: store.Shard, arrays: Any) -> None:
        calls.append(arrays)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, arrays)

    monkeypatch.setattr(store.Shard, "append", full)
    recipe = quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / "run", phases=HEAD)
    small = replace(recipe, eval_batch_size=16)  # three batches to store of train
    off = run(replace(small, output_dir=str(tmp_path / "off")), tmp_path / "stores", use=False)
    assert_fell_back(run(small, tmp_path / "stores"), off, tmp_path / "stores", "No space left", "--store.dir")
    assert len(calls) == 3


def test_the_last_step_may_fail_as_well(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plainly: Ran
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(store, "finish", fails)
    recipe = quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / "run", phases=HEAD)
    assert_fell_back(run(recipe, tmp_path / "stores"), plainly, tmp_path / "stores", "quota", "--store.dir")


def test_a_file_in_place_of_the_folder(tiny_model: TinyModel, reviews: Path, tmp_path: Path, plainly: Ran) -> None:
    (tmp_path / "stores").write_text("mine")
    recipe = quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / "run", phases=HEAD)
    assert_fell_back(run(recipe, tmp_path / "stores"), plainly, tmp_path / "stores", "stores", "--store.dir")
    assert (tmp_path / "stores").read_text() == "mine"


def test_what_is_larger_than_allowed(tiny_model: TinyModel, reviews: Path, tmp_path: Path, plainly: Ran) -> None:
    recipe = quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / "run", phases=HEAD)
    stored = run(recipe, tmp_path / "stores", max_gb=1e-6)
    assert_fell_back(stored, plainly, tmp_path / "stores", "kB", "--store.max-gb")


def test_what_was_not_used_for_longest_goes_and_the_record_says_so(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    def once(name: str, size: int) -> Ran:
        task = TextClassification(str(reviews))
        recipe = quick(task, tiny_model("bert"), tmp_path / name, phases=HEAD, eval_batch_size=size)
        return run(recipe, tmp_path / "stores", max_gb=6e-6)

    once("first", 8)
    oldest, newest = sorted(store.stores(tmp_path / "stores"), key=lambda each: -each.bytes)
    os.utime(oldest.path / store.DECLARATION, (1, 1))  # both were used within one tick of the file system's clock
    second = once("second", 4)
    assert second.stored[0].removed == [oldest.path.name]
    left = {each.path.name for each in store.stores(tmp_path / "stores")}
    assert len(left) == 3
    assert newest.path.name in left
    assert once("third", 4).computed == [[]]


KILLED = """
import os, signal, sys
from pathlib import Path
from hftl import Phase, Recipe, Trainer
from hftl.features import store
from hftl.recipe.recipe import Store
from hftl.tasks import TextClassification

data, model, folder, out = sys.argv[1:]
append, calls = store.Shard.append, []
def killed(self, arrays):
    append(self, arrays)
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
store.Shard.append = killed
recipe = Recipe(TextClassification(data), model, (Phase("head", 2, 1e-2),), output_dir=out, batch_size=8,
                eval_batch_size=8, precision="fp32", store=Store(dir=folder))
Trainer(recipe).fit(display=False)
"""


def test_a_run_killed_while_it_fills_leaves_a_draft_that_the_next_one_removes(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    stores, out, recipe_of = tmp_path / "stores", tmp_path / "killed", TextClassification(str(reviews))
    environment = {**os.environ, "PYTHONPATH": str(Path(hftl.__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, str(reviews), str(tiny_model("bert")), str(stores), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    (draft,) = stores.iterdir()
    assert draft.name.startswith(".")
    assert (draft / "features-0000.bin").stat().st_size == 2 * 8 * 16 * 4
    assert store.stores(stores) == []
    recipe = quick(recipe_of, tiny_model("bert"), tmp_path / "next", phases=HEAD, eval_batch_size=8)
    assert run(recipe, stores).computed == [["train", "validation"]]
    assert not draft.exists()
    assert len([*stores.iterdir()]) == len(store.stores(stores)) == 2
    # Two batches too short, and the rest of it as it was: that is none either.
    train = next(found for found in store.stores(stores) if found.declaration.about["split"] == "train")
    os.truncate(train.path / "features-0000.bin", 2 * 8 * 16 * 4)
    again = run(quick(recipe_of, tiny_model("bert"), tmp_path / "more", phases=HEAD, eval_batch_size=8), stores)
    assert again.computed == [["train"]]
