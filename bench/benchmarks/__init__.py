"""Benchmark classes in the style of asv; see bench/README.md."""

import os
import sys
import warnings
from pathlib import Path

# the cases stand one folder up, shared with the comparison with other libraries
sys.path.insert(0, str(Path(__file__).parents[1]))

ISAS = ["avx512", "avx2", "baseline"]


def choose(isa):
    """Use this instruction set in this process, or skip the benchmark (asv's convention)."""
    os.environ.setdefault("NODECORE_ISA", isa)
    import nodecore as nc

    # float32 cases ask for the tolerances of the float64 ones
    warnings.simplefilter("ignore", nc.PrecisionWarning)
    try:
        used = nc.show_config()["isa"]
    except nc.InputError:
        used = None
    if used != isa:
        raise NotImplementedError(f"{isa} is not in use")
