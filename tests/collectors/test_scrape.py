"""Metrics of servers read while a load runs: the text format, every engine's names, counters that begin again, pages that are none."""

from __future__ import annotations

import doctest
import math
import time
from typing import Any

import metrics_server
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_server import serving

from collectors.endpoint import _scrape
from collectors.endpoint._scrape import ENGINE, Scrape, scraping
from warehouse import parquet


def scraped(page: Any, interval_s: float = 0.02, for_s: float = 0.0, **options: Any) -> Scrape:
    with serving(page, **options) as url, scraping(url, interval_s) as scrape:
        time.sleep(for_s)
    return scrape


def engine_row(page: str) -> dict[str, Any]:
    rows = scraped(page).rows("run", 0.0)
    assert {row["device_index"] for row in rows} == {ENGINE}
    return {name: value for name, value in rows[0].items() if name not in ("run_id", "device_index", "at_s")}


@pytest.mark.parametrize(
    ("page", "columns"),
    [
        (
            metrics_server.VLLM.format(running=7, prompt=500, hits=20),
            {"num_running": 8.0, "num_waiting": 2.0, "kv_cache_ratio": 0.375, "prompt_tokens": 500.0, "generated_tokens": 64.0,
             "prefix_cache_hit_tokens": 20.0, "prefix_cache_query_tokens": 500.0, "preemptions": 3.0},
        ),
        (
            metrics_server.VLLM_OLD,
            {"num_running": 4.0, "kv_cache_ratio": 0.75, "prefix_cache_hit_tokens": 10.0, "prefix_cache_query_tokens": 40.0},
        ),
        (
            metrics_server.SGLANG,
            {"num_running": 5.0, "num_waiting": 6.0, "kv_cache_ratio": 0.28, "prompt_tokens": 1000.0, "generated_tokens": 150.0,
             "prefix_cache_hit_tokens": 400.0, "prefix_cache_query_tokens": 1000.0, "preemptions": 1.0},
        ),
        (metrics_server.TGI, {"num_running": 8.0, "num_waiting": 2.0, "prompt_tokens": 18000.0, "generated_tokens": 9000.0}),
        (
            metrics_server.LLAMA_CPP,
            {"num_running": 1.0, "num_waiting": 3.0, "kv_cache_ratio": 0.125, "prompt_tokens": 700.0, "generated_tokens": 300.0},
        ),
        (metrics_server.LLM_D, {"num_running": 9.0, "num_waiting": 5.0, "kv_cache_ratio": 0.85}),
    ],
    ids=["vllm", "older vllm", "sglang", "tgi", "llama.cpp", "llm-d"],
)  # fmt: skip
def test_engines_by_hand(page: str, columns: dict[str, float]) -> None:
    assert engine_row(page) == pytest.approx(columns)


def test_gpus_are_rows_of_their_own() -> None:
    scrape = scraped(metrics_server.DCGM)
    rows = scrape.rows("run", 0.0)
    first = {row["device_index"]: row for row in rows[:2]}
    assert set(first) == {0, 3}
    assert first[0]["memory_used_bytes"] == 2.0**30
    assert (first[0]["power_w"], first[0]["sm_clock_hz"], first[0]["energy_j"]) == (412.5, 1.98e9, 5.0)
    assert first[3]["utilization"] == pytest.approx(0.12)
    assert "temperature_c" not in first[3]
    assert parquet.check("telemetry", rows).num_rows == len(rows)
    assert scrape.remarks() == []


def test_devices_of_several_hosts_are_counted_through() -> None:
    page = metrics_server.DCGM + metrics_server.DCGM.replace('"node"', '"other"')
    assert [row["device_index"] for row in scraped(page).rows("run", 0.0)[:4]] == [0, 1, 2, 3]


def test_a_page_is_read_at_both_ends_and_between() -> None:
    zero = time.perf_counter()
    scrape = scraped(lambda index: metrics_server.VLLM.format(running=index, prompt=100, hits=0), for_s=0.2)
    rows = scrape.rows("run", zero)
    assert [row["num_running"] for row in rows] == [float(index) + 1 for index in range(len(rows))]
    assert len(rows) >= 3
    at_s = [row["at_s"] for row in rows]
    assert at_s == sorted(at_s)
    assert at_s[0] >= 0.0
    assert len(scrape.rows("run", zero + at_s[1])) < len(rows)  # what came before the run is not of it
    assert parquet.check("telemetry", rows).num_rows == len(rows)


def test_a_short_load_is_still_read_twice() -> None:
    assert len(scraped(metrics_server.TGI, interval_s=60.0).pages) == 2


def test_hits_are_the_difference_of_counters_that_may_begin_again() -> None:
    """Queries 100, 300, then a restart: 50, 250. Hits 0, 100, 25, 125."""
    counts = [(100, 0), (300, 100), (50, 25), (250, 125)]
    pages = [metrics_server.VLLM.format(running=1, prompt=prompt, hits=hits).splitlines() for prompt, hits in counts]
    scrape = Scrape([], list(enumerate(pages)))
    assert scrape.prefix_cache_hit_ratio() == pytest.approx((100 + 25 + 100) / (200 + 50 + 200))
    assert Scrape([], [(0.0, pages[0])]).prefix_cache_hit_ratio() is None  # one reading is no difference
    assert Scrape([], [(0.0, pages[0]), (1.0, pages[0])]).prefix_cache_hit_ratio() is None  # nothing was asked
    assert Scrape([], [(0.0, metrics_server.TGI.splitlines())] * 2).prefix_cache_hit_ratio() is None


def test_gauges_without_a_column_are_samples() -> None:
    rows = scraped(metrics_server.SGLANG, interval_s=60.0).samples("run")
    assert [(row["metric"], row["sample_index"], row["value"], row["unit"]) for row in rows] == [
        ("sglang:cache_hit_rate", 0, 0.4, "ratio"), ("sglang:cache_hit_rate", 1, 0.4, "ratio"),
        ("sglang:gen_throughput", 0, 86.5, "tokens/s"), ("sglang:gen_throughput", 1, 86.5, "tokens/s"),
    ]  # fmt: skip
    assert parquet.check("samples", rows).num_rows == 4


# --- pages that are none ----------------------------------------------------------------------------------------------


def test_a_server_without_metrics_is_a_remark(free_port: int) -> None:
    missing = scraped("not found", status=404)
    assert missing.rows("run", 0.0) == []
    assert missing.prefix_cache_hit_ratio() is None
    assert missing.remarks() == [f"No metrics of the server from {missing.urls[0]}: HTTP 404."]
    with scraping(f"http://127.0.0.1:{free_port}/metrics") as scrape:
        pass
    (said,) = scrape.remarks()
    assert "refused" in said
    other = scraped("up 1\n")
    assert other.remarks() == [f"The metrics of the server ({other.urls[0]}) are of no engine that is known."]


def test_a_page_that_goes_away_is_a_remark_beside_its_rows() -> None:
    with serving(metrics_server.TGI) as url, scraping(url, 60.0) as scrape:
        while not scrape.pages:
            time.sleep(0.01)
        scrape.urls = [url + "-gone", "http://127.0.0.1:1/metrics"]
    assert len(scrape.rows("run", 0.0)) == 2
    assert len(scrape.remarks()) == 1
    assert "could not be read at the end" in scrape.remarks()[0]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://user:secret@host/metrics", "http://host/metrics?key=secret"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not the http or https address.*--metrics-url") as refused, scraping(url):
        pass
    assert "secret" not in str(refused.value)


def test_a_load_without_metrics_reads_none() -> None:
    with scraping([]) as scrape:
        pass
    assert (scrape.pages, scrape.remarks(), scrape.rows("run", 0.0)) == ([], [], [])


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("a 1", [("a", {}, 1.0)]),
        ("  a{}   3  1700000000", [("a", {}, 3.0)]),
        ("a 1e+3 # {trace_id=\"x\"} 0.5", [("a", {}, 1000.0)]),
        ('a{b="}",c="\\"d\\" \\\\ \\n",} 2', [("a", {"b": "}", "c": '"d" \\ \n'}, 2.0)]),
        ("a{le=\"+Inf\"} 4", [("a", {"le": "+Inf"}, 4.0)]),
        ("# TYPE a gauge", []),
        ("a +Inf", []),
        ("a NaN", []),
        ("a", []),
        ("a one", []),
        ('a{b="c} 1', []),
        ("", []),
    ],
)  # fmt: skip
def test_lines(line: str, found: list[Any]) -> None:
    assert list(_scrape.parse(line)) == found


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    for name, labels, value in _scrape.parse(text):
        assert name
        assert isinstance(labels, dict)
        assert math.isfinite(value)


def test_a_share_above_one_and_a_count_below_none_are_not_believed() -> None:
    assert engine_row("vllm:kv_cache_usage_perc 50\nvllm:num_requests_running 1\nvllm:num_requests_waiting -1\n") == {
        "num_running": 1.0
    }


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(_scrape).failed == 0
