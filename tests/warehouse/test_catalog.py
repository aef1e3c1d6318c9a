"""The catalogue: sourced and dated, physically possible, equal to what others publish, and helpful when asked amiss."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from warehouse import catalog, parquet, schema
from warehouse.catalog.llm import LayerKind, Llm, active_parameter_count, parameter_count, read_config
from warehouse.catalog.readers import READERS, REFUSED

TINY = {"hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 96, "vocab_size": 100, "max_position_embeddings": 256}  # fmt: skip
UNCATALOGUED: dict[str, dict[str, Any]] = {
    "cohere2": {"sliding_window": 32},
    "ministral": {"sliding_window": 32, "head_dim": 24},
    "qwen3_vl_text": {"head_dim": 24},
    "qwen3_vl_moe_text": {"head_dim": 24, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
}
"""model_types that are read though no entry of the catalogue has them, with the keys that a small one needs beside TINY."""

HARDWARE = catalog.hardware()
LLMS = catalog.llms()
PRICES = catalog.rows("prices")

# The highest rate of a device's matrix units over its fp16 rate: 2 for each halving of the dtype, and sparsity would double it.
DENSE_RATIO = {"fp8": 2.0, "int8": 4.0, "fp4": 8.0, "int4": 8.0}
STEEPER = {("trainium3", "fp8"): 3.76}
"""Published dense ratios above those: Trainium3 nearly quadruples its rate with microscaled fp8."""


@pytest.mark.parametrize("table_name", ["hardware", "llms", "prices"])
def test_every_entry_is_a_checked_row_with_source_and_date(table_name: str) -> None:
    rows = catalog.rows(table_name)
    assert parquet.check(table_name, rows).num_rows == len(rows)
    for row in rows:
        assert len(row["source"]) > 10, row
        assert datetime.date(2020, 1, 1) < datetime.date.fromisoformat(row["source_date"]), row


def test_the_catalogue_is_wide_enough() -> None:
    assert len(HARDWARE) >= 30
    assert len(LLMS) >= 180
    assert len(PRICES) >= 12
    assert {entry.kind for entry in HARDWARE.values()} == {"gpu", "cpu", "tpu", "accelerator"}
    assert {llm.architecture for llm in LLMS.values()} == {"decoder", "encoder", "encoder_decoder"}
    assert {llm.model_type for llm in LLMS.values()} | set(UNCATALOGUED) == set(READERS)
    assert not set(READERS) & set(REFUSED)


# -- hardware


@pytest.mark.parametrize("hardware_id", HARDWARE)
def test_devices_are_physically_possible(hardware_id: str) -> None:
    device = HARDWARE[hardware_id]
    matrix = max(device.peak(dtype) or 0.0 for dtype in ("fp32", "fp16", "bf16"))
    ridge = matrix / device.memory_bandwidth_bytes_per_s
    assert 20 < ridge < 600, "FLOP per byte at the ridge point"
    assert device.tdp_w is None or 50 <= device.tdp_w <= 1500
    if device.tdp_w is not None:
        assert matrix / device.tdp_w < 4e12, "no device does 4 dense fp16 TFLOP/s a watt"
    if device.kind == "cpu":
        assert device.memory_bytes is None, "main memory is a choice of the machine"
    else:
        assert device.memory_bytes is not None
        assert 8 * 2**30 <= device.memory_bytes <= 300 * 2**30
    for name in ("link_bandwidth_bytes_per_s", "host_link_bandwidth_bytes_per_s"):
        assert device.row.get(name) is None or device.row[name] < device.memory_bandwidth_bytes_per_s


def half_peak(device: catalog.Hardware) -> float | None:
    """Matrix rate at 16 bits, or None."""
    bf16 = device.peak("bf16")
    return device.peak("fp16") if bf16 is None else bf16


@pytest.mark.parametrize("hardware_id", [key for key, device in HARDWARE.items() if half_peak(device) is not None])
def test_peaks_are_dense_and_halve_with_width(hardware_id: str) -> None:
    device = HARDWARE[hardware_id]
    half = half_peak(device)
    assert half is not None
    for dtype, usual in DENSE_RATIO.items():
        peak = device.peak(dtype)
        ratio = STEEPER.get((hardware_id, dtype), usual)
        assert peak is None or peak <= 1.02 * ratio * half, f"{dtype} peak looks sparse"
    tf32, fp32 = device.peak("tf32"), device.peak("fp32")
    tf32_ratio = 0.52 if device.kind == "gpu" else 1.0  # Trainium rounds fp32 to tf32 at the rate of bf16
    assert tf32 is None or tf32 <= tf32_ratio * half
    assert fp32 is None or device.vector_fp32_flops_per_s is None or fp32 >= device.vector_fp32_flops_per_s


def test_fp16_peak_of_nvidia_is_what_its_units_and_clock_give() -> None:
    """Dense fp16 FLOP a clock and SM, fp32 accumulate: a sparse figure or a wrong SM count would be off by far more."""
    per_sm = {
        "v100-sxm-16gb": 1024,
        "t4": 1024,
        "a100-sxm-80gb": 2048,
        "a6000": 1024,
        "rtx-3090": 512,
        "rtx-4090": 512,
        "l40s": 1024,
    }
    for hardware_id, flops in per_sm.items():
        row = HARDWARE[hardware_id].row
        assert row["peak_fp16_flops_per_s"] == pytest.approx(row["num_cores"] * flops * row["clock_hz"], rel=0.02), (
            hardware_id
        )


def test_known_numbers() -> None:
    """Numbers that the papers and every textbook roofline use."""
    a6000, h100 = catalog.find_hardware("a6000"), catalog.find_hardware("h100-sxm")
    assert a6000.memory_bandwidth_bytes_per_s == 768e9
    assert a6000.peak("fp16") == pytest.approx(154.8e12)
    assert h100.memory_bandwidth_bytes_per_s == 3350e9
    assert h100.peak("bf16") == pytest.approx(989.4e12)
    assert catalog.find_hardware("a100").memory_bytes == 80 * 2**30
    assert HARDWARE["v100-sxm-32gb"].peak("bf16") is None
    assert HARDWARE["t4"].peak("tf32") is None


AICONFIGURATOR = {
    "a100_sxm": "a100-sxm-80gb", "a100_pcie": "a100-pcie-80gb", "a30": "a30", "b200_sxm": "b200", "gb200": "gb200",
    "h100_sxm": "h100-sxm", "h100_pcie": "h100-pcie", "h200_sxm": "h200", "l4": "l4", "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000-server",
}  # fmt: skip
JUSTIFIED = {
    # the Server Edition's data sheet has 1597 GB/s; 1792 GB/s is the Workstation Edition's
    ("rtx_pro_6000_server", "mem_bw"),
}


@pytest.mark.parametrize("name", AICONFIGURATOR)
def test_devices_agree_with_aiconfigurator(name: str, shared: Path) -> None:
    text = (shared / "data" / "aiconfigurator" / "systems" / f"{name}.yaml").read_text()
    theirs = {key: float(value) for key, value in re.findall(r"^  (\w+): (\d+)", text, re.MULTILINE)}
    row = HARDWARE[AICONFIGURATOR[name]].row
    ours = {
        "mem_bw": row["memory_bandwidth_bytes_per_s"],
        "mem_capacity": row["memory_bytes"],
        "bfloat16_tc_flops": row["peak_bf16_flops_per_s"],
        "int8_tc_flops": row["peak_int8_flops_per_s"],
        "fp8_tc_flops": row.get("peak_fp8_flops_per_s"),
        "fp4_tc_flops": row.get("peak_fp4_flops_per_s"),
        "power": row["tdp_w"],
    }
    if "sxm" in name:
        assert row["link_bandwidth_bytes_per_s"] == theirs["intra_node_bw"]
    compared = [key for key in ours if key in theirs and (name, key) not in JUSTIFIED]
    assert len(compared) >= 5
    for key in compared:
        tolerance = 0.07 if key == "mem_capacity" else 0.01  # they take what the driver leaves, we the nominal size
        assert ours[key] == pytest.approx(theirs[key], rel=tolerance), key


NEUSIGHT = {
    "AMD_Instinct_MI100": "mi100", "AMD_Instinct_MI210": "mi210", "NVIDIA_A100-PCIE-40GB": "a100-pcie-40gb",
    "NVIDIA_A100-SXM4-40GB": "a100-sxm-40gb", "NVIDIA_A100_80GB_PCIe": "a100-pcie-80gb",
    "NVIDIA_H100_80GB_HBM3": "h100-sxm", "NVIDIA_L4": "l4", "Tesla_P100-PCIE-16GB": "p100-pcie-16gb", "Tesla_P4": "p4",
    "Tesla_T4": "t4", "Tesla_V100-PCIE-32GB": "v100-pcie-32gb",
}  # fmt: skip


@pytest.mark.parametrize("name", NEUSIGHT)
def test_devices_agree_with_neusight(name: str, shared: Path) -> None:
    theirs = json.loads((shared / "data" / "neusight" / "data" / "device_configs" / f"{name}.json").read_text())
    device = catalog.find_hardware(theirs["Device"])
    assert device.hardware_id == NEUSIGHT[name], "the name that the driver prints resolves"
    assert device.memory_bandwidth_bytes_per_s == pytest.approx(theirs["Mem_Bw"] * 1e9, rel=0.03)
    vector = theirs.get("SingleFLOPsVEC", theirs.get("SingleFLOPs"))
    assert device.vector_fp32_flops_per_s == pytest.approx(vector * 1e9, rel=0.05)


# -- LLMs


@pytest.mark.parametrize("llm_id", LLMS)
def test_parameter_count_is_the_published_one(llm_id: str) -> None:
    llm = LLMS[llm_id]
    assert llm.num_parameters is not None
    assert parameter_count(llm) == pytest.approx(llm.num_parameters, rel=1e-3)


@pytest.mark.parametrize("llm_id", LLMS)
def test_dimensions_are_consistent(llm_id: str) -> None:
    llm = LLMS[llm_id]
    row = catalog.llm_row(llm)
    assert llm.num_heads % llm.num_kv_heads == 0
    assert llm.attention_size == llm.num_heads * llm.head_dim
    assert llm.attention_size >= (llm.bottleneck_size or 0)
    assert (llm.num_encoder_layers > 0) == (llm.architecture == "encoder_decoder")
    assert row["num_encoder_layers"] == (llm.num_encoder_layers or None)
    assert json.loads(row["config_json"])["model_type"] == llm.model_type


WITHOUT_CLASS = {"chatglm", "qwen", "deepseek", "internlm"}
"""model_types whose code lies in their repositories, not in transformers."""
SAME_AS = {"kimi_k2": "deepseek_v3", "internlm2": "llama", "baichuan": "llama"}
"""model_types with the weights of one that transformers has."""


def count_tensors(model_type: str, config: Mapping[str, Any], architecture: str = "decoder") -> int:
    """Weights of the real architecture, built on torch's meta device (shapes without memory).

    The bias that balances experts is a buffer there, and a tensor of the published checkpoints.
    """
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    classes = {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModel,
        "encoder_decoder": transformers.AutoModelForSeq2SeqLM,
    }
    keys = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = classes[architecture].from_config(transformers.AutoConfig.for_model(model_type, **keys))
    balance = [tensor for name, tensor in model.named_buffers() if name.endswith("e_score_correction_bias")]
    return sum(tensor.numel() for tensor in [*model.parameters(), *balance])


@pytest.mark.parametrize("llm_id", [key for key, llm in LLMS.items() if llm.model_type not in WITHOUT_CLASS])
def test_parameter_count_is_the_real_models(llm_id: str) -> None:
    llm = LLMS[llm_id]
    model_type = SAME_AS.get(llm.model_type, llm.model_type)
    # transformers 5 ties the head of every T5; the published checkpoints of T5 1.1 have one of their own
    head = llm.vocab_size * llm.hidden_size if llm_id.startswith("flan-t5") else 0
    assert count_tensors(model_type, llm.config, llm.architecture) + head == parameter_count(llm)


@pytest.mark.parametrize("model_type", UNCATALOGUED)
def test_parameter_count_of_a_small_one_is_the_real_models(model_type: str) -> None:
    config = {"model_type": model_type, **TINY, **UNCATALOGUED[model_type]}
    real = {"qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe"}.get(model_type, model_type)
    keys = {key: value for key, value in config.items() if key != "model_type"}
    assert count_tensors(real, keys) == parameter_count(Llm.from_config("tiny", config))


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("qwen3_moe", {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "decoder_sparse_step": 2,
                       "mlp_only_layers": [3]}),
        ("deepseek_v2", {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 4,
                         "v_head_dim": 8, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
                         "n_shared_experts": 3, "first_k_dense_replace": 2, "attention_bias": True,
                         "num_key_value_heads": 4}),
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 24, "attention_bias": False}),
        ("llama4_text", {"head_dim": 16, "intermediate_size_mlp": 128, "num_local_experts": 4, "num_experts_per_tok": 1,
                         "moe_layers": [1, 4]}),
        ("glm4_moe", {"head_dim": 24, "attention_bias": True, "use_qk_norm": True, "n_routed_experts": 8,
                      "n_shared_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
                      "first_k_dense_replace": 1}),
        ("phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True}),
        ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": True}),
        ("cohere", {"use_qk_norm": True, "attention_bias": True}),
        ("granite", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("olmo2", {"attention_bias": True}),
        ("starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
        ("glm4", {"head_dim": 24, "attention_bias": False}),
    ],
)  # fmt: skip
def test_options_of_a_layer_are_counted(model_type: str, keys: dict[str, Any]) -> None:
    """Settings that no published checkpoint has, or few: every one that adds or removes weights."""
    config = {**TINY, "pad_token_id": 0, "tie_word_embeddings": False, **keys}
    llm = Llm.from_config("tiny", {"model_type": model_type, **config})
    assert count_tensors(model_type, config) == parameter_count(llm)


def test_a_config_that_transformers_writes_reads_the_same() -> None:
    """Current transformers spells out every default, layer_types among them: the rules here and there give the same layers."""
    transformers = pytest.importorskip("transformers")
    spelled_out = 0
    for llm_id, llm in LLMS.items():
        if llm.model_type in WITHOUT_CLASS | set(SAME_AS) or llm_id.startswith("flan-t5"):
            continue
        keys = {key: value for key, value in llm.config.items() if key != "model_type"}
        written = transformers.AutoConfig.for_model(llm.model_type, **keys).to_dict()
        again = Llm.from_config(llm_id, written)
        spelled_out += "layer_types" in written and len(llm.layer_kinds) > 1
        assert (again.layer_kinds, parameter_count(again)) == (llm.layer_kinds, parameter_count(llm)), llm_id
    assert spelled_out >= 10


@pytest.mark.parametrize(
    ("llm_id", "kinds"),
    [
        ("llama-2-7b", [LayerKind(32)]),
        ("mistral-7b", [LayerKind(32, window=4096)]),
        ("mistral-7b-v0.3", [LayerKind(32)]),
        ("qwen2.5-7b", [LayerKind(28)]),
        ("gemma-2-9b", [LayerKind(21, window=4096), LayerKind(21)]),
        ("gemma-3-27b", [LayerKind(52, window=1024), LayerKind(10)]),
        ("gpt-oss-120b", [LayerKind(18, window=128, is_moe=True), LayerKind(18, is_moe=True)]),
        ("llama-4-maverick", [LayerKind(24, window=8192), LayerKind(12, window=8192, is_moe=True), LayerKind(12, is_moe=True)]),
        ("mixtral-8x7b", [LayerKind(32, is_moe=True)]),
        ("deepseek-v3", [LayerKind(3), LayerKind(58, is_moe=True)]),
        ("t5-small", [LayerKind(6)]),
        ("bert-base", [LayerKind(12)]),
    ],
)  # fmt: skip
def test_layers_by_kind(llm_id: str, kinds: list[LayerKind]) -> None:
    llm = LLMS[llm_id]
    assert list(llm.layer_kinds) == kinds
    assert llm.sliding_window == kinds[0].window


def test_a_window_that_is_switched_off_is_none() -> None:
    qwen = {"model_type": "qwen2", **TINY, "sliding_window": 32, "max_window_layers": 2}
    assert Llm.from_config("mine", qwen).layer_kinds == (LayerKind(5),)
    late = Llm.from_config("mine", {**qwen, "use_sliding_window": True})
    assert late.layer_kinds == (LayerKind(2), LayerKind(3, window=32))
    named = {**qwen, "use_sliding_window": True, "layer_types": ["sliding_attention", *["full_attention"] * 4]}
    assert Llm.from_config("mine", named).layer_kinds == (LayerKind(1, window=32), LayerKind(4))
    mistral = {"model_type": "mistral", **TINY}
    assert Llm.from_config("mine", mistral).sliding_window == 4096, "Hugging Face's value of an absent key"
    assert Llm.from_config("mine", {**mistral, "sliding_window": None}).sliding_window is None


@pytest.mark.parametrize(
    ("llm_id", "billion"),
    [
        # as their publishers round them
        ("mixtral-8x7b", 12.9), ("mixtral-8x22b", 39), ("qwen1.5-moe-a2.7b", 2.7), ("qwen3-235b-a22b", 22),
        ("deepseek-v2", 21), ("deepseek-v3", 37), ("kimi-k2", 32), ("llama-4-scout", 17), ("phi-3.5-moe", 6.6),
        ("qwen3-coder-480b-a35b", 35),
    ],
)  # fmt: skip
def test_active_parameters(llm_id: str, billion: float) -> None:
    assert active_parameter_count(LLMS[llm_id]) / 1e9 == pytest.approx(billion, rel=0.03)


def test_active_parameters_by_hand() -> None:
    assert active_parameter_count(LLMS["llama-2-7b"]) == parameter_count(LLMS["llama-2-7b"])
    mixtral = LLMS["mixtral-8x7b"]
    assert parameter_count(mixtral) - active_parameter_count(mixtral) == 32 * 6 * 3 * 4096 * 14336
    oss = LLMS["gpt-oss-20b"]  # its experts have biases: 2 x 2880 into the network and 2880 out of it
    assert parameter_count(oss) - active_parameter_count(oss) == 24 * 28 * (3 * 2880 * 2880 + 3 * 2880)


def test_latent_attention() -> None:
    lite, large = LLMS["deepseek-v2-lite"], LLMS["deepseek-v3"]
    assert (lite.query_lora_rank, large.query_lora_rank) == (None, 1536)
    for llm in (lite, large):
        assert (llm.head_dim, llm.rope_head_dim, llm.value_head_dim, llm.kv_lora_rank) == (192, 64, 128, 512)
    assert (large.num_experts, large.experts_per_token, large.expert_size, large.shared_expert_size) == (
        256,
        8,
        2048,
        2048,
    )
    assert (large.has_router_bias, lite.has_router_bias, lite.shared_expert_size) == (True, False, 2816)
    assert LLMS["mixtral-8x7b"].kv_lora_rank is None


def test_shapes_that_are_easily_misread() -> None:
    opt, llama3, gemma, glm, mobile = (
        LLMS[key] for key in ("opt-350m", "llama-3-8b", "gemma-7b", "chatglm3-6b", "mobilebert")
    )
    assert (opt.embedding_size, opt.hidden_size, opt.has_final_norm) == (512, 1024, False)
    assert (llama3.num_kv_heads, llama3.kv_size) == (8, 1024)
    assert (gemma.head_dim, gemma.attention_size, gemma.hidden_size) == (256, 4096, 3072)
    assert (glm.num_kv_heads, glm.has_attention_bias, glm.has_output_bias) == (2, True, False)
    assert (mobile.bottleneck_size, mobile.embedding_size, mobile.num_feedforward) == (128, 128, 4)
    assert LLMS["falcon-7b"].num_kv_heads == 1
    assert (LLMS["mistral-nemo-12b"].attention_size, LLMS["mistral-nemo-12b"].hidden_size) == (4096, 5120)
    assert (LLMS["qwen-7b"].intermediate_size, LLMS["qwen-7b"].has_output_bias) == (11008, False)
    assert (LLMS["llama-4-maverick"].intermediate_size, LLMS["llama-4-maverick"].expert_size) == (16384, 8192)
    assert (LLMS["gemma-2-9b"].norms_per_layer, LLMS["olmo-2-7b"].norms_per_layer) == (4, 2)
    assert (LLMS["olmo-2-7b"].is_qk_norm_wide, LLMS["qwen3-8b"].is_qk_norm_wide) == (True, False)
    assert (LLMS["roberta-base"].num_positions, LLMS["roberta-base"].max_context_tokens) == (514, 512)
    assert LLMS["baichuan2-13b"].position == "alibi"
    side_by_side = {llm.model_type for llm in LLMS.values() if llm.is_side_by_side}
    assert side_by_side == {"gptj", "gpt_neox", "phi", "falcon", "cohere", "stablelm"}


def test_a_config_from_anywhere_is_read() -> None:
    """A config.json keeps many keys that decide nothing, and omits keys that equal their default."""
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "intermediate_size": 128, "vocab_size": 1000, "_name_or_path": "x", "torch_dtype": "float16"}  # fmt: skip
    llm = Llm.from_config("tiny", config)
    assert (llm.num_kv_heads, llm.head_dim, llm.is_embedding_tied, llm.max_context_tokens) == (4, 16, False, None)
    # by hand: 2 embeddings 64 000, 2 layers of 4 x 64 x 64 + 3 x 64 x 128 + 2 x 64, one last norm
    assert parameter_count(llm) == 2 * 64_000 + 2 * (16_384 + 24_576 + 128) + 64


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "lama"}, r"model_type 'lama' has no reader\. Known: llama, .*Add a reader in .*readers\.py"),
        ({}, r"config\.json has no model_type\. Known: llama, "),
        ({"model_type": "llama", "hidden_size": 64}, r"a llama config\.json needs 'num_attention_heads'"),
        ({"model_type": "gpt2", "n_embd": 0, "n_head": 2, "n_layer": 1, "vocab_size": 9},
         r"not a positive whole number: n_embd = 0\. Check the keys of this gpt2 config\.json"),
        ({"model_type": "llama", **TINY, "hidden_size": "64"}, r"not a positive whole number: hidden_size = '64'"),
        ({"model_type": "llama", **TINY, "num_hidden_layers": 2.5}, r"num_hidden_layers = 2\.5"),
        ({"model_type": "llama", **TINY, "vocab_size": None}, r"a llama config\.json needs 'vocab_size'"),
        ({"model_type": ["llama"], **TINY}, r"model_type '\['llama'\]' has no reader"),
        ({"model_type": "mixtral", **TINY, "num_experts_per_tok": 2}, r"a mixtral config\.json needs 'num_local_experts'"),
        ({"model_type": "mixtral", **TINY, "num_local_experts": 2, "num_experts_per_tok": 4},
         r"experts_per_token = 4 is more than num_experts = 2"),
        ({"model_type": "deepseek_v3", **TINY, "num_key_value_heads": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
          "v_head_dim": 8, "kv_lora_rank": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
          "moe_intermediate_size": 8}, r"a deepseek_v3 config\.json needs 'q_lora_rank'"),
        ({"model_type": "qwen3", **TINY, "layer_types": ["full_attention", "linear_attention"]},
         r"layer_types name linear_attention, which have no closed form here .* Check the keys of this qwen3"),
        ({"model_type": "qwen3", **TINY, "layer_types": ["full_attention"] * 4}, r"its list of layers names 4, but there are 5\."),
        ({"model_type": "qwen3", **TINY, "layer_types": "full_attention"}, r"not a list of layers: layer_types"),
        ({"model_type": "mistral", **TINY, "sliding_window": 0}, r"window = 0"),
        ({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 9,
          "num_key_value_heads": 3, "intermediate_size": 8}, r"not a multiple of num_kv_heads = 3"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_read_says_why(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Llm.from_config("mine", config)


@pytest.mark.parametrize("model_type", REFUSED)
def test_layers_without_a_closed_form_are_named(model_type: str) -> None:
    with pytest.raises(ValueError, match="which have no closed form here") as refused:
        Llm.from_config("mine", {"model_type": model_type, **TINY})
    said = str(refused.value)
    assert said.startswith(f"'mine': a {model_type} has {REFUSED[model_type]}, which")
    assert all(name in said for name in READERS)


def test_hybrids_are_refused_by_their_layers() -> None:
    for name in ("mamba", "mamba2", "jamba", "falcon_mamba", "bamba", "zamba", "zamba2", "granitemoehybrid", "nemotron_h",
                 "rwkv", "recurrent_gemma", "qwen3_next", "minimax", "lfm2"):  # fmt: skip
        assert name in REFUSED
    assert "Mamba" in REFUSED["jamba"]
    assert "DeltaNet" in REFUSED["qwen3_next"]
    assert "lightning" in REFUSED["minimax"]


def test_the_text_part_of_a_multimodal_config_is_read() -> None:
    gemma = LLMS["gemma-3-4b"]
    sparse = {"model_type": "gemma3", "vision_config": {"hidden_size": 1152}, "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}}  # fmt: skip
    llm = Llm.from_config("mine", sparse)
    assert (llm.model_type, llm.note) == ("gemma3_text", "Text part of a gemma3 config.json.")
    assert (parameter_count(llm), llm.layer_kinds) == (parameter_count(gemma), gemma.layer_kinds)
    wrapped = {"model_type": "kimi_k25", "text_config": LLMS["kimi-k2.5"].config}
    assert parameter_count(Llm.from_config("mine", wrapped)) == parameter_count(LLMS["kimi-k2.5"])
    hybrid = {"model_type": "qwen3_5_moe", "text_config": {"model_type": "qwen3_5_moe_text", **TINY}}
    with pytest.raises(ValueError, match="a qwen3_5_moe has linear-attention"):
        Llm.from_config("mine", hybrid)
    tied = {"model_type": "llava", "tie_word_embeddings": True, "text_config": {"model_type": "llama", **TINY}}
    assert Llm.from_config("mine", tied).is_embedding_tied


def refusal(config: dict[str, Any]) -> str | None:
    """Why a config.json cannot be read, or None where it can and its LLM is whole."""
    try:
        llm = Llm.from_config("mine", config)
    except ValueError as error:
        return str(error)
    assert isinstance(parameter_count(llm), int)
    assert sum(kind.count for kind in llm.layer_kinds) == llm.num_layers
    return None


@pytest.mark.parametrize("model_type", READERS)
def test_no_value_of_a_key_crashes_a_reader(model_type: str) -> None:
    """Whatever one key of a config.json holds, it is read or refused by a sentence; one that is absent is named there."""
    small = {"model_type": model_type, **TINY, **UNCATALOGUED.get(model_type, {})}
    config = next((dict(llm.config) for llm in LLMS.values() if llm.model_type == model_type), small)
    for key in config:
        for value in (None, 0, -1, 1.5, "12", "x", [1], {"a": 1}, 7):
            said = refusal({**config, key: value})
            assert said is None or said.startswith("'mine': "), (key, value)
        said = refusal({other: value for other, value in config.items() if other != key})
        assert said is None or key in said


def test_a_config_is_read_from_a_file_a_folder_or_text(tmp_path: Path) -> None:
    text = json.dumps({"model_type": "llama", **TINY})
    path = tmp_path / "config.json"
    path.write_text(text)
    assert read_config(path) == read_config(str(path)) == read_config(tmp_path) == read_config(f"\n {text}")
    assert Llm.from_config("mine", read_config(text)).num_layers == 5


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{'model_type': 'llama'}", r"the pasted text is not JSON: .*line 1 column 2.*Paste or name the model's config\.json"),
        ('[{"model_type": "llama"}]', r"the pasted text holds a JSON list, but a config\.json is an object"),
        ("no/such/config.json", r"'no/such/config\.json' is neither a file nor the text of a config\.json"),
        ("", r"is neither a file nor the text"),
    ],
)  # fmt: skip
def test_what_is_no_config_says_why(source: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_config(source)


def test_an_entry_that_contradicts_itself_is_refused() -> None:
    entry = {
        "name": "x",
        "architecture": "encoder",
        "source": "s",
        "source_date": "2026-01-01",
        "config": LLMS["gpt2"].config,
    }
    with pytest.raises(ValueError, match="architecture is 'encoder', but a gpt2 is 'decoder'"):
        Llm.from_entry("x", entry)
    with pytest.raises(ValueError, match=r"unknown \['sorce'\], absent \['source'\]"):
        Llm.from_entry("x", {"name": "x", "architecture": "decoder", "sorce": "s", "source_date": "", "config": {}})


# -- names


@pytest.mark.parametrize(
    ("name", "hardware_id"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"), ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"), ("Tesla T4", "t4"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("NVIDIA H200", "h200"), ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("nvidia_A6000", "a6000"), ("nvidia_A100", "a100-sxm-40gb"), ("nvidia_A100_80G", "a100-sxm-80gb"),
        ("nvidia_V100", "v100-sxm-16gb"), ("nvidia_A800_80G_SXM", "a800-sxm-80gb"), ("nvidia_A40", "a40"),
        ("nvidia_H100", "h100-sxm"), ("nvidia_H100_PCIe", "h100-pcie"), ("nvidia_L40", "l40"), ("A6000", "a6000"),
        ("intel_13900k", "core-i9-13900k"), ("Habana Gaudi2", "gaudi2"),
    ],
)  # fmt: skip
def test_device_names_resolve(name: str, hardware_id: str) -> None:
    assert catalog.find_hardware(name).hardware_id == hardware_id


@pytest.mark.parametrize(
    ("name", "llm_id"),
    [
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"), ("meta-llama/Llama-2-13b-hf", "llama-2-13b"),
        ("meta-llama/Llama-2-70b-hf", "llama-2-70b"), ("meta-llama/Llama-3-8B", "llama-3-8b"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"), ("facebook/opt-1.3b", "opt-1.3b"),
        ("EleutherAI/gpt-j-6b", "gpt-j-6b"), ("EleutherAI/gpt-j-6B", "gpt-j-6b"), ("THUDM/chatglm3-6b", "chatglm3-6b"),
        ("Llama 2 7B", "llama-2-7b"), ("OPT-350M", "opt-350m"), ("t5-small", "t5-small"), ("gpt2-1.5b", "gpt2-xl"),
    ],
)  # fmt: skip
def test_llm_names_resolve(name: str, llm_id: str) -> None:
    assert catalog.find_llm(name).llm_id == llm_id


@pytest.mark.parametrize("file_name", ["hardware.toml", "llms.toml"])
def test_no_name_means_two_things(file_name: str) -> None:
    meanings: dict[str, str] = {}
    for key, entry in catalog._entries(file_name).items():
        for alias in {key, entry["name"], entry.get("hf_id", key), *entry.get("aliases", ())}:
            plain = catalog._plain(alias)
            assert meanings.setdefault(plain, key) == key, f"'{alias}' is {meanings[plain]} and {key}"


def test_unknown_names_are_told_what_is_known_and_where_to_add() -> None:
    with pytest.raises(catalog.UnknownEntryError) as device:
        catalog.find_hardware("h1000")
    said = str(device.value)
    assert said.startswith("'h1000' is not in the hardware catalogue. Known: h100-sxm, "), (
        "what was perhaps meant comes first"
    )
    assert said.endswith("Add it in warehouse/catalog/hardware.toml.")
    assert f" and {len(HARDWARE) - catalog.MOST_NAMED} more. " in said
    with pytest.raises(
        catalog.UnknownEntryError, match=r"'llama-9' is not in the LLM catalogue\. Known: .*llms\.toml\."
    ):
        catalog.find_llm("llama-9")
    with pytest.raises(KeyError, match="'sizes' is not a catalogue"):
        catalog.rows("sizes")


# -- prices


def test_prices_are_of_known_devices_and_plausible() -> None:
    assert set(schema.table("prices").names) >= set(PRICES[0])
    for price in PRICES:
        assert price["hardware_id"] in HARDWARE, price
        assert 0.1 < price["usd_per_device_hour"] < 20, price
        assert price["num_devices"] >= 1
        assert price["region"]
