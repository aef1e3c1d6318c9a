-- Purpose: what is known about a configuration, from every kind of truth.
-- Grain: one run.
-- Parameters: $config_id.
SELECT
    run_id, source_kind, source_id, source_cell, ruleset, device, phase, batch, tokens, dtype, variant, status, latency_s, memory_peak_bytes,
    output_tokens_per_s, is_excluded, quality_tier
FROM comparable
WHERE config_id = $config_id::VARCHAR
ORDER BY source_kind, source_id, run_id
LIMIT 200
