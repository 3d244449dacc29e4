"""Events: where a function of the solution passes zero, and what happens there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nodecore.status import InputError


class Event:
    """The times at which ``g(t, y, params, args)`` passes zero along a solution.

    Parameters
    ----------
    g : callable
        ``g(t, y)``, ``g(t, y, params)`` or ``g(t, y, params, args)`` in plain NumPy for one sample,
        like a field; one number, whose changes of sign are located.
    terminal : bool, optional
        Whether a sample stops where the event happens, with status EVENT. Default: True, unless
        ``reset`` is given.
    direction : {0, 1, -1}
        Which changes count along the way of the solve: 1 from negative to positive, -1 from
        positive to negative, 0 both.
    reset : callable, optional
        ``reset(t, y, params, args) -> y``, with 2 to 4 arguments too: the state that the solve goes
        on with, of the shape (and tree) of y.

    Raises
    ------
    InputError
        If a value is not possible.

    Notes
    -----
    A change of sign is seen between the two ends of an accepted step; two changes within one step
    cancel and are missed (``max_step`` bounds the steps). It is located on the step's dense output,
    in float64 time. After it happened an event is disarmed until g has left zero. Times and states
    are differentiated as implicit functions: docs/events.md, docs/math/discrete-adjoint.md.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> def fall(t, y, p):
    ...     return [y[1], -p["gravity"]]
    >>> floor = nc.Event(
    ...     lambda t, y: y[0], direction=-1, reset=lambda t, y, p: [0.0, -p["bounce"] * y[1]]
    ... )
    >>> p = {"gravity": 10.0, "bounce": 0.5}
    >>> sol = nc.solve(fall, [5.0, 0.0], [0.0, 2.2], p, events=floor)
    >>> sol.t_events[0]
    array([1., 2.])
    """

    def __init__(
        self,
        g: Callable[..., Any],
        terminal: bool | None = None,
        direction: int = 0,
        reset: Callable[..., Any] | None = None,
    ) -> None:
        if not callable(g):
            raise InputError(f"an event is a function g(t, y, params, args), not {g!r}")
        if reset is not None and not callable(reset):
            raise InputError(f"reset must be a function (t, y, params, args) -> y, not {reset!r}")
        if not (terminal is None or isinstance(terminal, bool | np.bool_)):
            raise InputError(f"terminal must be True, False or None, not {terminal!r}")
        number = isinstance(direction, int | np.integer) and not isinstance(direction, bool)
        if not number or direction not in (-1, 0, 1):
            raise InputError(f"direction must be 1, -1 or 0, not {direction!r}")
        self.g, self.reset = g, reset
        self.terminal = reset is None if terminal is None else bool(terminal)
        self.direction = int(direction)

    @property
    def cuts(self) -> bool:
        """Whether the step ends where it happens: the sample stops, or goes on from there."""
        return self.terminal or self.reset is not None

    def __repr__(self) -> str:
        parts = [getattr(self.g, "__name__", repr(self.g)), f"terminal={self.terminal}"]
        if self.direction:
            parts.append(f"direction={self.direction}")
        if self.reset is not None:
            parts.append(f"reset={getattr(self.reset, '__name__', repr(self.reset))}")
        return f"Event({', '.join(parts)})"


def read(events: Any) -> tuple[Event, ...]:
    """What a user gave as ``events``: None, an Event, or a sequence of them."""
    if events is None:
        return ()
    if isinstance(events, Event):
        return (events,)
    if not isinstance(events, Sequence) or isinstance(events, str):
        raise InputError(
            f"events must be an nc.Event or a list of them, not {events!r}{_hint(events)}"
        )
    for i, e in enumerate(events):
        if not isinstance(e, Event):
            raise InputError(f"events[{i}] must be an nc.Event, not {e!r}{_hint(e)}")
    return tuple(events)


def _hint(value: Any) -> str:
    return ": write nc.Event(g)" if callable(value) else ""
