"""Reports of inference-perf: values of every shared sample as one reads them off the file, and small files with known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported

from collectors import _importing


def formats(shared: Path, name: str) -> Path:
    return shared / "data" / "formats" / "inference_perf" / name


def report(path: Path, tpot: float, failures: int = 0) -> Path:
    """10 answers of 11 tokens: 1 s each, the first token after 0.5 s."""
    latency = {"request_latency": 1.0, "time_to_first_token": 0.5, "time_per_output_token": tpot}
    found: dict[str, Any] = {
        "load_summary": {"count": 10 + failures, "requested_rate": 5.0},
        "successes": {
            "count": 10, "latency": {name: {"mean": mean} for name, mean in latency.items()},
            "throughput": {"output_tokens_per_sec": 55.0}, "prompt_len": {"mean": 7.4}, "output_len": {"mean": 11.0},
        },
        "failures": {"count": failures, "request_latency": None, "prompt_len": None},
    }  # fmt: skip
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize(
    ("name", "requests", "rate", "p50", "p99", "ntpot", "icl_p50", "throughput"),
    [
        ("stage_1_lifecycle_metrics.json", 2278, 37.97, 0.030646827479358763, 0.04574251086451113, 0.009072400244465602,
         3.657146589830518e-05, 2366.1706737582767),
        ("summary_lifecycle_metrics.json", 47002, None, 2.106196197506506, 2.7395609611959664, 0.048420751804990815,
         4.709302447736263e-05, 4646.495280316906),
    ],
)  # fmt: skip
def test_lifecycle_metrics_are_seconds(
    shared: Path, tmp_path: Path, name: str, requests: int, rate: float | None, p50: float, p99: float, ntpot: float,
    icl_p50: float, throughput: float,
) -> None:  # fmt: skip
    (run,) = imported(tmp_path, formats(shared, name), hardware_id="h100-sxm", llm_id="llama-3-8b")
    assert (run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (requests, 0, 1.0)
    assert (run["request_rate_per_s"], run["input_tokens"], run["output_tokens"]) == (rate, 201, 63)
    assert (run["ttft_p50_s"], run["ttft_p99_s"], run["ntpot_s"]) == (p50, p99, ntpot)
    assert (run["icl_p50_s"], run["itl_s"], run["output_tokens_per_s"]) == (icl_p50, None, throughput)
    assert run["definitions"] == {
        "e2el_s": "last_chunk", "ttft_s": "first_nonempty_chunk", "ntpot_s": "e2el_over_n", "icl_s": "per_chunk_pooled",
        **dict.fromkeys(
            ("input_tokens_per_s", "output_tokens_per_s", "total_tokens_per_s", "requests_per_s"), "tokens_over_whole_run"
        ),
    }  # fmt: skip
    assert {"inference_perf:time_to_first_token.p99.9", "inference_perf:schedule_delay.p99"} <= set(run["of"])


def test_a_time_per_output_token_of_stream_events_is_no_tpot(shared: Path, tmp_path: Path) -> None:
    # (0.5643 - 0.0313) / (62.80 - 1) = 8.6 ms; the file prints 4.1 ms
    (run,) = imported(tmp_path, formats(shared, "stage_1_lifecycle_metrics.json"), hardware_id="h100-sxm")
    assert run["tpot_s"] is None
    assert run["of"]["inference_perf:time_per_output_token.mean"] == [(0.004123063848553224, "s")]
    assert "counts events of the stream" in run["status_detail"]


def test_a_time_per_output_token_that_agrees_is_tpot(tmp_path: Path) -> None:
    (run,) = imported(tmp_path / "out", report(tmp_path / "one.json", tpot=0.05), hardware_id="h100-sxm")
    assert (run["tpot_s"], run["definitions"]["tpot_s"]) == (0.05, "e2el_minus_ttft_over_n_minus_1")
    assert "TPOT" not in run["status_detail"]


def test_failed_requests_are_counted(tmp_path: Path) -> None:
    (run,) = imported(tmp_path / "out", report(tmp_path / "one.json", 0.05, failures=30), hardware_id="h100-sxm")
    assert (run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (40, 30, 0.25)


def test_what_prometheus_says_is_the_servers_own(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, formats(shared, "stage_1_prometheus_metrics.json"), hardware_id="h100-sxm")
    assert (run["ttft_s"], run["e2el_s"], run["definitions"]) == (None, None, {})
    assert run["of"]["inference_perf:prometheus.time_to_first_token.p99"] == [(0.039971, "s")]
    assert run["of"]["inference_perf:prometheus.output_len.rate"] == [(3997.805916, "tokens/s")]
    assert run["of"]["inference_perf:successes.count"] == [(4896.0, "1")]
    assert (run["num_requests"], run["input_tokens"]) == (None, 1123)


def test_a_report_names_no_device(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(_importing.Unreadable, match="names no hardware"):
        imported(tmp_path, formats(shared, "stage_1_lifecycle_metrics.json"))
