"""llama-bench of llama.cpp: its json, jsonl, csv and md output; one run a test.

`pp` is a prefill of n_prompt tokens behind n_depth cached ones, taken n_ubatch at a time. `tg` generates n_gen tokens one by one behind
n_depth: the run is a decode step at the middle of the contexts passed through, its latency the mean step. `pg` is prompt and
generation: a generate. One sequence each: n_batch and n_ubatch are sizes of chunks, not concurrency. Times are ns and tokens/s,
standard deviations over the repeats are sample ones, the md table prints `mean ± sd` of tokens/s alone and names no device.
The size of a model is bytes of its file, not of what is resident.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from collectors import _importing
from collectors._figures import Figures, number, positive, whole
from collectors._importing import File, Run, Said, Unreadable

TOOL = "llama_bench"
SOURCE_KIND = "measured"

_MARKS = ("build_commit", "model_filename", "n_gpu_layers", "n_prompt", "n_gen")
_MD_HEADER = re.compile(r"^\|\s*model\s*\|.*\|\s*test\s*\|\s*t/s\s*\|\s*$", re.MULTILINE)
_MD_TEST = re.compile(r"(?:pp ?(\d+))?\+?(?:tg ?(\d+))?(?: @ d(\d+))?")
_MD_BUILD = re.compile(r"^build: (\w+) \((\d+)\)", re.MULTILINE)
_QUANTIZATION = re.compile(r"[-_.](I?Q\d\w*|F16|F32|BF16)$", re.IGNORECASE)


def recognises(file: File) -> bool:
    """Whether it is one of the four outputs."""
    return all(mark in file.head for mark in _MARKS) or _MD_HEADER.search(file.head) is not None


def read(file: File, said: Said) -> Iterator[Run]:
    """One run a test, in the file's order."""
    for cell, test in _tests(file):
        yield _run(cell, test)


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)


def _tests(file: File) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = file.head.lstrip()
    if text.startswith("["):
        for index, test in enumerate(file.json()):
            yield f"[{index}]", test
    elif text.startswith("{"):
        for index, test in enumerate(file.json_lines(), 1):
            yield f"line {index}", test
    elif _MD_HEADER.search(file.head) is not None:
        yield from _table(file)
    else:
        for index, test in enumerate(csv.DictReader(io.StringIO(file.text())), 1):
            yield f"row {index}", test


def _table(file: File) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of the md table under the names of the other outputs."""
    text = file.text()
    build = _MD_BUILD.search(text)
    said: dict[str, Any] = {} if build is None else {"build_commit": build.group(1), "build_number": build.group(2)}
    header: list[str] = []
    index = 0
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if _MD_HEADER.match(line):
            header = cells
        elif line.startswith("|") and header and not set(line) <= set("|-: "):
            row = dict(zip(header, cells, strict=False))
            test = _MD_TEST.fullmatch(row.get("test", ""))
            if test is None:
                raise Unreadable(
                    f"{file.name}: '{row.get('test')}' is not a test. Known: pp512, tg128, pp512+tg128, each with @ d512."
                )
            prompt, generated, depth = (int(found or 0) for found in test.groups())
            mean, _, spread = row["t/s"].partition("±")
            index += 1
            yield f"row {index}", said | {
                "model_type": row["model"], "backends": row.get("backend"), "n_prompt": prompt, "n_gen": generated, "n_depth": depth,
                "avg_ts": mean.strip(), "stddev_ts": spread.strip(), "flash_attn": row.get("fa"), "n_ubatch": row.get("n_ubatch"),
                "type_k": row.get("type_k"), "type_v": row.get("type_v"),
            }  # fmt: skip


def _run(cell: str, test: Mapping[str, Any]) -> Run:
    prompt, generated, depth = (whole(name, test.get(name)) or 0 for name in ("n_prompt", "n_gen", "n_depth"))
    figures = Figures(TOOL, _configuration(test))
    notes = _phase(figures, prompt, generated, depth, positive("n_ubatch", test.get("n_ubatch")))
    steps = generated if figures.columns["phase"] == "decode" else 1
    figures.metric("latency_s", test.get("avg_ns"), "wall_clock", scale=1e-9 / steps)
    figures.metric("latency_s", test.get("stddev_ns"), "wall_clock", statistic="std", scale=1e-9 / steps)
    throughput = {"prefill": "input_tokens_per_s", "decode": "output_tokens_per_s", "generate": "total_tokens_per_s"}
    metric = throughput[figures.columns["phase"]]
    figures.metric(metric, test.get("avg_ts"), "tokens_over_latency")
    figures.metric(metric, test.get("stddev_ts"), "tokens_over_latency", statistic="std")
    repeats = [number("samples_ns", value) for value in _list(test.get("samples_ns"))]
    samples = [
        row
        for value in repeats
        if value is not None
        for row in _importing.sample("latency_s", value * 1e-9 / steps, "s")
    ]
    if repeats:
        figures.columns["num_samples"] = len(repeats)
    for name, unit in (
        ("model_size", "B"),
        ("model_n_params", "1"),
        ("n_batch", "tokens"),
        ("n_gpu_layers", "1"),
        ("n_threads", "1"),
    ):
        figures.other(name, test.get(name), unit)
    return Run(
        cell, figures.columns, figures.definitions, device=_device(test), model=_model(test), quality_tier=1 if repeats else 0,
        collected_at=_time(test.get("test_time")), notes=notes, samples=samples + figures.samples,
    )  # fmt: skip


def _phase(figures: Figures, prompt: int, generated: int, depth: int, chunk: int | None) -> list[str]:
    """Sets phase and lengths of a test; sentences about them."""
    columns = figures.columns
    if prompt and generated:
        columns |= {
            "phase": "generate",
            "input_tokens": prompt,
            "output_tokens": generated,
            "prefix_tokens": depth or None,
        }
    elif prompt:
        columns |= {"phase": "prefill", "input_tokens": prompt, "prefix_tokens": depth or None}
        columns["chunk_tokens"] = chunk if chunk is not None and chunk < prompt else None
    elif generated:
        columns |= {"phase": "decode", "context_tokens": depth + (generated + 1) // 2}
        figures.other("n_gen", generated, "tokens")
        return [
            f"Mean of {generated} steps at contexts from {depth + 1} to {depth + generated} tokens; the context is their middle."
        ]
    else:
        raise ValueError("a test has neither n_prompt nor n_gen")
    return []


def _configuration(test: Mapping[str, Any]) -> dict[str, Any]:
    quantization = str(test.get("model_type") or "").partition(" - ")[0].split()
    cache = {_importing.dtype(test.get(name)) for name in ("type_k", "type_v") if test.get(name)}
    is_flash = str(test.get("flash_attn")).lower() in ("1", "true", "on")
    weights = _importing.dtype(quantization[-1]) if quantization else None
    return {
        "batch_size": 1,
        "num_devices": max(1, len(_devices(test))),
        "weight_dtype": weights,
        "kv_dtype": cache.pop() if len(cache) == 1 else None,
        "attention": "flash" if is_flash else None,
        "optimizations": sorted(["flash"] * is_flash + ["quantized"] * (weights in ("int8", "int4", "int2"))),
        "framework": "llama.cpp",
        "framework_version": None if test.get("build_number") is None else f"b{test['build_number']} ({test.get('build_commit')})",
        "execution": "engine",
    }  # fmt: skip


def _devices(test: Mapping[str, Any]) -> list[str]:
    """Accelerators as the tool lists them; none for a run on the processor."""
    return [name.strip() for name in str(test.get("gpu_info") or "").split(",") if name.strip()]


def _device(test: Mapping[str, Any]) -> str | None:
    """The first accelerator, else the processor; the md table names neither. Without layers on an accelerator it is the processor."""
    if whole("n_gpu_layers", test.get("n_gpu_layers")) != 0 and (found := _devices(test)):
        return found[0]
    return str(test.get("cpu_info") or "").strip() or None


def _model(test: Mapping[str, Any]) -> str | None:
    """Name of the model's file without folder, part and quantization; in an md table the label of the architecture."""
    name = str(test.get("model_filename") or "").replace("\\", "/").rpartition("/")[2].removesuffix(".gguf")
    name = re.sub(r"-\d{5}-of-\d{5}$", "", name)
    return _QUANTIZATION.sub("", name) or test.get("model_type")


def _list(value: object) -> list[Any]:
    """Repeats: a list in JSON, text of one in SQL dumps, absent in CSV and md."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return value if isinstance(value, list) else []


def _time(text: object) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
