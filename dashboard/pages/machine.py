"""Machine: what a device promises, what microbenchmarks reached on it, and how far each kernel, copy and collective is from its roof."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from dash import Dash, Input, Output, dcc, html

from dashboard import components as c
from dashboard import kernel_tables, text
from dashboard import measured_figures as charts
from dashboard.data import Lake
from warehouse.metrics import BY_KEY, Metric

NAME, TITLE, MENU = "machine", "Machine", "what a device really reaches"
STATE = ("device", "cache", "dtype", "kernel")
COPIES = ("memcpy", "triad", "read", "memcpy_h2d", "memcpy_d2h")
COLLECTIVES = (
    "all_reduce", "all_gather", "reduce_scatter", "reduce", "broadcast", "all_to_all", "send_recv", "communication",
)  # fmt: skip
SHARE = Metric("share", "Share of the datasheet's roof", "", "%", 100.0, "higher", "achieved over what the roof allows")
SHARE_OF_MEASURED = Metric(
    "share_of_measured", "Share of the measured roof", "", "%", 100.0, "higher", "achieved over what was reached"
)
CACHES = (("any", "Any"), ("cold", "Cold"), ("warm", "Warm"))
COMMAND = "rooflake collect microbench"

Row = dict[str, Any]


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    devices = lake.rows("machine_list", snapshot)
    if not devices:
        return c.page(
            TITLE,
            "What a device really reaches.",
            c.nothing("No microbenchmark is here yet.", COMMAND),
            c.controls_hidden(NAME, snapshot),
            snapshot=snapshot,
            path=c.href(NAME),
        )
    names = {row["hardware_id"]: row["name"] for row in devices}
    device = c.chosen(params, "device", list(names))
    dtypes = _dtypes(lake, device, snapshot)
    cache = c.chosen(params, "cache", [key for key, _ in CACHES], c.ANY)
    dtype = c.chosen(params, "dtype", [c.ANY, *dtypes], c.ANY)
    kernels = kernel_tables.kernels_of(lake, device, snapshot)
    kernel = c.chosen(params, "kernel", [*kernels, c.ANY])
    return c.page(
        "What a machine reaches",
        "A datasheet says what a device can do; GEMMs, copies and collectives of every size say how much of it comes out.",
        c.controls(
            NAME,
            snapshot,
            c.select(NAME, "device", "Device", [{"value": key, "label": name} for key, name in names.items()], device, width=320),
            c.select(NAME, "dtype", "Number format", [{"value": c.ANY, "label": "Any"}, *dtypes], dtype, width=160),
            c.segments(NAME, "cache", "Cache", CACHES, cache),
            c.select(NAME, "kernel", "Kernel timed by others", _kernels(kernels), kernel, width=220),
        ),
        c.loading(content(lake, device, cache, dtype, kernel, snapshot), "machine-content"),
        snapshot=snapshot,
        path=c.href(NAME),
    )  # fmt: skip


def register(app: Dash, lake: Lake) -> None:
    @app.callback(
        Output("machine-content", "children"),
        inputs={"state": {name: Input(c.control(NAME, name), "value") for name in (*STATE, "snapshot")}},
        prevent_initial_call=True,
    )
    def show(state: dict[str, str]) -> c.Component:
        return c.guarded(lambda: content(lake, *(state[name] for name in (*STATE, "snapshot"))))

    @app.callback(
        Output(c.control(NAME, "dtype"), "data"),
        Output(c.control(NAME, "dtype"), "value"),
        Output(c.control(NAME, "kernel"), "data"),
        Output(c.control(NAME, "kernel"), "value"),
        Input(c.control(NAME, "device"), "value"),
        Input(c.control(NAME, "dtype"), "value"),
        Input(c.control(NAME, "kernel"), "value"),
        Input(c.control(NAME, "snapshot"), "value"),
        prevent_initial_call=True,
    )
    def narrow(device: str, dtype: str, kernel: str, snapshot: str) -> tuple[Any, ...]:
        """Offer the number formats and the timed kernels of the chosen device; keep what was chosen where it is still there."""
        dtypes = _dtypes(lake, device, snapshot)
        kernels = [*kernel_tables.kernels_of(lake, device, snapshot), c.ANY]
        formats = [{"value": c.ANY, "label": "Any"}, *dtypes]
        return (
            formats,
            dtype if dtype in dtypes else c.ANY,
            _kernels(kernels[:-1]),
            kernel if kernel in kernels else kernels[0],
        )


def content(
    lake: Lake, device: str | None, cache: str | None, dtype: str | None, kernel: str | None, snapshot: str | None
) -> list[c.Component]:
    """Ceilings, then one card for each kind of microbenchmark that has points, and the table."""
    parameters = {"hardware_id": device, "cache_state": c.free(cache), "dtype": c.free(dtype)}
    table = lake.query("microbench_points", snapshot, **parameters)
    rows = [row for row in table.to_pylist() if row["status"] == "ok"]
    published = [
        row
        for row in lake.rows("microbench_points", snapshot, source_kind="published", kernels=["gemm"])
        if row["hardware_id"] != device
    ]
    return [
        ceilings_card(lake, device, snapshot),
        *verdicts(rows),
        *gemm_cards(rows, published, parameters, snapshot),
        *copy_cards(rows, parameters, snapshot),
        *collective_cards(rows, parameters, snapshot),
        *kernel_cards(rows, parameters, snapshot),
        *kernel_tables.cards(lake, device, c.free(kernel), c.free(dtype), snapshot),
        *([points_card(table.to_pylist(), parameters, snapshot)] if table.num_rows else []),
    ]


def ceilings_card(lake: Lake, device: str | None, snapshot: str | None) -> c.Component:
    """What the datasheet says beside what was reached."""
    table = lake.query("device_ceilings", snapshot, hardware_id=device)
    rows = table.to_pylist()
    if not any(row["measured"] is not None for row in rows):
        body: list[c.Component] = [
            c.nothing(
                "Nobody has measured the ceilings of this device; its rows here were published by others.", COMMAND
            )
        ]
    else:
        body = [
            c.graph("ceilings", charts.ceilings(table), "Bars: share of the datasheet that was reached", min_width=300)
        ]
    shown = [
        {
            "resource": charts.resource_name(row["resource"]),
            **{key: _rated(row[key], row["unit"]) for key in ("datasheet", "measured")},
            "share": row["share"],
        }
        for row in rows
    ]
    columns = [
        c.text_column("resource", minWidth=190), c.text_column("datasheet", "Datasheet"), c.text_column("measured", "Reached"), c.metric_column("mfu", "share", "Reached"),
    ]  # fmt: skip
    about = "The best GEMM, copy and collective that were measured: the roof a program can hope for."
    if any(row["is_probed"] for row in rows):
        about += " No catalogue knows this device: what stands for its datasheet is a quick probe of it."
    return c.card(
        "Ceilings",
        *body,
        c.grid("ceilings", columns, shown),
        about=about,
        tools=c.exports("device_ceilings", snapshot, hardware_id=device),
        name="ceilings",
    )


def verdicts(rows: Sequence[Row]) -> list[c.Component]:
    """Points above a roof, named: a datasheet or a measurement is wrong there."""
    above = [row for row in rows if row["is_fault"]]
    beaten = [row for row in rows if row["is_above_measured_roof"] and not row["is_fault"]]
    if not above and not beaten:
        return []
    sentences = []
    if above:
        sentences.append(
            f"{text.plural(len(above), 'point')} above the datasheet's (or the probe's) roof: its time or that roof is wrong."
        )
    if beaten:
        sentences.append(
            f"{text.plural(len(beaten), 'point')} above the measured roof: the ceiling was measured too low. Measure it again."
        )
    lines = [
        html.Li([f"{sentence} ", *_links(mine)])
        for sentence, mine in zip(sentences, [one for one in (above, beaten) if one], strict=True)
    ]
    return [c.card(html.Span([html.I(className="rl-fault"), "Above the roof"]), html.Ul(lines, className="rl-notes"))]


def gemm_cards(
    rows: Sequence[Row], published: Sequence[Row], parameters: Mapping[str, Any], snapshot: str | None
) -> list[c.Component]:
    mine = [row for row in rows if row["kernel"] == "gemm"]
    if not mine:
        return []
    metric = SHARE if any(row["share"] is not None for row in mine) else BY_KEY["achieved_flops_per_s"]
    swept = {(row["n"], row["k"]) for row in mine if row["is_aligned"] and row["m"] != row["n"]}
    shown = [
        {**row, "is_square": row["m"] == row["n"] == row["k"] and (row["n"], row["k"]) not in swept}
        for row in [*mine, *(published if metric is SHARE else [])]
    ]
    table = _table(shown, _gemm_series)
    about = "2 M N K over the time, over the dense peak of the number format. Aligned: M, N and K are multiples of 8."
    if published and metric is SHARE:
        about += " Diamonds are published figures of other devices, against their own peak."
    return [
        c.card(
            "GEMM",
            c.graph("gemm", charts.curves(table, "m", metric, "M (rows)", log_x=True, most=100.0 if metric is SHARE else None),
                    "Lines: share of the peak that GEMMs reach, against M", min_width=320),
            about=about, tools=_exports(parameters, snapshot, ["gemm"]), name="gemm",
        )
    ]  # fmt: skip


def copy_cards(rows: Sequence[Row], parameters: Mapping[str, Any], snapshot: str | None) -> list[c.Component]:
    mine = [row for row in rows if row["kernel"] in COPIES]
    if not mine:
        return []
    table = _table(mine, _copy_series)
    return [
        c.card(
            "Copies",
            c.graph("copies", charts.curves(table, "size_bytes", BY_KEY["achieved_bytes_per_s"], "Size", log_x=True, log_y=True),
                    "Lines: bandwidth of copies against their size", min_width=320),
            about="Within the device, and to and from the host, from pinned and from pageable memory. A copy within the device reads and writes every byte.",
            tools=_exports(parameters, snapshot, COPIES), name="copies",
        )
    ]  # fmt: skip


def collective_cards(rows: Sequence[Row], parameters: Mapping[str, Any], snapshot: str | None) -> list[c.Component]:
    mine = [row for row in rows if row["kernel"] in COLLECTIVES]
    if not mine:
        return []
    table = _table(mine, _collective_series)
    shown = [
        c.graph(f"collectives-{name}", charts.curves(table, "size_bytes", BY_KEY[key], "Size", log_x=True, log_y=True), label, min_width=300)
        for name, key, label in (
            ("time", "latency_s", "Lines: time of collectives against size"),
            ("bandwidth", "bus_bytes_per_s", "Lines: bus bandwidth of collectives against size"),
        )
    ]  # fmt: skip
    return [
        c.card(
            "Collectives",
            html.Div(shown, className="rl-charts"),
            about=f"Time, and the traffic of the busiest link [{BY_KEY['bus_bytes_per_s'].formula}].",
            tools=_exports(parameters, snapshot, COLLECTIVES),
            name="collectives",
        )
    ]


def kernel_cards(rows: Sequence[Row], parameters: Mapping[str, Any], snapshot: str | None) -> list[c.Component]:
    """Attention, norms, softmax and elementwise kernels against the roof."""
    mine = [row for row in rows if row["kernel"] not in ("gemm", *COPIES, *COLLECTIVES)]
    if not mine:
        return []
    metric = next((one for one in (SHARE, SHARE_OF_MEASURED) if any(row[one.key] is not None for row in mine)), SHARE)
    table = _table(mine, _kernel_series)
    kernels = sorted({row["kernel"] for row in mine})
    return [
        c.card(
            "Other kernels",
            c.graph("kernels", charts.curves(table, "bytes_moved", metric, "Bytes moved", log_x=True, most=100.0),
                    "Lines: share of the roof that kernels reach, against the bytes they move", min_width=320),
            about="Attention against the greater of its FLOPs over the peak and its bytes over the bandwidth; the others against the bandwidth. "
            "What a warm cache serves can pass the roof of memory.",
            tools=_exports(parameters, snapshot, kernels), name="kernels",
        )
    ]  # fmt: skip


def points_card(rows: Sequence[Row], parameters: Mapping[str, Any], snapshot: str | None) -> c.Component:
    """The charts' twin: every point, failures too."""
    shown = [
        {**row, "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"])), "shape": shape(row), "machine": text.busy(row["other_load_ratio"]),
         "size": None if row["size_bytes"] is None else text.quantity(BY_KEY["bytes_moved"], float(row["size_bytes"]))}
        for row in rows
    ]  # fmt: skip
    columns = [
        c.link_column(), c.kind_column(), c.text_column("kernel"), c.text_column("shape"), c.text_column("size"), c.text_column("dtype", "Format"),
        c.text_column("cache_state", "Cache"), c.text_column("host_memory"), c.number_column("num_devices", "Ranks"), c.metric_column("latency_s"),
        c.metric_column("achieved_flops_per_s"), c.metric_column("achieved_bytes_per_s"), c.metric_column("bus_bytes_per_s"),
        c.metric_column("mfu", "share", "Of the datasheet"), c.metric_column("mfu", "share_of_measured", "Of the measured roof"), c.text_column("status"),
        c.text_column("status_detail"), c.text_column("machine"), c.text_column("source_id", "Source"),
    ]  # fmt: skip
    used = [column for column in columns if any(row.get(column["field"]) is not None for row in shown)]
    keep = ["run_id", *(column["field"] for column in used)]
    return c.card(
        "The points",
        c.grid("microbench", used, [{key: row[key] for key in keep} for row in shown]),
        about=f"{text.plural(len(rows), 'microbenchmark')} of this device.",
        tools=c.exports("microbench_points", snapshot, **parameters),
    )


def shape(row: Mapping[str, Any]) -> str:
    """The shape of a microbenchmark in words: 4096 × 11008 × 4096, or batch 4, 32 heads of 128, 2048 tokens."""
    if row["kernel"] == "gemm":
        return " × ".join(text.count(row[key]) for key in ("m", "n", "k"))
    parts = []
    if row["batch_size"] is not None:
        parts.append(f"batch {row['batch_size']}")
    if row["num_heads"] is not None:
        kv = f" ({row['num_kv_heads']} KV)" if row["num_kv_heads"] not in (None, row["num_heads"]) else ""
        parts.append(f"{row['num_heads']} heads{kv} of {row['head_dim']}")
    for key, words in (("input_tokens", "tokens"), ("context_tokens", "context")):
        if row[key] is not None:
            parts.append(f"{text.count(row[key])} {words}")
    if row["m"] is not None:
        parts.append(f"{text.count(row['m'])} × {text.count(row['n'])}")
    return ", ".join(parts)


def _gemm_series(row: Row) -> str:
    sides = "M = N = K" if row["is_square"] else f"N {text.count(row['n'])}, K {text.count(row['k'])}"
    size = f"{sides}, {'aligned' if row['is_aligned'] else 'unaligned'}"
    if row["source_kind"] == "published":
        return f"{row['hardware_name']}, published"
    return _named(row, f"{size}, {row['dtype']}")


def _copy_series(row: Row) -> str:
    words = {"memcpy": "within the device", "memcpy_h2d": "host to device", "memcpy_d2h": "device to host"}
    name = words.get(row["kernel"]) or str(row["kernel"])
    return _named(row, name if row["host_memory"] is None else f"{name}, {row['host_memory']}")


def _collective_series(row: Row) -> str:
    link = f", {row['interconnect']}" if row["interconnect"] else ""
    return _named(row, f"{text.words(row['kernel'])}, {text.plural(row['num_devices'], 'rank')}{link}")


def _kernel_series(row: Row) -> str:
    name = text.words(row["kernel"])
    if row["kernel"] == "attention":
        name += " decode" if row["context_tokens"] is not None else " prefill"
    return _named(row, name if row["dtype"] is None else f"{name}, {row['dtype']}")


def _named(row: Row, name: str) -> str:
    return f"{name}, {row['cache_state']} cache" if row["cache_state"] else name


def _table(rows: Sequence[Row], series: Callable[[Row], str]) -> pa.Table:
    """Points with the line they belong to and what they say."""
    return pa.Table.from_pylist([{**row, "series": series(row), "hover": _hover(row)} for row in rows])


def _hover(row: Row) -> str:
    size = [shape(row)] if shape(row) else []
    if row["size_bytes"] is not None:
        size.append(text.quantity(BY_KEY["bytes_moved"], float(row["size_bytes"])))
    parts = [f"<b>{text.words(row['kernel'])}</b> {', '.join(size)}", f"{row['hardware_name']}, {row['source_kind']}"]
    for key in ("latency_s", "achieved_flops_per_s", "achieved_bytes_per_s", "bus_bytes_per_s"):
        if row[key] is not None:
            parts.append(f"{BY_KEY[key].label}: {text.quantity(BY_KEY[key], row[key])}")
    for metric in (SHARE, SHARE_OF_MEASURED):
        if row[metric.key] is not None:
            parts.append(f"{metric.label}: {100 * row[metric.key]:.0f} %")
    if busy := text.busy(row["other_load_ratio"]):
        parts.append(f"measured on a {busy}")
    return "<br>".join(parts)


def _links(rows: Sequence[Row]) -> list[c.Component]:
    return [
        html.Span([dcc.Link(f"{text.words(row['kernel'])} {shape(row)}".strip(), href=c.href("run", run_id=row["run_id"]), className="rl-link"), " "])
        for row in rows[:6]
    ]  # fmt: skip


def _exports(parameters: Mapping[str, Any], snapshot: str | None, kernels: Sequence[str]) -> c.Component:
    return c.exports("microbench_points", snapshot, **parameters, kernels=list(kernels))


def _rated(value: float | None, unit: str) -> str | None:
    key = "achieved_flops_per_s" if unit == "FLOP/s" else "achieved_bytes_per_s"
    return None if value is None else text.quantity(BY_KEY[key], value)


def _dtypes(lake: Lake, device: str | None, snapshot: str | None) -> list[str]:
    rows = lake.rows("microbench_points", snapshot, hardware_id=device) + lake.rows(
        "kernel_tables", snapshot, hardware_id=device
    )
    return sorted({row["dtype"] for row in rows if row["dtype"] is not None})


def _kernels(kernels: Sequence[str]) -> list[dict[str, str]]:
    return [
        *({"value": one, "label": text.words(one)} for one in kernels),
        {"value": c.ANY, "label": "Any" if kernels else "None here"},
    ]
