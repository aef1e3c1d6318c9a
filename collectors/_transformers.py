"""LLMs of transformers: built with random or real weights, counted without weights. What runs on them is in `_steps`.

Speed does not depend on weight values or on which token ids go in, so random ones serve; sequences are full (no padding), as
after padding or truncation to one length.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from collectors import _int8, _modules
from collectors._steps import Case, cache_layers, make_step
from warehouse import catalog, schema
from warehouse.catalog.llm import Llm, parameter_count

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPES = (*TORCH_DTYPES, "int8")
"""What a model can be built in; int8 are the weights of its Linear layers, all else is bf16."""

ATTENTION_NAMES = {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}

_RANDOM_FILLS = {
    "normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_",
    "orthogonal_", "exponential_", "log_normal_",
}  # fmt: skip
_DEPTH_KEYS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers",
)  # fmt: skip
_BY_LAYER_KEYS = ("layer_types", "no_rope_layers")
_LAYER_INDEX_KEYS = ("mlp_only_layers", "moe_layers")

TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "spiece.model", "sentencepiece*", "special_tokens_map.json")
_TILE = 65521  # a prime: no row of a weight repeats its neighbour


@dataclass(frozen=True)
class Target:
    """An LLM to run. `weights` is what `from_pretrained` takes; None runs the architecture with random weights.

    `revision` is the hub's commit of the weights, or a digest of a local folder's; `tokenizer_hash` is over the tokenizer's files.
    """

    llm: Llm
    weights: str | None = None
    is_catalogued: bool = True
    revision: str | None = None
    tokenizer_hash: str | None = None


@dataclass(frozen=True)
class Work:
    """What one sequence of a phase takes: FLOPs, bytes of KV cache and of logits."""

    flops: float
    kv_cache_bytes: float | None
    logits_bytes: float

    def bytes_of(self, batch_size: int) -> float:
        """Bytes that a batch holds at the end, weights apart."""
        return batch_size * (self.logits_bytes + (0.0 if self.kv_cache_bytes is None else self.kv_cache_bytes))


def catalogued(name: str) -> Target:
    """A catalogue LLM with random weights. Raises catalog.UnknownEntryError."""
    return Target(catalog.find_llm(name))


def from_checkpoint(checkpoint: str) -> Target:
    """A local checkpoint folder or a hub id. A folder that holds a config.json and no weights runs with random ones.

    It keeps its catalogue id where the catalogue knows it under that name with the same shapes; else its id is its last
    name and a digest of its config. Raises ValueError where there is no config.json that can be read.
    """
    from transformers.utils import cached_file

    folder = Path(checkpoint)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(
            f"'{folder.name}' holds no config.json: not a checkpoint folder. Give the folder save_pretrained wrote."
        )
    try:
        path = Path(str(cached_file(checkpoint, "config.json")))
    except OSError as error:
        raise ValueError(
            f"'{checkpoint}' is neither a checkpoint folder nor a hub id that can be reached from here "
            f"({str(error).splitlines()[0]})."
        ) from error
    config = {name: value for name, value in json.loads(path.read_text()).items() if not name.startswith("_")}
    is_bare = folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin"))
    weights = None if is_bare else checkpoint
    revision = None if is_bare else _revision(path)
    tokenizer = _digest_of_files(path.parent, TOKENIZER_FILES)
    name = Path(checkpoint).name if folder.is_dir() else checkpoint
    llm_id = f"{re.sub(r'[^a-z0-9.]+', '-', Path(name).name.lower()).strip('-')}-{schema.digest(config)[:8]}"
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date().isoformat()
    llm = Llm.from_config(llm_id, config, name=name, source=f"config.json of {name}", source_date=written)
    with contextlib.suppress(catalog.UnknownEntryError):
        known = catalog.find_llm(name)
        if _shapes(known) == _shapes(llm):
            return Target(known, weights, revision=revision, tokenizer_hash=tokenizer)
    return Target(llm, weights, is_catalogued=False, revision=revision, tokenizer_hash=tokenizer)


def activation_dtype(dtype: str) -> str:
    """What activations and KV cache of a model of a dtype are in."""
    return _int8.ACTIVATION_DTYPE if dtype == "int8" else dtype


def _revision(config_path: Path) -> str | None:
    """The hub's commit where the file lies in its cache (.../snapshots/<commit>/config.json), else a digest of the weights."""
    if config_path.parent.parent.name == "snapshots":
        return config_path.parent.name
    return _digest_of_files(config_path.parent, ("*.safetensors", "*.bin"))


def _digest_of_files(folder: Path, patterns: Sequence[str]) -> str | None:
    """16 hexadecimal digits over names and content of the files that are there; None for none."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if not paths:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def cut(target: Target, num_layers: int) -> Target:
    """The first layers of an LLM, with its embeddings and head, as an LLM of its own: `<id>-<num_layers>-layers`.

    Both stacks of an encoder-decoder are cut. Raises ValueError for more layers than it has, and for a checkpoint with weights.
    """
    llm = target.llm
    depth = max(llm.num_layers, llm.num_encoder_layers)
    if target.weights is not None:
        raise ValueError(f"'{llm.llm_id}' has weights, and only LLMs with random ones can be cut to fewer layers.")
    if not 1 <= num_layers <= depth:
        raise ValueError(f"'{llm.llm_id}' cannot be cut to {num_layers} layers. It has {depth}; give 1 to {depth}.")
    if num_layers == depth:
        return target
    config = dict(llm.config)
    config |= {key: min(num_layers, config[key]) for key in _DEPTH_KEYS if config.get(key) is not None}
    config |= {key: config[key][:num_layers] for key in _BY_LAYER_KEYS if config.get(key)}
    config |= {key: [one for one in config[key] if one < num_layers] for key in _LAYER_INDEX_KEYS if config.get(key)}
    shapes = Llm.from_config(
        f"{llm.llm_id}-{num_layers}-layers", config, name=f"{llm.name}, {num_layers} layers", organisation=llm.organisation,
        family=llm.family, source=llm.source, source_date=llm.source_date,
        note=f"The first {num_layers} of the {depth} layers of {llm.llm_id}, with its embeddings and head.",
    )  # fmt: skip
    return Target(replace(shapes, num_parameters=parameter_count(shapes)), is_catalogued=False)


def skeleton(target: Target, dtype: str, attention: str | None, device: str) -> Any:
    """The architecture in evaluation mode with every matrix on the meta device, where it takes no memory.

    Vectors (norms, biases) and buffers are on the device with their initial values. Raises what `build` raises.
    """
    options: dict[str, Any] = {"dtype": TORCH_DTYPES[dtype]}
    if attention is not None:
        options["attn_implementation"] = ATTENTION_NAMES[attention]
    register = torch.nn.Module.register_parameter

    def register_without_memory(module: Any, name: str, parameter: Any) -> None:
        if parameter is not None and parameter.ndim > 1 and not parameter.is_meta:
            parameter = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    torch.nn.Module.register_parameter = register_without_memory  # type: ignore[method-assign, assignment]
    try:
        with torch.device(device), _WithoutRandomFills():
            return _auto_class(target.llm).from_config(_config(target.llm), **options).eval()
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]


def build(target: Target, dtype: str, attention: str | None, device: str, *, is_masked_lm: bool = False) -> Any:
    """The model on a device, in evaluation mode; an encoder with its head for masked tokens where that is asked for.

    Raises ValueError where transformers knows no such architecture.
    """
    auto = _auto_class(target.llm, is_masked_lm)
    options: dict[str, Any] = {"dtype": TORCH_DTYPES[activation_dtype(dtype)]}
    if attention is not None:
        options["attn_implementation"] = ATTENTION_NAMES[attention]
    if target.weights is not None:
        model = auto.from_pretrained(target.weights, **options).to(device).eval()
    else:
        with torch.device(device), _WithoutRandomFills():
            model = auto.from_config(_config(target.llm), **options).eval()
        _fill(model)
    if dtype == "int8":
        _int8.quantize(model)
    return model


class Blueprint:
    """A model without weights: fake tensors give shapes without memory, and phases can be counted without computing them.

    Raises what transformers raises for an architecture or an attention implementation that it lacks.
    """

    def __init__(self, target: Target, dtype: str, attention: str | None) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._mode:
            self._model = build(Target(target.llm), activation_dtype(dtype), attention, "cpu")
        self.attention = _attention_of(self._model)
        self.num_parameters = sum(parameter.numel() for parameter in self._model.parameters())
        self.weights_bytes = _int8.weights_bytes(self._model) if dtype == "int8" else weights_bytes(self._model)
        self._counted: dict[Case, Work | Exception] = {}
        # a fused kernel may not run on fake tensors; eager attention does, and is counted in full
        self._model.set_attn_implementation("eager")

    def work(self, case: Case) -> Work | Exception:
        """Work of ONE sequence of a case, or the error that kept it from being counted (control flow on values, say).

        FLOPs are 2 per multiply-add of every matrix product and of attention (full S x S), nothing element-wise. All are
        proportional to the batch, and no task matters, so one count serves them all.
        """
        single = replace(case, batch_size=1, task="")
        if single not in self._counted:
            try:
                self._counted[single] = self._generated(single) if case.phase == "generate" else self._count(single)
            except Exception as error:
                self._counted[single] = error
        return self._counted[single]

    def _generated(self, case: Case) -> Work:
        """A prefill and the decode steps after it, whose work grows evenly with the context: counted at both ends and between."""
        if case.output_tokens is None:
            raise ValueError("A generate needs output_tokens.")
        steps = case.output_tokens - 1
        prefill = self._count(replace(case, phase="prefill", output_tokens=None))
        if steps == 0:
            return prefill
        is_encoder_decoder = self._model.config.is_encoder_decoder
        first = 2 if is_encoder_decoder else (case.input_tokens or 1) + 1

        def step(context: int) -> Work:
            kept = case.input_tokens if is_encoder_decoder else None
            return self._count(
                replace(case, phase="decode", input_tokens=kept, output_tokens=None, context_tokens=context)
            )

        low, middle, high = (step(first + offset) for offset in (0, (steps - 1) // 2, steps - 1))
        slope = (high.flops - low.flops) / max(1, steps - 1)
        if abs(low.flops + slope * ((steps - 1) // 2) - middle.flops) > 1e-6 * middle.flops:
            raise ValueError("the work of a decode step does not grow evenly with its context")
        return Work(
            flops=prefill.flops + steps * (low.flops + high.flops) / 2,
            kv_cache_bytes=high.kv_cache_bytes,
            logits_bytes=prefill.logits_bytes,
        )

    def _count(self, case: Case) -> Work:
        with self._mode, torch.no_grad():
            step = make_step(self._model, case, "cpu")
            output, flops = _modules.counted(step.call)
        cache = getattr(output, "past_key_values", None)
        logits = output.logits if hasattr(output, "logits") else output.last_hidden_state
        return Work(
            flops=flops,
            kv_cache_bytes=_cache_bytes(cache) if cache is not None else None,
            logits_bytes=float(logits.numel() * logits.element_size()),
        )


def weights_bytes(model: Any) -> float:
    """Bytes of all parameters, tied ones once."""
    return float(sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))


def _attention_of(model: Any) -> str | None:
    """The attention implementation a model uses, in the warehouse's words."""
    name = str(getattr(model.config, "_attn_implementation", None))
    return next((ours for ours, theirs in ATTENTION_NAMES.items() if name == theirs), None)


def _cache_bytes(cache: Any) -> float:
    tensors = [
        tensor for layer in cache_layers(cache) for tensor in vars(layer).values() if isinstance(tensor, torch.Tensor)
    ]
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def _auto_class(llm: Llm, is_masked_lm: bool = False) -> Any:
    import transformers

    return {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModelForMaskedLM if is_masked_lm else transformers.AutoModel,
        "encoder_decoder": transformers.AutoModelForSeq2SeqLM,
    }[llm.architecture]


def _config(llm: Llm) -> Any:
    from transformers import AutoConfig

    keys = copy.deepcopy(dict(llm.config))
    return AutoConfig.for_model(keys.pop("model_type"), **keys)


def _shapes(llm: Llm) -> tuple[object, ...]:
    return tuple(
        getattr(llm, name)
        for name in ("model_type", "num_layers", "num_encoder_layers", "hidden_size", "num_heads", "num_kv_heads",
                     "head_dim", "intermediate_size", "vocab_size")
    )  # fmt: skip


class _WithoutRandomFills(TorchFunctionMode):
    """Leaves random initialisation of matrices out: filling 500 million weights twice takes ten seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _RANDOM_FILLS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.ndim > 1:
                return tensor
        return func(*args, **kwargs)


@torch.no_grad()
def _fill(model: Any) -> None:
    """Small normal numbers in every matrix, so that no denormal or NaN slows it; vectors have their true initial values."""
    tile = torch.randn(_TILE, generator=torch.Generator().manual_seed(0)) * 0.02
    for parameter in model.parameters():
        if parameter.ndim < 2 or not parameter.is_floating_point():
            continue
        values = tile.to(parameter.device, parameter.dtype)
        flat = parameter.view(-1)
        whole = flat.numel() // _TILE
        flat[: whole * _TILE].view(whole, _TILE).copy_(values.expand(whole, _TILE))
        flat[whole * _TILE :].copy_(values[: flat.numel() - whole * _TILE])
