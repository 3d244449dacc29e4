"""Stability by its smallest example, y' = theta y, and what instability does to training.

The solution y(t) = exp(theta t) decays for every theta < 0. A step of size h multiplies what is
computed by R(z), z = h theta, instead:

    forward Euler       1 + z, which grows as soon as |1 + h theta| > 1, that is h |theta| > 2
    backward Euler      1 / (1 - z), which decays for every step
    trapezoidal rule    (1 + z/2) / (1 - z/2), which decays too, but for large h |theta| ever more
                        slowly and with alternating sign

and an adaptive method chooses h so that R(z) is near exp(z). The first part compares steps of
h = 0.1 with these factors. The second part is training: theta is to be learned from data of
exp(-5 t), starting at theta = -40, where h |theta| = 4. Forward Euler's solution there grows to
3^10 instead of falling to e^-40, and the gradient of a squared error is larger still. Adam divides
by the largest gradients that it remembers, and hardly moves for hundreds of updates afterwards. The
implicit methods get through, and find the theta that is best for their own steps; adaptive steps
find the right one.

Prints the numbers, and saves stability.png beside this file.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import nodecore as nc

HERE = Path(__file__).parent

# name: options of solve, color, dashes
METHODS = {
    "forward Euler": ({"method": "euler", "steps": 1}, "#D55E00", "-"),
    "backward Euler": ({"method": "backward_euler", "steps": 1}, "#0072B2", "-"),
    "trapezoidal rule": ({"method": "trapezoid", "steps": 1}, "#009E73", "-"),
    "adaptive (tsit5)": ({"method": "tsit5"}, "0.2", (0, (4, 2))),
}
H = 0.1
T = np.linspace(0.0, 1.0, 11)  # one fixed step between neighbours
TRUE, START = -5.0, -40.0
TARGET = np.exp(TRUE * T)[:, None]


def field(t, y, params, theta):
    return theta * y


def solve(theta, options, **more):
    """y (B, 11, 1) for the thetas of a batch."""
    return nc.solve(field, np.ones((len(theta), 1)), T, args=theta, **options, **more)


def gradients(theta, options):
    """d/dtheta of the mean squared distance to the data, for each theta of a batch."""
    sol = solve(theta, options, adjoint="discrete")
    targets = np.broadcast_to(TARGET, sol.y.shape)
    return sol.value_and_grad(lambda y, y_data: np.sum((y - y_data) ** 2) / len(T), targets)[1].args


def learn(options):
    """theta after each update, from START; it is written as -exp(p), so that it stays negative."""
    path = [START]
    nc.fit(
        lambda t, y, p: -np.exp(p) * y, np.log(-START), [1.0], T, TARGET,
        optimizer=nc.optim.Adam(0.05), steps=400, solve=options, progress=False,
        callbacks=[lambda step: path.append(-np.exp(float(step.params)))],
    )  # fmt: skip
    return np.array(path)


# ---- The picture ---------------------------------------------------------------------------------


def lines(ax, curves, x):
    for (name, (_, color, dashes)), y in zip(METHODS.items(), curves, strict=True):
        if y is not None:
            ax.plot(x, y, color=color, ls=dashes, lw=1.4, label=name)


def draw(thetas, slopes, paths, path):
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(7.1, 5.2), layout="constrained")
    axes = figure.subplot_mosaic([["factor", "solution"], ["gradient", "training"]])

    ax = axes["factor"]
    z = np.linspace(0, 5, 501)
    ax.axhspan(1, 2.2, color="0.93", lw=0)
    ax.text(4.9, 1.05, "grows", ha="right", va="bottom")
    stepped = [options["method"] for options, _, _ in list(METHODS.values())[:3]]
    lines(ax, [*(np.abs(nc.stability(name).R(-z)) for name in stepped), None], z)
    ax.plot(z, np.exp(-z), color="0.6", lw=2.5, zorder=0, label="exact")
    ax.set(xlim=(0, 5), ylim=(0, 2.2), xlabel=r"$h\,|\theta|$")
    ax.set_ylabel(r"factor of a step, $|R(h\theta)|$")
    ax.set_title("what a step does", fontsize=8)

    ax = axes["solution"]
    fast = np.array([-25.0])
    fine = np.linspace(0, 1, 301)
    ax.plot(fine, np.exp(fast * fine), color="0.6", lw=2.5, zorder=0)
    for options, color, dashes in METHODS.values():
        y = solve(fast, options).y[0, :, 0]
        ax.plot(T, y, color=color, ls=dashes, lw=1.2, marker="o", ms=3)
    ax.set(xlabel="t", ylabel="y", ylim=(-4.5, 4.5), xlim=(-0.02, 1.02))
    ax.set_title(r"$\theta = -25$, steps of 0.1", fontsize=8)

    ax = axes["gradient"]
    lines(ax, np.abs(slopes), thetas)
    ax.axvline(-2 / H, color="0.8", lw=0.8, zorder=0)
    ax.text(-2 / H - 0.4, 1e9, r"$|1 + h\theta| > 1$", ha="right")
    ax.set_yscale("log")
    ax.set(xlabel=r"$\theta$", ylabel="gradient of the loss (size)", ylim=(1e-6, 1e13))
    ax.set_xlim(-60, 0)
    ax.set_title("what training is told", fontsize=8)

    ax = axes["training"]
    ax.axhline(TRUE, color="0.6", lw=2.5, zorder=0)
    lines(ax, paths, np.arange(len(paths[0])))
    ax.set(xlabel="update", ylabel=r"$\theta$", xlim=(0, 400))
    ax.set_title("what training makes of it", fontsize=8)

    for label, key in zip("abcd", axes, strict=True):
        axes[key].set_title(label, loc="left", fontsize=9, fontweight="bold")
    handles, labels = axes["factor"].get_legend_handles_labels()
    last = axes["gradient"].get_legend_handles_labels()
    figure.legend(
        [*handles[:3], last[0][3], handles[3]], [*labels[:3], last[1][3], labels[3]],
        loc="outside upper center", ncols=5, frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=200)


def main():
    print("One step of h = 0.1 multiplies y by (and should by exp(h theta)):")
    print(f"  {'theta':>6s} {'h theta':>8s} {'exact':>9s}" + "".join(f"{n:>18s}" for n in METHODS))
    for theta in (-5.0, -15.0, -25.0, -40.0):
        row = f"  {theta:6.0f} {H * theta:8.1f} {np.exp(H * theta):9.4f}"
        for options, _, _ in METHODS.values():
            row += f"{solve(np.array([theta]), options).y[0, 1, 0]:18.4f}"
        print(row)

    thetas = np.linspace(-60, -0.25, 240)
    slopes = [gradients(thetas, options) for options, _, _ in METHODS.values()]
    paths = [learn(options) for options, _, _ in METHODS.values()]
    at = int(np.argmin(np.abs(thetas - START)))
    print(f"\nLearning theta = {TRUE:g} from theta = {START:g}:")
    for name, slope, found in zip(METHODS, slopes, paths, strict=True):
        print(
            f"  {name:17s} first gradient {slope[at]:10.2e}, theta after 100 updates "
            f"{found[100]:8.3f}, after 400 {found[-1]:8.4f}"
        )

    path = HERE / "stability.png"
    draw(thetas, slopes, paths, path)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    main()
