"""Is a field's result like the state: the same tree, the same shapes?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nodecore import tree
from nodecore.status import TraceError

from .graph import Graph, Node
from .tracer import Shape, Tracer, lift


def match(
    g: Graph,
    result: Any,
    treedef: Any,
    shapes: Sequence[Shape],
    what: str,
    meaning: str = "the derivative of y (`return dy`)",
    rule: str = "a derivative has the state's shape",
) -> list[Node]:
    """The result's nodes, one a leaf of ``spec``, if it has that tree and those shapes."""
    if result is None:
        raise TraceError(f"the {what} returns None: it must return {meaning}")
    leaves: list[Any] = []
    _pair_up(treedef, result, "", leaves, what)
    nodes = []
    for leaf, shape, path in zip(leaves, shapes, tree.paths(treedef), strict=True):
        x = leaf if isinstance(leaf, Tracer) else _result(g, leaf, what)
        if x.graph is not g:
            lift(g, x)
        if x.shape != tuple(shape) and not (x.shape == () and tuple(shape) == (1,)):
            raise TraceError(
                f"the {what} returns shape {x.shape} for y{path} of shape {tuple(shape)}: "
                f"{rule} (one sample's, without the batch)"
            )
        nodes.append(x.node)
    return nodes


def _result(g: Graph, leaf: Any, what: str) -> Tracer:
    try:
        return lift(g, leaf)
    except ValueError:
        raise TraceError(
            f"the {what} returns items of different shapes, which do not make an array: "
            "stack or concatenate them"
        ) from None


def _pair_up(treedef: Any, result: Any, path: str, leaves: list[Any], what: str) -> None:
    if treedef == tree.LEAF:
        if isinstance(result, dict) or result is None:
            raise TraceError(f"the {what} returns {_name(result)} where y{path} is an array")
        leaves.append(result)
        return
    if treedef is None:
        return
    kind, data, children = treedef
    if kind == "dict":
        if not isinstance(result, dict) or set(result) != set(data):
            raise TraceError(
                f"the {what} returns {_name(result)} where y{path} is a dict with keys "
                f"{list(data)}: return a dict with these keys"
            )
        for key, child in zip(data, children, strict=True):
            _pair_up(child, result[key], f"{path}[{key!r}]", leaves, what)
        return
    if not isinstance(result, list | tuple) or len(result) != len(children):
        raise TraceError(
            f"the {what} returns {_name(result)} where y{path} is a {kind} of {len(children)}: "
            f"return a {kind} of {len(children)}"
        )
    for i, (child, value) in enumerate(zip(children, result, strict=True)):
        _pair_up(child, value, f"{path}[{i}]", leaves, what)


def _name(x: Any) -> str:
    if isinstance(x, dict):
        return f"a dict with keys {list(x)}"
    if isinstance(x, list | tuple):
        return f"a {type(x).__name__} of {len(x)}"
    if isinstance(x, Tracer | np.ndarray):
        return f"an array of shape {x.shape}"
    return "None" if x is None else f"a {type(x).__name__}"
