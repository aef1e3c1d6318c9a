"""Figures from tables written here: units, order, and what is said where nothing is known."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from dashboard import figures, trees
from warehouse.metrics import metric

LATENCY = metric("latency_s")


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows)


def point(run_id: str, kind: str, device: str, value: float | None, **more: Any) -> dict[str, Any]:
    row = {"run_id": run_id, "source_kind": kind, "device": device, "latency_s": value, "latency_std_s": None, "source_id": "s", "phase": "decode",
           "batch": "1", "tokens": "1 in", "dtype": "fp16", "variant": "", "metric_definitions": None, "quality_tier": None, "is_excluded": False,
           "exclusion_reason": None, "unstated": [], "is_bound": kind == "analytical"}  # fmt: skip
    return row | more


def test_compare_ranks_the_observed_before_the_bounds() -> None:
    rows = [
        point("1", "measured", "slow", 2.0),
        point("2", "published", "fast", 1.0),
        point("3", "analytical", "unseen", 0.1),
    ]
    assert figures.ranked_devices(rows, LATENCY) == ["fast", "slow", "unseen"]
    tokens = metric("output_tokens_per_s")
    rates = [row | {"output_tokens_per_s": row["latency_s"]} for row in rows]
    assert figures.ranked_devices(rates, tokens) == ["slow", "fast", "unseen"]


def test_compare_leaves_out_what_is_not_known_and_never_draws_it_as_zero() -> None:
    figure = figures.compare(table([point("1", "measured", "a", 0.5), point("2", "measured", "b", None)]), LATENCY)
    assert list(figure.data[0].x) == [500.0]


def test_compare_is_logarithmic_by_itself_only_over_a_wide_range() -> None:
    near = table([point("1", "measured", "a", 1.0), point("2", "measured", "b", 2.0)])
    far = table([point("1", "measured", "a", 1.0), point("2", "measured", "b", 200.0)])
    assert figures.compare(near, LATENCY).layout.xaxis.type == "linear"
    assert figures.compare(far, LATENCY).layout.xaxis.type == "log"
    assert figures.compare(far, LATENCY, "linear").layout.xaxis.type == "linear"


def test_a_gap_line_joins_a_bound_to_the_best_value_observed() -> None:
    rows = [point("1", "measured", "a", 3.0), point("2", "measured", "a", 2.0), point("3", "analytical", "a", 1.0)]
    line = next(trace for trace in figures.compare(table(rows), LATENCY).data if trace.mode == "lines")
    assert list(line.x[:2]) == [1000.0, 2000.0]


def test_a_kind_has_the_same_colour_on_every_chart() -> None:
    compared = figures.compare(table([point("1", "published", "a", 1.0)]), LATENCY)
    roofed = figures.roofline(roofs(), points(source_kind="published"))
    assert compared.data[0].marker.color == figures.KIND_COLOURS["published"]
    assert (
        next(trace for trace in roofed.data if trace.name == "published runs").marker.color
        == figures.KIND_COLOURS["published"]
    )


def roofs() -> pa.Table:
    return table(
        [
            {
                "hardware_name": "X",
                "dtype": "fp16",
                "peak_flops_per_s": 100e12,
                "bandwidth_bytes_per_s": 1e12,
                "ridge": 100.0,
                "has_ceiling": False,
            }
        ]
    )


def points(**more: Any) -> pa.Table:
    row = {"source_kind": "measured", "label": "p", "intensity": 10.0, "achieved_flops_per_s": 5e12, "roof_flops_per_s": 10e12, "ridge": 100.0,
           "flops": 1.0, "bytes_moved": 1.0, "is_fault": False, "is_above_measured_roof": False, "link": "/run?run_id=p"}  # fmt: skip
    return table([row | more])


def test_a_roof_turns_flat_at_its_ridge() -> None:
    roof = figures.roofline(roofs(), points()).data[0]
    assert list(roof.x) == [0.1, 100.0, 1000.0]
    assert list(roof.y) == pytest.approx([0.1, 100.0, 100.0])  # TFLOP/s: 0.1 FLOP/B x 1 TB/s, then the peak


@pytest.mark.parametrize(("intensity", "side"), [(10.0, "memory bound: left"), (200.0, "compute bound: right")])
def test_boundness_is_the_side_of_the_ridge(intensity: float, side: str) -> None:
    figure = figures.roofline(roofs(), points(intensity=intensity))
    assert side in figure.data[1].customdata[0][1]


def test_a_point_above_its_own_roof_is_ringed() -> None:
    names = [trace.name for trace in figures.roofline(roofs(), points(is_fault=True)).data]
    assert "above its own roof: data fault" in names
    assert "above its own roof: data fault" not in [trace.name for trace in figures.roofline(roofs(), points()).data]


def test_coverage_is_coloured_by_the_strongest_kind_and_counts_them_all() -> None:
    base = {"llm_id": "l", "hardware_id": "h", "llm_name": "L", "hardware_name": "NVIDIA H"}
    figure = figures.coverage(
        table(
            [{**base, "source_kind": "measured", "num_runs": 1}, {**base, "source_kind": "analytical", "num_runs": 9}]
        )
    )
    assert [list(line) for line in figure.data[0].z] == [[figures.EVIDENCE.index("measured")]]
    assert (list(figure.data[0].x), list(figure.layout.xaxis.ticktext)) == (["h"], ["H"])
    link, words = figure.data[0].customdata[0][0]
    assert link == "/compare?llm=l&devices=h"
    assert "measured: 1 row<br>analytical: 9 rows" in words
    assert {trace.name for trace in figure.data[1:]} == {"measured"}


def test_coverage_keeps_the_best_known_within_a_screen_unless_asked_for_all() -> None:
    names = [(f"l{i:02}", f"h{i:02}") for i in range(30)]
    rows = [{"llm_id": llm, "hardware_id": device, "llm_name": llm, "hardware_name": device, "source_kind": "analytical", "num_runs": 1}
            for llm, _ in names for _, device in names]  # fmt: skip
    rows += [rows[-1] | {"source_kind": "published"}, rows[-2] | {"source_kind": "measured"}]
    llms, devices = figures.covered(table(rows))
    assert (len(llms), len(devices)) == (figures.MOST_COVERED_LLMS, figures.MOST_COVERED_DEVICES)
    assert (llms[:2], devices[:3]) == (
        ["l29", "l00"],
        ["h28", "h29", "h00"],
    )  # measured before published before computed
    assert [len(side) for side in figures.covered(table(rows), is_whole=True)] == [30, 30]
    assert len(figures.coverage(table(rows)).data[0].z) == figures.MOST_COVERED_LLMS


def test_samples_show_warm_up_apart_and_the_median_of_the_rest() -> None:
    rows = [{"sample_index": i, "sample_phase": phase, "value": value, "flags": None} for i, (phase, value) in
            enumerate([("warmup", 9.0), ("measured", 1.0), ("measured", 3.0)])]  # fmt: skip
    figure = figures.samples(table(rows), LATENCY)
    assert {trace.name: list(trace.y) for trace in figure.data} == {"measured": [1000.0, 3000.0], "warm-up": [9000.0]}
    assert figure.layout.annotations[0].text == "median 2,000 ms"


def test_distribution_counts_completed_requests_only() -> None:
    row = {"status": "ok", "sample_phase": "measured", "ttft_s": 0.1}
    figure = figures.distribution(
        table([row, row | {"ttft_s": 0.3}, row | {"status": "timeout", "ttft_s": None}]), ("ttft_s",)
    )
    assert list(figure.data[0].x) == pytest.approx([100.0, 300.0])
    assert list(figure.data[0].y) == [50.0, 100.0]


def test_a_prediction_has_its_interval_and_a_bound_has_none() -> None:
    rows = [{"name": "Predicted", "kind": "predicted", "value": 2.0, "lower": 1.5, "upper": 3.0},
            {"name": "Analytical bound", "kind": "analytical", "value": 1.0, "lower": None, "upper": None}]  # fmt: skip
    bound, predicted = figures.prediction(rows, LATENCY).data
    assert (list(predicted.error_x.array), list(predicted.error_x.arrayminus)) == ([1000.0], [500.0])
    assert not bound.error_x.visible


@pytest.mark.parametrize("draw", [lambda t: figures.compare(t, LATENCY), figures.coverage, lambda t: figures.samples(t, LATENCY),
                                  lambda t: figures.op_kinds(t, LATENCY), lambda t: figures.predicted_against_actual(t, LATENCY),
                                  lambda t: figures.roofline(t, t)])  # fmt: skip
def test_nothing_is_a_sentence_in_the_chart(draw: Any) -> None:
    figure = draw(pa.table({}))
    assert len(figure.data) == 0
    assert figure.layout.annotations[0].text


def operator(
    op_index: int, path: str, parent: str | None, seconds: float | None, count: int = 1, phase: str | None = None
) -> dict[str, Any]:
    return {"op_index": op_index, "path": path, "parent_path": parent, "op_kind": "other", "count": count, "phase": phase, "seconds": seconds,
            "roofline_s": None, "estimate_s": None, "estimate_share": None, "num_kernels": None, "flops": None, "bytes_moved": None, "memory_bytes": None, "num_parameters": None, "parameter_bytes": None,
            "activation_bytes": None, "memory_peak_bytes": None, "intensity": None, "achieved_flops_per_s": None,
            "roof_flops_per_s": None, "bound": None}  # fmt: skip


def test_a_container_is_as_large_as_itself_or_its_children() -> None:
    rows = [
        operator(0, "m", None, 10.0),
        operator(1, "m.a", "m", 2.0, count=3),
        operator(2, "m.b", "m", None),
        operator(3, "m.b.c", "m.b", 1.0),
    ]
    nodes = {node["label"]: (node["parent"], node["value"]) for node in trees.tree(rows, "seconds", "seconds")}
    assert nodes == {"m": ("", 10.0), "a × 3": ("op-0", 6.0), "b": ("op-0", 1.0), "c": ("op-2", 1.0)}


def test_a_module_of_unknown_colour_is_grey_and_the_scale_keeps_its_unit() -> None:
    rows = [
        operator(0, "m", None, 2.0) | {"flops": 1e12},
        operator(1, "m.a", "m", 1.0) | {"flops": 5e11},
        operator(2, "m.b", "m", 1.0),
    ]
    flops = trees.OP_METRICS["flops"]
    icicle, scale = figures.icicle(trees.tree(rows, "seconds", "flops"), LATENCY, flops).data
    colours = dict(zip(icicle.labels, icicle.marker.colors, strict=True))
    assert colours["b"] == figures.UNKNOWN_COLOUR
    assert figures.UNKNOWN_COLOUR not in (colours["a"], colours["m"])
    assert scale.marker.cmax == 5e11 * flops.display_factor


def test_parents_that_no_row_names_are_made_from_the_path() -> None:
    rows = [
        operator(0, "model.layers.*.mlp", None, 1.0, 2, "forward"),
        operator(1, "model.layers.*.mlp", None, 2.0, 2, "backward"),
    ]
    nodes = {node["id"]: (node["parent"], node["value"]) for node in trees.tree(rows, "seconds", "seconds")}
    assert nodes["all"] == ("", 6.0)
    assert nodes["phase-forward"] == ("all", 2.0)
    assert nodes["path-forward-model.layers.*"] == ("path-forward-model", 2.0)
    assert nodes["op-1"] == ("path-backward-model.layers.*", 4.0)


def test_no_chart_offers_to_upload_itself() -> None:
    assert figures.CONFIG["showSendToCloud"] is False
    assert figures.CONFIG["plotlyServerURL"] == ""
