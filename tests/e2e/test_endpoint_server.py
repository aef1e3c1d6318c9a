"""The endpoint collector against a real server: `transformers serve` with a small random-weight Llama."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors import endpoint
from collectors.endpoint._prompts import WORDS
from warehouse import parquet, schema

pytestmark = [pytest.mark.server, pytest.mark.slow]

CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
START_S = 180.0


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 1 M parameters, its BPE tokenizer and a chat template. Only whole words can win over the zeroed rows of
    its head, so that an answer ends at its limit and every token is text."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("served") / "tiny-llama"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=["<s>", "</s>"], show_progress=False)
    bpe.train_from_iterator([" " + " ".join(WORDS)] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    llm = LlamaForCausalLM(config)
    words = tokenizer.convert_tokens_to_ids([f"\u0120{word}" for word in WORDS])
    with torch.no_grad():
        llm.lm_head.weight[[index for index in range(len(tokenizer)) if index not in words]] = 0.0
    llm.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running server. Its requests are answered one at a time, so two in flight really queue."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server.txt"
    serve = [Path(sys.executable).with_name("transformers"), "serve", model_folder, "--device", "cpu"]
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, serve), "--host", "127.0.0.1", "--port", str(port)],
            stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **settings}, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server did not start (exit code {process.poll()}): {log.read_text(errors='replace')[-2000:]}")


def rows(landing: Path, table: str) -> list[dict[str, Any]]:
    found = [
        row for path in sorted((landing / table).glob("*.parquet")) for row in parquet.read(table, path).to_pylist()
    ]
    return sorted(found, key=lambda row: (row.get("concurrency") or 0, row.get("request_index") or 0))


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_one_prompt(server: str, model_folder: Path, api: str) -> None:
    reply = endpoint.complete(server, str(model_folder), "the old mill", api=api, output_tokens=12, timeout_s=120)
    assert (reply.status, reply.status_detail) == ("ok", None)
    assert reply.text
    assert (reply.output_tokens, reply.token_count_source, reply.finish_reason) == (12, "usage", "length")
    assert reply.input_tokens is not None
    assert reply.input_tokens > 2
    assert reply.ttft_s is not None
    assert reply.tpot_s is not None
    assert reply.e2el_s is not None
    assert 0 < reply.ttft_s < reply.e2el_s
    assert reply.tpot_s == (reply.e2el_s - reply.ttft_s) / 11
    assert reply.chunk_times_s == sorted(reply.chunk_times_s)
    assert (reply.ttft_s, reply.e2el_s) == (reply.chunk_times_s[0], reply.chunk_times_s[-1])
    assert reply.chunk_tokens == [1] * 12
    assert reply.itl_s == pytest.approx(reply.tpot_s)


def test_sweep(server: str, model_folder: Path, tmp_path: Path) -> None:
    collected = endpoint.collect(
        tmp_path, url=server, model=str(model_folder), input_tokens=60, output_tokens=8, concurrency=[1, 2],
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
        assert row["tpot_s"] == (row["e2el_s"] - row["ttft_s"]) / 7
    ends = [row["sent_at_s"] + row["e2el_s"] for row in measured]
    in_flight = max(
        sum(a["sent_at_s"] <= b["sent_at_s"] < end for a, end in zip(measured, ends, strict=True)) for b in measured
    )
    assert in_flight == run["concurrency"]
    assert max(ends) - measured[0]["sent_at_s"] <= run["duration_s"]
    assert all(before["scheduled_at_s"] <= after["scheduled_at_s"] for before, after in itertools.pairwise(requests))
    assert (run["status"], run["phase"], run["success_rate"], run["num_samples"]) == ("ok", "serve", 1.0, 6)
    assert (run["input_tokens"], run["output_tokens"], run["num_devices"]) == (60, 8, 1)
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
