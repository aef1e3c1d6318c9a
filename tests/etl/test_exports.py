"""Runs of a lake as files of other tools, chosen by id or all that fit, and read again by the importers."""

from __future__ import annotations

import json
from pathlib import Path

import measured_lake
import pytest
from command_line import rooflake

from collectors import _importing
from etl import exports
from warehouse.store import Home, open_store

SERVED = Path(__file__).parents[1] / "collectors" / "data" / "vllm" / "serve_detailed.json"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with measured layers and one imported load."""
    place = measured_lake.build(tmp_path_factory.mktemp("exports"))
    _importing.collect(Home.of(place).landing, files=[SERVED], hardware_id="h100-sxm")
    with open_store(Home.of(place)) as store:
        store.load()
    return place


def test_every_served_load_is_a_report_that_imports_as_itself(home: Path, tmp_path: Path) -> None:
    answer = rooflake("export", "llmd-report", "--home", home, "--folder", tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    paths = [Path(line) for line in answer.stdout.split()]
    assert [json.loads(path.read_text())["version"] for path in paths] == ["0.2.1"] * len(paths)
    _importing.collect(tmp_path / "landing", files=paths)
    with open_store(Home.of(home), read_only=True) as store:
        ids = store.sql("SELECT run_id FROM runs WHERE phase = 'serve' AND status = 'ok'").column("run_id").to_pylist()
    assert sorted(path.stem for path in paths) == sorted(ids)


def test_layers_are_written_for_vidur_and_read_again(home: Path, tmp_path: Path) -> None:
    with open_store(Home.of(home), read_only=True) as store:
        paths = exports.vidur_profiles(store, None, tmp_path)
    assert {path.name for path in paths} <= {"mlp.csv", "attention.csv"}
    _importing.collect(tmp_path / "landing", files=[path for path in paths if path.name == "mlp.csv"])


@pytest.mark.parametrize("layout", ["llmd-report", "vidur"])
def test_a_run_that_is_not_there_is_a_sentence_and_nothing_is_written(home: Path, tmp_path: Path, layout: str) -> None:
    answer = rooflake("export", layout, "no-such-run", "--home", home, "--folder", tmp_path / "out")
    assert answer.returncode == 2
    assert "'no-such-run' is not a run of this lake" in answer.stderr
    assert not (tmp_path / "out").exists()
