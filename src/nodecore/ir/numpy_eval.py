"""The slow reference interpreter: the meaning of a graph, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Node, reachable
from .ops import OPS

Array = npt.NDArray[Any]


def evaluate(
    outs: Sequence[Node], env: Mapping[Node, npt.ArrayLike], dtype: npt.DTypeLike = np.float64
) -> list[Array]:
    """The values of ``outs``, flat arrays of ``n`` numbers, for the inputs' values in ``env``."""
    val: dict[Node, Array] = {k: np.asarray(v, dtype).reshape(-1) for k, v in env.items()}
    with np.errstate(all="ignore"):
        for v in reachable(outs, stop=lambda node: node in val):
            if v not in val:
                val[v] = _apply(v, [val[a] for a in v.args], dtype)
    return [val[o] for o in outs]


def _apply(v: Node, a: list[Array], dtype: npt.DTypeLike) -> Array:
    if v.op in OPS:
        return np.broadcast_to(np.asarray(OPS[v.op].numpy(*a), dtype), v.n)
    if v.op == "const":
        return np.asarray(v.data, dtype)
    if v.op == "gather":
        return np.where(v.data < 0, 0, a[0][v.data]).astype(dtype)
    if v.op == "segsum":
        keep = v.data >= 0
        out = np.zeros(v.n, dtype)
        np.add.at(out, v.data[keep], a[0][keep])
        return out
    if v.op == "concat":
        return np.concatenate(a)
    O, K, J, I = v.attrs  # noqa: E741
    x = a[0].reshape(O, K, I)
    if v.op == "contract":
        out = np.einsum("oki,kj->oji", x, a[1].reshape(K, J))
        if len(a) > 2:
            out = out + a[2].reshape(1, J, 1)
        return np.asarray(out.reshape(-1))
    if v.op == "outer":
        return np.asarray(np.einsum("oki,oji->kj", x, a[1].reshape(O, J, I)).reshape(-1))
    raise AssertionError(f"no meaning for {v}")
