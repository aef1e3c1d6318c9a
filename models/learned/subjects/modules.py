"""Time of a module of an LLM, everything below it included: a projection, an attention block, a layer, the whole stack.

Rows are those of the query `training_modules`, passed through `devices.with_devices`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.inputs import Inputs, Mask, digest, joined, labels, log, number, optional
from models.learned.model import Variant
from models.learned.subjects import devices
from models.learned.targets import Target
from warehouse import schema

CONTENT = (
    "hardware_id", "framework", "framework_version", "execution", "weight_dtype", "activation_dtype", "op_kind", "class_name",
    "batch_size", "flops", "bytes_moved",
)  # fmt: skip


def module(rows: pa.Table) -> Inputs:
    """Inputs of modules. One without products has no FLOPs stated: its compute term is zero, its bytes must be known."""
    weight, activation, kind = labels(rows, "weight_dtype"), labels(rows, "activation_dtype"), labels(rows, "op_kind")
    flops, moved = np.nan_to_num(number(rows, "flops")), number(rows, "bytes_moved")
    compute = flops / devices.peak(rows, activation)
    memory = moved / devices.device(rows, "memory_bandwidth_bytes_per_s")
    device, framework, execution = labels(rows, "hardware_id"), labels(rows, "framework"), labels(rows, "execution")
    run_as, bound = joined(device, framework, execution), np.maximum(compute, memory)
    work = np.column_stack(
        [log(bound), np.log1p(compute / memory), log(moved), log(number(rows, "batch_size")), log(flops + 1.0)]
    )
    return Inputs(
        terms=np.column_stack([np.ones(rows.num_rows), compute, memory]),
        term_names=("calls", "compute_s", "memory_s"),
        priors=(0.0, 1.5, 1.5),
        keys=(joined(run_as, kind, labels(rows, "class_name")), joined(run_as, kind), run_as, kind),
        features=np.column_stack([work, devices.features(rows, activation)]),
        feature_names=("log_bound", "compute_over_memory", "log_bytes", "log_batch", "log_flops", *devices.FEATURES),
        device_features=frozenset(devices.FEATURES),
        ranges=np.column_stack([moved, flops]),
        range_names=("bytes_moved", "flops"),
        categories={"op_kind": kind, "weight_dtype": weight, "activation_dtype": activation, "execution": execution},
        groups={
            "llm": labels(rows, "llm_id"),
            "family": labels(rows, "family"),
            "device": device,
            "generation": devices.generation(rows),
            "backend": framework,
        },
        content=digest(rows, CONTENT),
        bound=bound,
        estimate=bound,
    )


def doubts(rows: pa.Table) -> dict[str, Mask]:
    """Rows that say nothing of the device alone, with the reason."""
    return {
        "were measured while other processes kept the machine busy": optional(rows, "other_load_ratio")
        > schema.QUIET_LOAD_RATIO
    }


TARGETS = (
    Target(
        key="module_time",
        what="time of one module of an LLM, those below it included",
        metric="time_s",
        unit="s",
        query="training_modules",
        inputs=module,
        recipes={0: (Variant("nested"),), 2000: (Variant("nested", "trees", "work"),)},
        dimensions=("random", "llm", "device"),
        splits=("leave_model_out", "leave_family_out", "leave_device_out", "random"),
        doubts=doubts,
    ),
)
