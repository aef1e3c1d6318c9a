"""From measured rows alone to a prediction: `load` brings the bounds, `train` the predictors, `predict` the answer."""

import subprocess

import pyarrow.parquet as pq
import pytest
from command_line import rooflake
from sample_rows import run

from etl import training, twins
from warehouse import parquet
from warehouse.store import Home, open_store

DEVICE = {
    "hardware_id": "test-cpu", "name": "Test CPU", "kind": "cpu", "memory_bytes": 6.4e10,
    "memory_bandwidth_bytes_per_s": 2e10, "peak_fp32_flops_per_s": 1e11, "source": "made up", "source_date": "2026-11-21",
}  # fmt: skip
PARAMETERS = {"opt-125m": 125e6, "gpt2": 124e6, "bloom-560m": 559e6}


def measured_rows():
    """A decode step of three LLMs on a device that no catalogue holds: the weights at 16 GB/s and 1 ms on top."""
    fp32 = dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "fp32")
    return [
        run(f"{llm}-{batch}-{context}", llm_id=llm, hardware_id="test-cpu", attention="sdpa", **fp32, batch_size=batch,
            context_tokens=context, latency_s=4 * parameters / 16e9 + 1e-3 * batch * (1 + context / 1024),
            memory_peak_bytes=4 * parameters + 1e8 + 1e5 * batch * context,
            metric_definitions={"memory_peak_bytes": "torch_max_allocated"})
        for llm, parameters in PARAMETERS.items() for batch in (1, 2, 4) for context in (64, 256)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """What the file of another machine becomes after `rooflake load` and `rooflake train`."""
    place = Home.of(tmp_path_factory.mktemp("predict") / "home")
    parquet.land(place.landing, "gpu-node", {"runs": measured_rows(), "hardware": [DEVICE]})
    loaded = rooflake("load", "--home", place.path)
    assert loaded.returncode == 0, loaded.stderr
    assert "18 analytical twins of 18 configurations." in loaded.stderr
    trained = rooflake("train", "--home", place.path)
    assert trained.returncode == 0, trained.stderr
    assert "18 rows: median error leave_model_out" in trained.stderr
    return place.path


def test_loaded_measurements_meet_their_bound(home):
    with open_store(home, read_only=True) as store:
        rows = store.query("training_runs").to_pylist()
    assert len(rows) == 18
    assert all(0 < row["roofline_s"] < row["measured_latency_s"] for row in rows)


def test_loading_nothing_new_computes_nothing(home):
    again = rooflake("load", "--home", home)
    assert again.returncode == 0
    assert "nothing new" in again.stderr
    assert "twins" not in again.stderr


def test_training_brings_the_bounds_that_loading_did_not(tmp_path):
    place = Home.of(tmp_path)
    parquet.land(place.landing, "a", {"runs": [run("a"), run("b", batch_size=2)]})
    with open_store(place) as store:
        store.load()
    answer = rooflake("train", "--home", tmp_path)
    assert answer.returncode == 0
    assert "2 analytical twins of 2 configurations." in answer.stderr
    assert "latency: Too little to learn it from: 2 different rows of 1 llm groups" in answer.stderr


def test_what_the_load_of_twins_and_of_scores_refuses_is_reported(tmp_path):
    place = Home.of(tmp_path)
    parquet.land(place.landing, "a", {"runs": [run("a")]})
    lines = []
    with open_store(place) as store:
        store.load()
        for name, add in (("first", twins.add), ("second", training.train)):
            path = place.landing / "runs" / f"{name}.parquet"
            path.write_bytes(b"PAR1")
            assert list(add(store, lines.append).quarantined) == [f"runs/{name}.parquet"]
            path.unlink(missing_ok=True)


def predict(home, *words) -> subprocess.CompletedProcess[str]:
    return rooflake("predict", "--home", home, *words)


def test_a_prediction_stands_beside_its_bound(home, tmp_path):
    path = tmp_path / "answer.parquet"
    words = ("--llm", "gpt2", "--phase", "decode", "--tokens", 128, "--batch-size", 2)
    answer = predict(home, *words, "-f", "parquet", "-o", path)
    assert answer.returncode == 0, answer.stderr
    assert "decode of gpt2 on test-cpu, batch 2: Fits in memory with probability" in answer.stderr
    rows = {row["metric"]: row for row in pq.read_table(path).to_pylist()}
    assert rows["latency_s"]["made_by"] == "predictor"
    assert rows["latency_s"]["bound"] == pytest.approx(4 * 124e6 / 2e10, rel=0.2)
    assert rows["latency_s"]["lower"] < rows["latency_s"]["value"] < rows["latency_s"]["upper"]
    assert rows["latency_s"]["value"] == pytest.approx(4 * 124e6 / 16e9 + 2e-3 * 1.125, rel=0.2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--llm", "gpt2", "--phase", "banana"], "'banana' is not a phase. Known: forward, prefill, decode, generate"),
        (["--llm", "gpt2", "-f", "parquet"], "Parquet is binary: name a file with --output FILE."),
        (["--llm", "bert-base", "--phase", "decode"], "an encoder has no decode: it has forward."),
        (["--llm", "gpt2", "--dtype", "fp64"], "prefill of gpt2 on test-cpu, batch 1 has no answer: "),
    ],
)
def test_what_cannot_be_predicted_is_a_sentence(home, words, sentence):
    answer = predict(home, *words)
    assert answer.returncode == 2
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""
