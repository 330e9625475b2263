"""The trained part alone, on stored activations, gives what the whole model gives: to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from zoo import IMAGE, TEXT

from hftl.data.batches import Batch
from hftl.errors import NotStoredError
from hftl.features.examples import POSITIONS, arrays_of, restored
from hftl.features.replay import FEATURES, MASK, Cut, Replay, capture, find_cut
from hftl.model.layers import LayerGroups, freeze, set_modes
from hftl.tasks import TextClassification

TEXTS = (
    "good film",
    "the plot was not very good and the actor was awful",
    "bad",
    "a scene of great actor and of poor plot",
    "fine",
    "it was a very very poor film",
)
WITHOUT_NECK = {"resnet", "regnet", "mobilenet_v1", "distilbert", "roberta", "electra", "deberta-v2", "mpnet"}
WITHOUT_NECK |= {"timm-inception_v3"} & {*IMAGE}
DEPTHS = [
    (family, depth)
    for family in (*IMAGE, *TEXT)
    for depth in ("head", "neck")
    if depth == "head" or family not in WITHOUT_NECK
]
RAGGED = {("gpt2", "head"), ("gpt2", "neck"), ("llama", "head"), ("llama", "neck"), ("modernbert", "neck")}
"""What goes into the trained part has a vector for each token."""
every_depth = pytest.mark.parametrize(("family", "depth"), DEPTHS)


class Opened:
    """A tiny model as a phase has it: parameters and modes set."""

    def __init__(self, family: str, depth: str, model: Any, examples: Any) -> None:
        self.family, self.depth, self.model, self.examples = family, depth, model, examples
        self.groups = LayerGroups.of(model)
        freeze(model, self.groups, depth)
        set_modes(model, self.groups, depth)

    def batch(self, *rows: int) -> dict[str, torch.Tensor]:
        """The model's inputs for these rows; texts are padded to the longest of them."""
        if self.examples is not None:
            return dict(self.examples.__getitems__(rows).inputs)
        size = 75 if "inception" in self.family else 32
        drawn = [torch.randn(3, size, size, generator=torch.Generator().manual_seed(row)) for row in rows]
        return {"pixel_values": torch.stack(drawn)}

    def cut(self) -> Cut:
        """Recorded from batches of two and three rows."""
        batches = [self.batch(2, 2), self.batch(2, 0, 1)]
        try:
            return find_cut(self.model, batches, needs_inputs=False)
        except NotStoredError:
            return find_cut(self.model, batches, needs_inputs=True)


@pytest.fixture
def opened(tiny_model: Callable[[str], Path], load_tiny: Any) -> Callable[[str, str], Opened]:
    def open_one(family: str, depth: str) -> Opened:
        if family in IMAGE:
            return Opened(family, depth, load_tiny(family).model, None)
        task, source = TextClassification("unused"), str(tiny_model(family))
        tokenizer = task.load_processor(source, False)
        torch.manual_seed(0)
        model = task.load_model(source, ("a", "b", "c"), tokenizer, False, 0.1, False).model
        rows = Dataset.from_dict({"text": [*TEXTS]})
        return Opened(family, depth, model, task.examples(rows, tokenizer, augment=False))

    return open_one


def state_of(model: nn.Module) -> dict[str, Any]:
    """Modes, instance attributes that hide a method, and buffers."""
    return {
        "modes": [module.training for module in model.modules()],
        "forwards": [name for name, module in model.named_modules() if "forward" in vars(module)],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
    }


def assert_untouched(before: dict[str, Any], model: nn.Module) -> None:
    after = state_of(model)
    assert after["forwards"] == []
    assert after["modes"] == before["modes"]
    assert after["hooks"] == before["hooks"]
    assert all(torch.equal(tensor, after["tensors"][name]) for name, tensor in before["tensors"].items())


@every_depth
def test_replayed_is_computed(family: str, depth: str, opened: Callable[[str, str], Opened]) -> None:
    """Of more rows than the cut was recorded with, through what a store keeps of them; in both precisions."""
    phase = opened(family, depth)
    model, inputs, before = phase.model, phase.batch(0, 1, 2, 3, 4, 5), state_of(phase.model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            cut = phase.cut()
            assert_untouched(before, model)
            kept = arrays_of(cut, capture(model, cut, inputs), Batch(inputs, None, torch.arange(6)))
            assert_small(kept, cut, phase)
            set_modes(model, phase.groups, depth)
            features, given = restored(cut, kept[FEATURES], inputs.get(MASK)), inputs if cut.needs_inputs else {}
            replay, found = Replay(model, cut), []
            for function, arguments in ((model, inputs), (replay, {FEATURES: features.clone(), **given})):
                torch.manual_seed(7)
                logits = function(**arguments).logits
                gradients = torch.autograd.grad(logits.float().square().sum(), trained)
                found.append((logits, *gradients, torch.get_rng_state()))
            assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
            assert_untouched(before, model)
            model.eval()
            with torch.no_grad():
                assert torch.equal(replay(features=features, **given).logits, model(**inputs).logits)
            set_modes(model, phase.groups, depth)
    assert {id(parameter) for parameter in replay.parameters() if parameter.requires_grad} == set(map(id, trained))


def assert_small(kept: Mapping[str, torch.Tensor], cut: Cut, phase: Opened) -> None:
    """One vector a text; where it has one a token, none for padding."""
    assert (cut.ragged, cut.needs_inputs) == ((phase.family, phase.depth) in RAGGED,) * 2
    if cut.ragged:
        assert kept[POSITIONS].tolist() == phase.examples.lengths.tolist()
    assert kept[FEATURES].shape == (sum(phase.examples.lengths) if cut.ragged else 6, *cut.shape)
    if phase.family in TEXT:
        assert cut.shape == (16,)


def test_a_family_without_a_neck_has_none(opened: Callable[[str, str], Opened]) -> None:
    """Else the tests above leave something out."""
    for family in WITHOUT_NECK:
        assert not opened(family, "head").groups.parameters["neck"], family


def test_after_an_exception_every_module_computes_as_before(opened: Callable[[str, str], Opened]) -> None:
    phase = opened("bert", "neck")
    cut, inputs = phase.cut(), phase.batch(0, 1)
    before, wrong = state_of(phase.model), torch.randn(2, 5)
    with pytest.raises(RuntimeError, match="shape"):
        Replay(phase.model, cut)(features=wrong)
    assert_untouched(before, phase.model)
    with pytest.raises(ValueError, match="exactly one of"):
        find_cut(phase.model, [{**inputs, "inputs_embeds": inputs["input_ids"]}] * 2, needs_inputs=False)
    assert_untouched(before, phase.model)


def test_a_forward_that_is_an_attribute_of_a_module_stays_there(opened: Callable[[str, str], Opened]) -> None:
    """As some models set it: ``self.forward = self.forward_fast``."""
    phase = opened("bert", "neck")
    owners = [phase.model.bert.encoder, phase.model.bert.pooler.dense]
    cut, inputs = phase.cut(), phase.batch(0, 1)
    for module in owners:
        module.forward = lambda *given, own=module.forward, **named: own(*given, **named)
    own, expected = [module.forward for module in owners], phase.model.eval()(**inputs).logits
    features = capture(phase.model, cut, inputs)
    for _ in range(2):
        assert torch.equal(Replay(phase.model, cut)(features=features).logits, expected)
        assert [module.forward for module in owners] == own


def test_what_is_captured_is_what_went_in_also_where_the_module_works_in_place() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.SiLU(inplace=True), nn.Linear(3, 2)).eval()
    model[0].requires_grad_(False)
    model[1].train()
    cut = find_cut(_Named(model), [{"x": torch.randn(2, 3)}, {"x": torch.randn(3, 3)}], needs_inputs=False)
    inputs = torch.randn(4, 3)
    assert cut.module == "inner.1"
    assert torch.equal(capture(_Named(model), cut, {"x": inputs}), model[0](inputs))


class _Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


def test_a_model_of_which_nothing_trains_has_no_cut(opened: Callable[[str, str], Opened]) -> None:
    phase = opened("bert", "head")
    phase.model.requires_grad_(False).eval()
    with pytest.raises(NotStoredError, match="none of its modules trains"):
        phase.cut()
