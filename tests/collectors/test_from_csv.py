"""Plain CSV with a mapping: units, definitions, constants; and everything that is refused, in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from imported_rows import imported

from collectors import _importing, from_csv

TABLE = """GPU,Model,Batch,Latency (ms),Peak (MiB),Tokens/min,Fan,Note
h100-sxm,llama-2-7b,4,12.5,1024,600,2100,fine
h100-sxm,llama-2-7b,8,n/a,2048.5,1200,,
"""
MAPPING = """ignore = ["Note"]
missing = ["n/a"]
[columns."GPU"]
column = "hardware"
[columns."Model"]
column = "model"
[columns."Batch"]
column = "batch_size"
[columns."Latency (ms)"]
column = "latency_s"
unit = "ms"
definition = "wall_clock"
[columns."Peak (MiB)"]
column = "memory_peak_bytes"
unit = "MiB"
definition = "torch_max_allocated"
[columns."Tokens/min"]
column = "output_tokens_per_s"
unit = "tokens/min"
definition = "tokens_over_duration"
[columns."Fan"]
sample = "fan_speed"
unit = "1/min"
[constants]
phase = "generate"
weight_dtype = "bfloat16"
"""


def runs(folder: Path, table: str = TABLE, mapping: str = MAPPING, **options: Any) -> list[dict[str, Any]]:
    (folder / "mine.csv").write_text(table, encoding="utf-8")
    (folder / "mine.toml").write_text(mapping, encoding="utf-8")
    return imported(folder, folder / "mine.csv", mapping=folder / "mine.toml", **options)


def test_a_mapped_table(tmp_path: Path) -> None:
    first, second = sorted(runs(tmp_path), key=lambda run: run["batch_size"])
    assert (first["hardware_id"], first["llm_id"], first["phase"], first["weight_dtype"]) == (
        "h100-sxm",
        "llama-2-7b",
        "generate",
        "bf16",
    )
    assert (first["latency_s"], first["memory_peak_bytes"], first["output_tokens_per_s"]) == (
        pytest.approx(0.0125),
        2**30,
        pytest.approx(10.0),
    )
    assert first["definitions"] == {
        "latency_s": "wall_clock", "memory_peak_bytes": "torch_max_allocated", "output_tokens_per_s": "tokens_over_duration",
    }  # fmt: skip
    assert first["of"] == {"csv:fan_speed": [(2100.0, "1/min")]}
    assert (second["latency_s"], second["of"]) == (None, {}), "n/a and nothing are not measured"
    assert "latency_s" not in second["definitions"]
    assert second["memory_peak_bytes"] == 2048.5 * 2**20
    assert (first["source_kind"], first["source_cell"]) == ("measured", "line 2")


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_other_delimiters_and_blank_lines(tmp_path: Path, delimiter: str) -> None:
    assert len(runs(tmp_path, "\n" + TABLE.replace(",", delimiter) + "\n\n")) == 2


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("min", 60.0), ("h", 3600.0)],
)
def test_units_of_time(tmp_path: Path, unit: str, factor: float) -> None:
    first = next(
        run for run in runs(tmp_path, mapping=MAPPING.replace('unit = "ms"', f'unit = "{unit}"')) if run["latency_s"]
    )
    assert first["latency_s"] == pytest.approx(12.5 * factor)


def test_every_unit_of_ours_has_units_of_files() -> None:
    assert {*from_csv._METRIC_UNITS.values()} <= {*from_csv.UNITS}


def test_failures_are_rows(tmp_path: Path) -> None:
    table = TABLE.replace("Note", "Status").replace("fine", "ok").replace(",1200,,", ",1200,,oom")
    mapping = MAPPING.replace('ignore = ["Note"]\n', "") + '[columns."Status"]\ncolumn = "status"\n'
    found = {run["batch_size"]: run["status"] for run in runs(tmp_path, table, mapping)}
    assert found == {4: "ok", 8: "oom"}


def test_settings_of_the_caller_hold_for_every_line(tmp_path: Path) -> None:
    found = runs(tmp_path, settings=["tensor_parallel=2", "source_kind=published"])
    assert {(run["tensor_parallel"], run["source_kind"]) for run in found} == {(2, "published")}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('ignore = ["Note"]\n', "", "does not say what 'Note' of mine.csv is"),
        ('"Batch"', '"Batches"', "has no column 'Batches'"),
        ('unit = "ms"', 'unit = "fortnights"', r"\[columns.\"Latency \(ms\)\"\]: 'fortnights' is no unit of it. Known: s, ms"),
        ('unit = "ms"\n', "", "None is no unit of it"),
        ('unit = "MiB"', 'unit = "ms"', "'ms' is no unit of it. Known: B, kB"),
        ('"wall_clock"', '"by_hand"', "'by_hand' is none that is known"),
        ('definition = "wall_clock"\n', "", "latency_s needs a `definition`"),
        ('"latency_s"', '"latency"', "'latency' is not a column that can be mapped"),
        ('column = "batch_size"', 'column = "batch_size"\nunit = "ms"', "batch_size has no unit"),
        ('column = "batch_size"', 'column = "run_id"', "'run_id' is not a column that can be mapped"),
        ('column = "batch_size"', "", "needs either `column` or `sample`"),
        ('"output_tokens_per_s"', '"latency_s"', "is no unit of it"),
        ('column = "model"', 'column = "hardware"', "maps two columns to one: 'hardware'"),
        ('phase = "generate"', 'phase = "dance"', "'dance' is not a value of phase"),
        ('phase = "generate"', 'phases = "generate"', "'phases' cannot be set"),
        ('phase = "generate"', "", "does not say what was run"),
        ("ignore =", "ignored =", "no such key 'ignored'"),
        ("[constants]", "[constants", "cannot be read as TOML"),
        ('missing = ["n/a"]\n', 'missing = []\n', r"line 3: Latency \(ms\) is 'n/a', no number"),
    ],
)  # fmt: skip
def test_mappings_that_are_refused(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in MAPPING
    with pytest.raises(_importing.Unreadable, match=sentence):
        runs(tmp_path, mapping=MAPPING.replace(old, new, 1))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (TABLE + "h100-sxm,llama-2-7b\n", "line 4 has 2 cells under 8 headings"),
        (TABLE.replace(",4,", ",4.5,"), "line 2: '4.5' is not a value of batch_size"),
        (TABLE.replace("12.5", "fast"), "is 'fast', no number"),
        (TABLE.replace("h100-sxm,llama-2-7b,4", "h1000,llama-2-7b,4"), "measured on 'h1000'"),
        (TABLE.splitlines()[0] + "\n", "holds no result"),
        ("", "has no column|holds no result"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, table: str, sentence: str) -> None:
    with pytest.raises(_importing.Unreadable, match=sentence):
        runs(tmp_path, table)
    assert not (tmp_path / "runs").exists()


def test_a_csv_without_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(TABLE)
    with pytest.raises(_importing.Unreadable, match="--mapping"):
        _importing.collect(tmp_path / "landing", files=file)
    with pytest.raises(_importing.Unreadable, match="say which column is what with --mapping"):
        _importing.collect(tmp_path / "landing", files=file, tool="csv")
    with pytest.raises(_importing.Unreadable, match="does not exist"):
        _importing.collect(tmp_path / "landing", files=file, mapping=tmp_path / "absent.toml")
