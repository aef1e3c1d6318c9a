"""Several devices, host memory and narrow weights: what is refused and why, and what the rest costs in closed form."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from analytical_rows import Row, answers, config, op_of, ops, total, totals, work

from models.analytical import evaluate
from warehouse import catalog
from warehouse.schema import DTYPE_BYTES

LLMS = catalog.llms()
A100 = catalog.find_hardware("a100-sxm-80gb").row
LINK, NETWORK, HOST = (A100[f"{name}_bandwidth_bytes_per_s"] for name in ("link", "network", "host_link"))
MOE = "qwen3-30b-a3b"


# Refusals


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel must divide the 32 attention heads of llama-2-7b: 1, 2, 4, 8, 16, 32."),
        ({"llm_id": "smollm2-135m", "tensor_parallel": 2}, "the 9 attention heads of smollm2-135m: 1, 3, 9."),
        ({"llm_id": "phi-4", "tensor_parallel": 4}, "neither divides nor replicates the 10 key/value heads of phi-4."),
        ({"llm_id": "phi-3-medium", "tensor_parallel": 8}, "the 10 key/value heads of phi-3-medium."),
        ({"batch_size": 6, "num_micro_batches": 4}, "num_micro_batches must divide batch_size."),
        ({"llm_id": MOE, "expert_parallel": 3, "data_parallel": 3}, "expert_parallel must divide the 128 experts of qwen3-30b-a3b: 1, 2, 4, 8"),
        ({"llm_id": "qwen1.5-moe-a2.7b", "expert_parallel": 8, "data_parallel": 8}, "must divide the 60 experts"),
        ({"llm_id": MOE, "expert_parallel": 8, "tensor_parallel": 4}, "expert_parallel is more than tensor_parallel x data_parallel"),
        ({"llm_id": "qwen1.5-moe-a2.7b", "expert_parallel": 6, "tensor_parallel": 4, "data_parallel": 3}, "expert_parallel must divide tensor_parallel or be a multiple."),
        ({"expert_parallel": 2, "data_parallel": 2}, "expert_parallel needs routed experts, which llama-2-7b has not."),
        ({"pipeline_parallel": 33}, "pipeline_parallel is more than the 32 layers of llama-2-7b."),
        ({"llm_id": "t5-small", "pipeline_parallel": 2, "input_tokens": 8}, "pipeline parallelism of an encoder_decoder is not modelled."),
        ({"context_tokens": 4097}, "context_tokens is beyond the 4096 tokens that llama-2-7b is made for."),
        ({"phase": "prefill", "input_tokens": 4000, "prefix_tokens": 97}, "input_tokens + prefix_tokens is beyond the 4096 tokens"),
        ({"phase": "generate", "input_tokens": 4000, "output_tokens": 98}, "is beyond the 4096 tokens"),
        ({"prefix_tokens": 5}, "prefix_tokens is of prefill and generate, not of decode."),
        ({"chunk_tokens": 5}, "chunk_tokens is of prefill and generate, not of decode."),
        ({"weight_dtype": "fp8", "activation_dtype": "fp8"}, "'fp8' has no units on a100-sxm-80gb. It multiplies"),
        ({"activation_dtype": "fp9"}, "activation_dtype 'fp9' is unknown. Known: fp64, fp32"),
        ({"attention": "linear"}, "attention 'linear' is not modelled. Known: eager, sdpa, flash, paged."),
        ({"execution": "jit"}, "execution 'jit' is not a profile. Known: "),
        ({"num_devices": 3, "tensor_parallel": 2}, "num_devices is not tensor_parallel x pipeline_parallel x data_parallel."),
        *[({name: size}, f"{name} must be 1 or more.") for size in (0, -4) for name in ("batch_size", "context_tokens", "tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel", "num_micro_batches")],
        ({"phase": "prefill", "input_tokens": -1}, "input_tokens must be 1 or more."),
        ({"phase": "prefill", "chunk_tokens": 0}, "chunk_tokens must be 1 or more."),
        ({"phase": "prefill", "prefix_tokens": -1}, "prefix_tokens must be 0 or more."),
        ({"phase": "generate", "output_tokens": 0}, "output_tokens must be 1 or more."),
        ({"phase": "prefill", "llm_id": "bert-base"}, "an encoder has no prefill: it has forward."),
        ({"phase": "chat"}, "phase 'chat' is not modelled. Known: forward, prefill, decode, generate, pretrain_step, finetune_step."),
        ({"interconnect": "foo", "tensor_parallel": 2}, "interconnect 'foo' is unknown. Known: nvlink, pcie."),
        ({"interconnect": "nvlink", "hardware_id": "rtx-4090"}, "interconnect 'nvlink': the device has no direct link"),
        ({"optimizations": ["offload"], "hardware_id": "bare"}, "offload needs the device's host link, which is unknown."),
    ],
)  # fmt: skip
def test_a_row_without_an_answer_says_why_and_its_neighbours_are_answered(values: Row, said: str) -> None:
    bare = {"bare": {"memory_bandwidth_bytes_per_s": 1e12, "peak_fp16_flops_per_s": 1e14}}
    row = config(**({"llm_id": "llama-2-7b", "phase": "decode"} | values))
    before, refused, after = totals([config(), row, config(batch_size=2)], hardware=bare)
    assert (before["status"], refused["status"], after["status"]) == ("ok", "unsupported", "ok")
    assert said in refused["status_detail"]
    numbers = [name for name, value in refused.items() if isinstance(value, float) and name not in row]
    assert numbers == []
    assert {"flops": before["flops"], "s": before["roofline_s"]} == {
        "flops": total()["flops"],
        "s": total()["roofline_s"],
    }


def test_a_sweep_of_refused_rows_alone_is_answered_too() -> None:
    found, rows = answers([config(tensor_parallel=3), config(batch_size=0)])
    assert [row["status"] for row in found] == ["unsupported", "unsupported"]
    assert rows == [[], []]


# Pipeline


def sides(phase: str = "decode", **values: Any) -> tuple[Row, Row]:
    """One device, and the same batch through stages."""
    one, many = totals([config(phase=phase, batch_size=values["batch_size"]), config(phase=phase, **values)])
    return one, many


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_one_micro_batch_is_a_layer_split(stages: int) -> None:
    """A device's time, and a transfer between stages."""
    one, many = sides(batch_size=8, pipeline_parallel=stages)
    transfer = 8 * 4096 * 2 / LINK
    assert many["roofline_s"] == pytest.approx(one["roofline_s"] + (stages - 1) * transfer)
    assert many["flops"] == one["flops"]
    assert many["output_tokens_per_s"] < one["output_tokens_per_s"]


@pytest.mark.parametrize(("stages", "parts"), [(2, 4), (4, 4), (4, 16), (8, 64)])
def test_micro_batches_overlap_and_leave_a_bubble(stages: int, parts: int) -> None:
    """(m + p - 1) turns of a p-th of a micro-batch's time: of all turns of a stage, (p - 1) / (m + p - 1) are idle."""
    batch = 4 * parts
    many = total(phase="prefill", batch_size=batch, pipeline_parallel=stages, num_micro_batches=parts)
    small = total(phase="prefill", batch_size=4)
    turn = (small["roofline_s"] + (stages - 1) * 4 * 512 * 4096 * 2 / LINK) / stages
    assert many["roofline_s"] == pytest.approx((parts + stages - 1) * turn)
    bubble = 1 - parts * turn / many["roofline_s"]
    assert bubble == pytest.approx((stages - 1) / (parts + stages - 1))
    assert many["kv_cache_bytes"] == total(phase="prefill", batch_size=batch)["kv_cache_bytes"] / stages
    assert many["activation_peak_bytes"] == small["activation_peak_bytes"]


def test_with_many_micro_batches_stages_multiply_throughput() -> None:
    stages = 4
    rates = [
        total(phase="prefill", batch_size=parts, pipeline_parallel=stages, num_micro_batches=parts)[
            "total_tokens_per_s"
        ]
        for parts in (1, 4, 16, 64, 256)
    ]
    alone = total(phase="prefill")["total_tokens_per_s"]
    assert rates == sorted(rates)
    assert rates[0] < alone
    assert 0.97 * stages < rates[-1] / alone < stages


def test_a_stage_holds_its_layers_and_one_end() -> None:
    llm, many = LLMS["llama-2-7b"], total(pipeline_parallel=3)
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert many["weights_bytes"] == pytest.approx(
        2 * (11 * layer + llm.vocab_size * 4096 + 4096)
    )  # ceil(32 / 3) layers
    assert many["kv_cache_bytes"] == 11 * 512 * 2 * 4096 * 2


# Experts and replicas


@pytest.mark.parametrize("spread", [2, 8, 32])
def test_expert_parallel_divides_experts_and_sends_tokens_beyond_a_replica(spread: int) -> None:
    (alone, many), (before, after) = answers(
        [
            config(MOE, batch_size=16, data_parallel=spread),
            config(MOE, batch_size=16, data_parallel=spread, expert_parallel=spread),
        ]
    )
    experts = 48 * 128 * 3 * 2048 * 768 * 2
    assert alone["weights_bytes"] - many["weights_bytes"] == pytest.approx(experts * (1 - 1 / spread))
    assert many["kv_cache_bytes"] == alone["kv_cache_bytes"]
    assert "all_to_all" not in {op["op_kind"] for op in before}
    link = LINK if spread <= 8 else NETWORK
    for name in ("dispatch", "combine"):
        sent = (spread - 1) / spread * 16 * 8 * 2048 * 2
        assert op_of(after, name)["roofline_s"] == pytest.approx(sent / link)
    assert work(after, "flops", "experts") == pytest.approx(work(before, "flops", "experts"))
    # every device's experts see the tokens of all replicas: distinct ones are met once, not once a replica
    met = 128 * (1 - (15 / 16) ** (16 * spread))
    assert work(after, "weight_bytes_read", "experts") == pytest.approx(48 * met * 3 * 2048 * 768 * 2)
    assert work(after, "weight_bytes_read", "experts") < work(before, "weight_bytes_read", "experts")


def test_experts_within_tensor_parallel_send_nothing_more() -> None:
    divided, spread = ([config(MOE, tensor_parallel=4, expert_parallel=experts)] for experts in (1, 4))
    (widths,), (before,) = answers(divided)
    (whole,), (after,) = answers(spread)
    assert {op["op_kind"] for op in after} == {op["op_kind"] for op in before}
    assert whole["communication_s"] == widths["communication_s"]
    assert whole["weights_bytes"] == pytest.approx(widths["weights_bytes"])
    assert op_of(after, "experts.up_proj")["n"] == 4 * op_of(before, "experts.up_proj")["n"]


@pytest.mark.parametrize("phase", ["prefill", "decode", "generate"])
def test_replicas_multiply_throughput_work_and_energy_not_time(phase: str) -> None:
    one, four = totals([config(phase=phase), config(phase=phase, data_parallel=4)])
    for name in ("flops", "bytes_moved", "total_tokens_per_s", "energy_j", "power_avg_w"):
        assert four[name] == pytest.approx(4 * one[name]), name
    for name in (
        "roofline_s",
        "estimate_s",
        "weights_bytes",
        "kv_cache_bytes",
        "memory_peak_bytes",
        "usd_per_million_tokens",
    ):
        assert four[name] == pytest.approx(one[name]), name


# Links


def sent_at(row: Row, ending: str, payload: float) -> float:
    """B/s at which an op sends its bytes."""
    (_,), (rows,) = answers([row])
    return payload / op_of(rows, ending)["roofline_s"]


def test_pcie_takes_the_host_link() -> None:
    for interconnect, rate in ((None, LINK), ("pcie", HOST)):
        row = config(tensor_parallel=4, interconnect=interconnect)
        assert sent_at(row, "mlp.all_reduce", 2 * 3 / 4 * 4096 * 2) == pytest.approx(rate)
    slow, fast = totals([config(tensor_parallel=4, interconnect=name) for name in ("pcie", None)])
    assert slow["roofline_s"] > fast["roofline_s"]
    assert slow["estimate_s"] > fast["estimate_s"]


def test_beyond_the_linked_devices_the_network_carries() -> None:
    """Eight A100s are linked: a ring of sixteen is as slow as the network, stages of eight meet over it."""
    for devices, rate in ((8, LINK), (16, NETWORK)):
        row = config(tensor_parallel=devices)
        payload = 2 * (devices - 1) / devices * 4096 * 2
        assert sent_at(row, "mlp.all_reduce", payload) == pytest.approx(rate)
    for tensor, stages, rate in ((4, 2, LINK), (8, 2, NETWORK), (1, 16, NETWORK)):
        row = config(tensor_parallel=tensor, pipeline_parallel=stages)
        assert sent_at(row, "send_recv", 4096 * 2) == pytest.approx(rate)
    near = config(tensor_parallel=4, pipeline_parallel=2, data_parallel=8)  # replicas that send nothing to one another
    assert sent_at(near, "send_recv", 4096 * 2) == pytest.approx(LINK)
    inside, across = totals([config(tensor_parallel=8), config(tensor_parallel=16)])
    assert across["communication_s"] > 5 * inside["communication_s"]
    assert across["estimate_s"] > across["roofline_s"]


# Weights in host memory


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ({}, 1),
        ({"phase": "prefill", "batch_size": 64, "input_tokens": 4096}, 1),
        ({"phase": "prefill", "chunk_tokens": 100}, 6),
        ({"phase": "generate", "output_tokens": 20}, 20),
        ({"weight_dtype": "int4"}, 1),
        ({"tensor_parallel": 4}, 1),
    ],
)
def test_streamed_weights_take_the_longer_of_stream_and_work(values: Row, passes: int) -> None:
    row = config(**({"phase": "decode"} | values))
    here, streamed = totals([row, row | {"optimizations": ["offload"]}])
    stream = passes * here["weights_bytes"] / HOST
    assert streamed["roofline_s"] == pytest.approx(max(stream, here["roofline_s"]))
    assert streamed["flops"] == here["flops"]
    assert streamed["weights_bytes"] == pytest.approx(
        here["weights_bytes"] * 2 / 32
    )  # the layer that runs, and the next


def test_streaming_lets_a_large_llm_fit_and_a_large_batch_pay_for_it() -> None:
    row = config("llama-2-70b", optimizations=["offload"])
    whole, small, large = totals([row | {"optimizations": None}, row, row | {"phase": "prefill", "batch_size": 32, "input_tokens": 4096}])  # fmt: skip
    assert (whole["is_fitting"], small["is_fitting"]) == (False, True)
    stream = whole["weights_bytes"] / HOST
    assert small["roofline_s"] == pytest.approx(stream)
    assert large["roofline_s"] > stream
    assert small["link_elasticity"] == pytest.approx(1.0)
    assert large["link_elasticity"] == pytest.approx(0.0)


def test_stages_stream_side_by_side() -> None:
    """Four stages of eight micro-batches: eleven turns, each as long as a stage's weights take to arrive."""
    row = config(batch_size=8, pipeline_parallel=4, num_micro_batches=8)
    here, streamed = totals([row, row | {"optimizations": ["offload"]}])
    sent = 11 / 4 * 3 * 4096 * 2 / LINK
    assert streamed["roofline_s"] == pytest.approx(11 * here["weights_bytes"] / HOST + sent)


# Narrow weights


@pytest.mark.parametrize(
    ("device", "weight", "activation", "is_widened"),
    [
        ("a100-sxm-80gb", "int4", "fp16", True),
        ("a100-sxm-80gb", "fp8", "fp16", True),
        ("a100-sxm-80gb", "int4", "int8", True),
        ("b200", "nvfp4", "bf16", True),
        ("b200", "nvfp4", "nvfp4", False),
        ("h200", "fp8", "fp8", False),
        ("h200", "fp16", "fp8", False),
        ("a100-sxm-80gb", "fp16", "fp16", False),
    ],
)
def test_weights_narrower_than_products_are_widened_behind_them(
    device: str, weight: str, activation: str, is_widened: bool
) -> None:
    row = config(hardware_id=device, weight_dtype=weight, activation_dtype=activation, kv_dtype=None)
    (whole,), (rows,) = answers([row])
    widened = [op for op in rows if op["op_kind"] == "dequantize"]
    assert bool(widened) is is_widened
    if not is_widened:
        return
    read = sum(op["weight_bytes_read"] * op["count"] for op in rows if op["m"] is not None) / DTYPE_BYTES[weight]
    assert work(widened, "flops") == pytest.approx(2 * read)
    assert work(widened, "roofline_s") == 0  # the products take longer
    assert work(widened, "bytes_moved") == 0
    assert whole["roofline_s"] < total(hardware_id=device, activation_dtype=activation, kv_dtype=None)["roofline_s"]


def test_widening_shows_where_vector_units_are_slower_than_the_products() -> None:
    """One bit a weight: the products wait for two operations a weight at the vector peak."""
    row = config(weight_dtype="int1")
    (whole,), (rows,) = answers([row])
    products = [op for op in rows if op["m"] is not None and op["op_kind"] != "attention"]
    widening = work(rows, "flops", "dequantize") / 19.5e12
    hidden = work(products, "roofline_s")
    assert widening > hidden
    assert work(rows, "roofline_s", "dequantize") == pytest.approx(widening - hidden, rel=1e-6)
    assert whole["compute_elasticity"] == pytest.approx(widening / whole["roofline_s"], rel=1e-2)


def test_totals_are_the_same_without_ops() -> None:
    rows = [config(), config(tensor_parallel=8), config(tensor_parallel=3)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    assert evaluate(table, with_ops=False)[0].equals(evaluate(table)[0])
    assert len(ops()) > 10


# Energy of devices that wait, and who runs what


@pytest.mark.parametrize(("stages", "parts"), [(2, 1), (4, 1), (4, 8)])
def test_a_device_of_a_pipeline_is_busy_for_its_turns_only(stages: int, parts: int) -> None:
    many = total(pipeline_parallel=stages, num_micro_batches=parts, batch_size=8)
    turns = parts / (parts + stages - 1)
    busy = turns * max(many["compute_s"], many["memory_s"]) / many["estimate_s"]
    assert many["power_avg_w"] == pytest.approx(stages * A100["tdp_w"] * (0.25 + 0.75 * busy))
    one = total(batch_size=8)
    assert many["power_avg_w"] < stages * one["power_avg_w"]


def test_no_serving_engine_trains() -> None:
    lengths = {"input_tokens": 128, "optimizer_dtype": "bf16"}
    assert total(phase="pretrain_step", **lengths)["execution"] == "eager"
    assert total(phase="forward")["execution"] == "eager"
    assert total(phase="decode")["execution"] == "engine"
    assert total(phase="pretrain_step", execution="compiled", **lengths)["execution"] == "compiled"
