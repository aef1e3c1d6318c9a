"""Training on a lake: every target with rows, promoted where it is no worse, taken back by hand, scored on request."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sample_rows import run

from etl import training, twins
from models.learned import contenders
from warehouse import parquet
from warehouse.store import Home, Store, open_store

DEVICE = {
    "hardware_id": "test-cpu", "name": "Test CPU", "kind": "cpu", "memory_bytes": 6.4e10,
    "memory_bandwidth_bytes_per_s": 2e10, "peak_fp32_flops_per_s": 1e11, "source": "made up", "source_date": "2026-11-21",
}  # fmt: skip
PARAMETERS = {"opt-125m": 125e6, "gpt2": 124e6, "bloom-560m": 559e6}


def measured(contexts: tuple[int, ...] = (64, 256), *, noise: float = 0.0) -> list[dict[str, Any]]:
    """Decode steps on a device that no catalogue holds: the weights at 16 GB/s and 1 ms a sequence on top."""
    random = np.random.default_rng(0)
    fp32 = dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "fp32")
    return [
        run(f"{llm}-{batch}-{context}-{noise}", llm_id=llm, hardware_id="test-cpu", attention="sdpa", **fp32, batch_size=batch,
            context_tokens=context, execution="eager", framework="transformers",
            latency_s=(4 * parameters / 16e9 + 1e-3 * batch * (1 + context / 1024)) * float(np.exp(noise * abs(random.standard_normal()))))
        for llm, parameters in PARAMETERS.items() for batch in (1, 2, 4) for context in contexts
    ]  # fmt: skip


def land(store: Store, name: str, runs: list[dict[str, Any]]) -> None:
    parquet.land(store.home.landing, name, {"runs": runs, "hardware": [DEVICE]})
    assert not store.load().quarantined
    twins.add(store, lambda line: None)


def trained(store: Store) -> list[str]:
    """Train the latency; what was said."""
    said: list[str] = []
    assert not training.train(store, said.append, ["latency"]).quarantined
    return said


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose predictor has learnt from rows of a busy machine."""
    place = Home.of(tmp_path_factory.mktemp("rough") / "home")
    place.prepare()
    with open_store(place) as store:
        land(store, "rough", measured(noise=1.0))
        said = trained(store)
    assert any("18 rows: median error leave_model_out" in line for line in said)
    assert said[-1] == "latency: promoted: the first predictor of this target."
    return place.path


@pytest.fixture(scope="module")
def fine(rough: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same home when quiet rows have come and a better predictor has taken over."""
    path = tmp_path_factory.mktemp("fine") / "home"
    shutil.copytree(rough, path)
    with open_store(path) as store:
        land(store, "quiet", measured((32, 64, 128, 256)))
        said = trained(store)
    assert said[-1].startswith("latency: promoted: leave_model_out: median error")
    return path


@pytest.fixture
def store(rough: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of `rough`."""
    shutil.copytree(rough, tmp_path / "home")
    with open_store(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def later(fine: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of `fine`."""
    shutil.copytree(fine, tmp_path / "later")
    with open_store(tmp_path / "later") as opened:
        yield opened


def count(store: Store, table: str) -> int:
    return int(store.sql(f"SELECT count(*) AS n FROM {table}").column("n")[0].as_py())


def test_the_first_predictor_is_promoted_with_its_scores_and_its_file(store: Store) -> None:
    (row,) = store.query("promoted_predictors").to_pylist()
    assert row["target"] == "latency"
    assert row["hardware_ids"] == ["test-cpu"]
    found = training.promoted(store)["latency"]
    assert found.predictor_id == row["predictor_id"]
    assert found.snapshot_id is not None
    scores = store.sql(
        "SELECT name, is_baseline, mdape FROM predictor_scores JOIN predictors USING (predictor_id) "
        "WHERE fold = 'all' AND split = 'leave_model_out' AND population = 'lake' ORDER BY is_baseline"
    ).to_pylist()
    assert [row["is_baseline"] for row in scores] == [False, True, True, True, True]
    assert scores[0]["mdape"] == found.card["scores"]["leave_model_out"]["rooflake"]["mdape"]
    assert count(store, "predictions") == count(store, "(SELECT DISTINCT predictor_id, split, run_id FROM predictions)")


def test_the_same_rows_are_not_learnt_from_twice(store: Store) -> None:
    before = {table: count(store, table) for table in ("predictors", "predictor_scores", "promotions")}
    said = trained(store)
    assert said == ["latency: the same 18 rows as before; nothing new to learn.", "latency: it answers already."]
    assert {table: count(store, table) for table in before} == before


def test_a_lost_or_broken_file_is_made_again(store: Store) -> None:
    (path,) = store.home.predictors.iterdir()
    content = path.read_bytes()
    path.unlink()
    said: list[str] = []
    assert training.promoted(store, said.append) == {}
    assert "is not in" in said[0]
    path.write_bytes(content[:100])
    assert training.promoted(store, said.append) == {}
    assert "is no predictor" in said[1]
    trained(store)
    assert training.promoted(store)["latency"].file_name == path.name
    assert count(store, "promotions") == 1


def test_a_worse_predictor_is_not_promoted_and_says_why(later: Store) -> None:
    before = training.promoted(later)["latency"].predictor_id
    land(later, "wild", measured((48, 96, 160, 192, 224), noise=2.0))
    said = trained(later)
    assert said[-1].startswith(f"latency: not promoted, {before} goes on answering: leave_model_out: median error")
    assert "rows that both were scored on" in said[-1]
    assert training.promoted(later)["latency"].predictor_id == before
    assert count(later, "promotions") == 2
    assert count(later, "predictors") == 15


def test_what_took_over_is_taken_back_by_hand_and_stays_back(later: Store) -> None:
    rows = later.sql("SELECT * FROM promotions ORDER BY promoted_at").to_pylist()
    first, second = (row["predictor_id"] for row in rows)
    assert rows[1]["replaced_id"] == first
    assert training.rollback(later, "latency") == f"latency: {first} answers again, in place of {second}."
    assert training.promoted(later)["latency"].predictor_id == first
    assert trained(later)[-1] == f"latency: {second} was taken back by hand and stays so; {first} answers."
    with pytest.raises(ValueError, match=f"{first} is the first predictor of latency: there is none to go back to"):
        training.rollback(later, "latency")
    assert count(later, "(SELECT * FROM promotions WHERE is_rollback)") == 1


def test_what_cannot_be_taken_back_is_a_sentence(store: Store) -> None:
    with pytest.raises(ValueError, match="No predictor of gemm_time was ever promoted"):
        training.rollback(store, "gemm_time")
    with pytest.raises(KeyError, match=r"'beauty' is not predicted\. Known: "):
        training.rollback(store, "beauty")


def test_targets_without_rows_are_a_line_each(store: Store) -> None:
    said: list[str] = []
    training.train(store, said.append, ["gemm_time", "memory_device"])
    assert len(said) == 2
    assert all("nobody measured or published a" in line for line in said)


class Constant:
    """An external contender: the median of what it has seen."""

    name = "constant"

    def fit(self, rows: pa.Table, target: Any) -> None:
        assert "measured_latency_s" not in rows.column_names
        self._value = float(np.median(target))

    def predict(self, rows: pa.Table) -> Any:
        return np.full(rows.num_rows, self._value)


def test_an_external_contender_is_scored_on_the_same_rows_and_stored(store: Store) -> None:
    found = training.evaluate(
        store, lambda line: None, ["latency"], ["leave_model_out"], [f"{__name__}:Constant"], is_stored=True
    ).to_pylist()
    pooled = {row["contender"]: row for row in found if row["fold"] == "all"}
    assert set(pooled) == {"rooflake", "constant", *contenders.BASELINES}
    assert {row["num_rows"] for row in pooled.values()} == {18}
    assert pooled["constant"]["mape"] > pooled["rooflake"]["mape"]
    stored = store.sql(
        "SELECT method, is_baseline, population, mape FROM predictor_scores JOIN predictors USING (predictor_id) WHERE fold = 'all'"
        " AND population = 'evaluation' AND split = 'leave_model_out'"
    ).to_pylist()
    assert {(row["method"], row["is_baseline"]) for row in stored} == {
        ("rooflake", False), ("constant", False), *((name, True) for name in contenders.BASELINES)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere:Class", "'nowhere:Class' is no contender"),
        ("pathlib:Nothing", "'pathlib:Nothing' is no contender"),
        ("pathlib:Path", "'pathlib:Path' lacks fit, predict"),
        ("", "'' is no contender"),
    ],
)
def test_what_is_no_contender_is_a_sentence(spec: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        contenders.named(spec)
