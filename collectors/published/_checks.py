"""Consistency checks on a paper's rows: what its own text and figures, and physics, say about its figures.

Those that any rows can be held against are `models.lint`; here are those that read one paper's tables and claims. A fault about a
printed value keeps its run out of charts and flags its samples; everything found is noted on its table otherwise. Values are never
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from collectors.published._transcription import AGAIN, Row, Rows
from models import lint
from models.lint import Finding
from warehouse import catalog, parquet

KEPT = ("work_differs", "weights_without_embedding")
"""Faults of counted work: the times beside it stand, so the run stays in charts."""


def apply(rows: Rows) -> list[Finding]:
    """Run every check on one paper's rows; exclude, flag and note what they find, in place. Returns what was found.

    Findings of this file's checks become rows of `findings`; those of `models.lint` do when a lake lints what it loaded.
    """
    own = [finding for check in CHECKS for finding in check(rows)]
    runs = {run["run_id"]: run for run in rows["runs"]}
    notes = {source["source_id"]: source for source in rows["sources"]}
    found = [*own, *lint.check(_tables(rows))]
    for finding in found:
        is_excluding = finding.severity == "fault" and finding.metric is not None and finding.check not in KEPT
        if is_excluding and finding.run_id is not None:
            run = runs[finding.run_id]
            run["is_excluded"] = True
            run["exclusion_reason"] = _sentences(run.get("exclusion_reason"), finding.sentence)
        else:
            note = f"{finding.severity.capitalize()}: {finding.sentence}"
            notes[finding.source_id]["note"] = _sentences(notes[finding.source_id]["note"], note)
        for sample in rows["samples"]:
            if sample["run_id"] == finding.run_id and sample["metric"] in (finding.metric, *finding.samples):
                sample["flags"] = ["inconsistent"]
    if rows["sources"]:
        rows["findings"] = lint.rows(own, found_by="published", at=rows["at"])
    return found


def _tables(rows: Rows) -> dict[str, pa.Table]:
    """A paper's rows as the tables that `models.lint` reads, with the catalogue's devices and LLMs."""
    predictors = {row["predictor_id"]: row for row in rows["predictors"]}
    scores = [{**score, **predictors[score["predictor_id"]]} for score in rows["predictor_scores"]]
    named = ("predictor_id", "source_id", "name", "metric", "mae", "r2")
    return {
        **{name: parquet.check(name, rows[name]) for name in ("runs", "ops", "samples")},
        **{name: parquet.check(name, catalog.rows(name)) for name in ("hardware", "llms")},
        "predictor_scores": pa.Table.from_pylist([{name: score[name] for name in named} for score in scores]),
    }


def check_printed_twice(rows: Rows) -> Iterator[Finding]:
    """A method printed twice under one LLM with different figures: the first belongs to the block above."""
    runs = {(run["source_id"], run["source_cell"]): run for run in rows["runs"]}
    for (source_id, cell), second in runs.items():
        first = runs.get((source_id, cell.removesuffix(AGAIN)))
        if cell.endswith(AGAIN) and first is not None:
            yield _about(
                first,
                "printed_twice",
                f"{first['source_cell']} is printed twice, as {_outcome(first)} and as {_outcome(second)}. The first is out of "
                f"place: it follows the block of the smaller LLM, which lacks this method.",
                "total_tokens_per_s",
            )


def check_op_shares(rows: Rows) -> Iterator[Finding]:
    """Tables X and XI: a printed share is that of the printed time in the sum of all."""
    for run in (*_runs(rows, "table-10"), *_runs(rows, "table-11")):
        ops = _ops(rows, run)
        total = sum(op["time_s"] * op["count"] for op in ops if op.get("parent_path") is None)
        shares = [sample for sample in rows["samples"] if sample["run_id"] == run["run_id"]]
        for op, share in zip(ops, shares, strict=True):
            actual = op["time_s"] * op["count"] / total * 100
            if abs(actual - share["value"]) > 0.05:
                yield _about(
                    run,
                    "share_of_whole",
                    f"{share['metric'].removeprefix('paper:percentage of ')}: {share['value']:g} % printed, its time is "
                    f"{actual:.2f} % of {total * 1e3:.2f} ms.",
                    about=share["metric"],
                    samples=(share["metric"],),
                )


def check_improvement(rows: Rows) -> Iterator[Finding]:
    """Table VIII: improvement = 1 - FlashAttention / naive."""
    runs = _runs(rows, "table-8")
    if not runs:
        return
    naive, flash = (_ops(rows, run) for run in runs)
    gains = [sample for sample in rows["samples"] if sample["run_id"] == runs[1]["run_id"]]
    for slow, fast, gain in zip(naive, flash, gains, strict=True):
        actual = (1 - fast["time_s"] / slow["time_s"]) * 100
        if abs(actual - gain["value"]) > 0.06:
            yield _about(
                runs[1],
                "improvement",
                f"{gain['metric']}: {gain['value']:g} % printed, the times give {actual:.1f} %.",
                about=gain["metric"],
                samples=(gain["metric"],),
            )


def check_gemm(rows: Rows) -> Iterator[Finding]:
    """Table XII: peak share = 2MNK / (time x peak), and M is batch size x sequence length of the training runs."""
    lengths = {run["input_tokens"] for run in _runs(rows, "table-3")}
    for run in _runs(rows, "table-12"):
        peak = catalog.find_hardware(run["hardware_id"]).peak("bf16")
        for op in _ops(rows, run):
            mfu = 2 * op["m"] * op["n"] * op["k"] / (op["time_s"] * peak) if peak else run["mfu"]
            if abs(mfu - run["mfu"]) > 0.001:
                yield _about(
                    run,
                    "share_of_peak",
                    f"{run['source_cell']}: {run['mfu']:.1%} of the peak printed, shape and time give {mfu:.1%}.",
                    "mfu",
                )
            tokens = op["m"] / run["batch_size"]
            if tokens not in lengths:
                yield _about(
                    run,
                    "tokens_of_shape",
                    f"{run['source_cell']}: M = {op['m']} at batch size {run['batch_size']} is {tokens:g} tokens a sequence, "
                    f"the stated sequence length is {', '.join(map(str, sorted(lengths)))}.",
                )


def check_frameworks(rows: Rows) -> Iterator[Finding]:
    """Table II against finding (1), DeepSpeed faster than Megatron-LM in all configurations."""
    rate = {(run["framework"], run["batch_size"]): run["total_tokens_per_s"] for run in _runs(rows, "table-2")}
    for (framework, batch_size), value in rate.items():
        other = rate.get(("deepspeed", batch_size))
        if framework == "megatron-lm" and other is not None and value > other:
            yield _noted(
                _runs(rows, "table-2")[0]["source_id"],
                f"{framework} {batch_size}",
                f"the text finds DeepSpeed faster in all configurations and Megatron-LM slightly faster at batch size "
                f"{batch_size}; there it is {value / other - 1:.0%} faster ({value:g} against {other:g} tokens/s).",
            )


def check_zero3_communication(rows: Rows) -> Iterator[Finding]:
    """Table XVI against its text, ZeRO-3 communicates longer than ZeRO-2."""
    seconds = {(run["llm_id"], *run["optimizations"]): run["communication_s"] for run in _runs(rows, "table-16")}
    for (llm_id, technique), value in seconds.items():
        other = seconds[llm_id, "zero2"]
        if technique == "zero3" and value < other:
            yield _noted(
                _runs(rows, "table-16")[0]["source_id"],
                llm_id,
                f"the text finds more communication with ZeRO-3; for {llm_id} it is {value:g} s against {other:g} s with ZeRO-2.",
            )


def check_a800_advantage(rows: Rows) -> Iterator[Finding]:
    """Table III against the text, A800 more than 50 times as fast as the RTX cards except with quantization."""
    runs = _finished(rows, "table-3")
    found = [
        (runs[model, method, "A800"]["total_tokens_per_s"] / run["total_tokens_per_s"], run)
        for (model, method, platform), run in runs.items()
        if platform != "A800" and "quantized" not in run["optimizations"]
    ]
    yield from _claim(rows, "paper:throughput over RTX4090 and RTX3090, more than", found)


def check_lora_advantage(rows: Rows) -> Iterator[Finding]:
    """Table IX against the text, LoRA twice as fast as QLoRA in all evaluations at twice the memory."""
    runs = _finished(rows, "table-9")
    pairs = [
        (runs[model, f"Q{method}", platform], run)
        for (model, method, platform), run in runs.items()
        if (model, f"Q{method}", platform) in runs
    ]
    speed = [(run["total_tokens_per_s"] / other["total_tokens_per_s"], run) for other, run in pairs]
    memory = [(other["memory_peak_bytes"] / run["memory_peak_bytes"], run) for other, run in pairs]
    yield from _claim(rows, "paper:throughput over QLoRA, approximately", speed)
    yield from _claim(rows, "paper:memory of QLoRA over LoRA", memory)


def check_70b_on_rtx(rows: Rows) -> Iterator[Finding]:
    """Table IX against the text, Llama-2-70B at around 200 tokens/s on the RTX cards."""
    runs = _finished(rows, "table-9").items()
    found = [
        (run["total_tokens_per_s"], run) for (model, _, platform), run in runs if model == "70B" and platform != "A800"
    ]
    yield from _claim(rows, "paper:throughput, around", found)


def check_roofline_rule(rows: Rows) -> Iterator[Finding]:
    """A point lies on or below its roof whatever binds it: memory left of the ridge point, compute right of it."""
    for claim in rows["claims"]:
        rule = claim.get("roofline_rule", {})
        if "above the roof" in rule.values():
            yield _noted(
                claim["source_id"],
                "roofline",
                f"the text reads a point {rule['memory']} as memory-bound and one {rule['compute']} as compute-bound. No point can lie above "
                f"its own roof; which side of the ridge point it is on, peak / bandwidth in FLOP/B, says what binds it.",
            )


Check = Callable[[Rows], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    check_printed_twice,
    check_op_shares,
    check_improvement,
    check_gemm,
    check_frameworks,
    check_zero3_communication,
    check_a800_advantage,
    check_lora_advantage,
    check_70b_on_rtx,
    check_roofline_rule,
)


def _claim(rows: Rows, metric: str, found: list[tuple[float, Row]]) -> Iterator[Finding]:
    """A figure stated in the text against those a table gives: it is at fault if any is more than 10 % off."""
    for sample in rows["samples"]:
        if sample["metric"] != metric or not found:
            continue
        run = next(run for run in rows["runs"] if run["run_id"] == sample["run_id"])
        (low, lowest), (high, highest) = (choose(found, key=lambda item: item[0]) for choose in (min, max))
        if low < sample["value"] * 0.9 or high > sample["value"] * 1.1:
            yield _about(
                run,
                "claim_against_table",
                f"{metric.removeprefix('paper:')} {sample['value']:g} {sample['unit']} is stated, {lowest['source_id']} "
                f"gives {low:.3g} ({lowest['source_cell']}) to {high:.3g} ({highest['source_cell']}).",
                metric,
            )


def _finished(rows: Rows, table_id: str) -> dict[tuple[str, ...], Row]:
    """Runs of a table that are not out of memory, by their labels: ('7B', 'F+Z3', 'A800'). Of two, the second."""
    runs = {tuple(run["source_cell"].removesuffix(AGAIN).split(" / ")): run for run in _runs(rows, table_id)}
    return {labels: run for labels, run in runs.items() if run["status"] == "ok"}


def _runs(rows: Rows, table_id: str) -> list[Row]:
    return [run for run in rows["runs"] if run["source_id"].endswith(f"/{table_id}")]


def _ops(rows: Rows, run: Row) -> list[Row]:
    return [op for op in rows["ops"] if op["run_id"] == run["run_id"]]


def _about(run: Row, check: str, sentence: str, metric: str | None = None, **more: Any) -> Finding:
    """A fault of one run; with a metric, of that figure of it."""
    return Finding(check, "fault", run["source_id"], sentence, run["run_id"], metric, **more)


def _noted(source_id: str, about: str, sentence: str) -> Finding:
    """A fault of a text against its table."""
    return Finding("claim_against_table", "fault", source_id, sentence, about=about)


def _sentences(*texts: str | None) -> str:
    return " ".join(text for text in texts if text)


def _outcome(run: Row) -> str:
    if run["status"] != "ok":
        return "out of memory"
    return f"{run['total_tokens_per_s']:g} tokens/s in {_gb(run['memory_peak_bytes'])}"


def _gb(value: float) -> str:
    return f"{value / 1e9:.3g} GB"
