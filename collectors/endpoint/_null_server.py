"""A server that does nothing but answer at known times: each answer says when its first chunk was really written.

Runs as a program of its own with the standard library alone, `python _null_server.py TTFT_S GAP_S`: prints its port, serves
OpenAI's streaming routes on loopback, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from os import _exit

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


class NullServer(asyncio.Protocol):
    """One connection. An answer has as many chunks as `max_tokens` asks for, at least two."""

    ttft_s = gap_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def data_received(self, data: bytes) -> None:
        at_s = self._loop.time()
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(_number_after(head.lower(), b"content-length:")):
            return
        self._received = b""
        self._left = max(2, _number_after(body, b'"max_tokens":'))
        self._due_s = at_s + self.ttft_s
        self._loop.call_at(self._due_s, self._begin)

    def _begin(self) -> None:
        self._transport.write(HEAD + _event(f"{time.perf_counter():.9f} "))
        self._wait()

    def _go_on(self) -> None:
        self._transport.write(NEXT if self._left > 1 else LAST)
        self._wait()

    def _wait(self) -> None:
        self._left -= 1
        if self._left and not self._transport.is_closing():
            self._due_s += self.gap_s
            self._loop.call_at(self._due_s, self._go_on)


def _number_after(text: bytes, name: bytes) -> int:
    rest = text.partition(name)[2].lstrip()
    digits = len(rest) - len(rest.lstrip(b"0123456789"))
    return int(rest[:digits] or 0)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(NullServer, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    await server.serve_forever()


def _end_with_parent() -> None:
    sys.stdin.read()
    _exit(0)


if __name__ == "__main__":
    NullServer.ttft_s, NullServer.gap_s = float(sys.argv[1]), float(sys.argv[2])
    asyncio.run(_serve())
