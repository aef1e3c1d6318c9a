"""aiconfigurator's tables: figures of the shared ones by hand, small ones with known answers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imported_rows import imported
from landed_rows import landed

from collectors import _importing, from_aiconfigurator

KERNEL = {
    "framework": "VLLM",
    "version": "0.24.0",
    "device": "NVIDIA H100 80GB HBM3",
    "kernel_source": "x",
    "latency": 0.5,
}


def written(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist([{**KERNEL, **row} for row in rows]), path)
    return path


def kernels(landing: Path, file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    _importing.collect(landing, files=file)
    return landed(landing, "runs"), landed(landing, "kernels")


def gemm(**changes: Any) -> dict[str, Any]:
    return {"op_name": "gemm", "gemm_dtype": "bfloat16", "m": 4096, "n": 8192, "k": 1024, **changes}


def test_a_gemm_in_seconds_with_its_bound(tmp_path: Path) -> None:
    (run,), (row,) = kernels(tmp_path, written(tmp_path / "a.parquet", gemm()))
    assert (run["phase"], run["kernel"], run["hardware_id"], run["source_kind"]) == (
        "microbench", "gemm", "h100-sxm", "published",
    )  # fmt: skip
    assert (run["framework"], run["framework_version"], run["weight_dtype"]) == ("vllm", "0.24.0", "bf16")
    assert row["time_s"] == pytest.approx(0.5e-3), "milliseconds in the file"
    assert row["flops"] == 2 * 4096 * 8192 * 1024
    assert row["bytes_moved"] == 2 * (4096 * 1024 + 8192 * 1024 + 4096 * 8192)
    assert row["roofline_s"] == pytest.approx(2 * 4096 * 8192 * 1024 / 989.4e12, rel=1e-3)
    assert (row["bound"], row["implementation"], row["op_kind"], row["kernel_index"]) == ("compute", "x", "gemm", 0)


def test_one_run_a_dtype_and_blocks_are_a_way_of_their_own(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.parquet", gemm(gemm_dtype="fp8"), gemm(gemm_dtype="fp8_block"), gemm(gemm_dtype="nvfp4")
    )
    runs, rows = kernels(tmp_path, file)
    assert [(run["weight_dtype"], run["optimizations"], run["num_samples"]) for run in runs] == [
        ("fp8", [], 1), ("fp8", ["block_scales"], 1), ("nvfp4", [], 1),
    ]  # fmt: skip
    assert "launches" in runs[1]["status_detail"], "what a floor of 0.05 ms is"
    assert len({run["config_id"] for run in runs}) == 3
    assert rows[2]["roofline_s"] is None, "an H100 has no units for it"


def attention(**changes: Any) -> dict[str, Any]:
    return {
        "op_name": "context_attention", "batch_size": 2, "isl": 4, "num_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
        "beam_width": 1, "attn_dtype": "bfloat16", "kv_cache_dtype": "fp8", "step": 0, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "pairs", "seen"),
    [
        ({}, 1 + 2 + 3 + 4, 4),
        ({"step": 10}, 11 + 12 + 13 + 14, 14),
        ({"window_size": 0}, 1 + 2 + 3 + 4, 4),
        ({"window_size": 2}, 1 + 2 + 2 + 2, 4),
        ({"window_size": 3, "step": 10}, 4 * 3, 6),
        ({"op_name": "generation_attention", "isl": 1, "step": 99}, 100, 100),
    ],
)
def test_attention_counts_what_queries_see(tmp_path: Path, changes: dict[str, Any], pairs: int, seen: int) -> None:
    (run,), (row,) = kernels(tmp_path, written(tmp_path / "a.parquet", attention(**changes)))
    new = changes.get("isl", 4)
    assert row["flops"] == 2 * 8 * pairs * (4 * 64 + 5)
    assert row["bytes_moved"] == 2 * (2 * new * 8 * 64 * 2 + 2 * seen * 2 * 64 * 1), (
        "queries and outputs bf16, keys and values fp8"
    )
    assert (row["input_tokens"], row["context_tokens"]) == (new, changes.get("step", 0)), "step is what is cached"
    assert row["window_tokens"] == (changes.get("window_size") or None), "0 is no window"
    assert (run["kernel"], run["kv_dtype"], row["num_heads"], row["num_kv_heads"]) == ("attention", "fp8", 8, 2)
    assert row["phase"] == ("decode" if new == 1 else "prefill")


@pytest.mark.parametrize(
    ("op_name", "dtype", "kernel", "size_bytes"),
    [
        ("all_reduce", "int8", "all_reduce", 1000), ("all_reduce", "half", "all_reduce", 2000),
        ("reduce_scatter", "half", "reduce_scatter", 2000), ("alltoall", "half", "all_to_all", 2000),
        ("all_gather", "half", "all_gather", 500),
    ],
)  # fmt: skip
def test_message_sizes_are_elements(tmp_path: Path, op_name: str, dtype: str, kernel: str, size_bytes: float) -> None:
    row = {
        "op_name": op_name,
        "nccl_dtype": dtype,
        "num_gpus": 4,
        "message_size": 1000,
        "kernel_source": "NCCL",
        "framework": "TRTLLM",
    }
    (run,), (found,) = kernels(tmp_path, written(tmp_path / "a.parquet", {**row, "version": "2.27.3"}))
    assert (run["kernel"], run["num_devices"], found["num_devices"]) == (kernel, 4, 4)
    assert found["size_bytes"] == size_bytes, "of a gather the part of one rank"
    assert (run["framework"], run["framework_version"]) == ("nccl", "2.27.3"), "the version is NCCL's own"


def test_graphs_and_eager_collectives_are_different_runs(tmp_path: Path) -> None:
    row = {"op_name": "all_reduce", "allreduce_dtype": "bfloat16", "num_gpus": 2, "message_size": 128}
    file = written(tmp_path / "a.parquet", {**row, "backend": "vllm_graph"}, {**row, "backend": "vllm_eager"})
    runs, rows = kernels(tmp_path, file)
    assert [run["execution"] for run in runs] == ["graph", "eager"]
    assert [one["size_bytes"] for one in rows] == [256, 256]


def moe(**changes: Any) -> dict[str, Any]:
    return {
        "op_name": "moe", "moe_dtype": "w4a16_mxfp4", "num_tokens": 8192, "hidden_size": 4096, "inter_size": 1024, "topk": 8,
        "num_experts": 128, "moe_tp_size": 2, "moe_ep_size": 4, "distribution": "balanced", **changes,
    }  # fmt: skip


def test_experts_share_the_work_of_a_balanced_load(tmp_path: Path) -> None:
    (run,), rows = kernels(
        tmp_path, written(tmp_path / "a.parquet", moe(), moe(distribution="power_law_1.2"), moe(moe_ep_size=1))
    )
    assert (run["weight_dtype"], run["activation_dtype"]) == ("mxfp4", "bf16")
    assert rows[0]["flops"] == 6 * (8192 * 8 / 4) * 4096 * (1024 / 2)
    assert (rows[1]["flops"], rows[1]["roofline_s"]) == (None, None), "who got how many tokens is not said"
    assert rows[2]["flops"] == 6 * (8192 * 8) * 4096 * (1024 / 2)
    assert (rows[0]["m"], rows[0]["k"], rows[0]["n"], rows[0]["tensor_parallel"], rows[0]["expert_parallel"]) == (
        8192,
        4096,
        1024,
        2,
        4,
    )
    assert rows[0]["bytes_moved"] == pytest.approx(128 / 4 * 3 * 4096 * 512 * 0.53125 + 2 * 8192 * 4096 * 2 / 4)


def test_an_unknown_operation_keeps_what_tells_its_rows_apart(tmp_path: Path) -> None:
    row = {"op_name": "mla_bmm", "gemm_dtype": "fp8", "num_tokens": 5, "new_size": 7}
    (run,), (one,) = kernels(tmp_path, written(tmp_path / "a.parquet", row))
    assert (run["kernel"], one["op_kind"], one["m"], one["name"]) == ("mla_bmm", "other", 5, "mla_bmm new_size=7")
    assert one["flops"] is None


def test_rows_without_a_latency_are_counted_and_left_out(tmp_path: Path) -> None:
    (run,), rows = kernels(tmp_path, written(tmp_path / "a.parquet", gemm(), gemm(latency=None), gemm(latency=0.0)))
    assert len(rows) == run["num_samples"] == 1
    assert "2 rows without a latency" in run["status_detail"]


def test_the_same_bytes_in_another_folder_are_the_same_run(tmp_path: Path) -> None:
    """The folder is not the device: copies of a table lie in the folders of other devices."""
    first = written(tmp_path / "gemm_perf.parquet", gemm(device="NVIDIA GB300"))
    copied = tmp_path / "b300_sxm" / first.name
    copied.parent.mkdir()
    copied.write_bytes(first.read_bytes())
    _importing.collect(tmp_path, files=[first, copied])
    runs = landed(tmp_path, "runs")
    assert {(run["run_id"], run["hardware_id"]) for run in runs} == {(runs[0]["run_id"], "gb300")}


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.parquet", *[gemm(m=m) for m in range(1, 4000)])
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-100])
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    strange = written(tmp_path / "strange.parquet", gemm(device="Voodoo 5"))
    for file, sentence in (
        (cut, "cut.parquet is not a readable Parquet"),
        (other, "lacks device"),
        (strange, "measured on 'Voodoo 5'"),
    ):
        with pytest.raises(_importing.Unreadable, match=sentence):
            _importing.collect(tmp_path / "landing", files=file, tool="aiconfigurator")
    assert not (tmp_path / "landing").exists()


# ---- serving samples

HEAD = (
    "id,silicon_data_source,backend,backend_version,model_path,system,precision,mode,isl,osl,gemm_quant_mode,moe_quant_mode,batch_size,"
    "tp_size,pp_size,attention_dp_size,moe_tp_size,moe_ep_size,prefill_batch_size,prefill_num_workers,prefill_tp_size,prefill_pp_size,"
    "prefill_attention_dp_size,prefill_moe_tp_size,prefill_moe_ep_size,decode_batch_size,decode_num_workers,decode_tp_size,decode_pp_size,"
    "decode_attention_dp_size,decode_moe_tp_size,decode_moe_ep_size,silicon_ttft_ms,silicon_tpot_ms"
)
SAID = "source_file=a.csv; silicon_concurrency=64; measured=2026-04-03T02:34:55Z"
TOGETHER = f"one,{SAID},vllm,,Qwen/Qwen3-32B,h200_sxm,fp8,agg,1024,512,fp8_block,fp8_block,16,4,1,,0,0,,,,,,,,,,,,,,,500.0,20.0"
APART = f"two,{SAID},trtllm,0.8.1,deepseek-ai/DeepSeek-R1,b200_sxm,fp4,disagg,8192,1024,nvfp4,nvfp4,,,,,,,1,2,4,1,1,0,0,16,1,8,1,1,1,8,900,8"


def samples(tmp_path: Path, *lines: str) -> list[dict[str, Any]]:
    file = tmp_path / "samples.csv"
    file.write_text("\n".join((HEAD, *lines)) + "\n")
    return imported(tmp_path, file)


def test_a_serving_sample(tmp_path: Path) -> None:
    (run,) = samples(tmp_path, TOGETHER)
    assert (run["phase"], run["llm_id"], run["hardware_id"], run["concurrency"], run["batch_size"]) == (
        "serve",
        "qwen3-32b",
        "h200",
        64,
        16,
    )
    assert (run["ttft_s"], run["tpot_s"]) == (pytest.approx(0.5), pytest.approx(0.02)), "milliseconds in the file"
    assert run["definitions"] == {"ttft_s": "first_nonempty_chunk", "tpot_s": "e2el_minus_ttft_over_n_minus_1"}
    assert (run["num_devices"], run["tensor_parallel"], run["expert_parallel"]) == (4, 4, 1), "0 does not apply"
    assert run["framework_version"] is None
    assert not run["is_excluded"]
    assert run["collected_at"].isoformat() == "2026-04-03T02:34:55+00:00"


def test_pools_that_prefill_and_that_decode(tmp_path: Path) -> None:
    (run,) = samples(tmp_path, APART)
    assert (run["num_prefill_devices"], run["num_decode_devices"], run["num_devices"]) == (8, 8, 16)
    assert (run["batch_size"], run["concurrency"], run["framework"]) == (None, 64, "tensorrt-llm")
    assert run["of"]["aiconfigurator:decode_batch_size"] == [(16.0, "")]
    other = tmp_path / "other"
    other.mkdir()
    (unsaid,) = samples(
        tmp_path / "b" if (tmp_path / "b").mkdir() is None else tmp_path, APART.replace(",1,2,4,", ",,,4,")
    )
    assert (unsaid["num_prefill_devices"], unsaid["num_devices"]) == (None, None)


def test_what_is_printed_twice_is_one_run_and_drafts_are_kept_out_of_charts(tmp_path: Path) -> None:
    again = TOGETHER.replace("one,", "again,").replace("a.csv", "b.csv")
    draft = TOGETHER.replace("one,", "three,").replace(SAID, SAID + "; wip=True").replace("500.0", "501.0")
    copied_draft = TOGETHER.replace("one,", "four,").replace(SAID, SAID + "; wip=True")
    other_load = TOGETHER.replace("one,", "five,").replace("silicon_concurrency=64", "silicon_concurrency=32")
    found = {run["source_cell"]: run for run in samples(tmp_path, copied_draft, TOGETHER, again, draft, other_load)}
    assert set(found) == {"one", "three", "five"}, "of copies the one that is no draft"
    assert "Printed 3 times" in found["one"]["status_detail"]
    assert [found[name]["is_excluded"] for name in ("one", "three", "five")] == [False, True, False]
    assert "wip" in found["three"]["exclusion_reason"]


# ---- the shared tables

FOLDER = Path("data") / "aiconfigurator"


@pytest.mark.parametrize(
    ("name", "num_rows", "num_runs"),
    [
        ("a100_sxm/gemm/vllm/0.14.0/gemm_perf", 9_240, 1), ("a100_sxm/attention/vllm/0.14.0/context_attention_perf", 5_457, 1),
        ("b200_sxm/attention/vllm/0.24.0/generation_attention_perf", 61_810, 2), ("a100_sxm/moe/vllm/0.14.0/moe_perf", 6_360, 1),
        ("l40s/comm/nccl/2.27.3/nccl_perf", 504, 24), ("h200_sxm/comm/vllm/0.24.0/custom_allreduce_perf", 138, 6),
    ],
)  # fmt: skip
def test_shared_kernel_tables(shared: Path, tmp_path: Path, name: str, num_rows: int, num_runs: int) -> None:
    _importing.collect(tmp_path, files=shared / FOLDER / "data" / f"{name}.parquet")
    (runs,) = (tmp_path / "runs").glob("*.parquet")
    (rows,) = (tmp_path / "kernels").glob("*.parquet")
    assert (pq.read_metadata(runs).num_rows, pq.read_metadata(rows).num_rows) == (num_runs, num_rows)


def test_a_shared_gemm_by_hand(shared: Path, tmp_path: Path) -> None:
    _importing.collect(tmp_path, files=shared / FOLDER / "data/a100_sxm/gemm/vllm/0.14.0/gemm_perf.parquet")
    first = landed(tmp_path, "kernels")[0]
    assert (first["m"], first["n"], first["k"]) == (8192, 65536, 4096)
    assert first["time_s"] == pytest.approx(15.287540011935763e-3)
    assert 0.9 < first["roofline_s"] / first["time_s"] < 1, "288 of 312 TFLOP/s"


def test_shared_serving_samples(shared: Path, tmp_path: Path) -> None:
    (file,) = (shared / FOLDER).glob("silicon_sample*.csv")
    assert _importing.importer(_importing.File(file)) is from_aiconfigurator
    runs = imported(tmp_path, file)
    assert len(runs) == 3_459, "3,936 lines, 477 of them the same measurement printed again"
    first = next(run for run in runs if run["source_cell"] == "kimik2_5_b200_vllm_fp4_agg_1024x1024_c4_cfg636")
    assert (first["ttft_s"], first["tpot_s"]) == (
        pytest.approx(0.07414093125262298),
        pytest.approx(0.007061564909699926),
    )
    assert (first["llm_id"], first["num_devices"], first["weight_dtype"]) == ("kimi-k2.5", 8, "nvfp4")
    apart = [run for run in runs if "devices that decode" in run["status_detail"]]
    assert (len(apart), sum(run["num_prefill_devices"] is None for run in apart)) == (510, 410)
