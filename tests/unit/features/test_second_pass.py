"""Solved heads, and the second pass on all rows, on stored features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_runs import quick
from stored_runs import Ran, assert_bit_equal, assert_close, run
from zoo import IMAGE

from hftl import Phase
from hftl.features.source import Source, open_source
from hftl.records import HeadSolved, PhaseEnded, RunStarted, StepTaken
from hftl.tasks import ImageClassification, TextClassification

TinyModel = Callable[[str], Path]
HEAD = (Phase("head", 2, 1e-2),)
NECK = (Phase("neck", 2, 1e-2),)
SOLVED = (Phase("head"),)

# -- on all rows -----------------------------------------------------------------------------------------------------

SECOND: dict[str, tuple[str, str, dict[str, Any]]] = {
    # family, data, options of the recipe
    "rows cut from train": ("bert", "reviews", {"phases": HEAD}),
    "a vector for each token": ("gpt2", "reviews", {"phases": NECK, "accumulation": 2}),
    "a validation split": ("vit", "photos", {"phases": HEAD, "refit": True}),
    "batches of all rows": ("vit", "photos", {"phases": HEAD, "refit": True, "eval_batch_size": 7}),
}


@pytest.mark.parametrize("case", SECOND)
def test_a_second_pass_reads_what_the_first_has_stored_and_is_the_one_without_a_store(
    case: str, tiny_model: TinyModel, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    family, data, settings = SECOND[case]
    kind = ImageClassification if family in IMAGE else TextClassification
    task, splits = kind(str(request.getfixturevalue(data))), ["train", "validation"]

    def once(name: str, use: bool) -> Ran:
        recipe = quick(task, tiny_model(family), tmp_path / name, **{"refit": None, **settings})
        return run(recipe, tmp_path / "stores", use)

    plain, stored = once("plain", False), once("stored", True)
    assert stored.computed == [[*splits, *(["test"] if data == "photos" else [])], []]
    assert (plain.notes, stored.notes, plain.stored) == ([], [], [])
    assert_close(plain, stored)
    first, second = (record.rows for record in stored.stored)
    assert first == second
    seen, every = list(chain(*stored.batches))[2 * first["train"] :], first["train"] + first["validation"]
    epochs = [sorted(seen[start : start + every]) for start in range(0, len(seen), every)]
    assert epochs == [[*range(every)]] * len(epochs) != []


def test_stored_features_of_all_rows_are_those_of_each(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they lie in two stores, one behind the other; also where a row has a vector for each token."""
    sources: list[Source] = []

    def watched(*arguments: Any) -> Any:
        sources.append((yield from open_source(*arguments)))
        return sources[-1]

    monkeypatch.setattr("hftl.trainer.open_source", watched)
    recipe = quick(TextClassification(str(reviews)), tiny_model("gpt2"), tmp_path / "run", phases=NECK, refit=True)
    done = run(recipe, tmp_path / "stores")
    stored, rows = sources[1].train(0), done.trainer.ready.examples("train")
    assert len(stored) == len(rows) == 60
    for order in ([59, 0, 47, 48], [*range(60)]):
        batch, plain = stored.__getitems__(order), rows.__getitems__(order)
        assert torch.equal(batch.targets, plain.targets)
        with torch.no_grad():
            expected = done.trainer.model.eval()(**plain.inputs).logits
            torch.testing.assert_close(sources[1].model.eval()(**batch.inputs).logits, expected)


def test_a_solved_head_is_solved_again_on_all_rows_without_computing_one(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    recipe = quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / "run", phases=SOLVED, refit=None)
    done = run(recipe, tmp_path / "stores")
    assert done.computed == [["train", "validation"], []]
    assert (done.notes, done.batches) == ([], [])  # no step was taken
    solved = [record for record in done.records if isinstance(record, HeadSolved)]
    assert [record.rows for record in solved] == [48, 60]
    ended = [record for record in done.records if isinstance(record, PhaseEnded)]
    assert [(record.best_epoch, record.refit, bool(record.scores)) for record in ended] == [
        (None, False, True),
        (None, True, False),
    ]
    again = run(replace(recipe, output_dir=str(tmp_path / "again")), tmp_path / "stores")
    assert again.computed == [[], []]
    assert_bit_equal(done, again)


def test_views_of_all_rows_are_computed_for_the_second_pass(
    tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    """Those of the rows that validated the first have not been there."""
    task = ImageClassification(str(photos))
    plain, stored = (
        run(
            quick(task, tiny_model("vit"), tmp_path / str(use), phases=HEAD, refit=True),
            tmp_path / "stores",
            use,
            views=2,
        )
        for use in (False, True)
    )
    assert stored.computed == [["train", "validation", "test"], ["train"]]
    assert [record.rows["train"] for record in stored.stored] == [2 * 24, 2 * 33]
    assert_close(plain, stored)


# -- heads that would be solved --------------------------------------------------------------------------------------


def test_without_a_store_a_record_says_that_the_head_is_trained_in_steps(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    task = TextClassification(str(reviews))
    plain, stored = (
        run(quick(task, tiny_model("bert"), tmp_path / str(use), phases=SOLVED, refit=False), tmp_path / "stores", use)
        for use in (False, True)
    )
    (started,) = [record for record in plain.records if isinstance(record, RunStarted)]
    assert "phase 0: the head is trained in steps (features are not stored)" in started.notes
    assert plain.notes == []
    steps = [record for record in plain.records if isinstance(record, StepTaken)]
    assert [record.step for record in steps] == [*range(len(plain.batches))] != []
    assert not any(isinstance(record, HeadSolved) for record in plain.records)
    assert (stored.notes, stored.batches) == ([], [])
    assert [record.layer for record in stored.records if isinstance(record, HeadSolved)] == ["classifier"]
