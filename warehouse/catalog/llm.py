"""An LLM's architecture: the shapes that decide FLOPs, bytes and memory, read from a Hugging Face `config.json`."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from warehouse.catalog.readers import READERS, REFUSED, Config, checked, text_part


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
    has_norm_shift: bool = True
    """LayerNorms add a shift; not in Cohere's."""
    is_side_by_side: bool = False
    """Attention and MLP read the same input and are added together (GPT-J, GPT-NeoX, Phi, Falcon, Cohere)."""
    has_qk_norm: bool = False
    """A norm on queries and one on keys, each a scale of width head_dim (Qwen3)."""
    is_qk_norm_wide: bool = False
    """The scales of those norms span all heads: attention_size and kv_size (OLMo 2, MiniMax M2)."""
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
    """MLA: width that queries are compressed to; None where they are not. has_attention_bias is then the bias of the
    compressing projections only."""
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
        """An LLM from an entry of llms.toml: name, source, source_date, num_parameters and `config` ("null" is null there).

        Raises ValueError naming the entry where a field is absent, unknown, or contradicts its config.
        """
        strange = [key for key in entry if key not in _ENTRY_FIELDS]
        absent = [key for key in ("name", "architecture", "source", "source_date", "config") if key not in entry]
        if strange or absent:
            raise ValueError(
                f"llms.toml [{llm_id}]: unknown {strange}, absent {absent}. Known: {', '.join(_ENTRY_FIELDS)}."
            )
        facts = {key: entry[key] for key in _FACT_FIELDS if key in entry}
        config = {key: None if value == "null" else value for key, value in entry["config"].items()}
        llm = cls.from_config(llm_id, config, **facts)
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
        """An LLM from the keys of a config.json (`read_config`); absent keys take the values Hugging Face gives them.

        Of a multimodal config.json the text part is read. Raises ValueError for a model_type without a reader or without
        a closed form, and for an absent or impossible shape.
        """
        shapes = _shapes(llm_id, config)
        text = text_part(config)
        if text is not config and note is None:
            note = f"Text part of a {config.get('model_type')} config.json."
        llm = cls(
            llm_id=llm_id, name=name or llm_id, model_type=str(text["model_type"]), num_parameters=num_parameters,
            organisation=organisation, family=family, hf_id=hf_id, source=source, source_date=source_date, note=note,
            config=dict(text), **shapes,
        )  # fmt: skip
        _check(llm)
        return llm


def read_config(source: str | Path) -> dict[str, Any]:
    """The keys of a config.json: from its path (or its folder's), or from its pasted text.

    Raises ValueError where there is no such file, or where the text is not JSON or no object.
    """
    text = source if isinstance(source, str) and source.lstrip().startswith(("{", "[")) else None
    if text is None:
        path = Path(source)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"'{source}' is neither a file nor the text of a config.json (which starts with '{{').")
        text = path.read_text(encoding="utf-8")
    what = "the pasted text" if text is source else f"'{source}'"
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} is not JSON: {error}. Paste or name the model's config.json.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{what} holds a JSON {type(config).__name__}, but a config.json is an object of keys.")
    return config


def parameter_count(llm: Llm) -> int:
    """Unique weights of an LLM in closed form: embeddings, layers, norms, biases, head (once where tied).

    An encoder is counted without a task head and with its pooler, as published; a multimodal LLM without its towers, and
    any without modules that only draft further tokens (MTP). Equal to counting the tensors of the real model
    (tests/warehouse/test_catalog.py builds them without memory).
    """
    layers = sum(kind.count * _layer(llm, kind.is_moe) for kind in llm.layer_kinds)
    if llm.architecture == "encoder_decoder":
        layers += llm.num_encoder_layers * _layer(llm, False)
        layers += llm.num_layers * (_attention(llm) + _norm(llm, llm.hidden_size))
    return _embeddings(llm) + layers + _head(llm)


def active_parameter_count(llm: Llm) -> int:
    """Weights that one token meets: parameter_count less the routed experts it is not sent to. The embedding table counts whole."""
    moe_layers = sum(kind.count for kind in llm.layer_kinds if kind.is_moe)
    return parameter_count(llm) - moe_layers * (llm.num_experts - llm.experts_per_token) * _expert(llm)


def _linear(inputs: int, outputs: int, has_bias: bool) -> int:
    return inputs * outputs + (outputs if has_bias else 0)


def _norm(llm: Llm, width: int) -> int:
    """A scale, and a shift except in RMSNorm."""
    return width if llm.norm == "rms" or not llm.has_norm_shift else 2 * width


def _attention(llm: Llm) -> int:
    if llm.kv_lora_rank is not None:
        return _latent_attention(llm, llm.kv_lora_rank)
    inner = llm.bottleneck_size or llm.hidden_size
    query = _linear(inner, llm.attention_size, llm.has_attention_bias)
    key = _linear(inner, llm.kv_size, llm.has_attention_bias)
    value = _linear(llm.hidden_size, llm.kv_size, llm.has_attention_bias)
    output = _linear(llm.attention_size, inner, llm.has_output_bias)
    sinks = llm.num_heads if llm.has_attention_sinks else 0
    return query + key + value + output + sinks + _qk_norm(llm)


def _qk_norm(llm: Llm) -> int:
    if not llm.has_qk_norm:
        return 0
    return llm.attention_size + llm.kv_size if llm.is_qk_norm_wide else 2 * llm.head_dim


def _latent_attention(llm: Llm, rank: int) -> int:
    """MLA: queries, keys and values leave their latents without bias; the rotated key leaves the hidden state."""
    width, value_dim = llm.hidden_size, llm.value_head_dim or llm.head_dim
    if llm.query_lora_rank is None:
        query = width * llm.attention_size
    else:
        query = _linear(width, llm.query_lora_rank, llm.has_attention_bias) + _norm(llm, llm.query_lora_rank)
        query += llm.query_lora_rank * llm.attention_size
    latent = _linear(width, rank + llm.rope_head_dim, llm.has_attention_bias) + _norm(llm, rank)
    key_value = rank * llm.num_heads * (llm.head_dim - llm.rope_head_dim + value_dim)
    return query + latent + key_value + _linear(llm.num_heads * value_dim, width, llm.has_output_bias)


def _mlp(llm: Llm, width: int, has_bias: bool) -> int:
    inner = llm.bottleneck_size or llm.hidden_size
    up = _linear(inner, width, has_bias)
    return (2 if llm.is_gated_mlp else 1) * up + _linear(width, inner, has_bias)


def _expert(llm: Llm) -> int:
    return _mlp(llm, llm.expert_size, llm.has_expert_bias)


def _experts(llm: Llm) -> int:
    """Router, routed experts, shared experts and their gate."""
    router = _linear(llm.hidden_size, llm.num_experts, llm.has_router_bias)
    shared = _mlp(llm, llm.shared_expert_size, llm.has_mlp_bias) if llm.shared_expert_size else 0
    gate = llm.hidden_size if llm.has_shared_expert_gate else 0
    return router + llm.num_experts * _expert(llm) + shared + gate


def _layer(llm: Llm, is_moe: bool) -> int:
    """One layer without cross-attention."""
    dense = llm.num_feedforward * _mlp(llm, llm.intermediate_size, llm.has_mlp_bias)
    weights = _attention(llm) + (_experts(llm) if is_moe else dense)
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


def _shapes(llm_id: str, config: Config) -> dict[str, Any]:
    """Fields of Llm that a config.json decides. Raises ValueError where it cannot be read."""
    text = text_part(config)
    model_type = text.get("model_type")
    for name in (config.get("model_type"), model_type):
        if isinstance(name, str) and name in REFUSED:
            raise ValueError(
                f"'{llm_id}': a {name} has {REFUSED[name]}, which have no closed form here. {_known(name)}"
            )
    if not isinstance(model_type, str) or model_type not in READERS:
        what = "config.json has no model_type" if model_type is None else f"model_type '{model_type}' has no reader"
        raise ValueError(f"'{llm_id}': {what}. {_known(model_type)} Add a reader in warehouse/catalog/readers.py.")
    try:
        text = checked(text)
        return _with_layer_kinds(READERS[model_type](text), text.get("layer_types") or ())
    except KeyError as error:
        raise ValueError(f"'{llm_id}': a {model_type} config.json needs {error}.") from None
    except ValueError as error:
        raise ValueError(f"'{llm_id}': {error} Check the keys of this {model_type} config.json.") from None


def _with_layer_kinds(shapes: dict[str, Any], layer_types: Sequence[Any]) -> dict[str, Any]:
    """A reader's fields with `windows` and `moe_layers`, each layer by layer, folded. Raises ValueError where they differ."""
    strange = sorted({str(name) for name in layer_types} - set(_LAYER_TYPES))
    if strange:
        raise ValueError(
            f"layer_types name {', '.join(strange)}, which have no closed form here (known: {', '.join(_LAYER_TYPES)})."
        )
    layers = shapes["num_layers"]
    windows = shapes.pop("windows", [None] * layers)
    moe_layers = shapes.pop("moe_layers", [False] * layers)
    if len(windows) != layers:
        raise ValueError(f"its list of layers names {len(windows)}, but there are {layers}.")
    kinds = Counter(zip(windows, moe_layers, strict=True))  # in order of first appearance
    shapes["layer_kinds"] = tuple(LayerKind(count, window, is_moe) for (window, is_moe), count in kinds.items())
    shapes["sliding_window"] = next((window for window in windows if window is not None), None)
    return shapes


_LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention")
"""Entries of layer_types that have a closed form."""


def _known(model_type: object) -> str:
    """The model_types that can be read, what was perhaps meant first."""
    close = difflib.get_close_matches(str(model_type), READERS, n=3)
    return f"Known: {', '.join(dict.fromkeys([*close, *READERS]))}."


def _check(llm: Llm) -> None:
    """Raises ValueError for shapes that no model can have."""
    widths = ["num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "intermediate_size", "vocab_size"]
    widths += ["experts_per_token", "expert_size"] if llm.num_experts else []
    sizes = {width: getattr(llm, width) for width in widths}
    bad = [f"{width} = {size}" for width, size in sizes.items() if size < 1]
    bad += [f"window = {kind.window}" for kind in llm.layer_kinds if kind.window is not None and kind.window < 1]
    if not bad and llm.num_heads % llm.num_kv_heads:
        bad.append(f"num_heads = {llm.num_heads} is not a multiple of num_kv_heads = {llm.num_kv_heads}")
    if not bad and llm.experts_per_token > llm.num_experts:
        bad.append(f"experts_per_token = {llm.experts_per_token} is more than num_experts = {llm.num_experts}")
    if bad:
        raise ValueError(f"'{llm.llm_id}': {'; '.join(bad)}. Check its config.json keys.")


_FACT_FIELDS = (
    "name", "num_parameters", "organisation", "family", "hf_id", "source", "source_date", "note",
)  # fmt: skip
_ENTRY_FIELDS = (*_FACT_FIELDS, "architecture", "aliases", "config")
