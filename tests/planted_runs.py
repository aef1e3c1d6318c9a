"""Rows of query `training_runs` whose law is known, so that what is learnt of them can be checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from warehouse import schema

DEVICES = {"cpu-a": (1e11, 2e10), "gpu-b": (1e14, 1e12)}
"""Device -> peak FLOP/s, bytes/s."""


def planted(
    num_llms: int = 6,
    *,
    noise: float = 0.03,
    devices: tuple[str, ...] = ("cpu-a",),
    batches: tuple[int, ...] = (1, 4, 16),
    lengths: tuple[int, ...] = (64, 256, 1024),
    seed: int = 0,
) -> pa.Table:
    """Prefills and decode steps: 0.2 ms a layer, products at 20 to 80 % of the peak depending on their rows, 70 % of the bandwidth."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for index in range(num_llms):
        layers, width = int(random.choice([6, 12, 24, 32])), int(random.choice([512, 768, 1024, 2048]))
        parameters = 12 * layers * width**2 + 32000 * width
        for device in devices:
            for phase in ("prefill", "decode"):
                for batch in batches:
                    for length in lengths:
                        new = batch * (length if phase == "prefill" else 1)
                        flops = 2.0 * parameters * new + 4.0 * new * length * width * layers
                        activations = 136.0 * new * width * layers
                        cache = 8.0 * layers * width * batch * length
                        traffic = 4.0 * parameters + activations + cache
                        compute_s, memory_s = flops / DEVICES[device][0], traffic / DEVICES[device][1]
                        latency_s = 2e-4 * layers + compute_s / (0.2 + 0.6 * new / (new + 30)) + memory_s / 0.7
                        is_prefill = phase == "prefill"
                        config = {
                            "llm_id": f"llm-{index}", "hardware_id": device, "num_devices": 1, "phase": phase, "batch_size": batch,
                            "input_tokens": length if is_prefill else None, "output_tokens": None,
                            "context_tokens": None if is_prefill else length,
                            "weight_dtype": "fp32", "activation_dtype": "fp32", "kv_dtype": "fp32",
                        }  # fmt: skip
                        rows.append(config | {
                            "run_id": f"run-{len(rows):04d}", "config_id": schema.config_id(config), "source_id": "test",
                            "execution": "eager", "framework": "transformers", "other_load_ratio": 0.02, "task": "generation",
                            "measured_latency_s": latency_s * float(np.exp(noise * random.standard_normal())),
                            "flops": flops, "bytes_moved": traffic, "activation_bytes_read": activations / 2,
                            "activation_bytes_written": activations / 2, "weight_bytes_read": 4.0 * parameters,
                            "kv_bytes_read": 0.0 if is_prefill else cache, "kv_bytes_written": cache if is_prefill else cache / length,
                            "weights_bytes": 4.0 * parameters, "kv_cache_bytes": cache, "compute_s": compute_s, "memory_s": memory_s,
                            "roofline_s": max(compute_s, memory_s), "estimate_s": compute_s / 0.6 + memory_s / 0.8,
                            "architecture": "decoder", "family": f"family-{index % 3}", "num_parameters": parameters,
                            "num_layers": layers, "num_encoder_layers": None, "hidden_size": width, "vocab_size": 32000,
                        })  # fmt: skip
    return pa.Table.from_pylist(rows)


def changed(rows: pa.Table, **values: Any) -> pa.Table:
    """Rows with columns replaced by one value, or by a list of values."""
    for name, value in values.items():
        column = value if isinstance(value, list) else [value] * rows.num_rows
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(column, rows.schema.field(name).type))
    return rows
