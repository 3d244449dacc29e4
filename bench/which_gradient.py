"""Every adjoint on four problems: the table and the picture of docs/which-gradient.md.

    python bench/which_gradient.py             # measures, rewrites the table and the picture
    python bench/which_gradient.py --repeats 1 # quick and rough
    python bench/which_gradient.py --dry       # prints the table only

Times are of the whole gradient (solve and vjp), the best of several runs on one thread. Kept bytes
are `sol.stats.storage_bytes`; beside them stands the peak of the arrays that the backward pass
makes. Errors are relative to the gradient of a solve by dop853 at rtol 1e-13, for the same
cotangent: the larger of those in y0 and in params.
"""

import argparse
import json
import platform
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import nodecore as nc
from nodecore import tree

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGE = DOCS / "which-gradient.md"
PICTURE = DOCS / "images" / "which-gradient.png"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Problem:
    """A field with its inputs; ``sweep``: solve options from coarse to fine, ``table`` is one."""

    name: str
    what: str
    field: Callable[..., Any]
    y0: np.ndarray
    t: np.ndarray
    params: Any
    table: dict[str, Any]
    sweep: list[dict[str, Any]]
    budgets: tuple[str, ...]
    reference: dict[str, Any] = field(default_factory=lambda: {"rtol": 1e-13, "atol": 1e-14})


def spiral(t, y, p):
    return np.tanh(y**3 @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"]


def chain(t, y, p):
    """Eight pendulums in a row, coupled by springs, slightly damped."""
    x, v = y[:8], y[8:]
    wide = np.pad(x, 1)
    pull = p["spring"] * (wide[2:] - 2 * x + wide[:-2])
    return np.concatenate([v, pull - p["friction"] * v - 0.5 * np.sin(x)])


def damped(t, y, k):
    return -k * (y - np.cos(t))


def van_der_pol(t, y, mu):
    return np.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def tolerances(*exponents: int) -> list[dict[str, Any]]:
    return [{"rtol": 10.0**e, "atol": 10.0 ** (e - 3)} for e in exponents]


def problems() -> list[Problem]:
    rng = np.random.default_rng(0)
    weights = json.loads((HERE / "spiral.json").read_text())
    return [
        Problem(
            "smooth",
            "the spiral of the tutorials: a network 2-50-2 of y^3, 20 samples, t = 0 to 5",
            spiral,
            rng.uniform(-1.2, 1.2, (20, 2)),
            np.linspace(0, 5, 11),
            {k: np.array(v) for k, v in weights.items()},
            *(tolerances(-6)),
            tolerances(-4, -5, -6, -7, -8, -9),
            ("64 KiB", "16 KiB", "4 KiB"),
        ),
        Problem(
            "long",
            "eight coupled pendulums, 8 samples, t = 0 to 100 in 10,000 steps of RK4",
            chain,
            rng.normal(size=(8, 16)),
            np.linspace(0, 100, 11),
            {"spring": np.ones(8), "friction": np.full(8, 0.02)},
            {"method": "rk4", "steps": 1000},
            [{"method": "rk4", "steps": n} for n in (100, 200, 500, 1000, 2000)],
            ("1 MiB", "64 KiB", "8 KiB"),
        ),
        Problem(
            "damped",
            "y' = -k (y - cos t) with k = 5, 20, 50, 8 samples, t = 0 to 10",
            damped,
            rng.normal(size=(8, 3)),
            np.linspace(0, 10, 11),
            np.array([5.0, 20.0, 50.0]),
            *(tolerances(-6)),
            tolerances(-4, -5, -6, -7, -8, -9),
            ("64 KiB", "16 KiB", "4 KiB"),
        ),
        Problem(
            "mildly stiff",
            "the oscillator of van der Pol with mu = 20, 4 samples, t = 0 to 50",
            van_der_pol,
            np.stack([rng.uniform(1, 2, 4), np.zeros(4)], axis=1),
            np.linspace(0, 50, 11),
            np.array(20.0),
            *(tolerances(-6)),
            tolerances(-4, -5, -6, -7, -8, -9),
            ("64 KiB", "16 KiB", "4 KiB"),
        ),
    ]


def adjoints(budgets: tuple[str, ...]) -> dict[str, Any]:
    return {
        "discrete": "discrete",
        **{f"discrete, {m}": nc.Discrete(memory=m) for m in budgets},
        **{f"continuous, {m}": nc.Continuous(m) for m in ("gauss", "interpolating", "backsolve")},
        "reversible": "reversible",
    }


def flat(value: Any) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in tree.flatten(value)[0]]).astype(float)


@dataclass
class Reference:
    problem: Problem

    def __post_init__(self) -> None:
        p = self.problem
        sol = nc.solve(
            nc.field(p.field), p.y0, p.t, p.params, method="dop853", adjoint="discrete",
            **p.reference,
        )  # fmt: skip
        self.dy = sol.y / sol.y.size  # the gradient of half the mean square
        self.exact = sol.vjp(self.dy)

    def error(self, g: Any) -> float:
        both = [(flat(getattr(g, n)), flat(getattr(self.exact, n))) for n in ("y0", "params")]
        return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in both)


@dataclass
class Row:
    seconds: float = np.nan
    kept: int = 0
    arrays: int = 0
    again: float = 0.0  # steps made again, a step
    error: float = np.nan
    remark: str = ""


def measure(p: Problem, ref: Reference, adjoint: Any, options: Any, repeats: int) -> Row:
    fun = nc.field(p.field)

    def gradient() -> tuple[Any, Any]:
        sol = nc.solve(fun, p.y0, p.t, p.params, adjoint=adjoint, threads=1, **options)
        return sol, sol.vjp(ref.dy)

    row = Row()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", nc.PrecisionWarning)
        try:
            sol, g = gradient()
        except nc.GradientError:
            row.remark = "GradientError: damped modes grow backwards"
            return row
        except nc.SolveError as error:
            row.remark = f"{error.status.name} at t = {error.t:.3g}: the scheme's parasitic mode"
            return row
    if any("backsolve" in str(w.message) for w in caught):
        row.remark = "warns: damped modes grow backwards"
    row.kept, row.error = sol.stats.storage_bytes, ref.error(g)
    row.again = sol.stats.recomputed_steps / int(np.sum(sol.stats.accepted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nc.PrecisionWarning)
        row.seconds = best(gradient, repeats)
        made = nc.solve(fun, p.y0, p.t, p.params, adjoint=adjoint, threads=1, **options)
        tracemalloc.start()
        made.vjp(ref.dy)
        row.arrays = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return row


def best(call: Callable[[], Any], repeats: int) -> float:
    """Seconds a call: the best of ``repeats`` runs of at least 0.1 s."""
    begin = time.perf_counter()
    call()
    n = max(1, round(0.1 / max(time.perf_counter() - begin, 1e-9))) if repeats > 1 else 1
    least = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(n):
            call()
        least = min(least, (time.perf_counter() - begin) / n)
    return least


def size(n: float) -> str:
    for unit, scale in (("MiB", 2**20), ("KiB", 2**10)):
        if n >= 0.97 * scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n:.0f} B"


def table(rows: dict[str, dict[str, Row]], every: list[Problem]) -> str:
    config = nc.show_config()
    out = [
        f"Measured on {time.strftime('%Y-%m-%d')}: {processor()}, {config['isa']}, one thread, "
        f"Python {config['python']}, NumPy {config['numpy']}, nodecore {config['version']}.",
    ]
    for p in every:
        how = ", ".join(f"{k}={v:g}" if k != "method" else str(v) for k, v in p.table.items())
        out += [
            "",
            f"**{p.name.capitalize()}**: {p.what} ({how}).",
            "",
            "| adjoint | time | kept | arrays of the backward pass | made again | error |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for name, r in rows[p.name].items():
            if np.isnan(r.seconds):
                out.append(f"| {name} | | | | | {r.remark} |")
                continue
            error = f"{r.error:.1e}" + (f" ({r.remark})" if r.remark else "")
            out.append(
                f"| {name} | {1e3 * r.seconds:.3g} ms | {size(r.kept)} | {size(r.arrays)} | "
                f"{r.again:.2f} | {error} |"
            )
    return "\n".join(out)


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def picture(curves: dict[str, dict[str, list[Row]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {
        "discrete": ("C0", "o", "-"),
        "budget": ("C0", "o", ":"),
        "continuous, gauss": ("C1", "s", "-"),
        "continuous, interpolating": ("C2", "^", "-"),
        "continuous, backsolve": ("C3", "v", "-"),
        "reversible": ("C4", "D", "-"),
    }
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for ax, (name, lines) in zip(axes.flat, curves.items(), strict=True):
        for label, rows in lines.items():
            color, marker, line = style.get(label, style["budget"])
            good = [r for r in rows if np.isfinite(r.error) and r.error > 0]
            ax.loglog(
                [1e3 * r.seconds for r in good], [r.error for r in good], line, color=color,
                marker=marker, ms=5, label=label, mfc="none" if line == ":" else color,
            )  # fmt: skip
            warned = [r for r in good if r.remark]
            ax.plot(
                [1e3 * r.seconds for r in warned], [r.error for r in warned], "x", color="k", ms=9
            )
        failed = [label for label, rows in lines.items() if any(np.isnan(r.seconds) for r in rows)]
        for i, label in enumerate(failed):
            count = sum(np.isnan(r.seconds) for r in lines[label])
            ax.text(
                0.03, 0.04 + 0.05 * i, f"{label}: {count} of {len(lines[label])} end with an error",
                transform=ax.transAxes, fontsize=8, color=style[label][0],
            )  # fmt: skip
        ax.set_title(name)
        ax.grid(which="major", alpha=0.3)
    for ax in axes[1]:
        ax.set_xlabel("time of a gradient (ms)")
    for ax in axes[:, 0]:
        ax.set_ylabel("relative error of the gradient")
    labels = ["discrete, smallest budget" if x not in style else x for x in lines]
    figure.legend(
        axes[0, 0].get_lines()[: 2 * len(labels) : 2], labels, loc="outside lower center", ncols=3,
        fontsize=8,
    )  # fmt: skip
    figure.suptitle("Error against cost, from loose to tight (black cross: warned)", fontsize=11)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="write no file")
    options = parser.parse_args()
    every = problems()
    rows: dict[str, dict[str, Row]] = {}
    curves: dict[str, dict[str, list[Row]]] = {}
    for p in every:
        ref = Reference(p)
        menu = adjoints(p.budgets)
        rows[p.name] = {
            name: measure(p, ref, a, p.table, options.repeats) for name, a in menu.items()
        }
        drawn = [n for n in menu if n not in {f"discrete, {b}" for b in p.budgets[:-1]}]
        curves[p.name] = {
            name: [
                rows[p.name][name] if o == p.table
                else measure(p, ref, menu[name], o, min(options.repeats, 3))
                for o in p.sweep
            ]
            for name in drawn
        }  # fmt: skip
        print(f"{p.name} done", flush=True)
    text = table(rows, every)
    print(text)
    if options.dry:
        return
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    picture(curves)


if __name__ == "__main__":
    main()
