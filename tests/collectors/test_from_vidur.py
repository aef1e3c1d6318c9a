"""Vidur's profiles: figures of the shared ones by hand, the copied one, and our own profiles written in its layout."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from landed_rows import landed

from collectors import _importing, from_vidur

FOLDER = Path("data") / "vidur"


def kernels(landing: Path, file: Path, **options: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    _importing.collect(landing, files=file, **options)
    return landed(landing, "runs"), landed(landing, "kernels")


def test_layers_of_one_llm(shared: Path, tmp_path: Path) -> None:
    (run,), rows = kernels(tmp_path, shared / FOLDER / "compute/a100/meta-llama/Llama-2-7b-hf/mlp.csv.gz")
    assert (run["llm_id"], run["hardware_id"], run["weight_dtype"], run["phase"]) == (
        "llama-2-7b",
        "a100-sxm-80gb",
        "fp16",
        "microbench",
    )
    assert len(rows) == run["num_samples"] == 10 * 1044
    by_cut = {row["tensor_parallel"]: row for row in rows if row["m"] == 4096 and row["name"] == "mlp_up_proj"}
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["m"] == 4096 and row["tensor_parallel"] == 1:
            first.setdefault(row["name"], row)
    up = first["mlp_up_proj"]
    assert up["time_s"] == pytest.approx(3.27945e-3), "milliseconds in the file"
    assert (up["time_p50_s"], up["time_min_s"], up["time_max_s"]) == (
        pytest.approx(3.3655e-3), pytest.approx(3.016e-3), pytest.approx(3.369e-3),
    )  # fmt: skip
    assert (up["n"], up["k"], up["op_kind"]) == (2 * 11008, 4096, "up_proj"), "gate and up in one product"
    assert (first["mlp_down_proj"]["n"], first["mlp_down_proj"]["k"]) == (4096, 11008)
    assert first["attn_pre_proj"]["n"] == 3 * 4096, "queries, keys and values; as many heads of each"
    assert by_cut[4]["n"] == 2 * 11008 // 4, "one device's slice of four"
    assert up["flops"] == 2 * 4096 * 22016 * 4096
    assert 0.5 < up["roofline_s"] / up["time_s"] < 1


def test_heads_that_share_keys_and_a_plain_mlp(shared: Path, tmp_path: Path) -> None:
    _, rows = kernels(tmp_path, shared / FOLDER / "compute/h100/meta-llama/Llama-2-70b-hf/mlp.csv.gz")
    assert {row["n"] for row in rows if row["name"] == "attn_pre_proj" and row["tensor_parallel"] == 1} == {
        8192 + 2 * 8 * 128
    }
    (run,), rows = kernels(tmp_path / "b", shared / FOLDER / "compute/a40/microsoft/phi-2/mlp.csv.gz")
    assert (run["llm_id"], run["hardware_id"]) == ("phi-2", "a40")
    assert {row["n"] for row in rows if row["name"] == "mlp_up_proj"} == {10240}, "no gate"
    assert "post_attention_layernorm" not in {row["name"] for row in rows}


def test_attention_on_one_of_two_devices(shared: Path, tmp_path: Path) -> None:
    (run,), rows = kernels(tmp_path, shared / FOLDER / "historic/a100_attention.csv.gz")
    decode = next(row for row in rows if row["name"] == "attn_decode")
    assert (decode["time_s"], decode["batch_size"], decode["input_tokens"], decode["context_tokens"]) == (
        pytest.approx(15e-6),
        1,
        1,
        32,
    )
    assert (decode["num_heads"], decode["num_kv_heads"], decode["head_dim"], decode["tensor_parallel"]) == (
        32,
        4,
        128,
        2,
    )
    assert decode["flops"] == 32 * 33 * (4 * 128 + 5)
    assert decode["implementation"] == "flash_attention"
    assert sum(row["name"] == "attn_decode" for row in rows) == 10_240
    assert sum(row["name"] == "attn_prefill" for row in rows) == 4_418
    assert all(row["time_s"] > 0 for row in rows), "0 ms is below the clock's resolution"
    assert "1 us" in run["status_detail"]


def test_collectives_count_bytes(shared: Path, tmp_path: Path) -> None:
    runs, rows = kernels(tmp_path, shared / FOLDER / "network/h100_dgx/all_reduce.csv.gz")
    assert len(rows) == 2_982
    assert sorted((run["num_devices"], run["interconnect"]) for run in runs) == [
        (2, "nvlink"),
        (4, "nvlink"),
        (8, "nvlink"),
    ]
    assert (rows[0]["size_bytes"], rows[0]["num_devices"], rows[0]["time_s"]) == (2048, 8, pytest.approx(30e-6))


def test_a_copied_table_is_refused(shared: Path, tmp_path: Path) -> None:
    folder = shared / FOLDER / "network"
    with pytest.raises(_importing.Unreadable, match="byte for byte a100_pairwise_nvlink"):
        _importing.collect(tmp_path, files=folder / "h100_pairwise_nvlink/send_recv.csv.gz")
    runs, _ = kernels(tmp_path, folder / "a100_pairwise_nvlink/send_recv.csv.gz")
    assert {run["hardware_id"] for run in runs} == {"a100-sxm-80gb"}


def test_time_of_the_host(shared: Path, tmp_path: Path) -> None:
    _importing.collect(tmp_path, files=shared / FOLDER / "historic/a100_cpu_overheads.csv.gz")
    runs = landed(tmp_path, "runs")
    assert len(runs) == 78
    first = next(run for run in runs if run["source_cell"] == "line 2")
    assert (first["llm_id"], first["batch_size"], first["tensor_parallel"], first["latency_s"]) == (
        "codellama-34b",
        8,
        2,
        None,
    )
    samples = {row["metric"]: row for row in landed(tmp_path, "samples") if row["run_id"] == first["run_id"]}
    assert samples["vidur:schedule_mean"]["value"] == pytest.approx(0.19615835238558552e-3)
    assert samples["vidur:schedule_mean"]["unit"] == "s"


def test_every_shared_profile_is_recognised(shared: Path) -> None:
    files = sorted((shared / FOLDER).rglob("*.csv.gz"))
    assert len(files) == 32
    for file in files:
        assert from_vidur.recognises(_importing.File(file)), file


def test_a_device_nobody_names_is_asked_for(shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "mlp.csv.gz"
    file.write_bytes((shared / FOLDER / "compute/a40/microsoft/phi-2/mlp.csv.gz").read_bytes())
    with pytest.raises(_importing.Unreadable, match="names no hardware"):
        _importing.collect(tmp_path / "landing", files=file)
    (run,), _ = kernels(tmp_path / "landing", file, hardware_id="l40s", llm_id="phi-2")
    assert (run["hardware_id"], run["llm_id"]) == ("l40s", "phi-2")


def test_a_cut_file_gives_one_sentence(shared: Path, tmp_path: Path) -> None:
    whole = shared / FOLDER / "compute/a40/microsoft/phi-2/mlp.csv.gz"
    cut = tmp_path / "mlp.csv.gz"
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(_importing.Unreadable, match=r"mlp\.csv\.gz is (cut off|not a whole CSV)"):
        _importing.collect(tmp_path / "landing", files=cut, tool="vidur", hardware_id="a40")


# ---- writing

RUN = {
    "run_id": "r",
    "llm_id": "llama-2-7b",
    "hardware_id": "a40",
    "phase": "prefill",
    "batch_size": 2,
    "input_tokens": 64,
}


def op(path: str, op_kind: str, time_s: float, layer: int | None = 0, **columns: Any) -> dict[str, Any]:
    return {"run_id": "r", "path": path, "op_kind": op_kind, "time_s": time_s, "layer_index": layer, **columns}


OPS = [
    op("model.embed_tokens", "embedding", 1e-3, None),
    op("model.layers.0", "layer", 9.0), op("model.layers.0.self_attn", "attention", 8.0, parent_path="model.layers.0"),
    op("model.layers.0.self_attn.q_proj", "q_proj", 2e-3, parent_path="model.layers.0.self_attn"),
    op("model.layers.0.self_attn.k_proj", "k_proj", 3e-3, parent_path="model.layers.0.self_attn"),
    op("model.layers.1.self_attn.q_proj", "q_proj", 4e-3, 1),
    op("model.layers.0.self_attn.core", "attention_scores", 5e-4),
    op("model.layers.0.input_layernorm", "norm", 6e-4), op("model.layers.0.post_attention_layernorm", "norm", 7e-4),
    op("model.norm", "norm", 99.0, None), op("model.layers.0.mlp.gate_proj", "gate_proj", 1e-3), op("a kernel", "gemm", 50.0, level="kernel"),
]  # fmt: skip


def test_our_profiles_in_its_layout(tmp_path: Path) -> None:
    paths = from_vidur.write_profiles([RUN], OPS, tmp_path)
    assert [path.name for path in paths] == ["attention.csv", "mlp.csv"]
    assert paths[1].parent == tmp_path / "a40" / "meta-llama" / "Llama-2-7b-hf"
    (line,) = csv.DictReader(paths[1].open())
    assert (line["num_tokens"], line["n_embd"], line["n_expanded_embd"], line["use_gated_mlp"]) == (
        "128",
        "4096",
        "11008",
        "True",
    )
    assert float(line["time_stats.emb.mean"]) == pytest.approx(1.0), "milliseconds"
    assert (float(line["time_stats.attn_pre_proj.min"]), float(line["time_stats.attn_pre_proj.max"])) == (
        pytest.approx(4.0), pytest.approx(5.0),
    )  # fmt: skip
    assert float(line["time_stats.input_layernorm.median"]) == pytest.approx(0.6)
    assert float(line["time_stats.post_attention_layernorm.median"]) == pytest.approx(0.7)
    assert line["time_stats.mlp_down_proj.mean"] == "", "what was not timed is not zero"
    (attention,) = csv.DictReader(paths[0].open())
    assert float(attention["time_stats.attn_prefill.mean"]) == pytest.approx(0.5)
    assert (attention["time_stats.attn_decode.mean"], attention["prefill_chunk_size"], attention["kv_cache_size"]) == (
        "",
        "64",
        "0",
    )


def test_what_it_wrote_it_reads(tmp_path: Path) -> None:
    complete = [
        op(f"model.layers.0.{name}", name, 1e-3)
        for name in ("qkv_proj", "o_proj", "up_proj", "down_proj", "activation", "rope")
    ]
    paths = from_vidur.write_profiles([RUN], complete, tmp_path)
    _importing.collect(tmp_path / "landing", files=paths)
    (run,) = landed(tmp_path / "landing", "runs")
    assert (run["llm_id"], run["hardware_id"]) == ("llama-2-7b", "a40")
    assert {row["name"] for row in landed(tmp_path / "landing", "kernels")} == {
        "attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj", "mlp_act", "attn_rope",
    }  # fmt: skip


def test_runs_without_layers_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to write"):
        from_vidur.write_profiles([RUN], [], tmp_path)
    with pytest.raises(ValueError, match="nothing to write"):
        from_vidur.write_profiles([{**RUN, "phase": "generate"}], OPS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_all_shared_layers(shared: Path) -> None:
    """A line of layers is ten rows, or nine where the model has one norm."""
    files = sorted((shared / FOLDER / "compute").rglob("*.csv.gz"))
    runs = [run for file in files for run in from_vidur.read(_importing.File(file), _importing.Said())]
    assert len(runs) == 20
    assert sum(len(run.kernels) for run in runs) == 10 * (15 * 1044 + 2 * 1824) + 9 * (3 * 261)
