"""Optimizers: pure functions of trees.

An optimizer has ``init(params) -> state`` and ``update(params, grads, state) -> (params, state)``.
`update` returns new trees and leaves the given ones as they are. A learning rate may be a function
of the step: it is called once an update, with 0 at the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nodecore import tree
from nodecore.status import InputError

__all__ = ["Adam"]

Vector: TypeAlias = npt.NDArray[Any]


def _float_leaf(leaf: Any) -> npt.NDArray[Any]:
    array = np.asarray(leaf)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _sizes(leaves: list[Vector]) -> dict[Any, int]:
    """How many elements the leaves of each dtype have."""
    sizes: dict[Any, int] = {}
    for p in leaves:
        sizes[p.dtype] = sizes.get(p.dtype, 0) + p.size
    return sizes


def _learning_rate(lr: float | Callable[[int], float], step: int) -> float:
    value = float(lr(step) if callable(lr) else lr)
    if not value >= 0.0:
        raise InputError(f"the learning rate is {value} at step {step}; it must be >= 0")
    return value


class AdamState(NamedTuple):
    """The number of updates made, and the running means of the gradient and of its square.

    The means are one vector for each dtype of the leaves, which follow each other in it: a tree has
    many small ones.
    """

    step: int
    mean: dict[Any, Vector]
    square: dict[Any, Vector]


@dataclass(frozen=True)
class Adam:
    """Adam [1]_: steps of a running mean of the gradient over the root of that of its square.

    Parameters
    ----------
    lr : float or callable, default 1e-3
        The learning rate, or a function of the step (0, 1, ...) that returns it.
    b1, b2 : float, default 0.9, 0.999
        How much of the running means an update keeps.
    eps : float, default 1e-8
        Added to the root, so that it cannot vanish.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, Adam: a method for stochastic optimization, ICLR 2015.

    Examples
    --------
    >>> adam = Adam(lr=0.1)
    >>> params = {"k": np.array([1.0, -2.0])}
    >>> state = adam.init(params)
    >>> params, state = adam.update(params, {"k": np.array([3.0, -4.0])}, state)
    >>> params["k"]
    array([ 0.9, -1.9])
    """

    lr: float | Callable[[int], float] = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if not (0.0 <= self.b1 < 1.0 and 0.0 <= self.b2 < 1.0 and self.eps >= 0.0):
            raise InputError("Adam: b1 and b2 must be in [0, 1), and eps >= 0")
        if not callable(self.lr):
            _learning_rate(self.lr, 0)

    def init(self, params: Any) -> AdamState:
        """The state before the first update."""
        sizes = _sizes([_float_leaf(leaf) for leaf in tree.flatten(params)[0]])
        zeros = [{dtype: np.zeros(n, dtype) for dtype, n in sizes.items()} for _ in range(2)]
        return AdamState(0, zeros[0], zeros[1])

    def update(self, params: Any, grads: Any, state: AdamState) -> tuple[Any, AdamState]:
        """One step.

        Parameters
        ----------
        params, grads : trees of one structure
        state : AdamState
            From `init` or the last `update`.

        Returns
        -------
        params, state
            New trees; each leaf keeps its dtype.

        Raises
        ------
        InputError
            If the trees differ in structure or in shapes, or the state is that of other params.
        """
        step = state.step + 1
        lr = _learning_rate(self.lr, state.step)
        # The two bias corrections, Algorithm 1 of [1]
        c1, c2 = 1.0 - self.b1**step, 1.0 - self.b2**step
        treedef, (leaves, slopes) = tree.columns(params, grads)
        leaves, slopes = [_float_leaf(p) for p in leaves], [np.asarray(g) for g in slopes]
        for p, g in zip(leaves, slopes, strict=True):
            if p.shape != g.shape:
                raise InputError(f"a parameter of shape {p.shape} has a gradient of {g.shape}")
        if _sizes(leaves) != {dtype: m.size for dtype, m in state.mean.items()}:
            raise InputError("the optimizer's state is that of other params: start with init")
        new = list(leaves)
        mean, square = {}, {}
        for dtype, before in state.mean.items():
            where = [i for i, p in enumerate(leaves) if p.dtype == dtype]
            p, g = (
                np.concatenate([c[i].reshape(-1) for i in where], dtype=dtype)
                for c in (leaves, slopes)
            )
            mean[dtype] = m = self.b1 * before
            m += (1.0 - self.b1) * g
            square[dtype] = v = self.b2 * state.square[dtype]
            v += (1.0 - self.b2) * np.square(g)
            denominator = np.sqrt(v / c2)
            denominator += self.eps
            p -= (lr / c1) * m / denominator
            start = 0
            for i in where:
                end = start + leaves[i].size
                new[i] = p[start:end].reshape(leaves[i].shape)
                start = end
        return tree.unflatten(treedef, new), AdamState(step, mean, square)
