"""Step-size controllers, as frozen values.

One formula serves all of them (docs/math/step-size-control.md). After a step with scaled error
norm err_n <= 1, the next step is h times

    2^(log2 gamma - beta1 log2 err_n - beta2 log2 err_{n-1} - beta3 log2 err_{n-2})

clipped to [factor_min, factor_max], or to [factor_min, 1] if the step had been rejected before.
After a rejection it is gamma err_n^(-1/k), clipped to [factor_min, 1], where the error is O(h^k).
A controller is no more than the numbers in it, `coefficients(error_order)`; the kernels evaluate
the formula, `propose` is its specification.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple, TypeAlias

from .status import InputError

# Errors in memory count as at least this: a step that happened to be almost exact says nothing
# about the next one (DOPRI5's `facold`).
MEMORY_FLOOR = 1e-4

# The current error counts as at least this, so that its logarithm is finite.
ERROR_FLOOR = 1e-300


class Coefficients(NamedTuple):
    """What the kernels read: one controller, for an error of one order."""

    log2_safety: float
    beta1: float
    beta2: float
    beta3: float
    beta_reject: float
    factor_min: float
    factor_max: float
    memory_floor: float


def propose(
    coefficients: Coefficients,
    err: float,
    err1: float = 1.0,
    err2: float = 1.0,
    rejected_before: bool = False,
) -> float:
    """Factor from this step's size to the next one: the specification of the kernels' controller.

    Parameters
    ----------
    coefficients : Coefficients
        Of the controller.
    err : float
        Scaled error norm of the step just tried; the step is accepted if err <= 1. A non-finite
        one (the field or the state overflowed) gives `factor_min`.
    err1, err2 : float
        Errors of the last accepted step and of the one before it; 1 where there is none: at the
        start, and after a restart. Rejected steps do not enter.
    rejected_before : bool
        Whether the step just tried came after a rejection: then the next one must not grow.

    Returns
    -------
    float
        In [factor_min, factor_max].
    """
    k = coefficients
    if not math.isfinite(err):
        return k.factor_min
    log2_err = math.log2(max(err, ERROR_FLOOR))
    if err > 1:
        log2_factor = k.log2_safety - k.beta_reject * log2_err
    else:
        log2_factor = (
            k.log2_safety
            - k.beta1 * log2_err
            - k.beta2 * math.log2(max(err1, k.memory_floor))
            - k.beta3 * math.log2(max(err2, k.memory_floor))
        )
    largest = 1.0 if err > 1 or rejected_before else k.factor_max
    factor = math.pow(2.0, min(log2_factor, 64.0))  # any large number will do, not an overflow
    return min(max(factor, k.factor_min), largest)


def _number(owner: str, name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{owner}: {name} must be a finite number, not {value!r}")
    return float(value)


@dataclass(frozen=True)
class PIDController:
    """Digital filter of the last three errors (Söderlind's PID form).

    The exponents are given per order: divided by k (the error is O(h^k), for example k = 5 for
    `tsit5`) they are the beta of the formula on top of this module. Their sum is the gain at low
    frequency: with 1, an error that stays at err is corrected in one step.

    Parameters
    ----------
    beta1, beta2, beta3 : float
        Exponents of this step's error and of the two before it.
    safety : float
        gamma in (0, 1]: aims below the tolerance, so that fewer steps are rejected.
    factor_min, factor_max : float
        Bounds of the change from a step to the next, 0 < factor_min < 1 < factor_max.

    Raises
    ------
    InputError
        If a parameter is outside its range.

    References
    ----------
    G. Söderlind, Digital filters in adaptive time-stepping, ACM TOMS 29 (2003) 1-26,
    doi:10.1145/641876.641877.

    Examples
    --------
    >>> resolve("H312PID")
    PIDController(beta1=0.0555..., beta2=0.111..., beta3=0.0555..., safety=0.9, ...)
    """

    beta1: float = 1 / 18
    beta2: float = 1 / 9
    beta3: float = 1 / 18
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0

    def __post_init__(self) -> None:
        _check(self, ("beta1", "beta2", "beta3"))

    def coefficients(self, error_order: int) -> Coefficients:
        """The numbers of the formula, for an error of O(h^(error_order + 1))."""
        return _coefficients(self, error_order, self.beta1, self.beta2, self.beta3)


@dataclass(frozen=True)
class PIController:
    """Proportional-integral controller: reacts to the error and to its trend.

    Parameters
    ----------
    beta1, beta2 : float
        Exponents, per order, of this step's error and of the one before it (see `PIDController`).
        The default (0.85, -0.2) is that of Hairer's DOPRI5, whose beta = 0.04 is -beta2 / 5.
    safety : float
        gamma in (0, 1]: aims below the tolerance, so that fewer steps are rejected.
    factor_min, factor_max : float
        Bounds of the change from a step to the next, 0 < factor_min < 1 < factor_max.

    Raises
    ------
    InputError
        If a parameter is outside its range.

    References
    ----------
    K. Gustafsson, ACM TOMS 17 (1991) 533-554, doi:10.1145/210232.210242; E. Hairer and G. Wanner,
    Solving Ordinary Differential Equations II (1996), IV.2.

    Examples
    --------
    >>> k = PIController().coefficients(4)
    >>> round(k.beta1, 12), round(k.beta2, 12)
    (0.17, -0.04)
    """

    beta1: float = 0.85
    beta2: float = -0.2
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0

    def __post_init__(self) -> None:
        _check(self, ("beta1", "beta2"))

    def coefficients(self, error_order: int) -> Coefficients:
        """The numbers of the formula, for an error of O(h^(error_order + 1))."""
        return _coefficients(self, error_order, self.beta1, self.beta2, 0.0)


@dataclass(frozen=True)
class IController:
    """The elementary controller: the step at which this step's error would have met the tolerance.

    Parameters
    ----------
    safety : float
        gamma in (0, 1]: aims below the tolerance, so that fewer steps are rejected.
    factor_min, factor_max : float
        Bounds of the change from a step to the next, 0 < factor_min < 1 < factor_max.

    Raises
    ------
    InputError
        If a parameter is outside its range.

    References
    ----------
    E. Hairer, S. P. Norsett and G. Wanner, Solving Ordinary Differential Equations I (1993), II.4.

    Examples
    --------
    >>> round(propose(IController().coefficients(4), err=2.0**-5), 12)
    1.8
    """

    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0

    def __post_init__(self) -> None:
        _check(self, ())

    def coefficients(self, error_order: int) -> Coefficients:
        """The numbers of the formula, for an error of O(h^(error_order + 1))."""
        return _coefficients(self, error_order, 1.0, 0.0, 0.0)


@dataclass(frozen=True)
class FixedStep:
    """No control: every step is accepted, and the next one is as long.

    Exactly one of the two is given.

    Parameters
    ----------
    dt : float, optional
        The step size, positive; the sign is that of the direction of time.
    steps : int, optional
        Equal steps between two consecutive outputs.
    """

    dt: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.dt is None) == (self.steps is None):
            raise InputError("FixedStep: give dt or steps, and not both")
        if self.dt is not None:
            dt = _number("FixedStep", "dt", self.dt)
            if dt <= 0:
                raise InputError(f"FixedStep: dt must be positive, not {self.dt!r}")
        elif isinstance(self.steps, bool) or not isinstance(self.steps, Integral) or self.steps < 1:
            raise InputError(f"FixedStep: steps must be a positive integer, not {self.steps!r}")

    def coefficients(self, error_order: int) -> Coefficients:
        """The formula with factor 1 whatever the error."""
        return Coefficients(0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, MEMORY_FLOOR)


Controller: TypeAlias = IController | PIController | PIDController


def _check(controller: Controller, betas: tuple[str, ...]) -> None:
    owner = type(controller).__name__
    for name in betas:
        _number(owner, name, getattr(controller, name))
    if betas and sum(getattr(controller, name) for name in betas) <= 0:
        raise InputError(f"{owner}: the exponents must have a positive sum, else errors grow")
    if not 0 < _number(owner, "safety", controller.safety) <= 1:
        raise InputError(f"{owner}: safety must be in (0, 1], not {controller.safety!r}")
    if not 0 < _number(owner, "factor_min", controller.factor_min) < 1:
        raise InputError(f"{owner}: factor_min must be in (0, 1), not {controller.factor_min!r}")
    if not _number(owner, "factor_max", controller.factor_max) > 1:
        raise InputError(f"{owner}: factor_max must be above 1, not {controller.factor_max!r}")


def _coefficients(
    controller: Controller, error_order: int, beta1: float, beta2: float, beta3: float
) -> Coefficients:
    k = error_order + 1
    return Coefficients(
        log2_safety=math.log2(controller.safety),
        beta1=beta1 / k,
        beta2=beta2 / k,
        beta3=beta3 / k,
        beta_reject=1 / k,
        factor_min=float(controller.factor_min),
        factor_max=float(controller.factor_max),
        memory_floor=MEMORY_FLOOR,
    )


# Söderlind's filters (reference above) and the two classics, by the names they are known by.
NAMED: dict[str, Controller] = {
    "I": IController(),
    "PI": PIController(),
    "PI33": PIController(2 / 3, -1 / 3),
    "PI34": PIController(0.7, -0.4),
    "PI42": PIController(0.6, -0.2),
    "H211PI": PIController(1 / 6, 1 / 6),
    "H312PID": PIDController(1 / 18, 1 / 9, 1 / 18),
}

# For every adaptive explicit method: at equal error it needs the least work or nearly so, and
# rejects a third fewer steps than the I controller (measured in docs/math/step-size-control.md).
DEFAULT: Controller = NAMED["PI"]


def resolve(controller: Controller | str | None) -> Controller:
    """The controller that a user's argument means.

    Parameters
    ----------
    controller : controller, str or None
        A name is one of "I", "PI", "PI33", "PI34", "PI42", "H211PI", "H312PID"; None is the
        default, "PI".

    Raises
    ------
    InputError
        If it is none of these; the message names the nearest one.

    Examples
    --------
    >>> resolve("PI42")
    PIController(beta1=0.6, beta2=-0.2, safety=0.9, factor_min=0.2, factor_max=10.0)
    """
    if controller is None:
        return DEFAULT
    if isinstance(controller, (IController, PIController, PIDController)):
        return controller
    if not isinstance(controller, str):
        raise InputError(
            "controller must be an IController, PIController, PIDController or a name, not "
            f"{type(controller).__name__}"
        )
    known = {name.upper(): name for name in NAMED}
    if controller.upper() in known:
        return NAMED[known[controller.upper()]]
    import difflib  # only a wrong name needs it

    near = difflib.get_close_matches(controller.upper(), known, n=1, cutoff=0.0)
    raise InputError(
        f"unknown controller {controller!r}; did you mean {known[near[0]]!r}? "
        f"The names are {', '.join(NAMED)}"
    )
