"""Imports point one way: a module imports its own layer and those below, never one above."""

import ast
from pathlib import Path

import pytest

import nodecore

ROOT = Path(nodecore.__file__).parent
LAYERS = [
    ["status", "tree", "plot"],
    [
        "_kernels",
        "ir",
        "methods",
        "control",
        "schedule",
        "events",
        "_field",
        "_inputs",
        "_failure",
        "_adjoint",
        "_record",
        "_stability",
    ],
    ["plan"],
    ["gradient"],
    ["_run", "_forward", "_curve", "_continuous"],
    ["solution"],
    ["_solve"],
    ["_batched"],
    ["_check", "_diagnose", "nn", "optim", "losses", "samples", "objective", "_fit"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def imported(path):
    """The top-level modules of nodecore that a file imports, at whatever depth in its code."""
    package = ["nodecore", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (n.split(".")[1] for n in names if n.startswith("nodecore."))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    name = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert name in RANK, f"give {name} a layer"
    for other in set(imported(path)) & RANK.keys() - {name}:
        assert RANK[other] <= RANK[name], f"{name} imports {other}, which is above it"
        if other == "_kernels":
            assert name == "plan", f"{name} imports _kernels; only plan may"
