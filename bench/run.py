"""Run the benchmark classes without asv, and judge a change.

    python bench/run.py                      all, with this interpreter's nodecore
    python bench/run.py Solve Gradient       those whose name holds one of these words
    python bench/run.py --json now.json      keep the results
    python bench/run.py --compare a.json b.json
    python bench/run.py --before /other/bin/python Solve      two builds, taking turns

The last one is how a change is judged: both interpreters measure each benchmark in alternating
bursts, so that the machine's mood meets both, and the ratio is shown with its spread.
"""

import argparse
import gc
import importlib
import inspect
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

FOLDER = Path(__file__).parent / "benchmarks"


def benchmarks():
    """(label, class, method, parameters) of everything in the folder."""
    if str(FOLDER.parent) not in sys.path:
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
                    label = f"{name}.{method}"
                    if values:
                        label += f"({', '.join(map(str, values))})"
                    yield label, cls, method, values


# ---- In the process that measures ---------------------------------------------------------------


class Server:
    """Sets up and measures single benchmarks for a coordinator."""

    def __init__(self):
        self.found = {label: rest for label, *rest in benchmarks()}

    def setup(self, label):
        """None, or why the benchmark is skipped."""
        cls, method, values = self.found[label]
        case = cls()
        try:
            if hasattr(case, "setup"):
                case.setup(*values)
        except NotImplementedError as e:
            return str(e)
        function = getattr(case, method)
        self.kind, self.call = method.partition("_")[0], lambda: function(*values)
        self.unit = getattr(function, "unit", "")
        return None

    def measure(self, seconds):
        """(value, unit): of a time, the least of a burst of about so many seconds."""
        if self.kind == "track":
            return self.call(), self.unit
        if self.kind == "peakmem":
            self.call()
            unit = 1 if platform.system() == "Darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "bytes"
        self.call()
        gc.collect()
        gc.disable()
        best, n, end = float("inf"), 1, time.perf_counter() + seconds
        while True:
            begin = time.perf_counter()
            for _ in range(n):
                self.call()
            now = time.perf_counter()
            best = min(best, (now - begin) / n)
            if now - begin < 1e-3:  # so that the clock's own cost does not count
                n *= 2
            elif now >= end:
                gc.enable()
                return best, "s"

    def config(self):
        import nodecore as nc

        return {"platform": platform.platform(), **nc.show_config()}


def serve(fd):
    pipe, server = Connection(fd), Server()
    while True:
        try:
            name, *args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("ok", getattr(server, name)(*args)))
        except Exception as e:
            pipe.send(("error", f"{type(e).__name__}: {e}"))


# ---- In the process that asks -------------------------------------------------------------------


class Client:
    """A server process of one interpreter and instruction set."""

    def __init__(self, python, isa=None):
        self.python, self.isa = python, isa
        self.pipe, there = Pipe()
        env = dict(os.environ) | ({"NODECORE_ISA": isa} if isa else {})
        command = [python, str(Path(__file__).resolve()), "--serve", str(there.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[there.fileno()], env=env)
        there.close()

    def ask(self, *request):
        self.pipe.send(request)
        kind, answer = self.pipe.recv()
        if kind == "error":
            raise RuntimeError(answer)
        return answer

    def close(self):
        self.pipe.close()
        self.process.wait()


class Interpreter:
    """The servers of one interpreter: one an instruction set, started when asked for."""

    def __init__(self, python):
        self.python, self.clients = python, {}

    def client(self, label):
        last = label.rstrip(")").rpartition(", ")[2]
        isa = last if last in ("avx512", "avx2", "baseline") else None
        if ".peakmem_" in label:  # the peak of a process is that of all it did
            if label in self.clients:
                return self.clients[label]
            self.clients[label] = Client(self.python, isa)
            return self.clients[label]
        if isa not in self.clients:
            self.clients[isa] = Client(self.python, isa)
        return self.clients[isa]

    def close(self):
        for client in self.clients.values():
            client.close()


def show(value, unit):
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    if unit != "s":
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g} {unit}".rstrip()
    for scale, name in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if value * scale >= 1:
            return f"{value * scale:.3g} {name}"
    return f"{value * 1e9:.3g} ns"


def run(labels, pythons, seconds, rounds):
    """{label: ([values of each round] for each interpreter, unit)}; prints as it goes."""
    sides = [Interpreter(python) for python in pythons]
    results = {}
    for label in labels:
        try:
            clients = [side.client(label) for side in sides]
            if any(client.ask("setup", label) for client in clients):
                continue
            turns = rounds if ".time_" in label else 1
            values = [[] for _ in clients]
            for turn in range(turns):
                order = list(enumerate(clients))
                for k, client in order if turn % 2 == 0 else reversed(order):
                    value, unit = client.ask("measure", seconds / turns)
                    values[k].append(value)
        except (RuntimeError, EOFError, OSError) as e:
            print(f"{label:64s} {str(e)[:100] or 'its process ended'}", flush=True)
            continue
        results[label] = (values, unit)
        line = f"{label:64s}" + "".join(f"{show(min(v), unit):>13s}" for v in values)
        if len(values) == 2 and all(v[0] for v in values):
            line += "   " + change(*values)
        print(line, flush=True)
    for side in sides:
        side.close()
    return results


def change(before, after):
    """Ratio of each round's values: median and range, and what it says."""
    ratios = sorted(a / b for b, a in zip(before, after, strict=True))
    middle, low, high = statistics.median(ratios), ratios[0], ratios[-1]
    if len(ratios) > 4:  # the extreme ones are the machine's
        low, high = ratios[1], ratios[-2]
    verdict = "slower" if low > 1.02 else "faster" if high < 0.98 else ""
    return f"x {middle:.3f} ({low:.3f} .. {high:.3f}) {verdict}".rstrip()


def compare(first, second):
    """Two files of --json, side by side."""
    a, b = (json.loads(path.read_text()) for path in (first, second))
    for key in sorted(a["config"].keys() | b["config"].keys()):
        if a["config"].get(key) != b["config"].get(key):
            print(f"! {key}: {a['config'].get(key)} and {b['config'].get(key)}")
    for label in a["results"].keys() & b["results"].keys():
        x, y = a["results"][label], b["results"][label]
        ratio = f"x {y['value'] / x['value']:.3f}" if x["value"] else ""
        cells = [show(r["value"], r["unit"]) for r in (x, y)]
        print(f"{label:64s} {cells[0]:>12s} {cells[1]:>12s}   {ratio}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="run what holds one of these words")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"))
    parser.add_argument("--before", metavar="PYTHON", help="another interpreter, taking turns")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each time")
    parser.add_argument("--rounds", type=int, help="bursts of each time: 5, with --before 9")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        return serve(options.serve)
    if options.compare:
        return compare(*options.compare)
    words = [word.lower() for word in options.words]
    labels = [
        label for label, *_ in benchmarks() if not words or any(w in label.lower() for w in words)
    ]
    if options.list:
        return print(*labels, sep="\n")
    client = Client(sys.executable)
    config = client.ask("config")
    client.close()
    print(*(f"{k}: {v}" for k, v in config.items()), sep="\n", end="\n\n")
    pythons = [options.before] if options.before else []
    rounds = options.rounds or (9 if options.before else 5)
    results = run(labels, [*pythons, sys.executable], options.seconds, rounds)
    if options.json:
        record = {
            label: {"value": min(values[-1]), "unit": unit}
            for label, (values, unit) in results.items()
        }
        text = json.dumps({"config": config, "results": record}, indent=1, default=str)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
