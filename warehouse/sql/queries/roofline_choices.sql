-- Purpose: LLMs, phases and dtypes that have points under a roof.
-- Grain: one LLM, phase, dtype and device.
-- Parameters: none.
SELECT
    llm_id, coalesce(any_value(llm_name), llm_id) AS llm_name, phase, dtype, hardware_id,
    count(*) FILTER (WHERE source_kind IN ('measured', 'published')) AS num_observed,
    count(*) AS num_runs
FROM comparable
WHERE llm_id IS NOT NULL AND hardware_id IS NOT NULL AND latency_s > 0 AND NOT is_excluded
GROUP BY llm_id, phase, dtype, hardware_id
ORDER BY num_observed DESC, num_runs DESC, llm_id
