"""Results of lm-evaluation-harness: every score with its error, filter and count; what the file says of model and device."""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from collectors import _importing, from_lm_eval
from collectors._importing import File, Unreadable
from warehouse import parquet

RESULTS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data/lm_eval/results_2026-01-01T00-00-00.json").read_text()
)
"""Hand-written, in the shape that 0.4.9 writes."""


def changed(**config: Any) -> dict[str, Any]:
    content = copy.deepcopy(RESULTS)
    content["config"] |= config
    return content


def write(folder: Path, content: dict[str, Any], name: str = "results_2026-01-01.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content, indent=2))
    return path


def landed(
    folder: Path, content: dict[str, Any], **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """The run, its scores and its samples."""
    collected = _importing.collect(folder / "landing", files=write(folder, content), **options)
    assert collected.num_runs == 1
    tables = {path.parent.name: parquet.read(path.parent.name, path).to_pylist() for path in collected.paths}
    return tables["runs"][0], tables["quality"], tables.get("samples", [])


def test_every_score_is_a_row(tmp_path: Path) -> None:
    _, rows, samples = landed(tmp_path, RESULTS)
    found = {
        (row["task"], row["metric"]): [
            row[name] for name in ("value", "stderr", "is_higher_better", "num_samples", "num_fewshot")
        ]
        for row in rows
    }
    assert found == {
        ("gsm8k", "exact_match,strict-match"): [0.75, 0.02, True, 100, 5],
        ("gsm8k", "exact_match,flexible-extract"): [0.8, 0.01, True, 100, 5],
        ("mmlu", "acc"): [0.62, None, None, None, None],
        ("wikitext", "word_perplexity"): [9.5, None, False, None, 0],
    }
    assert [(row["metric"], row["value"], row["unit"]) for row in samples] == [
        ("lm_eval:total_evaluation_time_seconds", 321.5, "s")
    ]


def test_what_the_file_says_of_the_run(tmp_path: Path) -> None:
    run, _, _ = landed(tmp_path, RESULTS)
    assert (run["llm_id"], run["hardware_id"], run["num_devices"], run["tensor_parallel"]) == (
        "llama-2-7b",
        "h100-sxm",
        2,
        2,
    )
    assert (run["phase"], run["framework"], run["framework_version"], run["weight_dtype"]) == (
        "generate",
        "vllm",
        None,
        "bf16",
    )
    assert (run["batch_size"], run["latency_s"], run["source_kind"]) == (None, None, "measured")
    assert run["collected_at"] == datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert "times no request" in run["status_detail"]
    assert "--limit 100" in run["status_detail"]


@pytest.mark.parametrize(
    "config",
    [
        {
            "model": "local-completions",
            "model_args": "model=meta-llama/Llama-2-7b-hf,base_url=http://user:secret@host/v1",
        },
        {"model": "hf", "device": "cpu"},
    ],
)
def test_a_device_that_the_file_does_not_name_is_to_be_given(tmp_path: Path, config: dict[str, Any]) -> None:
    """The GPUs listed are the client's, or the model did not run on them."""
    with pytest.raises(Unreadable, match=r"names no hardware\. Give it with --hardware"):
        landed(tmp_path, changed(**config))
    run, _, _ = landed(tmp_path, changed(**config), hardware_id="a100-sxm-80gb")
    assert run["hardware_id"] == "a100-sxm-80gb"
    for path in (tmp_path / "landing").rglob("*.parquet"):
        assert b"secret" not in path.read_bytes()


def test_a_local_path_keeps_its_last_part(tmp_path: Path) -> None:
    content = {
        **changed(model="hf", model_args={"pretrained": "/data/models/Mine-7b/", "dtype": "float16"}, model_dtype=None)
    }
    content["model_name"] = "/data/models/Mine-7b/"
    run, _, _ = landed(tmp_path, content)
    assert (run["served_model_name"], run["llm_id"], run["weight_dtype"]) == ("Mine-7b", None, "fp16")
    assert (run["framework"], run["framework_version"]) == ("transformers", "4.57.0")
    assert "someone" not in json.dumps(run, default=str)


def test_files_before_filters(tmp_path: Path) -> None:
    old = {
        "results": {"hellaswag": {"acc": 0.5, "acc_stderr": 0.01, "acc_norm": 0.6, "acc_norm_stderr": 0.02}},
        "versions": {"hellaswag": 0},
        "config": {"model": "hf-causal", "model_args": "pretrained=facebook/opt-1.3b", "num_fewshot": 0, "batch_size": "16", "device": "cuda:0", "limit": None},
    }  # fmt: skip
    run, rows, samples = landed(tmp_path, old, hardware_id="a100-sxm-80gb")
    assert [(row["metric"], row["value"], row["stderr"], row["num_fewshot"]) for row in rows] == [
        ("acc", 0.5, 0.01, 0),
        ("acc_norm", 0.6, 0.02, 0),
    ]
    assert (run["batch_size"], samples) == (16, [])


def test_a_second_import_adds_nothing(tmp_path: Path) -> None:
    first, second = (_importing.collect(tmp_path / "landing", files=write(tmp_path, RESULTS)).paths for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "text",
    [
        '{"results": {"a": {"acc,none": 0.5}}}',
        '{"benchmarks": [], "x_stderr": 1}',
        '[{"results": {"a": {"acc_stderr,none": 0.5}}}]',
        "",
        "results_stderr",
    ],
)
def test_other_files_are_not_claimed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    assert not from_lm_eval.recognises(File(path))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(results={"a": {"acc,none": "N/A", "acc_stderr,none": "N/A"}}),
        lambda content: content.update(results={"a": {"acc_stderr,none": 0.1}, "b": {}}),
        lambda content: content.update(results={"a": [{"acc_stderr,none": 0.1}]}),
        lambda content: content.update(config=["acc_stderr"]),
    ],
)
def test_a_file_without_a_score_or_out_of_shape_is_refused(tmp_path: Path, change: Any) -> None:
    content = copy.deepcopy(RESULTS)
    change(content)
    with pytest.raises(Unreadable, match=r"results_2026-01-01\.json"):
        _importing.collect(tmp_path / "landing", files=write(tmp_path, content), hardware_id="a100-sxm-80gb")
    assert not list((tmp_path / "landing").rglob("*.parquet"))
