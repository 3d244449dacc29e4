"""Lowering: a field's graph to the programs that a solve and its adjoint run.

The graph is cut by rate. What depends on constants and params alone is computed once a solve
(``prologue``), what depends on args too once a sample (``sample``), the rest at each stage
(``field``). The uniform space holds constants, the params' leaves and the prologue's results.

The adjoint differentiates each part apart. ``field_keep`` is ``field`` that also keeps residuals;
``reverse`` pulls a stage's cotangent back, adding what flows into faster-than-params values to the
cotangents of Y, T and S, and what flows into uniform values to the gradient accumulator;
``sample_reverse`` and ``params_reverse`` finish the work for args and params. Expensive values are
residuals, cheap ones are computed again: the same instructions, the same bits.

An implicit method needs the linearised field too. ``tangent`` pushes a direction of the state
through it, which gives the Jacobian column by column; ``time`` is the derivative in time. The
adjoint of a Rosenbrock method, whose formula holds the Jacobian, differentiates once more:
``second`` pulls a cotangent of f_y v + tau f_t back. All of them read one set of residuals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .autodiff import Sink, jvp, vjp
from .emit import SinkAt, emit, is_alias
from .graph import CONST, PARAMS, SAMPLE, STEP, FloatArray, Graph, Node, reachable
from .ops import OPS
from .program import Kind, Operand, Program, Space


@dataclass(frozen=True, eq=False)
class Adjoint:
    """The programs of the backward pass."""

    reverse: Program
    sample_reverse: Program
    params_reverse: Program
    second: Program | None
    acc_size: int


@dataclass(frozen=True)
class PartOf:
    """One term of a sum of fields: its value, or the matrix A of a linear term that is never
    evaluated as a field; ``linearise`` as in `lower`."""

    out: Node | None
    linearise: str = ""
    matrix: Node | None = None


@dataclass(frozen=True)
class Matrix:
    """The matrix A of a linear term."""

    kind: str  # "dense", "diagonal"
    at: int  # in the uniform space
    acc: int  # in the accumulator; -1: it is constant


@dataclass(frozen=True, eq=False)
class Part:
    """The programs of one term of a sum. Constants, params, samples and accumulator are shared."""

    field: Program | None = None
    field_keep: Program | None = None
    res_rows: int = 0
    time_dependent: bool = False
    reverse: Program | None = None
    second: Program | None = None
    tangent: Tangent | None = None
    matrix: Matrix | None = None


@dataclass(frozen=True, eq=False)
class Tangent:
    """The linearised field: f_y v for a given v, and f_t."""

    tangent: Program
    time: Program


@dataclass(frozen=True, eq=False)
class EventPrograms:
    """The programs of the events; ``reset_at``: the block of D rows of each event's reset, or -1.

    The cotangents of the adjoint's two have the rows of ``value``, then those of ``reset``.
    """

    reset_at: tuple[int, ...]
    value: Program
    slope: Program
    reset: Program
    pull: Program | None
    spread: Program | None


@dataclass(frozen=True, eq=False)
class Lowered:
    """The programs of one field; offsets and sizes in rows."""

    dim: int
    n_args: int
    n_params: int
    n_sample: int
    n_uniform: int
    consts: FloatArray
    params_off: int
    prologue: Program
    sample: Program
    field: Program
    derivative_prologue: Program  # uniform values that only the programs below read
    field_keep: Program  # the field, leaving residuals for them
    res_rows: int
    time_dependent: bool
    adjoint: Adjoint | None
    tangent: Tangent | None
    events: EventPrograms | None = None
    parts: tuple[Part, ...] = ()
    matrices: Program | None = None  # uniform values that the kernels read themselves


class _Uniform:
    """The layout of the uniform space, which grows as programs ask for values."""

    def __init__(self, params: Sequence[Node]) -> None:
        self.at: dict[Node, Operand] = {}
        self.consts: list[FloatArray] = []
        self.n_consts = 0
        self.pending: list[Node] = []
        self.params = params

    def add(self, nodes: Iterable[Node]) -> None:
        """Make room for constants and for values that a prologue must compute."""
        for v in nodes:
            while is_alias(v):  # resolved where it is read
                v = v.args[0]
            if v in self.at or v in self.params:
                continue
            if v.op == "const":
                self.at[v] = Operand(Space.U, self.n_consts, Kind.UNI)
                self.consts.append(v.data)
                self.n_consts += v.n
            elif v not in self.pending:
                self.pending.append(v)

    def add_for(self, computed: Sequence[Node]) -> None:
        """Constants that the computation of ``computed`` reads."""
        self.add(v for v in reachable(computed) if v.op == "const")


def _frontier(nodes: Sequence[Node], lo: int, hi: int) -> list[Node]:
    """Values with rate in [lo, hi] that nodes of a higher rate (or the results) read."""
    out: dict[Node, None] = {}
    for v in nodes:
        if v.rate > hi:
            out.update((a, None) for a in v.args if lo <= a.rate <= hi)
    return list(out)


def _costly(v: Node) -> bool:
    return OPS[v.op].costly if v.op in OPS else v.op in ("contract", "outer", "segsum")


def lower(
    graph: Graph,
    out: Node,
    t: Node,
    y: Node,
    params: Sequence[Node],
    args: Sequence[Node],
    *,
    adjoint: bool,
    linearise: str = "",
    curve: Node | None = None,
    parts: Sequence[PartOf] = (),
    events: Sequence[Node] = (),
    resets: Sequence[Node | None] = (),
) -> Lowered:
    """The programs of ``out = f(t, y, params, args)``, and of its events.

    ``linearise``: "first" for methods that need the Jacobian, "second" for those whose adjoint
    needs its derivatives too. ``curve`` is an input whose value at the time of a stage the kernels
    look up. With ``parts`` the field is their sum, and only they are differentiated and linearised.
    """
    g = graph
    evaluated = [p for p in parts if p.out is not None]
    stages = [_Stage(g, p.out, t, y, p.linearise) for p in evaluated if p.out is not None]
    if not parts:
        stages = [_Stage(g, out, t, y, linearise)]
    matrices = [p.matrix for p in parts if p.matrix is not None]
    happen = _Events(g, t, y, events, resets)
    step_outs = [out, *happen.values, *(v for s in stages for v in s.forward())]
    step_nodes = reachable(step_outs, stop=lambda v: v.rate < STEP)
    sample_out = _frontier(step_nodes, SAMPLE, SAMPLE)
    results = [out, *(s.out for s in stages), *happen.values]
    sample_out = list(dict.fromkeys([*sample_out, *(v for v in results if v.rate == SAMPLE)]))
    sample_nodes = reachable(sample_out, stop=lambda v: v.rate < SAMPLE)
    s_at, n_sample = _stack(sample_out, Space.S)
    args_at, n_args = _stack(args, Space.ARGS)

    uniform = _Uniform(params)
    u_nodes = _frontier([*step_nodes, *sample_nodes], CONST, PARAMS)
    uniform.add(v for v in results if v.rate <= PARAMS)
    uniform.add(u_nodes)
    forward_pending = list(uniform.pending)
    uniform.add_for([*forward_pending, *matrices])

    more = _Derivatives(
        g, stages, t, y, params, args, sample_out, matrices, happen, adjoint=adjoint
    )
    uniform.add(_frontier(more.nodes, CONST, PARAMS))
    uniform.add(v for v in more.operands if v.rate <= PARAMS)
    more_pending = [v for v in uniform.pending if v not in forward_pending]
    uniform.add_for([*more_pending, *more.params_bar])

    # the layout: constants, params, the prologue's results, the derivatives'
    rows = uniform.n_consts
    params_off = rows
    u_at = dict(uniform.at)
    for p in params:
        u_at[p] = Operand(Space.U, rows, Kind.UNI)
        rows += p.n
    n_params = rows - params_off
    base = dict(u_at)
    for v in forward_pending:
        u_at[v] = Operand(Space.U, rows, Kind.UNI)
        rows += v.n
    # the derivatives' values are not there yet: the prologue must not read them
    prologue = _prologue("prologue", forward_pending, u_at)
    for v in more_pending:
        u_at[v] = Operand(Space.U, rows, Kind.UNI)
        rows += v.n
    matrix_at: dict[Node, Operand] = {}
    for v in matrices:
        matrix_at[v] = Operand(Space.U, rows)
        rows += v.n

    ty = {t: Operand(Space.T, 0), y: Operand(Space.Y, 0)}
    if curve is not None:
        ty[curve] = Operand(Space.CURVE, 0)
    sample = emit("sample", list(s_at.items()), {**u_at, **args_at})
    field_given = {**u_at, **s_at, **ty}
    result = [(out, Operand(Space.OUT, 0))]
    field = keep = emit("field", result, field_given)
    res_at, res_rows = ({}, 0) if parts else _stack(stages[0].residuals, Space.RES)
    if not parts and (adjoint or linearise):
        keep = emit("field_keep", [*res_at.items(), *result], field_given)
    made = []
    for part in parts:
        if part.out is not None:
            made.append(more.part(stages[evaluated.index(part)], field_given, s_at))
        elif part.matrix is not None:
            kind = "dense" if part.matrix.n == y.n**2 and y.n > 1 else "diagonal"
            acc = more.acc_at[part.matrix].off if part.matrix in more.acc_at else -1
            made.append(Part(matrix=Matrix(kind, matrix_at[part.matrix].off, acc)))
    return Lowered(
        dim=y.n,
        n_args=n_args,
        n_params=n_params,
        n_sample=n_sample,
        n_uniform=rows,
        consts=np.concatenate(uniform.consts) if uniform.consts else np.zeros(0),
        params_off=params_off,
        prologue=prologue,
        sample=sample,
        field=field,
        derivative_prologue=_prologue("derivative_prologue", more_pending, u_at),
        field_keep=keep,
        res_rows=res_rows,
        time_dependent=any(s.time_dependent for s in stages),
        adjoint=more.adjoint(
            None if parts else {**field_given, **res_at}, u_at, base, s_at, args_at
        )
        if adjoint
        else None,
        tangent=None if parts else stages[0].tangent({**field_given, **res_at}),
        events=happen.programs(field_given, more.event_programs(field_given, s_at))
        if events
        else None,
        parts=tuple(made),
        matrices=emit("matrices", list(matrix_at.items()), _lane(u_at), uniform_lanes=True)
        if parts
        else None,
    )


def _stack(nodes: Sequence[Node], space: Space) -> tuple[dict[Node, Operand], int]:
    at: dict[Node, Operand] = {}
    rows = 0
    for v in nodes:
        at[v] = Operand(space, rows)
        rows += v.n
    return at, rows


def _lane(at: Mapping[Node, Operand]) -> dict[Node, Operand]:
    """Uniform values as the lanes of a one-lane program."""
    return {v: Operand(o.space, o.off) for v, o in at.items()}


def _prologue(name: str, nodes: Sequence[Node], at: Mapping[Node, Operand]) -> Program:
    """Uniform values from constants, params and uniform values that are there already."""
    lane = _lane(at)
    ready = {v: o for v, o in lane.items() if v not in nodes}
    return emit(name, [(v, lane[v]) for v in nodes], ready, uniform_lanes=True)


class _Pull:
    """The pullback of values of a stage: cotangents of Y, T and S, and sinks of uniform ones."""

    def __init__(
        self,
        g: Graph,
        outs: Sequence[Node],
        cts: Sequence[Node],
        y: Node,
        t: Node,
        sample_out: Sequence[Node],
    ) -> None:
        sinks: list[Sink] = []
        ybar, tbar = vjp(g, outs, cts, [y, t], sinks, SAMPLE)
        self.in_time = tbar is not None
        self.ybar = g.zeros(y.n) if ybar is None else ybar
        self.tbar = g.zeros(1) if tbar is None else tbar
        self.sinks = [s for s in sinks if s.target.rate == PARAMS]
        self.sbar = {v: g.zeros(v.n) for v in sample_out}
        for s in sinks:
            if s.target.rate == SAMPLE:
                part = s.g if s.x is None else g.outer(s.x, s.g, s.dims)
                total = g.ew("add", self.sbar[s.target], part)
                self.sbar[s.target] = total

    def wanted(self) -> list[Node]:
        """Everything that the program computes."""
        return [self.ybar, self.tbar, *self.sbar.values(), *_operands(self.sinks)]

    def to_stage(self) -> list[tuple[Node, Operand]]:
        """Where the cotangents of Y and T go."""
        return [(self.ybar, Operand(Space.YBAR, 0)), (self.tbar, Operand(Space.TBAR, 0))]

    def to_sample(self, s_at: Mapping[Node, Operand]) -> list[tuple[Node, Operand]]:
        """Where that of S goes."""
        return [(bar, Operand(Space.SBAR, s_at[v].off)) for v, bar in self.sbar.items()]

    def outs(self, s_at: Mapping[Node, Operand]) -> list[tuple[Node, Operand]]:
        """Where its results go."""
        return [*self.to_stage(), *self.to_sample(s_at)]


class _Events:
    """Events, their slopes along a slope of the state, and the states behind those that reset."""

    def __init__(
        self,
        g: Graph,
        t: Node,
        y: Node,
        events: Sequence[Node],
        resets: Sequence[Node | None],
    ) -> None:
        self.events = list(events)
        self.behind = [r for r in resets if r is not None]
        blocks = iter(range(len(self.behind)))
        self.reset_at = tuple([-1 if r is None else next(blocks) for r in resets])
        self.v = g.input("tangent", 0, y.n, STEP)
        slopes = jvp(g, events, [y, t], [self.v, g.const(np.ones(1))])
        self.slopes = [g.zeros(1) if s is None else s for s in slopes]
        self.values = [*self.events, *self.slopes, *self.behind]

    def programs(
        self, given: dict[Node, Operand], adjoint: tuple[Program | None, Program | None]
    ) -> EventPrograms:
        """``given``: what they read, but for the slope of the state."""
        return EventPrograms(
            self.reset_at,
            emit("event", _results(self.events), given),
            emit("event_slope", _results(self.slopes), {**given, self.v: Operand(Space.V, 0)}),
            emit("reset", _results(self.behind), given),
            *adjoint,
        )


class _Linear:
    """The linearised field: f_y v, f_t, and for "second" f_y v + tau f_t."""

    def __init__(self, g: Graph, out: Node, t: Node, y: Node, linearise: str) -> None:
        self.v, self.tau = g.input("tangent", 0, y.n, STEP), g.input("tangent", 1, 1, STEP)
        jv = jvp(g, [out], [y], [self.v])[0]
        ft = jvp(g, [out], [t], [g.const(np.ones(1))])[0]
        self.in_time = ft is not None
        self.jv = g.zeros(y.n) if jv is None else jv
        self.ft = g.zeros(y.n) if ft is None else ft
        self.along: Node | None = None
        if linearise == "second":
            along = jvp(g, [out], [y, t], [self.v, self.tau])[0]
            self.along = g.zeros(y.n) if along is None else along
        self.values = [v for v in (self.jv, self.ft, self.along) if v is not None]
        self.at = {self.v: Operand(Space.V, 0), self.tau: Operand(Space.V, y.n)}

    def programs(self, given: dict[Node, Operand]) -> Tangent:
        """``given``: what they read, but for the tangent."""
        return Tangent(
            emit("tangent", [(self.jv, Operand(Space.OUT, 0))], {**given, **self.at}),
            emit("time", [(self.ft, Operand(Space.OUT, 0))], given),
        )


class _Stage:
    """What is evaluated and differentiated at each stage: a field, or one term of a sum."""

    def __init__(self, g: Graph, out: Node, t: Node, y: Node, linearise: str) -> None:
        self.g, self.out, self.t, self.y = g, out, t, y
        self.linear = _Linear(g, out, t, y, linearise) if linearise else None
        self.time_dependent = self.linear is not None and self.linear.in_time
        self.ct = g.input("ct", 0, y.n, STEP)
        self.first: _Pull | None = None
        self.second: _Pull | None = None
        self.wanted = [] if self.linear is None else list(self.linear.values)
        self.residuals: list[Node] = []

    def forward(self) -> list[Node]:
        """What is computed without an adjoint."""
        return [self.out] if self.linear is None else [self.out, *self.linear.values]

    def differentiate(self, sample_out: Sequence[Node]) -> None:
        """The graphs of the pullbacks."""
        self.first = _Pull(self.g, [self.out], [self.ct], self.y, self.t, sample_out)
        self.time_dependent |= self.first.in_time
        self.wanted += self.first.wanted()
        if self.linear is not None and self.linear.along is not None:
            along = self.linear.along
            self.second = _Pull(self.g, [along], [self.ct], self.y, self.t, sample_out)
            self.wanted += self.second.wanted()

    def sinks(self) -> list[Sink]:
        """What flows into params."""
        return [s for pull in (self.first, self.second) if pull is not None for s in pull.sinks]

    def tangent(self, given: dict[Node, Operand]) -> Tangent | None:
        """The programs of the linearised field."""
        return None if self.linear is None else self.linear.programs(given)

    def choose_residuals(self) -> None:
        """Primal values that the derivatives read and that are worth keeping."""
        primal = {v for v in reachable([self.out], stop=lambda v: v.rate < STEP) if v.rate == STEP}
        depends = {self.ct} | ({self.linear.v, self.linear.tau} if self.linear else set())
        for v in reachable(self.wanted):
            if any(a in depends for a in v.args):
                depends.add(v)
        keep: dict[Node, None] = {}

        def stop(v: Node) -> bool:
            if v.rate < STEP or not v.args:
                return True
            if v not in depends and v in primal and _costly(v):
                keep[v] = None
                return True
            return False

        reachable(self.wanted, stop)
        self.residuals = sorted(keep, key=lambda v: v.id)


class _Derivatives:
    """The graphs of the derivatives of all stages, and the programs made of them."""

    def __init__(
        self,
        g: Graph,
        stages: Sequence[_Stage],
        t: Node,
        y: Node,
        params: Sequence[Node],
        args: Sequence[Node],
        sample_out: Sequence[Node],
        matrices: Sequence[Node],
        happen: _Events,
        *,
        adjoint: bool,
    ) -> None:
        self.g, self.stages, self.matrices, self.has_adjoint = g, stages, matrices, adjoint
        self.params_bar: list[Node] = []
        self.acc_at: dict[Node, Operand] = {}
        slow: list[Node] = []
        if adjoint:
            for s in stages:
                s.differentiate(sample_out)
            whats = [*happen.events, *happen.behind]
            self.event_cts = [g.input("ct", 1 + i, v.n, STEP) for i, v in enumerate(whats)]
            self.event = _Pull(g, whats, self.event_cts, y, t, sample_out)
            slow = [*self.event.wanted(), *self._slow(params, args, sample_out)]
        self.operands = [*(v for s in stages for v in s.wanted), *slow]
        self.nodes = reachable(self.operands, stop=lambda v: v.rate <= PARAMS)
        for s in stages:
            s.choose_residuals()

    def _slow(
        self, params: Sequence[Node], args: Sequence[Node], sample_out: Sequence[Node]
    ) -> list[Node]:
        """The graphs that finish the work for args and params; what the former compute."""
        g = self.g
        # the sample part: from the cotangents of S to those of args
        self.s_ct = {v: g.input("sbar", i, v.n, STEP) for i, v in enumerate(sample_out)}
        sample_sinks: list[Sink] = []
        cts = [self.s_ct[v] for v in sample_out]
        bars = vjp(g, sample_out, cts, args, sample_sinks, PARAMS)
        self.args_bar = [g.zeros(a.n) if b is None else b for a, b in zip(args, bars, strict=True)]
        self.sample_sinks = [s for s in sample_sinks if s.target.rate == PARAMS]

        # the params part: from the accumulator to the params
        sinks = [s for stage in self.stages for s in stage.sinks()]
        sinks += [*self.event.sinks, *self.sample_sinks]
        learned = [v for v in self.matrices if v.rate == PARAMS]
        self.targets = list(dict.fromkeys([*(s.target for s in sinks), *learned]))
        self.acc_at, self.acc_size = _stack(self.targets, Space.CT)
        self.acc_in = {v: g.input("acc", i, v.n, PARAMS) for i, v in enumerate(self.targets)}
        bars = vjp(g, self.targets, [self.acc_in[v] for v in self.targets], params)
        self.params_bar = [
            g.zeros(p.n) if b is None else b for p, b in zip(params, bars, strict=True)
        ]
        return [*self.args_bar, *_operands(self.sample_sinks)]

    def part(
        self, stage: _Stage, field_given: dict[Node, Operand], s_at: dict[Node, Operand]
    ) -> Part:
        """The programs of one term of a sum."""
        res_at, res_rows = _stack(stage.residuals, Space.RES)
        result = [(stage.out, Operand(Space.OUT, 0))]
        given = {**field_given, **res_at}
        reverse, second = self._pulls(stage, given, s_at)
        return Part(
            field=emit("field", result, field_given),
            field_keep=emit("field_keep", [*res_at.items(), *result], field_given),
            res_rows=res_rows,
            time_dependent=stage.time_dependent,
            reverse=reverse,
            second=second,
            tangent=stage.tangent(given),
        )

    def _pulls(
        self, stage: _Stage, given: dict[Node, Operand], s_at: dict[Node, Operand]
    ) -> tuple[Program | None, Program | None]:
        """The pullbacks of a stage, as programs; ``given``: what they read."""
        given = {**given, stage.ct: Operand(Space.CT, 0)}
        reverse = second = None
        if stage.first is not None:
            reverse = emit("reverse", stage.first.outs(s_at), given, self._at(stage.first.sinks))
        if stage.second is not None and stage.linear is not None:
            given = {**given, **stage.linear.at}
            second = emit("second", stage.second.outs(s_at), given, self._at(stage.second.sinks))
        return reverse, second

    def adjoint(
        self,
        step_given: dict[Node, Operand] | None,
        u_at: dict[Node, Operand],
        base: dict[Node, Operand],
        s_at: dict[Node, Operand],
        args_at: dict[Node, Operand],
    ) -> Adjoint:
        """The programs of the backward pass; ``step_given``: what those of a stage read, or None
        where the parts have them."""
        reverse, second = None, None
        if step_given is not None:
            reverse, second = self._pulls(self.stages[0], step_given, s_at)
        if reverse is None:
            reverse = emit("reverse", [], {})

        given = {**u_at, **args_at}
        given.update({ct: Operand(Space.CT, s_at[v].off) for v, ct in self.s_ct.items()})
        sample_reverse = emit(
            "sample_reverse", _results(self.args_bar), given, self._at(self.sample_sinks)
        )

        given = {**_lane(base), **{self.acc_in[v]: o for v, o in self.acc_at.items()}}
        params_reverse = emit(
            "params_reverse", _results(self.params_bar), given, uniform_lanes=True
        )
        return Adjoint(reverse, sample_reverse, params_reverse, second, self.acc_size)

    def event_programs(
        self, given: dict[Node, Operand], s_at: dict[Node, Operand]
    ) -> tuple[Program | None, Program | None]:
        """The two halves of the events' pullback; ``given``: what they read, but for cotangents."""
        if not self.has_adjoint:
            return None, None
        given = {**given, **_stack(self.event_cts, Space.CT)[0]}
        pull = emit("event_pull", self.event.to_stage(), given)
        sinks = self._at(self.event.sinks)
        return pull, emit("event_spread", self.event.to_sample(s_at), given, sinks)

    def _at(self, sinks: Sequence[Sink]) -> list[SinkAt]:
        return [SinkAt(s, self.acc_at[s.target].off) for s in sinks]


def _results(nodes: Sequence[Node]) -> list[tuple[Node, Operand]]:
    """One after the other in the result space."""
    starts = np.cumsum([0, *(v.n for v in nodes)])
    return [(v, Operand(Space.OUT, int(s))) for v, s in zip(nodes, starts, strict=False)]


def _operands(sinks: Sequence[Sink]) -> list[Node]:
    return [v for s in sinks for v in (s.x, s.g) if v is not None]
