"""The lakehouse: attach, load, query, snapshot, maintain. The only module that imports duckdb.

DuckLake keeps the rows as Parquet under `<home>/lake/` and its transactions in `<home>/catalog.sqlite` (by configuration a
PostgreSQL catalogue and object storage instead). Writers and readers are separate connections, usually separate processes.
Loading is exactly once: a file's SHA-256 is in `loads` from the transaction that stored its rows.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
from filelock import FileLock

from warehouse import catalog, parquet, schema

SQL = Path(__file__).parent / "sql"
CATALOGUES = ("hardware", "llms", "prices")
"""Tables that the TOML catalogue fills at every load; its own entries win over landed ones."""
ENTRY_TABLES = (*CATALOGUES, "sources", "findings", "lints")
"""Tables of entries: a landed entry replaces the one of the same id. Every other table refuses different content for a key."""
ROWS_PER_TRANSACTION = 1_000_000
RETRY_S = 60.0
SETTLED_S = 1.0
"""A file this old that cannot be read will not become readable: nobody is writing it."""
_CONFLICT = re.compile(r"failed to commit|database is locked|conflict|disk i/o error", re.IGNORECASE)

T = TypeVar("T")


class StoreError(RuntimeError):
    """The lakehouse cannot do what was asked; the message says what, why, and where to fix it."""


@dataclass(frozen=True)
class Home:
    """Where a lakehouse lives. Two fields move it to scale: a `postgres:` catalogue and an `s3://` data path."""

    path: Path
    catalog: str | None = None
    data_path: str | None = None

    @classmethod
    def of(cls, path: str | Path | None = None) -> Home:
        """The home folder asked for, else `ROOFLAKE_HOME`, else ./rooflake-data; catalogue and data path likewise."""
        chosen = path if path is not None else os.environ.get("ROOFLAKE_HOME", "rooflake-data")
        return cls(Path(chosen).resolve(), os.environ.get("ROOFLAKE_CATALOG"), os.environ.get("ROOFLAKE_DATA_PATH"))

    @property
    def landing(self) -> Path:
        return self.path / "landing"

    @property
    def quarantine(self) -> Path:
        return self.path / "quarantine"

    @property
    def predictors(self) -> Path:
        return self.path / "predictors"

    @property
    def traces(self) -> Path:
        return self.path / "traces"

    @property
    def exists(self) -> bool:
        return self.catalog is not None or (self.path / "catalog.sqlite").exists()

    def prepare(self) -> None:
        """Make the folders. Raises StoreError where they cannot be written."""
        try:
            for folder in (
                self.landing,
                self.quarantine,
                self.path / "lake",
                self.predictors,
                self.traces,
                self.path / "exports",
            ):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}-{threading.get_ident()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"The home folder '{self.path}' cannot be written ({error.strerror}). "
                "Choose another with --home DIR or the variable ROOFLAKE_HOME."
            ) from error

    def attach_statement(self, *, read_only: bool, snapshot: int | None) -> str:
        target = self.catalog if self.catalog is not None else f"sqlite:{self.path / 'catalog.sqlite'}"
        data_path = self.data_path if self.data_path is not None else f"{self.path / 'lake'}/"
        # a home folder that was moved or copied is still one lakehouse: its files are found where it lies now
        options = [f"DATA_PATH {_literal(data_path)}", "OVERRIDE_DATA_PATH true", "DATA_INLINING_ROW_LIMIT 0"]
        if self.catalog is None:
            options += ["META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 5000"]
        if read_only:
            options.append("READ_ONLY")
        if snapshot is not None:
            options.append(f"SNAPSHOT_VERSION {int(snapshot)}")
        return f"ATTACH IF NOT EXISTS {_literal('ducklake:' + target)} AS lake ({', '.join(options)})"


@dataclass
class LoadReport:
    """What one load did: files and new rows by table, files that were there already, files refused and why."""

    new_rows: dict[str, int] = field(default_factory=dict)
    num_loaded: int = 0
    num_duplicate: int = 0
    num_waiting: int = 0
    num_strays: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = ", ".join(f"{count} {name}" for name, count in sorted(self.new_rows.items()) if count)
        parts = [f"{self.num_loaded} files loaded ({rows or 'nothing new'})"]
        if self.num_duplicate:
            parts.append(f"{self.num_duplicate} already there")
        if self.num_waiting:
            parts.append(f"{self.num_waiting} waiting (for their runs file, or for their writer to finish)")
        if self.num_strays:
            parts.append(f"{self.num_strays} left alone (not under landing/<table>/)")
        if self.quarantined:
            parts.append(f"{len(self.quarantined)} quarantined")
        return ", ".join(parts) + "."


class Store:
    """An open lakehouse. Use `open_store`; close it, or use it as a context manager. Safe to share between threads."""

    def __init__(self, home: Home, *, read_only: bool, snapshot: int | None = None) -> None:
        self.home = home
        self.read_only = read_only
        self.pinned_snapshot = snapshot
        self._lock = threading.Lock()
        self._open()

    def _open(self) -> None:
        self._local = threading.local()
        self._connection = _connect()
        _retry(self._attach)
        self._prepare(self._connection)
        self._local.cursor = self._connection

    def _reopen(self, broken: duckdb.DuckDBPyConnection) -> None:
        """An internal error of DuckDB spoils its whole database: attach the lake in a new one, once for all threads."""
        with self._lock:
            if self._connection is broken:
                self._open()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    # reading ----------------------------------------------------------------------------------------------------------

    def query(self, name: str, **parameters: Any) -> pa.Table:
        """A named query of warehouse/sql/queries as an Arrow table; parameters not given are NULL.

        Raises StoreError for an unknown query or parameter, listing the known ones.
        """
        text = query_text(name)
        known = set(re.findall(r"\$([a-z_]+)", text))
        unknown = sorted(set(parameters) - known)
        if unknown:
            raise StoreError(f"Query '{name}' has no parameter {unknown}. Known: {', '.join(sorted(known)) or 'none'}.")
        return self._fetch(text, {key: parameters.get(key) for key in known})

    def sql(self, text: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Our own SELECT as an Arrow table. For SQL somebody typed use `open_for_people`."""
        return self._fetch(text, dict(parameters or {}))

    def snapshot_id(self) -> int:
        """Id of the snapshot a reader sees now."""
        return int(self._fetch("SELECT id FROM lake.current_snapshot()", {}).column("id")[0].as_py())

    def _fetch(self, text: str, parameters: dict[str, Any]) -> pa.Table:
        def run() -> pa.Table:
            cursor = self._cursor()
            relation = cursor.sql(text, params=parameters or None)
            return relation.to_arrow_table() if relation is not None else pa.table({})

        connection = self._connection
        try:
            try:
                return _retry(run)
            except (duckdb.FatalException, duckdb.InternalException):
                if not self.read_only:
                    raise
                self._reopen(connection)
                return _retry(run)
        except duckdb.Error as error:
            raise StoreError(f"The lakehouse in '{self.home.path}' cannot answer: {_first_lines(error)}") from error

    # writing ----------------------------------------------------------------------------------------------------------

    def load(self, report: Callable[[str], None] | None = None) -> LoadReport:
        """Load every landing file exactly once; bad ones go to quarantine with the reason. Waits for another load to end."""
        if self.read_only:
            raise StoreError("This lakehouse is open for reading only. Open it for writing to load.")
        result = LoadReport(num_strays=self._count_strays())
        try:
            with FileLock(self.home.path / ".load.lock"):
                _retry(lambda: self._in_transaction(self._sync_catalog))
                self._take_traces()
                for batches in _grouped(self._ready(result)):
                    # re-read on a retry: a commit whose answer was lost is a commit
                    _retry(partial(self._load_unloaded, batches, result))
                    if report is not None:
                        report(str(result))
        except duckdb.Error as error:
            raise StoreError(
                f"The load stopped, nothing is lost: what is not in the lake is still in landing. {_first_lines(error)}"
            ) from error
        return result

    def forget(self, source_id: str) -> dict[str, int]:
        """Take an imported source out: its runs, what belongs to them, its findings. Returns table -> rows taken out.

        The record that its files were loaded goes too, so that they may come again; earlier snapshots keep everything. Raises
        StoreError where no imported run has the source.
        """
        if self.read_only:
            raise StoreError("This lakehouse is open for reading only. Open it for writing to forget a source.")
        parameters = {"source": source_id}
        runs = "SELECT run_id FROM lake.runs WHERE source_id = $source AND starts_with(collector, 'from_')"
        if not self._rows(f"{runs} LIMIT 1", parameters):
            known = self._rows(
                "SELECT DISTINCT source_id FROM lake.runs WHERE starts_with(collector, 'from_') ORDER BY 1"
            )
            raise StoreError(
                f"No imported run has the source '{source_id}'. Imported: {', '.join(row['source_id'] for row in known) or 'none'}."
            )
        tables = [*schema.OF_A_RUN, "runs"]
        count: dict[str, int] = {}

        def work() -> None:
            cursor = self._cursor()
            hashes = " UNION ".join(f"SELECT file_hash FROM lake.{name} WHERE run_id IN ({runs})" for name in tables)
            cursor.execute(f"DELETE FROM lake.loads WHERE file_hash IN ({hashes})", parameters)
            for name in tables:
                (row,) = cursor.execute(f"DELETE FROM lake.{name} WHERE run_id IN ({runs})", parameters).fetchall()
                count[name] = row[0]
            left = "SELECT source_id FROM lake.runs"
            for name in ("findings", "sources"):
                cursor.execute(
                    f"DELETE FROM lake.{name} WHERE source_id = $source AND source_id NOT IN ({left})", parameters
                )

        try:
            with FileLock(self.home.path / ".load.lock"):
                _retry(lambda: self._in_transaction(work))
        except duckdb.Error as error:
            raise StoreError(
                f"'{source_id}' was not forgotten, all of it is still there. {_first_lines(error)}"
            ) from error
        return {name: rows for name, rows in count.items() if rows}

    def compact(self) -> None:
        """Merge small data files. Every snapshot still shows what it showed; files merged a day ago are deleted."""
        _retry(lambda: self._cursor().execute("CALL lake.merge_adjacent_files()").fetchall())
        cleanup = "CALL ducklake_cleanup_old_files('lake', older_than => now() - INTERVAL 1 DAY)"
        _retry(lambda: self._cursor().execute(cleanup).fetchall())

    def _take_traces(self) -> None:
        """Move profiler traces out of landing/traces to the home's: a run's row names its file."""
        for path in (self.home.landing / "traces").glob("[!.]*"):
            path.replace(self.home.traces / path.name)

    def _ready(self, result: LoadReport) -> Iterator[_Batch]:
        """Batches that are complete. A file that was refused before is tried again: what it lacked may be there now."""
        by_name: dict[str, list[_File]] = {}
        for table_name in schema.TABLES:
            for path in sorted((self.home.landing / table_name).glob("*.parquet")):
                if not path.name.startswith("."):
                    by_name.setdefault(path.stem, []).append(_File.of(table_name, path))
        loaded = self._rows("SELECT file_hash, file_name, table_name FROM loads WHERE outcome = 'loaded'")
        hashes = {row["file_hash"] for row in loaded}
        with_runs = {Path(row["file_name"]).stem for row in loaded if row["table_name"] == "runs"}
        for name, files in by_name.items():
            has_runs = name in with_runs or any(file.table_name == "runs" for file in files)
            fresh = []
            for file in files:
                if file.hash in hashes:
                    file.remove()
                    result.num_duplicate += 1
                elif file.table_name in schema.OF_A_RUN and not has_runs:
                    result.num_waiting += 1
                else:
                    fresh.append(file)
            if fresh:
                yield _Batch(name, fresh)

    def _load_unloaded(self, batches: list[_Batch], result: LoadReport) -> None:
        """Load the batches, less the files that an earlier try has committed."""
        hashes = [file.hash for batch in batches for file in batch.files]
        done = self._rows(
            "SELECT file_hash FROM loads WHERE outcome = 'loaded' AND list_contains($hashes, file_hash)",
            {"hashes": hashes},
        )
        committed = {row["file_hash"] for row in done}
        for batch in batches:
            for file in batch.files:
                if file.hash in committed:
                    file.remove()
                    result.num_loaded += 1
            batch.files = [file for file in batch.files if file.hash not in committed]
        self._load_batches([batch for batch in batches if batch.files], result)

    def _count_strays(self) -> int:
        """Files in landing that no table claims."""
        landing = self.home.landing
        return sum(
            path.parent.parent != landing or path.parent.name not in schema.TABLES
            for path in landing.rglob("*.parquet")
        )

    def _load_batches(self, batches: list[_Batch], result: LoadReport) -> None:
        """One transaction: every batch that passes, and the record of every one that does not."""
        accepted, refused = [], []
        for batch in batches:
            try:
                batch.read()
            except parquet.ContractError as error:
                if batch.is_being_written(error):
                    result.num_waiting += len(batch.files)
                else:
                    refused.append((batch, str(error)))
            else:
                accepted.append(batch)
        if not accepted and not refused:
            return
        cursor = self._cursor()
        while True:
            cursor.execute("BEGIN")
            try:
                conflicts = self._insert(accepted) if accepted else {}
                if not conflicts:
                    new_rows = self._record(accepted, refused)
                    cursor.execute("COMMIT")
                    break
                cursor.execute("ROLLBACK")
            except BaseException:
                _rollback(cursor)
                raise
            refused += [(batch, conflicts[batch.name]) for batch in accepted if batch.name in conflicts]
            accepted = [batch for batch in accepted if batch.name not in conflicts]
        self._clear(accepted, refused, result)
        for table_name, count in new_rows.items():
            result.new_rows[table_name] = result.new_rows.get(table_name, 0) + count

    def _clear(self, accepted: list[_Batch], refused: list[tuple[_Batch, str]], result: LoadReport) -> None:
        """After the commit: loaded files go, refused ones move to quarantine."""
        for batch in accepted:
            for file in batch.files:
                file.remove()
                result.num_loaded += 1
        for batch, reason in refused:
            for file in batch.files:
                self._quarantine(file, reason)
                result.quarantined[file.name] = reason

    def _insert(self, batches: list[_Batch]) -> dict[str, str]:
        """Stage and insert; returns batch name -> reason where rows contradict what is there (nothing is to be committed)."""
        conflicts: dict[str, str] = {}
        staged: dict[str, list[pa.Table]] = {}
        for batch in batches:
            for file, rows in batch.rows:
                lineage = pa.table(
                    {"file_hash": [file.hash] * rows.num_rows, "batch_name": [batch.name] * rows.num_rows}
                )
                staged.setdefault(file.table_name, []).append(
                    pa.table([*rows.columns, *lineage.columns], names=[*rows.column_names, *lineage.column_names])
                )
        for table_name in sorted(staged, key=lambda name: (name not in ENTRY_TABLES, name)):
            self._stage(pa.concat_tables(staged[table_name]))
            if table_name in ENTRY_TABLES:
                self._upsert(schema.table(table_name))
            else:
                conflicts |= self._contradictions(schema.table(table_name))
                if table_name == "runs":
                    conflicts |= self._unknown_references()
                if not conflicts:
                    self._append(schema.table(table_name))
        return conflicts

    def _append(self, table: schema.Table) -> None:
        """Insert the stage; a key that is there already has the same content and stays one row."""
        using = ", ".join(table.key)
        rows = f"(SELECT DISTINCT ON ({using}) * FROM stage) ANTI JOIN lake.{table.name} USING ({using})"
        if not self._repeats(table):
            rows = "stage"
        self._cursor().execute(f"INSERT INTO lake.{table.name} BY NAME SELECT * EXCLUDE (batch_name) FROM {rows}")

    def _repeats(self, table: schema.Table) -> bool:
        """Does the stage hold a key that the lake has, or one key twice? Rare, and everything costly is only for it."""
        using = ", ".join(table.key)
        (row,) = self._rows(
            f"SELECT EXISTS (SELECT 1 FROM stage SEMI JOIN lake.{table.name} USING ({using})) "
            f"OR (SELECT count(DISTINCT batch_name) FROM stage) > 1 "
            f"AND EXISTS (SELECT 1 FROM stage GROUP BY {using} HAVING count(*) > 1) AS found"
        )
        return bool(row["found"])

    def _stage(self, rows: pa.Table) -> None:
        """Put rows into the temporary table `stage`."""
        cursor = self._cursor()
        cursor.register("staged", rows)
        cursor.execute("CREATE OR REPLACE TEMP TABLE stage AS SELECT * FROM staged")
        cursor.unregister("staged")

    def _upsert(self, table: schema.Table) -> None:
        """Landed entries: the catalogue's own stay as they are, one of each other id is taken."""
        (key,) = table.key
        cursor = self._cursor()
        if table.name in CATALOGUES:
            own = [row[key] for row in catalog.rows(table.name)]
            cursor.execute(f"DELETE FROM stage WHERE list_contains(?, {key})", [own])
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE stage AS SELECT DISTINCT ON ({key}) * EXCLUDE (batch_name) FROM stage"
        )
        self._replace_entries(table)

    def _replace_entries(self, table: schema.Table) -> None:
        """Let staged entries take the place of those of the same id that differ."""
        (key,) = table.key
        cursor = self._cursor()
        cursor.execute(
            f"DELETE FROM stage USING lake.{table.name} AS old WHERE stage.{key} = old.{key} AND NOT ({_differs(table)})"
        )
        if self._rows("SELECT count(*) AS n FROM stage")[0]["n"]:
            cursor.execute(f"DELETE FROM lake.{table.name} WHERE {key} IN (SELECT {key} FROM stage)")
            cursor.execute(f"INSERT INTO lake.{table.name} BY NAME SELECT * FROM stage")

    def _contradictions(self, table: schema.Table) -> dict[str, str]:
        """Rows of a known key with different content, in the lake or within the stage: batch name -> reason."""
        if not self._repeats(table):
            return {}
        using = ", ".join(table.key)
        label = "concat_ws(', ', " + ", ".join(f"stage.{key}" for key in table.key) + ")"
        against_lake = f"""
            SELECT stage.batch_name, any_value({label}) AS label, any_value(loads.file_name) AS other
            FROM stage JOIN lake.{table.name} AS old USING ({using}) LEFT JOIN lake.loads ON loads.file_hash = old.file_hash
            WHERE {_differs(table)} GROUP BY ALL"""
        within = f"""
            SELECT stage.batch_name, any_value({label}) AS label, any_value(old.batch_name) AS other
            FROM stage JOIN stage AS old USING ({using})
            WHERE stage.rowid > old.rowid AND ({_differs(table)}) GROUP BY ALL"""
        return {
            row[
                "batch_name"
            ]: f"{table.name} ({row['label']}) of '{row['batch_name']}' contradicts the row of the same key from "
            f"'{row['other']}'. The same key must have the same content; give the new measurement a new run_id."
            for query in (against_lake, within)
            for row in self._rows(query)
        }

    def _unknown_references(self) -> dict[str, str]:
        """Runs of an LLM or device that no catalogue holds: batch name -> reason."""
        conflicts = {}
        for column, table_name in (("llm_id", "llms"), ("hardware_id", "hardware")):
            for row in self._rows(
                f"SELECT DISTINCT batch_name, {column} AS id FROM stage ANTI JOIN lake.{table_name} USING ({column}) WHERE {column} IS NOT NULL"
            ):
                known = [
                    entry["id"] for entry in self._rows(f"SELECT {column} AS id FROM lake.{table_name} ORDER BY 1")
                ]
                conflicts[row["batch_name"]] = (
                    f"'{row['id']}' is not in the {'LLM' if table_name == 'llms' else 'hardware'} catalogue. Known: {', '.join(known)}. "
                    f"Add it in warehouse/catalog/{table_name}.toml, or land a `{table_name}` row with the run."
                )
        return conflicts

    def _record(self, accepted: list[_Batch], refused: list[tuple[_Batch, str]]) -> dict[str, int]:
        """Write `loads`, in place of what it said of the same content before; returns new rows by table."""
        now = datetime.now(UTC)
        records, totals = [], dict[str, int]()
        for table_name in sorted({file.table_name for batch in accepted for file in batch.files}):
            files = {
                file.hash: (file, rows)
                for batch in accepted
                for file, rows in batch.rows
                if file.table_name == table_name
            }
            counted = self._rows(
                f"SELECT file_hash, count(*) AS n FROM lake.{table_name} WHERE list_contains($hashes, file_hash) GROUP BY 1",
                {"hashes": list(files)},
            )
            new_rows = {row["file_hash"]: row["n"] for row in counted}
            totals[table_name] = sum(new_rows.values())
            records += [
                file.record(now, "loaded", rows.num_rows, new_rows.get(hash_, 0))
                for hash_, (file, rows) in files.items()
            ]
        for batch, reason in refused:
            records += [file.record(now, "quarantined", None, 0, reason) for file in batch.files]
        cursor = self._cursor()
        cursor.register("staged", parquet.check("loads", list({row["file_hash"]: row for row in records}.values())))
        cursor.execute("DELETE FROM lake.loads WHERE file_hash IN (SELECT file_hash FROM staged)")
        cursor.execute("INSERT INTO lake.loads BY NAME SELECT * FROM staged")
        cursor.unregister("staged")
        return totals

    def _quarantine(self, file: _File, reason: str) -> None:
        folder = self.home.quarantine / file.table_name
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{file.path.stem}.{file.hash[:8]}.parquet"
        target.with_suffix(".reason.txt").write_text(reason + "\n", encoding="utf-8")
        if file.is_unchanged:
            file.path.replace(target)

    # attaching --------------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        if self.read_only:
            self._connection.execute(self.home.attach_statement(read_only=True, snapshot=self.pinned_snapshot))
            return
        self.home.prepare()
        with FileLock(self.home.path / ".load.lock"):
            self._connection.execute(self.home.attach_statement(read_only=False, snapshot=None))
            self._local.cursor = self._connection
            self._in_transaction(self._create_tables)

    def _create_tables(self) -> None:
        existing: dict[str, set[str]] = {}
        for table_name, column in self._connection.sql(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake'"
        ).fetchall():
            existing.setdefault(table_name, set()).add(column)
        for table in schema.TABLES.values():
            columns = _lake_columns(table)
            if table.name not in existing:
                body = ", ".join(f"{name} {kind}" for name, kind in columns.items())
                self._connection.execute(f"CREATE TABLE lake.{table.name} ({body})")
                for column in table.columns:
                    self._connection.execute(
                        f"COMMENT ON COLUMN lake.{table.name}.{column.name} IS {_literal(column.doc)}"
                    )
                continue
            for name, kind in columns.items():
                if name not in existing[table.name]:
                    self._connection.execute(f"ALTER TABLE lake.{table.name} ADD COLUMN {name} {kind}")

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("USE lake")
        for path in sorted((SQL / "views").glob("*.sql")):
            connection.execute(f"CREATE OR REPLACE TEMP VIEW {path.stem} AS {path.read_text(encoding='utf-8')}")

    def _sync_catalog(self) -> None:
        for table_name in CATALOGUES:
            self._stage(parquet.check(table_name, catalog.rows(table_name)))
            self._replace_entries(schema.table(table_name))

    def _in_transaction(self, work: Callable[[], None]) -> None:
        cursor = self._cursor()
        cursor.execute("BEGIN")
        try:
            work()
            cursor.execute("COMMIT")
        except BaseException:
            _rollback(cursor)
            raise

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        if not hasattr(self._local, "cursor"):
            self._local.cursor = self._connection.cursor()
            self._prepare(self._local.cursor)
        return self._local.cursor

    def _rows(self, text: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        return self._cursor().sql(text, params=dict(parameters) if parameters else None).to_arrow_table().to_pylist()


def open_store(home: Home | str | Path | None = None, *, read_only: bool = False, snapshot: int | None = None) -> Store:
    """Open a lakehouse, creating it on first use unless read_only.

    Raises StoreError where a reader finds none, where the folder cannot be written, or where the snapshot does not exist.
    """
    home = home if isinstance(home, Home) else Home.of(home)
    if home.path.exists() and not home.path.is_dir():
        raise StoreError(
            f"'{home.path}' is a file, not a home folder. Name another with --home DIR or the variable ROOFLAKE_HOME."
        )
    if read_only and not home.exists:
        raise StoreError(
            f"There is no lakehouse in '{home.path}'. Make one with `rooflake demo --no-serve --home {home.path}`, "
            "or name another with --home DIR or the variable ROOFLAKE_HOME."
        )
    try:
        return Store(home, read_only=read_only, snapshot=snapshot)
    except duckdb.Error as error:
        if snapshot is not None and "snapshot" in str(error).lower():
            raise StoreError(
                f"Snapshot {snapshot} does not exist in '{home.path}'. Ask for a smaller one, or none for the newest."
            ) from error
        raise StoreError(f"The lakehouse in '{home.path}' cannot be opened: {_first_lines(error)}") from error


@contextmanager
def open_for_people(
    home: Home | str | Path | None = None, *, limit: int = 100_000
) -> Iterator[Callable[[str], pa.Table]]:
    """A function that runs one SELECT somebody typed, on a connection that can read the lake and nothing else.

    The statement runs as `SELECT * FROM (<sql>) LIMIT n` with external access off and the configuration locked. Raises
    StoreError with DuckDB's first line for anything else.
    """
    with open_store(home, read_only=True) as store:
        connection = store._connection  # the same room
        data = store.home.data_path if store.home.data_path is not None else f"{store.home.path / 'lake'}/"
        connection.execute(f"SET allowed_directories = [{_literal(data)}]")
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET autoload_known_extensions = false")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

        def run(text: str) -> pa.Table:
            return _select(connection, text, limit)

        yield run


def _select(connection: duckdb.DuckDBPyConnection, text: str, limit: int) -> pa.Table:
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise StoreError(f"That is not SQL DuckDB understands: {_first_lines(error)}") from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(str(statement.type).rsplit(".", 1)[-1] for statement in statements) or "nothing"
        raise StoreError(
            f"Exactly one SELECT is run here; this is {kinds}. The lake is written by `rooflake load` only."
        )
    ends = [position for position, _ in duckdb.tokenize(text) if text[position] == ";"]
    body = "".join(" " if position in ends else character for position, character in enumerate(text))
    try:
        return _retry(lambda: connection.sql(f"SELECT * FROM (\n{body}\n) LIMIT {int(limit)}").to_arrow_table())
    except duckdb.Error as error:
        hint = f" Tables: {', '.join(schema.TABLES)}." if isinstance(error, duckdb.CatalogException) else ""
        raise StoreError(f"{_first_lines(error)}{hint}") from error


@cache
def query_text(name: str) -> str:
    """SQL of a named query. Raises StoreError listing the known ones."""
    path = SQL / "queries" / f"{name}.sql"
    if not path.exists():
        raise StoreError(
            f"'{name}' is not a named query. Known: {', '.join(query_names())}. Add it as warehouse/sql/queries/{name}.sql."
        )
    return path.read_text(encoding="utf-8")


def query_names() -> list[str]:
    """Every named query."""
    return sorted(path.stem for path in (SQL / "queries").glob("*.sql"))


@dataclass(frozen=True)
class _File:
    table_name: str
    path: Path
    hash: str
    signature: tuple[int, int, int]

    @classmethod
    def of(cls, table_name: str, path: Path) -> _File:
        signature = _signature(path)
        return cls(table_name, path, _hash(path), signature)

    @property
    def name(self) -> str:
        return f"{self.table_name}/{self.path.name}"

    @property
    def is_unchanged(self) -> bool:
        """Is it still the file that was hashed? A writer may have put another in its place."""
        return self.path.exists() and _signature(self.path) == self.signature

    def remove(self) -> None:
        """Delete the file; one that took its place stays for the next load."""
        if self.is_unchanged:
            self.path.unlink(missing_ok=True)

    def record(
        self, now: datetime, outcome: str, rows: int | None, new_rows: int, reason: str | None = None
    ) -> dict[str, Any]:
        return {
            "file_hash": self.hash, "file_name": self.name, "table_name": self.table_name, "num_rows": rows,
            "num_new_rows": new_rows, "loaded_at": now, "outcome": outcome, "reason": reason,
        }  # fmt: skip


@dataclass
class _Batch:
    """Files that share a name: whole in the lake, or whole in quarantine."""

    name: str
    files: list[_File]
    rows: list[tuple[_File, pa.Table]] = field(default_factory=list)

    def read(self) -> None:
        self.rows = [(file, parquet.read(file.table_name, file.path)) for file in self.files]
        for file, rows in self.rows:
            if not file.is_unchanged:
                raise parquet.UnreadableFileError(f"'{file.name}' changed while it was read.")
            key = schema.table(file.table_name).key
            if rows.group_by(list(key)).aggregate([]).num_rows != rows.num_rows:
                raise parquet.ContractError(f"'{file.name}' holds the same {' + '.join(key)} more than once.")

    def is_being_written(self, error: parquet.ContractError) -> bool:
        """Is a file unreadable because somebody is still copying it? A fresh one gets a moment to change."""
        if not isinstance(error, parquet.UnreadableFileError):
            return False
        if all(file.is_unchanged and time.time() - file.path.stat().st_mtime > SETTLED_S for file in self.files):
            return False
        time.sleep(SETTLED_S)
        return not all(file.is_unchanged for file in self.files)

    @property
    def size(self) -> int:
        return sum(file.path.stat().st_size for file in self.files)


def _grouped(batches: Iterator[_Batch]) -> Iterator[list[_Batch]]:
    """Batches in groups of about a million rows, estimated at 20 bytes of Parquet a row."""
    group: list[_Batch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += batch.size
        if size > ROWS_PER_TRANSACTION * 20:
            yield group
            group, size = [], 0
    if group:
        yield group


def _differs(table: schema.Table) -> str:
    """SQL that is true where `stage` and `old` differ in a column that is not volatile."""
    compared = [column for column in table.columns if column.name not in (*table.key, *schema.VOLATILE)]
    text = [
        f"CAST(stage.{column.name} AS VARCHAR) IS DISTINCT FROM CAST(old.{column.name} AS VARCHAR)"
        if pa.types.is_map(column.type)
        else f"stage.{column.name} IS DISTINCT FROM old.{column.name}"
        for column in compared
    ]
    return " OR ".join(text)


_DUCKDB_TYPES: dict[str, str] = {
    "string": "VARCHAR", "double": "DOUBLE", "int64": "BIGINT", "bool": "BOOLEAN",
    "list<item: string>": "VARCHAR[]", "list<item: double>": "DOUBLE[]", "list<item: int64>": "BIGINT[]",
    "map<string, string>": "MAP(VARCHAR, VARCHAR)", str(schema.TIMESTAMP): "TIMESTAMPTZ",
}  # fmt: skip


def _lake_columns(table: schema.Table) -> dict[str, str]:
    """Column -> DuckDB type; every table but `loads` also keeps the hash of the file a row came in."""
    columns = {column.name: _DUCKDB_TYPES[str(column.type)] for column in table.columns}
    return columns if table.name == "loads" else columns | {"file_hash": "VARCHAR"}


def _connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"allow_unsigned_extensions": "false"})
    for name in ("ducklake", "sqlite"):
        _load_extension(connection, name)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension: as installed, else installed from its PyPI wheel, else from DuckDB's extension server."""
    try:
        connection.execute(f"LOAD {name}")
    except duckdb.Error:
        try:
            from duckdb_extensions import import_extension

            import_extension(name, con=connection)
        except (ImportError, duckdb.Error):
            connection.execute(f"INSTALL {name}")
        connection.execute(f"LOAD {name}")


def _retry(work: Callable[[], T]) -> T:
    """Run until no commit conflict or lock gets in the way, with jittered backoff; a lasting one is raised."""
    deadline = time.monotonic() + RETRY_S
    delay = 0.02
    while True:
        try:
            return work()
        except duckdb.Error as error:
            if not _CONFLICT.search(str(error)) or time.monotonic() > deadline:
                raise
            time.sleep(delay * (0.5 + random.random()))  # noqa: S311  (jitter)
            delay = min(delay * 2, 1.0)


def _rollback(cursor: duckdb.DuckDBPyConnection) -> None:
    try:
        cursor.execute("ROLLBACK")
    except duckdb.Error:  # the transaction is gone already
        return


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _signature(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_lines(error: Exception) -> str:
    """What DuckDB says, without the echo of the statement."""
    return " ".join(str(error).split("\n\nLINE ")[0].split())
