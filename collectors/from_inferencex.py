"""Results of InferenceX (InferenceMAX before): aggregates, agentic runs, a partner's baselines, token-position files, dashboard CSV.

Latencies of aggregates are seconds, and so are those of the dashboard's CSV, whose headers say ms. A baseline's are ms. Throughput is
printed per device: output tokens over the devices that decode, input tokens over those that prefill where these are apart, and over
all devices where they are not. Interactivity is 1000 / TPOT in ms, so its standard deviation is no spread of anything and is left out;
its 99th percentile is the slow tail. Standard deviations are samples: no file says over how many requests. ITL is the gap
between chunks, in agentic runs the TPOT of a request.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from collectors import _importing
from collectors._figures import Figures, image_version, positive, whole
from collectors._importing import File, Run, Said

TOOL = "inferencex"
SOURCE_KIND = "published"

LATENCIES = {
    "ttft": ("ttft_s", "first_nonempty_chunk"),
    "tpot": ("tpot_s", "e2el_minus_ttft_over_n_minus_1"),
    "itl": ("icl_s", "per_chunk_pooled"),
    "e2el": ("e2el_s", "last_chunk"),
}
"""A latency as the files call it -> metric and definition."""

_MARKS = {
    "aggregate": ('"infmax_model_prefix"', '"tput_per_gpu"'),
    "agentic": ('"infmax_model_prefix"', '"request_metrics"'),
    "baseline": ('"cluster"', '"profile"', '"tuning"', '"metrics"'),
    "position": ('"good_completed"', '"median_ttft"', '"max_concurrency"'),
    "dashboard": ("Hardware Key", "Throughput/GPU (tok/s)", "Median Interactivity (tok/s/user)"),
}
"""Kind of file -> what its beginning holds."""

_DASHBOARD = {
    "Model": "model", "ISL": "isl", "OSL": "osl", "Hardware": "hw", "Framework": "framework", "Precision": "precision", "TP": "tp",
    "EP": "ep", "Concurrency": "conc", "Throughput/GPU (tok/s)": "tput_per_gpu", "Output Throughput/GPU (tok/s)": "output_tput_per_gpu",
    "Input Throughput/GPU (tok/s)": "input_tput_per_gpu", "Disaggregated": "disagg", "Num Prefill GPUs": "num_prefill_gpu",
    "Num Decode GPUs": "num_decode_gpu", "Spec Decoding": "spec_decoding", "DP Attention": "dp_attention", "Is Multinode": "is_multinode",
}  # fmt: skip
_DASHBOARD |= {
    f"{statistic} {header} ({unit})": f"{statistic.lower()}_{name}"
    for statistic in ("Mean", "Median", "P99", "Std")
    for header, name, unit in (
        ("TTFT", "ttft", "ms"), ("TPOT", "tpot", "ms"), ("ITL", "itl", "ms"), ("E2E Latency", "e2el", "ms"),
        ("Interactivity", "intvty", "tok/s/user"),
    )
}  # fmt: skip
"""Header of the dashboard's CSV -> key of the aggregate that holds the same figure in the same unit."""


def recognises(file: File) -> bool:
    """Whether it is one of the five kinds of file."""
    return _kind(file) is not None


def read(file: File, said: Said) -> Iterator[Run]:
    """One run a file, or a row of the dashboard's CSV."""
    kind = _kind(file)
    if kind == "dashboard":
        yield from _dashboard(file)
    elif kind is not None:
        found = file.json()
        for position, one in enumerate(found if isinstance(found, list) else [found]):
            yield _READERS[kind](one, "all" if one is found else f"[{position}]")


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)


def _kind(file: File) -> str | None:
    if file.head.lstrip()[:1] in ("{", "["):
        return next((kind for kind, marks in _MARKS.items() if all(mark in file.head for mark in marks)), None)
    return "dashboard" if all(mark in file.head for mark in _MARKS["dashboard"]) else None


def _dashboard(file: File) -> Iterator[Run]:
    lines = [line for line in io.StringIO(file.text()) if not line.startswith("#")]
    for number, row in enumerate(csv.DictReader(lines), 1):
        run = _aggregate({_DASHBOARD[name]: text for name, text in row.items() if name in _DASHBOARD}, f"row {number}")
        run.collected_at = _day(row.get("Date"))
        yield run


def _aggregate(one: Mapping[str, Any], cell: str) -> Run:
    figures = Figures(TOOL, _configuration(one))
    for name, (metric, definition) in LATENCIES.items():
        for statistic, suffix in (("mean", None), ("median", "p50"), ("p90", "p90"), ("p99", "p99")):
            figures.metric(metric, one.get(f"{statistic}_{name}"), definition, statistic=suffix)
        for statistic in ("std", "p99.9"):
            figures.other(f"{statistic}_{name}", one.get(f"{statistic}_{name}"), "s")
    for statistic in ("mean", "median", "p90", "p99", "p99.9"):
        figures.other(f"{statistic}_intvty", one.get(f"{statistic}_intvty"), "tokens/s")
    _throughput(figures, one)
    return _run(one, cell, figures)


def _throughput(figures: Figures, one: Mapping[str, Any]) -> None:
    """Tokens/s of the whole system from tokens/s per device."""
    columns = figures.columns
    everyone = columns["num_devices"]
    prefilling = columns.get("num_prefill_devices") or everyone
    decoding = columns.get("num_decode_devices") or everyone
    over = {"tput_per_gpu": everyone, "input_tput_per_gpu": prefilling, "output_tput_per_gpu": decoding}
    for name, devices in over.items():
        metric = {"tput_per_gpu": "total"}.get(name, name.removesuffix("_tput_per_gpu")) + "_tokens_per_s"
        figures.metric(metric, one.get(name), "tokens_over_whole_run", scale=devices)
        figures.other(name, one.get(name), "tokens/s/device")


def _agentic(one: Mapping[str, Any], cell: str) -> Run:
    measured, accounting = one["request_metrics"], one.get("request_accounting") or {}
    figures = Figures(TOOL, _configuration(one))
    for name, found in measured["latency"].items():
        if name in ("ttft", "tpot", "e2el"):
            metric, definition = LATENCIES[name]
            figures.distribution(metric, found, definition, name=f"latency.{name}")
        elif name == "intvty":
            figures.others({key: value for key, value in found.items() if key != "std"}, "tokens/s", "latency.intvty.")
        else:
            figures.others(found, "s", f"latency.{name}.")
    for side, found in measured.get("tokens", {}).items():
        figures.others(found, "tokens", f"tokens.{side}.")
    throughput = measured.get("throughput", {})
    for side in ("input", "output", "total"):
        figures.metric(
            f"{side}_tokens_per_s", throughput.get(side, {}).get("tokens_per_second"), "tokens_over_whole_run"
        )
    figures.others(throughput.get("per_gpu", {}), "tokens/s/device", "throughput.per_gpu.")
    figures.others(accounting, "1", "request_accounting.")
    server = one.get("server_metrics") or {}
    figures.other("server_metrics.kv_cache.gpu_usage_pct", (server.get("kv_cache") or {}).get("gpu_usage_pct"), "1")
    figures.other("kv_cache_pool_tokens", one.get("kv_cache_pool_tokens"), "tokens")
    run = _run(one, cell, figures)
    run.columns |= {
        "input_tokens": whole(measured.get("tokens", {}).get("input", {}).get("mean")),
        "output_tokens": whole(measured.get("tokens", {}).get("output_actual", {}).get("mean")),
        "duration_s": throughput.get("duration_seconds"),
        "prefix_cache_hit_ratio": (server.get("cache") or {}).get("overall_cache_hit_rate"),
    }
    run.notes.append("Lengths are means over requests of a recorded trace.")
    _count(run, one, accounting)
    return run


def _count(run: Run, one: Mapping[str, Any], accounting: Mapping[str, Any]) -> None:
    """Requests of the measured part: the file's total counts those that warmed up."""
    total, done = one.get("num_requests_total"), one.get("num_requests_successful")
    if total is None or done is None:
        return
    sent = total - accounting.get("records_warmup_dropped", 0)
    run.columns |= {"num_requests": sent, "num_failed_requests": sent - done}
    run.columns["success_rate"] = done / sent if sent else None
    errors = accounting.get("records_error_dropped", 0)
    if errors > sent - done:
        run.notes.append(f"{errors} requests failed; the file counts them among those that warmed up.")


def _baseline(one: Mapping[str, Any], cell: str) -> Run:
    figures, measured = Figures(TOOL, _configuration(one)), one["metrics"]
    for name, (metric, definition) in LATENCIES.items():
        for statistic, suffix in (("mean", None), ("median", "p50"), ("p90", "p90"), ("p99", "p99")):
            figures.metric(metric, measured.get(f"{statistic}_{name}_ms"), definition, statistic=suffix, scale=1e-3)
    for name, metric in (("total_token", "total_tokens"), ("output_token", "output_tokens"), ("request", "requests")):
        figures.metric(f"{metric}_per_s", measured.get(f"{name}_throughput"), "tokens_over_whole_run")
    figures.other("successful_requests", measured.get("successful_requests"), "1")
    power = one.get("gpu") or {}
    for name in ("mean_power_per_gpu_w", "total_avg_power_w", "peak_power_per_gpu_w"):
        figures.other(f"gpu.{name}", power.get(name), "W")
    figures.other("gpu.n_gpus", power.get("n_gpus"), "1")
    figures.other("gpu.tokens_per_kw", power.get("tokens_per_kw"), "tokens/s/kW")
    run = _run(one, cell, figures)
    if power and power.get("n_gpus") != run.columns["num_devices"]:
        run.notes.append(
            f"Power is of {power.get('n_gpus')} devices, of which {run.columns['num_devices']} were used: it is in samples."
        )
    run.collected_at = _time(one.get("ts"))
    return run


def _position(one: Mapping[str, Any], cell: str) -> Run:
    figures = Figures(TOOL, {"phase": "serve", "concurrency": positive(one.get("max_concurrency"))})
    for name, (metric, definition) in LATENCIES.items():
        for statistic, suffix in (("mean", None), ("median", "p50"), ("p90", "p90"), ("p99", "p99")):
            figures.metric(metric, one.get(f"{statistic}_{name}"), definition, statistic=suffix)
    for side, metric in (("input", "input_tokens"), ("output", "output_tokens"), ("request", "requests")):
        figures.metric(f"{metric}_per_s", one.get(f"{side}_throughput"), "tokens_over_whole_run")
    figures.metric("goodput_requests_per_s", one.get("request_goodput"), "tokens_over_whole_run")
    sent, done = one.get("num_prompts"), one["completed"]
    columns = figures.columns | {
        "load_pattern": None if one.get("max_concurrency") is None else "closed",
        "num_requests": sent,
        "num_failed_requests": None if sent is None else sent - done,
        "success_rate": done / sent if sent else None,
        "duration_s": one.get("duration"),
        "input_tokens": whole(one["total_input_tokens"] / done) if done else None,
        "output_tokens": whole(one["total_output_tokens"] / done) if done else None,
        "execution": "engine",
    }
    return Run(
        cell, columns, figures.definitions, model=one.get("model_id"), samples=figures.samples,
        collected_at=_stamp(one.get("date")),
    )  # fmt: skip


_READERS = {"aggregate": _aggregate, "agentic": _agentic, "baseline": _baseline, "position": _position}


def _configuration(one: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration columns. Expert and attention-data parallelism lie within the tensor-parallel devices."""
    is_apart = _is_true(one.get("disagg"))
    prefilling, decoding = (
        positive(one.get(f"num_{side}_gpu")) if is_apart else None for side in ("prefill", "decode")
    )
    tensor, expert, pipeline = (_degree(one, name) for name in ("tp", "ep", "pp"))
    optimizations = [
        *(["speculative"] if one.get("spec_decoding") not in (None, "", "none") else []),
        *(["dp_attention"] if any(_is_true(one.get(f"{side}dp_attention")) for side in ("", "prefill_", "decode_")) else []),
    ]  # fmt: skip
    return {
        "phase": "serve",
        "load_pattern": "closed",
        "concurrency": positive(one.get("conc")),
        "input_tokens": positive(one.get("isl")),
        "output_tokens": positive(one.get("osl")),
        "num_devices": prefilling + decoding if prefilling and decoding else (tensor or 1) * (pipeline or 1),
        "num_prefill_devices": prefilling,
        "num_decode_devices": decoding,
        "tensor_parallel": tensor,
        "expert_parallel": expert,
        "pipeline_parallel": pipeline,
        "weight_dtype": _importing.dtype(one.get("precision")),
        "framework": one.get("framework"),
        "framework_version": image_version(one.get("image")),
        "optimizations": sorted(optimizations),
        "execution": "engine",
    }


def _degree(one: Mapping[str, Any], name: str) -> int | None:
    """A parallel degree; of prefill and decode apart the one they share, else None."""
    if name in one:
        return positive(one[name])
    prefill, decode = positive(one.get(f"prefill_{name}")), positive(one.get(f"decode_{name}"))
    return prefill if prefill == decode else None


def _run(one: Mapping[str, Any], cell: str, figures: Figures) -> Run:
    notes = []
    if figures.columns["num_prefill_devices"] is not None and figures.columns["tensor_parallel"] is None:
        notes.append("Prefill and decode differ in tensor parallelism.")
    return Run(
        cell, figures.columns, figures.definitions, device=_device(one["hw"]), model=one.get("model"), notes=notes,
        samples=figures.samples,
    )  # fmt: skip


def _device(name: str) -> str:
    """`cluster:mi355x-amds` is mi355x: what stands before and behind names who owns it."""
    found = re.fullmatch(r"(?:cluster:)?([a-z]+\d+[a-z]*)(?:[-_].*)?", name.strip().lower())
    return found.group(1) if found else name


def _is_true(value: object) -> bool:
    """True, and the text of it: files print the string "false"."""
    return str(value).strip().lower() == "true"


def _day(text: str | None) -> datetime.datetime | None:
    return _time(f"{text}T00:00:00+00:00") if text else None


def _stamp(text: str | None) -> datetime.datetime | None:
    """`20260214-214213`."""
    try:
        return datetime.datetime.strptime(text or "", "%Y%m%d-%H%M%S").replace(tzinfo=datetime.UTC)
    except ValueError:
        return None


def _time(text: str | None) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
