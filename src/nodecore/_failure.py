"""From a failed sample to a message that says what to do."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nodecore import tree
from nodecore.status import PrecisionWarning, SolveError, Status


def warn_precision(rtol: float, dtype: Any) -> None:
    """rtol is close to the state's rounding."""
    eps = float(np.finfo(dtype).eps)
    warnings.warn(
        f"rtol={rtol:g} is below 10 roundings of {np.dtype(dtype)} ({10 * eps:.1g}): steps are "
        "chosen by rounding errors",
        PrecisionWarning,
        stacklevel=4,
    )


def failure(sol: Any) -> SolveError:
    """The error of the first sample that failed."""
    run, inputs = sol._run, sol._in
    failed = np.flatnonzero((run.status != Status.OK) & (run.status != Status.EVENT))
    b = int(failed[0])
    status = Status(int(run.status[b]))
    t, h = (float(x) for x in run.floats[:, b])
    more = f" ({failed.size} of {len(run.status)} samples failed)" if failed.size > 1 else ""
    text = f"sample {b}: {status.describe(t, h)}. {_advice(sol, b, status, t)}{more}"
    if inputs.state.batched:
        text += '. on_failure="mark" keeps the other samples'
    return SolveError(text, sample=b, t=t, status=status, solution=sol)


def _advice(sol: Any, b: int, status: Status, t: float) -> str:
    run, inputs = sol._run, sol._in
    given = inputs.given
    for i, p in enumerate(given.params):
        if not np.isfinite(p).all():
            return (
                f"The cause: params{tree.paths(given.params_treedef)[i]} is not finite. Look at the "
                "update that made it so (a smaller learning rate, gradient clipping)"
            )
    y0 = given.state.y0[b]
    if not np.isfinite(y0).all():
        return f"The cause: y0 is not finite in component {int(np.flatnonzero(~np.isfinite(y0))[0])}"
    if given.args.flat is not None and not np.isfinite(given.args.flat[b]).all():
        return "A likely cause: args of this sample are not finite"
    times = given.when.of(b)
    steps = int(run.ints[0, b] + run.ints[1, b])
    part = abs(t - times[0]) / max(abs(times[-1] - times[0]), 1e-300)
    if status is Status.NON_FINITE:
        if t == times[0] and steps == 0:
            return (
                "The cause: the field itself is infinite or NaN at the initial state. Look for a "
                "division by zero, log or sqrt of a negative number, overflow of exp"
            )
        if inputs.control[0] != 0:
            return (
                "Likely causes: the step is too large for the method's stability (try a smaller dt, "
                "more steps, or an adaptive method), or the solution blows up"
            )
        return (
            "Likely causes: the solution blows up in finite time, or leaves the region where the "
            "field is defined (log, sqrt, division)"
        )
    if status is Status.STEP_UNDERFLOW:
        return (
            "Likely causes: the solution blows up or is discontinuous there (put the time of a jump "
            "in tstops), the problem is stiff, or rtol and atol are below rounding "
            f"(rtol={inputs.options.get('rtol')}; try a larger one, or a larger atol for components "
            "near zero)"
        )
    if status is Status.MAX_STEPS:
        rejected = int(run.ints[1, b])
        why = (
            "many steps were rejected: the field is rough, or the tolerance too tight"
            if rejected > steps / 3
            else "steps are short though few are rejected: the problem is stiff or oscillates fast"
        )
        return (
            f"The solve came {100 * part:.3g} % of the way in {steps} steps; {why}. Raise max_steps "
            "or loosen rtol"
        )
    if status is Status.DEADLINE:
        return f"The solve came {100 * part:.3g} % of the way. Raise deadline or loosen rtol"
    return ""
