"""Rows as the measuring collectors land them, with round numbers: ceilings, microbenchmarks, kernels, telemetry, ranks, training, a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sample_rows import WHEN, op, run

from warehouse.parquet import land
from warehouse.store import Home, open_store

A100 = "a100-sxm-80gb"
PEAK, BANDWIDTH = 200e12, 1.6e12
"""Measured ceilings: bf16 FLOP/s and bytes/s."""
TRACE = "lp-eager.json.gz"


def build(home: Path) -> Path:
    """Land and load the lake; returns its home folder."""
    place = Home.of(home)
    place.prepare()
    for name, batch in batches().items():
        land(place.landing, name, batch)
    place.traces.mkdir(exist_ok=True)
    (place.traces / TRACE).write_bytes(b"a trace")
    (place.traces / "nobodys.json").write_bytes(b"no run names this")
    with open_store(place) as store:
        store.load()
    return home


def batches() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Batch name -> table -> rows."""
    return {
        "bench": {"runs": microbench(), "hardware": ceilings()},
        "profile": {"runs": profiled(), "ops": ops(), "samples": samples(), "telemetry": telemetry()},
        "training": {"runs": training(), "ops": training_ops()},
        "parallel": {"runs": parallel(), "ranks": ranks()},
        "grid": {"runs": grid()},
    }


def ceilings() -> list[dict[str, Any]]:
    return [
        {
            "hardware_id": f"{A100}-measured",
            "name": "NVIDIA A100 SXM4 80 GB, as measured",
            "kind": "measured",
            "measured_of": A100,
            "peak_bf16_flops_per_s": PEAK,
            "memory_bandwidth_bytes_per_s": BANDWIDTH,
            "link_bandwidth_bytes_per_s": 200e9,
            "host_link_bandwidth_bytes_per_s": 20e9,
            "source": "microbench",
            "source_date": "2026-01-01",
        }
    ]


def bench(run_id: str, kernel: str, latency_s: float | None, **values: Any) -> dict[str, Any]:
    """A microbenchmark of one shape on an A100 in bf16."""
    shape = dict.fromkeys(
        ("llm_id", "batch_size", "input_tokens", "context_tokens", "weight_dtype", "kv_dtype", "attention")
    )
    return run(run_id, **{"collector": "microbench", "source_id": "rooflake/microbench", "hardware_id": A100, "phase": "microbench", **shape,
                          "activation_dtype": "bf16", "kernel": kernel, "latency_s": latency_s, **values})  # fmt: skip


def gemm(run_id: str, m: int, latency_s: float, **values: Any) -> dict[str, Any]:
    """N = K = 4096: 2 x 4096 x 4096 x M FLOPs, three matrices of 2 bytes an element."""
    flops, elements = 2.0 * m * 4096 * 4096, m * 4096 + 4096 * 4096 + m * 4096
    return bench(run_id, "gemm", latency_s, m=m, n=4096, k=4096, flops=flops, bytes_moved=2.0 * elements, achieved_flops_per_s=flops / latency_s, **values)  # fmt: skip


def microbench() -> list[dict[str, Any]]:
    aligned = {m: 2.0 * m * 4096 * 4096 / rate for m, rate in ((1024, 100e12), (4096, 160e12), (8192, 200e12))}
    copies = {2**size: 2.0 * 2**size / rate for size, rate in ((16, 0.1e12), (22, 0.8e12), (30, 1.6e12))}
    hosts = [("memcpy_h2d", "pinned", 20e9), ("memcpy_h2d", "pageable", 8e9), ("memcpy_d2h", "pinned", 18e9)]
    reduced = {2**size: 2.0**size / rate for size, rate in ((16, 4e9), (22, 60e9), (28, 200e9))}
    return [
        *(gemm(f"gemm-{m}", m, latency, cache_state="cold") for m, latency in aligned.items()),
        gemm("gemm-odd", 4109, 2.0 * 4109 * 4096 * 4096 / 80e12, cache_state="cold"),
        gemm("gemm-warm", 4096, 2.0 * 4096 * 4096 * 4096 / 190e12, cache_state="warm"),
        gemm("gemm-beats", 2048, 2.0 * 2048 * 4096 * 4096 / 250e12, cache_state="cold"),
        gemm("gemm-fault", 512, 2.0 * 512 * 4096 * 4096 / 624e12, cache_state="cold"),
        *(
            bench(f"copy-{size}", "memcpy", latency, size_bytes=size, bytes_moved=2.0 * size, achieved_bytes_per_s=2.0 * size / latency, cache_state="cold")
            for size, latency in copies.items()
        ),
        *(
            bench(f"{kernel}-{memory}-{size}", kernel, size / rate, size_bytes=size, host_memory=memory, achieved_bytes_per_s=rate)
            for kernel, memory, rate in hosts
            for size in (2**20, 2**28)
        ),
        *(
            bench(f"reduce-{size}", "all_reduce", latency, size_bytes=size, num_devices=2, interconnect="nvlink", bus_bytes_per_s=size / latency)
            for size, latency in reduced.items()
        ),
        bench("norm", "norm", 1e-4, m=4096, n=4096, bytes_moved=0.8e12 * 1e-4, flops=1e6, cache_state="cold"),
        bench("prefill", "attention", 1e-3, batch_size=1, num_heads=32, num_kv_heads=8, head_dim=128, input_tokens=2048, flops=100e9, bytes_moved=1e8),
        bench("too-large", "memcpy", None, size_bytes=2**40, status="oom", status_detail="2 TiB of 80 GiB"),
    ]  # fmt: skip


def decode(run_id: str, **values: Any) -> dict[str, Any]:
    """A decode step of Llama-2-7B at batch 4 on the A100: 13.6 GB of weights and cache."""
    return run(run_id, **{"hardware_id": A100, "batch_size": 4, "weight_dtype": "bf16", "activation_dtype": "bf16", "kv_dtype": "bf16", "attention": "sdpa",
                          "weight_bytes_read": 13.2e9, "kv_bytes_read": 0.4e9, "flops": 54e9, "bytes_moved": 13.6e9, **values})  # fmt: skip


def profiled() -> list[dict[str, Any]]:
    """One configuration executed eagerly and as a graph, and one that ran out of memory."""
    return [
        decode(
            "lp-eager", execution="eager", cache_implementation="dynamic", latency_s=0.040, device_time_s=0.039, kernel_time_s=0.010, cpu_time_s=0.040,
            ops_time_s=0.036, is_host_bound=True, mfu=0.0043, mbu=0.17, output_tokens_per_s=100.0, memory_peak_bytes=14.0 * 2**30,
            memory_reserved_bytes=16.0 * 2**30, memory_process_bytes=16.5 * 2**30, memory_device_bytes=17.0 * 2**30, energy_j=6.0,
            energy_per_output_token_j=1.5, power_avg_w=150.0, energy_window_s=6.0, trace=TRACE, profiler_overhead_ratio=1.5, throttled_ratio=0.25,
            metric_definitions={"latency_s": "wall_clock", "energy_j": "nvml_total_energy", "memory_peak_bytes": "torch_max_allocated"},
        ),
        decode(
            "lp-graph", execution="graph", cache_implementation="static", latency_s=0.010, device_time_s=0.010, kernel_time_s=0.0096, is_host_bound=False,
            mbu=0.68, output_tokens_per_s=400.0, status_detail="energy: the counter moved only 12 times in the window",
        ),
        decode("lp-oom", batch_size=512, latency_s=None, status="oom", status_detail="needed 200 GiB"),
        decode("lp-64", batch_size=64, latency_s=0.020, output_tokens_per_s=3200.0),
    ]  # fmt: skip


def ops() -> list[dict[str, Any]]:
    """Modules of 10 ms, and below q_proj kernels of another pass."""
    layer, eager = "model.layers.0", "lp-eager"
    memory = {"num_parameters": 1_000_000, "parameter_bytes": 2e6, "activation_bytes": 1e6}
    kernel = {"level": "kernel", "parent_path": f"{layer}.q_proj", "op_kind": "gemm", "time_s": None}
    return [
        op(eager, 0, path="model", op_kind="model", time_s=0.010),
        op(eager, 1, path=f"{layer}.q_proj", parent_path="model", time_s=0.006, memory_peak_bytes=3e6, **memory),
        op(eager, 2, path="lm_head", parent_path="model", op_kind="lm_head", level="module", time_s=0.004, memory_peak_bytes=8e6, **memory),
        op(eager, 3, path=f"{layer}.q_proj/ampere_gemm_128x64", device_time_s=0.003, count=2, shapes="[4, 4096], [4096, 4096]", flops=6e9, **kernel),
        op(eager, 4, path=f"{layer}.q_proj/splitk_reduce", device_time_s=0.002, **kernel),
    ]  # fmt: skip


def samples() -> list[dict[str, Any]]:
    """Twelve repeats: two of warm-up, one outlier, two throttled."""
    flags: dict[int, list[str]] = {4: ["outlier"], 5: ["throttled"], 6: ["throttled", "outlier"]}
    return [
        {"run_id": "lp-eager", "metric": "latency_s", "unit": "s", "sample_index": index, "sample_phase": "warmup" if index < 2 else "measured",
         "value": 0.040 + 0.001 * index, "flags": flags.get(index)}
        for index in range(12)
    ]  # fmt: skip


def telemetry() -> list[dict[str, Any]]:
    """Eight readings in 0.7 s, two of them throttled, and the host."""
    device = [
        {"run_id": "lp-eager", "device_index": 0, "at_s": index / 10, "power_w": 100.0 + 10 * index, "sm_clock_hz": 1.41e9, "temperature_c": 50.0 + index,
         "utilization": 0.5, "memory_used_bytes": 14e9, "throttle_reasons": ["sw_power_cap"] if index in (3, 4) else []}
        for index in range(8)
    ]  # fmt: skip
    return [*device, {"run_id": "lp-eager", "device_index": -1, "at_s": 0.0, "memory_used_bytes": 2e9}]


def training() -> list[dict[str, Any]]:
    """One pre-training step with and without recomputation, and the first on two devices: 1.8 times as fast."""
    step = {"collector": "training_step", "source_id": "rooflake/training_step", "hardware_id": A100, "phase": "pretrain_step", "batch_size": 2,
            "input_tokens": 350, "context_tokens": None, "kv_dtype": None, "weight_dtype": "bf16", "activation_dtype": "bf16"}  # fmt: skip
    parts = {"latency_s": 0.5, "forward_s": 0.1, "backward_s": 0.25, "optimizer_s": 0.1}
    return [
        run("step", **step, **parts, ops_time_s=0.45, total_tokens_per_s=1400.0),
        run("step-2", **step, num_devices=2, data_parallel=2, latency_s=0.55, total_tokens_per_s=2520.0),
        run("step-r", **step, **{**parts, "latency_s": 0.6, "backward_s": 0.35}, optimizations=["recompute"], total_tokens_per_s=1167.0),
        run("step-oom", **{**step, "batch_size": 64}, latency_s=None, status="oom", status_detail="needed 90 GiB"),
    ]  # fmt: skip


def training_ops() -> list[dict[str, Any]]:
    return [
        op("step", 0, path="model.mlp", op_kind="mlp", phase="forward", time_s=0.06),
        op("step", 1, path="model.attention", op_kind="attention", phase="forward", time_s=0.04),
        op("step", 2, path="model.mlp", op_kind="mlp", phase="backward", time_s=0.25),
        op("step", 3, path="optimizer", op_kind="optimizer", phase="optimizer", time_s=0.10),
    ]


def parallel() -> list[dict[str, Any]]:
    """100 tokens/s on one device; on two 170 with tensor parallelism and 90 with the layers split."""
    same = {
        "collector": "parallel_inference",
        "source_id": "rooflake/parallel_inference",
        "hardware_id": A100,
        "batch_size": 4,
        "latency_s": 0.04,
    }
    return [
        run("one", **same, output_tokens_per_s=100.0),
        run("tp", **same, num_devices=2, tensor_parallel=2, output_tokens_per_s=170.0),
        run("split", **same, num_devices=2, pipeline_parallel=2, output_tokens_per_s=90.0),
    ]


def ranks() -> list[dict[str, Any]]:
    row = {"run_id": "tp", "latency_s": 0.02, "memory_peak_bytes": 7e9}
    return [
        {**row, "rank": 0, "device_index": 0, "compute_s": 0.015, "communication_s": 0.005},
        {**row, "rank": 1, "device_index": 1, "compute_s": 0.005, "communication_s": 0.015},
    ]


def grid() -> list[dict[str, Any]]:
    """Two LLMs by two tasks by two batch sizes, one cell of each outcome."""
    outcomes = {("opt-350m", "translation", 32): "oom", ("t5-small", "summarization", 32): "timeout"}
    rows = []
    for llm in ("opt-350m", "t5-small"):
        for task in ("summarization", "translation"):
            for batch in (1, 32):
                status = outcomes.get((llm, task, batch), "ok")
                rows.append(run(f"grid-{llm}-{task}-{batch}", llm_id=llm, task=task, batch_size=batch, phase="forward", input_tokens=512, context_tokens=None,
                                status=status, latency_s=0.1 if status == "ok" else None, collected_at=WHEN))  # fmt: skip
    return rows
