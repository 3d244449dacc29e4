"""The problems that are measured, in a form that no library owns.

A `Case` is a field, numbers and options: plain NumPy arrays in float64, seeded, the same for every
library. All fields are dense networks with tanh between the layers and a linear last one, applied
to one of three inputs, or what such a network adds to a stiff problem; `S7` adds the log density of
a continuous normalising flow.

| name | field | batch | what it is like |
|---|---|---|---|
| S1 | mlp(y^3), 2-50-2 | 20 | the tutorials' spiral, after training: small |
| S2 | mlp(y), 2-16-16-2 | 1 | one trajectory on a limit cycle, 100 outputs |
| S3a, S3b | mlp([y, t]), 9-64-64-8 | 256, 4096 | samples of very different difficulty |
| S4 | mlp(y), 64-256-256-64 | 512 | fixed steps, matrix products dominate |
| S5-1e3 ... S5-1e5 | mlp(y), 4-32-32-4 | 64 | long: 1,000 to 100,000 steps, memory decides |
| S6v-1, S6v-128 | van der Pol + 0.1 mlp, 2-16-16-1 | 1, 128 | stiff, mu = 100 to 1000, five jumps |
| S6r-1, S6r-128 | Robertson, k exp(0.2 mlp), 3-16-16-3 | 1, 128 | stiff, 25 outputs to 1e4 |
| S7 | mlp([z, t]), 3-64-64-2, and its trace | 1024 | normalising flow, negative log likelihood |
| S8 | that of S1 | 20 | 200 updates of Adam |

`reference` is the tight solution and gradient that errors are measured against; `python cases.py`
computes it for every case and compares it with SciPy's.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CACHE = HERE / ".cache"

Params = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One problem; arrays are float64.

    Attributes
    ----------
    sizes : widths of the network's layers
    inputs : what it is applied to: "y", "y^3" or "[y, t]"; or the stiff problem that it is a part
        of: "van der Pol", "Robertson"
    weights : W1 (in, out), b1, W2, ...
    y0 : (B, D) initial states; one trajectory has B = 1
    t : (T,) output times, the initial one first
    target : (B, T, D) for a mean squared error, None for the negative log likelihood of a flow
    method : "dopri5", adaptive with rtol and atol; "rk4", with `steps` steps between outputs;
        "stiff": adaptive, an implicit method of each library's own
    updates : 0, or the number of Adam's updates with `learning_rate` that are measured as one
    dtypes : those of the table
    reach : {(dtype, what): how many times faster than the best peer it shall be}; what is
        "forward", "gradient", "train", or "train first" with the first call counted
    constants : of each sample, (B,) each
    gradient_goal : an error that the gradient shall have; every library is then measured also at
        the loosest tolerance at which it has it
    memory : a budget for the gradient, measured beside the unlimited one
    budget_rivals : a word in the names of the libraries that the gradient within the budget is
        compared with; "": all
    """

    name: str
    sizes: tuple[int, ...]
    inputs: str
    weights: Params
    y0: np.ndarray
    t: np.ndarray
    target: np.ndarray | None
    method: str = "dopri5"
    rtol: float = 0.0
    atol: float = 0.0
    steps: int = 0
    updates: int = 0
    learning_rate: float = 0.0
    dtypes: tuple[str, ...] = ("f32", "f64")
    reach: dict[tuple[str, str], float] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    gradient_goal: float | None = None
    memory: str | None = None
    budget_rivals: str = ""

    @property
    def adaptive(self) -> bool:
        return self.steps == 0

    @property
    def stiff(self) -> bool:
        return self.method == "stiff"

    @property
    def flow(self) -> bool:
        """Whether the state's last component is the integral of the trace of the Jacobian."""
        return self.target is None

    @property
    def what(self) -> tuple[str, ...]:
        """What is timed."""
        return ("train",) if self.updates else ("forward", "gradient")

    @property
    def total_steps(self) -> int:
        """Of one trajectory, where they are fixed."""
        return self.steps * (len(self.t) - 1)

    def digest(self) -> str:
        """Of everything that the reference depends on."""
        h = hashlib.sha256(repr((self.sizes, self.inputs, self.updates)).encode())
        arrays = (*self.weights.values(), self.y0, self.t, self.target, *self.constants.values())
        for a in arrays:
            h.update(b"none" if a is None else np.ascontiguousarray(a).tobytes())
        if self.updates:
            h.update(repr(self.learning_rate).encode())
        return h.hexdigest()[:16]


def dense(sizes: tuple[int, ...], seed: int, gain: float, bias: float) -> Params:
    """Normal weights with deviation gain / sqrt(inputs), normal biases with deviation `bias`."""
    rng = np.random.default_rng(seed)
    params = {}
    for k, (n_in, n_out) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        params[f"W{k}"] = rng.normal(size=(n_in, n_out)) * (gain / np.sqrt(n_in))
        params[f"b{k}"] = rng.normal(size=n_out) * bias
    return params


def _targets(seed: int, y0: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(y0), len(t), y0.shape[1]))


# ---- The cases ----------------------------------------------------------------------------------

_SPIRAL = np.array([[-0.1, 2.0], [-2.0, -0.1]])
_SPIRAL_WEIGHTS = HERE / "spiral.json"


@functools.cache
def _spiral_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Initial states, times and exact solutions of y' = y^3 A."""
    from scipy.integrate import solve_ivp

    rng = np.random.default_rng(10)
    radius, angle = rng.uniform(0.5, 2.0, 20), rng.uniform(0.0, 2 * np.pi, 20)
    y0 = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    t = np.linspace(0.0, 0.25, 10)
    exact = [
        solve_ivp(lambda _, y: y**3 @ _SPIRAL, (t[0], t[-1]), y, "DOP853", t, rtol=1e-12).y.T
        for y in y0
    ]
    return y0, t, np.array(exact)


def _s1() -> Case:
    y0, t, exact = _spiral_data()
    weights = {k: np.array(v) for k, v in json.loads(_SPIRAL_WEIGHTS.read_text()).items()}
    # noisy data: at the bottom of an exact fit the gradient would be rounding
    target = exact + 0.1 * _targets(11, y0, t)
    return Case(
        "S1", (2, 50, 2), "y^3", weights, y0, t, target, rtol=1e-7, atol=1e-9,
        reach={("f32", "forward"): 5, ("f32", "gradient"): 15,
               ("f64", "forward"): 5, ("f64", "gradient"): 15},
    )  # fmt: skip


def _s2() -> Case:
    sizes, y0, t = (2, 16, 16, 2), np.array([[1.0, -0.5]]), np.linspace(0.0, 3.0, 100)
    return Case(
        "S2", sizes, "y", dense(sizes, 44, 3.0, 0.3), y0, t, _targets(12, y0, t),
        rtol=1e-6, atol=1e-8, dtypes=("f64",),
        reach={("f64", "forward"): 7, ("f64", "gradient"): 15},
    )  # fmt: skip


def _s3(name: str, batch: int, reach: dict[tuple[str, str], float]) -> Case:
    sizes, t = (9, 64, 64, 8), np.array([0.0, 1.5, 3.0, 4.5])
    rng = np.random.default_rng(13)
    y0 = rng.normal(size=(batch, 8)) * 10 ** rng.uniform(-0.5, 1.75, size=(batch, 1))
    return Case(
        name, sizes, "[y, t]", dense(sizes, 3, 2.0, 0.1), y0, t, _targets(14, y0, t),
        rtol=1e-5, atol=1e-6, reach=reach,
    )  # fmt: skip


def _s4() -> Case:
    sizes, t = (64, 256, 256, 64), np.array([0.0, 1.0])
    y0 = np.random.default_rng(15).normal(size=(512, 64))
    return Case(
        "S4", sizes, "y", dense(sizes, 5, 1.5, 0.1), y0, t, _targets(16, y0, t),
        method="rk4", steps=20, dtypes=("f32",),
        reach={("f32", "forward"): 1.5, ("f32", "gradient"): 1.6},
    )  # fmt: skip


def _s5(name: str, steps: int, **options: object) -> Case:
    sizes, t = (4, 32, 32, 4), np.linspace(0.0, 10.0, 11)
    y0 = np.random.default_rng(17).normal(size=(64, 4))
    return Case(
        name, sizes, "y", dense(sizes, 1, 1.5, 0.1), y0, t, _targets(18, y0, t),
        method="rk4", steps=steps // 10, **options,
    )  # fmt: skip


def _s6v(batch: int, reach: dict[tuple[str, str], float]) -> Case:
    """The oscillator over the time t / mu, in which all samples jump at nearly the same times:
    0.75, 1.50, 2.25, 3.01, 3.76."""
    sizes = (2, 16, 16, 1)
    mu = np.geomspace(100.0, 1000.0, batch) if batch > 1 else np.array([1000.0])
    t = np.array([0.0, 0.3, 0.6, 0.9, 1.3, 1.7, 2.1, 2.5, 2.9, 3.2, 3.6, 4.0])
    y0 = np.tile([2.0, -2 / 3], (batch, 1))
    return Case(
        f"S6v-{batch}", sizes, "van der Pol", dense(sizes, 61, 1.5, 0.1), y0, t,
        _targets(62, y0, t), method="stiff", rtol=1e-6, atol=1e-8, dtypes=("f64",), reach=reach,
        constants={"mu": mu}, gradient_goal=0.01,
    )  # fmt: skip


def _s6r(batch: int, reach: dict[tuple[str, str], float]) -> Case:
    sizes, t = (3, 16, 16, 3), np.concatenate([[0.0], np.geomspace(1e-2, 1e4, 25)])
    y0 = np.tile([1.0, 0.0, 0.0], (batch, 1))
    if batch > 1:
        y0[:, ::2] = np.random.default_rng(63).uniform([0.5, 0.0], [1.5, 0.5], (batch, 2))
    return Case(
        f"S6r-{batch}", sizes, "Robertson", dense(sizes, 64, 1.5, 0.1), y0, t,
        _targets(65, y0, t), method="stiff", rtol=1e-6, atol=1e-10, dtypes=("f64",), reach=reach,
    )  # fmt: skip


def _s7() -> Case:
    sizes, t = (3, 64, 64, 2), np.array([0.0, 1.0])
    rng = np.random.default_rng(19)
    radius, angle = 1.5 + 0.1 * rng.normal(size=1024), rng.uniform(0.0, 2 * np.pi, 1024)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(1024)], axis=1)
    return Case(
        "S7", sizes, "[y, t]", dense(sizes, 7, 2.0, 0.1), points, t, None,
        rtol=1e-5, atol=1e-5, dtypes=("f32",),
        reach={("f32", "forward"): 3, ("f32", "gradient"): 6},
    )  # fmt: skip


def _s8() -> Case:
    y0, t, target = _spiral_data()
    return Case(
        "S8", (2, 50, 2), "y^3", dense((2, 50, 2), 8, 1.0, 0.0), y0, t, target,
        rtol=1e-7, atol=1e-9, updates=200, learning_rate=0.01, dtypes=("f64",),
        reach={("f64", "train"): 8, ("f64", "train first"): 80},
    )  # fmt: skip


_CASES: dict[str, Callable[[], Case]] = {
    "S1": _s1,
    "S2": _s2,
    "S3a": lambda: _s3("S3a", 256, {
        ("f32", "forward"): 2.5, ("f32", "gradient"): 5,
        ("f64", "forward"): 2.5, ("f64", "gradient"): 5,
    }),
    "S3b": lambda: _s3("S3b", 4096, {
        ("f32", "forward"): 2.3, ("f32", "gradient"): 3.5,
        ("f64", "forward"): 1.9, ("f64", "gradient"): 3,
    }),
    "S4": _s4,
    "S5-1e3": lambda: _s5("S5-1e3", 1000, reach={
        ("f32", "forward"): 7, ("f32", "gradient"): 10,
        ("f64", "forward"): 4, ("f64", "gradient"): 8,
    }),
    "S5-1e4": lambda: _s5("S5-1e4", 10_000, dtypes=("f64",), memory="1 MiB",
                            budget_rivals="10 checkpoints", reach={
        ("f64", "forward"): 3.8, ("f64", "gradient"): 8, ("f64", "gradient within budget"): 20,
    }),
    "S5-1e5": lambda: _s5("S5-1e5", 100_000, dtypes=("f64",), memory="16 MiB", reach={
        ("f64", "forward"): 3.5, ("f64", "gradient within budget"): 7,
    }),
    "S6v-1": lambda: _s6v(1, {("f64", "forward"): 4, ("f64", "gradient to goal"): 10}),
    "S6v-128": lambda: _s6v(128, {("f64", "forward"): 12, ("f64", "gradient to goal"): 25}),
    "S6r-1": lambda: _s6r(1, {("f64", "forward"): 3, ("f64", "gradient"): 8}),
    "S6r-128": lambda: _s6r(128, {("f64", "forward"): 12, ("f64", "gradient"): 20}),
    "S7": _s7,
    "S8": _s8,
}  # fmt: skip


def names() -> list[str]:
    """All cases, in the order of the tables."""
    return list(_CASES)


@functools.cache
def get(name: str) -> Case:
    """The case of this name."""
    if name not in _CASES:
        raise SystemExit(f"no case {name!r}; there are {', '.join(_CASES)}")
    return _CASES[name]()


# ---- The field and the losses in NumPy, as nodecore takes them ----------------------------------


def network(params: Params, x: np.ndarray) -> np.ndarray:
    """The dense network; x (..., inputs)."""
    layers = len(params) // 2
    for k in range(1, layers + 1):
        x = x @ params[f"W{k}"] + params[f"b{k}"]
        if k < layers:
            x = np.tanh(x)
    return x


ROBERTSON = (0.04, 3e7, 1e4)
ROBERTSON_SCALE = (1.0, 1e4, 1.0)


def van_der_pol(t, y, params, constants):
    """mu^2 as the factor of the fast equation; the network sees both variables of order one."""
    x, z = y
    fast = constants["mu"] ** 2
    push = network(params, np.stack([x, z / fast]))[0]
    return np.stack([z, fast * ((1 - x * x) * z - x + 0.1 * push)])


def robertson(t, y, params):
    a, b, c = y
    rate = np.exp(0.2 * network(params, y * np.array(ROBERTSON_SCALE)))
    slow, fast, back = (k * r for k, r in zip(ROBERTSON, rate, strict=True))
    slow, fast, back = slow * a, fast * (b * b), back * (b * c)
    return np.stack([back - slow, slow - back - fast, fast])


def numpy_field(case: Case) -> Callable[..., np.ndarray]:
    """``f(t, y, params)`` for one sample, or ``f(t, y, params, constants)``."""
    if case.stiff:
        return van_der_pol if case.constants else robertson

    def rate(t, y, params):
        if case.inputs == "y^3":
            y = y**3
        elif case.inputs == "[y, t]":
            y = np.concatenate([y, np.reshape(t, (1,))])
        return network(params, y)

    if not case.flow:
        return rate

    def with_trace(t, y, params):
        import nodecore as nc

        z, trace = nc.divergence(lambda z: rate(t, z, params))(y[:-1])
        return np.concatenate([z, np.reshape(trace, (1,))])

    return with_trace


def negative_log_likelihood(y: np.ndarray) -> np.ndarray:
    """Of data at the first time whose image at the last one is standard normal; y (B, T, 3)."""
    z, trace = y[:, -1, :2], y[:, -1, 2]
    return np.mean(0.5 * np.sum(z**2, axis=-1) + np.log(2 * np.pi) - trace)


# ---- The reference ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """The tight solution `y` (B, T, D) and gradient `g`; of a training, the final weights `g`.

    `check_y` and `check_g` are the relative differences to SciPy's, of up to 4 samples.
    """

    y: np.ndarray
    g: Params
    loss: float
    check_y: float
    check_g: float


def reference(case: Case) -> Reference:
    """Computed once: DOP853 at rtol 1e-13 in float64, where stiff radau5 at 1e-11; kept in
    `.cache`."""
    path = CACHE / f"{case.name.split('-')[0]}-{case.digest()}.npz"
    if path.exists():
        with np.load(path) as f:
            g = {k: f[k] for k in case.weights}
            return Reference(f["y"], g, *map(float, f["scalars"]))
    found = _train_tightly(case) if case.updates else _solve_tightly(case)
    path.parent.mkdir(exist_ok=True)
    scalars = np.array([found.loss, found.check_y, found.check_g])
    np.savez(path, y=found.y, scalars=scalars, **found.g)
    return found


_TIGHT = {"method": "dop853", "rtol": 1e-13, "atol": 1e-14}


def _solve_tightly(case: Case) -> Reference:
    import nodecore as nc

    fun, weights, tight = nc.field(numpy_field(case)), case.weights, _TIGHT
    if case.stiff:
        tight = {"method": "radau5", "rtol": 1e-11, "atol": 1e-11 * case.atol / case.rtol}

    def gradient(y0, target, constants):
        sol = nc.solve(
            fun, y0, case.t, weights, constants or None, adjoint=nc.Discrete(memory="1 GiB"),
            batch=True, **tight,
        )  # fmt: skip
        data = () if target is None else (target,)
        loss = negative_log_likelihood if target is None else nc.losses.mse
        return sol.y, *sol.value_and_grad(loss, *data)

    y, loss, g = gradient(case.y0, case.target, case.constants)
    few = np.linspace(0, len(y) - 1, min(4, len(y))).astype(int)
    target = None if case.target is None else case.target[few]
    constants = {k: v[few] for k, v in case.constants.items()}
    _, _, g_few = gradient(case.y0[few], target, constants)
    check_y, check_g = _scipy_differences(case, few, y[few], g_few.params)
    return Reference(y, dict(g.params), float(loss), check_y, check_g)


def _train_tightly(case: Case) -> Reference:
    import nodecore as nc

    result = nc.fit(
        numpy_field(case), case.weights, case.y0, case.t, case.target,
        optimizer=nc.optim.Adam(case.learning_rate), steps=case.updates, solve=_TIGHT,
        progress=False,
    )  # fmt: skip
    y = np.asarray(result.predict(case.y0, case.t))
    return Reference(y, dict(result.params), float(result.history["loss"][-1]), np.nan, np.nan)


def _scipy_differences(case: Case, few: np.ndarray, y: np.ndarray, g: Params) -> tuple:
    """Relative differences to SciPy: of the solutions, and of the loss' derivative in one direction
    by central differences."""
    from scipy.integrate import solve_ivp

    fun = _plain_field(case)
    how = {"method": "DOP853", "rtol": 1e-13, "atol": 1e-14}
    if case.stiff:
        how = {"method": "LSODA", "rtol": 1e-12, "atol": 1e-12 * case.atol / case.rtol}

    def solutions(weights):
        rows = []
        for b in few:
            more = [{k: v[b] for k, v in case.constants.items()}] if case.constants else []
            rate = lambda t, y, more=more: fun(t, y, weights, *more)  # noqa: E731
            r = solve_ivp(rate, (case.t[0], case.t[-1]), case.y0[b], t_eval=case.t, **how)
            rows.append(r.y.T)
        return np.array(rows)

    def loss(weights):
        values = solutions(weights)
        if case.flow:
            return negative_log_likelihood(values)
        return np.mean((values - case.target[few]) ** 2)

    rng = np.random.default_rng(20)
    direction = {k: rng.normal(size=v.shape) for k, v in case.weights.items()}
    # fourth-order differences
    eps = 1e-3 / np.sqrt(sum(v.size for v in direction.values()))
    at = [
        loss({k: v + c * eps * direction[k] for k, v in case.weights.items()})
        for c in (-2, -1, 1, 2)
    ]
    slope = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * eps)
    ours = sum(np.sum(g[k] * direction[k]) for k in direction)
    scipy_y = solutions(case.weights)
    check_y = np.linalg.norm(y - scipy_y) / np.linalg.norm(scipy_y)
    return float(check_y), float(abs(ours - slope) / abs(slope))


def _plain_field(case: Case) -> Callable[..., np.ndarray]:
    """The field without nodecore: the trace from tangents written by hand."""
    if not case.flow:
        return numpy_field(case)

    def with_trace(t, y, params):
        x, tangents = np.append(y[:-1], t), np.eye(3)[:2]
        layers = len(params) // 2
        for k in range(1, layers + 1):
            x = x @ params[f"W{k}"] + params[f"b{k}"]
            tangents = tangents @ params[f"W{k}"]
            if k < layers:
                x = np.tanh(x)
                tangents = tangents * (1 - x**2)
        return np.append(x, np.trace(tangents))

    return with_trace


def _train_spiral() -> None:
    """Make the weights of S1: those of S8's start after 2000 updates."""
    import nodecore as nc

    case = get("S8")
    result = nc.fit(
        numpy_field(case), case.weights, case.y0, case.t, case.target,
        optimizer=nc.optim.Adam(lambda step: 0.02 * 0.999**step), steps=2000,
        solve={"method": "dopri5", "rtol": 1e-7, "atol": 1e-9}, progress=False,
    )  # fmt: skip
    rounded = {k: np.round(v, 6).tolist() for k, v in result.params.items()}
    _SPIRAL_WEIGHTS.write_text(json.dumps(rounded) + "\n")
    print(result)


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="Compute the references, compare with SciPy.")
    parser.add_argument("cases", nargs="*", default=names())
    parser.add_argument("--train", action="store_true", help="make the weights of S1 again")
    options = parser.parse_args()
    if options.train:
        _train_spiral()
    print(f"{'case':8s} {'loss':>12s} {'|g|':>10s}   differences to SciPy: y, gradient")
    for name in options.cases:
        ref = reference(get(name))
        size = np.sqrt(sum(np.sum(v**2) for v in ref.g.values()))
        print(f"{name:8s} {ref.loss:12.5g} {size:10.4g}   {ref.check_y:.1e}, {ref.check_g:.1e}")


if __name__ == "__main__":
    main()
