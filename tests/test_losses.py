"""Losses: values, missing observations, unreached rows, and no broadcasting."""

import numpy as np
import pytest
from scipy.stats import norm

from nodecore.losses import gaussian_nll, mae, mse
from nodecore.status import InputError

RNG = np.random.default_rng(0)
PRED = RNG.normal(size=(4, 3, 2))
TARGET = RNG.normal(size=(4, 3, 2))
TARGET[0, 1] = np.nan
SEEN = ~np.isnan(TARGET)


@pytest.mark.parametrize(
    ("loss", "entry"),
    [
        (mse, lambda p, q: (p - q) ** 2),
        (mae, lambda p, q: abs(p - q)),
        (lambda *a: gaussian_nll(*a, sigma=0.7), lambda p, q: -norm.logpdf(q, p, 0.7)),
    ],
)
def test_means_over_what_is_observed(loss, entry):
    np.testing.assert_allclose(loss(PRED, TARGET), entry(PRED[SEEN], TARGET[SEEN]).mean())
    mask = RNG.random(PRED.shape) < 0.5
    both = mask & SEEN
    np.testing.assert_allclose(loss(PRED, TARGET, mask), entry(PRED[both], TARGET[both]).mean())
    unreached = PRED.copy()
    unreached[2, 1:] = np.nan
    both = SEEN & ~np.isnan(unreached)
    np.testing.assert_allclose(loss(unreached, TARGET), entry(PRED[both], TARGET[both]).mean())
    assert np.isnan(loss(unreached, TARGET, SEEN))
    assert loss(PRED, np.full(PRED.shape, np.nan)) == 0.0


def test_gaussian_nll_with_deviations_of_its_own():
    log_sigma = RNG.normal(size=PRED.shape)
    expected = -norm.logpdf(TARGET, PRED, np.exp(log_sigma))[SEEN].mean()
    both = np.concatenate([PRED, log_sigma], axis=-1)
    np.testing.assert_allclose(gaussian_nll(both, TARGET), expected)
    np.testing.assert_allclose(gaussian_nll(PRED, TARGET, sigma=np.exp(log_sigma)), expected)
    trees = gaussian_nll({"x": both[:2], "y": both[2:]}, {"x": TARGET[:2], "y": TARGET[2:]})
    np.testing.assert_allclose(trees, expected)


@pytest.mark.parametrize("loss", [mse, mae])
def test_trees_and_ragged_lists_are_one_pool(loss):
    whole = loss(PRED, TARGET)
    split = [PRED[:1, :2], PRED[:1, 2:], PRED[1:]], [TARGET[:1, :2], TARGET[:1, 2:], TARGET[1:]]
    np.testing.assert_allclose(loss(*split), whole, rtol=1e-14)
    named = {"x": PRED[..., 0], "y": PRED[..., 1]}, {"x": TARGET[..., 0], "y": TARGET[..., 1]}
    np.testing.assert_allclose(loss(*named), whole, rtol=1e-14)


@pytest.mark.parametrize("loss", [mse, mae, lambda *a: gaussian_nll(*a, sigma=1.0)])
def test_nothing_is_broadcast(loss):
    for shape in [(4, 3, 1), (3, 2), (1, 3, 2), ()]:
        with pytest.raises(InputError, match="does not broadcast"):
            loss(PRED, np.zeros(shape))
    with pytest.raises(InputError, match=r"mask has shape \(4, 3\)"):
        loss(PRED, TARGET, np.ones((4, 3), bool))
    with pytest.raises(InputError, match="one structure"):
        loss(PRED, {"y": TARGET})


def test_gaussian_nll_names_the_shape_it_wants():
    with pytest.raises(InputError, match=r"shape \(4, 3, 4\) for a target"):
        gaussian_nll(PRED, TARGET)
    with pytest.raises(InputError, match="neither a number nor shaped as target"):
        gaussian_nll(PRED, TARGET, sigma=np.ones(2))


@pytest.mark.parametrize("loss", [mse, mae, gaussian_nll])
def test_losses_promise_to_be_pure(loss):
    assert loss.__nodecore_pure__
