"""LLM-Inference-Bench's tables: the shared one by hand, and the figures' own in small."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported

from collectors import _importing

HEAD = "Hardware,Num of Hardware,Framework,Model,Input Output Length,Batch Size,Latency,Throughput"
LINE = "Nvidia A100 GPU,4,vLLM,meta-llama/Llama-2-7b-hf,128,16,2.0,2048.0"


def runs(tmp_path: Path, *lines: str, **options: Any) -> list[dict[str, Any]]:
    file = tmp_path / "results.csv"
    file.write_text("\n".join(lines) + "\n")
    return imported(tmp_path, file, **options)


def test_the_shared_table(shared: Path, tmp_path: Path) -> None:
    found = imported(tmp_path, shared / "data" / "llm-inference-bench" / "All_results.csv")
    assert len(found) == 3_327, "repeats are rows"
    assert Counter(run["hardware_id"] for run in found) == {
        "h100-sxm": 908, "a100-sxm-40gb": 878, "mi250": 752, "max-1550": 398 + 24, "gaudi2": 326, "sn40l": 41,
    }  # fmt: skip
    assert all(run["total_tokens_per_s"] is not None for run in found), "the identity holds for every line"
    first = next(run for run in found if run["source_cell"] == "line 2")
    assert (first["phase"], first["batch_size"], first["input_tokens"], first["output_tokens"]) == (
        "generate",
        1,
        128,
        128,
    )
    assert (first["latency_s"], first["total_tokens_per_s"]) == (
        pytest.approx(2.728496789932251),
        pytest.approx(93.82455605027724),
    )
    assert first["definitions"] == {"latency_s": "wall_clock", "total_tokens_per_s": "tokens_over_latency"}
    assert first["output_tokens_per_s"] is None, "their throughput counts the prompt too"
    groups = Counter(run["config_id"] for run in found if run["framework"] == "vllm")
    assert max(groups.values()) > 1


def test_the_batch_of_llama_cpp_is_no_batch(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, HEAD, "Nvidia H100 GPU,1,llama.cpp,Qwen/Qwen2-7B,1024,32,10.0,204.8")
    assert (run["batch_size"], run["chunk_tokens"], run["total_tokens_per_s"]) == (1, 32, pytest.approx(204.8))


def test_a_throughput_that_is_another_stays_a_sample(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, HEAD, LINE.replace("2048.0", "1024.0"))
    assert run["total_tokens_per_s"] is None
    assert run["of"]["llm_inference_bench:throughput"] == [(1024.0, "tokens/s")]
    assert "throughput is not" in run["status_detail"]


def test_layout_lines_are_no_rows(tmp_path: Path) -> None:
    found = runs(tmp_path, ",,,", "", HEAD, ",,,,,,,", LINE, "", LINE.replace("2.0,2048.0", "2.02,2028.0"))
    assert len(found) == 2
    assert len({run["run_id"] for run in found}) == 2
    assert len({run["config_id"] for run in found}) == 1, "repeats"


@pytest.mark.parametrize("printed", ["230742.678", "230.742678"])
def test_power_is_watts_whatever_the_file_says(tmp_path: Path, printed: str) -> None:
    (run,) = runs(tmp_path, HEAD + ",avg_power", f"{LINE},{printed}")
    assert run["power_avg_w"] == pytest.approx(230.742678)


def test_first_token_and_a_heading_with_a_blank(tmp_path: Path) -> None:
    head = "Hardware,Num of Hardware,Framework,Model,Input Length,Output Length,Batch Size,TTFT Latency,end_latency "
    (run,) = runs(tmp_path, head, "", "Intel PVC GPU,1,vLLM,meta-llama/Llama-2-7b-hf,1024,1,16,2.25,14.5")
    assert (run["hardware_id"], run["ttft_s"], run["latency_s"]) == ("max-1550", 2.25, None)
    assert run["definitions"] == {"ttft_s": "first_token_of_generate"}
    assert run["of"]["llm_inference_bench:end_latency"] == [(14.5, "")]


def test_dtypes_and_degrees(tmp_path: Path) -> None:
    head = HEAD.replace("Latency", "KV Cache Dtype,Parallelism Type,Latency")
    line = LINE.replace(",2.0,", ',"Weight = fp8, KV Cache = int8",Pipeline Parallelism,2.0,')
    (run,) = runs(tmp_path, head, line)
    assert (run["weight_dtype"], run["kv_dtype"], run["pipeline_parallel"], run["num_devices"]) == ("fp8", "int8", 4, 4)


def test_a_heatmap_names_no_device(tmp_path: Path) -> None:
    head = "model_name,tp_size,precision,max_input_length,max_output_len,batch_size,int8_kv_cache,latency,throughput"
    line = "meta-llama/Meta-Llama-3-8B,2,float16,128,4096,1,True,60.0,70.4"
    with pytest.raises(_importing.Unreadable, match="names no hardware"):
        runs(tmp_path, head, "", line)
    (run,) = runs(tmp_path, head, "", line, hardware_id="a100-sxm-40gb")
    assert (run["input_tokens"], run["output_tokens"], run["tensor_parallel"], run["num_devices"]) == (128, 4096, 2, 2)
    assert (run["weight_dtype"], run["kv_dtype"], run["total_tokens_per_s"]) == ("fp16", "int8", pytest.approx(70.4))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [(LINE + ",1", "line 2 has 9 cells"), (LINE.replace("2.0,", "two,"), "latency_s is 'two', no number"),
     (LINE.replace("Nvidia A100", "Voodoo"), "measured on 'Voodoo GPU'")],
)  # fmt: skip
def test_broken_lines_are_named(tmp_path: Path, line: str, sentence: str) -> None:
    with pytest.raises(_importing.Unreadable, match=sentence):
        runs(tmp_path, HEAD, line)
    assert not (tmp_path / "runs").exists()
