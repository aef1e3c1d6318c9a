"""What the predictors look at: physical terms, dimensionless features, categories and support, from an Arrow table.

The table has the analytical columns of `runs` (ruleset `default`), the configuration columns, and the shape columns of
`llms`: a row of the query `training_rows`, or a total of `models.analytical.evaluate` passed through `with_llm_shapes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse import catalog, schema

Metric = Literal["latency_s", "memory_peak_bytes"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Array = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]

LLM_SHAPES = ("architecture", "num_parameters", "num_layers", "num_encoder_layers", "hidden_size", "vocab_size")
"""Columns of `llms` the features need."""

CATEGORIES = ("hardware_id", "phase", "architecture", "weight_dtype", "activation_dtype", "num_devices")
"""Categories a prediction must share with training rows to be supported; a NULL is the category `unstated`."""

LATENCY_TERMS = ("layers", "compute_s", "memory_s", "activation_s")
"""Non-negative terms of the fitted roofline: overhead a layer, FLOPs at peak, bytes at peak, activation traffic at peak."""
MEMORY_TERMS = ("weights_bytes", "kv_cache_bytes", "activation_peak_bytes", "logits_bytes", "constant")
"""Non-negative terms of peak memory."""
LATENCY_FEATURES = (
    "log_compute_over_memory",
    "log_roofline_per_layer",
    "log_new_tokens",
    "log_hidden_size",
    "activation_share",
)
"""What the correction of the fitted roofline depends on: which side of the ridge, how small the kernels are, GEMM rows,
GEMM width, share of the traffic that is activations."""
SUPPORT = ("num_parameters", "batch_size", "tokens", "roofline_s")
"""Quantities whose range in the training rows is remembered. `tokens`: attended by one sequence."""


@dataclass(frozen=True)
class Inputs:
    """What a predictor needs of n rows. `terms` (n, t) are non-negative and in the unit of the metric; `features` (n, d);
    `support` (n, s); each of `texts` (n,). Absent numbers are NaN."""

    term_names: tuple[str, ...]
    terms: Array
    features: Array
    support: Array
    texts: dict[str, Texts]

    def __len__(self) -> int:
        return len(self.terms)

    def take(self, index: npt.NDArray[np.intp]) -> Inputs:
        """The rows of an index."""
        return Inputs(
            self.term_names,
            self.terms[index],
            self.features[index],
            self.support[index],
            {name: values[index] for name, values in self.texts.items()},
        )

    @property
    def categories(self) -> Texts:
        """The categories as an (n, c) array of texts."""
        return np.stack([self.texts[name] for name in CATEGORIES], axis=1)

    @property
    def is_complete(self) -> npt.NDArray[np.bool_]:
        """Rows without an absent term or feature; shape (n,)."""
        complete = np.isfinite(np.hstack([self.terms, self.features])).all(axis=1)
        return np.asarray(complete, dtype=np.bool_)


def term_names(metric: Metric) -> tuple[str, ...]:
    """Names of the columns of `Inputs.terms`."""
    return LATENCY_TERMS if metric == "latency_s" else MEMORY_TERMS


def feature_names(metric: Metric) -> tuple[str, ...]:
    """Names of the columns of `Inputs.features`: memory has none, its terms are enough."""
    return LATENCY_FEATURES if metric == "latency_s" else ()


def inputs(rows: pa.Table, metric: Metric) -> Inputs:
    """Inputs of an Arrow table's rows. Raises ValueError naming a column that is not there."""
    tokens = _tokens(rows)
    build = _latency if metric == "latency_s" else _memory
    terms, features = build(rows, tokens)
    support = np.stack(
        [number(rows, "num_parameters"), number(rows, "batch_size"), tokens.attended, number(rows, "roofline_s")],
        axis=1,
    )
    texts = {name: text(rows, name) for name in (*CATEGORIES, "llm_id")}
    return Inputs(term_names(metric), terms, features, support, texts)


def with_llm_shapes(rows: pa.Table) -> pa.Table:
    """Rows with the catalogue's shape columns added where they lack them; NULL for an LLM the catalogue does not hold."""
    absent = [name for name in LLM_SHAPES if name not in rows.column_names]
    if not absent:
        return rows
    llm_ids = rows.column("llm_id").to_pylist()
    shapes = {llm_id: _shape(llm_id) for llm_id in set(llm_ids)}
    for name in absent:
        values = pa.array([shapes[llm_id].get(name) for llm_id in llm_ids], schema.table("llms").column(name).type)
        rows = rows.append_column(name, values)
    return rows


def number(rows: pa.Table, name: str) -> Array:
    """A column as floats, NULL as NaN; shape (n,)."""
    return np.asarray(_column(rows, name).cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def text(rows: pa.Table, name: str) -> Texts:
    """A column as texts, NULL as `unstated`; shape (n,)."""
    values = _column(rows, name).to_pylist()
    return np.array(["unstated" if value is None else str(value) for value in values], dtype=np.str_)


def _shape(llm_id: str | None) -> dict[str, Any]:
    try:
        return {} if llm_id is None else catalog.llm_row(catalog.find_llm(llm_id))
    except catalog.UnknownEntryError:
        return {}


@dataclass(frozen=True)
class _Tokens:
    """Tokens of one sequence, shape (n,): processed by one execution, attended to, given a logit."""

    new: Array
    attended: Array
    logits: Array


def _tokens(rows: pa.Table) -> _Tokens:
    """A decode step processes one token. A forward pass of an encoder-decoder processes its output tokens too, and only
    those get logits; an encoder has no language-model head; every other pass is taken to give each token its logits."""
    given, generated = number(rows, "input_tokens"), number(rows, "output_tokens")
    is_decode = text(rows, "phase") == "decode"
    architecture = text(rows, "architecture")
    decoder_tokens = np.where(np.isnan(generated), 0.0, generated)
    new = np.where(is_decode, 1.0, given + decoder_tokens)
    attended = np.where(is_decode, number(rows, "context_tokens"), given + decoder_tokens)
    logits = np.where(architecture == "encoder_decoder", np.where(is_decode, 1.0, decoder_tokens), new)
    return _Tokens(new, attended, np.where(architecture == "encoder", 0.0, logits))


def _latency(rows: pa.Table, tokens: _Tokens) -> tuple[Array, Array]:
    layers = number(rows, "num_layers") + np.nan_to_num(number(rows, "num_encoder_layers"))
    compute, memory, bound = number(rows, "compute_s"), number(rows, "memory_s"), number(rows, "roofline_s")
    activations = number(rows, "activation_bytes_read") + number(rows, "activation_bytes_written")
    share = activations / number(rows, "bytes_moved")
    terms = np.stack([layers, compute, memory, memory * share], axis=1)
    features = np.stack(
        [
            _log(compute / memory),
            _log(bound / layers),
            _log(number(rows, "batch_size") * tokens.new),
            _log(number(rows, "hidden_size")),
            share,
        ],
        axis=1,
    )
    return terms, features


def _memory(rows: pa.Table, tokens: _Tokens) -> tuple[Array, Array]:
    element = np.array([schema.DTYPE_BYTES.get(name, np.nan) for name in text(rows, "activation_dtype")])
    logits = number(rows, "batch_size") * tokens.logits * number(rows, "vocab_size") * element
    cache = np.nan_to_num(number(rows, "kv_cache_bytes"))  # an encoder keeps none
    terms = [
        number(rows, "weights_bytes"),
        cache,
        number(rows, "activation_peak_bytes"),
        logits,
        np.ones(rows.num_rows),
    ]
    return np.stack(terms, axis=1), np.empty((rows.num_rows, 0))


def _log(values: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: Array = np.log(values)
    return logs


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise ValueError(
            f"The rows have no column '{name}'. A predictor reads the rows of the query `training_rows`, or totals of "
            f"models.analytical.evaluate passed through with_llm_shapes. They have: {', '.join(rows.column_names)}."
        )
    return rows.column(name)
