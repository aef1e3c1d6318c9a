"""Every metric once: key, unit, display, which way is better, definition, formula.

Columns of `runs` are made from this list (`warehouse.schema`), axes and labels too. Adding a metric is adding a line.

Symbols: t_s scheduled send, t_0 actual send, t_1..t_C arrival of non-empty chunks, N output tokens by the server's usage
field; F floating-point operations (2 per multiply-add), B bytes moved to and from device memory, T measured time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]

LATENCY_STATISTICS = ("p25", "p50", "p75", "p90", "p95", "p99", "trimmed", "std")
"""Statistics stored beside a latency's mean: `latency_p99_s`. Percentiles are over requests or repeats, linear
interpolation (numpy default, type 7); `trimmed` is the mean of what is left without the lowest and highest tenth, `std` the
sample standard deviation (ddof=1)."""


@dataclass(frozen=True)
class Metric:
    """One measurable quantity and how it is shown.

    `key` is the column of `runs` that holds the mean (or the only value) in SI units; `display_factor` multiplies a
    stored value into `display_unit`.
    """

    key: str
    label: str
    unit: str
    display_unit: str
    display_factor: float
    better: Better | None
    definition: str
    formula: str = ""
    statistics: tuple[str, ...] = ()

    def column(self, statistic: str | None = None) -> str:
        """Column of `runs` for a statistic: `Metric('latency_s').column('p99')` is `latency_p99_s`."""
        if statistic is None:
            return self.key
        if statistic not in self.statistics:
            raise KeyError(
                f"'{self.key}' has no statistic '{statistic}'. Known: {', '.join(self.statistics) or 'none'}."
            )
        for suffix in _UNIT_SUFFIXES:
            if self.key.endswith(suffix):
                return f"{self.key.removesuffix(suffix)}_{statistic}{suffix}"
        return f"{self.key}_{statistic}"

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of `runs` that hold this metric, mean first."""
        return (self.key, *(self.column(statistic) for statistic in self.statistics))

    def axis(self) -> str:
        """Axis title with its unit."""
        return f"{self.label} ({self.display_unit})" if self.display_unit else self.label


_UNIT_SUFFIXES = ("_per_s", "_bytes", "_s", "_w", "_j")


def _time(key: str, label: str, definition: str, formula: str = "", statistics: tuple[str, ...] = ()) -> Metric:
    return Metric(key, label, "s", "ms", 1e3, "lower", definition, formula, statistics)


def _bytes(key: str, label: str, definition: str, formula: str = "") -> Metric:
    return Metric(key, label, "B", "GiB", 1 / 2**30, "lower", definition, formula)


def _tokens_rate(key: str, label: str, definition: str, formula: str = "") -> Metric:
    return Metric(key, label, "tokens/s", "tokens/s", 1.0, "higher", definition, formula, ("std",))


METRICS: tuple[Metric, ...] = (
    # latency
    _time("latency_s", "Latency", "wall-clock time of one execution of the phase, synchronised before and after",
          statistics=LATENCY_STATISTICS),
    _time("ttft_s", "TTFT", "time to the first non-empty token, from the actual send", "t_1 - t_0", LATENCY_STATISTICS),
    _time("tpot_s", "TPOT", "time per output token after the first, per request; NULL for one token",
          "(e2el - ttft) / (N - 1)", LATENCY_STATISTICS),
    _time("itl_s", "ITL", "gap between consecutive tokens; a chunk of n tokens counts as n gaps of 1/n",
          "(t_c - t_{c-1}) / n_c", LATENCY_STATISTICS),
    _time("e2el_s", "End-to-end latency", "send to last token", "t_C - t_0", LATENCY_STATISTICS),
    _time("ntpot_s", "NTPOT", "end-to-end latency over all output tokens, the first included", "e2el / N", LATENCY_STATISTICS),
    _time("icl_s", "ICL", "gap between consecutive chunks, whatever tokens they hold", "t_c - t_{c-1}", LATENCY_STATISTICS),
    _time("ttst_s", "TTST", "first to second token", "t_2 - t_1", LATENCY_STATISTICS),
    _time("ttfo_s", "TTFO", "time to the first token that is not reasoning", "", LATENCY_STATISTICS),
    _time("ttft_scheduled_s", "TTFT from schedule", "time to the first token from when the request was due: what the client held back counts",
          "t_1 - t_s", LATENCY_STATISTICS),
    _time("e2el_scheduled_s", "End-to-end from schedule", "last token from when the request was due", "t_C - t_s", LATENCY_STATISTICS),
    _time("forward_s", "Forward", "forward pass of a training step", statistics=("std",)),
    _time("backward_s", "Backward", "backward pass of a training step", statistics=("std",)),
    _time("optimizer_s", "Optimizer", "optimizer update of a training step", statistics=("std",)),
    _time("device_time_s", "Device time", "time between device events before and after one execution, gaps between kernels included"),
    _time("kernel_time_s", "Kernel time", "time in which at least one kernel ran within one execution, from the profiler's pass"),
    _time("ops_time_s", "Modules' time", "sum over the leaves of the module tree, from the pass with hooks; the rest of the latency is the residual"),
    _time("cpu_time_s", "CPU time", "processor time of all threads of the process within one execution"),
    # throughput
    _tokens_rate("output_tokens_per_s", "Output tokens/s", "output tokens of all sequences over the duration", "sum N / duration"),
    _tokens_rate("total_tokens_per_s", "Total tokens/s", "input and output (or training) tokens over the duration"),
    _tokens_rate("input_tokens_per_s", "Input tokens/s", "prompt tokens of all sequences over the duration"),
    Metric("requests_per_s", "Requests/s", "1/s", "1/s", 1.0, "higher", "completed requests over the duration"),
    Metric("goodput_requests_per_s", "Goodput", "1/s", "1/s", 1.0, "higher", "completed requests meeting every SLO over the duration"),
    Metric("goodput_ratio", "Goodput share", "", "%", 100.0, "higher", "completed requests meeting every SLO over completed requests"),
    Metric("success_rate", "Success rate", "", "%", 100.0, "higher", "requests that completed over requests sent"),
    # work
    Metric("flops", "FLOPs", "FLOP", "GFLOP", 1e-9, None, "floating-point operations of one execution, 2 per multiply-add", "F"),
    _bytes("bytes_moved", "Bytes moved", "device-memory traffic of one execution", "B"),
    _bytes("weight_bytes_read", "Weight bytes read", "weights read from device memory"),
    _bytes("activation_bytes_read", "Activation bytes read", "activations read from device memory"),
    _bytes("activation_bytes_written", "Activation bytes written", "activations written to device memory"),
    _bytes("kv_bytes_read", "KV bytes read", "KV cache read from device memory"),
    _bytes("kv_bytes_written", "KV bytes written", "KV cache written to device memory"),
    Metric("arithmetic_intensity", "Arithmetic intensity", "FLOP/B", "FLOP/B", 1.0, None, "work per byte moved", "F / B"),
    Metric("achieved_flops_per_s", "Achieved FLOP/s", "FLOP/s", "TFLOP/s", 1e-12, "higher", "work over measured time", "F / T"),
    Metric("achieved_bytes_per_s", "Achieved bytes/s", "B/s", "GB/s", 1e-9, "higher", "traffic over measured time", "B / T"),
    Metric("mfu", "MFU", "", "%", 100.0, "higher", "model FLOPs utilisation: dense peak of the dtype", "F / (T x peak)"),
    Metric("mbu", "MBU", "", "%", 100.0, "higher", "model bandwidth utilisation: weights and KV read per step",
           "(weight_bytes_read + kv_bytes_read) / (T x bandwidth)"),
    Metric("mfu_achievable", "MFU of the measured ceiling", "", "%", 100.0, "higher", "model FLOPs utilisation: the best GEMM measured on the device",
           "F / (T x measured peak)"),
    Metric("mbu_achievable", "MBU of the measured ceiling", "", "%", 100.0, "higher", "model bandwidth utilisation: the best copy measured on the device",
           "(weight_bytes_read + kv_bytes_read) / (T x measured bandwidth)"),
    Metric("bus_bytes_per_s", "Bus bandwidth", "B/s", "GB/s", 1e-9, "higher",
           "traffic of the busiest link of a collective, comparable over collectives and rank counts",
           "size / T x 2 (n-1)/n for all_reduce, (n-1)/n for all_gather and reduce_scatter of the whole, 1 for broadcast"),
    # memory
    _bytes("weights_bytes", "Weights", "resident weights, embeddings and head included"),
    _bytes("kv_cache_bytes", "KV cache", "resident KV cache", "2 x layers x kv_heads x head_dim x bytes x tokens x batch"),
    _bytes("activation_peak_bytes", "Activation peak", "largest set of live activations"),
    _bytes("logits_bytes", "Logits", "scores over the vocabulary, part of the activation peak where they are alive at it"),
    _bytes("gradients_bytes", "Gradients", "resident gradients of one device"),
    _bytes("optimizer_bytes", "Optimizer states", "resident optimizer states of one device, master weights included"),
    _bytes("workspace_bytes", "Workspace", "buffers of communication and of kernels, and what the runtime itself holds"),
    _bytes("memory_peak_bytes", "Peak memory", "peak of bytes allocated by the framework (or modelled)"),
    _bytes("memory_reserved_bytes", "Reserved memory", "peak of bytes reserved by the framework's allocator"),
    _bytes("memory_process_bytes", "Process memory on the device", "peak device memory of the process as its driver reports"),
    _bytes("memory_device_bytes", "Device memory used", "peak of bytes in use on the device as its driver (or the kernel: RSS) reports"),
    # analytical bound
    _time("roofline_s", "Roofline bound", "least time the device can take", "sum over ops of max(F / peak, B / bandwidth)"),
    _time("compute_s", "Compute time", "part of the bound set by FLOPs", "sum F / peak"),
    _time("memory_s", "Memory time", "part of the bound set by bytes", "sum B / bandwidth"),
    _time("communication_s", "Communication time", "time of collectives between devices"),
    _time("launch_s", "Launch time", "host time to issue the kernels of one execution, and what the host does around them",
          "kernels x dispatch + passes x step"),
    _time("estimate_s", "Estimate", "analytical time with calibrated efficiencies, launches and link latency",
          "sum over ops of sqrt((F / (e_c x peak))^2 + (B / (e_m x bandwidth))^2) + kernels x kernel_s, + collectives; at least kernels x dispatch_s; "
          "+ passes x step_s; 90 % interval beside, never below the bound",
          ("lower", "upper")),
    Metric("compute_elasticity", "Compute elasticity", "", "", 1.0, None, "relative change of the bound for a relative change of the compute peak",
           "-d ln T / d ln peak = compute-bound time / T"),
    Metric("bandwidth_elasticity", "Bandwidth elasticity", "", "", 1.0, None, "relative change of the bound for a relative change of the memory bandwidth",
           "-d ln T / d ln bandwidth = memory-bound time / T"),
    Metric("link_elasticity", "Link elasticity", "", "", 1.0, None, "relative change of the bound for a relative change of the link bandwidth",
           "-d ln T / d ln link = communication time / T"),
    # energy
    Metric("power_avg_w", "Average power", "W", "W", 1.0, "lower", "mean power of all devices over the window"),
    Metric("energy_j", "Energy", "J", "J", 1.0, "lower", "energy of all devices for one execution; of a served load, over the window"),
    Metric("energy_per_token_j", "Energy per token", "J/token", "J/token", 1.0, "lower",
           "energy over the tokens of one execution: input tokens of a forward pass, prefill or training step, else output tokens"),
    Metric("usd_per_million_tokens", "Cost per million tokens", "USD", "USD", 1.0, "lower",
           "price of the devices over the time of a million tokens: output tokens in decode, generate and serve, else all",
           "devices x usd_per_device_hour / 3600 x T / tokens x 1e6"),
    Metric("energy_per_output_token_j", "Energy per output token", "J/token", "J/token", 1.0, "lower", "energy over output tokens"),
)  # fmt: skip

BY_KEY: dict[str, Metric] = {metric.key: metric for metric in METRICS}

DEFINITIONS: dict[str, str] = {
    "wall_clock": "latency: wall clock around the synchronised phase",
    "device_events": "latency: device events on the launching stream",
    "e2el_minus_ttft_over_n_minus_1": "tpot: (E2EL - TTFT) / (N - 1), the definition of this warehouse",
    "tokens_over_duration": "throughput: all sequences' tokens over the measured duration",
    "tokens_per_sequence_or_batch_unstated": "throughput: the source does not say per sequence or over the batch",
    "tokens_over_whole_run": "throughput: tokens (or requests) over the whole run, its ramp up and down included",
    "tokens_over_steady_window": "throughput: tokens (or requests) in the steady window over its length",
    "tokens_over_duration_retokenized": "throughput: tokens counted by a tokenizer of the client over the measured duration",
    "tokens_over_latency": "throughput: tokens of one batch over its latency",
    "e2el_over_n": "ntpot: E2EL / N, N as the server counts",
    "e2el_over_n_retokenized": "ntpot: E2EL / N, N counted by a tokenizer that is not the model's",
    "per_chunk_pooled": "icl: gaps between chunks, pooled over requests: long answers weigh more",
    "per_chunk_request_mean": "icl: mean of the gaps between the chunks of a request, over requests",
    "per_token_pooled": "itl: gaps between tokens, pooled over requests",
    "second_chunk": "ttst: arrival of the second non-empty chunk minus that of the first",
    "first_answer_chunk": "ttfo: arrival of the first chunk that is not reasoning minus actual send",
    "first_chunk_scheduled": "ttft: arrival of the first non-empty chunk minus when the request was due",
    "last_chunk_scheduled": "e2el: arrival of the last chunk minus when the request was due",
    "wait_excluded": "latency: the clock starts after the client's own queue, so that waiting for a free slot is in no latency",
    "first_nonempty_chunk": "ttft: arrival of the first non-empty chunk minus actual send",
    "first_chunk": "ttft: arrival of the first chunk, even an empty one, minus actual send",
    "end_of_response": "e2el: end of the response minus actual send, what follows its last token included",
    "last_chunk": "e2el: arrival of the last chunk minus actual send",
    "per_token_split_chunks": "itl: gaps between tokens, a chunk of n tokens split into n equal gaps",
    "torch_max_allocated": "memory: torch.cuda.max_memory_allocated",
    "profiler_busy": "kernel time: union of the kernels' intervals in the profiler's trace, over its executions",
    "nvml_total_energy": "energy: the driver's energy counter over a window of repeated executions, over their number",
    "nvml_power_integral": "energy: the driver's power readings integrated over a window of repeated executions, over their number",
    "nvml_steady_window": "energy: the driver's energy counter over the steady part of a load, over the output tokens in it",
    "telemetry_mean": "power: mean of the readings during warm-up and repeats",
    "energy_window": "power: energy of the energy window over its length",
    "rapl_package": "energy: the processor packages' counters over a window of repeated executions, over their number",
    "first_token_of_generate": "ttft: start of generate to the first token chosen, no network",
    "torch_max_reserved": "memory: torch.cuda.max_memory_reserved",
    "nvml_process": "memory: bytes of this process on the device as the driver reports, sampled",
    "rss_peak_delta": "memory: peak resident set of the process during the phase, sampled, minus the set before the model was built",
    "driver_used": "memory: bytes in use as the device driver reports",
    "saved_for_backward": "activations: storages that autograd keeps at the end of a forward pass, weights apart",
    "exchange_minus_none": "communication: median of steps that exchange gradients minus that of steps that do not, in turn: what nothing hides",
    "timed_links": "communication: seconds inside collectives, sends and receives, waiting included, of the rank with most, in a pass that times each",
    "unstated_peak": "memory: peak device memory as the source prints it, kind not stated",
    "model_closed_form": "flops, bytes: closed form over the op inventory",
    "flop_counter": "flops: counted operator by operator under FakeTensorMode",
}
"""Definition ids that `metric_definitions` may name. A value under another definition stays in `samples`."""


def metric(key: str) -> Metric:
    """The metric of a key, or an error naming the known ones."""
    try:
        return BY_KEY[key]
    except KeyError:
        raise KeyError(
            f"'{key}' is not a metric. Known: {', '.join(BY_KEY)}. Add it in warehouse/metrics.py."
        ) from None
