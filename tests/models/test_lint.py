"""The lint: every check finds its fault in rows made for it, and finds nothing in rows that hold."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_rows import WHEN, op, run

from models import lint
from models.lint import tables
from warehouse import catalog, parquet

Row = dict[str, Any]

CATALOGUE = {name: parquet.check(name, catalog.rows(name)) for name in ("hardware", "llms")}


def findings(runs: list[Row], **others: list[Row]) -> list[lint.Finding]:
    found = {name: pa.Table.from_pylist(rows) if name in ("twins", "kernels", "requests", "predictor_scores") else parquet.check(name, rows)
             for name, rows in others.items()}  # fmt: skip
    return lint.check({"runs": parquet.check("runs", runs), **CATALOGUE, **found})


def kinds(found: list[lint.Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.severity) for finding in found]


def paper(run_id: str, **values: Any) -> Row:
    row = {
        "source_kind": "published",
        "source_id": "paper/table-1",
        "source_cell": run_id,
        "quality_tier": 0,
        "latency_s": None,
        "metric_definitions": {},
    }
    return run(run_id, **{**row, **values})


def step(run_id: str, **values: Any) -> Row:
    """A printed training step on one A100."""
    row = {"phase": "pretrain_step", "hardware_id": "a100-sxm-80gb", "input_tokens": 350, "context_tokens": None, "kv_dtype": None,
           "weight_dtype": "bf16", "activation_dtype": "bf16"}  # fmt: skip
    return paper(run_id, **{**row, **values})


def serve(run_id: str, **values: Any) -> Row:
    """64 requests in flight of 100 tokens each: TTFT 0.1 s, TPOT 10 ms."""
    row = {"phase": "serve", "context_tokens": None, "latency_s": None, "batch_size": None, "input_tokens": 100, "output_tokens": 101, "concurrency": 64,
           "concurrency_mean": 64.0, "is_output_fixed": True, "ttft_s": 0.1, "tpot_s": 0.03, "e2el_s": 3.1, "requests_per_s": 64 / 3.1,
           "output_tokens_per_s": 101 * 64 / 3.1, "metric_definitions": {}, "source_kind": "published", "source_id": "tool/file"}  # fmt: skip
    return run(run_id, **{**row, **values})


def twin(of: Row, **values: float) -> Row:
    return {"config_id": of["config_id"], "roofline_s": 0.0179, "estimate_s": 0.02, **values}


def test_rows_that_hold_have_no_findings() -> None:
    fine = [run("fine", flops=13.76e9, weight_bytes_read=13.2e9, kv_bytes_read=0.5e9, mbu=0.9, memory_peak_bytes=14e9, output_tokens_per_s=50.0),
            serve("served"), step("step", forward_s=0.1, backward_s=0.2, optimizer_s=0.1, latency_s=0.41, total_tokens_per_s=850.0)]  # fmt: skip
    assert findings(fine, twins=[twin(fine[0], flops=13.76e9)]) == []


def test_nothing_at_all_has_no_findings() -> None:
    assert findings([]) == []


# physics


def test_a_point_above_its_roof() -> None:
    fast = run("fast", latency_s=0.010)
    (found,) = findings([fast, run("fine", latency_s=0.018, batch_size=2)], twins=[twin(fast)])
    assert (found.check, found.severity, found.run_id, found.metric) == (
        "point_above_roof",
        "fault",
        "fast",
        "latency_s",
    )
    assert (found.value, found.expected) == (0.010, 0.0179)
    assert "10 ms is 1.79 times faster than 17.9 ms" in found.sentence


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (
            {
                "phase": "generate",
                "context_tokens": None,
                "input_tokens": 2048,
                "output_tokens": 128,
                "source_cell": "line 1351",
            },
            "llama-2-7b on 1 a6000, generate, batch 1, 2048 + 128 tokens (line 1351): ",
        ),
        ({"context_tokens": 512}, "llama-2-7b on 1 a6000, decode, batch 1, context 512 (mfu): "),
        (
            {
                "llm_id": None,
                "served_model_name": "homemade",
                "num_devices": None,
                "batch_size": None,
                "context_tokens": None,
            },
            "homemade on a6000, decode (mfu): ",
        ),
        (
            {"llm_id": None, "batch_size": None, "context_tokens": None, "phase": "microbench"},
            "1 a6000, microbench (mfu): ",
        ),
    ],
)
def test_a_sentence_says_what_was_run(values: Row, name: str) -> None:
    (found,) = findings([run("mfu", mfu=1.2, **values)])
    assert found.sentence.startswith(name)


def test_a_first_token_after_no_time_is_no_reason_to_fail() -> None:
    assert findings([serve("zero", ttft_s=0.0, is_prefix_unique=None, input_tokens=None)]) == []


def test_a_rate_above_its_roof() -> None:
    fast = paper("fast", output_tokens_per_s=100.0, metric_definitions={"output_tokens_per_s": "tokens_over_duration"})
    unclear = paper(
        "unclear",
        output_tokens_per_s=100.0,
        metric_definitions={"output_tokens_per_s": "tokens_per_sequence_or_batch_unstated"},
    )
    assert [(one.run_id, one.check) for one in findings([fast], twins=[twin(fast)])] == [("fast", "point_above_roof")]
    assert findings([unclear], twins=[twin(unclear)]) == []


def test_an_unstated_number_format_or_layout_takes_the_benefit_of_the_doubt() -> None:
    free = {"weight_dtype": None, "activation_dtype": None}
    odd, wild = run("odd", latency_s=0.010, **free), run("wild", latency_s=0.002, batch_size=2, **free)
    several = run("several", latency_s=0.010, num_devices=4)
    found = findings([odd, wild, several], twins=[twin(odd), twin(wild), twin(several)])
    assert [(one.run_id, one.severity) for one in found] == [("odd", "doubt"), ("wild", "fault")]


def test_peaks_that_are_reckoned_make_a_doubt() -> None:
    """A processor's peaks are no datasheet's."""
    cpu = next(row for row in catalog.rows("hardware") if row["kind"] == "cpu")["hardware_id"]
    fast = run("fast", hardware_id=cpu, latency_s=0.010)
    (found,) = findings([fast], twins=[twin(fast)])
    assert (found.check, found.severity) == ("point_above_roof", "doubt")
    assert "by what is reckoned of it" in found.sentence
    assert kinds(findings([run("mbu", hardware_id=cpu, mbu=1.2)])) == [("utilisation_above_one", "doubt")]


def test_served_faster_than_the_weights_are_read() -> None:
    found = findings(
        [
            serve(
                "fast",
                tpot_s=0.005,
                ttft_s=0.1,
                e2el_s=0.6,
                requests_per_s=64 / 0.6,
                output_tokens_per_s=64 * 101 / 0.6,
            )
        ]
    )
    assert kinds(found) == [("point_above_roof", "doubt")]
    assert "speculative decoding" in found[0].sentence
    instant = serve("instant", input_tokens=10_000, ttft_s=0.01, tpot_s=0.0309, is_prefix_unique=True)
    assert kinds(findings([instant])) == [("point_above_roof", "fault")]


def test_more_than_the_peak() -> None:
    assert kinds(findings([run("mfu", mfu=1.2)])) == [("utilisation_above_one", "fault")]
    assert kinds(findings([run("work", flops=1e14, latency_s=0.02)])) == [("utilisation_above_one", "fault")]
    assert kinds(findings([run("bytes", weight_bytes_read=13.2e9, kv_bytes_read=0.5e9, latency_s=0.01)])) == [
        ("utilisation_above_one", "fault")
    ]
    cached = run("cached", phase="microbench", size_bytes=1_000_000, mbu=1.5)
    assert findings([cached]) == []


def test_training_beyond_the_peak_names_the_neighbours() -> None:
    rows = [
        step(str(rate), batch_size=batch, total_tokens_per_s=rate)
        for batch, rate in ((1, 3000.0), (2, 4000.0), (4, 400000.0))
    ]
    (found,) = findings(rows)
    assert (found.check, found.run_id) == ("utilisation_above_one", "400000.0")
    assert "print at most 4000 otherwise" in found.sentence


def test_weights_that_do_not_fit() -> None:
    assert kinds(findings([step("small", memory_peak_bytes=5e9)])) == [("weights_do_not_fit", "fault")]
    assert (
        findings([step("sharded", memory_peak_bytes=5e9, num_devices=8, data_parallel=8, optimizations=["zero3"])])
        == []
    )
    assert kinds(findings([run("large", memory_peak_bytes=60e9)])) == [("memory_above_device", "doubt")]
    large = {"llm_id": "llama-2-70b", "tensor_parallel": 1}
    found = findings([run("70b", **large), run("70b-2", batch_size=2, **large)])
    assert kinds(found) == [("weights_do_not_fit", "doubt")]
    assert "So have 1 more runs" in found[0].sentence


def test_super_linear_scaling() -> None:
    def rows(*rates: float) -> list[Row]:
        return [
            paper(str(n), num_devices=n, tensor_parallel=n, output_tokens_per_s=rate)
            for n, rate in zip((1, 2, 4), rates, strict=True)
        ]

    assert findings(rows(10.0, 20.0, 39.0)) == []
    (found,) = findings(rows(10.0, 25.0, 41.0))
    assert (found.check, found.severity, found.run_id, found.expected) == ("super_linear_scaling", "doubt", "2", 20.0)


def test_memory_that_falls_when_the_batch_grows() -> None:
    def rows(*memory: float, **values: Any) -> list[Row]:
        return [
            step(str(b), batch_size=b, memory_peak_bytes=m * 1e9, **values)
            for b, m in zip((1, 2, 4), memory, strict=True)
        ]

    assert findings(rows(20, 20, 30)) == []
    (found,) = findings(rows(20, 30, 25))
    assert (found.check, found.severity, found.run_id) == ("memory_falls_with_batch", "fault", "4")
    kind = {"metric_definitions": {"memory_peak_bytes": "torch_max_allocated"}}
    assert findings([*rows(20, 30, 40)[:2], *rows(20, 30, 25, **kind)[2:]]) == []


def test_flops_without_attention() -> None:
    linear = [
        run(str(s), phase="prefill", context_tokens=None, input_tokens=s, flops=13.2e9 * s, latency_s=1.0)
        for s in (1024, 2048)
    ]
    (found,) = findings(linear)
    assert (found.check, found.severity, found.run_id) == ("flops_linear_in_sequence", "fault", "2048")
    flat = [run(str(s), context_tokens=s, flops=13.2e9, latency_s=0.02) for s in (1024, 4096)]
    assert kinds(findings(flat)) == [("flops_linear_in_sequence", "fault")]
    right = [
        run(
            str(s),
            phase="prefill",
            context_tokens=None,
            input_tokens=s,
            flops=13.2e9 * s + 2.6e5 * s * s,
            latency_s=1.0,
        )
        for s in (1024, 2048)
    ]
    assert findings(right) == []


def test_operations_of_the_head_counted_once() -> None:
    row = paper("F16", flops=13.6e9)
    (found,) = findings([row], twins=[twin(row, flops=13.7586e9)])
    assert (found.check, found.severity) == ("work_differs", "fault")
    assert "output head counted once" in found.sentence
    other = paper("other", flops=12.0e9)
    assert kinds(findings([other], twins=[twin(other, flops=13.7586e9)])) == [("work_differs", "doubt")]


def test_weights_without_embedding_and_head() -> None:
    printed = {
        "metric": "paper:Memory Consumption (Weights)",
        "sample_index": 0,
        "sample_phase": "measured",
        "unit": "G",
    }
    (found,) = findings([paper("F16")], samples=[{"run_id": "F16", "value": 13.0, **printed}])
    assert (found.check, found.expected) == ("weights_without_embedding", pytest.approx(13.4768, abs=1e-3))
    assert "What is missing is the embedding and the output head" in found.sentence
    assert findings([paper("F16")], samples=[{"run_id": "F16", "value": 13.5, **printed}]) == []


KERNELS = {
    "run_id": "table",
    "kernel": "gemm",
    "num_rows": 100,
    "num_above": 0,
    "worst_ratio": None,
    "worst": None,
    "num_disordered": 0,
    "fingerprint": "1",
}


def kernel_table(run_id: str, **values: Any) -> Row:
    return run(
        run_id,
        phase="microbench",
        batch_size=None,
        context_tokens=None,
        latency_s=None,
        source_cell=run_id,
        source_id="tool/tables",
        **values,
    )


def test_kernels_above_their_roof() -> None:
    found = findings([kernel_table("table")], kernels=[{**KERNELS, "num_above": 3, "worst_ratio": 5.0, "worst": "m 8"}])
    assert kinds(found) == [("point_above_roof", "fault")]
    assert "3 of 100 gemm rows" in found[0].sentence


def test_a_copied_table() -> None:
    runs = [
        kernel_table("a", hardware_id="a100-sxm-80gb"),
        kernel_table("b", hardware_id="h100-sxm"),
        kernel_table("c", hardware_id="t4"),
    ]
    copies = [{**KERNELS, "run_id": "a"}, {**KERNELS, "run_id": "b"}, {**KERNELS, "run_id": "c", "fingerprint": "2"}]
    (found,) = findings(runs, kernels=copies)
    assert (found.check, found.severity, found.run_id) == ("copied_table", "fault", "b")
    assert "hardware_id a100-sxm-80gb there, h100-sxm here" in found.sentence


def test_kernels_outside_their_extremes() -> None:
    assert kinds(findings([kernel_table("table")], kernels=[{**KERNELS, "num_disordered": 2}])) == [
        ("percentiles_out_of_order", "fault")
    ]


# identities


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(50.0, []), (40.0, [("tokens_over_latency", "doubt")]), (0.05, [("tokens_over_latency", "fault")])],
)
def test_rate_and_latency(rate: float, expected: list[tuple[str, str]]) -> None:
    assert kinds(findings([run("one", latency_s=0.02, output_tokens_per_s=rate)])) == expected


def test_a_rate_that_forgets_the_batch() -> None:
    row = paper(
        "b8",
        phase="generate",
        context_tokens=None,
        batch_size=8,
        input_tokens=100,
        output_tokens=100,
        latency_s=1.0,
        total_tokens_per_s=200.0,
    )
    (found,) = findings([row])
    assert (found.check, found.expected) == ("tokens_over_latency", 800.0)


def test_littles_law() -> None:
    assert kinds(findings([serve("idle", concurrency_mean=20.0)])) == [("littles_law", "doubt")]
    assert kinds(findings([serve("ms", concurrency_mean=0.064)])) == [("littles_law", "fault")]
    assert kinds(findings([serve("more", concurrency_mean=None, concurrency=32)])) == [("littles_law", "doubt")]
    assert not findings([serve("failures", concurrency_mean=100.0, num_failed_requests=24)]), "they are in flight too"


def test_tokens_of_requests() -> None:
    assert kinds(findings([serve("short", output_tokens_per_s=1000.0)])) == [("tokens_of_requests", "doubt")]
    assert findings([serve("free", output_tokens_per_s=1000.0, is_output_fixed=False)]) == []
    total = 201 * 64 / 3.1
    assert findings([serve("total", total_tokens_per_s=total)]) == []
    (found,) = findings([serve("more", total_tokens_per_s=1.68 * total, is_output_fixed=False)])
    assert (found.check, found.metric, found.expected) == (
        "tokens_of_requests",
        "total_tokens_per_s",
        pytest.approx(total),
    )


def test_percentiles_out_of_order() -> None:
    (found,) = findings([serve("odd", ttft_p50_s=0.2, ttft_p90_s=None, ttft_p95_s=0.1)])
    assert (found.check, found.metric, found.value, found.expected) == (
        "percentiles_out_of_order",
        "ttft_p50_s",
        0.2,
        0.1,
    )
    late = serve("late", ttft_s=4.0, tpot_s=None, e2el_s=3.1)
    assert kinds(findings([late])) == [("percentiles_out_of_order", "fault")]


def test_parts_of_a_request() -> None:
    assert kinds(findings([serve("ms", tpot_s=30.0)])) == [("parts_of_a_request", "fault")]
    assert kinds(findings([serve("free", tpot_s=0.05, is_output_fixed=None)])) == []
    odd = [{"run_id": "served", "num_rows": 10, "num_off": 2, "num_late": 1}]
    assert kinds(findings([serve("served")], requests=odd)) == [("parts_of_a_request", "fault")]


def test_a_lost_decimal_point() -> None:
    rates = (1000.0, 1500.0, 1200.0, 1400.0, 130000.0)
    rows = [paper(str(rate), batch_size=2**i, output_tokens_per_s=rate) for i, rate in enumerate(rates)]
    (found,) = findings(rows)
    assert (found.check, found.run_id, found.expected) == ("unit_slip", "130000.0", 1300.0)
    sweep = [
        paper(str(rate), batch_size=4**i, output_tokens_per_s=rate)
        for i, rate in enumerate((1.0, 8.0, 60.0, 500.0, 4000.0))
    ]
    assert findings(sweep) == []


def test_milliseconds_taken_for_seconds() -> None:
    rows = [run(str(b), batch_size=b, latency_s=20.0 + b) for b in (1, 2, 3)]
    assert kinds(findings(rows, twins=[twin(row) for row in rows])) == [("unit_slip", "doubt")]


# sums


def test_phases_of_a_step() -> None:
    parts = {"forward_s": 0.1, "backward_s": 0.2, "optimizer_s": 0.1}
    assert kinds(findings([step("more", latency_s=0.35, **parts)])) == [("sum_of_parts", "fault")]
    assert kinds(findings([step("less", latency_s=0.6, **parts)])) == [("sum_of_parts", "doubt")]


def test_modules_of_a_phase_in_another_table() -> None:
    total, modules = step("total", forward_s=0.010), step("modules", source_id="paper/table-2")
    ops = [op("modules", index, phase="forward", time_s=time) for index, time in enumerate((0.003, 0.004, 0.001))]
    (found,) = findings([total, modules], ops=ops)
    assert (found.check, found.severity, found.source_id) == ("sum_of_parts", "doubt", "paper/table-2")
    assert "sum to 8.0 of the 10.0 ms of paper/table-1" in found.sentence
    inner = op("modules", 3, phase="forward", time_s=0.009, path="model", parent_path=None)
    tree = [*({**one, "parent_path": "model"} for one in ops), inner, op("modules", 4, phase="forward", time_s=0.002)]
    assert findings([total, modules], ops=tree) == []


def test_shares_that_do_not_make_a_whole() -> None:
    def shares(*values: float) -> list[Row]:
        return [{"run_id": "step", "metric": f"paper:part / {name}", "sample_index": 0, "sample_phase": "measured", "value": value, "unit": "%"}
                for name, value in zip(("Forward", "Backward", "Optimizer"), values, strict=True)]  # fmt: skip

    assert findings([step("step")], samples=shares(15.0, 48.0, 37.0)) == []
    (found,) = findings(
        [step("step", forward_s=0.075, backward_s=0.25, optimizer_s=0.1939)], samples=shares(14.3, 47.5, 36.9)
    )
    assert (found.check, len(found.samples)) == ("sum_of_shares", 3)
    assert "make 98.7 % and imply a step of 524.5 ms, the phases sum to 518.9 ms" in found.sentence
    assert findings([step("step")], samples=shares(15.0, 20.0, 10.0)) == []


# copies


def test_one_figure_of_two_llms() -> None:
    rows = [paper("a", output_tokens_per_s=7236.8), paper("b", llm_id="llama-2-13b", output_tokens_per_s=7236.8)]
    assert kinds(findings(rows)) == [("repeated_figure", "doubt")]
    rows = [paper("a", output_tokens_per_s=7200.0), paper("b", llm_id="llama-2-13b", output_tokens_per_s=7200.0)]
    assert findings(rows) == []


def test_one_configuration_with_two_figures() -> None:
    (found,) = findings([paper("a", output_tokens_per_s=50.0), paper("b", output_tokens_per_s=60.0)])
    assert (found.check, found.value, found.expected) == ("printed_twice", 60.0, 50.0)
    assert findings([run("a", latency_s=0.05), run("b", latency_s=0.06)]) == []


def test_rows_counted_twice() -> None:
    (found,) = findings([paper(name, output_tokens_per_s=51.2345678, latency_s=0.019518) for name in ("a", "b")])
    assert (found.check, found.run_id, found.value) == ("duplicate_rows", None, 1.0)


def test_a_constant_is_no_measurement() -> None:
    rows = [run(str(b), batch_size=b, achieved_bytes_per_s=5e11, latency_s=0.02 + 0.001 * b) for b in range(1, 10)]
    (found,) = findings(rows)
    assert (found.check, found.metric, found.severity) == ("constant_target", "achieved_bytes_per_s", "doubt")
    named = [{"run_id": str(b), "metric": "tool:bandwidth", "sample_index": 0, "sample_phase": "measured", "value": 1.0, "unit": "AU"}
             for b in range(1, 10)]  # fmt: skip
    plain = [{**row, "achieved_bytes_per_s": None} for row in rows]
    assert [one.metric for one in findings(plain, samples=named)] == ["tool:bandwidth"]


def test_a_predictor_without_error() -> None:
    score = {
        "predictor_id": "p",
        "source_id": "paper/table-1",
        "name": "Forest",
        "metric": "achieved_bytes_per_s",
        "mae": 0.0,
        "r2": 1.0,
    }
    assert kinds(findings([], predictor_scores=[score, {**score, "predictor_id": "q", "mae": 0.1, "r2": 0.9}])) == [
        ("constant_target", "fault")
    ]


# findings and tables


def test_the_same_rows_give_the_same_ids() -> None:
    rows = [run("a", mfu=1.2), run("b", mfu=1.3)]
    first, second = (lint.rows(findings(order), found_by="lint", at=WHEN) for order in (rows, rows[::-1]))
    assert len({row["finding_id"] for row in first}) == 2
    assert {row["finding_id"]: row["sentence"] for row in first} == {
        row["finding_id"]: row["sentence"] for row in second
    }
    assert parquet.check("findings", first).num_rows == 2


@given(st.floats(1e-12, 1e15))
def test_half_a_unit_of_the_last_digit(value: float) -> None:
    places, half = tables.digits(value)
    assert 1 <= places <= 16
    assert 0 < half <= 0.01 * value * 1.0001


@pytest.mark.parametrize(
    ("value", "places", "half"), [(13.6e9, 3, 0.05e9), (0.0179, 3, 0.00005), (640435.0, 6, 0.5), (13.0, 2, 0.13)]
)
def test_digits_of_a_figure(value: float, places: int, half: float) -> None:
    assert tables.digits(value) == (places, pytest.approx(half))


@pytest.mark.parametrize(("ratio", "power"), [(1000.0, 3), (0.01, -2), (9.7, 1), (1.0, None), (2.0, None), (0.0, None)])
def test_powers_of_ten(ratio: float, power: int | None) -> None:
    assert tables.power_of_ten(ratio) == power
