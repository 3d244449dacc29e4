"""The gallery: what its pages claim, and that each script runs."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nodecore as nc

EXAMPLES = Path(__file__).parents[1] / "examples"

pytest.importorskip("matplotlib")


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_residual_blocks_and_euler_steps_have_the_same_bits():
    pytest.importorskip("sklearn")
    example = load("resnet_is_euler")
    assert example["same_bits"](depth=5, samples=37)
    x, y = [3.0, 1.0, 2.0, 2.0], [10.0, 5.0, 6.0, 7.0]
    # ranks 4 1 2.5 2.5 and 4 1 2 3
    assert example["rank_correlation"](x, y) == pytest.approx(
        np.corrcoef([4, 1, 2.5, 2.5], [4, 1, 2, 3])[0, 1]
    )


def test_one_unstable_gradient_stops_training():
    example = load("stability")
    start, true = example["START"], example["TRUE"]
    found = {}
    for name, (options, _, _) in example["METHODS"].items():
        if options["method"] not in nc.methods.names():
            continue
        slope = example["gradients"](np.array([start]), options)[0]
        found[name] = slope, example["learn"](options)[-1]
    # mean over t of d/dtheta (exp(theta t) - exp(true t))^2, and the same of (1 + h theta)^k
    t, h = example["T"], example["H"]
    exact = np.mean(2 * (np.exp(start * t) - np.exp(true * t)) * t * np.exp(start * t))
    k, factor = np.arange(11), 1 + h * start
    euler = np.mean(2 * (factor**k - np.exp(true * t)) * k * h * factor ** (k - 1.0))
    assert found["adaptive (tsit5)"] == pytest.approx((exact, true), rel=1e-3)
    assert found["forward Euler"][0] == pytest.approx(euler, rel=1e-9)
    assert found["forward Euler"][0] / exact > 1e11
    assert found["forward Euler"][1] < -20  # where h |theta| > 2 still
    for name, rate in (
        # R(h theta) = exp(h true)
        ("backward Euler", (1 - np.exp(-h * true)) / h),
        ("trapezoidal rule", 2 / h * (np.exp(h * true) - 1) / (np.exp(h * true) + 1)),
    ):
        if name in found:
            assert found[name][1] == pytest.approx(rate, rel=1e-3)


def test_rates_nine_orders_of_magnitude_apart_are_found():
    example = load("robertson")
    y0 = example["mixtures"](12, seed=0)
    fit = example["fit_rates"](y0, example["measure"](y0))
    spread = np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac)))
    assert fit.success and (spread < 0.01).all()
    assert (np.abs(fit.x - np.log(example["TRUE"])) < 3 * spread).all()
    # the data are as far from the fit as the noise is large
    assert 2 * fit.cost == pytest.approx(len(fit.fun) - 3, rel=0.1)


def test_laws_of_networks_can_be_those_of_mass_action():
    """Networks that return the right constants at a state give its derivative."""
    example = load("robertson")
    k = example["TRUE"]
    params = [net.init(seed=0) for net in example["NETS"]]
    for p, per_molecule in zip(params, (k[0], k[1] * 2e-5, k[2] * 0.3), strict=True):
        p["W2"][:] = 0
        p["b2"][:] = np.log(per_molecule)
    y = np.array([0.7, 2e-5, 0.3])
    np.testing.assert_allclose(
        example["network"](0.0, y, params), example["kinetics"](0.0, y, np.log(k)), rtol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_it_runs_and_saves_its_picture(script, tmp_path):
    if script.stem == "resnet_is_euler":
        pytest.importorskip("sklearn")
    here = tmp_path / "examples"
    shutil.copytree(EXAMPLES, here, ignore=shutil.ignore_patterns("*.png", "__pycache__"))
    done = subprocess.run(
        [sys.executable, str(here / script.name)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(nc.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert str(here / f"{script.stem}.png") in done.stdout
    assert (here / f"{script.stem}.png").stat().st_size > 50_000
