"""Functions of one sample, evaluated for many at once by what traces, runs and reverses fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nodecore._field import Field
from nodecore._solve import solve
from nodecore.solution import Solution


class Batched:
    """A function of one sample, ``function(params, inputs)``, for all samples at once.

    z' = function(params, inputs), z(0) = 0, one Euler step of length 1: z(1) is its value.
    """

    def __init__(self, function: Callable[[Any, Any], Any], options: Mapping[str, Any]) -> None:
        self.field = Field(lambda t, z, params, args: function(params, args))
        self.options = {k: options[k] for k in ("threads",) if k in options}

    def __call__(
        self, params: Any, inputs: Any, zero: Any, batch: bool, **changes: Any
    ) -> Solution:
        """A Solution whose two rows are 0 and the value; `zero` has the value's shapes."""
        options = {"adjoint": "discrete", **self.options, **changes}
        times = np.array([0.0, 1.0])
        return solve(
            self.field, zero, times, params, inputs, batch=batch, method="euler", steps=1, **options
        )
