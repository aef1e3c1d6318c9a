"""The roofline collector: deterministic files of checked rows, twins that join by config_id, on a node with pyarrow and numpy."""

from __future__ import annotations

import inspect
import shutil
import signal
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from collectors import __main__ as command_line
from collectors import roofline
from models.analytical import ENGINE_REVISION
from warehouse import catalog, parquet, schema

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "llm_id": ["llama-2-7b"], "hardware_id": ["a6000"], "phase": ["decode"], "context_tokens": [1024], "attention": ["eager"],
}  # fmt: skip


def landed(landing: Path, table: str) -> pa.Table:
    return pa.concat_tables([parquet.read(table, path) for path in sorted((landing / table).glob("*.parquet"))])


def test_a_sweep_lands_the_cross_product_with_its_ops_and_source(tmp_path: Path) -> None:
    collected = roofline.collect(
        tmp_path, llm_id=["llama-2-7b", "meta-llama/Llama-2-70b-hf"], hardware_id=["a100-sxm-80gb", "h100", "t4"],
        phase=["prefill", "decode", "generate"], batch_size=[1, 8], input_tokens=[128, 512], output_tokens=[16, 32, 64],
        context_tokens=[256], dtypes=["fp16", "w4a16"], attention=["eager", "flash"],
    )  # fmt: skip

    runs, ops = landed(tmp_path, "runs"), landed(tmp_path, "ops")
    pairs = 2 * 3 * 2 * 2 * 2  # LLMs, devices, batches, dtypes, attention
    assert collected.num_runs == runs.num_rows == pairs * (2 + 1 + 2 * 3)
    assert collected.num_failed == 0
    assert set(runs["hardware_id"].to_pylist()) == {"a100-sxm-80gb", "h100-sxm", "t4"}
    assert set(runs["source_kind"].to_pylist()) == {"analytical"}
    assert runs["quality_tier"].null_count == runs.num_rows
    assert runs["config_id"].equals(pa.chunked_array([schema.config_ids(runs)]))
    assert len(set(runs["run_id"].to_pylist())) == runs.num_rows
    assert set(ops["run_id"].to_pylist()) == set(runs["run_id"].to_pylist())
    sources = landed(tmp_path, "sources").to_pylist()
    assert [source["source_id"] for source in sources] == ["rooflake/default"] == runs["source_id"].unique().to_pylist()
    quantised = runs.filter(pc.equal(runs["weight_dtype"], "int4"))
    assert set(quantised["activation_dtype"].to_pylist()) == set(quantised["kv_dtype"].to_pylist()) == {"fp16"}
    decode = runs.filter(pc.equal(runs["phase"], "decode"))
    assert decode["input_tokens"].null_count == decode.num_rows
    prefill = runs.filter(pc.equal(runs["phase"], "prefill"))
    assert prefill["context_tokens"].null_count == prefill["output_tokens"].null_count == prefill.num_rows


def test_a_second_run_lands_the_same_bytes(tmp_path: Path) -> None:
    first = roofline.collect(tmp_path / "a", **SMALL)
    second = roofline.collect(tmp_path / "b", **SMALL)
    assert [path.name for path in first.paths] == [path.name for path in second.paths]
    assert [path.read_bytes() for path in first.paths] == [path.read_bytes() for path in second.paths]


def test_a_run_is_the_same_run_in_every_sweep_and_another_under_another_ruleset(tmp_path: Path) -> None:
    for options in ({}, {"batch_size": [1, 2]}, {"ruleset": "llmviewer-472f71f"}):
        roofline.collect(tmp_path, **(SMALL | options))
    runs = landed(tmp_path, "runs").to_pylist()
    of_batch_1 = [row for row in runs if row["batch_size"] == 1]
    assert len({row["config_id"] for row in of_batch_1}) == 1
    default = [row["run_id"] for row in of_batch_1 if row["ruleset"] == "default"]
    assert len(default) == 2
    assert len(set(default)) == 1
    assert len({row["run_id"] for row in of_batch_1}) == 2


def test_the_printed_numbers_of_chilka_nyu_land_under_our_ids(tmp_path: Path) -> None:
    roofline.collect(
        tmp_path, **(SMALL | {"hardware_id": ["nvidia_A6000"], "llm_id": ["meta-llama/Llama-2-7b-hf"]}),
        dtypes=["fp16", "int8"], ruleset="llmviewer-472f71f",
    )  # fmt: skip
    half, eighth = landed(tmp_path, "runs").to_pylist()
    assert (half["llm_id"], half["hardware_id"], half["source_id"]) == ("llama-2-7b", "a6000", "llmviewer-472f71f")
    assert (half["flops"], half["bytes_moved"]) == (13_627_555_840, 13_767_891_456)
    assert [half["roofline_s"], eighth["roofline_s"]] == pytest.approx([0.017926942, 0.008963471], rel=1e-12)


@pytest.mark.parametrize(("with_ops", "of"), [("all", 4), ("none", 0), ("3", 3), ("99", 4)])
def test_ops_can_be_left_out_and_the_runs_stay_the_same(tmp_path: Path, with_ops: str, of: int) -> None:
    options = SMALL | {"batch_size": [1, 2, 4, 8]}
    roofline.collect(tmp_path / "all", **options)
    roofline.collect(tmp_path / "some", **options, with_ops=with_ops)
    assert landed(tmp_path / "some", "runs").equals(landed(tmp_path / "all", "runs"))
    names = landed(tmp_path / "some", "ops")["run_id"].unique().to_pylist() if of else []
    assert len(names) == of
    assert (tmp_path / "some" / "ops").exists() == bool(of)


def test_an_encoder_decoder_has_its_own_lengths(tmp_path: Path) -> None:
    roofline.collect(
        tmp_path, llm_id=["t5-small"], hardware_id=["t4"], phase=["forward", "decode"], input_tokens=[64],
        output_tokens=[32], context_tokens=[8],
    )  # fmt: skip
    rows = {row["phase"]: row for row in landed(tmp_path, "runs").to_pylist()}
    assert [rows["forward"][name] for name in ("input_tokens", "output_tokens", "context_tokens")] == [64, 32, None]
    assert [rows["decode"][name] for name in ("input_tokens", "output_tokens", "context_tokens")] == [64, None, 8]
    assert {row["status_detail"] for row in rows.values()} == {None}


def test_what_has_no_answer_lands_as_a_row_with_the_reason(tmp_path: Path) -> None:
    collected = roofline.collect(tmp_path, **SMALL, tensor_parallel=[1, 3])
    assert (collected.num_runs, collected.num_failed) == (2, 1)
    odd = next(row for row in landed(tmp_path, "runs").to_pylist() if row["tensor_parallel"] == 3)
    assert (odd["status"], odd["flops"]) == ("unsupported", None)
    assert odd["status_detail"].startswith("tensor_parallel must divide the 32 attention heads of llama-2-7b")


def test_what_an_llm_cannot_run_is_said(tmp_path: Path) -> None:
    lines: list[str] = []
    collected = roofline.collect(
        tmp_path, report=lines.append, llm_id=["llama-2-7b", "bert-base", "distilbert-base", "gpt2", "bart-base"],
        hardware_id=["t4"], phase=["decode", "forward"], context_tokens=[1024, 1025], input_tokens=[512, 1024],
        output_tokens=[64, 2048], batch_size=[1, 8],
    )  # fmt: skip

    runs = landed(tmp_path, "runs")
    answered = runs.filter(pc.equal(runs.column("status"), "ok"))
    assert {(row["llm_id"], row["phase"]): row["count"] for row in _counted(answered)} == {
        ("llama-2-7b", "decode"): 4, ("llama-2-7b", "forward"): 4, ("gpt2", "decode"): 2, ("gpt2", "forward"): 4,
        ("bert-base", "forward"): 2, ("distilbert-base", "forward"): 2, ("bart-base", "decode"): 4, ("bart-base", "forward"): 4,
    }  # fmt: skip
    assert collected.num_failed == runs.num_rows - answered.num_rows == 14
    assert lines[0] == "8 left out, bert-base and 1 more: an encoder has no decode: it has forward."
    assert lines[-5:] == [
        "4 without an answer: context_tokens is beyond the 1024 tokens that bart-base is made for.",
        "4 without an answer: input_tokens is beyond the 1024 tokens that bart-base is made for.",
        "2 without an answer: context_tokens is beyond the 1024 tokens that gpt2 is made for.",
        "2 without an answer: input_tokens is beyond the 512 tokens that bert-base is made for.",
        "2 without an answer: input_tokens is beyond the 512 tokens that distilbert-base is made for.",
    ]
    nothing = roofline.collect(tmp_path / "none", **(SMALL | {"llm_id": ["bert-base"]}))
    assert (nothing.num_runs, nothing.paths) == (0, ())


def _counted(runs: pa.Table) -> list[dict[str, Any]]:
    grouped = runs.group_by(["llm_id", "phase"]).aggregate([([], "count_all")])
    return grouped.rename_columns({"count_all": "count"}).to_pylist()


def test_rows_carry_the_revision_of_the_engine(tmp_path: Path) -> None:
    roofline.collect(tmp_path, **SMALL)
    (row,) = landed(tmp_path, "runs").to_pylist()
    assert row["engine_revision"] == ENGINE_REVISION
    assert row["collected_at"].isoformat().startswith(ENGINE_REVISION)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"llm_id": ["gpt-9"]}, "'gpt-9' is not in the LLM catalogue"),
        ({"hardware_id": ["h1000"]}, "'h1000' is not in the hardware catalogue"),
        ({"phase": ["serve"]}, r"phase \['serve'\] cannot be swept. Known: forward, prefill"),
        ({"dtypes": ["w5a16"]}, "'w5a16' names no dtypes. Known: fp64"),
        ({"batch_size": [0]}, "batch_size must be whole numbers of 1 or more"),
        ({"attention": ["magic"]}, "cannot be swept. Known: eager"),
        ({"ruleset": "calculon"}, "'calculon' is not a ruleset"),
        ({"with_ops": "most"}, "with_ops 'most': give all, none"),
        ({"optimizations": ["zero3+magic"]}, r"optimizations \['magic'\] cannot be swept. Known: zero1"),
        ({"interconnect": ["carrier pigeon"]}, "cannot be swept. Known: nvlink, pcie"),
        ({"optimizer_dtype": ["fp99"]}, "cannot be swept. Known: fp64"),
        ({"execution": ["lazy"]}, "cannot be swept. Known: eager"),
        ({"prefix_tokens": [-1]}, "prefix_tokens must be whole numbers of 0 or more"),
        ({"attention": []}, "attention names nothing"),
        ({"num_workers": 0}, "num_workers must be 1 or more"),
    ],
)
def test_a_value_that_no_row_can_have_is_refused_and_nothing_lands(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((catalog.UnknownEntryError, ValueError), match=said):
        roofline.collect(tmp_path, **(SMALL | options))
    assert list(tmp_path.iterdir()) == []


def test_dtypes_by_name_by_bits_and_one_by_one(tmp_path: Path) -> None:
    roofline.collect(tmp_path, **SMALL, dtypes=["bf16", "w8a8kv4", "fp8/bf16/fp8"])
    rows = landed(tmp_path, "runs").to_pylist()
    assert [(row["weight_dtype"], row["activation_dtype"], row["kv_dtype"]) for row in rows] == [
        ("bf16", "bf16", "bf16"), ("int8", "int8", "int4"), ("fp8", "bf16", "fp8"),
    ]  # fmt: skip


# Axes


def test_an_axis_that_a_phase_lacks_is_left_out_of_it(tmp_path: Path) -> None:
    roofline.collect(
        tmp_path, llm_id=["llama-2-7b", "t5-small"], hardware_id=["a100-sxm-80gb"], with_ops="none",
        phase=["forward", "prefill", "decode", "generate", "pretrain_step", "finetune_step"],
        prefix_tokens=[0, 256], chunk_tokens=[0, 128], optimizations=["none", "zero3+offload", "lora", "quantized"],
        optimizer_dtype=["fp32", "bf16"], gradient_dtype=["bf16"], lora_rank=[8, 64], dtypes=["fp16", "w16a16kv8"],
    )  # fmt: skip
    rows = [row for row in landed(tmp_path, "runs").to_pylist() if row["llm_id"] == "llama-2-7b"]

    def values(phase: str, *names: str) -> set[Any]:
        found = {tuple(row[name] for name in names) for row in rows if row["phase"] == phase}
        return {one[0] for one in found} if len(names) == 1 else found

    for phase in ("prefill", "generate"):
        assert values(phase, "prefix_tokens", "chunk_tokens") == {(None, None), (None, 128), (256, None), (256, 128)}
    for phase in ("forward", "decode", "pretrain_step", "finetune_step"):
        assert values(phase, "prefix_tokens", "chunk_tokens") == {(None, None)}
    for phase in ("forward", "prefill", "decode", "generate"):
        assert values(phase, "optimizer_dtype", "gradient_dtype", "lora_rank") == {(None, None, None)}
        assert values(phase, "kv_dtype") == {"fp16", "int8"}
        named = {tuple(row["optimizations"]) for row in rows if row["phase"] == phase}
        assert named == {(), ("offload",), ("quantized",)}
    for phase in ("pretrain_step", "finetune_step"):
        assert values(phase, "optimizer_dtype", "gradient_dtype", "kv_dtype") == {
            ("fp32", "bf16", None),
            ("bf16", "bf16", None),
        }
    adapters = {(tuple(row["optimizations"]), row["lora_rank"]) for row in rows if row["phase"] == "finetune_step"}
    assert adapters == {
        ((), None),
        (("offload", "zero3"), None),
        (("lora",), 8),
        (("lora",), 64),
        (("quantized",), None),
    }
    plain = {(tuple(row["optimizations"]), row["lora_rank"]) for row in rows if row["phase"] == "pretrain_step"}
    assert plain == {((), None), (("offload", "zero3"), None), (("quantized",), None)}
    translating = [row for row in landed(tmp_path, "runs").to_pylist() if row["llm_id"] == "t5-small"]
    assert {row["chunk_tokens"] for row in translating} == {None}
    assert len({row["run_id"] for row in rows}) == len({row["config_id"] for row in rows}) == len(rows)


def test_devices_are_the_product_of_the_degrees_less_expert_parallel(tmp_path: Path) -> None:
    roofline.collect(
        tmp_path, **SMALL, tensor_parallel=[1, 2], pipeline_parallel=[1, 4], data_parallel=[1, 3], expert_parallel=[1, 2],
        num_micro_batches=[1, 4], interconnect=["nvlink", "pcie"],
    )  # fmt: skip
    runs = landed(tmp_path, "runs")
    assert runs.num_rows == 2**6
    for row in runs.to_pylist():
        assert row["num_devices"] == row["tensor_parallel"] * row["pipeline_parallel"] * row["data_parallel"]
    assert set(runs["num_micro_batches"].to_pylist()) == {None, 4}


def test_an_execution_profile_is_no_part_of_the_configuration_yet_another_run(tmp_path: Path) -> None:
    roofline.collect(tmp_path / "assumed", **SMALL)
    roofline.collect(tmp_path / "stated", **SMALL, execution=["eager", "graph"])
    (assumed,), (eager, graph) = (landed(tmp_path / folder, "runs").to_pylist() for folder in ("assumed", "stated"))
    assert (eager["execution"], graph["execution"]) == ("eager", "graph")
    assert assumed == eager  # by attention
    assert eager["config_id"] == graph["config_id"]
    assert eager["run_id"] != graph["run_id"]
    roofline.collect(tmp_path / "refused", **SMALL, execution=["eager", "graph"], tensor_parallel=[3])
    assert len(set(landed(tmp_path / "refused", "runs")["run_id"].to_pylist())) == 2


def test_the_help_names_every_axis(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["roofline", "--help"])
    shown = capsys.readouterr().out
    axes = set(inspect.signature(roofline.collect).parameters) - {"landing", "report"}
    assert {name for name in axes if f"--{name.replace('_', '-')} " not in shown} == set()


# Batches

GRID: dict[str, Any] = {
    "llm_id": ["llama-2-7b", "gpt2", "bert-base", "t5-small"], "hardware_id": ["a6000", "t4"], "batch_size": [1, 2, 3],
    "phase": ["forward", "prefill", "decode", "generate"], "input_tokens": [64, 600, 1020], "output_tokens": [2, 64],
    "context_tokens": [128, 1024], "tensor_parallel": [1, 3], "attention": ["eager", "flash"],
}  # fmt: skip


@pytest.mark.parametrize(("with_ops", "workers"), [("all", 1), ("none", 1), ("150", 1), ("all", 2)])
def test_batches_hold_what_one_evaluation_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_ops: str, workers: int
) -> None:
    whole = roofline.collect(tmp_path / "whole", **GRID, with_ops=with_ops)
    monkeypatch.setattr(roofline, "BATCH", 37)
    monkeypatch.setattr(roofline, "BATCH_WITH_OPS", 101)
    lines: list[str] = []
    parts = roofline.collect(tmp_path / "parts", **GRID, with_ops=with_ops, num_workers=workers, report=lines.append)

    assert (parts.num_runs, parts.num_failed) == (whole.num_runs, whole.num_failed)
    assert parts.num_failed > 0
    for table in ("runs", "ops") if with_ops != "none" else ("runs",):
        paths = {
            name: [path for path in one.paths if path.parent.name == table]
            for name, one in (("a", whole), ("b", parts))
        }
        assert len(paths["a"]) == 1 < len(paths["b"])
        first, second = (pa.concat_tables([parquet.read(table, path) for path in paths[name]]) for name in ("a", "b"))
        assert first.equals(second)
    assert f"{whole.num_runs} of {whole.num_runs} configurations" in lines
    assert len(list((tmp_path / "parts" / "sources").iterdir())) == 1


def test_as_many_processes_as_there_are_land_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "BATCH", 60)
    one, two = (roofline.collect(tmp_path / str(count), **GRID, with_ops="none", num_workers=count) for count in (1, 2))
    assert [path.name for path in one.paths] == [path.name for path in two.paths]
    assert [path.read_bytes() for path in one.paths] == [path.read_bytes() for path in two.paths]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_sweep_leaves_whole_files_and_lands_the_same_when_it_is_run_again(
    tmp_path: Path, workers: int
) -> None:
    script = f"""
import sys
from pathlib import Path
from collectors import roofline
roofline.BATCH = 400
say = lambda line: print(line, flush=True)
roofline.collect(
    Path(sys.argv[1]), report=say, llm_id=["llama-2-7b"], hardware_id=["a6000", "t4"], batch_size=list(range(1, 61)),
    input_tokens=list(range(1, 61)), context_tokens=list(range(1, 61)), with_ops="none", num_workers={workers},
)
"""
    command = [sys.executable, "-c", script]
    killed, again = tmp_path / "killed", tmp_path / "again"
    with subprocess.Popen([*command, str(killed)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("1200 of"):
                break
        helpers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(helpers, timeout=30)[1] == []
    left = sorted(path.name for path in (killed / "runs").glob("*.parquet"))
    assert 3 <= len(left) < 36
    assert landed(killed, "runs").num_rows == 400 * len(left)

    for folder in (killed, again):
        subprocess.run([*command, str(folder)], check=True, capture_output=True, cwd=ROOT)
    names = sorted(path.name for path in (again / "runs").glob("*.parquet"))
    assert len(names) == 36
    assert sorted(path.name for path in (killed / "runs").glob("*.parquet")) == names
    assert all((killed / "runs" / name).read_bytes() == (again / "runs" / name).read_bytes() for name in names)


# Twins


def measured(**values: Any) -> dict[str, Any]:
    config = {
        "llm_id": "opt-350m", "hardware_id": "this-machine", "phase": "forward", "batch_size": 4, "input_tokens": 128,
        "weight_dtype": "fp32", "activation_dtype": "fp32", "num_devices": 1, "optimizations": [],
    }  # fmt: skip
    return dict.fromkeys(schema.CONFIGURATION_NAMES) | config | values


MACHINE = {
    "hardware_id": "this-machine", "name": "This machine", "memory_bandwidth_bytes_per_s": 20e9,
    "peak_fp32_flops_per_s": 3e11, "memory_bytes": 16e9, "source": "measured", "source_date": "2026-11-21",
}  # fmt: skip


def test_twins_keep_the_configuration_so_that_they_join(tmp_path: Path) -> None:
    rows = [
        measured(), measured(), measured(attention="sdpa", batch_size=8),
        measured(hardware_id="a100-sxm-80gb", phase="decode", input_tokens=None, context_tokens=300, optimizations=["sparse"]),
        measured(phase="serve"), measured(phase="microbench"),
    ]  # fmt: skip
    configs = pa.Table.from_pylist(
        rows, schema=pa.schema([schema.RUNS.arrow.field(name) for name in schema.CONFIGURATION_NAMES])
    )

    collected = roofline.twins(configs, tmp_path, hardware_rows=[MACHINE])

    runs = landed(tmp_path, "runs")
    assert collected.num_runs == runs.num_rows == 3
    assert set(runs["config_id"].to_pylist()) == set(schema.config_ids(configs.slice(1, 3)).to_pylist())
    assert set(runs["ruleset"].to_pylist()) == {"default"}
    twin = next(row for row in runs.to_pylist() if row["attention"] == "sdpa")
    degrees = dict.fromkeys(schema.ONE_BY_DEFAULT, 1)  # absent in the measurement, which config_id takes for 1
    assert {name: twin[name] for name in schema.CONFIGURATION_NAMES} == rows[2] | degrees
    assert twin["roofline_s"] >= twin["flops"] / 3e11
    assert any("sparse: changes no number here" in (row["status_detail"] or "") for row in runs.to_pylist())
    assert landed(tmp_path, "ops").num_rows > 0


@pytest.mark.parametrize(
    "values",
    [
        {}, {"num_devices": None}, {"num_devices": None, "tensor_parallel": 2}, {"num_devices": 2}, {"optimizations": None},
        {"num_devices": 4, "tensor_parallel": 2, "data_parallel": 2},
        {"num_devices": None, "data_parallel": 2},
    ],
)  # fmt: skip
def test_a_twin_has_the_config_id_of_its_row_however_degrees_are_spelled(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    row = measured(llm_id="gpt2", **values)
    roofline.twins(pa.Table.from_pylist([row]), tmp_path, hardware_rows=[MACHINE])
    assert landed(tmp_path, "runs")["config_id"].to_pylist() == [schema.config_id(row)]


def test_a_twin_of_a_swept_configuration_is_the_same_row(tmp_path: Path) -> None:
    """However sparsely the measurement spells it: the store refuses one key with two contents."""
    roofline.collect(tmp_path / "swept", **SMALL)
    sparse = {"llm_id": "llama-2-7b", "hardware_id": "a6000", "phase": "decode", "batch_size": 1, "context_tokens": 1024,
              "weight_dtype": "fp16", "activation_dtype": "fp16", "kv_dtype": "fp16", "attention": "eager"}  # fmt: skip
    roofline.twins(pa.Table.from_pylist([sparse]), tmp_path / "twin")
    assert landed(tmp_path / "twin", "runs").equals(landed(tmp_path / "swept", "runs"))
    assert landed(tmp_path / "twin", "ops").equals(landed(tmp_path / "swept", "ops"))


def test_twins_of_what_nobody_knows_are_left_out_and_said(tmp_path: Path) -> None:
    lines: list[str] = []
    rows = [
        measured(llm_id="my-checkpoint"),
        measured(hardware_id="elsewhere"),
        measured(hardware_id="bare"),
        measured(),
    ]
    hardware = [MACHINE, {"hardware_id": "bare", "name": "no bandwidth"}]

    collected = roofline.twins(pa.Table.from_pylist(rows), tmp_path, report=lines.append, hardware_rows=hardware)

    assert collected.num_runs == 1
    said = "\n".join(lines)
    for part in (
        "'my-checkpoint' is not in the LLM catalogue",
        "'elsewhere' is not in the hardware",
        "'bare' has no memory_bandwidth",
    ):
        assert part in said
    llm = catalog.llm_row(catalog.find_llm("opt-350m")) | {"llm_id": "my-checkpoint"}
    more = roofline.twins(pa.Table.from_pylist(rows[:1]), tmp_path / "b", hardware_rows=hardware, llm_rows=[llm])
    assert more.num_runs == 1
    none = roofline.twins(pa.Table.from_pylist(rows[1:2]), tmp_path / "c", hardware_rows=hardware)
    assert (none.num_runs, none.paths) == (0, ())


def test_a_twin_without_a_number_is_no_row(tmp_path: Path) -> None:
    lines: list[str] = []
    no_length = {"hardware_id": "a100-sxm-80gb", "phase": "decode", "input_tokens": None}
    rows = [
        measured(**no_length, tensor_parallel=1),
        measured(**no_length, batch_size=8),
        measured(phase="prefill", llm_id="bert-base"),
        measured(num_devices=2, tensor_parallel=1),
        measured(),
    ]

    collected = roofline.twins(pa.Table.from_pylist(rows), tmp_path, report=lines.append, hardware_rows=[MACHINE])

    assert (collected.num_runs, collected.num_failed) == (1, 0)
    assert landed(tmp_path, "runs")["status"].to_pylist() == ["ok"]
    assert set(lines[:-1]) == {
        "2 left out: decode needs context_tokens.",
        "1 left out: an encoder has no prefill: it has forward.",
        "1 left out: num_devices is not tensor_parallel x pipeline_parallel x data_parallel.",
    }
    none = roofline.twins(pa.Table.from_pylist(rows[:1]), tmp_path / "none")
    assert (none.num_runs, none.paths) == (0, ())


# Where it runs


def test_the_command_line_says_what_landed_and_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["roofline", "--landing", str(tmp_path), "--hardware-id", "a6000", "--llm-id"]
    assert command_line.main([*arguments, "llama-2-7b", "--batch-size", "1", "2", "--dtypes", "w4a16"]) == 0
    shown = capsys.readouterr()
    assert "4 runs landed, 0 of them failures." in shown.err
    assert all(Path(line).exists() for line in shown.out.splitlines())
    assert command_line.main([*arguments, "gpt-9"]) == 2
    assert "'gpt-9' is not in the LLM catalogue. Known:" in capsys.readouterr().err


def installed(package: str) -> Path:
    """Folder of an installed package."""
    for folder in (*site.getsitepackages(), site.getusersitepackages()):
        if (Path(folder) / package).is_dir():
            return Path(folder) / package
    pytest.skip(f"{package} is not installed in a folder that can be copied")


def test_a_wheel_on_a_node_with_pyarrow_and_numpy_writes_checked_parquet(tmp_path: Path) -> None:
    """The built wheel in a virtual environment that holds nothing else; no network."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "rooflake-data", "tests", "__pycache__"),
    )
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("rooflake-*.whl")
    venv.create(tmp_path / "node", with_pip=False, symlinks=True)
    python = tmp_path / "node" / "bin" / "python"
    (packages,) = (tmp_path / "node" / "lib").glob("python*/site-packages")
    for name in ("numpy", "numpy.libs", "pyarrow"):
        if name != "numpy.libs" or (installed("numpy").parent / name).is_dir():
            (packages / name).symlink_to(installed("numpy").parent / name if "numpy" in name else installed(name))
    shutil.unpack_archive(wheel, packages, "zip")

    command = [str(python), "-I", "-m", "collectors", "roofline", "--landing", str(tmp_path / "landing")]
    command += ["--llm-id", "llama-2-7b", "--hardware-id", "a6000", "--phase", "decode", "--attention", "eager"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={}, check=False)

    assert done.returncode == 0, done.stderr
    (row,) = landed(tmp_path / "landing", "runs").to_pylist()
    assert (row["status"], row["llm_id"]) == ("ok", "llama-2-7b")
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert {path.parent.name for path in paths} == {"runs", "ops", "sources", "calibrations"}
    assert pq.read_metadata(paths[0]).num_rows > 10
    heavy = [str(python), "-I", "-c", "import torch"]
    assert subprocess.run(heavy, capture_output=True, cwd=tmp_path, check=False).returncode != 0
