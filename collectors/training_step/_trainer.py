"""One training step, ready to run in this process: the model with its adapters, its ranks, its optimizer, and what it holds.

A step is num_micro_batches times forward and backward, then the optimizer. Token ids are synthetic and full (no padding), and
their own labels; the loss is transformers' own. Nothing inside a step waits for the device.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
import transformers

from collectors import _kernels, _machine, _memory, _modules, _op_kinds, _session, _telemetry, _timing
from collectors import _transformers as engine
from collectors._workers import Worker
from models.analytical.training_model import ADAPTED
from warehouse.metrics import metric

EXTRA_STEPS = 10
"""Steps of the pass with hooks, as in zhang-2023-dissecting, and of the pass without exchange of gradients; at most a quarter of
the measured ones."""

PROBE_STEPS = 2
"""Steps beyond the protocol, where a budget is set: the second tells how many of the others it has room for."""

STEPS_SHARE = 0.7
"""Of a run's time for warm-up and measured steps; the rest is for the passes that follow them."""

LEAST_MEASURED = 3

LEAST_STEPS = PROBE_STEPS + 1 + LEAST_MEASURED + 1
"""Steps of the shortest run: probes, warm-up, measured ones, what they hold. As many are left to the passes after them, else there
are none."""

PARTS = ("forward_s", "backward_s", "optimizer_s")
Split: TypeAlias = tuple[float, float, float]
"""Seconds of the PARTS of one step."""


@dataclass(frozen=True)
class Cell:
    """One configuration of a training step, on `num_ranks` processes. `attention` None is what transformers chooses."""

    target: engine.Target
    phase: str
    batch_size: int
    input_tokens: int
    dtype: str
    optimizer_dtype: str
    attention: str | None
    optimizations: tuple[str, ...]
    num_micro_batches: int
    lora_rank: int | None
    num_ranks: int
    device: str


@dataclass(frozen=True)
class Protocol:
    """How many steps. They are cut to what ends before `until_s`, a time of time.monotonic(), which all processes of a machine
    share; None for all of them. `limit_s` ends a run that takes longer."""

    num_warmup: int
    num_steps: int
    until_s: float | None
    limit_s: float | None
    has_modules: bool
    has_energy: bool
    has_kernels: bool


@dataclass(frozen=True)
class Plan:
    """What is known of a cell without running it.

    `flops` are of one sequence, forward and backward, without what recomputation repeats; None with `note` where they cannot
    be counted. `held_bytes`: weights, gradients and optimizer states of one rank that shards nothing.
    """

    attention: str | None
    num_parameters: int
    flops: float | None
    held_bytes: float
    note: str | None


@dataclass
class Outcome:
    """What one rank measured: columns of `runs` (steps of the slowest rank) and of `ranks`, and rows of other tables.

    `latency_s` is the rank's own.
    """

    columns: dict[str, Any]
    latency_s: float
    memory: dict[str, float | None]
    synchronisation_s: float | None
    load: _machine.Load
    """While the steps ran."""
    num_warmup: int
    num_threads: int
    definitions: dict[str, str] = field(default_factory=dict)
    notes: list[str | None] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    ops: list[dict[str, Any]] = field(default_factory=list)
    telemetry: list[dict[str, Any]] = field(default_factory=list)


def plan(cell: Cell) -> Plan:
    """Count a cell without weights or memory. Raises what transformers raises for what it lacks.

    FLOPs are 2 per multiply-add of every matrix product and of attention (full S x S, eager), counted operator by operator.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    blueprint = engine.Blueprint(cell.target, cell.dtype, cell.attention)
    counter = FlopCounterMode(display=False)
    note, flops = None, None
    with FakeTensorMode(allow_non_fake_inputs=True):
        single = replace(
            cell,
            target=engine.Target(cell.target.llm),
            attention="eager",
            device="cpu",
            batch_size=1,
            num_micro_batches=1,
        )
        model, _ = _model(single)
        held = engine.weights_bytes(model) + sum(
            one.numel() * (one.element_size() + _state_bytes(cell)) for one in _trained(model)
        )
        try:
            with counter:
                model(**_inputs(model, single)[0]).loss.backward()
            flops = float(counter.get_total_flops())
        except Exception as error:  # control flow on values, say
            note = f"no FLOPs: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]
    return Plan(blueprint.attention, blueprint.num_parameters, flops, float(held), note)


def train(worker: Worker, cell: Cell, protocol: Protocol, run_id: str) -> Outcome:
    """One run of a cell in a process of its own, as one of its ranks. Raises what a step raises, torch.OutOfMemoryError too."""
    transformers.logging.set_verbosity_error()
    worker.begin(cell.phase, protocol.limit_s)
    if cell.device == "cpu" and worker.num_ranks > 1:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), _machine.usable_cores() // worker.num_ranks)))
    _settle(cell)
    baseline = _memory.resident_bytes()
    trainer = Trainer(cell)
    num_warmup, num_steps, num_extra = _counts(trainer, protocol)
    watch, telemetry = (
        _memory.MemoryWatch(cell.device),
        _telemetry.Telemetry(cell.device, devices=range(cell.num_ranks)),
    )
    with telemetry if worker.rank == 0 else contextlib.nullcontext(), _machine.Load() as load:
        timing = _timing.measure(
            trainer.step, device=cell.device, warmup=_timing.Warmup(num_warmup, 0.0, math.inf), min_repeats=num_steps,
            max_repeats=num_steps, budget_s=math.inf, precision=0.0, watch=watch,
        )  # fmt: skip
    memory, own_s = watch.columns(baseline), statistics.fmean(one.wall_s for one in timing.measured)
    timing, splits = slowest(_gathered((timing.samples, trainer.splits())))
    outcome = Outcome(
        columns=_columns(timing, splits) | trainer.held(), latency_s=own_s,
        memory=memory, synchronisation_s=trainer.synchronisation_s(num_extra) if num_extra else None,
        load=load, num_warmup=num_warmup, num_threads=torch.get_num_threads(),
    )  # fmt: skip
    if worker.rank == 0:
        outcome.samples = _samples(run_id, timing, splits, telemetry)
        outcome.telemetry = telemetry.rows(run_id)
        outcome.columns |= telemetry.columns() | memory
        if "power_avg_w" in outcome.columns:
            outcome.definitions["power_avg_w"] = "telemetry_mean"
        outcome.notes.append(telemetry.note)
    if protocol.has_modules and num_extra:
        outcome.ops, hooked_s = trainer.modules(run_id, num_extra, worker.rank == 0)
        outcome.columns["ops_time_s"] = _modules.leaves_s(outcome.ops)
        outcome.columns["hooks_overhead_ratio"] = hooked_s / outcome.latency_s
    elif protocol.has_modules:
        outcome.notes.append("no modules: the budget")
    if protocol.has_energy:
        energy = _telemetry.measure_energy(trainer.step, device=cell.device)
        outcome.columns |= energy.columns()
        outcome.notes.append(energy.reason)
        if energy.definition is not None:
            outcome.definitions |= {"energy_j": energy.definition, "power_avg_w": "energy_window"}
    if protocol.has_kernels and num_extra:  # last: on CUDA it slows what the process launches after it
        _add_kernels(outcome, trainer, worker, cell, run_id)
    elif protocol.has_kernels:
        outcome.notes.append("no kernels: the budget")
    return outcome


def _gathered(own: Any) -> list[Any]:
    """What every rank has, by rank."""
    if not dist.is_initialized():
        return [own]
    by_rank = [None] * dist.get_world_size()
    dist.all_gather_object(by_rank, own)
    return by_rank


def slowest(by_rank: list[tuple[tuple[_timing.Sample, ...], list[Split]]]) -> tuple[_timing.Timing, list[Split]]:
    """Steps of all ranks as one: every step with its parts as its slowest rank took it, with the processor time of all."""
    samples, parts = [], []
    for step in zip(*(zip(*one, strict=True) for one in by_rank), strict=True):
        sample, split = max(step, key=lambda one: one[0].wall_s)
        samples.append(replace(sample, cpu_s=sum(one.cpu_s for one, _ in step)))
        parts.append(split)
    return _timing.Timing(tuple(samples), asked_precision=0.0), parts


def _add_kernels(outcome: Outcome, trainer: Trainer, worker: Worker, cell: Cell, run_id: str) -> None:
    """Kernels of a whole step on rank 0; what recomputation repeats is part of the backward pass."""
    try:
        seen = trainer.kernels(run_id, len(outcome.ops), worker.rank == 0)
    except Exception as error:  # the timing stands without it
        if worker.num_ranks > 1:  # the others wait in a step
            raise
        outcome.notes.append(f"no kernels: {_session.failure(error)['status_detail']}")
        return
    if seen is None:
        return
    outcome.ops += seen.rows
    outcome.notes.append(seen.note)
    outcome.columns["profiler_overhead_ratio"] = seen.wall_s / outcome.latency_s
    if seen.kernel_time_s is not None:
        outcome.columns["kernel_time_s"] = seen.kernel_time_s
        outcome.definitions["kernel_time_s"] = "profiler_busy"


def _columns(timing: _timing.Timing, splits: list[Split]) -> dict[str, Any]:
    """Columns of `runs` from the measured steps."""
    measured = splits[-len(timing.measured) :]
    columns: dict[str, Any] = {"num_samples": len(timing.measured), **timing.columns()}
    columns["duration_s"] = sum(sample.wall_s for sample in timing.measured)
    for name, values in zip(PARTS, zip(*measured, strict=True), strict=True):
        columns[name] = statistics.fmean(values)
        columns[metric(name).column("std")] = statistics.stdev(values) if len(values) > 1 else None
    return columns


def _samples(
    run_id: str, timing: _timing.Timing, splits: list[Split], telemetry: _telemetry.Telemetry
) -> list[dict[str, Any]]:
    """Rows of `samples`: every step and its parts."""
    phases = [sample.phase for sample in timing.samples]
    rows = timing.rows(run_id, telemetry.throttled_between)
    for name, values in zip(PARTS, zip(*splits, strict=True), strict=True):
        rows += _timing.sample_rows(run_id, name, phases, values)
    return rows


class Trainer:
    """A cell built on this process's device. Every rank calls the same methods in the same order."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._model, self._adapted = _model(cell)
        self._run: Any = self._model
        if "zero3" in cell.optimizations:
            _shard(self._model, cell.device)
        elif cell.num_ranks > 1:
            self._run = torch.nn.parallel.DistributedDataParallel(
                self._model, device_ids=[torch.cuda.current_device()] if cell.device == "cuda" else None
            )
        self._is_replica = self._run is not self._model
        self._is_synchronised = True
        parameters = _trained(self._model)
        is_mixed = cell.optimizer_dtype != cell.dtype
        self._optimizer: Any = _MasterWeights(parameters) if is_mixed else torch.optim.AdamW(parameters)
        self._inputs = _inputs(self._model, cell)
        self._marks: list[list[Any]] = []

    def step(self) -> None:
        """One step: gradients of all micro-batches are added up, those of replicas exchanged in the last."""
        marks = [self._mark()]
        for index, inputs in enumerate(self._inputs):
            with self._exchanging(index == len(self._inputs) - 1):
                loss = self._loss(inputs)
                marks.append(self._mark())
                loss.backward()
                marks.append(self._mark())
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        marks.append(self._mark())
        self._marks.append(marks)

    def splits(self) -> list[Split]:
        """Forward, backward and optimizer seconds of every step so far, which are forgotten. The device is synchronised."""
        found = []
        for marks in self._marks:
            parts = [self._between(*pair) for pair in itertools.pairwise(marks)]
            found.append((sum(parts[0:-1:2]), sum(parts[1:-1:2]), parts[-1]))
        self._marks = []
        return found

    def held(self) -> dict[str, float | None]:
        """Bytes of weights, gradients and optimizer states on this rank, and of what autograd keeps of a forward pass.

        One more forward and backward pass, of one micro-batch. What is kept is counted by storage, weights apart; NULL where
        weights are sharded, because gathered ones are kept too.
        """
        weights = {one.untyped_storage().data_ptr() for one in map(_local, self._model.parameters())}
        kept: dict[int, int] = {}

        def keep(tensor: Any) -> Any:
            storage = _local(tensor).untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self._loss(self._inputs[0])
        loss.backward()
        gradients = [one.grad for one in self._model.parameters() if one.grad is not None]
        states = [
            one for state in self._optimizer.state.values() for one in state.values() if isinstance(one, torch.Tensor)
        ]
        masters = self._optimizer.masters if isinstance(self._optimizer, _MasterWeights) else []
        sizes: dict[str, float | None] = {
            "weights_bytes": _bytes(self._model.parameters()),
            "gradients_bytes": _bytes(gradients),
            "optimizer_bytes": _bytes(states) + _bytes(masters),
            "activation_peak_bytes": None if "zero3" in self._cell.optimizations else float(sum(kept.values())),
        }
        self._optimizer.zero_grad(set_to_none=True)
        return sizes

    def synchronisation_s(self, count: int) -> float | None:
        """Seconds that a step takes longer because replicas exchange gradients: communication that nothing hides.

        Difference of the medians of steps with and without the exchange, in turn, `count` of each; below 0 where noise is
        larger. None for one rank, and for sharded weights, which cannot do without.
        """
        if not self._is_replica:
            return None

        def variant(is_synchronised: bool) -> Any:
            def set_synchronised() -> None:
                self._is_synchronised = is_synchronised

            return self.step, set_synchronised

        timings = _timing.measure_interleaved(
            {"with": variant(True), "without": variant(False)}, device=self._cell.device,
            warmup=_timing.Warmup(1, 0.0, math.inf), min_repeats=count, max_repeats=count, budget_s=math.inf, precision=0.0,
        )  # fmt: skip
        self._is_synchronised = True
        medians = {name: statistics.median(one.wall_s for one in timing.measured) for name, timing in timings.items()}
        return medians["with"] - medians["without"]

    def modules(self, run_id: str, count: int, is_hooked: bool) -> tuple[list[dict[str, Any]], float]:
        """Rows of `ops` from `count` steps with hooks and one for accounts, and the seconds of a hooked step.

        Ranks that are not hooked take the same steps and have no rows.
        """
        timer = _modules.TrainingTimer(self._model, self._optimizer, self._cell.device) if is_hooked else None
        passes = [timer] * count + [None if timer is None else timer.accounts()]
        took = []
        for one in passes:
            began = time.perf_counter()
            with contextlib.nullcontext() if one is None else one:
                self._step_by(timer)
                _synchronize()
            took.append(time.perf_counter() - began)
        rows = [] if timer is None else timer.rows(run_id)
        for row in rows:
            row["op_kind"] = self._adapted.get(row["path"].removesuffix(".base"), row["op_kind"])
        return rows, statistics.fmean(took[:-1])

    def kernels(self, run_id: str, first_index: int, is_profiled: bool) -> _kernels.Profile | None:
        """One step under the profiler, after one that takes its start; ranks that are not profiled take the same steps."""
        if not is_profiled:
            self.step()
            self.step()
            return None
        return _kernels.profile(
            self.step, self._model, device=self._cell.device, run_id=run_id, first_index=first_index,
            executions=1,
        )  # fmt: skip

    def _step_by(self, timer: _modules.TrainingTimer | None) -> None:
        """A step whose parts a timer calls."""
        if timer is None:
            self.step()
            return
        for index, inputs in enumerate(self._inputs):
            with self._exchanging(index == len(self._inputs) - 1):
                timer.backward(timer.forward(functools.partial(self._loss, inputs)))
        timer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _loss(self, inputs: dict[str, Any]) -> Any:
        """Loss of one micro-batch, as a part of the batch's."""
        return self._run(**inputs).loss / len(self._inputs)

    def _exchanging(self, is_last: bool) -> Any:
        is_alone = self._is_replica and not (is_last and self._is_synchronised)
        return self._run.no_sync() if is_alone else contextlib.nullcontext()

    def _mark(self) -> Any:
        if self._cell.device != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event
        mark = event(enable_timing=True)
        mark.record()
        return mark

    def _between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second) / 1e3 if self._cell.device == "cuda" else second - first)


class _MasterWeights:
    """AdamW with states and master weights in fp32 for weights of 16 bits."""

    def __init__(self, parameters: list[Any]) -> None:
        self._parameters = parameters
        self.masters = [one.detach().float() for one in parameters]
        self._adam = torch.optim.AdamW(self.masters)

    @property
    def state(self) -> Any:
        return self._adam.state

    @torch.no_grad()
    def step(self) -> None:
        with torch.profiler.record_function("Optimizer.step#_MasterWeights.step"):  # the copies are the optimizer's too
            for parameter, master in zip(self._parameters, self.masters, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
            self._adam.step()
            self._adam.zero_grad(set_to_none=True)
            for parameter, master in zip(self._parameters, self.masters, strict=True):
                parameter.copy_(master)

    def zero_grad(self, set_to_none: bool) -> None:
        for parameter in self._parameters:
            parameter.grad = None if set_to_none else torch.zeros_like(parameter)


class Adapted(torch.nn.Module):
    """A frozen product W x with a trained one of rank r beside it: W x + B A x, no scale, no dropout.

    A has shape (r, in), B (out, r) and starts at zero; both have the dtype of W.
    """

    def __init__(self, base: Any, shape: tuple[int, int], rank: int) -> None:
        super().__init__()
        options = {"device": base.weight.device, "dtype": base.weight.dtype, "bias": False}
        self.base = base
        self.lora_a = torch.nn.Linear(shape[1], rank, **options)
        self.lora_b = torch.nn.Linear(rank, shape[0], **options)
        torch.nn.init.normal_(self.lora_a.weight, std=0.02)
        torch.nn.init.zeros_(self.lora_b.weight)

    @property
    def weight(self) -> Any:
        """The frozen weight: some models ask a product for its dtype."""
        return self.base.weight

    def forward(self, x: Any) -> Any:
        return self.base(x) + self.lora_b(self.lora_a(x))


def adapt(model: Any, rank: int) -> dict[str, str]:
    """Freeze a model and give every product of attention and MLP an adapter: the op kinds ADAPTED, as the analytical twin.

    Returns what was adapted: path -> op kind.
    """
    model.requires_grad_(False)
    adapted = {}
    for path, module in list(model.named_modules()):
        shape, kind = _modules.weight_shape(module), _op_kinds.op_kind(path, type(module).__name__)
        if shape is not None and kind in ADAPTED:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, Adapted(module, shape, rank))
            adapted[path] = kind
    return adapted


def _model(cell: Cell) -> tuple[Any, dict[str, str]]:
    """The model in training mode, with adapters and checkpoints where the cell has them; what was adapted."""
    model = engine.build(cell.target, cell.dtype, cell.attention, cell.device, is_masked_lm=True).train()
    adapted = adapt(model, cell.lora_rank) if "lora" in cell.optimizations and cell.lora_rank is not None else {}
    if "recompute" in cell.optimizations:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model, adapted


def _inputs(model: Any, cell: Cell) -> list[dict[str, Any]]:
    """Token ids of every micro-batch, which are the labels as well; of an encoder-decoder the decoder's too."""
    vocabulary = int(model.config.vocab_size)
    shape = (cell.batch_size, cell.input_tokens)
    ids = torch.randint(min(10, vocabulary // 2), vocabulary, shape, generator=torch.Generator().manual_seed(0))
    has_cache = "use_cache" in inspect.signature(model.forward).parameters
    others = {"use_cache": False} if has_cache else {}
    return [{"input_ids": part, "labels": part, **others} for part in ids.to(cell.device).chunk(cell.num_micro_batches)]


def _shard(model: Any, device: str) -> None:
    """Weights, gradients and optimizer states in shards over all ranks, gathered layer by layer (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (dist.get_world_size(),))
    layers = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _counts(trainer: Trainer, protocol: Protocol) -> tuple[int, int, int]:
    """Warm-up and measured steps, and those of each pass after them: the protocol's, or in the same proportion what the run's time
    has room for; 0 passes where it has room for the shortest run alone."""
    asked = protocol.num_warmup, protocol.num_steps, min(EXTRA_STEPS, max(1, protocol.num_steps // 4))
    if protocol.until_s is None:
        return asked
    for _ in range(PROBE_STEPS):
        start = time.monotonic()
        trainer.step()
        _synchronize()
        took = time.monotonic() - start
    trainer.splits()
    room = (protocol.until_s - time.monotonic()) / took
    scale = max(0.0, min(1.0, STEPS_SHARE * room / (protocol.num_warmup + protocol.num_steps)))
    num_warmup = max(1, math.floor(protocol.num_warmup * scale))
    num_steps = max(min(LEAST_MEASURED, protocol.num_steps), math.floor(protocol.num_steps * scale))
    counts = [num_warmup, num_steps, min(EXTRA_STEPS, max(1, num_steps // 4)) if room > 2 * LEAST_STEPS else 0]
    if dist.is_initialized():
        dist.broadcast_object_list(counts, src=0)
    return counts[0], counts[1], counts[2]


def _settle(cell: Cell) -> None:
    """Import and set up what the first step does, so that it does not count as the model's memory."""
    engine.skeleton(cell.target, cell.dtype, cell.attention, "cpu")
    tiny = torch.nn.Linear(2, 2, device=cell.device)
    optimizer = torch.optim.AdamW(tiny.parameters())
    tiny(torch.zeros(1, 2, device=cell.device)).sum().backward()
    optimizer.step()
    _memory.trim()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _trained(model: Any) -> list[Any]:
    return [one for one in model.parameters() if one.requires_grad]


def _state_bytes(cell: Cell) -> int:
    """Optimizer bytes of one trained parameter: two states, and a master weight where they are wider than it."""
    width = engine.TORCH_DTYPES[cell.optimizer_dtype].itemsize
    return width * (2 if cell.optimizer_dtype == cell.dtype else 3)


def _local(tensor: Any) -> Any:
    """This rank's part of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _bytes(tensors: Iterator[Any] | list[Any]) -> float:
    return float(sum(one.numel() * one.element_size() for one in map(_local, tensors)))
