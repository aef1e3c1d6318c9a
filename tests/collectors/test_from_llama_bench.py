"""Outputs of llama-bench, hand-written with round figures: what each test is, its units and what one reads off the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported

from collectors import _importing

DATA = Path(__file__).parent / "data" / "llama_bench"


def by_phase(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {run["phase"]: run for run in runs}


def test_json_holds_a_prefill_a_decode_and_both(tmp_path: Path) -> None:
    runs = by_phase(imported(tmp_path, DATA / "bench.json"))
    prefill, decode, both = runs["prefill"], runs["decode"], runs["generate"]
    assert (prefill["input_tokens"], prefill["prefix_tokens"], prefill["chunk_tokens"]) == (512, None, None)
    assert (prefill["latency_s"], prefill["latency_std_s"]) == pytest.approx((0.07, 0.001))
    assert (prefill["input_tokens_per_s"], prefill["input_tokens_std_per_s"]) == (7315.6, 104.5)
    assert (decode["context_tokens"], decode["output_tokens"], decode["input_tokens"]) == (64, None, None)
    assert (decode["latency_s"], decode["latency_std_s"]) == pytest.approx((0.01, 0.0001))
    assert decode["output_tokens_per_s"] == 100.0
    assert (both["input_tokens"], both["output_tokens"], both["prefix_tokens"]) == (1024, 256, 512)
    assert (both["latency_s"], both["total_tokens_per_s"]) == (4.0, 320.0)
    assert "Mean of 128 steps at contexts from 1 to 128 tokens" in decode["status_detail"]


def test_what_ran_and_where(tmp_path: Path) -> None:
    decode = by_phase(imported(tmp_path, DATA / "bench.json"))["decode"]
    assert (decode["hardware_id"], decode["llm_id"], decode["num_devices"], decode["batch_size"]) == (
        "rtx-4080",
        "llama-3.2-1b",
        1,
        1,
    )
    assert (decode["weight_dtype"], decode["kv_dtype"], decode["attention"]) == ("int4", "int8", "flash")
    assert decode["optimizations"] == ["flash", "quantized"]
    assert (decode["framework"], decode["framework_version"], decode["execution"]) == (
        "llama.cpp",
        "b5163 (0a1b2c3d)",
        "engine",
    )
    assert decode["concurrency"] is None
    assert decode["of"]["llama_bench:model_size"] == [(799862912.0, "B")]
    assert decode["definitions"] == {"latency_s": "wall_clock", "output_tokens_per_s": "tokens_over_latency"}
    assert decode["collected_at"].isoformat() == "2025-04-24T11:57:09+00:00"
    assert "planted" not in repr(decode)


def test_repeats_are_samples_of_one_step(tmp_path: Path) -> None:
    decode = by_phase(imported(tmp_path, DATA / "bench.json"))["decode"]
    assert [value for value, _ in sorted(decode["of"]["latency_s"])] == pytest.approx([0.0099, 0.01, 0.0101])
    assert (decode["num_samples"], decode["quality_tier"]) == (3, 1)


def test_jsonl_with_depth_and_on_a_processor(tmp_path: Path) -> None:
    with pytest.raises(_importing.Unreadable, match="which is not in the hardware catalogue"):
        imported(tmp_path / "none", DATA / "bench.jsonl")
    runs = by_phase(imported(tmp_path, DATA / "bench.jsonl", hardware_id="rtx-4090"))
    prefill, decode = runs["prefill"], runs["decode"]
    assert (prefill["hardware_id"], prefill["input_tokens"], prefill["prefix_tokens"]) == ("rtx-4080", 2048, 4096)
    assert prefill["chunk_tokens"] == 512
    assert (decode["hardware_id"], decode["context_tokens"]) == ("rtx-4090", 512 + 64)
    assert (decode["weight_dtype"], decode["attention"], decode["optimizations"]) == ("fp16", None, [])
    assert decode["llm_id"] == "llama-3.2-1b"


def test_csv_says_what_json_says_without_repeats(tmp_path: Path) -> None:
    runs = by_phase(imported(tmp_path, DATA / "bench.csv"))
    assert (runs["prefill"]["latency_s"], runs["decode"]["latency_s"]) == pytest.approx((0.07, 0.01))
    assert (runs["decode"]["attention"], runs["decode"]["quality_tier"]) == ("flash", 0)
    assert runs["prefill"]["attention"] is None
    assert "latency_s" not in runs["decode"]["of"]


def test_a_table_names_no_device_and_prints_mean_and_spread(tmp_path: Path) -> None:
    with pytest.raises(_importing.Unreadable, match="names no hardware"):
        imported(tmp_path / "none", DATA / "bench.md")
    runs = by_phase(imported(tmp_path, DATA / "bench.md", hardware_id="rtx-4090", llm_id="llama-2-7b"))
    assert (runs["prefill"]["input_tokens_per_s"], runs["prefill"]["input_tokens_std_per_s"]) == (2368.8, 93.24)
    assert (runs["decode"]["output_tokens_per_s"], runs["decode"]["context_tokens"]) == (131.42, 512 + 64)
    assert (runs["generate"]["total_tokens_per_s"], runs["generate"]["output_tokens"]) == (500.0, 128)
    assert runs["decode"]["latency_s"] is None
    assert {run["llm_id"] for run in runs.values()} == {"llama-2-7b"}
    assert {run["framework_version"] for run in runs.values()} == {"b5163 (0a1b2c3d)"}
    assert {run["weight_dtype"] for run in runs.values()} == {"int4"}


@pytest.mark.parametrize("name", ["bench.csv", "bench.md"])
def test_what_a_windows_shell_redirects_is_utf_16(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text((DATA / name).read_text(), encoding="utf-16")
    runs = by_phase(imported(tmp_path / "out", path, hardware_id="rtx-4090"))
    plain = by_phase(imported(tmp_path / "plain", DATA / name, hardware_id="rtx-4090"))
    assert {phase: run["latency_s"] for phase, run in runs.items()} == {
        phase: run["latency_s"] for phase, run in plain.items()
    }
    assert runs["decode"]["output_tokens_per_s"] == plain["decode"]["output_tokens_per_s"] != 0
