"""Configurations for the tests of the analytical engine, answered together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from models.analytical import evaluate

Row = dict[str, Any]
LENGTHS = {
    "prefill": {"input_tokens": 512},
    "forward": {"input_tokens": 512},
    "decode": {"context_tokens": 512},
    "generate": {"input_tokens": 512, "output_tokens": 32},
}


def config(llm_id: str = "llama-2-7b", phase: str = "decode", **values: Any) -> Row:
    """One configuration: one sequence in fp16 with fused attention on an A100 80 GB, with the lengths its phase needs."""
    start = {"llm_id": llm_id, "hardware_id": "a100-sxm-80gb", "phase": phase, "batch_size": 1, "attention": "flash"}
    dtypes = dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "fp16")
    return start | dtypes | LENGTHS.get(phase, {}) | values


def answers(rows: Sequence[Row], **options: Any) -> tuple[list[Row], list[list[Row]]]:
    """Totals of every configuration, and its ops, whose `count` is the number of equal executions."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    totals, ops = evaluate(pa.table({name: [row.get(name) for row in rows] for name in names}), **options)
    by_row: list[list[Row]] = [[] for _ in rows]
    for op in ops.to_pylist():
        by_row[op["config_row"]].append(op)
    return totals.to_pylist(), by_row


def totals(rows: Sequence[Row], **options: Any) -> list[Row]:
    """Totals alone."""
    return answers(rows, with_ops=False, **options)[0]


def total(llm_id: str = "llama-2-7b", phase: str = "decode", *, options: Row | None = None, **values: Any) -> Row:
    """Totals of one configuration; `options` are those of `evaluate`."""
    return totals([config(llm_id, phase, **values)], **(options or {}))[0]


def ops(llm_id: str = "llama-2-7b", phase: str = "decode", *, options: Row | None = None, **values: Any) -> list[Row]:
    """Ops of one configuration."""
    return answers([config(llm_id, phase, **values)], **(options or {}))[1][0]


def work(rows: Sequence[Row], name: str, *kinds: str) -> float:
    """Sum of a column over every execution of the ops of some kinds, or of all."""
    return sum(op[name] * op["count"] for op in rows if not kinds or op["op_kind"] in kinds)


def op_of(rows: Sequence[Row], ending: str) -> Row:
    """The only op whose path ends so."""
    found = [op for op in rows if op["path"].endswith(ending)]
    assert len(found) == 1, [op["path"] for op in rows]
    return found[0]
