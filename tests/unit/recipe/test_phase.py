import dataclasses

import pytest

from hftl.recipe.phase import LoRA, Phase


@pytest.mark.parametrize("depth", ["auto", "head", "neck", "all", 1, 4, 400, 0.25, 1e-9, 1.0])
def test_depths(depth):
    assert Phase(depth).unfreeze == depth


@pytest.mark.parametrize("depth", ["", "heads", "4", "ALL", 0, -1, 0.0, -0.5, 1.5, float("nan"), True, False])
def test_no_depths(depth, one_line_error):
    with one_line_error("unfreeze:", repr(depth), "head, neck, all, auto", "0.25"):
        Phase(depth)


@pytest.mark.parametrize(
    ("name", "good", "bad", "bounds"),
    [
        ("epochs", (1, 100), (0, -1), "at least 1"),
        ("lr", (None, 0.0, 1e-5, 3), (-1e-9, float("inf"), float("nan")), "at least 0"),
        ("layer_decay", (0, 0.5, 1), (-0.1, 1.1, float("nan")), "at least 0 and at most 1"),
        ("warmup", (0, 0.5, 1), (-0.1, 1.1, float("nan")), "at least 0 and at most 1"),
        ("weight_decay", (0, 0.1, 2.0), (-0.1, float("inf"), float("nan")), "at least 0"),
        ("patience", (None, 1, 9), (0, -1), "at least 1"),
    ],
)
def test_ranges(name, good, bad, bounds, one_line_error):
    for value in good:
        assert getattr(Phase(**{name: value}), name) == value
    for value in bad:
        with one_line_error(f"{name}: {value!r} is out of range", bounds):
            Phase(**{name: value})


@pytest.mark.parametrize(
    ("depth", "expected"),
    [("auto", True), ("head", True), ("neck", True), (1, False), (0.1, False), ("all", False)],
)
def test_head_only(depth, expected):
    assert Phase(depth).head_only is expected


def test_a_phase_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Phase().lr = 1.0  # type: ignore[misc]
    assert Phase(lr=1) == Phase(lr=1)
    assert len({Phase(), Phase(), Phase("head")}) == 2


@pytest.mark.parametrize("train", ["lora", "bias", "norm"])
def test_to_train_a_part_of_the_blocks_takes_unfrozen_blocks(train, one_line_error):
    assert Phase(2, train=train).train == train
    with one_line_error(f"train: {train}", "unfreeze: head has none", "0.25"):
        Phase("head", train=train)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, ["lora.rank: 0", "at least 1"]),
        ({"alpha": 0.0}, ["lora.alpha: 0.0", "above 0"]),
        ({"dropout": 1.0}, ["lora.dropout: 1.0", "below 1"]),
        ({"targets": "("}, ["lora.targets: '('", "no regular expression"]),
    ],
)
def test_adapters_have_ranges_too(settings, words, one_line_error):
    with one_line_error(*words):
        LoRA(**settings)


def test_settings_of_adapters_that_do_not_train_are_a_mistake(one_line_error):
    with one_line_error("lora:", "train is weights", "add train: lora"):
        Phase("all", lora=LoRA(rank=4))
