-- Purpose: what is known about a configuration, from every kind of truth; analytical rows of the newest revision of the engine only.
--   Beside each value the definition it follows; NULL where its source names none.
-- Grain: one run.
-- Parameters: $config_id.
SELECT
    run_id, source_kind, source_id, source_cell, ruleset, device, phase, batch, tokens, dtype, variant, status, latency_s, memory_peak_bytes,
    output_tokens_per_s, is_excluded, quality_tier,
    map_extract(metric_definitions, 'latency_s')[1] AS latency_definition,
    map_extract(metric_definitions, 'memory_peak_bytes')[1] AS memory_definition,
    map_extract(metric_definitions, 'output_tokens_per_s')[1] AS output_tokens_definition
FROM comparable
WHERE config_id = $config_id::VARCHAR
    AND run_id NOT IN (SELECT run_id FROM outdated)
ORDER BY source_kind, source_id, run_id
LIMIT 200
