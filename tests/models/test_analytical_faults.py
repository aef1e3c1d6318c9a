"""Faults of other analytical tools, verified by running them, each with the proof that the default ruleset does not have it.

LLM-Viewer at 472f71f, llm-analysis at d841e40, GenZ at 091bdd0; the numbers of the first are its own numbering by size.
"""

from __future__ import annotations

import pytest
from analytical_rows import Row, answers, config, op_of, ops, total, totals, work

from warehouse import catalog
from warehouse.catalog.llm import Llm, parameter_count

LLMS = catalog.llms()
HARDWARE = catalog.hardware()
A100 = catalog.find_hardware("a100-sxm-80gb")


# LLM-Viewer


def test_llmviewer_1_the_head_counts_two_flops_a_multiply_add_and_every_sequence() -> None:
    """LLM-Viewer: 4.19 GFLOP for 8.39 at batch 32; 64,000 bytes written for 2,048,000."""
    head = op_of(ops(batch_size=32), "lm_head")
    assert head["flops"] == 2 * 32 * 4096 * 32000 == 8_388_608_000
    assert head["activation_bytes_written"] == 32 * 32000 * 2 == 2_048_000
    assert head["activation_bytes_read"] == 32 * 4096 * 2


@pytest.mark.parametrize("tokens", [1024, 2048, 4096])
def test_llmviewer_2_fused_attention_writes_its_output_not_scores(tokens: int) -> None:
    """LLM-Viewer: s x s for s x d, twice: 16 times too much at 1024, and traffic still grows with the square."""
    attention = op_of(ops(phase="prefill", input_tokens=tokens), "attention")
    assert attention["activation_bytes_written"] == tokens * 4096 * 2
    assert attention["bytes_moved"] == 4 * tokens * 4096 * 2  # queries, keys, values, output


def test_llmviewer_2_fused_attention_moves_a_small_part_of_what_eager_moves() -> None:
    """LLM-Viewer: 0.92-0.99 of the traffic without FlashAttention; batch 32 x 2048 moves 2.2-2.5 times the truth."""
    sizes = {"phase": "prefill", "batch_size": 32, "input_tokens": 2048}
    fused, eager = (total(attention=kind, **sizes)["bytes_moved"] for kind in ("flash", "eager"))
    assert fused < eager / 2
    assert eager - fused == 32 * 32 * (4 * 32 * 2048 * 2048 * 2)  # layers, batch: scores written and read, twice


def test_llmviewer_3_grouped_keys_are_read_once_a_group() -> None:
    """LLM-Viewer with FlashAttention: a 70B at batch 32, context 2048 takes 153 ms for 78.8 (1.94 times); Llama-3-8B 2.08 times."""
    for attention in ("flash", "eager"):
        row = total("llama-2-70b", batch_size=32, context_tokens=2048, attention=attention)
        assert row["kv_bytes_read"] == row["kv_cache_bytes"] == 80 * 32 * 2048 * 2 * 8 * 128 * 2
    fused = total("llama-2-70b", batch_size=32, context_tokens=2048)
    assert fused["roofline_s"] == pytest.approx(78.8e-3, rel=2e-3)
    for llm_id in ("llama-3-8b", "chatglm3-6b"):
        llm = LLMS[llm_id]
        row = total(llm_id, context_tokens=2048)
        assert row["kv_bytes_read"] == llm.num_layers * 2048 * 2 * llm.num_kv_heads * llm.head_dim * 2


@pytest.mark.parametrize("llm_id", ["opt-1.3b", "opt-6.7b", "opt-13b"])
def test_llmviewer_4_an_opt_has_no_gate(llm_id: str) -> None:
    """LLM-Viewer: weights + 22 % to + 31 %, decode + 31 %."""
    rows, llm = ops(llm_id), LLMS[llm_id]
    assert "gate_proj" not in {op["op_kind"] for op in rows}
    up = op_of(rows, "up_proj")
    assert up["weight_bytes_read"] == 2 * (llm.hidden_size * llm.intermediate_size + llm.intermediate_size)
    row = total(llm_id)
    assert row["weights_bytes"] == 2 * parameter_count(llm) == pytest.approx(2 * (llm.num_parameters or 0), rel=1e-3)
    assert row["weight_bytes_read"] < row["weights_bytes"]


def test_llmviewer_5_the_activation_has_the_intermediate_width() -> None:
    """LLM-Viewer: the hidden width, 16.8 MB for 45.1 of Llama-2-7B at 2048 tokens."""
    activation = op_of(ops(phase="prefill", input_tokens=2048), "activation")
    assert activation["activation_bytes_written"] == 2048 * 11008 * 2 == 45_088_768
    assert activation["activation_bytes_read"] == 2 * 45_088_768  # gate and up


def test_llmviewer_6_a_prompt_reads_the_queries_of_all_heads() -> None:
    """LLM-Viewer: those of the KV heads, 4.2 MB for 33.6 of a 70B at 2048 tokens."""
    for attention, ending in (("flash", "attention"), ("eager", "scores")):
        attended = op_of(ops("llama-2-70b", "prefill", input_tokens=2048, attention=attention), ending)
        assert attended["activation_bytes_read"] == 2048 * 64 * 128 * 2 == 33_554_432


@pytest.mark.parametrize(("llm_id", "weights"), [("llama-2-7b", 13_476_831_232), ("llama-3-8b", 16_060_522_496)])
def test_llmviewer_7_memory_holds_embedding_and_head(llm_id: str, weights: int) -> None:
    """LLM-Viewer: 12.95 GB for 13.48 of Llama-2-7B, 0.869 of Llama-3-8B."""
    row = total(llm_id)
    assert row["weights_bytes"] == weights
    assert row["memory_peak_bytes"] == weights + row["kv_cache_bytes"] + row["activation_peak_bytes"]


def test_llmviewer_8_activations_are_a_peak_with_logits_not_a_sum() -> None:
    """LLM-Viewer: everything that one layer writes, added up, without logits."""
    (whole,), (rows,) = answers([config(phase="prefill", input_tokens=2048)])
    written = [op["activation_bytes_written"] + op["kv_bytes_written"] for op in rows]
    assert max(written) < whole["activation_peak_bytes"] < sum(written) / 2
    many = total("gpt2", "forward", batch_size=8, input_tokens=1024)  # 50257 scores a token outweigh every layer
    assert many["activation_peak_bytes"] >= many["logits_bytes"] == 8 * 1024 * 50257 * 2


def test_llmviewer_9_a_generation_holds_its_memory_once_and_draws_every_op_once() -> None:
    """LLM-Viewer's chat: memory added up over tokens, 1,710 GB for a 7B with 512 + 128; 35 nodes, 17 of them distinct."""
    (chat, prompt, last), (rows, _, _) = answers(
        [
            config(phase="generate", input_tokens=512, output_tokens=128),
            config(phase="prefill", input_tokens=512),
            config(context_tokens=512 + 127),
        ]
    )
    assert chat["memory_peak_bytes"] < 15e9
    assert chat["kv_cache_bytes"] == last["kv_cache_bytes"]
    assert chat["activation_peak_bytes"] == max(prompt["activation_peak_bytes"], last["activation_peak_bytes"])
    paths = [(op["phase"], op["path"]) for op in rows]
    assert len(paths) == len(set(paths))
    assert work([op for op in rows if op["phase"] == "prefill"], "flops") == prompt["flops"] < chat["flops"]


def test_llmviewer_10_every_llm_device_and_dtype_has_an_answer_or_a_sentence() -> None:
    """LLM-Viewer: KeyError for GPT-J with FlashAttention, and for 8 bits on a CPU."""
    dtypes = [("fp16", "fp16"), ("bf16", "bf16"), ("int8", "int8"), ("int4", "int4"), ("int4", "fp16"), ("fp8", "fp8")]
    rows = [
        config(
            llm_id, "forward", hardware_id=device.hardware_id, weight_dtype=weight, activation_dtype=act, kv_dtype=None,
            input_tokens=64, output_tokens=64,
        )
        for llm_id in LLMS
        for device in HARDWARE.values()
        for weight, act in dtypes
    ]  # fmt: skip
    for row in totals(rows):
        if row["status"] == "ok":
            assert row["roofline_s"] > 0
        else:
            assert row["status"] == "unsupported"
            assert f"'{row['activation_dtype']}' has no units on {row['hardware_id']}" in row["status_detail"]
    assert total("gpt-j-6b", "prefill")["status"] == "ok"
    processor = {"hardware_id": "core-i9-13900k", "weight_dtype": "int8"}
    assert total(activation_dtype="int8", **processor)["status"] == "unsupported"
    assert total(activation_dtype="fp32", **processor)["status"] == "ok"  # eight bits of storage


def test_llmviewer_11_vector_work_runs_at_the_vector_peak() -> None:
    """LLM-Viewer: softmax and norms at the peak of the tensor cores."""
    device = {
        "d": {"memory_bandwidth_bytes_per_s": 1e18, "peak_fp16_flops_per_s": 1e15, "vector_fp32_flops_per_s": 1e12}
    }
    rows = ops(phase="prefill", attention="eager", hardware_id="d", options={"hardware": device})
    for op in rows:
        rate = 1e15 if op["m"] is not None else 1e12
        assert op["roofline_s"] == pytest.approx(op["flops"] / rate, rel=1e-3) or op["op_kind"] == "embedding", op


def test_llmviewer_11_the_causal_mask_halves_fused_attention() -> None:
    """LLM-Viewer: all s x s pairs."""
    tokens = 2048
    attention = op_of(ops(phase="prefill", input_tokens=tokens), "attention")
    assert attention["flops"] == 32 * tokens * (tokens + 1) / 2 * (4 * 128 + 5)


def test_llmviewer_11_kernels_take_time_to_start_and_collectives_to_send() -> None:
    """LLM-Viewer: neither launches nor communication."""
    eager = total(batch_size=1, context_tokens=1, attention="eager", execution="eager")
    assert eager["launch_s"] > 0
    assert eager["estimate_s"] > eager["roofline_s"]
    assert total(tensor_parallel=2)["communication_s"] > 0


def test_llmviewer_11_four_bits_multiply_at_the_four_bit_peak() -> None:
    """LLM-Viewer: 624 TOPS of an A100 for w4a4, which has 1248."""
    sizes: Row = {"phase": "prefill", "batch_size": 8, "input_tokens": 2048}
    product = op_of(ops(weight_dtype="int4", activation_dtype="int4", **sizes), "up_proj")
    assert product["roofline_s"] == pytest.approx(product["flops"] / 1248e12)


def test_llmviewer_12_an_explicit_head_width_is_taken() -> None:
    """LLM-Viewer: hidden / heads, 64 for the 128 of Qwen3-0.6B."""
    llm = LLMS["qwen3-0.6b"]
    assert llm.head_dim == 128 != llm.hidden_size // llm.num_heads
    row = total("qwen3-0.6b", context_tokens=100)
    assert row["kv_cache_bytes"] == 28 * 100 * 2 * 8 * 128 * 2
    assert op_of(ops("qwen3-0.6b"), "q_proj")["n"] == 16 * 128
    with pytest.raises(catalog.UnknownEntryError):  # an LLM is its id, not what a path contains
        total("folder/llama-2-7b-opt")


def test_llmviewer_13_device_numbers_are_the_datasheets() -> None:
    """LLM-Viewer: 3072 GB/s for an H100 SXM, and an 'A100' that is the one with 40 GB."""
    assert catalog.find_hardware("h100-sxm").memory_bandwidth_bytes_per_s == 3350e9
    both = [catalog.find_hardware(f"a100-sxm-{size}gb") for size in (40, 80)]
    assert [device.memory_bandwidth_bytes_per_s for device in both] == [1555e9, 2039e9]


def test_llmviewer_later_tensor_parallel_divides_attention_and_cache_and_reduces() -> None:
    """LLM-Viewer's later tp_size: linear layers alone; heads, cache and activations are whole, and nothing is sent."""
    (one, two), (before, after) = answers([config(), config(tensor_parallel=2)])
    assert two["kv_cache_bytes"] == one["kv_cache_bytes"] / 2
    assert (
        op_of(after, "self_attn.attention")["flops"] == op_of(before, "self_attn.attention")["flops"]
    )  # of both devices
    assert two["activation_peak_bytes"] < one["activation_peak_bytes"]
    assert sum(op["count"] for op in after if op["op_kind"] == "all_reduce") == 2 * 32 + 1


def test_boundness_is_a_side_of_the_ridge_and_no_point_is_above_its_roof() -> None:
    """The text of chilka-nyu: 'points above the roofline are compute-bound'."""
    rows = [config(phase=phase, batch_size=batch) for phase in ("prefill", "decode") for batch in (1, 512)]
    ridge = A100.peaks["fp16"] / A100.memory_bandwidth_bytes_per_s
    for row in totals(rows):
        roof = min(A100.peaks["fp16"], row["arithmetic_intensity"] * A100.memory_bandwidth_bytes_per_s)
        assert row["flops"] / row["roofline_s"] <= roof * (1 + 1e-12)
        assert row["bound"] == ("compute" if row["arithmetic_intensity"] >= ridge else "memory")


# llm-analysis


def test_llm_analysis_1_the_cache_is_read_once_and_at_its_length() -> None:
    """llm-analysis: twice, 11.05 ms for 5.52, and at the final length for every token."""
    step = total(batch_size=8, context_tokens=2048)
    assert step["kv_bytes_read"] == 32 * 8 * 2048 * 2 * 4096 * 2
    chat = total(phase="generate", input_tokens=100, output_tokens=50)
    read = 32 * 2 * 4096 * 2 * (100 + sum(range(101, 150)))
    assert chat["kv_bytes_read"] == pytest.approx(read)


def test_llm_analysis_2_flops_of_a_step_grow_with_its_context() -> None:
    """llm-analysis: the same for 128 and 2000 tokens."""
    near, far = (total(context_tokens=length)["flops"] for length in (128, 2000))
    assert far - near == 32 * 32 * (2000 - 128) * (4 * 128 + 5)


def test_llm_analysis_3_replicas_cost_inference_nothing() -> None:
    """llm-analysis: dp_size 8 takes a 7B step from 8.85 to 38.3 ms."""
    one, eight = (total(data_parallel=replicas) for replicas in (1, 8))
    assert eight["roofline_s"] == one["roofline_s"]
    assert eight["estimate_s"] == one["estimate_s"]
    assert eight["communication_s"] == 0


@pytest.mark.parametrize(("width", "is_gated"), [(1024, True), (2048, True), (1792, True), (1024, False)])
def test_llm_analysis_4_any_mlp_width_loads_and_the_architecture_says_whether_it_is_gated(
    width: int, is_gated: bool
) -> None:
    """llm-analysis: UnboundLocalError for any ratio but 3.5, which is taken to mean gated."""
    names = {"vocab_size": 100, "num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 512}
    keys = {"model_type": "llama", "intermediate_size": width} if is_gated else {"model_type": "opt", "ffn_dim": width, "max_position_embeddings": 2048, "word_embed_proj_dim": 512}  # fmt: skip
    llm = Llm.from_config("any", names | keys)
    rows = ops("any", options={"llms": [llm]})
    assert ("gate_proj" in {op["op_kind"] for op in rows}) is is_gated
    assert op_of(rows, "up_proj")["n"] == width


def test_llm_analysis_5_llama_2_7b_is_gated_at_11008() -> None:
    """llm-analysis: a shipped file with 16384 and no gate."""
    rows = ops()
    assert {op_of(rows, name)["n"] for name in ("gate_proj", "up_proj")} == {11008}
    assert op_of(rows, "down_proj")["k"] == 11008


def test_llm_analysis_6_experts_multiply_for_the_chosen_and_are_read_when_met() -> None:
    """llm-analysis: FLOPs whatever top_k; every step reads all experts."""
    row = config("mixtral-8x7b")
    one_expert = 3 * 4096 * 14336
    (_,), (single,) = answers([row])
    assert work(single, "flops", "experts") == 32 * 2 * 2 * one_expert
    assert work(single, "weight_bytes_read", "experts") == pytest.approx(32 * 2 * one_expert * 2)
    _, (many,) = answers([row | {"batch_size": 64}])
    assert work(many, "flops", "experts") == 64 * work(single, "flops", "experts")
    assert work(many, "weight_bytes_read", "experts") == pytest.approx(32 * 8 * (1 - 0.75**64) * one_expert * 2)


def test_llm_analysis_7_the_head_reads_its_weights_and_the_embedding_rows() -> None:
    """llm-analysis: 0.0008 ms for 0.169 on an A100 40 GB; the embedding reads all its table; every head is taken as tied."""
    rows = ops(hardware_id="a100-sxm-40gb")
    assert op_of(rows, "lm_head")["roofline_s"] == pytest.approx(0.169e-3, rel=5e-3)
    assert op_of(rows, "embed_tokens")["weight_bytes_read"] == 4096 * 2
    for llm_id, tables in (("llama-2-7b", 2), ("llama-3.2-1b", 1)):
        llm = LLMS[llm_id]
        layers = work([op for op in ops(llm_id) if ".layers." in f".{op['path']}"], "weight_bytes_read")
        rest = total(llm_id)["weights_bytes"] - layers - 2 * llm.hidden_size
        assert rest == pytest.approx(2 * tables * llm.vocab_size * llm.hidden_size)


def test_llm_analysis_8_a_dtype_without_units_is_a_row_not_a_division_by_zero() -> None:
    """llm-analysis: V100 int8 = 0 -> ZeroDivisionError; an A10 of 28 GB, a 16 GB V100 of 32."""
    eight = {"weight_dtype": "int8", "activation_dtype": "int8", "kv_dtype": "int8"}
    row = total(hardware_id="v100-sxm-16gb", **eight)
    assert row["status"] == "unsupported"
    assert "'int8' has no units on v100-sxm-16gb. It multiplies fp64, fp32, fp16" in row["status_detail"]
    assert row["roofline_s"] is None
    assert "int8" not in catalog.find_hardware("v100-sxm-16gb").peaks
    assert catalog.find_hardware("v100-sxm-16gb").memory_bytes == 16 * 2**30
    assert catalog.find_hardware("a10").memory_bytes == 24 * 2**30


def test_llm_analysis_8_a_bridge_reaches_two_devices() -> None:
    """llm-analysis: 300 GB/s among any number of PCIe A100s; a bridge joins two, four meet over PCIe."""
    device = catalog.find_hardware("a100-pcie-80gb").row
    sent = []
    for devices in (2, 4):
        reduce = op_of(ops(hardware_id="a100-pcie-80gb", tensor_parallel=devices), "mlp.all_reduce")
        sent.append(2 * (devices - 1) / devices * 4096 * 2 / reduce["roofline_s"])
    assert sent == pytest.approx([device["link_bandwidth_bytes_per_s"], device["host_link_bandwidth_bytes_per_s"]])


def test_llm_analysis_9_recomputation_is_not_flash_attention() -> None:
    """llm-analysis passes activation_recomputation where flash_attn is expected."""
    sizes: Row = {"phase": "pretrain_step", "input_tokens": 512, "attention": "eager"}
    plain, again = (ops(optimizations=names, **sizes) for names in ([], ["recompute"]))
    assert "softmax" in {op["op_kind"] for op in again}
    assert work(again, "flops") > work(plain, "flops")


def test_llm_analysis_10_norms_read_and_write_in_the_dtype_of_activations() -> None:
    """llm-analysis: one read, in whatever dtype."""
    for dtype, size in (("fp16", 2), ("fp32", 4)):
        norm = op_of(ops(phase="prefill", input_tokens=100, weight_dtype=dtype, activation_dtype=dtype), "input_norm")
        assert norm["activation_bytes_read"] == norm["activation_bytes_written"] == 100 * 4096 * size


# GenZ


def test_genz_1_bandwidth_is_decimal() -> None:
    """GenZ reads GB/s as GiB/s: 2039 -> 2.189e12 B/s, 7.4 % too fast."""
    row = total()
    assert row["memory_s"] == pytest.approx(row["bytes_moved"] / 2039e9)


def test_genz_2_an_embedding_is_no_product_and_a_prompt_needs_one_row_of_logits() -> None:
    """GenZ: 12.3 % of a Llama-3.1-8B prefill goes to both."""
    rows = ops("llama-3.1-8b", "prefill", input_tokens=1024)
    embedding, head = op_of(rows, "embed_tokens"), op_of(rows, "lm_head")
    assert (embedding["flops"], embedding["m"]) == (0, None)
    assert head["m"] == 1
    assert head["flops"] == 2 * 4096 * 128256
    assert (embedding["roofline_s"] + head["roofline_s"]) / work(rows, "roofline_s") < 0.02


def test_genz_3_energy_is_at_most_tdp_times_time() -> None:
    """GenZ: 126 J for a step that cannot exceed 2.5 J at 400 W."""
    row = total()
    assert 0 < row["energy_j"] <= 400 * row["estimate_s"]
    assert row["energy_j"] < 6
    assert row["energy_per_output_token_j"] == row["energy_j"]


def test_genz_4_a_larger_batch_meets_more_experts() -> None:
    """GenZ: 224 MB a layer at batch 1, 8 and 64, always top_k; all eight are 896."""
    read = []
    for batch in (1, 8, 64):
        rows = ops("mixtral-8x7b", batch_size=batch, weight_dtype="fp8")
        read.append(sum(op["weight_bytes_read"] for op in rows if op["op_kind"] == "experts"))
    whole = 8 * 3 * 4096 * 14336
    assert read == pytest.approx([whole * (1 - 0.75**batch) for batch in (1, 8, 64)])
    assert read[0] == pytest.approx(whole / 4)
    assert read[2] == pytest.approx(whole, rel=1e-6)


def test_genz_5_deepseek_v3_holds_its_experts_and_one_latent() -> None:
    """GenZ: 738,774 MB a rank, with the dense width for experts, for some 80,000; two KV heads of 56 for the latent.

    Eight ranks in fp8, experts and heads divided: an eighth of 671 GB, and what every rank holds whole.
    """
    row = total(
        "deepseek-v3", hardware_id="h200", weight_dtype="fp8", tensor_parallel=8, expert_parallel=8, batch_size=8
    )
    experts = 58 * 256 * 3 * 7168 * 2048
    assert experts / 8 == pytest.approx(81.7e9, rel=1e-3)
    assert experts / 8 < row["weights_bytes"] < 1.02 * parameter_count(LLMS["deepseek-v3"]) / 8
    assert row["kv_cache_bytes"] == 61 * 8 * 512 * (512 + 64) * 2
    assert row["is_fitting"] is True


def test_genz_6_peaks_are_dense_and_widths_the_published() -> None:
    """GenZ: GH200 and Blackwell mix sparse and FP8 numbers; an OPT-13B of hidden size 5140."""
    assert catalog.find_hardware("gh200").peaks["fp16"] == pytest.approx(989.4e12)
    for name, dense in (("b200", 2250e12), ("gb200", 2500e12)):
        peaks = catalog.find_hardware(name).peaks
        assert (peaks["fp16"], peaks["fp8"]) == (dense, 2 * dense)
    assert LLMS["opt-13b"].hidden_size == 5120


def test_genz_7_flops_are_two_a_multiply_add_and_rates_are_of_tokens() -> None:
    """GenZ: four beams by default, a 'MACs' column that holds FLOPs, a prefill 'throughput' of requests."""
    (row,), (rows,) = answers([config(phase="prefill", batch_size=4)])
    for op in rows:
        if op["m"] is not None and op["op_kind"] not in ("attention", "attention_scores", "attention_values"):
            assert op["flops"] == 2 * op["m"] * op["n"] * op["k"]
    assert row["total_tokens_per_s"] == pytest.approx(4 * 512 / row["roofline_s"])
    assert row["output_tokens_per_s"] is None
    step = total(batch_size=4)
    assert step["output_tokens_per_s"] == pytest.approx(4 / step["roofline_s"])
    assert step["kv_cache_bytes"] == 32 * 4 * 512 * 2 * 4096 * 2  # one sequence a request, no beams


def test_genz_8_every_op_between_the_products_exists() -> None:
    """GenZ: no norm, softmax, rope, residual or activation."""
    kinds = {op["op_kind"] for op in ops(attention="eager")}
    assert {"norm", "softmax", "rope", "residual_add", "activation", "embedding"} <= kinds
    assert all(op["bytes_moved"] > 0 for op in ops(attention="eager"))


@pytest.mark.parametrize("model_type", ["jamba", "bamba", "falcon_mamba", "zamba2", "nemotron_h", "rwkv"])
def test_genz_8_a_state_space_hybrid_is_refused_by_name(model_type: str) -> None:
    """GenZ raises from within for Jamba."""
    with pytest.raises(
        ValueError, match=rf"'mine': a {model_type} has .*, which have no closed form here\. Known: .*llama"
    ):
        Llm.from_config("mine", {"model_type": model_type})
