"""Plans: a field's programs bound to a method, an element type and an instruction set, cached.

The only module that touches the compiled core. A field that was wrapped by ``nc.field`` is found by
the signature of what it is given; a plain function is traced, and its programs are found by the
content of the trace, so they are never stale. One file, because it is the one door to the core.
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from nodecore import _kernels, tree
from nodecore._field import Field, Linear, Opaque, Split
from nodecore.events import Event
from nodecore.ir.arity import event_arguments, field_arguments
from nodecore.ir.autodiff import jvp, vjp
from nodecore.ir.emit import emit
from nodecore.ir.graph import PARAMS, Graph, Node, reachable
from nodecore.ir.lower import Lowered, PartOf, lower
from nodecore.ir.program import Operand, Program, Space
from nodecore.ir.trace import (
    Spec,
    Trace,
    graph_key,
    trace_event,
    trace_field,
    trace_function,
    trace_scalar,
)
from nodecore.ir.variational import TRANSFORMS
from nodecore.methods import Composition, Solver
from nodecore.status import InputError, TraceError

Run = _kernels.Run
Fields = _kernels.Fields

V = TypeVar("V")


class Cache(Generic[V]):
    """The most recently used values; safe under threads, since a value may be made twice."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value for ``key``, made if it is not there."""
        try:
            value = self.values[key]
            self.values.move_to_end(key)
        except KeyError:
            value = self.values[key] = make()
            while len(self.values) > self.size:
                try:
                    self.values.popitem(last=False)
                except KeyError:  # another thread was faster
                    break
        return value


_lowered: Cache[tuple[Lowered, Trace]] = Cache(256)
_fields: Cache[Any] = Cache(256)


# ---- The machine ---------------------------------------------------------------------------------

_isa: str | None = None


def isa() -> str:
    """The instruction set in use: the best available one, or NODECORE_ISA."""
    global _isa
    if _isa is None:
        available = _kernels.isas_available()
        wanted = os.environ.get("NODECORE_ISA", "").strip().lower()
        if wanted and wanted not in available:
            raise InputError(
                f"NODECORE_ISA={wanted!r} is not available on this machine: there are "
                f"{', '.join(available)}"
            )
        _isa = wanted or available[0]
    return _isa


_serial = False


def _after_fork() -> None:
    # An OpenMP runtime that had threads before fork hangs in the child.
    global _serial
    _serial = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _cpu_quota() -> int:
    """CPUs that the container grants (cgroup v2, v1), or a large number."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as f:
            quota, period = f.read().split()
        if quota != "max":
            return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as f:
                quota_us = int(f.read())
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as f:
                period_us = int(f.read())
            if quota_us > 0:
                return max(1, round(quota_us / period_us))
        except (OSError, ValueError):
            pass
    return 1 << 16


_default_threads: int | None = None


def thread_count(threads: int | None = None) -> int:
    """Threads of a solve: the argument, NODECORE_NUM_THREADS, or what OpenMP and the cgroup say."""
    global _default_threads
    if _serial:
        return 1
    if threads is None:
        if _default_threads is None:
            text = os.environ.get("NODECORE_NUM_THREADS", "").strip()
            if text:
                if not text.isdigit() or int(text) < 1:
                    raise InputError(
                        f"NODECORE_NUM_THREADS must be a positive integer, not {text!r}"
                    )
                _default_threads = int(text)
            else:
                _default_threads = min(_kernels.openmp()[1], _cpu_quota())
        return _default_threads
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1:
        raise InputError(f"threads must be a positive integer, not {threads!r}")
    return int(threads)


def show_config() -> dict[str, Any]:
    """What this build of nodecore uses on this machine.

    Returns
    -------
    dict
        ``version``; ``isa`` in use, ``isa_available``, ``isa_compiled``; ``openmp`` (bool);
        ``threads``; ``numpy`` and ``python`` versions.

    Examples
    --------
    >>> import nodecore as nc
    >>> sorted(nc.show_config())
    ['isa', 'isa_available', 'isa_compiled', 'numpy', 'openmp', 'python', 'threads', 'version']
    """
    from nodecore import __version__

    return {
        "version": __version__,
        "isa": isa(),
        "isa_available": _kernels.isas_available(),
        "isa_compiled": _kernels.ISAS,
        "openmp": _kernels.openmp()[0],
        "threads": thread_count(),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


# ---- Fields --------------------------------------------------------------------------------------


def is_pure(fun: Any) -> bool:
    """Whether what was found for a signature stays true."""
    return isinstance(fun, Field | Frozen) or (isinstance(fun, Split) and fun.pure)


def fields_for(
    fun: Any,
    y_spec: Spec,
    params_spec: Spec,
    args_spec: Spec,
    method: Solver,
    dtype: Any,
    adjoint: bool,
    example: Callable[[], tuple[Any, ...]],
    *,
    transform: str = "",
    events: tuple[Event, ...] = (),
) -> Any:
    """The compiled fields of a traceable function, with its events.

    ``example`` gives the first sample's (t, y, params, args), with which a program is compared with
    the function itself when it is seen for the first time. ``transform`` names another field that
    is made of it (`ir.variational`): "tangent", "gauss", "interpolating", "backsolve". Those have
    no events.
    """

    def bound() -> Any:
        specs = (y_spec, params_spec, args_spec)
        lowered = _lower(fun, *specs, adjoint, example, transform, _linearise(method), events)
        return _bind(lowered, method, dtype)

    if isinstance(fun, Frozen) or (is_pure(fun) and pure(events)):
        key = (y_spec, params_spec, args_spec, method, dtype, adjoint, transform, events)
        found = fun.plans.get(key)
        if found is None:
            found = fun.plans[key] = bound()
        return found
    return bound()


def pure(events: tuple[Event, ...]) -> bool:
    """Whether all functions of the events are promised to be pure."""
    return all(f is None or isinstance(f, Field) for e in events for f in (e.g, e.reset))


# What a family's methods need of the field's derivatives, besides its adjoint; see `lower`.
_LINEARISE = {
    "explicit": "",
    "dirk": "first",
    "radau": "first",
    "rosenbrock": "second",
    "auto": "first",
}


def _linearise(method: Solver) -> Any:
    """For a field its need, for a sum those of its parts; "expm" needs the matrix alone."""
    if isinstance(method, Composition):
        return tuple([_LINEARISE.get(m.family, m.family) for m in method.of_parts])
    return ("first", "") if method.family == "imex" else _LINEARISE[method.family]


def _bind(lowered: Lowered, method: Solver | None, dtype: Any) -> Any:
    key = (lowered, method, np.dtype(dtype).itemsize, isa())
    return _fields.get(key, lambda: Fields(lowered, method, dtype, isa()))


class Frozen:
    """A function (or a sum of them) as it was when it was solved: later changes of what it captured
    do not reach the solution's replays, tangents and gradients."""

    def __init__(self, fun: Callable[..., Any], trace: Trace) -> None:
        self.fun, self.trace, self.verified = fun, trace, False
        self.plans: dict[Any, Any] = {}  # by signature, as of a Field

    def again(self) -> Trace:
        """The trace, in a graph of its own."""
        return _copied(self.trace, Graph())


def _copied(old: Trace, g: Graph) -> Trace:
    """The trace in another graph."""

    def same(v: Node) -> Node:
        return g.input(v.attrs[0], v.attrs[1], v.n, v.rate, v.wild)

    inputs = {"t": same(old.t), "y": same(old.y)}
    slow = {"params": [same(v) for v in old.params], "args": [same(v) for v in old.args]}
    return old.with_outs(g.substitute(old.outs, {}), graph=g, **inputs, **slow)


@dataclass(frozen=True)
class SumTrace(Trace):
    """A sum of fields in one graph: the terms, and the matrix A of those that are A y."""

    terms: tuple[Node, ...] = ()
    matrices: tuple[Node | None, ...] = ()

    @property
    def outs(self) -> list[Node]:
        return [self.out, *self.terms, *(m for m in self.matrices if m is not None)]

    def with_outs(self, outs: Sequence[Node], **changes: Any) -> SumTrace:
        """As of a `Trace`."""
        n = len(self.terms)
        placed = iter(outs[1 + n :])
        matrices = tuple([None if m is None else next(placed) for m in self.matrices])
        terms = tuple(outs[1 : 1 + n])
        return replace(self, out=outs[0], terms=terms, matrices=matrices, **changes)

    def parts(self, linearise: tuple[str, ...]) -> list[PartOf]:
        """What `lower` is to make of each term."""
        return [
            PartOf(None, "", matrix) if need == "expm" else PartOf(term, need)
            for term, matrix, need in zip(self.terms, self.matrices, linearise, strict=True)
        ]


def freeze(
    fun: Callable[..., Any],
    y_spec: Spec,
    params_spec: Spec,
    args_spec: Spec,
    events: tuple[Event, ...],
) -> Frozen:
    """Trace a plain function and its events once and for all."""
    return Frozen(fun, _trace(fun, y_spec, params_spec, args_spec, events))


def _trace(
    fun: Any,
    y_spec: Spec,
    params_spec: Spec,
    args_spec: Spec,
    events: tuple[Event, ...],
) -> Trace:
    if isinstance(fun, Split):
        return _trace_sum(fun, y_spec, params_spec, args_spec)
    others = _functions_of(events)
    trace = trace_field(_function(fun), y_spec, params_spec, args_spec, others=others)
    for e in events:
        reset = None if e.reset is None else _function(e.reset)
        trace = trace_event(trace, _function(e.g), reset, y_spec, params_spec, args_spec)
    return trace


def _function(fun: Callable[..., Any]) -> Callable[..., Any]:
    return fun.fun if isinstance(fun, Field) else fun


def _functions_of(events: tuple[Event, ...]) -> list[Callable[..., Any]]:
    return [_function(f) for e in events for f in (e.g, e.reset) if f is not None]


def _trace_sum(fun: Split, y_spec: Spec, params_spec: Spec, args_spec: Spec) -> SumTrace:
    g = Graph()
    traces = [_copied(trace_field(part, y_spec, params_spec, args_spec), g) for part in fun.parts]
    first = traces[0]
    matrices: list[Node | None] = []
    for part in fun.parts:
        matrices.append(_matrix(part, g, params_spec) if isinstance(part, Linear) else None)
    out = first.out
    for other in traces[1:]:
        out = g.ew("add", out, other.out)
    terms = tuple([t.out for t in traces])
    return SumTrace(
        g, out, first.t, first.y, first.params, first.args, terms=terms, matrices=tuple(matrices)
    )


def _matrix(part: Linear, g: Graph, params_spec: Spec) -> Node:
    """A as a node: a function of params alone."""
    if not callable(part.A):
        return g.const(part.A)
    found = trace_function(
        part.A, [("params", params_spec, PARAMS)], what=f"matrix {part.__name__}"
    )
    return g.substitute(found.outs, {})[0]


def _lower(
    fun: Callable[..., Any] | Frozen,
    y_spec: Spec,
    params_spec: Spec,
    args_spec: Spec,
    adjoint: bool,
    example: Callable[[], tuple[Any, ...]],
    transform: str,
    linearise: Any,
    events: tuple[Event, ...],
) -> Lowered:
    if isinstance(fun, Frozen):
        plain = fun.again() if fun.verified else fun.trace
        if not events:
            plain = plain.without_events()
    else:
        plain = _trace(fun, y_spec, params_spec, args_spec, events)
    trace, curve = TRANSFORMS[transform](plain) if transform else (plain, None)
    parts = trace.parts(linearise) if isinstance(trace, SumTrace) else ()
    sizes = tuple([(v.n) for v in (*trace.params, *trace.args, trace.y)])
    resets = tuple([r is not None for r in trace.resets])
    content = (graph_key(trace.outs), sizes, len(trace.params), resets)
    key = (*content, adjoint, transform, linearise)

    def make() -> tuple[Lowered, Trace]:
        out = lower(
            trace.graph, trace.out, trace.t, trace.y, trace.params, trace.args,
            adjoint=adjoint, linearise="" if parts else linearise, curve=curve, parts=parts,
            events=trace.events, resets=trace.resets,
        )  # fmt: skip
        if not isinstance(fun, Frozen):
            _verify(_function(fun), plain, y_spec, example(), events)
        elif not fun.verified:
            _verify(_function(fun.fun), plain, y_spec, example(), events)
        return out, trace

    lowered = _lowered.get(key, make)[0]
    if isinstance(fun, Frozen):
        fun.verified = True
    return lowered


def _verify(
    fun: Callable[..., Any],
    trace: Trace,
    y_spec: Spec,
    example: tuple[Any, ...],
    events: tuple[Event, ...],
) -> None:
    """Compare the trace with the functions themselves, at the first sample's initial state."""
    from nodecore.ir.numpy_eval import evaluate

    t, y, params, args = example
    env: dict[Node, Any] = {trace.t: t}
    env[trace.y] = np.concatenate([np.reshape(x, -1) for x in tree.flatten(y)[0]])
    env.update(zip(trace.params, tree.flatten(params)[0], strict=True))
    env.update(zip(trace.args, tree.flatten(args)[0], strict=True))

    def compare(fun: Callable[..., Any], out: Node, what: str, treedef: Any, count: int) -> None:
        try:
            with np.errstate(all="ignore"):
                result = fun(*example[:count])
            leaves = tree.flatten(result)[0] if treedef != tree.LEAF else [result]
            direct = np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in leaves])
        except Exception:
            return  # a function that only tracers can run has nothing to compare with
        traced = evaluate([out], env)[0]
        scale = np.abs(direct[np.isfinite(direct)]).max(initial=0)
        if direct.shape == traced.shape and np.allclose(
            direct, traced, rtol=1e-6, atol=1e-9 * scale, equal_nan=True
        ):
            return
        name = getattr(fun, "__name__", what)
        raise TraceError(
            f"the traced {what} {name} gives {traced[:4]} at t = {t}, but the function itself "
            f"gives {direct[:4]}: it must depend on its arguments alone (no random numbers, no "
            "counters, no branches on values)"
            + (". Use nc.opaque for a field that cannot be traced" if what == "field" else "")
        )

    given = (params is not None, args is not None)
    compare(
        fun,
        trace.out,
        "field",
        y_spec.treedef,
        field_arguments(fun, *given, "field", _functions_of(events)),
    )
    for e, out, behind in zip(events, trace.events, trace.resets, strict=True):
        g = _function(e.g)
        compare(g, out, "event", tree.LEAF, event_arguments(g, *given, "event"))
        if e.reset is not None and behind is not None:
            reset = _function(e.reset)
            compare(reset, behind, "reset", y_spec.treedef, event_arguments(reset, *given, "reset"))


def opaque_fields(fun: Opaque, method: Solver, dtype: Any, dim: int, n_args: int) -> Any:
    """Fields whose evaluation is a callback."""
    key = ("opaque", method, np.dtype(dtype).itemsize, dim, n_args, isa())
    return _fields.get(key, lambda: Fields(None, method, dtype, isa(), dim, n_args))


def params_bar(fields: Any, uniform: Any, acc: Any) -> tuple[Any, bool]:
    """The cotangents of all params (flat, float64) from the chunks' gradient accumulators, and
    whether they are finite.

    Everything that depends on params alone is pulled back once, in float64.
    """
    if fields.dtype == np.float64:
        out: tuple[Any, bool] = fields.params_bar(uniform, acc)
        return out
    wide = _bind(fields.lowered, None, np.float64)
    leaves = [uniform[fields.params_off : fields.params_off + fields.n_params].astype(np.float64)]
    out = wide.params_bar(wide.uniform(leaves), acc)
    return out


times_ok = _kernels.times_ok

# Points that a program is evaluated for at once.
_POINTS = 4096


def pull_points(fields: Any, uniform: Any, s: Any, t: Any, y: Any, ct: Any) -> tuple[Any, Any, Any]:
    """The pullback of the field at many points, each with its own cotangent.

    ``s`` (n, n_sample), ``t`` (n,), ``y`` and ``ct`` (n, D). Returns the gradient accumulator
    summed over the points (1, acc_size), the cotangents of s (n, n_sample), and the field's values
    (n, D).
    """
    adjoint = fields.lowered.adjoint
    n = len(t)
    acc = np.zeros((1, adjoint.acc_size))
    s_bar = np.zeros((n, fields.lowered.n_sample))
    values = np.zeros((n, fields.dim), fields.dtype)
    for lo in range(0, n, _POINTS):
        m = min(_POINTS, n - lo)
        L = -(-m // 16) * 16
        here = slice(lo, lo + m)

        def lanes(rows: int, given: Any = None, m: int = m, L: int = L) -> Any:
            out = np.zeros((rows + 1, L), fields.dtype)
            if given is not None:
                out[:rows, :m] = given.T
                out[:rows, m:] = given[:1].T  # a finite state, with a zero cotangent
            return out

        spaces = {
            Space.U: uniform,
            Space.S: lanes(fields.lowered.n_sample, s[here]),
            Space.T: lanes(1, t[here, None]),
            Space.Y: lanes(fields.dim, y[here]),
            Space.OUT: lanes(fields.dim),
            Space.RES: lanes(fields.lowered.res_rows),
            Space.CT: lanes(fields.dim, ct[here]),
            Space.YBAR: lanes(fields.dim),
            Space.TBAR: lanes(1),
            Space.SBAR: lanes(fields.lowered.n_sample),
        }
        spaces[Space.CT][:, m:] = 0
        numbered = {int(k): v for k, v in spaces.items()}
        p = fields.lowered.field_keep
        _kernels.run_program(p.packed, p.ipool, p.rf_rows, numbered, L, fields.isa)
        p = adjoint.reverse
        _kernels.run_program(p.packed, p.ipool, p.rf_rows, numbered, L, fields.isa, acc[0])
        s_bar[here] = spaces[Space.SBAR][: s_bar.shape[1], :m].T
        values[here] = spaces[Space.OUT][: fields.dim, :m].T
    return acc, s_bar, values


def pull_samples(fields: Any, uniform: Any, args: Any, s_bar: Any, acc: Any) -> Any:
    """The cotangents of args (B, n_args) from those of what depends on them; adds to ``acc``."""
    p = fields.lowered.adjoint.sample_reverse
    B, n_args = args.shape
    L = -(-B // 16) * 16

    def lanes(rows: int, given: Any = None) -> Any:
        out = np.zeros((rows + 1, L), fields.dtype)
        if given is not None:
            out[:rows, :B] = given.T
            out[:rows, B:] = given[:1].T
        return out

    ct = lanes(s_bar.shape[1], s_bar)
    ct[:, B:] = 0
    spaces = {
        Space.U: uniform,
        Space.ARGS: lanes(n_args, args),
        Space.CT: ct,
        Space.OUT: lanes(n_args),
    }
    numbered = {int(k): v for k, v in spaces.items()}
    _kernels.run_program(p.packed, p.ipool, p.rf_rows, numbered, L, fields.isa, acc[0])
    return spaces[Space.OUT][:n_args, :B].T


# ---- Functions that are evaluated once, such as losses -------------------------------------------


_Y, _U, _OUT = int(Space.Y), int(Space.U), int(Space.OUT)


class Function:
    """A graph with one value and its gradient, as one program; evaluated in float64."""

    def __init__(self, graph: Graph, value: Node, inputs: list[Node], wrt: list[Node]) -> None:
        one = graph.const(1.0)
        bars = vjp(graph, [value], [one], wrt)
        outs = [
            value,
            *[graph.zeros(w.n) if b is None else b for w, b in zip(wrt, bars, strict=True)],
        ]
        given: dict[Node, Operand] = {}
        self.n_inputs = 0
        for v in inputs:
            given[v] = Operand(Space.Y, self.n_inputs)
            self.n_inputs += v.n
        consts = []
        n_consts = 0
        for v in reachable(outs):
            if v.op == "const":
                given[v] = Operand(Space.U, n_consts)
                consts.append(v.data)
                n_consts += v.n
        self.consts = np.concatenate([*consts, np.zeros(64)])
        results = []
        self.n_outs = 0
        for v in outs:
            results.append((v, Operand(Space.OUT, self.n_outs)))
            self.n_outs += v.n
        self.program: Program = emit("function", results, given, uniform_lanes=True)

    def __call__(self, *parts: Any) -> Any:
        """The value, then the gradient, for all inputs one after the other; ``parts``: vectors."""
        given = np.zeros((self.n_inputs + 64, 1))
        np.concatenate(parts, out=given[: self.n_inputs, 0])
        out = np.empty((self.n_outs + 64, 1))
        spaces = {_Y: given, _U: self.consts, _OUT: out}
        p = self.program
        _kernels.run_program(p.packed, p.ipool, p.rf_rows, spaces, 1, isa())
        return out[: self.n_outs, 0]


_functions: Cache[Function] = Cache(128)
_pure: WeakKeyDictionary[Any, dict[Any, Function]] = WeakKeyDictionary()


def scalar_function(
    fun: Any, inputs: list[Any], n_wrt: int, *, directional: bool = False
) -> Function:
    """The compiled value and gradient of a function of trees (see ir.trace.trace_scalar).

    With ``directional`` the value is the derivative along a tangent of the first input, which
    follows all inputs, and the gradient is that in the first input, then that in the tangent.

    The gradient is that in the first ``n_wrt`` inputs. A function that promises to be pure (an
    ``nc.field``, or one with the attribute ``__nodecore_pure__``) is traced once a signature; any
    other is traced at each call, and found by the content of the trace.
    """
    known = key = None
    if isinstance(fun, Field) or getattr(fun, "__nodecore_pure__", False):
        key = (tuple(inputs), n_wrt, directional)
        try:
            known = _pure.setdefault(fun, {})
            found = known.get(key)
        except TypeError:  # not hashable, or not weakly referenced
            known = found = None
        if found is not None:
            return found
    trace = trace_scalar(fun.fun if isinstance(fun, Field) else fun, inputs)
    nodes = [v for group in trace.inputs for v in group]
    wrt = [v for group in trace.inputs[:n_wrt] for v in group]
    value = trace.out
    if directional:
        g = trace.graph
        tangents = [g.input("tangent", i, v.n, v.rate) for i, v in enumerate(wrt)]
        dvalue = jvp(g, [value], wrt, tangents)[0]
        value = g.const(0.0) if dvalue is None else dvalue
        nodes += tangents
        wrt += tangents
    place = {v: i for i, v in enumerate(nodes)}
    content = (
        graph_key([value]),
        tuple([v.n for v in nodes]),
        tuple([place[w] for w in wrt]),
    )
    made = _functions.get(content, lambda: Function(trace.graph, value, nodes, wrt))
    if known is not None:
        known[key] = made
    return made
