"""What `import nodecore` costs, and what it leaves alone."""

import os
import subprocess
import sys

# The processor's time: the wall clock would count what else the machine is doing.
PROBE = """
import sys, time
import numpy
begin = time.process_time()
import nodecore
print(time.process_time() - begin)
print(*sys.modules)
"""


def probe(cache):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(cache)
    run = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env=env
    )
    seconds, modules = run.stdout.splitlines()
    return float(seconds), set(modules.split())


def test_import_costs_under_100_ms_beyond_numpy(tmp_path):
    probe(tmp_path)  # compiles the .pyc files, warms the disk cache
    assert any(probe(tmp_path)[0] < 0.1 for _ in range(10))


def test_import_leaves_the_heavy_packages_alone(tmp_path):
    _, modules = probe(tmp_path)
    assert not modules & {"scipy", "matplotlib", "tqdm", "numpy.f2py", "asyncio"}
