"""Controllers: the formula, its limits, the presets, and what they do to sequences of steps."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodecore import methods
from nodecore.control import (
    DEFAULT,
    MEMORY_FLOOR,
    NAMED,
    FixedStep,
    IController,
    PIController,
    PIDController,
    propose,
    resolve,
)
from nodecore.status import InputError

each = pytest.mark.parametrize("name", NAMED)
each_class = pytest.mark.parametrize("cls", [IController, PIController, PIDController])
errors = st.floats(0, 2) | st.floats(0, 1e300) | st.sampled_from([0.0, 1.0, math.inf, math.nan])
accepted = st.floats(0, 1)


# ---- The formula ---------------------------------------------------------------------------------


def test_i_controller():
    k = IController().coefficients(4)
    assert propose(k, 0.5) == pytest.approx(0.9 * 0.5 ** (-1 / 5))
    assert propose(k, 30.0) == pytest.approx(0.9 * 30.0 ** (-1 / 5))


def test_pi_controller_is_that_of_dopri5():
    # dopri5.f: fac11 = err^(0.2 - 0.75 beta), fac = fac11 / facold^beta, h / clip(fac / 0.9, ...)
    k = PIController().coefficients(4)
    err, facold, beta = 0.3, 0.02, 0.04
    assert propose(k, err, facold) == pytest.approx(0.9 * facold**beta / err ** (0.2 - 0.75 * beta))
    # On a rejection the memory is not used; dopri5 then takes fac11, we the exact exponent 1/k.
    assert propose(k, 3.0, facold) == propose(k, 3.0, 1.0) == pytest.approx(0.9 * 3.0**-0.2)


def test_pid_controller_uses_three_errors():
    k = PIDController(0.5, -0.2, 0.1).coefficients(2)
    assert propose(k, 0.8, 0.3, 0.6) == pytest.approx(
        0.9 * 0.8 ** (-0.5 / 3) * 0.3 ** (0.2 / 3) * 0.6 ** (-0.1 / 3)
    )


@each
def test_coefficients_are_numbers_for_the_kernels(name):
    k = NAMED[name].coefficients(7)
    assert all(type(x) is float for x in k)
    assert k.log2_safety == math.log2(0.9) and k.beta_reject == 1 / 8


@each
@given(err=errors, err1=accepted, err2=accepted, rejected=st.booleans(), order=st.integers(1, 8))
def test_the_factor_stays_in_its_limits(name, err, err1, err2, rejected, order):
    k = NAMED[name].coefficients(order)
    factor = propose(k, err, err1, err2, rejected)
    assert 0.2 <= factor <= 10
    if err <= 1:
        assert factor <= 1 or not rejected
    else:
        assert factor <= 0.9  # after a rejection the step always shrinks, by the safety at least


@each
def test_limits_are_reached_and_obeyed(name):
    controller = dataclasses.replace(NAMED[name], factor_min=0.3, factor_max=4.0)
    k = controller.coefficients(1)
    assert propose(k, 0.0) == propose(k, 1e-300) == 4.0
    assert propose(k, 0.0, rejected_before=True) == 1.0
    assert propose(k, 1e30) == 0.3
    assert propose(k, math.inf) == propose(k, math.nan) == 0.3


@each
def test_a_tiny_error_in_memory_counts_as_the_floor(name):
    k = NAMED[name].coefficients(4)
    assert propose(k, 0.5, 0.0, 1e-9) == propose(k, 0.5, MEMORY_FLOOR, MEMORY_FLOOR)


def test_fixed_steps_are_the_same_formula():
    for fixed in (FixedStep(dt=0.1), FixedStep(steps=3)):
        assert propose(fixed.coefficients(4), 0.0) == 1.0
        assert propose(fixed.coefficients(4), 1e9) == 1.0


# ---- Parameters ----------------------------------------------------------------------------------


@each_class
def test_values_are_frozen_and_comparable(cls):
    assert cls() == cls() and hash(cls()) == hash(cls())
    assert cls(safety=0.8) != cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().safety = 0.5


@each_class
@pytest.mark.parametrize(
    "wrong",
    [{"safety": 0.0}, {"safety": 1.1}, {"safety": math.nan}, {"safety": "0.9"}]
    + [{"factor_min": 0.0}, {"factor_min": 1.0}, {"factor_max": 1.0}, {"factor_max": math.inf}],
)
def test_bad_parameters(cls, wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=f"{cls.__name__}.*{name}"):
        cls(**wrong)


@pytest.mark.parametrize("cls", [PIController, PIDController])
def test_bad_exponents(cls):
    with pytest.raises(InputError, match="beta2"):
        cls(beta2=math.inf)
    with pytest.raises(InputError, match="positive sum"):
        cls(0.1, -0.5)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"dt": 0.1, "steps": 2}, {"dt": 0.0}, {"dt": -1.0}, {"dt": math.nan}]
    + [{"steps": 0}, {"steps": 2.5}, {"steps": True}],
)
def test_bad_fixed_steps(wrong):
    with pytest.raises(InputError, match="FixedStep"):
        FixedStep(**wrong)


def test_numpy_numbers_are_numbers():
    assert IController(safety=np.float32(0.5)).coefficients(1).log2_safety == -1.0
    assert FixedStep(steps=np.int64(3)).steps == 3


@each
def test_names(name):
    assert resolve(name) is resolve(name.lower()) is NAMED[name]
    assert resolve(NAMED[name]) is NAMED[name]


def test_default():
    assert resolve(None) is DEFAULT == PIController()


def test_unknown_names():
    with pytest.raises(
        InputError, match="'PI43'.*did you mean 'PI42'|'PI43'.*'PI33'|'PI43'.*'PI34'"
    ):
        resolve("PI43")
    with pytest.raises(InputError, match="H211PI"):
        resolve("")
    with pytest.raises(InputError, match="not float"):
        resolve(0.9)
    with pytest.raises(InputError, match="not FixedStep"):
        resolve(FixedStep(dt=1.0))


# ---- Closed loop ---------------------------------------------------------------------------------


@each
def test_the_loop_settles(name):
    """With err = h^5 the step settles at the fixed point that the safety factor sets."""
    k = NAMED[name].coefficients(4)
    h, err1, err2, steps = 1e-3, 1.0, 1.0, []
    for _ in range(200):
        err = h**5
        steps.append((h, err))
        h *= propose(k, err, err1, err2)
        assert err <= 1.0 or len(steps) < 30
        if err <= 1.0:
            err1, err2 = err, err1
    gain = k.beta1 + k.beta2 + k.beta3
    fixed_point = 2.0 ** (k.log2_safety / (5 * gain))  # gamma = err^gain, err = h^5
    assert steps[-1][0] == pytest.approx(fixed_point, rel=1e-6)


@each
@pytest.mark.parametrize(
    "method", [n for n in methods.names(("explicit",)) if methods.get(n).adaptive]
)
def test_the_tolerance_is_met(name, method):
    """Solve y' = cos(t) y with step-size control: few rejections, an error near the tolerance."""
    tab, controller = methods.get(method), NAMED[name]
    k = controller.coefficients(tab.error_order)
    tol = 1e-4 if tab.order <= 2 else 1e-7
    t, y, h, err1, err2 = 0.0, 1.0, 1e-3, 1.0, 1.0
    rejected, accepted, rejections = False, 0, 0
    while t < 10:
        h = min(h, 10 - t)
        stages = np.zeros(tab.n_stages)
        for i in range(tab.n_step_stages):
            Y = y + h * (tab.A[i] @ stages)
            stages[i] = math.cos(t + tab.c[i] * h) * Y
        scale = tol * (1 + max(abs(y), abs(Y)))
        err = abs(h * (tab.b_err @ stages)) / scale
        if tab.b_err2 is not None:
            err2nd = abs(h * (tab.b_err2 @ stages)) / scale
            err = err**2 / math.hypot(err, 0.1 * err2nd)
        factor = propose(k, err, err1, err2, rejected)
        if err <= 1:
            t, y, accepted = t + h, Y, accepted + 1
            err1, err2 = err, err1
        rejected = not err <= 1
        rejections += rejected
        h *= factor
    assert abs(y - math.exp(math.sin(10))) < 100 * tol
    assert rejections <= 0.5 * accepted
