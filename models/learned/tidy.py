"""A tidy pass over training rows before any split: what cannot be learnt from is left out, and every reason is a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.learned import splits
from models.learned.conformal import thinned
from models.learned.inputs import Array, Index, Inputs, Labels, Mask, digest, labels, number
from models.learned.targets import Target

FASTER = 1.25
"""A value faster than its bound by more than this factor is a fault of the row (or of the catalogue), not a measurement."""
MIN_COPIED = 50
"""Rows of two devices with equal values, to the last digit, from which one is a copy of the other; rows that tell a campaign."""
COMPARED = 50_000
"""About so many rows are compared between devices, drawn by what they ask."""
LONG_S = 1e-4
"""Bounds from which launches do not matter."""
SHIFTED = 2.0
"""Factor between two campaigns' shares of the bound from which they measured different things."""


def tidy(target: Target, rows: pa.Table, *, limit: int | None = None) -> tuple[pa.Table, list[str]]:
    """The rows to learn from, in the order of their content, and what was left out and why.

    Left out: rows without a positive value or complete inputs, in doubt (`Target.doubts`), faster than physics, of a device that is
    a copy of another; of rows that ask the same question (`Inputs.content`) the one of median value stays. `limit` rows at most,
    drawn by content.
    """
    notes: list[str] = []
    actual = number(rows, target.column)
    inputs = target.inputs(rows)
    is_value = np.isfinite(actual) & (actual > 0)
    _note(notes, len(rows) - int(is_value.sum()), len(rows), f"have no positive {target.metric}")
    is_kept = is_value & inputs.is_complete
    is_explained = np.zeros(len(rows), np.bool_)
    for what, mask in target.doubts(rows).items():
        _note(notes, int((is_value & mask & ~is_explained).sum()), len(rows), what)
        is_explained |= mask
        if _is_enough(target, inputs, is_kept & ~mask):
            is_kept &= ~mask
        elif (is_kept & mask).any():
            notes.append(
                f"{int((is_kept & mask).sum())} of these are used all the same: too little is left without them."
            )
    _note(
        notes,
        int((is_value & ~inputs.is_complete & ~is_explained).sum()),
        len(rows),
        "lack a number that the bound is made of (device, LLM or shape unknown)",
    )
    if target.unit == "s":
        is_faster = is_kept & (actual * FASTER < inputs.bound)
        _note(notes, int(is_faster.sum()), len(rows), f"are faster than their bound by more than {FASTER:g} times")
        is_kept &= ~is_faster
    kept = np.flatnonzero(is_kept)
    inputs, actual = inputs.take(kept), actual[kept]
    for copy, of in _copies(inputs, actual):
        is_copy = inputs.groups["device"].mask(copy)
        notes.append(
            f"The {int(is_copy.sum())} rows of {copy} hold the times of {of} to the last digit: they are left out."
        )
        kept, actual, inputs = kept[~is_copy], actual[~is_copy], inputs.take(~is_copy)
    if target.unit == "s":
        notes += shifts(inputs, actual, labels(rows.take(pa.array(kept)), "source_id"))
    one = _one_each(inputs, actual)
    _note(notes, len(kept) - len(one), len(rows), "repeat the question of another row: the median stays")
    kept, inputs = kept[one], inputs.take(one)
    few = thinned(inputs, min(target.max_rows if limit is None else limit, len(inputs)))
    _note(notes, len(kept) - len(few), len(rows), "were not drawn: more would not fit better")
    return rows.take(pa.array(kept[few])), notes


def shifts(inputs: Inputs, actual: Array, campaign: Labels) -> list[str]:
    """Campaigns (sources) that share a base's key, so that one roofline is fitted to both, and reach very different shares of it.

    Compared are medians of bound / time over rows that take long enough for launches not to matter, MIN_COPIED of each campaign.
    """
    found = []
    key = inputs.keys[0]
    is_long = inputs.bound >= LONG_S
    efficiency = inputs.bound / actual
    for code, name in enumerate(key.names):
        here = np.flatnonzero(is_long & (key.codes == code))
        several = campaign.take(here)
        medians = {
            one: (float(np.median(efficiency[here[several.mask(one)]])), int(several.mask(one).sum()))
            for one in several.names
            if several.mask(one).sum() >= MIN_COPIED
        }
        if len(medians) < 2:
            continue
        slow, fast = min(medians, key=lambda one: medians[one]), max(medians, key=lambda one: medians[one])
        if medians[fast][0] > SHIFTED * medians[slow][0]:
            found.append(
                f"On {name} the {medians[slow][1]} long rows of {slow} reach {medians[slow][0]:.2f} of their bound, the "
                f"{medians[fast][1]} of {fast} {medians[fast][0]:.2f}: two campaigns, not one device. Learn from one of them."
            )
    return found


def _is_enough(target: Target, inputs: Inputs, is_kept: Mask) -> bool:
    """Whether so many rows, of so many groups of the first split, are left as the target asks for."""
    contents = np.unique(inputs.content[is_kept])
    groups = inputs.groups.get(splits.dimension(target.splits[0]))
    num_groups = target.min_groups if groups is None else len(np.unique(groups.codes[is_kept]))
    return len(contents) >= target.min_rows and num_groups >= target.min_groups


def _copies(inputs: Inputs, actual: Array) -> Sequence[tuple[str, str]]:
    """Pairs of devices (copy, original) whose values agree to the last digit wherever both have the question."""
    devices = inputs.groups.get("device")
    if devices is None or len(devices.names) < 2:
        return []
    questions = _questions(inputs)
    drawn = np.flatnonzero(questions % np.uint64(1 + len(questions) // COMPARED) == 0)
    tables: list[dict[int, float]] = [{} for _ in devices.names]
    for row in drawn:
        tables[devices.codes[row]][int(questions[row])] = float(actual[row])
    found: list[tuple[str, str]] = []
    for second in range(1, len(tables)):
        for first in range(second):
            common = tables[first].keys() & tables[second].keys()
            if len(common) < MIN_COPIED:
                continue
            equal = sum(tables[first][one] == tables[second][one] for one in common)
            if equal > 0.9 * len(common):
                found.append((devices.names[second], devices.names[first]))
                break
    return found


def _questions(inputs: Inputs) -> npt.NDArray[np.uint64]:
    """What a row asks of whichever device: its quantities, categories and backend; shape (n,)."""
    columns = {str(place): values for place, values in enumerate(inputs.ranges.T)}
    named = inputs.categories | {name: inputs.groups[name] for name in ("backend", "llm") if name in inputs.groups}
    table = pa.table(columns | {name: pa.array(one.texts()) for name, one in named.items()})
    return digest(table, table.column_names)


def _one_each(inputs: Inputs, actual: Array) -> Index:
    """Of every content the row whose value is the (lower) median, in the order of content."""
    order = np.lexsort([actual, inputs.content])
    content = inputs.content[order]
    starts = np.flatnonzero(np.concatenate([[True], content[1:] != content[:-1]])) if len(content) else np.empty(0, int)
    sizes = np.diff(np.append(starts, len(content)))
    return np.asarray(order[starts + (sizes - 1) // 2], np.intp)


def _note(notes: list[str], number_of: int, total: int, what: str) -> None:
    if number_of:
        notes.append(f"{number_of} of {total} rows {what}.")
