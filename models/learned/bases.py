"""What a prediction starts from: physics with a few fitted constants, which extrapolate where a correction cannot.

`bound` and `estimate` are the analytical answers as they are. `power` is a roofline with a start-up time and a soft corner,

    t = t0 + ((compute / e_c)^p + (memory / e_m)^p)^(1/p),

`linear` a non-negative sum of terms, `inverse` one over it. They have constants for every key that has rows enough, and for a key never seen the
median (`power`) or the pooled fit (`linear`) of those that share its next level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from models.learned.inputs import Array, Inputs

Kind = Literal["bound", "estimate", "power", "linear", "sum", "nested", "inverse"]
POOLED = "*"
"""Key of the constants used where no other fits."""


class Base(Protocol):
    """A fitted base."""

    def log_values(self, inputs: Inputs) -> Array:
        """Log of the base in the unit of the target; shape (n,)."""

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` makes it of again."""


@dataclass(frozen=True)
class Analytical:
    """The analytical bound or estimate, with nothing fitted."""

    kind: Literal["bound", "estimate"]

    def log_values(self, inputs: Inputs) -> Array:
        values: Array = np.log(getattr(inputs, self.kind))
        return values

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}


# ---- a sum of terms

ROWS_PER_TERM = 2
"""A key has its own coefficients from this many rows a term."""
PRIOR_STRENGTH = 0.001
"""Weight of what coefficients lean on, of one row of error for every thousand rows."""


@dataclass(frozen=True)
class Linear:
    """`terms @ coefficients`, the coefficients by key."""

    coefficients: Mapping[str, tuple[float, ...]]

    def log_values(self, inputs: Inputs) -> Array:
        constants = _by_key(inputs, self.coefficients)
        values = (inputs.terms * constants).sum(axis=1)
        logs: Array = np.log(np.maximum(values, np.finfo(np.float64).tiny))
        return logs

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "linear", "coefficients": {key: list(values) for key, values in self.coefficients.items()}}


def fit_linear(inputs: Inputs, log_target: Array, weights: Array | None = None) -> Linear:
    """Coefficients of all rows together, which lean on the priors, and of every key with ROWS_PER_TERM rows a term, which lean on
    those of all."""
    return _by_key_leaning_on_all(_non_negative, inputs, np.exp(log_target), weights)


def _by_key_leaning_on_all(
    solve: Callable[[Array, Array, Array, Array | None], tuple[float, ...]],
    inputs: Inputs,
    target: Array,
    weights: Array | None,
) -> Linear:
    """Coefficients by `solve(terms, target, prior, weights)`: of all rows from the priors, and of every key with ROWS_PER_TERM rows a
    term from those of all."""
    found = {POOLED: solve(inputs.terms, target, np.array(inputs.priors), weights)}
    shared = np.array(found[POOLED])
    enough = ROWS_PER_TERM * inputs.terms.shape[1]
    for level in inputs.keys:
        for code, key in enumerate(level.names):
            rows = np.flatnonzero(level.codes == code)
            if enough <= len(rows) < len(inputs) and key not in found:
                found[key] = solve(inputs.terms[rows], target[rows], shared, _at(weights, rows))
    return Linear(found)


NESTED_ROWS = 4
"""In a nested base a key has its own coefficients from this many rows."""
NESTED_LEAN = 0.1
"""And leans on those above it by as much as an error of one in so many rows."""


def fit_nested(inputs: Inputs, log_target: Array, weights: Array | None = None) -> Linear:
    """As `fit_linear`, but every key leans on the next one above, so that ten rows of a new stack already move what all rows say."""
    target = np.exp(log_target)
    found = {POOLED: _non_negative(inputs.terms, target, np.array(inputs.priors), weights)}
    above, sizes = np.tile(np.array(found[POOLED]), (len(inputs), 1)), np.full(len(inputs), len(inputs))
    for level in reversed(inputs.keys):
        for code, key in enumerate(level.names):
            rows = np.flatnonzero(level.codes == code)
            if NESTED_ROWS <= len(rows) < sizes[rows[0]]:
                part, some = inputs.terms[rows], _at(weights, rows)
                found[key] = _non_negative(part, target[rows], above[rows[0]], some, NESTED_LEAN)
                above[rows], sizes[rows] = found[key], len(rows)
    return Linear(found)


def _non_negative(
    terms: Array, target: Array, prior: Array, weights: Array | None, leaning: float | None = None
) -> tuple[float, ...]:
    """Coefficients c >= 0 that minimise sum(w (terms @ c / target - 1)^2) + leaning sum(((c - prior) scale)^2).

    `leaning` is a number of rows, PRIOR_STRENGTH of all by default.

    `scale` is the most a term can be of a target, so that the prior decides only what the rows leave open (such as weights
    against a constant, where all LLMs are of one size).
    """
    from scipy.optimize import nnls

    share = terms / target[:, None]
    scale = share.max(axis=0)
    scale[scale == 0] = 1.0
    strength = np.sqrt(PRIOR_STRENGTH * len(terms) if leaning is None else leaning)
    root = np.ones(len(terms)) if weights is None else np.sqrt(weights)
    left = np.concatenate([root[:, None] * share / scale, strength * np.eye(len(prior))])
    right = np.concatenate([root, strength * prior * scale])
    solution, _ = nnls(left, right)
    return tuple(float(value) for value in solution / scale)


@dataclass(frozen=True)
class Inverse:
    """A rate: one over a sum of terms, which are seconds for each unit of it."""

    times: Linear

    def log_values(self, inputs: Inputs) -> Array:
        logs: Array = -self.times.log_values(inputs)
        return logs

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "inverse", "times": self.times.to_dict()}


SUM_SCALE = 0.1
"""Errors up to it, in log space, count squared; larger ones linearly: a wrong row should not bend the others."""
SUM_LEAN = 0.5
"""What it costs a coefficient to differ from what it leans on by a unit of log: as much as an error of SUM_SCALE in so many rows of
one."""


def fit_sum(inputs: Inputs, log_target: Array, weights: Array | None = None) -> Linear:
    """Coefficients that minimise errors of the log, robustly. Those of all rows lean on the priors, which must be positive, and those
    of a key with ROWS_PER_TERM rows a term on those of all."""
    return _by_key_leaning_on_all(_in_logs, inputs, log_target, weights)


def _in_logs(terms: Array, log_target: Array, prior: Array, weights: Array | None) -> tuple[float, ...]:
    from scipy.optimize import least_squares

    root = 1.0 if weights is None else np.sqrt(weights / weights.mean())
    lean = np.sqrt(SUM_LEAN * len(terms))

    def errors(logs: Array) -> Array:
        wrong = root * (np.log(terms @ np.exp(logs)) - log_target) / SUM_SCALE
        soft = np.sign(wrong) * np.sqrt(2.0 * (np.sqrt(1.0 + wrong * wrong) - 1.0))
        return np.concatenate([soft, lean * (logs - np.log(prior))])

    fitted = least_squares(errors, np.log(prior), max_nfev=60)
    return tuple(float(value) for value in np.exp(fitted.x))


# ---- a roofline with a soft corner

POWER_ROWS = 12
"""A key has its own roofline from this many rows."""
LEANING_ROWS = 3
"""The same where it leans on others."""
MAX_POWER_ROWS = 1500
"""Rows of a key that its roofline is fitted on: evenly spaced ones beyond it. Four constants need no more."""
OWN_ROWS = 400
"""From this many rows a key leans on no other."""
LEAN = (1.0, 1.7, 1.7, 1.3)
"""What it costs one key to differ from those it leans on, for each constant and unit of log: as much as rows that are wrong by so
much. Among devices starts differ by about 0.5, efficiencies by 0.3, sharpness by 0.4, times 0.5."""
_START = (np.log(0.8), np.log(0.8), np.log(2.0))
_LEAST = (np.log(1e-9), np.log(0.01), np.log(0.01), np.log(0.7))
_MOST = (np.log(1.0), np.log(3.0), np.log(3.0), np.log(12.0))


@dataclass(frozen=True)
class Power:
    """Logs of (t0, e_c, e_m, p) by key; the first term is compute, the sum of the others memory, in seconds."""

    constants: Mapping[str, tuple[float, ...]]

    def log_values(self, inputs: Inputs) -> Array:
        return _log_power(_by_key(inputs, self.constants), *_corner(inputs))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "power", "constants": {key: list(values) for key, values in self.constants.items()}}


def fit_power(inputs: Inputs, log_target: Array, weights: Array | None = None) -> Power:
    """Constants of every most particular key with POWER_ROWS rows; medians of those for the keys above.

    Keys are fitted in the order of their rows, most first: one with fewer than OWN_ROWS leans on the median of those that were
    fitted before it and share its next level (LEAN), as a device with few rows of calibration leans on the others.
    """
    compute, memory = _corner(inputs)
    first = inputs.keys[0]
    found: dict[str, tuple[float, ...]] = {}
    above: list[dict[str, list[tuple[float, ...]]]] = [{} for _ in inputs.keys[1:]]
    sizes = np.bincount(first.codes, minlength=len(first.names))
    for code in np.argsort(-sizes, kind="stable"):
        rows = np.flatnonzero(first.codes == code)
        parents = [level.names[level.codes[rows[0]]] for level in inputs.keys[1:]]
        alike = next((m[parent] for parent, m in zip(parents, above, strict=True) if parent in m), None)
        prior = np.median(alike, axis=0) if alike and len(rows) < OWN_ROWS else None
        if len(rows) < (POWER_ROWS if prior is None else LEANING_ROWS):
            continue
        chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_POWER_ROWS)).astype(np.intp)]
        constants = _fit_corner(compute[chosen], memory[chosen], log_target[chosen], _at(weights, chosen), prior)
        found[first.names[code]] = constants
        for parent, members in zip(parents, above, strict=True):
            members.setdefault(parent, []).append(constants)
    for members in above:
        for key, several in members.items():
            found.setdefault(key, tuple(float(value) for value in np.median(several, axis=0)))
    ones = [found[key] for key in first.names if key in found]
    if not ones:
        ones = [_fit_corner(compute, memory, log_target, weights, None)]
    found[POOLED] = tuple(float(value) for value in np.median(ones, axis=0))
    return Power(found)


def _corner(inputs: Inputs) -> tuple[Array, Array]:
    """Logs of compute and of memory seconds; shape (n,) each."""
    tiny = np.finfo(np.float64).tiny
    return np.log(np.maximum(inputs.terms[:, 0], tiny)), np.log(np.maximum(inputs.terms[:, 1:].sum(axis=1), tiny))


def _log_power(constants: Array, compute: Array, memory: Array) -> Array:
    """Log of the roofline from logs; `constants` (n, 4) or (4,)."""
    start, compute_efficiency, memory_efficiency, power = np.moveaxis(constants, -1, 0)
    sharpness = np.exp(power)
    work = (
        np.logaddexp(sharpness * (compute - compute_efficiency), sharpness * (memory - memory_efficiency)) / sharpness
    )
    logs: Array = np.logaddexp(start, work)
    return logs


def _fit_corner(
    compute: Array, memory: Array, log_target: Array, weights: Array | None, prior: Array | None
) -> tuple[float, ...]:
    from scipy.optimize import least_squares

    root = 1.0 if weights is None else np.sqrt(weights / weights.mean())
    start = np.array([np.quantile(log_target, 0.01) - 0.5, *_START]) if prior is None else prior
    least, most = np.array(_LEAST), np.array(_MOST)

    def errors(constants: Array) -> Array:
        wrong: Array = root * (_log_power(constants, compute, memory) - log_target)
        return wrong if prior is None else np.concatenate([wrong, np.array(LEAN) * (constants - prior)])

    fitted = least_squares(
        errors,
        np.clip(start, least + 1e-6, most - 1e-6),
        bounds=(least, most),
        loss="soft_l1",
        f_scale=0.1,
        max_nfev=60,
    )
    return tuple(float(value) for value in fitted.x)


# ---- all of them


def fit(kind: Kind, inputs: Inputs, log_target: Array, weights: Array | None = None) -> Base:
    """Fit a base of a kind on n rows; `weights` (n,) or None for all alike."""
    if kind == "linear":
        return fit_linear(inputs, log_target, weights)
    if kind == "sum":
        return fit_sum(inputs, log_target, weights)
    if kind == "nested":
        return fit_nested(inputs, log_target, weights)
    if kind == "inverse":
        return Inverse(fit_linear(inputs, -log_target, weights))
    if kind == "power":
        return fit_power(inputs, log_target, weights)
    return Analytical(kind)


def from_dict(data: Mapping[str, Any]) -> Base:
    """A base from what its `to_dict` gave."""
    if data["kind"] == "linear":
        return _linear(data)
    if data["kind"] == "inverse":
        return Inverse(_linear(data["times"]))
    if data["kind"] == "power":
        return Power({key: tuple(values) for key, values in data["constants"].items()})
    return Analytical(data["kind"])


def _linear(data: Mapping[str, Any]) -> Linear:
    return Linear({key: tuple(values) for key, values in data["coefficients"].items()})


def _by_key(inputs: Inputs, constants: Mapping[str, tuple[float, ...]]) -> Array:
    """The constants of every row by its most particular key that has some; shape (n, constants)."""
    chosen = np.tile(np.array(constants[POOLED], np.float64), (len(inputs), 1))
    for level in reversed(inputs.keys):
        for code, key in enumerate(level.names):
            if key in constants:
                chosen[level.codes == code] = constants[key]
    return chosen


def _at(weights: Array | None, rows: Any) -> Array | None:
    return None if weights is None else weights[rows]
