"""Time of a whole run: forward pass, prefill, decode step and generation, alone on the device; and of a training step.

Rows are those of the query `training_runs`, or totals of `models.analytical.evaluate` with the LLM's shape, passed through
`devices.with_devices`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array, Inputs, Labels, Mask, digest, joined, labels, log, number, optional
from models.learned.model import Variant
from models.learned.subjects import devices
from models.learned.targets import Target
from warehouse import schema

PHASES = ("forward", "prefill", "decode", "generate")
CONTENT = (
    "llm_id", "hardware_id", "num_devices", "tensor_parallel", "pipeline_parallel", "phase", "batch_size", "input_tokens",
    "output_tokens", "context_tokens", "weight_dtype", "activation_dtype", "kv_dtype", "attention", "optimizations", "execution",
    "cache_implementation", "framework", "framework_version",
)  # fmt: skip
"""What makes two runs the same question."""


def latency(rows: pa.Table) -> Inputs:
    """Inputs of runs that process a batch from beginning to end.

    Terms, all fitted: a constant for every layer of every step, FLOPs and bytes at the datasheet's peaks, the part of the bytes that
    is activations (eager code moves them more often than the model counts), transfers between devices.
    """
    phase, framework = labels(rows, "phase"), labels(rows, "framework")
    layers = number(rows, "num_layers") + np.nan_to_num(optional(rows, "num_encoder_layers"))
    passes = steps(rows, phase)
    compute, memory, bound = number(rows, "compute_s"), number(rows, "memory_s"), number(rows, "roofline_s")
    activations = number(rows, "activation_bytes_read") + number(rows, "activation_bytes_written")
    share = activations / number(rows, "bytes_moved")
    transfers = np.nan_to_num(optional(rows, "communication_s"))
    new_tokens = number(rows, "batch_size") * tokens(rows, phase)
    weight, activation = labels(rows, "weight_dtype"), labels(rows, "activation_dtype")
    about_device = devices.features(rows, activation)
    device, dtype = labels(rows, "hardware_id"), joined(weight, activation)
    run_as = joined(framework, labels(rows, "execution"))
    return Inputs(
        terms=np.column_stack([layers * passes, compute, memory, memory * share, transfers]),
        term_names=("layer_steps", "compute_s", "memory_s", "activation_s", "communication_s"),
        priors=(0.0, 1.5, 1.5, 0.0, 1.0),
        keys=(joined(device, run_as, dtype), joined(device, framework), run_as),
        features=np.column_stack(
            [
                log(compute) - log(memory),
                log(bound) - log(layers * passes),
                log(new_tokens),
                log(number(rows, "hidden_size")),
                share,
                about_device,
            ]
        ),
        feature_names=(
            "log_compute_over_memory",
            "log_roofline_per_layer",
            "log_new_tokens",
            "log_hidden_size",
            "activation_share",
            *devices.FEATURES,
        ),
        device_features=frozenset(devices.FEATURES),
        ranges=np.column_stack(
            [number(rows, "num_parameters"), number(rows, "batch_size"), attended(rows, phase), bound]
        ),
        range_names=("num_parameters", "batch_size", "tokens", "roofline_s"),
        categories={
            "phase": phase,
            "architecture": labels(rows, "architecture"),
            "weight_dtype": weight,
            "activation_dtype": activation,
            "num_devices": labels(rows, "num_devices"),
            "execution": labels(rows, "execution"),
        },
        groups={
            "llm": labels(rows, "llm_id"),
            "family": labels(rows, "family"),
            "device": device,
            "generation": devices.generation(rows),
            "backend": framework,
            "stack": joined(device, framework),
        },
        content=digest(rows, CONTENT),
        bound=bound,
        estimate=optional(rows, "estimate_s"),
    )


def doubts(rows: pa.Table) -> dict[str, Mask]:
    """Rows that say nothing of the device alone, and rows without the analytical row that terms are made of, with the reason."""
    found = {
        "were measured while other processes kept the machine busy": optional(rows, "other_load_ratio")
        > schema.QUIET_LOAD_RATIO,
    }
    if "has_twin" in rows.column_names:
        has_twin = number(rows, "has_twin") > 0
        has_llm = number(rows, "has_llm") > 0
        found["name no LLM of the catalogue: they have no analytical row"] = ~has_llm & ~has_twin
        found["have no analytical row: what they ran is stated too little, or beyond the analytical model"] = (
            has_llm & ~has_twin
        )
    return found


def steps(rows: pa.Table, phase: Labels) -> Array:
    """Passes through the layers: one, or one for each generated token; shape (n,)."""
    return np.where(phase.mask("generate"), optional(rows, "output_tokens"), 1.0)


def tokens(rows: pa.Table, phase: Labels) -> Array:
    """Tokens of one sequence that go through the layers: one of a decode step, those of an encoder-decoder's decoder too; (n,)."""
    given, generated = optional(rows, "input_tokens"), np.nan_to_num(optional(rows, "output_tokens"))
    return np.where(phase.mask("decode"), 1.0, given + generated)


def attended(rows: pa.Table, phase: Labels) -> Array:
    """Tokens of one sequence that are attended to in the end; shape (n,)."""
    return np.where(phase.mask("decode"), optional(rows, "context_tokens"), tokens(rows, phase))


TARGETS = (
    Target(
        key="latency",
        what="time of one forward pass, prefill, decode step or generation",
        metric="latency_s",
        unit="s",
        query="training_runs",
        inputs=latency,
        recipes={0: (Variant("linear", "gaussian", "work"),), 400: (Variant("linear", "trees"),)},
        dimensions=("random", "llm", "device", "backend"),
        splits=("leave_model_out", "leave_family_out", "leave_device_out", "leave_stack_out", "beyond_size", "random"),
        parameters={"phases": list(PHASES)},
        min_groups=3,
        doubts=doubts,
    ),
)
