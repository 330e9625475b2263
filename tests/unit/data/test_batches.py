from collections.abc import Sequence

import numpy as np
import pytest
import torch

from hftl.data.batches import (
    BUCKET_STEPS,
    Batch,
    epoch_order,
    epoch_steps,
    evaluation_order,
    load,
    micro_batches,
)
from hftl.errors import HftlError


class Rows:
    """Examples whose values are their own indices."""

    lengths = None
    frequencies = None
    read_ahead = True

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def at(self, seed: Sequence[int]) -> "Rows":
        return self

    def __len__(self) -> int:
        return self.rows

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        numbers = torch.tensor(indices)
        return Batch({"values": numbers.float()[:, None]}, numbers % 2, numbers)


def as_lists(batches: Sequence[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def test_the_order_is_a_function_of_its_seed():
    one = as_lists(epoch_order(50, None, 8, (0, 1, 2)))
    assert one == as_lists(epoch_order(50, None, 8, [0, 1, 2]))
    assert sorted(row for step in one for row in step) == list(range(50))
    assert [len(step) for step in one] == [8] * 6 + [2]
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert as_lists(epoch_order(50, None, 8, other)) != one


def test_rows_of_a_step_have_like_lengths_but_steps_come_in_any_order():
    lengths = np.random.default_rng(0).permutation(400)
    steps = epoch_order(400, lengths, 8, (0,))
    assert all(np.ptp(lengths[step]) == 7 for step in steps)  # 400 rows are one stretch of 50 steps
    means = [lengths[step].mean() for step in steps]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_rows_are_sorted_within_stretches_only():
    rows = 2 * BUCKET_STEPS * 4
    steps = epoch_order(rows, np.arange(rows), 4, (0,))
    assert any(np.ptp(step) > 4 for step in steps)  # two stretches, each with half of all lengths
    assert sorted(np.concatenate(steps).tolist()) == list(range(rows))


def test_rows_are_drawn_as_often_as_asked_in_an_epoch_of_the_same_length():
    frequencies = np.array([0.0, 1.0, 1.0, 6.0] * 500)
    order = np.concatenate(epoch_order(2000, None, 8, (0,), frequencies))
    assert len(order) == 2000
    shares = np.bincount(order % 4, minlength=4) / 2000
    np.testing.assert_allclose(shares, [0, 1 / 8, 1 / 8, 6 / 8], atol=0.04)
    assert order.tolist() == np.concatenate(epoch_order(2000, None, 8, (0,), 3 * frequencies)).tolist()
    assert order.tolist() != np.concatenate(epoch_order(2000, None, 8, (1,), frequencies)).tolist()


@pytest.mark.parametrize(("accumulation", "world_size"), [(1, 1), (3, 1), (1, 3), (2, 2)])
def test_every_process_has_a_batch_in_every_step_and_each_row_counts_once(accumulation, world_size):
    """Ten rows in steps of nine: the last step has a single row."""
    of_ranks = [[*epoch_steps(Rows(10), 9, (0,), accumulation, 0, rank, world_size)] for rank in range(world_size)]
    counted = []
    for steps in zip(*of_ranks, strict=True):
        assert all(batches for _, batches in steps)
        counting = [batch.rows.tolist() for _, batches in steps for batch in batches if batch.weight]
        assert {rows for rows, _ in steps} == {sum(map(len, counting))}
        idle = [batch for _, batches in steps for batch in batches if not batch.weight]
        assert all(len(batch) == 1 for batch in idle)
        counted += [row for rows in counting for row in rows]
    assert sorted(counted) == list(range(10))


def test_evaluation_takes_each_row_once_longest_first():
    assert as_lists(evaluation_order(7, None, 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert as_lists(evaluation_order(5, np.array([1, 3, 2, 3, 0]), 2)) == [[1, 3], [2, 0], [4]]
    assert evaluation_order(0, None, 3) == []


def test_pieces_of_a_step():
    step = np.arange(10, 17)
    assert as_lists(micro_batches(step, 1)) == [list(range(10, 17))]
    assert as_lists(micro_batches(step, 3)) == [[10, 11, 12], [13, 14], [15, 16]]
    assert as_lists(micro_batches(step, 2, rank=1, world_size=2)) == [[14, 15], [16]]
    assert as_lists(micro_batches(step[:2], 3)) == [[10], [11]]  # none is empty


class Damaged(Rows):
    """Examples of which one cannot be read."""

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        if 3 in indices:
            raise HftlError("3.wav: cut off; replace or remove it")
        return super().__getitems__(indices)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_a_row_is_said_in_its_own_words(workers):
    batches = load(Damaged(6), [np.array([0, 1]), np.array([2, 3])], workers)
    assert next(batches).rows.tolist() == [0, 1]
    with pytest.raises(HftlError, match=r"^3\.wav: cut off; replace or remove it$"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_given(workers):
    order = [np.array([3, 1]), np.array([2]), np.array([0, 4, 5])]
    found = list(load(Rows(6), order, workers))
    assert [batch.rows.tolist() for batch in found] == as_lists(order)
    assert [batch.inputs["values"].flatten().tolist() for batch in found] == as_lists(order)
    assert [len(batch) for batch in found] == [2, 1, 3]


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert len(list(load(Rows(4), [np.array([0, 1]), np.array([2, 3])], 0))) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_moves_as_a_whole():
    batch = Rows(3).__getitems__([2, 0]).to(torch.device("meta"))
    assert {batch.inputs["values"].device.type, batch.targets.device.type} == {"meta"}
    assert batch.rows.tolist() == [2, 0]
    assert len(batch) == 2
    assert Batch({}, None, torch.tensor([1])).to(torch.device("meta")).targets is None
