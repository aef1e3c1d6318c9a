"""A server whose answers are known: when each chunk was really written, and what went wrong on purpose.

It runs as a process of its own, with the standard library alone, on loopback: `python known_server.py '{"ttft_s": 0.2}'`. Times are
of CLOCK_MONOTONIC, which is one clock for every process of a machine, so that a client's error is its time minus the one logged
here, and the server's own lateness is in neither: what is left to do when a chunk is due is one write. Each answer begins with the
number under which its request is logged.

Settings: `ttft_s`, `gap_s`, `tokens` (where a request asks for no number), `tokens_per_chunk`, `has_usage`, `cached_tokens`,
`faults`: what becomes of request i is faults[i % len(faults)], one of FAULTS.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from os import _exit
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "ttft_s": 0.0,
    "gap_s": 0.0,
    "tokens": 16,
    "tokens_per_chunk": 1,
    "has_usage": True,
    "cached_tokens": None,
    "faults": ["none"],
}
FAULTS = {
    "none": "a right answer",
    "429": "refused, with Retry-After: 7",
    "500": "an error of the server, in JSON",
    "truncated": "the stream ends after two chunks",
    "reset": "the connection is reset after two chunks",
    "malformed": "the third event is not JSON",
    "error": "the third event is an error object",
    "stalled": "nothing more comes after two chunks",
    "loris": "the head comes a byte at a time, and never ends",
    "whole": "JSON in one piece instead of a stream",
    "no_done": "the stream ends without [DONE]",
}
SO_TIMESTAMPNS = 35
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class KnownServer:
    """A running one."""

    url: str
    pid: int

    def log(self) -> list[dict[str, Any]]:
        """The requests so far: `number`, `id` (its X-Request-ID), `fault`, `prompt`, `received_s`, when the kernel had it, and of each chunk with text `due_s`,
        when it ought to have been written, and `written_s`, the times just before and just after its write, between which it was sent."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/log", timeout=30) as answer:
            entries: list[dict[str, Any]] = json.load(answer)
        return entries


@contextlib.contextmanager
def known(**settings: Any) -> Iterator[KnownServer]:
    """A server with these settings while entered."""
    program = [sys.executable, str(Path(__file__)), json.dumps(settings)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield KnownServer(f"http://127.0.0.1:{port}/v1", process.pid)
        finally:
            process.kill()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@functools.cache
def words(count: int, is_chat: bool) -> bytes:
    return event("x " * count, None, is_chat)


def event(text: str, finish: str | None, is_chat: bool) -> bytes:
    part = {"delta": {"content": text}} if is_chat else {"text": text}
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    said = {
        "id": "x",
        "object": kind,
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, **part, "finish_reason": finish}],
    }
    return chunk(f"data: {json.dumps(said)}\n\n".encode())


class Listening(socket.socket):
    """Its connections keep when the kernel received what was read last."""

    def accept(self) -> tuple[socket.socket, Any]:
        connected, address = super().accept()
        return Stamped(fileno=connected.detach()), address


class Stamped(socket.socket):
    arrived_s = 0.0

    def recv(self, size: int, flags: int = 0) -> bytes:
        data, notes, _, _ = self.recvmsg(size, 64)
        self.arrived_s = time.perf_counter()
        if notes:
            seconds, nanoseconds = struct.unpack("qq", notes[0][2])
            self.arrived_s -= time.time() - seconds - nanoseconds * 1e-9
        return data


class Connection(asyncio.Protocol):
    """One connection; requests one after another."""

    settings: dict[str, Any]
    requests: list[dict[str, Any]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.loop = asyncio.get_running_loop()
        self.received = b""

    def data_received(self, data: bytes) -> None:
        at_s = self.transport.get_extra_info("socket")._sock.arrived_s
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(body) < length:
            return
        self.received = body[length:]
        path = first.split()[1]
        if first.startswith("GET"):
            self._get(path)
        else:
            self.id = headers.get("x-request-id")
            self._answer(json.loads(body[:length]), path.endswith("/chat/completions"), at_s)

    def _get(self, path: str) -> None:
        if path == "/log":
            self._whole(200, self.requests)
        elif path.endswith("/models"):
            self._whole(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})
        else:
            self._whole(200, {})

    def _whole(self, status: int, content: Any, extra: str = "") -> None:
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        self.transport.write(head.encode() + body)

    def _answer(self, asked: dict[str, Any], is_chat: bool, at_s: float) -> None:
        settings, number = self.settings, len(self.requests)
        fault = settings["faults"][number % len(settings["faults"])]
        prompt = asked["messages"][-1]["content"] if is_chat else asked["prompt"]
        self.entry = {
            "number": number,
            "fault": fault,
            "received_s": at_s,
            "due_s": [],
            "written_s": [],
            "prompt": prompt,
            "id": self.id,
        }
        self.requests.append(self.entry)
        self.is_chat = is_chat
        self.count = asked.get("max_tokens") or asked.get("max_completion_tokens") or settings["tokens"]
        per_chunk = settings["tokens_per_chunk"]
        sizes = [per_chunk] * (self.count // per_chunk) + [self.count % per_chunk] * (self.count % per_chunk > 0)
        usage: dict[str, Any] = {"prompt_tokens": len(str(prompt).split()), "completion_tokens": self.count}
        usage["total_tokens"] = usage["prompt_tokens"] + self.count
        if settings["cached_tokens"] is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": settings["cached_tokens"]}
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        self.usage = {"id": "x", "object": kind, "created": 1, "model": "m", "choices": [], "usage": usage}
        if fault == "429":
            self._whole(429, {"error": {"message": "slow down"}}, "retry-after: 7\r\n")
        elif fault == "500":
            self._whole(500, {"error": {"message": "boom"}})
        elif fault == "loris":
            self._drip(HEAD[:-2] + b"x: " + b"x" * 100_000)
        elif fault == "whole" or not asked.get("stream"):
            text = f"{number} " + "x " * (self.count - 1)
            part = {"message": {"content": text}} if is_chat else {"text": text}
            answer = {"choices": [{"index": 0, **part, "finish_reason": "length"}], "usage": usage}
            self.loop.call_later(settings["ttft_s"], self._whole, 200, answer)
        else:
            # made before they are due: writing is all that is left to do
            first = event(f"{number} " + "x " * (sizes[0] - 1), None, is_chat)
            self.pieces = [HEAD + first, *(words(size, is_chat) for size in sizes[1:])]
            self.pieces[-1] += self._end()
            self.at = 0
            self.due_s = at_s + settings["ttft_s"]
            self.loop.call_at(self.due_s, self._write_next)

    def _drip(self, left: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(left[:1])
            self.loop.call_later(0.02, self._drip, left[1:])

    def _write_next(self) -> None:
        if self.transport.is_closing():
            return
        if self.at == 2 and self._break(self.entry["fault"]):
            return
        piece = self.pieces[self.at]
        self.at += 1
        before_s = time.perf_counter()
        self.transport.write(piece)
        self.entry["written_s"].append((before_s, time.perf_counter()))
        self.entry["due_s"].append(self.due_s)
        if self.at == len(self.pieces):
            return
        self.due_s += self.settings["gap_s"]
        self.loop.call_at(self.due_s, self._write_next)

    def _end(self) -> bytes:
        end = event("", "length", self.is_chat)
        if self.settings["has_usage"]:
            end += chunk(f"data: {json.dumps(self.usage)}\n\n".encode())
        if self.entry["fault"] != "no_done":
            end += chunk(b"data: [DONE]\n\n")
        return end + b"0\r\n\r\n"

    def _break(self, fault: str) -> bool:
        if fault == "truncated":
            self.transport.close()
        elif fault == "reset":
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        elif fault == "malformed":
            self.transport.write(chunk(b"data: {oops\n\n"))
        elif fault == "error":
            self.transport.write(chunk(b'data: {"error": {"message": "engine died"}}\n\n'))
        return fault in ("truncated", "reset", "malformed", "error", "stalled")


async def serve() -> None:
    gc.disable()
    Connection.settings, Connection.requests = {**DEFAULTS, **json.loads(sys.argv[1])}, []
    listening = Listening()
    if sys.platform == "linux":
        listening.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(Connection, sock=listening, backlog=4096)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=end_with_parent, daemon=True).start()
    await server.serve_forever()


def end_with_parent() -> None:
    sys.stdin.read()
    _exit(0)


if __name__ == "__main__":
    asyncio.run(serve())
