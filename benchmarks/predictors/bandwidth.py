"""Achieved bandwidth: rows measured here, and the generations of LLM-Inference-Bench. Latency in other words, so no goal of its own."""

from __future__ import annotations

from benchmarks.predictors.board import Board

OWN = {"source": "rooflake/local_profile"}
PUBLIC = {"source": "llm-inference-bench"}
BOARDS = (
    Board("bandwidth-own-random", "Bandwidth achieved here, random rows: the protocol of bhavana-iitbbs", "bandwidth", "random", (), OWN),
    Board("bandwidth-own-llm", "Bandwidth achieved here, LLM never seen", "bandwidth", "leave_model_out", (), OWN),
    Board("bandwidth-bench-llm", "Bandwidth of LLM-Inference-Bench, LLM never seen", "bandwidth", "leave_model_out", (), PUBLIC),
    Board("bandwidth-bench-stack", "the same, device and framework never seen together", "bandwidth", "leave_stack_out", (), PUBLIC),
)  # fmt: skip
