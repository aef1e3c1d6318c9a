"""The league: boards found, goals judged, results written where people and the dashboard see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.predictors import league
from benchmarks.predictors.board import Board, Goal
from models.learned import contenders
from models.learned.subjects import TARGETS
from warehouse.store import Home, open_store

BOARD = Board(
    "test-llm",
    "A test, LLM never seen",
    "latency",
    "leave_model_out",
    (Goal("mape", most=0.05), Goal("coverage", least=0.88, most=0.92)),
)
OTHER = Board("not-run", "Another, not run", "latency", "random")


def score(contender: str, fold: str, mape: float, **values: Any) -> dict[str, Any]:
    return {
        "contender": contender,
        "split": "leave_model_out",
        "fold": fold,
        "num_rows": 10,
        "mape": mape,
        "mdape": mape / 2,
    } | values


RESULT = {
    "key": BOARD.key, "title": BOARD.title, "target": "latency", "split": "leave_model_out", "limit": None, "snapshot_id": 3, "seconds": 1.0,
    "goals": [{"score": goal.score, "most": goal.most, "least": goal.least, "note": goal.note} for goal in BOARD.goals], "notes": [],
    "scores": [
        score(contenders.Forest.name, "all", 0.4), score(contenders.Forest.name, "a", 0.4), score("visitor", "all", 0.03),
        score("rooflake", "all", 0.04, coverage=0.95, interval_width_median=1.21), score("rooflake", "a", 0.05, coverage=1.0),
        score("rooflake", "b", 0.03, coverage=0.9),
    ],
}  # fmt: skip


def test_every_board_has_a_known_target_and_a_key_of_its_own() -> None:
    found = league.boards()
    assert len(found) > 8
    assert {board.target for board in found.values()} <= set(TARGETS)
    assert all(key == board.key and board.title for key, board in found.items())


def test_a_goal_is_met_missed_or_not_known() -> None:
    (first, is_first), (second, is_second) = (league.judged(RESULT, goal) for goal in BOARD.goals)
    assert (first, is_first) == ("MAPE ≤ 5.0%: 4.0%", True)
    assert (second, is_second) == ("coverage ≤ 92.0% and ≥ 88.0%: 95.0%", False)
    assert league.judged(RESULT, Goal("r2", least=0.9))[1] is None
    assert league.judged(RESULT, Goal("worst_coverage", least=0.8)) == ("worst coverage ≥ 80.0%: 90.0%", True)
    assert league.judged(RESULT, Goal("half_width", most=0.125)) == ("half-width ≤ 12.5%: 10.0%", True)


def test_the_page_shows_ours_first_the_baselines_others_and_every_part() -> None:
    text = league.markdown([RESULT], {BOARD.key: BOARD, OTHER.key: OTHER})
    (line,) = [line for line in text.splitlines() if line.startswith("| test-llm: A test")]
    assert "| 10 | 4.0% | 2.0% |" in line
    assert "| 40.0% |" in line
    assert "| no | 95.0% (least 90.0%) | ± 10.0% | a: 5.0% |" in line
    assert "| test-llm | visitor | 10 | 3.0% | 1.5% |  |" in text
    assert "### test-llm" in text
    assert "| b | 10 | 3.0% | 1.5% |  | 90.0% |" in text
    assert "Not run yet: Another, not run." in text


def test_scores_are_stored_once_however_often_they_are_made(tmp_path: Path) -> None:
    place = Home.of(tmp_path / "home")
    place.prepare()
    for _ in range(2):
        league.store_scores([RESULT], {BOARD.key: BOARD}, place.path)
    with open_store(place, read_only=True) as store:
        rows = store.sql(
            "SELECT * FROM predictors JOIN predictor_scores USING (predictor_id) ORDER BY method, fold"
        ).to_pylist()
        assert not list(place.quarantine.rglob("*.parquet"))
    assert [(row["method"], row["fold"], row["is_baseline"]) for row in rows] == [
        (contenders.Forest.name, "a", True), (contenders.Forest.name, "all", True), ("rooflake", "a", False), ("rooflake", "all", False),
        ("rooflake", "b", False), ("visitor", "all", False),
    ]  # fmt: skip
    assert {row["population"] for row in rows} == {"test-llm"}


def test_a_board_without_its_rows_is_a_sentence(tmp_path: Path) -> None:
    place = Home.of(tmp_path / "home")
    place.prepare()
    open_store(place).close()
    with pytest.raises(ValueError, match="No rows to learn gemm_time from"):
        league.run_one("vidur-gemm-llm", 100, place.path, [])
