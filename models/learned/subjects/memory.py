"""Peak memory of one device: what torch allocated, what it reserved, what the driver counts. Three targets, never mixed.

Rows are those of the query `training_memory`, or totals of `models.analytical.evaluate` with the LLM's shape, passed through
`devices.with_devices`. Physics alone, each term with a fitted non-negative coefficient: no correction helps on an LLM never seen.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array, Inputs, Labels, digest, joined, labels, number, optional
from models.learned.model import Variant
from models.learned.subjects import devices
from models.learned.targets import Target

PHASES = ("forward", "prefill", "decode", "generate")
TERMS = ("weights_bytes", "tables_bytes", "kv_cache_bytes", "activation_peak_bytes", "logits_bytes", "constant")
PRIORS = (1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
"""Memory as the analytical model counts it, where the rows cannot tell."""
CONTENT = (
    "llm_id", "hardware_id", "num_devices", "tensor_parallel", "pipeline_parallel", "phase", "batch_size", "input_tokens",
    "output_tokens", "context_tokens", "weight_dtype", "activation_dtype", "kv_dtype", "attention", "execution", "framework",
)  # fmt: skip
"""What makes two runs the same question."""


def inference(rows: pa.Table) -> Inputs:
    """Inputs of passes and generations without gradients.

    Terms: weights; embedding table and head in the activations' dtype where the weights are quantised; KV cache; activations;
    logits of all the tokens that get them; a constant (context, libraries).
    """
    phase, weight, activation = (labels(rows, name) for name in ("phase", "weight_dtype", "activation_dtype"))
    element, stored = devices.dtype_bytes(activation), devices.dtype_bytes(weight)
    batch, vocabulary = number(rows, "batch_size"), number(rows, "vocab_size")
    processed, attended, scored = _tokens(rows, phase)
    tables = 2 * vocabulary * number(rows, "hidden_size") * np.maximum(element - stored, 0.0)
    logits = batch * scored * vocabulary * element
    cache = np.nan_to_num(number(rows, "kv_cache_bytes"))  # an encoder keeps none
    weights, activations = number(rows, "weights_bytes"), number(rows, "activation_peak_bytes")
    resident = weights + cache
    device = labels(rows, "hardware_id")
    return Inputs(
        terms=np.column_stack([weights, tables, cache, activations, logits, np.ones(rows.num_rows)]),
        term_names=TERMS,
        priors=PRIORS,
        keys=(joined(device, phase, weight), joined(device, weight), device),
        features=np.column_stack([np.log(batch), np.log(processed), np.log(weights)]),
        feature_names=("log_batch", "log_new_tokens", "log_weights"),
        device_features=frozenset(),
        ranges=np.column_stack([number(rows, "num_parameters"), batch, attended]),
        range_names=("num_parameters", "batch_size", "tokens"),
        categories={
            "phase": phase,
            "architecture": labels(rows, "architecture"),
            "weight_dtype": weight,
            "activation_dtype": activation,
            "num_devices": labels(rows, "num_devices"),
        },
        groups={
            "llm": labels(rows, "llm_id"),
            "family": labels(rows, "family"),
            "device": device,
            "generation": devices.generation(rows),
        },
        content=digest(rows, CONTENT),
        bound=resident,
        estimate=number(rows, "memory_peak_bytes"),
    )


def _tokens(rows: pa.Table, phase: Labels) -> tuple[Array, Array, Array]:
    """Tokens of one sequence, shape (n,): processed by one execution, attended to, given a logit.

    A decode step processes one token. A forward pass of an encoder-decoder processes its output tokens too, and only those get
    logits; an encoder has no language-model head; every other pass is taken to give each token its logits.
    """
    given, generated = number(rows, "input_tokens"), np.nan_to_num(optional(rows, "output_tokens"))
    architecture, is_decode = labels(rows, "architecture"), phase.mask("decode")
    processed = np.where(is_decode, 1.0, given + generated)
    attended = np.where(is_decode, number(rows, "context_tokens"), given + generated)
    scored = np.where(architecture.mask("encoder_decoder"), np.where(is_decode, 1.0, generated), processed)
    return processed, attended, np.where(architecture.mask("encoder"), 0.0, scored)


def _target(key: str, what: str, metric: str) -> Target:
    return Target(
        key=key,
        what=what,
        metric=metric,
        unit="B",
        query="training_memory",
        inputs=inference,
        recipes={0: (Variant("linear"),)},
        dimensions=("random", "llm", "device"),
        splits=("leave_model_out", "leave_device_out", "random"),
        parameters={"phases": list(PHASES), "source": None},
    )


TARGETS = (
    _target("memory_allocated", "peak memory as torch allocates it (on a CPU the resident set)", "memory_peak_bytes"),
    _target("memory_reserved", "peak memory that torch's allocator holds", "memory_reserved_bytes"),
    _target("memory_device", "peak memory of the device as its driver counts it", "memory_device_bytes"),
)
