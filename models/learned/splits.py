"""Frozen splits: which rows are held out together. They depend on what rows are, never on their order or on chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.learned.inputs import Index, Inputs, Mask

RANDOM, BEYOND = "random", "beyond_size"
LEAVE_OUT = {
    "leave_model_out": "llm",
    "leave_family_out": "family",
    "leave_device_out": "device",
    "leave_generation_out": "generation",
    "leave_backend_out": "backend",
    "leave_stack_out": "stack",
    "leave_shape_out": "shape",
}
"""Split -> the group of `Inputs.groups` it holds out. generation: the device's architecture; stack: device and backend."""
SPLITS = (*LEAVE_OUT, BEYOND, RANDOM)
NUM_RANDOM_FOLDS = 5
MAX_FOLDS = 16
"""Groups beyond it are held out several at a time."""
BEYOND_QUANTILE = 0.75
"""The split `beyond_size` learns from rows up to this quantile of their size (first of `Inputs.ranges`) and is scored above."""


@dataclass(frozen=True)
class Fold:
    """One held-out part of n rows; everything is fitted on `inside` alone. No content of `outside` is in `inside`."""

    split: str
    name: str
    inside: Index
    outside: Index


def dimension(split: str) -> str:
    """The group that a split holds out; of the random one the content itself."""
    return LEAVE_OUT.get(split, split)


def folds(inputs: Inputs, split: str, *, size_limit: float | None = None, few: int = 0) -> list[Fold]:
    """Every fold of a split over n rows, empty where the rows have no two groups to tell apart.

    A row whose content is held out is left out of `inside` too, whichever group it belongs to: another LLM with the same layer
    would hand over the answer. Rows that do not say which group is theirs are learnt from and never held out for it. `size_limit`
    sets where `beyond_size` cuts, else BEYOND_QUANTILE does. `few` rows of each held-out part, drawn by content, are learnt from as
    a calibration would: they are inside, and the others are scored. Raises ValueError for an unknown split.
    """
    found = []
    for name, held_out in _masks(inputs, split, size_limit):
        if not held_out.any():
            continue
        inside = ~held_out & ~np.isin(inputs.content, inputs.content[held_out])
        outside = np.flatnonzero(held_out)
        if few:
            drawn = outside[np.argsort(inputs.content[outside], kind="stable")][:few]
            inside[drawn] = True
            outside = np.flatnonzero(held_out & ~np.isin(inputs.content, inputs.content[drawn]))
        if inside.any() and len(outside):
            found.append(Fold(split, name, np.flatnonzero(inside), outside))
    return found


def _masks(inputs: Inputs, split: str, size_limit: float | None) -> list[tuple[str, Mask]]:
    if split == RANDOM:
        number = inputs.content % np.uint64(NUM_RANDOM_FOLDS)
        return [(str(one + 1), np.asarray(number == one, np.bool_)) for one in range(NUM_RANDOM_FOLDS)]
    if split == BEYOND:
        size = inputs.ranges[:, 0]
        limit = float(np.nanquantile(size, BEYOND_QUANTILE)) if size_limit is None else size_limit
        return [(f"{inputs.range_names[0]} > {limit:g}", np.asarray(size > limit, np.bool_))]
    if split not in LEAVE_OUT:
        raise ValueError(f"'{split}' is no split. Known: {', '.join(SPLITS)}. Add it in models/learned/splits.py.")
    labels = inputs.groups.get(LEAVE_OUT[split])
    names = [] if labels is None else sorted(labels.stated)
    if labels is None or len(names) < 2:
        return []
    blocks = [names[start::MAX_FOLDS] for start in range(min(MAX_FOLDS, len(names)))]
    return [
        (", ".join(block) if len(block) < 4 else f"{block[0]} and {len(block) - 1} more", labels.among(block))
        for block in blocks
    ]
