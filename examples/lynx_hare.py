"""Hare and lynx: one half of the theory kept, the other half learned from 21 years of pelts.

The Hudson Bay Company's counts of hare and lynx pelts, 1900-1920, are the classic data of the
Lotka-Volterra equations

    hare' = hare (growth - predation lynx),    lynx' = lynx (reward hare - death).

Here they are fitted twice, on the logarithms of the populations:

1. as they stand: four rates and the two initial populations;
2. as a hybrid: growth and death stay rates, and one small network takes the place of the constants
   in the two interaction terms. It returns log(predation) and log(reward), which may now depend on
   both populations. It starts as the two constants that the first fit found.

All rates are exponentials of what is fitted, so they are positive whatever the optimizer does. Both
models are also fitted to 1900-1915 alone, to see how well they foretell the years left out: 21
points are few, and a network that fits them better need not forecast them better.

Prints the rates and errors, and saves lynx_hare.png beside this file.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import nodecore as nc

HERE = Path(__file__).parent
HARE, LYNX = "#0072B2", "#D55E00"

net = nc.nn.MLP([2, 4, 2], activation="tanh", final_scale=0.1)


# ---- The two models. The state is y = (log hare, log lynx). --------------------------------------


def lotka_volterra(t, y, params):
    rates = np.exp(params["log_rates"])
    growth, predation, death, reward = rates
    hare, lynx = np.exp(y)
    return np.stack([growth - predation * lynx, reward * hare - death])


def interactions(y, params):
    """How fast lynx kill a hare, and how fast hares feed a lynx, in 1/year; y of shape (..., 2)."""
    log_constants = net(params["net"], y - 3.0)  # log populations are about 3
    return np.exp(y[..., 1] + log_constants[..., 0]), np.exp(y[..., 0] + log_constants[..., 1])


def hybrid(t, y, params):
    growth, death = np.exp(params["log_rates"])
    killed, fed = interactions(y, params)
    return np.stack([growth - killed, fed - death])


# ---- The two fits --------------------------------------------------------------------------------


def fit_both(t, populations):
    """Both models fitted to the logarithms of the populations, each with its initial state."""
    target = np.log(populations)

    # A first guess from what the eye sees. Small cycles of Lotka and Volterra's equations have the
    # period 2 pi / sqrt(growth death), here ten years, around the mean populations
    # hare = death / reward and lynx = growth / predation.
    rate = 2 * np.pi / 10
    hare, lynx = populations.mean(axis=0)
    guess = {"log_rates": np.log([rate, rate / lynx, rate, rate / hare])}
    mechanistic = nc.fit(
        lotka_volterra,
        guess,
        target[0],
        t,
        target,
        fit_y0=True,
        optimizer=nc.optim.Adam(lambda step: 0.03 if step < 300 else 0.01),
        steps=500,
    )

    growth, predation, death, reward = mechanistic.params["log_rates"]
    start = {"log_rates": np.array([growth, death]), "net": net.init(seed=0)}
    start["net"]["b2"] = np.array([predation, reward])
    learned = nc.fit(
        hybrid,
        start,
        mechanistic.y0,
        t,
        target,
        fit_y0=True,
        optimizer=nc.optim.Adam(0.02),
        steps=600,
    )
    return mechanistic, learned


def error(fit, y0, t, populations, rows):
    """Root mean square of the error in the logarithms: 0.2 is about 20 per cent."""
    difference = fit.predict(y0, t)[rows] - np.log(populations[rows])
    return np.sqrt(np.mean(difference**2))


def report(name, fit, t, populations):
    rates = np.exp(fit.params["log_rates"])
    names = ["growth", "predation", "death", "reward"] if len(rates) == 4 else ["growth", "death"]
    print(f"\n{name}")
    for key, value in zip(names, rates, strict=True):
        print(f"  {key:10s} {value:8.4f}")
    hare, lynx = np.exp(fit.y0)
    print(f"  in 1900    {hare:.1f} thousand hares, {lynx:.1f} thousand lynx")
    print(f"  error      {error(fit, fit.y0, t, populations, slice(None)):8.3f}  (rms of the log)")


# ---- The picture ---------------------------------------------------------------------------------


def draw(years, populations, mechanistic, learned, path):
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(7.1, 5.0), layout="constrained")
    axes = figure.subplot_mosaic([["time"] * 3, ["phase", "killed", "fed"]])
    fine = np.linspace(0, 35, 1401)
    past = fine <= years[-1] - years[0]
    curve = np.exp(learned.predict(None, fine))
    dashed = np.exp(mechanistic.predict(None, fine))

    ax = axes["time"]
    ax.axvspan(years[-1], years[0] + fine[-1], color="0.95", lw=0)
    for k, (color, label) in enumerate([(HARE, "hare"), (LYNX, "lynx")]):
        ax.plot(years[0] + fine, dashed[:, k], color=color, lw=0.9, ls=(0, (4, 2)))
        ax.plot(years[0] + fine, curve[:, k], color=color, lw=1.6)
        ax.plot(years, populations[:, k], "o", ms=4, mfc="white", mec=color, label=label)
    ax.plot([], [], color="0.3", lw=1.6, label="hybrid")
    ax.plot([], [], color="0.3", lw=0.9, ls=(0, (4, 2)), label="Lotka-Volterra")
    ax.text(years[-1] + 0.3, 0.97, "forecast", va="top", transform=ax.get_xaxis_transform())
    ax.set(xlim=(years[0] - 0.5, years[0] + fine[-1]), ylim=(0, None), xlabel="year")
    ax.set_ylabel("pelts (thousands)")
    ax.legend(ncols=4, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    ax = axes["phase"]
    one_cycle = fine < 10.4  # dashes over dashes would look like a line
    ax.plot(*dashed[one_cycle].T, color="0.4", lw=0.9, ls=(0, (4, 2)))
    ax.plot(*curve[past].T, color="0.1", lw=1.6)
    ax.plot(*curve[~past].T, color="0.1", lw=0.7)
    ax.plot(*populations.T, "o", ms=3.5, mfc="white", mec="0.3")
    ax.set(xlabel="hare (thousands)", ylabel="lynx (thousands)", xlim=(0, None), ylim=(0, None))
    ax.set_title("phase plane", fontsize=8)

    orbit = learned.predict(None, fine)[past]
    killed, fed = interactions(orbit, learned.params)
    _, predation, _, reward = np.exp(mechanistic.params["log_rates"])
    for key, title, rate, constant, k, color, label in [
        ("killed", "predation", killed, predation, 1, LYNX, "hares killed, per hare and year"),
        ("fed", "reward", fed, reward, 0, HARE, "lynx gained, per lynx and year"),
    ]:
        ax = axes[key]
        population = np.exp(orbit[:, k])
        ends = np.array([0, population.max()])
        ax.plot(ends, constant * ends, color="0.4", lw=0.9, ls=(0, (4, 2)), label="mechanistic")
        ax.plot(population, rate, color=color, lw=1.6, label="learned")
        ax.set(xlabel=f"{['hare', 'lynx'][k]} (thousands)", ylabel=label)
        ax.set(xlim=(0, None), ylim=(0, None))
        ax.set_title(title, fontsize=8)
        ax.legend(frameon=False, loc="upper left")

    for label, key in zip("abcd", axes, strict=True):
        axes[key].set_title(label, loc="left", fontsize=9, fontweight="bold")
    figure.savefig(path, dpi=200)


def main():
    data = np.loadtxt(HERE / "data" / "hudson_bay.csv", delimiter=",", skiprows=2)
    years, populations = data[:, 0], data[:, 1:]
    t = years - years[0]

    mechanistic, learned = fit_both(t, populations)
    report("Lotka-Volterra, fitted to 1900-1920", mechanistic, t, populations)
    report("Hybrid, fitted to 1900-1920", learned, t, populations)

    print("\nFitted to 1900-1915 alone:")
    known = years <= 1915
    for name, fit in zip(
        ["Lotka-Volterra", "Hybrid"], fit_both(t[known], populations[known]), strict=True
    ):
        inside, outside = (error(fit, fit.y0, t, populations, rows) for rows in (known, ~known))
        print(f"  {name:15s} error {inside:.3f} there, {outside:.3f} in 1916-1920")

    path = HERE / "lynx_hare.png"
    draw(years, populations, mechanistic, learned, path)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    main()
