"""Pictures of solutions: what is drawn is what was solved."""

import pickle

import numpy as np
import pytest

import nodecore as nc

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def headless():
    pyplot.switch_backend("Agg")
    yield
    pyplot.close("all")


def field(t, y):
    return [y[1], -4 * y[0]]


def lines_and_dots(ax):
    dots = [line for line in ax.lines if line.get_marker() == "."]
    return [line for line in ax.lines if line not in dots], dots


def test_one_sample_with_dense_output():
    t = np.linspace(0, 3, 7)
    sol = nc.solve(field, [1.0, 0.0], t, dense=True)
    lines, dots = lines_and_dots(sol.plot())
    assert [line.get_label() for line in lines] == ["y[0]", "y[1]"]
    for k in range(2):
        np.testing.assert_array_equal(dots[k].get_ydata(), sol.y[:, k])
        x, y = lines[k].get_data()
        np.testing.assert_allclose(y, [np.cos(2 * x), -2 * np.sin(2 * x)][k], atol=1e-4)
        assert len(x) == 400


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_batch_shows_six(dense, ragged):
    t = [np.linspace(0, 1 + b, 5) for b in range(8)] if ragged else np.linspace(0, 1, 5)
    sol = nc.solve(field, np.arange(16.0).reshape(8, 2) + 1, t, dense=dense)
    lines, dots = lines_and_dots(sol.plot())
    assert len(lines) == len(dots) == 12
    last = sol.y[5][:, 1]
    np.testing.assert_array_equal(dots[11].get_ydata(), last)
    assert lines[11].get_xdata()[-1] == (t[5][-1] if ragged else 1.0)
    assert lines[11].get_ydata()[-1] == pytest.approx(last[-1], abs=1e-6)


def test_a_tree_a_failure_and_a_pickled_solution():
    sol = nc.solve(
        lambda t, y: {"a": -y["a"], "b": y["b"] ** 2},
        {"a": np.ones(2), "b": 1.0},
        [0.0, 0.5, 2.0],
        on_failure="mark",
    )
    lines, _ = lines_and_dots(sol.plot())
    assert [line.get_label() for line in lines] == ["y['a'][0]", "y['a'][1]", "y['b']"]
    assert np.isnan(lines[2].get_ydata()[-1])  # not reached, not drawn
    again, _ = lines_and_dots(pickle.loads(pickle.dumps(sol)).plot())
    np.testing.assert_array_equal(again[0].get_ydata(), lines[0].get_ydata())


def test_axes_of_ones_own():
    _, ax = pyplot.subplots()
    assert nc.solve(field, [1.0, 0.0], [0.0, 1.0]).plot(ax) is ax
