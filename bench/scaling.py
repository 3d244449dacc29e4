"""How time and memory grow: `python bench/scaling.py [--quick]`.

Time against batch, width, steps and threads, memory against steps: each a line that should be
straight, drawn beside a guide of slope one. Where a line bends, the table names the slopes. Writes
scaling.md, scaling.json and scaling.png to bench/results (--quick: to bench/.cache/quick).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import numpy as np
import peers
import report

import nodecore as nc

HERE = Path(__file__).parent
Series = dict[str, list[tuple[float, float]]]


def best(call: Callable[[], Any], seconds: float) -> float:
    """The least time of a call, of at least three."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 10_000):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


class Problem:
    """Fixed steps of RK4 for a dense network; the loss is the mean square at the end."""

    def __init__(self, sizes: list[int], batch: int, steps: int, dtype: Any) -> None:
        net = nc.nn.MLP(sizes)
        self.weights = net.init(seed=0, dtype=dtype)
        self.field = nc.field(lambda t, y, p: net(p, y))
        self.y0 = np.random.default_rng(0).normal(size=(batch, sizes[0])).astype(dtype)
        self.t = np.array([0.0, 1.0])
        self.steps = steps

    def solve(self, threads: int, adjoint: Any = None) -> Any:
        return nc.solve(
            self.field, self.y0, self.t, self.weights, method="rk4", steps=self.steps,
            threads=threads, adjoint=adjoint,
        )  # fmt: skip

    def gradient(self, threads: int, adjoint: Any = "discrete") -> Any:
        sol = self.solve(threads, adjoint)
        sol.vjp(np.ones_like(sol.y))
        return sol

    def times(self, seconds: float, threads: int) -> dict[str, float]:
        return {
            "forward": best(lambda: self.solve(threads), seconds),
            "gradient": best(lambda: self.gradient(threads), seconds),
        }


def steps_up_to(limit: int) -> list[int]:
    """1, 3, 10, 30, ..., limit."""
    values = [m * 10**k for k in range(9) for m in (1, 3)]
    return [v for v in values if v < limit] + [limit]


def against_batch(o: argparse.Namespace) -> Series:
    found: Series = {}
    for dtype in ("float32", "float64"):
        for batch in steps_up_to(1000 if o.quick else 100_000):
            for what, s in Problem([4, 32, 32, 4], batch, 20, dtype).times(o.seconds, 1).items():
                found.setdefault(f"{what}, {dtype}", []).append((batch, s))
    return found


def against_width(o: argparse.Namespace) -> Series:
    found: Series = {}
    for dtype in ("float32", "float64"):
        for width in (4, 8, 16, 32, 64, 128, *(() if o.quick else (256, 512, 1024))):
            p = Problem([16, width, width, 16], 256, 5, dtype)
            flops = 256 * 5 * 4 * 2 * (32 * width + width**2)
            for what, s in p.times(o.seconds, 1).items():
                found.setdefault(f"{what}, {dtype}", []).append((flops, s))
    return found


BUDGETS: dict[str, str | None] = {"all steps": None, "1 MiB": "1 MiB", "128 KiB": "128 KiB"}


def against_steps(o: argparse.Namespace) -> tuple[Series, Series]:
    """Times, and the bytes kept for the backward pass."""
    times: Series = {}
    memory: Series = {}
    for steps in [v for v in steps_up_to(3000 if o.quick else 300_000) if v >= 10]:
        p = Problem([4, 32, 32, 4], 16, steps, "float64")
        times.setdefault("forward", []).append((steps, best(lambda: p.solve(1), o.seconds)))  # noqa: B023
        for label, budget in BUDGETS.items():
            adjoint = nc.Discrete(memory=budget)
            kept = p.gradient(1, adjoint).stats.storage_bytes
            s = best(lambda: p.gradient(1, adjoint), o.seconds)  # noqa: B023
            times.setdefault(f"gradient, {label}", []).append((steps, s))
            memory.setdefault(label, []).append((steps, kept))
    return times, memory


def against_threads(o: argparse.Namespace) -> Series:
    found: Series = {}
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for batch in (64, 512, 4096):
        p = Problem([4, 32, 32, 4], batch, 100, "float64")
        for threads in range(1, cpus + 1):
            for what, s in p.times(o.seconds, threads).items():
                found.setdefault(f"{what}, batch {batch}", []).append((threads, s))
    return found


def bends(points: list[tuple[float, float]], slope: float = 1.0) -> str:
    """The stretches where the slope in logarithms is not near the guide's."""
    parts = []
    for (x1, y1), (x2, y2) in zip(points, points[1:], strict=False):
        local = math.log(y2 / y1) / math.log(x2 / x1)
        if abs(local - slope) > 0.2:
            parts.append((x1, x2, local))
    merged: list[tuple[float, float, list[float]]] = []
    for x1, x2, local in parts:
        if merged and merged[-1][1] == x1:
            merged[-1] = (merged[-1][0], x2, [*merged[-1][2], local])
        else:
            merged.append((x1, x2, [local]))
    return "; ".join(
        f"{x1:,.3g} to {x2:,.3g}: slope {min(s):.2f}"
        + (f" to {max(s):.2f}" if max(s) - min(s) > 0.05 else "")
        for x1, x2, s in merged
    )


PANELS = {
    "batch": ("samples", "seconds", 1.0, "time against batch: 4-32-32-4, 20 steps"),
    "width": ("operations of a solve", "seconds", 1.0, "time against width: 16-w-w-16, batch 256"),
    "steps": ("steps", "seconds", 1.0, "time against steps: 4-32-32-4, batch 16"),
    "memory": ("steps", "bytes", 1.0, "memory of the backward pass against steps"),
    "threads": ("threads", "seconds", -1.0, "time against threads: 4-32-32-4, 100 steps"),
}  # fmt: skip


def draw(found: dict[str, Series], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(14, 8), layout="constrained")
    for panel, (name, (x_label, y_label, slope, title)) in zip(
        panels.flat, PANELS.items(), strict=False
    ):
        for label, points in found[name].items():
            x, y = (np.array(v) for v in zip(*points, strict=True))
            (line,) = panel.loglog(x, y, "o-", ms=3, lw=1.4, label=label)
            end = 0 if slope < 0 else -1
            guide = y[end] * (x / x[end]) ** slope
            if name == "threads":
                panel.set_xticks(x, [f"{v:g}" for v in x], minor=False)
                panel.set_xticks([], minor=True)
            if name != "memory" or label == "all steps":
                panel.loglog(x, guide, ":", color=line.get_color(), lw=1)
        panel.set(xlabel=x_label, ylabel=y_label, title=title)
        panel.grid(alpha=0.3)
        if name != "threads":
            panel.legend(frameon=False, fontsize=8)
    last = panels.flat[-1]
    last.axis("off")
    last.legend(*panels.flat[-2].get_legend_handles_labels(), frameon=False, loc="upper left")
    last.text(0, 0.1, "dotted: guides of slope 1 (threads: -1)", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each point")
    parser.add_argument("--quick", action="store_true", help="does it run? Numbers mean nothing")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.seconds = 0.01
    options.threads, options.rounds = 1, 1
    out = options.out or (cases.CACHE / "quick" if options.quick else HERE / "results")
    out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", nc.PrecisionWarning)

    found: dict[str, Series] = {"batch": against_batch(options), "width": against_width(options)}
    found["steps"], found["memory"] = against_steps(options)
    found["threads"] = against_threads(options)
    about = peers.machine(options)
    text = json.dumps({"machine": about, "series": found}, indent=1)
    (out / "scaling.json").write_text(text + "\n")
    draw(found, out / "scaling.png")
    lines = [
        "# How time and memory grow", "", report.machine_line(about), "",
        "![times and bytes with guides](scaling.png)", "",
        "| line | first | last | where its slope is not the guide's |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, series in found.items():
        show = report.size if name == "memory" else report.duration
        for label, points in series.items():
            (x1, y1), (x2, y2) = points[0], points[-1]
            ends = f"{x1:,.3g}: {show(y1)} | {x2:,.3g}: {show(y2)}"
            lines.append(f"| {name}: {label} | {ends} | {bends(points, PANELS[name][2])} |")
    (out / "scaling.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
