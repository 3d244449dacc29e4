"""Pictures: what `Stability.plot`, `Diagnosis.plot`, `Solution.plot` and `FitResult.plot` draw.

matplotlib is optional and imported when the first picture is asked for. The functions here draw
what they are handed and compute nothing but what is drawn, so this module knows no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nodecore.status import Error

Array = npt.NDArray[Any]

BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.45"


class MissingError(Error, ImportError):
    """An optional package is not installed."""


def pyplot() -> Any:
    """matplotlib.pyplot.

    Raises
    ------
    MissingError
        If matplotlib is not installed; the message says how to install it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingError(
            'pictures need matplotlib, which is not installed: pip install "nodecore[plot]"'
        ) from error
    return plt


def _bare(*axes: Any) -> None:
    """Without the lines that carry nothing."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)


# ---- Stability regions ---------------------------------------------------------------------------


def _window(found: Any) -> tuple[float, float, float]:
    """Left, right and top of a picture that shows the whole boundary of a region."""
    r = np.geomspace(1e-2, 60.0, 600)[:, None]
    angle = np.linspace(0, np.pi, 181)
    z = r * np.exp(1j * angle)
    inside = np.abs(found.R(z)) <= 1 + 1e-9
    if found.a_stable:
        out = z[~inside & (z.real > 1e-6)]  # where it is not stable
        if not out.size or np.abs(out).max() > 50:  # a half-plane
            return -4.0, 4.0, 4.0
        right, top = out.real.max(), out.imag.max()
        return -0.6 * right, 1.2 * right, 1.25 * top
    # The part that hangs together with the origin: a ray's first way out.
    first = np.where(inside.all(axis=0), len(r), np.argmin(inside, axis=0))
    seen = z[inside & (np.arange(len(r))[:, None] < first)]
    left, top = seen.real.min(), seen.imag.max()
    return 1.25 * left, max(0.5 * -left, 1.25 * seen.real.max()), 1.35 * top


def stability(found: Any, ax: Any = None) -> Any:
    """The region |R(z)| <= 1 of a `Stability`, and its limits on the axes."""
    if ax is None:
        ax = pyplot().figure(figsize=(4.2, 4.0), layout="constrained").subplots()
    left, right, top = _window(found)
    region(found, ax, (left, right), (-top, top))
    for limit, point in ((found.real_limit, -1), (found.imaginary_limit, 1j)):
        if 0 < limit < np.inf:
            z = limit * point
            ax.plot([z.real], [z.imag], "o", color=RED, ms=4, zorder=3)
            ax.annotate(
                f"{'−' if point == -1 else ''}{limit:.4g}{'' if point == -1 else 'i'}",
                (z.real, z.imag), xytext=(5, 5), textcoords="offset points",
                color=RED, fontsize="small", zorder=3,
            )  # fmt: skip
    ax.set(xlabel=r"Re $h\lambda$", ylabel=r"Im $h\lambda$", title=found.method)
    return ax


def region(
    found: Any, ax: Any, x: tuple[float, float], y: tuple[float, float], *, n: int = 501
) -> None:
    """Fill |R(z)| <= 1 within a rectangle, with the unit contour, at equal scales."""
    re, im = np.linspace(*x, n), np.linspace(*y, n)
    size = np.abs(found.R(re + 1j * im[:, None]))
    size = np.where(np.isfinite(size), size, 1e300)
    ax.axhline(0, color="0.75", lw=0.6, zorder=0)
    ax.axvline(0, color="0.75", lw=0.6, zorder=0)
    ax.contourf(re, im, size, levels=[0, 1], colors=[BLUE], alpha=0.18, zorder=1)
    ax.contour(re, im, size, levels=[1], colors=[BLUE], linewidths=1.4, zorder=2)
    ax.set(xlim=x, ylim=y)
    ax.set_aspect("equal")
    ax.locator_params(nbins=6, steps=[1, 2, 5, 10])
    _bare(ax)


# ---- Diagnoses -----------------------------------------------------------------------------------


def _time_axis(t: Array, start: float, end: float) -> tuple[Array, bool]:
    """Times to be drawn, and whether on a logarithmic axis: where most of them are near the start.

    Those of the steps are where something happens; on a logarithmic axis they count from the start.
    """
    passed = np.abs(t - start)
    if len(t) > 10 and np.median(passed) < 0.01 * abs(end - start):
        return passed, True
    return t, False


def diagnosis(found: Any) -> Any:
    """The spectrum over time, and the steps of two solves against the limit of stability."""
    plt = pyplot()
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(6.4, 5.2), layout="constrained", height_ratios=(1, 1)
    )
    start, end = found._span
    solved = found.implicit if found.implicit.finished else found.explicit
    _, log = _time_axis(solved.t, start, end)

    def shown(t: Array) -> Array:
        return np.abs(t - start) if log else t

    x = np.repeat(shown(found.t), found.eigenvalues.shape[1])
    values = found.eigenvalues.reshape(-1)
    alpha = float(np.clip(400 / max(len(x), 1), 0.15, 0.9))
    for rate, color, marker, label in (
        (-values.real, BLUE, "o", r"decay, $-\mathrm{Re}\,\lambda > 0$"),
        (values.real, RED, "^", r"growth, $\mathrm{Re}\,\lambda > 0$"),
        (np.abs(values.imag), GREY, "_", r"oscillation, $|\mathrm{Im}\,\lambda|$"),
    ):
        kept = rate > 1e-9 * found.spectral_radius
        if kept.any():
            top.plot(
                x[kept], rate[kept], marker, color=color, ms=3, mew=0.8, alpha=alpha, label=label,
                rasterized=len(x) > 5000,
            )  # fmt: skip
    top.set_yscale("log")
    top.set_ylabel("rate (1 / time)")
    for handle in _legend(top):
        handle.set_alpha(1)

    limits = np.where(np.isfinite(found.limits) & (found.limits > 0), found.limits, np.nan)
    for trial, color, order in ((found.explicit, RED, 4), (found.implicit, GREEN, 2)):
        if len(trial.t):
            ended = "" if trial.finished else ", stopped"
            ends, sizes = np.append(trial.t, trial.end), np.append(trial.h, trial.h[-1])
            bottom.plot(
                shown(ends), sizes, color=color, lw=1.3, zorder=order, drawstyle="steps-post",
                label=f"{trial.method}: {trial.steps:,} steps{ended}",
            )  # fmt: skip
    if np.isfinite(limits).any():
        bottom.plot(
            shown(found.t), limits, color=BLUE, lw=1.2, ls=(0, (4, 2)), zorder=3,
            label=f"limit of stability of {found.method}",
        )  # fmt: skip
    bottom.set_yscale("log")
    bottom.set_ylabel("step size")
    bottom.set_xlabel(f"t − {start:g}" if log and start else "t")
    if log:
        bottom.set_xscale("log")
        bottom.set_xlim(shown(solved.t)[1:2].min(initial=np.inf) * 0.5, abs(end - start))
    else:
        bottom.set_xlim(min(start, end), max(start, end))
    _legend(bottom)
    _bare(top, bottom)
    figure.suptitle(
        f"recommended: {found.recommended}", x=0.01, ha="left", fontsize="medium", fontweight="bold"
    )
    return figure


def _legend(ax: Any) -> Any:
    """Above the axes, in one row, so that it covers nothing; returns its handles."""
    if not ax.lines:
        return []
    legend = ax.legend(
        frameon=False, ncols=3, fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.2, columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip
    return legend.legend_handles


# ---- Solutions and fits --------------------------------------------------------------------------


def solution(
    series: Sequence[tuple[Array, Array, Array, Array]], labels: Sequence[str], ax: Any = None
) -> Any:
    """Components over time; of each sample (line t (K,), y (K, D), output t (T,), y (T, D))."""
    if ax is None:
        ax = pyplot().figure(figsize=(6.4, 3.4), layout="constrained").subplots()
    for k, (line_t, line_y, t, y) in enumerate(series):
        ax.set_prop_cycle(None)
        lines = ax.plot(line_t, line_y, lw=1.2)
        for line, column, label in zip(lines, y.T, labels, strict=True):
            ax.plot(t, column, ".", color=line.get_color(), ms=4)
            if k == 0:
                line.set_label(label)
    if len(labels) <= 12:
        ax.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    ax.set(xlabel="t", ylabel="y")
    _bare(ax)
    return ax


def fit(history: Array, series: Sequence[tuple[Array, Array, Array, Array]]) -> Any:
    """The loss over the steps; predictions (fine t, values) through targets (t, values)."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(history["step"], history["loss"], lw=1, label="training")
    rows = history[np.isfinite(history["validation"])]
    if len(rows):
        left.plot(rows["step"], rows["validation"], lw=1, label="validation")
        left.legend(frameon=False)
    if (history["loss"] > 0).all():
        left.set_yscale("log")
    left.set(xlabel="step", ylabel="loss")
    for fine, pred, t, target in series:
        right.set_prop_cycle(None)
        lines = right.plot(fine, pred, lw=1)
        for line, column in zip(lines, target.T, strict=False):
            right.plot(t, column, ".", color=line.get_color(), ms=4)
    right.set(xlabel="t", ylabel="prediction and target")
    _bare(left, right)
    return figure
