"""NumPy functions that move elements: reshape, stack, roll, pad, ...

NumPy itself does the moving, on arrays of positions; the result is a gather. Positions count from
1, so that the zeros some functions fill in become -1, for which a gather gives 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from .blame import trace_error
from .graph import Graph
from .tracer import FUNCTIONS, Tracer, lift, positions

F = TypeVar("F", bound=Callable[..., Any])


def function(*functions: Any) -> Callable[[F], F]:
    """Register the meaning of NumPy functions."""

    def register(meaning: F) -> F:
        for f in functions:
            FUNCTIONS[f] = meaning
        return meaning

    return register


def by_name(*names: str) -> list[Any]:
    """The NumPy functions of these names; versions of NumPy differ in what they have."""
    found = [getattr(np, name, None) for name in names]
    return [f for f in found if f is not None]


def find_graph(*xs: Any) -> Graph:
    """The graph of the first tracer in a nest of arguments."""
    graph = find_graph_or_none(xs)
    assert graph is not None
    return graph


def find_graph_or_none(*xs: Any) -> Graph | None:
    """The same, None where there is no tracer."""
    return _find(xs)


def _find(xs: Any) -> Graph | None:
    for x in xs:
        if isinstance(x, Tracer):
            return x.graph
        if isinstance(x, tuple | list) or (isinstance(x, np.ndarray) and x.dtype == object):
            graph = _find(x.flat if isinstance(x, np.ndarray) else x)
            if graph is not None:
                return graph
    return None


def lift_all(*xs: Any) -> list[Tracer]:
    """All arguments as tracers of one graph."""
    g = find_graph(*xs)
    return [lift(g, x) for x in xs]


def lift_one(x: Any) -> Tracer:
    """An argument as a tracer."""
    return x if isinstance(x, Tracer) else lift(find_graph(x), x)


def _static(f: Any) -> Callable[..., Any]:
    """Let NumPy move the positions of one array; views stay views."""

    def meaning(x: Any, *args: Any, **kwargs: Any) -> Any:
        if _find((*args, *kwargs.values())) is not None:
            raise trace_error(
                f"np.{f.__name__} with a traced argument that must be a plain number",
                "Shapes, axes and counts must be known when the field is traced.",
            )
        (x,) = lift_all(x)
        moved = f(x.at, *args, **kwargs)
        if isinstance(moved, tuple | list):
            return type(moved)([x.move(m) for m in moved])
        return x.move(moved)

    return meaning


def _filling(f: Any) -> Callable[..., Any]:
    """The same for functions that fill in zeros; a copy."""

    def meaning(x: Any, *args: Any, **kwargs: Any) -> Any:
        (x,) = lift_all(x)
        return x.pick(f(positions(x.shape) + 1, *args, **kwargs) - 1)

    return meaning


for _f in by_name(
    "reshape", "ravel", "transpose", "permute_dims", "matrix_transpose", "moveaxis", "rollaxis",
    "swapaxes", "expand_dims", "squeeze", "broadcast_to", "tile", "repeat", "take", "flip",
    "fliplr", "flipud", "rot90", "roll", "split", "array_split", "hsplit", "vsplit",
    "dsplit", "unstack", "delete", "resize",
):  # fmt: skip
    FUNCTIONS[_f] = _static(_f)
for _f in by_name("diag", "diagflat", "tril", "triu"):
    FUNCTIONS[_f] = _filling(_f)


def _joining(f: Any) -> Callable[..., Any]:
    """Functions of several arrays, given as a sequence: NumPy joins their positions."""

    def meaning(xs: Any, *args: Any, **kwargs: Any) -> Tracer:
        kwargs = {k: v for k, v in kwargs.items() if k not in ("dtype", "casting")}
        g = find_graph(xs)
        return join(g, lambda idx: f(idx, *args, **kwargs), [lift(g, x) for x in xs])

    return meaning


def join(g: Graph, f: Any, xs: Sequence[Tracer]) -> Tracer:
    """The elements of all arrays, arranged as ``f`` arranges their positions."""
    idx, start = [], 0
    for x in xs:
        idx.append(positions(x.shape) + start)
        start += x.size
    placed = f(idx)
    kinds = {x.kind for x in xs}
    kind = kinds.pop() if len(kinds) == 1 else "f"
    node = g.gather(g.concat([x.node for x in xs]), placed)
    return Tracer(g, node, placed.shape, kind)


for _f in by_name(
    "stack", "concatenate", "concat", "hstack", "vstack", "dstack", "column_stack", "row_stack"
):
    FUNCTIONS[_f] = _joining(_f)


@function(np.append)
def append(x: Any, values: Any, axis: int | None = None) -> Tracer:
    a, b = lift_all(x, values)
    return join(a.graph, lambda idx: np.append(idx[0], idx[1], axis), [a, b])


@function(np.insert)
def insert(x: Any, where: Any, values: Any, axis: int | None = None) -> Tracer:
    a, b = lift_all(x, values)
    return join(a.graph, lambda idx: np.insert(idx[0], where, idx[1], axis), [a, b])


@function(np.block)
def block(arrays: Any) -> Tracer:
    g = find_graph(arrays)
    xs: list[Tracer] = []
    start = 0

    def number(tree: Any) -> Any:
        nonlocal start
        if isinstance(tree, list):
            return [number(t) for t in tree]
        x = lift(g, tree)
        xs.append(x)
        idx = positions(x.shape) + start
        start += x.size
        return idx

    placed = np.block(number(arrays))
    return Tracer(g, g.gather(g.concat([x.node for x in xs]), placed), placed.shape)


@function(np.pad)
def pad(array: Any, pad_width: Any, mode: str = "constant", **kwargs: Any) -> Tracer:
    x = lift_one(array)
    idx = positions(x.shape)
    if mode == "constant":
        fill = kwargs.pop("constant_values", 0)
        holes = np.pad(idx + 1, pad_width, mode="constant") - 1
        if isinstance(fill, int | float) and fill == 0:
            return x.pick(holes)
        g = x.graph
        if _find((fill,)) is not None:
            value = lift(g, fill)
            if value.size != 1:
                raise trace_error("np.pad with several traced constants", "Use np.concatenate.")
            return join(g, lambda i: np.where(holes < 0, i[1].reshape(-1)[0], holes), [x, value])
        base = np.pad(np.zeros(x.shape), pad_width, mode="constant", constant_values=fill)
        values = lift(g, base)
        return join(g, lambda i: np.where(holes < 0, i[1], holes), [x, values])
    if mode not in ("edge", "wrap", "reflect", "symmetric", "empty"):
        raise trace_error(
            f"np.pad with mode={mode!r}",
            "Use 'constant', 'edge', 'wrap', 'reflect' or 'symmetric'.",
        )
    if kwargs.get("reflect_type", "even") != "even":
        raise trace_error("np.pad with reflect_type='odd'")
    return x.pick(np.pad(idx, pad_width, mode="edge" if mode == "empty" else mode))  # type: ignore[call-overload]


@function(np.diagonal)
def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tracer:
    return lift_one(a).diagonal(offset, axis1, axis2)


def _atleast(n: int) -> Callable[..., Any]:
    f = {1: np.atleast_1d, 2: np.atleast_2d, 3: np.atleast_3d}[n]

    def meaning(*xs: Any) -> Any:
        out = [x.move(f(x.at)) for x in lift_all(*xs)]
        return out[0] if len(out) == 1 else tuple(out)

    return meaning


FUNCTIONS[np.atleast_1d], FUNCTIONS[np.atleast_2d] = _atleast(1), _atleast(2)
FUNCTIONS[np.atleast_3d] = _atleast(3)


@function(np.broadcast_arrays)
def broadcast_arrays(*xs: Any, subok: bool = False) -> tuple[Tracer, ...]:
    lifted = lift_all(*xs)
    shape = np.broadcast_shapes(*[x.shape for x in lifted])
    return tuple(x.move(np.broadcast_to(x.at, shape)) for x in lifted)


@function(np.meshgrid)
def meshgrid(*xs: Any, indexing: str = "xy", **kwargs: Any) -> tuple[Tracer, ...]:
    lifted = lift_all(*xs)
    idx = np.meshgrid(*[positions((x.size,)) for x in lifted], indexing=indexing, **kwargs)  # type: ignore[call-overload]
    return tuple(x.ravel().pick(i) for x, i in zip(lifted, idx, strict=True))


@function(np.ndim)
def ndim(x: Any) -> int:
    return int(x.ndim)


@function(np.shape)
def shape(x: Any) -> tuple[int, ...]:
    return tuple(lift_one(x).shape)


@function(np.size)
def size(x: Any, axis: int | None = None) -> int:
    (x,) = lift_all(x)
    return int(x.size if axis is None else x.shape[axis])


# ---- copies and new arrays ----------------------------------------------------------------------


@function(np.copy)
def copy(a: Any, *args: Any, **kwargs: Any) -> Tracer:
    return lift_one(a).copy()


def filled(x: Tracer, value: Any, dtype: Any = None, shape: Any = None) -> Tracer:
    """A new array of the shape of ``x``, all equal to ``value``."""
    if shape is None:
        shape = x.shape
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    v = lift(x.graph, value).broadcast(shape)
    kind = (
        x.kind if dtype is None else {"b": "b", "i": "i", "u": "i"}.get(np.dtype(dtype).kind, "f")
    )
    out = Tracer(x.graph, v.node, shape, kind)
    out._cell = True
    return out


def _like(value: float) -> Callable[..., Any]:
    def meaning(
        x: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None,
        *, device: Any = None,
    ) -> Tracer:  # fmt: skip
        return filled(lift_one(x), value, dtype, shape)

    return meaning


FUNCTIONS[np.zeros_like] = FUNCTIONS[np.empty_like] = _like(0.0)
FUNCTIONS[np.ones_like] = _like(1.0)


@function(np.full_like)
def full_like(
    x: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True,
    shape: Any = None, *, device: Any = None,
) -> Tracer:  # fmt: skip
    g = find_graph(x, fill_value)
    return filled(lift(g, x), fill_value, dtype, shape)


@function(np.copyto)
def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    if not isinstance(dst, Tracer):
        raise trace_error(
            "np.copyto writes a traced value into a plain array", "Start from np.zeros_like(y)."
        )
    dst[...] = src if where is True else FUNCTIONS[np.where](where, src, dst)


@function(np.fill_diagonal)
def fill_diagonal(a: Any, val: Any, wrap: bool = False) -> None:
    if not isinstance(a, Tracer) or a.ndim != 2 or wrap:
        raise trace_error("np.fill_diagonal is traced for writable traced matrices only")
    i = np.arange(min(a.shape))
    a[i, i] = val
