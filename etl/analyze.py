"""One question answered in the terminal: how fast a configuration is and why, or which configuration serves best.

Needs no lakehouse: catalogue and arithmetic only. A lakehouse adds its devices and calibrated constants.
"""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.analytical import ENGINE_REVISION, evaluate, stages
from models.analytical.configs import LARGEST_SIZE, check_size, dtype_names
from models.analytical.devices import find_device
from models.analytical.rows import TRAINING
from models.analytical.search import OWN, Goal, cheapest, closest_miss, describe
from warehouse import catalog, metrics, parquet, schema
from warehouse.catalog.llm import Llm, read_config

LENGTHS = {"decode": ("context_tokens",), "generate": ("input_tokens", "output_tokens")}
"""Lengths of a phase; of the others input_tokens."""
_PROMPTS = ("prefill", "generate")
_PROMPT_PARTS = ("prefix_tokens", "chunk_tokens")
DEFAULT_LENGTHS = {"input_tokens": 1024, "output_tokens": 128, "context_tokens": 1024}

_SHEET = (
    "roofline_s", "compute_s", "memory_s", "communication_s", "bound_by", "estimate_s", "execution", "launch_s", "forward_s",
    "backward_s", "optimizer_s", "output_tokens_per_s", "output_tokens_per_s_of_estimate", "total_tokens_per_s",
    "total_tokens_per_s_of_estimate", "flops", "bytes_moved", "arithmetic_intensity",
    "weights_bytes", "kv_cache_bytes", "activation_peak_bytes", "logits_bytes", "gradients_bytes", "optimizer_bytes",
    "workspace_bytes", "memory_peak_bytes", "device_memory_bytes", "is_fitting", "max_batch_size", "max_context_tokens",
    "power_avg_w", "energy_j", "energy_per_output_token_j", "usd_per_million_tokens",
    "usd_per_device_hour", "price_id", "bandwidth_elasticity", "compute_elasticity", "link_elasticity",
)  # fmt: skip
"""What a table shows, in order."""

_SIDE_BY_SIDE = 4
"""Columns of a table, so that it fits a terminal."""

_EVEN_ZERO = ("is_fitting", "max_batch_size", "max_context_tokens", "bandwidth_elasticity", "compute_elasticity")
"""What is worth a row although it is 0 or no."""

_NO_CHANGE = 5e-4
"""Elasticity below which a resource makes nothing faster."""

_LABELS = {
    "estimate_s": "Estimate, 90 % interval (ms)",
    "bound_by": "Bound by",
    "execution": "Execution profile of the estimate",
    "output_tokens_per_s": "Output tokens/s at the bound",
    "output_tokens_per_s_of_estimate": "Output tokens/s at the estimate",
    "total_tokens_per_s": "Total tokens/s at the bound",
    "total_tokens_per_s_of_estimate": "Total tokens/s at the estimate",
    "power_avg_w": "Average power, estimate (W)",
    "energy_j": "Energy, estimate (J)",
    "energy_per_output_token_j": "Energy per output token, estimate (J)",
    "usd_per_million_tokens": "Cost per million tokens, estimate (USD)",
    "usd_per_device_hour": "Price of one device (USD per hour)",
    "price_id": "Price from",
    "device_memory_bytes": "Device memory",
    "is_fitting": "Fits",
    "max_batch_size": "Largest batch that fits",
    "max_context_tokens": "Longest sequence that fits (tokens)",
    "bandwidth_elasticity": "Bound at +10 % memory bandwidth",
    "compute_elasticity": "Bound at +10 % compute peak",
    "link_elasticity": "Bound at +10 % link bandwidth",
}

_SIDES = {"compute_elasticity": "compute", "bandwidth_elasticity": "memory", "link_elasticity": "links"}


@dataclass(frozen=True)
class Known:
    """What a lakehouse knows beside the catalogue: devices by id, and calibrated constants, newest first."""

    hardware: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibrations: Sequence[Mapping[str, Any]] = ()

    def hardware_id(self, name: str) -> str:
        """The id of a device by id or alias. Raises UnknownEntryError."""
        return name if name in self.hardware else catalog.find_hardware(name).hardware_id

    def memory_bytes(self, hardware_id: str) -> float | None:
        return find_device(hardware_id, lambda _: None, self.hardware).memory


def known(home: Path | None, *, may_be_new: bool = False) -> Known:
    """What the lakehouse of a home folder knows; without a folder nothing.

    Raises StoreError where the folder holds no lakehouse, unless one may be made there.
    """
    if home is None:
        return Known()
    from etl import calibration
    from warehouse.store import Home, open_store

    place = Home.of(home)
    if may_be_new and not place.exists:
        return Known()
    with open_store(place, read_only=True) as store:
        hardware = store.sql("SELECT * EXCLUDE (file_hash) FROM hardware WHERE measured_of IS NULL").to_pylist()
        calibrations = calibration.fitted(store)
    return Known({row["hardware_id"]: row for row in hardware}, calibrations)


# One configuration


def find(model: str, config_json: str | None) -> Llm:
    """The LLM of the catalogue, or that of a config.json: a file, or `-` for standard input, where `model` only names it.

    Raises UnknownEntryError for an LLM nobody knows, ValueError for a config.json that cannot be read.
    """
    if config_json is None:
        return catalog.find_llm(model)
    where = "standard input" if config_json == "-" else f"'{config_json}'"
    try:
        config = read_config(_pasted() if config_json == "-" else config_json)
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not text, so no config.json. Name the model's config.json.") from None
    parts = [config, *(value for value in config.values() if isinstance(value, dict))]
    if not any("model_type" in part for part in parts):
        raise ValueError(
            f"{where} lacks the key 'model_type', which says whose shapes these are. Take the whole config.json."
        )
    return Llm.from_config(model, config)


def _pasted() -> str:
    text = sys.stdin.buffer.read().decode()
    if not text.lstrip().startswith(("{", "[")):
        raise ValueError("standard input holds no config.json, which starts with '{'.")
    return text


def configurations(
    llm: Llm,
    hardware_ids: Sequence[str],
    phases: Sequence[str],
    dtype: str,
    lengths: Mapping[str, int | None],
    columns: Mapping[str, Any],
    known: Known,
) -> pa.Table:
    """One row a device and phase.

    `lengths` that a phase does not have are left out of it (an encoder-decoder may be told them); so are parts of a prompt
    where another phase has one. `columns` are further configuration columns, None where not asked for. Raises
    UnknownEntryError for a device nobody knows, ValueError for dtypes that are none and for sizes that no phase can have.
    """
    check_sizes({**lengths, **columns}, prefix_tokens=0)
    weight, activation, kv = dtype_names(dtype)
    shared: dict[str, Any] = {"weight_dtype": weight, "activation_dtype": activation, "kv_dtype": kv}
    shared |= {name: value for name, value in columns.items() if value is not None}
    degrees = [shared.get(name, 1) for name in ("tensor_parallel", "pipeline_parallel", "data_parallel")]
    shared["num_devices"] = math.prod(degrees)
    check_size("tensor x pipeline x data parallel devices", shared["num_devices"])
    phases = list(dict.fromkeys(phases or default_phases(llm)))
    has_prompt = any(phase in _PROMPTS for phase in phases)
    rows = []
    for name in dict.fromkeys(known.hardware_id(name) for name in hardware_ids):
        for phase in phases:
            own = LENGTHS.get(phase, ("input_tokens",))
            usual = _usual_lengths(llm, phase, lengths, columns.get("prefix_tokens") or 0)
            sizes = {
                length: usual[length] if value is None else value
                for length, value in lengths.items()
                if length in own or (value is not None and llm.architecture == "encoder_decoder")
            }
            left_out = _PROMPT_PARTS if has_prompt and phase not in _PROMPTS else ()
            others = {name: value for name, value in shared.items() if name not in left_out}
            rows.append({"llm_id": llm.llm_id, "hardware_id": name, "phase": phase, **sizes, **others})
    names = dict.fromkeys(name for row in rows for name in row)
    types = {name: schema.RUNS.column(name).type for name in names}
    return pa.table({name: pa.array([row.get(name) for row in rows], types[name]) for name in names})


def default_phases(llm: Llm) -> tuple[str, ...]:
    """What a person means who states no phase."""
    return ("forward",) if llm.architecture == "encoder" else ("prefill", "decode")


def _usual_lengths(llm: Llm, phase: str, lengths: Mapping[str, int | None], prefix_tokens: int) -> dict[str, int]:
    """Lengths where none are stated: the usual ones, or what the LLM is made for; a decoder's prompt, the cached part of it
    and what is generated share that room."""
    most = llm.max_context_tokens
    if most is None:
        return DEFAULT_LENGTHS
    usual = {name: min(length, most) for name, length in DEFAULT_LENGTHS.items()}
    if phase not in _PROMPTS or llm.architecture != "decoder":
        return usual
    inputs, outputs = lengths["input_tokens"], lengths["output_tokens"]
    if phase == "generate":
        taken = prefix_tokens + (1 if inputs is None else inputs)
        usual["output_tokens"] = max(min(usual["output_tokens"], most - taken), 1)
        prefix_tokens += usual["output_tokens"] if outputs is None else outputs
    usual["input_tokens"] = max(min(usual["input_tokens"], most - prefix_tokens), 1)
    return usual


def check_sizes(sizes: Mapping[str, Any], **least: int) -> None:
    """Raise ValueError, in the words of the option, for a whole number below its least (1 where none is given) or too large."""
    for name, value in sizes.items():
        if isinstance(value, int):
            check_size(option(name), value, least.get(name, 1))


def check_amounts(**amounts: tuple[float | None, str]) -> None:
    """Raise ValueError, in the words of the option, for an amount (with its unit) that is not above 0 and finite."""
    for name, (value, unit) in amounts.items():
        if value is not None and not 0 < value <= LARGEST_SIZE:
            raise ValueError(
                f"{option(name)} must be a number of {unit} above 0, {LARGEST_SIZE} at most, not {value:g}."
            )


def option(name: str) -> str:
    """The command-line option of a column."""
    return f"--{name.replace('_', '-')}"


def without_effect(phases: Sequence[str], llm: Llm, given: Mapping[str, Any]) -> list[str]:
    """A sentence for every option that was given and changes nothing. `given` holds the options by their columns."""
    phases = phases or default_phases(llm)
    is_training = any(phase in TRAINING for phase in phases)
    has_lora = is_training and bool({"lora", "qlora"} & set(given["optimizations"] or ()))
    has_stages = (given["pipeline_parallel"] or 1) > 1
    has_links = any((given[name] or 1) > 1 for name in ("tensor_parallel", "pipeline_parallel", "data_parallel"))
    has_host = "offload" in (given["optimizations"] or ())
    idle = {
        "lora_rank": None if has_lora else "only a training phase with --optimizations lora or qlora has adapters",
        "optimizer_dtype": None if is_training else "only training has an optimizer",
        "gradient_dtype": None if is_training else "only training has gradients",
        "num_micro_batches": None
        if is_training or has_stages
        else "without --pipeline-parallel a batch is taken whole",
        "interconnect": None if has_links or has_host else "one device sends nothing",
    }
    if llm.architecture != "encoder_decoder":
        used = {length for phase in phases for length in LENGTHS.get(phase, ("input_tokens",))}
        idle |= {name: None if name in used else f"not a length of {', '.join(phases)}" for name in DEFAULT_LENGTHS}
    return [f"{option(name)} changes nothing: {why}." for name, why in idle.items() if why and given[name] is not None]


def answer(configs: pa.Table, llm: Llm, known: Known) -> tuple[pa.Table, pa.Table]:
    """Totals and ops of `configurations`. Raises ValueError where no row has an answer, with every reason."""
    totals, ops = evaluate(configs, llms=[llm], hardware=known.hardware, calibrations=known.calibrations)
    if "ok" not in totals.column("status").to_pylist():
        raise ValueError(" ".join(dict.fromkeys(filter(None, totals.column("status_detail").to_pylist()))))
    return totals, ops


def notes(totals: pa.Table) -> list[str]:
    """What was assumed or refused, once where it holds for every row."""
    rows = totals.to_pylist()
    said: dict[str, list[str]] = {}
    for row in rows:
        if row["status_detail"] is not None:
            what = f"{row['status']}: " if row["status"] != "ok" else ""
            said.setdefault(what + row["status_detail"], []).append(f"{row['hardware_id']} {row['phase']}")
    return [text if len(who) == len(rows) else f"{', '.join(who)}: {text}" for text, who in said.items()]


def sheets(totals: pa.Table, known: Known) -> list[pa.Table]:
    """Answered totals side by side as text, a column for each, a few to a table; a row for everything that any of them has."""
    rows = [
        row | _more(row) | {"device_memory_bytes": known.memory_bytes(row["hardware_id"])}
        for row in totals.to_pylist()
        if row["status"] == "ok"
    ]
    shown = [name for name in _SHEET if any(_is_worth_a_row(name, row.get(name)) for row in rows)]
    labels = [_label(name) for name in shown]
    columns = {f"{row['hardware_id']} {row['phase']}": [_text(name, row) for name in shown] for row in rows}
    names = list(columns)
    parts = [names[start : start + _SIDE_BY_SIDE] for start in range(0, len(names), _SIDE_BY_SIDE)]
    return [pa.table({"": labels, **{name: columns[name] for name in part}}) for part in parts]


def op_table(totals: pa.Table, ops: pa.Table) -> pa.Table:
    """Ops of every answered row with their LLM, device, phase and share of its time, largest share first.

    `total_s` is the estimate over all executions of the op.
    """
    total = pc.multiply(ops.column("estimate_s"), pc.cast(ops.column("count"), pa.float64()))
    sums = ops.append_column("total_s", total).group_by("config_row").aggregate([("total_s", "sum")]).to_pylist()
    whole = {row["config_row"]: row["total_s_sum"] for row in sums}
    index = ops.column("config_row").to_pylist()
    share = [one / whole[row] if whole[row] else None for one, row in zip(total.to_pylist(), index, strict=True)]
    table = pa.table({name: totals.column(name).take(index) for name in ("llm_id", "hardware_id")})
    for name in ops.column_names:
        if name not in ("config_row", "inputs", "parent_path"):
            table = table.append_column(name, ops.column(name))
    table = table.append_column("total_s", total).append_column("time_share", pa.array(share, pa.float64()))
    order = pc.sort_indices(
        table.append_column("row", pa.array(index)), sort_keys=[("row", "ascending"), ("total_s", "descending")]
    )
    return table.take(order)


def op_sheet(table: pa.Table) -> pa.Table:
    """`op_table` as text for a terminal."""
    rows = table.to_pylist()
    return pa.table(
        {
            "device": [row["hardware_id"] for row in rows],
            "op": [row["path"] for row in rows],
            "phase": [row["phase"] for row in rows],
            "times": [_figure(row["count"]) for row in rows],
            "time (ms)": [_figure(row["total_s"] * 1e3) for row in rows],
            "share (%)": [_figure(None if row["time_share"] is None else 100 * row["time_share"]) for row in rows],
            "GFLOP each": [_figure(row["flops"] / 1e9) for row in rows],
            "MB each": [_figure(row["bytes_moved"] / 1e6) for row in rows],
            "bound": [row["bound"] or "" for row in rows],
        }
    )


def stage_sheet(totals: pa.Table, ops: pa.Table, llm: Llm, num_stages: int) -> pa.Table:
    """The cut of an LLM's layers into pipeline stages whose slowest is fastest by the estimate, of every answered row.

    `balance` is the mean stage over the slowest; `equal layers` is what the same number of layers a stage would give.
    Raises ValueError for more stages than there are layers, embedding and head.
    """
    rows = []
    for index, row in enumerate(totals.to_pylist()):
        mine = ops.filter(pc.equal(ops.column("config_row"), index))
        if mine.num_rows == 0:
            continue
        units = stages.layer_units(mine, llm.num_layers, seconds="estimate_s")
        best, equal = (cut(units.seconds, num_stages) for cut in (stages.split, stages.equal_split))
        for stage, seconds in enumerate(best.stage_s):
            first, last = units.names[best.bounds[stage]], units.names[best.bounds[stage + 1] - 1]
            rows.append(
                {
                    "device": row["hardware_id"],
                    "phase": row["phase"],
                    "stage": str(stage),
                    "from": first,
                    "to": last,
                    "time (ms)": _figure(seconds * 1e3),
                    "balance (%)": _figure(100 * best.balance),
                    "equal layers (%)": _figure(100 * equal.balance),
                }
            )
    return pa.Table.from_pylist(rows)


def _more(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the sheet says beside the columns of a row: what binds, rates at the estimate, the price behind the cost."""
    prices = {price["price_id"]: price["usd_per_device_hour"] for price in catalog.rows("prices")}
    more = {"bound_by": bound_by(row), "usd_per_device_hour": prices.get(row["price_id"])}
    for name in ("output_tokens_per_s", "total_tokens_per_s"):
        is_known = None not in (row[name], row["estimate_s"])
        more[f"{name}_of_estimate"] = row[name] * row["roofline_s"] / row["estimate_s"] if is_known else None
    return more


def bound_by(row: Mapping[str, Any]) -> str | None:
    """The side that sets most of the bound, as its elasticities say: compute, memory, links, or the host, whose work on an
    offloaded optimizer follows no rate of the device. Column `bound` is the side of the ridge point of all work together."""
    shares = {side: row[name] for name, side in _SIDES.items()}
    if None in shares.values():
        return None
    shares["host"] = 1 - sum(shares.values())
    return max(shares, key=lambda side: shares[side])


def _is_worth_a_row(name: str, value: Any) -> bool:
    if value is None or name in _EVEN_ZERO:
        return value is not None
    return bool(value >= _NO_CHANGE) if name.endswith("_elasticity") else bool(value)


def _label(name: str) -> str:
    """What a row of the sheet is called, with its unit unless every cell says it."""
    if name in _LABELS:
        return _LABELS[name]
    metric = metrics.metric(name)
    is_said = metric.unit == "B" or metric.display_unit in metric.label
    return metric.label if is_said else metric.axis()


def _text(name: str, row: Mapping[str, Any]) -> str:
    """A cell of the sheet."""
    value = row.get(name)
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "NO"
        case str():
            return value
    if name.endswith("_elasticity"):
        return f"{_figure((1.1**value - 1) * 100)} % faster" if value >= _NO_CHANGE else "no faster"
    if name.endswith("_bytes") or name == "bytes_moved":
        return _size(value)
    factor = metrics.metric(name).display_factor if name in metrics.BY_KEY else 1.0
    lower, upper = row.get(_statistic(name, "lower")), row.get(_statistic(name, "upper"))
    interval = "" if lower is None or upper is None else f" ({_figure(lower * factor)} to {_figure(upper * factor)})"
    return _figure(value * factor) + interval


def _size(size: float) -> str:
    """Bytes in the largest binary unit of which there is at least a tenth."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 0.1 * 2**power:
            return f"{_figure(size / 2**power)} {unit}"
    return f"{_figure(size / 2**10)} KiB"


def _statistic(name: str, statistic: str) -> str:
    metric = metrics.BY_KEY.get(name)
    return "" if metric is None or statistic not in metric.statistics else metric.column(statistic)


def _figure(value: float | None) -> str:
    """Four digits; whole thousands."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


# The best configuration


def front(rows: pa.Table) -> pa.Table:
    """Rows of either front, fastest for a user first."""
    on_front = rows.filter(pc.or_(rows.column("is_pareto"), rows.column("is_pareto_cost")))
    return on_front.sort_by([("tpot_s", "ascending"), ("num_devices", "ascending")])


def search_sheet(rows: pa.Table) -> pa.Table:
    """Rows of `search` as text for a terminal."""
    found = rows.to_pylist()

    def column(name: str, factor: float = 1.0) -> list[str]:
        return [_figure(None if row[name] is None else row[name] * factor) for row in found]

    table = {
        "configuration": [describe(row) for row in found],
        "TTFT (ms)": column("ttft_s", 1e3),
        "TPOT (ms)": column("tpot_s", 1e3),
        "tokens/s a user": column("output_tokens_per_s_per_user"),
        "tokens/s a device": column("output_tokens_per_s_per_device"),
        "requests/s": column("requests_per_s"),
        "USD per 1M tokens": column("usd_per_million_tokens"),
        "memory (GiB)": column("memory_peak_bytes", 1 / 2**30),
    }
    if any(row["reason"] for row in found):
        table["why not"] = [row["reason"] or "" for row in found]
    else:
        fronts = {"is_pareto": "throughput", "is_pareto_cost": "cost"}
        table["on the front of"] = [", ".join(word for name, word in fronts.items() if row[name]) for row in found]
    return pa.table(table)


def headline(rows: pa.Table, goal: Goal) -> str:
    """The answer in a sentence. Raises ValueError with the closest miss where nothing is feasible."""
    best = cheapest(rows)
    if best is None:
        raise ValueError(closest_miss(rows, goal))
    load = "" if goal.request_rate_per_s is None else f"{goal.request_rate_per_s:g} requests/s "
    load = load if goal.concurrency is None else f"{goal.concurrency} requests in flight "
    cost = best["usd_per_million_tokens"]
    price = "no price is known" if cost is None else f"{_figure(cost)} USD per million output tokens"
    what = "Most tokens a device" if cost is None else "Cheapest"
    return (
        f"{what}: {describe(best)} serves {load}with TTFT {_figure(best['ttft_s'] * 1e3)} ms and TPOT "
        f"{_figure(best['tpot_s'] * 1e3)} ms, {_figure(best['output_tokens_per_s_per_device'])} output tokens/s a device, {price}. "
        f"{pc.sum(rows.column('is_feasible')).as_py()} of {rows.num_rows} configurations are feasible."
        f"{'' if best['status_detail'] is None else ' Assumed: ' + best['status_detail']}"
    )


def land(rows: pa.Table, landing: Path) -> list[Path]:
    """Write rows of `search` as analytical runs of phase `serve`; the same search lands the same file."""
    runs = rows.drop_columns([*OWN, "batch_size"])  # an endpoint's batch is its own affair: concurrency or rate joins
    config_ids = schema.config_ids(runs)
    kept = (
        "hardware_id",
        "slo_ttft_s",
        "slo_tpot_s",
        "execution",
        "batch_size",
        "ttft_s",
        "tpot_s",
        "usd_per_million_tokens",
    )
    facts = zip(*(rows.column(name).to_pylist() for name in kept), strict=True)
    run_ids = [
        schema.digest("search", ENGINE_REVISION, config_id, fact)
        for config_id, fact in zip(config_ids.to_pylist(), facts, strict=True)
    ]
    source_id = "rooflake/search"
    computed = datetime.datetime.fromisoformat(ENGINE_REVISION).replace(tzinfo=datetime.UTC)
    more = {
        "run_id": pa.array(run_ids, pa.string()),
        "config_id": config_ids,
        "collector": "search",
        "source_kind": "analytical",
        "source_id": source_id,
        "engine_revision": ENGINE_REVISION,
        "collected_at": pa.scalar(computed, schema.TIMESTAMP),
        "is_excluded": False,
    }
    for name, value in more.items():
        runs = runs.append_column(name, value if isinstance(value, pa.Array) else pa.repeat(value, runs.num_rows))
    source = {
        "source_id": source_id, "kind": "ruleset", "title": "Search over serving configurations",
        "published_at": ENGINE_REVISION[:10], "locator": "models/analytical/search.py",
        "note": "Steady state of continuous batching over the default ruleset; formulas in the module's docstring.",
    }  # fmt: skip
    return parquet.land(landing, f"search-{schema.digest(run_ids)}", {"runs": runs, "sources": [source]})
