"""What is asked for: every combination of the options as a cell, what a cell's row is called, and which cannot be run."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from collectors import _session
from collectors._steps import Case
from collectors._transformers import DTYPES, Target, activation_dtype
from warehouse import catalog, schema
from warehouse.catalog.llm import Llm

PHASES = ("forward", "prefill", "decode", "generate")
EXECUTIONS = ("eager", "compiled", "graph")
CACHES = ("dynamic", "static")
ATTENTIONS = ("eager", "sdpa", "flash")
DECODER_SHARE = {"summarization": 0.25, "translation": 1.0, "question_answering": 0.0625, "generation": 0.5}
"""Task -> decoder tokens per input token, where output_tokens is not given. The lengths are ours (a summary is a quarter of its
text, a translation as long, an answer short). A forward pass, a prefill and a decode step of a decoder-only or encoder model
take the same shapes in every task."""


@dataclass(frozen=True)
class Grid:
    """What is asked for, every combination of it. `attention` None is what transformers chooses."""

    tasks: Sequence[str]
    batches: Sequence[int]
    phases: Sequence[str]
    inputs: Sequence[int]
    outputs: Sequence[int | None]
    dtypes: Sequence[str]
    attentions: Sequence[str | None]
    executions: Sequence[str]
    caches: Sequence[str]


@dataclass(frozen=True)
class Build:
    """What one model is built for."""

    dtype: str
    attention: str | None


@dataclass(frozen=True)
class Cell:
    """One row asked for. `cache` is NULL where the phase keeps no KV cache."""

    build: Build
    case: Case
    execution: str
    cache: str | None


@dataclass(frozen=True)
class Passes:
    """What is done beside timing."""

    layers: bool
    kernels: bool
    trace: bool
    energy: bool
    boundary: bool


@dataclass(frozen=True)
class Job:
    """One LLM and what is to be run on it, by index. `until` is a reading of time.monotonic; None for any time."""

    target: Target
    checkpoint: str | None
    cells: dict[int, Cell]
    passes: Passes
    cell_limit_s: float
    run_s: float
    until: float | None
    disturbances: Sequence[str]

    @property
    def llm_row(self) -> dict[str, Any] | None:
        """The `llms` row to land; None where the catalogue has it."""
        return None if self.target.is_catalogued else catalog.llm_row(self.target.llm)

    def identity(self, session: _session.Session, cell: Cell, attention: str | None) -> dict[str, Any]:
        """Identity columns of a cell's run. `attention` is what the model uses, where that is known.

        A search for the memory's boundary is a group apart: runs of single batches do not answer it.
        """
        run = session.identity(
            configuration(self.target, cell, attention),
            command=command(session.collector, self.target, cell, self.checkpoint, session.device, self.passes),
            task=cell.case.task,
            execution=cell.execution,
            cache_implementation=cell.cache,
        ) | {"model_revision": self.target.revision, "tokenizer_hash": self.target.tokenizer_hash}
        if self.passes.boundary:
            run["repeat_group_id"] = schema.digest(run["repeat_group_id"], "boundary")
        return run


def check(grid: Grid) -> None:
    """Raises ValueError naming the option, what was given and what is known."""
    _session.check("task", grid.tasks, tuple(DECODER_SHARE))
    _session.check("phase", grid.phases, PHASES)
    _session.check("dtype", grid.dtypes, DTYPES)
    _session.check("attention", [one for one in grid.attentions if one is not None], ATTENTIONS)
    _session.check("execution", grid.executions, EXECUTIONS)
    _session.check("cache", grid.caches, CACHES)
    lengths = [*grid.inputs, *(one for one in grid.outputs if one is not None)]
    if min(grid.batches) < 1 or min(lengths) < 1:
        raise ValueError("batch_size, input_tokens and output_tokens are whole numbers from 1 on.")
    if "decode" in grid.phases and min(grid.inputs) < 2:
        raise ValueError("A decode step attends to at least 2 tokens: its own and one before. Give input_tokens >= 2.")


def cells(llm: Llm, grid: Grid) -> list[Cell]:
    """Cells in running order: model by model, every shape once per task so that repeats of a shape lie apart in time, and the
    variants of a shape (executions, caches) side by side."""
    found: list[Cell] = []
    for dtype, attention in itertools.product(grid.dtypes, grid.attentions):
        for task, tokens, batch, phase, output in itertools.product(
            grid.tasks, grid.inputs, grid.batches, grid.phases, grid.outputs
        ):
            case = _case(llm, phase, task, batch, tokens, output)
            for execution, cache in _variants(llm, phase, grid):
                cell = Cell(Build(dtype, attention), case, execution, cache)
                if cell not in found:
                    found.append(cell)
    return found


def _case(llm: Llm, phase: str, task: str, batch: int, tokens: int, output: int | None) -> Case:
    decoded = max(1, round(tokens * DECODER_SHARE[task])) if output is None else output
    case = Case(phase, task, batch, tokens, None, None)
    if phase == "generate":
        return replace(case, output_tokens=decoded)
    if llm.architecture == "encoder_decoder":
        if phase == "forward":
            return replace(case, output_tokens=decoded)
        if phase == "decode":
            return replace(case, context_tokens=max(2, decoded))
    elif phase == "decode":
        return replace(case, input_tokens=None, context_tokens=tokens)
    return case


def _variants(llm: Llm, phase: str, grid: Grid) -> list[tuple[str, str | None]]:
    if phase in ("decode", "generate") and llm.architecture != "encoder":
        return list(itertools.product(grid.executions, grid.caches))
    return [(execution, "dynamic" if phase == "prefill" else None) for execution in grid.executions]


def lacking(llm: Llm, cell: Cell, device: str) -> str | None:
    """Why an LLM or a device cannot run a cell whatever its memory, in a sentence; None where nothing speaks against it."""
    case = cell.case
    if llm.architecture == "encoder" and case.phase != "forward":
        return f"an encoder has no {case.phase}"
    if cell.execution == "graph" and device != "cuda":
        return "a CUDA graph needs a CUDA device"
    lengths = [case.input_tokens, case.output_tokens, case.context_tokens]
    needed = max(one for one in lengths if one is not None)
    if case.phase == "generate" and llm.architecture == "decoder":
        needed = sum(one for one in (case.input_tokens, case.output_tokens) if one is not None) - 1
    if llm.position == "learned" and llm.max_context_tokens is not None and needed > llm.max_context_tokens:
        return f"{needed} tokens exceed its {llm.max_context_tokens} learned positions"
    return None


def configuration(target: Target, cell: Cell, attention: str | None) -> dict[str, Any]:
    """The configuration columns. Of an encoder-decoder's decode step input_tokens is what its cross-attention reads."""
    case, activations = cell.case, activation_dtype(cell.build.dtype)
    return {
        "llm_id": target.llm.llm_id,
        "phase": case.phase,
        "batch_size": case.batch_size,
        "input_tokens": case.input_tokens,
        "output_tokens": case.output_tokens,
        "context_tokens": case.context_tokens,
        "weight_dtype": cell.build.dtype,
        "activation_dtype": activations,
        "kv_dtype": activations,
        "attention": attention,
    }


def command(name: str, target: Target, cell: Cell, checkpoint: str | None, device: str, passes: Passes) -> str:
    """What repeats the run. A checkpoint folder is named without its path."""
    which = ["--llm-id", target.llm.llm_id]
    if checkpoint is not None:
        which = ["--checkpoint", Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint]
    case = cell.case
    tokens = case.input_tokens if case.input_tokens is not None else case.context_tokens
    decoded = case.output_tokens if case.output_tokens is not None else case.context_tokens
    words: list[Any] = ["python", "-m", "collectors", name, *which, "--phase", case.phase, "--task", case.task,
                        *(["--boundary"] if passes.boundary else ["--batch-size", case.batch_size]),
                        "--input-tokens", tokens]  # fmt: skip
    if decoded is not None and (case.phase == "generate" or target.llm.architecture == "encoder_decoder"):
        words += ["--output-tokens", decoded]
    words += ["--dtype", cell.build.dtype, "--device", device]
    if cell.build.attention is not None:
        words += ["--attention", cell.build.attention]
    if cell.execution != "eager":
        words += ["--execution", cell.execution]
    if cell.cache == "static":
        words += ["--cache", cell.cache]
    return shlex.join(map(str, words))


def label(llm_id: str, cell: Cell) -> str:
    """A cell in a line of progress."""
    case = cell.case
    shape = ", ".join(
        f"{value} {name.removesuffix('_tokens')}"
        for name in ("input_tokens", "output_tokens", "context_tokens")
        if (value := getattr(case, name)) is not None
    )
    variant = [cell.build.dtype] if cell.build.dtype != "fp32" else []
    variant += [one for one in (cell.execution, cell.cache) if one not in ("eager", "dynamic", None)]
    return " ".join([llm_id, case.phase, case.task, *variant, f"batch {case.batch_size}, {shape}"])
