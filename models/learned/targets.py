"""What can be predicted: a target is a number of a subject, with the rows it is learnt from and the method it is learnt by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from models.learned.inputs import Inputs, Mask
from models.learned.model import Recipe


@dataclass(frozen=True)
class Target:
    """One number to predict.

    metric: the column predicted, in its SI unit; training rows hold it as `measured_<metric>`.
    query, parameters: the named query of the training rows (warehouse/sql/queries).
    inputs: the one feature function, of training rows and of rows to predict alike.
    recipes: the method by number of rows: that of the largest number not above theirs.
    dimensions: what intervals are calibrated for: `random`, and groups that a prediction may be new in.
    splits: what it is scored on, the question people ask first.
    balance: a group whose members get the same weight where they have few rows and others many; None for all rows alike.
    """

    key: str
    what: str
    metric: str
    unit: str
    query: str
    inputs: Callable[[pa.Table], Inputs]
    recipes: Mapping[int, Recipe]
    dimensions: tuple[str, ...]
    splits: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    balance: str | None = None
    max_rows: int = 60_000
    """Most rows it is fitted on, drawn by content."""
    min_rows: int = 8
    min_groups: int = 2
    """Fewest different groups of the first leave-out split."""
    doubts: Callable[[pa.Table], Mapping[str, Mask]] = lambda rows: {}
    """Rows in doubt by what is wrong with them, (n,) each: left out while enough others stay, and said in either case."""

    how: str = ""
    """How to get rows where a lake has none: a sentence."""

    def recipe(self, num_rows: int) -> Recipe:
        """The method for so many rows."""
        return self.recipes[max((least for least in self.recipes if least <= num_rows), default=min(self.recipes))]

    @property
    def column(self) -> str:
        """Column of a training row that holds the measured value."""
        return f"measured_{self.metric}"
