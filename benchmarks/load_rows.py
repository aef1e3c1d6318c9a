"""Rows a second of `Store.load` beside a bare DuckDB copy of the same Parquet, in one run on one machine.

The copy does nothing but read and write; the load hashes, checks types and vocabularies, compares keys with what is
there, and commits to the lake. Prints seconds, rows/s and the ratio; only the ratio is worth quoting.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb  # the benchmark's other side; the product opens DuckDB in warehouse.store only
import pyarrow as pa

from warehouse import parquet, schema
from warehouse.store import open_store

OPS_PER_RUN = 20


def rows(num_runs: int) -> dict[str, pa.Table]:
    """Runs and ops with as many filled columns as an analytical sweep has."""
    ids = pa.array([f"{index:016x}" for index in range(num_runs)])
    numbers = pa.array(range(num_runs), pa.float64())

    def constant(value: object) -> pa.Array:
        return pa.array([value] * num_runs)

    runs = pa.table(
        {
            "run_id": ids, "collector": constant("roofline"), "source_kind": constant("analytical"),
            "source_id": constant("rooflake/default"), "collected_at": constant(datetime(2026, 1, 1, tzinfo=UTC)),
            "status": constant("ok"), "is_excluded": constant(False), "phase": constant("decode"),
            "llm_id": constant("llama-2-7b"), "hardware_id": constant("a6000"), "batch_size": pa.array(range(num_runs)),
            "flops": numbers, "bytes_moved": numbers, "roofline_s": numbers, "weights_bytes": numbers,
        }
    )  # fmt: skip
    runs = runs.append_column("config_id", schema.config_ids(runs))
    num_ops = num_runs * OPS_PER_RUN
    values = pa.array(range(num_ops), pa.float64())
    ops = pa.table(
        {
            "run_id": ids.take(pa.array([index // OPS_PER_RUN for index in range(num_ops)])),
            "op_index": pa.array([index % OPS_PER_RUN for index in range(num_ops)]),
            "path": pa.array(["model.layers.*.q_proj"] * num_ops), "op_kind": pa.array(["q_proj"] * num_ops),
            "count": pa.array([32] * num_ops), "flops": values, "bytes_moved": values, "roofline_s": values,
        }
    )  # fmt: skip
    return {"runs": runs, "ops": ops}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    num_runs = parser.parse_args().runs
    total = num_runs * (1 + OPS_PER_RUN)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with open_store(home) as store:
            store.load()  # the catalogue
            paths = parquet.land(store.home.landing, "bench", rows(num_runs))
            copies = Path(folder) / "copy"
            copies.mkdir()
            started = time.perf_counter()
            for path in paths:
                duckdb.execute(
                    f"COPY (SELECT * FROM '{path}') TO '{copies / path.parent.name}.parquet' (COMPRESSION zstd)"
                )
            copying = time.perf_counter() - started
            started = time.perf_counter()
            report = store.load()
            loading = time.perf_counter() - started
            started = time.perf_counter()
            parquet.land(store.home.landing, "again", rows(num_runs))
            writing = time.perf_counter() - started
            started = time.perf_counter()
            again = store.load()
            repeated = time.perf_counter() - started
        assert sum(report.new_rows.values()) == total, report
        assert again.num_duplicate == len(paths), again
    print(f"{total} rows ({num_runs} runs, {schema.OPS.name} folded {OPS_PER_RUN} a run)")
    print(f"bare DuckDB copy   {copying:7.2f} s  {total / copying:12,.0f} rows/s")
    print(f"check and land     {writing:7.2f} s  {total / writing:12,.0f} rows/s")
    print(f"load into the lake {loading:7.2f} s  {total / loading:12,.0f} rows/s  {loading / copying:.1f} x the copy")
    print(f"same file again    {repeated:7.2f} s  (known by its hash)")


if __name__ == "__main__":
    main()
