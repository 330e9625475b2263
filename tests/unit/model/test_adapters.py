"""Adapters: in, merged, out again, and as a folder that peft and the predictor load."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from quick_runs import moved_in_each_phase, quick
from zoo import IMAGE, TEXT, auto_class

from hftl import Phase, Predictor, Trainer
from hftl.model import adapters, heads
from hftl.model.layers import LayerGroups
from hftl.recipe.phase import LoRA
from hftl.tasks import ImageClassification, TextClassification

every_family = pytest.mark.parametrize("family", [*IMAGE, *TEXT])


def logits(model, inputs):
    """In double precision: small random networks are ill-conditioned."""
    given = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    if getattr(model.config, "pad_token_id", 0) is None:
        model.config.pad_token_id = 0  # as the task does
    return model.double().eval()(**given).logits


def adapted(load_tiny, family, lora=None, unfreeze="all", scale=0.05):
    """A tiny model with adapters that do something, its groups with and without them."""
    model = load_tiny(family).model.eval()
    groups, lora = LayerGroups.of(model), lora or LoRA()
    adapters.inject(model, adapters.targets(model, groups, unfreeze, lora), lora)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    return model.eval(), groups, adapters.regroup(model, groups)


@every_family
def test_new_adapters_change_nothing_and_lie_in_the_groups_of_their_weights(family, load_tiny, tiny_inputs):
    inputs = tiny_inputs(family)
    plain = load_tiny(family).model.eval()
    model, groups, regrouped = adapted(load_tiny, family, unfreeze=0.5, scale=0.0)
    torch.testing.assert_close(logits(model, inputs), logits(plain, inputs))
    assert sorted(n for names in regrouped.parameters.values() for n in names) == sorted(
        n for n, _ in model.named_parameters()
    )
    assert regrouped.names == groups.names
    new = {g: sum(".lora_" in n for n in names) for g, names in regrouped.parameters.items()}
    with_adapters = {group for group, count in new.items() if count}
    assert with_adapters  # some of the unfrozen blocks may be depthwise convolutions alone
    assert with_adapters <= groups.unfrozen(0.5) - {"neck", "head"}
    without = {
        group: [n.replace(".base_layer.", ".") for n in names if ".lora_" not in n]
        for group, names in regrouped.parameters.items()
    }
    assert without == {group: list(names) for group, names in groups.parameters.items()}


@every_family
def test_merged_adapters_leave_a_plain_model_that_computes_the_same(family, load_tiny, tiny_inputs):
    inputs = tiny_inputs(family)
    plain = load_tiny(family).model.eval()
    model, _, _ = adapted(load_tiny, family)
    expected = logits(model, inputs)
    assert (expected - logits(plain, inputs)).abs().max() > 0.001 * expected.abs().max() > 0
    adapters.merge(model)
    torch.testing.assert_close(logits(model, inputs), expected, atol=0, rtol=1e-5)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not hasattr(model, "peft_config")
    adapters.merge(model)  # nothing is left to merge


@every_family
@pytest.mark.parametrize("dora", [False, True])
def test_a_saved_folder_is_peft_s_own_and_gives_the_same_logits(
    family, dora, load_tiny, tiny_model, tiny_inputs, tmp_path
):
    from peft import PeftModel

    lora = LoRA(rank=2, alpha=4, dora=dora)
    model, _, groups = adapted(load_tiny, family, lora)
    with torch.no_grad():
        for buffer in (b for n, b in model.named_buffers() if n.endswith("running_mean")):
            buffer.add_(0.1)  # statistics that have moved have to come along
    adapters.save(tmp_path / "adapter", model, groups, lora, str(tiny_model(family)))
    expected = logits(model, tiny_inputs(family))
    assert expected.abs().max() > 1e-3
    model.config.save_pretrained(tmp_path / "adapter")

    config = transformers.AutoConfig.from_pretrained(tmp_path / "adapter")
    base = getattr(transformers, auto_class(family)).from_pretrained(
        tiny_model(family), config=config, ignore_mismatched_sizes=True
    )
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").double().merge_and_unload()
    torch.testing.assert_close(logits(theirs, tiny_inputs(family)), expected)
    ours = heads.load(auto_class(family), str(tmp_path / "adapter"), ("a", "b", "c"), True, 0.0, False)
    torch.testing.assert_close(
        logits(ours.model, tiny_inputs(family)), expected, atol=1e-4, rtol=1e-3
    )  # merged in fp32


def test_targets_are_chosen_by_a_regular_expression(load_tiny, one_line_error):
    model = load_tiny("bert").model
    groups = LayerGroups.of(model)
    assert adapters.targets(model, groups, 1, LoRA(targets="query|value")) == [
        "bert.encoder.layer.3.attention.self.query",
        "bert.encoder.layer.3.attention.self.value",
    ]
    assert len(adapters.targets(model, groups, "all", LoRA())) == 4 * 6
    with one_line_error("lora.targets", "q_proj", "24"):
        adapters.targets(model, groups, "all", LoRA(targets="q_proj"))


def test_depthwise_convolutions_get_no_adapter(load_tiny):
    model = load_tiny("mobilenet_v2").model
    chosen = adapters.targets(model, LayerGroups.of(model), "all", LoRA())
    assert chosen
    assert not [name for name in chosen if model.get_submodule(name).groups > 1]


# -- in a run --------------------------------------------------------------------------------------------------------

HEAD, ADAPT, ALL = Phase("head", 1, 1e-2), Phase("all", 1, 1e-2, train="lora", head_scale=1.0), Phase("all", 1, 1e-3)


@pytest.mark.parametrize("family", ["vit", "mobilenet_v2", "bert"])
def test_head_then_adapters_then_everything(family, tiny_model, photos, reviews, tmp_path):
    task = ImageClassification(str(photos)) if auto_class(family).endswith("ImageClassification") else None
    task = task or TextClassification(str(reviews))
    trainer = Trainer(quick(task, tiny_model(family), tmp_path / "run", phases=(HEAD, ADAPT, ALL)))
    moved = dict(moved_in_each_phase(trainer))
    groups = trainer.ready.groups
    assert moved[0] <= set(groups.parameters["head"])
    upper = {name for group in ("neck", "head") for name in groups.parameters[group]}
    assert all(".lora_" in name or name in upper for name in moved[1])
    assert any(".lora_B" in name for name in moved[1])
    assert moved[2] <= set(groups.group_of_parameter())  # plain names again
    assert len(moved[2]) > len(moved[1]) / 2


def run_of(tiny_model, data, folder, **settings):
    task, family = (
        (TextClassification(str(data)), "bert") if Path(data).is_file() else (ImageClassification(str(data)), "resnet")
    )
    phases = (Phase("head", 1, 1e-6), Phase("all", 6, 1e-2, train="lora", head_scale=1.0))
    given = {"best_by": "loss", "refit": False, **settings}
    trainer = Trainer(quick(task, tiny_model(family), folder, phases=phases, **given))
    return trainer, trainer.fit(display=False)


@pytest.mark.parametrize("data", ["reviews", "photos"])
def test_the_adapters_are_the_result_and_the_predictor_loads_them(data, tiny_model, tmp_path, request):
    trainer, ended = run_of(tiny_model, request.getfixturevalue(data), tmp_path / "run")
    assert (ended.best_phase, ended.saved) == (1, "adapter")
    assert not (tmp_path / "run" / "model").exists()
    assert len({file.stat().st_mode for file in (tmp_path / "run" / "adapter").iterdir()}) == 1
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model("bert" if data == "reviews" else "resnet").resolve())
    again = Predictor(tmp_path / "run").evaluate("validation")
    assert again == pytest.approx(ended.scores["validation"], abs=1e-5)
    assert trainer.evaluate("validation") == pytest.approx(again, abs=1e-5)


def test_a_second_pass_on_all_rows_ends_with_adapters_as_well(tiny_model, reviews, tmp_path):
    """Those of the second pass, over the checkpoint as it was."""
    trainer, ended = run_of(tiny_model, reviews, tmp_path / "run", refit=True)
    assert (ended.best_phase, ended.saved, ended.refit) == (1, "adapter", True)
    again = Predictor(tmp_path / "run").evaluate("validation")
    assert trainer.evaluate("validation") == pytest.approx(again, abs=1e-5)
    run_of(tiny_model, reviews, tmp_path / "first")
    assert Predictor(tmp_path / "first").evaluate("validation") != pytest.approx(again, abs=1e-5)


def test_merged_on_request_it_is_an_ordinary_model(tiny_model, reviews, tmp_path):
    _, apart = run_of(tiny_model, reviews, tmp_path / "apart")
    _, merged = run_of(tiny_model, reviews, tmp_path / "merged", merge_lora=True)
    assert merged.saved == "model"
    assert not (tmp_path / "merged" / "adapter").exists()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged" / "model")
    assert not [name for name in model.state_dict() if "lora" in name]
    assert merged.scores == apart.scores
    assert Predictor(tmp_path / "merged").evaluate("validation") == pytest.approx(apart.scores["validation"], abs=1e-5)


def test_adapters_over_weights_that_moved_before_are_merged(tiny_model, reviews, tmp_path):
    """A peft folder names a checkpoint: it cannot stand on a backbone that is no longer the checkpoint's."""
    phases = (Phase(1, 1, 1e-3), Phase("all", 2, 1e-2, train="lora"))
    settings = {"phases": phases, "best_by": "loss", "refit": False}
    recipe = quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / "run", **settings)
    ended = Trainer(recipe).fit(display=False)
    assert (ended.best_phase, ended.saved) == (1, "model")
    assert Predictor(tmp_path / "run").evaluate("validation") == pytest.approx(ended.scores["validation"], abs=1e-5)


def test_what_cannot_be_adapted_is_said_before_anything_is_written(tiny_model, reviews, tmp_path, one_line_error):
    phases = (HEAD, Phase("all", 1, train="lora", lora=LoRA(targets="nothing")))
    with one_line_error("lora.targets", "nothing"):
        Trainer(quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / "run", phases=phases)).fit()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", ["reviews", "photos"])
def test_what_the_card_tells_people_to_type_gives_the_answers_of_the_predictor(
    data, tiny_model, tmp_path, request, capsys, monkeypatch
):
    source = request.getfixturevalue(data)
    run_of(tiny_model, source, tmp_path / "run")
    (given,) = ["good film"] if data == "reviews" else sorted(map(str, source.rglob("test/red/0.png")))
    (answer,) = Predictor(tmp_path / "run")([given])
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card
    assert "all, lora" in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    model = tiny_model("bert" if data == "reviews" else "resnet")
    code = re.sub("a text of any length|photo.jpg", given, snippet.replace(f'"{model.name}"', f'"{model}"'))
    monkeypatch.chdir(tmp_path / "run")
    exec(code, shown := {})
    best = shown["answer"](given)[0]
    assert (best["label"], best["score"]) == (answer["label"], pytest.approx(answer["score"], abs=1e-5))
