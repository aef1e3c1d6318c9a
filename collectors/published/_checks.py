"""Consistency checks on a paper's rows: what its own figures, and physics, say about its figures.

A check reads rows and returns faults. A fault about a printed value names the runs to keep out of charts and the samples to
flag; any other is noted on its table. Values are never changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from collectors.published._transcription import AGAIN, Row, Rows
from warehouse import catalog, schema

ROUNDING = 0.011
"""Relative slack left for figures printed with three digits."""


@dataclass(frozen=True)
class Fault:
    """What contradicts what, with the figures; runs to exclude; samples (run_id, metric) to flag."""

    source_id: str
    reason: str
    run_ids: tuple[str, ...] = ()
    samples: tuple[tuple[str, str], ...] = ()


def apply(rows: Rows) -> list[Fault]:
    """Run every check on one paper's rows; exclude, flag and note what they find, in place. Returns the faults."""
    faults = [fault for check in CHECKS for fault in check(rows)]
    runs = {run["run_id"]: run for run in rows["runs"]}
    notes = {source["source_id"]: source for source in rows["sources"]}
    for fault in faults:
        for run_id in fault.run_ids:
            run = runs[run_id]
            run["is_excluded"] = True
            run["exclusion_reason"] = _sentences(run.get("exclusion_reason"), fault.reason)
        for sample in rows["samples"]:
            if (sample["run_id"], sample["metric"]) in fault.samples:
                sample["flags"] = ["inconsistent"]
        if not fault.run_ids:
            notes[fault.source_id]["note"] = _sentences(notes[fault.source_id]["note"], f"Fault: {fault.reason}")
    return faults


def check_device_peak(rows: Rows) -> Iterator[Fault]:
    """Training takes at least 4 FLOP per parameter and token (forward and activation gradients), whatever is frozen."""
    for run in _training(rows):
        llm, device = catalog.find_llm(run["llm_id"]), catalog.find_hardware(run["hardware_id"])
        peak = device.peak("bf16")
        if llm.num_parameters is None or peak is None:
            continue
        ratio = 4 * llm.num_parameters * run["total_tokens_per_s"] / (run["num_devices"] * peak)
        if ratio > 1:
            near = _neighbours(rows, run)
            yield Fault(
                run["source_id"],
                f"{run['source_cell']}: {run['total_tokens_per_s']:g} tokens/s would need {ratio:.1f} times the peak of "
                f"{run['num_devices']} {run['hardware_id']}; the same LLM and device print at most {near:g} otherwise, so a "
                f"decimal point is probably lost.",
                (run["run_id"],),
            )


def check_weights_fit(rows: Rows) -> Iterator[Fault]:
    """Peak memory is at least the weights resident on one device: all of them, or a shard of them with ZeRO-3."""
    for run in _training(rows):
        techniques = set(run["optimizations"])
        parameters = catalog.find_llm(run["llm_id"]).num_parameters
        if parameters is None or {"zero3", "offload"} <= techniques or run.get("memory_peak_bytes") is None:
            continue
        shards = run["num_devices"] if "zero3" in techniques else run["tensor_parallel"]
        weights = parameters * schema.DTYPE_BYTES[run["weight_dtype"]] / shards
        if run["memory_peak_bytes"] < weights:
            yield Fault(
                run["source_id"],
                f"{run['source_cell']}: {_gb(run['memory_peak_bytes'])} printed, but the {run['weight_dtype']} weights of "
                f"{run['llm_id']} alone take {_gb(weights)} of each device.",
                (run["run_id"],),
            )


def check_printed_twice(rows: Rows) -> Iterator[Fault]:
    """A method printed twice under one LLM with different figures: the first belongs to the block above."""
    runs = {(run["source_id"], run["source_cell"]): run for run in rows["runs"]}
    for (source_id, cell), second in runs.items():
        first = runs.get((source_id, cell.removesuffix(AGAIN)))
        if cell.endswith(AGAIN) and first is not None:
            yield Fault(
                source_id,
                f"{first['source_cell']} is printed twice, as {_outcome(first)} and as {_outcome(second)}. The first is out of "
                f"place: it follows the block of the smaller LLM, which lacks this method.",
                (first["run_id"],),
            )


def check_memory_grows_with_batch(rows: Rows) -> Iterator[Fault]:
    """Peak memory of one configuration does not fall when only the batch grows."""
    groups = defaultdict(list)
    for run in _training(rows):
        if run.get("memory_peak_bytes") is not None and not run["source_cell"].endswith(AGAIN):
            groups[schema.config_id({**run, "batch_size": None}), run["framework"]].append(run)
    for group in groups.values():
        for small, large in pairwise(sorted(group, key=lambda run: int(run["batch_size"]))):
            if large["memory_peak_bytes"] < small["memory_peak_bytes"] * (1 - ROUNDING):
                yield Fault(
                    large["source_id"],
                    f"{large['source_cell']}: {_gb(large['memory_peak_bytes'])} at batch size {large['batch_size']}, but "
                    f"{_gb(small['memory_peak_bytes'])} at batch size {small['batch_size']} ({small['source_id']}).",
                    (large["run_id"],),
                )


def check_phase_shares(rows: Rows) -> Iterator[Fault]:
    """Tables V and VII: the printed shares are those of the printed phase times in their sum."""
    for run in rows["runs"]:
        shares = {
            sample["metric"]: sample["value"]
            for sample in rows["samples"]
            if sample["run_id"] == run["run_id"]
            and sample["metric"].startswith(("paper:Breakdown", "paper:Percentage"))
        }
        if not shares:
            continue
        times = [run[f"{phase}_s"] * 1e3 for phase in ("forward", "backward", "optimizer")]
        implied = times[0] / (next(iter(shares.values())) / 100)
        if abs(100 - sum(shares.values())) > 100 * ROUNDING:
            yield Fault(
                run["source_id"],
                f"shares {' + '.join(f'{share:g}' for share in shares.values())} make {sum(shares.values()):.1f} % and imply a "
                f"step of {implied:.1f} ms, the phases sum to {sum(times):.1f} ms.",
                samples=tuple((run["run_id"], metric) for metric in shares),
            )


def check_module_sums(rows: Rows) -> Iterator[Fault]:
    """Table VI: the modules of a phase add up to that phase in Table V, but for idle time."""
    for step in _runs(rows, "table-5"):
        for phase in ("forward", "backward"):
            ops = [op for run in _runs(rows, "table-6") for op in _ops(rows, run) if op["phase"] == phase]
            total, printed = sum(op["time_s"] * op["count"] for op in ops), step[f"{phase}_s"]
            if ops and total < printed * (1 - ROUNDING):
                yield Fault(
                    _runs(rows, "table-6")[0]["source_id"],
                    f"{phase} modules sum to {total * 1e3:.1f} of the {printed * 1e3:.1f} ms of Table V.",
                )


def check_op_shares(rows: Rows) -> Iterator[Fault]:
    """Tables X and XI: a printed share is that of the printed time in the sum of all."""
    for run in (*_runs(rows, "table-10"), *_runs(rows, "table-11")):
        ops = _ops(rows, run)
        total = sum(op["time_s"] * op["count"] for op in ops if op.get("parent_path") is None)
        shares = [sample for sample in rows["samples"] if sample["run_id"] == run["run_id"]]
        for op, share in zip(ops, shares, strict=True):
            actual = op["time_s"] * op["count"] / total * 100
            if abs(actual - share["value"]) > 0.05:
                yield Fault(
                    run["source_id"],
                    f"{share['metric'].removeprefix('paper:percentage of ')}: {share['value']:g} % printed, its time is "
                    f"{actual:.2f} % of {total * 1e3:.2f} ms.",
                    samples=((run["run_id"], share["metric"]),),
                )


def check_improvement(rows: Rows) -> Iterator[Fault]:
    """Table VIII: improvement = 1 - FlashAttention / naive."""
    runs = _runs(rows, "table-8")
    if not runs:
        return
    naive, flash = (_ops(rows, run) for run in runs)
    gains = [sample for sample in rows["samples"] if sample["run_id"] == runs[1]["run_id"]]
    for slow, fast, gain in zip(naive, flash, gains, strict=True):
        actual = (1 - fast["time_s"] / slow["time_s"]) * 100
        if abs(actual - gain["value"]) > 0.06:
            yield Fault(
                runs[1]["source_id"],
                f"{gain['metric']}: {gain['value']:g} % printed, the times give {actual:.1f} %.",
                samples=((runs[1]["run_id"], gain["metric"]),),
            )


def check_gemm(rows: Rows) -> Iterator[Fault]:
    """Table XII: peak share = 2MNK / (time x peak), and M is batch size x sequence length of the training runs."""
    lengths = {run["input_tokens"] for run in _runs(rows, "table-3")}
    for run in _runs(rows, "table-12"):
        peak = catalog.find_hardware(run["hardware_id"]).peak("bf16")
        for op in _ops(rows, run):
            mfu = 2 * op["m"] * op["n"] * op["k"] / (op["time_s"] * peak) if peak else run["mfu"]
            if abs(mfu - run["mfu"]) > 0.001:
                yield Fault(
                    run["source_id"],
                    f"{run['source_cell']}: {run['mfu']:.1%} of the peak printed, shape and time give {mfu:.1%}.",
                    (run["run_id"],),
                )
            tokens = op["m"] / run["batch_size"]
            if tokens not in lengths:
                yield Fault(
                    run["source_id"],
                    f"{run['source_cell']}: M = {op['m']} at batch size {run['batch_size']} is {tokens:g} tokens a sequence, "
                    f"the stated sequence length is {', '.join(map(str, sorted(lengths)))}.",
                )


def check_frameworks(rows: Rows) -> Iterator[Fault]:
    """Table II against finding (1), DeepSpeed faster than Megatron-LM in all configurations."""
    rate = {(run["framework"], run["batch_size"]): run["total_tokens_per_s"] for run in _runs(rows, "table-2")}
    for (framework, batch_size), value in rate.items():
        other = rate.get(("deepspeed", batch_size))
        if framework == "megatron-lm" and other is not None and value > other:
            yield Fault(
                _runs(rows, "table-2")[0]["source_id"],
                f"the text finds DeepSpeed faster in all configurations and Megatron-LM slightly faster at batch size "
                f"{batch_size}; there it is {value / other - 1:.0%} faster ({value:g} against {other:g} tokens/s).",
            )


def check_zero3_communication(rows: Rows) -> Iterator[Fault]:
    """Table XVI against its text, ZeRO-3 communicates longer than ZeRO-2."""
    seconds = {(run["llm_id"], *run["optimizations"]): run["communication_s"] for run in _runs(rows, "table-16")}
    for (llm_id, technique), value in seconds.items():
        other = seconds[llm_id, "zero2"]
        if technique == "zero3" and value < other:
            yield Fault(
                _runs(rows, "table-16")[0]["source_id"],
                f"the text finds more communication with ZeRO-3; for {llm_id} it is {value:g} s against {other:g} s with ZeRO-2.",
            )


def check_a800_advantage(rows: Rows) -> Iterator[Fault]:
    """Table III against the text, A800 more than 50 times as fast as the RTX cards except with quantization."""
    runs = _finished(rows, "table-3")
    found = [
        (runs[model, method, "A800"]["total_tokens_per_s"] / run["total_tokens_per_s"], run)
        for (model, method, platform), run in runs.items()
        if platform != "A800" and "quantized" not in run["optimizations"]
    ]
    yield from _claim(rows, "paper:throughput over RTX4090 and RTX3090, more than", found)


def check_lora_advantage(rows: Rows) -> Iterator[Fault]:
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


def check_70b_on_rtx(rows: Rows) -> Iterator[Fault]:
    """Table IX against the text, Llama-2-70B at around 200 tokens/s on the RTX cards."""
    runs = _finished(rows, "table-9").items()
    found = [
        (run["total_tokens_per_s"], run) for (model, _, platform), run in runs if model == "70B" and platform != "A800"
    ]
    yield from _claim(rows, "paper:throughput, around", found)


def check_repeated_figure(rows: Rows) -> Iterator[Fault]:
    """One throughput of five digits printed for two LLMs is likelier a copy than a coincidence."""
    seen: dict[float, Row] = {}
    for run in _training(rows):
        first = seen.setdefault(run["total_tokens_per_s"], run)
        if first["llm_id"] != run["llm_id"] and run["total_tokens_per_s"] > 1000:
            yield Fault(
                run["source_id"],
                f"{run['source_cell']} prints {run['total_tokens_per_s']:g} tokens/s, as does {first['source_cell']} in "
                f"{first['source_id']}: one of them may be a copy.",
            )


def check_scaling(rows: Rows) -> Iterator[Fault]:
    """n devices are at most n times as fast as one; more says that the one-device figure is held back by something else."""
    single = {
        run["llm_id"]: run["output_tokens_per_s"]
        for run in rows["runs"]
        if run.get("num_devices") == 1 and run.get("output_tokens_per_s") is not None
    }
    for run in rows["runs"]:
        rate, one = run.get("output_tokens_per_s"), single.get(run.get("llm_id"))
        if rate is not None and one is not None and rate > one * run["num_devices"]:
            yield Fault(
                run["source_id"],
                f"{run['source_cell']}: {rate:g} tokens/s is {rate / one:.2f} times the {one:g} of one device, so that one "
                f"is not held back by the device (by the host, probably).",
            )


Check = Callable[[Rows], Iterator[Fault]]
CHECKS: tuple[Check, ...] = (
    check_device_peak,
    check_weights_fit,
    check_printed_twice,
    check_memory_grows_with_batch,
    check_phase_shares,
    check_module_sums,
    check_op_shares,
    check_improvement,
    check_gemm,
    check_frameworks,
    check_zero3_communication,
    check_a800_advantage,
    check_lora_advantage,
    check_70b_on_rtx,
    check_repeated_figure,
    check_scaling,
)


def _claim(rows: Rows, metric: str, found: list[tuple[float, Row]]) -> Iterator[Fault]:
    """A figure stated in the text against those a table gives: it is at fault if any is more than 10 % off."""
    for sample in rows["samples"]:
        if sample["metric"] != metric or not found:
            continue
        run = next(run for run in rows["runs"] if run["run_id"] == sample["run_id"])
        (low, lowest), (high, highest) = (choose(found, key=lambda item: item[0]) for choose in (min, max))
        if low < sample["value"] * 0.9 or high > sample["value"] * 1.1:
            yield Fault(
                run["source_id"],
                f"{metric.removeprefix('paper:')} {sample['value']:g} {sample['unit']} is stated, {lowest['source_id']} "
                f"gives {low:.3g} ({lowest['source_cell']}) to {high:.3g} ({highest['source_cell']}).",
                (run["run_id"],),
                ((run["run_id"], metric),),
            )


def _finished(rows: Rows, table_id: str) -> dict[tuple[str, ...], Row]:
    """Runs of a table that are not out of memory, by their labels: ('7B', 'F+Z3', 'A800'). Of two, the second."""
    runs = {tuple(run["source_cell"].removesuffix(AGAIN).split(" / ")): run for run in _runs(rows, table_id)}
    return {labels: run for labels, run in runs.items() if run["status"] == "ok"}


def _runs(rows: Rows, table_id: str) -> list[Row]:
    return [run for run in rows["runs"] if run["source_id"].endswith(f"/{table_id}")]


def _ops(rows: Rows, run: Row) -> list[Row]:
    return [op for op in rows["ops"] if op["run_id"] == run["run_id"]]


def _training(rows: Rows) -> list[Row]:
    return [run for run in rows["runs"] if run.get("total_tokens_per_s") is not None]


def _sentences(*texts: str | None) -> str:
    return " ".join(text for text in texts if text)


def _outcome(run: Row) -> str:
    if run["status"] != "ok":
        return "out of memory"
    return f"{run['total_tokens_per_s']:g} tokens/s in {_gb(run['memory_peak_bytes'])}"


def _gb(value: float) -> str:
    return f"{value / 1e9:.3g} GB"


def _neighbours(rows: Rows, run: Row) -> float:
    """Largest other throughput of the same table, LLM and device."""
    return max(
        other["total_tokens_per_s"]
        for other in _training(rows)
        if other is not run and all(other[name] == run[name] for name in ("source_id", "llm_id", "hardware_id"))
    )
