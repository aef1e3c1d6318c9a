"""An LLM's architecture: the shapes that decide FLOPs, bytes and memory, read from a Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Llm:
    """One LLM architecture. Widths in elements, counts in layers and heads; `config` holds the config.json keys."""

    llm_id: str
    name: str
    architecture: Literal["decoder", "encoder", "encoder_decoder"]
    model_type: str
    num_layers: int
    num_encoder_layers: int
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
    has_mlp_bias: bool
    norm: Literal["rms", "layer", "none"]
    norms_per_layer: int
    position: Literal["rope", "learned", "alibi", "relative", "sinusoidal", "none"]
    num_parameters: int | None
    organisation: str | None
    family: str | None
    hf_id: str | None
    source: str
    source_date: str
    note: str | None
    config: Mapping[str, Any]

    @classmethod
    def from_entry(cls, llm_id: str, entry: Mapping[str, Any]) -> Llm:
        """An LLM from an entry of llms.toml: name, source, source_date, num_parameters and `config`."""
        raise NotImplementedError
