"""Trees: there and back, what is a leaf, and what the errors say."""

import pickle
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nodecore.tree as tree
from nodecore.status import InputError

Pair = namedtuple("Pair", "first second")

arrays = st.builds(
    lambda shape, dtype, seed: np.random.default_rng(seed).normal(size=shape).astype(dtype),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 9),
)
trees = st.recursive(
    arrays | st.none(),
    lambda children: (
        st.dictionaries(st.text(max_size=3) | st.integers(), children, max_size=3)
        | st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | st.builds(Pair, children, children)
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a is b


@given(trees)
def test_there_and_back(x):
    leaves, treedef = tree.flatten(x)
    assert same(tree.unflatten(treedef, leaves), x)
    again = pickle.loads(pickle.dumps(treedef))
    assert again == treedef and hash(again) == hash(treedef)
    assert same(tree.unflatten(again, leaves), x)
    assert len(tree.paths(treedef)) == len(leaves) == len(set(tree.paths(treedef)))


@given(trees)
def test_ravel_there_and_back(x):
    vector, unravel = tree.ravel(x)
    assert vector.dtype in (np.float32, np.float64)
    assert vector.size == sum(leaf.size for leaf in tree.flatten(x)[0])
    assert same(unravel(vector), x)


@given(trees)
def test_paths_are_python(x):
    leaves, treedef = tree.flatten(x)
    for path, leaf in zip(tree.paths(treedef, "x"), leaves, strict=True):
        assert eval(path, {"x": x}) is leaf


def test_a_dict_is_the_same_tree_however_it_was_filled():
    a, b = {"x": 1.0, "y": 2.0}, {"y": 2.0, "x": 1.0}
    assert tree.flatten(a) == tree.flatten(b)
    assert tree.flatten({1: 0.0, "a": 1.0}) == tree.flatten({"a": 1.0, 1: 0.0})


def test_structures_that_differ_have_different_treedefs():
    x = np.ones(2)
    different = [x, None, {"a": x}, {"b": x}, [x], (x,), Pair(x, x), (x, x), [x, x], [[x], x]]
    assert len({tree.flatten(t)[1] for t in different}) == len(different)


def test_lists_of_numbers_are_arrays_and_tuples_are_not():
    leaves, treedef = tree.flatten([1, 2.5])
    assert treedef == tree.LEAF and np.array_equal(leaves[0], [1, 2.5])
    assert tree.flatten([[1, 2], [3, 4]])[0][0].shape == (2, 2)
    assert tree.flatten([np.float64(1), True])[0][0].shape == (2,)
    assert tree.flatten((1.0, 2.0))[0] == [1.0, 2.0]
    assert len(tree.flatten([1.0, np.ones(2)])[0]) == 2
    assert len(tree.flatten([[1, 2], np.ones(2)])[0]) == 2


def test_errors_say_what_is_wrong():
    with pytest.raises(InputError, match=r"rows of this one differ in length: \[\[1, 2\], \[3\]\]"):
        tree.flatten({"y": [[1, 2], [3]]})
    loop = {}
    loop["self"] = loop
    with pytest.raises(InputError, match="contains itself"):
        tree.flatten(loop)
    _, treedef = tree.flatten({"a": 1.0, "b": 2.0})
    with pytest.raises(InputError, match="needs more leaves than the 1"):
        tree.unflatten(treedef, [1.0])
    with pytest.raises(InputError, match="fewer leaves than the 3"):
        tree.unflatten(treedef, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match=r"differ in structure.*\['b'\]"):
        tree.map(np.add, {"a": 1.0}, {"b": 1.0})
    with pytest.raises(InputError, match=r"tree\['z'\] is not a real array.*complex128"):
        tree.ravel({"z": np.zeros(2, complex)})
    _, unravel = tree.ravel({"a": np.ones(2)})
    with pytest.raises(InputError, match=r"shape \(2,\), not \(3,\)"):
        unravel(np.ones(3))


def test_ravel_widens_and_gives_back_each_leafs_dtype():
    x = {"single": np.ones(2, np.float32), "double": np.ones(1), "count": np.array([1, 2])}
    vector, unravel = tree.ravel(x)
    assert vector.dtype == np.float64
    back = unravel(vector)
    assert back["single"].dtype == np.float32
    assert back["double"].dtype == back["count"].dtype == np.float64
    assert tree.ravel({"single": x["single"]})[0].dtype == np.float32
    assert tree.ravel({})[0].shape == (0,)
