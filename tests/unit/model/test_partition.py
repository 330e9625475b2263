"""Where the layer groups of a family do not follow from its structure alone."""

import pytest
import torch
import transformers
from torch import nn

from hftl.model.layers import LayerGroups, head_parameters


def without_weights(kind: str, **settings: object) -> nn.Module:
    """A classifier of a family at its default size, on the meta device."""
    made = getattr(transformers, kind)
    with torch.device("meta"):
        return made(made.config_class(**settings))


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (
            "PoolFormerForImageClassification",
            {},
            {"stem": ["encoder.patch_embeddings.0"], "block 3": ["encoder.patch_embeddings.3", "encoder.block.3"]},
        ),
        (
            "XLMForSequenceClassification",
            {"n_layers": 2},
            {"block 1": ["attentions.1", "layer_norm1.1", "ffns.1", "layer_norm2.1"], "neck": []},
        ),
        ("OPTForSequenceClassification", {}, {"neck": ["decoder.final_layer_norm"]}),
        ("BartForSequenceClassification", {}, {"neck": []}),
        (
            "DebertaV2ForSequenceClassification",
            {"conv_kernel_size": 3},
            {"block 0": ["encoder.conv", "encoder.layer.0"]},
        ),
    ],
)
def test_parameters_are_where_they_are_used(kind, settings, expected):
    groups = LayerGroups.of(without_weights(kind, **settings))
    for group, modules in expected.items():
        names = [name.removeprefix(f"{groups.backbone}.") for name in groups.parameters[group]]
        module_of = {name: next((m for m in modules if name.startswith(f"{m}.")), "elsewhere") for name in names}
        assert set(module_of.values()) == set(modules), group


def test_what_a_model_that_is_its_own_base_defines_before_its_backbone_is_stem():
    model = without_weights("HGNetV2ForImageClassification")
    groups = LayerGroups.of(model)
    assert (groups.backbone, groups.blocks) == ("encoder", 4)
    assert {name.partition(".")[0] for name in groups.parameters["stem"]} == {"embedder"}
    assert groups.parameters["head"] == head_parameters(model) == ("fc.weight", "fc.bias")


def test_a_head_that_is_defined_before_the_backbone_is_a_head():
    groups = LayerGroups.of(without_weights("CamembertForSequenceClassification"))
    assert {name.partition(".")[0] for name in groups.parameters["head"]} == {"classifier"}
    assert all(name.startswith("roberta.embeddings.") for name in groups.parameters["stem"])


def test_a_model_without_a_head(one_line_error):
    model = without_weights("PerceiverForSequenceClassification")
    with one_line_error("PerceiverForSequenceClassification has no head", "layer_groups"):
        LayerGroups.of(model)
    groups = LayerGroups.of(model, {r"\.decoder\.": "head"})
    assert all(".decoder." in name for name in groups.parameters["head"])


def test_an_override_can_take_the_number_of_the_block_from_the_name():
    model = nn.Module()
    model.body = nn.Module()
    for number in range(3):
        model.body.add_module(f"conv{number}", nn.Conv1d(1, 1, 1))
    model.body.last, model.classifier = nn.Linear(1, 1), nn.Linear(1, 1)
    groups = LayerGroups.of(model, {r"conv(\d)": r"block \1"})
    assert groups.parameters["block 2"] == ("body.conv2.weight", "body.conv2.bias")
    assert groups.parameters["neck"] == ("body.last.weight", "body.last.bias")  # after the blocks
    assert groups.parameters["stem"] == ()


def test_overrides_go_over_what_is_known_of_the_family(load_tiny):
    groups = LayerGroups.of(load_tiny("mpnet").model, {r"relative_attention_bias": "block 0"})
    assert "mpnet.encoder.relative_attention_bias.weight" in groups.parameters["block 0"]
