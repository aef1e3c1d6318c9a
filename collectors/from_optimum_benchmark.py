"""optimum-benchmark: the flat CSV of 2023 (a result, or a report of many) and the JSON reports since 2024.

Headers of the CSV hold their units and drifted: tok/s and tokens/s, iter/s and samples/s, `samles/s`. MB is 1e6 bytes. Peak memory
and max_memory_used are what the driver counts for the whole device, allocated and reserved what torch counts. A result is several runs:
`forward` one forward pass, `generate` a whole generation, `training` a training step; in JSON also `prefill`.

`decode` is a generation without its first token, so that (E2EL - TTFT) / (N - 1) follows from it. A throughput is kept as a column only
where it agrees with sequences, tokens and latency of the same result: the tool labels generated tokens `samples/s` in some
versions and rounds to three digits. `per_token` of a report holds the times of earlier repeats again and again, so that it is a sample.

Weights are random where `no_weights` is true. A list of devices holds every one of the machine, display adapters too: it says what the
devices were, not how many were used. `gpu_vram_mb` holds bytes.
"""

from __future__ import annotations

import ast
import csv
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from collectors import _importing
from collectors._figures import Figures, number, positive, whole
from collectors._importing import File, Run, Said

TOOL = "optimum_benchmark"
SOURCE_KIND = "measured"

MB = 1e6

_CSV_MARKS = ("forward.latency(s)", "training.throughput(samples/s)")
_JSON_PARTS = ("forward", "prefill", "decode", "generate", "per_token", "train", "load_model", "call", "encode")
_MEMORY_CSV = {
    "peak_memory": ("memory_device_bytes", "driver_used"),
    "max_memory_used": ("memory_device_bytes", "driver_used"),
    "max_memory_allocated": ("memory_peak_bytes", "torch_max_allocated"),
    "max_memory_reserved": ("memory_reserved_bytes", "torch_max_reserved"),
}
_MEMORY_JSON = {
    "max_global_vram": ("memory_device_bytes", "driver_used"),
    "max_process_vram": ("memory_process_bytes", "nvml_process"),
    "max_reserved": ("memory_reserved_bytes", "torch_max_reserved"),
    "max_allocated": ("memory_peak_bytes", "torch_max_allocated"),
}
TOLERANCE = 0.015
"""Largest relative difference between a throughput printed and the one that latency and lengths give: both round to three digits."""

_QUANTIZED = re.compile(r"\b(gptq|awq)\b", re.IGNORECASE)
"""Checkpoints stored in four bits: the configuration need not say so again, for the checkpoint's own does."""
_DISPLAY = re.compile(r"\bdisplay\b", re.IGNORECASE)

Config = Mapping[str, Any]


def recognises(file: File) -> bool:
    """Whether it is a CSV with these headers, or a report of timed parts with the memory they took."""
    head = file.head
    if head.lstrip().startswith("{"):
        return '"stdev_' in head and '"latency"' in head and any(f'"{part}"' in head for part in _JSON_PARTS)
    first = head.partition("\n")[0]
    return any(mark in first for mark in _CSV_MARKS)


def read(file: File, said: Said) -> Iterator[Run]:
    """The runs of every result, in the file's order."""
    if file.head.lstrip().startswith("{"):
        yield from _report(file.json())
    else:
        for index, row in enumerate(csv.DictReader(io.StringIO(file.text())), 1):
            yield from _row(index, {name: value for name, value in row.items() if name and value})


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)


# ---- 2023: one result a row


def _row(index: int, row: Mapping[str, str]) -> Iterator[Run]:
    what, notes = _What(row), _notes(row)
    parts = {
        "forward": ("forward", what.inputs),
        "generate": ("generate", what.inputs | {"output_tokens": _fixed_length(row)}),
    }
    for part, (phase, lengths) in parts.items():
        if f"{part}.latency(s)" in row:
            figures = Figures(TOOL, what.columns | lengths | {"phase": phase})
            latency = number(f"{part}.latency(s)", row[f"{part}.latency(s)"])
            figures.metric("latency_s", latency, "wall_clock")
            for name, (metric, definition) in _MEMORY_CSV.items():
                figures.metric(metric, row.get(f"{part}.{name}(MB)"), definition, scale=MB)
            rate, unit = _rate(row, part)
            _throughput(figures, part, rate, unit, latency)
            if part == "generate":
                _tpot(figures, number("decode.latency(s)", row.get("decode.latency(s)")))
                rate, unit = _rate(row, "decode")
                figures.other("decode.throughput", rate, unit)
            yield what.run(f"row {index}, {part}", figures, notes)
    if "training.throughput(samples/s)" in row:
        yield _training(index, row, what, notes)


def _rate(row: Mapping[str, str], part: str) -> tuple[float | None, str]:
    """Throughput of a part, whatever its unit is called in this version."""
    for header, value in row.items():
        if header.startswith(f"{part}.throughput("):
            unit = header.partition("(")[2].rstrip(")")
            return number(header, value), {"tok/s": "tokens/s", "iter/s": "samples/s", "samles/s": "samples/s"}.get(
                unit, unit
            )
    return None, ""


def _training(index: int, row: Mapping[str, str], what: _What, notes: Sequence[str]) -> Run:
    """Training without its warm-up steps."""
    tokens = positive("benchmark.dataset_shapes.sequence_length", row.get("benchmark.dataset_shapes.sequence_length"))
    batch = positive(
        "benchmark.training_arguments.per_device_train_batch_size",
        row.get("benchmark.training_arguments.per_device_train_batch_size"),
    )
    is_lora = row.get("backend.peft_strategy") == "lora"
    figures = Figures(
        TOOL,
        what.columns
        | {
            "phase": "finetune_step" if is_lora else "pretrain_step",
            "batch_size": batch,
            "input_tokens": tokens,
            "lora_rank": positive("backend.peft_config.r", row.get("backend.peft_config.r")) if is_lora else None,
            "optimizations": sorted({*what.columns["optimizations"], *(["lora"] if is_lora else [])}),
        },
    )
    samples, _ = _rate(row, "training")
    if samples is not None and tokens is not None:
        figures.metric("total_tokens_per_s", samples * tokens, "tokens_over_duration")
    for part in ("warmup", "training", "overall_training"):
        rate, unit = _rate(row, part)
        figures.other(f"{part}.throughput", rate, unit)
        figures.other(f"{part}.runtime", row.get(f"{part}.runtime(s)"), "s")
    steps = _steps(row)
    runtime = number("training.runtime(s)", row.get("training.runtime(s)"))
    if steps and batch and runtime and samples:
        figures.columns["num_devices"] = max(1, round(runtime * samples / (steps * batch)))
        figures.metric("latency_s", runtime / steps, "wall_clock")
        figures.columns["num_samples"] = steps
        figures.columns["duration_s"] = runtime
    return what.run(f"row {index}, training", figures, notes)


def _steps(row: Mapping[str, str]) -> int | None:
    """Steps behind the training's figures; None where their number is not said."""
    steps, warmup = (
        whole("benchmark.training_arguments.max_steps", row.get("benchmark.training_arguments.max_steps")),
        whole("benchmark.warmup_steps", row.get("benchmark.warmup_steps")),
    )
    return steps - warmup if steps is not None and warmup is not None and steps > warmup else None


# ---- since 2024: a report, alone or with its configuration


def _report(found: Mapping[str, Any]) -> Iterator[Run]:
    report = found.get("report", found)
    config = _flat(found.get("config") or {})
    what, notes = _What(config), _notes(config)
    if not config:
        notes = [*notes, "The report came without its configuration."]
    outputs, is_lora = _fixed_length(config), str(config.get("backend.peft_type")).lower() == "lora"
    trained = {
        "batch_size": positive(
            "benchmark.training_arguments.per_device_train_batch_size",
            config.get("benchmark.training_arguments.per_device_train_batch_size"),
        ),
        "input_tokens": positive(
            "benchmark.dataset_shapes.sequence_length", config.get("benchmark.dataset_shapes.sequence_length")
        ),
        "lora_rank": positive("backend.peft_config.r", config.get("backend.peft_config.r")) if is_lora else None,
        "optimizations": sorted({*what.columns["optimizations"], *(["lora"] if is_lora else [])}),
    }
    for part, phase, lengths in (
        ("forward", "forward", what.inputs),
        ("prefill", "prefill", what.inputs),
        ("generate", "generate", what.inputs | {"output_tokens": outputs}),
        ("train", "finetune_step" if is_lora else "pretrain_step", trained),
    ):
        if _has(report, part):
            yield _part(part, phase, report, what, lengths, notes)
    if "generate" not in report and _has(report, "decode"):
        yield _part("decode", "generate", report, what, what.inputs | {"output_tokens": outputs}, notes)


def _part(
    part: str, phase: str, report: Mapping[str, Any], what: _What, lengths: Mapping[str, Any], notes: Sequence[str]
) -> Run:
    found = report[part]
    figures = Figures(TOOL, {**what.columns, **lengths, "phase": phase})
    latency, mean = found["latency"], number(f"{part}.latency.mean", found["latency"].get("mean"))
    repeats: list[dict[str, Any]] = []
    if part != "decode":
        _latency(figures, latency)
        repeats = [row for value in latency.get("values") or [] for row in _importing.sample("latency_s", value, "s")]
        rate = found.get("throughput") or {}
        _throughput(figures, part, number(f"{part}.throughput", rate.get("value")), str(rate.get("unit")), mean)
    memory = found.get("memory") or ((report.get("decode") or {}).get("memory") if phase == "generate" else None) or {}
    for name, (metric, definition) in _MEMORY_JSON.items():
        figures.metric(metric, memory.get(name), definition, scale=_megabytes(memory))
    if (ram := number("max_ram", memory.get("max_ram"))) is not None:
        figures.other(f"{part}.max_ram", ram * _megabytes(memory), "B")
    if phase == "generate":
        _generation(figures, report)
    figures.other("environment.gpu_vram_mb", what.vram_bytes, "B")
    for name in ("energy", "efficiency"):
        block = found.get(name) or {}
        figures.others(
            {key: value for key, value in block.items() if key != "unit"}, str(block.get("unit")), f"{part}.{name}."
        )
    run = what.run(part, figures, notes, repeats)
    run.quality_tier = 1 if repeats else 0
    return run


def _latency(figures: Figures, latency: Mapping[str, Any]) -> None:
    if latency.get("unit", "s") != "s":
        raise ValueError(f"latency is in '{latency['unit']}', not s")
    count = whole("count", latency.get("count"))
    for printed in ("mean", "p50", "p90", "p95", "p99"):
        suffix = None if printed == "mean" else printed
        figures.metric("latency_s", latency.get(printed), "wall_clock", statistic=suffix)
    figures.spread("latency_s", latency.get("stdev"), count, name="latency.stdev")
    figures.columns["num_samples"] = count


def _generation(figures: Figures, report: Mapping[str, Any]) -> None:
    """First token and the others, each timed within the generation."""
    if _has(report, "prefill"):
        figures.metric("ttft_s", report["prefill"]["latency"].get("mean"), "first_token_of_generate")
    decode = report.get("decode") or {}
    latency = decode.get("latency") or {}
    _tpot(figures, number("decode.latency.mean", latency.get("mean")))
    figures.other("decode.latency.mean", latency.get("mean"), "s")
    rate = decode.get("throughput") or {}
    figures.other("decode.throughput", rate.get("value"), str(rate.get("unit")))
    each = (report.get("per_token") or {}).get("latency") or {}
    figures.others({name: each.get(name) for name in ("mean", "p50", "p90", "p95", "p99")}, "s", "per_token.latency.")
    figures.other("per_token.latency.count", each.get("count"), "1")


def _has(report: Mapping[str, Any], part: str) -> bool:
    return bool((report.get(part) or {}).get("latency"))


def _megabytes(memory: Mapping[str, Any]) -> float:
    if memory.get("unit", "MB") != "MB":
        raise ValueError(f"memory is in '{memory['unit']}', not MB")
    return MB


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration under the dotted names of the CSV; `scenario` was `benchmark` there."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        path = f"{prefix}{'benchmark' if name == 'scenario' and not prefix else name}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}.")
        else:
            found[path] = value
    return found


def _fixed_length(config: Config) -> int | None:
    """Tokens generated by every sequence; None where a sequence may end sooner."""
    if (tokens := positive("benchmark.new_tokens", config.get("benchmark.new_tokens"))) is not None:
        return tokens
    least, most = (
        positive(
            f"benchmark.generate_kwargs.{name}_new_tokens", config.get(f"benchmark.generate_kwargs.{name}_new_tokens")
        )
        for name in ("min", "max")
    )
    return most if least == most else None


# ---- both


def _throughput(figures: Figures, part: str, rate: float | None, unit: str, latency: float | None) -> None:
    """A throughput as a column where it is what its definition says, always as a sample."""
    columns = figures.columns
    batch = columns.get("batch_size")
    figures.other(f"{part}.throughput", rate, unit)
    if rate is None or latency is None or batch is None:
        return
    metric, column = {
        "generate": ("output_tokens_per_s", "output_tokens"),
        "train": ("total_tokens_per_s", "input_tokens"),
    }.get(part, ("input_tokens_per_s", "input_tokens"))
    tokens = columns.get(column)
    if tokens is None:
        return
    produced = rate * latency * (1 if part == "generate" else tokens)
    if abs(produced / (batch * tokens) - 1) <= TOLERANCE:
        figures.metric(metric, rate if part == "generate" else rate * tokens, "tokens_over_latency")


def _tpot(figures: Figures, decode_s: float | None) -> None:
    """A generation without its first token, over the other tokens."""
    tokens = figures.columns.get("output_tokens")
    if decode_s is not None and tokens is not None and tokens > 1:
        figures.metric("tpot_s", decode_s / (tokens - 1), "e2el_minus_ttft_over_n_minus_1")


class _What:
    """Configuration that the runs of one result share."""

    def __init__(self, config: Config) -> None:
        self.device = _device(config)
        self.model = _model(config)
        self.columns = _columns(config)
        self.vram_bytes = number("environment.gpu_vram_mb", config.get("environment.gpu_vram_mb"))
        self.inputs: dict[str, Any] = {
            "input_tokens": positive(
                "benchmark.input_shapes.sequence_length", config.get("benchmark.input_shapes.sequence_length")
            )
        }

    def run(self, cell: str, figures: Figures, notes: Sequence[str], repeats: Sequence[dict[str, Any]] = ()) -> Run:
        return Run(
            cell, figures.columns, figures.definitions, device=self.device, model=self.model, notes=list(notes),
            samples=[*repeats, *figures.samples],
        )  # fmt: skip


def _columns(config: Config) -> dict[str, Any]:
    scheme = str(config.get("backend.quantization_scheme") or config.get("backend.quantization_strategy") or "")
    is_4bit = (
        scheme in ("gptq", "awq")
        or _is_true(config.get("backend.quantization_config.load_in_4bit"))
        or _QUANTIZED.search(_model(config) or "") is not None
    )
    is_8bit = _is_true(config.get("backend.quantization_config.load_in_8bit"))
    compute = _importing.dtype(_text(config.get("backend.torch_dtype")))
    is_flash = (
        _is_true(config.get("backend.use_flash_attention_2"))
        or config.get("backend.attn_implementation") == "flash_attention_2"
    )
    attention = {"sdpa": "sdpa", "eager": "eager"}.get(str(config.get("backend.attn_implementation")))
    return {
        "batch_size": positive("benchmark.input_shapes.batch_size", config.get("benchmark.input_shapes.batch_size")),
        "num_devices": _num_devices(config),
        "weight_dtype": "int4" if is_4bit else "int8" if is_8bit else compute,
        "activation_dtype": compute,
        "kv_dtype": compute,
        "attention": "flash" if is_flash else attention,
        "execution": "compiled" if _is_true(config.get("backend.torch_compile")) else "eager" if config else None,
        "framework": _text(config.get("backend.name")),
        "framework_version": _text(config.get("backend.version")),
        "optimizations": sorted(["flash"] * is_flash + ["quantized"] * (is_4bit or is_8bit or bool(scheme))),
    }


def _notes(config: Config) -> list[str]:
    notes = []
    if _is_true(config.get("backend.no_weights")):
        notes.append("Random weights.")
    if version := _text(config.get("environment.transformers_version")):
        notes.append(f"transformers {version}.")
    return notes


def _devices(config: Config) -> list[str]:
    """Accelerators of the machine by name, display adapters apart: a list, the text of a Python list, or one name."""
    found: Any = next((config[name] for name in ("environment.gpus", "environment.gpu") if config.get(name)), [])
    if isinstance(found, str):
        try:
            found = ast.literal_eval(found) if found.startswith("[") else [found]
        except (ValueError, SyntaxError):
            raise ValueError(f"environment.gpus is '{found}', which is no list") from None
    return [str(name) for name in found if not _DISPLAY.search(str(name))]


def _device(config: Config) -> str | None:
    """The accelerator, or the processor of a run on one; None where the file says neither, or several kinds."""
    if str(config.get("backend.device") or config.get("device") or "").startswith("cpu"):
        return _text(config.get("environment.cpu"))
    kinds = sorted(set(_devices(config)))
    return " and ".join(kinds) or None


def _num_devices(config: Config) -> int:
    """One, unless the model was spread over the machine's devices or some were named."""
    named = _text(config.get("backend.device_ids"))
    if named:
        return len(named.split(","))
    if config.get("backend.device_map") == "auto" or _is_true(config.get("backend.data_parallel")):
        return max(1, len(_devices(config)))
    return 1


def _model(config: Config) -> str | None:
    """Name of the model; of a local folder its last part."""
    name = _text(config.get("backend.model") or config.get("model"))
    if name is None or re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    return name.rstrip("/").replace("\\", "/").rpartition("/")[2]


def _text(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None


def _is_true(value: object) -> bool:
    return str(value).lower() == "true"
