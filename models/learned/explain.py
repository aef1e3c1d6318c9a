"""Why a value is what it is, what the model leans on, and where it is wrong. Arrow tables out; charts are drawn elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from models.learned import model, residuals
from models.learned.fitted import Fitted
from models.learned.inputs import UNSTATED, Array, Inputs, Labels, labels
from models.learned.subjects import devices

GROUPS: Mapping[str, tuple[str, ...]] = {
    "tiles and waves": ("wave", "padding", "alignment", "tile", "blocks"),
    "work and bound": ("log_compute", "log_memory", "log_ridge", "log_flops", "log_bytes", "log_bound", "log_base", "log_estimate",
                       "log_intensity", "log_roofline", "flops_", "bytes_"),
    "number format": ("element_bytes", "stored_bytes", "weight_bytes", "is_fp", "dtype"),
    "load": ("log_concurrency", "log_rate", "utilisation", "queue", "load"),
    "software": ("version", "is_backend", "backend", "framework", "execution", "is_compiled", "is_graph"),
    "parallelism": ("tensor_parallel", "log_tensor", "log_devices", "num_devices", "expert_parallel", "collective"),
}  # fmt: skip
"""Group of features -> beginnings of their names. Features of the device are `device`, those that begin with none `shape`."""
NEEDED = ("memory_bandwidth_bytes_per_s", "memory_bytes")
"""Numbers of a device that every bound is made of, beside the peak of the dtype."""
MAX_LABELS = 40
"""Slices of a dimension with more labels are left out: nobody reads them."""


def group_of(name: str, device_features: frozenset[str]) -> str:
    """The group of a feature."""
    if name in device_features:
        return "device"
    return next((group for group, beginnings in GROUPS.items() if name.startswith(beginnings)), "shape")


def contributions(fitted: model.Model, inputs: Inputs) -> tuple[Array, Array]:
    """What each feature adds to the log of the value (n, d), and what is no feature's (n,); with the log of the base they add up.

    Of trees they are the exact SHAP values (Lundberg et al. 2020, TreeSHAP), over the features of `inputs`; a Gaussian process
    counts as a whole. The mean over the variants.
    """
    share = 1.0 / len(fitted.parts)
    of_features, rest = np.zeros(inputs.features.shape), np.zeros(len(inputs))
    for _, _, residual in fitted.parts:
        if isinstance(residual, residuals.Trees):
            columns = [inputs.feature_names.index(name) for name in residual.names]
            found = residual.booster.predict(inputs.features[:, columns], pred_contrib=True, num_threads=1)
            of_features[:, columns] += share * found[:, :-1]
            rest += share * found[:, -1]
        else:
            rest += share * residual.values(inputs)
    return of_features, rest


def breakdown(fitted: Fitted, one: Inputs) -> pa.Table:
    """From bound to value of the single row of `one`: columns step, factor, value (after the step, in the target's unit).

    The bound, the fitted base, the correction that all rows share, and one step for each group of features, the strongest first.
    Raises ValueError where the row has no value.
    """
    if not one.is_complete[0]:
        raise ValueError(
            "A row without a value has nothing to explain: a number that its bound is made of is not known."
        )
    value = float(one.bound[0])
    steps = [("bound", 1.0, value)] if np.isfinite(value) and value > 0 else []
    base = float(np.exp(fitted.fitted.log_bases(one)[0]))
    steps.append(("base", base / value if steps else 1.0, base))
    of_features, rest = contributions(fitted.fitted, one)
    added: dict[str, float] = {"correction of all rows": float(rest[0])}
    for name, amount in zip(one.feature_names, of_features[0], strict=True):
        group = group_of(name, one.device_features)
        added[group] = added.get(group, 0.0) + float(amount)
    first, *groups = added.items()
    for step, amount in [first, *sorted(groups, key=lambda item: (-abs(item[1]), item[0]))]:
        if amount != 0.0:
            steps.append((step, float(np.exp(amount)), steps[-1][2] * float(np.exp(amount))))
    names, factors, values = zip(*steps, strict=True)
    return pa.table({"step": pa.array(names), "factor": pa.array(factors), "value": pa.array(values)})


def importances(fitted: model.Model, inputs: Inputs, actual: Array) -> pa.Table:
    """By how much the mean absolute percentage error of held-out rows grows when one feature, or one term of the base, is shuffled.

    Columns feature, group, increase (ratio), the largest first. The order of shuffling is fixed.
    """
    order = np.random.default_rng(2026).permutation(len(inputs))

    def error(changed: Inputs) -> float:
        return float(np.mean(np.abs(np.exp(fitted.log_values(changed)) - actual) / actual))

    whole = error(inputs)
    found = []
    for position, name in enumerate(inputs.feature_names):
        features = inputs.features.copy()
        features[:, position] = features[order, position]
        found.append((name, group_of(name, inputs.device_features), error(replace(inputs, features=features)) - whole))
    for position, name in enumerate(inputs.term_names):
        terms = inputs.terms.copy()
        terms[:, position] = terms[order, position]
        found.append((name, "base", error(replace(inputs, terms=terms)) - whole))
    found.sort(key=lambda one: (-one[2], one[0]))
    names, groups, increases = zip(*found, strict=True)
    return pa.table({"feature": pa.array(names), "group": pa.array(groups), "increase": pa.array(increases)})


def residual_points(inputs: Inputs, rows: pa.Table, actual: Array, value: Array) -> pa.Table:
    """Points of residual plots: actual, value, residual (log of value over actual), size, and a column for every dimension."""
    columns = {"actual": actual, "value": value, "residual": np.log(value / actual), "size": inputs.ranges[:, 0]}
    named = {name: pa.array(one.texts().tolist(), pa.string()) for name, one in dimensions(inputs, rows).items()}
    return pa.table(
        {name: pa.array(values, pa.float64(), from_pandas=True) for name, values in columns.items()} | named
    )


def slices(inputs: Inputs, rows: pa.Table, actual: Array, value: Array, lower: Array, upper: Array) -> pa.Table:
    """Errors of held-out rows by device, LLM, phase, number format, size ...: dimension, label, num_rows, mape, mdape, bias, coverage.

    Rows without a value are left out; coverage is NULL where no row has an interval. The worst of a dimension first.
    """
    found: list[dict[str, Any]] = []
    has_value = np.isfinite(value)
    ape, ratio = np.abs(value - actual) / actual, value / actual
    has_interval = np.isfinite(lower) & np.isfinite(upper)
    is_inside = (actual >= lower) & (actual <= upper)
    for dimension, one in dimensions(inputs, rows).items():
        if len(one.names) > MAX_LABELS:
            continue
        for label in one.names:
            mask = one.mask(label) & has_value
            if mask.any():
                known = mask & has_interval
                found.append({
                    "dimension": dimension, "label": label, "num_rows": int(mask.sum()), "mape": float(ape[mask].mean()),
                    "mdape": float(np.median(ape[mask])), "bias": float(np.median(ratio[mask]) - 1),
                    "coverage": float(is_inside[known].mean()) if known.any() else None,
                })  # fmt: skip
    found.sort(key=lambda row: (row["dimension"], -row["mape"], row["label"]))
    return pa.Table.from_pylist(found, schema=_SLICES)


_SLICES = pa.schema(
    [
        ("dimension", pa.string()),
        ("label", pa.string()),
        ("num_rows", pa.int64()),
        *((name, pa.float64()) for name in ("mape", "mdape", "bias", "coverage")),
    ]
)


def dimensions(inputs: Inputs, rows: pa.Table) -> dict[str, Labels]:
    """What errors are told apart by: groups, categories and phase of the rows, and quarters of their size."""
    found = {name: one for name, one in {**inputs.groups, **inputs.categories}.items() if name != "shape"}
    if "phase" in rows.column_names:
        found["phase"] = labels(rows, "phase")
    size = inputs.ranges[:, 0]
    if np.isfinite(size).all() and len(size):
        edges = np.unique(np.quantile(size, [0.25, 0.5, 0.75], method="lower"))
        names = (
            *(f"{inputs.range_names[0]} <= {edge:g}" for edge in edges),
            f"{inputs.range_names[0]} > {edges[-1]:g}",
        )
        found["size"] = Labels(np.searchsorted(edges, size, side="left").astype(np.int64), names)
    return found


def incomplete(rows: pa.Table, inputs: Inputs) -> str:
    """Why the single row has no value: the terms that are not known, and the specifications that its device lacks."""
    unknown = [name for name, value in zip(inputs.term_names, inputs.terms[0], strict=True) if not np.isfinite(value)]
    device = labels(rows, "hardware_id").texts()[0]
    element = labels(rows, "activation_dtype").texts()[0]
    numbers = [name for name in NEEDED if np.isnan(devices.device(rows, name)[0])]
    if element == UNSTATED and not numbers:
        return "No value: the number formats are not stated, and no run like it says which are usual. State them."
    if np.isnan(devices.peak(rows, labels(rows, "activation_dtype"))[0]):
        numbers.append(f"peak_{element}_flops_per_s")
    lacks = f"{device} lacks {', '.join(numbers)} in the hardware catalogue. " if numbers else ""
    return (
        f"No value: {', '.join(unknown) or 'the work'} of this row is not known. {lacks}"
        "Add what is missing in warehouse/catalog/hardware.toml or llms.toml, or land a `hardware` or `llms` row."
    )
