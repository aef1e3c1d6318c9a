"""Served loads: the queueing step against a played engine, its terms, and planted laws recovered on synthetic rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sample_rows

from models.learned import bases, model, queueing, tidy
from models.learned.inputs import Labels
from models.learned.model import Variant
from models.learned.subjects import devices, served
from warehouse import parquet
from warehouse.store import open_store


def load(users: float, tokens: float, step_s: float, prefill_s: float, slots: float = np.inf) -> queueing.Load:
    return queueing.Load(*(np.array([float(one)]) for one in (users, tokens, step_s, prefill_s, slots)))


def spread(tokens: int, share: float) -> Iterator[int]:
    """Lengths drawn evenly from tokens (1 - share) to tokens (1 + share)."""
    drawn = np.random.default_rng(0)
    least, most = round(tokens * (1 - share)), round(tokens * (1 + share))
    return (int(drawn.integers(least, most + 1)) for _ in itertools.count())


LOADS = [(4, 100, 0.01, 0.02), (8, 60, 0.012, 0.1), (16, 120, 0.01, 0.05), (32, 50, 0.016, 0.2), (48, 80, 0.02, 0.03)]


@pytest.mark.parametrize(("users", "tokens", "step_s", "prefill_s"), LOADS)
def test_the_steady_load_is_that_of_the_played_engine(users: int, tokens: int, step_s: float, prefill_s: float) -> None:
    played = queueing.simulate(users, spread(tokens, 0.5), step_s, prefill_s, requests=2000, skip=500)
    found = queueing.steady(load(users, tokens, step_s, prefill_s))
    assert found.ttft_s[0] == pytest.approx(played.ttft_s, rel=0.06)
    assert found.tpot_s[0] == pytest.approx(played.tpot_s, rel=0.04)
    assert found.requests_per_s[0] == pytest.approx(played.requests_per_s, rel=0.04)


@pytest.mark.parametrize(("users", "tokens", "step_s", "prefill_s"), LOADS)
def test_waves_of_equal_requests_are_those_of_the_played_engine(
    users: int, tokens: int, step_s: float, prefill_s: float
) -> None:
    played = queueing.simulate(users, itertools.repeat(tokens), step_s, prefill_s, requests=4 * users)
    found = queueing.waves(load(users, tokens, step_s, prefill_s))
    assert found.ttft_s[0] == pytest.approx(played.ttft_s, rel=1e-9)
    assert found.tpot_s[0] == pytest.approx(played.tpot_s, rel=1e-9)
    assert found.requests_per_s[0] == pytest.approx(played.requests_per_s, rel=1e-9)


def test_a_run_of_ten_rounds_lies_a_tenth_of_the_way_from_steady_to_waves() -> None:
    played = queueing.simulate(32, spread(200, 0.11), 0.015, 0.1, requests=320)
    one = load(32, 200, 0.015, 0.1)
    burst = queueing.waves(one).queue_s[0]
    assert (played.ttft_s - queueing.steady(one).ttft_s[0]) / burst == pytest.approx(served.BURST_SHARE, abs=0.04)


@pytest.mark.parametrize("law", [queueing.steady, queueing.waves])
def test_one_user_waits_for_nobody(law: Any) -> None:
    found = law(load(1, 50, 0.01, 0.3))
    assert (found.ttft_s[0], found.tpot_s[0]) == (0.3, 0.01)
    assert found.requests_per_s[0] == pytest.approx(1 / (0.3 + 49 * 0.01))


@pytest.mark.parametrize("law", [queueing.steady, queueing.waves])
@pytest.mark.parametrize("slots", [np.inf, 6.0])
def test_littles_law_holds_inside_and_with_those_who_wait_for_a_slot(law: Any, slots: float) -> None:
    found = law(load(16, 40, 0.01, 0.05, slots))
    assert found.requests_per_s[0] * (found.ttft_s[0] + 39 * found.tpot_s[0]) == pytest.approx(16)
    assert (found.admission_s[0] > 0) == np.isfinite(slots)


def test_slots_make_users_wait_as_they_do_in_the_played_engine() -> None:
    played = queueing.simulate(24, spread(60, 0.5), 0.01, 0.02, requests=600, skip=200, slots=8)
    found = queueing.steady(load(24, 60, 0.01, 0.02, 8))
    assert found.ttft_s[0] == pytest.approx(played.ttft_s, rel=0.05)
    assert found.tpot_s[0] == pytest.approx(played.tpot_s, rel=0.05)


def test_one_token_is_the_prefill_alone() -> None:
    found = queueing.waves(load(3, 1, 0.01, 0.2))
    assert found.ttft_s[0] == pytest.approx(0.4)
    assert found.requests_per_s[0] == pytest.approx(3 / 0.4)


# ---- rows


def row(**values: Any) -> dict[str, Any]:
    start = {
        "run_id": "r", "llm_id": "llama-3.1-8b", "hardware_id": "h100-sxm", "framework": "vllm", "num_devices": 1,
        "tensor_parallel": 1, "concurrency": 8, "input_tokens": 1024, "output_tokens": 256, "weight_dtype": "bf16",
        "activation_dtype": "bf16", "kv_dtype": "bf16",
    }  # fmt: skip
    return start | values


def table(*rows: dict[str, Any]) -> pa.Table:
    names = list(dict.fromkeys(name for one in rows for name in one))
    return devices.with_devices(pa.table({name: [one.get(name) for one in rows] for name in names}))


def test_more_users_wait_longer_and_get_more_done() -> None:
    users = np.array([1, 4, 16, 64])
    rows = table(*(row(concurrency=int(one)) for one in users))
    first, request = served.ttft(rows), served.request(rows)
    assert (np.diff(first.estimate) > 0).all()
    assert (np.diff(served.tpot(rows).estimate) > 0).all()
    assert (np.diff(served.throughput(users * 1.0, np.full(4, 256.0), request.estimate)) > 0).all()
    assert (first.estimate > first.bound).all()


def test_one_user_is_estimated_by_prefill_and_decode() -> None:
    rows = table(row(concurrency=1))
    first, token, request = served.ttft(rows), served.tpot(rows), served.request(rows)
    assert first.terms[0, first.term_names.index("queue")] == 0.0
    assert token.terms[0, token.term_names.index("stall")] == 0.0
    assert request.estimate[0] == pytest.approx(first.estimate[0] + 255 * token.estimate[0])


def test_replicas_share_the_users() -> None:
    one = served.tpot(table(row(concurrency=8)))
    two = served.tpot(table(row(concurrency=16, data_parallel=2, num_devices=2)))
    assert two.terms[0] == pytest.approx(one.terms[0])


def test_degrees_left_open_are_tensor_parallel() -> None:
    said = served.tpot(table(row(num_devices=4, tensor_parallel=4)))
    silent = served.tpot(table(row(num_devices=4, tensor_parallel=None)))
    assert silent.terms[0] == pytest.approx(said.terms[0])


def test_an_llm_or_device_nobody_knows_has_no_inputs_and_takes_none_from_others() -> None:
    rows = table(
        row(), row(llm_id="no-such-llm"), row(hardware_id="no-such-device"), row(concurrency=None), row(llm_id=None)
    )
    assert served.ttft(rows).is_complete.tolist() == [True, False, False, False, False]


def test_what_does_not_fit_is_no_server() -> None:
    rows = table(row(llm_id="qwen3-235b-a22b", hardware_id="h200", weight_dtype="fp8", activation_dtype="fp8"))
    assert not served.ttft(rows).is_complete.any()
    assert served.ttft(
        table(row(llm_id="qwen3-235b-a22b", hardware_id="h200", weight_dtype="fp8", tensor_parallel=4, num_devices=4))
    ).is_complete.all()


def test_four_bit_weights_multiply_in_sixteen_bits_where_the_device_has_no_units_for_them() -> None:
    hopper = served.tpot(table(row(weight_dtype="nvfp4", activation_dtype="nvfp4", kv_dtype=None)))
    stated = served.tpot(table(row(weight_dtype="nvfp4", activation_dtype="bf16", kv_dtype="bf16")))
    assert hopper.is_complete.all()
    assert hopper.term_names == TERMS
    assert (hopper.terms[0, :2] > 0).tolist() == [False, True]
    assert hopper.terms[0] == pytest.approx(stated.terms[0])


def test_the_same_configuration_is_the_same_question_whatever_its_llm_is_called() -> None:
    found = served.tpot(
        table(row(llm_id="deepseek-r1", tensor_parallel=8), row(llm_id="deepseek-v3", tensor_parallel=8), row())
    )
    assert found.content[0] == found.content[1] != found.content[2]
    assert served.ttft(table(row())).content[0] != found.content[2]


# ---- the query


def printed(run_id: str, ttft_s: float, **values: Any) -> dict[str, Any]:
    """A load as the silicon sample prints it."""
    start = {
        "source_kind": "published", "source_id": "aiconfigurator/a", "source_cell": run_id, "llm_id": "deepseek-r1",
        "hardware_id": "h200", "phase": "serve", "framework": "sglang", "concurrency": 8, "input_tokens": 1024, "output_tokens": 64,
        "ttft_s": ttft_s, "tpot_s": 0.01, "latency_s": None, "batch_size": None, "context_tokens": None, "attention": None,
    }  # fmt: skip
    return sample_rows.run(run_id, **(start | values))


def test_degrees_are_taken_apart_and_times_printed_twice_count_once(tmp_path: Path) -> None:
    rows = [
        printed("both_tp8_ep8", 1.0, tensor_parallel=64, data_parallel=1, expert_parallel=8, num_devices=64),
        printed(
            "again", 1.0, tensor_parallel=8, data_parallel=1, expert_parallel=8, num_devices=8, llm_id="deepseek-v3"
        ),
        printed("replicas", 2.0, tensor_parallel=4, data_parallel=4, expert_parallel=16, num_devices=16),
        printed("alone", 3.0, tensor_parallel=1, data_parallel=64, expert_parallel=8, num_devices=64),
        printed("said_epnone", 4.0, tensor_parallel=4, data_parallel=1, expert_parallel=2, num_devices=4),
        printed("apart", 5.0, tensor_parallel=8, num_prefill_devices=8, num_decode_devices=32, num_devices=40),
        printed("unsaid", 6.0, tensor_parallel=8, num_devices=None),
        printed("open", 7.0, concurrency=None, request_rate_per_s=2.0),
    ]
    with open_store(tmp_path) as store:
        parquet.write("runs", rows, tmp_path / "landing" / "runs" / "rows.parquet")
        store.load()
        found = store.query("training_served", disaggregated=False).to_pylist()
        apart = store.query("training_served", disaggregated=True).to_pylist()
    names = ("num_devices", "tensor_parallel", "data_parallel", "expert_parallel")
    assert {one["measured_ttft_s"]: tuple(one[name] for name in names) for one in found} == {
        1.0: (8, 8, 1, 8), 2.0: (4, 1, 4, 4), 3.0: (8, 1, 8, 8), 4.0: (4, 4, 1, 2),
    }  # fmt: skip
    assert [(one["run_id"], one["tensor_parallel"], one["data_parallel"]) for one in apart] == [("apart", 8, 4)]
    assert found[0]["measured_e2el_s"] == pytest.approx(found[0]["measured_ttft_s"] + 63 * 0.01)


# ---- learning


TERMS = ("step", "widened", "stall", "host")


def planted(**laws: tuple[float, float, float]) -> pa.Table:
    """Loads on three devices whose TPOT is a weighed sum of step, stall and a millisecond, other weights by engine."""
    rows = [
        row(run_id=f"{number}", framework=engine, hardware_id=device, concurrency=users, input_tokens=prompt)
        for number, (engine, device, users, prompt) in enumerate(
            itertools.product(laws, ("h100-sxm", "h200", "b200"), (1, 4, 16, 64, 128), (512, 2048, 8192))
        )
    ]
    made = table(*rows)
    weights = np.array([laws[one["framework"]] for one in rows])
    terms = served.tpot(made).terms[:, [TERMS.index(name) for name in ("step", "stall", "host")]]
    return made.append_column("measured_tpot_s", pa.array((terms * weights).sum(axis=1)))


def test_planted_weights_are_found_by_engine() -> None:
    laws = {"vllm": (1.1, 0.8, 0.5), "sglang": (0.95, 1.2, 0.8)}
    rows = planted(**laws)
    inputs = served.tpot(rows)
    actual = np.array(rows.column("measured_tpot_s").to_pylist())
    actual[::17] *= 3.0  # rows that something else held up
    found = bases.fit_sum(inputs, np.log(actual))
    for engine, weights in laws.items():  # the host's share is small: the step and the stall tell
        by_name = dict(zip(TERMS, found.coefficients[engine], strict=True))
        assert (by_name["step"], by_name["stall"]) == pytest.approx(weights[:2], rel=0.15)
    errors = found.log_values(inputs) - np.log(np.array(rows.column("measured_tpot_s").to_pylist()))
    assert np.abs(errors).max() < 0.06


def test_an_engine_with_few_rows_leans_on_the_others() -> None:
    rows = planted(vllm=(1.1, 0.8, 0.5), sglang=(1.1, 0.8, 0.5))
    inputs = served.tpot(rows)
    alone = np.flatnonzero(inputs.keys[0].mask("vllm") | (np.arange(len(inputs)) % 15 == 0))
    found = bases.fit_sum(inputs.take(alone), np.log(np.asarray(rows.column("measured_tpot_s")))[alone])
    assert "sglang" not in found.coefficients
    errors = found.log_values(inputs) - np.log(np.asarray(rows.column("measured_tpot_s")))
    assert np.abs(errors).max() < 0.03


def test_a_correction_is_of_what_was_seen_alone() -> None:
    rows = planted(vllm=(1.1, 0.8, 0.5))
    inputs = served.tpot(rows)
    actual = np.log(np.asarray(rows.column("measured_tpot_s"))) + np.sin(3.0 * inputs.features[:, 0])
    fitted = model.fit((Variant("sum", "trees", within=("device",)),), inputs, actual, "device")
    elsewhere = replace(inputs, groups=inputs.groups | {"device": Labels.of(["l4"] * len(inputs))})
    base = fitted.parts[0][1]
    assert np.abs(fitted.log_values(inputs) - base.log_values(inputs)).max() > 0.1
    assert fitted.log_values(elsewhere) == pytest.approx(base.log_values(elsewhere))
    again = model.Model.from_dict(fitted.to_dict())
    assert again.log_values(inputs) == pytest.approx(fitted.log_values(inputs))
    assert again.parts[0][0] == fitted.parts[0][0]


def test_rows_of_one_question_count_once() -> None:
    rows = planted(vllm=(1.1, 0.8, 0.5))
    twice = pa.concat_tables([rows, rows.slice(0, 7)])
    target = next(one for one in served.TARGETS if one.key == "served_tpot")
    kept, notes = tidy.tidy(target, twice)
    assert kept.num_rows == rows.num_rows
    assert any("7 of" in note for note in notes)
