"""The registry of methods: `names()` and `get(name)`.

Coefficients are data, one file a family (`explicit`); `tableau` holds their type with its
invariants, `order` the theory they are tested against. A method is added by adding its builder to
its family's table: names, aliases, documentation and tests follow from there.
"""

import difflib
from functools import cache

from ..status import InputError
from .explicit import BUILDERS as _EXPLICIT
from .tableau import Tableau

__all__ = ["Tableau", "get", "names"]

_BUILDERS = {**_EXPLICIT}


def names() -> tuple[str, ...]:
    """Names of all methods.

    Examples
    --------
    >>> "tsit5" in names()
    True
    """
    return tuple(_BUILDERS)


@cache
def _tableau(name: str) -> Tableau:
    return _BUILDERS[name]()


def _normal(name: str) -> str:
    """What is left of a name when case and punctuation are ignored."""
    return "".join(ch for ch in name.lower() if ch.isalnum())


@cache
def _index() -> dict[str, str]:
    """Normalised names and aliases -> names."""
    index = {_normal(name): name for name in _BUILDERS}
    for name in _BUILDERS:
        for alias in _tableau(name).aliases:
            if index.setdefault(_normal(alias), name) != name:
                raise ValueError(f"alias {alias!r} of {name!r} already means another method")
    return index


def get(name: str | Tableau) -> Tableau:
    """The method of a name.

    Parameters
    ----------
    name : str or Tableau
        A name of `names()` or an alias (`RK45`, `Dopri5`, `BS3`, ...); case, spaces, hyphens and
        underscores do not matter. A Tableau is returned as it is.

    Returns
    -------
    Tableau
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
    if isinstance(name, Tableau):
        return name
    if not isinstance(name, str):
        raise InputError(f"method must be a name, not {type(name).__name__}: {', '.join(names())}")
    return _find(name)


@cache
def _find(name: str) -> Tableau:
    if name in _BUILDERS:
        return _tableau(name)
    index = _index()
    key = _normal(name)
    if key in index:
        return _tableau(index[key])
    near = difflib.get_close_matches(key, index, n=1, cutoff=0.0)
    raise InputError(
        f"unknown method {name!r}; did you mean {index[near[0]]!r}? "
        f"The methods are {', '.join(names())}"
    )
