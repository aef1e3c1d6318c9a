-- Purpose: the lake in a few lines, for `rooflake status`.
-- Grain: one source kind.
SELECT
    source_kind,
    count(*) AS num_runs,
    count_if(status <> 'ok') AS num_failed,
    count(DISTINCT llm_id) AS num_llms,
    count(DISTINCT hardware_id) AS num_devices
FROM runs
GROUP BY source_kind
ORDER BY source_kind
