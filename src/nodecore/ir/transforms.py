"""``jvp``, ``vjp``, ``grad`` and ``divergence`` of functions, inside fields and on plain arrays.

The function is traced on a fresh placeholder, differentiated by it, and the placeholder is then
replaced by the argument, in the graph of the field around it. Since derivatives are nodes like any
other, the functions nest, and an adjoint differentiates through them.

Outside of a field the same graph is evaluated by the reference interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nodecore import tree
from nodecore.status import InputError

from . import autodiff
from .blame import find_trace_error
from .divergence import trace_of_jacobian
from .graph import STEP, Graph, Node
from .numpy_eval import evaluate
from .trace import active_graph, flatten_result, tracing
from .trace_shapes import find_graph_or_none
from .tracer import Shape, Tracer, lift, size_of

Tree = Any


class _Call:
    """``fun`` traced on placeholders for the leaves of ``x``."""

    def __init__(self, name: str, fun: Callable[..., Any], x: Tree, *more: Tree) -> None:
        leaves, self.treedef = tree.flatten(x)
        found = find_graph_or_none(leaves, more)
        surrounding = active_graph() if found is None else found
        self.traced = surrounding is not None
        self.g = g = surrounding if surrounding is not None else Graph()
        self.values: list[Any] = leaves
        self.shapes: list[Shape]
        if self.traced:
            xs = [lift(g, leaf) for leaf in leaves]
            self.shapes = [t.shape for t in xs]
            self.nodes = [t.node for t in xs]
            self.vars = [g.var(n.n, n.rate, n.wild) for n in self.nodes]
        else:
            self.values = [np.asarray(leaf) for leaf in leaves]
            for value in self.values:
                if value.dtype.kind not in "fiub":
                    raise InputError(f"nc.{name} needs real arrays, not dtype {value.dtype}")
            self.shapes = [a.shape for a in self.values]
            self.vars = [g.var(a.size, STEP, not np.isfinite(a).all()) for a in self.values]
        placeholders = [
            Tracer(g, v, shape, "f", f"the argument of a function inside nc.{name}")
            for v, shape in zip(self.vars, self.shapes, strict=True)
        ]
        self.out_treedef: Any
        with tracing(g):
            try:
                result = fun(tree.unflatten(self.treedef, placeholders), *more)
                if result is None:
                    raise InputError(f"the function given to nc.{name} returns None")
                out_leaves, self.out_treedef = flatten_result(result)
                outs = [lift(g, leaf) for leaf in out_leaves]
            except Exception as error:
                raise (find_trace_error(error) or error) from None
        self.outs = [o.node for o in outs]
        self.out_shapes = [o.shape for o in outs]

    def like(self, name: str, value: Tree, treedef: Any, shapes: Sequence[Shape]) -> list[Node]:
        """The leaves of a tangent or cotangent, which must have this structure."""
        leaves, given = tree.flatten(value)
        if given != treedef:  # a list of traced numbers may stand for an array
            leaves, given = flatten_result(value)
        if given != treedef:
            raise InputError(f"{name} has another tree than what it belongs to")
        xs = [lift(self.g, leaf) for leaf in leaves]
        for x, shape in zip(xs, shapes, strict=True):
            if x.shape != shape:
                raise InputError(f"{name} has shape {x.shape} where {shape} is needed")
        return [x.node for x in xs]

    def finish(self, treedef: Any, nodes: Sequence[Node | None], shapes: Sequence[Shape]) -> Tree:
        """Nodes over the placeholders as a tree of values at ``x``."""
        g = self.g
        full = [g.zeros(size_of(s)) if n is None else n for n, s in zip(nodes, shapes, strict=True)]
        if self.traced:
            done = g.substitute(full, dict(zip(self.vars, self.nodes, strict=True)))
            leaves: list[Any] = [Tracer(g, n, s) for n, s in zip(done, shapes, strict=True)]
        else:
            env = dict(zip(self.vars, self.values, strict=True))
            single = all(a.dtype == np.float32 for a in self.values)
            dtype = np.float32 if single and self.values else np.float64
            leaves = [
                a.astype(dtype).reshape(s)[()]
                for a, s in zip(evaluate(full, env), shapes, strict=True)
            ]
        return tree.unflatten(treedef, leaves)

    def value(self) -> Tree:
        return self.finish(self.out_treedef, self.outs, self.out_shapes)


def jvp(fun: Callable[[Any], Any], x: Tree, v: Tree) -> tuple[Tree, Tree]:
    """The value of a function and its derivative along a direction.

    Parameters
    ----------
    fun : callable
        A NumPy function of one argument, an array or a tree of arrays; so is its result.
    x, v : array or tree
        The point and the direction, of one structure.

    Returns
    -------
    value, tangent : array or tree
        ``fun(x)`` and ``J(x) v``. Plain arrays for plain arrays; inside a field, traced ones.

    Examples
    --------
    >>> jvp(np.sin, np.array([0.0, np.pi]), np.array([1.0, 2.0]))[1]
    array([ 1., -2.])
    """
    call = _Call("jvp", fun, x)
    tangents = autodiff.jvp(
        call.g, call.outs, call.vars, call.like("v", v, call.treedef, call.shapes)
    )
    return call.value(), call.finish(call.out_treedef, tangents, call.out_shapes)


def vjp(fun: Callable[[Any], Any], x: Tree) -> tuple[Tree, Callable[[Tree], Tree]]:
    """The value of a function and the map from cotangents of its result to cotangents of ``x``.

    Parameters
    ----------
    fun : callable
        A NumPy function of one argument, an array or a tree of arrays; so is its result.
    x : array or tree

    Returns
    -------
    value : array or tree
        ``fun(x)``.
    pullback : callable
        ``pullback(ct)`` is ``J(x)^T ct``, a tree like ``x``. It may be called any number of times.

    Examples
    --------
    >>> value, pullback = vjp(lambda x: x[0] * x[1], np.array([2.0, 3.0]))
    >>> pullback(1.0)
    array([3., 2.])
    """
    call = _Call("vjp", fun, x)

    def pullback(ct: Tree) -> Tree:
        cts = call.like("the cotangent", ct, call.out_treedef, call.out_shapes)
        bars = autodiff.vjp(call.g, call.outs, cts, call.vars)
        return call.finish(call.treedef, bars, call.shapes)

    return call.value(), pullback


def grad(fun: Callable[..., Any]) -> Callable[..., Tree]:
    """The gradient of a function that returns one number, as a function.

    Parameters
    ----------
    fun : callable
        A NumPy function; it is differentiated by its first argument, an array or a tree.

    Returns
    -------
    callable
        ``grad(fun)(x, ...)`` is a tree like ``x``.

    Examples
    --------
    A pendulum from its Hamiltonian:

    >>> def hamiltonian(y):
    ...     return y[1] ** 2 / 2 - np.cos(y[0])
    >>> grad(hamiltonian)(np.array([np.pi / 2, 3.0]))
    array([1., 3.])
    """

    def gradient(x: Tree, *more: Tree) -> Tree:
        call = _Call("grad", fun, x, *more)
        if call.out_treedef != tree.LEAF or size_of(call.out_shapes[0]) != 1:
            raise InputError(
                f"nc.grad needs a function that returns one number, not "
                f"{'a tree' if call.out_treedef != tree.LEAF else f'shape {call.out_shapes[0]}'}"
            )
        bars = autodiff.vjp(call.g, call.outs, [call.g.const(1.0)], call.vars)
        return call.finish(call.treedef, bars, call.shapes)

    gradient.__name__ = f"grad_of_{getattr(fun, '__name__', 'function')}"
    return gradient


def divergence(fun: Callable[[Any], Any]) -> Callable[[Any], tuple[Tree, Any]]:
    """The trace of a function's Jacobian, as a function, exact.

    Parameters
    ----------
    fun : callable
        A NumPy function from an array or a tree to one of the same structure and shapes.

    Returns
    -------
    callable
        ``divergence(fun)(x)`` is ``(fun(x), div)``. For an elementwise function, and for a network
        with at most two hidden layers, the cost is about that of one evaluation, whatever D is;
        otherwise that of D derivatives along unit vectors, less what their zeros save.

    Examples
    --------
    >>> y, div = divergence(lambda x: x**3)(np.array([1.0, 2.0]))
    >>> y, float(div)
    (array([1., 8.]), 15.0)
    """

    def with_divergence(x: Tree) -> tuple[Tree, Any]:
        call = _Call("divergence", fun, x)
        if call.out_treedef != call.treedef or call.out_shapes != call.shapes:
            raise InputError(
                f"nc.divergence needs a function whose result is like its argument: shapes "
                f"{call.out_shapes} are not {call.shapes}"
            )
        trace = trace_of_jacobian(call.g, call.outs, call.vars)
        return call.value(), call.finish(tree.LEAF, [trace], [()])

    return with_divergence
