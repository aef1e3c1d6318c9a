"""An LLM's architecture: the shapes that decide FLOPs, bytes and memory, read from a Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Config = Mapping[str, Any]


@dataclass(frozen=True)
class LayerKind:
    """Equal layers of an LLM that mixes several kinds: how many, the window they attend to, and what their MLP is."""

    count: int
    window: int | None = None
    """Tokens attended to at most; None for all."""
    is_moe: bool = False
    """Routed experts in place of one MLP."""


@dataclass(frozen=True)
class Llm:
    """One LLM architecture. Widths in elements, counts in layers and heads; `config` holds the config.json keys."""

    llm_id: str
    name: str
    architecture: Literal["decoder", "encoder", "encoder_decoder"]
    model_type: str
    num_layers: int
    """Decoder layers; encoder layers of an encoder."""
    num_encoder_layers: int
    """Encoder layers of an encoder-decoder, else 0."""
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_context_tokens: int | None
    embedding_size: int
    """Width of the embedding table: differs from hidden_size in OPT-350M and MobileBERT."""
    is_gated_mlp: bool
    is_embedding_tied: bool
    has_attention_bias: bool
    """Bias on the query, key and value projections."""
    has_mlp_bias: bool
    norm: Literal["rms", "layer", "none"]
    """`none` is MobileBERT's element-wise scale and shift without statistics."""
    norms_per_layer: int
    """Norms of one layer; a layer with cross-attention has one more."""
    position: Literal["rope", "learned", "alibi", "relative", "sinusoidal", "none"]
    num_parameters: int | None
    organisation: str | None
    family: str | None
    hf_id: str | None
    source: str
    source_date: str
    note: str | None
    config: Config
    has_output_bias: bool = False
    """Bias on the attention's output projection."""
    has_head_bias: bool = False
    has_qk_norm: bool = False
    """A norm of width head_dim on queries and one on keys (Qwen3)."""
    has_embedding_norm: bool = False
    has_final_norm: bool = True
    has_pooler: bool = False
    """A hidden x hidden layer over the first token (BERT)."""
    num_positions: int = 0
    """Rows of the learned position table; BART has one in the encoder and one in the decoder."""
    num_token_types: int = 0
    num_relative_buckets: int = 0
    """Buckets of the relative position bias, one scalar a head and stack (T5)."""
    sliding_window: int | None = None
    """Tokens attended to at most, in the layers that are limited."""
    layer_kinds: tuple[LayerKind, ...] = ()
    """Decoder layers by kind, counts adding up to num_layers; of an encoder or encoder-decoder one kind."""
    num_experts: int = 0
    """Routed experts of one MoE layer; 0 for an LLM without."""
    experts_per_token: int = 0
    expert_size: int = 0
    """Feed-forward width of one routed expert; intermediate_size is that of the dense layers."""
    shared_expert_size: int = 0
    """Feed-forward width of all shared experts of a layer together; 0 for none."""
    has_shared_expert_gate: bool = False
    """A hidden -> 1 gate on the shared experts (Qwen2-MoE)."""
    has_router_bias: bool = False
    has_expert_bias: bool = False
    query_lora_rank: int | None = None
    """MLA: width that queries are compressed to; None where they are not."""
    kv_lora_rank: int | None = None
    """MLA: width of the latent that keys and values share and the cache holds; None for ordinary attention."""
    rope_head_dim: int = 0
    """MLA: rotated part of head_dim, cached once for all heads."""
    value_head_dim: int | None = None
    """Width of one value head where it is not head_dim (MLA)."""
    has_attention_sinks: bool = False
    """A learned scalar a head in every softmax (gpt-oss)."""
    bottleneck_size: int | None = None
    """Width inside a MobileBERT layer; queries, keys and every feed-forward network work on it."""
    num_feedforward: int = 1
    """Feed-forward networks of one layer; MobileBERT stacks four."""

    @property
    def attention_size(self) -> int:
        """Width of all query heads together; differs from hidden_size where head_dim is explicit."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_kv_heads * self.head_dim

    @classmethod
    def from_entry(cls, llm_id: str, entry: Mapping[str, Any]) -> Llm:
        """An LLM from an entry of llms.toml: name, source, source_date, num_parameters and `config`.

        Raises ValueError naming the entry where a field is absent, unknown, or contradicts its config.
        """
        strange = [key for key in entry if key not in _ENTRY_FIELDS]
        absent = [key for key in ("name", "architecture", "source", "source_date", "config") if key not in entry]
        if strange or absent:
            raise ValueError(
                f"llms.toml [{llm_id}]: unknown {strange}, absent {absent}. Known: {', '.join(_ENTRY_FIELDS)}."
            )
        facts = {key: entry[key] for key in _FACT_FIELDS if key in entry}
        llm = cls.from_config(llm_id, entry["config"], **facts)
        if llm.architecture != entry["architecture"]:
            raise ValueError(
                f"llms.toml [{llm_id}]: architecture is '{entry['architecture']}', "
                f"but a {llm.model_type} is '{llm.architecture}'."
            )
        return llm

    @classmethod
    def from_config(
        cls,
        llm_id: str,
        config: Config,
        *,
        name: str | None = None,
        num_parameters: int | None = None,
        organisation: str | None = None,
        family: str | None = None,
        hf_id: str | None = None,
        source: str = "config.json",
        source_date: str = "",
        note: str | None = None,
    ) -> Llm:
        """An LLM from the keys of a config.json; absent keys take the values Hugging Face gives them.

        Raises ValueError for a model_type without a reader, and for an absent or impossible shape.
        """
        model_type = str(config.get("model_type"))
        reader = READERS.get(model_type)
        if reader is None:
            raise ValueError(
                f"'{llm_id}': model_type '{model_type}' cannot be read. Known: {', '.join(READERS)}. "
                "Mixture-of-experts, latent-attention and state-space layers have no closed form here yet. "
                "Add a reader in warehouse/catalog/llm.py."
            )
        try:
            shapes = reader(config)
        except KeyError as error:
            raise ValueError(f"'{llm_id}': a {model_type} config.json needs {error}.") from None
        llm = cls(
            llm_id=llm_id, name=name or llm_id, model_type=model_type, num_parameters=num_parameters,
            organisation=organisation, family=family, hf_id=hf_id, source=source, source_date=source_date, note=note,
            config=dict(config), **shapes,
        )  # fmt: skip
        _check(llm)
        return llm


def parameter_count(llm: Llm) -> int:
    """Unique weights of an LLM in closed form: embeddings, layers, norms, biases, head (once where tied).

    An encoder is counted without a task head and with its pooler, as published. Equal to counting the tensors of the real
    model (tests/warehouse/test_catalog.py builds them without memory).
    """
    layers = llm.num_layers * _layer(llm)
    if llm.architecture == "encoder_decoder":
        layers += llm.num_encoder_layers * _layer(llm)
        layers += llm.num_layers * (_attention(llm) + _norm(llm, llm.hidden_size))
    return _embeddings(llm) + layers + _head(llm)


def _linear(inputs: int, outputs: int, has_bias: bool) -> int:
    return inputs * outputs + (outputs if has_bias else 0)


def _norm(llm: Llm, width: int) -> int:
    """A scale, and a shift except in RMSNorm."""
    return width if llm.norm == "rms" else 2 * width


def _attention(llm: Llm) -> int:
    inner = llm.bottleneck_size or llm.hidden_size
    query = _linear(inner, llm.attention_size, llm.has_attention_bias)
    key = _linear(inner, llm.kv_size, llm.has_attention_bias)
    value = _linear(llm.hidden_size, llm.kv_size, llm.has_attention_bias)
    output = _linear(llm.attention_size, inner, llm.has_output_bias)
    return query + key + value + output + (2 * llm.head_dim if llm.has_qk_norm else 0)


def _mlp(llm: Llm) -> int:
    inner = llm.bottleneck_size or llm.hidden_size
    up = _linear(inner, llm.intermediate_size, llm.has_mlp_bias)
    down = _linear(llm.intermediate_size, inner, llm.has_mlp_bias)
    return (2 if llm.is_gated_mlp else 1) * up + down


def _layer(llm: Llm) -> int:
    """One layer without cross-attention."""
    weights = _attention(llm) + llm.num_feedforward * _mlp(llm)
    if llm.bottleneck_size is None:
        return weights + llm.norms_per_layer * _norm(llm, llm.hidden_size)
    width, inner = llm.hidden_size, llm.bottleneck_size
    into = 2 * (_linear(width, inner, True) + _norm(llm, inner))  # the layer's input, and queries and keys
    out = _linear(inner, width, True) + _norm(llm, width)
    return weights + (llm.norms_per_layer - 3) * _norm(llm, inner) + into + out


def _embeddings(llm: Llm) -> int:
    stacks = 2 if llm.architecture == "encoder_decoder" else 1
    width = llm.hidden_size
    per_stack = llm.num_positions * width + llm.num_relative_buckets * llm.num_heads
    per_stack += _norm(llm, width) if llm.has_embedding_norm else 0
    per_stack += _norm(llm, width) if llm.has_final_norm else 0
    total = llm.vocab_size * llm.embedding_size + llm.num_token_types * width + stacks * per_stack
    if llm.model_type == "mobilebert":
        total += _linear(3 * llm.embedding_size, width, True)  # a token and its two neighbours
    elif llm.embedding_size != width:
        total += 2 * llm.embedding_size * width  # OPT: project_in and project_out
    return total


def _head(llm: Llm) -> int:
    if llm.architecture == "encoder":
        return _linear(llm.hidden_size, llm.hidden_size, True) if llm.has_pooler else 0
    head = 0 if llm.is_embedding_tied else llm.vocab_size * llm.embedding_size
    return head + (llm.vocab_size if llm.has_head_bias else 0)


def _check(llm: Llm) -> None:
    """Raises ValueError for shapes that no model can have."""
    widths = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "intermediate_size", "vocab_size")
    bad = [f"{width} = {getattr(llm, width)}" for width in widths if getattr(llm, width) < 1]
    if llm.num_kv_heads > 0 and llm.num_heads % llm.num_kv_heads:
        bad.append(f"num_heads = {llm.num_heads} is not a multiple of num_kv_heads = {llm.num_kv_heads}")
    if bad:
        raise ValueError(f"'{llm.llm_id}': {'; '.join(bad)}. Check its config.json keys.")


_FACT_FIELDS = (
    "name", "num_parameters", "organisation", "family", "hf_id", "source", "source_date", "note",
)  # fmt: skip
_ENTRY_FIELDS = (*_FACT_FIELDS, "architecture", "aliases", "config")


# Readers: config.json keys -> fields of Llm. The values after a key are Hugging Face's own where config.json omits it.


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


def _mistral(config: Config) -> dict[str, Any]:
    return _llama(config) | {"sliding_window": config.get("sliding_window")}


def _qwen2(config: Config) -> dict[str, Any]:
    return _llama(config) | {"has_attention_bias": True, "has_output_bias": False}


def _qwen3(config: Config) -> dict[str, Any]:
    return _llama(config) | {"head_dim": _get(config, "head_dim", 128), "has_qk_norm": True}


def _gemma(config: Config) -> dict[str, Any]:
    return _llama(config) | {
        "head_dim": _get(config, "head_dim", 256),
        "is_embedding_tied": _get(config, "tie_word_embeddings", True),
    }


def _phi(config: Config) -> dict[str, Any]:
    return _decoder(config) | {
        "has_attention_bias": True,
        "has_output_bias": True,
        "has_mlp_bias": True,
        "has_head_bias": True,
        "norms_per_layer": 1,  # attention and MLP run side by side on one norm
    }


def _gpt_neox(config: Config) -> dict[str, Any]:
    bias = _get(config, "attention_bias", True)
    return _decoder(config) | {"has_attention_bias": bias, "has_output_bias": bias, "has_mlp_bias": True}


def _falcon(config: Config) -> dict[str, Any]:
    shapes = _decoder(config)
    is_new = _get(config, "new_decoder_architecture", False)
    if is_new:
        kv_heads = _get(config, "num_kv_heads", shapes["num_heads"])
        norms = _get(config, "num_ln_in_parallel_attn", 2)
    else:
        kv_heads = 1 if _get(config, "multi_query", True) else shapes["num_heads"]
        norms = 1 if _get(config, "parallel_attn", True) else 2
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
    return _decoder(_gpt_names(config)) | {"has_mlp_bias": True, "has_head_bias": True, "norms_per_layer": 1}


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
    return config[key] if key in config else config[other]


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


READERS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
    "phi": _phi,
    "gpt_neox": _gpt_neox,
    "falcon": _falcon,
    "chatglm": _chatglm,
    "opt": _opt,
    "gpt2": _gpt2,
    "gptj": _gptj,
    "bloom": _bloom,
    "t5": _t5,
    "bart": _bart,
    "bert": _bert,
    "distilbert": _distilbert,
    "mobilebert": _mobilebert,
}
"""model_type of a config.json -> its reader."""
