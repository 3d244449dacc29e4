"""What to write instead: the errors of values that are not known yet."""

from __future__ import annotations

import dis
import re
from typing import Any

from .blame import inside_scipy, trace_error, users_frame, users_text

COMPLEX = "Complex numbers are not traced: stack the real and the imaginary part."


SCIPY = (
    "Write tables and splines as np.interp(t, times, values), sampled finely enough; of "
    "scipy.special expit, logit, log_expit, erf, erfc, ndtr, entr, xlogy and xlog1py are traced."
)


def unsupported(what: str) -> Exception:
    """The error for a NumPy or SciPy function that has no meaning here."""
    return trace_error(
        f"{what} cannot be traced",
        "Write it with elementwise functions, sums, products and indexing.",
    )


def dynamic_index(key: Any) -> Exception:
    if getattr(key, "kind", None) == "b":
        return trace_error(
            "indexes with a mask that depends on traced values: the result's size is not known",
            "Use np.where(mask, a, b), which keeps the shape, or multiply by the mask.",
        )
    return trace_error(
        "indexes with a traced value, which must be known when the field is traced",
        "Select by np.where, or by a sum over a one-hot mask. An integer of args may index the "
        "first axis of a traced array: put the table into params.",
    )


_BRANCHES = ("POP_JUMP", "JUMP_IF", "TO_BOOL", "UNARY_NOT")


def _instruction() -> str:
    """The name of the bytecode instruction that the user's line is at."""
    frame = users_frame()
    if frame is None:
        return ""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]]


def branch_error() -> Exception:
    if _instruction().startswith(_BRANCHES):
        return trace_error(
            "branches on a traced value (if, while, and, or, not, chained comparison)",
            "Write np.where(condition, a, b); combine conditions with &, | and ~.",
        )
    return trace_error(
        "asks whether a traced value is true",
        "Write np.where(condition, a, b), np.maximum(a, b) or np.minimum(a, b) instead of Python's "
        "own; gather traced numbers by np.stack([...]) instead of np.array([...]), whose elements "
        "NumPy compares one by one.",
    )


def number_error(name: str) -> Exception:
    if inside_scipy():
        return trace_error("gives a traced value to SciPy, which computes with numbers", SCIPY)
    text = users_text()
    found = re.search(r"\b(?:math|cmath)\.(\w+)", text)
    if found:
        return trace_error(
            f"math.{found[1]} needs a number, and a traced value is not known yet",
            f"Write np.{_MATH_NAMES.get(found[1], found[1])}, which can be traced.",
        )
    if re.search(rf"\b{name}\(", text):
        return trace_error(
            f"{name}() of a traced value, which is not known yet",
            f"Leave the {name}() out: traced values compute like arrays.",
        )
    return trace_error(
        f"stores a traced value in a NumPy array of numbers, or converts it to {name}",
        "Build the result with np.stack([...]), or start from np.zeros_like(y) and assign its "
        "items; leave dtype=float and np.asarray out.",
    )


_MATH_NAMES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "pow": "power", "dist": "linalg.norm",
    "fsum": "sum",
}  # fmt: skip
