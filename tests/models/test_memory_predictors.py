"""Predictors of memory on planted laws: terms are recovered, kinds of peaks are not mixed, NULL stays NULL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.learned import answering, evaluate, tidy
from models.learned.contenders import Ours
from models.learned.fits import Errors, largest
from models.learned.inputs import Array, number
from models.learned.subjects import devices, find

CONTEXT_BYTES = 0.5e9
LLMS = {
    "small": (1.1e9, 2048, 22, 32000),
    "middle": (6.7e9, 4096, 32, 32000),
    "large": (13.0e9, 5120, 40, 50000),
    "wide": (8.0e9, 4096, 32, 128000),
}


def planted(**changes: Any) -> pa.Table:
    """A grid over LLMs and batches whose peak is weights + returned cache + 1.5 x activations + logits thrice + a context."""
    rows = []
    for llm, (parameters, hidden, layers, vocabulary) in LLMS.items():
        for batch in (1, 2, 4, 8, 16):
            for tokens in (128, 512):
                row: dict[str, Any] = {
                    "run_id": f"{llm}-{batch}-{tokens}", "llm_id": llm, "family": llm, "architecture": "decoder",
                    "hardware_id": "a100-sxm-80gb", "num_devices": 1, "phase": "forward", "batch_size": batch,
                    "input_tokens": tokens, "output_tokens": None, "context_tokens": None,
                    "weight_dtype": "fp16", "activation_dtype": "fp16", "num_parameters": int(parameters),
                    "num_layers": layers, "hidden_size": hidden, "vocab_size": vocabulary,
                    "num_heads": hidden // 128, "num_kv_heads": hidden // 128, "head_dim": 128, "attention": "sdpa",
                    "weights_bytes": 2 * parameters, "kv_cache_bytes": 0.0,
                    "intermediate_size": 4 * hidden, "logits_bytes": 2.0 * batch * tokens * vocabulary,
                    "activation_peak_bytes": 2.0 * batch * tokens * (vocabulary + 8 * hidden),
                }  # fmt: skip
                resident = row["weights_bytes"] + 4.0 * batch * tokens * layers * hidden
                logits = 6.0 * batch * tokens * vocabulary
                row["memory_peak_bytes"] = row["weights_bytes"] + row["activation_peak_bytes"]
                row["measured_memory_peak_bytes"] = (
                    resident + 1.5 * 16.0 * batch * tokens * hidden + logits + CONTEXT_BYTES
                )
                row["measured_memory_device_bytes"] = 1.2 * row["measured_memory_peak_bytes"]
                row["measured_memory_reserved_bytes"] = None
                rows.append(row | changes)
    return devices.with_devices(pa.Table.from_pylist(rows))


@pytest.mark.parametrize("key", ["memory_allocated", "memory_device"])
def test_the_planted_terms_are_found_for_an_llm_never_seen(key: str) -> None:
    target = find(key)
    rows, _ = tidy.tidy(target, planted())
    found = evaluate.evaluate(target, rows, ["leave_model_out"], contenders=lambda target, split: [Ours(target, split)])
    scores = {row["fold"]: row for row in found.scores()}
    assert set(LLMS) <= set(scores)
    assert scores["all"]["mape"] < 0.03
    assert scores["all"]["r2"] > 0.999


def test_a_peak_that_nobody_measured_is_no_row() -> None:
    target = find("memory_reserved")
    rows, notes = tidy.tidy(target, planted())
    assert any("no positive memory_reserved_bytes" in note for note in notes)
    with pytest.raises(ValueError, match="No rows to learn memory_reserved from"):
        evaluate.check(target, target.inputs(rows), number(rows, target.column))


def test_a_constant_peak_is_refused() -> None:
    target = find("memory_device")
    rows = planted(measured_memory_device_bytes=8e9)
    with pytest.raises(ValueError, match="A constant cannot be learnt"):
        evaluate.check(target, target.inputs(rows), number(rows, target.column))


def test_a_row_without_its_llm_has_no_prediction() -> None:
    target = find("memory_allocated")
    rows = planted()
    ours = Ours(target, "random")
    ours.fit(rows, number(rows, target.column))
    absent = planted(num_parameters=None, weights_bytes=None, activation_peak_bytes=None)
    assert np.isnan(ours.predict(absent).value).all()


def test_kinds_of_peaks_are_learnt_apart() -> None:
    rows = planted()
    predicted = {}
    for key in ("memory_allocated", "memory_device"):
        target, ours = find(key), Ours(find(key), "random")
        ours.fit(rows, number(rows, target.column))
        predicted[key] = ours.predict(rows).value
    assert np.median(predicted["memory_device"] / predicted["memory_allocated"]) == pytest.approx(1.2, rel=0.02)


def test_a_checkpoint_of_four_bits_keeps_its_tables_whole() -> None:
    target = find("memory_allocated")
    inputs = target.inputs(planted(weight_dtype="int4"))
    terms = dict(zip(inputs.term_names, inputs.terms.T, strict=True))
    tables = np.array([2 * hidden * vocabulary for _, hidden, _, vocabulary in LLMS.values()]).repeat(10)
    assert terms["weights_bytes"] == pytest.approx(2.0 * tables)
    assert (terms["quantized_bytes"] > 0).all()


def test_a_pass_of_an_encoder_decoder_returns_keys_and_values_of_both_sides() -> None:
    target = find("memory_allocated")
    inputs = target.inputs(planted(architecture="encoder_decoder", output_tokens=64))
    terms = dict(zip(inputs.term_names, inputs.terms.T, strict=True))
    rows = planted()
    tokens = number(rows, "input_tokens") + 64
    expected = number(rows, "batch_size") * tokens * 2 * number(rows, "num_layers") * number(rows, "hidden_size") * 2.0
    assert terms["crossed_bytes"] == pytest.approx(expected)
    assert (terms["returned_bytes"] == 0).all()
    assert (target.inputs(planted(architecture="encoder")).terms[:, [3, 4]] == 0).all()


def test_logits_are_held_as_often_as_the_head_makes_them() -> None:
    target = find("memory_allocated")
    once, twice = (target.inputs(planted(family=family)) for family in ("t5", "bart"))
    place = once.term_names.index("logits_bytes")
    assert twice.terms[:, place] == pytest.approx(2 * once.terms[:, place])
    whole = target.inputs(planted(activation_dtype="fp32", weight_dtype="fp32"))
    assert once.terms[:, place] == pytest.approx(3 * whole.terms[:, place]), "fp16 logits keep a copy in fp32"


def test_a_tool_that_asks_the_driver_alone_has_coefficients_of_its_own() -> None:
    rows = planted()
    alone = np.arange(len(rows)) % 2
    peaks = number(rows, "measured_memory_device_bytes") * np.where(alone, 1.5, 1.0)
    rows = rows.append_column("is_allocator_counted", pa.array(1 - alone))
    target = find("memory_device")
    ours = Ours(target, "random")
    ours.fit(rows, peaks)
    assert np.median(np.abs(ours.predict(rows).value / peaks - 1)) < 0.02
    assert ours.predict(planted()).value[alone == 0] == pytest.approx(ours.predict(rows).value[alone == 0])


def noisy(groups: int, rows: int, spread: float, number_of: int) -> tuple[Errors, np.ndarray[Any, Any]]:
    """Errors of groups that are wrong together, and those of one more group drawn alike."""
    draw = np.random.default_rng(number_of)
    logs = draw.normal(0, spread, (groups + 1, 1)) + draw.normal(0, spread / 3, (groups + 1, rows))
    value = 10e9 * draw.uniform(0.5, 2.0, (groups, rows))
    names = np.repeat(np.arange(groups), rows)
    return Errors.of((value * np.exp(logs[:-1])).ravel(), value.ravel(), names), logs[-1]


def test_the_chance_rises_with_the_capacity_and_is_never_certain() -> None:
    errors, _ = noisy(6, 20, 0.05, 1)
    capacity = np.geomspace(1e9, 80e9, 60)
    found = errors.chance(np.full(60, 10e9), capacity)
    assert (np.diff(found) > 0).all()
    assert 0 < found[0] < 0.01
    assert 0.99 < found[-1] < 1
    assert np.isnan(errors.chance(np.array([10e9, np.nan]), 20e9, np.array([False, True]))).all()


def test_the_chance_is_what_happens() -> None:
    """Of all capacities said to hold with a chance of 0.2 to 0.8, about that share holds for groups not seen."""
    said, held = [], []
    for number_of in range(200):
        errors, left = noisy(8, 10, 0.05, number_of)
        room = np.random.default_rng(number_of + 1000).normal(0, 0.06, len(left))
        said.append(errors.chance(np.full(len(left), 10e9), 10e9 * np.exp(room)))
        held.append(left <= room)
    chance, is_held = np.concatenate(said), np.concatenate(held)
    for least in (0.05, 0.2, 0.4, 0.6, 0.8):
        some = (chance >= least) & (chance < least + 0.2)
        assert is_held[some].mean() == pytest.approx(chance[some].mean(), abs=0.08)


def test_no_more_than_the_stated_share_of_new_groups_exceeds_the_safe_bound() -> None:
    exceeded = 0
    for number_of in range(300):
        errors, left = noisy(7, 12, 0.05, number_of)
        exceeded += bool((10e9 * np.exp(left) > errors.safe(np.full(len(left), 10e9))).any())
    assert exceeded / 300 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_one_group_promises_nothing() -> None:
    errors = Errors.of(np.array([1.0, 2.0]), np.array([1.0, 1.9]), ["only", "only"])
    assert np.isinf(errors.safe(np.array([1.0]))).all()
    assert np.isnan(errors.chance(np.array([1.0]), 8.0)).all()


def test_errors_in_bytes_hold_for_small_llms_and_shares_for_large_ones() -> None:
    value = np.array([1e9, 2e9, 4e9, 8e9])
    errors = Errors.of(value + 0.5e9 * np.array([1, -1, 1, -1]), value, ["a", "b", "c", "d"])
    safe = errors.safe(np.array([0.1e9, 100e9]))
    assert safe[0] > 0.6e9
    assert safe[1] > 100e9 * 1.5


def test_the_errors_of_a_card_are_those_of_its_held_out_rows() -> None:
    held = {"actual": [2.0, 4.0, 6.0], "value": [1.0, 4.0, 3.0], "fold": ["a", "a", "b"]}
    assert Errors.of_card({"held_out": held}).logs == pytest.approx(np.log([2.0, 1.0, 2.0]))
    assert Errors.of_card({"held_out": {}}).num_groups == 0


@pytest.mark.parametrize(("capacity", "batch"), [(5.0, None), (20.0, 2), (45.0, 4), (1e3, 8)])
def test_the_largest_batch_is_the_last_of_those_that_all_fit(capacity: float, batch: int | None) -> None:
    assert largest([1, 2, 4, 8], np.array([10.0, 20.0, 40.0, 80.0]), capacity) == batch


def steps() -> pa.Table:
    """Training steps whose peak is weights + 1.2 x gradients + 0.9 x optimizer + activations + 1 GB, divided by ZeRO or not."""
    rows = []
    for llm, (parameters, hidden, _, vocabulary) in LLMS.items():
        for batch in (1, 2, 4, 8):
            for optimizations, devices_of in (("[]", 1), ("[zero2]", 8), ("[zero3]", 8)):
                sharded = {"[]": (1, 1), "[zero2]": (1, 8), "[zero3]": (8, 8)}[optimizations]
                row: dict[str, Any] = {
                    "run_id": f"{llm}-{batch}-{optimizations}", "llm_id": llm, "family": llm, "architecture": "decoder",
                    "hardware_id": "a800-sxm-80gb", "num_devices": devices_of, "phase": "pretrain_step", "batch_size": batch,
                    "input_tokens": 350, "weight_dtype": "bf16", "activation_dtype": "bf16", "optimizations": optimizations,
                    "num_parameters": int(parameters), "num_layers": 32, "hidden_size": hidden, "num_kv_heads": 32,
                    "vocab_size": vocabulary, "weights_bytes": 2 * parameters / sharded[0],
                    "gradients_bytes": 2 * parameters / sharded[1], "optimizer_bytes": 12 * parameters / sharded[1],
                    "logits_bytes": 4.0 * batch * 350 * vocabulary, "workspace_bytes": None,
                    "activation_peak_bytes": 4.0 * batch * 350 * (vocabulary + 40 * hidden), "memory_peak_bytes": None,
                }  # fmt: skip
                row["measured_memory_peak_bytes"] = (
                    row["weights_bytes"] + 1.2 * row["gradients_bytes"] + 0.9 * row["optimizer_bytes"]
                    + row["activation_peak_bytes"] + 1e9
                )  # fmt: skip
                rows.append(row)
    return devices.with_devices(pa.Table.from_pylist(rows))


def test_what_a_training_step_holds_is_found_for_an_llm_never_seen() -> None:
    target = find("memory_training")
    rows, notes = tidy.tidy(target, steps())
    assert "12 of 48 rows ran where the device cannot hold what they state." in notes
    found = evaluate.evaluate(target, rows, ["leave_model_out"], contenders=lambda target, split: [Ours(target, split)])
    scores = {row["fold"]: row for row in found.scores()}
    assert scores["all"]["num_rows"] == 36
    assert scores["all"]["mape"] < 0.03


def timed(rate_of: Callable[[Array, Array], Array]) -> pa.Table:
    """Decode steps of the catalogue's LLMs at the rate that `rate_of` (bytes moved, layers) says."""
    way = dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "fp16") | {
        "framework": "pytorch",
        "execution": "eager",
    }
    configs = [
        {
            "llm_id": llm,
            "hardware_id": "a100-sxm-80gb",
            "phase": "decode",
            "batch_size": batch,
            "context_tokens": context,
        }
        | way
        for llm in ("opt-125m", "gpt2", "opt-350m", "opt-1.3b", "qwen2.5-0.5b", "llama-2-7b")
        for batch in (1, 2, 4, 8, 16, 32)
        for context in (256, 1024)
    ]
    rows = answering.questions(answering.configurations(configs), answering.Known())
    rates = rate_of(number(rows, "bytes_moved"), number(rows, "num_layers"))
    return rows.append_column("measured_achieved_bytes_per_s", pa.array(rates))


def test_energy_is_power_over_the_time_of_each_part() -> None:
    target = find("energy_token")
    rows = timed(lambda moved, layers: moved)
    watts, tokens = 400.0, number(rows, "batch_size")
    joules = (
        watts
        / tokens
        * (0.8 * number(rows, "compute_s") + 1.3 * number(rows, "memory_s") + 2e-5 * number(rows, "num_layers"))
    )
    rows, _ = tidy.tidy(target, rows.append_column("measured_energy_per_output_token_j", pa.array(joules)))
    found = evaluate.evaluate(target, rows, ["leave_model_out"], contenders=lambda target, split: [Ours(target, split)])
    score = next(row for row in found.scores() if row["fold"] == "all")
    assert score["mape"] < 0.03


@pytest.mark.parametrize(
    ("key", "how"), [("energy_token", "local_profile --energy"), ("gemm_power", "a column `power`")]
)
def test_energy_that_nobody_measured_says_how_to_measure_it(key: str, how: str) -> None:
    target = find(key)
    inputs = find("energy_token").inputs(timed(lambda moved, layers: moved))
    with pytest.raises(ValueError, match=how):
        evaluate.check(target, inputs.take(np.zeros(len(inputs), np.bool_)), np.empty(0))


def test_power_is_what_the_device_draws_at_rest_and_for_what_it_does() -> None:
    target = find("gemm_power")
    sizes = [(m, n, k) for m in (16, 256, 4096) for n in (1024, 8192) for k in (1024, 4096)]
    shapes = [
        {"m": m, "n": n, "k": k, "hardware_id": device}
        for m, n, k in sizes
        for device in ("a100-sxm-80gb", "h100-sxm", "l40s")
    ]
    common = {
        "op_kind": "gemm",
        "weight_dtype": "bf16",
        "activation_dtype": "bf16",
        "framework": "vllm",
        "llm_id": None,
        "batch_size": None,
    }
    rows = devices.with_devices(
        pa.Table.from_pylist(
            [common | {"source_id": "planted", "phase": None, "execution": None} | one for one in shapes]
        )
    )
    terms = target.inputs(rows).terms
    rows = rows.append_column("measured_power_w", pa.array(terms @ np.array([0.25, 0.5, 0.2])))
    rows, _ = tidy.tidy(target, rows)
    found = evaluate.evaluate(
        target, rows, ["leave_device_out"], contenders=lambda target, split: [Ours(target, split)]
    )
    score = next(row for row in found.scores() if row["fold"] == "all")
    assert score["num_rows"] == 36
    assert score["mdape"] < 0.02


def test_bandwidth_is_bytes_over_a_time_with_overheads() -> None:
    target = find("bandwidth")
    rows, _ = tidy.tidy(target, timed(lambda moved, layers: moved / (moved / 1500e9 + 20e-6 * layers)))
    found = evaluate.evaluate(target, rows, ["leave_model_out"], contenders=lambda target, split: [Ours(target, split)])
    score = next(row for row in found.scores() if row["fold"] == "all")
    assert score["mape"] < 0.03
    assert score["coverage"] is not None


def test_a_constant_bandwidth_is_refused() -> None:
    target = find("bandwidth")
    rows = timed(lambda moved, layers: np.full(len(moved), 1500e9))
    with pytest.raises(ValueError, match="A constant cannot be learnt, and its perfect score would say nothing"):
        evaluate.check(target, target.inputs(rows), number(rows, target.column))


def test_a_bandwidth_beyond_the_device_is_left_out() -> None:
    target = find("bandwidth")
    rows = timed(lambda moved, layers: np.where(moved > 1.5e10, 9e12, moved / (moved / 1500e9 + 20e-6 * layers)))
    kept, notes = tidy.tidy(target, rows)
    assert any("move more than 1.25 times what their bound can" in note for note in notes)
    assert len(kept) < len(rows)
