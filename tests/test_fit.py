"""fit: what it finds, and that each of its options does what it says."""

import pickle

import numpy as np
import pytest

import nodecore as nc

T = np.linspace(0.0, 2.0, 6)
RATE = 0.7
Y0 = np.random.default_rng(0).uniform(1.0, 2.0, size=(5, 1))
TARGET = Y0[:, None, :] * np.exp(-RATE * T)[:, None]


def decay(t, y, params):
    return -params["k"] * y


def run(field=decay, params=None, y0=Y0, t=T, target=TARGET, args=None, **options):
    defaults = {"optimizer": nc.optim.Adam(0.05), "steps": 200, "progress": False}
    params = {"k": 1.0} if params is None else params
    return nc.fit(field, params, y0, t, target, args, **{**defaults, **options})


def assert_found(result, **expected):
    for name, value in expected.items():
        np.testing.assert_allclose(result.params[name], value, rtol=2e-3)


@pytest.mark.parametrize("field", [decay, nc.field(decay)], ids=["function", "field"])
@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_a_rate_is_found_with_gaps(field, loss):
    target = TARGET.copy()
    target[1, 2] = np.nan
    target[3, 1:] = np.nan
    schedule = nc.optim.Adam(lambda step: 0.05 * 0.98**step)
    result = run(field, target=target, loss=loss, optimizer=schedule)
    assert_found(result, k=RATE)
    assert result.history["loss"][-1] < 1e-3 * result.history["loss"][0] ** 0.5
    assert np.array_equal(result.y0, Y0)


def test_a_gap_does_not_count():
    wrong = TARGET.copy()
    wrong[2, 3] = np.nan
    values = {}
    for name, y in [("gap", wrong), ("whole", TARGET)]:
        values[name] = run(target=y, steps=1).history["loss"][0]
    errors = (Y0[:, None] * np.exp(-T)[:, None] - TARGET) ** 2
    np.testing.assert_allclose(values["whole"], errors.mean(), rtol=1e-5)
    errors[2, 3] = np.nan
    np.testing.assert_allclose(values["gap"], np.nanmean(errors), rtol=1e-5)


def test_one_sample():
    result = run(y0=Y0[0], target=TARGET[0])
    assert_found(result, k=RATE)
    assert result.y0.shape == (1,)
    assert result.predict(None, T).shape == (6, 1)


def test_times_a_sample_and_ragged_times():
    whole = run()
    np.testing.assert_allclose(run(t=np.tile(T, (5, 1))).params["k"], whole.params["k"], rtol=1e-12)
    lengths = [6, 3, 5, 2, 6]
    ragged = [T[:n] for n in lengths], [y[:n] for y, n in zip(TARGET, lengths, strict=True)]
    masked = TARGET.copy()
    for row, n in zip(masked, lengths, strict=True):
        row[n:] = np.nan
    padded = run(target=masked)
    cut = run(t=ragged[0], target=ragged[1])
    # the same entries are scored; only the steps after a sample's last output differ
    np.testing.assert_allclose(cut.params["k"], padded.params["k"], rtol=1e-4)
    pred = cut.predict(None, ragged[0])
    assert [p.shape for p in pred] == [(n, 1) for n in lengths]


def test_batches():
    result = run(batch_size=2, steps=300, optimizer=nc.optim.Adam(lambda step: 0.05 * 0.98**step))
    assert_found(result, k=RATE)
    again = run(batch_size=2, steps=300, optimizer=nc.optim.Adam(lambda step: 0.05 * 0.98**step))
    assert again.params["k"] == result.params["k"]
    other = run(batch_size=2, steps=5, seed=1)
    assert other.params["k"] != run(batch_size=2, steps=5).params["k"]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_initial_states_of_the_samples(batch_size):
    wrong = Y0 * np.array([[0.8], [1.1], [1.2], [0.9], [1.3]])
    rate = nc.optim.Adam(lambda step: 0.05 * 0.99**step)
    result = run(y0=wrong, fit_y0=True, optimizer=rate, steps=600, batch_size=batch_size)
    assert_found(result, k=RATE)
    np.testing.assert_allclose(result.y0, Y0, rtol=5e-3)


def test_one_initial_state_for_all():
    target = np.repeat(TARGET[:1], 5, axis=0)
    rate = nc.optim.Adam(lambda step: 0.05 * 0.99**step)
    result = run(target=target, fit_y0="shared", optimizer=rate, steps=600)
    np.testing.assert_allclose(result.y0, np.repeat(Y0[:1], 5, axis=0), rtol=5e-3)


def test_some_components_of_the_initial_state():
    def field(t, y, params):
        return np.stack([-params["k"] * y[0], 0.0 * y[1]])

    y0 = np.concatenate([1.2 * Y0, np.full((5, 1), 3.0)], axis=1)
    target = np.concatenate([TARGET, np.full((5, 6, 1), 2.0)], axis=2)
    rate = nc.optim.Adam(lambda step: 0.05 * 0.99**step)
    mask = np.array([True, False])
    result = run(field, y0=y0, target=target, fit_y0=mask, optimizer=rate, steps=600)
    np.testing.assert_allclose(result.y0[:, :1], Y0, rtol=5e-3)
    assert np.array_equal(result.y0[:, 1], y0[:, 1])


def test_an_encoder():
    def encoder(params, args):
        return np.stack([params["c"] * args["u"]])

    rate = nc.optim.Adam(lambda step: 0.1 * 0.992**step)
    result = nc.fit(
        lambda t, y, params, args: -params["k"] * y,
        {"k": 1.0, "c": 1.5},
        None,
        T,
        TARGET,
        {"u": 2.0 * Y0[:, 0]},
        fit_y0=encoder,
        optimizer=rate,
        steps=600,
        progress=False,
    )
    assert_found(result, k=RATE, c=0.5)
    np.testing.assert_allclose(result.y0, Y0, rtol=5e-3)
    pred = result.predict(None, T, {"u": np.array([2.0, 4.0])})
    np.testing.assert_allclose(pred[:, 0, 0], [1.0, 2.0], rtol=5e-3)


@pytest.mark.parametrize(
    ("observe", "target"),
    [
        (lambda t, y, params, args: params["s"] * y, 2 * TARGET),
        (lambda t, y, params, args: params["s"] * y[0], 2 * TARGET[..., 0]),
        (lambda t, y, params, args: params["s"] * y[0], 2 * TARGET),
        (lambda t, y, params, args: [params["s"] * y[0], t * y[0]], None),
    ],
    ids=["vector", "scalar", "scalar as a column", "list"],
)
@pytest.mark.parametrize("batched", [True, False])
def test_observations(observe, target, batched):
    if target is None:
        target = np.concatenate([2 * TARGET, T[:, None] * TARGET], axis=2)
    y0 = Y0
    if not batched:
        y0, target = Y0[0], target[0]
    rate = nc.optim.Adam(lambda step: 0.05 * 0.99**step)
    params = {"k": 1.0, "s": 1.5}
    result = run(params=params, y0=y0, target=target, observe=observe, optimizer=rate, steps=500)
    assert_found(result, k=RATE, s=2.0)
    np.testing.assert_allclose(
        np.squeeze(result.predict(None, T)), np.squeeze(target), rtol=5e-3, atol=1e-12
    )


def test_observations_of_ragged_trees_with_args():
    def field(t, y, params, args):
        return {"x": -params["k"] * args["f"] * y["x"]}

    def observe(t, y, params, args):
        return y["x"] * args["f"]

    factors = np.linspace(0.8, 1.2, 5)
    lengths = [6, 3, 5, 2, 6]
    t = [T[:n] for n in lengths]
    target = [
        f * y * np.exp(-RATE * f * times)[:, None]
        for f, y, times in zip(factors, Y0, t, strict=True)
    ]
    rate = nc.optim.Adam(lambda step: 0.05 * 0.99**step)
    options = {"observe": observe, "optimizer": rate, "steps": 500}
    result = run(field, {"k": 1.0}, {"x": Y0}, t, target, {"f": factors}, **options)
    assert_found(result, k=RATE)


def test_trees_without_observe():
    def field(t, y, params):
        return {"x": -params["k"] * y["x"], "z": 0.0 * y["z"]}

    y0 = {"x": Y0, "z": np.ones((5, 2))}
    target = {"x": TARGET, "z": np.full((5, 6, 2), np.nan)}
    assert_found(run(field, y0=y0, target=target), k=RATE)


def test_a_loss_of_ones_own():
    target = TARGET.copy()
    target[0, 2:] = np.nan
    own = run(target=target, loss=lambda p, q, m: np.sum(m * (p - q) ** 2) / np.sum(m))
    library = run(target=target)
    np.testing.assert_allclose(own.params["k"], library.params["k"], rtol=1e-9)


def test_gaussian_nll_finds_the_noise():
    rng = np.random.default_rng(1)
    t = np.linspace(0, 2, 25)
    clean = Y0[:, None] * np.exp(-RATE * t)[:, None]
    noisy = clean + 0.1 * rng.normal(size=clean.shape)

    def observe(t, y, params, args):
        return np.concatenate([y, params["log_sigma"]])

    result = run(
        params={"k": 1.0, "log_sigma": np.array([0.0])},
        t=t,
        target=noisy,
        observe=observe,
        loss="gaussian_nll",
        steps=300,
    )
    residual = noisy - Y0[:, None] * np.exp(-result.params["k"] * t)[:, None]
    np.testing.assert_allclose(np.exp(result.params["log_sigma"]), residual.std(), rtol=0.01)


def test_float32():
    result = run(y0=Y0.astype(np.float32), params={"k": np.float32(1.0)}, solve={"rtol": 1e-5})
    assert result.params["k"].dtype == np.float32
    assert result.y0.dtype == np.float32
    assert_found(result, k=RATE)


def test_failed_samples_are_left_out():
    def field(t, y, params):
        return params["k"] * y * y

    y0 = np.array([[0.2], [0.3], [10.0]])  # the last one blows up at t = 1 / (10 k)
    target = y0[:, None] / (1 - y0[:, None] * 0.5 * T[:, None])
    target[2] = 1.0
    result = run(field, y0=y0, target=target, steps=300)
    assert_found(result, k=0.5)
    assert (result.history["failures"] == 1).all()
    assert np.isnan(result.predict(None, T)[2, -1]).all()
    with pytest.raises(nc.SolveError, match="no sample"):
        run(field, y0=y0[2:], target=target[2:])
    with pytest.raises(nc.SolveError, match="sample 2"):
        run(field, y0=y0, target=target, solve={"on_failure": "raise"})


def test_history_validation_and_callbacks():
    seen = []

    def stop_at_20(record):
        seen.append(record)
        record.params["k"][...] = np.nan  # a copy
        return record.step == 20

    result = run(validation=(Y0[:2], T, TARGET[:2]), callbacks=[stop_at_20])
    assert len(result.history) == len(seen) == 21
    assert np.array_equal(result.history["step"], np.arange(21))
    assert [r.loss for r in seen] == list(result.history["loss"])
    assert (result.history["work"] > 0).all() and (np.diff(result.history["seconds"]) >= 0).all()
    scored = result.history["validation"]
    assert np.array_equal(np.isfinite(scored), np.arange(21) % 2 == 0)
    assert scored[20] < scored[0]
    assert np.isfinite(result.params["k"])


def test_the_inputs_are_left_as_they_are():
    params = {"k": np.array(1.0)}
    y0 = Y0.copy()
    run(params=params, y0=y0, fit_y0=True, steps=3)
    assert params["k"] == 1.0 and np.array_equal(y0, Y0)


def test_the_progress_bar_shows_the_loss(capsys):
    run(steps=3, progress=True)
    assert "3/3" in (shown := capsys.readouterr().err) and "loss" in shown
    run(steps=3)
    assert capsys.readouterr().err == ""


def test_what_can_be_pickled_of_a_result():
    result = run(steps=3)
    again = pickle.loads(pickle.dumps((result.params, result.y0, result.history)))
    assert again[0]["k"] == result.params["k"]
    assert repr(result).startswith("FitResult(3 steps, loss ")


def test_plot():
    pytest.importorskip("matplotlib").use("Agg")
    result = run(steps=20, validation=(Y0, T, TARGET))
    figure = result.plot()
    assert [ax.get_xlabel() for ax in figure.axes] == ["step", "t"]
    one = run(y0=Y0[0], target=TARGET[0], steps=20).plot()
    assert len(one.axes) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mean"}, "unknown loss 'mean'; known are gaussian_nll, mae, mse"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"y0": Y0[0], "target": TARGET[0], "batch_size": 2}, "no sense for one sample"),
        ({"fit_y0": "all"}, "fit_y0 is 'all'"),
        ({"fit_y0": np.array([True, False])}, r"bool array with the shape \(1,\)"),
        ({"target": np.full(TARGET.shape, np.nan)}, "no observation"),
        ({"target": TARGET[..., 0]}, r"\(5, 6, 1\) and target \(5, 6\)"),
        ({"solve": {"args": 1}}, "'args' is not an option"),
        ({"validation": (Y0, T)}, "validation is"),
    ],
)
def test_errors(options, message):
    with pytest.raises(nc.InputError, match=message):
        run(**options)


def test_a_loss_that_becomes_non_finite():
    with pytest.raises(nc.GradientError, match="the loss is nan at step 0"):
        run(loss=lambda p, q, m: np.sum(np.log(-np.abs(p))))


class Faster:
    """Not an optimizer: it multiplies the rate that the solve has to follow."""

    def __init__(self, factor):
        self.factor = factor

    def init(self, params):
        return None

    def update(self, params, grads, state):
        rate = params["params"]["k"] * self.factor
        return {**params, "params": {"k": rate}}, state


def oscillation(t, y, params):
    return params["k"] * np.stack([y[1], -y[0]])


def test_work_that_grows_several_fold_is_said_once():
    y0 = np.ones((3, 2))
    target = np.zeros((3, 6, 2))
    told = []
    options = {"optimizer": Faster(1.05), "steps": 120, "callbacks": [told.append]}
    with pytest.warns(nc.StiffnessWarning) as caught:
        run(oscillation, {"k": 3.0}, y0, T, target, **options)
    (warning,) = caught
    text = str(warning.message)
    assert warning.filename == __file__
    step = int(text.split("at step ")[1].split()[0])
    work = np.array([s.work for s in told]) / 3
    before, now = np.median(work[:10]), np.median(work[step - 4 : step + 1])
    assert now >= 4 * before and f"{now:,.0f} evaluations" in text and f"({before:,.0f})" in text
    assert np.median(work[step - 5 : step]) < 4 * before
    assert "kvaerno5" in text


def test_work_that_does_not_grow_is_not_spoken_of():
    """Fixed steps, or one hard batch: filterwarnings turns a warning into an error."""
    y0 = np.ones((3, 2))
    target = np.zeros((3, 6, 2))
    options = {"optimizer": Faster(1.05), "steps": 60, "solve": {"method": "rk4", "steps": 20}}
    run(oscillation, {"k": 3.0}, y0, T, target, **options)
    hard = np.ones((40, 1))
    hard[7] = 1e6  # |y|^(1/2) more steps than the others
    run(
        lambda t, y, params: -params["k"] * y * np.sqrt(np.abs(y)),
        y0=hard,
        target=np.zeros((40, 6, 1)),
        batch_size=1,
        steps=60,
    )
