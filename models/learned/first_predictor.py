"""A trained predictor: predict with an interval, say what lies outside the data, and keep it all in one JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.learned import features, fitting, intervals
from models.learned.features import CATEGORIES, SUPPORT, Array, Inputs, Metric

FORMAT = 1
"""Version of the JSON artifact; another one is refused."""
BEYOND = 1.25
"""Factor by which a quantity may leave the training range and still count as inside."""
SHOWN = {
    "num_parameters": "parameters",
    "batch_size": "sequences a batch",
    "tokens": "tokens attended",
    "roofline_s": "s of bound",
}


@dataclass(frozen=True)
class Prediction:
    """One predicted value of one configuration, in the metric's SI unit.

    `lower` and `upper` bound 90 % of values as measured by leaving LLMs out; NULL where the device, phase or dtype was never
    seen, because no error was ever measured there. `analytical` is the analytical value beside: the bound for latency.
    `reason` says why the value is unsupported, absent, or below its bound.
    """

    metric: Metric
    value: float | None
    lower: float | None
    upper: float | None
    analytical: float | None
    is_supported: bool
    is_below_bound: bool
    reason: str | None


@dataclass(frozen=True)
class Support:
    """What the training rows held: categories, and the least and most of the quantities of SUPPORT."""

    categories: Mapping[str, tuple[str, ...]]
    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, inputs: Inputs) -> Support:
        return cls(
            {name: tuple(str(value) for value in np.unique(inputs.texts[name])) for name in CATEGORIES},
            {
                name: (float(np.nanmin(values)), float(np.nanmax(values)))
                for name, values in zip(SUPPORT, inputs.support.T, strict=True)
            },
        )

    def unseen(self, inputs: Inputs, row: int) -> list[str]:
        """Sentences about categories that no training row has."""
        return [
            f"{name} '{inputs.texts[name][row]}' is not among the training rows ({', '.join(seen)})."
            for name, seen in self.categories.items()
            if inputs.texts[name][row] not in seen
        ]

    def beyond(self, inputs: Inputs, row: int) -> list[str]:
        """Sentences about quantities outside the training range."""
        sentences = []
        for (name, (least, most)), value in zip(self.ranges.items(), inputs.support[row], strict=True):
            if np.isfinite(value) and not least / BEYOND <= value <= most * BEYOND:
                sentences.append(f"{value:.4g} {SHOWN[name]} is outside the training rows ({least:.4g} to {most:.4g}).")
        return sentences


@dataclass(frozen=True)
class Fitted:
    """A model with its interval and its support: what one fold, or all training rows, come to."""

    metric: Metric
    model: fitting.Model
    half_width: float
    support: Support

    @classmethod
    def on(cls, inputs: Inputs, log_target: Array, metric: Metric) -> Fitted:
        """Fit everything, the interval included, on these rows alone."""
        width = intervals.half_width(inputs, log_target)
        return cls(metric, fitting.fit(inputs, log_target), width, Support.of(inputs))

    def predict(self, inputs: Inputs, analytical: Array) -> list[Prediction]:
        """Predictions of n rows; `analytical` (n,) is the metric's analytical value, NaN where absent."""
        complete = inputs.is_complete
        logs = np.full(len(inputs), np.nan)
        logs[complete] = self.model.log_values(inputs.take(np.flatnonzero(complete)))
        return [self._one(inputs, row, float(logs[row]), float(analytical[row])) for row in range(len(inputs))]

    def _one(self, inputs: Inputs, row: int, log_value: float, analytical: float) -> Prediction:
        known = analytical if np.isfinite(analytical) else None
        if not np.isfinite(log_value):
            reason = "The analytical row of this configuration is incomplete, so there is nothing to predict from."
            return Prediction(self.metric, None, None, None, known, False, False, reason)
        value = float(np.exp(log_value))
        unseen, beyond = self.support.unseen(inputs, row), self.support.beyond(inputs, row)
        has_interval = not unseen and np.isfinite(self.half_width)
        is_below = self.metric == "latency_s" and known is not None and value < known
        reasons = unseen + beyond
        if is_below:
            reasons.append(
                "The value is below the analytical bound: trust the bound, or correct the device's catalogue entry."
            )
        return Prediction(
            self.metric,
            value,
            float(np.exp(log_value - self.half_width)) if has_interval else None,
            float(np.exp(log_value + self.half_width)) if has_interval else None,
            known,
            not unseen and not beyond,
            is_below,
            " ".join(reasons) or None,
        )


@dataclass(frozen=True)
class Predictor:
    """A trained artifact. `scores` are its pooled leave-out scores by split and `notes` what to know about its rows, so that
    a reader of the file alone sees them."""

    predictor_id: str
    metric: Metric
    method: str
    snapshot_id: int | None
    trained_at: str
    num_rows: int
    llm_ids: tuple[str, ...]
    fitted: Fitted
    scores: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]

    @property
    def features(self) -> tuple[str, ...]:
        return (*features.term_names(self.metric), *features.feature_names(self.metric))

    @property
    def file_name(self) -> str:
        return f"{self.predictor_id}.json"

    def to_json(self) -> str:
        """The whole predictor as JSON text; floats are written so that they read back exactly."""
        support = self.fitted.support
        data = {
            "format": FORMAT,
            "predictor_id": self.predictor_id,
            "metric": self.metric,
            "method": self.method,
            "snapshot_id": self.snapshot_id,
            "trained_at": self.trained_at,
            "num_rows": self.num_rows,
            "llm_ids": list(self.llm_ids),
            "features": list(self.features),
            "support": {
                "categories": {name: list(values) for name, values in support.categories.items()},
                "ranges": {name: list(values) for name, values in support.ranges.items()},
            },
            "half_width_log": self.fitted.half_width,
            "interval_nominal": intervals.NOMINAL,
            "model": self.fitted.model.to_dict(),
            "scores": {split: dict(score) for split, score in self.scores.items()},
            "notes": list(self.notes),
        }
        return json.dumps(data, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Predictor:
        """A predictor from its JSON text. Raises ValueError where the text is none, or was written by another version."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"This is not a predictor: it is not JSON ({error}). Train one with `rooflake train`."
            ) from None
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise ValueError(
                f"This is not a predictor of format {FORMAT} (format: {found}). Train it again with `rooflake train`."
            )
        metric: Metric = data["metric"]
        if data["features"] != [*features.term_names(metric), *features.feature_names(metric)]:
            raise ValueError("This predictor was trained on other features. Train it again with `rooflake train`.")
        support = Support(
            {name: tuple(values) for name, values in data["support"]["categories"].items()},
            {name: (least, most) for name, (least, most) in data["support"]["ranges"].items()},
        )
        fitted = Fitted(metric, fitting.Model.from_dict(data["model"]), data["half_width_log"], support)
        return cls(
            data["predictor_id"],
            metric,
            data["method"],
            data["snapshot_id"],
            data["trained_at"],
            data["num_rows"],
            tuple(data["llm_ids"]),
            fitted,
            data["scores"],
            tuple(data["notes"]),
        )

    def save(self, path: Path) -> Path:
        """Write the JSON artifact whole or not at all; a folder gets `<predictor_id>.json`. Returns the file's path."""
        path = path / self.file_name if path.is_dir() else path
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(self.to_json() + "\n", encoding="utf-8")
        return temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Predictor:
        """Read a JSON artifact. Raises FileNotFoundError, or ValueError naming the file."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError) as error:
            raise ValueError(f"'{path.name}': {error}") from error


def predict(predictor: Predictor, rows: pa.Table) -> list[Prediction]:
    """Predict each row of a table with the configuration, analytical and LLM shape columns; see `features`."""
    rows = features.with_llm_shapes(rows)
    return predictor.fitted.predict(features.inputs(rows, predictor.metric), analytical(rows, predictor.metric))


def analytical(rows: pa.Table, metric: Metric) -> Array:
    """The analytical value beside a metric: the roofline bound of latency, the modelled peak of memory; shape (n,)."""
    return features.number(rows, "roofline_s" if metric == "latency_s" else "memory_peak_bytes")
