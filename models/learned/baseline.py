"""The method to beat: a random forest on log batch, parameter count, architecture and workload (source `bhavana-iitbbs`).

The source prints no split, depth or number of trees; scikit-learn's defaults stand in. Its workload is a task of one
phase; here the phase is part of the workload, without which the forest could not tell a prefill from a decode step.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.features import Array, Texts, number, text
from models.learned.fitting import Index

METHOD = "random forest"
FEATURES = ("log_batch_size", "log_num_parameters", "architecture", "workload")
NUM_TREES = 100


def method() -> str:
    """The method with the library's version: its trees are the library's."""
    import sklearn

    return f"{METHOD}, {NUM_TREES} trees, scikit-learn {sklearn.__version__}"


class Forest:
    """The baseline over a table's rows: fit on some of them, predict others."""

    def __init__(self, rows: pa.Table, target: Array) -> None:
        workload = np.char.add(np.char.add(text(rows, "task"), "/"), text(rows, "phase"))
        numbers = [np.log(number(rows, "batch_size")), np.log(number(rows, "num_parameters"))]
        self._features = np.column_stack([*numbers, _one_hot(text(rows, "architecture")), _one_hot(workload)])
        self._target = target

    def predict(self, inside: Index, outside: Index) -> Array:
        """Values of the rows `outside`, learnt from the rows `inside`; shape (len(outside),)."""
        from sklearn.ensemble import RandomForestRegressor

        forest = RandomForestRegressor(n_estimators=NUM_TREES, random_state=0, n_jobs=1)
        forest.fit(self._features[inside], self._target[inside])
        values: Array = forest.predict(self._features[outside])
        return values


def _one_hot(values: Texts) -> Array:
    return (values[:, None] == np.unique(values)[None, :]).astype(np.float64)
