"""HTTPS: an endpoint whose certificate nobody vouches for is refused, one that SSL_CERT_FILE vouches for is measured."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from landed_rows import landed

from collectors import endpoint

EVENTS = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi "},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"you"},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)
GAP_S = 0.05


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in EVENTS:
            time.sleep(GAP_S)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None: ...


def self_signed(folder: Path, address: str) -> Path:
    """A certificate of an address, signed with its own key, which lies before it in the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{address}.pem"
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@contextlib.contextmanager
def https(certificate: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that does not trust it hangs up
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def load(url: str, landing: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    endpoint.collect(landing, url=url, model="m", prompt="x", concurrency=2, num_requests=4, warmup=1, self_test=False)
    (row,) = landed(landing, "runs")
    return row, landed(landing, "requests")


def test_a_trusted_certificate_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with https(certificate) as url:
        row, requests = load(url, tmp_path / "landing")
    assert (row["status"], row["num_requests"], row["num_failed_requests"]) == ("ok", 4, 0)
    for request in requests:
        assert (request["status"], request["output_tokens"], len(request["chunk_times_s"])) == ("ok", 2, 2)
        assert request["ttft_s"] >= GAP_S
        assert request["e2el_s"] - request["ttft_s"] > GAP_S / 2  # stamped apart, though TLS decodes them


@pytest.mark.parametrize(
    ("address", "is_in_file", "reason"),
    [
        ("127.0.0.1", False, "self-signed certificate"),
        ("127.0.0.2", True, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
def test_an_untrusted_certificate_is_a_refused_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, is_in_file: bool, reason: str
) -> None:
    certificate = self_signed(tmp_path, address)
    if is_in_file:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with https(certificate) as url:
        row, requests = load(url, tmp_path / "landing")
    assert row["status"] == "refused"
    assert row["num_failed_requests"] == row["num_requests"]
    for request in requests:
        assert (request["status"], request["ttft_s"], request["http_status"]) == ("refused", None, None)
        assert "certificate verify failed" in request["status_detail"]
        assert reason in request["status_detail"]
