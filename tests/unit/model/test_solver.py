"""Heads that are solved: that they are at the optimum, on what folds they rest, and what they are good for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from hftl.model import solver
from hftl.model.solver import FOLDS, MOST_ROWS, PENALTIES, Loss, Rows, Solution, folds_of, solve
from hftl.tasks.parts import losses

cross_entropy: Loss = losses.cross_entropy
binary: Loss = losses.binary_cross_entropy


def weighted(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return losses.cross_entropy(logits, targets, smoothing=0.1, weights=torch.tensor([1.0, 4.0, 0.5]))


def made(rows: int = 60, width: int = 5, classes: int = 3, seed: int = 0) -> Rows:
    """Classes that overlap, features of very different size and place."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centres = rng.normal(size=(classes, width))
    features = (centres[labels] + rng.normal(size=(rows, width))) * rng.uniform(0.1, 9, width) + rng.normal(size=width)
    return of(features, labels)


def of(features: Any, labels: npt.NDArray[np.int64], **more: Any) -> Rows:
    given = {"targets": torch.from_numpy(labels), "strata": labels, "groups": np.arange(len(labels)), **more}
    return Rows(torch.as_tensor(np.asarray(features), dtype=torch.float32), **given)


def soft(rows: Rows) -> Rows:
    hot = functional.one_hot(rows.targets).float()
    return replace(rows, targets=0.8 * hot + 0.2 * hot.roll(1, dims=0))


def multi_label(rows: Rows) -> Rows:
    hot = functional.one_hot(rows.targets).float()
    return replace(rows, targets=torch.maximum(hot, hot.roll(2, dims=0)))


def scale_of(features: torch.Tensor, centred: bool) -> torch.Tensor:
    """What each feature is divided by, said another way: the geometric mean of its deviation and that of all."""
    plain = features.double()
    deviations = plain.std(dim=0, correction=0) if centred else plain.square().mean(dim=0).sqrt()
    return (deviations * deviations.square().mean().sqrt()).sqrt()


def slope(rows: Rows, loss: Loss, weight: torch.Tensor, bias: torch.Tensor | None, penalty: float) -> float:
    """The largest entry of the gradient of the penalised mean loss, along features of about unit variance."""
    scale = scale_of(rows.features, centred=bias is not None).clamp(min=1e-12)
    inner = (weight.double() * scale).requires_grad_(True)
    offset = None if bias is None else bias.double().requires_grad_(True)
    mean = 0.0 if bias is None else rows.features.double().mean(dim=0)
    features = (rows.features.double() - mean) / scale
    shift = None if offset is None else offset + (weight.double() @ torch.as_tensor(mean)).detach()
    shares = torch.ones(len(features)) if rows.weights is None else rows.weights
    value = ((shares / shares.sum()) * loss(functional.linear(features, inner, shift), rows.targets)).sum()
    value = value + 0.5 * penalty * inner.square().sum()
    wanted = [inner] if offset is None else [inner, offset]
    return max(float(found.abs().max()) for found in torch.autograd.grad(value, wanted))


def slopes(rows: Rows, loss: Loss, solution: Solution) -> tuple[float, float]:
    """At the solution, its temperature taken back; and at a head of zeros."""
    weight, bias = solution.weight * solution.temperature, solution.bias
    there = slope(rows, loss, weight, None if bias is None else bias * solution.temperature, solution.penalty)
    zeros = slope(rows, loss, weight * 0, None if bias is None else bias * 0, solution.penalty)
    return there, zeros


def answers(solution: Solution, features: Any) -> npt.NDArray[np.int64]:
    logits = functional.linear(torch.as_tensor(features, dtype=torch.float32), solution.weight, solution.bias)
    return logits.argmax(dim=1).numpy()


PROBLEMS: dict[str, tuple[Callable[[], Rows], Loss]] = {
    "labels": (made, cross_entropy),
    "soft targets": (lambda: soft(made()), cross_entropy),
    "any number of labels": (lambda: multi_label(made()), binary),
    "weights of classes, smoothed": (made, weighted),
    "weights of rows": (lambda: replace(made(), weights=torch.arange(60) % 4 + 0.5), cross_entropy),
    "more features than rows": (lambda: made(rows=30, width=80), cross_entropy),
    "two classes": (lambda: made(classes=2), cross_entropy),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)

# -- the optimum -----------------------------------------------------------------------------------------------------


@every_problem
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("penalty", [1.0, 1e-2, None])
def test_at_the_solution_the_gradient_of_the_penalised_loss_vanishes(
    name: str, bias: bool, penalty: float | None
) -> None:
    rows, loss = PROBLEMS[name][0](), PROBLEMS[name][1]
    found = solve(rows, loss, int(rows.strata.max()) + 1, bias=bias, penalty=penalty)
    there, zeros = slopes(rows, loss, found)
    assert zeros > 1e-2
    assert there < 1e-3 * zeros
    assert (found.bias is not None) == bias


@pytest.mark.parametrize("width", [5, 80])
@pytest.mark.parametrize("penalty", [1.0, 0.03])
def test_the_solution_is_that_of_scikit_learn(width: int, penalty: float) -> None:
    from sklearn.linear_model import LogisticRegression

    rows = made(width=width)
    found = solve(rows, cross_entropy, 3, penalty=penalty)
    scale = scale_of(rows.features, centred=True).numpy()
    plain = (rows.features.double().numpy() - rows.features.double().mean(dim=0).numpy()) / scale
    known = LogisticRegression(C=1 / (penalty * len(plain)), tol=1e-8, max_iter=5000).fit(plain, rows.strata)
    logits = functional.linear(rows.features, found.weight, found.bias)
    np.testing.assert_allclose(found.weight.numpy() * scale, known.coef_, rtol=1e-3, atol=1e-4)
    probabilities = functional.softmax(logits, dim=1)
    np.testing.assert_allclose(probabilities.numpy(), known.predict_proba(plain), rtol=1e-3, atol=1e-4)


def test_with_any_number_of_labels_each_is_solved_as_if_alone() -> None:
    """The loss is the mean over the labels, so the penalty of one counts that many times."""
    rows = multi_label(made())
    together = solve(rows, binary, 3, penalty=0.02)
    for label in range(3):
        alone = replace(rows, targets=rows.targets[:, [label]])
        single = solve(alone, binary, 1, penalty=0.06)
        torch.testing.assert_close(together.weight[[label]], single.weight, rtol=1e-3, atol=1e-4)


def test_soft_targets_that_are_certain_are_labels() -> None:
    rows = made()
    hot = replace(rows, targets=functional.one_hot(rows.targets).float())
    hard, certain = (solve(each, cross_entropy, 3, penalty=0.1) for each in (rows, hot))
    torch.testing.assert_close(hard.weight, certain.weight, rtol=1e-4, atol=1e-5)


def test_a_weight_of_two_is_the_row_twice() -> None:
    """With features of -1 and 1 and no bias: so that the scale of features is the same."""
    rng = np.random.default_rng(0)
    signs, labels = rng.choice([-1.0, 1.0], (40, 6)), rng.integers(0, 3, 40)
    twice = np.concatenate([np.arange(40), np.arange(12)])
    weights = torch.tensor([2.0] * 12 + [1.0] * 28)
    known = solve(of(signs[twice], labels[twice]), cross_entropy, 3, bias=False, penalty=0.05)
    found = solve(of(signs, labels, weights=weights), cross_entropy, 3, bias=False, penalty=0.05)
    plain = solve(of(signs, labels), cross_entropy, 3, bias=False, penalty=0.05)
    torch.testing.assert_close(found.weight, known.weight, rtol=1e-3, atol=1e-4)
    assert float((found.weight - plain.weight).abs().max()) > 1e-2


def test_only_the_proportions_of_weights_count() -> None:
    rows = made()
    few, many = (solve(replace(rows, weights=torch.full((60,), each)), cross_entropy, 3) for each in (0.25, 4.0))
    plain = solve(rows, cross_entropy, 3)
    assert torch.equal(few.weight, many.weight)
    assert few.penalty == many.penalty == plain.penalty
    torch.testing.assert_close(few.weight, plain.weight)


@every_problem
def test_the_same_rows_give_the_same_bits(name: str) -> None:
    rows, loss = PROBLEMS[name][0](), PROBLEMS[name][1]
    first, again = (solve(rows, loss, int(rows.strata.max()) + 1) for _ in range(2))
    assert torch.equal(first.weight, again.weight)
    assert first.bias is not None
    assert again.bias is not None
    assert torch.equal(first.bias, again.bias)
    assert (first.penalty, first.temperature, first.loss) == (again.penalty, again.temperature, again.loss)
    assert first.left_out is not None
    assert again.left_out is not None
    assert torch.equal(first.left_out, again.left_out)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_the_unit_of_the_features_does_not_matter(size: float) -> None:
    rows = made()
    known, found = (solve(each, cross_entropy, 3) for each in (rows, replace(rows, features=rows.features * size)))
    assert found.penalty == known.penalty
    torch.testing.assert_close(found.weight * size, known.weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1])
@pytest.mark.parametrize("where", [0, 4])
def test_a_feature_that_is_always_the_same_has_no_weight_and_changes_no_other(value: float, where: int) -> None:
    rows = made()
    wider = np.insert(rows.features.numpy(), where, value, axis=1)
    found = solve(of(wider, rows.strata), cross_entropy, 3, penalty=0.01)
    logits = functional.linear(torch.from_numpy(wider), found.weight, found.bias)
    assert float(found.weight[:, where].abs().max()) < 1e-6
    # It counts in the mean variance of all, which the penalty is measured by.
    apart = solve(rows, cross_entropy, 3, penalty=0.01 * (5 / 6) ** 0.5)
    torch.testing.assert_close(logits, functional.linear(rows.features, apart.weight, apart.bias), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape", [(30, 4), (30, 40)])
@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1])
def test_features_that_tell_nothing_leave_the_shares_of_the_classes(shape: tuple[int, int], value: float) -> None:
    labels = np.arange(30) % 3 % 2  # 20 and 10
    found = solve(of(np.full(shape, value), labels), cross_entropy, 2)
    assert torch.equal(found.weight, torch.zeros(2, shape[1]))
    assert found.bias is not None
    shares = functional.softmax(found.bias * found.temperature, dim=0)
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3], atol=1e-3)


# -- what is chosen --------------------------------------------------------------------------------------------------


def test_a_penalty_and_a_temperature_that_are_given_are_used() -> None:
    rows = made()
    plain = solve(rows, cross_entropy, 3, penalty=0.2)
    cold = solve(rows, cross_entropy, 3, penalty=0.2, temperature=4.0)
    assert (plain.penalty, plain.temperature, plain.folds, plain.left_out) == (0.2, 1.0, 0, None)
    assert (cold.penalty, cold.temperature) == (0.2, 4.0)
    assert plain.bias is not None
    assert cold.bias is not None
    torch.testing.assert_close(cold.weight * 4, plain.weight)
    torch.testing.assert_close(cold.bias * 4, plain.bias)
    stronger = solve(rows, cross_entropy, 3, penalty=2.0)
    assert float(stronger.weight.norm()) < 0.5 * float(plain.weight.norm())


@every_problem
def test_the_penalty_is_one_of_those_tried_for_as_many_rows_as_there_are(name: str) -> None:
    rows, loss = PROBLEMS[name][0](), PROBLEMS[name][1]
    found = solve(rows, loss, int(rows.strata.max()) + 1)
    assert found.folds == FOLDS
    tried = found.penalty / (1 - 1 / found.folds)
    assert min(abs(np.log(tried / np.array(PENALTIES)))) < 1e-9


def test_the_temperature_is_the_best_for_the_rows_that_were_left_out() -> None:
    rows = made()
    found = solve(rows, cross_entropy, 3)
    assert found.left_out is not None
    assert float(cross_entropy(found.left_out, rows.targets).mean()) == pytest.approx(found.loss, rel=1e-5)
    for factor in (0.9, 1.1):
        assert float(cross_entropy(found.left_out * factor, rows.targets).mean()) > found.loss


def test_labels_at_random_are_not_known_of_rows_that_were_left_out() -> None:
    """A head can learn them by heart here: the score would be 1 if a row helped to predict itself."""
    rng = np.random.default_rng(0)
    rows = of(rng.normal(size=(100, 300)), np.arange(100) % 2)
    found = solve(rows, cross_entropy, 2)
    assert found.left_out is not None
    assert (answers(found, rows.features) == rows.strata).mean() > 0.95
    assert 0.3 < (found.left_out.argmax(dim=1).numpy() == rows.strata).mean() < 0.7


@pytest.mark.parametrize("grouped", [True, False])
def test_copies_of_a_row_tell_its_label_unless_they_are_one_group(grouped: bool) -> None:
    rng = np.random.default_rng(1)
    twice = np.repeat(np.arange(50), 2)
    groups = twice if grouped else np.arange(100)
    rows = of(rng.normal(size=(50, 200))[twice], rng.permutation(np.arange(50) % 2)[twice], groups=groups)
    found = solve(rows, cross_entropy, 2)
    assert found.left_out is not None
    right = (found.left_out.argmax(dim=1).numpy() == rows.strata).mean()
    assert right < 0.7 if grouped else right > 0.8


def test_a_class_of_a_single_row_is_left_out_once_and_learned_in_the_end() -> None:
    rows = made(classes=3)
    kept = np.concatenate([np.flatnonzero(rows.strata < 2), np.flatnonzero(rows.strata == 2)[:1]])
    rare = of(rows.features[kept], rows.strata[kept])
    found = solve(rare, cross_entropy, 3)
    assert found.folds == 2
    assert found.left_out is not None
    assert torch.isfinite(found.left_out).all()
    there, zeros = slopes(rare, cross_entropy, found)
    assert there < 1e-3 * zeros
    share = functional.softmax(functional.linear(rare.features, found.weight, found.bias) * found.temperature, dim=1)
    assert float(share[:, 2].mean()) == pytest.approx(1 / len(kept), abs=1e-3), "an optimum with a bias has the shares"


def test_rows_that_are_all_of_one_group_can_leave_none_out() -> None:
    rows = replace(multi_label(made(rows=6)), groups=np.zeros(6, dtype=np.int64))
    found = solve(rows, binary, 3)
    assert torch.isfinite(found.weight).all()
    assert (found.folds, found.left_out) == (0, None)


def test_of_many_rows_a_sample_chooses_the_penalty_and_all_are_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(made().strata) <= MOST_ROWS
    chosen: list[Rows] = []
    choose = solver._chosen

    def spy(space: Any, rows: Rows, *arguments: Any) -> Any:
        chosen.append(rows)
        return choose(space, rows, *arguments)

    monkeypatch.setattr(solver, "_chosen", spy)
    monkeypatch.setattr(solver, "MOST_ROWS", 30)
    rows = replace(made(rows=90), weights=torch.arange(90) % 3 + 1.0)
    found = solve(rows, cross_entropy, 3)
    (part,) = chosen
    assert np.bincount(part.strata).tolist() == [10, 10, 10]
    assert part.weights is not None
    numbers = part.groups
    assert torch.equal(part.features, rows.features[numbers])
    assert torch.equal(part.targets, rows.targets[numbers])
    assert torch.equal(part.weights, torch.from_numpy(numbers) % 3 + 1.0)
    there, zeros = slopes(rows, cross_entropy, found)
    assert there < 1e-3 * zeros
    assert found.left_out is None
    tried = found.penalty * 90 / (30 * (1 - 1 / found.folds))
    assert min(abs(np.log(tried / np.array(PENALTIES)))) < 1e-9


# -- folds -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(0, 3))
def test_folds_have_the_classes_and_the_rows_in_proportion(labels: list[int], seed: int) -> None:
    strata = np.array(labels)
    folds = folds_of(strata, np.arange(len(strata)), seed)
    number = int(np.clip(np.bincount(strata)[np.unique(strata)].min(), 2, FOLDS))
    assert set(folds.tolist()) == set(range(number))
    assert np.ptp(np.bincount(folds, minlength=number)) <= 1
    for name in np.unique(strata):
        assert np.ptp(np.bincount(folds[strata == name], minlength=number)) <= 1
    assert np.array_equal(folds, folds_of(strata, np.arange(len(strata)), seed))


@given(st.lists(st.integers(0, 11), min_size=2, max_size=80).filter(lambda drawn: len(set(drawn)) > 1))
def test_folds_keep_groups_together(drawn: list[int]) -> None:
    groups = np.array(drawn)
    strata = groups % 3
    folds = folds_of(strata, groups, 0)
    owners = {(group, fold) for group, fold in zip(groups.tolist(), folds.tolist(), strict=True)}
    assert len(owners) == len(set(drawn))
    for name in np.unique(strata):  # every class is spread by its groups, not by its rows
        counts = np.bincount([fold for group, fold in owners if group % 3 == name], minlength=folds.max() + 1)
        assert np.ptp(counts) <= 1


def test_another_seed_deals_other_folds() -> None:
    strata = np.arange(40) % 2
    assert not np.array_equal(folds_of(strata, np.arange(40), 0), folds_of(strata, np.arange(40), 1))


# -- on real data ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of scikit-learn, about names of its options
@pytest.mark.parametrize("rows", [50, 300])
def test_digits_are_told_apart_as_well_as_by_scikit_learn_with_the_penalty_searched_for(rows: int) -> None:
    """Few rows and many. The margin is what chance moves: the standard error of the accuracy is near 0.01."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pixels, digits = load_digits(return_X_y=True)
    train, test, known, truth = train_test_split(pixels, digits, train_size=rows, stratify=digits, random_state=0)
    baseline = make_pipeline(StandardScaler(), LogisticRegressionCV(cv=5, max_iter=2000))
    expected = baseline.fit(train, known).score(test, truth)
    found = solve(of(train, known), cross_entropy, 10)
    right = (answers(found, test) == truth).mean()
    assert expected > 0.7
    assert right > expected - 0.01
    assert found.left_out is not None
    foreseen = (found.left_out.argmax(dim=1).numpy() == known).mean()
    assert foreseen == pytest.approx(right, abs=0.1)
    logits = functional.linear(torch.as_tensor(test, dtype=torch.float32), found.weight, found.bias)
    loss = float(cross_entropy(logits, torch.from_numpy(truth)).mean())
    assert loss < -np.log(baseline.predict_proba(test)[np.arange(len(truth)), truth].clip(1e-12)).mean() + 0.05
