-- Purpose: LLMs, phases and dtypes that have points under a roof of their device, those measured most first.
-- Grain: one LLM, phase, dtype and device.
-- Parameters: none.
SELECT
    points.llm_id, coalesce(any_value(points.llm_name), points.llm_id) AS llm_name, points.phase, points.dtype, points.hardware_id,
    count(*) FILTER (WHERE points.source_kind = 'measured') AS num_measured,
    count(*) FILTER (WHERE points.source_kind IN ('measured', 'published')) AS num_observed,
    count(*) AS num_runs
FROM roofline_points AS points
JOIN roofs ON roofs.hardware_id = points.hardware_id AND roofs.dtype = points.roof_dtype
WHERE points.llm_id IS NOT NULL AND NOT points.is_excluded
GROUP BY points.llm_id, points.phase, points.dtype, points.hardware_id
ORDER BY num_measured DESC, num_observed DESC, num_runs DESC, points.llm_id, points.phase, points.dtype, points.hardware_id
