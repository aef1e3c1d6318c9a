"""MLPerf: values of every shared log as one reads them off it, and hand-written logs and tables with known answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from imported_rows import imported

from collectors import _importing, from_mlperf

DATA = Path(__file__).parent / "data" / "mlperf"
GIVEN = {"hardware_id": "mi300x", "llm_id": "llama-2-70b", "settings": ["num_devices=8"]}


def log(shared: Path, scenario: str) -> Path:
    folder = shared / "data" / "formats" / "mlperf_loadgen"
    return folder / f"amd_mi300x_llama2-70b-99_{scenario}_mlperf_log_summary.txt"


@pytest.mark.parametrize(
    ("name", "qps", "ttft", "tpot", "samples", "tokens", "ttft_p99", "tpot_mean", "e2el_p50"),
    [
        ("Server", 83.5, 2.0, 0.2, 81.68, 24593.77, 1.914647645, 0.144594078, 38.401775522),
        ("Interactive", 29.5, 0.45, 0.04, 29.41, 8840.42, 0.4359761, 0.03210249, 8.60997075),
    ],
)
def test_a_server_log_has_latencies_from_schedule_and_limits(
    shared: Path, tmp_path: Path, name: str, qps: float, ttft: float, tpot: float, samples: float, tokens: float, ttft_p99: float,
    tpot_mean: float, e2el_p50: float,
) -> None:  # fmt: skip
    (run,) = imported(tmp_path, log(shared, name), **GIVEN)
    assert (run["load_pattern"], run["request_rate_per_s"], run["status"]) == ("poisson", qps, "ok")
    assert (run["slo_ttft_s"], run["slo_tpot_s"]) == pytest.approx((ttft, tpot))
    assert (run["requests_per_s"], run["output_tokens_per_s"]) == (samples, tokens)
    assert run["ttft_scheduled_p99_s"] == pytest.approx(ttft_p99)
    assert run["tpot_s"] == pytest.approx(tpot_mean)
    assert run["e2el_scheduled_p50_s"] == pytest.approx(e2el_p50)
    assert (run["ttft_s"], run["e2el_s"]) == (None, None)
    assert run["definitions"] == {
        "requests_per_s": "tokens_over_whole_run", "output_tokens_per_s": "tokens_over_whole_run",
        "e2el_scheduled_s": "last_chunk_scheduled", "ttft_scheduled_s": "first_chunk_scheduled",
        "tpot_s": "e2el_minus_ttft_over_n_minus_1",
    }  # fmt: skip
    assert (run["hardware_id"], run["llm_id"], run["num_devices"]) == ("mi300x", "llama-2-70b", 8)


def test_an_offline_log_is_a_burst_without_limits(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, log(shared, "Offline"), **GIVEN)
    assert (run["load_pattern"], run["request_rate_per_s"], run["slo_ttft_s"]) == ("burst", None, None)
    assert (run["requests_per_s"], run["output_tokens_per_s"]) == (92.1544, 27803.9)
    assert run["e2el_scheduled_s"] == pytest.approx(2653.990953659)
    assert (run["tpot_s"], run["ttft_scheduled_s"]) == (None, None)
    assert run["of"]["mlperf:samples_per_query"] == [(245520.0, "1")]
    assert run["of"]["mlperf:99.90_percentile_latency"] == [(pytest.approx(2666.827686961), "s")]


def test_a_log_names_no_device(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(_importing.Unreadable, match="names no hardware"):
        imported(tmp_path, log(shared, "Server"))


def test_a_detail_log_says_the_same_as_a_summary(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, DATA / "mlperf_log_detail.txt", **GIVEN)
    assert (run["load_pattern"], run["request_rate_per_s"], run["slo_ttft_s"]) == ("poisson", 12.5, 2.0)
    assert (run["requests_per_s"], run["output_tokens_per_s"]) == (12.25, 3675.5)
    assert (run["e2el_scheduled_s"], run["e2el_scheduled_p99_s"]) == (4.5, 9.0)
    assert (run["ttft_scheduled_p99_s"], run["tpot_p99_s"], run["tpot_s"]) == pytest.approx((2.5, 0.15, 0.05))


def test_an_invalid_run_is_a_failure_with_its_figures(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, DATA / "mlperf_log_detail.txt", **GIVEN)
    assert run["status"] == "error"
    assert "judged the run INVALID" in run["status_detail"]
    assert "LoadGen 5.1.0" in run["status_detail"]


def test_what_an_invalid_summary_did_not_meet_is_named(shared: Path, tmp_path: Path) -> None:
    text = log(shared, "Server").read_text().replace("Result is : VALID", "Result is : INVALID")
    path = tmp_path / "log.txt"
    path.write_text(text.replace("Min duration satisfied : Yes", "Min duration satisfied : NO"))
    (run,) = imported(tmp_path / "out", path, **GIVEN)
    assert (run["status"], run["output_tokens_per_s"]) == ("error", 24593.77)
    assert "not met: min duration satisfied" in run["status_detail"]


def test_a_run_for_accuracy_measured_no_speed(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(log(shared, "Offline").read_text().replace("PerformanceOnly", "AccuracyOnly"))
    with pytest.raises(_importing.Unreadable, match="mode AccuracyOnly, which measures no speed"):
        imported(tmp_path / "out", path, **GIVEN)


def test_a_table_of_results_names_devices_and_llms(tmp_path: Path) -> None:
    server, single = sorted(imported(tmp_path, DATA / "summary_results.json"), key=lambda run: -run["num_devices"])
    assert (server["hardware_id"], server["num_devices"], server["llm_id"]) == ("mi300x", 16, "llama-2-70b")
    assert (server["output_tokens_per_s"], server["load_pattern"], server["weight_dtype"]) == (
        20000.5,
        "poisson",
        "fp8",
    )
    assert (server["framework"], server["served_model_name"], server["source_kind"]) == (
        "vLLM 0.4.3+rocm614",
        "llama2-70b-99.9",
        "published",
    )
    assert server["of"]["mlperf:Power_Result"] == [(6100.0, "Watts")]
    assert server["of"]["mlperf:tokens_per_sample"] == [(292.7, "tokens")]
    assert (single["hardware_id"], single["llm_id"], single["status"]) == ("h100-nvl", "gpt-j-6b", "error")
    assert (single["requests_per_s"], single["concurrency"]) == (None, 1)
    assert single["of"]["mlperf:Performance_Result"] == [(450.5, "Latency (ms)")]
    assert "3 errors" in single["status_detail"]


def test_the_checkers_csv_reads_like_the_table(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, DATA / "summary.csv")
    assert (run["hardware_id"], run["num_devices"], run["llm_id"]) == ("h200", 8, "mixtral-8x7b")
    assert (run["output_tokens_per_s"], run["load_pattern"], run["framework"]) == (52416.0, "burst", "TensorRT 10.2.0")
    assert "Example, closed division, Offline." in run["status_detail"]


def test_results_of_unknown_devices_are_left_out_and_named(tmp_path: Path) -> None:
    rows = json.loads((DATA / "summary_results.json").read_text())
    rows[2]["Accelerator"] = "Abacus 9000"
    path = tmp_path / "summary_results.json"
    path.write_text(json.dumps(rows))
    (run,) = imported(tmp_path / "out", path)
    assert "Left out, on devices that are not in the hardware catalogue: Abacus 9000 (1)." in run["status_detail"]
    path.write_text(json.dumps(rows[2:]))
    with pytest.raises(_importing.Unreadable, match="holds no result that can be placed"):
        imported(tmp_path / "none", path)


@pytest.mark.parametrize(
    ("printed", "device"),
    [
        ("AMD Instinct MI300X-NPS1-SPX-192GB-750W", "mi300x"), ("NVIDIA H200-SXM-141GB", "h200"), ("NVIDIA H100-PCIe-80GB", "h100-pcie"),
        ("NVIDIA A100-SXM-80GB", "a100-sxm-80gb"), ("NVIDIA L40S", "l40s"), ("", None), ("NVIDIA H100-SXM-12GB", None),
    ],
)  # fmt: skip
def test_devices_are_named_with_their_memory(printed: str, device: str | None) -> None:
    assert from_mlperf._device(printed) == device


@pytest.mark.parametrize(
    "last", ["Mean latency (ns)               : 435796", "99.00 percentile", "target_qps : 8", "Mode"]
)
def test_a_summary_cut_off_anywhere_is_refused(shared: Path, tmp_path: Path, last: str) -> None:
    text = log(shared, "Server").read_text()
    path = tmp_path / "log.txt"
    path.write_text(text[: text.index(last) + len(last)])
    with pytest.raises(_importing.Unreadable, match=r"log\.txt .*(cut off|no figure)"):
        imported(tmp_path / "out", path, **GIVEN)


def test_a_figure_that_is_no_number_is_refused_by_its_name(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(log(shared, "Server").read_text().replace(": 193380124", ": 19338O124"))
    with pytest.raises(_importing.Unreadable, match="'19338O124', which is no number"):
        imported(tmp_path / "out", path, **GIVEN)
