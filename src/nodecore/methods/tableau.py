"""Runge-Kutta coefficients as one frozen, self-checking value.

The convention every explicit method follows (*extended FSAL form*; docs/math/
explicit-runge-kutta.md): the stages end with a *step stage* whose row of A is b and whose weight
is zero, so that

    Y_i     = y_n + h sum_j<i A[i, j] k_j,      k_i = f(t_n + c_i h, Y_i)
    y_{n+1} = Y_step = y_n + h sum_i b_i k_i,   k_1 of the next step = k_step

A pair with the FSAL property (dopri5, tsit5, bosh3) has that stage already; to any other method it
is appended, where it costs nothing because the next step needs its derivative anyway. So every
method is stepped, reversed and interpolated by one and the same code.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Tableau:
    """Coefficients of an explicit or diagonally implicit Runge-Kutta method.

    All arrays are float64 and read-only; with `s = n_stages` and `d` the degree of the dense
    output:

    Parameters
    ----------
    name : str
        The registered name.
    order : int
        Order of the step y_{n+1}.
    c : (s,) array
        Nodes, as fractions of the step.
    A : (s, s) array
        Stage weights: strictly lower triangular if explicit.
    b : (s,) array
        Weights of the step; zero for the step stage and the dense-only stages.
    P : (s, d) array
        Dense output: y(t_n + theta h) = y_n + h sum_i b_i(theta) k_i with
        b_i(theta) = sum_k P[i, k] theta^(k+1).
    dense_order : int
        Largest q for which the dense output is exact up to a local error O(h^(q+1)) for every
        theta.
    citation : str
        Where the coefficients come from.
    family : str
        Which stepper runs it: "explicit" or "dirk".
    aliases : tuple of str
        Other names users know it by.
    b_err : (s,) array, optional
        b - b_hat: h sum_i b_err[i] k_i estimates the local error. None: fixed steps only.
    b_err2 : (s,) array, optional
        A second, lower-order estimate. With e = h b_err.k and e2 = h b_err2.k in the scaled norm,
        the error is |e|^2 / sqrt(|e|^2 + 0.01 |e2|^2) (dop853).
    embedded_order : int, optional
        Order of the embedded solution b - b_err.
    error_order : int, optional
        The error used for step-size control is O(h^(error_order + 1)): `embedded_order`, except
        for dop853, whose combined estimate is of higher order than either.
    n_step_stages : int, optional
        Stages a step evaluates, the step stage (the last of them) included. Stages behind it
        serve the dense output alone and are evaluated only on steps that hold an output. Default:
        all.

    Raises
    ------
    ValueError
        If the coefficients contradict each other: A's row sums are not c, b does not sum to 1,
        b_err does not sum to 0, the dense output does not end in b, and so on.
    """

    name: str
    order: int
    c: FloatArray
    A: FloatArray
    b: FloatArray
    P: FloatArray
    dense_order: int
    citation: str
    family: str = "explicit"
    aliases: tuple[str, ...] = ()
    b_err: FloatArray | None = None
    b_err2: FloatArray | None = None
    embedded_order: int | None = None
    error_order: int | None = None
    n_step_stages: int = 0

    def __post_init__(self) -> None:
        for field in ("c", "A", "b", "P", "b_err", "b_err2"):
            value = getattr(self, field)
            if value is not None:
                array = np.array(value, dtype=np.float64, order="C")
                array.flags.writeable = False
                object.__setattr__(self, field, array)
        if self.n_step_stages == 0:
            object.__setattr__(self, "n_step_stages", self.n_stages)
        if self.error_order is None:
            object.__setattr__(self, "error_order", self.embedded_order)
        self._check()

    def _check(self) -> None:
        s = self.n_stages
        step = self.step_stage

        def require(truth: bool, what: str) -> None:
            if not truth:
                raise ValueError(f"tableau {self.name!r}: {what}")

        def close(got: Any, want: Any, scale: Any) -> bool:
            # Coefficients are rounded once each; what remains is that rounding, summed.
            return bool(np.all(np.abs(got - want) <= 8 * _EPS * (1 + np.abs(scale))))

        require(self.A.shape == (s, s) and self.b.shape == (s,), "A must be (s, s), b (s,)")
        require(self.P.ndim == 2 and self.P.shape[0] == s, "P must be (s, degree)")
        require(0 < self.n_step_stages <= s, "n_step_stages must be in 1..s")
        require(not np.triu(self.A, 1).any(), "a stage refers to a later one")
        require(
            close(self.A.sum(axis=1), self.c, np.abs(self.A).sum(axis=1)),
            "the row sums of A are not c",
        )
        require(close(self.b.sum(), 1.0, np.abs(self.b).sum()), "b does not sum to 1")
        require(not self.b[self.n_step_stages :].any(), "b weighs a dense-only stage")
        require(
            (self.b_err is None) == (self.embedded_order is None),
            "b_err and embedded_order come together",
        )
        require(self.b_err2 is None or self.b_err is not None, "b_err2 needs b_err")
        for name in ("b_err", "b_err2"):
            e = getattr(self, name)
            if e is not None:
                require(e.shape == (s,), f"{name} must be (s,)")
                require(close(e.sum(), 0.0, np.abs(e).sum()), f"{name} does not sum to 0")
                require(not e[self.n_step_stages :].any(), f"{name} weighs a dense-only stage")
        require(
            close(self.P.sum(axis=1), self.b, np.abs(self.P).sum(axis=1)),
            "the dense output at theta = 1 is not b",
        )
        if self.family == "explicit":
            require(self.explicit, "an explicit method has a nonzero diagonal")
            require(
                bool(self.c[step] == 1.0)
                and bool(np.array_equal(self.A[step], self.b))
                and bool(self.b[step] == 0.0),
                "not in extended FSAL form: the step stage must have c = 1, a = b and weight 0",
            )
            require(
                self.P.shape[1] == 1 or self.dense_c1,
                "a dense output of degree above 1 must be continuously differentiable",
            )

    def __repr__(self) -> str:
        pair = "" if self.embedded_order is None else f"({self.embedded_order})"
        return f"<Tableau {self.name}: order {self.order}{pair}, {self.n_stages} stages>"

    @property
    def n_stages(self) -> int:
        """All stages, the dense-only ones included."""
        return int(self.c.shape[0])

    @property
    def step_stage(self) -> int:
        """Index of the stage whose argument is y_{n+1}; its derivative is the next step's first."""
        return self.n_step_stages - 1

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.b_err is not None

    @property
    def explicit(self) -> bool:
        """Whether no stage depends on itself."""
        return not np.diagonal(self.A).any()

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage of the step is y_{n+1}."""
        step = self.step_stage
        return bool(self.c[step] == 1.0) and bool(np.array_equal(self.A[step], self.b))

    @property
    def fsal(self) -> bool:
        """Whether the last derivative of a step is the first one of the next."""
        return self.stiffly_accurate and not self.A[0].any()

    @property
    def evaluations(self) -> int:
        """New field evaluations per accepted step, without the dense-only stages."""
        return self.n_step_stages - int(self.fsal)

    @property
    def dense_c1(self) -> bool:
        """Whether the dense output has the slopes k_1 and k_step at its ends."""
        first, last = np.zeros(self.n_stages), np.zeros(self.n_stages)
        first[0], last[self.step_stage] = 1.0, 1.0
        powers = np.arange(1, self.P.shape[1] + 1)
        scale = np.abs(self.P) @ powers
        return np.array_equal(self.P[:, 0], first) and bool(
            np.all(np.abs(self.P @ powers - last) <= 8 * _EPS * (1 + scale))
        )

    def weights(self, theta: npt.ArrayLike) -> FloatArray:
        """Dense-output weights b_i(theta).

        Parameters
        ----------
        theta : array_like
            Fractions of the step, any shape.

        Returns
        -------
        array of shape theta.shape + (s,)
        """
        x = np.asarray(theta, dtype=np.float64)[..., None]
        out: FloatArray = np.zeros(x.shape[:-1] + (self.n_stages,))
        for k in range(self.P.shape[1] - 1, -1, -1):
            out = (out + self.P[:, k]) * x
        return out

    def weights_derivative(self, theta: npt.ArrayLike) -> FloatArray:
        """d b_i / d theta, so that y'(t_n + theta h) = sum_i of it times k_i; as `weights`."""
        x = np.asarray(theta, dtype=np.float64)[..., None]
        out: FloatArray = np.zeros(x.shape[:-1] + (self.n_stages,))
        for k in range(self.P.shape[1] - 1, -1, -1):
            out = out * x + (k + 1) * self.P[:, k]
        return out
