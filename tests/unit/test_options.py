"""Plain options of a run: each changes what it should and nothing else."""

import copy
import shutil

import numpy as np
import pytest
import torch
from quick_runs import moved_in_each_phase, quick, states
from safetensors.torch import load_file

from hftl import Phase, Trainer
from hftl.model.layers import LayerGroups, freeze
from hftl.model.optim import averaged, build_optimizer, set_lr, update_average
from hftl.recipe.recipe import Store
from hftl.records import Evaluated, PhaseStarted, StepTaken
from hftl.tasks import ImageClassification, TextClassification

OFF = Store(use=False)
"""A head on stored features is not compiled."""

# -- what trains of a block ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "bert", "mobilenet_v2", "resnet"])
@pytest.mark.parametrize("train", ["bias", "norm"])
def test_biases_or_norms_alone_train_with_the_head(family, train, tiny_model, photos, reviews, tmp_path):
    task = TextClassification(str(reviews)) if family == "bert" else ImageClassification(str(photos))
    phases = (Phase(2, 1, 1e-2, train=train),)
    trainer = Trainer(quick(task, tiny_model(family), tmp_path / "run", phases=phases))
    ((_, moved),) = moved_in_each_phase(trainer)
    groups = trainer.ready.groups
    blocks = {name for group in groups.names[-4:-2] for name in groups.parameters[group]}
    upper = {name for group in ("neck", "head") for name in groups.parameters[group]}
    norms = [path for path, module in trainer.model.named_modules() if "Norm" in type(module).__name__]
    wanted = {
        "bias": {name for name in blocks if name.endswith(".bias")},
        "norm": {name for name in blocks if name.rpartition(".")[0] in norms},
    }[train]
    assert moved & blocks
    assert moved <= wanted | upper
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trainable == wanted | upper


def test_a_model_without_biases_says_so(load_tiny, one_line_error):
    model = load_tiny("bert").model
    for module in model.bert.encoder.modules():
        if hasattr(module, "bias"):
            module.bias = None
    with one_line_error("train: bias", "have none", "weights"):
        freeze(model, LayerGroups.of(model), 2, "bias")


def test_a_parameter_that_no_gradient_reaches_stays_frozen(tiny_model, photos, tmp_path, monkeypatch):
    """As DINOv2's mask token: neither the optimizer nor DDP may wait for it."""
    import hftl.prepare

    original = hftl.prepare.LayerGroups.of.__func__

    def with_idle(cls, model, overrides=None):
        model.vit.embeddings.mask_token = torch.nn.Parameter(torch.ones(1, 1, 16))
        return original(cls, model, overrides)

    monkeypatch.setattr(hftl.prepare.LayerGroups, "of", classmethod(with_idle))
    phases = (Phase("head", 1, 1e-2), Phase("all", 1, 1e-2))
    trainer = Trainer(quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", phases=phases))
    started = [record for record in trainer.run() if isinstance(record, PhaseStarted)]
    assert [record.idle for record in started] == [[], ["vit.embeddings.mask_token"]]
    stem = started[1].groups[0]
    assert stem.trainable == stem.parameters - 16
    assert not trainer.model.vit.embeddings.mask_token.requires_grad


# -- a moving average of the weights ---------------------------------------------------------------------------------


def test_the_average_follows_its_definition_and_swaps_in_and_out(load_tiny):
    model = load_tiny("vit").model
    groups, phase = LayerGroups.of(model), Phase("head")
    freeze(model, groups, "head")
    optimizer = build_optimizer(model, groups, phase)
    expected = None
    for step in range(20):
        for parameter in model.classifier.parameters():
            parameter.grad = torch.ones_like(parameter)
        set_lr(optimizer, 0.1)
        optimizer.step()
        update_average(optimizer, 0.6, step)
        now = model.classifier.weight.detach().clone()
        decay = min(0.6, (1 + step) / (10 + step))
        expected = now if expected is None else decay * expected + (1 - decay) * now
    backbone = copy.deepcopy(model.vit.state_dict())
    with averaged(optimizer):
        torch.testing.assert_close(model.classifier.weight.detach(), expected)
    assert torch.equal(model.classifier.weight, now)
    assert all(torch.equal(tensor, backbone[name]) for name, tensor in model.vit.state_dict().items())


def test_what_is_evaluated_and_kept_is_the_average_and_the_training_is_the_same(tiny_model, reviews, tmp_path):
    def fit(name, ema):
        phases = (Phase("all", 2, 1e-2, warmup=0.0),)
        recipe = quick(TextClassification(str(reviews)), tiny_model("bert"), tmp_path / name, phases=phases, ema=ema)
        trainer, losses, scores, last = Trainer(recipe), [], [], {}
        for record in trainer.run():
            if isinstance(record, StepTaken):
                losses.append(record.loss)
                last = states(trainer)
            if isinstance(record, Evaluated) and record.split == "validation":
                scores.append(record.scores["loss"])
        return losses, scores, last, load_file(tmp_path / name / "model" / "model.safetensors")

    losses, scores, last, saved = fit("plain", None)
    losses_of_ema, scores_of_ema, last_of_ema, average = fit("ema", 0.8)
    assert losses == losses_of_ema
    assert all(torch.equal(last[name], last_of_ema[name]) for name in last)
    assert scores != scores_of_ema
    assert not all(torch.equal(saved[name], average[name]) for name in saved)


# -- gradient checkpointing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["weights", "lora"])
def test_gradient_checkpointing_computes_blocks_again_and_changes_no_bit(
    train, tiny_model, reviews, tmp_path, monkeypatch
):
    """With dropout on: its draws are repeated in the second computation."""
    import torch.utils.checkpoint

    calls = []
    original = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    monkeypatch.setattr("transformers.modeling_utils.checkpoint", torch.utils.checkpoint.checkpoint)

    def fit(name, on):
        calls.clear()
        phases = (Phase("head", 1, 1e-2), Phase(2, 1, 1e-2, train=train))
        recipe = quick(
            TextClassification(str(reviews)),
            tiny_model("bert"),
            tmp_path / name,
            phases=phases,
            merge_lora=True,
            gradient_checkpointing=on,
        )
        trainer = Trainer(recipe)
        losses = [record.loss for record in trainer.run() if isinstance(record, StepTaken)]
        return losses, len(calls), load_file(tmp_path / name / "model" / "model.safetensors")

    plain, without, saved = fit("plain", False)
    checkpointed, with_it, same = fit("checkpointed", True)
    assert (without, with_it) == (0, 2 * len(plain) // 2)  # two unfrozen blocks, in the steps of the second phase
    assert plain == checkpointed
    assert all(torch.equal(saved[name], same[name]) for name in saved)


def test_where_it_is_not_supported_it_is_refused(tiny_model, photos, tmp_path, one_line_error):
    recipe = quick(
        ImageClassification(str(photos)), tiny_model("mobilenet_v2"), tmp_path / "run", gradient_checkpointing=True
    )
    with one_line_error("--gradient-checkpointing", "MobileNetV2ForImageClassification"):
        Trainer(recipe).fit()
    assert not (tmp_path / "run").exists()


# -- compilation -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile wants a C++ compiler on a CPU, and there is none"
)
def test_a_compiled_run_ends_where_a_plain_one_does(tiny_model, photos, tmp_path):
    def fit(name, on):
        phases = (Phase("head", 1, 1e-2), Phase(1, 1, 1e-3))
        task = ImageClassification(str(photos), augment="none")
        recipe = quick(task, tiny_model("vit"), tmp_path / name, phases=phases, head_dropout=0.0, compile=on, store=OFF)
        trainer, compiled = Trainer(recipe), set()
        losses = []
        for record in trainer.run():
            if isinstance(record, StepTaken):
                losses.append(record.loss)
                compiled.add(trainer.model._compiled_call_impl is not None)
        return losses, compiled, load_file(tmp_path / name / "model" / "model.safetensors")

    plain, off, saved = fit("plain", False)
    faster, on, same = fit("compiled", True)
    assert (off, on) == ({False}, {True})
    np.testing.assert_allclose(plain, faster, rtol=1e-4)
    for name in saved:
        if not name.endswith("key.bias"):  # its gradient is rounding alone, and Adam steps by its sign
            torch.testing.assert_close(saved[name], same[name], atol=1e-4, rtol=1e-3)


def test_where_nothing_can_be_compiled_it_says_so(tiny_model, photos, tmp_path, monkeypatch, one_line_error):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    recipe = quick(ImageClassification(str(photos)), tiny_model("vit"), tmp_path / "run", compile=True)
    with one_line_error("--compile", "leave it out"):
        Trainer(recipe).fit(display=False)
