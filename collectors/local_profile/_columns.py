"""The metric columns of a timed run: each formula where its number is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collectors import _timing
from collectors import _transformers as engine
from collectors._session import Session
from collectors._steps import Case
from collectors.local_profile._cells import Cell


def measured(
    session: Session,
    target: engine.Target,
    blueprint: engine.Blueprint,
    model: Any,
    cell: Cell,
    run: Mapping[str, Any],
    timing: _timing.Timing,
    first_token_s: list[float],
) -> dict[str, Any]:
    """Latency, throughput and work of a run that went well."""
    case = cell.case
    row: dict[str, Any] = {"status": "ok", "num_samples": len(timing.measured), **timing.columns()}
    definitions = {"latency_s": "wall_clock"}
    if row["device_time_s"] is not None:
        definitions["device_time_s"] = "device_events"
    row["duration_s"] = sum(sample.wall_s for sample in timing.measured)
    row["quality_tier"] = timing.quality_tier
    row["weights_bytes"] = engine.weights_bytes(model)
    latency = row["latency_s"]
    tokens = output_tokens(case)
    if tokens is not None:
        row["output_tokens_per_s"] = tokens / latency
        definitions["output_tokens_per_s"] = "tokens_over_duration"
    if case.phase != "decode":
        length = sum(one for one in (case.input_tokens, case.output_tokens) if one is not None)
        row["total_tokens_per_s"] = case.batch_size * length / latency
        definitions["total_tokens_per_s"] = "tokens_over_duration"
    if case.phase == "generate":
        row |= _token_times(timing, case, first_token_s)
        definitions |= {"ttft_s": "first_token_of_generate", "e2el_s": "wall_clock"}
        if case.output_tokens != 1:
            definitions["tpot_s"] = "e2el_minus_ttft_over_n_minus_1"
    definitions["memory_peak_bytes"] = "torch_max_allocated" if session.device == "cuda" else "rss_peak_delta"
    if session.device == "cuda":
        definitions |= {"memory_device_bytes": "driver_used", "memory_process_bytes": "nvml_process"}
    work = blueprint.work(case)
    if not isinstance(work, Exception):
        definitions["flops"] = "flop_counter"
        row |= _work(session, case, run, work, latency)
    if case.phase == "decode":
        row |= _reads(session, target, run, latency)
    return row | {"metric_definitions": definitions}


def output_tokens(case: Case) -> int | None:
    """Tokens that one execution generates, over all sequences; None for none."""
    if case.phase == "decode":
        return case.batch_size
    if case.phase == "generate" and case.output_tokens is not None:
        return case.batch_size * case.output_tokens
    return None


def energy_tokens(case: Case) -> int | None:
    """Tokens that the energy of one execution is told by: those read of a forward pass or prefill, else those generated."""
    if case.phase in ("forward", "prefill") and case.input_tokens is not None:
        return case.batch_size * case.input_tokens
    return output_tokens(case)


def token_samples(run_id: str, timing: _timing.Timing, case: Case, first_token_s: list[float]) -> list[dict[str, Any]]:
    """Rows of `samples` of ttft_s and tpot_s; none for other phases than generate."""
    if not first_token_s:
        return []
    phases = [sample.phase for sample in timing.samples]
    series: dict[str, list[float | None]] = {
        "ttft_s": [*first_token_s],
        "tpot_s": _tpots(timing.samples, case, first_token_s),
    }
    return [row for name, values in series.items() for row in _timing.sample_rows(run_id, name, phases, values)]


def _token_times(timing: _timing.Timing, case: Case, first_token_s: list[float]) -> dict[str, float | None]:
    """ttft_s, tpot_s = (e2el - ttft) / (N - 1) and e2el_s with their statistics."""
    firsts = first_token_s[-len(timing.measured) :]
    columns = _timing.summary("ttft_s", firsts)
    columns |= _timing.summary("e2el_s", [sample.wall_s for sample in timing.measured])
    later = [one for one in _tpots(timing.measured, case, firsts) if one is not None]
    return columns | (_timing.summary("tpot_s", later) if later else {})


def _tpots(samples: Any, case: Case, first_token_s: list[float]) -> list[float | None]:
    steps = (case.output_tokens or 1) - 1
    return [
        (sample.wall_s - first) / steps if steps else None for sample, first in zip(samples, first_token_s, strict=True)
    ]


def _work(session: Session, case: Case, run: Mapping[str, Any], work: engine.Work, latency: float) -> dict[str, Any]:
    """FLOPs, KV cache, and mfu against the peak of the products' dtype, which is that of activations."""
    flops = work.flops * case.batch_size
    kv_cache = None if work.kv_cache_bytes is None else work.kv_cache_bytes * case.batch_size
    shares = session.shares(run["activation_dtype"], flops_per_s=flops / latency)
    return {"flops": flops, "achieved_flops_per_s": flops / latency, "kv_cache_bytes": kv_cache, **shares}


def _reads(session: Session, target: engine.Target, run: Mapping[str, Any], latency: float) -> dict[str, Any]:
    """What a decode step reads by the closed form (of experts those it is routed to, of tables the rows looked up), and mbu
    of weights and KV cache; none where the closed form refuses."""
    form = session.closed_form(run, target.llm)
    row = {name: form[name] for name in ("weight_bytes_read", "kv_bytes_read")}
    if None in row.values():
        return {}
    read = form["weight_bytes_read"] + form["kv_bytes_read"]
    return row | session.shares(run["activation_dtype"], bytes_per_s=read / latency)
