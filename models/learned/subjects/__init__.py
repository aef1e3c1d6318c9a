"""What predictions are about, one file a subject: its rows, its one feature function, its targets.

A subject's `inputs(rows)` reads an Arrow table of its query (or of configurations to predict, passed through `devices.with_devices`)
and gives `Inputs`; fitting and predicting share it.
"""

from __future__ import annotations

from models.learned.subjects import (
    attention,
    bandwidth,
    collectives,
    energy,
    experts,
    kernels,
    memory,
    modules,
    runs,
    served,
    vectors,
)
from models.learned.targets import Target

TARGETS: dict[str, Target] = {
    target.key: target
    for target in (
        *kernels.TARGETS,
        *attention.TARGETS,
        *experts.TARGETS,
        *collectives.TARGETS,
        *vectors.TARGETS,
        *modules.TARGETS,
        *runs.TARGETS,
        *served.TARGETS,
        *memory.TARGETS,
        *bandwidth.TARGETS,
        *energy.TARGETS,
    )
}


def find(key: str) -> Target:
    """A target by its key. Raises KeyError with what is known."""
    if key not in TARGETS:
        raise KeyError(f"'{key}' is not predicted. Known: {', '.join(TARGETS)}. Add it in models/learned/subjects/.")
    return TARGETS[key]
