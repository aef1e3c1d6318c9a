"""A tiny LLM on two processes: the same logits however it is cut, rows that join their analytical twins, and what fails how."""

import argparse
import itertools
import json
import math
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pytest
from landed_rows import landed

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import worker_tasks as tasks  # noqa: E402
from fake_nvml import FakeNvml, Gpu  # noqa: E402

from collectors import _steps, _telemetry, _workers, parallel_inference  # noqa: E402
from collectors import _transformers as engine  # noqa: E402
from collectors.parallel_inference import _ranks, _sharding  # noqa: E402
from models.analytical import evaluate  # noqa: E402
from warehouse import catalog, metrics, schema  # noqa: E402
from warehouse.catalog.llm import Llm  # noqa: E402

SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
    "vocab_size": 256, "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES = {
    "llama": SHAPE,
    "qwen2": SHAPE | {"tie_word_embeddings": True},  # biases, one table for embedding and head
    "phi": SHAPE,  # biases of what is cut by rows, attention beside the MLP
    "phi3": SHAPE | {"pad_token_id": 0},  # fused projections, gathered
    "gemma2": SHAPE | {"head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16},  # layers of two kinds
    "mixtral": SHAPE | {"num_local_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip
WITHOUT_PLAN = {
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 256, "n_positions": 128},
    "bloom": {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 256},
}
CASES = [
    _steps.Case("prefill", "generation", 2, 6, None, None),
    _steps.Case("decode", "generation", 2, None, None, 9),
    _steps.Case("generate", "generation", 2, 6, 4, None),
]
LLAMA = {"model_type": "llama"} | SHAPE | {"num_hidden_layers": 4}


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A device lock of the test's own: no measurement elsewhere on this machine holds it up."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def target(family):
    config = {"model_type": family} | (FAMILIES | WITHOUT_PLAN)[family]
    return engine.Target(Llm.from_config(f"tiny-{family}", config), is_catalogued=False)


def job(family, strategy):
    return _ranks.Job(
        target(family), strategy, "fp32", "eager" if family in ("bloom", "gemma2") else "sdpa", "cpu", threads=1, cells={},
        repeats_s=0.0, limit_s=None, until=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def outputs():
    """Outputs of two ranks and of one, of every family and strategy: (family, strategy) -> (by rank, plain)."""
    jobs = {(family, "tensor"): job(family, "tensor") for family in FAMILIES}
    jobs |= {(family, "layers"): job(family, "layers") for family in FAMILIES | WITHOUT_PLAN}
    by_rank = _workers.run(tasks.parallel_outputs, (list(jobs.values()), CASES), num_ranks=2, backend="gloo")
    families = list(FAMILIES | WITHOUT_PLAN)
    alone = tasks.outputs_of(0, 1, [job(family, "layers") for family in families], CASES)
    plain = dict(zip(families, alone, strict=True))
    return {key: ([one[index] for one in by_rank], plain[key[0]]) for index, key in enumerate(jobs)}


@pytest.mark.parametrize("family", FAMILIES)
def test_two_ranks_by_the_plan_give_the_logits_of_one(outputs, family):
    by_rank, (weights, _, logits, tokens) = outputs[family, "tensor"]
    for own_weights, num_layers, own_logits, own_tokens in by_rank:
        for own, whole in zip(own_logits, logits, strict=True):
            torch.testing.assert_close(own, whole, rtol=1e-4, atol=1e-5)
        assert torch.equal(own_tokens[0], tokens[0])
        assert num_layers is None
        assert own_weights < 0.6 * weights
    assert logits[0].std() > 0.01  # not all alike


@pytest.mark.parametrize("family", FAMILIES | WITHOUT_PLAN)
def test_two_stages_of_layers_give_the_logits_of_one(outputs, family):
    (first, last), (weights, _, logits, tokens) = outputs[family, "layers"]
    assert (first[1], last[1]) == (1, 2)
    for own, whole in zip(last[2], logits, strict=True):
        torch.testing.assert_close(own, whole, rtol=1e-4, atol=1e-5)
    assert torch.equal(first[3][0], tokens[0])  # the last chooses, and the first hears of it
    assert torch.equal(last[3][0], tokens[0])
    assert max(first[0], last[0]) < weights


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory):
    """A catalogue LLM of four tiny layers, known to this process and those it starts."""
    folder = tmp_path_factory.mktemp("catalogue")
    config = ", ".join(f"{key} = {json.dumps(value)}" for key, value in LLAMA.items())
    (folder / "llms.toml").write_text(
        f'[tiny-llama]\nname = "Tiny Llama"\narchitecture = "decoder"\nsource = "made up"\nsource_date = "2026-11-21"\n'
        f"config = {{ {config} }}\n"
    )
    catalog.extend(folder)
    yield "tiny-llama"
    catalog.extend(None)


def measure(landing, llm_id, **options):
    lines = []
    settings = {"llm_id": llm_id, "input_tokens": 8, "output_tokens": 3, "batch_size": 2, "device": "cpu"} | options
    collected = parallel_inference.collect(landing, report=lines.append, **settings)
    return collected, lines


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_llama):
    """A landing folder of every phase, by both strategies, on one and two ranks, of the LLM cut to two layers."""
    landing = tmp_path_factory.mktemp("measured") / "landing"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(landing.parent))
        patch.setattr(parallel_inference, "DEFAULT_RUN_S", 0.05)
        collected, _ = measure(landing, tiny_llama, layers=2)
    assert (collected.num_runs, collected.num_failed) == (9, 0)
    return landing


def cells(landing):
    return {
        (run["phase"], run["num_devices"], run["tensor_parallel"], run["pipeline_parallel"]): run
        for run in landed(landing, "runs")
    }


def test_every_phase_strategy_and_rank_count_is_a_row(measured):
    runs = cells(measured)
    assert set(runs) == {
        (phase, *degrees) for phase in parallel_inference.PHASES for degrees in ((1, 1, 1), (2, 2, 1), (2, 1, 2))
    }
    for (phase, *_), run in runs.items():
        assert run["status"] == "ok"
        assert run["llm_id"] == "tiny-llama-2-layers"
        assert run["latency_s"] > 0
        assert run["num_samples"] >= _ranks.MIN_REPEATS
        assert run["config_id"] == schema.config_id(run)
        assert set(dict(run["metric_definitions"]).values()) <= set(metrics.DEFINITIONS)
        tokens = {"prefill": 2 * 8, "decode": 2, "generate": 2 * (8 + 3)}[phase]
        assert run["total_tokens_per_s"] == pytest.approx(tokens / run["latency_s"])
        new = {"prefill": None, "decode": 2 / run["latency_s"], "generate": 2 * 3 / run["latency_s"]}[phase]
        assert run["output_tokens_per_s"] == (None if new is None else pytest.approx(new))
        if phase == "generate":
            assert 0 < run["ttft_s"] < run["e2el_s"] == run["latency_s"]
            assert run["tpot_s"] == pytest.approx((run["latency_s"] - run["ttft_s"]) / 2)
    (llm,) = {row["llm_id"]: row for row in landed(measured, "llms")}.values()
    assert (llm["llm_id"], llm["num_layers"]) == ("tiny-llama-2-layers", 2)


def test_utilisation_of_a_cpu_that_ranks_share_is_null_with_its_reason(measured):
    for (phase, devices, *_), run in cells(measured).items():
        assert run["achieved_flops_per_s"] == pytest.approx(run["flops"] / run["latency_s"])
        assert (run["mfu"] is None) == (devices == 2)
        assert (run["mbu"] is None) == (devices == 2 or phase != "decode")
        assert ("no MFU and MBU: 2 ranks share one CPU" in run["status_detail"]) == (devices == 2)
        assert f"{devices} process" in run["status_detail"]


def test_every_rank_says_what_it_holds_and_where_its_time_went(measured):
    runs = {run["run_id"]: run for run in landed(measured, "runs")}
    by_run = {run_id: [] for run_id in runs}
    for row in landed(measured, "ranks"):
        by_run[row["run_id"]].append(row)
    for run_id, rows in by_run.items():
        run = runs[run_id]
        assert [row["rank"] for row in rows] == list(range(run["num_devices"]))
        assert max(row["weights_bytes"] for row in rows) == run["weights_bytes"]
        assert max(row["latency_s"] for row in rows) <= run["latency_s"] * (1 + 1e-9)
        assert [row["num_layers"] for row in rows] == ([1, 1] if run["pipeline_parallel"] == 2 else [None] * len(rows))
        for row in rows:
            assert (row["communication_s"] > 0) == (run["num_devices"] == 2)
            assert row["compute_s"] > 0
            assert row["device_index"] is None


def test_a_run_says_how_long_it_was_how_much_of_it_passed_between_ranks_and_what_was_read_meanwhile(measured):
    ranks, telemetry = landed(measured, "ranks"), landed(measured, "telemetry")
    for run in landed(measured, "runs"):
        own = [row["communication_s"] for row in ranks if row["run_id"] == run["run_id"]]
        assert run["communication_s"] == max(own)
        assert run["duration_s"] == pytest.approx(run["num_samples"] * run["latency_s"])
        assert run["hooks_overhead_ratio"] > 0
        assert run["profiler_overhead_ratio"] is None
        definitions = dict(run["metric_definitions"])
        assert definitions["communication_s"] == "timed_links"
        assert definitions["memory_peak_bytes"] == "rss_peak_delta"
        assert ("e2el_s" in definitions) == (run["phase"] == "generate")
        read = [row for row in telemetry if row["run_id"] == run["run_id"]]
        assert {row["device_index"] for row in read} == {-1}  # the host
        assert all(row["at_s"] >= 0 for row in read)
        assert run["throttled_ratio"] is None


def test_executions_under_a_throttle_reason_are_told_by_when_they_began(monkeypatch):
    gpu = Gpu()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpu))
    began = []
    with _telemetry.Telemetry("cuda") as telemetry:
        for bits in (0x0, 0x4, 0x0):
            gpu.throttle_bits = bits
            time.sleep(0.2)
            began.append(time.perf_counter())
            time.sleep(0.2)
    around = _ranks._surroundings(telemetry, began, [1e-3] * 3)
    assert around.throttled == {began[1]}
    assert 0 < around.columns["throttled_ratio"] < 1
    assert {row["device_index"] for row in around.rows} == {-1, 0}


def test_samples_are_those_of_the_slowest_rank(measured):
    samples = landed(measured, "samples")
    for run in landed(measured, "runs"):
        for metric in ("latency_s", "ttft_s") if run["phase"] == "generate" else ("latency_s",):
            mine = [row for row in samples if (row["run_id"], row["metric"]) == (run["run_id"], metric)]
            values = [row["value"] for row in mine if row["sample_phase"] == "measured"]
            assert len(values) == run["num_samples"] < len(mine)
            assert run[metric] == pytest.approx(sum(values) / len(values))


def test_rows_join_their_analytical_twins(measured):
    hardware = landed(measured, "hardware")[0]
    llm = landed(measured, "llms")[0]
    known = Llm.from_config(llm["llm_id"], json.loads(llm["config_json"]))
    for run in landed(measured, "runs"):
        asked = {name: run[name] for name in schema.CONFIGURATION_NAMES if run[name] is not None}
        totals, _ = evaluate(pa.Table.from_pylist([asked]), with_ops=False, hardware=[hardware], llms=[known])
        (twin,) = totals.to_pylist()
        assert twin["status"] == "ok"
        assert schema.config_id(asked) == run["config_id"]
        assert twin["weights_bytes"] == run["weights_bytes"]  # of the device that holds most


def test_a_rerun_measures_nothing_twice_and_the_stored_command_asks_for_the_same_run(measured, tiny_llama):
    collected, lines = measure(measured, tiny_llama, layers=2)
    assert collected.num_runs == 0
    assert "9 of 9 are measured already." in lines
    parser = argparse.ArgumentParser()
    parallel_inference.add_arguments(parser)
    for run in cells(measured)["generate", 2, 2, 1], cells(measured)["decode", 2, 1, 2]:
        words = shlex.split(run["command"])
        assert words[:4] == ["python", "-m", "collectors", "parallel_inference"]
        collected, _ = measure(measured, **vars(parser.parse_args(words[4:])))
        assert collected.num_runs == 0


def test_micro_batches_pass_the_stages_one_after_another(tmp_path, tiny_llama, monkeypatch):
    monkeypatch.setattr(parallel_inference, "DEFAULT_RUN_S", 0.05)
    options = {
        "strategy": "layers",
        "ranks": 2,
        "phase": ["prefill", "decode"],
        "batch_size": 4,
        "num_micro_batches": 2,
    }
    collected, _ = measure(tmp_path / "landing", tiny_llama, **options)
    assert (collected.num_runs, collected.num_failed) == (2, 0)
    for run in landed(tmp_path / "landing", "runs"):
        assert (run["num_micro_batches"], run["pipeline_parallel"], run["batch_size"]) == (2, 2, 4)


def test_what_cannot_be_cut_is_a_row_for_every_cell(tmp_path):
    options = {"layers": 1, "ranks": 2, "phase": ["prefill", "decode"], "strategy": "tensor"}
    collected, _ = measure(tmp_path / "landing", "opt-125m", **options)
    assert (collected.num_runs, collected.num_failed) == (2, 2)
    for run in landed(tmp_path / "landing", "runs"):
        assert run["status"] == "unsupported"
        assert "no tensor-parallel plan" in run["status_detail"]


def test_what_does_not_fit_by_the_closed_form_is_a_row_and_is_not_tried(tmp_path):
    collected, _ = measure(tmp_path / "landing", "deepseek-v3", ranks=[1, 2], phase="decode", strategy="tensor")
    runs = landed(tmp_path / "landing", "runs")
    assert (collected.num_runs, collected.num_failed) == (2, 2)
    assert {(run["status"], run["is_fitting"]) for run in runs} == {("oom", False)}
    assert all("not tried" in run["status_detail"] for run in runs)
    assert not landed(tmp_path / "landing", "ranks")
    collected, lines = measure(tmp_path / "landing", "deepseek-v3", ranks=[1, 2], phase="decode", strategy="tensor")
    assert sum("not tried" in line for line in lines) == 2  # reckoned again
    assert collected.num_runs == 0  # and landed once


def test_a_cell_that_takes_too_long_is_a_row(tmp_path, tiny_llama):
    measure(tmp_path / "landing", tiny_llama, ranks=1, phase=["prefill", "decode"], cell_limit_s=0.001)
    runs = landed(tmp_path / "landing", "runs")
    assert [run["status"] for run in runs] == ["timeout", "timeout"]
    assert all("limit of 0.001 s" in run["status_detail"] for run in runs)
    assert [run["duration_s"] for run in runs] == [0.001, 0.001]
    again, _ = measure(tmp_path / "landing", tiny_llama, ranks=1, phase=["prefill", "decode"], cell_limit_s=0.001)
    longer, _ = measure(tmp_path / "landing", tiny_llama, ranks=1, phase="decode", cell_limit_s=0.002)
    assert (again.num_runs, longer.num_runs) == (0, 1)


def test_llms_dtypes_and_kinds_of_attention_are_combined(tmp_path, tiny_llama):
    landing = tmp_path / "landing"
    options = {"ranks": 1, "layers": 1, "phase": "decode", "dtype": ["fp32", "bf16"], "attention": ["eager", "sdpa"]}
    measure(landing, [tiny_llama, "gpt2"], **options, cell_limit_s=0.001)
    runs = landed(landing, "runs")
    expected = itertools.product([f"{tiny_llama}-1-layers", "gpt2-1-layers"], ["fp32", "bf16"], ["eager", "sdpa"])
    assert {(run["llm_id"], run["weight_dtype"], run["attention"]) for run in runs} == set(expected)
    assert {shlex.join(shlex.split(run["command"])[4:6]) for run in runs} == {f"--llm-id {tiny_llama}", "--llm-id gpt2"}


def test_a_spent_budget_leaves_out_and_says_so(tmp_path, tiny_llama):
    collected, lines = measure(tmp_path / "landing", tiny_llama, ranks=1, budget_s=1e-9)
    assert collected.num_runs == 0
    assert any("the budget is spent; 3 of 3 left out" in line for line in lines)


@pytest.mark.parametrize(
    ("family", "num_ranks", "message"),
    [
        ("llama", 4, "num_key_value_heads = 2 cannot be shared evenly by 4 ranks"),
        ("gpt2", 2, "no tensor-parallel plan"),
    ],
)
def test_a_plan_that_the_ranks_do_not_divide_is_refused(family, num_ranks, message):
    model = engine.skeleton(target(family), "fp32", "sdpa", "cpu")
    with pytest.raises(_steps.UnsupportedError, match=message):
        _sharding.cut_by_plan(model, _sharding.Link(0, num_ranks, "cpu"))


def test_fewer_layers_than_ranks_are_refused():
    model = engine.skeleton(target("llama"), "fp32", "sdpa", "cpu")
    with pytest.raises(_steps.UnsupportedError, match="3 layers cannot be cut into 4 stages"):
        _sharding.cut_by_layers(model, _sharding.Link(0, 4, "cpu"))


def test_no_rank_holds_the_whole_model_before_it_is_cut():
    model = engine.skeleton(target("llama"), "fp32", "sdpa", "cpu")
    assert all(parameter.is_meta for parameter in model.parameters() if parameter.ndim > 1)
    assert not any(parameter.is_meta for parameter in model.parameters() if parameter.ndim == 1)
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_an_llm_is_cut_to_its_first_layers():
    whole = engine.catalogued("llama-2-7b")
    part = engine.cut(whole, 2)
    assert (part.llm.llm_id, part.llm.num_layers, part.is_catalogued) == ("llama-2-7b-2-layers", 2, False)
    layer = (whole.llm.num_parameters - 2 * 32000 * 4096 - 4096) // 32
    assert part.llm.num_parameters == 2 * 32000 * 4096 + 4096 + 2 * layer
    built = engine.skeleton(part, "bf16", "sdpa", "cpu")
    assert sum(parameter.numel() for parameter in built.parameters()) == part.llm.num_parameters
    assert engine.cut(whole, 32) is whole
    with pytest.raises(ValueError, match=r"cannot be cut to 33 layers\. It has 32"):
        engine.cut(whole, 33)


@pytest.mark.parametrize("llm_id", ["gemma-2-2b", "t5-small", "bart-base", "gpt2", "qwen3-0.6b"])
def test_every_kind_of_config_is_cut(llm_id):
    part = engine.cut(engine.catalogued(llm_id), 2)
    assert part.llm.num_layers == 2
    assert sum(kind.count for kind in part.llm.layer_kinds) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm_id": "opt-9000"}, "'opt-9000' is not in the LLM catalogue"),
        ({"llm_id": "t5-small"}, "only decoders are cut here"),
        ({"strategy": "zigzag"}, "'zigzag' is not a strategy .* Known: tensor, layers"),
        ({"phase": "forward"}, "'forward' is not a phase .* Known: prefill, decode, generate"),
        ({"dtype": "int3"}, "'int3' is not a dtype"),
        ({"ranks": 0}, "whole numbers from 1 on"),
        ({"phase": "decode", "input_tokens": 1}, "at least 2 tokens"),
        ({"num_micro_batches": 2}, "generate passes a batch on whole"),
        ({"phase": "decode", "num_micro_batches": 3, "batch_size": 4}, "must divide batch_size"),
        ({"layers": 99}, "cannot be cut to 99 layers"),
        ({"cell_limit_s": -2.0}, "cell_limit_s is a number of seconds above 0, not -2"),
        ({"budget_s": math.nan}, "budget_s is a number of seconds above 0, not nan"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(tmp_path, options, message):
    with pytest.raises((LookupError, ValueError), match=message):
        parallel_inference.collect(tmp_path / "landing", **options)
    assert not (tmp_path / "landing").exists()


def test_importing_the_collector_touches_no_device():
    code = "import sys; import collectors.parallel_inference; print([n for n in ('torch', 'transformers', 'pynvml') if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert out.stdout.strip() == "[]"
