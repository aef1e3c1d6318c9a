"""Service-level objectives: what an answer must meet to count in goodput, and the limits that MLPerf sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from collectors.endpoint._stream import Reply
from warehouse.metrics import metric

MARGIN = 1e-12
"""Relative: an objective met exactly is met, whatever the last bit of a difference says."""


@dataclass(frozen=True)
class Objectives:
    """Seconds that a latency may take, None for no objective. `percentile` of the requests must meet each."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2el_s: float | None = None
    percentile: int | None = None
    """What the source of the objectives asks for: 99 for p99; None where it is left open."""
    name: str | None = None

    @property
    def is_any(self) -> bool:
        return any(limit is not None for limit in self._limits.values())

    def are_met(self, reply: Reply) -> bool:
        """Does an answer meet every objective? A latency that was not observed meets none; an answer of one token has no TPOT to miss."""
        return all(_is_met(reply, latency, limit) for latency, limit in self._limits.items())

    def columns(self) -> dict[str, float | None]:
        """The objectives as columns of `runs`."""
        return {f"slo_{latency}": limit for latency, limit in self._limits.items()}

    def verdict(self, columns: Mapping[str, Any]) -> str | None:
        """Whether a run held the objectives of a preset, in a sentence; None where they ask for no percentile."""
        if self.percentile is None:
            return None
        wanted = {latency: limit for latency, limit in self._limits.items() if limit is not None}
        found: list[tuple[Any, float]] = [
            (columns.get(metric(name).column(f"p{self.percentile}")), limit) for name, limit in wanted.items()
        ]
        asked = " and ".join(f"{metric(latency).label} {limit:g} s" for latency, limit in wanted.items())
        if any(value is None for value, _ in found):
            held = "too few requests tell"
        else:
            held = "held" if all(value <= limit for value, limit in found) else "not held"
        return f"{self.name} asks for {asked} at p{self.percentile}: {held}."

    @property
    def _limits(self) -> dict[str, float | None]:
        return {"ttft_s": self.ttft_s, "tpot_s": self.tpot_s, "e2el_s": self.e2el_s}


NONE = Objectives()


def _preset(name: str, ttft_s: float, tpot_s: float) -> tuple[str, Objectives]:
    return name, Objectives(ttft_s, tpot_s, percentile=99, name=name)


PRESETS: dict[str, Objectives] = dict(
    (
        _preset("mlperf-llama-3.1-8b", 2.0, 0.1),
        _preset("mlperf-llama-3.1-8b-interactive", 0.5, 0.03),
        _preset("mlperf-llama-2-70b", 2.0, 0.2),
        _preset("mlperf-llama-2-70b-interactive", 0.45, 0.04),
        _preset("mlperf-llama-3.1-405b", 6.0, 0.175),
        _preset("mlperf-llama-3.1-405b-interactive", 4.5, 0.08),
        _preset("mlperf-mixtral-8x7b", 2.0, 0.2),
        _preset("mlperf-deepseek-r1", 2.0, 0.08),
        _preset("mlperf-deepseek-r1-interactive", 1.5, 0.015),
        _preset("mlperf-gpt-oss-120b", 3.0, 0.08),
        _preset("mlperf-gpt-oss-120b-interactive", 2.0, 0.02),
    )
)
"""Limits of MLPerf Inference, server and interactive scenario, p99 under Poisson arrivals (mlcommons/inference_policies, read in
July 2026)."""


def objectives(
    name: str | None = None, *, ttft_s: float | None = None, tpot_s: float | None = None, e2el_s: float | None = None
) -> Objectives:
    """The objectives of a preset, of explicit seconds, or of a preset with some replaced (then no longer the preset's).

    Raises ValueError for a name that is not known and for a limit that is no time.
    """
    if name is not None and name not in PRESETS:
        raise ValueError(f"'{name}' is not a set of objectives. Known: {', '.join(PRESETS)}. Set it with --slo.")
    given = {"ttft_s": ttft_s, "tpot_s": tpot_s, "e2el_s": e2el_s}
    for latency, limit in given.items():
        if limit is not None and not (limit > 0 and math.isfinite(limit)):
            option = latency.replace("_", "-")
            raise ValueError(f"slo_{latency} is {limit!r}; an objective must be above 0 s. Set it with --slo-{option}.")
    preset = NONE if name is None else PRESETS[name]
    changed = {latency: limit for latency, limit in given.items() if limit is not None}
    return replace(preset, **changed, percentile=None, name=None) if changed else preset


def _is_met(reply: Reply, latency: str, limit: float | None) -> bool:
    if limit is None or (latency == "tpot_s" and reply.output_tokens is not None and reply.output_tokens < 2):
        return True
    value: float | None = getattr(reply, latency)
    return value is not None and value <= limit * (1 + MARGIN)
