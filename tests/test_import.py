"""What `import nodecore` costs, and what it leaves alone."""

import subprocess
import sys

PROBE = """
import sys, time
import numpy
begin = time.perf_counter()
import nodecore
print(time.perf_counter() - begin)
print(*sys.modules)
"""


def probe():
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    seconds, modules = run.stdout.splitlines()
    return float(seconds), set(modules.split())


def test_import_costs_under_100_ms_beyond_numpy():
    probe()  # compiles the .pyc files, warms the disk cache
    assert min(probe()[0] for _ in range(5)) < 0.1


def test_import_leaves_the_heavy_packages_alone():
    _, modules = probe()
    assert not modules & {"scipy", "matplotlib", "tqdm", "numpy.f2py", "asyncio"}
