"""What `fit` minimises: data, the maps from variables to the loss, and their gradient.

The loss is a chain of maps, evaluated forwards and then pulled back::

    y0      = fit_y0(params, args)            an encoder, or a variable, or a constant
    y       = solve(field, y0, t, params, args)
    pred    = observe(t, y, params, args)     row by row, or y itself
    value   = loss(pred, target, mask)

An encoder is a function of one sample and `observe` one of a row (a sample at one time), as a field
is: `Batched` evaluates one for all of them, with its gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nodecore import losses, tree
from nodecore._batched import Batched
from nodecore._field import Field
from nodecore._field import field as pure
from nodecore._solve import solve as solve_ode
from nodecore.samples import Array, InitialStates, Samples, float_array, widest
from nodecore.status import InputError, SolveError, Status


class Objective:
    """The maps from variables to the loss, and their gradient."""

    def __init__(
        self,
        field: Any,
        observe: Callable[..., Any] | None,
        encoder: Callable[..., Any] | None,
        loss: str | Callable[..., Any],
        options: Mapping[str, Any],
    ) -> None:
        plain = callable(field) and not isinstance(field, Field)
        self.field = pure(field) if plain else field
        self.observe = observe
        self.encoder = encoder
        self.options = {"adjoint": "discrete", "on_failure": "mark", **options}
        self.loss = as_loss(loss)
        if observe is not None:
            self._readout = Batched(self._observe_row, options)
            self._observed_shape: tuple[int, ...] | None = None
        if encoder is not None:
            self._encode = Batched(lambda p, a: encoder(p, a["args"]), options)
        self._losses: dict[Any, Callable[..., Any]] = {}

    # -- forwards

    def template(self, params: Any, args: Any) -> Any:
        """Zeros shaped as the encoder's initial states, from one call with NumPy arrays."""
        assert self.encoder is not None
        args = tree.map(np.asarray, args)
        leaves = tree.flatten(args)[0]
        if self.options.get("batch") is False or not leaves:
            return tree.map(
                lambda leaf: np.zeros_like(float_array(leaf)), self.encoder(params, args)
            )
        n = leaves[0].shape[0]
        one = self.encoder(params, tree.map(lambda leaf: leaf[0], args))
        return tree.map(lambda leaf: np.zeros((n, *np.shape(leaf)), float_array(leaf).dtype), one)

    def encode(self, params: Any, args: Any, like: Any, batched: bool = True) -> tuple[Any, Any]:
        """The encoder's initial states, and the Solution to pull cotangents back through."""
        zero = tree.map(np.zeros_like, like)
        encoded = self._encode(params, {"args": args}, zero, batched)
        return tree.map(lambda leaf: leaf[:, 1] if batched else leaf[1], encoded.y), encoded

    def initial(
        self, variables: Any, start: InitialStates, data: Samples, index: Array | None
    ) -> tuple[Any, Any]:
        if self.encoder is None:
            return start.states(variables["y0"], data, index), None
        return self.encode(variables["params"], data.args, data.y0, data.batched)

    def solve(self, params: Any, y0: Any, data: Samples, **changes: Any) -> Any:
        options = {**self.options, "batch": data.batched, **changes}
        return solve_ode(self.field, y0, data.t, params, data.args, **options)

    def predict(self, params: Any, data: Samples) -> Any:
        sol = self.solve(params, data.y0, data, adjoint=None)
        if self.observe is None:
            return sol.y
        rows, reached = self._reached_rows(sol, data)
        observed = self._read(params, rows, data)
        pred = np.where(reached[:, None], observed.y[:, 1], np.nan)
        return data.from_rows(pred.reshape(len(pred), *self._shape_like(None)))

    def evaluate(self, variables: Any, start: InitialStates, data: Samples) -> float:
        """The loss on other data."""
        y0 = data.y0
        if start.kind in ("shared", "encoder"):
            y0 = self.initial(variables, start, data, None)[0]
        sol = self.solve(variables["params"], y0, data, adjoint=None)
        mask, _ = self._mask(sol, data)
        if self.observe is None:
            pred, target, mask = _pool(data, sol.y, data.filled, mask)
        else:
            rows, _ = self._reached_rows(sol, data)
            pred = self._read(variables["params"], rows, data).y[:, 1]
            target, mask = data.rows(data.filled), data.rows(mask)
            pred = pred.reshape(len(pred), *self._shape_like(target))
        return float(self.loss(_guarded(pred, mask), target, mask))

    # -- backwards

    def gradient(
        self, variables: Any, start: InitialStates, data: Samples, index: Array | None
    ) -> tuple[float, Any, int, int]:
        """The loss, its gradient in the variables, the field evaluations and the failures."""
        params = variables["params"]
        y0, encoded = self.initial(variables, start, data, index)
        sol = self.solve(params, y0, data)
        mask, failures = self._mask(sol, data)
        if self.observe is None:
            value, g = sol.value_and_grad(self._loss_of_states(data), data.filled, mask)
            params_bar = g.params
        else:
            rows, _ = self._reached_rows(sol, data)
            observed = self._read(params, rows, data)
            target, mask = data.rows(data.filled), data.rows(mask)
            value, seen = observed.value_and_grad(self._loss_of_rows(target), target, mask)
            g = sol.vjp(data.from_rows(seen.args["y"]))
            params_bar = tree.map(np.add, g.params, seen.params)
        if encoded is not None:
            rows_bar = tree.map(lambda leaf: _second_row(leaf, data.batched), g.y0)
            params_bar = tree.map(np.add, params_bar, encoded.vjp(rows_bar).params)
        grads = {"params": params_bar, "y0": None}
        if encoded is None:
            grads["y0"] = start.gradient(g.y0, data, index)
        return float(value), grads, int(np.sum(sol.stats.nfev)), failures

    def _mask(self, sol: Any, data: Samples) -> tuple[Any, int]:
        """Where something was observed and reached by a sample that did not fail."""
        status = np.atleast_1d(sol.status)
        if not status.any():
            return data.observed, 0
        ok = np.array([Status(code).ok for code in status])
        if not ok.any():
            message = sol.message(0) if data.batched else sol.message()
            raise SolveError(
                f"fit: no sample of a step could be solved. Sample 0: {message}",
                sample=0,
                status=Status(status[0]),
                solution=sol,
            )
        _, reached = self._reached_rows(sol, data)
        reached &= np.repeat(ok, [len(t) for t in data.times()])

        mask = tree.map(
            lambda rows: rows & reached.reshape(-1, *[1] * (rows.ndim - 1)),
            data.rows(data.observed),
        )
        return data.from_rows(mask), int(np.sum(~ok))

    def _reached_rows(self, sol: Any, data: Samples) -> tuple[Any, Array]:
        """The states, a row a time and sample, and whether they were reached.

        A row that was not holds the sample's initial state instead: `observe` is finite there.
        """
        counts = [len(t) for t in data.times()]
        rows, treedef = tree.flatten(data.rows(sol.y))
        reached = np.ones(sum(counts), bool)
        for leaf in rows:
            reached &= np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
        if not reached.all():
            first = np.cumsum([0, *counts[:-1]])
            rows = [
                np.where(
                    reached.reshape(-1, *[1] * (leaf.ndim - 1)),
                    leaf,
                    np.repeat(leaf[first], counts, axis=0),
                )
                for leaf in rows
            ]
        return tree.unflatten(treedef, rows), reached

    # -- observations

    def _observe_row(self, params: Any, row: Any) -> Any:
        assert self.observe is not None
        out = self.observe(row["t"], row["y"], params, row["args"])
        if isinstance(out, (list, tuple)):
            out = np.stack(out)
        return np.reshape(out, (-1,))

    def _read(self, params: Any, rows: Any, data: Samples) -> Any:
        """A Solution whose second row is what is observed at each row."""
        inputs = {"t": data.row_times(), "y": rows, "args": data.row_args()}
        if self._observed_shape is None:
            assert self.observe is not None
            first = tree.map(lambda leaf: leaf[0], inputs)
            self._observed_shape = np.shape(
                self.observe(first["t"], first["y"], params, first["args"])
            )
        dtype = widest(tree.flatten(rows)[0])
        size = int(np.prod(self._observed_shape))
        return self._readout(params, inputs, np.zeros((len(inputs["t"]), size), dtype), True)

    def _shape_like(self, target: Array | None) -> tuple[int, ...]:
        """The shape of one observation; a scalar is also one of shape (1,)."""
        assert self._observed_shape is not None
        if self._observed_shape == () and target is not None and target.shape[1:] == (1,):
            return (1,)
        return self._observed_shape

    # -- losses of what solve returns; made once a shape, so that one trace serves all steps

    def _loss_of_states(self, data: Samples) -> Callable[..., Any]:
        key = ("ragged", data.n) if data.ragged else "states"
        if key not in self._losses:

            def of_states(y: Any, target: Any, mask: Any) -> Any:
                pred, target, mask = _pool(data, y, target, mask)
                return self.loss(_guarded(pred, mask), target, mask)

            self._losses[key] = _pure(of_states)
        return self._losses[key]

    def _loss_of_rows(self, target: Array) -> Callable[..., Any]:
        shape = self._shape_like(target)
        if shape not in self._losses:

            def of_rows(z: Any, target: Any, mask: Any) -> Any:
                pred = np.reshape(z[:, 1], (z.shape[0], *shape))
                return self.loss(_guarded(pred, mask), target, mask)

            self._losses[shape] = _pure(of_rows)
        return self._losses[shape]


def _pool(data: Samples, *outputs: Any) -> list[Any]:
    """Ragged outputs as rows; others as they are."""
    return [data.map(lambda leaf: leaf, output, np.concatenate) for output in outputs]


def _pure(loss: Callable[..., Any]) -> Callable[..., Any]:
    loss.__nodecore_pure__ = True  # type: ignore[attr-defined]
    return loss


def _guarded(pred: Any, mask: Any) -> Any:
    """`pred` with finite numbers where `mask` is False, so that ``mask * loss`` is finite there."""

    def guard(p: Any, m: Any) -> Any:
        return np.where(m, p, 0.0) if tuple(p.shape) == tuple(m.shape) else p

    if isinstance(mask, np.ndarray) or hasattr(mask, "shape"):
        return guard(pred, mask) if hasattr(pred, "shape") else pred
    return tree.map(guard, pred, mask)


def as_loss(loss: str | Callable[..., Any]) -> Callable[..., Any]:
    if callable(loss):
        return loss
    if loss in losses.__all__:
        found: Callable[..., Any] = getattr(losses, loss)
        return found
    raise InputError(
        f"fit: unknown loss {loss!r}; known are {', '.join(losses.__all__)}, and any function "
        "loss(pred, target, mask)"
    )


def _second_row(g: Array, batched: bool) -> Array:
    """A cotangent of the Euler step's two outputs from that of its value."""
    axis = 1 if batched else 0
    return np.stack([np.zeros_like(g), g], axis=axis)
