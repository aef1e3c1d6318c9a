"""An OpenAI-compatible server (chat or completions, streaming): one prompt in and text out, or a sweep over concurrency.

The sweep is a closed loop: each level keeps `concurrency` requests in flight, warms up, measures `num_requests`, and lands
one run (phase `serve`) with a row for every request, failures and warm-up included. Latencies are those of
warehouse/metrics.py. The key comes from an environment variable and is never written, logged or shown.

    python -m collectors endpoint --landing DIR --url http://127.0.0.1:8000/v1 --model NAME --concurrency 1 2 4
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import datetime
import inspect
import json
import shlex
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from collectors import Collected, Report, _machine, silent
from collectors.endpoint import _load, _rows
from collectors.endpoint._client import APIS, Target, ask, client, target
from collectors.endpoint._stream import Reply
from warehouse import catalog, metrics, parquet, schema

__all__ = ["Reply", "add_arguments", "collect", "complete"]

SOURCE_ID = "rooflake/endpoint"
DEFAULT_INPUT_TOKENS = 128
MIN_REQUESTS = 40
"""Requests of a level unless told otherwise, or 10 x concurrency: the fewest that give a median (20 / (1 - p))."""

_T = TypeVar("_T")


def complete(
    url: str,
    model: str,
    prompt: str,
    *,
    api: str = "chat",
    output_tokens: int = 64,
    timeout_s: float = 60.0,
    api_key_env: str = "OPENAI_API_KEY",
    extra_body: Mapping[str, Any] | None = None,
) -> Reply:
    """Send one prompt as it is and return the text with its TTFT, TPOT, E2EL and token counts.

    A server that fails gives a Reply whose status is not `ok`, with a sentence. Raises ValueError, before anything is sent,
    for a URL, an API, a key or a number that cannot be used; LookupError where httpx is missing.
    """
    _check_counts(output_tokens=output_tokens)
    asked = target(url, model, api=api, timeout_s=timeout_s, api_key_env=api_key_env, extra_body=extra_body)

    async def once() -> Reply:
        async with client(1) as http:
            return await ask(http, asked, prompt, output_tokens, time.perf_counter())

    return _run(once())


def collect(
    landing: Path,
    *,
    report: Report = silent,
    url: str,
    model: str,
    api: str = "chat",
    prompt: str | None = None,
    input_tokens: int | None = None,
    output_tokens: int = 64,
    concurrency: int | Sequence[int] = (1, 2, 4),
    num_requests: int | None = None,
    warmup: int | None = None,
    unique_prefix: bool = True,
    timeout_s: float = 60.0,
    slo_ttft_s: float | None = None,
    slo_tpot_s: float | None = None,
    extra_body: Mapping[str, Any] | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    llm_id: str | None = None,
    hardware_id: str | None = None,
    num_devices: int = 1,
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
) -> Collected:
    """Measure a server at each concurrency and land one run a level, as soon as the level ends.

    `prompt`, or words to the length of `input_tokens` tokens (128 unless given). `num_requests` is 40 or 10 x concurrency,
    `warmup` 2 x concurrency unless given. What describes the server (`hardware_id`, `llm_id`, dtypes...) cannot be seen from
    outside and is taken as told; ids must be in the catalogue. Raises ValueError or LookupError before anything is sent.
    Each level lasts at most `timeout_s` times the requests of one slot; after failures in a row it is given up.
    """
    options = {name: value for name, value in locals().items() if name not in ("landing", "report")}
    asked = target(url, model, api=api, timeout_s=timeout_s, api_key_env=api_key_env, extra_body=extra_body)
    levels = _levels(concurrency, num_requests, warmup, output_tokens)
    _check_objectives(slo_ttft_s=slo_ttft_s, slo_tpot_s=slo_tpot_s)
    if prompt is not None and input_tokens is not None:
        raise ValueError("Give --prompt or --input-tokens, not both: the length of a given prompt is what it is.")
    wanted = DEFAULT_INPUT_TOKENS if prompt is None and input_tokens is None else input_tokens
    _check_counts(**({} if wanted is None else {"input_tokens": wanted}), num_devices=num_devices)
    environment = _machine.environment()
    described = {
        "collector": "endpoint",
        "source_kind": "measured",
        "source_id": SOURCE_ID,
        "quality_tier": 2,
        "is_excluded": False,
        "task": "generation",
        "served_model_name": model,
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
    rows = [_run_row(described | configuration, level, asked.hide(_command(options, level))) for level in levels]
    parquet.check("runs", [row | {"status": "ok"} for row in rows])  # off the contract: say so before anything is sent
    paths = parquet.land(
        landing, f"endpoint-{uuid.uuid4().hex[:16]}", {"sources": [_source()], "environments": [environment]}
    )
    prompts, remark = _prompts(asked, prompt, wanted, unique_prefix)
    if remark is not None:
        report(remark)
    num_failed = 0
    for planned, level in zip(rows, levels, strict=True):
        report(f"concurrency {level.concurrency}: {level.num_warmup} warm-up and {level.num_requests} requests")
        collected_at = datetime.datetime.now(datetime.UTC)
        outcome = _run(_load.run(asked, level, prompts))
        detail = " ".join(_rows.remarks(outcome, level) + ([] if remark is None else [remark]))
        columns = _rows.run_columns(outcome.measured, slo_ttft_s, slo_tpot_s)
        row = {**planned, "collected_at": collected_at, "status_detail": detail, **columns}
        requests = _rows.request_rows(row["run_id"], outcome, level)
        paths += parquet.land(landing, row["run_id"], {"runs": [row], "requests": requests})
        num_failed += row["status"] != "ok"
        report(_summary(row, outcome))
    return Collected(len(rows), tuple(paths), num_failed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `collect`, spelled with dashes."""
    add = parser.add_argument
    add("--url", required=True, help="address of the server, e.g. http://127.0.0.1:8000/v1")
    add("--model", required=True, help="name under which the server serves the model")
    add("--api", default="chat", choices=list(APIS))
    add("--prompt", help="prompt text; without it, words to the length of --input-tokens")
    add("--input-tokens", type=int, help=f"prompt tokens, template included ({DEFAULT_INPUT_TOKENS})")
    add("--output-tokens", type=int, default=64, help="max_tokens of each request")
    add("--concurrency", type=int, nargs="+", default=[1, 2, 4], help="requests in flight, one run for each")
    add("--num-requests", type=int, help=f"measured requests a level ({MIN_REQUESTS}, or 10 x concurrency)")
    add("--warmup", type=int, help="warm-up requests a level (2 x concurrency)")
    add("--unique-prefix", action=argparse.BooleanOptionalAction, default=True, help="begin every prompt differently")
    add("--timeout-s", type=float, default=60.0, help="deadline of a request, seconds")
    add("--slo-ttft-s", type=float, help="TTFT objective of goodput, seconds")
    add("--slo-tpot-s", type=float, help="TPOT objective of goodput, seconds")
    add("--extra-body", type=_json_object, help="JSON object merged into each request; null removes a field")
    add("--api-key-env", default="OPENAI_API_KEY", help="environment variable that holds the key")
    add("--llm-id", help="LLM served, an id of the catalogue")
    add("--hardware-id", help="device the server runs on, an id of the catalogue")
    add("--num-devices", type=int, default=1, help="devices the server runs on")
    add("--tensor-parallel", type=int)
    add("--pipeline-parallel", type=int)
    for name in ("--weight-dtype", "--activation-dtype", "--kv-dtype"):
        add(name, choices=list(schema.DTYPE_BYTES))
    add("--attention", choices=schema.ATTENTIONS)
    add("--optimizations", nargs="*", default=[], help="flash quantized ...")
    add("--execution", choices=schema.EXECUTIONS)
    add("--framework", help="vllm, transformers, ...")
    add("--framework-version")


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end; in a thread of its own where a loop already runs (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _prompts(
    asked: Target, prompt: str | None, input_tokens: int | None, is_unique: bool
) -> tuple[_load.Prompts, str | None]:
    if input_tokens is None:
        return _load.Prompts(prompt, 0, is_unique), None
    return _run(_load.sized(asked, input_tokens, is_unique))


def _levels(
    concurrency: int | Sequence[int], num_requests: int | None, warmup: int | None, output_tokens: int
) -> list[_load.Level]:
    levels = [concurrency] if isinstance(concurrency, int) else list(concurrency)
    if not levels:
        raise ValueError("No concurrency is given, so nothing would be sent. Give one or more with --concurrency.")
    _check_counts(output_tokens=output_tokens, **({} if num_requests is None else {"num_requests": num_requests}))
    for level in levels:
        _check_counts(concurrency=level)
    if warmup is not None and (not isinstance(warmup, int) or warmup < 0):
        raise ValueError(f"'{warmup}' warm-up requests cannot be sent. Give 0 or more with --warmup.")
    return [
        _load.Level(
            level,
            max(MIN_REQUESTS, 10 * level) if num_requests is None else num_requests,
            2 * level if warmup is None else warmup,
            output_tokens,
        )
        for level in levels
    ]


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            option = name.replace("_", "-")
            raise ValueError(f"{name} is {count!r}; it must be a whole number of 1 or more. Set it with --{option}.")


def _check_objectives(**objectives: float | None) -> None:
    for name, value in objectives.items():
        if value is not None and not value > 0:
            option = name.replace("_", "-")
            raise ValueError(f"{name} is {value!r}; an objective must be above 0 s. Set it with --{option}.")


def _run_row(row: Mapping[str, Any], level: _load.Level, command: str) -> dict[str, Any]:
    named = {**row, "concurrency": level.concurrency}
    return {
        **named,
        "run_id": f"endpoint-{uuid.uuid4().hex[:16]}",
        "config_id": schema.config_id(named),
        "collected_at": datetime.datetime.now(datetime.UTC),
        "command": command,
    }


def _command(options: Mapping[str, Any], level: _load.Level) -> str:
    """The command that repeats one level: the options that differ from their defaults. The key is none of them."""
    words = ["python", "-m", "collectors", "endpoint"]
    parameters = inspect.signature(collect).parameters
    for name, value in {**options, "concurrency": level.concurrency}.items():
        option = name.replace("_", "-")
        if value in (parameters[name].default, []):
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, Mapping):
            words.append(f"--{option}={json.dumps(dict(value))}")
        elif isinstance(value, str):
            words.append(f"--{option}={value}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, Sequence) else [value])]
    return shlex.join(words)


def _source() -> dict[str, Any]:
    return {
        "source_id": SOURCE_ID,
        "title": "Load test of an OpenAI-compatible endpoint",
        "kind": "endpoint",
        "locator": "closed loop, streaming; latencies from the actual send, on the client's monotonic clock",
        "note": "N is the server's usage count, else counted chunks (token_count_source). Percentiles are over requests "
        "and need 20 / (1 - p) of them. The server's model, device and dtypes are as the person who ran it told.",
    }


def _summary(row: Mapping[str, Any], outcome: _load.Outcome) -> str:
    done = [reply for reply in outcome.measured if reply.status == "ok"]
    line = f"concurrency {row['concurrency']}: {len(done)} of {len(outcome.measured)} requests ok"
    if not done:
        return f"{line}; {outcome.measured[0].status_detail}"
    for name, label in (("ttft_s", "TTFT "), ("tpot_s", "TPOT "), ("output_tokens_per_s", "output ")):
        shown, value = metrics.metric(name), row.get(name)
        line += "" if value is None else f", {label}{value * shown.display_factor:.4g} {shown.display_unit}"
    return line


def _json_object(text: str) -> dict[str, Any]:
    """A JSON object given on the command line."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object, such as '{{\"temperature\": 0}}'")
    return value
