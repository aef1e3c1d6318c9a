"""Configurations a second of the analytical engine, beside the same arithmetic in a plain loop and beside its peer.

One configuration is a prefill and a decode of Llama-2-7B (batch 1 to 256, length 1 to 4096, three devices), as LLM-Viewer
evaluates one. The loop is this file's own: LLM-Viewer's rules (no fused attention) on Python numbers, one configuration after
another, giving the same totals; it is the like-for-like on this machine. The published figure is LLM-Viewer itself, which
also makes op rows, on 2 cores of another machine. CPU time, median of the repeats, warm, imports excluded.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa

from models.analytical import evaluate, llmviewer
from warehouse import catalog

PUBLISHED_CONFIGS_PER_S = 13_701  # LLM-Viewer 472f71f, Llama-2-7B, 1,000 configurations, CPU time
DEVICES = ("a100-sxm-80gb", "h100-sxm", "a6000")
PEER = "llmviewer-472f71f"


def sweep(num_configs: int) -> pa.Table:
    """A prefill and a decode for every configuration, in this order; 2 x num_configs rows."""
    random = np.random.default_rng(0)
    batch, length = (np.repeat(random.integers(1, most + 1, num_configs), 2) for most in (256, 4096))
    device = np.repeat(np.array(DEVICES)[random.integers(0, len(DEVICES), num_configs)], 2)
    is_decode = np.tile([False, True], num_configs)
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
            "attention": pa.repeat("eager", size),
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
    """Median CPU time of a call, after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    small = sweep(2_000)
    totals, _ = evaluate(small, PEER, with_ops=False)
    ours = np.array([totals[name].to_numpy() for name in ("flops", "bytes_moved", "roofline_s")]).T
    np.testing.assert_allclose(ours, loop(small), rtol=1e-12)
    looped = 2_000 / cpu_seconds(lambda: loop(small), options.repeats)
    print(f"{'configurations':>14} {'ruleset':<18} {'answer':<15} {'configs/s':>10} {'x loop':>7} {'x published':>12}")
    print(
        f"{2_000:>14,} {'plain loop':<18} {'totals':<15} {looped:>10,.0f} {1:>7.1f} {looped / PUBLISHED_CONFIGS_PER_S:>12.1f}"
    )
    for num_configs in options.configs:
        configs = sweep(num_configs)
        for ruleset in (PEER, "default"):
            for with_ops in (False, True):
                run = partial(evaluate, configs, ruleset, with_ops=with_ops)
                seconds = cpu_seconds(run, options.repeats if num_configs < 100_000 else 1)
                speed = num_configs / seconds
                answer = "totals and ops" if with_ops else "totals"
                ratios = f"{speed / looped:>7.1f} {speed / PUBLISHED_CONFIGS_PER_S:>12.1f}"
                print(f"{num_configs:>14,} {ruleset:<18} {answer:<15} {speed:>10,.0f} {ratios}")


if __name__ == "__main__":
    main()
