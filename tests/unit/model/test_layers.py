import itertools
import re

import pytest
import torch
from torch import nn

from hftl.model.layers import LayerGroups, find_backbone, freeze, frozen_digests, set_modes, start_of

# family -> blocks, where they are, and the modules whose own parameters are stem, neck and head
FAMILIES = {
    "vit": (
        4,
        "vit.layers",
        {"vit.embeddings", "vit.embeddings.patch_embeddings.projection"},
        {"vit.layernorm"},
        {"classifier"},
    ),
    "resnet": (
        4,
        "resnet.encoder.stages",
        {"resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization"},
        set(),
        {"classifier.1"},
    ),
    "mobilenet_v1": (
        26,
        "mobilenet_v1.layer",
        {"mobilenet_v1.conv_stem.convolution", "mobilenet_v1.conv_stem.normalization"},
        set(),
        {"classifier"},
    ),
    "mobilenet_v2": (
        16,
        "mobilenet_v2.layer",
        {
            f"mobilenet_v2.conv_stem.{conv}.{part}"
            for conv in ("first_conv", "conv_3x3", "reduce_1x1")
            for part in ("convolution", "normalization")
        },
        {"mobilenet_v2.conv_1x1.convolution", "mobilenet_v2.conv_1x1.normalization"},
        {"classifier"},
    ),
    "efficientnet": (
        8,
        "efficientnet.encoder.blocks",
        {"efficientnet.embeddings.convolution", "efficientnet.embeddings.batchnorm"},
        {"efficientnet.encoder.top_conv", "efficientnet.encoder.top_bn"},
        {"classifier"},
    ),
    "bert": (
        4,
        "bert.encoder.layer",
        {
            f"bert.embeddings.{part}"
            for part in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
        },
        {"bert.pooler.dense"},
        {"classifier"},
    ),
    "distilbert": (
        4,
        "distilbert.transformer.layer",
        {f"distilbert.embeddings.{part}" for part in ("word_embeddings", "position_embeddings", "LayerNorm")},
        set(),
        {"pre_classifier", "classifier"},
    ),
    "roberta": (
        4,
        "roberta.encoder.layer",
        {
            f"roberta.embeddings.{part}"
            for part in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
        },
        set(),
        {"classifier.dense", "classifier.out_proj"},
    ),
    "beit": (
        4,
        "beit.layers",
        {"beit.embeddings", "beit.embeddings.patch_embeddings.projection"},
        {"beit.pooler.layernorm"},
        {"classifier"},
    ),
    "swin": (
        4,
        "swin.encoder.layers",
        {"swin.embeddings.norm", "swin.embeddings.patch_embeddings.projection"},
        {"swin.layernorm"},
        {"classifier"},
    ),
    "deberta-v2": (
        4,
        "deberta.encoder.layer",
        {
            *(f"deberta.embeddings.{part}" for part in ("word_embeddings", "LayerNorm")),
            *(f"deberta.encoder.{part}" for part in ("rel_embeddings", "LayerNorm")),  # defined after the blocks
        },
        set(),
        {"pooler.dense", "classifier"},
    ),
    "albert": (
        1,  # used four times
        "albert.encoder.albert_layer_groups",
        {
            *(
                f"albert.embeddings.{part}"
                for part in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
            ),
            "albert.encoder.embedding_hidden_mapping_in",
        },
        {"albert.pooler"},
        {"classifier"},
    ),
    "mpnet": (
        4,
        "mpnet.encoder.layer",
        {
            *(f"mpnet.embeddings.{part}" for part in ("word_embeddings", "position_embeddings", "LayerNorm")),
            "mpnet.encoder.relative_attention_bias",  # defined after the blocks
        },
        set(),
        {"classifier.dense", "classifier.out_proj"},
    ),
    "modernbert": (
        4,
        "model.layers",
        {"model.embeddings.tok_embeddings", "model.embeddings.norm"},
        {"model.final_norm"},
        {"head.dense", "head.norm", "classifier"},
    ),
    "gpt2": (4, "transformer.h", {"transformer.wte", "transformer.wpe"}, {"transformer.ln_f"}, {"score"}),
    "llama": (4, "model.layers", {"model.embed_tokens"}, {"model.norm"}, {"score"}),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


class Blocks(nn.Module):
    """A backbone of blocks with dropout between and in them, and a head with dropout before it."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.embed = nn.Linear(4, 4)
        self.body.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)) for _ in range(blocks))
        self.body.between = nn.Dropout(0.5)
        self.body.norm = nn.LayerNorm(4)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(4, 2)

    @property
    def base_model(self) -> nn.Module:
        return self.body


class NoBlocks(nn.Module):
    """Two layers that stand in no list."""

    def __init__(self, *containers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.first, self.body.second = nn.Linear(4, 4), nn.Linear(4, 4)
        for index, container in enumerate(containers):
            self.body.add_module(f"container{index}", container)
        self.classifier = nn.Linear(4, 2)


def training(model: nn.Module, depth: object, update_batch_norm: bool = False) -> dict[str, bool]:
    """The train mode of every module at a depth."""
    groups = LayerGroups.of(model)
    freeze(model, groups, depth)  # type: ignore[arg-type]
    set_modes(model.train(), groups, depth, update_batch_norm)  # type: ignore[arg-type]
    return {name: module.training for name, module in model.named_modules()}


# -- the partition ---------------------------------------------------------------------------------------------------


@every_family
def test_every_parameter_is_in_exactly_one_group(family, load_tiny):
    model = load_tiny(family).model
    grouped = [name for names in LayerGroups.of(model).parameters.values() for name in names]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    assert sorted(LayerGroups.of(model).group_of_parameter()) == sorted(grouped)


@every_family
def test_what_is_what(family, load_tiny):
    blocks, container, stem, neck, head = FAMILIES[family]
    groups = LayerGroups.of(load_tiny(family).model)
    assert groups.blocks == blocks
    assert groups.names == ("stem", *(f"block {index}" for index in range(blocks)), "neck", "head")
    assert groups.backbone == container.partition(".")[0]
    for group, modules in (("stem", stem), ("neck", neck), ("head", head)):
        assert {name.rpartition(".")[0] for name in groups.parameters[group]} == modules, group
    for index in range(blocks):
        names = groups.parameters[f"block {index}"]
        assert names
        assert all(name.startswith(f"{container}.{index}.") for name in names)


@every_family
def test_groups_are_in_the_order_of_the_forward_pass(family, load_tiny, tiny_inputs):
    model = load_tiny(family).model
    groups = LayerGroups.of(model)
    group_of, called = groups.group_of_parameter(), []
    for path, module in model.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if own:
            depth = groups.names.index(group_of[own[0]])
            module.register_forward_hook(lambda *_, depth=depth: called.append(depth))
    model(**tiny_inputs(family, rows=1))  # of one row: those that look for the last token want no padding then
    assert called == sorted(called)
    assert set(called) == {index for index, names in enumerate(groups.parameters.values()) if names}


@every_family
def test_a_deeper_depth_trains_all_that_a_shallower_one_does(family, load_tiny):
    groups = LayerGroups.of(load_tiny(family).model)
    depths = ["head", "neck", *range(1, groups.blocks + 1), "all"]
    chosen = [groups.unfrozen(depth) for depth in depths]
    assert chosen[0] == {"head"}
    assert chosen[1] == {"head", "neck"}
    assert chosen[2] == {"head", "neck", f"block {groups.blocks - 1}"}
    assert chosen[-2] == set(groups.names) - {"stem"}
    assert chosen[-1] == set(groups.names)
    assert all(lower < higher for lower, higher in itertools.pairwise(chosen))


@every_family
def test_a_fraction_is_that_part_of_the_blocks_rounded_up(family, load_tiny):
    groups = LayerGroups.of(load_tiny(family).model)
    expected = {
        1: {0.25: 1, 1.0: 1},
        4: {0.01: 1, 0.25: 1, 0.26: 2, 0.5: 2, 1.0: 4},
        8: {0.25: 2},
        16: {0.3: 5, 0.5: 8},
        26: {0.25: 7},
    }
    for fraction, blocks in expected[groups.blocks].items():
        assert groups.unfrozen(fraction) == groups.unfrozen(blocks), fraction


@every_family
def test_lr_scale_never_rises_with_the_distance_from_the_head(family, load_tiny):
    groups = LayerGroups.of(load_tiny(family).model)
    for decay in (1.0, 0.9, 0.5, 0.0):
        scales = [groups.lr_scale(group, decay) for group in groups.names]
        assert scales == sorted(scales)
        assert scales[-2:] == [1.0, 1.0]
        assert scales[-3] == decay
        assert scales[0] == decay ** (groups.blocks + 1)


def test_too_many_blocks(load_tiny, one_line_error):
    groups = LayerGroups.of(load_tiny("vit").model)
    with one_line_error("unfreeze: 5 blocks", "has 4", "all"):
        groups.unfrozen(5)


def test_an_unresolved_depth(load_tiny, one_line_error):
    with one_line_error("'auto'", "head or neck"):
        LayerGroups.of(load_tiny("vit").model).unfrozen("auto")


def test_strategies_start_with_head_or_neck():
    assert start_of("bert") == "neck"
    assert start_of("a family that nobody measured") == "head"


# -- finding backbone and blocks -------------------------------------------------------------------------------------


def test_the_backbone_of_a_model_that_is_its_own_base_is_its_largest_child():
    model = NoBlocks()
    assert find_backbone(model)[0] == "body"
    assert find_backbone(Blocks())[1] is not None
    assert find_backbone(Blocks())[0] == "body"


def test_a_model_without_parameters(one_line_error):
    with one_line_error("ReLU has no backbone"):
        LayerGroups.of(nn.ReLU())


@pytest.mark.parametrize("containers", [(), (nn.Sequential(nn.ReLU(), nn.Dropout()),)], ids=["none", "without weights"])
def test_a_model_without_blocks(containers, one_line_error):
    with one_line_error("no list of blocks", "layer_groups"):
        LayerGroups.of(NoBlocks(*containers))


def test_blocks_can_be_declared_where_none_are_found():
    groups = LayerGroups.of(NoBlocks(), {r"first": "block 0", r"second": "block 1"})
    assert groups.names == ("stem", "block 0", "block 1", "neck", "head")
    assert groups.parameters["block 1"] == ("body.second.weight", "body.second.bias")
    assert groups.parameters["head"] == ("classifier.weight", "classifier.bias")
    assert groups.parameters["stem"] == ()


def test_the_largest_outermost_container_holds_the_blocks():
    model = Blocks(3)
    model.body.add_module("small", nn.ModuleList([nn.Linear(1, 1)] * 9))
    groups = LayerGroups.of(model)
    assert groups.blocks == 3
    assert groups.parameters["block 2"] == ("body.layers.2.0.weight", "body.layers.2.0.bias")
    model.body.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))])
    assert LayerGroups.of(model).blocks == 1  # not the inner Sequential, which has as many parameters


# -- overrides -------------------------------------------------------------------------------------------------------


def test_overrides_decide_and_the_first_match_wins(load_tiny):
    model = load_tiny("vit").model
    plain = LayerGroups.of(model)
    groups = LayerGroups.of(model, {r"cls_token": "head", r"^vit\.embeddings": "block 0"})
    assert groups.names == plain.names
    assert groups.parameters["stem"] == ()
    assert "vit.embeddings.cls_token" in groups.parameters["head"]
    assert set(groups.parameters["block 0"]) == {
        *plain.parameters["block 0"],
        *(name for name in plain.parameters["stem"] if "cls_token" not in name),
    }
    assert groups.parameters["neck"] == plain.parameters["neck"]


@pytest.mark.parametrize(("pattern", "group"), [("(", "stem"), ("embeddings", r"block \1")])
def test_an_override_that_is_no_regular_expression(pattern, group, load_tiny, one_line_error):
    with one_line_error("layer_groups", repr(pattern), "no regular expression"):
        LayerGroups.of(load_tiny("vit").model, {pattern: group})


@pytest.mark.parametrize("group", ["block 4", "tail", "Head"])
def test_an_override_to_no_group(group, load_tiny, one_line_error):
    with one_line_error("layer_groups", "'embeddings'", repr(group), "no group", "stem, block 0"):
        LayerGroups.of(load_tiny("vit").model, {"embeddings": group})


def test_an_override_that_matches_nothing(load_tiny, one_line_error):
    with one_line_error("layer_groups", "'embedings'", "matches no parameter", "ViTForImageClassification"):
        LayerGroups.of(load_tiny("vit").model, {"embedings": "stem"})


# -- freezing --------------------------------------------------------------------------------------------------------


@every_family
def test_freeze_leaves_a_gradient_to_the_unfrozen_alone(family, load_tiny, tiny_inputs):
    model = load_tiny(family).model
    groups = LayerGroups.of(model)
    model(**tiny_inputs(family, rows=1)).logits.sum().backward()
    for depth in ("all", min(groups.blocks, 2), "head", "neck", 1):  # also back and forth
        freeze(model, groups, depth)
        trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trains == {name for group in groups.unfrozen(depth) for name in groups.parameters[group]}
        assert all(parameter.grad is None for parameter in model.parameters())


# -- train and eval mode ---------------------------------------------------------------------------------------------


@every_family
def test_with_the_head_alone_the_whole_backbone_is_in_eval_mode(family, load_tiny):
    model = load_tiny(family).model
    modes, (backbone, _) = training(model, "head", update_batch_norm=True), find_backbone(model)
    assert not any(mode for name, mode in modes.items() if name == backbone or name.startswith(f"{backbone}."))
    assert not modes[""]  # the root holds frozen parameters too
    assert all(mode for name, mode in modes.items() if name and name.partition(".")[0] != backbone)


@every_family
def test_each_block_has_the_mode_of_what_trains_in_it(family, load_tiny):
    _, container, *_ = FAMILIES[family]
    model = load_tiny(family).model
    blocks = LayerGroups.of(model).blocks
    top = min(blocks, 2)
    modes = training(model, top, update_batch_norm=True)
    seen = set()
    for name, mode in modes.items():
        if found := re.match(rf"{re.escape(container)}\.(\d+)(\.|$)", name):
            assert mode == (int(found[1]) >= blocks - top), name  # dropout and BatchNorm in the block as well
            seen.add(int(found[1]))
    assert seen == set(range(blocks))
    for part_of_both in ({container} if blocks > top else set()) | {container.partition(".")[0], ""}:
        assert not modes[part_of_both]


@every_family
def test_everything_trains_in_train_mode(family, load_tiny):
    modes = training(load_tiny(family).model, "all", update_batch_norm=True)
    assert all(modes.values()), [name for name, mode in modes.items() if not mode]


@pytest.mark.parametrize("family", ["resnet", "mobilenet_v1", "mobilenet_v2", "efficientnet"])
@pytest.mark.parametrize("depth", ["all", 1])
def test_batch_norm_keeps_its_statistics_unless_told(family, depth, load_tiny):
    model = load_tiny(family).model
    kept, updated = (training(model, depth, update) for update in (False, True))
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms
    assert not any(kept[name] for name in norms)
    trains = {name for name in norms if model.get_submodule(name).weight.requires_grad}
    assert trains
    assert {name for name in norms if updated[name]} == trains
    assert {n: mode for n, mode in kept.items() if n not in norms} == {
        n: mode for n, mode in updated.items() if n not in norms
    }


def test_modules_without_parameters_follow_their_nearest_ancestor_with_some():
    modes = training(Blocks(), 1)
    assert modes["body.layers.2.1"]
    assert not modes["body.layers.1.1"]
    assert not modes["body.between"]  # in the backbone, which trains in part only
    assert modes["dropout"]  # of the root, outside the backbone
    assert training(Blocks(), "all")["body.between"]


def test_a_frozen_backbone_gives_the_same_features_in_training_as_in_evaluation(load_tiny, tiny_inputs):
    model, inputs = load_tiny("bert").model, tiny_inputs("bert")
    training(model, "head")
    features = [model.bert(**inputs).pooler_output for _ in range(2)]
    assert torch.equal(*features)
    logits = [model(**inputs).logits for _ in range(2)]
    assert not torch.equal(*logits)  # dropout of the head
    model.eval()
    assert torch.equal(model.bert(**inputs).pooler_output, features[0])


# -- digests ---------------------------------------------------------------------------------------------------------


def frozen_at(model: nn.Module, depth: object, update_batch_norm: bool = False) -> dict[str, bytes]:
    groups = LayerGroups.of(model)
    freeze(model, groups, depth)  # type: ignore[arg-type]
    set_modes(model, groups, depth, update_batch_norm)  # type: ignore[arg-type]
    return frozen_digests(model)


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_digests_cover_what_is_frozen(load_tiny):
    model = load_tiny("mobilenet_v2").model
    before = frozen_at(model, 1)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert before.keys() == tensors.keys() - trains
    top = {
        name for name, _ in model.named_buffers() if name.startswith(("mobilenet_v2.layer.15", "mobilenet_v2.conv_1x1"))
    }
    assert top
    assert frozen_at(model, 1, update_batch_norm=True).keys() == tensors.keys() - trains - top


@pytest.mark.parametrize(
    "moved",
    [
        "mobilenet_v2.layer.3.conv_3x3.convolution.weight",
        "mobilenet_v2.layer.3.conv_3x3.normalization.running_mean",
        "mobilenet_v2.layer.15.conv_3x3.normalization.running_var",  # unfrozen, but its statistics are kept
        "mobilenet_v2.conv_stem.first_conv.normalization.num_batches_tracked",
    ],
)
def test_digests_notice_one_moved_value_of_what_is_frozen(moved, load_tiny):
    model = load_tiny("mobilenet_v2").model
    before = frozen_at(model, 1)
    with torch.no_grad():
        flat = model.state_dict()[moved].reshape(-1)
        flat[-1:] = torch.nextafter(flat[-1:], torch.tensor(9.0)) if flat.is_floating_point() else flat[-1:] + 1
    assert changed(before, frozen_digests(model)) == {moved}


def test_digests_notice_nothing_else(load_tiny, tiny_inputs):
    model = load_tiny("mobilenet_v2").model
    before = frozen_at(model, 1, update_batch_norm=True)
    statistics = model.mobilenet_v2.conv_1x1.normalization.running_mean.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.5)
    model(**tiny_inputs("mobilenet_v2")).logits.square().sum().backward()
    optimizer.step()
    assert not torch.equal(statistics, model.mobilenet_v2.conv_1x1.normalization.running_mean)
    assert changed(before, frozen_digests(model)) == set()


def test_digests_are_of_bits_not_of_values():
    model = Blocks()
    with torch.no_grad():
        model.body.embed.bias.fill_(float("nan"))
        model.body.norm.bias.fill_(0.0)
    model.body.register_buffer("empty", torch.zeros(0))
    model.body.register_buffer("bits", torch.ones(3, dtype=torch.bfloat16))
    before = frozen_at(model, "head")
    assert changed(before, frozen_digests(model)) == set()  # NaN is equal to itself
    with torch.no_grad():
        model.body.norm.bias[0] = -0.0
    assert changed(before, frozen_digests(model)) == {"body.norm.bias"}
