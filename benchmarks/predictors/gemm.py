"""Matrix products: Vidur's layers and the tables of aiconfigurator."""

from __future__ import annotations

from benchmarks.predictors.board import Board, Goal

VIDUR = {"source": "vidur"}
TABLES = {"source": "aiconfigurator"}
BOARDS = (
    Board("vidur-gemm-llm", "Vidur GEMM, LLM never seen", "gemm_time", "leave_model_out", (Goal("mape", most=0.05), Goal("mdape", most=0.035)), VIDUR),
    Board("vidur-gemm-size", "Vidur GEMM, more than 1,024 tokens", "gemm_time", "beyond_size", (Goal("mape", most=0.06),), VIDUR, size_limit=1024),
    Board("vidur-gemm-device", "Vidur GEMM, device never seen", "gemm_time", "leave_device_out", (Goal("mape", most=0.085),), VIDUR),
    Board("vidur-gemm-random", "Vidur GEMM, random rows", "gemm_time", "random", (), VIDUR),
    Board("tables-gemm-shape", "aiconfigurator GEMM, shape never seen", "gemm_time", "leave_shape_out", (Goal("mape", most=0.063),), TABLES),
    Board("tables-gemm-generation", "aiconfigurator GEMM, architecture never seen", "gemm_time", "leave_generation_out", (Goal("mape", most=0.22),), TABLES),
    Board("tables-gemm-generation-64", "the same with 64 rows of it", "gemm_time", "leave_generation_out", (Goal("mape", most=0.12),), TABLES, few=64),
    Board("tables-gemm-generation-256", "the same with 256 rows of it", "gemm_time", "leave_generation_out", (Goal("mape", most=0.10),), TABLES, few=256),
)  # fmt: skip
