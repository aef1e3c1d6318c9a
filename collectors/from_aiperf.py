"""Exports of NVIDIA aiperf and of genai-perf, its forerunner: summaries (JSON, CSV), single requests (JSONL), sweeps (CSV, checkpoint),
the server's counters (CSV).

Every figure carries its unit; a time in a unit that is not known goes to samples. "Inter token latency" is (E2EL - TTFT) / (N - 1),
our TPOT; "inter chunk latency" is the raw gap. Requests that the tool itself cancelled are no failures: they are left out.
Rates are over the time from the first send to the last end, from about 0.13 on over the whole phase. Standard deviations are of the
population. Of input_config only the load, the model's name and the token counter are read: it also
holds keys, headers and the command line.
"""

from __future__ import annotations

import datetime
import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from collectors import _genai_perf, _importing, _names, _server_metrics
from collectors._figures import number
from collectors._importing import File, Run, Said, sample
from collectors._load_results import SECONDS, Results, count, instant, listed, mapping

TOOL = "aiperf"
SOURCE_KIND = "measured"

Object = Mapping[str, Any]

RENAMED = {"ttft": "time_to_first_token", "ttst": "time_to_second_token"}
"""Tags of 2025 -> today's."""

TIMES = {
    "request_latency": ("e2el_s", "last_chunk"),
    "time_to_first_token": ("ttft_s", "first_nonempty_chunk"),
    "time_to_second_token": ("ttst_s", "second_chunk"),
    "time_to_first_output_token": ("ttfo_s", "first_answer_chunk"),
    "inter_token_latency": ("tpot_s", "e2el_minus_ttft_over_n_minus_1"),
    "inter_chunk_latency": ("icl_s", "per_chunk_pooled"),
}
LOGGED_TIMES = {"perf_analyzer_latency": ("e2el_s", "end_of_response")}
OF_EVERY_REQUEST = ("request_latency", "time_to_first_token")
"""Times that every completed request has: their number is that of the requests where it is not printed."""

RATES = {
    "request_throughput": ("requests_per_s", "requests/sec"),
    "output_token_throughput": ("output_tokens_per_s", "tokens/sec"),
    "input_token_throughput": ("input_tokens_per_s", "tokens/sec"),
    "total_token_throughput": ("total_tokens_per_s", "tokens/sec"),
    "goodput": ("goodput_requests_per_s", "requests/sec"),
}
COUNTS = (
    "request_count",
    "error_request_count",
    "min_request_timestamp",
    "max_response_timestamp",
    "benchmark_duration",
)
"""Single figures that become columns."""

PATTERNS = {
    "concurrency": "closed", "concurrency_burst": "closed", "constant": "constant", "poisson": "poisson", "fixed_schedule": "replay",
}  # fmt: skip

CANCELLED = "RequestCancellationError"

_CONSOLE = "*** Measurement Settings ***"
"""In every log of perf_analyzer, which genai-perf drives."""


def recognises(file: File) -> bool:
    head = file.head.lstrip()
    if head.startswith(("Metric,avg,min,max", "Config Name,", _server_metrics.FIRST_LINE)):
        return True
    if head.startswith("{") and '"x_request_id"' in head:
        return '"credit_phase"' in head or '"benchmark_phase"' in head
    return (
        '"genai_perf_config"' in head
        or _CONSOLE in head
        or (all(key in head for key in ('"request_latency"', '"unit"', '"avg"')) and '"benchmarks"' not in head)
    )


def read(file: File, said: Said) -> Iterable[Run]:
    head = file.head.lstrip()
    if head.startswith("Metric,"):
        notes = ["The table prints two decimals."]
        yield _summary(_genai_perf.table(file.text()), {}, notes)
    elif head.startswith(_server_metrics.FIRST_LINE):
        yield _server_metrics.run(file.text(), TOOL)
    elif _CONSOLE in head:
        yield from (_analysed(one, []) for one in _genai_perf.console(file.text()))
    elif head.startswith("Config Name,"):
        yield from (_analysed(one, ["The table prints two decimals."]) for one in _genai_perf.analysis(file.text()))
    elif '"genai_perf_config"' in head:
        yield from (_analysed(one, []) for one in _genai_perf.checkpoint(file.json()))
    elif '"x_request_id"' in head:
        yield _records([mapping("record", record) for record in file.json_lines()])
    else:
        report = mapping("report", file.json())
        metrics = mapping("records", report["records"]) if "records" in report else report
        yield _summary({name: one for name, one in metrics.items() if _is_metric(one)}, report, [])


def _is_metric(found: Any) -> bool:
    return isinstance(found, Mapping) and "unit" in found


def _summary(metrics: Mapping[str, Object], report: Object, notes: list[str]) -> Run:
    """A run of which a file has the statistics."""
    metrics = {RENAMED.get(name, name): one for name, one in metrics.items()}
    config = mapping("input_config", report.get("input_config"))
    figures = Results("genai_perf" if "perf_analyzer" in config else TOOL)
    done = count("request_count", _single(metrics, "request_count"))
    cancelled = _cancelled(report)
    failed = max(0, (count("error_request_count", _single(metrics, "error_request_count")) or 0) - cancelled)
    if failed and done is None:
        done = 0
    _fill(figures, metrics, done)
    sent = None if done is None else done + failed
    figures.columns |= _load(config) | {
        "num_samples": done,
        "num_requests": sent,
        "num_failed_requests": None if sent is None else failed,
        "success_rate": done / sent if done is not None and sent else None,
    }
    device, about_devices = _devices(mapping("telemetry_data", report.get("telemetry_data")), figures)
    _counters(figures, report.get("telemetry_stats"))
    if config and mapping("endpoint", config.get("endpoint")).get("use_server_token_count") is not True:
        notes = [*notes, "Tokens are counted by the client's tokenizer."]
    if cancelled:
        notes = [*notes, f"{cancelled} requests that the tool cancelled are left out."]
    if report.get("was_cancelled") is True:
        notes = [*notes, "The run was cancelled before its end."]
    if isinstance(version := report.get("aiperf_version"), str):
        notes = [f"Measured by aiperf {version}.", *notes]
    return Run(
        "all",
        figures.columns,
        figures.definitions,
        device=device,
        model=_model(config),
        collected_at=instant("min_request_timestamp", _single(metrics, "min_request_timestamp"), scale=1e-9)
        or _date(report.get("start_time")),
        status="error" if done == 0 else "ok",
        notes=notes + about_devices,
        samples=figures.samples,
    )


def _fill(figures: Results, metrics: Mapping[str, Object], done: int | None) -> None:
    """Columns and samples of flat metrics."""
    all_times = TIMES | LOGGED_TIMES
    for name, one in metrics.items():
        unit = str(one.get("unit", ""))
        statistics = {word: value for word, value in one.items() if word not in ("unit", "count", "tag", "header")}
        if name in all_times:
            values = count(f"{name} count", one.get("count")) or (done if name in OF_EVERY_REQUEST else None)
            figures.times(*all_times[name], name, statistics, unit, values=values, is_population=True)
        elif name in RATES and RATES[name][1] == unit:
            figures.value(RATES[name][0], one.get("avg"), "tokens_over_whole_run")
        elif name not in COUNTS:
            figures.kept(name, statistics, unit)
    in_flight = metrics.get("effective_concurrency", {})
    figures.columns |= {
        "phase": "serve",
        "input_tokens": _rounded(metrics, "input_sequence_length"),
        "output_tokens": _rounded(metrics, "output_sequence_length"),
        "duration_s": _seconds(metrics.get("benchmark_duration")),
        "concurrency_mean": number("effective_concurrency", in_flight.get("avg")),
        "concurrency_max": number("effective_concurrency", in_flight.get("max")),
    }


def _single(metrics: Mapping[str, Object], name: str) -> float | None:
    return number(name, metrics.get(name, {}).get("avg"))


def _rounded(metrics: Mapping[str, Object], name: str) -> int | None:
    found = _single(metrics, name)
    return None if found is None else round(found)


def _seconds(one: Object | None) -> float | None:
    if one is None or (scale := SECONDS.get(str(one.get("unit")))) is None:
        return None
    found = number("a duration", one.get("avg"))
    return None if found is None else found * scale


def _cancelled(report: Object) -> int:
    """Requests that the tool cancelled as it was told to; it counts them as errors."""
    found = 0
    for entry in listed("error_summary", report.get("error_summary")):
        if mapping("error_details", mapping("error", entry).get("error_details")).get("type") == CANCELLED:
            found += count("error count", entry["count"]) or 0
    return found


def _load(config: Object) -> dict[str, Any]:
    """How requests were sent, as columns: genai-perf's `stimulus`, `loadgen` until 0.8, a phase of `phases` since."""
    load = mapping("loadgen", config.get("loadgen"))
    load = load or mapping("stimulus", mapping("perf_analyzer", config.get("perf_analyzer")).get("stimulus"))
    for phase in listed("phases", config.get("phases")):
        if mapping("phase", phase).get("kind") == "profiling":
            load = phase
    rate = number("request_rate", load.get("request_rate", load.get("rate")))
    words = (load.get("type"), load.get("arrival_pattern"), load.get("request_rate_mode"))
    pattern = next((PATTERNS[word] for word in words if word in PATTERNS), None)
    concurrency = count("concurrency", load.get("concurrency"))
    if rate is None and concurrency is not None:
        pattern = pattern or "closed"
    columns = {"load_pattern": pattern, "request_rate_per_s": rate, "is_output_fixed": _is_output_fixed(config)}
    return columns | ({"concurrency": concurrency} if pattern == "closed" else {})


def _is_output_fixed(config: Object) -> bool | None:
    """Whether one length was asked of every answer and the server told to ignore the end of text; None where that is not said."""
    if not _asks_one_length(config):
        return None
    for holder in (mapping("endpoint", config.get("endpoint")), mapping("input", config.get("input"))):
        extra = holder.get("extra")
        pairs = extra.items() if isinstance(extra, Mapping) else listed("extra", extra)
        if any(tuple(pair) == ("ignore_eos", True) for pair in pairs):
            return True
    return None


def _asks_one_length(config: Object) -> bool:
    """Whether prompts are made for answers of a mean length without a spread; those of a recorded trace have none."""
    prompts = [mapping("prompt", mapping("input", config.get("input")).get("prompt")).get("output_tokens")]
    for dataset in listed("datasets", config.get("datasets")):
        prompts.append(mapping("prompts", mapping("dataset", dataset).get("prompts")).get("osl"))
    asked = [mapping("output length", one) for one in prompts if one is not None]
    return bool(asked) and all(
        number("mean", one.get("mean")) is not None and number("stddev", one.get("stddev")) in (None, 0.0)
        for one in asked
    )


def _model(config: Object) -> str | None:
    endpoint = mapping("endpoint", config.get("endpoint"))
    names = listed("model_names", endpoint.get("model_names", config.get("model_names")))
    items = listed("items", mapping("models", config.get("models")).get("items"))
    found = [*names, *(mapping("model", item).get("name") for item in items)]
    return _names.model_name(found[0]) if len(found) == 1 else None


def _devices(telemetry: Object, figures: Results) -> tuple[str | None, list[str]]:
    """The GPU's name, if all are one, and its counters as samples, one of each GPU; whose host is not kept."""
    names = []
    for endpoint in mapping("endpoints", telemetry.get("endpoints")).values():
        for gpu in mapping("gpus", mapping("endpoint", endpoint).get("gpus")).values():
            names.append(mapping("gpu", gpu).get("gpu_name"))
            for name, one in mapping("metrics", gpu.get("metrics")).items():
                found = mapping(name, one)
                figures.kept(
                    name, {word: value for word, value in found.items() if word != "unit"}, str(found.get("unit", ""))
                )
    if not names or not isinstance(names[0], str):
        return None, []
    note = f"{len(names)} GPUs were watched; how many served the model is not said."
    return (names[0] if len(set(names)) == 1 else None), [note]


def _counters(figures: Results, telemetry: Any) -> None:
    """GPU counters of genai-perf: {metric: {"unit", "gpu0": {statistic: value}}}."""
    for name, by_gpu in mapping("telemetry_stats", telemetry).items():
        unit = str(mapping(name, by_gpu).get("unit", ""))
        for gpu, statistics in by_gpu.items():
            if gpu != "unit":
                figures.kept(name, mapping(gpu, statistics), unit)


def _date(text: Any) -> datetime.datetime | None:
    """A local time without a zone, taken as UTC."""
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC) if isinstance(text, str) else None


def _analysed(one: _genai_perf.Analysed, notes: list[str]) -> Run:
    """One configuration of genai-perf's sweep."""
    figures = Results("genai_perf")
    _fill(figures, one.metrics, None)
    for gpu in one.gpus:
        for name, found in gpu.items():
            figures.kept(name, {word: value for word, value in found.items() if word != "unit"}, str(found["unit"]))
    asked = {name: count(name, value) for name, value in one.asked.items()}
    figures.keep("num_prompts", asked.get("num_prompts"), "")
    concurrency = asked.get("concurrency")
    figures.columns |= {
        "input_tokens": figures.columns["input_tokens"] or asked.get("isl"),
        "output_tokens": figures.columns["output_tokens"] or asked.get("osl"),
        "num_samples": count("request_count", _single(one.metrics, "request_count")),
        "concurrency": concurrency,
        "load_pattern": None if concurrency is None else "closed",
    }
    return Run(one.name, figures.columns, figures.definitions, model=one.model, notes=notes, samples=figures.samples)


def _records(records: list[Object]) -> Run:
    """A run of which a file has the requests: statistics are ours over the completed ones."""
    kept = [record for record in records if not _is_cancelled(record)]
    starts = [_at(record, "request_start_ns", "timestamp_ns") for record in kept]
    first = min((start for start in starts if start is not None), default=None)
    rows = [_request(record, first) for record in kept]
    measured = [row for row in rows if row["sample_phase"] == "measured"]
    done = [row for row in measured if row["status"] == "ok"]
    figures = Results(TOOL)
    for column, definition in TIMES.values():
        if column != "icl_s":
            figures.computed(column, definition, [row.get(column) for row in done])
    gaps = [later - earlier for row in done for earlier, later in itertools.pairwise(row["chunk_times_s"] or ())]
    figures.computed("icl_s", "per_chunk_pooled", gaps)
    _throughput(figures, done)
    figures.columns |= {
        "phase": "serve",
        "input_tokens": _mean(done, "input_tokens"),
        "output_tokens": _mean(done, "output_tokens"),
        "num_samples": len(done),
        "num_requests": len(measured),
        "num_failed_requests": len(measured) - len(done),
        "success_rate": len(done) / len(measured) if measured else None,
    }
    notes = (
        [f"{len(records) - len(kept)} requests that the tool cancelled are left out."]
        if len(kept) < len(records)
        else []
    )
    return Run(
        "all",
        figures.columns,
        figures.definitions,
        collected_at=instant("request_start_ns", first, scale=1e-9),
        quality_tier=1,
        status="ok" if done else "error",
        notes=notes,
        samples=[
            one for row in rows for one in sample("ttst_s", row.pop("ttst_s"), "s", sample_phase=row["sample_phase"])
        ],
        requests=rows,
    )


def _throughput(figures: Results, done: list[dict[str, Any]]) -> None:
    """Rates over the time from the first send to the last end of a completed request, as the tool counts them."""
    spans = [
        (row["sent_at_s"], row["sent_at_s"] + row["e2el_s"])
        for row in done
        if row["sent_at_s"] is not None and row["e2el_s"] is not None
    ]
    duration = max((end for _, end in spans), default=0.0) - min((start for start, _ in spans), default=0.0)
    if not spans or duration <= 0:
        return
    figures.columns["duration_s"] = duration
    figures.value("requests_per_s", len(done) / duration, "tokens_over_whole_run")
    for column, key in (("output_tokens_per_s", "output_tokens"), ("input_tokens_per_s", "input_tokens")):
        if all(row[key] is not None for row in done):
            figures.value(column, sum(row[key] for row in done) / duration, "tokens_over_whole_run")


def _mean(rows: list[dict[str, Any]], key: str) -> int | None:
    known = [row[key] for row in rows if row[key] is not None]
    return round(sum(known) / len(known)) if known else None


def _is_cancelled(record: Object) -> bool:
    about, error = mapping("metadata", record["metadata"]), mapping("error", record.get("error"))
    return about.get("was_cancelled") is True or error.get("type") == CANCELLED


def _at(record: Object, *keys: str) -> float | None:
    """The first known of several instants of a record, in ns."""
    about = mapping("metadata", record["metadata"])
    return next((found for key in keys if (found := number(key, about.get(key))) is not None), None)


def _request(record: Object, first: float | None) -> dict[str, Any]:
    about = mapping("metadata", record["metadata"])
    phase = "warmup" if about.get("benchmark_phase", about.get("credit_phase")) == "warmup" else "measured"
    metrics = {
        RENAMED.get(name, name): mapping(name, one) for name, one in mapping("metrics", record["metrics"]).items()
    }
    error = mapping("error", record.get("error"))
    code = number("code", error.get("code"))
    due, sent = _at(record, "credit_issued_ns"), _at(record, "request_start_ns", "timestamp_ns")
    row: dict[str, Any] = {
        "sample_phase": phase,
        "status": "error" if error else "ok",
        "status_detail": _names.sentence(error.get("message")),
        "http_status": int(code) if code is not None and 400 <= code < 600 else None,
        "scheduled_at_s": None if due is None or first is None else max(0.0, (due - first) / 1e9),
        "sent_at_s": None if sent is None or first is None else (sent - first) / 1e9,
        "input_tokens": count("input_sequence_length", metrics.get("input_sequence_length", {}).get("value")),
        **dict.fromkeys(("ttft_s", "tpot_s", "e2el_s", "ttfo_s", "ttst_s", "chunk_times_s", "output_tokens")),
    }
    if error:
        return row
    times = {column: _time(metrics.get(name)) for name, (column, _) in TIMES.items() if name != "inter_chunk_latency"}
    usage = metrics.get("usage_completion_tokens", {}).get("value")
    tokens = count("output_sequence_length", metrics.get("output_sequence_length", {}).get("value"))
    row |= times | {
        "chunk_times_s": _chunk_times(times["ttft_s"], metrics.get("inter_chunk_latency")),
        "output_tokens": tokens,
        "requested_output_tokens": count("requested_osl", metrics.get("requested_osl", {}).get("value")),
        "token_count_source": None if tokens is None else "usage" if usage == tokens else "tokenizer",
    }
    return row


def _time(one: Object | None) -> float | None:
    if one is None or (scale := SECONDS.get(str(one.get("unit")))) is None:
        return None
    found = number("a time", one["value"])
    return None if found is None else found * scale


def _chunk_times(ttft_s: float | None, one: Object | None) -> list[float] | None:
    """Arrivals of chunks after the send: at TTFT and after every gap."""
    if ttft_s is None or one is None or (scale := SECONDS.get(str(one.get("unit")))) is None:
        return None if ttft_s is None else [ttft_s]
    gaps = [(number("inter_chunk_latency", gap) or 0.0) * scale for gap in listed("inter_chunk_latency", one["value"])]
    return list(itertools.accumulate(gaps, initial=ttft_s))


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)
