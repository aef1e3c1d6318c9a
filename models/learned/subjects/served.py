"""What users of a serving engine wait: time to first token, time per output token, time of a request under a load.

Rows are runs of phase `serve` (query `training_served`), or configurations of such runs; both go through `devices.with_devices`. A
served load has no analytical twin, so `_steps` makes what it is composed of: the decode step of all sequences that one replica
holds, and the prefill of one prompt, from `models.analytical`. `queueing` turns those into waiting, and `_inputs` into terms whose
weights are learnt by engine: so a load nobody measured is a load whose steps can be counted.

Throughput needs no predictor of its own: with C requests in flight, `throughput` follows from the time of a request by Little's law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.analytical import evaluate
from models.learned import queueing
from models.learned.inputs import Array, Inputs, Labels, digest, joined, labels, log, optional
from models.learned.model import Variant
from models.learned.subjects import devices
from models.learned.targets import Target
from warehouse import catalog

MATRIX_EFFICIENCY = ((2.0, np.inf, 0.74), (1.0, 2.0, 0.46), (0.0, 1.0, 0.33))
"""Share of the dense peak that large products reach, for operands of so many bytes (from, below): medians over products of 512-8,192
by 2,048-16,384 by 2,048-16,384 in the kernel tables of aiconfigurator on H100, H200 and B200. No served row is behind them."""
BURST_SHARE = 0.1
"""Share of a benchmark's requests that are sent at once, before the first ends. With one, TTFT of the rows of chunked engines follows
prefill (1 + 0.1 (C - 1) / 2) to a few percent: means over ten requests a user, all users starting together."""

_DEGREES = ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel")
_CONFIGURATION = (
    "llm", "hardware_id", *_DEGREES, "weight_dtype", "activation_dtype", "kv_dtype", "concurrency", "input_tokens", "output_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """Steps of one replica; seconds, shape (n,) each, NaN where the catalogue lacks the LLM or device, where the engine refuses, and
    where not even one sequence fits into memory.

    users: requests in flight a replica. decode, prefill: estimates of device time; the bounds beside them. host_s: what the estimate
    charges the host for one pass. slots: sequences that fit into memory.
    """

    users: Array
    decode: Array
    decode_bound: Array
    decode_compute: Array
    decode_memory: Array
    decode_communication: Array
    decode_alone: Array
    kv_share: Array
    prefill: Array
    prefill_bound: Array
    prefill_compute: Array
    prefill_memory: Array
    host_s: Array
    slots: Array


def ttft(rows: pa.Table) -> Inputs:
    """Inputs of mean time to first token."""
    return _inputs(rows, "ttft_s")


def tpot(rows: pa.Table) -> Inputs:
    """Inputs of mean time per output token after the first."""
    return _inputs(rows, "tpot_s")


def request(rows: pa.Table) -> Inputs:
    """Inputs of the mean time of a whole request."""
    return _inputs(rows, "e2el_s")


def throughput(concurrency: Array, output_tokens: Array, request_s: Array) -> Array:
    """Output tokens a second of a closed loop, by Little's law; shape (n,)."""
    return np.asarray(concurrency * output_tokens / request_s, np.float64)


def _inputs(rows: pa.Table, metric: str) -> Inputs:
    rows = _stated(rows)
    steps = _steps(rows)
    prompt, output = optional(rows, "input_tokens"), optional(rows, "output_tokens")
    later = np.maximum(output - 1.0, 0.0)
    load = queueing.Load(steps.users, output, steps.decode, steps.prefill, steps.slots)
    steady, waves = queueing.steady(load), queueing.waves(load)
    one = np.ones(rows.num_rows)
    first = {
        "prefill": steps.prefill,
        "queue": waves.queue_s,
        "admission": steady.admission_s,
        "steps": steps.decode,
        "start": 1e-2 * one,
    }
    weight = labels(rows, "weight_dtype")
    stored, multiplied = devices.dtype_bytes(weight), devices.dtype_bytes(labels(rows, "activation_dtype"))
    is_widened = (stored < 1.0) & (multiplied > stored)
    token = {
        "step": np.where(is_widened, 0.0, steps.decode),
        "widened": np.where(is_widened, steps.decode, 0.0),
        "stall": steady.stall_s,
        "host": 1e-3 * one,
    }
    waited = steps.prefill + steps.host_s + steady.admission_s + steady.queue_s + BURST_SHARE * waves.queue_s
    spent = steps.decode + steps.host_s + steady.stall_s
    terms, estimate, bound = {
        "ttft_s": (first, waited, steps.prefill_bound),
        "tpot_s": (token, spent, steps.decode_bound),
        "e2el_s": (
            first | {name: value * later for name, value in token.items()},
            waited + later * spent,
            steps.prefill_bound + later * steps.decode_bound,
        ),
    }[metric]
    shapes = _shapes(rows)
    degrees = {name: optional(rows, name) for name in _DEGREES}
    numbers = {
        "log_users": log(steps.users),
        "log_concurrency": log(optional(rows, "concurrency")),
        "log_input_tokens": log(prompt),
        "log_output_tokens": log(output),
        "log_estimate": log(estimate),
        "log_decode": log(steps.decode),
        "log_prefill": log(steps.prefill),
        "log_prefill_over_decode": log(steps.prefill) - log(steps.decode),
        "stall_share": steady.stall_s / (steps.decode + steady.stall_s),
        "log_queue_over_prefill": log(1.0 + waves.queue_s / steps.prefill),
        "log_batching": log(steps.decode) - log(steps.decode_alone),
        "overhead_share": 1.0 - steps.decode_bound / steps.decode,
        "communication_share": steps.decode_communication / steps.decode_bound,
        "log_decode_compute_over_memory": log(steps.decode_compute) - log(steps.decode_memory),
        "log_prefill_compute_over_memory": log(steps.prefill_compute) - log(steps.prefill_memory),
        "kv_share": steps.kv_share,
        "log_slots_over_users": np.minimum(log(steps.slots) - log(steps.users), 3.0),
        **{f"log_{name}": log(values) for name, values in degrees.items()},
        **shapes.numbers,
        "weight_bytes": stored,
        "activation_bytes": multiplied,
        "engine": _codes(labels(rows, "framework")),
    }
    about_device = devices.features(rows, labels(rows, "activation_dtype"))
    backend, device = labels(rows, "framework"), labels(rows, "hardware_id")
    return Inputs(
        terms=np.column_stack(list(terms.values())),
        term_names=tuple(terms),
        priors=tuple(_PRIORS[name] for name in terms),
        keys=(backend,),
        features=np.column_stack([*numbers.values(), about_device]),
        feature_names=(*numbers, *devices.FEATURES),
        device_features=frozenset(devices.FEATURES),
        ranges=np.column_stack([steps.users, prompt, output, shapes.parameters]),
        range_names=("users", "input_tokens", "output_tokens", "num_parameters"),
        categories={"backend": backend},
        groups={
            "llm": labels(rows, "llm_id"),
            "family": shapes.family,
            "device": device,
            "generation": devices.generation(rows),
            "backend": backend,
            "stack": joined(device, backend),
        },
        content=digest(rows.append_column("metric", pa.array([metric] * rows.num_rows)), ("metric", "framework", *_CONFIGURATION)),
        bound=bound,
        estimate=estimate,
    )  # fmt: skip


_PRIORS = {
    "prefill": 1.0, "queue": BURST_SHARE, "admission": 1.0, "steps": 3.0, "start": 2.0, "step": 1.0, "widened": 1.3, "stall": 1.0,
    "host": 0.7,
}  # fmt: skip
"""What a term weighs before any row says otherwise. `widened` is the step of an engine that widens weights of 4 bits before it
multiplies: its kernels are further from the bandwidth than those that read what they multiply."""
_ENGINES = ("vllm", "sglang", "tensorrt-llm")


def _codes(names: Labels) -> Array:
    """An engine as a number that is the same in every table; NaN for another."""
    return names.lookup({name: float(code) for code, name in enumerate(_ENGINES)})


# ---- what a configuration leaves unsaid


def _stated(rows: pa.Table) -> pa.Table:
    """Rows with what they leave open as the engines take it, and `llm`, which names LLMs of one architecture alike.

    Weights: bf16. Activations: as weights of 8 bits; as 4-bit floats where the device multiplies those; else bf16. KV cache: 8 bits
    beside narrow activations. Degrees: 1, but for tensor parallelism, which takes the devices that are left.
    """
    weight = labels(rows, "weight_dtype").texts()
    weight = np.where(weight == "unstated", "bf16", weight)
    has_fp4 = np.isfinite(devices.device(rows, "peak_fp4_flops_per_s"))
    is_fp4 = np.isin(weight, ("nvfp4", "mxfp4"))
    narrow = np.where(np.isin(weight, ("fp8", "int8")) | (is_fp4 & has_fp4), weight, "bf16")
    said = labels(rows, "activation_dtype").texts()
    activation = np.where((said == "unstated") | (np.isin(said, ("nvfp4", "mxfp4")) & ~has_fp4), narrow, said)
    kv = labels(rows, "kv_dtype").texts()
    kv = np.where(kv == "unstated", np.where(np.isin(activation, ("fp8", "nvfp4", "mxfp4")), "fp8", "bf16"), kv)
    columns = {"weight_dtype": weight, "activation_dtype": activation, "kv_dtype": kv, "llm": _shapes(rows).names}
    pipeline, data, experts = (np.nan_to_num(optional(rows, name), nan=1.0) for name in _DEGREES[1:])
    tensor, total = optional(rows, "tensor_parallel"), optional(rows, "num_devices")
    left = np.where(np.isfinite(total), np.maximum(total / (pipeline * data), 1.0), 1.0)
    degrees = (np.where(np.isfinite(tensor), tensor, left), pipeline, data, experts)
    columns |= dict(zip(_DEGREES, degrees, strict=True))
    for name, values in columns.items():
        column = pa.array(values.tolist(), pa.float64() if values.dtype == np.float64 else pa.string())
        at = rows.schema.get_field_index(name)
        rows = rows.append_column(name, column) if at < 0 else rows.set_column(at, name, column)
    return rows


@dataclass(frozen=True)
class _Shapes:
    """What is known of every row's LLM."""

    names: np.ndarray
    family: Labels
    parameters: Array
    numbers: dict[str, Array]


def _shapes(rows: pa.Table) -> _Shapes:
    """Architecture of every row's LLM from the catalogue; NaN and its own name where that lacks it."""
    ids = labels(rows, "llm_id")
    known = catalog.llms()
    found = [known.get(name) for name in ids.names]
    first: dict[tuple[object, ...], str] = {}
    names, families = [], []
    for name, llm in zip(ids.names, found, strict=True):
        shape = (name,) if llm is None else (llm.num_layers, llm.hidden_size, llm.vocab_size, llm.num_parameters)
        names.append(first.setdefault(shape, name))
        families.append(name if llm is None or llm.family is None else llm.family)
    table = {row["llm_id"]: row for row in catalog.rows("llms")}

    def numbers(key: str) -> Array:
        return ids.lookup(
            {name: float(row[key]) for name in ids.names if (row := table.get(name)) and row.get(key) is not None}
        )

    def counted(what: str) -> Array:
        return ids.lookup(
            {name: float(getattr(llm, what) or 0) for name, llm in zip(ids.names, found, strict=True) if llm}
        )

    parameters, active = numbers("num_parameters"), numbers("num_active_parameters")
    return _Shapes(
        np.array([*names, ""], dtype=object)[ids.codes],
        Labels.of(np.array([*families, ""], dtype=object)[ids.codes]),
        parameters,
        {
            "log_parameters": log(parameters),
            "log_active_parameters": log(active),
            "log_active_share": log(active) - log(parameters),
            "num_layers": numbers("num_layers"),
            "log_hidden_size": log(numbers("hidden_size")),
            "experts_per_token": counted("experts_per_token"),
            "latent_rank": counted("kv_lora_rank"),
        },
    )


# ---- the steps


_KNOWN: dict[int, tuple[float, ...]] = {}
"""Answers by content of a configuration: an evaluation asks for the same rows again and again."""
_MOST_KNOWN = 1_000_000


def _steps(rows: pa.Table) -> Steps:
    """Steps of every row; `rows` as `_stated` gives them."""
    users = np.maximum(optional(rows, "concurrency") / optional(rows, "data_parallel"), 1.0)
    content = digest(rows, _CONFIGURATION)
    distinct, first, inverse = np.unique(content, return_index=True, return_inverse=True)
    asked = [int(one) for one in distinct]
    is_new = np.array([one not in _KNOWN for one in asked], np.bool_)
    if is_new.any():
        if len(_KNOWN) > _MOST_KNOWN:
            _KNOWN.clear()
            is_new[:] = True
        at = first[is_new]
        answers = _evaluated(rows.take(pa.array(at)), users[at])
        _KNOWN.update(
            zip((one for one, new in zip(asked, is_new, strict=True) if new), map(tuple, answers), strict=True)
        )
    values = np.array([_KNOWN[one] for one in asked], np.float64).reshape(len(asked), len(_ANSWERS))[inverse]
    return Steps(users, *values.T)


_ANSWERS = tuple(name for name in Steps.__dataclass_fields__ if name != "users")


def _evaluated(rows: pa.Table, users: Array) -> Array:
    """The numbers of `Steps` but `users`, from the analytical engine; shape (n, len(_ANSWERS))."""
    answers = np.full((rows.num_rows, len(_ANSWERS)), np.nan)
    lengths = [optional(rows, name) for name in ("concurrency", "input_tokens", "output_tokens")]
    is_known = labels(rows, "llm_id").among(tuple(catalog.llms())) & labels(rows, "hardware_id").among(
        tuple(catalog.hardware())
    )
    is_known &= np.all([one >= 1 for one in lengths], axis=0)
    widest = np.maximum(
        devices.dtype_bytes(labels(rows, "weight_dtype")), devices.dtype_bytes(labels(rows, "activation_dtype"))
    )
    for least, limit, efficiency in MATRIX_EFFICIENCY:
        at = np.flatnonzero(is_known & (widest >= least) & (widest < limit))
        if len(at):
            answers[at] = _answers(rows.take(pa.array(at)), users[at], efficiency)
    return answers


def _answers(rows: pa.Table, users: Array, efficiency: float) -> Array:
    prompt, output = optional(rows, "input_tokens"), optional(rows, "output_tokens")
    names = ("llm_id", "hardware_id", *_DEGREES, "weight_dtype", "activation_dtype", "kv_dtype")
    fixed = {name: rows.column(name) for name in names} | {
        "attention": ["paged"] * len(users),
        "execution": ["engine"] * len(users),
    }
    constants = [
        {"calibration_id": "served", "device_class": "any", "execution": "engine", "matrix_efficiency": efficiency}
    ]

    def totals(phase: str, batch: Array, **length: Array) -> dict[str, Array]:
        table = pa.table(fixed | {"phase": [phase] * len(batch), "batch_size": np.ceil(batch), **length})
        found, _ = evaluate(table, with_ops=False, calibrations=constants)
        return {name: optional(found, name) for name in _TOTALS}

    context = np.ceil(prompt + output / 2.0)
    decode, alone = (
        totals("decode", users, context_tokens=context),
        totals("decode", np.ones(len(users)), context_tokens=context),
    )
    prefill = totals("prefill", np.ones(len(users)), input_tokens=prompt)
    found: Array = np.column_stack([
        decode["estimate_s"] - decode["launch_s"],
        decode["roofline_s"],
        decode["compute_s"],
        decode["memory_s"],
        decode["communication_s"],
        alone["estimate_s"] - alone["launch_s"],
        decode["kv_bytes_read"] / decode["bytes_moved"],
        prefill["estimate_s"] - prefill["launch_s"],
        prefill["roofline_s"],
        prefill["compute_s"],
        prefill["memory_s"],
        decode["launch_s"],
        decode["max_batch_size"],
    ])  # fmt: skip
    found[~(decode["max_batch_size"] >= 1.0)] = np.nan  # not even one sequence fits: no such server
    return found


_TOTALS = (
    "estimate_s", "launch_s", "roofline_s", "compute_s", "memory_s", "communication_s", "kv_bytes_read", "bytes_moved",
    "max_batch_size",
)  # fmt: skip


# ---- targets

SEEN = Variant("sum", "trees", within=("device", "llm"))
"""Terms weighed by engine; what they leave is corrected only for devices and LLMs that were seen. What trees learn of a
load they have memorised does not carry over: elsewhere they add to the error."""


def _target(key: str, what: str, metric: str, inputs: object) -> Target:
    return Target(
        key=key,
        what=what,
        metric=metric,
        unit="s",
        query="training_served",
        inputs=inputs,  # type: ignore[arg-type]
        recipes={0: (Variant("sum"),), 400: (SEEN,)},
        dimensions=("random", "device", "family"),
        splits=(
            "leave_device_out",
            "leave_family_out",
            "leave_generation_out",
            "leave_model_out",
            "leave_backend_out",
            "random",
        ),
        parameters={"disaggregated": False},
    )


TARGETS = (
    _target("served_ttft", "mean time to first token under a load", "ttft_s", ttft),
    _target("served_tpot", "mean time per output token under a load", "tpot_s", tpot),
    _target(
        "served_request", "mean time of a request under a load; throughput follows by Little's law", "e2el_s", request
    ),
)
