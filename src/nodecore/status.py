"""How a sample's solve ended, and the exceptions that say so.

Codes and messages are read from ``_kernels/status.def``, the file that C makes its enum from.
"""

from __future__ import annotations

import os.path
import re
from enum import IntEnum
from typing import Any

_LINE = re.compile(r'^STATUS\((\d+), (\w+), "(.*)"\)$', re.MULTILINE)
# os.path, not pathlib: pathlib costs a tenth of what importing all of this package does
_FILE = os.path.join(os.path.dirname(__file__), "_kernels", "status.def")
with open(_FILE, encoding="utf-8") as _file:
    _TABLE = {name: (int(code), message) for code, name, message in _LINE.findall(_file.read())}
_MESSAGES: dict[int, str] = dict(_TABLE.values())


class Status(IntEnum):
    """How one sample's solve ended.

    ``OK`` (0) and ``EVENT`` (stopped by a terminal event) count as success.

    Examples
    --------
    >>> Status(3)
    <Status.MAX_STEPS: 3>
    >>> Status.MAX_STEPS.describe(t=1.5, h=1e-3)
    'max_steps was reached at t = 1.5 (step size 0.001)'
    """

    OK = _TABLE["OK"][0]
    NON_FINITE = _TABLE["NON_FINITE"][0]
    STEP_UNDERFLOW = _TABLE["STEP_UNDERFLOW"][0]
    MAX_STEPS = _TABLE["MAX_STEPS"][0]
    NEWTON_FAILED = _TABLE["NEWTON_FAILED"][0]
    SINGULAR = _TABLE["SINGULAR"][0]
    UNSTABLE = _TABLE["UNSTABLE"][0]
    DEADLINE = _TABLE["DEADLINE"][0]
    EVENT = _TABLE["EVENT"][0]

    @property
    def ok(self) -> bool:
        """Whether the sample counts as solved."""
        return self in (Status.OK, Status.EVENT)

    def describe(self, t: float, h: float) -> str:
        """The status in words, with the time and the step size it happened at."""
        return _MESSAGES[self].format(t=t, h=h)


class Error(Exception):
    """The base of every exception that nodecore raises on purpose."""


class InputError(Error, ValueError):
    """An argument's shape, dtype, value or combination with another is not possible."""


class TraceError(Error, TypeError):
    """A field, loss or event does something that cannot be recorded as a program."""


class _SampleError(Error, RuntimeError):
    def __init__(
        self,
        message: str,
        *,
        sample: int | None = None,
        t: float | None = None,
        status: Status | None = None,
        solution: Any = None,
    ) -> None:
        super().__init__(message)
        self.sample = sample
        self.t = t
        self.status = status
        self.solution = solution


class SolveError(_SampleError):
    """A sample could not be solved.

    Attributes
    ----------
    sample : int or None
        The first sample that failed.
    t : float or None
        The time that it reached.
    status : Status or None
        Why it stopped.
    solution : Solution or None
        What was reached: outputs that were not are NaN.
    """


class GradientError(_SampleError):
    """A gradient is not finite, or the solution holds nothing to compute it from.

    The attributes are those of `SolveError`.
    """


class PrecisionWarning(UserWarning):
    """The result is less exact than what was asked for."""


class StiffnessWarning(UserWarning):
    """Steps are short because of stability, not accuracy: an implicit method would be faster."""
