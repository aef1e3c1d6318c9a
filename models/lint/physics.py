"""What no device can do: faster than its roof, more than its peak, weights in less memory than they take."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from models.lint.findings import Finding
from models.lint.tables import ROUNDING, Floats, Mask, Runs, Sources, digits, hits

GB = 1e9
MIN_TRAINING_FLOPS = 4
"""FLOP per parameter and token of a training step at least: forward and activation gradients, whatever is frozen."""
SLACK = 0.1
"""How far runs on one machine differ without a reason."""
RESIDENT = ("memory_peak_bytes", "memory_reserved_bytes", "memory_process_bytes", "memory_device_bytes")


def point_above_roof(sources: Sources) -> Iterator[Finding]:
    """A time, measured or behind a rate over all sequences, is at least the roofline bound of its configuration.

    Devices whose degrees of parallelism are not stated may each do their part; weights whose format is not stated may take a
    quarter of 16 bits: only beyond that it is a fault.
    """
    runs = sources.runs
    stated = runs.one("tensor_parallel") * runs.one("pipeline_parallel") * runs.one("data_parallel")
    bound = _or(runs.twin("roofline_s"), runs.num("roofline_s")) / np.maximum(runs.devices / stated, 1.0)
    is_format_known = ~np.isnan(runs.weight_bytes)
    for metric, times in _times(runs).items():
        for index in hits(runs.is_ok & (times < bound * (1 - ROUNDING))):
            ratio = bound[index] / times[index]
            behind = "" if metric == "latency_s" else f" behind {metric} {runs.num(metric)[index]:g}"
            is_fault = runs.has_datasheet[index] and (is_format_known[index] or ratio > 4)
            why = "" if is_format_known[index] else " The number format is not stated, 16 bits are assumed."
            yield runs.finding(
                index,
                "point_above_roof",
                "fault" if is_fault else "doubt",
                f"{runs.named(index)}: {_time(times[index])}{behind} is {ratio:.3g} times faster than {_time(bound[index])}, the least that "
                f"{runs.devices[index]:g} {runs.texts('hardware_id')[index]} can take by {_sheet(runs, index)}.{why}",
                metric,
                value=runs.num(metric)[index],
                expected=bound[index] if metric == "latency_s" else None,
            )


def served_faster_than_weights(sources: Sources) -> Iterator[Finding]:
    """A decode step reads the weights of the active parameters once: TPOT is at least that, unless a step gives several tokens."""
    runs = sources.runs
    parameters = runs.llm("num_active_parameters")
    bound = parameters * runs.weight_bytes / (runs.devices * runs.bandwidth)
    for metric in ("tpot_s", "itl_s"):
        times = runs.num(metric)
        for index in hits(runs.is_ok & (times < bound * (1 - ROUNDING))):
            yield runs.finding(
                index, "point_above_roof", "doubt",
                f"{runs.named(index)}: {metric} {_time(times[index])}, but reading the {runs.texts('weight_dtype')[index]} weights of "
                f"{runs.texts('llm_id')[index]} once takes {_time(bound[index])} on {runs.devices[index]:g} {runs.texts('hardware_id')[index]}. "
                f"Several tokens a step (speculative decoding) would explain it.",
                metric, value=times[index], expected=bound[index],
            )  # fmt: skip
    prefill = 2 * parameters * runs.num("input_tokens") / (runs.devices * runs.peak)
    ttft = runs.num("ttft_s")
    is_unique = runs.is_("is_prefix_unique", True)
    for index in hits(runs.is_ok & (ttft < prefill * (1 - ROUNDING))):
        yield runs.finding(
            index, "point_above_roof", "fault" if is_unique[index] else "doubt",
            f"{runs.named(index)}: ttft_s {_time(ttft[index])}, but a prompt of {runs.num('input_tokens')[index]:g} tokens takes "
            f"{_time(prefill[index])} at the peak of {runs.devices[index]:g} {runs.texts('hardware_id')[index]}."
            + ("" if is_unique[index] else " A prefix cache would explain it."),
            "ttft_s", value=ttft[index], expected=prefill[index],
        )  # fmt: skip


def utilisation_above_one(sources: Sources) -> Iterator[Finding]:
    """No share of a peak is above 1: not the printed one, nor the one that work and time make."""
    runs = sources.runs
    seconds = runs.num("latency_s") * runs.devices
    is_cached = runs.num("size_bytes") < 4 * _or(runs.device("l2_bytes"), 64e6)
    reads = (runs.num("weight_bytes_read") + runs.num("kv_bytes_read")) / (seconds * runs.bandwidth)
    shares: dict[str, Floats] = {
        "mfu": _or(runs.num("mfu"), runs.num("flops") / (seconds * runs.peak)),
        "mbu": np.where(is_cached, np.nan, _or(runs.num("mbu"), reads)),
        "achieved_flops_per_s": runs.num("achieved_flops_per_s") / (runs.devices * runs.peak),
        "achieved_bytes_per_s": np.where(
            is_cached | runs.is_("phase", "microbench"), np.nan, runs.num("achieved_bytes_per_s") / (runs.devices * runs.bandwidth)
        ),
    }  # fmt: skip
    for metric, share in shares.items():
        for index in hits(runs.is_ok & (share > 1 + ROUNDING)):
            yield runs.finding(
                index, "utilisation_above_one", "fault" if runs.has_datasheet[index] else "doubt",
                f"{runs.named(index)}: {share[index]:.2f} times the {'bandwidth' if 'b' in metric[:2] or 'bytes' in metric else 'peak'} of "
                f"{runs.devices[index]:g} {runs.texts('hardware_id')[index]}.",
                metric, value=share[index] if metric in ("mfu", "mbu") else runs.num(metric)[index],
            )  # fmt: skip
    yield from _training_peak(runs)


def _training_peak(runs: Runs) -> Iterator[Finding]:
    rates = np.where(runs.is_training, runs.num("total_tokens_per_s"), np.nan)
    share = MIN_TRAINING_FLOPS * runs.llm("num_active_parameters") * rates / (runs.devices * runs.peak)
    for index in hits(share > 1):
        alike = [
            other for other in hits(~np.isnan(rates))
            if other != index and all(runs.texts(name)[other] == runs.texts(name)[index] for name in ("source_id", "llm_id", "hardware_id"))
        ]  # fmt: skip
        near = (
            f"; the same LLM and device print at most {max(rates[other] for other in alike):g} otherwise, so a decimal point is "
            f"probably lost" if alike else ""
        )  # fmt: skip
        yield runs.finding(
            index, "utilisation_above_one", "fault",
            f"{runs.named(index)}: {rates[index]:g} tokens/s would need {share[index]:.1f} times the peak of "
            f"{runs.devices[index]:g} {runs.texts('hardware_id')[index]}{near}.",
            "total_tokens_per_s", value=rates[index], expected=rates[index] / share[index],
        )  # fmt: skip


def weights_do_not_fit(sources: Sources) -> Iterator[Finding]:
    """Memory in use is at least the weights resident on one device, and at most what the device has."""
    runs = sources.runs
    techniques = [set(one) if one is not None else set() for one in runs.texts("optimizations")]
    is_sharded = np.array(["zero3" in one for one in techniques], bool) | (runs.one("expert_parallel") > 1)
    is_elsewhere = np.array(["offload" in one for one in techniques], bool)
    is_sharded |= np.isnan(runs.num("tensor_parallel"))
    shards = np.where(is_sharded, runs.devices, runs.one("tensor_parallel") * runs.one("pipeline_parallel"))
    is_whole = ~runs.is_("phase", "microbench")
    weights = np.where(is_whole, runs.llm("num_parameters") * runs.weight_bytes / shards, np.nan)
    is_away = is_elsewhere & (is_sharded | ~runs.is_training)
    capacity = runs.device("memory_bytes")
    for metric in RESIDENT:
        memory = runs.num(metric)
        for index in hits(runs.is_ok & ~is_away & (memory < weights)):
            yield runs.finding(
                index, "weights_do_not_fit", "fault",
                f"{runs.named(index)}: {_gb(memory[index])} printed, but the {runs.texts('weight_dtype')[index]} weights of "
                f"{runs.texts('llm_id')[index]} alone take {_gb(weights[index])} of each device.",
                metric, value=memory[index], expected=weights[index],
            )  # fmt: skip
        for index in hits(runs.is_ok & (memory > capacity * (1 + ROUNDING))):
            yield runs.finding(
                index, "memory_above_device", "doubt",
                f"{runs.named(index)}: {_gb(memory[index])} on {runs.texts('hardware_id')[index]}, which has {_gb(capacity[index])}.",
                metric, value=memory[index], expected=capacity[index],
            )  # fmt: skip
    is_told = np.any([~np.isnan(runs.num(metric)) for metric in RESIDENT], axis=0)
    is_counted = ~np.isnan(runs.num("num_devices"))
    yield from _beyond_capacity(
        runs, weights, runs.is_ok & ~is_told & ~is_elsewhere & is_counted & (weights > capacity)
    )


def _beyond_capacity(runs: Runs, weights: Floats, mask: Mask) -> Iterator[Finding]:
    """Runs whose weights do not go into their devices, those of one LLM, device and layout in one finding."""
    chosen = np.flatnonzero(mask)
    names = ("source_id", "llm_id", "hardware_id", "weight_dtype", "tensor_parallel", "num_devices")
    alike: dict[tuple[object, ...], list[int]] = {}
    for index in chosen.tolist():
        alike.setdefault(tuple(runs.texts(name)[index] for name in names), []).append(index)
    for found in alike.values():
        index = found[0]
        more = "" if len(found) == 1 else f" So have {len(found) - 1} more runs."
        yield runs.finding(
            index,
            "weights_do_not_fit",
            "doubt",
            f"{runs.named(index)}: the {runs.texts('weight_dtype')[index]} weights of {runs.texts('llm_id')[index]} take {_gb(weights[index])} of "
            f"each of {runs.devices[index]:g} {runs.texts('hardware_id')[index]} as they are split, which hold "
            f"{_gb(runs.device('memory_bytes')[index])}.{more}",
            value=weights[index],
            expected=runs.device("memory_bytes")[index],
        )


def super_linear_scaling(sources: Sources) -> Iterator[Finding]:
    """n devices are at most n times as fast as one; more says that the one-device figure is held back by something else."""
    runs = sources.runs
    rates = _or(runs.num("output_tokens_per_s"), runs.num("total_tokens_per_s"))
    is_rated = runs.is_ok & (rates > 0) & ~runs.is_("phase", "microbench") & ~np.isnan(runs.devices)
    split = (
        "num_devices",
        "tensor_parallel",
        "pipeline_parallel",
        "data_parallel",
        "expert_parallel",
        "interconnect",
        "environment_id",
    )
    for group in runs.groups(*split, of=is_rated):
        fewest = runs.devices[group].min()
        base = rates[group][runs.devices[group] == fewest].max()
        more = runs.devices[group] / fewest
        gain = rates[group] / base / more
        best = int(gain.argmax())
        index = int(group[best])
        if gain[best] > 1 + (ROUNDING if runs.is_published[index] else SLACK):
            of_one = "one device" if fewest == 1 else f"{fewest:g} devices"
            yield runs.finding(
                index,
                "super_linear_scaling",
                "doubt",
                f"{runs.named(index)}: {rates[index]:g} tokens/s on {runs.devices[index]:g} devices is {rates[index] / base:.2f} times the "
                f"{base:g} of {of_one}, which something else than the device holds back: its host, or memory too small for the batch.",
                _rate_name(runs, index),
                value=rates[index],
                expected=base * more[best],
            )


def memory_falls_with_batch(sources: Sources) -> Iterator[Finding]:
    """Peak memory of one configuration does not fall when only the batch grows."""
    runs = sources.runs
    memory = runs.num("memory_peak_bytes")
    is_known = runs.is_ok & ~np.isnan(memory) & ~np.isnan(runs.num("batch_size"))
    kinds = np.array([known.get("memory_peak_bytes", "") for known in runs.definitions], object)
    for alike in runs.groups("batch_size", of=is_known):
        for kind in dict.fromkeys(kinds[alike]):
            group = alike[kinds[alike] == kind]
            ordered = sorted(group.tolist(), key=lambda index: float(runs.num("batch_size")[index]))
            for small, large in pairwise(ordered):
                is_printed = runs.is_published[large]
                is_larger = runs.num("batch_size")[large] > runs.num("batch_size")[small]
                if is_larger and memory[large] < memory[small] * (1 - (ROUNDING if is_printed else SLACK)):
                    yield runs.finding(
                        large, "memory_falls_with_batch", "fault" if is_printed else "doubt",
                        f"{runs.named(large)}: {_gb(memory[large])} at batch size {runs.num('batch_size')[large]:g}, but "
                        f"{_gb(memory[small])} at batch size {runs.num('batch_size')[small]:g} ({runs.texts('source_id')[small]}).",
                        "memory_peak_bytes", value=memory[large], expected=memory[small],
                    )  # fmt: skip


def flops_linear_in_sequence(sources: Sources) -> Iterator[Finding]:
    """FLOPs of attention grow with the square of the sequence (in a decode step: with the context); without them they are linear."""
    runs = sources.runs
    flops = runs.num("flops")
    for metric, phases in (
        ("input_tokens", ("prefill", "forward", "pretrain_step", "finetune_step")),
        ("context_tokens", ("decode",)),
    ):
        lengths = runs.num(metric)
        is_known = runs.is_ok & (flops > 0) & (lengths > 0) & runs.is_("phase", *phases)
        width = runs.llm("num_layers") * runs.llm("num_heads") * runs.llm("head_dim")
        for group in runs.groups(metric, of=is_known):
            ordered = sorted(group.tolist(), key=lambda index: float(lengths[index]))
            short, long = ordered[0], ordered[-1]
            grown = flops[long] / flops[short] / (1.0 if metric == "context_tokens" else lengths[long] / lengths[short])
            missing = width[long] * (lengths[long] - lengths[short]) / runs.llm("num_active_parameters")[long]
            if abs(grown - 1) < 1e-3 and missing > 1e-2:
                yield runs.finding(
                    long, "flops_linear_in_sequence", "fault",
                    f"{runs.named(long)}: {flops[long]:.4g} FLOP at {metric} {lengths[long]:g} and {flops[short]:.4g} at {lengths[short]:g} "
                    f"are {'the same' if metric == 'context_tokens' else 'in proportion'}: those of attention are missing (about "
                    f"{missing:.0%} more).",
                    "flops", value=flops[long], about=metric,
                )  # fmt: skip


def work_differs(sources: Sources) -> Iterator[Finding]:
    """FLOPs, weights and KV cache of a configuration are arithmetic: those given are those of the closed form."""
    runs = sources.runs
    for metric in ("flops", "weight_bytes_read", "kv_bytes_read", "kv_cache_bytes", "weights_bytes"):
        values, closed = runs.num(metric), runs.twin(metric)
        off = np.abs(values - closed)
        for index in hits(runs.is_ok & (off > closed * (0.005 if metric == "flops" else 0.01))):
            if off[index] <= digits(values[index])[1]:
                continue
            head = _head_macs(runs, index)
            is_head = metric == "flops" and abs(closed[index] - values[index] - head) <= max(
                digits(values[index])[1], 0.001 * closed[index]
            )
            why = (
                f" What is missing is the output head counted once, {head:.3g} operations for as many multiply-adds." if is_head else ""
            )  # fmt: skip
            yield runs.finding(
                index, "work_differs", "fault" if is_head else "doubt",
                f"{runs.named(index)}: {metric} {values[index]:.4g}, the closed form of {runs.texts('llm_id')[index]} gives {closed[index]:.4g} "
                f"({values[index] / closed[index] - 1:+.1%}).{why}",
                metric, value=values[index], expected=closed[index],
            )  # fmt: skip


def weights_without_embedding(sources: Sources) -> Iterator[Finding]:
    """A figure named as the memory of weights is that of all parameters, embedding and output head included."""
    runs, samples = sources.runs, sources.samples
    scale = {"G": GB, "GB": GB, "GiB": 2.0**30, "M": 1e6, "MB": 1e6, "MiB": 2.0**20, "B": 1.0}
    columns = samples.texts("metric"), samples.num("value"), samples.texts("unit")
    for index, metric, value, unit in sources.placed(samples, *columns):
        name = str(metric).lower()
        if "weight" not in name or "memory" not in name or unit not in scale or runs.devices[index] > 1:
            continue
        whole = runs.llm("num_parameters")[index] * runs.weight_bytes[index]
        printed, half = value * scale[unit], digits(value)[1] * scale[unit]
        if not whole - printed > max(half, 0.01 * whole):
            continue
        tables = 2 * runs.llm("vocab_size")[index] * runs.llm("hidden_size")[index] * runs.weight_bytes[index]
        why = (
            " What is missing is the embedding and the output head."
            if abs(whole - tables - printed) <= 2 * half
            else ""
        )
        yield runs.finding(
            index, "weights_without_embedding", "fault",
            f"{runs.named(index)}: {metric} {value:g} {unit}, the {runs.llm('num_parameters')[index]:.0f} parameters of "
            f"{runs.texts('llm_id')[index]} take {_gb(whole)} in {runs.texts('weight_dtype')[index]}.{why}",
            metric, value=value, expected=whole / scale[unit],
        )  # fmt: skip


def kernels_above_roof(sources: Sources) -> Iterator[Finding]:
    """A kernel takes at least its bound; of those bound by memory only what is larger than the last-level cache counts."""
    runs, kernels = sources.runs, sources.kernels
    numbers = (kernels.num(name) for name in ("num_rows", "num_above", "worst_ratio"))
    for index, kernel, worst, count, above, ratio in sources.placed(
        kernels, kernels.texts("kernel"), kernels.texts("worst"), *numbers
    ):
        if above > 0:
            yield runs.finding(
                index, "point_above_roof",
                "fault" if ratio > 2 else "doubt",
                f"{runs.named(index)}: {above:g} of {count:g} {kernel} rows are faster than {runs.texts('hardware_id')[index]} can be by its "
                f"datasheet, the worst {ratio:.3g} times ({worst}).",
                "time_s", value=above, about=str(kernel),
            )  # fmt: skip


CHECKS = (
    point_above_roof, served_faster_than_weights, utilisation_above_one, weights_do_not_fit, super_linear_scaling,
    memory_falls_with_batch, flops_linear_in_sequence, work_differs, weights_without_embedding, kernels_above_roof,
)  # fmt: skip


def _times(runs: Runs) -> dict[str, Floats]:
    """Metric -> seconds of one execution: the latency, or what a rate over all sequences makes of it where there is none."""
    latency = runs.num("latency_s")
    is_free = np.isnan(latency)
    over_all = {
        metric: np.array([known.get(metric) in ("tokens_over_duration", "tokens_over_latency") for known in runs.definitions], bool)
        for metric in ("output_tokens_per_s", "total_tokens_per_s")
    }  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        step = runs.sequences / runs.num("output_tokens_per_s")
        whole = runs.sequences * runs.num("input_tokens") / runs.num("total_tokens_per_s")
    is_decode = runs.is_("phase", "decode") & is_free & over_all["output_tokens_per_s"]
    is_pass = (runs.is_("phase", "prefill") | runs.is_training) & is_free & over_all["total_tokens_per_s"]
    return {
        "latency_s": latency,
        "output_tokens_per_s": np.where(is_decode, step, np.nan),
        "total_tokens_per_s": np.where(is_pass, whole, np.nan),
    }


def _sheet(runs: Runs, index: int) -> str:
    return "the datasheet" if runs.has_datasheet[index] else "what is reckoned of it"


def _head_macs(runs: Runs, index: int) -> float:
    """Multiply-adds of the output head for one token of each sequence."""
    return float(runs.sequences[index] * runs.llm("vocab_size")[index] * runs.llm("hidden_size")[index])


def _rate_name(runs: Runs, index: int) -> str:
    return "total_tokens_per_s" if np.isnan(runs.num("output_tokens_per_s")[index]) else "output_tokens_per_s"


def _or(values: Floats, others: Floats | float) -> Floats:
    return np.where(np.isnan(values), others, values)


def _gb(value: float) -> str:
    return f"{value / GB:.3g} GB"


def _time(value: float) -> str:
    return f"{value:.4g} s" if value >= 1 else f"{value * 1e3:.4g} ms"
