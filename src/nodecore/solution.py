"""What a solve returns. Most of the file is what users read: the docstrings of one class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nodecore import _forward, _run, gradient, plan, plot, tree
from nodecore._adjoint import Continuous
from nodecore._continuous import continuous
from nodecore._failure import component
from nodecore._inputs import Array
from nodecore._record import Plan
from nodecore._run import Grid, Inputs
from nodecore.gradient import Gradient, OpaquePull
from nodecore.ir.graph import STEP
from nodecore.ir.trace import Static, spec_of
from nodecore.status import GradientError, InputError, Status


@dataclass(frozen=True)
class Stats:
    """The work of a solve: per sample (for one sample plain ints), and two scalars.

    Attributes
    ----------
    accepted, rejected : int or (B,) int64
        Steps.
    nfev, njev, nlu : int or (B,) int64
        Evaluations of the field, of its Jacobian, factorisations.
    switches : int or (B,) int64
        How often ``method="auto"`` went from one method to the other.
    storage_bytes : int
        The peak of everything kept for the backward pass.
    recomputed_steps : int
        Lane steps done again in the backward pass, beyond the first sweep and each step's own
        reversal.
    """

    accepted: Any
    rejected: Any
    nfev: Any
    njev: Any
    nlu: Any
    switches: Any
    storage_bytes: int
    recomputed_steps: int


class Solution:
    """The solution of an initial value problem for one sample or a batch.

    Attributes
    ----------
    t : as given
        Output times.
    y : (B, T, ...) or (T, ...) array, list of (T_b, ...) arrays, or a tree of such
        The states at these times; NaN where an output was not reached.
    status : int or (B,) int array
        0 is ok; see `nodecore.Status`.
    ok : bool
        Whether every sample was solved.
    t_events : list
        For each event its times, in the order in which they came: (n,), for a batch a list of B
        such arrays.
    y_events : list
        The states at these times, before the reset: (n, ...), for a batch a list of B such arrays,
        or a tree of these.
    stats : Stats
        Steps, evaluations, bytes.
    adjoint : str or None
        Which gradient method was used, and why.
    """

    def __init__(self, run: Any, inputs: Inputs, pull: OpaquePull | None = None) -> None:
        self._run = run
        self._in = inputs
        self._pull = pull
        self._y: Any = None
        self._grid: Grid | None = None  # every accepted step, once it is asked for

    # ---- what came out ------------------------------------------------------------------------

    @property
    def t(self) -> Any:
        return self._in.when.given

    @property
    def y(self) -> Any:
        if self._y is None:
            self._y = self._split(self._run.y)
        return self._y

    def _split(self, rows: Array) -> Any:
        state, when = self._in.state, self._in.when
        if state.treedef == tree.LEAF:
            return when.split(state.split(rows), state.batched)
        leaves = tree.flatten(state.split(rows))[0]
        return tree.unflatten(state.treedef, [when.split(x, state.batched) for x in leaves])

    @property
    def t_events(self) -> list[Any]:
        return [self._by_sample(rows, self._run.events["t"]) for rows in self._event_rows()]

    @property
    def y_events(self) -> list[Any]:
        state = self._in.state
        out = []
        for rows in self._event_rows():
            leaves, treedef = tree.flatten(state.split(self._run.event_y))
            parts = [self._by_sample(rows, leaf) for leaf in leaves]
            out.append(parts[0] if treedef == tree.LEAF else tree.unflatten(treedef, parts))
        return out

    def _event_rows(self) -> list[Array]:
        """For each event its rows in the run's table, sorted by sample and time."""
        kinds = range(self._n_events)
        return [np.flatnonzero(self._run.events["event"] == k) for k in kinds]

    def _by_sample(self, rows: Array, values: Array) -> Any:
        """Rows of the run's table of events: an array, or for a batch one a sample."""
        if not self._in.state.batched:
            return values[rows]
        B = len(self._run.status)
        ends = np.searchsorted(self._run.events["sample"][rows], np.arange(1, B))
        return np.split(values[rows], ends)

    @property
    def _n_events(self) -> int:
        pickled = isinstance(self._run, _Pickled)
        return self._run.n_events if pickled else len(self._in.events)

    @property
    def status(self) -> Any:
        return self._run.status if self._in.state.batched else int(self._run.status[0])

    @property
    def ok(self) -> bool:
        s = self._run.status
        return bool(((s == Status.OK) | (s == Status.EVENT)).all())

    def message(self, i: int | None = None) -> str:
        """How sample ``i`` ended, in words (no index for one sample).

        Raises
        ------
        InputError
            If there is a batch and no index, or the index is outside of it.
        """
        B = len(self._run.status)
        if i is None:
            if self._in.state.batched:
                raise InputError(f"message(i) needs the sample's index, 0 <= i < {B}")
            i = 0
        if not -B <= i < B:
            raise InputError(f"there is no sample {i} in a batch of {B}")
        t, h = self._run.floats[:2, i]
        return Status(int(self._run.status[i])).describe(t, h)

    @property
    def stats(self) -> Stats:
        ints = self._run.ints
        each = (ints[0], ints[1], ints[2], ints[4], ints[5], ints[6])
        if not self._in.state.batched:
            each = tuple([int(a[0]) for a in each])  # type: ignore[assignment]
        return Stats(
            *each,
            storage_bytes=self._run.storage_bytes(),
            recomputed_steps=self._run.recomputed_steps(),
        )

    @property
    def adjoint(self) -> str | None:
        """Which gradient there is, and what is kept for it, in words; None: none."""
        return None if self._in.adjoint is None else self._run.plan.text

    def __repr__(self) -> str:
        run, state = self._run, self._in.state
        accepted, rejected, nfev = run.ints[:3]
        B = len(accepted)
        failed = int(np.sum((run.status != Status.OK) & (run.status != Status.EVENT)))
        worst = int(np.argmax(accepted + rejected))
        lines = [
            f"Solution by {self._in.method.name}: "
            + (f"{B} samples" if state.batched else "one sample")
            + f" of {state.y0.shape[1]} components ({state.y0.dtype}), "
            + ("all solved" if failed == 0 else f"{failed} failed"),
            f"  steps: {int(accepted.sum())} accepted, {int(rejected.sum())} rejected; "
            f"{int(nfev.sum())} evaluations"
            + (f", {int(run.ints[4].sum())} of the Jacobian" if run.ints[4].any() else ""),
        ]
        if state.batched:
            lines.append(
                f"  worst: sample {worst} with {accepted[worst]:d} + {rejected[worst]:d} steps"
            )
        if self._n_events:
            counts = ", ".join(str(rows.size) for rows in self._event_rows())
            stopped = int(np.sum(run.status == Status.EVENT))
            lines.append(
                f"  events: {counts}" + (f"; stopped {stopped} samples" if state.batched else "")
            )
        if self._in.adjoint is not None:
            lines.append(f"  adjoint: {self.adjoint}; {run.storage_bytes():,} bytes kept")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw the components over time, of up to six samples; dots are the outputs.

        With ``dense=True`` the lines between them are the dense output, else they are straight.
        Needs matplotlib (``pip install nodecore[plot]``).

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        matplotlib.axes.Axes
        """
        state, when = self._in.state, self._in.when
        B = len(state.y0)
        shown = range(min(6, B))
        off = when.out_off
        outputs = [(when.of(b), self._run.y[off[b] : off[b + 1]]) for b in shown]
        lines = outputs
        if self._in.options.get("dense"):
            # where nobody looks, the first time: it needs no step to be made again
            grid = np.array([[when.of(b)[0]] * 400 for b in range(B)])
            for b in shown:
                grid[b] = np.linspace(when.of(b)[0], when.of(b)[-1], 400)
            dense = tree.flatten(self(grid if state.batched else grid[0]))[0]
            rows = np.concatenate([x.reshape(B, 400, -1) for x in dense], axis=2)
            lines = [(grid[b], rows[b]) for b in shown]
        series = [(*line, *output) for line, output in zip(lines, outputs, strict=True)]
        return plot.solution(
            series, [f"y{component(state, k)}" for k in range(state.y0.shape[1])], ax
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"pickled": _Pickled.of(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._run = state["pickled"]
        self._in = self._run.inputs_of
        self._pull = self._y = self._grid = None

    # ---- gradients ----------------------------------------------------------------------------

    def vjp(self, dy: Any = None, *, dt_events: Any = None, dy_events: Any = None) -> Gradient:
        """The gradient of <dy, y> in y0, params, args and t: exact on the steps that were made.

        Parameters
        ----------
        dy : like ``sol.y``
            Cotangent of the outputs; ignored where an output was not reached. A failed sample
            contributes nothing.
        dt_events, dy_events : like ``sol.t_events`` and ``sol.y_events``, optional
            Cotangents of the events' times and states, which are added: the gradient is that of
            <dy, y> + <dt_events, t_events> + <dy_events, y_events>. None, also in place of one
            event's, is zero; ``dy`` may be None then.

        Returns
        -------
        Gradient
            ``g.y0``, ``g.params``, ``g.args``, ``g.t``, each of the shape of what was given. May be
            called any number of times, with the same bits.

        Raises
        ------
        GradientError
            If the solve had no ``adjoint``, or a cotangent is not finite (with sample and time), or
            the derivative goes through an event whose g only grazes zero.
        InputError
            If a cotangent is not shaped like what it belongs to.

        Notes
        -----
        Reverse accumulation through the accepted steps, step sizes held constant: Hager,
        Runge-Kutta methods in optimal control and the transformed adjoint system, Numer. Math. 87
        (2000); Alexe & Sandu, Forward and adjoint sensitivity analysis with continuous explicit
        Runge-Kutta schemes, Appl. Math. Comput. 208 (2009).
        """
        if self._in.adjoint is None or isinstance(self._run, _Pickled):
            raise GradientError(
                "this solution holds no record to go back along: "
                + (
                    "it was pickled"
                    if isinstance(self._run, _Pickled)
                    else 'solve with adjoint="discrete" (or "auto")'
                )
            )
        bars = self._event_bars(dt_events, dy_events)
        if dy is None and bars is None:
            raise InputError(
                "vjp needs dy, the cotangent of y (or dt_events, dy_events, those of events)"
            )
        rows = np.zeros_like(self._run.y) if dy is None else self._rows(dy)
        if isinstance(self._in.adjoint, Continuous):
            return continuous(self._run, self._in, self._in.adjoint, rows)
        return gradient.discrete(
            self._run, self._in.given, rows, self._in.threads, self._pull, events=bars
        )

    def _event_bars(self, dt_events: Any, dy_events: Any) -> gradient.EventBars | None:
        """Cotangents of events as rows in the order of the run's table."""
        if dt_events is None and dy_events is None:
            return None
        state, n = self._in.state, self._n_events
        if n == 0:
            raise InputError("dt_events or dy_events was given, but the solve had no events")
        t_bar, y_bar = np.zeros((len(self._run.events), 1)), np.zeros_like(self._run.event_y)
        for name, given, bar, shapes, treedef in (
            ("dt_events", dt_events, t_bar, ((),), tree.LEAF),
            ("dy_events", dy_events, y_bar, state.shapes, state.treedef),
        ):
            if given is None:
                continue
            if not isinstance(given, list | tuple) or len(given) != n:
                raise InputError(f"{name} must be a list with one entry for each of the {n} events")
            for k, (part, rows) in enumerate(zip(given, self._event_rows(), strict=True)):
                if part is not None:
                    bar[rows] = self._event_columns(f"{name}[{k}]", part, rows, shapes, treedef)
        return t_bar[:, 0].copy(), y_bar

    def _event_columns(self, name: str, part: Any, rows: Array, shapes: Any, treedef: Any) -> Array:
        """One event's cotangents as (n, columns)."""
        try:
            leaves = tree.flatten_up_to(treedef, part)
        except InputError:
            raise InputError(f"{name} has another tree than y_events") from None
        columns = []
        for leaf, shape in zip(leaves, shapes, strict=True):
            want = self._by_sample(rows, np.empty((len(self._run.events), *shape)))
            pairs = [(leaf, want)]
            if self._in.state.batched:
                if not isinstance(leaf, list | tuple) or len(leaf) != len(want):
                    raise InputError(f"{name} must be a list of {len(want)} arrays, one a sample")
                pairs = list(zip(leaf, want, strict=True))
            for b, (x, like) in enumerate(pairs):
                if np.shape(x) != like.shape:
                    of = f" of sample {b}" if self._in.state.batched else ""
                    raise InputError(
                        f"{name}{of} has shape {np.shape(x)}, but there it is {like.shape}"
                    )
            parts = [np.reshape(x, (len(like), int(np.prod(shape)))) for x, like in pairs]
            columns.append(np.concatenate(parts))
        joined: Array = np.concatenate(columns, axis=1)
        return joined

    def _rows(self, dy: Any) -> Array:
        """A cotangent shaped like y as rows (N, D) in the state's dtype."""
        state, when = self._in.state, self._in.when
        plain = type(dy) is np.ndarray and state.treedef is tree.LEAF and when.form != "ragged"
        if plain and dy.dtype is state.y0.dtype and dy.shape == self.y.shape:
            return np.ascontiguousarray(dy.reshape(self._run.y.shape))
        if state.treedef == tree.LEAF:
            leaves = [dy]
        else:
            leaves, treedef = tree.flatten(dy)
            if treedef != tree.flatten(self.y)[1]:
                raise InputError("dy has another tree than y")
            if when.form == "ragged":
                B = len(when.t_off)
                leaves = [leaves[i * B : (i + 1) * B] for i in range(len(state.shapes))]
        flat = []
        for leaf, shape in zip(leaves, state.shapes, strict=True):
            if when.form == "ragged":
                parts = list(leaf)
                want = [(len(when.of(b)),) + shape for b in range(len(when.t_off))]
                if [np.shape(x) for x in parts] != want:
                    raise InputError("dy must be a list of arrays shaped like those of y")
                rows = np.concatenate([np.reshape(x, (-1, int(np.prod(shape)))) for x in parts])
            else:
                a = np.asarray(leaf)
                N = int(when.out_off[-1])
                lead = (len(when.t_off), N // len(when.t_off)) if state.batched else (N,)
                if a.shape != lead + shape:
                    raise InputError(f"dy has shape {a.shape}, but y has {lead + shape}")
                rows = a.reshape(N, -1)
            flat.append(rows)
        joined = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
        return np.ascontiguousarray(joined, state.y0.dtype)

    def value_and_grad(
        self, loss: Callable[..., Any], *data: Any, with_params: bool = False
    ) -> tuple[float, Gradient]:
        """A loss of the outputs and its gradient.

        Parameters
        ----------
        loss : callable
            ``loss(y, *data) -> scalar`` in NumPy, or ``loss(y, params, *data)`` with
            ``with_params``. It is traced, and differentiated by the same transforms as fields.
        *data : trees of arrays
            Passed on; not differentiated. Anything that is not an array is passed as it is.
        with_params : bool
            Whether the loss reads the params too (a penalty, an observation model).

        Returns
        -------
        value : float
        g : Gradient

        Raises
        ------
        TraceError
            If the loss cannot be traced, or does not return one number.
        GradientError
            As `vjp`.

        Examples
        --------
        >>> import numpy as np
        >>> import nodecore as nc
        >>> sol = nc.solve(lambda t, y, k: -k * y, [1.0], [0.0, 1.0], 2.0, adjoint="discrete")
        >>> value, g = sol.value_and_grad(lambda y: np.sum(y[-1] ** 2))
        >>> bool(np.isclose(g.params, -2 * np.exp(-4), rtol=1e-4))
        True
        """
        given = self._in.given
        trees: list[Any] = [("y", self.y)]
        if with_params:
            trees.append(("params", self._in.params))
        trees += [(f"data{i}", x) for i, x in enumerate(data)]
        specs: list[Any] = []
        values: list[Array] = []
        for name, value in trees:
            if name.startswith("data") and not _is_arrays(value):
                specs.append(Static(value))
                continue
            specs.append((name, spec_of(value), STEP))
            values += [np.asarray(x, np.float64).reshape(-1) for x in tree.flatten(value)[0]]
        out = plan.scalar_function(loss, specs, 2 if with_params else 1)(*values)
        leaves, treedef = tree.flatten(self.y)
        start, parts = 1, []
        for leaf in leaves:
            parts.append(out[start : start + leaf.size].reshape(leaf.shape))
            start += leaf.size
        g = self.vjp(tree.unflatten(treedef, parts))
        if with_params and given.params_treedef is not None:
            direct = []
            for p in given.params:
                direct.append(out[start : start + p.size].reshape(p.shape))
                start += p.size
            total = [
                np.asarray(a + b, a.dtype)
                for a, b in zip(tree.flatten(g.params)[0], direct, strict=True)
            ]
            g.params = tree.unflatten(given.params_treedef, total)
        return float(out[0]), g

    def jvp(self, dy0: Any = None, dparams: Any = None, dargs: Any = None) -> Any:
        """The tangent of y along tangents of y0, params and args: forward mode on the frozen grid.

        Parameters
        ----------
        dy0, dparams, dargs : like what `solve` was given, optional
            Directions; None is zero.

        Returns
        -------
        like ``sol.y``
            d y / d eps at y0 + eps dy0, ...; exactly the transpose of `vjp`.

        Raises
        ------
        GradientError
            If the solution kept no steps (``adjoint=...`` or ``dense=True``), or the field is
            opaque.
        InputError
            If a direction is not shaped like what it is a direction of.

        Examples
        --------
        >>> import numpy as np
        >>> import nodecore as nc
        >>> sol = nc.solve(lambda t, y, k: -k * y, [1.0], [0.0, 1.0], 2.0, adjoint="discrete")
        >>> bool(np.isclose(sol.jvp(dparams=1.0)[-1, 0], -np.exp(-2.0), rtol=1e-5))
        True
        """
        return self._split(_forward.jvp(self._in, self._frozen(), dy0, dparams, dargs))

    def jacobian(self, wrt: str = "params", leaves: Any = None) -> Any:
        """The Jacobian of y, by forward mode on the frozen grid: columns are samples of one solve.

        Parameters
        ----------
        wrt : {"params", "y0", "args"}
            In what; for "y0" and "args" each sample's own.
        leaves : sequence of str, optional
            Only these leaves of the tree, written as in error messages without the name of the
            tree: ``["['k1']"]``, or plain dictionary keys: ``["k1"]``. Default: all.

        Returns
        -------
        tree like params (or y0, args of one sample), or dict of the chosen leaves
            Each leaf of shape ``y.shape + leaf.shape``; for ragged times a list of such arrays.

        Raises
        ------
        GradientError, InputError
            As `jvp`.
        """
        given = self._in.given
        if wrt == "params":
            treedef, shapes = given.params_treedef, [p.shape for p in given.params]
            start = 0
        elif wrt == "y0":
            treedef, shapes, start = given.state.treedef, list(given.state.shapes), 0
        elif wrt == "args":
            treedef, shapes = given.args.treedef, list(given.args.shapes)
            start = sum(p.size for p in given.params)
        else:
            raise InputError(f'jacobian: wrt must be "params", "y0" or "args", not {wrt!r}')
        names = tree.paths(treedef) if treedef is not None else []
        chosen = names if leaves is None else [_leaf_name(names, leaf, wrt) for leaf in leaves]
        sizes = [int(np.prod(s)) for s in shapes]
        offsets = start + np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        picked = [names.index(n) for n in chosen]
        index = [np.arange(offsets[i], offsets[i + 1]) for i in picked]
        flat = np.concatenate(index) if index else np.zeros(0, np.int64)
        rows = _forward.columns(self._in, self._frozen(), flat, wrt)
        out, at = [], 0
        for i in picked:
            part = rows[:, :, at : at + sizes[i]]
            at += sizes[i]
            columns = [self._split(np.ascontiguousarray(part[:, :, j])) for j in range(sizes[i])]
            out.append(_stack_last(columns, shapes[i]))
        if leaves is None:
            return tree.unflatten(treedef, out)
        return dict(zip(leaves, out, strict=True))

    def hvp(
        self,
        loss: Callable[..., Any],
        *data: Any,
        dy0: Any = None,
        dparams: Any = None,
        dargs: Any = None,
    ) -> Gradient:
        """The Hessian of a loss of y times a direction: forward over reverse on the frozen grid.

        Parameters
        ----------
        loss : callable
            ``loss(y, *data) -> scalar``, as for `value_and_grad`.
        *data : trees of arrays
            Passed on; not differentiated.
        dy0, dparams, dargs : like what `solve` was given, optional
            The direction; None is zero.

        Returns
        -------
        Gradient
            The directional derivative of the gradient in y0, params, args and t.

        Raises
        ------
        TraceError, GradientError, InputError
            As `value_and_grad` and `jvp`.

        Examples
        --------
        >>> import numpy as np
        >>> import nodecore as nc
        >>> sol = nc.solve(lambda t, y, k: -k * y, [1.0], [0.0, 1.0], 2.0, adjoint="discrete")
        >>> h = sol.hvp(lambda y: np.sum(y[-1] ** 2), dparams=1.0)
        >>> bool(np.isclose(h.params, 4 * np.exp(-4.0), rtol=1e-4))
        True
        """
        specs: list[Any] = [("y", spec_of(self.y), STEP)]
        values: list[Array] = []
        for i, value in enumerate(data):
            if not _is_arrays(value):
                specs.append(Static(value))
                continue
            specs.append((f"data{i}", spec_of(value), STEP))
            values += [np.asarray(x, np.float64).reshape(-1) for x in tree.flatten(value)[0]]
        fun = plan.scalar_function(loss, specs, 1, directional=True)

        def from_rows(rows: Array) -> Array:
            leaves = tree.flatten(self._split(rows))[0]
            return np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in leaves])

        def to_rows(flat: Array) -> Array:
            leaves, treedef = tree.flatten(self.y)
            ends = np.cumsum([x.size for x in leaves])[:-1]
            parts = [p.reshape(x.shape) for p, x in zip(np.split(flat, ends), leaves, strict=True)]
            return self._rows(tree.unflatten(treedef, parts))

        return _forward.hvp(
            self._in, self._frozen(), fun, values, (from_rows, to_rows), dy0, dparams, dargs
        )

    # ---- the frozen grid ----------------------------------------------------------------------

    def _frozen(self) -> Grid:
        """Every accepted step."""
        if isinstance(self._run, _Pickled):
            raise GradientError("this solution kept no steps: it was pickled")
        if not self._in.keep:
            raise GradientError("this solution kept no steps: solve with adjoint=... or dense=True")
        if self._grid is None:
            self._grid = Grid.of(self._run)
        return self._grid

    def replay(
        self, y0: Any = None, params: Any = None, args: Any = None, t: Any = None
    ) -> Solution:
        """Solve again on the grid of this solution: no error test, no rejection.

        Parameters
        ----------
        y0, params, args, t : like what `solve` was given
            What is changed; None: as it was. Shapes must stay. With other ``t`` the grid follows:
            if outputs were interpolated, step sizes are held and t[0] shifts the grid; if steps
            ended on the outputs, each step keeps its fraction of the interval between them.
            Events are located again in the steps that they were in, and the steps behind one that
            ended its step move with it.

        Returns
        -------
        Solution
            Per sample the accepted step sizes and the step of each output are those of this
            solution. A non-finite value is a status, NON_FINITE, and so is an event that is not to
            be found within a step of where it was. With nothing changed it has the same bits.
        """
        return self._replay(y0, params, args, t, keep=self._in.keep)

    def _replay(self, y0: Any, params: Any, args: Any, t: Any, *, keep: bool) -> Solution:
        made, pull, inputs = _run.replay(self._in, self._frozen(), y0, params, args, t, keep=keep)
        return Solution(made, inputs, pull)

    def __call__(self, t: Any) -> Any:
        """The dense output (with ``dense=True``): the states at any times within the solve.

        Parameters
        ----------
        t : float, (K,) or (B, K) array
            Times, in any order.

        Returns
        -------
        like ``y``: (B, K, ...) or (K, ...); without the time axis for one number
            NaN behind the time that a sample reached. At the time of an event that resets the state
            it is the state before.

        Raises
        ------
        InputError
            If a time is outside of the interval.
        """
        if not self._in.options.get("dense"):
            raise InputError("the solution is a function of time only with solve(..., dense=True)")
        return _run.interpolate(self._in, self._frozen(), t)


@dataclass
class _Pickled:
    """What is left of a run when a solution is pickled: its results, not its record."""

    y: Array
    status: Array
    ints: Array
    floats: Array
    bytes: int
    recomputed: int
    plan: Plan | None
    inputs_of: Inputs
    n_events: int
    events: Array | None
    event_y: Array | None

    @classmethod
    def of(cls, sol: Solution) -> _Pickled:
        r, i = sol._run, sol._in
        bare = Inputs(
            None, i.method, i.given, i.params, (), i.stops, {}, False, i.adjoint, i.threads
        )
        return cls(
            r.y, r.status, r.ints, r.floats, r.storage_bytes(), r.recomputed_steps(), r.plan, bare,
            sol._n_events, r.events, r.event_y,
        )  # fmt: skip

    def storage_bytes(self) -> int:
        return self.bytes

    def recomputed_steps(self) -> int:
        return self.recomputed


def _leaf_name(names: list[str], leaf: str, wrt: str) -> str:
    for name in (leaf, f"[{leaf!r}]", f"[{leaf}]"):
        if name in names:
            return name
    raise InputError(
        f"jacobian: {wrt} has no leaf {leaf!r}; there are {', '.join(names) or 'none'}"
    )


def _stack_last(columns: list[Any], shape: tuple[int, ...]) -> Any:
    """Trees of columns as one tree, with the axes ``shape`` behind those of each leaf."""
    leaves = [tree.flatten(c)[0] for c in columns]
    treedef = tree.flatten(columns[0])[1]
    joined = [np.stack(c, axis=-1).reshape(c[0].shape + shape) for c in zip(*leaves, strict=True)]
    return tree.unflatten(treedef, joined)


def _is_arrays(value: Any) -> bool:
    try:
        leaves = tree.flatten(value)[0]
        return bool(leaves) and all(np.asarray(x).dtype.kind in "fiub" for x in leaves)
    except (InputError, ValueError, TypeError):
        return False
