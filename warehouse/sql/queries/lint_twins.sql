-- Purpose: the newest analytical row of every configuration that a family of sources ran.
-- Grain: one configuration.
-- Parameters: $family.
SELECT DISTINCT ON (config_id)
    config_id, roofline_s, estimate_s, flops, weight_bytes_read, kv_bytes_read, kv_cache_bytes, weights_bytes, memory_peak_bytes
FROM runs
WHERE source_kind = 'analytical' AND ruleset = 'default' AND status = 'ok'
    AND config_id IN (
        SELECT config_id FROM runs
        WHERE source_kind IN ('measured', 'published') AND split_part(source_id, '/', 1) = $family::VARCHAR
    )
ORDER BY config_id, engine_revision DESC NULLS LAST, collected_at DESC, run_id
