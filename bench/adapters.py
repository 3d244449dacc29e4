"""The libraries that are compared, each as a class with the same few methods.

An adapter is made for one case, dtype and number of threads, in a process of its own; it imports
its library there. `forward()` solves, `gradient()` solves and differentiates the loss in all
weights, `train()` makes Adam's updates; they return the library's own arrays, computed to the end.
`outputs`, `gradients` turn those into NumPy.

Each library is used as its documentation shows, in its fastest standard way: everything under `jit`
for jax and diffrax, with weights and initial states as arguments; casadi's functions through the C
compiler; no argument checks turned on; traces of Jacobians from tangents written by hand where
automatic ones would be slower.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
from cases import (
    CACHE,
    ROBERTSON,
    ROBERTSON_SCALE,
    Case,
    negative_log_likelihood,
    numpy_field,
)

DTYPES = {"f32": np.float32, "f64": np.float64}


class Adapter:
    """What all have in common.

    Attributes
    ----------
    name : as in the tables
    module : what is imported, and must be installed
    per_sample : whether each sample has its own step sizes
    """

    name: str
    module: str
    per_sample = False

    def __init__(self, case: Case, dtype: str, threads: int) -> None:
        self.case, self.threads = case, threads
        self.dtype = DTYPES[dtype]
        self.rtol, self.atol = case.rtol, case.atol
        self.setup()

    def setup(self) -> None:
        """Import the library, make its arrays."""
        raise NotImplementedError

    def use_tolerance(self, rtol: float) -> None:
        """Change rtol, and atol in proportion."""
        self.rtol, self.atol = rtol, rtol * (self.case.atol / self.case.rtol)

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        """Why this library cannot solve the case, or is not asked to; None: it can."""
        return None

    def forward(self) -> Any:
        raise NotImplementedError

    def gradient(self) -> tuple[Any, Any]:
        raise NotImplementedError

    def train(self) -> tuple[Any, Any]:
        raise NotImplementedError

    def outputs(self, y: Any) -> np.ndarray:
        """What `forward` returned, as (B, T, D)."""
        y = np.asarray(y, np.float64)
        return np.moveaxis(y, 0, 1) if y.ndim == 3 else y[None]

    def gradients(self, g: Any) -> dict[str, np.ndarray]:
        """The gradients (or trained weights) that `gradient` and `train` return second."""
        return {k: np.asarray(v, np.float64) for k, v in g.items()}

    # the case's arrays in this dtype; without a batch axis where there is one trajectory
    def array(self, a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a, self.dtype)

    @property
    def y0(self) -> np.ndarray:
        y0 = self.array(self.case.y0)
        return y0[0] if len(y0) == 1 else y0

    @property
    def target(self) -> np.ndarray | None:
        """Shaped as the outputs of `forward`: times first."""
        target = self.case.target
        if target is None:
            return None
        return self.array(target[0] if len(target) == 1 else np.moveaxis(target, 0, 1))


class Nodecore(Adapter):
    """Where stiff: the steps that cost least, and those whose gradient is the most exact."""

    name, module, per_sample = "nodecore", "nodecore", True
    memory: str | None = None
    stiff = {"forward": "rodas5p", "gradient": "radau5"}

    def setup(self) -> None:
        import nodecore as nc

        self.nc = nc
        self.fun = nc.field(numpy_field(self.case))
        self.weights = {k: self.array(v) for k, v in self.case.weights.items()}
        self.start, self.t = self.y0, self.case.t
        one = len(self.case.y0) == 1
        self.constants = {k: v[0] if one else v for k, v in self.case.constants.items()} or None
        target = self.case.target
        if target is None:
            self.loss, self.data = negative_log_likelihood, ()
        else:
            target = target[0] if len(target) == 1 else target
            self.loss, self.data = nc.losses.mse, (self.array(target),)
        self.adjoint = nc.Discrete(memory=self.memory)

    def options(self, what: str = "forward") -> dict[str, Any]:
        method = self.stiff[what] if self.case.stiff else self.case.method
        if self.case.adaptive:
            how = {"rtol": self.rtol, "atol": self.atol}
        else:
            how = {"steps": self.case.steps}
        return {"method": method, "threads": self.threads, **how}

    def solve(self, what: str, adjoint: Any = None) -> Any:
        return self.nc.solve(
            self.fun, self.start, self.t, self.weights, self.constants, adjoint=adjoint,
            **self.options(what),
        )  # fmt: skip

    def forward(self) -> Any:
        return self.solve("forward").y

    def gradient(self) -> tuple[Any, Any]:
        sol = self.solve("gradient", self.adjoint)
        value, g = sol.value_and_grad(self.loss, *self.data)
        return value, g.params

    def train(self) -> tuple[Any, Any]:
        result = self.nc.fit(
            self.fun, self.weights, self.start, self.t, *self.data,
            optimizer=self.nc.optim.Adam(self.case.learning_rate), steps=self.case.updates,
            solve=self.options(), progress=False,
        )  # fmt: skip
        return result.history["loss"][-1], result.params

    def outputs(self, y: Any) -> np.ndarray:
        y = np.asarray(y, np.float64)
        return y if y.ndim == 3 else y[None]


class NodecoreBudget(Nodecore):
    """The gradient within the case's budget of memory."""

    name = "nodecore, memory budget"

    def setup(self) -> None:
        self.memory = self.case.memory
        super().setup()

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return None if case.memory else "no budget in this case"


class _NodecoreStiff(Nodecore):
    """One implicit method for all; beside `Nodecore`, and never its rival."""

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return None if case.stiff else "for the stiff cases"


def _nodecore_by(method: str) -> type[Adapter]:
    attributes = {"name": f"nodecore, {method}", "stiff": dict.fromkeys(Nodecore.stiff, method)}
    return type(f"Nodecore_{method}", (_NodecoreStiff,), attributes)


NODECORE_BY = [_nodecore_by(method) for method in ("kvaerno5", "rodas5p", "radau5", "auto")]


# ---- PyTorch ------------------------------------------------------------------------------------


class _Torch(Adapter):
    def setup(self) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(self.threads)
        self.module_ = importlib.import_module(self.module)
        case, layers = self.case, len(self.case.weights) // 2

        class Field(torch.nn.Module):
            def __init__(self, weights: dict[str, np.ndarray]) -> None:
                super().__init__()
                for k, v in weights.items():
                    self.register_parameter(k, torch.nn.Parameter(torch.tensor(v)))

            def forward(self, t: Any, y: Any) -> Any:
                p = [
                    (getattr(self, f"W{k + 1}"), getattr(self, f"b{k + 1}")) for k in range(layers)
                ]
                x = y[..., :-1] if case.flow else y
                if case.inputs == "y^3":
                    x = x**3
                elif case.inputs == "[y, t]":
                    # t is a scalar, or one time a sample
                    x = torch.cat([x, t.to(x.dtype).expand(x.shape[:-1]).unsqueeze(-1)], -1)
                tangents = []
                for k, (w, b) in enumerate(p):
                    x = x @ w + b if x.ndim == 1 else torch.addmm(b, x, w)
                    if case.flow:
                        tangents = [w[0], w[1]] if k == 0 else [v @ w for v in tangents]
                    if k < layers - 1:
                        x = torch.tanh(x)
                        if case.flow:
                            slope = 1 - x * x
                            tangents = [v * slope for v in tangents]
                if case.flow:
                    trace = tangents[0][..., 0] + tangents[1][..., 1]
                    x = torch.cat([x, trace.unsqueeze(-1)], -1)
                return x

        self.field = Field({k: self.array(v) for k, v in self.case.weights.items()})
        self.prepare()

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return "has no implicit method with gradients" if case.stiff else None

    def prepare(self) -> None:
        self.start = self.torch.tensor(self.y0)
        self.t = self.torch.tensor(self.case.t)
        self.goal = None if self.target is None else self.torch.tensor(self.target)

    def solve(self) -> Any:
        """(T, B, D) or (T, D)"""
        raise NotImplementedError

    def loss(self, y: Any) -> Any:
        if self.goal is not None:
            return ((y - self.goal) ** 2).mean()
        z, trace = y[-1, :, :2], y[-1, :, 2]
        return (0.5 * (z * z).sum(-1) + np.log(2 * np.pi) - trace).mean()

    def forward(self) -> Any:
        with self.torch.no_grad():
            return self.solve()

    def gradient(self) -> tuple[Any, Any]:
        value = self.loss(self.solve())
        named = dict(self.field.named_parameters())
        grads = self.torch.autograd.grad(value, list(named.values()))
        return value.detach(), dict(zip(named, grads, strict=True))

    def train(self) -> tuple[Any, Any]:
        torch = self.torch
        with torch.no_grad():
            for k, v in self.case.weights.items():
                getattr(self.field, k).copy_(torch.tensor(v))
        adam = torch.optim.Adam(self.field.parameters(), lr=self.case.learning_rate)
        for _ in range(self.case.updates):
            adam.zero_grad()
            value = self.loss(self.solve())
            value.backward()
            adam.step()
        return value.detach(), {k: v.detach() for k, v in self.field.named_parameters()}


class TorchDiffEq(_Torch):
    """One step size for the batch; backpropagation through the steps."""

    name, module = "torchdiffeq", "torchdiffeq"
    function = "odeint"

    def grid(self, fun: Any, y0: Any, t: Any) -> Any:
        """`steps` equal steps between the times."""
        n = self.case.steps
        s = self.torch.arange(n, dtype=t.dtype) / n
        inner = (t[:-1, None] + (t[1:] - t[:-1])[:, None] * s).reshape(-1)
        return self.torch.cat([inner, t[-1:]])

    def solve(self) -> Any:
        if self.case.adaptive:
            how = {"rtol": self.rtol, "atol": self.atol}
        else:
            how = {"options": {"grid_constructor": self.grid}}
        function = getattr(self.module_, self.function)
        return function(self.field, self.start, self.t, method=self.case.method, **how)


class TorchDiffEqAdjoint(TorchDiffEq):
    """The continuous adjoint, solved backwards."""

    name, function = "torchdiffeq adjoint", "odeint_adjoint"


class TorchOde(_Torch):
    """A step size for each sample; backpropagation through the steps."""

    name, module, per_sample = "torchode", "torchode", True
    compiled = False

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return None if case.method == "dopri5" else f"has no {case.method}"

    def prepare(self) -> None:
        super().prepare()
        if self.start.ndim == 1:
            self.start = self.start[None]
        self.times = self.t.to(self.start.dtype).expand(len(self.start), -1)
        self.use_tolerance(self.rtol)

    def use_tolerance(self, rtol: float) -> None:
        super().use_tolerance(rtol)
        to = self.module_
        term = to.ODETerm(self.field, with_stats=False)
        method = to.Dopri5(term=term)
        controller = to.IntegralController(atol=self.atol, rtol=self.rtol, term=term)
        solver = to.AutoDiffAdjoint(method, controller, backprop_through_step_size_control=False)
        self.solver = solver.to(self.start.dtype)
        if self.compiled:
            method.step = self.torch.compile(method.step)

    def solve(self) -> Any:
        problem = self.module_.InitialValueProblem(self.start, t_eval=self.times)
        y = self.solver.solve(problem).ys
        return y[0] if len(y) == 1 else y.transpose(0, 1)


class TorchOdeCompiled(TorchOde):
    """Its Runge-Kutta step through torch.compile (the whole loop does not compile in minutes)."""

    name, compiled = "torchode compiled", True

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        # compiled anew for each case, which takes minutes: asked where it can be the best
        return super().refuses(case) if case.name in ("S1", "S3a") else "S1 and S3a alone"


# ---- jax ----------------------------------------------------------------------------------------


class _Jax(Adapter):
    def setup(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", self.dtype == np.float64)
        jax.config.update("jax_platforms", "cpu")
        self.jax = jax
        importlib.import_module(self.module)
        put = jax.numpy.asarray
        self.weights = {k: put(self.array(v)) for k, v in self.case.weights.items()}
        given = {k: put(self.array(v)) for k, v in self.case.constants.items()}
        self.constants = {k: v[0] for k, v in given.items()} if len(self.case.y0) == 1 else given
        self.start, self.goal = put(self.y0), self.target
        self.t = put(self.array(self.case.t))
        if self.goal is not None:
            self.goal = put(self.goal)
        self.compile()

    def use_tolerance(self, rtol: float) -> None:
        super().use_tolerance(rtol)
        self.compile()

    def compile(self) -> None:
        """Tolerances are constants of the compiled functions, as they are in users' programs."""
        jax = self.jax
        self.forward_ = jax.jit(lambda w, y0: self.solve(w, y0))
        value_and_grad = jax.value_and_grad(lambda w, y0: self.loss(self.solve(w, y0)))
        self.gradient_ = jax.jit(value_and_grad)

        def update(w: Any, state: Any, y0: Any) -> tuple[Any, Any, Any]:
            step, mean, square = state
            value, g = value_and_grad(w, y0)
            step = step + 1
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, g)
            square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, square, g)
            c1, c2 = 1 - 0.9**step, 1 - 0.999**step
            lr = self.case.learning_rate
            w = jax.tree.map(
                lambda w, m, s: w - lr * (m / c1) / (jax.numpy.sqrt(s / c2) + 1e-8),
                w, mean, square,
            )  # fmt: skip
            return w, (step, mean, square), value

        self.update_ = jax.jit(update)

    def rate(self, t: Any, y: Any, w: Any) -> Any:
        """The field; y (..., D), t a scalar; w may hold constants of one sample."""
        jnp, layers = self.jax.numpy, len(self.case.weights) // 2

        def network(x: Any) -> Any:
            if self.case.inputs == "y^3":
                x = x**3
            elif self.case.inputs == "[y, t]":
                time = jnp.broadcast_to(jnp.asarray(t, x.dtype), (*x.shape[:-1], 1))
                x = jnp.concatenate([x, time], -1)
            for k in range(1, layers + 1):
                x = x @ w[f"W{k}"] + w[f"b{k}"]
                if k < layers:
                    x = jnp.tanh(x)
            return x

        if self.case.inputs == "van der Pol":
            x, z = y[..., 0], y[..., 1]
            fast = (self.constants | w)["mu"] ** 2
            push = network(jnp.stack([x, z / fast], -1))[..., 0]
            return jnp.stack([z, fast * ((1 - x * x) * z - x + 0.1 * push)], -1)
        if self.case.inputs == "Robertson":
            a, b, c = y[..., 0], y[..., 1], y[..., 2]
            rate = jnp.exp(0.2 * network(y * np.array(ROBERTSON_SCALE))) * np.array(ROBERTSON)
            slow, fast, back = rate[..., 0] * a, rate[..., 1] * (b * b), rate[..., 2] * (b * c)
            return jnp.stack([back - slow, slow - back - fast, fast], -1)
        if not self.case.flow:
            return network(y)
        z, unit = y[..., :-1], jnp.eye(2, dtype=y.dtype)
        dz, along = self.jax.linearize(network, z)
        trace = sum(along(jnp.broadcast_to(unit[i], z.shape))[..., i] for i in range(2))
        return jnp.concatenate([dz, trace[..., None]], -1)

    def solve(self, w: Any, y0: Any) -> Any:
        """(T, B, D) or (T, D)"""
        raise NotImplementedError

    def loss(self, y: Any) -> Any:
        jnp = self.jax.numpy
        if self.goal is not None:
            return jnp.mean((y - self.goal) ** 2)
        z, trace = y[-1, :, :2], y[-1, :, 2]
        return jnp.mean(0.5 * jnp.sum(z * z, -1) + np.log(2 * np.pi) - trace)

    def forward(self) -> Any:
        return self.forward_(self.weights, self.start).block_until_ready()

    def gradient(self) -> tuple[Any, Any]:
        return self.jax.block_until_ready(self.gradient_(self.weights, self.start))

    def train(self) -> tuple[Any, Any]:
        zeros = self.jax.tree.map(self.jax.numpy.zeros_like, self.weights)
        w, state = self.weights, (0, zeros, zeros)
        for _ in range(self.case.updates):
            w, state, value = self.update_(w, state, self.start)
        return self.jax.block_until_ready((value, w))


class _PerSample:
    """Each sample's solve under vmap, with its own step sizes; outputs with the times first."""

    per_sample = True

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        if not case.adaptive:
            return "fixed steps: the same as without vmap"
        return "one trajectory" if len(case.y0) == 1 else super().refuses(case)

    def solve(self, w: Any, y0: Any) -> Any:
        one = super().solve
        return self.jax.vmap(lambda y, c: one(w | c, y), out_axes=1)(y0, self.constants)


class JaxOdeint(_Jax):
    """jax.experimental.ode.odeint: one step size for the batch, the continuous adjoint."""

    name, module = "jax odeint", "jax.experimental.ode"

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return None if case.method == "dopri5" else "has dopri5 alone"

    def solve(self, w: Any, y0: Any) -> Any:
        from jax.experimental.ode import odeint

        fun = lambda y, t, w: self.rate(t, y, w)  # noqa: E731
        return odeint(fun, y0, self.t, w, rtol=self.rtol, atol=self.atol)


class JaxOdeintPerSample(_PerSample, JaxOdeint):
    name = "jax odeint, vmap"


class JaxScan(_Jax):
    """A scan over fixed steps, written by hand; backpropagation through the steps."""

    name, module = "jax scan", "jax"

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return "adaptive" if case.adaptive else None

    def solve(self, w: Any, y0: Any) -> Any:
        jax, case = self.jax, self.case
        h = (self.t[1] - self.t[0]) / case.steps

        def step(y: Any, i: Any) -> tuple[Any, None]:
            t = self.t[0] + i * h
            k1 = self.rate(t, y, w)
            k2 = self.rate(t + h / 2, y + h / 2 * k1, w)
            k3 = self.rate(t + h / 2, y + h / 2 * k2, w)
            k4 = self.rate(t + h, y + h * k3, w)
            return y + h / 6 * (k1 + 2 * (k2 + k3) + k4), None

        n = case.total_steps
        index = jax.numpy.arange(n, dtype=y0.dtype).reshape(len(self.t) - 1, case.steps)

        def interval(y: Any, i: Any) -> tuple[Any, Any]:
            y = self.steps(step, y, i)
            return y, y

        _, ys = jax.lax.scan(interval, y0, index)
        return jax.numpy.concatenate([y0[None], ys])

    def steps(self, step: Any, y: Any, index: Any) -> Any:
        return self.jax.lax.scan(step, y, index)[0]


class JaxScanCheckpoints(JaxScan):
    """The same with jax.checkpoint around segments of the square root of the number of steps."""

    name = "jax scan, sqrt checkpoints"

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return "few steps" if case.total_steps < 1000 else super().refuses(case)

    def steps(self, step: Any, y: Any, index: Any) -> Any:
        jax = self.jax
        # the longest segment that divides the interval and is not above the square root
        root = int(np.sqrt(self.case.total_steps))
        length = next(k for k in range(min(root, len(index)), 0, -1) if len(index) % k == 0)
        segment = jax.checkpoint(lambda y, i: jax.lax.scan(step, y, i)[0])
        return jax.lax.scan(lambda y, i: (segment(y, i), None), y, index.reshape(-1, length))[0]


# ---- diffrax ------------------------------------------------------------------------------------


class Diffrax(_Jax):
    """One step size for the batch; the default adjoint, checkpointed backpropagation."""

    name, module = "diffrax", "diffrax"

    def adjoint(self) -> Any:
        return self.diffrax.RecursiveCheckpointAdjoint()

    def stiff(self) -> Any:
        return self.diffrax.Kvaerno5()

    def solver(self) -> tuple[Any, dict[str, Any]]:
        dfx, case = self.diffrax, self.case
        if case.adaptive:
            control = dfx.PIDController(rtol=self.rtol, atol=self.atol)
            options = {"dt0": None, "stepsize_controller": control}
            if case.stiff:
                # the checkpoints are planned for this many: the default where it is enough
                most = {"Robertson": 2**12, "van der Pol": 2**17}[case.inputs]
                return self.stiff(), options | {"max_steps": most}
            return dfx.Dopri5(), options
        # the same steps as everyone's; a few more are allowed, since diffrax sums their sizes
        dt = float(case.t[1] - case.t[0]) / case.steps
        return _diffrax_rk4(), {"dt0": dt, "max_steps": case.total_steps + 16}

    def solve(self, w: Any, y0: Any) -> Any:
        dfx = self.diffrax = importlib.import_module("diffrax")
        solver, options = self.solver()
        return dfx.diffeqsolve(
            dfx.ODETerm(self.rate), solver, self.t[0], self.t[-1], y0=y0, args=w,
            saveat=dfx.SaveAt(ts=self.t), adjoint=self.adjoint(), **options,
        ).ys  # fmt: skip


def _diffrax_rk4() -> Any:
    """The classical method, which diffrax does not bring."""
    import diffrax
    from diffrax import AbstractERK, ButcherTableau, ThirdOrderHermitePolynomialInterpolation

    class RK4(AbstractERK):
        tableau = ButcherTableau(
            c=np.array([0.5, 0.5, 1.0]),
            a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
            b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
            b_error=np.zeros(4),
        )
        interpolation_cls = ThirdOrderHermitePolynomialInterpolation.from_k

        def order(self, terms: diffrax.AbstractTerm) -> int:
            return 4

    return RK4()


class DiffraxPerSample(_PerSample, Diffrax):
    name = "diffrax, vmap"


class _FullNewton:
    """Newton's method with a Jacobian of each iteration, for the default: the first one kept. It
    takes a tenth of the steps on S6r."""

    def stiff(self) -> Any:
        import optimistix

        newton = optimistix.Newton(rtol=self.rtol, atol=self.atol)
        return self.diffrax.Kvaerno5(root_finder=newton)


class DiffraxNewton(_FullNewton, Diffrax):
    name = "diffrax, full Newton"

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        # the joint Jacobian of a batch is dense in diffrax
        return None if case.stiff and len(case.y0) == 1 else "for one stiff trajectory"


class DiffraxNewtonPerSample(_FullNewton, DiffraxPerSample):
    name = "diffrax, full Newton, vmap"

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return super().refuses(case) if case.stiff else "for the stiff cases"


class _DiffraxLong(Diffrax):
    """Other adjoints, asked in the long cases alone."""

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return None if case.total_steps >= 1000 else "for the long cases"


class DiffraxBacksolve(_DiffraxLong):
    name = "diffrax, backsolve"

    def adjoint(self) -> Any:
        return self.diffrax.BacksolveAdjoint()


class DiffraxTenCheckpoints(_DiffraxLong):
    name = "diffrax, 10 checkpoints"

    def adjoint(self) -> Any:
        return self.diffrax.RecursiveCheckpointAdjoint(checkpoints=10)


class DiffraxAllSteps(_DiffraxLong):
    name = "diffrax, all steps kept"

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return "too many steps to keep" if case.total_steps > 10_000 else super().refuses(case)

    def adjoint(self) -> Any:
        return self.diffrax.RecursiveCheckpointAdjoint(checkpoints=self.case.total_steps + 16)


# ---- casadi -------------------------------------------------------------------------------------


class Casadi(Adapter):
    """CVODES on functions compiled to C, one solve a sample, samples over threads.

    The gradient is that of its adjoint sensitivities. Everything is built and compiled at the first
    call, as for jax.
    """

    name, module, per_sample = "casadi CVODES", "casadi", True

    @classmethod
    def refuses(cls, case: Case) -> str | None:
        return None if case.stiff else "for the stiff cases"

    def setup(self) -> None:
        self.ca = importlib.import_module("casadi")
        case, folder = self.case, CACHE / "casadi"
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)  # where casadi leaves what it compiles
        self.flat = np.concatenate([v.ravel() for v in case.weights.values()])
        self.given = np.array(list(case.constants.values())).reshape(-1, len(case.y0))
        self.use_tolerance(self.rtol)

    def use_tolerance(self, rtol: float) -> None:
        super().use_tolerance(rtol)
        self.forward_: Any = None
        self.gradient_: Any = None

    def rate(self, y: Any, p: Any, constants: Any) -> Any:
        """The field of one sample; casadi's matrices are stored by columns: transposed weights."""
        ca, case, w, k = self.ca, self.case, {}, 0
        for name, v in case.weights.items():
            shape = v.shape[::-1] if v.ndim == 2 else (v.size, 1)
            w[name] = ca.reshape(p[k : k + v.size], *shape)
            k += v.size

        def network(x: Any) -> Any:
            layers = len(w) // 2
            for k in range(1, layers + 1):
                x = w[f"W{k}"] @ x + w[f"b{k}"]
                if k < layers:
                    x = ca.tanh(x)
            return x

        if case.inputs == "van der Pol":
            fast = constants[0] ** 2
            push = network(ca.vertcat(y[0], y[1] / fast))
            return ca.vertcat(y[1], fast * ((1 - y[0] ** 2) * y[1] - y[0] + 0.1 * push))
        rate = ca.exp(0.2 * network(y * ca.DM(ROBERTSON_SCALE))) * ca.DM(ROBERTSON)
        slow, fast, back = rate[0] * y[0], rate[1] * y[1] ** 2, rate[2] * y[1] * y[2]
        return ca.vertcat(back - slow, slow - back - fast, fast)

    def solution(self, p: Any) -> Any:
        """(D, B (T - 1)): samples one after the other, their times within."""
        ca, case = self.ca, self.case
        batch, dim = case.y0.shape
        y, weights = ca.SX.sym("y", dim), ca.SX.sym("p", self.flat.size)
        constants = ca.SX.sym("c", len(self.given))
        parameters = ca.vertcat(weights, constants)
        solver = ca.integrator(
            "solver", "cvodes", {"x": y, "p": parameters, "ode": self.rate(y, weights, constants)},
            case.t[0], case.t[1:], {
                "reltol": self.rtol, "abstol": self.atol, "max_num_steps": 1_000_000,
                "jit": True, "compiler": "shell",
                "jit_options": {"flags": ["-O3", "-march=native"], "verbose": False},
            },
        )  # fmt: skip
        if batch > 1:
            solver = solver.map(batch, "thread", self.threads)
        given = ca.vertcat(ca.repmat(p, 1, batch), ca.DM(self.given))
        return solver(x0=ca.DM(case.y0.T), p=given)["xf"]

    def forward(self) -> Any:
        if self.forward_ is None:
            p = self.ca.MX.sym("p", self.flat.size)
            self.forward_ = self.ca.Function("forward", [p], [self.solution(p)])
        return self.forward_(self.flat)

    def gradient(self) -> tuple[Any, Any]:
        if self.gradient_ is None:
            ca, goal = self.ca, self.case.target
            p = ca.MX.sym("p", self.flat.size)
            later = goal[:, 1:].reshape(-1, goal.shape[-1]).T
            first = float(np.sum((self.case.y0 - goal[:, 0]) ** 2))
            loss = (ca.sumsqr(self.solution(p) - ca.DM(later)) + first) / goal.size
            self.gradient_ = ca.Function("gradient", [p], [loss, ca.gradient(loss, p)])
        return self.gradient_(self.flat)

    def outputs(self, y: Any) -> np.ndarray:
        batch, dim = self.case.y0.shape
        later = np.array(y).T.reshape(batch, -1, dim)
        return np.concatenate([self.case.y0[:, None], later], axis=1)

    def gradients(self, g: Any) -> dict[str, np.ndarray]:
        g, k, found = np.array(g).ravel(), 0, {}
        for name, v in self.case.weights.items():
            found[name] = g[k : k + v.size].reshape(v.shape)
            k += v.size
        return found


ALL: dict[str, type[Adapter]] = {
    a.name: a
    for a in (
        Nodecore, NodecoreBudget, *NODECORE_BY,
        TorchDiffEq, TorchDiffEqAdjoint, TorchOde, TorchOdeCompiled,
        JaxOdeint, JaxOdeintPerSample, JaxScan, JaxScanCheckpoints,
        Diffrax, DiffraxPerSample, DiffraxBacksolve, DiffraxTenCheckpoints, DiffraxAllSteps,
        DiffraxNewton, DiffraxNewtonPerSample, Casadi,
    )
}  # fmt: skip
