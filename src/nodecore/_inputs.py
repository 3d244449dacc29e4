"""From what users pass to what the kernels read: batch, times, stops, tolerances.

Every message says which argument (and which leaf, sample, time) is wrong and what to write.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nodecore import tree
from nodecore.status import InputError

Array = npt.NDArray[Any]

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class State(NamedTuple):
    """The initial states: ``y0`` (B, D), and the tree they came from."""

    y0: Array
    treedef: Any
    shapes: tuple[tuple[int, ...], ...]  # of one sample's leaves
    dtypes: tuple[Any, ...]
    batched: bool

    def split(self, flat: Array) -> Any:
        """A tree like y0 from an array whose last axis holds the D components."""
        if len(self.shapes) == 1:
            leaves = [flat.reshape(flat.shape[:-1] + self.shapes[0])]
        else:
            leaves, start = [], 0
            for shape in self.shapes:
                n = int(np.prod(shape))
                part = flat[..., start : start + n]
                leaves.append(part.reshape(flat.shape[:-1] + shape))
                start += n
        return leaves[0] if self.treedef == tree.LEAF else tree.unflatten(self.treedef, leaves)


def _leaf_array(leaf: Any, what: str) -> Array:
    try:
        a = np.asarray(leaf)
    except ValueError as error:
        raise InputError(f"{what} is not an array: {error}") from None
    kind = a.dtype.kind
    if kind == "f" or kind in "iub":
        return a
    if kind == "c":
        raise InputError(f"{what} is complex: stack its real and imaginary part")
    raise InputError(f"{what} has dtype {a.dtype}: it must be an array of real numbers")


def _arrays(value: Any, root: str) -> tuple[list[Array], Any]:
    """The leaves of a tree as arrays of real numbers, and its treedef."""
    if type(value) is np.ndarray:
        leaves, treedef = [value], tree.LEAF
    else:
        leaves, treedef = tree.flatten(value)
    for i, leaf in enumerate(leaves):
        if type(leaf) is not np.ndarray or leaf.dtype.kind not in "fiub":
            leaves[i] = _leaf_array(leaf, root + tree.paths(treedef)[i])
    return leaves, treedef


def state(y0: Any, batch: bool | None) -> State:
    """Read y0 and decide what its batch is."""
    arrays, treedef = _arrays(y0, "y0")
    if not arrays:
        raise InputError("y0 is empty: a state needs at least one array")

    def path(i: int) -> str:
        return "y0" + tree.paths(treedef)[i]

    if batch is None:
        many = [a.ndim >= 2 for a in arrays]
        batched = many[0]
        if (not batched) in many:
            odd = many.index(not batched)
            raise InputError(
                f"{path(0)} has {arrays[0].ndim} dimensions and {path(odd)} has "
                f"{arrays[odd].ndim}: it is unclear whether there is a batch. Pass batch=True "
                "(axis 0 of every leaf is the batch) or batch=False (one sample)"
            )
    elif isinstance(batch, bool | np.bool_):
        batched = bool(batch)
    else:
        raise InputError(f"batch must be True, False or None, not {batch!r}")
    B = 1
    if batched:
        for i, a in enumerate(arrays):
            if a.ndim == 0:
                raise InputError(f"{path(i)} has no batch axis, but batch=True was given")
            if a.shape[0] != arrays[0].shape[0]:
                raise InputError(
                    f"{path(i)} has {a.shape[0]} samples, {path(0)} has {arrays[0].shape[0]}"
                )
        B = arrays[0].shape[0]
    dtype = _FLOAT32 if all([a.dtype.char == "f" for a in arrays]) else _FLOAT64
    shapes = tuple([a.shape[1:] if batched else a.shape for a in arrays])
    flat = [a.reshape(B, -1) if a.size else a.reshape(B, 0) for a in arrays]
    out = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
    if out.dtype is not dtype or not out.flags.c_contiguous:
        out = np.ascontiguousarray(out, dtype)
    if out.size == 0:
        raise InputError("y0 is empty: " + ("no samples" if B == 0 else "no components"))
    return State(out, treedef, shapes, tuple([a.dtype for a in arrays]), batched)


class Args(NamedTuple):
    """Per-sample args: ``flat`` (B, n) in the state's dtype, and the tree they came from."""

    flat: Array | None
    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    kinds: tuple[str, ...]
    leaves: tuple[Array, ...]


NO_ARGS = Args(None, None, (), (), (), ())


def args_of(args: Any, B: int, batched: bool, dtype: Any) -> Args:
    """Read args: leaves with the batch as first axis (for one sample: none)."""
    if args is None:
        return NO_ARGS
    arrays, treedef = _arrays(args, "args")
    if batched:
        for i, a in enumerate(arrays):
            if a.ndim == 0 or a.shape[0] != B:
                raise InputError(
                    f"args{tree.paths(treedef)[i]} has shape {a.shape}, but the batch has {B} "
                    "samples: the first axis of args is the batch; shared constants belong in "
                    "params"
                )
    shapes = tuple([a.shape[1:] if batched else a.shape for a in arrays])
    flat = [a.reshape(B, -1) for a in arrays]
    joined = (flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)) if flat else None
    return Args(
        None if joined is None else np.ascontiguousarray(joined, dtype),
        treedef,
        shapes,
        tuple([a.dtype for a in arrays]),
        tuple([a.dtype.kind if a.dtype.kind in "fb" else "i" for a in arrays]),
        tuple(arrays),
    )


class Times(NamedTuple):
    """Output times: sample b has ``t[t_off[b]:]``, output rows ``out_off[b]:out_off[b + 1]``."""

    t: Array
    t_off: Array
    out_off: Array
    form: str  # "shared", "rows", "ragged"
    given: Any

    def of(self, b: int) -> Array:
        """Sample b's times."""
        n = int(self.out_off[b + 1] - self.out_off[b])
        start = int(self.t_off[b])
        out: Array = self.t[start : start + n]
        return out

    def split(self, rows: Array, batched: bool) -> Any:
        """Rows of all outputs (N, ...) as (T, ...), (B, T, ...) or a list of (T_b, ...)."""
        if self.form == "ragged":
            return [rows[a:b] for a, b in zip(self.out_off[:-1], self.out_off[1:], strict=True)]
        if not batched:
            return rows
        B = len(self.t_off)
        return rows.reshape((B, rows.shape[0] // B) + rows.shape[1:])


@lru_cache(maxsize=64)
def _offsets(B: int, T: int, shared: bool) -> tuple[Array, Array]:
    t_off = np.zeros(B, np.int64) if shared else np.arange(B, dtype=np.int64) * T
    out_off = np.arange(B + 1, dtype=np.int64) * T
    t_off.flags.writeable = out_off.flags.writeable = False
    return t_off, out_off


def times(t: Any, B: int, batched: bool) -> Times:
    """Read t: (T,) shared, (B, T), or a list of B arrays."""
    if type(t) is np.ndarray and t.ndim == 1 and t.dtype == np.float64:
        _check_times(t, None)
        return Times(np.ascontiguousarray(t), *_offsets(B, t.size, True), "shared", t)
    if isinstance(t, list | tuple) and any(np.ndim(x) > 0 for x in t):
        if not batched:
            raise InputError("t is a list of arrays, but there is one sample: pass one array")
        if len(t) != B:
            raise InputError(f"t has {len(t)} arrays of times, but the batch has {B} samples")
        rows = [_times_array(x, f"t[{b}]") for b, x in enumerate(t)]
        for b, row in enumerate(rows):
            if row.ndim != 1:
                raise InputError(f"t[{b}] has shape {row.shape}: times are one-dimensional")
            if row.size == 0:
                raise InputError(f"t of sample {b} is empty: t[0] is the initial time")
        out_off = np.zeros(B + 1, np.int64)
        np.cumsum([row.size for row in rows], out=out_off[1:])
        flat = np.concatenate(rows)
        _check_times(flat, out_off)
        return Times(flat, out_off[:-1].copy(), out_off, "ragged", t)
    a = _times_array(t, "t")
    if a.ndim == 1:
        _check_times(a, None)
        return Times(a, *_offsets(B, a.size, True), "shared", t)
    if a.ndim == 2 and batched:
        if a.shape[0] != B:
            raise InputError(f"t has {a.shape[0]} rows of times, but the batch has {B} samples")
        if a.size == 0:
            raise InputError("t is empty: t[:, 0] are the initial times")
        offsets = _offsets(B, a.shape[1], False)
        _check_times(a.reshape(-1), offsets[1])
        return Times(a.reshape(-1), *offsets, "rows", t)
    raise InputError(
        f"t has shape {a.shape}: it must be (T,), shared by all samples"
        + (f", ({B}, T), or a list of {B} arrays" if batched else "")
    )


def _times_array(t: Any, name: str) -> Array:
    try:
        a = np.asarray(t)
        if a.dtype.kind not in "fiu":
            raise ValueError(f"dtype {a.dtype}")
    except ValueError as error:
        raise InputError(f"{name} must be an array of real numbers: {error}") from None
    return np.asarray(a, np.float64, order="C")


def _check_times(t: Array, off: Array | None) -> None:
    """Strictly monotonic and finite: all of t, or each part off[b]:off[b + 1] of it."""
    if t.size == 0:
        raise InputError("t is empty: t[0] is the initial time")
    # Comparisons with NaN are false, so between finite ends a monotonic part is finite.
    up, down = t[1:] > t[:-1], t[1:] < t[:-1]
    if off is None:
        ok = (bool(up.all()) or bool(down.all())) and math.isfinite(t[0]) and math.isfinite(t[-1])
        if not ok:
            raise _bad_times(t, "t")
        return
    first, last = off[:-1], off[1:] - 1
    monotonic = np.zeros(len(first), bool)
    for steps in (up, down):
        steps = np.append(steps, True)
        steps[last] = True  # from one sample to the next
        monotonic |= np.logical_and.reduceat(steps, first)
    ok_each = monotonic & np.isfinite(t[first]) & np.isfinite(t[last])
    if not ok_each.all():
        b = int(np.argmin(ok_each))
        raise _bad_times(t[off[b] : off[b + 1]], f"t of sample {b}")


def _bad_times(t: Array, where: str) -> InputError:
    bad = np.flatnonzero(~np.isfinite(t))
    if bad.size:
        return InputError(f"{where} is not finite at index {bad[0]}: {t[bad[0]]}")
    step = t[1:] - t[:-1]
    k = int(np.flatnonzero(step <= 0 if t[-1] >= t[0] else step >= 0)[0])
    what = "repeated" if t[k] == t[k + 1] else "unsorted"
    return InputError(
        f"{where} has {what} times at index {k + 1}: {t[k]}, {t[k + 1]}. Times must be strictly "
        "increasing or decreasing; solve at t, i = np.unique(t, return_inverse=True) and read "
        "y[..., i, :]"
    )


def stops(tstops: Any, when: Times, B: int) -> tuple[Array | None, Array | None]:
    """Times where steps end: ``stops``, ``stop_off`` (B + 1), sorted along each sample's time."""
    if tstops is True or tstops is False or tstops is None:
        return None, None
    if isinstance(tstops, list | tuple) and any(np.ndim(x) > 0 for x in tstops):
        if len(tstops) != B:
            raise InputError(f"tstops has {len(tstops)} arrays, but the batch has {B} samples")
        each = [_times_array(x, f"tstops[{b}]") for b, x in enumerate(tstops)]
    else:
        each = [_times_array(tstops, "tstops")] * B
    out = []
    for b, row in enumerate(each):
        if row.ndim != 1:
            raise InputError(
                f"tstops has shape {row.shape}: it must be True, False, times (K,) or a list of "
                "arrays, one a sample"
            )
        if not np.isfinite(row).all():
            raise InputError(f"tstops must be finite, not {row[~np.isfinite(row)][0]}")
        t = when.of(b)
        lo, hi = min(t[0], t[-1]), max(t[0], t[-1])
        inside = np.unique(row[(row >= lo) & (row <= hi)])
        out.append(inside if t[-1] >= t[0] else inside[::-1])
    off = np.concatenate([[0], np.cumsum([r.size for r in out])]).astype(np.int64)
    flat = np.concatenate(out) if off[-1] else np.zeros(1)
    return np.ascontiguousarray(flat), off


def tolerance(atol: Any, like: State) -> Array:
    """atol as one number a state component, in the state's dtype."""
    D = like.y0.shape[1]
    arrays, treedef = _arrays(atol, "atol")
    if treedef == tree.LEAF and arrays[0].ndim == 0:
        out = np.full(D, float(arrays[0]))
    elif treedef == like.treedef:
        parts = []
        for i, (a, shape) in enumerate(zip(arrays, like.shapes, strict=True)):
            try:
                parts.append(np.broadcast_to(a, shape).reshape(-1))
            except ValueError:
                raise InputError(
                    f"atol{tree.paths(treedef)[i]} of shape {a.shape} does not fit a state of "
                    f"shape {shape}: pass one number, or one a state component (without the batch)"
                ) from None
        out = np.concatenate(parts).astype(np.float64)
    elif treedef == tree.LEAF and arrays[0].size == D:
        out = arrays[0].astype(np.float64).reshape(-1)
    else:
        raise InputError(
            f"atol does not fit the state of {D} components: pass one number, or a tree like y0 "
            "with one number a component"
        )
    if not (np.isfinite(out).all() and (out >= 0).all()):
        raise InputError(f"atol must be finite and not negative, not {atol!r}")
    return np.ascontiguousarray(out, like.y0.dtype)


def number(name: str, value: Any, *, positive: bool = True, infinite: bool = False) -> float:
    """A real option."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        x = float(value)
        if (x > 0 or not positive) and (np.isfinite(x) or (infinite and x == np.inf)):
            return x
    raise InputError(f"{name} must be a {'positive ' if positive else ''}number, not {value!r}")


def returned(result: Any, shape: tuple[int, ...], who: str, like: str) -> Array:
    """What a callback returned, as an array of reals of a given shape."""
    try:
        a = np.asarray(result)
    except ValueError as error:
        raise InputError(f"{who} returned what is not an array: {error}") from None
    if a.dtype.kind not in "fiub":
        raise InputError(f"{who} returned dtype {a.dtype}, not an array of real numbers")
    if a.shape != shape:
        raise InputError(f"{who} returned shape {a.shape} for {like} of shape {shape}")
    return a


def params_leaves(params: Any) -> tuple[list[Array], Any]:
    """The params' leaves as arrays."""
    if params is None:
        return [], None
    return _arrays(params, "params")
