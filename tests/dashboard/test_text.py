"""Numbers as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dashboard import text
from warehouse.metrics import metric

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (1234.5, "1,234"), (2e9, "2.00e+09")],
)
def test_number(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("latency_s", 0.0123, "12.3 ms"),
        ("latency_s", 2.5, "2.5 s"),
        ("memory_peak_bytes", 3 * 2**30, "3 GiB"),
        ("flops", 1.36e10, "13.6 GFLOP"),
        ("mfu", 0.41, "41 %"),
        ("output_tokens_per_s", 1500.0, "1,500 tokens/s"),
        ("latency_s", None, "–"),
    ],
)
def test_quantity(key: str, value: float | None, shown: str) -> None:
    assert text.quantity(metric(key), value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(5, "just now"), (120, "2 min ago"), (3600, "1 hour ago"), (3 * 86400, "3 days ago")]
)
def test_ago(seconds: int, shown: str) -> None:
    assert text.ago(NOW - timedelta(seconds=seconds), NOW) == shown


def test_never_is_not_a_time() -> None:
    assert text.ago(None) == "never"


def test_words() -> None:
    assert [text.words(name) for name in ("weight_dtype", "num_samples", "duration_s", "qkv_proj")] == [
        "Weight format", "Samples", "Duration", "QKV projection",
    ]  # fmt: skip
