"""optimum-benchmark: values of the shared history as one reads them off the files, and a report of our own run of the tool on a CPU."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_rows import imported

from collectors import _importing, from_optimum_benchmark

DATA = Path(__file__).parent / "data" / "optimum_benchmark"


def history(shared: Path, path: str) -> Path:
    return shared / "data" / "optimum-benchmark-history" / "examples" / path


def at(runs: list[dict[str, Any]], cell: str) -> dict[str, Any]:
    return next(run for run in runs if run["source_cell"] == cell)


def changed(path: Path, **values: Any) -> Path:
    """Our report, with values under dotted names of its configuration replaced."""
    found = json.loads((DATA / "benchmark.json").read_text())
    for name, value in values.items():
        section, _, key = name.partition("__")
        found["config"][section][key] = value
    path.write_text(json.dumps(found))
    return path


def test_megabytes_are_decimal_and_each_memory_is_another(shared: Path, tmp_path: Path) -> None:
    runs = imported(tmp_path, shared / "data" / "formats" / "optimum_benchmark" / "2023_Llama-7b_full_report.csv")
    assert Counter(run["phase"] for run in runs) == {"forward": 35, "generate": 35}
    forward, generate = at(runs, "row 1, forward"), at(runs, "row 1, generate")
    assert (forward["hardware_id"], forward["num_devices"], forward["llm_id"]) == ("a100-sxm-80gb", 1, "llama-2-7b")
    assert (forward["batch_size"], forward["input_tokens"], forward["weight_dtype"], forward["execution"]) == (
        1,
        256,
        "fp16",
        "eager",
    )
    assert (forward["latency_s"], forward["input_tokens_per_s"]) == (0.0336, 29.8 * 256)
    assert (forward["memory_device_bytes"], forward["memory_peak_bytes"], forward["memory_reserved_bytes"]) == (
        15239e6,
        13738e6,
        13767e6,
    )
    assert (generate["latency_s"], generate["output_tokens"], generate["output_tokens_per_s"]) == (13.2, 512, 38.8)
    assert generate["tpot_s"] == pytest.approx(13.2 / 511)
    assert generate["definitions"] == {
        "latency_s": "wall_clock", "memory_device_bytes": "driver_used", "memory_peak_bytes": "torch_max_allocated",
        "memory_reserved_bytes": "torch_max_reserved", "output_tokens_per_s": "tokens_over_latency",
        "tpot_s": "e2el_minus_ttft_over_n_minus_1",
    }  # fmt: skip
    assert "Random weights." in forward["status_detail"]
    assert generate["of"]["optimum_benchmark:decode.throughput"] == [(38.7, "tokens/s")]
    assert at(runs, "row 2, generate")["output_tokens_per_s"] == 148.0
    quantized = at(runs, "row 35, generate")
    assert (quantized["weight_dtype"], quantized["activation_dtype"], quantized["optimizations"]) == (
        "int4",
        "fp16",
        ["quantized"],
    )


def test_a_file_without_configuration_names_no_device(shared: Path, tmp_path: Path) -> None:
    path = history(shared, "whisper/experiments/cpu_1_10/onnxruntime/whisper_auto_opt(O1)/0/inference_results.csv")
    with pytest.raises(_importing.Unreadable, match="names no hardware"):
        imported(tmp_path / "none", path)
    runs = imported(tmp_path / "out", path, hardware_id="a100", settings=["batch_size=1"])
    (printed,) = [line.split(",") for line in path.read_text().splitlines()[1:]]
    header = path.read_text().splitlines()[0].split(",")
    row = dict(zip(header, printed, strict=True))
    assert at(runs, "row 1, forward")["latency_s"] == float(row["forward.latency(s)"])
    assert at(runs, "row 1, forward")["of"]["optimum_benchmark:forward.throughput"] == [
        (float(row["forward.throughput(iter/s)"]), "samples/s")
    ]


def test_a_list_of_devices_is_what_the_machine_has(shared: Path, tmp_path: Path) -> None:
    runs = imported(tmp_path, history(shared, "running-llamas/artifacts/A100-80GB/full_report.csv"))
    assert {(run["hardware_id"], run["num_devices"]) for run in runs} == {("a100-sxm-80gb", 1)}
    last = at(runs, "row 10, generate")
    assert (last["memory_device_bytes"], last["memory_peak_bytes"]) == (7606e6, 4916e6)
    assert (last["tpot_s"], last["llm_id"]) == (None, "llama-2-7b")
    assert last["weight_dtype"] == "int4", "a checkpoint named GPTQ is stored in four bits"


def test_training_counts_steps_devices_and_tokens(shared: Path, tmp_path: Path) -> None:
    runs = imported(tmp_path, history(shared, "training-llamas/artifacts/RTX4090-24GB/full_report.csv"))
    last = at(runs, "row 5, training")
    # 60 steps of one sequence of 256 tokens in 11.01 s; the header says samles/s
    assert (last["hardware_id"], last["phase"], last["lora_rank"], last["optimizations"]) == (
        "rtx-4090",
        "finetune_step",
        8,
        ["lora", "quantized"],
    )
    assert (last["batch_size"], last["input_tokens"], last["num_devices"], last["num_samples"]) == (1, 256, 1, 60)
    assert last["latency_s"] == pytest.approx(11.014644145965576 / 60)
    assert last["total_tokens_per_s"] == pytest.approx(5.44729354892293 * 256)
    assert last["of"]["optimum_benchmark:overall_training.throughput"] == [(3.198176901874402, "samples/s")]


def test_every_file_of_the_history_reads(shared: Path) -> None:
    phases: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    for path in sorted(history(shared, "").rglob("*.csv")):
        file = _importing.File(path)
        assert from_optimum_benchmark.recognises(file), path
        for run in from_optimum_benchmark.read(file, _importing.Said()):
            phases[run.columns["phase"]] += 1
            columns.update(list(run.definitions))
    assert phases == {"forward": 462, "generate": 454, "finetune_step": 54, "pretrain_step": 60}
    assert columns["memory_reserved_bytes"] == 2 * 175
    assert columns["memory_device_bytes"] == 738  # 352 + 346 peak_memory, and 2 x 20 results with max_memory_used alone
    assert columns["tpot_s"] == 73


def test_a_report_of_our_own_run(tmp_path: Path) -> None:
    runs = imported(tmp_path, DATA / "benchmark.json", hardware_id="h100-sxm")
    prefill, generate = at(runs, "prefill"), at(runs, "generate")
    assert len(runs) == 2
    assert (prefill["phase"], prefill["batch_size"], prefill["input_tokens"], prefill["num_samples"]) == (
        "prefill",
        2,
        16,
        5,
    )
    assert (prefill["latency_s"], prefill["latency_p99_s"]) == (0.0030995138018624856, 0.003608047403104138)
    assert prefill["input_tokens_per_s"] == pytest.approx(2 * 16 / 0.0030995138018624856)
    assert (generate["output_tokens"], generate["latency_p50_s"]) == (8, 0.012788908003130928)
    assert (generate["ttft_s"], generate["tpot_s"]) == pytest.approx((0.0030995138018624856, 0.009759021396166644 / 7))
    assert generate["definitions"]["ttft_s"] == "first_token_of_generate"
    assert (generate["quality_tier"], generate["served_model_name"], generate["framework_version"]) == (
        1,
        "tiny-llama",
        "2.13.0+cpu",
    )
    assert generate["of"]["optimum_benchmark:generate.max_ram"] == [(471052288.0, "B")]
    assert generate["memory_peak_bytes"] is None


def test_the_spread_of_repeats_is_the_sample_one(tmp_path: Path) -> None:
    for run in imported(tmp_path, DATA / "benchmark.json", hardware_id="h100-sxm"):
        repeats = [value for value, _ in run["of"]["latency_s"]]
        assert run["latency_std_s"] == pytest.approx(np.std(repeats, ddof=1), rel=1e-9)


def test_a_throughput_that_counts_something_else_is_no_column(tmp_path: Path) -> None:
    # labelled samples/s, it is (8 - 1) tokens of 2 sequences over the latency of all 8
    generate = at(imported(tmp_path, DATA / "benchmark.json", hardware_id="h100-sxm"), "generate")
    assert generate["output_tokens_per_s"] is None
    assert generate["of"]["optimum_benchmark:generate.throughput"] == [
        (pytest.approx(14 / 0.01285853519802913), "samples/s")
    ]


def test_times_of_tokens_repeat_earlier_repeats(tmp_path: Path) -> None:
    # 5 repeats of 7 gaps are 35; the file holds 115
    generate = at(imported(tmp_path, DATA / "benchmark.json", hardware_id="h100-sxm"), "generate")
    assert generate["of"]["optimum_benchmark:per_token.latency.count"] == [(115.0, "1")]
    assert generate["itl_s"] is None


def test_a_report_alone_says_so(tmp_path: Path) -> None:
    settings = ["batch_size=2", "input_tokens=16"]
    prefill = at(
        imported(tmp_path, DATA / "benchmark_report.json", hardware_id="h100-sxm", settings=settings), "prefill"
    )
    assert (prefill["batch_size"], prefill["latency_s"]) == (2, 0.0030995138018624856)
    assert "without its configuration" in prefill["status_detail"]


def test_memory_of_a_report_on_an_accelerator(tmp_path: Path) -> None:
    path = changed(
        tmp_path / "one.json", backend__device="cuda", backend__model="/planted/models/Llama-2-7b-hf", backend__torch_dtype="float16",
        environment__gpu=["NVIDIA A100-SXM4-80GB", "NVIDIA DGX Display", "NVIDIA A100-SXM4-80GB"], environment__gpu_vram_mb=171798691840,
    )  # fmt: skip
    found = json.loads(path.read_text())
    found["report"]["prefill"]["memory"] |= {
        "max_global_vram": 16000.5,
        "max_process_vram": 15000.0,
        "max_reserved": 14000.0,
        "max_allocated": 13500.0,
    }
    path.write_text(json.dumps(found))
    prefill = at(imported(tmp_path / "out", path), "prefill")
    assert (prefill["hardware_id"], prefill["num_devices"], prefill["weight_dtype"]) == ("a100-sxm-80gb", 1, "fp16")
    assert (prefill["memory_device_bytes"], prefill["memory_process_bytes"]) == (16000.5e6, 15000e6)
    assert (prefill["memory_reserved_bytes"], prefill["memory_peak_bytes"]) == (14000e6, 13500e6)
    assert prefill["of"]["optimum_benchmark:environment.gpu_vram_mb"] == [(171798691840.0, "B")]
    assert "planted" not in repr(prefill)
