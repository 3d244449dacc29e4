"""Programs: straight-line code over register files, as the kernels read it.

A :class:`Program` is immutable. ``pack`` gives the array of 64-byte instructions of
``_kernels/structs.h``; ``str`` prints one register transfer a line; ``check`` verifies that every
operand is inside its space and every register is written before it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from .ops import ARITY, OPCODE

Int32Array = npt.NDArray[np.int32]


class Kind(IntEnum):
    """How an operand spreads over rows and lanes (``enum nc_kind``)."""

    LANE = 0
    ROW = 1
    UNI = 2
    USC = 3
    ABSENT = 4


class Space(IntEnum):
    """Where an operand lives (``enum nc_space``)."""

    RF = 0
    U = 1
    S = 2
    T = 3
    Y = 4
    OUT = 5
    RES = 6
    CT = 7
    YBAR = 8
    TBAR = 9
    SBAR = 10
    ARGS = 11
    CURVE = 12
    V = 13


@dataclass(frozen=True, slots=True)
class Operand:
    """Rows ``off, off + 1, ...`` of a space."""

    space: Space
    off: int
    kind: Kind = Kind.LANE

    def __str__(self) -> str:
        if self.kind is Kind.ABSENT:
            return "-"
        suffix = {Kind.LANE: "", Kind.ROW: "[row]", Kind.UNI: "", Kind.USC: "[scalar]"}[self.kind]
        return f"{self.space.name.lower()}{self.off}{suffix}"


ABSENT = Operand(Space.RF, 0, Kind.ABSENT)


@dataclass(frozen=True, slots=True)
class Instr:
    """One instruction; see ``_kernels/ops.def`` for the meaning of each op."""

    op: str
    n: int
    dst: Operand = ABSENT
    a: Operand = ABSENT
    b: Operand = ABSENT
    c: Operand = ABSENT
    p: tuple[int, int, int, int] = (0, 0, 0, 0)
    aux: int = 0
    panel: int = 0

    def reads(self) -> list[tuple[Operand, int]]:
        """Each operand that is read, with the number of its rows."""
        O, K, J, I = self.p  # noqa: E741
        rows = {
            "affine": (O * K * I, K * J, J),
            "matmul": (O * K * I, K * J, 0),
            "outer": (O * K * I, O * J * I, 0),
            "acc": (O * K * I, O * J * I, 0),
        }.get(self.op, (self.n, self.n, self.n))
        out = []
        for operand, n in zip((self.a, self.b, self.c), rows, strict=True):
            if operand.kind is not Kind.ABSENT:
                one = operand.kind in (Kind.ROW, Kind.USC)
                out.append((operand, 1 if one else n))
        return out

    def __str__(self) -> str:
        operands = ", ".join(str(x) for x in (self.a, self.b, self.c) if x.kind is not Kind.ABSENT)
        dims = f" {self.p}" if any(self.p) else ""
        dst = f"{self.dst}:{self.n}"
        if self.op == "acc":
            bias = "" if self.dst.kind is Kind.ABSENT else f", acc{self.dst.off}"
            dst = f"acc{self.aux}{bias}"
        return f"{dst} := {self.op}({operands}){dims}"


@dataclass(frozen=True, eq=False)
class Program:
    """Instructions, their pool of indices, and the rows of the register file they need."""

    code: tuple[Instr, ...]
    ipool: Int32Array
    rf_rows: int
    n_panels: int = 0
    name: str = ""
    packed: Int32Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "packed", self._pack())

    def _pack(self) -> Int32Array:
        rows = []
        for i in self.code:
            row = [OPCODE[i.op], i.n]
            for x in (i.dst, i.a, i.b, i.c):
                row += [int(x.space) | int(x.kind) << 8, x.off]
            rows.append([*row, *i.p, i.aux, i.panel])
        return np.array(rows, np.int32).reshape(len(rows), 16)

    def __str__(self) -> str:
        head = f"{self.name or 'program'}: {len(self.code)} instructions, {self.rf_rows} registers"
        return "\n".join([head, *(f"  {i}" for i in self.code)])

    def check(self, rows: Mapping[Space, int]) -> None:
        """Raise ``AssertionError`` if the program is not legal for spaces of these many rows."""
        sizes = {**rows, Space.RF: self.rf_rows}
        written = np.zeros(self.rf_rows, bool)
        for i in self.code:
            arity = ARITY[i.op]
            given = sum(x.kind is not Kind.ABSENT for x in (i.a, i.b, i.c))
            assert arity in (0, given), f"{i}: {given} operands"
            for x, n in i.reads():
                if i.op in ("gather", "segsum"):
                    continue  # the index decides; its range is checked where it is made
                assert x.off >= 0 and x.off + n <= sizes.get(x.space, 0), f"{i}: {x} out of range"
                if x.space is Space.RF:
                    assert written[x.off : x.off + n].all(), f"{i}: {x} read before written"
            if i.op != "acc":
                assert i.dst.off + i.n <= sizes.get(i.dst.space, 0), f"{i}: dst out of range"
                if i.dst.space is Space.RF:
                    written[i.dst.off : i.dst.off + i.n] = True
