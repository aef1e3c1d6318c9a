"""An LLM small enough to measure in a test."""

import pytest


@pytest.fixture
def small_llm(tmp_path):
    """A checkpoint folder of a two-layer Llama."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
        vocab_size=256, max_position_embeddings=128,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "small-llm")
    return tmp_path / "small-llm"
