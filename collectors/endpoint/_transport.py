"""HTTP/1.1 on asyncio: a request's bytes out, its answer's bytes in, each piece with the time at which the kernel received it.

Arrivals are the kernel's own receive stamps (SO_TIMESTAMPNS), carried over to the monotonic clock: how late this process comes to
read is in no latency, unless it comes so late that the next piece is there, which the kernel then joins to it under the later stamp.
Where the system has no such stamps, a piece is stamped as soon as it is read. Answers are read at leisure: while a stream runs its
pieces are only kept, and are decoded once a second and after its end. No redirect is followed and no proxy asked, for a key must not
reach another host.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import re
import socket
import ssl
import struct
import sys
import time
from typing import Any, cast
from urllib.parse import urlsplit

from collectors.endpoint._providers import FollowingReader, HttpRequest, Reader
from collectors.endpoint._stream import StreamError

SO_TIMESTAMPNS = 35
"""Linux: nanosecond receive stamps beside the data (socket(7))."""

TOGETHER_S = 2e-5
"""Two clocks read within this are read together."""

MAX_HEAD_BYTES = 2**16
MAX_ERROR_BYTES = 2**16
IDLE_S = 2.0
"""A connection unused for longer is not used again: servers close theirs after 5 s or more, and a request must not meet that."""

CLOSING_S = 1.0
"""How often a running stream is decoded. One whose answer is complete is ended then: the rest would say nothing more."""


class TransportError(Exception):
    """The answer is not HTTP/1.1, or ended before it was whole. The message is a phrase."""


class RefusedError(Exception):
    """No connection could be made. The message is a phrase."""


class StampingSocket(socket.socket):
    """A socket that keeps when its last-read bytes arrived, on the clock of time.perf_counter; never earlier than those before."""

    arrived_s = 0.0

    def begin(self) -> None:
        """Ask the kernel for its stamps, where it has them; without, bytes are stamped as they are read."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def recv(self, size: int, flags: int = 0) -> bytes:
        data, notes, _, _ = self.recvmsg(size, 64)
        self.arrived_s = max(self.arrived_s, _arrival(notes))
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        count, notes, _, _ = self.recvmsg_into([buffer], 64)
        self.arrived_s = max(self.arrived_s, _arrival(notes))
        return count


def _arrival(notes: list[tuple[int, int, bytes]]) -> float:
    if not notes or notes[0][1] != SO_TIMESTAMPNS:
        return time.perf_counter()
    seconds, nanoseconds = struct.unpack("qq", notes[0][2])
    for _ in range(5):
        before, wall = time.perf_counter(), time.time()
        if time.perf_counter() - before <= TOGETHER_S:  # else something ran in between
            break
    age = wall - seconds - nanoseconds * 1e-9
    return before - age if 0.0 <= age < 60.0 else before  # else the wall clock was set meanwhile


class Exchange:
    """One request and what came back. Times are `time.perf_counter` seconds."""

    def __init__(self, reader: Reader, wanted_s: float, zero_s: float | None = None) -> None:
        self.reader = reader
        self.zero_s = zero_s
        """What the reader's times count from; None for this request's own send."""
        self.secrets: tuple[str, ...] = ()
        """What the request's headers held that must not be kept."""
        self.wanted_s = wanted_s
        """When the request was due, or its slot free."""
        self.sent_s = wanted_s
        """When its first byte went out; where no connection could be made, when that was begun."""
        self.ended_s = math.nan
        """When its last byte arrived, or when it was given up."""
        self.failure: Exception | None = None
        """TimeoutError, RefusedError, TransportError, StreamError or OSError; None where the answer came to its end."""
        self.start = b""
        """How the body begins: its first piece, whole, so that no part of a key is left that nobody would recognise."""
        self.error_body = b""
        """Body of an answer that is no success, at most 64 KiB."""
        self.framing = _Framing()
        self._raw: list[bytes] = []
        self._arrivals: list[float] = []
        self._unread: list[tuple[bytes, float]] = []
        self._last_s = 0.0

    @property
    def is_success(self) -> bool:
        return self.framing.status is not None and 200 <= self.framing.status < 300

    @property
    def is_suspect(self) -> bool:
        """It failed, as far as one can tell without reading the answer."""
        return self.failure is not None or not self.is_success

    def keep(self, data: bytes, at_s: float) -> None:
        """Keep a piece; frames it only where it can be the last."""
        self._raw.append(data)
        self._arrivals.append(at_s)
        if not self.framing.is_chunked or len(data) < 8 or data.endswith(b"\r\n\r\n"):
            self.frame()

    def frame(self) -> None:
        """Undo the transfer encoding of what came so far."""
        pieces, self._raw = self._raw, []
        arrivals, self._arrivals = self._arrivals, []
        try:
            zero_s = self.sent_s if self.zero_s is None else self.zero_s
            for data, at_s in zip(pieces, arrivals, strict=True):
                self._unread += [(part, at_s - zero_s) for part in self.framing.feed(data)]
        except TransportError as error:
            self.failure = error

    def read(self) -> None:
        """Give the reader what came so far; what it finds wrong becomes the failure."""
        self.frame()
        unread, self._unread = self._unread, []
        for part, at_s in unread:
            self._last_s = at_s
            self.start = self.start or part
            if not self.is_success:
                self.error_body = (self.error_body + part)[:MAX_ERROR_BYTES]
                continue
            try:
                self.reader.feed(part, at_s)
            except StreamError as error:
                self.failure = error
                return

    def close(self) -> None:
        """Read the rest, once it has ended. A break after a complete answer is no failure."""
        self.read()
        answer = self.reader.answer
        if answer.is_complete and not isinstance(self.failure, StreamError):
            self.failure = None
        if self.failure is None and self.is_success:
            try:
                self.reader.close(self._last_s)
            except StreamError as error:
                self.failure = None if answer.is_complete else error


class Pool:
    """Connections to one server, kept open between requests. For one event loop."""

    def __init__(self) -> None:
        self._idle: list[_Wire] = []
        self._addresses: dict[tuple[str, int], list[Any]] = {}
        self._tls: ssl.SSLContext | None = None

    def close(self) -> None:
        """Close the connections that no request uses."""
        for wire in self._idle:
            wire.transport.abort()
        self._idle.clear()

    async def send(self, request: HttpRequest, reader: Reader, timeout_s: float, wanted_s: float) -> Exchange:
        """Send one request and wait for the end of its answer, for `timeout_s` at most. Never raises for what a server does.

        The answer may be unread when this returns: `Exchange.close` reads it.
        """
        exchange = await self._exchange(request, Exchange(reader, wanted_s), timeout_s)
        if hasattr(reader, "follow"):
            await self._follow(exchange, cast(FollowingReader, reader), timeout_s)
        return exchange

    async def _follow(self, exchange: Exchange, reader: FollowingReader, timeout_s: float) -> None:
        """Ask on while the reader says that the answer is not all there. The exchange keeps its own send, and gets the last
        answer's end and failure; all of it has `timeout_s`."""
        exchange.close()
        while exchange.failure is None and exchange.is_success and reader.follow is not None:
            left_s = exchange.sent_s + timeout_s - time.perf_counter()
            await asyncio.sleep(min(reader.wait_s, max(left_s, 0.0)))
            if (left_s := exchange.sent_s + timeout_s - time.perf_counter()) <= 0:
                exchange.failure, exchange.ended_s = TimeoutError(), time.perf_counter()
                return
            later = Exchange(reader, exchange.wanted_s, exchange.sent_s)
            await self._exchange(reader.follow, later, left_s)
            later.close()
            exchange.framing, exchange.failure, exchange.ended_s = later.framing, later.failure, later.ended_s
            exchange.start, exchange.error_body = later.start, later.error_body
            exchange.secrets += later.secrets

    async def _exchange(self, request: HttpRequest, exchange: Exchange, timeout_s: float) -> Exchange:
        exchange.secrets = request.secrets
        exchange.sent_s = time.perf_counter()
        deadline = exchange.sent_s + timeout_s
        try:
            wire = await self._wire(request.url, timeout_s)
        except (TimeoutError, RefusedError) as error:
            exchange.failure, exchange.ended_s = error, time.perf_counter()
            return exchange
        try:
            await wire.send(exchange, _bytes_of(request), deadline)
        finally:
            if wire.is_reusable:
                self._idle.append(wire)
            else:
                wire.transport.abort()
        return exchange

    async def _wire(self, url: str, timeout_s: float) -> _Wire:
        oldest = time.perf_counter() - IDLE_S
        while self._idle:
            wire = self._idle.pop()
            if wire.is_reusable and wire.idle_since > oldest:
                return wire
            wire.transport.abort()
        async with asyncio.timeout(timeout_s):
            return await self._connect(url)

    async def _connect(self, url: str) -> _Wire:
        parts = urlsplit(url)
        host, is_tls = parts.hostname or "", parts.scheme == "https"
        failure: Exception = OSError("it has no address")
        loop = asyncio.get_running_loop()
        for family, kind, number, _, address in await self._resolve(host, parts.port or (443 if is_tls else 80)):
            try:
                connected = StampingSocket(family, kind, number)
            except OSError as error:  # no file descriptors left
                raise RefusedError(str(error)) from None
            try:
                connected.setblocking(False)
                await loop.sock_connect(connected, address)
                connected.begin()
                _, wire = await loop.create_connection(
                    functools.partial(_Wire, connected), sock=connected,
                    ssl=self._context() if is_tls else None, server_hostname=host if is_tls else None,
                )  # fmt: skip
                return wire
            except OSError as error:  # ssl.SSLError is one
                connected.close()
                failure = error
            except BaseException:
                connected.close()
                raise
        raise RefusedError(str(failure) or type(failure).__name__)

    async def _resolve(self, host: str, port: int) -> list[Any]:
        if (host, port) not in self._addresses:
            loop = asyncio.get_running_loop()
            try:
                self._addresses[host, port] = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise RefusedError(str(error)) from None
        return self._addresses[host, port]

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


class _Wire(asyncio.Protocol):
    """One connection; one exchange at a time."""

    transport: asyncio.Transport

    def __init__(self, connected: StampingSocket) -> None:
        self._socket = connected
        self._exchange: Exchange | None = None
        self._ended: asyncio.Future[None] | None = None
        self._was_complete = False
        self._is_lost = False
        self._is_clean = True
        self.idle_since = math.inf

    @property
    def is_reusable(self) -> bool:
        return self._is_clean and not self._is_lost and self._exchange is None and not self.transport.is_closing()

    async def send(self, exchange: Exchange, data: bytes, deadline: float) -> None:
        """Write the request and wait for the end of its answer, or for the deadline."""
        loop = asyncio.get_running_loop()
        self._exchange, self._ended, self._was_complete = exchange, loop.create_future(), False
        exchange.sent_s = time.perf_counter()
        timers = [
            loop.call_later(max(0.0, deadline - exchange.sent_s), self._end, TimeoutError()),
            loop.call_later(CLOSING_S, self._look),
        ]
        self._look_again = timers[1]
        self.transport.write(data)
        try:
            await self._ended
        finally:
            timers[0].cancel()
            self._look_again.cancel()
            self._is_clean = exchange.framing.is_kept_alive
            self._exchange, self.idle_since = None, time.perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # nobody asked
            self._is_clean = False
            return
        at_s = self._socket.arrived_s
        exchange.keep(data, at_s)
        if exchange.framing.is_ended or exchange.failure is not None:
            self._end(exchange.failure, at_s)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        if self._exchange is None:
            return
        self._exchange.frame()
        is_whole = self._exchange.framing.close()
        self._end(None if is_whole else error or TransportError("the server closed the connection"))

    def _look(self) -> None:
        """Read what came. An answer that was complete a second ago is ended: its connection only stays open."""
        if (exchange := self._exchange) is None:
            return
        exchange.read()
        if exchange.failure is not None or self._was_complete:
            self._end(exchange.failure)
            return
        self._was_complete = exchange.reader.answer.is_complete
        self._look_again = asyncio.get_running_loop().call_later(CLOSING_S, self._look)

    def _end(self, failure: Exception | None, at_s: float = math.inf) -> None:
        if self._exchange is not None and self._ended is not None and not self._ended.done():
            self._exchange.failure = failure
            self._exchange.ended_s = min(at_s, time.perf_counter())
            self._ended.set_result(None)


class _Framing:
    """Takes one HTTP/1.1 answer apart: its head, then a body in chunks, of a known length, or to the connection's end."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.is_chunked = False
        self.is_ended = False
        self._is_exact = True
        self._is_http10 = False
        self._left: int | None = None
        """Bytes left of the body, or of a chunk and its line end; None in a body to the connection's end."""
        self._is_in_trailer = False
        self._pending = b""

    @property
    def is_kept_alive(self) -> bool:
        """The connection can carry another request: this answer ended by itself, and nothing came after it."""
        said = self.headers.get("connection", "close" if self._is_http10 else "").lower()
        return self.is_ended and self._is_exact and self._left is not None and "close" not in said

    def feed(self, data: bytes) -> list[bytes]:
        """Parts of the body in `data`. Raises TransportError for what is not HTTP/1.1."""
        if self._pending:
            data, self._pending = self._pending + data, b""
        if self.status is None:
            body = self._head(data)
            if body is None:
                return []
            data = body
        if self.is_chunked:
            return self._chunks(data)
        if self.is_ended:
            self._is_exact = self._is_exact and not data
            return []
        if self._left is None:
            return [data] if data else []
        part, self._is_exact = data[: self._left], len(data) <= self._left
        self._left -= len(part)
        self.is_ended = self._left == 0
        return [part] if part else []

    def close(self) -> bool:
        """The connection has ended: whether the answer is whole."""
        if self.status is not None and self._left is None:
            self.is_ended = True
        return self.is_ended

    def _head(self, data: bytes) -> bytes | None:
        """Take the head; what follows it, None where it is not all there."""
        while True:
            head, end, rest = data.partition(b"\r\n\r\n")
            if not b"HTTP/1.".startswith(head[:7]) or len(head) > MAX_HEAD_BYTES:
                raise TransportError(f"what came is not HTTP/1.1 and begins {head[:40]!r}")
            if not end:
                self._pending = data
                return None
            lines = head.decode("latin-1").split("\r\n")
            found = re.fullmatch(r"HTTP/1\.(\d) (\d{3})(?: (.*))?", lines[0])
            if found is None:
                raise TransportError(f"what came is not HTTP/1.1 and begins {head[:40]!r}")
            if (status := int(found[2])) >= 200:
                break
            data = rest  # 1xx: the answer comes after it
            if not data:
                return None
        self._is_http10, self.reason = found[1] == "0", found[3] or ""
        pairs = [line.partition(":") for line in lines[1:]]
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._begin_body(status)
        self.status = status
        return rest

    def _begin_body(self, status: int) -> None:
        if status in (204, 304):
            self._left, self.is_ended = 0, True
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._left, self.is_chunked = 0, True
        elif (length := self.headers.get("content-length")) is not None:
            if not re.fullmatch(r"\d{1,18}", length):
                raise TransportError(f"its content length is '{length[:40]}'")
            self._left = int(length)
            self.is_ended = self._left == 0

    def _chunks(self, data: bytes) -> list[bytes]:
        """`_left` counts a chunk's bytes and the two of its line end."""
        parts, at = [], 0
        while at < len(data) and not self.is_ended:
            if self._left:
                taken = min(self._left, len(data) - at)
                if part := data[at : at + min(taken, max(0, self._left - 2))]:
                    parts.append(part)
                self._left, at = self._left - taken, at + taken
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._pending = data[at:]
                if len(self._pending) > MAX_HEAD_BYTES:
                    raise TransportError("a chunk's length does not end")
                return parts
            line, at = data[at:end], end + 2
            if self._is_in_trailer:
                self.is_ended = not line
            elif (size := _size(line)) > 0:
                self._left = size + 2
            else:
                self._is_in_trailer = True
        self._is_exact = self._is_exact and at >= len(data)
        return parts


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", digits):
        raise TransportError(f"a chunk's length is {line[:40]!r}")
    return int(digits, 16)


def _bytes_of(request: HttpRequest) -> bytes:
    """Raises ValueError for a header that would end its line."""
    parts = urlsplit(request.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Host": parts.netloc, **request.headers, "Content-Length": str(len(request.body))}
    lines = [f"{request.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("A header of the request holds a line end.")
    return "\r\n".join(lines).encode("latin-1") + request.body
