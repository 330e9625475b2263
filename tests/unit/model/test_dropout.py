"""Dropout and attention of our own are PyTorch's: in distribution, and exactly where nothing is random."""

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hftl.model import dropout as ours
from hftl.model.dropout import SMALL, Dropout, attention, dropout


def draw(seed: int, p: float, values: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(seed)
    return dropout(values, p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_mean_stays(p, dtype):
    found = draw(0, p, torch.ones(1000, 1001, dtype=dtype))
    assert found.dtype == dtype
    share = (found == 0).float().mean().item()
    assert share == pytest.approx(p, abs=4e-3)
    assert found.unique().tolist() == pytest.approx([0, torch.tensor(1 / (1 - p)).to(dtype).item()], rel=1e-4)
    for pair in (found[:, :-1] * found[:, 1:], found[:-1] * found[1:]):  # neighbours do not know of each other
        assert (pair != 0).float().mean().item() == pytest.approx((1 - p) ** 2, abs=8e-3)


def test_the_seed_alone_decides():
    values = torch.ones(SMALL)
    assert torch.equal(draw(0, 0.5, values), draw(0, 0.5, values))
    assert not torch.equal(draw(0, 0.5, values), draw(1, 0.5, values))


def test_the_gradient_is_that_of_what_was_kept():
    values = torch.randn(SMALL, requires_grad=True)
    torch.manual_seed(0)
    found = dropout(values, 0.25)
    found.sum().backward()
    torch.testing.assert_close(values.grad, found.detach() / values.detach())


def test_in_place_it_drops_the_same_and_has_the_same_gradient():
    weight = torch.randn(SMALL, requires_grad=True)
    gradients, results = [], []
    for inplace in (False, True):
        values = weight * 2
        layer = Dropout(0.25, inplace=inplace)
        torch.manual_seed(0)
        found = layer(values)
        assert (found is values) == inplace
        gradients += torch.autograd.grad(found.sum(), weight)
        results.append(found.detach())
    assert torch.equal(*results)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("p", [0.0, 1e-6, 1.0])
def test_extremes_and_small_tensors_are_pytorch_s(p):
    for size in (4, SMALL):
        torch.manual_seed(0)
        expected = functional.dropout(torch.ones(size), p)
        assert torch.equal(draw(0, p, torch.ones(size)), expected)
    assert torch.equal(dropout(torch.ones(SMALL), 0.5, training=False), torch.ones(SMALL))


def heads(length: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 3, length, 8, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("mask", ["none", "seen", "added"])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_attention_is_that_of_pytorch_up_to_what_is_dropped(mask, scaling, monkeypatch):
    monkeypatch.setattr(ours, "_dropout", lambda weights, p: weights)
    seen = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    seen[1, :, :, 3:] = False
    chosen = {"none": None, "seen": seen, "added": torch.zeros(seen.shape).masked_fill(~seen, -1e30)}[mask]
    module = torch.nn.Module()
    module.is_causal = False
    gradients = []
    results = []
    for function, p in ((attention, 0.1), (sdpa_attention_forward, 0.0)):
        parts = heads(5)
        result, _ = function(module, *parts, chosen, dropout=p, scaling=scaling)
        result.square().sum().backward()
        results.append(result)
        gradients.append([part.grad for part in parts])
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_attention_drops_weights():
    torch.manual_seed(0)
    query, key, value = torch.zeros(1, 1, 200, 8), torch.zeros(1, 1, 200, 8), torch.ones(1, 1, 200, 8)
    module = torch.nn.Module()
    found, _ = attention(module, query, key, value, None, dropout=0.5)  # each position sees 200 others alike
    assert found.shape == (1, 200, 1, 8)
    assert found.mean().item() == pytest.approx(1, abs=0.02)
    assert found[0, :, 0, 0].std().item() == pytest.approx(200**-0.5, rel=0.2)


def test_a_causal_model_stays_causal():
    module = torch.nn.Module()
    module.is_causal = True
    query, key, value = (part.detach() for part in heads(5))
    torch.manual_seed(0)
    before, _ = attention(module, query, key, value, None, dropout=1e-9)
    value[:, :, -1] += 100
    torch.manual_seed(0)
    after, _ = attention(module, query, key, value, None, dropout=1e-9)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "resnet", "distilbert"])
def test_a_model_gets_it_and_loses_it_again(family, tiny_model):
    from transformers import AutoModelForImageClassification

    auto = AutoModelForImageClassification if family in ("vit", "resnet") else AutoModelForSequenceClassification
    model = auto.from_pretrained(tiny_model(family))
    before = model.config._attn_implementation, [type(module) for module in model.modules()]
    ours.put_in(model)
    assert torch.nn.Dropout not in {type(module) for module in model.modules()}
    assert all(isinstance(m, Dropout) for m in model.modules() if isinstance(m, torch.nn.Dropout))
    assert (model.config._attn_implementation == ours.ATTENTION) is (before[0] == "sdpa")
    assert "_attn_implementation" not in str(model.config.to_dict())
    ours.take_out(model)
    assert (model.config._attn_implementation, [type(module) for module in model.modules()]) == before


def test_a_model_computes_the_same_while_nothing_is_random(tiny_model):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model("bert")).eval()
    inputs = {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
        "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
    }
    expected = model(**inputs).logits
    ours.put_in(model)
    assert torch.equal(model(**inputs).logits, expected)
