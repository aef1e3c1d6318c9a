"""Cloud Monitoring's readings of an endpoint's accelerators, from a double on loopback that has pages, replicas and delays."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_doubles import ENDPOINT, LOCATION, VertexDouble, series, serving

from collectors.endpoint import _monitoring
from collectors.endpoint._providers import Asked, Target, vertex
from warehouse import parquet

BEGAN = datetime.datetime(2026, 11, 21, 12, 0, 30, tzinfo=datetime.UTC)
ENDED = BEGAN + datetime.timedelta(seconds=120)
DUTY, MEMORY = (f"{_monitoring.PREFIX}{name}" for name in _monitoring.METRICS)


def at(seconds: float) -> datetime.datetime:
    return BEGAN + datetime.timedelta(seconds=seconds)


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexDouble]:
    """Vertex AI and Cloud Monitoring on loopback, with credentials they accept."""
    pytest.importorskip("google.auth", reason="google-auth is not installed: pip install 'rooflake[cloud]'")
    one = VertexDouble()
    with serving(one):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(one.credentials(tmp_path)))
        yield one


def target(double: VertexDouble, endpoint: str = ENDPOINT) -> Target:
    return vertex.target(Asked(double.url, "demo", options={"location": LOCATION, "endpoint": endpoint}))


def test_readings_of_two_replicas_over_pages(double: VertexDouble, tmp_path: Path) -> None:
    double.series = {
        DUTY: [series("b", {at(30): 0.5, at(90): 0.75}), series("a", {at(30): 0.25})],
        MEMORY: [
            series("a", {at(-30): 1, at(30): 16e9, at(150): 17e9}, "int64Value"),
            {},
            series("b", {at(0): 1, at(30): 8e9, at(181): 1}, "int64Value"),
        ],
    }
    rows, note = _monitoring.rows(target(double), "run-1", BEGAN, ENDED, url=double.url)
    assert note is None
    assert rows == [
        {"run_id": "run-1", "device_index": 0, "at_s": 30.0, "utilization": 0.25, "memory_used_bytes": 16e9},
        {"run_id": "run-1", "device_index": 0, "at_s": 150.0, "memory_used_bytes": 17e9},
        {"run_id": "run-1", "device_index": 1, "at_s": 30.0, "utilization": 0.5, "memory_used_bytes": 8e9},
        {"run_id": "run-1", "device_index": 1, "at_s": 90.0, "utilization": 0.75},
    ]
    parquet.land(tmp_path, "run-1", {"telemetry": rows})
    pages = [asked for asked in double.asked if "timeSeries" in asked.path]
    assert len(pages) == 2 + 3
    assert all(asked.headers["authorization"] == f"Bearer {double.tokens[-1]}" for asked in pages)


def test_only_a_run_that_asks_for_readings_gets_them(double: VertexDouble) -> None:
    double.series = {DUTY: [series("a", {at(140): 0.5})]}
    told = {"location": LOCATION, "endpoint": ENDPOINT, "monitoring-url": double.url}
    plain = vertex.target(Asked(double.url, "demo", options=told))
    assert _monitoring.of_run(plain, "r", BEGAN, ENDED) == ([], None)
    asked = vertex.target(Asked(double.url, "demo", options={**told, "monitoring-wait-s": "0"}))
    rows, note = _monitoring.of_run(asked, "r", BEGAN, ENDED)
    assert ([row["utilization"] for row in rows], note) == ([0.5], None)
    with pytest.raises(ValueError, match="monitoring-wait-s"):
        vertex.target(Asked(double.url, "demo", options={**told, "monitoring-wait-s": "all day"}))


def test_readings_that_are_late_are_waited_for(double: VertexDouble) -> None:
    threading.Timer(0.1, lambda: double.series.update({DUTY: [series("a", {at(140): 0.5})]})).start()
    rows, note = _monitoring.rows(target(double), "r", BEGAN, ENDED, url=double.url, wait_s=20, poll_s=0.03)
    assert (len(rows), note) == (1, None)


def test_what_is_missing_is_said(double: VertexDouble) -> None:
    asked = target(double)
    assert _monitoring.rows(asked, "r", BEGAN, ENDED, url=double.url) == (
        [],
        "Cloud Monitoring has no reading of the endpoint's accelerators in the run (yet).",
    )
    double.series = {DUTY: [series("a", {at(60): 0.5})]}
    rows, note = _monitoring.rows(asked, "r", BEGAN, ENDED, url=double.url)
    assert [row["at_s"] for row in rows] == [60.0]
    assert note is not None
    assert "before the run's end" in note
    rows, note = _monitoring.rows(target(double, "openapi"), "r", BEGAN, ENDED, url=double.url)
    assert (rows, note) == (
        [],
        "Cloud Monitoring knows no accelerator of it: the model is not on an endpoint of one's own.",
    )


def test_a_service_that_fails_costs_no_run(double: VertexDouble) -> None:
    asked = target(double)
    said = f"no permission, {double.tokens[-1]} has not"
    double.faults = [
        (403, {}, {"error": {"code": 403, "message": said}}),
        (302, {"location": "http://127.0.0.1:9/stolen"}, {}),
        (200, {}, []),
        (200, {}, {"timeSeries": [{"metric": 3}]}),
        (200, {}, {"timeSeries": [{"metric": {}, "points": [{"interval": {"endTime": "noon"}, "value": {"x": 1}}]}]}),
    ]
    notes = [_monitoring.rows(asked, "r", BEGAN, ENDED, url=double.url) for _ in range(5)]
    assert [rows for rows, _ in notes] == [[]] * 5
    assert "HTTP 403: no permission, [key] has not" in str(notes[0][1])
    assert "HTTP 302" in str(notes[1][1])
    assert all(str(note).startswith("Cloud Monitoring was not read: ") for _, note in notes)
    rows, note = _monitoring.rows(asked, "r", BEGAN, ENDED, url="http://127.0.0.1:9")
    assert rows == []
    assert "was not read" in str(note)
