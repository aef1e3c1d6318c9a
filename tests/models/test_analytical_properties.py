"""What holds of every answer of the default ruleset, whatever the LLM, sizes, dtypes, device and degrees."""

from __future__ import annotations

from typing import Any

import pytest
from analytical_rows import Row, answers, config, totals, work
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from models.analytical.engine import TOTALS
from models.analytical.tables import LABELS
from warehouse import catalog
from warehouse.catalog.llm import parameter_count
from warehouse.schema import DTYPE_BYTES

LLMS = catalog.llms()
DENSE = (
    "llama-2-7b",
    "llama-3-8b",
    "opt-350m",
    "gpt2",
    "bloom-560m",
    "falcon-7b",
    "qwen3-0.6b",
    "gpt-j-6b",
    "command-r",
)
WINDOWED = ("mistral-7b", "gemma-2-2b", "gemma-3-270m", "gpt-oss-20b", "phi-3-mini")
MOE = ("mixtral-8x7b", "qwen3-30b-a3b", "qwen1.5-moe-a2.7b", "llama-4-scout", "glm-4.5-air", "gpt-oss-20b")
MLA = ("deepseek-v2-lite", "deepseek-v3", "kimi-k2")
DECODERS = tuple(dict.fromkeys((*DENSE, *WINDOWED, *MOE, *MLA)))
DEVICES = ("a100-sxm-80gb", "h200", "t4", "mi300x", "b200", "v100-sxm-16gb", "rtx-4090")
WORK = (
    "flops", "weight_bytes_read", "activation_bytes_read", "activation_bytes_written", "kv_bytes_read",
    "kv_bytes_written",
)  # fmt: skip
ALMOST = 1 - 1e-9

examples = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.filter_too_much])


@st.composite
def configs(
    draw: st.DrawFn, *, llms: tuple[str, ...] = DECODERS, phases: tuple[str, ...] = ("forward", "prefill", "decode", "generate"),
    attentions: tuple[str, ...] = ("eager", "flash"), max_tensor: int = 1,
) -> Row:  # fmt: skip
    """A configuration within what its LLM is made for; degrees above one only where asked for."""
    llm_id, phase = draw(st.sampled_from(llms)), draw(st.sampled_from(phases))
    room = min(LLMS[llm_id].max_context_tokens or 2048, 20_000)
    lengths = {
        "decode": {"context_tokens": st.integers(1, room)},
        "generate": {"input_tokens": st.integers(1, room // 2), "output_tokens": st.integers(1, room // 2)},
    }.get(phase, {"input_tokens": st.integers(1, room)})
    row = config(llm_id, phase, **{name: draw(values) for name, values in lengths.items()})
    if phase == "prefill" and draw(st.booleans()):
        row["prefix_tokens"] = draw(st.integers(0, room - row["input_tokens"]))
    if phase in ("prefill", "generate") and draw(st.booleans()):
        row["chunk_tokens"] = draw(st.integers(16, 4096))
    return row | {
        "hardware_id": draw(st.sampled_from(DEVICES)),
        "batch_size": draw(st.integers(1, 300)),
        "attention": draw(st.sampled_from(attentions)),
        "weight_dtype": draw(st.sampled_from(["fp16", "fp8", "int8", "int4", "nvfp4", "int1"])),
        "kv_dtype": draw(st.sampled_from(["fp16", "fp8", "int8", "int4"])),
        "execution": draw(st.sampled_from(["eager", "graph", "compiled", "engine"])),
        "tensor_parallel": draw(st.sampled_from([size for size in (1, 2, 4, 8) if size <= max_tensor])),
    }


@st.composite
def steps(draw: st.DrawFn) -> Row:
    """A training step within what its LLM is made for: any optimizations, replicas, stages and micro-batches."""
    llm_id, parts = draw(st.sampled_from((*DECODERS, "t5-base", "bart-large"))), draw(st.sampled_from([1, 2, 4]))
    llm = LLMS[llm_id]
    options = draw(st.sampled_from([["zero1"], ["zero2"], ["zero3"], []]))
    if options:
        options = options + draw(st.sampled_from([[], ["offload"]]))
    options = sorted(options + draw(st.sampled_from([[], ["recompute"]])))
    row = config(llm_id, "pretrain_step", input_tokens=draw(st.integers(1, min(llm.max_context_tokens or 2048, 4096))))
    if draw(st.booleans()):
        options = sorted(options + draw(st.sampled_from([["lora"], [] if llm.num_experts else ["qlora"]])))
        row |= {"phase": "finetune_step", "lora_rank": 16}
    is_divisible = llm.architecture == "decoder" and llm.num_layers % 2 == 0
    return row | {
        "hardware_id": draw(st.sampled_from(DEVICES)),
        "batch_size": parts * draw(st.integers(1, 30)),
        "num_micro_batches": parts,
        "attention": draw(st.sampled_from(["eager", "flash"])),
        "weight_dtype": "nf4" if "qlora" in options else "fp16",
        "optimizer_dtype": draw(st.sampled_from(["fp16", "fp32"])),
        "execution": draw(st.sampled_from(["eager", "graph", "compiled", "engine"])),
        "tensor_parallel": draw(st.sampled_from([1, 2])),
        "pipeline_parallel": draw(st.sampled_from([1, 2])) if is_divisible else 1,
        "data_parallel": draw(st.sampled_from([1, 2, 8, 64])),
        "optimizations": options,
    }


@st.composite
def staged(draw: st.DrawFn) -> Row:
    """A configuration of inference with stages and micro-batches, its weights at hand or streamed."""
    row, parts = draw(configs(max_tensor=8)), draw(st.sampled_from([1, 1, 2]))
    return row | {
        "batch_size": row["batch_size"] * parts,
        "num_micro_batches": parts,
        "pipeline_parallel": draw(st.sampled_from([1, 2])),
        "optimizations": draw(st.sampled_from([[], ["offload"]])),
    }


def answered(*rows: Row, **options: Any) -> list[Row]:
    """Totals of rows that all have an answer."""
    found = totals(rows, **options)
    for row in found:
        assume(row["status"] == "ok" or "tensor_parallel" not in row["status_detail"])
        assert row["status"] == "ok", row["status_detail"]
    return found


def faster(hardware_id: str, *columns: str, by: float = 2.0) -> dict[str, Row]:
    """A device with some of its rates multiplied."""
    row = catalog.find_hardware(hardware_id).row
    names = [name for name in row if name.startswith(columns) and name.endswith("_per_s") and row[name] is not None]
    assert names
    return {hardware_id: {name: row[name] * by for name in names}}


# Work


@examples
@given(row=configs(max_tensor=8), name=st.sampled_from(["batch_size", "tokens"]), more=st.integers(1, 50))
def test_work_and_memory_grow_with_batch_and_context(row: Row, name: str, more: int) -> None:
    if name == "tokens":
        name = "context_tokens" if row["phase"] == "decode" else "input_tokens"
    larger = row | {name: row[name] + more}
    assume(totals([larger])[0]["status"] == "ok")
    low, high = answered(row, larger)
    for column in (*WORK, "bytes_moved", "kv_cache_bytes", "activation_peak_bytes", "memory_peak_bytes", "roofline_s"):
        assert high[column] >= low[column] * ALMOST, column


@examples
@given(
    row=configs(max_tensor=4),
    stages=st.sampled_from([1, 2, 3]),
    parts=st.sampled_from([1, 2, 4]),
    replicas=st.integers(1, 3),
)
def test_totals_are_the_ops_of_all_devices(row: Row, stages: int, parts: int, replicas: int) -> None:
    row = row | {"pipeline_parallel": stages, "num_micro_batches": parts, "data_parallel": replicas}
    row["batch_size"] *= parts
    answered(row)
    (whole,), (ops,) = answers([row])
    for name in WORK:
        assert whole[name] == pytest.approx(work(ops, name), rel=1e-9), name
    assert whole["bytes_moved"] == pytest.approx(sum(whole[name] for name in WORK[1:]), rel=1e-12)
    turns = (parts + stages - 1) / (parts * stages)
    assert whole["roofline_s"] == pytest.approx(work(ops, "roofline_s") * turns, rel=1e-9)


@examples
@given(row=configs(llms=tuple(LLMS), phases=("forward",)))
def test_weights_are_the_parameters_times_their_bytes(row: Row) -> None:
    if LLMS[row["llm_id"]].architecture == "encoder_decoder":
        row = row | {"output_tokens": 7}
    size = DTYPE_BYTES[row["weight_dtype"]]
    assert answered(row)[0]["weights_bytes"] == parameter_count(LLMS[row["llm_id"]]) * size


@examples
@given(row=configs(phases=("prefill", "decode")), dtype=st.sampled_from(["weight_dtype", "kv_dtype"]), data=st.data())
def test_narrower_weights_or_cache_never_cost_bytes_or_time(row: Row, dtype: str, data: st.DataObject) -> None:
    narrow = data.draw(st.sampled_from(["fp8", "int8", "int4", "nvfp4", "int2", "int1"]))
    wide, narrow_row = answered(row | {dtype: "fp16"}, row | {dtype: narrow})
    for name in ("bytes_moved", "weights_bytes", "kv_cache_bytes", "memory_peak_bytes", "roofline_s"):
        assert narrow_row[name] <= wide[name] / ALMOST, name


@examples
@given(
    rows=st.lists(
        st.builds(
            lambda row, parts, options: row | {"batch_size": row["batch_size"] * parts, "num_micro_batches": parts, "pipeline_parallel": parts, "optimizations": options},
            configs(llms=("llama-3-8b", "gemma-3-270m", "mixtral-8x7b", "deepseek-v2-lite"), max_tensor=4),
            st.sampled_from([1, 2]),
            st.sampled_from([[], ["offload"]]),
        ),
        min_size=2,
        max_size=12,
    )
)  # fmt: skip
def test_rows_answered_together_are_rows_answered_alone(rows: list[Row]) -> None:
    """Whatever is shared among rows, folded over chunks and steps, or one number for all of them."""
    together, ops = answers(rows)
    for row, found, found_ops in zip(rows, together, ops, strict=True):
        (alone,), (own_ops,) = answers([dict.fromkeys(rows[0]) | row])
        assert {name: found[name] for name in LABELS} == {name: alone[name] for name in LABELS}
        for name in TOTALS:
            assert (found[name] is None) == (alone[name] is None), name
            assert found[name] is None or found[name] == pytest.approx(alone[name], rel=1e-9, abs=1e-15), name
        executed = [
            {name: op[name] for name in ("path", "count", "flops", "bytes_moved")} for op in found_ops if op["count"]
        ]
        assert executed == [
            {name: pytest.approx(op[name], rel=1e-12) if name != "path" else op[name] for name in ("path", "count", "flops", "bytes_moved")}
            for op in own_ops
            if op["count"]
        ]  # fmt: skip


# Several devices


@examples
@given(
    row=configs(llms=("llama-2-7b", "llama-3-8b", "qwen3-0.6b", "mixtral-8x7b", "gpt-oss-20b", *MLA)),
    devices=st.sampled_from([2, 4]),
)
def test_tensor_parallel_divides_heads_and_widths_and_nothing_else(row: Row, devices: int) -> None:
    """Of all devices together, what is divided stays as it was and what is not is done by everyone."""
    llm = LLMS[row["llm_id"]]
    (one, many), (ops, divided) = answers([row, row | {"tensor_parallel": devices}])
    shared = [op for op in divided if op["op_kind"] not in ("all_reduce", "all_gather")]
    assert [op["path"] for op in shared] == [op["path"] for op in ops]
    for before, after in zip(ops, shared, strict=True):
        is_latent = llm.kv_lora_rank is not None and ("_a_proj" in before["path"] or "_a_norm" in before["path"])
        is_whole = is_latent or before["op_kind"] in ("norm", "residual_add", "router", "elementwise")
        is_whole = is_whole and not before["path"].endswith(("q_norm", "k_norm"))
        times = devices if is_whole else 1
        if before["op_kind"] in ("rope", "dequantize", "embedding"):
            assert before["flops"] * ALMOST <= after["flops"] <= before["flops"] * devices / ALMOST
        elif before["op_kind"] == "lm_head":  # the last device's share of the vocabulary is padded
            assert after["flops"] == pytest.approx(before["flops"], rel=1e-3)
        else:
            assert after["flops"] == pytest.approx(before["flops"] * times, rel=1e-12), before["path"]
    cached = one["kv_cache_bytes"] if llm.kv_lora_rank is not None else one["kv_cache_bytes"] / devices
    assert many["kv_cache_bytes"] == pytest.approx(cached)
    assert one["weights_bytes"] / devices < many["weights_bytes"] < one["weights_bytes"]


@examples
@given(llm_id=st.sampled_from(DECODERS), devices=st.sampled_from([1, 2, 4]), is_spread=st.booleans())
def test_a_large_batch_reads_all_the_weights_that_a_device_holds(llm_id: str, devices: int, is_spread: bool) -> None:
    """Two counts of the same weights: those that ops read, and those that memory holds, but for rows of tables."""
    llm = LLMS[llm_id]
    spread = {"expert_parallel": devices} if is_spread and llm.num_experts else {}
    row = config(llm_id, "forward", batch_size=2000, input_tokens=64, tensor_parallel=devices, **spread)
    assume(totals([row])[0]["status"] == "ok")
    (whole,), (ops,) = answers([row])
    read = work([op for op in ops if op["op_kind"] != "embedding"], "weight_bytes_read") / devices
    tables = 0 if llm.is_embedding_tied else llm.vocab_size * llm.embedding_size / devices
    held = whole["weights_bytes"] - 2 * (tables + llm.num_positions * llm.hidden_size)
    assert read == pytest.approx(held, rel=1e-4)


# Bounds, estimates, energy


@examples
@given(row=configs())
def test_the_bound_is_between_the_larger_of_both_sides_and_their_sum(row: Row) -> None:
    (whole,) = answered(row)
    device = catalog.find_hardware(row["hardware_id"])
    assert whole["roofline_s"] >= ALMOST * whole["flops"] / max(device.peaks.values())
    assert whole["roofline_s"] >= ALMOST * whole["bytes_moved"] / device.memory_bandwidth_bytes_per_s
    assert whole["roofline_s"] >= ALMOST * whole["memory_s"]
    assert whole["roofline_s"] <= (whole["compute_s"] + whole["memory_s"]) / ALMOST


@examples
@given(row=st.one_of(staged(), steps()))
def test_the_estimate_is_never_below_the_bound(row: Row) -> None:
    (whole,) = answered(row)
    assert whole["estimate_s"] >= whole["roofline_s"] * ALMOST
    assert whole["estimate_lower_s"] >= whole["roofline_s"] * ALMOST
    assert whole["estimate_lower_s"] <= whole["estimate_s"] <= whole["estimate_upper_s"]


@examples
@given(row=configs(max_tensor=8), stages=st.sampled_from([1, 2]))
def test_energy_is_at_most_what_the_boards_may_draw(row: Row, stages: int) -> None:
    (whole,) = answered(row | {"pipeline_parallel": stages})
    most = catalog.find_hardware(row["hardware_id"]).row["tdp_w"] * row["tensor_parallel"] * stages
    if whole["is_fitting"]:
        assert 0 < whole["energy_j"] <= most * whole["estimate_s"] / ALMOST
        assert whole["energy_j"] == pytest.approx(whole["power_avg_w"] * whole["estimate_s"])
    else:
        assert whole["energy_j"] is None


@examples
@given(
    row=st.one_of(staged(), steps()),
    columns=st.sampled_from(["memory_bandwidth", "link", "peak_", "vector", "host_link"]),
)
def test_a_faster_device_is_never_slower(row: Row, columns: str) -> None:
    row = row | {"hardware_id": "a100-sxm-80gb"}
    wanted = ("peak_", "vector") if columns == "peak_" else (columns,)
    (slow,) = answered(row)
    (fast,) = answered(row, hardware=faster(row["hardware_id"], *wanted))
    assert fast["roofline_s"] <= slow["roofline_s"] / ALMOST
    assert fast["estimate_s"] <= slow["estimate_s"] / ALMOST


@settings(examples, max_examples=60)
@given(row=st.one_of(staged(), steps()))
def test_elasticities_are_the_derivatives_of_the_bound(row: Row) -> None:
    """-d ln T / d ln rate, by a step too small for any op to change sides.

    Of a generation or a prompt in chunks, an op may be on one side in its first steps and on the other in its last; it is
    then counted on that of the mean step. An update on the host follows none of the device's rates.
    """
    row = row | {"hardware_id": "a100-sxm-80gb"}
    (whole,) = answered(row)
    found = {name: whole[f"{name}_elasticity"] for name in ("compute", "bandwidth", "link")}
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in found.values())
    is_updated_by_host = row["phase"].endswith("_step") and "offload" in row["optimizations"]
    assert sum(found.values()) < 1.0 if is_updated_by_host else sum(found.values()) == pytest.approx(1.0)
    is_folded = row["phase"] == "generate" or row.get("chunk_tokens") is not None
    rates = {
        "compute": ("peak_", "vector"),
        "bandwidth": ("memory_bandwidth",),
        "link": ("link", "host_link", "network"),
    }
    step = 1e-5
    for name, columns in rates.items():
        (other,) = answered(row, hardware=faster(row["hardware_id"], *columns, by=1 + step))
        slope = (1 - other["roofline_s"] / whole["roofline_s"]) / step
        assert slope == pytest.approx(found[name], abs=0.05 if is_folded else 1e-3), name


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("phase", ["prefill", "forward", "pretrain_step"])
def test_what_has_no_bound_is_refused_without_a_number(phase: str) -> None:
    """A length beyond all numbers, of an LLM that has no longest one."""
    rows = [config("bloom-560m", phase, input_tokens=tokens) for tokens in (8.0, float("inf"))]
    (known, unknown), (known_ops, unknown_ops) = answers(rows)
    assert (unknown["status"], unknown["status_detail"].split(":")[0]) == ("unsupported", "no bound")
    assert [name for name in TOTALS if unknown[name] is not None] == []
    assert known["roofline_s"] == pytest.approx(totals(rows[:1])[0]["roofline_s"])
    assert known_ops
    assert not unknown_ops


# Room


@settings(examples, max_examples=60)
@given(row=st.one_of(configs(max_tensor=8, attentions=("flash",)), steps()))
def test_the_largest_batch_fits_and_one_more_does_not(row: Row) -> None:
    """In as many micro-batches. Whatever batch is asked about, the answer is the same."""
    (whole,) = answered(row)
    most, parts = whole["max_batch_size"], row.get("num_micro_batches", 1)
    assert (most >= row["batch_size"]) == whole["is_fitting"]
    assert answered(row | {"batch_size": 7 * parts})[0]["max_batch_size"] == most
    if most >= 1:
        fits, beyond = answered(row | {"batch_size": most}, row | {"batch_size": most + parts})
        assert (fits["is_fitting"], beyond["is_fitting"]) == (True, False)


@examples
@given(row=configs(max_tensor=8, phases=("decode",)))
def test_the_longest_context_fits_and_one_more_does_not(row: Row) -> None:
    (whole,) = answered(row)
    most, limit = whole["max_context_tokens"], LLMS[row["llm_id"]].max_context_tokens
    if most >= 1:
        (fits,) = answered(row | {"context_tokens": most})
        assert fits["is_fitting"] is True
    else:
        assert answered(row | {"context_tokens": 1})[0]["is_fitting"] is False
    if most >= 1 and (limit is None or most < limit):
        (beyond,) = answered(row | {"context_tokens": most + 1})
        assert beyond["is_fitting"] is False


# Parts of a whole


@examples
@given(row=configs(phases=("generate",), max_tensor=2), outputs=st.integers(1, 60))
def test_a_generation_is_its_prefill_and_every_step(row: Row, outputs: int) -> None:
    row = row | {"output_tokens": outputs}
    silent = row | {"output_tokens": None}
    steps = [silent | {"phase": "decode", "chunk_tokens": None, "context_tokens": row["input_tokens"] + step} for step in range(1, outputs)]  # fmt: skip
    whole, *parts = answered(row, silent | {"phase": "prefill"}, *steps)
    for name in (*WORK, "compute_s", "memory_s", "roofline_s"):
        assert whole[name] == pytest.approx(sum(part[name] for part in parts), rel=1e-9), name
    assert whole["kv_cache_bytes"] == pytest.approx(parts[-1]["kv_cache_bytes"])
    assert whole["activation_peak_bytes"] == pytest.approx(max(part["activation_peak_bytes"] for part in parts))


def products(row: Row) -> float:
    """FLOPs of attention and of all products but the head's and the latents' expansion, which every chunk repeats."""
    (_,), (ops,) = answers([row])
    kept = [op for op in ops if op["op_kind"] not in ("lm_head", "dequantize") and "kv_b_proj" not in op["path"]]
    return work(kept, "flops")


@examples
@given(row=configs(phases=("prefill",), attentions=("flash",)), chunk=st.integers(1, 4096))
def test_a_prompt_in_chunks_has_the_flops_of_the_whole_prompt(row: Row, chunk: int) -> None:
    whole = row | {"chunk_tokens": None}
    assert products(row | {"chunk_tokens": chunk}) == pytest.approx(products(whole), rel=1e-9)
    silent, same = answered(whole, whole | {"chunk_tokens": row["input_tokens"]})
    assert {name: same[name] for name in WORK} == {name: silent[name] for name in WORK}
    assert same["roofline_s"] == silent["roofline_s"]


@examples
@given(row=configs(phases=("prefill",), attentions=("flash",)), share=st.floats(0, 1))
def test_a_cached_prefix_leaves_what_the_whole_prompt_has_beyond_it(row: Row, share: float) -> None:
    tokens = row["input_tokens"]
    prefix = int(share * (tokens - 1))
    row = row | {"prefix_tokens": None, "chunk_tokens": None}
    rest = products(row | {"prefix_tokens": prefix, "input_tokens": tokens - prefix})
    first = products(row | {"input_tokens": prefix}) if prefix else 0.0
    assert rest + first == pytest.approx(products(row), rel=1e-9)
    held, whole = answered(row | {"prefix_tokens": prefix, "input_tokens": tokens - prefix}, row)
    assert held["kv_cache_bytes"] == pytest.approx(whole["kv_cache_bytes"])
