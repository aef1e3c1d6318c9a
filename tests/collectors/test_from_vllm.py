"""vLLM's benchmark files: a real one of a cluster, small ones with known answers."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported
from landed_rows import landed

from collectors import _importing, from_vllm

DATA = Path(__file__).parent / "data" / "vllm"


def one(landing: Path, file: Path, **options: Any) -> dict[str, Any]:
    (run,) = imported(landing, file, **{"hardware_id": "h100-sxm", **options})
    return run


def written(path: Path, **changes: Any) -> Path:
    """The first object of the appended file with some keys changed."""
    result = json.loads((DATA / "serve_appended.json").read_text().splitlines()[0])
    path.write_text(json.dumps({**result, **changes}))
    return path


def test_a_real_file_of_a_cluster(shared: Path, tmp_path: Path) -> None:
    (file,) = (shared / "data" / "formats" / "vllm_bench_serve").glob("*.json")
    run = one(tmp_path, file)
    assert run["llm_id"] == "minimax-m2.5", "named by the path of a snapshot"
    assert (run["load_pattern"], run["concurrency"], run["request_rate_per_s"]) == ("closed", 128, None)
    assert (run["num_requests"], run["num_failed_requests"], run["input_tokens"]) == (1280, 0, 1024)
    assert run["ttft_s"] == pytest.approx(0.3544963012576)
    assert run["tpot_p99_s"] == pytest.approx(0.0234256672552)
    assert run["e2el_p50_s"] == pytest.approx(24.1334587810561)
    assert run["icl_s"] == pytest.approx(0.0233361536942)
    assert run["itl_s"] is None, "what the tool calls ITL is the gap between chunks"
    assert run["ttft_std_s"] == pytest.approx(0.47255769183914 * (1280 / 1279) ** 0.5)
    assert run["tpot_std_s"] is None, "how many answers had two tokens is not in the file"
    assert run["of"]["vllm:tpot_ms_std"] == [(pytest.approx(0.1400068026502), "ms")]
    assert run["of"]["vllm:ttft_ms_p99.9"] == [(pytest.approx(2782.5139312951), "ms")]
    assert run["output_tokens_per_s"] == pytest.approx(5368.18028961)
    assert run["goodput_requests_per_s"] is None
    assert run["definitions"] == {
        "ttft_s": "first_nonempty_chunk", "tpot_s": "e2el_minus_ttft_over_n_minus_1", "icl_s": "per_chunk_pooled",
        "e2el_s": "last_chunk", "requests_per_s": "tokens_over_whole_run", "output_tokens_per_s": "tokens_over_whole_run",
        "total_tokens_per_s": "tokens_over_whole_run",
    }  # fmt: skip


def test_single_requests_give_the_summary_again(tmp_path: Path) -> None:
    run = one(tmp_path, DATA / "serve_detailed.json")
    assert run["llm_id"] == "qwen3-0.6b"
    assert (run["quality_tier"], run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (
        1,
        3,
        1,
        2 / 3,
    )
    assert run["goodput_requests_per_s"] == 0.5
    assert run["concurrency_max"] == 2.0
    requests = landed(tmp_path, "requests")
    assert [row["status"] for row in requests] == ["ok", "ok", "error"]
    done, failed = requests[:2], requests[2]
    assert [row["ttft_s"] for row in done] == [0.1, 0.3]
    assert [row["e2el_s"] for row in done] == [pytest.approx(0.16), pytest.approx(0.5)]
    assert [row["tpot_s"] for row in done] == [pytest.approx(0.03), pytest.approx(0.05)]
    assert done[0]["chunk_times_s"] == [0.1, pytest.approx(0.12), pytest.approx(0.16)]
    assert (failed["ttft_s"], failed["e2el_s"], failed["output_tokens"], failed["sent_at_s"]) == (None, None, None, 0.5)
    assert run["ttft_s"] == pytest.approx(sum(row["ttft_s"] for row in done) / 2)
    assert run["e2el_s"] == pytest.approx(sum(row["e2el_s"] for row in done) / 2)
    assert run["tpot_s"] == pytest.approx(sum(row["tpot_s"] for row in done) / 2)
    assert run["tpot_std_s"] == pytest.approx(0.01 * 2**0.5), "of a sample, from that of the population"
    assert run["icl_std_s"] == pytest.approx(0.011055415967851334 * (6 / 5) ** 0.5)


def test_nothing_of_a_file_that_may_be_secret_lands(tmp_path: Path) -> None:
    files = [DATA / "serve_detailed.json", DATA / "latency.pytorch.json"]
    assert _importing.collect(tmp_path, files=files, hardware_id="h100-sxm").num_runs == 2
    everything = [row for path in tmp_path.glob("*/*.parquet") for row in landed(tmp_path, path.parent.name)]
    assert everything
    assert not any("planted" in str(row) or "10.0.0.1" in str(row) for row in everything)


def test_appended_runs_old_keys_and_spellings_of_no_limit(tmp_path: Path) -> None:
    first, second, third = imported(tmp_path, DATA / "serve_appended.json", hardware_id="h100-sxm")
    assert [run["source_cell"] for run in (first, second, third)] == ["line 1", "line 2", "line 3"]
    assert (first["load_pattern"], first["request_rate_per_s"]) == ("burst", None), "1e9 is how some say inf"
    assert first["goodput_requests_per_s"] == 1.25, "under a key with a colon"
    assert (first["num_requests"], first["num_failed_requests"], first["success_rate"]) == (100, 25, 0.75)
    assert (first["input_tokens"], first["output_tokens"]) == (100, 200)
    assert first["definitions"]["ttft_s"] == "first_chunk", "a chat's first chunk is empty"
    assert first["collected_at"] == datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert (first["llm_id"], first["served_model_name"]) == (None, "Llama-2-7b-chat-hf"), "no local path is kept"
    assert (second["load_pattern"], second["request_rate_per_s"], second["concurrency"]) == ("poisson", 4.0, None)
    assert "At most 8 requests were in flight" in second["status_detail"]
    assert second["collected_at"] == datetime.datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=datetime.UTC)
    assert (third["status"], third["num_failed_requests"]) == ("error", 100)
    assert [third[name] for name in ("ttft_s", "tpot_s", "icl_s", "requests_per_s", "output_tokens_per_s")] == [
        None
    ] * 5


@pytest.mark.parametrize("rate", ["inf", "Infinity", float("inf"), 1e9, None])
def test_no_limit_is_no_rate(tmp_path: Path, rate: Any) -> None:
    run = one(tmp_path, written(tmp_path / "file.json", request_rate=rate, max_concurrency=16))
    assert (run["load_pattern"], run["request_rate_per_s"], run["concurrency"]) == ("closed", None, 16)


def test_bursty_and_rising_loads_are_no_poisson(tmp_path: Path) -> None:
    bursty = one(tmp_path / "a", written(tmp_path / "a.json", request_rate=5.0, burstiness=0.5))
    assert (bursty["load_pattern"], bursty["request_rate_per_s"]) == (None, 5.0)
    rising = one(
        tmp_path / "b", written(tmp_path / "b.json", ramp_up_strategy="linear", ramp_up_start_rps=1, request_rate=9.0)
    )
    assert (rising["load_pattern"], rising["request_rate_per_s"]) == ("ramp", None)


def test_offline_files(tmp_path: Path) -> None:
    throughput = one(tmp_path / "t", DATA / "throughput.json")
    assert (throughput["phase"], throughput["duration_s"], throughput["num_requests"]) == ("generate", 20.0, 100)
    assert (throughput["requests_per_s"], throughput["total_tokens_per_s"]) == (5.0, 2000.0)
    assert throughput["output_tokens_per_s"] is None
    latency = one(tmp_path / "l", DATA / "latency.json", settings=["batch_size=4"])
    assert (latency["phase"], latency["batch_size"], latency["num_samples"]) == ("generate", 4, 3)
    assert (latency["latency_s"], latency["latency_p90_s"], latency["latency_std_s"]) == (2.0, 2.4, 0.5)
    assert latency["definitions"] == {"latency_s": "wall_clock"}
    assert latency["of"]["latency_s"] == [(1.5, "s"), (2.0, "s"), (2.5, "s")]
    assert latency["of"]["vllm:latency_p10"] == [(1.6, "s")]
    sibling = one(tmp_path / "p", DATA / "latency.pytorch.json")
    assert (sibling["latency_s"], sibling["llm_id"], sibling["weight_dtype"]) == (2.0, "llama-2-7b", "bf16")
    names = ("batch_size", "input_tokens", "output_tokens", "tensor_parallel", "num_devices")
    assert [sibling[name] for name in names] == [8, 32, 128, 2, 2]


def test_a_served_run_as_a_list_of_metrics(tmp_path: Path) -> None:
    result = json.loads((DATA / "serve_appended.json").read_text().splitlines()[0])
    times = {name: result.pop(name) for name in list(result) if name.endswith("_ms")}
    records = [
        {
            "benchmark": {
                "name": "vLLM benchmark",
                "extra_info": {"args": {"tensor_parallel_size": 4, "request_rate": "inf"}},
            },
            "model": {"name": "Qwen/Qwen3-0.6B"},
            "metric": {"name": name, "benchmark_values": [value], "extra_info": {**result, "request_rate": 3.0}},
        }
        for name, value in times.items()
    ]
    file = tmp_path / "serve.pytorch.json"
    file.write_text(json.dumps(records))
    run = one(tmp_path, file)
    assert (run["ttft_s"], run["tensor_parallel"], run["llm_id"]) == (pytest.approx(0.08), 4, "qwen3-0.6b")
    assert (run["num_requests"], run["request_rate_per_s"]) == (100, 3.0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mean_ttft_ms": "8O"}, "no number"),
        ({"completed": 7.5}, "counts nothing"),
        ({"duration": float("inf")}, "larger than anything"),
        ({"mean_ttft_ms": 1e308}, "larger than anything"),
        ({"total_input_tokens": 10**400}, "larger than anything"),
        ({"ttfts": [0.1, 0.2], "itls": [[]]}, "'itls' has 1 entries, 'ttfts' has 2"),
        ({"date": "yesterday"}, "'date' is 'yesterday', which is no time such as"),
        ({"benchmark_start_time_unix": 1e17}, "which is no time since 1970"),
        ({"num_prompts": 1, "completed": 4}, r"'completed' \(4\) is more than 'num_prompts' \(1\)"),
        ({"mean_ttft_ms": -3.0}, "ttft_s"),
    ],
)
def test_what_is_no_result_is_refused_in_a_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    file = written(tmp_path / "broken.json", **changes)
    with pytest.raises(_importing.Unreadable, match=sentence) as refused:
        from_vllm.collect(tmp_path / "landing", files=file, hardware_id="h100-sxm")
    assert "broken.json" in str(refused.value)
    assert not (tmp_path / "landing").exists()


def test_no_device_is_named_by_any_file() -> None:
    with pytest.raises(_importing.Unreadable, match=r"names no hardware\. Give it with --hardware"):
        from_vllm.collect(Path("never"), files=DATA / "serve_detailed.json")
