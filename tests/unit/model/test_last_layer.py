"""The last layer of a head: which it is in each family, what goes into it, and runs that solve it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from quick_runs import quick, states
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from zoo import AUDIO, IMAGE, MELS, TEXT

from hftl import Phase, Trainer
from hftl.data.batches import Batch, Examples
from hftl.model.last_layer import LastLayer, last_layer, put_in, rows_of, scale, taken_out
from hftl.model.layers import LayerGroups, freeze
from hftl.model.solver import FOLDS, Solution
from hftl.records import Evaluated, HeadSolved, Noted, PhaseEnded, PhaseStarted, Record, StepTaken
from hftl.tasks import AudioClassification, ImageClassification, QuestionAnswering, TextClassification
from hftl.tasks.audio_classification import Mel

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")
MORE_IN_THE_HEAD = {
    "ast",
    "data2vec-audio",
    "deberta-v2",
    "distilbert",
    "electra",
    "hubert",
    "modernbert",
    "mpnet",
    "roberta",
    "wav2vec2",
    "wav2vec2-bert",
    "wav2vec2-layer-norm",
    "wavlm",
    "whisper",
}
"""Families whose heads have more than the layer that makes the logits."""
every_family = pytest.mark.parametrize("family", [*IMAGE, *TEXT, *AUDIO, *MELS])


@pytest.fixture(scope="module")
def loaded(
    tiny_model: TinyModel, request: pytest.FixtureRequest
) -> Callable[[str], tuple[nn.Module, Examples, Any, LayerGroups]]:
    """A family's model with a head for the data of its kind, their training rows, their task, the model's groups."""

    data = {"image": "photos", "text": "reviews", "audio": "calls"}
    splits: dict[tuple[str, Any], Any] = {}

    @functools.cache
    def load(family: str) -> tuple[nn.Module, Examples, Any, LayerGroups]:
        kind = "image" if family in IMAGE else "text" if family in TEXT else "audio"
        source = str(request.getfixturevalue(data[kind]))
        tasks: dict[str, Any] = {"image": ImageClassification, "text": TextClassification, "audio": AudioClassification}
        more = {"mel": Mel(**MELS[family][1])} if family in MELS else {}
        task = tasks[kind](source, max_rows=12, **more)
        model = str(tiny_model(family))
        processor = task.load_processor(model, False)
        key = kind, getattr(processor, "sampling_rate", None)
        if key not in splits:
            splits[key] = task.load_data(0, model, False, False)
        task = task.resolved(splits[key], processor)
        torch.manual_seed(0)
        found = task.load_model(model, splits[key].labels, processor, False, 0.1, False).model
        return found, task.examples(splits[key].train, processor, augment=False), task, LayerGroups.of(found)

    return lambda family: (copy.deepcopy(load(family)[0]), *load(family)[1:])


def logits_of(model: nn.Module, examples: Examples, rows: list[int]) -> torch.Tensor:
    batch = examples.__getitems__(rows)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch.inputs).logits
    return found


def found_in(model: nn.Module, examples: Examples, task: Any) -> LastLayer:
    found = last_layer(model, examples, task.reduce, CPU)
    assert found is not None
    return found


# -- which it is -----------------------------------------------------------------------------------------------------


@every_family
def test_what_is_found_makes_the_logits(family: str, loaded: Any) -> None:
    """Twice its weights are twice the logits, bit for bit; with weights of zero, so are these."""
    model, examples, task, groups = loaded(family)
    freeze(model, groups, "head", "weights")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    found = found_in(model, examples, task)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.get_submodule(found.name) is found.module
    logits = logits_of(model, examples, [0, 5, 7])
    assert float(logits.abs().max()) > 1e-6
    scale(found.module, 2.0)
    assert torch.equal(logits_of(model, examples, [0, 5, 7]), 2 * logits)
    width = found.module.in_features
    with_bias = None if found.module.bias is None else torch.zeros(logits.shape[1])
    put_in(Solution(torch.zeros(logits.shape[1], width), with_bias, 1.0, 1.0), found.module)
    assert torch.equal(logits_of(model, examples, [0, 5, 7]), torch.zeros_like(logits))


@every_family
def test_it_is_alone_where_nothing_else_of_the_model_trains(family: str, loaded: Any) -> None:
    model, examples, task, groups = loaded(family)
    expected = {"head": family not in MORE_IN_THE_HEAD, "all": False}
    expected["neck"] = expected["head"] and not groups.parameters["neck"]
    for depth, alone in expected.items():
        freeze(model, groups, depth, "weights")
        assert found_in(model, examples, task).alone == alone, depth


@pytest.mark.parametrize(("family", "depth", "name", "alone"), [
    ("vit", "head", "classifier", True),
    ("vit", "neck", "classifier", False),  # the norm behind the blocks
    ("resnet", "neck", "classifier.1", True),  # there is no neck
    ("bert", "head", "classifier", True),
    ("bert", "neck", "classifier", False),  # the pooler
    ("roberta", "head", "classifier.out_proj", False),
    ("gpt2", "head", "score", True),  # makes logits of every token, of which the last counts
    ("wav2vec2", "head", "classifier", False),
    ("mel-vit", "head", "network.classifier", True),
])  # fmt: skip
def test_names_of_some(family: str, depth: str, name: str, alone: bool, loaded: Any) -> None:
    model, examples, task, groups = loaded(family)
    freeze(model, groups, depth, "weights")
    found = found_in(model, examples, task)
    assert (found.name, found.alone) == (name, alone)


def test_a_layer_that_is_frozen_is_not_to_be_solved(loaded: Any) -> None:
    model, examples, task, _ = loaded("vit")
    model.requires_grad_(False)
    assert last_layer(model, examples, task.reduce, CPU) is None


def test_heads_with_an_answer_a_token_have_no_such_layer(tiny_model: TinyModel, squad: Path) -> None:
    task, model = QuestionAnswering(str(squad), max_rows=8, max_length=48), str(tiny_model("bert"))
    processor, splits = task.load_processor(model, False), task.load_data(0, model, False, False)
    found = task.load_model(model, splits.labels, processor, False, 0.1, False).model
    assert last_layer(found, task.examples(splits.train, processor, augment=False), task.reduce, CPU) is None


class Toy(nn.Module):
    """Two linear layers, and something behind them."""

    def __init__(self, behind: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.behind = nn.Linear(6, 4), nn.Linear(4, 3), behind
        nn.init.zeros_(self.last.bias)  # as that of a new head

    def forward(self, features: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.behind(self.last(self.first(features).tanh())))


class ToyRows:
    def __len__(self) -> int:
        return 5

    def __getitems__(self, rows: list[int]) -> Batch:
        drawn = torch.Generator().manual_seed(0)
        return Batch({"features": torch.randn(5, 6, generator=drawn)[rows]}, None, torch.tensor(rows))


@pytest.mark.parametrize(
    ("behind", "found"),
    [
        (lambda logits: logits, True),
        (lambda logits: logits.flip(0).flip(0), True),
        (lambda logits: 2 * logits, False),
        (lambda logits: logits + 1, False),
        (lambda logits: logits.tanh(), False),
        (lambda logits: logits.log_softmax(dim=1), False),
        (lambda logits: logits @ torch.eye(3), False),  # takes no other width
    ],
)
def test_whose_outputs_are_changed_behind_it_is_not_taken_for_it(behind: Any, found: bool) -> None:
    model, task = Toy(behind), TextClassification("unused")
    rows: Any = ToyRows()
    layer = last_layer(model, rows, task.reduce, CPU)
    assert (layer is not None and layer.name == "last") == found
    assert layer is None or not layer.alone


# -- what goes into it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "resnet", "bert", "roberta", "gpt2", "llama", "wav2vec2", "mel-vit"])
def test_the_layer_makes_the_logits_of_the_features_of_all_rows(family: str, loaded: Any) -> None:
    model, examples, task, groups = loaded(family)
    freeze(model, groups, "head", "weights")
    found = found_in(model, examples, task)
    rows = rows_of(model, found.module, [examples], task.reduce, CPU)
    everything = list(range(len(examples)))
    expected = logits_of(model, examples, everything)
    made = functional.linear(rows.features, found.module.weight, found.module.bias).detach()
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    targets = examples.__getitems__(everything).targets
    assert targets is not None
    assert torch.equal(rows.targets, targets)
    assert rows.strata.tolist() == targets.tolist()
    assert len(set(rows.groups.tolist())) == len(examples)


def test_views_of_a_row_and_windows_of_a_recording_are_one_group(loaded: Any) -> None:
    model, examples, task, groups = loaded("vit")
    freeze(model, groups, "head", "weights")
    rows = rows_of(model, found_in(model, examples, task).module, [examples, examples], task.reduce, CPU)
    count = len(examples)
    assert rows.groups.tolist() == [*range(count), *range(count)]
    assert torch.equal(rows.features[:count], rows.features[count:])
    assert torch.equal(rows.targets[:count], rows.targets[count:])


def test_taken_out_it_returns_what_goes_in_and_is_whole_afterwards() -> None:
    torch.manual_seed(0)
    layer, values = nn.Linear(4, 3), torch.randn(2, 4)
    known, there = layer(values), set(vars(layer))
    with taken_out(layer):
        assert layer(values) is values
    assert torch.equal(layer(values), known)
    assert set(vars(layer)) == there
    with pytest.raises(ValueError, match="in between"), taken_out(layer):
        raise ValueError("in between")
    assert torch.equal(layer(values), known)


def test_taken_out_a_forward_of_its_own_comes_back() -> None:
    """As those have that accelerate prepares for mixed precision."""
    layer, values = nn.Linear(4, 3), torch.randn(2, 4)
    vars(layer)["forward"] = own = lambda values: values * 7
    with taken_out(layer):
        assert layer(values) is values
    assert vars(layer)["forward"] is own
    assert torch.equal(layer(values), values * 7)


@pytest.mark.parametrize("bias", [True, False])
def test_a_solution_is_put_in_and_scaled_in_place(bias: bool) -> None:
    layer, values = nn.Linear(4, 3, bias=bias), torch.randn(5, 4)
    same = {name: parameter.data_ptr() for name, parameter in layer.named_parameters()}
    solution = Solution(torch.randn(3, 4), torch.randn(3) if bias else None, 1.0, 1.0)
    put_in(solution, layer)
    expected = functional.linear(values, solution.weight, solution.bias)
    assert torch.equal(layer(values), expected)
    scale(layer, 0.25)
    assert torch.equal(layer(values), expected * 0.25)
    assert all(parameter.requires_grad for parameter in layer.parameters())
    assert {name: parameter.data_ptr() for name, parameter in layer.named_parameters()} == same


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.report.curves.draw", lambda folder: None)  # slow, and none of this file's business


def ran(recipe: Any) -> tuple[Trainer[Any], list[Record]]:
    trainer = Trainer(recipe)
    return trainer, list(trainer.run())


def only(records: list[Record], kind: Any) -> Any:
    (found,) = [record for record in records if isinstance(record, kind)]
    return found


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_head_of_one_layer_is_solved_without_a_step_and_again_with_the_same_bits(
    family: str, tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    def fit(name: str) -> tuple[list[Record], dict[str, torch.Tensor]]:
        task = ImageClassification(str(photos))
        _, records = ran(quick(task, tiny_model(family), tmp_path / name, phases=(Phase("head"),)))
        return records, load_file(tmp_path / name / "model" / "model.safetensors")

    records, saved = fit("a")
    assert not any(isinstance(record, StepTaken) for record in records)
    started, solved, ended = (only(records, kind) for kind in (PhaseStarted, HeadSolved, PhaseEnded))
    assert (started.solver, started.epochs) == ("lbfgs", 0)
    assert (solved.rows, solved.folds) == (24, FOLDS)
    assert min(solved.scores["accuracy"], ended.scores["accuracy"]) > 0.8, "the colours are plain to see"
    (evaluated,) = [record for record in records if isinstance(record, Evaluated) and record.split == "validation"]
    assert (evaluated.epoch, evaluated.best, ended.best_epoch) == (None, True, None)
    assert ended.scores == evaluated.scores
    again, same = fit("b")
    assert only(again, PhaseEnded).digest == ended.digest
    assert all(torch.equal(tensor, same[name]) for name, tensor in saved.items())


@pytest.mark.usefixtures("_no_pictures")
def test_a_given_penalty_and_temperature_reach_the_solver(tiny_model: TinyModel, photos: Path, tmp_path: Path) -> None:
    def logits(name: str, **given: float) -> tuple[HeadSolved, torch.Tensor]:
        task = ImageClassification(str(photos))
        trainer, records = ran(quick(task, tiny_model("vit"), tmp_path / name, phases=(Phase("head", **given),)))
        return only(records, HeadSolved), states(trainer)["classifier.weight"]

    solved, plain = logits("a", penalty=0.5)
    assert (solved.penalty, solved.temperature, solved.folds, solved.scores) == (0.5, 1.0, 0, {})
    solved, cold = logits("b", penalty=0.5, temperature=2.0)
    assert (solved.penalty, solved.temperature) == (0.5, 2.0)
    torch.testing.assert_close(cold * 2, plain)


@pytest.mark.usefixtures("_no_pictures")
def test_a_head_of_two_layers_is_solved_and_then_goes_on_in_steps(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    phases = (Phase("head", 2, 1e-2, solver="lbfgs"),)
    trainer = Trainer(quick(TextClassification(str(reviews)), tiny_model("roberta"), tmp_path / "a", phases=phases))
    kinds, at_evaluations = [], []
    for record in trainer.run():
        kinds.append(type(record))
        if isinstance(record, Evaluated) and record.split == "validation" and not trainer.ready.first:
            at_evaluations.append((record.epoch, states(trainer)))
    assert kinds.index(HeadSolved) < kinds.index(Evaluated) < kinds.index(StepTaken)
    assert [epoch for epoch, _ in at_evaluations] == [None, 0, 1]
    solved, stepped = at_evaluations[0][1], at_evaluations[-1][1]
    moved = {name for name in solved if not torch.equal(solved[name], stepped[name])}
    assert moved == {f"classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")}
    assert float(stepped["classifier.out_proj.weight"].norm()) < float(solved["classifier.out_proj.weight"].norm())


@pytest.mark.usefixtures("_no_pictures")
def test_without_stored_features_the_head_is_trained_in_steps_and_it_is_said(
    tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    from hftl.recipe.recipe import Store

    recipe = quick(
        ImageClassification(str(photos)),
        tiny_model("vit"),
        tmp_path / "a",
        phases=(Phase("head", 2, solver="lbfgs"),),
        store=Store(use=False),
    )
    _, records = ran(recipe)
    assert not any(isinstance(record, HeadSolved) for record in records)
    assert "stored features" in only(records, Noted).note
    assert {record.epoch for record in records if isinstance(record, StepTaken)} == {0, 1}


@pytest.mark.usefixtures("_no_pictures")
def test_recordings_of_several_windows_are_scored_as_recordings(
    tiny_model: TinyModel, calls: Path, tmp_path: Path
) -> None:
    task = AudioClassification(str(calls), seconds=0.1, mel=Mel(**MELS["mel-resnet"][1]))
    trainer, records = ran(quick(task, tiny_model("mel-resnet"), tmp_path / "a", phases=(Phase("head"),)))
    solved = only(records, HeadSolved)
    windows = len(trainer.ready.examples("train"))
    assert solved.rows == windows > len(trainer.ready.splits.train)
    assert solved.scores["accuracy"] > trainer.ready.majority()["accuracy"]


@pytest.mark.usefixtures("_no_pictures")
def test_rows_with_any_number_of_labels_are_solved(tiny_model: TinyModel, reviews: Path, tmp_path: Path) -> None:
    lines = ["text,label"]
    for line in reviews.read_text().splitlines()[1:]:
        text = line.rpartition(",")[0]
        lines.append(f"{text},{'|'.join(tag for tag in ('good', 'awful', 'film') if tag in text.split())}")
    (tmp_path / "tagged.csv").write_text("\n".join(lines) + "\n")
    task = TextClassification(str(tmp_path / "tagged.csv"), label_separator="|", balance="weights")
    _, records = ran(quick(task, tiny_model("bert"), tmp_path / "a", phases=(Phase("head"),), refit=False))
    solved, ended = only(records, HeadSolved), only(records, PhaseEnded)
    assert np.isfinite(list(solved.scores.values())).all()
    assert np.isfinite(list(ended.scores.values())).all()
