"""Boosted trees evaluated many rows at once, several times faster than one row after the other.

A tree of at most 64 leaves is a 64-bit set of the leaves a row may still reach. Each feature has a table: by the number of its
thresholds below a row's value, the leaves that its nodes leave open, for every tree. The sets of all features are intersected, and
the leftmost leaf left is the row's (QuickScorer: Lucchese et al., SIGIR 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.learned.inputs import Array

CHUNK = 4096
"""Rows at a time: what they need stays in the processor's cache."""
MAX_LEAVES = 64
_ALL = np.uint64(2**64 - 1)
_Bits = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Leaves:
    """Trees as tables. `thresholds`: of every used feature, ascending. `trees`: of every tree (feature's place, table) and leaf values."""

    columns: tuple[int, ...]
    thresholds: tuple[Array, ...]
    trees: tuple[tuple[tuple[tuple[int, _Bits], ...], Array], ...]

    def values(self, features: Array) -> Array:
        """Sum over the trees; `features` (n, d), NaN for absent; shape (n,)."""
        found = np.zeros(len(features))
        for start in range(0, len(features), CHUNK):
            self._add(features[start : start + CHUNK], found[start : start + CHUNK])
        return found

    def _add(self, features: Array, found: Array) -> None:
        places = [
            np.searchsorted(limits, np.ascontiguousarray(features[:, column]))
            for column, limits in zip(self.columns, self.thresholds, strict=True)
        ]
        for place, column, limits in zip(places, self.columns, self.thresholds, strict=True):
            place[np.isnan(features[:, column])] = len(limits) + 1
        reached, open_leaves = np.empty(len(features), np.uint64), np.empty(len(features), np.uint64)
        for tables, values in self.trees:
            reached.fill(_ALL)
            for feature, table in tables:
                np.take(table, places[feature], out=open_leaves, mode="clip")
                np.bitwise_and(reached, open_leaves, out=reached)
            lowest = reached & (~reached + np.uint64(1))
            leaf = (lowest.astype(np.float64).view(np.int64) >> 52) - 1023
            found += values[leaf]


def of(booster: Any) -> Leaves:
    """The tables of a LightGBM booster without categorical splits. Raises ValueError for a tree of more than MAX_LEAVES leaves."""
    trees = [_Tree.of(one["tree_structure"]) for one in booster.dump_model()["tree_info"]]
    columns = tuple(sorted({node.column for tree in trees for node in tree.nodes}))
    thresholds = tuple(
        np.unique([node.threshold for tree in trees for node in tree.nodes if node.column == column])
        for column in columns
    )
    where = {column: place for place, column in enumerate(columns)}
    return Leaves(
        columns,
        thresholds,
        tuple(
            (
                tuple(
                    (where[column], tree.table(column, thresholds[where[column]]))
                    for column in sorted({node.column for node in tree.nodes})
                ),
                np.array(tree.values, np.float64),
            )
            for tree in trees
        ),
    )


@dataclass(frozen=True)
class _Node:
    column: int
    threshold: float
    is_absent_left: bool
    left: int
    """Leaves below the left branch, as bits; the next likewise."""
    right: int


@dataclass(frozen=True)
class _Tree:
    nodes: tuple[_Node, ...]
    values: tuple[float, ...]

    def table(self, column: int, limits: Array) -> _Bits:
        """Leaves that the nodes of a feature leave open, by how many limits lie below the value; the last entry is for NaN."""
        table = np.full(len(limits) + 2, _ALL, np.uint64)
        for node in self.nodes:
            if node.column == column:
                above = int(np.searchsorted(limits, node.threshold)) + 1
                table[above:-1] &= ~np.uint64(node.left)
                table[-1] &= ~np.uint64(node.right if node.is_absent_left else node.left)
        return table

    @classmethod
    def of(cls, root: dict[str, Any]) -> _Tree:
        nodes: list[_Node] = []
        values: list[float] = []

        def walk(node: dict[str, Any]) -> int:
            if "leaf_value" in node:
                values.append(float(node["leaf_value"]))
                if len(values) > MAX_LEAVES:
                    raise ValueError(
                        f"A tree has more than {MAX_LEAVES} leaves, the bits of one number. Lower num_leaves in residuals.py."
                    )
                return 1 << (len(values) - 1)
            left, right = walk(node["left_child"]), walk(node["right_child"])
            is_left = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0
            nodes.append(_Node(int(node["split_feature"]), float(node["threshold"]), is_left, left, right))
            return left | right

        walk(root)
        return cls(tuple(nodes), tuple(values))
