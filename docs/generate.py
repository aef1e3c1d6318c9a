"""Write docs/schema.md, metrics.md and cli.md from the code: `make docs`. tests/test_docs.py tells when one is stale."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from enum import EnumType
from pathlib import Path
from typing import Any

import pyarrow as pa

from warehouse import metrics, schema

FOLDER = Path(__file__).parent
NOTICE = "<!-- Written by docs/generate.py from {source}. Do not edit; run `make docs`. -->"


def pages() -> dict[str, str]:
    """File name -> text of every generated page."""
    return {"schema.md": schema_page(), "metrics.md": metrics_page(), "cli.md": cli_page()}


def schema_page() -> str:
    """Every table: grain, key, columns with type, meaning and vocabulary."""
    lines = [
        NOTICE.format(source="warehouse/schema.py"),
        "# Tables and columns",
        "",
        "Everything is stored in SI, the unit is the suffix of a column's name, times are UTC. NULL"
        " means *not measured*, never zero. **Required** columns are never NULL. Metrics are described in [metrics.md](metrics.md).",
        "",
        "`config_id` is the hash of these columns of `runs`, the key that joins measured, published, analytical and"
        f" predicted rows ([why](decisions/0001-configuration-key.md)): {_codes(schema.CONFIGURATION_NAMES)}."
        f" Absent {_codes(schema.ONE_BY_DEFAULT)} mean 1.",
        "",
        *_rows(
            ("Table", "One row is", "Key"),
            ((f"[{table.name}](#{table.name})", table.grain, _codes(table.key)) for table in schema.TABLES.values()),
        ),
    ]
    for table in schema.TABLES.values():
        lines += ["", f"## {table.name}", "", f"One row is {table.grain}. Key: {_codes(table.key)}.", ""]
        lines += _rows(("Column", "Type", "Meaning", "Values"), (_column_cells(column) for column in table.columns))
    return _text(lines)


def metrics_page() -> str:
    """Every metric: column, unit, display, direction, definition, formula; then the definition ids."""
    lines = [
        NOTICE.format(source="warehouse/metrics.py"),
        "# Metrics",
        "",
        inspect.getdoc(metrics).split("\n\n")[-1].replace("\n", " "),  # type: ignore[union-attr]
        "",
        *_rows(
            ("Metric", "Column", "Stored in", "Shown in", "Better", "Definition", "Formula", "Statistics"),
            (_metric_cells(metric) for metric in metrics.METRICS),
        ),
        "",
        "A statistic has its own column, the unit stays last: `latency_p99_s`. Percentiles are over requests or repeats"
        " with linear interpolation (type 7); `std` is the sample standard deviation (ddof = 1).",
        "",
        "## Definitions",
        "",
        "`runs.metric_definitions` says which of several definitions a value follows. A value under a definition"
        " that is not listed here stays in `samples`, under its tool's name.",
        "",
        *_rows(("Definition id", "Meaning"), ((f"`{key}`", text) for key, text in metrics.DEFINITIONS.items())),
    ]
    return _text(lines)


def cli_page() -> str:
    """Every command of `rooflake` with its arguments and options, read from the application itself."""
    import typer

    from etl.cli import app

    lines = [NOTICE.format(source="etl/cli.py"), "# Command line"]
    for path, command in _commands(("rooflake",), typer.main.get_command(app)):
        context = command.make_context(path[-1], [], resilient_parsing=True)
        usage = " ".join((*path, *command.collect_usage_pieces(context)))
        lines += ["", f"{'#' * min(len(path) + 1, 4)} {' '.join(path)}", "", f"`{usage}`"]
        if command.help:
            lines += ["", inspect.cleandoc(command.help).replace("\f", "").strip()]
        parameters = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
        if parameters:
            lines += [
                "",
                *_rows(("Parameter", "Default", "Meaning", "Values"), (_parameter_cells(item) for item in parameters)),
            ]
    return _text(lines)


def _commands(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _commands((*path, name), child)


def _parameter_cells(parameter: Any) -> tuple[str, str, str, str]:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.name.upper()] if is_argument else parameter.opts + parameter.secondary_opts
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif isinstance(default, bool):
        shown = next(iter(_codes(parameter.opts if default else parameter.secondary_opts).split(", ")))
    else:
        shown = "" if default is None or callable(default) or default in ("", (), []) else f"`{default}`"
    annotation = parameter.type_descriptor.annotation
    choices: list[Any] = list(annotation) if isinstance(annotation, EnumType) else []
    return _codes(names), shown, parameter.help or "", _codes(choice.value for choice in choices)


def _column_cells(column: schema.Column) -> tuple[str, str, str, str]:
    meaning = f"**Required.** {column.doc}" if column.is_required else column.doc
    return f"`{column.name}`", _type(column.type), meaning, _codes(column.values or ())


def _metric_cells(metric: metrics.Metric) -> tuple[str, ...]:
    return (
        metric.label,
        f"`{metric.key}`",
        metric.unit or "ratio",
        metric.display_unit or "ratio",
        metric.better or "",
        metric.definition,
        f"`{metric.formula}`" if metric.formula else "",
        _codes(metric.statistics),
    )


def _type(arrow: pa.DataType) -> str:
    if pa.types.is_list(arrow):
        return f"list of {_type(arrow.value_type)}"
    if pa.types.is_map(arrow):
        return f"map of {_type(arrow.key_type)} to {_type(arrow.item_type)}"
    return "timestamp, UTC" if pa.types.is_timestamp(arrow) else str(arrow)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"docs/{name}")
