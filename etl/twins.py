"""Every measured and published configuration beside its bound."""

from __future__ import annotations

from collections.abc import Callable

from etl import calibration
from warehouse import catalog
from warehouse.store import LoadReport, Store


def add(store: Store, report: Callable[[str], None]) -> LoadReport:
    """Load the analytical row, under the same configuration key, of every measured or published configuration without one.

    LLMs and devices are the lake's as well as the catalogue's. What cannot be bounded is reported. Returns what the load did.
    """
    from collectors import roofline
    from models.analytical import ENGINE_REVISION

    configs = store.query("untwinned_configurations", revision=ENGINE_REVISION)
    if configs.num_rows == 0:
        return LoadReport()
    known = catalog.llms()
    llms = store.sql("SELECT * EXCLUDE (file_hash) FROM llms").to_pylist()
    collected = roofline.twins(
        configs,
        store.home.landing,
        report=report,
        hardware_rows=store.sql("SELECT * EXCLUDE (file_hash) FROM hardware WHERE measured_of IS NULL").to_pylist(),
        llm_rows=[row for row in llms if row["llm_id"] not in known],
        calibrations=calibration.fitted(store),
    )
    loaded = store.load()
    if collected.num_runs:
        report(f"{collected.num_runs} analytical twins of {configs.num_rows} configurations.")
    return loaded
