"""Every configuration as arrays: what was asked, what was assumed, what is refused and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.analytical import default, estimate, training
from models.analytical.configs import NULL, Codes, Configs, Names, dtype_bytes
from models.analytical.devices import Device, HardwareRows, Row, device_rows, find_device
from models.analytical.inventory import Array, Group, Value
from warehouse import schema
from warehouse.catalog import find_llm
from warehouse.catalog.llm import Llm

Index = NDArray[np.intp]
Mask = NDArray[np.bool_]
Llms = Mapping[str, Llm] | Iterable[Llm]

ATTENTION_KINDS = {"eager": False, "sdpa": True, "flash": True, "paged": True}
"""Attention implementation -> is it one fused kernel that never writes the scores?"""

PROFILES = {"eager": "eager", "sdpa": "eager", "flash": "engine", "paged": "engine"}
"""Attention implementation -> execution profile of the estimate where none is stated; training and forward are eager."""

BLOCK = 16_384
"""Configurations evaluated at a time, so that their arrays stay in the processor's cache."""

ALONE = 3_000
"""Rows of one device and dtype that are worth a block of their own, where its numbers need no arrays."""

TRAINING = training.PHASES

NEEDED = {
    "prefill": ("input_tokens",),
    "decode": ("context_tokens",),
    "forward": ("input_tokens",),
    "generate": ("input_tokens", "output_tokens"),
    **dict.fromkeys(TRAINING, ("input_tokens",)),
}
"""Lengths that a phase needs."""

OPTIMIZATIONS = {
    "inference": ("flash", "offload", "quantized"),
    "training": training.OPTIONS,
}
"""Optimizations that change a number; others are kept in the row and said to change none."""

_FLOATS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8")
_UPCASTS = {"fp16": ("bf16", "fp32"), "bf16": ("fp32",), "tf32": ("fp32",)}
"""Compute dtype -> what a library computes in, in order, where the device has no units for it."""
_STORED_ONLY = {"nf4": ("fp16",), "nvfp4": ("fp4",), "mxfp4": ("fp4",), "fp6": ("fp6", "fp8"), "int2": (), "int1": ()}
"""Dtype -> the peak its products run at."""


@dataclass(frozen=True)
class Part:
    """Rows that are answered by the same ops: one LLM, phase, attention kind, execution profile, set of optimizations."""

    llm: Llm
    phase: str
    is_fused: bool
    is_dequantized: bool
    """Weights are narrower than what products run in."""
    execution: str
    options: frozenset[str]
    index: Index


@dataclass(frozen=True)
class Rules:
    """What a ruleset says about rows before anything is counted."""

    device: Callable[[str], Row | None]
    """The ruleset's own numbers of a device, or None for the catalogue's."""
    refuse: Callable[[Llm, str], str | None]
    """Why an LLM and a phase have no answer."""
    is_peer: bool
    """Follow LLM-Viewer: its peaks, no parallelism, no verdict on memory, no estimate."""


@dataclass(frozen=True)
class Brought:
    """What a caller brings along beside the catalogue and the shipped constants."""

    hardware: Mapping[str, Row]
    llms: Mapping[str, Llm]
    calibrations: Sequence[Mapping[str, Any]]

    @classmethod
    def of(
        cls,
        hardware: HardwareRows | None = None,
        llms: Llms | None = None,
        calibrations: Iterable[Mapping[str, Any]] | None = None,
    ) -> Brought:
        """From any of the forms that `evaluate` takes."""
        if not isinstance(llms, Mapping):
            llms = {llm.llm_id: llm for llm in llms or ()}
        return cls(device_rows(hardware), llms, tuple(calibrations or ()))


class Rows:
    """Every configuration as arrays of shape (configurations,), with what was assumed and refused on the way."""

    def __init__(self, table: pa.Table, rules: Rules, brought: Brought) -> None:
        self.rules = rules
        self.configs = configs = Configs(table)
        self.num_rows = configs.num_rows
        self.refusal = np.full(self.num_rows, NULL, np.int64)
        self.refusals: list[str] = []
        self.notes: list[tuple[str, Mask]] = []
        self.llm_names, self.phases = configs.names("llm_id"), configs.names("phase")
        self.llms = _find_llms(self.llm_names, brought.llms)
        self.devices = _find_devices(configs.names("hardware_id"), rules, brought.hardware)
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
        self._read_options()
        self._read_execution(brought.calibrations)
        self._read_dtypes()
        self._read_parallelism()
        self._read_peaks()
        for name, values in (*self.sizes.items(), ("chunk_tokens", self.chunk_tokens), ("lora_rank", self.lora_rank)):
            self._refuse(values < 1, f"{name} must be 1 or more.")
        self._refuse(self.prefix_tokens < 0, "prefix_tokens must be 0 or more.")

    @property
    def is_refused(self) -> Mask:
        return self.refusal != NULL

    def device_numbers(self, name: str) -> Array:
        """A field of every row's device, NaN where unknown."""
        values = [getattr(device, name) for device in self.devices]
        table = np.array([np.nan if value is None else value for value in values] + [np.nan])
        return table[self.device_codes]

    def parts(self) -> Iterator[Part]:
        """Rows that can be answered, by what decides their ops; the others are refused on the way."""
        several = (
            (self.tensor_parallel > 1)
            + 2 * (self.pipeline_parallel > 1)
            + 4 * (self.expert_parallel > 1)
            + 8 * (self.data_parallel > 1)
            + 16 * (self.chunk_tokens < self.sizes["input_tokens"])
            + 32 * (self.micro_batches > 1)
        )
        order, starts = _grouped(
            self.llm_names.codes, self.phases.codes, self.is_fused, self.is_dequantized, self.execution_codes,
            self.option_codes, several,
        )  # fmt: skip
        for index in np.split(order, starts):
            if index.size:
                yield from self._part(index)

    def _part(self, index: Index) -> Iterator[Part]:
        llm_code, phase_code = self.llm_names.codes[index[0]], self.phases.codes[index[0]]
        if phase_code == NULL:
            self._refuse_at(index, "phase is NULL.")
        if NULL in (llm_code, phase_code):
            return
        llm, phase = self.llms[llm_code], self.phases.values[phase_code]
        options = self.options[self.option_codes[index[0]]]
        reason = self._reason(llm, phase, options)
        if reason is not None:
            self._refuse_at(index, reason)
        for name in ("batch_size", *NEEDED.get(phase, ())):
            self._refuse_at(index[np.isnan(self.sizes[name][index])], f"{phase} needs {name}.")
        index = index[~self.is_refused[index]]
        if index.size and not self.rules.is_peer:
            self._fit_phase(llm, phase, index)
            self._check_lengths(llm, phase, index)
            self._check_degrees(llm, phase, options, index)
            self._check_options(phase, options, index)
        index = index[~self.is_refused[index]]
        if index.size:
            first = index[0]
            yield Part(
                llm, phase, bool(self.is_fused[first]), bool(self.is_dequantized[first]),
                self.executions[self.execution_codes[first]], options, index,
            )  # fmt: skip

    def blocks(self, part: Part) -> Iterator[Index]:
        """Rows of a part, at most BLOCK at a time; where many are of one device and dtype, those stay among themselves."""
        codes = self.device_codes[part.index] * (len(self.dtypes) + 1) + self.compute_codes[part.index]
        order, starts = _grouped(codes)
        index = part.index[order]
        is_long = index.size >= ALONE * (starts.size + 1)
        for rows in np.split(index, starts) if is_long else [index]:
            for start in range(0, rows.size, BLOCK):
                yield rows[start : start + BLOCK]

    def _reason(self, llm: Llm, phase: str, options: frozenset[str]) -> str | None:
        if phase in TRAINING and not self.rules.is_peer:
            return training.refuse(llm, phase, options)
        return self.rules.refuse(llm, phase)

    def group(self, index: Index) -> Group:
        """The arrays of some rows; what is the same for all of them is one number."""
        chosen = run_of(index)
        arrays = {name: getattr(self, name)[chosen] for name in _GROUP_COLUMNS}
        return Group(
            batch=self.sizes["batch_size"][chosen],
            input_tokens=self.sizes["input_tokens"][chosen],
            output_tokens=self.sizes["output_tokens"][chosen],
            context_tokens=self.sizes["context_tokens"][chosen],
            **{name: _one_or_all(values) for name, values in arrays.items()},
        )

    def constants(self, part: Part, index: Index) -> estimate.Constants:
        """Constants of the estimate for some rows of a part."""
        known = self.constants_of[part.execution]
        codes = self.device_codes[index]
        if (codes == codes[0]).all():
            return known[codes[0]][1]
        columns = {name: np.array([getattr(one, name) for _, one in known])[codes] for name in estimate.NAMES}
        return estimate.Constants(**columns)

    def refuse_unbounded(self, bound: Array) -> Mask:
        """Refuses rows whose bound is NaN and that nothing else refuses; returns which."""
        mask = np.isnan(bound) & ~self.is_refused
        self._refuse(
            mask, "no bound: a length that the phase needs, the device's peak or its memory bandwidth is unknown."
        )
        return mask

    def note(self, mask: Mask, sentence: str) -> None:
        if mask.any():
            self.notes.append((sentence, mask))

    def _note_at(self, index: Index, sentence: str) -> None:
        mask = np.zeros(self.num_rows, np.bool_)
        mask[index] = True
        self.note(mask, sentence)

    def _refuse(self, mask: Mask, sentence: str) -> None:
        if mask.any():
            self._refuse_at(np.flatnonzero(mask), sentence)

    def _refuse_at(self, index: Index, sentence: str) -> None:
        """The first reason of a row stands."""
        index = index[self.refusal[index] == NULL]
        if index.size:
            if sentence not in self.refusals:
                self.refusals.append(sentence)
            self.refusal[index] = self.refusals.index(sentence)

    # Columns

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
        profiles = np.array(
            [schema.EXECUTIONS.index(PROFILES.get(value, "eager")) for value in attention.values] + [0], np.int64
        )
        self.usual_profile: Codes = profiles[attention.codes]
        self.is_attention_stated: Mask = attention.codes != NULL

    def _read_options(self) -> None:
        """Optimizations as sets; FlashAttention named there counts where the attention column is silent."""
        self.options, self.option_codes = self.configs.sets("optimizations")
        has_flash = np.array(["flash" in options for options in self.options])[self.option_codes]
        is_flash = has_flash & ~self.is_attention_stated
        self.is_fused = self.is_fused | is_flash
        self.note(~self.is_attention_stated & ~is_flash, "attention is not stated: eager assumed.")

    def _read_execution(self, calibrations: Sequence[Mapping[str, Any]]) -> None:
        """The execution profile, and the constants of every device under it."""
        names = self.configs.names("execution")
        for code, value in enumerate(names.values):
            if value not in schema.EXECUTIONS:
                self._refuse(
                    names.codes == code,
                    f"execution '{value}' is not a profile. Known: {', '.join(schema.EXECUTIONS)}.",
                )
        known = {name: code for code, name in enumerate(schema.EXECUTIONS)}
        own = np.array([known.get(value, 0) for value in names.values] + [NULL])[names.codes]
        self.executions = list(schema.EXECUTIONS)
        trained = [name in (*TRAINING, "forward") for name in self.phases.values] + [False]
        is_trained = np.array(trained)[self.phases.codes]  # no serving engine does that
        usual = np.where(is_trained, schema.EXECUTIONS.index("eager"), self.usual_profile)
        self.execution_codes: Codes = np.where(own == NULL, usual, own)
        self.constants_of: dict[str, list[tuple[str, estimate.Constants]]] = {}
        if self.rules.is_peer:
            return
        for code in np.unique(self.execution_codes):
            name = self.executions[code]
            self.constants_of[name] = [estimate.constants(device, name, calibrations) for device in self.devices]

    def _read_dtypes(self) -> None:
        """NULL means: weights fp16; activations as the weights where those are floating point, else fp16; KV as activations."""
        columns = {name: self.configs.names(f"{name}_dtype") for name in ("weight", "activation", "kv")}
        columns |= {name: self.configs.names(f"{name}_dtype") for name in ("gradient", "optimizer")}
        for name, names in columns.items():
            for code, value in enumerate(names.values):
                if value not in schema.DTYPE_BYTES:
                    known = ", ".join(schema.DTYPE_BYTES)
                    self._refuse(names.codes == code, f"{name}_dtype '{value}' is unknown. Known: {known}.")
        weight, activation, kv, gradient, optimizer = columns.values()
        self.weight_bytes = dtype_bytes(weight, 2.0)
        self.note(weight.codes == NULL, "weight_dtype is not stated: fp16 assumed.")
        self.dtypes = list(schema.DTYPE_BYTES)
        self.activation_codes = self._activation_codes(weight, activation)
        self.activation_bytes = dtype_bytes(Names(self.dtypes, self.activation_codes), np.nan)
        self.kv_bytes = dtype_bytes(kv, self.activation_bytes)
        self.is_kv_assumed: Mask = kv.codes == NULL
        self.gradient_bytes = dtype_bytes(gradient, self.activation_bytes)
        self.optimizer_bytes = dtype_bytes(optimizer, 4.0)
        self.is_optimizer_assumed: Mask = optimizer.codes == NULL
        self.compute_codes = self._wider(self._codes_of(weight, "fp16"), self.activation_codes)
        self.attention_codes = self._wider(self._codes_of(kv, None), self.activation_codes)
        widths = dtype_bytes(Names(self.dtypes, self.compute_codes), np.nan)
        self.is_dequantized: Mask = (self.weight_bytes < widths) & (not self.rules.is_peer)

    def _codes_of(self, names: Names, otherwise: str | None) -> Codes:
        known = {name: code for code, name in enumerate(self.dtypes)}
        absent = NULL if otherwise is None else known[otherwise]
        table = np.array([known.get(value, NULL) for value in names.values] + [absent], np.int64)
        return table[names.codes]

    def _wider(self, operand: Codes, activation: Codes) -> Codes:
        """Dtype that a product of two runs in: the wider one's; the activations' where both are as wide."""
        if self.rules.is_peer:
            return activation
        widths = np.array([*schema.DTYPE_BYTES.values(), -1.0])
        return np.where(widths[operand] > widths[activation], operand, activation)

    def _activation_codes(self, weight: Names, activation: Names) -> Codes:
        known = {name: code for code, name in enumerate(self.dtypes)}
        own = self._codes_of(activation, None)
        carried = [value if value in _FLOATS and not self.rules.is_peer else "fp16" for value in weight.values]
        assumed = np.array([known[value] for value in carried] + [known["fp16"]])[weight.codes]
        is_absent = activation.codes == NULL
        for code in np.unique(assumed[is_absent]):
            self.note(is_absent & (assumed == code), f"activation_dtype is not stated: {self.dtypes[code]} assumed.")
        return np.where(is_absent, assumed, own)

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
        self.num_devices = self.tensor_parallel * others
        self._refuse(
            ~np.isnan(devices) & (devices != self.num_devices),
            "num_devices is not tensor_parallel x pipeline_parallel x data_parallel.",
        )
        if self.rules.is_peer:
            self._refuse(self.num_devices > 1, "LLM-Viewer at 472f71f models one device.")

    def _read_peaks(self) -> None:
        self.bandwidth, self.onchip = self.device_numbers("bandwidth"), self.device_numbers("onchip")
        self.memory, self.tdp = self.device_numbers("memory"), self.device_numbers("tdp")
        self.num_cores, self.l2 = self.device_numbers("num_cores"), self.device_numbers("l2")
        self._read_links()
        if self.rules.is_peer:
            self._read_peer_peaks()
            return
        self.matrix_peak = self._peaks(self.compute_codes)
        is_same = self.attention_codes == self.compute_codes
        self.attention_peak = self.matrix_peak if is_same.all() else self._peaks(self.attention_codes)
        vector = self.device_numbers("vector_peak")
        self.vector_peak = np.where(np.isnan(vector), self.matrix_peak, vector)

    def _read_links(self) -> None:
        """Links within a group of tensor- or expert-parallel devices, and those beyond: between stages, and replicas that train; in B/s,
        one direction. Devices that no direct link reaches and no network is known for meet over the host's."""
        self.host_link = self.device_numbers("host_link")
        direct = self.device_numbers("link")
        interconnect = self.configs.names("interconnect")
        for code, value in enumerate(interconnect.values):
            if value not in ("nvlink", "pcie"):
                self._refuse(interconnect.codes == code, f"interconnect '{value}' is unknown. Known: nvlink, pcie.")
        is_pcie = np.array([value == "pcie" for value in interconnect.values] + [False])[interconnect.codes]
        is_direct = np.array([value == "nvlink" for value in interconnect.values] + [False])[interconnect.codes]
        self._refuse(is_direct & np.isnan(direct), "interconnect 'nvlink': the device has no direct link, only pcie.")
        near = np.where(is_pcie | np.isnan(direct), self.host_link, direct)
        linked, network = self.device_numbers("linked_devices"), self.device_numbers("network")
        far = np.where(np.isnan(network), np.fmin(near, self.host_link), network)
        inner = np.maximum(self.tensor_parallel, self.expert_parallel)
        self.link = np.where(inner > linked, far, near)
        is_training = np.array([value in TRAINING for value in self.phases.values] + [False])[self.phases.codes]
        outer = np.where(is_training, self.num_devices, self.tensor_parallel * self.pipeline_parallel)
        self.far_link = np.where(outer > linked, far, near)

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

    def _peaks(self, codes: Codes) -> Array:
        """Dense peak of the dtype that products run in; 16-bit floats of a device without them run in fp32, as libraries do."""
        peaks = np.full(self.num_rows, np.nan)
        for code in np.unique(codes[codes != NULL]):
            dtype, is_here = self.dtypes[code], codes == code
            for other in _STORED_ONLY.get(dtype, (dtype,)) + _UPCASTS.get(dtype, ()):
                found = np.where(is_here & np.isnan(peaks), self._peak_of(other), np.nan)
                is_new = ~np.isnan(found)
                peaks = np.where(is_new, found, peaks)
                if other != dtype and dtype not in _STORED_ONLY:
                    self.note(is_new, f"no units for {dtype}: products run in {other}.")
            self._refuse_dtype(dtype, is_here & np.isnan(peaks) & (self.device_codes != NULL))
        return peaks

    def _refuse_dtype(self, dtype: str, mask: Mask) -> None:
        for code in np.unique(self.device_codes[mask]):
            device = self.devices[code]
            self._refuse(
                mask & (self.device_codes == code),
                f"activation_dtype (or a wider operand's) '{dtype}' has no units on {device.hardware_id}. "
                f"It multiplies {', '.join(device.peaks)}; narrower weights are widened to the activations'.",
            )

    def _peak_of(self, dtype: str) -> Array:
        table = np.array([device.peaks.get(dtype, np.nan) for device in self.devices] + [np.nan])
        return table[self.device_codes]

    # Rules about rows of one LLM and phase

    def _fit_phase(self, llm: Llm, phase: str, index: Index) -> None:
        """Assumptions about lengths that an encoder-decoder needs and a configuration may leave open."""
        if phase in ("prefill", "decode", "generate"):
            self._note_at(index[self.is_kv_assumed[index]], "kv_dtype is not stated: as activations.")
        if llm.architecture != "encoder_decoder":
            return
        source, target = {
            "decode": ("context_tokens", "input_tokens"),
            **dict.fromkeys(("forward", *TRAINING), ("input_tokens", "output_tokens")),
        }.get(phase, ("", ""))
        if not target:
            return
        absent = index[np.isnan(self.sizes[target][index])]
        self.sizes[target] = self.sizes[target].copy()
        self.sizes[target][absent] = self.sizes[source][absent]
        what = "encoder" if phase == "decode" else "decoder"
        self._note_at(absent, f"{target} ({what}) is not stated: as {source}.")

    def _check_lengths(self, llm: Llm, phase: str, index: Index) -> None:
        """Learned and rotated positions end where the LLM's maximum is; computed biases go on beyond it."""
        is_prompt = phase in ("prefill", "generate")
        prefix, chunk = self.prefix_tokens[index], self.chunk_tokens[index]
        if not is_prompt:
            self._refuse_at(index[prefix > 0], f"prefix_tokens is of prefill and generate, not of {phase}.")
            self._refuse_at(index[np.isfinite(chunk)], f"chunk_tokens is of prefill and generate, not of {phase}.")
        elif llm.architecture != "decoder":
            self._refuse_at(index[(prefix > 0) | np.isfinite(chunk)], "a prompt in parts is of a decoder only.")
        if llm.max_context_tokens is None:
            return
        sizes = {name: values[index] for name, values in self.sizes.items()}
        longest = default.longest(llm, phase, sizes) + (prefix if is_prompt else 0.0)
        beyond = index[longest > llm.max_context_tokens]
        names = " + ".join((*NEEDED[phase], *(("prefix_tokens",) if prefix.any() else ())))
        if default.last_position(llm) is not None:
            limit = f"{llm.max_context_tokens} tokens that {llm.llm_id} is made for"
            self._refuse_at(beyond, f"{names} is beyond the {limit}.")
        else:
            self._note_at(beyond, f"longer than the {llm.max_context_tokens} tokens that {llm.llm_id} is made for.")

    def _check_degrees(self, llm: Llm, phase: str, options: frozenset[str], index: Index) -> None:
        first = index[0]
        degrees = (self.tensor_parallel, self.pipeline_parallel, self.data_parallel, self.expert_parallel)
        if phase not in TRAINING and max(degree[first] for degree in (*degrees, self.micro_batches)) == 1:
            return  # all rows of a part have the same degrees above one
        group = self.group(index)
        rules = default.impossible(llm, group)
        if phase in TRAINING:
            rules += training.impossible(llm, group, options)
        for mask, sentence in rules:
            self._refuse_at(index[np.broadcast_to(mask, index.shape)], sentence)
        parallel = np.maximum(self.tensor_parallel, self.pipeline_parallel)
        parallel = np.maximum(parallel, self.expert_parallel)
        if phase in TRAINING:
            parallel = np.maximum(parallel, self.data_parallel)
        is_parallel = parallel[index] > 1
        self._note_at(
            index[self.expert_parallel[index] > 1],
            "tokens are taken as spread evenly over experts: the busiest device has more to do, above all in small batches.",
        )
        self._note_at(
            index[is_parallel & np.isnan(self.link[index])], "the device's link is unknown: communication is left out."
        )

    def _check_options(self, phase: str, options: frozenset[str], index: Index) -> None:
        known = OPTIMIZATIONS["training" if phase in TRAINING else "inference"]
        strange = sorted(options - set(known))
        if strange:
            self._note_at(index, f"{', '.join(strange)}: changes no number here. Known: {', '.join(known)}.")
        if phase in TRAINING:
            self._note_at(
                index[self.is_optimizer_assumed[index]],
                "optimizer_dtype is not stated: fp32 states, and fp32 master weights of 16-bit ones, assumed.",
            )
            if not options & {"lora", "qlora"}:
                self._note_at(index[self.lora_rank[index] > 0], "lora_rank without lora or qlora changes no number.")
        if "offload" in options:
            self._refuse_at(
                index[np.isnan(self.host_link[index])], "offload needs the device's host link, which is unknown."
            )


_GROUP_COLUMNS = (
    "weight_bytes", "activation_bytes", "kv_bytes", "gradient_bytes", "optimizer_bytes", "tensor_parallel",
    "pipeline_parallel", "data_parallel", "expert_parallel", "prefix_tokens", "chunk_tokens", "micro_batches",
    "lora_rank", "bandwidth", "matrix_peak", "attention_peak", "vector_peak", "onchip", "memory", "link", "far_link",
    "host_link", "num_cores", "l2",
)  # fmt: skip


def sharing(phase: str, group: Group) -> Value:
    """Devices that do the work of an op each: inference ops pass all stages of a pipeline, training ops are of the mean one."""
    devices = group.tensor_parallel * group.data_parallel
    return devices * group.pipeline_parallel if phase in TRAINING else devices


def run_of(index: Index) -> Index | slice:
    """Neighbouring rows as a slice, which costs no copy."""
    is_run = index[-1] - index[0] + 1 == index.size and bool((np.diff(index) == 1).all())
    return slice(int(index[0]), int(index[-1]) + 1) if is_run else index


def _one_or_all(values: Array) -> Value:
    """One number where all are the same: arithmetic on it is then not done for every configuration."""
    first = values[0]
    if (values == first).all() or np.isnan(values).all():
        return float(first)
    return values


def _grouped(*columns: NDArray[Any]) -> tuple[Index, Index]:
    """A stable order that brings equal combinations together, and where each but the first begins."""
    combined = np.zeros(columns[0].size, np.int64)
    for column in columns:
        codes = column.astype(np.int64) + 1
        span = int(codes.max(initial=0)) + 1
        if span > 1:
            combined = combined * span + codes
    steps = np.diff(combined)
    if (steps >= 0).all():
        return np.arange(combined.size), np.flatnonzero(steps) + 1
    if combined.max() < 1 << 16:
        combined = combined.astype(np.uint16)  # sorted by radix
    order = np.argsort(combined, kind="stable")
    return order, np.flatnonzero(np.diff(combined[order])) + 1


def _find_llms(names: Names, brought: Mapping[str, Llm]) -> list[Llm]:
    return [brought[name] if name in brought else find_llm(name) for name in names.values]


def _find_devices(names: Names, rules: Rules, brought: Mapping[str, Row]) -> list[Device]:
    return [find_device(name, rules.device, brought) for name in names.values]
