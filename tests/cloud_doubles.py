"""Loopback doubles of two clouds, for the real SDKs and for our providers: Vertex AI with its tokens, operations and
Cloud Monitoring; SageMaker's runtime with its event stream. Both check who asks, and fail when told to.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import hashlib
import hmac
import json
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

WORDS = ("The", " roof", " is", " near", ".")
"""Tokens of every answer, cut to the number asked for."""

PROMPT_TOKENS = 7


@dataclass(frozen=True)
class Asked:
    """One request as it came. Header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Double:
    """What a double was asked, and how it is told to behave."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    faults: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)
    """(status, headers, JSON body): each answers one request instead of the service."""
    delay_s: float = 0.0
    """Before each answer of the service: its latency."""
    gap_s: float = 0.0
    """Between two pieces of a stream."""
    cut_after: int | None = None
    """Pieces of a stream after which the connection is closed."""

    def answer(self, asked: Asked) -> Reply:
        """The answer of the service. Each double has its own."""
        raise NotImplementedError


@dataclass
class Reply:
    """One HTTP answer: JSON in one piece, or pieces of a stream."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Sequence[bytes] | None = None
    content_type: str = "application/json"


@contextlib.contextmanager
def serving(double: Double) -> Iterator[None]:
    """The double listens on a loopback port of its own until the block is left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # a client that leaves early
                super().handle()

        def do_POST(self) -> None:
            self.connection.settimeout(10)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            double.asked.append(asked)
            with contextlib.suppress(OSError):
                if double.faults and asked.path != "/token":
                    status, headers, said = double.faults.pop(0)
                    self._send(Reply(said, status, headers))
                else:
                    self._send(double.answer(asked))

        do_GET = do_POST

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.pieces is None:
                content = json.dumps(reply.body).encode()
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for index, piece in enumerate(reply.pieces):
                if index == double.cut_after:
                    self.close_connection = True
                    return
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                time.sleep(double.gap_s)
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    double.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


# --- what a container answers -----------------------------------------------------------------------------------------


def container(body: Mapping[str, Any], is_streaming: bool) -> tuple[Any, list[bytes]]:
    """The answer of a model server: in one piece, or as the pieces of a stream, in the style it was asked in."""
    if "inputs" in body:
        words = WORDS[: int(body["parameters"]["max_new_tokens"])]
        details = {
            "finish_reason": "length",
            "generated_tokens": len(words),
            "input_length": PROMPT_TOKENS,
            "seed": None,
        }
        lines: list[dict[str, Any]] = [
            {
                "index": at + 1,
                "token": {"id": at, "text": word, "logprob": -0.1, "special": False},
                "generated_text": None,
            }
            for at, word in enumerate(words)
        ]
        lines[-1] |= {"generated_text": "".join(words), "details": details}
        return {"generated_text": "".join(words), "details": details}, [
            json.dumps(line).encode() + b"\n" for line in lines
        ]
    words = WORDS[: int(body["max_tokens"])]
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": len(words)}
    message = {"role": "assistant", "content": "".join(words)}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "length"}], "usage": usage}
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in words
    ]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}, {"choices": [], "usage": usage}]
    events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks] + [b"data: [DONE]\n\n"]
    return whole, events if is_streaming else []


@dataclass
class ModelDouble(Double):
    """A model server behind a key in a header: text-generation-inference, Azure OpenAI, Bedrock's OpenAI route."""

    path: str = "/"
    header: tuple[str, str] = ("", "")
    """(name, value) that lets a request in."""

    def answer(self, asked: Asked) -> Reply:
        name, value = self.header
        if asked.headers.get(name) != value:
            return Reply({"error": {"message": f"{asked.headers.get(name)} is not the key"}}, 401)
        if asked.path != self.path:
            return Reply({"error": "no such route"}, 404)
        time.sleep(self.delay_s)
        whole, pieces = container(asked.json, True)
        if asked.path.endswith("_stream") or asked.json.get("stream"):
            is_sse = pieces[0].startswith(b"data:")
            pieces = pieces if is_sse else [b"data:" + piece + b"\n" for piece in pieces]
            return Reply(pieces=pieces, content_type="text/event-stream")
        return Reply(whole)


# --- Vertex AI --------------------------------------------------------------------------------------------------------

PROJECT, LOCATION, ENDPOINT = "demo-project", "us-central1", "4711"
RESOURCE = f"projects/{PROJECT}/locations/{LOCATION}/endpoints/{ENDPOINT}"


@dataclass
class VertexDouble(Double):
    """Vertex AI's prediction service, its token service and Cloud Monitoring in one."""

    extra: dict[str, Any] = field(default_factory=dict)
    """Added to each prediction: what a custom container says beside its text."""
    lifetime_s: int = 3600
    tokens: list[str] = field(default_factory=list)
    """Access tokens issued."""
    polls_needed: int = 2
    """Polls after which an operation is done."""
    operation_error: dict[str, Any] | None = None
    series: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Metric type -> time series of Cloud Monitoring, one a page."""
    _operation: Any = None
    _polls: int = 0
    _public_key: bytes = b""

    def credentials(self, folder: Path) -> Path:
        """A service account's key file, as google-auth reads it, whose tokens this double issues."""
        private, self._public_key = _key_pair()
        path = folder / f"service-account-{urlsplit(self.url).port}.json"
        said = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": private.decode(),
        }
        said |= {"client_email": "meter@demo-project.iam.gserviceaccount.com", "client_id": "1"}
        path.write_text(json.dumps(said | {"token_uri": f"{self.url}/token"}), encoding="utf-8")
        return path

    def answer(self, asked: Asked) -> Reply:
        path = urlsplit(asked.path).path
        if path == "/token":
            return self._token(asked)
        if not self._is_known(asked.headers.get("authorization", "")):
            return _google_error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if path == f"/v3/projects/{PROJECT}/timeSeries":
            return self._time_series(parse_qs(urlsplit(asked.path).query))
        time.sleep(self.delay_s)
        return self._read(path) if asked.method == "GET" else self._predicted(self._method(path), asked)

    def _read(self, path: str) -> Reply:
        if "/operations/" in path:
            return self._poll(path.removeprefix("/v1/"))
        return Reply({"name": RESOURCE, "displayName": "demo"})

    def _is_known(self, authorization: str) -> bool:
        """A token issued, or, as Google's SDK of Vertex AI sends it, a token that the service account signed itself."""
        kind, _, token = authorization.partition(" ")
        if kind != "Bearer" or token in self.tokens:
            return kind == "Bearer"
        try:
            return bool(_decoded(token, self._public_key)["iss"])
        except ValueError:
            return False

    def _token(self, asked: Asked) -> Reply:
        (assertion,) = parse_qs(asked.body.decode())["assertion"]
        try:
            claims = _decoded(assertion, self._public_key)
        except ValueError:
            return Reply({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400)
        assert claims["aud"] == "https://oauth2.googleapis.com/token", claims
        assert "cloud-platform" in claims["scope"], claims
        self.tokens.append(f"ya29.secret-{len(self.tokens)}-{hashlib.sha256(self.url.encode()).hexdigest()[:20]}")
        return Reply({"access_token": self.tokens[-1], "expires_in": self.lifetime_s, "token_type": "Bearer"})

    def _method(self, path: str) -> str:
        for resource in (RESOURCE, RESOURCE.replace(ENDPOINT, "openapi")):
            if path.startswith(f"/v1/{resource}"):
                return path.removeprefix(f"/v1/{resource}")
        return path

    def _predicted(self, method: str, asked: Asked) -> Reply:
        body = asked.json
        if method == ":fetchPredictOperation":
            return self._poll(body["operationName"])
        if method in ("/chat/completions", ":rawPredict", ":streamRawPredict"):
            is_streaming = bool(body.get("stream"))
            whole, pieces = container(body, is_streaming)
            return Reply(pieces=pieces, content_type="text/event-stream") if is_streaming else Reply(whole)
        prediction = self._prediction(body["instances"][0])
        predicted = {"predictions": [prediction], "deployedModelId": "99", "modelVersionId": "1"}
        if method == ":predict":
            return Reply(predicted)
        if method == ":predictLongRunning":
            self._operation, self._polls = predicted, 0
            return Reply({"name": f"{RESOURCE}/operations/8"})
        return _google_error(404, "NOT_FOUND", f"{method} is not a method.")

    def _prediction(self, instance: Mapping[str, Any]) -> Any:
        if "prompt" in instance and not self.extra:
            text = "".join(WORDS[: int(instance["max_tokens"])])
            return f"Prompt:\n{instance['prompt']}\nOutput:\n{text}"
        whole, _ = container(instance, False)
        return {**whole, **self.extra}

    def _poll(self, name: str) -> Reply:
        self._polls += 1
        if self._polls < self.polls_needed:
            return Reply({"name": name, "metadata": {"@type": "x"}})
        result = {"response": self._operation} if self.operation_error is None else {"error": self.operation_error}
        return Reply({"name": name, "done": True, **result})

    def _time_series(self, query: Mapping[str, list[str]]) -> Reply:
        """One page; checks the interval and the filter's endpoint."""
        found = re.search(r'metric\.type ?= ?"([^"]+)"', query["filter"][0])
        assert found, query
        assert f'"{ENDPOINT}"' in query["filter"][0], query
        begin, end = (_time(query[f"interval.{name}"][0]) for name in ("startTime", "endTime"))
        assert begin < end, query
        pages = self.series.get(found[1], [])
        page = int(query.get("pageToken", ["0"])[0])
        more = {"nextPageToken": str(page + 1)} if page + 1 < len(pages) else {}
        return Reply({"timeSeries": [one for one in pages[page : page + 1] if one], **more})


@functools.cache
def _key_pair() -> tuple[bytes, bytes]:
    """A private and a public RSA key in PEM, made once: that takes a while."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


def _decoded(token: str, public_key: bytes) -> Any:
    """The claims of a JSON web token signed with the key. Raises ValueError for any other."""
    from google.auth import jwt

    return jwt.decode(token, certs=public_key)  # type: ignore[no-untyped-call]


def series(replica: str, points: Mapping[datetime.datetime, float], kind: str = "doubleValue") -> dict[str, Any]:
    """One time series of Cloud Monitoring, newest point first, as the service lists them. `kind` int64Value is a string."""
    return {
        "metric": {"labels": {"deployed_model_id": "99", "replica_id": replica}},
        "resource": {"type": "aiplatform.googleapis.com/Endpoint", "labels": {"endpoint_id": ENDPOINT}},
        "points": [
            {
                "interval": {"startTime": at.isoformat(), "endTime": at.isoformat().replace("+00:00", "Z")},
                "value": {kind: value if kind == "doubleValue" else str(int(value))},
            }
            for at, value in sorted(points.items(), reverse=True)
        ],
    }


def _google_error(status: int, name: str, message: str) -> Reply:
    return Reply({"error": {"code": status, "message": message, "status": name}}, status)


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


# --- SageMaker --------------------------------------------------------------------------------------------------------

REGION = "eu-west-1"
ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = (
    "AKIAPLANTED0000000",
    "planted/secret+key000000000000",
    "planted-session-token==",
)


@dataclass
class SageMakerDouble(Double):
    """SageMaker's runtime: recomputes each signature, streams AWS event streams in parts that cut lines anywhere."""

    failure: tuple[str, str] | None = None
    """(exception type, message) sent in the stream after its second part."""

    def answer(self, asked: Asked) -> Reply:
        if (wrong := _signature_fault(asked)) is not None:
            headers = {"x-amzn-ErrorType": "InvalidSignatureException"}
            return Reply({"message": wrong}, 403, headers)
        time.sleep(self.delay_s)
        found = re.fullmatch(r"/endpoints/demo/invocations(-response-stream)?", asked.path)
        if found is None:
            return Reply({"Message": "Endpoint not found."}, 400, {"x-amzn-ErrorType": "ValidationError"})
        is_streaming = found[1] is not None
        whole, pieces = container(asked.json, is_streaming)
        if not is_streaming:
            return Reply(whole)
        payload = b"".join(pieces)
        cuts = [payload[at : at + 37] for at in range(0, len(payload), 37)]
        frames = [frame({":message-type": "event", ":event-type": "PayloadPart"}, part) for part in cuts]
        if self.failure is not None:
            kind, said = self.failure
            headers = {":message-type": "exception", ":exception-type": kind, ":content-type": "application/json"}
            frames[2:] = [frame(headers, json.dumps({"Message": said}).encode())]
        return Reply(pieces=frames, content_type="application/vnd.amazon.eventstream")


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message of an AWS event stream: lengths, their CRC, string headers (type 7), payload, CRC of it all."""
    said = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(said) + len(payload), len(said))
    head = prelude + struct.pack("!I", zlib.crc32(prelude))
    return head + said + payload + struct.pack("!I", zlib.crc32(head + said + payload))


def _signature_fault(asked: Asked) -> str | None:
    """What is wrong with a request's Signature Version 4, computed here from its definition; None for nothing."""
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w{64})",
        asked.headers.get("authorization", ""),
    )
    if found is None:
        return "Missing Authentication Token"
    access_key, day, region, service, names, signature = found.groups()
    if (access_key, region, service) != (ACCESS_KEY, REGION, "sagemaker"):
        return "The security token included in the request is invalid."
    if "x-amz-security-token" in names and asked.headers["x-amz-security-token"] != SESSION_TOKEN:
        return "The security token included in the request is invalid."
    stamp = asked.headers["x-amz-date"]
    at = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    if abs((datetime.datetime.now(datetime.UTC) - at).total_seconds()) > 300 or not {"host", "x-amz-date"} <= set(
        names.split(";")
    ):
        return "Signature expired."
    canonical = [
        asked.method, quote(unquote(urlsplit(asked.path).path), safe="/~"), urlsplit(asked.path).query,
        *(f"{name}:{' '.join(asked.headers[name].split())}" for name in names.split(";")), "", names,
        asked.headers.get("x-amz-content-sha256", hashlib.sha256(asked.body).hexdigest()),
    ]  # fmt: skip
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, f"{day}/{region}/{service}/aws4_request", digest])
    expected = hmac.digest(key, text.encode(), "sha256").hex()
    return None if hmac.compare_digest(expected, signature) else "The request signature we calculated does not match."


def forms(secret: str) -> list[bytes]:
    """How a secret may appear in a file: plain, in base64, percent-encoded."""
    plain = secret.encode()
    return [plain, base64.b64encode(plain), quote(secret, safe="").encode()]
