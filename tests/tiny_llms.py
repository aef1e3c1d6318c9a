"""Configurations of LLMs so small that a test builds and runs them, and checkpoint folders of them without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HIDDEN, HEADS, KV_HEADS, INNER, VOCABULARY, LAYERS = 64, 4, 2, 128, 256, 2
"""Sizes of LLAMA."""

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "intermediate_size": INNER, "vocab_size": VOCABULARY,
    "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip
T5: dict[str, Any] = {
    "model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2,
    "vocab_size": 256, "decoder_start_token_id": 0, "dropout_rate": 0.0,
}  # fmt: skip
"""Without dropout: gradients of two runs are compared."""

BERT: dict[str, Any] = {
    "model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "vocab_size": 256, "max_position_embeddings": 32,
}  # fmt: skip


def bare(folder: Path, config: dict[str, Any], name: str = "tiny") -> str:
    """A folder that holds a config.json and no weights."""
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "config.json").write_text(json.dumps(config))
    return str(folder / name)
