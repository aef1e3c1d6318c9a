"""One thing found wrong or doubtful."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from warehouse import schema


@dataclass(frozen=True)
class Finding:
    """What contradicts what, with the figures. Of one check, source, run and metric `about` tells several apart."""

    check: str
    severity: str
    source_id: str
    sentence: str
    run_id: str | None = None
    metric: str | None = None
    value: float | None = None
    expected: float | None = None
    about: str = ""
    samples: tuple[str, ...] = ()
    """Samples of the run that are at fault, where it is about several."""

    @property
    def finding_id(self) -> str:
        return schema.digest(self.check, self.source_id, self.run_id, self.metric, self.about)

    def row(self, found_by: str, at: datetime.datetime) -> dict[str, Any]:
        """The row of the table `findings`."""
        return {
            "finding_id": self.finding_id,
            "source_id": self.source_id,
            "run_id": self.run_id,
            "check_name": self.check,
            "severity": self.severity,
            "metric": self.metric,
            "value": self.value,
            "expected": self.expected,
            "sentence": self.sentence,
            "found_by": found_by,
            "is_current": True,
            "found_at": at,
        }
