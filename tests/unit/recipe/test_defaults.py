"""What a recipe leaves open: filled in by the rows and the model; what is declared stays."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftl import Phase, strategies
from hftl.recipe import defaults
from hftl.recipe.defaults import (
    BATCH,
    FEWEST_EPOCHS,
    HEAD_EPOCHS,
    HEAD_SCALE,
    LARGE_BATCH,
    MANY_ROWS,
    MOST_EPOCHS,
    SOLVED_LR,
    Known,
    batch_size,
    epochs,
    reasons,
    resolved,
)

KNOWN = Known(rows=500, start="neck", head_lr=2e-3, lr=1e-4)
ROWS = [1, 10, 80, 200, 500, 1000, 2000, 5000, MANY_ROWS - 1, MANY_ROWS, 10**6]
HEADS, BLOCKS = ("auto", "head", "neck"), (1, 3, 0.25, 1.0, "all")
OPEN = ("epochs", "lr", "batch_norm", "solver", "head_scale")


def one(phase: Phase, known: Known = KNOWN, batch: int = BATCH) -> Phase:
    (found,) = resolved((phase,), known, batch)
    return found


# -- batches and epochs ----------------------------------------------------------------------------------------------


def test_batches_are_large_where_rows_are_many() -> None:
    assert BATCH <= LARGE_BATCH
    assert (batch_size(MANY_ROWS - 1), batch_size(MANY_ROWS)) == (BATCH, LARGE_BATCH)
    sizes = [batch_size(rows) for rows in ROWS]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("batch", [1, BATCH, LARGE_BATCH, 256])
def test_more_rows_have_fewer_epochs_between_the_fewest_and_the_most(batch: int) -> None:
    found = [epochs(rows, batch) for rows in ROWS]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (MOST_EPOCHS, FEWEST_EPOCHS)
    assert FEWEST_EPOCHS < MOST_EPOCHS


@given(st.integers(0, 10**7), st.integers(1, 512))
def test_in_between_the_epochs_have_as_many_steps_as_are_wanted(rows: int, batch: int) -> None:
    found = epochs(rows, batch)
    assert FEWEST_EPOCHS <= found <= MOST_EPOCHS
    if FEWEST_EPOCHS < found < MOST_EPOCHS:
        assert found * rows >= defaults.STEPS * batch > (found - 1) * rows


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("depths", [("all",), ("auto", "all"), ("auto", 0.25, 0.5, "all")])
def test_phases_that_train_blocks_share_the_epochs(rows: int, depths: tuple[Any, ...]) -> None:
    known = dataclasses.replace(KNOWN, rows=rows)
    found = resolved([Phase(depth) for depth in depths], known, BATCH)
    blocks = [phase.epochs or 0 for phase in found if not phase.head_only]
    assert len(set(blocks)) == 1
    assert min(blocks) >= 1
    assert epochs(rows, BATCH) <= sum(blocks) < epochs(rows, BATCH) + len(blocks)


def test_epochs_that_are_declared_take_no_share_of_the_others() -> None:
    found = resolved((Phase(0.25, 7), Phase(0.5), Phase("all")), KNOWN, BATCH)
    assert found[0].epochs == 7
    assert found[1:] == resolved((Phase(0.25, 2), Phase(0.5), Phase("all")), KNOWN, BATCH)[1:]
    assert found[1].epochs == resolved((Phase(0.5), Phase("all")), KNOWN, BATCH)[0].epochs


# -- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", HEADS)
@pytest.mark.parametrize(
    ("declared", "linear", "solver"),
    [
        ({}, True, "lbfgs"),
        ({"epochs": 4}, True, "steps"),
        ({"lr": 1e-2}, True, "steps"),
        ({"lr": 0.0}, True, "steps"),
        ({}, False, "steps"),
        ({"epochs": 4, "solver": "lbfgs"}, True, "lbfgs"),
        ({"lr": 1e-2, "solver": "lbfgs"}, True, "lbfgs"),
        ({"solver": "steps"}, True, "steps"),
        ({"penalty": 0.1}, True, "lbfgs"),
        ({"weight_decay": 0.1, "patience": 2}, True, "lbfgs"),
    ],
)
def test_a_head_is_solved_unless_the_way_it_steps_is_declared(
    depth: str, declared: dict[str, Any], linear: bool, solver: str
) -> None:
    found = one(Phase(depth, **declared), dataclasses.replace(KNOWN, linear=linear))
    assert found.solver == solver
    assert found.lr == declared.get("lr", SOLVED_LR if solver == "lbfgs" else KNOWN.head_lr)
    assert found.epochs == declared.get("epochs", HEAD_EPOCHS)


def test_auto_is_where_the_model_starts() -> None:
    assert one(Phase("auto")).unfreeze == "neck"
    assert one(Phase("auto"), dataclasses.replace(KNOWN, start="head")).unfreeze == "head"
    assert one(Phase("head")).unfreeze == "head"
    assert [phase.unfreeze for phase in resolved(strategies.gradual(), KNOWN, BATCH)] == ["neck", 0.25, 0.5, "all"]


@pytest.mark.parametrize("depth", BLOCKS)
def test_blocks_are_never_solved(depth: Any) -> None:
    assert one(Phase(depth)).solver is None


# -- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depths", "linear", "expected"),
    [
        (("auto", "all"), True, [1.0, HEAD_SCALE]),
        (("head", 0.25, 0.5, "all"), True, [1.0, HEAD_SCALE, 1.0, 1.0]),
        (("all",), True, [1.0]),
        (("all", "head", 2), True, [1.0, 1.0, HEAD_SCALE]),
        (("auto", "all"), False, [1.0, 1.0]),
    ],
)
def test_a_head_that_has_been_trained_is_made_small_as_the_blocks_above_it_begin(
    depths: tuple[Any, ...], linear: bool, expected: list[float]
) -> None:
    found = resolved([Phase(depth) for depth in depths], dataclasses.replace(KNOWN, linear=linear), BATCH)
    assert [phase.head_scale for phase in found] == expected


def test_narrow_models_and_those_of_other_data_learn_faster_and_adapters_fastest() -> None:
    def lr(train: Any = "weights", **known: Any) -> float:
        found = one(Phase("all", train=train), dataclasses.replace(KNOWN, **known)).lr
        assert found is not None
        return found

    assert lr() == KNOWN.lr
    assert lr(narrower=2.0) == pytest.approx(2 * KNOWN.lr)
    assert lr(faster=10.0) == pytest.approx(10 * KNOWN.lr)
    assert {lr("lora"), lr("bias"), lr("norm"), lr("lora", narrower=2.0)} == {10 * KNOWN.lr}
    assert lr("lora", faster=9.0) == pytest.approx(30 * KNOWN.lr)


def test_statistics_move_where_a_model_was_trained_on_other_data() -> None:
    assert one(Phase("all")).batch_norm == "keep"
    assert one(Phase("all"), dataclasses.replace(KNOWN, far=True)).batch_norm == "update"
    assert one(Phase("head"), dataclasses.replace(KNOWN, far=True)).batch_norm == "keep"


# -- what is declared ------------------------------------------------------------------------------------------------

maybe = st.one_of
nothing = st.none()
heads = st.builds(
    Phase,
    unfreeze=st.sampled_from(HEADS),
    epochs=maybe(nothing, st.integers(1, 30)),
    lr=maybe(nothing, st.floats(0, 1)),
    batch_norm=st.sampled_from([None, "keep", "update"]),
    solver=st.sampled_from([None, "lbfgs", "steps"]),
    penalty=maybe(nothing, st.floats(0, 10)),
    temperature=maybe(nothing, st.floats(0.1, 10)),
    head_scale=maybe(nothing, st.floats(0.01, 2)),
    patience=maybe(nothing, st.integers(1, 5)),
)
blocks = st.builds(
    Phase,
    unfreeze=st.sampled_from(BLOCKS),
    epochs=maybe(nothing, st.integers(1, 30)),
    lr=maybe(nothing, st.floats(0, 1)),
    batch_norm=st.sampled_from([None, "keep", "update"]),
    head_scale=maybe(nothing, st.floats(0.01, 2)),
    train=st.sampled_from(["weights", "lora", "bias", "norm"]),
)
phases = st.lists(st.one_of(heads, blocks), max_size=5)
models = st.builds(
    Known,
    rows=st.integers(1, 10**6),
    start=st.sampled_from(["head", "neck"]),
    head_lr=st.just(2e-3),
    lr=st.just(1e-4),
    narrower=st.floats(0.5, 3),
    linear=st.booleans(),
    far=st.booleans(),
)
batches = st.sampled_from([1, BATCH, LARGE_BATCH, 256])


@given(phases, models, batches)
def test_what_is_resolved_stays_as_it_is(given_phases: list[Phase], known: Known, batch: int) -> None:
    once = resolved(given_phases, known, batch)
    assert resolved(once, known, batch) == once


@given(phases, models, batches)
def test_where_nothing_was_open_there_is_nothing_to_say(given_phases: list[Phase], known: Known, batch: int) -> None:
    once = resolved(given_phases, known, batch)
    assert reasons(once, once, known, batch) == ()


def test_what_was_open_is_said_with_the_phase_that_it_is_of() -> None:
    declared = (Phase("head", 3), Phase("all", lr=1e-3), Phase("all", 2, 1e-3, head_scale=1.0))
    found = resolved(declared, KNOWN, BATCH)
    first, second = reasons(declared, found, KNOWN, BATCH)
    assert first.startswith("phase 0: ")
    assert "epochs set" in first
    assert second.startswith(f"phase 1: {found[1].epochs} epochs")
    assert f"{KNOWN.rows:,} rows" in second
    assert "lr " not in second


@given(phases, models, models, batches)
def test_of_another_model_or_other_rows_it_stays_as_well(
    given_phases: list[Phase], known: Known, other: Known, batch: int
) -> None:
    once = resolved(given_phases, known, batch)
    assert resolved(once, other, 7) == once


@given(phases, models, batches)
def test_nothing_is_left_open_and_nothing_that_is_declared_is_changed(
    given_phases: list[Phase], known: Known, batch: int
) -> None:
    found = resolved(given_phases, known, batch)
    assert len(found) == len(given_phases)
    for before, after in zip(given_phases, found, strict=True):
        for field in dataclasses.fields(Phase):
            declared = getattr(before, field.name)
            if declared is not None and declared != "auto":
                assert getattr(after, field.name) == declared, field.name
        needed = OPEN if after.head_only else [name for name in OPEN if name != "solver"]
        assert [name for name in needed if getattr(after, name) is None] == []
        assert after.unfreeze != "auto"


@given(phases, models, batches)
def test_a_phase_depends_on_those_before_it_alone_but_for_shared_epochs(
    given_phases: list[Phase], known: Known, batch: int
) -> None:
    declared = [dataclasses.replace(phase, epochs=phase.epochs or 3) for phase in given_phases]
    whole = resolved(declared, known, batch)
    for count in range(len(declared) + 1):
        assert resolved(declared[:count], known, batch) == whole[:count]


@pytest.mark.parametrize("name", strategies.NAMED)
def test_every_strategy_is_resolved_to_what_can_be_trained(name: str) -> None:
    found = resolved(strategies.by_name(name), KNOWN, BATCH)
    assert all(phase.epochs and phase.lr for phase in found)
    trained = [phase.lr for phase in found if not phase.head_only]
    assert all(one == other for one, other in itertools.pairwise(trained))
