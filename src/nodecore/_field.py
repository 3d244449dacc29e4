"""What can stand for a field: a function, :func:`field`, :func:`opaque`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nodecore.status import InputError


class Field:
    """A function that promises to be pure, so that it is traced once a signature."""

    fun: Callable[..., Any]

    def __init__(self, fun: Callable[..., Any]) -> None:
        if isinstance(fun, Field):
            fun = fun.fun
        if not callable(fun):
            raise InputError(f"a field is a function f(t, y, params, args), not {fun!r}")
        self.fun = fun
        self.plans: dict[Any, Any] = {}  # by signature; filled by nodecore.plan
        self.__name__ = getattr(fun, "__name__", "field")
        self.__doc__ = fun.__doc__

    def __call__(self, *args: Any) -> Any:
        return self.fun(*args)

    def __repr__(self) -> str:
        return f"<nodecore field {self.__name__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Field, (self.fun,)


class Opaque:
    """A field that is called, not traced."""

    def __init__(
        self,
        fun: Callable[..., Any],
        vjp: Callable[..., Any] | None = None,
        jac: Callable[..., Any] | None = None,
    ) -> None:
        for name, value in (("fun", fun), ("vjp", vjp), ("jac", jac)):
            if not (callable(value) or (value is None and name != "fun")):
                raise InputError(f"opaque: {name} must be callable, not {value!r}")
        self.fun, self.vjp, self.jac = fun, vjp, jac
        self.__name__ = getattr(fun, "__name__", "opaque")

    def __repr__(self) -> str:
        return f"<nodecore opaque field {self.__name__}>"


def field(fun: Callable[..., Any]) -> Field:
    """Promise that a field is pure, so that it is traced once for each signature.

    A plain function is traced at every call of `solve` (well under a millisecond), so what it
    captured is never stale. With this promise later calls skip the trace: captured variables,
    attributes and arrays must not change.

    Parameters
    ----------
    fun : callable
        ``f(t, y)``, ``f(t, y, params)`` or ``f(t, y, params, args)`` in plain NumPy for one sample.

    Returns
    -------
    Field
        Callable like ``fun``.

    Raises
    ------
    InputError
        If ``fun`` is not callable.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> @nc.field
    ... def decay(t, y, params):
    ...     return -params["k"] * y
    >>> nc.solve(decay, [1.0], [0.0, 1.0], {"k": 2.0}).y[-1]
    array([0.13533...])
    """
    return Field(fun)


def opaque(
    fun: Callable[..., Any],
    vjp: Callable[..., Any] | None = None,
    jac: Callable[..., Any] | None = None,
) -> Opaque:
    """A field that cannot be traced: any Python callable on the batch of active samples.

    Parameters
    ----------
    fun : callable
        ``fun(t, y, params, args) -> dy`` with ``t`` (n,), ``y`` (n, D) and ``dy`` (n, D) for the n
        samples that are being stepped; ``params`` is the tree that `solve` was given, ``args`` the
        rows of its leaves that belong to these samples. A state tree arrives flattened.
    vjp : callable, optional
        ``vjp(t, y, params, args, ct) -> (y_bar, params_bar, args_bar)``: the product of ``ct``
        (n, D) with the Jacobians; ``y_bar`` (n, D), ``params_bar`` a tree like ``params`` summed
        over the n samples, ``args_bar`` a tree like ``args``. None stands for a zero tree. Without
        it the solution has no gradient.
    jac : callable, optional
        ``jac(t, y, params, args) -> (n, D, D)``, for methods that need a Jacobian.

    Returns
    -------
    Opaque
        To be passed to `solve` as the field.

    Notes
    -----
    The steppers are the compiled ones; only the evaluation differs. The callback runs on the
    calling thread. A sample's bits may depend on which others it is evaluated with. An exception
    inside the callback ends the solve and is raised unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> def fun(t, y, params, args):
    ...     return -params * y
    >>> def vjp(t, y, params, args, ct):
    ...     return -params * ct, -np.sum(ct * y), None
    >>> sol = nc.solve(nc.opaque(fun, vjp), [1.0], [0.0, 1.0], 2.0, adjoint="discrete")
    >>> g = sol.vjp(np.array([[0.0], [1.0]]))
    >>> np.allclose([g.y0[0], g.params], [np.exp(-2), -np.exp(-2)], rtol=1e-5)
    True
    """
    return Opaque(fun, vjp, jac)
