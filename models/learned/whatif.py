"""One configuration nobody measured: its analytical bound, and beside it what the predictors say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from models.analytical import evaluate
from models.analytical.devices import HardwareRows
from models.learned.first_predictor import Prediction, Predictor, predict
from warehouse import schema


@dataclass(frozen=True)
class WhatIf:
    """The answer for one configuration. `analytical` is the total of models.analytical.evaluate, config_id included;
    `predictions` holds one entry for each predictor given, by metric."""

    config_id: str
    analytical: Mapping[str, Any]
    predictions: Mapping[str, Prediction]

    @property
    def latency(self) -> Prediction | None:
        """None where no latency predictor was given."""
        return self.predictions.get("latency_s")

    @property
    def memory(self) -> Prediction | None:
        """None where no memory predictor was given."""
        return self.predictions.get("memory_peak_bytes")


def what_if(
    predictors: Mapping[str, Predictor], config: Mapping[str, Any], *, hardware_rows: HardwareRows | None = None
) -> WhatIf:
    """Evaluate one configuration (configuration columns of `runs`) analytically and predict it with each predictor.

    `predictors` maps a metric to its predictor; an empty one gives the bound alone. `hardware_rows` extend or override the
    device catalogue. Where the analytical model has no answer there is no prediction, and its reason is the analytical one.
    Raises ValueError for a key that is no configuration column, UnknownEntryError for an unknown LLM or device.
    """
    strange = [name for name in config if name not in schema.CONFIGURATION_NAMES]
    if strange:
        raise ValueError(
            f"{', '.join(strange)}: no configuration column. Known: {', '.join(schema.CONFIGURATION_NAMES)}."
        )
    columns = {
        column.name: pa.array([config[column.name]], column.type)
        for column in schema.CONFIGURATION
        if column.name in config
    }
    totals, _ = evaluate(pa.table(columns), ruleset="default", with_ops=False, hardware=hardware_rows)
    absent = [column for column in schema.CONFIGURATION if column.name not in totals.column_names]
    for column in absent:
        totals = totals.append_column(column.name, pa.nulls(1, column.type))
    (total,) = totals.to_pylist()
    predictions = {metric: predict(predictor, totals)[0] for metric, predictor in predictors.items()}
    if total["status"] != "ok":
        predictions = {metric: replace(item, reason=total["status_detail"]) for metric, item in predictions.items()}
    return WhatIf(schema.config_id(config), total, predictions)
