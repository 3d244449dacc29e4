"""Vector maths: each elementwise op, type and instruction set against exact references."""

from functools import cache

import mpmath
import numpy as np
import pytest

from nodecore._kernels import ISAS, elementwise, isas_available
from nodecore.ir.ops import ARITY, ELEMENTWISE, OPS

# Largest error allowed, in units in the last place of the result. docs/math/vector-math.md has the
# measured ones. The second number holds where the ISA has no fused multiply-add.
ULP = {
    "exp": (1.1, 1.1), "expm1": (1.5, 1.5), "log": (1.0, 1.0), "log1p": (1.6, 1.6),
    "sin": (1.1, 1.6), "cos": (1.1, 1.6), "tan": (2.6, 2.7), "tanh": (2.6, 2.6),
    "sinh": (2.4, 2.4), "cosh": (1.9, 1.9), "arctan": (1.9, 1.9), "sigmoid": (2.1, 2.1),
    "softplus": (2.1, 2.5), "erf": (1.3, 1.4), "pow": (1.3, 1.3), "arctan2": (2.0, 2.0),
    "tanhbar": (2.0, 3.0),
}  # fmt: skip
EXACT = {
    "copy", "neg", "abs", "sign", "square", "recip", "sqrt", "floor", "isnan", "not", "add", "sub",
    "mul", "div", "maximum", "minimum", "zmul", "lt", "le", "eq", "ne", "and", "or", "select",
}  # fmt: skip
REFERENCE = {
    "exp": mpmath.exp, "expm1": mpmath.expm1, "log": mpmath.log, "log1p": mpmath.log1p,
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "tanh": mpmath.tanh,
    "sinh": mpmath.sinh, "cosh": mpmath.cosh, "arctan": mpmath.atan, "erf": mpmath.erf,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "pow": mpmath.power, "arctan2": mpmath.atan2, "tanhbar": lambda a, b: a * (1 - b * b),
}  # fmt: skip
RANGES = {
    "exp": (1, 40), "expm1": (0.5, 3), "log": (0.6, 3), "log1p": (0.5, 3), "sin": (1, 30, 1e5),
    "cos": (1, 30, 1e5), "tan": (1, 30, 1e5), "tanh": (0.6, 3, 20), "sinh": (1, 5), "cosh": (1, 5),
    "arctan": (0.5, 3), "sigmoid": (5, 40), "softplus": (3, 40), "erf": (1.1, 6),
    "arctan2": (1, 1e-30), "tanhbar": (1, 3),
}  # fmt: skip
FMA = {"avx512": True, "avx2": True, "baseline": False}
DTYPES = [np.float32, np.float64]
PRECISION = 140  # bits of the references

each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])


def run(name, isa, *arrays):
    if isa not in isas_available():
        pytest.skip(f"this processor does not have {isa}")
    return elementwise(name, isa, *arrays)


def unsigned(dtype):
    return np.uint32 if dtype == np.float32 else np.uint64


def bits(x):
    """The bits of the numbers, with one NaN for all."""
    return np.where(np.isnan(x), x.dtype.type(np.nan), x).view(unsigned(x.dtype))


def sweep(rng, n, dtype):
    """Finite numbers of all magnitudes."""
    word = unsigned(dtype)
    x = rng.integers(0, np.iinfo(word).max, n, dtype=word, endpoint=True).view(dtype)
    return x[np.isfinite(x)]


def special(dtype):
    info = np.finfo(dtype)
    ends = [0, 1, np.inf, info.max, info.tiny, info.smallest_subnormal, 0.5, 1.5, 2, 3, 1e-3, 40]
    half = np.array(ends, dtype)
    return np.concatenate([half, -half, np.array([np.nan], dtype)])


def near_thresholds(name, dtype):
    """Where results overflow, underflow or saturate, and multiples of pi/2."""
    if name in ("sin", "cos", "tan"):
        rng = np.random.default_rng(5)
        k = np.concatenate([np.arange(1, 9), rng.integers(9, 600_000, 30)])
        with mpmath.workprec(PRECISION):
            x = [float(int(i) * mpmath.pi / 2) for i in k]
        # The float64 and float32 nearest of all to a multiple of pi/2, and some large ones.
        f64 = dtype == np.float64
        huge = [6381956970095103 * 2.0**797, 1e300] if f64 else [16367173 * 2.0**72, 1e38]
        return np.array([*x, *huge], dtype)
    info = np.finfo(dtype)
    high = np.log(float(info.max))
    low = np.log(float(info.smallest_subnormal))
    ends = [high, high + np.log(2), low, np.log(float(info.tiny)), np.log(float(info.eps)), 1.0]
    x = np.array([*ends, *np.negative(ends)], dtype)
    return np.concatenate([x, np.nextafter(x, dtype(0)), np.nextafter(x, dtype(np.inf))])


@cache
def points(name, dtype):
    """Finite arguments within the domain: all magnitudes, the usual ranges, thresholds."""
    rng = np.random.default_rng(ELEMENTWISE.index(name))
    n = 60
    info = np.finfo(dtype)
    if name == "pow":
        x = np.abs(sweep(rng, 2 * n, dtype))
        x = x[(x > 0) & (x != 1)]
        y = rng.uniform(np.log(float(info.tiny)), np.log(float(info.max)), x.size) / np.log(x)
        base = rng.uniform(-10, 10, n)
        power = np.rint(rng.uniform(-30, 30, n))
        close = rng.uniform(0.99, 1.01, n)
        large = rng.uniform(-1, 1, n) * np.log(float(info.max)) * 100
        pair = [np.concatenate([x, base, close]), np.concatenate([y, power, large])]
        return tuple(p.astype(dtype) for p in pair)
    columns = []
    for _ in range(ARITY[name]):
        parts = [sweep(rng, n, dtype)[: n - 3]]
        parts += [rng.uniform(-scale, scale, n) for scale in RANGES[name]]
        if ARITY[name] == 1:
            parts.append(near_thresholds(name, dtype))
        columns.append(np.concatenate(parts).astype(dtype))
    if name == "log":
        columns[0] = np.abs(columns[0])
    if name == "log1p":
        columns[0] = np.where(columns[0] > -1, columns[0], 1 / columns[0])
    if name == "tanhbar":  # its second argument is a tanh
        b = columns[1]
        columns[1] = np.where(np.abs(b) > 1, 1 / b, b)
    keep = np.all([np.isfinite(c) for c in columns], axis=0)
    if name in ("log", "arctan2"):
        keep &= np.all([c != 0 for c in columns], axis=0)
    return tuple(c[keep & (columns[0] != -1)] for c in columns)


@cache
def references(name, dtype):
    with mpmath.workprec(PRECISION):
        columns = [[mpmath.mpf(float(v)) for v in c] for c in points(name, dtype)]
        return [mpmath.mpf(REFERENCE[name](*v)) for v in zip(*columns, strict=True)]


def ulp_error(got, exact, dtype):
    """|got - exact| in units in the last place of the exact value."""
    info = np.finfo(dtype)
    largest = mpmath.mpf(float(info.max))
    if np.isnan(got):
        return np.inf
    if np.isinf(got):
        return 0.0 if abs(exact) > largest and (got > 0) == (exact > 0) else np.inf
    exponent = mpmath.frexp(exact)[1] - info.nmant - 1
    exponent = max(exponent, info.minexp - info.nmant)
    return float(abs(mpmath.mpf(float(got)) - exact) * mpmath.mpf(2) ** -exponent)


def test_each_op_is_either_exact_or_has_a_budget():
    assert EXACT | set(ULP) == set(ELEMENTWISE)
    assert not EXACT & set(ULP)
    assert set(ISAS) <= set(FMA)


@each_isa
@each_dtype
@pytest.mark.parametrize("name", ULP)
def test_accuracy(name, dtype, isa):
    args = points(name, dtype)
    got = run(name, isa, *args)
    assert got.dtype == dtype
    with mpmath.workprec(PRECISION):
        exact = references(name, dtype)
        errors = np.array([ulp_error(g, e, dtype) for g, e in zip(got, exact, strict=True)])
    worst = int(np.argmax(errors))
    at = [float(a[worst]) for a in args]
    assert errors[worst] <= ULP[name][not FMA[isa]], (at, float(got[worst]))


def grid(name, dtype):
    axes = [special(dtype)] * ARITY[name]
    return [a.ravel() for a in np.meshgrid(*axes, indexing="ij")]


@each_isa
@each_dtype
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_special_values_are_those_of_numpy(name, dtype, isa):
    args = grid(name, dtype)
    got = run(name, isa, *args)
    with np.errstate(all="ignore"):
        expected = np.asarray(OPS[name].numpy(*args)).astype(dtype)
        unit = np.maximum(np.spacing(np.abs(expected)), np.finfo(dtype).smallest_subnormal)
        close = np.abs(got - expected) <= (0 if name in EXACT else 5) * unit
    same = (got == expected) | (np.isnan(got) & np.isnan(expected)) | close
    if name not in ("maximum", "minimum"):  # of two zeros NumPy may take either
        same &= (np.signbit(got) == np.signbit(expected)) | np.isnan(expected)
    assert same.all(), [
        (*(float(a[i]) for a in args), float(got[i]), float(expected[i]))
        for i in np.flatnonzero(~same)[:5]
    ]


@each_isa
@each_dtype
@pytest.mark.parametrize("name", sorted(EXACT))
def test_exact_ops_have_the_bits_of_numpy(name, dtype, isa):
    rng = np.random.default_rng(1)
    args = [np.concatenate([sweep(rng, 500, dtype)[:480], rng.normal(size=500).astype(dtype)])
            for _ in range(ARITY[name])]  # fmt: skip
    args[0][::7] = 0
    if ARITY[name] > 1:
        args[1][::5] = args[0][::5]
    with np.errstate(all="ignore"):
        expected = np.asarray(OPS[name].numpy(*args)).astype(dtype)
    np.testing.assert_array_equal(bits(run(name, isa, *args)), bits(expected))


@each_isa
@each_dtype
def test_extremes_order_the_zeros(dtype, isa):
    a, b = np.array([0, -0.0, 0, -0.0], dtype), np.array([0, 0, -0.0, -0.0], dtype)
    assert np.signbit(run("maximum", isa, a, b)).tolist() == [False, False, False, True]
    assert np.signbit(run("minimum", isa, a, b)).tolist() == [False, True, True, True]


@each_isa
@each_dtype
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_lane_knows_nothing_of_the_others(name, dtype, isa):
    """The same bits alone, in any position, beside any neighbours."""
    rng = np.random.default_rng(2)
    usual = [rng.normal(size=40).astype(dtype) for _ in range(ARITY[name])]
    odd = [rng.choice(np.append(special(dtype), dtype(1e30)), 40) for _ in range(ARITY[name])]
    mixed = [np.concatenate(pair) for pair in zip(usual, odd, strict=True)]
    order = rng.permutation(80)
    expected = bits(run(name, isa, *mixed))
    shuffled = bits(run(name, isa, *(m[order] for m in mixed)))
    np.testing.assert_array_equal(shuffled, expected[order])
    np.testing.assert_array_equal(bits(run(name, isa, *usual)), expected[:40])
    for i in range(0, 80, 9):
        alone = run(name, isa, *(m[i : i + 1] for m in mixed))
        assert bits(alone)[0] == expected[i]
