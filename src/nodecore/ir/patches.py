"""An array that is written to piece by piece, as nodes that are never changed."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Graph, Node


class Patches:
    """The nodes that were written, and for each element its place in their concatenation."""

    __slots__ = ("g", "parts", "starts", "where")

    def __init__(self, g: Graph, first: Node) -> None:
        self.g, self.parts, self.starts = g, [first], [0, first.n]
        self.where = np.arange(first.n)

    def write(self, at: npt.NDArray[Any], node: Node) -> None:
        """The elements at flat positions ``at`` become the rows of ``node``."""
        start = self.starts[-1]
        self.where[at] = start if node.n == 1 else np.arange(start, start + node.n)
        self.parts.append(node)
        self.starts.append(start + node.n)

    def read(self, at: Any) -> Node | None:
        """The elements at ``at`` if one node has them all."""
        where = self.where[at].reshape(-1)
        if not where.size:
            return None
        low, high = int(where.min()), int(where.max())
        k = bisect_right(self.starts, low) - 1
        if high >= self.starts[k + 1]:
            return None
        return self.g.gather(self.parts[k], where - self.starts[k])

    def row(self, at: int) -> Node:
        """One element."""
        place = int(self.where[at])
        k = bisect_right(self.starts, place) - 1
        return self.g.row(self.parts[k], place - self.starts[k])

    def assemble(self) -> Node:
        """All elements, each as it was written last."""
        g, where, starts = self.g, self.where, np.array(self.starts[:-1])
        owner = np.searchsorted(starts, where, side="right") - 1
        used = np.unique(owner)
        begins = np.diff(where, prepend=-2) != 1
        begins |= np.diff(owner, prepend=-1) != 0
        first = np.flatnonzero(begins)
        if len(first) <= 2 * len(used):  # long runs: pieces one after the other
            pieces = []
            lasts = [*first[1:].tolist(), where.size]
            for low, high in zip(first.tolist(), lasts, strict=True):
                part = self.parts[owner[low]]
                if high - low == part.n:
                    pieces.append(part)
                else:
                    begin = int(where[low] - starts[owner[low]])
                    pieces.append(g.gather(part, np.arange(begin, begin + high - low)))
            return g.concat(pieces)
        whole = g.concat([self.parts[k] for k in used])
        sizes = np.array([self.parts[k].n for k in used])
        shift = np.cumsum(sizes) - sizes - starts[used]
        return g.gather(whole, where + shift[np.searchsorted(used, owner)])
