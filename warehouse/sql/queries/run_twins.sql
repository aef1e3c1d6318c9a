-- Purpose: the other truths about the configuration of a run: rows with the same config_id; analytical ones of the newest revision
--   of the engine only.
-- Grain: one other run.
-- Parameters: $run_id.
SELECT
    run_id, source_kind, source_id, source_cell, ruleset, device, phase, batch, tokens, dtype, variant, status, latency_s,
    output_tokens_per_s, total_tokens_per_s, memory_peak_bytes, is_excluded, is_bound, quality_tier, collected_at
FROM comparable
WHERE config_id = (SELECT config_id FROM runs WHERE run_id = $run_id::VARCHAR)
    AND run_id <> $run_id::VARCHAR
    AND run_id NOT IN (SELECT run_id FROM outdated)
ORDER BY source_kind, source_id, run_id
LIMIT 200
