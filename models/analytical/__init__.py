"""Roofline: op inventory, FLOPs, bytes, memory and parallelism of an LLM on a device; columnar, by versioned rulesets."""

from models.analytical.engine import RESULTS, RULESETS, evaluate
from warehouse.catalog import UnknownEntryError

ENGINE_REVISION = "2026-11-21"
"""Date of the last change to what a ruleset answers; part of every analytical run_id and its `collected_at`."""

__all__ = ["ENGINE_REVISION", "RESULTS", "RULESETS", "UnknownEntryError", "evaluate"]
