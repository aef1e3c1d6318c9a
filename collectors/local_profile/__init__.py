"""LLMs on the machine at hand: latency with raw samples, memory, energy, FLOPs, times by module and by kernel; CUDA, else CPU.

Architectures of the catalogue run with random weights, which changes no speed; `--checkpoint` runs a local checkpoint folder
or a hub id. Every LLM runs in a process of its own. Each run lands by itself as soon as it ends, so a kill loses at most the
one in progress; what is not run lands too, with a status and a sentence: out of memory, longer than the limit of a cell, not
supported. What landed before is not measured again: a timeout only with a higher limit, and what was only reckoned not to fit
is reckoned again.

On a machine shared with other processes start it with OMP_WAIT_POLICY=passive (kept with the environment): waiting threads then
sleep instead of spinning on a core that somebody else needs. A decode step of gpt2 in fp32, two threads on two cores, took 66 ms
so and 693 ms otherwise beside two busy processes; 37 ms and 34 ms alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from collectors import Collected, Report, _machine, _session, silent

NAME = "local_profile"
SOURCE_ID = "rooflake/local_profile"
SOURCE = {
    "source_id": SOURCE_ID,
    "title": "Local profile: LLMs timed on the machine at hand",
    "kind": "machine",
    "locator": "collectors/local_profile",
    "note": "Synthetic token ids without padding, random weights unless a checkpoint is named; warm-up, then repeats until the "
    "95 % interval of the median is below 1 % or the time is over; modules, kernels and energy from passes of their own.",
}
LLM_IDS = ("opt-350m", "bloom-560m", "t5-small", "bart-base")
DEFAULT_PHASES = ("forward", "prefill", "decode")
DEFAULT_RUN_S = 1.0
"""Time for the repeats of one run where no budget is set."""
CELL_LIMIT_S = 600.0


def add_arguments(parser: Any) -> None:
    """Command-line options of `collect`."""
    add = parser.add_argument
    add("--llm-id", nargs="+", help=f"catalogue ids; default: {' '.join(LLM_IDS)}")
    add("--checkpoint", help="a local checkpoint folder or a hub id, instead of catalogue ids")
    add("--task", nargs="+", default=["generation"],
        help="of summarization translation question_answering generation; default: generation")  # fmt: skip
    add("--batch-size", nargs="+", type=int, default=[1], help="sequences at once; default: 1")
    add("--phase", nargs="+", default=list(DEFAULT_PHASES),
        help="of forward prefill decode generate; default: all but generate")  # fmt: skip
    add("--input-tokens", nargs="+", type=int, default=[512], help="prompt, encoder or context tokens; default: 512")
    add("--output-tokens", nargs="+", type=int,
        help="tokens to generate, or of an encoder-decoder's decoder; default: by task")  # fmt: skip
    add("--dtype", nargs="+", default=["fp32"], help="of fp32 bf16 fp16 int8 (weights alone); default: fp32")
    add("--attention", nargs="+", help="of eager sdpa flash; default: what transformers chooses")
    add("--execution", nargs="+", default=["eager"], help="of eager compiled graph (CUDA); default: eager")
    add("--cache", nargs="+", default=["dynamic"],
        help="how decode and generate keep their KV cache, of dynamic static; default: dynamic")  # fmt: skip
    add("--device", default="auto", help="auto, cpu or cuda; default: auto")
    add("--no-layers", dest="layers", action="store_false", help="no pass with hooks on every module")
    add("--kernels", action="store_true", help="a pass under torch.profiler: times by kernel")
    add("--trace", action="store_true", help="keep the profiler's trace; with --kernels")
    add("--energy", action="store_true", help="repeat each run for 5 seconds more and read its energy")
    add("--boundary", action="store_true",
        help="find the largest batch that fits, instead of running --batch-size")  # fmt: skip
    add("--cell-limit-s", type=float, default=CELL_LIMIT_S,
        help=f"seconds after which a run is ended; default: {CELL_LIMIT_S:g}")  # fmt: skip
    add("--budget-s", type=float, help="seconds for everything; what would not fit is left out and said")


def collect(
    landing: Path,
    *,
    report: Report = silent,
    llm_id: str | Sequence[str] | None = None,
    task: str | Sequence[str] = "generation",
    batch_size: int | Sequence[int] = 1,
    phase: str | Sequence[str] = DEFAULT_PHASES,
    input_tokens: int | Sequence[int] = 512,
    output_tokens: int | Sequence[int] | None = None,
    dtype: str | Sequence[str] = "fp32",
    attention: str | Sequence[str] | None = None,
    execution: str | Sequence[str] = "eager",
    cache: str | Sequence[str] = "dynamic",
    device: str = "auto",
    layers: bool = True,
    kernels: bool = False,
    trace: bool = False,
    energy: bool = False,
    boundary: bool = False,
    cell_limit_s: float = CELL_LIMIT_S,
    budget_s: float | None = None,
    checkpoint: str | None = None,
    skip: Collection[str] | Mapping[str, float] = frozenset(),
    hardware_row: dict[str, Any] | None = None,
    ceiling_row: dict[str, Any] | None = None,
) -> Collected:
    """Measure every combination of LLM, task, batch size, phase, lengths, dtype, attention, execution and cache.

    Each is a row, landed by itself: what fails, exceeds `cell_limit_s`, does not fit or is not supported has that status and
    says why. What `skip` (repeat_group_ids) or the landing folder holds is not measured again. Only a budget leaves
    combinations out, which is reported; it starts when the device is free and is shared evenly by what is left to run.
    `boundary` looks for the largest batch instead: a row of it (`max_batch_size`) and one, status oom, of the next.
    `hardware_row` and `ceiling_row`: see `_session.open_session`. Raises LookupError for an unknown LLM, ValueError for an
    unknown option, OSError where nothing can be landed.
    """
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401
    from collectors import _transformers as engine
    from collectors.local_profile import _cells, _profile

    if checkpoint is not None and llm_id is not None:
        raise ValueError("Give either llm_id or checkpoint, not both.")
    grid = _cells.Grid(
        tasks=_session.several(task), batches=[1] if boundary else _session.several(batch_size),
        phases=_session.several(phase), inputs=_session.several(input_tokens),
        outputs=[None] if output_tokens is None else _session.several(output_tokens), dtypes=_session.several(dtype),
        attentions=[None] if attention is None else _session.several(attention),
        executions=_session.several(execution), caches=_session.several(cache),
    )  # fmt: skip
    _cells.check(grid)
    _session.check_seconds("cell_limit_s", cell_limit_s)
    _session.check_seconds("budget_s", budget_s)
    targets = (
        [engine.from_checkpoint(checkpoint)]
        if checkpoint is not None
        else [engine.catalogued(name) for name in _session.several(LLM_IDS if llm_id is None else llm_id)]
    )
    passes = _cells.Passes(layers=layers, kernels=kernels or trace, trace=trace, energy=energy, boundary=boundary)
    with _session.open_session(
        NAME, SOURCE, landing, device=device, report=report,
        hardware_row=hardware_row, ceiling_row=ceiling_row, skip=skip,
    ) as session:  # fmt: skip
        began = time.monotonic()
        disturbances = _machine.isolation(session.device) if session.device == "cuda" else []
        for index, target in enumerate(targets):
            until = None
            if budget_s is not None:
                now = time.monotonic()
                until = now + max(0.0, began + budget_s - now) / (len(targets) - index)
            job = _cells.Job(
                target=target, checkpoint=checkpoint, cells=dict(enumerate(_cells.cells(target.llm, grid))),
                passes=passes, cell_limit_s=cell_limit_s, run_s=DEFAULT_RUN_S, until=until, disturbances=disturbances,
            )  # fmt: skip
            _profile.Profile(session, job).run()
        report(f"{session.num_runs} runs in {time.monotonic() - began:.0f} s, {session.num_failed} of them failures.")
    return session.collected()
