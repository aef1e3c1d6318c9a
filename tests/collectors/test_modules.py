"""Module trees of tiny and of real architectures: what adds up, what can be worked out by hand, what meets its analytical twin."""

from collections import Counter

import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from collectors import _modules, _op_kinds  # noqa: E402
from collectors import _transformers as engine  # noqa: E402
from models.analytical import evaluate  # noqa: E402
from warehouse import parquet, schema  # noqa: E402

HIDDEN, HEADS, KV_HEADS, INNER, VOCABULARY, LAYERS = 64, 4, 2, 128, 256, 2
BATCH, TOKENS = 2, 16


def llama(**options):
    settings = {
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "intermediate_size": INNER, "vocab_size": VOCABULARY, "tie_word_embeddings": False,
    }  # fmt: skip
    config = transformers.LlamaConfig(**settings, attn_implementation=options.pop("attention", "sdpa"), **options)
    return transformers.LlamaForCausalLM(config)


def ids(vocabulary=VOCABULARY):
    return torch.randint(0, vocabulary, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))


def leaves(rows):
    containers = {(row["phase"], row["parent_path"]) for row in rows}
    return [row for row in rows if (row["phase"], row["path"]) not in containers]


def total(rows, column, **where):
    return sum(
        row[column] * row["count"]
        for row in leaves(rows)
        if row[column] is not None and all(row[name] == value for name, value in where.items())
    )


def by_path(rows, phase="forward"):
    return {row["path"]: row for row in rows if row["phase"] == phase}


def timed(model, call, passes=3):
    timer = _modules.ModuleTimer(model)
    with torch.inference_mode():
        for _ in range(passes):
            with timer:
                call()
        with timer.accounts():
            call()
    return timer


# ---- one pass


def test_leaves_add_up_to_the_mean_of_several_passes():
    model, inputs = llama().eval(), ids()
    timer = timed(model, lambda: model(input_ids=inputs, use_cache=False), passes=4)
    rows = timer.rows("run", "forward")
    root = rows[0]
    assert (root["path"], root["parent_path"], root["op_kind"], root["count"]) == ("LlamaForCausalLM", None, "model", 1)
    assert root["time_s"] == pytest.approx(timer.total_s / 4)
    assert total(rows, "time_s") == pytest.approx(root["time_s"])
    assert total(rows, "flops") == root["flops"]
    assert {row["level"] for row in rows} == {"module"}
    assert [row["op_index"] for row in rows] == list(range(len(rows)))
    paths = {row["path"] for row in rows}
    assert len(paths) == len(rows)
    assert all(row["parent_path"] in paths for row in rows[1:])
    parquet.check("ops", rows)


def test_a_module_called_twice_in_a_pass_has_the_values_of_one_execution():
    shared = torch.nn.Linear(8, 8, bias=False)
    model = torch.nn.Sequential(shared, torch.nn.ReLU(), shared)
    timer = timed(model, lambda: model(torch.ones(4, 8)))
    row = by_path(timer.rows("run", "forward"))["0"]
    assert (row["count"], row["m"], row["n"], row["k"]) == (2, 4, 8, 8)
    assert row["flops"] == 2 * 4 * 8 * 8
    assert by_path(timer.rows("run", "forward"))["Sequential"]["flops"] == 2 * row["flops"]
    assert by_path(timer.rows("run", "forward"))["Sequential"]["num_parameters"] == 64


def test_hooks_are_gone_afterwards_also_where_the_pass_failed():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(4, 4))
    timer = _modules.ModuleTimer(model)
    for passes in (lambda: timer, timer.accounts):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), passes():
            model(torch.ones(1, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    timer.clear()
    assert timer.rows("run", "forward") == []


def test_parameters_are_counted_once_and_in_bytes():
    model = llama().eval().to(torch.bfloat16)
    model.lm_head.weight = model.model.embed_tokens.weight
    inputs = ids()
    rows = by_path(timed(model, lambda: model(input_ids=inputs, use_cache=False), passes=1).rows("run", "forward"))
    attention = HIDDEN * (2 * HIDDEN + 2 * KV_HEADS * HIDDEN // HEADS)
    layer = attention + 3 * HIDDEN * INNER + 2 * HIDDEN
    assert rows["model.layers.1.self_attn"]["num_parameters"] == attention
    assert rows["model.layers.0"]["num_parameters"] == layer
    assert rows["LlamaForCausalLM"]["num_parameters"] == VOCABULARY * HIDDEN + LAYERS * layer + HIDDEN
    assert rows["LlamaForCausalLM"]["parameter_bytes"] == 2 * rows["LlamaForCausalLM"]["num_parameters"]
    assert rows["model.layers.0.mlp.act_fn"]["num_parameters"] == 0


# ---- memory


def test_memory_of_a_gated_mlp_is_what_can_be_worked_out():
    model, inputs = llama().eval(), ids()
    rows = by_path(timed(model, lambda: model(input_ids=inputs, use_cache=False), passes=1).rows("run", "forward"))
    narrow, wide = 4 * BATCH * TOKENS * HIDDEN, 4 * BATCH * TOKENS * INNER
    mlp = rows["model.layers.0.mlp"]
    assert (mlp["activation_bytes"], mlp["memory_bytes"]) == (narrow, narrow)
    assert mlp["memory_peak_bytes"] == 3 * wide  # act(gate), up, and their product
    # beside them: the state for the residual addition and the input of the feed-forward network
    assert rows["model.layers.0"]["memory_peak_bytes"] == 3 * wide + 2 * narrow
    up = rows["model.layers.0.mlp.up_proj"]
    assert (up["activation_bytes"], up["memory_bytes"], up["memory_peak_bytes"]) == (wide, wide, wide)
    assert rows["LlamaForCausalLM"]["memory_peak_bytes"] >= rows["model.layers.0"]["memory_peak_bytes"]


def test_the_peak_of_one_child_is_no_other_childs():
    class Widening(torch.nn.Module):
        def forward(self, x):
            return x.repeat(1, 10).sum(1, keepdim=True)

    class Passing(torch.nn.Module):
        def forward(self, x):
            return x + 1

    model = torch.nn.Sequential(Widening(), Passing())
    rows = by_path(timed(model, lambda: model(torch.ones(100, 1))).rows("run", "forward"))
    assert rows["0"]["memory_peak_bytes"] == 11 * 400
    assert rows["1"]["memory_peak_bytes"] == 400
    assert (
        rows["Sequential"]["memory_peak_bytes"] == 11 * 400
    )  # above what was held when it began: the input is outside
    assert rows["Sequential"]["memory_bytes"] == 400


def test_views_and_changes_in_place_hold_nothing():
    class Looking(torch.nn.Module):
        def forward(self, x):
            return x.view(-1).add_(1)[3:]

    model = Looking()
    (row,) = timed(model, lambda: model(torch.ones(10, 10))).rows("run", "forward")
    assert (row["memory_bytes"], row["memory_peak_bytes"], row["activation_bytes"]) == (0, 0, 97 * 4)


def test_training_holds_what_backward_needs():
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    timer = _modules.TrainingTimer(model, torch.optim.SGD(model.parameters()))
    with timer.accounts():
        timer.backward(timer.forward(lambda: model(torch.ones(8, 32)).sum()))
    rows = by_path(timer.rows("run"))
    assert rows["0"]["memory_bytes"] == 8 * 64 * 4  # goes when the ReLU is through, which keeps its own output
    assert rows["1"]["memory_bytes"] == 8 * 64 * 4
    assert rows["Sequential"]["memory_bytes"] == 8 * 64 * 4 + 8 * 4


class Device:
    """What `torch.cuda` is asked for: events on a stream of its own time, and an allocator."""

    def __init__(self, monkeypatch):
        self.now_s, self.held, self.peak, self.waits = 0.0, 0, 0, 0
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at_s = device.now_s

            def elapsed_time(self, end):
                assert device.waits, "read before the device was waited for"
                return (end.at_s - self.at_s) * 1e3

        def wait():
            self.waits += 1

        def reset():
            self.peak = self.held

        for name, double in {
            "Event": Event, "synchronize": wait, "memory_allocated": lambda: self.held,
            "max_memory_allocated": lambda: self.peak, "reset_peak_memory_stats": reset,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, double)

    def work(self, seconds, kept, more):
        self.now_s += seconds
        self.peak = max(self.peak, self.held + kept + more)
        self.held += kept


def test_a_device_is_timed_by_events_and_asked_for_its_peaks(monkeypatch):
    device = Device(monkeypatch)

    class Work(torch.nn.Module):
        def __init__(self, *work, inner=()):
            super().__init__()
            self.work, self.inner = work, torch.nn.ModuleList(inner)

        def forward(self, x):
            for one in self.inner:
                x = one(x)
            device.work(*self.work)
            return x

    # seconds, bytes kept, bytes needed meanwhile
    model = Work(1.0, 5, 1, inner=[Work(2.0, 10, 300), Work(4.0, 20, 40)])
    device.held = device.peak = 1000
    timer = _modules.ModuleTimer(model, "cuda:0")
    for _ in range(3):
        with timer:
            model(torch.ones(1))
        assert device.waits == 1  # after the pass, not in it
        device.waits = 0
    with timer.accounts():
        model(torch.ones(1))
    rows = by_path(timer.rows("run", "forward"))
    assert "time_s" not in rows["Work"]
    seconds = {path: row["device_time_s"] for path, row in rows.items()}
    assert seconds == {"Work": 7.0, "inner.0": 2.0, "inner.1": 4.0, "Work.(self)": 1.0}
    peaks = {path: (row["memory_bytes"], row["memory_peak_bytes"]) for path, row in rows.items()}
    assert peaks == {"Work": (35, 310), "inner.0": (10, 310), "inner.1": (20, 60), "Work.(self)": (None, None)}


# ---- work


FAMILIES = (
    "llama-2-7b", "opt-350m", "bloom-560m", "gpt2", "pythia-160m", "gpt-oss-20b", "falcon-7b", "glm-4-9b", "glm-4.5-air",
    "mixtral-8x7b", "qwen1.5-moe-a2.7b", "qwen3-30b-a3b", "deepseek-v2-lite", "deepseek-v3", "gemma-2-2b", "phi-2",
    "phi-3-mini", "olmo-2-7b", "t5-small", "bart-base", "mobilebert", "distilbert-base", "bert-base", "llama-4-scout",
)  # fmt: skip
TWINS = {"attention_scores": "attention", "attention_values": "attention"}


def counted(llm_id, phase, attention):
    """Rows of the first layers of a catalogue LLM without weights, what torch counts of them, and the analytical ops."""
    llm = engine.catalogued(llm_id).llm
    target = engine.cut(
        engine.Target(llm), 4 if llm_id == "deepseek-v3" else LAYERS
    )  # whose first experts are in the fourth
    is_pair, is_step = llm.architecture == "encoder_decoder", phase == "decode"
    case = engine.Case(
        phase, "generation", BATCH, None if is_step and not is_pair else TOKENS, 8 if is_pair and not is_step else None,
        TOKENS if is_step else None,
    )  # fmt: skip
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = engine.build(target, "bf16", attention, "cpu")
        step = engine.make_step(model, case, "cpu")
        timer = _modules.ModuleTimer(model)
        step.prepare()
        with timer.accounts():
            step.call()
        step.prepare()
        with FlopCounterMode(display=False) as counter:
            step.call()
    config = {
        "llm_id": target.llm.llm_id, "hardware_id": "t4", "phase": phase, "batch_size": BATCH, "attention": attention,
        "input_tokens": case.input_tokens, "output_tokens": case.output_tokens, "context_tokens": case.context_tokens,
        "weight_dtype": "bf16", "activation_dtype": "bf16", "kv_dtype": "bf16",
    }  # fmt: skip
    totals, ops = evaluate(pa.Table.from_pylist([config]), llms=[target.llm])
    assert totals["status"].to_pylist() == ["ok"]
    return timer.rows("run", phase), counter.get_total_flops(), ops.to_pylist()


def products(llm_id, rows, ops):
    """FLOPs of products by op kind, measured and analytical, where the two use the same words."""
    measured, expected = Counter(), Counter()
    for row in leaves(rows):
        if row["flops"] is not None:
            measured[row["op_kind"]] += row["flops"] * row["count"]
    for op in ops:
        if op["m"] is not None:
            expected[TWINS.get(op["op_kind"], op["op_kind"])] += op["flops"] * op["count"]
    expected["gemm"] = expected.pop(
        "other", 0
    )  # poolers, bottlenecks, gates of shared experts: the inventory has no word
    if llm_id in ("phi-3-mini", "glm-4-9b"):  # one product gives gate and up
        expected["up_proj"] += expected.pop("gate_proj")
    if llm_id == "llama-4-scout":  # every token goes through all 16 experts, where 1 is needed
        expected["experts"] *= 16
    return dict(measured), {kind: flops for kind, flops in expected.items() if flops}


@pytest.mark.parametrize("llm_id", FAMILIES)
def test_every_product_of_a_family_meets_its_analytical_twin(llm_id):
    rows, counted_flops, ops = counted(llm_id, "forward", "eager")
    measured, expected = products(llm_id, rows, ops)
    assert measured == expected
    grouped = measured.get("experts", 0.0)  # torch's own counter leaves grouped products out
    assert counted_flops in (rows[0]["flops"], rows[0]["flops"] - grouped)
    for row in leaves(rows):
        if row["m"] is not None:
            assert row["flops"] == 2 * row["m"] * row["n"] * row["k"], row["path"]


@pytest.mark.parametrize("llm_id", ["llama-3-8b", "mistral-7b", "gpt2", "opt-125m", "pythia-160m", "qwen2-7b"])
def test_fused_attention_of_a_step_reads_the_cache_that_its_twin_reads(llm_id):
    rows, _, ops = counted(llm_id, "decode", "sdpa")
    (twin,) = (op for op in ops if op["op_kind"] == "attention")
    names = ("kv_bytes_read", "activation_bytes_read", "activation_bytes_written", "bytes_moved")
    cores = [row for row in leaves(rows) if row["op_kind"] == "attention"]
    assert len(cores) == LAYERS
    for core in cores:
        assert {name: core[name] for name in names} == {name: twin[name] for name in names}
        assert core["arithmetic_intensity"] == core["flops"] / core["bytes_moved"]


@pytest.mark.parametrize("llm_id", ["llama-3-8b", "gemma-3-270m", "bert-base", "t5-small"])
def test_traffic_of_products_and_norms_meets_that_of_the_twins(llm_id):
    rows, _, ops = counted(llm_id, "forward", "sdpa")
    for kind in ("q_proj", "o_proj", "up_proj", "down_proj", "norm", "lm_head"):
        for column in ("weight_bytes_read", "activation_bytes_read", "activation_bytes_written"):
            expected = sum(op[column] * op["count"] for op in ops if op["op_kind"] == kind)
            assert total(rows, column, op_kind=kind) == expected, (kind, column)
    looked_up = by_path(rows)
    for path in looked_up:
        if path.endswith("embed_tokens"):
            assert looked_up[path]["weight_bytes_read"] == looked_up[path]["activation_bytes_written"]


@pytest.mark.parametrize("llm_id", ["mixtral-8x7b", "qwen2-7b"])
def test_the_work_of_a_run_is_that_of_its_modules(llm_id):
    rows, _, _ = counted(llm_id, "forward", "eager")
    blueprint = engine.Blueprint(engine.cut(engine.catalogued(llm_id), LAYERS), "bf16", None)
    work = blueprint.work(engine.Case("forward", "generation", BATCH, TOKENS, None, None))
    assert rows[0]["flops"] == BATCH * work.flops


def test_fused_attention_on_a_cpu_counts_as_much_as_eager_attention():
    inputs = ids()
    flops = {}
    for attention in ("sdpa", "eager"):
        model = llama(attention=attention).eval()
        rows = timed(model, lambda model=model: model(input_ids=inputs, use_cache=False), passes=1).rows(
            "run", "forward"
        )
        flops[attention] = by_path(rows)["model.layers.0.self_attn.(self)"]["flops"]
    assert flops["sdpa"] == flops["eager"] == 4 * BATCH * TOKENS * TOKENS * HIDDEN


# ---- training


def trained(model, call, passes=2, optimizer=torch.optim.AdamW):
    updated = [parameter for parameter in model.parameters() if parameter.requires_grad]
    timer = _modules.TrainingTimer(model, optimizer(updated))

    def step():
        timer.backward(timer.forward(call))
        timer.step()

    for _ in range(passes):
        with timer:
            step()
    with timer.accounts():
        step()
    return timer.rows("run")


def counted_step(call):
    with FlopCounterMode(display=False) as forward:
        loss = call()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def test_a_step_has_its_phases_and_its_flops():
    model, inputs = llama(attention="eager").train(), ids()

    def call():
        return model(input_ids=inputs, labels=inputs, use_cache=False).loss

    rows = trained(model, call)
    forward, backward = counted_step(call)
    assert total(rows, "flops", phase="forward") == forward
    assert total(rows, "flops", phase="backward") == backward == 2 * forward
    assert list(dict.fromkeys(row["phase"] for row in rows)) == ["forward", "backward", "optimizer"]
    ahead, back = by_path(rows), by_path(rows, "backward")
    for path, row in back.items():
        assert row["parent_path"] == ahead[path]["parent_path"]
        assert (row["op_kind"], row["count"]) == (ahead[path]["op_kind"], 1)
        if ahead[path]["flops"] is not None:
            assert row["flops"] == 2 * ahead[path]["flops"], path
    assert total(rows, "time_s", phase="backward") == pytest.approx(
        sum(row["time_s"] for row in back.values() if row["parent_path"] is None)
    )
    (update,) = by_path(rows, "optimizer").values()
    assert (update["op_kind"], update["class_name"], update["count"]) == ("optimizer", "AdamW", 1)
    assert update["num_parameters"] == ahead["LlamaForCausalLM"]["num_parameters"]
    assert update["time_s"] > 0
    parquet.check("ops", rows)


def test_gradients_of_experts_are_counted():
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 64,
    }
    config = transformers.MixtralConfig(**sizes, intermediate_size=48, num_local_experts=4, num_experts_per_tok=2)
    model, inputs = transformers.MixtralForCausalLM(config).train(), ids(64)
    rows = trained(model, lambda: model(input_ids=inputs, labels=inputs, use_cache=False).loss, passes=1)
    pairs = 2 * BATCH * TOKENS
    assert total(rows, "flops", phase="forward", op_kind="experts") == 2 * pairs * 3 * 32 * 48
    assert total(rows, "flops", phase="backward", op_kind="experts") == 2 * 2 * pairs * 3 * 32 * 48


def test_frozen_weights_get_no_gradient_and_half_the_work():
    model, inputs = llama(attention="eager").train(), ids()
    model.requires_grad_(False)
    model.model.layers[0].self_attn.q_proj.weight.requires_grad_(True)

    def call():
        return model(input_ids=inputs, labels=inputs, use_cache=False).loss

    rows = trained(model, call)
    ahead, back = by_path(rows), by_path(rows, "backward")
    assert total(rows, "flops", phase="backward") == counted_step(call)[1]
    frozen, first = "model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"
    assert back[frozen]["flops"] == ahead[frozen]["flops"]
    assert back[first]["flops"] == ahead[first]["flops"]  # of the weight; nothing before it needs a gradient
    assert "model.layers.0.self_attn.k_proj" not in back
    assert "model.embed_tokens" not in back
    (update,) = by_path(rows, "optimizer").values()
    assert update["num_parameters"] == HIDDEN * HIDDEN


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_what_checkpoints_compute_again_is_a_phase_of_its_own(is_reentrant):
    model, inputs = llama(attention="eager").train(), ids()
    plain = trained(model, lambda: model(input_ids=inputs, labels=inputs, use_cache=False).loss)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": is_reentrant})

    def call():
        return model(input_ids=inputs, labels=inputs, use_cache=False).loss

    rows = trained(model, call)
    again = total(rows, "flops", phase="recompute")
    assert total(rows, "flops", phase="forward") == total(plain, "flops", phase="forward")
    assert total(rows, "flops", phase="backward") == total(plain, "flops", phase="backward")
    assert again + total(rows, "flops", phase="backward") == counted_step(call)[1]
    layers = LAYERS * by_path(plain)["model.layers.0"]["flops"]
    last = LAYERS * by_path(plain)["model.layers.0.mlp.down_proj"]["flops"]  # whose result no gradient needs
    assert again == (layers if is_reentrant else layers - last)
    assert by_path(rows, "recompute")["model.layers.1.self_attn.q_proj"]["time_s"] > 0
    if not is_reentrant:  # the last product of a layer was broken off
        assert by_path(rows, "recompute")["model.layers.1.mlp.down_proj"]["bytes_moved"] is None
    held = by_path(rows)["model.layers.0"]["memory_bytes"]
    assert held == 4 * BATCH * TOKENS * HIDDEN < by_path(plain)["model.layers.0"]["memory_bytes"]


def test_micro_batches_and_a_loss_outside_the_model_are_told_apart():
    model = torch.nn.Sequential(torch.nn.Linear(8, 4))
    timer = _modules.TrainingTimer(model, torch.optim.SGD(model.parameters()))

    def loss():
        return (model(torch.ones(5, 8)) @ torch.ones(4, 3)).sum()

    def step():
        for _ in range(2):
            timer.backward(timer.forward(loss))
        timer.step()

    for _ in range(3):
        with timer:
            step()
    with timer.accounts():
        step()
    rows = timer.rows("run")
    counts = {(row["phase"], row["path"]): row["count"] for row in rows}
    assert (
        counts["forward", "0"]
        == counts["backward", "0"]
        == counts["forward", "loss"]
        == counts["backward", "loss"]
        == 2
    )
    assert counts["optimizer", "optimizer"] == 1
    outside = by_path(rows)["loss"]
    assert (outside["op_kind"], outside["parent_path"], outside["flops"]) == ("loss", None, 2 * 5 * 4 * 3)
    assert by_path(rows, "backward")["loss"]["flops"] == 2 * 5 * 4 * 3  # the weights outside are no parameters


# ---- names


def test_op_kinds_are_words_of_the_vocabulary():
    assert {kind for _, kind in _op_kinds.OP_KINDS} <= set(schema.OP_KINDS)
    assert _op_kinds.layer_index("encoder.block.3.layer.1.DenseReluDense") == 3
    assert _op_kinds.layer_index("lm_head") is None


@pytest.mark.parametrize(
    ("path", "class_name", "kind"),
    [
        ("model.layers.0.self_attn.kv_a_proj_with_mqa", "Linear", "k_proj"),
        ("model.layers.0.self_attn.kv_b_proj", "Linear", "v_proj"),
        ("model.layers.0.self_attn.q_a_proj", "Linear", "q_proj"),
        ("model.layers.0.mlp.shared_expert_gate", "Linear", "gemm"),
        ("model.layers.0.mlp.shared_expert.gate_proj", "Linear", "gate_proj"),
        ("transformer.h.0.attn.c_attn", "Conv1D", "qkv_proj"),
        ("transformer.h.0.mlp.c_proj", "Conv1D", "down_proj"),
        ("transformer.h.3.self_attention.dense", "Linear", "o_proj"),
        ("model.decoder.layers.0.fc1", "Linear", "up_proj"),
        ("model.decoder.project_in", "Linear", "gemm"),
        ("encoder.layer.0.attention.self.query", "Linear", "q_proj"),
        ("encoder.layer.0.attention.output.dense", "Linear", "o_proj"),
        ("encoder.layer.0.output.dense", "Linear", "down_proj"),
        ("transformer.layer.0.ffn", "FFN", "mlp"),
        ("model.rotary_emb", "LlamaRotaryEmbedding", "rope"),
        ("lm_head", "Linear", "lm_head"),
        ("something.new", "Whatever", "other"),
    ],
)
def test_op_kind(path, class_name, kind):
    assert _op_kinds.op_kind(path, class_name) == kind
