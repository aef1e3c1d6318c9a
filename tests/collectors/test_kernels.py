"""Kernels of small models under the real profiler: attributed to modules, counted in closed form, the trace kept without private values."""

from __future__ import annotations

import gzip
import json
import socket
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from collectors import _kernels, _launches, _trace, from_torch_trace  # noqa: E402
from collectors import _transformers as engine  # noqa: E402
from warehouse import parquet  # noqa: E402

BATCH, TOKENS = 2, 24


@pytest.fixture(scope="module")
def llm() -> Any:
    """A small LLM of the catalogue's architecture, in evaluation mode."""
    config = transformers.LlamaConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=256,
        vocab_size=512, attn_implementation="sdpa",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def step(llm: Any) -> engine.Step:
    with torch.inference_mode():
        return engine.make_step(llm, engine.Case("prefill", "", BATCH, TOKENS, None, None), "cpu")


@pytest.fixture(scope="module")
def profiled(llm: Any, step: engine.Step, tmp_path_factory: pytest.TempPathFactory) -> tuple[_kernels.Profile, Path]:
    kept = tmp_path_factory.mktemp("traces") / "run-1.json.gz"
    with torch.inference_mode():
        profile = _kernels.profile(
            step.call, llm, device="cpu", prepare=step.prepare, run_id="run-1", phase="prefill", first_index=100,
            trace_path=kept,
        )  # fmt: skip
    return profile, kept


def total(rows: list[dict[str, Any]], column: str) -> float:
    return float(sum(row["count"] * row[column] for row in rows if row.get(column) is not None))


def test_operators_belong_to_modules(profiled: tuple[_kernels.Profile, Path], llm: Any) -> None:
    profile, _ = profiled
    paths = {path for path, _ in llm.named_modules() if path} | {type(llm).__name__}
    assert profile.attributed_ratio is not None
    assert profile.attributed_ratio > 0.95
    assert {row["parent_path"] for row in profile.rows} - {None} <= paths
    assert profile.kernel_time_s is None
    assert profile.note is None
    assert 0 < total(profile.rows, "time_s") < profile.wall_s


def test_flops_of_a_modules_rows_are_its_linear_layers(profiled: tuple[_kernels.Profile, Path], llm: Any) -> None:
    profile, _ = profiled
    found: dict[str, float] = {}
    for row in profile.rows:
        if row.get("flops") is not None and row["op_kind"] != "attention":
            found[row["parent_path"]] = found.get(row["parent_path"], 0.0) + row["count"] * row["flops"]
    expected = {
        path: 2.0 * BATCH * (1 if path == "lm_head" else TOKENS) * module.weight.numel()
        for path, module in llm.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    rotary = {path: value for path, value in found.items() if path.endswith("rotary_emb")}
    assert {path: value for path, value in found.items() if path not in rotary} == expected
    kinds = {row["op_kind"] for row in profile.rows if row.get("flops") is not None}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"} <= kinds


def test_flops_of_all_rows_are_those_of_the_counter(
    profiled: tuple[_kernels.Profile, Path], llm: Any, step: engine.Step
) -> None:
    profile, _ = profiled
    llm.set_attn_implementation("eager")
    step.prepare()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        step.call()
    llm.set_attn_implementation("sdpa")
    assert total(profile.rows, "flops") == counter.get_total_flops()
    attention = [row for row in profile.rows if row["op_kind"] == "attention" and row.get("flops")]
    assert total(attention, "flops") == 3 * 4.0 * BATCH * 4 * TOKENS * TOKENS * 32


def test_rows_fit_the_table_of_ops(profiled: tuple[_kernels.Profile, Path]) -> None:
    rows = profiled[0].rows
    table = parquet.check("ops", rows)
    assert table.column("op_index").to_pylist() == list(range(100, 100 + len(rows)))
    assert set(table.column("level").to_pylist()) == {"kernel"}
    assert set(table.column("phase").to_pylist()) == {"prefill"}
    assert set(table.column("run_id").to_pylist()) == {"run-1"}
    layers = {row["layer_index"] for row in rows}
    assert layers == {None, 0, 1, 2}


def test_the_kept_trace_says_the_same_and_nothing_private(
    profiled: tuple[_kernels.Profile, Path], tmp_path: Path
) -> None:
    profile, kept = profiled
    text = gzip.decompress(kept.read_bytes()).decode()
    assert socket.gethostname() not in [str(value) for value in json.loads(text).values()]
    assert {"host_name", "traceName"}.isdisjoint(json.loads(text))
    assert str(Path.home()) not in text
    assert str(tmp_path.parent) not in text
    again = _launches.Launches(_trace.read(kept)).kernel_rows("prefill")
    assert [row | {"run_id": "run-1", "op_index": 100 + index} for index, row in enumerate(again)] == profile.rows


def test_the_kept_trace_can_be_imported(profiled: tuple[_kernels.Profile, Path], tmp_path: Path) -> None:
    from_torch_trace.collect(tmp_path, files=profiled[1], phase="prefill", hardware_id="h100-sxm", batch_size=BATCH)
    ops = parquet.read("ops", next((tmp_path / "ops").glob("*.parquet"))).to_pylist()
    modules = {row["path"]: row for row in ops if row["level"] == "module"}
    assert modules["model.layers.2.mlp.down_proj"]["op_kind"] == "down_proj"
    assert modules["model.layers.2.mlp.down_proj"]["parent_path"] == "model.layers.2.mlp"
    assert modules["model.layers.2"]["layer_index"] == 2
    assert {row["count"] for row in modules.values()} == {1}
    kernels = [row for row in ops if row["level"] == "kernel"]
    assert [(row["path"], row["count"], row["time_s"]) for row in kernels] == [
        (row["path"], row["count"], row["time_s"]) for row in profiled[0].rows
    ]


def test_what_prepares_an_execution_is_not_counted() -> None:
    size = 64
    a = torch.randn(size, size)
    profile = _kernels.profile(
        lambda: a @ a, None, device="cpu", prepare=lambda: torch.softmax(a, -1), run_id="r", executions=2
    )
    kinds = {row["path"] for row in profile.rows}
    assert "aten::mm" in kinds
    assert not {path for path in kinds if "softmax" in path}
    assert total(profile.rows, "flops") == 2.0 * size**3
    assert profile.attributed_ratio == 0.0


def test_hooks_are_gone_afterwards_also_when_a_forward_fails() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        _kernels.profile(lambda: model(torch.ones(1, 4)), model, device="cpu", run_id="r")
    assert not [one for one in model.modules() if one._forward_hooks or one._forward_pre_hooks]


def test_a_training_steps_backward_belongs_to_the_modules_of_its_forward() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(6, 8)

    def train() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    profile = _kernels.profile(train, model, device="cpu", run_id="r", phase="pretrain_step")
    flops = {
        (row["parent_path"], row["phase"]): row["count"] * row["flops"]
        for row in profile.rows
        if row.get("flops") is not None and row["phase"] == "forward"
    }
    backward: dict[str | None, float] = {}
    for row in profile.rows:
        if row.get("flops") is not None and row["phase"] == "backward":
            backward[row["parent_path"]] = backward.get(row["parent_path"], 0.0) + row["count"] * row["flops"]
    first, last = 2.0 * 6 * 8 * 16, 2.0 * 6 * 16 * 4
    assert flops == {("0", "forward"): first, ("2", "forward"): last}
    assert backward == {"0": first, "2": 2 * last}  # no gradient of the input is asked for
    assert "optimizer" in {row["phase"] for row in profile.rows}


def test_the_profiler_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    _kernels.profile(lambda: torch.ones(3).sum(), None, device="cpu", run_id="r")
    assert capfd.readouterr() == ("", "")
