"""Predictors of laws that are known, on LLMs and devices of the catalogue: what they say can be worked out on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sample_rows import WHEN, run

from models.learned import answering, subjects
from models.learned.fitted import Fitted
from models.learned.inputs import number
from models.learned.predictor import Predictor
from warehouse.parquet import land
from warehouse.store import Home, open_store

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
    value, split = fitted.predict(inputs), "leave_model_out"
    held_out = {
        "split": split, "content": [f"{one:016x}" for one in inputs.content.tolist()], "fold": inputs.groups["llm"].texts().tolist(),
        "actual": number(table, target.column).tolist(), "value": value.value.tolist(), "lower": value.lower.tolist(), "upper": value.upper.tolist(),
    }  # fmt: skip
    card = {
        "what": target.what, "population": "lake", "features": list(inputs.feature_names), "terms": list(inputs.term_names), "notes": ["A note."],
        "scores": {split: {"rooflake": {"mdape": 0.021, "mape": 0.03, "num_rows": len(inputs)}}}, "held_out": held_out,
        "slices": [{"dimension": "llm", "label": "gpt2", "num_rows": 12, "mape": 0.03, "mdape": 0.02, "bias": 0.01, "coverage": 0.9}],
        "importances": [{"feature": "log_bytes", "group": "work and bound", "increase": 0.1}],
    }  # fmt: skip
    devices = tuple(inputs.groups["device"].names)
    return Predictor(f"planted-{key}", key, target.metric, target.unit, "planted", 7, "2026-01-01T00:00:00+00:00", len(inputs),
                      tuple(inputs.groups["llm"].names), devices, card, fitted)  # fmt: skip


def build(home: Path) -> Path:
    """A lake with measured runs of the planted law, its predictors promoted, and scores beside a baseline; returns its home folder."""
    place = Home.of(home)
    place.prepare()
    table = rows()
    batch: dict[str, Any] = {"runs": _runs(table), "predictors": [], "predictor_scores": [], "promotions": []}
    for key in ("latency", "memory_allocated"):
        one = predictor(key, table)
        one.save(place.predictors)
        shared = {
            "metric": one.metric,
            "target": key,
            "population": "lake",
            "snapshot_id": 7,
            "trained_at": WHEN,
            "num_rows": one.num_rows,
        }
        names = {one.predictor_id: ("planted", False), f"{one.predictor_id}-bound": ("roofline bound", True)}
        batch["predictors"] += [
            shared | {"predictor_id": name, "name": f"{one.card['what']}: {method}", "method": method, "is_baseline": is_baseline,
                      "artifact": None if is_baseline else one.file_name, "llm_ids": list(one.llm_ids), "hardware_ids": list(one.hardware_ids)}
            for name, (method, is_baseline) in names.items()
        ]  # fmt: skip
        batch["predictor_scores"] += [
            {"predictor_id": name, "split": split, "fold": fold, "num_rows": 12, "mdape": error, "mape": error, "p90_ape": error, "r2": 0.9,
             "coverage": None if is_baseline else 0.75 if fold == "gpt2" else 0.92}
            for name, (_, is_baseline) in names.items() for split in ("leave_model_out", "random") for fold in ("all", "gpt2")
            for error in [0.4 if is_baseline else 0.02]
        ]  # fmt: skip
        batch["promotions"].append({"promotion_id": f"first-{key}", "target": key, "predictor_id": one.predictor_id, "is_rollback": False,
                                    "reason": "the first predictor of this target", "promoted_at": WHEN})  # fmt: skip
    land(place.landing, "planted", batch)
    with open_store(place) as store:
        store.load()
    return home


def _runs(table: pa.Table) -> list[dict[str, Any]]:
    names = [name for name in answering.CONFIGURATION if name in table.column_names]
    found = []
    for place, row in enumerate(table.to_pylist()):
        config = {name: row[name] for name in names} | {"optimizations": []}
        answers = {"latency_s": row["measured_latency_s"], "memory_peak_bytes": row["measured_memory_peak_bytes"]}
        found.append(run(f"planted-{place}", **{**config, **answers}))
    return found
