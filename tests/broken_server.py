"""A server on loopback that fails on purpose: it accepts a request and then does what a script of byte pieces says.

A fault injector for the endpoint collector. The real server is `transformers serve`, in tests/e2e/test_endpoint_server.py.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
STALL = b""
"""In a script: send nothing more and keep the connection open until the server is stopped."""


@dataclass
class BrokenServer:
    """What it listens on and what it was sent."""

    url: str
    requests: list[bytes] = field(default_factory=list)


def http(status: str, body: bytes, content_type: str = "application/json", extra: bytes = b"") -> list[bytes]:
    """Script of one whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    return [head.encode() + extra + b"\r\n" + body]


@contextlib.contextmanager
def serving(*scripts: Sequence[bytes]) -> Iterator[BrokenServer]:
    """A server that gives the n-th connection the n-th script, the last script to all later ones."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = BrokenServer(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        threads: list[threading.Thread] = []

        def accept() -> None:
            for index in range(10_000):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                if stopped.is_set():
                    connection.close()
                    return
                script = scripts[min(index, len(scripts) - 1)]
                threads.append(threading.Thread(target=_serve, args=(connection, script, server, stopped)))
                threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield server
        finally:
            stopped.set()
            with contextlib.suppress(OSError):
                socket.create_connection(listener.getsockname(), timeout=1).close()
            for thread in [acceptor, *threads]:
                thread.join(10)


def _serve(connection: socket.socket, script: Sequence[bytes], server: BrokenServer, stopped: threading.Event) -> None:
    with connection, contextlib.suppress(OSError):
        server.requests.append(_request(connection))
        for piece in script:
            if piece == STALL:
                stopped.wait(30)
                return
            connection.sendall(piece)
            time.sleep(0.002)  # one network read for each piece, mostly


def _request(connection: socket.socket) -> bytes:
    connection.settimeout(5)
    received = _more(connection)
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += _more(connection)
    return head + b"\r\n\r\n" + body


def _more(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    if not received:
        raise OSError("the client left before its request was whole")
    return received
