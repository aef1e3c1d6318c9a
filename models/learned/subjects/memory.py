"""Peak memory of one device: what torch allocated, what it reserved, what the driver counts. Three metrics, never mixed.

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

PASSES = ("forward", "prefill", "decode")
GENERATIONS = ("generate",)
TERMS = (
    "weights_bytes", "quantized_bytes", "kv_cache_bytes", "activation_peak_bytes", "logits_bytes", "scores_bytes", "constant",
)  # fmt: skip
PRIORS = (1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
"""Coefficients where the rows cannot tell: everything held once, no memory beside."""
UPCAST_BYTES = 4.0
"""Logits and attention scores of fewer bytes are copied to fp32 before a softmax or a loss."""
CONTENT = (
    "llm_id", "hardware_id", "num_devices", "tensor_parallel", "pipeline_parallel", "phase", "batch_size", "input_tokens",
    "output_tokens", "context_tokens", "weight_dtype", "activation_dtype", "kv_dtype", "attention", "execution", "framework",
    "framework_version", "is_allocator_counted",
)  # fmt: skip
"""What makes two runs the same question."""


def inference(rows: pa.Table) -> Inputs:
    """Inputs of passes and generations without gradients.

    Terms, in bytes of one device: what is stored in the activations' dtype (of quantised weights the embedding table and the head),
    what is quantised (scales and zero points are a share of it), KV cache (of a forward pass too: it is returned), activations,
    logits with their fp32 copy, scores of attention that is written out, and a constant: context, libraries, workspace.
    """
    phase, weight, activation = (labels(rows, name) for name in ("phase", "weight_dtype", "activation_dtype"))
    element, stored = devices.dtype_bytes(activation), devices.dtype_bytes(weight)
    batch, vocabulary = number(rows, "batch_size"), number(rows, "vocab_size")
    ranks = np.nan_to_num(optional(rows, "tensor_parallel"), nan=1.0)
    processed, attended, scored = _tokens(rows, phase)
    weights = number(rows, "weights_bytes")
    is_quantized = stored < element
    tables = 2 * vocabulary * number(rows, "hidden_size") / ranks
    whole = np.where(is_quantized, tables * element, weights)
    quantized = np.where(is_quantized, np.maximum(weights - tables * stored, 0.0), 0.0)
    copied = element + np.where(element < UPCAST_BYTES, UPCAST_BYTES, 0.0)
    logits = batch * scored * vocabulary / ranks * copied
    is_written = labels(rows, "attention").among(("eager", "unstated")) & ~phase.mask("decode")
    scores = np.where(is_written, batch * number(rows, "num_heads") / ranks * processed * processed * copied, 0.0)
    device, counted = labels(rows, "hardware_id"), _counting(rows)
    run_as = joined(device, phase, counted)
    return Inputs(
        terms=np.column_stack(
            [
                whole,
                quantized,
                _cache(rows, phase, batch * attended * element / ranks),
                number(rows, "activation_peak_bytes"),
                logits,
                scores,
                np.ones(rows.num_rows),
            ]
        ),
        term_names=TERMS,
        priors=PRIORS,
        keys=(run_as, joined(device, phase), device),
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
            "shape": _shape(rows),
            "device": device,
            "generation": devices.generation(rows),
        },
        content=digest(rows, CONTENT),
        bound=weights + np.nan_to_num(optional(rows, "kv_cache_bytes")),
        estimate=optional(rows, "memory_peak_bytes"),
    )


def _tokens(rows: pa.Table, phase: Labels) -> tuple[Array, Array, Array]:
    """Tokens of one sequence, shape (n,): processed by one execution, attended to in the end, given a logit at once.

    A decode step processes one token, a generation its prompt and then one after the other. A forward pass of an encoder-decoder
    processes its output tokens too, and only those get logits; an encoder has no language-model head; every other pass is taken
    to give each token its logits.
    """
    given, generated = number(rows, "input_tokens"), np.nan_to_num(optional(rows, "output_tokens"))
    architecture, is_decode = labels(rows, "architecture"), phase.mask("decode")
    processed = np.where(is_decode, 1.0, np.where(phase.mask("generate"), given, given + generated))
    attended = np.where(is_decode, number(rows, "context_tokens"), given + generated)
    scored = np.where(architecture.mask("encoder_decoder"), np.where(is_decode, 1.0, generated), processed)
    return processed, attended, np.where(architecture.mask("encoder"), 0.0, scored)


def _cache(rows: pa.Table, phase: Labels, tokens_bytes: Array) -> Array:
    """Bytes of the KV cache; of a decoder's forward pass those of its keys and values, which the pass returns; shape (n,)."""
    planned = np.nan_to_num(optional(rows, "kv_cache_bytes"))  # an encoder keeps none
    layers = number(rows, "num_layers")
    returned = 2 * layers * number(rows, "num_kv_heads") * number(rows, "head_dim") * tokens_bytes
    is_returned = phase.mask("forward") & labels(rows, "architecture").mask("decoder")
    return np.where(is_returned, returned, planned)


def _counting(rows: pa.Table) -> Labels:
    """Whether a row's tool counts torch's allocator too; a tool that asks the driver alone also sees what an earlier pass left.

    A question that does not say is taken to be counted like our own collectors do.
    """
    counted = np.nan_to_num(optional(rows, "is_allocator_counted"), nan=1.0) > 0
    return Labels(counted.astype(np.int64), ("driver alone", "allocator too"))


def _shape(rows: pa.Table) -> Labels:
    """LLMs of one architecture under several names."""
    return joined(*(labels(rows, name) for name in ("num_layers", "hidden_size", "num_kv_heads", "vocab_size")))


def _target(key: str, what: str, metric: str, phases: tuple[str, ...]) -> Target:
    return Target(
        key=key,
        what=what,
        metric=metric,
        unit="B",
        query="training_memory",
        inputs=inference,
        recipes={0: (Variant("linear"),)},
        dimensions=("random", "llm", "device"),
        splits=("leave_model_out", "leave_shape_out", "leave_device_out", "random"),
        parameters={"phases": list(phases)},
    )


ALLOCATED, RESERVED, DEVICE = "memory_peak_bytes", "memory_reserved_bytes", "memory_device_bytes"
TARGETS = (
    _target("memory_allocated", "peak memory that torch allocates (on a CPU the resident set)", ALLOCATED, (*PASSES, *GENERATIONS)),
    _target("memory_reserved", "peak memory that torch's allocator holds in a pass", RESERVED, PASSES),
    _target("memory_reserved_generation", "the same in a generation, whose growing cache leaves holes", RESERVED, GENERATIONS),
    _target("memory_device", "peak memory of the device as its driver counts it, in a pass", DEVICE, PASSES),
    _target("memory_device_generation", "the same in a generation, whose growing cache leaves holes", DEVICE, GENERATIONS),
)  # fmt: skip
