"""Matrix products: Vidur's layers and the tables of aiconfigurator."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.predictors.board import Board, Goal

VIDUR = {"source": "vidur"}
TABLES = {"source": "aiconfigurator"}


def covered(half_width: float) -> tuple[Goal, ...]:
    """Goals of a nominal 90 % interval."""
    return (
        Goal("coverage", least=0.88, most=0.92, note="nominal 90 %"),
        Goal("worst_coverage", least=0.8),
        Goal("half_width", most=half_width),
    )


def one_backend(rows: pa.Table) -> pa.Table:
    """vLLM's products in bf16 and fp8 with one scale a tensor: what every one of the architectures was timed in."""
    is_common = pc.and_(
        pc.equal(rows["framework"], "vllm"), pc.is_in(rows["activation_dtype"], pa.array(["bf16", "fp8"]))
    )
    return rows.filter(pc.and_(is_common, pc.invert(rows["is_block_scaled"])))


BOARDS = (
    Board("vidur-gemm-llm", "Vidur GEMM, LLM never seen", "gemm_time", "leave_model_out", (Goal("mape", most=0.05), Goal("mdape", most=0.035), *covered(0.125)), VIDUR),
    Board("vidur-gemm-size", "Vidur GEMM, more than 1,024 tokens", "gemm_time", "beyond_size", (Goal("mape", most=0.06),), VIDUR, size_limit=1024),
    Board("vidur-gemm-device", "Vidur GEMM, device never seen", "gemm_time", "leave_device_out", (Goal("mape", most=0.085), *covered(0.20)), VIDUR),
    Board("vidur-gemm-random", "Vidur GEMM, random rows", "gemm_time", "random", covered(0.075), VIDUR),
    Board("tables-gemm-shape", "aiconfigurator GEMM of vLLM in bf16 and fp8, shape never seen", "gemm_time", "leave_shape_out", (Goal("mape", most=0.063),), TABLES, one_backend),
    Board("tables-gemm-generation", "the same, architecture never seen", "gemm_time", "leave_generation_out", (Goal("mape", most=0.22),), TABLES, one_backend),
    Board("tables-gemm-generation-64", "the same with 64 rows of it", "gemm_time", "leave_generation_out", (Goal("mape", most=0.12),), TABLES, one_backend, few=64),
    Board("tables-gemm-generation-256", "the same with 256 rows of it", "gemm_time", "leave_generation_out", (Goal("mape", most=0.10),), TABLES, one_backend, few=256),
    Board("all-tables-gemm-shape", "aiconfigurator GEMM of every backend and format, shape never seen", "gemm_time", "leave_shape_out", (Goal("mape", most=0.063),), TABLES),
    Board("all-tables-gemm-generation", "the same, architecture never seen", "gemm_time", "leave_generation_out", (Goal("mape", most=0.22),), TABLES),
    Board("all-tables-gemm-generation-256", "the same with 256 rows of it", "gemm_time", "leave_generation_out", (Goal("mape", most=0.10),), TABLES, few=256),
)  # fmt: skip
