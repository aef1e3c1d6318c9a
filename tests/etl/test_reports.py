"""Runs as llm-d Benchmark Reports: valid under the format's own schema, and the same run when they are imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from imported_rows import imported
from sample_rows import run as sample_run

from etl import reports
from warehouse import parquet
from warehouse.store import Home, open_store

SERVED: dict[str, Any] = {
    "phase": "serve", "context_tokens": None, "latency_s": None, "batch_size": None, "collector": "endpoint", "hardware_id": "h100-sxm",
    "llm_id": "llama-3.1-8b", "num_devices": 2, "tensor_parallel": 2, "kv_dtype": "fp8", "optimizations": ["quantized"], "input_tokens": 512,
    "output_tokens": 64, "concurrency": 16, "load_pattern": "closed", "framework": "vllm", "framework_version": "0.11.0",
    "num_samples": 88, "num_requests": 100, "num_failed_requests": 4, "success_rate": 0.96, "duration_s": 12.5, "is_output_fixed": True,
    "is_prefix_unique": True, "slo_ttft_s": 0.5, "ttft_s": 0.05, "ttft_p25_s": 0.03, "ttft_p99_s": 0.09, "ttft_std_s": 0.01,
    "ttft_trimmed_s": 0.04, "tpot_s": 0.01, "itl_s": 0.011, "itl_p50_s": 0.0105, "icl_s": 0.02, "e2el_s": 0.7, "e2el_p90_s": 0.9,
    "ntpot_s": 0.0109, "ttft_scheduled_s": 0.06, "output_tokens_per_s": 491.5, "output_tokens_std_per_s": 3.5, "total_tokens_per_s": 4423.7,
    "requests_per_s": 7.68, "goodput_requests_per_s": 7.0, "energy_j": 8000.0,
    "metric_definitions": {
        "ttft_s": "first_nonempty_chunk", "tpot_s": "e2el_minus_ttft_over_n_minus_1", "itl_s": "per_token_split_chunks",
        "icl_s": "per_chunk_pooled", "e2el_s": "last_chunk", "ntpot_s": "e2el_over_n", "ttft_scheduled_s": "first_chunk_scheduled",
        "output_tokens_per_s": "tokens_over_steady_window", "total_tokens_per_s": "tokens_over_steady_window",
        "requests_per_s": "tokens_over_steady_window", "energy_j": "nvml_total_energy",
    },
}  # fmt: skip
SAME = (*(name for name in SERVED if name not in ("collector", "metric_definitions")), "config_id", "status")


def served(**values: Any) -> dict[str, Any]:
    return sample_run("served-1", **(SERVED | values))


def valid(shared: Path, report: dict[str, Any]) -> None:
    schema = json.loads(
        (shared / "data" / "formats" / "llmd_benchmark_report" / "br_v0_2_1_json_schema.json").read_text()
    )
    jsonschema.validate(report, schema)


def written(path: Path, report: dict[str, Any]) -> Path:
    path.write_text(json.dumps(report))
    return path


def test_a_report_keeps_the_formats_own_schema(shared: Path) -> None:
    valid(shared, reports.report(served()))


def test_a_run_of_which_little_is_known_makes_a_report_too(shared: Path, tmp_path: Path) -> None:
    known = (
        "run_id",
        "config_id",
        "phase",
        "hardware_id",
        "collected_at",
        "e2el_s",
        "metric_definitions",
        "source_kind",
        "status",
    )
    run = {
        name: value if name in known else None
        for name, value in served(metric_definitions={"e2el_s": "last_chunk"}).items()
    }
    report = reports.report(run)
    valid(shared, report)
    (back,) = imported(tmp_path / "out", written(tmp_path / "report.json", report))
    assert (back["e2el_s"], back["num_requests"], back["hardware_id"]) == (0.7, None, "h100-sxm")


def test_numbers_stand_where_the_format_looks_for_them() -> None:
    report = reports.report(served())
    aggregate = report["results"]["request_performance"]["aggregate"]
    assert aggregate["latency"]["time_to_first_token"] == {
        "units": "s",
        "mean": 0.05,
        "p25": 0.03,
        "p99": 0.09,
        "stddev": 0.01,
    }
    assert aggregate["latency"]["inter_token_latency"] == {"units": "s/token", "mean": 0.011, "p50": 0.0105}
    assert aggregate["throughput"]["request_rate"] == {"units": "queries/s", "mean": 7.68}
    assert (aggregate["requests"]["total"], aggregate["requests"]["failures"]) == (100, 4)
    server = report["scenario"]["stack"][0]["standardized"]
    assert (server["tool"], server["model"]["name"]) == ("vllm", "meta-llama/Llama-3.1-8B")
    assert server["accelerator"] == {"model": "h100-sxm", "count": 2, "parallelism": {"tp": 2}}
    assert report["run"]["time"] == {"start": "2026-01-01T00:00:00Z", "duration": "PT12.5S"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"status": "error"},
        {"num_failed_requests": None},
        {"itl_s": None, "itl_p50_s": None},
        {"input_tokens": None},
        {"request_rate_per_s": 8.0, "concurrency": None},
    ],
)
def test_an_imported_report_is_the_run_it_was_written_from(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = served(**changes)
    run["metric_definitions"] = {
        name: text for name, text in SERVED["metric_definitions"].items() if run.get(name) is not None
    }
    (back,) = imported(tmp_path / "out", written(tmp_path / "report.json", reports.report(run)))
    assert {name: back[name] for name in SAME} == {name: run.get(name) for name in SAME}
    assert back["definitions"] == run["metric_definitions"]
    assert back["of"] == {}


def test_medians_keep_their_definitions_and_nothing_gets_one(tmp_path: Path) -> None:
    """A median without a mean is what its definition says; a figure whose definition is not known gets none on the way."""
    medians = {
        "ttft_s": None,
        "ttft_p50_s": 0.05,
        "tpot_s": None,
        "tpot_p50_s": 0.01,
        "e2el_s": None,
        "e2el_p50_s": 0.7,
    }
    named = {
        "ttft_s": "first_chunk",
        "tpot_s": "e2el_minus_ttft_over_n_minus_1",
        "e2el_s": "end_of_response",
        "energy_j": "nvml_total_energy",
    }
    run = served(**medians, metric_definitions=named)
    (back,) = imported(tmp_path / "out", written(tmp_path / "report.json", reports.report(run)))
    assert {name: back[name] for name in medians} == medians
    assert back["definitions"] == named


def test_runs_of_a_lake_are_written_whole_or_not_at_all(shared: Path, tmp_path: Path) -> None:
    home = Home.of(tmp_path / "home")
    home.prepare()
    parquet.land(home.landing, "rows", {"runs": [served(), sample_run("decoded-1")]})
    with open_store(home) as store:
        store.load()
        folder = tmp_path / "reports"
        with pytest.raises(LookupError, match="'nothing' is not a run of this lake"):
            reports.export(store, ["served-1", "nothing"], folder)
        with pytest.raises(ValueError, match="'decoded-1' is a run of phase decode"):
            reports.export(store, ["served-1", "decoded-1"], folder)
        assert not folder.exists()
        (path,) = reports.export(store, ["served-1", "served-1"], folder)
    valid(shared, json.loads(path.read_text()))
    (back,) = imported(tmp_path / "out", path)
    assert (back["ttft_s"], back["config_id"]) == (0.05, served()["config_id"])
    assert [one.name for one in folder.iterdir()] == ["served-1.json"]
