"""The query `training_runs` on a real lakehouse: each measured run beside its bound, once, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from models.analytical import evaluate
from models.learned import find, train, training
from warehouse import parquet, schema
from warehouse.store import open_store

NOW = datetime(2026, 11, 21, tzinfo=UTC)
DEVICE = {
    "hardware_id": "test-cpu", "name": "Test CPU", "kind": "cpu", "memory_bytes": 6.4e10, "memory_bandwidth_bytes_per_s": 2e10,
    "peak_fp32_flops_per_s": 1e11, "source": "made up", "source_date": "2026-11-21",
}  # fmt: skip
LLMS = ("opt-125m", "gpt2", "bloom-560m", "pythia-160m")


def configurations() -> list[dict[str, Any]]:
    """Two phases, two batches and two lengths of four LLMs on one device."""
    shared = {"hardware_id": "test-cpu", "num_devices": 1, "attention": "sdpa", "optimizations": []}
    shared |= dict.fromkeys(("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel"), 1)
    shared |= dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "fp32")
    return [
        shared
        | {"llm_id": llm_id, "phase": phase, "batch_size": batch}
        | {"input_tokens" if phase == "prefill" else "context_tokens": length}
        for llm_id in LLMS
        for phase in ("prefill", "decode")
        for batch in (1, 4)
        for length in (64, 256)
    ]


def run(config: dict[str, Any], run_id: str, **values: Any) -> dict[str, Any]:
    """A `runs` row of a configuration."""
    identity = {"run_id": run_id, "config_id": schema.config_id(config), "collector": "test", "source_id": "test"}
    return config | identity | {"collected_at": NOW, "status": "ok", "is_excluded": False} | values


def analytical_rows(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`runs` rows of the analytical model."""
    columns = {column.name: [config.get(column.name) for config in configs] for column in schema.CONFIGURATION}
    table = pa.table({column.name: pa.array(columns[column.name], column.type) for column in schema.CONFIGURATION})
    totals, _ = evaluate(table, with_ops=False, hardware=[DEVICE])
    return [
        run(row, f"analytical-{index}", source_kind="analytical", ruleset="default", status=row["status"])
        for index, row in enumerate(totals.to_pylist())
    ]


def measured_rows(analytical: list[dict[str, Any]], configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Measurements of a known law: 1 ms a layer-free overhead, 60 % of the peak, 80 % of the bandwidth, 0.1 GB on top."""
    return [
        run(
            config,
            f"measured-{index:03d}",
            source_kind="measured",
            task="generation",
            latency_s=1e-3 + bound["compute_s"] / 0.6 + bound["memory_s"] / 0.8,
            memory_peak_bytes=bound["memory_peak_bytes"] + 1e8 + 1e6 * (index % 3),
        )
        for index, (config, bound) in enumerate(zip(configs, analytical, strict=True))
    ]


@pytest.fixture
def rows(tmp_path: Path) -> pa.Table:
    """The query's answer on a lake with measurements, their bounds, and rows that must stay out."""
    configs = configurations()
    analytical = analytical_rows(configs)
    measured = measured_rows(analytical, configs)
    lonely = configs[0] | {"batch_size": 3}
    strangers = [
        run(lonely, "no-bound", source_kind="measured", latency_s=1.0),
        run(configs[0], "excluded", source_kind="measured", latency_s=1.0, is_excluded=True),
        run(configs[0], "failed", source_kind="measured", status="oom"),
        run(configs[0], "printed", source_kind="published", latency_s=1.0),
        run(configs[0] | {"phase": "generate"}, "generated", source_kind="measured", latency_s=1.0),
        analytical[0] | {"run_id": "bound-again"},
        analytical[0] | {"run_id": "other-rules", "ruleset": "llmviewer-472f71f", "roofline_s": 9.0},
    ]
    parquet.land(tmp_path / "landing", "rows", {"hardware": [DEVICE], "runs": [*measured, *analytical, *strangers]})
    with open_store(tmp_path) as store:
        assert not store.load().quarantined
        assert store.query("training_runs", hardware_id="h100-sxm").num_rows == 0
        found = store.query("training_runs", hardware_id="test-cpu")
        assert found.equals(store.query("training_runs"))
    return found


def test_each_measured_and_published_run_meets_its_bound_once(rows: pa.Table) -> None:
    ids = rows["run_id"].to_pylist()
    assert ids == sorted(["generated", *(f"measured-{index:03d}" for index in range(32)), "no-bound", "printed"])
    by_id = {row["run_id"]: row for row in rows.to_pylist()}
    first, alone = by_id["measured-000"], by_id["no-bound"]
    assert first["measured_latency_s"] == 1e-3 + first["compute_s"] / 0.6 + first["memory_s"] / 0.8
    assert first["measured_memory_peak_bytes"] == first["memory_peak_bytes"] + 1e8
    assert (first["num_layers"], first["architecture"], first["has_twin"], first["has_llm"]) == (
        12,
        "decoder",
        True,
        True,
    )
    assert (alone["roofline_s"], alone["num_layers"], alone["has_twin"]) == (None, 12, False)
    assert by_id["printed"]["source_kind"] == "published"


def test_how_a_configuration_was_run_stands_beside_it(tmp_path: Path) -> None:
    config = configurations()[0]
    ways: list[dict[str, Any]] = [
        {"execution": "eager", "cache_implementation": "dynamic"}, {"execution": "graph"}, {"execution": "compiled"},
        {"cache_implementation": "static"}, {"num_devices": 2, "tensor_parallel": 2},
    ]  # fmt: skip
    rows = [run(config | way, f"way-{index}", source_kind="measured", latency_s=1.0) for index, way in enumerate(ways)]
    parquet.land(tmp_path / "landing", "rows", {"hardware": [DEVICE], "runs": rows})
    with open_store(tmp_path) as store:
        store.load()
        found = store.query("training_runs")
    names = ("execution", "cache_implementation", "num_devices")
    assert [tuple(row[name] for name in names) for row in found.to_pylist()] == [
        ("eager", "dynamic", 1), ("graph", None, 1), ("compiled", None, 1), (None, "static", 1), (None, None, 2)
    ]  # fmt: skip
    contents = find("latency").inputs(training.devices.with_devices(found)).content
    assert len(set(contents)) == 5


def test_the_newest_revision_of_the_engine_counts(tmp_path: Path) -> None:
    config = configurations()[0]
    (bound,) = analytical_rows([config])
    rows = [
        run(config, "measured", source_kind="measured", latency_s=1.0, other_load_ratio=0.25),
        *(bound | {"run_id": f"bound-{name}", "engine_revision": name, "roofline_s": value}
          for name, value in (("2026-11-21", 1.0), ("2026-11-22T07", 3.0), ("2026-11-22", 2.0))),
        bound | {"run_id": "bound", "roofline_s": 0.5},
    ]  # fmt: skip
    parquet.land(tmp_path / "landing", "rows", {"hardware": [DEVICE], "runs": rows})
    with open_store(tmp_path) as store:
        store.load()
        (found,) = store.query("training_runs").to_pylist()
        untwinned = [
            store.query("untwinned_configurations", revision=name).num_rows
            for name in (None, "2026-11-22T07", "2026-11-23")
        ]
    assert (found["run_id"], found["roofline_s"], found["other_load_ratio"]) == ("measured", 3.0, 0.25)
    assert untwinned == [0, 0, 1]


def test_an_empty_lake_has_no_training_rows_and_says_so(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.load()
        nothing = store.query("training_runs")
    with pytest.raises(ValueError, match="No rows to learn it from: nobody measured or published a latency_s"):
        train(find("latency"), nothing, snapshot_id=None, trained_at=NOW)
