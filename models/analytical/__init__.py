"""Roofline: op inventory, FLOPs, bytes, memory and parallelism of an LLM on a device; columnar, by versioned rulesets."""

from models.analytical.engine import RESULTS, RULESETS, evaluate
from warehouse.catalog import UnknownEntryError

ENGINE_REVISION = "2026-11-21T07"
"""Date of the last change to what a ruleset answers, and hour of a second one in a day (ISO 8601, so that the newest sorts
last); part of every analytical run_id, its `engine_revision` and its `collected_at`."""

__all__ = ["ENGINE_REVISION", "RESULTS", "RULESETS", "UnknownEntryError", "evaluate"]
