"""A small lake for the dashboard's tests: every kind of truth, a failure, a fault, an endpoint run, a predictor. Numbers are round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sample_rows import WHEN, op, run

from warehouse.parquet import land
from warehouse.store import Home, open_store

FLOPS, BYTES = 13.6e9, 13.6e9
"""Work of one decode step: 1 FLOP/B, left of every ridge."""


def build(home: Path) -> Path:
    """Land and load the lake; returns its home folder."""
    place = Home.of(home)
    place.prepare()
    for name, batch in batches().items():
        land(place.landing, name, batch)
    (place.landing / "runs").mkdir(exist_ok=True)
    (place.landing / "runs" / "broken.parquet").write_bytes(b"not Parquet")
    with open_store(place) as store:
        store.load()
    return home


def batches() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Batch name -> table -> rows."""
    return {
        "measured": {
            "runs": measured(),
            "ops": measured_ops(),
            "samples": samples(),
            "requests": requests(),
            "environments": environments(),
        },
        "published": {"runs": published(), "sources": sources()},
        "analytical": {"runs": analytical(), "ops": analytical_ops()},
        "predictor": predictor(),
    }


def measured() -> list[dict[str, Any]]:
    fast = {
        "latency_std_s": 0.001,
        "memory_peak_bytes": 14.0 * 2**30,
        "environment_id": "env-1",
        "command": "python -m collectors local_profile",
    }
    return [
        run("m-a6000", **fast, num_samples=2, quality_tier=3),
        run("m-oom", batch_size=64, latency_s=None, status="oom", status_detail="needed 90 GiB of 48 GiB"),
        run("m-fault", hardware_id="t4", latency_s=0.001, flops=FLOPS, bytes_moved=BYTES),
        run("m-serve", phase="serve", context_tokens=None, input_tokens=64, output_tokens=16, concurrency=2, latency_s=None, num_requests=3,
            collector="endpoint", ttft_s=0.1, tpot_s=0.01, e2el_s=0.25),
    ]  # fmt: skip


def published() -> list[dict[str, Any]]:
    paper = {"collector": "published", "source_kind": "published", "source_id": "paper/table-1", "quality_tier": 0}
    return [
        run("p-a100", **paper, hardware_id="a100-sxm-80gb", latency_s=0.010, source_cell="row 1, column 2"),
        run(
            "p-odd",
            **paper,
            hardware_id="h100-sxm",
            latency_s=9.0,
            is_excluded=True,
            exclusion_reason="the table contradicts its own text",
        ),
    ]


def analytical() -> list[dict[str, Any]]:
    bound = {"collector": "roofline", "source_kind": "analytical", "source_id": "ruleset/default", "ruleset": "default", "quality_tier": None,
             "latency_s": None, "flops": FLOPS, "bytes_moved": BYTES, "bound": "memory", "metric_definitions": None}  # fmt: skip
    return [
        run("a-a6000", **bound, roofline_s=0.016),
        run("a-a100", **bound, hardware_id="a100-sxm-80gb", roofline_s=0.008),
        run("a-h100", **bound, hardware_id="h100-sxm", roofline_s=0.004),
    ]


def measured_ops() -> list[dict[str, Any]]:
    layer = "model.layers.0"
    return [
        op("m-a6000", 0, path="model", op_kind="model", time_s=0.020),
        op("m-a6000", 1, path=layer, parent_path="model", op_kind="layer", time_s=0.008, count=2),
        op("m-a6000", 2, path=f"{layer}.q_proj", parent_path=layer, time_s=0.003, count=2, flops=6e9, bytes_moved=6e9),
        op("m-a6000", 3, path=f"{layer}.up_proj", parent_path=layer, op_kind="up_proj", time_s=0.004, count=2),
        op("m-a6000", 4, path="lm_head", parent_path="model", op_kind="lm_head", time_s=0.002),
    ]


def analytical_ops() -> list[dict[str, Any]]:
    bound = {"time_s": None, "flops": 6e9, "bytes_moved": 6e9, "bound": "memory"}
    return [
        op("a-a6000", 0, path="model.layers.*.q_proj", **bound, roofline_s=0.002, count=2),
        op("a-a6000", 1, path="model.layers.*.up_proj", op_kind="up_proj", **bound, roofline_s=0.003, count=2),
    ]


def samples() -> list[dict[str, Any]]:
    row = {"run_id": "m-a6000", "metric": "latency_s", "unit": "s"}
    return [
        {**row, "sample_index": 0, "sample_phase": "warmup", "value": 0.050},
        {**row, "sample_index": 1, "sample_phase": "measured", "value": 0.019},
        {**row, "sample_index": 2, "sample_phase": "measured", "value": 0.021, "flags": ["outlier"]},
    ]


def requests() -> list[dict[str, Any]]:
    row = {
        "run_id": "m-serve",
        "sample_phase": "measured",
        "status": "ok",
        "ttft_s": 0.1,
        "tpot_s": 0.01,
        "output_tokens": 16,
    }
    return [
        {**row, "request_index": 0, "e2el_s": 0.2},
        {**row, "request_index": 1, "e2el_s": 0.3},
        {
            **row,
            "request_index": 2,
            "status": "timeout",
            "ttft_s": None,
            "tpot_s": None,
            "status_detail": "no token within 30 s",
        },
    ]


def environments() -> list[dict[str, Any]]:
    return [{"environment_id": "env-1", "hardware_id": "a6000", "os": "Debian 12", "python_version": "3.11.2", "packages": ["torch==2.13.0"],
             "variables": {"OMP_NUM_THREADS": "1"}}]  # fmt: skip


def sources() -> list[dict[str, Any]]:
    return [{"source_id": "paper/table-1", "title": "A paper's first table", "kind": "paper", "authors": "A. Uthor", "published_at": "2024",
             "locator": "Table 1", "url": "https://example.org/paper"}]  # fmt: skip


def predictor() -> dict[str, list[dict[str, Any]]]:
    """A predictor without an artifact file and its baseline, scored on two splits."""
    base = {
        "metric": "latency_s",
        "snapshot_id": 1,
        "trained_at": WHEN,
        "num_rows": 2,
        "llm_ids": ["llama-2-7b"],
        "hardware_ids": ["a6000"],
    }
    scored = [("learned", 0.1, 0.9), ("forest", 0.5, None)]
    return {
        "predictors": [
            {**base, "predictor_id": "learned", "name": "Corrected roofline", "method": "gp", "is_baseline": False, "artifact": "learned.json",
             "features": ["roofline_s"]},
            {**base, "predictor_id": "forest", "name": "Random forest", "method": "rf", "is_baseline": True},
        ],
        "predictor_scores": [
            {"predictor_id": key, "split": split, "fold": "all", "num_rows": 2, "mdape": error, "mape": error, "p90_ape": error, "coverage": coverage}
            for key, error, coverage in scored
            for split in ("leave_model_out", "random")
        ],
        "predictions": [
            {"predictor_id": key, "split": "leave_model_out", "fold": "llama-2-7b", "run_id": "m-a6000", "metric": "latency_s", "value": value,
             "lower": lower, "upper": upper, "actual": 0.020, "is_supported": True}
            for key, value, lower, upper in (("learned", 0.022, 0.018, 0.027), ("forest", 0.040, None, None))
        ],
    }  # fmt: skip
