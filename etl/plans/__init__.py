"""Plans of the pipeline: this folder's TOML files and the collectors' campaigns, in one format."""

from __future__ import annotations

from pathlib import Path

from collectors import _plan
from collectors._plan import Plan

FOLDER = Path(__file__).parent


def load(name: str) -> Plan:
    """A plan by file path, or by name: of this folder, or a campaign. Raises ValueError saying what is wrong and known."""
    return _plan.load(name, (FOLDER, _plan.CAMPAIGNS))
