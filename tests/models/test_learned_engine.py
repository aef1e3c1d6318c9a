"""The engine of the predictors on planted laws: what was put into the rows must come out of them again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from models.learned import bases, conformal, leaves, model, residuals, splits, tidy
from models.learned.contenders import balance
from models.learned.fitted import Fitted
from models.learned.inputs import UNSTATED, Array, Inputs, Labels, digest, joined
from models.learned.model import Variant
from models.learned.targets import Target

POWER = (np.log(5e-6), np.log(0.7), np.log(0.8), np.log(2.0))
TREES = (Variant("power", "trees"),)


def planted(size: int = 600, groups: int = 6, device: str = "d") -> Inputs:
    """Rows of `groups` devices with random work; features are the logs of the work and the size."""
    rng = np.random.default_rng(7)
    compute, memory = np.exp(rng.uniform(-12, -6, size)), np.exp(rng.uniform(-12, -6, size))
    m = np.rint(np.exp(rng.uniform(0, 9, size)))
    names = Labels.of([f"{device}{one % groups}" for one in range(size)])
    rows = pa.table({"compute": compute, "memory": memory, "m": m})
    return Inputs(
        terms=np.column_stack([compute, memory]),
        term_names=("compute_s", "memory_s"),
        priors=(1.0, 1.0),
        keys=(names, Labels.of(["all"] * size)),
        features=np.column_stack([np.log(compute), np.log(memory), np.log(m)]),
        feature_names=("log_compute", "log_memory", "log_m"),
        device_features=frozenset(),
        ranges=m[:, None],
        range_names=("m",),
        categories={"dtype": Labels.of(["fp16"] * size)},
        groups={"device": names, "llm": names},
        content=digest(rows, ("compute", "memory", "m")),
        bound=np.maximum(compute, memory),
        estimate=compute + memory,
    )


def law(inputs: Inputs, constants: tuple[float, ...] = POWER) -> Array:
    return bases.Power({bases.POOLED: constants}).log_values(inputs)


def test_the_power_base_finds_the_planted_constants() -> None:
    inputs = planted()
    found = bases.fit_power(inputs, law(inputs))
    assert np.array(found.constants["d0"]) == pytest.approx(np.array(POWER), abs=0.02)


def test_an_unseen_key_takes_the_medians_of_those_that_share_its_next_level() -> None:
    inputs = planted(groups=3)
    shift = inputs.keys[0].lookup({"d0": -0.3, "d1": 0.0, "d2": 0.2})
    found = bases.fit_power(inputs, law(inputs) + shift)
    other = planted(groups=3, device="new")
    assert found.log_values(other) == pytest.approx(law(other), abs=0.06)


def test_a_key_with_few_rows_leans_on_its_kin_and_differs_where_its_rows_say_so() -> None:
    inputs = planted(size=1500, groups=3)
    is_scarce = inputs.keys[0].mask("d2")
    kept = np.flatnonzero(~is_scarce | (np.cumsum(is_scarce) <= 8))
    part = inputs.take(kept)
    noisy = law(part) + 0.4 * part.keys[0].mask("d2") + 0.05 * np.sin(np.arange(len(part)) * 2.3)
    found = bases.fit_power(part, noisy)
    rest = inputs.take(is_scarce)
    assert np.abs(found.log_values(rest) - law(rest) - 0.4).mean() < 0.08


def test_trees_correct_what_the_base_leaves_and_nothing_where_it_leaves_nothing() -> None:
    inputs = planted(size=1500)
    wave = np.where(inputs.ranges[:, 0] > 100, 0.25, -0.25)
    fitted = model.fit(TREES, inputs, law(inputs) + wave, "device")
    assert (
        np.abs(fitted.log_values(inputs) - law(inputs) - wave).mean() < 0.08
    )  # of 0.25 that the base alone is wrong by
    exact = model.fit(TREES, inputs, law(inputs), "device")
    assert np.abs(exact.log_values(inputs) - law(inputs)).max() < 0.02


def test_leaves_are_the_trees_of_lightgbm_to_the_last_digit_absent_values_too() -> None:
    inputs = planted(size=3000)
    features = inputs.features.copy()
    features[::7, 1] = np.nan
    gappy = dataclasses.replace(inputs, features=features)
    fitted = residuals.fit_trees(gappy, np.sin(inputs.features[:, 0]) + np.isnan(features[:, 1]), "all")
    features[::5, 2] = np.nan  # absent where it never was when fitted
    assert (fitted.leaves.values(features) == fitted.booster.predict(features, num_threads=1)).all()
    many = dataclasses.replace(gappy, features=features).take(np.tile(np.arange(3000), 2))
    few = many.take(np.arange(100))
    assert (fitted.values(many)[:100] == fitted.values(few)).all()


def test_a_tree_of_too_many_leaves_is_refused() -> None:
    import lightgbm

    inputs = planted(size=3000)
    many = residuals.TREES | {"num_leaves": 200, "min_data_in_leaf": 2}
    rows = lightgbm.Dataset(inputs.features, np.sin(9 * inputs.features[:, 0]) * inputs.features[:, 1])
    with pytest.raises(ValueError, match="more than 64 leaves"):
        leaves.of(lightgbm.train(many, rows, num_boost_round=1))


def test_the_order_of_rows_does_not_matter() -> None:
    inputs = planted()
    target = law(inputs)
    order = np.random.default_rng(1).permutation(len(inputs))
    assert np.array_equal(
        np.sort(inputs.content[conformal.thinned(inputs, 100)]),
        np.sort(inputs.take(order).content[conformal.thinned(inputs.take(order), 100)]),
    )
    one, other = bases.fit_power(inputs, target), bases.fit_power(inputs.take(order), target[order])
    assert one.log_values(inputs) == pytest.approx(other.log_values(inputs), abs=1e-3)
    for split in (splits.RANDOM, "leave_device_out"):
        held = {fold.name: set(inputs.content[fold.outside]) for fold in splits.folds(inputs, split)}
        again = {
            fold.name: set(inputs.content[order][fold.outside]) for fold in splits.folds(inputs.take(order), split)
        }
        assert held == again


def test_a_strict_split_shares_no_content_and_names_every_group() -> None:
    inputs = planted()
    doubled = dataclasses.replace(
        inputs, content=np.repeat(inputs.content[::2], 2)
    )  # each question asked by two devices
    found = splits.folds(doubled, "leave_device_out")
    assert sorted(fold.name for fold in found) == [f"d{one}" for one in range(6)]
    for fold in found:
        assert not np.isin(doubled.content[fold.inside], doubled.content[fold.outside]).any()
        assert len(fold.inside) + len(fold.outside) < len(doubled)


def test_few_shot_moves_exactly_so_many_rows_inside() -> None:
    inputs = planted()
    whole = {fold.name: fold for fold in splits.folds(inputs, "leave_device_out")}
    for fold in splits.folds(inputs, "leave_device_out", few=16):
        assert len(whole[fold.name].outside) - len(fold.outside) == 16
        assert len(fold.inside) - len(whole[fold.name].inside) == 16
        assert not set(fold.inside) & set(fold.outside)


def test_a_question_that_calibrates_is_not_scored_by_its_repeat() -> None:
    inputs = planted()
    twice = inputs.take(np.repeat(np.arange(len(inputs)), 2))
    for fold in splits.folds(twice, "leave_device_out", few=15):
        assert not np.isin(twice.content[fold.outside], twice.content[fold.inside]).any()


def test_rows_that_do_not_say_whose_they_are_are_held_out_with_nobody() -> None:
    inputs = planted()
    texts = inputs.groups["llm"].texts()
    texts[:200] = UNSTATED
    some = dataclasses.replace(inputs, groups=inputs.groups | {"llm": Labels.of(texts)})
    found = splits.folds(some, "leave_model_out")
    assert sorted(fold.name for fold in found) == [f"d{one}" for one in range(6)]
    for fold in found:
        assert not set(range(200)) - set(fold.inside)
    errors, _ = conformal.left_out_errors((Variant("estimate"),), some, law(some), "llm", None)
    assert np.flatnonzero(np.isnan(errors)).tolist() == list(range(200))
    nearly_all = dataclasses.replace(some, groups={"llm": Labels.of([UNSTATED] * 599 + ["d0"])})
    assert splits.folds(nearly_all, "leave_model_out") == []


def test_scarce_groups_weigh_more_each_and_less_together() -> None:
    inputs = planted(groups=2)
    part = inputs.take(np.flatnonzero(inputs.groups["device"].mask("d0") | (np.arange(len(inputs)) < 25)))
    weights = balance(part, "device")
    assert weights is not None
    scarce = part.groups["device"].mask("d1")
    assert weights[scarce].min() > weights[~scarce].max()
    assert weights[scarce].sum() < weights[~scarce].sum()


@pytest.mark.parametrize(("split", "effect"), [("random", 0.0), ("leave_device_out", 0.2)])
def test_intervals_cover_what_was_planted(split: str, effect: float) -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(3):
        inputs = planted(size=720, groups=12)
        devices = rng.normal(0, effect, 12)
        shift = inputs.keys[0].lookup({f"d{one}": value for one, value in enumerate(devices)})
        target = law(inputs) + shift + rng.normal(0, 0.05, len(inputs))
        fold = splits.folds(inputs, split)[0]
        fitted = Fitted.on(
            (Variant("power"),), inputs.take(fold.inside), target[fold.inside], (splits.dimension(split),)
        )
        answers = fitted.predict(inputs.take(fold.outside))
        actual = np.exp(target[fold.outside])
        covered.append(float(((actual >= answers.lower) & (actual <= answers.upper)).mean()))
    assert (0.85 if split == "random" else 0.7) < np.mean(covered) <= 1.0


def test_support_names_the_quantity_the_group_and_the_category() -> None:
    inputs = planted()
    fitted = Fitted.on((Variant("power"),), inputs, law(inputs), ("random", "device"))
    strange = dataclasses.replace(
        inputs.take(np.array([0])),
        ranges=np.array([[1e9]]),
        categories={"dtype": Labels.of(["int4"])},
        groups={"device": Labels.of(["elsewhere"]), "llm": Labels.of(["d0"])},
    )
    said = " ".join(fitted.support.reasons(strange, 0))
    assert "1e+09 m is outside" in said
    assert "dtype 'int4' is in no training row" in said
    assert "device 'elsewhere' was never seen" in said
    answers = fitted.predict(strange)
    assert not answers.is_supported[0]
    assert np.isnan(answers.lower[0])
    assert np.isfinite(answers.value[0])


def test_a_group_of_few_rows_has_an_interval_of_its_own_errors() -> None:
    inputs = planted(size=480, groups=6)
    device = inputs.groups["device"]
    part = inputs.take(np.flatnonzero(~device.mask("d5") | (np.cumsum(device.mask("d5")) <= 10)))
    scarce = part.groups["device"].mask("d5")
    wrong = np.where(scarce, 0.3, 0.05) * np.sin(np.arange(len(part)) * 2.3)
    recipe, target = (Variant("estimate"),), np.log(part.estimate) + wrong
    fitted = Fitted.on(recipe, part, target, ("device", "random"))
    answers = Fitted.from_dict(json.loads(json.dumps(fitted.to_dict()))).predict(part)
    width = np.log(answers.upper / answers.value)
    assert width[scarce] == pytest.approx(np.abs(wrong[scarce]).max())
    assert width[~scarce] == pytest.approx(fitted.intervals.widths["random"])
    assert fitted.intervals.widths["random"] < 0.06
    assert not answers.is_unseen.any()
    whole = Fitted.on(recipe, inputs, np.log(inputs.estimate), ("device", "random"))
    assert whole.intervals.scarce == {"device": {}}


def test_a_fitted_model_is_the_same_to_the_last_digit_after_a_round_trip() -> None:
    inputs = planted(size=700, groups=2)
    target = law(inputs) + 0.1 * np.sin(3 * inputs.features[:, 2])
    fitted = Fitted.on(TREES, inputs, target, ("random", "device"))
    again = Fitted.from_dict(json.loads(json.dumps(fitted.to_dict())))
    for name in ("value", "lower", "upper", "base"):
        assert (getattr(fitted.predict(inputs), name) == getattr(again.predict(inputs), name)).all()


def test_rows_without_complete_terms_have_no_answer_and_do_not_spoil_others() -> None:
    inputs = planted()
    fitted = Fitted.on((Variant("power"),), inputs, law(inputs), ("random",))
    terms = inputs.terms.copy()
    terms[3, 0] = np.nan
    answers = fitted.predict(dataclasses.replace(inputs, terms=terms))
    assert np.flatnonzero(np.isnan(answers.value)).tolist() == [3]


def test_joined_labels_read_part_by_part_however_many_there_are() -> None:
    first, second = Labels.of(["a", "b", "a", "b"]), Labels.of(["x", "x", "y", "x"])
    assert joined(first, second).texts().tolist() == ["a/x", "b/x", "a/y", "b/x"]
    wide = Labels.of([str(one) for one in range(2000)])
    assert joined(wide, wide).texts()[1234] == "1234/1234"
    assert len(joined(wide, wide).names) == 2000


# ---- the tidy pass


def target_of(inputs: Callable[[pa.Table], Inputs]) -> Target:
    return Target("t", "a time", "time_s", "s", "none", inputs, {0: (Variant("power"),)}, ("random",), ("random",))


def tidied(inputs: Inputs, actual: Array, **columns: list[str]) -> tuple[list[int], list[str]]:
    rows = pa.table({"row": np.arange(len(inputs)), "measured_time_s": actual} | columns)
    target = target_of(lambda table: inputs.take(np.asarray(table["row"].to_numpy(), np.intp)))
    kept, notes = tidy.tidy(target, rows)
    return kept["row"].to_pylist(), notes


def test_rows_faster_than_physics_and_without_a_value_are_left_out() -> None:
    inputs = planted()
    actual = np.exp(law(inputs))
    actual[5], actual[6], actual[7] = inputs.bound[5] / 2, np.nan, -1.0
    kept, notes = tidied(inputs, actual)
    assert set(range(len(inputs))) - set(kept) == {5, 6, 7}
    assert any("1 of 600 rows are faster" in note for note in notes)
    assert any("2 of 600 rows have no positive" in note for note in notes)


def test_a_device_that_is_a_copy_of_another_is_left_out() -> None:
    one = planted(size=200, groups=1)
    two = dataclasses.replace(one, groups={"device": Labels.of(["twin"] * 200), "llm": one.groups["llm"]})
    both = joined_rows(one, two)
    kept, notes = tidied(both, np.tile(np.exp(law(one)), 2))
    assert len(kept) == 200
    assert any("to the last digit" in note for note in notes)
    kept, notes = tidied(both, np.concatenate([np.exp(law(one)), 1.01 * np.exp(law(one))]))
    assert len(kept) == 400


def joined_rows(one: Inputs, two: Inputs) -> Inputs:
    """Rows of one and then of two, whose contents differ."""
    merged = {name: Labels.of([*one.groups[name].texts(), *two.groups[name].texts()]) for name in one.groups}
    twice = one.take(np.tile(np.arange(len(one)), 2))
    content = np.concatenate([one.content, two.content + np.uint64(1)])
    return dataclasses.replace(twice, groups=merged, content=content)


def test_of_rows_that_repeat_a_question_the_median_stays() -> None:
    inputs = planted(size=30)
    thrice = inputs.take(np.repeat(np.arange(30), 3))
    actual = np.repeat(np.exp(law(inputs)), 3) * np.tile([1.0, 1.1, 5.0], 30)
    kept, _ = tidied(thrice, actual)
    assert sorted(kept) == list(range(1, 90, 3))


def test_two_campaigns_on_one_device_are_told_apart() -> None:
    inputs = planted(size=1200, groups=1)
    long = dataclasses.replace(inputs, bound=np.full(1200, 1e-3))
    names = ["first", "second"] * 600
    slow = np.where(np.arange(1200) % 2 == 0, 1e-3 / 0.79, 1e-3 / 0.21)
    _, notes = tidied(long, slow, source_id=names)
    assert any("reach 0.21" in note and "0.79" in note and "two campaigns" in note for note in notes)
    _, notes = tidied(long, np.full(1200, 1e-3 / 0.79), source_id=names)
    assert not any("campaigns" in note for note in notes)


def test_an_llm_on_a_stack_it_was_never_seen_on_gets_the_interval_of_an_unseen_llm() -> None:
    inputs = planted(groups=3)
    llm, stack = Labels.of([f"llm-{one % 2}" for one in range(600)]), Labels.of([f"s{one % 3}" for one in range(600)])
    inputs = dataclasses.replace(inputs, groups={"llm": llm, "stack": stack, "device": inputs.groups["device"]})
    is_pair = llm.mask("llm-0") & stack.mask("s2")
    rng = np.random.default_rng(1)
    target = law(inputs) + np.where(llm.mask("llm-0"), 0.3, 0.0) + 0.01 * rng.standard_normal(600)
    inside = np.flatnonzero(~is_pair)
    fitted = Fitted.on((Variant("power"),), inputs.take(inside), target[inside], ("random", "llm"))
    known, new = fitted.predict(inputs.take(inside)), fitted.predict(inputs.take(is_pair))
    assert not known.is_unseen.any()
    assert new.is_unseen.all()
    assert np.log(new.upper / new.value).min() == pytest.approx(fitted.intervals.widths["llm"])
    assert "llm 'llm-0' was never seen on 's2'" in " ".join(fitted.support.reasons(inputs.take(is_pair), 0))
    again = Fitted.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again.predict(inputs.take(is_pair)).is_unseen.all()


def test_few_rows_of_a_noisy_stack_do_not_widen_the_interval_of_a_quiet_one() -> None:
    inputs = planted(size=200, groups=1)
    stack = Labels.of(["noisy" if one % 5 == 0 else "quiet" for one in range(200)])
    inputs = dataclasses.replace(inputs, groups={"llm": inputs.groups["llm"], "stack": stack})
    noise = np.where(stack.mask("noisy"), 1.0, 0.02) * np.random.default_rng(3).standard_normal(200)
    fitted = Fitted.on((Variant("bound"),), inputs, np.log(inputs.bound) + noise, ("random",))
    width = np.log(fitted.predict(inputs).upper / fitted.predict(inputs).value)
    assert width[stack.mask("quiet")].max() < 0.1
    assert width[stack.mask("noisy")].min() > 0.8
    again = Fitted.from_dict(json.loads(json.dumps(fitted.to_dict()))).predict(inputs)
    assert np.array_equal(again.upper, fitted.predict(inputs).upper)
