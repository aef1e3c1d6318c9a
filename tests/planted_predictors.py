"""Predictors of laws that are known, on LLMs and devices of the catalogue: what they say can be worked out on paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from models.learned import answering, subjects
from models.learned.fitted import Fitted
from models.learned.inputs import number
from models.learned.predictor import Predictor

LLMS = ("opt-125m", "gpt2", "opt-350m", "opt-1.3b", "llama-2-7b", "qwen2.5-0.5b")
DEVICES = ("a100-sxm-80gb", "t4")
DTYPES = dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "fp16")
WAY = {"framework": "vllm", "execution": "engine", "attention": "paged"}
LAYER_S, SLOWER, CONTEXT_BYTES = 5e-5, 2.0, 5e8
"""The planted laws: every layer costs 50 us, and what the bound counts takes twice as long; half a GB is there before any weight."""


def config(llm: str = "llama-2-7b", hardware_id: str = "a100-sxm-80gb", **more: Any) -> dict[str, Any]:
    """A decode step of one sequence in fp16, as the predictors have seen them."""
    lengths = {} if {"input_tokens", "context_tokens"} & more.keys() else {"context_tokens": 512}
    return {
        "llm_id": llm,
        "hardware_id": hardware_id,
        "phase": "decode",
        "batch_size": 1,
        **lengths,
        **DTYPES,
        **WAY,
        **more,
    }


def rows() -> pa.Table:
    """Training rows: decode steps and prefills of LLMS on DEVICES."""
    configs = [
        config(llm, device, batch_size=batch, **work)
        for llm in LLMS
        for device in DEVICES
        for batch in (1, 8, 64)
        for work in ({"context_tokens": 512}, {"phase": "prefill", "input_tokens": 256})
    ]
    found = answering.questions(answering.configurations(configs), answering.Known())
    seconds = LAYER_S * number(found, "num_layers") + SLOWER * (number(found, "compute_s") + number(found, "memory_s"))
    peak = number(found, "weights_bytes") + np.nan_to_num(number(found, "kv_cache_bytes")) + CONTEXT_BYTES
    spread = np.exp(0.02 * np.sin(np.arange(found.num_rows) * 1.7))
    for name, values in (("measured_latency_s", seconds * spread), ("measured_memory_peak_bytes", peak * spread)):
        found = found.append_column(name, pa.array(values))
    return found


def known(*targets: str) -> answering.Known:
    """Predictors of targets (default: latency and memory_allocated), and the catalogue."""
    table = rows()
    return answering.Known({key: predictor(key, table) for key in targets or ("latency", "memory_allocated")})


def predictor(key: str, table: pa.Table) -> Predictor:
    """A predictor of a target fitted on rows, without scores."""
    target = subjects.find(key)
    inputs = target.inputs(table)
    fitted = Fitted.on(
        target.recipe(len(inputs)), inputs, np.log(number(table, target.column)), ("random", "llm", "device")
    )
    card = {"features": list(inputs.feature_names), "terms": list(inputs.term_names), "notes": [], "scores": {}}
    devices = tuple(inputs.groups["device"].names)
    return Predictor(f"planted-{key}", key, target.metric, target.unit, "planted", 7, "2026-01-01T00:00:00+00:00", len(inputs),
                      tuple(inputs.groups["llm"].names), devices, card, fitted)  # fmt: skip
