"""`rooflake analyze` and `rooflake search` as a person types them, without a lakehouse."""

import csv
import datetime
import io
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import environment, rooflake

from etl import analyze
from etl.options import spread
from models.analytical import evaluate
from models.analytical.search import Goal, search
from warehouse import catalog, parquet
from warehouse.store import Home, open_store

CONFIG = {"model_type": "llama", "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 4,
          "num_hidden_layers": 8, "intermediate_size": 5632, "vocab_size": 32000, "max_position_embeddings": 4096}  # fmt: skip


def ask(*words, stdin=None):
    """`rooflake analyze` with text on standard input."""
    return subprocess.run(
        [sys.executable, "-m", "etl.cli", "analyze", *map(str, words)],
        input=stdin, capture_output=True, text=True, timeout=120, check=False, env=environment(),
    )  # fmt: skip


def answered(*words, stdin=None):
    """Rows of the answer as JSON."""
    done = ask(*words, "--format", "json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said(done):
    """What was said on stderr, as one line."""
    return " ".join(done.stderr.split())


def test_the_numbers_are_the_engines():
    (row,) = answered("llama-2-7b", "--hardware", "a6000", "--phase", "decode", "--context-tokens", 1024)
    config = {"llm_id": "llama-2-7b", "hardware_id": "a6000", "phase": "decode", "batch_size": 1, "context_tokens": 1024,
              "weight_dtype": "fp16", "activation_dtype": "fp16", "kv_dtype": "fp16", "attention": "flash"}  # fmt: skip
    totals, _ = evaluate(pa.Table.from_pylist([config]), with_ops=False)
    expected = totals.to_pylist()[0]
    assert {name: row[name] for name in expected} == expected
    assert row["roofline_s"] == pytest.approx(0.0179, rel=0.01)


def test_the_table_says_time_memory_and_what_binds():
    done = ask("llama-2-7b", "--hardware", "a6000", "h100-sxm", "--phase", "decode")
    assert done.returncode == 0, done.stderr
    lines = {" ".join(line.split()[:-2]): line for line in done.stdout.splitlines()}
    assert done.stdout.splitlines()[0].split() == ["a6000", "decode", "h100-sxm", "decode"]
    cells = {name: next(line for line in lines.values() if line.strip().startswith(name)).split() for name in
             ("Roofline bound", "Bound by", "Fits", "Device memory", "Output tokens/s")}  # fmt: skip
    assert cells["Roofline bound"][-2] == "17.92"
    assert cells["Bound by"][-2:] == ["memory", "memory"]
    assert cells["Device memory"][-4:] == ["48", "GiB", "80", "GiB"]
    assert cells["Fits"][-2:] == ["yes", "yes"]
    assert float(cells["Output tokens/s"][-1]) > float(cells["Output tokens/s"][-2])


def test_what_does_not_fit_is_shown_and_said():
    done = ask("llama-2-70b", "--hardware", "a6000", "--phase", "decode")
    assert done.returncode == 0
    assert "NO" in next(line for line in done.stdout.splitlines() if line.strip().startswith("Fits"))
    assert "does not fit" in said(done)
    assert not any(line.strip().startswith("Output tokens/s") for line in done.stdout.splitlines())


def test_every_option_is_a_configuration_column(tmp_path):
    path = tmp_path / "row.parquet"
    words = ["--batch-size", 2, "--input-tokens", 64, "--dtype", "w4a16", "--kv-dtype", "fp8", "--attention", "paged",
             "--tensor-parallel", 2, "--pipeline-parallel", 2, "--interconnect", "pcie"]  # fmt: skip
    done = ask("llama-2-7b", "--hardware", "h100-sxm", "--phase", "prefill", *words, "-f", "parquet", "-o", path)
    assert done.returncode == 0, done.stderr
    (row,) = pq.read_table(path).to_pylist()
    expected = {"batch_size": 2, "input_tokens": 64, "weight_dtype": "int4", "activation_dtype": "fp16", "kv_dtype": "fp8",
                "attention": "paged", "tensor_parallel": 2, "pipeline_parallel": 2, "num_devices": 4, "interconnect": "pcie",
                "phase": "prefill", "status": "ok"}  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["communication_s"] > 0


def test_phases_have_their_own_lengths():
    rows = answered(
        "llama-2-7b", "--hardware", "A100-SXM-80GB", "--input-tokens", 64, "--phase", "prefill", "decode", "generate"
    )
    assert [(row["phase"], row["input_tokens"], row["output_tokens"], row["context_tokens"]) for row in rows] == [
        ("prefill", 64, None, None), ("decode", None, None, 1024), ("generate", 64, 128, None)]  # fmt: skip
    assert {row["hardware_id"] for row in rows} == {"a100-sxm-80gb"}
    (row,) = answered("bert-base-uncased", "--hardware", "a6000", "--input-tokens", 128)
    assert row["phase"] == "forward"


def test_parts_of_a_prompt_are_of_prefill_only():
    prefill, decode = answered("llama-2-7b", "--hardware", "a6000", "--chunk-tokens", 256)
    assert (prefill["chunk_tokens"], decode["chunk_tokens"]) == (256, None)
    assert decode["status"] == "ok"
    refused = ask("llama-2-7b", "--hardware", "a6000", "--chunk-tokens", 256, "--phase", "decode")
    assert "chunk_tokens is of prefill and generate, not of decode" in said(refused)


def test_the_constants_of_a_lakehouse_count(tmp_path):
    words = ["llama-2-7b", "--hardware", "a6000", "--phase", "decode", "--execution", "engine"]
    none = ask(*words, "--home", tmp_path / "none")
    assert none.returncode == 2
    assert "There is no lakehouse in" in said(none)
    home = Home.of(tmp_path / "home")
    fits = [
        {"calibration_id": name, "device_class": "a6000", "execution": "engine", "bandwidth_efficiency": share,
         "snapshot_id": day, "fitted_at": f"2026-11-2{day}T00:00:00Z", "source": "a test"}
        for name, share, day in (("old", 0.9, 0), ("new", 0.25, 1))
    ]  # fmt: skip
    rows = [row | {"fitted_at": datetime.datetime.fromisoformat(row["fitted_at"])} for row in fits]
    parquet.land(home.landing, "fits", {"calibrations": rows})
    with open_store(home) as store:
        store.load()
    (shipped,), (own,) = answered(*words), answered(*words, "--home", home.path)
    assert own["calibration_id"] == "new"
    assert shipped["calibration_id"] not in ("old", "new")
    assert own["roofline_s"] == shipped["roofline_s"]
    assert own["estimate_s"] > 4 * own["roofline_s"] * 0.99
    assert own["estimate_s"] > shipped["estimate_s"]


def test_training_says_what_it_holds():
    done = ask("llama-2-7b", "--hardware", "a100-sxm-80gb", "--phase", "pretrain_step", "--data-parallel", 8,
               "--optimizations", "zero2", "flash", "--input-tokens", 512)  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [line.strip() for line in done.stdout.splitlines()]
    for name in ("Gradients", "Optimizer states", "Communication time", "Bound at +10 % link bandwidth"):
        assert any(line.startswith(name) for line in names), name
    assert not any(line.startswith("KV cache") for line in names)


def test_a_pasted_config_is_a_model():
    pasted = answered(
        "mine", "--hardware", "a6000", "--phase", "decode", "--config-json", "-", stdin=json.dumps(CONFIG)
    )
    assert pasted[0]["llm_id"] == "mine"
    kv = 2 * 8 * 4 * 128 * 2 * 1024  # keys and values x layers x heads x width x bytes x tokens
    assert pasted[0]["kv_cache_bytes"] == kv
    assert pasted[0]["output_tokens_per_s"] > 0


def test_a_config_file_is_a_model(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict(catalog.find_llm("llama-2-7b").config)))
    same = ["--hardware", "a6000", "--phase", "decode"]
    (mine,), (known,) = answered("mine", *same, "--config-json", path), answered("llama-2-7b", *same)
    assert mine.pop("llm_id") == "mine"
    assert known.pop("llm_id") == "llama-2-7b"
    assert mine == known


def test_a_device_of_ones_own(tmp_path):
    (tmp_path / "hardware.toml").write_text(
        '[mine]\nname = "Mine"\nkind = "gpu"\nmemory_bytes = 34359738368\nmemory_bandwidth_bytes_per_s = 1e12\n'
        'peak_fp16_flops_per_s = 1e14\nsource = "my bench"\nsource_date = "2026-11-21"\n'
    )
    (row,) = answered("llama-2-7b", "--hardware", "mine", "--phase", "decode", "--catalog", tmp_path)
    assert row["roofline_s"] == pytest.approx(13.77e9 / 1e12, rel=0.01)
    refused = ask("llama-2-7b", "--hardware", "mine")
    assert refused.returncode == 2
    assert "'mine' is not in the hardware catalogue" in said(refused)


def test_ops_come_largest_share_first_and_add_up():
    words = ["llama-2-7b", "--hardware", "a6000", "--phase", "decode", "--ops"]
    done = ask(*words, "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    shares = [float(row["time_share"]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert rows[0]["op_kind"] in ("gate_proj", "up_proj", "down_proj")
    assert sum(float(row["flops"]) * float(row["count"]) for row in rows) == pytest.approx(
        answered(*words[:-1])[0]["flops"]
    )
    table = ask(*words).stdout
    assert "Roofline bound" in table
    assert "self_attn.q_proj" in table


def test_many_devices_are_several_tables_and_a_file_holds_them_all(tmp_path):
    path = tmp_path / "answer.txt"
    devices = ["a6000", "h100-sxm", "a100-sxm-80gb", "t4", "l40s"]
    done = ask("llama-2-7b", "--hardware", *devices, "--phase", "decode", "--ops", "-o", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    text = path.read_text()
    assert text.count("Roofline bound") == 2
    assert all(f"{device} decode" in text for device in devices)
    assert "lm_head" in text


def test_one_device_without_an_answer_does_not_silence_the_others(tmp_path):
    (tmp_path / "hardware.toml").write_text(
        '[odd]\nname = "Odd"\nkind = "gpu"\nmemory_bandwidth_bytes_per_s = 1e12\n'
        'peak_fp64_flops_per_s = 1e12\nsource = "my bench"\nsource_date = "2026-11-21"\n'
    )
    words = ["--phase", "decode", "--catalog", tmp_path]
    done = ask("llama-2-7b", "--hardware", "odd", "a6000", *words)
    assert done.returncode == 0
    assert "odd decode: unsupported:" in said(done)
    assert "17.92" in done.stdout
    assert ask("llama-2-7b", "--hardware", "odd", *words).returncode == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["llama-2-7b", "--hardware", "a1000"], "'a1000' is not in the hardware catalogue. Known: a100-sxm-80gb, "),
        (["lama-2-7b", "--hardware", "a6000"], "'lama-2-7b' is not in the LLM catalogue. Known: llama-2-7b, "),
        (["llama-2-7b", "--hardware", "a6000", "--tensor-parallel", 3], "must divide the 32 attention heads of llama-2-7b"),
        (["llama-2-7b", "--hardware", "a6000", "--dtype", "fp17"], "'fp17' names no dtypes. Known: fp64, "),
        (["llama-2-7b", "--hardware", "a6000", "--kv-dtype", "fp17"], "kv_dtype 'fp17' is unknown. Known: fp64, "),
        (["llama-2-7b", "--hardware", "a6000", "--batch-size", -1], "--batch-size must be 1 or more, not -1."),
        (["llama-2-7b", "--hardware", "a6000", "--context-tokens", 0, "--phase", "decode"], "--context-tokens must be 1 or more, not 0."),
        (["gpt2", "--hardware", "a6000", "--input-tokens", 5000, "--phase", "prefill"], "1024 tokens"),
        (["llama-2-7b", "--hardware", "a6000", "--context-tokens", 5000, "--phase", "decode"],
         "context_tokens is beyond the 4096 tokens that llama-2-7b is made for"),
        (["llama-2-7b", "--hardware", "a6000", "--phase", "sing"], "phase 'sing' is not modelled. Known: "),
        (["llama-2-7b", "--hardware", "a6000", "--attention", "rapt"], "attention 'rapt' is not modelled. Known: eager"),
        (["bert-base-uncased", "--hardware", "a6000", "--phase", "decode"], "an encoder has no decode"),
        (["x", "--hardware", "a6000", "--config-json", "none.json"], "'none.json' is neither a file nor the text"),
        (["llama-2-7b", "--hardware", "a6000", "--phase", "decode", "--input-tokens", 0], "--input-tokens must be 1 or more, not 0."),
        (["llama-2-7b", "--hardware", "a6000", "--prefix-tokens", -1], "--prefix-tokens must be 0 or more, not -1."),
        (["llama-2-7b", "--hardware", "a6000", "--batch-size", 10**23], f"--batch-size must be {2**53} or less, not {10**23}."),
        (["llama-2-7b", "--hardware", "a6000", "--tensor-parallel", 2**52, "--pipeline-parallel", 2**52],
         f"tensor x pipeline x data parallel devices must be {2**53} or less"),
        (["llama-2-7b", "--hardware", "a6000", "-f", "parquet"], "name a file with --output"),
        (["llama-2-7b", "--hardware", "a6000", "--catalog", "nowhere"], "--catalog 'nowhere' does not exist"),
    ],
)  # fmt: skip
def test_what_has_no_answer_is_a_sentence(words, sentence):
    done = ask(*words)
    assert done.returncode == 2, done.stdout
    assert sentence in said(done)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (json.dumps({key: value for key, value in CONFIG.items() if key != "hidden_size"}), "needs 'hidden_size'"),
        (json.dumps(CONFIG | {"model_type": "abacus"}), "model_type 'abacus'"),
        ("{oops", "is not JSON"),
        ("[]", "an object of keys"),
        ('{"text_config": {"hidden_size": 8}}', "standard input lacks the key 'model_type'"),
        ("llama", "standard input holds no config.json"),
    ],
)
def test_a_config_that_cannot_be_read_is_a_sentence(text, sentence):
    done = ask("mine", "--hardware", "a6000", "--config-json", "-", stdin=text)
    assert done.returncode == 2
    assert sentence in said(done)
    assert "Traceback" not in done.stderr


def test_a_config_of_bytes_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff\xfe\x80")
    done = ask("mine", "--hardware", "a6000", "--config-json", path)
    assert done.returncode == 2
    assert f"{path.name}' is not text" in said(done)


def cells(done, name):
    """What the row of the sheet whose label starts so shows, by column."""
    head, *lines = done.stdout.splitlines()
    columns = [head.index(word) for word in head.split()[::2]]
    line = next(line for line in lines if line.strip().startswith(name))
    return [line[start:end].strip() for start, end in zip(columns, [*columns[1:], None], strict=True)]


def test_rates_cost_and_estimate_name_what_they_rest_on():
    words = ["llama-2-7b", "--hardware", "a6000", "--phase", "decode"]
    done, (row,) = ask(*words), answered(*words)
    price = next(price for price in catalog.rows("prices") if price["price_id"] == row["price_id"])
    assert cells(done, "Price from") == [price["price_id"]]
    assert [float(text) for text in cells(done, "Price of one device (USD per hour)")] == [price["usd_per_device_hour"]]
    assert cells(done, "Execution profile of the estimate") == [row["execution"]]
    (rate,) = cells(done, "Output tokens/s at the estimate")
    assert float(rate) == pytest.approx(1 / row["estimate_s"], rel=1e-3)
    assert float(cells(done, "Output tokens/s at the bound")[0]) == pytest.approx(1 / row["roofline_s"], rel=1e-3)
    cost = price["usd_per_device_hour"] / 3600 / float(rate) * 1e6
    assert float(cells(done, "Cost per million tokens")[0]) == pytest.approx(cost, rel=1e-3)


@pytest.mark.parametrize(
    ("shares", "side"),
    [((0.7, 0.3, 0.0), "compute"), ((0.3, 0.5, 0.2), "memory"), ((0.1, 0.3, 0.6), "links"), ((0.1, 0.2, 0.2), "host")],
)
def test_what_binds_is_the_side_that_sets_most_of_the_time(shares, side):
    row = dict(zip(("compute_elasticity", "bandwidth_elasticity", "link_elasticity"), shares, strict=True))
    assert analyze.bound_by(row | {"bound": "compute"}) == side


def test_the_host_binds_where_it_updates_the_weights():
    done = ask("llama-2-7b", "--hardware", "a100-sxm-80gb", "--phase", "pretrain_step", "--optimizations", "offload",
               "zero2", "--data-parallel", 8, "--input-tokens", 256)  # fmt: skip
    assert cells(done, "Bound by") == ["host"]


def test_a_phase_without_an_answer_leaves_the_others():
    done = ask("gpt2", "--hardware", "a6000", "--input-tokens", 2000)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == ["a6000", "decode"]
    assert "a6000 prefill: unsupported: input_tokens is beyond the 1024 tokens" in said(done)


@pytest.mark.parametrize(
    ("llm", "words", "expected"),
    [
        ("bert-base-uncased", [], [("forward", 512, None, None)]),
        ("llama-2-7b", [], [("prefill", 1024, None, None), ("decode", None, None, 1024)]),
        ("gpt2", ["--phase", "generate"], [("generate", 896, 128, None)]),
        ("gpt2", ["--phase", "generate", "--input-tokens", 1000], [("generate", 1000, 24, None)]),
        ("gpt2", ["--phase", "generate", "--output-tokens", 24], [("generate", 1000, 24, None)]),
        ("gpt2", ["--phase", "prefill", "--prefix-tokens", 1000], [("prefill", 24, None, None)]),
        ("t5-base", ["--phase", "generate"], [("generate", 512, 128, None)]),
    ],
)
def test_lengths_nobody_stated_are_those_the_model_is_made_for(llm, words, expected):
    rows = answered(llm, "--hardware", "a6000", *words)
    names = ("phase", "input_tokens", "output_tokens", "context_tokens")
    assert [tuple(row.get(name) for name in names) for row in rows] == expected
    assert all(row["status"] == "ok" for row in rows)


def test_options_without_effect_are_said():
    done = ask("llama-2-7b", "--hardware", "a6000", "--phase", "decode", "--lora-rank", 8, "--optimizer-dtype", "fp32",
               "--input-tokens", 5, "--interconnect", "pcie", "--num-micro-batches", 2, "--batch-size", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("lora-rank", "optimizer-dtype", "input-tokens", "interconnect", "num-micro-batches"):
        assert f"--{name} changes nothing:" in said(done), name
    used = ask("llama-2-7b", "--hardware", "a100-sxm-80gb", "--phase", "finetune_step", "--optimizations", "lora",
               "--lora-rank", 8, "--optimizer-dtype", "fp32", "--input-tokens", 64)  # fmt: skip
    assert used.returncode == 0, used.stderr
    assert "changes nothing" not in said(used)


def test_analyze_starts_light():
    """Neither the store nor anything heavy is loaded to answer from arithmetic."""
    code = (
        "import json, sys\nfrom etl import cli\nsys.argv = ['rooflake', 'analyze', 'llama-2-7b', '--hardware', 'a6000', '-f', 'csv']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env=environment()
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "numpy" in loaded
    assert not loaded & {
        "duckdb",
        "polars",
        "prefect",
        "torch",
        "transformers",
        "pandas",
        "sklearn",
        "scipy",
        "dash",
        "plotly",
    }


def test_lists_take_several_values_after_one_name():
    names = {"--hardware", "--phase"}
    assert spread(["m", "--hardware", "a", "b", "--ops", "--phase=x", "y"], names) == [
        "m", "--hardware", "a", "--hardware", "b", "--ops", "--phase=x", "--phase", "y"]  # fmt: skip
    assert spread(["--hardware", "a", "--config-json", "-", "m"], names) == [
        "--hardware",
        "a",
        "--config-json",
        "-",
        "m",
    ]


# search


WORDS = ["llama-2-7b", "--hardware", "a100-sxm-80gb", "a6000", "--input-tokens", 512, "--output-tokens", 128,
         "--slo-ttft-ms", 400, "--slo-tpot-ms", 30, "--rate", 8, "--max-devices", 4, "--dtypes", "fp16", "w8a16"]  # fmt: skip


def test_the_front_keeps_every_limit_and_the_headline_is_its_cheapest():
    done = rooflake("search", *WORDS, "-f", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert rows
    for row in rows:
        assert row["is_feasible"]
        assert row["is_pareto"] or row["is_pareto_cost"]
        assert row["ttft_s"] <= 0.4
        assert row["tpot_s"] <= 0.03
        assert row["num_devices"] <= 4
        assert row["requests_per_s"] == pytest.approx(8)
    assert [row["tpot_s"] for row in rows] == sorted(row["tpot_s"] for row in rows)
    best = min(rows, key=lambda row: row["usd_per_million_tokens"])
    headline = said(done)
    assert headline.startswith(f"Cheapest: {best['num_devices']} x {best['hardware_id']}")
    assert f"{best['usd_per_million_tokens']:.4g} USD per million output tokens" in headline
    assert {"fp16", "int8"} >= {row["weight_dtype"] for row in rows}


def test_the_front_as_a_table():
    done = rooflake("search", *WORDS)
    assert done.returncode == 0
    head, *lines = done.stdout.splitlines()
    assert "tokens/s a user" in head
    assert "on the front of" in head
    assert all("throughput" in line or "cost" in line for line in lines)


def test_every_configuration_says_why_not():
    rows = json.loads(rooflake("search", *WORDS, "--all", "-f", "json").stdout)
    assert any(row["reason"] for row in rows)
    assert all((row["reason"] is None) == row["is_feasible"] for row in rows)
    assert "why not" in rooflake("search", *WORDS, "--all").stdout.splitlines()[0]


def test_nothing_feasible_is_the_closest_miss_and_exit_code_2():
    done = rooflake("search", "llama-2-70b", "--hardware", "a6000", "--max-devices", 1)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "No configuration fits in memory. The closest, 1 x a6000, fp16, batch 1: does not fit: needs" in said(done)
    done = rooflake("search", "llama-2-7b", "--hardware", "a6000", "--slo-tpot-ms", 0.5)
    assert done.returncode == 2
    assert "The closest, 8 x a6000 (TP 8), fp16, batch 1: TPOT is" in said(done)


def test_a_landing_that_cannot_be_written_is_said_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    done = rooflake("search", *WORDS, "--landing", tmp_path / "file" / "landing")
    assert done.returncode == 2
    assert "landing' cannot be written" in said(done)
    assert done.stdout == ""


def test_links_nobody_knows_are_said_in_the_headline(tmp_path):
    (tmp_path / "hardware.toml").write_text(
        '[odd]\nname = "Odd"\nkind = "gpu"\nmemory_bytes = 8589934592\nmemory_bandwidth_bytes_per_s = 1e12\n'
        'peak_fp16_flops_per_s = 1e14\nsource = "my bench"\nsource_date = "2026-11-21"\n'
    )
    done = rooflake("search", "llama-2-7b", "--hardware", "odd", "--catalog", tmp_path, "-f", "json")
    assert done.returncode == 0, done.stderr
    note = "the device's link is unknown: communication is left out."
    assert said(done).endswith(note)
    assert all(note in row["status_detail"] for row in json.loads(done.stdout))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        *(
            (["--rate", rate], f"--rate must be a number of requests/s above 0, {2**53} at most, not {rate}.")
            for rate in (0, -1, "inf", "nan")
        ),
        (["--slo-ttft-ms", -1], "--slo-ttft-ms must be a number of milliseconds above 0"),
        (["--max-devices", 2**17], "--max-devices must be 65536 or less, not 131072."),
        (["--input-tokens", 10**23], f"--input-tokens must be {2**53} or less"),
        (["--rate", 1, "--concurrency", 4], "--rate and --concurrency are two ways to state one load"),
        (["--output-tokens", 1], "--output-tokens must be 2 or more, not 1."),
        (["--dtypes", "w9"], "'w9' names no dtypes"),
        (["--max-devices", 0], "--max-devices must be 1 or more, not 0."),
        (["--input-tokens", 9000], "input_tokens is beyond the 4096 tokens that llama-2-7b is made for"),
    ],
)
def test_a_search_that_makes_no_sense_is_a_sentence(words, sentence):
    done = rooflake("search", "llama-2-7b", "--hardware", "a6000", *words)
    assert done.returncode == 2
    assert sentence in said(done)


def test_a_search_can_be_loaded_twice_and_is_there_once(tmp_path):
    home = tmp_path / "home"
    for _ in range(2):
        done = rooflake("search", *WORDS, "--home", home, "-f", "json")
        assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    with open_store(Home.of(home), read_only=True) as store:
        rows = store.sql(
            "SELECT source_kind, source_id, ttft_s, slo_ttft_s, request_rate_per_s, usd_per_million_tokens FROM runs "
            "WHERE phase = 'serve' ORDER BY tpot_s, num_devices"
        ).to_pylist()
    assert len(rows) == len(shown)
    assert {(row["source_kind"], row["source_id"], row["slo_ttft_s"], row["request_rate_per_s"]) for row in rows} == {
        ("analytical", "rooflake/search", 0.4, 8.0)}  # fmt: skip
    assert sorted(row["ttft_s"] for row in rows) == sorted(row["ttft_s"] for row in shown)


def test_landed_rows_join_an_endpoint_of_the_same_concurrency(tmp_path):
    """The configuration key of an endpoint run has a concurrency and no batch; the bytes of a search are always the same."""
    rows = search("llama-2-7b", ["a100-sxm-80gb"], Goal(512, 128, concurrency=16))
    for name in ("a", "b"):
        analyze.land(analyze.front(rows), tmp_path / name)
    first, second = (next((tmp_path / name / "runs").iterdir()) for name in ("a", "b"))
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    runs = parquet.read("runs", first).to_pylist()
    assert runs
    assert {row["concurrency"] for row in runs} == {16}
    assert {row["batch_size"] for row in runs} == {None}


def test_stages_are_cut_so_that_the_slowest_is_fastest(tmp_path):
    words = ["llama-3.1-8b", "--hardware", "h100-sxm", "--phase", "decode", "--stages", 4, "--format", "json"]
    rows = answered(*words)
    assert [row["stage"] for row in rows] == ["0", "1", "2", "3"]
    assert (rows[0]["from"], rows[-1]["to"]) == ("embedding", "head")
    assert float(rows[0]["balance (%)"]) >= float(rows[0]["equal layers (%)"])
    refused = ask("gpt2", "--hardware", "t4", "--phase", "decode", "--stages", 99)
    assert refused.returncode == 2
    assert "99" in said(refused)
