"""The examples in the docstrings of the installed package."""

import doctest
import importlib
import pkgutil

import pytest

import nodecore

NAMES = ["nodecore"] + [
    info.name
    for info in pkgutil.walk_packages(nodecore.__path__, "nodecore.")
    if not info.name.startswith("nodecore._kernels")
]


@pytest.mark.parametrize("name", NAMES)
def test_docstrings(name):
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags).failed == 0
