"""Checked Parquet: what does not fit is refused in a sentence, and a file is whole or absent."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_rows import op, run

from warehouse import parquet


def test_rows_come_back_with_absent_values_null(tmp_path):
    path = parquet.write("runs", [run("a")], tmp_path / "runs" / "a.parquet")
    (row,) = parquet.read("runs", path).to_pylist()
    assert row["latency_s"] == 0.020
    assert row["ttft_s"] is None
    assert row["metric_definitions"] == [("latency_s", "wall_clock")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": 1}, r"'speed' of runs: no such column\. Known: run_id.*warehouse/schema\.py"),
        ({"batch_size": "many"}, r"runs\.batch_size must be int64"),
        ({"batch_size": 1.5}, r"runs\.batch_size must be int64"),
        ({"phase": "warp"}, r"'warp' is not a value of runs\.phase\. Known: forward, prefill"),
        ({"weight_dtype": "fp17"}, r"'fp17' is not a value of runs\.weight_dtype"),
        ({"latency_s": float("nan")}, r"runs\.latency_s is NaN or infinite\. What was not measured is NULL"),
        ({"success_rate": 1.02}, r"runs\.success_rate is 1\.02: a share is 0 to 1"),
        ({"prefix_cache_hit_ratio": 96.0}, r"runs\.prefix_cache_hit_ratio is 96: a share is 0 to 1"),
        ({"latency_s": -1.0}, r"runs\.latency_s is -1\.0: a quantity below zero"),
        (
            {"config_id": "made-up"},
            r"runs\.config_id 'made-up' of run 'a' is not the hash of its configuration columns",
        ),
        (
            {"metric_definitions": {"latency_s": "my way"}},
            r"metric_definitions says latency_s = 'my way'\. Known metrics",
        ),
        ({"metric_definitions": {"speed": "wall_clock"}}, r"metric_definitions says speed = 'wall_clock'"),
        ({"collector": None}, r"runs\.collector is required and is NULL in 1 of 1 rows"),
    ],
)
def test_a_row_off_the_contract_is_refused(change, message):
    with pytest.raises(parquet.ContractError, match=message):
        parquet.check("runs", [run("a") | change])


def test_unknown_table_is_named():
    with pytest.raises(KeyError, match=r"'rums' is not a table of the warehouse\. Known: runs, ops"):
        parquet.check("rums", [])


def test_a_file_of_wrong_type_is_refused(tmp_path):
    path = tmp_path / "wrong.parquet"
    pq.write_table(
        pa.table({"run_id": ["a"], "op_index": ["first"], "path": ["p"], "op_kind": ["other"], "count": [1]}), path
    )
    with pytest.raises(parquet.ContractError, match=r"ops\.op_index must be int64 .* the file has string"):
        parquet.read("ops", path)


def test_a_truncated_file_is_refused(tmp_path):
    path = parquet.write("runs", [run("a")], tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(parquet.ContractError, match=r"'a\.parquet' is not a readable Parquet file"):
        parquet.read("runs", path)


def test_a_file_under_the_wrong_table_is_refused(tmp_path):
    path = parquet.write("ops", [op("a", 0)], tmp_path / "a.parquet")
    with pytest.raises(parquet.ContractError, match=r"holds rows of 'ops' but lies under landing/runs/"):
        parquet.read("runs", path)


def test_a_batch_lands_runs_last_and_nothing_when_one_table_is_bad(tmp_path):
    paths = parquet.land(tmp_path, "batch", {"runs": [run("a")], "ops": [op("a", 0)], "samples": []})
    assert [path.parent.name for path in paths] == ["ops", "runs"]
    with pytest.raises(parquet.ContractError):
        parquet.land(tmp_path, "other", {"runs": [run("b")], "ops": [op("b", 0) | {"time_s": "slow"}]})
    assert not list(tmp_path.glob("*/other.parquet"))


def test_no_temporary_file_is_left(tmp_path):
    parquet.write("runs", [run("a")], tmp_path / "runs" / "a.parquet")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a.parquet"]
