"""llm-d Benchmark Reports: values of every shared example as one reads them off the file, and a hand-written report with known answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported

from collectors import _importing, from_llmd_report

DATA = Path(__file__).parent / "data" / "llmd_report"
REPORT = DATA / "v0_2_1_vllm.json"


def example(shared: Path, version: str) -> Path:
    return shared / "data" / "formats" / "llmd_benchmark_report" / f"br_v{version}_example.yaml"


def changed(path: Path, tool: str, unit: str | None = None) -> Path:
    report = json.loads(REPORT.read_text())
    report["scenario"]["load"]["standardized"]["tool"] = tool
    if unit is not None:
        report["results"]["request_performance"]["aggregate"]["latency"]["time_to_first_token"]["units"] = unit
    path.write_text(json.dumps(report))
    return path


@pytest.mark.parametrize("version", ["0_2", "0_2_1"])
def test_an_example_of_version_2_is_in_seconds(shared: Path, tmp_path: Path, version: str) -> None:
    (run,) = imported(tmp_path, example(shared, version))
    assert (run["hardware_id"], run["num_devices"], run["tensor_parallel"], run["llm_id"]) == (
        "h100-sxm",
        16,
        8,
        "qwen3-0.6b",
    )
    assert (run["framework"], run["framework_version"]) == ("llm-d", "0.3.1")
    assert (run["request_rate_per_s"], run["concurrency"], run["load_pattern"]) == (10.0, None, None)
    assert (run["input_tokens"], run["output_tokens"], run["duration_s"]) == (2148, 1000, 49.97206788184121)
    assert (run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (500, 0, 1.0)
    assert (run["ttft_s"], run["ttft_p99_s"], run["tpot_s"]) == (0.0368578234128654, 0.05029489721637218, None)
    assert run["of"]["llmd_report:time_per_output_token.mean"] == [(0.0368578234128654, "s/token")]
    assert run["of"]["llmd_report:observability.components.vllm-svc-0.aggregate.kv_cache_usage.mean"] == [
        (pytest.approx(0.425), "1")
    ]
    assert run["of"]["llmd_report:observability.components.vllm-svc-0.aggregate.gpu_memory_usage.mean"] == [
        (62.4 * 2**30, "B")
    ]
    assert run["of"]["llmd_report:session_performance.sessions.session_duration.p90"] == [(61.2, "s")]
    assert run["collected_at"].isoformat() == "2025-11-05T18:00:42+00:00"
    assert run["status_detail"] == "Measured by inference-perf."


def test_an_example_of_version_1_is_in_milliseconds(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, example(shared, "0_1"))
    assert (run["hardware_id"], run["llm_id"], run["weight_dtype"]) == ("h100-sxm", "deepseek-r1", "fp16")
    assert (run["num_devices"], run["num_prefill_devices"], run["num_decode_devices"]) == (17, 1, 16)
    assert (run["tensor_parallel"], run["pipeline_parallel"]) == (None, 1)
    assert (run["ttft_s"], run["e2el_p90_s"]) == pytest.approx((0.000800974442732916, 0.00594717199734878))
    assert (run["num_requests"], run["num_failed_requests"]) == (32, 1)
    assert (run["output_tokens_per_s"], run["duration_s"]) == (32.544923821416, 16.531641244888306)
    assert run["of"]["llmd_report:resources.accelerator.0.power.mean"] == [(410.02, "W")]
    assert run["of"]["llmd_report:resources.accelerator.1.memory.consumption.mean"] == [
        (pytest.approx(2194993.2346e6), "B")
    ]
    assert run["collected_at"].year == 2025


def test_a_json_report_of_vllms_client(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, REPORT)
    assert (run["num_devices"], run["num_prefill_devices"], run["num_decode_devices"]) == (6, 2, 4)
    assert (run["framework_version"], run["concurrency"], run["load_pattern"]) == ("0.11.0", 8, "closed")
    assert (run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (100, 4, 0.96)
    assert (run["ttft_s"], run["ttft_p50_s"], run["ttft_p99_s"], run["ttft_std_s"]) == (0.05, 0.048, 0.09, None)
    assert (run["tpot_s"], run["icl_s"], run["icl_p95_s"], run["itl_s"], run["e2el_s"]) == (
        0.01,
        0.011,
        0.03,
        None,
        0.68,
    )
    assert (run["output_tokens_per_s"], run["requests_per_s"], run["duration_s"]) == (500.0, 0.768, 125.0)
    assert run["of"]["llmd_report:time_to_first_token.stddev"] == [(0.005, "s")]
    assert run["definitions"] == {
        "ttft_s": "first_nonempty_chunk", "tpot_s": "e2el_minus_ttft_over_n_minus_1", "icl_s": "per_chunk_pooled",
        "e2el_s": "last_chunk", "output_tokens_per_s": "tokens_over_whole_run", "requests_per_s": "tokens_over_whole_run",
    }  # fmt: skip


def test_arguments_and_environment_of_servers_are_not_kept(tmp_path: Path) -> None:
    assert "planted" not in repr(imported(tmp_path, REPORT))


def test_what_guidellm_calls_time_per_output_token_divides_by_all_tokens(tmp_path: Path) -> None:
    (run,) = imported(tmp_path / "out", changed(tmp_path / "report.json", "guidellm"))
    assert (run["ntpot_s"], run["tpot_s"], run["icl_s"]) == (0.01, 0.011, None)


def test_the_words_of_an_unknown_tool_are_samples(tmp_path: Path) -> None:
    (run,) = imported(tmp_path / "out", changed(tmp_path / "report.json", "homemade"))
    assert (run["ttft_s"], run["tpot_s"], run["icl_s"], run["ntpot_s"]) == (0.05, None, None, None)
    assert run["of"]["llmd_report:inter_token_latency.mean"] == [(pytest.approx(0.011), "s/token")]


@pytest.mark.parametrize(
    ("unit", "said"), [("furlongs", "is in 'furlongs'. Known: count"), ("GiB", "is in GiB, which is no time")]
)
def test_a_unit_that_is_no_time_is_refused(tmp_path: Path, unit: str, said: str) -> None:
    with pytest.raises(_importing.Unreadable, match=said):
        imported(tmp_path / "out", changed(tmp_path / "report.json", "guidellm", unit))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("scenario", "stack"), {"engine": 1}),
        (("scenario", "load"), [1]),
        (("results", "request_performance"), "none"),
        (("run", "time"), 5),
    ],
)
def test_a_part_of_another_form_is_a_sentence(tmp_path: Path, place: tuple[str, str], value: Any) -> None:
    report = json.loads(REPORT.read_text())
    report[place[0]][place[1]] = value
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    with pytest.raises(_importing.Unreadable, match=r"report\.json looks like a Benchmark Report, but a part of it"):
        imported(tmp_path / "out", path)


def test_yaml_without_its_parser_is_a_sentence(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(_importing.Unreadable, match="needs the package pyyaml"):
        imported(tmp_path, example(shared, "0_2"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT49.5S", 49.5), ("PT2M5S", 125.0), ("P1DT1H", 90000.0), ("P", None), (None, None), ("125", None)],
)
def test_durations_are_iso_8601(text: Any, seconds: float | None) -> None:
    assert from_llmd_report._seconds(text) == seconds
