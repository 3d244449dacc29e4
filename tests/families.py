"""What tests must know of a method's family."""

import numpy as np

import nodecore as nc


def iterates(method):
    """Are stages found by iteration? A replay solves them again, to rounding: it differs by what
    the tolerance left."""
    return nc.methods.get(method).family in ("dirk", "radau")


def to_a_tolerance(method, options):
    """Does the iteration end at a tolerance? On a fixed grid it goes on to rounding."""
    return iterates(method) and "dt" not in options and "steps" not in options


def gradient_bound(method, options):
    """How far the gradient of a solve may be from that of its replay."""
    return 2e-7 if to_a_tolerance(method, options) else 1e-8


def same_replay(method, options, a, b):
    """Is ``b``, replayed, what ``a`` was? To the last bit, unless the iteration ends before."""
    a, b = np.asarray(a), np.asarray(b)
    if to_a_tolerance(method, options):
        tol = 1e-5 if a.dtype == np.float64 else 1e-2
        return np.allclose(a, b, rtol=tol, atol=tol * np.abs(a).max(initial=0), equal_nan=True)
    return a.tobytes() == b.tobytes()
