"""The contract: names carry units, ids are stable, NULL is not a value."""

import pyarrow as pa
import pytest

from warehouse import metrics, schema


def test_every_metric_is_a_column_of_runs():
    for metric in metrics.METRICS:
        assert set(metric.columns) <= set(schema.RUNS.names)


def test_statistic_goes_before_the_unit():
    assert metrics.metric("latency_s").column("p99") == "latency_p99_s"
    assert metrics.metric("total_tokens_per_s").column("std") == "total_tokens_std_per_s"


def test_unknown_metric_names_the_known_ones():
    with pytest.raises(KeyError, match=r"'speed' is not a metric\. Known: latency_s.*warehouse/metrics\.py"):
        metrics.metric("speed")


def test_keys_and_required_columns_are_declared():
    for table in schema.TABLES.values():
        assert set(table.key) <= set(table.names)
        assert len(set(table.names)) == len(table.names)
        assert all(column.doc for column in table.columns)


def test_configuration_key_is_the_same_for_rows_and_for_columns():
    rows = [
        {
            "llm_id": "a",
            "phase": "decode",
            "batch_size": 1,
            "optimizations": ["flash", "zero3"],
            "request_rate_per_s": 2.0,
        },
        {"llm_id": "a", "phase": "decode", "batch_size": 8, "optimizations": None, "request_rate_per_s": 0.5},
    ]
    columns = pa.Table.from_pylist(rows)
    assert schema.config_ids(columns).to_pylist() == [schema.config_id(row) for row in rows]
    assert schema.config_id(rows[0]) != schema.config_id(rows[1])


def test_configuration_key_ignores_order_absence_and_software():
    row = {"llm_id": "a", "phase": "decode", "optimizations": ["zero3", "flash"]}
    same = [
        row | {"optimizations": ["flash", "zero3"]},
        row | {"num_devices": 1, "tensor_parallel": 1},
        row | {"framework": "vllm", "task": "summarization", "environment_id": "e", "execution": "graph"},
        row | {"batch_size": None},
    ]
    assert {schema.config_id(other) for other in same} == {schema.config_id(row)}
    assert schema.config_id(row | {"num_devices": 2}) != schema.config_id(row)
