"""The lint as part of a load: what the transcribed papers hold, kernels and requests by SQL, reruns, and the command."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import rooflake
from sample_rows import run

from collectors import published
from etl import lint, twins
from warehouse.parquet import land
from warehouse.store import Home, Store, open_store

Row = dict[str, Any]


def silent(_: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A lakehouse of the published figures, with twins, linted."""
    place = Home.of(tmp_path_factory.mktemp("papers"))
    place.prepare()
    published.collect(place.landing)
    with open_store(place) as store:
        store.load()
        twins.add(store, silent)
        lint.add(store, silent)
    return place


@pytest.fixture(scope="module")
def found(papers: Home) -> list[Row]:
    """Every finding about the papers."""
    with open_store(papers, read_only=True) as store:
        return store.query("findings").to_pylist()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A lakehouse to which each test adds a family of sources of its own."""
    place = Home.of(tmp_path_factory.mktemp("lake"))
    place.prepare()
    with open_store(place) as store:
        yield store


def load(store: Store, family: str, **tables: list[Row]) -> list[Row]:
    """Load a batch, lint, and return every finding of the family."""
    land(store.home.landing, f"{family}-{uuid.uuid4().hex}", tables)
    store.load()
    refused = lint.add(store, silent).quarantined
    assert refused == {}
    return store.sql(
        "SELECT * EXCLUDE (file_hash) FROM findings WHERE split_part(source_id, '/', 1) = $family ORDER BY check_name, run_id",
        {"family": family},
    ).to_pylist()


@pytest.mark.parametrize(
    ("source", "check", "fact"),
    [
        ("zhang-2023-dissecting/table-4", "utilisation_above_one", "(13B / R+Z2+O / A800): 640435 tokens/s would need 13.4 times the peak"),
        ("zhang-2023-dissecting/table-4", "unit_slip", "a factor of 10^2 is probably lost"),
        ("zhang-2023-dissecting/table-4", "point_above_roof", "640435 is"),
        ("zhang-2023-dissecting/table-12", "tokens_of_shape", "M = 666 at batch size 2 is 333 tokens"),
        ("zhang-2023-dissecting/table-12", "tokens_of_shape", "M = 10624 at batch size 32 is 332 tokens"),
        ("zhang-2023-dissecting/text", "claim_against_table", "throughput over RTX4090 and RTX3090, more than 50 x is stated"),
        ("zhang-2023-dissecting/table-2", "claim_against_table", "it is 46% faster (10936 against 7488 tokens/s)"),
        ("zhang-2023-dissecting/table-16", "claim_against_table", "2.791 s against 3.779 s with ZeRO-2"),
        ("zhang-2023-dissecting/table-6", "sum_of_parts", "forward modules sum to 66.2 of the 75.0 ms"),
        ("zhang-2023-dissecting/table-6", "sum_of_parts", "backward modules sum to 238.2 of the 250.0 ms"),
        ("zhang-2023-dissecting/table-5", "sum_of_shares", "imply a step of 524.5 ms, the phases sum to 518.9 ms"),
        ("zhang-2023-dissecting/text", "claim_against_table", "throughput over QLoRA, approximately 2 x is stated"),
        ("zhang-2023-dissecting/text", "claim_against_table", "memory of QLoRA over LoRA 0.5 x is stated"),
        ("zhang-2023-dissecting/table-4", "memory_falls_with_batch", "56.8 GB at batch size 1"),
        ("chilka-nyu/table-1", "work_differs", "(F16 Quantization): flops 1.36e+10, the closed form of llama-2-7b gives 1.376e+10"),
        ("chilka-nyu/table-1", "weights_without_embedding", "13.5 GB in fp16. What is missing is the embedding and the output head"),
        ("chilka-nyu/section-5.6", "claim_against_table", "No point can lie above its own roof"),
        ("pattabhiraman-asu/figure-4", "super_linear_scaling", "159 tokens/s on 2 devices is 2.45 times the 65 of one device"),
        ("bhavana-iitbbs/table-1", "constant_target", "its target is constant or among its features"),
    ],
)  # fmt: skip
def test_the_faults_of_the_papers_are_found(found: list[Row], source: str, check: str, fact: str) -> None:
    of_source = [row for row in found if row["source_id"] == source]
    assert [row for row in of_source if row["check_name"] == check and fact in row["sentence"]], [
        row["sentence"] for row in of_source
    ]


def test_the_papers_have_few_findings(papers: Home, found: list[Row]) -> None:
    """535 rows: what is found is what a person finds, not a flood. A second lint finds nothing new."""
    assert len(found) <= 40
    with open_store(papers) as store:
        assert sum(row["num_findings"] for row in store.query("finding_counts").to_pylist()) == len(found)
        (zhang,) = store.sql("FROM lints WHERE family = 'zhang-2023-dissecting'").to_pylist()
        again = lint.add(store, silent)
        assert (again.num_loaded, again.new_rows) == (0, {})
    assert zhang["num_runs"] == 515
    assert zhang["num_faults"] >= 8


def test_findings_follow_the_rows(lake: Store) -> None:
    """Found again it keeps its id and takes the new figures; no longer found it stays and says so."""
    paper = {"source_kind": "published", "source_id": "paper/table-1", "latency_s": None, "metric_definitions": {}}
    rates = (1000.0, 1500.0, 1200.0, 1400.0, 130000.0)
    rows = [run(str(rate), **paper, batch_size=2**index, output_tokens_per_s=rate) for index, rate in enumerate(rates)]
    pair = [
        run(f"{n} devices", **paper, llm_id="gpt2", num_devices=n, output_tokens_per_s=rate)
        for n, rate in ((1, 10.0), (2, 25.0))
    ]
    scaling, slip = load(lake, "paper", runs=[*rows, *pair])
    assert (scaling["check_name"], slip["check_name"]) == ("super_linear_scaling", "unit_slip")
    assert (slip["is_current"], slip["found_by"]) == (True, "lint")
    between = run("between", **paper, batch_size=32, output_tokens_per_s=20000.0)
    faster = run("again", **paper, llm_id="gpt2", output_tokens_per_s=10.2)
    again, past = load(lake, "paper", runs=[between, faster])
    assert again["finding_id"] == scaling["finding_id"]
    assert "2.50 times the 10 of" in scaling["sentence"]
    assert "2.45 times the 10.2 of" in again["sentence"]
    assert (past["finding_id"], past["sentence"], past["is_current"]) == (slip["finding_id"], slip["sentence"], False)
    assert lake.query("findings", source_id="paper").num_rows == 1
    assert lake.query("findings", source_id="paper", with_past=True).num_rows == 2


def test_kernels_and_requests_are_checked_by_sql(lake: Store) -> None:
    table = {
        "source_kind": "published",
        "phase": "microbench",
        "batch_size": None,
        "context_tokens": None,
        "latency_s": None,
        "metric_definitions": {},
    }
    runs = [run(name, **table, source_id=f"tool/{name}", source_cell=name, hardware_id=device) for name, device in
            (("one", "a100-sxm-80gb"), ("copy", "h100-sxm"), ("other", "a100-sxm-80gb"))]  # fmt: skip
    kernel = {"kernel": "gemm", "op_kind": "gemm", "n": 4096, "k": 4096, "bound": "compute", "roofline_s": 1e-3}
    kernels = [{**kernel, "run_id": name, "kernel_index": index, "m": 64 * index, "time_s": 1.1e-3 + 1e-6 * index + (1e-7 if name == "other" else 0.0)}
               for name in ("one", "copy", "other") for index in range(10)]  # fmt: skip
    kernels[-1] |= {"time_s": 2e-4, "time_min_s": 3e-4}
    served = run("served", source_id="tool/load", phase="serve", latency_s=None, context_tokens=None, batch_size=None)
    request = {
        "run_id": "served",
        "sample_phase": "measured",
        "status": "ok",
        "ttft_s": 0.1,
        "tpot_s": 0.01,
        "output_tokens": 11,
    }
    requests = [{**request, "request_index": 0, "e2el_s": 0.2}, {**request, "request_index": 1, "e2el_s": 2.0}]
    found = load(lake, "tool", runs=[*runs, served], kernels=kernels, requests=requests)
    assert [(row["check_name"], row["severity"], row["run_id"]) for row in found] == [
        ("copied_table", "fault", "one"), ("parts_of_a_request", "fault", "served"), ("percentiles_out_of_order", "fault", "other"),
        ("point_above_roof", "fault", "other"),
    ]  # fmt: skip
    sentences = {row["check_name"]: row["sentence"] for row in found}
    assert (
        "all 10 gemm rows are those of llama-2-7b on 1 h100-sxm, microbench (copy) in tool/copy"
        in sentences["copied_table"]
    )
    assert "1 of 10 gemm rows are faster than a100-sxm-80gb" in sentences["point_above_roof"]
    assert "of 2 requests 1 have another E2EL" in sentences["parts_of_a_request"]


def test_the_command_prints_findings(papers: Home) -> None:
    table = rooflake("lint", "zhang-2023-dissecting", "--home", papers.path)
    assert table.returncode == 0
    assert "would need 13.4 times the peak" in table.stdout
    faults = rooflake("lint", "chilka-nyu/table-1", "--severity", "fault", "-f", "csv", "--home", papers.path)
    rows = list(csv.DictReader(io.StringIO(faults.stdout)))
    assert {row["check_name"] for row in rows} == {"work_differs", "weights_without_embedding"}
    assert {row["severity"] for row in rows} == {"fault"}
    doubts = rooflake("lint", "chilka-nyu/table-1", "--severity", "doubt", "-f", "json", "--home", papers.path)
    assert json.loads(doubts.stdout) == []


def test_the_command_knows_its_sources(papers: Home, tmp_path: Path) -> None:
    unknown = rooflake("lint", "nobody-2020", "--home", papers.path)
    assert unknown.returncode == 2
    assert (
        "'nobody-2020' is no source of this lakehouse and no file imported into it. Known: bhavana-iitbbs, chilka-nyu"
        in unknown.stderr
    )
    severe = rooflake("lint", "chilka-nyu", "--severity", "bad", "--home", papers.path)
    assert (severe.returncode, severe.stderr.strip()) == (2, "'bad' is not a severity. Known: fault, doubt.")


def test_a_file_just_imported_is_a_source(lake: Store, tmp_path: Path) -> None:
    """The file is told by its content: a copy under another name is the same source."""
    from collectors._importing import File

    path = tmp_path / "results.json"
    path.write_text('{"output": 1}')
    source_id = f"imported/{File(path).digest}"
    rows = [run("a", source_id=source_id, mfu=1.5), run("b", source_id="imported/other", mfu=1.5, batch_size=2)]
    assert len(load(lake, "imported", runs=rows)) == 2
    assert [row["run_id"] for row in lint.find(lake, str(path)).to_pylist()] == ["a"]
    assert lint.find(lake, "imported").num_rows == 2
    with pytest.raises(LookupError, match="is no source of this lakehouse"):
        lint.find(lake, str(lake.home.landing))
