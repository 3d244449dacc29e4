"""What `solve` is given: what is accepted, and the message for everything that is not."""

import warnings

import numpy as np
import pytest

import nodecore as nc

ONE = [1.0, 2.0]
BATCH = np.ones((3, 2))
T = [0.0, 0.5, 1.0]


def decay(t, y):
    return -y


def scaled(t, y, p):
    return -p * y


def driven(t, y, p, a):
    return -p * y + a


def leaves(t, y):
    return {k: -v for k, v in y.items()}


def solve(y0=ONE, t=T, *rest, field=decay, **options):
    return nc.solve(field, y0, t, *rest, **options)


def says(*parts, error=nc.InputError):
    """The block raises `error`, whose message holds all parts."""
    pattern = "".join(f"(?=.*{part})" for part in parts)
    return pytest.raises(error, match=f"(?s){pattern}")


def test_input_errors_are_value_errors():
    with pytest.raises(ValueError, match="complex"):
        solve(np.ones(2) + 0j)


# ---- y0 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "y0, parts",
    [
        (np.ones(2) + 0j, ["y0 is complex", "stack its real and imaginary part"]),
        (np.array([1.0, None], object), ["y0 has dtype object"]),
        (np.array([1.0, 2.0], object), ["y0 has dtype object"]),
        (["a"], [r"y0\[0\] has dtype <U1", "real numbers"]),
        (np.array(["2020-01-01"], "M8[D]"), ["y0 has dtype datetime64"]),
        ([], ["y0 is empty"]),
        (None, ["y0 is empty"]),
        (np.ones((0, 3)), ["y0 is empty", "no samples"]),
        (np.ones((3, 0)), ["y0 is empty", "no components"]),
        ([[1.0, 2.0], [1.0]], ["rows", "differ in length"]),
        ({"a": np.ones(2), "b": 1j}, [r"y0\['b'\] is complex"]),
    ],
)
def test_y0_that_is_no_state(y0, parts):
    with says(*parts):
        solve(y0)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.bool_, np.float16, np.longdouble, ">f8"])
def test_other_reals_become_float64(kind):
    sol = solve(np.ones(2, kind))
    assert sol.y.dtype == np.float64
    np.testing.assert_array_equal(sol.y, solve(np.ones(2)).y)


def test_float32_stays():
    assert solve(np.ones(2, np.float32), rtol=1e-4).y.dtype == np.float32


def test_forms_of_y0():
    assert solve(1.0).y.shape == (3,)
    assert solve([[1.0, 2.0]]).y.shape == (1, 3, 2)
    assert solve(np.ones((2, 3, 4))).y.shape == (2, 3, 3, 4)
    assert solve(np.asfortranarray(BATCH)).y.shape == (3, 3, 2)
    reference = solve(np.arange(6.0).reshape(3, 2)).y
    np.testing.assert_array_equal(solve(np.arange(6.0).reshape(2, 3).T[:, ::-1]).y.shape, (3, 3, 2))
    np.testing.assert_array_equal(
        solve(np.asfortranarray(np.arange(6.0).reshape(3, 2))).y, reference
    )


def test_a_mix_of_batched_and_unbatched_leaves():
    mixed = {"a": np.ones((3, 2)), "b": np.ones(3)}
    with says(r"y0\['a'\] has 2 dimensions", r"y0\['b'\] has 1", "batch=True", "batch=False"):
        solve(mixed, field=leaves)
    assert solve(mixed, field=leaves, batch=True).y["b"].shape == (3, 3)
    assert solve(mixed, field=leaves, batch=False).y["a"].shape == (3, 3, 2)


def test_batch_false_is_one_sample_and_true_has_an_axis():
    assert solve(BATCH, batch=False).y.shape == (3, 3, 2)
    assert solve(np.ones(3), batch=True).y.shape == (3, 3)
    with says("y0 has no batch axis"):
        solve(1.0, batch=True)
    with says(r"y0\['b'\] has 4 samples, y0\['a'\] has 3"):
        solve({"a": np.ones((3, 2)), "b": np.ones((4, 2))}, field=leaves)
    with says("batch must be True, False or None, not 'yes'"):
        solve(batch="yes")


# ---- t -------------------------------------------------------------------------------------------

UNIQUE = r"np\.unique\(t, return_inverse=True\)"


@pytest.mark.parametrize("y0", [ONE, BATCH])
@pytest.mark.parametrize(
    "t, parts",
    [
        (np.zeros(0), ["t is empty"]),
        ([0.0, 1.0, 1.0, 2.0], ["t has repeated times at index 2: 1.0, 1.0", UNIQUE]),
        ([0.0, 2.0, 1.0, 3.0], ["t has unsorted times at index 2: 2.0, 1.0", UNIQUE]),
        ([3.0, 1.0, 2.0, 0.0], ["t has unsorted times at index 2: 1.0, 2.0", UNIQUE]),
        ([1.0, 1.0], ["t has repeated times at index 1", UNIQUE]),
        ([0.0, np.nan, 1.0], ["t is not finite at index 1: nan"]),
        ([np.nan, 1.0], ["t is not finite at index 0: nan"]),
        ([0.0, np.inf], ["t is not finite at index 1: inf"]),
        ([np.nan], ["t is not finite at index 0"]),
        (["a", "b"], ["t must be an array of real numbers"]),
        ([0j, 1.0], ["t must be an array of real numbers"]),
        ([False, True], ["t must be an array of real numbers"]),
        (None, ["t must be an array of real numbers"]),
        (0.5, [r"t has shape \(\)", r"\(T,\)"]),
        (np.zeros((1, 1, 1)), [r"t has shape \(1, 1, 1\)"]),
    ],
)
def test_times_that_are_none(y0, t, parts):
    with says(*parts):
        solve(y0, t)
    with says(*parts):
        solve(y0, np.asarray(t))  # arrays have a shorter way


def test_what_the_message_about_repeated_times_says_works():
    wanted = np.array([2.0, 0.0, 1.0, 1.0, 0.0])
    t, i = np.unique(wanted, return_inverse=True)
    y = solve(BATCH, t).y[..., i, :]
    np.testing.assert_allclose(y[0, :, 0], np.exp(-wanted), rtol=1e-5)


@pytest.mark.parametrize(
    "t, parts",
    [
        (np.ones((2, 3)), ["t has 2 rows of times, but the batch has 3 samples"]),
        ([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], ["t of sample 2 has repeated times", UNIQUE]),
        ([[0.0, 1.0], [0.0, 2.0]], ["t has 2 arrays of times, but the batch has 3 samples"]),
        ([[0.0, 1.0], [0.0, 2.0], [0.0, 2.0, 1.0]], ["t of sample 2 has unsorted times", UNIQUE]),
        ([[0.0, 1.0], [0.0, 2.0], []], ["t of sample 2 is empty"]),
        ([[0.0], [0.0], [0.0, np.nan]], ["t of sample 2 is not finite at index 1"]),
        ([[0.0], [0.0], [[0.0, 1.0]]], [r"t\[2\] has shape \(1, 2\)"]),
        ([[0.0], ["a"], [0.0]], [r"t\[1\] must be an array of real numbers"]),
    ],
)
def test_times_per_sample_that_are_none(t, parts):
    with says(*parts):
        solve(BATCH, t)


def test_one_sample_has_one_array_of_times():
    with says("t is a list of arrays, but there is one sample"):
        solve(ONE, [[0.0, 1.0], [0.0, 2.0]])


def test_forms_of_t():
    np.testing.assert_array_equal(solve(t=[0]).y, [ONE])
    assert solve(t=(0, 1)).y.shape == (2, 2)
    np.testing.assert_allclose(solve(t=[1, 0]).y[-1], np.e * np.array(ONE), rtol=1e-5)
    sol = solve(BATCH, [[0, 1], (2, 1.5, 1), np.array([3.0])])
    assert [y.shape for y in sol.y] == [(2, 2), (3, 2), (1, 2)]


# ---- params and args -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params, parts",
    [
        (1j, ["params is complex"]),
        ("a", ["params has dtype <U1"]),
        ({"k": [1.0, "b"]}, [r"params\['k'\]\[1\] has dtype <U1"]),
        ({"k": np.array([None])}, [r"params\['k'\] has dtype object"]),
        ([np.ones(2), {"w": 2j}], [r"params\[1\]\['w'\] is complex"]),
    ],
)
def test_params_that_are_no_numbers(params, parts):
    with says(*parts):
        solve(ONE, T, params, field=scaled)


def test_integer_params_are_converted():
    np.testing.assert_array_equal(
        solve(ONE, T, 2, field=scaled).y, solve(ONE, T, 2.0, field=scaled).y
    )


def test_params_without_a_third_argument():
    with says("params were given", "decay has no third argument", r"f\(t, y, params\)"):
        solve(ONE, T, 2.0)


@pytest.mark.parametrize("field", [decay, scaled])
def test_args_without_a_fourth_argument(field):
    with says("args were given", "no fourth argument", "shared constants belong in params"):
        solve(BATCH, T, None, np.ones(3), field=field)


@pytest.mark.parametrize(
    "args, parts",
    [
        (np.ones(2), [r"args has shape \(2,\), but the batch has 3 samples"]),
        (1.0, [r"args has shape \(\)"]),
        ({"u": {"k": np.ones((4, 2))}}, [r"args\['u'\]\['k'\] has shape \(4, 2\)"]),
        ((np.ones(3), np.ones(1)), [r"args\[1\] has shape \(1,\)"]),
    ],
)
def test_args_of_the_wrong_length(args, parts):
    with says(*parts, "first axis of args is the batch", "shared constants belong in params"):
        solve(BATCH, T, 1.0, args, field=driven)


def test_args_that_are_no_numbers():
    with says(r"args\['u'\] has dtype <U1"):
        solve(BATCH, T, 1.0, {"u": np.array(["a"] * 3)}, field=driven)


def test_args_of_one_sample_have_no_batch_axis():
    y = solve(ONE, T, 1.0, np.array([3.0, 4.0]), field=driven).y
    np.testing.assert_allclose(y[-1], [3 + (1 - 3) / np.e, 4 + (2 - 4) / np.e], rtol=1e-5)


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, values, message",
    [
        (
            "rtol",
            [-1, 0, np.nan, np.inf, "a", None, [1e-3], True],
            "rtol must be a positive number",
        ),
        ("dt", [-1, 0, np.nan, np.inf, "a", True], "dt must be a positive number"),
        ("first_step", [0, -1, np.nan, "a"], "first_step must be a positive number"),
        ("max_step", [0, -1, np.nan, "a", None], "max_step must be a positive number"),
        ("deadline", [0, -1, np.nan, "a"], "deadline must be a positive number"),
        ("steps", [0, -1, 1.5, True, "a"], "steps must be a positive integer"),
        ("max_steps", [0, -1, 2.5, True, "a", None], "max_steps must be a positive integer"),
        ("threads", [0, -1, 1.5, True, "a"], "threads must be a positive integer"),
        ("atol", [-1, np.nan, np.inf, [1.0, -1.0]], "atol must be finite and not negative"),
        ("atol", ["a"], "atol has dtype <U1"),
        ("atol", [1j], "atol is complex"),
        ("atol", [None, {"a": 1.0}, [1e-9] * 3], "atol.* does not fit (a|the) state"),
        ("on_failure", ["ignore", None, True, []], 'on_failure must be "raise" or "mark"'),
        ("adjoint", ["backsolve", True, 1, []], 'adjoint must be None, "auto", "discrete"'),
        ("progress", ["yes", 1], "progress must be True, False or a function"),
        ("tstops", ["a", np.True_], "tstops must be an array of real numbers"),
        ("tstops", [0.5, np.zeros((1, 1))], "tstops has shape"),
        ("tstops", [[np.nan], [np.inf]], "tstops must be finite, not (nan|inf)"),
        ("tstops", [[[0.5]]], "tstops has 1 arrays, but the batch has 3 samples"),
        ("tstops", [[[0.5], ["a"], [0.5]]], r"tstops\[1\] must be an array of real numbers"),
        ("controller", [3, object()], "controller must be an IController"),
        ("controller", ["PI35"], "unknown controller 'PI35'; did you mean 'PI3[34]'"),
        ("method", [3, object()], "method must be a name, not"),
        ("method", ["tsit6"], "unknown method 'tsit6'; did you mean 'tsit5'"),
        ("method", ["dorpi5"], "unknown method 'dorpi5'; did you mean 'dopri5'"),
    ],
)
def test_options_that_are_none(name, values, message):
    for value in values:
        with says(message):
            solve(BATCH, **{name: value})


def test_atol_per_component():
    loose, tight = solve(atol=[1e-2, 1e-3]), solve(atol=[1e-12, 1e-12])
    assert loose.stats.accepted < tight.stats.accepted
    tree = {"a": np.ones((3, 2)), "b": np.ones((3, 4, 1))}
    for atol in ({"a": 1e-6, "b": [[1e-3]] * 4}, 1e-6):
        assert solve(tree, field=leaves, atol=atol).ok
    with says(r"atol\['b'\] of shape \(3,\) does not fit a state of shape \(4, 1\)"):
        solve(tree, field=leaves, atol={"a": 1e-6, "b": np.ones(3)})
    with says("atol does not fit the state of 6 components"):
        solve(tree, field=leaves, atol=np.ones(5))


def test_dt_and_steps_exclude_each_other():
    with says("dt and steps exclude each other"):
        solve(dt=0.1, steps=2)
    with says("FixedStep", "not both"):
        solve(dt=0.1, controller=nc.FixedStep(steps=2))


def test_steps_exclude_tstops():
    with says("steps=", "excludes tstops"):
        solve(steps=3, tstops=[0.3])


@pytest.mark.parametrize("name", nc.methods.names())
def test_a_method_without_embedded_error_needs_a_step(name):
    if nc.methods.get(name).adaptive:
        assert solve(method=name).ok
    else:
        with says(f"{name} has no error estimate", "dt=", "steps="):
            solve(method=name)
    assert solve(method=name, dt=0.1).ok
    assert solve(method=name, steps=3).ok


# ---- tolerances near rounding --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rtol_below_rounding(dtype):
    y0 = np.ones(2, dtype)
    eps = float(np.finfo(dtype).eps)
    with says("rtol=", f"below the rounding of {np.dtype(dtype)}"):
        solve(y0, rtol=eps / 4)
    with pytest.warns(nc.PrecisionWarning, match="below 10 roundings") as caught:
        solve(y0, rtol=3 * eps, on_failure="mark")
    assert len(caught) == 1
    assert caught[0].filename == __file__  # the caller of solve
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(y0, rtol=11 * eps, on_failure="mark")
        solve(y0)  # the default says nothing


def test_float32_that_needs_float64_says_so():
    with says("pass y0 as float64"):
        solve(np.ones(2, np.float32), rtol=1e-9)


# ---- fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [3, None, "decay", np.ones(2)])
def test_a_field_is_a_function(field):
    with says("a field is a function"):
        solve(field=field)


@pytest.mark.parametrize("field", [lambda: 0, lambda t: t, lambda a, b, c, d, e: a])
def test_a_field_has_two_to_four_arguments(field):
    with says(r"takes \d arguments", r"f\(t, y\)", error=nc.TraceError):
        solve(field=field)


def test_swapped_arguments():
    def swapped(y, t):
        return -y

    def unnamed(a, b):
        return -a

    with says("takes the state first", r"def swapped\(t, y\)", error=nc.TraceError):
        solve(field=swapped)
    with says(r"seems to take \(y, t\)", error=nc.TraceError):
        solve(field=unnamed)


def test_a_field_returns_a_state():
    with says(r"returns shape \(1,\) for y of shape \(2,\)", error=nc.TraceError):
        solve(field=lambda t, y: y[:1])
    with says("returns None", "return dy", error=nc.TraceError):
        solve(field=lambda t, y: None)
    with says(r"y\['a'\] of shape \(2,\)", error=nc.TraceError):
        solve({"a": np.ones(2)}, field=lambda t, y: {"a": y["a"][:1]})
    with says("dict with keys", error=nc.TraceError):
        solve({"a": np.ones(2)}, field=lambda t, y: {"b": y["a"]})


def branches(t, y):
    if y[0] > 0:  # the line
        return -y
    return y


def unsupported(t, y):
    s = np.sort(y)  # the line
    return -s


@pytest.mark.parametrize(
    "field, parts",
    [
        (branches, [r"if y\[0\] > 0:  # the line", "branches on", r"np\.where"]),
        (unsupported, [r"s = np\.sort\(y\)  # the line", r"np\.sort cannot be traced"]),
    ],
)
def test_what_cannot_be_traced_names_the_line_and_the_way_out(field, parts):
    with says(r"test_inputs\.py, line \d+", *parts, r"nc\.opaque", error=nc.TraceError) as caught:
        solve(field=field)
    assert isinstance(caught.value, TypeError)


def test_the_users_own_exceptions_arrive():
    error = KeyError("mine")

    def field(t, y):
        raise error

    with pytest.raises(KeyError) as caught:
        solve(field=field)
    assert caught.value is error


# ---- purity and staleness ------------------------------------------------------------------------


def test_a_field_that_is_random_or_counts_is_found():
    rng = np.random.default_rng(0)
    count = [0.0]

    def random(t, y):
        return -y * rng.random()

    def counter(t, y):
        count[0] += 0.37
        return -y * count[0]

    for field in (random, counter):
        with says("the traced field", "depend on its arguments alone", error=nc.TraceError):
            solve(field=field)


def test_what_a_plain_function_captured_is_never_stale():
    class Model:
        rate = 1.0

    model, table, rate = Model(), np.array([1.0, 2.0]), 1.0

    def field(t, y):
        return -y * model.rate * table * rate

    def last():
        return solve(field=field).y[-1]

    def exact(k):
        return np.array(ONE) * np.exp(-k * np.array(table))

    np.testing.assert_allclose(last(), exact(1.0), rtol=1e-5)
    table[:] = [0.5, 0.25]  # in place
    np.testing.assert_allclose(last(), exact(1.0), rtol=1e-5)
    model.rate = 2.0
    np.testing.assert_allclose(last(), exact(2.0), rtol=1e-5)
    rate = 3.0
    np.testing.assert_allclose(last(), exact(6.0), rtol=1e-5)
    table = np.array([1.0, 1.0])
    np.testing.assert_allclose(last(), exact(6.0), rtol=1e-5)


def test_nc_field_traces_once_a_signature():
    calls = []

    @nc.field
    def field(t, y, p):
        calls.append(np.shape(y))
        return -p * y * 1.25

    y = [solve(ONE, T, p, field=field).y for p in (1.0, 1.0, 2.0)]
    once = len(calls)
    assert once == 2  # the trace, and its comparison with the function
    np.testing.assert_array_equal(y[0], y[1])
    np.testing.assert_allclose(y[2][-1], np.array(ONE) * np.exp(-2.5), rtol=1e-5)
    solve(BATCH, T, 1.0, field=field)  # a batch of the same states is the same program
    solve(np.ones(5), T, 1.0, field=field)
    assert len(calls) == once + 2


def test_a_solution_owns_what_its_gradient_needs():
    y0, t, p, a = np.ones((3, 2)), np.linspace(0, 1, 4), np.array(1.5), np.ones((3, 2))

    def make():
        return nc.solve(driven, y0, t, p, a, adjoint="discrete")

    sol = make()
    dy = np.ones_like(sol.y)
    before = sol.vjp(dy)
    for x in (y0, p, a):
        x *= 7
    t += 0.25
    after = sol.vjp(dy)
    for name in ("y0", "params", "args", "t"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
