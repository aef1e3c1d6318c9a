"""MLPerf Inference: LoadGen's summary and detail logs of one run, and tables of a round's results (summary_results.json or .csv).

LoadGen counts latencies from when a query was due, so TTFT and E2EL are those from schedule; a percentile is the value at that rank,
not interpolated. Times are ns. Throughput is over the whole run. Server draws Poisson arrivals at target_qps, Offline asks for
everything at once, SingleStream sends one after another. Limits on TTFT and TPOT count in Server and Interactive only; LoadGen prints
them for every scenario. A run judged INVALID keeps its figures as a failure; a run in accuracy mode measured no speed and is refused.

LoadGen names neither device nor LLM. A table of results names both; its rows of networks that are no LLM are left out.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from collectors import _importing
from collectors._figures import Figures, number, positive
from collectors._importing import File, Run, Said, Unreadable
from warehouse import catalog

TOOL = "mlperf"
SOURCE_KIND = "published"

_LOADS: dict[str, dict[str, Any]] = {
    "Server": {"load_pattern": "poisson"},
    "Interactive": {"load_pattern": "poisson"},
    "Offline": {"load_pattern": "burst"},
    "SingleStream": {"load_pattern": "closed", "concurrency": 1},
    "MultiStream": {},
}
"""Scenario -> how it sends."""

_LATENCIES = {
    "latency": ("e2el_scheduled_s", "last_chunk_scheduled"),
    "first token latency": ("ttft_scheduled_s", "first_chunk_scheduled"),
    "time to output token": ("tpot_s", "e2el_minus_ttft_over_n_minus_1"),
}
"""What a line of a summary is of -> metric and definition."""

_RATES = {
    "samples per second": "requests_per_s",
    "completed samples per second": "requests_per_s",
    "tokens per second": "output_tokens_per_s",
    "completed tokens per second": "output_tokens_per_s",
}
_DETAILS = {
    "effective_scenario": "scenario", "effective_test_mode": "mode", "result_validity": "result is", "effective_target_qps": "target_qps",
    "requested_server_ttft_latency": "ttft_latency (ns)", "requested_server_tpot_latency": "tpot_latency (ns)",
    "effective_samples_per_query": "samples_per_query", "result_scheduled_samples_per_sec": "scheduled samples per second",
    "result_samples_per_second": "samples per second", "result_tokens_per_second": "tokens per second",
    "result_completed_samples_per_sec": "completed samples per second",
    "result_completed_tokens_per_second": "completed tokens per second",
    "result_min_latency_ns": "min latency (ns)", "result_max_latency_ns": "max latency (ns)", "result_mean_latency_ns": "mean latency (ns)",
    "result_first_token_min_latency_ns": "min first token latency (ns)",
    "result_first_token_max_latency_ns": "max first token latency (ns)",
    "result_first_token_mean_latency_ns": "mean first token latency (ns)",
    "result_time_to_output_token_min": "min time to output token (ns)", "result_time_to_output_token_max": "max time to output token (ns)",
    "result_time_to_output_token_mean": "mean time to output token (ns)",
}  # fmt: skip
"""Key of a detail log -> the line of a summary that says the same."""

_DETAIL_PERCENTILES = {
    re.compile(r"result_(\d+\.\d+)_percentile_latency_ns"): "{} percentile latency (ns)",
    re.compile(r"result_first_token_(\d+\.\d+)_percentile_latency_ns"): "{} percentile first token latency (ns)",
    re.compile(r"result_time_per_output_token_(\d+\.\d+)_percentile_ns"): "{} percentile time to output token (ns)",
}
_LLMS = {
    "llama2-70b": "llama-2-70b", "llama2-70b-interactive": "llama-2-70b", "llama3.1-405b": "llama-3.1-405b",
    "llama3.1-405b-interactive": "llama-3.1-405b", "llama3.1-8b": "llama-3.1-8b", "llama3.1-8b-interactive": "llama-3.1-8b",
    "llama3.1-8b-edge": "llama-3.1-8b", "llama3-405b": "llama-3.1-405b", "mixtral-8x7b": "mixtral-8x7b", "gptj": "gpt-j-6b",
    "deepseek-r1": "deepseek-r1", "gpt-oss-120b": "gpt-oss-120b",
}  # fmt: skip
"""Benchmark of a round, without the accuracy it holds -> our id."""

MEMORY_TOLERANCE = 0.15
"""Largest relative difference between a device's memory as printed and as in the catalogue: names say GB for GiB, and round."""

_UNITS = {"tokens/s": "output_tokens_per_s", "samples/s": "requests_per_s", "queries/s": "requests_per_s"}


def recognises(file: File) -> bool:
    """Whether it is a summary, a detail log, or a table of a round's results."""
    head = file.head
    return "MLPerf Results Summary" in head[:400] or ":::MLLOG" in head[:400] or _is_table(head)


def read(file: File, said: Said) -> Iterator[Run]:
    """The run of a log, or a run for each result of a table."""
    if _is_table(file.head):
        yield from _table(file)
    else:
        yield _logged(file, _details(file) if ":::MLLOG" in file.head[:400] else _summary(file.text()))


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)


def _is_table(head: str) -> bool:
    if head.lstrip().startswith("["):
        return '"Submitter"' in head and '"Scenario"' in head and '"Accelerator"' in head
    first = head.partition("\n")[0]
    return "MlperfModel" in first and "accelerator_model_name" in first and "Scenario" in first


# ---- logs of one run


def _summary(text: str) -> dict[str, str]:
    """`key : value` lines by key in lower case; the colon stands with or without spaces."""
    found = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            found[key.strip().lower()] = value.strip()
    if _LAST not in found:
        raise ValueError(f"it is cut off: a summary ends with the parameters used, the last of them {_LAST}")
    return found


_LAST = "performance_sample_count"


def _details(file: File) -> dict[str, str]:
    """The lines of a summary that a detail log holds too, and the version of LoadGen."""
    found: dict[str, str] = {}
    for position, line in enumerate(io.StringIO(file.text()), 1):
        if not line.startswith(":::MLLOG"):
            continue
        try:
            entry = json.loads(line.removeprefix(":::MLLOG"))
        except ValueError as error:
            raise Unreadable(f"{file.name}, line {position} is not JSON: {error}.") from None
        name = _detail_name(str(entry.get("key")))
        if name is not None:
            found[name] = str(entry.get("value"))
    return found


def _detail_name(key: str) -> str | None:
    for pattern, name in _DETAIL_PERCENTILES.items():
        if match := pattern.fullmatch(key):
            return name.format(match.group(1))
    return "loadgen_version" if key == "loadgen_version" else _DETAILS.get(key)


def _logged(file: File, lines: Mapping[str, str]) -> Run:
    mode, scenario = lines.get("mode"), lines.get("scenario")
    if mode != "PerformanceOnly":
        raise Unreadable(
            f"{file.name} is of a run in mode {mode}, which measures no speed. Import one in mode PerformanceOnly."
        )
    if scenario not in _LOADS:
        raise Unreadable(f"'{scenario}' is not a scenario of {file.name}. Known: {', '.join(_LOADS)}.")
    figures = Figures(TOOL, {"phase": "serve", "execution": "engine", **_LOADS[scenario]})
    for name, value in lines.items():
        _line(figures, name, value)
    if scenario in ("Server", "Interactive"):
        _targets(figures, lines)
    notes = []
    if version := lines.get("loadgen_version"):
        notes.append(f"LoadGen {version}.")
    is_valid = lines.get("result is") == "VALID"
    if not is_valid:
        unmet = [name for name, value in lines.items() if name.endswith("satisfied") and value.lower() == "no"]
        notes.append(f"LoadGen judged the run {lines.get('result is')}: not met: {', '.join(unmet) or 'unstated'}.")
    return Run(
        "all", figures.columns, figures.definitions, status="ok" if is_valid else "error", notes=notes, samples=figures.samples,
    )  # fmt: skip


_LINE = re.compile(r"(?:(min|max|mean)|(\d+\.\d+) percentile) (.+) \(ns\)")


def _line(figures: Figures, name: str, value: str) -> None:
    """One line of a summary as a column or a sample."""
    if name in _RATES:
        figures.metric(_RATES[name], value, "tokens_over_whole_run")
    elif (match := _LINE.fullmatch(name)) and match.group(3) in _LATENCIES:
        metric, definition = _LATENCIES[match.group(3)]
        statistic = {"mean": None, "50.00": "p50", "90.00": "p90", "95.00": "p95", "99.00": "p99"}
        printed = match.group(1) or match.group(2)
        if printed in statistic:
            figures.metric(metric, value, definition, statistic=statistic[printed], scale=1e-9)
        else:
            figures.other(name.removesuffix(" (ns)").replace(" ", "_"), _scaled(name, value, 1e-9), "s")
    elif name in ("scheduled samples per second", "samples_per_query"):
        figures.other(name.replace(" ", "_"), value, "1/s" if "second" in name else "1")


def _targets(figures: Figures, lines: Mapping[str, str]) -> None:
    """What was offered, and the limits behind the verdict."""
    for name, column in (("ttft_latency (ns)", "slo_ttft_s"), ("tpot_latency (ns)", "slo_tpot_s")):
        if (limit := _scaled(name, lines.get(name), 1e-9)) is not None:
            figures.columns[column] = limit
    if (rate := number("target_qps", lines.get("target_qps"))) is not None:
        figures.columns["request_rate_per_s"] = rate


def _scaled(name: str, value: object, scale: float) -> float | None:
    found = number(name, value)
    return None if found is None else found * scale


# ---- tables of a round


_NAMES = {
    "Organization": "Submitter", "MlperfModel": "Model", "accelerator_model_name": "Accelerator", "accelerators_per_node": "a#",
    "number_of_nodes": "Nodes", "framework": "Software", "Result": "Performance_Result", "Units": "Performance_Units",
}  # fmt: skip
"""Column of the checker's CSV -> key of summary_results.json."""


def _table(file: File) -> Iterator[Run]:
    if file.head.lstrip().startswith("["):
        rows = file.json()
    else:
        rows = [
            {_NAMES.get(key, key): value for key, value in row.items() if key}
            for row in csv.DictReader(io.StringIO(file.text()))
        ]
    unknown: dict[str, int] = {}
    runs = []
    for index, row in enumerate(rows):
        if (model := _llm(row)) is None or number("Performance_Result", row.get("Performance_Result")) is None:
            continue
        printed = str(row.get("Accelerator") or "") or str(row.get("Processor") or "")
        if (device := _device(printed)) is None:
            unknown[printed] = unknown.get(printed, 0) + 1
        else:
            runs.append(_submitted(row, index, model, device))
    if unknown:
        counted = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        left_out = f"Left out, on devices that are not in the hardware catalogue: {counted}."
        if not runs:
            raise Unreadable(
                f"{file.name} holds no result that can be placed. {left_out} Add them in warehouse/catalog/hardware.toml."
            )
        runs[0].notes.append(left_out)
    yield from runs


def _llm(row: Mapping[str, Any]) -> str | None:
    """Id of the LLM of a result; None for a network that is none."""
    return _LLMS.get(re.sub(r"-99(\.9)?$", "", str(row["Model"])))


def _submitted(row: Mapping[str, Any], index: int, model: str, device: str) -> Run:
    """A result as a run."""
    scenario, unit = row["Scenario"], str(row.get("Performance_Units", ""))
    figures = Figures(TOOL, {"phase": "serve", "execution": "engine", **_LOADS.get(scenario, {})})
    if unit.lower() in _UNITS:
        figures.metric(_UNITS[unit.lower()], row["Performance_Result"], "tokens_over_whole_run")
    else:
        figures.other("Performance_Result", row["Performance_Result"], unit)
    figures.other("Power_Result", row.get("Power_Result"), str(row.get("Power_Units")))
    if match := re.search(r"TOKENS_PER_SAMPLE: ([\d.]+)", str(row.get("Accuracy"))):
        figures.other("tokens_per_sample", match.group(1), "tokens")
    each, nodes = positive("a#", row.get("a#")), positive("Nodes", row.get("Nodes"))
    figures.columns |= {
        "num_devices": (each or 1) * (nodes or 1),
        "weight_dtype": _importing.dtype(str(row.get("weight_data_types"))),
        "framework": str(row.get("Software") or "").partition(",")[0] or None,
        "served_model_name": row["Model"],
    }
    is_valid = str(row.get("errors", 0)) in ("0", "0.0")
    notes = [f"{row['Submitter']}, {row.get('Category') or row.get('Division')} division, {scenario}."]
    if not is_valid:
        notes.append(f"The checker of the round found {row['errors']} errors.")
    return Run(
        f"{row.get('Location') or row.get('ID')} [{index}]", figures.columns, figures.definitions, device=device,
        model=model, status="ok" if is_valid else "error", notes=notes, samples=figures.samples,
    )  # fmt: skip


def _device(printed: str) -> str | None:
    """Id of the longest beginning of a name, cut at its hyphens, that the catalogue knows; None where none has the memory printed.

    What follows the device in these names is its memory, its power limit or how it is partitioned.
    """
    words = re.sub(r"\s*\(.*?\)", "", printed).strip().split("-")
    memory = re.search(r"(\d+)\s?GB", printed)
    for count in range(len(words), 0, -1):
        try:
            found = catalog.find_hardware("-".join(words[:count]))
        except catalog.UnknownEntryError:
            continue
        if memory is None or found.memory_bytes is None:
            return found.hardware_id
        if abs(found.memory_bytes / 1e9 / int(memory.group(1)) - 1) < MEMORY_TOLERANCE:
            return found.hardware_id
    return None
