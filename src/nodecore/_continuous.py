"""The continuous adjoint: lambda' = -f_y^T lambda, backwards (docs/math/continuous-adjoint.md).

The interval between two outputs that have a cotangent is one solve of the batch, from its later end
to its earlier one; at an output lambda gains its cotangent. y(t) comes from the forward steps of a
window at a time (`_curve.py`), and intervals are solved as soon as it holds them. (One file, though
long: the backward solves and the quadrature are steps of one computation and share its state.)
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from nodecore import _run, gradient, methods, plan, tree
from nodecore._adjoint import Continuous
from nodecore._curve import Curve, at_once, nbytes
from nodecore._inputs import Args, Array, State, Times
from nodecore._record import CappedPlan
from nodecore._run import ADAPTIVE, NO_GRID, Inputs
from nodecore.control import resolve
from nodecore.gradient import Given, Gradient, GridRule
from nodecore.status import GradientError, PrecisionWarning, Status

# Gauss-Legendre quadrature of a backward step, with 4 nodes: exact for polynomials of degree 7,
# beyond the order of any interpolant of lambda but dop853's, which it matches. In [-1, 1] the nodes
# are -a, -b, b, a with a, b = sqrt(3/7 +- 2/7 sqrt(6/5)), the weights (18 -+ sqrt(30)) / 36.
_ROOTS = np.sqrt(3 / 7 + np.array([2, -2]) / 7 * math.sqrt(6 / 5))
_NODES = (1 + np.concatenate([-_ROOTS, _ROOTS[::-1]])) / 2
_WEIGHTS = (18 + np.array([-1, 1, 1, -1]) * math.sqrt(30)) / 72

# Backward steps that wait for their quadrature, at most: many at once share the cost of a call.
_WAITING = 4096

# Steps of a backward solve, at most.
_MAX_STEPS = 1_000_000

# backsolve: how far y may drift from what was solved, in tolerances, before a warning
_DRIFT = 1e3

_DAMPED = (
    "modes that are damped forwards grow backwards, at the rate of their damping. Use "
    'nc.Continuous("gauss") or the discrete adjoint'
)


class Backward:
    """One gradient by the continuous adjoint of one solution."""

    def __init__(self, run: Any, inputs: Inputs, spec: Continuous) -> None:
        self.run, self.spec = run, spec
        self.inputs = inputs
        given = inputs.given
        self.B, self.dim = given.state.y0.shape
        self.dtype = given.state.y0.dtype
        self.n_params = sum(p.size for p in given.params)
        self.n_args = 0 if given.args.flat is None else given.args.flat.shape[1]
        self.method = methods.get(spec.method) if spec.method is not None else inputs.method
        if not self.method.adaptive:
            self.method = methods.get("tsit5")
        options = inputs.options
        eps = float(np.finfo(self.dtype).eps)
        rtol = spec.rtol if spec.rtol is not None else (options.get("rtol") or 1e-6)
        self.rtol = max(float(rtol), 4 * eps)
        atol = spec.atol if spec.atol is not None else options.get("atol", 1e-9)
        self.atol = float(np.min(np.concatenate([np.ravel(a) for a in tree.flatten(atol)[0]])))
        off = given.when.out_off
        self.owner = np.repeat(np.arange(self.B), np.diff(off))
        place = np.arange(off[-1]) - off[self.owner]
        self.t = given.when.t[given.when.t_off[self.owner] + place]
        solved = np.array([Status(int(s)).ok for s in run.status])
        self.reached = place < np.where(solved, run.ints[3], 0)[self.owner]
        last = given.when.t[given.when.t_off + np.diff(off) - 1]
        self.sign = np.where(last >= given.when.t[given.when.t_off], 1.0, -1.0)
        size = self.dim
        if spec.mode != "gauss":
            size += self.n_params + self.n_args
        if spec.mode == "backsolve":
            size += self.dim
        self.gains = spec.mode == "gauss" and self.n_params + self.n_args > 0
        self.template = self._template(size)
        # y(t), and where each sample is: its time, which of the outputs `rows` that end an interval
        # is the one that it comes from, and its state in the backward system
        self.curve: Curve | None = None
        self.at = np.zeros(self.B)
        self.rows = self.place = self.first = np.zeros(0, np.int64)
        self.state = np.zeros((self.B, size), self.dtype)
        begin = self.dim if spec.mode == "backsolve" else 0
        self.lam = self.state[:, begin : begin + self.dim]
        self.mu = self.state[:, begin + self.dim :]
        self.sums: _Quadrature | None = None
        self.drift: tuple[float, int, float] = (0.0, 0, 0.0)

    # ---- the backward solves ------------------------------------------------------------------

    def _template(self, size: int) -> Inputs:
        """The backward solve of the whole batch, but for its states and times."""
        old = self.inputs
        given, state = old.given, old.given.state
        arg = given.args
        if arg.flat is not None and not state.batched:
            arg = arg._replace(leaves=tuple([a[None] for a in arg.leaves]))
        order = self.method.error_order
        assert order is not None
        k = resolve(None).coefficients(order)
        control = (
            ADAPTIVE, 0, 0, order + 1, self.rtol, 0.0, 0.0, math.inf, _MAX_STEPS,
            np.full(size, self.atol, self.dtype), *k[:7], math.log2(k.memory_floor), 0.0,
        )  # fmt: skip
        batch = State(state.y0, state.treedef, state.shapes, state.dtypes, True)
        return Inputs(
            fun=old.fun,
            method=self.method,
            given=Given(
                batch, given.params, given.params_treedef, arg, given.when, GridRule.HOLD_SIZES
            ),
            params=old.params,
            control=control,
            stops=(None, None),
            options={},
            keep=self.gains,
            threads=old.threads,
            transform=self.spec.mode,
        )

    def _of(self, who: Array) -> tuple[Args, tuple[Array, ...] | None]:
        """The args and the curve of the samples ``who``."""
        arg, curve = self.template.given.args, self.template.curve
        if len(who) == self.B:
            return arg, curve
        if arg.flat is not None:
            leaves = tuple([a[who] for a in arg.leaves])
            arg = arg._replace(flat=np.ascontiguousarray(arg.flat[who]), leaves=leaves)
        if curve is not None:
            curve = (np.ascontiguousarray(curve[0][who]), *curve[1:])
        return arg, curve

    def _solve(self, who: Array, ends: Array, steps: int | None) -> Any:
        """Solve the adjoint system of the samples ``who`` over ``ends`` (n, 2).

        ``steps``: None, or the most that each may make; a sample that needs more ends before.
        """
        like = self.template
        arg, curve = self._of(who)
        t_off = np.arange(len(who), dtype=np.int64) * 2
        out_off = np.arange(len(who) + 1, dtype=np.int64) * 2
        when = Times(np.ascontiguousarray(ends.reshape(-1)), t_off, out_off, "rows", None)
        state = like.given.state._replace(y0=self.state[who])
        given = replace(like.given, state=state, args=arg, when=when)
        inputs = replace(like, given=given, stops=self._stops(who, ends), curve=curve)
        record = None
        if steps is not None:
            inputs.control = (*like.control[:8], steps, *like.control[9:])
            record = CappedPlan(steps)
        made, _ = _run.run(inputs, NO_GRID, None, False, record=record)
        bad = made.status != Status.OK
        if steps is not None:
            bad &= made.status != Status.MAX_STEPS
        if bad.any():
            raise self._failure(made, who, int(np.flatnonzero(bad)[0]))
        return made

    def _go(self, who: Array, to: Array) -> None:
        """Solve the samples ``who`` back to the times ``to``."""
        if not who.size:
            return
        together, steps = len(who), None
        if self.gains and self.run.plan.window:
            together, steps = self.run.plan.together(len(who), self.run.fields.vector_lanes)
        for low in range(0, len(who), together):
            self._go_together(who[low : low + together], to[low : low + together], steps)
        self.at[who] = to

    def _go_together(self, who: Array, to: Array, steps: int | None) -> None:
        tries = 0
        while len(who):
            made = self._solve(who, np.stack([self.at[who], to], axis=1), steps)
            self.state[who] = made.y[1::2]
            if self.sums is not None:
                self.sums.add(who, made)
            if made.all_ok():
                return
            short = made.failed  # those that the number of steps has ended
            tries += steps or 0
            if tries > _MAX_STEPS:
                raise self._failure(made, who, int(short[0]))
            self.state[who[short]], self.at[who[short]] = made.last, made.floats[0, short]
            who, to = who[short], to[short]

    def _stops(self, who: Array, ends: Array) -> tuple[Array | None, Array | None]:
        """The stops of the forward solve within ``ends``, in the order in which going back meets
        them."""
        flat, off = self.inputs.stops
        if flat is None or off is None:
            return None, None
        each = []
        for b, (late, early) in zip(who, ends, strict=True):
            stops = flat[off[b] : off[b + 1]]
            inside = (stops >= min(late, early)) & (stops <= max(late, early))
            each.append(stops[inside][::-1])
        joined = np.concatenate(each)
        if not joined.size:
            return None, None
        return joined, np.concatenate([[0], np.cumsum([len(s) for s in each])]).astype(np.int64)

    def _failure(self, made: Any, who: Array, bad: int) -> GradientError:
        status, (t, h) = Status(int(made.status[bad])), made.floats[:2, bad]
        if self.spec.mode == "backsolve":
            why = f"backsolve solves for y backwards too: {_DAMPED}"
        else:
            why = (
                "Use another method or tolerance for it (nc.Continuous(method=..., rtol=...)), or "
                "the discrete adjoint"
            )
        return GradientError(
            f"sample {who[bad]}: the backward solve of the continuous adjoint failed: "
            f"{status.describe(t, h)}. {why}",
            sample=int(who[bad]),
            t=float(t),
            status=status,
        )

    # ---- the gradient -------------------------------------------------------------------------

    def _begin(self, dy: Array) -> None:
        """Put each sample at the last of the outputs that end its intervals.

        They are the first output and those that have a cotangent; where y is solved for too, or
        where the field may jump at outputs, all outputs before the last of these.
        """
        first = self.inputs.when.out_off[:-1]
        end = self.reached & (dy != 0).any(axis=1)
        if self.spec.mode == "backsolve" or self.inputs.options.get("tstops") is True:
            last = np.full(self.B, -1)
            rows = np.flatnonzero(end)
            np.maximum.at(last, self.owner[rows], rows)
            end = self.reached & (np.arange(len(end)) <= last[self.owner])
        end[first] = True
        self.rows = np.flatnonzero(end)
        count = np.bincount(self.owner[self.rows], minlength=self.B)
        after = np.cumsum(count)
        self.first, self.place = after - count, after - 1
        self.at = self.t[self.rows[self.place]]

    def _needed(self, sample: Array, start: Array) -> Array:
        """Whether steps of these samples, with these starts, lie before where the samples are."""
        before = self.sign[sample] * (start - self.at[sample]) <= 0
        wanted: Array = before & (self.place > self.first)[sample]
        return wanted

    def _go_to_outputs(self, who: Array) -> None:
        """Solve all intervals of the samples ``who`` that the curve holds."""
        while True:
            who = who[self.place[who] > self.first[who]]
            to = self.t[self.rows[self.place[who] - 1]]
            if self.curve is not None:
                held = self.sign[who] * (self.curve.begin(who) - to) <= 0
                who, to = who[held], to[held]
            if not who.size:
                return
            self._go(who, to)
            self.place[who] -= 1
            if self.spec.mode == "backsolve":
                back, rows = self.state[who, : self.dim], self.rows[self.place[who]]
                self.drift = max(self.drift, self._drift(back, rows))
            self._depart(who)

    def _depart(self, who: Array) -> None:
        """At an output lambda gains its cotangent, and y, if it is solved for, begins again."""
        rows = self.rows[self.place[who]]
        if self.spec.mode == "backsolve":
            self.state[who, : self.dim] = self.run.y[rows]
        inner = self.place[who] > self.first[who]
        self.lam[who[inner]] += self.small[rows[inner]]

    def _go_through_windows(self) -> None:
        """All intervals, as the curve comes to them."""
        self.run.forget_recomputed()
        self.curve = curve = Curve(self.run, self.inputs, self._needed)
        for samples in curve.windows():
            self.template.curve = curve.pieces
            self._go_to_outputs(samples)
            if curve.too_many():
                self._cut(samples)
            if self.sums is not None:
                self.sums.flush()  # while the curve is there
            self.template.curve = None
            curve.forget()

    def _cut(self, samples: Array) -> None:
        """Go to where the curve begins, at the end of a step: lambda is smooth enough there to
        begin again."""
        assert self.curve is not None
        begin = self.curve.begin(samples)
        some = self.place[samples] > self.first[samples]
        some &= self.sign[samples] * (begin - self.at[samples]) < 0
        self._go(samples[some], begin[some])

    def gradient(self, dy: Array) -> Gradient:
        """The gradient of <dy, y>."""
        dy = np.where(self.reached[:, None], dy, 0)
        self._look_at_cotangents(dy)
        # The system is linear in lambda: with cotangents of at most 1, atol means the same for a
        # sum and for a mean. Powers of 2 cost no bit.
        largest = np.zeros(self.B)
        np.maximum.at(largest, self.owner, np.abs(dy).max(axis=1))
        scale = np.ldexp(1.0, np.frexp(largest)[1])
        self.small = (dy / scale[self.owner, None]).astype(self.dtype)
        self._begin(dy)
        self._depart(np.arange(self.B))
        if self.spec.mode == "gauss":
            self.sums = _Quadrature(self, scale)
        if self.spec.mode == "backsolve":
            self._go_to_outputs(np.arange(self.B))
        else:
            self._go_through_windows()
        if self.drift[0] > _DRIFT:
            warnings.warn(
                f"backsolve: sample {self.drift[1]}: solving y backwards missed the state at t = "
                f"{self.drift[2]:.6g} by {self.drift[0]:.2g} tolerances, so the gradient cannot be "
                "trusted: " + _DAMPED,
                PrecisionWarning,
                stacklevel=4,  # the caller of vjp
            )
        first = self.inputs.when.out_off[:-1]
        t_bar = self._t_bar(dy, self.lam * scale[:, None])
        y0_bar = ((self.lam + self.small[first]) * scale[:, None]).astype(self.dtype)
        given = self.inputs.given
        if self.sums is not None:
            params, args_bar = self.sums.finish()
        else:
            total = self.mu * scale[:, None]
            params = total[:, : self.n_params].sum(axis=0)
            args_bar = total[:, self.n_params :].astype(self.dtype)
        return gradient.shaped(given, y0_bar, params, args_bar, t_bar, None)

    def _look_at_cotangents(self, dy: Array) -> None:
        wrong = np.flatnonzero(~np.isfinite(dy).all(axis=1))
        if wrong.size:
            b = int(self.owner[wrong[0]])
            t = float(self.t[wrong[self.owner[wrong] == b][-1]])
            raise GradientError(
                f"sample {b}: the cotangent of the state is not finite at t = {t:.6g}, because dy "
                "is not: look at the loss",
                sample=b,
                t=t,
            )

    def _drift(self, back: Array, rows: Array) -> tuple[float, int, float]:
        """(size, sample, time) of the largest difference to the forward solution, in tolerances."""
        y = self.run.y[rows].astype(np.float64)
        size, atol, rtol = np.abs(y), self.atol, self.rtol
        if self.inputs.control[0] == ADAPTIVE:
            rtol = max(rtol, self.inputs.options.get("rtol") or 0.0)
        else:  # the error of fixed steps is not known: only large differences mean something
            rtol, atol = max(rtol, 1e-5), max(atol, 1e-5 * float(np.sqrt(np.mean(y**2))))
        scale = atol + rtol * size
        drift = np.sqrt(np.mean(((back - y) / scale) ** 2, axis=1))
        worst = int(np.argmax(drift))
        row = rows[worst]
        return float(drift[worst]), int(self.owner[row]), float(self.t[row])

    def _t_bar(self, dy: Array, lam: Array) -> Array:
        """dL/dt_k = dy_k . f(t_k, y_k), and dL/dt_0 = -lambda(t_0) . f(t_0, y_0) instead."""
        rows = np.flatnonzero(self.reached)
        t_bar = np.zeros(len(self.t))
        if not rows.size:
            return t_bar
        y = self.run.y[rows]
        values = self.run.sample_values[self.owner[rows]]
        _, _, f = plan.pull_points(
            self.run.fields, self.run.uniform, values, self.t[rows], y, np.zeros_like(y)
        )
        ct = dy[rows].astype(np.float64)
        first = rows == self.inputs.when.out_off[self.owner[rows]]
        ct[first] = -lam[self.owner[rows[first]]]
        t_bar[rows] = np.sum(ct * f, axis=1)
        return t_bar


class _Quadrature:
    """The integrals of f_p^T lambda and f_a^T lambda over accepted backward steps."""

    def __init__(self, back: Backward, scale: Array) -> None:
        self.back, self.scale = back, scale
        fields = back.run.fields
        self.acc = np.zeros((1, fields.acc_size))
        self.s_bar = np.zeros((back.B, fields.lowered.n_sample))
        self.waiting: list[tuple[Array, ...]] = []
        # work space of a step: the dense output of lambda, y, cotangents, and the field's pullback
        lowered = fields.lowered
        each = 8 * 26 * back.dim + 32 * (3 * lowered.n_sample + lowered.res_rows)
        self.block = at_once(600 + each)

    def add(self, who: Array, made: Any) -> None:
        """Take in the steps of a backward solve of the samples ``who``."""
        if not self.back.gains:
            return
        sample, *rest = made.steps()
        steps = (who[sample], *rest)
        most = self.back.run.plan.waiting or _WAITING
        if self._number() + len(sample) > most:
            self.flush()
        self.waiting.append(steps)
        self._note(made.storage_bytes() + nbytes(steps))
        if self._number() > most:  # one solve with more of them than are to wait
            self.flush()

    def _number(self) -> int:
        return sum(len(steps[0]) for steps in self.waiting)

    def _note(self, besides: int) -> None:
        waiting = sum(nbytes(steps) for steps in self.waiting)
        assert self.back.curve is not None
        self.back.curve.note(waiting + besides)

    def flush(self) -> None:
        """Evaluate the integrals over the steps that wait."""
        if not self._number():
            return
        steps = tuple([np.concatenate(column) for column in zip(*self.waiting, strict=True)])
        self._note(nbytes(steps))
        self.waiting = []
        for low in range(0, len(steps[0]), self.block):
            self._evaluate(tuple([column[low : low + self.block] for column in steps]))

    def _evaluate(self, steps: tuple[Array, ...]) -> None:
        sample, _, _, t_n, h, _, _, _ = steps
        t = (t_n[:, None] + h[:, None] * _NODES).reshape(-1)
        which = np.repeat(np.arange(len(t_n)), len(_NODES))
        back = self.back
        lam = _run.within_steps(back.template, steps, which, t)
        owner = sample[which]
        # h is negative against the forward time
        weight = -(h[:, None] * _WEIGHTS).reshape(-1) * self.scale[owner]
        ct = weight[:, None] * lam
        assert back.curve is not None
        y = back.curve(owner, t)
        values = back.run.sample_values[owner]

        def pull(begin: int, end: int) -> tuple[Any, Any]:
            here = slice(begin, end)
            acc, s_bar, _ = plan.pull_points(
                back.run.fields, back.run.uniform, values[here], t[here], y[here], ct[here]
            )
            return acc, s_bar

        acc, s_bar = pull(0, len(t))
        if not self._finite(acc).all():
            raise self._failure(pull, owner, t)
        self.acc += acc
        np.add.at(self.s_bar, owner, s_bar)

    def _finite(self, acc: Array) -> Array:
        """Which entries of params have a finite cotangent."""
        if not self.back.n_params:
            return np.ones(1, bool)
        bar: Array = plan.params_bar(self.back.run.fields, self.back.run.uniform, acc)[0]
        return np.isfinite(bar)

    def _failure(self, pull: Any, owner: Array, t: Array) -> GradientError:
        begin, end = 0, len(t)
        while end - begin > 1:  # the first point that is not finite is in [begin, end)
            middle = (begin + end) // 2
            fine = self._finite(pull(begin, middle)[0]).all()
            begin, end = (middle, end) if fine else (begin, middle)
        k = int(np.flatnonzero(~self._finite(pull(begin, end)[0]))[0])
        given = self.back.inputs.given
        leaf = int(np.searchsorted(np.cumsum([p.size for p in given.params]), k, side="right"))
        return GradientError(
            f"sample {owner[begin]}: the cotangent of params"
            f"{tree.paths(given.params_treedef)[leaf]} became non-finite at t = {t[begin]:.6g}, "
            "though those of the states are finite: the field's derivative in this parameter is "
            "infinite or NaN. Look for sqrt, log, division or a power at zero; np.where guards "
            "protect gradients",
            sample=int(owner[begin]),
            t=float(t[begin]),
        )

    def finish(self) -> tuple[Array | None, Array]:
        """The cotangents of params (flat) and of args (B, n)."""
        back = self.back
        fields, uniform, given = back.run.fields, back.run.uniform, back.inputs.given
        args_bar = np.zeros((back.B, back.n_args), back.dtype)
        if back.n_args:
            args_bar = plan.pull_samples(fields, uniform, given.args.flat, self.s_bar, self.acc)
        params = None
        if back.n_params:
            params, _ = plan.params_bar(fields, uniform, self.acc)
        return params, args_bar


def continuous(run: Any, inputs: Inputs, spec: Continuous, dy: Array) -> Gradient:
    """The gradient of <dy, y> by the continuous adjoint; see `nodecore.Continuous`."""
    return Backward(run, inputs, spec).gradient(dy)
