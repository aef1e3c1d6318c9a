"""Energy of an output token, and power of one matrix product: what devices draw while they compute, move bytes, and wait.

Rows are those of the queries `training_energy` and `training_kernels`, passed through `devices.with_devices`. Public sources that a lake
can import today hold hardly any: a target without rows says how to measure some.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from models.learned.inputs import Inputs, digest, joined, labels, log, number, optional
from models.learned.model import Variant
from models.learned.subjects import devices, kernels, runs
from models.learned.targets import Target

PHASES = ("decode", "generate")
HOW = "Measure some with `rooflake collect local_profile --energy` on a device whose energy can be read."


def token(rows: pa.Table) -> Inputs:
    """Inputs of decode steps and generations. Terms in joules an output token, each a time at the power that all devices are built for
    (TDP): FLOPs at peak, bytes at peak, and the steps through layers, in which devices wait for their host."""
    phase = labels(rows, "phase")
    passes = runs.steps(rows, phase)
    tokens = number(rows, "batch_size") * passes
    watts = devices.device(rows, "tdp_w") * number(rows, "num_devices")
    compute, memory, bound = number(rows, "compute_s"), number(rows, "memory_s"), number(rows, "roofline_s")
    layers = number(rows, "num_layers") + np.nan_to_num(optional(rows, "num_encoder_layers"))
    device, framework = labels(rows, "hardware_id"), labels(rows, "framework")
    run_as = joined(framework, labels(rows, "execution"))
    return Inputs(
        terms=np.column_stack([one * watts / tokens for one in (compute, memory, LAUNCH_S * layers * passes)]),
        term_names=("compute_j", "memory_j", "waiting_j"),
        priors=(1.0, 1.0, 0.0),
        keys=(joined(device, run_as), device),
        features=np.column_stack([log(compute) - log(memory), log(number(rows, "batch_size")), log(bound)]),
        feature_names=("log_compute_over_memory", "log_batch", "log_roofline"),
        device_features=frozenset(),
        ranges=np.column_stack([number(rows, "num_parameters"), number(rows, "batch_size"), bound]),
        range_names=("num_parameters", "batch_size", "roofline_s"),
        categories={"phase": phase, "weight_dtype": labels(rows, "weight_dtype")},
        groups={
            "llm": labels(rows, "llm_id"),
            "family": labels(rows, "family"),
            "device": device,
            "generation": devices.generation(rows),
            "backend": framework,
        },
        content=digest(rows, runs.CONTENT),
        bound=bound * watts / tokens,
        estimate=optional(rows, "energy_per_output_token_j"),
    )


LAUNCH_S = 1e-4
"""Unit of the time that a layer of a step waits for the host."""


def power(rows: pa.Table) -> Inputs:
    """Inputs of matrix products as watts. Terms: what a device draws at rest, at most when it computes, at most when it moves bytes,
    each as a share of its TDP."""
    product, watts = kernels.gemm(rows), devices.device(rows, "tdp_w")
    compute, memory = product.terms[:, 0], product.terms[:, 1:].sum(axis=1)
    whole = np.maximum(compute, memory)
    return replace(
        product,
        terms=watts[:, None] * np.column_stack([np.ones(len(product)), compute / whole, memory / whole]),
        term_names=("rest_w", "compute_w", "memory_w"),
        priors=(0.3, 0.4, 0.3),
        bound=watts,
        estimate=watts,
    )


TARGETS = (
    Target(
        key="energy_token",
        what="energy of all devices for one output token",
        metric="energy_per_output_token_j",
        unit="J/token",
        query="training_energy",
        inputs=token,
        recipes={0: (Variant("linear"),)},
        dimensions=("random", "llm", "device"),
        splits=("leave_model_out", "leave_device_out", "random"),
        parameters={"phases": list(PHASES), "source": None},
        how=HOW,
    ),
    Target(
        key="gemm_power",
        what="power of the device during one matrix product",
        metric="power_w",
        unit="W",
        query="training_kernels",
        inputs=power,
        recipes={0: (Variant("linear"),), 400: (Variant("linear", "trees"),)},
        dimensions=("random", "device", "generation"),
        splits=("leave_device_out", "leave_shape_out", "random"),
        parameters={"op_kinds": list(kernels.GEMM_KINDS)},
        how="Import kernel tables that hold a column `power` (aiconfigurator's collector can write it).",
    ),
)
