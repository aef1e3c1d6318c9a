"""What the Run page says of an analytical run: its time and what sets it, its memory, its cost and energy, and where every constant comes from."""

from __future__ import annotations

from typing import Any

from dash import html

from dashboard import components as c
from dashboard import figures, text
from dashboard.data import Lake
from models.analytical.engine import IDLE_POWER_SHARE
from models.analytical.estimate import shipped
from warehouse.metrics import BY_KEY
from warehouse.schema import CALIBRATIONS

Row = dict[str, Any]

RESOURCES = {
    "bandwidth_elasticity": "memory bandwidth",
    "compute_elasticity": "compute peak",
    "link_elasticity": "link bandwidth",
}
CONSTANTS = tuple(
    column
    for column in CALIBRATIONS.columns
    if column.name.endswith(("_efficiency", "_s")) or column.name.startswith("ratio_")
)


def cards(lake: Lake, run: Row, snapshot: str | None) -> list[c.Component]:
    """Cards of an analytical run with an answer; none for other runs."""
    if run["source_kind"] != "analytical" or run["roofline_s"] is None:
        return []
    found = lake.rows("run_device", snapshot, run_id=run["run_id"])
    device = found[0] if found else {}
    return [
        time_card(lake, run, snapshot),
        memory_card(run, device, snapshot),
        *([cost_card(lake, run, device, snapshot)] if run["estimate_s"] is not None else []),
    ]


def time_card(lake: Lake, run: Row, snapshot: str | None) -> c.Component:
    """The bound, the estimate beside it, what sets them, and what was observed of the same configuration."""
    latency = BY_KEY["latency_s"]
    has_estimate = run["estimate_s"] is not None
    stats = [c.stat(_shown(run, "roofline_s"), "Bound", f"{run['bound']} bound" if run["bound"] else None)]
    rows = [_point("Bound", "analytical", run["roofline_s"])]
    if has_estimate:
        low, high = _shown(run, "estimate_lower_s"), _shown(run, "estimate_upper_s")
        stats.append(c.stat(_shown(run, "estimate_s"), "Estimate", f"90 % interval {low} to {high}"))
        launch = (
            f"{text.number(100 * run['launch_s'] / run['estimate_s'])} % of the estimate, {run['execution']} profile"
        )
        stats.append(c.stat(_shown(run, "launch_s"), BY_KEY["launch_s"].label, launch))
        rows.append(
            _point("Estimate", "analytical", run["estimate_s"], run["estimate_lower_s"], run["estimate_upper_s"])
        )
    rows += [
        {**_point(f"{row['source_kind'].capitalize()}, {row['source_id']}", row["source_kind"], row["latency_s"]),
         "link": c.href("run", snapshot, run_id=row["run_id"])}
        for row in lake.rows("run_twins", snapshot, run_id=run["run_id"])
        if row["source_kind"] != "analytical" and not row["is_excluded"]
    ]  # fmt: skip
    return c.card(
        "Bound and estimate",
        html.Div(stats, className="rl-stats"),
        c.graph(
            "estimate",
            figures.prediction(rows, latency),
            "Bound, estimate with its interval, and what was observed",
            min_width=280,
        ),
        html.Ul([html.Li(sentence) for sentence in sentences(run)], className="rl-notes"),
        constants(lake, run, snapshot) if has_estimate else c.nothing(f"Ruleset {run['ruleset']} gives a bound alone."),
        about="The bound is the least time the device can take; the estimate is what it is likely to take.",
        tools=c.exports("run", snapshot, run_id=run["run_id"]),
        name="estimate",
    )


def sentences(run: Row) -> list[str]:
    """What the bound is made of, and what a tenth more of each resource does to it."""
    alone = [
        f"{words} {_shown(run, key)}"
        for key, words in (("compute_s", "FLOPs"), ("memory_s", "bytes"), ("communication_s", "communication"))
        if run[key]
    ]
    gains = [text.gain(run[key], resource) for key, resource in RESOURCES.items() if _is_told(run, key)]
    return [*([f"Taken alone: {', '.join(alone)}."] if alone else []), *gains]


def _is_told(run: Row, key: str) -> bool:
    """Is there something to say of a resource? Of links only where something goes over them."""
    return run[key] is not None and (key != "link_elasticity" or bool(run["communication_s"]))


def constants(lake: Lake, run: Row, snapshot: str | None) -> c.Component:
    """The constants behind the estimate, each with its meaning, and the rows they come from."""
    found = lake.rows("run_calibration", snapshot, run_id=run["run_id"])
    stored = found[0] if found else None
    row: Row | None = stored or next((one for one in shipped() if one["calibration_id"] == run["calibration_id"]), None)
    if row is None:
        return c.nothing(
            f"The constants of this estimate ({run['calibration_id']}) are neither in this lake nor those that this version ships."
        )
    where = (
        f"fitted on snapshot {stored['snapshot_id']}"
        if stored and stored.get("snapshot_id") is not None
        else "shipped with the engine"
    )
    body = [
        html.Tr([html.Th(_label(column.name), scope="row"), html.Td(text.column_quantity(column.name, row[column.name]), className="rl-number"),
                 html.Td(column.doc)])
        for column in CONSTANTS
        if row.get(column.name) is not None
    ]  # fmt: skip
    head = html.Thead(html.Tr([html.Th(words, scope="col") for words in ("Constant", "Value", "Meaning")]))
    return html.Details(
        [
            html.Summary(
                f"Constants: {row['device_class']}, {row['execution']} profile, {text.plural(row['num_rows'], 'row')}, {where}"
            ),
            html.P(f"From: {row['source']}"),
            html.P(
                [
                    "Calibration ",
                    html.Code(row["calibration_id"]),
                    *([f", fitted {text.moment(stored['fitted_at'])}"] if stored else []),
                ]
            ),
            html.Div(html.Table([head, html.Tbody(body)], className="rl-table"), className="rl-scroll"),
            *([c.exports("run_calibration", snapshot, run_id=run["run_id"])] if stored else []),
        ],
        id="constants",
    )


def memory_card(run: Row, device: Row, snapshot: str | None) -> c.Component:
    """The parts of one device's memory, and what the rest has room for."""
    keys = [*figures.MEMORY_COLOURS, "logits_bytes", "memory_peak_bytes"]
    pairs = [(_named(key), _shown(run, key)) for key in keys if run[key]]
    has = device.get("memory_bytes")
    if has is not None:
        pairs.append(("The device has", text.quantity(BY_KEY["memory_peak_bytes"], has)))
    verdict = {True: "It fits.", False: "It does not fit.", None: "Whether it fits is not known."}[run["is_fitting"]]
    room = []
    if run["max_batch_size"] is not None:
        room.append(f"a batch of {text.count(run['max_batch_size'])} at these lengths")
    if run["max_context_tokens"] is not None:
        room.append(f"{text.count(run['max_context_tokens'])} tokens of context at this batch")
    about = [
        verdict,
        f" Room for {' or for '.join(room)} at the most." if room else "",
        " The dashed line is the device's memory." if has else "",
    ]
    return c.card(
        "Memory of one device",
        c.graph(
            "memory-parts", figures.memory_parts(run, has), "Memory by part against the device's memory", min_width=280
        ),
        c.facts(pairs),
        about="".join(about),
        tools=c.exports("run", snapshot, run_id=run["run_id"]),
        name="memory-parts",
    )


def cost_card(lake: Lake, run: Row, device: Row, snapshot: str | None) -> c.Component:
    """Cost with its price, energy with what was assumed; or why there is none."""
    if run["is_fitting"] is False:
        return c.card("Cost and energy", c.nothing("What does not fit has no rate, no cost and no energy."))
    parts: list[c.Component] = [html.Div(_cost_and_energy(run), className="rl-stats")]
    prices = lake.rows("run_price", snapshot, run_id=run["run_id"])
    parts += (
        [_price(prices[0])]
        if prices
        else [html.P("No price of this device is in the catalogue, so there is no cost.", className="rl-quieter")]
    )
    if run["energy_j"] is not None:
        parts.append(_assumption(device))
    else:
        parts.append(
            html.P("The board power of this device is not known, so there is no energy.", className="rl-quieter")
        )
    return c.card(
        "Cost and energy", *parts, about="Of all devices over the estimated time.",
        tools=c.exports("run_price", snapshot, run_id=run["run_id"]) if prices else None, name="cost",
    )  # fmt: skip


def _cost_and_energy(run: Row) -> list[c.Component]:
    about = {
        "usd_per_million_tokens": "at the price below",
        "energy_j": "of one execution",
        "power_avg_w": "of all devices",
        "energy_per_output_token_j": None,
    }
    return [c.stat(_shown(run, key), BY_KEY[key].label, words) for key, words in about.items() if run[key] is not None]


def _price(price: Row) -> c.Component:
    where = ", ".join(price[key] for key in ("provider", "instance", "region") if price[key])
    return html.P(
        [
            f"Price: {text.number(price['usd_per_device_hour'])} USD for one device and hour, {where}, read {price['source_date']}. ",
            html.Span(f"From: {price['source']}. Price row ", className="rl-quieter"),
            html.Code(price["price_id"]),
        ]
    )


def _assumption(device: Row) -> c.Component:
    board = f"{text.number(device['tdp_w'])} W of board power" if device.get("tdp_w") is not None else "board power"
    words = (
        f"Energy is not measured: of its {board} a device is taken to draw {100 * IDLE_POWER_SHARE:.0f} % while it waits, and the rest"
        " in proportion to how busy the busier of its compute units and its memory is. "
    )
    return html.P(
        [words, html.Span(f"Device from: {device.get('source')}, {device.get('source_date')}.", className="rl-quieter")]
    )


def _point(name: str, kind: str, value: float | None, lower: float | None = None, upper: float | None = None) -> Row:
    return {"name": name, "kind": kind, "value": value, "lower": lower, "upper": upper}


def _shown(run: Row, column: str) -> str:
    return text.column_quantity(column, run[column])


def _named(key: str) -> c.Component:
    """A metric's label with its definition a pointer away."""
    return html.Span(BY_KEY[key].label, title=BY_KEY[key].definition)


def _label(name: str) -> str:
    return f"Measured / estimate, p{int(name[-2:])}" if name.startswith("ratio_p") else text.words(name)
