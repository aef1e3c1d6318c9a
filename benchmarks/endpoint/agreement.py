"""Whether tools that loaded one server say the same of it, once their words mean the same.

Figures of other tools are those that the importers read from the tools' own files. One of another definition is converted by
`warehouse.definitions`, or left out. Each tool's figures lie beside those of the server's own log for the requests of that tool, for a
server in a busy machine is not equally quick to all, and tools differ in how soon they send the next request. Each figure of another
tool says whether it `agrees` with ours within 1 %; where it does not, the log of its requests differs as much from that of ours
(`log too`: what happened differed), or else it is the error of the `tool`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collectors._importing import File, Said, importer
from warehouse import definitions

MEANINGS = {
    "ttft_s": ("first_nonempty_chunk",),
    "ttft_p50_s": ("first_nonempty_chunk",),
    "tpot_s": ("e2el_minus_ttft_over_n_minus_1",),
    "tpot_p50_s": ("e2el_minus_ttft_over_n_minus_1",),
    # of answers of one length, one token a chunk, the mean over requests is that over all gaps
    "itl_s": ("per_token_split_chunks", "per_token_pooled"),
    "icl_s": ("per_chunk_request_mean", "per_chunk_pooled"),
    "ntpot_s": ("e2el_over_n",),
    "e2el_s": ("last_chunk",),
    "output_tokens_per_s": ("tokens_over_duration", "tokens_over_whole_run"),
    "requests_per_s": ("tokens_over_duration", "tokens_over_whole_run"),
    "num_requests": (),
    "num_failed_requests": (),
    "output_tokens": (),
}
"""Columns that are compared -> the definitions that mean the same here; none for a count."""

LIMIT = 0.01


@dataclass(frozen=True)
class Figures:
    """Columns of one run and what they mean."""

    columns: Mapping[str, Any]
    definitions: Mapping[str, str]

    def value(self, column: str, tokens: int) -> float | None:
        """A column in the meaning that is compared; None where the run does not tell."""
        if self._means(column):
            found = self.columns[column]
            return None if found is None else float(found)
        given = {name: self.columns[name] for name in ("ttft_s", "tpot_s", "e2el_s") if self._means(name)}
        if column not in ("itl_s", "ntpot_s", "e2el_s"):
            return None
        return definitions.convert(column, given, tokens=tokens).value

    def _means(self, column: str) -> bool:
        meant = MEANINGS[column]
        metric = column.replace("_p50", "")
        return self.columns.get(column) is not None and (not meant or self.definitions.get(metric) in meant)


def imported(file: Path) -> Figures:
    """The one run of a tool's file, as its importer reads it."""
    (run,) = importer(File(file)).read(File(file), Said())
    return Figures(run.columns, run.definitions)


def logged(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The same columns of the server's log: from when it read a request to just before it wrote each chunk."""
    received = np.asarray([entry["received_s"] for entry in entries])
    written = np.asarray([[before for before, _ in entry["written_s"]] for entry in entries])
    count, tokens = written.shape
    ttft, e2el = written[:, 0] - received, written[:, -1] - received
    tpot = (e2el - ttft) / (tokens - 1)
    duration_s = float(written.max() - received.min())
    gap_s = float(tpot.mean())
    return {
        "ttft_s": float(ttft.mean()), "tpot_s": gap_s, "itl_s": gap_s, "icl_s": gap_s, "ntpot_s": float(e2el.mean()) / tokens,
        "e2el_s": float(e2el.mean()), "output_tokens_per_s": count * tokens / duration_s, "requests_per_s": count / duration_s,
        "ttft_p50_s": float(np.percentile(ttft, 50)), "tpot_p50_s": float(np.percentile(tpot, 50)), "num_requests": float(count),
        "num_failed_requests": 0.0, "output_tokens": float(tokens),
    }  # fmt: skip


def table(ours: str, figures: Mapping[str, Figures], logs: Mapping[str, Mapping[str, float]], tokens: int) -> list[str]:
    """Lines: of each metric and tool the figure, its error against the log of its own requests, and its distance from ours."""
    width = 44
    lines = [f"{'':20}" + "".join(f"{tool:>{width}}" for tool in figures)]
    lines.append(f"{'metric':20}" + f"{'figure   off its log   off ours':>{width}}" * len(figures))
    for column in MEANINGS:
        mine = figures[ours].value(column, tokens)
        line = f"{column:20}"
        for tool, one in figures.items():
            value, true = one.value(column, tokens), logs[tool][column]
            if value is None:
                line += f"{'not said':>{width}}"
                continue
            apart = "" if tool == ours or not mine else _verdict(value, true, mine, logs[ours][column])
            line += f"{f'{value:.6g} {_percent(value, true):>9} {apart:>21}':>{width}}"
        lines.append(line)
    return lines


def _percent(value: float, true: float) -> str:
    return f"{(value / true - 1) * 100:+.2f} %" if true else f"{value:+g}"


def _verdict(value: float, true: float, mine: float, mine_true: float) -> str:
    apart = value / mine - 1
    if abs(apart) <= LIMIT:
        return f"{apart * 100:+.2f} % agrees"
    served = true / mine_true - 1
    whose = "log too" if abs((1 + apart) / (1 + served) - 1) <= LIMIT else "tool"
    return f"{apart * 100:+.2f} % {whose}"
