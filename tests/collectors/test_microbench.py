"""Kernels, copies and collectives timed for real at tiny shapes: work by hand, roofs that hold, failures that are rows."""

import argparse
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from landed_rows import landed

torch = pytest.importorskip("torch")

from collectors import _machine, _memory, _session, _timing, local_profile, microbench  # noqa: E402
from collectors.microbench import _calls, _collectives, _rows, _shapes  # noqa: E402
from collectors.microbench._ceilings import Ceilings  # noqa: E402
from collectors.microbench._shapes import Shape  # noqa: E402
from warehouse import metrics, parquet, schema  # noqa: E402

ROOT = Path(__file__).parents[2]
RATES = ("achieved_flops_per_s", "achieved_bytes_per_s")
CACHE = 32.0 * _shapes.MiB
HARDWARE = {
    "name": "test", "memory_bandwidth_bytes_per_s": 1e12, "peak_fp32_flops_per_s": 1e14, "peak_bf16_flops_per_s": 2e14,
    "l2_bytes": CACHE, "source": "a datasheet", "source_date": "2026-01-01",
}  # fmt: skip
"""A device so fast that no measurement here beats it, whose row a lake knows: nothing is measured to make it."""


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Short cells, and a lock of the test's own: no measurement elsewhere on this machine holds it up."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(microbench, "RUN_S", 0.02)


def hardware():
    return {"hardware_id": _machine.hardware_id("cpu"), "kind": "cpu", **HARDWARE}


def measure(landing, **options):
    lines = []
    settings = {"preset": "tiny", "device": "cpu", "hardware_row": hardware()} | options
    return microbench.collect(landing, report=lines.append, **settings), lines


def session(landing, **options):
    return _session.open_session(
        microbench.NAME, microbench.SOURCE, landing, device="cpu", hardware_row=hardware(), **options
    )


def timing(*seconds):
    return _timing.Timing(tuple(_timing.Sample("measured", 0.0, one, one, None) for one in seconds), 0.0)


# ---- work by hand


@pytest.mark.parametrize(
    ("shape", "flops", "read", "written"),
    [
        (Shape("gemm", "bf16", m=3, n=5, k=7), 2 * 3 * 5 * 7, 2 * (3 * 7 + 5 * 7), 2 * 3 * 5),
        (Shape("gemm", "int8", m=3, n=5, k=7), 2 * 3 * 5 * 7, 3 * 7 + 5 * 7, 4 * 3 * 5),
        (Shape("gemm", "fp8", m=3, n=5, k=7), 2 * 3 * 5 * 7, 3 * 7 + 5 * 7, 2 * 3 * 5),
        (Shape("rms_norm", "fp32", m=3, n=8), 4 * 24, 4 * (24 + 8), 4 * 24),
        (Shape("layer_norm", "fp32", m=3, n=8), 7 * 24, 4 * (24 + 16), 4 * 24),
        (Shape("softmax", "bf16", m=3, n=8), 5 * 24, 2 * 24, 2 * 24),
        (Shape("silu_mul", "bf16", m=3, n=8), 6 * 24, 2 * 48, 2 * 24),
        (Shape("memcpy", "fp32", size_bytes=4096), None, 4096, 4096),
        (Shape("triad", "fp32", size_bytes=4096), 2 * 1024, 8192, 4096),
        (Shape("read", "fp32", size_bytes=4096), 1024, 4096, 0),
    ],
)
def test_work_is_what_can_be_counted_by_hand(shape, flops, read, written):
    work = _shapes.work(shape)
    assert work.flops == flops
    assert work.weight_bytes_read + work.activation_bytes_read + work.kv_bytes_read == read
    assert work.activation_bytes_written == written
    assert work.bytes_moved == read + written


def test_causal_attention_counts_the_pairs_it_keeps_and_grouped_heads_once():
    heads = {"batch_size": 2, "num_heads": 8, "num_kv_heads": 2, "head_dim": 16}
    prefill = _shapes.work(Shape("attention", "bf16", input_tokens=3, **heads))
    assert prefill.flops == 2 * 8 * (1 + 2 + 3) * (4 * 16 + 5)
    assert prefill.activation_bytes_read == 2 * 2 * 3 * 16 * (8 + 2 * 2)
    decode = _shapes.work(Shape("attention", "bf16", context_tokens=100, **heads))
    assert decode.flops == 2 * 8 * 100 * (4 * 16 + 5)
    assert decode.kv_bytes_read == 2 * 2 * 2 * 100 * 2 * 16
    assert decode.activation_bytes_read == decode.activation_bytes_written == 2 * 2 * 8 * 16


@pytest.mark.parametrize(
    ("kernel", "factor"),
    [("all_reduce", 2 * 3 / 4), ("all_gather", 3.0), ("reduce_scatter", 3 / 4), ("broadcast", 1.0)],
)
def test_bus_bytes_are_those_of_nccl_tests(kernel, factor):
    assert _shapes.bus_bytes(Shape(kernel, "fp32", size_bytes=1024, num_devices=4)) == 1024 * factor


def test_the_sweep_of_the_paper_is_its_own():
    options = {"device": "cuda", "cache_bytes": CACHE, "num_ranks": 1, "interconnect": None}
    shapes = _shapes.shapes("zhang-2023", ["gemm"], None, None, **options)
    sizes = {(one.m, one.n, one.k) for one in shapes}
    assert {one.dtype for one in shapes} == {"bf16"}
    assert {(666, 11008, 4096), (10624, 11008, 4096)} <= sizes
    assert {m for m, n, k in sizes if (n, k) == (16384, 16384)} == set(range(4096, 16385, 512))
    assert {m for m, n, k in sizes if m % 2 == 1} == set(range(4109, 16398, 512))
    assert len(shapes) == len(sizes) == 4 * 25 + 2
    copies = _shapes.shapes("zhang-2023", ["memcpy"], None, None, **options)
    assert {one.size_bytes for one in copies} == {4096 * 4**step for step in range(10)}
    assert {(one.kernel, one.host_memory) for one in copies} == {
        (kernel, memory) for kernel in ("memcpy_h2d", "memcpy_d2h") for memory in ("pinned", "pageable")
    }


@pytest.mark.parametrize("preset", _shapes.PRESETS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_preset_asks_for_one_configuration_twice(preset, device):
    families = list(_shapes.FAMILIES)
    shapes = _shapes.shapes(
        preset, families, None, ["cold", "warm"], device=device, cache_bytes=CACHE, num_ranks=2, interconnect=None
    )
    keys = {(schema.config_id(one.configuration()), one.execution) for one in shapes}
    assert len(keys) == len(shapes)
    assert {one.family for one in shapes} == set(families)


def test_both_states_of_the_cache_are_measured_where_they_differ():
    options = {"device": "cuda", "num_ranks": 1, "interconnect": None}
    small = _shapes.shapes("tiny", ["gemm"], ["bf16"], ["cold", "warm"], cache_bytes=CACHE, **options)
    assert [one.cache_state for one in small] == ["cold", "warm"] * 2
    large = _shapes.shapes("tiny", ["gemm"], ["bf16"], ["cold", "warm"], cache_bytes=1.0, **options)
    assert [one.cache_state for one in large] == ["warm"] * 2


# ---- what a run says


def test_a_cached_run_says_nothing_of_device_memory_unless_compute_bounds_it():
    row = {"peak_fp32_flops_per_s": 1e12, "memory_bandwidth_bytes_per_s": 4e10}
    thin = Shape("gemm", "fp32", m=1, n=512, k=512, cache_state="warm")
    columns, note = _rows.measured(thin, timing(1e-3), row, CACHE)
    assert "bytes_moved" not in columns
    assert "traffic of device memory is unknown" in note
    assert "roofline_s" not in columns
    columns, note = _rows.measured(replace(thin, cache_state="cold"), timing(1e-3), row, CACHE)
    assert columns["bytes_moved"] == 4 * (512 + 512 * 512 + 512)
    assert columns["roofline_s"] == columns["bytes_moved"] / 4e10
    assert (columns["bound"], note) == ("memory", None)
    thick = Shape("gemm", "fp32", m=1024, n=1024, k=1024, cache_state="warm")
    columns, note = _rows.measured(thick, timing(1e-2), row, CACHE)
    assert columns["bytes_moved"] == 3 * 4 * 1024**2
    assert columns["roofline_s"] == 2 * 1024**3 / 1e12
    assert columns["mfu"] == pytest.approx(2 * 1024**3 / 1e-2 / 1e12)
    assert (columns["bound"], note) == ("compute", None)


def test_times_are_of_one_execution_however_many_make_a_repeat():
    calls = []
    prepared = _calls.Prepared([lambda: calls.append("a"), lambda: calls.append("b")])
    measured, executions = _calls.measure(prepared, "cpu", 0.05)
    assert executions > 10
    assert len(calls) >= executions * len(measured.samples)
    assert abs(calls.count("a") - calls.count("b")) <= 1, "buffers are used in turn"
    assert _calls.shortest_s(measured) < _calls.WINDOW_S / 5


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "int8", "fp8"])
def test_a_gemm_multiplies_by_a_matrix_that_lies_as_a_linear_layer_has_it(dtype):
    shape = Shape("gemm", dtype, m=32, n=48, k=16, cache_state="warm")
    (call,) = _calls.prepare(shape, "cpu", CACHE).calls
    product = call()
    a, b = call.args
    assert (a.shape, b.shape, b.stride()) == ((32, 16), (16, 48), (1, 16))
    assert torch.allclose(product.float(), a.float() @ b.float(), rtol=0.02, atol=0.2)
    assert product.element_size() * product.numel() == _shapes.work(shape).activation_bytes_written


def test_attention_has_grouped_heads_and_a_causal_mask_in_prefill_alone():
    heads = {
        "batch_size": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "attention": "sdpa",
        "cache_state": "warm",
    }
    prefill = Shape("attention", "fp32", input_tokens=8, **heads)
    (call,) = _calls.prepare(prefill, "cpu", CACHE).calls
    query, _, value = call.args
    result = call()
    assert result.shape == query.shape == (2, 4, 8, 16)
    assert torch.allclose(result[:, :2, 0], value[:, :1, 0].expand(2, 2, 16), atol=1e-6), "the first token sees itself"
    (call,) = _calls.prepare(replace(prefill, input_tokens=0, context_tokens=8), "cpu", CACHE).calls
    assert call().shape == (2, 4, 1, 16)
    assert call.args[1].shape == (2, 2, 8, 16)


def test_cold_buffers_are_together_larger_than_the_cache():
    shape = Shape("add", "fp32", m=1024, n=1024, cache_state="cold")
    prepared = _calls.prepare(shape, "cpu", CACHE)
    assert len(prepared.calls) * _shapes.work(shape).bytes_moved >= 4 * CACHE
    assert len({call.args[0].data_ptr() for call in prepared.calls}) == len(prepared.calls)
    assert len(_calls.prepare(replace(shape, cache_state="warm"), "cpu", CACHE).calls) == 1


# ---- a sweep for real


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Everything at tiny shapes, on a device whose own row is measured first; then a forward pass of a real LLM."""
    folder = tmp_path_factory.mktemp("sweep")
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        lines = []
        collected = microbench.collect(folder / "landing", report=lines.append, preset="tiny", device="cpu")
        local_profile.collect(
            folder / "landing", llm_id="t5-small", phase="forward", input_tokens=64, device="cpu", layers=False
        )
    finally:
        tempfile.tempdir = before
    return folder, collected, lines


def test_every_family_lands_with_its_ops_samples_and_ranks(sweep):
    folder, collected, lines = sweep
    landing = folder / "landing"
    runs = [run for run in landed(landing, "runs") if run["phase"] == "microbench"]
    assert {run["kernel"] for run in runs} == set(_shapes.OP_KIND) - {"memcpy_h2d", "memcpy_d2h"}
    assert collected.num_runs == len(runs)
    assert collected.num_failed == 0, lines
    ops = {row["run_id"]: row for row in landed(landing, "ops")}
    samples, ranks = landed(landing, "samples"), landed(landing, "ranks")
    for run in runs:
        assert run["config_id"] == schema.config_id(run)
        assert (run["status"], run["batch_size"] is not None) == ("ok", run["kernel"] == "attention")
        assert set(dict(run["metric_definitions"]).values()) <= set(metrics.DEFINITIONS)
        op = ops[run["run_id"]]
        assert (op["op_kind"], op["time_s"]) == (_shapes.OP_KIND[run["kernel"]], run["latency_s"])
        assert (op["flops"], op["bytes_moved"], op["m"]) == (run["flops"], run["bytes_moved"], run["m"])
        mine = [row for row in samples if row["run_id"] == run["run_id"] and row["metric"] == "latency_s"]
        measured = [row["value"] for row in mine if row["sample_phase"] == "measured"]
        assert run["latency_s"] == pytest.approx(sum(measured) / len(measured))
        assert run["num_samples"] == len(measured) < len(mine), "warm-up is kept"
        if run["flops"] is not None:
            assert run["achieved_flops_per_s"] == pytest.approx(run["flops"] / run["latency_s"])
        if run["kernel"] in _shapes.COLLECTIVES:
            own = [row for row in ranks if row["run_id"] == run["run_id"]]
            assert [row["rank"] for row in own] == [0, 1]
            assert (run["num_devices"], run["interconnect"], run["bound"]) == (2, "loopback", "communication")
            assert max(row["latency_s"] for row in own) <= run["latency_s"] * (1 + 1e-9)
        elif run["kernel"] == "gemm":
            assert (run["weight_dtype"], run["cache_state"]) == ("fp32", "warm")
        elif run["kernel"] in ("memcpy", "triad", "read", "add", "softmax"):
            assert (run["cache_state"], run["achieved_bytes_per_s"] > 0) == ("cold", True)


def test_measured_ceilings_are_a_device_of_their_own(sweep):
    folder, _, _ = sweep
    rows = landed(folder / "landing", "hardware")
    (ceilings,) = [row for row in rows if row["kind"] == "measured"]
    (device,) = {row["hardware_id"]: row for row in rows if row["kind"] != "measured"}.values()
    assert ceilings["hardware_id"] == f"{device['hardware_id']}-measured"
    assert ceilings["measured_of"] == device["hardware_id"]
    assert ceilings["name"] == f"{device['name']}, measured"
    assert ceilings["vector_fp32_flops_per_s"] is None, "it was not measured"
    for name in ("peak_fp32_flops_per_s", "memory_bandwidth_bytes_per_s"):
        assert ceilings[name] >= device[name]
    for name in ("kernel_launch_s", "collective_launch_s", "link_bandwidth_bytes_per_s"):
        assert 0 < ceilings[name] < math.inf
        assert f"{name}: " in ceilings["note"]


def test_every_point_lies_under_its_measured_roof_and_one_above_is_found(sweep, tmp_path):
    pytest.importorskip("duckdb")
    from warehouse.store import Home, open_store

    folder, _, _ = sweep
    home = Home(tmp_path / "home")
    home.landing.parent.mkdir(parents=True)
    shutil.copytree(folder / "landing", home.landing, ignore=shutil.ignore_patterns("samples", "telemetry"))
    runs = landed(home.landing, "runs")
    copied, multiplied = (next(run for run in runs if run["kernel"] == kernel) for kernel in ("memcpy", "gemm"))
    planted = [
        {**run, "run_id": f"planted-{run['kernel']}", "latency_s": run["latency_s"] / 1e4, **dict.fromkeys(RATES)}
        for run in (copied, multiplied)
    ]
    with open_store(home) as store:
        assert not store.load().quarantined
        points = store.query("microbench_points").to_pylist()
        assert len(points) == sum(run["phase"] == "microbench" for run in runs)
        assert [one for one in points if one["is_above_measured_roof"]] == []
        shares = {one["kernel"]: one["share_of_measured"] for one in points}
        assert 0 < shares["memcpy"] <= 1
        assert 0 < shares["all_reduce"] <= 1
        (profiled,) = [run for run in runs if run["llm_id"] == "t5-small"]
        (roof,) = [one for one in store.query("device_ceilings", hardware_id=copied["hardware_id"]).to_pylist()
                   if one["resource"] == "peak_fp32_flops_per_s"]  # fmt: skip
        assert 0 < profiled["achieved_flops_per_s"] <= roof["measured"]
        parquet.land(home.landing, "planted", {"runs": planted})
        store.load()
        above = [one["run_id"] for one in store.query("microbench_points").to_pylist() if one["is_above_measured_roof"]]
        assert sorted(above) == ["planted-gemm", "planted-memcpy"]


def test_a_rerun_measures_nothing_again_and_goes_on_where_it_ended(tmp_path):
    landing = tmp_path / "landing"
    options = {"kernel": ["gemm", "softmax"], "dtype": "fp32"}
    first, lines = measure(landing, budget_s=1e-9, **options)
    assert first.num_runs == 0
    assert "3 shapes are left out: the time is up" in lines[-1]
    second, _ = measure(landing, **options)
    assert second.num_runs == 3
    third, lines = measure(landing, **options)
    assert (third.num_runs, lines) == (0, ["3 shapes are measured already."])
    groups = {run["repeat_group_id"] for run in landed(landing, "runs")}
    elsewhere, _ = measure(tmp_path / "other", skip=groups, **options)
    assert elsewhere.num_runs == 0


def test_sigkill_leaves_whole_files_and_a_rerun_goes_on(tmp_path):
    landing = tmp_path / "landing"
    parquet.land(landing, "device", {"hardware": [hardware()]})
    kernels = ["gemm", "softmax", "norm", "elementwise"]
    command = [
        sys.executable,
        "-m",
        "collectors",
        "microbench",
        "--preset",
        "tiny",
        "--device",
        "cpu",
        "--kernel",
        *kernels,
    ]
    with subprocess.Popen(
        [*command, "--landing", str(landing)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 60
        while not list((landing / "runs").glob("*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = landed(landing, "runs")
    assert done
    again, lines = measure(landing, kernel=kernels)
    runs = landed(landing, "runs")
    assert f"{len(done)} shapes are measured already." in lines
    assert len(runs) == len({run["repeat_group_id"] for run in runs}) == len(done) + again.num_runs == 7


# ---- failures


def test_what_has_no_kernel_here_is_a_row_that_says_so(tmp_path):
    collected, _ = measure(tmp_path, kernel=["softmax", "memcpy"], dtype=["int8"])
    runs = landed(tmp_path, "runs")
    assert collected.num_runs == collected.num_failed == len(runs) == 5
    assert {run["status"] for run in runs} == {"unsupported"}
    assert {run["status_detail"] for run in runs} == {
        "torch has no softmax in int8", "copies between host and device need a device with memory of its own",
    }  # fmt: skip
    again, _ = measure(tmp_path, kernel=["softmax", "memcpy"], dtype=["int8"])
    assert again.num_runs == 0


def test_out_of_memory_in_one_shape_does_not_end_the_sweep(tmp_path):
    huge = Shape("add", "fp32", m=2**20, n=2**30, cache_state="cold")
    small = Shape("add", "fp32", m=8, n=8, cache_state="warm")
    with session(tmp_path) as opened:
        microbench._Sweep(opened, "tiny", None).run([huge, small])
    runs = {run["m"]: run for run in landed(tmp_path, "runs")}
    assert runs[2**20]["status"] == "oom"
    assert runs[2**20]["status_detail"]
    assert runs[2**20]["latency_s"] is None
    assert runs[8]["status"] == "ok"


def test_what_torch_refuses_of_eight_bits_is_unsupported_and_an_error_else():
    refused = RuntimeError("self.size(0) needs to be greater than 16, but got 1\nmore")
    gemm = Shape("gemm", "int8", m=1, n=8, k=8)
    assert _calls.failure(gemm, refused)["status"] == "unsupported"
    assert _calls.failure(replace(gemm, dtype="fp32"), refused)["status"] == "error"
    assert (
        _calls.failure(gemm, RuntimeError("CUDA error: an illegal memory access was encountered"))["status"] == "error"
    )
    declined = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`")
    assert _calls.failure(gemm, declined)["status"] == "unsupported"
    assert _calls.failure(gemm, torch.OutOfMemoryError("CUDA out of memory"))["status"] == "oom"
    too_large = _calls.failure(gemm, _memory.TooLargeError("needs at least 9 GiB and 1 GiB are free."))
    assert (too_large["status"], too_large["status_detail"].endswith("; not tried")) == ("oom", True)


def test_ranks_that_never_meet_are_rows_too():
    """nccl has no GPU here: the ranks end before the first collective."""
    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    shapes = [Shape("all_reduce", "fp32", size_bytes=size, num_devices=2) for size in (1024, 4096)]
    outcomes = list(_collectives.measure(shapes, "cuda", 0.01))
    assert [shape for shape, _ in outcomes] == shapes
    assert {one.failure["status"] for _, one in outcomes} == {"error"}


def test_a_collective_that_every_rank_refuses_is_unsupported_and_the_next_is_measured():
    uneven = Shape("reduce_scatter", "fp32", size_bytes=12, num_devices=2)
    good = replace(uneven, size_bytes=1024)
    (_, refused), (_, done) = _collectives.measure([uneven, good], "cpu", 0.01)
    assert refused.failure["status"] == "unsupported"
    assert len(done.rank_s) == 2
    assert len(done.timing.measured) >= _collectives.MIN_REPEATS


# ---- ceilings


def test_a_ceiling_only_gets_better_and_says_what_reached_it(tmp_path):
    gemm = Shape("gemm", "fp32", m=100, n=100, k=100, cache_state="warm")
    with session(tmp_path) as opened:
        ceilings = Ceilings(opened)
        ceilings.reached(gemm, 1e-3)
        ceilings.reached(replace(gemm, m=50), 1e-3)
        ceilings.reached(Shape("launch", "fp32"), 2e-6)
        ceilings.reached(Shape("launch", "fp32", execution="graph"), 1e-6)
        ceilings.reached(Shape("triad", "fp32", size_bytes=4000, cache_state="warm"), 1e-9)
        ceilings.reached(Shape("memcpy_h2d", "fp32", size_bytes=4000, host_memory="pageable"), 1e-9)
        row = ceilings.row()
        assert row["peak_fp32_flops_per_s"] == 2e6 / 1e-3
        assert row["kernel_launch_s"] == 1e-6
        assert "memory_bandwidth_bytes_per_s" not in row, "a cache is no memory"
        assert "host_link_bandwidth_bytes_per_s" not in row, "staged copies do not show the link"
        assert "peak_fp32_flops_per_s: gemm 100 x 100 x 100 fp32, warm, 20" in row["note"]
        ceilings.land(opened)
    with session(tmp_path) as opened:
        assert opened.ceilings["peak_fp32_flops_per_s"] == 2e9, "the landing folder's are known"
        later = Ceilings(opened)
        later.reached(gemm, 1.0)
        later.land(opened)
        assert opened.paths == [], "nothing got better"
        later.reached(gemm, 1e-4)
        later.land(opened)
    (row,) = landed(tmp_path, "hardware")
    with session(tmp_path, ceiling_row=row | {"peak_fp32_flops_per_s": 1.0}) as opened:
        assert Ceilings(opened).get("peak_fp32_flops_per_s") == 2e6 / 1e-4, "a lake may not know what landed since"
    assert row["peak_fp32_flops_per_s"] == 2e6 / 1e-4
    assert row["kernel_launch_s"] == 1e-6
    assert "kernel_launch_s: launch fp32, graph, 20" in row["note"]


def test_a_device_whose_own_row_was_measured_starts_from_it(tmp_path):
    own = hardware() | {"source": "measured by rooflake on the device itself: best of many GEMMs"}
    with _session.open_session(microbench.NAME, microbench.SOURCE, tmp_path, device="cpu", hardware_row=own) as opened:
        assert Ceilings(opened).get("peak_fp32_flops_per_s") == HARDWARE["peak_fp32_flops_per_s"]
    with session(tmp_path) as opened:
        assert Ceilings(opened).get("peak_fp32_flops_per_s") is None, "a datasheet is no measurement"


LOW = {"memory_bandwidth_bytes_per_s": 1e6, "peak_fp32_flops_per_s": 1e5, "vector_fp32_flops_per_s": 1e5}
OWN = hardware() | LOW | {"source": "measured by rooflake on the device itself: best of many GEMMs"}


@pytest.mark.parametrize("kernels", [["gemm", "copy"], []])
def test_the_roof_of_a_device_measured_in_a_bad_hour_is_raised_to_what_is_reached(tmp_path, kernels):
    """Also where no GEMM and no copy ever said what the device can do."""
    parquet.land(tmp_path, "an-earlier-run", {"hardware": [OWN]})
    measure(tmp_path, hardware_row=None, kernel=[*kernels, "norm", "elementwise", "attention"])
    runs = [run for run in landed(tmp_path, "runs") if run["roofline_s"] is not None]
    assert {run["kernel"] for run in runs} >= {"rms_norm", "add", "attention"}
    for run in runs:
        assert run["latency_s"] >= 0.98 * run["roofline_s"], run["kernel"]
    rows = [row for row in landed(tmp_path, "hardware") if row["hardware_id"] == OWN["hardware_id"]]
    assert len(rows) == 2
    assert rows[0] == rows[1], "whatever a load takes first"
    assert "bettered by rooflake/microbench: peak_fp32_flops_per_s, memory_bandwidth_bytes_per_s" in rows[0]["source"]
    (ceilings,) = [row for row in landed(tmp_path, "hardware") if row["kind"] == "measured"]
    for name, low in LOW.items():
        assert rows[0][name] > 10 * low
        assert name.startswith("vector") or rows[0][name] == ceilings[name]
    assert rows[0]["peak_bf16_flops_per_s"] == OWN["peak_bf16_flops_per_s"], "never lowered"
    with _session.open_session(microbench.NAME, microbench.SOURCE, tmp_path, device="cpu") as later:
        assert later.hardware["memory_bandwidth_bytes_per_s"] == rows[0]["memory_bandwidth_bytes_per_s"]


def test_a_device_of_the_catalogue_keeps_its_datasheet(tmp_path):
    measure(tmp_path, hardware_row=hardware() | LOW, kernel=["gemm", "copy"])
    (row,) = landed(tmp_path, "hardware")
    assert row["kind"] == "measured"
    assert {run["bound"] for run in landed(tmp_path, "runs")} <= {"compute", "memory"}
    for run in landed(tmp_path, "runs"):
        if run["kernel"] == "gemm":
            assert run["roofline_s"] == pytest.approx(run["flops"] / LOW["peak_fp32_flops_per_s"])


# ---- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_s": -5.0}, "budget_s is a number of seconds above 0, not -5."),
        ({"budget_s": math.nan}, "budget_s is a number of seconds above 0, not nan."),
        ({"preset": "huge"}, "'huge' is not a preset that can be measured here. Known: tiny, quick, full, zhang-2023."),
        ({"kernel": ["gem"]}, "'gem' is not a kernel that can be measured here. Known: gemm, copy,"),
        ({"dtype": "fp64"}, "'fp64' is not a dtype that can be measured here. Known: fp32, bf16, fp16, int8, fp8."),
        ({"cache_state": "hot"}, "'hot' is not a cache state that can be measured here. Known: cold, warm."),
    ],
)
def test_an_unknown_option_is_answered_with_the_known_ones(tmp_path, options, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        measure(tmp_path, **options)


def test_the_command_line_takes_what_collect_takes():
    parser = argparse.ArgumentParser()
    microbench.add_arguments(parser)
    line = "--kernel gemm copy --dtype bf16 --preset full --cache-state cold warm --budget-s 9 --device cpu"
    options = vars(parser.parse_args(line.split()))
    assert options["kernel"] == ["gemm", "copy"]
    assert options["cache_state"] == ["cold", "warm"]
    assert set(options) <= set(microbench.collect.__annotations__)
