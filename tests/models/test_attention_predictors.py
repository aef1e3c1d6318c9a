"""Predictors of attention, layers of experts and collectives, on planted laws."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from models.learned import bases, model, splits
from models.learned.inputs import Inputs
from models.learned.model import Variant
from models.learned.subjects import attention, collectives, devices, experts

GPU = "h100-sxm"
STACK = {
    "hardware_id": GPU, "framework": "vllm", "framework_version": "0.24.0", "execution": None, "interconnect": None,
    "weight_dtype": "bf16", "activation_dtype": "bf16", "kv_dtype": "bf16", "window_tokens": None, "is_block_scaled": False,
}  # fmt: skip
HEADS = ((8, 1, 128), (16, 2, 128), (32, 8, 128), (32, 32, 64), (64, 8, 64))


def table(rows: list[dict[str, object]]) -> pa.Table:
    return devices.with_devices(pa.Table.from_pylist([STACK | row for row in rows]))


def call(
    batch: int, new: int, past: int, heads: int = 32, kv_heads: int = 8, head_dim: int = 128, **more: object
) -> dict[str, object]:
    return {
        "batch_size": batch, "input_tokens": new, "context_tokens": past, "num_heads": heads, "num_kv_heads": kv_heads,
        "head_dim": head_dim, **more,
    }  # fmt: skip


def feature(inputs: Inputs, name: str) -> np.ndarray:
    return inputs.features[:, inputs.feature_names.index(name)]


def layer(tokens: int, **more: object) -> dict[str, object]:
    return {
        "m": tokens, "k": 4096, "n": 1536, "num_experts": 128, "num_active_experts": 8, "tensor_parallel": 1, "expert_parallel": 1,
        "distribution": "balanced", **more,
    }  # fmt: skip


# ---- attention


def test_work_of_a_prompt_counts_each_unmasked_pair_once() -> None:
    new, past, window = 200, 56, 96
    inputs = attention.prefill(table([call(2, new, past, window_tokens=window)]))
    pairs = sum(min(past + place + 1, window) for place in range(new))
    assert np.exp(feature(inputs, "log_flops")) == pytest.approx(2 * 32 * pairs * (4 * 128 + 5))


def test_bound_of_a_decode_step_is_its_cache_over_the_bandwidth() -> None:
    inputs = attention.decode(table([call(64, 1, 8191)]))
    cache = 2 * 64 * 8192 * 8 * 128 * 2
    queries = 2 * 64 * 32 * 128 * 2
    assert inputs.bound == pytest.approx([(cache + queries) / 3.35e12])


def test_a_window_bounds_what_a_decode_step_reads() -> None:
    inputs = attention.decode(table([call(64, 1, 8191, window_tokens=128), call(64, 1, 127)]))
    assert inputs.bound[0] == pytest.approx(inputs.bound[1])
    assert inputs.content[0] != inputs.content[1]


@pytest.mark.parametrize(
    "change",
    [
        {"kv_dtype": "fp8"}, {"framework": "sglang"}, {"framework_version": "0.25.0"}, {"window_tokens": 4096}, {"num_heads": 16},
        {"hardware_id": "h200"}, {"context_tokens": 8192},
    ],
)  # fmt: skip
def test_two_questions_that_differ_have_different_contents(change: dict[str, object]) -> None:
    inputs = attention.decode(table([call(8, 1, 8191), call(8, 1, 8191) | change]))
    assert inputs.content[0] != inputs.content[1]


def test_few_sequences_leave_cores_without_work() -> None:
    inputs = attention.decode(table([call(1, 1, 255), call(132, 1, 255, 8, 1), call(133, 1, 255, 8, 1)]))
    assert feature(inputs, "sequences_efficiency") == pytest.approx([8 / 132, 1.0, 133 / 132 / 2])


def test_the_longest_block_holds_a_prompt_up() -> None:
    """One head of one long prompt fills 64 of 132 cores: the kernel ends with the block that sees all keys."""
    inputs = attention.prefill(table([call(1, 8192, 0, 1, 1)]))
    assert feature(inputs, "balance")[0] < 0.3
    busy = inputs.terms[0, 0]
    assert busy == pytest.approx(64 * 132 * 128**2 * 4 * 128 / 989.4e12)


def test_tensorrt_reads_the_cache_once_a_head_beyond_its_largest_group() -> None:
    rows = [call(64, 1, 8191, 64, 1, framework="tensorrt-llm"), call(64, 1, 8191, 32, 1, framework="tensorrt-llm")]
    inputs = attention.decode(table(rows))
    assert inputs.terms[0, 1] / inputs.terms[1, 1] == pytest.approx(64, rel=0.1)
    assert inputs.bound[0] < 2 * inputs.bound[1]


def decode_rows(hardware: str = GPU) -> list[dict[str, object]]:
    grid = itertools.product(HEADS, (1, 4, 16, 64, 256), (127, 1023, 4095, 16383))
    return [call(batch, 1, past, *heads, hardware_id=hardware) for heads, batch, past in grid]


def test_a_planted_law_of_cache_reads_holds_for_heads_never_seen() -> None:
    """5 us and 80 % of the bandwidth: the base finds both, and says the same of a head configuration that it never saw."""
    inputs = attention.decode(table(decode_rows()))
    log_time = np.log(5e-6 + inputs.terms[:, 1] / 0.8)
    held = inputs.groups["shape"].mask("32/8/128")
    found = bases.fit("power", inputs.take(~held), log_time[~held])
    assert np.abs(found.log_values(inputs.take(held)) - log_time[held]).max() < 0.02


def test_a_head_configuration_is_held_out_as_a_whole_on_every_device() -> None:
    inputs = attention.decode(table([*decode_rows(), *decode_rows("l40s")]))
    found = splits.folds(inputs, "leave_shape_out")
    assert len(found) == len(HEADS)
    for fold in found:
        outside = inputs.take(fold.outside)
        assert len(outside.groups["shape"].names) == 1
        assert set(outside.groups["device"].names) == {GPU, "l40s"}
        assert outside.groups["shape"].names[0] not in inputs.take(fold.inside).groups["shape"].names


def test_calibration_rows_move_an_architecture_never_seen() -> None:
    """The other architecture is three times as far from its bound: 16 rows of it tell."""
    inputs = attention.decode(table([*decode_rows(), *decode_rows("l40s")]))
    slow = np.where(inputs.groups["device"].mask("l40s"), 3.0, 1.0)
    log_time = np.log(5e-6 + slow * inputs.terms[:, 1])
    errors = []
    for few in (0, 16):
        fold = next(one for one in splits.folds(inputs, "leave_generation_out", few=few) if one.name == "ada")
        fitted = model.fit((Variant("power"),), inputs.take(fold.inside), log_time[fold.inside], "generation")
        errors.append(np.abs(fitted.log_values(inputs.take(fold.outside)) - log_time[fold.outside]).mean())
    assert errors[0] > 0.5
    assert errors[1] < 0.1


# ---- layers of experts


def simulated(tokens: int, count: int, active: int, spread: int, slope: float) -> tuple[float, float]:
    """Experts met and pairs of the device that holds the busiest expert, in the mean over draws of a fixed generator."""
    random = np.random.default_rng(5)
    pairs = tokens * active
    least, most = (1.0, experts.FULLEST * tokens) if pairs > count else (0.01, 2.0)
    met, routed = [], []
    for _ in range(400):
        power = 1 - slope
        share = (least**power + (most**power - least**power) * random.uniform(size=count)) ** (1 / power)
        given = np.round(share / share.sum() * pairs)
        here = given.reshape(spread, -1)[given.argmax() // (count // spread)]
        met.append((here > 0).sum())
        routed.append(here.sum())
    return float(np.mean(met)), float(np.mean(routed))


@pytest.mark.parametrize(("tokens", "spread"), [(64, 1), (1024, 1), (1024, 8), (16384, 8), (16384, 32)])
@pytest.mark.parametrize("slope", [1.01, 1.2])
def test_load_of_a_power_law_is_that_of_a_simulation(tokens: int, spread: int, slope: float) -> None:
    found = experts.load(*(np.array([float(one)]) for one in (tokens, 128, 8, spread, slope)))
    met, routed = simulated(tokens, 128, 8, spread, slope)
    assert found.touched[0] == pytest.approx(met, rel=0.15)
    assert found.routed[0] == pytest.approx(routed, rel=0.35)


def test_a_balanced_load_meets_experts_in_turn() -> None:
    tokens = np.array([1.0, 4.0, 16.0, 4096.0, 4096.0])
    spread = np.array([1.0, 1.0, 1.0, 1.0, 8.0])
    found = experts.load(tokens, np.full(5, 128.0), np.full(5, 8.0), spread, np.zeros(5))
    assert found.touched.tolist() == [8, 32, 128, 128, 16]
    assert found.routed.tolist() == [8, 32, 128, 32768, 4096]
    assert found.blocks(64).tolist() == [8, 32, 128, 512, 64]


def test_few_tokens_are_bound_by_the_weights_of_the_experts_they_meet() -> None:
    inputs = experts.inputs(table([layer(1), layer(2), layer(1, tensor_parallel=4)]))
    one = 8 * 3 * 4096 * 1536 * 2
    assert inputs.bound[0] == pytest.approx((one + 2 * 4096 * 2) / 3.35e12)
    assert inputs.terms[1, 1] / inputs.terms[0, 1] == pytest.approx(2, rel=0.01)
    assert inputs.bound[2] == pytest.approx((one / 4 + 2 * 4096 * 2) / 3.35e12)


def test_an_llm_is_its_widths_experts_and_choices() -> None:
    inputs = experts.inputs(
        table([layer(1), layer(64), layer(1, num_active_experts=6), layer(1, distribution="power_law_1.2")])
    )
    assert inputs.groups["shape"].texts().tolist() == ["4096/1536/128/8"] * 2 + ["4096/1536/128/6", "4096/1536/128/8"]
    assert len(set(inputs.content.tolist())) == 4


def test_a_distribution_without_an_exponent_has_no_answer() -> None:
    inputs = experts.inputs(table([layer(64, distribution="zipf"), layer(64)]))
    assert inputs.is_complete.tolist() == [False, True]


# ---- collectives


def exchange(kind: str, size: float, number_of: int, **more: object) -> dict[str, object]:
    return {"op_kind": kind, "size_bytes": size, "num_devices": number_of, "framework": "nccl", **more}


def test_a_ring_sends_all_but_its_own_part() -> None:
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    inputs = collectives.inputs(table([*(exchange(kind, 8e6, 8) for kind in kinds), exchange("send_recv", 8e6, 2)]))
    assert np.exp(feature(inputs, "log_sent")) == pytest.approx([14e6, 56e6, 7e6, 7e6, 8e6])
    assert feature(inputs, "steps").tolist() == [14, 7, 7, 7, 1]
    assert inputs.bound == pytest.approx(np.array([7e6, 56e6, 7e6, 7e6, 8e6]) / 450e9)


def test_a_planted_start_and_bandwidth_are_found_at_sizes_never_seen() -> None:
    rows = [exchange("all_reduce", 512.0 * 2**power, number_of) for power in range(21) for number_of in (2, 4, 8)]
    inputs = collectives.inputs(table(rows))
    log_time = np.log(8e-6 + inputs.terms[:, 1] / 0.75)
    for fold in splits.folds(inputs, "leave_shape_out"):
        found = bases.fit("power", inputs.take(fold.inside), log_time[fold.inside])
        assert np.abs(found.log_values(inputs.take(fold.outside)) - log_time[fold.outside]).max() < 0.05


def test_every_third_size_is_held_out_with_its_neighbours_kept() -> None:
    rows = [exchange("all_reduce", 512.0 * 2**power, 8) for power in range(12)]
    inputs = collectives.inputs(table(rows))
    found = [
        set(np.log2(np.exp(feature(inputs, "log_size"))[fold.outside] / 512).round().astype(int))
        for fold in splits.folds(inputs, "leave_shape_out")
    ]
    assert sorted(map(sorted, found)) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_links_and_ways_to_launch_are_questions_of_their_own() -> None:
    rows = [
        exchange("all_reduce", 1e6, 8),
        exchange("all_reduce", 1e6, 8, interconnect="nvlink"),
        exchange("all_reduce", 1e6, 8, execution="graph"),
    ]
    inputs = collectives.inputs(table(rows))
    assert len(set(inputs.content.tolist())) == 3
    assert len(inputs.keys[0].names) == 3
