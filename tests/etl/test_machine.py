"""What a lake knows of the machine at hand: what needs no measuring again, where its memory ends."""

import math

from sample_rows import run

from etl import machine
from warehouse.parquet import land
from warehouse.store import Home, open_store


def test_what_was_only_reckoned_or_had_less_time_is_measured_again(tmp_path):
    place = Home.of(tmp_path)
    place.prepare()
    ours = {"collector": "local_profile", "source_id": "rooflake/local_profile", "source_kind": "measured"}
    outcomes = {
        "fine": {"status": "ok", "status_detail": "no energy: not tried"},
        "full": {"status": "oom", "status_detail": "OutOfMemoryError: CUDA out of memory."},
        "large": {"status": "oom", "status_detail": "needs 9.0 GiB and 1.0 GiB are free; not tried"},
        "slow": {"status": "timeout", "status_detail": "took longer than its limit of 30 s", "duration_s": 30.0},
        "slower": {"status": "timeout", "status_detail": "not started: its bound exceeds the limit"},
        "broken": {"status": "error", "status_detail": "TypeError"},
    }
    rows = [run(name, repeat_group_id=name, **ours, **outcome) for name, outcome in outcomes.items()]
    rows.append(run("again", repeat_group_id="slow", **ours, **outcomes["slow"] | {"duration_s": 60.0}))
    source = {"source_id": ours["source_id"], "title": "Local profile", "kind": "machine"}
    land(place.landing, "a", {"runs": rows, "sources": [source]})
    with open_store(place) as store:
        assert store.load().quarantined == {}
        assert machine.known(store, "local_profile", "cpu")["skip"] == {
            "fine": math.inf,
            "full": math.inf,
            "slow": 60.0,
        }


def test_the_boundary_of_memory_is_what_was_found_to_fit(tmp_path):
    place = Home.of(tmp_path)
    place.prepare()
    rows = [run("ran", batch_size=1, max_batch_size=40), run("not", batch_size=41, status="oom", latency_s=None)]
    land(place.landing, "a", {"runs": rows})
    with open_store(place) as store:
        assert store.load().quarantined == {}
        (found,) = store.query("memory_boundary").to_pylist()
    assert (found["largest_ok"], found["smallest_oom"], found["ok_run_id"]) == (40, 41, "ran")
