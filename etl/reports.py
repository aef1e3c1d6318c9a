"""Runs of served loads as llm-d Benchmark Reports 0.2.1, one JSON file each.

The standard part holds what any reader of the format looks for, in seconds and tokens/s. What it has no place for (definitions, the
other configuration columns, the other metrics) lies under `native.config.rooflake` of the server, so that importing a report gives the
run back.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectors import from_llmd_report
from collectors.from_llmd_report import LATENCIES, OURS, THROUGHPUTS
from warehouse import catalog, metrics, schema

if TYPE_CHECKING:
    from warehouse.store import Store

VERSION = "0.2.1"

_STATISTICS = {"p25": "p25", "p50": "p50", "p75": "p75", "p90": "p90", "p95": "p95", "p99": "p99", "std": "stddev"}
"""Our statistics -> names of the format."""

_PER_TOKEN = ("time_per_output_token", "inter_token_latency", "normalized_time_per_output_token")


def export(store: Store, run_ids: Sequence[str], folder: Path) -> list[Path]:
    """Write one report a run into a folder, named by its id; all of them or none. Raises LookupError for a run that is not in the
    lake, ValueError for one that is no served load."""
    reports = {run_id: report(_run(store, run_id)) for run_id in dict.fromkeys(run_ids)}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for run_id, content in reports.items():
        path = folder / f"{run_id}.json"
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        os.replace(unfinished, path)
        paths.append(path)
    return paths


def _run(store: Store, run_id: str) -> dict[str, Any]:
    rows = store.sql("SELECT * FROM runs WHERE run_id = $run_id", {"run_id": run_id}).to_pylist()
    if not rows:
        raise LookupError(
            f"'{run_id}' is not a run of this lake. `rooflake sql \"SELECT run_id FROM runs WHERE phase = 'serve'\"` lists them."
        )
    return dict(rows[0])


def report(run: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `runs` (metric_definitions as pairs or a mapping) as a report. Raises ValueError for a run that is no served load."""
    if run["phase"] != "serve":
        raise ValueError(
            f"'{run['run_id']}' is a run of phase {run['phase']}. A report is of a served load: phase serve."
        )
    values = {name: value for name, value in run.items() if value is not None}
    latency, placed = _latencies(values)
    throughput = {
        name: _statistics(values, key, "tokens/s" if "token" in name else "queries/s") for name, key in THROUGHPUTS.items() if key in values
    }  # fmt: skip
    placed |= {column for key in THROUGHPUTS.values() if key in values for column in metrics.metric(key).columns}
    aggregate = {"requests": _requests(values), "latency": latency, "throughput": throughput}
    return {
        "version": VERSION,
        "run": {
            "uid": values["run_id"],
            "time": _time(values),
            "description": f"{_model(values)} on {values['hardware_id']}",
        },
        "scenario": {"stack": [_server(values, placed)], **_load(values)},
        "results": {"request_performance": {"aggregate": {name: part for name, part in aggregate.items() if part}}},
    }


def _latencies(values: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Latencies under the names of the format, and the columns they took."""
    gaps = "itl_s" if "itl_s" in values else "icl_s"
    keys = {name: key for name, (key, _) in LATENCIES.items()} | {
        "time_per_output_token": "tpot_s",
        "inter_token_latency": gaps,
    }
    found = {
        name: _statistics(values, key, "s/token" if name in _PER_TOKEN else "s") for name, key in keys.items() if key in values
    }  # fmt: skip
    placed = {
        column
        for name, key in keys.items()
        if name in found
        for column in (key, *(metrics.metric(key).column(statistic) for statistic in _STATISTICS))
    }
    return found, placed


def _statistics(values: Mapping[str, Any], key: str, units: str) -> dict[str, Any]:
    """Mean, percentiles and standard deviation of a metric."""
    metric = metrics.metric(key)
    others = {
        name: values[metric.column(statistic)]
        for statistic, name in _STATISTICS.items()
        if statistic in metric.statistics and metric.column(statistic) in values
    }
    return {"units": units, "mean": values[key], **others}


def _requests(values: Mapping[str, Any]) -> dict[str, Any]:
    if "num_requests" not in values:
        return {}
    lengths = {
        name: {"units": "count", "mean": values[column]}
        for name, column in (("input_length", "input_tokens"), ("output_length", "output_tokens"))
        if column in values
    }
    failures = {"failures": values["num_failed_requests"]} if "num_failed_requests" in values else {}
    return {"total": values["num_requests"], **failures, **lengths}


def _time(values: Mapping[str, Any]) -> dict[str, str]:
    start: datetime.datetime = values["collected_at"]
    duration = {"duration": f"PT{values['duration_s']!r}S"} if "duration_s" in values else {}
    return {"start": start.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z"), **duration}


def _model(values: Mapping[str, Any]) -> str:
    """The name others know a model by: the hub's, else what the server was asked for, else our id."""
    if "llm_id" in values:
        try:
            return catalog.find_llm(values["llm_id"]).hf_id or str(values["llm_id"])
        except catalog.UnknownEntryError:
            return str(values["llm_id"])
    return str(values.get("served_model_name", "unknown"))


def _server(values: Mapping[str, Any], placed: Iterable[str]) -> dict[str, Any]:
    """The server, with everything of the run that the standard part has no place for."""
    degrees = {"tp": "tensor_parallel", "dp": "data_parallel", "pp": "pipeline_parallel", "ep": "expert_parallel"}
    return {
        "metadata": {"label": "server", "cfg_id": values["config_id"]},
        "standardized": {
            "kind": "inference_engine",
            "tool": values.get("framework", "unknown"),
            "tool_version": values.get("framework_version", "unknown"),
            "role": "replica",
            "replicas": 1,
            "model": {"name": _model(values)},
            "accelerator": {
                "model": values["hardware_id"],
                "count": values.get("num_devices", 1),
                "parallelism": {short: values[name] for short, name in degrees.items() if name in values},
            },
        },
        "native": {"config": {OURS: _own(values, set(placed))}},
    }


def _own(values: Mapping[str, Any], placed: set[str]) -> dict[str, Any]:
    columns = {
        name: values[name]
        for name in (*schema.CONFIGURATION_NAMES, *from_llmd_report.OWN_COLUMNS)
        if name in values and name not in ("llm_id", "hardware_id") and values[name] != []
    }
    rest = {
        column: values[column]
        for metric in metrics.METRICS
        for column in metric.columns
        if column in values and column not in placed
    }
    return {
        "status": values["status"],
        "columns": columns,
        "metrics": rest,
        "metric_definitions": dict(values.get("metric_definitions", ())),
    }


def _load(values: Mapping[str, Any]) -> dict[str, Any]:
    """The load; the format wants the length of prompts, so there is none without it."""
    if "input_tokens" not in values:
        return {}
    said = {
        "output_seq_len": {
            "distribution": "fixed" if values.get("is_output_fixed") else "other",
            "value": values["output_tokens"],
        }
        if "output_tokens" in values
        else None,
        "rate_qps": values.get("request_rate_per_s"),
        "concurrency": values.get("concurrency"),
    }
    standardized = {
        "tool": OURS,
        "tool_version": metadata.version("rooflake"),
        "source": "unknown",
        "input_seq_len": {"distribution": "other", "value": values["input_tokens"]},
        **{name: value for name, value in said.items() if value is not None},
    }
    return {"load": {"metadata": {}, "standardized": standardized, "native": {}}}
