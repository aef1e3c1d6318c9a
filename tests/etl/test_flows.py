"""The `refresh` flow through Prefect: against a real server on loopback, and with none running."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from warehouse.store import open_store

PLAN = """
name = "small"
train = false
[[sweep]]
collector = "published"
papers = ["chilka-nyu", "pattabhiraman-asu"]
[[sweep]]
collector = "roofline"
title = "one device"
llm_id = ["llama-2-7b"]
hardware_id = ["a100-sxm-80gb"]
phase = ["decode"]
batch_size = [1, 4]
context_tokens = [512]
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(PLAN)
    return path


def environment(tmp_path, **more):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return os.environ | {"PYTHONPATH": path, "PREFECT_HOME": str(tmp_path / "prefect"), **more}


def refresh(plan, home, env):
    return subprocess.run(
        [sys.executable, "-m", "etl.cli", "refresh", str(plan), "--home", str(home)],
        capture_output=True, text=True, timeout=240, check=False, env=env,
    )  # fmt: skip


def counts(home):
    with open_store(home, read_only=True) as store:
        rows = store.sql("SELECT source_kind, count(*) AS n FROM runs GROUP BY 1").to_pylist()
    return {row["source_kind"]: row["n"] for row in rows}


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def server(tmp_path, free_port):
    """`prefect server start` on loopback; yields its API address."""
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(free_port)],
            stdout=log, stderr=log, env=environment(tmp_path),
        )  # fmt: skip
        api = f"http://127.0.0.1:{free_port}/api"
        try:
            for _ in range(240):
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                try:
                    urllib.request.urlopen(f"{api}/health", timeout=2).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.5)
            yield api
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.server
@pytest.mark.slow
def test_refresh_against_a_server_leaves_rows_and_an_artifact(tmp_path, plan, server):
    answer = refresh(plan, tmp_path / "home", environment(tmp_path, PREFECT_API_URL=server))
    assert answer.returncode == 0, answer.stderr
    first = counts(tmp_path / "home")
    assert first["published"] == 20
    assert first["analytical"] >= 2 + 14  # the sweep, and twins of the published decode rows that fit one engine

    (run,) = post(f"{server}/flow_runs/filter", {})
    assert (run["state"]["type"], run["parameters"]["plan"]) == ("COMPLETED", str(plan))
    (artifact,) = post(f"{server}/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["refresh"]}}})
    table = artifact["data"] if isinstance(artifact["data"], list) else json.loads(artifact["data"])
    assert [row["sweep"] for row in table] == ["published", "one device"]

    again = refresh(plan, tmp_path / "home", environment(tmp_path, PREFECT_API_URL=server))
    assert again.returncode == 0, again.stderr
    assert counts(tmp_path / "home") == first


@pytest.mark.slow
def test_refresh_with_no_server_keeps_what_worked_and_says_what_failed(tmp_path, plan):
    plan.write_text(
        PLAN.replace('hardware_id = ["a100-sxm-80gb"]', 'hardware_id = ["h1000"]').replace('"pattabhiraman-asu"', "")
    )
    answer = refresh(plan, tmp_path / "home", environment(tmp_path))
    assert answer.returncode == 2
    assert "one device" in answer.stderr
    assert "'h1000' is not in the hardware catalogue. Known: " in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr
    assert counts(tmp_path / "home")["published"] == 2
