"""The compiled core, as Python sees it.

    ops.def status.def isa.def     opcodes, statuses, instruction sets: data, included by C and
                                   read by Python
    structs.h solve.h backend.h    plain C: programs; a solve; what a variant offers
    simd/                          vectors and vector maths
    vm/                            evaluates programs for a tile of samples
    linalg/                        LU of a tile's matrices; matrix exponentials
    methods/                       steps and reverses a tile
    lanes/                         gives samples to lanes, records, walks back
    variant.h, variant_*.c         all of these templates for one ISA, float64 and float32
    dispatch.c                     which variant; the clock, work spaces, records
    schedule.c                     which steps keep their state
    _engine.pyx                    the boundary, and the parallel loop

Only :mod:`nodecore.plan` imports this package (and tests).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ._engine import (
    ISAS,
    Fields,
    Run,
    isas_available,
    lu,
    openmp,
    run_program,
    schedule_first_sweep,
    schedule_split,
    times_ok,
)

__all__ = [
    "ISAS",
    "Fields",
    "Run",
    "elementwise",
    "isas_available",
    "lu",
    "openmp",
    "run_program",
    "schedule_first_sweep",
    "schedule_split",
    "times_ok",
]


def elementwise(name: str, isa: str, *arrays: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """One op of ops.def on arrays of equal shape, by the kernels of one ISA (for tests)."""
    from ..ir.program import ABSENT, Instr, Operand, Program, Space

    spaces = (Space.Y, Space.S, Space.CT)
    flat = [np.ascontiguousarray(a).reshape(-1, 1) for a in arrays]
    n = flat[0].size
    read = [Operand(space, 0) for space in spaces[: len(flat)]]
    a, b, c = read + [ABSENT] * (3 - len(read))
    code = Instr(name, n, Operand(Space.OUT, 0), a, b, c)
    program = Program((code,), np.zeros(1, np.int32), 0)
    out = np.zeros_like(flat[0])
    given = {int(s): a for s, a in zip(spaces, flat, strict=False)}
    run_program(program.packed, program.ipool, 0, {**given, int(Space.OUT): out}, 1, isa)
    return out.reshape(np.shape(arrays[0]))
