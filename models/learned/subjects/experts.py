"""Time of one layer of experts: routing, then gate, up and down products of the experts that some token meets.

Rows are those of table `kernels` beside their run (query `training_kernels`), passed through `devices.with_devices`: m tokens, k model
width, n width of one whole expert; `tensor_parallel` cuts an expert, `expert_parallel` spreads experts over devices. Time is that of
one device, the busiest where experts are spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.learned.inputs import Array, Inputs, Labels, column, digest, joined, labels, log, number
from models.learned.model import Recipe, Variant
from models.learned.subjects import _estimates, _memory, devices
from models.learned.targets import Target

UNGATED = ((2688, 1856), (2048, 5120), (1024, 2688), (4096, 2688))
"""Model width and width of an expert of the Nemotron-3 family: squared ReLU without a gate, so two matrices for three."""
POWER_LAW = "power_law_"
"""`power_law_A` gives experts shares drawn from the density x^-A; `balanced` gives all the same."""
FULLEST = 0.8
"""Largest share of the tokens that one expert is given under a power law."""
TILES = (16, 64, 128)
"""Tokens that one block of a grouped product works on; those of an expert fill whole blocks."""
COLUMNS = 128
"""Columns of the output that one block works on."""


@dataclass(frozen=True)
class Load:
    """What one device meets, shape (n,) each: experts with a token, (token, expert) pairs, pairs of the busiest expert."""

    touched: Array
    routed: Array
    most: Array

    def blocks(self, tile: int) -> Array:
        """Blocks of `tile` tokens, every expert's last one filled up: half a block an expert in the mean, one at least."""
        even = self.touched * np.ceil(self.routed / self.touched / tile)
        uneven = np.maximum(self.routed / tile + self.touched / 2, self.touched)
        found: Array = np.where(self.most > 1.01 * self.routed / self.touched, uneven, even)
        return found


def load(tokens: Array, experts: Array, active: Array, spread: Array, slope: Array) -> Load:
    """Expected load of the busiest of `spread` devices; `slope` is the exponent of the power law, 0 for a balanced load.

    Balanced: every device has its part of the pairs, in turn over its experts. Power law: an expert's share x has the density
    x^-slope between 1 and FULLEST tokens (0.01 and 2 where tokens are fewer than experts), shares are scaled to all pairs, and what is
    below half a token is none; the busiest device holds the busiest expert and its part of the others. aiconfigurator times its tables so.
    """
    here, pairs = experts / spread, tokens * active
    routed = np.maximum(pairs / spread, 1.0)
    touched = np.minimum(here, routed)
    even = Load(touched, routed, routed / touched)
    many = pairs > experts
    least, most = np.where(many, 1.0, 0.01), np.where(many, np.maximum(FULLEST * tokens, 1.001), 2.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        power = 1 - slope
        low, high = least**power, most**power
        mean = (most ** (1 + power) - least ** (1 + power)) / (1 + power) * power / (high - low)
        scale = pairs / (experts * mean)
        below = (np.clip(0.5 / scale, least, most) ** power - low) / (high - low)
        fullest = np.minimum(scale * (low + (high - low) * (1 - 0.5 / experts)) ** (1 / power), tokens)
    met = np.clip(experts * (1 - below), 1.0, np.minimum(experts, pairs))
    others = (here - 1) / np.maximum(experts - 1, 1)
    fullest = np.clip(fullest, pairs / experts, pairs)
    uneven = Load(1 + (met - 1) * others, fullest + (pairs - fullest) * others, fullest)
    is_even = slope == 0
    return Load(
        *(np.where(is_even, getattr(even, name), getattr(uneven, name)) for name in ("touched", "routed", "most"))
    )


def inputs(rows: pa.Table) -> Inputs:
    """Inputs of layers of experts."""
    tokens, width, inner = (number(rows, name) for name in "mkn")
    experts, active = number(rows, "num_experts"), number(rows, "num_active_experts")
    cut, spread = number(rows, "tensor_parallel"), number(rows, "expert_parallel")
    distribution, weight, activation = (
        labels(rows, name) for name in ("distribution", "weight_dtype", "activation_dtype")
    )
    slope = distribution.lookup({name: _slope(name) for name in distribution.names})
    met = load(tokens, experts, active, spread, slope)
    stored, element = devices.dtype_bytes(weight), devices.dtype_bytes(activation)
    top, bandwidth = devices.peak(rows, activation), devices.device(rows, "memory_bandwidth_bytes_per_s")
    cores, l2 = devices.device(rows, "num_cores"), devices.device(rows, "l2_bytes")
    matrices = np.where(np.isin(width * 2.0**20 + inner, [k * 2.0**20 + n for k, n in UNGATED]), 2.0, 3.0)
    part = inner / cut
    expert = matrices * width * part
    pairs = np.where(_is_sorted(rows, weight, activation), met.routed, tokens * active)
    passed = np.maximum(element, 2.0) * pairs * (2 * width + matrices * part)
    read = met.touched * expert * stored
    busy = 2 * met.blocks(TILES[0]) * TILES[0] * expert / top
    memory = _memory.seconds(rows, read + passed, read + passed)
    compute, least = _bound(
        tokens, experts, active, spread, slope == 0, expert, stored, width * np.maximum(element, 2.0)
    )
    bound = np.maximum(compute / top, least / bandwidth)
    features = {
        "log_busy": log(busy), "log_memory": log(memory), "log_side": log(busy) - log(memory), "log_tokens": log(tokens),
        "log_width": log(width), "log_inner": log(part), "log_expert": log(expert * stored), "log_experts": log(experts),
        "log_here": log(experts / spread), "log_active": log(active), "log_cut": log(cut), "log_spread": log(spread), "slope": slope,
        "log_routed": log(met.routed), "log_touched": log(met.touched), "touched_share": met.touched * spread / experts,
        "log_tokens_an_expert": log(met.routed / met.touched), "log_most": log(met.most), "log_passed": log(passed),
        "read_over_l2": log(read) - log(l2), "flops_a_core": log(2 * met.routed * expert / cores), "matrices": matrices,
        "log_pairs": log(tokens * active), "alignment": _alignment(part), "share_read": read / (read + passed),
        "stored_bytes": stored, "element_bytes": element,
    }  # fmt: skip
    for tile in TILES:
        blocks = met.blocks(tile)
        features[f"padding_{tile}"] = blocks * tile / met.routed
        for name, columns in (("up", (matrices - 1) * part), ("down", width)):
            waves = blocks * np.ceil(columns / COLUMNS) / cores
            features |= {f"waves_{name}_{tile}": log(waves), f"efficiency_{name}_{tile}": waves / np.ceil(waves)}
    scales = _scales(rows)
    features["is_block_scaled"] = scales.mask("block scales").astype(np.float64)
    device, backend, dtype = labels(rows, "hardware_id"), labels(rows, "framework"), joined(weight, activation, scales)
    own = joined(device, backend, labels(rows, "framework_version"), dtype)
    shared = Labels((spread > 1).astype(np.int64), ("all experts", "some experts"))
    return Inputs(
        terms=np.column_stack([busy, memory]),
        term_names=("busy_s", "memory_s"),
        priors=(1.5, 1.5),
        keys=(joined(own, shared), own, joined(backend, dtype), dtype),
        features=np.column_stack([*features.values(), devices.features(rows, activation)]),
        feature_names=(*features, *devices.FEATURES),
        device_features=frozenset(devices.FEATURES),
        ranges=np.column_stack([tokens, width, inner, experts, active, spread]),
        range_names=("tokens", "width", "inner_width", "num_experts", "num_active_experts", "expert_parallel"),
        categories={"dtype": dtype, "distribution": distribution},
        groups={
            "device": device,
            "generation": devices.generation(rows),
            "backend": backend,
            "shape": joined(*(_whole(one) for one in (width, inner, experts, active))),
        },
        content=digest(
            rows,
            (
                "hardware_id", "framework", "framework_version", "weight_dtype", "activation_dtype", "is_block_scaled", "distribution",
                "m", "n", "k", "num_experts", "num_active_experts", "tensor_parallel", "expert_parallel",
            ),
        ),
        bound=bound,
        estimate=_estimates.seconds(rows, busy, memory, kernels=4.0),
    )  # fmt: skip


def _bound(
    tokens: Array,
    experts: Array,
    active: Array,
    spread: Array,
    is_even: Array,
    expert: Array,
    stored: Array,
    row: Array,
) -> tuple[Array, Array]:
    """FLOPs and bytes that no routing avoids, shape (n,) each: the busiest device has at least the mean, and meets at least the
    experts of one token; `expert` weights of one, `row` bytes of a token."""
    routed = tokens * np.minimum(active / spread, np.where(is_even, experts / spread, active))
    touched = np.minimum(np.maximum(active / spread, 1.0), experts / spread)
    return 2 * routed * expert, touched * expert * stored + 2 * tokens * row / spread


def _is_sorted(rows: pa.Table, weight: Labels, activation: Labels) -> npt.NDArray[np.bool_]:
    """Whether kernels handle only the pairs of their own experts: those of FlashInfer, for which vLLM has a use on Blackwell, and on
    Hopper in narrow formats; Triton's carry every pair of every device along."""
    architecture = labels(rows, f"{devices.PREFIX}architecture")
    return architecture.mask("blackwell") | (architecture.mask("hopper") & (devices.dtype_bytes(weight) < 2))


def _alignment(size: Array) -> Array:
    """Largest power of two up to 128 that divides a size."""
    powers = [2.0**power for power in range(7, 0, -1)]
    return np.select([size % power == 0 for power in powers], powers, 1.0)


def _slope(name: str) -> float:
    """Exponent of a distribution: 0 balanced, NaN unknown."""
    if name == "balanced":
        return 0.0
    return float(name.removeprefix(POWER_LAW)) if name.startswith(POWER_LAW) else np.nan


def _scales(rows: pa.Table) -> Labels:
    """How the scales of narrow formats go: one of a tensor (`plain`), or one of every block, which other kernels run."""
    is_block = np.zeros(rows.num_rows, np.int64)
    if "is_block_scaled" in rows.column_names:
        is_block = np.asarray(column(rows, "is_block_scaled").fill_null(False).to_numpy(), np.int64)
    return Labels(is_block, ("plain", "block scales"))


def _whole(values: Array) -> Labels:
    """Whole numbers as labels."""
    found, codes = np.unique(values, return_inverse=True)
    return Labels(codes.astype(np.int64), tuple(f"{one:.0f}" for one in found))


NUM_TREES = 240
"""Shapes interact more than in a product: an LLM never seen is 0.8 points of error better than with 100 trees."""
RECIPES: dict[int, Recipe] = {0: (Variant("power"),), 200: (Variant("power", "trees", num_trees=NUM_TREES),)}
TARGETS = (
    Target(
        key="experts_time",
        what="time of one layer of experts on one device",
        metric="time_s",
        unit="s",
        query="training_kernels",
        inputs=inputs,
        recipes=RECIPES,
        dimensions=("random", "shape", "device", "generation"),
        splits=("leave_shape_out", "leave_device_out", "leave_generation_out", "beyond_size", "random"),
        parameters={"op_kinds": ["experts"]},
        balance="generation",
    ),
)
