"""The tile virtual machine: every instruction against NumPy, and one sample's bits in any tile."""

import itertools

import numpy as np
import pytest

from nodecore._kernels import isas_available, run_program
from nodecore.ir.ops import OPCODE

LANE, ROW, UNI, USC, ABSENT = range(5)
KINDS = [LANE, ROW, UNI, USC]
RF, U, S, T, Y, OUT, RES = range(7)
SPACE_OF = [S, T, Y, RES]  # where operand number i stands, if it is not uniform

VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64}
DTYPES = [np.float32, np.float64]
GUARD = 3  # rows beyond the destination that nobody may touch


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def erf(x):
    from scipy.special import erf

    return erf(x)


def logical(f):
    return lambda *args: f(*args).astype(np.float64)


UNARY = {
    "copy": np.positive,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "square": np.square,
    "recip": np.reciprocal,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "arctan": np.arctan,
    "sigmoid": sigmoid,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "erf": erf,
    "floor": np.floor,
    "isnan": logical(np.isnan),
    "not": logical(np.logical_not),
}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "arctan2": np.arctan2,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "zmul": np.multiply,
    "tanhbar": lambda a, b: a * (1 - b * b),
    "lt": logical(np.less),
    "le": logical(np.less_equal),
    "eq": logical(np.equal),
    "ne": logical(np.not_equal),
    "and": logical(np.logical_and),
    "or": logical(np.logical_or),
}
TERNARY = {"select": lambda a, b, c: np.where(a != 0, b, c)}
OTHER = {"gather", "segsum", "affine", "matmul", "outer", "acc"}


def operand(kind, space=0, offset=0):
    return [space | kind << 8, offset]


def instruction(op, n, dst=None, operands=(), p=(0, 0, 0, 0), aux=0, panel=0):
    words = [OPCODE[op], n, *(dst or operand(LANE))]
    for i in range(3):
        words += operands[i] if i < len(operands) else operand(ABSENT)
    return np.array([*words, *p, aux, panel], dtype=np.int32)


def run(code, spaces, L, isa, *, ipool=(), acc=None, rf_rows=0):
    code = np.ascontiguousarray(np.atleast_2d(code), dtype=np.int32)
    run_program(code, np.array(ipool, dtype=np.int32), rf_rows, spaces, L, isa, acc)


class Tile:
    """A destination and some operands in L lanes, and the same for any one of its lanes.

    Parameters
    ----------
    operands
        One (kind, rows) an operand. Values are drawn from `draw(rows, lanes)`.
    n
        Rows of the destination.
    """

    def __init__(self, operands, n, L, dtype, draw):
        self.n, self.L, self.dtype = n, L, dtype
        uniform = [np.full(2, np.nan)]
        self.words, self.lanes = [], {}
        self.values = []  # float64, (rows, L), broadcast over the lanes but not over the rows
        for i, (kind, rows) in enumerate(operands):
            lanes = L if kind in (LANE, ROW) else 1
            value = draw(rows if kind in (LANE, UNI) else 1, lanes).astype(dtype)
            if lanes == 1 and kind in (UNI, USC):
                self.words.append(operand(kind, U, sum(map(len, uniform))))
                uniform.append(value[:, 0])
            else:
                self.words.append(operand(kind, SPACE_OF[i], 1))  # row 0 is a stranger's
                stranger = np.full((1, L), np.nan)
                self.lanes[SPACE_OF[i]] = np.concatenate([stranger, value]).astype(dtype)
            self.values.append(np.broadcast_to(value.astype(np.float64), (len(value), L)))
        self.uniform = np.concatenate(uniform).astype(dtype)

    def run(self, op, isa, lane=None, **kwargs):
        """The destination for all lanes, or for one sample alone (L = 1)."""
        L = self.L if lane is None else 1
        pick = slice(None) if lane is None else slice(lane, lane + 1)
        out = np.full((1 + self.n + GUARD, L), 777, dtype=self.dtype)
        spaces = {space: np.ascontiguousarray(x[:, pick]) for space, x in self.lanes.items()}
        spaces |= {U: self.uniform.copy(), OUT: out}
        fields = kwargs.pop("fields", {})
        code = instruction(op, self.n, operand(LANE, OUT, 1), self.words, **fields)
        run(code, spaces, L, isa, **kwargs)
        assert (out[0] == 777).all() and (out[1 + self.n :] == 777).all(), "wrote out of bounds"
        return out[1 : 1 + self.n]

    def check(self, op, isa, expected, scale, **kwargs):
        """Compare with float64 NumPy within `scale` roundings; and one lane with all lanes."""
        got = self.run(op, isa, **kwargs)
        tolerance = scale * np.finfo(self.dtype).eps
        assert (np.abs(got - expected) <= tolerance).all(), (op, np.abs(got - expected).max())
        for lane in {0, self.L - 1}:
            alone = self.run(op, isa, lane=lane, **kwargs)
            assert alone.tobytes() == np.ascontiguousarray(got[:, lane]).tobytes(), (op, lane)


def widths(isa, dtype):
    vl = VECTOR_BYTES[isa] // np.dtype(dtype).itemsize
    return [vl, 2 * vl, 3 * vl]


def normal(seed):
    rng = np.random.default_rng(seed)
    return lambda rows, lanes: rng.normal(size=(rows, lanes))


machines = pytest.mark.parametrize(
    ("isa", "dtype"),
    list(itertools.product(isas_available(), DTYPES)),
    ids=lambda x: getattr(x, "__name__", x),
)


def test_every_opcode_is_tested():
    assert set(OPCODE) == set(UNARY) | set(BINARY) | set(TERNARY) | OTHER


@machines
@pytest.mark.parametrize("op", [*UNARY, *BINARY, *TERNARY])
def test_elementwise(op, isa, dtype):
    f = {**UNARY, **BINARY, **TERNARY}[op]
    arity = 1 if op in UNARY else 2 if op in BINARY else 3
    rng = np.random.default_rng(1)

    def positive(rows, lanes):
        return rng.uniform(0.2, 2.0, size=(rows, lanes)) * rng.integers(1 if arity == 1 else 0, 2)

    draw = normal(2) if op in ("neg", "abs", "sign", "floor", "add", "sub", "mul") else positive
    for L in widths(isa, dtype)[1:]:
        for n in (1, L // 2 + 3):
            for kinds in itertools.product(KINDS, repeat=arity):
                tile = Tile([(kind, n) for kind in kinds], n, L, dtype, draw)
                with np.errstate(all="ignore"):
                    expected = np.broadcast_to(f(*tile.values), (n, L))
                if not np.isfinite(expected).all():
                    continue
                tile.check(op, isa, expected, 16 * (1 + np.abs(expected)))


@machines
def test_elementwise_in_place(isa, dtype):
    vl = widths(isa, dtype)[0]
    for L in (1, vl, 2 * vl):
        x, y = normal(3)(vl + 3, L).astype(dtype), normal(4)(1, L).astype(dtype)
        state = x.copy()
        code = [
            instruction("mul", vl + 3, operand(LANE, Y), [operand(LANE, Y), operand(LANE, Y)]),
            instruction("add", vl + 3, operand(LANE, Y), [operand(LANE, Y), operand(ROW, T)]),
            instruction("sub", vl + 3, operand(LANE, Y), [operand(ROW, T), operand(LANE, Y)]),
        ]
        run(code, {Y: state, T: y}, L, isa)
        assert (state == y - (x * x + y)).all()


@machines
def test_instructions_follow_each_other_through_the_register_file(isa, dtype):
    for L in [1, *widths(isa, dtype)]:
        x = normal(5)(4, L).astype(dtype)
        out = np.zeros((3, L), dtype=dtype)
        code = [
            instruction("square", 4, operand(LANE, RF, 2), [operand(LANE, Y)]),
            instruction("add", 3, operand(LANE, RF, 0), [operand(LANE, RF, 3), operand(LANE, Y)]),
            instruction("copy", 3, operand(LANE, OUT), [operand(LANE, RF, 0)]),
        ]
        run(code, {Y: x, OUT: out}, L, isa, rf_rows=6)
        assert (out == x[1:] ** 2 + x[:3]).all()


@machines
@pytest.mark.parametrize("kind", KINDS)
def test_gather(kind, isa, dtype):
    index = [4, 5, 6, -1, 0, 0, 2, -1, -1, 6, 3, 4]
    if kind in (ROW, USC):
        index = [min(i, 0) for i in index]
    for L in widths(isa, dtype):
        tile = Tile([(kind, 7)], len(index), L, dtype, normal(6))
        expected = [tile.values[0][i] if i >= 0 else np.zeros(L) for i in index]
        tile.check("gather", isa, np.array(expected), 0, ipool=[99, *index], fields={"aux": 1})


@machines
@pytest.mark.parametrize("kind", KINDS)
def test_segsum(kind, isa, dtype):
    rng = np.random.default_rng(7)
    for L in widths(isa, dtype):
        lengths = [3, 0, 1, 8, 9, 16, 23, 40, 2]
        pointers = np.concatenate([[0], np.cumsum(lengths)])
        index = rng.integers(0, 30 if kind in (LANE, UNI) else 1, size=pointers[-1])
        tile = Tile([(kind, 30)], len(lengths), L, dtype, normal(8))
        terms = tile.values[0][index]
        expected = [terms[i:j].sum(0) for i, j in itertools.pairwise(pointers)]
        scale = [np.abs(terms[i:j]).sum(0) * (j - i) for i, j in itertools.pairwise(pointers)]
        ipool = [99, 99, *pointers, *index]
        tile.check(
            "segsum", isa, np.array(expected), np.array(scale), ipool=ipool, fields={"aux": 2}
        )


# O, K, J, I: every block height, partial sums, remainders of every width, several o and i.
SHAPES = [
    *[(1, 5, j, 1) for j in range(1, 40)],
    *[(1, k, j, 1) for k in range(1, 10) for j in (1, 2, 3, 7, 8)],
    *[(o, 6, j, i) for o in (1, 3) for j in (1, 4, 7, 21) for i in (2, 7, 9, 17)],
    *[(o, 6, j, 1) for o in (2, 5) for j in (1, 4, 7, 9, 21)],
    (7, 3, 33, 1),
    (9, 4, 2, 1),
    (1, 130, 70, 1),
    (2, 33, 100, 3),
]


def by_shape(values, shape):
    return values.reshape(*shape, values.shape[-1])


@machines
@pytest.mark.parametrize("bias", [True, False])
def test_affine(bias, isa, dtype):
    for o, k, j, i in SHAPES:
        for L in widths(isa, dtype):
            operands = [(LANE, o * k * i), (UNI, k * j)] + [(UNI, j)] * bias
            tile = Tile(operands, o * j * i, L, dtype, normal(9))
            a, b = by_shape(tile.values[0], (o, k, i)), tile.values[1][:, 0].reshape(k, j)
            c = tile.values[2][:, 0] if bias else np.zeros(j)
            expected = np.einsum("okil,kj->ojil", a, b) + c[:, None, None]
            scale = np.einsum("okil,kj->ojil", abs(a), abs(b)) + abs(c[:, None, None])
            fields = {"p": (o, k, j, i)}
            shape = (o * j * i, L)
            tile.check(
                "affine", isa, expected.reshape(shape), k * scale.reshape(shape), fields=fields
            )


@machines
@pytest.mark.parametrize("op", ["matmul", "outer"])
def test_products_of_each_sample(op, isa, dtype):
    for o, k, j, i in SHAPES[:-2]:
        for L in widths(isa, dtype):
            b_shape = (k, j) if op == "matmul" else (o, j, i)
            d_shape = (o, j, i) if op == "matmul" else (k, j)
            einsum = "okil,kjl->ojil" if op == "matmul" else "okil,ojil->kjl"
            tile = Tile(
                [(LANE, o * k * i), (LANE, int(np.prod(b_shape)))],
                int(np.prod(d_shape)),
                L,
                dtype,
                normal(10),
            )
            a, b = by_shape(tile.values[0], (o, k, i)), by_shape(tile.values[1], b_shape)
            expected = np.einsum(einsum, a, b).reshape(-1, L)
            scale = np.einsum(einsum, abs(a), abs(b)).reshape(-1, L)
            terms = k if op == "matmul" else o * i
            tile.check(op, isa, expected, terms * scale, fields={"p": (o, k, j, i)})


def product(x, g):
    """Sum over o, i and lanes of x[o,k,i] g[o,j,i], by matmul: einsum adds one after the other."""
    x, g = (np.moveaxis(v, 1, 0).reshape(v.shape[1], -1) for v in (x, g))
    return x @ g.T


@machines
@pytest.mark.parametrize("groups", [1, 2, 17])
def test_gradient_sinks(groups, isa, dtype):
    """Several panels in one program; many groups fill a panel several times over."""
    rng = np.random.default_rng(11)
    shapes = [
        (1, 3, 2, 1),
        (1, 16, 2, 1),
        (1, 2, 30, 1),
        (1, 17, 33, 1),
        (1, 40, 9, 1),
        (3, 11, 12, 1),
        (2, 13, 14, 5),
        (2, 13, 3, 19),
        (1, 64, 50, 1),
    ]
    kinds = [(LANE, LANE)] * len(shapes) + [
        kinds for kinds in itertools.product(KINDS, KINDS) if kinds != (LANE, LANE)
    ]
    shapes += [shapes[6]] * (len(kinds) - len(shapes))
    vl = widths(isa, dtype)[0]
    for L in (1, vl, 2 * vl, 3 * vl, 40 * vl):
        if groups > 2 and L > 3 * vl:
            continue
        code, expected, scale = [], [], []
        lanes, uniform = [np.zeros((1, L))], [np.zeros(1)]
        for (few, k, j, i), (a_kind, b_kind) in zip(shapes, kinds, strict=True):
            o = few * groups
            values = []
            words = []
            for rows, kind in (((o, k, i), a_kind), ((o, j, i), b_kind)):
                full = int(np.prod(rows))
                size = full if kind in (LANE, UNI) else 1
                store = lanes if kind in (LANE, ROW) else uniform
                value = rng.normal(size=(size, L if kind in (LANE, ROW) else 1)).astype(dtype)
                words.append(operand(kind, S if store is lanes else U, sum(map(len, store))))
                store.append(value if store is lanes else value[:, 0])
                value = np.broadcast_to(value.astype(np.float64), (full, L))
                values.append(value.reshape(*rows, L))
            a, b = values
            ones = np.ones((o, 1, i, L))
            for x, word, bias in (
                (a, words[0], False), (ones, operand(ABSENT), False), (a, words[0], True),
            ):  # fmt: skip
                at = sum(map(len, expected))
                code.append(
                    instruction(
                        "acc",
                        0,
                        operand(UNI, U, at + x.shape[1] * j) if bias else operand(ABSENT),
                        operands=[word, words[1]],
                        p=(o, x.shape[1], j, i),
                        aux=at,
                        panel=len(code),
                    )
                )
                for y in (x, ones) if bias else (x,):
                    expected.append(product(y, b).ravel())
                    scale.append(product(abs(y), abs(b)).ravel())
        spaces = {
            S: np.concatenate(lanes).astype(dtype),
            U: np.concatenate(uniform).astype(dtype),
        }
        expected = np.concatenate(expected)
        acc = np.zeros(len(expected))
        run(np.array(code), spaces, L, isa, acc=acc)
        # A panel adds up to 128 columns in the element type, and its sums in float64.
        columns = max(o * i * L for o, _, _, i in shapes) * groups
        bound = 128 * np.finfo(dtype).eps + columns / 16 * np.finfo(np.float64).eps
        error = np.abs(acc - expected) / np.concatenate(scale)
        assert error.max() <= bound

        again = np.zeros(len(expected))
        run(np.array(code), spaces, L, isa, acc=again)
        assert (again == acc).all()
