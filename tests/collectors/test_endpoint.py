"""The endpoint collector: streams, definitions and sums by hand; a server that fails in every way it can."""

from __future__ import annotations

import asyncio
import doctest
import itertools
import json
import logging
import math
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken_server import STALL, STREAM, http, serving
from hypothesis import given
from hypothesis import strategies as st

import collectors.__main__
from collectors import Collected, endpoint
from collectors.endpoint import _load, _prompts, _rows, _stream
from collectors.endpoint._providers import Asked, openai
from collectors.endpoint._stream import Answer, Reply, SseDecoder, StreamError
from warehouse import parquet, schema
from warehouse.catalog import UnknownEntryError
from warehouse.metrics import DEFINITIONS

KEY = "sk-test/4f9a+not-for-anyone"
Rows = list[dict[str, Any]]


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def event(data: dict[str, Any] | str) -> bytes:
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def usage(output_tokens: int, input_tokens: int = 7) -> dict[str, int]:
    return {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}


WHOLE = [STREAM, event(chunk("Hi")), event(chunk(" you")), event(chunk(finish="stop", usage=usage(2))), event("[DONE]")]
"""Script of a right answer: two tokens."""


def reply(**values: Any) -> Reply:
    """A good reply sent at 0 with tokens at 1, 2 and 3 s, but for `values`."""
    base: dict[str, Any] = {
        "status": "ok", "status_detail": None, "http_status": 200, "text": "a b c", "reasoning": "", "scheduled_at_s": 0.0, "sent_at_s": 0.0,
        "ended_at_s": 3.0, "ttft_s": 1.0, "tpot_s": 1.0, "itl_s": 1.0, "e2el_s": 3.0, "input_tokens": 10,
        "output_tokens": 3, "token_count_source": "usage", "finish_reason": "length", "chunk_times_s": [1.0, 2.0, 3.0],
        "chunk_tokens": [1, 1, 1],
    }  # fmt: skip
    return Reply(**{**base, **values})


def landed(landing: Path, table: str) -> Rows:
    rows = [
        row for path in sorted((landing / table).glob("*.parquet")) for row in parquet.read(table, path).to_pylist()
    ]
    return sorted(rows, key=lambda row: (row.get("concurrency") or 0, row.get("request_index") or 0))


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., tuple[Collected, dict[str, Any], Rows]]:
    """Collect one level of one request without warm-up, unless told otherwise; its run row and its request rows."""

    def run(url: str, **options: Any) -> tuple[Collected, dict[str, Any], Rows]:
        given = {
            "prompt": "hi",
            "concurrency": 1,
            "num_requests": 1,
            "warmup": 0,
            "timeout_s": 5.0,
            "self_test": False,
            **options,
        }
        collected = endpoint.collect(tmp_path, url=url, model="m", **given)
        return collected, landed(tmp_path, "runs")[0], landed(tmp_path, "requests")

    return run


# --- streams ----------------------------------------------------------------------------------------------------------


def decoded(*pieces: bytes) -> list[str]:
    decoder = SseDecoder()
    return [data for piece in pieces for data in decoder.feed(piece)] + decoder.close()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b": keepalive\n\ndata:a\nevent: x\nid: 1\n\n", ["a"]),
        (b"data: one\ndata: two\n\n", ["one\ntwo"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: a\n\ndata: cut off", ["a", "cut off"]),
        (b"data\n\ndata: \n\n", ["", ""]),
        (b"<html>no event</html>\n\n", []),
        (b"", []),
    ],
)
def test_sse_events(stream: bytes, events: list[str]) -> None:
    assert decoded(stream) == events


TEXTS = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1, max_size=3)


@given(
    events=st.lists(TEXTS, max_size=5),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 200), max_size=12),
)
def test_sse_events_survive_every_cut(events: list[list[str]], ending: str, cuts: list[int]) -> None:
    lines = [line for texts in events for line in [": ping", *(f"data: {text}" for text in texts), ""]]
    stream = "".join(line + ending for line in lines).encode()
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert decoded(*(stream[a:b] for a, b in itertools.pairwise(borders))) == ["\n".join(texts) for texts in events]


def test_sse_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "MAX_PENDING_BYTES", 100)
    with pytest.raises(StreamError, match="an event of over"):
        SseDecoder().feed(b"data: 0123456789\n" * 20)
    with pytest.raises(StreamError, match="an event of over"):
        SseDecoder().feed(b"x" * 101)


def answer(*events: tuple[dict[str, Any] | str, float]) -> Answer:
    taken = Answer()
    for data, at_s in events:
        taken.take(data if isinstance(data, str) else json.dumps(data), at_s)
    return taken


def test_a_role_an_empty_text_and_a_usage_chunk_are_no_tokens() -> None:
    taken = answer(
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, 5.0),
        (chunk("Hi"), 10.0),
        (chunk(" you", finish="stop"), 20.0),
        ({"choices": [], "usage": usage(2, 9)}, 21.0),
        ("[DONE]", 22.0),
        ("late garbage", 23.0),
    )
    assert (taken.text, taken.chunk_times_s, taken.finish_reason) == ("Hi you", [10.0, 20.0], "stop")
    assert (taken.output_tokens(), taken.input_tokens, taken.is_complete) == ((2, "usage"), 9, True)


def test_reasoning_counts_as_tokens_and_not_as_text() -> None:
    for name in ("reasoning_content", "reasoning"):
        taken = answer(({"choices": [{"delta": {name: "Hm"}}]}, 10.0), (chunk("Yes", finish="stop"), 30.0))
        assert (taken.reasoning, taken.text, taken.chunk_times_s) == ("Hm", "Yes", [10.0, 30.0])
        assert taken.output_tokens() == (2, "chunks")


def test_completions_chunks() -> None:
    taken = answer(({"choices": [{"text": "a"}]}, 1.0), ({"choices": [{"text": "", "finish_reason": "length"}]}, 2.0))
    assert (taken.text, taken.chunk_times_s, taken.finish_reason) == ("a", [1.0], "length")


def test_a_usage_of_nothing_beside_text_is_not_believed() -> None:
    assert answer((chunk("a"), 1.0), (chunk("b", finish="stop", usage=usage(0)), 2.0)).output_tokens() == (2, "chunks")
    assert answer((chunk(finish="stop", usage=usage(0)), 2.0)).output_tokens() == (0, "usage")
    assert answer((chunk(finish="stop"), 2.0)).output_tokens() == (None, None)


@pytest.mark.parametrize("count", [-1, 2**40, True, "3", None, 1.5])
def test_a_usage_that_is_no_count_is_ignored(count: object) -> None:
    broken = {"prompt_tokens": count, "completion_tokens": count}
    taken = answer((chunk("a", finish="stop", usage=broken), 1.0))
    assert (taken.output_tokens(), taken.input_tokens) == ((1, "chunks"), None)


def test_chunk_tokens_come_from_the_server_or_not_at_all() -> None:
    running = answer((chunk("ab", usage=usage(2)), 10.0), (chunk("cde", usage=usage(5), finish="length"), 40.0))
    assert running.chunk_tokens() == [2, 3]
    assert answer((chunk("a"), 1.0), (chunk("b", finish="stop", usage=usage(2)), 2.0)).chunk_tokens() == [1, 1]
    assert answer((chunk("a"), 1.0), (chunk("bc", finish="stop", usage=usage(3)), 2.0)).chunk_tokens() is None
    assert answer((chunk("a"), 1.0), (chunk("b", finish="stop"), 2.0)).chunk_tokens() is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{oops", "Event 1 is not JSON: {oops"),
        ("[" * 100_000, "Event 1 is not JSON"),
        ("[1]", "Event 1 is not a chunk of an answer"),
        ('{"choices": "x"}', "Event 1 is not a chunk of an answer"),
        ('{"choices": [{"delta": "x"}]}', "Event 1 is not a chunk of an answer"),
        ('{"choices": [{"delta": {"content": 5}}]}', "Event 1 holds content that is not text"),
        ('{"error": {"message": "no room", "code": 500}}', "The server reports an error: no room"),
        ('{"error": "no room", "choices": []}', "The server reports an error: no room"),
        ('{"object": "error", "message": "too long"}', "The server reports an error: too long"),
    ],
)
def test_broken_events_say_what_is_wrong(data: str, message: str) -> None:
    with pytest.raises(StreamError) as caught:
        answer((data, 1.0))
    assert str(caught.value).startswith(message)


def test_unknown_events_pass() -> None:
    taken = answer(
        ({"type": "ping"}, 1.0), ({"choices": [], "prompt_filter_results": []}, 2.0), ("", 2.5), (chunk("a"), 3.0)
    )
    assert (taken.chunk_times_s, taken.is_complete) == ([3.0], False)


def test_surrogates_cut_by_a_chunk_border_are_mended() -> None:
    assert _stream.joined(["a\ud83d", "\ude00b"]) == "a\U0001f600b"
    assert _stream.joined(["a\ud83d"]) == "a\ufffd"


# --- definitions and sums ---------------------------------------------------------------------------------------------


def test_tpot_needs_two_tokens_seen_at_two_times() -> None:
    assert _stream.tpot_s(10.0, 40.0, 4, 4) == 10.0
    assert _stream.tpot_s(10.0, 40.0, 4, 2) == 10.0
    assert _stream.tpot_s(10.0, 10.0, 1, 1) is None
    assert _stream.tpot_s(10.0, 10.0, 4, 1) is None
    assert _stream.tpot_s(None, 40.0, 4, 4) is None
    assert _stream.tpot_s(0.1, 0.1, 8, 4) is None  # four chunks that lay at the client together


def test_a_chunk_of_n_tokens_is_n_gaps() -> None:
    assert _stream.gaps_s([10.0, 20.0, 50.0], [1, 1, 3]) == [10.0, 10.0, 10.0, 10.0]
    assert _stream.gaps_s([10.0, 20.0], None) == []
    assert _stream.gaps_s([10.0], [1]) == []
    assert _stream.gaps_s([10.0, 10.0], [1, 1]) == []
    assert _stream.gaps_s([], []) == []


def test_examples_in_docstrings_hold() -> None:
    assert [doctest.testmod(module).failed for module in (_stream, _prompts)] == [0, 0]
    assert sum(doctest.testmod(module).attempted for module in (_stream, _prompts)) >= 6


def test_run_columns_by_hand() -> None:
    """Two answers of 3 tokens in a window of 2 to 8 s, one failure: 6 tokens in 6 s."""
    columns = _rows.run_columns(
        [
            reply(sent_at_s=2.0, ended_at_s=5.0),
            reply(sent_at_s=2.0, ended_at_s=8.0, ttft_s=2.0, tpot_s=2.0, itl_s=2.0, e2el_s=6.0),
            reply(sent_at_s=5.0, ended_at_s=6.0, status="error", ttft_s=0.5, e2el_s=None, output_tokens=100),
        ]
    )
    assert columns["duration_s"] == 6.0
    assert (columns["num_requests"], columns["num_failed_requests"], columns["num_samples"]) == (3, 1, 2)
    assert columns["success_rate"] == 2 / 3
    assert (columns["ttft_s"], columns["tpot_s"], columns["itl_s"], columns["e2el_s"]) == (1.5, 1.5, 1.5, 4.5)
    assert columns["ttft_std_s"] == pytest.approx(math.sqrt(0.5))
    assert columns["ttft_p50_s"] is None  # two values are no distribution
    assert (columns["output_tokens_per_s"], columns["requests_per_s"]) == (1.0, 2 / 6)
    assert columns["total_tokens_per_s"] == 26 / 6
    assert columns["goodput_requests_per_s"] is None
    assert columns["status"] == "ok"
    assert {
        "ttft_s": "first_nonempty_chunk",
        "tpot_s": "e2el_minus_ttft_over_n_minus_1",
        "itl_s": "per_token_split_chunks",
        "e2el_s": "last_chunk",
        "output_tokens_per_s": "tokens_over_duration",
        "total_tokens_per_s": "tokens_over_duration",
    }.items() <= columns["metric_definitions"].items()
    assert set(columns["metric_definitions"].values()) <= set(DEFINITIONS)


def test_percentiles_are_over_requests_and_wait_for_enough_of_them() -> None:
    replies = [reply(ttft_s=float(index)) for index in range(1, 2001)]
    columns = _rows.run_columns(replies)
    assert columns["ttft_p50_s"] == 1000.5
    assert columns["ttft_p99_s"] == pytest.approx(1 + 0.99 * 1999)  # type 7
    fewer = _rows.run_columns(replies[:1999])
    assert fewer["ttft_p99_s"] is None
    assert fewer["ttft_p95_s"] is not None
    assert _rows.run_columns(replies[:3])["ttft_p50_s"] == 2.0
    assert _rows.run_columns(replies[:2])["ttft_p50_s"] is None


def test_goodput_counts_requests_that_meet_every_objective() -> None:
    replies = [
        reply(ended_at_s=4.0),
        reply(ttft_s=9.0),
        reply(tpot_s=9.0),
        reply(output_tokens=1, tpot_s=None),  # one token has no TPOT to miss
        reply(tpot_s=None),  # several tokens, TPOT not observed
        reply(status="timeout"),
    ]
    columns = _rows.run_columns(replies, slo_ttft_s=1.0, slo_tpot_s=1.0)
    assert columns["goodput_requests_per_s"] == 2 / 4.0
    assert (columns["slo_ttft_s"], columns["slo_tpot_s"]) == (1.0, 1.0)
    assert _rows.run_columns(replies, slo_ttft_s=1.0)["goodput_requests_per_s"] == 4 / 4.0


def test_rates_are_null_where_tokens_are_unknown() -> None:
    columns = _rows.run_columns([reply(), reply(output_tokens=None)])
    assert (columns["output_tokens_per_s"], columns["total_tokens_per_s"]) == (None, None)
    assert columns["requests_per_s"] == 2 / 3.0
    assert _rows.run_columns([reply(), reply(input_tokens=None)])["total_tokens_per_s"] is None


def test_a_run_without_success_takes_the_commonest_failure() -> None:
    columns = _rows.run_columns([reply(status="error"), reply(status="timeout"), reply(status="timeout")])
    assert (columns["status"], columns["success_rate"], columns["num_samples"]) == ("timeout", 0.0, 0)
    assert "ttft_s" not in columns
    assert "output_tokens_per_s" not in columns
    assert columns["metric_definitions"] == {}


def test_remarks_say_what_a_reader_needs() -> None:
    level = _load.Level(concurrency=1, num_requests=5, num_warmup=0, output_tokens=3)
    outcome = _load.Outcome(
        [],
        [
            reply(),
            reply(status="timeout", status_detail="No answer."),
            reply(token_count_source="chunks", output_tokens=2, itl_s=None, chunk_tokens=None),
            reply(output_tokens=7, requested_output_tokens=9),
        ],
    )
    assert _rows.remarks(outcome, level) == [
        "Measured from the client; the environment is the client's machine.",
        "1 of 4 requests failed (1 timeout); the first: No answer.",
        "Stopped after failures in a row: 1 requests were not sent.",
        "The server counted 10 prompt tokens a request.",
        "Answers had 3 to 7 tokens of 3 to 9 asked for.",
        "Output tokens of 1 requests are counted chunks: the server sent no usage.",
        "ITL leaves out 1 of 3 requests: the tokens of their chunks are unknown.",
    ]


# --- asking -----------------------------------------------------------------------------------------------------------


def test_one_prompt_in_text_out() -> None:
    with serving(WHOLE) as server:
        answered = endpoint.complete(server.url, "m", "Hello", output_tokens=2, extra_body={"temperature": 0})
    assert (answered.status, answered.status_detail, answered.text) == ("ok", None, "Hi you")
    assert (answered.input_tokens, answered.output_tokens, answered.chunk_tokens) == (7, 2, [1, 1])
    assert answered.ttft_s is not None
    assert answered.e2el_s is not None
    assert 0 < answered.ttft_s <= answered.e2el_s
    assert answered.tpot_s == answered.e2el_s - answered.ttft_s
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1")
    assert b"authorization" not in head.lower()
    assert json.loads(body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }


def test_extra_body_overrides_and_null_removes() -> None:
    with serving(WHOLE) as server:
        endpoint.complete(
            server.url, "m", "x", api="completions", extra_body={"max_tokens": None, "max_completion_tokens": 5}
        )
    body = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert (body["prompt"], body["max_completion_tokens"], "max_tokens" in body) == ("x", 5, False)


def test_complete_works_where_a_loop_already_runs() -> None:
    async def in_a_notebook(url: str) -> Reply:
        return endpoint.complete(url, "m", "x")

    with serving(WHOLE) as server:
        assert asyncio.run(in_a_notebook(server.url)).text == "Hi you"


def test_json_cut_into_single_bytes_is_whole_again() -> None:
    body = b"".join(WHOLE[1:])
    with serving([STREAM, *(body[at : at + 7] for at in range(0, len(body), 7))]) as server:
        answered = endpoint.complete(server.url, "m", "x")
    assert (answered.status, answered.text, answered.output_tokens) == ("ok", "Hi you", 2)


@pytest.mark.parametrize(
    "script",
    [
        WHOLE[:-1],  # no [DONE]
        [STREAM, event(chunk("Hi")), event(chunk(" you")), event("[DONE]")],  # no finish reason
        [STREAM, b": ping\r\n\r\n", *(piece.replace(b"\n", b"\r\n") for piece in WHOLE[1:])],
        [*WHOLE[:3], event(chunk(finish="stop")), event({"choices": [], "usage": usage(2)})],
        [*WHOLE[:-2], event(chunk(finish="stop", usage=usage(2))).rstrip()],  # last event not ended
        [*WHOLE, STALL],  # the connection stays open
        [*WHOLE[:-1], STALL],
    ],
)
def test_right_answers_in_odd_clothes(script: list[bytes]) -> None:
    with serving(script) as server:
        answered = endpoint.complete(server.url, "m", "x", timeout_s=10)
    assert (answered.status, answered.status_detail, answered.text) == ("ok", None, "Hi you")
    assert answered.output_tokens == 2


def test_an_answer_in_one_piece_has_no_ttft() -> None:
    body = json.dumps({"choices": [{"message": {"content": "Hi you"}, "finish_reason": "stop"}], "usage": usage(2)})
    with serving(http("200 OK", body.encode())) as server:
        answered = endpoint.complete(server.url, "m", "x")
    assert (answered.status, answered.text, answered.output_tokens) == ("ok", "Hi you", 2)
    assert (answered.ttft_s, answered.tpot_s, answered.itl_s) == (None, None, None)
    assert answered.e2el_s is not None
    assert answered.status_detail == (
        "The server answered in one piece instead of a stream: only the end-to-end latency was observed."
    )


# --- a server that fails: sentences, rows, nothing lost ---------------------------------------------------------------

BROKEN: list[tuple[str, list[bytes], str, str]] = [
    ("stall before headers", [STALL], "timeout", "No answer from URL within 1 s."),
    ("stall after headers", [STREAM, STALL], "timeout", "No answer from URL within 1 s."),
    (
        "stall in the stream",
        [STREAM, event(chunk("Hi")), STALL],
        "timeout",
        "The answer was not complete within 1 s: 1 chunks of text had come.",
    ),
    ("keepalive for ever", [STREAM, *[b": ping\n\n"] * 2000], "timeout", "No answer from"),
    ("hang up", [], "error", "The connection ended before an answer came ("),
    (
        "truncated",
        [STREAM, event(chunk("Hi"))],
        "error",
        "The stream ended early, after 1 chunks of text, without a finish reason.",
    ),
    (
        "truncated body",
        [STREAM.replace(b"\r\n\r\n", b"\r\ncontent-length: 9999\r\n\r\n"), event(chunk("Hi"))],
        "error",
        "The stream ended early, after 1 chunks of text (",
    ),
    ("garbage event", [STREAM, event(chunk("Hi")), event("{oops")], "error", "Event 2 is not JSON: {oops"),
    (
        "no events",
        [STREAM.replace(b"event-stream", b"html"), b"<html>Please log in</html>"],
        "error",
        "The answer holds no server-sent event (content type text/html); it begins “<html>Please log in</html>”.",
    ),
    ("not even HTTP", [b"\x00\xffSMTP ready\r\n\r\n"], "error", "The connection ended before an answer came ("),
    (
        "error in the stream",
        [STREAM, event(chunk("Hi")), event({"error": {"message": "engine died"}})],
        "error",
        "The server reports an error: engine died",
    ),
    (
        "500 with JSON",
        http("500 Internal Server Error", b'{"error": {"message": "boom"}}'),
        "error",
        "HTTP 500: Internal Server Error. It says: boom",
    ),
    (
        "500 with HTML",
        http("500 Oops", b"<html><h1>Bad\n day</h1></html>", "text/html"),
        "error",
        "HTTP 500: Oops. It says: Bad day",
    ),
    ("503 without a word", http("503 Service Unavailable", b""), "refused", "HTTP 503: Service Unavailable."),
    ("429", http("429 Too Many Requests", b'{"message": "slow down"}'), "refused", "HTTP 429: Too Many Requests. It"),
    (
        "400",
        http("400 Bad Request", b'{"detail": "no such model"}'),
        "error",
        "HTTP 400: Bad Request. It says: no such",
    ),
    (
        "out of memory",
        http("500 Error", b'{"error": "CUDA out of memory. Tried to allocate 2 GiB"}'),
        "oom",
        "HTTP 500: Error. It says: CUDA out of memory.",
    ),
    (
        "redirect",
        http("307 Temporary Redirect", b"", extra=b"location: http://elsewhere/v1\r\n"),
        "error",
        "HTTP 307: the server redirects to http://elsewhere/v1; give that address with --url.",
    ),
    ("200 with an error", http("200 OK", b'{"error": {"message": "no"}}'), "error", "The server reports an error: no"),
]


@pytest.mark.parametrize(("script", "status", "sentence"), [case[1:] for case in BROKEN], ids=[c[0] for c in BROKEN])
def test_a_failing_server_leaves_rows_and_sentences(
    measure: Callable[..., Any], script: list[bytes], status: str, sentence: str
) -> None:
    with serving(script) as server:
        collected, run, requests = measure(server.url, timeout_s=1.0 if status == "timeout" else 20.0)
    assert (collected.num_runs, collected.num_failed) == (1, 1)
    assert (run["status"], run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (status, 1, 1, 0.0)
    assert [row["status"] for row in requests] == [status]
    assert requests[0]["status_detail"].startswith(sentence.replace("URL", server.url))
    assert requests[0]["status_detail"] in run["status_detail"]
    assert (requests[0]["e2el_s"], run["e2el_s"], run["output_tokens_per_s"]) == (None, None, None)


def test_chunks_that_came_before_the_failure_are_kept(measure: Callable[..., Any]) -> None:
    with serving([STREAM, event(chunk("Hi")), event(chunk(" you")), STALL]) as server:
        _, _, (row,) = measure(server.url, timeout_s=1.0)
    assert len(row["chunk_times_s"]) == 2
    assert row["ttft_s"] == row["chunk_times_s"][0]
    assert (row["output_tokens"], row["token_count_source"], row["http_status"]) == (2, "chunks", 200)


def test_nobody_listens(measure: Callable[..., Any], free_port: int) -> None:
    collected, run, requests = measure(f"http://127.0.0.1:{free_port}", num_requests=40, warmup=None)
    assert (collected.num_failed, run["status"]) == (1, "refused")
    phases = [(row["sample_phase"], row["status"], row["http_status"]) for row in requests]
    assert phases == [("warmup", "refused", None)] * 2 + [("measured", "refused", None)] * 3
    assert requests[0]["status_detail"].startswith(f"Could not connect to http://127.0.0.1:{free_port}/v1: ")
    assert "Stopped after failures in a row: 37 requests were not sent." in run["status_detail"]


def test_a_server_that_stalls_costs_a_few_timeouts_and_not_one_for_each_request(measure: Callable[..., Any]) -> None:
    with serving([STALL]) as server:
        _, run, requests = measure(server.url, num_requests=1000, concurrency=4, timeout_s=0.3)
    assert run["status"] == "timeout"
    assert len(requests) <= 8


def test_one_failure_among_answers_is_a_row_and_the_run_is_ok(measure: Callable[..., Any]) -> None:
    scripts = [WHOLE, http("500 Oops", b""), *[WHOLE] * 8]
    with serving(*scripts) as server:
        collected, run, requests = measure(server.url, num_requests=6, warmup=1, concurrency=1)
    assert (collected.num_failed, run["status"]) == (0, "ok")
    assert [row["status"] for row in requests] == ["ok", "error", *["ok"] * 5]
    assert [row["sample_phase"] for row in requests] == ["warmup", *["measured"] * 6]
    assert (run["num_requests"], run["num_failed_requests"], run["success_rate"]) == (6, 1, 5 / 6)
    assert run["output_tokens_per_s"] == pytest.approx(10 / run["duration_s"])
    assert "1 of 6 requests failed (1 error); the first: HTTP 500: Oops." in run["status_detail"]


def test_levels_before_a_failing_one_are_landed(tmp_path: Path) -> None:
    with serving(*[WHOLE] * 4, [STALL]) as server:
        collected = endpoint.collect(
            tmp_path, url=server.url, model="m", prompt="x", concurrency=[1, 2], num_requests=4, warmup=0, timeout_s=1.5,
            self_test=False,
        )  # fmt: skip
    assert (collected.num_runs, collected.num_failed) == (2, 1)
    assert [(run["concurrency"], run["status"]) for run in landed(tmp_path, "runs")] == [(1, "ok"), (2, "timeout")]


# --- before anything is sent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "'localhost:8000' is not the http or https address of a server"),
        ("ftp://x/v1", "'ftp://x/v1' is not the http or https address of a server"),
        ("http://", "'http://' is not the http or https address of a server"),
        ("", "'' is not the http or https address of a server"),
        ("http://h:99999/v1", "'http://h:99999/v1' is not a URL: "),
        ("http://[::1/v1", "is not a URL: "),
        ("http://me:secret-pass@h/v1", "The URL holds a user name, a password"),
        ("https://h/v1?key=secret-pass", "The URL holds a user name, a password"),
    ],
)
def test_a_bad_url_is_refused(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"Give something like http://127.0.0.1:8000/v1 with --url\.") as caught:
        endpoint.collect(tmp_path, url=url, model="m")
    assert message in str(caught.value)
    assert "secret-pass" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://h/v1/chat/completions", "https://h/v1"),
        ("https://h/v1/completions", "https://h/v1"),
        ("https://h/openai/v3", "https://h/openai/v3"),
    ],
)
def test_a_url_names_the_server_in_several_ways(given: str, base: str) -> None:
    assert openai.target(Asked(given, "m")).base_url == base


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"llm_id": "llama-9"}, UnknownEntryError, "'llama-9' is not in the LLM catalogue. Known: "),
        ({"hardware_id": "h1000"}, UnknownEntryError, "'h1000' is not in the hardware catalogue. Known: "),
        ({"api": "grpc"}, ValueError, "'grpc' is not an API of an endpoint. Known: chat, completions."),
        ({"concurrency": []}, ValueError, "No concurrency is given"),
        ({"concurrency": [1, 0]}, ValueError, "concurrency is 0; it must be a whole number of 1 or more"),
        ({"output_tokens": 0}, ValueError, "output_tokens is 0; it must be a whole number of 1 or more"),
        ({"num_requests": 2.5}, ValueError, "num_requests is 2.5; it must be a whole number of 1 or more"),
        ({"num_devices": 0}, ValueError, "num_devices is 0; it must be a whole number"),
        ({"warmup": -1}, ValueError, "'-1' warm-up requests cannot be sent"),
        ({"timeout_s": 0}, ValueError, "A timeout of 0 s lets no request answer"),
        ({"slo_ttft_s": -1.0}, ValueError, "slo_ttft_s is -1.0; an objective must be above 0 s"),
        ({"prompt": "a", "input_tokens": 5}, ValueError, "Give --prompt or --input-tokens, not both"),
        ({"weight_dtype": "bf17"}, ValueError, "'bf17' is not a value of runs.weight_dtype. Known: "),
        ({"attention": "magic"}, ValueError, "'magic' is not a value of runs.attention. Known: "),
        ({"api_key_env": KEY}, ValueError, "--api-key-env takes the name of an environment variable"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_sent(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with serving(WHOLE) as server:
        with pytest.raises(error) as caught:
            endpoint.collect(tmp_path, url=server.url, model="m", **options)
        assert message in str(caught.value)
        assert KEY not in str(caught.value)
    assert server.requests == []
    assert not list(tmp_path.iterdir())


def test_a_landing_folder_that_cannot_be_written_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "landing").write_text("a file is in the way")
    with serving(WHOLE) as server, pytest.raises(OSError, match="landing"):
        endpoint.collect(tmp_path / "landing", url=server.url, model="m")
    assert server.requests == []


# --- the key ----------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_never_lands_nor_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where the server repeats it: in an error, in a finish reason, in the text, cut by the sentence's length."""
    monkeypatch.setenv("MY_KEY", f"  {KEY}\n")
    told = json.dumps({"error": {"message": f"Wrong key {KEY}."}}).encode()
    at_the_cut = json.dumps({"error": "x" * 440 + KEY}).encode()
    stream = [STREAM, event(chunk(f"your key is {KEY}")), event(chunk(finish=KEY, usage=usage(1)))]
    garbage = [STREAM, event("{" + KEY)]
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []
    with serving(
        http("401 Unauthorized", told), http("500 Oops", at_the_cut), stream, garbage, http("403 Forbidden", told)
    ) as server:
        endpoint.collect(
            tmp_path, report=lines.append, url=server.url, model="m", prompt="x", concurrency=1, num_requests=5, warmup=0,
            api_key_env="MY_KEY", extra_body={"user": KEY}, self_test=False,
        )  # fmt: skip
        answered = endpoint.complete(server.url, "m", "x", api_key_env="MY_KEY")
    assert all(f"authorization: bearer {KEY}".lower() in request.decode().lower() for request in server.requests)
    requests = landed(tmp_path, "requests")
    assert [row["status"] for row in requests] == ["refused", "error", "ok", "error", "refused"]
    assert requests[0]["status_detail"] == (
        "HTTP 401: the server does not accept the key in the environment variable MY_KEY. It says: Wrong key [key]."
    )
    assert requests[2]["finish_reason"] == "[key]"
    everything = [repr(row) for table in schema.TABLES for row in landed(tmp_path, table)]
    assert len(everything) > 7
    shown = "\n".join([*everything, *lines, caplog.text, repr(answered)])
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*.parquet"))
    for part in (KEY, KEY[:12], KEY[-12:]):
        assert part not in shown
        assert part.encode() not in files
    assert KEY not in repr(openai.target(Asked(server.url, "m", api_key_env="MY_KEY")))


def test_a_missing_key_is_named(measure: Callable[..., Any]) -> None:
    with serving(http("401 Unauthorized", b"")) as server:
        _, run, _ = measure(server.url)
    assert (
        "HTTP 401: the server wants a key, and the environment variable OPENAI_API_KEY is not set."
        in run["status_detail"]
    )


def test_a_key_no_header_can_carry_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-two\nlines")
    with pytest.raises(ValueError, match="The key in the environment variable OPENAI_API_KEY holds a space") as caught:
        endpoint.collect(tmp_path, url="http://127.0.0.1:1", model="m")
    assert "sk-two" not in str(caught.value)


# --- rows, commands, prompts ------------------------------------------------------------------------------------------


def test_configuration_and_command(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "prompt": "two words", "output_tokens": 2, "num_requests": 2, "warmup": 0, "llm_id": "llama-2-7b",
        "hardware_id": "a100-sxm-80gb", "num_devices": 4, "tensor_parallel": 4, "weight_dtype": "bf16",
        "optimizations": ["quantized", "flash"], "slo_ttft_s": 0.5, "framework": "vllm", "unique_prefix": False,
        "extra_body": {"ignore_eos": True}, "seed": 7, "self_test": False,
    }  # fmt: skip
    with serving(WHOLE) as server:
        endpoint.collect(tmp_path, url=server.url, model="served/name", concurrency=(1, 2), **options)
    first, second = landed(tmp_path, "runs")
    expected = {
        "collector": "endpoint", "source_kind": "measured", "source_id": "rooflake/endpoint", "quality_tier": 2,
        "phase": "serve", "llm_id": "llama-2-7b", "hardware_id": "a100-sxm-80gb", "num_devices": 4, "tensor_parallel": 4,
        "pipeline_parallel": None, "input_tokens": None, "output_tokens": 2, "weight_dtype": "bf16", "concurrency": 1,
        "optimizations": ["flash", "quantized"], "served_model_name": "served/name", "framework": "vllm",
        "slo_ttft_s": 0.5, "slo_tpot_s": None, "batch_size": None, "context_tokens": None, "is_excluded": False,
        "load_pattern": "closed", "request_rate_per_s": None, "is_output_fixed": True, "is_prefix_unique": False,
        "is_client_trusted": None, "num_client_processes": 1,
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    assert first["config_id"] == schema.config_id(first) != second["config_id"]
    assert first["run_id"] != second["run_id"]
    (environment,) = landed(tmp_path, "environments")
    assert first["environment_id"] == environment["environment_id"]
    assert [row["source_id"] for row in landed(tmp_path, "sources")] == ["rooflake/endpoint"]
    assert second["command"] == shlex.join(
        [
            "python", "-m", "collectors", "endpoint", f"--url={server.url}", "--model=served/name", "--prompt=two words",
            "--output-tokens", "2", "--concurrency", "2", "--num-requests", "2", "--warmup", "0", "--seed", "7",
            "--no-unique-prefix", "--no-self-test", "--slo-ttft-s", "0.5", '--extra-body={"ignore_eos": true}', "--llm-id=llama-2-7b",
            "--hardware-id=a100-sxm-80gb", "--num-devices", "4", "--tensor-parallel", "4", "--weight-dtype=bf16",
            "--optimizations", "quantized", "flash", "--framework=vllm",
        ]
    )  # fmt: skip


def test_the_command_of_a_run_repeats_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(WHOLE) as server:
        endpoint.collect(
            tmp_path / "a", url=server.url, model="m", prompt="--odd 'prompt'", concurrency=2, num_requests=3, warmup=1,
            extra_body={"user": None}, slo_tpot_s=1.0, self_test=False,
        )  # fmt: skip
        (first,) = landed(tmp_path / "a", "runs")
        words = shlex.split(first["command"])
        assert words[:4] == ["python", "-m", "collectors", "endpoint"]
        assert collectors.__main__.main(["endpoint", "--landing", str(tmp_path / "b"), *words[4:]]) == 0
    (second,) = landed(tmp_path / "b", "runs")
    assert (second["config_id"], second["command"]) == (first["config_id"], first["command"])
    assert "1 runs landed, 0 of them failures." in capsys.readouterr().err


def test_bad_extra_body_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in (("{", "is not JSON"), ("[1]", "is not a JSON object")):
        with pytest.raises(SystemExit):
            collectors.__main__.main(["endpoint", "--url", "http://h", "--model", "m", "--extra-body", text])
        assert message in capsys.readouterr().err


def test_prompts_begin_differently_unless_told_otherwise(measure: Callable[..., Any]) -> None:
    def prompts(server_requests: list[bytes]) -> list[str]:
        bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server_requests]
        return [body["messages"][0]["content"] for body in bodies]

    with serving(WHOLE) as server:
        measure(server.url, num_requests=5, prompt="Tell me.")
    assert len(set(prompts(server.requests))) == 5
    assert all(prompt.endswith(" Tell me.") for prompt in prompts(server.requests))
    with serving(WHOLE) as server:
        measure(server.url, num_requests=2, prompt="Tell me.", unique_prefix=False)
    assert prompts(server.requests) == ["Tell me."] * 2


def test_a_server_that_counts_no_tokens_is_told_of(measure: Callable[..., Any]) -> None:
    with serving([STREAM, event(chunk("Hi")), event(chunk(" you", finish="stop"))]) as server:
        _, run, requests = measure(server.url, prompt=None, input_tokens=50)
    assert run["input_tokens"] == 50
    assert "Prompts have 50 words; their tokens are unknown: the server did not count them" in run["status_detail"]
    assert "Output tokens of 1 requests are counted chunks: the server sent no usage." in run["status_detail"]
    assert (requests[0]["input_tokens"], requests[0]["token_count_source"]) == (None, "chunks")
    assert run["tpot_s"] is not None
    assert (run["itl_s"], run["total_tokens_per_s"]) == (None, None)


def test_the_collector_needs_no_http_library_and_importing_it_loads_none() -> None:
    code = (
        "import collectors.endpoint, sys; "
        "sys.exit(any(name in sys.modules for name in ('httpx', 'aiohttp', 'requests', 'duckdb', 'torch', 'multiprocessing.managers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_port_that_accepts_and_resets_is_an_error(measure: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset() -> None:
            connection, _ = listener.accept()
            connection.recv(1)  # unread bytes make the close a reset
            connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        _, run, requests = measure(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(5)
    assert (run["status"], requests[0]["status"]) == ("error", "error")
    assert requests[0]["status_detail"].startswith("The connection ended before an answer came (")


def test_a_load_of_nothing_but_failures_ends_with_1_and_its_rows(tmp_path: Path) -> None:
    words = [
        "endpoint",
        "--landing",
        str(tmp_path),
        "--url",
        "http://127.0.0.1:1/v1",
        "--model",
        "m",
        "--concurrency",
        "1",
    ]
    assert collectors.__main__.main([*words, "--num-requests", "2", "--warmup", "0", "--no-self-test"]) == 1
    (path,) = (tmp_path / "runs").glob("*.parquet")
    (run,) = parquet.read("runs", path).to_pylist()
    assert (run["status"], run["success_rate"], run["ttft_s"]) == ("refused", 0.0, None)
