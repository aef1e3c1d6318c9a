"""Accelerators behind a Vertex AI endpoint, as Cloud Monitoring saw them during a run: rows of `telemetry`.

Plain REST (projects.timeSeries.list) with the credentials of the endpoint. Source of what the metrics mean and of the two
times below: Google Cloud's list of aiplatform metrics, read in November 2026.
"""

from __future__ import annotations

import datetime
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from collectors.endpoint._providers import Target, vertex
from collectors.endpoint._stream import error_message

URL = "https://monitoring.googleapis.com"
METRICS = {"duty_cycle": "utilization", "memory/bytes_used": "memory_used_bytes"}
"""Under aiplatform.googleapis.com/prediction/online/accelerator/ -> column of `telemetry`. The first is a share of the sampled
minute, 0 to 1; the second is what a replica holds on all its accelerators."""

PREFIX = "aiplatform.googleapis.com/prediction/online/accelerator/"
SAMPLED_S = 60.0
"""A point stands for the minute before it, so the last of a run may end as long after it."""

VISIBLE_S = 360.0
"""A point can be read this long after its minute at the latest."""

MAX_PAGES = 100
TIMEOUT_S = 30.0


def of_run(
    target: Target, run_id: str, began_at: datetime.datetime, ended_at: datetime.datetime
) -> tuple[list[dict[str, Any]], str | None]:
    """As `rows`, where it was asked for with --provider-options monitoring-wait-s=SECONDS (monitoring-url=URL for another
    service than Google's); nothing otherwise."""
    told = target.options.get("monitoring-wait-s")
    if target.provider != vertex.NAME or told is None:
        return [], None
    return rows(target, run_id, began_at, ended_at, url=target.options.get("monitoring-url", URL), wait_s=float(told))


def rows(
    target: Target,
    run_id: str,
    began_at: datetime.datetime,
    ended_at: datetime.datetime,
    *,
    url: str = URL,
    wait_s: float = 0.0,
    poll_s: float = 15.0,
) -> tuple[list[dict[str, Any]], str | None]:
    """Rows of `telemetry` for a run between two times (UTC), and a sentence on what is missing; None for nothing.

    A device is a replica of the endpoint: 0, 1, ... in the order of their ids. Waits up to `wait_s` (VISIBLE_S shows all) for
    the last minute to become visible, asking every `poll_s`. Never raises for what the service does: a run stands without.
    """
    if (place := re.search(r"/projects/([^/]+)/locations/[^/]+/endpoints/(\d+)", target.base_url)) is None:
        return [], "Cloud Monitoring knows no accelerator of it: the model is not on an endpoint of one's own."
    deadline = time.monotonic() + wait_s
    while True:
        try:
            found = _readings(target, url, place[1], place[2], began_at, ended_at)
        except (OSError, ValueError, LookupError) as error:
            return [], target.sentence(f"Cloud Monitoring was not read: {_reason(error)}")
        newest = max((end for _, end in found), default=None)
        if (newest is not None and newest >= ended_at) or time.monotonic() + poll_s > deadline:
            break
        time.sleep(poll_s)
    replicas = {replica: index for index, replica in enumerate(sorted({replica for replica, _ in found}))}
    made = [
        {"run_id": run_id, "device_index": replicas[replica], "at_s": (end - began_at).total_seconds(), **columns}
        for (replica, end), columns in sorted(found.items())
    ]
    if newest is None:
        return [], "Cloud Monitoring has no reading of the endpoint's accelerators in the run (yet)."
    if newest < ended_at:
        return made, "Cloud Monitoring's last reading is of before the run's end: later ones were not visible yet."
    return made, None


def _readings(
    target: Target, url: str, project: str, endpoint: str, began_at: datetime.datetime, ended_at: datetime.datetime
) -> dict[tuple[str, datetime.datetime], dict[str, float]]:
    """(replica, end of the minute) -> columns. Raises OSError and ValueError for a service that fails or is another."""
    found: dict[tuple[str, datetime.datetime], dict[str, float]] = {}
    until = ended_at + datetime.timedelta(seconds=SAMPLED_S)
    for name, column in METRICS.items():
        query = {
            "filter": f'metric.type = "{PREFIX}{name}" AND resource.labels.endpoint_id = "{endpoint}"',
            "interval.startTime": began_at.astimezone(datetime.UTC).isoformat(),
            "interval.endTime": until.astimezone(datetime.UTC).isoformat(),
        }
        for page in _pages(target, f"{url}/v3/projects/{project}/timeSeries", query):
            for replica, end, value in _points(page):
                if began_at < end <= until:
                    found.setdefault((replica, end), {})[column] = value
    return found


def _points(page: Mapping[str, Any]) -> Iterator[tuple[str, datetime.datetime, float]]:
    """Replica, end of its minute and value of every point. Raises ValueError where the page is none."""
    try:
        for series in page.get("timeSeries", []):
            labels = series["metric"].get("labels", {})
            replica = f"{labels.get('deployed_model_id', '')}/{labels.get('replica_id', '')}"
            for point in series["points"]:
                (value,) = point["value"].values()  # one of doubleValue and int64Value, the latter a string
                end = datetime.datetime.fromisoformat(point["interval"]["endTime"]).astimezone(datetime.UTC)
                yield replica, end, float(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the answer is no list of time series ({error})") from None


def _pages(target: Target, address: str, query: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """Every page of the answer."""
    token, opener = "", urllib.request.build_opener(_NoRedirect)
    for _ in range(MAX_PAGES):
        asked = {**query, **({"pageToken": token} if token else {})}
        request = urllib.request.Request(  # noqa: S310
            f"{address}?{urllib.parse.urlencode(asked)}", headers=vertex.authorization(target)
        )
        with opener.open(request, timeout=TIMEOUT_S) as response:
            page = json.load(response)
        yield page
        if not (token := page.get("nextPageToken", "")):
            return


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token must not reach another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _reason(error: Exception) -> str:
    """A phrase for what went wrong, with what the service says."""
    if not isinstance(error, urllib.error.HTTPError):
        return str(error) or type(error).__name__
    try:
        said = error_message(json.loads(error.read(2**16)))
    except (ValueError, OSError, RecursionError):
        said = None
    return f"HTTP {error.code}: {said or error.reason}"
