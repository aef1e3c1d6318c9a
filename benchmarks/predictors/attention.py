"""Attention, layers of experts and collectives: the tables of aiconfigurator, and Vidur's collectives.

Architectures held out are scored on vLLM, the one backend that the tables hold on every device, and once on all backends.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.predictors.board import Board, Goal

TABLES = {"source": "aiconfigurator"}
VIDUR = {"source": "vidur"}


def on_vllm(rows: pa.Table) -> pa.Table:
    """Rows timed inside vLLM."""
    return rows.filter(pc.equal(rows["framework"], "vllm"))


def over_nvlink(rows: pa.Table) -> pa.Table:
    """Collectives whose devices are known to share NVLink: all of one node of a DGX, or one linked pair."""
    return rows.filter(pc.fill_null(pc.equal(rows["interconnect"], "nvlink"), False))


def _generations(phase: str, few: int) -> Board:
    title = "architecture never seen" if few == 0 else f"the same with {few} rows of it"
    return Board(
        f"tables-{phase}-generation" + (f"-{few}" if few else ""),
        f"aiconfigurator {phase} attention on vLLM, {title}",
        f"attention_{phase}_time",
        "leave_generation_out",
        (Goal("mape", most=0.11, note="mean over architectures"),) if few == 256 else (),
        TABLES,
        on_vllm,
        few=few,
    )


def _phase(phase: str, most: float) -> tuple[Board, ...]:
    target = f"attention_{phase}_time"
    what = f"aiconfigurator {phase} attention"
    return (
        Board(f"tables-{phase}-heads", f"{what}, heads never seen", target, "leave_shape_out", (Goal("mape", most=most),), TABLES),
        *(_generations(phase, few) for few in (0, 16, 64, 256)),
        Board(f"tables-{phase}-generation-256-backends", f"{what} of every backend, 256 rows of the architecture", target, "leave_generation_out", (), TABLES, few=256),
        Board(f"tables-{phase}-random", f"{what}, random rows", target, "random", (), TABLES),
    )  # fmt: skip


BOARDS = (
    *_phase("decode", 0.06),
    *_phase("prefill", 0.065),
    Board("tables-experts-llm", "aiconfigurator layers of experts, LLM never seen", "experts_time", "leave_shape_out", (Goal("mape", most=0.12),), TABLES),
    Board("tables-experts-generation-256", "aiconfigurator layers of experts, 256 rows of the architecture", "experts_time", "leave_generation_out", (), TABLES, few=256),
    Board("tables-collectives-size", "aiconfigurator collectives, every third size never seen", "collective_time", "leave_shape_out", (Goal("mape", most=0.101),), TABLES),
    Board("vidur-collectives-size", "Vidur collectives over NVLink, every third half octave of sizes never seen", "collective_time", "leave_shape_out", (), VIDUR, over_nvlink),
)  # fmt: skip
