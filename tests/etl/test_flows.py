"""The `refresh` flow through Prefect: against a real server on loopback, and with none running."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import command_line
import pytest
from command_line import rooflake

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
    return command_line.environment(PREFECT_HOME=str(tmp_path / "prefect"), **more)


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
    assert first["analytical"] >= 2 + 2  # the sweep, and twins of the published rows whose lengths are stated

    (run,) = post(f"{server}/flow_runs/filter", {})
    assert (run["state"]["type"], run["parameters"]["plan"]) == ("COMPLETED", str(plan))
    (artifact,) = post(f"{server}/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["refresh"]}}})
    table = artifact["data"] if isinstance(artifact["data"], list) else json.loads(artifact["data"])
    assert [row["sweep"] for row in table] == ["published", "one device"]

    again = refresh(plan, tmp_path / "home", environment(tmp_path, PREFECT_API_URL=server))
    assert again.returncode == 0, again.stderr
    assert counts(tmp_path / "home") == first


BROKEN = PLAN.replace('hardware_id = ["a100-sxm-80gb"]', 'hardware_id = ["h1000"]').replace('"pattabhiraman-asu"', "")


def demo(plan, home, *words):
    return [sys.executable, "-m", "etl.cli", "demo", "--plan", str(plan), "--home", str(home), *map(str, words)]


@pytest.mark.slow
def test_what_fails_is_said_and_what_worked_is_kept(tmp_path, plan, small_llm):
    home = tmp_path / "home"
    measured = ["--checkpoint", small_llm, "--device", "cpu", "--phase", "forward", "--input-tokens", "8"]
    assert rooflake("collect", "local_profile", "--home", home, *measured).returncode == 0
    (home / "landing" / "runs" / "broken.parquet").write_bytes(b"PAR1")
    plan.write_text(
        f"{BROKEN}[[sweep]]\ncollector = 'local_profile'\ntitle = 'this machine'\ncheckpoint = '{small_llm}'\n"
        "device = 'cpu'\nphase = ['forward', 'prefill']\ninput_tokens = [8]\n"
    )
    answer = subprocess.run(
        demo(plan, home, "--no-serve"),
        capture_output=True, text=True, timeout=240, check=False, env=environment(tmp_path),
    )  # fmt: skip
    assert answer.returncode == 2
    assert "one device: " in answer.stderr
    assert "'h1000' is not in the hardware catalogue. Known: " in answer.stderr
    assert "this machine: small-llm" in answer.stderr
    assert ": 1 of 2 are measured already.\n" in answer.stderr
    assert "quarantined runs/broken.parquet: 'broken.parquet' is not a readable Parquet file" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "published: 2 runs" in answer.stdout
    assert counts(home) == {"published": 2, "measured": 2, "analytical": 4}


@pytest.mark.slow
def test_a_demo_serves_what_it_has_though_a_sweep_failed(tmp_path, plan, free_port):
    plan.write_text(BROKEN)
    with (tmp_path / "demo.log").open("w") as log:
        process = subprocess.Popen(
            demo(plan, tmp_path / "home", "--port", free_port),
            stdout=log, stderr=log, env=environment(tmp_path), start_new_session=True,
        )  # fmt: skip
        try:
            page = ""
            for _ in range(240):
                assert process.poll() is None, (tmp_path / "demo.log").read_text()
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/", timeout=5) as answer:
                        page = answer.read().decode()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.5)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert "<html" in page
    said = (tmp_path / "demo.log").read_text()
    assert "'h1000' is not in the hardware catalogue." in said
    assert "published: 2 runs" in said
