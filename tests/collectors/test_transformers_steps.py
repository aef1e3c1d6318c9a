"""Phases of tiny LLMs as they are issued: the same tokens whatever the cache, and what is counted for them."""

import functools
import weakref

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from collectors import _int8, _steps  # noqa: E402
from collectors import _transformers as engine  # noqa: E402
from warehouse.catalog.llm import Llm  # noqa: E402

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 256}
CONFIGS = {
    "llama": SIZES | {"num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64},
    "mistral": SIZES | {"num_key_value_heads": 2, "intermediate_size": 128, "sliding_window": 8},
    "opt": SIZES | {"ffn_dim": 128, "max_position_embeddings": 64, "word_embed_proj_dim": 64},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256, "n_positions": 64},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2, "vocab_size": 256,
           "decoder_start_token_id": 0},
    "bart": {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 256,
             "max_position_embeddings": 64},
}  # fmt: skip


@pytest.fixture(scope="module")
def models():
    """One model a family, made when asked for."""
    made = {}

    def model(name):
        if name not in made:
            made[name] = engine.build(target(name), "fp32", None, "cpu")
        return made[name]

    return model


def target(name):
    config = {"model_type": name} | CONFIGS[name]
    return engine.Target(Llm.from_config(f"tiny-{name}", config, name=name, source="a test", source_date="2026-11-21"))


def decode_case(model, context=12):
    inputs = 6 if model.config.is_encoder_decoder else None
    return _steps.Case("decode", "generation", 2, inputs, None, context)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_chooses_what_transformers_chooses(models, name, cache):
    model = models(name)
    batch = 1 if model.config.is_encoder_decoder else 2
    case = _steps.Case("generate", "generation", batch, 10, 6, None)
    prompt = _steps.token_ids(model, case, 10, "cpu")
    asked = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    if model.config.is_encoder_decoder:
        asked["decoder_start_token_id"] = int(_steps.token_ids(model, case, 1, "cpu"))
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), forced_eos_token_id=None, **asked)[:, -1:]
    with torch.inference_mode():
        step = _steps.make_step(model, case, "cpu", cache)
        for count in (1, 2):
            step.prepare()
            assert torch.equal(step.call(), expected)
            assert len(step.first_token_s) == count
    assert all(seconds > 0 for seconds in step.first_token_s)


@pytest.mark.parametrize(
    ("name", "context"), [("llama", 12), ("opt", 12), ("bloom", 12), ("gpt2", 12), ("mistral", 6), ("mistral", 12)]
)
def test_a_static_cache_gives_the_logits_of_a_growing_one(models, name, context):
    model = models(name)
    case = decode_case(model, context)  # mistral's window has 8 tokens
    with torch.inference_mode():
        growing, static = (_steps.make_step(model, case, "cpu", cache) for cache in ("dynamic", "static"))
        growing.prepare()
        expected = growing.call().logits
        for _ in range(3):
            static.prepare()
            torch.testing.assert_close(static.call().logits, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_static_cache_is_put_back_before_every_step(models, name):
    model = models(name)
    with torch.inference_mode():
        step = _steps.make_step(model, decode_case(model), "cpu", "static")
        lengths = []
        for _ in range(3):
            step.prepare()
            lengths.append(int(step.call().past_key_values.get_seq_length()))
    assert lengths == [12, 12, 12]


def test_what_cannot_be_issued_says_so(models):
    model = models("llama")
    generate = _steps.Case("generate", "generation", 1, 4, 2, None)
    with pytest.raises(_steps.UnsupportedError, match="a CUDA graph needs a CUDA device"):
        _steps.make_step(model, decode_case(model), "cpu", "static", "graph")
    with pytest.raises(_steps.UnsupportedError, match="no fixed shapes"):
        _steps.make_step(model, generate, "cpu", "dynamic", "compiled")


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_work_of_a_generate_is_that_of_its_passes(name):
    blueprint = engine.Blueprint(target(name), "fp32", None)
    whole = blueprint.work(_steps.Case("generate", "generation", 1, 10, 7, None))
    passes = [_steps.Case("prefill", "", 1, 10, None, None)]
    first, inputs = (2, 10) if name == "t5" else (11, None)
    passes += [_steps.Case("decode", "", 1, inputs, None, first + step) for step in range(6)]
    works = [blueprint.work(case) for case in passes]
    assert whole.flops == pytest.approx(sum(work.flops for work in works))
    assert whole.kv_cache_bytes == works[-1].kv_cache_bytes
    one = blueprint.work(_steps.Case("generate", "generation", 1, 10, 1, None))
    assert one.flops == works[0].flops


def test_int8_weights_multiply_like_those_they_were_made_of():
    linear = torch.nn.Linear(64, 32).to(torch.bfloat16)
    rows = torch.randn(2, 5, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        exact, rounded = linear(rows), _int8.Int8Linear(linear)(rows)
    assert rounded.shape == exact.shape == (2, 5, 32)
    assert (rounded - exact).float().abs().max() < 0.05 * exact.float().abs().max()


@pytest.mark.parametrize("name", ["llama", "opt", "t5"])
def test_int8_weights_are_counted_as_they_are_built(name):
    model = engine.build(target(name), "int8", None, "cpu")
    blueprint = engine.Blueprint(target(name), "int8", None)
    assert blueprint.weights_bytes == engine.weights_bytes(model)
    assert blueprint.weights_bytes < engine.Blueprint(target(name), "bf16", None).weights_bytes
    head = model.get_output_embeddings()
    assert head.weight.dtype == torch.bfloat16
    case = decode_case(model)
    with torch.inference_mode():
        step = _steps.make_step(model, case, "cpu", "static")
        step.prepare()
        assert torch.isfinite(step.call().logits).all()


def test_a_model_without_linear_layers_has_no_int8():
    with pytest.raises(_steps.UnsupportedError, match="no Linear layers"):
        engine.build(target("gpt2"), "int8", None, "cpu")


def test_a_checkpoint_carries_what_its_weights_and_its_tokenizer_are(tmp_path):
    config = transformers.LlamaConfig(**CONFIGS["llama"])
    folder = tmp_path / "checkpoint"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    first = engine.from_checkpoint(str(folder))
    (folder / "tokenizer.json").write_text("{ }")
    second = engine.from_checkpoint(str(folder))
    assert first.revision == second.revision
    assert first.tokenizer_hash != second.tokenizer_hash
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    assert engine.from_checkpoint(str(folder)).revision != first.revision
    assert engine.catalogued("gpt2").revision is None


class Device:
    """A double of torch.cuda as far as a capture asks it: what is captured is recorded by nobody, and replays are counted."""

    def __init__(self) -> None:
        self.num_replays = 0

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def wait_stream(self, stream: object) -> None:
        pass

    def replay(self) -> None:
        self.num_replays += 1


@pytest.fixture
def device(monkeypatch):
    double = Device()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: double)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return double


def test_what_a_graph_reads_lives_as_long_as_the_graph(device):
    given = torch.ones(3)
    freed = weakref.ref(given)
    step = _steps._captured(functools.partial(torch.neg, given), lambda: None)
    del given
    assert step.call().tolist() == [-1.0, -1.0, -1.0]
    assert device.num_replays == 1
    assert freed() is not None
    del step
    assert freed() is None


@pytest.mark.parametrize(
    ("broken_by", "raised"),
    [(ValueError("the length"), _steps.UnsupportedError), (torch.OutOfMemoryError("the pool"), torch.OutOfMemoryError)],
)
def test_a_capture_that_breaks_says_what_broke_it(device, broken_by, raised):
    def call():
        num_calls.append(1)
        if len(num_calls) > _steps.GRAPH_WARMUPS:
            raise broken_by

    num_calls = []
    with pytest.raises(raised, match=str(broken_by)):
        _steps._captured(call, lambda: None)
