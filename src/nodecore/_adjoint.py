"""Which gradient, within which memory: `Discrete`, `Continuous`, `Reversible`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from nodecore import methods
from nodecore.status import InputError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}  # fmt: skip


def parse_bytes(memory: Any) -> int:
    """A number of bytes, or text like "64 MiB".

    Examples
    --------
    >>> parse_bytes("1.5 KiB")
    1536
    """
    if isinstance(memory, int | np.integer | float) and not isinstance(memory, bool) and memory > 0:
        return int(memory)
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]*)\s*", memory)
        if match and match[2].upper() in _UNITS:
            try:
                return int(float(match[1]) * _UNITS[match[2].upper()])
            except ValueError:
                pass
    raise InputError(f'memory must be a number of bytes or like "64 MiB", not {memory!r}')


def quarter_of_memory() -> int:
    """A quarter of the memory that this process may still use."""
    limits = []
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    limits.append(int(line.split()[1]) * 1024)
    except OSError:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as f:
                text = f.read().strip()
            if text != "max":
                limits.append(int(text))
        except (OSError, ValueError):
            pass
    return max(min(limits, default=1 << 32) // 4, 1 << 20)


@dataclass(frozen=True)
class Discrete:
    """The exact gradient of what was computed, within a budget of memory.

    Parameters
    ----------
    memory : int or str, optional
        Bytes, or like "64 MiB": the most that is kept for the backward pass, over all samples and
        threads. What does not fit is computed again from checkpoints. None: no limit.
    checkpoints : int, optional
        At most this many stored states a sample, the initial one among them, beside the one being
        advanced.
    schedule : {"auto", "all", "uniform", "binomial"}
        "all" keeps every step (plain backpropagation through the steps). "binomial": the fewest
        steps made again, by Revolve where the number of steps is known, else placed online.
        "uniform": every k-th state. "auto": all if it fits, else binomial.

    Raises
    ------
    InputError
        If a value is not possible, or "all" is combined with a limit.

    Notes
    -----
    The gradient has the same bits whatever is kept. Griewank & Walther, ACM TOMS 26 (2000) 19-45;
    Wang, Moin & Iaccarino, SIAM J. Sci. Comput. 31 (2009) 2549-2567. See docs/math/checkpoints.md.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> sol = nc.solve(lambda t, y: -y, [1.0], [0.0, 1.0], method="rk4", steps=1000,
    ...                adjoint=nc.Discrete(checkpoints=10))
    >>> g = sol.vjp(np.array([[0.0], [1.0]]))
    >>> sol.stats.recomputed_steps
    2637
    """

    memory: int | str | None = None
    checkpoints: int | None = None
    schedule: str = "auto"

    def __post_init__(self) -> None:
        if self.memory is not None:
            parse_bytes(self.memory)
        c = self.checkpoints
        if c is not None and (isinstance(c, bool) or not isinstance(c, int | np.integer) or c < 1):
            raise InputError(f"checkpoints must be a positive integer, not {c!r}")
        if self.schedule not in ("auto", "all", "uniform", "binomial"):
            raise InputError(
                f'schedule must be "auto", "all", "uniform" or "binomial", not {self.schedule!r}'
            )
        limited = self.memory is not None or c is not None
        if self.schedule == "all" and limited:
            raise InputError('schedule="all" keeps every step: it excludes memory and checkpoints')
        if self.schedule in ("uniform", "binomial") and not limited:
            raise InputError(f'schedule="{self.schedule}" needs memory= or checkpoints=')

    @property
    def limited(self) -> bool:
        """Whether something may be computed again."""
        return self.memory is not None or self.checkpoints is not None


@dataclass(frozen=True)
class Continuous:
    """The adjoint differential equation lambda' = -f_y^T lambda, solved backwards in time.

    Its gradient is that of the exact solution up to the tolerances, not that of what was computed:
    for that there is `Discrete`, the default.

    Parameters
    ----------
    mode : {"gauss", "interpolating", "backsolve"}
        "gauss": only lambda is solved for; the integrals for params and args are Gauss quadratures
        over the accepted backward steps; y comes from the forward solve's dense output.
        "interpolating": the integrals are part of the backward system. "backsolve": y too is solved
        for again backwards, which needs no forward steps, and fails for damped modes: they grow
        backwards. A warning says so when it is seen.
    method : str, optional
        Of the backward solve, adaptive; default: that of the forward solve, or "tsit5".
    rtol, atol : float, optional
        Of the backward solve; default: those of the forward solve. ``atol`` is relative to the
        sample's largest cotangent.
    memory : int or str, optional
        Bytes, or like "64 MiB": the most that is kept for the backward pass, over all samples. What
        does not fit is computed again from checkpoints, a window of steps at a time. None: every
        forward step is kept where they, and what going back makes of them, fit in a quarter of the
        memory that the process may use; else that is the budget.

    Raises
    ------
    InputError
        If a value is not possible; in `solve`, if ``memory`` is too small, with the smallest that
        works.

    Notes
    -----
    Within a budget a backward solve may be cut between outputs, at the end of a forward step or
    after a number of its own steps. Where nothing is cut, the cotangents of the states have the
    same bits as without a limit; else they agree up to the tolerance.

    Cao, Li, Petzold & Serban, Adjoint sensitivity analysis for differential-algebraic equations,
    SIAM J. Sci. Comput. 24 (2003) 1076-1089; Kim et al., Stiff neural ordinary differential
    equations, Chaos 31 (2021) 093122. See docs/math/continuous-adjoint.md.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> sol = nc.solve(lambda t, y, k: -k * y, [1.0], [0.0, 1.0], 2.0, adjoint=nc.Continuous())
    >>> g = sol.vjp(np.array([[0.0], [1.0]]))
    >>> bool(np.isclose(g.params, -np.exp(-2.0), rtol=1e-5))
    True
    """

    mode: str = "gauss"
    method: str | None = None
    rtol: float | None = None
    atol: float | None = None
    memory: int | str | None = None

    def __post_init__(self) -> None:
        if self.memory is not None:
            parse_bytes(self.memory)
        if self.mode not in ("gauss", "interpolating", "backsolve"):
            raise InputError(
                f'mode must be "gauss", "interpolating" or "backsolve", not {self.mode!r}'
            )
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise InputError(f"{name} must be a positive number, not {value!r}")
        if self.method is not None and not methods.get(self.method).adaptive:
            raise InputError(f"method={self.method!r} has no error estimate: it cannot be adaptive")


@dataclass(frozen=True)
class Reversible:
    """The exact gradient of a scheme that is undone step by step: no state is kept but the last.

    The solve itself is another one: a second state z travels with y, both coupled by
    ``coupling``, so ``sol.y`` differs from that of the plain method, within the same order of
    accuracy, and a step costs twice as many evaluations. Explicit methods only, fixed or adaptive.

    Parameters
    ----------
    coupling : float
        In (0, 1): the l below. A parasitic mode is damped while l exp(h rho) < 1, with rho the
        rate at which solutions decay, so a smaller l bears more damping; but undoing a step
        multiplies rounding errors by 1/l, and the smaller l, the more states are kept against it.

    Raises
    ------
    InputError
        If ``coupling`` is not between 0 and 1.

    Notes
    -----
    y+ = l y + (1 - l) z + Psi_h(t, z), z+ = z - Psi_-h(t + h, y+), with Psi the increment of the
    method's step: McCallum & Foster, Efficient, accurate and stable gradients for neural ODEs,
    arXiv:2410.11648 (2024). Memory does not depend on the number of steps, but for the ends of
    adaptive ones (8 bytes each), and for (y, z), kept every 5/(1 - l) steps because going back
    multiplies rounding errors by 1/l.

    Damped problems excite a parasitic mode, y - z, that grows while the solution decays. A sample
    ends with status UNSTABLE where the norm of y - z exceeds a hundred tolerances,
    ``atol + rtol |y|``; with fixed steps, which have no tolerance, half of the norm of y. See
    docs/math/reversible-adjoint.md; `Discrete` with ``memory=`` has none of these limits.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> sol = nc.solve(lambda t, y, w: [y[1], -w * np.sin(y[0])], [1.0, 0.0], [0.0, 10.0], 1.3,
    ...                method="rk4", steps=1000, adjoint=nc.Reversible())
    >>> nc.gradcheck(sol) < 1e-8, sol.stats.storage_bytes < 200
    (True, True)
    """

    coupling: float = 0.999

    def __post_init__(self) -> None:
        c = self.coupling
        if isinstance(c, bool) or not isinstance(c, int | float | np.floating) or not 0 < c < 1:
            raise InputError(f"coupling must be a number between 0 and 1, not {c!r}")


Adjoint = Discrete | Continuous | Reversible


def resolve(adjoint: Any) -> Adjoint | None:
    """What a user's ``adjoint`` means; None: no gradient."""
    if adjoint is None or isinstance(adjoint, Discrete | Continuous | Reversible):
        return adjoint
    if adjoint == "discrete":
        return Discrete()
    if adjoint == "auto":
        return Discrete(memory=quarter_of_memory())
    if adjoint == "continuous":
        return Continuous()
    if adjoint == "reversible":
        return Reversible()
    raise InputError(
        'adjoint must be None, "auto", "discrete", "continuous", "reversible", an nc.Discrete, '
        f"nc.Continuous or nc.Reversible, not {adjoint!r}"
    )
