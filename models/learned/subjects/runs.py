"""Time of a whole run: forward pass, prefill, decode step and generation, alone on the device; and of a training step.

Rows are those of the query `training_runs`, or totals of `models.analytical.evaluate` with the LLM's shape, passed through
`devices.with_devices`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.inputs import UNSTATED, Array, Inputs, Labels, Mask, digest, joined, labels, log, number, optional
from models.learned.model import Variant
from models.learned.subjects import devices
from models.learned.targets import Target
from warehouse import schema

PHASES = ("forward", "prefill", "decode", "generate")
CONTENT = (
    "llm_id", "hardware_id", "num_devices", "tensor_parallel", "pipeline_parallel", "data_parallel", "phase", "batch_size", "input_tokens",
    "output_tokens", "context_tokens", "weight_dtype", "activation_dtype", "kv_dtype", "attention", "optimizations", "lora_rank", "execution",
    "cache_implementation", "framework", "framework_version",
)  # fmt: skip
"""What makes two runs the same question."""
TERMS = ("layer_steps", "compute_s", "memory_s", "weights_s", "activation_s", "communication_s", "sequence_steps")
FRAMEWORKS = ("pytorch", "vllm", "tensorrt-llm", "sglang", "llama.cpp", "deepspeed", "deepspeed-mii")
SCHEMES = ("gptq", "awq")
EXECUTIONS = ("eager", "compiled", "graph")
"""Ways to run that a correction tells apart; any other is told apart by its coefficients alone."""


def latency(rows: pa.Table) -> Inputs:
    """Inputs of runs that process a batch from beginning to end.

    Terms, all fitted: a constant for every layer of every step, FLOPs and bytes at the datasheet's peaks, the part of the bytes that
    is weights (a cache is read at another speed) and that is activations (moved more often than the model counts), transfers
    between devices, and a constant for every sequence of every step that ends in a token.
    """
    phase, framework, execution = labels(rows, "phase"), labels(rows, "framework"), labels(rows, "execution")
    weight, activation = labels(rows, "weight_dtype"), labels(rows, "activation_dtype")
    layers = number(rows, "num_layers") + np.nan_to_num(optional(rows, "num_encoder_layers"))
    batch, passes = number(rows, "batch_size"), steps(rows, phase)
    compute, memory, bound = number(rows, "compute_s"), number(rows, "memory_s"), number(rows, "roofline_s")
    moved = number(rows, "bytes_moved")
    weights = number(rows, "weight_bytes_read") / moved
    activations = (number(rows, "activation_bytes_read") + number(rows, "activation_bytes_written")) / moved
    transfers = np.nan_to_num(optional(rows, "communication_s"))
    sampled = np.where(phase.mask("generate"), batch * passes, 0.0)
    device, run_as = labels(rows, "hardware_id"), joined(framework, execution)
    scheme = quantisation(rows)
    names, values = zip(*_features(rows, phase).items(), strict=True)
    return Inputs(
        terms=np.column_stack(
            [layers * passes, compute, memory, memory * weights, memory * activations, transfers, sampled]
        ),
        term_names=TERMS,
        priors=(0.0, 1.5, 1.0, 0.5, 0.0, 1.0, 0.0),
        keys=(joined(device, run_as, weight, activation, scheme), joined(device, framework), run_as),
        features=np.column_stack([*values, devices.features(rows, activation)]),
        feature_names=(*names, *devices.FEATURES),
        device_features=frozenset(devices.FEATURES),
        ranges=np.column_stack(
            [
                number(rows, "num_parameters"),
                batch,
                attended(rows, phase),
                optional(rows, "num_devices"),
                np.nan_to_num(optional(rows, "pipeline_parallel"), nan=1.0),  # an absent degree means 1
                bound,
            ]
        ),
        range_names=("num_parameters", "batch_size", "tokens", "num_devices", "pipeline_parallel", "roofline_s"),
        categories={
            "phase": phase,
            "architecture": labels(rows, "architecture"),
            "weight_dtype": weight,
            "activation_dtype": activation,
            "execution": execution,
        },
        groups={
            "llm": labels(rows, "llm_id"),
            "family": labels(rows, "family"),
            "device": device,
            "generation": devices.generation(rows),
            "backend": framework,
            "stack": joined(device, framework),
        },
        content=digest(rows.append_column("scheme", pa.array(scheme.texts())), (*CONTENT, "scheme")),
        bound=bound,
        estimate=optional(rows, "estimate_s"),
    )


def _features(rows: pa.Table, phase: Labels) -> dict[str, Array]:
    """What a correction depends on besides the device: sides of the ridge, sizes of kernels, shares of the traffic, how it was run."""
    layers = number(rows, "num_layers") + np.nan_to_num(optional(rows, "num_encoder_layers"))
    batch, passes = number(rows, "batch_size"), steps(rows, phase)
    compute, memory, moved = number(rows, "compute_s"), number(rows, "memory_s"), number(rows, "bytes_moved")
    cache = np.nan_to_num(optional(rows, "kv_bytes_read")) + np.nan_to_num(optional(rows, "kv_bytes_written"))
    active, total = optional(rows, "num_active_parameters"), number(rows, "num_parameters")
    active = np.where(np.isnan(active), total, active)
    heads, kv_heads = optional(rows, "num_heads"), optional(rows, "num_kv_heads")
    num_devices = np.where(np.isnan(optional(rows, "num_devices")), 1.0, optional(rows, "num_devices"))
    generated = np.where(phase.mask("generate"), passes, 0.0)
    found = {
        "log_compute_over_memory": log(compute) - log(memory),
        "log_roofline_per_layer": log(number(rows, "roofline_s")) - log(layers * passes),
        "log_new_tokens": log(batch * tokens(rows, phase)),
        "log_hidden_size": log(number(rows, "hidden_size")),
        "activation_share": (number(rows, "activation_bytes_read") + number(rows, "activation_bytes_written")) / moved,
        "weight_share": number(rows, "weight_bytes_read") / moved,
        "cache_share": cache / moved,
        "log_batch": log(batch),
        "log_tokens": log(attended(rows, phase)),
        "log_generated": np.log1p(generated),
        "log_devices": np.log(num_devices),
        "log_layers": log(layers),
        "log_active_parameters": log(active),
        "log_inactive": log(total / active),
        "heads_per_cache": np.where(np.isfinite(kv_heads) & np.isfinite(heads), heads / kv_heads, 1.0),
        "log_weights_per_device": log(number(rows, "weights_bytes") / num_devices),
        "transfer_share": np.nan_to_num(optional(rows, "communication_s")) / (compute + memory),
    }
    for column, known in (("framework", FRAMEWORKS), ("execution", EXECUTIONS)):
        found |= {f"is_{name}": labels(rows, column).mask(name).astype(np.float64) for name in known}
    return found


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


def quantisation(rows: pa.Table) -> Labels:
    """How weights were quantised, where the checkpoint's name says it: kernels of one width differ several times between methods."""
    served = labels(rows, "served_model_name")
    schemes = [next((one for one in SCHEMES if one in name.lower()), UNSTATED) for name in served.names]
    return Labels.of(np.array([*schemes, UNSTATED], dtype=object)[served.codes])


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
        recipes={0: (Variant("nested", "gaussian", "work"),), 400: (Variant("nested", "trees"),)},
        dimensions=("random", "llm", "device", "backend", "stack", "beyond_size"),
        splits=("leave_model_out", "leave_family_out", "leave_device_out", "leave_stack_out", "beyond_size", "random"),
        parameters={"phases": list(PHASES)},
        min_groups=3,
        doubts=doubts,
    ),
    Target(
        key="training_step",
        what="time of one training step",
        metric="latency_s",
        unit="s",
        query="training_runs",
        inputs=latency,
        recipes={0: (Variant("estimate"), Variant("estimate", "gaussian", "work"))},
        dimensions=("random", "llm", "device"),
        splits=("leave_model_out", "leave_device_out", "random"),
        parameters={"phases": ["pretrain_step", "finetune_step"]},
        doubts=doubts,
    ),
)
