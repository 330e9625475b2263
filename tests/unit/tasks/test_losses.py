"""Losses against torch's own, against formulas written out, and against what weights are for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from hftl.tasks.parts.losses import (
    MOST_WEIGHT,
    binary_cross_entropy,
    class_weights,
    cross_entropy,
    log_prior,
    positive_weights,
)

LOGITS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([0, 2, 1, 1, 0])
HOT = torch.nn.functional.one_hot(IDS, 3).float()
SOFT = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), dim=1)
SETS = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]]).float()
WEIGHTS = torch.tensor([0.5, 3.0, 1.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_plain_cross_entropy_is_torchs_bit_for_bit(smoothing):
    for targets in (IDS, SOFT):
        expected = functional.cross_entropy(LOGITS, targets, label_smoothing=smoothing, reduction="none")
        assert torch.equal(cross_entropy(LOGITS, targets, smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ids_and_their_one_hot_rows_have_the_same_loss(smoothing, gamma, weights):
    ids, hot = (cross_entropy(LOGITS, targets, smoothing, gamma, weights) for targets in (IDS, HOT))
    assert ids.shape == (5,)
    torch.testing.assert_close(ids, hot)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_soft_target_has_the_expected_loss_of_its_labels(smoothing, gamma, weights):
    of_label = [cross_entropy(LOGITS, torch.full((5,), label), smoothing, gamma, weights) for label in range(3)]
    expected = (SOFT * torch.stack(of_label, dim=1)).sum(dim=1)
    torch.testing.assert_close(cross_entropy(LOGITS, SOFT, smoothing, gamma, weights), expected)


def test_weights_multiply_the_loss_of_a_label_smoothed_or_not():
    for smoothing in (0.0, 0.2):
        plain, weighted = (cross_entropy(LOGITS, IDS, smoothing, weights=weights) for weights in (None, WEIGHTS))
        torch.testing.assert_close(weighted, plain * WEIGHTS[IDS])


def test_focal_loss_as_written():
    p = torch.softmax(LOGITS, dim=1).gather(1, IDS[:, None]).squeeze(1)
    torch.testing.assert_close(cross_entropy(LOGITS, IDS, gamma=2.0), -((1 - p) ** 2) * p.log())
    q = torch.where(SETS == 1, torch.sigmoid(LOGITS), torch.sigmoid(-LOGITS))
    torch.testing.assert_close(binary_cross_entropy(LOGITS, SETS, gamma=2.0), (-((1 - q) ** 2) * q.log()).mean(dim=1))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_binary_cross_entropy_is_torchs(weights):
    for targets in (SETS, SOFT):
        expected = functional.binary_cross_entropy_with_logits(LOGITS, targets, pos_weight=weights, reduction="none")
        torch.testing.assert_close(binary_cross_entropy(LOGITS, targets, weights=weights), expected.mean(dim=1))
        smooth = 0.7 * targets + 0.15
        expected = functional.binary_cross_entropy_with_logits(LOGITS, smooth, reduction="none").mean(dim=1)
        torch.testing.assert_close(binary_cross_entropy(LOGITS, targets, smoothing=0.3), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("scale", [1e3, -1e3])
def test_losses_of_extreme_logits_have_gradients(gamma, scale):
    for function, targets in ((cross_entropy, IDS), (cross_entropy, SOFT), (binary_cross_entropy, SETS)):
        logits = (scale * LOGITS).requires_grad_()
        loss = function(logits, targets, 0.1, gamma, WEIGHTS)
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert torch.isfinite(logits.grad).all()


# -- how rare labels are ---------------------------------------------------------------------------------------------


def test_class_weights_are_one_on_average_over_the_rows():
    counts = np.array([90, 9, 0, 1])
    weights = class_weights(counts)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    np.testing.assert_allclose((weights * counts)[[0, 1, 3]], 100 / 3)  # each class as much in all
    assert np.isfinite(weights).all()


def test_positive_weights_make_both_sides_of_a_label_weigh_the_same():
    weights = positive_weights(np.array([10, 50, 0, 1]), rows=1000)
    np.testing.assert_allclose(weights, [990 / 10, 950 / 50, MOST_WEIGHT, MOST_WEIGHT])


def test_logits_moved_by_the_prior_are_right_without_it():
    """The best constant logits under the loss with the prior say nothing: every class alike (Menon et al. 2021)."""
    counts = np.array([96, 3, 1])
    shift = torch.tensor(log_prior(counts))
    targets = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    cross_entropy(logits.expand(100, 3) + shift, targets).mean().backward()
    assert logits.grad.abs().max() < 1e-12
    assert math.isfinite(log_prior(np.array([5, 0]))[1])
