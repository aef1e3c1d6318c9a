"""Peak memory of one device: what torch allocated, what it reserved, what the driver counts. Three metrics, never mixed.

Rows are those of the query `training_memory`, or totals of `models.analytical.evaluate` with the LLM's shape, passed through
`devices.with_devices`. Physics alone, each term with a fitted non-negative coefficient: no correction helps on an LLM never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array, Inputs, Labels, Mask, digest, joined, labels, number, optional
from models.learned.model import Variant
from models.learned.subjects import devices
from models.learned.targets import Target

PASSES = ("forward", "prefill", "decode")
GENERATIONS = ("generate",)
STEPS = ("pretrain_step", "finetune_step")
TERMS = (
    "weights_bytes", "quantized_bytes", "kv_cache_bytes", "returned_bytes", "crossed_bytes", "activation_peak_bytes",
    "logits_bytes", "constant",
)  # fmt: skip
PRIORS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
"""Coefficients where the rows cannot tell: everything held once, no memory beside."""
STEP_TERMS = (
    "weights_bytes", "gradients_bytes", "optimizer_bytes", "activation_peak_bytes", "logits_bytes", "workspace_bytes", "constant",
)  # fmt: skip
STEP_PRIORS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
UPCAST_BYTES = 4.0
"""Logits of fewer bytes an element are copied to fp32."""
HEAD_COPIES = {"bart": 2.0}
"""LLM families whose head adds a bias to the logits and so holds them twice."""
CONTENT = (
    "llm_id", "hardware_id", "num_devices", "tensor_parallel", "pipeline_parallel", "phase", "batch_size", "input_tokens",
    "output_tokens", "context_tokens", "weight_dtype", "activation_dtype", "kv_dtype", "attention", "execution", "framework",
    "framework_version", "is_allocator_counted",
)  # fmt: skip
"""What makes two runs the same question."""


def inference(rows: pa.Table) -> Inputs:
    """Inputs of passes and generations without gradients.

    Terms, in bytes of one device: what is stored in the activations' dtype (of quantised weights the embedding table and the head),
    what is quantised (scales and zero points are a share of it), KV cache, the keys and values that a forward pass returns, of a
    decoder and of an encoder-decoder (there for the tokens of both sides), activations beside the logits, logits with their copies,
    and a constant: context, libraries, workspace.
    """
    phase, weight, activation = (labels(rows, name) for name in ("phase", "weight_dtype", "activation_dtype"))
    element, stored = devices.dtype_bytes(activation), devices.dtype_bytes(weight)
    batch = number(rows, "batch_size")
    ranks = np.nan_to_num(optional(rows, "tensor_parallel"), nan=1.0)
    processed, attended = _tokens(rows, phase)
    weights, logits = number(rows, "weights_bytes"), number(rows, "logits_bytes")
    cache = np.nan_to_num(number(rows, "kv_cache_bytes"))  # an encoder keeps none
    is_quantized = stored < element
    tables = 2 * number(rows, "vocab_size") * number(rows, "hidden_size") / ranks
    upcast = 1.0 + np.where(element < UPCAST_BYTES, UPCAST_BYTES, 0.0) / element
    kept = 2 * number(rows, "num_layers") * number(rows, "num_kv_heads") * number(rows, "head_dim") / ranks
    architecture = labels(rows, "architecture")
    returned = np.where(phase.mask("forward"), batch * processed * kept * element, 0.0)
    device = labels(rows, "hardware_id")
    return Inputs(
        terms=np.column_stack(
            [
                np.where(is_quantized, tables * element, weights),
                np.where(is_quantized, np.maximum(weights - tables * stored, 0.0), 0.0),
                cache,
                np.where(architecture.mask("decoder"), returned, 0.0),
                np.where(architecture.mask("encoder_decoder"), returned, 0.0),
                np.maximum(number(rows, "activation_peak_bytes") - logits, 0.0),
                logits * upcast * labels(rows, "family").lookup(HEAD_COPIES, 1.0),
                np.ones(rows.num_rows),
            ]
        ),
        term_names=TERMS,
        priors=PRIORS,
        keys=(joined(device, phase, _counting(rows)), joined(device, phase), device),
        features=np.column_stack([np.log(batch), np.log(processed), np.log(weights)]),
        feature_names=("log_batch", "log_new_tokens", "log_weights"),
        device_features=frozenset(),
        ranges=np.column_stack([number(rows, "num_parameters"), batch, attended]),
        range_names=("num_parameters", "batch_size", "tokens"),
        categories={
            "phase": phase,
            "architecture": architecture,
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
        bound=weights + cache,
        estimate=optional(rows, "memory_peak_bytes"),
    )


def training(rows: pa.Table) -> Inputs:
    """Inputs of training steps: what one device holds of weights, gradients, optimizer, activations beside the logits, logits, and the
    buffers that sharding gathers into, as the analytical model divides them by the run's optimizations; and a constant."""
    phase, optimizations = labels(rows, "phase"), labels(rows, "optimizations")
    batch, tokens, logits = number(rows, "batch_size"), number(rows, "input_tokens"), number(rows, "logits_bytes")
    weights = number(rows, "weights_bytes")
    gradients, optimizer, workspace = (
        np.nan_to_num(number(rows, name)) for name in ("gradients_bytes", "optimizer_bytes", "workspace_bytes")
    )
    activations = np.maximum(number(rows, "activation_peak_bytes") - logits, 0.0)
    device = labels(rows, "hardware_id")
    sharding = Labels.of([_sharding(name) for name in optimizations.texts()])
    held = [weights, gradients, optimizer, activations, logits]
    return Inputs(
        terms=np.column_stack([*held, workspace, np.ones(rows.num_rows)]),
        term_names=STEP_TERMS,
        priors=STEP_PRIORS,
        keys=(joined(phase, sharding), phase),
        features=np.column_stack([np.log(batch), np.log(tokens)]),
        feature_names=("log_batch", "log_tokens"),
        device_features=frozenset(),
        ranges=np.column_stack([number(rows, "num_parameters"), batch, tokens]),
        range_names=("num_parameters", "batch_size", "tokens"),
        categories={"phase": phase, "architecture": labels(rows, "architecture"), "sharding": sharding},
        groups={
            "llm": labels(rows, "llm_id"),
            "family": labels(rows, "family"),
            "shape": _shape(rows),
            "device": device,
            "generation": devices.generation(rows),
        },
        content=digest(rows, (*CONTENT, "data_parallel", "optimizations", "lora_rank", "num_micro_batches")),
        bound=np.sum(held, axis=0),
        estimate=optional(rows, "memory_peak_bytes"),
    )


def step_doubts(rows: pa.Table) -> dict[str, Mask]:
    """Steps that ran on a device that cannot hold what they are said to hold: they were run in another way than is stated."""
    return {
        "ran where the device cannot hold what they state": training(rows).bound > devices.device(rows, "memory_bytes")
    }


def _sharding(optimizations: str) -> str:
    """How a step divides or moves what it holds, of the text of its optimizations."""
    return "+".join(name for name in ("zero1", "zero2", "zero3", "fsdp", "offload") if name in optimizations) or "none"


def _tokens(rows: pa.Table, phase: Labels) -> tuple[Array, Array]:
    """Tokens of one sequence, shape (n,): processed at once, attended to in the end.

    A decode step processes one token, a generation its prompt and then one after the other, a forward pass of an encoder-decoder
    its output tokens too.
    """
    given, generated = number(rows, "input_tokens"), np.nan_to_num(optional(rows, "output_tokens"))
    is_decode = phase.mask("decode")
    processed = np.where(is_decode, 1.0, np.where(phase.mask("generate"), given, given + generated))
    return processed, np.where(is_decode, number(rows, "context_tokens"), given + generated)


def _counting(rows: pa.Table) -> Labels:
    """Whether a row's tool counts torch's allocator too; a tool that asks the driver alone also sees what an earlier pass left.

    A question that does not say is taken to be counted like our own collectors do.
    """
    counted = np.nan_to_num(optional(rows, "is_allocator_counted"), nan=1.0) > 0
    return Labels(counted.astype(np.int64), ("driver alone", "allocator too"))


def _shape(rows: pa.Table) -> Labels:
    """LLMs of one architecture under several names."""
    sizes = ("num_layers", "hidden_size", "num_kv_heads", "vocab_size")
    _, first, codes = np.unique(digest(rows, sizes), return_index=True, return_inverse=True)
    names = rows.select(sizes).take(pa.array(first)).to_pylist()
    return Labels(codes.astype(np.int64), tuple("/".join(str(one[size]) for size in sizes) for one in names))


def _target(
    key: str,
    what: str,
    metric: str,
    phases: tuple[str, ...],
    inputs: Callable[[pa.Table], Inputs] = inference,
    doubts: Callable[[pa.Table], Mapping[str, Mask]] = lambda rows: {},
) -> Target:
    return Target(
        key=key,
        what=what,
        metric=metric,
        unit="B",
        query="training_memory",
        inputs=inputs,
        recipes={0: (Variant("linear"),)},
        dimensions=("random", "llm", "device"),
        splits=("leave_model_out", "leave_shape_out", "leave_device_out", "random"),
        parameters={"phases": list(phases), "source": None},
        doubts=doubts,
    )


ALLOCATED, RESERVED, DEVICE = "memory_peak_bytes", "memory_reserved_bytes", "memory_device_bytes"
TARGETS = (
    _target("memory_allocated", "peak memory that torch allocates (on a CPU the resident set)", ALLOCATED, (*PASSES, *GENERATIONS)),
    _target("memory_reserved", "peak memory that torch's allocator holds in a pass", RESERVED, PASSES),
    _target("memory_reserved_generation", "the same in a generation, whose growing cache leaves holes", RESERVED, GENERATIONS),
    _target("memory_training", "peak memory of a training step, as its source counts it", ALLOCATED, STEPS, training, step_doubts),
    _target("memory_device", "peak memory of the device as its driver counts it, in a pass", DEVICE, PASSES),
    _target("memory_device_generation", "the same in a generation, whose growing cache leaves holes", DEVICE, GENERATIONS),
)  # fmt: skip
