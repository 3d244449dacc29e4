"""Small networks to put into fields. Plain NumPy: a field that calls one is traced as any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nodecore.status import InputError

__all__ = ["MLP"]


# SciPy is imported when a network that needs it is called: it costs more than NumPy itself.
def _sigmoid(x: Any) -> Any:
    from scipy.special import expit

    return expit(x)


def _gelu(x: Any) -> Any:
    from scipy.special import erf

    return 0.5 * x * (1.0 + erf(x / np.sqrt(2.0).item()))


# name: (function, gain of the initial weights' variance). Gain 1 is Glorot's, 2 is He's for
# functions that let half of their input through.
_ACTIVATIONS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "tanh": (np.tanh, 1.0),
    "sigmoid": (_sigmoid, 1.0),
    "sin": (np.sin, 1.0),
    "relu": (lambda x: np.maximum(x, 0.0), 2.0),
    "elu": (lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0))), 2.0),
    "softplus": (lambda x: np.logaddexp(0.0, x), 2.0),
    "gelu": (_gelu, 2.0),
    "swish": (lambda x: x * _sigmoid(x), 2.0),
}


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron: affine maps with an elementwise function between them.

    Parameters
    ----------
    sizes : sequence of int
        The widths, input first: ``[2, 50, 2]`` has one hidden layer of 50.
    activation : str or callable, default "tanh"
        What stands between the layers: "tanh", "sigmoid", "sin", "relu", "elu", "softplus",
        "gelu", "swish", or a function of an array.
    final_activation : str or callable, optional
        What is applied to the output. None: nothing.
    final_scale : float, default 1.0
        The last layer's initial weights are multiplied by this. Small values start a hybrid model
        near its mechanistic part.
    bias : bool, default True
        Whether the layers add a bias.

    Notes
    -----
    The initial weights are normal with variance ``2 / (n_in + n_out)`` [1]_ in front of "tanh",
    "sigmoid", "sin", a function of yours or nothing, and ``2 / n_in`` [2]_ in front of the others.
    Biases start at zero.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio, Understanding the difficulty of training deep feedforward neural
       networks, AISTATS 2010.
    .. [2] K. He et al., Delving deep into rectifiers, ICCV 2015.

    Examples
    --------
    >>> net = MLP([2, 50, 2], activation="tanh")
    >>> params = net.init(seed=0)
    >>> {name: leaf.shape for name, leaf in params.items()}
    {'W1': (2, 50), 'b1': (50,), 'W2': (50, 2), 'b2': (2,)}
    >>> net(params, np.array([0.5, -1.0])).shape
    (2,)
    """

    sizes: Sequence[int]
    activation: str | Callable[[Any], Any] = "tanh"
    final_activation: str | Callable[[Any], Any] | None = None
    final_scale: float = 1.0
    bias: bool = True

    def __post_init__(self) -> None:
        sizes = tuple(self.sizes)
        if len(sizes) < 2 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in sizes):
            raise InputError(f"MLP: sizes must be two or more positive integers, not {self.sizes}")
        object.__setattr__(self, "sizes", tuple(int(n) for n in sizes))
        for name in (self.activation, self.final_activation):
            if not (name is None or callable(name) or name in _ACTIVATIONS):
                raise InputError(
                    f"MLP: unknown activation {name!r}; known are {', '.join(_ACTIVATIONS)}, "
                    "and any function of an array"
                )

    def init(
        self, seed: int | np.random.Generator = 0, dtype: npt.DTypeLike = np.float64
    ) -> dict[str, npt.NDArray[Any]]:
        """Draw initial weights.

        Parameters
        ----------
        seed : int or numpy.random.Generator, default 0
            The same seed gives the same weights, rounded to `dtype`.
        dtype : float32 or float64, default float64

        Returns
        -------
        params : dict of ndarray
            ``W1`` of shape ``(sizes[0], sizes[1])``, ``b1`` of shape ``(sizes[1],)``, ``W2`` ...
        """
        rng = np.random.default_rng(seed)
        params: dict[str, npt.NDArray[Any]] = {}
        last = len(self.sizes) - 1
        for k, (n_in, n_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False), 1):
            function = self.activation if k < last else self.final_activation
            he = isinstance(function, str) and _ACTIVATIONS[function][1] == 2.0
            deviation = np.sqrt(2.0 / n_in) if he else np.sqrt(2.0 / (n_in + n_out))
            if k == last:
                deviation *= self.final_scale
            params[f"W{k}"] = (rng.standard_normal((n_in, n_out)) * deviation).astype(dtype)
            if self.bias:
                params[f"b{k}"] = np.zeros(n_out, dtype)
        return params

    def __call__(self, params: dict[str, Any], x: Any) -> Any:
        """Evaluate the network.

        Parameters
        ----------
        params : dict
            As `init` returns them.
        x : array_like, shape (..., sizes[0])
            One input, or any number along leading axes. A list of scalars is stacked, so that
            ``net(params, [t, y[0]])`` works in a field.

        Returns
        -------
        array, shape (..., sizes[-1])
        """
        if isinstance(x, (list, tuple)):
            x = np.stack(x)
        elif not hasattr(x, "shape"):
            x = np.asarray(x)
        if not x.shape or x.shape[-1] != self.sizes[0]:
            raise InputError(
                f"this MLP takes inputs of shape (..., {self.sizes[0]}), not {tuple(x.shape)}"
            )
        last = len(self.sizes) - 1
        for k in range(1, last + 1):
            x = x @ params[f"W{k}"]
            if self.bias:
                x = x + params[f"b{k}"]
            function = self.activation if k < last else self.final_activation
            if function is not None:
                x = _ACTIVATIONS[function][0](x) if isinstance(function, str) else function(x)
        return x
