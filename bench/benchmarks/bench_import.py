"""What an import costs."""

import subprocess
import sys


class Import:
    """Seconds of a fresh interpreter, the least of five."""

    def track_seconds_beyond_numpy(self):
        code = (
            "import numpy, time; begin = time.perf_counter(); import nodecore; "
            "print(time.perf_counter() - begin)"
        )
        run = [sys.executable, "-c", code]
        return min(float(subprocess.check_output(run)) for _ in range(5))

    track_seconds_beyond_numpy.unit = "s"
