"""Tracer: what a field sees instead of an array.

A Tracer stands for one sample's array. It has a shape, and a node of the graph that holds its
elements as flat rows in C order. Operators, NumPy functions and indexing make new nodes.

Arrays are mutable and slices are views, so a Tracer is a *cell*: writing gives it another node.
A view knows its base and the positions of its elements in there; it reads and writes through the
base. Indexing is done by NumPy itself, on the array of positions: where NumPy makes a view of that
array, the result is a view, where it makes a copy, a copy.

The class is long because an array has many methods; most are one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .advice import COMPLEX, branch_error, dynamic_index, number_error, unsupported
from .blame import trace_error
from .graph import Graph, IndexArray, Node
from .patches import Patches

Shape = tuple[int, ...]
Function = Callable[..., Any]

# NumPy ufuncs by name, NumPy functions by themselves; filled by trace_ufuncs and trace_numpy.
UFUNCS: dict[str, Function] = {}
FUNCTIONS: dict[Any, Function] = {}

_DTYPES = {"f": np.dtype(np.float64), "b": np.dtype(bool), "i": np.dtype(np.int64)}


def size_of(shape: Shape) -> int:
    """The number of elements."""
    n = 1
    for k in shape:
        n *= k
    return n


@lru_cache(maxsize=512)
def positions(shape: Shape) -> npt.NDArray[np.int64]:
    """The flat position of every element."""
    idx = np.arange(size_of(shape)).reshape(shape)
    idx.flags.writeable = False
    return idx


@lru_cache(maxsize=512)
def broadcast_index(shape: Shape, to: Shape) -> IndexArray:
    """The gather index that repeats an array of one shape to another."""
    idx = np.broadcast_to(positions(shape), to).astype(np.int32).reshape(-1)
    idx.flags.writeable = False
    return idx


@lru_cache(maxsize=512)
def broadcast_shapes(*shapes: Shape) -> Shape:
    """As in NumPy."""
    return np.broadcast_shapes(*shapes)


class Tracer:
    """An array of one sample whose values are not known yet."""

    __slots__ = (
        "_base", "_cell", "_g", "_index", "_lock", "_node", "_patches", "_version",
        "kind", "shape",
    )  # fmt: skip
    __array_priority__ = 1000.0
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, g: Graph, node: Node | None, shape: Shape, kind: str = "f", lock: str | None = None
    ) -> None:
        self._g, self._node, self.shape, self.kind, self._lock = g, node, shape, kind, lock
        self._base: Tracer | None = None
        self._index: npt.NDArray[Any] | None = None
        self._patches: Patches | None = None
        self._version = 0
        self._cell = bool(shape)  # whether `x += 1` changes the object, as it does for arrays

    # ---- reading and writing --------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The elements as flat rows."""
        base = self._base
        if base is not None:
            if self._node is None or self._version != base._version:
                self._node = base._rows(self.at)
                self._version = base._version
        elif self._node is None:
            assert self._patches is not None
            self._node = self._patches.assemble()
            self._patches = None
        return self._node

    @property
    def graph(self) -> Graph:
        """The graph that the node belongs to."""
        return self._g

    def _rows(self, at: Any) -> Node:
        """Some elements; after writes, without assembling the rest if one write has them all."""
        if self._patches is not None:
            found = self._patches.read(at)
            if found is not None:
                return found
        return self._g.gather(self.node, at)

    def _row(self, at: int) -> Node:
        """One element, by its flat position in the base."""
        root = self if self._base is None else self._base
        if root._patches is not None:
            return root._patches.row(at)
        return self._g.row(root.node, at)

    def _check_writable(self) -> None:
        lock = self._lock if self._base is None else self._lock or self._base._lock
        if lock is not None:
            raise trace_error(
                f"writes into {lock}, which a traced function cannot change",
                "Write into a copy, for example `dy = y.copy()` or `dy = np.zeros_like(y)`.",
            )
        if not self._cell:
            raise trace_error(
                "writes into a traced number", "Only arrays have items that can be assigned."
            )

    def _write(self, where: npt.NDArray[Any] | None, node: Node) -> None:
        """Write to the elements at flat positions ``where`` (None: to all, in order)."""
        root = self
        if self._base is not None:
            own = self.at.reshape(-1)
            root, where = self._base, own if where is None else own[where]
        root._version += 1
        if where is None:
            root._node, root._patches = node, None
            return
        if node.n != where.size:
            node = root._g.gather(node, np.zeros(where.size, np.int32))
        if root._patches is None:
            root._patches = Patches(root._g, root.node)
        root._patches.write(where, node)
        root._node = None

    @property
    def at(self) -> npt.NDArray[Any]:
        """Where the elements are: flat positions in the base, which is itself unless a view."""
        return positions(self.shape) if self._index is None else self._index

    def move(self, at: Any) -> Tracer:
        """The elements that NumPy has picked from ``self.at``: a view where ``at`` is one."""
        root = self if self._base is None else self._base
        if not isinstance(at, np.ndarray):
            return Tracer(self._g, self._row(int(at)), (), self.kind)
        if root._lock is not None or not np.may_share_memory(at, self.at):
            lock = root._lock if np.may_share_memory(at, self.at) else None
            return Tracer(self._g, root._rows(at), at.shape, self.kind, lock)
        out = Tracer(self._g, None, at.shape, self.kind, self._lock)
        if at.size > self.size:
            out._lock = "a broadcast array"
        out._base, out._index, out._cell = root, at, True
        return out

    def pick(self, idx: npt.NDArray[Any]) -> Tracer:
        """A copy of the elements at ``idx``, flat positions in ``self``; zero where negative."""
        return Tracer(self._g, self._g.gather(self.node, idx), idx.shape, self.kind)

    # ---- array attributes -----------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return size_of(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return _DTYPES[self.kind]

    @property
    def T(self) -> Tracer:
        return self.move(self.at.T)

    @property
    def mT(self) -> Tracer:
        return self.move(self.at.swapaxes(-1, -2))

    @property
    def real(self) -> Tracer:
        return self

    @property
    def imag(self) -> Tracer:
        return Tracer(self._g, self._g.zeros(self.size), self.shape)

    @property
    def flat(self) -> Iterator[Tracer]:
        return iter(self.ravel())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a traced number")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tracer]:
        if not self.shape:
            raise TypeError("iteration over a traced number")
        return (self[i] for i in range(self.shape[0]))

    def __repr__(self) -> str:
        return f"<traced {'number' if not self.shape else f'array of shape {self.shape}'}>"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __getitem__(self, key: Any) -> Tracer:
        if type(key) is int and len(self.shape) == 1:
            n = self.shape[0]
            if not -n <= key < n:
                raise IndexError(f"index {key} is out of bounds for axis 0 with size {n}")
            at = key % n if self._index is None else int(self._index[key])
            return Tracer(self._g, self._row(at), (), self.kind)
        if _has_tracer(key):
            if isinstance(key, Tracer) and key.kind == "i" and key.ndim < 2 and self.shape:
                return self._look_up(key)
            raise dynamic_index(key)
        return self.move(self.at[key])

    def _look_up(self, i: Tracer) -> Tracer:
        """``self[i]`` for integers that each sample has its own of: a product with one-hot rows.

        As the size is not checked when tracing, an index that is out of bounds gives NaN.
        """
        n, rest = self.shape[0], self.shape[1:]
        k: Any = i.reshape(-1, 1)
        hot = k + n * (k < 0) == np.arange(n)
        rows = hot.astype(float) @ self.reshape(n, -1)
        here = hot.any(axis=1).reshape(-1, 1)
        return FUNCTIONS[np.where](here, rows, np.nan).reshape(i.shape + rest)  # type: ignore[no-any-return]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check_writable()
        x = lift(self._g, value)
        if isinstance(key, Tracer) and key.kind == "b":
            if x.size != 1:
                raise dynamic_index(key)
            mask = key.broadcast(key.shape + (1,) * (self.ndim - key.ndim)).broadcast(self.shape)
            self._write(None, self._g.ew("select", mask.node, x.node, self.node))
            return
        if _has_tracer(key):
            raise dynamic_index(key)
        idx = np.asarray(positions(self.shape)[key])
        if not x.shape and not idx.shape:
            self._write(idx.reshape(1), x.node)
            return
        shape = x.shape
        while len(shape) > idx.ndim and shape[0] == 1:
            shape = shape[1:]
        if (
            x._base is not None
            and x._base is (self if self._base is None else self._base)
            and shape == idx.shape
        ):
            assert x._index is not None
            own = idx if self._index is None else self.at.reshape(-1)[idx]
            if np.array_equal(own, x._index):  # `x[1:] += 1` ends by assigning the slice to itself
                return
        self._write(idx.reshape(-1), x.reshape(shape).broadcast(idx.shape).node)

    # ---- shapes ---------------------------------------------------------------------------------

    def broadcast(self, shape: Shape) -> Tracer:
        """The elements repeated to a shape, as a value."""
        if self.shape == shape:
            return self
        if self.size == size_of(shape):
            if len(self.shape) <= len(shape) or self.size == 1:
                if broadcast_shapes(self.shape, shape) != shape:
                    raise ValueError(f"could not broadcast shape {self.shape} into {shape}")
                return Tracer(self._g, self.node, shape, self.kind)
        idx = broadcast_index(self.shape, shape)
        return Tracer(self._g, self._g.gather(self.node, idx), shape, self.kind)

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> Tracer:
        if len(shape) == 1 and isinstance(shape[0], tuple | list):
            shape = tuple(shape[0])
        return self.move(self.at.reshape(shape, order=order))  # type: ignore[call-overload]

    def ravel(self, order: str = "C") -> Tracer:
        return self.move(self.at.ravel(order))  # type: ignore[arg-type]

    def flatten(self, order: str = "C") -> Tracer:
        return self.pick(positions(self.shape).ravel(order))  # type: ignore[arg-type]

    def transpose(self, *axes: Any) -> Tracer:
        return self.move(self.at.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> Tracer:
        return self.move(self.at.swapaxes(a, b))

    def squeeze(self, axis: Any = None) -> Tracer:
        return self.move(self.at.squeeze(axis))

    def repeat(self, repeats: Any, axis: int | None = None) -> Tracer:
        return self.move(self.at.repeat(repeats, axis))

    def take(self, indices: Any, axis: int | None = None, mode: Any = "raise") -> Tracer:
        if _has_tracer(indices):
            raise dynamic_index(indices)
        return self.move(self.at.take(indices, axis, mode=mode))

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tracer:
        out = self.move(self.at.diagonal(offset, axis1, axis2))
        out._lock = out._lock or "a diagonal"  # read-only in NumPy
        return out

    # ---- values ---------------------------------------------------------------------------------

    def copy(self, order: str = "C") -> Tracer:
        out = Tracer(self._g, self.node, self.shape, self.kind)
        out._cell = True
        return out

    def __copy__(self) -> Tracer:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Tracer:
        return self.copy()

    def astype(self, dtype: npt.DTypeLike, *args: Any, **kwargs: Any) -> Tracer:
        kind = np.dtype(dtype).kind
        if kind == self.kind and kwargs.get("copy") is False:
            return self
        if kind == "O":
            return self.copy()
        if kind not in "fiub":
            raise trace_error(f"converts a traced value to {np.dtype(dtype)}", COMPLEX)
        if kind == "b":
            return Tracer(self._g, self._g.ew("ne", self.node, self._g.const(0.0)), self.shape, "b")
        if kind in "iu":
            x = self if self.kind != "f" else UFUNCS["trunc"](self)
            return Tracer(self._g, x.node, self.shape, "i")
        return Tracer(self._g, self.node, self.shape, "f")

    def fill(self, value: Any) -> None:
        self[...] = value

    def item(self, *args: Any) -> Tracer:
        return self.ravel()[args[0] if len(args) == 1 else 0] if len(args) < 2 else self[args]

    def tolist(self) -> Any:
        return [x.tolist() for x in self] if self.shape else self

    def conj(self) -> Tracer:
        return self

    conjugate = conj

    def sum(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.sum](self, *args, **kwargs)  # type: ignore[no-any-return]

    def prod(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.prod](self, *args, **kwargs)  # type: ignore[no-any-return]

    def mean(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.mean](self, *args, **kwargs)  # type: ignore[no-any-return]

    def var(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.var](self, *args, **kwargs)  # type: ignore[no-any-return]

    def std(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.std](self, *args, **kwargs)  # type: ignore[no-any-return]

    def max(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.max](self, *args, **kwargs)  # type: ignore[no-any-return]

    def min(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.min](self, *args, **kwargs)  # type: ignore[no-any-return]

    def any(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.any](self, *args, **kwargs)  # type: ignore[no-any-return]

    def all(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.all](self, *args, **kwargs)  # type: ignore[no-any-return]

    def cumsum(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.cumsum](self, *args, **kwargs)  # type: ignore[no-any-return]

    def cumprod(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.cumprod](self, *args, **kwargs)  # type: ignore[no-any-return]

    def clip(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.clip](self, *args, **kwargs)  # type: ignore[no-any-return]

    def round(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.round](self, *args, **kwargs)  # type: ignore[no-any-return]

    def __round__(self, digits: int = 0) -> Tracer:
        return FUNCTIONS[np.round](self, digits)  # type: ignore[no-any-return]

    def trace(self, *args: Any, **kwargs: Any) -> Tracer:
        return FUNCTIONS[np.trace](self, *args, **kwargs)  # type: ignore[no-any-return]

    def dot(self, other: Any) -> Tracer:
        return FUNCTIONS[np.dot](self, other)  # type: ignore[no-any-return]

    # ---- NumPy's protocols ----------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        out = kwargs.pop("out", None)
        where = kwargs.pop("where", True)
        for setting in ("dtype", "casting", "order", "subok", "signature"):
            if setting != "dtype" or method == "__call__":
                kwargs.pop(setting, None)
        function = UFUNCS.get(name if method == "__call__" else f"{name}.{method}")
        if function is None and method == "outer" and name in UFUNCS:
            a, b = (lift(self._g, x) for x in inputs)
            inputs = a.reshape(a.shape + (1,) * b.ndim), b
            function = UFUNCS[name]
        if function is None:
            raise unsupported(f"np.{name}" + ("" if method == "__call__" else f".{method}"))
        result = function(*[lift(self._g, x) for x in inputs], **kwargs)
        if where is not True:
            if out is None:
                raise trace_error(f"np.{name} with where= but without out=", "Use np.where.")
            result = FUNCTIONS[np.where](where, result, out[0])
        if out is None:
            return result
        results = result if isinstance(result, tuple) else (result,)
        for target, value in zip(out, results, strict=True):
            if target is not None:
                _store(target, value)
        return out[0] if len(out) == 1 else out

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        function = FUNCTIONS.get(func)
        if function is None:
            name = getattr(func, "__name__", str(func))
            module = getattr(func, "__module__", "numpy") or "numpy"
            raise unsupported(f"{module.replace('numpy', 'np', 1)}.{name}")
        out = kwargs.get("out")
        if out is None:
            return function(*args, **kwargs)
        kwargs = {k: v for k, v in kwargs.items() if k != "out"}
        target = out[0] if isinstance(out, tuple) else out
        _store(target, function(*args, **kwargs))
        return target

    # ---- what a value that is not known cannot do -----------------------------------------------

    def __bool__(self) -> bool:
        raise branch_error()

    def __float__(self) -> float:
        raise number_error("float")

    def __int__(self) -> int:
        raise number_error("int")

    def __complex__(self) -> complex:
        raise trace_error("converts a traced value to a complex number", COMPLEX)

    def __index__(self) -> int:
        raise trace_error(
            "uses a traced value as an index or a size, which must be known when tracing",
            "Select by np.where, or by a sum over a one-hot mask; sizes come from shapes.",
        )

    def __contains__(self, item: Any) -> bool:
        raise trace_error("`in` asks for a traced value", "Use np.any(x == item) and np.where.")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if hasattr(np.ndarray, name):
            raise trace_error(
                f"the array attribute `.{name}` is not available on a traced value",
                "Use NumPy functions that return new arrays.",
            )
        raise AttributeError(f"{self!r} has no attribute {name!r}")


def _has_tracer(key: Any) -> bool:
    if isinstance(key, Tracer):
        return True
    if isinstance(key, tuple | list):
        return any(_has_tracer(k) for k in key)
    if isinstance(key, slice):
        return any(isinstance(k, Tracer) for k in (key.start, key.stop, key.step))
    if isinstance(key, np.ndarray) and key.dtype == object:
        return any(isinstance(k, Tracer) for k in key.flat)
    return False


def _store(target: Any, value: Any) -> None:
    if isinstance(target, Tracer):
        target[...] = value
    elif isinstance(target, np.ndarray) and target.dtype == object:
        target[...] = to_objects(value)
    else:
        raise trace_error(
            "writes a traced value into a NumPy array of numbers",
            "Start from np.zeros_like(y), or build the result with np.stack([...]).",
        )


def to_objects(x: Any) -> npt.NDArray[np.object_]:
    """A traced array as an object array of traced numbers."""
    out = np.empty(x.shape, object)
    for i in np.ndindex(x.shape):
        out[i] = x[i]
    return out


def lift(g: Graph, x: Any) -> Tracer:
    """Anything array-like as a Tracer: numbers, arrays, lists, object arrays of tracers."""
    if isinstance(x, Tracer):
        if x._g is not g:
            raise trace_error(
                "uses a traced value that another trace has left behind",
                "Do not keep traced values in variables outside of the field.",
            )
        return x
    if type(x) is float or type(x) is int:
        return Tracer(g, g.const(x), ())
    if isinstance(x, bool | np.bool_):
        return Tracer(g, g.const(float(x)), (), "b")
    a = np.asarray(x)
    if a.dtype == object:
        nodes = []
        for item in a.flat:
            if not isinstance(item, Tracer | int | float | np.number | np.bool_):
                raise trace_error(
                    f"a traced value meets a {type(item).__name__}, which is not a number"
                )
            nodes.append(lift(g, item).node)
        return Tracer(g, g.concat(nodes), a.shape)
    if a.dtype.kind == "c":
        raise trace_error("a traced value meets a complex number", COMPLEX)
    if a.dtype.kind not in "fiub":
        raise trace_error(f"a traced value meets an array of dtype {a.dtype}")
    return Tracer(g, g.const(a), a.shape, {"b": "b", "f": "f"}.get(a.dtype.kind, "i"))


def ew(op: str, *xs: Tracer, kind: str = "f") -> Tracer:
    """An elementwise op of the graph, with NumPy's broadcasting."""
    g = xs[0]._g
    shape = xs[0].shape
    for x in xs[1:]:
        if x.shape != shape:
            shape = broadcast_shapes(*[x.shape for x in xs])
            break
    nodes = []
    for x in xs:
        node = x.node
        if x.shape != shape and node.n != 1:
            if node.n != size_of(shape):
                node = g.gather(node, broadcast_index(x.shape, shape))
        nodes.append(node)
    return Tracer(g, g.ew(op, *nodes), shape, kind)


def _operator(name: str, reverse: bool = False) -> Function:
    def method(self: Tracer, other: Any) -> Any:
        if type(other) is not Tracer:
            if isinstance(other, str | bytes | dict | set) or other is None:
                return NotImplemented
            other = lift(self._g, other)
        elif other._g is not self._g:
            lift(self._g, other)
        return UFUNCS[name](other, self) if reverse else UFUNCS[name](self, other)

    return method


def _inplace(name: str) -> Function:
    def method(self: Tracer, other: Any) -> Tracer:
        if self._cell:
            self._check_writable()
        result: Tracer = UFUNCS[name](self, lift(self._g, other))
        if not self._cell:
            return result
        if result.shape != self.shape:
            raise ValueError(
                f"non-broadcastable output operand with shape {self.shape} does not match "
                f"the broadcast shape {result.shape}"
            )
        self._write(None, result.node)
        return self

    return method


def _unary(name: str) -> Function:
    def method(self: Tracer) -> Any:
        return UFUNCS[name](self)

    method.__name__ = name
    return method


for _python, _ufunc in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
    "floordiv": "floor_divide", "mod": "remainder", "matmul": "matmul", "and": "bitwise_and",
    "or": "bitwise_or", "xor": "bitwise_xor", "divmod": "divmod",
}.items():  # fmt: skip
    setattr(Tracer, f"__{_python}__", _operator(_ufunc))
    setattr(Tracer, f"__r{_python}__", _operator(_ufunc, reverse=True))
    setattr(Tracer, f"__i{_python}__", _inplace(_ufunc))
for _python, _ufunc in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
    "ne": "not_equal",
}.items():  # fmt: skip
    setattr(Tracer, f"__{_python}__", _operator(_ufunc))
for _python, _ufunc in {
    "neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert", "floor": "floor",
    "ceil": "ceil", "trunc": "trunc",
}.items():  # fmt: skip
    setattr(Tracer, f"__{_python}__", _unary(_ufunc))


def name_methods() -> None:
    """Give Tracer a method for every ufunc: NumPy calls ``x.sin()`` for items of object arrays."""
    for name in UFUNCS:
        if "." not in name and not hasattr(Tracer, name):
            setattr(Tracer, name, _method_of(name))


def _method_of(name: str) -> Function:
    def method(self: Tracer, *others: Any) -> Any:
        return UFUNCS[name](self, *[lift(self._g, x) for x in others])

    method.__name__ = name
    return method
