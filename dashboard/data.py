"""What pages read: named queries on a read-only lake, live or as of one snapshot."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pyarrow as pa

from dashboard.asking import Desk
from warehouse.store import Home, Store, StoreError, open_store, query_names, query_text

MAX_PINNED = 8
"""Snapshots kept open at once; the one unused for longest goes first."""


class Lake:
    """The lakehouse of one home folder, read only. Safe to share between the server's threads.

    A reader without a snapshot follows the lake: rows loaded while the dashboard runs are there at the next query. With a desk
    (`can_ask`) its pages may ask endpoints.
    """

    def __init__(self, home: Home | str | Path | None = None, *, can_ask: bool = False) -> None:
        self.home = home if isinstance(home, Home) else Home.of(home)
        self._live = open_store(self.home, read_only=True)
        self.desk = Desk(self.home) if can_ask else None
        self._pinned: OrderedDict[int, Store] = OrderedDict()
        self._lock = threading.Lock()

    def query(self, name: str, snapshot: str | int | None = None, **parameters: Any) -> pa.Table:
        """A named query. Raises StoreError for an unknown query, parameter or snapshot."""
        return self._store(snapshot).query(name, **parameters)

    def rows(self, name: str, snapshot: str | int | None = None, **parameters: Any) -> list[dict[str, Any]]:
        """A named query as dictionaries."""
        rows: list[dict[str, Any]] = self.query(name, snapshot, **parameters).to_pylist()
        return rows

    def snapshot_id(self) -> int:
        """Id of the newest snapshot."""
        return self._live.snapshot_id()

    def close(self) -> None:
        if self.desk is not None:
            self.desk.close()
        with self._lock:
            for store in (self._live, *self._pinned.values()):
                store.close()
            self._pinned.clear()

    def _store(self, snapshot: str | int | None) -> Store:
        if snapshot in (None, ""):
            return self._live
        try:
            number = int(str(snapshot))
        except ValueError:
            raise StoreError(
                f"'{snapshot}' is not a snapshot id: it is a number, the newest is {self.snapshot_id()}."
            ) from None
        with self._lock:
            if number not in self._pinned:
                if number < 0 or number > self.snapshot_id():
                    raise StoreError(
                        f"Snapshot {number} does not exist in this lake. The newest is {self.snapshot_id()}."
                    )
                self._pinned[number] = open_store(self.home, read_only=True, snapshot=number)
                if len(self._pinned) > MAX_PINNED:
                    self._pinned.popitem(last=False)
            self._pinned.move_to_end(number)
            return self._pinned[number]


def with_findings(lake: Lake, rows: pa.Table, snapshot: str | None) -> pa.Table:
    """Rows with what checks found about each: num_faults, and the first sentence or NULL."""
    run_ids = rows.column("run_id").to_pylist()
    found = {row["run_id"]: row for row in lake.rows("run_faults", snapshot, run_ids=run_ids)}
    faults = [found[run_id]["num_faults"] if run_id in found else 0 for run_id in run_ids]
    said = [found[run_id]["finding"] if run_id in found else None for run_id in run_ids]
    return rows.append_column("num_faults", pa.array(faults, pa.int64())).append_column(
        "finding", pa.array(said, pa.string())
    )


def parameters_of(name: str) -> dict[str, str]:
    """Parameters of a named query and the SQL type each is read as: {'llm_id': 'VARCHAR', 'hardware_ids': 'VARCHAR[]'}."""
    return dict(re.findall(r"\$([a-z_]+)::([A-Z]+(?:\[\])?)", query_text(name)))


def described(name: str) -> dict[str, Any]:
    """Purpose, grain and parameters of a named query, from its opening comment."""
    comment = " ".join(
        line.removeprefix("--").strip() for line in query_text(name).splitlines() if line.startswith("--")
    )
    parts = re.match(r"Purpose: (.*?) Grain: (.*?) Parameters: (.*)", comment)
    purpose, grain = (parts.group(1), parts.group(2)) if parts else (comment, "")
    return {"name": name, "purpose": purpose, "grain": grain, "parameters": parameters_of(name)}


def all_queries() -> list[dict[str, Any]]:
    """Every named query, described."""
    return [described(name) for name in query_names()]
