"""The command line as a person types it: data on stdout, sentences on stderr, exit codes that mean something."""

import csv
import io
import json
from importlib import metadata

import pyarrow.parquet as pq
import pytest
from command_line import rooflake
from sample_rows import run

from collectors import _machine
from warehouse import parquet
from warehouse.store import Home, open_store


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    place = Home.of(tmp_path_factory.mktemp("cli") / "home")
    parquet.land(place.landing, "a", {"runs": [run("a"), run("b", latency_s=0.03, optimizations=["flash"])]})
    with open_store(place) as store:
        store.load()
    return place.path


def test_sql_prints_a_table_csv_and_json(home):
    query = "select run_id, latency_s, optimizations, ttft_s, collected_at from runs order by 1"
    table = rooflake("sql", "--home", home, query)
    assert table.returncode == 0
    assert "run_id" in table.stdout
    assert "0.03" in table.stdout
    rows = list(csv.DictReader(io.StringIO(rooflake("sql", query, "--home", home, "--format", "csv").stdout)))
    assert [row["latency_s"] for row in rows] == ["0.02", "0.03"]
    assert rows[1]["optimizations"] == '["flash"]'
    assert rows[0]["ttft_s"] == ""
    assert rows[0]["collected_at"].startswith("2026-01-01")
    assert json.loads(rooflake("sql", query, "--home", home, "-f", "json").stdout)[0]["ttft_s"] is None


def test_large_whole_numbers_are_printed_whole(home):
    answer = rooflake("sql", "select 13627555840.0::double as flops, 0.1 as x", "--home", home, "-f", "csv")
    assert answer.stdout == "flops,x\n13627555840,0.1\n"


def test_sql_writes_parquet(home, tmp_path):
    path = tmp_path / "out.parquet"
    assert rooflake("sql", "select * from runs", "--home", home, "-f", "parquet", "-o", path).returncode == 0
    assert pq.read_table(path).num_rows == 2
    refused = rooflake("sql", "select 1", "--home", home, "-f", "parquet")
    assert refused.returncode == 2
    assert "name a file with --output" in refused.stderr


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_file_that_cannot_be_written_is_a_sentence(home, tmp_path, format):
    answer = rooflake("sql", "select 1 as x", "--home", home, "-f", format, "-o", tmp_path / "none" / "x")
    assert answer.returncode == 2
    assert "none/x' cannot be written (No such file or directory)." in answer.stderr


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("drop table runs", "Exactly one SELECT is run here"),
        ("select * from rans", "Table with name rans does not exist"),
        ("selectt", "not SQL DuckDB understands"),
    ],
)
def test_sql_that_cannot_run_is_a_sentence(home, query, sentence):
    answer = rooflake("sql", query, "--home", home)
    assert answer.returncode == 2
    assert sentence in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""


def test_status_says_what_is_there(home):
    answer = rooflake("status", "--home", home)
    assert answer.returncode == 0
    assert "measured: 2 runs" in answer.stdout
    assert "0 files in landing, 0 in quarantine" in answer.stdout


def test_load_reports_and_fails_on_quarantine(tmp_path):
    bad = tmp_path / "home" / "landing" / "runs" / "bad.parquet"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"PAR1")
    answer = rooflake("load", "--home", tmp_path / "home")
    assert answer.returncode == 1
    assert "quarantined runs/bad.parquet: 'bad.parquet' is not a readable Parquet file" in " ".join(
        answer.stderr.split()
    )


def test_no_lake_is_a_sentence(tmp_path):
    reading = (["status"], ["sql", "select 1"], ["dashboard"], ["predict", "--llm", "gpt2"])
    for words in (*reading, ["load"], ["train"], ["calibrate"]):
        answer = rooflake(*words, "--home", tmp_path / "none")
        assert answer.returncode == 2, words
        assert "There is no lakehouse in" in " ".join(answer.stderr.split())
        assert not (tmp_path / "none").exists()


def test_an_unwritable_home_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    answer = rooflake("collect", "published", "--home", tmp_path / "file" / "home")
    assert answer.returncode == 2
    assert "cannot be written" in " ".join(answer.stderr.split())


def test_home_comes_from_the_environment_too(home, monkeypatch):
    monkeypatch.setenv("ROOFLAKE_HOME", str(home))
    assert rooflake("sql", "-f", "csv", "select count(*) as n from runs").stdout == "n\n2\n"


def test_the_version_is_the_packages():
    answer = rooflake("--version")
    assert answer.returncode == 0
    assert answer.stdout == f"rooflake {metadata.version('rooflake')}\n"


def test_a_store_that_fails_is_a_sentence_although_it_is_imported_late(tmp_path):
    (tmp_path / "file").write_text("")
    answer = rooflake("train", "--home", tmp_path / "file" / "home")
    assert answer.returncode == 2
    assert "There is no lakehouse in" in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr


def test_calibrating_on_a_source_nobody_has_names_those_there_are(home):
    answer = rooflake("calibrate", "--home", home, "--source", "nobody", "nothing")
    assert answer.returncode == 2
    assert "of source 'nobody'. Known: rooflake/local_profile." in " ".join(answer.stderr.split())


def test_calibrating_on_too_little_says_so(home):
    answer = rooflake("calibrate", "--home", home, "--source", "rooflake")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == ""
    assert answer.stderr.strip()
    assert "Traceback" not in answer.stderr
    assert rooflake("sql", "-f", "csv", "select count(*) as n from calibrations", "--home", home).stdout == "n\n0\n"


def test_collect_runs_a_collector_and_loads_it(tmp_path):
    answer = rooflake("collect", "published", "--home", tmp_path, "--papers", "chilka-nyu")
    assert answer.returncode == 0, answer.stderr
    with open_store(tmp_path, read_only=True) as store:
        runs = store.sql("SELECT config_id, source_kind FROM runs").to_pylist()
        assert store.query("untwinned_configurations").num_rows == 0
    published = {run["config_id"] for run in runs if run["source_kind"] == "published"}
    assert len(published) == 2
    assert published == {run["config_id"] for run in runs if run["source_kind"] == "analytical"}


def test_help_of_a_collector_is_its_options_and_nothing_is_made(tmp_path):
    home = tmp_path / "home"
    answer = rooflake("collect", "roofline", "--home", home, "--help")
    assert answer.returncode == 0
    assert "rooflake collect roofline" in answer.stdout
    assert "--ruleset" in answer.stdout
    assert "--home" in answer.stdout
    assert "--landing" not in answer.stdout
    assert "Collectors: endpoint, from_aiconfigurator, from_aiperf," in rooflake("collect", "--help").stdout
    assert rooflake("collect", "roofline", "--home", home, "--landing", home).returncode == 2
    assert not home.exists()


def test_measuring_again_keeps_the_machines_ceilings(tmp_path, small_llm):
    machine = {"hardware_id": _machine.hardware_id("cpu"), "name": "this one", "kind": "cpu", "source": "measured",
               "source_date": "2026-01-01", "peak_fp32_flops_per_s": 1.25e11, "memory_bandwidth_bytes_per_s": 2e10}  # fmt: skip
    place = Home.of(tmp_path / "home")
    parquet.land(place.landing, "machine", {"hardware": [machine]})
    with open_store(place) as store:
        store.load()
    words = ["--checkpoint", small_llm, "--device", "cpu", "--phase", "forward", "--input-tokens", 8]
    for _ in range(2):
        answer = rooflake("collect", "local_profile", "--home", place.path, *words)
        assert answer.returncode == 0, answer.stderr
    with open_store(place, read_only=True) as store:
        runs = store.sql("SELECT DISTINCT hardware_id, flops FROM runs WHERE source_kind = 'measured'").to_pylist()
        assert store.sql("SELECT count(*) AS n FROM runs WHERE source_kind = 'measured'").to_pylist() == [{"n": 2}]
        (row,) = store.sql(
            "SELECT peak_fp32_flops_per_s FROM hardware WHERE hardware_id = $id", {"id": machine["hardware_id"]}
        ).to_pylist()
    assert [run["hardware_id"] for run in runs] == [machine["hardware_id"]]
    assert row["peak_fp32_flops_per_s"] == 1.25e11


def test_an_unknown_collector_or_plan_is_named(tmp_path):
    answer = rooflake("collect", "magic", "--home", tmp_path)
    assert answer.returncode == 2
    assert "'magic' is not a collector. Known: endpoint" in answer.stderr
    answer = rooflake("refresh", "nightly", "--home", tmp_path / "h")
    assert answer.returncode == 2
    assert "There is no plan 'nightly'. Known: bhavana-iitbbs, gpu, starter" in " ".join(answer.stderr.split())


def test_predicting_without_a_predictor_says_what_to_do(home):
    answer = rooflake("predict", "--llm", "gpt2", "--home", home)
    assert answer.returncode == 2
    assert "No predictor is trained yet" in answer.stderr
