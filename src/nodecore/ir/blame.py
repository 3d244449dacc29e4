"""Errors of tracing that point to the line of the user's function."""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType, TracebackType

import numpy as np

from nodecore.status import TraceError

_OWN = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (os.path.dirname(os.path.abspath(__file__)), np.__file__)
)
_FOREIGN = (f"{os.sep}scipy{os.sep}", "<frozen ", "<__array_function__")

OPAQUE = "Or wrap the field in nc.opaque(...), which runs any Python code as it is."


def _is_users(filename: str) -> bool:
    return not (filename.startswith(_OWN) or any(part in filename for part in _FOREIGN))


def _line(filename: str, lineno: int) -> tuple[str, str]:
    text = linecache.getline(filename, lineno).strip()
    where = f"{os.path.basename(filename)}, line {lineno}"
    return (f"{where}: `{text}`" if text else where), text


def users_frame() -> FrameType | None:
    """The innermost running frame that is neither ours nor NumPy's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def inside_scipy() -> bool:
    """Was what is now running called by SciPy, which the user's line called?"""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_users(frame.f_code.co_filename):
        if f"{os.sep}scipy{os.sep}" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def users_text() -> str:
    """The source of the line that the user's function is at."""
    frame = users_frame()
    return "" if frame is None else _line(frame.f_code.co_filename, frame.f_lineno)[1]


def trace_error(problem: str, advice: str = "") -> TraceError:
    """A TraceError that names the user's line now running, and says what to write instead."""
    frame = users_frame()
    at = "" if frame is None else _line(frame.f_code.co_filename, frame.f_lineno)[0] + "\n"
    return TraceError(_compose(at, problem, advice))


def _compose(at: str, problem: str, advice: str) -> str:
    tail = f"\n{advice}" if advice else ""
    return f"{at}{problem}{tail}\n{OPAQUE}"


def error_at(traceback: TracebackType | None, problem: str, advice: str = "") -> TraceError:
    """The same for an exception that was caught: the line is found in its traceback."""
    at = ""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if _is_users(filename):
            at = _line(filename, traceback.tb_lineno)[0] + "\n"
        traceback = traceback.tb_next
    return TraceError(_compose(at, problem, advice))


def find_trace_error(error: BaseException) -> TraceError | None:
    """The TraceError in a chain of exceptions: NumPy wraps what operands raise."""
    seen: set[int] = set()
    stack: list[BaseException | None] = [error]
    while stack:
        e = stack.pop()
        if e is None or id(e) in seen:
            continue
        if isinstance(e, TraceError):
            return e
        seen.add(id(e))
        stack += [e.__context__, e.__cause__]
    return None
