import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
import zoo
from safetensors.torch import load_file, save_file

from hftl.model import heads
from hftl.model.layers import LayerGroups, find_backbone
from hftl.tasks import ImageClassification, TextClassification

every_family = pytest.mark.parametrize("family", [*zoo.IMAGE, *zoo.TEXT])
LABELS = ("ant", "bee", "übel, 3")


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A tiny model's folder to spoil."""

    def make(family: str) -> Path:
        shutil.copytree(tiny_model(family), tmp_path / family)
        return tmp_path / family

    return make


@pytest.fixture
def with_head(load_tiny, tmp_path):
    """A folder of a tiny model with a head for ``LABELS``, and that model."""

    def make(family: str) -> tuple[Path, torch.nn.Module]:
        model = load_tiny(family, LABELS, seed=7).model
        with torch.no_grad():
            for name in LayerGroups.of(model).parameters["head"]:
                model.get_parameter(name).normal_()  # biases too: new ones are zero
        model.save_pretrained(tmp_path / f"{family}-with-head")
        return tmp_path / f"{family}-with-head", model

    return make


def edit_weights(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Replace tensors of the checkpoint, or drop them (None)."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        del tensors[name]
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def parameters(model: torch.nn.Module, group: str | None = None) -> dict[str, torch.Tensor]:
    groups = LayerGroups.of(model).parameters
    names = [name for each in groups for name in groups[each] if group in (None, each)]
    return {name: model.get_parameter(name).detach() for name in names}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> dict[str, bool]:
    assert left.keys() == right.keys()
    return {name: torch.equal(left[name], right[name]) for name in left}


def drawn(name: str) -> bool:
    """Whether a head starts with random values here: biases start as zeros, norms as ones."""
    return name.endswith("weight") and "norm" not in name


# -- a new head ------------------------------------------------------------------------------------------------------


@every_family
def test_the_head_is_sized_and_named_by_the_labels(family, load_tiny, tiny_inputs, tmp_path):
    model = load_tiny(family, LABELS).model
    assert model(**tiny_inputs(family, rows=1)).logits.shape == (1, 3)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "ant", "1": "bee", "2": "übel, 3"}
    assert config["label2id"] == {"ant": 0, "bee": 1, "übel, 3": 2}
    assert not config.get("problem_type")


@every_family
def test_backbone_and_buffers_are_the_checkpoints_bit_for_bit(family, load_tiny, tiny_model):
    found = load_tiny(family).model.base_model.state_dict()
    stored = transformers.AutoModel.from_pretrained(tiny_model(family)).state_dict()
    assert {name for name in stored if name not in found} <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(tensor, stored[name]) for name, tensor in found.items())


@every_family
def test_a_new_head_depends_on_the_seed_alone(family, load_tiny):
    first, again, other = (parameters(load_tiny(family, seed=seed).model, "head") for seed in (1, 1, 2))
    assert all(same(first, again).values())
    assert not any(equal for name, equal in same(first, other).items() if drawn(name))


@every_family
def test_a_head_of_the_same_shape_is_replaced_all_the_same(family, with_head, load_tiny):
    folder, old = with_head(family)
    loaded, again, other = (load_tiny(family, LABELS, folder=folder, seed=seed) for seed in (1, 1, 2))
    head = parameters(loaded.model, "head")
    assert not any(same(head, parameters(old, "head")).values())
    assert all(same(head, parameters(again.model, "head")).values())
    assert not any(equal for name, equal in same(head, parameters(other.model, "head")).items() if drawn(name))
    assert loaded.new == tuple(head)
    assert loaded.dropped == tuple(sorted(head))
    for group in LayerGroups.of(old).names[:-1]:
        assert all(same(parameters(loaded.model, group), parameters(old, group)).values())


def test_a_parameter_of_the_model_itself_gets_a_fresh_start_as_well():
    class OwnScale(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.zeros(2))

        def _init_weights(self, module: torch.nn.Module) -> None:
            module.scale.data.fill_(1.0)

    model = OwnScale()
    assert heads._initialise_head(model, {"scale"}) == {"scale"}
    assert model.scale.tolist() == [1.0, 1.0]


@every_family
def test_a_kept_head_is_kept_bit_for_bit(family, with_head, load_tiny):
    folder, old = with_head(family)
    loaded = load_tiny(family, LABELS, folder=folder, keep_head=True, head_dropout=0.7)
    assert all(same(parameters(loaded.model), parameters(old)).values())
    assert (loaded.new, loaded.dropped) == ((), ())
    assert loaded.tensors == len(parameters(old))
    assert loaded.parameters == old.num_parameters()
    kept = [module.p for module in loaded.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert 0.7 not in kept  # its dropout is kept as well


@pytest.mark.parametrize(
    ("family", "new", "dropped"),
    [
        ("vit", {"classifier.weight", "classifier.bias"}, {"classifier.weight", "classifier.bias"}),
        ("resnet", {"classifier.1.weight", "classifier.1.bias"}, {"classifier.1.weight", "classifier.1.bias"}),
        ("bert", {"classifier.weight", "classifier.bias"}, set()),
        (
            "distilbert",
            {"pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"},
            set(),
        ),
        (
            "roberta",
            {
                "classifier.dense.weight",
                "classifier.dense.bias",
                "classifier.out_proj.weight",
                "classifier.out_proj.bias",
            },
            {"pooler.dense.weight", "pooler.dense.bias"},
        ),
    ],
)
def test_what_is_new_and_what_is_dropped(family, new, dropped, load_tiny):
    loaded = load_tiny(family)  # three labels; the image checkpoints have heads for five, the text ones none
    assert set(loaded.new) == new
    assert set(loaded.dropped) == dropped
    sizes = {name: parameter.numel() for name, parameter in loaded.model.named_parameters()}
    assert loaded.tensors == len(sizes) - len(new)
    assert loaded.parameters == sum(size for name, size in sizes.items() if name not in new)


def test_a_missing_pooler_is_new(copy, load_tiny):
    folder = copy("bert")
    edit_weights(folder, {"pooler.dense.weight": None, "pooler.dense.bias": None})  # as trained on masked words
    loaded = load_tiny("bert", folder=folder)
    assert set(loaded.new) == {f"{m}.{p}" for m in ("bert.pooler.dense", "classifier") for p in ("weight", "bias")}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["vit", "mobilenet_v2", "bert"])
def test_half_precision_checkpoints_load_in_float32(family, dtype, tiny_model, load_tiny, tmp_path):
    transformers.AutoModel.from_pretrained(tiny_model(family), dtype=dtype).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    model = load_tiny(family, folder=tmp_path).model
    floating = {t.dtype for t in model.state_dict().values() if t.is_floating_point()}
    assert floating == {torch.float32}
    exact = parameters(load_tiny(family).model, "block 0")
    for name, tensor in parameters(model, "block 0").items():
        assert torch.equal(tensor, exact[name].to(dtype).float())


@pytest.mark.parametrize(
    ("family", "setting", "checkpoint"),
    [
        ("mobilenet_v1", "classifier_dropout_prob", 0.999),
        ("mobilenet_v2", "classifier_dropout_prob", 0.8),
        ("efficientnet", "dropout_rate", 0.5),
        ("bert", "classifier_dropout", None),
        ("distilbert", "seq_classif_dropout", 0.2),
        ("roberta", "classifier_dropout", None),
        ("albert", "classifier_dropout_prob", 0.1),
        ("deberta-v2", "pooler_dropout", 0.0),
        ("deberta-v2", "cls_dropout", None),  # read by the model, but not in its configuration
        ("modernbert", "classifier_dropout", 0.0),
    ],
)
def test_the_dropout_of_a_new_head_is_its_own(family, setting, checkpoint, tiny_model, load_tiny, tmp_path):
    assert json.loads((tiny_model(family) / "config.json").read_text()).get(setting) == checkpoint
    model = load_tiny(family, head_dropout=0.3).model
    backbone, within = find_backbone(model)
    outside = {
        name: module.p
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Dropout) and not name.startswith(f"{backbone}.")
    }
    assert set(outside.values()) == {0.3}
    inside = {module.p for module in within.modules() if isinstance(module, torch.nn.Dropout)}
    assert 0.3 not in inside
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())[setting] == 0.3
    plain = getattr(transformers, type(model).__name__).from_pretrained(tmp_path)
    assert {name: plain.get_submodule(name).p for name in outside} == outside


# -- checkpoints that do not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "as_family"), [("bert", "vit"), ("vit", "bert")])
def test_a_model_of_another_kind(family, as_family, tiny_model, load_tiny, one_line_error):
    with one_line_error(str(tiny_model(family)), repr(family), "does not fit this task", "AutoModelFor"):
        load_tiny(as_family, folder=tiny_model(family))


@pytest.mark.parametrize("folder", ["/nowhere/at/all", "./nowhere", "no-such-folder-or-hub-model"])
def test_a_missing_folder(folder, load_tiny, one_line_error):
    with one_line_error(f"--model {folder}", "folder"):
        load_tiny("vit", folder=folder)


def test_a_folder_without_a_configuration(copy, load_tiny, one_line_error):
    folder = copy("vit")
    (folder / "config.json").unlink()
    with one_line_error(str(folder), "config.json"):
        load_tiny("vit", folder=folder)


@pytest.mark.parametrize("text", ["{nonsense", "{}", '{"model_type": "no-such-type"}'])
def test_an_unusable_configuration(text, copy, load_tiny, one_line_error):
    folder = copy("vit")
    (folder / "config.json").write_text(text)
    with one_line_error(str(folder)):
        load_tiny("vit", folder=folder)


def test_a_folder_without_weights(copy, load_tiny, one_line_error):
    folder = copy("vit")
    (folder / "model.safetensors").unlink()
    with one_line_error(str(folder), "weights do not load", "model.safetensors"):
        load_tiny("vit", folder=folder)


@pytest.mark.parametrize("content", [b"", b"no tensors", None], ids=["empty", "garbage", "half"])
def test_damaged_weights(content, copy, load_tiny, one_line_error):
    folder = copy("vit")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2] if content is None else content)
    with one_line_error(str(folder), "weights do not load"):
        load_tiny("vit", folder=folder)


class Trap:
    """What a malicious pickle can be."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return Path.touch, (self.sprung,)


def test_pickled_weights_are_refused_unread(copy, load_tiny, one_line_error, tmp_path):
    folder = copy("vit")
    (folder / "model.safetensors").unlink()
    torch.save({"trap": Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    with one_line_error(str(folder), "model.safetensors"):
        load_tiny("vit", folder=folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("family", "tensor"),
    [
        ("bert", "encoder.layer.1.output.dense.weight"),
        ("vit", "vit.embeddings.cls_token"),
        ("mobilenet_v2", "mobilenet_v2.layer.0.conv_3x3.normalization.running_mean"),
        ("mobilenet_v2", "mobilenet_v2.conv_1x1.normalization.running_var"),
    ],
)
def test_missing_backbone_tensors(family, tensor, copy, load_tiny, one_line_error):
    folder = copy(family)
    edit_weights(folder, {tensor: None})
    loaded = load_tiny(family, folder=folder)
    with one_line_error(str(folder), "no weights for 1 of", tensor):
        heads.check_backbone(loaded, LayerGroups.of(loaded.model), str(folder))


def test_backbone_tensors_of_another_shape(copy, load_tiny, one_line_error):
    folder = copy("vit")
    edit_weights(folder, {"vit.embeddings.position_embeddings": torch.zeros(1, 5, 16)})
    loaded = load_tiny("vit", folder=folder)
    with one_line_error(str(folder), "vit.embeddings.position_embeddings", "does not fit"):
        heads.check_backbone(loaded, LayerGroups.of(loaded.model), str(folder))


@pytest.mark.parametrize(("family", "labels"), [("bert", ("a", "b")), ("vit", ("a", "b"))], ids=["none", "other size"])
def test_a_head_to_keep_that_is_not_there(family, labels, load_tiny, one_line_error):
    with one_line_error("no head for 2 labels", "classifier.weight", "--keep-head"):
        load_tiny(family, labels, keep_head=True)


# -- the labels of a head --------------------------------------------------------------------------------------------


def own_labels(folder: Path, label_map: dict[str, str]) -> tuple[str, ...]:
    return heads.own_labels("AutoModelForImageClassification", str(folder), label_map, False)


@pytest.mark.parametrize(
    ("label_map", "expected"),
    [
        ({}, ("ant", "bee", "übel, 3")),
        ({"bee": "wasp"}, ("ant", "wasp", "übel, 3")),
        ({"ant": "bee", "bee": "ant"}, ("bee", "ant", "übel, 3")),
    ],
)
def test_own_labels_in_the_order_of_the_head(label_map, expected, with_head):
    folder, _ = with_head("vit")
    assert own_labels(folder, label_map) == expected


def test_a_label_map_for_a_label_that_the_model_has_not(with_head, one_line_error):
    folder, _ = with_head("vit")
    with one_line_error("--task.label-map", "'wasp'", "ant, bee"):
        own_labels(folder, {"wasp": "bee"})


def test_a_label_map_that_makes_two_labels_one(with_head, one_line_error):
    folder, _ = with_head("vit")
    with one_line_error("--task.label-map", "two labels", "'bee'"):
        own_labels(folder, {"ant": "bee"})


# -- without weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kind"), [("vit", "ViTForImageClassification"), ("bert", "BertForSequenceClassification")]
)
def test_a_skeleton_reads_no_weights(family, kind, copy):
    folder = copy(family)
    (folder / "model.safetensors").unlink()
    model = heads.skeleton(str(folder), [ImageClassification, TextClassification], False)
    assert type(model).__name__ == kind
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert LayerGroups.of(model).blocks == 4


def test_a_skeleton_that_fits_no_task(tiny_model, one_line_error):
    with one_line_error("'bert'", "does not fit"):
        heads.skeleton(str(tiny_model("bert")), [ImageClassification], False)


@pytest.mark.parametrize("family", ["mobilenet_v1", "mobilenet_v2", "efficientnet"])
def test_running_statistics_are_of_more_than_the_last_batch(family, tiny_model, load_tiny):
    """TensorFlow's decay stands where torch expects one minus that."""

    def momenta(model):
        return {module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)}

    plain = transformers.AutoModelForImageClassification.from_pretrained(tiny_model(family))
    assert max(momenta(plain)) >= 0.99
    assert momenta(load_tiny(family).model) == {0.1}
    assert momenta(load_tiny("resnet").model) == {0.1}, "as it was"
