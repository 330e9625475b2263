import itertools

import pytest

from hftl import strategies
from hftl.model.layers import LayerGroups
from hftl.recipe.defaults import Known, resolved

DEPTHS = {
    "pretrained": [],
    "linear-probe": ["auto"],
    "full": ["all"],
    "lp-ft": ["auto", "all"],
    "gradual": ["auto", 0.25, 0.5, "all"],
    "lora": ["auto", "all"],
}


def test_each_strategy_has_its_depths():
    assert {name: [phase.unfreeze for phase in strategies.by_name(name)] for name in strategies.NAMED} == DEPTHS


@pytest.mark.parametrize("name", ["lp-ft", "gradual"])
@pytest.mark.parametrize("family", ["vit", "mobilenet_v1"])
def test_each_phase_of_a_staged_strategy_trains_more_than_the_one_before(name, family, load_tiny):
    groups = LayerGroups.of(load_tiny(family).model)
    known = Known(rows=100, start="head", head_lr=1e-3, lr=1e-5)
    phases = resolved(strategies.by_name(name), known, batch=16)
    trained = [groups.unfrozen(phase.unfreeze) for phase in phases]
    assert all(before < after for before, after in itertools.pairwise(trained))
    assert trained[-1] == set(groups.names)


def test_settings_reach_the_phases_they_are_for():
    head, rest = strategies.lp_ft(head_epochs=7, epochs=2, head_lr=0.1, lr=0.2, layer_decay=0.5)
    assert (head.epochs, head.lr, head.layer_decay) == (7, 0.1, 1.0)
    assert (rest.epochs, rest.lr, rest.layer_decay) == (2, 0.2, 0.5)
    head, *deeper = strategies.gradual(head_epochs=7, epochs=2, head_lr=0.1, lr=0.2, layer_decay=0.5)
    assert (head.epochs, head.lr, head.layer_decay) == (7, 0.1, 1.0)
    assert {(phase.epochs, phase.lr, phase.layer_decay) for phase in deeper} == {(2, 0.2, 0.5)}
    (only,) = strategies.full(epochs=9, lr=0.3, layer_decay=0.8)
    assert (only.epochs, only.lr, only.layer_decay) == (9, 0.3, 0.8)
    (only,) = strategies.linear_probe(epochs=9, lr=0.3)
    assert (only.epochs, only.lr) == (9, 0.3)


def test_an_unknown_strategy(one_line_error):
    with one_line_error("'lpft'", ", ".join(DEPTHS)):
        strategies.by_name("lpft")
