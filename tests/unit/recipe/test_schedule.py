import pytest

from hftl.recipe.phase import Phase
from hftl.recipe.schedule import factor


def curve(steps: int, **settings: object) -> list[float]:
    phase = Phase(**settings)  # type: ignore[arg-type]
    return [factor(phase, step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25]),
        ("linear", 0.5, [0.5, 1.0, 1.0, 0.5]),
        ("cosine", 0.0, [1.0, 0.853553, 0.5, 0.146447]),
        ("cosine", 0.5, [0.5, 1.0, 1.0, 0.5]),
        ("constant", 0.0, [1.0, 1.0, 1.0, 1.0]),
        ("constant", 0.75, [1 / 3, 2 / 3, 1.0, 1.0]),
        ("linear", 1.0, [0.25, 0.5, 0.75, 1.0]),
        ("linear", 0.1, [1.0, 1.0, 2 / 3, 1 / 3]),  # a part of a step is a step
    ],
)
def test_curves(schedule, warmup, expected):
    assert curve(4, schedule=schedule, warmup=warmup) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_a_phase_of_one_step_moves(schedule, warmup):
    assert curve(1, schedule=schedule, warmup=warmup) == [1.0]


def test_the_warm_up_has_the_share_of_steps_it_is_given():
    assert curve(100, warmup=0.1, schedule="constant").index(1.0) == 9  # reached with the tenth step
    assert curve(100, warmup=0.1)[10] == 1.0
    assert curve(100, warmup=0.1)[11] < 1.0


def test_the_curve_ends_just_above_zero():
    assert curve(100, warmup=0.0)[-1] == pytest.approx(0.01)
    assert 0 < curve(100, warmup=0.0, schedule="cosine")[-1] < 0.001
    assert factor(Phase(), 100, 100) == 0.0
