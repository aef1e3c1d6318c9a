"""The lakehouse on real DuckLake files: exactly once, whole or in quarantine, readers never disturbed."""

import json
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_rows import WHEN, op, run

from warehouse import parquet
from warehouse.store import Home, LoadReport, StoreError, _grouped, open_for_people, open_store, query_names, query_text

DEVICE = {
    "hardware_id": "cpu-here",
    "name": "This CPU",
    "kind": "cpu",
    "source": "measured",
    "source_date": "2026-01-01",
}


@pytest.fixture
def home(tmp_path):
    return Home.of(tmp_path / "home")


def land(home, name, **tables):
    return parquet.land(home.landing, name, tables)


def count(store, table="runs"):
    return store.sql(f"SELECT count(*) AS n FROM {table}").column("n")[0].as_py()


def test_first_use_creates_and_the_catalogue_is_there(home):
    with open_store(home) as store:
        store.load()
        assert count(store) == 0
        assert store.sql("SELECT name FROM hardware WHERE hardware_id = 'a6000'").num_rows == 1
        assert store.sql("SELECT name FROM llms WHERE llm_id = 'llama-2-7b'").num_rows == 1


def test_rows_arrive_with_types_lineage_and_no_zero_for_null(home):
    land(home, "a", runs=[run("a", optimizations=["flash", "zero3"])], ops=[op("a", 0), op("a", 1, layer_index=1)])
    with open_store(home) as store:
        report = store.load()
        assert report.new_rows == {"runs": 1, "ops": 2}
        (row,) = store.sql("SELECT * FROM runs").to_pylist()
        assert row["optimizations"] == ["flash", "zero3"]
        assert row["ttft_s"] is None
        assert row["collected_at"] == WHEN
        (load,) = store.sql("SELECT * FROM loads WHERE file_hash = $hash", {"hash": row["file_hash"]}).to_pylist()
        assert (load["file_name"], load["outcome"], load["num_new_rows"]) == ("runs/a.parquet", "loaded", 1)
    assert not list(home.landing.glob("*/*.parquet"))


def test_a_landing_file_loaded_twice_is_one_row(home):
    (path,) = land(home, "a", runs=[run("a")])
    copy = path.read_bytes()
    with open_store(home) as store:
        store.load()
        path.write_bytes(copy)
        report = store.load()
        assert (report.num_loaded, report.num_duplicate) == (0, 1)
        assert count(store) == 1


def test_same_key_same_content_under_another_name_is_one_row(home):
    land(home, "a", runs=[run("a")])
    with open_store(home) as store:
        store.load()
        land(home, "b", runs=[run("a", command="rooflake refresh"), run("c", latency_s=0.03)])
        report = store.load()
        assert report.new_rows == {"runs": 1}
        assert count(store) == 2


def test_same_key_other_content_is_refused_and_names_both_files(home):
    land(home, "a", runs=[run("a")])
    with open_store(home) as store:
        store.load()
        land(home, "b", runs=[run("a", latency_s=0.021), run("c")])
        land(home, "good", runs=[run("d")])
        report = store.load()
        assert (
            "runs (a) of 'b' contradicts the row of the same key from 'runs/a.parquet'"
            in report.quarantined["runs/b.parquet"]
        )
        assert store.sql("SELECT latency_s FROM runs WHERE run_id = 'a'").to_pylist() == [{"latency_s": 0.020}]
        assert count(store) == 2
    (kept,) = home.quarantine.glob("runs/b.*.parquet")
    assert pq.read_table(kept).num_rows == 2
    assert "contradicts" in kept.with_suffix(".reason.txt").read_text()


def test_two_new_files_that_contradict_each_other_are_told_apart(home):
    land(home, "a", runs=[run("a")])
    land(home, "b", runs=[run("a", latency_s=0.021)])
    with open_store(home) as store:
        report = store.load()
        assert list(report.quarantined) == ["runs/b.parquet"]
        assert "'b' contradicts the row of the same key from 'a'" in report.quarantined["runs/b.parquet"]
        assert count(store) == 1


def test_a_key_twice_in_one_file_is_refused(home):
    land(home, "a", runs=[run("a"), run("a", latency_s=0.5)])
    with open_store(home) as store:
        report = store.load()
    assert report.quarantined == {"runs/a.parquet": "'runs/a.parquet' holds the same run_id more than once."}


def test_bad_files_go_to_quarantine_and_take_their_batch_along(home):
    land(home, "cut", runs=[run("a")], ops=[op("a", 0)])
    ops = home.landing / "ops" / "cut.parquet"
    ops.write_bytes(ops.read_bytes()[:-10])
    (home.landing / "samples").mkdir()
    pq.write_table(pa.table({"run_id": ["z"], "speed": [1.0]}), home.landing / "hardware.parquet")
    (home.landing / "sources").mkdir()
    pq.write_table(
        pa.table({"source_id": ["s"], "title": ["t"], "kind": ["paper"], "colour": ["red"]}),
        home.landing / "sources" / "odd.parquet",
    )
    land(home, "good", runs=[run("b")])
    with open_store(home) as store:
        report = store.load()
        assert count(store) == 1
        assert set(report.quarantined) == {"runs/cut.parquet", "ops/cut.parquet", "sources/odd.parquet"}
        assert "not a readable Parquet file" in report.quarantined["ops/cut.parquet"]
        assert "'colour' of sources: no such column" in report.quarantined["sources/odd.parquet"]
        assert count(store, "loads") == 4
    assert len(list(home.quarantine.glob("*/*.parquet"))) == 3


def test_refused_content_that_comes_again_is_refused_again(home):
    path = home.landing / "runs" / "bad.parquet"
    path.parent.mkdir(parents=True)
    for _ in range(2):
        path.write_bytes(b"not parquet")
        with open_store(home) as store:
            assert "not a readable Parquet file" in store.load().quarantined["runs/bad.parquet"]
            assert count(store, "loads") == 1
        assert not path.exists()


def test_what_was_refused_is_loaded_once_what_it_lacked_is_there(home):
    land(home, "a", runs=[run("a", hardware_id="cpu-here")], ops=[op("a", 0)])
    with open_store(home) as store:
        assert set(store.load().quarantined) == {"runs/a.parquet", "ops/a.parquet"}
        land(home, "device", hardware=[DEVICE])
        for path in home.quarantine.glob("*/*.parquet"):
            path.rename(home.landing / path.parent.name / "a.parquet")
        assert store.load().quarantined == {}
        assert (count(store), count(store, "ops")) == (1, 1)
        outcomes = store.sql("SELECT DISTINCT outcome FROM loads").to_pylist()
        assert outcomes == [{"outcome": "loaded"}]


def test_ops_of_a_refused_run_do_not_enter(home):
    land(home, "a", runs=[run("a", llm_id="llama-9")])
    with open_store(home) as store:
        store.load()
        land(home, "a", ops=[op("a", 0)])
        assert store.load().num_waiting == 1
        assert count(store, "ops") == 0


def test_a_commit_whose_answer_was_lost_is_a_commit(home):
    """The retry after a commit that did happen must not record, insert or count anything twice."""
    land(home, "a", runs=[run("a")], ops=[op("a", 0)])
    with open_store(home) as store:
        (batches,) = list(_grouped(store._ready(LoadReport())))
        copies = {file.path: file.path.read_bytes() for batch in batches for file in batch.files}
        store._in_transaction(store._sync_catalog)
        store._load_batches(batches, LoadReport())
        for path, content in copies.items():
            path.write_bytes(content)
        store._load_unloaded(batches, LoadReport())
        assert (count(store), count(store, "ops"), count(store, "loads")) == (1, 1, 2)


def test_a_file_still_being_copied_is_left_alone(home):
    (path,) = land(home, "a", runs=[run("a")])
    whole, done = path.read_bytes(), threading.Event()

    def copy_slowly():
        with path.open("wb") as file:
            while not done.wait(0.05):
                file.write(b"x")
                file.flush()
        path.write_bytes(whole)

    copying = threading.Thread(target=copy_slowly)
    copying.start()
    with open_store(home) as store:
        report = store.load()
        done.set()
        copying.join()
        assert (report.quarantined, report.num_waiting) == ({}, 1)
        assert store.load().new_rows == {"runs": 1}


def test_a_file_replaced_while_it_is_loaded_stays_for_the_next_load(home):
    (path,) = land(home, "a", runs=[run("a")])
    with open_store(home) as store:
        (batches,) = list(_grouped(store._ready(LoadReport())))
        store._in_transaction(store._sync_catalog)
        batches[0].read()
        land(home, "a", runs=[run("b")])
        batches[0].files[0].remove()
        assert path.exists()
        store.load()
        assert store.sql("SELECT run_id FROM runs").to_pylist() == [{"run_id": "b"}]


def test_traces_of_runs_move_beside_the_lake(home):
    folder = home.landing / "traces"
    folder.mkdir(parents=True)
    (folder / "a.json.gz").write_bytes(b"trace")
    (folder / ".b.json.gz.tmp").write_bytes(b"half")
    land(home, "a", runs=[run("a", trace="a.json.gz")])
    with open_store(home) as store:
        assert store.load().num_strays == 0
    assert (home.traces / "a.json.gz").read_bytes() == b"trace"
    assert [path.name for path in folder.iterdir()] == [".b.json.gz.tmp"]


def test_files_that_no_table_claims_are_counted(home):
    land(home, "a", runs=[run("a")])
    (home.landing / "runs" / "a.parquet").rename(home.landing / "a.parquet")
    with open_store(home) as store:
        assert "1 left alone (not under landing/<table>/)" in str(store.load())


def test_a_data_file_that_is_gone_is_a_sentence(home):
    land(home, "a", runs=[run("a")])
    with open_store(home) as store:
        store.load()
        for path in (home.path / "lake").rglob("*.parquet"):
            path.unlink()
        with pytest.raises(StoreError, match=r"The lakehouse in '.*' cannot answer: "):
            store.sql("SELECT * FROM runs")


def test_ops_wait_for_their_run(home):
    land(home, "a", runs=[run("a")], ops=[op("a", 0)])
    runs = home.landing / "runs" / "a.parquet"
    late = runs.read_bytes()
    runs.unlink()
    with open_store(home) as store:
        report = store.load()
        assert (report.num_waiting, count(store, "ops")) == (1, 0)
        runs.write_bytes(late)
        store.load()
        assert (count(store), count(store, "ops")) == (1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llm_id": "llama-9"}, r"'llama-9' is not in the LLM catalogue\. Known: .*llama-2-7b.*llms\.toml"),
        ({"hardware_id": "h1000"}, r"'h1000' is not in the hardware catalogue\. Known: .*a6000.*hardware\.toml"),
    ],
)
def test_a_run_of_something_unknown_is_refused(home, change, message):
    import re

    land(home, "a", runs=[run("a", **change)])
    with open_store(home) as store:
        assert re.search(message, store.load().quarantined["runs/a.parquet"])
        assert count(store) == 0


def test_a_device_landed_with_its_run_is_known(home):
    land(home, "a", runs=[run("a", hardware_id="cpu-here")], hardware=[DEVICE])
    with open_store(home) as store:
        assert store.load().quarantined == {}
        assert count(store) == 1


def test_an_entry_is_replaced_by_its_newer_version(home):
    source = {"source_id": "s", "title": "Old", "kind": "paper"}
    with open_store(home) as store:
        for name, title in (("a", "Old"), ("b", "New")):
            land(home, name, sources=[source | {"title": title}])
            store.load()
        assert store.sql("SELECT title FROM sources WHERE source_id = 's'").to_pylist() == [{"title": "New"}]


def test_a_snapshot_stays_what_it_was(home):
    with open_store(home) as store:
        land(home, "a", runs=[run("a")])
        store.load()
        before = store.snapshot_id()
        land(home, "b", runs=[run("b")])
        store.load()
        assert store.snapshot_id() > before
    with open_store(home, read_only=True, snapshot=before) as reader:
        assert count(reader) == 1
        assert reader.snapshot_id() == before
    with pytest.raises(StoreError, match="Snapshot 999999 does not exist"):
        open_store(home, read_only=True, snapshot=999999)


def test_a_reader_without_a_lake_is_told_how_to_make_one(home):
    with pytest.raises(StoreError, match=r"There is no lakehouse in .*rooflake demo --no-serve --home"):
        open_store(home, read_only=True)


def test_a_home_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"The home folder '.*file/home' cannot be written .*--home DIR"):
        open_store(tmp_path / "file" / "home")


def test_a_reader_cannot_load(home):
    open_store(home).close()
    with open_store(home, read_only=True) as reader, pytest.raises(StoreError, match="reading only"):
        reader.load()


def test_every_named_query_runs_on_an_empty_lake(home):
    with open_store(home) as store:
        store.load()
        for name in query_names():
            assert query_text(name).startswith("-- Purpose: "), name
            store.query(name)


def test_unknown_queries_and_parameters_are_named(home):
    with open_store(home) as store:
        with pytest.raises(StoreError, match=r"'nothing' is not a named query\. Known: .*runs_by_kind"):
            store.query("nothing")
        with pytest.raises(StoreError, match=r"Query 'runs_by_kind' has no parameter \['llm'\]\. Known: none"):
            store.query("runs_by_kind", llm="x")


# SQL somebody typed -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    home = Home.of(tmp_path_factory.mktemp("filled") / "home")
    with open_store(home) as store:
        land(home, "a", runs=[run("a"), run("b", latency_s=0.03)])
        store.load()
    return home


def test_a_select_is_answered(filled):
    with open_for_people(filled) as ask:
        assert ask("select count(*) as n from runs;").to_pylist() == [{"n": 2}]
        assert ask("with x as (select 1 as a) select a from x -- done").to_pylist() == [{"a": 1}]
        assert ask("select ';' as a; -- done;").to_pylist() == [{"a": ";"}]


@pytest.mark.parametrize(
    "text",
    [
        "delete from runs",
        "copy (select 1) to '{home}/catalog.sqlite' (format csv, use_tmp_file false)",
        "with x as (copy (select 1) to '{home}/x.csv') select * from x",
        "select 1; select 2",
        "select * from read_text('/etc/passwd')",
        "attach '{home}/other.db'",
        "set memory_limit = '1GB'",
        "",
        "selec 1",
        "select * from nowhere",
        "select 1) to (select 2",
    ],
)
def test_anything_else_is_refused_and_changes_nothing(filled, text):
    before = {
        path: path.stat().st_size for path in filled.path.rglob("*") if path.is_file() and "catalog" not in path.name
    }
    with open_for_people(filled) as ask, pytest.raises(StoreError) as refused:
        ask(text.format(home=filled.path))
    assert len(str(refused.value)) > 20
    after = {
        path: path.stat().st_size for path in filled.path.rglob("*") if path.is_file() and "catalog" not in path.name
    }
    assert after == before
    with open_store(filled, read_only=True) as store:
        assert count(store) == 2


# several processes ------------------------------------------------------------------------------------------------------


def _land_and_load(path, worker, batches):
    home = Home.of(path)
    for index in range(batches):
        name = f"w{worker}-{index}"
        parquet.land(home.landing, name, {"runs": [run(f"{name}-{i}") for i in range(10)], "ops": [op(f"{name}-0", 0)]})
        with open_store(home) as store:
            assert store.load().quarantined == {}


def _read_until(path, stop, seen):
    with open_store(path, read_only=True) as reader:
        while not stop.is_set():
            n = count(reader)
            assert n % 10 == 0, "half a batch is visible"
            seen.append(n)


def test_two_processes_load_while_a_third_reads(home):
    open_store(home).close()
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        seen, stop = manager.list(), context.Event()
        writers = [context.Process(target=_land_and_load, args=(home.path, worker, 6)) for worker in range(2)]
        reader = context.Process(target=_read_until, args=(home.path, stop, seen))
        for process in (reader, *writers):
            process.start()
        for process in writers:
            process.join(120)
        stop.set()
        reader.join(60)
        assert [process.exitcode for process in (reader, *writers)] == [0, 0, 0]
        assert len(seen) > 0
        assert list(seen) == sorted(seen)
    with open_store(home, read_only=True) as store:
        assert (count(store), count(store, "ops")) == (120, 12)
        assert store.sql("SELECT count(DISTINCT run_id) AS n FROM runs").to_pylist() == [{"n": 120}]


def test_a_killed_loader_loses_and_doubles_nothing(home):
    script = (
        "import json, sys; sys.path[:0] = json.loads(sys.argv[2])\n"
        "from warehouse.store import open_store\n"
        "print('go', flush=True)\n"
        "with open_store(sys.argv[1]) as store: store.load()\n"
    )
    open_store(home).close()
    for delay in (0.0, 0.2, 0.5, 1.0, 1.5):
        name = f"k{int(delay * 100)}"
        land(home, name, runs=[run(f"{name}-{i}") for i in range(500)], ops=[op(f"{name}-{i}", 0) for i in range(500)])
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(home.path), json.dumps(sys.path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with open_store(home, read_only=True) as reader:
            assert count(reader) % 500 == 0
    with open_store(home) as store:
        assert store.load().quarantined == {}
        assert (count(store), count(store, "ops")) == (2500, 2500)
        assert store.sql("SELECT count(DISTINCT run_id) AS n FROM runs").to_pylist() == [{"n": 2500}]
    assert not list(home.landing.glob("*/*.parquet"))


def test_a_home_that_moved_is_the_same_lakehouse(home, tmp_path):
    with open_store(home) as store:
        land(home, "a", runs=[run("a")])
        store.load()
    moved = home.path.rename(tmp_path / "elsewhere")
    with open_store(moved, read_only=True) as reader:
        assert count(reader) == 1
    with open_store(moved) as store:
        land(store.home, "b", runs=[run("b")])
        store.load()
        assert count(store) == 2
    assert not home.path.exists()


def test_compacting_keeps_every_row_and_every_snapshot(home):
    with open_store(home) as store:
        for index in range(4):
            land(home, f"f{index}", runs=[run(f"r{index}")])
            store.load()
        before = store.snapshot_id()
        store.compact()
        assert count(store) == 4
    with open_store(home, read_only=True, snapshot=before) as reader:
        assert count(reader) == 4
    assert Path(home.path / "lake").exists()


@pytest.mark.parametrize("fault", [duckdb.FatalException, duckdb.InternalException])
def test_readers_outlive_an_internal_error_of_the_database(filled, fault):
    class Spoiled:
        """A connection of DuckDB after an internal error: it refuses everything for good."""

        def sql(self, *_, **__):
            raise fault("FATAL Error: database has been invalidated because of a previous fatal error")

        execute = cursor = sql

    with open_store(filled, read_only=True) as store:
        store._connection.close()
        store._connection = store._local.cursor = Spoiled()
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(store.sql("FROM runs").num_rows)) for _ in range(4)]
        assert store.sql("FROM runs").num_rows == 2
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [2, 2, 2, 2]
