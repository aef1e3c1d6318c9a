"""Evaluation: configurations in, totals and ops out, all configurations of one LLM, phase and attention kind at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.analytical import default, llmviewer
from models.analytical.configs import NULL, Codes, Configs, Names, dtype_bytes
from models.analytical.devices import Device, HardwareRows, device_rows, find_device
from models.analytical.inventory import Array, Group, Inventory, Op, Value
from warehouse import schema
from warehouse.catalog import find_llm
from warehouse.catalog.llm import Llm

Index = NDArray[np.intp]
Mask = NDArray[np.bool_]
Llms = Mapping[str, Llm] | Iterable[Llm]

ATTENTION_KINDS = {"eager": False, "sdpa": True, "flash": True, "paged": True}
"""Attention implementation -> is it one fused kernel that never writes the scores?"""

BLOCK = 16_384
"""Configurations evaluated at a time, so that their arrays stay in the processor's cache."""

WORK = {
    "flops": "flops",
    "weight_bytes_read": "weights",
    "activation_bytes_read": "read",
    "activation_bytes_written": "written",
    "kv_bytes_read": "kv_read",
    "kv_bytes_written": "kv_written",
}
"""Work column -> field of an op, for one device."""

TOTALS = (
    "flops", "bytes_moved", "weight_bytes_read", "activation_bytes_read", "activation_bytes_written", "kv_bytes_read",
    "kv_bytes_written", "arithmetic_intensity", "weights_bytes", "kv_cache_bytes", "activation_peak_bytes",
    "memory_peak_bytes", "roofline_s", "compute_s", "memory_s", "communication_s", "output_tokens_per_s",
    "total_tokens_per_s",
)  # fmt: skip
RESULTS = (*TOTALS, "is_fitting", "bound", "status", "status_detail", "ruleset")
"""Columns that `evaluate` adds to the configurations."""


@dataclass(frozen=True)
class Ruleset:
    """One way of counting. Functions take groups of configurations; sentences say why a number is absent or assumed."""

    name: str
    device: Callable[[str], Mapping[str, Any] | None]
    """The ruleset's own numbers of a device, or None for the catalogue's."""
    refuse: Callable[[Llm, str], str | None]
    """Why an LLM and a phase have no answer."""
    inventory: Callable[..., Inventory]
    """inventory(llm, phase, group, is_fused=...)."""
    is_peer: bool
    """Follow LLM-Viewer: its peaks, no parallelism, no verdict on memory."""


RULESETS = {
    "default": Ruleset("default", lambda _: None, default.refuse, default.inventory, False),
    "llmviewer-472f71f": Ruleset("llmviewer-472f71f", llmviewer.device, llmviewer.refuse, llmviewer.inventory, True),
}


def evaluate(
    configs: pa.Table,
    ruleset: str = "default",
    *,
    with_ops: bool = True,
    hardware: HardwareRows | None = None,
    llms: Llms | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Analytical totals and ops of every configuration.

    `configs` holds (some of) the configuration columns of `runs`, one row a configuration. Totals: the columns of
    `configs`, unchanged and in order (others than configuration columns too), then RESULTS. Ops: columns of `ops`, and
    `config_row`, the 0-based row of `configs`; in order of (config_row, op_index); empty unless `with_ops`.

    Work (FLOPs and bytes) is summed over all devices; memory and a GEMM's m, n, k are of one device; seconds are of one
    execution of the phase. A row without an answer has status `unsupported`, a sentence, and no number.
    `hardware` and `llms` extend the catalogue or override it. Raises UnknownEntryError for an LLM or device that neither
    knows, ValueError for an unknown ruleset or a configuration column of the wrong type.
    """
    if ruleset not in RULESETS:
        raise ValueError(
            f"'{ruleset}' is not a ruleset. Known: {', '.join(RULESETS)}. Add it in models/analytical/engine.py."
        )
    rules = RULESETS[ruleset]
    rows = _Rows(configs, rules, hardware, llms)
    totals = {name: np.full(rows.num_rows, np.nan) for name in TOTALS}
    op_tables = []
    for part in rows.parts():
        for start in range(0, part.index.size, BLOCK):
            index = part.index[start : start + BLOCK]
            group = rows.group(index)
            inventory = rules.inventory(part.llm, part.phase, group, is_fused=part.is_fused)
            for name, values in (_sum(inventory, group) | _memory(inventory)).items():
                totals[name][index] = values
            if with_ops:
                op_tables.append(_op_table(inventory, group, index))
    _judge(totals, rows)
    return _totals_table(configs, totals, rows), _in_order(op_tables)


@dataclass(frozen=True)
class _Part:
    """Rows of one LLM, phase and attention kind."""

    llm: Llm
    phase: str
    is_fused: bool
    index: Index


class _Rows:
    """Every configuration as arrays, with what was assumed and refused on the way."""

    def __init__(self, table: pa.Table, rules: Ruleset, hardware: HardwareRows | None, llms: Llms | None) -> None:
        self.rules = rules
        self.configs = configs = Configs(table)
        self.num_rows = configs.num_rows
        self.refusal = np.full(self.num_rows, NULL, np.int64)
        self.refusals: list[str] = []
        self.notes: list[tuple[str, Mask]] = []
        self.llm_names, self.phases = configs.names("llm_id"), configs.names("phase")
        self.llms = _find_llms(self.llm_names, llms)
        self.devices = _find_devices(configs.names("hardware_id"), rules, hardware)
        self.device_codes = configs.names("hardware_id").codes
        self.sizes = {
            name: configs.numbers(name) for name in ("batch_size", "input_tokens", "output_tokens", "context_tokens")
        }
        self.prefix_tokens = np.nan_to_num(configs.numbers("prefix_tokens"), nan=0.0)
        self.chunk_tokens = np.nan_to_num(configs.numbers("chunk_tokens"), nan=np.inf)
        self.lora_rank = configs.numbers("lora_rank")
        self._refuse(self.llm_names.codes == NULL, "llm_id is NULL: no architecture to count.")
        self._refuse(self.device_codes == NULL, "hardware_id is NULL: no device to bound.")
        self._read_attention()
        self._read_dtypes()
        self._read_parallelism()
        self._read_peaks()
        if not rules.is_peer:
            self.note(configs.is_listing("optimizations"), "optimizations are not modelled.")
        for name, values in self.sizes.items():
            self._refuse(values < 1, f"{name} must be 1 or more.")

    @property
    def is_refused(self) -> Mask:
        return self.refusal != NULL

    def device_numbers(self, name: str) -> Array:
        """A field of every row's device, NaN where unknown."""
        values = [getattr(device, name) for device in self.devices]
        table = np.array([np.nan if value is None else value for value in values] + [np.nan])
        return table[self.device_codes]

    def parts(self) -> Iterator[_Part]:
        """Rows that can be answered, by LLM, phase and attention kind; the others are refused on the way."""
        several = (self.tensor_parallel > 1) + 2 * (self.pipeline_parallel > 1)
        codes = (self.llm_names.codes + 1) * (len(self.phases.values) + 1) + self.phases.codes + 1
        codes = (codes * 2 + self.is_fused) * 4 + several
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        for index in np.split(order, starts[1:]):
            if index.size:
                yield from self._part(index)

    def _part(self, index: Index) -> Iterator[_Part]:
        llm_code, phase_code = self.llm_names.codes[index[0]], self.phases.codes[index[0]]
        if phase_code == NULL:
            self._refuse_at(index, "phase is NULL.")
        if NULL in (llm_code, phase_code):
            return
        llm, phase = self.llms[llm_code], self.phases.values[phase_code]
        reason = self.rules.refuse(llm, phase)
        if reason is not None:
            self._refuse_at(index, reason)
        for name in ("batch_size", *_NEEDED.get(phase, ())):
            self._refuse_at(index[np.isnan(self.sizes[name][index])], f"{phase} needs {name}.")
        index = index[~self.is_refused[index]]
        if not self.rules.is_peer:
            self._fit_phase(llm, phase, index)
            self._check_lengths(llm, phase, index)
            self._check_degrees(llm, index)
        index = index[~self.is_refused[index]]
        if index.size:
            yield _Part(llm, phase, bool(self.is_fused[index[0]]), index)

    def group(self, index: Index) -> Group:
        """The arrays of some rows."""
        return Group(
            batch=self.sizes["batch_size"][index],
            input_tokens=self.sizes["input_tokens"][index],
            output_tokens=self.sizes["output_tokens"][index],
            context_tokens=self.sizes["context_tokens"][index],
            weight_bytes=self.weight_bytes[index],
            activation_bytes=self.activation_bytes[index],
            kv_bytes=self.kv_bytes[index],
            tensor_parallel=self.tensor_parallel[index],
            pipeline_parallel=self.pipeline_parallel[index],
            data_parallel=self.data_parallel[index],
            expert_parallel=self.expert_parallel[index],
            prefix_tokens=self.prefix_tokens[index],
            chunk_tokens=self.chunk_tokens[index],
            micro_batches=self.micro_batches[index],
            gradient_bytes=self.gradient_bytes[index],
            optimizer_bytes=self.optimizer_bytes[index],
            lora_rank=self.lora_rank[index],
            bandwidth=self.bandwidth[index],
            matrix_peak=self.matrix_peak[index],
            attention_peak=self.attention_peak[index],
            vector_peak=self.vector_peak[index],
            onchip=self.onchip[index],
            memory=self.memory[index],
            link=self.link[index],
            host_link=self.host_link[index],
            num_cores=self.device_numbers("num_cores")[index],
            l2=self.device_numbers("l2")[index],
        )

    def note(self, mask: Mask, sentence: str) -> None:
        if mask.any():
            self.notes.append((sentence, mask))

    def _note_at(self, index: Index, sentence: str) -> None:
        mask = np.zeros(self.num_rows, np.bool_)
        mask[index] = True
        self.note(mask, sentence)

    def _refuse(self, mask: Mask, sentence: str) -> None:
        self._refuse_at(np.flatnonzero(mask), sentence)

    def _refuse_at(self, index: Index, sentence: str) -> None:
        """The first reason of a row stands."""
        index = index[self.refusal[index] == NULL]
        if index.size:
            if sentence not in self.refusals:
                self.refusals.append(sentence)
            self.refusal[index] = self.refusals.index(sentence)

    def _read_attention(self) -> None:
        attention = self.configs.names("attention")
        for code, value in enumerate(attention.values):
            if value not in ATTENTION_KINDS:
                self._refuse(
                    attention.codes == code,
                    f"attention '{value}' is not modelled. Known: {', '.join(ATTENTION_KINDS)}.",
                )
        kinds = np.array([ATTENTION_KINDS.get(value, False) for value in attention.values] + [False])
        self.is_fused: Mask = kinds[attention.codes]
        self.note(attention.codes == NULL, "attention is not stated: eager assumed.")

    def _read_dtypes(self) -> None:
        """NULL means: weights fp16; activations as the weights where those are floating point, else fp16; KV as activations."""
        columns = {name: self.configs.names(f"{name}_dtype") for name in ("weight", "activation", "kv")}
        for name, names in columns.items():
            for code, value in enumerate(names.values):
                if value not in schema.DTYPE_BYTES:
                    known = ", ".join(schema.DTYPE_BYTES)
                    self._refuse(names.codes == code, f"{name}_dtype '{value}' is unknown. Known: {known}.")
        weight, activation, kv = columns.values()
        self.weight_bytes = dtype_bytes(weight, 2.0)
        self.note(weight.codes == NULL, "weight_dtype is not stated: fp16 assumed.")
        self.compute_dtypes, self.compute_codes = self._compute_dtype(weight, activation)
        self.activation_bytes = dtype_bytes(Names(self.compute_dtypes, self.compute_codes), np.nan)
        self.kv_bytes = dtype_bytes(kv, self.activation_bytes)
        self.is_kv_assumed: Mask = kv.codes == NULL
        self.gradient_bytes = dtype_bytes(self.configs.names("gradient_dtype"), self.activation_bytes)
        self.optimizer_bytes = dtype_bytes(self.configs.names("optimizer_dtype"), 4.0)

    def _compute_dtype(self, weight: Names, activation: Names) -> tuple[list[str], Codes]:
        """Dtype of activations, which is the dtype products are computed in."""
        dtypes = list(schema.DTYPE_BYTES)
        known = {name: code for code, name in enumerate(dtypes)}
        own = np.array([known.get(value, NULL) for value in activation.values] + [NULL])[activation.codes]
        carried = [value if value in _FLOATS and not self.rules.is_peer else "fp16" for value in weight.values]
        assumed = np.array([known[value] for value in carried] + [known["fp16"]])[weight.codes]
        is_absent = activation.codes == NULL
        for code in np.unique(assumed[is_absent]):
            self.note(is_absent & (assumed == code), f"activation_dtype is not stated: {dtypes[code]} assumed.")
        return dtypes, np.where(is_absent, assumed, own)

    def _read_parallelism(self) -> None:
        configs = self.configs
        self.tensor_parallel = configs.degree("tensor_parallel")
        self.pipeline_parallel = configs.degree("pipeline_parallel")
        self.data_parallel = configs.degree("data_parallel")
        self.expert_parallel = configs.degree("expert_parallel")
        self.micro_batches = configs.degree("num_micro_batches")
        for name in ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel"):
            self._refuse(~(getattr(self, name) >= 1), f"{name} must be 1 or more.")
        self._refuse(~(self.micro_batches >= 1), "num_micro_batches must be 1 or more.")
        devices = configs.numbers("num_devices")
        others = self.pipeline_parallel * self.data_parallel
        is_silent = np.isnan(configs.numbers("tensor_parallel")) & (devices > others) & (devices % others == 0)
        self.tensor_parallel = np.where(is_silent, devices / others, self.tensor_parallel)
        self.note(is_silent, "tensor_parallel is not stated: all devices assumed tensor parallel.")
        product = self.tensor_parallel * others
        self._refuse(
            ~np.isnan(devices) & (devices != product), "num_devices is not the product of the parallel degrees."
        )
        if self.rules.is_peer:
            self._refuse(product > 1, "LLM-Viewer at 472f71f models one device.")

    def _read_peaks(self) -> None:
        self.bandwidth, self.onchip = self.device_numbers("bandwidth"), self.device_numbers("onchip")
        self.memory = self.device_numbers("memory")
        host = self.host_link = self.device_numbers("host_link")
        direct = self.device_numbers("link")
        interconnect = self.configs.names("interconnect")
        is_pcie = np.array([value == "pcie" for value in interconnect.values] + [False])[interconnect.codes]
        self.link = np.where(is_pcie | np.isnan(direct), host, direct)
        if self.rules.is_peer:
            self._read_peer_peaks()
            return
        self.matrix_peak = self._matrix_peak()
        self.attention_peak = self.matrix_peak
        vector = self.device_numbers("vector_peak")
        self.vector_peak = np.where(np.isnan(vector), self.matrix_peak, vector)

    def _read_peer_peaks(self) -> None:
        """The INT8 peak where weights, activations and KV all have 8 bits or fewer, else the FP16 peak."""
        is_int8 = (self.weight_bytes <= 1) & (self.activation_bytes <= 1) & (self.kv_bytes <= 1)
        peaks = {dtype: self._peak_of(dtype) for dtype in ("fp16", "int8")}
        self.matrix_peak = self.attention_peak = self.vector_peak = np.where(is_int8, peaks["int8"], peaks["fp16"])
        is_absent = np.isnan(self.matrix_peak)
        self._refuse(
            is_absent & is_int8,
            "the device has no INT8 peak, which LLM-Viewer takes for 8-bit weights, activations and KV.",
        )
        self._refuse(is_absent & ~is_int8, "the device has no FP16 peak, which LLM-Viewer takes.")
        self._refuse(
            self.is_fused & np.isnan(self.onchip),
            "the device's on-chip buffer is unknown, which LLM-Viewer's FlashAttention takes.",
        )

    def _matrix_peak(self) -> Array:
        """Dense peak of the compute dtype; of the next wider supported one where the device lacks it, as libraries upcast."""
        peaks = np.full(self.num_rows, np.nan)
        for code in np.unique(self.compute_codes[self.compute_codes != NULL]):
            dtype, is_here = self.compute_dtypes[code], self.compute_codes == code
            for wider in (dtype, *_UPCASTS.get(dtype, ())):
                found = np.where(is_here & np.isnan(peaks), self._peak_of(wider), np.nan)
                is_new = ~np.isnan(found)
                peaks = np.where(is_new, found, peaks)
                if wider != dtype:
                    self.note(is_new, f"the device has no {dtype} peak: computed in {wider}.")
            self._refuse(
                is_here & np.isnan(peaks) & (self.device_codes != NULL), f"the device's peak for {dtype} is unknown."
            )
        return peaks

    def _peak_of(self, dtype: str) -> Array:
        table = np.array([device.peaks.get(dtype, np.nan) for device in self.devices] + [np.nan])
        return table[self.device_codes]

    def _fit_phase(self, llm: Llm, phase: str, index: Index) -> None:
        """Assumptions about lengths that an encoder-decoder needs and a configuration may leave open."""
        if phase != "forward":
            self._note_at(index[self.is_kv_assumed[index]], "kv_dtype is not stated: as activations.")
        if llm.architecture != "encoder_decoder":
            return
        source, target = {
            "forward": ("input_tokens", "output_tokens"),
            "decode": ("context_tokens", "input_tokens"),
        }.get(phase, ("", ""))
        if not target:
            return
        absent = index[np.isnan(self.sizes[target][index])]
        self.sizes[target] = self.sizes[target].copy()
        self.sizes[target][absent] = self.sizes[source][absent]
        what = "decoder" if phase == "forward" else "encoder"
        self._note_at(absent, f"{target} ({what}) is not stated: as {source}.")

    def _check_lengths(self, llm: Llm, phase: str, index: Index) -> None:
        """Learned positions end; computed ones go on, beyond what the LLM is made for."""
        if llm.max_context_tokens is None:
            return
        sizes = {name: values[index] for name, values in self.sizes.items()}
        beyond = index[default.longest(llm, phase, sizes) > llm.max_context_tokens]
        if default.last_position(llm) is not None:
            self._refuse_at(beyond, f"{llm.llm_id} has learned positions for {llm.max_context_tokens} tokens, no more.")
        else:
            self._note_at(beyond, f"longer than the {llm.max_context_tokens} tokens that {llm.llm_id} is made for.")

    def _check_degrees(self, llm: Llm, index: Index) -> None:
        for mask, sentence in default.impossible(llm, self.tensor_parallel[index], self.pipeline_parallel[index]):
            self._refuse_at(index[mask], sentence)
        is_parallel = (self.tensor_parallel[index] > 1) | (self.pipeline_parallel[index] > 1)
        self._note_at(
            index[is_parallel & np.isnan(self.link[index])], "the device's link is unknown: communication is left out."
        )


_NEEDED = {
    "prefill": ("input_tokens",),
    "decode": ("context_tokens",),
    "forward": ("input_tokens",),
    "generate": ("input_tokens", "output_tokens"),
}
_FLOATS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8")
_UPCASTS = {
    "int1": ("int4", "int8", "fp16", "bf16", "fp32"),
    "int2": ("int4", "int8", "fp16", "bf16", "fp32"),
    "int4": ("int8", "fp16", "bf16", "fp32"),
    "nf4": ("fp16", "bf16", "fp32"),
    "fp4": ("fp8", "fp16", "bf16", "fp32"),
    "fp6": ("fp8", "fp16", "bf16", "fp32"),
    "fp8": ("fp16", "bf16", "fp32"),
    "int8": ("fp16", "bf16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "bf16": ("fp32",),
    "tf32": ("fp32",),
}
"""Compute dtype -> what a library computes in, in order, where the device has no units for it."""


def _find_llms(names: Names, brought: Llms | None) -> list[Llm]:
    if brought is None:
        brought = {}
    if not isinstance(brought, Mapping):
        brought = {llm.llm_id: llm for llm in brought}
    return [brought[name] if name in brought else find_llm(name) for name in names.values]


def _find_devices(names: Names, rules: Ruleset, hardware: HardwareRows | None) -> list[Device]:
    brought = device_rows(hardware)
    return [find_device(name, rules.device, brought) for name in names.values]


def _seconds(op: Op, group: Group) -> tuple[Value, Value, Value, Value]:
    """Compute, memory, communication and bound of one execution of an op, in seconds."""
    compute, memory = op.flops / group.peak(op), op.bytes_moved / group.bandwidth
    communication = op.sent / group.link if np.any(op.sent) else 0.0
    bound = np.maximum(compute, memory) if op.seconds is None else op.seconds
    return compute, memory, communication, bound + np.nan_to_num(communication)


def _sum(inventory: Inventory, group: Group) -> dict[str, Value]:
    """Totals over the ops: seconds of one execution, work of all devices."""
    names = (*WORK, "compute_s", "memory_s", "communication_s", "roofline_s")
    sums: dict[str, Value] = dict.fromkeys(names, 0.0)
    for op in inventory.ops:
        seconds = _seconds(op, group)
        values = [getattr(op, field) for field in WORK.values()]
        for name, value in zip(names, (*values, seconds[0], seconds[1], seconds[2], seconds[3]), strict=True):
            if isinstance(value, np.ndarray) or value:
                sums[name] = sums[name] + value * op.count
    devices = group.tensor_parallel * group.data_parallel
    work = {name: sums[name] * devices for name in WORK}
    bytes_moved = sum(value for name, value in work.items() if name != "flops")
    intensity = work["flops"] / bytes_moved
    return {**sums, **work, "bytes_moved": bytes_moved, "arithmetic_intensity": intensity}


def _memory(inventory: Inventory) -> dict[str, Value]:
    return {
        "weights_bytes": inventory.weights,
        "kv_cache_bytes": inventory.kv_cache,
        "activation_peak_bytes": inventory.activation_peak,
        "memory_peak_bytes": inventory.weights + inventory.kv_cache + inventory.activation_peak,
    }


def _judge(totals: dict[str, Array], rows: _Rows) -> None:
    """Verdict on memory, and tokens per second of what is not known to exceed it. The peer gives neither."""
    if rows.rules.is_peer:
        return
    batch, inputs, outputs = (rows.sizes[name] for name in ("batch_size", "input_tokens", "output_tokens"))
    rows.note(totals["memory_peak_bytes"] > rows.memory, "does not fit: memory_peak_bytes is more than the device has.")
    rows.note(~rows.is_refused & np.isnan(rows.memory), "the device's memory is unknown: is_fitting is NULL.")
    rate = batch * rows.data_parallel / totals["roofline_s"]
    rate = np.where(totals["memory_peak_bytes"] > rows.memory, np.nan, rate)
    phases = {name: rows.phases.codes == code for code, name in enumerate(rows.phases.values)}
    for phase, mask in phases.items():
        if phase == "decode":
            totals["output_tokens_per_s"][mask] = rate[mask]
            totals["total_tokens_per_s"][mask] = rate[mask]
        elif phase == "generate":
            totals["output_tokens_per_s"][mask] = (rate * outputs)[mask]
            totals["total_tokens_per_s"][mask] = (rate * (inputs + outputs))[mask]
        elif phase in ("prefill", "forward"):
            totals["total_tokens_per_s"][mask] = (rate * inputs)[mask]


def _totals_table(configs: pa.Table, totals: dict[str, Array], rows: _Rows) -> pa.Table:
    columns = {name: configs.column(name) for name in configs.column_names if name not in RESULTS}
    for name, values in totals.items():
        columns[name] = _nullable(values)
    peak = totals["memory_peak_bytes"]
    is_unknown = np.isnan(peak) | np.isnan(rows.memory) | rows.rules.is_peer
    columns["is_fitting"] = pa.array(peak <= rows.memory, mask=is_unknown)
    columns["bound"] = _bound(totals["flops"], totals["bytes_moved"], rows.matrix_peak, rows.bandwidth, totals)
    columns["status"] = _labels(rows.is_refused.astype(np.int64), ["ok", "unsupported"])
    columns["status_detail"] = _details(rows)
    columns["ruleset"] = _labels(np.zeros(rows.num_rows, np.int64), [rows.rules.name])
    return pa.table(columns)


def _bound(flops: Array, moved: Array, peak: Array, bandwidth: Array, totals: Mapping[str, Array]) -> pa.Array:
    """Which side of the ridge point; communication where it outlasts both."""
    codes = np.where(flops * bandwidth < moved * peak, 1, 0)
    other = np.maximum(totals["compute_s"], totals["memory_s"])
    codes = np.where(totals["communication_s"] > other, 2, codes)
    return _labels(np.where(np.isnan(flops), NULL, codes), ["compute", "memory", "communication"])


def _details(rows: _Rows) -> pa.Array:
    """The reason of refused rows, what was assumed for the others."""
    combined = np.zeros(rows.num_rows, np.int64)
    sentences: list[str] = [""]
    for sentence, mask in rows.notes:
        codes, inverse = np.unique(np.where(mask, combined + len(sentences), combined), return_inverse=True)
        joined = [
            sentences[code] if code < len(sentences) else f"{sentences[code - len(sentences)]} {sentence}".strip()
            for code in codes
        ]
        sentences, combined = joined, inverse.astype(np.int64)
    combined = np.where(rows.is_refused, len(sentences) + rows.refusal, combined)
    texts = [*sentences, *rows.refusals]
    codes = np.array([NULL if text == "" else code for code, text in enumerate(texts)], np.int64)
    return _labels(codes[combined], texts)


def _labels(codes: Codes, names: list[str]) -> pa.Array:
    """Text of codes, NULL for -1."""
    indices = pa.array(codes.astype(np.int32), mask=codes == NULL)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string())).cast(pa.string())


def _nullable(values: Array) -> pa.Array:
    """Numbers, NULL for NaN."""
    return pa.array(values, mask=np.isnan(values))


def _op_table(inventory: Inventory, group: Group, index: Index) -> pa.Table:
    """Rows of every op of every configuration of a group, in order of (configuration, op)."""
    ops, size = inventory.ops, index.size
    devices = group.tensor_parallel * group.data_parallel
    seconds = [_seconds(op, group) for op in ops]
    names = {name: _flat([getattr(op, field) * devices for op in ops], size) for name, field in WORK.items()}
    moved = sum(names[name] for name in WORK if name != "flops")
    with np.errstate(divide="ignore", invalid="ignore"):
        intensity = np.where(moved > 0, names["flops"] / moved, np.nan)
    repeat = _Repeat(len(ops), size)
    gemms = [op.gemm or (np.nan, np.nan, np.nan) for op in ops]
    sides = [_op_bound(op, times) for op, times in zip(ops, seconds, strict=True)]
    return pa.table(
        {
            "config_row": np.repeat(index.astype(np.int64), len(ops)),
            "op_index": repeat.values(np.arange(len(ops))),
            "path": repeat.texts([op.path for op in ops]),
            "parent_path": repeat.texts([op.path.rpartition(".")[0] for op in ops]),
            "op_kind": repeat.texts([op.kind for op in ops]),
            "phase": repeat.texts([op.phase for op in ops]),
            "count": _flat([op.count for op in ops], size).astype(np.int64),
            **{
                name: _integers(_flat([gemm[position] for gemm in gemms], size))
                for position, name in enumerate(("m", "n", "k"))
            },
            "flops": names["flops"],
            "bytes_moved": moved,
            **{name: values for name, values in names.items() if name != "flops"},
            "arithmetic_intensity": _nullable(intensity),
            "roofline_s": _flat([times[3] for times in seconds], size),
            "bound": _labels(_flat(sides, size).astype(np.int64), ["compute", "memory", "communication"]),
            "inputs": repeat.lists([op.inputs for op in ops]),
        }
    )


def _op_bound(op: Op, seconds: tuple[Value, Value, Value, Value]) -> Value:
    """0 compute, 1 memory: the side of the ridge point of the units that run the op; 2 communication."""
    compute, memory, communication, _ = seconds
    if np.any(op.sent):
        return np.where(np.asarray(op.sent) > 0, 2.0, 1.0)
    del communication
    return np.where(np.asarray(compute) < np.asarray(memory), 1.0, 0.0)


def _flat(values: list[Value], size: int) -> Array:
    """Values of k ops over n configurations as one column of n x k, configuration by configuration."""
    block = np.empty((size, len(values)))
    for column, value in enumerate(values):
        block[:, column] = value
    return block.ravel()


def _integers(values: Array) -> pa.Array:
    is_absent = np.isnan(values)
    return pa.array(np.rint(np.where(is_absent, 0, values)).astype(np.int64), mask=is_absent)


class _Repeat:
    """Columns that are the same for every configuration of a group."""

    def __init__(self, width: int, times: int) -> None:
        self.width, self.times = width, times

    def values(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.tile(values, self.times)

    def texts(self, texts: list[str]) -> pa.Array:
        """Empty text is NULL."""
        codes = np.array([NULL if text == "" else code for code, text in enumerate(texts)], np.int64)
        return _labels(np.tile(codes, self.times), texts)

    def lists(self, lists: list[tuple[int, ...]]) -> pa.Array:
        flat = np.array([item for items in lists for item in items], np.int64)
        ends = np.cumsum([0] + [len(items) for items in lists])
        offsets = (ends[:-1] + len(flat) * np.arange(self.times)[:, None]).ravel()
        offsets = np.append(offsets, len(flat) * self.times).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.tile(flat, self.times)))


def _in_order(tables: list[pa.Table]) -> pa.Table:
    if not tables:
        return _EMPTY_OPS
    if len(tables) == 1:
        return tables[0]
    table = pa.concat_tables(tables)
    rows = table.column("config_row").to_numpy()
    if np.all(rows[1:] >= rows[:-1]):
        return table
    order = np.argsort(rows, kind="stable")
    return table.take(pa.array(order))


_OP_COLUMNS = (
    "op_index", "path", "parent_path", "op_kind", "phase", "count", "m", "n", "k", "flops", "bytes_moved",
    "weight_bytes_read", "activation_bytes_read", "activation_bytes_written", "kv_bytes_read", "kv_bytes_written",
    "arithmetic_intensity", "roofline_s", "bound", "inputs",
)  # fmt: skip
_EMPTY_OPS = pa.schema(
    [pa.field("config_row", pa.int64())] + [schema.OPS.arrow.field(name) for name in _OP_COLUMNS]
).empty_table()
