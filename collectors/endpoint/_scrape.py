"""What a server says of itself while a load runs: its Prometheus page, read about once a second, as rows of `telemetry`.

Known are vLLM, SGLang, Text Generation Inference (TGI), llama.cpp, the scheduler of llm-d, and the DCGM exporter for the GPUs.
A server without such a page is a remark and never a failure. While the load runs the page is only fetched and its lines
picked out; they are read afterwards.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit

ENGINE = -2
"""device_index of the engine in `telemetry`."""

INTERVAL_S = 1.0
TIMEOUT_S = 5.0
MAX_PAGE_BYTES = 16 * 2**20

COLUMNS: dict[str, tuple[str, ...]] = {
    "num_running": (
        "vllm:num_requests_running", "sglang:num_running_reqs", "tgi_batch_current_size", "llamacpp:requests_processing",
        "inference_objective_running_requests", "inference_model_running_requests",
    ),
    "num_waiting": (
        "vllm:num_requests_waiting", "sglang:num_queue_reqs", "tgi_queue_size", "llamacpp:requests_deferred",
        "inference_pool_per_pod_queue_size",
    ),
    "kv_cache_ratio": (
        "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio",
        "inference_pool_average_kv_cache_utilization",
    ),
    "prompt_tokens": (
        "vllm:prompt_tokens_total", "sglang:prompt_tokens_total", "tgi_request_input_length_sum", "llamacpp:prompt_tokens_total",
    ),
    "generated_tokens": (
        "vllm:generation_tokens_total", "sglang:generation_tokens_total", "tgi_request_generated_tokens_sum",
        "llamacpp:tokens_predicted_total",
    ),
    "prefix_cache_hit_tokens": (
        "vllm:prefix_cache_hits_total", "vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits",
        "sglang:cached_tokens_total",
    ),
    "prefix_cache_query_tokens": (
        "vllm:prefix_cache_queries_total", "vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries",
    ),
    "preemptions": ("vllm:num_preemptions_total", "sglang:num_retracted_requests_total"),
}  # fmt: skip
"""Column -> what servers call it; the first that a page has is taken. Summed over the engines of a server, except the share of the KV
cache, which is their mean. SGLang counts no tokens looked for in its cache: all prompt tokens are. TGI counts tokens only within its histograms, whose sums grow as requests end."""

DEVICE_COLUMNS: dict[str, tuple[str, float]] = {
    "DCGM_FI_DEV_GPU_UTIL": ("utilization", 0.01),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("memory_utilization", 0.01),
    "DCGM_FI_DEV_FB_USED": ("memory_used_bytes", 2.0**20),
    "DCGM_FI_DEV_POWER_USAGE": ("power_w", 1.0),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_j", 1e-3),
    "DCGM_FI_DEV_SM_CLOCK": ("sm_clock_hz", 1e6),
    "DCGM_FI_DEV_MEM_CLOCK": ("memory_clock_hz", 1e6),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature_c", 1.0),
}
"""Gauge of the DCGM exporter -> column and what makes it SI: percent, MiB, mJ, MHz."""

SAMPLES = {
    "sglang:cache_hit_rate": "ratio",
    "sglang:gen_throughput": "tokens/s",
    "sglang:spec_accept_length": "tokens",
    "inference_pool_ready_pods": "pods",
}
"""Gauges without a column, kept as `samples` under their own name."""

Labels: TypeAlias = dict[str, str]

_NAMES = (*(name for names in COLUMNS.values() for name in names), *DEVICE_COLUMNS, *SAMPLES)
_WANTED = re.compile(rb"^(?:" + b"|".join(re.escape(name).encode() for name in _NAMES) + rb")[ \t{].*$", re.MULTILINE)
_LINE = re.compile(r"\s*([A-Za-z_:][\w:]*)\s*(?:\{((?:[^}\"]|\"(?:[^\"\\]|\\.)*\")*)\})?\s*([^\s#]+)")
_LABEL = re.compile(r'(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


def parse(text: str) -> Iterator[tuple[str, Labels, float]]:
    """Samples of a page in the text format of Prometheus; comments, broken lines and values that are no finite number are left out.

    >>> list(parse('# TYPE a gauge\\na{b="c"} 2\\na{b="d"} NaN'))
    [('a', {'b': 'c'}, 2.0)]
    """
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        if math.isfinite(value):
            labels = {name: _ESCAPED.sub(_unescape, raw) for name, raw in _LABEL.findall(match[2] or "")}
            yield match[1], labels, value


def metrics_url(url: str) -> str:
    """Where a server has its page, for the URL of its API.

    >>> metrics_url("http://127.0.0.1:8000/v1")
    'http://127.0.0.1:8000/metrics'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/metrics"


@dataclass
class Scrape:
    """The pages read during one load."""

    urls: Sequence[str]
    pages: list[tuple[float, list[str]]] = field(default_factory=list)
    """When the pages were asked for, on `time.perf_counter`, and their lines that matter."""
    failures: dict[str, str] = field(default_factory=dict)
    """URL -> why its page could not be read the last time, in words."""

    def rows(self, run_id: str, zero_s: float) -> list[dict[str, Any]]:
        """Rows of `telemetry`: one of the engine and one of each GPU a reading; `zero_s` is the run's start on `time.perf_counter`."""
        return [
            {"run_id": run_id, "device_index": device, "at_s": at_s - zero_s, **columns}
            for at_s, readings in self._readings()
            for device, columns in ((ENGINE, _engine(readings)), *_devices(readings))
            if columns and at_s >= zero_s
        ]

    def samples(self, run_id: str) -> list[dict[str, Any]]:
        """Rows of `samples`: gauges that have no column."""
        rows = []
        for name, unit in SAMPLES.items():
            found = [(name, value) for _, readings in self._readings() if (value := _sum(name, readings)) is not None]
            rows += [
                {"run_id": run_id, "metric": name, "sample_index": index, "sample_phase": "measured", "value": value, "unit": unit,
                 "flags": []}
                for index, (name, value) in enumerate(found)
            ]  # fmt: skip
        return rows

    def prefix_cache_hit_ratio(self) -> float | None:
        """Prompt tokens found in the prefix cache over those looked for, during the load; None where the engine does not count them,
        or counts more found than looked for."""
        engine = [_engine(readings) for _, readings in self._readings()]
        hits = increase([one.get("prefix_cache_hit_tokens") for one in engine])
        queries = increase([one.get("prefix_cache_query_tokens") for one in engine])
        return hits / queries if hits is not None and queries and hits <= queries else None

    def remarks(self) -> list[str]:
        """Sentences a reader of the run needs: no page, or one that says nothing known."""
        if not self.urls:
            return []
        if any(lines for _, lines in self.pages):
            return [f"The server's metrics could not be read at the end: {why}." for why in self.failures.values()]
        if self.failures:
            return [f"No metrics of the server from {_shown(url)}: {why}." for url, why in self.failures.items()]
        return [f"The metrics of the server ({', '.join(map(_shown, self.urls))}) are of no engine that is known."]

    def _readings(self) -> Iterator[tuple[float, list[tuple[str, Labels, float]]]]:
        for at_s, lines in self.pages:
            yield at_s, list(parse("\n".join(lines)))


def pages(urls: Sequence[str]) -> list[str]:
    """The addresses, checked. Raises ValueError for one that is none, or that holds what could be a secret and would be stored."""
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https") or any(mark in url for mark in "@?#"):
            raise ValueError(
                f"'{_shown(url)}' is not the http or https address of metrics, without user, password or query. Set it with --metrics-url."
            )
    return list(urls)


@contextlib.contextmanager
def scraping(urls: str | Sequence[str], interval_s: float = INTERVAL_S) -> Iterator[Scrape]:
    """Read the pages at `urls` in a thread until the block ends: at its begin, every `interval_s` and at its end.

    Raises ValueError for what is no http or https address. Without any, nothing is done.
    """
    scrape = Scrape(pages([urls] if isinstance(urls, str) else urls))
    if not scrape.urls:
        yield scrape
        return
    stopped = threading.Event()

    def work() -> None:
        is_last = False
        while not is_last:
            began = time.perf_counter()
            is_last = stopped.is_set()
            lines = [line for url in scrape.urls for line in _fetched(url, scrape.failures)]
            scrape.pages.append((began, lines))
            if not is_last:
                stopped.wait(max(0.0, began + interval_s - time.perf_counter()))

    thread = threading.Thread(target=work, name="scrape", daemon=True)
    thread.start()
    try:
        yield scrape
    finally:
        stopped.set()
        thread.join((TIMEOUT_S + 1) * (1 + len(scrape.urls)))


def increase(counts: Sequence[float | None]) -> float | None:
    """How far a counter rose over its readings; one that fell began again from 0, with the server. None with fewer than two readings.

    >>> increase([5.0, 7.0, None, 1.0, 4.0])
    6.0
    """
    known = [count for count in counts if count is not None]
    if len(known) < 2:
        return None
    return sum(after - before if after >= before else after for before, after in itertools.pairwise(known))


def _shown(url: str) -> str:
    """An address without what may be a secret: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _fetched(url: str, failures: dict[str, str]) -> list[str]:
    """The lines that matter of one page; none, and why in `failures`, where it cannot be read."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            page: bytes = response.read(MAX_PAGE_BYTES)
    except urllib.error.HTTPError as error:
        failures[url] = f"HTTP {error.code}"
        return []
    except (OSError, ValueError) as error:
        failures[url] = str(getattr(error, "reason", None) or error) or type(error).__name__
        return []
    failures.pop(url, None)
    return [line.decode("utf-8", "replace") for line in _WANTED.findall(page)]


def _engine(readings: Sequence[tuple[str, Labels, float]]) -> dict[str, float]:
    """Columns of the engine's row."""
    columns = {}
    for column, names in COLUMNS.items():
        value = next((found for name in names if (found := _of(column, name, readings)) is not None), None)
        if value is not None and value >= 0 and (column != "kv_cache_ratio" or value <= 1):
            columns[column] = value
    if "prefix_cache_query_tokens" not in columns and _sum("sglang:cached_tokens_total", readings) is not None:
        columns["prefix_cache_query_tokens"] = columns.get("prompt_tokens", 0.0)
    return columns


def _of(column: str, name: str, readings: Sequence[tuple[str, Labels, float]]) -> float | None:
    values = [value for found, labels, value in readings if found == name and _is_counted(labels)]
    if not values:
        return None
    return sum(values) / len(values) if column == "kv_cache_ratio" else sum(values)


def _sum(name: str, readings: Sequence[tuple[str, Labels, float]]) -> float | None:
    return _of("", name, readings)


def _is_counted(labels: Mapping[str, str]) -> bool:
    """Ranks of one engine that all say the same (SGLang, `--enable-metrics-for-all-schedulers`) count once."""
    return all(labels.get(rank, "0") in ("", "0") for rank in ("tp_rank", "pp_rank"))


def _devices(readings: Sequence[tuple[str, Labels, float]]) -> list[tuple[int, dict[str, float]]]:
    """Columns of each GPU's row; devices of several hosts are counted through."""
    rows: dict[tuple[str, int], dict[str, float]] = {}
    for name, labels, value in readings:
        if name in DEVICE_COLUMNS and labels.get("gpu", "").isdecimal() and value >= 0:
            column, factor = DEVICE_COLUMNS[name]
            rows.setdefault((labels.get("Hostname", ""), int(labels["gpu"])), {})[column] = value * factor
    hosts = {host for host, _ in rows}
    return [(gpu if len(hosts) == 1 else index, rows[host, gpu]) for index, (host, gpu) in enumerate(sorted(rows))]


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
