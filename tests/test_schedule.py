"""Schedules are executed symbolically: order, dependencies, storage; counts equal the formula; and
the kernels follow them."""

import pytest

from nodecore import _kernels
from nodecore.schedule import (
    Advance,
    Drop,
    Keep,
    Restore,
    Reverse,
    backward,
    first_sweep_all,
    first_sweep_binomial,
    first_sweep_online,
    first_sweep_uniform,
    optimal_recomputation,
    reach,
    split,
)

STEPS = (1, 2, 3, 5, 10, 37, 100, 1000)
SLOTS = (1, 2, 3, 5, 10, 20, 44, 100)
FIRST = {
    "binomial": first_sweep_binomial,
    "online": first_sweep_online,
    "uniform": first_sweep_uniform,
}


def execute(first, n, slots, segment=None):
    """(most slots in use, steps made again); every rule of the schedule's contract is asserted."""
    kept, at, most = set(), 0, 0
    for action in first:
        if isinstance(action, Keep):
            assert action.i == at
            kept.add(action.i)
            most = max(most, len(kept))
        elif isinstance(action, Drop):
            kept.remove(action.i)
        else:
            assert isinstance(action, Advance) and action.i == at < action.j <= n
            at = action.j
    assert at == n
    at, again, left = n - 1, 0, n
    for action in backward(n, slots, sorted(kept), segment):
        if isinstance(action, Keep):
            assert action.i == at
            kept.add(action.i)
            most = max(most, len(kept))
        elif isinstance(action, Drop):
            kept.remove(action.i)
        elif isinstance(action, Restore):
            assert action.i in kept
            at = action.i
        elif isinstance(action, Advance):
            assert action.i == at < action.j < left
            again += action.j - action.i
            at = action.j
        else:
            assert isinstance(action, Reverse) and action.i == left - 1
            assert action.i == at or action.i in kept
            left -= 1
            at = -1
    assert left == 0
    return most, again


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("n", STEPS)
def test_binomial_is_optimal(n, slots):
    most, again = execute(first_sweep_binomial(n, slots), n, slots)
    assert most <= slots
    assert again == optimal_recomputation(n, slots)


def optimum_by_dynamic_programming(n, slots):
    """Fewest steps made again, without any theory."""
    table = {}

    def cost(n, s):  # reverse n steps from a kept state with s slots, itself included
        if n <= 1:
            return 0
        if s == 1:
            return n * (n - 1) // 2
        if (n, s) not in table:
            table[n, s] = min(m + cost(n - m, s - 1) + cost(m, s) for m in range(1, n))
        return table[n, s]

    return cost(n, slots) - (n - 1)


@pytest.mark.parametrize("slots", (1, 2, 3, 4, 7))
def test_formula_is_the_optimum(slots):
    for n in range(1, 40):
        assert optimal_recomputation(n, slots) == optimum_by_dynamic_programming(n, slots)


@pytest.mark.parametrize("slots", SLOTS[1:])
@pytest.mark.parametrize("n", STEPS)
def test_online_is_near_the_optimum(n, slots):
    most, again = execute(first_sweep_online(n, slots), n, slots)
    assert most <= slots
    assert again + n <= 1.4 * (optimal_recomputation(n, slots) + n)


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("n", STEPS)
def test_uniform_is_legal(n, slots):
    most, _ = execute(first_sweep_uniform(n, slots), n, slots)
    assert most <= slots


def test_all_keeps_everything():
    assert execute(first_sweep_all(50), 50, 50) == (50, 0)


@pytest.mark.parametrize(("n", "slots", "segments"), [(100, 3, 4), (37, 5, 2), (10, 10, 3)])
def test_segments_have_slots_of_their_own(n, slots, segments):
    total = n * segments
    first = first_sweep_binomial(total, slots, n)
    most, again = execute(first, total, slots, n)
    assert most <= slots * segments
    one = optimal_recomputation(n, slots)
    # only the last segment's last state is at hand when the first sweep ends
    assert segments * one <= again <= segments * (one + n)


def test_reach_is_the_binomial_coefficient():
    assert [reach(3, r) for r in range(4)] == [1, 4, 10, 20]


@pytest.mark.parametrize("slots", SLOTS)
def test_split_in_c(slots):
    for n in (2, 3, 4, 5, 10, 11, 57, 100, 999, 1000):
        assert _kernels.schedule_split(n, slots) == split(n, slots)


@pytest.mark.parametrize("kind", FIRST)
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("n", STEPS)
def test_first_sweep_in_c(kind, n, slots):
    code = {"binomial": 1, "online": 2, "uniform": 3}[kind]
    placed, left = _kernels.schedule_first_sweep(code, slots, n, n, kind == "binomial")
    kept, now = [], set()
    for action in FIRST[kind](n, slots):
        if isinstance(action, Keep):
            kept.append(action.i)
            now.add(action.i)
        elif isinstance(action, Drop):
            now.remove(action.i)
    assert [i for i, slot in enumerate(placed) if slot >= 0] == kept
    assert [step for step, _ in left] == sorted(now)
    assert len({slot for _, slot in left}) == len(left)
    assert all(placed[step] == slot for step, slot in left)
