"""config_id: one configuration at a time and a column at a time give the same hash, which never changes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse import schema

ARROW = pa.schema([schema.RUNS.arrow.field(name) for name in schema.CONFIGURATION_NAMES])
_NAMES = st.sampled_from(["zero2", "flash", "offload", ""])


def values(column: schema.Column) -> st.SearchStrategy[Any]:
    """Few values, so that they repeat, and many; absent ones, empty texts, numbers that read alike."""
    if pa.types.is_list(column.type):
        few: st.SearchStrategy[Any] = st.lists(st.none() | _NAMES, max_size=3)
    elif pa.types.is_floating(column.type):
        few = st.sampled_from([0.0, -0.0, 0.5, 2.0, 1e300]) | st.floats(allow_nan=False, allow_infinity=False)
    elif pa.types.is_integer(column.type):
        few = st.sampled_from([0, 1, 8]) | st.integers(-(2**63), 2**63 - 1)
    else:
        few = st.sampled_from(["", "1", "a", "fp16"]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
    return st.none() | few


ROWS = st.lists(st.fixed_dictionaries({column.name: values(column) for column in schema.CONFIGURATION}), max_size=12)


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS)
def test_a_table_hashes_as_its_rows_do(rows: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    table = pa.concat_tables([pa.Table.from_pylist(part, schema=ARROW) for part in (rows, more)])
    assert schema.config_ids(table).to_pylist() == [schema.config_id(row) for row in rows + more]


@settings(max_examples=20, deadline=None)
@given(ROWS, st.sets(st.sampled_from(schema.CONFIGURATION_NAMES), min_size=1))
def test_absent_columns_are_columns_of_null(rows: list[dict[str, Any]], names: set[str]) -> None:
    table = pa.Table.from_pylist(rows, schema=ARROW).select(sorted(names))
    assert schema.config_ids(table).to_pylist() == [
        schema.config_id({name: row[name] for name in names}) for row in rows
    ]


@pytest.mark.parametrize(
    ("config", "known"),
    [
        ({}, "dececf0fed4c9c56"),
        ({"llm_id": "llama-2-7b", "hardware_id": "a100-sxm-80gb", "phase": "decode", "batch_size": 1, "context_tokens": 1024,
          "weight_dtype": "fp16", "activation_dtype": "fp16", "kv_dtype": "fp16", "attention": "flash"}, "43c89c8d0efb281c"),
        ({"llm_id": "llama-2-7b", "hardware_id": "a800-sxm-80gb", "num_devices": 8, "data_parallel": 8,
          "phase": "finetune_step", "batch_size": 1, "input_tokens": 350, "request_rate_per_s": 2.0,
          "optimizations": ["zero2", "lora"], "optimizer_dtype": "fp32", "lora_rank": 64}, "b5360a59673377c0"),
    ],
)  # fmt: skip
def test_ids_of_rows_that_people_have_stay(config: dict[str, Any], known: str) -> None:
    assert schema.config_id(config) == known
    assert schema.config_ids(pa.Table.from_pylist([config], schema=ARROW)).to_pylist() == [known]
