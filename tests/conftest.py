"""What this run covers: the instruction sets that this machine has, and those it has not."""

import nodecore as nc


def pytest_report_header() -> list[str]:
    config = nc.show_config()
    compiled, available = config["isa_compiled"], config["isa_available"]
    skipped = [isa for isa in compiled if isa not in available]
    return [
        f"nodecore {config['version']}, NumPy {config['numpy']}, {config['threads']} threads"
        + ("" if config["openmp"] else " (no OpenMP)"),
        f"instruction sets: {', '.join(available)} covered, by default {config['isa']}"
        + (f"; compiled but skipped, not on this machine: {', '.join(skipped)}" if skipped else ""),
    ]
