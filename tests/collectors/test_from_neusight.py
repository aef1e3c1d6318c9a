"""NeuSight's dataset: figures of the shared files by hand, and what its file names must say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported
from landed_rows import landed

from collectors import _importing, from_neusight

FOLDER = Path("data") / "neusight"


def kernels(landing: Path, *files: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    _importing.collect(landing, files=list(files))
    return landed(landing, "runs"), landed(landing, "kernels")


def test_n_is_the_contraction(shared: Path, tmp_path: Path) -> None:
    """bmm: B=192 M=96 N=196 K=196; linear: B=1 M=32768 N=4096 K=1024 in 26.54 ms on an L4."""
    runs, rows = kernels(tmp_path, shared / FOLDER / "data/dataset/test/linear.csv.gz")
    assert len(rows) == 8_254
    second = rows[1]
    assert (second["m"], second["k"], second["n"], second["batch_size"]) == (32768, 4096, 1024, 1)
    assert second["time_s"] == pytest.approx(26.540971120198567e-3)
    assert second["flops"] == 2 * 32768 * 4096 * 1024
    assert (second["kernel"], second["name"], second["implementation"]) == ("gemm", "linear", "ampere_sgemm_128x128_tn")
    assert 0.2 < second["roofline_s"] / second["time_s"] < 1
    assert {run["weight_dtype"] for run in runs} == {"fp32"}
    assert all("TF32 was off" in run["status_detail"] for run in runs)
    assert {(run["hardware_id"], run["num_samples"]) for run in runs} >= {("l4", 1040), ("p4", 974), ("h100-sxm", 1040)}


def test_element_wise_kernels_move_what_they_read_and_write(shared: Path, tmp_path: Path) -> None:
    runs, rows = kernels(tmp_path, shared / FOLDER / "data/dataset/test/elem.csv.gz")
    assert len(rows) == 4_558
    first = rows[0]
    assert (first["name"], first["m"], first["n"], first["op_kind"]) == ("add", 32768, 1600, "elementwise")
    assert first["bytes_moved"] == 3 * 32768 * 1600 * 4, "two arrays read, one written"
    assert (first["flops"], first["bound"]) == (None, "memory")
    assert first["roofline_s"] == pytest.approx(3 * 32768 * 1600 * 4 / 900e9, rel=0.01), "of a V100"
    unary = next(row for row in rows if row["name"] == "addu")
    assert unary["bytes_moved"] == 2 * unary["m"] * unary["n"] * 4
    assert next(run for run in runs if run["kernel"] == "gelu")["framework_version"] == "2.1.0"


def test_amd_tables_lack_the_version(shared: Path, tmp_path: Path) -> None:
    (run,), rows = kernels(
        tmp_path, shared / FOLDER / "data/dataset_amd/test/collect/bmm/p2.4.1/AMD Instinct MI210.csv.gz"
    )
    assert (run["hardware_id"], run["framework_version"], len(rows)) == ("mi210", None, 2_435)


def test_a_label_of_training(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, shared / FOLDER / "label/NVIDIA_L4/bert_large-train-512-8.json")
    assert (run["llm_id"], run["hardware_id"], run["phase"]) == ("bert-large", "l4", "pretrain_step")
    assert (run["batch_size"], run["input_tokens"], run["weight_dtype"], run["execution"]) == (8, 512, "fp32", "eager")
    assert (run["latency_s"], run["forward_s"], run["backward_s"]) == (
        pytest.approx(1.2754411376953126), pytest.approx(0.47781170654296875), pytest.approx(0.7976294311523437),
    )  # fmt: skip
    assert run["definitions"] == dict.fromkeys(("latency_s", "forward_s", "backward_s"), "device_events")
    assert "24 times" in run["status_detail"]


@pytest.mark.parametrize(
    ("name", "degrees", "batch_size"),
    [("dp4", (4, 1, 1), 4), ("tp4", (1, 4, 1), 16), ("pp4_1", (1, 1, 4), 16)],
)
def test_a_label_of_four_devices(
    shared: Path, tmp_path: Path, name: str, degrees: tuple[int, ...], batch_size: int
) -> None:
    (run,) = imported(tmp_path, shared / FOLDER / f"label/NVIDIA_H100_80GB_HBM3/gpt2_large-train-1024-16-{name}.json")
    assert tuple(run[f"{kind}_parallel"] or 1 for kind in ("data", "tensor", "pipeline")) == degrees
    assert (run["num_devices"], run["batch_size"], run["forward_s"]) == (4, batch_size, None), "0 is not measured"


def test_a_fused_label_is_compiled(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, shared / FOLDER / "label/NVIDIA_L4/bert_large-inf-512-16-fusion.json")
    assert (run["phase"], run["execution"]) == ("forward", "compiled")
    assert run["latency_s"] == pytest.approx(0.7247020141601563)
    assert run["forward_s"] is None, "the latency is that of a forward pass alone"


def test_the_nodes_of_a_graph(shared: Path, tmp_path: Path) -> None:
    _importing.collect(tmp_path, files=shared / FOLDER / "label/NVIDIA_H100_80GB_HBM3/gpt2_large-train-1024-1.csv.gz")
    (run,) = landed(tmp_path, "runs")
    assert (run["llm_id"], run["quality_tier"], run["latency_s"]) == ("gpt2-large", 1, None)
    ops = landed(tmp_path, "ops")
    assert all(op["device_time_s"] > 0 for op in ops), "placeholders take no time"
    head = [op for op in ops if op["path"] == "lm_head"]
    assert [(op["phase"], op["op_kind"]) for op in head] == [("forward", "lm_head"), ("backward", "lm_head")]
    assert head[0]["device_time_s"] == pytest.approx(2.6024703979492188e-3)
    assert head[1]["device_time_s"] == pytest.approx((4.938387120235712 + 0.2554176032543182) * 1e-3)
    product = next(op for op in ops if op["path"] == "addmm")
    assert (product["m"], product["k"], product["n"], product["op_kind"]) == (1024, 1280, 3840, "gemm")


def test_the_summary_keeps_what_others_predicted(shared: Path, tmp_path: Path) -> None:
    runs = imported(tmp_path, shared / FOLDER / "summary/summary.csv.gz")
    assert len(runs) == 146
    assert all(run["is_excluded"] for run in runs), "the labels are the runs"
    first = next(run for run in runs if run["source_cell"] == "line 2")
    assert (first["data_parallel"], first["batch_size"], first["hardware_id"]) == (4, 1, "a100-sxm-40gb")
    assert first["latency_s"] == pytest.approx(0.4522997772216797)
    assert first["of"]["neusight:neusight_all_e2e_latency"] == [(pytest.approx(0.51051188014903386), "s")]


def test_published_errors_come_out_again(shared: Path, tmp_path: Path) -> None:
    """The mean error that the dataset's notes give for the 146 cases: 10.0 %."""
    runs = imported(tmp_path, shared / FOLDER / "summary/summary.csv.gz")
    errors = [
        abs(run["of"]["neusight:neusight_all_e2e_latency"][0][0] / run["latency_s"] - 1)
        for run in runs
        if "neusight:neusight_all_e2e_latency" in run["of"]
    ]
    assert len(errors) == 146
    assert sum(errors) / len(errors) == pytest.approx(0.100, abs=0.001)


def test_every_shared_file_is_recognised_and_every_label_reads(shared: Path) -> None:
    labels = sorted((shared / FOLDER / "label").glob("*/*.json"))
    tables = sorted((shared / FOLDER).rglob("*.csv.gz"))
    assert (len(labels), len(tables)) == (149, 73)
    for file in (*labels, *tables):
        assert from_neusight.recognises(_importing.File(file)), file
    runs = [run for file in labels for run in from_neusight.read(_importing.File(file), _importing.Said())]
    assert len(runs) == 149
    assert all(run.columns["latency_s"] > 0 and run.device is not None for run in runs)


def test_all_shared_kernels(shared: Path) -> None:
    files = sorted((shared / FOLDER / "data").rglob("*.csv.gz"))
    runs = [run for file in files for run in from_neusight.read(_importing.File(file), _importing.Said())]
    assert sum(len(run.kernels) for run in runs) == 174_992
    assert {run.device for run in runs} == {
        "NVIDIA L4", "Tesla V100-PCIE-32GB", "NVIDIA A100-PCIE-40GB", "Tesla P100-PCIE-16GB", "Tesla T4", "Tesla P4",
        "NVIDIA H100 80GB HBM3", "NVIDIA A100 80GB PCIe", "AMD Instinct MI100", "AMD Instinct MI210",
    }  # fmt: skip


def written(folder: Path, name: str, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    label = {"num_layer": 1, "e2e_latency": 5.0, "fw_latency": 5.0, "bwall_latency": 0, **changes}
    (folder / name).write_text(json.dumps(label))
    return folder / name


@pytest.mark.parametrize(
    ("folder", "name", "changes", "sentence"),
    [
        ("NVIDIA_L4", "mine.json", {}, "not named like a label"),
        ("somewhere", "gpt2_large-inf-64-1.json", {}, "names no hardware"),
        ("NVIDIA_L4", "gpt2_large-inf-64-1.json", {"e2e_latency": "fast"}, "e2e_latency is 'fast', no number"),
    ],
)
def test_labels_that_say_too_little(
    tmp_path: Path, folder: str, name: str, changes: dict[str, Any], sentence: str
) -> None:
    file = written(tmp_path / folder, name, **changes)
    with pytest.raises(_importing.Unreadable, match=sentence):
        _importing.collect(tmp_path / "landing", files=file)
    assert not (tmp_path / "landing").exists()


def test_a_label_without_a_latency_is_a_failure(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, written(tmp_path / "NVIDIA_L4", "gpt2_large-inf-64-1.json", e2e_latency=None))
    assert (run["status"], run["latency_s"]) == ("error", None)
