"""A residual network is Euler's method; what a step size that adapts makes of it.

A residual network whose layers share their weights computes

    x[k+1] = x[k] + f(x[k]),

which is forward Euler with steps of size 1 for dx/dt = f(x). The first part checks this to the last
bit, a loop in NumPy against nodecore's compiled steps. The second part classifies scikit-learn's
handwritten digits (8 by 8 pixels) by one and the same network

    y(0) = encoder(pixels),    dy/dt = f(y) from t = 0 to 1,    scores of classes = readout(y(1)),

trained with one Euler step (a residual network of one block), with four, and with steps that adapt
to each digit. It asks

1. what happens to each when the steps change after training: is it a function of time, or of its
   number of layers?
2. how many evaluations of f each digit takes, and whether digits that are hard to classify take
   more.

Needs scikit-learn for the data (``pip install nodecore[examples]``). Prints accuracies and
evaluations, and saves resnet_is_euler.png beside this file.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import nodecore as nc

HERE = Path(__file__).parent
ORANGE, GREEN, BLUE = "#D55E00", "#009E73", "#0072B2"

FEATURES, HIDDEN = 32, 64
TIME = np.array([0.0, 1.0])
net = nc.nn.MLP([FEATURES, HIDDEN, FEATURES], activation="tanh")


# ---- 1. The same numbers -------------------------------------------------------------------------


def layer(x, W, b):
    """x @ W + b with the sum written out, so that NumPy adds in the order of the kernels."""
    for j in range(len(W)):
        b = b + x[..., j : j + 1] * W[j]
    return b


def block(x, params):
    hidden = np.maximum(layer(x, params["W1"], params["b1"]), 0.0)
    return layer(hidden, params["W2"], params["b2"])


def same_bits(depth=12, samples=1000):
    """Whether a residual network in NumPy and Euler steps give the same bits at every layer."""
    rng = np.random.default_rng(0)
    shapes = {"W1": (8, 16), "b1": (16,), "W2": (16, 8), "b2": (8,)}
    params = {name: 0.3 * rng.standard_normal(shape) for name, shape in shapes.items()}
    x = rng.standard_normal((samples, 8))

    layers = [x]
    for _ in range(depth):
        layers.append(layers[-1] + block(layers[-1], params))

    t = np.arange(depth + 1.0)
    sol = nc.solve(lambda t, y, p: block(y, p), x, t, params, method="euler", dt=1.0)
    return np.array_equal(np.stack(layers, axis=1), sol.y)


# ---- 2. Digits -----------------------------------------------------------------------------------


def field(t, y, params, pixels):
    return net(params["net"], y)


def encoder(params, pixels):
    return pixels @ params["in"]


def readout(t, y, params, pixels):
    return y @ params["out"] + params["bias"]


def cross_entropy(scores, target, mask):
    log_total = np.log(np.sum(np.exp(scores), axis=-1))
    return -np.sum(mask * target * (scores - log_total[..., None])) / np.sum(mask[..., 0])


def train(pixels, labels, steps_of_solve):
    """The network trained with these steps (options of `solve`)."""
    rng = np.random.default_rng(0)
    params = {
        "net": net.init(seed=0),
        "in": rng.standard_normal((64, FEATURES)) / 8,
        "out": rng.standard_normal((FEATURES, 10)) / np.sqrt(FEATURES),
        "bias": np.zeros(10),
    }
    target = np.full((len(labels), 2, 10), np.nan)  # nothing is known at t = 0
    target[:, 1] = 0.95 * np.eye(10)[labels] + 0.005  # smoothed: no score need be infinite
    return nc.fit(
        field, params, None, TIME, target, pixels,
        fit_y0=encoder, observe=readout, loss=cross_entropy,
        optimizer=nc.optim.Adam(lambda step: 0.01 if step < 200 else 0.0025),
        steps=300, batch_size=128, solve=steps_of_solve,
    )  # fmt: skip


def run(fit, pixels, **options):
    """The scores (B, 10) of the classes, and the evaluations of f that each digit took."""
    params = fit.params
    sol = nc.solve(field, encoder(params, pixels), TIME, params, pixels, **options)
    return readout(1.0, sol.y[:, 1], params, pixels), sol.stats.nfev


def accuracy(scores, labels):
    return np.mean(np.argmax(scores, axis=1) == labels)


def surprise(scores, labels):
    """Minus the logarithm of the probability given to the right class: how hard a digit is."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def rank_correlation(x, y):
    """Spearman's."""
    ranks = []
    for values in (x, y):
        _, which, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[which])  # ties share their mean place
    return np.corrcoef(*ranks)[0, 1]


# ---- The picture ---------------------------------------------------------------------------------


def draw_path(ax, params, pixels):
    """Features of one digit: layers of residual networks, and the curve that they are steps of."""
    y0 = encoder(params, pixels)
    fine = np.linspace(0, 1, 201)
    curve = nc.solve(field, y0, fine, params, pixels, rtol=1e-8).y
    change = curve[-1] - curve[0]
    shown = [change.argmax(), np.abs(change).argmin(), change.argmin()]
    for depth, color, marker in ((1, ORANGE, "s"), (4, BLUE, "o")):
        t = np.linspace(0, 1, depth + 1)
        layers = nc.solve(field, y0, t, params, pixels, method="euler", steps=1).y
        lines = ax.plot(t, layers[:, shown], color=color, marker=marker, ms=4, mfc="w", lw=0.9)
        lines[0].set_label(f"{depth} Euler step{'s'[: depth > 1]}")
    ax.plot(fine, curve[:, shown], color="0.2", lw=1.4)[0].set_label("as a function of t")
    ax.set(xlabel="t = layer / depth", ylabel="three features of one digit")
    ax.legend(frameon=False, handlelength=2.4, labelspacing=0.3)
    ax.set_title("layers are Euler steps", fontsize=8)


def draw_depth(ax, depths, correct):
    adaptive = 2 * depths[-1]
    for (name, values), color, marker in zip(
        correct.items(), (ORANGE, BLUE, GREEN), "so^", strict=True
    ):
        errors = 100 * (1 - np.array(values))
        style = {"color": color, "marker": marker, "ms": 4, "mfc": "w"}
        ax.plot(depths, errors[:-1], lw=1.3, label=name, **style)
        ax.plot([adaptive], errors[-1:], **style)
    ax.set_xscale("log", base=2)
    ax.set_xticks([*depths, adaptive], [*map(str, depths), "adaptive"])
    ax.minorticks_off()
    ax.set(xlabel="Euler steps when tested", ylabel="errors on unseen digits (%)", ylim=(0, None))
    ax.legend(frameon=False, title="trained with", title_fontsize=8, alignment="left")
    ax.set_title("depth after training", fontsize=8)


def draw_effort(ax, hardness, evaluations):
    jitter = np.random.default_rng(0).uniform(-2.0, 2.0, len(evaluations))  # they are 6 apart
    ax.plot(hardness, evaluations + jitter, ".", color=GREEN, ms=4, alpha=0.5, mew=0)
    sixths = np.array_split(np.argsort(hardness), 6)
    ax.plot(
        [np.median(hardness[k]) for k in sixths], [np.mean(evaluations[k]) for k in sixths],
        "o-", color="0.2", ms=4, mfc="w", lw=1.3, label="mean of a sixth of the digits",
    )  # fmt: skip
    ax.set_xscale("log")
    ax.set(xlabel="difficulty: surprise at the class (nats)", ylabel="evaluations of f")
    ax.legend(frameon=False)
    ax.set_title("effort against difficulty", fontsize=8)


def draw_digits(ax, images, evaluations):
    order = np.argsort(evaluations, kind="stable")
    canvas = np.zeros((22, 5 * 10))
    for row, which in enumerate((order[:5], order[-5:])):
        for k, i in enumerate(which):
            canvas[12 * row : 12 * row + 8, 10 * k : 10 * k + 8] = images[i]
            ax.text(10 * k + 3.5, 12 * row + 9.2, f"{evaluations[i]}", ha="center", va="center")
    ax.imshow(canvas, cmap="Greys", interpolation="nearest")
    ax.set_axis_off()
    ax.set_title("fewest and most evaluations", fontsize=8)


def main():
    print(f"12 residual blocks and 12 Euler steps have the same bits: {same_bits()}\n")

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    pixels, labels, images = digits.data[order] / 16, digits.target[order], digits.images[order]
    seen, unseen = slice(0, 1347), slice(1347, None)
    pixels = pixels - pixels[seen].mean(axis=0)

    adaptive = {"rtol": 1e-3, "atol": 1e-3}
    ways = {
        "1 Euler step": {"method": "euler", "steps": 1},
        "4 Euler steps": {"method": "euler", "steps": 4},
        "adaptive steps": adaptive,
    }
    depths = [1, 2, 4, 8, 16, 32]
    correct, fits = {}, {}
    print("Right on 450 unseen digits (%), by the steps when tested:")
    print(f"  {'trained with':15s}" + "".join(f"{n:>7d}" for n in depths) + "  adaptive")
    for name, steps in ways.items():
        fit = fits[name] = train(pixels[seen], labels[seen], steps)
        tests = [{"method": "euler", "steps": n} for n in depths] + [adaptive]
        correct[name] = [
            accuracy(run(fit, pixels[unseen], **test)[0], labels[unseen]) for test in tests
        ]
        print(f"  {name:15s}" + "".join(f"{100 * a:7.1f}" for a in correct[name]))

    fit = fits["adaptive steps"]
    print("\nEvaluations of f per digit, of the network trained with adaptive steps:")
    for tol in (1e-1, 1e-2, 1e-3, 1e-5, 1e-7):
        scores, evaluations = run(fit, pixels[unseen], rtol=tol, atol=tol)
        print(
            f"  tolerance {tol:.0e}: {evaluations.min()} to {evaluations.max()}, mean "
            f"{evaluations.mean():.1f}; {100 * accuracy(scores, labels[unseen]):.1f} % right"
        )
    hardness = surprise(scores, labels[unseen])
    print(f"  rank correlation with difficulty: {rank_correlation(hardness, evaluations):+.2f}")
    means = [evaluations[labels[unseen] == digit].mean() for digit in range(10)]
    print("  mean of each class: " + ", ".join(f"{d}: {m:.0f}" for d, m in enumerate(means)))

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(7.1, 5.2), layout="constrained")
    axes = figure.subplot_mosaic([["path", "depth"], ["effort", "digits"]])
    draw_path(axes["path"], fit.params, pixels[unseen][0])
    draw_depth(axes["depth"], depths, correct)
    draw_effort(axes["effort"], hardness, evaluations)
    draw_digits(axes["digits"], images[unseen], evaluations)
    for label, key in zip("abcd", axes, strict=True):
        axes[key].set_title(label, loc="left", fontsize=9, fontweight="bold")
    path = HERE / "resnet_is_euler.png"
    figure.savefig(path, dpi=200)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    main()
