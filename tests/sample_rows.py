"""Small rows whose answers are obvious, for tests of several rooms."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from warehouse import schema

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def run(run_id: str, **values: Any) -> dict[str, Any]:
    """A measured decode run of Llama-2-7B on an A6000: 20 ms unless told otherwise."""
    row = {
        "run_id": run_id,
        "collector": "local_profile",
        "source_kind": "measured",
        "source_id": "rooflake/local_profile",
        "quality_tier": 2,
        "collected_at": WHEN,
        "status": "ok",
        "is_excluded": False,
        "llm_id": "llama-2-7b",
        "hardware_id": "a6000",
        "num_devices": 1,
        "phase": "decode",
        "batch_size": 1,
        "context_tokens": 1024,
        "weight_dtype": "fp16",
        "activation_dtype": "fp16",
        "kv_dtype": "fp16",
        "attention": "eager",
        "optimizations": [],
        "latency_s": 0.020,
        "metric_definitions": {"latency_s": "wall_clock"},
    }
    row |= values
    return row | {"config_id": schema.config_id(row)}


def op(run_id: str, op_index: int, **values: Any) -> dict[str, Any]:
    """A leaf op of a run: one q_proj of 1 ms unless told otherwise."""
    row = {
        "run_id": run_id,
        "op_index": op_index,
        "path": f"model.layers.{op_index}.q_proj",
        "op_kind": "q_proj",
        "count": 1,
        "time_s": 0.001,
    }
    return row | values
