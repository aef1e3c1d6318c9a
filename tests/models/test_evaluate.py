"""The protocol: what is held out, what it is scored by, and how far intervals and support can be trusted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from planted_runs import changed, planted

from models.learned import conformal, contenders, evaluate, splits, tidy
from models.learned.fitted import Fitted
from models.learned.inputs import Inputs, number
from models.learned.model import Variant
from models.learned.subjects import devices, find

LATENCY = replace(find("latency"), recipes={0: (Variant("linear", "gaussian", "work"),)})


def tidied(rows: pa.Table) -> tuple[pa.Table, Inputs, Any]:
    """Tidy rows, their inputs and values."""
    kept, _ = tidy.tidy(LATENCY, devices.with_devices(rows))
    return kept, LATENCY.inputs(kept), number(kept, LATENCY.column)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return tidied(planted(num_llms=5, devices=("cpu-a", "gpu-b")))[1]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    _, inputs, actual = tidied(planted())
    return Fitted.on(LATENCY.recipes[0], inputs, np.log(actual), ("random", "llm"))


def rows_like(**values: Any) -> Inputs:
    return LATENCY.inputs(devices.with_devices(changed(planted(num_llms=1).slice(0, 1), **values)))


# ---- what is held out


@pytest.mark.parametrize("split", splits.SPLITS)
def test_nothing_of_what_is_held_out_is_learnt_from(inputs: Inputs, split: str) -> None:
    found = splits.folds(inputs, split)
    dimension = splits.dimension(split)
    for fold in found:
        assert not set(fold.inside) & set(fold.outside)
        assert not set(inputs.content[fold.inside]) & set(inputs.content[fold.outside])
        if dimension in inputs.groups:
            texts = inputs.groups[dimension].texts()
            assert not set(texts[fold.inside]) & set(texts[fold.outside])
    held_out = np.concatenate([fold.outside for fold in found]) if found else []
    if split == splits.BEYOND:
        (fold,) = found
        assert inputs.ranges[fold.outside, 0].min() > inputs.ranges[fold.inside, 0].max()
    elif found:
        assert sorted(held_out) == list(range(len(inputs)))


def test_the_same_layer_of_another_llm_is_not_learnt_from(inputs: Inputs) -> None:
    twin = replace(inputs, content=np.concatenate([inputs.content[:1], inputs.content[:1], inputs.content[2:]]))
    twin = replace(twin, groups={"llm": type(inputs.groups["llm"]).of(["a", "b", *["c"] * (len(inputs) - 2)])})
    (first, *_) = splits.folds(twin, "leave_model_out")
    assert first.outside.tolist() == [0]
    assert 1 not in first.inside


def test_splits_do_not_depend_on_the_order_of_rows(inputs: Inputs) -> None:
    order = np.random.default_rng(1).permutation(len(inputs))
    for split in splits.SPLITS:
        before = {(fold.name, frozenset(inputs.content[fold.outside])) for fold in splits.folds(inputs, split)}
        moved = inputs.take(order)
        assert {(fold.name, frozenset(moved.content[fold.outside])) for fold in splits.folds(moved, split)} == before


def test_a_few_rows_of_what_is_held_out_calibrate_and_are_not_scored(inputs: Inputs) -> None:
    for none, some in zip(
        splits.folds(inputs, "leave_device_out"), splits.folds(inputs, "leave_device_out", few=5), strict=True
    ):
        assert len(some.inside) == len(none.inside) + 5
        assert set(none.outside) - set(some.outside) == set(some.inside) - set(none.inside)


def test_an_unknown_split_is_a_sentence(inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=r"'leave_luck_out' is no split\. Known: leave_model_out"):
        splits.folds(inputs, "leave_luck_out")


# ---- scores


def test_scores_by_hand() -> None:
    actual, value = np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.1, 2.0, 3.0, np.nan])
    lower, upper = np.array([0.5, 2.5, np.nan, np.nan]), np.array([2.0, 5.0, np.nan, np.nan])
    found = evaluate.score(actual, value, lower, upper)
    assert (found["num_rows"], found["num_refused"]) == (3, 1)
    assert found["mdape"] == pytest.approx(0.1)
    assert found["mape"] == pytest.approx((0.1 + 0 + 0.25) / 3)
    assert found["bias"] == pytest.approx(0.0)
    assert found["mae"] == pytest.approx(1.1 / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(1.01 / 3))
    assert found["r2"] == pytest.approx(1 - 1.01 / (14 / 3))
    assert found["coverage"] == 0.5  # the third row has no interval
    assert found["interval_width_median"] == 3.0  # of 4 and 2
    assert evaluate.score(actual[:1], value[:1], lower[:1], upper[:1])["r2"] is None
    assert evaluate.score(actual[3:], value[3:], lower[3:], upper[3:]) == {"num_rows": 0, "num_refused": 1}


def test_every_contender_is_scored_on_the_same_rows_and_sees_no_answer() -> None:
    seen: list[list[str]] = []

    class Spy:
        name = "spy"

        def fit(self, rows: pa.Table, target: Any) -> None:
            seen.append(rows.column_names)

        def predict(self, rows: pa.Table) -> Any:
            seen.append(rows.column_names)
            return np.ones(rows.num_rows)

    rows, _, _ = tidied(planted(num_llms=3, batches=(1, 4)))
    found = evaluate.evaluate(
        LATENCY, rows, ["leave_model_out"], contenders=lambda target, split: [*contenders.all_of(target, split), Spy()]
    )
    assert not any(name.startswith("measured_") for names in seen for name in names)
    scores = found.scores()
    assert {row["fold"] for row in scores} == {"all", "llm-0", "llm-1", "llm-2"}
    assert {row["num_rows"] for row in scores if row["fold"] == "all"} == {rows.num_rows}
    assert len({row["contender"] for row in scores}) == 6
    ours = [one.rows for one in found.held if one.contender == "rooflake"]
    assert sorted(np.concatenate(ours)) == list(range(rows.num_rows))


# ---- leaks


def test_a_feature_that_is_the_answer_in_other_words_is_named() -> None:
    _, inputs, actual = tidied(planted(num_llms=3))
    assert evaluate.leaks(LATENCY, inputs, actual) == []
    features = inputs.features.copy()
    features[:, 0] = 3 * np.log(actual) + 1
    (said,) = evaluate.leaks(LATENCY, replace(inputs, features=features), actual)
    assert (
        said
        == f"Feature {inputs.feature_names[0]} is latency_s in other words: it was derived from what is to be predicted."
    )


# ---- intervals


def test_conformal_quantile_by_hand() -> None:
    one = np.array(["a"] * 9)
    assert conformal.quantile(np.arange(1.0, 10.0), one, level=0.5) == 5.0  # ceil(0.5 x 10) = 5th of 9
    assert conformal.quantile(np.arange(1.0, 10.0), one, level=0.9) == 9.0  # ceil(0.9 x 10) = 9th
    assert conformal.quantile(np.arange(1.0, 5.0), one[:4], level=0.9) == 4.0  # too few: the largest
    # b's one row weighs as much as a's four, so the median error sits between them
    groups = np.array(["a", "a", "a", "a", "b"])
    assert (
        conformal.quantile(np.array([1.0, 2.0, 3.0, 4.0, 9.0]), groups, level=0.4) == 4.0
    )  # 0.48 of the weight: all of a
    assert conformal.quantile(np.array([1.0, 2.0, 3.0, 4.0, 9.0]), groups, level=0.45) == 9.0  # 0.54: b too


def test_coverage_is_near_nominal_for_llms_like_those_seen() -> None:
    held = []
    for seed in range(2):
        rows, _, _ = tidied(planted(num_llms=8, noise=0.1, seed=seed))
        found = evaluate.evaluate(
            LATENCY, rows, ["leave_model_out"], contenders=lambda target, split: [contenders.Ours(target, split)]
        )
        held += [row for row in found.scores() if row["fold"] == "all"]
    assert conformal.NOMINAL - 0.08 < np.mean([row["coverage"] for row in held]) < 0.99
    # 1.645 standard deviations to either side of the truth is the narrowest interval there is
    assert math.exp(2 * 1.4 * 0.1) < held[0]["interval_width_median"] < math.exp(2 * 4 * 0.1)


def test_rows_of_an_llm_that_calibrates_have_an_interval() -> None:
    rows, _, _ = tidied(planted(num_llms=4))
    found = evaluate.evaluate(
        LATENCY, rows, ["leave_model_out"], few=6, contenders=lambda target, split: [contenders.Ours(target, split, 6)]
    )
    assert all(np.isfinite(one.upper).all() for one in found.held)


# ---- support


def test_rows_like_those_learnt_from_are_supported_and_their_interval_is_of_the_same(fitted: Fitted) -> None:
    found = fitted.predict(rows_like())
    assert bool(found.is_supported[0])
    assert found.interval == ["same"]
    assert found.lower[0] < found.value[0] < found.upper[0]


def test_an_llm_never_seen_gets_the_wider_interval(fitted: Fitted) -> None:
    seen, unseen = fitted.predict(rows_like()), fitted.predict(rows_like(llm_id="another"))
    assert unseen.interval == ["unseen"]
    assert unseen.value[0] == pytest.approx(seen.value[0])
    assert bool(unseen.is_supported[0])
    assert unseen.upper[0] / unseen.lower[0] == pytest.approx(math.exp(2 * fitted.intervals.widths["llm"]))


def test_a_device_never_seen_has_no_interval_where_no_device_was_ever_left_out(fitted: Fitted) -> None:
    found = fitted.predict(rows_like(hardware_id="gpu-z"))
    assert np.isfinite(found.value[0])
    assert np.isnan(found.upper[0])
    assert not found.is_supported[0]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("phase", "generate", "phase 'generate' is in no training row (seen: decode, prefill)."),
        ("weight_dtype", "int4", "weight dtype 'int4' is in no training row (seen: fp32)."),
        ("batch_size", 512, "512 sequences a batch is outside the training rows (1 to 16)."),
    ],
)
def test_what_lies_outside_the_rows_is_named(fitted: Fitted, column: str, value: Any, said: str) -> None:
    inputs = rows_like(**{column: value})
    assert not fitted.predict(inputs).is_supported[0]
    assert said in fitted.support.reasons(inputs, 0)


# ---- a tidy pass


def test_rows_faster_than_physics_are_left_out_and_repeats_count_once() -> None:
    rows = planted(num_llms=3, batches=(1,))
    values = rows["measured_latency_s"].to_pylist()
    values[0] = rows["roofline_s"][0].as_py() / 2
    twice = pa.concat_tables([changed(rows, measured_latency_s=values), rows.slice(1, 3), rows.slice(1, 3)])
    kept, notes = tidy.tidy(LATENCY, devices.with_devices(twice))
    assert kept.num_rows == rows.num_rows - 1
    assert notes == [
        f"1 of {twice.num_rows} rows are faster than their bound by more than 1.25 times.",
        f"6 of {twice.num_rows} rows repeat the question of another row: the median stays.",
    ]
