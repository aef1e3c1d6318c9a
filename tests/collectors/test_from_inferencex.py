"""Results of InferenceX: values of every shared sample as one reads them off the file, and small files with known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported

from collectors import _importing, from_inferencex

AGGREGATE: dict[str, Any] = {
    "hw": "h200-nb", "conc": 128, "image": "registry.example/vllm/vllm-openai:v0.11.0", "model": "openai/gpt-oss-120b",
    "infmax_model_prefix": "gptoss", "framework": "vllm", "precision": "fp4", "spec_decoding": "none", "disagg": False, "isl": 1024,
    "osl": 8192, "is_multinode": False, "tp": 4, "ep": 1, "dp_attention": "false", "tput_per_gpu": 300.0,
    "output_tput_per_gpu": 200.0, "input_tput_per_gpu": 100.0, "mean_ttft": 0.5, "std_ttft": 0.1,
    "mean_tpot": 0.02, "std_tpot": 0.001, "std_intvty": 1000.0, "p99_intvty": 40.0,
}  # fmt: skip


def formats(shared: Path, name: str) -> Path:
    return next((shared / "data" / "formats" / "inferencemax_agg").glob(f"{name}*"))


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "agg.json"
    path.write_text(json.dumps(AGGREGATE | changes))
    return path


@pytest.mark.parametrize(
    ("name", "concurrency", "inputs", "ttft_p99", "tpot", "total"),
    [
        ("agg_kimik2.5_1k1k", 4, 1024, 0.5859901384473777, 0.017294128568510713, 8 * 55.62670336516291),
        ("agg_kimik2.5_8k1k_int4_vllm_tp8-ep1-dpafalse_disagg-false_spec-mtp_conc32", 32, 8192, 14.490030684259256, 0.2241063620785443,
         8 * 157.12165563281164),
        ("agg_kimik2.5_8k1k_int4_vllm_tp8-ep1-dpafalse_disagg-false_spec-mtp_conc64", 64, 8192, 25.79388037742116, 0.30013553021912454,
         8 * 234.47462632067425),
    ],
)  # fmt: skip
def test_aggregates_are_in_seconds_and_per_device(
    shared: Path, tmp_path: Path, name: str, concurrency: int, inputs: int, ttft_p99: float, tpot: float, total: float
) -> None:
    (run,) = imported(tmp_path, formats(shared, name))
    assert (run["hardware_id"], run["num_devices"], run["tensor_parallel"]) == ("mi355x", 8, 8)
    assert (run["llm_id"], run["framework"], run["framework_version"]) == ("kimi-k2.5", "vllm", "0.21.0")
    assert (run["load_pattern"], run["concurrency"], run["input_tokens"], run["output_tokens"]) == (
        "closed",
        concurrency,
        inputs,
        1024,
    )
    assert (run["weight_dtype"], run["optimizations"], run["source_kind"]) == ("int4", ["speculative"], "published")
    assert (run["ttft_p99_s"], run["tpot_s"]) == (ttft_p99, tpot)
    assert run["total_tokens_per_s"] == pytest.approx(total)
    assert run["num_prefill_devices"] is None


def test_every_metric_of_an_aggregate_has_its_definition(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, formats(shared, "agg_kimik2.5_1k1k"))
    assert run["definitions"] == {
        "ttft_s": "first_nonempty_chunk", "tpot_s": "e2el_minus_ttft_over_n_minus_1", "icl_s": "per_chunk_pooled", "e2el_s": "last_chunk",
        **dict.fromkeys(("total_tokens_per_s", "input_tokens_per_s", "output_tokens_per_s"), "tokens_over_whole_run"),
    }  # fmt: skip
    assert (run["icl_s"], run["e2el_p50_s"]) == (0.04869889880906398, 16.2612041993998)
    assert run["itl_s"] is None
    assert run["output_tokens_per_s"] == pytest.approx(8 * 27.678011491816765)
    assert run["ttft_std_s"] is None
    assert run["of"]["inferencex:std_ttft"] == [(0.0725235775538713, "s")]
    assert run["of"]["inferencex:p99.9_e2el"] == [(18.445460162415404, "s")]
    assert run["of"]["inferencex:p99_intvty"] == [(54.17128204341814, "tokens/s")]
    assert run["of"]["inferencex:output_tput_per_gpu"] == [(27.678011491816765, "tokens/s/device")]


def test_the_spread_of_interactivity_is_no_figure(tmp_path: Path) -> None:
    (run,) = imported(tmp_path / "out", written(tmp_path))
    assert not [name for name in run["of"] if "std_intvty" in name]
    assert run["hardware_id"] == "h200"
    assert run["framework_version"] == "0.11.0"


def test_devices_apart_divide_what_they_produce(tmp_path: Path) -> None:
    apart = {"disagg": True, "is_multinode": True, "prefill_tp": 8, "decode_tp": 16, "prefill_ep": 8, "decode_ep": 8,
             "num_prefill_gpu": 8, "num_decode_gpu": 16, "prefill_dp_attention": "true", "decode_dp_attention": "true"}  # fmt: skip
    path = written(tmp_path, **apart)
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in ("tp", "ep")})
    )
    (run,) = imported(tmp_path / "out", path)
    assert (run["num_devices"], run["num_prefill_devices"], run["num_decode_devices"]) == (24, 8, 16)
    assert (run["tensor_parallel"], run["expert_parallel"]) == (None, 8)
    assert run["output_tokens_per_s"] == 200.0 * 16
    assert run["input_tokens_per_s"] == 100.0 * 8
    assert run["total_tokens_per_s"] == 300.0 * 24
    assert run["optimizations"] == ["dp_attention"]
    assert "differ in tensor parallelism" in run["status_detail"]


def test_attention_is_not_data_parallel_because_a_string_is_true(tmp_path: Path) -> None:
    (run,) = imported(tmp_path / "out", written(tmp_path, dp_attention="false"))
    assert run["optimizations"] == []


def test_an_agentic_run_counts_what_was_measured(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, formats(shared, "agentic"))
    assert (run["hardware_id"], run["num_devices"], run["concurrency"]) == ("mi355x", 8, 4)
    assert (run["ttft_s"], run["ttft_p50_s"], run["ttft_p75_s"], run["ttft_p95_s"]) == (
        9.22567,
        7.50857,
        14.16949,
        23.95777,
    )
    assert (run["tpot_s"], run["e2el_p90_s"], run["icl_s"]) == (0.02129, 53.51922, None)
    assert (run["output_tokens_per_s"], run["total_tokens_per_s"]) == (164.23357, 19382.84224)
    assert (run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (667, 0, 1.0)
    assert "2 requests failed" in run["status_detail"]
    assert (run["input_tokens"], run["output_tokens"], run["duration_s"]) == (102100, 873, 3543.48388)
    assert run["prefix_cache_hit_ratio"] == 0.96143
    assert run["of"]["inferencex:latency.itl.mean"] == [(0.02129, "s")]
    assert run["of"]["inferencex:latency.ttft.std"] == [(8.44306, "s")]
    assert run["served_model_name"] == "amd/Kimi-K2.7-Code-MXFP4"


def test_a_baseline_is_in_milliseconds(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, formats(shared, "together"))
    assert (run["hardware_id"], run["llm_id"], run["num_devices"], run["expert_parallel"]) == (
        "b200",
        "gpt-oss-120b",
        4,
        None,
    )
    assert run["ttft_p50_s"] == pytest.approx(0.04131946759298444)
    assert run["e2el_p99_s"] == pytest.approx(6.46604463822674)
    assert run["icl_p50_s"] == pytest.approx(0.004402743652462959)
    assert (run["ttft_s"], run["power_avg_w"]) == (None, None)
    assert (run["requests_per_s"], run["total_tokens_per_s"]) == (56.17377760687837, 37332.66997349921)
    assert run["of"]["inferencex:gpu.total_avg_power_w"] == [(2534.4, "W")]
    assert "Power is of 8 devices, of which 4 were used" in run["status_detail"]
    assert run["collected_at"].isoformat() == "2026-06-12T00:31:52+00:00"


def test_a_token_position_file_names_no_device(shared: Path, tmp_path: Path) -> None:
    path = formats(shared, "token_position")
    with pytest.raises(_importing.Unreadable, match="names no hardware"):
        imported(tmp_path, path)
    (run,) = imported(tmp_path, path, hardware_id="h200", settings=["tensor_parallel=8", "num_devices=8"])
    assert (run["llm_id"], run["input_tokens"], run["output_tokens"]) == ("minimax-m2.5", 26624, 128)
    assert (run["ttft_p50_s"], run["tpot_p99_s"]) == (11.417900312691927, 0.16616485862868038)
    assert (run["num_requests"], run["num_failed_requests"], run["concurrency"]) == (160, 0, 16)
    assert (run["goodput_requests_per_s"], run["output_tokens_per_s"]) == (None, 99.09416608757954)
    assert run["collected_at"].isoformat() == "2026-02-14T21:42:13+00:00"


def test_the_dashboard_prints_seconds_under_headers_of_milliseconds(shared: Path, tmp_path: Path) -> None:
    runs = imported(tmp_path, formats(shared, "dashboard"))
    first = next(run for run in runs if run["source_cell"] == "row 1")
    assert len(runs) == sum(
        line.startswith("gpt-oss") for line in formats(shared, "dashboard").read_text().splitlines()
    )
    assert (first["hardware_id"], first["tensor_parallel"], first["concurrency"]) == ("h200", 8, 4)
    assert (first["ttft_s"], first["tpot_s"], first["e2el_s"]) == (
        0.04011935685994104,
        0.0036954017349367417,
        3.427704488183372,
    )
    assert first["total_tokens_per_s"] == pytest.approx(8 * 260.6199555620595)
    assert first["of"]["inferencex:mean_intvty"] == [(270.60657317603335, "tokens/s")]
    assert first["collected_at"].date().isoformat() == "2026-06-05"
    assert {run["load_pattern"] for run in runs} == {"closed"}


@pytest.mark.parametrize(
    ("printed", "device"),
    [
        ("cluster:mi355x-amds", "mi355x"),
        ("h200_vllm", "h200"),
        ("gb200-nvl72", "gb200"),
        ("b200", "b200"),
        ("TPU v6e", "TPU v6e"),
    ],
)
def test_names_of_owners_are_cut_off_devices(printed: str, device: str) -> None:
    assert from_inferencex._device(printed) == device


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tp": "eight"}, "'tp' is 'eight', which is no number"),
        ({"mean_ttft": "abc"}, "'mean_ttft' is 'abc', which is no number"),
        ({"tput_per_gpu": 1e300}, "'tput_per_gpu' is 1e\\+300, larger than anything"),
        ({"conc": 1e30}, "'conc' is 1e\\+30, larger than anything"),
        ({"tp": None}, "throughput is per device"),
        ({"disagg": True, "num_prefill_gpu": 8}, "throughput is per device"),
        ({"conc": -4}, "'conc' is -4, which counts nothing"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(_importing.Unreadable, match=sentence):
        imported(tmp_path / "out", written(tmp_path, **changes))
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_digits_as_text_are_a_number_of_devices(tmp_path: Path) -> None:
    (run,) = imported(tmp_path / "out", written(tmp_path, tp="8"))
    assert (run["num_devices"], run["total_tokens_per_s"]) == (8, 2400.0)


def test_a_file_without_hardware_takes_the_one_given(tmp_path: Path) -> None:
    path = written(tmp_path, hw=None)
    with pytest.raises(_importing.Unreadable, match="names no hardware"):
        imported(tmp_path / "none", path)
    (run,) = imported(tmp_path / "out", path, hardware_id="h200")
    assert run["hardware_id"] == "h200"


def test_a_table_cut_off_within_a_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    header = [*from_inferencex._DASHBOARD, "Hardware Key"]
    path.write_text(",".join(header) + "\ngpt-oss-120b,1024,1024,h2")
    with pytest.raises(_importing.Unreadable, match="row 1 has another number of cells than the header"):
        imported(tmp_path / "out", path)


@pytest.mark.parametrize(
    ("completed", "date", "sentence"),
    [
        (9, "20260214-214213", r"'completed' \(9\) is more than 'num_prompts' \(8\)"),
        (8, "20269999-214213", "'date' is '20269999"),
    ],
)
def test_a_position_file_that_contradicts_itself_is_refused(
    tmp_path: Path, completed: int, date: str, sentence: str
) -> None:
    path = tmp_path / "position.json"
    content = {"good_completed": 8, "median_ttft": 0.5, "max_concurrency": 4, "num_prompts": 8, "completed": completed, "date": date,
               "total_input_tokens": 80, "total_output_tokens": 80}  # fmt: skip
    path.write_text(json.dumps(content))
    with pytest.raises(_importing.Unreadable, match=sentence):
        imported(tmp_path / "out", path, hardware_id="h200")
