"""Names of models and sentences about failures: what is kept of them, and what never is."""

from __future__ import annotations

import pytest

from collectors._names import model_name, sentence


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://u:S3CRET@hf.co/org/model?token=S3CRET", "org/model"), ("https://huggingface.co/org/model/tree/main#x", "org/model"),
        ("u:S3CRET@host:8000/org/model", "host:8000/org/model"), ("org/model?token=S3CRET", "org/model"),
        ("s3://bucket/S3CRET/tiny", "tiny"), ("https://u:S3CRET@hf.co", None), ("file:///home/u/tiny/", "tiny"), ("~/tiny", "tiny"),
        ("C:\\models\\tiny", "tiny"), ("/models/models--Qwen--Qwen3-0.6B/snapshots/c1899de2/", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"), ("llama3:8b", "llama3:8b"), ("meta/llama-2-70b:free", "meta/llama-2-70b:free"),
        ("Llama 3 (#2) 70B", "Llama 3 (#2) 70B"), ("model@main", "model@main"), ("", None), (7, None),
    ],
)  # fmt: skip
def test_a_model_keeps_its_name_and_nothing_around_it(text: object, name: str | None) -> None:
    assert model_name(text) == name
    assert model_name(name) == name


SECRETS = [
    ("Incorrect API key provided: abcd1234efgh5678", "abcd1234efgh5678"), ("Invalid API key hunter2hunter", "hunter2hunter"),
    ("401 Unauthorized: key k9x8", "k9x8"), ("token abcdef123456 expired", "abcdef123456"), ("api-key abc123", "abc123"),
    ("password hunter2", "hunter2"), ("Cookie: session=abc; other=def", "def"), ("token: 1234567890", "1234567890"),
    ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sflKxw", "sflKxw"), ("got AIzaSyA1234567890abcdef", "AIzaSyA1234567890abcdef"),
    ("X-Amz-Signature=deadbeef&x=1", "deadbeef"), ("Credential=AKIA" + "X" * 16 + "/2026", "X" * 16),
    ("key=12345678", "12345678"), ("cannot reach user:pw@host:8000", "pw@"), ('{"api_key": "abc"}', "abc"),
    ("Bearer abcdef", "abcdef"), ("secret is correcthorse", "correcthorse"), ("key 1234567890", "1234567890"),
    ("Authorization: Token zzzzzzzzzz", "zzzzzzzzzz"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_no_secret_of_a_failure_is_kept(text: str, secret: str) -> None:
    kept = sentence(text)
    assert kept is not None
    assert secret not in kept
    assert "<h" in kept


@pytest.mark.parametrize(
    "text", ["max tokens 512", "429 Too Many Requests", "token limit of 4096 reached", "Connection reset by peer", "timeout after 30 s"]
)  # fmt: skip
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert sentence(text) == text
