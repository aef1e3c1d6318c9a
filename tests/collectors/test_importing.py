"""The door that every file of another tool comes through: recognised by content, identified by content, whole or not at all."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from landed_rows import landed

from collectors import __main__ as command
from collectors import _importing
from warehouse.store import Home, StoreError, open_store

SERVED = {
    "date": "20260301-101500", "backend": "vllm", "model_id": "meta-llama/Llama-2-7b-hf", "tokenizer_id": "meta-llama/Llama-2-7b-hf",
    "num_prompts": 10, "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 4, "duration": 5.0, "completed": 9,
    "total_input_tokens": 900, "total_output_tokens": 450, "request_throughput": 1.8, "output_throughput": 90.0,
    "total_token_throughput": 270.0, "mean_ttft_ms": 50.0, "mean_tpot_ms": 10.0,
}  # fmt: skip


def written(path: Path, result: Any = SERVED) -> Path:
    path.write_text(json.dumps(result))
    return path


def taken(tmp_path: Path, *files: Path, **said: Any) -> list[dict[str, Any]]:
    said = {"hardware_id": "h100-sxm"} | said
    _importing.collect(tmp_path / "landing", files=files, **said)
    rows: list[dict[str, Any]] = landed(tmp_path / "landing", "runs")
    return rows


def test_a_tool_is_recognised_by_content_and_never_by_name(tmp_path: Path) -> None:
    (run,) = taken(tmp_path, written(tmp_path / "guidellm-aiperf.csv"))
    assert (run["collector"], run["llm_id"], run["hardware_id"]) == ("from_vllm", "llama-2-7b", "h100-sxm")
    assert (run["ttft_s"], run["num_failed_requests"], run["quality_tier"]) == (0.05, 1, 0)


def test_the_same_content_is_the_same_run_whatever_the_file_is_called_or_how_it_is_packed(tmp_path: Path) -> None:
    first = written(tmp_path / "a.json")
    packed = tmp_path / "b.json.gz"
    packed.write_bytes(gzip.compress(first.read_bytes()))
    home = Home.of(tmp_path / "home")
    with open_store(home) as store:
        for file in (first, packed, first):
            _importing.collect(home.landing, files=[file], hardware_id="h100-sxm")
            store.load()
        counts = store.sql(
            "SELECT count(*) AS runs, count(DISTINCT run_id) AS ids FROM runs WHERE collector = 'from_vllm'"
        )
        sources = store.sql("SELECT source_id FROM sources WHERE source_id LIKE 'vllm/%'")
    assert counts.to_pylist() == [{"runs": 1, "ids": 1}]
    assert sources.num_rows == 1


def test_what_is_said_of_a_file_fills_what_it_does_not_say(tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", SERVED | {"model_id": "in-house/llm-9"})
    (run,) = taken(
        tmp_path,
        file,
        settings=["tensor_parallel=4", "num_devices=4", "optimizations=speculative flash", "weight_dtype=fp8"],
    )
    assert (run["tensor_parallel"], run["num_devices"], run["weight_dtype"]) == (4, 4, "fp8")
    assert run["optimizations"] == ["flash", "speculative"]
    assert (run["llm_id"], run["served_model_name"]) == (None, "in-house/llm-9")
    assert "'in-house/llm-9' is not in the catalogue of LLMs: give --model." in run["status_detail"]
    (run,) = taken(tmp_path / "again", file, llm_id="llama-2-7b")
    assert run["llm_id"] == "llama-2-7b"


def test_the_command_that_repeats_an_import_names_no_folder(tmp_path: Path) -> None:
    (run,) = taken(tmp_path, written(tmp_path / "a.json"), settings=["tensor_parallel=2"])
    assert run["command"] == "python -m collectors from_vllm a.json --hardware h100-sxm --set tensor_parallel=2"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"hardware_id": None}, r"^a\.json names no hardware\. Give it with --hardware"),
        ({"hardware_id": "h1000"}, r"^'h1000' is not in the hardware catalogue\. Known: "),
        ({"llm_id": "llama-9"}, r"^'llama-9' is not in the LLM catalogue\. Known: "),
        ({"settings": ["tp=4"]}, r"^'tp=4' does not set a column that can be set\. Known: .*tensor_parallel"),
        ({"settings": ["tensor_parallel=four"]}, r"^'four' is not a value of tensor_parallel: it takes int64\."),
        ({"settings": ["tensor_parallel=-1"]}, r"^'-1' is not a value of tensor_parallel: it is a number from 0 on\."),
        ({"settings": ["weight_dtype=float12"]}, r"^'float12' is not a value of weight_dtype\. Known: "),
        ({"tool": "vlm"}, r"^a\.json: 'vlm' is not a tool whose files can be imported\. Known: .*vllm"),
        ({"tool": "aiperf"}, r"^a\.json is a file of vllm, not of aiperf\."),
    ],
)
def test_what_cannot_be_is_a_sentence_and_nothing_lands(tmp_path: Path, said: dict[str, Any], sentence: str) -> None:
    with pytest.raises((_importing.Unreadable, LookupError), match=sentence):
        taken(tmp_path, written(tmp_path / "a.json"), **said)
    assert not list((tmp_path / "landing").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is a file of no tool that is known"),
        (b"hello", "is a file of no tool that is known"),
        (b"\x1f\x8b\x08\x00broken", "is cut off or broken gzip"),
    ],
)
def test_a_file_of_no_tool_is_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(_importing.Unreadable, match=f"^x.*{sentence}"):
        taken(tmp_path, tmp_path / "x")


def test_a_file_that_is_not_there_and_a_folder_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(_importing.Unreadable, match=r"absent\.json does not exist\."):
        taken(tmp_path, tmp_path / "absent.json")
    with pytest.raises(_importing.Unreadable, match="is a folder"):
        taken(tmp_path, tmp_path)


def test_utf_16_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SERVED), "utf-16")
    (run,) = taken(tmp_path, tmp_path / "a.json")
    assert run["ttft_s"] == 0.05


def test_the_command_line_lands_and_prints_what_it_landed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(written(tmp_path / "a.json")), "--landing", str(tmp_path / "landing")]
    assert command.main(["import", *words]) == 2
    assert "names no hardware" in capsys.readouterr().err
    assert command.main(["import", *words, "--hardware", "h100-sxm"]) == 0
    assert "runs/from_vllm-" in capsys.readouterr().out


def test_a_file_of_failures_is_no_failed_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = SERVED | {"completed": 0, "mean_ttft_ms": 0.0}
    words = [
        "from_vllm",
        str(written(tmp_path / "a.json", failed)),
        "--landing",
        str(tmp_path / "landing"),
        "--hardware",
        "h100-sxm",
    ]
    assert command.main(words) == 0
    assert "a.json: vllm, 1 runs, 1 of failures" in capsys.readouterr().err
    (run,) = landed(tmp_path / "landing", "runs")
    assert (run["status"], run["ttft_s"], run["num_failed_requests"]) == ("error", None, 10)


def test_an_unknown_device_gives_way_to_the_one_given_and_the_row_says_so(tmp_path: Path) -> None:
    result = {
        "hw": "zx9000", "conc": 4, "image": "vllm/vllm-openai:v0.11.0", "model": "openai/gpt-oss-120b", "framework": "vllm", "precision": "fp4",
        "isl": 1024, "osl": 1024, "tp": 8, "ep": 1, "dp_attention": "false", "tput_per_gpu": 10.0, "output_tput_per_gpu": 5.0,
        "input_tput_per_gpu": 5.0, "mean_ttft": 0.1, "mean_tpot": 0.01, "infmax_model_prefix": "gptoss", "spec_decoding": "none", "disagg": False,
        "is_multinode": False,
    }  # fmt: skip
    file = written(tmp_path / "agg.json", result)
    with pytest.raises(
        _importing.Unreadable, match=r"^agg\.json was measured on 'zx9000', which is not in the hardware catalogue"
    ):
        taken(tmp_path, file, hardware_id=None)
    (run,) = taken(tmp_path, file)
    assert (run["hardware_id"], run["num_devices"]) == ("h100-sxm", 8)
    assert (
        "The file calls the device 'zx9000', which is not in the catalogue; h100-sxm was given." in run["status_detail"]
    )


def test_how_many_devices_is_null_where_nobody_says_it(tmp_path: Path) -> None:
    (run,) = taken(tmp_path, written(tmp_path / "a.json"))
    assert run["num_devices"] is None
    assert "give --set num_devices=" in run["status_detail"]


def test_a_source_is_forgotten_and_may_come_again_with_other_words(tmp_path: Path) -> None:
    home = Home.of(tmp_path / "home")
    file = written(tmp_path / "a.json")
    with open_store(home) as store:
        for settings in (["num_devices=1"], ["num_devices=8"], ["num_devices=8", "framework_version=0.11.0"]):
            _importing.collect(home.landing, files=[file], hardware_id="h100-sxm", settings=settings)
            assert not store.load().quarantined
        before = store.snapshot_id()
        (source,) = store.sql("SELECT DISTINCT source_id FROM runs").column("source_id").to_pylist()
        assert store.forget(source)["runs"] == 3
        for table in ("runs", "samples", "sources"):
            assert (
                store.sql(
                    f"SELECT * FROM {table} WHERE source_id = '{source}'" if table != "samples" else "FROM samples"
                ).num_rows
                == 0
            )
        with pytest.raises(StoreError, match=f"No imported run has the source '{source}'"):
            store.forget(source)
        _importing.collect(home.landing, files=[file], hardware_id="h100-sxm", settings=["num_devices=8"])
        store.load()
        assert store.sql("SELECT num_devices FROM runs").to_pylist() == [{"num_devices": 8}]
    with open_store(home, read_only=True, snapshot=before) as store:
        assert store.sql("SELECT * FROM runs").num_rows == 3


@pytest.mark.parametrize(
    "name", ["https://user:hunter2@host/models/llm-9?token=hunter2", "/srv/models/llm-9/", "llm-9"]
)
def test_a_models_name_keeps_no_address_and_no_credential(tmp_path: Path, name: str) -> None:
    (run,) = taken(tmp_path, written(tmp_path / "a.json", SERVED | {"model_id": name}))
    assert run["served_model_name"] == "llm-9"
    assert "hunter2" not in str(run)
