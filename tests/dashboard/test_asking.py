"""A prompt from the dashboard: real child processes against a server on loopback; what may be asked, by whom, and how it is cancelled."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import broken_server
import pytest

from dashboard import ask_card, asking
from dashboard.app import create_app
from dashboard.asking import Desk, Question
from dashboard.data import Lake
from warehouse.store import Home, StoreError, open_store


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    open_store(tmp_path / "home").close()
    taken = Desk(Home.of(tmp_path / "home"))
    yield taken
    taken.close()


def asked(url: str, **values: Any) -> Question:
    told: dict[str, Any] = {
        "url": url,
        "model": "tiny",
        "provider": "openai",
        "prompt": "Say hello.",
        "output_tokens": 4,
    }
    return Question(**(told | values))


def ended(desk: Desk, job_id: str, seconds: float = 60.0) -> asking.Job:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = desk.job(job_id)
        if job is not None and job.is_over:
            return job
        time.sleep(0.05)
    raise AssertionError("the job did not end")


def stream(*words: str) -> list[bytes]:
    """An answer in the chat API's stream, with a usage at its end."""
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(words)}})
    return [
        broken_server.STREAM,
        *(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks),
        b"data: [DONE]\n\n",
    ]


def test_a_prompt_is_asked_stored_and_loaded(desk: Desk, tmp_path: Path) -> None:
    with broken_server.serving(stream("Hello", " there")) as server:
        job = ended(desk, desk.ask(asked(server.url)))
    assert (job.state, job.lines[-3:] if job.state != "done" else []) == ("done", [])
    assert job.answer is not None
    assert job.answer["text"] == "Hello there"
    assert (job.answer["input_tokens"], job.answer["output_tokens"]) == (3, 2)
    lake = Lake(tmp_path / "home")
    (row,) = lake.rows("run", run_id=job.run_id)
    assert (row["phase"], row["load_pattern"]) == ("serve", "single")
    lake.close()


def test_a_prompt_that_fails_is_stored_with_its_sentence(desk: Desk, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    job = ended(desk, desk.ask(asked(f"http://127.0.0.1:{port}/v1")))
    assert job.state == "failed"
    assert job.answer is not None
    assert job.answer["status"] == "refused"
    shown = json.dumps(ask_card.state(job), default=lambda part: part.to_plotly_json())
    assert "Could not connect" in shown
    assert "The failure is stored as a run." in shown
    assert f"run_id={job.run_id}" in shown
    lake = Lake(tmp_path / "home")
    (row,) = lake.rows("run", run_id=job.run_id)
    lake.close()
    assert row["status"] != "ok"


def test_a_command_that_cannot_start_ends_its_job(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    job = ended(desk, desk.ask(asked("http://127.0.0.1:1")))
    assert job.state == "failed"
    assert "/nowhere/python" in job.lines[-1]


def test_a_cancelled_prompt_ends_its_process(desk: Desk) -> None:
    with broken_server.serving([broken_server.STREAM, broken_server.STALL]) as server:
        job_id = desk.ask(asked(server.url))
        job = desk.job(job_id)
        assert job is not None
        while not server.requests:
            time.sleep(0.02)
        desk.cancel(job_id)
        assert job.state == "cancelled"
        assert job.process is not None
        assert job.process.wait(10) != 0


def test_what_the_collector_refuses_is_shown_in_its_words(desk: Desk) -> None:
    job = ended(desk, desk.ask(asked("", provider="tgi")))
    assert job.state == "failed"
    assert any("--url" in line for line in job.lines)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"url": "file:///etc/passwd"}, "begins with http"),
        ({"url": "https://me:secret@host.example/v1"}, "holds a name or a password"),
        ({"model": " "}, "Say the model's name"),
        ({"prompt": ""}, "and a prompt"),
        ({"prompt": "x" * 20_001}, "at most 20000"),
        ({"output_tokens": 0}, "1 to 8192"),
        ({"provider": "psychic"}, "Known: openai"),
        ({"key_variable": "sk-123456"}, "The key is not typed here"),
        ({"key_variable": "my_key"}, "in capitals"),
        ({"prompt": "a\x00b"}, "The prompt holds a control character"),
        ({"prompt": "\ud83d"}, "The prompt holds a control character"),
        ({"model": "a\nb"}, "The model's name holds a control character"),
        ({"url": "http://127.0.0.1:1/\x1b"}, "The URL holds a control character"),
        ({"model": "m" * 200_000}, "at most 2000"),
        ({"url": "http://127.0.0.1/" + "x" * 200_000}, "at most 2000"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence_and_starts_nothing(
    desk: Desk, values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(StoreError, match=sentence):
        desk.ask(asked(**({"url": "http://127.0.0.1:1"} | values)))
    assert not desk._jobs


def test_a_prompt_that_looks_like_an_option_stays_a_prompt() -> None:
    command = asked("http://127.0.0.1:1", prompt="--landing=/tmp/elsewhere").command(Path("/srv/landing"))
    assert "--prompt=--landing=/tmp/elsewhere" in command
    assert "--landing=/srv/landing" in command


@pytest.mark.parametrize(
    ("host", "is_so"),
    [
        ("127.0.0.1", True), ("127.0.0.1:8050", True), ("localhost:8050", True), ("[::1]:8050", True), ("::1", True), ("192.168.1.9", False),
        ("rebound.example:8050", False), ("10.0.0.7", False), ("127.0.0.1.example", False),
    ],
)  # fmt: skip
def test_only_loopback_is_loopback(host: str, is_so: bool) -> None:
    assert asking.is_loopback(host) is is_so


def test_a_dashboard_on_a_network_shows_no_form(lake: Lake) -> None:
    shown = json.dumps(ask_card.card(lake).to_plotly_json(), default=lambda part: part.to_plotly_json())
    assert "ask-send" not in shown
    assert "only from a dashboard that listens on loopback" in shown


def test_another_host_name_may_not_ask(tmp_path: Path) -> None:
    open_store(tmp_path / "home").close()
    app = create_app(tmp_path / "home", can_ask=True)
    names = ("url", "model", "provider", "prompt", "output_tokens", "key_variable")
    values = ("http://127.0.0.1:1", "tiny", "openai", "Say hello.", 4, None)
    outputs = [("ask-job", "data"), ("ask-state", "children"), ("ask-tick", "disabled"), ("ask-cancel", "disabled")]
    body = {
        "output": ".." + "...".join(f"{name}.{prop}" for name, prop in outputs) + "..",
        "outputs": [{"id": name, "property": prop} for name, prop in outputs],
        "inputs": [{"id": "ask-send", "property": "n_clicks", "value": 1}],
        "state": [{"id": f"ask-{name}", "property": "value", "value": value} for name, value in zip(names, values, strict=True)],
        "changedPropIds": ["ask-send.n_clicks"],
    }  # fmt: skip
    answer = app.server.test_client().post("/_dash-update-component", json=body, headers={"Host": "rebound.example"})
    assert answer.status_code == 200
    assert "for loopback alone" in answer.get_data(as_text=True)
