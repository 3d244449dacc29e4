"""The plan of a record: what is kept for the backward pass within a budget, what is made again.

A plan is a function that the kernels' run calls when it knows how the batch is cut: `Plan` that of
the discrete adjoint, `ContinuousPlan` that of the continuous one (docs/math/checkpoints.md).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nodecore import _adjoint, methods
from nodecore._adjoint import Adjoint, Continuous, Discrete, Reversible, parse_bytes
from nodecore.status import InputError

KEEP_ALL, KEEP_BINOMIAL, KEEP_ONLINE, KEEP_UNIFORM = range(4)

# one chunk: (kind, slots or the most entries, steps or 0 while unknown, steps of a segment, tile
# steps from one state that may be kept to the next)
ChunkPlan = tuple[int, int, int, int, int]


def tile_steps(counts: Sequence[int], lanes: int) -> int:
    """Steps of a tile that works through samples of these many steps, refilling its lanes."""
    counts = [int(c) for c in counts if c > 0]
    if len(set(counts)) <= 1:
        return (counts[0] if counts else 0) * -(-len(counts) // lanes)
    ends = [0] * min(lanes, len(counts))
    for c in counts:
        heapq.heapreplace(ends, ends[0] + c)
    return max(ends)


def _cache_bytes() -> int:
    """Step traces are worth keeping while they stay in the last-level cache: half of it."""
    global _cache
    if _cache is None:
        size = 16 << 20
        for level in (3, 2):
            try:
                with open(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size") as f:
                    size = parse_bytes(f.read().replace("K", " KiB").replace("M", " MiB"))
                break
            except (OSError, InputError):
                pass
        _cache = min(max(size // 2, 2 << 20), 32 << 20)
    return _cache


_cache: int | None = None


@dataclass
class Plan:
    """How one solve's record is kept: made when the kernels say how the batch is cut."""

    adjoint: Discrete
    counts: Any  # steps of each sample, or None while unknown
    events: bool = False  # there may be events, whose number nobody knows
    chunks: list[ChunkPlan] | None = None
    text: str = "discrete: every accepted step is kept"

    def __call__(
        self, lanes: int, bounds: Sequence[int], checkpoint: int, overhead: int, besides: int
    ) -> tuple[list[ChunkPlan] | None, int]:
        """The chunks' plans (None: no limit), and bytes for step traces; see Run."""
        a = self.adjoint
        n_chunks = len(bounds) - 1
        traces = _cache_bytes()
        if not a.limited:
            return None, traces
        share = None
        if a.checkpoints is not None or a.schedule != "auto":
            traces = 0
        if a.memory is not None:
            budget = parse_bytes(a.memory)
            if self.events:
                besides += budget // 16
            least = besides + n_chunks * (overhead + checkpoint)
            if budget < least:
                raise _too_small(a.memory, lanes, n_chunks, "", least)
            traces = min(traces, budget // 4, budget - least)
            share = (budget - traces - besides) // n_chunks - overhead
        plans: list[ChunkPlan] = []
        predicted = 0
        for lo, hi in zip(bounds[:-1], bounds[1:], strict=True):
            plan, again = self._chunk(lanes, lo, hi, checkpoint, share)
            plans.append(plan)
            predicted += again
        self.chunks = plans
        slots = max(p[1] for p in plans)
        how = {
            KEEP_BINOMIAL: "binomial checkpoints,",
            KEEP_ONLINE: "binomial checkpoints, placed online, at most",
            KEEP_UNIFORM: "uniform checkpoints, at most",
        }[plans[0][0]]
        known = self.counts is not None
        self.text = (
            f"discrete: {how} {slots} slots of {checkpoint} bytes in "
            + (f"each of {n_chunks} chunks" if n_chunks > 1 else "one chunk")
            + (f"; predicted recomputation {predicted} lane steps" if known else "")
            + (
                "; all steps fit"
                if known and predicted == 0 and plans[0][0] == KEEP_BINOMIAL
                else ""
            )
        )
        return plans, traces

    def _chunk(
        self, lanes: int, lo: int, hi: int, checkpoint: int, share: int | None
    ) -> tuple[ChunkPlan, int]:
        a = self.adjoint
        n = segment = 0
        lane_steps = 0
        counts: list[int] = []
        if self.counts is not None:
            counts = [int(c) for c in self.counts[lo:hi] if c > 0]
            n = tile_steps(counts, lanes)
            lane_steps = sum(counts)
        slots = 1 << 62 if share is None else share // checkpoint
        equal = len(set(counts)) == 1
        if a.checkpoints is not None:
            generations = n // counts[0] if equal else 1
            per_sample = min(a.checkpoints, counts[0]) if equal else a.checkpoints
            if per_sample * generations <= slots:
                slots = per_sample * generations
                segment = counts[0] if equal and generations > 1 else 0
        if n:
            slots = min(slots, n)
        if slots >= 1 << 40:
            raise InputError("checkpoints is too large")
        if a.schedule == "uniform":
            return (KEEP_UNIFORM, int(slots), n, n, 1), 0
        if not n:
            return (KEEP_ONLINE, int(slots), 0, 0, 1), 0
        segment = segment or n
        each = slots // (n // segment) if segment < n else slots
        from nodecore.schedule import optimal_recomputation  # only a limited record needs it

        again = optimal_recomputation(min(segment, n), int(each)) * (n // min(segment, n))
        return (KEEP_BINOMIAL, int(slots), n, segment, 1), again * lane_steps // max(n, 1)


def _too_small(memory: Any, lanes: int, n_chunks: int, besides: str, least: int) -> InputError:
    return InputError(
        f"memory={memory!r} is too small: one checkpoint for each of the {n_chunks} chunks of "
        f"{lanes} lanes{besides} needs {least} bytes"
    )


@dataclass(frozen=True)
class StepBytes:
    """What one step of one sample takes in a backward pass by the continuous adjoint."""

    columns: int  # in the arrays of `Run.steps`
    polynomial: int  # as a piece of the curve
    waiting: int  # a backward step until its integrals are evaluated; 0: there are none

    # Columns of a window: as they are read, and joined in the order of samples. Of a backward step
    # besides, while it waits, and joined with the others that waited.
    READ, WAITED = 2, 4
    # Pieces of the curve: those carried on from a later window, at most as many as the window has,
    # beside the new ones, and both joined.
    HELD = 4

    @classmethod
    def of(cls, adjoint: Continuous, method: Any, dim: int, itemsize: int) -> StepBytes:
        """For a forward solve by ``method`` of ``dim`` components."""
        state = dim * itemsize
        back = method if adjoint.method is None else methods.get(adjoint.method)
        numbers = 8 + 8 + 1 + 3 * 8  # sample, output, flags and times
        columns = numbers + (1 + _stages(back)) * state
        entry = columns + (64 if _stages(back) else 0) + 16  # as it is aligned
        return cls(
            numbers + (1 + _stages(method)) * state,
            3 * 8 + (method.P.shape[1] + 1) * state,
            entry + columns * cls.WAITED if adjoint.mode == "gauss" else 0,
        )


def _stages(method: Any) -> int:
    """Stages that a step keeps: those that are found by iteration."""
    method = getattr(method, "stiff", method)
    return 0 if method.family in ("explicit", "rosenbrock") else int(method.n_stages)


@dataclass
class ContinuousPlan:
    """How the continuous adjoint keeps the forward solution.

    Without a limit: every step. Within a budget: checkpoints, from which a window of ``window``
    tile steps of ``group`` chunks is made again at a time; and room for what it is turned into and
    for ``waiting`` backward steps.
    """

    adjoint: Continuous
    size: StepBytes
    budget: int
    window: int = 0  # tile steps; 0: every step is kept
    group: int = 0
    waiting: int = 0
    text: str = ""

    # Samples are solved backwards together, within a budget, as long as each may make this many
    # steps at once. A solve that needs more goes on from where it was.
    LEAST_STEPS = 32
    # Tile steps of a window for which fewer chunks are read at a time.
    WORTH_A_WINDOW = 8

    def __call__(
        self, lanes: int, bounds: Sequence[int], checkpoint: int, overhead: int, besides: int
    ) -> tuple[list[ChunkPlan] | None, int]:
        """As `Plan`."""
        n, a, size = len(bounds) - 1, self.adjoint, self.size
        self.text = f"continuous, {a.mode}: every forward step is kept"
        fixed = besides + n * (overhead + checkpoint)
        if a.mode == "backsolve":
            if a.memory is not None and self.budget < fixed:
                raise _too_small(a.memory, lanes, n, "", fixed)
            self.text = f"continuous, {a.mode}: y is solved for again, no forward step is kept"
            return [(KEEP_ONLINE, 1, 0, 0, 1)] * n, 0
        if self.window == 0 and a.memory is None:
            # with its pieces, held and joined, and about as many backward steps
            each = overhead + lanes * (2 * size.polynomial + size.waiting)
            return [(KEEP_ALL, max((self.budget - besides) // (n * each), 1), 0, 0, 1)] * n, 0
        read = lanes * (StepBytes.READ * size.columns + StepBytes.HELD * size.polynomial)
        waiting = 2 * self.LEAST_STEPS * size.waiting  # of one sample: see `together`
        least = fixed + overhead + read + waiting
        if self.budget < least:
            with_window = ", a step of one of them" + (", and its integrals" if waiting else "")
            raise _too_small(a.memory or self.budget, lanes, n, with_window, least)
        # half of what is left goes to the window and the backward steps, the rest to checkpoints
        left = self.budget - least
        back = left // 4 if waiting else 0
        room = overhead + read + left // 2 - back
        self.waiting = (waiting + back) // size.waiting if waiting else 0
        self.group = n
        if room < self.WORTH_A_WINDOW * (n * read + overhead):
            fewer = (room // self.WORTH_A_WINDOW - overhead) // read
            self.group = max(1, min(n, fewer))
        self.window = room // (self.group * read + overhead)
        spent = self.window * (self.group * read + overhead) - overhead - read + back
        slots = 1 + (left - spent) // (n * checkpoint)
        self.text = (
            f"continuous, {a.mode}: at most {slots} checkpoints of {checkpoint} bytes in "
            + (f"each of {n} chunks" if n > 1 else "one chunk")
            + f"; from them windows of at most {self.window} tile steps"
            + (f", of {self.group} of the chunks at a time" if n > 1 else "")
        )
        return [(KEEP_ONLINE, slots, 0, 0, self.window)] * n, 0

    def together(self, n: int, vector_lanes: int) -> tuple[int, int]:
        """How many of ``n`` samples to solve backwards at once, and how many steps each may make.

        Entries of a record are of all lanes of a tile: those of a `CappedPlan` hold at most ``steps
        (m + max(m / 4, lanes))`` lanes, for m samples and a chunk for each four tiles; for m <= 2,
        a chunk each, ``2 m steps``.
        """

        def steps(m: int) -> int:
            return int(self.waiting / (2 * m if m <= 2 else m + max(m / 4, 2 * vector_lanes)))

        if steps(n) >= self.LEAST_STEPS:
            return n, steps(n)
        per_sample = self.waiting // self.LEAST_STEPS
        m = min(per_sample - 2 * vector_lanes, 4 * per_sample // 5)
        if m <= 2:
            m = 2 if n > 1 and steps(2) >= self.LEAST_STEPS else 1
        return m, steps(m)

    def limited(self) -> ContinuousPlan:
        """The same for steps that did not fit."""
        return replace(self, window=1)


@dataclass
class CappedPlan:
    """A record that holds the steps of samples that may make ``steps`` each, and no more."""

    steps: int

    def __call__(
        self, lanes: int, bounds: Sequence[int], checkpoint: int, overhead: int, besides: int
    ) -> tuple[list[ChunkPlan] | None, int]:
        """As `Plan`."""
        counts = np.diff(bounds)
        return [(KEEP_ALL, int(c) * self.steps // lanes + self.steps, 0, 0, 1) for c in counts], 0


def plan_for(adjoint: Adjoint, counts: Callable[[], Any], events: bool, size: Any) -> Any:
    """The plan of a record; ``counts`` gives the samples' steps where they are known, ``size`` the
    solve's (method, dim, itemsize)."""
    if isinstance(adjoint, Continuous):
        memory = adjoint.memory
        budget = _adjoint.quarter_of_memory() if memory is None else parse_bytes(memory)
        return ContinuousPlan(adjoint, StepBytes.of(adjoint, *size), min(budget, 1 << 60))
    if isinstance(adjoint, Reversible):
        every = max(round(5 / (1 - adjoint.coupling)), 1)
        return Plan(
            Discrete(),
            None,
            text=f"reversible, coupling {adjoint.coupling:g}: steps are undone; kept are the last "
            f"states, those behind every {every} steps, and the ends of adaptive steps",
        )
    return Plan(adjoint, counts(), events) if adjoint.limited else _UNLIMITED


_UNLIMITED = Plan(Discrete(), None)
