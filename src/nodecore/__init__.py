"""Ordinary differential equations with half a theory: batched, exactly differentiated, on the CPU.

A field is plain NumPy for one sample::

    import numpy as np
    import nodecore as nc

    def field(t, y, params):
        return -params["k"] * y

    sol = nc.solve(field, np.ones((3, 2)), np.linspace(0, 1, 5), {"k": 2.0}, adjoint="discrete")
    value, g = sol.value_and_grad(lambda y: np.mean(y**2))

Solving: `solve`, `field`, `opaque`, `linear`, `Split`, `Event`, `methods`, and the step-size
controllers. Gradients:
`Solution.vjp`, `Solution.value_and_grad`, `gradcheck`, `gradient_error`; in fields, `jvp`, `vjp`,
`grad`, `divergence`. Training: `fit`, `nn`, `optim`, `losses`, `ravel`. Seeing:
`stability`, `diagnose`.
"""

from typing import TYPE_CHECKING, Any

from nodecore import methods
from nodecore._adjoint import Continuous, Discrete, Reversible
from nodecore._field import Split, field, linear, opaque
from nodecore._solve import solve
from nodecore.control import FixedStep, IController, PIController, PIDController
from nodecore.events import Event
from nodecore.ir.transforms import divergence, grad, jvp, vjp
from nodecore.plan import show_config
from nodecore.solution import Solution
from nodecore.status import (
    Error,
    GradientError,
    InputError,
    PrecisionWarning,
    SolveError,
    Status,
    StiffnessWarning,
    TraceError,
)
from nodecore.tree import ravel

if TYPE_CHECKING:
    from nodecore import losses, nn, optim
    from nodecore._check import gradcheck, gradient_error
    from nodecore._diagnose import Diagnosis, diagnose
    from nodecore._fit import fit
    from nodecore._stability import Stability, stability

__version__ = "0.1.0"

# Imported when they are asked for: a script that only solves does not pay for them.
_LATER = {
    "Diagnosis": "_diagnose",
    "Stability": "_stability",
    "diagnose": "_diagnose",
    "fit": "_fit",
    "gradcheck": "_check",
    "gradient_error": "_check",
    "losses": "losses",
    "nn": "nn",
    "optim": "optim",
    "stability": "_stability",
}

__all__ = [
    "Continuous",
    "Diagnosis",
    "Discrete",
    "Error",
    "Event",
    "FixedStep",
    "GradientError",
    "IController",
    "InputError",
    "PIController",
    "PIDController",
    "PrecisionWarning",
    "Reversible",
    "Solution",
    "SolveError",
    "Split",
    "Stability",
    "Status",
    "StiffnessWarning",
    "TraceError",
    "diagnose",
    "divergence",
    "field",
    "fit",
    "grad",
    "gradcheck",
    "gradient_error",
    "jvp",
    "linear",
    "losses",
    "methods",
    "nn",
    "opaque",
    "optim",
    "ravel",
    "show_config",
    "solve",
    "stability",
    "vjp",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'nodecore' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"nodecore.{_LATER[name]}")
    value = globals()[name] = module if _LATER[name] == name else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
