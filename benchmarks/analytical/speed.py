"""Speed of the analytical engine and of its sweeps to Parquet, beside a plain loop and beside peers on this machine.

One configuration is a prefill and a decode of Llama-2-7B (batch 1 to 256, length 1 to 4096, three devices). In memory: CPU
time of `evaluate`, one process, warm, imports excluded, best of the repeats. Our own loop is LLM-Viewer's rules (no fused
attention) on Python numbers, one configuration after another, giving the same totals. To Parquet: `python -m collectors
roofline` as anyone runs it, from start to exit, on all cores; beside it pyarrow writing one of its files as it comes.
Published figures are of another machine; `--aiconfigurator-python` (an interpreter that has aiconfigurator) adds what that
peer does on this one: its compiled engine bare, which returns two numbers, and its session, which also answers per op.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from models.analytical import evaluate, llmviewer
from warehouse import catalog

PUBLISHED = {
    "LLM-Viewer 472f71f": 13_701,
    "aiconfigurator 0.12.0, session, SILICON": 14_393,
    "aiconfigurator 0.12.0, session, SOL": 20_749,
}
"""Configurations a second of one core of another, busy machine: CPU time, Llama-2-7B, per-op values included."""
TARGET_CONFIGS_PER_S, TARGET_SECONDS, TARGET_OP_ROWS_PER_S, TARGET_BYTES = 500_000, 10.0, 3_000_000, 2 * 2**30
FLAT_FROM = 10_000
DEVICES = ("a100-sxm-80gb", "h100-sxm", "a6000")
PEER = "llmviewer-472f71f"


# In memory


def sweep(num_configs: int, attention: str = "eager") -> pa.Table:
    """A grid of devices, lengths and batches in the order that a sweep makes it: every prefill, then every decode."""
    index = np.arange(num_configs)
    batch, length = np.tile(index % 64 + 1, 2), np.tile(index // 64 % 2_000 * 2 + 1, 2)
    device = np.tile(np.array(DEVICES)[index * len(DEVICES) // num_configs], 2)
    is_decode = np.repeat([False, True], num_configs)
    size = 2 * num_configs
    return pa.table(
        {
            "llm_id": pa.repeat("llama-2-7b", size),
            "hardware_id": pa.array(device),
            "phase": pa.array(np.where(is_decode, "decode", "prefill")),
            "batch_size": batch,
            "input_tokens": pa.array(length, mask=is_decode),
            "context_tokens": pa.array(length, mask=~is_decode),
            **{name: pa.repeat("fp16", size) for name in ("weight_dtype", "activation_dtype", "kv_dtype")},
            "attention": pa.repeat(attention, size),
        }
    )


def loop(configs: pa.Table) -> list[tuple[float, float, float]]:
    """FLOPs, bytes and seconds of every row by LLM-Viewer's rules, one row after another."""
    llm = catalog.find_llm("llama-2-7b")
    hidden, heads, ffn, layers = llm.hidden_size, llm.num_heads, llm.intermediate_size, llm.num_layers
    width = hidden // heads
    facts = {name: llmviewer.device(name) or {} for name in DEVICES}
    results = []
    for row in configs.to_pylist():
        device = facts[row["hardware_id"]]
        bandwidth, peak = device["memory_bandwidth_bytes_per_s"], device["peak_fp16_flops_per_s"]
        batch, is_decode = row["batch_size"], row["phase"] == "decode"
        keys = row["context_tokens"] if is_decode else row["input_tokens"]
        queries = 1 if is_decode else keys
        tokens, scores = batch * queries, batch * heads * queries * keys
        ops = [
            (2 * tokens * a * b, 2 * (a * b + tokens * a + tokens * b))
            for a, b in (*[(hidden, hidden)] * 4, *[(hidden, ffn)] * 2, (ffn, hidden))
        ]
        product = (2 * scores * width, 2 * (tokens * hidden + scores + batch * keys * hidden))
        ops += [product, product, (5 * scores, 4 * scores)]
        ops += [(times * tokens * hidden, 4 * tokens * hidden) for times in (7, 7, 1, 1)]
        ops.append((2 * tokens * hidden, 6 * tokens * hidden))
        head = (batch * hidden * llm.vocab_size, 2 * (hidden * llm.vocab_size + hidden + llm.vocab_size))
        flops, moved, seconds = 0.0, 0.0, 0.0
        for count, (work, size) in (*((layers, op) for op in ops), (1, head)):
            flops += count * work
            moved += count * size
            seconds += count * max(work / peak, size / bandwidth)
        results.append((flops, moved, seconds))
    return results


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """Least CPU time of a call, after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def in_memory(sizes: list[int], repeats: int) -> None:
    """Configurations a second by size and ruleset, beside the loop and the published figure of LLM-Viewer."""
    small = sweep(2_000)
    totals, _ = evaluate(small, PEER, with_ops=False)
    ours = np.array([totals[name].to_numpy() for name in ("flops", "bytes_moved", "roofline_s")]).T
    np.testing.assert_allclose(ours, loop(small), rtol=1e-12)
    looped = 2_000 / cpu_seconds(lambda: loop(small), repeats)
    line("configurations", "ruleset", "configs/s a core", "x loop", "x LLM-Viewer", "x AIC SOL")
    row(2_000, "plain Python loop", looped, looped)
    for ruleset, attention in (("default", "flash"), ("default", "eager"), (PEER, "eager")):
        speeds = {}
        for size in sizes:
            run = partial(evaluate, sweep(size, attention), ruleset, with_ops=False)
            speeds[size] = size / cpu_seconds(run, repeats if size < 1_000_000 else 2)
            row(size, f"{ruleset} {attention}", speeds[size], looped)
        large = [speed for size, speed in speeds.items() if size >= FLAT_FROM]
        if ruleset == "default" and large:
            verdict(
                f"totals of {ruleset}, {attention}, slowest from {FLAT_FROM:,}",
                min(large),
                TARGET_CONFIGS_PER_S,
                "configs/s a core",
            )
            print(f"  flatness from {FLAT_FROM:,} on: slowest is {min(large) / max(large):.2f} of the fastest")


def row(size: int, ruleset: str, speed: float, looped: float) -> None:
    viewer, _, sol = PUBLISHED.values()
    line(f"{size:,}", ruleset, f"{speed:,.0f}", *(f"{speed / other:.1f}" for other in (looped, viewer, sol)))


def line(*cells: str) -> None:
    widths = (14, 24, 17, 8, 13, 10)
    print(" ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


def verdict(what: str, value: float, target: float, unit: str, *, is_most: bool = False) -> None:
    is_met = value <= target if is_most else value >= target
    print(f"  {what}: {value:,.1f} {unit}; target {target:,.0f}: {'met' if is_met else 'MISSED'}")


# To Parquet


@dataclass(frozen=True)
class Landed:
    """One sweep, landed by a process of its own."""

    num_rows: dict[str, int]
    size_bytes: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    """Resident memory of the process and those it started, added up; shared pages count once for each."""
    write_s: dict[str, float]
    """CPU seconds that pyarrow takes for the same tables as they come, zstd, one core."""


def land(num_lengths: int, num_batches: int, with_ops: str, num_workers: int) -> Landed:
    """Sweep 2 phases x 2 devices x batches x lengths to Parquet."""
    command = [sys.executable, "-m", "collectors", "roofline", "--llm-id", "llama-2-7b", "--hardware-id", *DEVICES[:2]]
    lengths = [str(8 * number) for number in range(1, num_lengths + 1)]
    command += ["--batch-size", *map(str, range(1, num_batches + 1)), "--input-tokens", *lengths]
    command += ["--context-tokens", *lengths, "--with-ops", with_ops, "--num-workers", str(num_workers)]
    with tempfile.TemporaryDirectory() as folder:
        before, start = os.times(), time.perf_counter()
        process = subprocess.Popen(
            [*command, "--landing", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        peak = max(resident(process), default=0)
        if process.wait() != 0:
            raise RuntimeError(f"the sweep failed: {' '.join(command[:8])} ...")
        wall, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        rows, writing = {}, {}
        for table in ("runs", "ops"):
            files = sorted((Path(folder) / table).glob("*.parquet"))
            rows[table] = sum(pq.read_metadata(file).num_rows for file in files)
            if files:
                writing[table] = written(files[len(files) // 2]) * rows[table]
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
    return Landed(rows, size, wall, cpu, peak, writing)


def resident(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """Resident bytes of a process and its children, every 20 ms until it ends."""
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for one in (parent, *parent.children(recursive=True)):
                total += one.memory_info().rss
        except psutil.NoSuchProcess:
            pass
        yield total
        time.sleep(0.02)


def written(path: Path) -> float:
    """CPU seconds a row of pyarrow writing a file's table as it comes to memory, zstd."""
    table = pq.ParquetFile(path).read()
    seconds = cpu_seconds(lambda: pq.write_table(table, pa.BufferOutputStream(), compression="zstd"), 3)
    return seconds / table.num_rows


def to_parquet(num_lengths: int, num_ops_lengths: int, num_workers: int) -> None:
    """A sweep of totals and one with ops, by one process and by several."""
    peaks = []
    for with_ops, lengths, table in (("none", num_lengths, "runs"), ("all", num_ops_lengths, "ops")):
        for workers in sorted({1, num_workers}):
            done = land(lengths, 500, with_ops, workers)
            count, writing = done.num_rows[table], sum(done.write_s.values())
            print(
                f"{count:>12,} {table:<5} {workers} processes: {done.wall_s:6.2f} s wall, {done.cpu_s:6.2f} s CPU, "
                f"{count / done.wall_s / 1e6:.2f} M rows/s wall, {done.size_bytes / 1e6:.0f} MB, peak memory "
                f"{done.peak_bytes / 2**20:.0f} MiB; a plain pyarrow write alone {writing:.2f} s CPU: {done.cpu_s / writing:.1f} x"
            )
            peaks.append(done.peak_bytes)
        if table == "runs":
            verdict(f"{count:,} checked totals", done.wall_s, TARGET_SECONDS, "s", is_most=True)
        else:
            verdict("op rows", count / done.wall_s, TARGET_OP_ROWS_PER_S, "rows/s")
    verdict("peak memory", max(peaks) / 2**20, TARGET_BYTES / 2**20, "MiB", is_most=True)


# The peer, live

_AICONFIGURATOR = """
import json, logging, random, sys, time
logging.disable(logging.WARNING)
import aiconfigurator_core
from aiconfigurator.sdk.inference_session import InferenceSession
from aiconfigurator_core.sdk import engine, perf_database
from aiconfigurator_core.sdk.backends.factory import get_backend
from aiconfigurator_core.sdk.config import RuntimeConfig
from aiconfigurator_core.sdk.config_builders import build_model_config
from aiconfigurator_core.sdk.models import get_model

folder, speeds = sys.argv[1], {}
for mode in ("SILICON", "SOL"):
    database = perf_database.get_database_view("a100_sxm", "trtllm", "1.0.0", database_mode=mode)
    parts = build_model_config(tp_size=1, pp_size=1, attention_dp_size=1, moe_tp_size=1, moe_ep_size=1)
    model = get_model(folder, parts, "trtllm")
    spec = engine.build_engine_spec_json(
        model, model_path=folder, system="a100_sxm", backend="trtllm", backend_version="1.0.0",
        kv_block_size=None, systems_path=None, nextn=0, database=database,
    )
    bare = engine.EngineHandle(bytes(aiconfigurator_core.engine_spec_bincode_from_json(spec)))
    session = InferenceSession(model, database, get_backend("trtllm"))
    calls = {
        "bare engine, two numbers": lambda b, s: bare.run_static(batch_size=b, isl=s, osl=2),
        "session, with per-op values": lambda b, s: session.run_static(
            RuntimeConfig(batch_size=b, isl=s, osl=2), mode="static"
        ),
    }
    for name, call in calls.items():
        times = []
        for repeat in range(4):
            chance = random.Random(repeat)
            grid = [(chance.randint(1, 256), chance.randint(1, 4096)) for _ in range(1000)]
            start = time.process_time()
            for batch, length in grid:
                call(batch, length)
            times.append(time.process_time() - start)
        speeds[f"{mode}, {name}"] = 1000 / min(times[1:])
print(json.dumps(speeds))
"""


def aiconfigurator(python: str | None) -> None:
    """The peer on this machine, in this minute: configurations a second of one core, warm, unseen shapes."""
    if python is None and importlib.util.find_spec("aiconfigurator"):
        python = sys.executable
    if python is None:
        print(
            "aiconfigurator on this machine: not installed (--aiconfigurator-python names an interpreter that has it)"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        config = {"architectures": ["LlamaForCausalLM"], **catalog.find_llm("llama-2-7b").config}
        (Path(folder) / "config.json").write_text(json.dumps(config))
        done = subprocess.run(
            [python, "-c", _AICONFIGURATOR, folder], capture_output=True, text=True, timeout=300, check=False
        )
    if done.returncode != 0:
        print(f"aiconfigurator on this machine: failed: {done.stderr.strip().splitlines()[-1]}")
        return
    ours = 10_000 / cpu_seconds(partial(evaluate, sweep(10_000, "flash"), with_ops=False), 3)
    for name, speed in json.loads(done.stdout.splitlines()[-1]).items():
        print(f"aiconfigurator on this machine, {name}: {speed:,.0f} configs/s; ours is {ours / speed:.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lengths", type=int, default=500, help="lengths of the sweep of totals; 2,000 rows each")
    parser.add_argument("--ops-lengths", type=int, default=300, help="lengths of the sweep with ops")
    parser.add_argument("--workers", type=int, default=2, help="processes of a sweep")
    parser.add_argument("--aiconfigurator-python", metavar="PATH", help="interpreter of a virtual environment with it")
    options = parser.parse_args()
    for name, speed in PUBLISHED.items():
        print(f"published, another machine: {name}: {speed:,} configs/s")
    in_memory(options.configs, options.repeats)
    to_parquet(options.lengths, options.ops_lengths, options.workers)
    aiconfigurator(options.aiconfigurator_python)


if __name__ == "__main__":
    main()
