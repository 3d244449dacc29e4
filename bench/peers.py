"""Compare nodecore with other libraries: `python bench/peers.py --cases S1 S3a --dtypes f32`.

Each (library, case, dtype) is a process of its own. Those of a case are alive together and take
turns in short bursts, round after round, so that whatever else the machine does meets all of them;
ratios are medians over rounds of the ratio within a round. First calls, with their compilation, are
timed apart. Beside every time stands the error against a tight reference. Where a library is more
exact than nodecore at the same tolerance, nodecore is timed once more, at the loosest tolerance (in
steps of 10^(1/4)) at which it is as exact. Where the case sets an error for the gradient, every
library is timed once more, at the loosest tolerance (in steps of 10^(1/2)) at which it has it.

Tables (Markdown, JSON) and pictures go to bench/results, those of --quick to bench/.cache/quick.
How to read them: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import adapters
import cases
import report

HERE = Path(__file__).parent
CURVES = ("S1", "S2", "S3a", "S6v-1", "S6r-1", "S7")
OURS = "nodecore"
SETTLE = 0.05  # seconds


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


class PeerError(Exception):
    """What a library could not do; `fatal` if its process is gone."""

    def __init__(self, text: str, fatal: bool = False) -> None:
        super().__init__(text)
        self.fatal = fatal


class Peer:
    """A worker process."""

    def __init__(self, name: str, case: str, dtype: str, options: argparse.Namespace) -> None:
        self.name, self.limits = name, options
        here, there = Pipe()
        threads = str(options.threads)
        env = dict(os.environ)
        for key in ("OMP", "MKL", "OPENBLAS", "NODECORE"):
            env[f"{key}_NUM_THREADS"] = threads
        env["NPROC"] = threads  # the size of XLA's pool
        env["JAX_PLATFORMS"] = "cpu"
        env["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # the first call compiles
        self.log = tempfile.TemporaryFile("w+")
        command = [sys.executable, str(HERE / "worker.py"), str(there.fileno()), name, case, dtype]
        self.process = subprocess.Popen(
            [*command, threads], env=env, pass_fds=[there.fileno()], stdout=self.log,
            stderr=self.log,
        )  # fmt: skip
        there.close()
        self.pipe = here

    def ask(self, command: str, **options: Any) -> Any:
        """The worker's answer, within the limits of time and memory."""
        end = time.monotonic() + self.limits.call_limit
        try:
            self.pipe.send((command, options))
            while not self.pipe.poll(0.2):
                if self.process.poll() is not None and not self.pipe.poll(0):
                    raise EOFError
                if time.monotonic() > end:
                    self.stop()
                    raise PeerError(f"took more than {self.limits.call_limit:g} s", fatal=True)
                if self.resident() > self.limits.memory_limit * 2**30:
                    self.stop()
                    raise PeerError(f"out of {self.limits.memory_limit:g} GiB", fatal=True)
            kind, result = self.pipe.recv()
        except (EOFError, OSError):
            self.log.seek(0)
            last = self.log.read().strip().splitlines()[-1:] or ["no message"]
            raise PeerError(f"its process ended: {last[0][:200]}", fatal=True) from None
        if kind == "error":
            raise PeerError(result)
        return result

    def resident(self) -> int:
        try:
            with open(f"/proc/{self.process.pid}/statm") as f:
                return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.wait()
        self.log.close()


def installed(name: str) -> bool:
    return importlib.util.find_spec(adapters.ALL[name].module.split(".")[0]) is not None


def measure(case: cases.Case, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one case and dtype."""
    cases.reference(case)  # so that no worker computes it
    record: dict[str, Any] = {
        "case": case.name, "dtype": dtype, "rtol": case.rtol, "atol": case.atol,
        "steps": case.total_steps, "batch": len(case.y0), "what": list(case.what),
        "reach": {what: ratio for (d, what), ratio in case.reach.items() if d == dtype},
        "memory": case.memory, "budget_rivals": case.budget_rivals, "peers": {}, "curves": [],
        "gradient_goal": case.gradient_goal,
    }  # fmt: skip
    results = record["peers"]
    with contextlib.ExitStack() as stack:
        alive: dict[str, Peer] = {}
        for name, cls in adapters.ALL.items():
            words = options.peers if not name.startswith(OURS) else None
            if words and not any(w in name for w in words):
                continue
            reason = cls.refuses(case)
            if reason is None and not installed(name):
                reason = "not installed"
            if reason is not None:
                say(f"{case.name} {dtype}: {name}: {reason}")
                continue
            peer = Peer(name, case.name, dtype, options)
            stack.callback(lambda p=peer: p.process.poll() is None and p.stop())
            results[name] = {"per_sample": cls.per_sample, "failed": {}}
            try:
                results[name] |= peer.ask("start")
                alive[name] = peer
            except PeerError as e:
                results[name]["failed"]["start"] = str(e)
        first_calls(case, dtype, alive, results)
        turns = [(n, w, None) for n in alive for w in case.what if w in results[n]]
        tight: dict[tuple[str, str], Any] = {}
        if case.adaptive and "train" not in case.what and OURS in alive:
            tight = equally_exact(case, alive[OURS], results)
            turns += sorted({(OURS, what, e["rtol"]) for (_, what), e in tight.items()})
        times = take_turns(turns, case.rtol, alive, results, options.seconds, options.rounds)
        for (name, what, rtol), found in times.items():
            if rtol is None:
                results[name][what] |= summary(found)
        for (name, what), entry in tight.items():
            found = times.get((OURS, what, entry["rtol"]))
            if found and what in results[name]:
                results[name][what]["ours as exact"] = entry | summary(found)
        if case.gradient_goal:
            to_goal(case, alive, results, options)
        # float64 where the case has it: float32's rounding ends a curve half-way
        if case.name in CURVES and dtype == case.dtypes[-1] and not options.no_curves:
            record["curves"] = curves(case, dtype, alive, options)
        for peer in alive.values():
            if peer.process.poll() is None:
                peer.stop()
    return record


def first_calls(
    case: cases.Case, dtype: str, alive: dict[str, Peer], results: dict[str, Any]
) -> None:
    for name, peer in list(alive.items()):
        for what in case.what:
            try:
                found = results[name][what] = {"first": peer.ask("first", what=what)}
                text = f"{found['first']['seconds']:.3g} s, error {found['first']['error']:.1e}"
            except PeerError as e:
                results[name]["failed"][what] = text = str(e)
                if e.fatal:
                    del alive[name]
            say(f"{case.name} {dtype}: {name}: first {what}: {text}")
            if name not in alive:
                break


def equally_exact(
    case: cases.Case, ours: Peer, results: dict[str, Any]
) -> dict[tuple[str, str], Any]:
    """For each more exact library and what is computed: our loosest tolerance that matches it."""
    found = {}
    for what in case.what:
        if what not in results[OURS]:
            continue
        mine = results[OURS][what]["first"]["error"]
        wanted = {
            name: r[what]["first"]["error"]
            for name, r in results.items()
            if not name.startswith(OURS) and what in r and r[what]["first"]["error"] < mine
        }
        best: dict[str, Any] = {"rtol": case.rtol, "error": mine}
        for k in range(1, 17):
            if all((name, what) in found for name in wanted):
                break
            rtol = case.rtol * 10 ** (-k / 4)
            try:
                ours.ask("tolerance", rtol=rtol)
                error = ours.ask("first", what=what)["error"]
            except PeerError:
                break  # below what this dtype can resolve
            if error < best["error"]:
                best = {"rtol": rtol, "error": error}
            for name, limit in wanted.items():
                if error <= limit and (name, what) not in found:
                    found[name, what] = {"rtol": rtol, "error": error}
        for name in wanted:
            # not reached: rounding decides; the most exact we have, marked by its larger error
            found.setdefault((name, what), best)
    with contextlib.suppress(PeerError):  # the turns find out and say so
        ours.ask("tolerance", rtol=case.rtol)
    return found


def to_goal(
    case: cases.Case, alive: dict[str, Peer], results: dict[str, Any], options: argparse.Namespace
) -> None:
    """The gradient at each library's loosest tolerance at which it is as exact as the case asks."""
    what, goal, chosen = "gradient", case.gradient_goal, {}
    for name, peer in list(alive.items()):
        reason = ""
        known = results[name].get(what, {}).get("first", {}).get("error", 0.0)
        for k in range(-2 if known <= goal else 1, 9):
            rtol = case.rtol * 10 ** (-k / 2)
            try:
                peer.ask("tolerance", rtol=rtol)
                error = peer.ask("first", what=what)["error"]
            except PeerError as e:
                reason = f" at {rtol:.1e}: {e}"
                if e.fatal:
                    del alive[name]
                    break
                continue
            if error <= goal:
                chosen[name] = {"rtol": rtol, "error": error}
                break
        else:
            reason = f"not reached at {rtol:.1e}{reason}".splitlines()[0]
        if name in chosen:
            reason = f"rtol {chosen[name]['rtol']:.1e}, error {chosen[name]['error']:.1e}"
        else:
            results[name]["failed"][f"{what} to {goal:.0%}"] = reason.strip()
        say(f"{case.name}: {name}: {what} to {goal:.0%}: {reason.strip()}")
    turns: list[Turn] = [(name, what, entry["rtol"]) for name, entry in chosen.items()]
    times = take_turns(turns, case.rtol, alive, results, options.seconds, options.rounds)
    for (name, _, _), found in times.items():
        results[name].setdefault(what, {})["to goal"] = chosen[name] | summary(found)


Turn = tuple[str, str, "float | None"]


def take_turns(
    turns: list[Turn],
    rtol: float,
    alive: dict[str, Peer],
    results: dict[str, Any],
    seconds: float,
    rounds: int,
) -> dict[Turn, dict[int, list[float]]]:
    """Times of calls by round. A call longer than a burst is still made in at least 3 rounds."""
    times: dict[Turn, dict[int, list[float]]] = {turn: {} for turn in turns}
    spent = dict.fromkeys(turns, 0.0)
    least = min(3, rounds)
    order = random.Random(rounds)
    for r in range(rounds):
        # another order each round, so that nobody always follows the same neighbour
        for turn in order.sample(turns, len(turns)):
            name, what, tolerance = turn
            if name not in alive or (spent[turn] > seconds and len(times[turn]) >= least):
                continue
            try:
                if rtol:
                    alive[name].ask("tolerance", rtol=tolerance or rtol)
                # idle threads of the library before go on spinning for milliseconds
                time.sleep(SETTLE)
                times[turn][r] = alive[name].ask("burst", what=what, seconds=seconds / rounds)
                spent[turn] += sum(times[turn][r])
            except PeerError as e:
                results[name]["failed"][what] = str(e)
                if e.fatal:
                    del alive[name]
    return {turn: found for turn, found in times.items() if found}


def summary(found: dict[int, list[float]]) -> dict[str, Any]:
    every = [x for xs in found.values() for x in xs]
    by_round = {str(r): statistics.median(xs) for r, xs in found.items()}
    return {
        "median": statistics.median(every), "min": min(every), "calls": len(every),
        "rounds": by_round,
    }  # fmt: skip


def curves(
    case: cases.Case, dtype: str, alive: dict[str, Peer], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time and error of every library at several tolerances."""
    rows = []
    # a compilation a tolerance, of minutes, is not asked
    chosen = {n: p for n, p in alive.items() if "compiled" not in n}
    for rtol in options.tolerances:
        errors: dict[tuple[str, str], float] = {}
        for name, peer in list(chosen.items()):
            for what in case.what:
                try:
                    peer.ask("tolerance", rtol=rtol)
                    errors[name, what] = peer.ask("first", what=what)["error"]
                except PeerError as e:
                    say(f"{case.name} {dtype}: {name}: {what} at {rtol:g}: {e}")
                    if e.fatal:
                        del chosen[name], alive[name]
                        break
        turns: list[Turn] = [(n, w, rtol) for n, w in errors if n in chosen]
        ignored: dict[str, Any] = {n: {"failed": {}} for n in chosen}
        seconds, rounds = options.seconds / 4, min(options.rounds, 5)
        times = take_turns(turns, rtol, chosen, ignored, seconds, rounds)
        for (name, what, _), found in times.items():
            s = summary(found)
            rows.append({
                "peer": name, "what": what, "rtol": rtol, "error": errors[name, what],
                "median": s["median"], "min": s["min"],
            })  # fmt: skip
        say(f"{case.name} {dtype}: curve at {rtol:g}")
    return rows


def machine(options: argparse.Namespace) -> dict[str, Any]:
    import nodecore as nc

    cpu = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        cpu = next((x.split(":")[1].strip() for x in f if x.startswith("model name")), cpu)
    versions = {}
    packages = "numpy scipy torch torchdiffeq torchode jax diffrax casadi".split()
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "date": datetime.date.today().isoformat(), "cpu": cpu, "cpus": os.cpu_count(),
        "system": platform.platform(), "python": platform.python_version(),
        "nodecore": str(nc.show_config()), "versions": versions, "threads": options.threads,
        "load": os.getloadavg()[0], "seconds": options.seconds, "rounds": options.rounds,
        "quick": options.quick,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=cases.names(), metavar="CASE")
    parser.add_argument("--dtypes", nargs="+", choices=("f32", "f64"), help="default: the table's")
    parser.add_argument("--peers", nargs="+", metavar="WORD", help="libraries whose name holds one")
    parser.add_argument("--seconds", type=float, default=10, help="of calls, each library and task")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tolerances", nargs="+", type=float,
                        default=[10.0**-k for k in range(3, 10)], help="of the curves")  # fmt: skip
    parser.add_argument("--no-curves", action="store_true")
    parser.add_argument("--call-limit", type=float, default=300, help="seconds of one call")
    parser.add_argument("--memory-limit", type=float, default=12, help="GiB of one library")
    parser.add_argument("--quick", action="store_true", help="does it run? Numbers mean nothing")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = min(options.seconds, 0.2), 2
        options.tolerances = [1e-3, 1e-5, 1e-7]
    out = options.out or (cases.CACHE / "quick" if options.quick else HERE / "results")
    out.mkdir(parents=True, exist_ok=True)

    path = out / "peers.json"
    # cases that were measured before stay, each with the machine it was measured on
    records = json.loads(path.read_text())["records"] if path.exists() else []
    begin = time.perf_counter()
    for name in options.cases:
        case = cases.get(name)
        for dtype in options.dtypes or case.dtypes:
            record = measure(case, dtype, options) | {"machine": machine(options)}
            key = (name, dtype)
            records = [r for r in records if (r["case"], r["dtype"]) != key] + [record]
            order = cases.names()
            records.sort(key=lambda r: (order.index(r["case"]), r["dtype"]))
            path.write_text(json.dumps({"records": records}, indent=1) + "\n")
            say(f"{name} {dtype}: done after {time.perf_counter() - begin:.0f} s in all")
    report.write(records, out)
    print((out / "peers.md").read_text())


if __name__ == "__main__":
    main()
