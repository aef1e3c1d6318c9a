"""Reports about traces: units of each, what becomes an op, and what has to be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from landed_rows import landed

from collectors import _importing, from_tracelens

SAID = {"hardware_id": "mi300x", "settings": ["phase=pretrain_step"]}
GEMM = """name,param: B,param: M,param: N,param: K,param: bias,GFLOPS_first,Data Moved (MB)_first,FLOPS/Byte_first,Input Dims_first,\
Kernel Time (µs)_mean,Kernel Time (µs)_median,Kernel Time (µs)_sum,name_count
aten::mm,1,12864,1280,640,False,21.0763776,48.671875,414.2,"[[12864, 640], [640, 1280]]",112.5,96.5,180000.0,1600
"""
UNIFIED = """name,op category,Input Dims,operation_count,GFLOPS,Data Moved (MB),Kernel Time (µs)_mean,Kernel Time (µs)_sum
aten::mm,GEMM,"((4, 8), (8, 2))",200,0.5,2.0,50.0,10000.0
aten::copy_,elementwise,"((4, 8),)",3,,,7.5,22.5
aten::view,other,"((4, 8),)",9,,,0.0,0.0
"""
SUMMARY = """name,total_direct_kernel_time_sum,total_subtree_kernel_time_sum,total_direct_kernel_time_ms,Count,Categories
aten::mm,8000.0,8000.0,8.0,4,{'GEMM'}
"""
KERNELS = """Parent op category,Parent cpu_op,Kernel name,Kernel stream,Kernel duration (µs)_sum,Kernel duration (µs)_count,\
Kernel duration (µs)_mean
GEMM,aten::addmm,sm90_xmma_gemm_bf16,7,100.0,4,25.0
other,aten::_softmax,"void softmax<8, float>(int)",7,9.0,3,3.0
"""
TIMELINE = "type,time ms,percent\ncomputation_time,12423.5,87.25\nbusy_time,14064.0,98.5\nidle_time,168.5,1.25\n"
HTA = ",name,sum (us),max (us),min (us),stddev,mean (us),kernel_type,rank\n0,ncclDevKernel_AllReduce,600.0,250,100,1,200.0,COMMUNICATION,0\n"
TEMPORAL = "rank,idle_time(us),compute_time(us),non_compute_time(us),kernel_time(us),idle_time_pctg\n0,10,700,90,800,1.25\n1,20,690,90,800,2.5\n"


def ops(landing: Path, content: str) -> list[dict[str, Any]]:
    file = landing / "report.csv"
    file.write_text(content, encoding="utf-8")
    _importing.collect(landing, files=file, **SAID)
    return landed(landing, "ops")


def test_a_gemm_of_a_performance_model(tmp_path: Path) -> None:
    (op,) = ops(tmp_path, GEMM)
    assert (op["path"], op["op_kind"], op["level"], op["count"]) == ("aten::mm", "gemm", "kernel", 1600)
    assert (op["m"], op["n"], op["k"]) == (12864, 1280, 640)
    assert op["device_time_s"] == pytest.approx(112.5e-6), "of one execution"
    assert op["flops"] == pytest.approx(2 * 12864 * 1280 * 640), "units of 10^9"
    assert op["bytes_moved"] == 2 * (12864 * 640 + 640 * 1280 + 12864 * 1280), "MB are MiB"
    (run,) = landed(tmp_path, "runs")
    assert (run["source_kind"], run["hardware_id"], run["phase"], run["quality_tier"]) == (
        "measured",
        "mi300x",
        "pretrain_step",
        1,
    )


def test_the_unified_summary(tmp_path: Path) -> None:
    product, copy = ops(tmp_path, UNIFIED)
    assert (product["flops"], product["bytes_moved"], product["count"]) == (0.5e9, 2 * 2**20, 200)
    assert (copy["flops"], copy["bytes_moved"], copy["device_time_s"]) == (None, None, pytest.approx(7.5e-6))
    assert copy["shapes"] == "((4, 8),)"


def test_operators_and_kernels(tmp_path: Path) -> None:
    (operator,) = ops(tmp_path, SUMMARY)
    assert (operator["count"], operator["device_time_s"]) == (4, pytest.approx(2e-3))
    folder = tmp_path / "kernels"
    folder.mkdir()
    gemm, softmax = ops(folder, KERNELS)
    assert (gemm["op_kind"], gemm["class_name"], gemm["device_time_s"]) == ("gemm", "aten::addmm", pytest.approx(25e-6))
    assert (softmax["op_kind"], softmax["path"]) == ("softmax", "void softmax<8, float>(int)")


def test_hta_kernels(tmp_path: Path) -> None:
    (kernel,) = ops(tmp_path, HTA)
    assert (kernel["op_kind"], kernel["count"], kernel["device_time_s"]) == ("all_reduce", 3, pytest.approx(2e-4))


def test_times_over_a_trace_are_samples(tmp_path: Path) -> None:
    file = tmp_path / "report.csv"
    file.write_text(TIMELINE)
    _importing.collect(tmp_path, files=file, **SAID)
    values = {row["metric"]: (row["value"], row["unit"]) for row in landed(tmp_path, "samples")}
    assert values == {
        "tracelens:computation_time": (pytest.approx(12.4235), "s"), "tracelens:busy_time": (pytest.approx(14.064), "s"),
        "tracelens:idle_time": (pytest.approx(0.1685), "s"),
    }  # fmt: skip
    (run,) = landed(tmp_path, "runs")
    assert run["latency_s"] is None


def test_hta_times_of_each_rank(tmp_path: Path) -> None:
    file = tmp_path / "report.csv"
    file.write_text(TEMPORAL)
    _importing.collect(tmp_path, files=file, **SAID)
    idle = [row for row in landed(tmp_path, "samples") if row["metric"] == "hta:idle_time"]
    assert [(row["sample_index"], row["flags"], row["value"]) for row in idle] == [
        (0, ["rank 0"], pytest.approx(1e-5)), (1, ["rank 1"], pytest.approx(2e-5)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said", "sentence"),
    [
        (GEMM, {"settings": ["phase=forward"]}, "names no hardware"),
        (GEMM, {"hardware_id": "mi300x"}, "does not say what was run"),
        (KERNELS[:-20], SAID, "(not as many cells|not a whole CSV)"),
        (SUMMARY.replace(",4,", ",many,"), SAID, "does not read as one"),
        (SUMMARY.replace(",4,", ",0,"), SAID, "holds no figure"),
    ],
)
def test_what_a_report_does_not_say(tmp_path: Path, content: str, said: dict[str, Any], sentence: str) -> None:
    file = tmp_path / "report.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(_importing.Unreadable, match=sentence):
        _importing.collect(tmp_path / "landing", files=file, **said)
    assert not (tmp_path / "landing").exists()


@pytest.mark.parametrize("content", ["PAR1\x15\r\x04", "a,b\n1,2\n", "", '"', "name\nx\n"])
def test_others_files_are_not_claimed(tmp_path: Path, content: str) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    assert not from_tracelens.recognises(_importing.File(file))
