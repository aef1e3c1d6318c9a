"""Served loads with round numbers: two servers swept over concurrency, one of them saturated, a load by rate, requests over time, an
engine's counters, scores, one request by hand, findings, a second definition of throughput, and a table of kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sample_rows import WHEN, run

from warehouse.parquet import land
from warehouse.store import Home, open_store

A100, H100 = "a100-sxm-80gb", "h100-sxm"
LEVELS = (1, 2, 4, 8, 16)
WHOLE, STEADY = "tokens_over_whole_run", "tokens_over_steady_window"
TIMES = {"ttft_s": "first_nonempty_chunk", "tpot_s": "e2el_minus_ttft_over_n_minus_1", "e2el_s": "last_chunk"}
NUM_REQUESTS = 24


def build(home: Path) -> Path:
    """Land and load the lake; returns its home folder."""
    place = Home.of(home)
    place.prepare()
    for name, batch in batches().items():
        land(place.landing, name, batch)
    with open_store(place) as store:
        store.load()
    return home


def batches() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Batch name -> table -> rows."""
    return {
        "swept": {
            "runs": [*swept(), single()],
            "requests": [*requests("vllm-4"), *requests("vllm-8"), *requests("a100-8"), by_hand()],
            "telemetry": telemetry(),
            "quality": scores(),
        },
        "published": {"runs": published(), "sources": sources()},
        "kernels": {"runs": tables(), "kernels": kernels()},
        "found": {"findings": findings()},
    }


def serve(run_id: str, **values: Any) -> dict[str, Any]:
    """A served load of Llama-2-7B on one H100 under vLLM, 512 tokens in and 128 out, in a closed loop."""
    load = {
        "phase": "serve", "collector": "endpoint", "source_id": "rooflake/endpoint", "hardware_id": H100, "batch_size": None, "context_tokens": None,
        "input_tokens": 512, "output_tokens": 128, "load_pattern": "closed", "framework": "vllm", "framework_version": "0.11.0", "execution": "engine",
        "attention": "paged", "latency_s": None, "num_requests": 100, "num_failed_requests": 0, "success_rate": 1.0, "duration_s": 60.0,
        "metric_definitions": {**TIMES, "output_tokens_per_s": STEADY},
    }  # fmt: skip
    row: dict[str, Any] = run(run_id, **{**load, **values})
    return row


def at_level(level: int, speed: float, most: float) -> dict[str, Any]:
    """What a server of a speed gives `level` requests at once: it generates `most` tokens/s at most."""
    rate = min(level * 100.0 * speed, most)
    tpot, ttft = level / rate, 0.05 * level / speed
    return {
        "concurrency": level, "output_tokens_per_s": rate, "requests_per_s": rate / 128,
        "tpot_s": tpot, "tpot_p50_s": tpot, "tpot_p99_s": 1.5 * tpot, "ttft_s": ttft, "ttft_p50_s": ttft, "ttft_p99_s": 2 * ttft,
        "e2el_s": ttft + 127 * tpot, "e2el_p50_s": ttft + 127 * tpot, "e2el_p99_s": 2 * ttft + 1.5 * 127 * tpot,
    }  # fmt: skip


def swept() -> list[dict[str, Any]]:
    """vLLM on an H100 up to its limit of 800 tokens/s, and on an A100 half as fast; one level of it failed."""
    fast = [
        serve(
            f"vllm-{level}", **at_level(level, 1.0, 800.0), is_saturated=level > 8, steady_from_s=2.0, steady_s=8.0, concurrency_mean=0.9 * level,
            concurrency_max=float(level), num_client_processes=2, client_cpu_s=3.0, client_delay_p99_s=0.0004, is_client_trusted=level != 16,
            slo_ttft_s=0.5, slo_tpot_s=0.015, goodput_ratio=1.0 if level < 8 else 0.5, goodput_requests_per_s=min(level, 4) * 100.0 / 128,
            prefix_cache_hit_ratio=0.25, is_prefix_unique=True, is_output_fixed=True,
        )
        for level in LEVELS
    ]  # fmt: skip
    slow = [
        serve(f"a100-{level}", **at_level(level, 0.5, 400.0), hardware_id=A100, source_id="tool/run") for level in LEVELS[:-1]
    ]  # fmt: skip
    failed = serve("a100-16", hardware_id=A100, source_id="tool/run", concurrency=16, status="timeout", status_detail="no token within 60 s",
                   success_rate=0.0, num_failed_requests=100)  # fmt: skip
    return [*fast, *slow, failed]


def single() -> dict[str, Any]:
    return serve(
        "by-hand",
        load_pattern="single",
        num_requests=1,
        input_tokens=5,
        output_tokens=3,
        ttft_s=0.02,
        tpot_s=0.01,
        e2el_s=0.04,
    )


def published() -> list[dict[str, Any]]:
    """What others measured on the A100: throughput over the whole run, ramps included, and one without a definition, kept out of charts."""
    paper = {"source_kind": "published", "source_id": "paper/serving", "collector": "published", "quality_tier": 0, "hardware_id": A100,
             "framework": "tgi", "framework_version": None}  # fmt: skip
    whole = {"metric_definitions": {"ttft_s": "first_nonempty_chunk", "output_tokens_per_s": WHOLE}}
    return [
        *(serve(f"tgi-{level}", **paper, **at_level(level, 0.4, 300.0), **whole) for level in (1, 4, 16)),
        serve("tgi-odd", **paper, **at_level(2, 50.0, 1e6), metric_definitions=None, is_excluded=True, exclusion_reason="the table contradicts itself"),
        serve("tgi-rate", **{**paper, "load_pattern": "poisson"}, concurrency=None, request_rate_per_s=2.5, ttft_s=0.3, ttft_p99_s=0.9, **whole),
    ]  # fmt: skip


def sources() -> list[dict[str, Any]]:
    return [{"source_id": "paper/serving", "title": "A paper's servers", "kind": "paper"}]


def requests(run_id: str) -> list[dict[str, Any]]:
    """One sent every half second, the first two to warm up; the last but one was refused and the last one cut off."""
    rows: list[dict[str, Any]] = [
        {"run_id": run_id, "request_index": index, "sample_phase": "warmup" if index < 2 else "measured", "status": "ok", "http_status": 200,
         "scheduled_at_s": index / 2, "sent_at_s": index / 2, "ttft_s": 0.1 + 0.01 * index, "tpot_s": 0.01, "e2el_s": 1.4 + 0.01 * index,
         "input_tokens": 512, "output_tokens": 128, "is_steady": 4 <= index < 20, "client_index": index % 2, "token_count_source": "usage",
         "finish_reason": "length"}
        for index in range(NUM_REQUESTS)
    ]  # fmt: skip
    missing = dict.fromkeys(("ttft_s", "tpot_s", "e2el_s", "output_tokens", "finish_reason"))
    rows[-2] |= {
        **missing,
        "status": "refused",
        "http_status": 429,
        "status_detail": "429 Too Many Requests, Retry-After 1 s",
    }
    rows[-1] |= {**missing, "status": "error", "status_detail": "the stream ended before its last chunk", "ttft_s": 0.3}
    return rows


def by_hand() -> dict[str, Any]:
    return {"run_id": "by-hand", "request_index": 0, "sample_phase": "measured", "status": "ok", "ttft_s": 0.02, "tpot_s": 0.01, "e2el_s": 0.04,
            "input_tokens": 5, "output_tokens": 3, "prompt": "What is a roofline?", "text": "A bound.", "token_count_source": "usage",
            "finish_reason": "stop"}  # fmt: skip


def telemetry() -> list[dict[str, Any]]:
    """The engine every second: its cache fills, requests wait at the end."""
    return [
        {"run_id": "vllm-8", "device_index": -2, "at_s": float(second), "kv_cache_ratio": 0.08 * second, "num_running": float(min(second, 8)),
         "num_waiting": float(max(0, second - 8)), "generated_tokens": 800.0 * second}
        for second in range(12)
    ]  # fmt: skip


def scores() -> list[dict[str, Any]]:
    scored = {
        "task": "gsm8k",
        "metric": "exact_match",
        "stderr": 0.02,
        "is_higher_better": True,
        "num_samples": 100,
        "num_fewshot": 5,
    }
    return [{**scored, "run_id": "vllm-8", "value": 0.75}, {**scored, "run_id": "a100-8", "value": 0.71}]


def findings() -> list[dict[str, Any]]:
    found = {
        "found_at": WHEN,
        "found_by": "tests",
        "is_current": True,
        "severity": "doubt",
        "source_id": "paper/serving",
    }
    return [
        {**found, "finding_id": "f1", "run_id": "tgi-4", "check_name": "throughput_times_latency", "severity": "fault", "metric": "output_tokens_per_s",
         "value": 160.0, "expected": 140.0, "sentence": "160 tokens/s and 4 at once need 25 ms a token, not the 29 ms of the same row."},
        {**found, "finding_id": "f2", "run_id": "tgi-16", "check_name": "super_linear_scaling", "sentence": "16 at once are more than 4 times as fast as 4."},
        {**found, "finding_id": "f4", "run_id": "tgi-1", "check_name": "unit_slip", "is_current": False, "sentence": "No longer so."},
        {**found, "finding_id": "f3", "run_id": None, "check_name": "unit_slip", "sentence": "The table's heading says s where its text says ms."},
    ]  # fmt: skip


def tables() -> list[dict[str, Any]]:
    """A table of GEMMs and one of collectives on the H100, both of one framework."""
    none = dict.fromkeys(
        ("llm_id", "batch_size", "context_tokens", "weight_dtype", "kv_dtype", "attention", "latency_s")
    )
    table: dict[str, Any] = {"source_kind": "published", "source_id": "tables/of-kernels", "collector": "from_tables", "hardware_id": H100, "phase": "microbench", **none,
             "activation_dtype": "bf16", "framework": "trtllm", "framework_version": "1.0", "metric_definitions": {}}  # fmt: skip
    return [run("table-gemm", **table, kernel="gemm"), run("table-reduce", **table, kernel="all_reduce", num_devices=8)]


def kernels() -> list[dict[str, Any]]:
    """Square GEMMs at half of the H100's roof, the largest one twice as fast as its roof; collectives at 100 GB/s."""
    peak, bandwidth = 989.4e12, 3.35e12
    rows = []
    for index, size in enumerate(2**power for power in range(6, 14)):
        flops, moved = 2.0 * size**3, 3.0 * 2 * size**2
        bound = max(flops / peak, moved / bandwidth)
        rows.append({"run_id": "table-gemm", "kernel_index": index, "kernel": "gemm", "op_kind": "gemm", "m": size, "n": size, "k": size, "num_devices": 1,
                     "flops": flops, "bytes_moved": moved, "roofline_s": bound, "time_s": bound * (0.5 if size == 8192 else 2.0)})  # fmt: skip
    return [
        *rows,
        *(
            {"run_id": "table-reduce", "kernel_index": index, "kernel": "all_reduce", "op_kind": "all_reduce", "num_devices": 8, "size_bytes": 2.0**power,
             "time_s": 2.0**power / 100e9}
            for index, power in enumerate((16, 20, 24))
        ),
    ]  # fmt: skip
