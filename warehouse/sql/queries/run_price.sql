-- Purpose: the price behind the cost of a run: who asked for it, when it was read and where.
-- Grain: one price, or nothing where the run has no cost.
-- Parameters: $run_id.
SELECT prices.* EXCLUDE (file_hash)
FROM prices
JOIN runs USING (price_id)
WHERE runs.run_id = $run_id::VARCHAR
