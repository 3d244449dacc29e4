"""Robertson's kinetics: rates nine orders of magnitude apart, learned from noisy data.

Three reactions of three species (H. H. Robertson, 1966), the classic stiff problem:

    A -> B             k1 = 0.04      velocity k1 a
    B + B -> B + C     k2 = 3e7       velocity k2 b^2
    B + C -> A + C     k3 = 1e4       velocity k3 b c

B appears within milliseconds and never makes up more than 4e-5 of the whole, A takes hours to
vanish: data and solution span ten decades of time. Everything is scaled, as in S. Kim, W. Ji,
S. Deng, Y. Ma & C. Rackauckas, Stiff neural ordinary differential equations, Chaos 31 (2021)
093122: species by their size, in the loss as well as in what a network reads; times evenly on a
logarithmic axis; rates as their logarithms. Learned from twelve experiments with one per cent of
noise are

1. the three rate constants, each wrong by a factor of ten at the start, by SciPy's least squares
   with the solution's exact derivatives;
2. the laws themselves, by `nodecore.fit`: three small networks return the logarithms of the
   velocities per molecule (of A, of B, of B) as functions of the scaled reactants of each reaction.
   What turns into what is given; that the first is constant, the second like b and the third like
   c is for them to find. They start as three constants.

Both are tested on forty mixtures that were not among the experiments. All of this is by an implicit
method; the last part is what an explicit one does on the same problem.

Prints the rates, errors and costs, and saves robertson.png beside this file.
"""

import time
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import least_squares

import nodecore as nc

HERE = Path(__file__).parent
COLORS = {"A": "#0072B2", "B": "#D55E00", "C": "#009E73"}
REACTIONS = {"A → B": "#0072B2", "2B → B + C": "#D55E00", "B + C → A + C": "#009E73"}

TRUE = np.array([0.04, 3e7, 1e4])
START = TRUE * [10, 0.1, 0.1]
SCALE = np.array([1.0, 4e-5, 1.0])
NOISE = 0.01  # of the scale
T = np.concatenate([[0.0], np.logspace(-5, 5, 41)])
UNSEEN = np.array([0.6, 0, 0.02])

# B's error is to be small beside B, not beside A
TOLERANCES = {"rtol": 1e-6, "atol": 1e-7 * SCALE}
STIFF = {"method": "kvaerno5", **TOLERANCES}

# What each law depends on: A; B; B and C
READS = [[0], [1], [1, 2]]
NETS = [nc.nn.MLP([len(reads), 8, 1], activation="tanh", final_scale=0.1) for reads in READS]
LAW_START = [0.1, 1e3, 1e3]  # 1/s; B comes and goes within milliseconds


# ---- The two models. The state is y = (a, b, c). -------------------------------------------------


def turnover(velocities):
    first, second, third = velocities
    return np.stack([third - first, first - second - third, second])


def mass_action(y, log_rates):
    k = np.exp(log_rates)
    a, b, c = y
    return np.stack([k[0] * a, k[1] * b**2, k[2] * b * c])


def learned(y, params):
    """The same with laws of the networks; y of shape (3,) or (3, n)."""
    scaled = 1 + np.log(np.maximum(y.T / SCALE, 0) + 1e-4) / 3
    per_molecule = [
        np.exp(net(p, scaled[..., reads])[..., 0])
        for net, p, reads in zip(NETS, params, READS, strict=True)
    ]
    a, b, _ = y
    return np.stack([per_molecule[0] * a, per_molecule[1] * b, per_molecule[2] * b])


def kinetics(t, y, log_rates):
    return turnover(mass_action(y, log_rates))


def network(t, y, params):
    return turnover(learned(y, params))


def observe(t, y, params, args):
    return y / SCALE


# ---- Data and fits -------------------------------------------------------------------------------


def mixtures(count, seed):
    """Initial states. Some hold no B, or no C, or no A, and the first is A alone."""
    rng = np.random.default_rng(seed)
    a = 10 ** rng.uniform(-1.5, 0, count)
    b = 1e-4 * rng.uniform(0, 1, count)
    c = 10 ** rng.uniform(-3, 0, count)
    a[0], b[::2], c[::4], a[3::4] = 1, 0, 0, 0
    return np.stack([a, b, c], axis=1)


def truth(y0, t):
    """The exact solution, scaled."""
    options = {"method": "radau5", "rtol": 1e-10, "atol": 1e-12 * SCALE}
    return nc.solve(kinetics, y0, t, np.log(TRUE), **options).y / SCALE


def measure(y0):
    exact = truth(y0, T)
    data = exact + NOISE * np.random.default_rng(0).normal(size=exact.shape)
    data[:, 0] = exact[:, 0]  # what was put in is known
    return data


def fit_rates(y0, data):
    """SciPy's result of least squares in the logarithms of the rates, by exact derivatives."""

    def solve(log_rates):
        return nc.solve(kinetics, y0, T, log_rates, adjoint="discrete", **STIFF)

    def residuals(log_rates):
        return ((solve(log_rates).y / SCALE - data)[:, 1:] / NOISE).ravel()

    def jacobian(log_rates):
        return (solve(log_rates).jacobian("params") / SCALE[:, None])[:, 1:].reshape(-1, 3) / NOISE

    return least_squares(residuals, np.log(START), jacobian)


def fit_laws(y0, data, progress=True):
    start = [net.init(seed=k) for k, net in enumerate(NETS)]
    for params, constant in zip(start, LAW_START, strict=True):
        params["b2"][:] = np.log(constant)
    return nc.fit(
        network, start, y0, T, data, observe=observe, solve=STIFF, steps=600,
        optimizer=nc.optim.Adam(lambda step: 0.05 * 0.5 ** (step / 120)), progress=progress,
    )  # fmt: skip


def print_rates(fit, y0, seconds):
    spread = np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac)))
    print("\nThree rate constants, by least squares")
    print_error(lambda y0, t: nc.solve(kinetics, y0, t, fit.x, **STIFF).y / SCALE, y0)
    print(f"  cost       {fit.nfev} solves and {fit.njev} Jacobians in {seconds:.2g} s")
    print("             true       start      found      error     standard error")
    for k in range(3):
        found = np.exp(fit.x[k])
        print(
            f"  k{k + 1}         {TRUE[k]:<10.3g} {START[k]:<10.3g} {found:<10.4g} "
            f"{100 * (found / TRUE[k] - 1):+5.2f} %   {100 * spread[k]:.2f} %"
        )


def print_laws(fit, y0):
    seconds, updates = fit.history["seconds"][-1], len(fit.history)
    print("\nNetworks in place of the three laws")
    print_error(fit.predict, y0)
    print(
        f"  cost       {updates} updates in {seconds:.2g} s: {1e3 * seconds / updates:.2g} ms each "
        f"for {len(y0)} solves of {fit.history['work'].mean() / len(y0):.0f} evaluations"
    )


def print_error(predict, y0):
    inside, outside = (
        np.sqrt(np.mean((predict(y, T) - truth(y, T))[:, 1:] ** 2))
        for y in (y0, mixtures(40, seed=1))
    )
    print(
        f"  error      {inside:.1e} in the experiments, {outside:.1e} in forty unseen ones "
        "(rms, of the scale)"
    )


# ---- An explicit method --------------------------------------------------------------------------


def explicit_and_implicit():
    """Prints what either method does on the true system, and returns `nc.diagnose`'s findings."""
    given = (kinetics, [1.0, 0.0, 0.0], [0.0, T[-1]], np.log(TRUE))
    print("\nThe same equations to t = 1e5, without fitting anything:")
    begin = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", nc.StiffnessWarning)
        try:
            nc.solve(*given, method="tsit5", max_steps=100_000, **TOLERANCES)
        except nc.SolveError as error:
            print(f"  tsit5      {time.perf_counter() - begin:.2g} s, then SolveError: {error}")
    for warning in caught:
        print(f"             StiffnessWarning: {warning.message}")
    for method in ("kvaerno5", "radau5", "rodas5p", "auto"):
        nc.solve(*given, method=method, **TOLERANCES)  # traced and compiled
        begin = time.perf_counter()
        stats = nc.solve(*given, method=method, **TOLERANCES).stats
        print(
            f"  {method:10s} {1e3 * (time.perf_counter() - begin):.2g} ms, "
            f"{stats.accepted + stats.rejected} steps, {stats.nfev} evaluations"
        )
    found = nc.diagnose(*given, **TOLERANCES)
    print(f"  diagnose   {found.reason}")
    return found


# ---- The picture ---------------------------------------------------------------------------------


def draw(y0, data, laws, found, path):
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(7.1, 5.4), layout="constrained")
    axes = figure.subplot_mosaic([["seen", "unseen"], ["velocities", "steps"]])
    fine = np.concatenate([[0.0], np.logspace(-5, 5, 301)])
    dashes = (0, (4, 2))

    for key, start, title in [
        ("seen", y0[0], "one of the experiments"),
        ("unseen", UNSEEN, "a mixture not among them"),
    ]:
        ax = axes[key]
        exact, curve = truth(start, fine), laws.predict(start, fine)
        for k, (name, color) in enumerate(COLORS.items()):
            label = name if SCALE[k] == 1 else f"{name} / {SCALE[k]:.0e}".replace("e-0", "e-")
            if key == "seen":
                ax.plot(T[1:], data[0, 1:, k], "o", ms=3, mfc="white", mec=color, mew=0.7)
            ax.plot(fine[1:], curve[1:, k], color=color, lw=1.5, label=label)
            ax.plot(fine[1:], exact[1:, k], color="0.1", lw=0.8, ls=dashes)
        ax.set(xscale="log", xlim=(T[1], T[-1]), ylim=(-0.06, 1.12))
        ax.set(xlabel="time (s)", ylabel="amount, scaled")
        ax.set_title(title, fontsize=8)
    ax = axes["seen"]
    ax.plot([], [], "o", ms=3, mfc="white", mec="0.3", mew=0.7, label="data")
    ax.plot([], [], color="0.3", lw=1.5, label="networks")
    ax.plot([], [], color="0.1", lw=0.8, ls=dashes, label="exact")

    ax = axes["velocities"]
    y = truth(UNSEEN, fine)[1:].T * SCALE[:, None]
    exact, here = mass_action(y, np.log(TRUE)), learned(y, laws.params)
    for k, (name, color) in enumerate(REACTIONS.items()):
        width = 3 if k == 0 else 1.5  # it comes to be in balance with the last one
        ax.plot(fine[1:], here[k], color=color, lw=width, label=name)
        ax.plot(fine[1:], exact[k], color="0.1", lw=0.8, ls=dashes)
    ax.set(xscale="log", yscale="log", xlim=(T[1], T[-1]), ylim=(1e-8, 1))
    ax.set(xlabel="time (s)", ylabel="velocity (1/s)")
    ax.set_title("the learned laws, on that mixture", fontsize=8)
    ax.legend(frameon=False)

    ax = axes["steps"]
    tried, done = found.explicit, found.implicit
    ax.plot(done.t[1:], done.h[1:], "o-", color="#0072B2", ms=2, lw=0.8, label=done.method)
    ax.plot(tried.t[1:], tried.h[1:], color="#D55E00", lw=2.5, label=tried.method)
    ax.plot(tried.end, tried.h[-1], "x", color="#D55E00", ms=6, mew=1.5)
    ax.text(tried.end, 0.4 * tried.h[-1], f"after {tried.steps:,} steps", ha="right", va="top")
    ax.plot(found.t[1:], found.limits[1:], color="0.1", lw=0.8, ls=dashes, label="stability limit")
    ax.set(xscale="log", yscale="log", xlim=(found.t[1], T[-1]), ylim=(3e-5, 1e5))
    ax.set(xlabel="time (s)", ylabel="step (s)")
    ax.set_title("steps of an explicit and an implicit method", fontsize=8)
    ax.legend(frameon=False)

    for label, key in zip("abcd", axes, strict=True):
        axes[key].set_title(label, loc="left", fontsize=9, fontweight="bold")
    figure.legend(
        *axes["seen"].get_legend_handles_labels(), loc="outside upper center", ncols=6,
        frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=200)


def main():
    y0 = mixtures(12, seed=0)
    data = measure(y0)
    begin = time.perf_counter()
    rates = fit_rates(y0, data)
    print_rates(rates, y0, time.perf_counter() - begin)
    laws = fit_laws(y0, data)
    print_laws(laws, y0)
    found = explicit_and_implicit()

    path = HERE / "robertson.png"
    draw(y0, data, laws, found, path)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    main()
