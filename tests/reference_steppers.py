"""Every family's step and frozen-step adjoint in plain NumPy: what the kernels are held to.

For one sample, with full Newton iteration to rounding and no reuse of anything; the equations are
those of docs/math/implicit-methods.md, in its order. All of it works in complex arithmetic, so
that a solve can be differentiated to rounding by the complex step f'(x) = Im f(x + ih) / h.

A stepper has two functions. `step` returns a Record; `reverse` takes one and the cotangents

    lam     of y_{n+1}
    ybar    of y_n, from outputs inside the step
    kbar    (s, D) of the stages, from outputs inside the step: each h b_i(theta) times an output's
    carried of the last stage as the next step's first, where the family carries it

and returns a Cotangents: of y_n, of the carried first stage, of the parameters, and the scalars
T = dL/dt_n, H = dL/dh with y_n and the carried first stage held.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nodecore.methods import Rosenbrock, Tableau

STEP = 1e-30  # of the complex step


# ---- Fields --------------------------------------------------------------------------------------


class Field:
    """y' = f(t, y, p) with f_y (D, D), f_p (D, P), f_t (D,), by the complex step unless overridden.

    A field that is solved in complex arithmetic must override them.
    """

    def f(self, t, y, p):
        raise NotImplementedError

    def fy(self, t, y, p):
        return _columns(lambda x: self.f(t, x, p), y)

    def fp(self, t, y, p):
        return _columns(lambda x: self.f(t, y, x), p)

    def ft(self, t, y, p):
        return np.imag(self.f(t + 1j * STEP, y, p)) / STEP

    def gradients(self, scalar, t, y, p):
        """Derivatives of scalar(t, y, p) with respect to y, p and t."""
        return (
            _columns(lambda x: scalar(t, x, p), y),
            _columns(lambda x: scalar(t, y, x), p),
            np.imag(scalar(t + 1j * STEP, y, p)) / STEP,
        )


def _columns(fun, x):
    columns = []
    for i in range(len(x)):
        shifted = np.array(x, complex)
        shifted[i] += 1j * STEP
        columns.append(np.imag(fun(shifted)) / STEP)
    return np.array(columns).T


class Plain(Field):
    """A field f(t, y) without parameters, from a function."""

    def __init__(self, fun):
        self.fun = fun

    def f(self, t, y, p):
        return self.fun(t, y)


# ---- Records -------------------------------------------------------------------------------------


@dataclass
class Record:
    """One step: y1, and the stages (Y, k) or what else a family needs again."""

    t: Any
    h: Any
    y: Any
    y1: Any
    k: Any  # (s, D), as the dense output weighs them
    Y: Any = None  # (s, D) stage arguments
    explicit: Any = None  # (s, D), the derivatives of the part that is not solved for

    def dense(self, method, theta):
        """y(t + theta h)."""
        weights = method.weights(theta)
        if isinstance(method, Rosenbrock):
            return self.y + weights @ self.k
        k = self.k if self.explicit is None else self.k + self.explicit
        return self.y + self.h * (weights @ k)


@dataclass
class Cotangents:
    y: Any
    carried: Any
    p: Any
    T: float
    H: float


def newton(residual, jacobian, x):
    """The root of a residual by full Newton steps until they stop falling.

    Two steps more settle the imaginary part of a complex solve, which lags behind by one.
    """
    last, extra = np.inf, 0
    for _ in range(60):
        correction = np.linalg.solve(jacobian(x), residual(x))
        x = x - correction
        size = np.abs(correction).max()
        extra += bool(size <= 1e-14 * np.abs(x).max() or (size < 1e-9 and size > last / 2))
        if extra == 3:
            return x
        last = size
    raise ArithmeticError("Newton does not converge")


# ---- Diagonally implicit and explicit Runge-Kutta ------------------------------------------------


class Dirk:
    """Families "explicit" and "dirk". The first stage is the last one of the step before."""

    carries = True

    def __init__(self, tab: Tableau):
        self.method = tab

    def step(self, field, t, y, h, p, carried):
        tab = self.method
        s, eye = tab.n_stages, np.eye(len(y))
        dtype = np.result_type(t, y, h, p, carried)
        Y, k = np.zeros((2, s, len(y)), dtype)
        Y[0], k[0] = y, carried
        for i in range(1, s):
            ti, a = t + tab.c[i] * h, tab.A[i, i]
            known = y + h * (tab.A[i, :i] @ k[:i])
            if a == 0:
                Y[i], k[i] = known, field.f(ti, known, p)
                continue
            Y[i] = newton(
                lambda x, ti=ti, a=a, known=known: x - known - h * a * field.f(ti, x, p),
                lambda x, ti=ti, a=a: eye - h * a * field.fy(ti, x, p),
                y + h * (tab.guess[i, :i] @ k[:i]),
            )
            k[i] = (Y[i] - known) / (h * a)
        return Record(t, h, y, Y[tab.step_stage], k, Y)

    def reverse(self, field, record, p, lam, ybar, kbar, carried):
        tab, h, y = self.method, record.h, record.y
        s, eye = tab.n_stages, np.eye(len(y))
        stage_bar = np.zeros((s, len(y)))  # of the arguments Y_i
        own = kbar + h * np.outer(tab.b, lam)  # of the k_i, from what scales with h
        out = Cotangents(lam + ybar, None, np.zeros(len(p)), 0.0, 0.0)
        for i in range(s - 1, 0, -1):
            ti, Yi = record.t + tab.c[i] * h, record.Y[i]
            J = field.fy(ti, Yi, p)
            own[i] += h * (tab.A[i + 1 :, i] @ stage_bar[i + 1 :])
            extern = carried if i == tab.step_stage else 0.0
            kappa = np.linalg.solve(eye - h * tab.A[i, i] * J.T, own[i] + extern)
            stage_bar[i] = J.T @ kappa
            own[i] = kappa - extern
            ft = field.ft(ti, Yi, p)
            out.y = out.y + stage_bar[i]
            out.p += field.fp(ti, Yi, p).T @ kappa
            out.T += kappa @ ft
            out.H += tab.c[i] * (kappa @ ft)
        own[0] += h * (tab.A[1:, 0] @ stage_bar[1:])
        out.carried = own[0]
        out.H += float(np.sum(own * record.k)) / h
        return out


# ---- Radau IIA -----------------------------------------------------------------------------------


class RadauStepper:
    """Family "radau": the implicit stages in one system."""

    carries = True

    def __init__(self, tab: Tableau):
        self.method = tab

    def _blocks(self, field, t, h, p, Y):
        return [field.fy(t + c * h, x, p) for c, x in zip(self.method.c[1:], Y, strict=True)]

    def step(self, field, t, y, h, p, carried):
        tab, D = self.method, len(y)
        A, c = tab.A[1:, 1:], tab.c[1:]
        m = len(c)

        def values(z):
            Y = y + z.reshape(m, D)
            return Y, np.array([field.f(t + ci * h, x, p) for ci, x in zip(c, Y, strict=True)])

        def residual(z):
            return z - h * (A @ values(z)[1]).ravel()

        def jacobian(z):
            J = self._blocks(field, t, h, p, y + z.reshape(m, D))
            return np.eye(m * D) - h * np.block(
                [[a * B for a, B in zip(row, J, strict=True)] for row in A]
            )

        guess = np.outer(c, h * carried).ravel()
        z = newton(residual, jacobian, guess).reshape(m, D)
        k = np.vstack([[carried], tab.A_inv @ z / h])
        return Record(t, h, y, y + z[-1], k, np.vstack([[y], y + z]))

    def reverse(self, field, record, p, lam, ybar, kbar, carried):
        tab, h, D = self.method, record.h, len(record.y)
        A, c = tab.A[1:, 1:], tab.c[1:]
        m = len(c)
        J = self._blocks(field, record.t, h, p, record.Y[1:])
        extern = np.zeros((m, D))
        extern[-1] = carried
        own = kbar + h * np.outer(tab.b, lam)
        # kappa_i = own_i + extern_i + h sum_j a_ji J_j^T kappa_j
        system = np.eye(m * D) - h * np.block(
            [[A[j, i] * J[j].T for j in range(m)] for i in range(m)]
        )
        kappa = np.linalg.solve(system, (own[1:] + extern).ravel()).reshape(m, D)
        own[1:] = kappa - extern
        out = Cotangents(lam + ybar, own[0], np.zeros(len(p)), 0.0, 0.0)
        for i in range(m):
            ti, Yi = record.t + c[i] * h, record.Y[1 + i]
            ft = field.ft(ti, Yi, p)
            out.y = out.y + J[i].T @ kappa[i]
            out.p += field.fp(ti, Yi, p).T @ kappa[i]
            out.T += kappa[i] @ ft
            out.H += c[i] * (kappa[i] @ ft)
        out.H += float(np.sum(own * record.k)) / h
        return out


# ---- Additive Runge-Kutta ------------------------------------------------------------------------


class Imex:
    """Family "imex": y' = f + g, f implicit. The field is the pair (f, g).

    Both derivatives of the last stage are carried, stacked.
    """

    carries = True

    def __init__(self, tab: Tableau):
        self.method = tab

    def step(self, fields, t, y, h, p, carried):
        f, g = fields
        tab = self.method
        s, eye = tab.n_stages, np.eye(len(y))
        dtype = np.result_type(t, y, h, p, carried)
        Y, k, e = np.zeros((3, s, len(y)), dtype)
        Y[0], (k[0], e[0]) = y, carried
        for i in range(1, s):
            ti, a = t + tab.c[i] * h, tab.A[i, i]
            slow = y + h * (tab.A_explicit[i, :i] @ e[:i])
            known = slow + h * (tab.A[i, :i] @ k[:i])
            if a == 0:
                Y[i], k[i] = known, f.f(ti, known, p)
            else:
                Y[i] = newton(
                    lambda x, ti=ti, a=a, known=known: x - known - h * a * f.f(ti, x, p),
                    lambda x, ti=ti, a=a: eye - h * a * f.fy(ti, x, p),
                    slow + h * (tab.guess[i, :i] @ k[:i]),
                )
                k[i] = (Y[i] - known) / (h * a)
            e[i] = g.f(ti, Y[i], p)
        return Record(t, h, y, Y[-1], k, Y, e)

    def reverse(self, fields, record, p, lam, ybar, kbar, carried):
        f, g = fields
        tab, h, y = self.method, record.h, record.y
        s, eye = tab.n_stages, np.eye(len(y))
        stage_bar = np.zeros((s, len(y)))
        own = np.stack([kbar + h * np.outer(tab.b, lam)] * 2)  # of k, of e
        out = Cotangents(lam + ybar, None, np.zeros(len(p)), 0.0, 0.0)
        for i in range(s - 1, 0, -1):
            ti, Yi, a = record.t + tab.c[i] * h, record.Y[i], tab.A[i, i]
            later = stage_bar[i + 1 :]
            extern = carried if i == s - 1 else np.zeros((2, len(y)))
            own[0, i] += h * (tab.A[i + 1 :, i] @ later)
            own[1, i] += h * (tab.A_explicit[i + 1 :, i] @ later)
            J, G = f.fy(ti, Yi, p), g.fy(ti, Yi, p)
            slow = own[1, i] + extern[1]
            right = own[0, i] + extern[0] + h * a * (G.T @ slow)
            kappa = np.linalg.solve(eye - h * a * J.T, right)
            stage_bar[i] = J.T @ kappa + G.T @ slow
            own[0, i] = kappa - extern[0]
            dt = kappa @ f.ft(ti, Yi, p) + slow @ g.ft(ti, Yi, p)
            out.y = out.y + stage_bar[i]
            out.p += f.fp(ti, Yi, p).T @ kappa + g.fp(ti, Yi, p).T @ slow
            out.T += dt
            out.H += tab.c[i] * dt
        own[0, 0] += h * (tab.A[1:, 0] @ stage_bar[1:])
        own[1, 0] += h * (tab.A_explicit[1:, 0] @ stage_bar[1:])
        out.carried = own[:, 0]
        out.H += float(np.sum(own * np.stack([record.k, record.explicit]))) / h
        return out


# ---- Rosenbrock ----------------------------------------------------------------------------------


class RosenbrockStepper:
    """Family "rosenbrock". Nothing is carried: f_0 is a field value, not a stage derivative."""

    carries = False

    def __init__(self, method: Rosenbrock):
        self.method = method

    def step(self, field, t, y, h, p, carried=None):
        m = self.method
        J, ft = field.fy(t, y, p), field.ft(t, y, p)
        W = np.eye(len(y)) / (h * m.gamma) - J
        k, Y = np.zeros((2, m.n_stages, len(y)), np.result_type(t, y, h, p))
        for i in range(m.n_stages):
            Y[i] = y + m.A[i, :i] @ k[:i]
            right = field.f(t + m.c[i] * h, Y[i], p) + h * m.d[i] * ft + m.C[i, :i] @ k[:i] / h
            k[i] = np.linalg.solve(W, right)
        return Record(t, h, y, y + m.m @ k, k, Y)

    def reverse(self, field, record, p, lam, ybar, kbar, carried=None):
        m, t, h, y, k = self.method, record.t, record.h, record.y, record.k
        J, ft = field.fy(t, y, p), field.ft(t, y, p)
        W = np.eye(len(y)) / (h * m.gamma) - J
        u, v = np.zeros((2, m.n_stages, len(y)))
        out = Cotangents(lam + ybar, None, np.zeros(len(p)), 0.0, 0.0)
        for i in range(m.n_stages - 1, -1, -1):
            ti, later = t + m.c[i] * h, slice(i + 1, None)
            own = m.m[i] * lam + kbar[i] + m.A[later, i] @ v[later] + m.C[later, i] @ u[later] / h
            u[i] = np.linalg.solve(W.T, own)
            v[i] = field.fy(ti, record.Y[i], p).T @ u[i]
            fti = field.ft(ti, record.Y[i], p)
            out.y = out.y + v[i]
            out.p += field.fp(ti, record.Y[i], p).T @ u[i]
            out.T += u[i] @ fti
            out.H += u[i] @ (
                m.c[i] * fti + m.d[i] * ft + k[i] / (h**2 * m.gamma) - m.C[i, :i] @ k[:i] / h**2
            )
        # What J and f_t contribute: of sum_i u_i^T J k_i + h (sum_i d_i u_i)^T f_t.
        du = h * (m.d @ u)
        dy, dp, dt = field.gradients(
            lambda t, y, p: np.sum(u * (k @ field.fy(t, y, p).T)) + du @ field.ft(t, y, p), t, y, p
        )
        out.y = out.y + dy
        out.p += dp
        out.T += dt
        return out


STEPPERS = {
    "explicit": Dirk,
    "dirk": Dirk,
    "imex": Imex,
    "radau": RadauStepper,
    "rosenbrock": RosenbrockStepper,
}


def stepper(method):
    """The reference stepper of a method."""
    return STEPPERS[method.family](method)


# ---- Solves on a frozen grid ---------------------------------------------------------------------


@dataclass
class Solution:
    """Records of all steps, the state at their end, and y at (step, theta) of each output."""

    records: list = field(default_factory=list)
    end: Any = None
    outputs: list = field(default_factory=list)


def first_derivative(field, t, y, p):
    """What the first step takes as carried: f(t0, y0), of both parts of an additive field."""
    parts = field if isinstance(field, tuple) else (field,)
    values = np.array([part.f(t, y, p) for part in parts])
    return values if isinstance(field, tuple) else values[0]


def solve(method, field, t0, y0, steps, p, outputs=()):
    """Steps of the given sizes; `outputs` are pairs (step, theta)."""
    runner, out = stepper(method), Solution()
    t, y = t0, y0
    carried = first_derivative(field, t, y, p) if runner.carries else None
    for h in steps:
        record = runner.step(field, t, y, h, p, carried)
        out.records.append(record)
        t, y = t + h, record.y1
        if runner.carries:
            last = method.step_stage
            carried = record.k[last]
            if record.explicit is not None:
                carried = np.stack([carried, record.explicit[last]])
    out.end = y
    out.outputs = [out.records[n].dense(method, theta) for n, theta in outputs]
    return out


@dataclass
class Gradient:
    y0: Any
    p: Any
    t0: float  # all step sizes held
    steps: Any  # of each step size, t0 and the other sizes held


def gradient(method, field, solution, p, lam, outputs=(), cotangents=()):
    """The gradient of sum_k cotangents[k] . output[k] + lam . end."""
    runner, n = stepper(method), len(solution.records)
    scaled = not isinstance(method, Rosenbrock)
    T, H, p_bar = np.zeros(n), np.zeros(n), np.zeros(len(p))
    first = solution.records[0]
    carried = np.zeros((2, len(lam)) if isinstance(field, tuple) else len(lam))
    for i in reversed(range(n)):
        record = solution.records[i]
        ybar, kbar = np.zeros(len(lam)), np.zeros((method.n_stages, len(lam)))
        for (step, theta), bar in zip(outputs, cotangents, strict=True):
            if step == i:
                ybar += bar
                kbar += (record.h if scaled else 1.0) * np.outer(method.weights(theta), bar)
        back = runner.reverse(field, record, p, lam, ybar, kbar, carried)
        lam, carried = back.y, back.carried
        p_bar += back.p
        T[i], H[i] = back.T, back.H
    t0_bar = T.sum()
    if runner.carries:
        parts = field if isinstance(field, tuple) else (field,)
        for part, bar in zip(parts, np.atleast_2d(carried), strict=True):
            lam = lam + part.fy(first.t, first.y, p).T @ bar
            p_bar += part.fp(first.t, first.y, p).T @ bar
            t0_bar += bar @ part.ft(first.t, first.y, p)
    after = np.concatenate([np.cumsum(T[::-1])[::-1][1:], [0.0]])
    return Gradient(lam, p_bar, t0_bar, H + after)
