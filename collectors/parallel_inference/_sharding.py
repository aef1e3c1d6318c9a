"""One rank's part of an LLM: tensor parallel by the plan that transformers gives a model, or a contiguous run of its layers.

No rank ever holds the whole: the model is built without memory for its matrices, cut, and only then filled. Values are the
same however it is cut, so that every rank count gives the same logits.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from collectors._steps import UnsupportedError

KEY_PROJECTIONS = ("k_proj", "qkv_proj", "query_key_value")
_TILE = 2**20
_SCALE = 0.02


class Link:
    """Communication of one rank with the others. While `is_timed`, `seconds` adds up the time inside, waiting included."""

    def __init__(self, rank: int, num_ranks: int, device: str) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self.is_timed, self.seconds = False, 0.0
        self._device = device
        self._sending: list[tuple[Any, torch.Tensor]] = []

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place."""
        return self._timed(lambda: dist.all_reduce(tensor), tensor)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The ranks' tensors of one shape side by side in the last dimension."""
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.num_ranks)]
        self._timed(lambda: dist.all_gather(parts, tensor), tensor)
        return torch.cat(parts, dim=-1)

    def send(self, tensor: torch.Tensor, to: int) -> None:
        """Start sending; `flush` waits."""
        tensor = tensor.contiguous()
        self._timed(lambda: self._sending.append((dist.isend(tensor, to), tensor)), tensor)

    def receive(self, into: torch.Tensor, origin: int) -> torch.Tensor:
        return self._timed(lambda: dist.recv(into, origin), into)

    def flush(self) -> None:
        """Wait until everything is sent."""
        for work, tensor in self._sending:
            self._timed(work.wait, tensor)
        self._sending.clear()

    def _timed(self, communicate: Callable[[], Any], tensor: torch.Tensor) -> torch.Tensor:
        if not self.is_timed:
            communicate()
            return tensor
        self.synchronize()
        began = time.perf_counter()
        communicate()
        self.synchronize()
        self.seconds += time.perf_counter() - began
        return tensor

    def synchronize(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


Cuts = dict[str, tuple[int, int]]
"""Parameter path -> dimension that is cut over the ranks, and how many equal blocks of it are cut each by itself."""


def canonical_paths(model: nn.Module) -> dict[int, str]:
    """id of a parameter -> its first path in the whole model, from which `materialise` takes its values."""
    return {id(parameter): path for path, parameter in model.named_parameters()}


def cut_by_plan(model: Any, link: Link) -> Cuts:
    """Hook every module of the model's tensor-parallel plan (`model.tp_plan`) and say which parameters to cut.

    Raises UnsupportedError for a model without a plan, a word of the plan that is not known here, and sizes that the ranks
    do not divide.
    """
    plan = dict(model.tp_plan or {})
    name = type(model).__name__
    if not plan:
        raise UnsupportedError(f"transformers gives {name} no tensor-parallel plan. Use the strategy 'layers'.")
    _check_heads(model.config.get_text_config(), plan, link.num_ranks)
    cuts: Cuts = {}
    for path, module in model.named_modules():
        word = plan.get(_generic(path))
        if word is not None:
            _hook(module, path, word, link)
            cuts |= {f"{path}.{own}": cut for own, cut in _module_cuts(module, word).items()}
        for own, _ in module.named_parameters(recurse=False):
            word = plan.get(_generic(f"{path}.{own}"))
            if word is not None:
                cuts[f"{path}.{own}"] = _parameter_cut(f"{path}.{own}", word)
    return cuts


def cut_by_layers(model: Any, link: Link) -> int:
    """Leave a rank its contiguous share of the layers, in place; returns their number. Activations go from rank to rank.

    The first rank keeps the embeddings, the last the head; norms between are everyone's (vectors). Raises UnsupportedError
    where there are fewer layers than ranks or no single list of layers.
    """
    config, rank, ranks = model.config.get_text_config(), link.rank, link.num_ranks
    total = int(config.num_hidden_layers)
    if total < ranks:
        raise UnsupportedError(f"{total} layers cannot be cut into {ranks} stages.")
    found = [
        path for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == total
    ]
    if len(found) != 1:
        raise UnsupportedError(f"{type(model).__name__} has {len(found)} lists of {total} layers, not one.")
    first, last = total * rank // ranks, total * (rank + 1) // ranks
    parent, _, name = found[0].rpartition(".")
    owner = model.get_submodule(parent)
    own = nn.ModuleList(list(getattr(owner, name))[first:last])
    setattr(owner, name, own)
    for module in own.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int):
            setattr(module, "layer_idx", index - first)  # noqa: B010 (the rank's own KV cache counts its layers from 0)
    kinds = getattr(config, "layer_types", None)
    config.num_hidden_layers = last - first
    if kinds:
        config.layer_types = list(kinds)[first:last]
    if rank > 0:
        model.set_input_embeddings(_NoEmbedding(model.get_input_embeddings().embedding_dim, model.dtype))
        own[0].register_forward_pre_hook(_receiver(link, rank - 1), with_kwargs=True)
    if rank < ranks - 1:
        model.set_output_embeddings(_NoHead())
        own[-1].register_forward_hook(_sender(link, rank + 1))
    return last - first


@torch.no_grad()
def materialise(model: nn.Module, paths: dict[int, str], cuts: Cuts, link: Link, device: str) -> None:
    """Give every parameter memory and its values: small normal numbers in matrices and biases, initial ones elsewhere.

    Element (i, j, ...) of a matrix is one number of a fixed row of random ones, at a place of the matrix plus i + j + ...:
    a part of it can be filled without the rest.
    """
    tile = torch.randn(_TILE, generator=torch.Generator().manual_seed(0)) * _SCALE
    tiles: dict[torch.dtype, torch.Tensor] = {}
    made: dict[tuple[int, tuple[int, int] | None], nn.Parameter] = {}
    kept = []  # ids stay theirs while the old parameters live
    for path, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            cut = cuts.get(f"{path}.{name}")
            key = (id(parameter), cut)
            if key not in made:
                if parameter.dtype not in tiles:
                    tiles[parameter.dtype] = tile.to(device, parameter.dtype)
                part = _part(parameter, paths[id(parameter)], cut, link, tiles[parameter.dtype])
                made[key] = nn.Parameter(part, requires_grad=False)
            kept.append(parameter)
            module.register_parameter(name, made[key])


def _part(
    parameter: torch.Tensor, path: str, cut: tuple[int, int] | None, link: Link, tile: torch.Tensor
) -> torch.Tensor:
    if parameter.ndim < 2 and not path.endswith("bias"):
        return parameter.detach() if cut is None else parameter.detach().chunk(link.num_ranks)[link.rank].clone()
    start, shape = zlib.crc32(path.encode()) % 4096, list(parameter.shape)
    if cut is None:
        return _values(tile, shape, start).clone(memory_format=torch.contiguous_format)
    dim, blocks = cut[0] % parameter.ndim, cut[1]
    if shape[dim] % (blocks * link.num_ranks):
        raise UnsupportedError(f"{path}: {shape[dim]} cannot be cut into {link.num_ranks} equal parts.")
    block = shape[dim] // blocks
    shape[dim] = block // link.num_ranks
    offsets = [index * block + link.rank * shape[dim] for index in range(blocks)]
    return torch.cat([_values(tile, shape, start + offset) for offset in offsets], dim=dim)


def _values(tile: torch.Tensor, shape: list[int], start: int) -> torch.Tensor:
    return tile.as_strided(shape, [1] * len(shape), start)


# ---- the plan's words


def _generic(path: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)


def _check_heads(config: Any, plan: dict[str, str], ranks: int) -> None:
    if not any(path.rpartition(".")[2] in KEY_PROJECTIONS and word == "colwise" for path, word in plan.items()):
        return
    for what in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, what, None)
        if isinstance(heads, int) and heads % ranks:
            raise UnsupportedError(f"{what} = {heads} cannot be shared evenly by {ranks} ranks.")


_COLWISE = ("colwise", "colwise_gather_output", "colwise_rep")
_ROWWISE = ("rowwise", "rowwise_split_input", "rowwise_rep")
_WHOLE = ("replicated_with_grad_allreduce", "replicate", "mla_kv_a_proj", "local_params")
"""Words under which inference keeps the whole parameter on every rank."""


def _module_cuts(module: nn.Module, word: str) -> Cuts:
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if word in _COLWISE:
        return dict.fromkeys(own, (0, 1))
    if word in _ROWWISE:
        return {"weight": (1, 1)}  # the bias is added once, by everyone, to the sum
    return {"weight": (0, 1)} if word == "embedding_rowwise" else {}


def _parameter_cut(path: str, word: str) -> tuple[int, int]:
    """Parameters that are no linear layer's own: the stacked matrices of experts."""
    known = {"colwise": (-2, 1), "packed_colwise": (-2, 2), "rowwise": (-1, 1), "packed_rowwise": (-1, 2)}
    if word not in known:
        raise UnsupportedError(f"{path}: '{word}' of the tensor-parallel plan is not known for a parameter.")
    return known[word]


def _hook(module: Any, path: str, word: str, link: Link) -> None:
    if word in _COLWISE[1:]:
        module.register_forward_hook(lambda _, __, output: link.gather(output))
    elif word in _ROWWISE:
        module.forward = _rowwise(module, link, is_input_whole=word != "rowwise")
    elif word == "embedding_rowwise":
        module.forward = _lookup(module, module.forward, link)
    elif word in ("moe_tp_experts", "all_reduce"):
        module.register_forward_hook(lambda _, __, output: link.all_reduce(output))
    elif word not in (*_COLWISE, *_WHOLE):
        raise UnsupportedError(f"{path}: '{word}' of the tensor-parallel plan is not known here.")


def _rowwise(module: Any, link: Link, *, is_input_whole: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(value: torch.Tensor) -> torch.Tensor:
        if is_input_whole:
            value = value.chunk(link.num_ranks, dim=-1)[link.rank]
        output = link.all_reduce(functional.linear(value, module.weight))
        return output if module.bias is None else output + module.bias

    return forward


def _lookup(module: Any, forward: Callable[[torch.Tensor], torch.Tensor], link: Link) -> Callable[..., torch.Tensor]:
    """Every rank looks up the ids of its slice of the vocabulary; the others are zero in its part of the sum."""

    def vocabulary_parallel(ids: torch.Tensor) -> torch.Tensor:
        rows = module.weight.shape[0]
        ours = ids - link.rank * rows
        is_absent = (ours < 0) | (ours >= rows)
        found: torch.Tensor = forward(ours.masked_fill(is_absent, 0))
        return link.all_reduce(found.masked_fill(is_absent.unsqueeze(-1), 0))

    return vocabulary_parallel


# ---- stages of layers


class _NoEmbedding(nn.Module):
    """In place of the embeddings where activations come from another rank."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._width, self._dtype = width, dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, self._width, dtype=self._dtype, device=ids.device)


class _NoHead(nn.Module):
    """In place of the head where activations go to another rank."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[..., :1]


def _receiver(link: Link, origin: int) -> Callable[..., Any]:
    def receive(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (link.receive(torch.empty_like(args[0]), origin), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": link.receive(torch.empty_like(kwargs["hidden_states"]), origin)}

    return receive


def _sender(link: Link, to: int) -> Callable[..., None]:
    def send(_: nn.Module, __: Any, output: Any) -> None:
        link.send(output[0] if isinstance(output, tuple) else output, to)

    return send
