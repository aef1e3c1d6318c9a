"""Predictors of whole runs on rows whose law is known: recovered for LLMs never seen, blind to what is held out, silent about nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.learned import contenders, evaluate, splits
from models.learned.fitted import Fitted
from models.learned.inputs import number
from models.learned.subjects import devices, find
from models.learned.tidy import tidy

DEVICES = {"cpu-a": (1e11, 2e10), "gpu-b": (1e14, 1e12)}
"""Device -> peak FLOP/s, bytes/s."""


def planted(
    num_llms: int = 5,
    *,
    noise: float = 0.03,
    devices_of: tuple[str, ...] = ("cpu-a",),
    batches: tuple[int, ...] = (1, 4, 16),
    lengths: tuple[int, ...] = (64, 1024),
    seed: int = 0,
) -> pa.Table:
    """Training rows of a known law: 0.2 ms a layer, FLOPs at 20 to 80 % of the peak depending on the tokens, 70 % of the bandwidth."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for index in range(num_llms):
        layers, width = int(random.choice([6, 12, 24, 32])), int(random.choice([512, 768, 1024, 2048]))
        parameters = 12 * layers * width**2 + 32000 * width
        for device in devices_of:
            for phase in ("prefill", "decode"):
                for batch in batches:
                    for length in lengths:
                        new = batch * (length if phase == "prefill" else 1)
                        flops = 2.0 * parameters * new + 4.0 * new * length * width * layers
                        activations = 136.0 * new * width * layers
                        traffic = 4.0 * parameters + activations + 8.0 * layers * width * batch * length
                        compute_s, memory_s = flops / DEVICES[device][0], traffic / DEVICES[device][1]
                        latency_s = 2e-4 * layers + compute_s / (0.2 + 0.6 * new / (new + 30)) + memory_s / 0.7
                        given = length if phase == "prefill" else None
                        rows.append(
                            {
                                "run_id": f"run-{len(rows):04d}", "llm_id": f"llm-{index}", "family": f"family-{index % 3}",
                                "hardware_id": device, "num_devices": 1, "phase": phase, "batch_size": batch,
                                "input_tokens": given, "output_tokens": None, "context_tokens": None if given else length,
                                "weight_dtype": "fp32", "activation_dtype": "fp32", "kv_dtype": "fp32", "execution": "eager",
                                "framework": "pytorch", "framework_version": "2.8", "other_load_ratio": 0.02,
                                "has_llm": True, "has_twin": True,
                                "flops": flops, "bytes_moved": traffic, "weight_bytes_read": 4.0 * parameters,
                                "weights_bytes": 4.0 * parameters, "activation_bytes_read": activations / 2,
                                "activation_bytes_written": activations / 2, "compute_s": compute_s, "memory_s": memory_s,
                                "communication_s": 0.0, "roofline_s": max(compute_s, memory_s),
                                "estimate_s": compute_s + memory_s, "architecture": "decoder", "num_parameters": parameters,
                                "num_layers": layers, "num_encoder_layers": None, "hidden_size": width,
                                "measured_latency_s": latency_s * np.exp(noise * random.standard_normal()),
                            }
                        )  # fmt: skip
    return devices.with_devices(pa.Table.from_pylist(rows))


def changed(rows: pa.Table, **values: Any) -> pa.Table:
    """Rows with columns replaced by one value, or by a list of values."""
    for name, value in values.items():
        column = value if isinstance(value, list) else [value] * rows.num_rows
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(column, rows.schema.field(name).type))
    return rows


def times(rows: pa.Table, factors: list[float]) -> pa.Table:
    """Rows with the measured latencies multiplied."""
    return changed(rows, measured_latency_s=list(number(rows, "measured_latency_s") * np.array(factors)))


def ours(rows: pa.Table, which: str, key: str = "latency") -> evaluate.Evaluation:
    """Ours on one split of tidy rows."""
    return evaluate.evaluate(
        find(key), rows, [which], contenders=lambda target, split: [contenders.Ours(target, split)]
    )


def pooled(found: evaluate.Evaluation, contender: str = contenders.Ours.name) -> dict[str, Any]:
    """The pooled score of one contender."""
    (row,) = [row for row in found.scores() if (row["contender"], row["fold"]) == (contender, evaluate.ALL)]
    return row


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return planted()


def test_a_planted_law_is_recovered_for_llms_never_seen(rows: pa.Table) -> None:
    target = find("latency")
    others = (contenders.Roofline(target), contenders.Estimate(target), contenders.Forest())
    found = evaluate.evaluate(
        target, rows, ["leave_model_out"], contenders=lambda target, split: [contenders.Ours(target, split), *others]
    )
    assert pooled(found)["mdape"] < 0.08  # the noise alone gives 0.02
    assert pooled(found)["r2_log"] > 0.99
    for other in others:
        assert pooled(found, other.name)["mdape"] > 3 * pooled(found)["mdape"]


def test_each_device_has_its_own_coefficients() -> None:
    both = planted(num_llms=4, devices_of=("cpu-a", "gpu-b"))
    slower = times(both, [3.0 if device == "gpu-b" else 1.0 for device in both["hardware_id"].to_pylist()])
    assert pooled(ours(slower, "leave_model_out"))["mdape"] < 0.1


def test_what_is_held_out_cannot_change_its_own_prediction(rows: pa.Table) -> None:
    """Multiply the measurements of one LLM by ten: its left-out predictions and their intervals stay, others move."""
    wrong = times(rows, [10.0 if llm == "llm-2" else 1.0 for llm in rows["llm_id"].to_pylist()])

    def left_out(found: evaluate.Evaluation, fold: str) -> list[list[float]]:
        (held,) = [held for held in found.held if held.fold == fold]
        return [held.value.tolist(), held.lower.tolist(), held.upper.tolist()]

    before, after = ours(rows, "leave_model_out"), ours(wrong, "leave_model_out")
    assert left_out(after, "llm-2") == left_out(before, "llm-2")
    assert left_out(after, "llm-3") != left_out(before, "llm-3")


def test_the_same_rows_in_any_order_give_the_same_scores(rows: pa.Table) -> None:
    target = find("latency")
    shuffled = rows.take(np.random.default_rng(3).permutation(rows.num_rows))
    first, again = (pooled(ours(tidy(target, table)[0], "random")) for table in (rows, shuffled))
    assert again == first


def test_no_question_and_no_llm_is_on_both_sides_of_a_fold(rows: pa.Table) -> None:
    inputs = find("latency").inputs(rows)
    llms = np.array(rows["llm_id"].to_pylist())
    for fold in splits.folds(inputs, "leave_model_out"):
        assert set(llms[fold.outside]) == {fold.name}
        assert fold.name not in llms[fold.inside]
    for fold in splits.folds(inputs, "random"):
        assert not set(inputs.content[fold.inside]) & set(inputs.content[fold.outside])


def test_a_constant_or_a_derived_target_is_refused(rows: pa.Table) -> None:
    with pytest.raises(ValueError, match=r"latency is 0\.5 s in all 60 rows"):
        ours(changed(rows, measured_latency_s=0.5), "random")
    for column in ("roofline_s", "estimate_s"):
        derived = changed(rows, measured_latency_s=[2 * value for value in rows[column].to_pylist()])
        with pytest.raises(ValueError, match="derived and not"):
            ours(derived, "random")


def test_latencies_of_a_busy_machine_are_left_out_with_a_note(rows: pa.Table) -> None:
    every_fourth = [index % 4 == 0 for index in range(rows.num_rows)]
    slowed = times(rows, [20.0 if is_slow else 1.0 for is_slow in every_fourth])
    busy = changed(slowed, other_load_ratio=[0.5 if one else 0.1 for one in every_fourth])
    kept, notes = tidy(find("latency"), busy)
    assert kept.num_rows == 45
    assert notes == ["15 of 60 rows were measured while other processes kept the machine busy."]
    assert pooled(ours(kept, "leave_model_out"))["mdape"] < 0.06


def test_a_machine_that_is_always_busy_is_learnt_as_it_is_and_said(rows: pa.Table) -> None:
    kept, notes = tidy(find("latency"), changed(rows, other_load_ratio=0.5))
    assert kept.num_rows == 60
    assert notes == [
        "60 of 60 rows were measured while other processes kept the machine busy.",
        "60 of these are used all the same: too little is left without them.",
    ]


def test_an_unknown_load_is_no_reason_to_leave_a_row_out(rows: pa.Table) -> None:
    kept, notes = tidy(find("latency"), changed(rows, other_load_ratio=None))
    assert (kept.num_rows, notes) == (60, [])


def test_rows_without_an_analytical_row_are_left_out_with_the_reason(rows: pa.Table) -> None:
    holes = {name: [None, None, None, *rows[name].to_pylist()[3:]] for name in ("compute_s", "memory_s", "roofline_s")}
    has_llm = [index != 0 for index in range(rows.num_rows)]
    bare = changed(rows, **holes, has_twin=[index > 2 for index in range(rows.num_rows)], has_llm=has_llm)
    kept, notes = tidy(find("latency"), bare)
    assert kept.num_rows == 57
    assert notes == [
        "1 of 60 rows name no LLM of the catalogue: they have no analytical row.",
        "2 of 60 rows have no analytical row: what they ran is stated too little, or beyond the analytical model.",
    ]


def test_what_was_never_seen_is_named(rows: pa.Table) -> None:
    target = find("latency")
    inputs = target.inputs(rows)
    fitted = Fitted.on(
        target.recipe(len(inputs)), inputs, np.log(number(rows, "measured_latency_s")), target.dimensions
    )
    one = rows.slice(0, 1)
    for column, value, said in (
        ("execution", "compiled", "execution 'compiled' is in no training row (seen: eager)."),
        ("weight_dtype", "int4", "weight dtype 'int4' is in no training row (seen: fp32)."),
        ("num_devices", 2, "2 num devices is outside the training rows (1 to 1)."),
        ("batch_size", 512, "512 sequences a batch is outside the training rows (1 to 16)."),
        (
            "hardware_id",
            "gpu-z",
            "device 'gpu-z' was never seen (seen: cpu-a): the interval is that of an unseen device.",
        ),
    ):
        asked = target.inputs(changed(one, **{column: value}))
        assert said in fitted.support.reasons(asked, 0)
        assert not fitted.predict(asked).is_supported[0]
    seen = fitted.predict(inputs)
    assert seen.is_supported.all()
    assert (seen.lower < seen.value).all()


def test_a_table_without_a_needed_column_is_refused(rows: pa.Table) -> None:
    with pytest.raises(ValueError, match="no column 'compute_s'"):
        find("latency").inputs(rows.drop_columns(["compute_s"]))


# ---- modules


def modules(num_llms: int = 5, noise: float = 0.02) -> pa.Table:
    """Projections and norms whose law is known: 50 us a call, 60 % of the peak, 50 % of the bandwidth."""
    random = np.random.default_rng(1)
    rows = []
    for llm in range(num_llms):
        width = 256 * (llm + 2)
        for batch in (1, 2, 8):
            for kind, flops, moved in (
                ("o_proj", 2.0 * batch * 512 * width**2, 4.0 * (width**2 + 2 * batch * 512 * width)),
                ("norm", None, 8.0 * batch * 512 * width),
            ):
                time_s = 5e-5 + (flops or 0.0) / 1e11 / 0.6 + moved / 2e10 / 0.5
                rows.append(
                    {
                        "llm_id": f"llm-{llm}", "family": f"family-{llm}", "hardware_id": "cpu-a", "framework": "pytorch",
                        "framework_version": "2.8", "execution": "eager", "weight_dtype": "fp32", "activation_dtype": "fp32",
                        "op_kind": kind, "class_name": kind, "batch_size": batch, "flops": flops, "bytes_moved": moved,
                        "other_load_ratio": 0.0, "measured_time_s": time_s * np.exp(noise * random.standard_normal()),
                    }
                )  # fmt: skip
    device = {"hardware_id": "cpu-a", "peak_fp32_flops_per_s": 1e11, "memory_bandwidth_bytes_per_s": 2e10}
    return devices.with_devices(pa.Table.from_pylist(rows), [device])


def test_the_time_of_a_module_is_recovered_for_llms_never_seen() -> None:
    target = find("module_time")
    rows, notes = tidy(target, modules())
    assert (rows.num_rows, notes) == (30, [])
    assert pooled(ours(rows, "leave_model_out", "module_time"))["mdape"] < 0.05


def test_a_module_without_products_needs_its_bytes() -> None:
    rows = modules()
    holes = [
        None if kind == "norm" else value
        for kind, value in zip(*(rows[name].to_pylist() for name in ("op_kind", "bytes_moved")), strict=True)
    ]
    kept, notes = tidy(find("module_time"), changed(rows, bytes_moved=holes))
    assert kept["op_kind"].unique().to_pylist() == ["o_proj"]
    assert notes == ["15 of 30 rows lack a number that the bound is made of (device, LLM or shape unknown)."]


# ---- training steps


def test_a_training_step_starts_from_the_estimate_of_its_work(rows: pa.Table) -> None:
    """Steps that take 1.3 times their estimate, whatever the LLM."""
    steps = changed(rows, phase="pretrain_step")
    noise = np.exp(0.02 * np.random.default_rng(0).standard_normal(rows.num_rows))
    steps = changed(steps, measured_latency_s=list(1.3 * number(rows, "estimate_s") * noise))
    found = ours(steps, "leave_model_out", "training_step")
    assert pooled(found)["mdape"] < 0.2
    assert pooled(found)["mdape"] < 1.0 - 1.0 / 1.3
