"""Training: `fit` and its result. What is minimised stands in `objective`."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nodecore import methods, plot, tree
from nodecore.objective import Objective
from nodecore.optim import Adam
from nodecore.samples import Array, InitialStates, Samples, float_array
from nodecore.status import GradientError, InputError, StiffnessWarning

_HISTORY = np.dtype(
    [
        ("step", np.int64),
        ("loss", np.float64),
        ("validation", np.float64),
        ("work", np.int64),
        ("failures", np.int64),
        ("seconds", np.float64),
    ]
)


class FitStep(NamedTuple):
    """What a callback of `fit` is told after each step.

    Attributes
    ----------
    step : int
        0 at the first.
    loss : float
        Before the step's update.
    params : tree
        A copy of the parameters after it.
    work : int
        Evaluations of the field in the step's forward solve, over all samples.
    failures : int
        Samples that could not be solved, and were left out.
    """

    step: int
    loss: float
    params: Any
    work: int
    failures: int


class FitResult:
    """What `fit` found.

    Attributes
    ----------
    params : tree
        The fitted parameters.
    y0 : tree
        The initial states, shaped as they were given: fitted if `fit_y0` says so.
    history : structured ndarray, one row a step
        ``step``; ``loss`` before the step's update; ``validation`` (NaN where it was not
        evaluated); ``work``, the evaluations of the field; ``failures``, samples that could not be
        solved; ``seconds`` since the start.
    """

    def __init__(
        self, model: Objective, params: Any, y0: Any, history: Array, data: Samples
    ) -> None:
        self.params = params
        self.y0 = y0
        self.history = history
        self._model = model
        self._data = data

    def predict(self, y0: Any, t: Any, args: Any = None) -> Any:
        """What would be observed: the solution through ``observe``, if there is one.

        Parameters
        ----------
        y0 : tree or None
            Initial states. None: the fitted ones (an encoder is called with `args`).
        t, args
            As in `solve`.

        Returns
        -------
        array of shape (B, T, ...) or (T, ...), or a list of arrays of shape (T_b, ...) where `t` is
        ragged, or a tree of such
            NaN where a solution was not reached.
        """
        model = self._model
        if y0 is None:
            y0 = self.y0
            if model.encoder is not None:
                y0 = model.encode(self.params, args, model.template(self.params, args))[0]
        return model.predict(self.params, Samples(y0, t, None, args, model.options.get("batch")))

    def plot(self) -> Any:
        """Draw the history, and the predictions through the targets of up to six samples.

        Needs matplotlib (``pip install nodecore[plot]``).

        Returns
        -------
        matplotlib.figure.Figure
        """
        data = self._data
        if data.batched:
            data = data.take(np.arange(min(6, data.n)))
        fine = [np.linspace(t[0], t[-1], 10 * len(t)) for t in data.times()]
        grid = fine if data.ragged else np.array(fine) if data.batched else fine[0]
        y0 = self.y0
        if data.batched:
            y0 = tree.map(lambda leaf: np.asarray(leaf)[: data.n], y0)
        drawn = Samples(y0, grid, None, data.args, self._model.options.get("batch"))
        curves = self._model.predict(self.params, drawn)
        series = [
            (fine[k], pred, t, target)
            for k, t in enumerate(data.times())
            for pred, target in zip(
                drawn.columns(curves, k), data.columns(data.target, k), strict=True
            )
        ]
        return plot.fit(self.history, series)

    def __repr__(self) -> str:
        last = self.history[-1] if len(self.history) else None
        return (
            f"FitResult({len(self.history)} steps"
            + (f", loss {last['loss']:.6g}, {last['seconds']:.3g} s" if last is not None else "")
            + f", {sum(np.size(leaf) for leaf in tree.flatten(self.params)[0])} parameters)"
        )


def fit(
    field: Callable[..., Any],
    params: Any,
    y0: Any,
    t: Any,
    target: Any,
    args: Any = None,
    *,
    observe: Callable[..., Any] | None = None,
    loss: str | Callable[..., Any] = "mse",
    optimizer: Any = None,
    steps: int = 1000,
    batch_size: int | None = None,
    fit_y0: Any = False,
    solve: Mapping[str, Any] | None = None,
    validation: Any = None,
    callbacks: Sequence[Callable[[FitStep], Any]] = (),
    progress: bool = True,
    seed: int = 0,
) -> FitResult:
    """Fit the parameters of a field, and initial states if wanted, to observations.

    Parameters
    ----------
    field : callable
        As in `solve`. It is taken to be pure while the fit lasts: traced once. So are `observe`,
        `loss` and an encoder.
    params : tree of float arrays
        Where the search starts.
    y0, t, args
        As in `solve`. Where `fit_y0` is a function, `y0` may be None.
    target : array, list of arrays, or tree
        What was observed at each time of `t`, the first included: shaped as the solution's ``y``,
        or with what `observe` returns in place of the state. NaN: not observed.
    observe : callable, optional
        ``observe(t, y, params, args)`` at one time of one sample: what the last axis of `target`
        holds. None: the state itself.
    loss : str or callable, default "mse"
        "mse", "mae", "gaussian_nll" (see `nodecore.losses`), or ``loss(pred, target, mask)`` that
        returns a scalar. `mask` is True where something was observed and reached; elsewhere `pred`
        and `target` hold finite numbers of no meaning. For ragged `t`, all three hold the rows of
        all samples, one after the other.
    optimizer : optional
        Any object with ``init(params) -> state`` and ``update(params, grads, state) -> (params,
        state)`` for trees. None: ``nodecore.optim.Adam(1e-3)``.
    steps : int, default 1000
        How many updates to make. (In the dict `solve`, ``steps`` are steps per output interval.)
    batch_size : int, optional
        How many samples an update sees, drawn without repetition until all were seen. None: all.
    fit_y0 : optional
        False: `y0` is known. True: each sample's initial state is fitted, starting at `y0`.
        "shared": one for all samples, starting at their mean. A bool array of the shape of one
        sample's state (a tree of such): the components to fit. A function ``fit_y0(params, args)``
        of one sample: an encoder that returns its initial state.
    solve : dict, optional
        Options of `solve`, for example ``{"method": "dopri5", "rtol": 1e-8}``.
    validation : tuple, optional
        ``(y0, t, target)`` or ``(y0, t, target, args)``: the loss of these is entered in the
        history a hundred times in all. Where `fit_y0` is "shared" or a function, the fitted initial
        state takes the place of this `y0`.
    callbacks : sequence of callables
        Each is called after each step with a `FitStep`, and may return True to stop.
    progress : bool, default True
        Whether to show a progress bar.
    seed : int, default 0
        For the order of the samples in batches.

    Returns
    -------
    FitResult

    Raises
    ------
    InputError
        If shapes do not fit together.
    SolveError
        If no sample of a step could be solved.
    GradientError
        If the loss or its gradient becomes non-finite.

    Warns
    -----
    StiffnessWarning
        Once, when a solve takes four times as many evaluations as in the first steps.

    Examples
    --------
    Decay at an unknown rate, seen with one gap:

    >>> import numpy as np
    >>> import nodecore as nc
    >>> t = np.linspace(0.0, 2.0, 5)
    >>> target = np.exp(-0.7 * t)[:, None]
    >>> target[2] = np.nan
    >>> result = nc.fit(
    ...     lambda t, y, params: -params["k"] * y, {"k": 1.0}, [1.0], t, target,
    ...     optimizer=nc.optim.Adam(0.05), steps=200, progress=False,
    ... )
    >>> round(float(result.params["k"]), 3)
    0.7
    """
    params = tree.map(float_array, params)
    options = dict(solve or {})
    for name in ("params", "args", "dense"):
        if name in options:
            raise InputError(f"fit: {name!r} is not an option of solve that fit can pass on")
    encoder = fit_y0 if callable(fit_y0) else None
    model = Objective(field, observe, encoder, loss, options)
    if encoder is not None and y0 is None:
        y0 = model.template(params, args)
    data = Samples(y0, t, target, args, options.get("batch"))
    start = InitialStates(fit_y0, data)
    steps, batches = _check_counts(steps, batch_size, data, seed)
    held_out = _validation_data(validation, options)

    variables = {"params": params, "y0": start.variables}
    optimizer = Adam(1e-3) if optimizer is None else optimizer
    state = optimizer.init(variables)
    history = np.zeros(steps, _HISTORY)
    every = max(1, steps // 100)
    begin = time.perf_counter()
    done = 0
    watch = _Watch(implicit=not _explicit(options.get("method")))
    with _ProgressBar(steps, progress) as bar:
        for step in range(steps):
            index = next(batches)
            batch = data if index is None else data.take(index)
            value, grads, work, failures = model.gradient(variables, start, batch, index)
            if not np.isfinite(value):
                raise GradientError(f"fit: the loss is {value} at step {step}")
            watch.see(step, work / batch.n)
            variables, state = optimizer.update(variables, grads, state)
            scored = np.nan
            if held_out is not None and (step % every == 0 or step == steps - 1):
                scored = model.evaluate(variables, start, held_out)
            seconds = time.perf_counter() - begin
            history[step] = (step, value, scored, work, failures, seconds)
            done = step + 1
            bar.update(value)
            stop = False
            for callback in callbacks:
                copies = tree.map(np.copy, variables["params"])
                stop |= bool(callback(FitStep(step, value, copies, work, failures)))
            if stop:
                break
    final = variables["params"]
    fitted = model.initial(variables, start, data, None)[0]
    return FitResult(model, final, fitted, history[:done].copy(), data)


def _check_counts(
    steps: int, batch_size: int | None, data: Samples, seed: int
) -> tuple[int, Iterator[Array | None]]:
    if steps < 1:
        raise InputError(f"fit: steps is {steps}; it is the number of updates, at least 1")
    if batch_size is None or (data.batched and batch_size >= data.n):
        return steps, iter(lambda: None, 0)
    if not data.batched:
        raise InputError("fit: batch_size makes no sense for one sample; leave it None")
    if batch_size < 1:
        raise InputError(f"fit: batch_size is {batch_size}; it must be at least 1")
    return steps, _batches(data.n, batch_size, np.random.default_rng(seed))


def _batches(n: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    while True:
        order = rng.permutation(n)
        for begin in range(0, n, size):
            # sorted: neighbours in memory stay neighbours
            yield np.sort(order[begin : begin + size])


def _validation_data(validation: Any, options: Mapping[str, Any]) -> Samples | None:
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (3, 4):
        raise InputError("fit: validation is (y0, t, target) or (y0, t, target, args)")
    y0, t, target, args = (*validation, None)[:4]
    return Samples(y0, t, target, args, options.get("batch"))


def _explicit(method: Any) -> bool:
    try:
        return method is None or methods.get(method, methods.FAMILIES).family == "explicit"
    except InputError:  # a scheme of parts, or a name that solve will refuse
        return False


class _Watch:
    """Warns, once, when solves take several times the work of the first ones."""

    FIRST, LAST, GROWTH = 10, 5, 4.0

    def __init__(self, implicit: bool) -> None:
        self._implicit = implicit
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=self.LAST)
        self._warned = False

    def see(self, step: int, work: float) -> None:
        """Evaluations of the field a sample, in the solve of a step.

        Medians are compared: one hard batch among easy ones is no growth.
        """
        if len(self._first) < self.FIRST:
            self._first.append(work)
            return
        self._last.append(work)
        before, now = _median(self._first), _median(self._last)
        if self._warned or len(self._last) < self.LAST or now < self.GROWTH * before:
            return
        self._warned = True
        way_out = "a smaller learning rate, weight decay, bounded outputs"
        if not self._implicit:
            way_out += "; or an implicit method, solve={'method': 'kvaerno5'}"
        warnings.warn(
            f"fit: at step {step} a solve takes {now:,.0f} evaluations of the field a sample, "
            f"{now / before:.1f} times as many as in the first {self.FIRST} steps ({before:,.0f}): "
            "what is learned has become stiff, or faster than the data can tell. What helps: "
            f"{way_out}. nc.diagnose, with the parameters that a callback sees, shows the rates",
            StiffnessWarning,
            stacklevel=3,  # the caller of fit
        )


def _median(values: Iterable[float]) -> float:
    """Of few numbers, once an update: np.median takes 30 microseconds for them."""
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[n // 2] + ordered[(n - 1) // 2]) / 2


class _ProgressBar:
    """tqdm, told the loss ten times a second."""

    def __init__(self, steps: int, enabled: bool) -> None:
        self._bar: Any = None
        self._shown = 0.0
        self._pending = 0
        self._value = np.nan
        if enabled:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=steps, desc="fit", unit="step")

    def __enter__(self) -> _ProgressBar:
        return self

    def update(self, value: float) -> None:
        if self._bar is None:
            return
        self._pending += 1
        self._value = value
        now = time.perf_counter()
        if now - self._shown >= 0.1:
            self._shown = now
            self._flush()

    def _flush(self) -> None:
        self._bar.set_postfix_str(f"loss {self._value:.4g}", refresh=False)
        self._bar.update(self._pending)
        self._pending = 0

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._flush()
            self._bar.close()
