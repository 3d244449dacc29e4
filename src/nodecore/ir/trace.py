"""From a NumPy function to a graph: what the front doors call.

``trace_field`` traces ``f(t, y, params, args)``, ``trace_event`` what goes with it, and
``trace_function`` any function of trees. They call the function once, with tracers for the arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from nodecore import tree
from nodecore.status import InputError, TraceError

from . import trace_axis, trace_numpy, trace_products, trace_reduce, trace_shapes, trace_ufuncs
from .arity import event_arguments, field_arguments
from .blame import error_at, find_trace_error
from .graph import PARAMS, SAMPLE, STEP, Graph, Node, reachable
from .match import match
from .tracer import Shape, Tracer, lift, name_methods, size_of

__all__ = [
    "FunctionTrace", "Spec", "Static", "Trace", "active_graph", "field_arguments", "graph_key",
    "spec_of", "trace_event", "trace_field", "trace_function", "trace_scalar", "tracing",
]  # fmt: skip

# imported for what they register
_REGISTERED = (trace_axis, trace_numpy, trace_products, trace_reduce, trace_shapes, trace_ufuncs)
name_methods()


class Spec(NamedTuple):
    """A tree of arrays without their values: structure, shapes and dtype kinds (f, i, b)."""

    treedef: Any
    shapes: Sequence[Shape]
    kinds: Sequence[str]

    @property
    def given(self) -> bool:
        """False for None, which has no leaves."""
        return self.treedef is not None


class Static(NamedTuple):
    """An argument that is handed to the function as it is, and not traced."""

    value: Any


NOTHING = Spec(None, (), ())


def spec_of(value: Any) -> Spec:
    """The spec of a tree of arrays."""
    if type(value) is np.ndarray and value.dtype.kind in _KINDS:
        return Spec(tree.LEAF, (value.shape,), (_KINDS[value.dtype.kind],))
    leaves, treedef = tree.flatten(value)
    arrays = [leaf if type(leaf) is np.ndarray else np.asarray(leaf) for leaf in leaves]
    kinds = tuple([_KINDS.get(a.dtype.kind, "?") for a in arrays])
    if "?" in kinds:
        path = tree.paths(treedef)[kinds.index("?")]
        raise InputError(f"{path or 'an argument'} is not an array of real numbers")
    return Spec(treedef, tuple([a.shape for a in arrays]), kinds)


_KINDS = {"f": "f", "i": "i", "u": "i", "b": "b"}


@dataclass(frozen=True)
class Trace:
    """A field as a graph. ``out`` has the D rows of the derivative, leaf after leaf.

    Its events are values of the same inputs: ``events`` one row each, ``resets`` the D rows of the
    state behind each, or None.
    """

    graph: Graph
    out: Node
    t: Node
    y: Node
    params: list[Node]
    args: list[Node]
    events: tuple[Node, ...] = ()
    resets: tuple[Node | None, ...] = ()

    @property
    def outs(self) -> list[Node]:
        return [self.out, *self.events, *[r for r in self.resets if r is not None]]

    def with_outs(self, outs: Sequence[Node], **changes: Any) -> Trace:
        """The trace with ``outs`` in place of its own, and other changes."""
        out, *rest = outs
        resets = iter(rest[len(self.events) :])
        return replace(
            self,
            out=out,
            events=tuple(rest[: len(self.events)]),
            resets=tuple([None if r is None else next(resets) for r in self.resets]),
            **changes,
        )

    def without_events(self) -> Trace:
        """The field alone."""
        return replace(self, events=(), resets=())


@dataclass(frozen=True)
class FunctionTrace:
    """A function of trees as a graph: input nodes for each argument, results leaf by leaf."""

    graph: Graph
    inputs: list[list[Node]]
    outs: list[Node]
    shapes: list[Shape]
    treedef: Any

    @property
    def out(self) -> Node:
        """All results, one after the other."""
        return self.graph.concat(self.outs)


# ---- the graph that functions inside a trace write to -------------------------------------------


class _Active(threading.local):
    def __init__(self) -> None:
        self.graphs: list[Graph] = []


_active = _Active()


def active_graph() -> Graph | None:
    """The graph of the innermost trace that is under way in this thread."""
    return _active.graphs[-1] if _active.graphs else None


@contextmanager
def tracing(graph: Graph) -> Iterator[Graph]:
    """Make ``graph`` the active one."""
    _active.graphs.append(graph)
    try:
        yield graph
    finally:
        _active.graphs.pop()


# ---- fields -------------------------------------------------------------------------------------


def trace_field(
    fun: Callable[..., Any],
    y_spec: Spec,
    params_spec: Spec = NOTHING,
    args_spec: Spec = NOTHING,
    *,
    what: str = "field",
    others: Sequence[Callable[..., Any]] = (),
) -> Trace:
    """Trace ``fun(t, y[, params[, args]])``; specs are those of one sample.

    ``others`` are functions that may take the params and args which ``fun`` does not.

    Raises
    ------
    TraceError
        If the function does what cannot be traced, or its result is not like ``y``.
    """
    y_spec, params_spec, args_spec = Spec(*y_spec), Spec(*params_spec), Spec(*args_spec)
    count = field_arguments(fun, params_spec.given, args_spec.given, what, others)
    g = Graph()
    t = g.input("t", 0, 1, STEP)
    y = g.input("y", 0, sum([size_of(s) for s in y_spec.shapes]), STEP)
    params = _inputs(g, "params", params_spec, PARAMS)
    args = _inputs(g, "args", args_spec, SAMPLE)
    trace = Trace(g, y, t, y, params, args)
    specs = (_TIME, y_spec, params_spec, args_spec)
    values = _arguments(trace, *specs[1:])
    with tracing(g):
        try:
            result = fun(*values[:count])
            nodes = match(g, result, y_spec.treedef, y_spec.shapes, what)
        except Exception as error:
            swapped = _swapped_hint(fun, values[:count], y_spec, g, what)
            if swapped is not None:
                raise swapped from None
            raise _explain(error, fun, specs[:count], what) from _cause(error)
    return replace(trace, out=g.concat(nodes))


_TIME = Spec(tree.LEAF, ((),), ("f",))


def _arguments(trace: Trace, y_spec: Spec, params_spec: Spec, args_spec: Spec) -> tuple[Any, ...]:
    """(t, y, params, args) of a trace as tracers."""
    g, y = trace.graph, trace.y
    leaves, start = [], 0
    for shape in y_spec.shapes:
        size = size_of(shape)
        node = y if size == y.n else g.gather(y, np.arange(start, start + size))
        leaves.append(Tracer(g, node, tuple(shape), "f", "y"))
        start += size
    return (
        Tracer(g, trace.t, (), "f", "t"),
        tree.unflatten(y_spec.treedef, leaves),
        _tracers(g, trace.params, params_spec, "params"),
        _tracers(g, trace.args, args_spec, "args"),
    )


def trace_event(
    trace: Trace,
    g: Callable[..., Any],
    reset: Callable[..., Any] | None,
    y_spec: Spec,
    params_spec: Spec = NOTHING,
    args_spec: Spec = NOTHING,
) -> Trace:
    """The trace with one event more: ``g(t, y, params, args)`` and ``reset(...)``, or None.

    Raises
    ------
    TraceError
        If a function does what cannot be traced, ``g`` is not one number, or the reset's result is
        not like ``y``.
    """
    y_spec, params_spec, args_spec = Spec(*y_spec), Spec(*params_spec), Spec(*args_spec)
    graph = trace.graph
    specs = (_TIME, y_spec, params_spec, args_spec)

    def traced(fun: Callable[..., Any], what: str, read: Callable[[Any], Node]) -> Node:
        count = event_arguments(fun, params_spec.given, args_spec.given, what)
        values = _arguments(trace, *specs[1:])
        with tracing(graph):
            try:
                return read(fun(*values[:count]))
            except Exception as error:
                raise _explain(error, fun, specs[:count], what) from _cause(error)

    def number(result: Any) -> Node:
        name = getattr(g, "__name__", "g")
        if result is None:
            raise TraceError(f"the event {name} returns None: it must return one number")
        leaves, treedef = flatten_result(result)
        x = lift(graph, leaves[0]) if treedef == tree.LEAF else None
        if x is None or x.node.n != 1:
            shape = "a tree" if x is None else f"shape {x.shape}"
            raise TraceError(
                f"the event {name} returns {shape}, not one number: make an Event of each component"
            )
        if x.kind == "b":
            raise TraceError(
                f"the event {name} returns a comparison: an event is a number that changes its "
                "sign, such as y[0] - limit"
            )
        return x.node

    def state(result: Any) -> Node:
        nodes = match(
            graph, result, y_spec.treedef, y_spec.shapes, "reset",
            "the state behind the event", "it has the state's shape",
        )  # fmt: skip
        return graph.concat(nodes)

    event = traced(g, "event", number)
    behind = None if reset is None else traced(reset, "reset", state)
    return replace(trace, events=(*trace.events, event), resets=(*trace.resets, behind))


def _inputs(g: Graph, kind: str, spec: Spec, rate: int, wild: bool | None = None) -> list[Node]:
    return [g.input(kind, i, size_of(s), rate, wild) for i, s in enumerate(spec.shapes)]


def _tracers(g: Graph, nodes: Sequence[Node], spec: Spec, name: str) -> Any:
    return tree.unflatten(
        spec.treedef,
        [
            Tracer(g, node, tuple(shape), kind, name)
            for node, shape, kind in zip(nodes, spec.shapes, spec.kinds, strict=True)
        ],
    )


# ---- general functions --------------------------------------------------------------------------


def trace_function(
    fun: Callable[..., Any],
    inputs: Sequence[tuple[str, Spec, int] | Static],
    *,
    what: str = "function",
) -> FunctionTrace:
    """Trace ``fun(*inputs)``, each input a (name, spec, rate), or a `Static` value.

    The node of leaf i of input ``name`` is ``graph.input(name, i, ...)``.
    """
    g = Graph()
    nodes: list[list[Node]] = []
    values: list[Any] = []
    specs: list[Any] = []
    for item in inputs:
        if isinstance(item, Static):
            nodes.append([])
            values.append(item.value)
            specs.append(item)
            continue
        name, spec, rate = item
        # any of them may hold NaN: data that are missing, outputs that were not reached
        nodes.append(_inputs(g, name, spec, rate, wild=True))
        values.append(_tracers(g, nodes[-1], spec, name))
        specs.append(spec)
    with tracing(g):
        try:
            result = fun(*values)
            if result is None:
                raise TraceError(f"the {what} returns None: it must return its value")
            leaves, treedef = flatten_result(result)
            xs = [lift(g, leaf) for leaf in leaves]
        except Exception as error:
            raise _explain(error, fun, specs, what) from _cause(error)
    return FunctionTrace(g, nodes, [x.node for x in xs], [x.shape for x in xs], treedef)


def trace_scalar(
    fun: Callable[..., Any],
    inputs: Sequence[tuple[str, Spec, int] | Static],
    *,
    what: str = "loss",
) -> FunctionTrace:
    """The same for a function that returns one number."""
    out = trace_function(fun, inputs, what=what)
    if out.treedef != tree.LEAF or size_of(out.shapes[0]) != 1:
        shape = out.shapes[0] if out.treedef == tree.LEAF else "a tree"
        raise TraceError(
            f"the {what} returns {'shape ' if shape != 'a tree' else ''}{shape}, not one number: "
            "take the mean or the sum"
        )
    return out


def flatten_result(result: Any) -> tuple[list[Any], Any]:
    """`tree.flatten`, where a list or object array that holds traced numbers is one array."""
    if isinstance(result, list) and result and all(_is_scalar(x) for x in result):
        return [result], tree.LEAF
    return tree.flatten(result)


def _is_scalar(x: Any) -> bool:
    if isinstance(x, list):
        return bool(x) and all(_is_scalar(v) for v in x)
    if isinstance(x, Tracer):
        return x.shape == ()
    return isinstance(x, int | float | np.number | np.bool_)


# ---- errors -------------------------------------------------------------------------------------


def _cause(error: Exception) -> BaseException | None:
    return error.__cause__ if isinstance(error, TraceError) else None


def _examples(spec: Any) -> Any:
    if isinstance(spec, Static):
        return spec.value
    fill = {"f": 0.7, "i": 1, "b": True}
    arrays = [
        np.full(s, fill[k])[()] if s == () else np.full(s, fill[k])
        for s, k in zip(spec.shapes, spec.kinds, strict=True)
    ]
    return tree.unflatten(spec.treedef, arrays)


def _explain(
    error: Exception, fun: Callable[..., Any], specs: Sequence[Any], what: str
) -> BaseException:
    """The exception to show: ours where tracing is the cause, the user's own otherwise."""
    if isinstance(error, TraceError):
        return error
    found = find_trace_error(error)
    if found is not None:
        return TraceError(str(found))
    if isinstance(error, InputError):
        return error
    try:
        with np.errstate(all="ignore"):
            fun(*[_examples(s) for s in specs])
    except Exception:
        return error  # it fails on arrays as well
    if isinstance(error, IndexError):
        return error_at(
            error.__traceback__,
            "indexes a plain array with a traced value",
            "An integer of args may index the first axis of a traced array: put the table into "
            "params. Otherwise select by np.where, or by a sum over a one-hot mask.",
        )
    return error_at(
        error.__traceback__,
        f"the {what} works on arrays but cannot be traced: {type(error).__name__}: {error}",
        "Traced values stand for arrays in NumPy functions, operators and indexing only. Gather "
        "traced numbers by np.stack([...]) before calling SciPy or NumPy functions on them.",
    )


def _swapped_hint(
    fun: Callable[..., Any], values: Sequence[Any], y_spec: Spec, g: Graph, what: str
) -> TraceError | None:
    """An error if the function works with t and y exchanged."""
    t, y, *rest = values
    try:
        match(g, fun(y, t, *rest), y_spec.treedef, y_spec.shapes, what)
    except Exception:
        return None
    name = getattr(fun, "__name__", what)
    return TraceError(
        f"the {what} {name} seems to take (y, t): with these two exchanged it works. It is called "
        "as f(t, y, ...), the time first."
    )


# ---- identity -----------------------------------------------------------------------------------


def graph_key(outs: Sequence[Node]) -> tuple[Any, ...]:
    """What the graph computes, as a hashable value: equal keys mean equal programs.

    Nodes are numbered by their place among those that ``outs`` need, so the key does not depend on
    what else was traced; constants and index arrays are in it by content.
    """
    place: dict[Node, int] = {}
    rows: list[Any] = []
    for i, node in enumerate(reachable(outs)):
        place[node] = i
        if node.op == "input":
            rows.append((node.attrs, node.n, node.rate))
        else:
            rows.append((node.op, node.attrs, node.n, *[place[a] for a in node.args]))
    rows.append(tuple([place[o] for o in outs]))
    return tuple(rows)
