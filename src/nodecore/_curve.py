"""The forward solution as a function of time, from its end to its start: a window of steps at a
time.

Going back only the steps around the present time are needed. A window is read from the record, or
made again from a checkpoint, and each of its steps becomes a polynomial, a *piece*, which the
kernels look up (docs/math/continuous-adjoint.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nodecore import _run
from nodecore._inputs import Array
from nodecore._run import Inputs

# Bytes of the pieces that are made at a time where every step is kept: many share the cost of a
# backward solve, and stay in the cache.
_WINDOW = 16 << 20

# Bytes of work space, about, in which many steps are evaluated at once.
_WORK = 2 << 20

# A sample's number and its pieces' starts, sizes and coefficients, sorted by sample and time.
Pieces = tuple[Array, Array, Array, Array]


def at_once(step: int) -> int:
    """How many steps of so many bytes of work space to evaluate at once."""
    return min(max(_WORK // step, 16), 4096)


def nbytes(arrays: tuple[Array, ...]) -> int:
    """Of all of them."""
    return sum(a.nbytes for a in arrays)


def last_before(start: Array, size: Array, ranges: Array, t: Array) -> Array:
    """For each time the last of the pieces in its range (n, 2) that starts there or before."""
    first, last = ranges[:, 0], ranges[:, 1] - 1
    sign = np.sign(size[first])
    while (first < last).any():
        middle = (first + last + 1) // 2
        before = sign * (t - start[middle]) >= 0
        first = np.where(before, middle, first)
        last = np.where(before, last, middle - 1)
    return first


class Curve:
    """y(t) of a forward solve: the pieces that are held.

    ``needed`` tells which steps, given their samples and starts, are still looked up.
    """

    def __init__(self, run: Any, inputs: Inputs, needed: Callable[[Array, Array], Array]) -> None:
        self.run, self.inputs, self.needed = run, inputs, needed
        self.dim = inputs.given.state.y0.shape[1]
        self.dtype = inputs.given.state.y0.dtype
        degree = inputs.method.P.shape[1]
        self.theta = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2
        self.fit = np.linalg.inv(np.vander(self.theta, increasing=True))
        none = np.zeros(0)
        self._hold((none.astype(np.int64), none, none, np.zeros((0, degree + 1, self.dim))))
        lanes, n_chunks = run.lanes
        plan = run.plan
        self.limited = plan.window > 0
        self.window, self.group = plan.window, plan.group
        if not self.limited:
            self.window = max(_WINDOW // (lanes * n_chunks * plan.size.polynomial), 1)
            self.group = n_chunks
        self.most = self.window * self.group * lanes  # pieces of a window, at most

    # ---- windows ------------------------------------------------------------------------------

    def windows(self) -> Iterator[Array]:
        """Hold the pieces of a window of each chunk, from its last to its first, with those of
        later ones that are still needed: the samples of these chunks."""
        B = len(self.ranges)
        n_chunks = self.run.lanes[1]
        steps = np.array(self.run.kept_steps())
        for first in range(0, n_chunks, self.group):
            chunks = np.arange(first, min(first + self.group, n_chunks))
            samples = np.arange(B * first // n_chunks, B * (int(chunks[-1]) + 1) // n_chunks)
            count = -(-steps[chunks] // self.window)
            for later in range(int(count.max())):
                begin = np.maximum(count - 1 - later, 0) * self.window
                end = np.where(later < count, np.minimum(begin + self.window, steps[chunks]), begin)
                self._take(*self.run.window(chunks.tolist(), begin.tolist(), end.tolist()))
                yield samples

    def _take(self, steps: tuple[Array, ...], made: int) -> None:
        """Hold the pieces of these steps too, which come before those that are held."""
        self.note(made + 2 * nbytes(steps))
        wanted = self.needed(steps[0], steps[3])
        if not wanted.any():
            return
        if not wanted.all():
            steps = tuple([column[wanted] for column in steps])
        new = self._pieces(steps)
        old = (self.sample, *self.pieces[1:])
        self.note(nbytes(steps) + nbytes(new))
        if not len(old[0]):
            self._hold(new)
            return
        order = np.argsort(np.concatenate([new[0], old[0]]), kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        joined = []
        for a, b in zip(new, old, strict=True):
            both = np.empty((len(order), *a.shape[1:]), a.dtype)
            both[place[: len(a)]], both[place[len(a) :]] = a, b
            joined.append(both)
        self.note(nbytes(steps) + nbytes(new) + nbytes(tuple(joined)))
        self._hold((joined[0], joined[1], joined[2], joined[3]))

    def forget(self) -> None:
        """Let go of the pieces that are not needed any more."""
        wanted = self.needed(self.sample, self.pieces[1])
        if not wanted.all():
            _, start, size, coef = self.pieces
            self._hold((self.sample[wanted], start[wanted], size[wanted], coef[wanted]))

    def too_many(self) -> bool:
        """Whether the pieces that are still needed have no room beside those of the next window."""
        wanted = self.needed(self.sample, self.pieces[1])
        return self.limited and bool(np.count_nonzero(wanted) > self.most)

    def _hold(self, pieces: Pieces) -> None:
        self.sample, start, size, coef = pieces
        count = np.bincount(self.sample, minlength=len(self.inputs.given.state.y0))
        last = np.cumsum(count)
        self.ranges = np.stack([last - count, last], axis=1)
        self.pieces = (self.ranges, start, size, coef)  # as the kernels read them: see Run

    def _pieces(self, steps: tuple[Array, ...]) -> Pieces:
        """y(t) in each step as a polynomial in theta, through its dense output at as many points as
        it has coefficients."""
        sample, _, _, t_n, h, t_end, y_n, _ = steps
        n, degree = len(t_n), len(self.theta) - 1
        coef = np.empty((n, degree + 1, self.dim), self.dtype)
        block = at_once(300 + 40 * self.dim * (degree + 1))
        for low in range(0, n, block):
            here = slice(low, min(low + block, n))
            part = tuple([column[here] for column in steps])
            t = t_n[here, None] + h[here, None] * self.theta
            t[:, -1] = t_end[here]
            values = np.empty((len(t), degree + 1, self.dim), self.dtype)
            values[:, 0] = y_n[here]
            which = np.repeat(np.arange(len(t)), degree)
            inner = _run.within_steps(self.inputs, part, which, t[:, 1:].reshape(-1))
            values[:, 1:] = inner.reshape(len(t), degree, self.dim)
            coef[here] = np.matmul(self.fit, values)
        return sample, np.ascontiguousarray(t_n), np.ascontiguousarray(h), coef

    # ---- what is held -------------------------------------------------------------------------

    def begin(self, who: Array) -> Array:
        """Where the pieces of the samples ``who`` begin; NaN: they have none."""
        first, last = self.ranges[who].T
        begin = np.full(len(who), np.nan)
        some = first < last
        begin[some] = self.pieces[1][first[some]]
        return begin

    def __call__(self, sample: Array, t: Array) -> Array:
        """y (n, D) of the samples (n,) at the times (n,), as the kernels look it up."""
        ranges, start, size, coef = self.pieces
        piece = last_before(start, size, ranges[sample], t)
        theta = ((t - start[piece]) / size[piece])[:, None]
        out: Array = coef[piece, -1].astype(np.float64)
        for k in range(coef.shape[1] - 2, -1, -1):
            out = out * theta + coef[piece, k]
        return out

    def note(self, besides: int) -> None:
        """Count what is held, and so many bytes besides."""
        held = self.sample.nbytes + nbytes(self.pieces[1:])
        self.run.held_bytes = max(self.run.held_bytes, held + besides)
