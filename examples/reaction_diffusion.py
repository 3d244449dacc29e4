"""Reaction and diffusion, the reaction learned: three ways to take the steps.

A substance diffuses along a line of 128 points and reacts with itself,

    u_t = D u_xx + r(u),    no flux at the ends,

with r unknown: a small network learns it, and D with it, from noisy snapshots of 8 experiments.
Diffusion is linear and stiff, the reaction neither, and a solver may use that or not:

- splitting: half a step of exact diffusion, exp(h/2 A), a step of the reaction by ssprk3, the
  other half (Strang's scheme; the exponential is computed once). The fit goes through it too, so
  the gradient in D is one through the exponential of a matrix;
- implicit-explicit: kencarp4, the diffusion implicit, the reaction explicit, adaptive steps;
- fully implicit: kvaerno5 on the sum, whose Jacobian has both;

and, for comparison, explicit: tsit5, whose steps the diffusion limits. All experiments are solved at
once, each with its own steps where they are adaptive.

Prints what was learned and the errors and times of each, and saves reaction_diffusion.png beside
this file.
"""

import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import nodecore as nc

HERE = Path(__file__).parent
POINTS, EXPERIMENTS = 128, 8
X = np.linspace(0.0, 1.0, POINTS)
DIFFUSION, RATE, THRESHOLD = 0.01, 30.0, 0.3
SNAPSHOTS = np.array([0.0, 0.15, 0.3, 0.45])
T = np.array([0.0, 1.0])

# Second differences; a point beyond each end mirrors its neighbour, so that nothing flows out
LAPLACIAN = np.diag(np.ones(POINTS - 1), 1) + np.diag(np.ones(POINTS - 1), -1) - 2 * np.eye(POINTS)
LAPLACIAN[0, 1] = LAPLACIAN[-1, -2] = 2.0
LAPLACIAN *= (POINTS - 1) ** 2

net = nc.nn.MLP([1, 12, 1], activation="tanh", final_scale=0.1)


def true_reaction(u):
    """Above the threshold u grows to 1, below it decays."""
    return RATE * u * (1 - u) * (u - THRESHOLD)


@nc.field
def reaction(t, u, params):
    return 10.0 * net(params["net"], 2.0 * u[:, None] - 1.0)[:, 0]


def diffusion(params):
    return np.exp(params["log_D"]) * LAPLACIAN


@nc.field
def both(t, u, params):
    return diffusion(params) @ u + reaction(t, u, params)


def initial_states(rng):
    """(EXPERIMENTS, POINTS): three bumps each. Wide and high ones spread, the others die out."""
    shape = (EXPERIMENTS, 3, 1)
    center, width = rng.uniform(0.1, 0.9, shape), rng.uniform(0.02, 0.1, shape)
    height = rng.uniform(0.4, 1.0, shape)
    return np.sum(height * np.exp(-(((X - center) / width) ** 2)), axis=1)


# ---- Learning ------------------------------------------------------------------------------------


def observe_truth(u0, rng):
    def field(t, u):
        return DIFFUSION * (LAPLACIAN @ u) + true_reaction(u)

    exact = nc.solve(field, u0, SNAPSHOTS, method="kvaerno5", rtol=1e-8, atol=1e-10).y
    noisy = exact + 0.01 * rng.standard_normal(exact.shape)
    noisy[:, 0] = u0
    return noisy


def learn(data):
    """D and the reaction, through Strang's scheme with 10 steps between snapshots."""
    start = {"log_D": np.log(0.03), "net": net.init(seed=1)}
    split = nc.Split(nc.linear(diffusion), reaction, methods=("expm", "ssprk3"))
    return nc.fit(
        split,
        start,
        data[:, 0],
        SNAPSHOTS,
        data,
        optimizer=nc.optim.Adam(lambda step: 0.05 if step < 250 else 0.01),
        steps=400,
        solve={"steps": 10},
        progress=False,
    )


# ---- Error against time --------------------------------------------------------------------------


def contestants(params):
    """name: (color, field, [options of solve])"""
    A = diffusion(params)  # known now, so a constant
    split = nc.Split(nc.linear(A), reaction, methods=("expm", "ssprk3"))
    tolerances = [{"rtol": 10.0**-k, "atol": 10.0 ** -(k + 2)} for k in range(1, 7)]
    return {
        "splitting (Strang, expm + ssprk3)": (
            "#0072B2", split, [{"steps": 10 * 2**k} for k in range(7)],
        ),
        "implicit-explicit (kencarp4)": (
            "#009E73", split, [{"method": "kencarp4", **tol} for tol in tolerances],
        ),
        "fully implicit (kvaerno5)": (
            "#D55E00", both, [{"method": "kvaerno5", **tol} for tol in tolerances],
        ),
        "explicit (tsit5)": ("0.5", both, [{"method": "tsit5", **tol} for tol in tolerances]),
    }  # fmt: skip


def work_and_error(field, options, u0, params, reference):
    """Seconds on one thread (the best of five) and the root mean square of the error at the end."""
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        sol = nc.solve(field, u0, T, params, threads=1, **options)
        best = min(best, time.perf_counter() - start)
    return best, np.sqrt(np.mean((sol.y[:, -1] - reference) ** 2))


def at_error(points, error):
    """Seconds that a method needs for an error, on the line between its measurements."""
    seconds, errors = np.array(points).T
    order = np.argsort(errors)
    return np.exp(np.interp(np.log(error), np.log(errors[order]), np.log(seconds[order])))


# ---- The picture ---------------------------------------------------------------------------------


def draw(data, params, results, path):
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(7.1, 5.2), layout="constrained")
    axes = figure.subplot_mosaic(
        [["map", "data", "learned"], ["work"] * 3], height_ratios=[1, 1.25]
    )

    fine = np.linspace(0.0, 1.0, 161)
    sol = nc.solve(both, data[0, 0], fine, params, method="kvaerno5")
    ax = axes["map"]
    ax.spines[["top", "right"]].set_visible(True)
    picture = ax.pcolormesh(X, fine, sol.y, cmap="viridis", shading="gouraud", vmin=0, vmax=1)
    figure.colorbar(picture, ax=ax, label="u", ticks=[0, 0.5, 1])
    ax.set(xlabel="x", ylabel="t")

    ax = axes["data"]
    fitted = nc.solve(both, data[0, 0], SNAPSHOTS, params, method="kvaerno5").y
    for k in range(len(SNAPSHOTS)):
        color = plt.cm.plasma(0.85 * k / (len(SNAPSHOTS) - 1))
        ax.plot(X, data[0, k], ".", ms=2, color=color, alpha=0.5)
        ax.plot(X, fitted[k], color=color, lw=1.3, label=f"t = {SNAPSHOTS[k]:g}")
    ax.set(xlabel="x", ylabel="u", ylim=(-0.05, 1.2))
    ax.legend(frameon=False, loc="upper right", handlelength=1.2)

    ax = axes["learned"]
    u = np.linspace(0, 1, 101)
    ax.axhline(0, color="0.85", lw=0.8)
    ax.plot(u, true_reaction(u), color="0.4", lw=0.9, ls=(0, (4, 2)), label="true")
    ax.plot(u, reaction(0.0, u, params), color="0.1", lw=1.6, label="learned")
    ax.set(xlabel="u", ylabel="r(u)", ylim=(-0.8, 3.6))
    ax.legend(frameon=False, loc="upper left")

    ax = axes["work"]
    for name, (color, points) in results.items():
        seconds, errors = np.array(points).T
        ax.loglog(1e3 * seconds, errors, "o-", ms=3.5, color=color, lw=1.4, label=name)
    ax.set(xlabel="time of a solve on one thread (ms)", ylabel="error at t = 1 (rms)")
    ax.grid(color="0.93", lw=0.7)
    ax.legend(frameon=False)

    for label, key in zip("abcd", axes, strict=True):
        axes[key].set_title(label, loc="left", fontsize=9, fontweight="bold")
    figure.savefig(path, dpi=200)


def main():
    rng = np.random.default_rng(0)
    u0 = initial_states(rng)
    data = observe_truth(u0, rng)
    fit = learn(data)
    params = fit.params
    u = np.linspace(0, 1, 101)
    off = np.sqrt(np.mean((reaction(0.0, u, params) - true_reaction(u)) ** 2))
    print(f"Learned from {data[:, 1:].size} noisy numbers:")
    print(f"  D           {np.exp(params['log_D']):8.5f}  (true: {DIFFUSION})")
    print(
        f"  r(u)        off by {off:.3f} (rms over 0 < u < 1, where it reaches {RATE * 0.085:.1f})"
    )
    print(f"  loss        {fit.history['loss'][-1]:.2e}  (noise: {0.75 * 0.01**2:.1e})")

    tight = {"method": "radau5", "rtol": 1e-9, "atol": 1e-11}
    reference = nc.solve(both, u0, T, params, **tight).y[:, -1]
    results = {}
    for name, (color, field, options) in contestants(params).items():
        results[name] = color, [work_and_error(field, o, u0, params, reference) for o in options]
        print(f"\n{name}")
        for option, (seconds, error) in zip(options, results[name][1], strict=True):
            what = f"{option['steps']} steps" if "steps" in option else f"rtol {option['rtol']:.0e}"
            print(f"  {what:12s} {1e3 * seconds:8.2f} ms   error {error:.1e}")

    split, _, implicit, _ = (points for _, points in results.values())
    print("\nTimes at equal error, fully implicit over splitting:")
    for error in (1e-3, 3e-4, 1e-4):
        print(f"  error {error:.0e}: {at_error(implicit, error) / at_error(split, error):5.1f}")

    path = HERE / "reaction_diffusion.png"
    draw(data, params, results, path)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    main()
