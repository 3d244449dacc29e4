"""Trees: dicts, tuples, lists and named tuples whose leaves are arrays.

A state, params or args may be a tree. `flatten` takes it apart into a list of leaves and a
*treedef*, a hashable description of the structure, from which `unflatten` puts it together again.

- A dict's keys are visited in sorted order, so dicts that are equal have one treedef however they
  were filled. It comes back as a plain dict with its keys in that order.
- None is a tree without leaves.
- A list of numbers, or a list of such lists, is one leaf: an array. A tuple of numbers is a tuple.
- Everything else is a leaf and is not looked into: arrays, scalars, tracers.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nodecore.status import InputError

# LEAF; None; ("dict", keys, children); ("list", None, children); ("tuple", None, children);
# ("namedtuple", class, children). Nested tuples hash and compare in C.
TreeDef: TypeAlias = Hashable

LEAF: TreeDef = "*"

_ARRAYS = {np.ndarray}
_NUMBERS = (int, float, complex, np.number, np.bool_)


def flatten(tree: Any) -> tuple[list[Any], TreeDef]:
    """Take a tree apart.

    Parameters
    ----------
    tree : tree
        Any nesting of dicts, tuples, lists, named tuples and None.

    Returns
    -------
    leaves : list
        The leaves, in the order of `paths`. A list of numbers has become an array.
    treedef : hashable
        The structure, for `unflatten`.

    Raises
    ------
    InputError
        If a list of lists of numbers is ragged, or the tree contains itself.

    Examples
    --------
    >>> leaves, treedef = flatten({"b": 2.0, "a": (1.0, None)})
    >>> leaves
    [1.0, 2.0]
    >>> unflatten(treedef, leaves)
    {'a': (1.0, None), 'b': 2.0}
    """
    leaves: list[Any] = []
    try:
        return leaves, _flatten(tree, leaves)
    except RecursionError:
        raise InputError("a tree of arrays contains itself, or is nested too deeply") from None


def _flatten(tree: Any, leaves: list[Any]) -> TreeDef:
    kind = type(tree)
    if kind is np.ndarray or kind is float:
        leaves.append(tree)
        return LEAF
    if tree is None:
        return None
    if isinstance(tree, dict):
        keys = _sorted_keys(tree)
        values = [tree[k] for k in keys]
        if set(builtins.map(type, values)) == _ARRAYS:  # most dicts; no call for each
            leaves += values
            return ("dict", keys, (LEAF,) * len(keys))
        return ("dict", keys, tuple([_flatten(value, leaves) for value in values]))
    if isinstance(tree, tuple):
        children = tuple([_flatten(child, leaves) for child in tree])
        if hasattr(kind, "_fields"):
            return ("namedtuple", kind, children)
        return ("tuple", None, children)
    if isinstance(tree, list):
        if _is_numbers(tree):
            leaves.append(_to_array(tree))
            return LEAF
        return ("list", None, tuple([_flatten(child, leaves) for child in tree]))
    leaves.append(tree)
    return LEAF


def _sorted_keys(tree: dict[Any, Any]) -> tuple[Any, ...]:
    try:
        return tuple(sorted(tree))
    except TypeError:  # keys of different types have no order of their own
        return tuple(sorted(tree, key=lambda key: (type(key).__name__, repr(key))))


def _is_numbers(tree: list[Any]) -> bool:
    """Whether this is a nonempty list of numbers, or of such lists."""
    return bool(tree) and all(
        _is_numbers(item) if isinstance(item, list) else isinstance(item, _NUMBERS) for item in tree
    )


def _to_array(tree: list[Any]) -> npt.NDArray[Any]:
    try:
        return np.array(tree)
    except ValueError:
        text = repr(tree)
        raise InputError(
            "lists of numbers are read as arrays, and the rows of this one differ in length: "
            f"{text if len(text) <= 60 else text[:57] + '...'}"
        ) from None


def unflatten(treedef: TreeDef, leaves: Sequence[Any]) -> Any:
    """Put a tree together from its structure and as many leaves as it has.

    Examples
    --------
    >>> _, treedef = flatten([np.zeros(2), {"k": 0.5}])
    >>> unflatten(treedef, ["first", "second"])
    ['first', {'k': 'second'}]
    """
    remaining = iter(leaves)
    try:
        tree = _unflatten(treedef, remaining)
    except StopIteration:
        raise InputError(f"a tree needs more leaves than the {len(leaves)} given") from None
    if next(remaining, LEAF) is not LEAF:
        raise InputError(f"a tree has fewer leaves than the {len(leaves)} given")
    return tree


def _unflatten(treedef: Any, leaves: Any) -> Any:
    if treedef is LEAF or treedef == LEAF:  # equal but not identical after unpickling
        return next(leaves)
    if treedef is None:
        return None
    kind, data, children = treedef
    if kind == "dict":
        if children.count(LEAF) == len(children):
            return {key: next(leaves) for key in data}
        return {key: _unflatten(child, leaves) for key, child in zip(data, children, strict=True)}
    values = [_unflatten(child, leaves) for child in children]
    if kind == "list":
        return values
    return tuple(values) if kind == "tuple" else data._make(values)


def flatten_up_to(treedef: TreeDef, tree: Any) -> list[Any]:
    """What stands in place of the leaves of ``treedef``; it may be a tree itself.

    Raises
    ------
    InputError
        If the tree has another structure down to there.

    Examples
    --------
    >>> flatten_up_to(flatten({"x": 1.0, "y": 2.0})[1], {"x": [1.0, [2.0]], "y": None})
    [[1.0, [2.0]], None]
    """
    found: list[Any] = []
    _flatten_up_to(treedef, tree, found)
    return found


def _flatten_up_to(treedef: Any, tree: Any, found: list[Any]) -> None:
    if treedef == LEAF:
        found.append(tree)
        return
    if treedef is None:
        if tree is not None:
            raise InputError("a tree has something where another has None")
        return
    kind, data, children = treedef
    if kind == "dict":
        same = isinstance(tree, dict) and set(tree) == set(data)
        items = [tree[key] for key in data] if same else []
    else:
        same = isinstance(tree, list | tuple) and len(tree) == len(children)
        items = list(tree) if same else []
    if not same:
        raise InputError(f"a tree has {type(tree).__name__} where another has a {kind} of its own")
    for child, item in zip(children, items, strict=True):
        _flatten_up_to(child, item, found)


def paths(treedef: TreeDef, root: str = "") -> list[str]:
    """Each leaf as a reader of Python would write it, for error messages.

    Examples
    --------
    >>> paths(flatten({"W1": np.eye(2), "heads": [np.eye(2), {"b": 1.0}]})[1], "params")
    ["params['W1']", "params['heads'][0]", "params['heads'][1]['b']"]
    """
    found: list[str] = []
    _paths(treedef, root, found)
    return found


def _paths(treedef: Any, prefix: str, found: list[str]) -> None:
    if treedef is None:
        return
    if treedef == LEAF:
        found.append(prefix)
        return
    kind, data, children = treedef
    for index, child in enumerate(children):
        if kind == "dict":
            step = f"[{data[index]!r}]"
        elif kind == "namedtuple":
            step = f".{data._fields[index]}"
        else:
            step = f"[{index}]"
        _paths(child, prefix + step, found)


def map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to each leaf, and to the same leaf of every other tree.

    Raises
    ------
    InputError
        If the trees differ in structure.

    Examples
    --------
    >>> map(lambda a, b: a + 10 * b, {"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0})
    {'x': 31.0, 'y': 42.0}
    """
    treedef, leaves = columns(tree, *others)
    return unflatten(treedef, [function(*row) for row in zip(*leaves, strict=True)])


def columns(tree: Any, *others: Any) -> tuple[TreeDef, list[list[Any]]]:
    """The structure of all trees, and the leaves of each.

    Raises
    ------
    InputError
        If the trees differ in structure.

    Examples
    --------
    >>> columns({"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0})[1]
    [[1.0, 2.0], [3.0, 4.0]]
    """
    leaves, treedef = flatten(tree)
    out = [leaves]
    for other in others:
        other_leaves, other_treedef = flatten(other)
        if other_treedef != treedef:
            raise InputError(
                "trees differ in structure: one has the leaves "
                f"{paths(treedef)}, the other {paths(other_treedef)}"
            )
        out.append(other_leaves)
    return treedef, out


def ravel(tree: Any) -> tuple[npt.NDArray[Any], Callable[[Any], Any]]:
    """A tree of arrays as one vector, and the way back.

    Parameters
    ----------
    tree : tree of real arrays

    Returns
    -------
    vector : ndarray, shape (N,)
        All elements, leaf after leaf in the order of `flatten`, each in C order. The dtype is the
        widest of the leaves, at least a floating-point one.
    unravel : callable
        ``unravel(vector)`` is a tree of the same structure and shapes. A floating-point leaf has
        its own dtype again, an integer one stays what the vector is. In a field it takes a traced
        vector as well.

    Raises
    ------
    InputError
        If a leaf is not a real array, or a vector of the wrong length is unravelled.

    Examples
    --------
    >>> vector, unravel = ravel({"W": np.eye(2), "b": [3, 4]})
    >>> vector
    array([1., 0., 0., 1., 3., 4.])
    >>> unravel(2 * vector)["b"]
    array([6., 8.])
    """
    leaves, treedef = flatten(tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    for path, array in zip(paths(treedef, "tree"), arrays, strict=True):
        if array.dtype.kind not in "fiub":
            raise InputError(f"{path} is not a real array but has dtype {array.dtype}")
    floating = [a.dtype for a in arrays if a.dtype.kind == "f"]
    integers = any(a.dtype.kind != "f" for a in arrays)
    dtype = np.result_type(*floating, *([np.float64] if integers or not floating else []))
    vector = np.concatenate([np.ravel(a).astype(dtype) for a in arrays] or [np.empty(0, dtype)])
    shapes = [a.shape for a in arrays]
    dtypes = [a.dtype if a.dtype.kind == "f" else None for a in arrays]
    ends = np.cumsum([a.size for a in arrays], dtype=int).tolist()
    size = vector.size

    def unravel(vector: Any) -> Any:
        if not hasattr(vector, "shape"):
            vector = np.asarray(vector)
        if tuple(vector.shape) != (size,):
            raise InputError(
                f"unravel needs a vector of shape {(size,)}, not {tuple(vector.shape)}"
            )
        parts = []
        for begin, end, shape, own in zip([0, *ends], ends, shapes, dtypes, strict=False):
            part = np.reshape(vector[begin:end], shape)
            if own is not None and isinstance(part, np.ndarray) and part.dtype != object:
                part = part.astype(own)
            parts.append(part)
        return unflatten(treedef, parts)

    return vector, unravel
