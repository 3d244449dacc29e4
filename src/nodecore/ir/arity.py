"""How a field is called: how many of (t, y, params, args) it takes, and in which order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from nodecore.status import InputError, TraceError


class Arity(NamedTuple):
    """How many positional arguments a function must and may have, and the names of the first."""

    least: int
    most: int
    names: tuple[str, ...]


_arities: WeakKeyDictionary[Any, Arity] = WeakKeyDictionary()


def arity(fun: Callable[..., Any]) -> Arity:
    """The arity of a function, cached."""
    try:
        known = _arities.get(fun)
    except TypeError:
        return _arity(fun)
    if known is None:
        known = _arity(fun)
        try:
            _arities[fun] = known
        except TypeError:
            pass
    return known


def _arity(fun: Callable[..., Any]) -> Arity:
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return Arity(0, 1 << 30, ())
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = sum(p.default is p.empty for p in places)
    star = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return Arity(least, 1 << 30 if star else len(places), tuple(p.name for p in places))


_TIME = {"t", "time", "tt", "tau", "ts"}
_STATE = {"y", "x", "u", "z", "s", "q", "h", "v", "state", "Y", "X", "yy", "conc", "c"}


def field_arguments(
    fun: Callable[..., Any],
    has_params: bool,
    has_args: bool,
    what: str = "field",
    others: Sequence[Callable[..., Any]] = (),
) -> int:
    """How many of (t, y, params, args) a field is called with.

    It must take what is given, unless one of ``others`` does: functions of its events.
    """
    _check_arguments(fun, what)
    least, most, _ = arity(fun)
    name = getattr(fun, "__name__", what)
    wanted = _wanted(has_params, has_args)
    if wanted > most and any(arity(other).most >= wanted for other in others):
        wanted = most
    if wanted > most:
        if has_args:
            raise InputError(
                f"args were given, but the {what} {name} has no fourth argument: write "
                f"f(t, y, params, args); shared constants belong in params"
            )
        raise InputError(
            f"params were given, but the {what} {name} has no third argument: write f(t, y, params)"
        )
    return max(wanted, least)


def event_arguments(fun: Callable[..., Any], has_params: bool, has_args: bool, what: str) -> int:
    """How many of (t, y, params, args) an event's function is called with: as many as it takes."""
    _check_arguments(fun, what)
    least, most, _ = arity(fun)
    return max(min(_wanted(has_params, has_args), most), least)


def _wanted(has_params: bool, has_args: bool) -> int:
    return 4 if has_args else 3 if has_params else 2


def _check_arguments(fun: Callable[..., Any], what: str) -> None:
    """The time comes first, and there are two to four arguments."""
    least, most, names = arity(fun)
    name = getattr(fun, "__name__", what)
    if len(names) >= 2 and names[1] in _TIME and names[0] not in _TIME:
        raise TraceError(
            f"the {what} {name}({', '.join(names)}) takes the state first; it is called as "
            f"f(t, y, ...): write def {name}({', '.join((names[1], names[0], *names[2:]))})"
        )
    if most < 2 or least > 4:
        raise TraceError(
            f"the {what} {name} takes {most if most < 2 else least} arguments; it is called as "
            "f(t, y), f(t, y, params) or f(t, y, params, args)"
        )
