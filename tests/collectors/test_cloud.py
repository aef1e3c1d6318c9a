"""Vertex AI and SageMaker against their doubles on loopback: our providers and, beside them, the clouds' own SDKs."""

from __future__ import annotations

import datetime
import http.client
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cloud_doubles import (
    ACCESS_KEY,
    ENDPOINT,
    LOCATION,
    PROMPT_TOKENS,
    REGION,
    RESOURCE,
    SECRET_KEY,
    SESSION_TOKEN,
    WORDS,
    SageMakerDouble,
    VertexDouble,
    container,
    forms,
    serving,
)

from collectors.endpoint._providers import Asked, HttpRequest, Provider, Reader, Target, _formats, sagemaker, vertex
from collectors.endpoint._stream import StreamError

TEXT = "".join(WORDS)
OPTIONS = {"location": LOCATION, "endpoint": ENDPOINT, "poll-s": "0.01"}


def exchange(request: HttpRequest, reader: Reader) -> int:
    """Send one request over HTTP and feed its answer as it comes; its status."""
    parts = urlsplit(request.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(request.method, path, request.body, dict(request.headers))
        response = connection.getresponse()
        began = time.perf_counter()
        while piece := response.read1(50):
            if response.status == 200:
                reader.feed(piece, time.perf_counter() - began)
        if response.status == 200:
            reader.close(time.perf_counter() - began)
        return response.status
    finally:
        connection.close()


def asked(provider: Provider, target: Target, output_tokens: int = 5) -> Reader:
    """The reader after one prompt and all that had to be asked after it."""
    reader = provider.reader(target)
    assert exchange(provider.request(target, "hi", output_tokens), reader) == 200
    while (follow := getattr(reader, "follow", None)) is not None:
        time.sleep(reader.wait_s)  # type: ignore[attr-defined]
        assert exchange(follow, reader) == 200
    return reader


# --- Vertex AI --------------------------------------------------------------------------------------------------------


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexDouble]:
    """Vertex AI on loopback, with application default credentials that it accepts."""
    pytest.importorskip("google.auth", reason="google-auth is not installed: pip install 'rooflake[cloud]'")
    one = VertexDouble()
    with serving(one):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(one.credentials(tmp_path)))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        for name in ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"):
            monkeypatch.delenv(name, raising=False)
        yield one


def vertex_target(double: VertexDouble, api: str, **more: Any) -> Target:
    options = {**OPTIONS, **more.pop("options", {})}
    return vertex.target(Asked(double.url, "demo", api=api, options=options, **more))


@pytest.mark.parametrize(
    ("api", "options", "is_streaming"),
    [
        ("chat", {}, True),
        ("chat", {"endpoint": "openapi"}, False),
        ("predict", {}, True),
        ("predict", {"format": "inputs"}, True),
        ("predict", {"format": "messages"}, True),
        ("raw-predict", {}, True),
        ("raw-predict", {"format": "inputs"}, True),
        ("stream-raw-predict", {}, True),
        ("stream-raw-predict", {"format": "inputs"}, True),
        ("predict-long-running", {}, True),
    ],
)
def test_vertex_routes(double: VertexDouble, api: str, options: dict[str, str], is_streaming: bool) -> None:
    target = vertex_target(double, api, options=options, is_streaming=is_streaming)
    answer = asked(vertex, target).answer
    assert (answer.text, answer.is_complete) == (TEXT, True)
    assert answer.is_whole is not (api in vertex.STREAMING and is_streaming)
    if "predict" not in api or "format" in options:  # a prediction that is a string says no counts
        assert (answer.output_tokens(), answer.input_tokens) == ((5, "usage"), PROMPT_TOKENS)
    if api in vertex.STREAMING and is_streaming:
        assert len(answer.chunk_times_s) == 5


def test_vertex_predict_sends_one_instance(double: VertexDouble) -> None:
    target = vertex_target(double, "predict", extra_body={"temperature": 0.5, "max_tokens": None, "top_k": 3})
    asked_ = vertex.request(target, "hi", 4)
    assert json.loads(asked_.body) == {"instances": [{"prompt": "hi", "temperature": 0.5, "top_k": 3}]}
    assert asked_.url == f"{double.url}/v1/{RESOURCE}:predict"


def test_vertex_addresses(double: VertexDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    def address(url: str | None = None, api: str = "chat", **options: str) -> str:
        return vertex.target(Asked(url, "org.model-1", api=api, options=options)).base_url

    root = "https://us-central1-aiplatform.googleapis.com/v1/projects/demo-project/locations/us-central1"
    assert address(location=LOCATION) == f"{root}/endpoints/openapi"
    assert address(location=LOCATION, endpoint="7") == f"{root}/endpoints/7"
    assert address(location=LOCATION, publisher="mistralai", api="raw-predict") == (
        f"{root}/publishers/mistralai/models/org.model-1"
    )
    assert address(location="global", project="p") == (
        "https://aiplatform.googleapis.com/v1/projects/p/locations/global/endpoints/openapi"
    )
    whole = "https://7.us-central1-99.prediction.vertexai.goog/v1/projects/9/locations/us-central1/endpoints/7"
    assert address(f"{whole}:predict", api="predict") == whole
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", LOCATION)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "other")
    assert address() == f"{root}/endpoints/openapi".replace("demo-project", "other")


@pytest.mark.parametrize(
    ("options", "api", "said"),
    [
        ({}, "chat", "No location is named"),
        ({"location": LOCATION}, "predict", "No endpoint is named"),
        ({"location": "../x"}, "chat", "no location that an address can hold"),
        ({"location": LOCATION, "format": "xml"}, "predict", "'xml' is not a format"),
        ({"location": LOCATION, "poll-s": "soon"}, "chat", "'soon' is no time of up to an hour"),
        ({"location": LOCATION}, "batch", "'batch' is not an API"),
    ],
)
def test_vertex_targets_that_cannot_be_asked(
    double: VertexDouble, options: dict[str, str], api: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        vertex.target(Asked(double.url, "demo", api=api, options=options))


def test_vertex_operations_are_polled(double: VertexDouble) -> None:
    double.polls_needed = 4
    assert asked(vertex, vertex_target(double, "predict-long-running")).answer.text == TEXT
    paths = [one.path for one in double.asked if one.path != "/token"]
    assert paths == [f"/v1/{RESOURCE}:predictLongRunning"] + [f"/v1/{RESOURCE}:fetchPredictOperation"] * 4
    operation = {"name": f"projects/p/locations/{LOCATION}/operations/8"}
    reader = vertex.reader(vertex_target(double, "predict"))
    reader.feed(json.dumps(operation).encode(), 0.1)
    reader.close(0.1)
    follow = getattr(reader, "follow")  # noqa: B009
    assert (follow.method, follow.url) == ("GET", f"{double.url}/v1/{operation['name']}")
    assert not reader.answer.is_complete
    assert exchange(follow, reader) == 200


def test_vertex_operation_that_fails(double: VertexDouble) -> None:
    double.operation_error = {"code": 8, "message": "The replica ran out of memory."}
    with pytest.raises(StreamError, match=r"The operation failed: The replica ran out of memory\."):
        asked(vertex, vertex_target(double, "predict-long-running"))


def test_vertex_keeps_what_the_endpoint_measured(double: VertexDouble) -> None:
    double.extra = {"memory": {"peak_bytes": 1024}, "layers": [{"time_ms": 1.5}, {"time_ms": 2}]}
    answer = asked(vertex, vertex_target(double, "predict")).answer
    assert answer.server_metrics == {"memory.peak_bytes": 1024.0, "layers.0.time_ms": 1.5, "layers.1.time_ms": 2.0}


def test_vertex_tokens_are_reused_and_renewed(double: VertexDouble) -> None:
    double.lifetime_s = 3600
    target = vertex_target(double, "chat")
    for _ in range(3):
        assert asked(vertex, target).answer.text == TEXT
    assert len(double.tokens) == 1
    found = vertex._credentials(os.environ["GOOGLE_APPLICATION_CREDENTIALS"])
    found._found.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)  # expired: renewed before it is used
    assert asked(vertex, target).answer.text == TEXT
    assert len(double.tokens) == 2
    soon = datetime.timedelta(seconds=60)
    found._found.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + soon  # stale: renewed beside
    before = vertex.request(target, "hi", 5).headers["Authorization"]
    assert before == f"Bearer {double.tokens[1]}"
    assert found._renewal is not None
    found._renewal.join(10)
    assert vertex.request(target, "hi", 5).headers["Authorization"] == f"Bearer {double.tokens[2]}"


def test_vertex_sends_an_expired_token_that_cannot_be_renewed(double: VertexDouble) -> None:
    target = vertex_target(double, "chat")
    found = vertex._credentials(os.environ["GOOGLE_APPLICATION_CREDENTIALS"])
    found._found.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    double._public_key = b""  # the token service trusts another key now
    request = vertex.request(target, "hi", 5)
    assert request.headers["Authorization"] == f"Bearer {double.tokens[0]}"
    double.tokens = ["another"]
    assert exchange(request, vertex.reader(target)) == 401


def test_vertex_token_from_a_variable(double: VertexDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    double.tokens.append("from-gcloud")
    monkeypatch.setenv("VERTEX_TOKEN", "from-gcloud")
    target = vertex_target(double, "chat", api_key_env="VERTEX_TOKEN", options={"project": "demo-project"})
    assert asked(vertex, target).answer.text == TEXT
    assert double.tokens == ["from-gcloud"]
    with pytest.raises(ValueError, match="No project is named"):
        vertex_target(double, "chat", api_key_env="VERTEX_TOKEN")
    monkeypatch.delenv("VERTEX_TOKEN")
    with pytest.raises(ValueError, match="VERTEX_TOKEN is not set"):
        vertex_target(double, "chat", api_key_env="VERTEX_TOKEN", options={"project": "demo-project"})


def test_vertex_without_credentials_says_so(
    double: VertexDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="finds no application default credentials"):
        vertex_target(double, "chat")
    broken = json.loads(double.credentials(tmp_path).read_text())
    double._public_key = b""  # the token service trusts another key
    (tmp_path / "other.json").write_text(json.dumps(broken | {"token_uri": "http://127.0.0.1:9/token"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "other.json"))
    with pytest.raises(ValueError, match="Google gave no access token") as caught:
        vertex_target(double, "chat")
    assert "PRIVATE KEY" not in str(caught.value)


def test_googles_own_session_gets_the_same_text(double: VertexDouble) -> None:
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, project = google.auth.default(scopes=[vertex.SCOPE])
    session = AuthorizedSession(credentials)
    body = {"instances": [{"prompt": "hi", "max_tokens": 5}]}
    said = session.post(
        f"{double.url}/v1/projects/{project}/locations/{LOCATION}/endpoints/{ENDPOINT}:predict", json=body
    )
    assert said.json()["predictions"] == [f"Prompt:\nhi\nOutput:\n{TEXT}"]
    assert asked(vertex, vertex_target(double, "predict")).answer.text == TEXT


def test_googles_sdk_gets_the_same_text(double: VertexDouble) -> None:
    aiplatform = pytest.importorskip("google.cloud.aiplatform", reason="google-cloud-aiplatform is not installed")
    aiplatform.init(project="demo-project", location=LOCATION, api_transport="rest", api_endpoint=double.url)
    said = aiplatform.Endpoint(RESOURCE).predict(instances=[{"prompt": "hi", "max_tokens": 5}])
    assert said.predictions == [f"Prompt:\nhi\nOutput:\n{TEXT}"]


# --- SageMaker --------------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SageMakerDouble]:
    """SageMaker's runtime on loopback, with credentials in the environment that it accepts."""
    pytest.importorskip("botocore", reason="botocore is not installed: pip install 'rooflake[cloud]'")
    said = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_SESSION_TOKEN": SESSION_TOKEN}
    said |= {"AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": str(tmp_path / "none")}
    for name, value in (said | {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    sagemaker._chain.cache_clear()
    one = SageMakerDouble()
    with serving(one):
        yield one
    sagemaker._chain.cache_clear()


def sagemaker_target(runtime: SageMakerDouble, **more: Any) -> Target:
    return sagemaker.target(Asked(runtime.url, "demo", **more))


@pytest.mark.parametrize("api", sagemaker.APIS)
@pytest.mark.parametrize("is_streaming", [True, False])
def test_sagemaker_routes(runtime: SageMakerDouble, api: str, is_streaming: bool) -> None:
    answer = asked(sagemaker, sagemaker_target(runtime, api=api, is_streaming=is_streaming)).answer
    assert (answer.text, answer.finish_reason, answer.is_complete) == (TEXT, "length", True)
    assert (answer.output_tokens(), answer.input_tokens) == ((5, "usage"), PROMPT_TOKENS)
    assert answer.is_whole is not is_streaming


def test_amazons_sdk_gets_the_same_text(runtime: SageMakerDouble) -> None:
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: pip install 'rooflake[cloud]'")
    client = boto3.client("sagemaker-runtime", endpoint_url=runtime.url, region_name=REGION)
    body = json.dumps({"inputs": "hi", "parameters": {"max_new_tokens": 5}}).encode()
    said = client.invoke_endpoint(EndpointName="demo", Body=body, ContentType="application/json")
    assert json.loads(said["Body"].read())["generated_text"] == TEXT
    stream = client.invoke_endpoint_with_response_stream(EndpointName="demo", Body=body, ContentType="application/json")
    reader = _formats.FormatReader()
    for event in stream["Body"]:
        reader.feed(event["PayloadPart"]["Bytes"], 0.0)
    reader.close(0.0)
    assert reader.answer.text == TEXT
    assert asked(sagemaker, sagemaker_target(runtime, api="inputs")).answer.text == TEXT


def test_sagemaker_signature_covers_the_body_and_the_header(runtime: SageMakerDouble) -> None:
    target = sagemaker_target(runtime, options={"component": "part-1"})
    good = sagemaker.request(target, "hi", 5)
    assert "x-amzn-sagemaker-inference-component" in good.headers["Authorization"]
    assert good.headers["X-Amz-Security-Token"] == SESSION_TOKEN
    reader = sagemaker.reader(target)
    assert exchange(good, reader) == 200
    forged = HttpRequest(good.method, good.url, good.headers, good.body.replace(b"hi", b"ho"))
    assert exchange(forged, sagemaker.reader(target)) == 403


def test_sagemaker_failures_in_the_stream(runtime: SageMakerDouble) -> None:
    runtime.failure = ("ModelStreamError", "The container died.")
    with pytest.raises(StreamError, match=r"The server reports ModelStreamError: The container died\."):
        asked(sagemaker, sagemaker_target(runtime))
    reader = sagemaker.reader(sagemaker_target(runtime))
    with pytest.raises(StreamError, match="The event stream is broken"):
        reader.feed(b"HTTP was never this" * 10, 0.1)


def test_sagemaker_targets_that_cannot_be_asked(runtime: SageMakerDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="takes no key but AWS credentials"):
        sagemaker_target(runtime, api_key_env="OPENAI_API_KEY")
    with pytest.raises(ValueError, match="no endpoint that an address can hold"):
        sagemaker_target(runtime, options={"endpoint": "../../x"})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    sagemaker._chain.cache_clear()
    with pytest.raises(ValueError, match="The AWS SDK finds no credentials"):
        sagemaker_target(runtime)
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ValueError, match="No region is named"):
        sagemaker_target(runtime)


def test_sagemaker_default_address(runtime: SageMakerDouble) -> None:
    target = sagemaker.target(Asked(None, "demo", options={"region": "us-west-2"}))
    assert target.base_url == "https://runtime.sagemaker.us-west-2.amazonaws.com/endpoints/demo"


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_shown_or_logged(
    double: VertexDouble, runtime: SageMakerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = ""
    for provider, target in ((vertex, vertex_target(double, "chat")), (sagemaker, sagemaker_target(runtime))):
        request = provider.request(target, "hi", 5)
        asked(provider, target)
        shown += repr(target) + repr(request) + target.sentence(json.dumps(dict(request.headers)))
    shown += caplog.text
    for secret in (*double.tokens, SECRET_KEY, SESSION_TOKEN):
        assert not [form for form in forms(secret) if form.decode() in shown]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "google.auth", None)
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    with pytest.raises(LookupError, match=r"pip install 'rooflake\[cloud\]'"):
        vertex._import_google()
    with pytest.raises(LookupError, match=r"pip install 'rooflake\[cloud\]'"):
        sagemaker._import_botocore()


def test_the_doubles_containers_agree() -> None:
    """Both styles say the same, so that a test of one is a test of the other."""
    inputs, _ = container({"inputs": "", "parameters": {"max_new_tokens": 5}}, False)
    chat, _ = container({"max_tokens": 5}, False)
    assert inputs["generated_text"] == chat["choices"][0]["message"]["content"] == TEXT
