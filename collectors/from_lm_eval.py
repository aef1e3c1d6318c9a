"""Results of lm-evaluation-harness (results_*.json): scores as rows of `quality`, one run a file, without a latency.

Both generations are read: metrics named `exact_match,strict-match` (0.4 on) and plain `acc` (before). The file times the whole
evaluation, loading included, which is a sample and no latency of ours. The device is known where a local model was scored on
GPUs that the file lists; otherwise it is to be given. Addresses and local paths of the model's arguments are not kept.
"""

from __future__ import annotations

import datetime
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from collectors import _importing
from collectors._importing import File, Run, Said, Unreadable, sample

TOOL = "lm_eval"
SOURCE_KIND = "measured"

LOCAL = {"hf": "transformers", "hf-auto": "transformers", "hf-causal": "transformers", "hf-causal-experimental": "transformers",
         "huggingface": "transformers", "vllm": "vllm", "sglang": "sglang"}  # fmt: skip
"""Backend of the harness that runs the model on the machine that the file describes -> framework."""

NAMING = ("pretrained", "model", "path", "engine")
"""Arguments that may name the model, as the harness looks for them."""

_SCORED = re.compile(r'"[^"\n]+_stderr(?:,[^"\n]+)?"\s*:')
_GPU = re.compile(r"^\s*GPU \d+: (.+?)(?: \(UUID.*)?$", re.MULTILINE)


def recognises(file: File) -> bool:
    """A JSON object with `results` whose metrics come with `_stderr` beside them."""
    head = file.head
    return (
        head.lstrip().startswith("{")
        and re.search(r'"results"\s*:\s*\{', head) is not None
        and _SCORED.search(head) is not None
    )


def read(file: File, said: Said) -> Iterator[Run]:
    """The one run of a file. Raises Unreadable where it holds no score."""
    content = file.json()
    scores = list(_scores(content))
    if not scores:
        raise Unreadable(f"{file.name} is a file of lm-evaluation-harness and holds no score.")
    config = content.get("config") or {}
    arguments = _arguments(config.get("model_args"))
    backend = config.get("model") if isinstance(config.get("model"), str) else content.get("model_source")
    tensor_parallel, data_parallel = (_count(arguments.get(f"{kind}_parallel_size")) for kind in ("tensor", "data"))
    columns = {
        "phase": "generate",
        "framework": LOCAL.get(str(backend)),
        "framework_version": content.get("transformers_version") if LOCAL.get(str(backend)) == "transformers" else None,
        "weight_dtype": _dtype(config, arguments),
        "tensor_parallel": tensor_parallel,
        "data_parallel": data_parallel,
        "num_devices": (tensor_parallel or 1) * (data_parallel or 1),
        "batch_size": _count(config.get("batch_size")),
        "model_revision": _text(arguments.get("revision")) if arguments.get("revision") != "main" else None,
    }
    yield Run(
        "all",
        {name: value for name, value in columns.items() if value is not None},
        device=_device(content, config, backend),
        model=_model(content, arguments),
        collected_at=_date(content.get("date")),
        notes=list(_notes(content, config, backend)),
        samples=_seconds(content),
        quality=scores,
    )


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)


def _scores(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of `quality`; a score that is no finite number gives none."""
    for printed, metrics in content["results"].items():
        task = printed.strip(" -")  # groups are shown as a tree
        for key, value in metrics.items():
            name, _, filtered = key.partition(",")
            if name.endswith("_stderr") or not _is_score(value) or (name in _NO_METRICS and not filtered):
                continue
            stderr = metrics.get(f"{name}_stderr" + (f",{filtered}" if filtered else ""))
            yield {
                "task": task,
                "metric": name if filtered in ("", "none") else f"{name},{filtered}",
                "value": float(value),
                "stderr": float(stderr) if _is_score(stderr) else None,
                "is_higher_better": _of_task(content.get("higher_is_better"), task, name),
                "num_samples": _of_task(content.get("n-samples"), task, "effective")
                or _count(metrics.get("sample_len")),
                "num_fewshot": _num_fewshot(content, task),
            }


_NO_METRICS = ("samples", "sample_len", "sample_count", "size")


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _of_task(table: Any, task: str, name: str) -> Any:
    row = table.get(task) if isinstance(table, dict) else None
    return row.get(name) if isinstance(row, dict) else None


def _num_fewshot(content: Mapping[str, Any], task: str) -> int | None:
    per_task = content.get("n-shot")
    if isinstance(per_task, dict):
        return _whole(per_task.get(task))
    return _whole((content.get("config") or {}).get("num_fewshot"))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    """A whole number of 1 or more, as a number or as text; `auto` is none."""
    text = str(value)
    return int(text) if text.isdecimal() and int(text) > 0 and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _arguments(given: Any) -> dict[str, Any]:
    """Arguments of the model: an object, or text like `pretrained=a/b,dtype=float16`."""
    if isinstance(given, dict):
        return given
    pairs = (part.partition("=") for part in str(given or "").split(","))
    return {name.strip(): value.strip() for name, separator, value in pairs if separator}


def _model(content: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    """Its name; of a local path the last part, of an address nothing."""
    named = [content.get("model_name"), *(arguments.get(name) for name in NAMING)]
    name = next((one for one in named if _text(one)), None)
    if name is None or "://" in name:
        return None
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name
    return str(re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name)


def _dtype(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    """What the weights were loaded as: the model's own word, else what was asked for."""
    return _importing.dtype(_text(config.get("model_dtype"))) or _importing.dtype(_text(arguments.get("dtype")))


def _device(content: Mapping[str, Any], config: Mapping[str, Any], backend: Any) -> str | None:
    """The GPU of the machine, where a local model ran on it and all are of one kind."""
    if backend not in LOCAL or str(config.get("device") or "").startswith(("cpu", "mps")):
        return None
    found = set(_GPU.findall(content.get("pretty_env_info") or ""))
    return found.pop().strip() if len(found) == 1 else None


def _date(value: Any) -> datetime.datetime | None:
    """Seconds since 1970, as the harness writes it."""
    if not _is_score(value) or not 0 < value < 4e9:
        return None
    return datetime.datetime.fromtimestamp(value, datetime.UTC)


def _seconds(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        seconds = float(content["total_evaluation_time_seconds"])
    except (KeyError, TypeError, ValueError):
        return []
    return sample("lm_eval:total_evaluation_time_seconds", seconds, "s")


def _notes(content: Mapping[str, Any], config: Mapping[str, Any], backend: Any) -> Iterator[str]:
    version = _text(content.get("lm_eval_version"))
    yield f"Scores of lm-evaluation-harness{'' if version is None else ' ' + version}; it times no request, so there is no latency."
    if backend not in LOCAL:
        yield f"The model was asked through '{backend}': the device is as told."
    if config.get("limit") is not None:
        yield f"Scored on part of each task alone (--limit {config['limit']})."
