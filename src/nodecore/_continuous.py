"""The continuous adjoint: lambda' = -f_y^T lambda, backwards (docs/math/continuous-adjoint.md).

The interval between two outputs that have a cotangent is one solve of the batch, from its later end
to its earlier one; at an output lambda gains its cotangent. y(t) is a polynomial a forward step,
looked up by the kernels. (One file, though long: the curve, the backward solves and the quadrature
are steps of one computation and share its state.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from nodecore import _run, gradient, methods, plan, tree
from nodecore._adjoint import Continuous
from nodecore._inputs import Args, Array, State, Times
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

# Backward steps that wait for their quadrature, at most, and forward steps whose polynomials are
# held at once, unless one interval has more: many at once share the cost of a call.
_WAITING = 4096
_WINDOW = 8192

# backsolve: how far y may drift from what was solved, in tolerances, before a warning
_DRIFT = 1e3

_DAMPED = (
    "modes that are damped forwards grow backwards, at the rate of their damping. Use "
    'nc.Continuous("gauss") or the discrete adjoint'
)


def _last_before(start: Array, size: Array, ranges: Array, t: Array) -> Array:
    """For each time the last of the pieces in its range (n, 2) that starts there or before."""
    first, last = ranges[:, 0], ranges[:, 1] - 1
    sign = np.sign(size[first])
    while (first < last).any():
        middle = (first + last + 1) // 2
        before = sign * (t - start[middle]) >= 0
        first = np.where(before, middle, first)
        last = np.where(before, last, middle - 1)
    return first


class Backward:
    """One gradient by the continuous adjoint of one solution."""

    def __init__(
        self, run: Any, inputs: Inputs, steps: tuple[Array, ...], spec: Continuous
    ) -> None:
        self.run, self.steps, self.spec = run, steps, spec
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
        sample = steps[0]
        count = np.bincount(sample, minlength=self.B)
        self.ranges = np.cumsum(count)[:, None] - np.stack([count, 0 * count], axis=1)
        self.curve: tuple[Array, ...] | None = None
        size = self.dim
        if spec.mode != "gauss":
            size += self.n_params + self.n_args
        if spec.mode == "backsolve":
            size += self.dim
        self.template = self._template(size)

    # ---- the forward solution as a function of time -------------------------------------------

    def _curve(self, begin: Array, end: Array) -> tuple[Array, ...]:
        """y(t) as polynomials in theta, one a forward step: ranges, starts, sizes, coefficients.

        Of sample b the steps begin[b] to end[b] - 1.
        """
        count = end - begin
        last = np.cumsum(count)
        index = np.repeat(end - last, count) + np.arange(last[-1])
        steps = tuple([column[index] for column in self.steps])
        _, _, _, t_n, h, t_end, y_n, _ = steps
        degree = self.inputs.method.P.shape[1]
        theta = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2
        t = t_n[:, None] + h[:, None] * theta
        t[:, -1] = t_end
        values = np.empty((len(t_n), degree + 1, self.dim), self.dtype)
        values[:, 0] = y_n
        if len(t_n):
            which = np.repeat(np.arange(len(t_n)), degree)
            inner = _run.within_steps(self.inputs, steps, which, t[:, 1:].reshape(-1))
            values[:, 1:] = inner.reshape(len(t_n), degree, self.dim)
        fit = np.linalg.inv(np.vander(theta, increasing=True))
        return (
            np.ascontiguousarray(np.stack([last - count, last], axis=1), np.int64),
            np.ascontiguousarray(t_n),
            np.ascontiguousarray(h),
            np.ascontiguousarray(np.matmul(fit, values), self.dtype),
        )

    def _windows(self, dy: Array) -> Iterator[list[tuple[Array, Array, Array]]]:
        """Groups of successive intervals; meanwhile ``curve`` covers those of the group."""
        group: list[tuple[Array, Array, Array]] = []
        begin, end = np.zeros((2, self.B), np.int64)
        for who, later, earlier in self._intervals(dy):
            low, high = self._piece(earlier), self._piece(later) + 1
            more = int(np.sum(np.where(begin[who] < end[who], begin[who], high) - low))
            if group and int(np.sum(end - begin)) + more > _WINDOW:
                self._hold(begin, end)
                yield group
                group = []
                begin[:] = end[:] = 0
            fresh = begin[who] == end[who]
            begin[who], end[who] = low, np.where(fresh, high, end[who])
            group.append((who, later, earlier))
        if group:
            self._hold(begin, end)
            yield group

    def _hold(self, begin: Array, end: Array) -> None:
        if self.spec.mode != "backsolve":
            self.curve = self._curve(begin, end)
            self.template = replace(self.template, curve=self.curve)

    def _piece(self, rows: Array) -> Array:
        """The forward step at whose start, or behind it, these outputs are."""
        return _last_before(
            self.steps[3], self.steps[4], self.ranges[self.owner[rows]], self.t[rows]
        )

    def _curve_at(self, sample: Array, t: Array) -> Array:
        """y (n, D) of the samples (n,) at the times (n,), as the kernels look it up."""
        assert self.curve is not None
        ranges, start, size, coef = self.curve
        piece = _last_before(start, size, ranges[sample], t)
        theta = ((t - start[piece]) / size[piece])[:, None]
        out: Array = coef[piece, -1].astype(np.float64)
        for k in range(coef.shape[1] - 2, -1, -1):
            out = out * theta + coef[piece, k]
        return out

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
            ADAPTIVE, 0, 0, order + 1, self.rtol, 0.0, 0.0, math.inf, 1_000_000,
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
            keep=self.spec.mode == "gauss",
            threads=old.threads,
            transform=self.spec.mode,
            curve=self.curve,
        )

    def _of(self, who: Array) -> tuple[Args, tuple[Array, ...] | None]:
        """The args and the curve of the samples ``who``."""
        arg, curve = self.template.given.args, self.curve
        if len(who) == self.B:
            return arg, curve
        if arg.flat is not None:
            leaves = tuple([a[who] for a in arg.leaves])
            arg = arg._replace(flat=np.ascontiguousarray(arg.flat[who]), leaves=leaves)
        if curve is not None:
            curve = (np.ascontiguousarray(curve[0][who]), *curve[1:])
        return arg, curve

    def _solve(self, who: Array, state: Array, ends: Array) -> Any:
        """Solve the adjoint system of the samples ``who`` over ``ends`` (n, 2)."""
        like = self.template
        arg, curve = self._of(who)
        t_off = np.arange(len(who), dtype=np.int64) * 2
        out_off = np.arange(len(who) + 1, dtype=np.int64) * 2
        when = Times(np.ascontiguousarray(ends.reshape(-1)), t_off, out_off, "rows", None)
        given = replace(like.given, state=like.given.state._replace(y0=state), args=arg, when=when)
        inputs = replace(like, given=given, stops=self._stops(who, ends), curve=curve)
        made, _ = _run.run(inputs, NO_GRID, None, False)
        if not made.all_ok():
            raise self._failure(made, who)
        return made

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

    def _failure(self, made: Any, who: Array) -> GradientError:
        bad = int(np.flatnonzero(made.status != Status.OK)[0])
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

    def _intervals(self, dy: Array) -> Iterator[tuple[Array, Array, Array]]:
        """(samples, later rows, earlier rows), from each sample's last interval to its first.

        Their ends are the first output and those that have a cotangent; where y is solved for too,
        or where the field may jump at outputs, all outputs before the last of these.
        """
        first = self.inputs.when.out_off[:-1]
        end = self.reached & (dy != 0).any(axis=1)
        if self.spec.mode == "backsolve" or self.inputs.options.get("tstops") is True:
            last = np.full(self.B, -1)
            rows = np.flatnonzero(end)
            np.maximum.at(last, self.owner[rows], rows)
            end = self.reached & (np.arange(len(end)) <= last[self.owner])
        end[first] = True
        rows = np.flatnonzero(end)
        count = np.bincount(self.owner[rows], minlength=self.B)
        after = np.cumsum(count)
        for j in range(1, int(count.max())):
            who = np.flatnonzero(count > j)
            yield who, rows[after[who] - j], rows[after[who] - j - 1]

    def gradient(self, dy: Array) -> Gradient:
        """The gradient of <dy, y>."""
        dy = np.where(self.reached[:, None], dy, 0)
        self._look_at_cotangents(dy)
        D, mode = self.dim, self.spec.mode
        # The system is linear in lambda: with cotangents of at most 1, atol means the same for a
        # sum and for a mean. Powers of 2 cost no bit.
        largest = np.zeros(self.B)
        np.maximum.at(largest, self.owner, np.abs(dy).max(axis=1))
        scale = np.ldexp(1.0, np.frexp(largest)[1])
        small = (dy / scale[self.owner, None]).astype(self.dtype)
        lam = np.zeros((self.B, D), self.dtype)
        mu = np.zeros((self.B, self.n_params + self.n_args), self.dtype)
        sums = _Quadrature(self, scale) if mode == "gauss" else None
        drift: tuple[float, int, float] = (0.0, 0, 0.0)
        for group in self._windows(dy):
            for who, later, earlier in group:
                lam[who] += small[later]
                ends = np.stack([self.t[later], self.t[earlier]], axis=1)
                if sums is not None:
                    made = self._solve(who, lam[who], ends)
                    lam[who] = made.y[1::2]
                    sums.add(who, made)
                    continue
                parts = [lam[who], mu[who]]
                if mode == "backsolve":
                    parts.insert(0, self.run.y[later])
                end = self._solve(who, np.concatenate(parts, axis=1), ends).y[1::2]
                if mode == "backsolve":
                    drift = max(drift, self._drift(end[:, :D], earlier))
                    end = end[:, D:]
                lam[who], mu[who] = end[:, :D], end[:, D:]
            if sums is not None:
                sums.flush()  # while the curve is there
        if drift[0] > _DRIFT:
            warnings.warn(
                f"backsolve: sample {drift[1]}: solving y backwards missed the state at t = "
                f"{drift[2]:.6g} by {drift[0]:.2g} tolerances, so the gradient cannot be trusted: "
                + _DAMPED,
                PrecisionWarning,
                stacklevel=4,  # the caller of vjp
            )
        first = self.inputs.when.out_off[:-1]
        t_bar = self._t_bar(dy, lam * scale[:, None])
        y0_bar = ((lam + small[first]) * scale[:, None]).astype(self.dtype)
        given = self.inputs.given
        if sums is not None:
            params, args_bar = sums.finish()
        else:
            total = mu * scale[:, None]
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
        self.needed = bool(back.n_params or back.n_args)

    def add(self, who: Array, made: Any) -> None:
        """Take in the steps of a backward solve of the samples ``who``."""
        if not self.needed:
            return
        sample, *rest = made.steps()
        self.waiting.append((who[sample], *rest))
        if sum(len(s[0]) for s in self.waiting) > _WAITING:
            self.flush()

    def flush(self) -> None:
        """Evaluate the integrals over the steps that wait."""
        waiting, self.waiting = self.waiting, []
        if not sum(len(s[0]) for s in waiting):
            return
        steps = tuple([np.concatenate(column) for column in zip(*waiting, strict=True)])
        sample, _, _, t_n, h, _, _, _ = steps
        t = (t_n[:, None] + h[:, None] * _NODES).reshape(-1)
        which = np.repeat(np.arange(len(t_n)), len(_NODES))
        back = self.back
        lam = _run.within_steps(back.template, steps, which, t)
        owner = sample[which]
        # h is negative against the forward time
        weight = -(h[:, None] * _WEIGHTS).reshape(-1) * self.scale[owner]
        ct = weight[:, None] * lam
        y = back._curve_at(owner, t)
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


def continuous(
    run: Any, inputs: Inputs, steps: tuple[Array, ...], spec: Continuous, dy: Array
) -> Gradient:
    """The gradient of <dy, y> by the continuous adjoint; see `nodecore.Continuous`."""
    return Backward(run, inputs, steps, spec).gradient(dy)
