"""Tiny LLMs measured for real: the numbers that can be worked out by hand, what lands, and what fails how."""

import argparse
import functools
import itertools
import json
import multiprocessing.util
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from landed_rows import landed
from tiny_llms import BERT, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, LLAMA, T5, VOCABULARY, bare

psutil = pytest.importorskip("psutil")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from collectors import _machine, _plan, _steps, local_profile  # noqa: E402
from collectors import _transformers as engine  # noqa: E402
from collectors.local_profile import _cells, _measure  # noqa: E402
from warehouse import catalog, metrics, parquet, schema  # noqa: E402

BART = {
    "model_type": "bart", "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 256,
    "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick_and_apart(tmp_path, monkeypatch):
    """Few repeats, and a lock of the test's own: no measurement elsewhere on this machine holds it up."""
    multiprocessing.util.get_temp_dir()  # where workers are started from outlives a test
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(local_profile, "DEFAULT_RUN_S", 0.05)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A checkpoint folder as save_pretrained writes it, with weights."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-llama"
    keys = {name: value for name, value in LLAMA.items() if name != "model_type"}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**keys)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, llama):
    """A landing folder: that checkpoint in every phase but generate, batch 1 and 2."""
    folder = tmp_path_factory.mktemp("swept")
    multiprocessing.util.get_temp_dir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        monkeypatch.setattr(local_profile, "DEFAULT_RUN_S", 0.05)
        collected, _ = measure(folder / "landing", llama, batch_size=[1, 2])
    assert (collected.num_runs, collected.num_failed) == (6, 0)
    return folder / "landing"


@functools.cache
def roofs():
    """This machine's row of hardware, measured once."""
    return _machine.hardware_row("cpu")


def with_roofs(landing):
    """A landing folder that knows this machine's roofs already: a new process need not measure them."""
    parquet.write("hardware", [roofs()], landing / "hardware" / "known.parquet")
    return landing


def measure(landing, checkpoint, **options):
    lines = []
    settings = {"input_tokens": 8, "device": "cpu", "hardware_row": roofs()} | options
    collected = local_profile.collect(landing, report=lines.append, checkpoint=checkpoint, **settings)
    return collected, lines


def llama_flops(tokens, context, head_tokens):
    """2 per multiply-add: projections, full tokens x context attention, gated feed-forward, head."""
    head_dim = HIDDEN // HEADS
    projections = HIDDEN * (2 * HIDDEN + 2 * KV_HEADS * head_dim)
    layer = tokens * (projections + 3 * HIDDEN * INNER) + 2 * tokens * context * HIDDEN
    return 2.0 * (LAYERS * layer + head_tokens * HIDDEN * VOCABULARY)


def test_a_checkpoint_folder_is_measured_in_every_phase(swept):
    runs = landed(swept, "runs")
    assert len(runs) == 6
    by_shape = {(run["phase"], run["batch_size"]): run for run in runs}
    assert set(by_shape) == set(itertools.product(("forward", "prefill", "decode"), (1, 2)))
    flops = {"forward": llama_flops(8, 8, 8), "prefill": llama_flops(8, 8, 1), "decode": llama_flops(1, 8, 1)}
    kv_bytes = 2 * LAYERS * KV_HEADS * (HIDDEN // HEADS) * 4 * 8
    parameters = (
        2 * VOCABULARY * HIDDEN + LAYERS * (HIDDEN * (2 * HIDDEN + 64) + 3 * HIDDEN * INNER + 2 * HIDDEN) + HIDDEN
    )
    hardware = roofs()
    peak, bandwidth = hardware["peak_fp32_flops_per_s"], hardware["memory_bandwidth_bytes_per_s"]
    for (phase, batch), run in by_shape.items():
        assert run["status"] == "ok"
        assert run["flops"] == flops[phase] * batch
        assert run["weights_bytes"] == 4 * parameters
        assert run["kv_cache_bytes"] == (None if phase == "forward" else kv_bytes * batch)
        assert run["achieved_flops_per_s"] == pytest.approx(run["flops"] / run["latency_s"])
        assert run["mfu"] == pytest.approx(run["achieved_flops_per_s"] / peak)
        assert (run["input_tokens"], run["context_tokens"]) == ((None, 8) if phase == "decode" else (8, None))
        assert run["output_tokens"] is None
        assert run["config_id"] == schema.config_id(run)
        read = (
            4 * (parameters - (VOCABULARY - batch) * HIDDEN) + kv_bytes * batch
        )  # of the input table a row a sequence
        expected = pytest.approx(read / (run["latency_s"] * bandwidth), rel=5e-3) if phase == "decode" else None
        assert run["mbu"] == expected
        assert run["mfu_achievable"] is run["mbu_achievable"] is None
        assert 0.0 <= run["other_load_ratio"] < 1.5
        assert ("other processes" in (run["status_detail"] or "")) == (
            run["other_load_ratio"] > schema.QUIET_LOAD_RATIO
        )
        assert run["attention"] == "sdpa"
        assert run["num_samples"] >= _measure.MIN_REPEATS
        assert run["quality_tier"] == (3 if run["num_samples"] >= 5 else 2)
        assert set(dict(run["metric_definitions"]).values()) <= set(metrics.DEFINITIONS)
        assert swept.parent.name not in json.dumps(run, default=str)
    assert by_shape["decode", 2]["output_tokens_per_s"] == pytest.approx(2 / by_shape["decode", 2]["latency_s"])


def test_a_catalogue_llm_is_built_from_its_true_config(tmp_path):
    landing = tmp_path / "landing"
    local_profile.collect(
        landing, llm_id="t5-small", phase="decode", input_tokens=8, device="cpu", hardware_row=roofs()
    )
    (run,) = landed(landing, "runs")
    assert (run["llm_id"], run["status"], run["task"]) == ("t5-small", "ok", "generation")
    assert run["weights_bytes"] == 4 * catalog.find_llm("t5-small").num_parameters
    assert run["memory_peak_bytes"] > run["weights_bytes"]
    assert not landed(landing, "llms")


def test_raw_samples_land_with_their_phase_and_agree_with_the_run(swept):
    landing = swept
    run = next(run for run in landed(landing, "runs") if (run["phase"], run["batch_size"]) == ("forward", 1))
    samples = [
        row for row in landed(landing, "samples") if (row["run_id"], row["metric"]) == (run["run_id"], "latency_s")
    ]
    phases = [row["sample_phase"] for row in samples]
    values = [row["value"] for row in samples if row["sample_phase"] == "measured"]
    assert phases[0] == "warmup"
    assert phases == ["warmup"] * (len(phases) - len(values)) + ["measured"] * run["num_samples"]
    assert run["latency_s"] == pytest.approx(sum(values) / len(values))
    assert run["environment_id"] == landed(landing, "environments")[0]["environment_id"]
    assert run["source_id"] == landed(landing, "sources")[0]["source_id"] == "rooflake/local_profile"
    llm = landed(landing, "llms")[0]
    assert run["llm_id"] == llm["llm_id"]
    assert (llm["hidden_size"], llm["num_kv_heads"]) == (HIDDEN, KV_HEADS)


@pytest.mark.parametrize("config", [LLAMA, T5, BART, BERT], ids=lambda config: config["model_type"])
def test_modules_nest_and_their_leaves_add_up(tmp_path, config):
    landing = tmp_path / "landing"
    measure(landing, bare(tmp_path, config), phase="forward", budget_s=20)
    (run,) = landed(landing, "runs")
    ops = landed(landing, "ops")
    assert [op["op_index"] for op in ops] == list(range(len(ops)))
    paths = {op["path"] for op in ops}
    (root,) = (op for op in ops if op["parent_path"] is None)
    assert root["op_kind"] == "model"
    assert all(op["parent_path"] in paths for op in ops if op is not root)
    parents = {op["parent_path"] for op in ops}
    leaves = [op for op in ops if op["path"] not in parents]
    assert sum(op["time_s"] * op["count"] for op in leaves) == pytest.approx(root["time_s"], rel=1e-6)
    assert sum(op["flops"] * op["count"] for op in leaves if op["flops"] is not None) == pytest.approx(run["flops"])
    assert {op["layer_index"] for op in ops} == {None, 0, 1}
    kinds = {op["op_kind"] for op in leaves}
    assert {"embedding", "norm", "q_proj", "k_proj", "v_proj", "o_proj", "attention", "up_proj", "down_proj"} <= kinds
    assert {"layer", "attention"} <= {op["op_kind"] for op in ops if op["path"] in parents}
    assert run["hooks_overhead_ratio"] > 0
    assert run["profiler_overhead_ratio"] is None


def test_a_linear_layer_carries_its_shape(swept):
    run = next(run for run in landed(swept, "runs") if (run["phase"], run["batch_size"]) == ("forward", 2))
    ops = {op["path"]: op for op in landed(swept, "ops") if op["run_id"] == run["run_id"]}
    down = ops["model.layers.1.mlp.down_proj"]
    assert (down["m"], down["n"], down["k"], down["layer_index"]) == (16, HIDDEN, INNER, 1)
    assert down["flops"] == 2 * 16 * HIDDEN * INNER
    scores_and_values = ops["model.layers.0.self_attn.(self)"]
    assert scores_and_values["op_kind"] == "attention"
    assert scores_and_values["flops"] == 2 * 2 * 2 * 8 * 8 * HIDDEN


@pytest.mark.parametrize("config", [T5, BART], ids=lambda config: config["model_type"])
def test_an_encoder_decoder_takes_its_lengths_from_the_task(tmp_path, config):
    landing = tmp_path / "landing"
    measure(landing, bare(tmp_path, config), task=["summarization", "translation"], input_tokens=16)
    shapes = {
        (run["task"], run["phase"]): (run["input_tokens"], run["output_tokens"], run["context_tokens"])
        for run in landed(landing, "runs")
    }
    assert shapes == {
        ("summarization", "forward"): (16, 4, None),
        ("summarization", "prefill"): (16, None, None),
        ("summarization", "decode"): (16, None, 4),
        ("translation", "forward"): (16, 16, None),
        ("translation", "prefill"): (16, None, None),
        ("translation", "decode"): (16, None, 16),
    }
    decode = next(run for run in landed(landing, "runs") if (run["task"], run["phase"]) == ("summarization", "decode"))
    assert decode["kv_cache_bytes"] == 2 * 2 * 64 * 4 * (
        4 + 16
    )  # keys and values, layers, width, bytes, own and encoder's


@pytest.mark.parametrize("config", [LLAMA, T5], ids=lambda config: config["model_type"])
def test_every_decode_step_sees_the_same_context(tmp_path, config):
    target = engine.from_checkpoint(bare(tmp_path, config))
    model = engine.build(target, "fp32", None, "cpu")
    case = _steps.Case("decode", "generation", 2, None if config is LLAMA else 6, None, 8)
    with torch.inference_mode():
        step = _steps.make_step(model, case, "cpu")
        lengths, logits = [], []
        for _ in range(3):
            step.prepare()
            output = step.call()
            lengths.append(output.past_key_values.get_seq_length())
            logits.append(output.logits)
    assert lengths == [8, 8, 8]
    assert logits[0].shape == (2, 1, VOCABULARY)
    assert torch.equal(logits[0], logits[2])


def test_random_weights_are_finite_and_not_zero(tmp_path):
    model = engine.build(engine.from_checkpoint(bare(tmp_path, BERT)), "bf16", "eager", "cpu")
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.dtype == torch.bfloat16
        if parameter.ndim > 1:
            assert 0.01 < parameter.float().std() < 0.03, name
    assert model.embeddings.position_ids.tolist() == [list(range(32))]


def test_real_weights_are_loaded(llama):
    loaded = engine.build(engine.from_checkpoint(llama), "fp32", None, "cpu")
    saved = transformers.LlamaForCausalLM.from_pretrained(llama)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), saved.parameters(), strict=True))


def test_a_known_name_with_other_shapes_is_another_llm(tmp_path):
    target = engine.from_checkpoint(bare(tmp_path, LLAMA, name="gpt2"))
    assert not target.is_catalogued
    assert target.llm.llm_id.startswith("gpt2-")
    published = dict(catalog.find_llm("gpt2").config)
    assert engine.from_checkpoint(bare(tmp_path, published, name="GPT2")).llm.llm_id == "gpt2"


def test_what_a_model_cannot_do_is_a_row(tmp_path):
    landing = tmp_path / "landing"
    options = {"input_tokens": [8, 33], "phase": ["forward", "prefill", "decode", "generate"]}
    collected, _ = measure(landing, bare(tmp_path, BERT), **options)
    assert (collected.num_runs, collected.num_failed) == (8, 7)
    said = {(run["phase"], run["input_tokens"] or run["context_tokens"]): run for run in landed(landing, "runs")}
    assert said["forward", 8]["status"] == "ok"
    assert said["forward", 33]["status_detail"] == "33 tokens exceed its 32 learned positions"
    for phase in ("prefill", "decode", "generate"):
        assert said[phase, 8]["status_detail"] == f"an encoder has no {phase}"
    assert {run["status"] for key, run in said.items() if key != ("forward", 8)} == {"unsupported"}
    collected, lines = measure(landing, str(tmp_path / "tiny"), **options)
    assert collected.num_runs == 0
    assert any("8 of 8 are measured already" in line for line in lines)


def test_what_is_too_large_or_too_slow_by_its_closed_form_is_a_row_that_was_not_run(tmp_path):
    landing = tmp_path / "landing"
    options = {"phase": "forward", "batch_size": [1000, 10**13], "cell_limit_s": 1e-4, "layers": False}
    measure(landing, bare(tmp_path, LLAMA), **options)
    slow, large = sorted(landed(landing, "runs"), key=lambda run: run["batch_size"])
    assert (large["status"], slow["status"]) == ("oom", "timeout")
    assert slow["status_detail"].startswith("not started: an execution takes at least ")
    assert slow["status_detail"].endswith("4 of them exceed the limit of 0.0001 s")
    # what the allocator refused stays; a bound is reckoned again: refused again it is said and lands no second row, else it runs
    collected, lines = measure(landing, str(tmp_path / "tiny"), **options)
    assert collected.num_runs == 0
    assert any("1 of 2 are measured already" in line for line in lines)
    assert sum("timeout: not started" in line for line in lines) == 1
    collected, _ = measure(landing, str(tmp_path / "tiny"), **options | {"cell_limit_s": 600.0})
    assert (collected.num_runs, collected.num_failed) == (1, 0)


def test_memory_that_cannot_be_had_is_a_row(tmp_path):
    landing = tmp_path / "landing"
    collected, _ = measure(landing, bare(tmp_path, LLAMA | {"vocab_size": 10**12}), phase=["forward", "decode"])
    runs = landed(landing, "runs")
    assert (collected.num_runs, collected.num_failed) == (2, 2)
    assert [run["status"] for run in runs] == ["oom", "oom"]
    assert all("can't allocate memory" in run["status_detail"] for run in runs)
    assert all(run["latency_s"] is None for run in runs)


def test_an_attention_that_is_not_installed_is_a_row(tmp_path):
    landing = tmp_path / "landing"
    measure(landing, bare(tmp_path, LLAMA), phase="forward", attention="flash")
    (run,) = landed(landing, "runs")
    assert (run["status"], run["attention"]) == ("unsupported", "flash")
    assert "FlashAttention" in run["status_detail"]


def test_a_spent_budget_leaves_out_and_says_so(tmp_path):
    collected, lines = measure(tmp_path / "landing", bare(tmp_path, LLAMA), budget_s=1e-9)
    assert collected.num_runs == 0
    assert any("the budget is spent; 3 of 3 left out" in line for line in lines)


def test_what_is_measured_already_is_skipped_and_the_device_keeps_its_row(tmp_path):
    landing, folder = tmp_path / "landing", bare(tmp_path, LLAMA)
    measure(landing, folder, phase=["forward", "decode"], hardware_row=None)
    elsewhere = tmp_path / "elsewhere"
    measure(elsewhere, folder, skip={run["repeat_group_id"] for run in landed(landing, "runs")})
    assert [run["phase"] for run in landed(elsewhere, "runs")] == ["prefill"]
    collected, lines = measure(landing, folder, hardware_row=None)
    assert collected.num_runs == 1
    assert any("2 of 3 are measured already" in line for line in lines)
    # the first call's two runs; the second reuses the row
    assert len(list((landing / "hardware").glob("*.parquet"))) == 2
    assert len({row["peak_fp32_flops_per_s"] for row in landed(landing, "hardware")}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm_id": "opt-9000"}, "'opt-9000' is not in the LLM catalogue. Known: .*Add it in"),
        ({"phase": "training"}, "'training' is not a phase that can be measured here. Known: forward, prefill, decode"),
        ({"task": "poetry"}, "'poetry' is not a task .* Known: summarization, translation"),
        ({"dtype": "int3"}, "'int3' is not a dtype .* Known: fp32, bf16, fp16, int8"),
        ({"execution": "engine"}, "'engine' is not an execution .* Known: eager, compiled, graph"),
        ({"cache": "paged"}, "'paged' is not a cache .* Known: dynamic, static"),
        ({"cell_limit_s": 0}, "cell_limit_s is a number of seconds above 0, not 0"),
        ({"budget_s": float("nan")}, "budget_s is a number of seconds above 0, not nan"),
        ({"batch_size": 0}, "whole numbers from 1 on"),
        ({"phase": "decode", "input_tokens": 1}, "at least 2 tokens"),
        ({"hardware_row": {"hardware_id": "abacus"}}, "row is of 'abacus', and this machine is"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(tmp_path, options, message):
    with pytest.raises((LookupError, ValueError), match=message):
        local_profile.collect(tmp_path / "landing", **options)
    assert not (tmp_path / "landing").exists()


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json: not a checkpoint folder"):
        measure(tmp_path / "landing", str(tmp_path))


def test_the_stored_command_asks_for_the_same_run(tmp_path):
    landing = tmp_path / "landing"
    measure(landing, bare(tmp_path, T5), phase="forward", task="summarization", batch_size=2, input_tokens=12)
    (run,) = landed(landing, "runs")
    words = shlex.split(run["command"])
    assert words[:4] == ["python", "-m", "collectors", "local_profile"]
    parser = argparse.ArgumentParser()
    local_profile.add_arguments(parser)
    options = parser.parse_args(words[4:])
    assert (options.checkpoint, options.phase, options.task) == ("tiny", ["forward"], ["summarization"])
    assert (options.batch_size, options.input_tokens, options.output_tokens) == ([2], [12], [3])


def has_ended(process):
    """Also where nobody waited for it: not every container's first process does."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_kill_loses_no_more_than_the_run_in_progress(tmp_path):
    landing, folder = with_roofs(tmp_path / "landing"), bare(tmp_path, LLAMA)
    command = [sys.executable, "-m", "collectors", "local_profile", "--landing", str(landing), "--checkpoint", folder,
               "--batch-size", *map(str, range(1, 20)), "--input-tokens", "8", "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while len(list((landing / "runs").glob("*.parquet"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert started
    until = time.monotonic() + 30
    while not all(has_ended(one) for one in started):  # workers end with who started them
        assert time.monotonic() < until
        time.sleep(0.01)
    runs = landed(landing, "runs")
    assert len(runs) >= 2
    whole = {path.stem for path in (landing / "runs").glob("*.parquet")}
    assert {run["run_id"] for run in runs} == whole
    for table in ("environments", "ops", "samples", "sources"):
        assert landed(landing, table)  # every file is readable, on contract, and
        assert whole <= {path.stem for path in (landing / table).glob("*.parquet")}  # there for every run
    batches = {run["batch_size"] for run in runs if run["phase"] == "forward"}
    collected, _ = measure(landing, folder, phase="forward", batch_size=[*batches, 20])
    assert collected.num_runs == 1


def test_variants_of_a_shape_are_rows_side_by_side(tmp_path):
    landing = tmp_path / "landing"
    variants = {"execution": ["eager", "compiled", "graph"], "cache": "static"}
    measure(landing, bare(tmp_path, LLAMA | {"num_hidden_layers": 1}), phase="decode", **variants)
    runs = {run["execution"]: run for run in landed(landing, "runs")}
    statuses = {name: run["status"] for name, run in runs.items()}
    assert statuses == {"eager": "ok", "compiled": "ok", "graph": "unsupported"}
    assert runs["graph"]["status_detail"] == "a CUDA graph needs a CUDA device"
    assert {run["cache_implementation"] for run in runs.values()} == {"static"}
    assert len({run["config_id"] for run in runs.values()}) == 1
    assert len({run["repeat_group_id"] for run in runs.values()}) == 3
    samples = landed(landing, "samples")
    (compile_s,) = (row for row in samples if row["metric"] == "torch:compile_s")
    assert compile_s["run_id"] == runs["compiled"]["run_id"]
    assert compile_s["value"] > 0
    assert runs["eager"]["ops_time_s"] > 0
    assert runs["compiled"]["ops_time_s"] is None
    assert runs["eager"]["num_samples"] == runs["compiled"]["num_samples"]  # interleaved: as many of each
    timed = {runs[name]["run_id"] for name in ("eager", "compiled")}
    assert {row["run_id"] for row in landed(landing, "telemetry")} == timed


def test_generate_tells_its_first_token_from_the_later_ones(tmp_path):
    landing = tmp_path / "landing"
    measure(landing, bare(tmp_path, T5), phase="generate", input_tokens=6, output_tokens=[1, 4], batch_size=2)
    one, four = sorted(landed(landing, "runs"), key=lambda run: run["output_tokens"])
    assert {run["status_detail"] for run in (one, four) if run["status"] != "ok"} == set()
    assert (one["tpot_s"], one["input_tokens"]) == (None, 6)
    assert four["e2el_s"] == four["latency_s"]
    assert four["ttft_s"] + 3 * four["tpot_s"] == pytest.approx(four["latency_s"])
    assert four["output_tokens_per_s"] == pytest.approx(2 * 4 / four["latency_s"])
    assert dict(four["metric_definitions"])["ttft_s"] == "first_token_of_generate"
    rows = [row for row in landed(landing, "samples") if row["run_id"] == four["run_id"]]
    counts = {name: sum(row["metric"] == name for row in rows) for name in ("latency_s", "ttft_s", "tpot_s")}
    assert len(set(counts.values())) == 1
    values = [row["value"] for row in rows if row["metric"] == "ttft_s" and row["sample_phase"] == "measured"]
    assert four["ttft_s"] == pytest.approx(sum(values) / len(values))


def test_kernels_a_trace_and_energy_are_kept_where_asked_for(tmp_path):
    landing = tmp_path / "landing"
    options = {"dtype": ["int8", "bf16"], "trace": True, "energy": True, "layers": False}
    measure(landing, bare(tmp_path, LLAMA), phase="prefill", **options)
    int8, bf16 = sorted(landed(landing, "runs"), key=lambda run: run["weight_dtype"], reverse=True)
    assert {path.name for path in (tmp_path / "traces").iterdir()} == {int8["trace"], bf16["trace"]}
    assert (int8["weight_dtype"], int8["activation_dtype"], int8["kv_dtype"]) == ("int8", "bf16", "bf16")
    assert int8["weights_bytes"] < bf16["weights_bytes"]
    assert int8["flops"] == bf16["flops"]
    ops = landed(landing, "ops")
    for run in (int8, bf16):
        assert run["status"] == "ok"
        assert (tmp_path / "traces" / run["trace"]).is_file()
        kernels = [op for op in ops if op["run_id"] == run["run_id"]]
        assert {op["level"] for op in kernels} == {"kernel"}
        assert any(op["parent_path"] == "model.layers.1.mlp.down_proj" for op in kernels)
        assert (run["energy_j"] is None) == ("energy: " in run["status_detail"])
        assert run["energy_per_output_token_j"] is None
        assert run["energy_per_token_j"] == (None if run["energy_j"] is None else pytest.approx(run["energy_j"] / 8))
        power = None if run["power_avg_w"] is None else "energy_window"
        assert dict(run["metric_definitions"]).get("power_avg_w") == power
        assert run["profiler_overhead_ratio"] > 0
        assert run["hooks_overhead_ratio"] is None


def test_kernels_of_a_generate_belong_to_no_module_row(tmp_path):
    landing = tmp_path / "landing"
    measure(landing, bare(tmp_path, LLAMA), phase="generate", output_tokens=2, kernels=True)
    ops = landed(landing, "ops")
    assert {op["level"] for op in ops} == {"kernel"}
    assert {op["parent_path"] for op in ops} == {None}


def test_a_decode_step_reads_the_experts_it_is_routed_to(tmp_path):
    landing = tmp_path / "landing"
    config = LLAMA | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 1}
    measure(landing, bare(tmp_path, config), phase="decode", layers=False)
    (run,) = landed(landing, "runs")
    projections = HIDDEN * (2 * HIDDEN + 2 * KV_HEADS * HIDDEN // HEADS)
    read = projections + 2 * 3 * HIDDEN * INNER + 8 * HIDDEN + VOCABULARY * HIDDEN
    assert run["weight_bytes_read"] == pytest.approx(4 * read, rel=1e-2)  # norms and a row of the table beside
    assert run["weights_bytes"] > 2 * run["weight_bytes_read"]
    assert run["kv_bytes_read"] == 2 * 8 * KV_HEADS * (HIDDEN // HEADS) * 4
    assert run["mbu"] == pytest.approx(
        (run["weight_bytes_read"] + run["kv_bytes_read"]) / run["latency_s"] / roofs()["memory_bandwidth_bytes_per_s"]
    )


def test_shares_of_measured_ceilings_stand_beside_those_of_the_datasheet(tmp_path):
    landing, hardware = tmp_path / "landing", roofs()
    ceilings = hardware | {
        "hardware_id": f"{hardware['hardware_id']}-measured", "kind": "measured", "measured_of": hardware["hardware_id"],
        "peak_fp32_flops_per_s": hardware["peak_fp32_flops_per_s"] / 2,
        "memory_bandwidth_bytes_per_s": hardware["memory_bandwidth_bytes_per_s"] / 4,
    }  # fmt: skip
    measure(landing, bare(tmp_path, LLAMA), phase="decode", layers=False, ceiling_row=ceilings)
    (run,) = landed(landing, "runs")
    assert run["mfu_achievable"] == pytest.approx(2 * run["mfu"])
    assert run["mbu_achievable"] == pytest.approx(4 * run["mbu"])


def test_the_boundary_of_memory_is_two_rows(tmp_path):
    landing = tmp_path / "landing"
    # a sequence has 64 MiB of logits, which are counted, and allocated for one only
    config = LLAMA | {"vocab_size": 2**18}
    options = {"phase": "forward", "input_tokens": 64, "boundary": True, "layers": False}
    collected, _ = measure(landing, bare(tmp_path, config), **options)
    ok, oom = sorted(landed(landing, "runs"), key=lambda run: run["batch_size"])
    assert (collected.num_runs, collected.num_failed) == (2, 1)
    assert (ok["status"], ok["batch_size"]) == ("ok", 1)
    assert oom["batch_size"] == ok["max_batch_size"] + 1
    assert oom["status"] == "oom"
    assert "max_batch_size by weights, KV cache and logits" in ok["status_detail"]
    assert 2**26 * ok["max_batch_size"] < psutil.virtual_memory().total
    assert "--boundary" in shlex.split(ok["command"])
    assert "--batch-size" not in shlex.split(ok["command"])
    collected, lines = measure(landing, str(tmp_path / "tiny"), **options)
    assert collected.num_runs == 0
    assert any("1 of 1 are measured already" in line for line in lines)


def workers():
    """Processes that this one's workers run in: children of the server that starts them."""
    return [worker for server in psutil.Process().children() for worker in server.children()]


def test_a_worker_that_is_killed_costs_the_run_it_was_at(tmp_path):
    landing, killed = tmp_path / "landing", []

    def kill_once(line):
        if "batch 1," in line and not killed:
            killed.extend(workers())
            for one in killed:
                one.kill()

    local_profile.collect(
        landing, report=kill_once, checkpoint=bare(tmp_path, LLAMA), phase="prefill", batch_size=[1, 2, 3, 4],
        input_tokens=8, device="cpu", hardware_row=roofs(),
    )  # fmt: skip
    runs = {run["batch_size"]: run for run in landed(landing, "runs")}
    assert killed
    assert set(runs) == {1, 2, 3, 4}
    lost = [run for run in runs.values() if run["status"] != "ok"]
    assert len(lost) <= 1  # none where it was between two
    for run in lost:
        assert run["status"] == "oom"
        assert "ended by SIGKILL, as a system does whose memory has run out" in run["status_detail"]


def test_a_run_that_takes_too_long_is_ended_and_is_a_row(tmp_path):
    landing = tmp_path / "landing"
    collected, _ = measure(landing, bare(tmp_path, LLAMA), phase=["forward", "decode"], cell_limit_s=0.01)
    runs = landed(landing, "runs")
    assert (collected.num_runs, collected.num_failed) == (2, 2)
    assert {(run["status"], run["duration_s"]) for run in runs} == {("timeout", 0.01)}
    assert {run["status_detail"] for run in runs} == {"took longer than its limit of 0.01 s and was ended"}
    collected, lines = measure(landing, str(tmp_path / "tiny"), phase=["forward", "decode"], cell_limit_s=0.01)
    assert collected.num_runs == 0
    assert any("2 of 2 are measured already" in line for line in lines)
    collected, _ = measure(landing, str(tmp_path / "tiny"), phase="forward", cell_limit_s=600.0)
    assert (collected.num_runs, collected.num_failed) == (1, 0)


def test_a_full_disk_is_a_sentence_and_leaves_no_half_file(tmp_path):
    landing = with_roofs(tmp_path / "landing")
    command = [sys.executable, "-m", "collectors", "local_profile", "--landing", str(landing), "--device", "cpu",
               "--checkpoint", bare(tmp_path, LLAMA), "--phase", "forward", "--input-tokens", "8"]  # fmt: skip
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )  # fmt: skip
    assert answer.returncode == 2
    assert "The landing folder cannot be written to (File too large); what landed before is whole." in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(landing.rglob("*.tmp"))
    assert not list((landing / "runs").glob("*"))


def test_importing_the_collector_touches_no_device():
    code = "import sys; import collectors.local_profile; print([n for n in ('torch', 'transformers', 'pynvml') if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert out.stdout.strip() == "[]"


def test_the_grid_of_bhavana_iitbbs_has_64_cells():
    """4 LLMs x 4 tasks x batch 1, 8, 32, 128, each once."""
    campaign = _plan.load("bhavana-iitbbs")
    found = []
    for sweep in campaign.sweeps:
        asked = sweep.options
        grid = _cells.Grid(
            asked["task"], asked["batch_size"], asked["phase"], asked["input_tokens"], [None], asked["dtype"], [None],
            ["eager"], ["dynamic"],
        )  # fmt: skip
        _cells.check(grid)
        found += [(name, cell) for name in asked["llm_id"] for cell in _cells.cells(catalog.find_llm(name), grid)]
    assert len(found) == len(set(found)) == 64
    assert {cell.case.input_tokens for _, cell in found} == {512}
