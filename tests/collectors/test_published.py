"""The published figures: every cell against the paper's own text, the faults found, what lands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from collectors import published
from collectors.published import _checks, _transcription
from models.lint import Finding
from warehouse import catalog, metrics, parquet, schema

ROOT = Path(__file__).parents[2]
TEXTS = {"chilka-nyu": "000", "bhavana-iitbbs": "002", "zhang-2023-dissecting": "003", "pattabhiraman-asu": "004"}
PLATFORMS = ("A800", "RTX4090", "RTX3090 w/ NVLink", "RTX3090 w/o NVLink")
ROMAN = {5: "V", 6: "VI", 7: "VII", 8: "VIII", 10: "X", 11: "XI", 14: "XIV", 15: "XV", 16: "XVI"}

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Every landed row, by table."""
    landing = tmp_path_factory.mktemp("landing")
    collected = published.collect(landing)
    rows: Rows = {}
    for path in collected.paths:
        rows.setdefault(path.parent.name, []).extend(parquet.read(path.parent.name, path).to_pylist())
    assert collected.num_runs == len(rows["runs"])
    return rows


def of(rows: Rows, source_id: str) -> list[dict[str, Any]]:
    return [run for run in rows["runs"] if run["source_id"] == source_id]


def cells(rows: Rows, source_id: str) -> dict[str, dict[str, Any]]:
    found = {run["source_cell"]: run for run in of(rows, source_id)}
    assert len(found) == len(of(rows, source_id))
    return found


# the transcription, cell by cell, against the text of the papers


def text_of(paper: str) -> str:
    found = sorted((ROOT.parent / "shared").glob(f"*/{TEXTS[paper]}_*.txt"))
    if not found:
        pytest.skip(f"the text of {paper} is not on this machine")
    return found[0].read_text(encoding="utf-8")


def lines_of(roman: str) -> list[list[str]]:
    """The tab-separated lines of a table of zhang-2023-dissecting, header lines included."""
    text = text_of("zhang-2023-dissecting")
    after = text[text.index(f"TABLE {roman}:") :].split("\n")[1:]
    start = next(index for index, line in enumerate(after) if "\t" in line)
    lines = []
    for line in after[start:]:
        if "\t" not in line:
            break
        lines.append(line.split("\t"))
    return lines


def figures(lines: list[list[str]]) -> list[float]:
    """Every cell that is a number (a percent sign may follow), in reading order."""
    texts = [text.removesuffix("%") for line in lines for text in line]
    return [float(text) for text in texts if re.fullmatch(r"\d+\.?\d*", text)]


@pytest.mark.parametrize(("number", "roman", "width"), [(3, "III", 2), (4, "IV", 3), (9, "IX", 2)])
def test_every_cell_of_the_throughput_tables(landed: Rows, number: int, roman: str, width: int) -> None:
    runs = cells(landed, f"zhang-2023-dissecting/table-{number}")
    seen: Counter[str] = Counter()
    model = ""
    for line in lines_of(roman)[3:]:
        model = line[0] or model
        for index, platform in enumerate(PLATFORMS):
            printed = line[2 + index * width : 2 + (index + 1) * width]
            cell = f"{model} / {line[1]} / {platform}"
            run = runs[cell + (" (again)" if seen[cell] else "")]
            seen[cell] += 1
            assert run["llm_id"] == f"llama-2-{model.lower()}"
            if printed[0] == "-":
                assert set(printed) == {"-"}
                assert (run["status"], run["total_tokens_per_s"], run["memory_peak_bytes"]) == ("oom", None, None)
                continue
            value, deviation = re.fullmatch(r"(\S+) <sub>(.*)</sub>", printed[0]).groups()  # type: ignore[union-attr]
            assert run["status"] == "ok"
            assert run["total_tokens_per_s"] == float(value)
            assert run["total_tokens_std_per_s"] == float(deviation)
            assert run["memory_peak_bytes"] == pytest.approx(float(printed[1]) * 1e9, rel=1e-12)
            assert run["batch_size"] == (int(printed[2]) if width == 3 else 1)
    assert seen.total() == len(runs) >= 150


def test_every_cell_of_the_framework_table(landed: Rows) -> None:
    framework = ""
    rows = []
    for name, batch_size, rate, memory in lines_of("II")[1:]:
        framework = {"Megatron": "megatron-lm", "DeepSpeed": "deepspeed"}.get(name, framework)
        rows.append((framework, int(batch_size), float(rate), pytest.approx(float(memory) * 1e9)))
    found = of(landed, "zhang-2023-dissecting/table-2")
    names = ("framework", "batch_size", "total_tokens_per_s", "memory_peak_bytes")
    assert [tuple(run[name] for name in names) for run in found] == rows


def landed_figures(rows: Rows, number: int) -> tuple[list[float], list[float], list[float], list[str]]:
    """Times and kernel times of a table's ops as printed (count x time, in ms, in s from Table XIV on), shares, labels."""
    ids = {run["run_id"] for run in of(rows, f"zhang-2023-dissecting/table-{number}")}
    factor = 1 if number >= 14 else 1e3
    ops = [op for op in rows["ops"] if op["run_id"] in ids]
    samples = [sample for sample in rows["samples"] if sample["run_id"] in ids and "without" not in sample["metric"]]
    times = [op["time_s"] * op["count"] * factor for op in ops]
    kernels = [op["device_time_s"] * factor for op in ops if op["device_time_s"] is not None]
    return (
        times,
        kernels,
        [s["value"] for s in samples],
        [s["metric"].removeprefix("paper:percentage of ") for s in samples],
    )


@pytest.mark.parametrize("number", [5, 7, 8])
def test_every_figure_of_the_phase_tables(landed: Rows, number: int) -> None:
    times, kernels, shares, _ = landed_figures(landed, number)
    assert times + shares + kernels == pytest.approx(figures(lines_of(ROMAN[number])), rel=1e-12)


@pytest.mark.parametrize("number", [14, 15, 16])
def test_every_figure_of_the_copy_and_communication_tables(landed: Rows, number: int) -> None:
    times, _, shares, _ = landed_figures(landed, number)
    assert [x for pair in zip(times, shares, strict=True) for x in pair] == figures(lines_of(ROMAN[number]))


def test_every_figure_of_the_module_table(landed: Rows) -> None:
    times, _, shares, labels = landed_figures(landed, 6)
    lines = lines_of("VI")[1:]
    printed = [(f"Forward / {line[1]}", line[2], line[3]) for line in lines if line[1] != "-"]
    printed += [(f"Backward / {line[5]}", line[6], line[7]) for line in lines]
    assert labels == [label for label, *_ in printed]
    assert times == pytest.approx([float(time) for _, time, _ in printed], rel=1e-12)
    assert shares == [float(share) for *_, share in printed]


@pytest.mark.parametrize("number", [10, 11])
def test_every_figure_of_the_serving_tables(landed: Rows, number: int) -> None:
    """A group's sum and share are printed beside its first member."""
    times, _, shares, labels = landed_figures(landed, number)
    printed: dict[str, tuple[float, float]] = {}
    group = ""
    for line in lines_of(ROMAN[number])[1:]:
        name, member, group_time, time, group_share, share = line[-6:]
        group = name or group
        if group_time:
            printed[group] = float(group_time), float(group_share)
        if member:
            printed[f"{group} / {member}"] = float(time), float(share)
    landed_now = dict(zip(labels, zip(times, shares, strict=True), strict=True))
    assert list(landed_now) == list(printed)
    for label, pair in landed_now.items():
        assert pair == pytest.approx(printed[label], rel=1e-12)


def test_gemm_shapes_times_and_shares(landed: Rows) -> None:
    shapes, times, peaks = lines_of("XII")[1:]
    for index, run in enumerate(of(landed, "zhang-2023-dissecting/table-12"), start=1):
        (op,) = [op for op in landed["ops"] if op["run_id"] == run["run_id"]]
        assert [op["m"], op["n"], op["k"]] == [int(text) for text in shapes[index].split(",")]
        assert op["time_s"] == run["latency_s"] == pytest.approx(float(times[index]) * 1e-3)
        assert run["mfu"] == pytest.approx(float(peaks[index]) / 100)
    shares = figures(lines_of("XIII"))
    ids = [run["run_id"] for run in of(landed, "zhang-2023-dissecting/table-13")]
    assert [sample["value"] for sample in landed["samples"] if sample["run_id"] in ids] == shares


def test_every_cell_of_the_quantization_table(landed: Rows) -> None:
    columns = {
        "Ops": "flops",
        "Inference Time": "roofline_s",
        "Load Activations": "activation_bytes_read",
        "Load KV Cache": "kv_bytes_read",
        "Load Weights": "weight_bytes_read",
        "Memory Access (decode)": "bytes_moved",
        "Memory Consumption (KV Cache)": "kv_cache_bytes",
        "Store Activations": "activation_bytes_written",
        "Store KV Cache": "kv_bytes_written",
    }
    others = {"Memory Consumption (Temp Activations)", "Memory Consumption (Weights)"}
    scales = {"G": 1e9, "M": 1e6, "K": 1e3, "ms": 1e-3}
    samples = {(row["run_id"], row["metric"], row["unit"]): row["value"] for row in landed["samples"]}
    runs = cells(landed, "chilka-nyu/table-1")
    found = re.findall(r"^(.+) \((G|M|K|ms)\)\t(\S+)\t(\S+)$", text_of("chilka-nyu"), re.MULTILINE)
    assert {label for label, *_ in found} == set(columns) | others
    for label, unit, *printed in found:
        for heading, text in zip(("F16 Quantization", "8-bit Quantization"), printed, strict=True):
            run = runs[heading]
            if label in others:  # not what weights_bytes and activation_peak_bytes mean
                assert samples[run["run_id"], f"paper:{label}", unit] == float(text)
                assert (run["weights_bytes"], run["activation_peak_bytes"]) == (None, None)
                continue
            assert run[columns[label]] == pytest.approx(float(text) * scales[unit], rel=1e-12)


def test_every_cell_of_the_parallelism_figure(landed: Rows) -> None:
    runs = cells(landed, "pattabhiraman-asu/figure-4")
    found = re.findall(r"^(Llama .+)\t(.+)\t(.+)\t(.+)$", text_of("pattabhiraman-asu"), re.MULTILINE)
    assert len(found) == 6
    for label, *printed in found:
        for devices, text in zip((1, 2, 4), printed, strict=True):
            run = runs[f"{label} / {devices}gpu"]
            assert run["num_devices"] == devices
            assert run["tensor_parallel" if "tensor" in label else "pipeline_parallel"] == devices
            assert run["pipeline_parallel" if "tensor" in label else "tensor_parallel"] == 1
            expected = None if text == "#" else float(text.removesuffix(" tokens/sec"))
            assert run["output_tokens_per_s"] == expected
            assert run["status"] == ("oom" if text == "#" else "ok")


def test_every_cell_of_the_accuracy_table(landed: Rows) -> None:
    lines = re.findall(
        r"^(Latency|Peak Memory|Bandwidth) \(.*?\)\t(.+)\t(.+)\t(.+)$", text_of("bhavana-iitbbs"), re.MULTILINE
    )
    printed = [[float(re.search(r"\d+\.\d+", text)[0]) for text in line[1:]] for line in lines]  # type: ignore[index]
    scales = (1.0, 1e9, 1.0)
    scores = [[score["mae"], score["rmse"], score["r2"]] for score in landed["predictor_scores"]]
    assert len(printed) == 3
    for score, line, scale in zip(scores, printed, scales, strict=True):
        assert score == pytest.approx([line[0] * scale, line[1] * scale, line[2]], rel=1e-12)


# what lands


def test_counts_by_paper(landed: Rows) -> None:
    papers = Counter(run["source_id"].split("/")[0] for run in landed["runs"])
    assert papers["pattabhiraman-asu"] == 18
    assert papers["chilka-nyu"] == 2
    assert papers["zhang-2023-dissecting"] == 515
    tables = {run["source_id"].split("/")[1] for run in landed["runs"] if run["source_id"].startswith("zhang")}
    assert tables >= {f"table-{number}" for number in range(2, 17)}


def test_out_of_memory_cells_are_rows(landed: Rows) -> None:
    failed = [run for run in landed["runs"] if run["status"] != "ok"]
    counts = Counter(run["source_id"] for run in failed)
    assert counts == {
        "zhang-2023-dissecting/table-3": 60,
        "zhang-2023-dissecting/table-4": 60,
        "zhang-2023-dissecting/table-9": 36,
        "zhang-2023-dissecting/figure-6": 2,
        "pattabhiraman-asu/figure-4": 2,
    }
    for run in failed:
        assert run["status"] == "oom"
        assert "out of memory" in run["status_detail"]
        assert all(run[column] is None for metric in metrics.METRICS for column in metric.columns)


@pytest.mark.parametrize(
    ("source", "cell", "values"),
    [
        ("table-3", "7B / Naive / A800", {"total_tokens_per_s": 7488.3, "memory_peak_bytes": 66.7e9}),
        ("table-3", "7B / F+R+Z3+O / A800", {"total_tokens_per_s": 270.0, "memory_peak_bytes": 6.7e9}),
        ("table-3", "7B / Q / RTX4090", {"total_tokens_per_s": 4879.2, "weight_dtype": "nf4", "interconnect": "pcie"}),
        ("table-3", "7B / Z3+O / RTX3090 w/o NVLink", {"total_tokens_per_s": 39.9, "interconnect": "pcie"}),
        ("table-4", "7B / F+Z3 / A800", {"total_tokens_per_s": 27936.9, "batch_size": 16, "attention": "flash"}),
        ("table-4", "7B / R+Q / RTX4090", {"total_tokens_per_s": 14786.5, "batch_size": 32}),
        ("table-5", "one step", {"forward_s": 0.075, "backward_s": 0.25, "optimizer_s": 0.1939, "batch_size": 2}),
        ("table-7", "one step", {"forward_s": 0.9008, "batch_size": 32, "optimizations": ["recompute"]}),
        ("table-9", "7B / L+F / A800", {"total_tokens_per_s": 17182.0, "optimizations": ["flash", "lora"]}),
        ("table-9", "70B / L+F+R+Z3+O / RTX4090 (again)", {"total_tokens_per_s": 19.4, "memory_peak_bytes": 13.2e9}),
        ("table-16", "ZeRO-3 / Llama2-13B", {"communication_s": 2.791, "optimizations": ["zero3"]}),
    ],
)
def test_anchor_values(landed: Rows, source: str, cell: str, values: dict[str, Any]) -> None:
    run = cells(landed, f"zhang-2023-dissecting/{source}")[cell]
    assert {name: run[name] for name in values} == values


def test_module_times_are_of_one_layer(landed: Rows) -> None:
    (run,) = of(landed, "zhang-2023-dissecting/table-6")
    ops = {(op["op_kind"], op["phase"]): op for op in landed["ops"] if op["run_id"] == run["run_id"]}
    assert ops["mlp", "forward"]["time_s"] == pytest.approx(29.06e-3 / 32)
    assert ops["mlp", "forward"]["count"] == 32
    assert ops["lm_head", "backward"]["time_s"] == pytest.approx(2.898e-3)
    assert ops["communication", "backward"]["count"] == 1


def test_stated_figures_land_as_samples(landed: Rows) -> None:
    found = {(sample["metric"], sample["value"], sample["unit"]) for sample in landed["samples"]}
    assert found >= {
        ("paper:scaling efficiency", 90.8, "%"),
        ("paper:scaling efficiency", 85.9, "%"),
        ("paper:latency within which 60 % of requests are answered", 20.0, "s"),
        ("paper:latency within which 100 % of requests are answered", 80.0, "s"),
        ("paper:inference time of all requests", 120.0, "s"),
        ("paper:inference time of all requests", 1600.0, "s"),
        ("paper:inference time over that of Llama2-7B, up to", 13.0, "x"),
        ("paper:operations of the pre-training", 2.5e24, "FLOP"),
    }


def test_rows_keep_the_contract(landed: Rows) -> None:
    sources = {source["source_id"] for source in landed["sources"]}
    environments = {entry["environment_id"] for entry in landed["environments"]}
    assert len({run["run_id"] for run in landed["runs"]}) == len(landed["runs"])
    for run in landed["runs"]:
        assert run["source_id"] in sources
        assert (run["collector"], run["source_kind"], run["quality_tier"]) == ("published", "published", 0)
        assert run["environment_id"] is None or run["environment_id"] in environments
        assert run["hardware_id"] is None or run["hardware_id"] in catalog.hardware()
        assert run["llm_id"] is None or run["llm_id"] in catalog.llms()
        assert run["config_id"] == schema.config_id(run)
        assert all(definition in metrics.DEFINITIONS for _, definition in run["metric_definitions"])
    ids = {run["run_id"] for run in landed["runs"]}
    assert {row["run_id"] for row in landed["ops"] + landed["samples"]} <= ids


def test_published_decode_meets_its_analytical_twin(landed: Rows) -> None:
    config = {
        "llm_id": "llama-2-7b", "hardware_id": "a6000", "num_devices": 1, "phase": "decode", "batch_size": 1,
        "context_tokens": 1024, "weight_dtype": "fp16", "activation_dtype": "fp16", "kv_dtype": "fp16",
        "attention": "eager", "optimizations": [],
    }  # fmt: skip
    assert cells(landed, "chilka-nyu/table-1")["F16 Quantization"]["config_id"] == schema.config_id(config)


def test_degenerate_predictor_is_named_so(landed: Rows) -> None:
    named = {row["metric"]: row for row in landed["predictors"]}
    assert "degenerate" in named["achieved_bytes_per_s"]["name"]
    assert all(row["is_baseline"] and row["source_id"] == "bhavana-iitbbs/table-1" for row in named.values())


# the faults


def test_excluded_rows_keep_the_printed_value_and_say_why(landed: Rows) -> None:
    excluded = {run["source_cell"]: run for run in landed["runs"] if run["is_excluded"]}
    assert len(excluded) == 13
    lost_point = excluded["13B / R+Z2+O / A800"]
    assert lost_point["total_tokens_per_s"] == 640435
    assert "13.4 times the peak" in lost_point["exclusion_reason"]
    assert "56.8 GB at batch size 1" in excluded["13B / F+Z2+O / A800"]["exclusion_reason"]
    assert {cell for cell in excluded if cell.startswith("70B")} == {
        f"70B / {method} / {platform}" for method in ("L+F+R+Z3", "L+F+R+Z3+O") for platform in PLATFORMS
    }
    assert "weights of llama-2-70b alone take 17.2 GB" in excluded["70B / L+F+R+Z3 / A800"]["exclusion_reason"]


@pytest.mark.parametrize(
    ("source", "fact"),
    [
        ("table-2", "it is 46% faster (10936 against 7488 tokens/s)"),
        ("table-5", "make 98.7 % and imply a step of 524.5 ms, the phases sum to 518.9 ms"),
        ("table-6", "forward modules sum to 66.2 of the 75.0 ms"),
        ("table-6", "backward modules sum to 238.2 of the 250.0 ms"),
        ("table-10", "7.55 % printed, its time is 7.45 %"),
        ("table-12", "M = 666 at batch size 2 is 333 tokens"),
        ("table-12", "M = 10624 at batch size 32 is 332 tokens"),
        ("table-16", "2.791 s against 3.779 s with ZeRO-2"),
    ],
)
def test_contradictions_are_noted_on_their_table(landed: Rows, source: str, fact: str) -> None:
    notes = {row["source_id"]: row["note"] for row in landed["sources"]}
    assert fact in notes[f"zhang-2023-dissecting/{source}"]


@pytest.mark.parametrize(
    ("cell", "fact"),
    [
        ("IV-A: A800 over RTX4090 and RTX3090, all but quantization", "gives 4.09 (7B / R+Z3+O / RTX4090) to 67.7"),
        ("V: LoRA over QLoRA", "2 x is stated"),
        ("V: LoRA over QLoRA", "0.5 x is stated"),
        ("V: Llama2-70B on RTX4090 and RTX3090, all techniques", "gives 10.1"),
    ],
)
def test_contradicted_claims_are_excluded(landed: Rows, cell: str, fact: str) -> None:
    run = cells(landed, "zhang-2023-dissecting/text")[cell]
    assert run["is_excluded"]
    assert fact in run["exclusion_reason"]
    assert any(s["flags"] == ["inconsistent"] for s in landed["samples"] if s["run_id"] == run["run_id"])


@pytest.mark.parametrize(
    ("table", "cell", "check"),
    [
        ("table-8", "FlashAttention", _checks.check_improvement),
        ("table-11", "Timeline", _checks.check_op_shares),
        ("table-12", "Naive", _checks.check_gemm),
    ],
)
def test_a_check_the_paper_passes_finds_a_slip(table: str, cell: str, check: _checks.Check) -> None:
    """Gains, peaks and shares that follow from the printed times do so no more when one time is 10 % off."""
    rows = _transcription.read("zhang-2023-dissecting")

    def found() -> list[Finding]:
        return [one for one in check(rows) if one.source_id.endswith(table) and (one.metric or one.samples)]

    assert found() == []
    run = cells(rows, f"zhang-2023-dissecting/{table}")[cell]
    op = next(op for op in rows["ops"] if op["run_id"] == run["run_id"])
    op["time_s"] *= 1.1
    assert found()
    _checks.apply(rows)
    flagged = [s for s in rows["samples"] if s["run_id"] == run["run_id"] and s["flags"] == ["inconsistent"]]
    assert run["is_excluded"] or flagged


def test_what_contradicts_a_text_lands_as_findings(landed: Rows) -> None:
    found = {(row["check_name"], row["source_id"].partition("/")[2], row["severity"]) for row in landed["findings"]}
    assert found >= {
        ("printed_twice", "table-9", "fault"), ("share_of_whole", "table-10", "fault"), ("tokens_of_shape", "table-12", "fault"),
        ("claim_against_table", "table-2", "fault"), ("claim_against_table", "table-16", "fault"), ("claim_against_table", "text", "fault"),
        ("claim_against_table", "section-5.6", "fault"),
    }  # fmt: skip
    assert len({row["finding_id"] for row in landed["findings"]}) == len(landed["findings"])
    assert all(row["found_by"] == "published" and row["is_current"] for row in landed["findings"])
    (rule,) = [row for row in landed["findings"] if row["source_id"] == "chilka-nyu/section-5.6"]
    assert "No point can lie above its own roof" in rule["sentence"]


def test_a_fault_of_counted_work_leaves_the_times_in_charts(landed: Rows) -> None:
    notes = {row["source_id"]: row["note"] for row in landed["sources"]}
    assert "13.5 GB in fp16. What is missing is the embedding and the output head" in notes["chilka-nyu/table-1"]
    assert not any(run["is_excluded"] for run in of(landed, "chilka-nyu/table-1"))
    flagged = {row["metric"] for row in landed["samples"] if row["flags"] == ["inconsistent"]}
    assert "paper:Memory Consumption (Weights)" in flagged


# the collector


def test_reruns_land_the_same_bytes(tmp_path: Path) -> None:
    first, second = (published.collect(tmp_path / name, papers=["chilka-nyu", "pattabhiraman-asu"]) for name in "ab")
    assert [path.name for path in first.paths] == [path.name for path in second.paths]
    assert {path.name for path in first.paths} == {
        "published-chilka-nyu.parquet",
        "published-pattabhiraman-asu.parquet",
    }
    for one, two in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert (first.num_runs, first.num_failed) == (20, 2)


def test_unknown_paper_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        LookupError, match=r"'nobody-2020' is not a transcribed paper\. Known: bhavana-iitbbs, chilka-nyu"
    ):
        published.collect(tmp_path, papers=["chilka-nyu", "nobody-2020"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("printed", ["", "-", "12,5", "about 5"])
def test_a_slip_in_a_transcription_is_named(printed: str) -> None:
    with pytest.raises(ValueError, match="is not a figure"):
        _transcription.scaled(printed, "ms")


def test_figures_are_read_as_printed() -> None:
    assert _transcription.scaled("13.6", "G") == 13_600_000_000
    assert _transcription.scaled("58.", "tokens/s") == 58
    assert _transcription.scaled(".07", "tokens/s") == 0.07
    assert _transcription.scaled("17.9", "ms") == 0.0179


def test_runs_as_a_module_on_pyarrow_alone(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from collectors.__main__ import main\n"
        f"code = main(['published', '--landing', {str(tmp_path)!r}, '--papers', 'zhang-2023-dissecting'])\n"
        "heavy = {'torch', 'duckdb', 'polars', 'pandas', 'sklearn', 'prefect', 'dash', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "515 runs landed, 158 of them failures." in done.stderr
    assert str(tmp_path / "runs" / "published-zhang-2023-dissecting.parquet") in done.stdout
