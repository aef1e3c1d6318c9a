"""What measuring costs: timed pass, hooks and telemetry beside a bare loop of the same calls.

Blocks of calls alternate in the order A B, B A, A B ... in one process on one thread. A number is the quotient of two ways in their
shortest blocks: on a shared machine these are the undisturbed ones, and the quotient of medians, printed beside, tells how
disturbed it was. Only quotients are worth quoting.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from collectors import _modules, _telemetry, _timing

INTERVAL_S = 0.05
READINGS_S = 2.0


@dataclass
class Block:
    """Seconds of one call in one block: as the way says, by a clock around the block, of the processor."""

    latency_s: float
    elapsed_s: float
    cpu_s: float


@dataclass
class Way:
    """One way of making the calls; `block` returns the latency it says, None for its share of the elapsed time."""

    name: str
    block: Callable[[int], float | None]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    blocks: list[Block] = field(default_factory=list)

    def run(self, count: int) -> None:
        with self.around():
            cpu, wall = time.process_time(), time.perf_counter()
            latency = self.block(count)
            wall, cpu = (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count
        self.blocks.append(Block(wall if latency is None else latency, wall, cpu))

    def values(self, name: str) -> list[float]:
        return [float(getattr(block, name)) for block in self.blocks]


LEAVES_TURNS = 6


def bare(call: Callable[[], Any]) -> Way:
    def block(count: int) -> None:
        for _ in range(count):
            call()

    return Way("bare loop", block)


def timed(call: Callable[[], Any]) -> Way:
    def block(count: int) -> float:
        timing = _timing.measure(
            call, warmup=_timing.Warmup(0, 0.0, 0.0), min_repeats=count, max_repeats=count, precision=0.0
        )
        return statistics.fmean(one.wall_s for one in timing.measured)

    return Way("timed pass", block)


def hooked(call: Callable[[], Any], model: torch.nn.Module) -> Way:
    timer = _modules.ModuleTimer(model, "cpu")
    return Way("hooks on every module", bare(call).block, lambda: timer)


def watched(call: Callable[[], Any]) -> Way:
    return Way(
        "timed pass with telemetry", timed(call).block, lambda: _telemetry.Telemetry("cpu", interval_s=INTERVAL_S)
    )


def compare(ways: Sequence[Way], block_s: float, total_s: float) -> None:
    """Print every way beside the first."""
    first, order = ways[0], list(ways)
    first.run(20)
    count = max(1, round(block_s / min(first.values("elapsed_s"))))
    for way in order:
        way.run(count)
        way.blocks.clear()  # warmed up
    end = time.perf_counter() + total_s
    while time.perf_counter() < end:
        for way in order:
            way.run(count)
        order.reverse()
    for way in ways[1:]:
        print(f"{way.name:26}{first.name:12}{count:6} x{len(way.blocks):5}", end="")
        for name in ("latency_s", "elapsed_s", "cpu_s"):
            print(f"{min(way.values(name)) / min(first.values(name)):10.4f}", end="")
        print(f"{statistics.median(way.values('latency_s')) / statistics.median(first.values('latency_s')):16.4f}")


def reading_cost() -> None:
    """Print the processor time of one reading: of a telemetry that does little else, beside a thread that sleeps."""
    cpu = time.process_time()
    with _telemetry.Telemetry("cpu", interval_s=0.001) as telemetry:
        time.sleep(READINGS_S)
    each = (time.process_time() - cpu) / len(telemetry.rows(""))
    print(f"a reading of the host: {each * 1e6:.0f} us of processor time, at 20 Hz {each * 20:.2%} of a core")


def leaves(llm_id: str, tokens: int) -> None:
    """Print what the leaves of an LLM's module tree add up to beside the pass without hooks, in turns, shortest of each."""
    from collectors import _modules, _steps
    from collectors import _transformers as engine

    model = engine.build(engine.catalogued(llm_id), "fp32", None, "cpu")
    step = _steps.make_step(model, _steps.Case("forward", "generation", 1, tokens, 64, None), "cpu")
    whole, parts = [], []
    for _ in range(LEAVES_TURNS + 1):
        began = time.perf_counter()
        step.call()
        whole.append(time.perf_counter() - began)
        timer = _modules.ModuleTimer(model, "cpu")
        with timer:
            step.call()
        parts.append(_modules.leaves_s(timer.rows("", "forward")))
    ratio = min(parts[1:]) / min(whole[1:])
    print(f"{llm_id}, forward of {tokens} tokens: leaves / pass without hooks {ratio:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="for each comparison")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    layer = torch.nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, norm_first=True).eval()
    inputs = {
        "layer of width 256, 16 tokens": torch.randn(1, 16, 256),
        "the same, 256 tokens": torch.randn(1, 256, 256),
    }
    with torch.inference_mode():
        for title, tensor in inputs.items():

            def call(tensor: torch.Tensor = tensor) -> Any:
                return layer(tensor)

            one = bare(call)
            one.run(50)
            print(f"\n{title}, {min(one.values('elapsed_s')) * 1e6:.0f} us a call")
            print(f"{'':26}{'beside':12}{'calls x blocks':>13}{'latency':>11}{'elapsed':>10}{'CPU time':>10}{'median latency':>16}")  # fmt: skip
            compare([bare(call), timed(call), hooked(call, layer)], 0.005, seconds)
            compare([timed(call), watched(call)], 4 * INTERVAL_S, seconds)
        print()
        for llm_id in ("gpt2", "t5-small"):
            leaves(llm_id, 512)
    reading_cost()
    print(
        "latency: what a way says of one call (the timed pass its mean, a loop its time over its calls);\n"
        "elapsed, CPU time: of the block, with what the way does between calls and in other threads"
    )


if __name__ == "__main__":
    main()
