"""What `endpoint --serve` refuses before it starts anything; that it serves is in tests/e2e/test_endpoint_server.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collectors import endpoint
from warehouse import catalog


def test_an_llm_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    collected = endpoint.collect(
        tmp_path, serve="llama-3.1-405b", device="cpu", weight_dtype="fp32", concurrency=1, report=said.append
    )
    assert (collected.num_runs, collected.num_failed, list(tmp_path.iterdir())) == (0, 0, [])
    (sentence,) = said
    assert sentence.startswith("left out: Serving llama-3.1-405b in fp32 takes 1948.")
    assert sentence.endswith("GB are free.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://127.0.0.1:1"}, r"^--url is for a server that runs already; leave it out with --serve\.$"),
        ({"framework_version": "1"}, r"^--framework-version is for a server that runs already"),
        ({"provider": "vllm"}, r"^--serve starts an OpenAI-compatible server on one device"),
        ({"serve": "bert-base"}, r"^'bert-base' is an encoder; only decoders can be served here\.$"),
        ({"serve": "t5-small"}, r"^'t5-small' is an encoder-decoder; only decoders"),
        ({"weight_dtype": "int8"}, r"^'int8' cannot be served here\. Known: fp32, bf16, fp16\."),
        ({"attention": "paged"}, r"^'paged' cannot be asked of transformers\. Known: eager, sdpa, flash\.$"),
        ({"serve": None}, r"^No model is named\. Give --model with --url, or --serve for a server of its own\.$"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        endpoint.collect(tmp_path, **{"serve": "gpt2", "device": "cpu", **options})
    assert list(tmp_path.iterdir()) == []


def test_an_llm_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(catalog.UnknownEntryError, match="'gtp2' is not in the LLM catalogue"):
        endpoint.collect(tmp_path, serve="gtp2")
