"""Any LLM server: one prompt in and text out, or a load on it, with a run for each concurrency or rate.

Loads: a closed loop (a fixed number in flight), a constant rate, Poisson arrivals, a burst, a rising rate, a trace replayed. Each
level warms up, measures, and lands one run (phase `serve`) with a row for every request, failures and warm-up included.
Latencies are those of warehouse/metrics.py, from the actual send and from when a request was due. Keys come from the
environment or the SDK's own chain and are never written, logged or shown.

    python -m collectors endpoint --landing DIR --url http://127.0.0.1:8000/v1 --model NAME --concurrency 1 2 4
    python -m collectors endpoint --landing DIR --url http://127.0.0.1:8000/v1 --model NAME --request-rate 2 8 --duration-s 120
    python -m collectors endpoint --landing DIR --url http://127.0.0.1:8000/v1 --model NAME --load burst --num-requests 1000
    python -m collectors endpoint --landing DIR --url http://127.0.0.1:8000/v1 --model NAME --load single --prompt "Tell me."

`--serve gpt2` needs no server: it starts one for an LLM of the catalogue (random weights, `transformers serve`), loads it and stops it.
What such a server runs on is known, it is measured while nothing else is, and a load measured once is not measured again.

    python -m collectors endpoint --landing DIR --serve llama-3.1-8b --concurrency 1 4 16 64
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import inspect
import json
import math
import os
import secrets
import shlex
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collectors import Collected, Report, _machine, _session, _timing, silent
from collectors.endpoint import (
    _arrivals,
    _clients,
    _load,
    _local_server,
    _monitoring,
    _providers,
    _quality,
    _rows,
    _scrape,
    _self_test,
    _slo,
    _tokens,
)
from collectors.endpoint._load import Job, Level, Outcome
from collectors.endpoint._local_server import LocalServer
from collectors.endpoint._prompts import Prompts
from collectors.endpoint._providers import Target
from collectors.endpoint._stream import Reply
from warehouse import catalog, metrics, parquet, schema

__all__ = ["Reply", "add_arguments", "collect", "complete"]

SOURCE_ID = "rooflake/endpoint"
DEFAULT_INPUT_TOKENS = 128
DEFAULT_CONCURRENCY = (1, 2, 4)
DEFAULT_DURATION_S = 60.0
"""Of a load at a rate for which neither a duration nor a number of requests is given."""

MIN_REQUESTS = 40
"""Requests of a level unless told otherwise, or 10 x concurrency: 20 on either side of the median."""

WARMUP = 10
"""Warm-up requests of an open loop unless told otherwise."""

NOT_OF_A_LOAD = ("landing", "report", "budget_s", "skip", "hardware_row", "ceiling_row")
"""Parameters of `collect` that say nothing of what is sent."""

LOADS = (*_arrivals.PATTERNS, "single")
SHIPPED = "shipped"
"""The questions of `--quality` without a file."""


def complete(
    url: str | None,
    model: str,
    prompt: str,
    *,
    provider: str = "openai",
    api: str | None = None,
    output_tokens: int = 64,
    timeout_s: float = 60.0,
    stream: bool = True,
    ignore_eos: bool = False,
    api_key_env: str | None = None,
    extra_body: Mapping[str, Any] | None = None,
    provider_options: Mapping[str, str] | None = None,
) -> Reply:
    """Send one prompt as it is and return the text with its TTFT, TPOT, E2EL and token counts.

    A server that fails gives a Reply whose status is not `ok`, with a sentence. Raises ValueError, before anything is sent,
    for a URL, an API, a key or a number that cannot be used; LookupError where a provider's SDK is missing.
    """
    _check_counts(output_tokens=output_tokens)
    asked = _target(
        url, model, provider=provider, api=api, timeout_s=timeout_s, stream=stream, ignore_eos=ignore_eos, api_key_env=api_key_env,
        extra_body=extra_body, provider_options=provider_options,
    )  # fmt: skip
    return dataclasses.replace(_clients.run_here(_load.ask(asked, prompt, output_tokens)), prompt=asked.hide(prompt))


def collect(
    landing: Path,
    *,
    report: Report = silent,
    url: str | None = None,
    model: str | None = None,
    serve: str | None = None,
    device: str = "auto",
    provider: str = "openai",
    api: str | None = None,
    provider_options: Mapping[str, str] | None = None,
    stream: bool = True,
    ignore_eos: bool = False,
    prompt: str | None = None,
    input_tokens: int | None = None,
    output_tokens: int = 64,
    tokenizer: str | None = None,
    load: str | None = None,
    concurrency: int | Sequence[int] | None = None,
    request_rate: float | Sequence[float] | None = None,
    replay: Path | str | None = None,
    num_requests: int | None = None,
    duration_s: float | None = None,
    max_concurrency: int | None = None,
    warmup: int | None = None,
    seed: int | None = None,
    unique_prefix: bool = True,
    timeout_s: float = 60.0,
    stop_when_saturated: bool = True,
    client_processes: int | None = None,
    self_test: bool = True,
    slo: str | None = None,
    slo_ttft_s: float | None = None,
    slo_tpot_s: float | None = None,
    slo_e2el_s: float | None = None,
    metrics_url: Sequence[str] | None = None,
    quality: Path | str | None = None,
    extra_body: Mapping[str, Any] | None = None,
    api_key_env: str | None = None,
    llm_id: str | None = None,
    hardware_id: str | None = None,
    num_devices: int | None = None,
    tensor_parallel: int | None = None,
    pipeline_parallel: int | None = None,
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    kv_dtype: str | None = None,
    attention: str | None = None,
    optimizations: Sequence[str] = (),
    execution: str | None = None,
    framework: str | None = None,
    framework_version: str | None = None,
    budget_s: float | None = None,
    skip: Collection[str] | Mapping[str, float] = frozenset(),
    hardware_row: dict[str, Any] | None = None,
    ceiling_row: dict[str, Any] | None = None,
) -> Collected:
    """Put one or more loads on a server and land one run for each, as soon as it ends.

    `load` is `closed` unless a rate (`poisson`), a trace (`replay`) or another is given. `prompt`, or words to the length of
    `input_tokens` tokens (128 unless given). A closed loop sends 40 or 10 x concurrency requests, after 2 x concurrency to warm up,
    unless told otherwise; a load at a rate lasts 60 s. What describes the server (`hardware_id`, `llm_id`, dtypes...) cannot be seen
    from outside and is taken as told; ids must be in the catalogue. Raises ValueError or LookupError before anything is sent.
    After failures in a row a level is given up; an open loop that the server falls behind of is stopped. Nothing starts after
    `budget_s`.

    `serve` starts a server of a catalogue LLM on `device`, of `weight_dtype` and `attention`, and describes it itself: see
    `_local_server`. A load that the landing folder or `skip` (repeat_group_ids) holds is not put on it again. Where it cannot run
    for want of packages or of room, that is reported and nothing lands. `hardware_row`, `ceiling_row`: `_session.open_session`.
    """
    options = {name: value for name, value in locals().items() if name not in NOT_OF_A_LOAD}
    _session.check_seconds("budget_s", budget_s)
    began = time.monotonic()
    own = None
    if serve is not None:
        own = _own_server(options, report)
        if own is None:
            return Collected(0, ())
        url, model, num_devices = own.url, own.llm.llm_id, 1
    if model is None:
        raise ValueError("No model is named. Give --model with --url, or --serve for a server of its own.")
    asked = _target(
        url, model, provider=provider, api=api, timeout_s=timeout_s, stream=stream, ignore_eos=ignore_eos, api_key_env=api_key_env,
        extra_body=extra_body, provider_options=provider_options,
    )  # fmt: skip
    seed = secrets.randbelow(10**9) if seed is None else seed
    plans = _plans(
        load, concurrency, request_rate, replay, num_requests, duration_s, max_concurrency, warmup, output_tokens, seed
    )
    _check_prompt(plans[0].level.pattern, prompt, input_tokens)
    objectives = _slo.objectives(slo, ttft_s=slo_ttft_s, tpot_s=slo_tpot_s, e2el_s=slo_e2el_s)
    wanted = DEFAULT_INPUT_TOKENS if prompt is None and input_tokens is None else input_tokens
    _check_counts(
        **({} if wanted is None else {"input_tokens": wanted}),
        **({} if client_processes is None else {"client_processes": client_processes}),
        **({} if num_devices is None else {"num_devices": num_devices}),
    )
    pages = _metrics_pages(metrics_url, asked)
    options["metrics_url"] = None if metrics_url is None else pages
    texts = None if quality is None else _quality.text_set(None if quality == SHIPPED else Path(quality))
    environment = _machine.environment() if own is None else own.environment()
    described = {
        "collector": "endpoint",
        "source_kind": "measured",
        "source_id": SOURCE_ID,
        "quality_tier": 2,
        "is_excluded": False,
        "task": "generation",
        "served_model_name": model,
        "is_prefix_unique": unique_prefix and plans[0].level.pattern != "single",
        "execution": execution,
        "framework": framework,
        "framework_version": framework_version,
        "environment_id": environment["environment_id"],
    }
    single = 1 if num_devices == 1 else None
    configuration = {
        "llm_id": None if llm_id is None else catalog.find_llm(llm_id).llm_id,
        "hardware_id": None if hardware_id is None else catalog.find_hardware(hardware_id).hardware_id,
        "num_devices": num_devices,
        "tensor_parallel": single if tensor_parallel is None else tensor_parallel,
        "pipeline_parallel": single if pipeline_parallel is None else pipeline_parallel,
        "data_parallel": single,
        "expert_parallel": single,
        "phase": "serve",
        "input_tokens": wanted,
        "output_tokens": output_tokens,
        "weight_dtype": weight_dtype,
        "activation_dtype": activation_dtype,
        "kv_dtype": kv_dtype,
        "attention": attention,
        "optimizations": sorted(optimizations),
    }
    facts = described | configuration | ({} if own is None else own.described)
    rows = [_run_row(facts, plan, asked.hide(_command(options, plan, seed))) for plan in plans]
    parquet.check("runs", [row | {"status": "ok"} for row in rows])  # off the contract: say so before anything is sent
    _providers.find(provider).request(asked, "", output_tokens)
    order = _Order(
        asked=asked, provider=provider, levels=tuple(zip(rows, plans, strict=True)), environment=environment,
        prompt=prompt, input_tokens=wanted, unique_prefix=unique_prefix, seed=seed, texts=texts, pages=pages,
        count=_tokens.counter(tokenizer), objectives=objectives, client_processes=client_processes, self_test=self_test,
        stop_when_saturated=stop_when_saturated, until=None if budget_s is None else began + budget_s,
        is_own=own is not None,
    )  # fmt: skip
    if own is None:
        return _carried_out(order, landing, report)
    with _session.open_session(
        "endpoint", _source(), landing, device=own.device, report=report,
        hardware_row=hardware_row, ceiling_row=ceiling_row, skip=skip,
    ) as session:  # fmt: skip
        left = tuple((row, plan) for row, plan in order.levels if not session.is_known(row))
        if len(left) < len(plans):
            report(f"{len(plans) - len(left)} of {len(plans)} loads measured already")
        if not left:
            return session.collected()
        hardware = [session.hardware] if session.is_hardware_new else []
        with _local_server.running(own, report):
            return _carried_out(dataclasses.replace(order, levels=left), landing, report, hardware)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `collect`, spelled with dashes."""
    add = parser.add_argument
    add("--url", help="address of the server, e.g. http://127.0.0.1:8000/v1")
    add("--model", help="name under which the server serves the model")
    add("--serve", metavar="LLM_ID", help="start a server of this LLM of the catalogue here, load it and stop it")
    add("--device", default="auto", help="what --serve serves on: auto, cpu or cuda; default: auto")
    add("--provider", default="openai", choices=_providers.names(), help="kind of server")
    add("--api", help="route of the provider: chat, completions ... (its first)")
    add(
        "--provider-options", type=_option, nargs="+", action=_Options, default={}, metavar="KEY=VALUE",
        help="what the provider needs beyond that: project=... region=...",
    )  # fmt: skip
    add("--stream", action=argparse.BooleanOptionalAction, default=True, help="ask for the answer as a stream")
    add(
        "--ignore-eos", action=argparse.BooleanOptionalAction, default=False,
        help="ask for exactly the output tokens wanted, where the server can; else answers end where the model ends them",
    )  # fmt: skip
    add("--prompt", help="prompt text; without it, words to the length of --input-tokens")
    add("--input-tokens", type=int, help=f"prompt tokens, template included ({DEFAULT_INPUT_TOKENS})")
    add("--output-tokens", type=int, default=64, help="max_tokens of each request")
    add(
        "--tokenizer",
        help="folder or hub id of a tokenizer, to count the tokens of answers that the server does not count",
    )
    add("--load", choices=LOADS, help="pattern (closed; poisson with --request-rate; replay with --replay)")
    add("--concurrency", type=int, nargs="+", help="requests in flight of a closed loop, one run for each (1 2 4)")
    add(
        "--request-rate",
        type=float,
        nargs="+",
        help="requests per second of an open loop, one run for each; of a ramp at its end",
    )
    add("--replay", type=Path, help="JSON lines or CSV with timestamp[, input_tokens, output_tokens] for each request")
    add("--num-requests", type=int, help=f"measured requests a level ({MIN_REQUESTS}, or 10 x concurrency)")
    add("--duration-s", type=float, help=f"no request is sent after it, seconds ({DEFAULT_DURATION_S:g} at a rate)")
    add(
        "--max-concurrency",
        type=int,
        help="most requests in flight of an open loop; those due wait, and the wait is recorded",
    )
    add("--warmup", type=int, help=f"warm-up requests a level (2 x concurrency, or {WARMUP})")
    add("--seed", type=int, help="seed of arrivals and prompts; a new one each time without it")
    add("--unique-prefix", action=argparse.BooleanOptionalAction, default=True, help="begin every prompt differently")
    add("--timeout-s", type=float, default=60.0, help="deadline of a request, seconds")
    add(
        "--stop-when-saturated", action=argparse.BooleanOptionalAction, default=True,
        help="end an open loop that the server falls behind of",
    )  # fmt: skip
    add("--client-processes", type=int, help="processes that send the load (one for 128 in flight)")
    add(
        "--self-test", action=argparse.BooleanOptionalAction, default=True,
        help="first put five times the load on a server of known times, to see what the client itself adds",
    )  # fmt: skip
    add("--slo", choices=list(_slo.PRESETS), help="objectives of goodput by name")
    add("--slo-ttft-s", type=float, help="TTFT objective of goodput, seconds")
    add("--slo-tpot-s", type=float, help="TPOT objective of goodput, seconds")
    add("--slo-e2el-s", type=float, help="end-to-end objective of goodput, seconds")
    add(
        "--metrics-url", nargs="*",
        help="read the server's own metrics (Prometheus) while the load runs: at these addresses, /metrics of the server without one",
    )  # fmt: skip
    add(
        "--quality", nargs="?", const=SHIPPED, metavar="FILE",
        help="score the server's answers before the load, to questions in JSON lines; a few shipped ones without a file",
    )  # fmt: skip
    add("--extra-body", type=_json_object, help="JSON object merged into each request; null removes a field")
    add("--api-key-env", help="environment variable that holds the key (the provider's own, e.g. OPENAI_API_KEY)")
    add("--llm-id", help="LLM served, an id of the catalogue")
    add("--hardware-id", help="device the server runs on, an id of the catalogue")
    add("--num-devices", type=int, help="devices the server runs on; not known without it")
    add("--tensor-parallel", type=int)
    add("--pipeline-parallel", type=int)
    for name in ("--weight-dtype", "--activation-dtype", "--kv-dtype"):
        add(name, choices=list(schema.DTYPE_BYTES))
    add("--attention", choices=schema.ATTENTIONS)
    add("--optimizations", nargs="*", default=[], help="flash quantized ...")
    add("--execution", choices=schema.EXECUTIONS)
    add("--framework", help="vllm, transformers, ...")
    add("--framework-version")
    add("--budget-s", type=float, help="no load starts after it, seconds")


def _metrics_pages(given: Sequence[str] | None, asked: Target) -> list[str]:
    """Addresses of metrics to read: none, those given, or the server's own."""
    if given is None:
        return []
    return _scrape.pages(given or [_scrape.metrics_url(asked.base_url)])


def _under_load(
    asked: Target,
    plan: _Plan,
    prompts: Prompts,
    pages: Sequence[str],
    *,
    processes: int,
    self_test: bool,
    stop_when_saturated: bool,
    report: Report,
) -> tuple[Outcome, _scrape.Scrape]:
    """Test the client, then load the server while its metrics are read."""
    level, tested = plan.level, None
    if self_test and level.pattern != "single":
        report(
            f"{_name(level)}: first {_self_test.FACTOR} times the load on a server of known times, to test the client"
        )
        tested = _self_test.run(level, processes, plan.due)
    is_stopped = stop_when_saturated and level.pattern in _rows.OPEN_PATTERNS
    with _scrape.scraping(pages) as scraped:
        outcome = _clients.run(asked, level, prompts, plan.due, processes=processes, stop_when_saturated=is_stopped)
    if tested is not None:
        outcome = tested.beside(outcome)
    if level.pattern == "single":
        kept = [dataclasses.replace(reply, prompt=asked.hide(prompts.text or "")) for reply in outcome.measured]
        outcome = dataclasses.replace(outcome, measured=kept)
    return outcome, scraped


def _ask(asked: Target, prompt: str, output_tokens: int) -> Reply:
    return _clients.run_here(_load.ask(asked, prompt, output_tokens))


OF_OWN = (
    "url", "model", "llm_id", "hardware_id", "activation_dtype", "kv_dtype", "tensor_parallel", "pipeline_parallel", "execution",
    "framework", "framework_version", "metrics_url",
)  # fmt: skip
"""Options that a server of the collector's own leaves no room for."""


def _own_server(options: Mapping[str, Any], report: Report) -> LocalServer | None:
    """The server that `serve` asks for; None, after saying why, where this machine lacks packages or room for it.

    Raises ValueError for an option that goes with somebody else's server, LookupError for an unknown LLM.
    """
    for name in OF_OWN:
        if options[name] is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for a server that runs already; leave it out with --serve."
            )
    if options["provider"] != "openai" or options["num_devices"] not in (None, 1):
        raise ValueError(
            "--serve starts an OpenAI-compatible server on one device: no other --provider or --num-devices."
        )
    llm = catalog.find_llm(options["serve"])
    cannot = _local_server.missing()
    if cannot is None:
        server = _local_server.local_server(llm, options["device"], options["weight_dtype"], options["attention"])
        cannot = _local_server.lack_of_room(server)
        if cannot is None:
            return server
    report(f"left out: {cannot}")
    return None


def _target(
    url: str | None,
    model: str,
    *,
    provider: str,
    api: str | None,
    timeout_s: float,
    stream: bool,
    ignore_eos: bool,
    api_key_env: str | None,
    extra_body: Mapping[str, Any] | None,
    provider_options: Mapping[str, str] | None,
) -> Target:
    asked = _providers.Asked(
        url,
        model,
        api,
        timeout_s,
        stream,
        ignore_eos,
        dict(extra_body or {}),
        api_key_env,
        dict(provider_options or {}),
    )
    return _providers.find(provider).target(asked)


def _sized_prompts(
    asked: Target, prompt: str | None, input_tokens: int | None, is_unique: bool, seed: str
) -> tuple[Prompts, str | None]:
    if input_tokens is None:
        return Prompts(prompt, 0, is_unique, seed), None
    return _clients.run_here(_load.sized(asked, input_tokens, is_unique, seed))


@dataclass(frozen=True)
class _Plan:
    """A level and when its requests are due; nothing is due in a closed loop. `overrides` are the options that say this level alone."""

    level: Level
    due: Sequence[Job]
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class _Order:
    """Loads to put on a server, each with the row that is planned for it, and all that is known before anything is sent.

    No load starts after `until`, on time.monotonic's clock.
    """

    asked: Target
    provider: str
    levels: Sequence[tuple[dict[str, Any], _Plan]]
    environment: Mapping[str, Any]
    prompt: str | None
    input_tokens: int | None
    unique_prefix: bool
    seed: int
    texts: _quality.TextSet | None
    pages: Sequence[str]
    count: Callable[[Outcome], Outcome]
    objectives: _slo.Objectives
    client_processes: int | None
    self_test: bool
    stop_when_saturated: bool
    until: float | None
    is_own: bool
    """The server is the collector's: its answers end at their limit alone."""


def _carried_out(order: _Order, landing: Path, report: Report, hardware: Sequence[Mapping[str, Any]] = ()) -> Collected:
    """Send every load and land its run as soon as it ends. `hardware` are rows that the catalogue lacks. An interrupt is told."""
    landed: list[str] = []
    try:
        return _sent_and_landed(order, landing, report, hardware, landed)
    except KeyboardInterrupt:
        left = ", ".join(_name(plan.level) for _, plan in order.levels[len(landed) :])
        report(f"Interrupted. Landed: {', '.join(landed) or 'nothing'}. Not landed: {left or 'nothing'}.")
        raise


def _sent_and_landed(
    order: _Order, landing: Path, report: Report, hardware: Sequence[Mapping[str, Any]], landed_loads: list[str]
) -> Collected:
    """The same; `landed_loads` gets the name of each load when its run has landed."""
    asked = order.asked
    shared = {"sources": [_source()], "environments": [order.environment], "hardware": hardware}
    paths = parquet.land(landing, f"endpoint-{uuid.uuid4().hex[:16]}", shared)
    said: list[str] = []
    if order.levels[0][1].level.pattern == "single":
        prompts = Prompts(order.prompt, 0, False)
    else:
        asked, refused = _clients.run_here(_load.accepted(asked))
        prompts, odd = _sized_prompts(asked, order.prompt, order.input_tokens, order.unique_prefix, str(order.seed))
        said = [sentence for sentence in (refused, odd) if sentence is not None]
        for sentence in said:
            report(sentence)
    texts = order.texts
    checked = _quality.NOTHING if texts is None else _quality.check(texts, *_quality.endpoint(asked, _ask))
    said += checked.remarks
    num_failed = 0
    for number, (planned, plan) in enumerate(order.levels):
        if order.until is not None and time.monotonic() > order.until:
            report(f"{_name(plan.level)}: left out, the time is over")
            continue
        level, run_id = plan.level, planned["run_id"]
        report(_announcement(plan))
        processes = order.client_processes
        outcome, scraped = _under_load(
            asked, plan, dataclasses.replace(prompts, seed=f"{order.seed}/{number}"), order.pages,
            processes=_clients.num_processes(level) if processes is None else processes,
            self_test=order.self_test, stop_when_saturated=order.stop_when_saturated, report=report,
        )  # fmt: skip
        outcome = order.count(outcome)
        began_at = outcome.started_at or planned["collected_at"]
        accelerators, unread = _monitoring.of_run(asked, run_id, began_at, datetime.datetime.now(datetime.UTC))
        columns = _rows.columns(outcome, level, order.objectives, scraped.prefix_cache_hit_ratio())
        remarks = _rows.remarks(outcome, level, order.objectives, is_own=order.is_own)
        remarks += [*said, *([] if unread is None else [unread])]
        remarks += scraped.remarks()
        row = {
            **planned,
            "collected_at": began_at,
            "is_output_fixed": order.is_own or asked.ignore_eos or asked.extra_body.get("ignore_eos") is True,
            "status_detail": " ".join(remarks),
            **columns,
        }
        landed = {
            "runs": [row],
            "requests": _rows.request_rows(run_id, outcome, level),
            "telemetry": [*accelerators, *scraped.rows(run_id, outcome.zero_s)],
            "samples": [
                *_rows.samples(run_id, outcome.measured, order.objectives),
                *_rows.server_samples(run_id, order.provider, outcome.measured),
                *scraped.samples(run_id),
            ],
            "quality": checked.rows(run_id),
        }
        paths += parquet.land(landing, run_id, landed)
        landed_loads.append(_name(level))
        num_failed += row["status"] != "ok"
        report(_summary(row, outcome, level))
    return Collected(len(landed_loads), tuple(paths), num_failed)


def _plans(
    load: str | None,
    concurrency: int | Sequence[int] | None,
    request_rate: float | Sequence[float] | None,
    replay: Path | str | None,
    num_requests: int | None,
    duration_s: float | None,
    max_concurrency: int | None,
    warmup: int | None,
    output_tokens: int,
    seed: int,
) -> list[_Plan]:
    pattern = _pattern(load, request_rate, replay)
    _check_load(pattern, concurrency, request_rate, replay, num_requests, duration_s, max_concurrency)
    counts = {"num_requests": num_requests, "max_concurrency": max_concurrency}
    _check_counts(output_tokens=output_tokens, **{name: count for name, count in counts.items() if count is not None})
    if warmup is not None and (not isinstance(warmup, int) or warmup < 0):
        raise ValueError(f"'{warmup}' warm-up requests cannot be sent. Give 0 or more with --warmup.")
    if pattern in ("closed", "single"):
        levels = [1] if pattern == "single" else _several(DEFAULT_CONCURRENCY if concurrency is None else concurrency)
        if not levels:
            raise ValueError("No concurrency is given, so nothing would be sent. Give one or more with --concurrency.")
        return [_closed(pattern, int(level), num_requests, duration_s, warmup, output_tokens) for level in levels]
    rates = _several(request_rate) if pattern in _arrivals.RATED else [None]
    base = Level(max_concurrency, 0, WARMUP if warmup is None else warmup, output_tokens, pattern, None, duration_s)
    return [_open(base, rate, replay, num_requests, str(seed)) for rate in rates]


def _pattern(load: str | None, request_rate: object, replay: object) -> str:
    if load is not None and load not in LOADS:
        raise ValueError(f"'{load}' is not a load. Known: {', '.join(LOADS)}. Set it with --load.")
    if load is not None:
        return load
    if replay is not None:
        return "replay"
    return "closed" if request_rate is None else "poisson"


def _check_load(
    pattern: str,
    concurrency: object,
    request_rate: float | Sequence[float] | None,
    replay: object,
    num_requests: int | None,
    duration_s: float | None,
    max_concurrency: object,
) -> None:
    """Raises ValueError for an option that the load has no use for, or lacks."""
    is_open = pattern not in ("closed", "single")
    if concurrency is not None and pattern != "closed":
        where = " Give --max-concurrency to bound the requests in flight." if is_open else ""
        raise ValueError(f"--concurrency is for a closed loop; the load is '{pattern}'.{where}")
    if max_concurrency is not None and not is_open:
        raise ValueError(f"--max-concurrency is for an open loop; the load is '{pattern}'. Give --concurrency.")
    if request_rate is not None and pattern not in _arrivals.RATED:
        raise ValueError(f"--request-rate is for {', '.join(_arrivals.RATED)}; the load is '{pattern}'.")
    if request_rate is None and pattern in _arrivals.RATED:
        raise ValueError(f"The load '{pattern}' needs a rate. Give requests per second with --request-rate.")
    for rate in [] if request_rate is None else _several(request_rate):
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"request_rate is {rate!r}; it must be above 0 per second. Set it with --request-rate.")
    if (replay is None) == (pattern == "replay"):
        raise ValueError("The load 'replay' and a file of arrivals go together. Give the file with --replay.")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise ValueError(f"duration_s is {duration_s!r}; it must be above 0 s. Set it with --duration-s.")
    if pattern == "single" and (num_requests or 1) != 1:
        raise ValueError("The load 'single' is one request. Leave --num-requests out.")


def _several(given: Any) -> list[Any]:
    return [given] if isinstance(given, int | float) else list(given)


def _closed(
    pattern: str,
    concurrency: int,
    num_requests: int | None,
    duration_s: float | None,
    warmup: int | None,
    output_tokens: int,
) -> _Plan:
    _check_counts(concurrency=concurrency)
    count = num_requests
    if count is None:
        count = 0 if duration_s is not None else max(MIN_REQUESTS, 10 * concurrency)
    if pattern == "single":
        return _Plan(Level(1, 1, 0, output_tokens, pattern), (), {})
    num_warmup = 2 * concurrency if warmup is None else warmup
    level = Level(concurrency, count, num_warmup, output_tokens, duration_s=duration_s)
    return _Plan(level, (), {"concurrency": concurrency})


def _open(base: Level, rate: float | None, replay: Path | str | None, num_requests: int | None, seed: str) -> _Plan:
    span_s = base.duration_s
    if replay is not None:
        found = [one for one in _arrivals.replayed(Path(replay)) if span_s is None or one.at_s < span_s][:num_requests]
    else:
        if base.pattern == "burst" and num_requests is None:
            num_requests = MIN_REQUESTS
        if rate is not None and num_requests is None and span_s is None:
            span_s = DEFAULT_DURATION_S
        found = _arrivals.arrivals(
            base.pattern, rate_per_s=rate, num_requests=num_requests, duration_s=span_s, seed=seed
        )
    if not found:
        raise ValueError(f"No request of the load '{base.pattern}' is due. Raise --duration-s or --request-rate.")
    due = [
        Job(index, base.output_tokens if one.output_tokens is None else one.output_tokens, one.at_s, one.input_tokens)
        for index, one in enumerate(found)
    ]
    level = dataclasses.replace(base, num_requests=len(due), request_rate_per_s=rate, duration_s=span_s)
    return _Plan(level, due, {} if rate is None else {"request_rate": rate})


def _check_prompt(pattern: str, prompt: str | None, input_tokens: int | None) -> None:
    if prompt is not None and input_tokens is not None:
        raise ValueError("Give --prompt or --input-tokens, not both: the length of a given prompt is what it is.")
    if pattern == "single" and prompt is None:
        raise ValueError("The load 'single' sends one prompt. Give its text with --prompt.")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            option = name.replace("_", "-")
            raise ValueError(f"{name} is {count!r}; it must be a whole number of 1 or more. Set it with --{option}.")


def _run_row(row: Mapping[str, Any], plan: _Plan, command: str) -> dict[str, Any]:
    level = plan.level
    named = {
        **row,
        "load_pattern": level.pattern,
        "concurrency": level.concurrency if level.pattern in ("closed", "single") else None,
        "request_rate_per_s": level.request_rate_per_s,
    }
    if any(job.input_tokens is not None for job in plan.due):
        named["input_tokens"] = None  # of a trace each request has its own
    if len({job.output_tokens for job in plan.due}) > 1:
        named["output_tokens"] = None
    config_id = schema.config_id(named)
    is_described = named["hardware_id"] is not None and named["llm_id"] is not None
    group = (SOURCE_ID, config_id, named["task"], named["execution"], named["framework"])
    return {
        **named,
        "run_id": f"endpoint-{uuid.uuid4().hex[:16]}",
        "config_id": config_id,
        "repeat_group_id": schema.digest(*group) if is_described else None,
        "collected_at": datetime.datetime.now(datetime.UTC),
        "command": command,
    }


def _command(options: Mapping[str, Any], plan: _Plan, seed: int) -> str:
    """The command that repeats one level: the options that differ from their defaults. The key is none of them."""
    words = ["python", "-m", "collectors", "endpoint"]
    parameters = inspect.signature(collect).parameters
    for name, value in {**options, **plan.overrides, "seed": seed}.items():
        option = name.replace("_", "-")
        if value in (parameters[name].default, [], {}):
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif name == "provider_options":
            words += [f"--{option}", *(f"{key}={text}" for key, text in value.items())]
        elif isinstance(value, Mapping):
            words.append(f"--{option}={json.dumps(dict(value))}")
        elif isinstance(value, os.PathLike):
            words.append(f"--{option}={Path(value).name}")
        elif isinstance(value, str):
            words.append(f"--{option}={value}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, Sequence) else [value])]
    return shlex.join(words)


def _source() -> dict[str, Any]:
    return {
        "source_id": SOURCE_ID,
        "title": "Load test of an endpoint",
        "kind": "endpoint",
        "locator": "latencies from the actual send to the kernel's receive stamps, on the client's monotonic clock",
        "note": "N is the server's usage count, else a tokenizer's or counted chunks (token_count_source). Percentiles are over requests "
        "and need 20 / (1 - p) of them. The server's model, device and dtypes are as the person who ran it told, or known where the collector started it.",
    }


def _announcement(plan: _Plan) -> str:
    level = plan.level
    if level.pattern == "single":
        return "one request"
    amount = f"{level.num_requests} requests" if level.num_requests else f"requests for {level.duration_s:g} s"
    return f"{_name(level)}: {level.num_warmup} warm-up and {amount}; {_percentiles(level.num_requests)}"


def _percentiles(num_requests: int) -> str:
    """Which percentiles of the tail so many requests will give at most; 0 for a number that is not known."""
    least = {percent: _timing.least_for(percent) for percent in (90, 95, 99)}
    lacking = [f"p{percent} from {count} on" for percent, count in least.items() if num_requests < count]
    if len(lacking) == len(least):
        return f"median and quartiles, {', '.join(lacking)}"
    given = max(percent for percent, count in least.items() if num_requests >= count)
    return f"percentiles up to p{given}" + (f", {', '.join(lacking)}" if lacking else "")


def _name(level: Level) -> str:
    if level.pattern == "closed":
        return f"concurrency {level.concurrency}"
    return level.pattern + ("" if level.request_rate_per_s is None else f" {level.request_rate_per_s:g}/s")


def _summary(row: Mapping[str, Any], outcome: Outcome, level: Level) -> str:
    done = [reply for reply in outcome.measured if reply.status == "ok"]
    line = f"{_name(level)}: {len(done)} of {len(outcome.measured)} requests ok"
    if not done:
        return f"{line}; {outcome.measured[0].status_detail if outcome.measured else 'none was sent'}"
    for name, label in (("ttft_s", "TTFT "), ("tpot_s", "TPOT "), ("output_tokens_per_s", "output ")):
        shown, value = metrics.metric(name), row.get(name)
        line += "" if value is None else f", {label}{value * shown.display_factor:.4g} {shown.display_unit}"
    if outcome.client_delay_p99_s is not None:
        line += f"; the client adds {outcome.client_delay_p99_s * 1e3:.2g} ms at p99"
    return line


class _Options(argparse.Action):
    """Gathers KEY=VALUE pairs into a mapping."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), **dict(values)})


def _option(text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _json_object(text: str) -> dict[str, Any]:
    """A JSON object given on the command line."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object, such as '{{\"temperature\": 0}}'")
    return value
