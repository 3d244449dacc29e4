"""The field of a solution together with its tangent.

The tangent of a Runge-Kutta step is the same step of the variational equation: with v the tangent
of y, along tangents dp of params and da of args,

    y' = f(t, y, p, a),    v' = f_y v + f_p dp + f_a da

So forward mode on a frozen grid is a solve of a field of twice the size, and its adjoint gives
second derivatives (Griewank & Walther, Evaluating Derivatives, 2nd ed., section 5.3).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .autodiff import jvp
from .graph import SAMPLE, STEP
from .trace import Trace


def tangent_field(trace: Trace) -> Trace:
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
    return replace(trace, out=g.concat([out, dout]), y=y, args=[*trace.args, *tangents])
