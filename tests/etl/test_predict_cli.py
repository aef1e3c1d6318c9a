"""`rooflake predict`: answers, whole catalogues, questions backwards and forecasts, over predictors whose law is planted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import planted_predictors as planted
import pyarrow as pa
import pytest
from command_line import rooflake
from typer.testing import CliRunner

from etl import predictions
from etl.cli import app
from models.learned import answering
from models.learned.predictor import Predictor
from warehouse.store import open_store


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.build(tmp_path_factory.mktemp("planted"))


def ask(home: Path, *words: object) -> Any:
    """The command in this process; a failure that it answers with a sentence is in `exception`."""
    return CliRunner().invoke(app, ["predict", *map(str, words), "--home", str(home)])


def rows(home: Path, *words: object) -> list[dict[str, Any]]:
    answer = ask(home, *words, "-f", "json")
    assert answer.exit_code == 0, answer.exception
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found


DECODE = ("--phase", "decode", "--tokens", 512, "--dtype", "fp16")


def test_a_first_word_that_is_no_command_is_a_model(home: Path) -> None:
    answer = rooflake("predict", "gpt2", "--hardware", "t4", *DECODE, "--home", home)
    assert answer.returncode == 0, answer.stderr
    for heading in (
        "metric",
        "predicted",
        "90 % interval",
        "interval of",
        "bound",
        "estimate",
        "made by",
        "inside its data",
    ):
        assert heading in answer.stdout
    assert "same family" in answer.stdout
    assert "median error 2.1% leave model out" in answer.stdout
    assert "decode on t4: not stated, so as usual: framework vllm, execution engine, attention paged." in answer.stderr


def test_several_devices_and_batches_are_compared(home: Path) -> None:
    found = rows(home, "gpt2", "--hardware", "t4", "a100-sxm-80gb", *DECODE, "--batch", 1, 8)
    latency = [(row["hardware_id"], row["batch_size"]) for row in found if row["metric"] == "latency_s"]
    assert latency == [("t4", 1), ("t4", 8), ("a100-sxm-80gb", 1), ("a100-sxm-80gb", 8)]
    assert all(row["leave_out_mdape"] == 0.021 for row in found if row["target"] == "latency")


def test_the_old_spelling_still_answers(home: Path) -> None:
    old = rows(home, "--llm", "gpt2", "--hardware", "t4", *DECODE, "--batch-size", 2)
    new = rows(home, "gpt2", "--hardware", "t4", *DECODE, "--batch", 2)
    assert old == new


def test_an_llm_never_seen_is_an_unseen_group_and_says_so(home: Path) -> None:
    answer = ask(home, "opt-6.7b", "--hardware", "a100-sxm-80gb", *DECODE)
    assert "unseen group" in answer.stdout
    assert "llm 'opt-6.7b' was never seen" in answer.stderr


def test_explain_leads_from_the_bound_to_the_value(home: Path) -> None:
    (last,) = [row["value"] for row in rows(home, "gpt2", "--hardware", "t4", *DECODE) if row["metric"] == "latency_s"]
    steps = rows(home, "gpt2", "--hardware", "t4", *DECODE, "--explain")
    assert [step["step"] for step in steps][:2] == ["bound", "base"]
    assert steps[-1]["value"] == pytest.approx(last)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gtp2"], "'gtp2' is not in the LLM catalogue"),
        (["gpt2", "--hardware", "t44"], "'t44' is not in the hardware catalogue"),
        (["gpt2", "--phase", "banana"], "'banana' is not a phase. Known: forward, prefill, decode"),
        (["gpt2", "--phase", "serve", "--output-tokens", "8"], "serving needs a load: --concurrency N"),
        (["gpt2", "--phase", "generate"], "generate of gpt2 (decoder) needs the decoder's tokens: --output-tokens N."),
        (["bert-base", "--phase", "decode"], "an encoder has no decode: it has forward."),
        (["gpt2", "--phase", "serve", "--output-tokens", "8", "--rate", "0"], "--rate must be above 0, not 0.0."),
        (["gpt2", "--phase", "serve", "--output-tokens", "8", "--rate", "nan"], "--rate must be above 0, not nan."),
        (["gpt2", "--concurrency", "3"], "prefill has no load: --concurrency and --rate are of --phase serve."),
        (["gpt2", "--llm", "gpt2"], "name one model"),
        (["gpt2", "--dtype", "fp99"], "'fp99' names no dtypes."),
        (["gpt2", "--hardware", "t4", "--weight", "1"], None),
        (["cheapest", "gpt2", "--latency-ms", "0"], "The limit on latency_s must be above 0"),
        (["rollback", "latency"], "is the first predictor of latency"),
        (["rollback", "speed"], "'speed' is not predicted."),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(home: Path, words: list[str], sentence: str | None) -> None:
    answer = ask(home, *words)
    assert answer.exit_code != 0
    assert answer.stdout == ""
    if sentence is not None:
        assert sentence in str(answer.exception)


def test_a_whole_catalogue_is_counted_by_who_answers(home: Path) -> None:
    answer = ask(home, "catalog", *DECODE, "--llm", "gpt2", "opt-6.7b", "bert-base", "--hardware", "t4", "h100-sxm")
    assert answer.exit_code == 0, answer.exception
    assert "1 LLMs have no such decode" not in answer.stderr  # an encoder's refusal is the arithmetic's
    assert "6 configurations: " in answer.stderr
    assert "without an answer" in answer.stderr


def test_what_is_kept_is_there_for_sql_once(tmp_path: Path) -> None:
    home = planted.build(tmp_path / "home")
    words = ("catalog", *DECODE, "--llm", "gpt2", "opt-125m", "--hardware", "t4", "a100-sxm-80gb", "--save")
    for _ in range(2):
        answer = ask(home, *words)
        assert answer.exit_code == 0, answer.exception
    with open_store(home, read_only=True) as store:
        kept = store.sql("SELECT * FROM predicted_runs WHERE metric = 'latency_s' ORDER BY value").to_pylist()
        (measured,) = store.sql(
            "SELECT config_id FROM runs WHERE source_kind = 'measured' AND llm_id = 'gpt2' AND hardware_id = 't4' "
            "AND phase = 'decode' AND batch_size = 1"
        ).to_pylist()
    assert len(kept) == 4
    assert all(row["lower"] < row["value"] < row["upper"] for row in kept)
    assert measured["config_id"] in {row["config_id"] for row in kept}  # prediction and measurement meet


def test_a_forecast_is_published_once_and_waits_for_its_measurement(tmp_path: Path) -> None:
    home = planted.build(tmp_path / "home")
    assert ask(home, "forecasts").stdout == ""
    for _ in range(2):
        answer = ask(home, "gpt2", "--hardware", "t4", *DECODE, "--batch", 4, "--publish", "before the device arrives")
        assert answer.exit_code == 0, answer.exception
    found = rows(home, "forecasts")
    assert sorted(row["metric"] for row in found) == ["latency_s", "memory_peak_bytes"]
    assert {row["note"] for row in found} == {"before the device arrives"}
    assert all(row["actual"] is None for row in found)
    assert "not yet" in ask(home, "forecasts").stdout


def test_the_cheapest_device_keeps_its_promise(home: Path) -> None:
    words = ("cheapest", "opt-1.3b", "--hardware", "t4", "a100-sxm-80gb", *DECODE, "--batch", 8, "--latency-ms", 6)
    first, *_ = rows(home, *words)
    assert first["is_feasible"]
    assert first["latency_s_worst"] <= 0.006
    assert "at the pessimistic end (predictor)" in ask(home, *words).stderr


def test_backwards_number_formats_are_as_usual_where_none_is_stated(home: Path) -> None:
    words = ("cheapest", "opt-1.3b", "--hardware", "t4", "--phase", "decode", "--batch", 8, "--latency-ms", 6)
    answer = ask(home, *words)
    assert "weight_dtype fp16, activation_dtype fp16, kv_dtype fp16" in answer.stderr
    assert rows(home, *words) == rows(home, *words, "--dtype", "fp16")


def test_a_limit_kept_without_an_interval_is_said_so(home: Path) -> None:
    answer = ask(
        home,
        "cheapest",
        "llama-2-7b",
        "--hardware",
        "h100-sxm",
        "--phase",
        "serve",
        "--concurrency",
        4,
        "--slo-ttft-ms",
        9000,
    )
    assert "(estimate, without an interval)" in answer.stderr


def test_nothing_that_keeps_a_promise_is_said_so(home: Path) -> None:
    answer = ask(home, "cheapest", "opt-1.3b", "--hardware", "t4", *DECODE, "--latency-ms", 0.01)
    assert "No device keeps every limit." in answer.stderr


def test_the_largest_batch_is_named_beside_the_first_that_breaks(home: Path) -> None:
    answer = ask(home, "max-batch", "llama-2-7b", "--hardware", "a100-sxm-80gb", *DECODE, "--latency-ms", 50)
    assert answer.exit_code == 0, answer.exception
    assert "is the largest; of " in answer.stderr
    assert "at most 50 ms is allowed" in answer.stdout


def test_who_answers_is_listed(home: Path) -> None:
    found = rows(home, "promoted")
    assert [(row["target"], row["predictor_id"]) for row in found] == [
        ("latency", "planted-latency"),
        ("memory_allocated", "planted-memory_allocated"),
    ]


def test_a_predictor_without_its_file_is_a_line_and_the_estimate_answers(tmp_path: Path) -> None:
    home = planted.build(tmp_path / "home")
    (home / "predictors" / "planted-latency.zip").unlink()
    answer = ask(home, "gpt2", "--hardware", "t4", *DECODE)
    assert answer.exit_code == 0, answer.exception
    assert "latency: 'planted-latency.zip' is not in" in answer.stderr
    assert "analytical estimate" in answer.stdout


def test_a_predictor_that_learnt_from_other_features_is_a_line_and_the_estimate_answers(tmp_path: Path) -> None:
    home = planted.build(tmp_path / "home")
    path = home / "predictors" / "planted-latency.zip"
    stale = Predictor.load(path)
    dataclasses.replace(stale, card={**stale.card, "features": ["log_beauty"]}).save(path)
    answer = ask(home, "gpt2", "--hardware", "t4", *DECODE)
    assert answer.exit_code == 0, answer.exception
    assert "learnt from other features of latency" in " ".join((answer.stderr + answer.stdout).split())
    assert "analytical estimate" in answer.stdout


def test_what_is_left_open_is_filled_by_the_nearest_usual_way() -> None:
    way = {"hardware_id": "t4", "phase": "decode", "framework": "vllm", "execution": "engine", "cache_implementation": None,
           "attention": "paged", "weight_dtype": "fp16", "activation_dtype": "fp16", "kv_dtype": "fp16"}  # fmt: skip
    ways = [way | {"hardware_id": "a100-sxm-80gb", "framework": "sglang"}, way]
    asked = {"llm_id": "gpt2", "hardware_id": "t4", "phase": "decode"}
    assert answering.filled(asked, ways)["framework"] == "vllm"
    assert answering.filled(asked | {"hardware_id": "l4"}, ways)["framework"] == "sglang"
    assert answering.filled(asked | {"phase": "prefill"}, ways)["execution"] == "engine", (
        "as its device runs another phase"
    )
    assert answering.filled(asked | {"framework": "tgi"}, ways) == asked | {"framework": "tgi"}
    assert answering.filled(asked | {"weight_dtype": "int4"}, ways)["execution"] == "engine"
    assert "cache_implementation" not in answering.filled(asked, ways)


def test_quantities_keep_their_unit_and_three_digits() -> None:
    assert predictions.quantity("latency_s", 0.012345) == "12.3 ms"
    assert predictions.quantity("output_tokens_per_s", 12345.0) == "12,345 tokens/s"
    assert predictions.quantity("latency_s", None) == ""


def test_scores_of_folds_are_left_out_unless_asked_for() -> None:
    scores = pa.Table.from_pylist([{"target": "latency", "split": "random", "fold": fold, "contender": "rooflake", "num_rows": 3, "mdape": 0.1,
                                    "mape": 0.2, "p90_ape": 0.3, "coverage": None, "r2": 0.9} for fold in ("all", "1")])  # fmt: skip
    assert predictions.scored(predictions.pooled(scores)).to_pylist() == [
        {"target": "latency", "split": "random", "fold": "all", "contender": "rooflake", "num_rows": 3, "median error": "10.0%",
         "mean error": "20.0%", "90th percentile": "30.0%", "interval covers": None, "R2": "0.900"}
    ]  # fmt: skip
