"""Every named query runs on nothing and on something, says what it is, and takes exactly the parameters it names."""

from __future__ import annotations

import re

import pytest

from dashboard.data import Lake, described, parameters_of
from warehouse.store import StoreError, query_names, query_text

VALUES = {
    "llm_id": "llama-2-7b", "hardware_id": "a6000", "run_id": "m-a6000", "source_kind": "measured", "metric": "latency_s", "fold": "all",
    "split": "leave_model_out", "phase": "decode", "outcome": "loaded",
}  # fmt: skip
FILLED = {
    "headline", "kinds", "coverage", "source_list", "failures", "load_list", "workloads", "compare", "rulesets", "device_list", "llm_list", "run",
    "run_twins", "run_samples", "run_environment", "run_file", "run_ops", "run_list", "runs_with_ops", "op_kinds", "roof_list", "roofline_runs",
    "roofline_choices", "predictor_list", "score_list", "prediction_list",
}  # fmt: skip
"""Queries of the pages that have an answer in the small lake under VALUES."""


@pytest.mark.parametrize("name", query_names())
def test_runs_on_an_empty_lake(name: str, empty_lake: Lake) -> None:
    table = empty_lake.query(name)
    assert table.num_rows == (1 if name == "headline" else table.num_rows)
    assert "num_runs" not in table.column_names or sum(table.column("num_runs").to_pylist()) == 0


@pytest.mark.parametrize("name", query_names())
def test_runs_on_a_filled_lake(name: str, lake: Lake) -> None:
    lake.query(name)
    given = {key: VALUES[key] for key in parameters_of(name) if key in VALUES}
    table = lake.query(name, **given)
    assert table.num_rows > 0 or name not in FILLED


@pytest.mark.parametrize("name", query_names())
def test_opens_with_purpose_and_grain(name: str) -> None:
    about = described(name)
    assert about["purpose"]
    assert query_text(name).startswith("-- Purpose: ")
    body = "\n".join(line for line in query_text(name).splitlines() if not line.startswith("--"))
    assert set(parameters_of(name)) == set(re.findall(r"\$([a-z_]+)", body)), "cast every parameter: $name::TYPE"


def test_headline_counts_what_was_landed(lake: Lake) -> None:
    (row,) = lake.rows("headline")
    assert (row["num_measured"], row["num_published"], row["num_analytical"]) == (4, 2, 3)
    assert (row["num_failed"], row["num_excluded"], row["num_quarantined"]) == (1, 1, 1)
    assert row["num_joined_configs"] == 3  # the decode step on A6000, A100 and H100


def test_the_workload_known_best_comes_first(lake: Lake) -> None:
    first = lake.rows("workloads")[0]
    assert (first["phase"], first["batch"], first["tokens"], first["dtype"]) == (
        "decode",
        "1",
        "1024 context",
        "16-bit",
    )
    assert first["num_kinds"] == 3


def test_excluded_rows_come_only_when_asked_for(lake: Lake) -> None:
    assert "p-odd" not in lake.query("compare", llm_id="llama-2-7b").column("run_id").to_pylist()
    assert "p-odd" in lake.query("compare", llm_id="llama-2-7b", with_excluded=True).column("run_id").to_pylist()


def test_a_run_without_bytes_takes_the_work_of_its_twin(lake: Lake) -> None:
    rows = {row["run_id"]: row for row in lake.rows("roofline_runs", llm_ids=["llama-2-7b"])}
    measured = rows["m-a6000"]
    assert measured["work_from"] == "analytical twin"
    assert measured["intensity"] == 1.0
    assert measured["achieved_flops_per_s"] == pytest.approx(13.6e9 / 0.020, rel=1e-12)
    assert measured["side"] == "memory"
    assert not measured["is_fault"]
    assert rows["m-fault"]["is_fault"]  # 13.6 TB/s out of a T4's 320 GB/s


def test_op_kinds_multiply_folded_operators_and_leave_containers_out(lake: Lake) -> None:
    rows = {(row["role"], row["op_kind"]): row["time_s"] for row in lake.rows("op_kinds", run_id="m-a6000")}
    assert rows == {
        ("run", "q_proj"): pytest.approx(0.006),
        ("run", "up_proj"): pytest.approx(0.008),
        ("run", "lm_head"): pytest.approx(0.002),
        ("bound", "q_proj"): pytest.approx(0.004),
        ("bound", "up_proj"): pytest.approx(0.006),
    }


def test_the_same_configuration_meets_itself(lake: Lake) -> None:
    assert [row["run_id"] for row in lake.rows("run_twins", run_id="m-a6000")] == ["a-a6000"]


@pytest.mark.parametrize("snapshot", ["999999", "soon", "-1"])
def test_an_unknown_snapshot_is_a_sentence(lake: Lake, snapshot: str) -> None:
    with pytest.raises(StoreError, match="newest"):
        lake.query("headline", snapshot)
