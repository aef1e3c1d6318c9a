"""Answers to any configuration, and questions asked backwards, over predictors whose law is planted."""

from __future__ import annotations

import random

import numpy as np
import planted_predictors as planted
import pytest
from planted_predictors import config

from models.learned import answering, inverse
from models.learned.answering import Known
from models.learned.inputs import number
from warehouse import catalog


@pytest.fixture(scope="module")
def known() -> Known:
    return planted.known()


def ask(known: Known, *configs: dict) -> answering.Answered:
    return answering.answer(answering.configurations(configs), known)


def law_s(answered: answering.Answered) -> np.ndarray:
    rows = answered.rows
    return planted.LAYER_S * number(rows, "num_layers") + planted.SLOWER * (
        number(rows, "compute_s") + number(rows, "memory_s")
    )


# answering


def test_a_configuration_like_those_seen_is_answered_by_its_predictor(known: Known) -> None:
    answered = ask(known, config(batch_size=16))
    (row,) = [one for one in answered.table(0).to_pylist() if one["metric"] == "latency_s"]
    assert row["value"] == pytest.approx(law_s(answered)[0], rel=0.05)
    assert (row["made_by"], row["interval"], row["target"]) == ("predictor", "same", "latency")
    assert row["lower"] < row["value"] < row["upper"]
    assert row["bound"] < row["value"]
    assert answered.reasons("latency_s", 0) == []


def test_an_llm_never_seen_widens_the_interval_and_is_named(known: Known) -> None:
    answered = ask(known, config("opt-6.7b"), config("llama-2-7b"))
    unseen, seen = answered.columns["latency_s"].interval
    assert (unseen, seen) == ("unseen", "same")
    assert "llm" in answered.unseen_groups("latency_s", 0)
    assert any("llm 'opt-6.7b' was never seen" in one for one in answered.reasons("latency_s", 0))


def test_what_no_predictor_knows_is_the_estimate_and_says_so(known: Known) -> None:
    answered = ask(known, config(weight_dtype="int4"))
    column = answered.columns["latency_s"]
    assert answering.MADE_BY[column.made_by[0]] == "estimate"
    assert column.interval == ["estimate"]
    assert column.value[0] == answered.rows.column("estimate_s")[0].as_py()
    *why, last = answered.reasons("latency_s", 0)
    assert any("weight dtype 'int4' is in no training row" in one for one in why)
    assert last == "So this is the analytical estimate, whose interval is that of its constants."


def test_kernels_put_together_stand_before_the_estimate() -> None:
    composed = Known(compose=lambda rows: tuple(np.full(rows.num_rows, value) for value in (2.0, 1.0, 4.0)))
    column = ask(composed, config()).columns["latency_s"]
    assert (column.value[0], column.lower[0], column.upper[0], column.interval) == (2.0, 1.0, 4.0, ["kernels"])


def test_an_impossible_configuration_has_no_number_and_the_reason(known: Known) -> None:
    answered = ask(known, config("bert-base", "a100-sxm-80gb"))
    assert np.isnan(answered.columns["latency_s"].value[0])
    assert answered.reasons("latency_s", 0) == ["an encoder has no decode: it has forward."]
    assert answered.table(0).column("made_by").null_count == answered.table(0).num_rows


def test_rates_are_amounts_over_the_predicted_time_with_the_ends_of_its_interval_swapped(known: Known) -> None:
    answered = ask(known, config(batch_size=8))
    time, rate = answered.columns["latency_s"], answered.columns["output_tokens_per_s"]
    assert rate.value[0] == pytest.approx(8 / time.value[0])
    assert (rate.lower[0], rate.upper[0]) == pytest.approx((8 / time.upper[0], 8 / time.lower[0]))
    moved = answered.rows.column("bytes_moved")[0].as_py()
    assert answered.columns["achieved_bytes_per_s"].value[0] == pytest.approx(moved / time.value[0])


def test_many_configurations_are_answered_as_one_is(known: Known) -> None:
    several = [config(llm, device) for llm in ("gpt2", "opt-6.7b") for device in ("t4", "h100-sxm")]
    together = ask(known, *several)
    for row, one in enumerate(several):
        alone = ask(known, one)
        for name, column in together.columns.items():
            np.testing.assert_allclose(column.upper[row], alone.columns[name].upper[0], rtol=1e-12)


def test_the_chance_of_fitting_is_a_half_where_the_memory_is_just_what_is_predicted() -> None:
    value, upper = np.array([8.0, 8.0, 8.0, 8.0]), np.array([10.0, 10.0, 10.0, np.nan])
    found = answering.chance(value, upper, np.array([8.0, 10.0, np.nan, 9.0]))
    np.testing.assert_allclose(found, [0.5, 0.95, np.nan, np.nan], atol=1e-4)


def test_the_breakdown_leads_from_the_bound_to_the_value(known: Known) -> None:
    answered = ask(known, config(batch_size=8))
    steps = answered.breakdown("latency_s", 0).to_pylist()
    assert steps[0]["step"] == "bound"
    assert steps[-1]["value"] == pytest.approx(answered.columns["latency_s"].value[0])
    assert ask(Known(), config()).breakdown("latency_s", 0) is None


def test_a_served_load_has_the_estimate_of_its_steps_and_a_rate_by_littles_law() -> None:
    served = config(phase="serve", batch_size=None, input_tokens=512, output_tokens=128, concurrency=8)
    answered = ask(Known(), served, config())
    ttft, request, rate = (answered.columns[name] for name in ("ttft_s", "e2el_s", "output_tokens_per_s"))
    assert 0 < ttft.bound[0] < ttft.value[0] < request.value[0]
    assert rate.value[0] == pytest.approx(8 * 128 / request.value[0])
    assert np.isnan(ttft.value[1])
    assert rate.value[1] == pytest.approx(1 / answered.columns["latency_s"].value[1])


# backwards


def test_the_cheapest_server_keeps_both_promises_under_its_load() -> None:
    work = config(phase="serve", input_tokens=512, output_tokens=128, concurrency=8)
    work = {name: value for name, value in work.items() if name not in ("llm_id", "hardware_id", "batch_size")}
    rows = inverse.cheapest(
        "llama-2-7b", ["t4", "h100-sxm"], work, {"ttft_s": 0.2, "tpot_s": 0.02}, Known()
    ).to_pylist()
    assert rows[0]["is_feasible"]
    assert rows[0]["usd_per_hour"] == min(row["usd_per_hour"] for row in rows if row["is_feasible"])
    assert any("TPOT may reach" in (row["reason"] or "") for row in rows if row["hardware_id"] == "t4")


def test_the_cheapest_device_keeps_the_limit_at_the_upper_end(known: Known) -> None:
    work = {name: value for name, value in config(batch_size=8).items() if name not in ("llm_id", "hardware_id")}
    prices = {"a100-sxm-80gb": 2.0, "t4": 0.3}
    free = inverse.cheapest("opt-1.3b", planted.DEVICES, work, {}, known, prices=prices).to_pylist()
    assert (free[0]["hardware_id"], free[0]["num_devices"], free[0]["usd_per_hour"]) == ("t4", 1, 0.3)
    limit = 0.006
    rows = inverse.cheapest("opt-1.3b", planted.DEVICES, work, {"latency_s": limit}, known, prices=prices).to_pylist()
    feasible = [row for row in rows if row["is_feasible"]]
    assert feasible
    assert all(row["latency_s_worst"] <= limit for row in feasible)
    assert rows[0]["usd_per_hour"] == min(row["usd_per_hour"] for row in feasible)
    (t4,) = [row for row in rows if (row["hardware_id"], row["num_devices"]) == ("t4", 1)]
    assert not t4["is_feasible"]
    assert "at most 6 ms is allowed" in t4["reason"]


def test_weights_that_do_not_fit_one_device_are_split_over_several(known: Known) -> None:
    work = {name: value for name, value in config().items() if name not in ("llm_id", "hardware_id")}
    rows = inverse.cheapest("llama-2-13b", ["t4"], work, {}, known, max_devices=4).to_pylist()
    assert rows[0]["is_feasible"]
    assert rows[0]["num_devices"] > 1
    (one,) = [row for row in rows if row["num_devices"] == 1]
    assert "the device has" in one["reason"]


def test_a_limit_nothing_keeps_leaves_no_feasible_row(known: Known) -> None:
    work = {name: value for name, value in config().items() if name not in ("llm_id", "hardware_id")}
    rows = inverse.cheapest("gpt2", ["t4"], work, {"output_tokens_per_s": 1e9}, known)
    assert not any(rows.column("is_feasible").to_pylist())
    assert "at least 1,000,000,000 tokens/s is asked" in rows.column("reason")[0].as_py()


@pytest.mark.parametrize(
    ("limits", "sentence"), [({"speed": 1.0}, "'speed' is no metric"), ({"latency_s": 0.0}, "must be above 0")]
)
def test_limits_that_mean_nothing_are_refused(known: Known, limits: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        inverse.cheapest("gpt2", ["t4"], {"phase": "decode", "context_tokens": 8}, limits, known)


def test_the_largest_batch_is_the_last_that_holds_and_one_more_does_not(known: Known) -> None:
    asked = {name: value for name, value in config("llama-2-7b", "a100-sxm-80gb").items() if name != "batch_size"}
    rows = inverse.largest_batch(asked, {"latency_s": 0.05}, known).to_pylist()
    *held, broken = rows
    assert all(row["is_feasible"] for row in held)
    assert not broken["is_feasible"]
    assert broken["batch_size"] == held[-1]["batch_size"] + 1
    assert held[-1]["latency_s_worst"] <= 0.05 < broken["latency_s_worst"]


def test_memory_alone_limits_a_batch(known: Known) -> None:
    asked = {name: value for name, value in config("llama-2-7b", "a100-sxm-80gb").items() if name != "batch_size"}
    last, broken = inverse.largest_batch(asked, {}, known).to_pylist()[-2:]
    capacity = catalog.find_hardware("a100-sxm-80gb").memory_bytes
    assert last["memory_peak_bytes_worst"] <= capacity < broken["memory_peak_bytes_worst"]


def test_an_objective_is_a_function_of_a_config_json(known: Known) -> None:
    work = {name: value for name, value in config().items() if name != "llm_id"}
    objective = inverse.Objective(work, known)
    base = dict(catalog.find_llm("llama-2-7b").config)
    whole, half = objective(base), objective(base | {"num_hidden_layers": 16})
    assert 0.4 * whole < half < 0.7 * whole
    (said,) = objective.predict([base])
    assert said["latency_s"]["upper"] == whole
    assert said["memory_peak_bytes"]["made_by"] == "predictor"
    assert said["energy_per_output_token_j"]["upper"] is None


@pytest.mark.parametrize("change", [{"hidden_size": -1}, {"hidden_size": 40960, "intermediate_size": 163840}])
def test_an_architecture_that_cannot_be_is_infinitely_bad(known: Known, change: dict) -> None:
    work = {name: value for name, value in config().items() if name != "llm_id"}
    assert inverse.Objective(work, known)(dict(catalog.find_llm("llama-2-7b").config) | change) == float("inf")


def test_a_random_search_finds_a_fast_architecture_of_enough_parameters(known: Known) -> None:
    """The example of docs/predicting.md."""
    device = {"hardware_id": "a100-sxm-80gb", "phase": "decode", "batch_size": 8, "context_tokens": 512, "framework": "vllm",
              "execution": "engine", "weight_dtype": "fp16", "activation_dtype": "fp16", "kv_dtype": "fp16"}  # fmt: skip
    objective = inverse.Objective(device, known)
    rng, base = random.Random(0), dict(catalog.find_llm("llama-2-7b").config)
    tried = []
    for _ in range(10):
        heads = rng.choice([16, 32, 64])
        config = base | {"num_hidden_layers": rng.randint(12, 40), "hidden_size": heads * 128, "num_attention_heads": heads,
                         "num_key_value_heads": rng.choice([4, 8, heads]), "intermediate_size": heads * 128 * 3}  # fmt: skip
        tried.append((objective(config), config))
    best = min(tried, key=lambda one: one[0])
    assert best[0] < np.median([seconds for seconds, _ in tried])


@pytest.mark.parametrize(
    ("work", "metric", "sentence"),
    [
        ({"phase": "dcode"}, "latency_s", "'dcode' is no phase. Known: forward"),
        ({"phase": "decode", "batch": 8}, "latency_s", "batch: no column of a configuration."),
        ({"phase": "decode"}, "ttft", "'ttft' is no metric."),
    ],
)
def test_an_objective_of_work_that_is_none_is_refused_at_once(
    work: dict[str, object], metric: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        inverse.Objective(work, metric=metric)
