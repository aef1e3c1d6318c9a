-- Purpose: what is in the lake by source kind and collector, and how fresh it is.
-- Grain: one source kind and collector.
-- Parameters: none.
SELECT
    source_kind,
    collector,
    count(*) AS num_runs,
    count(DISTINCT llm_id) AS num_llms,
    count(DISTINCT hardware_id) AS num_devices,
    count(DISTINCT config_id) AS num_configs,
    count(*) FILTER (WHERE status <> 'ok') AS num_failed,
    count(*) FILTER (WHERE is_excluded) AS num_excluded,
    max(collected_at) AS last_collected_at
FROM runs
GROUP BY ALL
ORDER BY source_kind, num_runs DESC
