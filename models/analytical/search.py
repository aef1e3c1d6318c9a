"""Serving configurations that keep their promises: every layout, batch and dtype at once, and which of them are best.

A server decodes `batch_size` sequences a replica in steps and fills a freed place with the next prompt, which is taken whole
between two steps (continuous batching). In the steady state, with t_d seconds of a decode step at the mean context, t_p of
one prompt, O output tokens, lambda requests/s of a replica, D sequences decoding in it, P its pipeline stages, A its
data-parallel ranks, o = t_p / P what one prompt occupies a stage, rho = lambda o / A:

    TTFT = t_p + W, W = t_d / (2 P) + rho o / (2 (1 - rho))          the rest of the running step, the prompts before it
    (O - 1) TPOT = rho (W + o) / (1 - rho) + t_d + (O - 2) t_d / (1 - rho)
    D = lambda (O - 1) TPOT                                            all places taken: full load
    requests in flight = lambda (TTFT + (O - 1) TPOT)                  Little's law

W is the wait of a queue with Poisson arrivals, equal service times and vacations: a decode step runs when no prompt waits.
Between two steps of a sequence the prompts that came meanwhile are taken (a step takes t_d / (1 - rho) with them), before its
first step those that came while it waited. tests/models/test_search.py simulates such a server beside the formulas. A given
concurrency is read the same way: requests spread out in time, not equal ones that started together and stay together.
With P stages the sequences of a replica make P equal groups that follow one another, so a group's step takes t_d of D / (P A)
sequences. Memory is that of all D sequences at their full length, beside the activations of a step or of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from models.analytical.configs import LARGEST_SIZE, Configs, check_size, dtype_names
from models.analytical.devices import HardwareRows, device_rows, find_device
from models.analytical.engine import evaluate
from warehouse import catalog
from warehouse.catalog.llm import Llm

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]

BATCH_SIZES = tuple(int(size) for size in np.unique(np.rint(np.geomspace(1, 1024, 64))))
"""Sequences of one decode step that are tried."""


MOST_DEVICES = 2**16
"""Devices that a search counts on at the most."""

OWN = (
    "is_feasible", "reason", "output_tokens_per_s_per_device", "output_tokens_per_s_per_user", "usd_per_hour",
    "is_pareto", "is_pareto_cost",
)  # fmt: skip
"""Columns of `search` that `runs` does not have."""


@dataclass(frozen=True)
class Goal:
    """What is served and what is promised: tokens of one request, limits in seconds, the load, the devices there are."""

    input_tokens: int
    output_tokens: int
    slo_ttft_s: float | None = None
    slo_tpot_s: float | None = None
    request_rate_per_s: float | None = None
    """Requests offered to all replicas together."""
    concurrency: int | None = None
    """Requests kept in flight in all replicas together; without it and a rate, one replica at full load."""
    max_devices: int = 8

    def __post_init__(self) -> None:
        check_size("max_devices", self.max_devices, most=MOST_DEVICES)
        for name, least in (("input_tokens", 1), ("output_tokens", 2), ("concurrency", 1)):
            value = getattr(self, name)
            if value is not None:
                check_size(name, value, least)
        for name in ("slo_ttft_s", "slo_tpot_s", "request_rate_per_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= LARGEST_SIZE:
                raise ValueError(f"{name} must be above 0 and at most {LARGEST_SIZE}, not {value}.")
        if self.concurrency is not None and self.request_rate_per_s is not None:
            raise ValueError("concurrency and request_rate_per_s are two ways to state one load: give one.")


@dataclass(frozen=True)
class Layout:
    """Devices of one replica: tensor x pipeline x data parallel; experts over tensor x data parallel ones."""

    tensor: int
    pipeline: int
    data: int = 1
    expert: int = 1

    @property
    def num_devices(self) -> int:
        return self.tensor * self.pipeline * self.data


def search(
    llm: str | Llm,
    hardware_ids: Sequence[str],
    goal: Goal,
    *,
    dtypes: Sequence[str] = ("fp16",),
    attention: str = "paged",
    execution: str = "engine",
    batch_sizes: Sequence[int] = BATCH_SIZES,
    interconnect: str | None = None,
    hardware: HardwareRows | None = None,
    calibrations: Iterable[Mapping[str, Any]] | None = None,
    prices: Mapping[str, float] | None = None,
) -> pa.Table:
    """Every configuration for a goal, feasible or with the reason why not, as rows with columns of `runs` and OWN.

    One row a device, layout of a replica (powers of two up to max_devices), dtypes (see `dtype_names`) and decode batch.
    With a load, replicas are added (data_parallel) until it is served. Seconds are the engine's
    calibrated estimates. `hardware` extends the catalogue's devices, `calibrations` come before the shipped constants;
    `prices` are USD a device and hour, by hardware_id, else the catalogue's. Flags: is_pareto on (tokens/s a device, tokens/s a user), is_pareto_cost on (USD a token, tokens/s
    a user), both among the feasible. Raises UnknownEntryError for an LLM or device nobody knows, ValueError for a value
    that no row can have. `status_detail` of a row with an answer is what the engine assumed for its full batch.
    """
    shape = catalog.find_llm(llm) if isinstance(llm, str) else llm
    if shape.architecture == "encoder":
        raise ValueError(f"'{shape.llm_id}' is an encoder: it generates nothing to serve.")
    brought = device_rows(hardware)
    names = [name if name in brought else catalog.find_hardware(name).hardware_id for name in hardware_ids]
    if not names or not dtypes or not batch_sizes:
        raise ValueError("a search needs at least one device, one dtype and one batch size.")
    if min(batch_sizes) < 1:
        raise ValueError(f"batch sizes must be 1 or more, not {min(batch_sizes)}.")
    grid = _Grid(
        list(dict.fromkeys(names)),
        layouts(shape, goal.max_devices),
        [dtype_names(name) for name in dtypes],
        batch_sizes,
    )
    fixed = {"llm_id": shape.llm_id, "attention": attention, "execution": execution, "interconnect": interconnect}
    times = _Times(grid, goal, fixed, brought, shape, calibrations)
    return _rows(grid, goal, fixed, times, _prices(names, prices))


def layouts(llm: Llm, max_devices: int) -> list[Layout]:
    """Layouts of one replica in powers of two; of an LLM with experts also those that spread them."""
    powers = [2**power for power in range(max_devices.bit_length())]
    found = [Layout(tensor, pipeline) for tensor in powers for pipeline in powers if tensor * pipeline <= max_devices]
    if not llm.num_experts:
        return found
    spread = [
        Layout(tensor, pipeline, data, tensor * data)
        for tensor in powers
        for pipeline in powers
        for data in powers
        if tensor * data > 1 and tensor * pipeline * data <= max_devices
    ]
    return found + spread


def pareto(points: ArrayLike) -> Mask:
    """Which points no other point beats, in O(n log n). `points`: shape (n, 2), more is better in both.

    A point is beaten by one that is at least as good in both and better in one; equal points stand together. A point with a
    NaN is never on the front.
    """
    values = np.asarray(points, np.float64)
    if values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(f"points must have shape (n, 2), not {values.shape}.")
    is_known = ~np.isnan(values).any(axis=1)
    known = np.flatnonzero(is_known)
    front = np.zeros(len(values), np.bool_)
    if known.size == 0:
        return front
    order = known[np.lexsort((-values[known, 1], -values[known, 0]))]
    first, second = values[order].T
    is_start = np.r_[True, first[1:] != first[:-1]]
    start = np.maximum.accumulate(np.where(is_start, np.arange(order.size), 0))  # of the points with the same first
    best = np.r_[-np.inf, np.maximum.accumulate(second)]  # among all points before
    is_front = (second == second[start]) & ((second > best[start]) | (start == 0))
    front[order[is_front]] = True
    return front


def cheapest(rows: pa.Table) -> dict[str, Any] | None:
    """The feasible row of least cost a token (where prices are unknown: of most tokens/s a device), or None."""
    feasible = [row for row in rows.to_pylist() if row["is_feasible"]]
    priced = [row for row in feasible if row["usd_per_million_tokens"] is not None]
    if priced:
        return min(priced, key=lambda row: (row["usd_per_million_tokens"], row["tpot_s"]))
    return max(feasible, key=lambda row: (row["output_tokens_per_s_per_device"], -row["tpot_s"]), default=None)


def closest_miss(rows: pa.Table, goal: Goal) -> str:
    """Why nothing is feasible, in a sentence: the configuration that misses by the least factor, and what it misses."""
    answered = [row for row in rows.to_pylist() if row["status"] == "ok"]
    if not answered:
        reasons = dict.fromkeys(row["reason"] for row in rows.to_pylist())
        return f"No configuration is possible: {' '.join(reasons)}"
    fitting = [row for row in answered if row["is_fitting"] is not False]
    if not fitting:
        row = min(answered, key=lambda row: row["memory_peak_bytes"])
        return f"No configuration fits in memory. The closest, {describe(row)}: {row['reason']}"
    there = [row for row in fitting if row["num_devices"] <= goal.max_devices]
    if not there:
        least = min(row["num_devices"] for row in fitting)
        return f"Not enough devices: {_too_many(goal, least)}"
    row = min(there, key=lambda row: (_miss(row, goal), row["num_devices"]))
    return f"No configuration keeps every limit. The closest, {describe(row)}: {row['reason']}"


def describe(row: Mapping[str, Any]) -> str:
    """A row's configuration in words: 4 x h100-sxm (TP 2, DP 2), fp8, batch 32."""
    degrees = {"TP": "tensor_parallel", "PP": "pipeline_parallel", "DP": "data_parallel", "EP": "expert_parallel"}
    said = [f"{short} {row[name]}" for short, name in degrees.items() if row[name] > 1]
    parts = dict.fromkeys(row[f"{name}_dtype"] for name in ("weight", "activation", "kv"))
    layout = f" ({', '.join(said)})" if said else ""
    return f"{row['num_devices']} x {row['hardware_id']}{layout}, {'/'.join(parts)}, batch {row['batch_size']}"


def _miss(row: Mapping[str, Any], goal: Goal) -> float:
    """Largest factor by which a row is beyond a limit."""
    limits = (("ttft_s", goal.slo_ttft_s), ("tpot_s", goal.slo_tpot_s))
    return max((row[name] / limit for name, limit in limits if limit is not None), default=1.0)


def _too_many(goal: Goal, num_devices: float) -> str:
    """Why so many devices are no answer."""
    rate, concurrency = goal.request_rate_per_s, goal.concurrency
    load = f"{rate:g} requests/s" if rate is not None else f"{concurrency} requests in flight"
    return f"{load} need {num_devices:.0f} devices, at most {goal.max_devices} are allowed."


class _Grid:
    """The cross product: for every row the position of its device, layout, dtypes and batch size."""

    def __init__(
        self,
        names: list[str],
        layouts: list[Layout],
        dtypes: Iterable[tuple[str, str, str]],
        batch_sizes: Sequence[int],
    ) -> None:
        self.names, self.layouts = names, layouts
        self.dtypes = list(dict.fromkeys(dtypes))
        self.batch_sizes = np.array(sorted(set(batch_sizes)), np.int64)
        sizes = (len(self.names), len(self.layouts), len(self.dtypes), self.batch_sizes.size)
        self.device, self.layout, self.dtype, self.position = np.indices(sizes).reshape(4, -1)
        self.batch = self.batch_sizes[self.position]

    def degree(self, name: str) -> NDArray[np.int64]:
        """A field of every row's layout."""
        return np.array([getattr(layout, name) for layout in self.layouts], np.int64)[self.layout]

    def configs(self, fixed: Mapping[str, Any], rows: Index, **columns: Any) -> pa.Table:
        """Configurations of some rows; `columns` are those of the phase."""
        table = {name: pa.repeat(pa.scalar(value, pa.string()), rows.size) for name, value in fixed.items()}
        table["hardware_id"] = pa.array(self.names).take(pa.array(self.device[rows]))
        table["num_devices"] = (self.degree("tensor") * self.degree("pipeline") * self.degree("data"))[rows]
        for name in ("tensor", "pipeline", "data", "expert"):
            table[f"{name}_parallel"] = self.degree(name)[rows]
        for position, name in enumerate(("weight", "activation", "kv")):
            values = pa.array([dtypes[position] for dtypes in self.dtypes])
            table[f"{name}_dtype"] = values.take(pa.array(self.dtype[rows]))
        for name, value in columns.items():
            table[name] = value if isinstance(value, np.ndarray) else pa.repeat(value, rows.size)
        return pa.table(table)


class _Times:
    """What the engine says of every row: seconds of a decode step and of a prompt, memory, and why there is no answer."""

    def __init__(
        self,
        grid: _Grid,
        goal: Goal,
        fixed: Mapping[str, Any],
        brought: Mapping[str, Mapping[str, Any]],
        llm: Llm,
        calibrations: Iterable[Mapping[str, Any]] | None,
    ) -> None:
        every = np.arange(grid.batch.size)
        stages, inputs, outputs = grid.degree("pipeline"), goal.input_tokens, goal.output_tokens
        is_translating = llm.architecture == "encoder_decoder"
        prompt = 1 if is_translating else inputs
        source = {"input_tokens": inputs} if is_translating else {}
        lasts = {"context_tokens": prompt + outputs - 1, **source}  # the last token is never fed back
        means = {"context_tokens": prompt + outputs // 2, **source}
        first = np.flatnonzero(grid.position == 0)  # a prompt does not depend on the batch
        parts = [
            grid.configs(fixed, first, phase="prefill", batch_size=np.ones(first.size, np.int64), input_tokens=inputs),
            grid.configs(fixed, every, phase="decode", batch_size=grid.batch, **means),
            grid.configs(fixed, every, phase="decode", batch_size=grid.batch * stages, **lasts),
        ]
        configs = pa.concat_tables(parts, promote_options="default")
        totals, _ = evaluate(configs, with_ops=False, hardware=brought, llms=[llm], calibrations=calibrations)
        prompts = totals.slice(0, first.size).take(pa.array(np.cumsum(grid.position == 0) - 1))
        steps, full = totals.slice(first.size, every.size), totals.slice(first.size + every.size)
        self.full = full
        self.prompt_s, self.step_s = _numbers(prompts, "estimate_s"), _numbers(steps, "estimate_s")
        self.activation_bytes = np.fmax(*(_numbers(table, "activation_peak_bytes") for table in (prompts, full)))
        self.memory_bytes = _numbers(full, "memory_peak_bytes") - _numbers(full, "activation_peak_bytes")
        self.memory_bytes += self.activation_bytes
        devices = [find_device(name, lambda _: None, brought) for name in grid.names]
        table = np.array([np.nan if device.memory is None else device.memory for device in devices])
        self.device_bytes = table[grid.device]
        details = [_refusals(table) for table in (prompts, steps, full)]
        self.refusal = [next((reason for reason in reasons if reason), None) for reasons in zip(*details, strict=True)]
        assumed = full.column("status_detail").to_pylist()
        self.detail = [refusal or note for refusal, note in zip(self.refusal, assumed, strict=True)]
        self.prompt_j, self.step_j = _numbers(prompts, "energy_j"), _numbers(steps, "energy_j")

    @property
    def is_answered(self) -> Mask:
        return np.isfinite(self.prompt_s) & np.isfinite(self.step_s) & np.array([one is None for one in self.refusal])


def _rows(
    grid: _Grid, goal: Goal, fixed: Mapping[str, Any], times: _Times, prices: Mapping[str, Mapping[str, Any]]
) -> pa.Table:
    """Load, latency, throughput and cost of every row, and the verdicts."""
    stages, ranks = grid.degree("pipeline"), grid.degree("data")
    decoding = (grid.batch * stages * ranks).astype(np.float64)
    server = Server(times.step_s, times.prompt_s, stages, ranks, goal.output_tokens)
    most = server.rate(server.decoding, decoding)
    if goal.request_rate_per_s is not None:
        replicas = np.ceil(goal.request_rate_per_s / most * (1 - 1e-12))
        rate = goal.request_rate_per_s / replicas
    elif goal.concurrency is not None:
        replicas = np.ceil(goal.concurrency / server.in_flight(most) * (1 - 1e-12))
        rate = server.rate(server.in_flight, goal.concurrency / replicas)
    else:
        replicas, rate = np.ones(most.size), most
    ttft, tpot = server.ttft_s(rate), server.tpot_s(rate)
    devices = np.asarray(replicas * stages * ranks * grid.degree("tensor"), np.float64)
    is_fitting = times.memory_bytes <= times.device_bytes
    is_unknown = np.isnan(times.memory_bytes) | np.isnan(times.device_bytes)
    is_served = times.is_answered & (is_fitting | is_unknown)
    requests = np.where(is_served, rate * replicas, np.nan)
    tokens = requests * goal.output_tokens
    price = np.array([prices.get(name, {}).get("usd_per_device_hour", np.nan) for name in grid.names])[grid.device]
    cost = devices * price / 3600 / tokens * 1e6
    energy = (
        times.prompt_j / ranks + (goal.output_tokens - 1) * times.step_j / (grid.batch * ranks)
    ) / goal.output_tokens
    reasons = _reasons(goal, times, ttft, tpot, devices)
    is_feasible = np.array([reason is None for reason in reasons])
    user, device = 1 / tpot, tokens / devices
    promised = np.where(is_feasible, user, np.nan)
    every = np.arange(grid.batch.size)
    in_flight = np.full(every.size, goal.concurrency) if goal.concurrency else replicas * server.in_flight(rate)
    answered = times.is_answered
    columns: dict[str, Any] = {
        **_columns(grid.configs(fixed, every, phase="serve", batch_size=grid.batch)),
        "num_devices": _whole(
            np.where(is_served, devices, _columns(grid.configs(fixed, every))["num_devices"].to_numpy())
        ),
        "data_parallel": _whole(np.where(is_served, replicas, 1) * ranks),
        "input_tokens": pa.repeat(goal.input_tokens, every.size),
        "output_tokens": pa.repeat(goal.output_tokens, every.size),
        "concurrency": pa.nulls(every.size, pa.int64()) if goal.request_rate_per_s else _whole(np.fmax(in_flight, 1)),
        "request_rate_per_s": pa.repeat(pa.scalar(goal.request_rate_per_s, pa.float64()), every.size),
        "optimizations": pa.array([[]] * every.size, pa.list_(pa.string())),
        "slo_ttft_s": pa.repeat(pa.scalar(goal.slo_ttft_s, pa.float64()), every.size),
        "slo_tpot_s": pa.repeat(pa.scalar(goal.slo_tpot_s, pa.float64()), every.size),
        "ttft_s": _nullable(ttft),
        "tpot_s": _nullable(tpot),
        "e2el_s": _nullable(ttft + (goal.output_tokens - 1) * tpot),
        "requests_per_s": _nullable(requests),
        "output_tokens_per_s": _nullable(tokens),
        "total_tokens_per_s": _nullable(requests * (goal.input_tokens + goal.output_tokens)),
        "weights_bytes": times.full.column("weights_bytes"),
        "kv_cache_bytes": times.full.column("kv_cache_bytes"),
        "activation_peak_bytes": _nullable(times.activation_bytes),
        "memory_peak_bytes": _nullable(times.memory_bytes),
        "is_fitting": pa.array(is_fitting, mask=is_unknown),
        "energy_per_output_token_j": _nullable(np.where(is_served & (stages == 1), energy, np.nan)),
        "usd_per_million_tokens": _nullable(cost),
        "price_id": pa.array([prices.get(name, {}).get("price_id") for name in grid.names], pa.string()).take(
            pa.array(grid.device)
        ),
        "calibration_id": times.full.column("calibration_id"),
        "ruleset": pa.repeat("default", every.size),
        "status": pa.array(np.where(answered, "ok", "unsupported").tolist()),
        "status_detail": pa.array(times.detail, pa.string()),
        "is_feasible": pa.array(is_feasible),
        "reason": pa.array(reasons, pa.string()),
        "output_tokens_per_s_per_device": _nullable(device),
        "output_tokens_per_s_per_user": _nullable(user),
        "usd_per_hour": _nullable(devices * price),
        "is_pareto": pa.array(pareto(np.column_stack([device, promised]))),
        "is_pareto_cost": pa.array(pareto(np.column_stack([-cost, promised]))),
    }
    return pa.table(columns)


@dataclass(frozen=True)
class Server:
    """One replica in the steady state (formulas at the top): arrays of shape (rows,), seconds and requests/s."""

    step_s: Array
    prompt_s: Array
    stages: NDArray[np.int64]
    ranks: NDArray[np.int64]
    output_tokens: int

    @property
    def occupied_s(self) -> Array:
        """What one prompt takes of a stage's time on its rank."""
        return np.asarray(self.prompt_s / self.stages)

    def load(self, rate: Array) -> Array:
        """Share of the time that goes to prompts."""
        return np.asarray(rate * self.occupied_s / self.ranks)

    def ttft_s(self, rate: Array) -> Array:
        return self.prompt_s + self._wait_s(self.load(rate))

    def tpot_s(self, rate: Array) -> Array:
        load = self.load(rate)
        behind = load * (self._wait_s(load) + self.occupied_s)
        steps = (self.output_tokens - 1 - load) * self.step_s  # O - 2 with prompts between them, and one
        return np.asarray((behind + steps) / (1 - load) / (self.output_tokens - 1))

    def decoding(self, rate: Array) -> Array:
        """Sequences that decode."""
        return np.asarray(rate * (self.output_tokens - 1) * self.tpot_s(rate))

    def in_flight(self, rate: Array) -> Array:
        """Requests that wait, are taken or decode."""
        return rate * self.ttft_s(rate) + self.decoding(rate)

    def rate(self, of: Callable[[Array], Array], target: Array) -> Array:
        """Requests/s at which `decoding` or `in_flight` is the target: both grow with the load, without end before 1."""
        whole = self.ranks / self.occupied_s
        low, high = np.zeros_like(self.step_s), np.ones_like(self.step_s)
        with np.errstate(divide="ignore", invalid="ignore"):
            for _ in range(53):  # bits of a load between 0 and 1
                middle = (low + high) / 2
                is_more = of(middle * whole) > target
                low, high = np.where(is_more, low, middle), np.where(is_more, middle, high)
        return np.asarray(np.where(np.isnan(of(low * whole)), np.nan, low * whole))

    def _wait_s(self, load: Array) -> Array:
        return np.asarray(self.step_s / (2 * self.stages) + load * self.occupied_s / (2 * (1 - load)))


def _reasons(goal: Goal, times: _Times, ttft: Array, tpot: Array, devices: Array) -> list[str | None]:
    """Why each row is not feasible; None where it is. The first reason stands."""
    is_over = [
        ~times.is_answered,
        times.memory_bytes > times.device_bytes,
        ttft > (np.inf if goal.slo_ttft_s is None else goal.slo_ttft_s),
        tpot > (np.inf if goal.slo_tpot_s is None else goal.slo_tpot_s),
        devices > goal.max_devices,
    ]

    def sentence(row: int, kind: int) -> str | None:
        if kind == 0:
            return times.refusal[row] or "the engine has no answer."
        if kind == 1:
            return (
                f"does not fit: needs {times.memory_bytes[row] / 2**30:.1f} GiB a device, "
                f"which has {times.device_bytes[row] / 2**30:.1f} GiB."
            )
        if kind == 2:
            return f"TTFT is {ttft[row] * 1e3:.4g} ms, {(goal.slo_ttft_s or 0) * 1e3:.4g} ms are allowed."
        if kind == 3:
            return f"TPOT is {tpot[row] * 1e3:.4g} ms, {(goal.slo_tpot_s or 0) * 1e3:.4g} ms are allowed."
        return _too_many(goal, devices[row])

    kinds = np.where(np.any(is_over, axis=0), np.argmax(is_over, axis=0), -1)
    return [None if kind < 0 else sentence(row, kind) for row, kind in enumerate(kinds.tolist())]


def _prices(names: Iterable[str], given: Mapping[str, float] | None) -> dict[str, dict[str, Any]]:
    """Least price of each device, with its id where it is the catalogue's."""
    if given is not None:
        return {name: {"usd_per_device_hour": price} for name, price in given.items()}
    return {name: price for name in names if (price := catalog.price(name)) is not None}


def _refusals(totals: pa.Table) -> list[str | None]:
    """The reason of rows without an answer."""
    rows = zip(totals.column("status").to_pylist(), totals.column("status_detail").to_pylist(), strict=True)
    return [detail if status != "ok" else None for status, detail in rows]


def _numbers(table: pa.Table, name: str) -> Array:
    """A column, NaN where NULL or absent."""
    return Configs(table).numbers(name)


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table.column(name) for name in table.column_names}


def _nullable(values: Array) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _whole(values: Array) -> pa.Array:
    is_absent = ~np.isfinite(values)
    return pa.array(np.rint(np.where(is_absent, 0, values)).astype(np.int64), mask=is_absent)
