"""nccl-tests' text: sizes, times, ranks and dtypes; two tests in one file; what is refused and what is not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from landed_rows import landed

from collectors import _importing

HEADER = """# nccl-tests version 2.18.3 nccl-headers=23003 nccl-library=23003
# Collective test starting: {name}_perf
# nThread 1 nGpus 1 minBytes 8 maxBytes 1024 step: 2(factor) warmup iters: 1 iters: 20 agg iters: 1 validation: 1 graph: 0
#
# Using devices
#  Rank  0 Group  0 Pid     11 on secret-host-a device  0 [0000:04:00] {device}
#  Rank  1 Group  0 Pid     12 on secret-host-a device  1 [0000:05:00] {device}
#  Rank  2 Group  0 Pid     13 on secret-host-b device  0 [0000:04:00] {device}
#  Rank  3 Group  0 Pid     14 on secret-host-b device  1 [0000:05:00] {device}
NCCL version 2.30.3+cuda13.0
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
"""
LINES = """        1024           256     float     sum      -1    20.50    0.05    0.07       0    19.00    0.05    0.08       0
  1073741824     268435456     float     sum      -1  40579.7   26.46   39.69       0   162000    6.63    9.94     N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 12.5000
#
"""


def text(name: str = "all_reduce", device: str = "NVIDIA H100 80GB HBM3", lines: str = LINES) -> str:
    return HEADER.format(name=name, device=device) + lines


def kernels(landing: Path, content: str, **options: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    landing.mkdir(exist_ok=True)
    file = landing / "nccl.log"
    file.write_text(content)
    _importing.collect(landing, files=file, **options)
    return landed(landing, "runs"), landed(landing, "kernels")


def test_a_table(tmp_path: Path) -> None:
    (run,), rows = kernels(tmp_path, text())
    assert (run["hardware_id"], run["num_devices"], run["kernel"], run["source_kind"]) == (
        "h100-sxm",
        4,
        "all_reduce",
        "measured",
    )
    assert (run["framework"], run["framework_version"], run["weight_dtype"]) == ("nccl", "2.30.3", "fp32")
    assert [(row["size_bytes"], row["implementation"]) for row in rows] == [
        (1024, "out of place"), (1024, "in place"), (2**30, "out of place"), (2**30, "in place"),
    ]  # fmt: skip
    assert [row["time_s"] for row in rows] == [pytest.approx(one) for one in (20.5e-6, 19e-6, 40579.7e-6, 0.162)]
    (sample,) = landed(tmp_path, "samples")
    assert (sample["metric"], sample["value"], sample["unit"]) == ("nccl_tests:avg_bus_bandwidth", 12.5e9, "B/s")


def test_no_host_is_kept(tmp_path: Path) -> None:
    kernels(tmp_path, text())
    assert not any(b"secret-host" in path.read_bytes() for path in tmp_path.rglob("*.parquet"))


def test_a_gather_counts_the_whole(tmp_path: Path) -> None:
    (run,), rows = kernels(tmp_path, text("all_gather"))
    assert (run["kernel"], rows[0]["size_bytes"]) == ("all_gather", 256), "one rank of four brings a quarter"
    runs, rows = kernels(tmp_path / "other", text("broadcast"))
    assert (runs[0]["kernel"], rows[0]["op_kind"], rows[0]["size_bytes"]) == ("broadcast", "communication", 1024)


def test_two_tests_and_two_dtypes(tmp_path: Path) -> None:
    half = LINES.replace("float     sum", " half     sum")
    runs, rows = kernels(tmp_path, text() + text("reduce_scatter", lines=LINES + half))
    assert [(run["kernel"], run["weight_dtype"]) for run in runs] == [
        ("all_reduce", "fp32"), ("reduce_scatter", "fp32"), ("reduce_scatter", "fp16"),
    ]  # fmt: skip
    assert len(rows) == 12


def test_an_old_log_is_named_by_its_command_or_by_the_caller(tmp_path: Path) -> None:
    old = text().replace("# Collective test starting: all_reduce_perf\n", "")
    with pytest.raises(_importing.Unreadable, match="does not say which collective"):
        kernels(tmp_path, old)
    (run,), _ = kernels(tmp_path, old, settings=["kernel=all_reduce"])
    assert run["kernel"] == "all_reduce"
    (run,), _ = kernels(tmp_path / "other", "> mpirun -np 4 build/alltoall_perf -b 8\n" + old)
    assert run["kernel"] == "all_to_all"


def test_wrong_results_are_kept_out_of_charts(tmp_path: Path) -> None:
    (run,), rows = kernels(tmp_path, text(lines=LINES.replace("0.07       0 ", "0.07       3 ")))
    assert run["is_excluded"]
    assert "3 results were wrong" in run["status_detail"]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (text(lines=LINES[:60] + "\n"), "cells under 13 headings"),
        (text(lines="# nothing\n"), "holds no result"),
        (text(device="NVIDIA Graphics Device"), "measured on 'NVIDIA Graphics Device'"),
        (
            text().replace("device  1 [0000:05:00] NVIDIA H100 80GB HBM3", "device  1 [0000:05:00] Tesla T4"),
            "several kinds of device",
        ),
    ],
)
def test_broken_logs_give_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    with pytest.raises(_importing.Unreadable, match=sentence):
        kernels(tmp_path, content)
    assert not (tmp_path / "runs").exists()
