"""aiperf's summary of what a server's /metrics said during a run: no request of its own, figures of the engine as samples."""

from __future__ import annotations

import re
from collections.abc import Iterator

from collectors._genai_perf import tables
from collectors._importing import Run
from collectors._load_results import STATISTICS, Results
from collectors._names import model_name

FIRST_LINE = "# AIPerf Server Metrics Export"

_STATISTIC = re.compile(r"avg|min|max|std|p\d+|p\d+_estimate|total|rate|rate_\w+|count|count_rate|sum|sum_rate")
_NO_LABELS = ("Endpoint", "Type", "Metric", "Unit", "Description", "model_name", "engine")


def run(text: str, tool: str) -> Run:
    """Gauges, counters and histograms by statistic; labels stand in the name, `requests{reason=stop}_total`.

    The tables of constants that end the file are left out: they hold the server's settings as text.
    """
    figures, models = Results(tool), set()
    totals: dict[str, float] = {}
    for row in _rows(text):
        labels = [f"{name}={value}" for name, value in row.items() if value and _is_label(name)]
        name = row["Metric"] + (f"{{{','.join(labels)}}}" if labels else "")
        models.add(row.get("model_name") or None)
        for word, cell in row.items():
            if cell and _STATISTIC.fullmatch(word):
                figures.keep(f"{name}_{STATISTICS.get(word, word)}", float(cell), row["Unit"])
        if row["Type"] == "counter" and row.get("total"):
            totals[name] = totals.get(name, 0.0) + float(row["total"])
    asked, found = totals.get("vllm:prefix_cache_queries"), totals.get("vllm:prefix_cache_hits")
    models.discard(None)
    return Run(
        "all",
        {
            "phase": "serve",
            "framework": "vllm" if any(name.startswith("vllm:") for name in totals) else None,
            "prefix_cache_hit_ratio": found / asked if found is not None and asked else None,
        },
        model=model_name(models.pop()) if len(models) == 1 else None,
        notes=["The server's own counters: what its clients saw is in the other exports of the run."],
        samples=figures.samples,
    )


def _rows(text: str) -> Iterator[dict[str, str]]:
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for header, rows in tables(plain):
        if "Type" in header:
            yield from (dict(zip(header, row, strict=True)) for row in rows)


def _is_label(name: str) -> bool:
    return name not in _NO_LABELS and not _STATISTIC.fullmatch(name)
