"""nc.diagnose: spectra against known ones, judgements against known problems, and its picture."""

import warnings

import numpy as np
import pytest

import nodecore as nc
from nodecore import _diagnose
from nodecore._failure import warn_stiffness


def van_der_pol(t, y, mu):
    return [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]


def oscillator(t, y, omega):
    return [omega * y[1], -omega * y[0]]


def robertson(t, y):
    a, b, c = y
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b**2
    return [-slow + back, slow - back - fast, fast]


# ---- Judgements ----------------------------------------------------------------------------------


def test_a_stiff_van_der_pol_oscillator():
    found = nc.diagnose(van_der_pol, [2.0, 0.0], [0.0, 2000.0], 1000.0)
    assert not nc.stability(found.recommended).real_limit < np.inf
    # on the slow branches 1 < |y| < 2, where the fast eigenvalue is mu (1 - y^2) = -3 mu at y = 2
    assert found.spectral_radius == pytest.approx(3000, rel=0.01)
    assert found.stable_step == pytest.approx(nc.stability("tsit5").real_limit / 3000, rel=0.01)
    assert found.stiffness_ratio > 1e6
    assert not found.explicit.finished and found.explicit.steps == 20_000
    assert found.implicit.finished and found.implicit.steps < 2000
    assert "stiff: " in found.reason and "3e+03" in found.reason and "0.00117" in found.reason


def test_an_oscillator_is_not_stiff():
    found = nc.diagnose(oscillator, [1.0, 0.0], [0.0, 50.0], 3.0)
    assert found.recommended == found.method == "tsit5"
    assert found.reason.startswith("not stiff")
    assert found.spectral_radius == pytest.approx(3) and found.stiffness_ratio == pytest.approx(1)
    assert found.stable_step == pytest.approx(nc.stability("tsit5").imaginary_limit / 3)
    np.testing.assert_allclose(np.sort(found.eigenvalues.imag, axis=1)[:, 1], 3, rtol=1e-12)
    tight = nc.diagnose(oscillator, [1.0, 0.0], [0.0, 5.0], 3.0, rtol=1e-11, atol=1e-13)
    assert tight.recommended == "dop853"


def test_robertson_and_the_heat_equation_are_stiff():
    found = nc.diagnose(robertson, [1.0, 0.0, 0.0], [0.0, 1e4], atol=1e-10)
    assert nc.stability(found.recommended).l_stable

    n = 40
    x = np.linspace(0, 1, n + 2)[1:-1]

    def heat(t, u):
        wall = np.zeros_like(u[:1])
        right, left = np.concatenate([u[1:], wall]), np.concatenate([wall, u[:-1]])
        return (n + 1) ** 2 * (left - 2 * u + right)

    found = nc.diagnose(heat, np.sin(np.pi * x) + np.sin(5 * np.pi * x), [0.0, 1.0])
    exact = -4 * (n + 1) ** 2 * np.sin(np.arange(1, n + 1) * np.pi / (2 * n + 2)) ** 2
    got = np.sort(found.eigenvalues.real, axis=1)
    np.testing.assert_allclose(got, np.broadcast_to(np.sort(exact), got.shape), rtol=1e-9)
    assert found.stiffness_ratio == pytest.approx(exact[-1] / exact[0])
    assert nc.stability(found.recommended).l_stable
    assert found.explicit.finished  # which says how good the estimate would have been:
    needed = np.trapezoid(1 / found.limits, found.t)
    assert needed == pytest.approx(found.explicit.steps, rel=0.15)


def test_a_mildly_stiff_problem_is_left_to_the_explicit_method():
    found = nc.diagnose(van_der_pol, [2.0, 0.0], [0.0, 20.0], 5.0)
    assert found.recommended == "tsit5"


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
def test_what_an_explicit_solve_would_take_is_foretold():
    """Stopped after a hundred steps, the total comes from the spectrum along the other solve."""
    t, y0 = [0.0, 160.0], [2.0, 0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_diagnose, "_MOST_STEPS", 3000)
        found = nc.diagnose(van_der_pol, y0, t, 100.0)
    assert not found.explicit.finished and found.implicit.finished
    truth = nc.solve(van_der_pol, y0, t, 100.0).stats
    assert found._total(found.explicit) == pytest.approx(truth.accepted + truth.rejected, rel=0.25)


# ---- The spectrum --------------------------------------------------------------------------------


def test_the_jacobian_of_a_tree_with_args_and_a_network():
    """Against central differences of the field itself, at the points where it was computed."""
    net = nc.nn.MLP([3, 8, 3])
    params = net.init(seed=1)
    seen = []

    def field(t, y, params, args):
        x = np.concatenate([y["a"], np.reshape(y["b"], (1,))])
        dx = net(params, x) * args["scale"] - x * t
        return {"a": dx[:2], "b": dx[2]}

    y0 = {"a": np.array([[0.5, -1.0], [2.0, 0.3]]), "b": np.array([0.2, 0.1])}
    args = {"scale": np.array([1.0, 20.0])}
    found = nc.diagnose(field, y0, [0.0, 1.0], params, args, batch=True)
    assert found.sample == 1  # twenty times as fast
    one = _diagnose._Sample(
        field,
        {k: v[1] for k, v in y0.items()},
        np.array([0.0, 1.0]),
        params,
        {"scale": args["scale"][1]},
        {"rtol": 1e-6, "atol": 1e-9, "threads": None},
    )
    t = np.array([0.0, 0.3, 0.9])
    y = np.random.default_rng(0).standard_normal((3, 3))
    J = one.jacobians(t, y)
    for k in range(3):
        for j in range(3):
            moved = []
            for eps in (1e-6, -1e-6):
                x = y[k] + eps * np.eye(3)[j]
                out = field(t[k], {"a": x[:2], "b": x[2]}, params, {"scale": 20.0})
                moved.append(np.append(out["a"], out["b"]))
            seen.append(np.abs((moved[0] - moved[1]) / 2e-6 - J[k, :, j]).max())
    assert max(seen) < 1e-7


def test_backwards_in_time_decay_is_growth():
    forward = nc.diagnose(lambda t, y: -3.0 * y, [1.0], [0.0, 1.0])
    backward = nc.diagnose(lambda t, y: -3.0 * y, [1.0], [1.0, 0.0])
    np.testing.assert_array_equal(forward.eigenvalues, -3)
    np.testing.assert_array_equal(backward.eigenvalues, 3)
    assert backward.stable_step == np.inf > forward.stable_step


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
def test_a_batch_is_judged_by_its_hardest_sample():
    rates = np.array([1.0, 2000.0, 10.0])
    found = nc.diagnose(
        lambda t, y, p, rate: -rate * (y - np.cos(t)),
        np.ones((3, 1)),
        [0.0, 10.0],
        args=rates,
    )
    assert found.sample == 1 and found.spectral_radius == pytest.approx(2000)
    assert nc.stability(found.recommended).a_stable
    assert "sample 1 of 3" in repr(found)


def test_an_opaque_field_brings_its_jacobian():
    def fun(t, y, params, args):
        return params * y

    with pytest.raises(nc.InputError, match="jac"):
        nc.diagnose(nc.opaque(fun), [1.0, 1.0], [0.0, 1.0], -4.0)
    field = nc.opaque(
        fun, jac=lambda t, y, params, args: params * np.tile(np.eye(2), (len(t), 1, 1))
    )
    found = nc.diagnose(field, [1.0, 1.0], [0.0, 1.0], -4.0)
    np.testing.assert_array_equal(found.eigenvalues, -4)


# ---- What cannot be diagnosed --------------------------------------------------------------------


def test_a_solution_that_ends_early():
    found = nc.diagnose(lambda t, y: y**2, [1.0], [0.0, 2.0])
    assert "cannot be followed beyond t = 1" in found.reason and found.recommended == "tsit5"


def test_errors_say_what_is_wrong():
    with pytest.raises(nc.InputError, match="explicit adaptive"):
        nc.diagnose(oscillator, [1.0, 0.0], [0.0, 1.0], 1.0, method="rk4")
    with pytest.raises(nc.InputError, match="one time"):
        nc.diagnose(oscillator, [1.0, 0.0], [0.0], 1.0)
    with pytest.raises(nc.SolveError, match="infinite or NaN"):
        nc.diagnose(lambda t, y: np.log(y), [-1.0], [0.0, 1.0])
    with pytest.raises(nc.InputError, match="not finite at t = 0"):
        nc.diagnose(lambda t, y: np.stack([y[0] * 0, np.sqrt(y[0])]), [0.0, 1.0], [0.0, 1.0])


def test_another_explicit_method():
    found = nc.diagnose(lambda t, y: -5.0 * y, [1.0], [0.0, 4.0], method="bosh3")
    assert found.method == "bosh3" == found.explicit.method
    assert found.stable_step == pytest.approx(nc.stability("bosh3").real_limit / 5)


def test_a_deadline_is_kept():
    def slow(t, y, params, args):
        import time

        time.sleep(2e-3 * len(t))
        return -1e4 * (y - np.cos(t)[:, None])

    def jac(t, y, params, args):
        return np.full((len(t), 1, 1), -1e4)

    import time

    begin = time.perf_counter()
    found = nc.diagnose(nc.opaque(slow, jac=jac), [1.0], [0.0, 100.0], deadline=1.5)
    assert time.perf_counter() - begin < 6
    assert not found.explicit.finished and found.spectral_radius == 1e4


# ---- Seeing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["stiff", "not", "log", "many"])
def test_the_picture(case):
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    if case == "log":
        found = nc.diagnose(robertson, [1.0, 0.0, 0.0], [0.0, 1e4], atol=1e-10)
    elif case == "many":
        found = nc.diagnose(lambda t, y, w: -w * y, np.ones(30), [0.0, 1.0], np.arange(30.0))
    else:
        mu, end = {"stiff": (300.0, 500.0), "not": (1.0, 10.0)}[case]
        found = nc.diagnose(van_der_pol, [2.0, 0.0], [0.0, end], mu)
    figure = found.plot()
    top, bottom = figure.axes
    assert bottom.get_yscale() == top.get_yscale() == "log"
    assert (bottom.get_xscale() == "log") == (case == "log")
    labels = [line.get_label() for line in bottom.lines]
    assert f"{found.explicit.steps:,} steps" in labels[0]
    limit = next(line for line in bottom.lines if "limit" in line.get_label())
    assert np.nanmin(limit.get_ydata()) == found.stable_step
    assert found.recommended in figure.get_suptitle()
    plt.close(figure)


def test_a_problem_without_any_rate():
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    found = nc.diagnose(lambda t, y: 0 * y + 1, 1.0, [0.0, 1.0])
    assert found.spectral_radius == 0 and found.stable_step == np.inf
    assert found.recommended == "tsit5"
    plt.close(found.plot())


def test_it_prints_the_numbers():
    text = repr(nc.diagnose(van_der_pol, [2.0, 0.0], [0.0, 20.0], 2.0))
    for word in ("spectral radius", "stiffness ratio", "stable step", "recommended", "tsit5"):
        assert word in text


# ---- Warnings ------------------------------------------------------------------------------------


def test_one_warning_for_a_solve_with_its_numbers():
    t, h, rho = np.array([1.0, 2.5, 3.0]), np.array([0.1, 1e-3, 0.2]), np.array([1.0, 3400.0, 2.0])
    with pytest.warns(nc.StiffnessWarning) as caught:
        warn_stiffness("tsit5", 3.5068, t, h, rho, np.array([0, 4321, 15]))
    (text,) = [str(w.message) for w in caught]
    for part in ("sample 1", "4,321 steps of tsit5", "t = 2.5", "0.001", "3.4", "3.51", "2 of 3"):
        assert part in text
    with pytest.warns(nc.StiffnessWarning, match="^15 steps") as caught:
        warn_stiffness("tsit5", 3.5068, t[:1], h[:1], rho[:1], np.array([15]), batched=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_stiffness("tsit5", 3.5068, t, h, rho, np.zeros(3, int))
