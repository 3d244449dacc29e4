"""Types of the compiled boundary; what each thing does stands in _engine.pyx."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nodecore.ir.lower import Lowered
from nodecore.methods import Solver

_Array: TypeAlias = npt.NDArray[Any]
_Floats: TypeAlias = npt.NDArray[np.float64]
_Ints: TypeAlias = npt.NDArray[np.int64]

# of an opaque field: (times, states, samples), and for its pullback also the cotangents
_Field: TypeAlias = Callable[[_Floats, _Array, _Ints], _Array]
_Pull: TypeAlias = Callable[[_Floats, _Array, _Ints, _Array, bool], _Array]
# (lanes, chunk bounds, bytes of a checkpoint, of a record besides, of all samples' values) to each
# chunk's (kind, slots, steps, segment), and the bytes for step traces
_Chunks: TypeAlias = Sequence[tuple[int, int, int, int]]
_Plan: TypeAlias = Callable[[int, list[int], int, int, int], tuple[_Chunks | None, int]]
# offsets, starts, sizes, coefficients (pieces, degree + 1, rows)
_Curve: TypeAlias = tuple[_Array, ...]
# events as in `Run.events`, their states, and the offsets of each sample's
_Events: TypeAlias = tuple[_Array, _Array, _Ints]

ISAS: tuple[str, ...]

def isas_available() -> tuple[str, ...]: ...
def openmp() -> tuple[bool, int]: ...
def times_ok(t: _Floats) -> bool: ...
def run_program(
    code: npt.NDArray[np.int32],
    ipool: npt.NDArray[np.int32],
    rf_rows: int,
    spaces: Mapping[int, _Array],
    L: int,
    isa: str,
    acc: _Floats | None = None,
) -> None: ...
def lu(
    M: _Array,
    b: _Array,
    isa: str,
    transposed: bool = False,
    hg: _Array | None = None,
    again: _Array | None = None,
    mask: _Array | None = None,
) -> tuple[_Array, npt.NDArray[np.bool_], _Array]: ...
def schedule_first_sweep(
    kind: int, slots: int, n: int, segment: int, known: bool
) -> tuple[list[int], list[tuple[int, int]]]: ...
def schedule_split(n: int, slots: int) -> int: ...

class Fields:
    @property
    def lowered(self) -> Lowered: ...
    @property
    def method(self) -> Solver | None: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def isa(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def n_args(self) -> int: ...
    @property
    def n_params(self) -> int: ...
    @property
    def n_uniform(self) -> int: ...
    @property
    def params_off(self) -> int: ...
    @property
    def acc_size(self) -> int: ...
    @property
    def has_adjoint(self) -> bool: ...
    @property
    def time_dependent(self) -> bool: ...
    @property
    def vector_lanes(self) -> int: ...
    def __init__(
        self,
        lowered: Lowered | None,
        method: Solver | None,
        dtype: npt.DTypeLike,
        isa: str,
        dim: int = 0,
        n_args: int = 0,
    ) -> None: ...
    def uniform(self, leaves: list[_Array]) -> _Array: ...
    def params_bar(self, uniform: _Array, acc: _Floats) -> tuple[_Floats, bool]: ...

class Run:
    @property
    def fields(self) -> Fields: ...
    @property
    def inputs(self) -> tuple[Any, ...]: ...
    @property
    def uniform(self) -> _Array | None: ...
    @property
    def y(self) -> _Array: ...
    @property
    def ints(self) -> _Ints: ...
    @property
    def floats(self) -> _Floats: ...
    @property
    def status(self) -> npt.NDArray[np.int32]: ...
    @property
    def sample_values(self) -> _Array | None: ...
    @property
    def failed(self) -> _Ints | None: ...
    @property
    def last(self) -> _Array | None: ...
    @property
    def events(self) -> _Array | None: ...
    @property
    def event_y(self) -> _Array | None: ...
    @property
    def event_off(self) -> _Ints | None: ...
    @property
    def plan(self) -> _Plan | None: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def lanes(self) -> tuple[int, int]: ...
    def __init__(
        self,
        fields: Fields,
        uniform: _Array | None,
        inputs: tuple[Any, ...],
        control: tuple[Any, ...],
        keep: _Plan | None,
        opaque: tuple[_Field, _Pull | None, _Field] | None = None,
        curve: _Curve | None = None,
        events: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None = None,
        given_events: _Events | None = None,
        grid_k: _Array | None = None,
    ) -> None: ...
    def forward(
        self, n_threads: int, deadline: float, progress: Callable[[float], object] | None = None
    ) -> None: ...
    def backward(
        self,
        dy: _Array,
        n_threads: int,
        grid_rule: int,
        want_t: bool = False,
        progress: Callable[[float], object] | None = None,
        event_t_bar: _Floats | None = None,
        event_y_bar: _Array | None = None,
    ) -> tuple[_Array, _Array | None, _Floats | None, _Floats, tuple[int, float, int] | None]: ...
    def all_ok(self) -> bool: ...
    def storage_bytes(self) -> int: ...
    def recomputed_steps(self) -> int: ...
    def kept_steps(self) -> list[int]: ...
    def steps(self) -> tuple[_Array, ...]: ...
