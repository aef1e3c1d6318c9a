"""Latency definitions: exact from token times, converted or refused from summaries, the same in SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_rows import run

from warehouse import definitions, metrics, schema
from warehouse.parquet import land
from warehouse.store import Home, open_store

SECONDS = st.floats(1e-4, 10.0)


@st.composite
def requests(draw: st.DrawFn, *, one_by_one: bool = False, least: int = 2) -> list[dict[str, Any]]:
    """Requests as a client saw them: chunks of one or several tokens; with `one_by_one` every chunk is a token."""
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        gaps = draw(st.lists(SECONDS, min_size=least, max_size=8))
        tokens = (
            [1] * len(gaps) if one_by_one else draw(st.lists(st.integers(1, 4), min_size=len(gaps), max_size=len(gaps)))
        )
        rows.append({"chunk_times_s": np.cumsum(gaps).tolist(), "chunk_tokens": tokens, "output_tokens": sum(tokens),
                     "scheduled_at_s": 1.0, "sent_at_s": 1.0 + draw(SECONDS)})  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> pa.Table:
    names = ("scheduled_at_s", "sent_at_s", "output_tokens", "chunk_times_s", "chunk_tokens")
    fields = pa.schema([pa.field(name, schema.REQUESTS.column(name).type) for name in names])
    return pa.Table.from_pylist(rows, schema=fields)


def test_every_definition_of_one_request_by_hand() -> None:
    """Sent 0.1 s late; chunks of 1, 2 and 3 tokens after 0.5, 0.7 and 1.3 s; the server counts 6 tokens."""
    row = {
        "scheduled_at_s": 2.0,
        "sent_at_s": 2.1,
        "output_tokens": 6,
        "chunk_times_s": [0.5, 0.7, 1.3],
        "chunk_tokens": [1, 2, 3],
    }
    found = {name: values[0] for name, values in definitions.per_request(table([row])).items()}
    assert found == pytest.approx(
        {"ttft_s": 0.5, "ttft_scheduled_s": 0.6, "e2el_s": 1.3, "e2el_scheduled_s": 1.4, "tpot_s": 0.16, "ntpot_s": 1.3 / 6,
         "itl_s": 0.16, "icl_s": 0.4, "ttst_s": 0.2, "interactivity_per_s": 6.25}
    )  # fmt: skip
    pooled = definitions.pooled(table([row]))
    assert pooled["icl_s"] == pytest.approx([0.2, 0.6])
    assert pooled["itl_s"] == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.2])


def test_chunks_joined_under_one_time_say_nothing_between_them() -> None:
    row = {
        "chunk_times_s": [0.1, 0.1, 0.1],
        "chunk_tokens": [1, 1, 1],
        "output_tokens": 3,
        "sent_at_s": 0.0,
        "scheduled_at_s": 0.0,
    }
    found = definitions.per_request(table([row]))
    assert all(np.isnan(found[name][0]) for name in ("tpot_s", "itl_s", "icl_s", "ttst_s", "interactivity_per_s"))
    assert (found["ttft_s"][0], found["e2el_s"][0], found["ntpot_s"][0]) == (0.1, 0.1, pytest.approx(0.1 / 3))


def test_what_a_request_lacks_is_nan() -> None:
    rows = [
        {"output_tokens": 1, "chunk_times_s": [0.5], "chunk_tokens": None},
        {"output_tokens": None, "chunk_times_s": None},
    ]
    found = definitions.per_request(table(rows))
    assert found["ttft_s"][0] == found["e2el_s"][0] == found["ntpot_s"][0] == 0.5
    assert all(np.isnan(found[name][0]) for name in ("tpot_s", "itl_s", "icl_s", "ttst_s", "ttft_scheduled_s"))
    assert all(np.isnan(values[1]) for values in found.values())
    assert {name: len(values) for name, values in definitions.pooled(table(rows)).items()} == {"icl_s": 0, "itl_s": 0}


@given(requests(one_by_one=True))
def test_token_by_token_all_definitions_of_a_gap_agree(rows: list[dict[str, Any]]) -> None:
    found = definitions.per_request(table(rows))
    assert found["itl_s"] == pytest.approx(found["tpot_s"])
    assert found["icl_s"] == pytest.approx(found["tpot_s"])
    pooled = definitions.pooled(table(rows))
    assert pooled["itl_s"] == pytest.approx(pooled["icl_s"])


@given(requests())
def test_pooled_gaps_are_those_of_the_requests(rows: list[dict[str, Any]]) -> None:
    found, pooled = definitions.per_request(table(rows)), definitions.pooled(table(rows))
    tokens = np.array([sum(row["chunk_tokens"][1:]) for row in rows])
    assert len(pooled["itl_s"]) == tokens.sum()
    assert pooled["itl_s"].sum() == pytest.approx((found["itl_s"] * tokens).sum())
    assert pooled["icl_s"].sum() == pytest.approx((found["e2el_s"] - found["ttft_s"]).sum())


PATHS = [("tpot_s", ("e2el_s", "ttft_s")), ("tpot_s", ("ntpot_s", "ttft_s")), ("ntpot_s", ("e2el_s",)), ("ntpot_s", ("tpot_s", "ttft_s")),
         ("e2el_s", ("ttft_s", "tpot_s")), ("e2el_s", ("ntpot_s",)), ("ttft_s", ("e2el_s", "tpot_s"))]  # fmt: skip


@pytest.mark.parametrize(("metric", "needs"), PATHS)
@given(data=st.data())
@settings(max_examples=40)
def test_a_mean_converts_exactly_or_within_bounds(data: st.DataObject, metric: str, needs: tuple[str, ...]) -> None:
    """Against token times: bounds hold the truth, and are one value where all answers are of one length."""
    rows = data.draw(requests())
    found = definitions.per_request(table(rows))
    counts = [row["output_tokens"] for row in rows]
    means = {name: float(found[name].mean()) for name in needs}
    figure = definitions.convert(metric, means, tokens=(min(counts), max(counts)))
    truth = float(found[metric].mean())
    assert figure.lower is not None
    assert figure.upper is not None
    slack = 1e-9 * (1 + sum(means.values()) * max(counts))
    assert figure.lower - slack <= truth <= figure.upper + slack
    if min(counts) == max(counts):
        assert figure.lower == pytest.approx(figure.upper, abs=slack)


@given(requests(one_by_one=True))
def test_pooled_itl_is_bounded_by_tpot(rows: list[dict[str, Any]]) -> None:
    counts = [row["output_tokens"] for row in rows]
    mean = float(definitions.per_request(table(rows))["tpot_s"].mean())
    figure = definitions.convert("itl_s", {"tpot_s": mean}, tokens=(min(counts), max(counts)))
    assert figure.lower is not None
    assert figure.upper is not None
    assert figure.lower - 1e-9 <= definitions.pooled(table(rows))["itl_s"].mean() <= figure.upper + 1e-9


@given(requests(), st.sampled_from([50, 90, 99]))
def test_percentiles_go_over_where_order_is_kept(rows: list[dict[str, Any]], percent: int) -> None:
    found = definitions.per_request(table(rows))
    counts = [row["output_tokens"] for row in rows]
    e2el = float(np.percentile(found["e2el_s"], percent))
    figure = definitions.convert(
        "ntpot_s", {"e2el_s": e2el}, tokens=(min(counts), max(counts)), statistic=f"p{percent}"
    )
    assert figure.lower is not None
    assert figure.upper is not None
    assert figure.lower <= np.percentile(found["ntpot_s"], percent) * (1 + 1e-9)
    assert figure.upper >= np.percentile(found["ntpot_s"], percent) * (1 - 1e-9)


def test_what_does_not_follow_is_refused_with_the_reason() -> None:
    known = {"e2el_s": 10.0, "ttft_s": 1.0}
    cases = {
        "p99 of several is not made of theirs": definitions.convert("tpot_s", known, tokens=10, statistic="p99"),
        "needs the number of output tokens": definitions.convert("tpot_s", known),
        "needs N from 2 on, N is 1 to 4": definitions.convert("tpot_s", known, tokens=(1, 4)),
        "follows from e2el_s and ttft_s or ntpot_s and ttft_s; known: e2el_s": definitions.convert("tpot_s", {"e2el_s": 1.0}, tokens=4),
        "contradict one another": definitions.convert("tpot_s", {"e2el_s": 1.0, "ttft_s": 2.0}, tokens=4),
    }  # fmt: skip
    for reason, figure in cases.items():
        assert (figure.how, figure.value) == ("refused", None)
        assert reason in figure.reason
    with pytest.raises(ValueError, match="Nothing converts to 'latency_s'"):
        definitions.convert("latency_s", known)


def test_a_figure_names_its_definition_and_how() -> None:
    exact = definitions.convert("tpot_s", {"e2el_s": 10.0, "ttft_s": 1.0}, tokens=10)
    assert (exact.how, exact.value, exact.definition) == ("exact", 1.0, "e2el_minus_ttft_over_n_minus_1")
    bounded = definitions.convert("tpot_s", {"e2el_s": 10.0, "ttft_s": 1.0}, tokens=(10, 19))
    assert (bounded.how, bounded.value, bounded.lower, bounded.upper) == ("bounds", None, 0.5, 1.0)
    assert "N from 10 to 19" in bounded.reason
    assert definitions.convert("e2el_s", {"e2el_s": 3.0}).how == "exact"


def test_interactivity_turns_percentiles_over() -> None:
    tpot = np.array([0.01, 0.02, 0.04, 0.05])
    slow = definitions.interactivity(float(np.percentile(tpot, 75, method="higher")), "p75")
    assert slow.statistic == "p25"
    assert slow.value == np.percentile(1 / tpot, 25, method="lower")
    mean = definitions.interactivity(float(tpot.mean()), "mean")
    assert (mean.how, mean.upper) == ("bounds", None)
    assert mean.lower is not None
    assert mean.lower <= (1 / tpot).mean()
    assert definitions.interactivity(0.1, "std").how == "refused"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_what_is_no_time_is_refused(value: float) -> None:
    figures = [
        definitions.convert("tpot_s", {"e2el_s": value, "ttft_s": 0.1}, tokens=5),
        definitions.convert("tpot_s", {"e2el_s": 1.0, "ttft_s": value}, tokens=5),
        definitions.convert("ttft_s", {"ttft_s": value}),
        definitions.interactivity(value, "mean"),
        definitions.interactivity(value, "p50"),
    ]
    for figure in figures:
        assert (figure.how, figure.lower, figure.upper) == ("refused", None, None)
        assert f"is {value:g}, and a time" in figure.reason


def test_a_result_beyond_all_numbers_is_refused() -> None:
    assert "gives inf" in definitions.convert("e2el_s", {"ntpot_s": 1e308}, tokens=100).reason
    assert definitions.interactivity(5e-324, "p50").how == "refused"


@pytest.mark.parametrize("statistic", ["pooled", "peak", "p", "p101", "p9x", "std"])
def test_only_percentiles_are_percentiles(statistic: str) -> None:
    assert definitions.interactivity(0.1, statistic).how == "refused"
    assert definitions.convert("ntpot_s", {"e2el_s": 1.0}, tokens=5, statistic=statistic).how == "refused"
    assert definitions.interactivity(0.1, "p99.9").statistic == "p0.1"


def test_tokens_are_counted_by_numpy_too() -> None:
    assert definitions.convert("ntpot_s", {"e2el_s": 1.0}, tokens=np.int64(5)).value == 0.2  # type: ignore[arg-type]


def test_definition_ids_are_declared_and_say_their_metric_first() -> None:
    assert set(definitions.DEFINITION_OF.values()) <= set(metrics.DEFINITIONS)
    for metric, definition in definitions.DEFINITION_OF.items():
        assert metrics.DEFINITIONS[definition].startswith(metric.split("_")[0] + ":")
    assert all(": " in text for text in metrics.DEFINITIONS.values())


def test_the_view_agrees_with_the_arithmetic(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = []
    for index in range(40):
        tokens = rng.integers(1, 4, rng.integers(1, 9)).tolist()
        rows.append({"run_id": "served", "request_index": index, "sample_phase": "measured", "status": "ok", "scheduled_at_s": 0.1 * index,
                     "sent_at_s": 0.1 * index + float(rng.random()), "output_tokens": sum(tokens),
                     "chunk_times_s": np.cumsum(rng.random(len(tokens)) + 1e-3).tolist(), "chunk_tokens": None if index % 7 == 3 else tokens})  # fmt: skip
    rows.append({"run_id": "served", "request_index": 40, "sample_phase": "measured", "status": "error"})
    summary = {"ttft_s": 0.5, "tpot_s": 0.1, "itl_s": 0.1, "e2el_s": 1.4, "output_tokens": 10}
    rows.append({"run_id": "served", "request_index": 41, "sample_phase": "measured", "status": "ok", **summary})
    place = Home.of(tmp_path)
    place.prepare()
    served = run("served", phase="serve", collector="endpoint", latency_s=None, context_tokens=None)
    land(place.landing, "served", {"runs": [served], "requests": rows})
    with open_store(place) as store:
        store.load()
        seen = store.sql("FROM request_latencies ORDER BY request_index")
    found = definitions.per_request(table(rows[:41]))
    for name, values in found.items():
        in_sql = seen.column(name).to_numpy()[:41]
        assert in_sql == pytest.approx(values, nan_ok=True), name
    (last,) = seen.slice(41).to_pylist()
    assert (last["ttft_s"], last["tpot_s"], last["itl_s"], last["e2el_s"]) == (0.5, 0.1, 0.1, 1.4)
    assert (last["ntpot_s"], last["interactivity_per_s"]) == (pytest.approx(0.14), pytest.approx(10))
    assert (last["icl_s"], last["ttft_scheduled_s"]) == (None, None)


def test_scaling_holds_rates_of_one_definition_against_one_another(tmp_path: Path) -> None:
    """Rates over the whole run and over the steady window are two curves; neither has an efficiency made of both."""
    whole, steady = ({"output_tokens_per_s": name} for name in ("tokens_over_whole_run", "tokens_over_steady_window"))
    rows = [
        run("one", output_tokens_per_s=100.0, metric_definitions=whole),
        run("two", output_tokens_per_s=180.0, metric_definitions=whole, num_devices=2, tensor_parallel=2),
        run("steady", output_tokens_per_s=250.0, metric_definitions=steady, num_devices=2, tensor_parallel=2),
        run("some", output_tokens_per_s=900.0, metric_definitions=whole, num_devices=None),
        run("four", status="oom", latency_s=None, metric_definitions={}, num_devices=4, tensor_parallel=4),
    ]
    place = Home.of(tmp_path)
    place.prepare()
    land(place.landing, "rated", {"runs": rows})
    with open_store(place) as store:
        store.load()
        found = store.query("scaling").to_pylist()
        known = store.query("same_config", config_id=rows[1]["config_id"]).to_pylist()
    curves = {
        (row["definition"], row["num_devices"]): (row["tokens_per_s"], row["efficiency"])
        for row in found
        if row["status"] == "ok"
    }
    assert curves == {
        ("tokens_over_whole_run", 1): (100.0, 1.0), ("tokens_over_whole_run", 2): (180.0, 0.9), ("tokens_over_steady_window", 2): (250.0, None),
    }  # fmt: skip
    assert {row["run_id"]: row["output_tokens_definition"] for row in known} == {
        "two": "tokens_over_whole_run", "steady": "tokens_over_steady_window",
    }  # fmt: skip
