"""The ruleset llmviewer-472f71f against what the peer answers, every shared golden row at a relative difference of 1e-12."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from models.analytical import evaluate

RULESET = "llmviewer-472f71f"
WEIGHT_DTYPES = {16: "fp16", 8: "int8", 4: "int4"}
WORK = {
    "OPs": "flops",
    "memory_access": "bytes_moved",
    "load_weight": "weight_bytes_read",
    "load_act": "activation_bytes_read",
    "store_act": "activation_bytes_written",
    "load_kv_cache": "kv_bytes_read",
    "store_kv_cache": "kv_bytes_written",
    "inference_time": "roofline_s",
}
MEMORY = {
    "memory_consumption": "memory_peak_bytes",
    "memory_consumption_tmp_act": "activation_peak_bytes",
    "memory_consumption_weight": "weights_bytes",
    "memory_consumption_kv_cache": "kv_cache_bytes",
}


def configuration(golden: pa.Table) -> pa.Table:
    """Configurations of golden rows, one row each."""
    rows = golden.to_pylist()
    is_prefill = [row["stage"] == "prefill" for row in rows]
    return pa.table(
        {
            "llm_id": golden["model"],
            "hardware_id": golden["hardware"],
            "phase": golden["stage"],
            "batch_size": golden["batchsize"],
            "input_tokens": pa.array(
                [row["seqlen"] if it else None for row, it in zip(rows, is_prefill, strict=True)], pa.int64()
            ),
            "context_tokens": pa.array(
                [None if it else row["seqlen"] for row, it in zip(rows, is_prefill, strict=True)], pa.int64()
            ),
            "weight_dtype": [WEIGHT_DTYPES[row["w_bit"]] for row in rows],
            "activation_dtype": [WEIGHT_DTYPES[row["a_bit"]] for row in rows],
            "kv_dtype": [WEIGHT_DTYPES[row["kv_bit"]] for row in rows],
            "attention": ["flash" if row["flash"] else "eager" for row in rows],
        }
    )


def assert_columns_equal(ours: pa.Table, golden: pa.Table, names: dict[str, str]) -> None:
    for theirs, name in names.items():
        np.testing.assert_allclose(ours[name].to_numpy(), golden[theirs].to_numpy(), rtol=1e-12, atol=0, err_msg=theirs)


def test_every_golden_total_is_reproduced(shared: Path) -> None:
    golden = pq.read_table(shared / "golden" / "llm_viewer_totals.parquet")

    totals, _ = evaluate(configuration(golden), RULESET, with_ops=False)

    assert totals["status"].unique().to_pylist() == ["ok"]
    assert_columns_equal(totals, golden, WORK | MEMORY)


def test_every_golden_layer_is_reproduced(shared: Path) -> None:
    golden = pq.read_table(shared / "golden" / "llm_viewer_layers.parquet")
    keys = ["model", "hardware", "batchsize", "seqlen", "w_bit", "a_bit", "kv_bit", "flash", "stage"]
    configs = golden.select(keys).group_by(keys).aggregate([])

    _, ops = evaluate(configuration(configs), RULESET)

    configs = configs.append_column("config_row", pa.array(range(configs.num_rows)))
    ops = ops.append_column("layer", pc.replace_substring(ops["path"], "layers.*.", ""))
    ours = ops.drop_columns(["inputs"]).join(configs, "config_row")
    joined = ours.join(golden, [*keys, "layer"], join_type="full outer", left_suffix="_ours", right_suffix="_theirs")
    assert joined.num_rows == golden.num_rows == ops.num_rows
    assert joined["bound_ours"].to_pylist() == joined["bound_theirs"].to_pylist()
    assert_columns_equal(joined, joined, WORK)
    np.testing.assert_allclose(joined["arithmetic_intensity_ours"], joined["arithmetic_intensity_theirs"], rtol=1e-12)
    np.testing.assert_allclose(
        joined["flops"].to_numpy() / joined["roofline_s"].to_numpy(), joined["performance"], rtol=1e-12
    )


def test_the_ruleset_has_every_device_of_the_peer_with_its_numbers(shared: Path) -> None:
    theirs = pyarrow.csv.read_csv(shared / "golden" / "llm_viewer_hardware.csv").to_pylist()
    configs = pa.table({
        "llm_id": ["llama-2-7b"] * len(theirs), "hardware_id": [row["name"] for row in theirs], "phase": ["decode"] * len(theirs),
        "batch_size": [1] * len(theirs), "context_tokens": [1024] * len(theirs), "attention": ["flash"] * len(theirs),
    })  # fmt: skip

    own, _ = evaluate(configs, RULESET, with_ops=False)
    brought, _ = evaluate(configs, RULESET, with_ops=False, hardware=theirs)

    assert own["status"].unique().to_pylist() == ["ok"]
    assert own.equals(brought)


def one(**values: object) -> pa.Table:
    config = {
        "llm_id": "llama-2-7b", "hardware_id": "a6000", "phase": "decode", "batch_size": 1, "context_tokens": 1024,
        "weight_dtype": "fp16", "activation_dtype": "fp16", "kv_dtype": "fp16", "attention": "eager",
    }  # fmt: skip
    return pa.Table.from_pylist([config | values])


def test_the_printed_table_of_chilka_nyu_is_this_ruleset() -> None:
    totals, _ = evaluate(
        pa.concat_tables([one(), one(**dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "int8"))]),
        RULESET,
    )

    assert totals["flops"].to_pylist() == [13_627_555_840.0] * 2
    assert totals["bytes_moved"].to_pylist() == [13_767_891_456.0, 6_883_945_728.0]
    assert totals["roofline_s"].to_pylist() == pytest.approx([0.017926942, 0.008963471], rel=1e-12)


@pytest.mark.parametrize(
    ("hardware_id", "same"), [("nvidia_A6000", "a6000"), ("NVIDIA RTX A6000", "a6000"), ("nvidia_H100", "h100-sxm")]
)
def test_a_device_is_known_by_every_name(hardware_id: str, same: str) -> None:
    by_name, _ = evaluate(one(hardware_id=hardware_id), RULESET)
    by_id, _ = evaluate(one(hardware_id=same), RULESET)

    assert by_name["roofline_s"].to_pylist() == by_id["roofline_s"].to_pylist()


def test_a_device_the_peer_lacks_takes_the_catalogue_or_the_given_numbers() -> None:
    given = {
        "name": "nvidia_T4",
        "bandwidth_bytes_per_s": 320e9,
        "fp16_flops_per_s": 65e12,
        "int8_flops_per_s": 130e12,
        "onchip_buffer_bytes": 10e6,
    }

    catalogue, _ = evaluate(one(hardware_id="t4"), RULESET)
    brought, _ = evaluate(one(hardware_id="t4"), RULESET, hardware={"t4": given | {"bandwidth_bytes_per_s": 160e9}})

    moved = catalogue["bytes_moved"][0].as_py()
    assert catalogue["memory_s"][0].as_py() == pytest.approx(moved / 320e9, rel=1e-12)
    assert brought["memory_s"][0].as_py() == pytest.approx(moved / 160e9, rel=1e-12)


def test_opt_has_a_gate_and_gpt_j_has_one_norm() -> None:
    def names(llm_id: str, attention: str = "eager") -> list[str]:
        _, ops = evaluate(one(llm_id=llm_id, attention=attention), RULESET)
        return [path.removeprefix("layers.*.") for path in ops["path"].to_pylist()]

    assert "gate_proj" in names("opt-125m")
    assert "gate_proj" not in names("gpt-j-6b")
    assert "mlp_norm" not in names("gpt-j-6b", "flash")
    assert "mlp_norm" in names("chatglm3-6b")


def test_chatglm_reads_two_groups_of_keys_unless_attention_is_fused() -> None:
    eager, _ = evaluate(one(llm_id="chatglm3-6b"), RULESET)
    fused, _ = evaluate(one(llm_id="chatglm3-6b", attention="flash"), RULESET)

    assert eager["kv_bytes_read"][0].as_py() == 28 * 2 * 1024 * 2 * 128 * 2
    assert fused["kv_bytes_read"][0].as_py() == 16 * eager["kv_bytes_read"][0].as_py()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"llm_id": "bloom-560m"}, "config module"),
        ({"phase": "generate"}, "not generate"),
        ({"tensor_parallel": 2, "num_devices": 2}, "one device"),
        (
            {"hardware_id": "intel_13900k", "weight_dtype": "int8", "activation_dtype": "int8", "kv_dtype": "int8"},
            "no INT8 peak",
        ),
        ({"context_tokens": None}, "needs context_tokens"),
    ],
)
def test_what_the_peer_has_no_answer_for_is_a_row_without_numbers(values: dict[str, object], reason: str) -> None:
    totals, ops = evaluate(one(**values), RULESET)

    assert totals["status"].to_pylist() == ["unsupported"]
    assert reason in totals["status_detail"][0].as_py()
    assert totals["roofline_s"].to_pylist() == totals["flops"].to_pylist() == totals["bound"].to_pylist() == [None]
    assert ops.num_rows == 0


def test_absent_bits_are_the_peers_defaults() -> None:
    totals, _ = evaluate(one(weight_dtype=None, activation_dtype=None, kv_dtype=None, attention=None), RULESET)

    assert totals["bytes_moved"].to_pylist() == [13_767_891_456.0]
    assert "attention is not stated: eager assumed." in totals["status_detail"][0].as_py()
