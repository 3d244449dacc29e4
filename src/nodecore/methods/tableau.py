"""Coefficients as frozen, self-checking values: `Tableau` for Runge-Kutta, `Rosenbrock`.

The convention every Runge-Kutta method follows (*extended FSAL form*; docs/math/
explicit-runge-kutta.md, implicit-methods.md): the first stage is explicit at (t_n, y_n), and the
stages end with a *step stage* whose row of A is b, so that

    Y_i     = y_n + h sum_j A[i, j] k_j,        k_i = f(t_n + c_i h, Y_i)
    y_{n+1} = Y_step = y_n + h sum_i b_i k_i,   k_1 of the next step = k_step

A pair with the FSAL property (dopri5, tsit5, bosh3) and a stiffly accurate method with an explicit
first stage (trbdf2, kvaerno5) have that form already. To any other explicit method a step stage of
weight zero is appended, which costs nothing because the next step needs its derivative anyway; to
a stiffly accurate method whose first stage is implicit (backward_euler, radau5) an explicit first
stage of weight zero is prepended, which costs nothing because it is the step before's last. So
every method of a family is stepped, reversed and interpolated by one and the same code.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


class DenseOutput:
    """Stage weights B_i(theta) = sum_k P[i, k] theta^(k+1) of y between the ends of a step."""

    P: FloatArray

    def weights(self, theta: npt.ArrayLike) -> FloatArray:
        """Dense-output weights B_i(theta).

        Parameters
        ----------
        theta : array_like
            Fractions of the step, any shape.

        Returns
        -------
        array of shape theta.shape + (s,)
        """
        x = np.asarray(theta, dtype=np.float64)[..., None]
        out: FloatArray = np.zeros(x.shape[:-1] + (self.P.shape[0],))
        for k in range(self.P.shape[1] - 1, -1, -1):
            out = (out + self.P[:, k]) * x
        return out

    def weights_derivative(self, theta: npt.ArrayLike) -> FloatArray:
        """d B_i / d theta; as `weights`."""
        x = np.asarray(theta, dtype=np.float64)[..., None]
        out: FloatArray = np.zeros(x.shape[:-1] + (self.P.shape[0],))
        for k in range(self.P.shape[1] - 1, -1, -1):
            out = out * x + (k + 1) * self.P[:, k]
        return out


def _freeze(method: Any, fields: tuple[str, ...]) -> None:
    """Make the named fields of a frozen dataclass read-only contiguous float64 arrays."""
    for field in fields:
        value = getattr(method, field)
        if value is not None:
            array = np.array(value, dtype=np.float64, order="C")
            array.flags.writeable = False
            object.__setattr__(method, field, array)


def _close(got: Any, want: Any, scale: Any) -> bool:
    """Whether sums agree up to the rounding of their terms, once each."""
    return bool(np.all(np.abs(got - want) <= 8 * _EPS * (1 + np.abs(scale))))


@dataclass(frozen=True, eq=False)
class Tableau(DenseOutput):
    """Coefficients of a Runge-Kutta method.

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
        Stage weights. Strictly lower triangular if explicit. Of the implicit families the first
        row is zero; a "dirk" method has one number gamma > 0 on the rest of the diagonal, an
        "imex" method on all of it but its ends, and only a "radau" method reaches above it.
    b : (s,) array
        Weights of the step; zero for stages that serve the dense output alone.
    P : (s, d) array
        Dense output: y(t_n + theta h) = y_n + h sum_i b_i(theta) k_i with
        b_i(theta) = sum_k P[i, k] theta^(k+1).
    dense_order : int
        Largest q for which the dense output is exact up to a local error O(h^(q+1)) for every
        theta.
    citation : str
        Where the coefficients come from.
    family : str
        Which stepper runs it: "explicit", "dirk", "imex" or "radau".
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
        The error used for step-size control is O(h^(error_order + 1)). Default: the lower of
        `order` and `embedded_order`; dop853's combined estimate is of higher order than either of
        its parts.
    n_step_stages : int, optional
        Stages a step evaluates, the step stage (the last of them) included. Stages behind it
        serve the dense output alone and are evaluated only on steps that hold an output. Default:
        all.
    predictor : (s, s) array, optional
        Newton's first guess k_i ~ sum_j predictor[i, j] k_j over the stages before, of weights
        that sum to 1; zero rows for explicit stages. Given for "dirk" and "imex".
    A_explicit : (s, s) array, optional
        Of an "imex" method, the stage weights of the part that is not solved for: Y_i = y_n +
        h sum_j (A[i, j] f(Y_j) + A_explicit[i, j] g(Y_j)) for y' = f + g. c, b, b_err and P serve
        both parts.
    filter_error : bool
        Whether the estimate is to be multiplied by (I - gamma h J)^-1, because unfiltered it does
        not stay bounded for infinitely stiff components.

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
    predictor: FloatArray | None = None
    A_explicit: FloatArray | None = None
    filter_error: bool = False

    def __post_init__(self) -> None:
        _freeze(self, ("c", "A", "b", "P", "b_err", "b_err2", "predictor", "A_explicit"))
        if self.n_step_stages == 0:
            object.__setattr__(self, "n_step_stages", self.n_stages)
        if self.error_order is None and self.embedded_order is not None:
            object.__setattr__(self, "error_order", min(self.order, self.embedded_order))
        self._check()

    def _require(self, truth: bool, what: str) -> None:
        if not truth:
            raise ValueError(f"tableau {self.name!r}: {what}")

    def _check(self) -> None:
        s = self.n_stages
        step = self.step_stage
        require = self._require

        require(self.A.shape == (s, s) and self.b.shape == (s,), "A must be (s, s), b (s,)")
        require(self.P.ndim == 2 and self.P.shape[0] == s, "P must be (s, degree)")
        require(0 < self.n_step_stages <= s, "n_step_stages must be in 1..s")
        require(
            self.family == "radau" or not np.triu(self.A, 1).any(),
            "a stage refers to a later one",
        )
        require(
            _close(self.A.sum(axis=1), self.c, np.abs(self.A).sum(axis=1)),
            "the row sums of A are not c",
        )
        require(_close(self.b.sum(), 1.0, np.abs(self.b).sum()), "b does not sum to 1")
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
                require(_close(e.sum(), 0.0, np.abs(e).sum()), f"{name} does not sum to 0")
                require(not e[self.n_step_stages :].any(), f"{name} weighs a dense-only stage")
        require(
            _close(self.P.sum(axis=1), self.b, np.abs(self.P).sum(axis=1)),
            "the dense output at theta = 1 is not b",
        )
        require(
            bool(self.c[step] == 1.0) and bool(np.array_equal(self.A[step], self.b)),
            "not in extended FSAL form: the step stage must have c = 1 and a = b",
        )
        require(not self.A[0].any() and self.c[0] == 0.0, "the first stage must be explicit")
        require(
            self.P.shape[1] == 1 or self.dense_c1,
            "a dense output of degree above 1 must be continuously differentiable",
        )
        if self.family == "explicit":
            require(self.explicit, "an explicit method has a nonzero diagonal")
            require(bool(self.b[step] == 0.0), "the step stage of an explicit method has weight 0")
        if self.family in ("dirk", "imex"):
            self._check_diagonally_implicit()
        require(
            (self.A_explicit is None) == (self.family != "imex"), "A_explicit is for imex alone"
        )
        require(
            (self.predictor is None) == (self.family not in ("dirk", "imex")),
            "a predictor comes with dirk and imex alone",
        )

    def _check_diagonally_implicit(self) -> None:
        s, step, require = self.n_stages, self.step_stage, self._require
        require(self.n_step_stages == s, "dense-only stages are for explicit methods")
        diagonal = np.full(s, self.gamma)
        diagonal[0] = 0.0
        if self.family == "imex":
            diagonal[step] = 0.0
        require(
            self.gamma > 0 and np.array_equal(np.diagonal(self.A), diagonal),
            "the implicit stages must share one gamma > 0",
        )
        if self.predictor is not None:
            require(self.predictor.shape == (s, s), "predictor must be (s, s)")
            require(not np.triu(self.predictor).any(), "a stage is predicted from a later one")
            require(
                _close(
                    self.predictor.sum(axis=1),
                    self.implicit.astype(np.float64),
                    np.abs(self.predictor).sum(axis=1),
                ),
                "predictor rows must sum to 1, those of explicit stages to 0",
            )
        if self.A_explicit is not None:
            require(self.A_explicit.shape == (s, s), "A_explicit must be (s, s)")
            require(not np.triu(self.A_explicit).any(), "A_explicit must be strictly lower")
            require(
                _close(self.A_explicit.sum(axis=1), self.c, np.abs(self.A_explicit).sum(axis=1)),
                "the row sums of A_explicit are not c",
            )
            require(
                np.array_equal(self.A_explicit[step], self.b),
                "the step stage of A_explicit must be b",
            )

    def __repr__(self) -> str:
        pair = "" if self.embedded_order is None else f"({self.embedded_order})"
        return f"<Tableau {self.name}: order {self.order}{pair}, {self.n_stages} stages>"

    def kernel_form(self) -> dict[str, Any]:
        """What the kernels read (``nc_tableau``). Of an additive method, the derivatives of both
        parts stand one behind the other, and so do their weights."""
        if self.A_explicit is not None:
            assert self.b_err is not None and self.predictor is not None
            rows = np.hstack([self.A, self.A_explicit])
            return {
                "n_step": 2 * self.n_stages, "gamma": self.gamma, "filter_error": False,
                "A": np.vstack([rows, rows]), "b": np.tile(self.b, 2), "c": np.tile(self.c, 2),
                "P": np.vstack([self.P, self.P]), "b_err": np.tile(self.b_err, 2), "b_err2": None,
                "predictor": np.pad(self.predictor, (0, self.n_stages)),
            }  # fmt: skip
        more = {}
        if self.family == "explicit" and self.adaptive:
            from .order import real_limit

            at_end = np.flatnonzero(self.c[1 : self.step_stage] == 1.0)
            more = {
                "twin": int(at_end[-1]) + 1 if at_end.size else 0,
                "real_limit": float(real_limit(self)),
            }
        return more | {
            "n_step": self.n_step_stages, "gamma": self.gamma, "filter_error": self.filter_error,
            "A": self.A, "b": self.b, "c": self.c, "P": self.P, "b_err": self.b_err,
            "b_err2": self.b_err2, "predictor": self.predictor,
        }  # fmt: skip

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
    def implicit(self) -> npt.NDArray[np.bool_]:
        """(s,) Which stages depend on themselves."""
        out: npt.NDArray[np.bool_] = np.diagonal(self.A) != 0.0
        return out

    @property
    def explicit(self) -> bool:
        """Whether no stage depends on itself."""
        return not self.implicit.any()

    @property
    def gamma(self) -> float:
        """The diagonal of A that implicit stages share; 0 if explicit."""
        return float(self.A[1, 1]) if self.n_stages > 1 else 0.0

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
        """New field evaluations per accepted step, without the dense-only stages.

        Of an implicit method, those of one Newton iteration a stage.
        """
        return self.n_step_stages - int(self.fsal)

    @property
    def stage_order(self) -> int:
        """Largest q for which every stage argument has a local error O(h^(q+1))."""
        powers = self.c[: self.n_step_stages]
        A = self.A[: self.n_step_stages, : self.n_step_stages]
        for q in range(1, self.order + 1):
            if not _close(A @ powers ** (q - 1), powers**q / q, np.abs(A).sum(axis=1)):
                return q - 1
        return self.order

    @property
    def guess(self) -> FloatArray:
        """(s, s) Newton's first guess as stage arguments: Y_i ~ y_n + h sum_j guess[i, j] k_j."""
        if self.predictor is None:
            raise ValueError(f"{self.name} has no predictor")
        out: FloatArray = np.tril(self.A, -1) + self.gamma * self.predictor
        return out

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


@dataclass(frozen=True, eq=False)
class Rosenbrock(DenseOutput):
    """Coefficients of a Rosenbrock method, in the form that needs no product with J.

    With W = I / (h gamma) - J, J = f_y(t_n, y_n) and s stages, one step is

        W k_i   = f(t_n + c_i h, y_n + sum_j<i A[i, j] k_j) + h d_i f_t(t_n, y_n)
                  + (1/h) sum_j<i C[i, j] k_j
        y_{n+1} = y_n + sum_i m_i k_i

    The k_i are increments of y, not derivatives: no factor h stands before their sums.

    Parameters
    ----------
    name, order, dense_order, citation, aliases, embedded_order, error_order
        As in `Tableau`.
    gamma : float
        The diagonal.
    c : (s,) array
        Nodes, as fractions of the step.
    d : (s,) array
        Factors of the time derivative: sum_j Gamma[i, j].
    A, C : (s, s) arrays
        Strictly lower triangular.
    m : (s,) array
        Weights of the step.
    m_err : (s,) array
        m - m_hat: sum_i m_err[i] k_i estimates the local error.
    P : (s, degree) array
        Dense output: y(t_n + theta h) = y_n + sum_i B_i(theta) k_i.
    family : str
        "rosenbrock".

    Raises
    ------
    ValueError
        If the coefficients contradict each other.

    Notes
    -----
    The classical form (Hairer & Wanner II, IV.7), in which the theory is written, has derivatives
    kappa with k = h Gamma kappa, and weights alpha = A Gamma, b = Gamma^T m.
    """

    name: str
    order: int
    gamma: float
    c: FloatArray
    d: FloatArray
    A: FloatArray
    C: FloatArray
    m: FloatArray
    m_err: FloatArray
    P: FloatArray
    dense_order: int
    embedded_order: int
    citation: str
    aliases: tuple[str, ...] = ()
    error_order: int = 0
    family: str = "rosenbrock"

    def __post_init__(self) -> None:
        _freeze(self, ("c", "d", "A", "C", "m", "m_err", "P"))
        if self.error_order == 0:
            object.__setattr__(self, "error_order", min(self.order, self.embedded_order))

        def require(truth: bool, what: str) -> None:
            if not truth:
                raise ValueError(f"Rosenbrock method {self.name!r}: {what}")

        s = self.n_stages
        for name in ("A", "C"):
            matrix = getattr(self, name)
            require(matrix.shape == (s, s), f"{name} must be (s, s)")
            require(not np.triu(matrix).any(), f"{name} must be strictly lower triangular")
        for name in ("d", "m", "m_err"):
            require(getattr(self, name).shape == (s,), f"{name} must be (s,)")
        require(self.P.ndim == 2 and self.P.shape[0] == s, "P must be (s, degree)")
        # The rounding of W's entries is seen through its inverse Gamma: |Gamma| |W| |Gamma|.
        size = np.abs(self.Gamma)
        size = size @ (np.eye(s) / self.gamma + np.abs(self.C)) @ size

        def agree(got: FloatArray, want: Any, weights: FloatArray, what: str) -> None:
            require(_close(got, want, (np.abs(weights) @ size).sum(axis=-1)), what)

        agree(self.alpha.sum(axis=1), self.c, self.A, "the row sums of alpha are not c")
        agree(self.Gamma.sum(axis=1), self.d, np.eye(s), "the row sums of Gamma are not d")
        agree(self.b.sum(), 1.0, self.m, "the weights do not sum to 1")
        agree((self.m_err @ self.Gamma).sum(), 0.0, self.m_err, "m_err does not sum to 0")
        require(
            _close(self.P.sum(axis=1), self.m, np.abs(self.P).sum(axis=1)),
            "the dense output at theta = 1 is not m",
        )

    def __repr__(self) -> str:
        return (
            f"<Rosenbrock {self.name}: order {self.order}({self.embedded_order}), "
            f"{self.n_stages} stages>"
        )

    def kernel_form(self) -> dict[str, Any]:
        """What the kernels read (``nc_tableau``): a stage of weight zero stands before the others,
        for the field's value at the beginning of the step."""

        def padded(x: FloatArray) -> FloatArray:
            out: FloatArray = np.pad(x, [(1, 0)] * x.ndim)
            return out

        return {
            "n_step": self.n_stages + 1, "gamma": self.gamma, "filter_error": False,
            "A": padded(self.A), "b": padded(self.m), "c": padded(self.c), "C": padded(self.C),
            "d": padded(self.d), "b_err": padded(self.m_err), "b_err2": None,
            "P": np.ascontiguousarray(np.pad(self.P, [(1, 0), (0, 0)])),
        }  # fmt: skip

    @property
    def n_stages(self) -> int:
        """The number of stages, each one solve with W."""
        return int(self.c.shape[0])

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return True

    @property
    def explicit(self) -> bool:
        """Whether no stage depends on itself: False."""
        return False

    @property
    def stiffly_accurate(self) -> bool:
        """Whether y_{n+1} is the last stage's argument plus its k."""
        last = self.A[-1].copy()
        last[-1] = 1.0
        return bool(self.c[-1] == 1.0) and bool(np.array_equal(last, self.m))

    @property
    def fsal(self) -> bool:
        """Whether the last field value of a step is the first one of the next."""
        return bool(self.c[-1] == 1.0) and bool(np.array_equal(self.A[-1], self.m))

    @property
    def evaluations(self) -> int:
        """New field evaluations per accepted step."""
        return self.n_stages - int(self.fsal)

    @property
    def Gamma(self) -> FloatArray:
        """(s, s) The classical Gamma = (I / gamma - C)^-1, with gamma on its diagonal."""
        W: FloatArray = np.eye(self.n_stages) / self.gamma - self.C
        out: FloatArray = np.tril(np.linalg.inv(W)).astype(np.float64)
        return out

    @property
    def alpha(self) -> FloatArray:
        """(s, s) The classical stage weights A Gamma."""
        out: FloatArray = self.A @ self.Gamma
        return out

    @property
    def b(self) -> FloatArray:
        """(s,) The classical step weights Gamma^T m."""
        out: FloatArray = self.m @ self.Gamma
        return out


@dataclass(frozen=True, eq=False)
class Auto:
    """Two methods, and a choice between them: per sample, with hysteresis (docs/math/
    implicit-methods.md, 6).

    Parameters
    ----------
    name, citation, aliases
        As in `Tableau`.
    explicit, stiff : Tableau
        Of the families "explicit" and "dirk", with one order of the error estimate, so that one
        controller serves both.

    Raises
    ------
    ValueError
        If the two do not fit together.
    """

    name: str
    explicit: Tableau
    stiff: Tableau
    citation: str
    aliases: tuple[str, ...] = ()
    family: str = "auto"

    def __post_init__(self) -> None:
        if self.explicit.family != "explicit" or self.stiff.family != "dirk":
            raise ValueError(f"method {self.name!r}: an explicit and a dirk method are needed")
        if self.explicit.error_order != self.stiff.error_order:
            raise ValueError(f"method {self.name!r}: the errors have different orders")

    def __repr__(self) -> str:
        return f"<Auto {self.name}: {self.explicit.name} or {self.stiff.name}>"

    @property
    def order(self) -> int:
        """The lower of the orders."""
        return min(self.explicit.order, self.stiff.order)

    @property
    def embedded_order(self) -> int | None:
        """That of the explicit method."""
        return self.explicit.embedded_order

    @property
    def error_order(self) -> int | None:
        """The error is O(h^(error_order + 1))."""
        return self.explicit.error_order

    @property
    def dense_order(self) -> int:
        """The lower of the orders."""
        return min(self.explicit.dense_order, self.stiff.dense_order)

    @property
    def adaptive(self) -> bool:
        """Whether both estimate their error."""
        return self.explicit.adaptive and self.stiff.adaptive

    @property
    def c(self) -> FloatArray:
        """All nodes."""
        return np.concatenate([self.explicit.c, self.stiff.c])

    @property
    def P(self) -> FloatArray:
        """The dense output of higher degree."""
        return max(self.explicit.P, self.stiff.P, key=lambda P: P.shape[1])

    @property
    def n_stages(self) -> int:
        """Those of the method with more."""
        return max(self.explicit.n_stages, self.stiff.n_stages)
