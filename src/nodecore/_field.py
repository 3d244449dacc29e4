"""What can stand for a field: a function, `field`, `opaque`, `linear`, `Split`."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from nodecore import tree
from nodecore.ir.arity import field_arguments
from nodecore.methods import get as method_of
from nodecore.methods.split import EXPM, SCHEMES, composition
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


def field(fun: Callable[..., Any]) -> Any:
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
        Callable like ``fun``. Of a `Split`, one whose parts have made the promise.

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
    if isinstance(fun, Split):
        return fun.promised()
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


class Linear:
    """The field A y."""

    def __init__(self, A: Any) -> None:
        self.A = A
        if callable(A):
            self.__name__ = getattr(A, "__name__", "linear")
            return
        try:
            array = np.asarray(A, np.float64)
        except (TypeError, ValueError):
            raise InputError(
                f"linear: A must be an array or a function of params, not {A!r}"
            ) from None
        if array.ndim not in (1, 2) or array.shape[0] != array.shape[-1]:
            raise InputError(
                f"linear: A has shape {array.shape}; it must be (D, D), or (D,) for a diagonal"
            )
        self.A = array.copy()
        self.A.flags.writeable = False
        self.__name__ = "linear"

    def matrix(self, params: Any) -> Any:
        """A, of these params."""
        if not callable(self.A):
            return self.A
        if params is None:
            raise InputError("linear: A is a function of params, but solve was given none")
        return self.A(params)

    def __call__(self, t: Any, y: Any, params: Any = None, args: Any = None) -> Any:
        A = self.matrix(params)
        shape = np.shape(y)
        flat = np.reshape(y, (-1,)) if len(shape) != 1 else y
        dim, given = int(np.prod(shape)), np.shape(A)
        if given not in ((dim, dim), (dim,)):
            raise InputError(
                f"linear: A has shape {given} for a state of {dim} components: it must be "
                f"({dim}, {dim}), or ({dim},) for a diagonal"
            )
        out = A @ flat if len(given) == 2 else A * flat
        return np.reshape(out, shape) if len(shape) != 1 else out

    def __repr__(self) -> str:
        of = "params" if callable(self.A) else f"shape {self.A.shape}"
        return f"<nodecore linear field of {of}>"


def linear(A: Any) -> Linear:
    """The field A y, as a field of its own or as a part of `Split` whose flow is exp(h A).

    Parameters
    ----------
    A : (D, D) array, (D,) array, or callable
        The matrix; or its diagonal; or a function of ``params`` in plain NumPy that returns one of
        them. A state of several axes is flattened in C order.

    Returns
    -------
    Linear
        Callable like any field.

    Raises
    ------
    InputError
        If ``A`` is neither.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> turn = nc.linear([[0.0, 1.0], [-1.0, 0.0]])
    >>> nc.solve(turn, [1.0, 0.0], [0.0, np.pi]).y[-1].round(5) + 0.0
    array([-1.,  0.])
    """
    return Linear(A)


class Split:
    """A field that is a sum, solved part by part or additively.

    Parameters
    ----------
    *parts : callables, `field` or `linear`
        ``f(t, y)``, ``f(t, y, params)`` or ``f(t, y, params, args)`` each; the field is their sum.
        A tuple of them is the same. At least two.
    scheme : {"lie", "strang", "yoshida4"}
        How a step is made of the parts' flows: of order 1, 2, 4. "yoshida4" has negative steps, so
        no part may be one that only goes forward (diffusion).
    methods : sequence of str, method, or (method, int), optional
        For each part the method of its flow: "expm" (exact, for a `linear` part), or any method of
        ``nodecore.methods.names()`` but "auto" in one step; with a number, in so many steps.
        Default: "expm" for linear parts, "rk4" for the others.

    Raises
    ------
    InputError
        If there are fewer than two parts or more than eight, a name is unknown, "expm" is asked for
        a part that is not linear, or a part cannot be traced.

    Notes
    -----
    `solve` takes it as its field, with ``method=None`` and fixed steps (``dt`` or ``steps``);
    "strang" also adapts its steps, its difference to Lie's step being the error estimate. Each part
    has a clock of its own, which advances with its flow. Steps end on the outputs: there is no
    interpolant. With ``method="kencarp4"`` the first of two parts is treated implicitly and the
    second explicitly; with ``method="etdrk4"`` the first, a `linear` one, enters an exponential
    Runge-Kutta method of order 4 with fixed steps. Scheme and methods are not used then.

    The schemes and their sources: docs/splitting.md, docs/math/splitting.md.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> stiff = nc.linear([[-1000.0, 1000.0], [0.0, -1.0]])
    >>> def push(t, y):
    ...     return np.stack([0.0 * t, np.cos(t)])
    >>> sol = nc.solve(nc.Split(stiff, push), [0.0, 1.0], [0.0, 1.0], steps=100)
    >>> sol.y[-1].round(3)
    array([0.876, 0.875])
    """

    def __init__(self, *parts: Any, scheme: str = "strang", methods: Any = None) -> None:
        if len(parts) == 1 and isinstance(parts[0], tuple | list):
            parts = tuple(parts[0])
        if not 2 <= len(parts) <= 8:
            raise InputError(f"Split: two to eight parts, not {len(parts)}")
        for part in parts:
            if isinstance(part, Opaque | Split) or not callable(part):
                what = "it cannot be traced" if isinstance(part, Opaque) else "it is not a field"
                if isinstance(part, Split):
                    what = "list the parts of both sums in one"
                raise InputError(f"Split: {part!r} cannot be a part: {what}")
        if scheme not in SCHEMES:
            raise InputError(f"Split: scheme must be one of {', '.join(SCHEMES)}, not {scheme!r}")
        if methods is None:
            methods = ["expm" if isinstance(p, Linear) else "rk4" for p in parts]
        if isinstance(methods, str) or len(methods) != len(parts):
            raise InputError(f"Split: methods must name one for each of the {len(parts)} parts")
        # parts that never change need no trace at every call, as an `nc.field` needs none
        self.pure = all(
            isinstance(p, Field) or type(getattr(p, "A", None)) is np.ndarray for p in parts
        )
        self.plans: dict[Any, Any] = {}
        self.parts = tuple([p.fun if isinstance(p, Field) else p for p in parts])
        self.scheme = scheme
        read = [_part_method(p, m) for p, m in zip(self.parts, methods, strict=True)]
        self.solver = composition(scheme, tuple([m for m, _ in read]), tuple([n for _, n in read]))
        self.__name__ = " + ".join(getattr(p, "__name__", "part") for p in self.parts)

    def __call__(self, t: Any, y: Any, params: Any = None, args: Any = None) -> Any:
        values = []
        for part in self.parts:
            count = field_arguments(part, params is not None, args is not None)
            values.append(part(*(t, y, params, args)[:count]))
        out, treedef = tree.flatten(y)
        total = [0.0] * len(out)
        for value in values:
            leaves = [value] if treedef == tree.LEAF else tree.flatten(value)[0]
            leaves = [np.stack(x) if isinstance(x, list | tuple) else x for x in leaves]
            total = [a + b for a, b in zip(total, leaves, strict=True)]
        return tree.unflatten(treedef, total)

    def promised(self) -> Split:
        """The same sum with the promise of `nodecore.field`."""
        out = copy(self)
        out.pure, out.plans = True, {}
        return out

    def __repr__(self) -> str:
        return f"<nodecore Split {self.solver!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        named = [
            (m.name, n) for m, n in zip(self.solver.of_parts, self.solver.substeps, strict=True)
        ]
        return _split_again, (self.parts, self.pure, self.scheme, named)


def _split_again(parts: Any, pure: bool, scheme: str, methods: Any) -> Split:
    out = Split(*parts, scheme=scheme, methods=methods)
    out.pure = pure
    return out


def _part_method(part: Any, entry: Any) -> tuple[Any, int]:
    """The method of a part's flow, and its number of steps."""
    count: Any = 1
    if isinstance(entry, tuple | list):
        if len(entry) != 2:
            raise InputError(f"Split: a method is a name or (name, steps), not {entry!r}")
        entry, count = entry
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise InputError(f"Split: the steps of a flow must be a positive integer, not {count!r}")
    if entry == "expm" or entry is EXPM:
        if not isinstance(part, Linear):
            name = getattr(part, "__name__", "part")
            raise InputError(
                f"Split: {name} is not linear, so it has no exponential: make it nc.linear(A), or "
                'name another method, such as "rk4"'
            )
        return EXPM, 1  # exact in one step
    method = method_of(entry)
    if method.family == "auto":
        raise InputError(
            f"Split: a part's flow is made by one method, not by a choice as {method.name!r} is"
        )
    return method, int(count)
