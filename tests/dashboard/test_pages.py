"""Pages and callbacks through their functions, and the HTTP surface through the server's test client."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dash import Dash

from dashboard import components as c
from dashboard.__main__ import main
from dashboard.app import PAGES, _layout
from dashboard.data import Lake
from dashboard.pages import compare, layers, overview, predict, roofline, run
from warehouse.metrics import metric
from warehouse.store import StoreError, open_store


def said(component: Any) -> str:
    """A component as JSON text: what it says, links included."""
    return json.dumps(
        component,
        default=lambda part: part.to_plotly_json() if hasattr(part, "to_plotly_json") else str(part),
        ensure_ascii=False,
    )


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_a_filled_lake(page: ModuleType, lake: Lake) -> None:
    shown = said(page.layout(lake, {}))
    assert "could not be built" not in shown
    assert '"id": {"page": "' + page.NAME in shown  # its state goes to the URL


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_an_empty_lake_says_which_command_fills_it(page: ModuleType, empty_lake: Lake) -> None:
    assert "rooflake " in said(page.layout(empty_lake, {}))


@pytest.mark.parametrize(
    ("page", "params", "sentence"),
    [
        (run, {"run_id": "nobody"}, "There is no run 'nobody' in this lake."),
        (compare, {"llm": "gpt-9"}, "The link asks for llm 'gpt-9', which is not in this lake."),
        (compare, {"devices": "abacus"}, "The link asks for device 'abacus'"),
        (compare, {"metric": "charm"}, "The link asks for metric 'charm'"),
        (roofline, {"devices": "abacus"}, "The link asks for device 'abacus'"),
        (layers, {"run": "nobody"}, "There is no run 'nobody'"),
        (predict, {"batch_size": "many"}, "The link asks for batch size 'many', which is not a whole number above 0."),
        (overview, {"snapshot": "soon"}, "'soon' is not a snapshot id"),
        (overview, {"snapshot": "4242"}, "Snapshot 4242 does not exist in this lake."),
    ],
)
def test_a_link_that_leads_nowhere_gets_a_sentence(
    page: ModuleType, params: dict[str, str], sentence: str, lake: Lake
) -> None:
    shown = said(_layout(page, lake, **params))
    assert sentence in shown
    assert "Traceback" not in shown


def test_the_answer_names_the_fastest_and_by_how_much(lake: Lake) -> None:
    rows = lake.query("compare", llm_id="llama-2-7b", phase="decode", batch="1")
    answer = {line.kind: line for line in compare.answer(rows, metric("latency_s"))}
    assert answer["analytical"].words.startswith("NVIDIA H100 SXM5 80 GB is fastest with 4 ms, 2 times ahead of")
    assert (
        answer["published"].words
        == "10 ms on NVIDIA A100 SXM4 80 GB, the only device. That is 1.25 times the bound there."
    )
    assert answer["published"].run_id == "p-a100"


def test_compare_opens_on_the_workload_known_best(lake: Lake) -> None:
    choice = compare.read(lake, {}, lake.rows("workloads"), None)
    assert (choice.llm, choice.phase, choice.batch, choice.tokens, choice.metric) == (
        "llama-2-7b",
        "decode",
        "1",
        "1024 context",
        "latency_s",
    )


def test_compare_state_survives_the_url(lake: Lake) -> None:
    params = {"llm": "llama-2-7b", "phase": "decode", "batch": "any", "tokens": "1024 context", "dtype": "fp16", "metric": "memory_peak_bytes",
              "devices": "a6000,t4", "ruleset": "any", "scale": "log", "excluded": "1"}  # fmt: skip
    choice = compare.read(lake, params, lake.rows("workloads"), None)
    assert choice == compare.Choice(
        "llama-2-7b",
        "decode",
        "any",
        "1024 context",
        "16-bit",
        "memory_peak_bytes",
        ("a6000", "t4"),
        "any",
        "log",
        True,
    )


def test_narrowing_keeps_what_is_still_there(lake: Lake) -> None:
    rows = lake.rows("workloads", llm_id="llama-2-7b")
    *_, phase, batch, tokens, dtype = compare.narrowed(
        rows, {"phase": "serve", "batch": "64", "tokens": "any", "dtype": "16-bit"}
    )
    assert (phase, batch, tokens, dtype) == ("serve", "1", "any", "16-bit")


def test_every_run_of_a_comparison_is_one_click_away(lake: Lake) -> None:
    shown = said(compare.content(lake, compare.read(lake, {}, lake.rows("workloads"), None), None))
    for run_id in ("m-a6000", "p-a100", "a-h100"):
        assert f"/run?run_id={run_id}" in shown


def test_the_run_page_leads_to_its_source_and_says_how_to_repeat_it(lake: Lake) -> None:
    published, measured = said(run.layout(lake, {"run_id": "p-a100"})), said(run.layout(lake, {"run_id": "m-a6000"}))
    for words in ("https://example.org/paper", "row 1, column 2", "0: imported summary", "runs/published.parquet"):
        assert words in published
    for words in (
        "python -m collectors local_profile",
        "torch==2.13.0",
        "latency: wall clock around the synchronised phase",
        "/run?run_id=a-a6000",
    ):
        assert words in measured


def test_every_count_of_a_kind_leads_to_its_rows(lake: Lake) -> None:
    assert "/run?kind=published" in said(overview.layout(lake, {}))
    listed = said(run.layout(lake, {"kind": "published"}))
    assert "/run?run_id=p-a100" in listed
    assert "/run?run_id=m-a6000" not in listed


def test_a_failure_is_shown_as_one(lake: Lake) -> None:
    assert "needed 90 GiB of 48 GiB" in said(run.layout(lake, {"run_id": "m-oom"}))
    assert "the table contradicts its own text" in said(run.layout(lake, {"run_id": "p-odd"}))


def test_an_endpoint_run_shows_its_requests(lake: Lake) -> None:
    assert "3 requests, 1 failed (1 timeout)." in said(run.layout(lake, {"run_id": "m-serve"}))


@pytest.mark.parametrize(
    "params", [{}, {"dtype": "fp16"}, {"devices": "h100-sxm"}, {"llms": "llama-2-7b"}, {"run": "m-a6000"}]
)
def test_the_roofline_opens_on_points_under_their_roofs(lake: Lake, params: dict[str, str]) -> None:
    shown = said(roofline.layout(lake, params))
    title = re.search(r"(\d+) (?:run|operator)s? under (\d+) roof", shown)
    assert title is not None
    assert int(title[1]) > 0
    assert int(title[2]) > 0


def test_the_roofline_of_bounds_alone_opens_on_one_llm() -> None:
    choice = {"llm_id": "llama-2-7b", "phase": "decode", "num_measured": 0, "num_observed": 0, "num_runs": 9}
    choices = [
        choice | {"hardware_id": device, "dtype": "fp16"} for device in ("t4", "h100-sxm", "l4", "a100-sxm-80gb")
    ]
    state = roofline.read({}, [{"hardware_id": row["hardware_id"]} for row in choices], choices)
    assert (state["devices"], state["llms"], state["dtype"]) == (
        ["h100-sxm", "a100-sxm-80gb", "t4"],
        ["llama-2-7b"],
        "fp16",
    )


def test_predictors_of_others_are_baselines_and_a_score_without_error_is_marked(lake: Lake) -> None:
    score = {"source_id": "paper/table-1", "metric": "achieved_bytes_per_s", "mae": 0.0, "rmse": 0.0, "r2": 1.0, "num_rows": None,
             "name": "Random forest of bandwidth, as published (degenerate: constant)"}  # fmt: skip
    sane = score | {"name": "Random forest of latency", "metric": "latency_s", "mae": 0.02, "rmse": 0.03, "r2": 0.7}
    ours = sane | {"name": "Ours", "source_id": None}
    card = said(predict.published_card([score, sane, ours], None))
    assert card.count("degenerate: no error at all") == 1
    assert "20 ms" in card
    assert "Ours" not in card


def test_a_table_is_as_high_as_its_rows_page_by_page() -> None:
    few, many = (c.grid("g", [c.text_column("a")], [{"a": "x"}] * count).dashGridOptions for count in (3, 40))
    assert few["domLayout"] == many["domLayout"] == "autoHeight"
    assert (few["pagination"], many["pagination"], many["paginationPageSize"]) == (False, True, c.PAGE_ROWS)


@pytest.mark.parametrize("llm", ["t5-small", "bert-base", "llama-2-7b"])
def test_the_what_if_form_has_an_answer_for_every_phase_it_offers(lake: Lake, llm: str) -> None:
    llms, devices = lake.rows("llm_list"), lake.rows("device_list")
    architecture = next(row["architecture"] for row in llms if row["llm_id"] == llm)
    for option in predict.phase_options(architecture):
        form = predict.read(
            lake, {"llm": llm, "device": "a100-sxm-80gb", "phase": option["value"]}, llms, devices, None
        )
        assert "What the analytical model says" in said(predict.answer(lake, form, None))


def test_the_roofline_names_its_faults(lake: Lake) -> None:
    state = {"devices": ["t4"], "llms": [], "phase": "any", "dtype": "fp16", "run": None, "ceilings": True}
    assert "1 data fault" in said(roofline.content(lake, state, None))


@pytest.mark.parametrize(
    ("phase", "architecture", "columns"),
    [
        ("prefill", "decoder", {"input_tokens": 64}),
        ("decode", "decoder", {"context_tokens": 32}),
        ("decode", "encoder_decoder", {"context_tokens": 32, "input_tokens": 64}),
        ("forward", "encoder_decoder", {"input_tokens": 64, "output_tokens": 16}),
        ("generate", "decoder", {"input_tokens": 64, "output_tokens": 16}),
    ],
)
def test_a_phase_takes_the_tokens_it_has(phase: str, architecture: str, columns: dict[str, int]) -> None:
    form = {"llm": "l", "device": "d", "phase": phase, "batch_size": 1, "input_tokens": 64, "context_tokens": 32, "output_tokens": 16, "dtype": "int8",
            "attention": "sdpa"}  # fmt: skip
    config = predict.configuration(form, architecture)
    assert {key: value for key, value in config.items() if key.endswith("_tokens")} == columns
    assert (config["weight_dtype"], config["activation_dtype"], config["kv_dtype"]) == ("int8", "fp16", "fp16")
    with pytest.raises(StoreError, match="batch size"):
        predict.configuration({**form, "batch_size": ""}, architecture)


def test_without_an_artifact_the_bound_stands_alone(lake: Lake) -> None:
    form = predict.read(lake, {"llm": "llama-2-7b", "device": "a6000", "phase": "decode", "context_tokens": "1024", "dtype": "fp16", "attention": "eager"},
                        lake.rows("llm_list"), lake.rows("device_list"), None)  # fmt: skip
    shown = said(predict.answer(lake, form, None))
    assert "No predictor is trained yet" in shown
    assert "the analytical bound says" in shown
    assert "/run?run_id=m-a6000" in shown  # the very same configuration was measured


def test_scores_stand_beside_the_baseline(lake: Lake) -> None:
    shown = said(predict.evidence(lake, "latency_s", "leave_model_out", None))
    assert shown.index("Corrected roofline") < shown.index("Random forest")
    assert "10.0 %" in shown
    assert "50.0 %" in shown


def test_rows_download_as_csv_and_json(app: Dash) -> None:
    client = app.server.test_client()
    given = "llm_id=llama-2-7b&hardware_ids=a6000,t4&phase=decode"
    rows = client.get(f"/api/query/compare.json?{given}").get_json()
    lines = list(csv.DictReader(io.StringIO(client.get(f"/api/query/compare.csv?{given}").text)))
    assert (
        {row["run_id"] for row in rows}
        == {line["run_id"] for line in lines}
        == {"m-a6000", "m-oom", "m-fault", "a-a6000"}
    )
    by_id = {row["run_id"]: row for row in rows}
    assert by_id["m-a6000"]["latency_s"] == 0.02
    assert by_id["m-oom"]["latency_s"] is None
    assert next(line for line in lines if line["run_id"] == "m-oom")["latency_s"] == ""


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/query/drop_everything.json", 404, "is not a named query. Known:"),
        ("/api/query/compare.xlsx", 404, "'xlsx' is not a format here. Known: csv, json."),
        ("/api/query/compare.json?colour=red", 400, "has no parameter colour. Known:"),
        ("/api/query/compare.json?snapshot=4242", 400, "Snapshot 4242 does not exist"),
        ("/api/query/compare.json?llm_id=llama-2-7b&with_excluded=perhaps", 400, "perhaps"),
    ],
)
def test_a_request_that_cannot_be_met_says_why(app: Dash, path: str, status: int, words: str) -> None:
    answer = app.server.test_client().get(path)
    assert answer.status_code == status
    assert words in answer.get_json()["error"]


def test_the_api_describes_every_query(app: Dash) -> None:
    index = app.server.test_client().get("/api").get_json()
    described = {query["name"]: query for query in index["queries"]}
    assert described["compare"]["parameters"]["hardware_ids"] == "VARCHAR[]"
    assert all(query["purpose"] for query in index["queries"])


def test_the_page_asks_nothing_of_other_hosts(app: Dash) -> None:
    html = app.server.test_client().get("/").text
    assert "https://" not in html
    assert "//cdn" not in html


def test_links_carry_the_snapshot() -> None:
    assert c.href("run", 7, run_id="a b") == "/run?run_id=a%20b&snapshot=7"
    assert c.href("overview") == "/"


def test_serving_without_a_lake_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    assert main(["--home", str(tmp_path), "--port", str(free_port)]) == 2
    assert "There is no lakehouse in" in capsys.readouterr().err


def test_a_port_in_use_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    open_store(tmp_path).close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--home", str(tmp_path), "--port", str(port)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"Port {port} on 127.0.0.1 cannot be used (Address already in use).")
    assert "--port" in message
    assert message.count("\n") == 1
