"""Cuts into pipeline stages: against every cut there is, against what a person can check, and on real ops."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.analytical import evaluate
from models.analytical.stages import equal_split, layer_units, split

SECONDS = st.lists(st.integers(0, 50).map(float), min_size=1, max_size=9)


def every_cut(num_layers, num_stages):
    for inner in itertools.combinations(range(1, num_layers), num_stages - 1):
        yield (0, *inner, num_layers)


def slowest(layer_s, bounds, sent, speeds):
    """Seconds of the slowest stage of a cut, added up one by one."""
    stages = []
    for stage, (start, end) in enumerate(itertools.pairwise(bounds)):
        is_last = end == len(layer_s)
        stages.append(sum(layer_s[start:end]) / speeds[stage] + (0 if is_last else sent[end - 1]))
    return max(stages)


@given(SECONDS, st.data())
def test_no_cut_is_better(layer_s, data):
    num_stages = data.draw(st.integers(1, len(layer_s)))
    sent = data.draw(st.lists(st.integers(0, 20), min_size=len(layer_s) - 1, max_size=len(layer_s) - 1))
    speeds = data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=num_stages, max_size=num_stages))
    best = min(slowest(layer_s, cut, sent, speeds) for cut in every_cut(len(layer_s), num_stages))
    found = split(layer_s, num_stages, boundary_s=sent, speeds=speeds)
    assert found.bottleneck_s == pytest.approx(best)
    assert slowest(layer_s, found.bounds, sent, speeds) == pytest.approx(best)
    assert found.bounds[0] == 0
    assert found.bounds[-1] == len(layer_s)
    assert all(end > start for start, end in itertools.pairwise(found.bounds))
    assert found.balance <= 1 + 1e-12


@given(SECONDS, st.data())
def test_no_cut_that_fits_is_better(layer_s, data):
    num_stages = data.draw(st.integers(1, len(layer_s)))
    size = data.draw(st.lists(st.integers(1, 9), min_size=len(layer_s), max_size=len(layer_s)))
    limit = data.draw(st.integers(1, sum(size)))
    fitting = [
        slowest(layer_s, cut, [0] * len(layer_s), [1] * num_stages)
        for cut in every_cut(len(layer_s), num_stages)
        if all(sum(size[start:end]) <= limit for start, end in itertools.pairwise(cut))
    ]
    if not fitting:
        with pytest.raises(ValueError, match="no cut"):
            split(layer_s, num_stages, layer_bytes=size, stage_limit_bytes=limit)
        return
    found = split(layer_s, num_stages, layer_bytes=size, stage_limit_bytes=limit)
    assert found.bottleneck_s == pytest.approx(min(fitting))


@given(SECONDS, st.data())
def test_equal_counts_are_never_better(layer_s, data):
    num_stages = data.draw(st.integers(1, len(layer_s)))
    equal = equal_split(layer_s, num_stages)
    counts = np.diff(equal.bounds)
    assert counts.max() - counts.min() <= 1
    assert split(layer_s, num_stages).bottleneck_s <= equal.bottleneck_s + 1e-9


def test_a_heavy_head_gets_fewer_layers_beside_it():
    found = split([1, 1, 1, 1, 1, 3], 2)
    assert found.bounds == (0, 4, 6)
    assert found.stage_s == (4, 4)
    assert found.balance == 1
    equal = equal_split([1, 1, 1, 1, 1, 3], 2)
    assert equal.stage_s == (3, 5)
    assert equal.balance == pytest.approx(0.8)


def test_an_expensive_boundary_is_not_cut():
    assert split([1, 1, 1, 1], 2).bounds == (0, 2, 4)
    assert split([1, 1, 1, 1], 2, boundary_s=[0, 5, 0]).bounds in ((0, 1, 4), (0, 3, 4))


def test_a_stage_of_its_own_limit():
    found = split([1, 1, 1, 1], 2, layer_bytes=[1, 1, 1, 1], stage_limit_bytes=[1, 3])
    assert found.bounds == (0, 1, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (([1, 1], 3), {}, "2 layers cannot make 3 stages: every stage holds at least one."),
        (([1, 1], 0), {}, "2 layers cannot make 0 stages"),
        (([1, -1], 1), {}, "layer_s must be finite and 0 or more."),
        (([1, float("nan")], 1), {}, "layer_s must be finite"),
        (([[1]], 1), {}, r"layer_s must be a list of numbers, not shape \(1, 1\)."),
        (([1, 1], 2), {"boundary_s": [1, 2]}, r"boundary_s must be one number or 1, not shape \(2,\)."),
        (([1, 1], 2), {"speeds": [1, 0]}, "speeds must be above 0."),
        (([1, 1], 2), {"layer_bytes": [1, 1]}, "layer_bytes and stage_limit_bytes go together"),
        (([1, 1], 2), {"layer_bytes": [1, 9], "stage_limit_bytes": 5}, "one layer alone takes 9 bytes, a stage holds 5."),
        (([1, 1, 1], 2), {"layer_bytes": [4, 4, 4], "stage_limit_bytes": 5}, "take 12 bytes in all, the stages hold 10."),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_a_sentence(arguments, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        split(*arguments, **options)


def modelled(**columns):
    config = {"llm_id": "llama-2-7b", "hardware_id": "a100-sxm-80gb", "phase": "prefill", "batch_size": 1,
              "input_tokens": 512, "weight_dtype": "fp16", "attention": "flash"} | columns  # fmt: skip
    return evaluate(pa.table({name: [value] for name, value in config.items()}))


def test_units_of_modelled_ops_add_up_to_the_whole():
    totals, ops = modelled()
    units = layer_units(ops, 32)
    assert units.names == ("embedding", *(f"layer {index}" for index in range(32)), "head")
    assert sum(units.seconds) == pytest.approx(totals.column("roofline_s")[0].as_py())
    assert len(set(units.seconds[1:33])) == 1
    head = next(row for row in ops.to_pylist() if row["path"] == "lm_head")
    assert units.seconds[-1] > head["roofline_s"] > 0
    found = split(units.seconds, 4)
    assert found.bottleneck_s <= equal_split(units.seconds, 4).bottleneck_s


@pytest.mark.parametrize(
    "columns",
    [{"chunk_tokens": 128}, {"phase": "generate", "output_tokens": 9}, {"phase": "pretrain_step"}],
)
def test_units_of_parts_and_passes_keep_the_embedding_first(columns):
    """Chunks, decode steps and backward passes meet the embedding again after the layers."""
    totals, ops = modelled(**columns)
    units = layer_units(ops, 32)
    rows = [row for row in ops.to_pylist() if row["op_kind"] != "optimizer"]
    assert sum(units.seconds) == pytest.approx(sum(row["roofline_s"] * row["count"] for row in rows))
    tables = sum(row["roofline_s"] * row["count"] for row in rows if row["op_kind"] == "embedding")
    assert units.seconds[0] == pytest.approx(tables)
    assert totals.column("status").to_pylist() == ["ok"]


def measured(path, time_s, *, parent=None, layer=None, kind="other", count=1, index=0):
    return {"op_index": index, "path": path, "parent_path": parent, "layer_index": layer, "op_kind": kind,
            "count": count, "time_s": time_s}  # fmt: skip


def test_units_of_measured_ops_are_their_leaves():
    rows = [
        measured("model", 11.0, kind="model"),
        measured("model.embed", 1.0, parent="model", kind="embedding"),
        measured("model.layers.0", 3.0, parent="model", layer=0, kind="layer"),
        measured("model.layers.0.mlp", 2.0, parent="model.layers.0", layer=0, kind="mlp"),
        measured("model.layers.0.(self)", 1.0, parent="model.layers.0", layer=0),
        measured("model.layers.1", 5.0, parent="model", layer=1, kind="layer", count=1),
        measured("lm_head", 0.75, parent="model", kind="lm_head", count=2),
        measured("model.(self)", 0.5, parent="model"),
    ]
    units = layer_units(
        pa.Table.from_pylist([row | {"op_index": index} for index, row in enumerate(rows)]), 2, seconds="time_s"
    )
    assert units.seconds == (1.0, 3.0, 5.0, 2.0)


def test_ops_without_their_layers_or_times_are_refused():
    table = pa.Table.from_pylist([measured("model.layers.0", 1.0, layer=0)])
    with pytest.raises(ValueError, match="these ops have 1 of 2 layers"):
        layer_units(table, 2, seconds="time_s")
    with pytest.raises(ValueError, match="these ops have no device_time_s"):
        layer_units(table, 2, seconds="device_time_s")
    with pytest.raises(ValueError, match="is of layer 4, but num_layers is 2"):
        layer_units(pa.Table.from_pylist([measured("h.4", 1.0, layer=4)]), 2, seconds="time_s")
