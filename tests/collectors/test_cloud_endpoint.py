"""The endpoint collector asking cloud servers, on loopback: answers, failures, what is landed, and what never is."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import broken_server
import pytest
from cloud_doubles import (
    ACCESS_KEY,
    ENDPOINT,
    LOCATION,
    PROMPT_TOKENS,
    REGION,
    SECRET_KEY,
    SESSION_TOKEN,
    WORDS,
    Double,
    ModelDouble,
    SageMakerDouble,
    VertexDouble,
    forms,
    series,
    serving,
)
from cloud_doubles import Reply as Answered
from landed_rows import landed

from collectors import endpoint
from collectors.endpoint import Reply, _monitoring
from collectors.endpoint._providers import sagemaker
from collectors.endpoint._providers import vertex as vertex_provider
from warehouse.store import Home, open_store

TEXT = "".join(WORDS)
KEY = "planted-key/4f9a+not-for-anyone"


@pytest.fixture
def vertex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexDouble]:
    """Vertex AI on loopback, with application default credentials that it accepts."""
    pytest.importorskip("google.auth", reason="google-auth is not installed: pip install 'rooflake[cloud]'")
    one = VertexDouble()
    with serving(one):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(one.credentials(tmp_path)))
        yield one


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[SageMakerDouble]:
    """SageMaker's runtime on loopback, with credentials in the environment that it accepts."""
    pytest.importorskip("botocore", reason="botocore is not installed: pip install 'rooflake[cloud]'")
    said = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_SESSION_TOKEN": SESSION_TOKEN}
    for name, value in (said | {"AWS_REGION": REGION}).items():
        monkeypatch.setenv(name, value)
    sagemaker._chain.cache_clear()
    one = SageMakerDouble()
    with serving(one):
        yield one
    sagemaker._chain.cache_clear()


def options(api: str) -> dict[str, Any]:
    told = {"location": LOCATION, "endpoint": ENDPOINT, "poll-s": "0.01"}
    return {"provider": "vertex", "api": api, "provider_options": told, "output_tokens": 5, "timeout_s": 5.0}


def ask_vertex(double: VertexDouble, api: str, **more: Any) -> Reply:
    return endpoint.complete(double.url, "demo", "hi", **{**options(api), **more})


def ask_sagemaker(double: SageMakerDouble, **more: Any) -> Reply:
    return endpoint.complete(double.url, "demo", "hi", **{"provider": "sagemaker", "timeout_s": 5.0, **more})


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["chat", "stream-raw-predict", "raw-predict", "predict", "predict-long-running"])
def test_vertex_answers(vertex: VertexDouble, api: str) -> None:
    reply = ask_vertex(vertex, api)
    assert (reply.status, reply.text, reply.http_status) == ("ok", TEXT, 200)
    assert reply.e2el_s is not None
    is_stream = api in ("chat", "stream-raw-predict")
    assert (reply.ttft_s is not None) is is_stream
    if "predict" not in api or api == "raw-predict":
        assert (reply.output_tokens, reply.token_count_source, reply.input_tokens) == (5, "usage", PROMPT_TOKENS)
    if api == "predict":  # nobody counted its tokens, and one piece is not one token
        assert (reply.output_tokens, reply.token_count_source) == (None, None)


@pytest.mark.parametrize("api", ["messages", "inputs"])
@pytest.mark.parametrize("stream", [True, False])
def test_sagemaker_answers(runtime: SageMakerDouble, api: str, stream: bool) -> None:
    reply = ask_sagemaker(runtime, api=api, stream=stream, output_tokens=5)
    assert (reply.status, reply.text) == ("ok", TEXT)
    assert (reply.output_tokens, reply.token_count_source, reply.input_tokens) == (5, "usage", PROMPT_TOKENS)
    assert (reply.ttft_s is not None) is stream


@pytest.mark.parametrize(
    ("provider", "variable", "header", "path", "more"),
    [
        ("tgi", "HF_TOKEN", "authorization", "/generate_stream", {}),
        ("tgi", "HF_TOKEN", "authorization", "/generate", {"stream": False}),
        ("azure", "AZURE_OPENAI_API_KEY", "api-key", "/openai/v1/chat/completions", {}),
        (
            "azure",
            "AZURE_OPENAI_API_KEY",
            "api-key",
            "/openai/deployments/demo/chat/completions?api-version=2024-10-21",
            {"provider_options": {"api-version": "2024-10-21"}},
        ),
        ("bedrock", "AWS_BEARER_TOKEN_BEDROCK", "authorization", "/openai/v1/chat/completions", {}),
    ],
)
def test_servers_behind_a_key(
    provider: str, variable: str, header: str, path: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    double = ModelDouble(path=path, header=(header, f"Bearer {KEY}" if header == "authorization" else KEY))
    with serving(double):
        monkeypatch.setenv(variable, KEY)
        reply = endpoint.complete(double.url, "demo", "hi", provider=provider, output_tokens=5, timeout_s=5.0, **more)
        assert (reply.status, reply.text) == ("ok", TEXT)
        assert (reply.output_tokens, reply.token_count_source, reply.input_tokens) == (5, "usage", PROMPT_TOKENS)
        monkeypatch.setenv(variable, f"{KEY}-of-yesterday")
        reply = endpoint.complete(double.url, "demo", "hi", provider=provider, output_tokens=5, timeout_s=5.0, **more)
        assert reply.status == "refused"
        assert f"does not accept the key in the environment variable {variable}" in str(reply.status_detail)
        assert KEY not in repr(reply)


# --- failures ---------------------------------------------------------------------------------------------------------

FAULTS: list[tuple[int, dict[str, str], str, str]] = [
    (403, {}, "refused", "HTTP 403"),
    (429, {"Retry-After": "7"}, "refused", "Retry-After: 7"),
    (503, {}, "refused", "HTTP 503"),
    (500, {}, "error", "HTTP 500"),
]


@pytest.mark.parametrize(("code", "headers", "status", "said"), FAULTS)
def test_refusals_are_rows_with_a_sentence(
    vertex: VertexDouble, runtime: SageMakerDouble, code: int, headers: dict[str, str], status: str, said: str
) -> None:
    fault = (code, headers, {"error": {"message": "not now"}})
    vertex.faults, runtime.faults = [fault], [fault]
    for reply in (ask_vertex(vertex, "chat"), ask_sagemaker(runtime)):
        assert (reply.status, reply.http_status) == (status, code)
        assert said in str(reply.status_detail)
        assert "not now" in str(reply.status_detail)
    assert ask_vertex(vertex, "chat").status == ask_sagemaker(runtime).status == "ok"


def test_cut_streams(vertex: VertexDouble, runtime: SageMakerDouble) -> None:
    vertex.cut_after = runtime.cut_after = 3
    for reply in (ask_vertex(vertex, "chat"), ask_vertex(vertex, "stream-raw-predict"), ask_sagemaker(runtime)):
        assert reply.status == "error"
        assert "The stream ended early" in str(reply.status_detail)


def test_sagemaker_model_error_in_the_stream(runtime: SageMakerDouble) -> None:
    runtime.failure = ("ModelStreamError", "CUDA out of memory")
    reply = ask_sagemaker(runtime)
    assert (reply.status, reply.status_detail) == (
        "oom",
        "The server reports ModelStreamError: CUDA out of memory",
    )


def test_operations_that_fail_or_never_end(vertex: VertexDouble) -> None:
    vertex.operation_error = {"code": 13, "message": "The replica was lost."}
    reply = ask_vertex(vertex, "predict-long-running")
    assert (reply.status, reply.status_detail) == ("error", "The operation failed: The replica was lost.")
    vertex.polls_needed = 10**6
    reply = ask_vertex(vertex, "predict-long-running", timeout_s=0.2)
    assert reply.status == "timeout"
    assert "within 0.2 s" in str(reply.status_detail)
    vertex.polls_needed, vertex.operation_error = 3, None
    vertex.faults = []
    assert ask_vertex(vertex, "predict-long-running").status == "ok"


def test_an_operation_whose_polls_are_refused(vertex: VertexDouble) -> None:
    vertex.polls_needed = 10**6
    served = vertex.answer

    def answer(asked: Any) -> Any:
        if len(vertex.asked) > 3:
            vertex.faults = [(429, {}, {"error": {"message": "too many polls"}})]
        return served(asked)

    vertex.answer = answer  # type: ignore[method-assign]
    reply = ask_vertex(vertex, "predict-long-running")
    assert (reply.status, reply.http_status) == ("refused", 429)
    assert "too many polls" in str(reply.status_detail)


def test_answers_after_the_deadline(vertex: VertexDouble, runtime: SageMakerDouble) -> None:
    vertex.delay_s = runtime.delay_s = 0.5
    for reply in (ask_vertex(vertex, "predict", timeout_s=0.1), ask_sagemaker(runtime, timeout_s=0.1)):
        assert reply.status == "timeout"


def test_times_of_an_operation_count_from_its_first_request(vertex: VertexDouble) -> None:
    vertex.delay_s, vertex.polls_needed = 0.15, 3
    reply = ask_vertex(vertex, "predict-long-running")
    assert reply.e2el_s is not None
    assert reply.ttft_s is None
    assert reply.e2el_s >= 0.15 + 2 * 0.01  # the first answer, and the two waits before the polls
    assert reply.ended_at_s - reply.sent_at_s >= reply.e2el_s
    assert (
        reply.status_detail == "An operation that was asked for every 0.01 s: its end was seen late by up to as much."
    )
    assert ask_vertex(vertex, "predict").status_detail is None


# --- what is landed ---------------------------------------------------------------------------------------------------


def test_a_slow_vertex_inference_lands_once_with_what_the_endpoint_measured(
    vertex: VertexDouble, tmp_path: Path
) -> None:
    """A prompt to a slow endpoint that reports layers and memory: a retry of the collection or of the load adds no row twice."""
    home = Home.of(tmp_path / "home")
    home.prepare()
    vertex.delay_s = 0.3
    vertex.extra = {"memory": {"peak_bytes": 1024}, "layers": [{"time_ms": 1.5}, {"time_ms": 2}]}

    def collect(timeout_s: float) -> None:
        told = options("predict") | {"timeout_s": timeout_s}
        endpoint.collect(home.landing, url=vertex.url, model="demo", load="single", prompt="hi", **told)

    collect(timeout_s=0.1)
    with open_store(home) as store:
        store.load()
        assert store.sql("SELECT status FROM runs").to_pylist() == [{"status": "timeout"}]
        collect(timeout_s=5.0)
        landed_files = {path: path.read_bytes() for path in home.landing.rglob("*.parquet")}
        store.load()
        for path, content in landed_files.items():  # a load that is tried again finds the same files
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        store.load()
        runs = store.sql(
            "SELECT run_id, status, phase, load_pattern, served_model_name FROM runs ORDER BY collected_at"
        ).to_pylist()
        requests = store.sql("SELECT run_id, prompt, text, status FROM requests ORDER BY status").to_pylist()
        samples = store.sql("SELECT run_id, metric, value, unit FROM samples ORDER BY metric").to_pylist()
    assert [row["status"] for row in runs] == ["timeout", "ok"]
    last = runs[1]
    assert (last["phase"], last["load_pattern"], last["served_model_name"]) == ("serve", "single", "demo")
    assert requests == [
        {"run_id": last["run_id"], "prompt": "hi", "text": TEXT, "status": "ok"},
        {"run_id": runs[0]["run_id"], "prompt": "hi", "text": "", "status": "timeout"},
    ]
    told = [("layers.0.time_ms", 1.5, "ms"), ("layers.1.time_ms", 2.0, "ms"), ("memory.peak_bytes", 1024.0, "B")]
    assert samples == [
        {"run_id": last["run_id"], "metric": f"vertex:{name}", "value": value, "unit": unit}
        for name, value, unit in told
    ]


def test_a_load_on_each_cloud(vertex: VertexDouble, runtime: SageMakerDouble, tmp_path: Path) -> None:
    level = {"concurrency": 2, "num_requests": 6, "warmup": 2, "prompt": "hi", "self_test": False}
    endpoint.collect(tmp_path, url=vertex.url, model="demo", client_processes=2, **level, **options("chat"))
    more = {"provider": "sagemaker", "output_tokens": 5, "timeout_s": 5.0}
    endpoint.collect(tmp_path, url=runtime.url, model="demo", **level, **more)
    requests = landed(tmp_path, "requests")
    assert len(requests) == 16
    assert {row["status"] for row in requests} == {"ok"}
    assert {row["output_tokens"] for row in requests} == {5}
    assert len(vertex.tokens) == 3  # one for each client process, and one for the parent


def test_accelerators_of_a_run_are_its_telemetry(vertex: VertexDouble, tmp_path: Path) -> None:
    began = datetime.datetime.now(datetime.UTC)
    points = {began + datetime.timedelta(seconds=30): 0.5}
    vertex.series = {f"{_monitoring.PREFIX}duty_cycle": [series("a", points)]}
    told = options("chat")
    told["provider_options"] |= {"monitoring-wait-s": "0", "monitoring-url": vertex.url}
    endpoint.collect(tmp_path, url=vertex.url, model="demo", load="single", prompt="hi", **told)
    (run,) = landed(tmp_path, "runs")
    (reading,) = landed(tmp_path, "telemetry")
    assert (reading["run_id"], reading["device_index"], reading["utilization"]) == (run["run_id"], 0, 0.5)
    assert 0 < reading["at_s"] <= 30
    vertex.series = {}
    endpoint.collect(tmp_path / "next", url=vertex.url, model="demo", load="single", prompt="hi", **told)
    assert "no reading of the endpoint's accelerators" in landed(tmp_path / "next", "runs")[0]["status_detail"]


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_key_that_is_the_name_of_a_number_does_not_land(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", KEY)
    whole = {"generated_text": "hi", "usage_of": {KEY: 1, "x" * 150: {KEY + "y" * 30: 2}}}
    with broken_server.serving(broken_server.http("200 OK", json.dumps(whole).encode())) as server:
        url = server.url.removesuffix("/v1")
        endpoint.collect(tmp_path, url=url, model="m", provider="tgi", stream=False, load="single", prompt="hi")
    assert [row["metric"] for row in landed(tmp_path, "samples")] == ["tgi:usage_of.[key]"]
    assert b"".join(path.read_bytes() for path in tmp_path.rglob("*.parquet")).count(KEY[:12].encode()) == 0


def test_no_secret_lands_is_logged_or_printed(
    vertex: VertexDouble,
    runtime: SageMakerDouble,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Servers that repeat what they were sent, headers and all, in errors and in texts, while tokens are renewed."""
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    credentials = vertex_provider._credentials(os.environ["GOOGLE_APPLICATION_CREDENTIALS"])

    def echo(double: Double) -> None:
        serve, kind = double.answer, Answered

        def answer(asked: Any) -> Any:
            if asked.path == "/token":
                return serve(asked)
            credentials._found.token = None  # the next request gets another token
            told = json.dumps(dict(asked.headers))
            if len(double.asked) % 2:
                return kind({"error": {"message": told}}, 400)
            seen = dict.fromkeys(asked.headers.values(), 1)
            return kind({"choices": [{"message": {"content": told}, "finish_reason": "stop"}], "seen": seen})

        double.answer = answer  # type: ignore[method-assign]

    echo(vertex)
    echo(runtime)
    amazon = {"provider": "sagemaker", "output_tokens": 5, "timeout_s": 5.0, "stream": False}
    for level in ({"load": "single"}, {"load": "single"}, {"concurrency": 1, "num_requests": 4, "self_test": False}):
        more = {**level, "prompt": "hi", "model": "demo", "report": said.append}
        endpoint.collect(tmp_path, url=vertex.url, **more, **options("raw-predict"))
        endpoint.collect(tmp_path, url=runtime.url, **more, **amazon)
    requests = landed(tmp_path, "requests")
    assert len(vertex.tokens) >= 6
    assert {row["status"] for row in requests} == {"ok", "error"}
    quoted = [row["text"] or row["status_detail"] for row in requests if row["text"] or row["status"] == "error"]
    assert quoted
    assert all("[key]" in text for text in quoted)
    named = {row["metric"] for row in landed(tmp_path, "samples")}
    assert {"vertex:seen.Bearer [key]", "sagemaker:seen.[key]"} <= named
    printed = capfd.readouterr()
    shown = "\n".join([*said, caplog.text, printed.out, printed.err]).encode()
    shown += b"".join(path.read_bytes() for path in tmp_path.rglob("*.parquet"))
    shown += "".join(str(row) for table in ("runs", "requests", "sources") for row in landed(tmp_path, table)).encode()
    for secret in (*vertex.tokens, SECRET_KEY, SESSION_TOKEN):
        assert not [form for form in forms(secret) if form in shown]
