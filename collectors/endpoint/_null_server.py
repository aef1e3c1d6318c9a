"""A server that does nothing but answer at known times: each answer says when its request came and when it was really written.

Runs as a program of its own, `python -m collectors.endpoint._null_server TTFT_S GAP_S`: prints its port, serves OpenAI's streaming
routes on loopback, and ends when its standard input does. One thread and no event loop, for it shares the machine with the client
that it tests.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import selectors
import socket
import sys
import threading
import time
from os import _exit

from collectors.endpoint._transport import StampingSocket

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(text: str) -> bytes:
    return _chunk(b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n' % text.encode())


NEXT = _event("x")
LAST = (
    _chunk(b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"length"}]}\n\n')
    + _chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class _Connection:
    """One connection. An answer has as many chunks as `max_tokens` asks for, at least three; the first says when its request came and
    the time just before its own write, the second the time just after that write."""

    def __init__(self, accepted: StampingSocket) -> None:
        self.socket = accepted
        self._received = b""
        self._sent = self._count = 0
        self._after_s = 0.0

    def read(self) -> bool | None:
        """Take what came: whether a request is whole now; None at the end of the connection."""
        data = self.socket.recv(2**16)
        if not data:
            return None
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < _number_after(head.lower(), b"content-length:"):
            return False
        self._received = b""
        self._sent, self._count = 0, max(3, _number_after(body, b'"max_tokens":'))
        return True

    def write(self) -> bool:
        """Write the next chunk: whether there are more."""
        self._sent += 1
        if self._sent == 1:
            before_s = time.perf_counter()
            self.socket.send(HEAD + _event(f"{self.socket.arrived_s:.9f} {before_s:.9f} "))
            self._after_s = time.perf_counter()
        else:
            is_last = self._sent == self._count
            self.socket.send(_event(f"{self._after_s:.9f} ") if self._sent == 2 else LAST if is_last else NEXT)
        return self._sent < self._count


def _number_after(text: bytes, name: bytes) -> int:
    rest = text.partition(name)[2].lstrip()
    digits = len(rest) - len(rest.lstrip(b"0123456789"))
    return int(rest[:digits] or 0)


class _NullServer:
    def __init__(self, listening: socket.socket, ttft_s: float, gap_s: float) -> None:
        self._listening, self._ttft_s, self._gap_s = listening, ttft_s, gap_s
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._due: list[tuple[float, int, _Connection]] = []

    def serve(self) -> None:
        while True:
            wait_s = max(0.0, self._due[0][0] - time.perf_counter()) if self._due else None
            for key, _ in self._selector.select(wait_s):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            now_s = time.perf_counter()
            while self._due and self._due[0][0] <= now_s:
                self._write(*heapq.heappop(self._due))

    def _accept(self) -> None:
        accepted, _ = self._listening.accept()
        connection = _Connection(StampingSocket(fileno=accepted.detach()))
        connection.socket.begin()
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection) -> None:
        try:
            is_whole = connection.read()
        except OSError:
            is_whole = None
        if is_whole:
            file = connection.socket.fileno()
            heapq.heappush(self._due, (connection.socket.arrived_s + self._ttft_s, file, connection))
        elif is_whole is None:
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _write(self, due_s: float, file: int, connection: _Connection) -> None:
        with contextlib.suppress(OSError):  # the client has gone; its end is read next
            if connection.socket.fileno() == file and connection.write():
                heapq.heappush(self._due, (due_s + self._gap_s, file, connection))


def _end_with_parent() -> None:
    sys.stdin.read()
    _exit(0)


if __name__ == "__main__":
    gc.disable()
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        threading.Thread(target=_end_with_parent, daemon=True).start()
        _NullServer(listening, float(sys.argv[1]), float(sys.argv[2])).serve()
