"""The registry of methods: `names()` and `get(name)`.

Coefficients are data, one file a family (`explicit`, `dirk`, `rosenbrock`, `radau`); `tableau`
holds their types with their invariants, `order` the theory they are tested against. A method is
added by adding its builder to its family's table: names, aliases, documentation and tests follow
from there. `STEPPED` says which families have a stepper, and so which methods users see.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import TypeAlias

from ..status import InputError
from .split import Composition, Exponential
from .tableau import Auto, Rosenbrock, Tableau

__all__ = [
    "FAMILIES", "STEPPED", "Auto", "Composition", "Exponential", "Method", "Rosenbrock", "Solver",
    "Tableau", "get", "names",
]  # fmt: skip

Method: TypeAlias = Tableau | Rosenbrock | Auto
Solver: TypeAlias = Method | Composition  # what a solve may be made by

# Family -> its module and the table in it; imported when first asked for.
_TABLES = {
    "explicit": ("explicit", "BUILDERS"),
    "dirk": ("dirk", "BUILDERS"),
    "imex": ("dirk", "IMEX_BUILDERS"),
    "rosenbrock": ("rosenbrock", "BUILDERS"),
    "radau": ("radau", "BUILDERS"),
    "auto": ("auto", "BUILDERS"),
}

FAMILIES: tuple[str, ...] = tuple([f for f in _TABLES if f != "auto"])  # of coefficients
STEPPED: tuple[str, ...] = ("explicit", "dirk", "radau", "rosenbrock", "auto")


@cache
def _builders(families: tuple[str, ...]) -> Mapping[str, Callable[[], Method]]:
    out: dict[str, Callable[[], Method]] = {}
    for family in families:
        module, table = _TABLES[family]
        out |= getattr(import_module(f".{module}", __name__), table)
    return out


def names(families: tuple[str, ...] = STEPPED) -> tuple[str, ...]:
    """Names of all methods.

    Parameters
    ----------
    families : tuple of str
        The families to list, of `FAMILIES`. Default: those that `nodecore.solve` runs.

    Examples
    --------
    >>> "tsit5" in names()
    True
    """
    return tuple(_builders(families))


@cache
def _method(name: str) -> Method:
    return next(b[name] for f in _TABLES if name in (b := _builders((f,))))()


def normal(name: object) -> str:
    """What is left of a name when case and punctuation are ignored; nothing of what is no name."""
    return "".join(ch for ch in name.lower() if ch.isalnum()) if isinstance(name, str) else ""


@cache
def _index(families: tuple[str, ...]) -> dict[str, str]:
    """Normalised names and aliases -> names."""
    index = {normal(name): name for name in names(families)}
    for name in names(families):
        for alias in _method(name).aliases:
            if index.setdefault(normal(alias), name) != name:
                raise ValueError(f"alias {alias!r} of {name!r} already means another method")
    return index


def get(name: str | Method, families: tuple[str, ...] = STEPPED) -> Method:
    """The method of a name.

    Parameters
    ----------
    name : str, Tableau or Rosenbrock
        A name of `names()` or an alias (`RK45`, `Dopri5`, `BS3`, ...); case, spaces, hyphens and
        underscores do not matter. A method is returned as it is.
    families : tuple of str
        Where to look, of `FAMILIES`. Default: those that `nodecore.solve` runs.

    Returns
    -------
    Tableau or Rosenbrock
        The same object at every call.

    Raises
    ------
    InputError
        If there is no such method; the message names the nearest ones.

    Examples
    --------
    >>> get("RK45").name
    'dopri5'
    """
    if isinstance(name, Tableau | Rosenbrock | Auto):
        if name.family in families:
            return name
        name = name.name
    if not isinstance(name, str):
        raise InputError(f"method must be a name, not {type(name).__name__}: {', '.join(names())}")
    return _find(name, families)


@cache
def _find(name: str, families: tuple[str, ...]) -> Method:
    if any(name in _builders((f,)) for f in families):  # so that none is imported in vain
        return _method(name)
    index = _index(families)
    key = normal(name)
    if key in index:
        return _method(index[key])
    everywhere = _index(FAMILIES)
    if key == "etdrk4":
        raise InputError("etdrk4 solves the sum of an nc.Split, whose first part is nc.linear(A)")
    if key in everywhere:
        raise InputError(
            f"{everywhere[key]} solves the sum of an nc.Split (its first part implicitly, its "
            "second explicitly), not a field as a whole"
        )
    import difflib  # only a wrong name needs it

    near = difflib.get_close_matches(key, index, n=1, cutoff=0.0)
    raise InputError(
        f"unknown method {name!r}; did you mean {index[near[0]]!r}? "
        f"The methods are {', '.join(names(families))}"
    )
