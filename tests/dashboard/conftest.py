"""One small lake for all of the dashboard's tests, read only."""

from __future__ import annotations

from collections.abc import Iterator

import measured_lake
import pytest
import small_lake
from dash import Dash

from dashboard.app import create_app
from dashboard.data import Lake
from warehouse.store import open_store


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    filled = Lake(small_lake.build(tmp_path_factory.mktemp("home")))
    yield filled
    filled.close()


@pytest.fixture(scope="session")
def bench_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """What the measuring collectors land."""
    filled = Lake(measured_lake.build(tmp_path_factory.mktemp("bench")))
    yield filled
    filled.close()


@pytest.fixture(scope="session")
def empty_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    home = tmp_path_factory.mktemp("empty")
    open_store(home).close()
    nothing = Lake(home)
    yield nothing
    nothing.close()


@pytest.fixture(scope="session")
def app(lake: Lake) -> Dash:
    return create_app(lake.home)
