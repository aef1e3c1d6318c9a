"""What the pages and the JSON API ask of predictors: those that answer, with the lake's devices."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dashboard import text
from dashboard.data import Lake
from models.learned import answering
from models.learned.answering import Known
from models.learned.predictor import Predictor, load_all
from models.learned.training import LAKE
from warehouse.metrics import BY_KEY, Metric

LOG = logging.getLogger("rooflake.dashboard")
__all__ = ["LAKE", "SPLIT_NAMES", "boards", "known", "metric_of", "split_name", "target_name", "target_of", "targets"]
SPLIT_NAMES = {
    "leave_model_out": "Whole LLMs held out", "leave_family_out": "Whole LLM families held out", "leave_device_out": "Whole devices held out",
    "leave_generation_out": "Whole architectures held out", "leave_backend_out": "Whole frameworks held out",
    "leave_stack_out": "Device and framework held out", "leave_shape_out": "Whole shapes held out", "beyond_size": "Larger than learnt from",
    "random": "Random rows held out",
}  # fmt: skip


def known(lake: Lake, snapshot: str | None) -> Known:
    """The promoted predictors whose artifact is in the home folder, and the lake's devices; one without its file goes to the log."""
    hardware = lake.query("device_list", snapshot).drop_columns(["num_runs", "num_observed"]).to_pylist()
    found = Known(
        load_all(lake.home.predictors, lake.rows("promoted_predictors", snapshot), LOG.warning),
        hardware={row["hardware_id"]: row for row in hardware},
    )
    return replace(found, compose=answering.composer(found))


def targets(lake: Lake, snapshot: str | None) -> list[dict[str, str]]:
    """What predictors of this lake are about, as options: those that answer, else every metric that has a score."""
    promoted = lake.rows("promoted_predictors", snapshot)
    if promoted:
        return [{"value": row["target"], "label": target_name(row["target"])} for row in promoted]
    scored = dict.fromkeys(
        row["metric"] for row in lake.rows("score_list", snapshot, fold="all") if row["source_id"] is None
    )
    return [{"value": key, "label": metric_of(key).label} for key in scored]


def target_of(asked: str | None, predictors: Mapping[str, Predictor]) -> str | None:
    """The target that a link names, by its key or by its metric."""
    if asked is None or asked in predictors:
        return asked
    return next((key for key, one in predictors.items() if one.metric == asked), asked)


def metric_of(key: str) -> Metric:
    """The metric of a predictor; a kernel's time is none of a run's metrics."""
    if key in BY_KEY:
        return BY_KEY[key]
    return Metric(key, "Time", "s", "µs", 1e6, "lower", "time of one kernel")


def split_name(split: str, *, inside: bool = False) -> str:
    """What a split holds out, in words; `inside` a sentence with a small first letter."""
    name = SPLIT_NAMES.get(split, text.words(split))
    return name[:1].lower() + name[1:] if inside else name


def target_name(key: str) -> str:
    """A target in words: memory_allocated is Memory allocated."""
    return text.words(f"{key} ").strip()


def boards(lake: Lake) -> dict[str, dict[str, Any]]:
    """Boards of the public league that were scored into this home (`python -m benchmarks.predictors`): key -> title and goals."""
    path = lake.home.path / "league.json"
    if not path.is_file():
        return {}
    try:
        kept: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {key: {"title": one["title"], "goals": one["goals"]} for key, one in kept.items()}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        LOG.warning("%s is no table of the league (%s): goals are not shown.", path, error)
        return {}
