"""What cannot be traced is said so: where in the user's code, and what to write instead."""

import math

import numpy as np
import pytest
import scipy.special
from scipy.interpolate import CubicSpline

from nodecore.ir.graph import STEP
from nodecore.ir.trace import NOTHING, Static, spec_of, trace_field, trace_function, trace_scalar
from nodecore.status import InputError, TraceError

Y = np.array([1.0, 2.0, 3.0])
SPLINE = CubicSpline(np.arange(4.0), np.arange(4.0) ** 2)


def message(fun, y=Y, params=None, args=None):
    with pytest.raises(TraceError) as caught:
        trace_field(fun, spec_of(y), spec_of(params), spec_of(args))
    return str(caught.value)


def branch(t, y):
    if y[0] > 0:  # here
        return -y
    return y


def branch_on_and(t, y):
    return y * (y[0] > 0 and y[1] > 0)  # here


def branch_on_range(t, y):
    return y * (0 < y[0] < 1)  # here


def loop(t, y):
    while t < 1:  # here
        t = t + 1
    return y


def builtin_max(t, y):
    return y * max(y[0], 0.0)  # here


def math_sin(t, y):
    return y * math.sin(t)  # here


def math_atan2(t, y):
    return y * math.atan2(y[0], y[1])  # here


def to_float(t, y):
    return float(y[0]) * y  # here


def to_int(t, y):
    return y[int(t)] * y  # here


def fill_zeros(t, y):
    dy = np.zeros(3)
    dy[0] = y[1]  # here
    return dy


def fill_zeros_slice(t, y):
    dy = np.zeros(3)
    dy[1:] = y[1:]  # here
    return dy


def add_to_zeros(t, y):
    dy = np.zeros(3)
    dy += y  # here
    return dy


def out_of_zeros(t, y):
    return np.exp(y, out=np.zeros(3))  # here


def array_of_floats(t, y):
    return np.array([y[0], y[1], t], dtype=float)  # here


def mask_index(t, y):
    return y * y[y > 0].sum()  # here


def mask_assign(t, y):
    dy = np.zeros_like(y)
    dy[y > 0] = y[y > 0]  # here
    return dy


def where_indices(t, y):
    return y[np.where(y > 0)]  # here


def traced_index(t, y, p, a):
    return y * p[a["x"]]  # here


def table_lookup(t, y, p, a):
    return TABLE[a["i"]] * y  # here


TABLE = np.arange(5.0)


def traced_range(t, y):
    for _ in range(t):  # here
        y = y + 1
    return y


def write_y(t, y):
    y[0] = 0.0  # here
    return y


def add_to_y(t, y):
    y *= 2  # here
    return y


def write_view_of_y(t, y):
    v = y[1:]
    v[0] = 1.0  # here
    return y


def write_params(t, y, p):
    p["k"][0] = 0.0  # here
    return y


def write_args(t, y, p, a):
    a["u"] += 1.0  # here
    return y


def spline(t, y):
    return y * SPLINE(t)  # here


def scipy_gamma(t, y):
    return scipy.special.gamma(y)  # here


def scipy_of_object_array(t, y):
    return scipy.special.expit(np.array([y[0], y[1], y[2]]))  # here


def maximum_of_object_array(t, y):
    return np.maximum(np.array([y[0], y[1], y[2]]), 0.0)  # here


def sorting(t, y):
    return np.sort(y)  # here


def eigenvalues(t, y):
    return np.linalg.eigvals(np.outer(y, y))  # here


def argmax(t, y):
    return y * y.argmax()  # here


def sort_method(t, y):
    y.sort()  # here
    return y


def ufunc_at(t, y):
    np.add.at(dy := np.zeros_like(y), [0, 0], y[:2])  # here
    return dy


def bessel(t, y):
    return np.i0(y)  # here


def complex_number(t, y):
    return (1j * y).real  # here


def text(t, y):
    return y + "a"  # here


def contains(t, y):
    return y * (1.0 in y)  # here


def deep_helper(t, y):
    return _helper(y)


def _helper(y):
    return np.concatenate([y[:1], [math.exp(y[1])], y[2:]])  # here


def string_list(t, y):
    return y * np.array([y[0], "a", None], dtype=object)  # here


CASES = {
    branch: ("np.where", "branches"),
    branch_on_and: ("np.where", "&"),
    branch_on_range: ("np.where",),
    loop: ("np.where",),
    builtin_max: ("np.maximum",),
    math_sin: ("np.sin", "math.sin"),
    math_atan2: ("np.arctan2",),
    to_float: ("float()",),
    to_int: ("int()",),
    fill_zeros: ("np.stack", "np.zeros_like"),
    fill_zeros_slice: ("np.stack", "np.zeros_like"),
    add_to_zeros: ("np.stack", "np.zeros_like"),
    out_of_zeros: ("np.stack", "np.zeros_like"),
    array_of_floats: ("np.stack", "dtype=float"),
    mask_index: ("np.where", "mask"),
    mask_assign: ("np.where", "mask"),
    where_indices: ("np.where(mask, a, b)",),
    traced_index: ("np.where", "index"),
    table_lookup: ("np.where", "index"),
    traced_range: ("index or a size",),
    write_y: ("writes into y", "y.copy()"),
    add_to_y: ("writes into y",),
    write_view_of_y: ("writes into y",),
    write_params: ("writes into params",),
    write_args: ("writes into args",),
    spline: ("np.interp",),
    scipy_gamma: ("gamma",),
    scipy_of_object_array: ("np.stack",),
    maximum_of_object_array: ("np.stack",),
    sorting: ("np.sort",),
    eigenvalues: ("np.linalg.eigvals",),
    argmax: ("argmax",),
    sort_method: ("sort",),
    ufunc_at: ("np.add.at",),
    bessel: ("np.i0",),
    complex_number: ("complex", "imaginary part"),
    contains: ("in",),
    deep_helper: ("np.exp",),
    string_list: ("not a number",),
}


@pytest.mark.parametrize("fun", CASES, ids=lambda f: f.__name__)
def test_messages_name_the_line_and_the_way_out(fun):
    k = {"k": np.ones(2)}
    a = {"u": np.ones(2), "i": 1, "x": 1.0}
    count = fun.__code__.co_argcount
    params = TABLE if fun is traced_index else k
    text = message(fun, Y, params if count > 2 else None, a if count > 3 else None)
    first = text.splitlines()[0]
    assert "test_trace_errors.py, line " in first and "# here" in first
    for word in (*CASES[fun], "nc.opaque"):
        assert word in text


def test_what_fails_on_arrays_too_is_left_alone():
    def wrong_key(t, y, p):
        return y * p["missing"]

    with pytest.raises(KeyError, match="missing"):
        trace_field(wrong_key, spec_of(Y), spec_of({"k": 1.0}))
    with pytest.raises(ValueError, match="broadcast"):
        trace_field(lambda t, y: y + np.ones(2), spec_of(Y))
    with pytest.raises(TypeError, match="unsupported operand"):
        trace_field(lambda t, y: {} + [], spec_of(Y))
    with pytest.raises(IndexError):
        trace_field(lambda t, y: y[7], spec_of(Y))
    with pytest.raises(ValueError, match="unpack"):
        trace_field(_two, spec_of(Y))


def _two(t, y):
    a, b = y
    return a * y + b


def test_results_that_are_not_like_the_state():
    assert "returns None" in message(lambda t, y: None)
    text = message(lambda t, y: y[:2])
    assert "shape (2,)" in text and "(3,)" in text
    assert "shape ()" in message(lambda t, y: y[0])
    assert "shape (1, 3)" in message(lambda t, y: y[None])
    assert "shape (2,)" in message(lambda t, y: [y[0], y[1]])
    assert "different shapes" in message(lambda t, y: [y[0], y[:2]])
    assert "dict" in message(lambda t, y: {"a": y})
    y = {"a": Y, "b": (1.0, 2.0)}
    assert "keys ['a', 'b']" in message(lambda t, y: y["a"], y)
    assert "keys ['a']" in message(lambda t, y: {"a": y["a"]}, y)
    assert "y['b']" in message(lambda t, y: {"a": y["a"], "b": (1.0,)}, y)
    assert "y['a']" in message(lambda t, y: {"a": y["a"][1:], "b": y["b"]}, y)
    assert "None" in message(lambda t, y: {"a": None, "b": y["b"]}, y)


def test_exchanged_arguments():
    def by_name(y, t):
        return -y

    assert "def by_name(t, y)" in message(by_name)

    def by_name_with_params(x, t, params):
        return -x * params

    assert "(t, x, params)" in message(by_name_with_params, Y, 2.0)
    assert "(y, t)" in message(lambda a, b: [a[1], -a[0], np.sin(b)])
    assert "exchanged" in message(lambda a, b: np.array([a[1], -a[0], a[2] * b]))


def test_numbers_of_arguments():
    assert "takes 1 argument" in message(lambda y: y)
    assert "takes 5 arguments" in message(lambda t, y, a, b, c: y)
    with pytest.raises(InputError, match="third argument"):
        trace_field(lambda t, y: y, spec_of(Y), spec_of(1.0))
    with pytest.raises(InputError, match="shared constants belong in params"):
        trace_field(lambda t, y, p: y, spec_of(Y), NOTHING, spec_of(1.0))


def test_traced_values_do_not_outlive_their_trace():
    kept = []

    def keep(t, y):
        kept.append(y)
        return y * kept[0]

    trace_field(keep, spec_of(Y))
    assert "left behind" in message(keep)


def test_functions_with_a_number_as_result():
    inputs = [("y", spec_of(Y), STEP)]
    with pytest.raises(TraceError, match=r"shape \(3,\), not one number"):
        trace_scalar(lambda y: y**2, inputs)
    with pytest.raises(TraceError, match="a tree, not one number"):
        trace_scalar(lambda y: {"a": y[0]}, inputs)
    with pytest.raises(TraceError, match="loss returns None"):
        trace_scalar(lambda y: None, inputs)
    with pytest.raises(TraceError, match="np.where"):
        trace_scalar(lambda y: 1.0 if y[0] > 0 else y[0], inputs)
    trace = trace_function(lambda y, mode: y if mode == "on" else -y, [*inputs, Static("on")])
    assert trace.outs == trace.inputs[0]


def test_specs_take_real_numbers_only():
    with pytest.raises(InputError, match=r"\['a'\] is not an array of real numbers"):
        spec_of({"a": "text", "b": 1.0})
    with pytest.raises(InputError, match="real"):
        spec_of(1j * Y)


@pytest.mark.parametrize("fun", [lambda t, y: y if t else -y, lambda t, y: y * bool(t)])
def test_the_line_is_found_in_lambdas(fun):
    assert "test_trace_errors.py" in message(fun)


def test_representations():
    seen = []
    trace_field(lambda t, y: seen.extend([repr(t), repr(y)]) or y, spec_of(Y))
    assert seen == ["<traced number>", "<traced array of shape (3,)>"]
