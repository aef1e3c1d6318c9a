"""Whole runs: LLM-Inference-Bench, sets as small as those of bhavana-iitbbs, optimum-benchmark on an A100, training steps; and modules."""

from __future__ import annotations

import itertools
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.predictors.board import Board, Goal, Report, tidy_rows
from benchmarks.predictors.memory import named
from models import analytical
from models.learned import contenders, evaluate, splits, tidy
from models.learned.inputs import Index, Inputs, number
from models.learned.subjects import devices, find
from models.learned.targets import Target
from warehouse.store import Store

BENCH = {"source": "llm-inference-bench"}
HF = {"source": "optimum-benchmark"}
OWN = {"source": "rooflake/local_profile", "phases": ["forward"]}
TOTALS = (
    "flops", "bytes_moved", "weight_bytes_read", "activation_bytes_read", "activation_bytes_written", "kv_bytes_read",
    "kv_bytes_written", "roofline_s", "estimate_s", "compute_s", "memory_s", "communication_s", "weights_bytes",
)  # fmt: skip


def forwards(rows: pa.Table) -> pa.Table:
    """Forward passes whose LLM the catalogue knows by one of its names, with the analytical row of the dtype that the name states.

    Files with a pass faster than the datasheet's peaks allow are left out whole: the length they state cannot be what was run (one of
    LLaMA 2 7B at 512 tokens on a torch of 2.0.1 computes at 339 of 312 TFLOP/s).
    """
    rows = named(rows.filter(pc.equal(rows.column("phase"), "forward")))
    totals, _ = analytical.evaluate(rows.drop_columns([*TOTALS, "memory_peak_bytes"]), with_ops=False)
    for name in TOTALS:
        rows = rows.set_column(rows.column_names.index(name), name, totals.column(name).cast(pa.float64()))
    for name in ("has_llm", "has_twin"):
        rows = rows.set_column(rows.column_names.index(name), name, pa.array([True] * rows.num_rows))
    is_faster = pc.less(rows.column("measured_latency_s"), rows.column("roofline_s"))
    faulty = pc.unique(rows.filter(is_faster).column("source_id"))
    return rows.filter(pc.invert(pc.is_in(rows.column("source_id"), faulty)))


def beyond(quantity: str) -> Callable[[Board, Store, Report], list[dict[str, Any]]]:
    """A board that learns from rows up to a size of one quantity, `Board.size_limit`, and is scored on larger ones."""

    def run(board: Board, store: Store, report: Report) -> list[dict[str, Any]]:
        target = find(board.target)

        def inputs(rows: pa.Table) -> Inputs:
            found = target.inputs(rows)
            order = np.argsort([name != quantity for name in found.range_names], kind="stable")
            names = tuple(found.range_names[place] for place in order)
            return replace(found, ranges=found.ranges[:, order], range_names=names)

        return evaluate.evaluate(
            replace(target, inputs=inputs), tidy_rows(board, store, report), [splits.BEYOND],
            contenders=contenders.all_of, size_limit=board.size_limit, report=report,
        ).scores()  # fmt: skip

    return run


# ---- sets of the size of the grid of bhavana-iitbbs

NUM_LLMS = NUM_LENGTHS = NUM_BATCHES = 4
LEAST_ROWS = 48
NUM_DRAWS = 2


def small_sets(board: Board, store: Store, report: Report) -> list[dict[str, Any]]:
    """Leave-one-LLM-out inside sets of 4 LLMs, 4 lengths and 4 batches of one device, framework and number of devices.

    Two sets are drawn of every slice that holds one of LEAST_ROWS cells. llama.cpp was given one sequence and four sizes of a prompt's
    parts, which the lake does not tell apart: its four measurements of a question take the place of batches. Of every contender:
    the scores of each slice, and `all`, the medians over the sets; `slices_won` are those in which its mean error is below the forest's.
    """
    target = find(board.target)
    rows, repeats = _untidied(target, board, store)
    actual = number(rows, target.column)
    by_name: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for slice_name, index in _drawn(rows, repeats):
        part = rows.take(pa.array(index))
        for contender, value in _left_out(target, part, actual[index]).items():
            nothing = np.full(len(index), np.nan)
            by_name[contender].append((slice_name, evaluate.score(actual[index], value, nothing, nothing)))
    errors = {name: _by_slice(several) for name, several in by_name.items()}
    forest = errors[contenders.Forest.name]
    report(f"{board.key}: {len(forest)} slices, {len(next(iter(by_name.values())))} sets")
    found = []
    for name, several in by_name.items():
        medians = {
            score: float(np.median([one[score] for _, one in several])) for score in ("mdape", "mape", "p90_ape", "bias", "r2", "r2_log")
        }  # fmt: skip
        counts = {
            "num_rows": sum(one["num_rows"] for _, one in several),
            "num_refused": sum(one["num_refused"] for _, one in several),
            "slices": len(forest),
            "slices_won": sum(error < forest[one] for one, error in errors[name].items()),
            "share_won": float(np.mean([error < forest[one] for one, error in errors[name].items()])),
        }
        found.append({"contender": name, "split": board.split, "fold": evaluate.ALL} | medians | counts)
        found += [
            {"contender": name, "split": board.split, "fold": one, "mape": error} for one, error in errors[name].items()
        ]
    return found


def _untidied(target: Target, board: Board, store: Store) -> tuple[pa.Table, list[int]]:
    """Complete rows no faster than physics, and of each the number of rows before it that ask the same question."""
    rows = store.query(target.query, **(dict(target.parameters) | board.parameters))
    rows = devices.with_devices(rows, store.sql("SELECT * EXCLUDE (file_hash) FROM hardware").to_pylist())
    inputs, actual = target.inputs(rows), number(rows, target.column)
    is_kept = inputs.is_complete & (actual > 0) & (actual * tidy.FASTER >= inputs.bound)
    rows = rows.filter(pa.array(is_kept))
    seen: Counter[int] = Counter()
    repeats = []
    for content in target.inputs(rows).content.tolist():
        repeats.append(seen[content])
        seen[content] += 1
    return rows, repeats


def _drawn(rows: pa.Table, repeats: list[int]) -> Iterator[tuple[str, Index]]:
    """Names of slices with the rows of a drawn set; the draw depends on the name alone."""
    columns = ("hardware_id", "framework", "num_devices", "llm_id", "input_tokens", "batch_size")
    cells: dict[str, dict[tuple[Any, ...], int]] = defaultdict(dict)
    for row, (values, repeat) in enumerate(zip(rows.select(list(columns)).to_pylist(), repeats, strict=True)):
        device, framework, num_devices, llm, length, batch = (values[name] for name in columns)
        if repeat == 0 or framework == "llama.cpp":
            cells[f"{device}/{framework}/{num_devices}"][llm, length, (batch, repeat)] = row
    for name in sorted(cells):
        here = cells[name]
        axes = [sorted({cell[place] for cell in here}) for place in range(3)]
        sizes = (NUM_LLMS, NUM_LENGTHS, NUM_BATCHES)
        grids = itertools.product(*(itertools.combinations(axis, size) for axis, size in zip(axes, sizes, strict=True)))
        sets = [[here[cell] for cell in itertools.product(*grid) if cell in here] for grid in grids]
        llms = rows.column("llm_id").to_pylist()
        large = [one for one in sets if len(one) >= LEAST_ROWS and len({llms[row] for row in one}) == NUM_LLMS]
        order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(large))[:NUM_DRAWS]
        for one in order:
            yield name, np.array(large[one], np.intp)


def _left_out(target: Target, rows: pa.Table, actual: Any, split: str = "leave_model_out") -> dict[str, Any]:
    """Of every contender the value of each row by what was fitted without its fold."""
    questions = rows.drop_columns([name for name in rows.column_names if name.startswith("measured_")])
    found: dict[str, Any] = {}
    for fold in splits.folds(target.inputs(rows), split):
        for contender in contenders.all_of(target, split):
            held = evaluate.held_out(contender, questions, actual, fold)
            found.setdefault(contender.name, np.full(len(actual), np.nan))[fold.outside] = held.value
    return found


def _by_slice(several: list[tuple[str, dict[str, Any]]]) -> dict[str, float]:
    names = dict.fromkeys(name for name, _ in several)
    return {name: float(np.mean([one["mape"] for slice_name, one in several if slice_name == name])) for name in names}


def their_split(board: Board, store: Store, report: Report) -> list[dict[str, Any]]:
    """The random split of bhavana-iitbbs: rows at random, a task beside another of the same question, 80 % to learn from, in 20 draws.

    The source states no seed; a repeated question on both sides is what its protocol allows, so nothing but the comparison rests on it.
    """
    target = find(board.target)
    rows, _ = _untidied(target, board, store)
    actual = number(rows, target.column)
    questions = rows.drop_columns([name for name in rows.column_names if name.startswith("measured_")])
    found = evaluate.Evaluation(target.key)
    for draw in range(20):
        order = np.random.default_rng(draw).permutation(rows.num_rows)
        cut = rows.num_rows // 5
        fold = splits.Fold(board.split, str(draw + 1), np.sort(order[cut:]), np.sort(order[:cut]))
        for contender in contenders.all_of(target, board.split):
            found.held.append(evaluate.held_out(contender, questions, actual, fold))
    return found.scores()


LEAVE_ONE = (Goal("mape", most=0.13), Goal("mdape", most=0.07))
BOARDS = (
    Board("bench-llm", "LLM-Inference-Bench, LLM never seen", "latency", "leave_model_out", LEAVE_ONE, BENCH),
    Board("bench-family", "LLM-Inference-Bench, family never seen", "latency", "leave_family_out", (), BENCH),
    Board("bench-stack", "LLM-Inference-Bench, device with framework never seen", "latency", "leave_stack_out", (), BENCH),
    Board("bench-stack-10", "the same with 10 rows of it", "latency", "leave_stack_out", (Goal("mape", most=0.17),), BENCH, few=10),
    Board("bench-stack-40", "the same with 40 rows of it", "latency", "leave_stack_out", (Goal("mape", most=0.10),), BENCH, few=40),
    Board("bench-device", "LLM-Inference-Bench, device never seen", "latency", "leave_device_out", (), BENCH),
    Board("bench-batch", "LLM-Inference-Bench, batches up to 32 to larger ones", "latency", "beyond_size", (), BENCH, size_limit=32, run=beyond("batch_size")),
    Board("bench-length", "LLM-Inference-Bench, 512 tokens in and out to 1,024 and more", "latency", "beyond_size", (), BENCH, size_limit=1024, run=beyond("tokens")),
    Board("bench-devices", "LLM-Inference-Bench, one and two devices to four and more", "latency", "beyond_size", (), BENCH, size_limit=2, run=beyond("num_devices")),
    Board("bench-random", "LLM-Inference-Bench, random rows", "latency", "random", (), BENCH),
    Board("small-sets", "Sets of 48 to 64 rows of 4 LLMs, LLM never seen: median over the sets", "latency", "leave_model_out", (Goal("mape", most=0.07), Goal("share_won", least=29 / 34)), BENCH, run=small_sets),
    Board("own-latency-random", "Latency measured here, random rows: the protocol of bhavana-iitbbs", "latency", "random", (Goal("r2", least=0.98),), OWN, run=their_split),
    Board("own-latency-llm", "Latency measured here, LLM never seen", "latency", "leave_model_out", (Goal("mdape", most=0.15),), OWN),
    Board("hf-forward-llm", "optimum-benchmark, forward passes on an A100, LLM never seen", "latency", "leave_model_out", (Goal("r2", least=0.975),), HF, forwards),
    Board("hf-forward-random", "the same, random rows", "latency", "random", (), HF, forwards),
    Board("training-step-llm", "Training steps, LLM never seen", "training_step", "leave_model_out"),
    Board("module-llm", "Modules timed here, LLM never seen", "module_time", "leave_model_out", (), {"source": OWN["source"]}),
    Board("training-step-device", "Training steps, device never seen", "training_step", "leave_device_out"),
)  # fmt: skip
