"""`calibrate`: measured rows of a lake become constants in it, and the engine's estimates follow them."""

import pyarrow as pa
import pytest
from sample_rows import op, run

from etl import calibration, twins
from models.analytical import evaluate
from warehouse import parquet
from warehouse.store import Home, open_store

DEVICE = {
    "hardware_id": "test-cpu", "name": "Test CPU", "kind": "cpu", "memory_bytes": 6.4e10,
    "memory_bandwidth_bytes_per_s": 2e10, "peak_fp32_flops_per_s": 1e11, "source": "made up", "source_date": "2026-11-21",
}  # fmt: skip
SLOW = {"calibration_id": "slow", "device_class": "test-cpu", "execution": "eager", "matrix_efficiency": 0.3, "bandwidth_efficiency": 0.4, "dispatch_s": 5e-5}  # fmt: skip

FITTED = "SELECT * FROM calibrations WHERE snapshot_id IS NOT NULL"
"""Without the shipped constants that twins bring along."""


def configurations():
    fp32 = dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "fp32")
    same = fp32 | {
        "hardware_id": "test-cpu",
        "attention": "sdpa",
        "num_devices": 1,
        "phase": "decode",
        "input_tokens": None,
    }
    return [
        same | {"llm_id": llm, "batch_size": batch, "context_tokens": context}
        for llm in ("opt-125m", "gpt2")
        for batch in (1, 4)
        for context in (64, 512)
    ] + [
        same | {"phase": "prefill", "llm_id": llm, "batch_size": batch, "context_tokens": None, "input_tokens": 64}
        for llm in ("opt-125m", "gpt2")
        for batch in (1, 8)
    ]  # fmt: skip


def land(home, configs, **values):
    """Runs at the estimate of SLOW, each with an op; and their device."""
    totals, _ = evaluate(pa.Table.from_pylist([config | {"execution": "eager", "input_tokens": config.get("input_tokens")} for config in configs]), hardware=[DEVICE], calibrations=[SLOW])  # fmt: skip
    seconds = totals.column("estimate_s").to_pylist()
    runs = [run(f"r{index}", **{**config, "execution": "eager", "latency_s": seconds[index]}, **values) for index, config in enumerate(configs)]  # fmt: skip
    ops = [
        op(row["run_id"], index, path=path, op_kind=kind, time_s=row["latency_s"] * share, parent_path=parent)
        for row in runs
        for index, (path, parent, kind, share) in enumerate(
            (("model", None, "model", 1.0), ("model.norm", "model", "norm", 1e-3), ("lm_head", "model", "lm_head", 0.2))
        )
    ]  # fmt: skip
    parquet.land(Home.of(home).landing, "node", {"runs": runs, "ops": ops, "hardware": [DEVICE]})


@pytest.fixture
def lake(tmp_path):
    """An empty lake, and what was reported."""
    place = Home.of(tmp_path / "home")
    place.prepare()
    with open_store(place) as store:
        yield store


def loaded(store, configs, **values):
    land(store.home.path, configs, **values)
    store.load()
    twins.add(store, lambda _: None)


def test_measured_rows_become_constants(lake):
    loaded(lake, configurations())
    before, said = lake.snapshot_id(), []
    report = calibration.calibrate(lake, said.append)
    assert not report.quarantined, said
    (row,) = lake.sql(FITTED).to_pylist()
    assert (row["device_class"], row["execution"], row["snapshot_id"]) == ("test-cpu", "eager", before)
    assert row["source"].startswith("12 runs and 24 kinds of op in them of 12 configurations of this lake")
    assert row["source"].endswith("Sources: rooflake/local_profile.")
    assert said[-1].startswith("test-cpu eager: matrix_efficiency")
    totals, _ = evaluate(pa.Table.from_pylist(configurations()), hardware=[DEVICE], calibrations=[row])
    assert set(totals.column("calibration_id").to_pylist()) == {row["calibration_id"]}
    measured = {
        row["config_id"]: row["latency_s"]
        for row in lake.sql("SELECT * FROM runs WHERE source_kind = 'measured'").to_pylist()
    }
    estimates = totals.column("estimate_s").to_pylist()
    for config, estimate in zip(configurations(), estimates, strict=True):
        assert measured[run("r", **config)["config_id"]] == pytest.approx(estimate, rel=0.15)


def test_again_on_the_same_rows_changes_nothing(lake):
    loaded(lake, configurations())
    calibration.calibrate(lake, lambda _: None)
    assert not calibration.calibrate(lake, lambda _: None).quarantined
    assert lake.sql(FITTED).num_rows == 1


def test_too_few_rows_and_none_are_sentences(lake):
    said = []
    calibration.calibrate(lake, said.append)
    assert said == ["No constants: the lake holds no measured times of configurations with an analytical twin."]
    loaded(lake, configurations()[:3])
    said.clear()
    calibration.calibrate(lake, said.append)
    assert said == [
        "test-cpu under profile eager: 3 measured runs of 3 configurations are too few: 8 runs of 4 configurations are needed."
    ]
    assert lake.sql(FITTED).num_rows == 0


def test_busy_machines_do_not_count(lake):
    loaded(lake, configurations(), other_load_ratio=0.9)
    said = []
    calibration.calibrate(lake, said.append)
    assert said == [
        "36 times of a busy machine left out.",
        "No constants: the lake holds no measured times of configurations with an analytical twin.",
    ]


def test_published_rows_count_where_their_source_is_named(lake):
    loaded(lake, configurations(), source_kind="published", source_id="paper/table-1", collector="published")
    said = []
    calibration.calibrate(lake, said.append)
    assert said[-1].startswith("No constants")
    with pytest.raises(LookupError, match=r"of source 'pap'\. Known: paper/table-1\."):
        calibration.calibrate(lake, said.append, sources=("pap",))
    calibration.calibrate(lake, said.append, sources=("paper",))
    (row,) = lake.sql(FITTED).to_pylist()
    assert row["source"].endswith("Sources: paper/table-1.")


def test_rows_without_a_time_say_why_and_a_token_rate_is_one(lake):
    configs = configurations()
    rate = {"metric_definitions": {"output_tokens_per_s": "tokens_over_duration"}}
    runs = [
        run("rate", **configs[2], latency_s=None, output_tokens_per_s=8.0, **rate),
        run("another definition", **configs[2], latency_s=None, output_tokens_per_s=8.0),
        run("step", **configs[2] | {"phase": "pretrain_step"}, latency_s=1.0),
        run("ranks", **configs[2] | {"num_devices": 2, "tensor_parallel": 2}, latency_s=1.0),
        run("no twin", **configs[2] | {"context_tokens": 99_999}, latency_s=1.0),
    ]
    parquet.land(lake.home.landing, "rates", {"runs": runs, "hardware": [DEVICE]})
    assert not lake.load().quarantined
    twins.add(lake, lambda _: None)
    rows = {row["run_id"]: row for row in lake.query("calibration_rows").to_pylist()}
    assert rows["rate"]["measured_s"] == configs[2]["batch_size"] / 8.0
    assert rows["rate"]["left_out"] is None
    said = []
    calibration.calibrate(lake, said.append)
    assert "1 runs left out: no latency, and no token rate that gives one." in said
    assert "1 runs left out: no analytical twin of their configuration." in said
    assert any(line.startswith("1 runs left out: phase pretrain_step") for line in said)
    assert "1 runs left out: several ranks on one processor, which is one device." in said


def test_containers_do_not_count_twice(lake):
    loaded(lake, configurations()[:1])
    rows = lake.query("calibration_rows").to_pylist()
    assert [row["op_kind"] for row in rows] == [None, "lm_head", "norm"]
    assert rows[1]["measured_s"] == pytest.approx(0.2 * rows[0]["measured_s"])
