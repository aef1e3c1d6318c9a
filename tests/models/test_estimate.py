"""The estimate: constants are found in order, profiles launch what they should, and time is never below the bound."""

import dataclasses
import tomllib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.analytical import collectives, evaluate
from models.analytical.devices import find_device
from models.analytical.estimate import (
    FILE,
    LAUNCHES,
    NAMES,
    Constants,
    constants,
    hide,
    op_seconds,
    run_seconds,
    shipped,
)
from models.analytical.inventory import Group, Op
from warehouse import schema
from warehouse.catalog import find_hardware

PLAIN = Constants(
    matrix_efficiency=0.5, attention_efficiency=0.25, vector_efficiency=0.5, bandwidth_efficiency=0.5, kernel_s=1e-6,
    dispatch_s=1e-5, step_s=1e-3, collective_s=1e-6, link_efficiency=0.5, ratio_p05=0.9, ratio_p50=1.0, ratio_p95=1.2,
)  # fmt: skip


def device(name):
    return find_device(name, lambda _: None, {})


def group(**values):
    """A device of 100 FLOP/s matrix and 10 FLOP/s vector peak, 10 B/s memory, 1 B/s links; 2 B activations."""
    fields = {field.name: np.nan for field in dataclasses.fields(Group)}
    known = {
        "weight_bytes": 2.0, "activation_bytes": 2.0, "kv_bytes": 2.0, "matrix_peak": 100.0, "attention_peak": 100.0,
        "vector_peak": 10.0, "bandwidth": 10.0, "link": 1.0, "far_link": 0.5, "host_link": 1.0,
    }  # fmt: skip
    return Group(**fields | known | values)


def op(kind, **sizes):
    return Op(kind=kind, path=f"layers.*.{kind}", phase=sizes.pop("phase", "forward"), **sizes)


def calibration(device_class, execution="eager", **values):
    return {
        "calibration_id": f"{device_class}-{execution}",
        "device_class": device_class,
        "execution": execution,
        **values,
    }


# Constants


def test_every_profile_of_the_schema_has_kernels_and_constants():
    assert set(LAUNCHES) == set(schema.EXECUTIONS)
    for execution in schema.EXECUTIONS:
        constants(device("tpu-v4"), execution)


def test_most_specific_class_wins():
    rows = [calibration(name, kernel_s=value) for name, value in (("any", 1.0), ("gpu", 2.0), ("ampere", 3.0))]
    assert constants(device("core-i9-13900k"), "eager", rows)[1].kernel_s == 1.0
    assert constants(device("mi300x"), "eager", rows)[1].kernel_s == 2.0
    assert constants(device("a6000"), "eager", rows)[1].kernel_s == 3.0
    calibration_id, found = constants(device("a6000"), "eager", [*rows, calibration("a6000", kernel_s=4.0)])
    assert (calibration_id, found.kernel_s) == ("a6000-eager", 4.0)


def test_rows_brought_along_come_before_shipped_ones_of_their_profile_only():
    rows = [calibration("any", kernel_s=7.0)]
    assert constants(device("a100-sxm-80gb"), "eager", rows)[1].kernel_s == 7.0
    assert constants(device("a100-sxm-80gb"), "engine", rows) == constants(device("a100-sxm-80gb"), "engine")


def test_constant_that_a_row_leaves_out_is_the_next_ones():
    _, own = constants(
        device("a100-sxm-80gb"), "eager", [calibration("a100-sxm-80gb", kernel_s=7.0, link_efficiency=None)]
    )
    _, known = constants(device("a100-sxm-80gb"), "eager")
    assert own == dataclasses.replace(known, kernel_s=7.0)


def test_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'turbo' is not an execution profile\. Known: eager, graph, compiled, engine"
    ):
        constants(device("t4"), "turbo")
    with pytest.raises(ValueError, match="'turbo' is not an execution profile"):
        op_seconds(op("norm", style="rms", read=2.0, written=2.0), group(), "turbo", PLAIN)


def test_shipped_rows_say_where_they_come_from():
    with FILE.open("rb") as file:
        entries = tomllib.load(file)["calibrations"]
    architectures = {
        find_hardware(name).row.get("architecture")
        for name in ("p4", "v100-sxm-16gb", "t4", "a30", "l40s", "h200", "b200")
    }
    assert architectures <= {entry["device_class"] for entry in entries}
    assert {(entry["device_class"], entry["execution"]) for entry in entries} >= {
        ("any", name) for name in schema.EXECUTIONS
    }
    for entry in entries:
        assert len(entry["source"]) > 20, entry
        assert set(entry) == {"device_class", "execution", *NAMES, "num_rows", "source"}
        assert 0 < entry["ratio_p05"] < entry["ratio_p50"] < entry["ratio_p95"], entry
        assert all(0 < entry[name] <= 1 for name in NAMES if name.endswith("efficiency")), entry
        assert all(0 <= entry[name] < 0.01 for name in NAMES if name.endswith("_s")), entry
    assert len({row["calibration_id"] for row in shipped()}) == len(entries)


# One op


def test_product_is_the_root_of_squares_of_its_two_sides_and_a_kernel():
    product = op("o_proj", flops=200.0, weights=15.0, gemm=(1.0, 1.0, 1.0), is_matrix=True)
    seconds, kernels = op_seconds(product, group(), "engine", PLAIN)
    assert kernels == 1
    assert seconds == pytest.approx((4.0**2 + 3.0**2) ** 0.5 + 1e-6)  # 200 / (0.5 x 100) and 15 / (0.5 x 10)


def test_fused_attention_has_its_own_efficiency():
    seconds, kernels = op_seconds(op("attention", flops=100.0, is_matrix=True), group(), "compiled", PLAIN)
    assert (seconds, kernels) == (pytest.approx(4.0 + 1e-6), 1)


def test_eager_rms_norm_passes_over_fp32_copies():
    """Of 1 element: 20 B of fp32 passes and 12 B of casts beside the 4 B that the op counts; in fp32 no casts."""
    norm = op("norm", style="rms", read=2.0, written=2.0)
    seconds, kernels = op_seconds(norm, group(), "eager", PLAIN)
    assert (seconds, kernels) == (pytest.approx(36 / 5 + 8e-6), 8)
    wide = op("norm", style="rms", read=4.0, written=4.0)
    seconds, kernels = op_seconds(wide, group(activation_bytes=4.0), "eager", PLAIN)
    assert (seconds, kernels) == (pytest.approx(28 / 5 + 6e-6), 6)


def test_eager_rope_is_sixteen_kernels_and_an_engines_one():
    rope = op("rope", read=2.0, written=2.0)
    assert op_seconds(rope, group(), "eager", PLAIN) == (pytest.approx(40 / 5 + 16e-6), 16)
    assert op_seconds(rope, group(), "engine", PLAIN) == (pytest.approx(4 / 5 + 1e-6), 1)


def test_eager_attention_with_a_cache_concatenates_it():
    scores = op("attention_scores", kv_read=10.0, written=0.0, is_matrix=True)
    assert op_seconds(scores, group(), "eager", PLAIN)[0] == pytest.approx(70 / 5 + 4e-6)


def test_written_out_gelu_passes_over_memory_again_and_again():
    fused, composed = (op("activation", style=style, read=2.0, written=2.0) for style in ("", "composed"))
    assert op_seconds(fused, group(), "eager", PLAIN) == (pytest.approx(4 / 5 + 1e-6), 1)
    assert op_seconds(composed, group(), "eager", PLAIN) == (pytest.approx(36 / 5 + 8e-6), 8)


def test_weights_are_widened_beside_their_product_but_in_eager():
    """Eager writes them, and the product reads them again: 4 B of a weight."""
    product = op("o_proj", flops=100.0, is_matrix=True)
    widen = op("dequantize", flops=2.0, beside=(0,))
    for execution, seconds, left in (("engine", 0.4, 0.0), ("eager", (0.4**2 + 0.8**2) ** 0.5, 0.8944282)):
        times = [op_seconds(one, group(), execution, PLAIN)[0] for one in (product, widen)]
        assert times == [pytest.approx(2 + 1e-6), pytest.approx(seconds + 1e-6)]
        assert hide([product, widen], times, execution) == [times[0], pytest.approx(left)]


def test_unfused_adam_passes_over_weights_23_times():
    update = op("optimizer", phase="optimizer", weights=1.0, read=3.0, written=3.0)
    assert op_seconds(update, group(), "eager", PLAIN)[0] == pytest.approx(23 / 5 + 9e-6)
    assert op_seconds(update, group(), "engine", PLAIN)[0] == pytest.approx(7 / 5 + 1e-6)


def test_collective_is_latency_stream_and_the_root_of_their_product():
    reduce = op("reduce_scatter", sent=np.array([2.0, 0.0]), hops=np.array([3.0, 0.0]))
    seconds, kernels = op_seconds(reduce, group(link=np.array([1.0, 1.0])), "engine", PLAIN)
    assert seconds == pytest.approx([4e-6 + 4 + (4e-6 * 4) ** 0.5, 0.0])
    assert kernels.tolist() == [1, 0]  # nothing sent, nothing launched
    far, _ = op_seconds(op("send_recv", sent=2.0, is_far=True), group(), "engine", PLAIN)
    assert far > 8


def test_small_all_reduce_goes_in_trees_and_a_large_one_in_a_ring():
    devices = 8
    for payload, algorithm in ((8e-6, collectives.tree_all_reduce), (8e6, collectives.ring_all_reduce)):
        ring = collectives.ring_all_reduce(payload, devices)
        seconds, _ = op_seconds(op("all_reduce", sent=ring.sent, hops=ring.hops), group(link=1.0), "engine", PLAIN)
        sent, hops = algorithm(payload, devices)
        latency, stream = hops * 1e-6 + 1e-6, sent / 0.5
        assert seconds == pytest.approx(latency + stream + (latency * stream) ** 0.5)


def test_hidden_communication_costs_what_is_left_of_it():
    reduce = op("all_reduce", sent=2.0, hidden=1.0)
    whole, _ = op_seconds(dataclasses.replace(reduce, hidden=0.0), group(), "eager", PLAIN)
    assert op_seconds(reduce, group(), "eager", PLAIN)[0] == pytest.approx(whole - 1)
    assert op_seconds(dataclasses.replace(reduce, hidden=100.0), group(), "eager", PLAIN)[0] == 0


def test_unknown_link_is_left_out():
    assert op_seconds(op("all_reduce", sent=2.0, hops=2.0), group(link=np.nan), "engine", PLAIN)[0] == 0


def test_work_of_the_host_launches_nothing():
    seconds, kernels = op_seconds(op("optimizer", seconds=3.0), group(), "compiled", PLAIN)
    assert (seconds, kernels) == (pytest.approx(6.0), 0)


def test_slower_of_device_and_host_decides():
    assert run_seconds(1.0, 10.0, PLAIN) == (pytest.approx(1.001), pytest.approx(0.0011))
    assert run_seconds(1.0, 1e6, PLAIN) == (pytest.approx(10.001), pytest.approx(10.001))


# Whole models

LLMS = ("llama-2-7b", "gpt2", "bert-base", "t5-small", "mixtral-8x7b", "deepseek-v2-lite")


def answers(*configs):
    names = sorted({name for config in configs for name in config})
    totals, ops = evaluate(pa.Table.from_pylist([{name: config.get(name) for name in names} for config in configs]))
    return totals.to_pylist(), ops.to_pylist()


def config(**values):
    return {
        "llm_id": "llama-2-7b", "hardware_id": "a100-sxm-80gb", "phase": "forward", "batch_size": 2, "input_tokens": 128,
        "weight_dtype": "fp16", "activation_dtype": "fp16", "attention": "eager", "execution": "eager",
    } | values  # fmt: skip


@pytest.mark.parametrize("llm_id", LLMS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_eager_takes_longer_than_compiled_and_launches_more(llm_id, attention):
    rows, ops = answers(
        *(config(llm_id=llm_id, attention=attention, execution=name) for name in ("eager", "compiled", "engine"))
    )
    if rows[0]["status"] != "ok":
        pytest.skip(rows[0]["status_detail"])
    eager, compiled, engine = (
        sum(op["num_kernels"] * op["count"] for op in ops if op["config_row"] == row) for row in range(3)
    )
    assert eager > max(compiled, engine)
    assert rows[0]["estimate_s"] > rows[1]["estimate_s"]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(LLMS), st.sampled_from(("a100-sxm-80gb", "t4", "mi300x", "epyc-9654", "tpu-v4")),
    st.sampled_from(schema.EXECUTIONS), st.sampled_from(("eager", "sdpa")), st.integers(1, 64), st.integers(1, 2048),
)  # fmt: skip
def test_estimate_is_above_the_bound_and_inside_its_interval(llm_id, hardware_id, execution, attention, batch, tokens):
    tokens = min(tokens, 512) if llm_id in ("bert-base", "t5-small", "gpt2") else tokens
    given_config = config(
        llm_id=llm_id,
        hardware_id=hardware_id,
        execution=execution,
        attention=attention,
        batch_size=batch,
        input_tokens=tokens,
    )
    (row, larger), ops = answers(given_config, given_config | {"batch_size": 2 * batch})
    if row["status"] != "ok":
        return
    assert row["estimate_s"] >= row["roofline_s"]
    assert row["estimate_lower_s"] < row["estimate_upper_s"]
    assert larger["estimate_s"] >= row["estimate_s"]
    for op_row in ops:
        if op_row["config_row"] == 0:
            assert op_row["estimate_s"] >= op_row["roofline_s"] * (1 - 1e-12), op_row["path"]


def test_small_eager_decode_is_bound_by_its_host():
    (small, large), _ = answers(
        *(config(phase="decode", input_tokens=None, context_tokens=512, batch_size=batch) for batch in (1, 64))
    )
    assert small["estimate_s"] == pytest.approx(small["launch_s"])
    assert large["estimate_s"] > 1.5 * large["launch_s"]


# What others measured: benchmarks/analytical/accuracy.py shows all of it


@pytest.mark.parametrize(
    ("tensor_parallel", "llm_id", "rate"),
    [(2, "llama-2-7b", 159), (4, "llama-2-7b", 218), (1, "llama-2-13b", 60), (2, "llama-2-13b", 94), (4, "llama-2-13b", 138),
     (2, "llama-2-70b", 22), (4, "llama-2-70b", 38)],
)  # fmt: skip
def test_pattabhiraman_tensor_parallel_rates_are_met_within_twelve_percent(tensor_parallel, llm_id, rate):
    """Figure 4, tokens/s per sequence; without 7B on one device, which is slower than half of two."""
    (row,), _ = answers(
        config(
            llm_id=llm_id, phase="decode", input_tokens=None, context_tokens=192, batch_size=4, attention="sdpa", execution="compiled",
            tensor_parallel=tensor_parallel, num_devices=tensor_parallel,
        )
    )  # fmt: skip
    assert 1 / row["estimate_s"] == pytest.approx(rate, rel=0.12)


def zhang(**values):
    return config(
        hardware_id="a800-sxm-80gb", weight_dtype="bf16", activation_dtype="bf16", phase="pretrain_step", num_devices=8,
        data_parallel=8, gradient_dtype="bf16", optimizer_dtype="bf16",
    ) | values  # fmt: skip


def test_zhang_training_steps_are_met_within_twelve_percent():
    """Tables V and VII: 518.9 ms, and 3740.3 ms with recomputation."""
    rows, ops = answers(zhang(input_tokens=333), zhang(batch_size=32, input_tokens=332, optimizations=["recompute"]))
    assert rows[0]["estimate_s"] == pytest.approx(0.5189, rel=0.12)
    assert rows[1]["estimate_s"] == pytest.approx(3.7403, rel=0.12)
    forward = sum(op["estimate_s"] * op["count"] for op in ops if op["config_row"] == 1 and op["phase"] == "forward")
    assert forward == pytest.approx(0.9008, rel=0.10)


@pytest.mark.parametrize(
    ("kinds", "milliseconds"),
    [(("q_proj", "k_proj", "v_proj"), 9.92), (("rope",), 6.66), (("attention_scores",), 4.32), (("softmax",), 2.62),
     (("attention_values",), 2.21), (("o_proj",), 3.39), (("gate_proj", "up_proj", "activation", "down_proj"), 29.06),
     (("norm",), 6.91)],
)  # fmt: skip
def test_zhang_modules_are_met_within_a_quarter(kinds, milliseconds):
    """Table VI, forward. The head, not here, is 27 % below its 1.08 ms."""
    _, ops = answers(zhang(input_tokens=333))
    seconds = sum(op["estimate_s"] * op["count"] for op in ops if op["phase"] == "forward" and op["op_kind"] in kinds)
    assert 1e3 * seconds == pytest.approx(milliseconds, rel=0.25)


def test_zhang_decode_step_of_an_engine_is_met_within_fifteen_percent():
    """Table XI: 51.11 ms of 1024 sequences on eight devices."""
    (row,), _ = answers(
        zhang(
            phase="decode", batch_size=1024, input_tokens=None, context_tokens=513, tensor_parallel=8, data_parallel=1,
            kv_dtype="bf16", attention="paged", execution="engine", gradient_dtype=None, optimizer_dtype=None,
        )
    )  # fmt: skip
    assert row["estimate_s"] == pytest.approx(0.05111, rel=0.15)
