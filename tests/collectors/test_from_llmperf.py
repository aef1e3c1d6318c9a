"""llmperf's results: the leaderboard's files, each summary against its single requests, and small ones with known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_rows import imported
from landed_rows import landed

from collectors import _importing, from_llmperf

DATA = Path(__file__).parent / "data" / "llmperf"


def one(landing: Path, file: Path) -> dict[str, Any]:
    (run,) = imported(landing, file, hardware_id="h100-sxm")
    return run


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**json.loads((DATA / "summary.json").read_text()), **changes}))
    return path


def test_a_summary_with_failures(shared: Path, tmp_path: Path) -> None:
    run = one(tmp_path, shared / "data" / "formats" / "ray_llmperf" / "bedrock_13b_summary.json")
    assert (run["served_model_name"], run["load_pattern"], run["concurrency"]) == (
        "meta.llama2-13b-chat-v1",
        "closed",
        5,
    )
    assert (run["num_requests"], run["num_failed_requests"], run["num_samples"]) == (150, 97, 53)
    assert run["success_rate"] == pytest.approx(1 - 0.6466666666666666)
    assert (run["input_tokens"], run["output_tokens"]) == (550, 150)
    assert run["ntpot_s"] == pytest.approx(0.02691568040181), (
        "what it calls inter-token latency is E2EL over all tokens"
    )
    assert (run["itl_s"], run["tpot_s"]) == (None, None)
    assert run["ttft_p99_s"] == pytest.approx(0.7638729581994)
    assert run["e2el_std_s"] == 0.24245998448632086, "of a sample already"
    assert run["of"]["llmperf:number_output_tokens_min"] == [(122.0, "tokens")], "in quotes in the file"
    assert run["of"]["llmperf:errors_-100"] == [(97.0, "")]
    assert run["requests_per_s"] == pytest.approx(23.554622800169664 / 60)
    assert run["duration_s"] == pytest.approx(53 / 23.554622800169664 * 60)
    assert run["output_tokens_per_s"] == pytest.approx(58.01992465211603)
    assert run["collected_at"].isoformat() == "2023-12-27T00:35:08+00:00"
    assert run["definitions"] == {
        "ntpot_s": "e2el_over_n_retokenized", "ttft_s": "first_nonempty_chunk", "e2el_s": "end_of_response",
        "requests_per_s": "tokens_over_whole_run", "output_tokens_per_s": "tokens_over_duration_retokenized",
    }  # fmt: skip


@pytest.mark.parametrize("host", ["lepton_7b", "bedrock_70b", "together_70b", "groq_70b", "replicate_70b"])
def test_single_requests_give_the_summary_again(shared: Path, tmp_path: Path, host: str) -> None:
    folder = shared / "data" / "llmperf-leaderboard" / "raw_data"
    summary, single = (one(tmp_path / kind, folder / kind / f"{host}.json") for kind in ("summary", "individual"))
    for name in ("num_requests", "num_failed_requests", "num_samples"):
        assert single[name] == summary[name], name
    for name in ("ttft_s", "e2el_s", "ntpot_s"):
        for statistic in ("", "p25_", "p50_", "p75_", "std_"):
            column = f"{name[:-1]}{statistic}s"
            assert single[column] == pytest.approx(summary[column], rel=1e-6), column
    rows = [row for row in landed(tmp_path / "individual", "requests") if row["status"] == "ok"]
    tokens = np.array([row["output_tokens"] for row in rows])
    assert tokens.sum() / summary["duration_s"] == pytest.approx(summary["output_tokens_per_s"], rel=1e-6)
    assert single["output_tokens"] == round(tokens.mean())
    assert "those answered" in single["status_detail"]
    whole = np.mean([row["e2el_s"] for row in rows] / tokens)
    assert single["ntpot_s"] == pytest.approx(whole, rel=0.05), "the last token comes shortly before the end"


def test_every_file_of_the_leaderboard(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "llmperf-leaderboard" / "raw_data"
    files = sorted(folder.glob("*/*.json"))
    assert len(files) == 38
    assert _importing.collect(tmp_path, files=files, hardware_id="h100-sxm").num_runs == 38
    requests = landed(tmp_path, "requests")
    assert len(requests) == 19 * 150 - 5
    failed = [row for row in requests if row["status"] == "error"]
    assert len(failed) == 3 * 130 + 97 + 49 + 2 + 1
    assert sum(row["http_status"] == 429 for row in failed) == 392
    assert not any(row["ttft_s"] or row["e2el_s"] or row["tpot_s"] or row["output_tokens"] for row in failed)


def test_small_files_with_known_answers(tmp_path: Path) -> None:
    single, summary = one(tmp_path / "i", DATA / "individual.json"), one(tmp_path / "s", DATA / "summary.json")
    assert (single["num_requests"], single["num_failed_requests"], single["quality_tier"]) == (5, 2, 1)
    assert single["ntpot_s"] == pytest.approx((0.1 + 0.2 + 1.3 / 11) / 3)
    assert single["ttft_s"] == pytest.approx(0.2)
    assert single["of"]["ntpot_s"] == [(0.1, "s"), (0.2, "s"), (pytest.approx(1.3 / 11), "s")]
    rows = landed(tmp_path / "i", "requests")
    assert [row["tpot_s"] for row in rows] == [pytest.approx(0.1), None, pytest.approx(0.2), pytest.approx(0.1), None]
    assert [row["http_status"] for row in rows] == [None, 429, None, None, None]
    assert {row["token_count_source"] for row in rows} == {"tokenizer", None}
    assert summary["llm_id"] == "llama-2-7b"
    assert (summary["requests_per_s"], summary["duration_s"], summary["output_tokens_per_s"]) == (1.5, 2.0, 10.0)
    assert (summary["of"]["llmperf:errors_429"], summary["of"]["llmperf:errors_-100"]) == ([(1.0, "")], [(1.0, "")])
    everything = [landed(tmp_path / kind, table) for kind in "is" for table in ("runs", "samples", "sources")]
    assert not any(word in str([*everything, rows]) for word in ("planted", "plantedsecret"))


@pytest.mark.parametrize("text", ['{"429": 130}', "{429: np.int64(130)}", "{np.float64(429.0): 130}", "{429.0: 130}"])
def test_codes_of_failures_stand_in_a_string(tmp_path: Path, text: str) -> None:
    run = one(tmp_path / "landing", written(tmp_path / "file.json", results_error_code_frequency=text))
    assert run["of"]["llmperf:errors_429"] == [(130.0, "")]


def test_a_model_without_the_hash_of_its_host(tmp_path: Path) -> None:
    run = one(tmp_path / "landing", written(tmp_path / "file.json", model=f"meta/llama-2-7b-chat:{'0f' * 32}"))
    assert run["served_model_name"] == "meta/llama-2-7b-chat"


def test_a_run_in_which_all_failed_has_no_times(tmp_path: Path) -> None:
    changes = {
        "results_num_completed_requests": 0,
        "results_num_completed_requests_per_min": 0.0,
        "results_number_errors": 5,
    }
    run = one(tmp_path / "landing", written(tmp_path / "file.json", **changes))
    assert (run["status"], run["ttft_s"], run["requests_per_s"], run["success_rate"]) == ("error", None, None, 0.0)


def test_nobody_knows_the_device_behind_an_api(tmp_path: Path) -> None:
    with pytest.raises(_importing.Unreadable, match=r"summary\.json names no hardware\. Give it with --hardware"):
        from_llmperf.collect(tmp_path / "landing", files=DATA / "summary.json")
    assert not (tmp_path / "landing").exists()
