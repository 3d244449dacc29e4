"""What `import nodecore` leaves alone. Its seconds: bench/benchmarks/bench_import.py."""

import subprocess
import sys

import pytest

import nodecore


@pytest.fixture(scope="module")
def modules():
    run = [sys.executable, "-c", "import sys, nodecore; print(*sys.modules)"]
    return set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())


def test_import_leaves_the_heavy_packages_alone(modules):
    assert not modules & {"scipy", "matplotlib", "tqdm", "numpy.f2py", "asyncio"}


def test_import_leaves_what_is_not_needed_to_solve(modules):
    later = {f"nodecore.{module}" for module in nodecore._LATER.values()}
    assert "nodecore._fit" in later
    assert not modules & later
