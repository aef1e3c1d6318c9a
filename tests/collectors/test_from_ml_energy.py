"""ML.ENERGY's results and tables: energy of the steady window, times of requests, what is not kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported
from landed_rows import landed

from collectors import _importing, from_vllm

RESULT: dict[str, Any] = {
    "date": "20251120-101112", "endpoint_type": "openai-chat", "model_id": "Qwen/Qwen3-8B", "num_prompts": 3, "request_rate": "inf",
    "burstiness": 1.0, "max_concurrency": 2, "duration": 10.0, "completed": 2, "steady_state_duration": 4.0,
    "steady_state_energy": 2000.0, "steady_state_energy_per_token": 0.5, "total_input_tokens": 30, "total_output_tokens": 9,
    "request_throughput": 0.2, "output_throughput": 0.9, "total_token_throughput": 3.9,
    "steady_state_measurement": {"time": 4.0, "gpu_energy": {"0": 1200.0, "1": 800.0}, "cpu_energy": None},
    "mean_ttft_ms": 150.0, "median_ttft_ms": 150.0, "std_ttft_ms": 50.0, "p99_ttft_ms": 199.0, "mean_tpot_ms": 20.0,
    "mean_itl_ms": 21.0, "std_itl_ms": 2.0, "mean_e2el_ms": 300.0,
    "results": [
        {"prompt": "private words", "output_text": "private answer", "input_len": 10, "output_len": 5, "latency": 0.3, "ttft": 0.2,
         "itl": [0.05, 0.05], "error": "", "energy": 2.5},
        {"prompt": "p", "output_text": "o", "input_len": 20, "output_len": 1, "latency": 0.1, "ttft": 0.1, "itl": [], "error": "", "energy": 0.5},
        {"prompt": "p", "output_text": "", "input_len": 20, "output_len": 0, "latency": 0.0, "ttft": 0.0, "itl": [], "error": "reset", "energy": 0},
    ],
}  # fmt: skip
ENTRY: dict[str, Any] = {
    "avg_batch_size": 15.9, "avg_output_len": 7861.3, "avg_power_watts": 541.6, "energy_per_request_joules": 3166.0,
    "energy_per_token_joules": 0.4, "gpu_model": "H100", "max_num_batched_tokens": None, "max_num_seqs": 16, "median_itl_ms": 11.9,
    "num_gpus": 4, "output_throughput_tokens_per_sec": 1354.0, "p90_itl_ms": 13.0, "p95_itl_ms": 13.2, "p99_itl_ms": 16.0,
}  # fmt: skip


def runs(folder: Path, content: Any, **options: Any) -> list[dict[str, Any]]:
    (folder / "results.json").write_text(json.dumps(content))
    return imported(folder, folder / "results.json", **options)


def test_a_result(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, RESULT, hardware_id="h100-sxm")
    assert (run["llm_id"], run["num_devices"], run["concurrency"], run["phase"]) == ("qwen3-8b", 2, 2, "serve")
    assert (run["energy_per_output_token_j"], run["power_avg_w"], run["steady_s"]) == (0.5, 500.0, 4.0)
    assert run["energy_j"] is None, "the energy of the steady window is not that of the load"
    assert run["of"]["ml_energy:steady_state_energy"] == [(2000.0, "J")]
    assert (run["ttft_s"], run["ttft_p50_s"], run["ttft_p99_s"]) == (
        pytest.approx(0.15),
        pytest.approx(0.15),
        pytest.approx(0.199),
    )
    assert run["ttft_std_s"] == pytest.approx(0.05 * 2**0.5), "of two requests, not of a population"
    assert (run["tpot_s"], run["icl_s"], run["itl_s"], run["e2el_s"]) == (
        pytest.approx(0.02),
        pytest.approx(0.021),
        None,
        pytest.approx(0.3),
    )
    assert run["icl_std_s"] is None, "of how many gaps is not said"
    assert run["definitions"]["energy_per_output_token_j"] == "nvml_steady_window"
    assert run["definitions"]["output_tokens_per_s"] == "tokens_over_whole_run"
    assert (run["num_requests"], run["num_failed_requests"], run["duration_s"], run["load_pattern"]) == (
        3,
        1,
        10.0,
        "closed",
    )


def test_its_requests(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, RESULT, hardware_id="h100-sxm")
    first, single, failed = landed(tmp_path, "requests")
    assert (first["ttft_s"], first["e2el_s"], first["output_tokens"]) == (0.2, 0.3, 5)
    assert first["tpot_s"] == pytest.approx(0.1 / 4)
    assert first["chunk_times_s"] == [pytest.approx(0.2), pytest.approx(0.25), pytest.approx(0.3)]
    assert (single["tpot_s"], single["status"]) == (None, "ok"), "one token has no time between tokens"
    assert (failed["status"], failed["status_detail"], failed["ttft_s"], failed["e2el_s"]) == (
        "error",
        "reset",
        None,
        None,
    )
    assert run["quality_tier"] == 1
    assert not any(b"private" in path.read_bytes() for path in tmp_path.rglob("*.parquet"))


def test_it_is_not_taken_for_vllms_own(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(RESULT))
    assert not from_vllm.recognises(_importing.File(file))


@pytest.mark.parametrize("nested", [False, True])
def test_a_leaderboard_table(tmp_path: Path, nested: bool) -> None:
    degrees = {"tensor_parallel": 1, "data_parallel": 1, "expert_parallel": 4}
    if nested:
        content = {
            "model_id": "Qwen/Qwen3-8B",
            "task": "gpqa",
            "weight_precision": "fp8",
            "configurations": [ENTRY | {"parallelization": degrees}],
        }
    else:
        content = {
            "task": "gpqa",
            "configurations": [ENTRY | degrees | {"model_id": "Qwen/Qwen3-8B", "weight_precision": "fp8"}],
        }
    (run,) = runs(tmp_path, content)
    assert (run["llm_id"], run["hardware_id"], run["num_devices"], run["expert_parallel"]) == (
        "qwen3-8b",
        "h100-sxm",
        4,
        4,
    )
    assert (run["task"], run["weight_dtype"], run["concurrency"], run["concurrency_mean"]) == ("gpqa", "fp8", 16, 15.9)
    assert (run["energy_per_output_token_j"], run["power_avg_w"], run["output_tokens_per_s"]) == (0.4, 541.6, 1354.0)
    assert run["definitions"]["output_tokens_per_s"] == "tokens_over_steady_window"
    assert run["output_tokens"] is None, "answers end by themselves"
    assert run["of"]["ml_energy:median_itl_ms"] == [(11.9, "ms")]
    assert run["of"]["ml_energy:avg_output_len"] == [(7861.3, "tokens")]


def test_the_older_leaderboard(tmp_path: Path) -> None:
    entry = {
        "Model": "meta-llama/Meta-Llama-3.1-8B-Instruct", "GPU": "NVIDIA A100-SXM4-40GB", "TP": 2, "PP": 1, "Energy/req (J)": 60.0,
        "Avg TPOT (s)": 0.05, "Token tput (tok/s)": 1500.0, "Avg Output Tokens": 480.0, "Avg BS (reqs)": 31.5, "Max BS (reqs)": 32,
    }  # fmt: skip
    (run,) = runs(tmp_path, [entry])
    assert (run["llm_id"], run["hardware_id"], run["num_devices"], run["tensor_parallel"]) == (
        "llama-3.1-8b",
        "a100-sxm-40gb",
        2,
        2,
    )
    assert (run["energy_per_output_token_j"], run["tpot_s"]) == (0.125, None), (
        "a mean over engine steps is another TPOT"
    )
    assert run["of"]["ml_energy:Avg TPOT (s)"] == [(0.05, "s")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({key: value for key, value in RESULT.items() if key != "completed"}, "lacks 'completed'"),
        (
            {"task": "x", "configurations": []} | {"note": "energy_per_token_joules"},
            "not a file|holds no result|no tool",
        ),
        ({"configurations": [ENTRY | {"model_id": "m", "batch_latency_s": 2.0}]}, "diffusion"),
        (
            {
                "configurations": [
                    {key: value for key, value in ENTRY.items() if key != "gpu_model"} | {"model_id": "m"}
                ]
            },
            "lacks 'gpu_model'",
        ),
    ],
)
def test_broken_files_give_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(_importing.Unreadable, match=sentence):
        runs(tmp_path, content, hardware_id="h100-sxm")
    assert not (tmp_path / "runs").exists()
