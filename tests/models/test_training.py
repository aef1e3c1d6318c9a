"""A training step: counted like the real model's forward and backward, divided as ZeRO divides, true to published memory."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.analytical import estimate, evaluate, training, training_memory
from warehouse import catalog
from warehouse.catalog.llm import Llm, parameter_count

KEYS = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 1000, "hidden_act": "silu", "max_position_embeddings": 4096,
}  # fmt: skip
TINY = Llm.from_config("tiny", {"model_type": "llama", **KEYS})
MATRIX = ("gemm", "attention", "attention_scores", "attention_values")
BF16 = {"weight_dtype": "bf16", "activation_dtype": "bf16", "optimizer_dtype": "bf16"}
GB = 1e9


def config(llm_id: str = "llama-2-7b", **values: Any) -> dict[str, Any]:
    """One pre-training step, bf16 throughout, eager attention, 8 x A800 of which all hold replicas."""
    start = {
        "llm_id": llm_id, "hardware_id": "a800-sxm-80gb", "phase": "pretrain_step", "batch_size": 1, "input_tokens": 350,
        "data_parallel": 8, "attention": "eager", "execution": "eager", "optimizations": [],
    }  # fmt: skip
    return start | BF16 | values


def run(rows: Iterable[dict[str, Any]], *, with_ops: bool = False) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    totals, ops = evaluate(table, llms=[TINY, *catalog.llms().values()], with_ops=with_ops)
    return totals.to_pylist(), ops.to_pylist()


def total(llm_id: str = "llama-2-7b", **values: Any) -> dict[str, Any]:
    row = run([config(llm_id, **values)])[0][0]
    assert row["status"] == "ok", row["status_detail"]
    return row


def ops_of(llm_id: str = "llama-2-7b", **values: Any) -> list[dict[str, Any]]:
    totals, ops = run([config(llm_id, **values)], with_ops=True)
    assert totals[0]["status"] == "ok", totals[0]["status_detail"]
    return ops


def added(ops: Iterable[dict[str, Any]], name: str, **wanted: Any) -> float:
    """Sum over all executions of a column of the ops that have the wanted values."""
    return float(
        sum(op[name] * op["count"] for op in ops if all(op[column] == value for column, value in wanted.items()))
    )


def matrix_flops(ops: Iterable[dict[str, Any]]) -> float:
    return float(sum(op["flops"] * op["count"] for op in ops if op["m"] is not None or op["op_kind"] == "attention"))


# FLOPs


def torch_model(num_kv_heads: int = 2, attention: str = "eager") -> Any:
    transformers = pytest.importorskip("transformers")
    settings = transformers.LlamaConfig(**(KEYS | {"num_key_value_heads": num_kv_heads}), use_cache=False)
    return transformers.LlamaForCausalLM._from_config(settings, attn_implementation=attention).train()


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_products_are_those_that_torch_counts(is_recomputed: bool) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
    from torch.utils.flop_counter import FlopCounterMode

    model = torch_model()
    if is_recomputed:
        for layer in model.model.layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    tokens = torch.ones((2, 24), dtype=torch.long)
    # without this torch leaves the last product of a layer out, whose result nothing reads again
    with set_checkpoint_early_stop(False), FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens).loss.backward()
    ours = ops_of(
        "tiny", batch_size=2, input_tokens=24, data_parallel=1, optimizations=["recompute"] if is_recomputed else []
    )
    assert matrix_flops(ours) == pytest.approx(counter.get_total_flops(), rel=1e-12)


@pytest.mark.parametrize(("options", "times"), [([], 3), (["recompute"], 4)])
def test_a_step_has_three_times_the_products_of_forward_and_four_with_recomputation(
    options: list[str], times: int
) -> None:
    layers = 2 * 350 * (6_738_415_616 - 2 * 32000 * 4096 - 65 * 4096) + 32 * 4 * 350**2 * 4096
    head = 2 * 350 * 32000 * 4096
    ops = ops_of(data_parallel=1, optimizations=options)
    assert matrix_flops(ops) == pytest.approx(times * layers + 3 * head, rel=1e-12)


def test_a_fused_attention_computes_its_scores_again_in_backward() -> None:
    ops = [op for op in ops_of(attention="flash") if op["op_kind"] == "attention"]
    forward, backward = (next(op for op in ops if op["phase"] == phase) for phase in ("forward", "backward"))
    assert backward["flops"] == pytest.approx(2.5 * forward["flops"])


@pytest.mark.parametrize("llm_id", ["llama-2-7b", "mixtral-8x7b", "gpt2", "bloom-7b1", "qwen3-8b"])
def test_every_product_of_forward_has_two_in_backward(llm_id: str) -> None:
    ops = ops_of(llm_id)
    forward = [op for op in ops if op["phase"] == "forward"]
    backward = [op for op in ops if op["phase"] == "backward"]
    assert matrix_flops(backward) == pytest.approx(2 * matrix_flops(forward), rel=1e-12)


def test_an_encoder_decoder_is_trained_and_an_encoder_fine_tuned() -> None:
    assert total("t5-base", input_tokens=256, output_tokens=64)["flops"] > 0
    assert total("bert-base-uncased", phase="finetune_step")["flops"] > 0


def test_every_llm_of_the_catalogue_is_fine_tuned() -> None:
    rows = [
        config(name, phase="finetune_step", input_tokens=128, output_tokens=32, attention=attention, **more)
        for name in catalog.llms()
        for attention, more in (("eager", {}), ("flash", {"optimizations": ["lora", "recompute"], "lora_rank": 4}))
    ]
    for row, answer in zip(rows, run(rows)[0], strict=True):
        parts = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activation_peak_bytes", "workspace_bytes")
        assert answer["status"] == "ok", (row["llm_id"], answer["status_detail"])
        assert all(np.isfinite(answer[part]) and answer[part] > 0 for part in (*parts, "flops", "roofline_s")), row


def test_a_target_of_unknown_length_is_as_long_as_the_source() -> None:
    silent, stated = total("t5-base", input_tokens=256), total("t5-base", input_tokens=256, output_tokens=256)
    assert "output_tokens (decoder) is not stated: as input_tokens." in silent["status_detail"]
    assert (silent["flops"], silent["roofline_s"]) == (stated["flops"], stated["roofline_s"])


def test_edges_lead_from_the_loss_to_the_embedding() -> None:
    ops = ops_of()
    for op in ops:
        assert all(source < op["op_index"] for source in op["inputs"])
    backward = [op for op in ops if op["phase"] == "backward" and op["op_kind"] == "embedding"]
    reached, waiting = set[int](), [backward[0]["op_index"]]
    while waiting:
        index = waiting.pop()
        reached.add(index)
        waiting += [one for one in ops[index]["inputs"] if one not in reached]
    assert {op["op_kind"] for op in ops if op["op_index"] in reached} >= {"loss", "lm_head", "q_proj", "norm"}


def test_micro_batches_read_the_weights_again_and_keep_less() -> None:
    whole, parts = (total(batch_size=8, num_micro_batches=number) for number in (1, 4))
    assert parts["flops"] == pytest.approx(whole["flops"])
    assert parts["activation_peak_bytes"] < whole["activation_peak_bytes"] / 3
    read = [
        added(ops_of(batch_size=8, num_micro_batches=number), "weight_bytes_read", op_kind="q_proj")
        for number in (1, 4)
    ]
    assert read[1] == pytest.approx(4 * read[0])


# Memory


def held_by_torch(dtype: str, num_kv_heads: int, attention: str) -> float:
    """Bytes of the distinct tensors that autograd keeps of a forward pass, but for vectors: rope's angles, norms' scales."""
    torch = pytest.importorskip("torch")
    model = torch_model(num_kv_heads, attention).to(getattr(torch, dtype))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        key = tensor.untyped_storage().data_ptr()
        is_angle = tensor.shape[:2] == (1, 1)
        if key not in weights and tensor.is_floating_point() and tensor.shape[-1] > 1 and not is_angle:
            kept[key] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(input_ids=torch.ones((2, 32), dtype=torch.long))
    assert output.logits.requires_grad
    return float(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


@pytest.mark.parametrize(
    ("dtype", "name", "num_kv_heads", "attention"),
    [
        ("float32", "fp32", 4, "eager"), ("float32", "fp32", 2, "eager"), ("bfloat16", "bf16", 4, "eager"),
        ("bfloat16", "bf16", 2, "eager"), ("bfloat16", "bf16", 4, "sdpa"),
    ],
)  # fmt: skip
def test_backward_keeps_what_autograd_keeps(dtype: str, name: str, num_kv_heads: int, attention: str) -> None:
    llm = Llm.from_config("tiny", {"model_type": "llama", **KEYS, "num_key_value_heads": num_kv_heads})
    dtypes = {"weight_dtype": name, "activation_dtype": name}
    row = config("tiny", batch_size=2, input_tokens=32, data_parallel=1, attention=attention, **dtypes)
    ours = evaluate(pa.Table.from_pylist([row]), llms=[llm], with_ops=False)[0].to_pylist()[0]
    # logits (and their gradients) are alive beside what is kept: this vocabulary outweighs a layer's gradients
    assert ours["activation_peak_bytes"] - ours["logits_bytes"] == held_by_torch(dtype, num_kv_heads, attention)


def test_zero_divides_states_then_gradients_then_weights() -> None:
    parameters = parameter_count(catalog.find_llm("llama-2-7b"))
    mixed = {"optimizer_dtype": "fp32"}
    rows = [total(optimizations=options, **mixed) for options in ([], ["zero1"], ["zero2"], ["zero3"])]
    held = [(row["weights_bytes"], row["gradients_bytes"], row["optimizer_bytes"]) for row in rows]
    whole = (2.0 * parameters, 2.0 * parameters, 12.0 * parameters)  # K = 12: two states and a master weight
    for stage, (weights, gradients, states) in enumerate(held):
        shares = (8 if stage >= 3 else 1, 8 if stage >= 2 else 1, 8 if stage >= 1 else 1)
        assert (weights, gradients, states) == pytest.approx(tuple(a / b for a, b in zip(whole, shares, strict=True)))


def test_states_of_16_bits_have_no_master_weights() -> None:
    parameters = parameter_count(catalog.find_llm("llama-2-7b"))
    assert total()["optimizer_bytes"] == pytest.approx(4 * parameters)
    fp32 = total(weight_dtype="fp32", activation_dtype="fp32", optimizer_dtype="fp32")
    assert fp32["optimizer_bytes"] == pytest.approx(8 * parameters)


def test_offloaded_states_leave_the_device() -> None:
    row = total(optimizations=["offload", "zero2"])
    assert row["optimizer_bytes"] == row["gradients_bytes"] == 0
    assert row["weights_bytes"] > 0
    assert total(optimizations=["offload", "zero3"])["weights_bytes"] == 0


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 16), tokens=st.integers(16, 2048), attention=st.sampled_from(["eager", "flash"]),
    is_recomputed=st.booleans(), data_parallel=st.sampled_from([1, 8]), zero=st.sampled_from(["zero1", "zero3"]),
)  # fmt: skip
def test_activations_and_time_grow_and_recomputation_saves(
    batch: int, tokens: int, attention: str, is_recomputed: bool, data_parallel: int, zero: str
) -> None:
    options = ["recompute", zero] if is_recomputed else [zero]
    start = {"attention": attention, "optimizations": options, "data_parallel": data_parallel}
    sizes = ((batch, tokens), (batch + 1, tokens), (batch, tokens + 16))
    rows = [config("tiny", batch_size=b, input_tokens=t, **start) for b, t in sizes]
    rows.append(config("tiny", batch_size=batch, input_tokens=tokens, **start) | {"optimizations": ["recompute", zero]})
    here, wider, longer, recomputed = run(rows)[0]
    for more in (wider, longer):
        assert more["activation_peak_bytes"] > here["activation_peak_bytes"]
        assert more["memory_peak_bytes"] >= here["memory_peak_bytes"]
        assert more["flops"] > here["flops"]
        assert more["roofline_s"] >= here["roofline_s"] * (1 - 1e-12)
    assert recomputed["activation_peak_bytes"] <= here["activation_peak_bytes"] * (1 + 1e-12)


def test_parts_of_memory_add_up_to_its_peak() -> None:
    for options in ([], ["zero2"], ["offload", "zero3"], ["recompute"]):
        row = total(optimizations=options)
        parts = ("weights_bytes", "activation_peak_bytes", "gradients_bytes", "optimizer_bytes", "workspace_bytes")
        assert row["memory_peak_bytes"] == pytest.approx(sum(row[part] for part in parts))


TABLE_III: dict[str, tuple[float, dict[str, Any]]] = {
    "Naive": (66.7, {}),
    "Z2": (37.8, {"optimizations": ["zero2"], "optimizer_dtype": "fp32"}),
    "Z3": (30.5, {"optimizations": ["zero3"], "optimizer_dtype": "fp32"}),
    "Q": (9.8, {"optimizations": ["quantized"], "weight_dtype": "nf4"}),
    "R": (65.9, {"optimizations": ["recompute"]}),
    "F": (66.7, {"attention": "flash"}),
    "F+Z3": (29.2, {"attention": "flash", "optimizations": ["zero3"], "optimizer_dtype": "fp32"}),
    "Z3+O": (10.4, {"optimizations": ["offload", "zero3"], "optimizer_dtype": "fp32"}),
    "Z2+O": (32.8, {"optimizations": ["offload", "zero2"], "optimizer_dtype": "fp32"}),
    "F+R+Z3+O": (6.7, {
        "attention": "flash", "optimizations": ["offload", "recompute", "zero3"], "optimizer_dtype": "fp32",
    }),
}  # fmt: skip
"""`zhang-2023-dissecting` Table III: peak memory in GB of Llama-2-7B, 8 x A800, batch 1, 350 tokens. Without ZeRO the weights
were loaded, and so updated, in bf16; DeepSpeed's ZeRO keeps fp32 master weights and states whatever the weights are."""


@pytest.mark.parametrize("method", TABLE_III)
def test_peak_memory_is_within_15_percent_of_the_published(method: str) -> None:
    published, values = TABLE_III[method]
    assert total(**values)["memory_peak_bytes"] / GB == pytest.approx(published, rel=0.15)


@pytest.mark.parametrize("batch", [1, 4, 8, 13, 20])
def test_the_largest_batch_is_the_same_whatever_batch_is_asked_about(batch: int) -> None:
    """The update needs what activations left: room that the largest batch fills, so it takes nothing from it."""
    row = total(hardware_id="a100-sxm-80gb", data_parallel=1, attention="flash", batch_size=batch)
    parameters = parameter_count(catalog.find_llm("llama-2-7b"))
    held, runtime = 8 * parameters, training_memory.RUNTIME  # weights, gradients and two states of 16 bits
    a_sequence = row["activation_peak_bytes"] / batch
    assert row["max_batch_size"] == (80 * 2**30 - held - runtime) // a_sequence == 13
    assert row["is_fitting"] == (batch <= 13)


def test_memory_that_an_allocator_need_not_keep_does_not_decide_what_fits() -> None:
    small = total(hardware_id="rtx-4090", optimizations=["zero3"], optimizer_dtype="fp32")
    large = total(optimizations=["zero3"], optimizer_dtype="fp32")
    assert small["is_fitting"], "22.6 GB in Table III"
    assert small["memory_peak_bytes"] < large["memory_peak_bytes"]
    assert not total(hardware_id="rtx-4090")["is_fitting"], "out of memory in Table III"


# Adapters and quantized weights


def adapters(llm: Llm, rank: int) -> int:
    """r (in + out) over the products of attention and MLP, as peft counts trainable parameters."""
    hidden, inner = llm.hidden_size, llm.intermediate_size
    attention = 2 * (hidden + llm.attention_size) + 2 * (hidden + llm.kv_size)
    return rank * llm.num_layers * (attention + 3 * (hidden + inner))


def test_adapters_alone_are_trained() -> None:
    llm = catalog.find_llm("llama-2-7b")
    row = total(phase="finetune_step", optimizations=["lora"], lora_rank=64)
    assert adapters(llm, 64) == 159_907_840  # 64 x 32 x (8 x 4096 + 3 x (4096 + 11008))
    assert row["gradients_bytes"] == pytest.approx(2 * adapters(llm, 64))
    assert row["optimizer_bytes"] == pytest.approx(4 * adapters(llm, 64))
    assert row["weights_bytes"] == pytest.approx(2 * (parameter_count(llm) + adapters(llm, 64)))


def test_frozen_weights_get_no_gradient() -> None:
    plain, lora = ops_of(), ops_of(phase="finetune_step", optimizations=["lora"], lora_rank=8)
    assert [op["path"] for op in plain if op["path"].endswith("q_proj.weight")]
    assert not [op["path"] for op in lora if op["path"].endswith("q_proj.weight")]
    assert [op["path"] for op in lora if op["path"].endswith("q_proj.lora_a.weight")]
    assert matrix_flops(lora) < 0.75 * matrix_flops(plain), "two products in place of three"


def test_quantized_weights_are_widened_in_forward_and_again_in_backward() -> None:
    ops = ops_of(phase="finetune_step", optimizations=["qlora"], lora_rank=8, weight_dtype="nf4")
    widened = [op for op in ops if op["op_kind"] == "dequantize"]
    products = 6_738_415_616 - 2 * 32000 * 4096 - 65 * 4096
    for phase in ("forward", "backward"):
        assert added(widened, "activation_bytes_written", phase=phase) == pytest.approx(8 * 2 * products)  # 8 devices
        read = added(widened, "weight_bytes_read", phase=phase) / 8 / products
        assert read == pytest.approx(0.5 + 0.127 / 8)


def test_a_quantized_base_takes_half_a_byte_a_parameter() -> None:
    row = total(optimizations=["quantized"], weight_dtype="nf4")
    others = 2 * 32000 * 4096 + 65 * 4096
    assert row["weights_bytes"] == pytest.approx((6_738_415_616 - others) * (0.5 + 0.127 / 8) + 2 * others)
    assert row["gradients_bytes"] == pytest.approx(2 * others)


# Communication, optimizer, stages


def sent(**values: Any) -> float:
    """Bytes that one device sends among replicas in a step, from the seconds at the link's bandwidth."""
    parts = [op for op in step_ops(**values) if op.is_far]
    return float(np.asarray(sum(op.sent * op.count for op in parts)).item())


def step_ops(options: frozenset[str] = frozenset(), **values: Any) -> tuple[Any, ...]:
    """The ops of a step as the engine gets them, with their communication."""
    from models.analytical.inventory import Group

    fields: dict[str, Any] = dict.fromkeys(Group.__dataclass_fields__, 1.0)
    sizes = {"weight_bytes": 2.0, "activation_bytes": 2.0, "gradient_bytes": 2.0, "optimizer_bytes": 2.0}
    rates = {"bandwidth": 2e12, "matrix_peak": 312e12, "attention_peak": 312e12, "vector_peak": 19.5e12, "link": 200e9}
    rates |= {"far_link": 200e9, "host_link": 32e9, "memory": 80e9}
    fields |= (
        sizes | rates | {"batch": np.array([1.0]), "input_tokens": np.array([350.0]), "data_parallel": 8.0} | values
    )
    group = Group(**fields)
    return training.inventory(
        catalog.find_llm("llama-2-7b"), "pretrain_step", group, is_fused=False, options=options
    ).ops


def test_zero_3_sends_one_and_a_half_times_what_plain_data_parallel_sends() -> None:
    gradients = 2.0 * 6_738_415_616
    plain = sent()
    assert plain == pytest.approx(2 * 7 / 8 * gradients)
    assert sent(options=frozenset({"zero1"})) == pytest.approx(plain)
    assert sent(options=frozenset({"zero2"})) == pytest.approx(plain)
    assert sent(options=frozenset({"zero3"})) == pytest.approx(1.5 * plain)
    assert sent(data_parallel=1.0) == 0


def test_from_zero_2_on_every_micro_batch_sends_its_gradients() -> None:
    batch = {"batch": np.array([4.0]), "micro_batches": 4.0}
    gradients = 7 / 8 * 2.0 * 6_738_415_616
    assert sent(options=frozenset({"zero1"}), **batch) == pytest.approx(2 * gradients)
    assert sent(options=frozenset({"zero2"}), **batch) == pytest.approx(4 * gradients + gradients)


def test_gradients_travel_behind_backward() -> None:
    ops = step_ops()
    reduced = next(op for op in ops if op.path == "gradients")
    backward = sum(
        np.maximum(op.flops / (312e12 if op.is_matrix else 19.5e12), op.bytes_moved / 2e12) * op.count
        for op in ops
        if op.phase == "backward" and op.kind != "all_reduce"
    )
    assert reduced.hidden * reduced.count == pytest.approx(backward)


def test_transfers_over_different_links_run_beside_one_another() -> None:
    """A phase takes as long as the longest of what it computes, gathers and fetches: here, with few tokens, a transfer."""
    weights = 2.0 * 6_738_415_616
    gathered, fetched = 7 / 8 * weights / 200e9, weights / 8 / 32e9  # A800: NVLink one way, PCIe 4
    for devices, longest in ((8, gathered), (2, weights / 2 / 32e9)):
        ops = ops_of(optimizations=["offload", "zero3"], input_tokens=16, data_parallel=devices)
        taken = added(ops, "roofline_s", phase="forward")
        assert taken == pytest.approx(longest, rel=1e-6)
    assert fetched < gathered


def test_a_fused_bf16_adam_moves_14_bytes_a_parameter_and_mixed_precision_28() -> None:
    parameters = 6_738_415_616
    for dtype, width in (("bf16", 14), ("fp32", 28)):
        moved = added(ops_of(optimizer_dtype=dtype), "bytes_moved", op_kind="optimizer")
        assert moved == pytest.approx(8 * width * parameters)


def test_an_unfused_adam_takes_what_the_optimizer_was_measured_to_take() -> None:
    moved = estimate.UNFUSED_ADAM * 2 * 6_738_415_616  # bf16
    share = moved / 2039e9 / 181.4e-3  # Table V: 181.4 ms of kernels on an A800
    assert 0.8 < share < 0.9, "of the bandwidth: what element-wise kernels reach"


def test_tensor_parallel_sums_as_often_in_backward() -> None:
    ops = ops_of(tensor_parallel=8, data_parallel=1)
    counts = {
        phase: sum(op["count"] for op in ops if op["op_kind"] == "all_reduce" and op["phase"] == phase)
        for phase in ("forward", "backward")
    }
    assert counts == {"forward": 2 * 32 + 1, "backward": 2 * 32 + 1}  # of the embedding; of the head's input


def test_stages_wait_for_one_another() -> None:
    values: dict[str, Any] = {"batch_size": 16, "data_parallel": 1, "hardware_id": "h100-sxm"}
    one = total(**values, num_micro_batches=8)
    four = total(**values, num_micro_batches=8, pipeline_parallel=4)
    whole = ops_of(**values, num_micro_batches=8)
    ops = ops_of(**values, num_micro_batches=8, pipeline_parallel=4)
    idle = added(ops, "roofline_s", op_kind="idle")
    working = sum(op["roofline_s"] * op["count"] for op in ops if op["phase"] in ("forward", "backward"))
    assert idle == pytest.approx(3 / 8 * working)
    assert matrix_flops(ops) == pytest.approx(matrix_flops(whole), rel=1e-12), "work of all devices"
    assert one["roofline_s"] / 4 < four["roofline_s"] < one["roofline_s"]


def test_totals_are_sums_of_ops() -> None:
    cases: list[dict[str, Any]] = [
        {},
        {"optimizations": ["recompute", "zero3"]},
        {"optimizations": ["offload", "zero2"]},
    ]
    for values in cases:
        totals, ops = run([config(**values)], with_ops=True)
        for name in ("flops", "bytes_moved", "roofline_s"):
            assert added(ops, name) == pytest.approx(totals[0][name], rel=1e-9)


# Refusals


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizations": ["offload"]}, "offload needs zero1, zero2 or zero3"),
        ({"optimizations": ["lora"]}, "for finetune_step"),
        ({"phase": "finetune_step", "optimizations": ["lora"]}, "lora_rank"),
        ({"optimizations": ["zero9"]}, "zero9"),
        ({"weight_dtype": "nf4"}, "say qlora or quantized"),
        ({"optimizations": ["quantized"]}, "nf4, int4, int8"),
        ({"pipeline_parallel": 5}, "pipeline_parallel does not divide 32 layers"),
        ({"num_micro_batches": 3}, "num_micro_batches must divide batch_size"),
        ({"input_tokens": None}, "input_tokens"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(values: dict[str, Any], words: str) -> None:
    row = run([config(**values)])[0][0]
    assert row["status"] == "unsupported"
    assert words in row["status_detail"]
    assert row["flops"] is None


def test_an_encoder_is_not_pre_trained() -> None:
    row = run([config("bert-base-uncased")])[0][0]
    assert row["status"] == "unsupported"
    assert "finetune_step" in row["status_detail"]


def test_rows_do_not_depend_on_their_neighbours() -> None:
    rows = [
        config(batch_size=batch, input_tokens=tokens, data_parallel=devices, num_micro_batches=parts)
        for batch, tokens, devices, parts in ((1, 350, 8, 1), (8, 512, 2, 4), (4, 1024, 1, 2))
    ]
    together = run(rows)[0]
    for row, answer in zip(rows, together, strict=True):
        alone = run([row])[0][0]
        for name in ("flops", "bytes_moved", "memory_peak_bytes", "roofline_s"):
            assert answer[name] == pytest.approx(alone[name], rel=1e-12)
