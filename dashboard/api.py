"""Rows as files: `/api/query/<name>.csv` and `.json` run a named query, `/api` lists them. Named queries only, read only.
`/traces/<file>` is the profiler trace of a run.

`/api/predict` answers configurations. GET takes configuration columns, several values with commas as every combination
(`?llm_id=gpt2&hardware_id=t4,a6000&phase=prefill&input_tokens=512`); POST takes {"configurations": [{...}, ...]} and answers them in one
pass. Both take `metrics` and `snapshot`. What is left open of software and number formats is filled as it is usually run, and said.

Parameters go in the query string, lists with commas (`hardware_ids=a6000,h100-sxm`), and `snapshot=N` reads the lake as it was then.
An error is JSON, {"error": "..."}, with status 404 for an unknown query and 400 for anything else wrong with the request.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from datetime import date, datetime
from pathlib import Path
from typing import Any

import flask
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from dashboard import predicting
from dashboard.data import Lake, all_queries, parameters_of
from models.learned import answering
from warehouse.catalog import UnknownEntryError
from warehouse.metrics import BY_KEY
from warehouse.schema import RUNS
from warehouse.store import StoreError, query_names

MOST_ANSWERED = 20_000
"""Configurations that one request may ask for."""


def register(server: flask.Flask, lake: Lake) -> None:
    """Add the routes to a Flask server."""

    @server.get("/api")
    def index() -> flask.Response:
        return _json(
            {
                "snapshot_id": lake.snapshot_id(),
                "queries": all_queries(),
                "use": "/api/query/<name>.csv|json?parameter=value",
                "predict": "/api/predict?llm_id=...&hardware_id=...&phase=...&batch_size=1,8",
            }
        )

    @server.get("/traces/<path:name>")
    def trace(name: str) -> flask.Response:
        """The profiler's trace of a run: a file of <home>/traces that a run names, and no other."""
        if Path(name).name != name or not lake.rows("run_of_trace", trace=name):
            return _error(404, f"No run of this lake has a trace '{name}'.")
        if not (lake.home.traces / name).is_file():
            return _error(
                404, f"The trace '{name}' is not in {lake.home.path.name}/traces: it was not copied with its run."
            )
        return flask.send_from_directory(lake.home.traces, name, as_attachment=True)

    @server.get("/api/query/<name>.<extension>")
    def query(name: str, extension: str) -> flask.Response:
        if name not in query_names():
            return _error(
                404, f"'{name}' is not a named query. Known: {', '.join(query_names())}. /api describes them."
            )
        if extension not in ("csv", "json"):
            return _error(404, f"'{extension}' is not a format here. Known: csv, json.")
        try:
            table = lake.query(name, **arguments(name, flask.request.args.to_dict()))
        except StoreError as error:
            return _error(400, str(error))
        except Exception as error:  # a value SQL cannot read, said by DuckDB in its first line
            if type(error).__module__.partition(".")[0] not in ("duckdb", "_duckdb"):
                raise
            return _error(400, str(error).splitlines()[0])
        if extension == "json":
            return _json(as_json(table))
        return flask.Response(
            as_csv(table), mimetype="text/csv", headers={"Content-Disposition": f"attachment; filename={name}.csv"}
        )

    @server.route("/api/predict", methods=["GET", "POST"])
    def predict() -> flask.Response:
        try:
            configs, metrics, snapshot = _asked(flask.request)
            return _json(_predicted(lake, configs, metrics, snapshot))
        except UnknownEntryError as error:
            return _error(404, str(error.args[0]))
        except (StoreError, ValueError) as error:
            return _error(400, str(error))


def _asked(request: flask.Request) -> tuple[list[dict[str, Any]], list[str] | None, str | None]:
    """Configurations, metrics wanted (None for all) and snapshot of a request. Raises ValueError in a sentence."""
    if request.method == "GET":
        given = request.args.to_dict()
        snapshot, wanted = given.pop("snapshot", None), given.pop("metrics", None)
        configs = combinations(given)
        return configs, None if wanted is None else wanted.split(","), snapshot
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or not isinstance(body.get("configurations"), list):
        raise ValueError(
            'POST a JSON object: {"configurations": [{"llm_id": ..., "hardware_id": ..., "phase": ...}, ...]}.'
        )
    strange = sorted(set(body) - {"configurations", "metrics", "snapshot"})
    if strange or not all(isinstance(one, dict) for one in body["configurations"]):
        raise ValueError(
            f"The body holds configurations (a list of objects), metrics and snapshot, not {strange or 'other things'}."
        )
    wanted, snapshot = body.get("metrics"), body.get("snapshot")
    if wanted is not None and not (isinstance(wanted, list) and all(isinstance(one, str) for one in wanted)):
        raise ValueError('metrics is a list of names, such as ["latency_s"].')
    return body["configurations"], wanted, None if snapshot is None else str(snapshot)


def combinations(given: dict[str, str]) -> list[dict[str, Any]]:
    """Every combination of comma-separated values of configuration columns. Raises ValueError for another name or no number."""
    known = {name: RUNS.column(name).type for name in answering.CONFIGURATION}
    values: list[list[Any]] = []
    for name, text in given.items():
        if name not in known:
            raise ValueError(f"'{name}' is no column of a configuration. Known: {', '.join(known)}; metrics, snapshot.")
        values.append(
            [[text]] if pa.types.is_list(known[name]) else [_value(name, part, known[name]) for part in text.split(",")]
        )
    if math.prod(len(one) for one in values) > MOST_ANSWERED:
        raise ValueError(f"At most {MOST_ANSWERED:,} configurations are answered at a time.")
    return [dict(zip(given, one, strict=True)) for one in itertools.product(*values)]


def _value(name: str, text: str, kind: pa.DataType) -> Any:
    try:
        return int(text) if pa.types.is_integer(kind) else float(text) if pa.types.is_floating(kind) else text
    except ValueError:
        raise ValueError(f"{name} must be a number, not '{text}'.") from None


def _predicted(
    lake: Lake, configs: list[dict[str, Any]], metrics: list[str] | None, snapshot: str | None
) -> dict[str, Any]:
    """Answers, one a configuration and metric, and what was assumed."""
    if not configs or len(configs) > MOST_ANSWERED:
        raise ValueError(f"1 to {MOST_ANSWERED:,} configurations are answered at a time, not {len(configs):,}.")
    for row, config in enumerate(configs):
        absent = [name for name in ("llm_id", "hardware_id", "phase") if config.get(name) is None]
        if absent:
            raise ValueError(f"Configuration {row} has no {', '.join(absent)}.")
        wordless = [name for name in ("llm_id", "hardware_id", "phase") if not isinstance(config[name], str)]
        if wordless:
            raise ValueError(f"{', '.join(wordless)} of configuration {row} must be text.")
    strange = sorted(set(metrics or ()) - set(BY_KEY))
    if strange:
        raise ValueError(f"{', '.join(strange)}: no metric. Known: {', '.join(BY_KEY)}.")
    ways, known = lake.rows("usual_ways", snapshot), predicting.known(lake, snapshot)
    whole = [answering.filled(answering.canonical(config, known), ways) for config in configs]
    answered = answering.answer(answering.configurations(whole), known, only=metrics)
    added = [
        {name: value for name, value in full.items() if config.get(name) is None}
        for config, full in zip(configs, whole, strict=True)
    ]
    return {
        "snapshot_id": lake.snapshot_id() if snapshot in (None, "") else snapshot,
        "num_configurations": len(configs),
        "assumed": [{"config_row": row, **one} for row, one in enumerate(added) if one],
        "predictors": {
            key: {"predictor_id": one.predictor_id, "trained_at": one.trained_at}
            for key, one in known.predictors.items()
        },
        "answers": as_json(answered.sheet()),
    }


def arguments(name: str, given: dict[str, str]) -> dict[str, Any]:
    """The query string as parameters of a named query. Raises StoreError for one it does not have."""
    known = parameters_of(name)
    unknown = sorted(set(given) - set(known) - {"snapshot"})
    if unknown:
        raise StoreError(
            f"Query '{name}' has no parameter {', '.join(unknown)}. Known: {', '.join(sorted(known)) or 'none'}, snapshot."
        )
    values: dict[str, Any] = {"snapshot": given.get("snapshot")}
    for key, value in given.items():
        if key in known and value != "":
            values[key] = value.split(",") if known[key].endswith("[]") else value
    return values


def as_csv(table: pa.Table) -> bytes:
    """CSV with a header; NULL is empty, lists and maps are JSON."""
    columns = [
        pa.array([None if value is None else json.dumps(value, default=_plain) for value in column.to_pylist()], pa.string())
        if pa.types.is_nested(column.type)
        else column.cast(pa.string()) if pa.types.is_timestamp(column.type) else column
        for column in table.columns
    ]  # fmt: skip
    buffer = io.BytesIO()
    pa_csv.write_csv(pa.table(columns, names=table.column_names), buffer)
    return buffer.getvalue()


def as_json(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON objects; NULL, NaN and infinities are null."""
    columns = [
        pc.if_else(pc.is_finite(column), column, None) if pa.types.is_floating(column.type) else column
        for column in table.columns
    ]
    rows: list[dict[str, Any]] = pa.table(columns, names=table.column_names).to_pylist()
    return rows


def _json(value: Any) -> flask.Response:
    return flask.Response(json.dumps(value, default=_plain, allow_nan=False), mimetype="application/json")


def _error(status: int, sentence: str) -> flask.Response:
    response = _json({"error": sentence})
    response.status_code = status
    return response


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value)
