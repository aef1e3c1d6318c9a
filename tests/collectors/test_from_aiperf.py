"""aiperf's and genai-perf's exports: real files of three generations and of a sweep, and a run of ours with 0.13."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from imported_rows import imported
from landed_rows import landed

from collectors import _importing, from_aiperf
from warehouse import definitions, schema

DATA = Path(__file__).parent / "data" / "aiperf"
"""Made by aiperf 0.13: 2 requests of warm-up and 8 measured ones of 6 tokens, 2 in flight; the server writes the first token after
50 ms, the next ones every 5 ms, and fails every fourth request. One key of the run is in the file: the tool hides only its own."""


def one(landing: Path, file: Path, **options: Any) -> dict[str, Any]:
    (run,) = imported(landing, file, **{"hardware_id": "h100-sxm", **options})
    return run


def sample(shared: Path, *names: str) -> Path:
    return (shared / "data" / "formats" / names[0]).joinpath(*names[1:])


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_generation_1(shared: Path, tmp_path: Path) -> None:
    run = one(tmp_path, sample(shared, "aiperf", "v2025-10_records_schema", "profile_export_aiperf.json"))
    assert (run["llm_id"], run["load_pattern"], run["concurrency"]) == ("gpt-oss-20b", "closed", 100)
    assert (run["num_samples"], run["num_requests"], run["num_failed_requests"]) == (89, 89, 0)
    assert "11 requests that the tool cancelled are left out" in run["status_detail"]
    assert run["ttft_s"] == pytest.approx(2.343219436988764)
    assert run["ttst_p99_s"] == pytest.approx(0.14291884412)
    assert run["tpot_s"] == pytest.approx(0.027763065454471807), "what it calls inter token latency"
    assert run["itl_s"] is None
    assert run["icl_p99_s"] == pytest.approx(0.14053429476)
    assert run["icl_std_s"] == pytest.approx(23.881484709609396e-3 * (21537 / 21536) ** 0.5)
    assert run["ttft_std_s"] == pytest.approx(1.0498164554204095 * (89 / 88) ** 0.5)
    assert run["duration_s"] == 9.317788951
    assert run["output_tokens_per_s"] == pytest.approx(2320.7222350404572)
    assert run["collected_at"].isoformat() == "2025-10-03T20:13:39.154569+00:00", (
        "of the stamp in ns: the other has no zone"
    )
    assert run["of"]["aiperf:reasoning_token_count_mean"] == [(pytest.approx(222.38202247191), "tokens")]
    assert run["definitions"] == {
        "ttft_s": "first_nonempty_chunk", "ttst_s": "second_chunk", "tpot_s": "e2el_minus_ttft_over_n_minus_1",
        "icl_s": "per_chunk_pooled", "e2el_s": "last_chunk", "requests_per_s": "tokens_over_whole_run",
        "output_tokens_per_s": "tokens_over_whole_run",
    }  # fmt: skip


def test_generation_1_by_request_gives_its_summary_again(shared: Path, tmp_path: Path) -> None:
    folder = sample(shared, "aiperf", "v2025-10_records_schema")
    summary = one(tmp_path / "s", folder / "profile_export_aiperf.json")
    single = one(tmp_path / "r", folder / "profile_export.jsonl.gz")
    assert len(landed(tmp_path / "r", "requests")) == 89, "the 11 that the tool cancelled are left out"
    for name in (
        "ttft_s",
        "ttft_p50_s",
        "ttft_std_s",
        "tpot_s",
        "tpot_p75_s",
        "e2el_s",
        "ttst_s",
        "icl_s",
        "icl_p50_s",
        "icl_std_s",
    ):
        assert single[name] == pytest.approx(summary[name], rel=1e-6), name
    for name in ("duration_s", "requests_per_s", "output_tokens_per_s"):
        assert single[name] == pytest.approx(summary[name], rel=1e-6), name


def test_generation_2_names_its_device_and_may_hold_nulls(shared: Path, tmp_path: Path) -> None:
    folder = sample(shared, "aiperf", "v2025-11_flat_schema")
    run = one(tmp_path, folder / "qwen_c1_profile_export_aiperf.json", hardware_id=None)
    assert (run["hardware_id"], run["llm_id"], run["concurrency"]) == ("rtx-6000-ada", "qwen3-0.6b", 1)
    assert "2 GPUs were watched" in run["status_detail"]
    assert run["num_devices"] is None
    assert run["of"]["aiperf:gpu_power_usage_mean"][0] == (pytest.approx(129.88544972), "W")
    assert len(run["of"]["aiperf:gpu_power_usage_mean"]) == 2
    assert run["of"]["aiperf:energy_consumption_mean"][0] == (pytest.approx(32.6402043566), "MJ")
    assert run["power_avg_w"] is None
    assert (run["num_samples"], run["is_output_fixed"], run["goodput_requests_per_s"]) == (64, True, None)
    assert (run["input_tokens"], run["output_tokens"]) == (100, 200)
    assert run["e2el_std_s"] == pytest.approx(70.34527181408323e-3 * (64 / 63) ** 0.5)
    assert run["tpot_std_s"] is None, "how many answers had two tokens is not in the file"
    assert not any("test-host" in str(landed(tmp_path, table)) for table in ("runs", "samples", "sources"))


def test_generation_3(shared: Path, tmp_path: Path) -> None:
    folder = sample(shared, "aiperf", "v0.8.0_schema1.2")
    run = one(tmp_path / "j", folder / "profile_export_aiperf.json")
    assert (run["num_samples"], run["duration_s"]) == (195, 3542.81860992)
    assert run["is_output_fixed"] is None, "answers as long as those of a trace, from 2 to 17710 tokens"
    assert run["e2el_p50_s"] == pytest.approx(9.408376876)
    assert run["requests_per_s"] == pytest.approx(0.053718967521882)
    assert run["total_tokens_per_s"] == pytest.approx(5271.12355038)
    assert (run["concurrency_mean"], run["concurrency_max"]) == (pytest.approx(1.3678674154551), 4.0)
    assert run["of"]["aiperf:usage_completion_tokens_mean"] == [(pytest.approx(1092.3948717949), "tokens")]
    assert run["of"]["aiperf:http_req_data_sent_p99"] == [(pytest.approx(960.7930078125), "KB")]
    assert "Measured by aiperf 0.8.0." in run["status_detail"]
    table = one(tmp_path / "c", folder / "profile_export_aiperf.csv")
    for name, value in run.items():
        is_time = isinstance(value, float) and name.endswith("_s") and not name.endswith("per_s")
        if is_time and name not in (
            "tpot_std_s",
            "ttst_std_s",
            "ttfo_std_s",
            "icl_std_s",
        ):  # the table prints no counts
            assert table[name] == pytest.approx(value, abs=6e-6 if name != "duration_s" else 0.006), name
    assert table["of"]["aiperf:http_waiting_ttfb_mean"] == [(10258.63, "ms")]


def test_generation_3_by_request(shared: Path, tmp_path: Path) -> None:
    run = one(tmp_path, sample(shared, "aiperf", "v0.8.0_schema1.2", "profile_export.first120.jsonl.gz"))
    requests = landed(tmp_path, "requests")
    assert [row["sample_phase"] for row in requests].count("warmup") == 1
    assert (run["num_samples"], run["num_requests"], len(requests)) == (119, 119, 120)
    warmup = requests[0]
    assert (warmup["output_tokens"], warmup["ttft_s"], warmup["tpot_s"]) == (1, pytest.approx(39.641874685), None)
    assert requests[1]["scheduled_at_s"] == pytest.approx(42.573438464)
    assert {row["token_count_source"] for row in requests} == {"usage"}
    exact = definitions.per_request(pa.Table.from_pylist(requests, schema=schema.REQUESTS.arrow))
    for name in ("ttft_s", "e2el_s", "tpot_s"):
        told = np.array([row[name] if row[name] is not None else np.nan for row in requests])
        assert np.allclose(exact[name], told, rtol=1e-6, equal_nan=True), name


def test_a_run_of_ours(tmp_path: Path) -> None:
    run = one(tmp_path, DATA / "profile_export_aiperf.json")
    assert (run["load_pattern"], run["concurrency"], run["served_model_name"]) == ("closed", 2, "tiny")
    assert (run["num_samples"], run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (6, 8, 2, 0.75)
    assert run["ttft_s"] == pytest.approx(0.0527974825)
    assert run["tpot_s"] == pytest.approx(0.0052024457333)
    assert run["e2el_s"] == pytest.approx(0.0788097111667)
    assert run["duration_s"] == 0.257789184, "first send to last end"
    assert run["requests_per_s"] == pytest.approx(6 / 0.262832, rel=1e-5), "over the phase, end_time - start_time"
    assert run["e2el_scheduled_s"] is None


def test_the_requests_of_ours_give_its_summary_again(tmp_path: Path) -> None:
    summary = json.loads((DATA / "profile_export_aiperf.json").read_text())
    single = one(tmp_path, DATA / "profile_export.jsonl")
    rows = landed(tmp_path, "requests")
    assert [(row["sample_phase"], row["status"]) for row in rows].count(("warmup", "ok")) == 1
    done = [row for row in rows if row["sample_phase"] == "measured" and row["status"] == "ok"]
    exact = definitions.per_request(pa.Table.from_pylist(done, schema=schema.REQUESTS.arrow))
    gaps = definitions.pooled(pa.Table.from_pylist(done, schema=schema.REQUESTS.arrow))["icl_s"]
    for column, tool in (
        ("ttft_s", "time_to_first_token"), ("e2el_s", "request_latency"), ("tpot_s", "inter_token_latency"), ("ttst_s", "time_to_second_token"),
    ):  # fmt: skip
        assert np.mean(exact[column]) * 1e3 == pytest.approx(summary[tool]["avg"], rel=1e-9), column
        assert np.percentile(exact[column], 99) * 1e3 == pytest.approx(summary[tool]["p99"], rel=1e-9), column
        assert np.std(exact[column]) * 1e3 == pytest.approx(summary[tool]["std"], rel=1e-6), column
        assert single[column] == pytest.approx(np.mean(exact[column]), rel=1e-9)
    assert len(gaps) == summary["inter_chunk_latency"]["count"] == 30
    assert np.percentile(gaps, 90) * 1e3 == pytest.approx(summary["inter_chunk_latency"]["p90"], rel=1e-9)
    for column, tool in (("requests_per_s", "request_throughput"), ("output_tokens_per_s", "output_token_throughput")):
        assert single[column] == pytest.approx(summary[tool]["avg"] * 0.262832 / 0.257789184, rel=1e-4), column
    failed = [row for row in rows if row["status"] == "error"]
    assert [row["http_status"] for row in failed] == [500] * 3


def test_the_table_of_ours_agrees_with_the_json(tmp_path: Path) -> None:
    table, run = (
        one(tmp_path / "t", DATA / "profile_export_aiperf.csv"),
        one(tmp_path / "j", DATA / "profile_export_aiperf.json"),
    )
    assert table["definitions"] == run["definitions"]
    for name in run["definitions"]:
        assert table[name] == pytest.approx(run[name], rel=2e-3), name
    with (DATA / "profile_export_aiperf.csv").open() as lines:
        printed = {row[0]: row for row in csv.reader(lines) if row}
    assert table["ttft_p90_s"] == pytest.approx(float(printed["Time to First Token (ms)"][11]) / 1e3)


def test_what_the_tool_leaves_in_its_files_does_not_land(tmp_path: Path) -> None:
    assert "planted-secret" in (DATA / "profile_export_aiperf.json").read_text(), (
        "a header that the tool keeps in cli_command"
    )
    content = json.loads((DATA / "profile_export_aiperf.json").read_text())
    content["input_config"]["endpoint"] |= {"api_key": "planted-secret", "urls": ["http://u:planted-secret@10.1.2.3"]}
    content["error_summary"][0]["error_details"]["message"] = "api_key=planted-secret"
    files = [written(tmp_path / "summary.json", content), *DATA.glob("profile_export*")]
    assert _importing.collect(tmp_path / "landing", files=files, hardware_id="h100-sxm").num_runs == len(files)
    everything = [
        row
        for path in (tmp_path / "landing").glob("*/*.parquet")
        for row in landed(tmp_path / "landing", path.parent.name)
    ]
    assert everything
    assert not any(word in str(row) for row in everything for word in ("planted-secret", "10.1.2.3", "127.0.0.1"))


def test_genai_perf_with_every_unit_of_time(tmp_path: Path) -> None:
    run = one(tmp_path, DATA / "profile_export_genai_perf.json")
    assert (run["llm_id"], run["concurrency"], run["load_pattern"], run["num_samples"]) == ("gpt2", 4, "closed", 16)
    assert run["e2el_s"] == pytest.approx(0.5), "ms"
    assert run["ttft_p99_s"] == pytest.approx(0.052), "us"
    assert run["ttst_s"] == pytest.approx(0.02), "ns"
    assert run["tpot_p25_s"] == pytest.approx(0.018), "s"
    assert run["of"]["genai_perf:gpu_power_usage_mean"] == [(300.0, "W"), (310.0, "W")]
    assert run["hardware_id"] == "h100-sxm"


def test_a_time_in_an_unknown_unit_is_no_column(tmp_path: Path) -> None:
    content = json.loads((DATA / "profile_export_genai_perf.json").read_text())
    content["time_to_first_token"]["unit"] = "fortnights"
    content["request_throughput"]["unit"] = "requests/hour"
    run = one(tmp_path / "landing", written(tmp_path / "file.json", content))
    assert (run["ttft_s"], run["ttft_p99_s"], run["requests_per_s"]) == (None, None, None)
    assert "ttft_s" not in run["definitions"]
    assert run["of"]["genai_perf:time_to_first_token_mean"] == [(40000.0, "fortnights")]
    assert run["of"]["genai_perf:request_throughput_mean"] == [(4.0, "requests/hour")]


def test_a_sweep_of_genai_perf_as_table_and_as_checkpoint(shared: Path, tmp_path: Path) -> None:
    table = imported(
        tmp_path / "t", sample(shared, "genai_perf", "analyze_export_genai_perf.csv"), hardware_id="rtx-a5000"
    )
    exact = imported(tmp_path / "c", sample(shared, "genai_perf", "checkpoint.json"), hardware_id="rtx-a5000")
    assert [run["source_cell"] for run in table] == [f"gpt2_run_config_{number}" for number in (3, 0, 4, 1, 2)]
    first = table[0]
    assert (first["llm_id"], first["concurrency"], first["input_tokens"]) == ("gpt2", 32, 200)
    assert (first["ttft_s"], first["ttft_p99_s"]) == (None, pytest.approx(0.18443))
    assert (first["tpot_p99_s"], first["e2el_p99_s"]) == (pytest.approx(0.0309), pytest.approx(3.40624))
    assert (first["output_tokens_per_s"], first["requests_per_s"]) == (1134.92, 10.12)
    assert first["of"]["genai_perf:num_prompts"] == [(175.0, "")]
    assert first["of"]["genai_perf:gpu_energy_consumption_p99"] == [(0.12, "MJ")]
    assert {run["source_cell"] for run in exact} == {run["source_cell"] for run in table}
    by_cell = {run["source_cell"]: run for run in exact}
    for run in table:
        other = by_cell[run["source_cell"]]
        assert (other["concurrency"], other["llm_id"]) == (32, "gpt2")
        for name in ("ttft_p99_s", "tpot_p99_s", "e2el_p99_s", "output_tokens_per_s", "requests_per_s"):
            assert run[name] == pytest.approx(other[name], rel=1e-3), name
    assert by_cell["gpt2_run_config_3"]["of"]["genai_perf:gpu_power_usage_p99"] == [(pytest.approx(80.43293), "W")]


def test_counters_of_the_server(shared: Path, tmp_path: Path) -> None:
    run = one(tmp_path, sample(shared, "aiperf", "v0.8.0_schema1.2", "server_metrics_export.csv"))
    assert (run["framework"], run["served_model_name"]) == ("vllm", "amd/Kimi-K2.7-Code-MXFP4")
    assert run["prefix_cache_hit_ratio"] == pytest.approx(17690047 / 19129495)
    assert run["of"]["aiperf:vllm:request_success{finished_reason=length}_total"] == [(195.0, "requests")]
    assert run["of"]["aiperf:process_resident_memory_bytes_mean"] == [(1783906564.6785, "bytes")]
    assert run["ttft_s"] is None


def test_a_log_of_perf_analyzer(shared: Path, tmp_path: Path) -> None:
    file = sample(shared, "genai_perf", "example-perf_analyzer_console_output.txt")
    runs = imported(tmp_path, file, hardware_id="h100-sxm", llm_id="llama-3.2-1b")
    assert [run["concurrency"] for run in runs] == [1, 1, 25, 25, 50, 50, 100, 100]
    assert [(run["input_tokens"], run["output_tokens"]) for run in runs] == [(128, 128), (4096, 512)] * 4
    first = runs[0]
    assert (first["llm_id"], first["num_samples"], first["source_cell"]) == ("llama-3.2-1b", 200, "line 2")
    assert (first["e2el_s"], first["e2el_p99_s"]) == (pytest.approx(0.336431), pytest.approx(0.389978)), "microseconds"
    assert first["requests_per_s"] == 2.94101
    assert first["ttft_s"] is None, "what the script calls TTFT it does not say"
    assert first["of"]["genai_perf:token_level_ttft_mean"] == [(28.47, "ms")]
    assert first["of"]["genai_perf:token_level_ttft_p99"] == [(19.91, "ms")]
    assert first["of"]["genai_perf:token_level_output_tokens_per_s_mean"] == [(386.31, "tokens/sec")]
    assert first["definitions"] == {"e2el_s": "end_of_response", "requests_per_s": "tokens_over_whole_run"}


def test_an_open_loop_says_its_rate(tmp_path: Path) -> None:
    content = json.loads((DATA / "profile_export_aiperf.json").read_text())
    content["input_config"]["phases"] = [
        {"name": "profiling", "kind": "profiling", "type": "poisson", "requests": 5, "rate": 40.0}
    ]
    run = one(tmp_path / "landing", written(tmp_path / "file.json", content))
    assert (run["load_pattern"], run["request_rate_per_s"], run["concurrency"]) == ("poisson", 40.0, None)


def test_a_run_in_which_all_failed(tmp_path: Path) -> None:
    content = {
        "error_request_count": {"unit": "requests", "avg": 3.0}, "request_latency": None, "input_config": {"models": {"items": [{"name": "tiny"}]}},
        "benchmark_duration": {"unit": "sec", "avg": 1.5}, "time_to_first_token": None, "was_cancelled": True,
    }  # fmt: skip
    run = one(tmp_path / "landing", written(tmp_path / "file.json", content))
    assert (run["status"], run["num_requests"], run["num_failed_requests"], run["success_rate"]) == ("error", 3, 3, 0.0)
    assert (run["ttft_s"], run["duration_s"], run["requests_per_s"]) == (None, 1.5, None)
    assert "The run was cancelled before its end." in run["status_detail"]


def test_a_device_that_no_catalogue_knows_is_refused(shared: Path, tmp_path: Path) -> None:
    content = json.loads(
        sample(shared, "aiperf", "v2025-11_flat_schema", "qwen_c1_profile_export_aiperf.json").read_text()
    )
    for endpoint in content["telemetry_data"]["endpoints"].values():
        endpoint["gpus"]["gpu_0"]["gpu_name"] = "Abacus 9000"
    with pytest.raises(_importing.Unreadable, match="'Abacus 9000', which is not in the hardware catalogue"):
        from_aiperf.collect(tmp_path / "landing", files=written(tmp_path / "file.json", content))


@pytest.mark.parametrize(
    "name", ["profile_export_aiperf.json", "profile_export.jsonl", "profile_export_genai_perf.json"]
)
def test_a_file_that_is_cut_off_lands_nothing(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.gz"
    file.write_bytes(gzip.compress((DATA / name).read_bytes().rstrip()[:-20]))
    with pytest.raises(_importing.Unreadable, match="is not JSON"):
        from_aiperf.collect(tmp_path / "landing", files=file, hardware_id="h100-sxm")
    assert not (tmp_path / "landing").exists()


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"Metric,avg,min,max\nTime to\rFirst Token (ms),1.0,2.0,3.0\n")
    with pytest.raises(_importing.Unreadable, match=r"table\.csv"):
        from_aiperf.collect(tmp_path / "landing", files=file, hardware_id="h100-sxm")


def test_a_table_whose_rows_have_another_width_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("Metric,avg,min,max\nTime to First Token (ms),1.0,2.0\n")
    with pytest.raises(_importing.Unreadable, match=r"table\.csv.* has 3 cells, its table 4 columns"):
        from_aiperf.collect(tmp_path / "landing", files=file, hardware_id="h100-sxm")
