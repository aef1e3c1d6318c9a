"""Traces of torch.profiler: real ones of many machines against a plain reading of the same file, and small ones with known answers."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import _importing, _kernel_kinds, _launches, _trace, from_torch_trace
from warehouse import catalog, schema, store

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
SAMPLES = (
    "b200_eager.json.gz", "h100_bert-small.json.gz", "hta_cpu_only.pt.trace.json.gz", "hta_cupti_profiler_counters.json.gz",
    "hta_mi250_minitoy_train.json.gz", "hta_sampled_rank-0_distributed.json.gz", "sglang_qwen3-8b_decode.json.gz",
)  # fmt: skip


def sample(shared: Path, name: str) -> Path:
    return shared / "data" / "formats" / "torch_profiler_chrome_trace" / name


def plainly(path: Path) -> list[dict[str, Any]]:
    """Complete events of a file, read the simple way."""
    events: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return [event for event in events if event["ph"] == "X"]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of a union of (start, end), by walking along it."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def write(path: Path, events: list[dict[str, Any]], **top: Any) -> Path:
    path.write_text(json.dumps({"schemaVersion": 1, **top, "traceEvents": events}))
    return path


def event(category: str, name: str, start: float, duration: float, thread: int = 1, **args: Any) -> dict[str, Any]:
    """A complete event; `_` in the names of its arguments stands for a space."""
    args = {key.replace("_", " "): value for key, value in args.items()}
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": 7,
        "tid": thread,
        "ts": start,
        "dur": duration,
        "args": args,
    }


def kernel(name: str, start: float, duration: float, correlation: int, stream: int = 7, **args: Any) -> dict[str, Any]:
    return event("kernel", name, start, duration, stream, device=0, stream=stream, correlation=correlation, **args)


def launch(start: float, correlation: int, name: str = "cudaLaunchKernel", thread: int = 1) -> dict[str, Any]:
    return event("cuda_runtime", name, start, 2, thread, correlation=correlation)


def launches_of(path: Path) -> _launches.Launches:
    return _launches.Launches(_trace.read(path))


def rows_of(path: Path, phase: str = "prefill") -> list[dict[str, Any]]:
    return launches_of(path).kernel_rows(phase)


def landed(landing: Path, table: str) -> list[dict[str, Any]]:
    return [row for path in sorted((landing / table).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


# ---- real traces


@pytest.mark.parametrize("name", SAMPLES)
def test_kernel_totals_agree_with_the_traces_own_sums(shared: Path, name: str) -> None:
    worked = [one for one in plainly(sample(shared, name)) if one.get("cat") in ON_DEVICE]
    times = launches_of(sample(shared, name)).device_times()

    assert {one.device for one in times} == {one["args"]["device"] for one in worked}
    for device in times:
        here = [one for one in worked if one["args"]["device"] == device.device]
        kernels = [one for one in here if one["cat"] == "kernel"]
        spans = [(one["ts"], one["ts"] + one["dur"]) for one in here]
        others = [span for span, one in zip(spans, here, strict=True) if not _is_communication(one["name"])]
        assert device.num_kernels == len(kernels)
        assert device.kernel_sum_s == pytest.approx(sum(one["dur"] for one in kernels) / 1e6, rel=1e-9)
        assert device.busy_s == pytest.approx(covered(spans) / 1e6, rel=1e-6)
        assert device.span_s == pytest.approx((max(end for _, end in spans) - min(start for start, _ in spans)) / 1e6)
        assert device.idle_s == pytest.approx(device.span_s - covered(spans) / 1e6)
        assert device.exposed_communication_s == pytest.approx((covered(spans) - covered(others)) / 1e6, abs=1e-9)


def _is_communication(name: str) -> bool:
    return "nccl" in name.lower() or "all_reduce" in name


@pytest.mark.parametrize("name", SAMPLES)
def test_rows_of_kernels_add_up_to_the_trace(shared: Path, name: str) -> None:
    launches = launches_of(sample(shared, name))
    rows = launches.kernel_rows("forward")
    kernels = [one for one in plainly(sample(shared, name)) if one.get("cat") in ON_DEVICE]
    column = "device_time_s" if kernels else "time_s"
    found = launches.num_executions * sum(row["count"] * row[column] for row in rows)

    assert found == pytest.approx(
        sum(one["dur"] for one in kernels or _outermost(sample(shared, name))) / 1e6, rel=1e-9
    )
    assert (launches.kernel_time_s() is None) == (not kernels)
    assert {row["op_kind"] for row in rows} <= set(schema.OP_KINDS)
    if launches.num_steps <= 1 and kernels:
        assert sum(row["count"] for row in rows) == len(kernels)


def _outermost(path: Path) -> list[dict[str, Any]]:
    """Operators of a step that lie in no other of their thread: what self times add up to. Collectives are operators."""
    events = plainly(path)
    steps = [(one["ts"], one["ts"] + one["dur"]) for one in events if one["name"].startswith("ProfilerStep#")]
    operators = [
        one
        for one in events
        if (one.get("cat") == "cpu_op" or one["name"].startswith("gloo:"))
        and (not steps or any(begin <= one["ts"] <= end for begin, end in steps))
    ]
    return [
        one
        for one in operators
        if not any(
            other is not one
            and other["tid"] == one["tid"]
            and other["ts"] <= one["ts"]
            and one["ts"] + one["dur"] <= other["ts"] + other["dur"]
            for other in operators
        )
    ]


def test_kernels_of_an_h100_belong_to_the_modules_that_called_them(shared: Path) -> None:
    launches = launches_of(sample(shared, "h100_bert-small.json.gz"))
    kernels, modules = launches.kernel_rows("forward"), launches.module_rows("forward")

    inside = sum(row["count"] * row["device_time_s"] for row in kernels if row["parent_path"] is not None)
    everything = sum(row["count"] * row["device_time_s"] for row in kernels)
    assert inside > 0.99 * everything
    assert {row["parent_path"] for row in kernels} - {None} <= {row["path"] for row in modules}
    head = next(row for row in kernels if row.get("n") == 30522)
    assert head["flops"] == 2 * 141 * 512 * 30522
    assert head["bytes_moved"] == 2 * (141 * 512 + 512 * 30522 + 141 * 30522)
    attention = [row for row in kernels if row["op_kind"] == "attention" and row.get("flops")]
    assert [row["flops"] for row in attention] == [4 * 8 * 141 * 141 * 64] * 4
    assert [row["layer_index"] for row in attention] == [0, 1, 2, 3]
    containers = {row["parent_path"] for row in modules}
    leaves = [row for row in modules if row["path"] not in containers]
    assert sum(row["count"] * row["device_time_s"] for row in leaves) == pytest.approx(inside)


def test_kernels_of_a_graph_belong_to_its_replay(shared: Path) -> None:
    path = sample(shared, "sglang_qwen3-8b_decode.json.gz")
    events = plainly(path)
    replays = {one["args"]["correlation"] for one in events if one["name"] == "hipGraphLaunch"}
    replayed = [one for one in events if one.get("cat") == "kernel" and one["args"]["correlation"] in replays]
    rows = [row for row in rows_of(path, "decode") if row["path"].startswith("hipGraphLaunch/")]

    assert len(replayed) > 500
    assert sum(row["count"] for row in rows) == len(replayed)
    assert {row["parent_path"] for row in rows} == {None}
    assert {"gemm", "attention", "norm", "rope", "activation"} <= {row["op_kind"] for row in rows}


def test_a_training_step_has_its_parts(shared: Path) -> None:
    rows = rows_of(sample(shared, "hta_mi250_minitoy_train.json.gz"), "pretrain_step")
    parts = {row["phase"] for row in rows}
    weights = [row for row in rows if row["op_kind"] == "gemm"]
    assert parts == {"forward", "backward", "optimizer"}
    assert {(row["phase"], row["flops"]) for row in weights} == {("forward", 2 * 5 * 128 * 128), ("backward", 2 * 5 * 128 * 128)}  # fmt: skip


# ---- reading


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    frame = json.dumps(event("python_function", "module.py(12): forward " + "x" * 400, 5, 1))
    with path.open("w") as file:
        file.write('{"traceEvents": [')
        file.writelines(f"{frame},\n" for _ in range(40_000))
        file.write(json.dumps(event("cpu_op", "aten::mm", 5, 1)) + "]}")
    tracemalloc.start()
    trace = _trace.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert trace.num_events == 40_001
    assert len(trace.category) == 1
    assert path.stat().st_size > 20e6
    assert peak < 8e6


def test_old_spellings_and_numbers_as_text_read_the_same(tmp_path: Path) -> None:
    new = write(tmp_path / "new.json", [launch(1, 4), kernel("gemm", 10, 5.5, 4), event("cpu_op", "aten::mm", 0, 4)])
    old_events = json.loads(new.read_text())["traceEvents"]
    spelling = {"cuda_runtime": "Runtime", "kernel": "Kernel", "cpu_op": "Operator"}
    for one in old_events:
        one |= {"cat": spelling[one["cat"]], "ts": str(one["ts"]), "dur": str(one["dur"])}
        if "correlation" in one["args"]:
            one["args"]["correlation"] = str(one["args"]["correlation"])
    bare = tmp_path / "bare.json"
    bare.write_text("\ufeff" + json.dumps(old_events))
    assert rows_of(bare) == rows_of(new)
    assert rows_of(new)[0]["device_time_s"] == pytest.approx(5.5e-6)


def test_infinities_as_c_prints_them_are_read_over(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    text = json.dumps({"traceEvents": [kernel("a", 1, 2, 3, bandwidth=0), kernel("b", 4, 2, 3, bandwidth=1)]})
    path.write_text(text.replace('"bandwidth": 0', '"bandwidth": inf').replace('"bandwidth": 1', '"bandwidth": -nan'))
    assert [row["path"] for row in rows_of(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is cut off"),
        (b"hello", "it is not JSON"),
        (b'"hello"', "it is not JSON"),
        (b'{"traceEvents": [{"ph": "X", "cat": "kernel", "na', "is cut off, or not JSON"),
        (b'{"traceEvents": [{"ph": "X"}, ', "is cut off"),
        (gzip.compress(b'{"traceEvents": []}')[:-9], "cannot be read to its end"),
        (b"[[1, 2], [3, 4]]", "holds no events"),
        (b'{"traceEvents": []}', "neither an operator nor a kernel"),
        (b'{"benchmarks": [1, 2]}', "neither an operator nor a kernel"),
        (b'{"traceEvents": [{"ph": "X", "cat": "kernel", "name": "k"}]}', "event 1 has no time"),
    ],
)
def test_what_is_no_trace_is_refused_with_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(_trace.TraceError, match=said) as caught:
        _trace.read(path)
    assert "file.json" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_timeline_of_memory_is_refused(shared: Path) -> None:
    with pytest.raises(_trace.TraceError, match="a timeline of memory"):
        _trace.read(sample(shared, "hta_memory_timeline.raw.gz"))


def test_a_trace_is_kept_beside_the_landing_folder(tmp_path: Path) -> None:
    assert _trace.trace_folder(tmp_path / "landing") == tmp_path / "traces"
    assert _trace.trace_folder(tmp_path / "out") == tmp_path / "out" / "traces"


# ---- attribution


def annotated(tmp_path: Path) -> Path:
    """A layer's forward and backward on two threads: q_proj, its product in two kernels after a copy, an activation."""
    dims = [[4, 8], [16, 8]]
    return write(
        tmp_path / "trace.json",
        [
            event("user_annotation", "module::Net", 10, 200),
            event("user_annotation", "module:h.3.q_proj:Linear", 20, 80),
            event("cpu_op", "aten::linear", 22, 70, Input_Dims=dims, Input_type=["float", "float"], Sequence_number=5),
            event("cpu_op", "aten::copy_", 24, 6),
            launch(25, 1),
            event("cpu_op", "aten::addmm", 32, 50, Input_Dims=[[16], [4, 8], [8, 16]], Input_type=["float"] * 3,
                  Sequence_number=6),
            launch(40, 2),
            launch(44, 3),
            event("cpu_op", "aten::silu", 120, 40),
            launch(130, 4),
            event("cpu_op", "autograd::engine::evaluate_function: AddmmBackward0", 300, 90, thread=2, Sequence_number=6,
                  Fwd_thread_id=1),
            event("cpu_op", "aten::mm", 310, 60, thread=2, Input_Dims=[[8, 4], [4, 16]], Input_type=["float"] * 2),
            launch(320, 5, thread=2),
            kernel("copy_kernel", 60, 3, 1),
            kernel("cutlass_gemm", 70, 9, 2),
            kernel("splitKreduce_kernel", 80, 2, 3),
            kernel("vectorized_elementwise_kernel", 140, 4, 4),
            kernel("cutlass_gemm", 340, 7, 5),
            kernel("lost", 400, 1, 99),
        ],
    )  # fmt: skip


def test_a_kernel_belongs_to_launch_operator_and_module(tmp_path: Path) -> None:
    rows = {(row["path"], row["phase"]): row for row in rows_of(annotated(tmp_path))}
    q_proj = "h.3.q_proj"
    assert rows[f"{q_proj}/cutlass_gemm", "forward"] | {"device_time_s": 0} == {
        "path": f"{q_proj}/cutlass_gemm", "parent_path": q_proj, "level": "kernel", "layer_index": 3, "op_kind": "q_proj",
        "phase": "forward", "shapes": "[[16], [4, 8], [8, 16]]", "flops": 2.0 * 4 * 8 * 16, "m": 4, "n": 16, "k": 8,
        "bytes_moved": 4.0 * (4 * 8 + 8 * 16 + 4 * 16), "count": 1, "device_time_s": 0,
    }  # fmt: skip
    assert rows[f"{q_proj}/splitKreduce_kernel", "forward"].get("flops") is None
    assert rows[f"{q_proj}/copy_kernel", "forward"]["op_kind"] == "elementwise"
    assert rows["Net/vectorized_elementwise_kernel", "forward"]["op_kind"] == "activation"
    assert rows[f"{q_proj}/cutlass_gemm", "backward"]["flops"] == 2.0 * 8 * 4 * 16
    assert rows["lost", "forward"]["parent_path"] is None
    assert len(rows) == 6


def test_modules_hold_the_time_of_their_kernels(tmp_path: Path) -> None:
    rows = launches_of(annotated(tmp_path)).module_rows("forward")
    assert [(row["path"], row["parent_path"], row["class_name"], round(row["device_time_s"] * 1e6)) for row in rows] == [
        ("Net", None, "Net", 18), ("Net.(self)", "Net", None, 4), ("h.3.q_proj", "Net", "Linear", 14),
    ]  # fmt: skip


def test_several_executions_are_averaged(tmp_path: Path) -> None:
    events = [event("user_annotation", f"ProfilerStep#{step}", 100 * step, 90) for step in range(4)]
    for step in range(4):
        for index in range(3):
            number = 10 * step + index + 1
            events += [launch(100 * step + index, number), kernel("gemm", 100 * step + 20 * index, 1 + step, number)]
    (row,) = rows_of(write(tmp_path / "t.json", events))
    assert row["count"] == 3
    assert row["device_time_s"] == pytest.approx(2.5e-6)


def test_work_outside_steps_and_steps_without_work_do_not_count(tmp_path: Path) -> None:
    events = [event("user_annotation", f"ProfilerStep#{step}", 100 * step, 90) for step in (1, 2, 3)]
    events += [event("user_annotation", "module:a:Linear", 100 * step + 1, 20) for step in (0, 1, 2)]
    for step in (0, 1, 2):
        events += [launch(100 * step + 5, step + 1), kernel("gemm", 100 * step + 10, 10 * 7**step, step + 1)]
    path = write(tmp_path / "t.json", events)
    tables = imported(tmp_path / "out", path, hardware_id="h100-sxm")
    module, row = tables["ops"]
    (run,) = tables["runs"]
    whole = [row["value"] for row in tables["samples"] if row["metric"] == "torch_profiler:kernel_sum_s"]
    assert run["status_detail"].startswith("From a profiled pass: no latency. Times are means over 2 profiler steps.")
    assert (module["count"], row["count"], row["parent_path"]) == (1, 1, "a")
    assert row["device_time_s"] == module["device_time_s"] == pytest.approx((70 + 490) / 2 * 1e-6)
    assert run["kernel_time_s"] == pytest.approx((70 + 490) / 2 * 1e-6)
    assert whole == [pytest.approx((10 + 70 + 490) * 1e-6)]


def test_the_lag_of_a_launch_is_that_of_its_first_kernel(tmp_path: Path) -> None:
    events = [launch(0, 1, "cudaGraphLaunch"), *(kernel("gemm", 8 + 10 * index, 9, 1) for index in range(50))]
    events += [launch(600, 2), kernel("gemm", 604, 9, 2)]
    assert launches_of(write(tmp_path / "t.json", events)).launch_lag_s() == pytest.approx(6e-6)


def test_a_lost_launch_is_found_by_external_id(tmp_path: Path) -> None:
    events = [
        event("user_annotation", "module:a.o_proj:Linear", 0, 50),
        event("cpu_op", "aten::mm", 5, 20, External_id=42, Input_Dims=[[2, 3], [3, 5]], Input_type=["c10::Half"] * 2),
        kernel("gemm", 60, 4, 0, External_id=42),
    ]
    (row,) = rows_of(write(tmp_path / "t.json", events))
    assert (row["parent_path"], row["op_kind"], row["flops"]) == ("a.o_proj", "o_proj", 60.0)


def test_self_time_of_operators_excludes_those_they_call(tmp_path: Path) -> None:
    events = [
        event("cpu_op", "aten::linear", 0, 100),
        event("cpu_op", "aten::addmm", 10, 70),
        event("cpu_op", "aten::expand", 15, 5),
        event("cpu_op", "aten::linear", 100, 10, thread=2),
    ]
    rows = rows_of(write(tmp_path / "t.json", events))
    assert {row["path"]: (row["count"], round(row["time_s"] * 1e6, 6)) for row in rows} == {
        "aten::linear": (2, 20.0), "aten::addmm": (1, 65.0), "aten::expand": (1, 5.0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "operator", "module_kind", "kind"),
    [
        ("nvjet_tst_192x8_64x8_4x1_v_bz_TNT", None, None, "gemm"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "aten::addmm", "down_proj", "down_proj"),
        ("Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV", None, None, "gemm"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16>", None, None, "gemm"),
        ("bmm_MxE4m3_MxE2m1MxE4m3_Fp32_swiGlu", None, None, "gemm"),
        ("ampere_fp16_s16816gemm_fp16_64x64_sliced1x2", "aten::bmm", "attention", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<...>", None, None, "attention"),
        ("fmhaSm100aKernel_QkvE4m3OBfloat16H64PagedKv", None, None, "attention"),
        ("void vllm::reshape_and_cache_flash_kernel<...>", None, None, "other"),
        ("void (anonymous namespace)::softmax_warp_forward<...>", None, None, "softmax"),
        ("_ZN5aiter24add_rmsnorm_quant_kernelIDF16b", None, None, "norm"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_3", None, None, "norm"),
        ("void vllm::rotary_embedding_kernel<...>", None, None, "rope"),
        ("void at::native::vectorized_elementwise_kernel<4, ...>", "aten::mul", None, "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4, ...>", "aten::mul", "norm", "norm"),
        ("void at::native::elementwise_kernel<128, 2, direct_copy_kernel_cuda>", "aten::addmm", None, "elementwise"),
        ("split_embedding_codegen_forward_unweighted_kernel(fbgemm_gpu::x)", None, None, "embedding"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", None, None, "all_reduce"),
        ("ncclDevKernel_AllGather_RING_LL", None, None, "all_gather"),
        ("ncclKernel_ReduceScatter_RING_LL_Sum_half", None, None, "reduce_scatter"),
        ("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t", None, None, "send_recv"),
        ("ncclDevKernel_Broadcast_RING_LL", None, None, "communication"),
        ("void vllm::cross_device_reduce_1stage<__half, 8>", None, None, "all_reduce"),
        ("something_nobody_knows", None, None, "other"),
    ],
)
def test_kinds_of_kernels(name: str, operator: str | None, module_kind: str | None, kind: str) -> None:
    assert _kernel_kinds.kernel_kind(name, operator, module_kind) == kind


def test_kinds_of_copies() -> None:
    kinds = [
        _kernel_kinds.copy_kind(name)
        for name in (
            "Memcpy HtoD (Pinned -> Device)",
            "Memcpy DtoH (Device -> Pageable)",
            "Memcpy DtoD (Device -> Device)",
        )
    ]
    assert kinds == ["memcpy_h2d", "memcpy_d2h", "memcpy"]


INTERVALS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9), st.booleans()), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(intervals=INTERVALS)
def test_unions_equal_counting_every_microsecond(
    intervals: list[tuple[int, int, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    events = [
        kernel("ncclDevKernel_AllReduce" if speaks else "gemm", start, length, 1, stream=index % 3)
        for index, (start, length, speaks) in enumerate(intervals)
    ]
    (device,) = launches_of(write(tmp_path_factory.mktemp("t") / "t.json", events)).device_times()
    busy, speaking, other = ({second for start, length, speaks in intervals for second in range(start, start + length)
                              if wanted is None or speaks == wanted} for wanted in (None, True, False))  # fmt: skip
    assert device.busy_s * 1e6 == pytest.approx(len(busy))
    assert device.communication_s * 1e6 == pytest.approx(len(speaking))
    assert device.exposed_communication_s * 1e6 == pytest.approx(len(speaking - other), abs=1e-6)
    assert device.kernel_sum_s * 1e6 == pytest.approx(sum(length for _, length, _ in intervals))


# ---- importing


def imported(landing: Path, files: Any, **options: Any) -> dict[str, Any]:
    from_torch_trace.collect(landing, files=files, **{"phase": "forward", **options})
    return {table: landed(landing, table) for table in ("runs", "ops", "samples", "ranks", "environments", "sources")}


def test_a_trace_becomes_a_run_with_ops(shared: Path, tmp_path: Path) -> None:
    tables = imported(
        tmp_path, sample(shared, "b200_eager.json.gz"), phase="prefill", batch_size=1, input_tokens=888, dtype="bf16",
        settings=["tensor_parallel=8", "framework=vllm", "optimizations=quantized flash"],
    )  # fmt: skip
    (run,) = tables["runs"]
    assert run["hardware_id"] == catalog.find_hardware("NVIDIA B200").hardware_id
    assert (run["num_devices"], run["tensor_parallel"], run["framework"]) == (8, 8, "vllm")
    assert run["optimizations"] == ["flash", "quantized"]
    assert run["latency_s"] is None
    assert run["quality_tier"] == 1
    assert run["kernel_time_s"] == pytest.approx(0.0107936, rel=1e-4)
    assert run["communication_s"] == pytest.approx(0.0021415, rel=1e-4)
    assert dict(run["metric_definitions"]) == {"kernel_time_s": "profiler_busy"}
    assert run["collected_at"].year == 2026
    assert {row["level"] for row in tables["ops"]} == {"module", "kernel"}
    assert [row["rank"] for row in tables["ranks"]] == [0]
    assert tables["environments"][0]["cuda_version"] == "12.9"
    assert {row["metric"].partition(":")[0] for row in tables["samples"]} == {"torch_profiler"}


def test_a_second_import_adds_nothing(shared: Path, tmp_path: Path) -> None:
    original = sample(shared, "h100_bert-small.json.gz")
    unpacked = tmp_path / "other-name.json"
    unpacked.write_bytes(gzip.decompress(original.read_bytes()))
    home = store.Home.of(tmp_path / "home")
    home.prepare()
    counts = []
    for file in (original, unpacked):
        from_torch_trace.collect(home.landing, files=file, phase="forward")
        with store.open_store(home) as lake:
            lake.load()
            (row,) = lake.sql(
                "SELECT (SELECT count(*) FROM runs WHERE collector = 'from_torch_trace') AS runs, (SELECT count(*) FROM ops) AS ops, "
                "(SELECT count(*) FROM samples) AS samples, (SELECT count(*) FROM loads WHERE outcome <> 'loaded') AS refused"
            ).to_pylist()
            counts.append(row)
    assert counts[0] == counts[1]
    assert (counts[0]["runs"], counts[0]["refused"]) == (1, 0)


def test_a_trace_of_a_cpu_has_operators(shared: Path, tmp_path: Path) -> None:
    tables = imported(tmp_path, sample(shared, "hta_cpu_only.pt.trace.json.gz"), hardware_id="h100-sxm")
    (run,) = tables["runs"]
    collective = next(row for row in tables["ops"] if row["op_kind"] == "all_reduce")
    assert run["kernel_time_s"] is None
    assert run["environment_id"] is None
    assert "no kernel in the trace" in run["status_detail"]
    events = plainly(sample(shared, "hta_cpu_only.pt.trace.json.gz"))
    begin, end = next((one["ts"], one["ts"] + one["dur"]) for one in events if one["name"] == "ProfilerStep#551")
    inside = [one["dur"] for one in events if one["name"] == "gloo:all_reduce" and begin <= one["ts"] <= end]
    assert collective["count"] * collective["time_s"] == pytest.approx(sum(inside) / 1e6)
    assert collective["device_time_s"] is None


def test_every_rank_is_a_run(tmp_path: Path) -> None:
    properties = [{"id": 0, "name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 80e9}]
    files = [
        write(
            tmp_path / f"rank{rank}.json",
            [launch(0, 1), kernel("gemm", 5, 10, 1), launch(3, 2), kernel("ncclDevKernel_AllReduce_Sum", 10, 10 + rank, 2, stream=9)],
            deviceProperties=properties, distributedInfo={"rank": rank, "world_size": 2},
        )
        for rank in range(2)
    ]  # fmt: skip
    tables = imported(tmp_path / "out", files)
    assert [run["num_devices"] for run in tables["runs"]] == [2, 2]
    assert sorted((row["rank"], row["communication_s"], row["compute_s"]) for row in tables["ranks"]) == [
        (0, pytest.approx(10e-6), pytest.approx(10e-6)), (1, pytest.approx(11e-6), pytest.approx(10e-6)),
    ]  # fmt: skip


def test_what_cannot_be_imported_is_said_and_the_rest_lands(shared: Path, tmp_path: Path) -> None:
    names = ("hta_sampled_rank-0_distributed.json.gz", "hta_mi250_minitoy_train.json.gz", "h100_bert-small.json.gz")
    with pytest.raises(ValueError, match="hta_sampled") as caught:
        imported(tmp_path, [sample(shared, name) for name in names])
    nameless, unknown = str(caught.value).splitlines()
    assert nameless.startswith("hta_sampled_rank-0_distributed.json.gz names no hardware. Give it with --hardware;")
    assert "'AMD Radeon Graphics', which is not in the hardware catalogue. Give --hardware" in unknown
    assert [run["hardware_id"] for run in landed(tmp_path, "runs")] == ["h100-sxm"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"phase": None}, "does not say what was profiled: give --phase, or --set phase="),
        ({"phase": "training"}, "'training' is not a value of phase. Known: forward"),
        ({"settings": ["colour=red"]}, "'colour=red' does not set a column that can be set. Known: num_devices"),
        ({"settings": ["tensor_parallel=many"]}, "'many' is not a value of tensor_parallel: it takes int64."),
        ({"settings": ["attention=fast"]}, "'fast' is not a value of attention. Known: eager"),
        ({"llm_id": "gpt-9"}, "'gpt-9' is not in the LLM catalogue"),
        ({"hardware_id": "h1000"}, "'h1000' is not in the hardware catalogue"),
    ],
)
def test_options_that_say_nothing_known_are_refused(
    shared: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, LookupError)) as caught:
        imported(tmp_path, sample(shared, "h100_bert-small.json.gz"), **options)
    assert said in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_no_secret_and_no_path_of_a_trace_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = ("hf_planted0secret", "planted-host", "/planted/run", "planted/module.py")
    path = write(
        tmp_path / "trace.json",
        [
            event("python_function", "/planted/module.py(3): forward", 0, 9),
            event("user_annotation", "hf_planted0secret in an annotation", 0, 9),
            launch(0, 1),
            kernel("gemm", 5, 10, 1),
            {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "planted-host"}},
        ],
        metadata={"env": {"HF_TOKEN": "hf_planted0secret"}},
        env={"TOKEN": "hf_planted0secret"},
        host_name="planted-host",
        traceName="/planted/run/trace.json",
    )
    reported: list[str] = []
    tables = imported(tmp_path / "out", path, hardware_id="h100-sxm", report=reported.append)
    shown = repr(tables) + repr(_trace.read(path)) + "".join(reported) + capsys.readouterr().out
    assert tables["ops"]
    assert not [secret for secret in secrets if secret in shown]


def test_a_trace_written_again_keeps_its_events_and_drops_the_rest(shared: Path, tmp_path: Path) -> None:
    original = sample(shared, "h100_bert-small.json.gz")
    kept = tmp_path / "kept.json.gz"
    _trace.strip(original, kept)
    text = json.loads(gzip.decompress(kept.read_bytes()))
    assert {"metadata", "traceName"} <= set(json.loads(gzip.decompress(original.read_bytes())))
    assert set(text) <= {*_trace.KEPT, "traceEvents"}
    assert rows_of(kept) == rows_of(original)


@pytest.mark.parametrize(
    ("operator", "shapes", "flops", "elements"),
    [
        ("aten::mm", [[4, 8], [8, 16]], 2 * 4 * 8 * 16, 4 * 8 + 8 * 16 + 4 * 16),
        ("aten::baddbmm", [[3, 4, 16], [3, 4, 8], [3, 8, 16]], 3 * 2 * 4 * 8 * 16, 3 * (4 * 8 + 8 * 16 + 4 * 16)),
        ("aten::mv", [[4, 8], [8]], 2 * 4 * 8, 4 * 8 + 8 + 4),
        ("aten::linear", [[2, 4, 8], [16, 8]], 2 * 8 * 8 * 16, 8 * 8 + 8 * 16 + 8 * 16),
        ("aten::_grouped_mm", [[10, 8], [4, 8, 16], [4]], 2 * 10 * 8 * 16, 10 * 8 + 4 * 8 * 16 + 10 * 16),
        # 2 sequences, 4 query and 2 key heads of 8, 3 queries against 5 keys
        ("aten::_scaled_dot_product_flash_attention", [[2, 4, 3, 8], [2, 2, 5, 8], [2, 2, 5, 8]], 4 * 2 * 4 * 3 * 5 * 8,
         2 * (4 * 3 + 2 * 5 + 2 * 5 + 4 * 3) * 8),
    ],
)  # fmt: skip
def test_work_in_closed_form(operator: str, shapes: list[list[int]], flops: float, elements: float) -> None:
    work = _kernel_kinds.closed_form(operator, shapes, None)
    assert work is not None
    assert (work.flops, work.elements) == (flops, elements)


def test_a_convolution_counts_its_output() -> None:
    values = ["", "", "", "[2, 2]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1"]
    work = _kernel_kinds.closed_form("aten::convolution", [[2, 3, 9, 9], [4, 3, 3, 3], [4], [], [], []], values)
    assert work is not None
    assert work.flops == 2 * (2 * 5 * 5) * 4 * (3 * 3 * 3)


@pytest.mark.parametrize("shapes", [[], [[]], [[4, 8]], [[[1], [2]], [8, 16]]])
def test_shapes_of_another_kind_have_no_work(shapes: list[Any]) -> None:
    assert _kernel_kinds.closed_form("aten::mm", shapes, None) is None


@pytest.mark.parametrize("name", SAMPLES)
def test_a_trace_is_recognised_by_what_it_holds(shared: Path, name: str) -> None:
    assert _importing.importer(_importing.File(sample(shared, name))).TOOL == "torch_trace"


def test_a_memory_timeline_is_no_trace(shared: Path) -> None:
    assert not from_torch_trace.recognises(_importing.File(sample(shared, "hta_memory_timeline.raw.gz")))


def test_a_trace_imports_like_any_file(shared: Path, tmp_path: Path) -> None:
    path = sample(shared, "h100_bert-small.json.gz")
    with pytest.raises(_importing.Unreadable, match="does not say what was profiled"):
        _importing.collect(tmp_path / "none", files=path)
    said = ["phase=forward", "batch_size=2"]
    _importing.collect(tmp_path / "one", files=path, settings=said)
    from_torch_trace.collect(tmp_path / "other", files=path, phase="forward", batch_size=2)
    (one,), (other,) = landed(tmp_path / "one", "runs"), landed(tmp_path / "other", "runs")
    assert one == other
    assert (one["hardware_id"], one["batch_size"], one["command"]) == (
        "h100-sxm", 2, "python -m collectors from_torch_trace h100_bert-small.json.gz --set phase=forward --set batch_size=2",
    )  # fmt: skip
