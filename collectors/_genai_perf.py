"""Tables and checkpoints of genai-perf and aiperf as the flat metrics of their JSON exports: {metric: {"unit", statistic: value}}.

Names become those of the JSON (`Time To First Token (ms)` is time_to_first_token in ms). Tables print rounded values.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from collectors._importing import Unreadable
from collectors._load_results import listed, mapping

Flat = dict[str, dict[str, Any]]

CHECKPOINT_UNITS = {
    "request_latency": "ns", "time_to_first_token": "ns", "time_to_second_token": "ns", "inter_token_latency": "ns",
    "request_throughput": "requests/sec", "output_token_throughput": "tokens/sec",
    "output_token_throughput_per_request": "tokens/sec/request", "output_sequence_length": "tokens",
    "input_sequence_length": "tokens", "gpu_power_usage": "W", "gpu_power_limit": "W", "energy_consumption": "J",
    "gpu_utilization": "ratio", "total_gpu_memory": "B", "gpu_memory_used": "B",
}  # fmt: skip
"""Units of a checkpoint, which prints none."""

_RENAMED = {
    "minimum_request_timestamp": "min_request_timestamp",
    "maximum_response_timestamp": "max_response_timestamp",
}
_UNIT = re.compile(r"\(([^()]*)\)\s*$")
_STATISTIC = re.compile(r"(p\d+|avg\.?|min|max|std)\s+", re.IGNORECASE)


@dataclass
class Analysed:
    """One configuration of a sweep: what was asked for, what came out, and each GPU's counters."""

    name: str
    model: str | None
    asked: dict[str, Any] = field(default_factory=dict)
    metrics: Flat = field(default_factory=dict)
    gpus: list[Flat] = field(default_factory=list)


def table(text: str) -> Flat:
    """A profile's two stacked tables: statistics by metric, then single values."""
    found: Flat = {}
    for header, rows in tables(text):
        for row in rows:
            name, unit = _named(row[0])
            values = {
                ("avg" if word == "Value" else word): _value(cell)
                for word, cell in zip(header[1:], row[1:], strict=True)
            }
            found[name] = {"unit": unit, **{word: value for word, value in values.items() if value is not None}}
    return found


def analysis(text: str) -> list[Analysed]:
    """An `analyze` table: performance by configuration, then a line for each of its GPUs."""
    found: dict[str, Analysed] = {}
    for header, rows in tables(text):
        for row in rows:
            one = found.setdefault(row[0], Analysed(row[0], _model(row[0])))
            target: Flat = {}
            for title, cell in zip(header[1:], row[1:], strict=True):
                word, name, unit = _titled(title)
                if word is None:
                    one.asked[name] = cell
                else:
                    target.setdefault(name, {"unit": unit})[word] = _value(cell)
            if "gpu" in one.asked:
                one.asked.pop("gpu")
                one.gpus.append(target)
            else:
                one.metrics |= target
    return list(found.values())


def checkpoint(content: Any) -> Iterator[Analysed]:
    """The configurations of a checkpoint. Of the command line only the concurrency is read."""
    for config in listed("run_configs", mapping("Results", mapping("checkpoint", content)["Results"])["run_configs"]):
        run = mapping("run_config", config)
        measured = mapping("measurement", run["measurement"])
        one = Analysed(str(run["name"]), _model(str(run["name"])))
        for of_model in mapping("measurements", measured["_model_config_measurements"]).values():
            one.metrics |= _records(mapping("_perf_metrics", mapping("measurement", of_model)["_perf_metrics"]))
        for of_gpu in mapping("_gpu_metrics", measured.get("_gpu_metrics")).values():
            one.gpus.append(_records(mapping("gpu", of_gpu)))
        words = listed("_cli_args", mapping("perf_analyzer_config", run.get("perf_analyzer_config")).get("_cli_args"))
        if "--concurrency-range" in words[:-1]:
            one.asked["concurrency"] = words[words.index("--concurrency-range") + 1]
        yield one


def console(text: str) -> Iterator[Analysed]:
    """Runs in a log of perf_analyzer: its own figures (latencies in us) and those of a script that counts tokens (ms).

    What the script's figures mean it does not say: they get names of their own.
    """
    for block in re.split(r"(?m)^(?=Concurrency: \d+\s*$)", text):
        asked = {
            word: found[1] for word, pattern in _ASKED.items() if (found := re.search(pattern, block, re.MULTILINE))
        }
        if "concurrency" not in asked:
            continue
        one = Analysed(f"line {text[: text.index(block)].count(chr(10)) + 1}", None, asked)
        latency = one.metrics["perf_analyzer_latency"] = {"unit": "usec"}
        for word, pattern in _LATENCY.items():
            if found := re.search(pattern, block):
                latency[word] = float(found[1])
        latency |= {f"p{word}": float(value) for word, value in re.findall(r"p(\d+) latency: (\d+) usec", block)}
        for name, (pattern, unit) in _SINGLE.items():
            if found := re.search(pattern, block):
                one.metrics[name] = {"unit": unit, "avg": float(found[1])}
        for title, name in (("Time to First Token", "token_level_ttft"), ("Inter-Token Latency", "token_level_itl")):
            if found := re.search(rf"{title} \(\w+\):((?:\n\s+\w+:\s+[\d.]+ ms)+)", block):
                values = re.findall(r"(\w+):\s+([\d.]+) ms", found[1])
                one.metrics[name] = {"unit": "ms", **{word.lower(): float(value) for word, value in values}}
        yield one


_ASKED = {
    "concurrency": r"^Request concurrency: (\d+)", "isl": r"^Input Sequence Length: (\d+)", "osl": r"^Output Sequence Length: (\d+)",
}  # fmt: skip
_LATENCY = {"avg": r"\n\s+Avg latency: (\d+) usec", "std": r"\(standard deviation (\d+) usec\)"}
_SINGLE = {
    "request_count": (r"Request count: (\d+)", "requests"),
    "request_throughput": (r"\n\s+Throughput: ([\d.]+) infer/sec", "requests/sec"),
    "token_level_input_tokens_per_s": (r"Input Tokens/sec:\s+([\d.]+)", "tokens/sec"),
    "token_level_output_tokens_per_s": (r"Output Tokens/sec:\s+([\d.]+)", "tokens/sec"),
}


def _model(name: str) -> str:
    """The model of a configuration: `gpt2_run_config_3` is of gpt2."""
    return re.sub(r"_run_config_\d+$", "", name)


def _records(found: Mapping[str, Any]) -> Flat:
    """`{"request_latency_p99": [tag, {"_value": 3.4e9}]}` by metric and statistic."""
    metrics: Flat = {}
    for tag, record in found.items():
        name, _, word = tag.rpartition("_")
        value = mapping(tag, listed(tag, record)[1])["_value"]
        metrics.setdefault(name, {"unit": CHECKPOINT_UNITS.get(name, "")})[word] = value
    return metrics


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Tables that blank lines part, as header and rows. Raises Unreadable for a row of another width than its header."""
    for block in re.split(r"(?:\r?\n\s*){2,}", text.strip()):
        try:
            header, *rows = csv.reader(io.StringIO(block, newline=""))
        except csv.Error as error:
            raise Unreadable(f"it is no table: {error}") from error
        for row in rows:
            if len(row) != len(header):
                raise Unreadable(f"line '{','.join(row)[:60]}' has {len(row)} cells, its table {len(header)} columns")
        yield header, rows


def _titled(title: str) -> tuple[str | None, str, str]:
    """Statistic, metric and unit in a column's title; no statistic for what was asked for."""
    if title in ("Concurrency", "ISL", "OSL", "Num Prompts", "GPU"):
        return None, title.lower().replace(" ", "_"), ""
    word = _STATISTIC.match(title)
    name, unit = _named(title[word.end() :] if word else title)
    return (word[1].lower().rstrip(".") if word else "avg"), name, unit


def _named(title: str) -> tuple[str, str]:
    unit = _UNIT.search(title)
    name = re.sub(r"\W+", "_", (title[: unit.start()] if unit else title).lower()).strip("_")
    return _RENAMED.get(name, name), unit[1] if unit else ""


def _value(cell: str) -> float | None:
    """A number of a table, thousands apart by commas; None for an empty cell. Raises ValueError for other text."""
    plain = cell.strip().replace(",", "")
    return float(plain) if plain not in ("", "N/A", "nan") else None
