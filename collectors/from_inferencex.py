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
from collectors._bench_serving import TIMES
from collectors._figures import Figures, image_version, number, positive, whole
from collectors._importing import File, Run, Said
from collectors._load_results import count, each, requests, stamp
from collectors._names import model_name

TOOL = "inferencex"
SOURCE_KIND = "published"

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
    for position, row in enumerate(csv.DictReader(lines), 1):
        if None in row or None in row.values():
            raise ValueError(f"row {position} has another number of cells than the header: it is cut off")
        run = _aggregate(
            {_DASHBOARD[name]: text for name, text in row.items() if name in _DASHBOARD}, f"row {position}"
        )
        run.collected_at = _day(row.get("Date"))
        yield run


def _aggregate(one: Mapping[str, Any], cell: str) -> Run:
    figures = Figures(TOOL, _configuration(one))
    for name, (metric, definition) in TIMES.items():
        _statistics(figures, metric, definition, one, f"_{name}")
        for statistic in ("std", "p99.9"):
            figures.other(f"{statistic}_{name}", one.get(f"{statistic}_{name}"), "s")
    for statistic in ("mean", "median", "p90", "p99", "p99.9"):
        figures.other(f"{statistic}_intvty", one.get(f"{statistic}_intvty"), "tokens/s")
    _throughput(figures, one)
    return _run(one, cell, figures)


def _statistics(
    figures: Figures, metric: str, definition: str, found: Mapping[str, Any], ending: str, *, scale: float = 1.0
) -> None:
    """Mean and percentiles of a latency, by the keys `mean_...`, `median_...`."""
    for printed, statistic in (("mean", None), ("median", "p50"), ("p90", "p90"), ("p99", "p99")):
        value = number(printed + ending, found.get(printed + ending))
        figures.metric(metric, value, definition, statistic=statistic, scale=scale)


def _throughput(figures: Figures, one: Mapping[str, Any]) -> None:
    """Tokens/s of the whole system from tokens/s per device."""
    columns = figures.columns
    everyone = columns["num_devices"]
    if everyone is None:
        raise ValueError("throughput is per device, and neither 'tp' nor the devices of prefill and decode are there")
    prefilling = columns.get("num_prefill_devices") or everyone
    decoding = columns.get("num_decode_devices") or everyone
    over = {"tput_per_gpu": everyone, "input_tput_per_gpu": prefilling, "output_tput_per_gpu": decoding}
    for name, devices in over.items():
        metric = {"tput_per_gpu": "total"}.get(name, name.removesuffix("_tput_per_gpu")) + "_tokens_per_s"
        value = number(name, one.get(name))
        figures.metric(metric, value, "tokens_over_whole_run", scale=devices)
        figures.other(name, value, "tokens/s/device")


def _agentic(one: Mapping[str, Any], cell: str) -> Run:
    measured, accounting = one["request_metrics"], one.get("request_accounting") or {}
    figures = Figures(TOOL, _configuration(one))
    for name, found in measured["latency"].items():
        if name in ("ttft", "tpot", "e2el"):
            metric, definition = TIMES[name]
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
        "input_tokens": whole("tokens.input", measured.get("tokens", {}).get("input", {}).get("mean")),
        "output_tokens": whole("tokens.output_actual", measured.get("tokens", {}).get("output_actual", {}).get("mean")),
        "duration_s": number("duration_seconds", throughput.get("duration_seconds")),
        "prefix_cache_hit_ratio": number(
            "overall_cache_hit_rate", (server.get("cache") or {}).get("overall_cache_hit_rate")
        ),
    }
    run.notes.append("Lengths are means over requests of a recorded trace.")
    _count(run, one, accounting)
    return run


def _count(run: Run, one: Mapping[str, Any], accounting: Mapping[str, Any]) -> None:
    """Requests of the measured part: the file's total counts those that warmed up."""
    total, done = (count(name, one.get(name)) for name in ("num_requests_total", "num_requests_successful"))
    if total is None or done is None:
        return
    warmup, errors = (
        count(name, accounting.get(name)) or 0 for name in ("records_warmup_dropped", "records_error_dropped")
    )
    sent = total - warmup
    run.columns |= requests(
        done, sent, sent_key="num_requests_total without its warm-up", done_key="num_requests_successful"
    )
    if errors > sent - done:
        run.notes.append(f"{errors} requests failed; the file counts them among those that warmed up.")


def _baseline(one: Mapping[str, Any], cell: str) -> Run:
    figures, measured = Figures(TOOL, _configuration(one)), one["metrics"]
    for name, (metric, definition) in TIMES.items():
        _statistics(figures, metric, definition, measured, f"_{name}_ms", scale=1e-3)
    for name, metric in (("total_token", "total_tokens"), ("output_token", "output_tokens"), ("request", "requests")):
        figures.metric(f"{metric}_per_s", measured.get(f"{name}_throughput"), "tokens_over_whole_run")
    figures.other("successful_requests", measured.get("successful_requests"), "1")
    power = one.get("gpu") or {}
    for name in ("mean_power_per_gpu_w", "total_avg_power_w", "peak_power_per_gpu_w"):
        figures.other(f"gpu.{name}", power.get(name), "W")
    figures.other("gpu.n_gpus", power.get("n_gpus"), "1")
    figures.other("gpu.tokens_per_kw", power.get("tokens_per_kw"), "tokens/s/kW")
    run = _run(one, cell, figures)
    if power and run.columns["num_devices"] not in (None, power.get("n_gpus")):
        run.notes.append(
            f"Power is of {power.get('n_gpus')} devices, of which {run.columns['num_devices']} were used: it is in samples."
        )
    run.collected_at = _time(one.get("ts"))
    return run


def _position(one: Mapping[str, Any], cell: str) -> Run:
    figures = Figures(TOOL, {"phase": "serve", "concurrency": positive("max_concurrency", one.get("max_concurrency"))})
    for name, (metric, definition) in TIMES.items():
        _statistics(figures, metric, definition, one, f"_{name}")
    for side, metric in (("input", "input_tokens"), ("output", "output_tokens"), ("request", "requests")):
        figures.metric(f"{metric}_per_s", one.get(f"{side}_throughput"), "tokens_over_whole_run")
    figures.metric("goodput_requests_per_s", one.get("request_goodput"), "tokens_over_whole_run")
    sent, done = count("num_prompts", one.get("num_prompts")), count("completed", one["completed"]) or 0
    columns = figures.columns | {
        "load_pattern": None if one.get("max_concurrency") is None else "closed",
        **requests(done, sent),
        "duration_s": number("duration", one.get("duration")),
        "input_tokens": each("total_input_tokens", one["total_input_tokens"], done),
        "output_tokens": each("total_output_tokens", one["total_output_tokens"], done),
        "execution": "engine",
    }
    return Run(
        cell, columns, figures.definitions, model=model_name(one.get("model_id")), samples=figures.samples,
        collected_at=stamp("date", one.get("date")),
    )  # fmt: skip


_READERS = {"aggregate": _aggregate, "agentic": _agentic, "baseline": _baseline, "position": _position}


def _configuration(one: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration columns. Expert and attention-data parallelism lie within the tensor-parallel devices."""
    is_apart = _is_true(one.get("disagg"))
    prefilling, decoding = (
        positive(f"num_{side}_gpu", one.get(f"num_{side}_gpu")) if is_apart else None for side in ("prefill", "decode")
    )
    tensor, expert, pipeline = (_degree(one, name) for name in ("tp", "ep", "pp"))
    if is_apart:
        num_devices = None if prefilling is None or decoding is None else prefilling + decoding
    else:
        num_devices = None if tensor is None else tensor * (1 if pipeline is None else pipeline)
    optimizations = [
        *(["speculative"] if one.get("spec_decoding") not in (None, "", "none") else []),
        *(["dp_attention"] if any(_is_true(one.get(f"{side}dp_attention")) for side in ("", "prefill_", "decode_")) else []),
    ]  # fmt: skip
    return {
        "phase": "serve",
        "load_pattern": "closed",
        "concurrency": positive("conc", one.get("conc")),
        "input_tokens": positive("isl", one.get("isl")),
        "output_tokens": positive("osl", one.get("osl")),
        "num_devices": num_devices,
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
        return positive(name, one[name])
    prefill, decode = (
        positive(f"prefill_{name}", one.get(f"prefill_{name}")),
        positive(f"decode_{name}", one.get(f"decode_{name}")),
    )
    return prefill if prefill == decode else None


def _run(one: Mapping[str, Any], cell: str, figures: Figures) -> Run:
    notes = []
    if figures.columns["num_prefill_devices"] is not None and figures.columns["tensor_parallel"] is None:
        notes.append("Prefill and decode differ in tensor parallelism.")
    return Run(
        cell, figures.columns, figures.definitions, device=_device(one.get("hw")), model=model_name(one.get("model")), notes=notes,
        samples=figures.samples,
    )  # fmt: skip


def _device(name: Any) -> str | None:
    """`cluster:mi355x-amds` is mi355x: what stands before and behind names who owns it; None where the file does not say."""
    if name is None or not str(name).strip():
        return None
    found = re.fullmatch(r"(?:cluster:)?([a-z]+\d+[a-z]*)(?:[-_].*)?", str(name).strip().lower())
    return found.group(1) if found else str(name)


def _is_true(value: object) -> bool:
    """True, and the text of it: files print the string "false"."""
    return str(value).strip().lower() == "true"


def _day(text: str | None) -> datetime.datetime | None:
    return _time(f"{text}T00:00:00+00:00") if text else None


def _time(text: str | None) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
