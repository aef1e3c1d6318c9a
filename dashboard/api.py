"""Rows as files: `/api/query/<name>.csv` and `.json` run a named query, `/api` lists them. Named queries only, read only.
`/traces/<file>` is the profiler trace of a run.

Parameters go in the query string, lists with commas (`hardware_ids=a6000,h100-sxm`), and `snapshot=N` reads the lake as it was then.
An error is JSON, {"error": "..."}, with status 404 for an unknown query and 400 for anything else wrong with the request.
"""

from __future__ import annotations

import io
import json
import math
from datetime import date, datetime
from pathlib import Path
from typing import Any

import flask
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from dashboard.data import Lake, all_queries, parameters_of
from warehouse.store import StoreError, query_names


def register(server: flask.Flask, lake: Lake) -> None:
    """Add the routes to a Flask server."""

    @server.get("/api")
    def index() -> flask.Response:
        return _json(
            {
                "snapshot_id": lake.snapshot_id(),
                "queries": all_queries(),
                "use": "/api/query/<name>.csv|json?parameter=value",
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
