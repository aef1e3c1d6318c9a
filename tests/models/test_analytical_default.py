"""The default ruleset: counted like the real models, equal to closed forms done by hand, and true to its own invariants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.analytical import RULESETS, UnknownEntryError, evaluate
from warehouse import catalog, parquet
from warehouse.catalog.llm import LayerKind, Llm, parameter_count

LLMS = catalog.llms()
A100 = catalog.find_hardware("a100-sxm-80gb")
WORK = (
    "flops", "bytes_moved", "weight_bytes_read", "activation_bytes_read", "activation_bytes_written", "kv_bytes_read",
    "kv_bytes_written", "roofline_s",
)  # fmt: skip
FP16 = dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "fp16")
TINY = Llm.from_config("tiny", {
    "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 16, "vocab_size": 100, "hidden_act": "silu",
})  # fmt: skip


def config(llm_id: str = "llama-2-7b", phase: str = "decode", **values: Any) -> dict[str, Any]:
    """One configuration, fp16 and eager on an A100 80 GB, with the lengths its phase needs."""
    known = llm_id in LLMS
    tokens = 448 if known and LLMS[llm_id].position == "learned" else 1024
    lengths: dict[str, Any] = {
        "decode": {"context_tokens": tokens},
        "prefill": {"input_tokens": tokens},
        "forward": {"input_tokens": tokens},
        "generate": {"input_tokens": tokens, "output_tokens": 64},
    }.get(phase, {})
    if known and LLMS[llm_id].architecture == "encoder_decoder":
        lengths |= {"forward": {"output_tokens": 64}, "decode": {"input_tokens": 512}}.get(phase, {})
    start = {"llm_id": llm_id, "hardware_id": "a100-sxm-80gb", "phase": phase, "batch_size": 2, "attention": "eager"}
    return start | FP16 | lengths | values


def table(rows: Sequence[dict[str, Any]] | dict[str, Any]) -> pa.Table:
    """Rows with any columns as one table."""
    rows = [rows] if isinstance(rows, dict) else list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def run(
    rows: Sequence[dict[str, Any]] | dict[str, Any], **options: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Totals and ops as lists of rows."""
    totals, ops = evaluate(table(rows), **options)
    return totals.to_pylist(), ops.to_pylist()


def total(**values: Any) -> dict[str, Any]:
    llms = values.pop("llms", None)
    hardware = values.pop("hardware", None)
    totals, _ = run(config(**values), with_ops=False, llms=llms, hardware=hardware)
    return totals[0]


def every_case() -> list[dict[str, Any]]:
    """Every LLM of the catalogue in every phase it has, eager and fused."""
    return [
        config(llm_id, phase, attention=attention)
        for llm_id, llm in LLMS.items()
        for phase in (("forward",) if llm.architecture == "encoder" else ("forward", "prefill", "decode", "generate"))
        for attention in ("eager", "flash")
    ]


# Against the real models


def count_in_torch(llm: Llm, inputs: int, outputs: int, context: int) -> dict[str, tuple[float, float]]:
    """FLOPs of all matrix products and KV cache elements of the real architecture, phase by phase, for one sequence.

    Counted under fake tensors, which compute nothing. The table of rope's angles, which torch makes as a product, is left out.
    """
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    classes = {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModel,
        "encoder_decoder": transformers.AutoModelForSeq2SeqLM,
    }
    keys = dict(llm.config)
    settings = transformers.AutoConfig.for_model(keys.pop("model_type"), **keys)
    is_translating = llm.architecture == "encoder_decoder"
    counted: dict[str, tuple[float, float]] = {}

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = classes[llm.architecture].from_config(settings, attn_implementation="eager").eval()

        def tokens(length: int) -> Any:
            return torch.ones((1, length), dtype=torch.long)

        def note(phase: str, **arguments: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                output = model(**arguments)
            angles = sum(
                sum(kinds.values()) for path, kinds in counter.get_flop_counts().items() if path.endswith("rotary_emb")
            )
            cache = getattr(output, "past_key_values", None)
            parts = [] if cache is None else [cache]
            if is_translating and cache is not None:
                parts = [cache.self_attention_cache, cache.cross_attention_cache]
            held = sum(layer.keys.numel() + layer.values.numel() for part in parts for layer in part.layers)
            counted[phase] = (counter.get_total_flops() - angles, held)
            return output

        if llm.architecture == "encoder":
            note("forward", input_ids=tokens(inputs))
        elif is_translating:
            note("forward", input_ids=tokens(inputs), decoder_input_ids=tokens(outputs), use_cache=False)
            note("prefill", input_ids=tokens(inputs), decoder_input_ids=tokens(1), use_cache=True)
            past = model(input_ids=tokens(inputs), decoder_input_ids=tokens(context - 1), use_cache=True)
            hidden = (past.encoder_last_hidden_state,)
            note("decode", encoder_outputs=hidden, decoder_input_ids=tokens(1), past_key_values=past.past_key_values)
        else:
            note("forward", input_ids=tokens(inputs), use_cache=False)
            note("prefill", input_ids=tokens(inputs), use_cache=True, logits_to_keep=1)
            past = model(input_ids=tokens(context - 1), use_cache=True)
            note("decode", input_ids=tokens(1), past_key_values=past.past_key_values)
    return counted


@pytest.mark.parametrize(
    "llm_id",
    ["opt-350m", "bloom-560m", "t5-small", "bart-base", "gpt2", "llama-2-7b", "bert-base", "mobilebert",
     "qwen3-0.6b"],
)  # fmt: skip
def test_matrix_flops_and_cache_are_what_torch_counts(llm_id: str) -> None:
    is_translating = LLMS[llm_id].architecture == "encoder_decoder"
    lengths = {
        "forward": {"input_tokens": 40, "output_tokens": 24 if is_translating else None},
        "prefill": {"input_tokens": 40},
        "decode": {"context_tokens": 33, "input_tokens": 40 if is_translating else None},
    }
    for phase, (flops, cached) in count_in_torch(LLMS[llm_id], inputs=40, outputs=24, context=33).items():
        totals, ops = run(config(llm_id, phase, batch_size=1, **lengths[phase]))

        assert sum(op["flops"] * op["count"] for op in ops if op["m"] is not None) == flops, phase
        assert totals[0]["kv_cache_bytes"] == 2 * cached, phase


@pytest.mark.parametrize(("dtype", "size"), [("fp16", 2), ("int8", 1), ("int4", 0.5), ("fp32", 4)])
def test_weights_are_the_parameters_times_their_bytes(dtype: str, size: float) -> None:
    rows = [row | {"weight_dtype": dtype} for row in every_case()]
    totals, _ = run(rows, with_ops=False)
    assert [row["weights_bytes"] for row in totals] == [parameter_count(LLMS[row["llm_id"]]) * size for row in rows]


# By hand


def test_a_decode_step_by_hand() -> None:
    """TINY: width 8, 3 layers, 4 heads of 2 over 2 KV heads, MLP 16, vocabulary 100; batch 2, context 5."""
    row = total(llm_id="tiny", context_tokens=5, llms=[TINY])

    layer = 8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 16  # q and o, k and v, gate up down
    matrix = 3 * 2 * (2 * layer + 2 * 2 * 4 * 2 * 5) + 2 * 2 * 8 * 100  # batch 2: products, scores and values; head
    # softmax 5 a score; rope 3 an element of q and k; norms 4; SiLU and gate 6; two residuals of 8
    other = 3 * 2 * (5 * 4 * 5 + 3 * (8 + 4) + 2 * 4 * 8 + 6 * 16 + 2 * 8) + 2 * 4 * 8
    assert row["flops"] == matrix + other
    assert row["kv_bytes_read"] == 3 * 2 * 5 * 2 * 4 * 2  # layers, batch, context, keys and values, width, bytes
    assert row["kv_bytes_written"] == 3 * 2 * 1 * 2 * 4 * 2
    assert row["kv_cache_bytes"] == row["kv_bytes_read"]
    assert row["weight_bytes_read"] == 2 * (parameter_count(TINY) - 100 * 8 + 2 * 8)  # two rows of the table, all else
    assert row["bytes_moved"] == sum(row[name] for name in WORK[2:7])
    assert row["output_tokens_per_s"] == pytest.approx(2 / row["roofline_s"])


def test_the_head_sees_one_token_in_prefill_and_all_in_forward() -> None:
    _, ops = run([config(phase="prefill"), config(phase="forward")])
    heads = [op for op in ops if op["op_kind"] == "lm_head"]
    assert [op["m"] for op in heads] == [2, 2 * 1024]
    assert [op["flops"] for op in heads] == [2.0 * 2 * 4096 * 32000, 2.0 * 2048 * 4096 * 32000]


def test_a_fused_kernel_leaves_out_what_the_causal_mask_drops() -> None:
    _, eager = run(config(phase="prefill"))
    _, fused = run(config(phase="prefill", attention="flash"))
    products = sum(op["flops"] for op in eager if op["op_kind"] in ("attention_scores", "attention_values", "softmax"))
    attention = next(op for op in fused if op["op_kind"] == "attention")
    assert attention["flops"] / products == pytest.approx((1024 + 1) / (2 * 1024))
    assert attention["activation_bytes_written"] == 2 * 1024 * 4096 * 2  # the output, not the scores
    assert attention["kv_bytes_read"] == 2 * 2 * 1024 * 4096 * 2


def test_grouped_queries_read_their_groups_keys_once() -> None:
    many, few = total(llm_id="llama-2-70b", attention="flash"), LLMS["llama-2-70b"]
    assert many["kv_bytes_read"] == 80 * 2 * 2 * 1024 * 8 * 128 * 2
    assert many["kv_bytes_read"] == many["kv_cache_bytes"]
    assert few.num_heads == 8 * few.num_kv_heads


def test_a_sliding_window_bounds_reads_and_cache() -> None:
    mistral, window = LLMS["mistral-7b"], 4096
    assert mistral.sliding_window == window
    near, far = (
        total(llm_id="mistral-7b", context_tokens=window),
        total(llm_id="mistral-7b", context_tokens=8 * window),
    )
    assert far["kv_bytes_read"] == near["kv_bytes_read"]
    assert far["kv_cache_bytes"] == near["kv_cache_bytes"]
    assert far["flops"] == near["flops"]


def test_the_activation_peak_is_of_what_lives_at_once() -> None:
    """A long eager prefill peaks in softmax: scores twice, beside the residual and the queries."""
    tokens, scores = 2 * 4096, 2 * 32 * 4096 * 4096
    row = total(phase="prefill", input_tokens=4096)
    assert row["activation_peak_bytes"] == 2 * (2 * scores + 2 * tokens * 4096)
    # without scores, a forward pass of GPT-2 peaks in its logits
    gpt2 = total(llm_id="gpt2", phase="forward", input_tokens=1024, attention="flash")
    assert gpt2["activation_peak_bytes"] == 2 * (2048 * 768 + 2048 * 50257)
    assert row["memory_peak_bytes"] == row["weights_bytes"] + row["kv_cache_bytes"] + row["activation_peak_bytes"]


def test_an_encoder_decoder_splits_its_lengths() -> None:
    """T5-small, 6 + 6 layers, width 512: the encoder runs in prefill only, decode reads cross keys from the cache."""
    prefill, decode = (
        total(llm_id="t5-small", phase="prefill"),
        total(llm_id="t5-small", context_tokens=32, input_tokens=512),
    )
    assert prefill["kv_cache_bytes"] == 2 * 6 * 512 * 2 * 2 * (1 + 1024)
    assert decode["kv_cache_bytes"] == 2 * 6 * 512 * 2 * 2 * (32 + 512)
    assert decode["kv_bytes_read"] == decode["kv_cache_bytes"]
    assert decode["flops"] < prefill["flops"] / 100


# Invariants, over every LLM of the catalogue


def test_ops_add_up_to_totals() -> None:
    rows = every_case()
    totals, ops = evaluate(table(rows))

    assert totals["status"].unique().to_pylist() == ["ok"]
    sums = {name: np.zeros(len(rows)) for name in WORK}
    for name, values in sums.items():
        np.add.at(values, ops["config_row"].to_numpy(), ops[name].to_numpy() * ops["count"].to_numpy())
        np.testing.assert_allclose(values, totals[name].to_numpy(), rtol=1e-12, err_msg=name)


def test_time_is_at_least_both_bounds_and_at_most_their_sum() -> None:
    totals, _ = run(every_case(), with_ops=False)
    for row in totals:
        slack = 1 - 1e-12
        assert row["roofline_s"] >= slack * row["flops"] / A100.peaks["fp16"], row
        assert row["roofline_s"] >= slack * row["bytes_moved"] / A100.memory_bandwidth_bytes_per_s, row
        assert slack * max(row["compute_s"], row["memory_s"]) <= row["roofline_s"] <= row["compute_s"] + row["memory_s"]
        ridge = A100.peaks["fp16"] / A100.memory_bandwidth_bytes_per_s
        assert row["bound"] == ("compute" if row["arithmetic_intensity"] >= ridge else "memory")
        assert row["is_fitting"] == (row["memory_peak_bytes"] <= A100.memory_bytes)


def test_ops_are_rows_of_the_contract_and_a_graph() -> None:
    totals, ops = evaluate(table(every_case()))
    rows = ops.drop_columns(["config_row"]).append_column("run_id", pc.cast(ops["config_row"], pa.string()))
    assert parquet.check("ops", rows).num_rows == ops.num_rows
    for op in ops.to_pylist():
        assert all(0 <= index < op["op_index"] for index in op["inputs"]), op
    assert ops["config_row"].to_pylist() == sorted(ops["config_row"].to_pylist())
    assert totals.num_rows == len(every_case())


def test_many_at_once_is_one_at_a_time() -> None:
    rows = [
        *every_case()[::7],
        config(phase="serve"),
        config(batch_size=None),
        config(tensor_parallel=2, num_devices=2),
    ]
    rows = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    together, ops = run(rows)
    for index, row in enumerate(rows):
        alone, own_ops = run([dict.fromkeys(rows[0]) | row])
        assert alone[0] == {name: together[index].get(name) for name in alone[0]}
        assert [op | {"config_row": index} for op in own_ops] == [op for op in ops if op["config_row"] == index]


def test_blocks_leave_no_seam() -> None:
    """More rows than are evaluated at a time: every row is what it is alone."""
    lengths = np.arange(1, 40_001)
    size = len(lengths)
    fixed = {
        name: pa.repeat(value, size)
        for name, value in config(llm_id="llama-3.1-8b").items()
        if name != "context_tokens"
    }
    totals, ops = evaluate(pa.table(fixed | {"context_tokens": lengths}))
    assert ops.num_rows % size == 0
    assert np.array_equal(ops["config_row"].to_numpy(), np.repeat(np.arange(size), ops.num_rows // size))
    for index in (0, 16_383, 16_384, 39_999):
        alone = total(llm_id="llama-3.1-8b", context_tokens=int(lengths[index]))
        assert {name: totals[name][index].as_py() for name in WORK} == {name: alone[name] for name in WORK}


@pytest.mark.parametrize("phase", ["decode", "prefill", "forward", "generate"])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_more_work_takes_more(phase: str, data: st.DataObject) -> None:
    """More sequences or longer ones never take less work, memory or time."""
    llm_id = data.draw(st.sampled_from([name for name, llm in LLMS.items() if llm.architecture != "encoder"]))
    room = LLMS[llm_id].max_context_tokens or 4096  # prompt and output together stay inside it
    most, longer = min(room * 2 // 5, 3000), room // 10
    sizes = {
        name: data.draw(st.integers(1, most))
        for name in ("batch_size", "input_tokens", "output_tokens", "context_tokens")
    }
    more = sizes | {
        (name := data.draw(st.sampled_from(sorted(sizes)))): sizes[name] + data.draw(st.integers(1, longer))
    }
    attention = data.draw(st.sampled_from(["eager", "flash"]))

    low, high = run([config(llm_id, phase, attention=attention, **each) for each in (sizes, more)], with_ops=False)[0]

    for name in ("flops", "bytes_moved", "kv_cache_bytes", "activation_peak_bytes", "memory_peak_bytes", "roofline_s"):
        assert high[name] >= low[name] * (1 - 1e-12), name


@pytest.mark.parametrize(
    ("values", "last"),
    [
        ({"llm_id": "gpt2", "phase": "decode", "context_tokens": 1024}, 1024),
        ({"llm_id": "gpt2", "phase": "generate", "input_tokens": 1000, "output_tokens": 25}, 1024),
        ({"llm_id": "bert-base", "phase": "forward", "input_tokens": 512}, 512),
        ({"llm_id": "bart-base", "phase": "forward", "input_tokens": 1024, "output_tokens": 1024}, 1024),
        ({"llm_id": "bart-base", "phase": "generate", "input_tokens": 8, "output_tokens": 1024}, 1024),
        ({"llm_id": "bart-base", "phase": "decode", "input_tokens": 1024, "context_tokens": 9}, 1024),
        ({"llm_id": "opt-350m", "phase": "prefill", "input_tokens": 2048}, 2048),
        ({"llm_id": "llama-2-7b", "phase": "prefill", "input_tokens": 4096}, 4096),
        ({"llm_id": "llama-2-7b", "phase": "prefill", "input_tokens": 4000, "prefix_tokens": 96}, 4096),
        ({"llm_id": "llama-3.1-8b", "phase": "decode", "context_tokens": 131072}, 131072),
    ],
)
def test_positions_end_and_are_refused_beyond(values: dict[str, Any], last: int) -> None:
    assert total(**values)["status"] == "ok"
    longest = max((name for name in values if name.endswith("_tokens")), key=lambda name: values[name])
    row = total(**(values | {longest: values[longest] + 1}))
    assert row["status"] == "unsupported"
    assert f"is beyond the {last} tokens that {values['llm_id']} is made for." in row["status_detail"]
    assert (row["flops"], row["memory_peak_bytes"], row["is_fitting"]) == (None, None, None)


@pytest.mark.parametrize(("llm_id", "tokens"), [("bloom-560m", 2048), ("t5-small", 512)])
def test_computed_biases_go_on_and_it_is_said(llm_id: str, tokens: int) -> None:
    within, beyond = (total(llm_id=llm_id, phase="prefill", input_tokens=length) for length in (tokens, tokens + 1))
    said = f"longer than the {tokens} tokens that {llm_id} is made for."
    assert (within["status"], beyond["status"]) == ("ok", "ok")
    assert said not in (within["status_detail"] or "")
    assert said in beyond["status_detail"]
    assert beyond["flops"] > within["flops"]


def test_the_peer_answers_whatever_the_length() -> None:
    row = config("opt-350m", "decode", context_tokens=4096)
    assert run(row, ruleset="llmviewer-472f71f")[0][0]["flops"] > 0


# Generation in closed form


@pytest.mark.parametrize(
    ("llm_id", "values"),
    [
        ("llama-2-7b", {"attention": "flash"}),
        ("llama-2-7b", {"batch_size": 300, "input_tokens": 3}),
        ("opt-350m", {}),
        ("t5-small", {"input_tokens": 77}),
        ("windowed", {"input_tokens": 20, "output_tokens": 50}),
        ("windowed", {"input_tokens": 90, "output_tokens": 9}),
        ("windowed", {"input_tokens": 31, "output_tokens": 3}),
        ("ridge", {"batch_size": 1, "input_tokens": 1, "output_tokens": 600, "attention": "flash"}),
    ],
)
def test_generate_is_a_prefill_and_every_step_after_it(llm_id: str, values: dict[str, Any]) -> None:
    mistral = LLMS["mistral-7b"]
    windowed = replace(mistral, llm_id="windowed", sliding_window=32, layer_kinds=(LayerKind(mistral.num_layers, 32),))
    many_queries = replace(
        mistral, llm_id="ridge", num_kv_heads=1, sliding_window=None, layer_kinds=(LayerKind(mistral.num_layers),)
    )  # its attention crosses the ridge
    brought = {"windowed": windowed, "ridge": many_queries}
    device = {"d": {"memory_bandwidth_bytes_per_s": 1e12, "peak_fp16_flops_per_s": 2.8e13, "memory_bytes": 1e12}}
    options: dict[str, Any] = {"llms": brought, "hardware": device, "with_ops": False}
    row = config("llama-2-7b", "generate", hardware_id="d", **({"output_tokens": 40} | values))
    row["llm_id"] = llm_id

    whole = run(row, **options)[0][0]

    is_translating = llm_id == "t5-small"
    start = 1 if is_translating else row["input_tokens"]
    parts = [row | {"phase": "prefill", "output_tokens": None}]
    parts += [
        row | {"phase": "decode", "context_tokens": start + step, "output_tokens": None}
        for step in range(1, row["output_tokens"])
    ]
    steps = run(parts, **options)[0]
    for name in (*WORK, "compute_s", "memory_s"):
        assert whole[name] == pytest.approx(sum(step[name] for step in steps), rel=1e-11), name
    assert whole["activation_peak_bytes"] == max(step["activation_peak_bytes"] for step in steps)
    assert whole["kv_cache_bytes"] == steps[-1]["kv_cache_bytes"]
    assert whole["output_tokens_per_s"] == pytest.approx(row["batch_size"] * row["output_tokens"] / whole["roofline_s"])


def test_the_ridge_is_crossed_within_one_op_of_the_case_above() -> None:
    """Attention of many queries over one KV head gets past the ridge of that device between contexts 2 and 600."""
    mistral = LLMS["mistral-7b"]
    kinds = (LayerKind(mistral.num_layers),)
    llm = replace(mistral, llm_id="ridge", num_kv_heads=1, sliding_window=None, layer_kinds=kinds)
    device = {"d": {"memory_bandwidth_bytes_per_s": 1e12, "peak_fp16_flops_per_s": 2.8e13}}
    rows = [
        config(phase="decode", batch_size=1, context_tokens=length, attention="flash", hardware_id="d")
        for length in (2, 600)
    ]
    _, ops = run([row | {"llm_id": "ridge"} for row in rows], llms=[llm], hardware=device)
    assert [op["bound"] for op in ops if op["op_kind"] == "attention"] == ["memory", "compute"]


def test_one_output_token_is_the_prefill() -> None:
    whole, prefill = total(phase="generate", output_tokens=1), total(phase="prefill")
    assert {name: whole[name] for name in WORK} == {name: prefill[name] for name in WORK}


# Several devices


def test_tensor_parallel_divides_weights_and_pays_for_two_all_reduces_a_layer() -> None:
    one, four = total(), total(num_devices=4, tensor_parallel=4)
    _, ops = run(config(num_devices=4, tensor_parallel=4))
    reduces = [op for op in ops if op["op_kind"] == "all_reduce" and op["count"] == 32]
    payload, link = 2 * 4096 * 2, A100.row["link_bandwidth_bytes_per_s"]
    assert [op["roofline_s"] for op in reduces] == pytest.approx([2 * 3 / 4 * payload / link] * 2)
    assert {op["bound"] for op in reduces} == {"communication"}
    gather = 3 / 4 * 2 * 32000 * 2 / link
    assert four["communication_s"] == pytest.approx((65 * 2 * 3 / 4 * payload) / link + gather)  # 64, and the embedding
    norms = 65 * 4096 * 2
    assert four["weights_bytes"] == pytest.approx((one["weights_bytes"] - norms) / 4 + norms)
    assert four["kv_cache_bytes"] == one["kv_cache_bytes"] / 4
    assert four["kv_bytes_read"] == one["kv_bytes_read"]
    assert one["roofline_s"] / 4 < four["roofline_s"] < one["roofline_s"]
    matrix = sum(op["flops"] * op["count"] for op in ops if op["m"] is not None)
    assert matrix == sum(op["flops"] * op["count"] for op in run(config())[1] if op["m"] is not None)


def test_keys_are_replicated_where_there_are_fewer_heads_than_devices() -> None:
    llama3 = LLMS["llama-3-8b"]
    assert llama3.num_kv_heads == 8
    eight, sixteen = (total(llm_id="llama-3-8b", num_devices=n, tensor_parallel=n) for n in (8, 16))
    assert sixteen["kv_cache_bytes"] == eight["kv_cache_bytes"]
    assert sixteen["weights_bytes"] > eight["weights_bytes"] / 2


def test_pipeline_parallel_holds_a_stage_and_hands_on_activations() -> None:
    one, two = total(), total(num_devices=2, pipeline_parallel=2)
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) * 2
    assert two["weights_bytes"] == pytest.approx(layers / 2 + (32000 * 4096 + 4096) * 2)
    assert two["kv_cache_bytes"] == one["kv_cache_bytes"] / 2
    sent = 2 * 4096 * 2 / A100.row["link_bandwidth_bytes_per_s"]
    assert two["roofline_s"] == pytest.approx(one["roofline_s"] + sent)


def test_replicas_multiply_work_and_throughput_not_time() -> None:
    one, two = total(), total(num_devices=2, data_parallel=2)
    assert two["flops"] == 2 * one["flops"]
    assert two["roofline_s"] == one["roofline_s"]
    assert two["output_tokens_per_s"] == 2 * one["output_tokens_per_s"]


def test_devices_without_stated_degrees_are_taken_as_tensor_parallel() -> None:
    stated, silent = total(num_devices=4, tensor_parallel=4), total(num_devices=4)
    assert silent["roofline_s"] == stated["roofline_s"]
    assert "tensor parallel" in silent["status_detail"]
    assert total(num_devices=4, tensor_parallel=2)["status"] == "unsupported"


def test_pcie_is_slower_than_the_direct_link_and_an_unknown_link_is_said() -> None:
    both = {"num_devices": 2, "tensor_parallel": 2}
    assert total(interconnect="pcie", **both)["communication_s"] > total(**both)["communication_s"]
    bare = {"d": {"memory_bandwidth_bytes_per_s": 1e12, "peak_fp16_flops_per_s": 1e14}}
    unknown = total(hardware_id="d", hardware=bare, **both)
    assert unknown["communication_s"] is None
    assert "communication is left out" in unknown["status_detail"]
    assert unknown["roofline_s"] > 0


# Peaks and verdicts


def test_the_activation_dtype_decides_the_peak_and_the_weight_dtype_the_bytes() -> None:
    prefill = {"phase": "prefill", "batch_size": 32, "attention": "flash"}
    half, weight_only, full = (
        total(weight_dtype=weight, activation_dtype=act, **prefill)
        for weight, act in (("fp16", "fp16"), ("int4", "fp16"), ("int8", "int8"))
    )
    assert weight_only["roofline_s"] <= half["roofline_s"]  # widening the weights hides behind their products
    assert weight_only["flops"] > half["flops"]
    assert weight_only["weights_bytes"] == half["weights_bytes"] / 4
    assert half["compute_s"] / 2 < full["compute_s"] < half["compute_s"]  # vector ops stay


def test_a_product_runs_in_the_wider_of_its_two_dtypes() -> None:
    wide, narrow = (total(weight_dtype=w, activation_dtype="int8", phase="prefill") for w in ("fp16", "int8"))
    half = total(weight_dtype="fp16", activation_dtype="fp16", phase="prefill")
    assert narrow["compute_s"] < wide["compute_s"] == half["compute_s"]
    cached = [
        total(weight_dtype="int8", activation_dtype="int8", kv_dtype=kv, batch_size=64)["compute_s"]
        for kv in ("int8", "fp16")
    ]
    assert cached[0] < cached[1]  # scores are products with keys


def test_a_dtype_without_units_is_refused_and_a_16_bit_float_runs_in_fp32() -> None:
    row = total(activation_dtype="fp8", weight_dtype="fp8", phase="prefill")
    assert row["status"] == "unsupported"
    assert (
        "'fp8' has no units on a100-sxm-80gb. It multiplies fp64, fp32, tf32, fp16, bf16, int8, int4"
        in row["status_detail"]
    )
    assert total(activation_dtype="fp16", weight_dtype="fp8", phase="prefill")["status"] == "ok"
    old = total(hardware_id="v100-sxm-16gb", activation_dtype="bf16", weight_dtype="bf16", phase="prefill")
    assert old["status"] == "ok"
    assert "no units for bf16: products run in fp32." in old["status_detail"]


def test_what_does_not_fit_gets_no_tokens_per_second() -> None:
    big, small = total(llm_id="llama-2-70b", hardware_id="a6000"), total(hardware_id="a6000")
    assert (big["is_fitting"], big["output_tokens_per_s"]) == (False, None)
    assert "does not fit" in big["status_detail"]
    assert big["roofline_s"] > 0
    assert small["is_fitting"] is True
    assert small["output_tokens_per_s"] > 0
    assert (
        total(hardware_id="d", hardware={"d": {"memory_bandwidth_bytes_per_s": 1e12, "peak_fp16_flops_per_s": 1e14}})[
            "is_fitting"
        ]
        is None
    )


# What is not said, or not known


def test_absent_values_are_assumed_and_said() -> None:
    row = total(attention=None, weight_dtype=None, activation_dtype=None, kv_dtype=None)
    explicit = total()
    assert {name: row[name] for name in WORK} == {name: explicit[name] for name in WORK}
    assert explicit["status_detail"] is None
    for part in ("attention is not stated: eager", "weight_dtype is not stated: fp16", "activation_dtype is not stated: fp16",
                 "kv_dtype is not stated"):  # fmt: skip
        assert part in row["status_detail"]
    assert row["attention"] is row["weight_dtype"] is None


def test_activations_follow_floating_point_weights() -> None:
    assert total(weight_dtype="fp32", activation_dtype=None)["kv_cache_bytes"] == total()["kv_cache_bytes"]
    assert "activation_dtype is not stated: fp32" in total(weight_dtype="fp32", activation_dtype=None)["status_detail"]
    assert "activation_dtype is not stated: fp16" in total(weight_dtype="int8", activation_dtype=None)["status_detail"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"phase": "serve"}, "phase 'serve' is not modelled"),
        ({"phase": "microbench"}, "not modelled"),
        ({"phase": None}, "phase is NULL"),
        ({"llm_id": None}, "llm_id is NULL"),
        ({"hardware_id": None}, "hardware_id is NULL"),
        ({"llm_id": "bert-base"}, "an encoder has no decode"),
        ({"context_tokens": None, "input_tokens": 5}, "decode needs context_tokens"),
        ({"batch_size": None}, "decode needs batch_size"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"weight_dtype": "w4a16"}, "weight_dtype 'w4a16' is unknown"),
        ({"activation_dtype": "fp64", "hardware_id": "t4"}, "'fp64' has no units on t4"),
        ({"tensor_parallel": 0}, "tensor_parallel must be 1 or more"),
        ({"tensor_parallel": 3, "num_devices": 3}, "must divide the 32 attention heads of llama-2-7b: 1, 2, 4"),
        ({"pipeline_parallel": 33, "num_devices": 33}, "more than the 32 layers"),
        ({"expert_parallel": 2}, "needs routed experts, which llama-2-7b has not"),
    ],
)
def test_a_configuration_without_an_answer_is_a_row_with_a_reason(values: dict[str, Any], said: str) -> None:
    totals, ops = run([config(), config(**values)])
    assert totals[0]["status"] == "ok"
    assert totals[1]["status"] == "unsupported"
    assert said in totals[1]["status_detail"]
    assert [
        name
        for name in (*WORK, "memory_peak_bytes", "is_fitting", "bound", "output_tokens_per_s")
        if totals[1][name] is not None
    ] == []
    assert {op["config_row"] for op in ops} == {0}


@pytest.mark.parametrize("ruleset", RULESETS)
def test_an_unknown_name_is_an_error_naming_the_known_ones(ruleset: str) -> None:
    with pytest.raises(UnknownEntryError, match=r"'h1000' is not in the hardware catalogue. Known: .*a100"):
        evaluate(table(config(hardware_id="h1000")), ruleset)
    with pytest.raises(UnknownEntryError, match=r"'gpt-9' is not in the LLM catalogue. Known: .*llama-2-7b"):
        evaluate(table(config("gpt-9")), ruleset)


def test_bad_calls_are_refused_with_what_is_known() -> None:
    with pytest.raises(ValueError, match=r"'calculon' is not a ruleset\. Known: default, llmviewer-472f71f"):
        evaluate(table(config()), "calculon")
    with pytest.raises(ValueError, match="'batch_size' must be a number"):
        evaluate(table(config(batch_size="two")))
    with pytest.raises(ValueError, match="'phase' must be text"):
        evaluate(pa.table({"phase": [1]}))
    with pytest.raises(ValueError, match="'d' has no memory_bandwidth_bytes_per_s"):
        total(hardware_id="d", hardware={"d": {"peak_fp16_flops_per_s": 1e12}})
    with pytest.raises(ValueError, match="memory_bandwidth_bytes_per_s must be a positive number"):
        total(hardware={"a100-sxm-80gb": {"memory_bandwidth_bytes_per_s": 0}})


def test_rows_brought_along_extend_and_override_the_catalogue() -> None:
    ours = {"hardware_id": "d", "memory_bandwidth_bytes_per_s": 1e12, "peak_fp16_flops_per_s": 1e14}
    theirs = {"name": "d", "bandwidth_bytes_per_s": "1e12", "fp16_flops_per_s": "1e14", "int8_flops_per_s": ""}
    times = [
        total(hardware_id="d", hardware=rows)["roofline_s"]
        for rows in ([ours], [theirs], {"d": ours}, pa.Table.from_pylist([ours]))
    ]
    assert len(set(times)) == 1
    faster = total(hardware={"a100-sxm-80gb": {"memory_bandwidth_bytes_per_s": 2 * A100.memory_bandwidth_bytes_per_s}})
    assert faster["memory_s"] == total()["memory_s"] / 2
    assert faster["compute_s"] == total()["compute_s"]


def test_other_columns_are_carried_and_no_rows_are_fine() -> None:
    configs = table(config() | {"run_id": "r1", "status": "oom"})
    totals, _ = evaluate(configs)
    assert totals["run_id"].to_pylist() == ["r1"]
    assert totals["status"].to_pylist() == ["ok"]
    assert totals.select(["llm_id", "batch_size"]).equals(configs.select(["llm_id", "batch_size"]))
    empty, no_ops = evaluate(configs.slice(0, 0))
    assert (empty.num_rows, no_ops.num_rows) == (0, 0)
    assert empty.column_names == totals.column_names
