import pytest
import torch

from hftl.model.layers import LayerGroups, freeze, set_modes
from hftl.model.optim import build_optimizer, parameter_groups, set_lr
from hftl.recipe.phase import Phase

FAMILIES = ("vit", "resnet", "mobilenet_v1", "mobilenet_v2", "efficientnet", "bert", "distilbert", "roberta")


@pytest.fixture
def at_depth(load_tiny):
    """A tiny model, its layer groups, and the phase, with what the phase unfreezes unfrozen."""

    def make(family: str, **settings: object) -> tuple[torch.nn.Module, LayerGroups, Phase]:
        phase = Phase(**settings)  # type: ignore[arg-type]
        model = load_tiny(family).model
        groups = LayerGroups.of(model)
        freeze(model, groups, phase.unfreeze)
        set_modes(model, groups, phase.unfreeze, phase.batch_norm == "update")
        return model, groups, phase

    return make


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", ["head", 1, "all"])
def test_each_trainable_parameter_is_the_optimizers_once(family, depth, at_depth):
    model, groups, phase = at_depth(family, unfreeze=depth, layer_decay=0.5)
    found = parameter_groups(model, groups, phase)
    names = [name for group in found for name in group["names"]]
    assert sorted(names) == sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    group_of = groups.group_of_parameter()
    for group in found:
        assert {group_of[name] for name in group["names"]} == {group["group"]}
        assert group["lr_scale"] == groups.lr_scale(group["group"], 0.5)
        assert [model.get_parameter(name) is p for name, p in zip(group["names"], group["params"], strict=True)]
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert model.get_parameter(name) is parameter


def test_norms_and_biases_do_not_decay(at_depth):
    model, groups, phase = at_depth("bert", unfreeze="all", weight_decay=0.3)
    decay = {name: group["weight_decay"] for group in parameter_groups(model, groups, phase) for name in group["names"]}
    assert {name for name, value in decay.items() if value == 0.0} == {
        name for name in decay if name.endswith(".bias") or "LayerNorm" in name
    }
    assert {value for value in decay.values() if value} == {0.3}


def test_set_lr_scales_each_group_with_its_depth(at_depth):
    optimizer = build_optimizer(*at_depth("vit", unfreeze=2, layer_decay=0.5))
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}
    set_lr(optimizer, 0.08)
    assert {group["group"]: group["lr"] for group in optimizer.param_groups} == {
        "block 2": 0.02,
        "block 3": 0.04,
        "neck": 0.08,
        "head": 0.08,
    }
    set_lr(optimizer, 0.0)
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}


@pytest.mark.parametrize("family", ["vit", "mobilenet_v2", "bert"])
@pytest.mark.parametrize("depth", ["head", 2, "all"])
def test_one_step_moves_what_trains_and_nothing_else(family, depth, at_depth):
    model, groups, phase = at_depth(family, unfreeze=depth, weight_decay=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = build_optimizer(model, groups, phase)
    set_lr(optimizer, 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)  # the frozen ones as well
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_weight_decay_without_gradient_shrinks_by_lr_times_decay(at_depth):
    model, groups, phase = at_depth("vit", unfreeze="head", weight_decay=0.5)
    optimizer = build_optimizer(model, groups, phase)
    set_lr(optimizer, 0.1)
    weight, bias = model.classifier.weight, model.classifier.bias
    with torch.no_grad():
        bias.fill_(2.0)
    old = weight.detach().clone()
    for parameter in (weight, bias):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), old * (1 - 0.1 * 0.5))
    assert torch.equal(bias.detach(), torch.full((3,), 2.0))
