"""Tables and pictures of what peers.py measured; `python bench/report.py` makes them again."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OURS, BUDGET = "nodecore", "nodecore, memory budget"
Record = dict[str, Any]


def duration(seconds: float) -> str:
    for scale, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.2g} us"


def size(n: float) -> str:
    return f"{n / 2**20:.0f} MiB" if n >= 0.95 * 2**20 else f"{max(n, 0) / 2**20:.1f} MiB"


def ratio(theirs: Record, ours: Record) -> float:
    """How many times longer: the median over the rounds that both took part in."""
    common = theirs["rounds"].keys() & ours["rounds"].keys()
    if not common:
        return theirs["median"] / ours["median"]
    return statistics.median(theirs["rounds"][r] / ours["rounds"][r] for r in common)


def least(theirs: Iterable[Record], ours: Record) -> float:
    """The least times against each other: of the moments when the machine did nothing else."""
    return min(r["min"] for r in theirs) / ours["min"]


def rivals(record: Record, what: str) -> dict[str, Record]:
    return {
        name: p[what]
        for name, p in record["peers"].items()
        if not name.startswith(OURS) and "median" in p.get(what, {})
    }


def title(record: Record) -> str:
    how = (
        f"rtol {record['rtol']:g}, atol {record['atol']:g}"
        if record["rtol"]
        else f"{record['steps']:,} steps"
    )
    batch = f"batch {record['batch']}" if record["batch"] > 1 else "one trajectory"
    return f"{record['case']} {record['dtype']}: {batch}, {how}"


# ---- Tables -------------------------------------------------------------------------------------


def summary_rows(record: Record) -> list[dict[str, Any]]:
    """One row for each thing that is timed, and for each target."""
    rows: list[dict[str, Any]] = []
    tasks = [(what, OURS, what, "") for what in record["what"]]
    if record["memory"]:
        tasks.append(("gradient within budget", BUDGET, "gradient", record["budget_rivals"]))
    for label, who, what, word in tasks:
        ours = record["peers"].get(who, {}).get(what, {})
        others = {n: r for n, r in rivals(record, what).items() if word in n}
        if "median" not in ours or not others:
            continue
        same = {n: ratio(r, ours) for n, r in others.items()}
        fastest = min(same, key=same.__getitem__)
        exact = {
            n: ratio(r, r["ours as exact"]) if "rounds" in r.get("ours as exact", {}) else same[n]
            for n, r in others.items()
        }
        hardest = min(exact, key=exact.__getitem__)
        row = {
            "task": label, "ours": ours["median"], "fastest": fastest,
            "theirs": others[fastest]["median"], "same": same[fastest],
            "least": least(others.values(), ours), "exact": exact[hardest], "hardest": hardest,
            "reach": record["reach"].get(label),
        }  # fmt: skip
        rows.append(row)
        if label == "train":
            first = {n: r["first"]["seconds"] for n, r in others.items()}
            quickest = min(first, key=first.__getitem__)
            mine = ours["first"]["seconds"]
            times = first[quickest] / mine
            rows.append({
                "task": "train, first call", "ours": mine, "fastest": quickest,
                "theirs": first[quickest], "same": times, "least": None, "exact": times,
                "hardest": quickest, "reach": record["reach"].get("train first"),
            })  # fmt: skip
    return rows + goal_rows(record)


def goal_name(record: Record) -> str:
    return f"gradient to {record['gradient_goal']:.0%}"


def goal_rows(record: Record) -> list[dict[str, Any]]:
    """Each library's gradient at the loosest tolerance at which it is as exact as asked."""
    found = {n: p["gradient"]["to goal"] for n, p in record["peers"].items()
             if "to goal" in p.get("gradient", {})}  # fmt: skip
    ours = found.get(OURS)
    times = {n: ratio(r, ours) for n, r in found.items() if ours and not n.startswith(OURS)}
    if ours is None or not times:
        return []
    fastest = min(times, key=times.__getitem__)
    return [{
        "task": goal_name(record), "ours": ours["median"], "fastest": fastest,
        "theirs": found[fastest]["median"], "same": times[fastest],
        "least": least([found[n] for n in times], ours), "exact": times[fastest],
        "hardest": fastest, "reach": record["reach"].get("gradient to goal"),
    }]  # fmt: skip


def goal_table(record: Record) -> list[str]:
    if not record.get("gradient_goal"):
        return []
    label, peers = goal_name(record), record["peers"]
    found = {n: p.get("gradient", {}).get("to goal") for n, p in peers.items()}
    order = sorted((n for n in found if found[n]), key=lambda n: found[n]["median"])
    lines = [f"| {label} | at rtol | median | least | error |", "|---|---|---|---|---|"]
    for name in order:
        r = found[name]
        lines.append(
            f"| {name} | {r['rtol']:.1e} | {duration(r['median'])} | {duration(r['min'])} "
            f"| {r['error']:.1e} |"
        )
    missing = {n: p["failed"][label] for n, p in peers.items() if label in p["failed"]}
    return [*lines, "", *(f"- {n}: {reason}" for n, reason in missing.items()), ""]


def summary_table(records: list[Record]) -> list[str]:
    lines = [
        "| case | | nodecore | fastest other | ratio | of least times | where as exact | of "
        "| to reach |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        for row in summary_rows(record):
            reach = "" if row["reach"] is None else f"{row['reach']:g}"
            if reach:
                reach += ", reached" if row["exact"] >= row["reach"] else ", not reached"
            lines.append(
                f"| {record['case']} {record['dtype']} | {row['task']} | {duration(row['ours'])} "
                f"| {duration(row['theirs'])}, {row['fastest']} | {row['same']:.2g} "
                f"| {'' if row['least'] is None else format(row['least'], '.2g')} "
                f"| {row['exact']:.2g} | {row['hardest']} | {reach} |"
            )
    return lines


def cells(entry: Record) -> list[str]:
    """First call, growth, median, least, error; then ours as exact."""
    if "first" not in entry:
        return ["-"] * 6
    first = entry["first"]
    cell = [duration(first["seconds"]), size(first["growth"])]
    cell += [duration(entry[k]) if k in entry else "-" for k in ("median", "min")]
    error = f"{first['error']:.1e}"
    cell.append(error + (f" ({first['worst']:.1e})" if "worst" in first else ""))
    exact = entry.get("ours as exact", {})
    if "median" in exact:
        mark = "" if exact["error"] <= first["error"] else " !"
        cell.append(f"{duration(exact['median'])} at {exact['rtol']:.1e}{mark}")
    else:
        cell.append("")
    return cell


def case_table(record: Record) -> list[str]:
    lines = [f"## {title(record)}", ""]
    for what in record["what"]:
        lines += [
            f"| {what} | steps | first call | memory | median | least | error | ours as exact |",
            "|---|---|---|---|---|---|---|---|",
        ]
        peers = record["peers"]
        order = sorted(peers, key=lambda n: peers[n].get(what, {}).get("median", float("inf")))
        for name in order:
            p = peers[name]
            if what in p:
                steps = "each its own" if p["per_sample"] else "joint"
                if not record["rtol"]:
                    steps = "fixed"
                lines.append(f"| {name} | {steps} | {' | '.join(cells(p[what]))} |")
        lines.append("")
        for name in order:
            reason = peers[name]["failed"].get(what) or peers[name]["failed"].get("start")
            if reason:
                lines.append(f"- {name} failed: {reason}")
        if lines[-1]:
            lines.append("")
    return lines + goal_table(record) + curve_lines(record)


def curve(record: Record, peer: str, what: str) -> list[tuple[float, float]]:
    """(error, seconds), the best seconds for at most that error, errors descending."""
    rows = [r for r in record["curves"] if r["peer"] == peer and r["what"] == what]
    return sorted(((r["error"], r["median"]) for r in rows), reverse=True)


def time_at(points: list[tuple[float, float]], error: float) -> float | None:
    """Seconds for this error, on straight lines between the points in logarithms."""
    from math import exp, log

    for (e1, s1), (e2, s2) in zip(points, points[1:], strict=False):
        if e1 >= error >= e2 > 0:
            w = 0.0 if e1 == e2 else log(e1 / error) / log(e1 / e2)
            return exp((1 - w) * log(s1) + w * log(s2))
    return None


def curve_lines(record: Record) -> list[str]:
    """Along the curves: the least ratio to the best other library."""
    lines = []
    for what in record["what"]:
        ours = curve(record, OURS, what)
        others = {r["peer"] for r in record["curves"] if not r["peer"].startswith(OURS)}
        found = []
        for e in sorted({x for n in (OURS, *others) for x, _ in curve(record, n, what)}):
            mine = time_at(ours, e)
            times = {n: s for n in others if (s := time_at(curve(record, n, what), e))}
            if mine and times:
                best = min(times, key=times.__getitem__)
                found.append((times[best] / mine, e, best))
        if found:
            least, most = min(found), max(found)
            lines.append(
                f"- work-precision, {what}: {least[0]:.2g} times as fast as {least[2]} at an error "
                f"of {least[1]:.1e}, where the lead is least; {most[0]:.2g} times at {most[1]:.1e}."
            )
    return [*lines, ""] if lines else []


def machines(records: list[Record]) -> list[str]:
    lines = []
    for text in dict.fromkeys(machine_line(r["machine"]) for r in records):
        which = [f"{r['case']} {r['dtype']}" for r in records if machine_line(r["machine"]) == text]
        lines += [f"{text} Measured: {', '.join(which)}.", ""]
    return lines


def machine_line(m: Record) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    nodecore = " ".join(m["nodecore"].split())
    warning = "**A quick run: these numbers mean nothing.** " if m["quick"] else ""
    return (
        f"{warning}{m['date']}; {m['cpu']}, {m['cpus']} CPUs, {m['threads']} threads each; "
        f"{m['system']}; Python {m['python']}; {nodecore}; {versions}."
    )


# ---- Pictures -----------------------------------------------------------------------------------


def colours(records: list[Record]) -> dict[str, Any]:
    import matplotlib.pyplot as plt

    names = sorted({n for r in records for n in r["peers"] if not n.startswith(OURS)})
    table = plt.get_cmap("tab20")
    chosen = {n: table(k % 20) for k, n in enumerate(names)}
    ours = {n for r in records for n in r["peers"] if n.startswith(OURS)}
    return chosen | {n: "grey" if n not in (OURS, BUDGET) else "black" for n in ours}


def draw_ratios(records: list[Record], path: Path) -> None:
    """Times of all libraries in units of nodecore's."""
    import matplotlib.pyplot as plt

    rows = [(r, what) for r in records for what in r["what"] if rivals(r, what)]
    if not rows:
        return
    colour = colours(records)
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.32 * len(rows)), layout="constrained")
    seen = set()
    for k, (record, what) in enumerate(rows):
        ours = record["peers"].get(OURS, {}).get(what, {})
        if "median" not in ours:
            continue
        for name, entry in rivals(record, what).items():
            marker = "o" if record["peers"][name]["per_sample"] else "s"
            label = None if name in seen else name
            seen.add(name)
            axes.plot(ratio(entry, ours), -k, marker, color=colour[name], ms=6, label=label)
        reach = record["reach"].get(what)
        if reach:
            axes.plot(reach, -k, "|", color="black", ms=13)
    axes.axvline(1, color="black", lw=1)
    axes.set_xscale("log")
    axes.set_yticks([-k for k in range(len(rows))])
    axes.set_yticklabels([f"{r['case']} {r['dtype']}, {what}" for r, what in rows])
    axes.set_xlabel("time / time of nodecore at the same tolerance (bars: to reach)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_curves(record: Record, path: Path) -> None:
    """Time against error, for the solution and the gradient."""
    import matplotlib.pyplot as plt

    colour = colours([record])
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for panel, what in zip(panels, record["what"], strict=False):
        for name in record["peers"]:
            points = curve(record, name, what)
            if not points:
                continue
            e, s = zip(*points, strict=True)
            ours = name == OURS
            style = "o-" if record["peers"][name]["per_sample"] else "s--"
            panel.loglog(e, s, style, color=colour[name], lw=2.2 if ours else 1.2, ms=4, label=name)
        panel.invert_xaxis()
        panel.set(xlabel=f"relative error of the {'solution' if what == 'forward' else what}",
                  ylabel="seconds", title=what)  # fmt: skip
        panel.grid(alpha=0.3)
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{title(record).split(':')[0]} (joint steps: dashed)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write(records: list[Record], out: Path) -> None:
    """peers.md and the pictures into `out`."""
    import matplotlib

    matplotlib.use("Agg")
    lines = ["# nodecore and other libraries", ""]
    lines += [
        "Made by `python bench/peers.py`; how to read it: [docs/benchmarks.md]"
        "(../../docs/benchmarks.md). Ratios above 1: nodecore is faster.", "",
    ]  # fmt: skip
    lines += [*machines(records), *summary_table(records), ""]
    draw_ratios(records, out / "ratios.png")
    lines += ["![times in units of nodecore's](ratios.png)", ""]
    for record in records:
        lines += case_table(record)
        if record["curves"]:
            name = f"curve-{record['case']}-{record['dtype']}.png"
            draw_curves(record, out / name)
            lines += [f"![time against error]({name})", ""]
    (out / "peers.md").write_text("\n".join(lines).rstrip() + "\n")


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results"
    write(json.loads((out / "peers.json").read_text())["records"], out)


if __name__ == "__main__":
    main()
