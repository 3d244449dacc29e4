"""Checkpoint schedules as iterators of actions: the specification of what the kernels do.

The adjoint of n steps visits them backwards, and needs the state before each of them. A schedule
says which states to keep in a limited number of *slots*, and from which to advance again. Its
actions are

    Keep(i)       the state before step i, which is at hand, goes into a slot
    Drop(i)       its slot is free again
    Restore(i)    the state before step i is at hand again, from its slot
    Advance(i, j) steps i .. j - 1 are made: the state before step j is at hand
    Reverse(i)    step i is reversed; the state before it is at hand or in a slot

The first sweep makes all n steps, since it computes the solution; the state before the last of them
stays at hand. The adjoint follows; what it advances are the recomputed steps.
``_kernels/schedule.c`` is the same in C; a test executes both and compares.

References
----------
A. Griewank and A. Walther, Algorithm 799: revolve, ACM TOMS 26 (2000) 19-45,
doi:10.1145/347837.347846. Q. Wang, P. Moin and G. Iaccarino, Minimal repetition dynamic
checkpointing algorithm for unsteady adjoint calculation, SIAM J. Sci. Comput. 31 (2009) 2549-2567,
doi:10.1137/080727890.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import comb


@dataclass(frozen=True, slots=True)
class Keep:
    """The state before step ``i`` goes into a slot."""

    i: int


@dataclass(frozen=True, slots=True)
class Drop:
    """The slot of the state before step ``i`` is free again."""

    i: int


@dataclass(frozen=True, slots=True)
class Restore:
    """The state before step ``i`` is taken from its slot."""

    i: int


@dataclass(frozen=True, slots=True)
class Advance:
    """Steps ``i`` to ``j - 1`` are made."""

    i: int
    j: int


@dataclass(frozen=True, slots=True)
class Reverse:
    """Step ``i`` is reversed."""

    i: int


Action = Keep | Drop | Restore | Advance | Reverse


def reach(slots: int, sweeps: int) -> int:
    """beta(s, r) = C(s + r, s): the steps that ``slots`` can reverse in ``sweeps`` sweeps.

    Examples
    --------
    >>> reach(3, 2)
    10
    """
    return comb(slots + sweeps, slots) if slots >= 0 and sweeps >= 0 else 0


def optimal_recomputation(n: int, slots: int) -> int:
    """Steps made again, at least, to reverse ``n`` of them: r n - C(s + r, s + 1) - (n - 1).

    r is the smallest number with C(s + r, s) >= n; the first sweep's n - 1 are not counted.

    Examples
    --------
    >>> optimal_recomputation(1000, 10)
    2637
    """
    r = 0
    while reach(slots, r) < n:
        r += 1
    return r * n - comb(slots + r, slots + 1) - (n - 1)


def split(n: int, slots: int) -> int:
    """How far to advance from a kept state before the next is kept, with ``n`` steps to reverse.

    ``slots`` counts the kept state itself. The result is optimal (Griewank & Walther 2000,
    section 3).

    Examples
    --------
    >>> split(10, 3)
    4
    >>> split(5, 1)
    4
    """
    if slots == 1:
        return n - 1
    r = 1
    while reach(slots, r) < n:
        r += 1
    here, below, left = reach(slots, r - 1), reach(slots - 1, r - 1), reach(slots - 2, r - 1)
    if n <= here + left:
        m = reach(slots, r - 2)
    elif n < here + below + left:
        m = n - below - left
    else:
        m = here
    return max(m, 1)


def first_sweep_all(n: int) -> Iterator[Action]:
    """Keep every state."""
    for i in range(n):
        yield Keep(i)
        yield Advance(i, i + 1)


def first_sweep_binomial(n: int, slots: int, segment: int | None = None) -> Iterator[Action]:
    """Keep what the optimal schedule keeps first, the number of steps being known.

    With ``segment`` the steps fall into segments of that many (one a sample in its lane), each with
    ``slots`` of its own.

    Examples
    --------
    >>> for action in first_sweep_binomial(6, 2):
    ...     print(action)
    Keep(i=0)
    Advance(i=0, j=3)
    Keep(i=3)
    Advance(i=3, j=6)
    """
    segment = segment or n
    for start in range(0, n, segment):
        end = min(start + segment, n)
        i, free = start, slots
        while True:
            yield Keep(i)
            free -= 1
            j = end if free == 0 or end - i == 1 else i + split(end - i, free + 1)
            yield Advance(i, j)
            if j == end:
                break
            i = j


def first_sweep_uniform(n: int, slots: int) -> Iterator[Action]:
    """Keep every k-th state; k doubles, and every other state is dropped, when slots run out."""
    k = 1
    kept: list[int] = []
    for i in range(n):
        if i % k == 0:
            if len(kept) == slots and slots > 1:
                k *= 2
                for old in kept[1::2]:
                    yield Drop(old)
                kept = kept[::2]
            if i % k == 0 and len(kept) < slots:
                yield Keep(i)
                kept.append(i)
        yield Advance(i, i + 1)


def first_sweep_online(n: int, slots: int) -> Iterator[Action]:
    """Keep states while the number of steps is unknown (Wang, Moin & Iaccarino 2009).

    A state is dispensable if a later one has a higher level. A new state takes a free slot, else
    that of the latest dispensable state, with level 0; else it replaces the newest and has a level
    more.
    """
    hard: list[tuple[int, int]] = []  # (state, level), levels never rise
    soft: list[int] = []  # dispensable, the latest last
    for i in range(n):
        level = 0
        keep = True
        if i == 0:
            level = 1 << 30  # never dispensable, never replaced
        elif len(hard) + len(soft) < slots:
            pass
        elif soft:
            yield Drop(soft.pop())
        elif len(hard) > 1:
            old, top = hard.pop()
            yield Drop(old)
            level = top + 1
        else:
            keep = False
        if keep:
            lower = len(hard)
            while lower and hard[lower - 1][1] < level:
                lower -= 1
            soft += [state for state, _ in hard[lower:]]
            del hard[lower:]
            hard.append((i, level))
            yield Keep(i)
        yield Advance(i, i + 1)


def backward(
    n: int, slots: int, kept: Iterable[int], segment: int | None = None
) -> Iterator[Action]:
    """Reverse ``n`` steps from the states that the first sweep left, optimally for each.

    Examples
    --------
    >>> for action in backward(4, 2, [0, 2]):
    ...     print(action)
    Reverse(i=3)
    Reverse(i=2)
    Drop(i=2)
    Restore(i=0)
    Advance(i=0, j=1)
    Keep(i=1)
    Reverse(i=1)
    Drop(i=1)
    Reverse(i=0)
    Drop(i=0)
    """
    segment = segment or n
    stack = sorted(kept)
    end = n
    at = n - 1  # the state at hand: of the first sweep's last step
    while end:
        top = stack[-1]
        if top == end - 1:
            yield Reverse(top)
            yield Drop(top)
            stack.pop()
            end -= 1
            at = -1
        elif at == end - 1:
            yield Reverse(at)
            end -= 1
            at = -1
        else:
            base = top // segment * segment
            free = slots - sum(1 for i in stack if i >= base)
            if at != top:
                yield Restore(top)
            at = end - 1 if free <= 0 else top + split(end - top, free + 1)
            yield Advance(top, at)
            if free > 0:
                yield Keep(at)
                stack.append(at)
