"""LU of a tile's matrices: its definition, backward errors, and one matrix's bits anywhere."""

import itertools
import platform

import numpy as np
import pytest

from nodecore._kernels import isas_available, lu

DTYPES = [np.float32, np.float64]
#        registers      | across lanes, with odd ends         | one matrix at a time
SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17, 31, 32, 33, 64, 65, 97, 129]
BATCH = 11  # no whole number of vectors

everywhere = pytest.mark.parametrize(
    ("isa", "dtype"), list(itertools.product(isas_available(), DTYPES))
)
both_ways = pytest.mark.parametrize("transposed", [False, True])


def systems(D, dtype, seed=0):
    """Random matrices, one of them without need of exchanges, one with many equal elements."""
    rng = np.random.default_rng([seed, D])
    M = rng.standard_normal((BATCH, D, D))
    M[1] = np.eye(D) + 0.1 * M[1] / np.sqrt(D)
    M[2] = np.round(M[2]) + np.eye(D) / 2
    return M.astype(dtype), rng.standard_normal((BATCH, D)).astype(dtype)


def definition(M, b, transposed):
    """The elimination order of the kernels: `lu.h` in NumPy, without fused multiply-adds."""
    a, row = M.copy(), np.arange(len(M))
    for k in range(len(a)):
        p = k + np.argmax(np.abs(a[k:, k]))
        a[[k, p]], row[[k, p]] = a[[p, k]], row[[p, k]]
        reciprocal = 1 / a[k, k]
        a[k + 1 :, k] *= reciprocal
        a[k + 1 :, k + 1 :] -= np.outer(a[k + 1 :, k], a[k, k + 1 :])
        a[k, k] = reciprocal
    x = np.empty_like(b)
    if transposed:
        y = b.copy()
        for k in range(len(a)):
            y[k] *= a[k, k]
            y[k + 1 :] -= a[k, k + 1 :] * y[k]
        for k in reversed(range(len(a))):
            y[:k] -= a[k, :k] * y[k]
        x[row] = y
    else:
        x = b[row]
        for k in range(len(a)):
            x[k + 1 :] -= a[k + 1 :, k] * x[k]
        for k in reversed(range(len(a))):
            x[k] *= a[k, k]
            x[:k] -= a[:k, k] * x[k]
    return x


def of(M, transposed):
    return np.swapaxes(M, -1, -2) if transposed else M


def backward_error(A, x, b):
    """The least eta such that (A + dA) x = b + db with ||dA|| <= eta ||A||, ||db|| <= eta ||b||
    (Rigal and Gaches 1967)."""
    A, x, b = (v.astype(np.longdouble) for v in (A, x, b))
    r = np.abs(np.einsum("bij,bj->bi", A, x) - b).max(1)
    return r / (np.abs(A).sum(2).max(1) * np.abs(x).max(1) + np.abs(b).max(1))


@everywhere
@both_ways
@pytest.mark.parametrize("D", SIZES)
def test_backward_error_is_a_few_roundings(D, transposed, isa, dtype):
    M, b = systems(D, dtype)
    x, singular, residual = lu(M, b, isa, transposed)
    assert not singular.any()
    assert backward_error(of(M, transposed), x, b).max() <= 8 * np.finfo(dtype).eps
    exact = b - np.einsum("bij,bj->bi", of(M, transposed).astype(np.longdouble), x)
    scale = np.einsum("bij,bj->bi", np.abs(of(M, transposed)), np.abs(x)) + np.abs(b)
    assert np.all(np.abs(residual - exact) <= D * np.finfo(dtype).eps * scale)


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="baseline fuses elsewhere"
)
@both_ways
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", SIZES)
def test_every_kernel_is_the_definition_to_the_bit(D, dtype, transposed):
    M, b = systems(D, dtype)
    expected = np.array([definition(m, v, transposed) for m, v in zip(M, b, strict=True)])
    x, _, _ = lu(M, b, "baseline", transposed)
    assert x.tobytes() == expected.tobytes()


@everywhere
@both_ways
@pytest.mark.parametrize("D", SIZES)
def test_a_matrix_has_the_same_bits_alone_and_in_any_company(D, transposed, isa, dtype):
    M, b = systems(D, dtype)
    x, _, residual = lu(M, b, isa, transposed)
    order = np.random.default_rng(D).permutation(BATCH)
    shuffled, _, moved = lu(M[order], b[order], isa, transposed)
    assert shuffled.tobytes() == x[order].tobytes()
    assert moved.tobytes() == residual[order].tobytes()
    for i in range(BATCH):
        alone, _, r = lu(M[i : i + 1], b[i : i + 1], isa, transposed)
        assert alone.tobytes() == x[i].tobytes()
        assert r.tobytes() == residual[i].tobytes()

    bad = np.arange(BATCH) % 2 == 0
    M[bad] = np.nan
    b[bad] = np.inf
    y, singular, _ = lu(M, b, isa, transposed)
    assert y[~bad].tobytes() == x[~bad].tobytes()
    assert np.array_equal(singular, bad)


@everywhere
@pytest.mark.parametrize("D", [1, 2, 3, 4, 5, 8, 17, 32, 33, 70])
def test_singular_matrices_are_named_and_no_others(D, isa, dtype):
    M, b = systems(D, dtype)
    M[0] = 0
    M[3] = np.nan
    M[4, -1, 0] = np.nan
    M[5, 0, -1] = np.inf
    M[6, :, D // 2] = 0
    M[7] = np.tril(np.ones((D, D)))
    M[7, -1, -1] = np.finfo(dtype).smallest_subnormal  # 1 / it is infinite
    M[8] = 1 if D > 1 else 0  # rank 1
    expected = np.isin(np.arange(BATCH), [0, 3, 4, 5, 6, 7, 8])
    for transposed in [False, True]:
        x, singular, _ = lu(M, b, isa, transposed)
        assert np.array_equal(singular, expected)
        assert np.all(np.isfinite(x[~expected]))
        for i in range(BATCH):
            assert lu(M[i : i + 1], b[i : i + 1], isa, transposed)[1] == expected[i]


@everywhere
@pytest.mark.parametrize("D", [2, 3, 4, 7, 20, 32, 33, 65])
def test_pivoting(D, isa, dtype):
    """Permutations are exact; a small pivot that is not taken does no harm; the largest growth that
    partial pivoting allows, 2^(D-1), is what Wilkinson's matrix shows."""
    rng = np.random.default_rng(D)
    P = np.stack([np.eye(D)[rng.permutation(D)] for _ in range(BATCH)]).astype(dtype)
    b = rng.standard_normal((BATCH, D)).astype(dtype)
    for transposed in [False, True]:
        x, _, residual = lu(P, b, isa, transposed)
        assert np.array_equal(x, np.einsum("bij,bj->bi", np.swapaxes(of(P, transposed), 1, 2), b))
        assert not residual.any()

    tiny = np.full((BATCH, 2, 2), 1, dtype)
    tiny[:, 0, 0] = np.finfo(dtype).eps ** 2
    x, _, _ = lu(tiny, np.tile(np.array([1, 2], dtype), (BATCH, 1)), isa)
    assert np.array_equal(x, np.ones((BATCH, 2)))

    # W x = e_D: elimination doubles the last column D - 1 times, exactly.
    wilkinson = np.eye(D) - np.tril(np.ones((D, D)), -1)
    wilkinson[:, -1] = 1
    last = np.eye(D)[-1]
    W = np.tile(wilkinson, (BATCH, 1, 1)).astype(dtype)
    x, _, _ = lu(W, np.tile(last, (BATCH, 1)).astype(dtype), isa)
    assert np.array_equal(x[:, -1], np.full(BATCH, 2.0 ** (1 - D)))
    assert np.array_equal(x, np.tile(np.linalg.solve(wilkinson, last), (BATCH, 1)))


@everywhere
@pytest.mark.parametrize("D", [1, 2, 3, 4, 5, 16, 32, 33, 64])
def test_lanes_outside_the_mask_keep_their_factors(D, isa, dtype):
    M, b = systems(D, dtype)
    again, _ = systems(D, dtype, seed=1)
    again[3:5] = np.nan
    mask = np.arange(BATCH) % 3 == 0
    first, _, _ = lu(M, b, isa)
    second, _, _ = lu(again, b, isa)
    x, singular, _ = lu(M, b, isa, again=again, mask=mask)
    assert np.array_equal(singular, mask & np.isin(np.arange(BATCH), [3, 4]))
    good = ~singular
    assert x[good].tobytes() == np.where(mask[:, None], second, first)[good].tobytes()
    for i in range(BATCH):
        one = slice(i, i + 1)
        alone, flag, _ = lu(M[one], b[one], isa, again=again[one], mask=mask[one])
        assert flag[0] == singular[i]
        if good[i]:
            assert alone.tobytes() == x[i].tobytes()


@everywhere
@both_ways
@pytest.mark.parametrize("D", [1, 2, 3, 4, 5, 16, 32, 33, 64])
def test_newton_matrix(D, transposed, isa, dtype):
    J, b = systems(D, dtype)
    hg = np.random.default_rng(D).uniform(0.01, 1, BATCH).astype(dtype)
    x, _, _ = lu(J, b, isa, transposed, hg=hg)
    M = np.eye(D) - hg[:, None, None] * J.astype(np.longdouble)
    assert backward_error(of(M, transposed), x, b).max() <= 12 * np.finfo(dtype).eps
    for i in range(BATCH):
        one = slice(i, i + 1)
        assert lu(J[one], b[one], isa, transposed, hg=hg[one])[0].tobytes() == x[i].tobytes()
