"""A paper's TOML transcription -> rows of the warehouse.

Figures are strings exactly as printed. A table is transcribed as a grid (`keys`, `groups`, `cells`, `rows`: one run per row
and group) or as `runs` (`figures` and `ops`: one run each). Where a figure goes is written `column [unit]`, a column of
`runs`; a figure without a column goes to `samples` as `paper:<its label>`, with its value and unit as printed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from warehouse import metrics, schema

FOLDER = Path(__file__).parent
AGAIN = " (again)"
"""Ends the cell of a row that the table prints a second time under the same labels."""

Row = dict[str, Any]
Rows = dict[str, Any]
"""Table name -> rows; beside them `claims`, rules that a paper's text states (with source_id), and `at`, its date: neither lands."""

_SCALES = {
    "": "1", "tokens/s": "1", "tokens/sec": "1", "s": "1", "ms": "1e-3", "%": "1e-2", "K": "1e3", "M": "1e6", "G": "1e9",
    "GB": "1e9",
}  # fmt: skip
_TABLES = ("sources", "environments", "runs", "ops", "samples", "predictors", "predictor_scores")


def papers() -> list[str]:
    """Source ids of the papers transcribed here."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(source: str) -> Rows:
    """Every row of one paper, unchecked. Raises LookupError for a paper that is not transcribed."""
    if source not in papers():
        raise LookupError(
            f"'{source}' is not a transcribed paper. Known: {', '.join(papers())}. Add it as collectors/published/{source}.toml."
        )
    with (FOLDER / f"{source}.toml").open("rb") as file:
        paper = tomllib.load(file)
    at = datetime.combine(paper["published_at"], datetime.min.time(), UTC)
    rows: Rows = {name: [] for name in (*_TABLES, "claims")} | {"at": at}
    environments = {label: _environment(entry) for label, entry in paper.get("environments", {}).items()}
    rows["environments"].extend(environments.values())
    for table in paper["tables"]:
        rows["sources"].append(_source(paper, table))
        rows["claims"].append({"source_id": f"{source}/{table['id']}", **table.get("claims", {})})
        reader = _Reader(paper, table, environments, rows)
        reader.read_grid()
        for entry in table.get("runs", ()):
            reader.read_run(entry)
        for entry in table.get("predictors", ()):
            reader.read_predictor(entry)
    return rows


def scaled(printed: str, unit: str) -> float:
    """A printed figure in SI: scaled('13.6', 'G') is 13.6e9, the nearest double; '58.', '.07' and '65 tokens/sec' are figures too."""
    return float(_number(printed.removesuffix(unit)) * Decimal(_SCALES[unit]))


def _number(printed: str) -> Decimal:
    try:
        return Decimal(printed.strip())
    except InvalidOperation:
        raise ValueError(
            f"'{printed}' is not a figure. Write it as the paper prints it, with ± before a standard deviation."
        ) from None


def _source(paper: Mapping[str, Any], table: Mapping[str, Any]) -> Row:
    return {
        "source_id": f"{paper['source']}/{table['id']}",
        "title": paper["title"],
        "kind": "paper",
        "authors": paper["authors"],
        "published_at": paper["published_at"].isoformat(),
        "locator": table["locator"],
        "url": paper.get("url"),
        "note": table.get("note"),
    }


def _environment(entry: Row) -> Row:
    return {"environment_id": schema.digest("published", entry), **entry}


class _Reader:
    """Reads one table of a paper into `rows`."""

    def __init__(self, paper: Row, table: Row, environments: Mapping[str, Row], rows: Rows) -> None:
        self.paper = paper
        self.table = table
        self.environments = environments
        self.rows = rows
        self.source_id = f"{paper['source']}/{table['id']}"
        self.at = rows["at"]
        self.cells: set[str] = set()

    def read_grid(self) -> None:
        keys, cells, groups = (self.table.get(name, []) for name in ("keys", "cells", "groups"))
        for row in self.table.get("rows", ()):
            labels, printed = row[: len(keys)], row[len(keys) :]
            named = dict(zip(keys, labels, strict=True))
            for index, group in enumerate(groups or [None]):
                figures = printed[index * len(cells) : (index + 1) * len(cells)]
                entry: Row = {
                    "cell": " / ".join([*labels, group] if group else labels),
                    "labels": [label for key, label in named.items() if key not in schema.CONFIGURATION_NAMES],
                    "config": {key: int(label) for key, label in named.items() if key in schema.CONFIGURATION_NAMES},
                    "figures": [[cell, figure, cell] for cell, figure in zip(cells, figures, strict=True)],
                }
                entry["labels"] += [group] if group else []
                self.read_run(entry)

    def read_run(self, entry: Row) -> None:
        """One run with its ops and samples. Out-of-memory marks in every figure make its status."""
        run = self._new_run(entry)
        self.rows["runs"].append(run)
        figures = entry.get("figures", [])
        mark = self.paper.get("oom_mark")
        if figures and all(printed == mark for _, printed, _ in figures):
            run["status"] = "oom"
            run["num_samples"] = None
            run["status_detail"] = _joined(f"printed '{mark}': out of memory", run["status_detail"])
        else:
            for label, printed, target in figures:
                self._place(run, label, printed, target)
        definitions = self.table.get("definitions", {})
        run["metric_definitions"] = {name: text for name, text in definitions.items() if run.get(name) is not None}
        run["config_id"] = schema.config_id(run)
        for index, op in enumerate(entry.get("ops", ())):
            self._read_op(run, index, op)

    def read_predictor(self, entry: Row) -> None:
        predictor_id = schema.digest("published", self.source_id, entry["cell"])
        described = {name: self.table[name] for name in ("method", "features", "llm_ids", "hardware_ids")}
        self.rows["predictors"].append(
            {
                "predictor_id": predictor_id,
                "name": entry["name"],
                "metric": entry["metric"],
                "is_baseline": True,
                "source_id": self.source_id,
                "trained_at": self.at,
                **described,
            }
        )
        scores = {name: scaled(text, "" if name == "r2" else entry["unit"]) for name, text in entry["scores"].items()}
        self.rows["predictor_scores"].append(
            {"predictor_id": predictor_id, "split": "as_published", "fold": "all", **scores}
        )

    def _new_run(self, entry: Row) -> Row:
        cell = entry["cell"] + (AGAIN if entry["cell"] in self.cells else "")
        self.cells.add(cell)
        run = {
            "run_id": schema.digest("published", self.source_id, cell),
            "collector": "published",
            "source_kind": "published",
            "source_id": self.source_id,
            "source_cell": cell,
            "quality_tier": 0,
            "collected_at": self.at,
            "status": entry.get("status", "ok"),
            "status_detail": _joined(self.table.get("detail"), entry.get("detail")),
            "is_excluded": False,
            "optimizations": [],
        }
        self._apply(run, self.table.get("config", {}))
        for label in [*self.table.get("labels", ()), *entry.get("labels", ())]:
            for part in [label] if label in self.paper["values"] else label.split("+"):
                self._apply(run, self.paper["values"][part])
        self._apply(run, entry.get("config", {}))
        if split := run.pop("split", None):
            run[split] = run["num_devices"]
        if environment := run.pop("environment", None):
            run["environment_id"] = self.environments[environment]["environment_id"]
        return run

    def _apply(self, run: Row, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            run[name] = sorted({*run[name], *value}) if name == "optimizations" else value

    def _place(self, run: Row, label: str, printed: str, target: str) -> None:
        """One printed figure into its column, the subscript after ± into the column of its standard deviation."""
        if target in schema.CONFIGURATION_NAMES:
            run[target] = int(printed)
            return
        match = re.fullmatch(r"(\w+) \[(.*)\]", target)
        if match is None:
            self._sample(run, label, printed, unit=target)
            return
        column, unit = match.groups()
        value, _, deviation = printed.partition(" ±")
        run[column] = scaled(value, unit)
        if deviation:
            run[metrics.metric(column).column("std")] = scaled(deviation, unit)

    def _read_op(self, run: Row, index: int, entry: Row) -> None:
        figures = {name: entry[name] for name in entry if name.partition("_")[0] in ("time", "device", "percentage")}
        op = {name: value for name, value in entry.items() if name not in (*figures, "label")}
        op = {"run_id": run["run_id"], "op_index": index, "phase": None, "count": 1, **op}
        for name, printed in figures.items():
            if name == "percentage":
                self._sample(run, f"percentage of {entry['label']}", printed, unit="%")
            else:
                column, _, unit = name.rpartition("_")
                op[f"{column}_s"] = scaled(printed, unit) / op["count"]
        self.rows["ops"].append(op)

    def _sample(self, run: Row, label: str, printed: str, unit: str) -> None:
        self.rows["samples"].append(
            {
                "run_id": run["run_id"],
                "metric": f"paper:{label}",
                "sample_index": 0,
                "sample_phase": "measured",
                "value": float(_number(printed)),
                "unit": unit,
                "flags": [],
            }
        )


def _joined(*texts: str | None) -> str | None:
    return "; ".join(text for text in dict.fromkeys(texts) if text) or None
