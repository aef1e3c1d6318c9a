"""Predictors of memory on planted laws: terms are recovered, kinds of peaks are not mixed, NULL stays NULL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.learned import evaluate, tidy
from models.learned.contenders import Ours
from models.learned.inputs import number
from models.learned.subjects import devices, find

CONTEXT_BYTES = 0.5e9
LLMS = {
    "small": (1.1e9, 2048, 22, 32000),
    "middle": (6.7e9, 4096, 32, 32000),
    "large": (13.0e9, 5120, 40, 50000),
    "wide": (8.0e9, 4096, 32, 128000),
}


def planted(**changes: Any) -> pa.Table:
    """A grid over LLMs and batches whose peak is weights + returned cache + 1.5 x activations + logits thrice + a context."""
    rows = []
    for llm, (parameters, hidden, layers, vocabulary) in LLMS.items():
        for batch in (1, 2, 4, 8, 16):
            for tokens in (128, 512):
                row: dict[str, Any] = {
                    "run_id": f"{llm}-{batch}-{tokens}", "llm_id": llm, "family": llm, "architecture": "decoder",
                    "hardware_id": "a100-sxm-80gb", "num_devices": 1, "phase": "forward", "batch_size": batch,
                    "input_tokens": tokens, "output_tokens": None, "context_tokens": None,
                    "weight_dtype": "fp16", "activation_dtype": "fp16", "num_parameters": int(parameters),
                    "num_layers": layers, "hidden_size": hidden, "vocab_size": vocabulary,
                    "num_heads": hidden // 128, "num_kv_heads": hidden // 128, "head_dim": 128, "attention": "sdpa",
                    "weights_bytes": 2 * parameters, "kv_cache_bytes": 0.0,
                    "intermediate_size": 4 * hidden, "logits_bytes": 2.0 * batch * tokens * vocabulary,
                    "activation_peak_bytes": 2.0 * batch * tokens * (vocabulary + 8 * hidden),
                }  # fmt: skip
                resident = row["weights_bytes"] + 4.0 * batch * tokens * layers * hidden
                logits = 6.0 * batch * tokens * vocabulary
                row["memory_peak_bytes"] = row["weights_bytes"] + row["activation_peak_bytes"]
                row["measured_memory_peak_bytes"] = (
                    resident + 1.5 * 16.0 * batch * tokens * hidden + logits + CONTEXT_BYTES
                )
                row["measured_memory_device_bytes"] = 1.2 * row["measured_memory_peak_bytes"]
                row["measured_memory_reserved_bytes"] = None
                rows.append(row | changes)
    return devices.with_devices(pa.Table.from_pylist(rows))


@pytest.mark.parametrize("key", ["memory_allocated", "memory_device"])
def test_the_planted_terms_are_found_for_an_llm_never_seen(key: str) -> None:
    target = find(key)
    rows, _ = tidy.tidy(target, planted())
    found = evaluate.evaluate(target, rows, ["leave_model_out"], contenders=lambda target, split: [Ours(target, split)])
    scores = {row["fold"]: row for row in found.scores()}
    assert set(LLMS) <= set(scores)
    assert scores["all"]["mape"] < 0.03
    assert scores["all"]["r2"] > 0.999


def test_a_peak_that_nobody_measured_is_no_row() -> None:
    target = find("memory_reserved")
    rows, notes = tidy.tidy(target, planted())
    assert any("no positive memory_reserved_bytes" in note for note in notes)
    with pytest.raises(ValueError, match="No rows to learn memory_reserved from"):
        evaluate.check(target, target.inputs(rows), number(rows, target.column))


def test_a_constant_peak_is_refused() -> None:
    target = find("memory_device")
    rows = planted(measured_memory_device_bytes=8e9)
    with pytest.raises(ValueError, match="A constant cannot be learnt"):
        evaluate.check(target, target.inputs(rows), number(rows, target.column))


def test_a_row_without_its_llm_has_no_prediction() -> None:
    target = find("memory_allocated")
    rows = planted()
    ours = Ours(target, "random")
    ours.fit(rows, number(rows, target.column))
    absent = planted(num_parameters=None, weights_bytes=None, activation_peak_bytes=None)
    assert np.isnan(ours.predict(absent).value).all()
