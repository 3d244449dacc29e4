"""Run the benchmark classes without asv: `python bench/run.py [word ...] [--json FILE]`."""

import argparse
import importlib
import inspect
import itertools
import json
import platform
import resource
import sys
import time
import warnings
from pathlib import Path

import nodecore as nc

FOLDER = Path(__file__).parent / "benchmarks"


def best_time(call, minimum=0.1, repeats=5):
    """Seconds a call: the best of several runs of at least `minimum` seconds."""
    call()
    begin = time.perf_counter()
    call()
    n = max(1, round(minimum / max(time.perf_counter() - begin, 1e-9)))
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(n):
            call()
        best = min(best, (time.perf_counter() - begin) / n)
    return best


def measure(kind, call):
    if kind == "time":
        return best_time(call), "s"
    if kind == "track":
        return call(), ""
    call()
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "bytes"


def benchmarks():
    """(name, class, method, parameters) of everything in the folder."""
    sys.path.insert(0, str(FOLDER.parent))
    for path in sorted(FOLDER.glob("bench_*.py")):
        module = importlib.import_module(f"benchmarks.{path.stem}")
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if name.startswith("_") or cls.__module__ != module.__name__:
                continue
            for method in dir(cls):
                if method.partition("_")[0] not in ("time", "peakmem", "track"):
                    continue
                for values in itertools.product(*getattr(cls, "params", ())):
                    label = f"{name}.{method}" + (f"({', '.join(values)})" if values else "")
                    yield label, cls, method, values


def show(value, unit):
    if unit != "s":
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    for scale, name in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if value * scale >= 1:
            return f"{value * scale:.3g} {name}"
    return f"{value * 1e9:.3g} ns"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="run what holds one of these words")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()

    # float32 cases ask for the tolerances of the float64 ones
    warnings.simplefilter("ignore", nc.PrecisionWarning)
    config = nc.show_config()
    print(platform.platform(), platform.processor(), config, sep="\n", end="\n\n")
    results = {}
    for label, cls, method, values in benchmarks():
        if options.words and not any(word.lower() in label.lower() for word in options.words):
            continue
        case = cls()
        if hasattr(case, "setup"):
            case.setup(*values)
        function = getattr(case, method)
        value, unit = measure(method.partition("_")[0], lambda f=function, v=values: f(*v))
        results[label] = value
        print(f"{label:50s} {show(value, unit):>12s}", flush=True)
    if options.json:
        record = {"platform": platform.platform(), "config": config, "results": results}
        options.json.write_text(json.dumps(record, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
