"""Importer of the ML.ENERGY benchmark: results.json of one run, the leaderboard's tables of version 3, and its files of version 2.

Energy is the driver's counter over the steady part of a load, of all GPUs. The server holds at most max_num_seqs requests, which are all
sent at once; answers end by themselves, so lengths are means. Prompts, answers and timelines of temperature are not kept.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from collectors import _importing
from collectors._figures import Figures, number, whole
from collectors._importing import File, Run, Said, Unreadable
from collectors._names import sentence

TOOL = "ml_energy"
SOURCE_KIND = "published"

add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)

_ENERGY = "nvml_steady_window"
_TIMES = {"ttft": ("ttft_s", "first_nonempty_chunk"), "tpot": ("tpot_s", "e2el_minus_ttft_over_n_minus_1"),
          "itl": ("icl_s", "per_chunk_pooled"), "e2el": ("e2el_s", "last_chunk")}  # fmt: skip
_STATISTICS = {"mean": None, "median": "p50", "p25": "p25", "p75": "p75", "p90": "p90", "p95": "p95", "p99": "p99"}


def recognises(file: File) -> bool:
    """JSON with the benchmark's keys of steady energy, or of energy a request."""
    head = file.head
    if not head.lstrip().startswith(("{", "[")):
        return False
    return (
        ('"steady_state_energy"' in head and '"steady_state_duration"' in head)
        or ('"configurations"' in head and '"energy_per_token_joules"' in head)
        or ('"Energy/req (J)"' in head and '"Token tput (tok/s)"' in head)
    )


def read(file: File, said: Said) -> Iterator[Run]:
    """One run a result, or a configuration of a table."""
    content = file.json()
    if isinstance(content, dict) and "steady_state_energy" in content:
        yield _result(content)
    elif isinstance(content, dict) and isinstance(content.get("configurations"), list):
        for position, entry in enumerate(content["configurations"]):
            yield _configuration(position, {**content, **entry})
    elif isinstance(content, list | dict):
        for position, entry in enumerate(content if isinstance(content, list) else [content]):
            yield _version_2(position, entry)
    else:
        raise Unreadable(f"{file.name} holds neither a result nor configurations of the ML.ENERGY benchmark.")


def _columns(**columns: Any) -> dict[str, Any]:
    return {"phase": "serve", "framework": "vllm", "execution": "engine", "load_pattern": "burst"} | columns


# ---- one run


def _result(content: Mapping[str, Any]) -> Run:
    figures = Figures(TOOL)
    completed = whole("completed", content["completed"])
    for key, (metric, definition) in _TIMES.items():
        for printed, statistic in _STATISTICS.items():
            figures.metric(metric, content.get(f"{printed}_{key}_ms"), definition, statistic=statistic, scale=1e-3)
        n = completed if key != "itl" else None
        figures.spread(metric, content.get(f"std_{key}_ms"), n, name=f"std_{key}_ms", unit="ms", scale=1e-3)
    for key, metric in (
        ("request_throughput", "requests_per_s"),
        ("output_throughput", "output_tokens_per_s"),
        ("total_token_throughput", "total_tokens_per_s"),
    ):
        figures.metric(metric, content.get(key), "tokens_over_whole_run")
    figures.metric("energy_per_output_token_j", content.get("steady_state_energy_per_token"), _ENERGY)
    figures.other("steady_state_energy", content["steady_state_energy"], "J")
    duration_s, energy_j = (
        number("steady_state_duration", content["steady_state_duration"]),
        number("steady_state_energy", content["steady_state_energy"]),
    )
    if duration_s and energy_j is not None:
        figures.metric("power_avg_w", energy_j / duration_s, "energy_window")
    for key, unit in (("total_input_tokens", "tokens"), ("total_output_tokens", "tokens")):
        figures.other(key, content.get(key), unit)
    requests = [_request(position, one) for position, one in enumerate(content.get("results", ()))]
    prompts = whole("num_prompts", content.get("num_prompts"))
    gpus, at_most = _gpus(content), whole("max_concurrency", content.get("max_concurrency"))
    return Run(
        cell="all",
        columns=_columns(
            **figures.columns, num_requests=prompts, duration_s=number("duration", content.get("duration")), energy_window_s=duration_s,
            num_failed_requests=None if prompts is None or completed is None else prompts - completed, steady_s=duration_s,
            concurrency=at_most,
            load_pattern="burst" if at_most is None else "closed", **({} if gpus is None else {"num_devices": gpus}),
        ),
        definitions=figures.definitions,
        device=content.get("gpu_model"),
        model=content.get("model_id"),
        collected_at=_date(content.get("date")),
        quality_tier=1 if requests else 0,
        samples=figures.samples,
        requests=requests,
    )  # fmt: skip


def _gpus(content: Mapping[str, Any]) -> int | None:
    """GPUs whose energy was counted; None where the result does not list them."""
    measured = content.get("steady_state_measurement")
    energy = measured.get("gpu_energy") if isinstance(measured, dict) else None
    return len(energy) if isinstance(energy, dict) and energy else whole("num_gpus", content.get("num_gpus"))


def _request(position: int, one: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `requests`; a failed one keeps its error, not its zeros."""
    failed = bool(one.get("error")) or one.get("success") is False
    row: dict[str, Any] = {
        "request_index": position,
        "sample_phase": "measured",
        "status": "error" if failed else "ok",
        "status_detail": sentence(one.get("error")),
        "input_tokens": whole("input_len", one.get("input_len")),
    }
    if failed:
        return row
    ttft_s, e2el_s, made = (
        number("ttft", one.get("ttft")),
        number("latency", one.get("latency")),
        whole("output_len", one.get("output_len")),
    )
    gaps = [number("itl", gap) for gap in one.get("itl") or ()]
    times = None
    if ttft_s is not None and None not in gaps:
        times = [ttft_s]
        for gap in gaps:
            times.append(times[-1] + (0.0 if gap is None else gap))
    is_timed = ttft_s is not None and e2el_s is not None and made is not None and made > 1
    return row | {
        "ttft_s": ttft_s,
        "e2el_s": e2el_s,
        "tpot_s": (e2el_s - ttft_s) / (made - 1) if is_timed and e2el_s and ttft_s and made else None,
        "output_tokens": made,
        "token_count_source": "usage",
        "chunk_times_s": times,
    }


def _date(text: Any) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(str(text), "%Y%m%d-%H%M%S").replace(tzinfo=datetime.UTC)
    except ValueError:
        return None


# ---- tables


def _configuration(position: int, entry: Mapping[str, Any]) -> Run:
    """A configuration of the leaderboard's version 3; throughput is energy's: tokens of the steady window over its length."""
    if "energy_per_token_joules" not in entry or "batch_latency_s" in entry:
        raise Unreadable("it holds configurations of diffusion models, which make no tokens.")
    figures = Figures(TOOL)
    figures.metric("energy_per_output_token_j", entry["energy_per_token_joules"], _ENERGY)
    figures.metric("power_avg_w", entry.get("avg_power_watts"), "energy_window")
    figures.metric("output_tokens_per_s", entry.get("output_throughput_tokens_per_sec"), "tokens_over_steady_window")
    for name, unit in (
        ("energy_per_request_joules", "J"), ("avg_output_len", "tokens"), ("median_itl_ms", "ms"), ("p90_itl_ms", "ms"),
        ("p95_itl_ms", "ms"), ("p99_itl_ms", "ms"), ("max_num_batched_tokens", "tokens"),
    ):  # fmt: skip
        figures.other(name, entry.get(name), unit)
    degrees = {**entry, **entry.get("parallelization", {})}
    return Run(
        cell=f"configurations[{position}]",
        columns=_columns(
            **figures.columns, task=entry.get("task"), weight_dtype=_importing.dtype(entry.get("weight_precision")),
            num_devices=whole("num_gpus", entry["num_gpus"]), concurrency=whole("max_num_seqs", entry.get("max_num_seqs")),
            concurrency_mean=number("avg_batch_size", entry.get("avg_batch_size")),
            **{name: whole(name, degrees.get(name)) for name in ("tensor_parallel", "data_parallel", "expert_parallel")},
        ),
        definitions=figures.definitions,
        device=entry["gpu_model"],
        model=entry["model_id"],
        notes=["Gaps between tokens are samples: how a chunk of several tokens counts is not said."],
        samples=figures.samples,
    )  # fmt: skip


def _version_2(position: int, entry: Mapping[str, Any]) -> Run:
    figures = Figures(TOOL)
    figures.metric("output_tokens_per_s", entry["Token tput (tok/s)"], "tokens_over_steady_window")
    for name, unit in (("Energy/req (J)", "J"), ("Avg TPOT (s)", "s"), ("Avg Output Tokens", "tokens")):
        figures.other(name, entry.get(name), unit)
    tokens = number("Avg Output Tokens", entry.get("Avg Output Tokens"))
    if tokens:
        energy_j = number("Energy/req (J)", entry["Energy/req (J)"])
        figures.metric("energy_per_output_token_j", None if energy_j is None else energy_j / tokens, _ENERGY)
    tensor, pipeline = whole("TP", entry.get("TP")), whole("PP", entry.get("PP"))
    known = tensor is not None and pipeline is not None
    return Run(
        cell=f"[{position}]",
        columns=_columns(
            **figures.columns, tensor_parallel=tensor, pipeline_parallel=pipeline,
            num_devices=tensor * pipeline if known and tensor and pipeline else 1,
            concurrency=whole("Max BS (reqs)", entry.get("Max BS (reqs)")), concurrency_mean=number("Avg BS (reqs)", entry.get("Avg BS (reqs)")),
        ),
        definitions=figures.definitions,
        device=entry["GPU"],
        model=entry["Model"],
        notes=["TPOT is a mean over engine steps, not over requests: a sample."],
        samples=figures.samples,
    )  # fmt: skip
