"""Phases of an LLM ready to run: what is executed, how it is issued (eager, compiled, CUDA graph), how its KV cache is kept.

Token ids are synthetic: speed does not depend on which go in. Nothing inside a call waits for the device but what is said to.
A static cache is sized to the phase, and its lengths and positions are tensors on the device.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from warehouse import schema

GRAPH_WARMUPS = 3
"""Executions on a side stream before a CUDA graph is captured: libraries choose and allocate what a capture may not."""


class UnsupportedError(Exception):
    """What this model, device or build of torch cannot run."""


@dataclass(frozen=True)
class Case:
    """What one execution works on. Tokens per sequence; NULL as in the configuration columns of `runs`."""

    phase: str
    task: str
    batch_size: int
    input_tokens: int | None
    output_tokens: int | None
    context_tokens: int | None


@dataclass
class Step:
    """One phase ready to run. `prepare` puts the KV cache back to where the phase starts; call it before each `call`.

    Each call of a generate appends the seconds to its first token to `first_token_s`. `compile_s` is what compilation (or the
    capture of a graph) took; `note` what a reader must know of it.
    """

    call: Callable[[], Any]
    prepare: Callable[[], None] = lambda: None
    first_token_s: list[float] = field(default_factory=list)
    compile_s: float | None = None
    note: str | None = None


def make_step(model: Any, case: Case, device: str, cache: str = "dynamic", execution: str = "eager") -> Step:
    """A case on a model, with synthetic token ids. Run it as it was made: in torch.inference_mode() or without gradients.

    forward: logits of all tokens, no KV cache. prefill: fills the KV cache, logits of the last token only where the model
    can (of an encoder-decoder: the encoder and the decoder's first token). decode: one token against a cache of
    context_tokens - 1 (of an encoder-decoder: and input_tokens of encoder output). generate: greedy, output_tokens of them,
    whatever they are; the host waits for the device after the first token and nowhere else.
    `cache` dynamic or static is how decode and generate keep theirs. Raises UnsupportedError for what cannot be compiled or
    captured here.
    """
    if execution == "graph" and device != "cuda":
        raise UnsupportedError("a CUDA graph needs a CUDA device")
    if case.phase == "generate":
        if cache == "static":
            return _generate_static(model, case, device, execution)
        if execution != "eager":
            raise UnsupportedError("generate against a growing cache has no fixed shapes to compile or capture")
        return _generate_dynamic(model, case, device)
    if case.phase == "decode":
        make = _decode_static if cache == "static" else _decode_dynamic
        call, prepare = make(model, case, device)
    else:
        kwargs = _inputs(model, case, device)
        call, prepare = (lambda run: run(**kwargs)), _nothing
    return _issued(model, call, prepare, execution)


# ---- how a step is issued


def _issued(model: Any, call: Callable[[Any], Any], prepare: Callable[[], None], execution: str) -> Step:
    """`call(run)` calls `run` once with fixed arguments, where `run` is the model or its compiled forward."""
    if execution == "compiled":
        return _compiled(model.forward, call, prepare)
    if execution == "graph":
        return _captured(lambda: call(model), prepare)
    return Step(lambda: call(model), prepare)


def _compiled(function: Callable[..., Any], call: Callable[[Any], Any], prepare: Callable[[], None]) -> Step:
    """In one graph where torch.compile finds one, else with breaks, which is noted."""
    began = time.perf_counter()
    note = None
    try:
        run = torch.compile(function, fullgraph=True, dynamic=False)
        prepare()
        call(run)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        torch.compiler.reset()
        note = f"compiled with graph breaks ({_first_line(error)})"
        run = torch.compile(function, dynamic=False)
        try:
            prepare()
            call(run)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise UnsupportedError(f"torch.compile cannot run it: {_first_line(error)}") from error
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Step(lambda: call(run), prepare, compile_s=time.perf_counter() - began, note=note)


def _captured(call: Callable[[], Any], prepare: Callable[[], None]) -> Step:
    """A CUDA graph of one call: a replay reads and writes the same memory as the capture did."""
    began = time.perf_counter()
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(GRAPH_WARMUPS):
            prepare()
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    prepare()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            output = call()
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, torch.OutOfMemoryError):
            raise cause from None
        raise UnsupportedError(f"it cannot be captured in a CUDA graph: {_first_line(cause)}") from error
    step = Step(functools.partial(_replay, graph, output, call), prepare)
    step.compile_s = time.perf_counter() - began
    return step


def _replay(graph: Any, output: Any, call: Callable[[], Any]) -> Any:
    """`call` holds the tensors that the graph reads: given back, their memory would be another tensor's at the next replay."""
    graph.replay()
    return output


# ---- decode


def _decode_dynamic(model: Any, case: Case, device: str) -> tuple[Callable[[Any], Any], Callable[[], None]]:
    past = _past(case)
    kwargs: dict[str, Any] = {"use_cache": True}
    token = token_ids(model, case, 1, device)
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            output = model(input_ids=token, decoder_input_ids=token, use_cache=True)
            _lengthen(output.past_key_values.self_attention_cache, past)
            _lengthen(output.past_key_values.cross_attention_cache, case.input_tokens)
            kwargs |= {"decoder_input_ids": token, "encoder_outputs": (_encoded(output, case),)}
        else:
            output = _cached_prompt(model, case, past, device)
            kwargs["input_ids"] = token
    kwargs["past_key_values"] = output.past_key_values
    saved = [(layer, dict(vars(layer))) for layer in cache_layers(output.past_key_values)]

    def prepare() -> None:
        for layer, state in saved:
            vars(layer).update(state)

    return (lambda run: run(**kwargs)), prepare


def _decode_static(model: Any, case: Case, device: str) -> tuple[Callable[[Any], Any], Callable[[], None]]:
    """A cache of exactly context_tokens, all but the last of them filled."""
    past = _past(case)
    cache = _static_cache(model, case, past + 1)
    token = token_ids(model, case, 1, device)
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            output = model(
                input_ids=token, decoder_input_ids=token, past_key_values=cache, use_cache=True,
                decoder_attention_mask=_ones(case, past + 1, device),
            )  # fmt: skip
            _fill(cache.self_attention_cache, past)
            _fill(cache.cross_attention_cache, case.input_tokens)
            kwargs = _static_arguments(model, case, cache, token, past + 1, (_encoded(output, case),))
        else:
            prompt = token if _is_plain(cache) else token_ids(model, case, past, device)
            model(**_static_arguments(model, case, cache, prompt, past + 1))
            if _is_plain(cache):
                _fill(cache, past)
            kwargs = _static_arguments(model, case, cache, token, past + 1)
    if "position_ids" in kwargs:
        kwargs["position_ids"] = torch.full_like(token, past)
    return (lambda run: run(**kwargs)), _restorer(cache)


def _past(case: Case) -> int:
    if case.context_tokens is None:
        raise ValueError("A decode step needs context_tokens.")
    return case.context_tokens - 1


# ---- generate


def _generate_dynamic(model: Any, case: Case, device: str) -> Step:
    first_token_s: list[float] = []
    kwargs = _inputs(model, case, device)

    def call() -> Any:
        began = time.perf_counter()
        output = model(**kwargs)
        token = _chosen(output)
        _synchronize(device)
        first_token_s.append(time.perf_counter() - began)
        following: dict[str, Any] = {"past_key_values": output.past_key_values, "use_cache": True}
        name = "input_ids"
        if model.config.is_encoder_decoder:
            name, following["encoder_outputs"] = "decoder_input_ids", (output.encoder_last_hidden_state,)
        for _ in range(_generated(case) - 1):
            token = _chosen(model(**following, **{name: token}))
        return token

    return Step(call, first_token_s=first_token_s)


def _generate_static(model: Any, case: Case, device: str, execution: str) -> Step:
    """The prompt is prefilled eagerly; each later token is one step of the asked execution over the same memory."""
    first_token_s: list[float] = []
    is_encoder_decoder = model.config.is_encoder_decoder
    own = 1 if is_encoder_decoder else case.input_tokens or 1
    length = own + _generated(case) - 1
    cache = _static_cache(model, case, length)
    prompt = token_ids(model, case, own, device)
    token = prompt[:, :1].clone()
    first = _static_arguments(model, case, cache, prompt, length)
    if is_encoder_decoder:
        first["input_ids"] = token_ids(model, case, case.input_tokens, device)
    output = model(**first)
    encoded = (output.encoder_last_hidden_state,) if is_encoder_decoder else None
    following = _static_arguments(model, case, cache, token, length, encoded)
    positions = following.get("position_ids")

    def reset() -> None:
        _set_length(cache, 0)

    def advance(run: Any = model) -> Any:
        token.copy_(_chosen(run(**following)))
        if positions is not None:
            positions.add_(1)

    def start_decoding() -> None:
        """Where the first later token starts, for compilation and capture."""
        reset()
        model(**first)
        if positions is not None:
            positions.fill_(own)

    if execution == "eager":
        step = Step(advance)
    elif execution == "compiled":
        step = _compiled(model.forward, advance, start_decoding)
    else:
        step = _captured(advance, start_decoding)

    def call() -> Any:
        began = time.perf_counter()
        token.copy_(_chosen(model(**first)))
        if positions is not None:
            positions.fill_(own)
        _synchronize(device)
        first_token_s.append(time.perf_counter() - began)
        for _ in range(_generated(case) - 1):
            step.call()
        return token

    return Step(call, reset, first_token_s, step.compile_s, step.note)


def _generated(case: Case) -> int:
    if case.output_tokens is None:
        raise ValueError("A generate needs output_tokens.")
    return case.output_tokens


def _chosen(output: Any) -> torch.Tensor:
    """Most likely next token of every sequence, shape (batch_size, 1)."""
    return output.logits[:, -1:].argmax(-1)


# ---- inputs


def _inputs(model: Any, case: Case, device: str) -> dict[str, Any]:
    """Arguments of a forward pass or of a prefill (the first pass of a generate too)."""
    keeps_cache = case.phase != "forward"
    kwargs: dict[str, Any] = {"input_ids": token_ids(model, case, case.input_tokens, device)}
    if model.config.is_encoder_decoder:
        kwargs["decoder_input_ids"] = token_ids(model, case, 1 if keeps_cache else case.output_tokens, device)
    parameters = inspect.signature(model.forward).parameters
    if "use_cache" in parameters:
        kwargs["use_cache"] = keeps_cache
    if keeps_cache and "logits_to_keep" in parameters:
        kwargs["logits_to_keep"] = 1
    return kwargs


def _static_arguments(
    model: Any, case: Case, cache: Any, tokens: torch.Tensor, length: int, encoded: tuple[Any, ...] | None = None
) -> dict[str, Any]:
    """Arguments of a pass over a static cache: masks as long as the cache, so that no length has to be read back."""
    device = str(tokens.device)
    parameters = inspect.signature(model.forward).parameters
    kwargs: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    if model.config.is_encoder_decoder:
        kwargs |= {"decoder_input_ids": tokens, "decoder_attention_mask": _ones(case, length, device)}
        if encoded is not None:
            kwargs["encoder_outputs"] = encoded
        return kwargs
    kwargs |= {"input_ids": tokens, "attention_mask": _ones(case, length, device)}
    if "position_ids" in parameters:
        kwargs["position_ids"] = torch.arange(tokens.shape[1], device=tokens.device).repeat(case.batch_size, 1)
    if "logits_to_keep" in parameters:
        kwargs["logits_to_keep"] = 1
    return kwargs


def _ones(case: Case, length: int, device: str) -> torch.Tensor:
    return torch.ones((case.batch_size, length), dtype=torch.long, device=device)


def token_ids(model: Any, case: Case, tokens: int | None, device: str) -> torch.Tensor:
    """Token ids of a case, shape (batch_size, tokens): the same for the same task every time, special ids left out."""
    vocabulary = int(model.config.vocab_size)
    generator = torch.Generator().manual_seed(int(schema.digest(case.task), 16) % 2**31)
    low = min(10, vocabulary // 2)
    shape = (case.batch_size, tokens if tokens is not None else 1)
    return torch.randint(low, min(vocabulary, 2**31), shape, generator=generator).to(device)


# ---- caches


def _cached_prompt(model: Any, case: Case, past: int, device: str) -> Any:
    """Output of a prefill that leaves `past` tokens in the cache.

    One token is prefilled and its keys and values repeated, which takes milliseconds; caches of another kind than keys and
    values (recurrent states) are prefilled in full.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    output = model(input_ids=token_ids(model, case, 1, device), use_cache=True)
    if all(type(one) in (DynamicLayer, DynamicSlidingWindowLayer) for one in cache_layers(output.past_key_values)):
        _lengthen(output.past_key_values, past)
        return output
    return model(**_inputs(model, replace(case, phase="prefill", input_tokens=past), device))


def _lengthen(cache: Any, tokens: int | None) -> None:
    """A growing cache of one token as one of `tokens`; a sliding window keeps one token less than it is wide."""
    for layer in cache.layers:
        window = getattr(layer, "sliding_window", None)
        kept = tokens if window is None or tokens is None else min(tokens, window - 1)
        layer.keys = layer.keys.repeat(1, 1, kept, 1)
        layer.values = layer.values.repeat(1, 1, kept, 1)
        if window is not None:
            layer.cumulative_length = tokens


def _encoded(output: Any, case: Case) -> torch.Tensor:
    hidden: torch.Tensor = output.encoder_last_hidden_state
    return hidden.repeat(1, case.input_tokens or 1, 1)


def _static_cache(model: Any, case: Case, length: int) -> Any:
    """An empty static cache; of an encoder-decoder one for itself and one for what its encoder gave."""
    from transformers.cache_utils import EncoderDecoderCache, StaticCache

    cache = StaticCache(config=model.config, max_cache_len=length)
    if not all(hasattr(layer, "cumulative_length") for layer in cache.layers):
        raise UnsupportedError("some of its layers keep recurrent states, which no static cache holds")
    if not model.config.is_encoder_decoder:
        return cache
    return EncoderDecoderCache(cache, StaticCache(config=model.config, max_cache_len=case.input_tokens))


def _is_plain(cache: Any) -> bool:
    from transformers.cache_utils import StaticLayer, StaticSlidingWindowLayer

    return all(type(layer) in (StaticLayer, StaticSlidingWindowLayer) for layer in cache_layers(cache))


def _fill(cache: Any, tokens: int | None) -> None:
    """The first token's keys and values in the first `tokens` places of a plain static cache, as far as it has them."""
    for layer in cache.layers:
        layer.keys[:, :, :tokens] = layer.keys[:, :, :1].clone()
        layer.values[:, :, :tokens] = layer.values[:, :, :1].clone()
        _set_layer_length(layer, tokens)


def _restorer(cache: Any) -> Callable[[], None]:
    """Puts the lengths of a static cache back to what they are now; what was written beyond them is written again."""
    saved = [
        (layer, layer.cumulative_length.clone(), getattr(layer, "cumulative_length_int", None))
        for layer in cache_layers(cache)
    ]

    def restore() -> None:
        for layer, length, whole in saved:
            layer.cumulative_length.copy_(length)
            if whole is not None:
                layer.cumulative_length_int = whole

    return restore


def _set_length(cache: Any, length: int) -> None:
    for layer in cache_layers(cache):
        _set_layer_length(layer, length)
    for index in getattr(cache, "is_updated", {}):
        cache.is_updated[index] = False


def _set_layer_length(layer: Any, length: int | None) -> None:
    layer.cumulative_length.fill_(length)
    if hasattr(layer, "cumulative_length_int"):  # a sliding window's, which decides on the host
        layer.cumulative_length_int = length


def cache_layers(cache: Any) -> list[Any]:
    """Layers of a cache; of an encoder-decoder its own, then those over what the encoder gave."""
    if hasattr(cache, "cross_attention_cache"):
        return [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    return list(cache.layers)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _cause(error: BaseException) -> BaseException:
    """What broke a capture: ending it raises an error of its own, which only says that it was broken."""
    return error if error.__context__ is None else _cause(error.__context__)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:300] if lines else ''}"


def _nothing() -> None:
    return None
