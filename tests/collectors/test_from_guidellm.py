"""guidellm's reports: three generations of real files, and a run of ours with 0.8.1 whose single requests give its summary again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_rows import imported
from landed_rows import landed

from collectors import _importing, from_guidellm

OURS = Path(__file__).parent / "data" / "guidellm" / "benchmarks.json"
"""Made by guidellm 0.8.1: 8 requests of 5 to 8 tokens, 2 in flight; the server writes the first token after 50 ms, the next ones
every 5 ms, and fails every fourth request."""


def report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(OURS.read_text())
    return content


def written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def sample(shared: Path, name: str) -> Path:
    return shared / "data" / "formats" / "guidellm" / name


def test_generation_0_2(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, sample(shared, "v0.2x_benchmarks_stripped.json"), hardware_id="a100-sxm-80gb")
    assert (run["load_pattern"], run["concurrency"], run["served_model_name"]) == ("closed", 1, "example_model")
    assert (run["num_samples"], run["num_requests"], run["num_failed_requests"]) == (46, 47, 1)
    assert "1 requests were cut off by the end of the run" in run["status_detail"]
    assert run["e2el_s"] == pytest.approx(0.6444743664), "seconds"
    assert run["ttft_s"] == pytest.approx(0.0167925357818603), "milliseconds"
    assert run["tpot_s"] == pytest.approx(0.0049416090437), "what it calls inter-token latency"
    assert run["ntpot_s"] is None, "its time per output token leaves the first token's time out: (E2EL - TTFT) / N"
    assert run["of"]["guidellm:time_per_output_token_ms_mean"] == [(pytest.approx(4.90300272308), "ms")]
    assert pytest.approx(4.90300272307966e-3, rel=1e-3) == (0.6444743664368339 - 0.016792535781860348) / 128
    assert run["ttft_std_s"] == pytest.approx(1.1303385708366516e-3 * (46 / 45) ** 0.5)
    assert run["e2el_p50_s"] == pytest.approx(0.6424565315), "a median where percentiles have none"
    assert run["of"]["guidellm:time_per_output_token_ms_p0.1"][0][0] == pytest.approx(4.8582, rel=0.02)
    assert run["output_tokens_per_s"] == pytest.approx(5888 / 29.997201442718506)
    assert run["total_tokens_per_s"] == pytest.approx((11827 + 5888) / 29.997201442718506), "not what it prints"
    assert run["of"]["guidellm:tokens_per_second_mean"] == [(pytest.approx(992.6867037), "tokens/s")]
    assert "guidellm:output_tokens_per_second_mean" not in run["of"], "within one percent"
    assert run["output_tokens_std_per_s"] is None, "a spread over instants, not over repeats"
    assert run["definitions"]["e2el_s"] == "end_of_response"


def test_generation_0_3(shared: Path, tmp_path: Path) -> None:
    (run,) = imported(tmp_path, sample(shared, "v0.3_qwen3-0.6b_llm-d_benchmarks.json.gz"), hardware_id="h100-sxm")
    assert (run["llm_id"], run["load_pattern"], run["request_rate_per_s"]) == ("qwen3-0.6b", "constant", 10.0)
    assert (run["num_samples"], run["num_requests"], run["success_rate"]) == (586, 609, 586 / 609)
    assert run["ttft_p99_s"] == pytest.approx(1.0194225311), "not p999"
    assert run["of"]["guidellm:time_to_first_token_ms_p99.9"][0][0] > 1019.43
    requests = landed(tmp_path, "requests")
    done = [row for row in requests if row["status"] == "ok"]
    cut = [row for row in requests if row["status"] != "ok"]
    assert (len(done), len(cut)) == (586, 23)
    assert {row["status"] for row in cut} == {"timeout"}
    assert not any(row["ttft_s"] or row["e2el_s"] or row["output_tokens"] for row in cut)
    assert np.mean([row["ttft_s"] for row in done]) == pytest.approx(run["ttft_s"], rel=1e-9)
    assert np.mean([row["tpot_s"] for row in done]) == pytest.approx(run["tpot_s"], rel=1e-6)
    assert np.mean([row["e2el_s"] for row in done]) == pytest.approx(run["e2el_s"], rel=1e-4)
    assert np.std([row["tpot_s"] for row in done], ddof=1) == pytest.approx(run["tpot_std_s"], rel=1e-3)


def test_generation_0_8_of_a_server_that_only_pretends(shared: Path, tmp_path: Path) -> None:
    first, second = imported(tmp_path, sample(shared, "v0.8dev_report_v2_mockserver.json.gz"), hardware_id="h100-sxm")
    assert [run["source_cell"] for run in (first, second)] == ["benchmarks[0]", "benchmarks[1]"]
    assert [run["request_rate_per_s"] for run in (first, second)] == [2.0, 4.0]
    assert (first["num_samples"], first["quality_tier"]) == (2, 0)
    assert first["itl_s"] == pytest.approx(1.1508464813e-3)
    assert first["itl_p50_s"] is None, "percentiles of its weighted means are those of no gap"
    assert (first["tpot_s"], first["ntpot_s"]) == (None, None), "weighted by tokens, and without the requests"
    assert "TPOT over requests is absent" in first["status_detail"]
    assert first["definitions"]["itl_s"] == "per_token_pooled"


def test_a_run_of_ours(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, OURS, hardware_id="h100-sxm")
    assert (run["load_pattern"], run["concurrency"], run["served_model_name"]) == ("closed", 2, "tiny")
    assert (run["num_samples"], run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (6, 8, 2, 0.75)
    assert (run["quality_tier"], run["output_tokens"]) == (1, 6)
    assert 0.050 < run["ttft_s"] < 0.055
    assert 0.0045 < run["tpot_s"] < 0.0055
    assert run["of"]["guidellm:time_per_output_token_ms_mean"] == [(pytest.approx(12.754143895), "ms")]
    failed = [row for row in landed(tmp_path, "requests") if row["status"] == "error"]
    assert [row["http_status"] for row in failed] == [500, 500]
    assert all(row["e2el_s"] is None and "http://" not in row["status_detail"] for row in failed)


def test_the_requests_of_ours_give_its_summary_again(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, OURS, hardware_id="h100-sxm")
    metrics = {
        name: one["successful"]
        for name, one in report()["benchmarks"][0]["metrics"].items()
        if isinstance(one, dict) and "successful" in one
    }
    done = [row for row in landed(tmp_path, "requests") if row["status"] == "ok"]
    ttft, e2el, tpot = (np.array([row[name] for row in done]) for name in ("ttft_s", "e2el_s", "tpot_s"))
    tokens = np.array([row["output_tokens"] for row in done])
    assert np.mean(ttft) * 1e3 == pytest.approx(metrics["time_to_first_token_ms"]["mean"], rel=1e-9)
    assert np.std(ttft, ddof=1) == pytest.approx(run["ttft_std_s"], rel=1e-9)
    assert np.average(e2el / tokens, weights=tokens) * 1e3 == pytest.approx(
        metrics["time_per_output_token_ms"]["mean"], rel=1e-9
    )
    assert np.average(tpot, weights=tokens - 1) * 1e3 == pytest.approx(
        metrics["inter_token_latency_ms"]["mean"], rel=1e-9
    )
    assert np.average(tpot, weights=tokens - 1) == pytest.approx(run["itl_s"], rel=1e-9), "the mean of all gaps"
    assert np.mean(tpot) == pytest.approx(run["tpot_s"], rel=1e-9)
    assert np.mean(e2el / tokens) == pytest.approx(run["ntpot_s"], rel=1e-9)
    assert np.mean(e2el) == pytest.approx(run["e2el_s"], rel=0.012), "a response ends under 1 ms after its last token"
    assert tokens.sum() / run["duration_s"] == pytest.approx(run["output_tokens_per_s"], rel=1e-6)


def test_keys_and_addresses_do_not_land(tmp_path: Path) -> None:
    content = report()
    for holder in (content["config"]["spec"]["backend"], content["benchmarks"][0]["config"]["backend"]):
        holder |= {
            "api_key": "planted-secret",
            "target": "http://user:planted-secret@10.1.2.3:8000",
            "extras": {"headers": {"X": "planted"}},
        }
    content["benchmarks"][0]["requests"]["errored"][0]["info"]["error"] = (
        "401 for http://u:planted-secret@h/v1, api_key=planted-secret"
    )
    imported(tmp_path / "landing", written(tmp_path / "report.json", content), hardware_id="h100-sxm")
    everything = [
        row
        for path in (tmp_path / "landing").glob("*/*.parquet")
        for row in landed(tmp_path / "landing", path.parent.name)
    ]
    assert everything
    assert not any(word in str(row) for row in everything for word in ("planted", "10.1.2.3", "word word"))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({"type_": "synchronous"}, ("closed", 1, None)),
        ({"type_": "concurrent", "streams": 7}, ("closed", 7, None)),
        ({"type_": "throughput", "max_concurrency": None}, ("burst", None, None)),
        ({"type_": "throughput", "max_concurrency": 64}, ("closed", 64, None)),
        ({"type_": "poisson", "rate": 3.5, "max_concurrency": 512}, ("poisson", None, 3.5)),
        ({"type_": "constant", "rate": 3.5}, ("constant", None, 3.5)),
        ({"type_": "replay"}, ("replay", None, None)),
    ],
)
def test_how_requests_were_sent(tmp_path: Path, strategy: dict[str, Any], expected: tuple[Any, ...]) -> None:
    content = report()
    content["benchmarks"][0]["config"]["strategy"] = strategy
    (run,) = imported(tmp_path / "landing", written(tmp_path / "report.json", content), hardware_id="h100-sxm")
    assert (run["load_pattern"], run["concurrency"], run["request_rate_per_s"]) == expected


def test_requests_sent_before_the_measured_part_are_warm_up(tmp_path: Path) -> None:
    content = report()
    benchmark = content["benchmarks"][0]
    benchmark["start_time"] = sorted(
        request["info"]["timings"]["request_start"] for request in benchmark["requests"]["successful"]
    )[2]
    imported(tmp_path / "landing", written(tmp_path / "report.json", content), hardware_id="h100-sxm")
    phases = [row["sample_phase"] for row in landed(tmp_path / "landing", "requests")]
    assert phases.count("warmup") == 2


def test_a_report_without_its_totals_is_refused(tmp_path: Path) -> None:
    content = report()
    del content["benchmarks"][0]["metrics"]["request_totals"]
    with pytest.raises(_importing.Unreadable, match="it lacks 'request_totals'"):
        from_guidellm.collect(
            tmp_path / "landing", files=written(tmp_path / "report.json", content), hardware_id="h100-sxm"
        )
    assert not (tmp_path / "landing").exists()
