"""Networks: shapes, initial weights, activations against their formulas, errors."""

import numpy as np
import pytest

from nodecore.nn import _ACTIVATIONS, MLP
from nodecore.status import InputError

FORMULAS = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sin": np.sin,
    "relu": lambda x: np.where(x > 0, x, 0),
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", _ACTIVATIONS)
def test_activations(name):
    x = np.linspace(-4, 4, 41)
    net = MLP([1, 1], final_activation=name)
    y = net({"W1": np.ones((1, 1)), "b1": np.zeros(1)}, x[:, None])[:, 0]
    # gelu's well-known tanh form is an approximation of the exact one by erf
    np.testing.assert_allclose(y, FORMULAS[name](x), atol=5e-4 if name == "gelu" else 1e-14)
    assert net(net.init(dtype=np.float32), x[:, None].astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_is_its_formula(dtype):
    net = MLP((3, 5, 4, 2), activation=np.sin, final_activation="tanh")
    p = net.init(seed=1, dtype=dtype)
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(dtype)
    h = np.sin(np.sin(x @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"])
    expected = np.tanh(h @ p["W3"] + p["b3"])
    assert expected.dtype == dtype
    assert np.array_equal(net(p, x), expected)
    assert net(p, x[0]).shape == (2,)
    np.testing.assert_allclose(net(p, list(x[0])), expected[0], rtol=1e-5)


def test_initial_weights():
    net = MLP([300, 500, 200], activation="tanh")
    p = net.init(seed=3)
    assert {k: v.shape for k, v in p.items()} == {
        "W1": (300, 500),
        "b1": (500,),
        "W2": (500, 200),
        "b2": (200,),
    }
    assert abs(p["W1"].std() / np.sqrt(2 / 800) - 1) < 0.02
    he = MLP([300, 500, 200], activation="relu", final_scale=0.1).init(seed=3)
    assert abs(he["W1"].std() / np.sqrt(2 / 300) - 1) < 0.02
    np.testing.assert_allclose(he["W2"], 0.1 * p["W2"], rtol=1e-14)
    again = net.init(seed=3, dtype=np.float32)
    assert again["W1"].dtype == np.float32
    assert np.array_equal(again["W1"], p["W1"].astype(np.float32))
    assert not np.array_equal(net.init(seed=4)["W1"], p["W1"])
    assert set(MLP([2, 2], bias=False).init()) == {"W1"}


def test_errors():
    with pytest.raises(InputError, match="two or more positive integers"):
        MLP([3])
    with pytest.raises(InputError, match="two or more positive integers"):
        MLP([3, 0, 1])
    with pytest.raises(InputError, match=r"unknown activation 'tahn'; known are tanh"):
        MLP([3, 3], activation="tahn")
    net = MLP([3, 1])
    with pytest.raises(InputError, match=r"shape \(\.\.\., 3\), not \(2,\)"):
        net(net.init(), np.ones(2))
