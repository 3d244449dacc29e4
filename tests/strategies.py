"""Random fields for hypothesis: programs in plain NumPy, with a point to evaluate them at."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from hypothesis import strategies as st

# Right-hand sides by the kind of their result: S a number, D like the state, H a hidden vector,
# M a (D, H) matrix. Values stay of order one, whatever is combined.
SMOOTH = {
    "S": [
        "t", "p['s']", "a['c']", "{D}[0]", "{D}[-1] * {S}", "np.sum({D})", "{D} @ {D}",
        "{H}.mean()", "np.cos({S})", "np.linalg.norm({D})", "0.5 * ({S} + {S})",
        "1 / (1 + {S} ** 2)", "np.tanh({M}).sum()", "p['s'] ** 3 - {S}",
        "np.einsum('i,ij,j->', {D}, {M}, {H})",
    ],
    "D": [
        "np.tanh({D})", "np.sin({D})", "{D} * {D}", "{D} + {S}", "{D} - {D}", "-{D}[::-1]",
        "{D} / (1 + {D} ** 2)", "np.exp(-({D} ** 2))", "np.sqrt(1 + {D} ** 2)", "np.cumsum({D})",
        "np.log1p({D} ** 2)", "np.arctan({D} * p['k'])", "np.roll({D}, 1) * a['u']",
        "np.concatenate([{D}[1:], {D}[:1]])", "{H} @ p['U']", "np.sum({M}, axis=1)", "{M} @ {H}",
        "np.stack([x * {S} for x in {D}])", "y + np.array([x + {S} for x in {D}])",
        "1 / (1 + np.exp(-{D}))", "np.logaddexp(0.0, {D})", "{D} * (2.0 - {S})", "p['U'].T @ {H}",
        "np.arctan2({D}, 1 + {D} ** 2)", "np.cosh(np.sin({D}))", "(1 + {D} ** 2) ** {S}",
        "np.interp({D}, np.linspace(-9, 9, 4), [0.1, 0.3, -0.2, 0.5]) + {D}", "np.zeros_like({D})",
    ],
    "H": [
        "{D} @ p['W'] + p['b']", "np.tanh({D} @ p['W'] + p['b'])", "np.tanh({H})", "{D} @ {M}",
        "{M}.mean(axis=0)", "{M}[0]", "np.tanh({H} + {S})", "p['b'] * {S}", "{H} * {H}",
    ],
    "M": [
        "np.outer({D}, {H})", "np.tanh({M})", "{M} * {M}", "{M} + {D}[:, None]", "p['W'] * {S}",
        "np.sin({M}.T).T", "{D}[:, None] * np.tanh({M} + p['b'])", "p['U'].T",
    ],
}  # fmt: skip
KINKED = {
    "S": ["np.max({D})", "np.abs({S})", "np.where({S} > {S}, {S}, {S})"],
    "D": [
        "np.where({D} > {S}, {D}, -{D})", "np.maximum({D}, {S})", "np.clip({D}, -0.5, 0.5)",
        "np.abs({D})", "np.minimum({D}, {D})", "{D} * ({D} < {D})",
        "np.where({D} > 0, np.sqrt(np.where({D} > 0, {D}, 1.0)), 0.0)", "np.floor(2 * {D}) * {D}",
        "np.sign({D}) * {D}", "np.where(({D} > 0) & (t < 0.5), {D}, 0.1 * {D})",
    ],
    "H": ["np.maximum(0.0, {H})"],
    "M": ["np.where({M} > 0, {M}, 0.0)"],
}  # fmt: skip

_serial = count()


@dataclass(frozen=True)
class RandomField:
    """``fun(t, y, params, args)`` and arguments for it."""

    source: str
    fun: Callable[..., Any]
    t: float
    y: Any
    params: dict[str, Any]
    args: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.source}# y = {self.y!r}\n"

    def value(self) -> Any:
        """The function on arrays."""
        return self.fun(self.t, self.y, self.params, self.args)


@st.composite
def fields(draw: Any, smooth: bool = False, max_lines: int = 10) -> RandomField:
    """A field of up to ``max_lines`` statements; with ``smooth``, one without kinks and jumps."""
    table = {k: SMOOTH[k] + ([] if smooth else KINKED[k]) for k in SMOOTH}
    pool = {"S": ["t"], "D": ["y"], "H": ["p['b']"], "M": ["p['W']"]}
    lines = ["def field(t, y, p, a):"]
    for i in range(draw(st.integers(1, max_lines))):
        kind = draw(st.sampled_from("SDDDHM"))
        template = draw(st.sampled_from(table[kind]))
        while (start := template.find("{")) >= 0:
            operand = draw(st.sampled_from(pool[template[start + 1]]))
            template = template[:start] + operand + template[start + 3 :]
        lines.append(f"    v{i} = 0.5 * ({template})")
        pool[kind].append(f"v{i}")
    terms = draw(st.lists(st.sampled_from(pool["D"][-4:]), min_size=1, max_size=3))
    scale = draw(st.sampled_from(pool["S"][-2:]))
    lines.append(f"    return {' + '.join(terms)} * {scale}")
    source = "\n".join(lines) + "\n"

    name = f"<random field {next(_serial)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    space: dict[str, Any] = {"np": np}
    exec(compile(source, name, "exec"), space)

    D, H = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def some(*shape: int) -> Any:
        return rng.uniform(-1, 1, shape)

    params = {"W": some(D, H), "U": some(H, D), "b": some(H), "k": some(D), "s": some()}
    args = {"u": some(D), "c": some()}
    return RandomField(source, space["field"], float(rng.uniform()), some(D), params, args)
