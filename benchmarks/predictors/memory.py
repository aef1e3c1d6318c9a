"""Peak memory: optimum-benchmark's rows on an A100, and rows measured here on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.predictors.board import Board, Goal, Report, tidy_rows
from models import analytical
from models.learned import evaluate, model, splits
from models.learned.fits import Errors
from models.learned.inputs import number
from models.learned.subjects import find
from warehouse import catalog
from warehouse.store import Store

PUBLIC = {"source": "optimum-benchmark"}
OWN = {"source": "rooflake/local_profile"}
SHAPE = (
    "architecture", "family", "num_parameters", "num_layers", "num_encoder_layers", "hidden_size", "num_heads", "num_kv_heads",
    "head_dim", "intermediate_size", "vocab_size",
)  # fmt: skip
TOTALS = ("weights_bytes", "kv_cache_bytes", "activation_peak_bytes", "logits_bytes", "memory_peak_bytes")


def named(rows: pa.Table) -> pa.Table:
    """Rows whose LLM the catalogue knows by one of its names, with its shape and analytical memory.

    A lake imported before the catalogue knew a checkpoint keeps its name alone, and quantised ones as fp16: their names say GPTQ or AWQ.
    """
    stated = rows.column("served_model_name").to_pylist()
    llm_ids = [_known(one) or _known(name) for one, name in zip(rows.column("llm_id").to_pylist(), stated, strict=True)]
    is_quantized = [any(word in str(name).lower() for word in ("gptq", "awq")) for name in stated]
    dtypes = [
        "int4" if quantized else dtype
        for quantized, dtype in zip(is_quantized, rows.column("weight_dtype").to_pylist(), strict=True)
    ]
    rows = _replaced(_replaced(rows, "llm_id", pa.array(llm_ids, pa.string())), "weight_dtype", pa.array(dtypes))
    is_complete = pc.and_(pc.is_valid(rows.column("llm_id")), pc.is_valid(rows.column("batch_size")))
    rows = rows.filter(is_complete)
    totals, _ = analytical.evaluate(rows.drop_columns([*SHAPE, *TOTALS]), with_ops=False)
    for name in TOTALS:
        rows = _replaced(rows, name, totals.column(name))
    shapes = [catalog.llm_row(catalog.find_llm(llm_id)) for llm_id in rows.column("llm_id").to_pylist()]
    for name in SHAPE:
        rows = _replaced(rows, name, pa.array([shape[name] for shape in shapes]))
    return rows


def _known(name: str | None) -> str | None:
    try:
        return None if name is None else catalog.find_llm(name).llm_id
    except catalog.UnknownEntryError:
        return None


def _replaced(rows: pa.Table, name: str, values: Any) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, values)


def safety(board: Board, store: Store, report: Report) -> list[dict[str, Any]]:
    """Whether what is said to fit fits: `coverage` is the share of held-out rows within the bound.

    A row is said to fit a capacity where its bound is at most that; it does not where its peak is more. So at no capacity at all a
    row is wrongly said to fit if and only if its peak is within its bound. Errors are those of the rows inside each fold alone.
    `interval_width_median` is the median of bound over prediction.
    """
    target, rows = find(board.target), tidy_rows(board, store, report)
    inputs, actual = target.inputs(rows), number(rows, target.column)
    evaluate.check(target, inputs, actual)
    recipe, dimension = target.recipe(len(inputs)), splits.dimension(board.split)
    found = []
    for fold in splits.folds(inputs, board.split):
        inside, outside, log_target = inputs.take(fold.inside), inputs.take(fold.outside), np.log(actual[fold.inside])
        value = np.exp(model.fit(recipe, inside, log_target, dimension).log_values(outside))
        safe = Errors.left_out(recipe, inside, log_target, dimension).safe(value)
        said = {
            "rooflake": (value, safe),
            "the prediction itself": (value, value),
            "analytical estimate": (outside.estimate, outside.estimate),
        }
        found += [(name, fold.name, actual[fold.outside], *both) for name, both in said.items()]
    return [
        {"contender": name, "split": board.split, "fold": fold} | _bounded([one for one in found if one[0] == name and fold in (one[1], evaluate.ALL)])
        for name in dict.fromkeys(one[0] for one in found)
        for fold in (evaluate.ALL, *dict.fromkeys(one[1] for one in found))
    ]  # fmt: skip


def _bounded(folds: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Scores of predictions of some folds whose interval ends at a bound."""
    actual, value, bound = (np.concatenate([one[place] for one in folds]) for place in (2, 3, 4))
    scores = evaluate.score(actual, value, np.ones(len(actual)), bound)
    return scores | {"interval_width_median": float(np.median(bound / value))}


PEAK = (Goal("r2", least=0.99), Goal("mape", most=0.05))
ALLOCATED = (Goal("r2", least=0.985), Goal("mape", most=0.04))
SAFE = (Goal("coverage", least=1.0, note="no row is said to fit what it does not fit"),)
BOARDS = (
    Board("memory-device-llm", "Memory the driver counts, passes on an A100, LLM never seen", "memory_device", "leave_model_out", PEAK, PUBLIC, named),
    Board("memory-device-shape", "the same, shape never seen under any name", "memory_device", "leave_shape_out", PEAK, PUBLIC, named),
    Board("memory-device-random", "the same, random rows", "memory_device", "random", (), PUBLIC, named),
    Board("memory-device-generation-llm", "Memory the driver counts, generations, LLM never seen", "memory_device_generation", "leave_model_out", (), PUBLIC, named),
    Board("memory-allocated-llm", "Memory torch allocates on an A100, LLM never seen", "memory_allocated", "leave_model_out", ALLOCATED, PUBLIC, named),
    Board("memory-allocated-shape", "the same, shape never seen under any name", "memory_allocated", "leave_shape_out", ALLOCATED, PUBLIC, named),
    Board("memory-reserved-llm", "Memory torch reserves, passes on an A100, LLM never seen", "memory_reserved", "leave_model_out", (), PUBLIC, named),
    Board("memory-reserved-generation-llm", "Memory torch reserves, generations, LLM never seen", "memory_reserved_generation", "leave_model_out", (), PUBLIC, named),
    Board("memory-own-random", "Memory measured here, random rows: the protocol of bhavana-iitbbs", "memory_allocated", "random", (Goal("r2", least=0.99), Goal("mdape", most=0.02)), OWN),
    Board("memory-own-llm", "Memory measured here, LLM never seen", "memory_allocated", "leave_model_out", (Goal("mdape", most=0.02),), OWN),
    Board("memory-fits-allocated", "What is said to fit (allocated), LLM never seen, at any capacity", "memory_allocated", "leave_model_out", SAFE, PUBLIC, named, run=safety),
    Board("memory-fits-reserved", "the same by what torch reserves in a pass", "memory_reserved", "leave_model_out", SAFE, PUBLIC, named, run=safety),
    Board("memory-fits-device", "the same by what the driver counts in a pass", "memory_device", "leave_model_out", SAFE, PUBLIC, named, run=safety),
    Board("memory-fits-device-generation", "the same by what the driver counts in a generation", "memory_device_generation", "leave_model_out", SAFE, PUBLIC, named, run=safety),
    Board("memory-fits-own", "the same on rows measured here", "memory_allocated", "leave_model_out", SAFE, OWN, run=safety),
    Board("memory-training-llm", "Memory of training steps as published, LLM never seen", "memory_training", "leave_model_out"),
    Board("memory-training-device", "the same, device never seen", "memory_training", "leave_device_out"),
)  # fmt: skip
