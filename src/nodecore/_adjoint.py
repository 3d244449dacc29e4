"""Which gradient, within which memory: `Discrete` and the others, and the plan of a record."""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nodecore import methods
from nodecore.status import InputError

KEEP_ALL, KEEP_BINOMIAL, KEEP_ONLINE, KEEP_UNIFORM = range(4)

# one chunk: (kind, slots or the most entries, steps or 0 while unknown, steps of a segment, tile
# steps from one state that may be kept to the next)
ChunkPlan = tuple[int, int, int, int, int]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}  # fmt: skip


def parse_bytes(memory: Any) -> int:
    """A number of bytes, or text like "64 MiB".

    Examples
    --------
    >>> parse_bytes("1.5 KiB")
    1536
    """
    if isinstance(memory, int | np.integer | float) and not isinstance(memory, bool) and memory > 0:
        return int(memory)
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]*)\s*", memory)
        if match and match[2].upper() in _UNITS:
            try:
                return int(float(match[1]) * _UNITS[match[2].upper()])
            except ValueError:
                pass
    raise InputError(f'memory must be a number of bytes or like "64 MiB", not {memory!r}')


def quarter_of_memory() -> int:
    """A quarter of the memory that this process may still use."""
    limits = []
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    limits.append(int(line.split()[1]) * 1024)
    except OSError:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as f:
                text = f.read().strip()
            if text != "max":
                limits.append(int(text))
        except (OSError, ValueError):
            pass
    return max(min(limits, default=1 << 32) // 4, 1 << 20)


@dataclass(frozen=True)
class Discrete:
    """The exact gradient of what was computed, within a budget of memory.

    Parameters
    ----------
    memory : int or str, optional
        Bytes, or like "64 MiB": the most that is kept for the backward pass, over all samples and
        threads. What does not fit is computed again from checkpoints. None: no limit.
    checkpoints : int, optional
        At most this many stored states a sample, the initial one among them, beside the one being
        advanced.
    schedule : {"auto", "all", "uniform", "binomial"}
        "all" keeps every step (plain backpropagation through the steps). "binomial": the fewest
        steps made again, by Revolve where the number of steps is known, else placed online.
        "uniform": every k-th state. "auto": all if it fits, else binomial.

    Raises
    ------
    InputError
        If a value is not possible, or "all" is combined with a limit.

    Notes
    -----
    The gradient has the same bits whatever is kept. Griewank & Walther, ACM TOMS 26 (2000) 19-45;
    Wang, Moin & Iaccarino, SIAM J. Sci. Comput. 31 (2009) 2549-2567. See docs/math/checkpoints.md.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> sol = nc.solve(lambda t, y: -y, [1.0], [0.0, 1.0], method="rk4", steps=1000,
    ...                adjoint=nc.Discrete(checkpoints=10))
    >>> g = sol.vjp(np.array([[0.0], [1.0]]))
    >>> sol.stats.recomputed_steps
    2637
    """

    memory: int | str | None = None
    checkpoints: int | None = None
    schedule: str = "auto"

    def __post_init__(self) -> None:
        if self.memory is not None:
            parse_bytes(self.memory)
        c = self.checkpoints
        if c is not None and (isinstance(c, bool) or not isinstance(c, int | np.integer) or c < 1):
            raise InputError(f"checkpoints must be a positive integer, not {c!r}")
        if self.schedule not in ("auto", "all", "uniform", "binomial"):
            raise InputError(
                f'schedule must be "auto", "all", "uniform" or "binomial", not {self.schedule!r}'
            )
        limited = self.memory is not None or c is not None
        if self.schedule == "all" and limited:
            raise InputError('schedule="all" keeps every step: it excludes memory and checkpoints')
        if self.schedule in ("uniform", "binomial") and not limited:
            raise InputError(f'schedule="{self.schedule}" needs memory= or checkpoints=')

    @property
    def limited(self) -> bool:
        """Whether something may be computed again."""
        return self.memory is not None or self.checkpoints is not None


@dataclass(frozen=True)
class Continuous:
    """The adjoint differential equation lambda' = -f_y^T lambda, solved backwards in time.

    Its gradient is that of the exact solution up to the tolerances, not that of what was computed:
    for that there is `Discrete`, the default.

    Parameters
    ----------
    mode : {"gauss", "interpolating", "backsolve"}
        "gauss": only lambda is solved for; the integrals for params and args are Gauss quadratures
        over the accepted backward steps; y comes from the forward solve's dense output.
        "interpolating": the integrals are part of the backward system. "backsolve": y too is solved
        for again backwards, which needs no forward steps, and fails for damped modes: they grow
        backwards. A warning says so when it is seen.
    method : str, optional
        Of the backward solve, adaptive; default: that of the forward solve, or "tsit5".
    rtol, atol : float, optional
        Of the backward solve; default: those of the forward solve. ``atol`` is relative to the
        sample's largest cotangent.
    memory : int or str, optional
        Bytes, or like "64 MiB": the most that is kept for the backward pass, over all samples. What
        does not fit is computed again from checkpoints, a window of steps at a time. None: every
        forward step is kept where they fit in a quarter of the memory that the process may use;
        else that is the budget.

    Raises
    ------
    InputError
        If a value is not possible; in `solve`, if ``memory`` is too small, with the smallest that
        works.

    Notes
    -----
    Within a budget a backward solve may be cut between outputs, at the end of a forward step or
    after a number of its own steps. Where nothing is cut, the cotangents of the states have the
    same bits as without a limit; else they agree up to the tolerance.

    Cao, Li, Petzold & Serban, Adjoint sensitivity analysis for differential-algebraic equations,
    SIAM J. Sci. Comput. 24 (2003) 1076-1089; Kim et al., Stiff neural ordinary differential
    equations, Chaos 31 (2021) 093122. See docs/math/continuous-adjoint.md.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> sol = nc.solve(lambda t, y, k: -k * y, [1.0], [0.0, 1.0], 2.0, adjoint=nc.Continuous())
    >>> g = sol.vjp(np.array([[0.0], [1.0]]))
    >>> bool(np.isclose(g.params, -np.exp(-2.0), rtol=1e-5))
    True
    """

    mode: str = "gauss"
    method: str | None = None
    rtol: float | None = None
    atol: float | None = None
    memory: int | str | None = None

    def __post_init__(self) -> None:
        if self.memory is not None:
            parse_bytes(self.memory)
        if self.mode not in ("gauss", "interpolating", "backsolve"):
            raise InputError(
                f'mode must be "gauss", "interpolating" or "backsolve", not {self.mode!r}'
            )
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise InputError(f"{name} must be a positive number, not {value!r}")
        if self.method is not None and not methods.get(self.method).adaptive:
            raise InputError(f"method={self.method!r} has no error estimate: it cannot be adaptive")


@dataclass(frozen=True)
class Reversible:
    """The exact gradient of a scheme that is undone step by step: no state is kept but the last.

    The solve itself is another one: a second state z travels with y, both coupled by
    ``coupling``, so ``sol.y`` differs from that of the plain method, within the same order of
    accuracy, and a step costs twice as many evaluations. Explicit methods only, fixed or adaptive.

    Parameters
    ----------
    coupling : float
        In (0, 1): the l below. A parasitic mode is damped while l exp(h rho) < 1, with rho the
        rate at which solutions decay, so a smaller l bears more damping; but undoing a step
        multiplies rounding errors by 1/l, and the smaller l, the more states are kept against it.

    Raises
    ------
    InputError
        If ``coupling`` is not between 0 and 1.

    Notes
    -----
    y+ = l y + (1 - l) z + Psi_h(t, z), z+ = z - Psi_-h(t + h, y+), with Psi the increment of the
    method's step: McCallum & Foster, Efficient, accurate and stable gradients for neural ODEs,
    arXiv:2410.11648 (2024). Memory does not depend on the number of steps, but for the ends of
    adaptive ones (8 bytes each), and for (y, z), kept every 5/(1 - l) steps because going back
    multiplies rounding errors by 1/l.

    Damped problems excite a parasitic mode, y - z, that grows while the solution decays. A sample
    ends with status UNSTABLE where the norm of y - z exceeds a hundred tolerances,
    ``atol + rtol |y|``; with fixed steps, which have no tolerance, half of the norm of y. See
    docs/math/reversible-adjoint.md; `Discrete` with ``memory=`` has none of these limits.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> sol = nc.solve(lambda t, y, w: [y[1], -w * np.sin(y[0])], [1.0, 0.0], [0.0, 10.0], 1.3,
    ...                method="rk4", steps=1000, adjoint=nc.Reversible())
    >>> nc.gradcheck(sol) < 1e-8, sol.stats.storage_bytes < 200
    (True, True)
    """

    coupling: float = 0.999

    def __post_init__(self) -> None:
        c = self.coupling
        if isinstance(c, bool) or not isinstance(c, int | float | np.floating) or not 0 < c < 1:
            raise InputError(f"coupling must be a number between 0 and 1, not {c!r}")


Adjoint = Discrete | Continuous | Reversible


def resolve(adjoint: Any) -> Adjoint | None:
    """What a user's ``adjoint`` means; None: no gradient."""
    if adjoint is None or isinstance(adjoint, Discrete | Continuous | Reversible):
        return adjoint
    if adjoint == "discrete":
        return Discrete()
    if adjoint == "auto":
        return Discrete(memory=quarter_of_memory())
    if adjoint == "continuous":
        return Continuous()
    if adjoint == "reversible":
        return Reversible()
    raise InputError(
        'adjoint must be None, "auto", "discrete", "continuous", "reversible", an nc.Discrete, '
        f"nc.Continuous or nc.Reversible, not {adjoint!r}"
    )


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
            self.text = f"continuous, {a.mode}: no forward step is kept, only the first states"
            return [(KEEP_ONLINE, 1, 0, 0, 1)] * n, 0
        if self.window == 0 and a.memory is None:
            entry = overhead
            most = max((self.budget - besides) // (n * entry), 1)
            return [(KEEP_ALL, most, 0, 0, 1)] * n, 0
        read = lanes * (StepBytes.READ * size.columns + StepBytes.HELD * size.polynomial)
        waiting = 2 * self.LEAST_STEPS * size.waiting  # of one sample: see `together`
        least = fixed + overhead + read + waiting
        if self.budget < least:
            with_window = ", a step of one of them" + (", and its integrals" if waiting else "")
            raise _too_small(a.memory or self.budget, lanes, n, with_window, least)
        # what is left: half to checkpoints, half to the window and the backward steps
        left = (self.budget - least) // 2
        slots = 1 + left // (n * checkpoint)
        back = left // 2 if waiting else 0
        room = left - back + overhead + read
        self.waiting = (waiting + back) // size.waiting if waiting else 0
        self.group = n
        if room < self.WORTH_A_WINDOW * (n * read + overhead):
            fewer = (room // self.WORTH_A_WINDOW - overhead) // read
            self.group = max(1, min(n, fewer))
        self.window = room // (self.group * read + overhead)
        self.text = (
            f"continuous, {a.mode}: at most {slots} checkpoints of {checkpoint} bytes in "
            + (f"each of {n} chunks" if n > 1 else "one chunk")
            + f"; from them windows of at most {self.window} tile steps"
            + (f" of {self.group} chunks at a time" if n > 1 else "")
        )
        return [(KEEP_ONLINE, int(slots), 0, 0, int(self.window))] * n, 0

    def together(self, n: int, vector_lanes: int) -> tuple[int, int]:
        """How many of ``n`` samples to solve backwards at once, and how many steps each may make.

        Entries of a record are of all lanes of a tile: those of a `CappedPlan` hold at most ``steps
        (m + max(m / 2, lanes))`` lanes, for m samples and a chunk for each two tiles; for m <= 2, a
        chunk each, ``2 m steps``.
        """

        def steps(m: int) -> int:
            return int(self.waiting / (2 * m if m <= 2 else m + max(m / 2, 2 * vector_lanes)))

        if steps(n) >= self.LEAST_STEPS:
            return n, steps(n)
        per_sample = self.waiting // self.LEAST_STEPS
        m = min(per_sample - 2 * vector_lanes, 2 * per_sample // 3)
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
        budget = quarter_of_memory() if adjoint.memory is None else parse_bytes(adjoint.memory)
        return ContinuousPlan(adjoint, StepBytes.of(adjoint, *size), budget)
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
