"""The search over serving configurations: promises kept, queues that add up, fronts that nothing beats."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.analytical import evaluate
from models.analytical.configs import dtype_names
from models.analytical.search import (
    OWN,
    Goal,
    Server,
    cheapest,
    closest_miss,
    describe,
    layouts,
    pareto,
    search,
)
from warehouse import catalog, parquet, schema

GOAL = Goal(1024, 256, slo_ttft_s=0.5, slo_tpot_s=0.03, request_rate_per_s=4.0, max_devices=8)
POINTS = st.lists(
    st.tuples(*2 * [st.one_of(st.integers(0, 6).map(float), st.floats(allow_nan=True, allow_infinity=True))]),
    max_size=40,
)


@pytest.fixture(scope="module")
def found():
    return search("llama-2-13b", ["a100-sxm-80gb", "a6000"], GOAL, dtypes=["fp16", "w8a16"])


def rows_of(table, **wanted):
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items())]


@given(POINTS)
def test_the_front_is_what_no_point_beats(points):
    def is_beaten(one):
        return any(
            other[0] >= one[0] and other[1] >= one[1] and (other[0] > one[0] or other[1] > one[1]) for other in points
        )

    expected = [not np.isnan(point).any() and not is_beaten(point) for point in points]
    assert pareto(np.array(points).reshape(-1, 2)).tolist() == expected


def test_a_front_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"shape \(n, 2\), not \(3,\)"):
        pareto([1, 2, 3])


def test_what_is_feasible_keeps_every_promise_and_what_is_not_says_why(found):
    assert 0 < pc.sum(found.column("is_feasible")).as_py() < found.num_rows
    for row in found.to_pylist():
        keeps = (
            row["status"] == "ok"
            and row["is_fitting"]
            and row["ttft_s"] <= GOAL.slo_ttft_s
            and row["tpot_s"] <= GOAL.slo_tpot_s
            and row["num_devices"] <= GOAL.max_devices
        )
        assert row["is_feasible"] == keeps, row
        assert (row["reason"] is None) == keeps
    reasons = {reason.split()[0] for reason in found.column("reason").to_pylist() if reason}
    assert {"does", "TPOT"} <= reasons


def test_load_latency_and_requests_in_flight_add_up(found):
    """Little's law over all replicas, from the columns alone; the load that was asked for is served."""
    for row in rows_of(found, is_feasible=True):
        assert row["requests_per_s"] == pytest.approx(4.0)
        assert row["output_tokens_per_s"] == pytest.approx(4.0 * 256)
        assert row["e2el_s"] == pytest.approx(row["ttft_s"] + 255 * row["tpot_s"])
        assert row["output_tokens_per_s_per_device"] * row["num_devices"] == pytest.approx(4.0 * 256)
        decoding = row["requests_per_s"] * 255 * row["tpot_s"]
        assert decoding <= row["batch_size"] * row["pipeline_parallel"] * row["data_parallel"] * (1 + 1e-9)
        assert row["concurrency"] is None
        assert row["num_devices"] == row["tensor_parallel"] * row["pipeline_parallel"] * row["data_parallel"]


def test_a_concurrency_is_what_is_in_flight():
    goal = Goal(512, 128, concurrency=48, max_devices=64)
    for row in rows_of(search("llama-2-7b", ["a100-sxm-80gb"], goal), status="ok", is_fitting=True):
        assert row["requests_per_s"] * row["e2el_s"] == pytest.approx(48)
        assert row["concurrency"] == 48


def test_at_full_load_every_place_decodes():
    goal = Goal(512, 128)
    for row in rows_of(search("llama-2-7b", ["a100-sxm-80gb"], goal), status="ok", is_fitting=True):
        decoding = row["requests_per_s"] * 127 * row["tpot_s"]
        assert decoding == pytest.approx(row["batch_size"] * row["pipeline_parallel"])
        assert row["requests_per_s"] * row["e2el_s"] == pytest.approx(row["concurrency"], abs=0.5)


def test_seconds_are_the_engines():
    """One device, full load: TPOT is a step at the mean context and its share of prompts, TTFT a prompt and its wait."""
    goal = Goal(1000, 201)
    (row,) = rows_of(search("llama-2-7b", ["a100-sxm-80gb"], goal, batch_sizes=[8]), num_devices=1)
    shared = {"llm_id": "llama-2-7b", "hardware_id": "a100-sxm-80gb", "attention": "paged", "execution": "engine",
              "weight_dtype": "fp16", "activation_dtype": "fp16", "kv_dtype": "fp16"}  # fmt: skip
    totals, _ = evaluate(
        pa.Table.from_pylist([
            shared | {"phase": "prefill", "batch_size": 1, "input_tokens": 1000, "context_tokens": None},
            shared | {"phase": "decode", "batch_size": 8, "input_tokens": None, "context_tokens": 1100},
            shared | {"phase": "decode", "batch_size": 8, "input_tokens": None, "context_tokens": 1200},
        ]),
        with_ops=False,
    )  # fmt: skip
    seconds = "estimate_s" if "estimate_s" in totals.column_names else "roofline_s"
    prompt, step, _ = totals.column(seconds).to_pylist()
    rate = row["requests_per_s"]
    assert rate == pytest.approx(8 / (200 * row["tpot_s"]))
    load = rate * prompt
    wait = step / 2 + load * prompt / (2 * (1 - load))
    assert row["ttft_s"] == pytest.approx(prompt + wait)
    decode = load * (wait + prompt) / (1 - load) + step + 199 * step / (1 - load)
    assert row["tpot_s"] == pytest.approx(decode / 200)
    assert row["tpot_s"] == pytest.approx(step + 8 / 200 * prompt, rel=0.05)  # a step and its share of prompts
    assert row["kv_cache_bytes"] == totals.column("kv_cache_bytes")[2].as_py()


@given(
    st.floats(1e-4, 1.0), st.floats(1e-4, 10.0), st.integers(1, 8), st.integers(1, 4), st.integers(2, 4000),
    st.floats(0.01, 1e4),
)  # fmt: skip
def test_the_load_of_so_many_in_flight_is_a_root_of_littles_law(step, prompt, stages, ranks, outputs, in_flight):
    server = Server(np.array([step]), np.array([prompt]), np.array([stages]), np.array([ranks]), outputs)
    for number in (server.in_flight, server.decoding):
        rate = server.rate(number, np.array([in_flight]))
        assert 0 < server.load(rate)[0] < 1
        assert number(rate)[0] == pytest.approx(in_flight, rel=1e-6)
    assert server.in_flight(rate)[0] == pytest.approx(
        rate[0] * (server.ttft_s(rate)[0] + (outputs - 1) * server.tpot_s(rate)[0])
    )


def simulated(step, prompt, outputs, rate, num_requests):
    """Mean TTFT and TPOT of a server that takes waiting prompts one by one, else decodes a step for all it holds."""
    arrivals = np.cumsum(np.random.default_rng(7).exponential(1 / rate, num_requests))
    now, taken, decoding = 0.0, 0, {}
    first, last = np.zeros(num_requests), np.zeros(num_requests)
    while taken < num_requests or decoding:
        if taken < num_requests and arrivals[taken] <= now:
            now += prompt
            first[taken], decoding[taken] = now, outputs - 1
            taken += 1
        elif decoding:
            now += step
            decoding = {request: left - 1 for request, left in decoding.items()}
            for request in [request for request, left in decoding.items() if left == 0]:
                last[request] = now
                del decoding[request]
        else:
            now = arrivals[taken]
    steady = slice(num_requests // 10, -num_requests // 10)
    return np.mean((first - arrivals)[steady]), np.mean((last - first)[steady]) / (outputs - 1)


@pytest.mark.parametrize(("prompt", "rate"), [(0.02, 10.0), (0.1, 4.0), (0.1, 7.0)])
def test_a_simulated_server_takes_as_long(prompt, rate):
    """Requests that come at random to a server that does what the formulas say; loads of 0.2, 0.4 and 0.7."""
    server = Server(np.array([0.02]), np.array([prompt]), np.array([1]), np.array([1]), 60)
    ttft, tpot = simulated(0.02, prompt, 60, rate, 8000)
    assert server.ttft_s(np.array([rate]))[0] == pytest.approx(ttft, rel=0.05)
    assert server.tpot_s(np.array([rate]))[0] == pytest.approx(tpot, rel=0.05)


def test_fronts_hold_the_feasible_that_nothing_beats(found):
    feasible = rows_of(found, is_feasible=True)
    for flag, worth in (("is_pareto", lambda row: row["output_tokens_per_s_per_device"]),
                        ("is_pareto_cost", lambda row: -row["usd_per_million_tokens"])):  # fmt: skip
        front = rows_of(found, **{flag: True})
        assert front
        assert all(row["is_feasible"] for row in front)
        for row in feasible:
            beaten = any(
                worth(one) >= worth(row) and one["tpot_s"] <= row["tpot_s"]
                and (worth(one) > worth(row) or one["tpot_s"] < row["tpot_s"])
                for one in feasible if worth(one) is not None
            )  # fmt: skip
            assert row[flag] != beaten


def test_cost_is_devices_by_their_price_over_tokens():
    goal = Goal(512, 128, request_rate_per_s=20.0, max_devices=8)
    rows = search("llama-2-7b", ["a100-sxm-80gb"], goal, prices={"a100-sxm-80gb": 2.0})
    best = cheapest(rows)
    feasible = rows_of(rows, is_feasible=True)
    assert best["usd_per_million_tokens"] == min(row["usd_per_million_tokens"] for row in feasible)
    for row in feasible:
        assert row["usd_per_hour"] == 2.0 * row["num_devices"]
        assert row["usd_per_million_tokens"] == pytest.approx(row["usd_per_hour"] / 3600 / (20 * 128) * 1e6)


def test_without_a_price_the_best_is_the_one_of_most_tokens_a_device():
    goal = Goal(512, 128, max_devices=2)
    rows = search("llama-2-7b", ["a100-sxm-80gb"], goal, prices={})
    best = cheapest(rows)
    assert best["usd_per_million_tokens"] is None
    assert best["output_tokens_per_s_per_device"] == max(
        row["output_tokens_per_s_per_device"] for row in rows_of(rows, is_feasible=True)
    )


def test_more_load_needs_more_devices_and_a_promise_of_less_time_is_never_easier():
    few = search("llama-2-13b", ["a100-sxm-80gb"], GOAL)
    many = search("llama-2-13b", ["a100-sxm-80gb"], dataclasses.replace(GOAL, request_rate_per_s=400.0))
    for less, more in zip(few.to_pylist(), many.to_pylist(), strict=True):
        assert more["num_devices"] >= less["num_devices"]
    tight = search("llama-2-13b", ["a100-sxm-80gb"], dataclasses.replace(GOAL, slo_tpot_s=0.01))
    kept = np.array(tight.column("is_feasible").to_pylist())
    assert kept.any()
    assert np.all(np.array(few.column("is_feasible").to_pylist())[kept])


def test_nothing_feasible_names_the_closest_miss():
    goal = Goal(1024, 256, slo_ttft_s=0.001, max_devices=2)
    rows = search("llama-2-7b", ["a6000"], goal)
    assert cheapest(rows) is None
    assert not pc.any(rows.column("is_pareto")).as_py()
    sentence = closest_miss(rows, goal)
    least = min(row["ttft_s"] for row in rows_of(rows, status="ok", is_fitting=True))
    assert "The closest, 2 x a6000 (TP 2), fp16, batch 1: TTFT is" in sentence
    assert f"{least * 1e3:.4g} ms, 1 ms are allowed." in sentence


def test_what_does_not_fit_anywhere_says_by_how_much_and_has_no_throughput():
    goal = Goal(1024, 256, max_devices=1)
    rows = search("llama-2-70b", ["a6000"], goal)
    assert (
        "No configuration fits in memory. The closest, 1 x a6000, fp16, batch 1: does not fit: needs 1"
        in closest_miss(rows, goal)
    )
    assert rows.column("output_tokens_per_s").null_count == rows.num_rows
    assert rows.column("usd_per_million_tokens").null_count == rows.num_rows


def test_a_load_that_needs_too_many_devices_says_how_many():
    goal = Goal(1024, 256, request_rate_per_s=1e4, max_devices=4)
    assert "10000 requests/s need " in closest_miss(search("llama-2-7b", ["a100-sxm-80gb"], goal), goal)
    goal = Goal(1024, 256, concurrency=100_000, max_devices=4)
    assert "100000 requests in flight need " in closest_miss(search("llama-2-7b", ["a100-sxm-80gb"], goal), goal)


def test_the_closest_miss_is_one_that_there_are_devices_for():
    goal = Goal(1024, 256, slo_tpot_s=1e-4, request_rate_per_s=10.0, max_devices=4)
    rows = search("llama-2-7b", ["a100-sxm-80gb"], goal)
    assert max(row["num_devices"] for row in rows_of(rows, is_fitting=True)) > 4
    number, what = closest_miss(rows, goal).partition("The closest, ")[2].split(" x ", 1)
    assert 1 <= int(number) <= 4
    assert "TPOT is" in what


def test_what_does_not_fit_counts_the_devices_of_one_replica():
    rows = search("llama-2-70b", ["a6000"], Goal(1024, 256, request_rate_per_s=1e3, max_devices=1))
    assert {row["num_devices"] for row in rows_of(rows, is_fitting=False)} == {1}


def test_what_the_engine_assumed_is_in_the_rows():
    mine = {"hardware_id": "mine", "memory_bytes": 80 * 2**30, "memory_bandwidth_bytes_per_s": 2e12, "peak_fp16_flops_per_s": 3e14}  # fmt: skip
    rows = search("llama-2-7b", ["mine"], Goal(512, 128), hardware=[mine], batch_sizes=[1])
    note = "the device's link is unknown: communication is left out."
    for row in rows_of(rows, status="ok"):
        is_alone = row["tensor_parallel"] * row["pipeline_parallel"] == 1
        assert row["status_detail"] == (None if is_alone else note)


def test_what_the_engine_refuses_carries_its_sentence():
    rows = search("gpt2", ["a100-sxm-80gb"], Goal(128, 64, max_devices=8))  # 12 heads
    refused = rows_of(rows, tensor_parallel=8)
    assert {row["status"] for row in refused} == {"unsupported"}
    assert all("12 attention heads" in row["reason"] for row in refused)
    assert all(row["ttft_s"] is None and row["is_feasible"] is False for row in refused)


def test_experts_are_spread_over_devices():
    llm = next(llm for llm in catalog.llms().values() if llm.architecture == "decoder" and not llm.num_experts)
    assert {layout.expert for layout in layouts(llm, 8)} == {1}
    assert max(layout.num_devices for layout in layouts(llm, 8)) == 8
    spread = layouts(dataclasses.replace(llm, num_experts=8), 4)
    assert any(layout.expert == 4 and layout.data == 2 and layout.tensor == 2 for layout in spread)
    assert all(layout.num_devices <= 4 and layout.expert in (1, layout.tensor * layout.data) for layout in spread)
    assert len(set(spread)) == len(spread)


def test_rows_keep_the_contract_of_runs(found):
    declared = set(schema.RUNS.names) | set(OWN)
    assert set(found.column_names) <= declared
    runs = found.drop_columns(list(OWN))
    names = {"run_id": pa.array([str(index) for index in range(runs.num_rows)]), "config_id": schema.config_ids(runs)}
    for name, value in {"collector": "search", "source_kind": "analytical", "source_id": "x"}.items():
        names[name] = pa.repeat(value, runs.num_rows)
    names["is_excluded"] = pa.repeat(False, runs.num_rows)
    names["collected_at"] = pa.nulls(runs.num_rows, schema.TIMESTAMP).fill_null(0)
    for name, values in names.items():
        runs = runs.append_column(name, values)
    assert parquet.check("runs", runs).num_rows == found.num_rows


def test_a_device_somebody_brought():
    mine = {"hardware_id": "mine", "memory_bytes": 80 * 2**30, "memory_bandwidth_bytes_per_s": 2e12,
            "peak_fp16_flops_per_s": 3e14, "link_bandwidth_bytes_per_s": 3e11}  # fmt: skip
    rows = search("llama-2-7b", ["mine"], Goal(512, 128), hardware=[mine])
    assert pc.any(rows.column("is_feasible")).as_py()
    assert rows.column("usd_per_million_tokens").null_count == rows.num_rows


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [("fp8", ("fp8", "fp8", "fp8")), ("w4a16", ("int4", "fp16", "fp16")), ("w8a8kv4", ("int8", "int8", "int4")),
     ("fp8/bf16/fp8", ("fp8", "bf16", "fp8"))],
)  # fmt: skip
def test_dtypes_by_a_short_name(name, dtypes):
    assert dtype_names(name) == dtypes


@pytest.mark.parametrize(
    ("goal", "sentence"),
    [
        ({"input_tokens": 0}, "input_tokens must be 1 or more, not 0."),
        ({"output_tokens": 1}, "output_tokens must be 2 or more, not 1."),
        ({"input_tokens": 2**53 + 1}, f"input_tokens must be {2**53} or less"),
        ({"request_rate_per_s": float("inf")}, f"request_rate_per_s must be above 0 and at most {2**53}, not inf."),
        ({"slo_ttft_s": 0.0}, "slo_ttft_s must be above 0"),
        ({"slo_tpot_s": -1.0}, "slo_tpot_s must be above 0"),
        ({"request_rate_per_s": float("nan")}, "request_rate_per_s must be above 0"),
        ({"max_devices": 0}, "max_devices must be 1 or more"),
        ({"max_devices": 2**17}, "max_devices must be 65536 or less"),
        ({"concurrency": 4, "request_rate_per_s": 1.0}, "two ways to state one load"),
    ],
)
def test_goals_that_make_no_sense_are_refused(goal, sentence):
    with pytest.raises(ValueError, match=sentence):
        Goal(**{"input_tokens": 8, "output_tokens": 8} | goal)


def test_searches_that_make_no_sense_are_refused():
    with pytest.raises(LookupError, match="'h1000' is not in the hardware catalogue"):
        search("llama-2-7b", ["h1000"], GOAL)
    with pytest.raises(ValueError, match="'w5' names no dtypes"):
        search("llama-2-7b", ["a6000"], GOAL, dtypes=["w5"])
    with pytest.raises(ValueError, match="is an encoder: it generates nothing"):
        search("bert-base-uncased", ["a6000"], GOAL)
    with pytest.raises(ValueError, match="at least one device"):
        search("llama-2-7b", [], GOAL)
    with pytest.raises(ValueError, match="batch sizes must be 1 or more, not 0"):
        search("llama-2-7b", ["a6000"], GOAL, batch_sizes=[0, 1])


def test_a_configuration_in_words():
    row = {"num_devices": 4, "hardware_id": "h100-sxm", "tensor_parallel": 2, "pipeline_parallel": 1, "data_parallel": 2,
           "expert_parallel": 1, "weight_dtype": "int4", "activation_dtype": "fp16", "kv_dtype": "fp16", "batch_size": 8}  # fmt: skip
    assert describe(row) == "4 x h100-sxm (TP 2, DP 2), int4/fp16, batch 8"
