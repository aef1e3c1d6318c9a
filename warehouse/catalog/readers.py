"""Readers of Hugging Face `config.json`s: each turns the keys of one model_type into the fields of `Llm`.

The values after a key are Hugging Face's own where config.json omits it. `windows` and `moe_layers` go layer by layer;
`Llm.from_config` folds them into `layer_kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]


def text_part(config: Config) -> Config:
    """The language model's part of a config.json: `text_config` of a multimodal wrapper, else all of it."""
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        return config
    outer = str(config.get("model_type"))
    tied = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
    return {**tied, **inner, "model_type": inner.get("model_type") or _TEXT_TYPES.get(outer, outer)}


def checked(config: Config) -> dict[str, Any]:
    """A config.json whose sizes are whole numbers: null ones dropped, as Hugging Face takes them for absent.

    Raises ValueError naming the keys that hold something else.
    """
    wrong = [f"{key} = {config[key]!r}" for key in _SIZES if not _is_size(config.get(key), 1)]
    wrong += [f"{key} = {config[key]!r}" for key in _COUNTS if not _is_size(config.get(key), 0)]
    if wrong:
        raise ValueError(f"not a positive whole number: {', '.join(wrong)}.")
    wrong = [f"{key} = {config[key]!r}" for key in _LISTS if not isinstance(config.get(key), list | tuple | None)]
    if wrong:
        raise ValueError(f"not a list of layers: {', '.join(wrong)}.")
    droppable = {*_SIZES, *_COUNTS} - _NULLABLE
    return {key: value for key, value in config.items() if value is not None or key not in droppable}


def _is_size(value: Any, least: int) -> bool:
    return value is None or (type(value) is int and value >= least)


_SIZES = (
    "hidden_size", "n_embd", "n_embed", "d_model", "dim", "embedding_size", "word_embed_proj_dim",
    "intra_bottleneck_size",
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers",
    "decoder_layers",
    "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
    "num_key_value_heads", "num_kv_heads", "multi_query_group_num",
    "head_dim", "kv_channels", "d_kv", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "q_lora_rank",
    "kv_lora_rank",
    "intermediate_size", "intermediate_size_mlp", "ffn_hidden_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim",
    "d_ff", "n_inner", "hidden_dim",
    "num_feedforward_networks", "num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok",
    "experts_per_token",
    "moe_intermediate_size", "interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq",
    "vocab_size", "padded_vocab_size", "max_position_embeddings", "n_positions", "seq_length", "model_max_length",
    "attention_chunk_size", "sliding_window_pattern", "no_rope_layer_interval", "num_ln_in_parallel_attn",
    "relative_attention_num_buckets",
)  # fmt: skip
"""Keys that hold a size of at least 1."""
_COUNTS = ("n_shared_experts", "shared_expert_intermediate_size", "first_k_dense_replace", "max_window_layers",
           "sliding_window", "type_vocab_size")  # fmt: skip
"""Keys that hold a size or 0."""
_LISTS = ("layer_types", "mlp_only_layers", "moe_layers", "no_rope_layers")
_NULLABLE = {"q_lora_rank", "attention_chunk_size", "sliding_window"}
"""Sizes whose null differs from their absence."""


_TEXT_TYPES = {"gemma3": "gemma3_text", "llama4": "llama4_text", "mistral3": "mistral"}
"""model_type of a wrapper's text part where text_config leaves it out."""


def _get(config: Config, key: str, default: Any) -> Any:
    """A key's value, or the default where it is absent or null (0 and false are values)."""
    value = config.get(key)
    return default if value is None else value


def _decoder(config: Config) -> dict[str, Any]:
    """Keys that most decoders share."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return {
        "architecture": "decoder",
        "num_layers": config["num_hidden_layers"],
        "num_encoder_layers": 0,
        "hidden_size": hidden,
        "num_heads": heads,
        "num_kv_heads": _get(config, "num_key_value_heads", heads),
        "head_dim": _get(config, "head_dim", hidden // heads),
        "intermediate_size": _get(config, "intermediate_size", 4 * hidden),
        "vocab_size": config["vocab_size"],
        "max_context_tokens": config.get("max_position_embeddings"),
        "embedding_size": hidden,
        "is_gated_mlp": False,
        "is_embedding_tied": _get(config, "tie_word_embeddings", False),
        "has_attention_bias": False,
        "has_mlp_bias": False,
        "norm": "layer",
        "norms_per_layer": 2,
        "position": "rope",
    }


def _llama(config: Config) -> dict[str, Any]:
    bias = _get(config, "attention_bias", False)
    return _decoder(config) | {
        "intermediate_size": config["intermediate_size"],
        "is_gated_mlp": True,
        "norm": "rms",
        "has_attention_bias": bias,
        "has_output_bias": bias,
        "has_mlp_bias": _get(config, "mlp_bias", False),
    }


def _windows(config: Config, window: int | None, is_limited: Callable[[int], bool]) -> list[int | None]:
    """The window of every layer: by `layer_types` where config.json spells them out, else by Hugging Face's rule."""
    types = config.get("layer_types")
    if types is not None:
        return [None if name == "full_attention" else window for name in types]
    return [window if is_limited(layer) else None for layer in range(config["num_hidden_layers"])]


def _everywhere(layer: int) -> bool:
    return True


def _mistral(config: Config) -> dict[str, Any]:
    """A config.json that omits sliding_window has one of 4096, as the first Mistral did; the later ones say null."""
    return _llama(config) | {"windows": _windows(config, config.get("sliding_window", 4096), _everywhere)}


def _phi3(config: Config) -> dict[str, Any]:
    return _llama(config) | {"windows": _windows(config, config.get("sliding_window"), _everywhere)}


def _mixtral(config: Config) -> dict[str, Any]:
    return _phi3(config) | {
        "num_experts": config["num_local_experts"],
        "experts_per_token": config["num_experts_per_tok"],
        "expert_size": config["intermediate_size"],
        "moe_layers": [True] * config["num_hidden_layers"],
    }


def _minimax_m2(config: Config) -> dict[str, Any]:
    """A Mixtral with wide norms on queries and keys, and a bias that balances the experts."""
    return _mixtral(config) | {
        "has_qk_norm": _get(config, "use_qk_norm", True),
        "is_qk_norm_wide": True,
        "has_router_bias": _get(config, "use_routing_bias", True),
    }


def _phimoe(config: Config) -> dict[str, Any]:
    return _mixtral(config) | {"norm": "layer", "has_head_bias": _get(config, "lm_head_bias", False)}


def _gpt_oss(config: Config) -> dict[str, Any]:
    bias = _get(config, "attention_bias", True)
    per_token = _either(config, "num_experts_per_tok", "experts_per_token")
    return _mixtral({**config, "num_experts_per_tok": per_token}) | {
        "has_attention_bias": bias,
        "has_output_bias": bias,
        "has_attention_sinks": True,
        "has_router_bias": True,
        "has_expert_bias": True,
        "windows": _windows(config, config.get("sliding_window", 128), lambda layer: layer % 2 == 0),
    }


def _llama4(config: Config) -> dict[str, Any]:
    """Experts in every `interleave_moe_layer_step`-th layer beside one shared expert of their width.

    A layer with rope attends within chunks, read as a window of the chunk's size: what a token at a chunk's end meets, and
    an upper bound for every other. Its norms on queries and keys have no weights.
    """
    layers, expert = config["num_hidden_layers"], config["intermediate_size"]
    every = _get(config, "interleave_moe_layer_step", 1)
    routed = _get(config, "moe_layers", range(every - 1, layers, every))
    interval = _get(config, "no_rope_layer_interval", 4)
    chunk = config.get("attention_chunk_size", 8192)
    windows = _windows(config, chunk, lambda layer: (layer + 1) % interval != 0)
    if "layer_types" not in config and config.get("no_rope_layers"):
        windows = [chunk if is_rotated else None for is_rotated in config["no_rope_layers"]]
    return _llama(config) | {
        "intermediate_size": config["intermediate_size_mlp"],
        "num_experts": config["num_local_experts"],
        "experts_per_token": config["num_experts_per_tok"],
        "expert_size": expert,
        "shared_expert_size": expert,
        "moe_layers": [layer in routed for layer in range(layers)],
        "windows": windows,
    }


def _qwen2(config: Config) -> dict[str, Any]:
    return _llama(config) | {
        "has_attention_bias": True,
        "has_output_bias": False,
        "windows": _late_windows(config),
    }


def _late_windows(config: Config) -> list[int | None]:
    """Qwen: a window, where it is used at all, from layer `max_window_layers` on."""
    window = config.get("sliding_window", 4096) if _get(config, "use_sliding_window", False) else None
    first = _get(config, "max_window_layers", 28)
    return _windows(config, window, lambda layer: layer >= first)


def _qwen3(config: Config) -> dict[str, Any]:
    return _llama(config) | {
        "head_dim": _get(config, "head_dim", 128),
        "has_qk_norm": True,
        "windows": _late_windows(config),
    }


def _sparse_layers(config: Config) -> dict[str, Any]:
    """Experts of Qwen 2 and 3: in every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name."""
    dense, every = _get(config, "mlp_only_layers", []), _get(config, "decoder_sparse_step", 1)
    layers = range(config["num_hidden_layers"])
    return {
        "num_experts": _either(config, "num_experts", "num_local_experts"),
        "experts_per_token": config["num_experts_per_tok"],
        "expert_size": config["moe_intermediate_size"],
        "moe_layers": [layer not in dense and (layer + 1) % every == 0 for layer in layers],
    }


def _qwen2_moe(config: Config) -> dict[str, Any]:
    shared = config["shared_expert_intermediate_size"]
    bias = _get(config, "qkv_bias", True)
    shapes = _qwen2(config) | _sparse_layers(config) | {"has_attention_bias": bias}
    return shapes | {"shared_expert_size": shared, "has_shared_expert_gate": shared > 0}


def _qwen3_moe(config: Config) -> dict[str, Any]:
    head = _get(config, "head_dim", config["hidden_size"] // config["num_attention_heads"])
    return _qwen3({**config, "head_dim": head}) | _sparse_layers(config)


def _fine_grained(config: Config) -> dict[str, Any]:
    """Experts of DeepSeek and GLM-4.5: narrow, some shared, none in the first `first_k_dense_replace` layers."""
    first, every = _get(config, "first_k_dense_replace", 0), _get(config, "moe_layer_freq", 1)
    layers, expert = range(config["num_hidden_layers"]), config["moe_intermediate_size"]
    return {
        "num_experts": config["n_routed_experts"],
        "experts_per_token": config["num_experts_per_tok"],
        "expert_size": expert,
        "shared_expert_size": _get(config, "n_shared_experts", 0) * expert,
        "moe_layers": [layer >= first and layer % every == 0 for layer in layers],
    }


def _deepseek(config: Config) -> dict[str, Any]:
    return _llama(config) | _fine_grained(config)


def _deepseek_v2(config: Config) -> dict[str, Any]:
    """Multi-head latent attention; `q_lora_rank` is null where queries are not compressed (V2-Lite)."""
    rotated = config["qk_rope_head_dim"]
    return _deepseek(config) | {
        "head_dim": config["qk_nope_head_dim"] + rotated,
        "rope_head_dim": rotated,
        "value_head_dim": config["v_head_dim"],
        "query_lora_rank": config["q_lora_rank"],
        "kv_lora_rank": config["kv_lora_rank"],
    }  # fmt: skip


def _deepseek_v3(config: Config) -> dict[str, Any]:
    """V2 with a bias that balances the experts: `e_score_correction_bias`, a weight of the published checkpoint."""
    return _deepseek_v2(config) | {"has_router_bias": _get(config, "topk_method", "noaux_tc") == "noaux_tc"}


def _glm(config: Config) -> dict[str, Any]:
    return _llama(config) | {
        "head_dim": _get(config, "head_dim", 128),
        "has_attention_bias": _get(config, "attention_bias", True),
        "has_output_bias": False,
    }


def _glm4(config: Config) -> dict[str, Any]:
    return _glm(config) | {"norms_per_layer": 4}


def _glm4_moe(config: Config) -> dict[str, Any]:
    return _llama(config) | _fine_grained(config) | {
        "has_output_bias": False,
        "has_qk_norm": _get(config, "use_qk_norm", False),
        "has_router_bias": True,
    }  # fmt: skip


def _gemma(config: Config) -> dict[str, Any]:
    return _llama(config) | {
        "head_dim": _get(config, "head_dim", 256),
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
    }


def _gemma2(config: Config) -> dict[str, Any]:
    """Norms before and after attention and MLP; every other layer is limited, the first among them."""
    window = config.get("sliding_window", 4096)
    return _gemma(config) | {
        "norms_per_layer": 4,
        "windows": _windows(config, window, lambda layer: layer % 2 == 0),
    }


def _gemma3(config: Config) -> dict[str, Any]:
    """Five limited layers, then one that is not. The text part of a published config.json omits much."""
    shared = {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
    }
    config = {**shared, **config}
    window, every = config.get("sliding_window", 4096), _get(config, "sliding_window_pattern", 6)
    return _gemma(config) | {
        "norms_per_layer": 4,
        "has_qk_norm": True,
        "windows": _windows(config, window, lambda layer: (layer + 1) % every != 0),
    }


def _smollm3(config: Config) -> dict[str, Any]:
    window = config.get("sliding_window") if _get(config, "use_sliding_window", False) else None
    return _llama(config) | {
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
        "windows": _windows(config, window, lambda layer: (layer + 1) % 4 == 0),
    }


def _olmo2(config: Config) -> dict[str, Any]:
    """Norms follow attention and MLP rather than precede them."""
    return _llama(config) | {"has_qk_norm": True, "is_qk_norm_wide": True}


def _cohere(config: Config) -> dict[str, Any]:
    return _llama(config) | {
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
        "max_context_tokens": _get(config, "model_max_length", config.get("max_position_embeddings")),
        "norm": "layer",
        "has_norm_shift": False,
        "norms_per_layer": 1,
        "is_side_by_side": True,
        "has_qk_norm": _get(config, "use_qk_norm", False),
        "is_qk_norm_wide": True,
    }


def _cohere2(config: Config) -> dict[str, Any]:
    """Three limited layers, then one that is not."""
    window, every = config.get("sliding_window", 4096), _get(config, "sliding_window_pattern", 4)
    return _cohere(config) | {
        "has_qk_norm": False,
        "windows": _windows(config, window, lambda layer: (layer + 1) % every != 0),
    }


def _stablelm(config: Config) -> dict[str, Any]:
    is_side_by_side = _get(config, "use_parallel_residual", False)
    return _llama(config) | {
        "norm": "layer",
        "norms_per_layer": 1 if is_side_by_side else 2,
        "is_side_by_side": is_side_by_side,
        "has_attention_bias": _get(config, "use_qkv_bias", False),
        "has_output_bias": False,
        "has_qk_norm": _get(config, "qk_layernorm", False),
        "is_qk_norm_wide": True,
    }


def _starcoder2(config: Config) -> dict[str, Any]:
    bias = _get(config, "use_bias", True)
    return _decoder(config) | {
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
        "has_attention_bias": bias,
        "has_output_bias": bias,
        "has_mlp_bias": bias,
        "windows": _windows(config, config.get("sliding_window"), _everywhere),
    }


def _internlm(config: Config) -> dict[str, Any]:
    bias = _get(config, "bias", False)
    return _llama(config) | {"has_attention_bias": bias, "has_output_bias": bias}


def _baichuan(config: Config) -> dict[str, Any]:
    """The 13B's have ALiBi, and therefore no max_position_embeddings."""
    is_rotated = "max_position_embeddings" in config
    return _llama(config) | {
        "max_context_tokens": _get(config, "model_max_length", config.get("max_position_embeddings")),
        "position": "rope" if is_rotated else "alibi",
    }


def _qwen(config: Config) -> dict[str, Any]:
    """Qwen 1: `intermediate_size` is the width of gate and up together."""
    has_bias = not _get(config, "no_bias", True)
    shapes = _llama({**config, "intermediate_size": config["intermediate_size"] // 2})
    return shapes | {
        "head_dim": _get(config, "kv_channels", shapes["head_dim"]),
        "max_context_tokens": _get(config, "seq_length", config.get("max_position_embeddings")),
        "has_attention_bias": True,
        "has_output_bias": has_bias,
        "has_mlp_bias": has_bias,
    }


def _phi(config: Config) -> dict[str, Any]:
    return _decoder(config) | {
        "has_attention_bias": True,
        "has_output_bias": True,
        "has_mlp_bias": True,
        "has_head_bias": True,
        "norms_per_layer": 1,
        "is_side_by_side": True,
    }


def _gpt_neox(config: Config) -> dict[str, Any]:
    bias = _get(config, "attention_bias", True)
    return _decoder(config) | {
        "has_attention_bias": bias,
        "has_output_bias": bias,
        "has_mlp_bias": True,
        "is_side_by_side": _get(config, "use_parallel_residual", True),
    }


def _falcon(config: Config) -> dict[str, Any]:
    shapes = _decoder(config)
    is_new = _get(config, "new_decoder_architecture", False)
    is_parallel = is_new or _get(config, "parallel_attn", True)
    if is_new:
        kv_heads = _get(config, "num_kv_heads", shapes["num_heads"])
        norms = _get(config, "num_ln_in_parallel_attn", 2)
    else:
        kv_heads = 1 if _get(config, "multi_query", True) else shapes["num_heads"]
        norms = 1 if is_parallel else 2
    bias = _get(config, "bias", False)
    return shapes | {
        "num_kv_heads": kv_heads,
        "intermediate_size": _get(config, "ffn_hidden_size", 4 * shapes["hidden_size"]),
        "max_context_tokens": _get(config, "max_position_embeddings", 2048),
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
        "has_attention_bias": bias,
        "has_output_bias": bias,
        "has_mlp_bias": bias,
        "norms_per_layer": norms,
        "is_side_by_side": is_parallel,
        "position": "alibi" if _get(config, "alibi", False) else "rope",
    }


def _chatglm(config: Config) -> dict[str, Any]:
    """ChatGLM2 and 3: queries in `num_attention_heads` of kv_channels, keys and values in `multi_query_group_num`."""
    heads = config["num_attention_heads"]
    bias = _get(config, "add_bias_linear", False)
    is_grouped = _get(config, "multi_query_attention", False)
    shared = {
        **config,
        "num_hidden_layers": config["num_layers"],
        "vocab_size": config["padded_vocab_size"],
        "head_dim": _get(config, "kv_channels", config["hidden_size"] // heads),
        "num_key_value_heads": config["multi_query_group_num"] if is_grouped else heads,
        "intermediate_size": config["ffn_hidden_size"],
        "max_position_embeddings": config.get("seq_length"),
    }
    return _decoder(shared) | {
        "is_gated_mlp": True,
        "norm": "rms" if _get(config, "rmsnorm", True) else "layer",
        "has_attention_bias": bias or _get(config, "add_qkv_bias", False),
        "has_output_bias": bias,
        "has_mlp_bias": bias,
    }


def _opt(config: Config) -> dict[str, Any]:
    bias = _get(config, "enable_bias", True)
    is_pre_norm = _get(config, "do_layer_norm_before", True)
    return _decoder(config) | {
        "intermediate_size": config["ffn_dim"],
        "embedding_size": _get(config, "word_embed_proj_dim", config["hidden_size"]),
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
        "has_attention_bias": bias,
        "has_output_bias": bias,
        "has_mlp_bias": bias,
        "has_final_norm": is_pre_norm and not _get(config, "_remove_final_layer_norm", False),
        "position": "learned",
        "num_positions": config["max_position_embeddings"] + 2,
    }


def _gpt2(config: Config) -> dict[str, Any]:
    shapes = _decoder(_gpt_names(config))
    return shapes | {
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
        "has_attention_bias": True,
        "has_output_bias": True,
        "has_mlp_bias": True,
        "position": "learned",
        "num_positions": shapes["max_context_tokens"],
    }


def _gptj(config: Config) -> dict[str, Any]:
    return _decoder(_gpt_names(config)) | {
        "has_mlp_bias": True,
        "has_head_bias": True,
        "norms_per_layer": 1,
        "is_side_by_side": True,
    }


def _gpt_names(config: Config) -> dict[str, Any]:
    """GPT-2's spelling of the shared keys."""
    return {
        **config,
        "hidden_size": config["n_embd"],
        "num_attention_heads": config["n_head"],
        "num_hidden_layers": config["n_layer"],
        "max_position_embeddings": _get(config, "n_positions", 1024),
        "intermediate_size": config.get("n_inner"),
    }


def _bloom(config: Config) -> dict[str, Any]:
    shared = {
        **config,
        "hidden_size": _either(config, "hidden_size", "n_embed"),
        "num_attention_heads": _either(config, "n_head", "num_attention_heads"),
        "num_hidden_layers": _either(config, "n_layer", "num_hidden_layers"),
        "max_position_embeddings": config.get("seq_length"),
    }
    return _decoder(shared) | {
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
        "has_attention_bias": True,
        "has_output_bias": True,
        "has_mlp_bias": True,
        "has_embedding_norm": True,
        "position": "alibi",
    }


def _either(config: Config, key: str, other: str) -> Any:
    """The value under a key's usual spelling, or under another. Raises KeyError with the usual one."""
    return config[other] if key not in config and other in config else config[key]


def _t5(config: Config) -> dict[str, Any]:
    heads, layers = config["num_heads"], config["num_layers"]
    return {
        "architecture": "encoder_decoder",
        "num_layers": _get(config, "num_decoder_layers", layers),
        "num_encoder_layers": layers,
        "hidden_size": config["d_model"],
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": config["d_kv"],
        "intermediate_size": config["d_ff"],
        "vocab_size": config["vocab_size"],
        "max_context_tokens": config.get("n_positions"),
        "embedding_size": config["d_model"],
        "is_gated_mlp": str(_get(config, "feed_forward_proj", "relu")).startswith("gated"),
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
        "has_attention_bias": False,
        "has_mlp_bias": False,
        "norm": "rms",
        "norms_per_layer": 2,
        "position": "relative",
        "num_relative_buckets": _get(config, "relative_attention_num_buckets", 32),
    }


def _bart(config: Config) -> dict[str, Any]:
    heads, width = config["decoder_attention_heads"], config["d_model"]
    for key in ("attention_heads", "ffn_dim"):
        if config[f"encoder_{key}"] != config[f"decoder_{key}"]:
            raise ValueError(f"bart: encoder_{key} differs from decoder_{key}, which has no closed form here yet.")
    return {
        "architecture": "encoder_decoder",
        "num_layers": config["decoder_layers"],
        "num_encoder_layers": config["encoder_layers"],
        "hidden_size": width,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": width // heads,
        "intermediate_size": config["decoder_ffn_dim"],
        "vocab_size": config["vocab_size"],
        "max_context_tokens": config["max_position_embeddings"],
        "embedding_size": width,
        "is_gated_mlp": False,
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
        "has_attention_bias": True,
        "has_output_bias": True,
        "has_mlp_bias": True,
        "norm": "layer",
        "norms_per_layer": 2,
        "position": "learned",
        "num_positions": config["max_position_embeddings"] + 2,
        "has_embedding_norm": True,
        "has_final_norm": False,
    }


def _bert(config: Config) -> dict[str, Any]:
    return _decoder(config) | {
        "architecture": "encoder",
        "is_embedding_tied": True,
        "has_attention_bias": True,
        "has_output_bias": True,
        "has_mlp_bias": True,
        "position": "learned",
        "num_positions": config["max_position_embeddings"],
        "num_token_types": _get(config, "type_vocab_size", 2),
        "has_embedding_norm": True,
        "has_final_norm": False,
        "has_pooler": True,
    }


def _distilbert(config: Config) -> dict[str, Any]:
    shared = {
        **config,
        "hidden_size": config["dim"],
        "num_attention_heads": config["n_heads"],
        "num_hidden_layers": config["n_layers"],
        "intermediate_size": config["hidden_dim"],
        "type_vocab_size": 0,
    }
    return _bert(shared) | {"has_pooler": False}


def _mobilebert(config: Config) -> dict[str, Any]:
    """Layers of `hidden_size` around a bottleneck of `intra_bottleneck_size`, as in the published checkpoint."""
    inner, heads = config["intra_bottleneck_size"], config["num_attention_heads"]
    published = {
        "use_bottleneck": True,
        "key_query_shared_bottleneck": True,
        "use_bottleneck_attention": False,
        "trigram_input": True,
        "normalization_type": "no_norm",
        "classifier_activation": False,
    }
    strange = [key for key, value in published.items() if _get(config, key, value) != value]
    if strange:
        raise ValueError(f"mobilebert: only the published layer has a closed form here, and {strange} differ from it.")
    num_feedforward = _get(config, "num_feedforward_networks", 4)
    return _bert(config) | {
        "head_dim": inner // heads,
        "embedding_size": config["embedding_size"],
        "norm": "none",
        "norms_per_layer": num_feedforward + 4,  # attention, each network, two into and one out of the bottleneck
        "bottleneck_size": inner,
        "num_feedforward": num_feedforward,
        "has_pooler": False,
    }


def _roberta(config: Config) -> dict[str, Any]:
    """BERT whose positions start at 2 (pad_token_id 1)."""
    return _bert(config) | {"max_context_tokens": config["max_position_embeddings"] - 2}


def _electra(config: Config) -> dict[str, Any]:
    if _get(config, "embedding_size", config["hidden_size"]) != config["hidden_size"]:
        raise ValueError("electra: embedding_size differs from hidden_size, which has no closed form here yet.")
    return _bert(config) | {"has_pooler": False}


READERS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "llama": _llama,
    "llama4_text": _llama4,
    "mistral": _mistral,
    "ministral": _mistral,
    "mixtral": _mixtral,
    "qwen": _qwen,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2_moe,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "qwen3_vl_text": _qwen3,
    "qwen3_vl_moe_text": _qwen3_moe,
    "deepseek": _deepseek,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "kimi_k2": _deepseek_v3,
    "glm": _glm,
    "glm4": _glm4,
    "glm4_moe": _glm4_moe,
    "chatglm": _chatglm,
    "minimax_m2": _minimax_m2,
    "gpt_oss": _gpt_oss,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi": _phi,
    "phi3": _phi3,
    "phimoe": _phimoe,
    "olmo2": _olmo2,
    "smollm3": _smollm3,
    "granite": _llama,
    "cohere": _cohere,
    "cohere2": _cohere2,
    "stablelm": _stablelm,
    "starcoder2": _starcoder2,
    "internlm": _internlm,
    "internlm2": _internlm,
    "baichuan": _baichuan,
    "gpt_neox": _gpt_neox,
    "falcon": _falcon,
    "opt": _opt,
    "gpt2": _gpt2,
    "gptj": _gptj,
    "bloom": _bloom,
    "t5": _t5,
    "bart": _bart,
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "electra": _electra,
    "distilbert": _distilbert,
    "mobilebert": _mobilebert,
}
"""model_type of a config.json (of its text part) -> its reader."""

_MAMBA = "selective state-space (Mamba) layers"
_MAMBA_2 = "state-space (Mamba-2) layers"
_DELTA = "linear-attention (gated DeltaNet) layers"
_INDEXED = "attention layers whose keys an indexer picks (sparse attention)"
_UNEQUAL = "layers whose heads or widths differ from one to the next"
REFUSED: dict[str, str] = {
    "mamba": _MAMBA,
    "falcon_mamba": _MAMBA,
    "jamba": f"{_MAMBA} between its attention layers",
    "mamba2": _MAMBA_2,
    "bamba": f"{_MAMBA_2} between its attention layers",
    "zamba": f"{_MAMBA} around a shared attention layer",
    "zamba2": f"{_MAMBA_2} around shared attention layers",
    "granitemoehybrid": f"{_MAMBA_2} between its attention layers",
    "nemotron_h": f"{_MAMBA_2} between its attention layers",
    "falcon_h1": f"{_MAMBA_2} beside its attention",
    "plamo2": f"{_MAMBA} between its attention layers",
    "rwkv": "recurrent (RWKV time-mixing) layers",
    "rwkv5": "recurrent (RWKV time-mixing) layers",
    "rwkv6": "recurrent (RWKV time-mixing) layers",
    "rwkv7": "recurrent (RWKV time-mixing) layers",
    "xlstm": "recurrent (mLSTM) layers",
    "recurrent_gemma": "recurrent (RG-LRU) layers between its attention layers",
    "qwen3_next": _DELTA,
    "qwen3_5": _DELTA,
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe": _DELTA,
    "qwen3_5_moe_text": _DELTA,
    "olmo_hybrid": _DELTA,
    "kimi_linear": "linear-attention (Kimi Delta Attention) layers",
    "minimax": "linear-attention (lightning attention) layers",
    "minimax_text_01": "linear-attention (lightning attention) layers",
    "minimax_m1": "linear-attention (lightning attention) layers",
    "bailing_hybrid": "linear-attention layers",
    "lfm2": "gated short-convolution layers",
    "lfm2_moe": "gated short-convolution layers",
    "retnet": "retention layers",
    "deepseek_v32": _INDEXED,
    "deepseek_v4": _INDEXED,
    "glm_moe_dsa": _INDEXED,
    "phi3small": "block-sparse attention layers",
    "deci": _UNEQUAL,
    "nemotron-nas": _UNEQUAL,
    "openelm": _UNEQUAL,
    "gemma3n": "layers that share keys and values and add embeddings of their own",
    "gemma3n_text": "layers that share keys and values and add embeddings of their own",
    "albert": "layers that share one set of weights",
}
"""model_type -> the layers it has that have no closed form here."""
