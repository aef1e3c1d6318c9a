"""Columns, rows and samples of a level from replies whose times are set by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from collectors.endpoint import _rows, _slo
from collectors.endpoint._load import Level, Outcome
from collectors.endpoint._stream import Reply
from warehouse import parquet
from warehouse.metrics import DEFINITIONS

LEVEL = Level(concurrency=1, num_requests=60, num_warmup=0, output_tokens=4)


def reply(sent_at_s: float = 0.5, **values: Any) -> Reply:
    """A good reply: 4 tokens in 3 chunks, 1, 2 and 4 s after its send, half a second late."""
    base: dict[str, Any] = {
        "status": "ok", "status_detail": None, "http_status": 200, "text": "a b c d", "reasoning": "", "scheduled_at_s": sent_at_s - 0.5,
        "sent_at_s": sent_at_s, "ended_at_s": sent_at_s + 4.0, "ttft_s": 1.0, "tpot_s": 1.0, "itl_s": 1.0, "e2el_s": 4.0, "ttfo_s": 2.0,
        "input_tokens": 10, "output_tokens": 4, "token_count_source": "usage", "finish_reason": "length",
        "chunk_times_s": [1.0, 2.0, 4.0], "chunk_tokens": [1, 1, 2],
    }  # fmt: skip
    return Reply(**{**base, **values})


def steady(num_requests: int = 60) -> list[Reply]:
    """One slot: a request every 4 s. The first five answers begin late, and nothing is sent after 4 n - 3 s."""
    slow = {"ttft_s": 3.9, "chunk_times_s": [3.9, 3.95, 4.0]}
    return [
        reply(1 + 4.0 * index, scheduled_at_s=1 + 4.0 * index, **(slow if index < 5 else {}))
        for index in range(num_requests)
    ]


def test_every_latency_by_hand() -> None:
    columns = _rows.run_columns([reply()])
    expected = {
        "ttft_s": 1.0, "tpot_s": 1.0, "itl_s": 1.0, "e2el_s": 4.0, "ntpot_s": 1.0, "icl_s": 1.5, "ttst_s": 1.0, "ttfo_s": 2.0,
        "ttft_scheduled_s": 1.5, "e2el_scheduled_s": 4.5,
    }  # fmt: skip
    assert {name: columns[name] for name in expected} == expected
    assert set(expected) <= set(columns["metric_definitions"])
    assert set(columns["metric_definitions"].values()) <= set(DEFINITIONS)


def test_what_was_not_observed_is_in_no_statistic() -> None:
    whole = reply(ttft_s=None, tpot_s=None, itl_s=None, ttfo_s=None, chunk_times_s=[4.0], chunk_tokens=None)
    columns = _rows.run_columns(
        [whole, reply(output_tokens=0, chunk_times_s=[], chunk_tokens=None, e2el_s=None, ttfo_s=None)]
    )
    assert columns["ntpot_s"] == 1.0
    assert {"icl_s", "ttst_s", "ttfo_s"}.isdisjoint(columns)
    assert columns["ttft_scheduled_s"] == 1.5


def test_chunks_that_came_together_have_no_times_between_them() -> None:
    joined = reply(ttft_s=4.0, tpot_s=None, itl_s=None, chunk_times_s=[4.0, 4.0, 4.0])
    columns = _rows.run_columns([joined, reply(chunk_times_s=[1.0, 1.0, 4.0])])
    assert (columns["tpot_s"], columns["itl_s"], columns["icl_s"]) == (1.0, 1.0, 1.5)
    assert "ttst_s" not in columns
    assert columns["ttft_s"] == 2.5
    said = _rows.remarks(Outcome([], [joined, reply()]), Level(1, 2, 0, 4))
    assert [one for one in said if "in one piece" in one or "ITL" in one] == [
        "1 answers came in one piece: all their chunks bear one arrival time, and TPOT, ITL, ICL and TTST leave them out."
    ]


def test_tokens_counted_as_chunks_are_no_shorter_answers() -> None:
    by_chunks = reply(output_tokens=3, token_count_source="chunks", chunk_tokens=None, itl_s=None)
    said = _rows.remarks(Outcome([], [by_chunks, reply()]), Level(1, 2, 0, 4))
    assert not any("asked for" in one for one in said)
    short = _rows.remarks(Outcome([], [reply(output_tokens=3, token_count_source="tokenizer")]), Level(1, 1, 0, 4))
    assert "Answers had 3 tokens of 4 asked for." in short


def test_concurrency_is_weighted_by_time() -> None:
    columns = _rows.run_columns([reply(1.0), reply(2.0, ended_at_s=3.0, status="error")])
    assert (columns["concurrency_mean"], columns["concurrency_max"]) == (5.0 / 4.0, 2.0)


def test_the_headline_is_the_steady_window_and_the_whole_run_is_a_sample() -> None:
    replies = steady()
    columns = _rows.run_columns(replies)
    assert columns["steady_from_s"] == 21.0  # after five slow answers
    assert columns["steady_s"] == 237.0 - 21.0
    assert columns["duration_s"] == 240.0
    assert (columns["ttft_s"], columns["num_samples"], columns["num_requests"]) == (1.0, 55, 60)
    assert columns["metric_definitions"]["output_tokens_per_s"] == "tokens_over_steady_window"
    assert columns["output_tokens_per_s"] == pytest.approx(54 * 4 / 216.0)  # the last was sent as the window ended
    assert columns["input_tokens_per_s"] == pytest.approx(54 * 10 / 216.0)
    assert columns["requests_per_s"] == pytest.approx(54 / 216.0)
    found = {row["metric"]: row["value"] for row in _rows.samples("run", replies)}
    assert found["rooflake:whole_run_ttft_s"] == pytest.approx((5 * 3.9 + 55) / 60)
    assert found["rooflake:whole_run_output_tokens_per_s"] == pytest.approx(1.0)
    assert found["rooflake:whole_run_requests_per_s"] == pytest.approx(0.25)
    assert _rows.samples("run", replies[:10]) == []


def test_tokens_are_counted_when_they_arrive() -> None:
    """The window ends at 237 s. Chunk tokens unknown: each of three chunks holds a third of four tokens."""
    replies = [*steady(), reply(234.0, chunk_tokens=None)]  # chunks at 235, 236 and 238 s
    known, columns = _rows.run_columns(steady()), _rows.run_columns(replies)
    assert (columns["steady_from_s"], columns["steady_s"]) == (known["steady_from_s"], known["steady_s"])
    assert columns["output_tokens_per_s"] - known["output_tokens_per_s"] == pytest.approx(2 / 3 * 4 / 216.0)
    assert columns["input_tokens_per_s"] - known["input_tokens_per_s"] == pytest.approx(10 / 216.0)
    assert _rows.run_columns([*replies, reply(100.0, output_tokens=None)])["output_tokens_per_s"] is None


def test_rows_say_which_requests_were_steady() -> None:
    outcome = Outcome([reply()], steady())
    rows = _rows.request_rows("run", outcome, LEVEL)
    assert [row["is_steady"] for row in rows] == [None] + [False] * 5 + [True] * 55
    assert {row["requested_output_tokens"] for row in rows} == {4}
    assert rows[1]["itl_s"] == 1.0
    assert parquet.check("requests", rows).num_rows == 61
    assert {row["is_steady"] for row in _rows.request_rows("run", Outcome([], steady(6)), LEVEL)} == {False}


def test_text_is_kept_where_the_prompt_is() -> None:
    rows = _rows.request_rows("run", Outcome([], [reply(prompt="hi", requested_output_tokens=9), reply()]), LEVEL)
    assert [(row["prompt"], row["text"], row["requested_output_tokens"]) for row in rows] == [
        ("hi", "a b c d", 9),
        (None, None, 4),
    ]


def test_cache_hits_are_those_of_the_answers_or_else_of_the_counters() -> None:
    some = Outcome([], [reply(cached_tokens=5), reply(cached_tokens=None)])  # left out where nothing was found
    assert _rows.columns(some, LEVEL, prefix_cache_hit_ratio=0.9)["prefix_cache_hit_ratio"] == 0.25
    silent = Outcome([], [reply()])
    assert _rows.columns(silent, LEVEL, prefix_cache_hit_ratio=0.9)["prefix_cache_hit_ratio"] == 0.9
    more_than_all = Outcome([], [reply(cached_tokens=500)])
    assert _rows.columns(more_than_all, LEVEL)["prefix_cache_hit_ratio"] is None
    assert _rows.columns(silent, LEVEL)["prefix_cache_hit_ratio"] is None


def growing() -> list[Reply]:
    """Two a second for two minutes at a server that ends one and a half a second: every answer is later."""
    replies = []
    for index in range(240):
        sent, ended = 0.5 + index / 2, 0.5 + (index + 1) / 1.5
        replies.append(
            reply(
                sent,
                ended_at_s=ended,
                ttft_s=ended - sent,
                e2el_s=ended - sent,
                chunk_times_s=[ended - sent],
                chunk_tokens=[4],
            )
        )
    return replies


def test_saturation_is_judged_for_open_loops_alone() -> None:
    open_loop = Level(None, 240, 0, 4, pattern="poisson", request_rate_per_s=2.0)
    columns = _rows.columns(Outcome([], growing()), open_loop)
    assert (columns["is_saturated"], columns["steady_s"]) == (True, None)
    assert _rows.columns(Outcome([], growing()), LEVEL)["is_saturated"] is None
    even = [reply(0.5 + index / 2) for index in range(240)]
    assert _rows.columns(Outcome([], even), open_loop)["is_saturated"] is False
    assert _rows.columns(Outcome([], even[:50]), open_loop)["is_saturated"] is None


def test_a_queue_at_the_client_is_a_queue() -> None:
    """Four a second for a minute, two slots that take one a second each: from the send every answer is as fast as the first."""
    replies = [
        reply(1 + index // 2, scheduled_at_s=1 + index / 4, ended_at_s=2 + index // 2, ttft_s=0.1, e2el_s=1.0, chunk_times_s=[0.1, 0.5, 1.0])
        for index in range(240)
    ]  # fmt: skip
    columns = _rows.columns(Outcome([], replies), Level(2, 240, 0, 4, pattern="constant", request_rate_per_s=4.0))
    assert (columns["is_saturated"], columns["steady_s"]) == (True, None)
    assert (columns["ttft_s"], columns["concurrency_max"]) == (pytest.approx(0.1), 2.0)
    burst = [dataclasses.replace(one, scheduled_at_s=1.0) for one in replies]
    columns = _rows.columns(Outcome([], burst), Level(2, 240, 0, 4, pattern="burst"))
    assert (columns["is_saturated"], columns["steady_s"]) == (None, None)


def test_nothing_sent_is_an_error() -> None:
    columns = _rows.run_columns([])
    assert (columns["status"], columns["num_samples"], columns["success_rate"]) == ("error", 0, None)


def test_remarks_name_the_window_and_what_stopped_the_load() -> None:
    outcome = Outcome([], steady(58), remarks=("The server took less than it was offered.",))
    said = _rows.remarks(outcome, LEVEL, _slo.PRESETS["mlperf-llama-2-70b"])
    assert "Stopped before the end: 2 requests were not sent." in said
    assert any("steady window from 21.0 to 229.0 s, of 53 requests" in one for one in said)
    assert "mlperf-llama-2-70b asks for TTFT 2 s and TPOT 0.2 s at p99: too few requests tell." in said
    assert said[-1] == "The server took less than it was offered."


# --- objectives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "is_met"),
    [
        ({}, True),
        ({"ttft_s": 2.1}, False),
        ({"ttft_s": None}, False),
        ({"tpot_s": 1.6}, False),
        ({"tpot_s": None}, False),
        ({"tpot_s": None, "output_tokens": 1}, True),  # one token has no TPOT to miss
        ({"tpot_s": None, "output_tokens": None}, False),
        ({"e2el_s": 5.0}, True),  # just met
        ({"e2el_s": 5.1}, False),
    ],
)
def test_an_answer_meets_every_objective_or_is_not_good(values: dict[str, Any], is_met: bool) -> None:
    objectives = _slo.objectives(ttft_s=2.0, tpot_s=1.5, e2el_s=5.0)
    assert objectives.are_met(reply(**values)) is is_met
    columns = _rows.run_columns([reply(), reply(status="timeout"), reply(**values)], 2.0, 1.5, slo_e2el_s=5.0)
    assert columns["goodput_ratio"] == (1.0 if is_met else 0.5)
    assert columns["goodput_requests_per_s"] == (2 if is_met else 1) / 4.0
    assert (columns["slo_ttft_s"], columns["slo_tpot_s"], columns["slo_e2el_s"]) == (2.0, 1.5, 5.0)


def test_presets_and_what_replaces_them() -> None:
    preset = _slo.objectives("mlperf-llama-3.1-405b-interactive")
    assert (preset.ttft_s, preset.tpot_s, preset.e2el_s, preset.percentile) == (4.5, 0.08, None, 99)
    changed = _slo.objectives("mlperf-llama-3.1-405b-interactive", ttft_s=1.0)
    assert (changed.ttft_s, changed.tpot_s, changed.percentile, changed.name) == (1.0, 0.08, None, None)
    assert not _slo.objectives().is_any
    assert all(one.ttft_s is not None and one.ttft_s > (one.tpot_s or 0) for one in _slo.PRESETS.values())
    with pytest.raises(ValueError, match=r"'fast' is not a set of objectives. Known: mlperf-llama-3.1-8b, .*--slo"):
        _slo.objectives("fast")
    for limit in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"slo_e2el_s is .*--slo-e2el-s"):
            _slo.objectives(e2el_s=limit)


@pytest.mark.parametrize(("p99", "held"), [(0.45, "held"), (0.46, "not held"), (None, "too few requests tell")])
def test_a_verdict_needs_the_percentile(p99: float | None, held: str) -> None:
    preset = _slo.PRESETS["mlperf-llama-2-70b-interactive"]
    said = preset.verdict({"ttft_p99_s": p99, "tpot_p99_s": 0.04})
    assert said == f"mlperf-llama-2-70b-interactive asks for TTFT 0.45 s and TPOT 0.04 s at p99: {held}."
    assert _slo.objectives(ttft_s=1.0).verdict({"ttft_p99_s": 0.5}) is None
