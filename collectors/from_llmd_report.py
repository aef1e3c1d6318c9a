"""llm-d Benchmark Reports 0.1, 0.2 and 0.2.1, as JSON or YAML: a report of one stage of a load, whichever tool sent it.

Every number of a report has its unit beside it and comes out in SI. What a figure means is up to the tool that measured it: vLLM's
time_per_output_token is our TPOT, guidellm's is E2EL / N and its inter_token_latency our TPOT, inference-perf's divides by events
of the stream (a sample). Of a tool that is not known here both are samples. Standard deviations are samples too, because no report
says how they are computed. Reports that Rooflake wrote say all of this themselves and come back as the columns they were written from.

Arguments and environment of servers, which hold tokens and addresses, are never read.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from collectors import _importing
from collectors._figures import STATISTICS, Figures, image_version, number, positive, whole
from collectors._importing import File, Run, Said, Unreadable
from warehouse import metrics

TOOL = "llmd_report"
SOURCE_KIND = "measured"

OURS = "rooflake"
"""Name of this warehouse as a tool, and of its part of a report's native configuration."""

UNITS: dict[str, tuple[float, str]] = {
    "count": (1, "1"), "pixels": (1, "1"), "percent": (1e-2, "1"), "fraction": (1, "1"), "ratio": (1, "1"), "score": (1, "1"),
    "ms": (1e-3, "s"), "s": (1, "s"), "seconds": (1, "s"), "ms/token": (1e-3, "s/token"), "s/token": (1, "s/token"),
    "bytes": (1, "B"), "MB": (1e6, "B"), "GB": (1e9, "B"), "TB": (1e12, "B"), "MiB": (2**20, "B"), "GiB": (2**30, "B"),
    "TiB": (2**40, "B"), "Mbit/s": (1.25e5, "B/s"), "Gbit/s": (1.25e8, "B/s"), "Tbit/s": (1.25e11, "B/s"), "MB/s": (1e6, "B/s"),
    "GB/s": (1e9, "B/s"), "TB/s": (1e12, "B/s"), "GiB/s": (2**30, "B/s"), "tokens": (1, "tokens"), "tokens/s": (1, "tokens/s"),
    "queries/s": (1, "1/s"), "images/s": (1, "1/s"), "videos/s": (1, "1/s"), "audios/s": (1, "1/s"), "Watts": (1, "W"),
}  # fmt: skip
"""Unit of a report -> factor into SI, and the SI unit. MB is 1e6 bytes, MiB 2**20."""

LATENCIES = {
    "time_to_first_token": ("ttft_s", "first_nonempty_chunk"),
    "request_latency": ("e2el_s", "last_chunk"),
    "normalized_time_per_output_token": ("ntpot_s", "e2el_over_n"),
}
"""A latency that means the same whichever tool measured it -> metric and definition."""

_TPOT = ("tpot_s", "e2el_minus_ttft_over_n_minus_1")
_ICL = ("icl_s", "per_chunk_pooled")
LATENCIES_OF_TOOLS: dict[str, dict[str, tuple[str, str]]] = {
    "vllm-benchmark": {"time_per_output_token": _TPOT, "inter_token_latency": _ICL},
    "guidellm": {"time_per_output_token": ("ntpot_s", "e2el_over_n"), "inter_token_latency": _TPOT},
    "inference-perf": {"inter_token_latency": _ICL},
    OURS: {"time_per_output_token": _TPOT, "inter_token_latency": ("itl_s", "per_token_split_chunks")},
}
"""The other two, by tool."""

THROUGHPUTS = {
    "input_token_rate": "input_tokens_per_s",
    "output_token_rate": "output_tokens_per_s",
    "total_token_rate": "total_tokens_per_s",
    "request_rate": "requests_per_s",
}
_OLD_THROUGHPUTS = {
    "input_tokens_per_sec": "input_token_rate", "output_tokens_per_sec": "output_token_rate",
    "total_tokens_per_sec": "total_token_rate", "requests_per_sec": "request_rate",
}  # fmt: skip
_DEGREES = {"tp": "tensor_parallel", "pp": "pipeline_parallel", "dp": "data_parallel", "ep": "expert_parallel"}

_JSON_MARKS = (('"run"', '"results"', '"uid"'), ('"scenario"', '"metrics"', '"requests"', '"time_to_first_token"'))
_YAML_MARKS = (("run:", "results:"), ("version:", "scenario:", "metrics:"))


def recognises(file: File) -> bool:
    """Whether it has the parts of a report: run and results, or in version 0.1 scenario and metrics."""
    head = file.head
    if head.lstrip().startswith("{"):
        return any(all(mark in head for mark in marks) for marks in _JSON_MARKS)
    return any(all(re.search(f"^{mark}", head, re.MULTILINE) for mark in marks) for marks in _YAML_MARKS)


def read(file: File, said: Said) -> Iterator[Run]:
    """The one run a report holds."""
    report = _parsed(file)
    try:
        yield _old(report) if "metrics" in report else _new(report)
    except (TypeError, AttributeError, IndexError) as error:
        raise Unreadable(
            f"{file.name} looks like a Benchmark Report, but a part of it has another form than the format gives it: a list, a text or "
            "nothing where named parts belong, or the other way round. Check it against the schema of its version."
        ) from error


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)


def _parsed(file: File) -> dict[str, Any]:
    """A report as JSON, or as YAML where the parser is installed. Raises Unreadable."""
    if file.head.lstrip().startswith("{"):
        found = file.json()
    else:
        try:
            yaml: Any = importlib.import_module("yaml")
        except ImportError:
            raise Unreadable(
                f"{file.name} is YAML, which needs the package pyyaml. Install it, or give the report as JSON."
            ) from None
        try:
            found = yaml.safe_load(file.shallow(file.text()))
        except (yaml.YAMLError, RecursionError) as error:
            raise Unreadable(f"{file.name} is not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(found, dict):
        raise Unreadable(f"{file.name} is no report: it holds a {type(found).__name__}.")
    return found


# ---- version 0.2 and 0.2.1


def _new(report: Mapping[str, Any]) -> Run:
    scenario, results = report.get("scenario") or {}, report["results"]
    stack = scenario.get("stack") or []
    engines = [one["standardized"] for one in stack if one["standardized"].get("kind") == "inference_engine"]
    load = (scenario.get("load") or {}).get("standardized") or {}
    own = _own(stack)
    tool = OURS if own else str(load.get("tool"))
    figures = Figures(TOOL, _configuration(engines, load) | own.get("columns", {}))
    if engines and not own:
        figures.columns |= {
            "framework": engines[0]["tool"],
            "framework_version": image_version(engines[0]["tool_version"]) or engines[0]["tool_version"],
        }
    aggregate = (results.get("request_performance") or {}).get("aggregate") or {}
    _latencies(figures, aggregate.get("latency") or {}, tool, own.get("metric_definitions", {}))
    _throughputs(figures, aggregate.get("throughput") or {}, own.get("metric_definitions", {}))
    _requests(figures, aggregate.get("requests") or {})
    for part in ("observability", "session_performance"):
        _walk(figures, part, results.get(part))
    _add_own(figures, own)
    time = (report.get("run") or {}).get("time") or {}
    if (duration := _seconds(time.get("duration"))) is not None:
        figures.columns["duration_s"] = duration
    devices, models = [one["accelerator"]["model"] for one in engines], [one["model"]["name"] for one in engines]
    return _run(figures, devices, models, tool, time, status=own.get("status", "ok"))


def _configuration(engines: Sequence[Mapping[str, Any]], load: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the servers and of the load that they got."""
    hosts = [
        (one["role"], one["accelerator"]["count"] * one["replicas"], one["accelerator"].get("parallelism") or {}) for one in engines
    ]  # fmt: skip
    limit, rate = load.get("concurrency"), number("rate_qps", load.get("rate_qps"))
    concurrency = None if limit == math.inf else positive("concurrency", limit)
    return _servers(hosts) | {
        "concurrency": concurrency,
        "request_rate_per_s": rate,
        "load_pattern": "closed" if concurrency is not None and rate is None else None,
        "input_tokens": whole("input_seq_len", (load.get("input_seq_len") or {}).get("value")),
        "output_tokens": whole("output_seq_len", (load.get("output_seq_len") or {}).get("value")),
    }


def _servers(hosts: Sequence[tuple[str, int, Mapping[str, Any]]]) -> dict[str, Any]:
    """(role, devices, parallelism) of each server as columns; degrees only where all servers share them."""
    columns: dict[str, Any] = {"phase": "serve", "execution": "engine"}
    if not hosts:
        return columns
    columns["num_devices"] = sum(count for _, count, _ in hosts)
    if {role for role, _, _ in hosts} >= {"prefill", "decode"}:
        for role in ("prefill", "decode"):
            columns[f"num_{role}_devices"] = sum(count for one, count, _ in hosts if one == role)
    for short, name in _DEGREES.items():
        degrees = {positive(short, parallelism.get(short)) for _, _, parallelism in hosts}
        columns[name] = degrees.pop() if len(degrees) == 1 else None
    return columns


def _own(stack: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What Rooflake wrote beside the standard part; nothing in another's report."""
    config = (stack[0].get("native") or {}).get("config") if stack else None
    own = config.get(OURS) if isinstance(config, Mapping) else None
    if not isinstance(own, Mapping):
        return {}
    known = {name: value for name, value in own.get("columns", {}).items() if name in OWN_COLUMNS}
    return {**own, "columns": known}


OWN_COLUMNS = (
    *(name for name in _importing.SETTABLE if name != "source_kind"),
    "num_samples", "prefix_cache_hit_ratio", "concurrency_mean", "concurrency_max", "steady_from_s", "steady_s", "is_saturated", "slo_e2el_s",
    "slo_ttft_s", "slo_tpot_s", "num_client_processes", "client_cpu_s", "client_delay_p99_s", "is_client_trusted",
)  # fmt: skip
"""Columns that our part of a report may hold."""


def _add_own(figures: Figures, own: Mapping[str, Any]) -> None:
    """Metrics that the standard part has no place for, and the definitions of all metrics of which any statistic is there."""
    if not own:
        return
    for name, value in own.get("metrics", {}).items():
        if name in _METRIC_COLUMNS and (found := number(name, value)) is not None:
            figures.columns[name] = found
    figures.definitions = {
        metric.key: text
        for metric in metrics.METRICS
        if (text := own.get("metric_definitions", {}).get(metric.key)) in metrics.DEFINITIONS
        and any(figures.columns.get(column) is not None for column in metric.columns)
    }


_METRIC_COLUMNS = {column for metric in metrics.METRICS for column in metric.columns}


# ---- version 0.1


def _old(report: Mapping[str, Any]) -> Run:
    scenario, found = report["scenario"], report["metrics"]
    host, tool = scenario.get("host") or {}, str(scenario["load"]["name"])
    devices = host.get("accelerator") or []
    hosts = [
        (role, one["count"], one.get("parallelism") or {})
        for role, one in zip(host.get("type") or ["replica"] * len(devices), devices, strict=True)
    ]
    figures = Figures(TOOL, _servers(hosts))
    engines = (scenario.get("platform") or {}).get("engine") or []
    if engines:
        figures.columns |= {"framework": engines[0]["name"], "framework_version": engines[0].get("version")}
    figures.columns["weight_dtype"] = _importing.dtype(scenario["model"].get("quantization"))
    _latencies(figures, found["latency"], tool, {})
    throughput = {
        _OLD_THROUGHPUTS[name]: {"mean": value, "units": "tokens/s"} for name, value in found["throughput"].items()
    }
    _throughputs(figures, throughput, {})
    _requests(figures, found["requests"])
    figures.columns["duration_s"] = number("duration", found["time"].get("duration"))
    for part in ("service", "resources"):
        _walk(figures, part, found.get(part))
    return _run(figures, [one["model"] for one in devices], [scenario["model"]["name"]], tool, found["time"])


# ---- both


def _run(
    figures: Figures,
    devices: Sequence[str],
    models: Sequence[str],
    tool: str,
    time: Mapping[str, Any],
    status: str = "ok",
) -> Run:
    return Run(
        "all", figures.columns, figures.definitions, device=" and ".join(dict.fromkeys(devices)) or None,
        model=models[0] if models else None, collected_at=_instant(time.get("start")), samples=figures.samples, status=status,
        notes=[] if tool == OURS else [f"Measured by {tool}."],
    )  # fmt: skip


def _latencies(figures: Figures, found: Mapping[str, Any], tool: str, own: Mapping[str, str]) -> None:
    known = LATENCIES | LATENCIES_OF_TOOLS.get(tool, {})
    for name, statistics in found.items():
        if statistics is None:
            continue
        scale, unit = _unit(statistics, name)
        if unit not in ("s", "s/token"):
            raise ValueError(f"{name} is in {statistics['units']}, which is no time")
        metric, definition = known.get(name, (None, ""))
        if name == "inter_token_latency" and own and "itl_s" not in own:
            metric, definition = _ICL
        for printed, value in statistics.items():
            if metric is not None and printed in STATISTICS:
                figures.metric(metric, value, own.get(metric, definition), statistic=STATISTICS[printed], scale=scale)
            elif metric is not None and printed == "stddev" and tool == OURS:
                figures.metric(metric, value, own.get(metric, definition), statistic="std", scale=scale)
            elif printed != "units" and (exact := number(f"{name}.{printed}", value)) is not None:
                figures.other(f"{name}.{printed}", exact * scale, unit)


def _throughputs(figures: Figures, found: Mapping[str, Any], own: Mapping[str, str]) -> None:
    for name, metric in THROUGHPUTS.items():
        statistics = found.get(name)
        if statistics is None:
            continue
        scale, _ = _unit(statistics, name)
        definition = own.get(metric, "tokens_over_whole_run")
        figures.metric(metric, statistics["mean"], definition, scale=scale)
        columns = ["mean"]
        if own and "std" in metrics.metric(metric).statistics:
            figures.metric(metric, statistics.get("stddev"), definition, statistic="std", scale=scale)
            columns.append("stddev")
        _walk(figures, f"throughput.{name}", {key: value for key, value in statistics.items() if key not in columns})


def _requests(figures: Figures, found: Mapping[str, Any]) -> None:
    """Requests sent and lost; lengths are means over requests where the load does not say them."""
    sent = whole("total", found.get("total"))
    lost = [whole(name, found.get(name)) for name in ("failures", "incomplete")]
    if sent is not None:
        figures.columns["num_requests"] = sent
    if any(count is not None for count in lost):
        failed = sum(count or 0 for count in lost)
        figures.columns["num_failed_requests"] = failed
        figures.columns["success_rate"] = (sent - failed) / sent if sent else None
    for name, column in (("input_length", "input_tokens"), ("output_length", "output_tokens")):
        lengths = found.get(name) or {}
        if figures.columns.get(column) is None:
            figures.columns[column] = whole(name, lengths.get("mean"))
        is_said = figures.columns[column] == lengths.get("mean")
        _walk(
            figures,
            f"requests.{name}",
            {key: value for key, value in lengths.items() if not (is_said and key == "mean")},
        )


def _walk(figures: Figures, path: str, node: Any) -> None:
    """Every number below a `units` as a sample in SI, under its path; series over time are left where they are."""
    if isinstance(node, Mapping):
        if "units" in node and "series" not in node:
            scale, unit = _unit(node, path)
            for printed, value in node.items():
                if not isinstance(value, str) and (found := number(f"{path}.{printed}", value)) is not None:
                    figures.other(f"{path}.{printed}", found * scale, unit)
            return
        for name, below in node.items():
            if name != "time_series":
                _walk(figures, f"{path}.{name}", below)
    elif isinstance(node, list):
        for index, below in enumerate(node):
            label = below.get("component_label") or below.get("component_id") if isinstance(below, Mapping) else None
            _walk(figures, f"{path}.{label or index}", below)


def _unit(statistics: Mapping[str, Any], name: str) -> tuple[float, str]:
    try:
        return UNITS[statistics["units"]]
    except KeyError:
        raise ValueError(f"{name} is in '{statistics.get('units')}'. Known: {', '.join(UNITS)}") from None


_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?")


def _seconds(text: object) -> float | None:
    """Seconds of an ISO 8601 duration."""
    match = _DURATION.fullmatch(str(text))
    if match is None or not any(match.groups()):
        return None
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))


def _instant(value: object) -> datetime.datetime | None:
    """An instant as a report writes it: ISO 8601, a time that YAML has parsed, or seconds since 1970."""
    if isinstance(value, int | float) and (seconds := number("a time", value)) is not None:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    try:
        found = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
