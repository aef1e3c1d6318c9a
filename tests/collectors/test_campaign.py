"""Campaigns on a bare node, and the datasets that are packed from what they landed."""

import os
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import sample_rows

from collectors import _campaign, _dataset, _errors, _plan, published
from warehouse import catalog, parquet, schema

ROOFLINE = """
[[sweep]]
title = "bounds"
collector = "roofline"
part = "bounds"
share = 2
llm_id = "gpt2"
hardware_id = "a100-sxm-80gb"
phase = "decode"
dtypes = "fp16"
with_ops = "none"

[[sweep]]
title = "nobody's"
collector = "roofline"
part = "broken"
llm_id = "nobody"
"""


@pytest.fixture
def campaign(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(ROOFLINE)
    return str(path)


def test_every_campaign_of_the_project_is_valid():
    for path in _plan.CAMPAIGNS.glob("*.toml"):
        assert _plan.load(path.stem).sweeps


def test_a_sweep_that_fails_does_not_stop_the_others(tmp_path, campaign):
    lines = []
    outcome = _campaign.run(campaign, tmp_path / "landing", report=lines.append)
    assert outcome.collected.num_runs == len(parquet.read("runs", outcome.collected.paths[-1])) > 0
    assert len(outcome.failures) == 1
    assert "nobody's: 'nobody' is not in the LLM catalogue" in outcome.failures[0]


def test_parts_of_a_campaign_run_alone(tmp_path, campaign):
    outcome = _campaign.run(campaign, tmp_path / "landing", parts=["bounds"])
    assert outcome.failures == ()
    with pytest.raises(ValueError, match=r"has no part 'grid'\. Known: bounds, broken"):
        _campaign.run(campaign, tmp_path / "landing", parts=["grid"])


def test_nothing_starts_after_the_window(tmp_path, campaign):
    lines = []
    outcome = _campaign.run(campaign, tmp_path / "landing", budget_s=1e-9, report=lines.append)
    assert outcome.collected.num_runs == 0
    assert lines == ["bounds: the time is over; left out.", "nobody's: the time is over; left out."]


def test_the_command_says_what_failed_and_ends_so(tmp_path, campaign):
    words = [sys.executable, "-m", "collectors", "campaign", campaign, "--landing", str(tmp_path / "landing")]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "Failed: nobody's: 'nobody'" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("share", ["0", "-1", "'half'"])
def test_a_share_is_a_number_above_zero(tmp_path, share):
    path = tmp_path / "bad.toml"
    path.write_text(f"[[sweep]]\ncollector = 'roofline'\nshare = {share}\n")
    with pytest.raises(ValueError, match="share is a number above 0"):
        _plan.load(str(path))


@pytest.mark.parametrize("budget_s", [-5.0, 0.0, float("nan"), float("inf")])
def test_a_budget_is_a_number_of_seconds(tmp_path, campaign, budget_s):
    with pytest.raises(ValueError, match="budget_s is a number of seconds above 0, not "):
        _campaign.run(campaign, tmp_path / "landing", budget_s=budget_s)


ROOFLINE_OPTIONS = {
    "llm_id": "gpt2", "hardware_id": "a100-sxm-80gb", "phase": "decode", "dtypes": "fp16", "with_ops": "none",
}  # fmt: skip


def roofline(landing, **options):
    """The command on one configuration."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in (ROOFLINE_OPTIONS | options).items()]
    return [sys.executable, "-m", "collectors", "roofline", "--landing", str(landing), *words]


@pytest.mark.parametrize("folder", ["a-file", "a-file/deeper"])
def test_a_landing_folder_that_cannot_be_made_is_a_sentence(tmp_path, folder):
    (tmp_path / "a-file").write_text("")
    answer = subprocess.run(roofline(tmp_path / folder), capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    last = answer.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"Nothing could be landed in '.*a-file.*': .+\. Give another folder with --landing; .* whole\.", last
    )
    assert "Traceback" not in answer.stderr


def test_a_disk_without_room_is_a_sentence(tmp_path):
    """No file may grow beyond 0 bytes: the kernel refuses the write as a full disk does."""
    resource = pytest.importorskip("resource")
    answer = subprocess.run(
        roofline(tmp_path / "landing"), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )  # fmt: skip
    assert answer.returncode == 2
    assert "landing': File too large. Give another folder with --landing" in answer.stderr
    assert not list((tmp_path / "landing").glob("*/*.parquet"))


def test_only_sentences_are_printed_without_their_traceback():
    for error in (
        LookupError("no such paper"),
        ValueError("no"),
        OSError("no"),
        catalog.UnknownEntryError("no such LLM"),
    ):
        assert _errors.is_sentence(error)
    for error in (KeyError("columns"), IndexError("list index out of range"), TypeError("x"), ZeroDivisionError()):
        assert not _errors.is_sentence(error)


def test_a_file_elsewhere_is_no_matter_of_landing(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file"), _errors.explained(tmp_path / "landing"):
        (tmp_path / "trace.json").read_text()


def landed(landing, number):
    run = sample_rows.run(f"local_profile-{number}", llm_id="gpt2", hardware_id="h100-sxm", batch_size=number)
    source = {"source_id": run["source_id"], "title": "here", "kind": "machine"}
    sample = {
        "run_id": run["run_id"],
        "metric": "latency_s",
        "sample_index": 0,
        "sample_phase": "measured",
        "value": 1.0,
    }
    parquet.land(landing, run["run_id"], {"runs": [run], "sources": [source], "samples": [sample]})
    return run


def test_what_landed_is_packed_into_one_file_a_table_and_lands_again(tmp_path, monkeypatch):
    runs = [landed(tmp_path / "landing", number) for number in (1, 2, 3)]
    folder = tmp_path / "measured" / "h100-sxm-2026-01-02"
    paths = _dataset.pack(tmp_path / "landing", folder)
    assert [path.name for path in paths] == ["runs.parquet", "samples.parquet", "sources.parquet"]
    assert pq.read_metadata(folder / "runs.parquet").row_group(0).column(0).compression == "ZSTD"
    monkeypatch.setattr(published, "MEASURED", tmp_path / "measured")
    published.collect(tmp_path / "elsewhere")
    rows = parquet.read("runs", tmp_path / "elsewhere" / "runs" / f"measured-{folder.name}.parquet").to_pylist()
    assert {row["run_id"] for row in rows} == {run["run_id"] for run in runs}
    assert {row["source_id"] for row in rows} == {f"rooflake/measured/{folder.name}"}
    sources = parquet.read("sources", folder / "sources.parquet").to_pylist()
    assert [row["source_id"] for row in sources] == [f"rooflake/measured/{folder.name}"]
    assert all(row["config_id"] == schema.config_id(row) for row in rows)


def test_a_dataset_that_was_shipped_does_not_change(tmp_path):
    landed(tmp_path / "landing", 1)
    folder = tmp_path / "dataset"
    _dataset.pack(tmp_path / "landing", folder)
    with pytest.raises(ValueError, match="exists already"):
        _dataset.pack(tmp_path / "landing", folder)


def test_a_dataset_too_large_to_ship_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(_dataset, "MOST_BYTES", 100)
    landed(tmp_path / "landing", 1)
    with pytest.raises(ValueError, match="at most"):
        _dataset.pack(tmp_path / "landing", tmp_path / "dataset")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["landing"]


def test_nothing_landed_is_nothing_to_pack(tmp_path):
    with pytest.raises(ValueError, match=r"No runs lie in .*python -m collectors campaign"):
        _dataset.pack(tmp_path / "landing", tmp_path / "dataset")
