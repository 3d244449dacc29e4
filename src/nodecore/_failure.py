"""From a failed sample to a message that says what to do."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nodecore import tree
from nodecore.status import PrecisionWarning, SolveError, Status, StiffnessWarning

ADAPTIVE, FIXED_DT = 0, 1  # control[0], see Run


def warn_precision(rtol: float, dtype: Any) -> None:
    """rtol is close to the state's rounding."""
    eps = float(np.finfo(dtype).eps)
    warnings.warn(
        f"rtol={rtol:g} is below 10 roundings of {np.dtype(dtype)} ({10 * eps:.1g}): steps are "
        "chosen by rounding errors",
        PrecisionWarning,
        stacklevel=5,  # the caller of solve
    )


def warn_stiffness(
    method: str,
    limit: float,
    t: Any,
    h: Any,
    rho: Any,
    count: Any,
    *,
    batched: bool = True,
    stacklevel: int = 5,
) -> None:
    """One StiffnessWarning for a solve whose steps are as long as stability allows, and no longer.

    Parameters
    ----------
    method : str
        The explicit method.
    limit : float
        Its real limit of stability.
    t, h, rho, count : (B,) arrays
        Of each sample: where it was last seen to be limited, its step there, the estimate of the
        field's largest rate there, and how many steps were limited so; 0 for a sample that was not.
        Where all are 0 there is no warning.
    batched : bool
        Whether samples are to be numbered.
    stacklevel : int
        As in `warnings.warn`; the default is two calls below `solve`.
    """
    count = np.asarray(count)
    if not count.any():
        return
    b = int(np.argmax(count))
    size, rate, others = abs(float(h[b])), float(rho[b]), int(np.count_nonzero(count)) - 1
    text = (
        f"{f'sample {b}: ' if batched else ''}{int(count[b]):,} steps of {method} were limited by "
        f"stability, not by accuracy. At t = {float(t[b]):.6g} the step was {size:.3g}; times the "
        f"largest rate of the field there, about {rate:.3g}, that is {size * rate:.3g}, and "
        f"{method} is stable up to {limit:.3g}. The problem is stiff there: an implicit method, "
        'such as method="kvaerno5", is not limited so, and nc.diagnose(field, y0, t, params) says '
        "whether it is worth it"
    )
    if others:
        text += f" ({others + 1} of {count.size} samples were limited)"
    warnings.warn(text, StiffnessWarning, stacklevel=stacklevel)


def failure(sol: Any) -> SolveError:
    """The error of the first sample that failed."""
    run, inputs = sol._run, sol._in
    failed = np.flatnonzero((run.status != Status.OK) & (run.status != Status.EVENT))
    b = int(failed[0])
    status = Status(int(run.status[b]))
    t, h = (float(x) for x in run.floats[:2, b])
    text = f"sample {b}: {status.describe(t, h)}. {_advice(sol, b, status, t, h)}"
    if failed.size > 1:
        text += f" ({failed.size} of {len(run.status)} samples failed)"
    if inputs.state.batched:
        text += '. on_failure="mark" keeps the other samples'
    return SolveError(text, sample=b, t=t, status=status, solution=sol)


def _advice(sol: Any, b: int, status: Status, t: float, h: float) -> str:
    run, inputs = sol._run, sol._in
    given = inputs.given
    cause = _bad_input(given, b)
    if cause:
        return cause
    times = given.when.of(b)
    rejected = int(run.ints[1, b])
    steps = int(run.ints[0, b]) + rejected
    percent = 100 * abs(t - times[0]) / max(abs(times[-1] - times[0]), 1e-300)
    fixed = inputs.control[0] != ADAPTIVE
    event = _last_event(sol, b, status)
    if event:
        return event
    if status is Status.NON_FINITE:
        if t == times[0] and run.ints[0, b] == 0 and (fixed or rejected == 0):
            return (
                "The cause: the field itself is infinite or NaN at the initial state"
                f"{_where(sol, b)}. Look for a division by zero, log or sqrt of a negative number, "
                "overflow of exp"
            )
        if fixed:
            return (
                "Likely causes: the step is too large for the method's stability (try a smaller "
                f"dt, more steps, or an adaptive method), or the solution blows up{_last(sol, b)}"
            )
        return (
            "Likely causes: the solution blows up in finite time, or leaves the region where the "
            f"field is defined (log, sqrt, division){_last(sol, b)}. Bound the field (np.clip, "
            "np.maximum), solve for the logarithm of what is positive, or end t before"
        )
    if status is Status.STEP_UNDERFLOW:
        return _underflow(sol, b, t, h)
    if status is Status.NEWTON_FAILED:
        if fixed:
            return (
                "Likely causes: so long a step has no solution, or several (try a smaller dt, "
                "more steps, or an adaptive method), the field jumps within it, or the solution "
                "blows up" + _last(sol, b)
            )
        return _underflow(sol, b, t, h)
    if status is Status.SINGULAR:
        return (
            "I - h gamma J cannot be factored: the field's Jacobian is infinite, NaN or huge "
            "there. Look for sqrt, log, division or a power at zero (np.where guards protect "
            "derivatives), and for scales that overflow" + _last(sol, b)
        )
    if status is Status.MAX_STEPS:
        if fixed:
            return (
                f"The solve came {percent:.3g} % of the way in {steps} fixed steps"
                + _steps_needed(inputs, times)
            )
        if rejected > steps / 3:
            why = (
                "many were rejected: the field is rough or jumps (put the times of jumps in "
                "tstops), or the tolerance is too tight"
            )
        else:
            why = (
                "few were rejected, so they are short because the problem is stiff (a rate much "
                "faster than the solution changes) or oscillates fast"
            )
        return (
            f"The solve came {percent:.3g} % of the way in {steps} steps; {why}. Raise max_steps "
            "or loosen rtol and atol"
        )
    if status is Status.DEADLINE:
        return (
            f"The solve came {percent:.3g} % of the way in {steps} steps. Raise deadline, or "
            "loosen rtol and atol"
        )
    if status is Status.UNSTABLE:
        return (
            "The parasitic mode of the reversible scheme, the difference of its two states, has "
            f"grown beyond {'half of the state' if fixed else 'a hundred tolerances'}, as it does "
            "where solutions are damped. Use nc.Discrete(memory=...): its gradient is exact within "
            "any memory, whatever the problem"
        )
    return ""


def _last_event(sol: Any, b: int, status: Status) -> str:
    """What an event did, if the sample's end is its work."""
    run, events = sol._run, sol._in.events
    if not events:
        return ""
    mine = run.events[run.event_off[b] : run.event_off[b + 1]]
    if not len(mine):
        return ""
    last = mine[-1]
    if status is Status.STEP_UNDERFLOW and last["ends"] == status:
        k = int(mine["event"][mine["cut"] != 0][-1])
        times = int(np.sum(mine["event"] == k))
        return (
            f"The cause: event {k} ({_name(events[k].g)}) happened {times} times, at last again "
            "within rounding: its times pile up. Make it terminal, or stop at another event before "
            "(such as a speed that falls below a limit), or let the reset leave the surface"
        )
    if status is Status.NON_FINITE and last["event"] < 0 and last["ends"] == status:
        return (
            "The cause: the g of an event is NaN there. Look for sqrt or log of a negative number, "
            "or a division of zero by zero"
        )
    if status is Status.NON_FINITE and last["cut"] and last["t"] == run.floats[0, b]:
        k = int(last["event"])
        return (
            f"The cause: the reset of event {k} ({_name(events[k].reset)}) gives a state that is "
            "infinite or NaN"
        )
    return ""


def _name(fun: Any) -> str:
    return str(getattr(fun, "__name__", "unnamed"))


def _bad_input(given: Any, b: int) -> str:
    """What is not finite among the numbers that the sample was given, or ""."""
    for i, p in enumerate(given.params):
        if not np.isfinite(p).all():
            return (
                f"The cause: params{tree.paths(given.params_treedef)[i]} is not finite. Look at "
                "the update that made it so (a smaller learning rate, gradient clipping)"
            )
    y0 = given.state.y0[b]
    if not np.isfinite(y0).all():
        k = int(np.flatnonzero(~np.isfinite(y0))[0])
        return f"The cause: y0{component(given.state, k)} is {y0[k]}"
    for i, leaf in enumerate(given.args.leaves):
        if not np.isfinite(leaf[b] if given.state.batched else leaf).all():
            path = tree.paths(given.args.treedef)[i]
            return f"A likely cause: args{path} of this sample is not finite"
    return ""


def component(state: Any, k: int) -> str:
    """Row k of a state as it is written behind ``y``: "[2]", "['a'][0, 1]"."""
    for path, shape in zip(tree.paths(state.treedef), state.shapes, strict=True):
        size = int(np.prod(shape))
        if k < size:
            index = ", ".join(str(int(i)) for i in np.unravel_index(k, shape))
            return f"{path}[{index}]" if shape else path
        k -= size
    raise IndexError(k)


def _state(sol: Any, b: int) -> Any:
    """The last state that the sample had, or None."""
    run = sol._run
    place = np.flatnonzero(run.failed == b)
    return run.last[int(place[0])].astype(np.float64) if place.size else None


def _slope(sol: Any, b: int, t: float, y: Any) -> Any:
    """The field there, by the function itself; None where it cannot be called on arrays."""
    given = sol._in.given
    args: list[Any] = [np.float64(t), given.state.split(y)]
    if given.params_treedef is not None or given.args.treedef is not None:
        args.append(None)
        if given.params_treedef is not None:
            args[2] = tree.unflatten(given.params_treedef, given.params)
    if given.args.treedef is not None:
        leaves = [a[b] if given.state.batched else a for a in given.args.leaves]
        args.append(tree.unflatten(given.args.treedef, leaves))
    try:
        with np.errstate(all="ignore"):
            result = sol._in.fun(*args)
        leaves = [result] if given.state.treedef == tree.LEAF else tree.flatten(result)[0]
        f = np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in leaves])
        return f if f.shape == y.shape else None
    except Exception:  # whatever it is: the solve's own message is the one to show
        return None


def _where(sol: Any, b: int) -> str:
    """Which component of the initial derivative is not finite."""
    given = sol._in.given
    f = _slope(sol, b, float(given.when.of(b)[0]), given.state.y0[b].astype(np.float64))
    if f is None or np.isfinite(f).all():
        return ""
    k = int(np.flatnonzero(~np.isfinite(f))[0])
    return f" (the derivative of y{component(given.state, k)} is {f[k]})"


def _last(sol: Any, b: int) -> str:
    """The component that has grown most, in words."""
    y = _state(sol, b)
    if y is None or not np.isfinite(y).all():
        return ""
    k = int(np.argmax(np.abs(y)))
    return f"; the last state had y{component(sol._in.given.state, k)} = {y[k]:.3g}"


def _underflow(sol: Any, b: int, t: float, h: float) -> str:
    inputs = sol._in
    state, times = inputs.given.state, inputs.given.when.of(b)
    rtol = inputs.options.get("rtol", 1.0)
    eps = float(np.finfo(state.y0.dtype).eps)
    if 10 * np.spacing(abs(t)) > 1e-6 * abs(times[-1] - times[0]):
        return (
            f"The cause: t is so large that its rounding ({np.spacing(abs(t)):.2g}) is no longer "
            f"small beside the interval ({abs(times[-1] - times[0]):.2g}): measure time from a "
            "nearer origin"
        )
    y = _state(sol, b)
    f = _slope(sol, b, t, y) if y is not None else None
    if y is not None and f is not None and np.isfinite(f).all():
        k = int(np.argmax(np.abs(y)))
        grown = abs(y[k]) > np.abs(state.y0[b]).max()
        if grown and abs(f[k] * h) > 1e-6 * abs(y[k]):  # by much still in so short a step
            return (
                f"The likely cause: the solution blows up in finite time; y{component(state, k)} "
                f"has grown to {y[k]:.3g}. Check signs and units, bound the growth, or end t before"
            )
    if rtol < 20 * eps:
        return (
            f"The likely cause: rtol={rtol:g} is near the rounding of {state.y0.dtype}, so that no "
            "step is good enough: loosen rtol"
            + (", or pass y0 as float64" if state.y0.dtype == np.float32 else "")
        )
    return (
        "Likely causes: the field is discontinuous or infinite there (put the time of a jump in "
        "tstops, or smooth it), or a component passes zero with too small an atol (give atol its "
        "scale, per component)" + _last(sol, b)
    )


def _steps_needed(inputs: Any, times: Any) -> str:
    mode, n_sub, size = inputs.control[0], inputs.control[1], inputs.control[5]
    span = abs(times[-1] - times[0])
    count = int(np.ceil(span / size)) if mode == FIXED_DT else n_sub * (len(times) - 1)
    return f" of about {count}. Raise max_steps, or make longer steps"
