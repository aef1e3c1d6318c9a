"""Rows a second of importing aiconfigurator's kernel tables, from Parquet to landed and checked Parquet, on one core.

Beside it what nobody can do without: reading the tables with pyarrow and writing them again as they are. Files are imported one by
one; the largest set of pages the process ever held is printed too, against that after the first file.

    make bench-import_rows ARGS='--folder ../shared/data/aiconfigurator/data'
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from collectors import _importing

DEFAULT = Path(__file__).parent.parent.parent / "shared" / "data" / "aiconfigurator" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DEFAULT, help="folder of *_perf.parquet files, any depth")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    files = sorted(options.folder.rglob("*_perf.parquet"))
    if not files:
        raise SystemExit(f"{options.folder} holds no *_perf.parquet. Give another with --folder.")
    one_core()
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    print(f"{len(files)} files, {rows:,} rows")
    _import(files[:1])
    after_first = peak_bytes()
    copies = sorted(_copy(files) for _ in range(options.repeats))
    imports = sorted(_import(files) for _ in range(options.repeats))
    print(f"copied by pyarrow  {copies[0]:6.2f} s  {rows / copies[0]:12,.0f} rows/s")
    wall_s, cpu_s = imports[0]
    print(f"imported           {wall_s:6.2f} s  {rows / wall_s:12,.0f} rows/s  (slowest {imports[-1][0]:.2f} s)")
    print(f"  of the processor {cpu_s:6.2f} s  {rows / cpu_s:12,.0f} rows/s  (what else the machine does left out)")
    print(f"most memory held   {peak_bytes() / 2**20:,.0f} MiB ({after_first / 2**20:,.0f} MiB after one file)")


def one_core() -> None:
    """Hold this process and what Arrow starts to one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _import(files: list[Path]) -> tuple[float, float]:
    """Seconds of one import into an empty landing folder: by the wall, and of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        began, worked = time.perf_counter(), time.process_time()
        _importing.collect(Path(folder), files=files)
        return time.perf_counter() - began, time.process_time() - worked


def _copy(files: list[Path]) -> float:
    """Seconds of reading every table and writing it with the landing folder's compression."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        for index, file in enumerate(files):
            pq.write_table(pq.read_table(file), Path(folder) / f"{index}.parquet", compression="lz4")
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
