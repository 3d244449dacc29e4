"""Losses: ``loss(pred, target, mask=None) -> scalar``, means over the observed entries.

A NaN in `target` is a missing observation. Where `pred` is NaN the solution was not reached. Both
are left out of the mean, in the gradient too. `pred` and `target` must have one shape: nothing is
broadcast. Trees and ragged lists of arrays are one pool of entries.

They are plain NumPy, so that ``sol.value_and_grad(nc.losses.mse, target)`` can trace them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from nodecore import tree
from nodecore.status import InputError

__all__ = ["gaussian_nll", "mae", "mse"]

_F = TypeVar("_F", bound=Callable[..., Any])


def _pure(loss: _F) -> _F:
    """Promise that the loss depends on its arguments alone, so that one trace serves all calls."""
    loss.__nodecore_pure__ = True  # type: ignore[attr-defined]
    return loss


@_pure
def mse(pred: Any, target: Any, mask: Any = None) -> Any:
    """The mean squared error.

    Parameters
    ----------
    pred, target : arrays of one shape, or trees of such
    mask : bool array of the same shape, or tree of such, optional
        Where it is False an entry is left out. With a mask, a NaN in `pred` counts: it makes the
        loss NaN instead of being taken for a row that was not reached.

    Returns
    -------
    scalar
        0 if no entry is observed.

    Raises
    ------
    InputError
        If the shapes or the structures differ.

    Examples
    --------
    >>> float(mse(np.array([1.0, 2.0, 5.0]), np.array([1.0, 4.0, np.nan])))
    2.0
    """
    entries = []
    for p, q, m in _leaves(pred, target, mask):
        _check_shapes(p, q)
        missing = _missing(p, q, m)
        entries.append((np.square(np.where(missing, 0.0, p - q)), missing))
    return _mean(entries)


@_pure
def mae(pred: Any, target: Any, mask: Any = None) -> Any:
    """The mean absolute error. Arguments and result are those of `mse`.

    Examples
    --------
    >>> float(mae(np.array([1.0, 2.0, 5.0]), np.array([1.0, 4.0, np.nan])))
    1.0
    """
    entries = []
    for p, q, m in _leaves(pred, target, mask):
        _check_shapes(p, q)
        missing = _missing(p, q, m)
        entries.append((np.abs(np.where(missing, 0.0, p - q)), missing))
    return _mean(entries)


@_pure
def gaussian_nll(pred: Any, target: Any, mask: Any = None, *, sigma: Any = None) -> Any:
    """The mean negative log likelihood of independent normal observations.

    Parameters
    ----------
    pred : array, or tree of arrays
        With `sigma`: the means, shaped as `target`. Without: its last axis is twice as long as that
        of `target` and holds the means, then the logarithms of the standard deviations, as an
        ``observe`` returns them with ``np.concatenate([mean, log_sigma])``.
    target : array, or tree of arrays
    mask : bool array shaped as `target`, or tree of such, optional
        As in `mse`.
    sigma : positive float, or array or tree shaped as `target`, optional
        Known standard deviations.

    Returns
    -------
    scalar
        The mean of ``(pred - target)**2 / (2 sigma**2) + log(sigma) + log(2 pi) / 2``; 0 if no
        entry is observed.

    Raises
    ------
    InputError
        If the shapes or the structures differ.

    Examples
    --------
    >>> pred = np.array([1.0, 2.0, 0.0, 0.0])  # two means, two log standard deviations
    >>> round(float(gaussian_nll(pred, np.array([1.0, 4.0]))), 6)
    1.918939
    """
    entries = []
    for k, (p, q, m) in enumerate(_leaves(pred, target, mask)):
        if sigma is None:
            n = q.shape[-1] if q.shape else 0
            if q.shape == () or tuple(p.shape) != (*q.shape[:-1], 2 * n):
                raise InputError(
                    "gaussian_nll without sigma takes means and log standard deviations, of shape "
                    f"{(*q.shape[:-1], 2 * n)} for a target of shape {q.shape}; pred has shape "
                    f"{tuple(p.shape)}"
                )
            mean, log_sigma = p[..., :n], p[..., n:]
        else:
            _check_shapes(p, q)
            mean, log_sigma = p, np.log(_known_sigma(sigma, target, k, q.shape))
        missing = _missing(mean, q, m)
        log_sigma = np.where(missing, 0.0, log_sigma)
        scaled = np.where(missing, 0.0, mean - q) * np.exp(-log_sigma)
        value = 0.5 * np.square(scaled) + (log_sigma + 0.5 * math.log(2.0 * math.pi))
        entries.append((np.where(missing, 0.0, value), missing))
    return _mean(entries)


def _known_sigma(sigma: Any, target: Any, leaf: int, shape: tuple[int, ...]) -> Any:
    if np.isscalar(sigma):
        return np.full(shape, sigma)
    leaves, treedef = tree.flatten(sigma)
    if treedef != tree.flatten(target)[1] or np.shape(leaves[leaf]) != shape:
        raise InputError("gaussian_nll: sigma is neither a number nor shaped as target")
    return np.asarray(leaves[leaf])


def _leaves(pred: Any, target: Any, mask: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The leaves of the three trees, side by side."""
    preds, treedef = tree.flatten(pred)
    targets, target_treedef = tree.flatten(target)
    masks, mask_treedef = tree.flatten(mask)
    if mask is None:
        masks, mask_treedef = [None] * len(targets), target_treedef
    if not (treedef == target_treedef == mask_treedef):
        raise InputError(
            "a loss compares trees of one structure: pred has the leaves "
            f"{tree.paths(treedef, 'pred')}, target {tree.paths(target_treedef, 'target')}, mask "
            f"{tree.paths(mask_treedef, 'mask')}"
        )
    for p, q, m in zip(preds, targets, masks, strict=True):
        p, q = (x if hasattr(x, "shape") else np.asarray(x) for x in (p, q))
        if m is not None and np.shape(m) != q.shape:
            raise InputError(f"mask has shape {np.shape(m)}, and target {q.shape}")
        yield p, q, m


def _check_shapes(p: Any, q: Any) -> None:
    if tuple(p.shape) != tuple(q.shape):
        raise InputError(
            f"pred has shape {tuple(p.shape)} and target {tuple(q.shape)}: a loss does not "
            "broadcast, because a mean over the wrong pairs looks like a number"
        )


def _missing(p: Any, q: Any, mask: Any) -> Any:
    if mask is None:
        return np.isnan(p) | np.isnan(q)
    return np.isnan(q) | (mask == 0)


def _mean(entries: list[tuple[Any, Any]]) -> Any:
    """The mean of values that are 0 where they are missing."""
    total: Any = 0.0
    count: Any = 0.0
    for value, missing in entries:
        total = total + np.sum(value)
        count = count + np.sum(np.where(missing, 0.0, 1.0))
    return total / np.maximum(count, 1.0)
