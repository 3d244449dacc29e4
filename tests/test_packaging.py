"""What is installed: the compiled part as it was meant, and the data that Python reads."""

import importlib.metadata
import os
import platform
import zlib
from pathlib import Path

import nodecore as nc

ROOT = Path(nc.__file__).parent


def test_openmp_was_not_lost():
    allowed = os.environ.get("NODECORE_ALLOW_NO_OPENMP", "0") not in ("", "0")
    assert allowed or nc.show_config()["openmp"], (
        "nodecore was built without OpenMP; NODECORE_ALLOW_NO_OPENMP=1 allows it"
    )


def test_every_variant_was_compiled():
    compiled = set(nc.show_config()["isa_compiled"])
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    assert compiled == ({"avx512", "avx2", "baseline"} if x86 else {"baseline"})


def test_data_files_are_shipped():
    assert (ROOT / "py.typed").exists()
    for name in ("ops.def", "status.def", "isa.def"):
        assert (ROOT / "_kernels" / name).stat().st_size > 0


def test_version():
    assert nc.show_config()["version"] == nc.__version__ == importlib.metadata.version("nodecore")


def test_a_wheel_would_stay_under_5_mb():
    shipped = [p for kind in ("*.py", "*.so", "*.def", "*.pyi") for p in ROOT.rglob(kind)]
    assert sum(len(zlib.compress(p.read_bytes())) for p in shipped) < 5e6
