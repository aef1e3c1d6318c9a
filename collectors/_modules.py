"""Time and work of every module of a torch model, as rows of `ops`: measured by hooks, in a pass of its own.

Rows nest by who called whom. What a container spends outside its child modules (attention scores, residual additions,
masks) is a leaf of its own, `<path>.(self)`, so that the leaves add up to the whole.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

OP_KINDS: tuple[tuple[str, str], ...] = (
    (r":\w*Dropout", "elementwise"),
    (r":\w*Norm", "norm"),
    (r":\w*RotaryEmbedding", "rope"),
    (r":\w*Embeddings?$", "embedding"),
    (r"bottleneck\.\w+\.dense:", "gemm"),
    (r":\w*Bottleneck\w*", "other"),
    (r"(lm_head|embed_out|vocab_projector|predictions\.decoder|output_projection):", "lm_head"),
    (r"(query_key_value|c_attn|Wqkv|qkv_proj|in_proj):", "qkv_proj"),
    (r"(\bq|q_proj|q_lin|query):\w*(Linear|Conv1D)", "q_proj"),
    (r"(\bk|k_proj|k_lin|key):\w*(Linear|Conv1D)", "k_proj"),
    (r"(\bv|v_proj|v_lin|value):\w*(Linear|Conv1D)", "v_proj"),
    (r"(o_proj|out_proj|out_lin|Attention\.o|attention\.output\.dense|attention\.dense|attn\.dense|attn\.c_proj):", "o_proj"),
    (r"(gate_proj|wi_0|w1):", "gate_proj"),
    (r"(up_proj|fc1|lin1|c_fc|dense_h_to_4h|intermediate\.dense|wi|wi_1|w3|fc_in):", "up_proj"),
    (r"(down_proj|fc2|lin2|mlp\.c_proj|dense_4h_to_h|output\.dense|wo|w2|fc_out):", "down_proj"),
    (r"(router|mlp\.gate|moe\.gate):", "router"),
    (r":\w*Softmax", "softmax"),
    (r"(?i):\w*(gelu|relu|silu|swish|tanh|sigmoid|activation)\w*$", "activation"),
    (r":\w*Experts", "experts"),
    (r":\w*(Attention|SelfOutput)\w*$", "attention"),
    (r":\w*(MLP|FFN|FFNLayer|LayerFF|FeedForward|DenseReluDense|Dense\w*ActDense|SparseMoe\w*|Intermediate|Output)$", "mlp"),
    (r":\w*(Layer|Block)$", "layer"),
    (r":\w*(Model|Decoder|Encoder|Stack|Transformer)$", "model"),
    (r":(\w*Linear|Conv1D)$", "gemm"),
)  # fmt: skip
"""(pattern, op_kind): searched in `path:ClassName` from the top; the first match decides, none is `other`."""


def op_kind(path: str, class_name: str) -> str:
    """The vocabulary's word for a module: `op_kind('h.0.attn.c_proj', 'Conv1D')` is `o_proj`."""
    name = f"{path}:{class_name}"
    return next((kind for pattern, kind in OP_KINDS if re.search(pattern, name)), "other")


def layer_index(path: str) -> int | None:
    """First number of a path: 3 in `encoder.block.3.layer.1.DenseReluDense`; None outside layers."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


@dataclass
class _Node:
    """One module as called by one parent: calls, their total time, its children in order of first call."""

    path: str
    module: Any
    calls: int = 0
    time_s: float = 0.0
    m: int | None = None
    children: dict[str, _Node] = field(default_factory=dict)


class ModuleTimer:
    """Forward hooks on every module of a model, while entered. `synchronize` runs before each reading of the clock."""

    def __init__(self, model: Any, synchronize: Callable[[], None] = lambda: None) -> None:
        self._model = model
        self._synchronize = synchronize
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._handles: list[Any] = []
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded."""
        self._top = _Node("", None)
        self._stack: list[tuple[_Node, float]] = [(self._top, 0.0)]

    def __enter__(self) -> ModuleTimer:
        for module in self._model.modules():
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def total_s(self) -> float:
        """Time of the outermost module."""
        return sum(node.time_s for node in self._top.children.values())

    def rows(self, run_id: str, phase: str, flops: Mapping[str, float]) -> list[dict[str, Any]]:
        """Rows of `ops`, parents before children. `flops`: path -> FLOPs of all its calls; the root's path is ''.

        FLOPs of a linear layer are 2 m n k of what it was called with; others come from `flops`, NULL where none count.
        """
        calls: dict[str, int] = {}
        self._count_calls(self._top, calls)
        rows: list[dict[str, Any]] = []
        for node in self._top.children.values():
            self._emit(node, None, rows, {path: value / calls[path] for path, value in flops.items() if path in calls})
        return [{"run_id": run_id, "op_index": index, "phase": phase, **row} for index, row in enumerate(rows)]

    def _before(self, module: Any, _: Any) -> None:
        self._synchronize()
        path = self._paths[id(module)]
        parent = self._stack[-1][0]
        node = parent.children.setdefault(path, _Node(path, module))
        self._stack.append((node, time.perf_counter()))

    def _after(self, module: Any, _: Any, output: Any) -> None:
        self._synchronize()
        node, start = self._stack.pop()
        node.time_s += time.perf_counter() - start
        node.calls += 1
        shape = _weight_shape(module)
        if shape is not None:
            node.m = output.numel() // shape[0]

    def _count_calls(self, node: _Node, calls: dict[str, int]) -> None:
        for child in node.children.values():
            calls[child.path] = calls.get(child.path, 0) + child.calls
            self._count_calls(child, calls)

    def _emit(
        self, node: _Node, parent_path: str | None, rows: list[dict[str, Any]], flops: Mapping[str, float]
    ) -> float | None:
        class_name = type(node.module).__name__
        path = node.path or class_name
        shape = _weight_shape(node.module)
        row: dict[str, Any] = {
            "path": path,
            "parent_path": parent_path,
            "layer_index": layer_index(path),
            "op_kind": op_kind(path, class_name) if node.path else "model",
            "count": node.calls,
            "flops": flops.get(node.path) or None,  # 0 is "nothing countable", not "no work"
            "time_s": node.time_s / node.calls,
        }
        if shape is not None and node.m is not None:
            row |= {"m": node.m, "n": shape[0], "k": shape[1], "flops": 2.0 * node.m * shape[0] * shape[1]}
        rows.append(row)
        if node.children:
            self._emit_self(node, path, row, rows, flops)
        return row["flops"]

    def _emit_self(
        self, node: _Node, path: str, row: dict[str, Any], rows: list[dict[str, Any]], flops: Mapping[str, float]
    ) -> None:
        children = node.children.values()
        work = [(self._emit(child, path, rows, flops), child.calls) for child in children]
        rest = None
        if row["flops"] is not None:
            inner = sum(one * calls for one, calls in work if one is not None) / node.calls
            rest = row["flops"] - inner
        kinds = {op_kind(child.path, type(child.module).__name__) for child in children}
        is_attention = row["op_kind"] == "attention" and "attention" not in kinds
        rows.append(
            {
                "path": f"{path}.(self)",
                "parent_path": path,
                "layer_index": row["layer_index"],
                "op_kind": "attention" if is_attention and rest else "other",
                "count": node.calls,
                "flops": rest if rest and rest > 0 else None,
                "time_s": max(0.0, (node.time_s - sum(child.time_s for child in children)) / node.calls),
            }
        )


def _weight_shape(module: Any) -> tuple[int, int] | None:
    """(output features n, input features k) of a linear layer, transformers' Conv1D included; None for others."""
    name = type(module).__name__
    if name.endswith("Linear") and hasattr(module, "weight"):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    if name == "Conv1D":
        return int(module.weight.shape[1]), int(module.weight.shape[0])
    return None
