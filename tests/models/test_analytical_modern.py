"""Mixtures of experts, latent attention, windows: counted like the real models, equal to closed forms, for the whole catalogue."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from analytical_rows import Row, answers, config, op_of, ops, total, totals, work
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse import catalog
from warehouse.catalog.llm import Llm, active_parameter_count, parameter_count

LLMS = catalog.llms()
H200 = catalog.find_hardware("h200")
SMALL = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 128, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = EXPERTS | {
    "num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention"] * 2
TINY: dict[str, Row] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": EXPERTS | {"num_experts": 8, "shared_expert_intermediate_size": 48, "decoder_sparse_step": 1},
    "qwen3_moe": EXPERTS | {"num_experts": 8, "head_dim": 16, "decoder_sparse_step": 1, "mlp_only_layers": [0]},
    "deepseek_v2": LATENT | {"q_lora_rank": None, "topk_method": "greedy"},
    "deepseek_v3": LATENT | {"q_lora_rank": 24},
    "glm4_moe": EXPERTS | {"n_routed_experts": 8, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "head_dim": 16},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "minimax_m2": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 8, "layer_types": MIXED},
    "llama4_text": {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 80, "head_dim": 16, "interleave_moe_layer_step": 2, "attention_chunk_size": 8},
    "gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8},
    "mistral": {"head_dim": 24, "sliding_window": 8},
    "phi3": {}, "glm4": {"head_dim": 16}, "olmo2": {}, "cohere": {}, "granite": {}, "stablelm": {}, "starcoder2": {},
}  # fmt: skip


def tiny(model_type: str) -> Llm:
    """A small LLM of a kind."""
    return Llm.from_config(model_type, SMALL | {"model_type": model_type} | TINY[model_type])


def products(rows: list[Row]) -> float:
    """FLOPs of all matrix products."""
    return sum(op["flops"] * op["count"] for op in rows if op["m"] is not None)


@pytest.mark.parametrize("model_type", TINY)
def test_matrix_flops_are_what_torch_counts(model_type: str) -> None:
    """Forward pass of the real architecture, in which every expert takes the tokens that are sent to it."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    llm, batch, tokens = tiny(model_type), 2, 24
    keys = dict(llm.config)
    settings_ = transformers.AutoConfig.for_model(keys.pop("model_type"), **keys)
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_config(settings_, **eager).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randint(0, llm.vocab_size, (batch, tokens)), use_cache=False)
    angles = sum(
        sum(kinds.values()) for path, kinds in counter.get_flop_counts().items() if path.endswith("rotary_emb")
    )

    rows = ops(model_type, "forward", batch_size=batch, input_tokens=tokens, attention="eager", options={"llms": [llm]})

    idle = 0.0  # Llama 4 in transformers sends every token to every expert, and drops what was not asked for
    if model_type == "llama4_text":
        layers = sum(kind.count for kind in llm.layer_kinds if kind.is_moe)
        idle = layers * (llm.num_experts - 1) * batch * tokens * 2 * 3 * llm.hidden_size * llm.expert_size
    assert products(rows) == counter.get_total_flops() - angles - idle
    counted = sum(parameter.numel() for parameter in model.parameters())
    counted += sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith("score_correction_bias"))
    assert parameter_count(llm) == counted


# Mixtures of experts


@settings(deadline=None, max_examples=25)
@given(
    llm_id=st.sampled_from(["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3", "llama-4-scout", "gpt-oss-20b"]),
    batch=st.integers(1, 3000), devices=st.sampled_from([1, 2, 4]), is_spread=st.booleans(),
)  # fmt: skip
def test_experts_that_a_step_meets_are_expected_distinct_ones(
    llm_id: str, batch: int, devices: int, is_spread: bool
) -> None:
    """E (1 - (1 - k / E)^T) of all devices together, whether their widths are divided or the experts are."""
    llm = LLMS[llm_id]
    row = config(llm_id, batch_size=batch, tensor_parallel=devices, expert_parallel=devices if is_spread else 1)
    (_,), (found,) = answers([row])
    met = llm.num_experts * (1 - (1 - llm.experts_per_token / llm.num_experts) ** batch)
    one = 3 * llm.hidden_size * llm.expert_size
    biases = (2 * llm.expert_size + llm.hidden_size) * llm.has_expert_bias
    read = work(found, "weight_bytes_read", "experts") / 2
    layers = sum(kind.count for kind in llm.layer_kinds if kind.is_moe)
    whole = layers * met * (one + biases)
    repeated = layers * met * llm.hidden_size * llm.has_expert_bias * (0 if is_spread else devices - 1)  # the last bias
    assert read == pytest.approx(whole + repeated, rel=1e-9)
    flops = work(found, "flops", "experts")
    assert flops == pytest.approx(2 * layers * batch * llm.experts_per_token * one)


def test_expected_distinct_experts_are_those_of_a_draw() -> None:
    """400 draws of 8 of 128 experts by each of 24 tokens."""
    chance, tokens = np.random.default_rng(7), 24
    drawn = [len(np.unique([chance.permutation(128)[:8] for _ in range(tokens)])) for _ in range(400)]
    up = op_of(ops("qwen3-30b-a3b", batch_size=tokens), "experts.up_proj")
    met = up["weight_bytes_read"] / 2 / (2 * 2048 * 768)
    error = np.std(drawn) / math.sqrt(len(drawn))
    assert abs(met - np.mean(drawn)) < 4 * error
    assert met == pytest.approx(128 * (1 - (15 / 16) ** 24))


def test_where_every_expert_is_chosen_every_device_reads_its_own() -> None:
    llm = Llm.from_config("all", SMALL | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 4})
    for devices in (1, 2, 4):
        rows = ops("all", tensor_parallel=2, data_parallel=2, expert_parallel=devices, options={"llms": [llm]})
        replicas = 4 / max(devices, 2)
        assert work(rows, "weight_bytes_read", "experts") == 4 * replicas * 4 * 3 * 64 * 96 * 2  # layers, experts


def test_shared_experts_are_met_by_every_token() -> None:
    llm = LLMS["qwen1.5-moe-a2.7b"]
    rows = ops("qwen1.5-moe-a2.7b", batch_size=5)
    shared = [op for op in rows if "shared_experts" in op["path"] and op["m"] is not None]
    assert sum(op["flops"] for op in shared) == 2 * 5 * 2048 * (3 * llm.shared_expert_size + 1)  # and their gate


# Latent attention


def test_a_step_of_latent_attention_by_hand() -> None:
    """Width 64, 4 layers, 4 heads of 16 + 8 over a latent of 16 + 8, values of 12, queries through 24; batch 3, context 10."""
    llm = tiny("deepseek_v3")
    rows = ops("deepseek_v3", batch_size=3, context_tokens=10, attention="eager", options={"llms": [llm]})
    attention = [op for op in rows if ".self_attn." in op["path"] and op["m"] is not None]
    one = 64 * 24 + 24 * 4 * 24  # queries, down and up
    one += 64 * 24  # the latent and the rotated key
    one += 4 * 16 * 16 + 4 * 16 * 12  # expansion of keys into queries, of values into results
    one += 4 * 12 * 64  # output
    scores = 4 * (16 + 8) * 10 + 4 * 16 * 10  # with all the latent, and of its first 16
    assert work(attention, "flops") == 4 * 3 * 2 * (one + scores)
    assert work(attention, "weight_bytes_read") == 4 * 2 * one
    whole = total("deepseek_v3", batch_size=3, context_tokens=10, attention="flash", options={"llms": [llm]})
    assert whole["kv_cache_bytes"] == 4 * 3 * 10 * (16 + 8) * 2
    assert whole["kv_bytes_read"] == whole["kv_cache_bytes"]  # once, for keys and values alike
    assert whole["kv_bytes_written"] == 4 * 3 * (16 + 8) * 2


def test_a_prompt_expands_the_latents_that_it_finds_cached() -> None:
    llm = LLMS["deepseek-v2-lite"]
    row = config("deepseek-v2-lite", "prefill", input_tokens=100, prefix_tokens=300, kv_dtype="fp8")
    (whole,), (found,) = answers([row])
    dense, rank = [op for op in found if op["path"].endswith("kv_b_proj")], llm.kv_lora_rank
    assert {op["m"] for op in dense} == {400}
    assert {op["k"] for op in dense} == {rank}
    assert whole["kv_bytes_read"] == 27 * 400 * (512 + 64) * 1
    assert whole["kv_bytes_written"] == 27 * 100 * (512 + 64) * 1


def test_every_device_holds_the_whole_latent() -> None:
    one, eight = (total("deepseek-v3", tensor_parallel=devices) for devices in (1, 8))
    assert eight["kv_cache_bytes"] == one["kv_cache_bytes"] == 61 * 512 * 576 * 2
    assert eight["kv_bytes_read"] == 8 * one["kv_bytes_read"]


# Windows


@pytest.mark.parametrize(
    ("llm_id", "full", "limited", "window"), [("gpt-oss-20b", 12, 12, 128), ("gemma-3-1b", 4, 22, 512)]
)
def test_windows_bound_reads_and_cache_by_kind_of_layer(llm_id: str, full: int, limited: int, window: int) -> None:
    llm = LLMS[llm_id]
    token = 2 * llm.kv_size * 2
    for context in (window - 1, window, window + 1, 20 * window):
        whole = total(llm_id, batch_size=3, context_tokens=context)
        assert whole["kv_cache_bytes"] == 3 * token * (full * context + limited * min(context, window))
        assert whole["kv_bytes_read"] == whole["kv_cache_bytes"]


@pytest.mark.parametrize("llm_id", ["gpt-oss-20b", "gemma-3-1b", "mistral-7b"])
def test_a_prompt_attends_to_its_window(llm_id: str) -> None:
    """Pairs of a fused kernel: every query meets itself and at most window - 1 before it."""
    llm, tokens = LLMS[llm_id], 5000
    for op in ops(llm_id, "prefill", input_tokens=tokens):
        if op["op_kind"] != "attention":
            continue
        window = tokens if "full" in op["path"] else llm.sliding_window
        assert window is not None
        pairs = sum(min(query, window) for query in range(1, tokens + 1))
        assert op["flops"] == llm.num_heads * pairs * (4 * llm.head_dim + 5), op["path"]


@pytest.mark.parametrize("phase", ["prefill", "generate"])
def test_chunks_across_a_window_are_those_of_a_loop(phase: str) -> None:
    """Closed form over chunks against one prefill a chunk, for prompts that start before, in and beyond the window."""
    for prefix, tokens, chunk in ((0, 1000, 64), (100, 700, 96), (600, 900, 200), (0, 500, 512), (0, 2000, 511)):
        row = config("gemma-3-270m", "prefill", input_tokens=tokens, prefix_tokens=prefix, chunk_tokens=chunk)
        starts = range(0, tokens, chunk)
        parts = [
            row | {"chunk_tokens": None, "prefix_tokens": prefix + start, "input_tokens": min(chunk, tokens - start)}
            for start in starts
        ]
        (whole,), (found,) = answers([row | {"phase": phase, "output_tokens": 1}])
        _, each = answers(parts)
        heads = sum(work(rows, "flops", "lm_head") for rows in each[:-1])
        assert whole["flops"] == pytest.approx(sum(work(rows, "flops") for rows in each) - heads)
        for column in ("kv_bytes_read", "kv_bytes_written"):
            assert whole[column] == pytest.approx(sum(work(rows, column) for rows in each)), column
        weights = sum(work(rows, "weight_bytes_read") for rows in each) - (len(parts) - 1) * op_of(each[0], "lm_head")["weight_bytes_read"]  # fmt: skip
        assert work(found, "weight_bytes_read") == pytest.approx(weights)


# The whole catalogue


def test_every_llm_answers_on_a_device_or_is_refused_with_a_sentence() -> None:
    rows = []
    for llm_id, llm in LLMS.items():
        tokens = min(llm.max_context_tokens or 512, 512)
        lengths: dict[str, Any] = {"input_tokens": tokens, "context_tokens": tokens}
        rows += [config(llm_id, phase, hardware_id="h200", **lengths) for phase in ("prefill", "decode", "forward")]
    found = totals(rows)
    refused = [row for row in found if row["status"] != "ok"]
    assert {(row["status"], row["status_detail"]) for row in refused} == {
        ("unsupported", f"an encoder has no {phase}: it has forward.") for phase in ("prefill", "decode")
    }
    assert {LLMS[row["llm_id"]].architecture for row in refused} == {"encoder"}
    for row in found:
        if row["status"] != "ok":
            assert row["roofline_s"] is None
            continue
        assert row["roofline_s"] > 0
        assert math.isfinite(row["roofline_s"])
        assert row["roofline_s"] >= row["bytes_moved"] / H200.memory_bandwidth_bytes_per_s * (1 - 1e-9)
        assert row["weights_bytes"] == 2 * parameter_count(LLMS[row["llm_id"]])
        assert row["is_fitting"] == (row["memory_peak_bytes"] <= H200.memory_bytes)


def test_every_decoder_reads_its_active_weights_in_a_step() -> None:
    """One sequence: every weight that a token meets, one row of the table; latent attention's, gates' and norms' too."""
    for llm_id, llm in LLMS.items():
        if llm.architecture != "decoder":
            continue
        context = min(llm.max_context_tokens or 512, 512)
        found = total(llm_id, context_tokens=context)
        table = 0 if llm.is_embedding_tied else llm.vocab_size * llm.embedding_size
        rows = active_parameter_count(llm) - table - llm.num_positions * llm.hidden_size
        assert found["weight_bytes_read"] / 2 == pytest.approx(rows, rel=2e-4), llm_id
