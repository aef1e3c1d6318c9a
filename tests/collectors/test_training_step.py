"""Training steps of tiny LLMs, run for real: parts that add up, sums by hand, replicas and shards, what fails how."""

import argparse
import inspect
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from dataclasses import replace

import pyarrow as pa
import pytest
from landed_rows import landed
from tiny_llms import BERT, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, LLAMA, T5, VOCABULARY, bare

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from collectors import _machine, _timing, roofline, training_step  # noqa: E402
from collectors import _transformers as engine  # noqa: E402
from collectors.training_step import _trainer  # noqa: E402
from models.analytical import evaluate  # noqa: E402
from warehouse import metrics, schema  # noqa: E402

GPT2 = {
    "model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256, "n_positions": 64,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
KV_WIDTH = KV_HEADS * HIDDEN // HEADS
PRODUCTS = (
    (HIDDEN, HIDDEN),
    (HIDDEN, KV_WIDTH),
    (HIDDEN, KV_WIDTH),
    (HIDDEN, HIDDEN),
    (HIDDEN, INNER),
    (HIDDEN, INNER),
    (INNER, HIDDEN),
)
"""(in, out) of the products of one layer: q, k, v, o, gate, up, down."""
PARAMETERS = 2 * VOCABULARY * HIDDEN + LAYERS * (sum(a * b for a, b in PRODUCTS) + 2 * HIDDEN) + HIDDEN
TENSORS = 2 + LAYERS * (len(PRODUCTS) + 2) + 1
RANK, TOKENS, BATCH = 4, 8, 2
ADAPTERS = LAYERS * RANK * sum(a + b for a, b in PRODUCTS)
PEAK = 1e11
HARDWARE = {
    "hardware_id": _machine.hardware_id("cpu"), "name": "this machine", "kind": "cpu", "memory_bytes": 1e10,
    "memory_bandwidth_bytes_per_s": 1e10, "peak_fp32_flops_per_s": PEAK, "vector_fp32_flops_per_s": PEAK,
    "source": "round numbers", "source_date": "2026-11-21",
}  # fmt: skip
SETTINGS = {
    "hardware_row": HARDWARE,
    "input_tokens": TOKENS,
    "batch_size": BATCH,
    "warmup_steps": 1,
    "steps": 3,
    "device": "cpu",
    "lora_rank": RANK,
}


@pytest.fixture(scope="module", autouse=True)
def apart(tmp_path_factory):
    """A lock of the module's own: no measurement elsewhere on this machine holds it up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("locks")))
        yield


def train(landing, checkpoint, **options):
    lines = []
    collected = training_step.collect(landing, report=lines.append, checkpoint=checkpoint, **SETTINGS | options)
    return collected, lines


def cell(folder, config=LLAMA, **changes):
    """A cell to build in this process."""
    settings = {
        "target": engine.from_checkpoint(bare(folder, config)), "phase": "pretrain_step", "batch_size": BATCH,
        "input_tokens": TOKENS, "dtype": "fp32", "optimizer_dtype": "fp32", "attention": "eager", "optimizations": (),
        "num_micro_batches": 1, "lora_rank": None, "num_ranks": 1, "device": "cpu",
    }  # fmt: skip
    return _trainer.Cell(**settings | changes)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One rank: naive, recomputed, and with adapters in two micro-batches; the rows by their optimizations."""
    folder = tmp_path_factory.mktemp("single")
    landing, checkpoint = folder / "landing", bare(folder, LLAMA)
    train(landing, checkpoint, runs=1, optimizations=["none", "recompute"])
    train(
        landing,
        checkpoint,
        runs=1,
        phase="finetune_step",
        optimizations="lora+recompute",
        num_micro_batches=2,
        energy=True,
        kernels=True,
    )
    rows = {tuple(run["optimizations"]): run for run in landed(landing, "runs")}
    return landing, checkpoint, rows


def test_adapters_train_in_a_fine_tuning_step(tmp_path):
    landing, checkpoint = tmp_path / "landing", bare(tmp_path, LLAMA)
    train(landing, checkpoint, runs=1, optimizations="lora")
    assert [run["phase"] for run in landed(landing, "runs")] == ["finetune_step"]
    collected, lines = train(landing, checkpoint, runs=1, phase="pretrain_step", optimizations="lora")
    assert collected.num_runs == 0
    assert "adapters train in a finetune_step (--phase finetune_step); left out." in " ".join(lines)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Two ranks over gloo: replicas and shards."""
    folder = tmp_path_factory.mktemp("several")
    train(
        folder / "landing",
        bare(folder, LLAMA),
        runs=1,
        ranks=2,
        optimizations=["ddp", "zero3"],
        modules=False,
        kernels=True,
    )
    rows = {tuple(run["optimizations"]): run for run in landed(folder / "landing", "runs")}
    return folder / "landing", rows


def test_parts_of_a_step_add_up_to_no_more_than_the_step(single):
    landing, _, rows = single
    assert {run["status"] for run in rows.values()} == {"ok"}
    for run in rows.values():
        parts = run["forward_s"] + run["backward_s"] + run["optimizer_s"]
        assert 0 < parts <= run["latency_s"]
        assert run["num_samples"] == 3
        assert run["total_tokens_per_s"] == pytest.approx(BATCH * TOKENS / run["latency_s"])
        assert run["config_id"] == schema.config_id(run)
        assert set(dict(run["metric_definitions"]).values()) <= set(metrics.DEFINITIONS)
    samples = landed(landing, "samples")
    for run in rows.values():
        for name in ("latency_s", "forward_s", "backward_s", "optimizer_s"):
            values = [one for one in samples if (one["run_id"], one["metric"]) == (run["run_id"], name)]
            assert [one["sample_phase"] for one in values] == ["warmup"] + ["measured"] * 3
            assert run[name] == pytest.approx(sum(one["value"] for one in values[1:]) / 3)


def test_what_a_step_holds_is_what_counting_says(single):
    _, _, rows = single
    run = rows[()]
    assert run["weights_bytes"] == run["gradients_bytes"] == 4 * PARAMETERS
    assert run["optimizer_bytes"] == 8 * PARAMETERS + 4 * TENSORS  # two states, and AdamW's count of steps
    adapted = rows["lora", "recompute"]
    assert adapted["weights_bytes"] == 4 * (PARAMETERS + ADAPTERS)
    assert adapted["gradients_bytes"] == 4 * ADAPTERS
    assert adapted["optimizer_bytes"] == 8 * ADAPTERS + 4 * 2 * LAYERS * len(PRODUCTS)
    assert adapted["lora_rank"] == RANK
    assert rows["recompute",]["activation_peak_bytes"] < run["activation_peak_bytes"]
    assert (run["num_micro_batches"], adapted["num_micro_batches"]) == (None, 2)


def test_model_flops_are_three_forward_passes_whatever_is_recomputed(single):
    _, _, rows = single
    weights = LAYERS * sum(a * b for a, b in PRODUCTS) + HIDDEN * VOCABULARY
    forward = 2 * TOKENS * (weights + LAYERS * 2 * TOKENS * HIDDEN)
    assert {rows[key]["flops"] for key in [(), ("recompute",)]} == {3 * BATCH * forward}
    for run in rows.values():
        assert run["achieved_flops_per_s"] == pytest.approx(run["flops"] / run["latency_s"])
        assert run["mfu"] == pytest.approx(run["achieved_flops_per_s"] / PEAK)


def test_recomputation_executes_more_than_the_model_flops(tmp_path):
    executed = {}
    for names in ((), ("recompute",)):
        trainer = _trainer.Trainer(cell(tmp_path, optimizations=names))
        with FlopCounterMode(display=False) as counter:
            trainer.step()
        executed[names] = counter.get_total_flops()
    assert executed[()] == BATCH * _trainer.plan(cell(tmp_path)).flops
    assert executed["recompute",] > executed[()]


@pytest.mark.parametrize("config", [LLAMA, GPT2, T5], ids=lambda config: config["model_type"])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(tmp_path, config):
    updated = []
    for count in (1, 2):
        torch.manual_seed(0)
        trainer = _trainer.Trainer(cell(tmp_path, config, num_micro_batches=count))
        parameters = list(trainer._model.parameters())
        before = [one.detach().clone() for one in parameters]
        trainer._optimizer = torch.optim.SGD(parameters, lr=1.0)
        trainer.step()
        updated.append([old - new.detach() for old, new in zip(before, parameters, strict=True)])
    assert any(one.abs().max() > 1e-3 for one in updated[0])
    for once, twice in zip(*updated, strict=True):
        assert torch.allclose(once, twice, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("config", [LLAMA, GPT2, T5], ids=lambda config: config["model_type"])
def test_only_adapters_are_trained_and_every_product_of_attention_and_mlp_has_one(tmp_path, config):
    trainer = _trainer.Trainer(cell(tmp_path, config, optimizations=("lora",), lora_rank=RANK))
    model = trainer._model
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    trainer.step()
    trainer.step()  # A has no gradient while B is zero
    for name, one in model.named_parameters():
        assert torch.equal(one, before[name]) == (".lora_" not in name), name
        assert one.requires_grad == (".lora_" in name)
    assert set(trainer._adapted.values()) <= {
        "q_proj",
        "k_proj",
        "v_proj",
        "qkv_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    products = {"llama": 7 * LAYERS, "gpt2": 4 * 2, "t5": 2 * (4 + 2) + 2 * (8 + 2)}[config["model_type"]]
    assert len(trainer._adapted) == products


def test_wider_states_keep_master_weights(tmp_path):
    trainer = _trainer.Trainer(cell(tmp_path, dtype="bf16"))
    before = [one.detach().clone() for one in trainer._model.parameters()]
    for _ in range(3):
        trainer.step()
    held = trainer.held()
    assert held["weights_bytes"] == held["gradients_bytes"] == 2 * PARAMETERS
    assert held["optimizer_bytes"] == 12 * PARAMETERS + 4 * TENSORS
    kernels = trainer.kernels("run", 0, is_profiled=True).rows
    copied = [op for op in kernels if op["path"] == "aten::copy_" and op["phase"] == "optimizer"]
    assert sum(op["count"] for op in copied) >= 2 * TENSORS  # gradients to the masters, and these back
    for one, master in zip(trainer._model.parameters(), trainer._optimizer.masters, strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, master.bfloat16())
    assert any(not torch.equal(a, b) for a, b in zip(trainer._model.parameters(), before, strict=True))


def test_modules_of_every_phase_nest_and_their_leaves_add_up(single):
    landing, _, rows = single
    run = rows["lora", "recompute"]
    ops = [op for op in landed(landing, "ops") if op["run_id"] == run["run_id"] and op["level"] != "kernel"]
    assert {op["phase"] for op in ops} == {"forward", "recompute", "backward", "optimizer"}
    parents = {(op["phase"], op["parent_path"]) for op in ops}
    leaves = [op for op in ops if (op["phase"], op["path"]) not in parents]
    assert sum(op["time_s"] * op["count"] for op in leaves) == pytest.approx(run["ops_time_s"])
    assert run["hooks_overhead_ratio"] > 0
    kinds = {op["path"]: op["op_kind"] for op in ops if op["phase"] == "forward"}
    assert kinds["model.layers.1.self_attn.q_proj.base"] == "q_proj"
    assert kinds["model.layers.1.mlp.down_proj"] == "down_proj"


def test_kernels_of_a_step_are_rows_beside_its_modules(single, several):
    landing, _, rows = single
    run = rows["lora", "recompute"]
    ops = [op for op in landed(landing, "ops") if op["run_id"] == run["run_id"]]
    kernels = [op for op in ops if op["level"] == "kernel"]
    assert {op["phase"] for op in kernels} == {"forward", "backward", "optimizer"}
    assert "aten::mm" in {op["path"].rpartition("/")[2] for op in kernels}
    assert [op["op_index"] for op in ops] == list(range(len(ops)))
    assert run["profiler_overhead_ratio"] > 0
    assert run["is_host_bound"] is None  # no device, no kernel time
    assert rows[()]["profiler_overhead_ratio"] is None
    landing, rows = several
    for run in rows.values():
        assert "ops are those of rank 0" in run["status_detail"]
        assert any(op["run_id"] == run["run_id"] for op in landed(landing, "ops"))


def test_energy_is_known_or_the_reason_why_not(single):
    run = single[2]["lora", "recompute"]
    assert (run["energy_j"] is None) == ("energy:" in (run["status_detail"] or ""))
    per_token = None if run["energy_j"] is None else pytest.approx(run["energy_j"] / (BATCH * TOKENS))
    assert run["energy_per_token_j"] == per_token
    assert all(other["energy_j"] is None for other in single[2].values() if other is not run)


def test_replicas_hold_everything_and_shards_their_part(several):
    landing, rows = several
    assert {run["status"] for run in rows.values()} == {"ok"}, [run["status_detail"] for run in rows.values()]
    for run in rows.values():
        assert (run["num_devices"], run["data_parallel"], run["tensor_parallel"]) == (2, 2, 1)
        assert run["total_tokens_per_s"] == pytest.approx(2 * BATCH * TOKENS / run["latency_s"])
        assert run["forward_s"] + run["backward_s"] + run["optimizer_s"] <= run["latency_s"]
        ranks = [one for one in landed(landing, "ranks") if one["run_id"] == run["run_id"]]
        assert [one["rank"] for one in ranks] == [0, 1]
        assert all(one["latency_s"] > 0 and one["device_index"] is None for one in ranks)
        assert run["memory_peak_bytes"] == max(one["memory_peak_bytes"] for one in ranks)
        share = 2 if run["optimizations"] else 1
        assert sum(one["weights_bytes"] for one in ranks) == 2 * 4 * PARAMETERS / share
        assert run["latency_s"] >= max(one["latency_s"] for one in ranks) * (1 - 1e-9)
        assert run["flops"] > 0
        assert (run["mfu"], run["mfu_achievable"]) == (None, None)
        assert "no MFU: 2 ranks share one CPU" in run["status_detail"]
    replicas, shards = rows[()], rows["zero3",]
    assert replicas["flops"] == shards["flops"]
    assert replicas["communication_s"] is None or 0 < replicas["communication_s"] < replicas["latency_s"]
    assert shards["communication_s"] is None
    assert "communication" in shards["status_detail"]


def test_a_step_is_that_of_its_slowest_rank_with_its_parts_and_the_processor_time_of_all():
    phases = ("warmup", "measured", "measured")
    walls = [(4.0, 1.0, 3.0), (5.0, 2.0, 2.0)]
    by_rank = [
        (
            tuple(_timing.Sample(phase, 0.0, wall, 0.5, None) for phase, wall in zip(phases, one, strict=True)),
            [(wall / 2, wall / 4, wall / 8) for wall in one],
        )
        for one in walls
    ]
    timing, splits = _trainer.slowest(by_rank)
    assert [one.phase for one in timing.samples] == list(phases)
    assert [one.wall_s for one in timing.samples] == [5.0, 2.0, 3.0]
    assert [one.cpu_s for one in timing.samples] == [1.0, 1.0, 1.0]
    assert splits == [(2.5, 1.25, 0.625), (1.0, 0.5, 0.25), (1.5, 0.75, 0.375)]


def test_every_row_has_an_analytical_twin(single, several, tmp_path):
    rows = [*single[2].values(), *several[1].values()]
    names = (*schema.CONFIGURATION_NAMES, "execution")
    fields = pa.schema([schema.RUNS.arrow.field(name) for name in names])
    configs = pa.Table.from_pylist([{name: run[name] for name in names} for run in rows], schema=fields)
    lines = []
    roofline.twins(
        configs,
        tmp_path,
        report=lines.append,
        hardware_rows=[HARDWARE],
        llm_rows=landed(single[0], "llms")[:1],
    )
    twins = {run["config_id"]: run for run in landed(tmp_path, "runs")}
    assert set(twins) == {run["config_id"] for run in rows}, lines
    for run in rows:
        twin = twins[run["config_id"]]
        assert twin["status"] == "ok"
        assert run["weights_bytes"] == pytest.approx(twin["weights_bytes"])
        assert run["gradients_bytes"] == pytest.approx(twin["gradients_bytes"])
        assert run["optimizer_bytes"] == pytest.approx(twin["optimizer_bytes"], rel=0.01)
        assert 0.5 < run["flops"] / twin["flops"] <= 1


@pytest.mark.parametrize("llm_id", ["gpt2", "opt-125m"])
def test_a_catalogue_llm_holds_what_its_twin_says(tmp_path, llm_id):
    changes = {
        "target": engine.catalogued(llm_id),
        "phase": "finetune_step",
        "optimizations": ("lora",),
        "lora_rank": 64,
    }
    one = cell(tmp_path, **changes)
    plan = _trainer.plan(replace(one, attention=None))
    config = {
        "llm_id": llm_id, "hardware_id": "t4", "phase": one.phase, "batch_size": 1, "input_tokens": TOKENS, "weight_dtype": "fp32",
        "activation_dtype": "fp32", "optimizer_dtype": "fp32", "attention": plan.attention, "optimizations": ["lora"], "lora_rank": 64,
    }  # fmt: skip
    totals = evaluate(pa.Table.from_pylist([config]), with_ops=False)[0].to_pylist()[0]
    held = totals["weights_bytes"] + totals["gradients_bytes"] + totals["optimizer_bytes"]
    assert plan.held_bytes == pytest.approx(held)
    assert plan.flops == pytest.approx(totals["flops"], rel=0.1)  # which counts element-wise work too


def test_three_runs_of_a_cut_llm_are_one_group_and_a_budget_cuts_steps_not_silently(tmp_path):
    landing = tmp_path / "landing"
    collected, _ = train(landing, bare(tmp_path, LLAMA), layers=1, steps=10**6, modules=False, budget_s=4)
    runs = landed(landing, "runs")
    assert (collected.num_runs, len(landed(landing, "llms"))) == (3, 1)
    assert len({run["repeat_group_id"] for run in runs}) == 1
    assert {run["llm_id"] for run in runs} == {landed(landing, "llms")[0]["llm_id"]}
    assert runs[0]["llm_id"].endswith("-1-layers")
    for run in runs:
        assert (run["status"], run["quality_tier"]) == ("ok", 3)
        assert 3 <= run["num_samples"] < 10**6
        assert f"{run['num_samples']} measured steps of 1 and 1000000: the budget" in run["status_detail"]


def test_what_is_measured_is_skipped(single):
    landing, checkpoint, _ = single
    collected, lines = train(landing, checkpoint, runs=1, optimizations=["none", "recompute"])
    assert collected.num_runs == 0
    assert sum("measured already" in line for line in lines) == 2


def kill_one(count, killed):
    """End one of this process's workers with SIGKILL as soon as there are `count`."""
    while len(workers := multiprocessing.active_children()) < count:
        time.sleep(0.01)
    killed.append(workers[-1].pid)
    os.kill(workers[-1].pid, signal.SIGKILL)


def test_a_killed_rank_and_a_run_without_end_are_rows_and_the_sweep_goes_on(tmp_path):
    killed = []
    killer = threading.Thread(target=kill_one, args=(2, killed), daemon=True)
    killer.start()
    landing = tmp_path / "landing"
    collected, _ = train(landing, bare(tmp_path, LLAMA), ranks=[2, 1], steps=10**6, cell_limit_s=2)
    killer.join(10)
    assert len(killed) == 1
    assert (collected.num_runs, collected.num_failed) == (2, 2)
    outcomes = {run["num_devices"]: (run["status"], run["status_detail"]) for run in landed(landing, "runs")}
    assert outcomes[2][0] == "oom"
    assert "SIGKILL" in outcomes[2][1]
    assert outcomes[1][0] == "timeout"
    assert {run["num_devices"]: run["duration_s"] for run in landed(landing, "runs")} == {1: 2.0, 2: None}
    again, _ = train(landing, str(tmp_path / "tiny"), steps=10**6, cell_limit_s=2)
    longer, _ = train(landing, str(tmp_path / "tiny"), steps=10**6, cell_limit_s=2.5)
    assert (again.num_runs, longer.num_runs) == (0, 1)
    assert multiprocessing.active_children() == []


def test_what_cannot_run_here_is_a_row_with_its_reason(tmp_path):
    landing = tmp_path / "landing"
    train(landing, bare(tmp_path, LLAMA), phase="finetune_step", optimizations=["qlora", "flash", "lora+offload"])
    rows = {tuple(run["optimizations"]): run for run in landed(landing, "runs")}
    assert {run["status"] for run in rows.values()} == {"unsupported"}
    assert "bitsandbytes" in rows["qlora",]["status_detail"]
    assert rows["qlora",]["weight_dtype"] == "nf4"
    assert "FlashAttention" in rows["flash",]["status_detail"]
    assert rows["flash",]["attention"] == "flash"


def test_memory_that_no_run_can_have_is_a_row(tmp_path):
    landing = tmp_path / "landing"
    train(landing, bare(tmp_path, LLAMA | {"vocab_size": 10**12}))
    (run,) = landed(landing, "runs")
    assert (run["status"], run["latency_s"]) == ("oom", None)
    assert "not tried" in run["status_detail"]


def test_what_is_no_training_step_is_said_and_is_no_row(tmp_path):
    folder = bare(tmp_path, GPT2)
    options = {"batch_size": 1, "num_micro_batches": 2, "input_tokens": [8, 65]}
    collected, lines = train(tmp_path / "landing", folder, **options)
    assert collected.num_runs == 0
    assert any("2 micro-batches do not divide a batch of 1; left out" in line for line in lines)
    assert any("65 tokens exceed its context of 64; left out" in line for line in lines)
    _, lines = train(tmp_path / "landing", folder, optimizations="zero3")
    assert any("zero3 shards over several ranks" in line for line in lines)
    _, lines = train(tmp_path / "landing", folder, budget_s=1e-9)
    assert any("left of the budget. Left out." in line for line in lines)


def test_an_encoder_is_trained_to_fill_in_tokens(tmp_path):
    one = cell(tmp_path, BERT)
    assert _trainer.plan(one).note is None
    assert _trainer.plan(one).flops > 0
    trainer = _trainer.Trainer(one)
    trainer.step()
    assert all(part > 0 for part in trainer.splits()[0])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            {"phase": "forward"},
            "'forward' is not a phase that can be measured here. Known: pretrain_step, finetune_step.",
        ),
        (
            {"optimizations": "fast"},
            "'fast' is not an optimization that can be measured here. Known: none, recompute, lora",
        ),
        ({"dtype": "fp8"}, "'fp8' is not a dtype"),
        ({"steps": 0}, "from 1 on"),
        ({"cell_limit_s": -2.0}, "cell_limit_s is a number of seconds above 0, not -2"),
        ({"budget_s": math.nan}, "budget_s is a number of seconds above 0, not nan"),
        ({"llm_id": "gpt2"}, "Give either llm_id or checkpoint"),
    ],
)
def test_unknown_options_name_the_known_ones(tmp_path, option, said):
    with pytest.raises(ValueError, match=r"Known|from 1 on|either|seconds") as raised:
        train(tmp_path / "landing", bare(tmp_path, LLAMA), **option)
    assert said in str(raised.value)


def test_the_command_line_has_every_option_of_collect():
    parser = argparse.ArgumentParser()
    training_step.add_arguments(parser)
    options = vars(parser.parse_args([]))
    keywords = set(inspect.signature(training_step.collect).parameters)
    assert set(options) == keywords - {"landing", "report", "hardware_row", "ceiling_row", "skip"}
