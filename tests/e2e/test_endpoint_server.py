"""The endpoint collector against a real server: `transformers serve` with a small random-weight Llama."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors import _machine, endpoint
from collectors.endpoint import _local_server
from warehouse import catalog, parquet, schema

pytestmark = [pytest.mark.server, pytest.mark.slow]

LLM_ID = "tiny-llama"
TINY_LLAMA = """
[tiny-llama]
name = "Tiny Llama"
architecture = "decoder"
num_parameters = 918_656
source = "this test"
source_date = "2026-11-21"
config = { model_type = "llama", vocab_size = 512, hidden_size = 128, intermediate_size = 384, num_hidden_layers = 4, num_attention_heads = 4, num_key_value_heads = 2, max_position_embeddings = 2048 }
"""


@pytest.fixture(scope="session", autouse=True)
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The catalogue with an LLM of 1 M parameters."""
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "llms.toml").write_text(TINY_LLAMA)
    catalog.extend(folder)
    yield
    catalog.extend(None)


@pytest.fixture(scope="session")
def server(tiny_llama: None) -> Iterator[str]:
    """URL of a running server. Its requests are answered one at a time, so two in flight really queue."""
    local = _local_server.local_server(catalog.find_llm(LLM_ID), "cpu")
    with _local_server.running(local):
        yield local.url


def rows(landing: Path, table: str) -> list[dict[str, Any]]:
    found = [
        row for path in sorted((landing / table).glob("*.parquet")) for row in parquet.read(table, path).to_pylist()
    ]
    return sorted(found, key=lambda row: (row.get("concurrency") or 0, row.get("request_index") or 0))


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_one_prompt(server: str, api: str) -> None:
    reply = endpoint.complete(server, LLM_ID, "the old mill", api=api, output_tokens=12, timeout_s=120)
    assert (reply.status, reply.status_detail) == ("ok", None)
    assert reply.text
    assert (reply.output_tokens, reply.token_count_source, reply.finish_reason) == (12, "usage", "length")
    assert reply.input_tokens is not None
    assert reply.input_tokens > 2
    assert reply.ttft_s is not None
    assert (reply.tpot_s is None) == reply.is_joined
    assert reply.e2el_s is not None
    assert 0 < reply.ttft_s < reply.e2el_s
    assert reply.tpot_s == (None if reply.is_joined else (reply.e2el_s - reply.ttft_s) / 11)
    assert reply.chunk_times_s == sorted(reply.chunk_times_s)
    assert (reply.ttft_s, reply.e2el_s) == (reply.chunk_times_s[0], reply.chunk_times_s[-1])
    assert reply.chunk_tokens == [1] * 12
    assert reply.itl_s == (None if reply.is_joined else pytest.approx(reply.tpot_s))


def test_sweep(server: str, tmp_path: Path) -> None:
    collected = endpoint.collect(
        tmp_path, url=server, model=LLM_ID, input_tokens=60, output_tokens=8, concurrency=[1, 2],
        num_requests=6, warmup=2, timeout_s=120, self_test=False, framework="transformers", weight_dtype="fp32",
        slo_ttft_s=1000.0,
    )  # fmt: skip
    assert (collected.num_runs, collected.num_failed) == (2, 0)
    runs = rows(tmp_path, "runs")
    assert [run["concurrency"] for run in runs] == [1, 2]
    for run in runs:
        requests = [row for row in rows(tmp_path, "requests") if row["run_id"] == run["run_id"]]
        check_run(run, requests)


def check_run(run: dict[str, Any], requests: list[dict[str, Any]]) -> None:
    """What must hold between a run and its requests, whatever the machine does."""
    assert [row["request_index"] for row in requests] == list(range(8))
    assert [row["sample_phase"] for row in requests] == ["warmup"] * 2 + ["measured"] * 6
    measured = requests[2:]
    for row in requests:
        assert (row["status"], row["http_status"], row["output_tokens"]) == ("ok", 200, 8)
        assert row["token_count_source"] == "usage"
        assert abs(row["input_tokens"] - 60) <= 8
        assert 0 < row["ttft_s"] <= row["e2el_s"]
        assert 0 <= row["scheduled_at_s"] <= row["sent_at_s"]
        spread_s = row["e2el_s"] - row["ttft_s"]
        assert row["tpot_s"] == (spread_s / 7 if spread_s else None), "a busy machine may join all chunks"
    ends = [row["sent_at_s"] + row["e2el_s"] for row in measured]
    in_flight = max(
        sum(a["sent_at_s"] <= b["sent_at_s"] < end for a, end in zip(measured, ends, strict=True)) for b in measured
    )
    assert in_flight == run["concurrency"]
    assert max(ends) - measured[0]["sent_at_s"] <= run["duration_s"]
    assert all(before["scheduled_at_s"] <= after["scheduled_at_s"] for before, after in itertools.pairwise(requests))
    assert (run["status"], run["phase"], run["success_rate"], run["num_samples"]) == ("ok", "serve", 1.0, 6)
    assert (run["input_tokens"], run["output_tokens"], run["num_devices"]) == (60, 8, None)
    assert run["ttft_s"] == pytest.approx(sum(row["ttft_s"] for row in measured) / 6)
    assert run["output_tokens_per_s"] == pytest.approx(48 / run["duration_s"])
    assert run["requests_per_s"] == run["goodput_requests_per_s"] == pytest.approx(6 / run["duration_s"])
    assert run["ttft_p99_s"] is None
    assert run["config_id"] == schema.config_id(run)


def test_a_model_the_server_does_not_have(server: str, tmp_path: Path) -> None:
    collected = endpoint.collect(tmp_path, url=server, model="other", prompt="x", concurrency=1, timeout_s=120)
    assert collected.num_failed == 1
    (run,) = rows(tmp_path, "runs")
    assert run["status"] == "error"
    assert "HTTP 400" in run["status_detail"]
    assert "other" in run["status_detail"]
    assert run["success_rate"] == 0.0


def test_a_server_of_its_own(tmp_path: Path) -> None:
    """Everything about the server is known, nothing of it is left behind, and what landed is not measured again."""
    options: dict[str, Any] = {
        "serve": LLM_ID, "device": "cpu", "input_tokens": 40, "output_tokens": 4, "num_requests": 2, "warmup": 1, "self_test": False,
        "hardware_row": {"hardware_id": _machine.hardware_id("cpu")},
    }  # fmt: skip
    collected = endpoint.collect(tmp_path, concurrency=[1], **options)
    assert (collected.num_runs, collected.num_failed) == (1, 0)
    (run,) = rows(tmp_path, "runs")
    assert (run["llm_id"], run["served_model_name"]) == (LLM_ID, LLM_ID)
    assert run["hardware_id"] == _machine.hardware_id("cpu")
    assert (run["framework"], run["framework_version"]) == ("transformers", _machine.package_version("transformers"))
    assert {run[name] for name in ("weight_dtype", "activation_dtype", "kv_dtype")} == {"fp32"}
    assert (run["attention"], run["execution"], run["is_output_fixed"]) == ("sdpa", "eager", True)
    assert "--serve=tiny-llama" in run["command"]
    assert "--url" not in run["command"]
    assert [row["output_tokens"] for row in rows(tmp_path, "requests")] == [4, 4, 4]
    environment = {row["environment_id"]: row for row in rows(tmp_path, "environments")}[run["environment_id"]]
    assert (environment["num_threads"], dict(environment["variables"])["OMP_NUM_THREADS"]) == (1, "1")

    said: list[str] = []
    assert endpoint.collect(tmp_path, concurrency=[1], report=said.append, **options).num_runs == 0
    assert "1 of 1 loads measured already" in said


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(OSError, match=r"exit code .* The end of its log: .*[Aa]ddress already in use"):
        _start_on_a_taken_port()


def _start_on_a_taken_port() -> None:
    local = _local_server.local_server(catalog.find_llm(LLM_ID), "cpu")
    with socket.create_server(("127.0.0.1", local.port)), _local_server.running(local):
        pass


def test_a_server_ends_with_a_killed_collector(tmp_path: Path) -> None:
    program = (
        "from collectors.endpoint import _local_server\n"
        "from warehouse import catalog\n"
        "if __name__ == '__main__':\n"
        f"    local = _local_server.local_server(catalog.find_llm('{LLM_ID}'), 'cpu')\n"
        "    with _local_server.running(local):\n"
        "        print(local.port, flush=True)\n"
        "        input()\n"
    )
    script = tmp_path / "collector.py"
    script.write_text(program)
    place = Path(tempfile.mkdtemp())  # the path of a socket has at most 107 letters
    root = str(Path(_local_server.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TMPDIR": str(place)}
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as collector:
        assert collector.stdout is not None
        port = int(collector.stdout.readline())
        assert list(place.glob("rooflake-served-*/*/model.safetensors"))
        collector.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while is_open(port) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_open(port)
    assert not list(place.glob("rooflake-served-*"))


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
