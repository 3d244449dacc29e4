"""Optimizers: the published algorithm, purity, learning rates as functions, errors."""

import numpy as np
import pytest

from nodecore.optim import Adam
from nodecore.status import InputError


def reference_adam(x, gradients, lr, b1, b2, eps):
    """Algorithm 1 of Kingma and Ba, as printed."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        x = x - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adam_is_the_published_algorithm(dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2)).astype(dtype)
    gradients = [rng.normal(size=(3, 2)).astype(dtype) for _ in range(20)]
    adam = Adam(lr=0.02, b1=0.8, b2=0.95, eps=1e-6)
    params = {"a": [x, 2.0], "b": ()}
    state = adam.init(params)
    for g in gradients:
        params, state = adam.update(params, {"a": [g, 1.0], "b": ()}, state)
    expected = reference_adam(x.astype(float), gradients, 0.02, 0.8, 0.95, 1e-6)
    assert params["a"][0].dtype == dtype
    np.testing.assert_allclose(
        params["a"][0], expected, rtol=1e-5 if dtype == np.float32 else 1e-13
    )
    assert state.step == 20


def test_update_is_pure():
    adam = Adam()
    params, grads = {"k": np.ones(2)}, {"k": np.full(2, 3.0)}
    state = adam.init(params)
    first = adam.update(params, grads, state)
    second = adam.update(params, grads, state)
    assert np.array_equal(params["k"], [1, 1]) and np.array_equal(grads["k"], [3, 3])
    assert state.step == 0 and not any(m.any() for m in state.mean.values())
    assert np.array_equal(first[0]["k"], second[0]["k"])


def test_learning_rate_as_a_function():
    seen = []

    def lr(step):
        seen.append(step)
        return 0.1 * 0.5**step

    adam = Adam(lr=lr, b1=0.0, b2=0.0, eps=0.0)
    params, state = {"k": np.zeros(1)}, adam.init({"k": np.zeros(1)})
    for _ in range(3):
        params, state = adam.update(params, {"k": np.ones(1)}, state)
    assert seen == [0, 1, 2]
    np.testing.assert_allclose(params["k"], -0.175, rtol=1e-14)


def test_errors():
    with pytest.raises(InputError, match="learning rate is -1.0"):
        Adam(lr=-1.0)
    with pytest.raises(InputError, match="b1 and b2"):
        Adam(b1=1.0)
    adam = Adam()
    params = {"k": np.ones(2)}
    state = adam.init(params)
    with pytest.raises(InputError, match="structure"):
        adam.update(params, {"q": np.ones(2)}, state)
    with pytest.raises(InputError, match=r"shape \(2,\) has a gradient of \(3,\)"):
        adam.update(params, {"k": np.ones(3)}, state)
    with pytest.raises(InputError, match="state is that of other params"):
        adam.update({"k": np.ones(3)}, {"k": np.ones(3)}, state)
