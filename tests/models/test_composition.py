"""Runs composed of kernels, on planted laws of kernels: what comes out must be what was put in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.analytical import evaluate
from models.learned import compose, tidy
from models.learned.fitted import Answers, Fitted
from models.learned.inputs import Inputs, Labels, number
from models.learned.subjects import devices, find, vectors

FLOPS_PER_S, BYTES_PER_S = 1e13, 1e12


@dataclass(frozen=True)
class Planted:
    """Kernels take `rate` times one of their terms; the interval is a factor of `width` either way, none where NaN."""

    term: int
    rate: float
    width: float = 1.1

    def predict(self, inputs: Inputs) -> Answers:
        value = inputs.terms[:, self.term] * self.rate
        mask = np.ones(len(value), np.bool_)
        return Answers(value, value / self.width, value * self.width, value, inputs.bound, mask, ~mask)


def question(**columns: Any) -> pa.Table:
    one = {
        "llm_id": "gpt2-large", "hardware_id": "a100-pcie-40gb", "phase": "forward", "batch_size": 4, "input_tokens": 1024,
        "weight_dtype": "fp32", "activation_dtype": "fp32", "execution": "eager", "attention": "eager", "framework": "pytorch",
        "num_devices": 1,
    }  # fmt: skip
    return pa.table({name: [value] for name, value in (one | columns).items()})


def asked(*questions: pa.Table) -> tuple[pa.Table, pa.Table]:
    totals, ops = evaluate(pa.concat_tables(questions))
    return totals, compose.beside(totals, ops)


def planted(totals: pa.Table) -> dict[str, Planted]:
    """Laws that give FLOPs / FLOPS_PER_S to products, bytes / BYTES_PER_S to all else."""
    rows = devices.with_devices(totals)
    peak, bandwidth = (
        float(number(rows, f"device_{name}")[0]) for name in ("peak_fp32_flops_per_s", "memory_bandwidth_bytes_per_s")
    )
    return {"gemm_time": Planted(0, peak / FLOPS_PER_S), "vector_time": Planted(1, bandwidth / BYTES_PER_S)}


def test_a_run_takes_what_its_kernels_take() -> None:
    """GPT-2 Large counted by hand: 36 layers of width 1280, 20 heads of 64, 4 sequences of 1024 tokens, GELU in eight steps."""
    totals, ops = asked(question())
    tokens, hidden, scores = 4 * 1024, 1280, 4 * 20 * 1024 * 1024
    products = 36 * 2 * (tokens * hidden * 12 * hidden + 2 * scores * 64) + 2 * tokens * 50257 * hidden
    wide, inner = tokens * hidden, tokens * 4 * hidden
    attention = 2 * 2 * wide + 2 * 2 * wide + 2 * 2 * scores  # operands, values and output copied; scaled, masked
    layer = attention + 2 * scores + 2 * 2 * wide + 2 * 3 * wide + (6 * 2 + 2 * 3) * inner
    others = 4 * (36 * layer + 2 * wide + 2 * wide + 3 * wide)
    found = compose.compose(ops, planted(totals))
    assert number(found.runs, "value_s")[0] == pytest.approx(products / FLOPS_PER_S + others / BYTES_PER_S, rel=1e-9)
    assert number(found.runs, "predicted_share")[0] == pytest.approx(1.0)
    assert found.fallbacks() == []


def test_parts_add_up_to_their_runs() -> None:
    totals, ops = asked(
        question(), question(llm_id="opt-1.3b", batch_size=2), question(llm_id="bert-large", input_tokens=512)
    )
    found = compose.compose(ops, planted(totals))
    sums = np.bincount(number(found.parts, "config_row").astype(int), number(found.parts, "time_s"))
    assert sums == pytest.approx(number(found.runs, "value_s"), rel=1e-12)
    alone = compose.compose(asked(question(llm_id="opt-1.3b", batch_size=2))[1], planted(totals))
    assert number(alone.runs, "value_s")[0] == pytest.approx(number(found.runs, "value_s")[1]), "runs do not mix"


def test_ops_without_a_predictor_take_their_estimate_and_it_is_said() -> None:
    totals, ops = asked(question())
    nothing = compose.compose(ops, {})
    assert number(nothing.runs, "value_s")[0] == pytest.approx(number(totals, "estimate_s")[0], rel=0.02)
    assert number(nothing.runs, "predicted_share")[0] == 0.0
    products = compose.compose(ops, {"gemm_time": planted(totals)["gemm_time"]})
    sources = {(part["op_kind"], part["predictor"]) for part in products.parts.to_pylist()}
    assert {("qkv_proj", "gemm_time"), ("softmax", compose.ESTIMATE)} <= sources
    assert ("attention_scores", compose.ESTIMATE) in sources, "half of its kernels are unknown: all of it is estimated"
    assert ("attention_scores", "gemm_time") not in sources
    assert any(sentence.startswith("softmax: no predictor") for sentence in products.fallbacks())


def test_an_engine_runs_queries_keys_and_values_as_one_product() -> None:
    shared = {"llm_id": "llama-2-7b", "phase": "prefill", "weight_dtype": "fp16", "activation_dtype": "fp16"}
    _, engine = asked(question(**shared, execution="engine", attention="flash", framework="vllm"))
    _, eager = asked(question(**shared))
    kernels = compose.launched(engine)
    widths = dict(zip(kernels["gemm_time"]["op_kind"].to_pylist(), number(kernels["gemm_time"], "n"), strict=True))
    assert widths == {"q_proj": 3 * 4096, "o_proj": 4096, "up_proj": 2 * 11008, "down_proj": 4096, "lm_head": 32000}
    assert set(kernels["vector_time"]["framework"].to_pylist()) == {"vidur"}
    assert {"rope", "norm", "activation"} <= set(kernels["vector_time"]["kernel"].to_pylist())
    attention = kernels[compose.PREFILL].to_pylist()[0]
    assert (attention["num_heads"], attention["head_dim"], attention["input_tokens"], attention["context_tokens"]) == (
        32,
        128,
        1024,
        0,
    )
    products = set(compose.launched(eager)["gemm_time"]["op_kind"].to_pylist())
    assert {"k_proj", "v_proj", "gate_proj"} <= products, "eager PyTorch runs each of them"


def test_tensor_parallel_devices_run_their_share_and_sum_it() -> None:
    _, ops = asked(
        question(
            llm_id="opt-6.7b", phase="prefill", num_devices=2, tensor_parallel=2, attention="flash", execution="engine"
        )
    )
    kernels = compose.launched(ops)
    norms = [row for row in kernels["vector_time"].to_pylist() if row["kernel"] == "layer_norm"]
    assert {(row["m"], row["n"]) for row in norms} == {(4096.0, 4096.0)}, "each device norms all of it"
    sums = kernels[compose.COLLECTIVE].to_pylist()
    assert {(row["size_bytes"], row["num_devices"]) for row in sums} == {(4096.0 * 4096 * 4, 2.0)}
    assert {row["num_heads"] for row in kernels[compose.PREFILL].to_pylist()} == {16.0}


def test_errors_add_up_within_a_predictor_and_in_squares_between_them() -> None:
    totals, ops = asked(question())
    found = compose.compose(ops, planted(totals))
    run, parts = found.runs.to_pylist()[0], found.parts.to_pylist()
    sides = {
        key: sum(part["upper_s"] - part["time_s"] for part in parts if part["predictor"] == key)
        for key in ("gemm_time", "vector_time")
    }
    assert sides["gemm_time"] == pytest.approx(0.1 * sum(p["time_s"] for p in parts if p["predictor"] == "gemm_time"))
    assert run["upper_s"] - run["value_s"] == pytest.approx(np.hypot(*sides.values()))
    unsure = compose.compose(ops, planted(totals) | {"gemm_time": Planted(0, 1.0, np.nan)}).runs.to_pylist()[0]
    assert unsure["value_s"] < unsure["upper_s"] < np.inf, "the estimate's interval stands in"


def test_a_device_waits_for_its_host() -> None:
    totals, ops = asked(question(batch_size=1, input_tokens=1))
    quick = {key: Planted(0, 1e-9) for key in ("gemm_time", "vector_time")}
    found = compose.compose(ops, quick)
    assert number(found.runs, "value_s")[0] == pytest.approx(number(totals, "launch_s")[0])
    assert found.parts.to_pylist()[-1]["op_kind"] == compose.HOST


def test_calibration_recovers_the_overhead_of_every_stack() -> None:
    rng = np.random.default_rng(0)
    composed = np.exp(rng.uniform(np.log(0.005), np.log(0.5), 40))
    stacks = Labels.of(["slow"] * 20 + ["quick"] * 20)
    steps = rng.integers(1, 4, 40).astype(float)
    measured = np.where(stacks.mask("slow"), 0.004 * steps + 1.3 * composed, 0.001 * steps + 0.9 * composed)
    found = compose.calibrated(composed, measured, stacks, steps)
    assert (found["slow"].offset_s, found["slow"].scale) == pytest.approx((0.004, 1.3), rel=0.05)
    assert (found["quick"].offset_s, found["quick"].scale) == pytest.approx((0.001, 0.9), rel=0.05)
    assert found["slow"].apply(np.array([0.1]), 2.0)[0] == pytest.approx(0.138, rel=0.02)
    one = compose.calibrated(composed[:1], 2 * composed[:1], Labels.of(["new"]))["new"]
    assert one.apply(composed[:1])[0] == pytest.approx(2 * composed[0], rel=0.1), "one run sets the level"
    with pytest.raises(ValueError, match=r"measured_s must be positive seconds; row 1 is not"):
        compose.calibrated(composed[:2], np.array([1.0, np.nan]), Labels.of(["a", "a"]))


# ---- the subject


def kernels(hardware_id: str, seed: int, efficiency: float = 0.8) -> pa.Table:
    """Kernels of a device whose memory streams at `efficiency` of its bandwidth behind a start of 3 us."""
    rng = np.random.default_rng(seed)
    count = 300
    name = rng.choice(["add", "mulu", "softmax"], count)
    m, n = rng.integers(64, 8192, count), 8 * rng.integers(16, 1024, count)
    moved = np.where(name == "add", 3.0, 2.0) * m * n * 4
    rows = devices.with_devices(
        pa.table(
            {
                "hardware_id": [hardware_id] * count, "framework": ["pytorch"] * count, "weight_dtype": ["fp32"] * count,
                "activation_dtype": ["fp32"] * count, "kernel": name.tolist(), "m": m, "n": n,
                "bytes_moved": [None if one == "add" else value for one, value in zip(name, moved, strict=True)],
            }
        )
    )  # fmt: skip
    seconds = 3e-6 + moved / (efficiency * number(rows, "device_memory_bandwidth_bytes_per_s"))
    return rows.append_column("measured_time_s", pa.array(seconds))


def test_kernels_without_stated_bytes_read_and_write_their_arrays() -> None:
    rows = kernels("t4", 0)
    inputs = vectors.vector(rows)
    expected = (number(rows, "measured_time_s") - 3e-6) * 0.8
    assert inputs.terms[:, 1] == pytest.approx(expected), "three arrays of m x n for a sum"
    assert inputs.is_complete.all()
    assert not vectors.vector(
        rows.set_column(rows.column_names.index("m"), "m", pa.nulls(len(rows), pa.int64()))
    ).is_complete.any()


def test_a_device_never_seen_is_predicted_from_its_bandwidth() -> None:
    target = find("vector_time")
    rows = pa.concat_tables(
        [kernels(name, seed) for seed, name in enumerate(("t4", "v100-pcie-32gb", "p100-pcie-16gb"))]
    )
    rows, notes = tidy.tidy(target, rows)
    assert notes == []
    fitted = Fitted.on(target.recipe(len(rows)), target.inputs(rows), np.log(number(rows, target.column)), ("device",))
    unseen = kernels("a100-pcie-40gb", 9)
    answers = fitted.predict(target.inputs(unseen))
    error = np.abs(answers.value / number(unseen, "measured_time_s") - 1)
    assert np.median(error) < 0.05
    assert answers.is_unseen.all()
    again = Fitted.from_dict(fitted.to_dict()).predict(target.inputs(unseen))
    assert again.value == pytest.approx(answers.value), "an artifact answers what was fitted"


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_every_kernel_of_an_engine_is_one_that_its_target_can_read(phase: str) -> None:
    _, ops = asked(
        question(
            llm_id="llama-2-7b", hardware_id="h100-sxm", phase=phase, context_tokens=1024, num_devices=2, tensor_parallel=2,
            weight_dtype="fp16", activation_dtype="fp16", attention="flash", execution="engine", framework="vllm",
        )
    )  # fmt: skip
    kernels = compose.launched(ops)
    assert {compose.GEMM, compose.VECTOR, compose.COLLECTIVE} < set(kernels)
    for key, rows in kernels.items():
        assert find(key).inputs(rows).is_complete.all(), key
