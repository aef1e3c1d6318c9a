"""Loads on a server whose answers are known: every request once, times on its clock, patterns, several client processes."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broken_server import STREAM, http, serving
from known_server import FAULTS, KnownServer, known
from landed_rows import landed

import collectors.__main__
from collectors import endpoint
from collectors.endpoint import _arrivals, _clients, _prompts, _self_test
from collectors.endpoint._load import Job, Level, Outcome
from collectors.endpoint._prompts import Prompts
from collectors.endpoint._providers import Asked, openai
from collectors.endpoint._stream import Reply

WORDS = Prompts(None, 12, True, "1")


@pytest.fixture(scope="module")
def plain() -> Iterator[KnownServer]:
    """A server that answers at once and well, for all tests that want no other."""
    with known() as server:
        yield server


def run(server: KnownServer, level: Level, due: list[Job] | None = None, **options: Any) -> Outcome:
    return _clients.run(openai.target(Asked(server.url, "m", timeout_s=20.0)), level, WORDS, due or [], **options)


def number(reply: Reply) -> int:
    """The number under which the server logged a request that it answered."""
    return int(reply.text.split()[0])


# --- every request once, and on one clock -----------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_no_request_is_lost_or_doubled_and_times_are_those_of_the_server(processes: int) -> None:
    """A chunk's stamp lies between the server's clock readings before and after its write, or after that of a later chunk which the
    kernel joined to it before it was read; but for 1 ms of clock arithmetic."""
    with known(ttft_s=0.02, gap_s=0.004, tokens=8) as server:
        outcome = run(server, Level(6, 40, 6, 8), processes=processes)
        log = server.log()
    replies = outcome.warmup + outcome.measured
    assert (len(outcome.warmup), len(outcome.measured), outcome.num_client_processes) == (6, 40, processes)
    assert sorted(number(reply) for reply in replies) == list(range(46)) == [entry["number"] for entry in log]
    assert len({entry["prompt"] for entry in log}) == 46
    for reply in replies:
        entry = log[number(reply)]
        sent_s = outcome.zero_s + reply.sent_at_s
        assert sent_s <= entry["received_s"] + 1e-3
        assert (reply.status, reply.output_tokens, reply.chunk_tokens) == ("ok", 8, [1] * 8)
        assert reply.chunk_times_s == sorted(reply.chunk_times_s)
        for index, arrived_s in enumerate(reply.chunk_times_s):
            at_s = sent_s + arrived_s
            assert any(before - 1e-3 <= at_s <= after + 1e-3 for before, after in entry["written_s"][index:])
        # the end is written with the last chunk
        assert reply.ended_at_s - reply.sent_at_s == pytest.approx(reply.chunk_times_s[-1], abs=1e-3)
    assert gc.get_freeze_count() == 0
    assert outcome.client_cpu_s is not None
    assert outcome.client_cpu_s > 0
    assert {reply.client_index for reply in replies} == set(range(processes))


def test_a_closed_loop_never_has_more_in_flight_than_asked_for() -> None:
    with known(ttft_s=0.01) as server:
        outcome = run(server, Level(3, 30, 0, 4))
    edges = sorted([(r.sent_at_s, 1) for r in outcome.measured] + [(r.ended_at_s, -1) for r in outcome.measured])
    in_flight = [sum(step for _, step in edges[: index + 1]) for index in range(len(edges))]
    assert max(in_flight) == 3


def test_a_duration_ends_a_closed_loop() -> None:
    with known(ttft_s=0.01) as server:
        outcome = run(server, Level(2, 0, 0, 2, duration_s=0.3))
        assert len(outcome.measured) == len(server.log()) > 2
    first_s = min(reply.sent_at_s for reply in outcome.measured)
    assert max(reply.scheduled_at_s for reply in outcome.measured) <= first_s + 0.3


def test_several_tokens_a_chunk_and_cached_tokens() -> None:
    with known(tokens_per_chunk=3, cached_tokens=5) as server:
        (reply,) = run(server, Level(1, 1, 0, 8)).measured
    assert (reply.output_tokens, reply.token_count_source, reply.cached_tokens) == (8, "usage", 5)
    assert (len(reply.chunk_times_s), reply.chunk_tokens) == (3, None)
    with known(has_usage=False) as server:
        (reply,) = run(server, Level(1, 1, 0, 8)).measured
    assert (reply.output_tokens, reply.token_count_source) == (8, "chunks")


def test_every_fault_is_a_reply_of_its_kind() -> None:
    expected = {
        "none": ("ok", None),
        "429": ("refused", "HTTP 429: X (Retry-After: 7). It says: slow down"),
        "500": ("error", "HTTP 500: X. It says: boom"),
        "truncated": ("error", "The stream ended early, after 2 chunks of text (the server closed the connection)."),
        "reset": ("error", "The stream ended early, after 2 chunks of text ([Errno 104] Connection reset by peer)."),
        "malformed": ("error", "Event 3 is not JSON: {oops"),
        "error": ("error", "The server reports an error: engine died"),
        "stalled": ("timeout", "The answer was not complete within 1.5 s: 2 chunks of text had come."),
        "loris": ("timeout", "No answer from URL within 1.5 s. Raise it with --timeout-s."),
        "whole": ("ok", "The server answered in one piece instead of a stream: only the end-to-end latency was observed."),
        "no_done": ("ok", None),
    }  # fmt: skip
    assert set(expected) == set(FAULTS)
    faults = list(FAULTS)
    due = [Job(index, 8, 0.02 * index) for index in range(2 * len(faults))]
    with known(faults=faults) as server:
        target = openai.target(Asked(server.url, "m", timeout_s=1.5))
        outcome = _clients.run(target, Level(None, len(due), 0, 8, "constant", 50.0), WORDS, due)
        log = server.log()
    assert Counter(entry["fault"] for entry in log) == dict.fromkeys(faults, 2)
    by_prompt = {entry["prompt"]: entry["fault"] for entry in log}
    assert len(outcome.measured) == len(due) == len(by_prompt)
    said = [(status, None if why is None else why.replace("URL", server.url)) for status, why in expected.values()]
    assert Counter((reply.status, reply.status_detail) for reply in outcome.measured) == Counter(said * 2)


def test_an_answer_that_is_not_streamed_on_purpose_has_no_remark(tmp_path: Path, plain: KnownServer) -> None:
    endpoint.collect(
        tmp_path, url=plain.url, model="m", prompt="hi", concurrency=1, num_requests=2, warmup=0, stream=False,
        self_test=False,
    )  # fmt: skip
    for row in landed(tmp_path, "requests"):
        assert (row["status"], row["status_detail"], row["ttft_s"], row["output_tokens"]) == ("ok", None, None, 64)
        assert row["e2el_s"] > 0


# --- open loops -------------------------------------------------------------------------------------------------------


def test_constant_poisson_burst_and_ramp() -> None:
    def times(pattern: str, **options: Any) -> list[float]:
        given = {"rate_per_s": 10.0, "num_requests": None, "duration_s": None, "seed": "7", **options}
        return [arrival.at_s for arrival in _arrivals.arrivals(pattern, **given)]

    assert times("constant", num_requests=3) == pytest.approx([0.0, 0.1, 0.2])
    assert times("constant", duration_s=0.25) == pytest.approx([0.0, 0.1, 0.2])
    assert times("burst", num_requests=3) == [0.0, 0.0, 0.0]
    # from 0 to 10/s in 2 s: 10 requests, request i when 2.5 t^2 = i
    assert times("ramp", num_requests=10) == pytest.approx([(index / 2.5) ** 0.5 for index in range(10)])
    assert times("ramp", duration_s=2.0) == times("ramp", num_requests=10)
    assert len(times("ramp", rate_per_s=1.1, num_requests=29)) == 29  # 1.1 x (58 / 1.1) / 2 is a little less
    poisson = times("poisson", num_requests=20_000)
    assert poisson == times("poisson", num_requests=20_000) != times("poisson", num_requests=20_000, seed="8")
    assert poisson[-1] == pytest.approx(2000, rel=0.03)
    gaps = [after - before for before, after in itertools.pairwise(poisson)]
    assert sum(gap > 0.1 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.02)  # 1/e: memoryless
    long = times("poisson", duration_s=1000.0)
    assert max(long) < 1000.0
    assert len(long) == pytest.approx(10_000, rel=0.05)


TRACES = {
    "ours.jsonl": '{"timestamp": 5.5, "input_tokens": 7, "output_tokens": 3}\n\n{"timestamp": 5.0, "output_tokens": 2}\n',
    "mooncake.jsonl": '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0]}\n'
    '{"timestamp": 3000, "input_length": 7322, "output_length": 0, "hash_ids": [0]}\n',
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n",
    "burst.csv": "Timestamp,Model,Request tokens,Response tokens\n5,GPT,472,18\n45,GPT,1087,230\n",
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ours.jsonl", [(0.0, None, 2), (0.5, 7, 3)]),
        ("mooncake.jsonl", [(0.0, 6758, 500), (3.0, 7322, 1)]),
        ("azure.csv", [(0.0, 4808, 10), (0.052, 3180, 8)]),
        ("burst.csv", [(0.0, 472, 18), (40.0, 1087, 230)]),
    ],
)
def test_traces_in_the_layouts_in_use(tmp_path: Path, name: str, expected: list[tuple[Any, ...]]) -> None:
    (tmp_path / name).write_text(TRACES[name])
    found = [dataclasses.astuple(arrival) for arrival in _arrivals.replayed(tmp_path / name)]
    assert [arrival[1:] for arrival in found] == [arrival[1:] for arrival in expected]
    assert [arrival[0] for arrival in found] == pytest.approx([arrival[0] for arrival in expected], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'t' holds no request."),
        ('{"when": 1}', "'t' has no column that says when a request came. Known: at_s"),
        ('{"timestamp": 1}\n{oops', "Line 2 of 't' is not JSON"),
        ('{"timestamp": 1}\n[1]', "Line 2 of 't' is not a JSON object."),
        ('{"timestamp": 1}\n{"timestamp": "x"}', "Line 2 of 't' is not a request of a trace"),
        ('{"timestamp": 1}\n{"timestamp": NaN}', "Line 2 of 't' is not a request of a trace"),
        ('{"timestamp": 1, "input_tokens": -4}', "Line 1 of 't' is not a request of a trace: input_tokens is -4."),
        ("[" * 100_000, "holds no request"),
        ('{"timestamp": ' + "[" * 100_000, "Line 1 of 't' is not JSON"),
        ("timestamp\n2023-99-99 10:00:00\n", "Line 2 of 't' is not a request of a trace"),
    ],
)
def test_a_broken_trace_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(ValueError, match="'t'") as caught:
        _arrivals.replayed(tmp_path / "t")
    assert message in str(caught.value)


def test_a_trace_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^The file of arrivals 'missing.csv' cannot be read: No such file or directory\. Set it"
    ):
        endpoint.collect(tmp_path / "l", url="http://127.0.0.1:1", model="m", replay=tmp_path / "missing.csv")
    assert not (tmp_path / "l").exists()


def test_a_trace_is_replayed_with_its_times_and_lengths(tmp_path: Path, plain: KnownServer) -> None:
    rows = [{"at_s": 0.1 * index, "input_tokens": 30 + 10 * index, "output_tokens": 2 + index} for index in range(5)]
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, rows)))
    endpoint.collect(
        tmp_path / "l", url=plain.url, model="m", replay=tmp_path / "trace.jsonl", warmup=0, api="completions",
        self_test=False,
    )  # fmt: skip
    (row,) = landed(tmp_path / "l", "runs")
    requests = landed(tmp_path / "l", "requests")
    assert (row["load_pattern"], row["input_tokens"], row["output_tokens"]) == ("replay", None, None)
    assert (row["concurrency"], row["request_rate_per_s"]) == (None, None)
    assert [r["output_tokens"] for r in requests] == [r["requested_output_tokens"] for r in requests] == [2, 3, 4, 5, 6]
    assert [r["input_tokens"] for r in requests] == [30, 40, 50, 60, 70]
    due = [r["scheduled_at_s"] - requests[0]["scheduled_at_s"] for r in requests]
    assert due == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_waiting_for_a_slot_counts_from_when_a_request_was_due() -> None:
    """Four due at once, one slot, 50 ms each: the last was due 150 ms before it could be sent."""
    due = [Job(index, 2, 0.0) for index in range(4)]
    with known(ttft_s=0.05) as server:
        outcome = run(server, Level(1, 4, 0, 2, "burst"), due)
    waits = sorted(reply.sent_at_s - reply.scheduled_at_s for reply in outcome.measured)
    assert len({reply.scheduled_at_s for reply in outcome.measured}) == 1
    assert waits[3] >= 0.15


@pytest.mark.parametrize(
    ("options", "pattern", "rates"),
    [
        ({"request_rate": [40.0, 80.0], "num_requests": 8}, "poisson", [40.0, 80.0]),
        ({"load": "constant", "request_rate": 50.0, "duration_s": 0.2}, "constant", [50.0]),
        ({"load": "ramp", "request_rate": 50.0, "num_requests": 10}, "ramp", [50.0]),
        ({"load": "burst", "num_requests": 30}, "burst", [None]),
    ],
)
def test_open_loops_land_a_run_for_each_rate(
    tmp_path: Path, plain: KnownServer, options: dict[str, Any], pattern: str, rates: list[float | None]
) -> None:
    num_before = len(plain.log())
    collected = endpoint.collect(
        tmp_path, url=plain.url, model="m", prompt="hi", output_tokens=3, warmup=2, self_test=False, seed=3, **options
    )
    log = plain.log()[num_before:]
    assert (collected.num_runs, collected.num_failed) == (len(rates), 0)
    runs = sorted(landed(tmp_path, "runs"), key=lambda row: row["request_rate_per_s"] or 0)
    assert [(row["load_pattern"], row["concurrency"], row["request_rate_per_s"]) for row in runs] == [
        (pattern, None, rate) for rate in rates
    ]
    assert len(log) == sum(row["num_requests"] + 2 for row in runs)
    assert len({entry["prompt"] for entry in log}) == len(log)
    for row in runs:
        assert (row["is_prefix_unique"], row["is_output_fixed"], row["success_rate"]) == (True, False, 1.0)
        assert f"--load={pattern}" in row["command"] or pattern == "poisson"


def test_the_same_seed_sends_the_same_prompts_and_another_others(tmp_path: Path, plain: KnownServer) -> None:
    def prompts(seed: int | None) -> set[str]:
        num_before = len(plain.log())
        endpoint.collect(
            tmp_path, url=plain.url, model="m", prompt="hi", concurrency=1, num_requests=5, warmup=1, seed=seed, self_test=False
        )  # fmt: skip
        return {entry["prompt"] for entry in plain.log()[num_before:]}

    first = prompts(5)
    assert prompts(5) == first
    assert not prompts(6) & first
    assert not prompts(None) & first


def test_prefixes_are_unique_however_many() -> None:
    made = [_prompts._prefix(_prompts._offset("s") + index * _prompts._STRIDE) for index in range(-1000, 50_000)]
    assert len({tuple(words) for words in made}) == 51_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load": "storm"}, "'storm' is not a load. Known: closed, constant"),
        ({"load": "constant"}, "The load 'constant' needs a rate. Give requests per second with --request-rate."),
        ({"load": "burst", "request_rate": 1.0}, "--request-rate is for constant, poisson, ramp; the load is 'burst'."),
        ({"request_rate": [0.0]}, "request_rate is 0.0; it must be above 0 per second."),
        ({"request_rate": float("inf")}, "request_rate is inf; it must be above 0 per second."),
        ({"request_rate": 1.0, "concurrency": 3}, "--concurrency is for a closed loop; the load is 'poisson'. Give --max-concurrency"),
        ({"max_concurrency": 3}, "--max-concurrency is for an open loop; the load is 'closed'."),
        ({"load": "replay"}, "The load 'replay' and a file of arrivals go together."),
        ({"load": "burst", "replay": "x"}, "The load 'replay' and a file of arrivals go together."),
        ({"duration_s": 0.0}, "duration_s is 0.0; it must be above 0 s."),
        ({"budget_s": -1.0}, "budget_s is a number of seconds above 0, not -1."),
        ({"load": "single"}, "The load 'single' sends one prompt. Give its text with --prompt."),
        ({"load": "single", "prompt": "x", "num_requests": 2}, "The load 'single' is one request."),
        ({"client_processes": 0}, "client_processes is 0; it must be a whole number of 1 or more."),
        ({"provider": "acme"}, "'acme' is not a provider. Known: "),
        ({"slo": "strict"}, "'strict' is not a set of objectives."),
    ],
)  # fmt: skip
def test_a_load_that_makes_no_sense_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        endpoint.collect(tmp_path, url="http://127.0.0.1:1", model="m", **options)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("num_requests", "said"),
    [
        (0, "median and quartiles, p90 from 200 on, p95 from 400 on, p99 from 2000 on"),
        (199, "median and quartiles, p90 from 200 on, p95 from 400 on, p99 from 2000 on"),
        (200, "percentiles up to p90, p95 from 400 on, p99 from 2000 on"),
        (1999, "percentiles up to p95, p99 from 2000 on"),
        (2000, "percentiles up to p99"),
    ],
)
def test_the_percentiles_to_come_are_said_before(num_requests: int, said: str) -> None:
    level = Level(2, num_requests, 4, 8, duration_s=None if num_requests else 60.0)
    announced = endpoint._announcement(endpoint._Plan(level, (), {}))
    assert announced.endswith(f"; {said}")


# --- one prompt -------------------------------------------------------------------------------------------------------


def test_a_single_request_lands_with_its_prompt_and_its_answer(tmp_path: Path) -> None:
    with known(cached_tokens=2) as server:
        endpoint.collect(tmp_path, url=server.url, model="m", load="single", prompt="Tell me more.", output_tokens=4)
        assert len(server.log()) == 1
    (row,) = landed(tmp_path, "runs")
    (request,) = landed(tmp_path, "requests")
    assert (row["load_pattern"], row["num_requests"], row["status"], row["is_prefix_unique"]) == (
        "single",
        1,
        "ok",
        False,
    )
    assert (row["is_client_trusted"], row["client_delay_p99_s"]) == (None, None)
    assert (request["prompt"], request["text"], request["output_tokens"]) == ("Tell me more.", "0 x x x ", 4)
    assert request["cached_tokens"] == 2
    assert row["ttft_s"] == request["ttft_s"] > 0


# --- a fixed output length --------------------------------------------------------------------------------------------


def test_a_server_that_does_not_know_ignore_eos_is_not_asked_for_it_again(tmp_path: Path) -> None:
    stream = [STREAM, b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n']
    refusal = http("400 Bad Request", b'{"error": "unknown field ignore_eos"}')
    with serving(refusal, stream) as server:
        endpoint.collect(
            tmp_path, url=server.url, model="m", prompt="x", concurrency=1, num_requests=1, warmup=0, ignore_eos=True,
            self_test=False,
        )  # fmt: skip
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests]
    assert [(body.get("ignore_eos"), body.get("min_tokens")) for body in bodies] == [
        (True, 1),
        (None, None),
        (None, None),
    ]
    (row,) = landed(tmp_path, "runs")
    assert row["is_output_fixed"] is False
    assert "The server does not know ignore_eos: answers end where the model ends them." in row["status_detail"]


def test_a_fixed_output_length_is_asked_for(tmp_path: Path, plain: KnownServer) -> None:
    endpoint.collect(
        tmp_path, url=plain.url, model="m", prompt="x", concurrency=1, num_requests=1, warmup=0, ignore_eos=True,
        self_test=False,
    )  # fmt: skip
    assert landed(tmp_path, "runs")[0]["is_output_fixed"] is True


# --- client processes -------------------------------------------------------------------------------------------------


def child_processes() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            words = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(fields[1]) == os.getpid() and b"_clients.serve" in words:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("is_open", [False, True])
def test_a_killed_client_process_leaves_failed_rows_and_the_others_finish(is_open: bool) -> None:
    due = [Job(index, 2, 0.01 * index) for index in range(100)] if is_open else []
    level = Level(None if is_open else 4, 100, 0, 2, "constant" if is_open else "closed", 100.0 if is_open else None)
    with known(ttft_s=0.05) as server:
        killed: list[int] = []

        def kill() -> None:
            until = time.monotonic() + 30
            while len(server.log()) < 10 and time.monotonic() < until:
                time.sleep(0.05)
            killed.append(max(child_processes()))
            os.kill(killed[0], signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        outcome = run(server, level, due, processes=2)
        thread.join()
        assert not child_processes()
        answered = {entry["prompt"] for entry in server.log()}
    assert len(outcome.measured) == 100
    failed = [reply for reply in outcome.measured if reply.status != "ok"]
    (index,) = {reply.client_index for reply in failed}
    assert 0 < len(failed) <= 50
    assert all(reply.client_index == index for reply in failed)
    assert failed[0].status_detail == (
        f"Client process {index} was ended by SIGKILL; whether this request was sent or answered is not known."
    )
    assert outcome.remarks == (
        f"Client process {index} was ended by SIGKILL: {len(failed)} requests of its share failed with it.",
    )
    ok = [number(reply) for reply in outcome.measured if reply.status == "ok"]
    assert len(set(ok)) == len(ok) <= len(answered)


def test_client_processes_end_with_their_parent(tmp_path: Path) -> None:
    """Even by SIGKILL, in the middle of a load."""
    code = (
        "import sys; from collectors import endpoint; from pathlib import Path; "
        "endpoint.collect(Path(sys.argv[1]), url=sys.argv[2], model='m', prompt='x', concurrency=2, num_requests=10**6, "
        "client_processes=2, self_test=False)"
    )
    with known(ttft_s=0.01) as server:
        parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), server.url])
        until = time.monotonic() + 30
        while len(server.log()) < 10 and time.monotonic() < until:
            time.sleep(0.05)
        parent.kill()
        parent.wait()
        counts = [len(server.log())]
        while time.monotonic() < until and (len(counts) < 2 or counts[-1] != counts[-2]):
            time.sleep(0.3)
            counts.append(len(server.log()))
        assert counts[-1] == counts[-2]


def test_an_interrupt_lands_the_levels_before_and_nothing_of_the_running_one(tmp_path: Path) -> None:
    code = (
        "import sys; from collectors import endpoint; from pathlib import Path; "
        "endpoint.collect(Path(sys.argv[1]), url=sys.argv[2], model='m', prompt='x', concurrency=[8, 2], num_requests=40, warmup=0, "
        "client_processes=2, self_test=False, report=lambda line: print(line, file=sys.stderr))"
    )
    with known(ttft_s=0.05, tokens=2) as server:
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), server.url], stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        while len(server.log()) < 50 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in said
    assert b"Interrupted. Landed: concurrency 8. Not landed: concurrency 2.\n" in said
    assert [row["concurrency"] for row in landed(tmp_path, "runs")] == [8]
    assert len(landed(tmp_path, "requests")) == 40


def test_as_many_processes_as_the_load_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [_clients.num_processes(Level(count, 1, 0, 1)) for count in (1, 128, 129, 10_000)] == [1, 1, 2, 4]
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert _clients.num_processes(Level(10_000, 1, 0, 1)) == 1


# --- the client's own delay -------------------------------------------------------------------------------------------


def test_the_client_is_tested_before_a_run_and_the_run_says_so(
    tmp_path: Path, plain: KnownServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_self_test, "DURATION_S", 0.3)
    lines: list[str] = []
    endpoint.collect(
        tmp_path, url=plain.url, model="m", prompt="x", concurrency=2, num_requests=2, warmup=0, report=lines.append
    )
    assert lines[1] == "concurrency 2: first 5 times the load on a server of known times, to test the client"
    (row,) = landed(tmp_path, "runs")
    assert 0 < row["client_delay_p99_s"] < 10
    assert row["is_client_trusted"] is not None
    assert ("The client is not trusted" in row["status_detail"]) is not row["is_client_trusted"]


@pytest.mark.parametrize(
    ("level", "streams", "offered_per_s"),
    [
        (Level(4, 40, 8, 64), 20, 50.0),
        (Level(100, 1000, 0, 64, "burst"), 500, 1250.0),
    ],
)
def test_the_test_puts_five_times_the_streams(level: Level, streams: int, offered_per_s: float) -> None:
    tested, due, offered, is_cut = _self_test._load(level)
    assert (tested.concurrency, tested.num_warmup, due, is_cut) == (streams, streams, [], False)
    assert offered == pytest.approx(offered_per_s)  # an answer lasts 0.4 s


def test_the_test_puts_five_times_the_rate() -> None:
    tested, due, offered, is_cut = _self_test._load(Level(None, 100, 0, 64, "poisson", 10.0))
    assert (tested.concurrency, len(due), is_cut) == (None, 75, False)
    assert due[1].at_s == pytest.approx(0.02)
    assert offered == pytest.approx(75 / (74 / 50 + 0.4))


def test_the_rate_of_a_trace_is_that_of_its_busiest_second() -> None:
    """Ten in the first second, then one each second: 50 a second are tested, however many follow."""
    due = [
        Job(index, 1, at_s) for index, at_s in enumerate([*(0.1 * i for i in range(10)), *map(float, range(2, 990))])
    ]
    tested, jobs, _, is_cut = _self_test._load(Level(None, len(due), 0, 64, "replay"), due)
    assert (tested.request_rate_per_s, len(jobs), is_cut) == (50.0, 75, False)
    _, jobs, _, is_cut = _self_test._load(Level(None, 30, 0, 64, "burst"), [Job(index, 1, 0.0) for index in range(30)])
    assert jobs[1].at_s == pytest.approx(1 / 150)
    assert not is_cut
    tested, _, _, is_cut = _self_test._load(Level(None, 1, 0, 64, "constant", 5000.0))
    assert (tested.num_warmup, is_cut) == (2000, True)


def test_what_a_client_adds_is_late_sends_and_late_stamps() -> None:
    """Due at 100 s, at the server 2 ms later; the first chunk was written from 100.500 to 100.501 s. Stamped in between it is right,
    at 100.504 s 3 ms late, at 100.499 s 1 ms early."""
    reply = Reply(
        status="ok", status_detail=None, http_status=200, text="100.002000000 100.500000000 100.501000000 x", reasoning="",
        scheduled_at_s=0.0, sent_at_s=0.0015, ended_at_s=1.0, ttft_s=0.499, tpot_s=None, itl_s=None, e2el_s=0.6, input_tokens=None,
        output_tokens=3, token_count_source="chunks", finish_reason="length", chunk_times_s=[0.499, 0.6], chunk_tokens=None,
    )  # fmt: skip
    replies = [reply, *(dataclasses.replace(reply, ttft_s=ttft_s) for ttft_s in (0.5025, 0.4975))]
    outcome = Outcome(measured=[*replies, dataclasses.replace(reply, status="error")], zero_s=100.0)
    assert _self_test._delays(outcome) == pytest.approx([0.002, 0.005, 0.003])


def test_the_null_server_says_when_a_request_came_and_its_answer_left() -> None:
    with _self_test._null_server() as url:
        target = openai.target(Asked(url, "null", timeout_s=20.0))
        began_s = time.perf_counter()
        outcome = _clients.run(target, Level(2, 4, 0, 4), Prompts("x", 0, False))
    assert [reply.status for reply in outcome.measured] == ["ok"] * 4
    for reply in outcome.measured:
        received_s, before_s, after_s, last = reply.text.split()
        sent_s = outcome.zero_s + reply.sent_at_s
        assert began_s < sent_s <= float(received_s) + 1e-3
        assert float(received_s) + _self_test.TTFT_S <= float(before_s) <= float(after_s) <= time.perf_counter()
        assert (reply.output_tokens, last) == (4, "xx")
        assert reply.ttft_s is not None
        assert reply.ttft_s >= _self_test.TTFT_S - 1e-3


def test_what_the_test_found_lies_beside_the_run() -> None:
    assert _self_test.SelfTest(None, False, "why").beside(Outcome()).remarks == ("why",)


# --- command line -----------------------------------------------------------------------------------------------------


def test_the_command_line_takes_every_option(
    tmp_path: Path, plain: KnownServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "endpoint", "--landing", str(tmp_path), "--url", plain.url, "--model", "m", "--load", "constant", "--request-rate", "50",
        "--num-requests", "5", "--warmup", "1", "--seed", "4", "--max-concurrency", "3", "--ignore-eos", "--no-self-test",
        "--client-processes", "1", "--slo-e2el-s", "9", "--output-tokens", "3", "--api", "completions", "--prompt", "x",
    ]  # fmt: skip
    assert collectors.__main__.main(words) == 0
    (row,) = landed(tmp_path, "runs")
    assert (row["load_pattern"], row["request_rate_per_s"], row["slo_e2el_s"]) == ("constant", 50.0, 9.0)
    again = row["command"].split()[4:]
    assert collectors.__main__.main(["endpoint", "--landing", str(tmp_path / "again"), *again]) == 0
    (second,) = landed(tmp_path / "again", "runs")
    assert (second["config_id"], second["command"]) == (row["config_id"], row["command"])
    assert "constant 50/s: 5 of 5 requests ok" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _no_children_left() -> Any:
    yield
    assert not child_processes()
