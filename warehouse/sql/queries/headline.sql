-- Purpose: the numbers at the top of the overview.
-- Grain: one row for the whole lake.
-- Parameters: none.
SELECT
    count(*) AS num_runs,
    count(*) FILTER (WHERE source_kind = 'measured') AS num_measured,
    count(*) FILTER (WHERE source_kind = 'measured' AND phase = 'microbench') AS num_microbench,
    count(*) FILTER (WHERE source_kind = 'published') AS num_published,
    count(*) FILTER (WHERE source_kind = 'analytical') AS num_analytical,
    count(*) FILTER (WHERE source_kind = 'predicted') AS num_predicted,
    count(*) FILTER (WHERE status <> 'ok') AS num_failed,
    count(*) FILTER (WHERE is_excluded) AS num_excluded,
    count(DISTINCT llm_id) AS num_llms,
    count(DISTINCT hardware_id) AS num_devices,
    count(DISTINCT source_id) AS num_sources,
    (SELECT count(*) FROM module_ops) AS num_ops,
    (SELECT count(*) FROM samples) AS num_samples,
    (SELECT count(*) FROM predictors) AS num_predictors,
    (
        SELECT count(*) FROM (SELECT config_id FROM runs GROUP BY config_id HAVING count(DISTINCT source_kind) > 1)
    ) AS num_joined_configs,
    max(collected_at) FILTER (WHERE source_kind = 'measured') AS last_measured_at,
    max(collected_at) AS last_collected_at,
    (SELECT max(loaded_at) FROM loads WHERE outcome = 'loaded') AS last_loaded_at,
    (SELECT count(*) FROM loads WHERE outcome = 'quarantined') AS num_quarantined
FROM runs
