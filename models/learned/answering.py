"""Any configuration answered: by the predictor that knows such rows, else by its kernels, else by the arithmetic; each says which.

Columnar: thousands of configurations at once, reasons as sentences for those that somebody looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.analytical import evaluate
from models.analytical.devices import HardwareRows, device_rows
from models.learned import fits, subjects
from models.learned.contenders import Ours
from models.learned.fitted import Answers
from models.learned.inputs import Array, Mask, labels, number, optional
from models.learned.predictor import OtherFeaturesError, Predictor
from models.learned.subjects import devices
from warehouse import catalog, metrics, schema
from warehouse.catalog.llm import Llm

MADE_BY = ("predictor", "kernels", "estimate", "bound")
"""How a number was made, the most trusted first: a predictor of such runs; predicted kernels added up; the analytical estimate;
the analytical model alone, without an interval."""
NOBODY = -1
DEVIATIONS = 1.6449
"""Standard deviations of a normal distribution to either end of its central 90 %."""

BOUNDS = {
    "latency_s": "roofline_s",
    "memory_peak_bytes": "memory_peak_bytes",
    "energy_per_output_token_j": "energy_per_output_token_j",
}
"""Metric -> column of the analytical totals that stands for it."""
MEMORY = ("memory_reserved_bytes", "memory_peak_bytes")
"""Metrics that a device's memory must hold."""
SERVED = {"ttft_s": "served_ttft", "tpot_s": "served_tpot", "e2el_s": "served_request"}
"""Metric of a served load -> the target whose inputs hold its bound and estimate: a load has no analytical row of its own."""
RATES = {
    "output_tokens_per_s": "output_tokens_per_s",
    "total_tokens_per_s": "total_tokens_per_s",
    "achieved_bytes_per_s": None,
}
"""Rate -> column of the totals that has it at the bound: amounts over the predicted time, where nobody predicts the rate itself."""
WAYS = ("framework", "framework_version", "execution", "cache_implementation")
"""How a configuration is run, beside the columns that make it."""

PHASES = ("forward", "prefill", "decode", "generate", "serve", "pretrain_step", "finetune_step")
"""Phases that are answered."""
CONFIGURATION = tuple(name for name in (*schema.CONFIGURATION_NAMES, *WAYS) if name not in schema.OF_MICROBENCH)
"""Columns of a question that make its configuration."""
PROFILE = "estimate_execution"
"""Column of questions: the execution profile that the estimate assumes; `execution` is what was asked, NULL where nothing was."""
FILLED = ("framework", "execution", "cache_implementation", "attention", "weight_dtype", "activation_dtype", "kv_dtype")
"""What `filled` completes."""

Composer = Callable[[pa.Table], tuple[Array, Array, Array]]
"""Seconds of n configurations put together from predicted kernels, with lower and upper end; NaN where they cannot be."""


@dataclass(frozen=True)
class Known:
    """What answers are made of. `hardware`, `llms` and `calibrations` extend the catalogue and the shipped constants."""

    predictors: Mapping[str, Predictor] = field(default_factory=dict)
    hardware: HardwareRows | None = None
    llms: Sequence[Llm] = ()
    calibrations: Sequence[Mapping[str, Any]] = ()
    compose: Composer | None = None


@dataclass(frozen=True)
class Column:
    """One metric of n configurations; arrays of shape (n,), NaN where unknown, in the metric's SI unit.

    made_by: index into MADE_BY, or NOBODY. by: index into `predictors`, or NOBODY. base: what the predictor started from.
    """

    metric: str
    value: Array
    lower: Array
    upper: Array
    base: Array
    bound: Array
    estimate: Array
    made_by: npt.NDArray[np.int8]
    by: npt.NDArray[np.int8]
    predictors: tuple[str, ...]
    is_supported: Mask
    is_unseen: Mask
    refused: tuple[str, ...] = ()
    """Why a predictor that was promoted cannot answer: it learnt from other features."""

    def over(self, other: Column) -> Column:
        """Its answers where a predictor made them or the other has none, those of the other elsewhere."""
        is_own = (self.by != NOBODY) | ~np.isfinite(other.value)
        pick = {
            name: np.where(is_own, getattr(self, name), getattr(other, name))
            for name in ("value", "lower", "upper", "base", "bound", "estimate", "made_by", "is_supported", "is_unseen")
        }
        by = np.where(is_own, self.by, np.where(other.by == NOBODY, NOBODY, other.by + len(self.predictors)))
        return Column(self.metric, **pick, by=by.astype(np.int8), predictors=(*self.predictors, *other.predictors),
                      refused=(*self.refused, *other.refused))  # fmt: skip

    @property
    def interval(self) -> list[str | None]:
        """What the interval of every row is: `same` for rows like those learnt from, `unseen` for a group or size never seen, else
        how the value was made; None without one."""
        names = np.array([*MADE_BY, "same", "unseen", None], dtype=object)
        codes = np.where(self.by == NOBODY, self.made_by, np.where(self.is_unseen, len(MADE_BY) + 1, len(MADE_BY)))
        return list(names[np.where(np.isfinite(self.upper), codes, -1)])

    def said_by(self, row: int) -> str | None:
        """Key of the target whose predictor answers a row."""
        return None if self.by[row] == NOBODY else self.predictors[self.by[row]]


@dataclass(frozen=True)
class Answered:
    """n configurations with what was said of each: `rows` are the questions (configuration, analytical totals, shapes)."""

    rows: pa.Table
    columns: Mapping[str, Column]
    known: Known

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def chance_of_fitting(self) -> Array:
        """Probability that the peak memory is at most the device's, by the least hopeful of MEMORY; shape (n,).

        From the predictor's errors on LLMs left out (`fits`); without them the interval is read as a log-normal distribution. NaN
        where there is no interval, for the analytical model alone promises nothing, and where the device's memory is unknown.
        """
        capacity = devices.device(self.rows, "memory_bytes")
        chances = [np.full(len(self), np.nan)]
        for column in (self.columns[name] for name in MEMORY if name in self.columns):
            found = chance(column.value, column.upper, capacity)
            for mask, errors in self._errors(column):
                better = _smooth_chance(errors, column.value[mask], capacity[mask])
                found[mask] = np.where(np.isfinite(better), better, found[mask])
            chances.append(found)
        return np.asarray(np.fmin.reduce(chances), np.float64)

    def safe(self, metric: str) -> Array:
        """What a peak stays within with 95 % confidence, shape (n,): by the worst errors on LLMs never seen (`fits`) where the
        predictor's card has them, else the upper end of the interval, else the value alone."""
        column = self.columns[metric]
        found = np.where(np.isfinite(column.upper), column.upper, column.value)
        for mask, errors in self._errors(column):
            bound = errors.safe(column.value[mask])
            found[mask] = np.where(np.isfinite(bound), bound, found[mask])
        return np.asarray(found, np.float64)

    def _errors(self, column: Column) -> Iterator[tuple[Mask, fits.Errors]]:
        """Of every predictor that answers rows inside its data, those rows and its errors on groups left out."""
        for place, key in enumerate(column.predictors):
            mask = (column.by == place) & np.isfinite(column.upper)
            if mask.any():
                yield mask, fits.Errors.of_card(self.known.predictors[key].card)

    def table(self, row: int | None = None) -> pa.Table:
        """One row a configuration and metric, of one configuration or of all; columns as in ANSWER_COLUMNS."""
        parts = [self._metric(column) for column in self.columns.values()]
        rows = pa.concat_tables(parts)
        if row is not None:
            rows = rows.filter(pa.array(rows.column("config_row").to_numpy() == row))
        return rows

    def sheet(self) -> pa.Table:
        """`table` beside each row's configuration (IDENTITY), the unit, the score of the predictor on its first leave-out split,
        chance_of_fitting, and up to MOST_EXPLAINED configurations the reasons, in sentences."""
        table = self.table()
        at = table.column("config_row")
        metric, target = table.column("metric").to_pylist(), table.column("target").to_pylist()
        scores = {key: score(self.known.predictors[key]) for key in {*target} - {None}}
        found = pa.table(
            {"config_row": at}
            | {name: self.rows.column(name).take(at) for name in IDENTITY if name in self.rows.column_names}
            | {name: table.column(name) for name in table.column_names if name != "config_row"}
            | {
                "unit": pa.array([metrics.metric(name).unit for name in metric]),
                "leave_out_split": pa.array([scores.get(key, (None, None))[0] for key in target], pa.string()),
                "leave_out_mdape": pa.array([scores.get(key, (None, None))[1] for key in target], pa.float64()),
                "chance_of_fitting": nullable(self.chance_of_fitting()).take(at),
            }
        )
        if len(self) > MOST_EXPLAINED:
            return found
        said = [" ".join(self.reasons(*one)) or None for one in zip(metric, at.to_pylist(), strict=True)]
        return found.append_column("reason", pa.array(said, pa.string()))

    def named(self, row: int) -> str:
        """A configuration in words: prefill of gpt2 on t4, batch 8."""
        one = {name: self.rows.column(name)[row].as_py() for name in IDENTITY if name in self.rows.column_names}
        several = f"{one['num_devices']} x " if one["num_devices"] > 1 else ""
        parts = [f"{one['phase']} of {one['llm_id']} on {several}{one['hardware_id']}"]
        parts += [] if one["batch_size"] is None else [f"batch {one['batch_size']}"]
        parts += [] if one["concurrency"] is None else [f"{one['concurrency']} in flight"]
        return ", ".join(parts)

    def reasons(self, metric: str, row: int) -> list[str]:
        """Sentences on what of a configuration the predictor of a metric has not seen, or why there is none."""
        column = self.columns[metric]
        if column.made_by[row] == NOBODY:
            if self.rows.column("phase")[row].as_py() == "serve":
                return [UNKNOWN_LOAD]
            detail = self.rows.column("status_detail")[row].as_py()
            return [detail or f"Nothing is known about {metric} of such a configuration."]
        said = column.said_by(row)
        if said is not None:
            return self.known.predictors[said].reasons(self.rows, row)
        label = LABELS[MADE_BY[column.made_by[row]]]
        if not column.predictors:
            if column.refused:
                return [*column.refused, f"So this is {label}."]
            return [f"No predictor of {metric} is trained: this is {label}."]
        found = [reason for key in column.predictors for reason in self.known.predictors[key].reasons(self.rows, row)]
        return [*dict.fromkeys(found), f"So this is {label}."]

    def unseen_groups(self, metric: str, row: int) -> list[str]:
        """Dimensions (device, llm ...) in which a configuration belongs to a group the predictor never saw."""
        said = self.columns[metric].said_by(row)
        if said is None:
            return []
        predictor = self.known.predictors[said]
        unseen = predictor.fitted.support.unseen(predictor.inputs(self.rows.slice(row, 1)))
        return [name for name, mask in unseen.items() if mask[0]]

    def breakdown(self, metric: str, row: int) -> pa.Table | None:
        """Bound, base and corrections of a predicted value (`Predictor.explain`); None where no predictor made it."""
        said = self.columns[metric].said_by(row)
        return None if said is None else self.known.predictors[said].explain(self.rows, row)

    def _metric(self, column: Column) -> pa.Table:
        made_by = np.array([*MADE_BY, None], dtype=object)[column.made_by]
        keys = np.array([*column.predictors, None], dtype=object)[column.by]
        ids = np.array([*(self.known.predictors[key].predictor_id for key in column.predictors), None], dtype=object)
        return pa.table(
            {
                "config_row": np.arange(len(self)),
                "metric": pa.repeat(column.metric, len(self)),
                **{name: nullable(getattr(column, name)) for name in ("value", "lower", "upper")},
                "interval": pa.array(column.interval, pa.string()),
                **{name: nullable(getattr(column, name)) for name in ("base", "bound", "estimate")},
                "made_by": pa.array(made_by, pa.string()),
                "is_supported": column.is_supported,
                "target": pa.array(keys, pa.string()),
                "predictor_id": pa.array(ids[column.by], pa.string()),
            }
        )


IDENTITY = (
    "llm_id", "hardware_id", "num_devices", "tensor_parallel", "phase", "batch_size", "input_tokens", "output_tokens", "context_tokens",
    "concurrency", "request_rate_per_s", "weight_dtype", "framework", "execution",
)  # fmt: skip
"""Columns that tell configurations apart where people read them."""
UNKNOWN_LOAD = "No predictor here knows such a load, and the steps of one are known of decoders that fit, by their requests in flight (concurrency)."
"""Why a served load has no answer."""
MOST_COMPOSED = 200
"""Configurations of one question whose kernels are added up; of more, those that no predictor knows take the estimate."""
MOST_EXPLAINED = 200
"""Configurations whose reasons are put into sentences."""


def score(predictor: Predictor) -> tuple[str | None, float | None]:
    """The split that people ask for first, and the method's median error on it; None without scores."""
    for split, contenders in predictor.card["scores"].items():
        ours = contenders.get(Ours.name, {}).get("mdape")
        if ours is not None:
            return split, ours
    return None, None


LABELS = {
    "predictor": "a prediction",
    "kernels": "the sum of its predicted kernels",
    "estimate": "the analytical estimate, whose interval is that of its constants",
    "bound": "the analytical model alone, without an interval",
}
"""MADE_BY in words."""


def answer(configs: pa.Table, known: Known, *, only: Iterable[str] | None = None) -> Answered:
    """Answer every configuration: columns of `runs` that make one, and WAYS; one row each.

    `only`: metrics wanted, default all that anybody can say something about. Raises UnknownEntryError for an LLM or device that
    neither the catalogue nor `known` has.
    """
    rows = questions(configs, known)
    wanted = None if only is None else set(only)
    served = SERVED if labels(rows, "phase").mask("serve").any() else {}
    predicted = [one.metric for one in known.predictors.values() if one.metric in metrics.BY_KEY]
    names = dict.fromkeys([*BOUNDS, *served, *predicted])
    columns = {name: _column(name, configs, rows, known) for name in names if wanted is None or name in wanted}
    for name in RATES if wanted is None else wanted & RATES.keys():
        for time in ("latency_s", "e2el_s") if served else ("latency_s",):
            seconds = columns.get(time) or _column(time, configs, rows, known)
            columns[name] = _rate(name, rows, seconds, columns.get(name))
    return Answered(rows, columns, known)


def configurations(configs: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Configurations as a table with the types of `runs`; a column that one of them lacks is NULL there.

    Raises ValueError for a key that is no configuration column, and for a value that is no value of it.
    """
    names = dict.fromkeys(name for config in configs for name in config)
    strange = [name for name in names if name not in CONFIGURATION]
    if strange:
        raise ValueError(f"{', '.join(strange)}: no column of a configuration. Known: {', '.join(CONFIGURATION)}.")
    columns = {}
    for name in names:
        column, values = schema.RUNS.column(name), [config.get(name) for config in configs]
        wrong = [value for value in values if value is not None and column.values and value not in column.values]
        if wrong:
            raise ValueError(f"'{wrong[0]}' is no {name}. Known: {', '.join(column.values or ())}.")
        broken = [value for value in values if isinstance(value, float) and not _fits(value, column.type)]
        if broken:
            raise ValueError(
                f"{name} must be a {'whole' if pa.types.is_integer(column.type) else 'finite'} number, not {broken[0]}."
            )
        try:
            columns[name] = pa.array(values, column.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ValueError(f"{name} must be {column.type}: {error}") from None
    return pa.table(columns)


def _fits(value: float, kind: pa.DataType) -> bool:
    """Whether a number means what a column holds: Arrow would cut 1.5 to 1 in silence."""
    return value.is_integer() if pa.types.is_integer(kind) else bool(np.isfinite(value))


def canonical(config: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """A configuration with LLM and device by their ids, where it has an alias or another case. Raises UnknownEntryError."""
    found = dict(config)
    own_llms, own_devices = {llm.llm_id for llm in known.llms}, device_rows(known.hardware)
    if found.get("llm_id") is not None and found["llm_id"] not in own_llms:
        found["llm_id"] = catalog.find_llm(found["llm_id"]).llm_id
    if found.get("hardware_id") is not None and found["hardware_id"] not in own_devices:
        found["hardware_id"] = catalog.find_hardware(found["hardware_id"]).hardware_id
    return found


def filled(config: Mapping[str, Any], ways: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A configuration with what it leaves open of FILLED as it is usually run: by that one of `ways` (query `usual_ways`, the most
    frequent first) of its software and execution which shares its device, then its phase, then most of what else it states. A way of
    another phase and another device says nothing. As it is without."""
    stated = [name for name in FILLED if config.get(name) is not None]
    way = max(
        (
            way
            for way in ways
            if all(way[name] == config[name] for name in _DECIDING if config.get(name) is not None)
            and (way["hardware_id"] == config.get("hardware_id") or way["phase"] == config.get("phase", way["phase"]))
        ),
        key=lambda way: (
            way["hardware_id"] == config.get("hardware_id"),
            way["phase"] == config.get("phase"),
            sum(way[name] == config[name] for name in stated),
        ),
        default=None,
    )
    if way is None:
        return dict(config)
    return dict(config) | {name: way[name] for name in FILLED if name not in stated and way[name] is not None}


_DECIDING = ("framework", "execution")
"""What a usual way must share with a question that states it."""


def questions(configs: pa.Table, known: Known) -> pa.Table:
    """Configurations with what features are made of: analytical totals, the LLM's shape, the device's numbers."""
    absent = [name for name in schema.CONFIGURATION_NAMES if name not in configs.column_names]
    totals, _ = evaluate(
        configs, with_ops=False, hardware=known.hardware, llms=known.llms, calibrations=known.calibrations or None
    )
    asked = {
        name: configs.column(name) if name in configs.column_names else pa.nulls(configs.num_rows, pa.string())
        for name in WAYS
    }
    rows = totals.drop_columns([name for name in (*WAYS, *schema.OF_MICROBENCH) if name in totals.column_names])
    for name, values in {**asked, PROFILE: totals.column("execution")}.items():
        rows = rows.append_column(name, values)
    for name in absent:
        if name not in schema.OF_MICROBENCH:
            rows = rows.append_column(name, pa.nulls(configs.num_rows, schema.RUNS.column(name).type))
    rows = rows.set_column(
        rows.column_names.index("optimizations"), "optimizations", _texts(rows.column("optimizations"))
    )
    return devices.with_devices(with_llms(_one_device(rows), known.llms), device_rows(known.hardware).values())


def with_llms(rows: pa.Table, more: Iterable[Llm] = ()) -> pa.Table:
    """Rows with the columns of table `llms` that say what shape their LLM has; NULL for an LLM nobody knows."""
    ids = labels(rows, "llm_id")
    brought = {llm.llm_id: llm for llm in more}
    found = [_shape(name, brought) for name in ids.names]
    codes = pa.array(ids.codes.astype(np.int32))
    for column in schema.table("llms").columns:
        if column.name in SHAPES and column.name not in rows.column_names:
            values = pa.array([shape.get(column.name) for shape in found], column.type)
            rows = rows.append_column(column.name, values.take(codes))
    return rows


SHAPES = (
    "family", "architecture", "num_parameters", "num_active_parameters", "num_layers", "num_encoder_layers", "hidden_size",
    "num_heads", "num_kv_heads", "head_dim", "intermediate_size", "vocab_size", "max_context_tokens",
)  # fmt: skip
"""Columns of `llms` that features read."""


def chance(value: Array, upper: Array, limit: Array) -> Array:
    """Probability that a quantity with a 90 % interval ending at `upper` stays within a limit; shape (n,)."""
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.log(upper / value) / DEVIATIONS
        found = ndtr(np.log(limit / value) / deviation)
    return np.asarray(np.where(np.isfinite(deviation) & (deviation > 0), found, np.nan), np.float64)


def _smooth_chance(errors: fits.Errors, value: Array, capacity: Array) -> Array:
    """`fits.Errors.chance`; of many rows between GRID values of capacity over value, for it depends on nothing else; shape (n,)."""
    if len(value) <= GRID:
        return errors.chance(value, capacity)
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.log(capacity / value)
    known = room[np.isfinite(room)]
    if len(known) == 0:
        return np.full(len(value), np.nan)
    grid = np.linspace(known.min(), known.max(), GRID)
    near = np.union1d(grid, np.linspace(-1.0, 1.0, GRID))
    return np.asarray(np.interp(room, near, errors.chance(np.ones(len(near)), np.exp(near)), left=np.nan), np.float64)


GRID = 256
"""Points between which the chance of fitting is interpolated."""


def _shape(llm_id: str, brought: Mapping[str, Llm]) -> Mapping[str, Any]:
    try:
        return catalog.llm_row(brought.get(llm_id) or catalog.find_llm(llm_id))
    except catalog.UnknownEntryError:
        return {}


def _texts(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of texts as DuckDB casts them: [zero2, offload]."""
    if not pa.types.is_list(lists.type):
        return lists.cast(pa.string())
    joined = pc.binary_join(lists.cast(pa.list_(pa.string())), ", ")
    return pc.binary_join_element_wise("[", joined, "]", "")


def _one_device(rows: pa.Table) -> pa.Table:
    """Degrees that mean 1 where absent are 1: a predictor knows them by their label."""
    for name in schema.ONE_BY_DEFAULT:
        values = np.nan_to_num(optional(rows, name), nan=1.0).astype(np.int64)
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    return rows


def _column(metric: str, configs: pa.Table, rows: pa.Table, known: Known) -> Column:
    """A metric of every row: of each predictor's answer the most trusted, then kernels, then the estimate."""
    length = rows.num_rows
    bound = optional(rows, BOUNDS[metric]) if metric in BOUNDS else np.full(length, np.nan)
    is_time = metric == "latency_s"
    estimate = optional(rows, "estimate_s") if is_time else bound
    blank = np.full(length, np.nan)
    found = {name: blank.copy() for name in ("value", "lower", "upper", "base")}
    made_by, by = np.full(length, NOBODY, np.int8), np.full(length, NOBODY, np.int8)
    is_supported, is_unseen = np.zeros(length, np.bool_), np.zeros(length, np.bool_)
    rank = np.zeros(length)
    answering: list[str] = []
    refused: list[str] = []
    for key, predictor in known.predictors.items():
        if predictor.metric != metric:
            continue
        try:
            answers = predictor.predict(rows)
        except OtherFeaturesError as error:
            refused.append(str(error))
            continue
        position = len(answering)
        answering.append(key)
        trust = _trust(answers)
        is_better = trust > rank
        rank = np.maximum(rank, trust)
        for name, values in found.items():
            values[is_better] = getattr(answers, name)[is_better]
        bound = np.where(is_better & np.isfinite(answers.bound), answers.bound, bound)
        is_supported[is_better], is_unseen[is_better] = answers.is_supported[is_better], answers.is_unseen[is_better]
        made_by[is_better], by[is_better] = MADE_BY.index("predictor"), position
    if metric == "latency_s" and known.compose is not None and 0 < (made_by == NOBODY).sum() <= MOST_COMPOSED:
        at = np.flatnonzero(made_by == NOBODY)
        ends = known.compose(configs.take(pa.array(at)))
        for name, values in zip(("value", "lower", "upper"), ends, strict=True):
            found[name][at] = values
        made_by[at[np.isfinite(ends[0])]] = MADE_BY.index("kernels")
    if metric in SERVED and (made_by == NOBODY).any():
        inputs = subjects.find(SERVED[metric]).inputs(rows)
        bound, estimate = (
            np.where(np.isfinite(own), own, other)
            for own, other in ((bound, inputs.bound), (estimate, inputs.estimate))
        )
        _fill(found, made_by, "estimate", (estimate, blank, blank))
    if is_time:
        ends = (estimate, optional(rows, "estimate_lower_s"), optional(rows, "estimate_upper_s"))
        _fill(found, made_by, "estimate", ends)
    _fill(found, made_by, "bound", (bound, blank, blank))
    return Column(metric, **found, bound=bound, estimate=estimate, made_by=made_by, by=by, predictors=tuple(answering),
                  is_supported=is_supported, is_unseen=is_unseen, refused=tuple(refused))  # fmt: skip


def _trust(answers: Answers) -> Array:
    """0 where a predictor has no interval to offer; more for a row inside its data, most for one of groups it has seen."""
    has_interval = np.isfinite(answers.lower) & np.isfinite(answers.upper)
    return np.asarray(has_interval * (1.0 + 2.0 * answers.is_supported + ~answers.is_unseen), np.float64)


def _fill(found: dict[str, Array], made_by: npt.NDArray[np.int8], name: str, ends: tuple[Array, Array, Array]) -> None:
    """Value and both ends for rows that nobody has answered yet, in place."""
    is_left = (made_by == NOBODY) & np.isfinite(ends[0])
    for column, values in zip(("value", "lower", "upper"), ends, strict=True):
        found[column][is_left] = values[is_left]
    made_by[is_left] = MADE_BY.index(name)


def composer(known: Known) -> Composer | None:
    """What puts run times together from the predictors of kernels that are known; None where none times matrix products."""
    from models.learned import compose

    fitted = {key: one.fitted for key, one in known.predictors.items() if one.metric not in metrics.BY_KEY}
    if compose.GEMM not in fitted:
        return None

    def put_together(configs: pa.Table) -> tuple[Array, Array, Array]:
        totals, ops = evaluate(
            configs, hardware=known.hardware, llms=known.llms, calibrations=known.calibrations or None
        )
        own = device_rows(known.hardware).values()
        runs = compose.compose(compose.beside(totals, ops, known.llms, own), fitted).runs
        ends = np.full((3, configs.num_rows), np.nan)
        at = number(runs, compose.RUN).astype(np.intp)
        for place, name in enumerate(("value_s", "lower_s", "upper_s")):
            ends[place, at] = number(runs, name)
        return ends[0], ends[1], ends[2]

    return put_together


def _rate(metric: str, rows: pa.Table, latency: Column, own: Column | None) -> Column:
    """An amount over the time of every row; rows that a predictor of the rate itself answers keep its answer."""
    amount = _in_flight(metric, rows) if latency.metric == "e2el_s" else _of_one(metric, rows)
    names = {
        "value": "value",
        "lower": "upper",
        "upper": "lower",
        "base": "base",
        "bound": "bound",
        "estimate": "estimate",
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        rates: dict[str, Any] = {
            name: np.asarray(amount / getattr(latency, of), np.float64) for name, of in names.items()
        }
    is_known = np.isfinite(rates["value"])
    made_by, by = (np.where(is_known, codes, NOBODY).astype(np.int8) for codes in (latency.made_by, latency.by))
    found = replace(latency, metric=metric, **rates, made_by=made_by, by=by)
    return found if own is None else own.over(found)


def _of_one(metric: str, rows: pa.Table) -> Array:
    """What one execution moves or makes; shape (n,)."""
    at_bound = RATES[metric]
    if at_bound is None:
        return optional(rows, "bytes_moved")
    return optional(rows, at_bound) * optional(rows, "roofline_s")


def _in_flight(metric: str, rows: pa.Table) -> Array:
    """Tokens of all requests in flight: over the time of a request they are the rate (Little's law); shape (n,)."""
    tokens = {"output_tokens_per_s": ("output_tokens",), "total_tokens_per_s": ("input_tokens", "output_tokens")}
    if metric not in tokens:
        return np.full(rows.num_rows, np.nan)
    return np.asarray(optional(rows, "concurrency") * sum(optional(rows, name) for name in tokens[metric]), np.float64)


def nullable(values: Any) -> pa.Array:
    """Numbers as Arrow has them: NULL for what is not finite."""
    found = np.asarray(values, np.float64)
    return pa.array(found, mask=~np.isfinite(found))
