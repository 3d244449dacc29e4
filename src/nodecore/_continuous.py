"""The continuous adjoint: lambda' = -f_y^T lambda, backwards (docs/math/continuous-adjoint.md).

The interval between two outputs is one solve of the batch, from its later end to its earlier one;
at an output lambda gains its cotangent. y(t) is a polynomial a forward step, looked up by the
kernels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from nodecore import _run, gradient, methods, plan, tree
from nodecore._adjoint import Continuous
from nodecore._inputs import Array, State, Times
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

# backsolve: how far y may drift from what was solved, in tolerances, before a warning
_DRIFT = 1e3


class Backward:
    """One gradient by the continuous adjoint of one solution."""

    def __init__(
        self, run: Any, inputs: Inputs, steps: tuple[Array, ...], spec: Continuous
    ) -> None:
        self.run, self.inputs, self.steps, self.spec = run, inputs, steps, spec
        given = inputs.given
        self.dim = given.state.y0.shape[1]
        self.dtype = given.state.y0.dtype
        self.B = len(given.state.y0)
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
        self.curve = None if spec.mode == "backsolve" else self._curve()
        self.solved = np.array([Status(int(s)).ok for s in run.status])

    def _curve(self) -> tuple[Array, ...]:
        """y(t) as polynomials in theta, one a forward step: ranges, starts, sizes, coefficients."""
        sample, _, _, t_n, h, t_end, y_n = self.steps
        degree = self.inputs.method.P.shape[1]
        theta = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2
        t = t_n[:, None] + h[:, None] * theta
        t[:, -1] = t_end
        values = np.empty((len(t_n), degree + 1, self.dim), self.dtype)
        values[:, 0] = y_n
        if len(t_n):
            which = np.repeat(np.arange(len(t_n)), degree)
            inner = _run.within_steps(self.inputs, self.steps, which, t[:, 1:].reshape(-1))
            values[:, 1:] = inner.reshape(len(t_n), degree, self.dim)
        fit = np.linalg.inv(np.vander(theta, increasing=True))
        coef = np.einsum("kj,njd->nkd", fit, values.astype(np.float64))
        ends = np.cumsum(np.bincount(sample, minlength=self.B))
        ranges = np.stack([ends - np.bincount(sample, minlength=self.B), ends], axis=1)
        return (
            np.ascontiguousarray(ranges, np.int64),
            np.ascontiguousarray(t_n),
            np.ascontiguousarray(h),
            np.ascontiguousarray(coef, self.dtype),
        )

    def _intervals(self) -> Iterator[tuple[Array, Array, Array]]:
        """(samples, later rows, earlier rows): from each sample's last output to its first."""
        off = self.inputs.when.out_off
        count = np.where(self.solved, self.run.ints[3], 0)
        for j in range(1, int(count.max(initial=0))):
            who = np.flatnonzero(count > j)
            later = off[who] + count[who] - j
            yield who, later, later - 1

    def _solve(self, who: Array, state: Array, ends: Array, keep: bool) -> tuple[Any, Inputs]:
        """Solve the adjoint system of the samples ``who`` over ``ends`` (n, 2)."""
        old = self.inputs
        given = old.given
        n = state.shape[1]
        arg = given.args
        if arg.flat is not None:
            leaves = tuple([(a if given.state.batched else a[None])[who] for a in arg.leaves])
            arg = arg._replace(flat=np.ascontiguousarray(arg.flat[who]), leaves=leaves)
        order = self.method.error_order
        assert order is not None
        k = resolve(None).coefficients(order)
        control = (
            ADAPTIVE, 0, 0, order + 1, self.rtol, 0.0, 0.0, math.inf, 1_000_000,
            np.full(n, self.atol, self.dtype), *k[:7], math.log2(k.memory_floor),
        )  # fmt: skip
        t_off = np.arange(len(who), dtype=np.int64) * 2
        out_off = np.arange(len(who) + 1, dtype=np.int64) * 2
        curve = self.curve
        if curve is not None:
            curve = (np.ascontiguousarray(curve[0][who]), *curve[1:])
        inputs = Inputs(
            fun=old.fun,
            method=self.method,
            given=Given(
                State(state, given.state.treedef, given.state.shapes, given.state.dtypes, True),
                given.params,
                given.params_treedef,
                arg,
                Times(np.ascontiguousarray(ends.reshape(-1)), t_off, out_off, "rows", None),
                GridRule.HOLD_SIZES,
            ),
            params=old.params,
            control=control,
            stops=(None, None),
            options={},
            keep=keep,
            threads=old.threads,
            transform=self.spec.mode,
            curve=curve,
        )
        made, _ = _run.run(inputs, NO_GRID, None, False)
        if not made.all_ok():
            bad = int(np.flatnonzero(made.status != Status.OK)[0])
            status, (t, h) = Status(int(made.status[bad])), made.floats[:, bad]
            raise GradientError(
                f"sample {who[bad]}: the backward solve of the continuous adjoint failed: "
                f"{status.describe(t, h)}. Use another method or tolerance for it "
                "(nc.Continuous(method=..., rtol=...)), or the discrete adjoint",
                sample=int(who[bad]),
                t=float(t),
                status=status,
            )
        return made, inputs

    def gradient(self, dy: Array) -> Gradient:
        """The gradient of <dy, y>."""
        inputs, D = self.inputs, self.dim
        given = inputs.given
        when, y = given.when, self.run.y
        fields, uniform = self.run.fields, self.run.uniform
        t_rows = np.concatenate([when.of(b) for b in range(self.B)])
        lam = np.zeros((self.B, D), self.dtype)
        mu = np.zeros((self.B, self.n_params + self.n_args), self.dtype)
        acc = np.zeros((1, fields.acc_size))
        s_bar = np.zeros((self.B, fields.lowered.n_sample))
        before = lam.copy()
        for who, later, earlier in self._intervals():
            lam[who] += dy[later]
            ends = np.stack([t_rows[later], t_rows[earlier]], axis=1)
            if self.spec.mode == "gauss":
                made, back = self._solve(who, lam[who], ends, True)
                lam[who] = made.y[1::2]
                self._quadrature(fields, uniform, who, made, back, acc, s_bar)
            else:
                parts = [lam[who], mu[who]]
                if self.spec.mode == "backsolve":
                    parts.insert(0, y[later])
                made, _ = self._solve(who, np.concatenate(parts, axis=1), ends, False)
                end = made.y[1::2]
                if self.spec.mode == "backsolve":
                    self._look_at_drift(end[:, :D], y[earlier], who, ends[:, 1])
                    end = end[:, D:]
                lam[who], mu[who] = end[:, :D], end[:, D:]
        before[...] = lam
        first = when.out_off[:-1]
        lam[self.solved] += dy[first[self.solved]]
        return self._result(fields, uniform, dy, lam, before, mu, acc, s_bar, t_rows)

    def _quadrature(
        self,
        fields: Any,
        uniform: Any,
        who: Array,
        made: Any,
        back: Inputs,
        acc: Array,
        s_bar: Array,
    ) -> None:
        """Adds the integral of f_p^T lambda over the accepted backward steps."""
        steps = made.steps()
        sample, _, _, t_n, h, _, _ = steps
        if not len(t_n):
            return
        t = (t_n[:, None] + h[:, None] * _NODES).reshape(-1)
        which = np.repeat(np.arange(len(t_n)), len(_NODES))
        lam = _run.within_steps(back, steps, which, t)
        assert self.curve is not None
        owner = who[sample[which]]
        y = self._curve_at(owner, t)
        weight = -(h[:, None] * _WEIGHTS).reshape(-1, 1)  # h is negative against the forward time
        part, s_part, _ = plan.pull_points(
            fields, uniform, self.run.sample_values[owner], t, y, weight * lam
        )
        acc += part
        np.add.at(s_bar, owner, s_part)

    def _curve_at(self, sample: Array, t: Array) -> Array:
        assert self.curve is not None
        ranges, start, size, coef = self.curve
        sign = np.sign(size[ranges[sample, 0]])
        piece = np.empty(len(t), np.int64)
        for b in np.unique(sample):
            here = sample == b
            lo, hi = ranges[b]
            s = sign[here][0]
            k = np.searchsorted(s * start[lo:hi], s * t[here], side="right") - 1
            piece[here] = lo + np.clip(k, 0, hi - lo - 1)
        theta = ((t - start[piece]) / size[piece])[:, None]
        out: Array = coef[piece, -1].astype(np.float64)
        for k in range(coef.shape[1] - 2, -1, -1):
            out = out * theta + coef[piece, k]
        return out

    def _look_at_drift(self, back: Array, y: Array, who: Array, t: Array) -> None:
        options = self.inputs.options
        scale = self.atol + max(self.rtol, options.get("rtol") or 0.0) * np.abs(y)
        drift = np.sqrt(np.mean(((back - y) / scale) ** 2, axis=1))
        if not (drift <= _DRIFT).all():
            worst = int(np.argmax(np.where(np.isnan(drift), np.inf, drift)))
            warnings.warn(
                f"backsolve: sample {who[worst]}: solving y backwards missed the state at t = "
                f"{t[worst]:.6g} by {drift[worst]:.2g} tolerances: modes that are damped forwards "
                'grow backwards, and the gradient is wrong. Use nc.Continuous("gauss") or the '
                "discrete adjoint",
                PrecisionWarning,
                stacklevel=5,
            )

    def _result(
        self, fields: Any, uniform: Any, dy: Array, lam: Array, before: Array, mu: Array,
        acc: Array, s_bar: Array, t_rows: Array,
    ) -> Gradient:  # fmt: skip
        inputs = self.inputs
        given = inputs.given
        args_bar = np.zeros((self.B, self.n_args), self.dtype)
        if self.spec.mode == "gauss":
            if self.n_args:
                args_bar = plan.pull_samples(fields, uniform, given.args.flat, s_bar, acc)
            params = None
            if given.params:
                params, _ = plan.params_bar(fields, uniform, acc)
        else:
            params = mu[:, : self.n_params].astype(np.float64).sum(axis=0)
            args_bar = mu[:, self.n_params :]
        # dL/dt_k = dy_k . f(t_k, y_k), dL/dt_0 = -lambda(t_0) . f(t_0, y_0)
        y = self.run.y
        reached = np.zeros(len(t_rows), bool)
        off = given.when.out_off
        for b in np.flatnonzero(self.solved):
            reached[off[b] : off[b] + self.run.ints[3, b]] = True
        owner = np.repeat(np.arange(self.B), np.diff(off))
        rows = np.flatnonzero(reached)
        t_bar = np.zeros(len(t_rows))
        if rows.size:
            zero = np.zeros((rows.size, self.dim), self.dtype)
            _, _, f = plan.pull_points(
                fields, uniform, self.run.sample_values[owner[rows]], t_rows[rows], y[rows], zero
            )
            slope = np.zeros((len(t_rows), self.dim))
            slope[rows] = f
            t_bar[rows] = np.sum(dy[rows] * slope[rows], axis=1)
            start = off[:-1]
            t_bar[start] = -np.sum(before * slope[start], axis=1)
        return gradient.shaped(given, lam, params, args_bar, t_bar, None)


def continuous(
    run: Any, inputs: Inputs, steps: tuple[Array, ...], spec: Continuous, dy: Array
) -> Gradient:
    """The gradient of <dy, y> by the continuous adjoint; see `nodecore.Continuous`."""
    return Backward(run, inputs, steps, spec).gradient(dy)
