"""Operators of a run as a tree: rows of the query `run_ops` in, nodes for an icicle out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dashboard import text
from warehouse.metrics import BY_KEY, Metric

ROOT = "all"

OP_METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            "seconds", "Time", "s", "ms", 1e3, "lower", "measured or published time; of an analytical run its bound"
        ),
        BY_KEY["roofline_s"],
        Metric(
            "estimate_s",
            "Estimate",
            "s",
            "ms",
            1e3,
            "lower",
            "analytical time with calibrated efficiencies and launches",
        ),
        Metric(
            "estimate_share",
            "Share of estimate",
            "",
            "%",
            100.0,
            None,
            "all executions of the operator over those of all leaves",
        ),
        Metric("num_kernels", "Kernels", "", "", 1.0, "lower", "kernels that the execution profile launches"),
        BY_KEY["flops"],
        BY_KEY["bytes_moved"],
        Metric("memory_bytes", "Memory", "B", "MiB", 1 / 2**20, "lower", "memory allocated by the operator"),
        Metric("num_parameters", "Parameters", "", "M", 1e-6, None, "parameters of the module and those below it"),
        Metric("parameter_bytes", "Parameter bytes", "B", "MiB", 1 / 2**20, "lower", "bytes of its parameters"),
        Metric("activation_bytes", "Activations", "B", "MiB", 1 / 2**20, "lower", "outputs of the module"),
        Metric(
            "memory_peak_bytes",
            "Peak memory",
            "B",
            "MiB",
            1 / 2**20,
            "lower",
            "peak allocated while it ran, above what was there before",
        ),
        Metric("intensity", "Arithmetic intensity", "FLOP/B", "FLOP/B", 1.0, None, "work per byte moved", "F / B"),
        BY_KEY["achieved_flops_per_s"],
        Metric(
            "roof_share", "Share of roof", "", "%", 100.0, "higher", "achieved FLOP/s over the roof at that intensity"
        ),
    )
}
SIZES = ("seconds", "estimate_s", "num_kernels", "flops", "bytes_moved", "memory_bytes", "roofline_s")
"""Metrics that add up over operators."""


def value(row: Mapping[str, Any], key: str) -> float | None:
    """A metric of one execution of an operator; NULL where the row does not know it."""
    if key == "roof_share":
        achieved, roof = row["achieved_flops_per_s"], row["roof_flops_per_s"]
        return None if achieved is None or not roof else float(achieved) / float(roof)
    found = row[key]
    return None if found is None else float(found)


def tree(rows: Iterable[Mapping[str, Any]], size: str, colour: str) -> list[dict[str, Any]]:
    """Nodes (id, parent, label, value, colour, hover, link) of an icicle, root first.

    An operator's value is its size times its count. A container is as large as itself or as its children together,
    whichever is more, so that what the children do not explain stays visible. A parent without a row of its own (published
    tables name none) is made from the dotted path; phases of one run (forward, backward) stand side by side.
    """
    table = list(rows)
    has_phases = len({row["phase"] for row in table}) > 1
    nodes: dict[str, dict[str, Any]] = {ROOT: _node(ROOT, "", "run")}
    by_path = {(row["phase"], row["path"]): f"op-{row['op_index']}" for row in reversed(table)}
    for row in table:
        parent_path = row["parent_path"] if row["parent_path"] is not None else _prefix(row["path"])
        parent = _place(nodes, by_path, row["phase"], parent_path, has_phases)
        own = value(row, size)
        key = f"op-{row['op_index']}"
        nodes[key] = _node(
            key, parent, _label(row, parent_path), None if own is None else own * row["count"], value(row, colour), row
        )
    _add_up(nodes)
    for node in nodes.values():
        node["hover"] = _hover(node, size)
    shown = [node for node in nodes.values() if node["value"]]
    tops = [node for node in shown if node["parent"] == ROOT]
    if len(tops) == 1:
        tops[0]["parent"] = ""
        shown.remove(nodes[ROOT])
    return shown


def _node(
    key: str, parent: str, label: str, own: float | None = None, colour: float | None = None, row: Any = None
) -> dict[str, Any]:
    return {"id": key, "parent": parent, "label": label, "value": own, "colour": colour, "row": row, "link": None}


def _place(
    nodes: dict[str, dict[str, Any]], by_path: Mapping[Any, str], phase: str | None, path: str | None, has_phases: bool
) -> str:
    """Id of the node a path hangs on; made, with everything above it, where no operator has that path."""
    if path is None:
        if not has_phases or phase is None:
            return ROOT
        nodes.setdefault(f"phase-{phase}", _node(f"phase-{phase}", ROOT, phase))
        return f"phase-{phase}"
    if (phase, path) in by_path:
        return by_path[phase, path]
    key = f"path-{phase}-{path}"
    if key not in nodes:
        above = _place(nodes, by_path, phase, _prefix(path), has_phases)
        nodes[key] = _node(key, above, _last(path))
    return key


def _prefix(path: str) -> str | None:
    """The dotted path above; a layer's number (or `*`) belongs to the word before it."""
    parts = path.split(".")
    cut = 2 if len(parts) > 1 and (parts[-1].isdigit() or parts[-1] == "*") else 1
    return ".".join(parts[:-cut]) or None


def _last(path: str) -> str:
    above = _prefix(path)
    return path if above is None else path[len(above) + 1 :]


def _label(row: Mapping[str, Any], parent_path: str | None) -> str:
    path = row["path"]
    name = path[len(parent_path) + 1 :] if parent_path and path.startswith(f"{parent_path}.") else _last(path)
    return f"{name} × {row['count']}" if row["count"] > 1 else name


def _add_up(nodes: dict[str, dict[str, Any]]) -> None:
    children: dict[str, list[str]] = {}
    for node in nodes.values():
        children.setdefault(node["parent"], []).append(node["id"])

    def total(key: str, above: frozenset[str]) -> float:
        below = sum(total(child, above | {key}) for child in children.get(key, ()) if child not in above)
        own = nodes[key]["value"]
        nodes[key]["value"] = below if own is None else max(own, below)
        return float(nodes[key]["value"])

    total(ROOT, frozenset())


def _hover(node: Mapping[str, Any], size: str) -> str:
    metric = OP_METRICS[size]
    row = node["row"]
    if row is None:
        return f"<b>{node['label']}</b><br>{metric.label}: {text.quantity(metric, node['value'])}"
    parts = [f"<b>{row['path']}</b>", f"{text.words(row['op_kind'])}, {text.plural(row['count'], 'execution')}"]
    for key, one in OP_METRICS.items():
        found = value(row, key)
        if found is not None:
            parts.append(
                f"{one.label}: {text.quantity(one, found)}" + (" each" if row["count"] > 1 and key in SIZES else "")
            )
    if row["bound"] is not None:
        parts.append(f"{row['bound']} bound")
    return "<br>".join(parts)


def leaves(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Operators without children: the ones that sums run over."""
    return [row for row in rows if row["is_leaf"]]
