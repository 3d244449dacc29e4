"""Fields that are made of a field: its variational equation, and its adjoint equations.

The tangent of a Runge-Kutta step is the same step of the variational equation: with v the tangent
of y, along tangents dp of params and da of args,

    y' = f(t, y, p, a),    v' = f_y v + f_p dp + f_a da

So forward mode on a frozen grid is a solve of a field of twice the size, and its adjoint gives
second derivatives (Griewank & Walther, Evaluating Derivatives, 2nd ed., section 5.3).

The continuous adjoint of L(y(T)) is lambda' = -f_y^T lambda, and dL/dp the integral of f_p^T lambda
(Pontryagin; Cao, Li, Petzold & Serban, SIAM J. Sci. Comput. 24 (2003)). In the modes "gauss" and
"interpolating" the kernels look y(t) up on a given curve; "backsolve" solves for it again,
backwards.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .autodiff import jvp, vjp
from .graph import SAMPLE, STEP, Node
from .trace import Trace


def tangent(trace: Trace) -> tuple[Trace, Node | None]:
    """The field of (y, v); the tangents of params, then those of args, follow the args."""
    g = trace.graph
    D = trace.y.n
    y = g.input("y", 1, 2 * D, STEP)
    first = len(trace.args)
    slow = [*trace.params, *trace.args]
    tangents = [g.input("args", first + i, v.n, SAMPLE) for i, v in enumerate(slow)]
    v = g.gather(y, np.arange(D, 2 * D))
    dout = jvp(g, [trace.out], [trace.y, *slow], [v, *tangents])[0]
    both = [trace.out, g.zeros(D) if dout is None else dout]
    out, dout = g.substitute(both, {trace.y: g.gather(y, np.arange(D))})
    return replace(trace, out=g.concat([out, dout]), y=y, args=[*trace.args, *tangents]), None


def gauss(trace: Trace) -> tuple[Trace, Node | None]:
    """lambda' = -f_y^T lambda, with y on the curve."""
    g = trace.graph
    lam = g.input("y", 1, trace.y.n, STEP)
    ybar = vjp(g, [trace.out], [lam], [trace.y])[0]
    out = g.zeros(trace.y.n) if ybar is None else g.ew("neg", ybar)
    return replace(trace, out=out, y=lam), trace.y


def _all(trace: Trace, lam: Node) -> Node:
    """-f_y^T lambda, then -f_p^T lambda, then -f_a^T lambda."""
    g = trace.graph
    wrt = [trace.y, *trace.params, *trace.args]
    bars = vjp(g, [trace.out], [lam], wrt)
    zipped = zip(wrt, bars, strict=True)
    return g.concat([g.zeros(w.n) if b is None else g.ew("neg", b) for w, b in zipped])


def interpolating(trace: Trace) -> tuple[Trace, Node | None]:
    """(lambda, mu): the integrals over f_p^T lambda and f_a^T lambda are part of the state."""
    g, D = trace.graph, trace.y.n
    n = D + sum(v.n for v in (*trace.params, *trace.args))
    state = g.input("y", 1, n, STEP)
    return replace(trace, out=_all(trace, g.gather(state, np.arange(D))), y=state), trace.y


def backsolve(trace: Trace) -> tuple[Trace, Node | None]:
    """(y, lambda, mu): the state is solved for again."""
    g, D = trace.graph, trace.y.n
    n = 2 * D + sum(v.n for v in (*trace.params, *trace.args))
    state = g.input("y", 1, n, STEP)
    both = [trace.out, _all(trace, g.gather(state, np.arange(D, 2 * D)))]
    out = g.concat(g.substitute(both, {trace.y: g.gather(state, np.arange(D))}))
    return replace(trace, out=out, y=state), None


TRANSFORMS = {
    "tangent": tangent,
    "gauss": gauss,
    "interpolating": interpolating,
    "backsolve": backsolve,
}
