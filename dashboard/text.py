"""Numbers, times and ids as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from warehouse.metrics import BY_KEY, Metric
from warehouse.schema import QUIET_LOAD_RATIO

KINDS = ("measured", "published", "analytical", "predicted")
KIND_MEANINGS = {
    "measured": "timed by a collector of this lake",
    "published": "printed by others",
    "analytical": "computed from the roofline: a bound",
    "predicted": "by a trained predictor, with an interval",
}
ABSENT = "–"
_SPELT = {
    "llm": "LLM", "kv": "KV", "tpot": "TPOT", "ttft": "TTFT", "e2el": "E2EL", "url": "URL", "id": "id", "cpu": "CPU", "gpu": "GPU", "cuda": "CUDA",
    "os": "OS", "ecc": "ECC", "mig": "MIG", "vbios": "VBIOS", "sm": "SM", "pcie": "PCIe", "nvlinks": "NVLinks", "cudnn": "cuDNN", "nccl": "NCCL", "numa": "NUMA", "gemm": "GEMM", "lm": "LM", "proj": "projection", "qkv": "QKV", "q": "Q", "k": "K", "v": "V", "o": "O", "mlp": "MLP", "is": "", "dtype": "format",
    "h2d": "host to device", "d2h": "device to host",
}  # fmt: skip
_CLOCK = Metric("clock_hz", "Clock", "Hz", "MHz", 1e-6, None, "cycles per second")
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_POWERS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def number(value: float | None) -> str:
    """Three significant digits, no exponent between 0.001 and 10 million: 0.0123, 1.23, 12.3, 1,234."""
    if value is None:
        return ABSENT
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e7 or size < 1e-3:
        return f"{value:.2e}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def count(value: int | None) -> str:
    """12,345."""
    return ABSENT if value is None else f"{value:,}"


def plural(value: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def quantity(metric: Metric, value: float | None) -> str:
    """A stored (SI) value in the unit that suits its size: 12.3 ms, 1.5 GiB, 3.1 TFLOP."""
    if value is None:
        return ABSENT
    if metric.unit == "s":
        return _scaled(value, _TIMES)
    if metric.unit == "B":
        return _scaled(value, _BYTES)
    if metric.unit in ("FLOP", "FLOP/s", "B/s"):
        factor, prefix = _pick(value, _POWERS)
        return f"{number(value / factor)} {prefix}{metric.unit}"
    shown = number(value * metric.display_factor)
    return f"{shown} {metric.display_unit}".strip() if metric.display_unit != "%" else f"{shown} %"


def column_quantity(column: str, value: Any) -> str:
    """A value of any column of `runs` or `ops`, its unit read from the metric or from the column's suffix."""
    if isinstance(value, float):
        metric = BY_KEY.get(column) or _metric_of_suffix(column)
        return quantity(metric, value) if metric is not None else number(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return ABSENT if value is None else str(value)


def moment(value: datetime | None) -> str:
    """2026-11-20 14:05 UTC."""
    return ABSENT if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def ago(value: datetime | None, now: datetime | None = None) -> str:
    """How long ago in one unit: just now, 5 min ago, 3 days ago."""
    if value is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - value).total_seconds()
    for size, noun in ((86400.0, "day"), (3600.0, "hour")):
        if seconds >= size:
            return f"{plural(int(seconds // size), noun)} ago"
    if seconds >= 60:
        return f"{int(seconds // 60)} min ago"
    return "just now"


def words(name: str) -> str:
    """A column or enum value as a label: `weight_dtype` is Weight dtype, `num_samples` Samples, `duration_s` Duration."""
    metric = BY_KEY.get(name)
    if metric is not None:
        return metric.label
    for suffix in ("_per_s", "_bytes", "_s", "_hz", "_w"):
        name = name.removesuffix(suffix)
    parts = [_SPELT.get(part, part) for part in name.removeprefix("num_").split("_")]
    label = " ".join(part for part in parts if part)
    return label[:1].upper() + label[1:]


def busy(other_load_ratio: float | None) -> str | None:
    """What a reader must know of a row that was measured on a busy machine; None for a quiet one and where it is not known."""
    if other_load_ratio is None or other_load_ratio <= QUIET_LOAD_RATIO:
        return None
    return f"busy machine: {number(100 * other_load_ratio)} % of its cores"


def gain(elasticity: float, resource: str) -> str:
    """What a tenth more of a resource does to the bound, in words."""
    percent = 100 * (1.1**elasticity - 1)
    return f"+10 % {resource} makes the bound {f'{percent:.1f} % faster' if percent >= 0.05 else 'no faster'}."


def short_device(name: str) -> str:
    """A device without its maker, for axes: NVIDIA GeForce RTX 4090 is RTX 4090."""
    for maker in ("NVIDIA ", "GeForce ", "AMD Instinct ", "Intel "):
        name = name.replace(maker, "")
    return name


def _pick(value: float, scales: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    for factor, name in scales:
        if abs(value) >= factor:
            return factor, name
    return scales[-1]


def _scaled(value: float, scales: tuple[tuple[float, str], ...]) -> str:
    factor, unit = _pick(value, scales) if value else scales[0]
    return f"{number(value / factor)} {unit}"


def _metric_of_suffix(column: str) -> Metric | None:
    for statistic in ("p50", "p90", "p95", "p99", "std"):
        if f"_{statistic}_" in f"{column}_":
            return BY_KEY.get(column.replace(f"_{statistic}", ""))
    by_suffix = {
        "_flops_per_s": "achieved_flops_per_s",
        "_bytes_per_s": "achieved_bytes_per_s",
        "_bytes": "bytes_moved",
        "_w": "power_avg_w",
        "_s": "latency_s",
    }
    if column.endswith("_hz"):
        return _CLOCK
    for suffix, key in by_suffix.items():
        if column.endswith(suffix) and not column.endswith(("tokens_per_s", "requests_per_s", "rate_per_s")):
            return BY_KEY[key]
    return None
