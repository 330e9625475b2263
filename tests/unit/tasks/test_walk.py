"""Every architecture through a whole run: partition, modes, what moves, what is saved, what is printed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from zoo import AUDIO, IMAGE, MELS, TEXT, auto_class

from hftl import Phase, Recipe, Trainer
from hftl.cli import main
from hftl.model.layers import LayerGroups
from hftl.records import PhaseEnded, PhaseStarted, RunStarted, StepTaken
from hftl.tasks import AudioClassification, ImageClassification, TextClassification
from hftl.tasks.audio_classification import Mel

# family -> how many blocks its tiny model has
BLOCKS = dict.fromkeys([*IMAGE, *TEXT, *AUDIO, *MELS], 4) | {
    "albert": 1,  # its layers are all one and the same
    "efficientnet": 8,
    "mel-efficientnet": 8,
    "mel-mobilenet_v1": 26,
    "mobilenet_v1": 26,
    "mobilenet_v2": 16,
    "timm-vgg16": 12,
    "timm-inception_v3": 12,
    "timm-mobilenetv3_small_100": 6,
    "timm-efficientnet_b0": 7,
}
UNREACHED = {
    "dinov2": {"dinov2.embeddings.mask_token"},
    "wav2vec2": {"wav2vec2.masked_spec_embed"},
    "wav2vec2-layer-norm": {"wav2vec2.masked_spec_embed"},
    "hubert": {"hubert.masked_spec_embed"},
    "wavlm": {"wavlm.masked_spec_embed"},
    "data2vec-audio": {"data2vec_audio.masked_spec_embed"},
    "wav2vec2-bert": {"wav2vec2_bert.masked_spec_embed"},
}
"""Parameters that take no part in the forward pass, or in that of training alone."""

PHASES = tuple(
    Phase(depth, epochs=1, lr=1e-2, warmup=0.0, schedule="constant", weight_decay=0.5, batch_norm="keep")
    for depth in ("head", 1, "all")
)
every_family = pytest.mark.parametrize("family", [*IMAGE, *TEXT, *AUDIO, *MELS])


@every_family
def test_every_architecture_goes_through_a_whole_run(
    family: str,
    tiny_model: Callable[[str], Path],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    optimized = names_given_to_the_optimizer(monkeypatch)
    monkeypatch.setattr("hftl.report.curves.draw", lambda folder: None)  # the same for all, and slow
    task = task_of(family, request)
    recipe = Recipe(
        task=task,
        model=str(tiny_model(family)),
        phases=PHASES,
        batch_size=8,
        precision="fp32",
        output_dir=str(tmp_path / "run"),
    )
    trainer = Trainer(recipe)
    for record in trainer.run():
        if isinstance(record, RunStarted):
            unreached = without_gradient(trainer)
            assert unreached == UNREACHED.get(family, set())
            groups = trainer.ready.groups
            group_of = groups.group_of_parameter()
            assert_partition(groups, trainer.model, BLOCKS[family])
        if isinstance(record, PhaseStarted):
            unfrozen = groups.unfrozen(trainer.ready.recipe.phases[record.phase].unfreeze)
            declared = {name for name, group in group_of.items() if group in unfrozen} - unreached
            before = state(trainer.model)
        if isinstance(record, StepTaken):
            assert modes(trainer.model) == expected_modes(trainer.model, groups, unfrozen)
        if isinstance(record, PhaseEnded):
            after = state(trainer.model)
            moved = {name for name in before if not torch.equal(before[name], after[name])}
            trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
            assert moved == declared
            assert trainable - unreached == declared
            assert optimized[record.phase] - unreached == declared

    saved = Path(trainer.recipe.output_dir or "") / "model"
    plain = getattr(transformers, auto_class(family)).from_pretrained(saved).eval()
    inputs = trainer.ready.examples("train").__getitems__(range(5)).inputs
    assert tuple(plain.config.id2label.values()) == trainer.ready.splits.labels
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in state(trainer.model).items())
    with torch.no_grad():
        trained = trainer.model.eval()(**inputs).logits
    torch.testing.assert_close(plain(**inputs).logits, trained, rtol=1e-4, atol=1e-4)  # convolutions: another layout

    capsys.readouterr()
    main(["layers", str(saved)])
    assert_legible(capsys.readouterr().out, groups, plain)


@pytest.mark.parametrize("family", TEXT)
def test_the_logits_of_a_text_do_not_depend_on_its_padding(family: str, tiny_model: Callable[[str], Path]) -> None:
    """Also where the end-of-text token pads, and a text ends with it."""
    from datasets import Dataset

    task, source = TextClassification("unused"), str(tiny_model(family))
    tokenizer = task.load_processor(source, False)
    model = task.load_model(source, ("a", "b"), tokenizer, False, 0.0, False).model.eval()
    texts = ["good film", "the plot was not very good and the actor was awful", "bad", "a scene of great actor"]
    end = tokenizer.eos_token or tokenizer.sep_token
    rows = Dataset.from_dict({"text": [*texts, f"fine film {end}"]})
    examples = task.examples(rows, tokenizer, augment=False)
    with torch.no_grad():
        together = model(**examples.__getitems__(range(5)).inputs).logits
        alone = torch.cat([model(**examples.__getitems__([row]).inputs).logits for row in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert (alone.std(dim=0) > 1e-3).all()  # it does depend on the text


@pytest.mark.parametrize(("family", "end"), [("gpt2", "<|endoftext|>"), ("llama", "</s>")])
def test_where_no_token_is_for_padding_the_end_of_text_pads_and_it_is_said_and_saved(
    family: str, end: str, tiny_model: Callable[[str], Path], reviews: Path, tmp_path: Path
) -> None:
    source = tiny_model(family)
    assert transformers.AutoTokenizer.from_pretrained(source).pad_token is None
    assert transformers.AutoConfig.from_pretrained(source).pad_token_id is None
    recipe = Recipe(
        TextClassification(str(reviews), max_rows=16), str(source), PHASES[:1], output_dir=str(tmp_path / "run")
    )
    started, *_ = Trainer(recipe).run()
    assert isinstance(started, RunStarted)
    assert f"texts are padded with the end-of-text token {end!r}" in started.notes
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert (tokenizer.pad_token, tokenizer.padding_side) == (end, "right")
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["pad_token_id"] == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids(end)
    answers = transformers.pipeline("text-classification", str(tmp_path / "run" / "model"))(
        ["good film", "bad plot and awful actor"], batch_size=2
    )
    assert [answer["label"] in ("negative", "positive") for answer in answers] == [True, True]


def task_of(family: str, request: pytest.FixtureRequest) -> Any:
    """A few rows of what the family takes."""
    if family in IMAGE:
        return ImageClassification(str(request.getfixturevalue("photos")), max_rows=16)
    if family in TEXT:
        return TextClassification(str(request.getfixturevalue("reviews")), max_rows=16)
    mel = Mel(**MELS[family][1]) if family in MELS else Mel()
    return AudioClassification(str(request.getfixturevalue("calls")), max_rows=12, mel=mel)


# -- what is expected ------------------------------------------------------------------------------------------------


def assert_partition(groups: LayerGroups, model: nn.Module, blocks: int) -> None:
    """Every parameter once, no block and no head without any, and so many blocks."""
    grouped = [name for names in groups.parameters.values() for name in names]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    assert groups.names == ("stem", *(f"block {number}" for number in range(blocks)), "neck", "head")
    assert all(groups.parameters[name] for name in groups.names if name != "neck")


def expected_modes(model: nn.Module, groups: LayerGroups, unfrozen: frozenset[str]) -> dict[str, bool]:
    """The rule of ``layers.set_modes``, said another way: each module by the parameters below it."""
    group_of, owner = groups.group_of_parameter(), groups.backbone.rpartition(".")[0]
    found: dict[str, bool] = {}
    for path, module in model.named_modules():
        below = [group_of[f"{path}.{name}".lstrip(".")] for name, _ in module.named_parameters()]
        parent = path.rpartition(".")[0]
        outside = parent == owner and path not in ("", groups.backbone)  # beside the backbone, so of the head
        found[path] = set(below) <= unfrozen if below else outside or found[parent]
        if isinstance(module, nn.BatchNorm2d):
            found[path] = False
    return found


def assert_legible(shown: str, groups: LayerGroups, model: nn.Module) -> None:
    """Each group with its tensors and parameters on one line, and no line longer than a terminal is wide."""
    lines = shown.splitlines()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for group, names in groups.parameters.items():
        cells = [group, str(len(names)), f"{sum(sizes[name] for name in names):,}"]
        rows = [line for line in lines if line.startswith(f"{group} ")]
        assert len(rows) == 1
        assert rows[0].split()[: len(group.split()) + 2] == " ".join(cells).split()
    assert max(map(len, lines)) <= 80


# -- what is seen ----------------------------------------------------------------------------------------------------


def names_given_to_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """A list that grows by the names of the optimizer's parameters at every phase."""
    import hftl.trainer

    seen: list[set[str]] = []
    build = hftl.trainer.build_optimizer

    def spy(*arguments: Any) -> torch.optim.Optimizer:
        optimizer = build(*arguments)
        seen.append({name for group in optimizer.param_groups for name in group["names"]})
        return optimizer

    monkeypatch.setattr(hftl.trainer, "build_optimizer", spy)
    return seen


def without_gradient(trainer: Trainer[Any]) -> set[str]:
    """Names of the parameters that no gradient reaches, with everything unfrozen."""
    model = copy.deepcopy(trainer.model).requires_grad_(True).eval()
    batch = trainer.ready.examples("train").__getitems__(range(4))
    model(**batch.inputs).logits.square().sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is None}


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def modes(model: nn.Module) -> dict[str, bool]:
    """Whether each module is in train mode."""
    return {path: module.training for path, module in model.named_modules()}
