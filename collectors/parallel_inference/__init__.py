"""One LLM on several devices of one node: tensor parallel against a naive layer split, on 1, 2, 4 ... ranks.

`tensor` cuts every matrix by the plan that transformers gives the model; `layers` gives each rank a run of layers, and a batch
passes one rank after another (pattabhiraman-asu compares the two). One rank is the plain model: the scaling efficiency
T_n / (n T_1) comes from the rows of one call. Architectures run with random weights, which changes no speed.

Every rank is a process. A latency is that of the slowest rank, from a common start. What a rank spends inside communication is
timed in a pass of its own. A cell that does not fit, fails, dies or takes too long is a row, and the next one starts.
"""

from __future__ import annotations

import datetime
import itertools
import math
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from collectors import Collected, Report, _machine, _memory, _session, _timing, _workers, silent
from warehouse import catalog, schema

if TYPE_CHECKING:
    from collectors._transformers import Target
    from collectors.parallel_inference import _ranks

NAME = "parallel_inference"
LLM_ID = "llama-3.2-1b"
SOURCE = {
    "source_id": "rooflake/parallel_inference",
    "title": "Parallel inference: LLMs cut over the devices of one node",
    "kind": "machine",
    "locator": "collectors/parallel_inference",
    "note": "Synthetic token ids without padding, random weights; latency of the slowest rank from a common start; "
    "communication timed in a pass of its own.",
}
STRATEGIES = ("tensor", "layers")
PHASES = ("prefill", "decode", "generate")
DEFAULT_RUN_S = 2.0
"""Time for the repeats of one cell where no budget is set."""


@dataclass(frozen=True)
class _Options:
    """What is asked for of every cell."""

    target: Target
    llm_id: str
    layers: int | None
    """What was asked for: an LLM of the catalogue, whole or its first layers."""
    dtype: str
    attention: str
    threads: int
    deadline: float | None
    limit_s: float | None


@dataclass(frozen=True)
class _Planned:
    """A cell, how it is cut, and the run it will be."""

    strategy: str
    num_ranks: int
    cell: _ranks.Cell
    run: dict[str, Any]
    form: dict[str, Any]
    """The closed form of the same configuration."""


def add_arguments(parser: Any) -> None:
    """Command-line options of `collect`."""
    parser.add_argument("--llm-id", nargs="+", default=[LLM_ID], help=f"catalogue ids; default: {LLM_ID}")
    parser.add_argument("--layers", type=int, help="only the first layers of each, as an LLM of its own; default: all")
    parser.add_argument("--strategy", nargs="+", default=list(STRATEGIES), help="of tensor layers; default: both")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2], help="devices (processes); default: 1 2")
    parser.add_argument("--phase", nargs="+", default=list(PHASES), help="of prefill decode generate; default: all")
    parser.add_argument("--batch-size", nargs="+", type=int, default=[4], help="sequences at once; default: 4")
    parser.add_argument("--input-tokens", nargs="+", type=int, default=[512], help="prompt or context; default: 512")
    parser.add_argument("--output-tokens", type=int, default=32, help="tokens that generate gives; default: 32")
    parser.add_argument(
        "--num-micro-batches", type=int, help="parts of a batch that a layer split passes on; default: 1"
    )
    parser.add_argument("--dtype", nargs="+", default=["fp32"], help="of fp32 bf16 fp16; default: fp32")
    parser.add_argument("--attention", nargs="+", default=["sdpa"], help="of eager sdpa flash; default: sdpa")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; default: auto")
    parser.add_argument(
        "--budget-s", type=float, help="seconds for everything; what would not fit is left out and said"
    )
    parser.add_argument("--cell-limit-s", type=float, default=300.0, help="seconds a cell may take; default: 300")


def collect(
    landing: Path,
    *,
    report: Report = silent,
    llm_id: str | Sequence[str] = LLM_ID,
    layers: int | None = None,
    strategy: str | Sequence[str] = STRATEGIES,
    ranks: int | Sequence[int] = (1, 2),
    phase: str | Sequence[str] = PHASES,
    batch_size: int | Sequence[int] = 4,
    input_tokens: int | Sequence[int] = 512,
    output_tokens: int = 32,
    num_micro_batches: int | None = None,
    dtype: str | Sequence[str] = "fp32",
    attention: str | Sequence[str] = "sdpa",
    device: str = "auto",
    budget_s: float | None = None,
    cell_limit_s: float | None = 300.0,
    hardware_row: dict[str, Any] | None = None,
    ceiling_row: dict[str, Any] | None = None,
    skip: Collection[str] = frozenset(),
) -> Collected:
    """Measure every combination of LLM, dtype, attention, strategy, ranks, phase, batch size and input tokens; one landed batch a
    run.

    `layers` cuts each LLM to its first ones. The budget starts when the device is free. A cell that the closed form says cannot
    fit is a row with status `oom` and is not tried. Raises LookupError for an unknown LLM, ValueError for an unknown option.
    """
    grid = {
        "strategy": _session.several(strategy), "ranks": _session.several(ranks), "phase": _session.several(phase),
        "batch_size": _session.several(batch_size), "input_tokens": _session.several(input_tokens),
        "dtype": _session.several(dtype), "attention": _session.several(attention),
    }  # fmt: skip
    _check(grid, output_tokens, num_micro_batches)
    _session.check_seconds("budget_s", budget_s)
    _session.check_seconds("cell_limit_s", cell_limit_s)
    targets = {name: _target(name, layers) for name in _session.several(llm_id)}
    with _session.open_session(
        NAME, SOURCE, landing, device=device, report=report,
        hardware_row=hardware_row, ceiling_row=ceiling_row, skip=skip,
    ) as session:  # fmt: skip
        began = time.monotonic()
        threads = _machine.num_threads() or _machine.usable_cores()
        deadline = None if budget_s is None else began + budget_s
        planned = [
            (options, one)
            for name, kind, how in itertools.product(targets, grid["dtype"], grid["attention"])
            for options in [_Options(targets[name], name, layers, kind, how, threads, deadline, cell_limit_s)]
            for one in _planned(session, options, grid, output_tokens, num_micro_batches)
        ]
        limit_s = math.inf if cell_limit_s is None else cell_limit_s
        todo = [pair for pair in planned if not session.is_known(pair[1].run, limit_s)]
        if len(todo) < len(planned):
            report(f"{len(planned) - len(todo)} of {len(planned)} are measured already.")
        jobs = [
            list(group)
            for _, group in itertools.groupby(todo, lambda pair: (pair[0], pair[1].strategy, pair[1].num_ranks))
        ]
        for index, job in enumerate(jobs):
            _run_job(session, job[0][0], [one for _, one in job], len(jobs) - index)
        report(f"{session.num_runs} runs in {time.monotonic() - began:.0f} s, {session.num_failed} of them failures.")
        return session.collected()


# ---- what to run


def _target(llm_id: str, layers: int | None) -> Target:
    from collectors import _transformers

    target = _transformers.catalogued(llm_id)
    if target.llm.architecture != "decoder":
        raise ValueError(f"'{llm_id}' is an {target.llm.architecture.replace('_', '-')}; only decoders are cut here.")
    return target if layers is None else _transformers.cut(target, layers)


def _planned(
    session: _session.Session,
    options: _Options,
    grid: Mapping[str, Sequence[Any]],
    output_tokens: int,
    num_micro_batches: int | None,
) -> list[_Planned]:
    """Cells in running order, each once: one rank is the same under both strategies."""
    from collectors._steps import Case
    from collectors.parallel_inference import _ranks

    found: dict[str, _Planned] = {}
    for count, strategy in itertools.product(grid["ranks"], grid["strategy"]):
        for tokens, batch, phase in itertools.product(grid["input_tokens"], grid["batch_size"], grid["phase"]):
            is_decode = phase == "decode"
            case = Case(
                phase, "generation", batch, None if is_decode else tokens,
                output_tokens if phase == "generate" else None, tokens if is_decode else None,
            )  # fmt: skip
            parts = num_micro_batches if strategy == "layers" and count > 1 else None
            cell = _ranks.Cell(case, None if parts == 1 else parts)
            run = session.identity(
                _configuration(options, strategy, count, cell),
                command=_command(session, options, strategy, count, cell),
                task=case.task,
                cache_implementation="dynamic",
            )
            planned = _Planned(strategy, count, cell, run, session.closed_form(run, options.target.llm))
            found.setdefault(run["repeat_group_id"], planned)
    return list(found.values())


def _configuration(options: _Options, strategy: str, num_ranks: int, cell: _ranks.Cell) -> dict[str, Any]:
    case = cell.case
    return {
        "llm_id": options.target.llm.llm_id,
        "num_devices": num_ranks,
        "tensor_parallel": num_ranks if strategy == "tensor" else 1,
        "pipeline_parallel": num_ranks if strategy == "layers" else 1,
        "num_micro_batches": cell.num_micro_batches,
        "phase": case.phase,
        "batch_size": case.batch_size,
        "input_tokens": case.input_tokens,
        "output_tokens": case.output_tokens,
        "context_tokens": case.context_tokens,
        "weight_dtype": options.dtype,
        "activation_dtype": options.dtype,
        "kv_dtype": options.dtype,
        "attention": options.attention,
    }


# ---- running


def _run_job(session: _session.Session, options: _Options, cells: list[_Planned], num_jobs: int) -> None:
    """Cells that share a model cut in one way. After a failure the rest go on in new processes."""
    from collectors.parallel_inference import _ranks

    strategy, count = cells[0].strategy, cells[0].num_ranks
    label = f"{options.target.llm.llm_id} on {count} rank{'s' * (count > 1)}{f' by {strategy}' * (count > 1)}"
    waiting = dict(enumerate(_possible(session, options, cells)))
    while waiting:
        left = None if options.deadline is None else options.deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        job = _ranks.Job(
            target=options.target, strategy=strategy, dtype=options.dtype, attention=options.attention,
            device=session.device, threads=max(1, options.threads // count),
            cells={number: one.cell for number, one in waiting.items()},
            repeats_s=DEFAULT_RUN_S if left is None else 0.4 * left / num_jobs / len(waiting),
            limit_s=options.limit_s, until=options.deadline,
        )  # fmt: skip
        results = _Results(session, options, waiting)
        try:
            _workers.run(
                _ranks.work, (job,), num_ranks=count, backend="nccl" if session.device == "cuda" else "gloo",
                on_message=results.take,
            )  # fmt: skip
            break
        except _workers.WorkerError as error:
            for number in _failed(error.at, waiting):
                _land_failure(session, options, waiting.pop(number), _session.failure(error))
    if waiting:
        session.report(f"{label}: the budget is spent; {len(waiting)} of {len(cells)} left out.")


def _possible(session: _session.Session, options: _Options, cells: list[_Planned]) -> list[_Planned]:
    """The cells that are worth a try; of the others a row is landed, or what keeps them is said."""
    import torch

    possible = []
    for one in cells:
        count, needed = one.num_ranks, one.form["memory_peak_bytes"]
        if session.device == "cuda":
            room, free, devices = session.hardware["memory_bytes"], None, torch.cuda.device_count()
        else:
            room, free, devices = _machine.main_memory_bytes(), _machine.available_memory_bytes(), count
            needed = None if needed is None else needed * count  # the ranks share main memory
        if count > devices:
            detail = f"{count} ranks need as many devices, and there are {devices}."
            _land_failure(session, options, one, {"status": "unsupported", "status_detail": detail})
        elif needed is not None and room is not None and needed > room:
            detail = f"does not fit by the closed form: needs {_memory.gib(needed)}, there are {_memory.gib(room)}; not tried."
            _land_failure(session, options, one, {"status": "oom", "status_detail": detail, "is_fitting": False})
        elif needed is not None and free is not None and needed > _memory.FREE_SHARE * free:
            session.report(f"{_label(one)}: needs {_memory.gib(needed)} and {_memory.gib(free)} are free. Left out.")
        else:
            possible.append(one)
    return possible


def _failed(at: Any, waiting: Mapping[int, _Planned]) -> list[int]:
    """Cells that a failure at some point costs: all before the model was built, else the one begun (or about to be)."""
    from collectors.parallel_inference import _ranks

    if at in (None, _ranks.BUILDING):
        return list(waiting)
    return [at] if at in waiting else list(waiting)[:1]


class _Results:
    """Takes what the ranks send, and lands a cell as soon as all have."""

    def __init__(self, session: _session.Session, options: _Options, waiting: dict[int, _Planned]) -> None:
        self._session, self._options, self._waiting = session, options, waiting
        self._by_rank: dict[int, dict[int, _ranks.Measured]] = {}

    def take(self, rank: int, message: tuple[int, _ranks.Measured]) -> None:
        number, measured = message
        cell = self._by_rank.setdefault(number, {})
        cell[rank] = measured
        planned = self._waiting[number]
        if len(cell) == planned.num_ranks:
            _land_measured(self._session, self._options, planned, [cell[one] for one in range(planned.num_ranks)])
            del self._waiting[number]


# ---- rows


def _land_measured(
    session: _session.Session, options: _Options, planned: _Planned, by_rank: list[_ranks.Measured]
) -> None:
    run, case, first = dict(planned.run), planned.cell.case, by_rank[0]
    timing, warm = _together(by_rank), first.phases.count("warmup")
    around = first.surroundings
    throttled, seen = (frozenset(), {}) if around is None else (around.throttled, around.columns)
    samples = timing.rows(run["run_id"], lambda began, _: began in throttled)
    run |= timing.columns()
    latency = float(run["latency_s"])
    definitions = {
        "latency_s": "wall_clock", "communication_s": "timed_links",
        "memory_peak_bytes": "torch_max_allocated" if session.device == "cuda" else "rss_peak_delta",
    }  # fmt: skip
    if first.first_token_s is not None:
        samples += _timing.sample_rows(run["run_id"], "ttft_s", first.phases, first.first_token_s)
        run |= _timing.summary("ttft_s", first.first_token_s[warm:])
        definitions["ttft_s"] = "first_token_of_generate"
        run["e2el_s"] = latency
        definitions["e2el_s"] = "wall_clock"
        if case.output_tokens is not None and case.output_tokens > 1:
            run["tpot_s"] = (latency - run["ttft_s"]) / (case.output_tokens - 1)
            definitions["tpot_s"] = "e2el_minus_ttft_over_n_minus_1"
    if "power_avg_w" in seen:
        definitions["power_avg_w"] = "telemetry_mean"
    rates = {name: tokens / latency for name, tokens in _tokens(case).items()}
    work, unrated = _utilisation(session, options, planned, latency)
    busy = first.load.other_ratio([one.load for one in by_rank[1:]])
    run |= {
        "status": "ok",
        "quality_tier": timing.quality_tier,
        "num_samples": len(timing.measured),
        "weights_bytes": max(one.weights_bytes for one in by_rank),
        **seen,
        **{name: _most(by_rank, name) for name in by_rank[0].memory},
        "duration_s": sum(one.wall_s for one in timing.measured),
        "communication_s": max(one.communication_s for one in by_rank),
        **rates,
        **work,
        "other_load_ratio": busy,
        "hooks_overhead_ratio": max(one.linked_s for one in by_rank) / latency,
        "metric_definitions": definitions | dict.fromkeys(rates, "tokens_over_duration")
        | dict.fromkeys((name for name in ("flops", "bytes_moved") if name in work), "model_closed_form"),
        "status_detail": _session.joined(
            unrated,
            None if session.device == "cuda" else _threads_note(options, planned.num_ranks),
            timing.note,
            None if around is None else around.note,
            _machine.load_note(busy),
        ),
    }  # fmt: skip
    telemetry = [] if around is None else [row | {"run_id": run["run_id"]} for row in around.rows]
    ranks = _rank_rows(session, run["run_id"], by_rank, warm)
    _land(session, options, run, ranks=ranks, samples=samples, telemetry=telemetry)


def _together(by_rank: list[_ranks.Measured]) -> _timing.Timing:
    """Executions of all ranks as one: wall clock of the slowest, processor time of all."""
    from collectors.parallel_inference import _ranks

    first = by_rank[0]
    used = [sum(own) for own in zip(*(one.own_cpu_s for one in by_rank), strict=True)]
    executions = zip(first.phases, first.began_s, first.slowest_s, used, strict=True)
    return _timing.Timing(
        tuple(_timing.Sample(phase, began, wall, cpu, None) for phase, began, wall, cpu in executions),
        _ranks.PRECISION,
    )


def _rank_rows(
    session: _session.Session, run_id: str, by_rank: list[_ranks.Measured], warm: int
) -> list[dict[str, Any]]:
    """Rows of `ranks`. Seconds of communication are those of the pass that times it, computation the rest of that pass."""
    return [
        {
            "run_id": run_id,
            "rank": rank,
            "device_index": rank if session.device == "cuda" else None,
            "num_layers": one.num_layers,
            "latency_s": float(np.mean(one.own_s[warm:])),
            "compute_s": max(0.0, one.linked_s - one.communication_s),
            "communication_s": one.communication_s,
            "weights_bytes": one.weights_bytes,
            **one.memory,
        }
        for rank, one in enumerate(by_rank)
    ]


def _tokens(case: Any) -> dict[str, int]:
    """Metric of tokens per second -> tokens of one execution, of all sequences."""
    if case.phase == "decode":
        return {"output_tokens_per_s": case.batch_size, "total_tokens_per_s": case.batch_size}
    if case.phase == "prefill":
        return {"total_tokens_per_s": case.batch_size * case.input_tokens}
    return {
        "output_tokens_per_s": case.batch_size * case.output_tokens,
        "total_tokens_per_s": case.batch_size * (case.input_tokens + case.output_tokens),
    }


def _utilisation(
    session: _session.Session, options: _Options, planned: _Planned, latency: float
) -> tuple[dict[str, Any], str | None]:
    """FLOPs and bytes of the plain model by the closed form, achieved rates, and shares of all devices' peaks.

    Ranks on a CPU share one device: a share of so many peaks would be wrong, and is NULL with the reason.
    """
    alone = planned.run | dict.fromkeys(schema.ONE_BY_DEFAULT, 1) | {"num_micro_batches": None}
    plain = session.closed_form(alone, options.target.llm)
    if plain["flops"] is None or plain["bytes_moved"] is None:
        return {}, plain["status_detail"]
    work = {
        "flops": plain["flops"],
        "bytes_moved": plain["bytes_moved"],
        "achieved_flops_per_s": plain["flops"] / latency,
        "achieved_bytes_per_s": plain["bytes_moved"] / latency,
    }
    if session.device == "cpu" and planned.num_ranks > 1:
        return work, f"no MFU and MBU: {planned.num_ranks} ranks share one CPU"
    read = plain["weight_bytes_read"] + plain["kv_bytes_read"]
    shares = session.shares(
        options.dtype,
        flops_per_s=work["achieved_flops_per_s"],
        bytes_per_s=read / latency if planned.cell.case.phase == "decode" else None,
        num_devices=planned.num_ranks,
    )
    return work | shares, None


def _most(by_rank: list[_ranks.Measured], name: str) -> float | None:
    known = [one.memory[name] for one in by_rank]
    return None if any(value is None for value in known) else max(value for value in known if value is not None)


def _threads_note(options: _Options, num_ranks: int) -> str:
    threads = max(1, options.threads // num_ranks)
    return f"{num_ranks} process{'es' * (num_ranks > 1)} of {threads} thread{'s' * (threads > 1)} on one CPU"


def _land_failure(session: _session.Session, options: _Options, planned: _Planned, status: dict[str, Any]) -> None:
    limit = {"duration_s": options.limit_s} if status["status"] == "timeout" else {}
    _land(session, options, planned.run | status | limit)


def _land(
    session: _session.Session, options: _Options, run: dict[str, Any], **tables: Sequence[Mapping[str, Any]]
) -> None:
    target = options.target
    run = run | {"collected_at": datetime.datetime.now(datetime.UTC)}
    session.land(run, llm=None if target.is_catalogued else catalog.llm_row(target.llm), **tables)
    outcome = (
        f"{run['latency_s'] * 1e3:.1f} ms, {run.get('output_tokens_per_s', run['total_tokens_per_s']):.1f} tokens/s"
        if run["status"] == "ok"
        else f"{run['status']}: {run['status_detail']}"
    )
    session.report(f"{_label_of(run)}: {outcome}")


# ---- small things


def _label(planned: _Planned) -> str:
    return _label_of(planned.run)


def _label_of(run: Mapping[str, Any]) -> str:
    how = "plain" if run["num_devices"] == 1 else "tensor" if run["tensor_parallel"] > 1 else "layers"
    tokens = run["context_tokens"] if run["phase"] == "decode" else run["input_tokens"]
    return f"{run['llm_id']} {run['phase']} batch {run['batch_size']} at {tokens} tokens, {run['num_devices']} {how}"


def _command(session: _session.Session, options: _Options, strategy: str, num_ranks: int, cell: _ranks.Cell) -> str:
    """What repeats the run."""
    case = cell.case
    words = ["python", "-m", "collectors", NAME, "--llm-id", options.llm_id,
             *(() if options.layers is None else ("--layers", options.layers)), "--strategy", strategy, "--ranks", num_ranks,
             "--phase", case.phase, "--batch-size", case.batch_size,
             "--input-tokens", case.context_tokens if case.phase == "decode" else case.input_tokens]  # fmt: skip
    if case.output_tokens is not None:
        words += ["--output-tokens", case.output_tokens]
    if cell.num_micro_batches is not None:
        words += ["--num-micro-batches", cell.num_micro_batches]
    words += ["--dtype", options.dtype, "--attention", options.attention, "--device", session.device]
    return shlex.join(map(str, words))


def _check(grid: Mapping[str, Sequence[Any]], output_tokens: int, num_micro_batches: int | None) -> None:
    """Raises ValueError naming the option, what was given and what is known."""
    _session.check("strategy", grid["strategy"], STRATEGIES)
    _session.check("phase", grid["phase"], PHASES)
    _session.check("dtype", grid["dtype"], ("fp32", "bf16", "fp16"))
    _session.check("attention", grid["attention"], ("eager", "sdpa", "flash"))
    parts = 1 if num_micro_batches is None else num_micro_batches
    if min(*grid["ranks"], *grid["batch_size"], *grid["input_tokens"], output_tokens, parts) < 1:
        raise ValueError(
            "ranks, batch_size, input_tokens, output_tokens and num_micro_batches are whole numbers from 1 on."
        )
    if "decode" in grid["phase"] and min(grid["input_tokens"]) < 2:
        raise ValueError("A decode step attends to at least 2 tokens: its own and one before. Give input_tokens >= 2.")
    if num_micro_batches is not None and num_micro_batches > 1:
        if "generate" in grid["phase"]:
            raise ValueError("generate passes a batch on whole. Give num_micro_batches with prefill and decode only.")
        if any(batch % num_micro_batches for batch in grid["batch_size"]):
            raise ValueError(f"num_micro_batches must divide batch_size, and {num_micro_batches} does not.")
