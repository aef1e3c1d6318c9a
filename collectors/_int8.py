"""Weight-only int8 of Linear layers: one scale for each output feature, products in the activations' dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from collectors._steps import UnsupportedError

ACTIVATION_DTYPE = "bf16"


class Int8Linear(nn.Module):
    """A Linear layer whose weight (out_features, in_features) is int8 and whose outputs are scaled by `scale` (out_features,).

    On a CPU torch's int8 kernel multiplies; on CUDA the weight is widened first, which only a compiled model does on the way.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        largest = linear.weight.detach().abs().amax(1).float().clamp_min(1e-8)
        whole = (linear.weight.detach().float() * (127.0 / largest)[:, None]).round().to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.scale = nn.Parameter((largest / 127.0).to(linear.weight.dtype), requires_grad=False)
        self.bias = linear.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features)."""
        if rows.device.type == "cpu":
            flat = rows.reshape(-1, self.in_features)
            output = torch.ops.aten._weight_int8pack_mm(flat, self.weight, self.scale)
            output = output.reshape(*rows.shape[:-1], self.out_features)
        else:
            output = nn.functional.linear(rows, self.weight.to(rows.dtype)) * self.scale
        return output if self.bias is None else output + self.bias


def quantize(model: Any) -> None:
    """Replace the Linear layers of a model in place, its output head apart. Raises UnsupportedError where it has none."""
    found = list(_layers(model))
    if not found:
        raise UnsupportedError("the model has no Linear layers that int8 weights could be put in")
    for parent, name, linear in found:
        setattr(parent, name, Int8Linear(linear))


def weights_bytes(model: Any) -> float:
    """Bytes of all parameters of a model as they are once it is quantized; tied ones once."""
    saved = sum(
        linear.weight.numel() * (linear.weight.element_size() - 1) - linear.out_features * linear.weight.element_size()
        for _, _, linear in _layers(model)
    )
    return float(sum(one.numel() * one.element_size() for one in model.parameters()) - saved)


def _layers(model: Any) -> Any:
    """(parent, name, layer) of what is quantized: not the output head, which the embedding may share."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                yield parent, name, child
