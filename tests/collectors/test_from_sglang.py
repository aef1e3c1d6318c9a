"""SGLang's bench_serving: real files of 2024, a run of ours with 0.4.6, and single requests with known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported
from landed_rows import landed

from collectors import _importing, from_sglang

DATA = Path(__file__).parent / "data" / "sglang" / "bench_serving.jsonl"


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**json.loads(DATA.read_text().splitlines()[0]), **changes}))
    return path


def test_real_files_of_2024(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "formats" / "sglang_bench_serving"
    counts = {}
    for file in sorted(folder.glob("*.jsonl")):
        runs = imported(tmp_path / file.stem, file, hardware_id="h200-sxm", llm_id="llama-3.3-70b")
        counts[file.stem] = len(runs)
        assert all(run["llm_id"] == "llama-3.3-70b" and run["framework"] == "sglang" for run in runs)
    assert counts == {
        "deepseek_dp_mla_output": 1, "llama_3_3_70b_offline_output": 7, "llama_3_3_70b_online_output": 7,
        "llama_405b_online_output": 6,
    }  # fmt: skip


def test_a_run_without_a_rate_and_one_with(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "formats" / "sglang_bench_serving"
    (burst,) = imported(tmp_path / "a", folder / "deepseek_dp_mla_output.jsonl", hardware_id="h200-sxm")
    assert (burst["load_pattern"], burst["request_rate_per_s"], burst["concurrency"]) == ("burst", None, None)
    assert (burst["input_tokens"], burst["output_tokens"], burst["num_samples"]) == (1, 512, 10000)
    assert burst["num_requests"] is None, "how many were sent is not in the file"
    assert burst["ttft_s"] is None
    assert burst["ttft_p50_s"] == pytest.approx(10.014104524045)
    assert burst["icl_p50_s"] == pytest.approx(0.371844899491407), "gaps of then were between chunks"
    assert burst["e2el_s"] == pytest.approx(381.23682297268615)
    assert burst["output_tokens_per_s"] == pytest.approx(12412.394674)
    assert burst["of"]["sglang:total_output_tokens_retokenized"] == [(5115342.0, "tokens")]
    assert burst["definitions"] == {
        "ttft_s": "first_nonempty_chunk", "icl_s": "per_chunk_pooled", "e2el_s": "end_of_response",
        "output_tokens_per_s": "tokens_over_whole_run",
    }  # fmt: skip
    at_rate = imported(tmp_path / "b", folder / "llama_3_3_70b_online_output.jsonl", hardware_id="h200-sxm")[0]
    assert (at_rate["load_pattern"], at_rate["request_rate_per_s"], at_rate["source_cell"]) == (
        "poisson",
        1.0,
        "line 1",
    )
    assert (at_rate["input_tokens"], at_rate["output_tokens"]) == (509, 534), "means: 152612 and 160347 over 300"


def test_a_run_of_ours(tmp_path: Path) -> None:
    open_loop, closed = imported(tmp_path, DATA, hardware_id="h100-sxm")
    assert (open_loop["load_pattern"], open_loop["request_rate_per_s"]) == ("poisson", 50.0)
    assert (closed["load_pattern"], closed["concurrency"], closed["num_samples"]) == ("closed", 2, 6)
    assert closed["concurrency_mean"] == pytest.approx(1.9006460702)
    assert closed["requests_per_s"] * closed["duration_s"] == pytest.approx(6)
    assert closed["output_tokens_per_s"] * closed["duration_s"] == pytest.approx(34)
    assert closed["e2el_s"] * 6 / closed["duration_s"] == pytest.approx(closed["concurrency_mean"]), "Little's law"
    assert closed["ttft_std_s"] == pytest.approx(0.000652912364121 * (6 / 5) ** 0.5)
    assert closed["of"]["sglang:tpot_ms_std"] == [(pytest.approx(0.07073077134), "ms")]
    assert closed["icl_p95_s"] == pytest.approx(0.0057008871983)
    assert closed["itl_s"] is None, "only the native backend splits chunks over their tokens"


def test_single_requests_of_both_kinds_of_backend(tmp_path: Path) -> None:
    details = {
        "input_lens": [10, 10, 12], "output_lens": [3, 1, 0], "ttfts": [0.1, 0.2, 0.0], "itls": [[0.02, 0.04], [], []],
        "errors": ["", "", "Traceback: token=planted-secret"], "generated_texts": ["planted", "planted", ""], "completed": 2,
    }  # fmt: skip
    (chunks,) = imported(tmp_path / "a", written(tmp_path / "a.json", **details), hardware_id="h100-sxm")
    assert (chunks["num_requests"], chunks["num_failed_requests"], chunks["success_rate"]) == (3, 1, 2 / 3)
    first, second, failed = landed(tmp_path / "a", "requests")
    assert (first["ttft_s"], first["e2el_s"], first["tpot_s"]) == (0.1, pytest.approx(0.16), pytest.approx(0.03))
    assert first["chunk_times_s"] == [0.1, pytest.approx(0.12), pytest.approx(0.16)]
    assert (second["tpot_s"], second["e2el_s"]) == (None, 0.2), "one token has no time after it"
    assert (failed["status"], failed["ttft_s"]) == ("error", None)
    assert "planted" not in str([landed(tmp_path / "a", name) for name in ("requests", "runs", "sources")])
    (tokens,) = imported(
        tmp_path / "b", written(tmp_path / "b.json", **details, backend="sglang"), hardware_id="h100-sxm"
    )
    assert tokens["definitions"]["itl_s"] == "per_token_split_chunks"
    assert (tokens["icl_s"], tokens["itl_s"]) == (None, chunks["icl_s"])
    split = landed(tmp_path / "b", "requests")[0]
    assert (split["itl_s"], split["chunk_times_s"]) == (pytest.approx(0.03), None)


def test_a_run_in_which_nothing_completed_has_no_times(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, written(tmp_path / "none.json", completed=0), hardware_id="h100-sxm")
    assert (run["status"], run["ttft_s"], run["output_tokens_per_s"]) == ("error", None, None)


def test_a_line_that_is_cut_off_lands_nothing(tmp_path: Path) -> None:
    file = tmp_path / "cut.jsonl"
    file.write_text(DATA.read_text()[:-40])
    with pytest.raises(_importing.Unreadable, match=r"cut\.jsonl, line 2 is not JSON"):
        from_sglang.collect(tmp_path / "landing", files=file, hardware_id="h100-sxm")
    assert not (tmp_path / "landing").exists()


def test_more_answers_than_requests_are_refused(tmp_path: Path) -> None:
    result = {"backend": "sglang", "dataset_name": "random", "total_output_tokens_retokenized": 8, "completed": 2, "duration": 1.0,
              "ttfts": [0.1], "itls": [[]], "input_lens": [4], "output_lens": [1], "errors": [""]}  # fmt: skip
    path = tmp_path / "more.jsonl"
    path.write_text(json.dumps(result))
    with pytest.raises(_importing.Unreadable, match=r"'completed' \(2\) is more than 'requests' \(1\)"):
        from_sglang.collect(tmp_path / "landing", files=path, hardware_id="h100-sxm")
