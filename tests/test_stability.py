"""nc.stability: R(z), the limits and the steps they allow, for every method there is; pictures."""

import sys

import numpy as np
import pytest

import nodecore as nc
from nodecore import methods
from nodecore.methods import Rosenbrock

ALL = methods.names(methods.FAMILIES)
EXPLICIT = [name for name in ALL if methods.get(name, methods.FAMILIES).explicit]

# decaying, oscillating, growing; near the origin and far away
Z = np.array([0, -0.3, -2.5, 1e-3j, 1 - 2j, -0.7 + 3j, -40, 25j, -8 + 8j])


def amplification(method, z):
    """1 + z b^T (I - z A)^-1 1 by a linear solve."""
    if isinstance(method, Rosenbrock):
        A, b = method.alpha + method.Gamma, method.b
    else:
        s = method.n_step_stages
        A, b = method.A[:s, :s], method.b[:s]
    one = np.ones(len(b))
    return 1 + z * (b @ np.linalg.solve(np.eye(len(b)) - z * A, one))


@pytest.mark.parametrize("name", ALL)
def test_R_is_what_the_coefficients_say(name):
    found = nc.stability(name)
    want = np.array([amplification(methods.get(name, methods.FAMILIES), z) for z in Z])
    assert found.R(Z).dtype == complex and found.R(Z.reshape(3, 3)).shape == (3, 3)
    np.testing.assert_allclose(found.R(Z), want, rtol=1e-9, atol=1e-13)
    assert np.ndim(found.R(-1.0)) == 0


@pytest.mark.parametrize("name", [n for n in methods.names() if n != "auto"])
@pytest.mark.parametrize("z", [-0.5, -0.3 + 1.2j, 0.4j])
def test_R_is_what_a_step_does(name, z):
    """Of y' = lambda y for a complex y, written as two real components, and a step of length 1."""
    a, b = complex(z).real, complex(z).imag
    sol = nc.solve(
        lambda t, y: [a * y[0] - b * y[1], b * y[0] + a * y[1]],
        [1.0, 0.0],
        [0.0, 1.0],
        method=name,
        steps=1,
    )
    np.testing.assert_allclose(sol.y[-1] @ [1, 1j], nc.stability(name).R(z), rtol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_far_out(name):
    found = nc.stability(name)
    for z in (-1e8, 1e8j, -1e300, np.inf, -np.inf):
        size = np.abs(found.R(z))
        if found.at_infinity == np.inf:
            assert size > 1e7
        else:
            assert size == pytest.approx(found.at_infinity, abs=1e-6)
    assert found.l_stable == (found.a_stable and found.at_infinity == 0)


@pytest.mark.parametrize("name", EXPLICIT)
def test_an_explicit_method_has_a_limit(name):
    found = nc.stability(name)
    assert not found.a_stable and found.at_infinity == np.inf
    for limit, direction in ((found.real_limit, -1), (found.imaginary_limit, 1j)):
        inside = np.abs(found.R(np.linspace(0, limit, 400) * direction))
        assert inside.max() <= 1 + 1e-11
        assert np.abs(found.R((limit + 0.05) * direction)) > 1


def test_kinds_that_the_textbooks_name():
    for name in ("backward_euler", "trbdf2", "kvaerno5", "radau5", "rodas5p", "kencarp4"):
        found = nc.stability(name)
        assert found.l_stable and found.real_limit == found.imaginary_limit == np.inf, name
    trapezoid = nc.stability("trapezoid")
    assert trapezoid.a_stable and not trapezoid.l_stable and trapezoid.at_infinity == 1
    assert np.abs(trapezoid.R(1j * np.linspace(-50, 50, 11))) == pytest.approx(np.ones(11))


def test_names_aliases_and_tableaus():
    assert nc.stability("RK45").method == "dopri5"
    assert nc.stability(methods.get("rk4")).real_limit == nc.stability("RK4").real_limit
    with pytest.raises(nc.InputError, match="kvaerno5"):
        nc.stability("kvaerno6")


@pytest.mark.parametrize("name", ["euler", "rk4", "tsit5", "dop853"])
def test_the_largest_step_is_the_largest(name):
    """Powers of R over the spectrum: bounded just below the step, unbounded just above."""
    found = nc.stability(name)
    spectrum = np.array([-1.0, -30.0, -4 + 20j, -4 - 20j, 0.3])
    h = found.largest_step(spectrum)
    decaying = spectrum[spectrum.real <= 0]
    assert 0 < h < np.inf
    assert np.abs(found.R(0.999 * h * decaying)).max() <= 1
    assert np.abs(found.R(1.001 * h * decaying)).max() > 1
    assert found.largest_step([-30.0]) == pytest.approx(found.real_limit / 30)
    assert found.largest_step([2j, -2j]) == pytest.approx(found.imaginary_limit / 2)
    # growth of the problem's own is not the method's to suppress
    assert found.largest_step([5.0, 0.0, 1 + 2j]) == np.inf
    assert found.largest_step([1e-12 + 2j]) == pytest.approx(found.imaginary_limit / 2)


def test_no_step_is_too_long_for_an_a_stable_method():
    assert nc.stability("trapezoid").largest_step([-1e9, 1e9j]) == np.inf


def test_it_prints_what_there_is_to_know():
    text = repr(nc.stability("bosh3"))
    assert "1 + z + z^2/2 + z^3/6" in text and "-2.513" in text and "1.732i" in text
    assert "(1 + z/2) / (1 - z/2)" in repr(nc.stability("trapezoid"))
    assert "(1 - 13 z/50)^6" in repr(nc.stability("kvaerno5"))
    assert repr(nc.stability("kencarp4")).startswith("Stability of kencarp4 (order 4, the implicit")
    assert "nowhere" in repr(nc.stability("euler"))


# ---- Pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["euler", "tsit5", "trapezoid", "kvaerno5"])
def test_the_picture_shows_the_region(name):
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    found = nc.stability(name)
    figure, given = plt.subplots()
    ax = found.plot(given)
    assert ax is given and ax.get_title() == name
    line = ax.collections[-1]  # the unit contour
    boundary = np.concatenate(
        [path.vertices for path in line.get_paths() if len(path.vertices)]
    ) @ [1, 1j]
    assert len(boundary) > 100
    step = max(np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())) / 500
    slope = np.abs(found.R(boundary + 1e-6) - found.R(boundary - 1e-6)) / 2e-6
    assert np.all(np.abs(np.abs(found.R(boundary)) - 1) <= 2 * step * slope + 1e-3)
    for limit in (found.real_limit, found.imaginary_limit):
        if 0 < limit < np.inf:
            assert any(f"{limit:.4g}" in text.get_text() for text in ax.texts)
            assert ax.get_xlim()[0] < -found.real_limit and limit < ax.get_ylim()[1] * 3
    plt.close(figure)
    plt.close(found.plot().figure)


def test_a_missing_matplotlib_is_named(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install.*nodecore\[plot\]") as caught:
        nc.stability("rk4").plot()
    assert isinstance(caught.value, nc.Error)


def test_auto_is_two_methods():
    with pytest.raises(nc.InputError, match="is two methods"):
        nc.stability("auto")
