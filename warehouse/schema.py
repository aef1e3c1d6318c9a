"""Every table and column once: type, unit, doc, grain, key.

The same declaration checks landing files (`warehouse.parquet`), creates the lake's tables (`warehouse.store`) and writes
docs/schema.md. Units are the suffix of a column's name; everything is stored in SI. NULL means "not measured", never 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from warehouse.metrics import METRICS

SCHEMA_VERSION = 1

TIMESTAMP = pa.timestamp("us", tz="UTC")
_S, _F, _I, _B = pa.string(), pa.float64(), pa.int64(), pa.bool_()

SOURCE_KINDS = ("measured", "published", "analytical", "predicted")
STATUSES = ("ok", "oom", "error", "timeout", "refused", "unsupported")
PHASES = ("forward", "prefill", "decode", "generate", "serve", "pretrain_step", "finetune_step", "microbench")
ATTENTIONS = ("eager", "sdpa", "flash", "paged")
EXECUTIONS = ("eager", "compiled", "graph", "engine")
BOUNDS = ("compute", "memory", "communication", "launch")
CACHE_IMPLEMENTATIONS = ("dynamic", "static", "sliding", "paged")
OP_LEVELS = ("module", "kernel")
LOAD_PATTERNS = ("closed", "constant", "poisson", "burst", "replay", "ramp", "single")
DTYPE_BYTES: dict[str, float] = {
    "fp64": 8.0, "fp32": 4.0, "tf32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "fp6": 0.75, "fp4": 0.5,
    "int4": 0.5, "nf4": 0.5, "int2": 0.25, "int1": 0.125, "nvfp4": 0.5625, "mxfp4": 0.53125,
}  # fmt: skip
"""Stored bytes of one element, without scales or zero points; nvfp4 and mxfp4 with their block scales (one byte for 16 and
for 32 elements), which are part of the format."""

OP_KINDS = (
    "embedding", "norm", "qkv_proj", "q_proj", "k_proj", "v_proj", "rope", "attention", "attention_scores", "softmax",
    "attention_values", "o_proj", "gate_proj", "up_proj", "down_proj", "activation", "mlp", "residual_add", "lm_head",
    "router", "experts", "dequantize", "loss", "all_reduce", "all_gather", "reduce_scatter", "reduce", "all_to_all", "send_recv",
    "memcpy", "memcpy_h2d", "memcpy_d2h", "gemm", "optimizer", "elementwise", "layer", "model", "forward", "backward",
    "communication", "compute", "idle", "other",
)  # fmt: skip
"""One vocabulary for measured, analytical and imported ops. Containers (`layer`, `mlp`, `attention`, `model`, `forward`...)
have children in `parent_path`; sums run over leaves."""


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, its meaning, and the values it may take."""

    name: str
    type: pa.DataType
    doc: str
    values: tuple[str, ...] | None = None
    is_required: bool = False


@dataclass(frozen=True)
class Table:
    """One table: its grain in a sentence, its key, its columns."""

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def arrow(self) -> pa.Schema:
        """Arrow schema in declared order."""
        return pa.schema([pa.field(column.name, column.type, nullable=True) for column in self.columns])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"'{name}' is not a column of {self.name}. Known: {', '.join(self.names)}.")


CONFIGURATION: tuple[Column, ...] = (
    Column("llm_id", _S, "the LLM, an id of `llms`"),
    Column("hardware_id", _S, "the device type, an id of `hardware`"),
    Column("num_devices", _I, "devices used"),
    Column("tensor_parallel", _I, "tensor-parallel degree"),
    Column("pipeline_parallel", _I, "pipeline-parallel degree"),
    Column("data_parallel", _I, "data-parallel degree"),
    Column("expert_parallel", _I, "expert-parallel degree"),
    Column(
        "interconnect",
        _S,
        "link between devices where a device type has several: nvlink, pcie; loopback between processes of one machine",
    ),
    Column("phase", _S, "what was executed", PHASES, is_required=True),
    Column("batch_size", _I, "sequences per device group; per device in training"),
    Column("input_tokens", _I, "prompt (or encoder, or training) tokens of one sequence"),
    Column(
        "output_tokens", _I, "generated (or decoder) tokens of one sequence; NULL for one prefill or one decode step"
    ),
    Column("context_tokens", _I, "tokens attended to by one decode step, its own included; NULL for other phases"),
    Column("concurrency", _I, "requests kept in flight (closed loop)"),
    Column("request_rate_per_s", _F, "offered request rate (open loop)"),
    Column("weight_dtype", _S, "dtype of weights", tuple(DTYPE_BYTES)),
    Column("activation_dtype", _S, "dtype of activations", tuple(DTYPE_BYTES)),
    Column("kv_dtype", _S, "dtype of the KV cache", tuple(DTYPE_BYTES)),
    Column("attention", _S, "attention implementation", ATTENTIONS),
    Column("optimizations", pa.list_(_S), "sorted: zero1 zero2 zero3 offload recompute flash lora qlora quantized ..."),
    Column(
        "prefix_tokens",
        _I,
        "prompt tokens of one sequence that a prefill finds in the cache; input_tokens are the others",
    ),
    Column(
        "chunk_tokens", _I, "prompt tokens of one sequence that a prefill takes at a time; NULL for the whole prompt"
    ),
    Column(
        "num_micro_batches", _I, "parts that pipeline stages (or gradient accumulation) cut a batch into; NULL for one"
    ),
    Column("optimizer_dtype", _S, "dtype of one optimizer state of one parameter", tuple(DTYPE_BYTES)),
    Column("gradient_dtype", _S, "dtype of gradients", tuple(DTYPE_BYTES)),
    Column("lora_rank", _I, "rank of LoRA adapters"),
    Column(
        "kernel",
        _S,
        "what a microbench times: gemm, attention, rms_norm, softmax, add, memcpy (within the device), triad, memcpy_h2d, all_reduce "
        "...; the word of the ops vocabulary is in ops.op_kind",
    ),
    Column("m", _I, "rows of a microbench: of a GEMM's first matrix, or of vectors normalised"),
    Column("n", _I, "columns of a microbench: of a GEMM's second matrix, or elements of a vector"),
    Column("k", _I, "inner dimension of a microbench GEMM"),
    Column("num_heads", _I, "query heads of a microbench"),
    Column("num_kv_heads", _I, "key and value heads of a microbench"),
    Column("head_dim", _I, "elements of one head of a microbench"),
    Column(
        "size_bytes",
        _I,
        "bytes that a microbench copies, or that each rank brings to a collective (gathers: the part of one rank)",
    ),
    Column("host_memory", _S, "main memory at the other end of a microbench copy", ("pinned", "pageable")),
    Column(
        "cache_state",
        _S,
        "last-level cache before each repeat of a microbench: cold (flushed) or warm",
        ("cold", "warm"),
    ),
    Column(
        "load_pattern",
        _S,
        "when requests of a served load are sent: closed (a fixed number in flight), constant or poisson (at a rate), burst (all at "
        "once), replay (at the times of a trace), ramp (at a rising rate), single (one by hand); NULL where unknown",
        LOAD_PATTERNS,
    ),
    Column("num_prefill_devices", _I, "devices of a disaggregated server that prefill; NULL where one pool does both"),
    Column("num_decode_devices", _I, "devices of a disaggregated server that decode; NULL where one pool does both"),
)
"""What was asked for: hashed into `config_id`, the key that joins measured, published, analytical and predicted rows.

`task`, `execution`, `framework`, `framework_version` and `environment_id` are stored beside it and are not part of the
key: an analytical row has no framework, and would otherwise never meet its measurement."""

CONFIGURATION_NAMES = tuple(column.name for column in CONFIGURATION)

ADDED_TO_CONFIGURATION = (
    "prefix_tokens", "chunk_tokens", "num_micro_batches", "optimizer_dtype", "gradient_dtype", "lora_rank",
    "kernel", "m", "n", "k", "num_heads", "num_kv_heads", "head_dim", "size_bytes", "host_memory", "cache_state",
    "load_pattern", "num_prefill_devices", "num_decode_devices",
)  # fmt: skip
"""Configuration columns that came later: hashed into `config_id` only where they have a value, so that the ids of rows
written before them stay."""

OF_MICROBENCH = (
    "kernel", "m", "n", "k", "num_heads", "num_kv_heads", "head_dim", "size_bytes", "host_memory", "cache_state",
)  # fmt: skip
"""Configuration columns that no LLM's run has: those of a microbenchmark."""

QUIET_LOAD_RATIO = 0.1
"""Largest `other_load_ratio` of a quiet machine. A latency measured under more is not the device's alone: its row says so,
and predictors do not learn from it."""

ONE_BY_DEFAULT = ("num_devices", "tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel")
"""Degrees that mean 1 where absent, in `config_id` too."""


def _metric_columns() -> tuple[Column, ...]:
    columns = []
    for metric in METRICS:
        doc = metric.definition + (f" [{metric.formula}]" if metric.formula else "")
        columns.append(Column(metric.key, _F, f"{doc}; {metric.unit or 'ratio'}"))
        columns.extend(
            Column(metric.column(statistic), _F, f"{statistic} of {metric.key}") for statistic in metric.statistics
        )
    return tuple(columns)


_WORK = (
    Column("flops", _F, "floating-point operations, 2 per multiply-add"),
    Column("bytes_moved", _F, "device-memory traffic"),
    Column("weight_bytes_read", _F, "weights read"),
    Column("activation_bytes_read", _F, "activations read"),
    Column("activation_bytes_written", _F, "activations written"),
    Column("kv_bytes_read", _F, "KV cache read"),
    Column("kv_bytes_written", _F, "KV cache written"),
)

RUNS = Table(
    "runs",
    "one configuration executed, modelled, published or predicted once",
    ("run_id",),
    (
        Column("run_id", _S, "unique; deterministic for published and analytical rows", is_required=True),
        Column("config_id", _S, "hash of the configuration columns", is_required=True),
        Column("repeat_group_id", _S, "runs that repeat one another"),
        Column("collector", _S, "collector that wrote the row", is_required=True),
        Column("source_kind", _S, "kind of truth", SOURCE_KINDS, is_required=True),
        Column("source_id", _S, "an id of `sources`: a paper's table, a tool, this machine", is_required=True),
        Column("source_cell", _S, "where in the source: row / column as printed"),
        Column("ruleset", _S, "analytical ruleset, else NULL"),
        Column("engine_revision", _S, "revision of the analytical engine; the newest sorts last; NULL for other rows"),
        Column("quality_tier", _I, "0 imported summary, 1 imported raw, 2 own single run, 3 own repeats with full "
               "environment, 4 replicated; NULL for analytical and predicted rows"),
        Column("collected_at", TIMESTAMP, "when it was measured, printed or computed", is_required=True),
        Column("status", _S, "outcome; a failure is a row", STATUSES, is_required=True),
        Column("status_detail", _S, "why a value is absent, what was assumed, what failed"),
        Column("is_excluded", _B, "kept, but out of charts unless asked for", is_required=True),
        Column("exclusion_reason", _S, "why it is out of charts"),
        *CONFIGURATION,
        Column("task", _S, "what the tokens were for: summarization translation question_answering generation ..."),
        Column("execution", _S, "how kernels were issued", EXECUTIONS),
        Column("cache_implementation", _S, "how the KV cache is kept; NULL where unknown or without one", CACHE_IMPLEMENTATIONS),
        Column("framework", _S, "pytorch, vllm, deepspeed, ..."),
        Column("framework_version", _S, "its version"),
        Column("environment_id", _S, "an id of `environments`"),
        Column("served_model_name", _S, "the model name an endpoint was asked for"),
        Column("model_revision", _S, "commit of the checkpoint; NULL for random weights"),
        Column("tokenizer_hash", _S, "digest of the checkpoint's tokenizer files; NULL for synthetic token ids"),
        Column("trace", _S, "file name under traces/ of the profiler's Chrome trace"),
        Column("command", _S, "the command that repeats this run; never holds a secret"),
        Column("num_samples", _I, "measured repeats behind the statistics"),
        Column("num_requests", _I, "requests sent"),
        Column("num_failed_requests", _I, "requests that did not complete"),
        Column("duration_s", _F, "measured window"),
        Column("is_output_fixed", _B, "the server was told to ignore the end of text, so that answers have the length asked for; NULL where unknown"),
        Column("is_prefix_unique", _B, "every prompt began differently, so that no prefix cache could answer; NULL where unknown"),
        Column("prefix_cache_hit_ratio", _F, "prompt tokens that the server took from its prefix cache over prompt tokens; NULL where it does not say"),
        Column("concurrency_mean", _F, "requests in flight, mean over the window"),
        Column("concurrency_max", _F, "requests in flight, most at once"),
        Column("steady_from_s", _F, "where the steady window begins, seconds from the run's start; NULL where the load was never steady"),
        Column("steady_s", _F, "length of the steady window"),
        Column("is_saturated", _B, "the server took less than was offered: requests due and not ended, and TTFT from when due, kept rising; NULL where not judged"),
        Column("num_client_processes", _I, "processes that sent the load"),
        Column("client_cpu_s", _F, "processor time of the client over the run"),
        Column("client_delay_p99_s", _F, "99th percentile of what the client adds to a latency: measured against a server of known times before the run"),
        Column("is_client_trusted", _B, "in the test before the run the client sustained 5 x the load with under 1 ms added at p99; NULL where not tested"),
        Column("slo_e2el_s", _F, "end-to-end objective behind goodput; NULL for none"),
        Column("slo_ttft_s", _F, "TTFT objective behind goodput; NULL for none"),
        Column("slo_tpot_s", _F, "TPOT objective behind goodput; NULL for none"),
        Column("profiler_overhead_ratio", _F, "time of the profiler's pass over unprofiled time"),
        Column("hooks_overhead_ratio", _F, "time of the pass with hooks (on modules, or on communication) over the time without"),
        Column("other_load_ratio", _F, "share of the cores other processes kept busy meanwhile; NULL where unknown"),
        Column("throttled_ratio", _F, "share of the telemetry readings under a throttle reason; NULL without readings"),
        Column("energy_window_s", _F, "window behind energy_j; the execution was repeated until it was long enough"),
        Column("is_host_bound", _B, "the host sets the pace: latency_s above 1.2 x kernel_time_s; without that, above 1.2 x device_time_s, else unknown, since gaps count in it"),
        Column("metric_definitions", pa.map_(_S, _S), "metric column -> definition id of warehouse/metrics.py"),
        *_metric_columns(),
        Column("is_fitting", _B, "does it fit in device memory"),
        Column("max_batch_size", _I, "largest batch that fits at these lengths; 0 where not even one sequence does"),
        Column("max_context_tokens", _I, "longest sequence that fits at this batch, at most what the LLM is made for; 0 for none"),
        Column("calibration_id", _S, "an id of `calibrations`: the constants behind estimate_s"),
        Column("price_id", _S, "an id of `prices`: the price behind a cost"),
        Column("bound", _S, "which side of the ridge point, or which other limit", BOUNDS),
    ),
)  # fmt: skip

OPS = Table(
    "ops",
    "one operator or module of a run; identical ones are folded: values are of ONE execution, `count` says how many",
    ("run_id", "op_index"),
    (
        Column("run_id", _S, "the run", is_required=True),
        Column("op_index", _I, "0-based, in execution order", is_required=True),
        Column(
            "path", _S, "module path: model.layers.0.self_attn.q_proj; `*` where layers are folded", is_required=True
        ),
        Column("parent_path", _S, "path of the container, of a kernel the module that launched it; NULL for a root"),
        Column(
            "level",
            _S,
            "`kernel`: what a profiler saw on the device (or an operator of the framework on a CPU), below the module of "
            "parent_path and timed in another pass, never summed with modules; NULL or `module` for all others",
            OP_LEVELS,
        ),
        Column("class_name", _S, "class of the module"),
        Column("layer_index", _I, "0-based layer; NULL outside layers and where layers are folded"),
        Column("op_kind", _S, "one vocabulary for every source", OP_KINDS, is_required=True),
        Column("phase", _S, "forward, backward, optimizer, prefill, decode ..."),
        Column("count", _I, "executions folded into this row", is_required=True),
        Column("m", _I, "GEMM rows (tokens)"),
        Column("n", _I, "GEMM columns (output features)"),
        Column("k", _I, "GEMM inner dimension"),
        *_WORK,
        Column("time_s", _F, "measured or published time, wall clock"),
        Column("device_time_s", _F, "time of the device's kernels"),
        Column("cpu_time_s", _F, "processor time"),
        Column("memory_bytes", _F, "memory allocated by the op"),
        Column("num_parameters", _I, "parameters of the module and those below it, shared ones once"),
        Column("parameter_bytes", _F, "their bytes"),
        Column("activation_bytes", _F, "outputs of the module"),
        Column(
            "memory_peak_bytes",
            _F,
            "peak of bytes allocated while the module ran, above what was allocated when it began",
        ),
        Column("shapes", _S, "shapes of a kernel's inputs, as its profiler prints them"),
        Column("arithmetic_intensity", _F, "FLOP/B"),
        Column("roofline_s", _F, "bound: max(F / peak, B / bandwidth)"),
        Column("estimate_s", _F, "calibrated estimate, launches and link latency included"),
        Column("num_kernels", _F, "kernels that one execution launches under the run's execution profile"),
        Column("bound", _S, "side of the ridge point", BOUNDS),
        Column("inputs", pa.list_(_I), "op_index of the ops this one consumes: the graph's edges"),
    ),
)

REQUESTS = Table(
    "requests",
    "one request of an endpoint run",
    ("run_id", "request_index"),
    (
        Column("run_id", _S, "the run", is_required=True),
        Column("request_index", _I, "0-based, in order of sending", is_required=True),
        Column("sample_phase", _S, "warmup or measured", ("warmup", "measured"), is_required=True),
        Column("status", _S, "outcome", STATUSES, is_required=True),
        Column("status_detail", _S, "what failed, in a sentence"),
        Column("http_status", _I, "HTTP status code"),
        Column("scheduled_at_s", _F, "scheduled send t_s, seconds from the run's start"),
        Column("sent_at_s", _F, "actual send t_0, seconds from the run's start"),
        Column("ttft_s", _F, "t_1 - t_0"),
        Column("tpot_s", _F, "(e2el - ttft) / (N - 1); NULL for N < 2"),
        Column("itl_s", _F, "mean gap between consecutive tokens; NULL where the tokens of a chunk are unknown"),
        Column("e2el_s", _F, "t_C - t_0"),
        Column("ttfo_s", _F, "time to the first chunk that is not reasoning"),
        Column("is_steady", _B, "due within the steady window; NULL where none was looked for"),
        Column("client_index", _I, "client process that sent it, 0-based"),
        Column("cached_tokens", _I, "prompt tokens that the server took from its prefix cache"),
        Column("prompt", _S, "the prompt, where one request was sent by hand; NULL in load tests"),
        Column("text", _S, "the answer, where one request was sent by hand; NULL in load tests"),
        Column("input_tokens", _I, "prompt tokens as the server counts them"),
        Column("output_tokens", _I, "N, output tokens as the server counts them"),
        Column("requested_output_tokens", _I, "max_tokens asked for"),
        Column("token_count_source", _S, "who counted: usage, tokenizer, chunks", ("usage", "tokenizer", "chunks")),
        Column("finish_reason", _S, "stop, length, ..."),
        Column("chunk_times_s", pa.list_(_F), "arrival of each non-empty chunk after t_0"),
        Column("chunk_tokens", pa.list_(_I), "tokens of each chunk where known"),
    ),
)

SAMPLES = Table(
    "samples",
    "one raw repeat of one metric of a run",
    ("run_id", "metric", "sample_index"),
    (
        Column("run_id", _S, "the run", is_required=True),
        Column(
            "metric",
            _S,
            "metric column, or `tool:name` for a value under a definition that is not ours",
            is_required=True,
        ),
        Column("sample_index", _I, "0-based, warm-up first", is_required=True),
        Column("sample_phase", _S, "warmup or measured", ("warmup", "measured"), is_required=True),
        Column("value", _F, "value in the unit column"),
        Column("unit", _S, "unit of the value"),
        Column("flags", pa.list_(_S), "outlier, throttled, ...; nothing is deleted"),
    ),
)

TELEMETRY = Table(
    "telemetry",
    "one reading of device counters during a run",
    ("run_id", "device_index", "at_s"),
    (
        Column("run_id", _S, "the run", is_required=True),
        Column("device_index", _I, "device; -1 for the host, -2 for the engine of a server", is_required=True),
        Column("at_s", _F, "seconds from the run's start", is_required=True),
        Column("power_w", _F, "power"),
        Column("energy_j", _F, "energy counter"),
        Column("sm_clock_hz", _F, "compute clock"),
        Column("memory_clock_hz", _F, "memory clock"),
        Column("temperature_c", _F, "temperature, degrees Celsius"),
        Column("utilization", _F, "0 to 1"),
        Column("memory_utilization", _F, "share of the time in which device memory was read or written, 0 to 1"),
        Column("memory_used_bytes", _F, "device memory in use; of the host the resident set of the process"),
        Column("process_memory_bytes", _F, "device memory of this process"),
        Column(
            "throttle_reasons",
            pa.list_(_S),
            "active reasons, idleness apart; an empty list for none, NULL where unknown",
        ),
        Column("kv_cache_ratio", _F, "share of the engine's KV cache in use, 0 to 1"),
        Column("num_running", _F, "requests that the engine works on"),
        Column("num_waiting", _F, "requests in the engine's queue"),
        Column("prompt_tokens", _F, "prompt tokens that the engine has processed since it began: a counter"),
        Column("generated_tokens", _F, "tokens that the engine has generated since it began: a counter"),
        Column(
            "prefix_cache_hit_tokens", _F, "prompt tokens found in the prefix cache since the engine began: a counter"
        ),
        Column(
            "prefix_cache_query_tokens",
            _F,
            "prompt tokens looked for in the prefix cache since the engine began: a counter",
        ),
        Column("preemptions", _F, "requests that the engine put back for want of memory since it began: a counter"),
    ),
)

KERNELS = Table(
    "kernels",
    "one shape of one kernel, layer or collective timed alone, from a table of many: the run is the table",
    ("run_id", "kernel_index"),
    (
        Column("run_id", _S, "the run: one table (device, framework, kernel, dtypes) of one source", is_required=True),
        Column("kernel_index", _I, "0-based, in the table's order", is_required=True),
        Column(
            "kernel", _S, "what was timed, as in runs.kernel: gemm, attention, moe, all_reduce ...", is_required=True
        ),
        Column("op_kind", _S, "one vocabulary for every source", OP_KINDS, is_required=True),
        Column("name", _S, "the kernel or layer as its source calls it"),
        Column("implementation", _S, "who issued it: cublas, flash_attention, torch ... as its source calls it"),
        Column("phase", _S, "prefill, decode, forward, backward; NULL where the shape is of no phase"),
        Column("llm_id", _S, "the LLM whose shape it is; NULL for a sweep over shapes"),
        Column("batch_size", _I, "sequences, or matrices of a batched product"),
        Column("m", _I, "GEMM rows (tokens), or vectors normalised"),
        Column("n", _I, "GEMM columns (output features), or elements of a vector"),
        Column("k", _I, "GEMM inner dimension"),
        Column("input_tokens", _I, "new tokens of one sequence"),
        Column("context_tokens", _I, "tokens of one sequence already in the KV cache"),
        Column("num_heads", _I, "query heads on the device"),
        Column("num_kv_heads", _I, "key and value heads on the device"),
        Column("head_dim", _I, "elements of one head"),
        Column("window_tokens", _I, "sliding window; NULL for full attention"),
        Column("num_experts", _I, "experts of a mixture"),
        Column("num_active_experts", _I, "experts that one token is routed to"),
        Column("distribution", _S, "how tokens fall on experts, as its source calls it"),
        Column("tensor_parallel", _I, "tensor-parallel degree the shape is cut for"),
        Column("expert_parallel", _I, "expert-parallel degree the shape is cut for"),
        Column("num_devices", _I, "devices of a collective; 1 for what runs on one"),
        Column("size_bytes", _F, "bytes that are copied, or that each rank brings to a collective"),
        Column(
            "time_s", _F, "mean time of one execution (the source's only figure, where it gives one)", is_required=True
        ),
        Column("time_p50_s", _F, "median"),
        Column("time_min_s", _F, "least"),
        Column("time_max_s", _F, "most"),
        Column("time_std_s", _F, "standard deviation, as its source computes it"),
        Column("power_w", _F, "power meanwhile"),
        Column("flops", _F, "floating-point operations, 2 per multiply-add; closed form"),
        Column("bytes_moved", _F, "least device-memory traffic; closed form"),
        Column("roofline_s", _F, "bound: max(F / peak, B / bandwidth) of the device and the run's dtype"),
        Column("bound", _S, "side of the ridge point", BOUNDS),
    ),
)

QUALITY = Table(
    "quality",
    "one score of what a run's model answered: is it right as well as fast",
    ("run_id", "task", "metric"),
    (
        Column("run_id", _S, "the run: the load that was scored, or an imported evaluation", is_required=True),
        Column("task", _S, "text set or benchmark: gsm8k, wikitext ...", is_required=True),
        Column(
            "metric",
            _S,
            "perplexity, exact_match, acc_norm ... with its filter, as its tool calls it",
            is_required=True,
        ),
        Column("value", _F, "the score", is_required=True),
        Column("stderr", _F, "its standard error"),
        Column("is_higher_better", _B, "which way is better; NULL where the tool does not say"),
        Column("num_samples", _I, "items scored"),
        Column("num_fewshot", _I, "examples in the prompt"),
    ),
)

FINDINGS = Table(
    "findings",
    "one thing that a check found wrong or doubtful in rows that were loaded; values are never changed",
    ("finding_id",),
    (
        Column("finding_id", _S, "digest of the check and of what it is about", is_required=True),
        Column("source_id", _S, "source of the rows", is_required=True),
        Column("run_id", _S, "the run; NULL where it is about a whole table"),
        Column(
            "check_name", _S, "which check: point_above_roof, super_linear_scaling, unit_slip ...", is_required=True
        ),
        Column(
            "severity",
            _S,
            "fault: cannot be right as printed; doubt: needs an explanation",
            ("fault", "doubt"),
            is_required=True,
        ),
        Column("metric", _S, "column or sample it is about"),
        Column("value", _F, "the value found, in the column's unit"),
        Column("expected", _F, "what would be consistent: a limit or another figure, same unit"),
        Column("sentence", _S, "what contradicts what, with the figures", is_required=True),
        Column("found_by", _S, "`lint`, or the collector that landed it beside the rows", is_required=True),
        Column(
            "is_current",
            _B,
            "false where a later lint of the source, of more rows or by newer checks, no longer finds it",
            is_required=True,
        ),
        Column("found_at", TIMESTAMP, "when", is_required=True),
    ),
)

LINTS = Table(
    "lints",
    "the last lint of one family of sources: what stands before the / in their ids",
    ("family",),
    (
        Column("family", _S, "a paper, a tool, rooflake itself", is_required=True),
        Column(
            "state", _S, "revision of the checks and of the engine, and how many rows of which kind", is_required=True
        ),
        Column("num_runs", _I, "measured and published runs read", is_required=True),
        Column("num_faults", _I, "findings that cannot be right as printed", is_required=True),
        Column("num_doubts", _I, "findings that need an explanation", is_required=True),
        Column("linted_at", TIMESTAMP, "when", is_required=True),
    ),
)

RANKS = Table(
    "ranks",
    "one rank (process, device) of a run on several",
    ("run_id", "rank"),
    (
        Column("run_id", _S, "the run", is_required=True),
        Column("rank", _I, "0-based", is_required=True),
        Column("device_index", _I, "device of the rank; NULL on a CPU"),
        Column("num_layers", _I, "layers the rank holds, where layers are split"),
        Column("latency_s", _F, "mean wall-clock time of one execution as the rank saw it"),
        Column("compute_s", _F, "time outside communication"),
        Column("communication_s", _F, "time inside communication, waiting included"),
        Column("weights_bytes", _F, "weights the rank holds"),
        Column(
            "memory_peak_bytes", _F, "peak of bytes allocated (on a CPU: peak resident set above that before the model)"
        ),
        Column("memory_reserved_bytes", _F, "peak of bytes reserved by the framework's allocator"),
        Column("memory_process_bytes", _F, "peak device memory of the rank's process as its driver reports"),
        Column("memory_device_bytes", _F, "peak memory in use on the rank's device as its driver reports"),
        Column("energy_j", _F, "energy of the rank's device for one execution"),
    ),
)

ENVIRONMENTS = Table(
    "environments",
    "one machine and software stack",
    ("environment_id",),
    (
        Column("environment_id", _S, "hash of the other columns", is_required=True),
        Column("hardware_id", _S, "device type measured on"),
        Column("os", _S, "operating system"),
        Column("kernel", _S, "kernel release"),
        Column("cpu_name", _S, "processor"),
        Column("cpu_count", _I, "logical processors available"),
        Column("memory_bytes", _F, "main memory"),
        Column("gpu_name", _S, "GPU as its driver names it"),
        Column("gpu_count", _I, "GPUs visible"),
        Column("gpu_memory_bytes", _F, "memory of one GPU"),
        Column("driver_version", _S, "GPU driver"),
        Column("cuda_version", _S, "CUDA of the framework build"),
        Column("power_limit_w", _F, "enforced power limit"),
        Column("sm_clock_max_hz", _F, "highest compute clock"),
        Column("memory_clock_max_hz", _F, "highest memory clock"),
        Column(
            "sm_clock_limit_hz",
            _F,
            "compute clock that applications are held to (locked or application clock); NULL for none",
        ),
        Column("vbios_version", _S, "firmware of the GPU"),
        Column("is_ecc_enabled", _B, "error-correcting device memory"),
        Column("is_mig_enabled", _B, "GPU cut into instances"),
        Column("is_persistence_enabled", _B, "driver kept loaded"),
        Column("pcie_generation", _I, "PCIe generation of the link at its highest"),
        Column("pcie_width", _I, "PCIe lanes of the link at its highest"),
        Column("num_nvlinks", _I, "active NVLink links of the first GPU; NULL where unknown"),
        Column("cudnn_version", _S, "cuDNN of the framework build"),
        Column("nccl_version", _S, "NCCL of the framework build"),
        Column("num_numa_nodes", _I, "NUMA nodes"),
        Column("cpu_governor", _S, "frequency governor of the first core"),
        Column("cpu_clock_max_hz", _F, "highest clock of the first core"),
        Column("container_digest", _S, "digest of the container image where the run-time tells"),
        Column("git_commit", _S, "commit of this project's checkout, `+` where it was changed; NULL when installed"),
        Column("python_version", _S, "CPython"),
        Column("torch_version", _S, "torch"),
        Column("transformers_version", _S, "transformers"),
        Column("num_threads", _I, "intra-op threads"),
        Column("packages", pa.list_(_S), "name==version of what was installed, sorted"),
        Column(
            "variables", pa.map_(_S, _S), "NCCL_*, TORCH_*, CUDA_*, OMP_* variables that change speed; never secrets"
        ),
    ),
)

HARDWARE = Table(
    "hardware",
    "one device type",
    ("hardware_id",),
    (
        Column("hardware_id", _S, "id", is_required=True),
        Column("name", _S, "full name", is_required=True),
        Column("vendor", _S, "maker"),
        Column(
            "kind",
            _S,
            "gpu, cpu, tpu, accelerator; `measured` for the ceilings that microbenchmarks reached on one",
            ("gpu", "cpu", "tpu", "accelerator", "measured"),
        ),
        Column("measured_of", _S, "of a row of kind `measured`: the hardware_id whose ceilings were measured"),
        Column("architecture", _S, "ampere, hopper, zen4 ..."),
        Column("released", _S, "year or year-month"),
        Column("memory_bytes", _F, "device memory"),
        Column("memory_bandwidth_bytes_per_s", _F, "peak memory bandwidth, decimal units"),
        Column("peak_fp64_flops_per_s", _F, "dense matrix peak; NULL where unsupported"),
        Column("peak_fp32_flops_per_s", _F, "dense matrix peak without tf32"),
        Column("peak_tf32_flops_per_s", _F, "dense matrix peak"),
        Column("peak_fp16_flops_per_s", _F, "dense matrix peak"),
        Column("peak_bf16_flops_per_s", _F, "dense matrix peak"),
        Column("peak_fp8_flops_per_s", _F, "dense matrix peak"),
        Column("peak_int8_flops_per_s", _F, "dense matrix peak"),
        Column("peak_fp4_flops_per_s", _F, "dense matrix peak"),
        Column("peak_int4_flops_per_s", _F, "dense matrix peak"),
        Column("vector_fp32_flops_per_s", _F, "peak of the vector units"),
        Column("l2_bytes", _F, "last-level cache"),
        Column("onchip_bytes", _F, "registers and shared memory usable by a fused kernel"),
        Column("num_cores", _I, "SMs, compute units or cores"),
        Column("clock_hz", _F, "boost clock"),
        Column("kernel_launch_s", _F, "time from one kernel of a stream to the next, where they do nothing"),
        Column("collective_launch_s", _F, "time of the smallest collective"),
        Column("link_bandwidth_bytes_per_s", _F, "device-to-device link, one direction"),
        Column("host_link_bandwidth_bytes_per_s", _F, "host link, one direction"),
        Column("linked_devices", _I, "devices that the link connects at full speed"),
        Column("network_bandwidth_bytes_per_s", _F, "network of one device beyond those, one direction"),
        Column("tdp_w", _F, "board power"),
        Column("source", _S, "where the numbers come from", is_required=True),
        Column("source_date", _S, "when they were read, ISO date", is_required=True),
        Column("note", _S, "what a reader must know"),
    ),
)

LLMS = Table(
    "llms",
    "one LLM architecture",
    ("llm_id",),
    (
        Column("llm_id", _S, "id", is_required=True),
        Column("name", _S, "full name", is_required=True),
        Column("organisation", _S, "maker"),
        Column("family", _S, "llama-2, opt, ..."),
        Column("hf_id", _S, "Hugging Face repository"),
        Column("architecture", _S, "decoder, encoder, encoder_decoder", ("decoder", "encoder", "encoder_decoder")),
        Column("num_parameters", _I, "published count, all weights"),
        Column(
            "num_active_parameters", _I, "weights that one token meets: of a mixture of experts, those it is routed to"
        ),
        Column("num_layers", _I, "decoder layers (encoder layers for an encoder)"),
        Column("num_encoder_layers", _I, "encoder layers of an encoder-decoder"),
        Column("hidden_size", _I, "model width"),
        Column("num_heads", _I, "attention heads"),
        Column("num_kv_heads", _I, "key/value heads"),
        Column("head_dim", _I, "width of one head"),
        Column("intermediate_size", _I, "feed-forward width"),
        Column("vocab_size", _I, "vocabulary"),
        Column("max_context_tokens", _I, "longest context"),
        Column("config_json", _S, "the config.json keys that decide shapes and speed"),
        Column("source", _S, "where the numbers come from", is_required=True),
        Column("source_date", _S, "when they were read, ISO date", is_required=True),
        Column("note", _S, "what a reader must know"),
    ),
)

PRICES = Table(
    "prices",
    "one price of one device at one provider",
    ("price_id",),
    (
        Column("price_id", _S, "id", is_required=True),
        Column("hardware_id", _S, "device type", is_required=True),
        Column("provider", _S, "who sells it", is_required=True),
        Column("instance", _S, "instance type"),
        Column("num_devices", _I, "devices in the instance"),
        Column("usd_per_device_hour", _F, "price of one device for one hour, on demand"),
        Column("region", _S, "region"),
        Column("source", _S, "where the price was read", is_required=True),
        Column("source_date", _S, "when, ISO date", is_required=True),
    ),
)

SOURCES = Table(
    "sources",
    "one place rows come from: a table of a paper, a tool's run, this machine, a ruleset",
    ("source_id",),
    (
        Column("source_id", _S, "id, e.g. zhang-2023-dissecting/table-3", is_required=True),
        Column("title", _S, "what it is", is_required=True),
        Column("kind", _S, "paper, machine, endpoint, ruleset, dataset", is_required=True),
        Column("authors", _S, "who"),
        Column("published_at", _S, "ISO date or year"),
        Column("locator", _S, "table or figure and its caption, in our words"),
        Column("url", _S, "where to read it"),
        Column("licence", _S, "terms"),
        Column("note", _S, "definitions, assumptions and known faults"),
    ),
)

CALIBRATIONS = Table(
    "calibrations",
    "one set of constants of the analytical estimate: a device class under an execution profile",
    ("calibration_id",),
    (
        Column("calibration_id", _S, "digest of the constants and of the rows they come from", is_required=True),
        Column(
            "device_class", _S, "what they hold for: a hardware_id, an architecture, a kind, or `any`", is_required=True
        ),
        Column("execution", _S, "execution profile", EXECUTIONS, is_required=True),
        Column("matrix_efficiency", _F, "share of the matrix peak that large products reach"),
        Column("vector_efficiency", _F, "share of the vector peak that element-wise kernels reach"),
        Column("bandwidth_efficiency", _F, "share of the memory bandwidth that large streams reach"),
        Column("attention_efficiency", _F, "share of the matrix peak that fused attention reaches"),
        Column("kernel_s", _F, "device time that a kernel takes beside its work"),
        Column("dispatch_s", _F, "host time to issue one kernel"),
        Column("step_s", _F, "host time of one execution beside its kernels"),
        Column("collective_s", _F, "latency of one step of a collective"),
        Column("link_efficiency", _F, "share of the link bandwidth that large collectives reach"),
        Column("ratio_p05", _F, "5th percentile of measured / estimate over the rows"),
        Column("ratio_p50", _F, "median of measured / estimate over the rows"),
        Column("ratio_p95", _F, "95th percentile of measured / estimate over the rows"),
        Column("num_rows", _I, "measured rows behind them"),
        Column("snapshot_id", _I, "lake snapshot of the rows; NULL for shipped constants"),
        Column("fitted_at", TIMESTAMP, "when"),
        Column("source", _S, "which rows they come from", is_required=True),
    ),
)

PREDICTORS = Table(
    "predictors",
    "one trained predictor",
    ("predictor_id",),
    (
        Column("predictor_id", _S, "hash of method, target, training rows", is_required=True),
        Column("name", _S, "what it predicts and how, in words", is_required=True),
        Column("metric", _S, "metric column predicted", is_required=True),
        Column("target", _S, "what is predicted, as models.learned calls it: gemm_time, latency, memory ..."),
        Column(
            "population",
            _S,
            "rows it learnt from and is scored on: `lake` for those of a lakehouse, `evaluation` where only scores were asked for, else the "
            "key of a board of the league",
        ),
        Column("method", _S, "algorithm", is_required=True),
        Column("features", pa.list_(_S), "feature names"),
        Column("is_baseline", _B, "kept for comparison only", is_required=True),
        Column("source_id", _S, "an id of `sources` for a predictor others published; NULL for ours"),
        Column("snapshot_id", _I, "lake snapshot of the training rows"),
        Column("trained_at", TIMESTAMP, "when", is_required=True),
        Column("num_rows", _I, "training rows; NULL where a paper does not say"),
        Column("llm_ids", pa.list_(_S), "LLMs in the training rows"),
        Column("hardware_ids", pa.list_(_S), "devices in the training rows"),
        Column("artifact", _S, "file name under predictors/; NULL for a baseline"),
    ),
)

PREDICTOR_SCORES = Table(
    "predictor_scores",
    "one score of one predictor on one split",
    ("predictor_id", "split", "fold"),
    (
        Column("predictor_id", _S, "the predictor", is_required=True),
        Column("split", _S, "leave_model_out, random ...", is_required=True),
        Column("fold", _S, "what was held out; `all` for the pooled score", is_required=True),
        Column("num_rows", _I, "rows scored; NULL where a paper does not say"),
        Column("mdape", _F, "median absolute percentage error, ratio"),
        Column("mape", _F, "mean absolute percentage error, ratio"),
        Column("p90_ape", _F, "90th percentile of the absolute percentage error, ratio"),
        Column("bias", _F, "median of predicted / measured, less 1"),
        Column("num_refused", _I, "held-out rows it gave no value for"),
        Column("mae", _F, "mean absolute error, unit of the metric"),
        Column("rmse", _F, "root mean squared error, unit of the metric"),
        Column("r2", _F, "coefficient of determination"),
        Column("r2_log", _F, "the same in log space"),
        Column("coverage", _F, "share of rows inside the 90 % interval; NULL without intervals"),
        Column("interval_width_median", _F, "median upper / lower of the interval; NULL without intervals"),
    ),
)

PREDICTIONS = Table(
    "predictions",
    "one predicted value of a run under one split (`final` for the artifact itself), with its interval",
    ("predictor_id", "split", "run_id", "metric"),
    (
        Column("predictor_id", _S, "the predictor", is_required=True),
        Column("split", _S, "split the row was held out in; `final` for a real prediction", is_required=True),
        Column("fold", _S, "fold the row was held out in"),
        Column("run_id", _S, "the run predicted", is_required=True),
        Column("metric", _S, "metric column", is_required=True),
        Column("value", _F, "predicted value"),
        Column("lower", _F, "lower end of the 90 % interval"),
        Column("upper", _F, "upper end of the 90 % interval"),
        Column("actual", _F, "measured value where known"),
        Column("is_supported", _B, "inside the data's support"),
    ),
)

PROMOTIONS = Table(
    "promotions",
    "one decision which predictor of a target answers from then on; the newest counts, and going back is another row",
    ("promotion_id",),
    (
        Column("promotion_id", _S, "digest of the other columns", is_required=True),
        Column("target", _S, "what is predicted", is_required=True),
        Column("predictor_id", _S, "the predictor that answers from now on", is_required=True),
        Column("replaced_id", _S, "the one that answered before; NULL for the first"),
        Column("is_rollback", _B, "whether an earlier one was taken back by hand", is_required=True),
        Column("reason", _S, "the scores that decided, or who asked", is_required=True),
        Column("promoted_at", TIMESTAMP, "when", is_required=True),
    ),
)

FORECASTS = Table(
    "forecasts",
    "one prediction published before anybody measured it; never changed, scored by the view `forecast_scores` when rows arrive",
    ("forecast_id",),
    (
        Column("forecast_id", _S, "digest of predictor, configuration, metric and value", is_required=True),
        Column("run_id", _S, "the run of source_kind `predicted` that holds its configuration", is_required=True),
        Column("config_id", _S, "configuration, as measured rows will have it", is_required=True),
        Column("metric", _S, "metric column predicted", is_required=True),
        Column("value", _F, "predicted value", is_required=True),
        Column("lower", _F, "lower end of the 90 % interval"),
        Column("upper", _F, "upper end of the 90 % interval"),
        Column("predictor_id", _S, "the predictor", is_required=True),
        Column("snapshot_id", _I, "lake snapshot that the predictor learnt from"),
        Column("published_at", TIMESTAMP, "when: only rows measured later score it", is_required=True),
        Column("note", _S, "why it was published, in its author's words"),
    ),
)

LOADS = Table(
    "loads",
    "one landed file",
    ("file_hash",),
    (
        Column("file_hash", _S, "SHA-256 of the file's bytes", is_required=True),
        Column("file_name", _S, "name under landing/", is_required=True),
        Column("table_name", _S, "table it belongs to", is_required=True),
        Column("num_rows", _I, "rows in the file"),
        Column("num_new_rows", _I, "rows that were new"),
        Column("loaded_at", TIMESTAMP, "when", is_required=True),
        Column("outcome", _S, "loaded or quarantined", ("loaded", "quarantined"), is_required=True),
        Column("reason", _S, "why it was quarantined"),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        RUNS, OPS, REQUESTS, SAMPLES, TELEMETRY, RANKS, ENVIRONMENTS, HARDWARE, LLMS, PRICES, SOURCES,
        CALIBRATIONS, KERNELS, QUALITY, FINDINGS, LINTS, PREDICTORS,
        PREDICTOR_SCORES, PREDICTIONS, PROMOTIONS, FORECASTS, LOADS,
    )
}  # fmt: skip

OF_A_RUN = ("ops", "requests", "samples", "telemetry", "ranks", "kernels", "quality")
"""Tables whose rows belong to a run: a file of these waits in landing until its `runs` file (same name) is there."""

VOLATILE = (
    "collected_at",
    "trained_at",
    "fitted_at",
    "environment_id",
    "command",
    "snapshot_id",
    "found_at",
    "linted_at",
)
"""Columns left out when two rows of one key are compared: when a thing was computed does not make it another thing."""


def table(name: str) -> Table:
    """The table of a name, or an error naming the known ones."""
    try:
        return TABLES[name]
    except KeyError:
        raise KeyError(f"'{name}' is not a table of the warehouse. Known: {', '.join(TABLES)}.") from None


def config_id(config: Mapping[str, Any]) -> str:
    """Hash of one configuration: 16 hexadecimal digits over the configuration columns; absent and None are the same."""
    return _digest(_part(name, _text(config.get(name))) for name in (*_ALWAYS_HASHED, *ADDED_TO_CONFIGURATION))


def config_ids(table: pa.Table) -> pa.Array:
    """`config_id` of every row of an Arrow table with (some of) the configuration columns; shape (rows,), string.

    Configurations of a table have few distinct values: neighbouring columns are joined once for every combination of
    theirs, so that a row costs one or two concatenations and one hash.
    """
    groups: list[tuple[list[str], _Codes]] = [([""], np.zeros(table.num_rows, np.int64))]
    for name in (*_ALWAYS_HASHED, *ADDED_TO_CONFIGURATION):
        (known, so_far), (values, codes) = groups[-1], _parts(table, name)
        if len(known) * len(values) <= max(table.num_rows, 1):
            joined = [text + value for text in known for value in values] if values != [""] else known
            groups[-1] = joined, so_far * len(values) + codes
        else:
            groups.append((values, codes))
    columns = [np.array(values, object)[codes].tolist() for values, codes in groups]
    return pa.array([_digest(parts) for parts in zip(*columns, strict=True)], pa.string())


def digest(*parts: object) -> str:
    """16 hexadecimal digits over any JSON-able parts; the ids of deterministic rows are made with it."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("".join(parts).encode(), digest_size=8).hexdigest()


_Codes: TypeAlias = NDArray[np.int64]

_ALWAYS_HASHED = tuple(name for name in CONFIGURATION_NAMES if name not in ADDED_TO_CONFIGURATION)


def _absent(name: str) -> str:
    return "1" if name in ONE_BY_DEFAULT else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple | set | frozenset):
        return " ".join(sorted(map(str, value)))
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() else repr(value)
    return str(value)


def _part(name: str, text: str) -> str:
    """What a configuration column adds to the text that is hashed."""
    if name in ADDED_TO_CONFIGURATION:
        return f"\x1f{name}={text}" if text else ""
    return ("" if name == _ALWAYS_HASHED[0] else "\x1f") + (text or _absent(name))


def _parts(table: pa.Table, name: str) -> tuple[list[str], _Codes]:
    """A configuration column as the distinct parts it adds and, for every row, the index of its part."""
    if name not in table.column_names or table.column(name).null_count == table.num_rows:
        return [_part(name, "")], np.zeros(table.num_rows, np.int64)
    texts, codes = _text_column(table.column(name))
    return [_part(name, text) for text in texts], codes


def _text_column(column: pa.ChunkedArray) -> tuple[list[str], _Codes]:
    """Distinct values of a column as text (twice the same where they read alike), and the index of every row's."""
    if pa.types.is_nested(column.type):
        column = _joined(column)
    encoded = pc.dictionary_encode(column.combine_chunks())
    texts = [_text(value) for value in encoded.dictionary.to_pylist()]
    if encoded.indices.null_count:
        texts.append("")
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), len(texts) - 1)
    return texts, codes.to_numpy(zero_copy_only=False)


def _joined(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists as text; without looking at its rows where no list holds anything."""
    if pa.types.is_list(column.type) and pc.max(pc.list_value_length(column)).as_py() == 0:
        return pa.chunked_array([pa.repeat("", len(column))])
    return pa.chunked_array([pa.array([_text(value) for value in column.to_pylist()], pa.string())])
