"""Training steps of LLMs: forward, backward and optimizer, memory, replicas and shards, LoRA; the protocol of a published study.

30 warm-up steps, 100 measured, three runs in new processes (zhang-2023-dissecting): three rows of one repeat group, landed
together, so that a kill loses one cell. A run that fails is a row, and its group ends with it. `--budget-s` cuts steps, which
status_detail tells.

    python -m collectors training_step --llm-id llama-2-7b --layers 2 --phase pretrain_step finetune_step --dtype bf16 \\
        --optimizations none recompute lora lora+recompute --landing landing

AdamW keeps its two states in optimizer_dtype; where that is wider than the weights' dtype, with master weights of its own.
`lora` freezes the model and trains adapters of every product of attention and MLP (head and routed experts get none).
--ranks 2: two processes, gloo on a CPU, nccl on GPUs, one device each; replicas (DDP), or with `zero3` shards (FSDP2). Each step is
that of its slowest rank.
Model FLOPs are those of forward and backward, without what recomputation repeats.
"""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectors import Collected, Report, _machine, _memory, _session, _timing, _workers, silent
from warehouse import catalog, schema

if TYPE_CHECKING:
    from collectors.training_step import _trainer

NAME = "training_step"
SOURCE = {
    "source_id": f"rooflake/{NAME}",
    "title": "Training steps: LLMs trained on the machine at hand",
    "kind": "machine",
    "locator": f"collectors/{NAME}",
    "note": "Synthetic token ids without padding, random weights unless a checkpoint is named, AdamW, transformers' own loss, dropout "
    "as the model's config says; per-module times from a separate pass with hooks.",
}
PHASES = ("pretrain_step", "finetune_step")
DTYPES = ("fp32", "bf16")
UNSUPPORTED = {
    "qlora": "a base of 4 bits needs bitsandbytes, which is not used here",
    "quantized": "a base of 4 bits needs bitsandbytes, which is not used here",
    "zero1": "torch shards optimizer states alone by another optimizer; measured are replicas and zero3",
    "zero2": "torch's FSDP shards weights as well; measured are replicas and zero3",
    "offload": "weights and states stay on the device here",
}
"""Optimizations that a study may name and this collector does not run, and why."""
MEASURED = ("recompute", "lora", "flash", "zero3")
ADAPTERS = ("lora", "qlora")
DEFAULT_LIMIT_S = 1800.0
FULL_RUNS = 3


@dataclass(frozen=True)
class _Grid:
    """What is asked for, every combination of it."""

    phases: Sequence[str | None]
    batches: Sequence[int]
    inputs: Sequence[int]
    dtypes: Sequence[str]
    techniques: Sequence[tuple[str, ...]]
    micro_batches: Sequence[int]
    ranks: Sequence[int]
    lora_rank: int
    optimizer_dtype: str | None
    attention: str | None


@dataclass
class _Call:
    """What all cells of one call share."""

    session: _session.Session
    protocol: _trainer.Protocol
    runs: int
    limit_s: float
    deadline: float | None
    checkpoint: str | None
    layers: int | None
    plans: dict[Any, _trainer.Plan | Exception] = field(default_factory=dict)
    slowness: float = 1.0
    """Time of the last step over what the peak allows."""


def add_arguments(parser: Any) -> None:
    """Command-line options of `collect`."""
    known = " ".join((*MEASURED, *UNSUPPORTED))
    parser.add_argument("--llm-id", nargs="+", help="catalogue ids")
    parser.add_argument("--checkpoint", help="a local checkpoint folder or a hub id, instead of catalogue ids")
    parser.add_argument("--layers", type=int, help="cut each LLM to its first layers, as an LLM of its own")
    parser.add_argument(
        "--phase", nargs="+", help=f"of {' '.join(PHASES)}; default: the second for adapters, else the first"
    )
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1], help="sequences of one device; default: 1")
    parser.add_argument(
        "--input-tokens", nargs="+", type=int, default=[350], help="tokens of one sequence; default: 350"
    )
    parser.add_argument("--dtype", nargs="+", default=["fp32"], help="fp32 or bf16; default: fp32")
    parser.add_argument("--optimizer-dtype", help="dtype of the optimizer's states; default: that of the weights")
    parser.add_argument("--attention", help="eager or sdpa; default: what transformers chooses")
    parser.add_argument(
        "--optimizations", nargs="+", default=["none"], help=f"none, or sets joined by '+', of {known}; default: none"
    )
    parser.add_argument(
        "--num-micro-batches", nargs="+", type=int, default=[1], help="parts a batch is cut into; default: 1"
    )
    parser.add_argument("--lora-rank", type=int, default=64, help="rank of adapters; default: 64")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1], help="processes, one device each; default: 1")
    parser.add_argument("--warmup-steps", type=int, default=30, help="default: 30")
    parser.add_argument("--steps", type=int, default=100, help="measured steps of one run; default: 100")
    parser.add_argument("--runs", type=int, default=FULL_RUNS, help="runs of a cell, in a new process each; default: 3")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; default: auto")
    parser.add_argument("--energy", action="store_true", help="measure the energy of a step too, for 5 seconds")
    parser.add_argument(
        "--kernels", action="store_true", help="kernels of a step, from a pass under the profiler at the end"
    )
    parser.add_argument("--no-modules", dest="modules", action="store_false", help="leave out the pass with hooks")
    parser.add_argument(
        "--budget-s", type=float, help="seconds for everything: cuts steps, then leaves out cells, and says so"
    )
    parser.add_argument(
        "--cell-limit-s",
        type=float,
        default=DEFAULT_LIMIT_S,
        help="seconds after which a cell is a timeout; default: 1800",
    )


def collect(
    landing: Path,
    *,
    report: Report = silent,
    llm_id: str | Sequence[str] | None = None,
    checkpoint: str | None = None,
    layers: int | None = None,
    phase: str | Sequence[str] | None = None,
    batch_size: int | Sequence[int] = 1,
    input_tokens: int | Sequence[int] = 350,
    dtype: str | Sequence[str] = "fp32",
    optimizer_dtype: str | None = None,
    attention: str | None = None,
    optimizations: str | Sequence[str] = "none",
    num_micro_batches: int | Sequence[int] = 1,
    lora_rank: int = 64,
    ranks: int | Sequence[int] = 1,
    warmup_steps: int = 30,
    steps: int = 100,
    runs: int = FULL_RUNS,
    device: str = "auto",
    energy: bool = False,
    modules: bool = True,
    kernels: bool = False,
    budget_s: float | None = None,
    cell_limit_s: float = DEFAULT_LIMIT_S,
    hardware_row: dict[str, Any] | None = None,
    ceiling_row: dict[str, Any] | None = None,
    skip: Collection[str] = frozenset(),
) -> Collected:
    """Measure every combination of LLM, phase, shape, dtype, optimizations and ranks; the runs of one land as one batch.

    Sets of optimizations are joined by '+', 'none' (and 'ddp', which ranks without zero3 are) is the empty one. Without
    `phase`, a set with adapters trains in finetune_step, any other in pretrain_step. `skip` holds repeat_group_ids that need
    no measuring. What cannot be run here is a row of status unsupported, oom, timeout or error; what is left out (adapters
    asked for in pretrain_step, budget, free memory, context length, ranks) is reported and is no row. Raises LookupError for
    an unknown LLM, ValueError for an unknown option.
    """
    grid = _Grid(
        phases=[None] if phase is None else _session.several(phase), batches=_session.several(batch_size), inputs=_session.several(input_tokens),
        dtypes=_session.several(dtype), techniques=[_technique(one) for one in _session.several(optimizations)],
        micro_batches=_session.several(num_micro_batches), ranks=_session.several(ranks), lora_rank=lora_rank,
        optimizer_dtype=optimizer_dtype, attention=attention,
    )  # fmt: skip
    _check_options(grid, warmup_steps, steps, runs)
    _session.check_seconds("budget_s", budget_s)
    _session.check_seconds("cell_limit_s", cell_limit_s)
    from collectors import _transformers as engine
    from collectors.training_step import _trainer

    if (checkpoint is None) == (llm_id is None):
        raise ValueError("Give either llm_id or checkpoint: which LLM to train.")
    targets = (
        [engine.from_checkpoint(checkpoint)]
        if checkpoint is not None
        else [engine.catalogued(name) for name in _session.several(llm_id)]
    )
    if layers is not None:
        targets = [engine.cut(target, layers) for target in targets]
    with _session.open_session(
        NAME, SOURCE, landing, device=device, report=report,
        hardware_row=hardware_row, ceiling_row=ceiling_row, skip=skip,
    ) as session:  # fmt: skip
        began = time.monotonic()
        call = _Call(
            session=session,
            protocol=_trainer.Protocol(warmup_steps, steps, None, None, modules, energy, kernels),
            runs=runs, limit_s=cell_limit_s, deadline=None if budget_s is None else began + budget_s,
            checkpoint=checkpoint, layers=layers,
        )  # fmt: skip
        cells = [cell for target in targets for cell in _cells(target, grid, session.device, report)]
        for index, cell in enumerate(cells):
            _measure(call, cell, len(cells) - index)
        report(f"{session.num_runs} runs in {time.monotonic() - began:.0f} s, {session.num_failed} of them failures.")
        return session.collected()


# ---- what to run


def _technique(text: str) -> tuple[str, ...]:
    """A set of optimizations, sorted: '' and 'none' are the empty one, and so is 'ddp', which ranks without zero3 are."""
    return tuple(sorted({*text.split("+")} - {"", "none", "ddp"}))


def _cells(target: Any, grid: _Grid, device: str, report: Report) -> list[_trainer.Cell]:
    """Cells in running order."""
    from collectors.training_step import _trainer

    found: list[_trainer.Cell] = []
    axes = (grid.phases, grid.inputs, grid.dtypes, grid.techniques, grid.ranks, grid.batches, grid.micro_batches)
    for asked, tokens, dtype, options, ranks, batch, micro in itertools.product(*axes):
        phase = PHASES[bool({*options} & {*ADAPTERS})] if asked is None else asked
        cell = _trainer.Cell(
            target=target, phase=phase, batch_size=batch, input_tokens=tokens, dtype=dtype,
            optimizer_dtype=grid.optimizer_dtype or dtype, attention="flash" if "flash" in options else grid.attention,
            optimizations=options, num_micro_batches=micro, lora_rank=grid.lora_rank if {*options} & {*ADAPTERS} else None,
            num_ranks=ranks, device=device,
        )  # fmt: skip
        if cell in found:
            continue
        reason = _impossible(cell)
        if reason is None:
            found.append(cell)
        else:
            report(f"{_label(cell)}: {reason}; left out.")
    return found


def _impossible(cell: _trainer.Cell) -> str | None:  # noqa: PLR0911 (one reason after the other)
    """Why a combination of options is no training step; None where it is one."""
    llm = cell.target.llm
    if llm.max_context_tokens is not None and cell.input_tokens > llm.max_context_tokens and llm.position == "learned":
        return f"{cell.input_tokens} tokens exceed its context of {llm.max_context_tokens}"
    if cell.phase == "pretrain_step" and cell.lora_rank is not None:
        return "adapters train in a finetune_step (--phase finetune_step)"
    if cell.batch_size % cell.num_micro_batches:
        return f"{cell.num_micro_batches} micro-batches do not divide a batch of {cell.batch_size}"
    if "zero3" in cell.optimizations and cell.num_ranks == 1:
        return "zero3 shards over several ranks, and there is one"
    if schema.DTYPE_BYTES[cell.optimizer_dtype] < schema.DTYPE_BYTES[cell.dtype]:
        return f"optimizer states in {cell.optimizer_dtype} are narrower than weights in {cell.dtype}"
    if cell.device == "cuda" and cell.num_ranks > _num_gpus():
        return f"{cell.num_ranks} ranks take as many GPUs, and there are {_num_gpus()}"
    return None


def _num_gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


def _plan(call: _Call, cell: _trainer.Cell) -> _trainer.Plan | Exception:
    """What is known of a cell beforehand, or what transformers raises for it; cells that differ in nothing that counts share it."""
    from collectors.training_step import _trainer

    bare = replace(cell, optimizations=tuple(one for one in cell.optimizations if one == "lora"))
    key = (bare.target.llm.llm_id, bare.input_tokens, bare.dtype, bare.optimizer_dtype, bare.attention, bare.lora_rank)
    if (*key, bare.optimizations) not in call.plans:
        try:
            call.plans[*key, bare.optimizations] = _trainer.plan(bare)
        except Exception as error:
            call.plans[*key, bare.optimizations] = error
    return call.plans[*key, bare.optimizations]


# ---- running


def _measure(call: _Call, cell: _trainer.Cell, num_left: int) -> None:
    """All runs of a cell, landed as one batch; the first that fails is the last."""
    session, plan = call.session, _plan(call, cell)
    attention = cell.attention if isinstance(plan, Exception) else plan.attention
    identities = [_identity(call, cell, attention) for _ in range(call.runs)]
    if session.is_known(identities[0], call.limit_s):
        session.report(f"{_label(cell)}: measured already.")
        return
    try:
        refusal = _refusal(cell, plan)
        reason = None if isinstance(plan, Exception) else _left_out(call, cell, plan)
    except _memory.TooLargeError as error:
        refusal, reason = None, str(error)
    except RuntimeError as error:  # the system's own: it refuses as much memory
        refusal, reason = _session.failure(error), None
    if refusal is not None:
        _land(call, cell, [identities[0] | refusal], {})
        return
    if reason is not None or isinstance(plan, Exception):
        session.report(f"{_label(cell)}: {reason} Left out.")
        return
    rows: list[dict[str, Any]] = []
    tables: dict[str, list[dict[str, Any]]] = {}
    until = time.monotonic() + call.limit_s
    for index, identity in enumerate(identities):
        now = time.monotonic()
        share = None if call.deadline is None else (call.deadline - now) / (num_left * call.runs - index)
        protocol = replace(
            call.protocol, until_s=None if share is None else now + share, limit_s=max(0.0, until - now),
            has_modules=call.protocol.has_modules and index == 0,
            has_energy=call.protocol.has_energy and index == 0 and cell.num_ranks == 1,
            has_kernels=call.protocol.has_kernels and index == 0,
        )  # fmt: skip
        row, parts = _run(call, cell, plan, identity, protocol)
        rows.append(row)
        for name, more in parts.items():
            tables.setdefault(name, []).extend(more)
        if row["status"] != "ok":
            break
        least = _least_s(call, cell, plan)
        call.slowness = call.slowness if least is None else row["latency_s"] / least
    if sum(row["status"] == "ok" for row in rows) >= FULL_RUNS:
        for row in rows:
            row["quality_tier"] = 3
    _land(call, cell, rows, tables)


def _refusal(cell: _trainer.Cell, plan: _trainer.Plan | Exception) -> dict[str, Any] | None:
    """Status columns of what cannot be run here; None for what can be tried.

    A CPU's memory is asked for beforehand, since its system kills what takes too much. Raises TooLargeError for more than is free
    just now, RuntimeError where the system refuses it.
    """
    missing = [f"{name}: {UNSUPPORTED[name]}" for name in cell.optimizations if name in UNSUPPORTED]
    if missing:
        return {"status": "unsupported", "status_detail": "; ".join(missing)}
    if isinstance(
        plan, ImportError | ValueError
    ):  # transformers lacks the architecture or the attention implementation
        return _session.failure(plan) | {"status": "unsupported"}
    if isinstance(plan, Exception):
        return _session.failure(plan)
    if cell.device == "cuda":
        return None
    needed = plan.held_bytes * (1 if "zero3" in cell.optimizations else cell.num_ranks)
    total = _machine.main_memory_bytes()
    if total is not None and needed > total:
        detail = (
            f"weights, gradients and optimizer states take {_memory.gib(needed)} of {_memory.gib(total)}: not tried"
        )
        return {"status": "oom", "status_detail": detail}
    _memory.check_free(cell.device, needed)
    return None


def _left_out(call: _Call, cell: _trainer.Cell, plan: _trainer.Plan) -> str | None:
    """Why a cell is not tried within what is left of the budget; None where it is."""
    from collectors.training_step import _trainer

    if call.deadline is None:
        return None
    left, least = call.deadline - time.monotonic(), _least_s(call, cell, plan) or 0.0
    if left > _trainer.LEAST_STEPS * call.slowness * least and left > 0:
        return None
    return f"it would take longer than the {max(0.0, left):.1f} s left of the budget."


def _least_s(call: _Call, cell: _trainer.Cell, plan: _trainer.Plan) -> float | None:
    """Seconds that a step takes at the device's peak, which ranks on a CPU share; None where unknown."""
    peak = call.session.hardware.get(f"peak_{cell.dtype}_flops_per_s")
    sequences = cell.batch_size * (1 if cell.device == "cuda" else cell.num_ranks)
    return None if plan.flops is None or peak is None else plan.flops * sequences / peak


def _run(
    call: _Call, cell: _trainer.Cell, plan: _trainer.Plan, identity: dict[str, Any], protocol: _trainer.Protocol
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """One run in new processes: its row of `runs`, and rows of other tables."""
    from collectors.training_step import _trainer

    several = cell.num_ranks > 1
    backend = ("nccl" if cell.device == "cuda" else "gloo") if several else None
    try:
        outcomes = _workers.run(
            _trainer.train, (cell, protocol, identity["run_id"]), num_ranks=cell.num_ranks, backend=backend
        )
    except _workers.WorkerError as error:
        status = _session.failure(error)
        return identity | status | ({"duration_s": call.limit_s} if status["status"] == "timeout" else {}), {}
    first = outcomes[0]
    row = identity | _measured(call, cell, plan, outcomes)
    ranks = [
        {
            "run_id": identity["run_id"], "rank": index, "device_index": index if cell.device == "cuda" else None,
            "latency_s": one.latency_s, "communication_s": _exposed_s(one),
            "weights_bytes": one.columns["weights_bytes"], **one.memory,
        }
        for index, one in enumerate(outcomes)
    ] if several else []  # fmt: skip
    return row, {"samples": first.samples, "ops": first.ops, "telemetry": first.telemetry, "ranks": ranks}


def _land(
    call: _Call, cell: _trainer.Cell, rows: list[dict[str, Any]], tables: dict[str, list[dict[str, Any]]]
) -> None:
    target = cell.target
    call.session.land(rows, llm=None if target.is_catalogued else catalog.llm_row(target.llm), **tables)
    last = rows[-1]
    if last["status"] == "ok":
        times = ", ".join(f"{row['latency_s'] * 1e3:.1f}" for row in rows)
        outcome = f"{times} ms a step of {last['num_samples']}, {last['total_tokens_per_s']:.0f} tokens/s"
    else:
        outcome = f"{last['status']}: {last['status_detail']}"
    call.session.report(f"{_label(cell)}: {outcome}")


# ---- rows


def _identity(call: _Call, cell: _trainer.Cell, attention: str | None) -> dict[str, Any]:
    configuration = {
        "llm_id": cell.target.llm.llm_id,
        "num_devices": cell.num_ranks,
        "data_parallel": cell.num_ranks,
        "phase": cell.phase,
        "batch_size": cell.batch_size,
        "input_tokens": cell.input_tokens,
        "weight_dtype": _base_dtype(cell),
        "activation_dtype": cell.dtype,
        "gradient_dtype": cell.dtype,
        "optimizer_dtype": cell.optimizer_dtype,
        "attention": attention,
        "optimizations": list(cell.optimizations),
        "num_micro_batches": cell.num_micro_batches if cell.num_micro_batches > 1 else None,
        "lora_rank": cell.lora_rank,
    }
    return call.session.identity(configuration, command=_command(call, cell))


def _base_dtype(cell: _trainer.Cell) -> str:
    return "nf4" if {*cell.optimizations} & {"qlora", "quantized"} else cell.dtype


def _measured(
    call: _Call, cell: _trainer.Cell, plan: _trainer.Plan, outcomes: list[_trainer.Outcome]
) -> dict[str, Any]:
    """The columns of a run that went well. Work and tokens are of all ranks, memory of the fullest one."""
    first = outcomes[0]
    row: dict[str, Any] = {"status": "ok", **first.columns}
    for name in first.memory:
        known = [size for one in outcomes if (size := one.memory[name]) is not None]
        row[name] = max(known) if known else None
    sequences = cell.batch_size * cell.num_ranks
    row["total_tokens_per_s"] = sequences * cell.input_tokens / row["latency_s"]
    exposed = [seconds for one in outcomes if (seconds := _exposed_s(one)) is not None]
    row["communication_s"] = max(exposed) if exposed else None
    row["other_load_ratio"] = first.load.other_ratio([one.load for one in outcomes[1:]])
    definitions = {
        "latency_s": "wall_clock", "total_tokens_per_s": "tokens_over_duration",
        "memory_peak_bytes": "torch_max_allocated" if cell.device == "cuda" else "rss_peak_delta", **first.definitions,
    }  # fmt: skip
    if row["activation_peak_bytes"] is not None:
        definitions["activation_peak_bytes"] = "saved_for_backward"
    if row["communication_s"] is not None:
        definitions["communication_s"] = "exchange_minus_none"
    if row["device_time_s"] is not None:
        definitions["device_time_s"] = "device_events"
    if row.get("energy_j") is not None:
        row["energy_per_token_j"] = row["energy_j"] / (sequences * cell.input_tokens)
        definitions["energy_per_token_j"] = definitions["energy_j"]
    row["is_host_bound"] = _timing.is_host_bound(row["latency_s"], row["device_time_s"], row.get("kernel_time_s"))
    if plan.flops is not None:
        row["flops"] = plan.flops * sequences
        row["achieved_flops_per_s"] = row["flops"] / row["latency_s"]
        definitions["flops"] = "flop_counter"
        if not _is_shared(cell):
            rate = row["achieved_flops_per_s"]
            row |= call.session.shares(cell.dtype, flops_per_s=rate, num_devices=cell.num_ranks)
    notes = _session.joined(
        *_notes(call, cell, plan, outcomes), _machine.load_note(row["other_load_ratio"]), *first.notes
    )
    return row | {"metric_definitions": definitions, "status_detail": notes}


def _notes(call: _Call, cell: _trainer.Cell, plan: _trainer.Plan, outcomes: list[_trainer.Outcome]) -> list[str | None]:
    """Sentences for status_detail."""
    first, protocol, llm = outcomes[0], call.protocol, cell.target.llm
    counts, asked = (first.num_warmup, first.columns["num_samples"]), (protocol.num_warmup, protocol.num_steps)
    differs = cell.target.is_catalogued and llm.num_parameters not in (None, plan.num_parameters)
    return [
        f"transformers builds {plan.num_parameters} parameters, published are {llm.num_parameters}" if differs else None,
        f"{counts[0]} warm-up and {counts[1]} measured steps of {asked[0]} and {asked[1]}: the budget" if counts != asked else None,
        plan.note,
        "energy: not measured of several ranks" if protocol.has_energy and cell.num_ranks > 1 else None,
        f"{cell.num_ranks} processes of {first.num_threads} threads on one processor" if _is_shared(cell) else None,
        f"no MFU: {cell.num_ranks} ranks share one CPU" if _is_shared(cell) and plan.flops is not None else None,
        "ops are those of rank 0" if cell.num_ranks > 1 and first.ops else None,
        _communication_note(cell, outcomes),
    ]  # fmt: skip


def _is_shared(cell: _trainer.Cell) -> bool:
    """Whether several ranks share one CPU: a share of so many peaks, or of one, would be wrong."""
    return cell.num_ranks > 1 and cell.device == "cpu"


def _communication_note(cell: _trainer.Cell, outcomes: list[_trainer.Outcome]) -> str | None:
    """Why communication_s is NULL on several ranks; None where it is not."""
    if cell.num_ranks == 1 or any(_exposed_s(one) is not None for one in outcomes):
        return None
    if "zero3" in cell.optimizations:
        return "communication unknown: weights are gathered throughout"
    if outcomes[0].synchronisation_s is None:
        return "communication not measured: the budget"
    return "communication hidden, or lost in the noise"


def _exposed_s(outcome: _trainer.Outcome) -> float | None:
    """Communication of a step that nothing hides; None where it is unknown, or lost in the noise."""
    seconds = outcome.synchronisation_s
    return seconds if seconds is not None and 0 < seconds < outcome.latency_s else None


def _command(call: _Call, cell: _trainer.Cell) -> str:
    """What repeats the run. A checkpoint folder is named without its path."""
    which: list[Any] = ["--llm-id", cell.target.llm.llm_id.removesuffix(f"-{call.layers}-layers")]
    if call.checkpoint is not None:
        which = ["--checkpoint", Path(call.checkpoint).name if Path(call.checkpoint).is_dir() else call.checkpoint]
    words = ["python", "-m", "collectors", NAME, *which]
    words += [] if call.layers is None else ["--layers", call.layers]
    words += ["--phase", cell.phase, "--batch-size", cell.batch_size, "--input-tokens", cell.input_tokens]
    words += ["--dtype", cell.dtype, "--optimizer-dtype", cell.optimizer_dtype]
    words += ["--optimizations", "+".join(cell.optimizations) or "none"]
    words += ["--num-micro-batches", cell.num_micro_batches, "--ranks", cell.num_ranks]
    words += [] if cell.lora_rank is None else ["--lora-rank", cell.lora_rank]
    words += [] if cell.attention in (None, "flash") else ["--attention", cell.attention]
    words += ["--warmup-steps", call.protocol.num_warmup, "--steps", call.protocol.num_steps, "--runs", call.runs]
    words += ["--device", cell.device]
    return shlex.join(map(str, words))


def _label(cell: _trainer.Cell) -> str:
    parts = [cell.target.llm.llm_id, cell.phase, cell.dtype, "+".join(cell.optimizations) or "none"]
    parts += [f"batch {cell.batch_size}" + (f" in {cell.num_micro_batches}" if cell.num_micro_batches > 1 else "")]
    parts += [f"{cell.input_tokens} tokens"] + ([f"{cell.num_ranks} ranks"] if cell.num_ranks > 1 else [])
    return " ".join(parts)


def _check_options(grid: _Grid, warmup_steps: int, steps: int, runs: int) -> None:
    """Raises ValueError naming the option, what was given and what is known."""
    names = {name for technique in grid.techniques for name in technique}
    _session.check("phase", [one for one in grid.phases if one is not None], PHASES)
    _session.check("dtype", grid.dtypes, DTYPES)
    _session.check("optimizer_dtype", {grid.optimizer_dtype} - {None}, DTYPES)
    _session.check("attention", {grid.attention} - {None}, ("eager", "sdpa"))
    _session.check("optimization", sorted(names), ("none", *MEASURED, *UNSUPPORTED))
    counts = [*grid.batches, *grid.inputs, *grid.micro_batches, *grid.ranks, grid.lora_rank, warmup_steps, steps, runs]
    if min(counts) < 1:
        raise ValueError("Sizes, ranks, steps and runs are whole numbers from 1 on.")
