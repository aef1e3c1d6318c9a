-- Purpose: which LLM has rows on which device, by source kind.
-- Grain: one LLM, device and source kind.
-- Parameters: $source_kind, NULL for every kind.
SELECT
    llm_id,
    hardware_id,
    coalesce(any_value(llms.name), llm_id) AS llm_name,
    coalesce(any_value(hardware.name), hardware_id) AS hardware_name,
    source_kind,
    count(*) AS num_runs,
    count(*) FILTER (WHERE status <> 'ok') AS num_failed
FROM runs
LEFT JOIN llms USING (llm_id)
LEFT JOIN hardware USING (hardware_id)
WHERE llm_id IS NOT NULL
    AND hardware_id IS NOT NULL
    AND ($source_kind::VARCHAR IS NULL OR source_kind = $source_kind::VARCHAR)
GROUP BY llm_id, hardware_id, source_kind
ORDER BY llm_id, hardware_id, source_kind
