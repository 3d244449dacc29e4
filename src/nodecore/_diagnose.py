"""`diagnose`: is a problem stiff, and what should solve it?

One file: half of it is the docstrings of what users read.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nodecore import _inputs, methods, plot, tree
from nodecore._batched import Batched
from nodecore._failure import failure
from nodecore._field import Field, Opaque
from nodecore._inputs import Array
from nodecore._solve import solve
from nodecore._stability import Stability
from nodecore.ir.arity import field_arguments
from nodecore.ir.transforms import jvp
from nodecore.status import InputError, Status, StiffnessWarning

ComplexArray = npt.NDArray[np.complex128]

# What a solve along the trajectory may take before it is judged by how far it came.
_MOST_STEPS = 20_000

# Points of the trajectory at which the spectrum is computed: at most, at least, and where the
# eigenvalues of all of them take about 1e8 D^3 operations.
_POINTS, _FEWEST, _OPERATIONS = 200, 8, 1e8

# An implicit method is recommended if it does with this part of the explicit one's work: what is
# left pays for its backward pass, which solves linear systems too.
_WORTH = 0.5

# Numbers that the evaluation of a block of Jacobian columns may hold.
_BLOCK = 4_000_000


@dataclass(frozen=True, eq=False)
class Trial:
    """One solve of the diagnosed sample.

    Attributes
    ----------
    method : str
        Its method.
    t : (n,) array
        Where its accepted steps began.
    h : (n,) array
        Their sizes, positive.
    end : float
        The time that it reached.
    finished : bool
        Whether that is the end of the interval.
    broke : bool
        Whether the method could not go on; if neither, the limits of steps or time ended it.
    steps : int
        Accepted and rejected ones.
    work : float
        In evaluations of the field. A column of the Jacobian counts as one, the factorisation of
        an implicit method as D / 3 and each of its evaluations, which comes with a solve of a
        triangular system, as two: what they cost beside a field that is a full matrix.
    message : str
        How it ended.
    """

    method: str
    t: Array
    h: Array
    end: float
    finished: bool
    broke: bool
    steps: int
    work: float
    message: str
    y: Array  # (n, D) where the steps began


class Diagnosis:
    """How fast the modes of a problem are, and which method suits that; see `diagnose`.

    All numbers are those of one sample: of a batch, of the one whose explicit solve takes most
    steps.

    Attributes
    ----------
    spectral_radius : float
        The largest |lambda| of the Jacobian's eigenvalues along the trajectory.
    stiffness_ratio : float
        The fastest decay along the trajectory over the slowest one at the same time, where what is
        slower than the interval is long counts as one over its length: 1 if nothing decays faster.
    stable_step : float
        The largest step of the explicit method that is stable everywhere on the trajectory.
    method : str
        That explicit method.
    recommended : str
        The method to solve this problem with.
    reason : str
        Why, in one sentence with numbers.
    sample : int or None
        Which sample of the batch; None for one sample.
    t : (n,) array
        Times at which the spectrum was computed.
    eigenvalues : (n, D) complex array
        The spectrum there, in the direction of the solve (backwards in time, of -J).
    limits : (n,) array
        The largest stable step of the explicit method there.
    explicit, implicit : Trial
        What two solves along the trajectory took.
    """

    def __init__(
        self,
        sample: int | None,
        batch: int,
        span: tuple[float, float],
        explicit: Trial,
        implicit: Trial,
        t: Array,
        eigenvalues: ComplexArray,
        rtol: float,
    ) -> None:
        self.sample, self._batch, self._span = sample, batch, span
        self.explicit, self.implicit = explicit, implicit
        self.t, self.eigenvalues = t, eigenvalues
        self.method = explicit.method
        self._stability = Stability(methods.get(self.method))
        self.limits = np.array([self._stability.largest_step(row) for row in eigenvalues])
        size = np.abs(eigenvalues).max(axis=1)
        decay = np.maximum(-eigenvalues.real, 1 / abs(span[1] - span[0]))
        self.spectral_radius = float(size.max())
        self.stiffness_ratio = float((decay.max(axis=1) / decay.min(axis=1)).max())
        self.stable_step = float(self.limits.min())
        self._where = float(t[np.argmin(self.limits)])
        self._dim = eigenvalues.shape[1]
        self.recommended, self.reason = self._judge(rtol)

    # ---- the judgement ------------------------------------------------------------------------

    def _total(self, trial: Trial) -> float:
        """The steps of a trial, had it been let go to the end."""
        if trial.finished:
            return trial.steps
        reached = abs(trial.end - self._span[0]) / abs(self._span[1] - self._span[0])
        if trial is self.explicit and self.implicit.finished and self.stable_step > 0:
            # the trajectory is known: what stability allows along it
            return max(trial.steps, float(np.trapezoid(1 / self.limits, np.abs(self.t))))
        return trial.steps / max(reached, 1e-12)

    def _judge(self, rtol: float) -> tuple[str, str]:
        explicit, implicit = self.explicit, self.implicit
        steps, other = self._total(explicit), self._total(implicit)
        work = explicit.work / max(explicit.steps, 1) * steps
        cost = implicit.work / max(implicit.steps, 1) * other
        if explicit.broke and implicit.broke:
            return self.method, (
                f"the solution cannot be followed beyond t = {explicit.end:.6g}, for a reason that "
                f"is not stiffness ({explicit.message})"
            )
        taken = _taken(explicit, steps, work)
        against = _taken(implicit, other, cost)
        if cost < _WORTH * work:
            name = "kvaerno5" if rtol >= 1e-9 else "radau5"
            text = (
                f"stiff: with a spectral radius of {self.spectral_radius:.3g}, {explicit.method} "
                f"is stable for steps of up to {self.stable_step:.3g} at t = {self._where:.4g} and "
                f"{taken}; {implicit.method} {against}"
            )
        else:
            name = "dop853" if self.method == "tsit5" and rtol < 1e-8 else self.method
            kind = "not stiff"
            if self._limited_by_stability():
                kind = "steps are limited by stability, but not enough for an implicit method"
            text = f"{kind}: {explicit.method} {taken}; {implicit.method} {against}"
        if not (explicit.finished or implicit.finished):
            text += f". Neither came to the end: {explicit.message}; {implicit.message}"
        return name, text

    def _limited_by_stability(self) -> bool:
        """Whether the explicit solve's steps are mostly as long as its fastest decay allows."""
        if not len(self.explicit.h):
            return False
        decay = np.maximum(-self.eigenvalues.real, 0).max(axis=1)
        sign = np.sign(self._span[1] - self._span[0])
        there = np.interp(sign * self.explicit.t, sign * self.t, decay)
        share = np.median(self.explicit.h * there) / self._stability.real_limit
        return bool(share > 0.6)

    # ---- to be seen ---------------------------------------------------------------------------

    def __repr__(self) -> str:
        who = "one sample" if self.sample is None else f"sample {self.sample} of {self._batch}"
        a, b = self._span
        lines = [
            f"Diagnosis of {who}: {self._dim} component{'s'[: self._dim != 1]}, "
            f"t = {a:.4g} to {b:.4g}",
            f"  spectral radius  {self.spectral_radius:.4g}",
            f"  stiffness ratio  {self.stiffness_ratio:.4g}",
            f"  stable step      {self.stable_step:.4g} ({self.method}, at t = {self._where:.4g})",
        ]
        for trial in (self.explicit, self.implicit):
            how = "" if trial.finished else f", stopped at t = {trial.end:.4g}: {trial.message}"
            lines.append(f"  {trial.method:16s} {trial.steps:,} steps{how}")
        lines.append(f"  recommended      {self.recommended}")
        lines.append(f"  {self.reason}")
        return "\n".join(lines)

    def plot(self) -> Any:
        """Draw the spectrum over time, and the steps taken against the stability limit.

        Needs matplotlib (``pip install nodecore[plot]``).

        Returns
        -------
        matplotlib.figure.Figure
        """
        return plot.diagnosis(self)


def _taken(trial: Trial, steps: float, work: float) -> str:
    verb = "takes" if trial.finished else "would take about"
    return f"{verb} {_count(steps)} steps (the work of {_count(work)} evaluations)"


def _count(x: float) -> str:
    """A number of steps: to two digits where it is an estimate of many."""
    if x < 1e4:
        return f"{x:,.0f}"
    if x < 1e6:
        return f"{round(x, -3):,.0f}"
    return f"{x:.2g}".replace("e+0", "e").replace("e+", "e")


# ---- One sample of what was given ----------------------------------------------------------------


class _Sample:
    """One sample's problem, in float64."""

    def __init__(
        self, field: Any, y0: Any, ends: Array, params: Any, args: Any, options: dict[str, Any]
    ) -> None:
        self.field, self.y0, self.ends = field, y0, ends
        self.params, self.args, self.options = params, args, options
        self.state = _inputs.state(y0, False)
        self.dim = self.state.y0.shape[1]
        if isinstance(field, Opaque):
            return
        fun = field.fun if isinstance(field, Field) else field
        count = field_arguments(fun, params is not None, args is not None)

        def column(params: Any, at: Any) -> Any:
            def rate(y: Any) -> Any:
                return fun(*(at["t"], y, params, at["args"])[:count])

            return jvp(rate, at["y"], at["v"])[1]

        self._column = Batched(column, {"threads": options["threads"]})

    def solve(self, method: str, seconds: float) -> Trial:
        """Along the trajectory, every step kept."""
        room = max(1000, int(2e8 / (8 * self.dim + 64)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StiffnessWarning)  # it is what is asked here
            sol = solve(
                self.field, self.y0, self.ends, self.params, self.args, batch=False, method=method,
                dense=True, on_failure="mark", max_steps=min(_MOST_STEPS, room), deadline=seconds,
                **self.options,
            )  # fmt: skip
        if sol.status == Status.NON_FINITE and sol.stats.accepted == 0:
            raise failure(sol)
        t, h, t_end, y = sol._frozen().steps[3:7]
        work = sol.stats.nfev
        if methods.get(method).family != "explicit":
            work = 2 * work + sol.stats.njev * self.dim + sol.stats.nlu * self.dim / 3
        return Trial(
            method,
            t,
            np.abs(h),
            float(t_end[-1]) if len(t) else float(self.ends[0]),
            sol.ok,
            not sol.ok and sol.status not in (Status.MAX_STEPS, Status.DEADLINE),
            sol.stats.accepted + sol.stats.rejected,
            float(work),
            sol.message(),
            y,
        )

    def jacobians(self, t: Array, y: Array) -> Array:
        """J (n, D, D) at times t (n,) and states y (n, D)."""
        n, D = y.shape

        def args(count: int) -> Any:
            return tree.map(lambda a: np.repeat(np.asarray(a)[None], count, axis=0), self.args)

        if isinstance(self.field, Opaque):
            assert self.field.jac is not None
            J = self.field.jac(t, y, self.params, args(n))
            return _inputs.returned(J, (n, D, D), f"jac of {self.field.__name__}", "J")
        out = np.empty((n, D, D))
        slow = sum(np.size(a) for a in tree.flatten(self.args)[0])
        block = max(1, _BLOCK // (D * (3 * D + slow + 1)))
        split = self.state.split
        for lo in range(0, n, block):
            m = min(block, n - lo)
            here, unit = np.repeat(np.arange(lo, lo + m), D), np.tile(np.eye(D), (m, 1))
            at = {"t": t[here], "y": split(y[here]), "v": split(unit), "args": args(m * D)}
            zero = split(np.zeros((m * D, D)))
            sol = self._column(self.params, at, zero, True, adjoint=None, on_failure="mark")
            leaves = [leaf[:, 1].reshape(m * D, -1) for leaf in tree.flatten(sol.y)[0]]
            out[lo : lo + m] = np.concatenate(leaves, axis=1).reshape(m, D, D).transpose(0, 2, 1)
        return out


# ---- The front door ------------------------------------------------------------------------------


def diagnose(
    field: Any,
    y0: Any,
    t: Any,
    params: Any = None,
    args: Any = None,
    *,
    batch: bool | None = None,
    method: Any = None,
    rtol: float = 1e-6,
    atol: Any = 1e-9,
    threads: int | None = None,
    deadline: float = 30.0,
) -> Diagnosis:
    """Is this problem stiff? The spectrum along its trajectory, and the method that suits it.

    The problem is solved twice along its trajectory, in float64 and at the given tolerances: by an
    explicit method and by an implicit one, kvaerno5. Either is stopped after 20,000 steps or its
    share of the deadline, so that a stiff problem does not take forever. The eigenvalues of the
    Jacobian, which the program transforms give exactly, are computed at up to 200 points of the
    trajectory that came furthest (fewer for large states, so that this takes seconds). What the
    explicit method would have taken to the end is then read off its stability limit.

    Parameters
    ----------
    field, y0, t, params, args, batch, rtol, atol, threads
        As in `solve`; of ``t`` the first and the last time count. A batch is judged by its hardest
        sample, the one whose explicit solve takes most steps. An opaque field needs its ``jac``.
    method : str or Tableau
        An explicit adaptive method, to which the stable step belongs; default "tsit5".
    deadline : float
        Seconds; the solves take about this long at most.

    Returns
    -------
    Diagnosis
        With ``spectral_radius``, ``stiffness_ratio``, ``stable_step``, ``recommended``, ``reason``,
        and ``plot()``. It prints them.

    Raises
    ------
    InputError
        If an argument is not possible, or the Jacobian is not known or nowhere finite.
    SolveError
        If the field is not finite at the initial state.

    Notes
    -----
    The largest stable step at a point is the largest h for which h' lambda lies in the region
    |R| <= 1 for all h' <= h and all eigenvalues lambda whose real part is not positive
    (`Stability.largest_step`). Eigenvalues of a Jacobian frozen in time say what happens to small
    perturbations over short times; where J is far from normal they may say too little (Hairer &
    Wanner, Solving Ordinary Differential Equations II, IV.2 and IV.11).

    An implicit method is recommended where it would do with half the work of the explicit one: see
    `Trial` for what its Jacobians and factorisations count.

    Examples
    --------
    >>> import nodecore as nc
    >>> def van_der_pol(t, y, mu):
    ...     return [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]
    >>> nc.diagnose(van_der_pol, [2.0, 0.0], [0.0, 20.0], 1.0).recommended
    'tsit5'
    >>> stiff = nc.diagnose(van_der_pol, [2.0, 0.0], [0.0, 2000.0], 1000.0)
    >>> stiff.stable_step < 0.002 and stiff.recommended != "tsit5"
    True
    """
    explicit = methods.get("tsit5" if method is None else method)
    if not (explicit.family == "explicit" and explicit.adaptive):
        raise InputError(
            f"diagnose: method must be an explicit adaptive one, not {explicit.name}; the implicit "
            "one it is compared with is chosen"
        )
    if isinstance(field, Opaque) and field.jac is None:
        raise InputError(
            f"diagnose needs the Jacobian of the opaque field {field.__name__}: pass "
            "nc.opaque(fun, jac=...)"
        )
    deadline = _inputs.number("deadline", deadline, infinite=True)
    _inputs.state(y0, batch)  # which says what is wrong with y0 as it was given
    y0 = tree.map(lambda leaf: np.asarray(leaf, np.float64), y0)
    state = _inputs.state(y0, batch)
    when = _inputs.times(t, len(state.y0), state.batched)
    ends = np.array([when.of(b)[[0, -1]] for b in range(len(state.y0))])
    if (ends[:, 0] == ends[:, 1]).any():
        raise InputError("diagnose needs an interval: t holds one time")
    options = {"rtol": rtol, "atol": atol, "threads": threads}
    b = None
    if state.batched:
        b = _hardest(field, y0, ends, params, args, explicit, deadline / 3, options)
        y0, args = (tree.map(lambda a, b=b: np.asarray(a)[b], x) for x in (y0, args))
    one = _Sample(field, y0, ends[b or 0], params, args, options)
    first = one.solve(explicit.name, deadline / 3)
    second = one.solve("kvaerno5", deadline / 3)
    come = [abs(trial.end - one.ends[0]) for trial in (first, second)]
    times, eigenvalues = _spectrum(one, first if come[0] >= come[1] else second)
    span = (float(one.ends[0]), float(one.ends[1]))
    return Diagnosis(b, len(ends), span, first, second, times, eigenvalues, rtol)


def _hardest(
    field: Any,
    y0: Any,
    ends: Array,
    params: Any,
    args: Any,
    method: Any,
    seconds: float,
    options: dict[str, Any],
) -> int:
    """The sample of a batch that would take most steps to the end."""
    sol = solve(
        field, y0, ends, params, args, batch=True, method=method, on_failure="mark",
        max_steps=_MOST_STEPS, deadline=seconds, **options,
    )  # fmt: skip
    steps = np.asarray(sol.stats.accepted + sol.stats.rejected, float)
    part = np.abs(sol._run.floats[0] - ends[:, 0]) / np.abs(ends[:, 1] - ends[:, 0])
    part[[Status(int(s)).ok for s in sol.status]] = 1.0
    return int(np.argmax(steps / np.maximum(part, 1e-12)))


def _spectrum(one: _Sample, trial: Trial) -> tuple[Array, ComplexArray]:
    """Eigenvalues at some points of a trial: half of them equal in steps, half in time."""
    n, D = len(trial.t), one.dim
    most = int(np.clip(_OPERATIONS / D**3, _FEWEST, _POINTS))
    if n == 0:  # not a single step
        t, y = one.ends[:1], one.state.y0
    else:
        sign = np.sign(one.ends[1] - one.ends[0])
        even = np.linspace(trial.t[0], trial.end, -(-most // 2))
        steps = np.linspace(0, n - 1, -(-most // 2)).round().astype(int)
        times = np.searchsorted(sign * trial.t, sign * even, side="right") - 1
        at = np.unique(np.concatenate([steps, times]))
        t, y = trial.t[at], trial.y[at]
    J = np.sign(one.ends[1] - one.ends[0]) * one.jacobians(t, y)
    finite = np.isfinite(J).all(axis=(1, 2))
    if not finite.any():
        raise InputError(
            f"diagnose: the Jacobian is not finite at t = {t[0]:.4g}, nor elsewhere on the "
            "trajectory: look for a square root, a power or an absolute value of zero"
        )
    return t[finite], np.linalg.eigvals(J[finite]).astype(np.complex128)
