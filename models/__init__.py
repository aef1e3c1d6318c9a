"""Performance models (never "the LLM"): analytical rooflines and trained predictors, on arrays and Arrow tables."""
