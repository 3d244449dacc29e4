"""What `fit` is given: samples with their targets, taken apart into rows and put together again.

A *row* is one sample at one time: rows are what `observe` sees and what losses are summed over.
Where times are ragged, an output is a list of one array a sample, or a tree of such lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nodecore import _inputs, tree
from nodecore.status import InputError

Array: TypeAlias = npt.NDArray[Any]


class Samples:
    """Initial states, times, targets and args of some samples; or of one, without a batch axis.

    `observed` is False where the target is NaN, and `filled` is the target with 0 there.
    """

    def __init__(self, y0: Any, t: Any, target: Any, args: Any, batch: bool | None) -> None:
        self.y0 = tree.map(float_array, y0)
        self.batched = _inputs.state(self.y0, batch).batched
        leaves = tree.flatten(self.y0)[0]
        self.n = leaves[0].shape[0] if self.batched else 1
        self.ragged = self.batched and isinstance(t, (list, tuple)) and np.ndim(t[0]) == 1
        self.t = [np.asarray(ti, float) for ti in t] if self.ragged else np.asarray(t, float)
        self.args = tree.map(np.asarray, args)
        self.target = target
        if target is not None:
            self.target = tree.map(lambda leaf: np.asarray(leaf, widest(leaves)), target)
            self.observed = tree.map(lambda leaf: ~np.isnan(leaf), self.target)
            self.filled = tree.map(lambda x: np.where(np.isnan(x), 0, x), self.target)
            if not any(leaf.any() for leaf in tree.flatten(self.observed)[0]):
                raise InputError("fit: target holds no observation, only NaN")

    def take(self, index: Array) -> Samples:
        """The samples at `index`."""
        part = object.__new__(Samples)
        part.batched, part.ragged, part.n = True, self.ragged, len(index)
        rows = lambda leaf: leaf[index]  # noqa: E731
        part.y0 = tree.map(rows, self.y0)
        part.args = tree.map(rows, self.args)
        if isinstance(self.t, list):
            part.t = [self.t[i] for i in index]
        else:
            part.t = self.t if self.t.ndim == 1 else self.t[index]
        for name in ("target", "observed", "filled"):
            setattr(
                part, name, self.map(rows, getattr(self, name), lambda x: [x[i] for i in index])
            )
        return part

    def map(self, one: Callable[[Any], Any], output: Any, ragged: Callable[[Any], Any]) -> Any:
        """A function of each leaf of an output, or of the list of arrays that ragged times make."""
        if not self.ragged:
            return tree.map(one, output)
        leaves = tree.flatten(output)[0]
        lists = [leaves[k : k + self.n] for k in range(0, len(leaves), self.n)]
        if len(lists) == 1 and isinstance(output, list):
            return ragged(lists[0])
        return tree.unflatten(tree.flatten(self.y0)[1], [ragged(part) for part in lists])

    def times(self) -> list[Array]:
        """Each sample's times."""
        if isinstance(self.t, list):
            return self.t
        return list(self.t) if self.t.ndim == 2 else [self.t] * self.n

    def rows(self, output: Any) -> Any:
        """An output with one row a time and sample, in the order of `row_times`."""

        def one(leaf: Any) -> Array:
            array: Array = np.asarray(leaf)
            return array.reshape(-1, *array.shape[2:]) if self.batched else array

        return self.map(one, output, np.concatenate)

    def from_rows(self, rows: Any) -> Any:
        """The inverse of `rows`."""
        ends = np.cumsum([len(t) for t in self.times()])[:-1]

        def one(leaf: Array) -> Any:
            if self.ragged:
                return np.split(leaf, ends)
            return leaf.reshape(self.n, -1, *leaf.shape[1:]) if self.batched else leaf

        return tree.map(one, rows)

    def columns(self, output: Any, k: int) -> list[Array]:
        """Each leaf of sample k's outputs as an array of shape (T, columns)."""
        begin = sum(len(t) for t in self.times()[:k])
        rows = slice(begin, begin + len(self.times()[k]))
        parts = [leaf[rows] for leaf in tree.flatten(self.rows(output))[0]]
        return [part.reshape(len(part), -1) for part in parts]

    def row_times(self) -> Array:
        return np.concatenate(self.times())

    def row_args(self) -> Any:
        """args with one entry a row."""
        counts = [len(t) for t in self.times()]
        if not self.batched:
            return tree.map(lambda leaf: np.broadcast_to(leaf, (counts[0], *leaf.shape)), self.args)
        return tree.map(lambda leaf: np.repeat(leaf, counts, axis=0), self.args)


def float_array(leaf: Any) -> Array:
    array = np.asarray(leaf)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def widest(leaves: Sequence[Array]) -> npt.DTypeLike:
    return np.result_type(*leaves) if leaves else np.float64


class InitialStates:
    """What of the initial states is fitted: a map from variables to y0, and its transpose."""

    def __init__(self, fit_y0: Any, data: Samples) -> None:
        self.variables: Any = None
        self.kind = "known"
        self.mask: Any = None
        if callable(fit_y0):
            self.kind = "encoder"
        elif isinstance(fit_y0, str):
            if fit_y0 != "shared":
                raise InputError(f"fit: fit_y0 is {fit_y0!r}; the only word it knows is 'shared'")
            self.kind = "shared"
            mean = lambda leaf: leaf.mean(axis=0).astype(leaf.dtype)  # noqa: E731
            self.variables = tree.map(mean, data.y0) if data.batched else data.y0
        elif isinstance(fit_y0, (bool, np.bool_)):
            if fit_y0:
                self.kind = "samples"
                self.variables = data.y0
        else:
            self.kind = "samples"
            self.variables = data.y0
            self.mask = tree.map(np.asarray, fit_y0)
            shapes = tree.map(lambda leaf: leaf[0] if data.batched else leaf, data.y0)
            self._check_mask(shapes)

    def _check_mask(self, sample: Any) -> None:
        leaves, treedef = tree.flatten(sample)
        masks, mask_treedef = tree.flatten(self.mask)
        if treedef != mask_treedef or any(
            m.dtype != bool or m.shape != leaf.shape for m, leaf in zip(masks, leaves, strict=True)
        ):
            raise InputError(
                "fit: fit_y0 is True, 'shared', a function of (params, args), or a bool array with "
                f"the shape {' and '.join(str(leaf.shape) for leaf in leaves)} of one sample's "
                "state"
            )

    def states(self, variables: Any, data: Samples, index: Array | None) -> Any:
        """The initial states of the samples at `index`."""
        if self.kind == "shared" and data.batched:
            return tree.map(lambda leaf: np.repeat(leaf[None], data.n, axis=0), variables)
        if self.kind == "known":
            return data.y0
        return variables if index is None else tree.map(lambda leaf: leaf[index], variables)

    def gradient(self, y0_bar: Any, data: Samples, index: Array | None) -> Any:
        """The cotangent of the variables from that of the initial states."""
        if self.kind == "known":
            return None
        if self.kind == "shared":
            return tree.map(lambda g: g.sum(axis=0), y0_bar) if data.batched else y0_bar
        if self.mask is not None:
            y0_bar = tree.map(lambda g, m: np.where(m, g, 0), y0_bar, self.mask)
        if index is None:
            return y0_bar

        def scatter(g: Any, leaf: Any) -> Any:
            full = np.zeros(leaf.shape, g.dtype)
            full[index] = g
            return full

        return tree.map(scatter, y0_bar, self.variables)
