"""Time, work and memory of every module of a torch model, as rows of `ops`: "PyTorch summary" for inference and training.

Modules nest by who called whom. What a container does outside its child modules (attention scores, residual additions,
masks) is a leaf of its own, `<path>.(self)`, so that the leaves add up to the whole. Time and accounts come from passes of
their own, since either disturbs the other. FLOPs are those of matrix products and attention (every query with every key), as in
`runs.flops`; traffic is what has to move, where that is certain.

    timer = ModuleTimer(model, device)
    with timer:            # several passes: rows give the mean of one execution of a module
        call()
    with timer.accounts(): # one pass: FLOPs, bytes held and peaks; slower, so that its time is not taken
        call()
    rows = timer.rows(run_id, "prefill")
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from collectors._op_kinds import layer_index, op_kind


@dataclass
class _Node:
    """One module as called by one parent. Times, FLOPs and bytes are sums over its calls; time and FLOPs without its children's."""

    path: str
    module: Any
    parent: _Node | None = None
    calls: int = 0
    own_s: float = 0.0
    accounted: int = 0
    own_flops: float | None = None
    is_cached: bool = False
    bytes: dict[str, float] = field(default_factory=dict)
    own_bytes: dict[str, float] = field(default_factory=dict)
    """Of `(self)`: what its fused attention moves."""
    peak_bytes: float | None = None
    rows: set[int] = field(default_factory=set)
    children: dict[str, _Node] = field(default_factory=dict)

    def child(self, path: str, module: Any) -> _Node:
        """The child of a path, in order of first call."""
        if path not in self.children:
            self.children[path] = _Node(path, module, self)
        return self.children[path]

    @property
    def kind(self) -> str:
        return op_kind(self.path, type(self.module).__name__) if self.path else "model"

    @property
    def own_kind(self) -> str:
        """What a container does itself: experts and attention are products, whatever else is beside its children."""
        kinds = {child.kind for child in self.children.values()}
        is_product = self.kind == "experts" or (self.kind == "attention" and kinds & {"q_proj", "qkv_proj"})
        return self.kind if is_product else "other"

    @property
    def executions(self) -> int:
        return self.calls or self.accounted

    @property
    def total_s(self) -> float:
        return self.own_s + sum(child.total_s for child in self.children.values())

    @property
    def flops(self) -> float | None:
        """FLOPs of one execution, without its children's: as counted, else 2 m n k of a linear layer; None where neither."""
        if self.own_flops is not None:
            return self.own_flops / self.accounted
        return 2.0 * math.prod(self.gemm) if self.gemm is not None else None

    @property
    def total_flops(self) -> float | None:
        """FLOPs of one execution with its children's; None where nothing countable ran."""
        inner = [(child.total_flops, child.executions) for child in self.children.values()]
        parts = [flops * executions / self.executions for flops, executions in inner if flops is not None]
        if self.flops is not None:
            parts.append(self.flops)
        return sum(parts) if parts else None

    @property
    def gemm(self) -> tuple[int, int, int] | None:
        """(m, n, k) of a linear layer that always meets as many rows; None for others."""
        shape = weight_shape(self.module)
        return (next(iter(self.rows)), *shape) if shape is not None and len(self.rows) == 1 else None


class _Clock:
    """Time between turns: wall clock on a CPU; on CUDA events on the current stream, read when the pass is over."""

    def __init__(self, device: str) -> None:
        self._is_cuda = is_cuda(device)
        self._turns: list[tuple[_Node | None, Any]] = []

    def turn(self, node: _Node | None) -> None:
        """From now on time is this node's; None for nobody's."""
        self._turns.append((node, self._now()))

    def enter(self, node: _Node, given: Any) -> None:
        self.turn(node)

    def leave(self, node: _Node, back: _Node | None, given: Any, output: Any) -> None:
        self.turn(back)
        self.count(node)

    def count(self, node: _Node) -> None:
        """One more execution of a node."""
        node.calls += 1

    def settle(self) -> None:
        """Give every node its time; waits for the device."""
        if self._is_cuda and self._turns:
            torch.cuda.synchronize()
        for (node, start), (_, end) in itertools.pairwise(self._turns):
            if node is not None:
                node.own_s += start.elapsed_time(end) / 1e3 if self._is_cuda else end - start
        self._turns.clear()

    def _now(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        make_event: Any = torch.cuda.Event
        event = make_event(enable_timing=True)
        event.record()
        return event


class _Account(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """FLOPs of matrix products and attention, bytes that modules hold and their peaks, from the operators that run.

    On a CPU every storage that an operator makes counts from its making until nothing refers to it, at the size it was made
    (FSDP resizes its own: there it counts too much). On CUDA the caching allocator's own figures are taken (blocks of 512 B,
    workspaces included), and its peak statistics are reset.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._is_cuda = is_cuda(device)
        self._node: _Node | None = None
        self._frames: list[list[float]] = []
        """Of every module being executed: bytes held when it began, and the most since then."""
        self._held = self._peak = 0.0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def turn(self, node: _Node | None) -> None:
        """From now on work is this node's; None for nobody's."""
        self._close()
        self._node = node

    def enter(self, node: _Node, given: Any) -> None:
        node.is_cached = _has_cache(given)
        self.turn(node)
        self._frames.append([self._held, self._held])

    def leave(self, node: _Node, back: _Node | None, given: Any, output: Any) -> None:
        self.turn(back)
        start, peak = self._frames.pop()
        if self._frames:
            self._frames[-1][1] = max(self._frames[-1][1], peak)
        self.count(node)
        node.peak_bytes = max(node.peak_bytes or 0.0, peak - start)
        held = {"memory_bytes": max(0.0, self._held - start), "activation_bytes": _size(output)}
        _accumulate(node.bytes, held | _traffic(node, given, output))

    def count(self, node: _Node) -> None:
        """One more execution of a node."""
        node.accounted += 1

    def _close(self) -> None:
        """The peak since the last turn is the innermost module's, and with it that of all those around it."""
        if self._is_cuda:
            self._held, self._peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        if self._frames:
            self._frames[-1][1] = max(self._frames[-1][1], self._peak)
        self._peak = self._held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = _counter(func)
        if count is None and func is not torch.ops.prim.device.default:
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if count is not None and self._node is not None:
            self._node.own_flops = (self._node.own_flops or 0.0) + count(*args, **kwargs, out_val=output)
            if count is _attention_flops:
                _accumulate(self._node.own_bytes, _attention_traffic(self._node, args[0], args[1], args[2], output))
        if not self._is_cuda:
            self._hold(_storages(output), set(_storages((args, kwargs))))
        return output

    def _hold(self, made: list[Any], given: set[Any]) -> None:
        """Count the storages that an operator made: neither its inputs' nor counted."""
        for storage in made:
            if storage not in given and storage not in self._known:
                self._known.add(storage)
                self._held += storage.nbytes()
                weakref.finalize(storage, self._release, storage.nbytes())
        self._peak = max(self._peak, self._held)

    def _release(self, size: int) -> None:
        self._held -= size


def counted(call: Callable[[], Any]) -> tuple[Any, float]:
    """What `call` returns, and the FLOPs of all matrix products (those of experts too) and attention that run in it."""
    account = _Account("cpu")
    work = _Node("", None)
    account.turn(work)
    with account:
        result = call()
    return result, 0.0 if work.own_flops is None else work.own_flops


class ModuleTimer:
    """The module tree of a model: times of the passes inside `with timer:` (each one pass), accounts of `timer.accounts()`.

    On a CPU times are wall clock (`time_s`). On CUDA they lie between events on the stream, with no wait inside the pass
    (`device_time_s`; the gaps of a host that is too slow included), and `time_s` is NULL: a host's clock read without
    waiting would time launches. Either is read by coalesce(time_s, device_time_s).
    """

    def __init__(self, model: Any, device: str = "cpu") -> None:
        self._model = model
        self._device = device
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._handles: list[Any] = []
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded."""
        self._top = _Node("", None)
        self._stack = [self._top]
        self._outside: _Node | None = None
        self._passes = 0
        self._clock = _Clock(self._device)
        self._meter: _Clock | _Account = self._clock

    def __enter__(self) -> Self:
        self._passes += 1
        self._hook()
        return self

    def __exit__(self, *_: object) -> None:
        self._unhook()
        self._clock.settle()

    @contextlib.contextmanager
    def accounts(self) -> Iterator[None]:
        """One pass for FLOPs, bytes and memory peaks. On CUDA the allocator's peak statistics are reset."""
        self._meter = account = _Account(self._device)
        self._hook()
        try:
            with account:
                yield
        finally:
            self._unhook()
            self._meter = self._clock

    @property
    def total_s(self) -> float:
        """Time of the outermost modules, over all passes."""
        self._clock.settle()
        return sum(node.total_s for node in self._top.children.values())

    def rows(self, run_id: str, phase: str) -> list[dict[str, Any]]:
        """Rows of `ops`, parents before children: values of one execution of a module, `count` executions in a pass."""
        rows = self._rows(phase)
        return [{"run_id": run_id, "op_index": index, **row} for index, row in enumerate(rows)]

    def _rows(self, phase: str) -> Iterator[dict[str, Any]]:
        return self._tree(self._top, phase)

    def _tree(self, top: _Node, phase: str) -> Iterator[dict[str, Any]]:
        """Rows of the trees below `top`."""
        seconds = "device_time_s" if is_cuda(self._device) else "time_s"
        for root in top.children.values():
            for row in _emit(root, None, max(1, self._passes)):
                row[seconds] = row.pop("seconds")
                yield {"phase": phase, **row}

    @property
    def _current(self) -> _Node | None:
        """The module that runs, else what runs outside modules."""
        return self._stack[-1] if len(self._stack) > 1 else self._outside

    def _hook(self) -> None:
        for module in self._model.modules():
            self._handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after, with_kwargs=True, always_call=True))

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, module: Any, args: Any, kwargs: Any) -> None:
        node = self._stack[-1].child(self._paths[id(module)], module)
        self._stack.append(node)
        self._meter.enter(node, (args, kwargs))

    def _after(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        node = self._stack.pop()
        self._meter.leave(node, self._current, (args, kwargs), output)
        shape = weight_shape(module)
        if shape is not None and output is not None:
            node.rows.add(_tensors(output)[0].numel() // shape[0])


class TrainingTimer(ModuleTimer):
    """Training steps by module and phase: forward, recompute, backward, optimizer. A pass is a step:

        with timer:  # and once more with timer.accounts()
            timer.backward(timer.forward(lambda: model(**batch).loss))  # for every micro-batch
            timer.step()
        rows = timer.rows(run_id)

    Backward work is that of the module whose forward made the autograd node; accumulating a gradient, and what hangs on it
    (buckets of DDP), goes with the node before it. Modules run again inside backward (activation checkpointing) are rows of
    phase `recompute`; where checkpoints are reentrant their backward is in the `(self)` of what surrounds them. What runs
    outside the model, as a loss function does, is the row `loss`.
    """

    def __init__(self, model: Any, optimizer: Any, device: str = "cpu") -> None:
        self._optimizer = optimizer
        super().__init__(model, device)

    def clear(self) -> None:
        """Forget what was recorded."""
        super().clear()
        self._again, self._gradients = _Node("", None), _Node("", None)
        self._updates = _Node("", None)
        self._twins: dict[int, tuple[_Node, _Node]] = {}
        self._births: list[tuple[int, _Node]] = []
        """Whose autograd nodes are made from a sequence number on."""

    def forward(self, call: Callable[[], Any]) -> Any:
        """`call()`, which returns the loss."""
        outside = self._top.child("loss", None)
        self._turn(outside)
        self._bear()
        loss = call()
        self._meter.count(outside)
        self._turn(None)
        return loss

    def backward(self, loss: Any) -> None:
        """`loss.backward()`."""
        numbers = [number for number, _ in self._births]
        for one in _graph(loss.grad_fn):
            owner = self._births[bisect_right(numbers, one._sequence_nr()) - 1][1]
            one.register_prehook(functools.partial(self._before_gradient, self._twin(owner)))
        self._stack = [self._again]
        self._turn(self._twin(self._top.child("loss", None)))
        loss.backward()
        self._turn(None)
        self._stack = [self._top]
        self._births.clear()

    def step(self) -> None:
        """`optimizer.step()`."""
        update = self._updates.child("optimizer", self._optimizer)
        self._turn(update)
        self._optimizer.step()
        self._meter.count(update)
        self._turn(None)

    def rows(self, run_id: str, phase: str = "forward") -> list[dict[str, Any]]:
        """Rows of `ops` of every phase, each a tree of its own: values of one execution, `count` executions in a step."""
        return super().rows(run_id, phase)

    def _rows(self, phase: str) -> Iterator[dict[str, Any]]:
        for node, twin in self._twins.values():
            twin.calls, twin.accounted = node.calls, node.accounted
        yield from self._tree(self._top, phase)
        yield from self._tree(self._again, "recompute")
        yield from self._tree(self._gradients, "backward")
        yield from self._tree(self._updates, "optimizer")

    def _before(self, module: Any, args: Any, kwargs: Any) -> None:
        super()._before(module, args, kwargs)
        self._bear()

    def _after(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        super()._after(module, args, kwargs, output)
        self._bear()

    def _bear(self) -> None:
        """From now on autograd nodes are born to the module that runs, or to what runs outside modules."""
        if self._current is not None:
            self._births.append((_sequence_number(), self._current))

    def _before_gradient(self, twin: _Node, _: Any) -> None:
        self._turn(twin)

    def _turn(self, node: _Node | None) -> None:
        """From now on what runs outside modules is this node's."""
        self._outside = node
        self._meter.turn(node)

    def _twin(self, node: _Node) -> _Node:
        """The node of the backward tree for one of the forward tree."""
        if id(node) not in self._twins:
            twin = self._gradients
            if node.parent is not None:
                twin = self._twin(node.parent).child(node.path, node.module)
            self._twins[id(node)] = node, twin
        return self._twins[id(node)][1]


def _sequence_number() -> int:
    """Number that the next autograd node of this thread gets."""
    return int(torch._C._autograd._get_sequence_nr())


def _graph(root: Any) -> Iterator[Any]:
    """Autograd nodes that a backward pass runs, without those that accumulate gradients."""
    found, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        yield node
        for one, _ in node.next_functions:
            if one is not None and one not in found and not hasattr(one, "variable"):
                found.add(one)
                waiting.append(one)


def _emit(node: _Node, parent_path: str | None, passes: int) -> Iterator[dict[str, Any]]:
    """Rows of a module, of those below it, and of what it does itself beside them."""
    path = node.path or type(node.module).__name__
    row = {
        "path": path,
        "parent_path": parent_path,
        "level": "module",
        "class_name": type(node.module).__name__,
        "layer_index": layer_index(path),
        "op_kind": node.kind,
        "count": max(1, round(node.calls / passes)) if node.calls else node.accounted,
        "memory_peak_bytes": None,
    }
    gemm = (None, None, None) if node.gemm is None else node.gemm
    yield {
        **row,
        **dict(zip("mnk", gemm, strict=True)),
        **_work(node, node.total_flops, node.bytes),
        **_parameters(node.module, recurse=True),
        "memory_peak_bytes": node.peak_bytes,
        "seconds": node.total_s / node.calls if node.calls else None,
    }
    for child in node.children.values():
        yield from _emit(child, path, passes)
    if node.children:
        yield {
            **row,
            "path": f"{path}.(self)",
            "parent_path": path,
            "op_kind": node.own_kind,
            **dict.fromkeys("mnk"),
            **_work(node, node.flops, node.own_bytes),
            **_parameters(node.module, recurse=False),
            "seconds": node.own_s / node.calls if node.calls else None,
        }


BYTES = (
    "weight_bytes_read", "activation_bytes_read", "activation_bytes_written", "kv_bytes_read", "memory_bytes",
    "activation_bytes",
)  # fmt: skip


def _work(node: _Node, flops: float | None, totals: dict[str, float]) -> dict[str, float | None]:
    """FLOPs and bytes of one execution; the sum of the traffic, and the intensity, where the traffic is known."""
    sizes = {name: size / node.accounted for name, size in totals.items()}
    moved = sum(size for name, size in sizes.items() if name.endswith(("_read", "_written")))
    return {
        "flops": flops,
        **dict.fromkeys(BYTES),
        **sizes,
        "bytes_moved": moved if moved else None,
        "arithmetic_intensity": None if flops is None or not moved else flops / moved,
    }


def _traffic(node: _Node, given: Any, output: Any) -> dict[str, float]:
    """Bytes that a linear layer, norm, activation or look-up has to move: inputs, weights and outputs once each.

    Of a table as many rows as are looked up, at most all. Empty for other modules, for those that call others, and for a call
    that was broken off, as the last one of a checkpoint is.
    """
    module = node.module
    if (
        output is None
        or node.children
        or not (node.kind in ("norm", "activation") or weight_shape(module) or is_table(module))
    ):
        return {}
    weights = _size(list(module.parameters(recurse=False)))
    if is_table(module):
        weights = min(weights, _size(output))
    return {
        "weight_bytes_read": weights,
        "activation_bytes_read": _size(given),
        "activation_bytes_written": _size(output),
    }


def _attention_traffic(node: _Node, query: Any, key: Any, value: Any, output: Any) -> dict[str, float]:
    """Bytes that fused attention has to move: queries, results, and every key and value once, however often repeated."""
    is_repeated = key.shape[1] == query.shape[1]
    kept = _size([key, value]) / (getattr(node.module, "num_key_value_groups", 1) if is_repeated else 1)
    return {
        "activation_bytes_read": _size(query) + (0.0 if node.is_cached else kept),
        "activation_bytes_written": _size(output[0] if isinstance(output, tuple) else output),
        **({"kv_bytes_read": kept} if node.is_cached else {}),
    }


def _has_cache(given: Any) -> bool:
    """Whether a module was called with a KV cache."""
    args, kwargs = given
    return any(hasattr(one, "get_seq_length") for one in (*args, *kwargs.values()))


def leaves_s(rows: list[dict[str, Any]]) -> float:
    """Seconds that the leaves of the module tree of every phase add up to: rows of `ops`, device time where no wall clock."""
    parents = {(row["phase"], row["parent_path"]) for row in rows}
    leaves = [row for row in rows if (row["phase"], row["path"]) not in parents]
    wall = [(row["count"], row.get("time_s"), row.get("device_time_s")) for row in leaves]
    return float(
        sum(count * (device if own is None else own) for count, own, device in wall if (own, device) != (None, None))
    )


def is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def is_table(module: Any) -> bool:
    """Whether a module looks up one row for each id it is given (positions may be computed inside)."""
    return isinstance(module, torch.nn.Embedding) and "osition" not in type(module).__name__


def weight_shape(module: Any) -> tuple[int, int] | None:
    """(output features n, input features k) of a linear layer, transformers' Conv1D included; None for others."""
    if type(module).__name__ == "Conv1D":
        return int(module.weight.shape[1]), int(module.weight.shape[0])
    if type(module).__name__.endswith("Linear") and hasattr(module, "weight"):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return None


def _parameters(owner: Any, *, recurse: bool) -> dict[str, float]:
    """What a module holds, with those below it or itself; what an optimizer updates; nothing for a loss function."""
    if isinstance(owner, torch.nn.Module):
        found = list(owner.parameters(recurse))
    else:
        found = [one for group in getattr(owner, "param_groups", []) for one in group["params"]]
    return {"num_parameters": sum(one.numel() for one in found), "parameter_bytes": _size(found)}


def _accumulate(totals: dict[str, float], sizes: dict[str, float]) -> None:
    for name, size in sizes.items():
        totals[name] = totals.get(name, 0.0) + size


def _tensors(values: Any) -> list[Any]:
    """Tensors anywhere in a structure."""
    return [one for one in tree_leaves(values) if isinstance(one, torch.Tensor)]


def _storages(values: Any) -> list[Any]:
    """Storages of the tensors in a structure; those of a shard (DTensor) are its local tensor's, and not seen here."""
    return [one.untyped_storage() for one in _tensors(values) if not is_traceable_wrapper_subclass(one)]


def _size(values: Any) -> float:
    """Bytes of all tensors in a structure."""
    return float(sum(one.numel() * one.element_size() for one in _tensors(values)))


def _counter(func: Any) -> Callable[..., int] | None:
    """What counts an operator's FLOPs; None for one that is no matrix product and no attention."""
    packet = getattr(func, "_overloadpacket", None)
    name = str(packet)
    if name == "aten._grouped_mm":
        return _grouped_flops
    if "_scaled_dot_product" in name:
        return _attention_backward_flops if "backward" in name else _attention_flops
    return flop_counter.flop_registry.get(packet)


def _grouped_flops(first: Any, second: Any, *_: Any, **__: Any) -> int:
    """2 m n k of rows that each meet one matrix of several, or of its gradient: one operand has two dimensions."""
    return 2 * first.shape[-2] * first.shape[-1] * second.shape[-1]


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """2 B H Sq Sk (D + Dv): every query meets every key, masked or not, as in a product that is not fused."""
    return 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward_flops(_: Any, query: Any, key: Any, value: Any, *others: Any, **__: Any) -> int:
    """Twice the forward's; what a fused kernel computes again is not counted."""
    return 2 * _attention_flops(query, key, value)
